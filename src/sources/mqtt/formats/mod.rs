//! What the payloads of publishing meters mean: one decoder for each format. No I/O, and no clock: the arrival of a
//! message is an argument. A decoder never guesses: what cannot be attributed to a meter, or to an instant, is left out
//! with its reason.
//!
//! A value that cannot be read costs nothing else of its message. What a device says instead of a number (`null`,
//! `nan`, an empty text) is absent, not a fault.

mod acrel;
mod json;
mod plain;
mod shelly;
mod tasmota;
mod time;
mod topic;
mod tree;

pub use json::{BadPointer, Json, Pointed, Pointer};
pub use plain::Plain;
pub use time::TimeFormat;

use jiff::tz::TimeZone;

use crate::model::{Number, Quantity, Ratio, Stamp, Timestamp};
use topic::Filter;

/// How the messages of one subscription are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Acrel ADW3xx, `json-v2`: numbered points; one sample may be split over two messages.
    Acrel,
    /// Any JSON, by pointers.
    Json(Json),
    /// One number.
    Plain(Plain),
    /// Shelly from its second generation on. Each value comes by `<prefix>/status/…` and again, with the device's time,
    /// by `<prefix>/events/rpc`: subscribing to one of them is enough.
    Shelly,
    /// Tasmota, whose clock shows the local time of `zone`.
    Tasmota { zone: TimeZone },
}

/// One message as it came.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// The broker had it in store when we subscribed: it may be of any age.
    pub retained: bool,
}

/// A name that the client gives to a message, to acknowledge it by.
pub type Ticket = u64;

/// What became of one message. Once its samples are stored it can be acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    pub ticket: Ticket,
    /// None where the message says nothing of a meter, which is no fault.
    pub samples: Vec<Sample>,
    /// Why something of it was left out; the first reason where there are several.
    pub fault: Option<Fault>,
}

/// Values of one meter at one instant, out of one message. Never without values, never more than 255.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What the meter calls itself: a serial number, or the part of the topic that tells it from others. 1 to 128 bytes
    /// without control characters.
    pub meter: String,
    /// By the device's own clock where that is believable; `None`: the arrival counts.
    pub time: Option<Timestamp>,
    /// Of different quantities.
    pub values: Vec<Value>,
}

/// `number × scale` is the value in the unit of `quantity`.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub quantity: Quantity,
    /// As it was sent.
    pub number: Number,
    pub scale: Ratio,
}

/// Something of a message was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    pub reason: Reason,
    /// The first bytes of the payload, all others than printable ASCII escaped.
    pub beginning: String,
}

/// Why something of a message was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is not written as the format says. Names places of the format, never text of the message.
    #[error("{0}")]
    Malformed(String),
    /// The broker kept it for new subscribers, so it can be of any age, and it does not say when it was measured.
    #[error("retained by the broker, and without a believable time of its own")]
    Undated,
    /// The half of a sample without the serial number: no other half came for it in time, several meters sent at that
    /// instant, or too many halves waited.
    #[error("without a serial number, and no other half told which meter it is of")]
    NoSerial,
}

/// Reads the messages of one subscription. Keeps what it must know of earlier messages, within stated bounds whatever
/// comes.
pub struct Decoder {
    kind: Kind,
    filter: Filter,
}

enum Kind {
    Acrel(Box<acrel::Joiner>),
    Json(Json),
    Plain(Plain),
    Shelly(shelly::Components),
    Tasmota(tasmota::Device),
}

/// A longer topic is no meter's.
const LONGEST_TOPIC: usize = 512;

/// Samples of one message.
const MOST_SAMPLES: usize = 256;

/// Values of one sample: a reading names them by a byte.
const MOST_VALUES: usize = 255;

/// Bytes of a payload that a fault shows.
const SHOWN: usize = 64;

