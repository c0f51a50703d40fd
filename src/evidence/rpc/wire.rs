//! One question to a node, and what came back: JSON-RPC 2.0 over HTTP, bounded in size and time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode, Url, header, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::error::RpcError;
use crate::model::{causes, told, unreached};

/// A block of Polygon with all it holds has some MB at most.
const LARGEST: usize = 16 << 20;
/// A TCP and TLS handshake.
const CONNECTING: Duration = Duration::from_secs(10);
/// Parts of an address that are shorter are words rather than keys (`v2`, `polygon`), and stay readable in errors.
const SHORTEST_KEY: usize = 8;
/// By which providers say that we ask too much, over an answer that is well otherwise.
const TOO_MANY: [i64; 3] = [-32005, -32029, 429];

/// Why an address is none that a node can be asked at. Does not repeat it: it may bear a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address of an RPC {0}")]
pub struct BadAddress(&'static str);

/// The connections to all nodes. Making one reads the root certificates of the machine, which takes time and memory:
/// there is one for all nodes, and clones are the same one.
#[derive(Clone)]
pub struct Line(Client);

/// Why no node can be asked at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no node can be asked, since no root certificates were found: install them (package ca-certificates)")]
pub struct NoRoots;

impl Line {
    pub fn new() -> Result<Self, NoRoots> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // An error says that another task was first, which serves as well.
            rustls::crypto::ring::default_provider().install_default().ok();
        }
        let client = Client::builder()
            .connect_timeout(CONNECTING)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("meterseal/", env!("CARGO_PKG_VERSION")))
            .build();
        client.map(Self).map_err(|_| NoRoots)
    }
}

/// An address at which a node can be asked, as far as it can be told without asking.
pub fn address(text: &str) -> Result<Url, BadAddress> {
    let url = Url::parse(text.trim()).map_err(|_| BadAddress("is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(BadAddress("begins with neither https:// nor http://"));
    }
    match url.host_str() {
        Some(_) => Ok(url),
        None => Err(BadAddress("names no host")),
    }
}

/// Sends to one node.
#[derive(Clone)]
pub struct Wire {
    pub name: String,
    url: Url,
    /// What no text may bear.
    secrets: Arc<[String]>,
    timeout: Duration,
    client: Client,
    /// Of the last question.
    id: Arc<AtomicU64>,
}

#[derive(Serialize)]
struct Question<'a, P> {
    jsonrpc: &'a str,
    id: u64,
    method: &'a str,
    params: P,
}

