//! What is sent upstream and how far: positions, dead letters, the epochs of readings, and what may be sent now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::watch;

use super::{Ledger, Reader, StoreError, events, ledger, log, read};
use crate::model::{BlockFlag, DeadLetter, Event, LoggedBlock, NewDeadLetter, Position, Stream, Timestamp, Unsent};

/// Step from version 5 to 6 of `evidence.db`.
///
/// `reading_epochs` says from which seq on readings belong to which epoch; its first row is that of seq 0. It is empty
/// until what was stored before has been [taken up](events::take_up). A dead letter's `id` is never given again.
pub const SCHEMA: &str = "
    CREATE TABLE upstreams (name TEXT PRIMARY KEY, streams TEXT NOT NULL, configured INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE TABLE upstream_positions (
        upstream TEXT NOT NULL, stream TEXT NOT NULL, live INTEGER NOT NULL, open TEXT NOT NULL,
        PRIMARY KEY (upstream, stream)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY, upstream TEXT NOT NULL, stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL,
        line TEXT NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL,
        UNIQUE (upstream, stream, epoch, seq)
    ) STRICT;
    CREATE INDEX dead_letters_of ON dead_letters (upstream, id);
    INSERT INTO meta VALUES ('dead_letters', 0);
    CREATE TABLE reading_epochs (first_seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;
    -- Files of which it was told that readings are lost: they are deleted or set aside, whatever interrupts that.
    CREATE TABLE lost_files (first_seq INTEGER PRIMARY KEY, reason TEXT NOT NULL) STRICT;
    CREATE TABLE events (
        stream TEXT NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, time INTEGER NOT NULL, line TEXT NOT NULL,
        PRIMARY KEY (stream, seq)
    ) STRICT;
    -- Those of simulated meters (256) are never sent.
    CREATE INDEX blocks_to_send ON blocks (stored) WHERE flags & 256 = 0;
";
const _: () = assert!(BlockFlag::Simulated as u16 == 256, "the flag in the index `blocks_to_send`");

/// Dead letters in one answer, at most.
const LETTERS: usize = 1_000;

impl Ledger {
    /// The upstreams that are configured now, with the streams that each is sent. Of others the positions stay, and hold
    /// back nothing.
    pub async fn set_upstreams(&self, upstreams: Vec<(String, Vec<Stream>)>) -> Result<(), StoreError> {
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            transaction.execute("UPDATE upstreams SET configured = 0", [])?;
            for (name, streams) in &upstreams {
                transaction
                    .execute("INSERT OR REPLACE INTO upstreams VALUES (?1, ?2, 1)", params![name, to_json(streams)?])?;
            }
            transaction.commit()
        })
        .await
    }

    /// Keeps how far streams of an upstream are, and what it would not take: all or nothing. A dead letter that is there
    /// already is refused once more.
    pub async fn save_upstream(
        &self,
        upstream: String,
        positions: Vec<(Stream, Position)>,
        letters: Vec<NewDeadLetter>,
    ) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            for (stream, position) in &positions {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO upstream_positions VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![
                        upstream,
                        stream.as_str(),
                        position.live.cast_signed(),
                        to_json(&position.open)?
                    ])?;
            }
            for letter in &letters {
                keep_letter(&transaction, &upstream, letter, now)?;
            }
            transaction.commit()
        })
        .await
    }

    /// Removes dead letters that were sent or discarded; of those that were refused again it keeps why.
    pub async fn settle_dead_letters(
        &self,
        upstream: String,
        gone: Vec<u64>,
        again: Vec<(u64, String)>,
    ) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            for id in &gone {
                transaction
                    .prepare_cached("DELETE FROM dead_letters WHERE id = ?1 AND upstream = ?2")?
                    .execute(params![id.cast_signed(), upstream])?;
            }
            for (id, reason) in &again {
                transaction
                    .prepare_cached(
                        "UPDATE dead_letters SET reason = ?3, at = ?4, attempts = attempts + 1
                         WHERE id = ?1 AND upstream = ?2",
                    )?
                    .execute(params![id.cast_signed(), upstream, reason, now.as_millis()])?;
            }
            transaction.commit()
        })
        .await
    }

    /// Puts these records under the current epoch: readings and events bear its number from then on, blocks are logged
    /// again and may be sent when that is signed. Of what is there already, and of what is not there, nothing changes.
    pub async fn rekey(&self, records: Vec<(Stream, u64)>) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            rekey(&transaction, &records, now)?;
            transaction.commit()
        })
        .await?;
        self.shared.tell_sendable();
        Ok(())
    }
}

