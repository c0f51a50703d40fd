//! The WebSocket that simulators and dashboards of an older backend know, put right: a reading counts once and for as
//! long as it speaks, the day and the peak hours are the site's, and what is acknowledged is durable.
//!
//! Every client has one task, which reads, answers and waits for what others have it told. It never reads more than it
//! can answer, so that a client that does not read is not read either, and is dropped when it stays silent.

mod client;
mod message;
mod row;
mod say;
mod socket;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::OnUpgrade;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::guard::Watch;
use super::problem::Problem;
use super::serve::Peer;
use super::{Web, guard};
use crate::model::{Introduction, Simulated, SimulatedReading, Simulator, SimulatorRefused};
use crate::store::Scope;
use client::{CLIENTS, Clients};
pub use say::old_snapshot;

/// Where an upgrade is answered.
const PATHS: [&str; 4] = ["/", "/ws", "/socket", "/websocket"];

/// Measured meters are told this often: a dashboard looks anew 1.5 s after the last of the news, and not before.
const NEWS: Duration = Duration::from_secs(5);

/// What the web asks of the owner of the simulators.
pub enum SimulatorNow {
    Register {
        introduction: Introduction,
        reply: oneshot::Sender<Result<Simulator, SimulatorRefused>>,
    },
    /// Answered when it is durable.
    Reading {
        reading: SimulatedReading,
        reply: oneshot::Sender<Result<Simulated, SimulatorRefused>>,
    },
}

/// The clients that are connected.
#[derive(Default)]
pub struct Hub {
    clients: Clients,
}

/// A client that was let in, and is not there yet: the answer to its request goes out first.
struct Arrival {
    upgrade: OnUpgrade,
    scope: Scope,
    watch: Watch,
    _place: OwnedSemaphorePermit,
}

impl Hub {
    pub fn count(&self) -> usize {
        self.clients.count()
    }

    /// Messages that slow clients missed since start.
    pub fn dropped(&self) -> u64 {
        self.clients.dropped()
    }
}

/// Tells dashboards of the meters that are no simulators, until stopped.
pub async fn tell_news(web: Web) {
    let mut told = BTreeMap::new();
    let mut news = tokio::time::interval(NEWS);
    news.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = web.stop.cancelled() => return,
            _ = news.tick() => {}
        }
        if web.hub.clients.dashboards() > 0 {
            for update in say::news(&web, &mut told) {
                web.hub.clients.tell_dashboards(&update);
            }
        }
    }
}

/// Goes around every route: takes what asks for a WebSocket where there is one.
pub async fn upgrades(State(web): State<Web>, request: Request, next: Next) -> Response {
    let is_asked = request.method() == Method::GET && names(request.headers(), header::UPGRADE, "websocket");
    if !is_asked || !PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match begin(&web, request) {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

/// A WebSocket for simulators and dashboards
///
/// Messages are texts in JSON, which docs/api.md tells of. `/socket` and `/websocket` are the same; here alone the token
/// may be given in the address, as `token`.
#[utoipa::path(
    get,
    path = "/ws",
    responses(
        (status = 101, description = "The connection is a WebSocket from here on"),
        (status = 426, description = "No upgrade was asked for")
    )
)]
pub async fn plain() -> Response {
    let mut response = Problem::NoUpgrade.into_response();
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response
}

fn begin(web: &Web, mut request: Request) -> Result<Response, Problem> {
    let accept = accepted(request.headers())?;
    let headers = shown(&request);
    let peer = request.extensions().get::<Peer>().cloned().ok_or(Problem::NoUpgrade)?;
    let scope = guard::may_connect(web, &headers, &peer)?;
    let place = web.hub.clients.place().ok_or(Problem::Busy { limit: CLIENTS, again: 5 })?;
    let upgrade = hyper::upgrade::on(&mut request);
    let arrival = Arrival { upgrade, scope, watch: Watch::new(web, &headers)?, _place: place };
    peer.after_upgrade(socket::converse(web.clone(), arrival));
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// The answer to the key of a handshake (RFC 6455, section 4.2).
fn accepted(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let bad = |what: &str| Problem::BadRequest(format!("no WebSocket handshake: {what}"));
    if !names(headers, header::CONNECTION, "upgrade") {
        return Err(bad("`Connection` does not name `upgrade`"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(bad("`Sec-WebSocket-Version` is not 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| {
        let decoded = STANDARD.decode(key.as_bytes());
        decoded.is_ok_and(|decoded| decoded.len() == 16)
    });
    let key = key.ok_or_else(|| bad("`Sec-WebSocket-Key` is not 16 bytes in Base64"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad("the key has no answer"))
}

/// Whether a header of names has this one among them.
fn names(headers: &HeaderMap, header: header::HeaderName, name: &str) -> bool {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(name))
}

/// What a handshake shows of who sends it. A browser cannot give a header with it, so that here alone a token may stand
/// in the address.
fn shown(request: &Request) -> HeaderMap {
    let mut headers = request.headers().clone();
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    if let Some((_, token)) = pairs.into_iter().find(|(name, _)| *name == "token")
        && !headers.contains_key(header::AUTHORIZATION)
        && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
    {
        headers.insert(header::AUTHORIZATION, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_handshake_is_answered_as_the_standard_says() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert_eq!(accepted(&headers(&good)).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (name, value) in [
            ("connection", "close"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "dGhlIHNhbXBsZQ=="),
            ("sec-websocket-key", "not base64 at all !!"),
        ] {
            let mut bad = headers(&good);
            bad.insert(name, value.parse().unwrap());
            assert!(accepted(&bad).is_err(), "{name}: {value}");
        }
    }

    #[test]
    fn a_token_may_stand_in_the_address_of_a_handshake() {
        let bearer = |address: &str, own: Option<&str>| {
            let mut request = Request::get(address);
            if let Some(own) = own {
                request = request.header(header::AUTHORIZATION, own);
            }
            let headers = shown(&request.body(axum::body::Body::empty()).unwrap());
            headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(bearer("/ws?a=b&token=abc", None).as_deref(), Some("Bearer abc"));
        assert_eq!(bearer("/ws?token=abc", Some("Bearer own")).as_deref(), Some("Bearer own"));
        assert_eq!(bearer("/ws?tokens=abc", None), None);
    }
}
