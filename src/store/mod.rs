//! Every durable byte: readings, blocks, alerts, positions, the last good config. Only this room names rusqlite.
//!
//! `evidence.db` holds what is small and precious; raw readings lie in one file for each UTC day of commit. Raw is
//! committed first and blocks follow from it, so no transaction spans both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use crate::clock::Clock;
use crate::model::{Alert, Block, MeterId, Quantity, Reading, Redate, Role, SiteId, Span, StoredReading, Timestamp};

/// Part `[store]` of the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub path: PathBuf,
    /// Readings are durable at the latest this long after they came.
    pub commit_every: Duration,
    pub keep_raw: Duration,
    /// Bytes that raw readings may take.
    pub max_disk: u64,
    /// Bytes set aside for blocks and evidence.
    pub reserve: u64,
}

/// What can be wrong with the store, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no store at {path}: run `meterseal init`, or mount the disk that holds it")]
    Missing { path: PathBuf },
    #[error("there is already a store at {path}")]
    Exists { path: PathBuf },
    /// Another process has it open; where to reach it.
    #[error("the store at {path} is open in process {pid}")]
    Locked { path: PathBuf, pid: u32, socket: Option<PathBuf> },
    #[error("{file} is of version {version}, and this program knows up to {known}: install the newer meterseal again")]
    Newer { file: PathBuf, version: u32, known: u32 },
    #[error("{file} is damaged: {what}")]
    Damaged { file: PathBuf, what: String },
    #[error("the disk of {path} is full")]
    Full { path: PathBuf },
    #[error("the store at {path} cannot be written: {what}")]
    Unwritable { path: PathBuf, what: String },
    #[error("the store is closed")]
    Closed,
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Who keeps this store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub site: SiteId,
    /// First 16 bytes of SHA-256 of the public key, lower-case hex.
    pub gateway: String,
    /// 16 random hex digits.
    pub epoch: String,
}

/// What `init` made. The token is shown once and kept only as its SHA-256.
#[derive(Debug)]
pub struct Created {
    pub identity: Identity,
    pub token: String,
}

/// Makes a new store with the gateway's Ed25519 key and the first API token (scope admin).
pub fn init(config: &Config, site: &SiteId, clock: &Clock) -> Result<Created, StoreError> {
    let _ = (config, site, clock);
    todo!()
}

/// Whether the store at `path` is there and open in no process; fails as [`Store::open`] would. Changes nothing.
pub fn free(path: &Path) -> Result<(), StoreError> {
    let _ = path;
    todo!()
}

/// The open store, held by `agent`: owns the writing threads and the lock.
pub struct Store {}

impl Store {
    /// Opens the store under its lock. `socket` is written into the lock file, for commands to find this process.
    pub fn open(config: Config, clock: Clock, socket: Option<PathBuf>) -> Result<Self, StoreError> {
        let _ = (config, clock, socket);
        todo!()
    }

    pub fn identity(&self) -> &Identity {
        todo!()
    }

    pub fn ingest(&self) -> Ingest {
        todo!()
    }

    pub fn ledger(&self) -> Ledger {
        todo!()
    }

    pub fn reader(&self) -> Reader {
        todo!()
    }

    /// Takes changed limits and intervals; the path stays.
    pub fn reconfigure(&self, config: &Config) {
        let _ = config;
        todo!()
    }

    /// Commits what is queued, flushes and unlocks.
    pub async fn close(self) -> Result<(), StoreError> {
        todo!()
    }
}

/// Where sources hand in readings.
#[derive(Clone)]
pub struct Ingest {}

/// What became of readings that were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub first_seq: u64,
    pub last_seq: u64,
    /// Values that were there already, ignored.
    pub repeated: u64,
}

impl Ingest {
    /// Queues a reading; it is durable within `commit_every`. Waits while the queue is full, so that memory stays
    /// bounded and the source slows down.
    pub async fn offer(&self, reading: Reading) -> Result<(), StoreError> {
        let _ = reading;
        todo!()
    }

    /// Stores readings and returns when they are durable: within 100 ms, or at once when 20 wait.
    pub async fn store(&self, readings: Vec<Reading>) -> Result<Receipt, StoreError> {
        let _ = readings;
        todo!()
    }
}

/// The newest value of one quantity of a meter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Live {
    /// In the quantity's unit.
    pub value: f64,
    pub time: Timestamp,
}

/// The newest committed values by meter and quantity.
pub type LiveValues = BTreeMap<MeterId, BTreeMap<Quantity, Live>>;

/// What one sealing step makes durable, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Sealing {
    pub blocks: Vec<Block>,
    /// Per meter: every block up to this instant is sealed.
    pub sealed_through: Vec<(MeterId, Timestamp)>,
    /// Readings up to this seq have been looked at for lateness.
    pub examined_seq: Option<u64>,
    /// Readings to be moved in time from now on.
    pub redates: Vec<Redate>,
    /// What the block task keeps for itself, by name.
    pub state: Vec<(&'static str, serde_json::Value)>,
}

/// Writes to `evidence.db`, for the tasks that own what they write.
#[derive(Clone)]
pub struct Ledger {}

impl Ledger {
    /// All of `sealing` or nothing. A block whose (meter, start, revision) exists already is an error.
    pub async fn seal(&self, sealing: Sealing) -> Result<(), StoreError> {
        let _ = sealing;
        todo!()
    }

