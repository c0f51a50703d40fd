//! The evidence log: entries, tiles and checkpoints of each epoch, as docs/evidence-format.md section 4 says. An entry
//! is part of the transaction that stores what it commits to; nothing is served that is not under a signed checkpoint.

#[cfg(test)]
pub(super) mod cuts;
mod epoch;
mod read;
mod rows;
mod take_up;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::ledger;
use crate::model::entry::{self, Entry, EntryKind, Salt};
use crate::model::merkle::Frontier;
use crate::model::{Actor, Block, Digest, MeterId, Timestamp, jcs};
pub use epoch::Succession;
pub(super) use epoch::{Since, checkpoint, gateway_of, hex, kept_identity, succeed};
pub(super) use read::opening;
pub use read::{Epoch, LogPlace, Opening};
pub(super) use rows::{refused, torn};
pub(super) use take_up::{take_up, take_up_step};

/// C2SP tlog-tiles: hashes in a full tile.
const TILE: u64 = 256;

/// Step from version 2 to 3 of `evidence.db`.
pub(super) const SCHEMA: &str = "
    -- `frontier` has the roots of the complete subtrees, the largest first. An epoch without successor is the current one.
    CREATE TABLE epochs (
        number INTEGER PRIMARY KEY, epoch TEXT NOT NULL UNIQUE, site TEXT NOT NULL, gateway TEXT NOT NULL,
        public BLOB NOT NULL, opened INTEGER NOT NULL, reason TEXT NOT NULL,
        size INTEGER NOT NULL, frontier BLOB NOT NULL
    ) STRICT;
    -- What a meter is called in an epoch, and its newest entry there.
    CREATE TABLE subjects (
        epoch INTEGER NOT NULL, meter INTEGER NOT NULL, salt BLOB NOT NULL, subject BLOB NOT NULL, newest INTEGER,
        PRIMARY KEY (epoch, meter)
    ) STRICT, WITHOUT ROWID;
    -- What was committed to: of a block, `source` is its start; of a commissioning, its id; else it is `record`.
    CREATE TABLE entries (
        epoch INTEGER NOT NULL, idx INTEGER NOT NULL, kind INTEGER NOT NULL, time INTEGER NOT NULL,
        meter INTEGER, prev INTEGER, salt BLOB NOT NULL, digest BLOB NOT NULL,
        source INTEGER, revision INTEGER, record TEXT,
        PRIMARY KEY (epoch, idx)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE dataset_entries (
        dataset TEXT NOT NULL, epoch INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (dataset, epoch, idx)
    ) STRICT, WITHOUT ROWID;
    -- Of level 0 the full ones only; of the others also the one that is being filled, since it changes seldom.
    CREATE TABLE tiles (
        epoch INTEGER NOT NULL, level INTEGER NOT NULL, n INTEGER NOT NULL, hashes BLOB NOT NULL,
        PRIMARY KEY (epoch, level, n)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE checkpoints (
        epoch INTEGER NOT NULL, size INTEGER NOT NULL, signed INTEGER NOT NULL, named INTEGER NOT NULL,
        note TEXT NOT NULL, PRIMARY KEY (epoch, size)
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE blocks ADD COLUMN log_epoch INTEGER;
    ALTER TABLE blocks ADD COLUMN log_index INTEGER;
    ALTER TABLE commissionings ADD COLUMN log_epoch INTEGER;
    ALTER TABLE commissionings ADD COLUMN log_index INTEGER;
    -- It is dropped when all that was stored before there was a log has its entries.
    CREATE INDEX blocks_to_log ON blocks (stored) WHERE log_index IS NULL;
";

/// What a task has the log commit to. Blocks and commissioning records are not among it: they are logged as they are
/// stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Append {
    Dataset {
        /// The ULID of the bundle.
        dataset: String,
        manifest_sha256: Digest,
    },
    /// Which config runs. The store adds what each of these meters, and each one that has entries, is called in the
    /// log.
    Config {
        config_sha256: Digest,
        program: String,
        meters: Vec<MeterId>,
    },
    Audit {
        action: String,
        by: String,
        detail: Value,
    },
}

impl Append {
    /// What somebody did, and from where.
    pub fn audit(action: &str, by: &Actor, mut detail: Value) -> Self {
        if let Some(source) = &by.source {
            detail["source"] = json!(source);
        }
        Self::Audit { action: action.to_owned(), by: by.name.clone(), detail }
    }
}

/// Appends within a transaction that is open on `connection`, and returns the index of each entry.
pub(super) fn append_all(connection: &Connection, now: Timestamp, wanted: &[Append]) -> rusqlite::Result<Vec<u64>> {
    append(connection, now, |log| wanted.iter().map(|one| log.append(one)).collect())
}

/// Puts on record what somebody did, and from where, within a transaction that is open on `connection`.
pub(super) fn tell(
    connection: &Connection,
    (now, action, by): (Timestamp, &str, &Actor),
    detail: Value,
) -> rusqlite::Result<()> {
    append_all(connection, now, &[Append::audit(action, by, detail)]).map(|_| ())
}

/// Appends what `work` says to the current epoch, within a transaction that is open on `connection`.
pub(super) fn append<T>(
    connection: &Connection,
    now: Timestamp,
    work: impl FnOnce(&mut Appender<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let mut log = Appender::open(connection, now)?;
    let outcome = work(&mut log)?;
    log.finish()?;
    Ok(outcome)
}

/// Entries on their way into the current epoch.
pub(super) struct Appender<'c> {
    connection: &'c Connection,
    epoch: i64,
    now: Timestamp,
    /// The size that the epoch had before.
    began: u64,
    frontier: Frontier,
    subjects: BTreeMap<i64, Subject>,
}

struct Subject {
    digest: Digest,
    newest: Option<u64>,
}

/// Where a record lies that an entry commits to.
#[derive(Clone, Copy)]
enum Source {
    Block {
        start: Timestamp,
        revision: u32,
    },
    Commissioning {
        id: i64,
    },
    /// In the entry's own row.
    Here,
}

impl<'c> Appender<'c> {
    fn open(connection: &'c Connection, now: Timestamp) -> rusqlite::Result<Self> {
        let mut statement =
            connection.prepare_cached("SELECT number, size, frontier FROM epochs ORDER BY number DESC LIMIT 1")?;
        let (epoch, size, frontier) = statement.query_row([], |row| {
            let bytes = row.get_ref(2)?.as_blob()?;
            Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned(), rows::hashes(bytes)))
        })?;
        let frontier = frontier.and_then(|subtrees| Frontier::restore(size, subtrees));
        let frontier = frontier.ok_or_else(|| rows::torn("the end of the log is not kept as it must be"))?;
        Ok(Self { connection, epoch, now, began: frontier.size(), frontier, subjects: BTreeMap::new() })
    }

    /// How many entries there are, and the root over them.
    fn head(&self) -> (u64, Digest) {
        (self.frontier.size(), self.frontier.root())
    }

    /// Where the next entry will stand.
    pub fn next(&self) -> (i64, u64) {
        (self.epoch, self.frontier.size())
    }

    /// A block that is stored in this transaction.
    pub fn block(&mut self, block: &Block, meter: i64) -> rusqlite::Result<u64> {
        let source = Source::Block { start: block.span.start(), revision: block.revision };
        self.push(EntryKind::of(block), Some((meter, &block.meter)), block.to_json(), source)
    }

    /// The commissioning record with this row id, as it is stored.
    pub fn commissioning(&mut self, id: i64, meter: (i64, &MeterId), record: Value) -> rusqlite::Result<u64> {
        self.push(EntryKind::Commissioning, Some(meter), record, Source::Commissioning { id })
    }

    fn append(&mut self, wanted: &Append) -> rusqlite::Result<u64> {
        match wanted {
            Append::Dataset { dataset, manifest_sha256 } => {
                let record = json!({"dataset": dataset, "manifest_sha256": manifest_sha256.to_string()});
                let index = self.record(EntryKind::Dataset, record)?;
                self.name_dataset(dataset, index)?;
                Ok(index)
            }
            Append::Config { config_sha256, program, meters } => {
                for meter in meters {
                    let number = ledger::meter_number(self.connection, meter)?;
                    self.subject(number, meter)?;
                }
                let subjects = rows::subjects(self.connection, self.epoch)?;
                let subjects: BTreeMap<String, String> =
                    subjects.into_iter().map(|(meter, subject)| (meter, subject.to_string())).collect();
                let record = json!({
                    "config_sha256": config_sha256.to_string(), "program": program, "subjects": subjects,
                });
                self.record(EntryKind::Config, record)
            }
            Append::Audit { action, by, detail } => {
                self.record(EntryKind::Audit, json!({"action": action, "by": by, "detail": detail}))
            }
        }
    }

    fn name_dataset(&self, dataset: &str, index: u64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("INSERT INTO dataset_entries VALUES (?1, ?2, ?3)")?
            .execute(params![dataset, self.epoch, index.cast_signed()])
            .map(|_| ())
    }

    /// An entry of no meter, which keeps its record itself.
    fn record(&mut self, kind: EntryKind, record: Value) -> rusqlite::Result<u64> {
        self.push(kind, None, record, Source::Here)
    }

    fn push(
        &mut self,
        kind: EntryKind,
        meter: Option<(i64, &MeterId)>,
        record: Value,
        source: Source,
    ) -> rusqlite::Result<u64> {
        let index = self.frontier.size();
        let (subject, prev, record) = match meter {
            Some((number, name)) => {
                let subject = self.subject(number, name)?;
                let prev = subject.newest.replace(index);
                (Some(subject.digest), prev, entry::with_prev(record, prev))
            }
            None => (None, None, jcs::to_vec(&record)),
        };
        let record = record.map_err(|error| rows::refused(&error))?;
        let salt = Salt(random()?);
        let entry = Entry { kind, time: self.now, subject, commit: entry::commit(&salt, &record) };
        let (place, revision, kept) = match source {
            Source::Block { start, revision } => (Some(start.as_millis()), Some(revision), None),
            Source::Commissioning { id } => (Some(id), None, None),
            Source::Here => (None, None, Some(String::from_utf8_lossy(&record))),
        };
        self.connection
            .prepare_cached("INSERT INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?
            .execute(params![
                self.epoch,
                index.cast_signed(),
                rows::number_of(kind),
                self.now.as_millis(),
                meter.map(|(number, _)| number),
                prev.map(u64::cast_signed),
                salt.0,
                entry.commit.as_bytes(),
                place,
                revision,
                kept,
            ])?;
        self.frontier.push(entry.leaf_hash());
        if self.frontier.size().is_multiple_of(TILE) {
            self.fill_tiles()?;
        }
        Ok(index)
    }

    /// What the meter is called in this epoch; a salt is made when it has none.
    fn subject(&mut self, number: i64, meter: &MeterId) -> rusqlite::Result<&mut Subject> {
        use std::collections::btree_map::Entry::{Occupied, Vacant};
        let vacant = match self.subjects.entry(number) {
            Occupied(known) => return Ok(known.into_mut()),
            Vacant(vacant) => vacant,
        };
        let mut statement =
            self.connection.prepare_cached("SELECT subject, newest FROM subjects WHERE epoch = ?1 AND meter = ?2")?;
        let kept = statement.query_row([self.epoch, number], |row| {
            let newest: Option<i64> = row.get(1)?;
            Ok(Subject { digest: Digest::from_bytes(row.get(0)?), newest: newest.map(i64::cast_unsigned) })
        });
        Ok(vacant.insert(match kept.optional()? {
            Some(subject) => subject,
            None => {
                let salt = Salt(random()?);
                let digest = entry::subject(&salt, meter);
                self.connection
                    .prepare_cached("INSERT INTO subjects VALUES (?1, ?2, ?3, ?4, NULL)")?
                    .execute(params![self.epoch, number, salt.0, digest.as_bytes()])?;
                Subject { digest, newest: None }
            }
        }))
    }

    /// Keeps the tile of level 0 that is full now, and its root in the level above; a tile that becomes full by that
    /// goes on to the next one.
    fn fill_tiles(&self) -> rusqlite::Result<()> {
        let mut n = self.frontier.size() / TILE - 1;
        let mut hashes = rows::leaf_hashes(self.connection, self.epoch, n * TILE, (n + 1) * TILE)?;
        for level in 0_u8.. {
            if u64::try_from(hashes.len()) != Ok(if level == 0 { TILE } else { n % TILE + 1 }) {
                return Err(rows::torn("entries or tiles of the log are missing"));
            }
            let tile = if level == 0 { n } else { n / TILE };
            rows::keep_tile(self.connection, self.epoch, level, tile, &hashes)?;
            if hashes.len() < 256 {
                break;
            }
            n = tile;
            let mut whole = Frontier::default();
            hashes.drain(..).for_each(|hash| whole.push(hash));
            hashes = rows::kept_tile(self.connection, self.epoch, level + 1, n / TILE)?.unwrap_or_default();
            hashes.push(whole.root());
        }
        Ok(())
    }

    fn finish(self) -> rusqlite::Result<()> {
        if self.frontier.size() == self.began {
            return Ok(());
        }
        for (meter, subject) in &self.subjects {
            self.connection
                .prepare_cached("UPDATE subjects SET newest = ?3 WHERE epoch = ?1 AND meter = ?2")?
                .execute(params![self.epoch, meter, subject.newest.map(u64::cast_signed)])?;
        }
        let frontier: Vec<u8> = self.frontier.subtrees().iter().flat_map(|root| *root.as_bytes()).collect();
        self.connection
            .prepare_cached("UPDATE epochs SET size = ?2, frontier = ?3 WHERE number = ?1")?
            .execute(params![self.epoch, self.frontier.size().cast_signed(), frontier])
            .map(|_| ())
    }
}

fn random<const N: usize>() -> rusqlite::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| rows::refused(&error))?;
    Ok(bytes)
}
