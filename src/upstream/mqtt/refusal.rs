//! What a broker means by its codes, and what to do about it.

use std::time::Duration;

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;
use v5::{ConnectReturnCode as Connect, DisconnectReasonCode as End, PubAckReason};
use zeroize::Zeroizing;

use super::Config;
use super::connection::Verdict;
use crate::model::told;
use crate::upstream::dial::broken;
use crate::upstream::receiver::Fault;

/// MQTT has no word for how long to wait.
const A_WHILE: Duration = Duration::from_secs(10);

/// A message that the broker has answered (MQTT 5, 3.4.2.1).
pub fn of_message(reason: PubAckReason, said: Option<&str>, password: &[Zeroizing<String>]) -> Verdict {
    let words = words(said, password);
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Verdict::Taken,
        PubAckReason::PayloadFormatInvalid => {
            Verdict::Rejected(format!("the broker says that the payload is not as it must be there{words}"))
        }
        // By the standard: the message is valid, and the broker will not have it; so say those that check schemas.
        PubAckReason::ImplementationSpecificError => {
            Verdict::Rejected(format!("the broker is not willing to take this message{words}"))
        }
        PubAckReason::NotAuthorized => Verdict::Fault(Fault::Stopped(format!(
            "the broker does not let this client publish{words}: give it the right to write its topics"
        ))),
        PubAckReason::TopicNameInvalid => {
            Verdict::Fault(Fault::Stopped(format!("the broker does not take the topic{words}: choose another `topic`")))
        }
        PubAckReason::QuotaExceeded => Verdict::Fault(Fault::Busy {
            wait: A_WHILE,
            told: format!("the broker says that a quota is used up{words}"),
        }),
        PubAckReason::UnspecifiedError | PubAckReason::PacketIdentifierInUse => {
            Verdict::Fault(Fault::Away(format!("the broker could not take a message ({reason:?}{words})")))
        }
    }
}

pub fn of_v4(error: &v4::ConnectionError, config: &Config) -> Fault {
    let to = &config.to();
    match error {
        v4::ConnectionError::Io(error) | v4::ConnectionError::MqttState(v4::StateError::Io(error)) => broken(to, error),
        v4::ConnectionError::ConnectionRefused(code) => of_connect(
            match code {
                v4::ConnectReturnCode::BadUserNamePassword => Connect::BadUserNamePassword,
                v4::ConnectReturnCode::NotAuthorized => Connect::NotAuthorized,
                v4::ConnectReturnCode::RefusedProtocolVersion => Connect::UnsupportedProtocolVersion,
                v4::ConnectReturnCode::BadClientId => Connect::ClientIdentifierNotValid,
                v4::ConnectReturnCode::ServiceUnavailable => Connect::ServerUnavailable,
                v4::ConnectReturnCode::Success => Connect::UnspecifiedError,
            },
            to,
        ),
        v4::ConnectionError::NetworkTimeout | v4::ConnectionError::FlushTimeout => slow(to),
        v4::ConnectionError::MqttState(v4::StateError::ConnectionAborted) => closed(to),
        v4::ConnectionError::MqttState(v4::StateError::AwaitPingResp) => mute(to),
        other => out_of_step(to, other),
    }
}

pub fn of_v5(error: &v5::ConnectionError, config: &Config) -> Fault {
    let to = &config.to();
    match error {
        v5::ConnectionError::Io(error) | v5::ConnectionError::MqttState(v5::StateError::Io(error)) => broken(to, error),
        v5::ConnectionError::ConnectionRefused(code)
        | v5::ConnectionError::MqttState(v5::StateError::ConnFail { reason: code }) => of_connect(*code, to),
        v5::ConnectionError::Timeout(_) => slow(to),
        v5::ConnectionError::MqttState(v5::StateError::ConnectionAborted) => closed(to),
        v5::ConnectionError::MqttState(v5::StateError::AwaitPingResp) => mute(to),
        v5::ConnectionError::MqttState(v5::StateError::ServerDisconnect { reason_code, reason_string }) => {
            of_end(*reason_code, &words(reason_string.as_deref(), config.password.as_slice()), to)
        }
        other => out_of_step(to, other),
    }
}

