//! Who may ask: under a name of this machine, no more than others leave room for, and with a session or a token for all
//! but health, signing in and the page's files. This is the only place that decides.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, timeout, timeout_at};

use futures_util::{StreamExt as _, stream};

use super::access::Session;
use super::problem::Problem;
use super::serve::Peer;
use super::source::Source;
use super::{Web, page};
use crate::model::{Actor, Digest};
use crate::store::{Bearer, Role, Scope};

/// Bytes of path and query.
const ADDRESS_LENGTH: usize = 2_048;

/// A body must have come in this time. The longest that a route takes is some hundred kilobytes.
const BODY_TIME: Duration = Duration::from_secs(60);
/// What is refused is read on so far and so long, so that its answer is seen.
const REST_LENGTH: usize = 1 << 20;
const REST_TIME: Duration = Duration::from_secs(5);

/// The page loads nothing from elsewhere, runs no inline script or style, and stands in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the page has no use for is off, should it ever be led astray.
const USES: &str = "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), hid=(), \
    magnetometer=(), microphone=(), midi=(), payment=(), serial=(), usb=()";

/// `Strict-Transport-Security` is not among them: it holds for every port of the machine, and takes away the way past a
/// warning by which a self-signed certificate is accepted (docs/decisions/0012-tls.md).
const SAFETY: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), USES),
];

/// Goes around every route.
pub async fn limits(State(web): State<Web>, request: Request, next: Next) -> Response {
    let fault = if request.uri().path_and_query().is_some_and(|address| address.as_str().len() > ADDRESS_LENGTH) {
        Some(Problem::TooLong(ADDRESS_LENGTH))
    } else {
        let strange = || origin_fault(&web, &request).or_else(|| set_up_fault(&web, &request));
        web.hosts.of(&request).err().or_else(|| too_many(&web, &request)).or_else(strange)
    };
    let mut response = match fault {
        Some(problem) => problem.into_response(),
        None => {
            let rest = Rest::default();
            let response = next.run(request.map(|body| patient(body, BODY_TIME, rest.clone()))).await;
            rest.read().await;
            response
        }
    };
    let headers = response.headers_mut();
    for (name, value) in SAFETY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// One request more than its source may make now.
fn too_many(web: &Web, request: &Request) -> Option<Problem> {
    let peer = request.extensions().get::<Peer>()?;
    let path = request.uri().path();
    // Scrapers, auditors and browsers fetch these; none of them costs much.
    let is_public = path == "/api/health" || path.starts_with("/log/") || page::has(path);
    let is_strange = !is_public && !is_known(web, request.headers());
    let wait = web.visitors.request(peer.source, is_strange, Instant::now()).err()?;
    Some(Problem::TooMany { again: u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1) })
}

/// Whether somebody who is known here asks, whatever they may do.
fn is_known(web: &Web, headers: &HeaderMap) -> bool {
    shown(headers).is_ok_and(|shown| {
        let (Shown::Bearer(token) | Shown::Cookie(token)) = &shown;
        let has_session = || web.views.gate.session(&Digest::of(token.as_bytes()), false).is_some();
        has_session() || matches!(&shown, Shown::Bearer(token) if web.views.reader.scope_of(token).is_some())
    })
}

/// The body, as long as it comes in time. What nobody wanted of it is left in `rest`.
fn patient(body: Body, patience: Duration, rest: Rest) -> Body {
    if body.size_hint().exact() == Some(0) {
        return body;
    }
    let deadline = tokio::time::Instant::now() + patience;
    let lent = Lent { parts: Some(body.into_data_stream()), rest };
    let parts = stream::unfold(lent, move |mut lent| async move {
        match timeout_at(deadline, lent.parts.as_mut()?.next()).await {
            Ok(Some(part)) => Some((part, lent)),
            Ok(None) => {
                drop(lent.parts.take());
                None
            }
            Err(late) => {
                drop(lent.parts.take());
                Some((Err(axum::Error::new(late)), lent))
            }
        }
    });
    Body::from_stream(parts)
}

/// What a refusal has left unread of a body: a client that still writes when the connection is closed never sees the answer.
#[derive(Clone, Default)]
struct Rest(Arc<Mutex<Option<BodyDataStream>>>);