/// `result` is there even if it is null, which says that a node does not know.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    #[serde(default)]
    message: String,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Wire {
    pub fn new(line: &Line, url: &str, timeout: Duration) -> Result<Self, BadAddress> {
        let url = address(url)?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let name = format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default());
        Ok(Self { name, secrets: secrets(&url), url, timeout, client: line.0.clone(), id: Arc::default() })
    }

    /// Asks; the answer may be null, which is `None`. A large answer is given four times the time.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: impl Serialize,
        large: bool,
    ) -> Result<Option<T>, RpcError> {
        let patience = if large { self.timeout * 4 } else { self.timeout };
        let exchange = self.exchange(method, params);
        match timeout(patience, exchange).await {
            Ok(body) => {
                let (id, status, body) = body?;
                self.read(method, id, status, &body)
            }
            Err(_) => Err(self.unreachable(format!("did not answer {method} within {patience:?}"))),
        }
    }

    async fn exchange(
        &self,
        method: &'static str,
        params: impl Serialize,
    ) -> Result<(u64, StatusCode, Vec<u8>), RpcError> {
        let id = self.id.fetch_add(1, Ordering::Relaxed) + 1;
        let question = serde_json::to_vec(&Question { jsonrpc: "2.0", id, method, params })
            .map_err(|error| self.malformed(method, format!("the question cannot be written: {error}")))?;
        let request =
            self.client.post(self.url.clone()).header(header::CONTENT_TYPE, "application/json").body(question);
        let response = request.send().await.map_err(|error| self.unreachable(no_connection(error)))?;
        let status = response.status();
        Ok((id, status, self.body(method, response).await?))
    }

    async fn body(&self, method: &'static str, mut response: Response) -> Result<Vec<u8>, RpcError> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) if body.len() + bytes.len() > LARGEST => {
                    return Err(self.malformed(method, format!("more than {} MiB", LARGEST >> 20)));
                }
                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                Ok(None) => return Ok(body),
                Err(error) => {
                    return Err(self.unreachable(format!("broke its answer off: {}", causes(&error.without_url()))));
                }
            }
        }
    }

    fn read<T: DeserializeOwned>(
        &self,
        method: &'static str,
        id: u64,
        status: StatusCode,
        body: &[u8],
    ) -> Result<Option<T>, RpcError> {
        let answer = serde_json::from_slice::<Answer<'_>>(body);
        let later = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        if later || (answer.is_err() && !status.is_success()) {
            let words = match &answer {
                Ok(Answer { error: Some(refusal), .. }) => refusal.message.clone(),
                _ => words_of_a_page(body),
            };
            return Err(self.unreachable(answered(status, &self.told(&words))));
        }
        let answer = answer.map_err(|error| self.malformed(method, self.told(&error.to_string())))?;
        if let Some(Refusal { code, message }) = answer.error {
            let message = self.told(&message);
            if TOO_MANY.contains(&code) {
                return Err(self.unreachable(format!("has no time for us: {message} ({code}); ask again later")));
            }
            return Err(RpcError::Refused { rpc: self.name.clone(), method, code, message });
        }
        // Only an error may come without the id: of a question that could not be read.
        if answer.id.map(RawValue::get) != Some(id.to_string().as_str()) {
            return Err(self.malformed(method, "the answer is to another question".to_owned()));
        }
        let Some(result) = answer.result else {
            return Err(self.malformed(method, "neither a result nor an error".to_owned()));
        };
        serde_json::from_str(result.get()).map_err(|error| self.malformed(method, self.told(&error.to_string())))
    }

    fn told(&self, text: &str) -> String {
        told(text, &self.secrets)
    }

    pub fn unreachable(&self, why: String) -> RpcError {
        RpcError::Unreachable { rpc: self.name.clone(), why }
    }

    pub fn malformed(&self, method: &'static str, why: String) -> RpcError {
        RpcError::Malformed { rpc: self.name.clone(), method, why }
    }
}

/// Why a node could not be asked, with what to look at.
fn no_connection(error: reqwest::Error) -> String {
    let error = error.without_url();
    let text = causes(&error);
    match unreached(&error) {
        Some(words) => words.to_owned(),
        _ if error.is_timeout() => NO_CONNECTION_IN_TIME.to_owned(),
        _ if text.contains("InvalidContentType") => {
            "speaks no TLS at this port: is the address one of http://?".to_owned()
        }
        _ if text.contains("certificate") => {
            format!("shows a certificate that is not accepted; are the address and the clock right? ({text})")
        }
        _ => format!("cannot be asked: {text}"),
    }
}

const NO_CONNECTION_IN_TIME: &str =
    "takes no connection in time: is there a line to it, and does a firewall let it through?";

/// What an answer that is no JSON-RPC says, with the remedy where there is one.
fn answered(status: StatusCode, words: &str) -> String {
    let remedy = match status.as_u16() {
        300..=399 => "; give the address that it sends on to",
        401 | 403 | 404 | 405 => "; is the address right, and the key in it?",
        408 | 429 | 500.. => "; ask again later",
        _ => "",
    };
    let words = if words.is_empty() { String::new() } else { format!(": {words}") };
    format!("answers {status}{words}{remedy}")
}

fn words_of_a_page(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 << 10)]);
    if text.trim_start().starts_with('<') { "a page".to_owned() } else { text.into_owned() }
}

/// The parts of an address that are likely keys, as they stand in it and as they are meant (`%2B` is `+`); the longest
/// first, since one may hold another.
fn secrets(url: &Url) -> Arc<[String]> {
    let query = url.query().unwrap_or_default().split('&');
    let query = query.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
    let parts = url.path().split('/').chain(query).chain([url.username()]);
    let parts = parts.filter(|part| part.len() >= SHORTEST_KEY);
    // A password is one however short it is.
    let raw: Vec<&str> = parts.chain(url.password()).filter(|secret| !secret.is_empty()).collect();
    let meant = raw.iter().flat_map(|text| [decoded(text), decoded(&text.replace('+', " "))]);
    let mut all: Vec<String> = raw.iter().map(|text| (*text).to_owned()).chain(meant).collect();
    all.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    all.dedup();
    all.into()
}

