//! One connection to a broker, of either version of the protocol. It is made anew after every failure, together with
//! all that the client knows: the library forgets what it has queued when a session is gone, and no acknowledgement of
//! an old connection may be taken for one of the next.

use std::io;
use std::sync::{Arc, Mutex};

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::last_word::LastWord;
use super::{Config, Version, refusal};
use crate::upstream::dial::Stream;
use crate::upstream::receiver::Fault;

/// Requests that wait to be sent: a batch and some more, so that handing one over never waits.
const REQUESTS: usize = 2 * super::MOST;

/// Told and not taken yet. Nobody takes them while records are delivered, when none are expected; if it is full
/// nevertheless, the connection waits, and times out.
const TOLD: usize = 256;

/// No packet is expected that is longer: a checkpoint has some hundred bytes.
const LONGEST_INCOMING: u16 = u16::MAX;

/// What has come.
pub enum Heard {
    Connected(Limits),
    /// Whether the subscription was granted.
    Subscribed(bool),
    /// A message that lay there before, and its topic.
    Retained(String, Vec<u8>),
    /// It is of no more use.
    Ended(Fault),
}

/// What the broker takes, as far as the protocol lets it say so.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_packet: usize,
    pub keeps_retained: bool,
    pub at_least_once: bool,
}

/// The sending side.
enum Client {
    V311(v4::AsyncClient),
    V5(v5::AsyncClient),
}

pub struct Connection {
    client: Client,
    heard: mpsc::Receiver<Heard>,
    /// Sends and receives, as long as this lives.
    _events: JoinSet<()>,
}

/// The connection has ended, and nothing more can be sent on it. Why comes by [`Connection::next`] alone.
pub struct Over;

/// What waits for the acknowledgement of one message.
pub enum Notice {
    V311(v4::PublishNotice),
    V5(v5::PublishNotice),
}

/// What the broker says of one message.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Taken,
    /// It will not have this one, for this reason.
    Rejected(String),
    Fault(Fault),
    /// The connection ended before it said anything.
    Unknown,
}