impl Rest {
    /// Reads it, as far as somebody may have sent it by mistake.
    async fn read(self) {
        let Some(mut parts) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let all = async {
            let mut read = 0;
            while let Some(Ok(part)) = parts.next().await {
                read += part.len();
                if read > REST_LENGTH {
                    break;
                }
            }
        };
        // Whoever is slower is cut off.
        drop(timeout(REST_TIME, all).await);
    }
}

/// The parts of a body while somebody reads them.
struct Lent {
    parts: Option<BodyDataStream>,
    rest: Rest,
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.rest.0.lock().unwrap_or_else(PoisonError::into_inner) = self.parts.take();
    }
}

/// The cookie of a session.
pub const COOKIE: &str = "meterseal_session";
/// What an unsafe request that comes by cookie must bear.
const CSRF: HeaderName = HeaderName::from_static("x-csrf-token");
/// A request that bears it does not keep a session alive: a page asks so while nobody touches it.
const PEEK: HeaderName = HeaderName::from_static("x-peek");

/// Who asks.
pub struct Caller {
    /// `admin` or `viewer` for a session, else the token's name.
    name: String,
    scope: Scope,
    is_session: bool,
}

impl Caller {
    fn reads(&self) -> bool {
        reads(self.scope)
    }

    fn may_not(&self, problem: Problem) -> Problem {
        if self.is_session { Problem::Viewer } else { problem }
    }

    fn actor(self, parts: &Parts) -> Result<Actor, Problem> {
        let Sender(source) = Sender::of(parts)?;
        Ok(Actor { name: self.name, source: Some(source) })
    }
}

/// What a request shows of who sends it.
#[derive(Clone)]
enum Shown {
    /// In the header, as programs do.
    Bearer(String),
    /// By a browser on its own, whoever made it send the request.
    Cookie(String),
}

/// Whether readings and blocks are for this scope: what those who export need to see is none.
pub fn reads(scope: Scope) -> bool {
    matches!(scope, Scope::Read | Scope::Admin)
}

/// Goes around every route that needs somebody who may read.
pub async fn signed_in(State(web): State<Web>, request: Request, next: Next) -> Result<Response, Problem> {
    let caller = caller(&web, request.method(), request.headers())?;
    if caller.reads() { Ok(next.run(request).await) } else { Err(Problem::Scope) }
}

/// Goes around routes for those who export: what they need to see is no reading.
pub async fn known(State(web): State<Web>, request: Request, next: Next) -> Result<Response, Problem> {
    let caller = caller(&web, request.method(), request.headers())?;
    if caller.scope == Scope::Ingest { Err(Problem::Scope) } else { Ok(next.run(request).await) }
}

/// Goes around every route that is an admin's alone.
pub async fn admin(State(web): State<Web>, request: Request, next: Next) -> Result<Response, Problem> {
    let caller = caller(&web, request.method(), request.headers())?;
    if caller.scope == Scope::Admin { Ok(next.run(request).await) } else { Err(caller.may_not(Problem::AdminScope)) }
}

/// Who asks, where a browser was not made to ask by another page.
pub fn caller(web: &Web, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
    if is_unsafe(method) && matches!(shown(headers)?, Shown::Cookie(_)) {
        let session = session_of(web, headers, false)?;
        let token = headers.get(CSRF).map_or(&b""[..], HeaderValue::as_bytes);
        if !bool::from(token.ct_eq(session.csrf.as_bytes())) {
            return Err(Problem::Csrf);
        }
    }
    who(web, headers)
}

/// What whoever connects a WebSocket may do; each message is looked at by itself. A browser sends the cookie with it
/// whichever page connects, and no CSRF token.
pub fn may_connect(web: &Web, headers: &HeaderMap, peer: &Peer) -> Result<Scope, Problem> {
    if matches!(shown(headers)?, Shown::Cookie(_)) && !is_ours(web, headers, Some(peer)) {
        return Err(Problem::Origin);
    }
    who(web, headers).map(|caller| caller.scope)
}

