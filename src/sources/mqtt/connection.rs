//! One connection to a broker, of either version of the protocol. It is made anew after every failure, together with
//! all that the client knows: no acknowledgement and no request of an old connection reaches the next one, where its
//! packet identifier may be another message's.

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;

use super::dial::{Dial, told};
use super::{Broker, Version};

/// Requests that wait to be sent: more than a broker can have unacknowledged, as packet identifiers have 16 bits, so
/// that an acknowledgement never waits for room while nobody makes any.
const REQUESTS: usize = 70_000;

/// Packets read at a time.
const READ: usize = 64;

/// The broker keeps our session, and what comes meanwhile, for a week.
const SESSION_SECONDS: u32 = 7 * 86_400;

/// The client's own limit on packets: `cut` has shortened the messages already; other packets are short.
const SLACK: usize = 70_000;

/// What has come.
pub enum Heard {
    Connected {
        session_present: bool,
    },
    Message(Publish),
    /// For each topic filter, whether it was granted.
    Subscribed(Vec<bool>),
    /// A sign of life.
    Other,
    /// Something was sent, which is none.
    Sent,
}

/// A message with what acknowledges it.
pub enum Publish {
    V311(v4::Publish),
    V5(v5::Publish),
}

impl Publish {
    pub fn topic(&self) -> String {
        let (Self::V311(v4::Publish { topic, .. }) | Self::V5(v5::Publish { topic, .. })) = self;
        String::from_utf8_lossy(topic).into_owned()
    }

    pub fn payload(&self) -> &[u8] {
        let (Self::V311(v4::Publish { payload, .. }) | Self::V5(v5::Publish { payload, .. })) = self;
        payload
    }

    pub fn retained(&self) -> bool {
        let (Self::V311(v4::Publish { retain, .. }) | Self::V5(v5::Publish { retain, .. })) = self;
        *retain
    }

    /// Packet identifier; 0 for a message that is not to be acknowledged.
    pub fn id(&self) -> u16 {
        let (Self::V311(v4::Publish { pkid, .. }) | Self::V5(v5::Publish { pkid, .. })) = self;
        *pkid
    }
}

/// The sending side.
pub enum Sender {
    V311(v4::AsyncClient),
    V5(v5::AsyncClient),
}

