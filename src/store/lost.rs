//! Readings that go before every upstream has them. It is told before their file goes, in one transaction: counted, put
//! on record in the log, raised as an alert, and sent as a notice. A file of which that is told goes, whatever interrupts
//! it: when the store is opened again, before anything of it is read.

use std::path::Path;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::raw::{self, RawFile};
use super::retention::{self, Kept};
use super::{Append, Shared, StoreError, events, ledger, log, read, upstream};
use crate::model::{Alert, AlertKind, Position, Stream, Timestamp, Unsent};

/// Why a file goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    MaxDisk,
    KeepRaw,
    Damaged,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::MaxDisk => "max_disk",
            Self::KeepRaw => "keep_raw",
            Self::Damaged => "damaged",
        }
    }

    /// What happened and what to do, after what it happened to.
    fn told(self) -> &'static str {
        match self {
            Self::MaxDisk => {
                "were deleted to stay within store.max_disk: bring the upstream back, or raise store.max_disk"
            }
            Self::KeepRaw => {
                "were deleted for they are older than store.keep_raw: bring the upstream back, or raise store.keep_raw"
            }
            Self::Damaged => {
                "are in a damaged file, which is set aside: look after the disk; meterseal or SQLite's own tools may save \
                 some from the file"
            }
        }
    }
}

/// A file that is about to go.
#[derive(Clone, Copy, Debug)]
pub struct Going {
    pub first_seq: u64,
    pub last_seq: u64,
    /// The latest time of its readings, as taken.
    pub latest: i64,
    /// An older file stays.
    pub leaves_a_hole: bool,
}

impl Going {
    pub fn of(file: &RawFile, leaves_a_hole: bool) -> Self {
        let state = read(&file.state);
        let latest = state.meters.values().map(|times| times.max).max().unwrap_or(i64::MIN);
        Self { first_seq: file.first_seq, last_seq: state.last_seq, latest, leaves_a_hole }
    }
}

/// A configured upstream that is sent readings, or what is made of them.
pub struct Waiting {
    name: String,
    /// None where it has none of that stream.
    readings: Option<Position>,
    minutes: Option<Position>,
}

impl Waiting {
    /// What of a file it has not acknowledged.
    fn lacks(&self, file: &Going) -> Vec<Unsent> {
        let mut lacking = Vec::new();
        if let Some(position) = &self.readings {
            lacking.extend(retention::unacknowledged(position, file.first_seq, file.last_seq));
        }
        if let Some(position) = &self.minutes
            && !retention::minutes_reach(position, Timestamp::from_millis(file.latest))
        {
            lacking.push(Unsent { first: file.first_seq, last: file.last_seq });
        }
        lacking.retain(|range| range.first <= range.last);
        lacking
    }
}

impl Shared {
    /// Of these files, which every upstream has.
    pub fn kept_for_nobody(&self, files: &[Going]) -> Result<Vec<Kept>, StoreError> {
        let evidence = super::mutex(&self.evidence);
        let waiting = waiting(&evidence.connection).map_err(|error| evidence.fault(error))?;
        drop(evidence);
        let kept = |file: &Going| {
            if waiting.iter().all(|upstream| upstream.lacks(file).is_empty()) { Kept::ForNobody } else { Kept::Waiting }
        };
        Ok(files.iter().map(kept).collect())
    }

    /// To be asked before a file goes: tells what is lost with it.
    pub fn give_up(&self, file: &Going, cause: Cause) -> Result<(), StoreError> {
        let now = self.clock.now();
        let lost = self
            .write_evidence(|evidence| tell(&evidence.connection, file, cause, now).map_err(|e| evidence.fault(e)))?;
        if file.leaves_a_hole {
            self.hole.fetch_max(file.last_seq, Ordering::AcqRel);
        }
        if lost > 0 {
            tracing::warn!(
                first_seq = file.first_seq,
                lost,
                cause = cause.as_str(),
                "readings go that not all upstreams have"
            );
            self.counters.lost.fetch_add(lost, Ordering::Relaxed);
            self.tell_sendable();
        }
        Ok(())
    }

    /// An alert of lost readings is over when none were lost for a day.
    pub fn clear_old_loss(&self) -> Result<(), StoreError> {
        const DAY_MS: i64 = 86_400_000;
        let now = self.clock.now();
        let is_over = |open: &(i64, Timestamp)| now.millis_since(open.1) >= DAY_MS;
        let evidence = super::mutex(&self.evidence);
        let open = open_alert(&evidence.connection).map_err(|error| evidence.fault(error))?;
        drop(evidence);
        let Some((id, _)) = open.filter(is_over) else { return Ok(()) };
        self.write_evidence(|evidence| {
            let clear = |connection: &Connection| {
                let transaction = connection.unchecked_transaction()?;
                ledger::clear_alert(&transaction, id, now, now)?;
                transaction.commit()
            };
            clear(&evidence.connection).map_err(|error| evidence.fault(error))
        })?;
        self.tell_sendable();
        Ok(())
    }
}

