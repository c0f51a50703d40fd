//! Every durable byte: readings, blocks, alerts, positions, the last good config. Only this room names rusqlite.
//!
//! `evidence.db` holds what is small and precious; raw readings lie in one file for each UTC day of commit. Raw is
//! committed first and blocks follow from it, so no transaction spans both.

mod access;
mod anchors;
mod backup;
mod codec;
mod events;
mod evidence;
mod home;
mod jobs;
mod ledger;
mod live;
mod lock;
mod log;
mod lost;
mod objects;
mod opening;
mod owner;
mod pool;
mod queue;
mod raw;
mod reader;
mod reserve;
mod retention;
mod search;
mod sqlite;
mod taken;
#[cfg(test)]
mod tests;
mod upstream;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use utoipa::ToSchema;

use crate::clock::Clock;
use crate::model::note::{SignedCheckpoint, VerifierKey};
use crate::model::{
    Alert, Block, Commissioning, Interval, MeterId, Quantity, Reading, Redate, SiteId, Timestamp, Unsent, entry,
};
pub use access::{
    Access, AccessChange, AccessRefused, AuditEntry, AuditPlace, KeptPin, KeptTotp, Lockout, Role, Second, Token,
};
pub use anchors::Reach;
pub use backup::{
    AtRest, BackupError, BadBackup, Head as BackupHead, Inventory, RestoreError, Restored, RestoredFrom, Still,
    Written as BackupWritten, check as check_backup, restore, write as write_backup,
};
use evidence::Evidence;
pub use jobs::{Dropped, Held, JOBS, JobEnd, NoRoom};
use lock::Lock;
pub use log::{Append, Epoch, LogPlace, Opening, Succession};
pub use objects::Change;
pub use owner::hand_over;
pub use reader::{Reader, ReadingStream};
pub use taken::TakenCursor;
use writer::Writer;

/// Part `[store]` of the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub path: PathBuf,
    /// Readings are durable at the latest this long after they came.
    pub commit_every: Duration,
    pub keep_raw: Duration,
    /// Bytes that raw readings and the bundles of exports may take together.
    pub max_disk: u64,
    /// Bytes set aside for blocks and evidence.
    pub reserve: u64,
}

/// What can be wrong with the store, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "there is no store at {path}: mount the disk that holds it, or, on a gateway that never ran, run `meterseal init`"
    )]
    Missing { path: PathBuf },
    #[error("there is already a store at {path}")]
    Exists { path: PathBuf },
    /// Another process has it open; where to reach it.
    #[error("the store at {path} is open in process {pid}")]
    Locked { path: PathBuf, pid: u32, socket: Option<PathBuf> },
    #[error("{file} is of version {version}, and this program knows up to {known}: install the newer meterseal again")]
    Newer { file: PathBuf, version: u32, known: u32 },
    /// Whoever only looks leaves it as it is.
    #[error("the store at {path} {what} when the daemon starts, and is not looked into before")]
    Due { path: PathBuf, what: String },
    #[error("{file} is damaged: {what}")]
    Damaged { file: PathBuf, what: String },
    #[error(
        "the disk of {path} is full: make room, and writing goes on by itself; nothing that is stored is deleted for it"
    )]
    Full { path: PathBuf },
    #[error("the store at {path} cannot be written: {what}")]
    Unwritable { path: PathBuf, what: String },
    /// Blocks are never overwritten.
    #[error("revision {revision} of the block of meter {meter} at {start} is already sealed")]
    Sealed { meter: MeterId, start: Timestamp, revision: u32 },
    /// It is an anchor's that may still be mined, or was.
    #[error("nonce {nonce} of the account is already that of anchor {anchor}")]
    NonceTaken { nonce: u64, anchor: u64 },
    #[error("another backup of the store at {path} is being made: wait for its end")]
    BackingUp { path: PathBuf },
    #[error("the files of the store at {path} are read all the time and cannot hold still: try again")]
    Busy { path: PathBuf },
    #[error("there is no anchor {0}")]
    NoAnchor(u64),
    /// This user may not use it, whether it is there or not.
    #[error(
        "no permission to use {path}: run meterseal as root or as the user that owns the store; if root left files in it \
         that are root's, give them to that user with `chown -R`"
    )]
    Forbidden { path: PathBuf },
    #[error("the store is closed")]
    Closed,
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: std::io::Error },
}

