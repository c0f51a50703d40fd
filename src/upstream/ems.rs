//! `ems-websocket`: the mean power of each minute to a backend that takes each reading for one minute of it. It knows no
//! key, so that each reading waits for the acknowledgement of the one before.
//!
//! One socket is enough: a reading names its device. It is held between readings, since that backend drops a client that is
//! silent.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use zeroize::Zeroizing;

use super::dial::{Dial, Stream as Line, broken};
use super::endpoint::{self, Endpoint};
use super::receiver::{self, Answer, Batch, Fault, Opened, Witness};
use super::record::{Body, Minute};
use crate::model::note::SignedCheckpoint;
use crate::model::{MeterId, Stream, Timestamp, told};
use crate::store::Identity;

/// One `[[upstream]]` of this kind.
pub type Config = Endpoint;

/// An address of such a backend. It bears no secret, since it is shown.
pub fn address(text: &str) -> Result<Url, &'static str> {
    endpoint::address(text, ["ws", "wss"], "begins with neither wss:// nor ws://")
}

/// No message of such a backend to a client like us is longer.
const LONGEST: usize = 64 << 10;
/// It drops a client that was silent for 25 s.
const PING: Duration = Duration::from_secs(20);
/// Messages that wait to be sent; one is under way at a time.
const OUTGOING: usize = 4;
/// Answers that wait to be read. More than that nobody has asked for: they are dropped.
const INCOMING: usize = 64;
const MINUTE_MS: i64 = 60_000;

pub struct Receiver {
    config: Config,
    dial: Dial,
    socket: Option<Socket>,
}

/// A connection, and whom it knows of our meters.
struct Socket {
    say: mpsc::Sender<String>,
    heard: mpsc::Receiver<Heard>,
    registered: BTreeSet<MeterId>,
    _task: JoinSet<()>,
}

enum Heard {
    Told(Told),
    Ended(Fault),
}

/// What the backend says that concerns us.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    device_id: Option<String>,
    device_name: Option<String>,
    timestamp: Option<Value>,
    reading: Option<Echo>,
    status: Option<String>,
    message: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Echo {
    timestamp: Option<Value>,
}

impl Receiver {
    pub fn new(config: &Config, _name: &str) -> Result<Self, String> {
        let tls = (config.url.scheme() == "wss").then_some(&config.tls);
        let host = config.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = config.url.port_or_known_default().unwrap_or(443);
        let dial = Dial::new(host, port, tls, config.timeout, config.to())?;
        config.check_token()?;
        Ok(Self { config: config.clone(), dial, socket: None })
    }