    /// Keeps an alert unless one of its (kind, meter, occasion) exists; its id if it is new.
    pub async fn raise(&self, alert: Alert) -> Result<Option<i64>, StoreError> {
        let _ = alert;
        todo!()
    }

    pub async fn clear_alert(&self, id: i64, at: Timestamp) -> Result<(), StoreError> {
        let _ = (id, at);
        todo!()
    }

    pub async fn alert_delivered(&self, id: i64, at: Timestamp) -> Result<(), StoreError> {
        let _ = (id, at);
        todo!()
    }

    /// Keeps the text of the config that runs.
    pub async fn save_config(&self, text: String) -> Result<(), StoreError> {
        let _ = text;
        todo!()
    }
}

/// Reads; has no write method. Cheap to clone. Its queries run off the async threads on connections of their own.
#[derive(Clone)]
pub struct Reader {}

/// What a token may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Read,
    Ingest,
    Export,
    Admin,
}

/// How the store is doing. Counters are since start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StoreHealth {
    /// Why nothing can be written, for a person; `None` while writing works.
    pub unwritable: Option<String>,
    /// Commits completed: a sign of life for the watchdog.
    pub commits: u64,
    pub readings: u64,
    pub repeated: u64,
    pub conflicts: u64,
    /// Readings given up for want of room, with nobody upstream having them.
    pub lost: u64,
    /// Readings that wait for their commit.
    pub queued: u64,
    pub raw_bytes: u64,
    pub evidence_bytes: u64,
    /// Bytes this process caused to be written to the device since start (Linux, /proc/self/io write_bytes).
    pub written_bytes: u64,
    pub free_bytes: u64,
    /// The reserve has been given up.
    pub reserve_used: bool,
    /// Damaged files that were set aside.
    pub quarantined: Vec<String>,
    pub through_seq: u64,
    pub oldest_raw: Option<Timestamp>,
}

/// Readings of one meter in batches, in order of effective time, then seq. Bounded in memory.
pub struct ReadingStream {}

impl ReadingStream {
    /// The next batch of at most some thousand readings; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Vec<StoredReading>, StoreError>> {
        todo!()
    }
}

impl Reader {
    /// The last committed seq; changes at each commit.
    pub fn committed(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// Each committed batch of readings, for live views; a slow receiver loses the oldest and finds them by seq.
    pub fn feed(&self) -> broadcast::Receiver<Arc<Vec<StoredReading>>> {
        todo!()
    }

    pub fn live(&self) -> Arc<LiveValues> {
        todo!()
    }

    pub fn health(&self) -> StoreHealth {
        todo!()
    }

    pub fn identity(&self) -> &Identity {
        todo!()
    }

    /// A meter's readings with `from <= time < to`.
    pub fn readings(&self, meter: MeterId, from: Timestamp, to: Timestamp) -> ReadingStream {
        let _ = (meter, from, to);
        todo!()
    }

    /// The last reading before `at` that has a value of this role: by effective time, the lowest seq of equals.
    pub async fn last_before(
        &self,
        meter: &MeterId,
        role: Role,
        at: Timestamp,
    ) -> Result<Option<StoredReading>, StoreError> {
        let _ = (meter, role, at);
        todo!()
    }

    /// The first reading at or after `at` that has a value of this role.
    pub async fn first_from(
        &self,
        meter: &MeterId,
        role: Role,
        at: Timestamp,
    ) -> Result<Option<StoredReading>, StoreError> {
        let _ = (meter, role, at);
        todo!()
    }

    /// Readings of all meters after `seq` in order of seq, at most `limit`.
    pub async fn arrivals(&self, seq: u64, limit: usize) -> Result<Vec<StoredReading>, StoreError> {
        let _ = (seq, limit);
        todo!()
    }

    /// A meter's blocks that overlap `span`, the newest revision at each instant, by start. A silence of many blocks
    /// is left out where later revisions cover all of it.
    pub async fn blocks(&self, meter: &MeterId, span: Span) -> Result<Vec<Block>, StoreError> {
        let _ = (meter, span);
        todo!()
    }

    /// Every revision of the block that starts at `start`, the first one first.
    pub async fn revisions(&self, meter: &MeterId, start: Timestamp) -> Result<Vec<Block>, StoreError> {
        let _ = (meter, start);
        todo!()
    }

    /// Up to where each meter is sealed.
    pub async fn sealed_through(&self) -> Result<BTreeMap<MeterId, Timestamp>, StoreError> {
        todo!()
    }

    /// Up to which seq readings have been looked at for lateness.
    pub async fn examined_seq(&self) -> Result<u64, StoreError> {
        todo!()
    }

    pub async fn redates(&self) -> Result<Vec<Redate>, StoreError> {
        todo!()
    }

    /// What the block task keeps for itself.
    pub async fn state(&self, name: &'static str) -> Result<Option<serde_json::Value>, StoreError> {
        let _ = name;
        todo!()
    }

    /// Alerts, the newest first.
    pub async fn alerts(&self, open_only: bool, limit: usize) -> Result<Vec<Alert>, StoreError> {
        let _ = (open_only, limit);
        todo!()
    }

    /// What the bearer of this token may do; `None` for an unknown one. Compares digests in constant time.
    pub fn scope_of(&self, token: &str) -> Option<Scope> {
        let _ = token;
        todo!()
    }

    /// The text of the last config that was good.
    pub async fn last_good_config(&self) -> Result<Option<String>, StoreError> {
        todo!()
    }
}
