//! What is sent upstream: its streams, how far each is acknowledged, and what the other side would not take.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::entry::{EntryKind, Salt};
use super::{ClockState, Layout, MeterId, Timestamp, Values};

/// A kind of record, with a count of its own. A record's key is `(gateway, epoch, stream, seq)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Signed checkpoints of the log; `seq` is the size of the tree. Only the newest one is ever sent.
    Checkpoints,
    /// Sealed blocks and silences with what opens their entries; `seq` counts them in the order in which they were sealed.
    Blocks,
    /// Each change of an anchor's state.
    Anchors,
    /// Datasets that were exported.
    Datasets,
    /// Alerts as they are raised and as they end.
    Alerts,
    /// Readings as taken; `seq` is the reading's.
    Readings,
    /// What became of readings: re-dated, or lost before they were sent. Goes wherever `readings` goes, before them.
    Notices,
    /// One mean power for each meter and minute, made from readings for receivers that know nothing finer; `seq` is
    /// the minute since 1970 times 4096, plus the meter's place among those of the minute.
    Minutes,
}

impl Stream {
    pub const ALL: [Self; 8] = [
        Self::Checkpoints,
        Self::Blocks,
        Self::Anchors,
        Self::Datasets,
        Self::Alerts,
        Self::Readings,
        Self::Notices,
        Self::Minutes,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoints => "checkpoints",
            Self::Blocks => "blocks",
            Self::Anchors => "anchors",
            Self::Datasets => "datasets",
            Self::Alerts => "alerts",
            Self::Readings => "readings",
            Self::Notices => "notices",
            Self::Minutes => "minutes",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.as_str() == text)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Seqs from `first` to `last`, both of them among it; never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
pub struct Unsent {
    pub first: u64,
    pub last: u64,
}

/// How far one stream of one upstream is acknowledged: all up to `live`, but for what lies in `open`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
pub struct Position {
    /// The last seq of the live lane that is acknowledged, or passed over into `open`; 0 before the first.
    pub live: u64,
    /// What the live lane has leapt over and the backfill has not sent yet: disjoint, increasing, all `<= live`.
    pub open: Vec<Unsent>,
}

/// A reading as it was taken: re-dating, which is sent by itself, leaves it as it is.
#[derive(Clone, Debug)]
pub struct TakenReading {
    pub seq: u64,
    pub time: Timestamp,
    pub since_boot_ms: u64,
    /// The kernel's boot id.
    pub boot: Arc<str>,
    pub clock: ClockState,
    /// Another value for the same quantity and time came first.
    pub conflict: bool,
    pub layout: Arc<Layout>,
    pub values: Values,
}

/// A block's or a silence's entry in the log, opened: what a receiver needs to recompute the leaf.
#[derive(Clone, PartialEq)]
pub struct LoggedBlock {
    pub seq: u64,
    pub epoch: String,
    /// Of the leaf in its epoch.
    pub index: u64,
    pub kind: EntryKind,
    /// Of the entry.
    pub time: Timestamp,
    /// JCS, as it was committed to.
    pub record: Vec<u8>,
    pub salt: Salt,
    pub meter: MeterId,
    /// Of the meter in this epoch.
    pub meter_salt: Salt,
}

/// Without what opens the entry: texts of errors and logs bear no salt.
impl fmt::Debug for LoggedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, epoch, index, meter, .. } = self;
        write!(f, "block {seq} of {meter}, entry {index} of {epoch}")
    }
}

/// A record that is kept as it is sent: an anchor, a dataset, an alert or a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub seq: u64,
    pub epoch: String,
    /// When it came to be.
    pub time: Timestamp,
    /// One JSON object (JCS) with its `seq` in it, without line feed.
    pub line: String,
}

/// A record that the other side would not take, kept until somebody has it sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Given by the store, increasing.
    pub id: u64,
    pub upstream: String,
    pub stream: Stream,
    pub epoch: String,
    pub seq: u64,
    /// As it was sent.
    pub line: String,
    /// What the other side said.
    pub reason: String,
    /// When it was refused last.
    pub at: Timestamp,
    /// How often.
    pub attempts: u32,
}

/// One that is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDeadLetter {
    pub stream: Stream,
    pub epoch: String,
    pub seq: u64,
    pub line: String,
    pub reason: String,
}

