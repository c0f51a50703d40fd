//! Who may ask: loopback names only, and a token for all but health and the page's files.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Web;
use super::problem::Problem;
use crate::store::{Bearer, Scope};

/// Bytes of path and query.
const ADDRESS_LENGTH: usize = 2_048;

/// The page loads nothing from elsewhere, runs no inline script or style, and stands in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SAFETY: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Goes around every route.
pub async fn limits(request: Request, next: Next) -> Response {
    let fault = if request.uri().path_and_query().is_some_and(|address| address.as_str().len() > ADDRESS_LENGTH) {
        Some(Problem::TooLong(ADDRESS_LENGTH))
    } else {
        host_fault(&request)
    };
    let mut response = match fault {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in SAFETY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A page elsewhere whose name is made to resolve to 127.0.0.1 (DNS rebinding) still sends its own name as the host.
fn host_fault(request: &Request) -> Option<Problem> {
    let named = request.uri().authority().map(|authority| authority.as_str());
    let host = match named
        .map_or_else(|| request.headers().get(header::HOST).map(HeaderValue::to_str), |host| Some(Ok(host)))
    {
        Some(Ok(host)) => host,
        _ => return Some(Problem::BadRequest("the request names no host".into())),
    };
    (!is_loopback(host)).then(|| Problem::Host(host.chars().take(80).collect()))
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Goes around every route that needs a token.
pub async fn signed_in(State(web): State<Web>, request: Request, next: Next) -> Result<Response, Problem> {
    may_read(&web, request.headers())?;
    Ok(next.run(request).await)
}

/// Whether the bearer may read.
pub fn may_read(web: &Web, headers: &HeaderMap) -> Result<(), Problem> {
    match web.views.reader.scope_of(token(headers)?) {
        Some(Scope::Read | Scope::Admin) => Ok(()),
        Some(Scope::Ingest | Scope::Export) => Err(Problem::Scope),
        None => Err(Problem::UnknownToken),
    }
}

/// Goes around routes for those who export: what they need to see is no reading.
pub async fn known(State(web): State<Web>, request: Request, next: Next) -> Result<Response, Problem> {
    match web.views.reader.scope_of(token(request.headers())?) {
        Some(Scope::Read | Scope::Export | Scope::Admin) => Ok(next.run(request).await),
        Some(Scope::Ingest) => Err(Problem::Scope),
        None => Err(Problem::UnknownToken),
    }
}

/// Whether the bearer may do more than read; the token's name, for the record.
pub fn may_change(web: &Web, headers: &HeaderMap) -> Result<String, Problem> {
    match web.views.reader.bearer_of(token(headers)?) {
        Some(Bearer { name, scope: Scope::Admin }) => Ok(name.clone()),
        Some(_) => Err(Problem::AdminScope),
        None => Err(Problem::UnknownToken),
    }
}

/// Whether the bearer may order exports and have their bundles; the token's name, for the record.
pub fn may_export(web: &Web, headers: &HeaderMap) -> Result<String, Problem> {
    match web.views.reader.bearer_of(token(headers)?) {
        Some(Bearer { name, scope: Scope::Export | Scope::Admin }) => Ok(name.clone()),
        Some(_) => Err(Problem::ExportScope),
        None => Err(Problem::UnknownToken),
    }
}

/// The token of a request. Never taken from the address, which ends in logs and histories.
pub fn token(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or(Problem::NoToken)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => Ok(token.trim()),
        _ => Err(Problem::NoToken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        for host in ["localhost", "LOCALHOST:3001", "127.0.0.1", "127.0.0.1:3001", "127.8.0.1:1", "[::1]", "[::1]:3001"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", "plant.example", "127.0.0.1.example:3001", "192.0.2.1:3001", "[2001:db8::1]:3001", "localhost.example"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_token_comes_in_the_header_of_rfc_6750() {
        let token_of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token(&headers).map(ToOwned::to_owned).ok()
        };
        assert_eq!(token_of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token_of("bearer  abc").as_deref(), Some("abc"));
        for bad in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(token_of(bad), None, "{bad}");
        }
    }
}