impl StoreError {
    /// The disk is full, away or not to be written: it may come back, and the store goes on then by itself.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Unwritable { .. } | Self::Io { .. })
    }

    /// What an error of the file system at `path` means to the caller.
    fn of_io(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::PermissionDenied => Self::Forbidden { path },
            ErrorKind::ReadOnlyFilesystem => Self::Unwritable { path, what: source.to_string() },
            ErrorKind::StorageFull => Self::Full { path },
            _ => Self::Io { path, source },
        }
    }

    /// The same, for one more who waits for it.
    fn again(&self) -> Self {
        match self {
            Self::Full { path } => Self::Full { path: path.clone() },
            Self::Damaged { file, what } => Self::Damaged { file: file.clone(), what: what.clone() },
            Self::Unwritable { path, what } => Self::Unwritable { path: path.clone(), what: what.clone() },
            Self::Io { path, source } => Self::Unwritable { path: path.clone(), what: source.to_string() },
            Self::Forbidden { path } => Self::Forbidden { path: path.clone() },
            other => Self::Unwritable { path: PathBuf::new(), what: other.to_string() },
        }
    }
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

impl Identity {
    /// The origin of the log's epoch.
    pub fn origin(&self) -> String {
        entry::origin(self.site.as_str(), &self.gateway, &self.epoch)
    }
}

/// Whether the first API token is made with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstToken {
    Made,
    Absent,
}

/// What [`init_without_token`] made.
#[derive(Debug)]
pub struct Tokenless {
    pub identity: Identity,
    /// Signs the log.
    pub key: VerifierKey,
}

/// What `init` made. The token is shown once and kept only as its SHA-256.
#[derive(Debug)]
pub struct Created {
    pub identity: Identity,
    /// Signs the log.
    pub key: VerifierKey,
    pub token: String,
}

/// Makes a new store with the gateway's Ed25519 key and the first API token (scope admin).
pub fn init(config: &Config, site: &SiteId, clock: &Clock) -> Result<Created, StoreError> {
    evidence::init(&config.path, site, clock, FirstToken::Made)
}

/// The same without a token: for a package, whose words land in logs.
pub fn init_without_token(config: &Config, site: &SiteId, clock: &Clock) -> Result<Tokenless, StoreError> {
    let Created { identity, key, token: _ } = evidence::init(&config.path, site, clock, FirstToken::Absent)?;
    Ok(Tokenless { identity, key })
}

/// Whether the store at `path` is there and open in no process; fails as [`Store::open`] would. Changes nothing.
pub fn free(path: &Path) -> Result<(), StoreError> {
    evidence::find(path)?;
    evidence::version(path)?;
    Lock::is_free(path)
}

/// Batches that a slow listener to a feed may lag behind before it loses the oldest; the store still has them.
const FEED: usize = 32;

