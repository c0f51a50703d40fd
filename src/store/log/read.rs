//! The log as others may see it: only what is under a signed checkpoint.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{TILE, epoch, rows};
use crate::model::entry::{Entry, EntryKind, Reason, Salt};
use crate::model::merkle::{self, Frontier, Nodes};
use crate::model::note::{SignedCheckpoint, VerifierKey};
use crate::model::{Digest, MeterId, Span, Timestamp};
use crate::store::{Identity, Reader, StoreError, ledger};

/// An epoch of the log, as it is found in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    pub identity: Identity,
    pub key: VerifierKey,
    pub opened: Timestamp,
    pub reason: Reason,
    /// Entries, signed or not.
    pub size: u64,
}

/// An entry's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    pub epoch: String,
    pub index: u64,
}

/// What opens an entry.
#[derive(Clone, PartialEq)]
pub struct Opening {
    pub index: u64,
    pub kind: EntryKind,
    pub time: Timestamp,
    /// JCS, as it was committed to.
    pub record: Vec<u8>,
    pub salt: Salt,
    /// The meter, and its salt in this epoch.
    pub meter: Option<(MeterId, Salt)>,
}

impl Reader {
    /// The epochs, the oldest first; the last one is the current one.
    pub async fn epochs(&self) -> Result<Vec<Epoch>, StoreError> {
        self.evidence(epochs).await
    }

    /// The newest checkpoint of an epoch.
    pub async fn checkpoint(&self, epoch: &str) -> Result<Option<SignedCheckpoint>, StoreError> {
        self.of_log(epoch, |connection, log| epoch::stored(connection, log.number, None)).await
    }

    /// The checkpoint of an epoch at this size, if it is kept.
    pub async fn checkpoint_at(&self, epoch: &str, size: u64) -> Result<Option<SignedCheckpoint>, StoreError> {
        self.of_log(epoch, move |connection, log| epoch::stored(connection, log.number, Some(size))).await
    }

    /// A tile's first `width` hashes, 1 to 256, one after the other (C2SP tlog-tiles).
    pub async fn tile(&self, epoch: &str, level: u8, n: u64, width: u16) -> Result<Option<Vec<u8>>, StoreError> {
        self.of_log(epoch, move |connection, log| {
            if !log.has_tile(level, n, width) {
                return Ok(None);
            }
            let hashes = rows::tile(connection, log.number, level, n, width.into())?;
            if hashes.len() != usize::from(width) {
                return Err(rows::torn("a tile of the log is missing"));
            }
            Ok(Some(hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()))
        })
        .await
    }