impl Reader {
    /// How far each stream of an upstream is, as far as that was kept.
    pub async fn positions(&self, upstream: &str) -> Result<BTreeMap<Stream, Position>, StoreError> {
        let upstream = upstream.to_owned();
        self.evidence(move |connection| positions(connection, &upstream)).await
    }

    /// Dead letters, the newest first; those before `before` when it is given.
    pub async fn dead_letters(
        &self,
        upstream: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let upstream = upstream.to_owned();
        let before = before.map_or(i64::MAX, |id| i64::try_from(id).unwrap_or(i64::MAX));
        let limit = i64::try_from(limit.min(LETTERS)).unwrap_or(i64::MAX);
        self.evidence(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, upstream, stream, epoch, seq, line, reason, at, attempts FROM dead_letters
                 WHERE upstream = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
            )?;
            statement.query_map(params![upstream, before, limit], read_letter)?.collect()
        })
        .await
    }

    pub async fn dead_letter_count(&self, upstream: &str) -> Result<u64, StoreError> {
        let upstream = upstream.to_owned();
        self.evidence(move |connection| {
            let sql = "SELECT count(*) FROM dead_letters INDEXED BY dead_letters_of WHERE upstream = ?1";
            connection.prepare_cached(sql)?.query_row([upstream], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
        })
        .await
    }

    /// Of each stream, the seq up to which all may be sent now; streams of which there is nothing are not there. That of
    /// blocks falls back while one that was logged again is not signed yet.
    pub async fn heads(&self) -> Result<BTreeMap<Stream, u64>, StoreError> {
        let committed = *self.shared.committed.borrow();
        let mut heads = self.evidence(heads).await?;
        heads.insert(Stream::Readings, committed);
        heads.retain(|_, seq| *seq > 0);
        Ok(heads)
    }

    /// Of each stream, the highest seq that may have been given out: none beyond it can be this store's. That of readings
    /// may be one of a file that is damaged.
    pub async fn given_out(&self) -> Result<BTreeMap<Stream, u64>, StoreError> {
        let readings = self.shared.given_before.load(Ordering::Acquire).max(*self.shared.committed.borrow());
        self.evidence(move |connection| {
            let mut given = BTreeMap::new();
            for stream in events::STREAMS {
                given.insert(stream, events::newest(connection, stream)?);
            }
            let stored = "SELECT value FROM meta WHERE name = 'stored'";
            let stored: i64 = connection.prepare_cached(stored)?.query_row([], |row| row.get(0))?;
            given.insert(Stream::Blocks, stored.cast_unsigned());
            given.insert(Stream::Readings, readings);
            Ok(given)
        })
        .await
    }

    /// Seqs of readings that were passed over, since the store had not ended in order: of the newest such gaps.
    pub fn unused_seqs(&self) -> Arc<[Unsent]> {
        read(&self.shared.unused).clone()
    }

    /// Changes when any head but that of readings may have moved, which is at [`Self::committed`].
    pub fn sendable(&self) -> watch::Receiver<u64> {
        self.shared.sendable.subscribe()
    }

    /// From which seq on the readings from `first` to `last` belong to which epoch; the first one is at `first`. To be
    /// asked after it is known that these readings are committed: what is committed later may lie in a later epoch.
    pub async fn epochs_of_readings(&self, first: u64, last: u64) -> Result<Vec<(u64, String)>, StoreError> {
        self.evidence(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT max(first_seq, ?1), epochs.epoch FROM reading_epochs
                 JOIN epochs ON number = reading_epochs.epoch
                 WHERE first_seq >= (SELECT max(first_seq) FROM reading_epochs WHERE first_seq <= ?1)
                 AND first_seq <= ?2 ORDER BY first_seq",
            )?;
            let rows = statement.query_map([highest(first), highest(last)], |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
            })?;
            rows.collect()
        })
        .await
    }

    /// Blocks and silences with `after < seq <= until` in order of seq, each with what opens its newest entry; simulated
    /// ones are left out. It ends before the first one whose entry is not signed.
    pub async fn blocks_to_send(&self, after: u64, until: u64, limit: usize) -> Result<Vec<LoggedBlock>, StoreError> {
        self.evidence(move |connection| blocks_to_send(connection, (after, until), limit)).await
    }

    /// Events with `after < seq <= until` in order of seq. It may be fewer than `limit` and all, but is none only when
    /// there is none.
    pub async fn events(&self, stream: Stream, after: u64, until: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.evidence(move |connection| events::list(connection, stream, (after, until), limit)).await
    }
}