/// What the writing thread, the readers and the ledger have in common.
struct Shared {
    root: PathBuf,
    clock: Clock,
    /// `None` once the store is closed. Never asked for while `evidence` is held.
    lock: Mutex<Option<Lock>>,
    /// Another one after a succession.
    identity: RwLock<Arc<Identity>>,
    /// As it was last committed.
    access: RwLock<Arc<Access>>,
    access_changed: watch::Sender<u64>,
    /// When tokens were last used since the store was opened, by their id.
    tokens_used: Mutex<BTreeMap<i64, Timestamp>>,
    config: RwLock<Config>,
    evidence: Mutex<Evidence>,
    /// By first seq; only the writing thread adds and removes.
    raw: RwLock<Vec<Arc<raw::RawFile>>>,
    redates: RwLock<Arc<Vec<Redate>>>,
    pool: pool::Pool,
    queue: queue::Queue,
    /// What holds still for a backup.
    still: Mutex<Option<backup::Frozen>>,
    /// How many backups there were since the store was opened.
    stills: Mutex<u64>,
    reserve: Mutex<reserve::Reserve>,
    live: Mutex<live::LiveMeters>,
    committed: watch::Sender<u64>,
    feed: broadcast::Sender<Arc<Vec<crate::model::StoredReading>>>,
    sealed: broadcast::Sender<Arc<Vec<Block>>>,
    /// Counts the changes of export jobs.
    jobs_changed: watch::Sender<u64>,
    /// Counts what may have moved a head of what is sent upstream.
    sendable: watch::Sender<u64>,
    /// Held while committed readings are shown, and while an epoch begins: none is shown before it is known to which one it
    /// belongs. Taken after `evidence`.
    showing: Mutex<()>,
    since_open: Mutex<log::Since>,
    /// The last seq that may have been given out before the store was opened.
    given_before: AtomicU64,
    /// Seqs that were never used, since an end that was none left open how far they had gone.
    unused: RwLock<Arc<[Unsent]>>,
    /// Up to this seq raw files were deleted though older ones stay.
    hole: AtomicU64,
    /// Taken after `evidence`, never before it.
    holds: Mutex<jobs::Holds>,
    counters: Counters,
    /// Why the last commit failed.
    trouble: RwLock<Option<String>>,
    /// Raw files in which a reader met damage, by first seq, for the writing thread to set aside.
    damaged: Mutex<Vec<u64>>,
    quarantined: RwLock<Vec<String>>,
    evidence_damage: RwLock<Option<String>>,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    readings: AtomicU64,
    repeated: AtomicU64,
    conflicts: AtomicU64,
    /// Seqs that were given up before every upstream had them.
    lost: AtomicU64,
    /// Chunks and rows of tails that were unpacked to compare readings with what is there.
    #[cfg(test)]
    unpacked: AtomicU64,
}

impl Counters {
    fn add(&self, readings: usize, repeated: u64, conflicts: u64) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.readings.fetch_add(readings as u64, Ordering::Relaxed);
        self.repeated.fetch_add(repeated, Ordering::Relaxed);
        self.conflicts.fetch_add(conflicts, Ordering::Relaxed);
    }

    #[allow(clippy::unused_self, reason = "it is counted in tests alone")]
    fn unpacks(&self) {
        #[cfg(test)]
        self.unpacked.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn files(&self) -> Vec<Arc<raw::RawFile>> {
        read(&self.raw).clone()
    }

    fn has_file(&self, first_seq: u64) -> bool {
        read(&self.raw).iter().any(|file| file.first_seq == first_seq)
    }

    fn report_damage(&self, first_seq: u64) {
        mutex(&self.damaged).push(first_seq);
        self.queue.nudge();
    }

    /// Writes to `evidence.db`, at the cost of the reserve when the disk is full.
    fn write_evidence<T>(&self, work: impl Fn(&mut Evidence) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.at_home()?;
        let mut evidence = mutex(&self.evidence);
        evidence.in_place()?;
        loop {
            match work(&mut evidence) {
                Err(StoreError::Full { .. }) if mutex(&self.reserve).give(true) => {
                    tracing::warn!("the disk is full: blocks and alerts go on in the reserve");
                }
                outcome => return outcome,
            }
        }
    }

    fn tell_sendable(&self) {
        self.sendable.send_modify(|count| *count += 1);
    }

    fn keep_state(&self, name: &'static str, value: &impl Serialize) -> Result<(), StoreError> {
        let value = serde_json::to_value(value).unwrap_or_default();
        let sealing = Sealing { state: vec![(name, value)], ..Sealing::default() };
        self.write_evidence(|evidence| ledger::seal(evidence, &sealing, self.clock.now()))
    }
}

/// Nothing is left half-changed under these locks by a panic, so their content is taken as it is.
fn mutex<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    // A panic in the work goes on in the caller; the runtime's end is the store's end.
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Closed),
        },
    }
}

/// The open store, held by `agent`: owns the writing thread and the lock.
pub struct Store {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// While it is only looked into; goes last.
    look: Option<opening::Look>,
}