    /// The data of a level-0 tile's first `width` leaves, each after its length (C2SP tlog-tiles).
    pub async fn entry_tile(&self, epoch: &str, n: u64, width: u16) -> Result<Option<Vec<u8>>, StoreError> {
        self.of_log(epoch, move |connection, log| {
            if !log.has_tile(0, n, width) {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            for entry in rows::entries(connection, log.number, n * TILE, n * TILE + u64::from(width))? {
                let entry = entry.to_bytes();
                // An entry has some 200 bytes, whatever its record.
                bytes.extend(u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes());
                bytes.extend(entry);
            }
            Ok(Some(bytes))
        })
        .await
    }

    /// The entries with `from <= index < to` that are signed.
    pub async fn log_entries(&self, epoch: &str, from: u64, to: u64) -> Result<Vec<Entry>, StoreError> {
        let found = self.of_log(epoch, move |connection, log| {
            rows::entries(connection, log.number, from, to.min(log.signed)).map(Some)
        });
        Ok(found.await?.unwrap_or_default())
    }

    /// What opens these entries, in their order; those that are not signed yet are left out.
    pub async fn openings(&self, epoch: &str, indices: Vec<u64>) -> Result<Vec<Opening>, StoreError> {
        let found = self.of_log(epoch, move |connection, log| {
            let signed = indices.into_iter().filter(|index| *index < log.signed);
            signed.map(|index| opening(connection, log.number, index)).collect::<rusqlite::Result<_>>().map(Some)
        });
        Ok(found.await?.unwrap_or_default())
    }

    /// The indices of a meter's signed entries in an epoch, increasing: its chain of `prev`.
    pub async fn entries_of_meter(&self, epoch: &str, meter: &MeterId) -> Result<Vec<u64>, StoreError> {
        let meter = meter.clone();
        let found =
            self.of_log(epoch, move |connection, log| chain(connection, log.number, &meter, log.signed).map(Some));
        Ok(found.await?.unwrap_or_default())
    }

    /// Where the revisions of a block are logged, in their order, as far as that is signed.
    pub async fn entries_of_block(&self, meter: &MeterId, start: Timestamp) -> Result<Vec<LogPlace>, StoreError> {
        let meter = meter.clone();
        self.evidence(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT epoch, log_index FROM blocks JOIN meters ON meters.id = meter
                 JOIN epochs ON epochs.number = log_epoch
                 WHERE name = ?1 AND start = ?2
                 AND log_index < (SELECT max(size) FROM checkpoints WHERE epoch = log_epoch) ORDER BY revision",
            )?;
            let rows = statement.query_map(params![meter.as_str(), start.as_millis()], place)?;
            rows.collect()
        })
        .await
    }

    /// Where the blocks of a meter that touch a span are logged, in all their revisions, signed or not.
    pub async fn entries_of_blocks(&self, meter: &MeterId, span: Span) -> Result<Vec<LogPlace>, StoreError> {
        let meter = meter.clone();
        self.evidence(move |connection| {
            let places = ledger::places_of_blocks(connection, &meter, span)?;
            let mut name = connection.prepare_cached("SELECT epoch FROM epochs WHERE number = ?1")?;
            let mut names = BTreeMap::new();
            for (number, _) in &places {
                if !names.contains_key(number) {
                    names.insert(*number, name.query_row([number], |row| row.get::<_, String>(0))?);
                }
            }
            Ok(places.into_iter().map(|(number, index)| LogPlace { epoch: names[&number].clone(), index }).collect())
        })
        .await
    }

    /// Where a dataset is logged, as far as that is signed; more than one place when an epoch ended unsigned.
    pub async fn entries_of_dataset(&self, dataset: &str) -> Result<Vec<LogPlace>, StoreError> {
        let dataset = dataset.to_owned();
        self.evidence(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT epochs.epoch, idx FROM dataset_entries JOIN epochs ON epochs.number = dataset_entries.epoch
                 WHERE dataset = ?1 AND idx < (SELECT max(size) FROM checkpoints WHERE epoch = number)
                 ORDER BY number, idx",
            )?;
            let rows = statement.query_map([dataset], place)?;
            rows.collect()
        })
        .await
    }

    /// The audit path of a leaf in the tree of `size` leaves; `None` unless all of that is signed.
    pub async fn inclusion(&self, epoch: &str, index: u64, size: u64) -> Result<Option<Vec<Digest>>, StoreError> {
        self.proof(epoch, size, index < size, move |tiles| merkle::inclusion(tiles, index, size)).await
    }

    /// The hashes beside these leaves (increasing) in the tree of `size` leaves; `None` unless all of that is signed.
    pub async fn siblings(&self, epoch: &str, indices: Vec<u64>, size: u64) -> Result<Option<Vec<Digest>>, StoreError> {
        let is_within = indices.is_sorted_by(|a, b| a < b) && indices.last().is_some_and(|last| *last < size);
        self.proof(epoch, size, is_within, move |tiles| merkle::siblings(tiles, &indices, size)).await
    }

    /// The proof that the tree of `new` leaves continues that of `old`; `None` unless both are signed.
    pub async fn consistency(&self, epoch: &str, old: u64, new: u64) -> Result<Option<Vec<Digest>>, StoreError> {
        self.proof(epoch, new, (1..=new).contains(&old), move |tiles| merkle::consistency(tiles, old, new)).await
    }

    /// The root of the first `size` entries, signed or not: whether the store agrees with what others have seen of it.
    /// `None` where it does not go as far.
    pub async fn root_at(&self, epoch: &str, size: u64) -> Result<Option<Digest>, StoreError> {
        self.of_log(epoch, move |connection, log| {
            if size > log.size {
                return Ok(None);
            }
            merkle::root(&mut Tiles::new(connection, log.number, size), size).map(Some)
        })
        .await
    }

    async fn proof(
        &self,
        epoch: &str,
        size: u64,
        is_asked_well: bool,
        work: impl FnOnce(&mut Tiles<'_>) -> rusqlite::Result<Vec<Digest>> + Send + 'static,
    ) -> Result<Option<Vec<Digest>>, StoreError> {
        self.of_log(epoch, move |connection, log| {
            if !is_asked_well || size > log.signed {
                return Ok(None);
            }
            work(&mut Tiles::new(connection, log.number, size)).map(Some)
        })
        .await
    }

    /// Asks about one epoch; nothing is found in one that there is not.
    async fn of_log<T: Send + 'static>(
        &self,
        epoch: &str,
        query: impl FnOnce(&Connection, Log) -> rusqlite::Result<Option<T>> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let epoch = epoch.to_owned();
        self.evidence(move |connection| match Log::find(connection, &epoch)? {
            Some(log) => query(connection, log),
            None => Ok(None),
        })
        .await
    }
}

/// An epoch's number in its rows, how much of it there is, and how much is signed.
struct Log {
    number: i64,
    size: u64,
    signed: u64,
}

impl Log {
    fn find(connection: &Connection, epoch: &str) -> rusqlite::Result<Option<Self>> {
        let mut statement = connection.prepare_cached(
            "SELECT number, size, (SELECT max(size) FROM checkpoints WHERE checkpoints.epoch = number)
             FROM epochs WHERE epoch = ?1",
        )?;
        let found = statement.query_row([epoch], |row| {
            let signed: Option<i64> = row.get(2)?;
            Ok(Self {
                number: row.get(0)?,
                size: row.get::<_, i64>(1)?.cast_unsigned(),
                signed: signed.unwrap_or(0).cast_unsigned(),
            })
        });
        found.optional()
    }