/// The receiving side; it also does the sending while it is asked for what comes.
pub enum Receiver {
    V311(Box<v4::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// A connection that is made when the receiver is first asked.
pub fn open(broker: &Broker, dial: &Dial) -> Result<(Sender, Receiver), String> {
    let keep_alive = u16::try_from(broker.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let address = (broker.host.as_str(), broker.port);
    let (id, dial) = (broker.client_id.clone(), dial.clone());
    let password = broker.login.as_ref().and_then(|login| login.password.clone());
    match broker.version {
        Version::V311 => {
            let mut options = v4::MqttOptions::new(id, address);
            options.set_keep_alive(keep_alive).set_session_mode(v4::SessionMode::Persistent);
            options.set_max_packet_size(broker.max_packet + SLACK, SLACK).set_ack_mode(v4::AckMode::Manual);
            options.set_read_batch_size(READ).set_request_channel_capacity(REQUESTS);
            options.set_last_will(v4::LastWill::new(&broker.status_topic, OFFLINE, v4::QoS::AtLeastOnce, true));
            match (&broker.login, password) {
                (Some(login), Some(password)) => drop(options.set_credentials(&login.username, password)),
                (Some(login), None) => drop(options.set_username(&login.username)),
                (None, _) => {}
            }
            options.set_socket_connector(move |_, _| {
                let dial = dial.clone();
                async move { dial.open().await }
            });
            let made = v4::AsyncClient::builder(options).try_build().map_err(|error| error.to_string())?;
            Ok((Sender::V311(made.0), Receiver::V311(Box::new(made.1))))
        }
        Version::V5 => {
            let mut options = v5::MqttOptions::new(id, address);
            options.set_keep_alive(keep_alive).set_session_mode(v5::SessionMode::Persistent);
            options.set_session_expiry_interval(Some(SESSION_SECONDS));
            // What is under way is known by the store, not by the client.
            options.set_broker_session_resume_policy(v5::BrokerSessionResumePolicy::AllowBrokerOnly);
            let limit = u32::try_from(broker.max_packet + SLACK).unwrap_or(u32::MAX);
            options.set_incoming_packet_size_limit(v5::IncomingPacketSizeLimit::Bytes(limit));
            options.set_ack_mode(v5::AckMode::Manual);
            options.set_read_batch_size(READ).set_request_channel_capacity(REQUESTS);
            let will = v5::LastWill::new(&broker.status_topic, OFFLINE, v5::QoS::AtLeastOnce, true, None);
            options.set_last_will(will);
            match (&broker.login, password) {
                (Some(login), Some(password)) => drop(options.set_credentials(&login.username, password)),
                (Some(login), None) => drop(options.set_username(&login.username)),
                (None, _) => {}
            }
            options.set_socket_connector(move |_, _| {
                let dial = dial.clone();
                async move { dial.open().await }
            });
            let made = v5::AsyncClient::builder(options).try_build().map_err(|error| error.to_string())?;
            Ok((Sender::V5(made.0), Receiver::V5(Box::new(made.1))))
        }
    }
}

const ONLINE: &str = "online";
const OFFLINE: &str = "offline";

impl Sender {
    /// Asks for all topic filters at QoS 1.
    pub async fn subscribe(&self, filters: &[String]) -> Result<(), String> {
        match self {
            Self::V311(client) => {
                let filters = filters.iter().map(|filter| v4::SubscribeFilterInput::new(filter, v4::QoS::AtLeastOnce));
                client.subscribe_many(filters).await.map_err(ended)
            }
            Self::V5(client) => {
                let filters = filters.iter().map(|filter| v5::SubscribeFilterInput::new(filter, v5::QoS::AtLeastOnce));
                client.subscribe_many(filters).await.map_err(ended)
            }
        }
    }

    /// Publishes that we are here, retained; the will says the opposite.
    pub async fn say_online(&self, topic: &str) -> Result<(), String> {
        self.publish(topic, ONLINE, true).await
    }

    pub async fn say_offline(&self, topic: &str) -> Result<(), String> {
        self.publish(topic, OFFLINE, true).await
    }

    /// Publishes at QoS 1.
    pub async fn publish(&self, topic: &str, text: &str, retain: bool) -> Result<(), String> {
        match self {
            Self::V311(client) => {
                let options = v4::PublishOptions::at_least_once().retain(retain);
                client.publish(topic, text, options).await.map_err(ended)
            }
            Self::V5(client) => {
                let options = v5::PublishOptions::at_least_once().retain(retain);
                client.publish(topic, text, options).await.map_err(ended)
            }
        }
    }

    /// Queues the acknowledgement of a message of this connection.
    pub fn acknowledge(&self, publish: &Publish) -> Result<(), String> {
        match (self, publish) {
            (Self::V311(client), Publish::V311(publish)) => client.try_ack(publish).map_err(ended),
            (Self::V5(client), Publish::V5(publish)) => client.try_ack(publish).map_err(ended),
            _ => Ok(()),
        }
    }

    /// Says good-bye when all that is queued is sent; the session stays with the broker.
    pub async fn disconnect(&self) -> Result<(), String> {
        match self {
            Self::V311(client) => client.disconnect().await.map_err(ended),
            Self::V5(client) => client.disconnect().await.map_err(ended),
        }
    }
}

impl Receiver {
    /// What comes next. After an error the connection is of no more use.
    pub async fn next(&mut self) -> Result<Heard, String> {
        match self {
            Self::V311(events) => match events.poll().await {
                Ok(v4::Event::Incoming(v4::Packet::ConnAck(ack))) => {
                    Ok(Heard::Connected { session_present: ack.session_present })
                }
                Ok(v4::Event::Incoming(v4::Packet::Publish(publish))) => Ok(Heard::Message(Publish::V311(publish))),
                Ok(v4::Event::Incoming(v4::Packet::SubAck(ack))) => {
                    let granted = |code: &v4::SubscribeReasonCode| matches!(code, v4::SubscribeReasonCode::Success(_));
                    Ok(Heard::Subscribed(ack.return_codes.iter().map(granted).collect()))
                }
                Ok(v4::Event::Incoming(_)) => Ok(Heard::Other),
                Ok(_) => Ok(Heard::Sent),
                Err(v4::ConnectionError::Io(error)) => Err(told(&error)),
                Err(v4::ConnectionError::ConnectionRefused(code)) => Err(refused(&format!("{code:?}"))),
                Err(v4::ConnectionError::NetworkTimeout | v4::ConnectionError::FlushTimeout) => Err(SLOW.to_owned()),
                Err(v4::ConnectionError::MqttState(error)) => Err(match error {
                    v4::StateError::Io(error) => told(&error),
                    v4::StateError::ConnectionAborted => CLOSED.to_owned(),
                    v4::StateError::AwaitPingResp => MUTE.to_owned(),
                    error => out_of_step(&error),
                }),
                Err(error) => Err(error.to_string()),
            },
            Self::V5(events) => match events.poll().await {
                Ok(v5::Event::Incoming(v5::Packet::ConnAck(ack))) => {
                    Ok(Heard::Connected { session_present: ack.session_present })
                }
                Ok(v5::Event::Incoming(v5::Packet::Publish(publish))) => Ok(Heard::Message(Publish::V5(publish))),
                Ok(v5::Event::Incoming(v5::Packet::SubAck(ack))) => {
                    let granted = |code: &v5::SubscribeReasonCode| matches!(code, v5::SubscribeReasonCode::Success(_));
                    Ok(Heard::Subscribed(ack.return_codes.iter().map(granted).collect()))
                }
                Ok(v5::Event::Incoming(_)) => Ok(Heard::Other),
                Ok(_) => Ok(Heard::Sent),
                Err(v5::ConnectionError::Io(error)) => Err(told(&error)),
                Err(v5::ConnectionError::ConnectionRefused(code)) => Err(refused(&format!("{code:?}"))),
                Err(v5::ConnectionError::Timeout(_)) => Err(SLOW.to_owned()),
                Err(v5::ConnectionError::MqttState(error)) => Err(match error {
                    v5::StateError::Io(error) => told(&error),
                    v5::StateError::ConnectionAborted => CLOSED.to_owned(),
                    v5::StateError::AwaitPingResp => MUTE.to_owned(),
                    v5::StateError::ServerDisconnect { reason_code, reason_string } => {
                        let words = reason_string.map(|words| format!(": {words}")).unwrap_or_default();
                        format!("the broker ended the connection ({reason_code:?}{words})")
                    }
                    error => out_of_step(&error),
                }),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

/// Nothing can be sent when there is no receiving side any more; why that has ended is its own to say.
fn ended(_: impl std::error::Error) -> String {
    "the connection ended".to_owned()
}

const CLOSED: &str = "the broker closed the connection";
const SLOW: &str = "the broker did not answer in time";
const MUTE: &str = "the broker does not answer to a ping";

/// What came cannot be, by the rules of MQTT.
fn out_of_step(error: &dyn std::error::Error) -> String {
    format!("the broker said what was not expected: {error}")
}

/// A refusal by the broker, by the name of its code.
fn refused(code: &str) -> String {
    match code {
        "BadUserNamePassword" => "the broker refuses the user name and password".to_owned(),
        "NotAuthorized" => {
            "the broker does not let this client in: check user name, password and its access list".to_owned()
        }
        "ServiceUnavailable" => "the broker says that it is not available".to_owned(),
        "RefusedProtocolVersion" | "UnsupportedProtocolVersion" => {
            "the broker does not speak this version of MQTT: set `version` to \"3.1.1\" or \"5\"".to_owned()
        }
        other => format!("the broker refuses the connection ({other})"),
    }
}
