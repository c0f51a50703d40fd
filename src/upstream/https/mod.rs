//! `https`: records as lines over HTTP to a receiver that does as docs/upstream-openapi.yaml says.

pub(super) mod answer;
mod body;

use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, StatusCode, Url, header, redirect};
use rustls::ClientConfig;
use serde::Serialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::answer::{Reply, Words};
use super::endpoint::{self, Endpoint};
use super::receiver::{Answer, Batch, Fault, NOTES, Opened, Receiver, Witness};
use super::tls;
use crate::model::note::SignedCheckpoint;
use crate::model::{Digest, Stream, causes, told, unreached};
use crate::store::Identity;

/// One `[[upstream]]` of this kind.
pub type Config = Endpoint;

/// An address that records can be sent to. It bears no secret, since it is shown.
pub fn address(text: &str) -> Result<Url, &'static str> {
    endpoint::address(text, ["http", "https"], "begins with neither https:// nor http://")
}

/// A TCP and TLS handshake.
const CONNECTING: Duration = Duration::from_secs(10);
/// Unacknowledged bytes end a connection after this long (tcp(7), TCP_USER_TIMEOUT).
const GONE_AFTER: Duration = Duration::from_secs(30);
/// A line that is slower than this many bytes a second is given up for the batch, and the next one is smaller.
pub(super) const SLOWEST: u64 = 2048;
/// Batches become smaller by half so many times at most, when they do not get through.
const HALVINGS: u32 = 6;
/// Of an answer, beside what a list in it needs.
const ANSWER: usize = 64 << 10;
/// Of an answer, for each record that may be rejected: the letters of `detail` may be escaped, at six bytes each.
const REJECTED: usize = 2 << 10;
/// Of an answer, for each note that may be held: its 4096 letters, and what is escaped of them.
const NOTE: usize = (4 << 10) + 256;

/// The other side.
pub struct HttpsReceiver {
    url: Url,
    /// Without a slash at its end.
    to: String,
    token: Option<Zeroizing<String>>,
    has_certificate: bool,
    tls: ClientConfig,
    timeout: Duration,
    client: Client,
    /// How often batches are halved now.
    halved: u32,
    /// And at least: the other side said that more is too large for it.
    too_large: u32,
}

impl HttpsReceiver {
    pub fn new(config: &Config) -> Result<Self, String> {
        config.check_token()?;
        let tls = tls::client(&config.tls)?;
        Ok(Self {
            url: config.url.clone(),
            to: config.to(),
            token: config.token.clone(),
            has_certificate: config.tls.identity.is_some(),
            client: connections(&tls)?,
            tls,
            timeout: config.timeout,
            halved: 0,
            too_large: 0,
        })
    }

    fn words(&self) -> Words<'_> {
        Words { to: &self.to, token: self.token.as_slice(), has_certificate: self.has_certificate }
    }

    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// Asks, and reads the answer whole: `length` bytes are sent, and at most `most` come back.
    async fn ask(&self, request: RequestBuilder, length: usize, most: usize) -> Result<Reply, Broken> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.as_str()),
            None => request,
        };
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let patience = self.timeout + Duration::from_secs(length / SLOWEST);
        let again = request.try_clone().filter(|_| length > 0);
        let mut answer = timeout(patience, exchange(request, most)).await;
        // A body that was cut off on its way gets the same answer as one that is wrong, which is so the second time as well.
        if let (Ok(Ok(Reply { status: StatusCode::BAD_REQUEST, .. })), Some(again)) = (&answer, again) {
            answer = timeout(patience, exchange(again, most)).await;
        }
        match answer {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(broken(&self.to, self.token.as_slice(), error)),
            Err(_) => Err(Broken::On(Fault::Away(format!("{} did not answer within {patience:?}", self.to)))),
        }
    }

    /// What batches may have from now on: the one that ended so took `took`.
    fn pace(&mut self, ended: &Ended, took: Duration) {
        match ended {
            Ended::TooLarge => {
                self.too_large = (self.too_large.max(self.halved) + 1).min(HALVINGS);
                self.halved = self.too_large;
            }
            Ended::Broken => self.halved = (self.halved + 1).min(HALVINGS),
            Ended::Taken if took < self.timeout / 4 => self.halved = self.halved.saturating_sub(1).max(self.too_large),
            Ended::Taken | Ended::Otherwise => {}
        }
    }
}

/// Why there is no answer.
pub(super) enum Broken {
    /// There was no connection.
    Before(Fault),
    /// On the way or over there.
    On(Fault),
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Before(fault) | Broken::On(fault) => fault,
        }
    }
}

/// What became of a batch, as far as the size of the next one goes.
enum Ended {
    Taken,
    TooLarge,
    Broken,
    Otherwise,
}

impl Receiver for HttpsReceiver {
    async fn open(&mut self, identity: &Identity) -> Result<Opened, Fault> {
        self.client = connections(&self.tls).map_err(Fault::Away)?;
        // It may take more by now; if not, it says so once.
        self.too_large = 0;
        let request = self.client.get(self.at(&[&identity.gateway, "checkpoints"]));
        let reply = self.ask(request, 0, ANSWER + NOTES * NOTE).await?;
        Ok(Opened { held: self.words().held(&reply, &identity.gateway)?, ..Opened::default() })
    }

