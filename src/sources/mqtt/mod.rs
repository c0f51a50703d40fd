//! Meters that publish: one task for each broker subscribes, decodes what comes, and acknowledges a message only when
//! the readings in it are durable.
//!
//! `cut` is the stream below the client, `dial` opens it, `connection` is one connection of either version of the
//! protocol, `formats` turns payloads into values, `heard` says whose they are, `broker` is the task, and `listeners`
//! holds all tasks. `talk` publishes, for simulated meters.

mod broker;
mod connection;
mod cut;
mod dial;
pub mod formats;
mod heard;
mod listeners;
mod talk;

use std::fmt;
use std::time::Duration;

pub use listeners::Listeners;
pub use talk::talk;

use broker::{Outside, Report, run};

use crate::model::{BadTls, Category, LineName, MeterId, Ratio};

/// One `[[mqtt]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    pub name: LineName,
    pub host: String,
    pub port: u16,
    /// `mqtts`.
    pub tls: Option<Tls>,
    pub version: Version,
    /// Names the session that the broker keeps for us.
    pub client_id: String,
    pub login: Option<Login>,
    pub keep_alive: Duration,
    /// Longer messages are acknowledged without being read, and told.
    pub max_packet: usize,
    /// Where `online` and, by the broker, `offline` is published, retained.
    pub status_topic: String,
    pub subscriptions: Vec<Subscription>,
    pub meters: Vec<Publisher>,
    pub simulated: bool,
}

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

/// How the broker is known, and we to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// PEM; the system's authorities without one.
    pub ca: Option<Vec<u8>>,
    /// PEM.
    pub client: Option<ClientCertificate>,
}

#[derive(Clone, PartialEq)]
pub struct ClientCertificate {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
}

#[derive(Clone, PartialEq)]
pub struct Login {
    pub username: String,
    pub password: Option<String>,
}

/// One `[[mqtt.subscribe]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// A topic filter.
    pub topic: String,
    pub format: formats::Format,
}

/// One `[[mqtt.meter]]`: a meter that publishes through this broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Publisher {
    pub id: MeterId,
    /// What it calls itself: its serial number, or a part of its topics.
    pub matches: String,
    pub category: Category,
    /// `None` for one that publishes when it likes.
    pub interval: Option<Duration>,
    pub ct_ratio: Ratio,
    pub vt_ratio: Ratio,
    pub invert: bool,
}

/// Keys and passwords are never printed.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).field("password", &"***").finish()
    }
}

/// Whether what is known of a broker's certificates and of ours can be used.
pub fn check_tls(tls: &Tls) -> Result<(), BadTls> {
    dial::config(tls).map(drop)
}

/// What is wrong with a broker's address that only TLS tells; its certificates are good.
pub fn check(broker: &Broker) -> Result<(), String> {
    dial::Dial::new(broker).map(drop)
}

/// Whether a topic filter takes a topic (MQTT 3.1.1, 4.7).
pub fn takes(filter: &str, topic: &str) -> bool {
    // Wildcards in front do not take the broker's own topics.
    if topic.starts_with('$') != filter.starts_with('$') {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(other)) if level == other => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_what_the_standard_says() {
        for (filter, topic, wanted) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "sport", true),
            ("+/tennis/#", "a/tennis", true),
            ("sport/+/player1", "sport/tennis/player1", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/broker", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/broker", true),
            ("a/b", "a/B", false),
        ] {
            assert_eq!(takes(filter, topic), wanted, "{filter} {topic}");
        }
    }
}