/// Under this name the store keeps which seqs it never used.
const UNUSED: &str = "store.unused_seqs";
/// Gaps that are remembered. They only serve to say how much waits.
const GAPS: usize = 256;

/// The gaps that are known.
pub fn unused(connection: &Connection) -> rusqlite::Result<Vec<Unsent>> {
    let kept = ledger::state(connection, UNUSED)?;
    Ok(kept.and_then(|kept| serde_json::from_value(kept).ok()).unwrap_or_default())
}

/// Adds a gap to those that are known, unless it is empty or there; all of them.
pub fn keep_unused(connection: &Connection, gap: Unsent) -> rusqlite::Result<Vec<Unsent>> {
    let mut gaps = unused(connection)?;
    if gap.first > 1 && gap.first <= gap.last && !gaps.contains(&gap) {
        // After another end of that kind, before anything was stored.
        gaps.retain(|known| known.first != gap.first);
        gaps.push(gap);
        gaps.drain(..gaps.len().saturating_sub(GAPS));
        connection.execute("INSERT OR REPLACE INTO state VALUES (?1, ?2)", params![UNUSED, to_json(&gaps)?])?;
    }
    Ok(gaps)
}

fn keep_letter(
    transaction: &Transaction<'_>,
    upstream: &str,
    letter: &NewDeadLetter,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let NewDeadLetter { stream, epoch, seq, line, reason } = letter;
    let again = transaction
        .prepare_cached(
            "UPDATE dead_letters SET line = ?5, reason = ?6, at = ?7, attempts = attempts + 1
             WHERE upstream = ?1 AND stream = ?2 AND epoch = ?3 AND seq = ?4",
        )?
        .execute(params![upstream, stream.as_str(), epoch, seq.cast_signed(), line, reason, now.as_millis()])?;
    if again > 0 {
        return Ok(());
    }
    let id: i64 = transaction
        .prepare_cached("UPDATE meta SET value = value + 1 WHERE name = 'dead_letters' RETURNING value")?
        .query_row([], |row| row.get(0))?;
    transaction
        .prepare_cached("INSERT INTO dead_letters VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1)")?
        .execute(params![id, upstream, stream.as_str(), epoch, seq.cast_signed(), line, reason, now.as_millis()])
        .map(|_| ())
}

fn read_letter(row: &rusqlite::Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        upstream: row.get(1)?,
        stream: stream(row, 2)?,
        epoch: row.get(3)?,
        seq: row.get::<_, i64>(4)?.cast_unsigned(),
        line: row.get(5)?,
        reason: row.get(6)?,
        at: Timestamp::from_millis(row.get(7)?),
        attempts: row.get(8)?,
    })
}

