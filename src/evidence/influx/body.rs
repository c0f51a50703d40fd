//! Requests and the bytes of their answers: TLS, credentials, gzip, time limits, and what a status means.

use std::io::{self, Write as _};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use flate2::write::MultiGzDecoder;
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url, header, redirect};
use serde::Deserialize;
use tokio::time::timeout;

use super::error::{judged, shortened};
use super::{Connection, InfluxError, Server};
use crate::model::{causes, unreached};

/// A TCP and TLS handshake.
const CONNECTING: Duration = Duration::from_secs(10);
/// What is read of an answer that only says what went wrong, or that is one small object.
const SMALL: usize = 1 << 20;

/// Packed bytes that are unpacked at once: they may become a thousand times as much.
const PACKED: usize = 4 << 10;

/// Sends to one server.
#[derive(Clone)]
pub struct Http {
    pub connection: Arc<Connection>,
    client: Client,
}

/// Whether a request bears the credentials.
#[derive(Clone, Copy, PartialEq)]
pub enum As {
    Configured,
    Anybody,
}

impl Http {
    pub fn new(connection: &Connection) -> Result<Self, InfluxError> {
        let name = &connection.name;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // An error says that another task was first, which serves as well.
            rustls::crypto::ring::default_provider().install_default().ok();
        }
        let mut client = Client::builder()
            .connect_timeout(CONNECTING)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("meterseal/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &connection.ca {
            let no_certificate = || InfluxError::wrong(name, "the `ca` file holds no certificate in PEM");
            let authorities = Certificate::from_pem_bundle(pem).map_err(|_| no_certificate())?;
            if authorities.is_empty() {
                return Err(no_certificate());
            }
            client = client.tls_certs_only(authorities);
        }
        let client = client.build().map_err(|error| InfluxError::wrong(name, without_address(error)))?;
        let http = Self { connection: Arc::new(connection.clone()), client };
        http.address("/").map(|_| http)
    }

    fn address(&self, path: &str) -> Result<Url, InfluxError> {
        let text = format!("{}{path}", self.connection.url);
        Url::parse(&text).map_err(|_| self.wrong(format!("{} is no URL", self.connection.url)))
    }

    pub fn get(&self, path: &str, who: As) -> Result<RequestBuilder, InfluxError> {
        Ok(self.request(Method::GET, self.address(path)?, who))
    }

    pub fn post_json(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
        body: &serde_json::Value,
        who: As,
    ) -> Result<RequestBuilder, InfluxError> {
        let mut address = self.address(path)?;
        if !parameters.is_empty() {
            address.query_pairs_mut().extend_pairs(parameters);
        }
        let request = self.request(Method::POST, address, who).header(header::CONTENT_TYPE, "application/json");
        Ok(request.body(body.to_string()))
    }

    /// Parameters go into the body: addresses end in logs.
    pub fn post_form(&self, path: &str, parameters: &[(&str, &str)], who: As) -> Result<RequestBuilder, InfluxError> {
        let address = self.address(path)?;
        let mut encoded = address.clone();
        encoded.query_pairs_mut().clear().extend_pairs(parameters);
        let body = encoded.query().unwrap_or_default().to_owned();
        let form = "application/x-www-form-urlencoded";
        Ok(self.request(Method::POST, address, who).header(header::CONTENT_TYPE, form).body(body))
    }

    fn request(&self, method: Method, address: Url, who: As) -> RequestBuilder {
        let request = self.client.request(method, address).header(header::ACCEPT_ENCODING, "gzip");
        if who == As::Anybody {
            return request;
        }
        match &self.connection.server {
            Server::One { login: Some(login), .. } => request.basic_auth(&login.username, Some(&login.password.0)),
            Server::Two { token, .. } => request.header(header::AUTHORIZATION, format!("Token {}", token.0)),
            Server::Three { token: Some(token), .. } => request.bearer_auth(&token.0),
            Server::One { login: None, .. } | Server::Three { token: None, .. } => request,
        }
    }

    /// Sends, and gives the body of an answer that says that all is well so far.
    pub async fn answer(&self, request: Result<RequestBuilder, InfluxError>) -> Result<Body, InfluxError> {
        let (status, body) = self.sent(request?).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(self.refusal(status, body).await)
    }

    /// An answer that is small, whatever it says; also its headers.
    pub async fn small(
        &self,
        request: Result<RequestBuilder, InfluxError>,
    ) -> Result<(StatusCode, header::HeaderMap, Vec<u8>), InfluxError> {
        let (status, body) = self.sent(request?).await?;
        let headers = body.headers.clone();
        Ok((status, headers, body.whole().await?))
    }

    /// Whether a request that bears no credentials is answered rather than refused.
    pub async fn is_answered(&self, request: Result<RequestBuilder, InfluxError>) -> Result<bool, InfluxError> {
        let (status, body) = self.sent(request?).await?;
        match status.as_u16() {
            200..=299 => Ok(true),
            401 | 403 => Ok(false),
            _ => Err(self.refusal(status, body).await),
        }
    }

    async fn sent(&self, request: RequestBuilder) -> Result<(StatusCode, Body), InfluxError> {
        let patience = self.connection.patience;
        let response = match timeout(patience, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.lost("cannot be asked", error)),
            Err(_) => {
                let why = format!("the server did not begin to answer within {patience:?}; ask for a shorter time");
                return Err(InfluxError::smaller(&self.connection.name, why));
            }
        };
        let status = response.status();
        Ok((status, Body::new(self.clone(), response)?))
    }

    /// What an answer without success asks of the caller.
    async fn refusal(&self, status: StatusCode, body: Body) -> InfluxError {
        let name = &self.connection.name;
        let header = |name| body.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let seconds = header(header::RETRY_AFTER).and_then(|value| value.trim().parse().ok());
        let location = header(header::LOCATION);
        let told = match body.whole().await {
            Ok(bytes) => told(&bytes),
            Err(error) => format!("and then: {error}"),
        };
        let retry_after = seconds.map(Duration::from_secs);
        self.judged_status(status, location, retry_after, &told).unwrap_or_else(|| judged(name, &told))
    }

    fn judged_status(
        &self,
        status: StatusCode,
        location: Option<String>,
        retry_after: Option<Duration>,
        told: &str,
    ) -> Option<InfluxError> {
        let connection = self.connection.name.clone();
        let said = if told.is_empty() { status.to_string() } else { format!("{status}: {told}") };
        Some(match status.as_u16() {
            300..=399 => {
                let to = location.unwrap_or_default();
                let to = shortened(to.split('?').next().unwrap_or_default());
                self.wrong(format!("the server sends us on to {to:?}; give the address itself as `url`"))
            }
            401 => {
                InfluxError::Refused { connection, why: format!("the server answers {said}; correct the credentials") }
            }
            403 => InfluxError::Refused {
                connection,
                why: format!("the server answers {said}; the credentials may not read this"),
            },
            413 | 422 | 504 => {
                InfluxError::Smaller { connection, why: format!("the server answers {said}; ask for a shorter time") }
            }
            408 | 429 | 502 | 503 => InfluxError::Passing {
                connection,
                why: format!("the server answers {said}; ask again later"),
                retry_after,
            },
            404 if told.is_empty() || self.connection.server.version() == 1 => {
                self.wrong(format!("the server answers {said}; are `url` and `version` right?"))
            }
            404 => InfluxError::Unknown { connection, why: format!("the server answers {said}; correct the name") },
            500.. => match judged(&connection, told) {
                InfluxError::Wrong { .. } => {
                    InfluxError::Passing { connection, why: format!("the server answers {said}"), retry_after }
                }
                told => told,
            },
            _ if told.is_empty() => self.wrong(format!("the server answers {said}; are `url` and `version` right?")),
            _ => return None,
        })
    }

    /// A connection that did not come about, or was lost.
    fn lost(&self, what: &str, error: reqwest::Error) -> InfluxError {
        let (untrusted, words) = (is_of_tls(&error), unreached(&error));
        if let Some(words) = words {
            return InfluxError::passing(&self.connection.name, format!("the server {words}"));
        }
        let why = without_address(error);
        if untrusted {
            return self.wrong(format!("the server {what}: {why}; give the authority of its certificate as `ca`"));
        }
        InfluxError::passing(&self.connection.name, format!("the server {what}: {why}"))
    }

    pub fn wrong(&self, why: impl Into<String>) -> InfluxError {
        InfluxError::wrong(&self.connection.name, why)
    }
}