    /// Whether a tile of this width has hashes of signed leaves alone.
    fn has_tile(&self, level: u8, n: u64, width: u16) -> bool {
        let hashes = self.signed.checked_shr(8 * u32::from(level)).unwrap_or(0);
        let end = n.checked_mul(TILE).and_then(|first| first.checked_add(width.into()));
        (1..=256).contains(&width) && end.is_some_and(|end| end <= hashes)
    }
}

/// The nodes of a tree of `size` leaves, from its tiles: the last one of each level is kept at hand, since a walk goes
/// from left to right.
pub struct Tiles<'c> {
    connection: &'c Connection,
    epoch: i64,
    size: u64,
    at_hand: [Option<(u64, Vec<Digest>)>; 8],
}

impl<'c> Tiles<'c> {
    pub fn new(connection: &'c Connection, epoch: i64, size: u64) -> Self {
        Self { connection, epoch, size, at_hand: Default::default() }
    }
}

impl Nodes for Tiles<'_> {
    type Error = rusqlite::Error;

    fn node(&mut self, level: u8, n: u64) -> rusqlite::Result<Digest> {
        let missing = || rows::torn("a tile of the log is missing");
        let (tile_level, height) = (level / 8, level % 8);
        let first = n << height;
        let (tile, at) = (first / TILE, usize::try_from(first % TILE).unwrap_or(0));
        let slot = self.at_hand.get_mut(usize::from(tile_level)).ok_or_else(missing)?;
        if slot.as_ref().is_none_or(|(kept, _)| *kept != tile) {
            let width = ((self.size >> (8 * u32::from(tile_level))) - tile * TILE).min(TILE);
            *slot = Some((tile, rows::tile(self.connection, self.epoch, tile_level, tile, width)?));
        }
        let hashes = slot.as_ref().and_then(|(_, hashes)| hashes.get(at..at + (1 << height)));
        let mut subtree = Frontier::default();
        hashes.ok_or_else(missing)?.iter().for_each(|hash| subtree.push(*hash));
        Ok(subtree.root())
    }
}

fn epochs(connection: &Connection) -> rusqlite::Result<Vec<Epoch>> {
    let mut statement = connection
        .prepare_cached("SELECT epoch, site, gateway, public, opened, reason, size FROM epochs ORDER BY number")?;
    let rows = statement.query_map([], |row| {
        let (site, reason): (String, String) = (row.get(1)?, row.get(5)?);
        let wrong = || rows::torn("an epoch of the log is not written as it must be");
        let identity = Identity { site: site.parse().map_err(|_| wrong())?, gateway: row.get(2)?, epoch: row.get(0)? };
        Ok(Epoch {
            key: VerifierKey::new(identity.origin(), row.get(3)?),
            identity,
            opened: Timestamp::from_millis(row.get(4)?),
            reason: Reason::named(&reason).ok_or_else(wrong)?,
            size: row.get::<_, i64>(6)?.cast_unsigned(),
        })
    })?;
    rows.collect()
}

pub fn opening(connection: &Connection, epoch: i64, index: u64) -> rusqlite::Result<Opening> {
    let row = rows::entry_row(connection, epoch, index)?.ok_or_else(|| rows::torn("an entry of the log is missing"))?;
    let record = row.record(connection)?;
    let meter = row.meter.map(|(_, name, salt)| (name, salt));
    Ok(Opening { index, kind: row.kind, time: row.time, record, salt: row.salt, meter })
}

fn chain(connection: &Connection, epoch: i64, meter: &MeterId, signed: u64) -> rusqlite::Result<Vec<u64>> {
    let Some(number) = ledger::find_meter(connection, meter)? else { return Ok(Vec::new()) };
    let mut newest = connection.prepare_cached("SELECT newest FROM subjects WHERE epoch = ?1 AND meter = ?2")?;
    let mut next: Option<i64> = newest.query_row([epoch, number], |row| row.get(0)).optional()?.flatten();
    let mut before = connection.prepare_cached("SELECT prev FROM entries WHERE epoch = ?1 AND idx = ?2")?;
    let mut chain = Vec::new();
    while let Some(index) = next {
        chain.push(index.cast_unsigned());
        next = before.query_row([epoch, index], |row| row.get(0))?;
        if next.is_some_and(|before| before >= index) {
            return Err(rows::torn("the chain of a meter's entries does not lead back"));
        }
    }
    chain.retain(|index| *index < signed);
    chain.reverse();
    Ok(chain)
}

fn place(row: &rusqlite::Row<'_>) -> rusqlite::Result<LogPlace> {
    Ok(LogPlace { epoch: row.get(0)?, index: row.get::<_, i64>(1)?.cast_unsigned() })
}