impl Connection {
    /// Begins to speak MQTT on a stream that is open; [`Self::next`] tells how that went.
    pub fn begin(config: &Config, client_id: String, stream: Box<dyn Stream>) -> Result<Self, String> {
        let keep_alive = u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let address = (config.host.as_str(), config.port);
        let password = config.password.as_ref().map(|password| password.to_string());
        // The library dials when it likes; this stream is the only one that it gets.
        let stream: Box<dyn Stream> = match config.version {
            Version::V311 => stream,
            Version::V5 => Box::new(LastWord::new(stream)),
        };
        let stream = Arc::new(Mutex::new(Some(stream)));
        let connect = move |_: String, _: _| {
            let taken = stream.lock().ok().and_then(|mut stream| stream.take());
            async move { taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        };
        let (tell, heard) = mpsc::channel(TOLD);
        let mut events = JoinSet::new();
        let client = match config.version {
            Version::V311 => {
                let mut options = v4::MqttOptions::new(client_id, address);
                options.set_keep_alive(keep_alive).set_session_mode(v4::SessionMode::Clean);
                options.set_max_packet_size(usize::from(LONGEST_INCOMING), config.max_packet);
                options.set_request_channel_capacity(REQUESTS).set_inflight(super::IN_FLIGHT);
                match (&config.username, password) {
                    (Some(username), Some(password)) => drop(options.set_credentials(username, password)),
                    (Some(username), None) => drop(options.set_username(username)),
                    (None, _) => {}
                }
                options.set_socket_connector(connect);
                let (client, mut loops) =
                    v4::AsyncClient::builder(options).try_build().map_err(|error| error.to_string())?;
                let mut network = loops.network_options();
                network.set_connection_timeout(config.timeout.as_secs().max(1));
                loops.set_network_options(network);
                events.spawn(hear_v4(loops, config.clone(), tell));
                Client::V311(client)
            }
            Version::V5 => {
                let mut options = v5::MqttOptions::new(client_id, address);
                options.set_keep_alive(keep_alive).set_session_mode(v5::SessionMode::Clean);
                options.set_incoming_packet_size_limit(v5::IncomingPacketSizeLimit::Bytes(LONGEST_INCOMING.into()));
                options.set_request_channel_capacity(REQUESTS).set_connect_timeout(config.timeout);
                options.set_outgoing_inflight_upper_limit(super::IN_FLIGHT);
                match (&config.username, password) {
                    (Some(username), Some(password)) => drop(options.set_credentials(username, password)),
                    (Some(username), None) => drop(options.set_username(username)),
                    (None, Some(password)) => drop(options.set_password(password)),
                    (None, None) => {}
                }
                options.set_socket_connector(connect);
                let (client, loops) =
                    v5::AsyncClient::builder(options).try_build().map_err(|error| error.to_string())?;
                events.spawn(hear_v5(loops, config.clone(), tell));
                Client::V5(client)
            }
        };
        Ok(Self { client, heard, _events: events })
    }

    /// What comes next; nothing comes after [`Heard::Ended`].
    pub async fn next(&mut self) -> Heard {
        self.heard.recv().await.unwrap_or_else(|| Heard::Ended(Fault::Away("the connection ended".to_owned())))
    }

    pub async fn subscribe(&self, filter: &str) -> Result<(), Over> {
        match &self.client {
            Client::V311(client) => client.subscribe(filter, v4::QoS::AtLeastOnce).await.map_err(over),
            Client::V5(client) => client.subscribe(filter, v5::QoS::AtLeastOnce).await.map_err(over),
        }
    }

    pub async fn unsubscribe(&self, filter: &str) -> Result<(), Over> {
        match &self.client {
            Client::V311(client) => client.unsubscribe(filter).await.map_err(over),
            Client::V5(client) => client.unsubscribe(filter).await.map_err(over),
        }
    }

    /// Queues a message at QoS 1.
    pub async fn publish(&self, topic: &str, payload: Vec<u8>, retain: bool) -> Result<Notice, Over> {
        match &self.client {
            Client::V311(client) => {
                let options = v4::PublishOptions::at_least_once().retain(retain);
                client.publish_tracked(topic, payload, options).await.map(Notice::V311).map_err(over)
            }
            Client::V5(client) => {
                let options = v5::PublishOptions::at_least_once().retain(retain);
                client.publish_tracked(topic, payload, options).await.map(Notice::V5).map_err(over)
            }
        }
    }
}

impl Notice {
    /// In words without the password.
    pub async fn verdict(self, password: &[Zeroizing<String>]) -> Verdict {
        match self {
            Self::V311(notice) => match notice.wait_async().await {
                Ok(_) => Verdict::Taken,
                Err(_) => Verdict::Unknown,
            },
            Self::V5(notice) => match notice.wait_async().await {
                Ok(v5::PublishResult::Qos1(ack)) => {
                    let said = ack.properties.and_then(|properties| properties.reason_string);
                    refusal::of_message(ack.reason, said.as_deref(), password)
                }
                _ => Verdict::Unknown,
            },
        }
    }
}

fn over(_: impl std::error::Error) -> Over {
    Over
}

async fn hear_v4(mut loops: v4::EventLoop, config: Config, tell: mpsc::Sender<Heard>) {
    let max_packet = config.max_packet;
    loop {
        let heard = match loops.poll().await {
            Ok(v4::Event::Incoming(v4::Packet::ConnAck(_))) => {
                Heard::Connected(Limits { max_packet, keeps_retained: true, at_least_once: true })
            }
            Ok(v4::Event::Incoming(v4::Packet::SubAck(ack))) => Heard::Subscribed(
                ack.return_codes.iter().all(|code| matches!(code, v4::SubscribeReasonCode::Success(_))),
            ),
            Ok(v4::Event::Incoming(v4::Packet::Publish(publish))) if publish.retain => {
                Heard::Retained(String::from_utf8_lossy(&publish.topic).into_owned(), publish.payload.to_vec())
            }
            Ok(_) => continue,
            Err(error) => Heard::Ended(refusal::of_v4(&error, &config)),
        };
        let is_last = matches!(heard, Heard::Ended(_));
        if tell.send(heard).await.is_err() || is_last {
            return;
        }
    }
}

async fn hear_v5(mut loops: v5::EventLoop, config: Config, tell: mpsc::Sender<Heard>) {
    let max_packet = config.max_packet;
    loop {
        let heard = match loops.poll().await {
            Ok(v5::Event::Incoming(v5::Packet::ConnAck(ack))) => {
                let said = ack.properties;
                let said = said.as_ref();
                let limit = said.and_then(|said| usize::try_from(said.max_packet_size?).ok());
                Heard::Connected(Limits {
                    max_packet: limit.map_or(max_packet, |limit| limit.min(max_packet)),
                    keeps_retained: said.and_then(|said| said.retain_available) != Some(0),
                    at_least_once: said.and_then(|said| said.max_qos) != Some(0),
                })
            }
            Ok(v5::Event::Incoming(v5::Packet::SubAck(ack))) => Heard::Subscribed(
                ack.return_codes.iter().all(|code| matches!(code, v5::SubscribeReasonCode::Success(_))),
            ),
            Ok(v5::Event::Incoming(v5::Packet::Publish(publish))) if publish.retain => {
                Heard::Retained(String::from_utf8_lossy(&publish.topic).into_owned(), publish.payload.to_vec())
            }
            Ok(_) => continue,
            Err(error) => Heard::Ended(refusal::of_v5(&error, &config)),
        };
        let is_last = matches!(heard, Heard::Ended(_));
        if tell.send(heard).await.is_err() || is_last {
            return;
        }
    }
}
