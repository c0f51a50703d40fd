//! The rows of the log, and what is rebuilt from them.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use super::TILE;
use crate::model::entry::{self, Entry, EntryKind, Salt};
use crate::model::{Digest, MeterId, Timestamp};
use crate::store::ledger;

/// What the log holds is not what it must hold.
pub fn torn(what: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(what.to_owned()))
}

/// Something that cannot be written.
pub fn refused(error: &dyn std::error::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.to_string().into())
}

/// The number of a kind in its rows, which stays.
pub fn number_of(kind: EntryKind) -> i64 {
    match kind {
        EntryKind::Block => 0,
        EntryKind::Silence => 1,
        EntryKind::Dataset => 2,
        EntryKind::Config => 3,
        EntryKind::Commissioning => 4,
        EntryKind::Audit => 5,
        EntryKind::Key => 6,
        EntryKind::Succession => 7,
    }
}

fn kind_of(number: i64) -> rusqlite::Result<EntryKind> {
    let known = EntryKind::ALL.into_iter().find(|kind| number_of(*kind) == number);
    known.ok_or_else(|| torn("an entry of the log is of no kind that there is"))
}

/// Hashes that lie one after the other; `None` when the last one is cut off.
pub fn hashes(bytes: &[u8]) -> Option<Vec<Digest>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.iter().copied().map(Digest::from_bytes).collect())
}

pub fn keep_tile(connection: &Connection, epoch: i64, level: u8, n: u64, hashes: &[Digest]) -> rusqlite::Result<()> {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
    connection
        .prepare_cached("INSERT OR REPLACE INTO tiles VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![epoch, level, n.cast_signed(), bytes])
        .map(|_| ())
}

/// A tile as it was kept: of level 0 a full one, of the others as far as it is filled.
pub fn kept_tile(connection: &Connection, epoch: i64, level: u8, n: u64) -> rusqlite::Result<Option<Vec<Digest>>> {
    let mut statement =
        connection.prepare_cached("SELECT hashes FROM tiles WHERE epoch = ?1 AND level = ?2 AND n = ?3")?;
    let kept = statement
        .query_row(params![epoch, level, n.cast_signed()], |row| Ok(hashes(row.get_ref(0)?.as_blob()?)))
        .optional()?;
    match kept {
        Some(None) => Err(torn("a tile of the log is cut off")),
        kept => Ok(kept.flatten()),
    }
}

/// The first `width` hashes of a tile, or those that there are.
pub fn tile(connection: &Connection, epoch: i64, level: u8, n: u64, width: u64) -> rusqlite::Result<Vec<Digest>> {
    let mut hashes = match kept_tile(connection, epoch, level, n)? {
        Some(kept) => kept,
        None if level == 0 => leaf_hashes(connection, epoch, n * TILE, n * TILE + width)?,
        None => Vec::new(),
    };
    hashes.truncate(usize::try_from(width).unwrap_or(usize::MAX));
    Ok(hashes)
}

pub fn leaf_hashes(connection: &Connection, epoch: i64, from: u64, to: u64) -> rusqlite::Result<Vec<Digest>> {
    Ok(entries(connection, epoch, from, to)?.into_iter().map(|entry| entry.leaf_hash()).collect())
}

/// The entries with `from <= index < to`, or those that there are.
pub fn entries(connection: &Connection, epoch: i64, from: u64, to: u64) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "SELECT kind, time, digest, subject, entries.meter FROM entries
         LEFT JOIN subjects ON subjects.epoch = entries.epoch AND subjects.meter = entries.meter
         WHERE entries.epoch = ?1 AND idx >= ?2 AND idx < ?3 ORDER BY idx",
    )?;
    let rows = statement.query_map(params![epoch, from.cast_signed(), to.cast_signed()], |row| {
        let (subject, meter): (Option<[u8; 32]>, Option<i64>) = (row.get(3)?, row.get(4)?);
        if subject.is_some() != meter.is_some() {
            return Err(torn("a meter has entries in the log and no name there"));
        }
        Ok(Entry {
            kind: kind_of(row.get(0)?)?,
            time: Timestamp::from_millis(row.get(1)?),
            subject: subject.map(Digest::from_bytes),
            commit: Digest::from_bytes(row.get(2)?),
        })
    })?;
    rows.collect()
}