/// How an upstream does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamState {
    /// It was not reached yet.
    #[default]
    Starting,
    /// What it was sent last was acknowledged.
    Connected,
    /// It does not answer, or asks for time; tried again with growing pauses.
    Away,
    /// It refuses us: a person must act. Asked again every 15 minutes.
    Stopped,
    /// A secret that it needs is missing.
    Off,
}

/// How one stream of an upstream does. Counters are since start.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StreamStatus {
    pub position: Position,
    /// The newest seq that may be sent.
    pub head: u64,
    /// Seqs that are not acknowledged; holes among them count.
    pub depth: u64,
    /// When the oldest record that is not acknowledged came to be.
    pub oldest: Option<Timestamp>,
    /// Acknowledged.
    pub sent: u64,
    /// Which the other side had already.
    pub repeated: u64,
    pub rejected: u64,
    /// Sent again though it may have arrived, to a receiver that knows no key.
    pub in_doubt: u64,
    /// Which cannot be said in this receiver's words, and were passed over.
    pub skipped: u64,
    /// Acknowledged in the last 60 s.
    pub per_minute: u64,
    pub acknowledged: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// As the config names it: `https`, `mqtt` …
    pub kind: String,
    /// Where it goes to, without secrets.
    pub to: String,
    pub state: UpstreamState,
    /// Since when.
    pub since: Timestamp,
    /// What is wrong, where and what to do; none while all is well.
    pub problem: Option<String>,
    pub retries: u64,
    pub dead_letters: u64,
    /// In order of urgency.
    pub streams: Vec<(Stream, StreamStatus)>,
}

/// All upstreams, by name.
pub type UpstreamsStatus = BTreeMap<String, UpstreamStatus>;

/// What somebody wants of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamOrder {
    /// Tries at once what else waits for its time.
    Flush { upstream: String },
    /// Sends dead letters again: these, or all.
    Replay { upstream: String, ids: Option<Vec<u64>> },
    /// Forgets dead letters: these, or all.
    Discard { upstream: String, ids: Option<Vec<u64>> },
}

/// In words, for the journal: such as `discard dead letters 3, 4 of cloud`.
impl fmt::Display for UpstreamOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flush { upstream } => write!(f, "flush {upstream}"),
            Self::Replay { upstream, ids } => write!(f, "replay {} of {upstream}", dead_letters(ids.as_deref())),
            Self::Discard { upstream, ids } => write!(f, "discard {} of {upstream}", dead_letters(ids.as_deref())),
        }
    }
}

/// Those with these ids, or all. A line of the journal names no more than some.
fn dead_letters(ids: Option<&[u64]>) -> String {
    const NAMED: usize = 20;
    let ids = match ids {
        None => return "all dead letters".to_owned(),
        Some([]) => return "no dead letters".to_owned(),
        Some(ids) => ids,
    };
    let named = ids.iter().take(NAMED).map(u64::to_string).collect::<Vec<_>>().join(", ");
    let more = ids.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("dead {} {named}{more}", if ids.len() == 1 { "letter" } else { "letters" })
}

/// Why it is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamRefused {
    #[error("there is no upstream {0}: `meterseal upstream` lists them")]
    Unknown(String),
    #[error("{0}")]
    Off(String),
    #[error("dead letter {0} is not there: it was sent or discarded meanwhile")]
    NoDeadLetter(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_told_in_words() {
        let upstream = || "cloud".to_owned();
        assert_eq!(UpstreamOrder::Flush { upstream: upstream() }.to_string(), "flush cloud");
        let replay = |ids| UpstreamOrder::Replay { upstream: upstream(), ids }.to_string();
        assert_eq!(replay(None), "replay all dead letters of cloud");
        assert_eq!(replay(Some(vec![])), "replay no dead letters of cloud");
        assert_eq!(replay(Some(vec![3])), "replay dead letter 3 of cloud");
        let discard = |ids| UpstreamOrder::Discard { upstream: upstream(), ids }.to_string();
        assert_eq!(discard(Some(vec![3, 4])), "discard dead letters 3, 4 of cloud");
        let many = discard(Some((1..=500).collect()));
        assert!(many.ends_with(" 19, 20 and 480 more of cloud"), "{many}");
    }
}