pub fn positions(connection: &Connection, upstream: &str) -> rusqlite::Result<BTreeMap<Stream, Position>> {
    let mut statement =
        connection.prepare_cached("SELECT stream, live, open FROM upstream_positions WHERE upstream = ?1")?;
    let rows = statement.query_map([upstream], |row| {
        let open: Vec<Unsent> = serde_json::from_str(row.get_ref(2)?.as_str()?).map_err(of_json)?;
        Ok((stream(row, 0)?, Position { live: row.get::<_, i64>(1)?.cast_unsigned(), open }))
    })?;
    rows.collect()
}

/// The upstreams that are configured now, with their streams.
pub fn configured(connection: &Connection) -> rusqlite::Result<Vec<(String, Vec<Stream>)>> {
    let mut statement =
        connection.prepare_cached("SELECT name, streams FROM upstreams WHERE configured <> 0 ORDER BY name")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, serde_json::from_str(row.get_ref(1)?.as_str()?).map_err(of_json)?)))?;
    rows.collect()
}

fn heads(connection: &Connection) -> rusqlite::Result<BTreeMap<Stream, u64>> {
    let mut heads = BTreeMap::new();
    for stream in events::STREAMS {
        heads.insert(stream, events::newest(connection, stream)?);
    }
    let signed: Option<i64> = connection
        .prepare_cached("SELECT max(size) FROM checkpoints WHERE epoch = (SELECT max(number) FROM epochs)")?
        .query_row([], |row| row.get(0))?;
    heads.insert(Stream::Checkpoints, signed.unwrap_or(0).cast_unsigned());
    // Of the current epoch alone something may be unsigned: at each succession what was so is logged again.
    let unsigned: Option<i64> = connection
        .prepare_cached(
            "SELECT min(stored) FROM entries
             CROSS JOIN blocks ON blocks.meter = entries.meter AND start = source AND blocks.revision = entries.revision
             WHERE entries.epoch = (SELECT max(number) FROM epochs) AND idx >= ?1 AND kind IN (0, 1)",
        )?
        .query_row([signed.unwrap_or(0)], |row| row.get(0))?;
    let newest: Option<i64> = connection
        .prepare_cached("SELECT max(stored) FROM blocks INDEXED BY blocks_to_send WHERE flags & 256 = 0")?
        .query_row([], |row| row.get(0))?;
    let newest = newest.unwrap_or(0);
    let head = unsigned.map_or(newest, |unsigned| newest.min(unsigned - 1));
    heads.insert(Stream::Blocks, head.cast_unsigned());
    Ok(heads)
}