    async fn connect(&self) -> Result<Socket, Fault> {
        let to = self.config.to();
        let stream = self.dial.open().await?;
        let unsayable =
            |error: &dyn std::error::Error| Fault::Stopped(format!("{to} is no address for a WebSocket: {error}"));
        let mut request = self.config.url.as_str().into_client_request().map_err(|error| unsayable(&error))?;
        if let Some(token) = &self.config.token {
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut value = HeaderValue::from_str(&bearer).map_err(|error| unsayable(&error))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let limits = WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST));
        let (stream, _) = timeout(self.config.timeout, client_async_with_config(request, stream, Some(limits)))
            .await
            .map_err(|_| self.silent())?
            .map_err(|error| self.no_upgrade(&error))?;
        let (say, saying) = mpsc::channel(OUTGOING);
        let (tell, heard) = mpsc::channel(INCOMING);
        let mut task = JoinSet::new();
        task.spawn(async move { hold(stream, &to, saying, tell).await });
        Ok(Socket { say, heard, registered: BTreeSet::new(), _task: task })
    }

    fn silent(&self) -> Fault {
        Fault::Away(format!("{} did not answer within {:?}", self.config.to(), self.config.timeout))
    }

    /// The answer to the upgrade was none.
    fn no_upgrade(&self, error: &Error) -> Fault {
        let to = self.config.to();
        match error {
            Error::Http(response) => match response.status().as_u16() {
                401 | 403 => Fault::Stopped(format!(
                    "{to} answers {}: is the `token` still right, or does it ask for one?",
                    response.status()
                )),
                404 | 405 | 410 => Fault::Stopped(format!(
                    "{to} answers {}: is the path right? It is one of /, /ws, /socket and /websocket",
                    response.status()
                )),
                _ => Fault::Away(format!("{to} answers {} instead of opening a WebSocket", response.status())),
            },
            error => ended(&to, error),
        }
    }

    /// What comes next before `until`.
    async fn heard(&self, socket: &mut Socket, until: Instant) -> Result<Told, Fault> {
        match timeout_at(until, socket.heard.recv()).await {
            Ok(Some(Heard::Told(told))) => Ok(told),
            Ok(Some(Heard::Ended(fault))) => Err(fault),
            Ok(None) => Err(Fault::Away(format!("{} closed the connection", self.config.to()))),
            Err(_) => Err(self.silent()),
        }
    }

    async fn say(&self, socket: &mut Socket, message: &Value) -> Result<(), Fault> {
        // What came meanwhile answers nothing that is asked now.
        while let Ok(heard) = socket.heard.try_recv() {
            if let Heard::Ended(fault) = heard {
                return Err(fault);
            }
        }
        if socket.say.send(message.to_string()).await.is_ok() {
            return Ok(());
        }
        // It has ended, and says why.
        let until = Instant::now() + self.config.timeout;
        loop {
            self.heard(socket, until).await?;
        }
    }

    async fn register(&self, socket: &mut Socket, meter: &MeterId) -> Result<(), Fault> {
        let message = json!({
            "type": "simulator:register", "deviceName": meter.as_str(), "simulatorName": "meterseal",
        });
        self.say(socket, &message).await?;
        let until = Instant::now() + self.config.timeout;
        loop {
            let told = self.heard(socket, until).await?;
            match told.kind.as_str() {
                "simulator:registered" if told.is_of(meter) => {
                    socket.registered.insert(meter.clone());
                    return Ok(());
                }
                "error" => return Err(self.refusal(told.message)),
                _ => {}
            }
        }
    }

    /// Sends one reading, and waits until it is accepted; with what went wrong comes whether it may have arrived.
    async fn send(&self, socket: &mut Socket, minute: &Minute) -> Result<(), (Fault, bool)> {
        let time = middle(minute.start);
        let mut message = json!({
            "type": "simulator:reading",
            "deviceName": minute.meter.as_str(),
            "totalPowerKw": minute.kw,
            "timestamp": time,
            "readingInterval": 60,
        });
        if let Some(hz) = minute.frequency_hz {
            message["frequency"] = json!(hz);
        }
        self.say(socket, &message).await.map_err(|fault| (fault, false))?;
        let until = Instant::now() + self.config.timeout;
        loop {
            let told = self.heard(socket, until).await.map_err(|fault| (fault, true))?;
            match told.kind.as_str() {
                "simulator:acknowledged" if told.acknowledges(&minute.meter, time) => {
                    return match told.status.as_deref() {
                        Some("accepted") => Ok(()),
                        _ => {
                            let why = self.words(told.message);
                            Err((Fault::Away(format!("{} could not store a reading{why}", self.config.to())), true))
                        }
                    };
                }
                "error" => {
                    let fault = self.refusal(told.message);
                    let may_have_arrived = !matches!(fault, Fault::Refused(_));
                    return Err((fault, may_have_arrived));
                }
                _ => {}
            }
        }
    }

    /// `error` names no message, and one is under way at a time.
    fn refusal(&self, message: Option<String>) -> Fault {
        let is_of_the_message = message.as_ref().is_some_and(|message| message.starts_with("Invalid"));
        let said = format!("{} refuses{}", self.config.to(), self.words(message));
        if is_of_the_message { Fault::Refused(said) } else { Fault::Away(said) }
    }

    fn words(&self, message: Option<String>) -> String {
        message.map(|message| format!(": {}", told(&message, self.config.token.as_slice()))).unwrap_or_default()
    }
}

impl Told {
    fn is_of(&self, meter: &MeterId) -> bool {
        [&self.device_name, &self.device_id].into_iter().flatten().any(|name| name == meter.as_str())
    }

    fn acknowledges(&self, meter: &MeterId, time: i64) -> bool {
        // Its own time of day stands outside, that of the reading inside; one that failed has none inside.
        let of = self.reading.as_ref().map_or(self.timestamp.as_ref(), |reading| reading.timestamp.as_ref());
        let has_failed = self.status.as_deref() == Some("error") && self.reading.is_none();
        self.is_of(meter) && (has_failed || of.and_then(whole) == Some(time))
    }
}

/// 64-bit integers come as numbers or as text.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// A reading on the border of a block counts in both: those of a minute lie in its middle.
fn middle(start: Timestamp) -> i64 {
    start.as_millis() + MINUTE_MS / 2
}

impl receiver::Receiver for Receiver {
    /// It has no way to be asked what it has.
    async fn open(&mut self, _: &Identity) -> Result<Opened, Fault> {
        self.socket = None;
        self.socket = Some(self.connect().await?);
        Ok(Opened::default())
    }

    async fn witness(&mut self, _: &Witness) -> Result<Option<SignedCheckpoint>, Fault> {
        Ok(None)
    }