impl Store {
    pub fn identity(&self) -> Arc<Identity> {
        read(&self.shared.identity).clone()
    }

    pub fn ingest(&self) -> Ingest {
        Ingest { shared: self.shared.clone() }
    }

    pub fn ledger(&self) -> Ledger {
        Ledger { shared: self.shared.clone() }
    }

    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// Takes changed limits and intervals; the path stays.
    pub fn reconfigure(&self, config: &Config) {
        let path = self.shared.root.clone();
        mutex(&self.shared.reserve).resize(config.reserve);
        *write(&self.shared.config) = Config { path, ..config.clone() };
        self.shared.queue.nudge();
    }

    /// Does at once what is else done from time to time: packs what lies in arrival order into chunks, and looks
    /// after reserve, age and room.
    pub async fn tidy(&self) {
        self.shared.queue.tidy().await;
    }

    /// Commits what is queued, flushes and unlocks.
    pub async fn close(self) -> Result<(), StoreError> {
        blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A backup that goes on would keep the last checkpoint waiting; it is told that it lost its hold.
        *mutex(&self.shared.still) = None;
        self.shared.queue.stop();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writing thread of the store had panicked");
        }
        self.shared.pool.clear();
        if self.look.is_none() {
            owner::hand_over(&self.shared.root, &self.shared.root);
        }
        // Readers may live on; the store is free all the same.
        *mutex(&self.shared.lock) = None;
    }
}

/// Where sources hand in readings.
#[derive(Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
}

/// What became of readings that were stored. When all of it was there already, `last_seq` lies before `first_seq`.
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
        self.shared.queue.offer(reading).await
    }

    /// Stores readings and returns when they are durable: within 100 ms, or at once when 20 wait.
    pub async fn store(&self, readings: Vec<Reading>) -> Result<Receipt, StoreError> {
        self.shared.queue.store(readings).await
    }
}

/// The newest value of one quantity of a meter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Live {
    /// In the quantity's unit.
    pub value: f64,
    pub time: Timestamp,
    /// The value is the energy of an interval, and no register's.
    pub interval: Option<Interval>,
}

/// The newest committed values by meter and quantity.
pub type LiveValues = BTreeMap<MeterId, BTreeMap<Quantity, Live>>;

/// What one sealing step makes durable, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Sealing {
    pub blocks: Vec<Block>,
    /// Meters whose blocks get no entry in the log: they are made up from outside.
    pub unlogged: BTreeSet<MeterId>,
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
pub struct Ledger {
    shared: Arc<Shared>,
}

impl Ledger {
    /// All of `sealing` or nothing. A block whose (meter, start, revision) exists already is an error.
    pub async fn seal(&self, sealing: Sealing) -> Result<(), StoreError> {
        let moved = !sealing.redates.is_empty();
        let shared = self.shared.clone();
        blocking(move || {
            shared.write_evidence(|evidence| {
                ledger::seal(evidence, &sealing, shared.clock.now())?;
                if moved {
                    *write(&shared.redates) = Arc::new(evidence.redates()?);
                }
                Ok(())
            })?;
            if moved {
                shared.tell_sendable();
            }
            if !sealing.blocks.is_empty() {
                // Without a listener there is nobody to tell.
                shared.sealed.send(Arc::new(sealing.blocks)).ok();
            }
            Ok(())
        })
        .await
    }

    /// Keeps an alert unless one of its (kind, meter, occasion) exists or its kind is off; its id if it is new.
    pub async fn raise(&self, alert: Alert) -> Result<Option<i64>, StoreError> {
        let now = self.shared.clock.now();
        let raised = self
            .write(move |connection| {
                let transaction = connection.unchecked_transaction()?;
                let id = ledger::raise(&transaction, &alert, now)?;
                transaction.commit()?;
                Ok(id)
            })
            .await?;
        self.shared.tell_sendable();
        Ok(raised)
    }