    async fn witness(&mut self, witness: &Witness) -> Result<Option<SignedCheckpoint>, Fault> {
        #[derive(Serialize)]
        struct Told<'a> {
            note: String,
            old: u64,
            consistency: &'a [Digest],
        }
        let gateway = answer::gateway_of(&witness.checkpoint.checkpoint.origin);
        let told = Told { note: witness.checkpoint.note(), old: witness.old, consistency: &witness.consistency };
        let body = serde_json::to_vec(&told).map_err(|error| Fault::Away(error.to_string()))?;
        let length = body.len();
        let request = self.client.put(self.at(&[gateway, "checkpoint"]));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        let reply = self.ask(request, length, ANSWER).await?;
        self.words().witnessed(&reply, &witness.checkpoint)
    }

    async fn deliver(&mut self, batch: &Batch) -> Answer {
        let packed = match body::pack(batch).await {
            Ok(packed) => packed,
            Err(error) => return Answer { fault: Some(Fault::Away(error.to_string())), ..Answer::default() },
        };
        let length = packed.bytes.len();
        let url = self.at(&[&batch.identity.gateway, &batch.epoch, batch.stream.as_str()]);
        let request = self
            .client
            .post(url)
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header(header::CONTENT_ENCODING, "zstd")
            .header("idempotency-key", packed.key)
            .body(packed.bytes);
        let began = Instant::now();
        let (answer, ended) = match self.ask(request, length, ANSWER + batch.records.len() * REJECTED).await {
            Ok(reply) => {
                let answer = self.words().settled(&reply, batch);
                let ended = match &answer.fault {
                    None => Ended::Taken,
                    Some(Fault::TooLarge(_)) => Ended::TooLarge,
                    Some(_) => Ended::Otherwise,
                };
                (answer, ended)
            }
            Err(Broken::Before(fault)) => (Answer { fault: Some(fault), ..Answer::default() }, Ended::Otherwise),
            Err(Broken::On(fault)) => (Answer { fault: Some(fault), ..Answer::default() }, Ended::Broken),
        };
        self.pace(&ended, began.elapsed());
        answer
    }

    fn most(&self, stream: Stream) -> usize {
        let most = match stream {
            Stream::Readings | Stream::Minutes => 5_000,
            Stream::Blocks => 500,
            // With the evidence of their blocks.
            Stream::Anchors | Stream::Checkpoints => 20,
            Stream::Datasets | Stream::Alerts | Stream::Notices => 200,
        };
        (most >> self.halved).max(1)
    }

    fn knows_keys(&self) -> bool {
        true
    }
}

/// One connection that is kept, made when it is needed. Redirects are not followed: records and token go where the
/// config says.
pub(super) fn connections(tls: &ClientConfig) -> Result<Client, String> {
    Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .connect_timeout(CONNECTING)
        .tcp_user_timeout(GONE_AFTER)
        .pool_max_idle_per_host(1)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("meterseal/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| causes(&error))
}

pub(super) enum ExchangeError {
    Line(reqwest::Error),
    TooLong,
}

/// Asks, and reads an answer of at most `most` bytes.
pub(super) async fn exchange(request: RequestBuilder, most: usize) -> Result<Reply, ExchangeError> {
    let mut response = request.send().await.map_err(ExchangeError::Line)?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(ExchangeError::Line)? {
        if body.len() + bytes.len() > most {
            if status.is_success() {
                return Err(ExchangeError::TooLong);
            }
            // What such an answer means is in its status; the beginning of a page will do.
            break;
        }
        body.extend_from_slice(&bytes);
    }
    Ok(Reply { status, headers, body })
}

/// What that means of the receiver at `to`.
pub(super) fn broken(to: &str, token: &[Zeroizing<String>], error: ExchangeError) -> Broken {
    let error = match error {
        ExchangeError::TooLong => {
            let words = "answers with more than it may: is it one that takes what meterseal sends?";
            return Broken::On(Fault::Away(format!("{to} {words}")));
        }
        ExchangeError::Line(error) => error.without_url(),
    };
    let fault = match tls::told(&error) {
        Some(words) if tls::needs_a_person(&error) => Fault::Stopped(format!("{to} {words}")),
        Some(words) => Fault::Away(format!("{to} {words}")),
        None => Fault::Away(told(&format!("{to} {}", why(&error)), token)),
    };
    if error.is_connect() { Broken::Before(fault) } else { Broken::On(fault) }
}

/// Why there was no answer, with what to look at.
fn why(error: &reqwest::Error) -> String {
    const NO_CONNECTION: &str =
        "takes no connection in time: is there a line to it, and does a firewall let it through?";
    match unreached(error) {
        Some(words) => words.to_owned(),
        None if error.is_connect() && error.is_timeout() => NO_CONNECTION.to_owned(),
        None if error.is_connect() => format!("cannot be reached: {}", causes(error)),
        None => format!("broke the connection off: {}", causes(error)),
    }
}

#[cfg(test)]
mod tests;