/// Without percent signs.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(url: &str) -> Wire {
        Wire::new(&Line::new().unwrap(), url, Duration::from_secs(1)).unwrap()
    }

    fn read(status: u16, body: &str) -> Result<Option<u64>, RpcError> {
        wire("http://node:8545").read("eth_chainId", 7, StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn a_name_bears_no_key() {
        for (url, name) in [
            ("https://polygon.example/v2/0123456789abcdef?key=k", "https://polygon.example"),
            ("http://me:secret@[::1]:8545/", "http://[::1]:8545"),
        ] {
            assert_eq!(wire(url).name, name);
        }
        for bad in ["", "node:8545", "ws://node", "file:///x", "http://"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_text_bears_a_key() {
        for (url, text, told) in [
            ("https://me:secret@node/v2/0123456789abcdef", "0123456789abcdef v2 secret me", "*** v2 *** me"),
            ("https://node/rpc/k3yk3y78/polygon", "/rpc/k3yk3y78/polygon", "/rpc/***/polygon"),
            ("https://node/?v=2&key=0123456789ab", "2 of 22: 0123456789ab", "2 of 22: ***"),
            ("https://node/?key=ab%2Bcd%2Fef01", "ab%2Bcd%2Fef01 and ab+cd/ef01", "*** and ***"),
            ("https://node/?key=two+words+here", "two+words+here and two words here", "*** and ***"),
            ("https://node/k%C3%A4y-of-mine", "käy-of-mine, k%C3%A4y-of-mine", "***, ***"),
            ("https://0123456789ab@node", "0123456789ab", "***"),
            ("https://u:p%40ss@node", "p@ss p%40ss", "*** ***"),
            ("https://node/?key=100%25%zz%2", "100%%zz%2", "***"),
            // One key within another.
            ("https://node/abcdefgh/abcdefghijkl", "abcdefghijkl abcdefgh", "*** ***"),
        ] {
            assert_eq!(wire(url).told(text), told, "{url}");
        }
    }

    #[tokio::test]
    async fn a_port_without_a_node_is_told_in_plain_words() {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let refused = wire(&format!("http://127.0.0.1:{port}")).ask::<u64>("eth_chainId", (), false).await.unwrap_err();
        let text = format!("http://127.0.0.1:{port} refuses the connection: is it running, and the port right?");
        assert_eq!(refused.to_string(), text);
    }

    #[test]
    fn an_answer_is_a_result_to_this_question() {
        assert_eq!(read(200, r#"{"jsonrpc":"2.0","id":7,"result":137}"#), Ok(Some(137)));
        assert_eq!(read(200, r#"{"id":7,"result":null,"error":null}"#), Ok(None));
        for wrong in [
            r#"{"id":8,"result":1}"#,
            r#"{"id":"7","result":1}"#,
            r#"{"result":1}"#,
            r#"{"id":7}"#,
            r#"{"id":7,"result":"1"}"#,
            r#"[{"id":7,"result":1}]"#,
            "",
            "<html>",
        ] {
            assert!(matches!(read(200, wrong), Err(RpcError::Malformed { .. })), "{wrong}");
        }
    }

    #[test]
    fn errors_say_what_the_caller_can_do() {
        let refusal = r#"{"id":7,"error":{"code":-32000,"message":"nonce too low"}}"#;
        for status in [200, 400] {
            let error = read(status, refusal).unwrap_err();
            assert_eq!(error.to_string(), "http://node:8545 refuses eth_chainId: nonce too low (-32000)");
        }
        let limit = r#"{"id":null,"error":{"code":-32005,"message":"daily request count exceeded"}}"#;
        for (status, body, text) in [
            (429, limit, "answers 429 Too Many Requests: daily request count exceeded; ask again later"),
            (503, "overloaded\n", "answers 503 Service Unavailable: overloaded; ask again later"),
            (502, "<html>", "answers 502 Bad Gateway: a page; ask again later"),
            (404, "", "answers 404 Not Found; is the address right, and the key in it?"),
            (200, limit, "has no time for us: daily request count exceeded (-32005); ask again later"),
        ] {
            let error = read(status, body).unwrap_err();
            assert!(matches!(error, RpcError::Unreachable { .. }), "{error:?}");
            assert_eq!(error.to_string(), format!("http://node:8545 {text}"));
        }
    }
}
