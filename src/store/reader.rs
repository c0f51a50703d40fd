//! The reading side: no write method. Queries run off the async threads, on connections of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{broadcast, watch};

use super::search::{Cursor, Side};
use super::{
    Identity, LiveValues, Shared, StoreError, StoreHealth, backup, blocking, evidence, ledger, mutex, read, search,
    sqlite, writer,
};
use crate::model::{Alert, Block, Commissioning, Layout, MeterId, Redate, Role, Span, StoredReading, Timestamp};

/// Reads. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

/// Readings of one meter in batches, in order of effective time, then seq. Bounded in memory.
pub struct ReadingStream {
    /// Away while a step runs; gone for good when that step was given up.
    cursor: Option<Box<Cursor>>,
}

impl ReadingStream {
    /// The next batch of at most some thousand readings; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Vec<StoredReading>, StoreError>> {
        let mut cursor = self.cursor.take()?;
        let step = blocking(move || {
            let batch = cursor.step();
            Ok((cursor, batch))
        });
        match step.await {
            Ok((cursor, Some(Ok(batch)))) => {
                self.cursor = Some(cursor);
                Some(Ok(batch))
            }
            Ok((_, outcome)) => outcome,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The last committed seq; changes at each commit.
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.shared.committed.subscribe()
    }

    /// Each committed batch of readings, for live views; a slow receiver loses the oldest and finds them by seq.
    pub fn feed(&self) -> broadcast::Receiver<Arc<Vec<StoredReading>>> {
        self.shared.feed.subscribe()
    }

    /// The blocks of each sealing, revisions included, for live views; a slow receiver loses the oldest.
    pub fn sealed(&self) -> broadcast::Receiver<Arc<Vec<Block>>> {
        self.shared.sealed.subscribe()
    }

    /// The layouts under which a meter's stored readings were taken, the oldest first: all the quantities that a
    /// period of it can have.
    pub fn layouts(&self, meter: &MeterId) -> Vec<Arc<Layout>> {
        let mut found: Vec<Arc<Layout>> = Vec::new();
        for file in self.shared.files() {
            for layout in read(&file.state).layouts.iter() {
                if layout.meter == *meter && !found.iter().any(|known| Arc::ptr_eq(known, layout) || known == layout) {
                    found.push(layout.clone());
                }
            }
        }
        found
    }