impl Decoder {
    /// `filter` is the topic filter of the subscription: where neither message nor format names a meter, the levels
    /// that its wildcards stand for do, and the whole topic where it has none.
    pub fn new(format: Format, filter: &str) -> Self {
        let kind = match format {
            Format::Acrel => Kind::Acrel(Box::default()),
            Format::Json(json) => Kind::Json(json),
            Format::Plain(plain) => Kind::Plain(plain),
            Format::Shelly => Kind::Shelly(shelly::Components::new()),
            Format::Tasmota { zone } => Kind::Tasmota(tasmota::Device::new(zone)),
        };
        Self { kind, filter: Filter::new(filter) }
    }

    /// Reads a message. What is settled by it may be this message, others that waited for it, or none: it is held then,
    /// until a later message or `expire` settles it.
    pub fn take(&mut self, ticket: Ticket, message: &Message<'_>, arrival: &Stamp) -> Vec<Settled> {
        if message.topic.len() > LONGEST_TOPIC {
            let decoded = Decoded::fault(format!("a topic of more than {LONGEST_TOPIC} bytes"));
            return vec![decoded.settled(ticket, message.retained, || beginning(message.payload))];
        }
        let decoded = match &mut self.kind {
            Kind::Acrel(joiner) => return joiner.take(ticket, message, arrival),
            Kind::Json(json) => json.decode(message, arrival, &self.filter),
            Kind::Plain(plain) => plain.decode(message, &self.filter),
            Kind::Shelly(components) => components.decode(message, arrival),
            Kind::Tasmota(device) => device.decode(message, arrival),
        };
        vec![decoded.settled(ticket, message.retained, || beginning(message.payload))]
    }

    /// Gives back what was held for too long.
    pub fn expire(&mut self, since_boot_ms: u64) -> Vec<Settled> {
        match &mut self.kind {
            Kind::Acrel(joiner) => joiner.expire(since_boot_ms),
            _ => Vec::new(),
        }
    }

    /// When `expire` has something to give back, in milliseconds since boot; `None` while nothing is held.
    pub fn next_expiry(&self) -> Option<u64> {
        match &self.kind {
            Kind::Acrel(joiner) => joiner.next_expiry(),
            _ => None,
        }
    }

    /// Forgets the messages that are held: their connection is gone, and the broker sends them again.
    pub fn drop_held(&mut self) {
        if let Kind::Acrel(joiner) = &mut self.kind {
            joiner.drop_held();
        }
    }
}

/// What one message says, before the rule of retained messages.
#[derive(Default)]
struct Decoded {
    samples: Vec<Sample>,
    reason: Option<Reason>,
}

impl Decoded {
    fn fault(why: impl Into<String>) -> Self {
        Self { samples: Vec::new(), reason: Some(Reason::Malformed(why.into())) }
    }

    fn complain(&mut self, why: impl Into<String>) {
        self.reason.get_or_insert_with(|| Reason::Malformed(why.into()));
    }

    /// Adds a sample, unless it is empty.
    fn add(&mut self, sample: Sample) {
        if sample.values.is_empty() {
            return;
        }
        if self.samples.len() < MOST_SAMPLES {
            self.samples.push(sample);
        } else {
            self.complain(format!("more than {MOST_SAMPLES} samples"));
        }
    }

    fn settled(mut self, ticket: Ticket, retained: bool, beginning: impl FnOnce() -> String) -> Settled {
        if retained {
            let before = self.samples.len();
            self.samples.retain(|sample| sample.time.is_some());
            if self.samples.len() < before {
                self.reason.get_or_insert(Reason::Undated);
            }
        }
        let fault = self.reason.map(|reason| Fault { reason, beginning: beginning() });
        Settled { ticket, samples: self.samples, fault }
    }
}

fn beginning(payload: &[u8]) -> String {
    let shown = payload.get(..SHOWN).unwrap_or(payload).escape_ascii().to_string();
    if payload.len() > SHOWN { shown + "…" } else { shown }
}

/// A meter's name as it may be shown and stored.
fn meter_name(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = (1..=128).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

/// A quantity and its scale in a format's own table; `None` for a name that is no quantity, which a test rules out.
fn field(quantity: &str, scale: (i64, i64)) -> Option<(Quantity, Ratio)> {
    Some((quantity.parse().ok()?, Ratio::new(scale.0, scale.1)?))
}

#[cfg(test)]
mod tests;