    /// The number of each of these meters, which stays the same for ever. Those that have none are given one.
    pub async fn meter_numbers(&self, meters: Vec<MeterId>) -> Result<BTreeMap<MeterId, i64>, StoreError> {
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            let numbers = meters.iter().map(|meter| Ok((meter.clone(), ledger::meter_number(&transaction, meter)?)));
            let numbers = numbers.collect::<rusqlite::Result<_>>()?;
            transaction.commit()?;
            Ok(numbers)
        })
        .await
    }

    /// Adds a commissioning record.
    pub async fn commission(&self, record: Commissioning) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| ledger::commission(connection, &record, now)).await
    }

    /// Has the log commit to all of this or to nothing; the place of each entry.
    pub async fn append(&self, wanted: Vec<Append>) -> Result<Vec<LogPlace>, StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            let epoch = log::kept_identity(&transaction)?.epoch;
            let indices = log::append_all(&transaction, now, &wanted)?;
            transaction.commit()?;
            Ok(indices.into_iter().map(|index| LogPlace { epoch: epoch.clone(), index }).collect())
        })
        .await
    }

    /// Signs the log as it is. The checkpoint is durable before it is returned, and the same again while nothing was
    /// appended.
    pub async fn checkpoint(&self) -> Result<SignedCheckpoint, StoreError> {
        let now = self.shared.clock.now();
        let signed = self.write(move |connection| log::checkpoint(connection, now)).await?;
        self.shared.tell_sendable();
        Ok(signed)
    }

    /// Ends the epoch of the log and opens the next one; who keeps the store from then on.
    pub async fn succeed(&self, wish: Succession) -> Result<Arc<Identity>, StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            shared.write_evidence(|evidence| {
                // No reading is shown before this is over, so that whoever saw it committed finds the epoch that it is of.
                let _showing = mutex(&shared.showing);
                let next_seq = *shared.committed.borrow() + 1;
                let mut since_open = mutex(&shared.since_open);
                let connection = &evidence.connection;
                let next = log::succeed(connection, &wish, (next_seq, &since_open), shared.clock.now());
                let next = Arc::new(next.map_err(|error| evidence.fault(error))?);
                *write(&shared.identity) = next.clone();
                if wish.since_open {
                    // Nobody else has written to the new one.
                    *since_open = log::Since::now(connection, next_seq).map_err(|error| evidence.fault(error))?;
                }
                Ok(next)
            })
        })
        .await
        .inspect(|_| self.shared.tell_sendable())
    }

    pub async fn clear_alert(&self, id: i64, at: Timestamp) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            ledger::clear_alert(&transaction, id, at, now)?;
            transaction.commit()
        })
        .await?;
        self.shared.tell_sendable();
        Ok(())
    }

    pub async fn alert_delivered(&self, id: i64, at: Timestamp) -> Result<(), StoreError> {
        self.write(move |connection| ledger::alert_delivered(connection, id, at)).await
    }

    /// Keeps the text of the config that runs.
    pub async fn save_config(&self, text: String) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| ledger::save_config(connection, &text, now)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            shared.write_evidence(|evidence| work(&evidence.connection).map_err(|error| evidence.fault(error)))
        })
        .await
    }
}

/// What a token may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Read,
    Ingest,
    Export,
    Admin,
}

/// Who shows a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bearer {
    /// The token's.
    pub name: String,
    pub scope: Scope,
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
    /// Seqs of readings that went before every upstream had them, for want of room, for their age or for damage. A full
    /// disk gives up none: readings wait, and polling with them.
    pub lost: u64,
    /// Readings that wait for their commit.
    pub queued: u64,
    pub raw_bytes: u64,
    pub evidence_bytes: u64,
    /// Bytes this process caused to be written to the device since start (Linux, /proc/self/io write_bytes).
    pub written_bytes: u64,
    pub free_bytes: u64,
    /// The disk is full, and the reserve is being written into.
    pub reserve_used: bool,
    /// Damaged files that were set aside.
    pub quarantined: Vec<String>,
    pub through_seq: u64,
    /// From here on all raw readings are there that came.
    pub oldest_raw: Option<Timestamp>,
}