    async fn deliver(&mut self, batch: &Batch) -> Answer {
        let mut answer = Answer::default();
        // Whatever goes wrong from here, even that nobody waits any more, the connection is given up: an answer that
        // comes late must not be taken for another reading's.
        let Some(mut socket) = self.socket.take() else {
            answer.fault = Some(Fault::Away(format!("not connected to {}", self.config.to())));
            return answer;
        };
        for record in &batch.records {
            let Some(minute) = minute(&record.body) else {
                answer.skipped += 1;
                answer.taken += 1;
                continue;
            };
            if !socket.registered.contains(&minute.meter)
                && let Err(fault) = self.register(&mut socket, &minute.meter).await
            {
                answer.fault = Some(fault);
                return answer;
            }
            if let Err((fault, may_have_arrived)) = self.send(&mut socket, &minute).await {
                answer.in_doubt = u64::from(may_have_arrived);
                answer.fault = Some(fault);
                return answer;
            }
            answer.taken += 1;
        }
        self.socket = Some(socket);
        answer
    }

    /// The position is saved after each.
    fn most(&self, _: Stream) -> usize {
        1
    }

    fn knows_keys(&self) -> bool {
        false
    }
}

/// The minute of a record.
fn minute(body: &Body) -> Option<Minute> {
    match body {
        Body::Minute(minute) => Some(minute.clone()),
        Body::Kept(line) => {
            #[derive(Deserialize)]
            struct Line {
                frequency_hz: Option<f64>,
                meter: MeterId,
                power_kw: f64,
                start: i64,
            }
            let line: Line = serde_json::from_str(line).ok()?;
            Some(Minute {
                meter: line.meter,
                start: Timestamp::from_millis(line.start),
                kw: line.power_kw,
                frequency_hz: line.frequency_hz,
            })
        }
        _ => None,
    }
}

/// Holds the connection: sends what is to be said, answers pings, and passes on what concerns us.
async fn hold(
    mut stream: WebSocketStream<Box<dyn Line>>,
    to: &str,
    mut saying: mpsc::Receiver<String>,
    tell: mpsc::Sender<Heard>,
) {
    let mut ping = interval_at(Instant::now() + PING, PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_alive = true;
    let fault = loop {
        tokio::select! {
            message = saying.recv() => match message {
                Some(message) => if let Err(error) = stream.send(Message::text(message)).await {
                    break ended(to, &error);
                },
                None => return,
            },
            _ = ping.tick() => {
                if !is_alive {
                    break Fault::Away(format!("{to} does not answer to a ping"));
                }
                is_alive = false;
                if let Err(error) = stream.send(Message::Ping(Vec::new().into())).await {
                    break ended(to, &error);
                }
            }
            heard = stream.next() => {
                is_alive = true;
                match heard {
                    Some(Ok(Message::Text(text))) => {
                        // What is no message of ours is meant for others; what nobody reads is not waited for.
                        if let Ok(told) = serde_json::from_str::<Told>(&text) {
                            tell.try_send(Heard::Told(told)).ok();
                        }
                    }
                    // Pings are answered by the library, which sends that with what it is asked to flush.
                    Some(Ok(Message::Ping(_))) => if let Err(error) = stream.flush().await {
                        break ended(to, &error);
                    },
                    Some(Ok(Message::Close(_))) | None => break Fault::Away(format!("{to} closed the connection")),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break ended(to, &error),
                }
            }
        }
    };
    tell.send(Heard::Ended(fault)).await.ok();
}

fn ended(to: &str, error: &Error) -> Fault {
    match error {
        Error::Io(error) => broken(to, error),
        Error::ConnectionClosed | Error::AlreadyClosed => Fault::Away(format!("{to} closed the connection")),
        Error::Capacity(_) => Fault::Away(format!("{to} sends messages that are longer than {LONGEST} bytes")),
        error => Fault::Away(format!("{to} broke the connection off: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Told {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_acknowledgement_is_told_by_device_and_time() {
        let meter = "m1".parse().unwrap();
        for (text, is_ours) in [
            (r#"{"type":"a","deviceId":"m1","timestamp":9,"reading":{"totalPowerKw":"1","timestamp":5}}"#, true),
            (r#"{"type":"a","deviceId":"m1","timestamp":9,"reading":{"timestamp":"5"}}"#, true),
            (r#"{"type":"a","deviceId":"m1","timestamp":"5"}"#, true),
            (r#"{"type":"a","deviceId":"m1","timestamp":5,"reading":{"timestamp":6}}"#, false),
            (r#"{"type":"a","deviceId":"m2","timestamp":5}"#, false),
            (r#"{"type":"a","timestamp":5}"#, false),
            (r#"{"type":"a","deviceId":"m1","status":"error","message":"x","timestamp":9}"#, true),
        ] {
            assert_eq!(told(text).acknowledges(&meter, 5), is_ours, "{text}");
        }
    }

    #[test]
    fn no_reading_lies_on_a_border() {
        assert_eq!(middle(Timestamp::from_millis(1_795_219_200_000)), 1_795_219_230_000);
    }

    #[test]
    fn an_address_bears_no_secret() {
        assert_eq!(address("wss://ems.example/ws").unwrap().as_str(), "wss://ems.example/ws");
        for text in ["https://ems.example", "ws://a:b@ems.example", "ws://ems.example/?token=x", "ems"] {
            address(text).unwrap_err();
        }
    }
}