/// The broker refused the connection (MQTT 3.1.1, 3.2.2.3; MQTT 5, 3.2.2.2).
fn of_connect(code: Connect, to: &str) -> Fault {
    match code {
        Connect::BadUserNamePassword => {
            Fault::Stopped(format!("{to} refuses the user name and password: correct `username` and `password`"))
        }
        Connect::NotAuthorized | Connect::BadAuthenticationMethod => Fault::Stopped(format!(
            "{to} does not let this client in: check `username`, `password`, `client_id` and the broker's access list"
        )),
        Connect::Banned => Fault::Stopped(format!("{to} has banned this client: ask who runs it")),
        Connect::RefusedProtocolVersion | Connect::UnsupportedProtocolVersion => {
            Fault::Stopped(format!("{to} does not speak this version of MQTT: set `version` to \"3.1.1\" or \"5\""))
        }
        Connect::BadClientId | Connect::ClientIdentifierNotValid => {
            Fault::Stopped(format!("{to} does not take this client's name: set another `client_id`"))
        }
        Connect::UseAnotherServer | Connect::ServerMoved => {
            Fault::Stopped(format!("{to} says that another broker is to be used: correct `url`"))
        }
        Connect::ServerBusy | Connect::QuotaExceeded | Connect::ConnectionRateExceeded => {
            Fault::Busy { wait: A_WHILE, told: format!("{to} is busy ({code:?})") }
        }
        other => Fault::Away(format!("{to} refuses the connection ({other:?})")),
    }
}

/// The broker ended the connection (MQTT 5, 3.14.2.1).
fn of_end(code: End, words: &str, to: &str) -> Fault {
    match code {
        End::PacketTooLarge => Fault::TooLarge(format!("{to} says that a message is too large{words}")),
        End::PayloadFormatInvalid => Fault::Refused(format!("{to} says that a payload is not as it must be{words}")),
        End::ServerBusy | End::MessageRateTooHigh | End::QuotaExceeded | End::ConnectionRateExceeded => {
            Fault::Busy { wait: A_WHILE, told: format!("{to} asks for time ({code:?}{words})") }
        }
        End::NotAuthorized => Fault::Stopped(format!(
            "{to} does not allow what this client does{words}: give it the right to write its topics, and to read that \
             of its checkpoints"
        )),
        End::SessionTakenOver => Fault::Stopped(format!(
            "another client came to {to} under our name: give each gateway and each upstream a `client_id` of its own"
        )),
        End::TopicNameInvalid | End::TopicFilterInvalid => {
            Fault::Stopped(format!("{to} does not take the topic{words}: choose another `topic`"))
        }
        End::UseAnotherServer | End::ServerMoved => {
            Fault::Stopped(format!("{to} says that another broker is to be used{words}: correct `url`"))
        }
        other => Fault::Away(format!("{to} ended the connection ({other:?}{words})")),
    }
}

/// What the broker says of it, if anything.
fn words(said: Option<&str>, password: &[Zeroizing<String>]) -> String {
    said.map(|said| format!(": {}", told(said, password))).unwrap_or_default()
}

fn slow(to: &str) -> Fault {
    Fault::Away(format!("{to} did not answer in time"))
}

fn closed(to: &str) -> Fault {
    Fault::Away(format!("{to} closed the connection"))
}

fn mute(to: &str) -> Fault {
    Fault::Away(format!("{to} does not answer to a ping"))
}

/// What came cannot be, by the rules of MQTT.
fn out_of_step(to: &str, error: &dyn std::error::Error) -> Fault {
    Fault::Away(told(&format!("{to} said what was not expected: {error}"), &[""; 0]))
}