fn blocks_to_send(
    connection: &Connection,
    (after, until): (u64, u64),
    limit: usize,
) -> rusqlite::Result<Vec<LoggedBlock>> {
    let mut statement = connection.prepare_cached(
        "SELECT stored, log_epoch, log_index FROM blocks INDEXED BY blocks_to_send
         WHERE stored > ?1 AND stored <= ?2 AND flags & 256 = 0 ORDER BY stored LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let places: Vec<(i64, i64, i64)> = statement
        .query_map(params![highest(after), highest(until), limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    use std::collections::btree_map::Entry::{Occupied, Vacant};
    let mut known = connection.prepare_cached(
        "SELECT epoch, (SELECT max(size) FROM checkpoints WHERE checkpoints.epoch = number) FROM epochs WHERE number = ?1",
    )?;
    let mut epochs: BTreeMap<i64, (String, i64)> = BTreeMap::new();
    let mut found = Vec::new();
    for (seq, number, index) in places {
        let (epoch, signed) = match epochs.entry(number) {
            Occupied(there) => there.into_mut(),
            Vacant(vacant) => vacant.insert(
                known.query_row([number], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(0))))?,
            ),
        };
        if index >= *signed {
            break;
        }
        let opening = log::opening(connection, number, index.cast_unsigned())?;
        let (meter, meter_salt) = opening.meter.ok_or_else(|| log::torn("a block is logged without its meter"))?;
        found.push(LoggedBlock {
            seq: seq.cast_unsigned(),
            epoch: epoch.clone(),
            index: opening.index,
            kind: opening.kind,
            time: opening.time,
            record: opening.record,
            salt: opening.salt,
            meter,
            meter_salt,
        });
    }
    Ok(found)
}

/// Within a transaction that is open on `connection`.
fn rekey(connection: &Connection, records: &[(Stream, u64)], now: Timestamp) -> rusqlite::Result<()> {
    let current: i64 = connection.query_row("SELECT max(number) FROM epochs", [], |row| row.get(0))?;
    let mut readings = Vec::new();
    let mut blocks = Vec::new();
    for (stream, seq) in records {
        match stream {
            Stream::Readings => readings.push(*seq),
            Stream::Blocks => blocks.push(*seq),
            Stream::Anchors | Stream::Datasets | Stream::Alerts | Stream::Notices => {
                connection
                    .prepare_cached("UPDATE events SET epoch = ?3 WHERE stream = ?1 AND seq = ?2")?
                    .execute(params![stream.as_str(), seq.cast_signed(), current])?;
            }
            // These are of an epoch by themselves.
            Stream::Checkpoints | Stream::Minutes => {}
        }
    }
    readings.sort_unstable();
    readings.dedup();
    for run in readings.chunk_by(|a, b| b - a == 1) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            set_epoch_of_readings(connection, (*first, Some(*last)), current)?;
        }
    }
    blocks.sort_unstable();
    blocks.dedup();
    log::append(connection, now, |log| {
        for seq in blocks {
            let Some((meter, block, place)) = ledger::stored_block(connection, seq)? else { continue };
            let (epoch, index) = log.next();
            if place.is_none_or(|(of, _)| of != epoch) {
                log.block(&block, meter)?;
                ledger::mark_block(connection, meter, &block, epoch, index)?;
            }
        }
        Ok(())
    })
}

/// The readings from `first` to `last` belong to this epoch; those on either side to what they did. Within a transaction.
pub fn set_epoch_of_readings(
    connection: &Connection,
    (first, last): (u64, Option<u64>),
    epoch: i64,
) -> rusqlite::Result<()> {
    let of = |seq: u64| -> rusqlite::Result<Option<i64>> {
        let mut statement = connection
            .prepare_cached("SELECT epoch FROM reading_epochs WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1")?;
        statement.query_row([highest(seq)], |row| row.get(0)).optional()
    };
    let before = if first > 0 { of(first - 1)? } else { None };
    let after = match last {
        Some(last) => of(last + 1)?.map(|epoch| (last + 1, epoch)),
        None => None,
    };
    // The row behind is written anew where it is needed, so that two neighbours never say the same.
    connection
        .prepare_cached("DELETE FROM reading_epochs WHERE first_seq BETWEEN ?1 AND ?2")?
        .execute([highest(first), last.map_or(i64::MAX, |last| highest(last + 1))])?;
    let mut insert = connection.prepare_cached("INSERT INTO reading_epochs VALUES (?1, ?2)")?;
    if before != Some(epoch) {
        insert.execute([highest(first), epoch])?;
    }
    if let Some((next, next_epoch)) = after
        && next_epoch != epoch
    {
        insert.execute([highest(next), next_epoch])?;
    }
    Ok(())
}

/// Seqs are below 2^63.
fn highest(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn stream(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Stream> {
    let torn = || rusqlite::Error::InvalidColumnType(at, "stream".to_owned(), rusqlite::types::Type::Text);
    Stream::named(row.get_ref(at)?.as_str()?).ok_or_else(torn)
}

fn to_json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(of_json)
}

fn of_json(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}
