//! Meters as the rooms speak of them, and what is known of how well they answer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Energy, Identity, LineName, MeterId, Quantity, Setup, Timestamp};

/// What a meter stands at. Positive power is what the name says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Category {
    /// Produces.
    #[serde(rename = "PROD")]
    Prod,
    /// Consumes.
    #[serde(rename = "CONS")]
    Cons,
    /// Charges.
    #[serde(rename = "STOR")]
    Stor,
    /// Injects into the grid.
    #[serde(rename = "INJ")]
    Inj,
}

impl Category {
    pub const NAMES: &'static str = "PROD, CONS, STOR, INJ";

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prod => "PROD",
            Self::Cons => "CONS",
            Self::Stor => "STOR",
            Self::Inj => "INJ",
        }
    }

    /// True where positive power and positive `kwh` are import (CONS, STOR), false where they are export (PROD, INJ).
    pub fn counts_import(self) -> bool {
        matches!(self, Self::Cons | Self::Stor)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Category {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "PROD" => Self::Prod,
            "CONS" => Self::Cons,
            "STOR" => Self::Stor,
            "INJ" => Self::Inj,
            _ => return Err(()),
        })
    }
}

/// A meter of the running config, measured or summed: what the page and the alerts need to know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Meter {
    pub id: MeterId,
    pub name: String,
    pub category: Category,
    pub origin: Origin,
    /// Polling interval in ms; `None` for a meter without one.
    pub interval_ms: Option<u32>,
    /// The energy one block shall not exceed.
    pub peak_target: Option<Energy>,
    pub simulated: bool,
}

/// Where a meter's blocks come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A unit on a Modbus line.
    Modbus { line: LineName, unit: u8, template: String, verified: bool },
    /// A publisher on an MQTT broker, by what it calls itself.
    Mqtt { broker: LineName, name: String },
    /// A program that makes up its readings and hands them in. Its blocks are neither logged nor sent.
    Simulator,
    /// Made of other meters, block by block.
    Sum { add: Vec<MeterId>, subtract: Vec<MeterId> },
}

/// How a meter is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Not asked yet.
    Starting,
    /// The last poll gave values.
    Answering,
    /// No answer; asked again with growing pauses.
    Silent,
    /// Answers, but refuses what it is asked (exceptions), or answers nonsense.
    Refusing,
}

/// What the source knows of one meter. Counters are since start.
#[derive(Clone, Debug, Serialize)]
pub struct MeterStatus {
    pub condition: Condition,
    /// Since when the condition holds.
    pub since: Timestamp,
    pub last_answer: Option<Timestamp>,
    /// What its config says of it; `None` for meters without one. The identity was read under it.
    #[serde(skip)]
    pub setup: Option<Arc<Setup>>,
    /// What the meter said of itself; `None` until it was asked, and for meters that are not asked.
    pub identity: Option<Identity>,
    /// What went wrong last, for a person; `None` when nothing did.
    pub problem: Option<String>,
    /// Registers the meter refused: they are left out and asked again rarely.
    pub refused_registers: Vec<u16>,
    pub polls: u64,
    pub answers: u64,
    pub timeouts: u64,
    pub exceptions: u64,
    pub bad_answers: u64,
}

impl MeterStatus {
    /// Of a meter that nothing is known of yet.
    pub fn starting(now: Timestamp) -> Self {
        Self {
            condition: Condition::Starting,
            since: now,
            last_answer: None,
            setup: None,
            identity: None,
            problem: None,
            refused_registers: Vec::new(),
            polls: 0,
            answers: 0,
            timeouts: 0,
            exceptions: 0,
            bad_answers: 0,
        }
    }

    /// It has given values.
    pub fn answered(&mut self, now: Timestamp) {
        if self.condition != Condition::Answering {
            self.condition = Condition::Answering;
            self.since = now;
        }
        self.last_answer = Some(now);
        self.answers += 1;
        self.problem = None;
    }
}

/// What the source knows of one line or gateway.
#[derive(Clone, Debug, Serialize)]
pub struct LineStatus {
    pub connected: bool,
    pub since: Timestamp,
    pub problem: Option<String>,
    pub connects: u64,
    pub requests: u64,
    /// Answers that came after their time-out, thrown away.
    pub late_answers: u64,
    /// Bytes on a serial line that were no right answer; what follows a first one is asked once more.
    pub damaged_answers: u64,
}

/// What the source knows of one broker.
#[derive(Clone, Debug, Serialize)]
pub struct BrokerStatus {
    pub connected: bool,
    pub since: Timestamp,
    pub problem: Option<String>,
    pub connects: u64,
    pub messages: u64,
    pub last_message: Option<Timestamp>,
    /// Connected, and nothing has come for long.
    pub silent: bool,
    /// Values that were there already.
    pub repeated: u64,
    /// Messages that the broker keeps for new subscribers, with values that bear no time of their own: no readings.
    pub undated: u64,
    /// Messages that could not be read, and the last of them.
    pub malformed: u64,
    pub last_malformed: Option<MalformedMessage>,
    /// Messages on topics that no subscription of the config takes.
    pub unasked: u64,
    /// Meters that were heard and are not declared; messages of still others are only counted.
    pub proposals: Vec<Proposal>,
    pub unnamed: u64,
}

/// A message that could not be read.
#[derive(Clone, Debug, Serialize)]
pub struct MalformedMessage {
    pub topic: String,
    pub time: Timestamp,
    /// What is wrong with it, for a person.
    pub reason: String,
    /// How its payload begins, escaped.
    pub payload: String,
}

/// A meter that was heard and is not declared.
#[derive(Clone, Debug, Serialize)]
pub struct Proposal {
    /// What it calls itself.
    pub name: String,
    /// Where it was heard first.
    pub topic: String,
    pub first: Timestamp,
    pub last: Timestamp,
    pub messages: u64,
    pub quantities: Vec<Quantity>,
}

/// All that the sources publish of themselves, once a second at most.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourcesStatus {
    pub meters: BTreeMap<MeterId, MeterStatus>,
    pub lines: BTreeMap<LineName, LineStatus>,
    pub brokers: BTreeMap<LineName, BrokerStatus>,
    /// Poll attempts completed since start, answered or not: the watchdog's sign of life.
    pub attempts: u64,
    /// Readings that a full queue to the store made wait.
    pub waits: u64,
}

/// One poll of one meter, for a person: what `meterseal read` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PollReport {
    pub meter: MeterId,
    pub time: Timestamp,
    /// What the meter says that it is, when it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    pub values: Vec<PolledValue>,
    /// What a person had better change, in a sentence: the order of words under which the values would make sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// One register of a poll.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolledValue {
    pub quantity: Quantity,
    /// In the quantity's unit; `None` when absent.
    pub value: Option<f64>,
    /// Zero-based protocol address of the first register.
    pub register: u16,
    pub words: Vec<u16>,
    /// The power of ten that a SunSpec device gave beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub scale_factor: Option<i16>,
    /// Why there is no value: a sentinel, an exception, no answer.
    pub absent: Option<String>,
    /// Of two or more words: what they would say in each order that a template can name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_order: BTreeMap<String, Option<f64>>,
}