    /// The meters of which there are readings.
    pub fn meters(&self) -> BTreeSet<MeterId> {
        let files = self.shared.files();
        files.iter().flat_map(|file| read(&file.state).meters.keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// The earliest time, as taken, of all readings that are there.
    pub fn oldest_taken(&self) -> Option<Timestamp> {
        let files = self.shared.files();
        let oldest = files.iter().filter_map(|file| {
            let state = read(&file.state);
            state.meters.values().map(|times| times.min).filter(|min| *min != i64::MAX).min()
        });
        oldest.min().map(Timestamp::from_millis)
    }

    pub fn live(&self) -> Arc<LiveValues> {
        mutex(&self.shared.live).show()
    }

    /// The folders of stores that a restore has set aside, in the store's folder.
    pub fn replaced(&self) -> Vec<String> {
        backup::replaced(&self.shared.root)
    }

    pub fn health(&self) -> StoreHealth {
        let shared = &self.shared;
        let files = shared.files();
        let of = |name: &str| shared.root.join(name).metadata().map_or(0, |file| file.len());
        let counters = &shared.counters;
        let mut quarantined = read(&shared.quarantined).clone();
        quarantined.extend(read(&shared.evidence_damage).clone());
        // Before a hole that a deletion has left, readings are there, but not all of them.
        let hole = shared.hole.load(Ordering::Acquire);
        let oldest = |file: &Arc<super::raw::RawFile>| {
            if file.first_seq <= hole {
                return None;
            }
            let state = read(&file.state);
            state.meters.values().map(|times| times.min).filter(|min| *min != i64::MAX).min()
        };
        StoreHealth {
            // Without a reading on its way, nobody else has noticed yet.
            unwritable: read(&shared.trouble).clone().or_else(|| shared.away().map(|error| error.to_string())),
            commits: counters.commits.load(Ordering::Relaxed),
            readings: counters.readings.load(Ordering::Relaxed),
            repeated: counters.repeated.load(Ordering::Relaxed),
            conflicts: counters.conflicts.load(Ordering::Relaxed),
            lost: counters.lost.load(Ordering::Relaxed),
            queued: shared.queue.len() as u64,
            raw_bytes: files.iter().map(|file| writer::size(file)).sum(),
            evidence_bytes: of(evidence::FILE) + of("evidence.db-wal"),
            written_bytes: written_bytes(),
            free_bytes: sqlite::free_bytes(&shared.root).unwrap_or(0),
            reserve_used: mutex(&shared.reserve).is_used(),
            quarantined,
            through_seq: *shared.committed.borrow(),
            oldest_raw: files.iter().find_map(oldest).map(Timestamp::from_millis),
        }
    }

    /// Who keeps this store now.
    pub fn identity(&self) -> Arc<Identity> {
        read(&self.shared.identity).clone()
    }

    /// A meter's readings with `from <= time < to`.
    pub fn readings(&self, meter: MeterId, from: Timestamp, to: Timestamp) -> ReadingStream {
        ReadingStream { cursor: Some(Box::new(Cursor::new(self.shared.clone(), meter, from, to))) }
    }

    /// The last reading before `at` that has a value of this role: by effective time, the lowest seq of equals.
    pub async fn last_before(
        &self,
        meter: &MeterId,
        role: Role,
        at: Timestamp,
    ) -> Result<Option<StoredReading>, StoreError> {
        self.nearest(meter, role, at, Side::Before).await
    }

    /// The first reading at or after `at` that has a value of this role.
    pub async fn first_from(
        &self,
        meter: &MeterId,
        role: Role,
        at: Timestamp,
    ) -> Result<Option<StoredReading>, StoreError> {
        self.nearest(meter, role, at, Side::From).await
    }

    async fn nearest(
        &self,
        meter: &MeterId,
        role: Role,
        at: Timestamp,
        side: Side,
    ) -> Result<Option<StoredReading>, StoreError> {
        let (shared, meter) = (self.shared.clone(), meter.clone());
        blocking(move || search::nearest(&shared, &meter, role, at, side)).await
    }

    /// Readings of all meters after `seq` in order of seq, at most `limit`.
    pub async fn arrivals(&self, seq: u64, limit: usize) -> Result<Vec<StoredReading>, StoreError> {
        let shared = self.shared.clone();
        blocking(move || search::arrivals(&shared, seq, limit)).await
    }

    /// A meter's blocks that overlap `span`, the newest revision at each instant, by start. A silence of many blocks
    /// is left out where later revisions cover all of it.
    pub async fn blocks(&self, meter: &MeterId, span: Span) -> Result<Vec<Block>, StoreError> {
        let meter = meter.clone();
        self.evidence(move |connection| ledger::blocks(connection, &meter, span)).await
    }

    /// When the first and the last block of a meter start; `None` when it has none.
    pub async fn block_starts(&self, meter: &MeterId) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
        let meter = meter.clone();
        self.evidence(move |connection| ledger::block_starts(connection, &meter)).await
    }

    /// Every revision of the block that starts at `start`, the first one first.
    pub async fn revisions(&self, meter: &MeterId, start: Timestamp) -> Result<Vec<Block>, StoreError> {
        let meter = meter.clone();
        self.evidence(move |connection| ledger::revisions(connection, &meter, start)).await
    }

    /// Up to where each meter is sealed.
    pub async fn sealed_through(&self) -> Result<BTreeMap<MeterId, Timestamp>, StoreError> {
        self.evidence(ledger::sealed_through).await
    }

    /// Up to which seq readings have been looked at for lateness.
    pub async fn examined_seq(&self) -> Result<u64, StoreError> {
        self.evidence(ledger::examined_seq).await
    }

    pub async fn redates(&self) -> Result<Vec<Redate>, StoreError> {
        Ok(read(&self.shared.redates).to_vec())
    }

    /// A meter's newest commissioning records, the oldest of them first: who it is and how it was set up.
    pub async fn commissionings(&self, meter: &MeterId, limit: usize) -> Result<Vec<Commissioning>, StoreError> {
        let meter = meter.clone();
        self.evidence(move |connection| ledger::commissionings(connection, &meter, limit)).await
    }

    /// What the block task keeps for itself.
    pub async fn state(&self, name: &'static str) -> Result<Option<serde_json::Value>, StoreError> {
        self.evidence(move |connection| ledger::state(connection, name)).await
    }

    /// Alerts, the newest first.
    pub async fn alerts(&self, open_only: bool, limit: usize) -> Result<Vec<Alert>, StoreError> {
        self.evidence(move |connection| ledger::alerts(connection, open_only, limit)).await
    }

    /// How many alerts are not over, and how many of them nobody has acknowledged.
    pub async fn count_open_alerts(&self) -> Result<[u32; 2], StoreError> {
        self.evidence(ledger::count_open_alerts).await
    }

    /// The backup that the store was restored from, until its log has begun anew.
    pub async fn restored_from(&self) -> Result<Option<super::RestoredFrom>, StoreError> {
        self.evidence(backup::restored_from).await
    }

    /// Reads all of `evidence.db`, and fails where it is damaged.
    pub async fn quick_check(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            let path = shared.root.join(evidence::FILE);
            sqlite::check(&*shared.pool.lend(&path)?, &path)
        })
        .await
    }

    /// The text of the last config that was good.
    pub async fn last_good_config(&self) -> Result<Option<String>, StoreError> {
        self.evidence(ledger::last_good_config).await
    }

    pub(super) async fn evidence<T: Send + 'static>(
        &self,
        query: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            let path = shared.root.join(evidence::FILE);
            let connection = shared.pool.lend(&path)?;
            query(&connection).map_err(|error| sqlite::fault(&path, error))
        })
        .await
    }
}

/// Bytes this process caused to be written to the device (Linux, proc(5)); 0 where the kernel does not count.
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