/// The bytes of an answer while they arrive, unpacked.
pub struct Body {
    http: Http,
    pub headers: header::HeaderMap,
    response: Response,
    packed: Option<Packed>,
    begun: bool,
    ended: bool,
}

impl Body {
    fn new(http: Http, response: Response) -> Result<Self, InfluxError> {
        let headers = response.headers().clone();
        let packed = match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => None,
            // Servers and proxies say this of answers without a body too: there is nothing to unpack.
            Some(b"gzip") if response.status() == StatusCode::NO_CONTENT => None,
            Some(b"gzip") => Some(Packed::default()),
            Some(_) => {
                return Err(http.wrong("the answer is packed in a way that was not asked for; is there a proxy?"));
            }
        };
        let bounded = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
        // An answer that ends with its connection cannot be told from one cut short; gzip has an end of its own.
        if !bounded && packed.is_none() && response.status() != StatusCode::NO_CONTENT {
            return Err(http.wrong("the answer does not say where it ends; is there an old proxy in between?"));
        }
        Ok(Self { http, headers, response, packed, begun: false, ended: false })
    }

    /// The next bytes; `None` after the last, if the answer is whole.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, InfluxError> {
        while !self.ended {
            let waits = self.packed.as_ref().is_some_and(Packed::waits);
            let bytes = if waits { self.unpacked()? } else { self.arrived().await? };
            if bytes.is_empty() {
                continue;
            }
            if !self.begun && bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<') {
                let why =
                    "the answer is a page, not data; is `url` that of InfluxDB, or of a login or proxy before it?";
                return Err(self.http.wrong(why));
            }
            self.begun = true;
            return Ok(Some(bytes));
        }
        Ok(None)
    }

    /// What comes next, or the beginning of it if it is packed; nothing at the end.
    async fn arrived(&mut self) -> Result<Vec<u8>, InfluxError> {
        let patience = self.http.connection.patience;
        let bytes = match timeout(patience, self.response.chunk()).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(self.http.lost("broke its answer off", error)),
            Err(_) => {
                let why = format!("the server stopped in its answer for {patience:?}");
                return Err(InfluxError::passing(&self.http.connection.name, why));
            }
        };
        self.ended = bytes.is_none();
        let bytes = bytes.map(Vec::from).unwrap_or_default();
        let Some(packed) = &mut self.packed else { return Ok(bytes) };
        packed.came(bytes);
        self.unpacked()
    }

    fn unpacked(&mut self) -> Result<Vec<u8>, InfluxError> {
        let Some(packed) = &mut self.packed else { return Ok(Vec::new()) };
        let unpacked = if self.ended { packed.rest() } else { packed.some() };
        unpacked.map_err(|error| {
            let why = format!("the packed answer is torn or cut short: {error}");
            InfluxError::passing(&self.http.connection.name, why)
        })
    }

    /// The beginning of a body that should be small.
    async fn whole(mut self) -> Result<Vec<u8>, InfluxError> {
        let mut whole = Vec::new();
        while whole.len() < SMALL
            && let Some(bytes) = self.response_piece().await?
        {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }

    /// As [`Body::next`], pages too: in an answer without success they are no surprise.
    async fn response_piece(&mut self) -> Result<Option<Vec<u8>>, InfluxError> {
        self.begun = true;
        self.next().await
    }
}