/// The names of an epoch's meters in its log.
pub fn subjects(connection: &Connection, epoch: i64) -> rusqlite::Result<Vec<(String, Digest)>> {
    let mut statement = connection
        .prepare_cached("SELECT name, subject FROM subjects JOIN meters ON meters.id = meter WHERE epoch = ?1")?;
    let rows = statement.query_map([epoch], |row| Ok((row.get(0)?, Digest::from_bytes(row.get(1)?))))?;
    rows.collect()
}

/// An entry's row, with what it refers to.
pub struct EntryRow {
    pub kind: EntryKind,
    pub time: Timestamp,
    /// Its number, its name, and its salt in this epoch.
    pub meter: Option<(i64, MeterId, Salt)>,
    pub prev: Option<u64>,
    pub salt: Salt,
    commit: Digest,
    source: Option<i64>,
    revision: Option<u32>,
    record: Option<String>,
}

pub fn entry_row(connection: &Connection, epoch: i64, index: u64) -> rusqlite::Result<Option<EntryRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT kind, time, entries.meter, name, subjects.salt, prev, entries.salt, digest, source, revision, record
         FROM entries LEFT JOIN meters ON meters.id = entries.meter
         LEFT JOIN subjects ON subjects.epoch = entries.epoch AND subjects.meter = entries.meter
         WHERE entries.epoch = ?1 AND idx = ?2",
    )?;
    statement.query_row(params![epoch, index.cast_signed()], read_row).optional()
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<EntryRow> {
    let meter = match row.get::<_, Option<i64>>(2)? {
        None => None,
        Some(number) => {
            let name: String = row.get(3)?;
            let name = name.parse().map_err(|_| torn("an entry of the log is of no meter that there can be"))?;
            Some((number, name, Salt(row.get(4)?)))
        }
    };
    Ok(EntryRow {
        kind: kind_of(row.get(0)?)?,
        time: Timestamp::from_millis(row.get(1)?),
        meter,
        prev: row.get::<_, Option<i64>>(5)?.map(i64::cast_unsigned),
        salt: Salt(row.get(6)?),
        commit: Digest::from_bytes(row.get(7)?),
        source: row.get(8)?,
        revision: row.get(9)?,
        record: row.get(10)?,
    })
}

/// What a row commits to, without `prev`.
pub enum Subject {
    Block(Box<crate::model::Block>),
    Commissioning { id: i64, record: Value },
    Record(Value),
}

impl EntryRow {
    /// What it commits to, from where it is stored.
    pub fn committed(&self, connection: &Connection) -> rusqlite::Result<Subject> {
        let missing = || torn("what an entry of the log commits to is not there");
        let json = |text: &str| serde_json::from_str(text).map_err(|_| missing());
        match (&self.record, &self.meter, self.source) {
            (Some(record), None, None) => Ok(Subject::Record(json(record)?)),
            (None, Some(_), Some(id)) if self.kind == EntryKind::Commissioning => {
                let text = ledger::commissioning_text(connection, id)?.ok_or_else(missing)?;
                Ok(Subject::Commissioning { id, record: json(&text)? })
            }
            (None, Some((number, name, _)), Some(start)) => {
                let revision = self.revision.ok_or_else(missing)?;
                let block = ledger::block(connection, (*number, name), Timestamp::from_millis(start), revision)?;
                Ok(Subject::Block(Box::new(block.ok_or_else(missing)?)))
            }
            _ => Err(missing()),
        }
    }

    /// The record, byte for byte as it was committed to.
    pub fn record(&self, connection: &Connection) -> rusqlite::Result<Vec<u8>> {
        let record = match self.committed(connection)? {
            Subject::Block(block) => entry::with_prev(block.to_json(), self.prev),
            Subject::Commissioning { record, .. } => entry::with_prev(record, self.prev),
            Subject::Record(record) => crate::model::jcs::to_vec(&record),
        };
        let record = record.map_err(|error| refused(&error))?;
        if entry::commit(&self.salt, &record) != self.commit {
            return Err(torn("a record is not the one that the log commits to"));
        }
        Ok(record)
    }
}