/// One transaction; how many seqs are lost of which it is not told yet.
fn tell(connection: &Connection, file: &Going, cause: Cause, now: Timestamp) -> rusqlite::Result<u64> {
    let transaction = connection.unchecked_transaction()?;
    if file.leaves_a_hole {
        transaction.execute(
            "INSERT INTO meta VALUES ('hole', ?1) ON CONFLICT (name) DO UPDATE SET value = max(value, ?1)",
            [file.last_seq.cast_signed()],
        )?;
    }
    let known = "SELECT 1 FROM lost_files WHERE first_seq = ?1";
    let is_told = transaction.query_row(known, [file.first_seq.cast_signed()], |_| Ok(())).optional()?.is_some();
    let waiting = waiting(&transaction)?;
    let names: Vec<&str> = waiting.iter().filter(|up| !up.lacks(file).is_empty()).map(|up| up.name.as_str()).collect();
    if is_told || names.is_empty() {
        transaction.commit()?;
        return Ok(0);
    }
    let lost = retention::union(waiting.iter().flat_map(|upstream| upstream.lacks(file)).collect());
    let count = lost.iter().map(|range| range.last - range.first + 1).sum();
    transaction
        .execute("INSERT INTO lost_files VALUES (?1, ?2)", params![file.first_seq.cast_signed(), cause.as_str()])?;
    // Notices go where readings go; what is made of readings for others says by itself what is missing.
    let of_readings = waiting.iter().filter(|upstream| upstream.readings.is_some());
    let of_readings = of_readings.flat_map(|upstream| {
        let position = upstream.readings.as_ref();
        position.map(|position| retention::unacknowledged(position, file.first_seq, file.last_seq)).unwrap_or_default()
    });
    for range in retention::union(of_readings.collect()) {
        events::lost(&transaction, range, cause.as_str(), now)?;
    }
    let detail = json!({
        "first_seq": file.first_seq, "last_seq": file.last_seq, "reason": cause.as_str(), "upstreams": names,
    });
    let entry = Append::Audit { action: "readings-lost".to_owned(), by: "meterseal".to_owned(), detail };
    log::append_all(&transaction, now, &[entry])?;
    if open_alert(&transaction)?.is_none() {
        let (first, last) = (file.first_seq, file.last_seq);
        let text = format!(
            "Readings that upstream {} does not have (seq {first} to {last}) {}.",
            names.join(", "),
            cause.told()
        );
        let kind = AlertKind::ReadingsLost;
        let alert = Alert::new(kind, None, now, now, text);
        ledger::raise(&transaction, &alert, now)?;
    }
    transaction.commit()?;
    Ok(count)
}

/// Files of which it was told that they go are gone after this: to be called before any of them is opened.
pub fn finish(connection: &Connection, folder: &Path) -> Result<(), StoreError> {
    let fault = |error| super::sqlite::fault(&folder.with_file_name(super::evidence::FILE), error);
    let told = || -> rusqlite::Result<Vec<(u64, String)>> {
        let mut statement = connection.prepare("SELECT first_seq, reason FROM lost_files")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)))?;
        rows.collect()
    };
    let told = told().map_err(fault)?;
    if told.is_empty() {
        return Ok(());
    }
    let files = raw::list(folder)?;
    for (first_seq, cause) in told {
        match files.get(&first_seq) {
            Some(path) if cause == Cause::Damaged.as_str() => raw::quarantine(path)?,
            Some(path) => raw::delete(path)?,
            None => {}
        }
    }
    connection.execute("DELETE FROM lost_files", []).map_err(fault).map(|_| ())
}

/// Where the last hole ends that a deletion has left among older files.
pub fn hole(connection: &Connection) -> rusqlite::Result<u64> {
    let hole = connection.query_row("SELECT value FROM meta WHERE name = 'hole'", [], |row| row.get::<_, i64>(0));
    Ok(hole.optional()?.unwrap_or(0).cast_unsigned())
}

/// The last seq that may have been given out.
pub fn last_seq(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT value FROM meta WHERE name IN ('clean_seq', 'seq_ceiling') ORDER BY name LIMIT 1";
    let next = connection.query_row(sql, [], |row| row.get::<_, i64>(0)).optional()?;
    Ok(next.unwrap_or(1).cast_unsigned().saturating_sub(1))
}

fn waiting(connection: &Connection) -> rusqlite::Result<Vec<Waiting>> {
    let mut waiting = Vec::new();
    for (name, streams) in upstream::configured(connection)? {
        let mut positions = upstream::positions(connection, &name)?;
        let mut of = |stream: Stream| streams.contains(&stream).then(|| positions.remove(&stream).unwrap_or_default());
        let (readings, minutes) = (of(Stream::Readings), of(Stream::Minutes));
        if readings.is_some() || minutes.is_some() {
            waiting.push(Waiting { name, readings, minutes });
        }
    }
    Ok(waiting)
}

fn open_alert(connection: &Connection) -> rusqlite::Result<Option<(i64, Timestamp)>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, raised FROM alerts INDEXED BY open_alerts WHERE cleared IS NULL AND kind = 'readings_lost'
         ORDER BY id DESC LIMIT 1",
    )?;
    statement.query_row([], |row| Ok((row.get(0)?, Timestamp::from_millis(row.get(1)?)))).optional()
}