/// An answer in gzip, unpacked piece by piece.
struct Packed {
    decoder: MultiGzDecoder<Vec<u8>>,
    arrived: Vec<u8>,
    /// How much of `arrived` is unpacked.
    done: usize,
}

impl Default for Packed {
    fn default() -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()), arrived: Vec::new(), done: 0 }
    }
}

impl Packed {
    fn came(&mut self, bytes: Vec<u8>) {
        (self.arrived, self.done) = (bytes, 0);
    }

    /// Whether something that came is still to be unpacked.
    fn waits(&self) -> bool {
        self.done < self.arrived.len()
    }

    /// Unpacks some of what came.
    fn some(&mut self) -> io::Result<Vec<u8>> {
        let end = self.arrived.len().min(self.done + PACKED);
        self.decoder.write_all(&self.arrived[self.done..end])?;
        self.done = end;
        Ok(mem::take(self.decoder.get_mut()))
    }

    /// What is left when all has come.
    fn rest(&mut self) -> io::Result<Vec<u8>> {
        self.decoder.try_finish()?;
        Ok(mem::take(self.decoder.get_mut()))
    }
}

/// What a server says went wrong: `error` (1, 3) or `message` (2) of an object, or the beginning of a text.
pub fn told(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Told {
        error: Option<String>,
        message: Option<String>,
    }
    if let Ok(Told { error, message }) = serde_json::from_slice(bytes)
        && let Some(told) = message.or(error)
    {
        return shortened(&told);
    }
    let text = String::from_utf8_lossy(bytes);
    if text.trim_start().starts_with('<') { "a page, not data".to_owned() } else { shortened(&text) }
}

/// Whether it is TLS that did not come about: certificates do not mend themselves.
fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    // An I/O error does not name what it wraps as its source.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    error.is::<rustls::Error>()
        || wrapped.is_some_and(|wrapped| is_of_tls(wrapped))
        || error.source().is_some_and(is_of_tls)
}

/// The error and its causes, without the address.
fn without_address(error: reqwest::Error) -> String {
    shortened(&causes(&error.without_url()))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn little_is_unpacked_at_once_however_much_it_becomes() {
        let whole = 32 << 20;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b'0'; whole]).unwrap();
        let mut packed = Packed::default();
        packed.came(encoder.finish().unwrap());
        let (mut length, mut largest) = (0, 0);
        while packed.waits() {
            let piece = packed.some().unwrap();
            assert!(piece.iter().all(|byte| *byte == b'0'));
            (length, largest) = (length + piece.len(), largest.max(piece.len()));
        }
        assert_eq!(length + packed.rest().unwrap().len(), whole);
        assert!(largest > 1 << 20 && largest <= PACKED * 1_100, "{largest}");
    }
}