/// Whether somebody who may read asks.
pub fn may_read(web: &Web, headers: &HeaderMap) -> Result<(), Problem> {
    if who(web, headers)?.reads() { Ok(()) } else { Err(Problem::Scope) }
}

/// Somebody who may do more than read, as the record names them.
pub struct Admin(pub Actor);

impl FromRequestParts<Web> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, web: &Web) -> Result<Self, Problem> {
        let caller = who(web, &parts.headers)?;
        if caller.scope != Scope::Admin {
            return Err(caller.may_not(Problem::AdminScope));
        }
        Ok(Self(caller.actor(parts)?))
    }
}

/// Somebody who may order exports and have their bundles, as the record names them.
pub struct Exporter(pub Actor);

impl FromRequestParts<Web> for Exporter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, web: &Web) -> Result<Self, Problem> {
        let caller = who(web, &parts.headers)?;
        if !matches!(caller.scope, Scope::Export | Scope::Admin) {
            return Err(caller.may_not(Problem::ExportScope));
        }
        Ok(Self(caller.actor(parts)?))
    }
}

/// Where a request comes from, as the record names it.
pub struct Sender(pub String);

impl Sender {
    fn of(parts: &Parts) -> Result<Self, Problem> {
        let peer: &Peer = parts.extensions.get().ok_or(Problem::Stopping)?;
        Ok(Self(peer.source.to_string()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Sender {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts)
    }
}

fn who(web: &Web, headers: &HeaderMap) -> Result<Caller, Problem> {
    let shown = shown(headers)?;
    let (Shown::Bearer(token) | Shown::Cookie(token)) = &shown;
    if let Some(session) = web.views.gate.session(&Digest::of(token.as_bytes()), !headers.contains_key(PEEK)) {
        let role = session.role;
        return Ok(Caller { name: role.as_str().to_owned(), scope: role.scope(), is_session: true });
    }
    match shown {
        Shown::Cookie(_) => Err(Problem::SessionOver),
        Shown::Bearer(token) => match web.views.reader.bearer_of(&token) {
            Some(Bearer { name, scope }) => Ok(Caller { name, scope, is_session: false }),
            None => Err(Problem::UnknownToken),
        },
    }
}

/// The session of a request; `seen` counts as activity.
pub fn session_of(web: &Web, headers: &HeaderMap, seen: bool) -> Result<Session, Problem> {
    let seen = seen && !headers.contains_key(PEEK);
    web.views.gate.session(&session_token(headers)?, seen).ok_or(Problem::SessionOver)
}

/// The digest of what may be the token of a session.
pub fn session_token(headers: &HeaderMap) -> Result<Digest, Problem> {
    let (Shown::Bearer(token) | Shown::Cookie(token)) = shown(headers)?;
    Ok(Digest::of(token.as_bytes()))
}

/// What a request shows: the header, or else the cookie. Never taken from the address, which ends in logs and histories.
fn shown(headers: &HeaderMap) -> Result<Shown, Problem> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = shown.next() {
        if shown.next().is_some() {
            return Err(Problem::BadRequest("the request shows two tokens: show one".to_owned()));
        }
        let value = value.to_str().map_err(|_| Problem::NoToken)?;
        return match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                Ok(Shown::Bearer(token.trim().to_owned()))
            }
            _ => Err(Problem::NoToken),
        };
    }
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let own = pairs.find(|(name, value)| *name == COOKIE && !value.is_empty());
    own.map(|(_, value)| Shown::Cookie(value.to_owned())).ok_or(Problem::NoToken)
}

fn is_unsafe(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// A browser says which page had it send something. What bears a token in the header was sent by no such page.
fn origin_fault(web: &Web, request: &Request) -> Option<Problem> {
    let headers = request.headers();
    if !is_unsafe(request.method()) || headers.contains_key(header::AUTHORIZATION) {
        return None;
    }
    headers.get(header::ORIGIN)?;
    (!is_ours(web, headers, request.extensions().get())).then_some(Problem::Origin)
}

/// Whether the page that had it sent is one of this gateway.
fn is_ours(web: &Web, headers: &HeaderMap, peer: Option<&Peer>) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    // What comes in the clear may have come to a proxy here under TLS.
    let needs_tls = peer.is_some_and(|peer| peer.is_secure);
    origin.zip(text(header::HOST)).is_some_and(|((scheme, origin), host)| {
        (origin.eq_ignore_ascii_case(host) || web.hosts.has_page(origin))
            && (scheme == "https" || !needs_tls && scheme == "http")
    })
}

/// Until somebody has set a PIN, other machines are shown what is needed for that alone.
fn set_up_fault(web: &Web, request: &Request) -> Option<Problem> {
    let is_here = request.extensions().get::<Peer>().is_some_and(|peer| peer.source == Source::Here);
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let is_set_up = || web.views.reader.access().pin(Role::Admin).is_some();
    (!is_here && waits_for_set_up(request.uri().path(), is_upgrade) && !is_set_up()).then_some(Problem::NoPinYet)
}

/// Whether other machines are not answered this before there is a PIN. All but the page's files, that is, and what
/// the page needs to set one.
fn waits_for_set_up(path: &str, is_upgrade: bool) -> bool {
    let is_file = page::has(path) && !is_upgrade;
    !is_file && !matches!(path, "/api/health" | "/api/setup")
}

/// Tells a feed when whoever listens may not any more.
pub struct Watch {
    web: Web,
    shown: Shown,
    sessions: watch::Receiver<u64>,
    access: watch::Receiver<u64>,
    beat: Interval,
}

/// Idle sessions of feeds are noticed this often, and what was ended at once.
const WATCHED: Duration = Duration::from_secs(5);

impl Watch {
    pub fn new(web: &Web, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut beat = tokio::time::interval(WATCHED);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (sessions, access) = (web.views.gate.ended(), web.views.reader.access_changed());
        Ok(Self { web: web.clone(), shown: shown(headers)?, sessions, access, beat })
    }

    /// Resolves when it has ended, with what is to be said of that. Listening is no activity: a page that lies open
    /// listens for ever.
    pub async fn ended(&mut self) -> &'static str {
        loop {
            tokio::select! {
                Ok(()) = self.sessions.changed() => {}
                Ok(()) = self.access.changed() => {}
                _ = self.beat.tick() => {}
            }
            let (Shown::Bearer(token) | Shown::Cookie(token)) = &self.shown;
            if self.web.views.gate.session(&Digest::of(token.as_bytes()), false).is_some() {
                continue;
            }
            match &self.shown {
                Shown::Cookie(_) => return "the session is over",
                Shown::Bearer(token) if self.web.views.reader.scope_of(token).is_none() => {
                    return "the token was revoked, or its session is over";
                }
                Shown::Bearer(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up() {
        let parts = stream::unfold(0_u8, |at| async move {
            tokio::time::sleep(Duration::from_secs(25)).await;
            (at < 4).then_some((Ok::<_, axum::Error>(vec![at]), at + 1))
        });
        let late = axum::body::to_bytes(patient(Body::from_stream(parts), BODY_TIME, Rest::default()), 100).await;
        assert!(late.is_err());
        let whole = axum::body::to_bytes(patient(Body::from("all"), BODY_TIME, Rest::default()), 100).await.unwrap();
        assert_eq!(whole, "all");
    }

    #[test]
    fn before_there_is_a_pin_others_see_the_page_and_set_it_up() {
        for open in ["/", "/page.css", "/api/health", "/api/setup"] {
            assert!(!waits_for_set_up(open, false), "{open}");
        }
        let document = super::super::openapi::described::described(super::super::routes());
        let routes = document["paths"].as_object().unwrap();
        let mut open: Vec<_> = routes.keys().filter(|path| !waits_for_set_up(path, false)).collect();
        open.sort();
        assert_eq!(open, ["/api/health", "/api/setup"]);
        assert!(waits_for_set_up("/", true), "the live protocol is no file");
    }

    #[test]
    fn a_token_comes_in_the_header_of_rfc_6750() {
        let token_of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            match shown(&headers) {
                Ok(Shown::Bearer(token)) => Some(token),
                _ => None,
            }
        };
        assert_eq!(token_of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token_of("bearer  abc").as_deref(), Some("abc"));
        for bad in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(token_of(bad), None, "{bad}");
        }
    }
}
