//! Anchors and what they cover: their rows in `evidence.db`. One is written whole, in one transaction, and never
//! deleted.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use alloy_primitives::{Address, B256};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::de::DeserializeOwned;

use super::{Ledger, Reader, StoreError, events, ledger};
use crate::model::proof::AnchoredBy;
use crate::model::{Anchor, AnchorState, Anchored, Block, ChainEvidence, Coverage, JobId, MeterId, Span, Timestamp};

/// Step from version 4 to 5 of `evidence.db`.
///
/// `record` is the anchor as JSON; what is asked for stands in columns beside it. `nonce` is that of the transactions
/// that may still be mined or were: no two anchors hold one at the same time. It is not that of the anchor for ever:
/// when somebody else's transaction took it, the anchor gives it up for another, and the constraint says nothing of
/// the one given up. `highest_nonce` remembers all that were ever signed for by its account, so that none of them is
/// taken anew. One of which nothing is signed may move to another account; what was given up before stays behind, since
/// its use is final on the chain, and the chain counts it.
pub const SCHEMA: &str = "
    CREATE TABLE anchors (
        id INTEGER PRIMARY KEY CHECK (id > 0),
        chain_id INTEGER NOT NULL, account BLOB NOT NULL CHECK (length(account) = 20), contract BLOB,
        epoch TEXT, size INTEGER,
        state TEXT NOT NULL CHECK (state IN ('queued', 'signed', 'sent', 'included', 'final', 'reorganised')),
        queued INTEGER NOT NULL, since INTEGER NOT NULL, changed INTEGER NOT NULL, next_check INTEGER,
        nonce INTEGER, highest_nonce INTEGER, tx BLOB CHECK (length(tx) = 32),
        record TEXT NOT NULL, evidence TEXT,
        CHECK ((epoch IS NULL) = (size IS NULL)),
        CHECK (nonce IS NULL OR state <> 'queued'),
        CHECK (nonce IS NOT NULL OR state NOT IN ('signed', 'sent'))
    ) STRICT;
    CREATE UNIQUE INDEX anchor_nonces ON anchors (chain_id, account, nonce) WHERE nonce IS NOT NULL;
    CREATE INDEX anchor_nonces_used ON anchors (chain_id, account, highest_nonce) WHERE highest_nonce IS NOT NULL;
    CREATE INDEX unsettled_anchors ON anchors (id) WHERE state <> 'final' OR next_check IS NOT NULL;
    CREATE INDEX changed_anchors ON anchors (changed);
    -- Says alone what is covered: the rows, which are large, are not looked at for it.
    CREATE INDEX anchor_coverage ON anchors (state, epoch, chain_id, size, tx);
";

/// How far a checkpoint reaches.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// When the last entry below it was made.
    pub time: Timestamp,
    /// The block that was sealed last.
    pub block: Option<(MeterId, Span)>,
}

impl Ledger {
    /// Adds an anchor; its id. One of the same checkpoint on the same chain, by the same account and contract, is not
    /// added again: its id is given.
    pub async fn add_anchor(&self, anchor: Anchor) -> Result<u64, StoreError> {
        let now = self.shared.clock.now();
        self.anchors(move |transaction| {
            if let Some(id) = same(transaction, &anchor)? {
                return Ok(Ok(id));
            }
            if let Err(taken) = nonce_is_free(transaction, &anchor, 0)? {
                return Ok(Err(taken));
            }
            let last: Option<i64> = transaction.query_row("SELECT max(id) FROM anchors", [], |row| row.get(0))?;
            let id = last.unwrap_or(0) + 1;
            let anchor = Anchor { id: id.cast_unsigned(), ..anchor.clone() };
            write(transaction, id, &anchor, None, now)?;
            events::anchor(transaction, &anchor, None, now)?;
            Ok(Ok(id.cast_unsigned()))
        })
        .await
    }

    /// Writes an anchor anew, whole. Without `evidence`, what there is stays as long as it is of the block that the
    /// anchor is, or was, in: one that comes back into that block has it at once.
    pub async fn save_anchor(&self, anchor: Anchor, evidence: Option<ChainEvidence>) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.anchors(move |transaction| {
            let Some(kept) = one(transaction, anchor.id)? else { return Ok(Err(StoreError::NoAnchor(anchor.id))) };
            if let Err(taken) = nonce_is_free(transaction, &anchor, anchor.id)? {
                return Ok(Err(taken));
            }
            let evidence = match &evidence {
                Some(evidence) => Some(serde_json::to_string(evidence).map_err(of_json)?),
                None if block(&anchor).is_some() && block(&anchor) == block(&kept) => {
                    evidence_text(transaction, anchor.id)?
                }
                None => None,
            };
            if anchor.state != kept.state {
                events::anchor(transaction, &anchor, evidence.as_deref(), now)?;
            }
            write(transaction, anchor.id.cast_signed(), &anchor, evidence, now)?;
            Ok(Ok(()))
        })
        .await
    }

    /// All that `work` does or nothing, as it says itself or the disk does.
    async fn anchors<T: Send + 'static>(
        &self,
        work: impl Fn(&Transaction<'_>) -> rusqlite::Result<Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            let done = work(&transaction)?;
            if done.is_ok() {
                transaction.commit()?;
            }
            Ok(done)
        });
        let done = done.await?;
        self.shared.tell_sendable();
        done
    }
}

impl Reader {
    /// Anchors, the newest first; those before `before` when it is given.
    pub async fn anchors(&self, before: Option<u64>, limit: usize) -> Result<Vec<Anchor>, StoreError> {
        let before = before.map_or(i64::MAX, |id| i64::try_from(id).unwrap_or(i64::MAX));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.evidence(move |connection| {
            let sql = "SELECT id, record FROM anchors WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
            connection.prepare_cached(sql)?.query_map([before, limit], read)?.collect()
        })
        .await
    }

    pub async fn anchor(&self, id: u64) -> Result<Option<Anchor>, StoreError> {
        self.evidence(move |connection| one(connection, id)).await
    }

    /// Those that are not final, or are to be looked at again; the oldest first.
    pub async fn unsettled_anchors(&self) -> Result<Vec<Anchor>, StoreError> {
        self.evidence(|connection| {
            let sql = "SELECT id, record FROM anchors INDEXED BY unsettled_anchors
                       WHERE state <> 'final' OR next_check IS NOT NULL ORDER BY id";
            connection.prepare_cached(sql)?.query_map([], read)?.collect()
        })
        .await
    }

    /// Those that were queued or written anew within `when`, whatever changed; the newest `limit` of them, the newest
    /// first.
    pub async fn anchors_changed(
        &self,
        when: RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Anchor>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.evidence(move |connection| {
            let sql = "SELECT id, record FROM anchors INDEXED BY changed_anchors
                       WHERE changed BETWEEN ?1 AND ?2 ORDER BY changed DESC, id DESC LIMIT ?3";
            let values = [when.start().as_millis(), when.end().as_millis(), limit];
            connection.prepare_cached(sql)?.query_map(values, read)?.collect()
        })
        .await
    }

    /// The newest contract that an account has made on a chain, or is making.
    pub async fn newest_contract(&self, chain_id: u64, account: Address) -> Result<Option<Anchor>, StoreError> {
        self.evidence(move |connection| {
            let sql = "SELECT id, record FROM anchors WHERE epoch IS NULL AND chain_id = ?1 AND account = ?2
                       ORDER BY id DESC LIMIT 1";
            let values = params![chain_id.cast_signed(), account.as_slice()];
            connection.prepare_cached(sql)?.query_row(values, read).optional()
        })
        .await
    }

    /// What shows that an anchor is in the block that it says; `None` while it is in none.
    pub async fn anchor_evidence(&self, id: u64) -> Result<Option<ChainEvidence>, StoreError> {
        self.evidence(move |connection| {
            let is_in = |anchor: Anchor| matches!(anchor.state, AnchorState::Included | AnchorState::Final);
            if !one(connection, id)?.is_some_and(is_in) {
                return Ok(None);
            }
            evidence_text(connection, id)?.map(|text| serde_json::from_str(&text).map_err(of_json)).transpose()
        })
        .await
    }

    /// One above the highest nonce that was ever signed for, whatever became of it; `None` where none was.
    pub async fn next_nonce(&self, chain_id: u64, account: Address) -> Result<Option<u64>, StoreError> {
        self.evidence(move |connection| {
            let sql = "SELECT max(highest_nonce) FROM anchors INDEXED BY anchor_nonces_used
                       WHERE chain_id = ?1 AND account = ?2 AND highest_nonce IS NOT NULL";
            let highest: Option<i64> = connection
                .prepare_cached(sql)?
                .query_row(params![chain_id.cast_signed(), account.as_slice()], |row| row.get(0))?;
            Ok(highest.map(|nonce| nonce.cast_unsigned() + 1))
        })
        .await
    }

    /// All that stands, or is to stand, on any chain for an epoch, by size. Read from one index; where only some entries
    /// are asked about, [`Self::covered_blocks`] and [`Self::covered_datasets`] look at far less.
    pub async fn coverage(&self, epoch: &str) -> Result<Vec<Coverage>, StoreError> {
        let epoch = epoch.to_owned();
        self.evidence(move |connection| {
            let mut all = Vec::new();
            let sql = "SELECT id, size, state, tx, chain_id FROM anchors INDEXED BY anchor_coverage
                       WHERE state = ?1 AND epoch = ?2";
            let mut statement = connection.prepare_cached(sql)?;
            for state in AnchorState::ALL {
                let found = statement.query_map([state.as_str(), &epoch], read_coverage)?;
                all.extend(found.collect::<rusqlite::Result<Vec<_>>>()?);
            }
            all.sort_unstable_by_key(|anchor| (anchor.size, anchor.id));
            Ok(all)
        })
        .await
    }

    /// As [`Self::blocks`], each with the anchor that covers it: of those that are furthest, the oldest. Of one chain:
    /// this one, or else that of the newest anchor that is in a block. What stands on a test net says nothing of another.
    pub async fn covered_blocks(
        &self,
        meter: &MeterId,
        span: Span,
        chain: Option<u64>,
    ) -> Result<Vec<(Block, Option<Coverage>)>, StoreError> {
        let meter = meter.clone();
        self.evidence(move |connection| {
            let mut cover = Cover::new(connection, chain)?;
            let blocks = ledger::placed_blocks(connection, &meter, span)?;
            let covered = |(block, place)| {
                let anchor = match place {
                    Some((epoch, index)) => cover.of(epoch, index)?,
                    None => None,
                };
                Ok((block, anchor))
            };
            blocks.into_iter().map(covered).collect()
        })
        .await
    }

    /// The anchor that covers each of these datasets, found as for blocks.
    pub async fn covered_datasets(
        &self,
        ids: Vec<JobId>,
        chain: Option<u64>,
    ) -> Result<Vec<Option<Coverage>>, StoreError> {
        self.evidence(move |connection| {
            let mut cover = Cover::new(connection, chain)?;
            let mut places = connection.prepare_cached("SELECT epoch, idx FROM dataset_entries WHERE dataset = ?1")?;
            let mut anchors = Vec::new();
            for id in ids {
                let places: Vec<(i64, i64)> = places
                    .query_map([id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<rusqlite::Result<_>>()?;
                let mut best = None;
                for (epoch, index) in places {
                    best = better(best, cover.of(epoch, index.cast_unsigned())?);
                }
                anchors.push(best);
            }
            Ok(anchors)
        })
        .await
    }

    /// The largest checkpoint of an epoch that is final, on a chain as [`Self::covered_blocks`] takes it.
    pub async fn newest_final(&self, epoch: &str, chain: Option<u64>) -> Result<Option<Coverage>, StoreError> {
        let epoch = epoch.to_owned();
        self.evidence(move |connection| {
            let Some(chain) = chain_or_newest(connection, chain)? else { return Ok(None) };
            let sql = "SELECT id, size, state, tx, chain_id FROM anchors INDEXED BY anchor_coverage
                       WHERE state = 'final' AND epoch = ?1 AND chain_id = ?2 ORDER BY size DESC LIMIT 1";
            connection.prepare_cached(sql)?.query_row(params![epoch, chain.cast_signed()], read_coverage).optional()
        })
        .await
    }

    /// When the last of the first `size` entries of an epoch was made; `None` as for [`Self::reach`].
    pub async fn last_entry_time(&self, epoch: &str, size: u64) -> Result<Option<Timestamp>, StoreError> {
        let epoch = epoch.to_owned();
        self.evidence(move |connection| {
            let last = last_entry(connection, &epoch, size.cast_signed())?;
            Ok(last.map(|(_, time)| Timestamp::from_millis(time)))
        })
        .await
    }

    /// How far the first `size` entries of an epoch reach; `None` where it does not have as many, or none are asked for.
    pub async fn reach(&self, epoch: &str, size: u64) -> Result<Option<Reach>, StoreError> {
        let epoch = epoch.to_owned();
        self.evidence(move |connection| reach(connection, &epoch, size.cast_signed())).await
    }

    /// All accounts whose anchors are in blocks, with their chains; the one of the oldest anchor first.
    pub async fn anchored_by(&self) -> Result<Vec<AnchoredBy>, StoreError> {
        self.evidence(|connection| {
            let sql = "SELECT chain_id, account FROM anchors WHERE state IN ('included', 'final') AND epoch IS NOT NULL
                       GROUP BY chain_id, account ORDER BY min(id)";
            let read = |row: &Row<'_>| {
                let account = Address::from(row.get::<_, [u8; 20]>(1)?);
                Ok(AnchoredBy { chain_id: row.get::<_, i64>(0)?.cast_unsigned(), account })
            };
            connection.prepare_cached(sql)?.query_map([], read)?.collect()
        })
        .await
    }

    /// How many anchors are in each state.
    pub async fn anchors_by_state(&self) -> Result<HashMap<AnchorState, u64>, StoreError> {
        self.evidence(|connection| {
            let sql = "SELECT state, count(*) FROM anchors INDEXED BY anchor_coverage GROUP BY state";
            let mut statement = connection.prepare_cached(sql)?;
            let counts = statement.query_map([], |row| Ok((state(row, 0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
            counts.collect()
        })
        .await
    }
}

/// The block of the chain that an anchor is, or was, in.
fn block(anchor: &Anchor) -> Option<B256> {
    anchor.inclusion.as_ref().map(|inclusion| inclusion.hash)
}

fn one(connection: &Connection, id: u64) -> rusqlite::Result<Option<Anchor>> {
    let mut statement = connection.prepare_cached("SELECT id, record FROM anchors WHERE id = ?1")?;
    statement.query_row([id.cast_signed()], read).optional()
}

/// All anchors with their evidence, in the order in which they changed last.
pub fn each(
    connection: &Connection,
    mut each: impl FnMut(Anchor, Option<String>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let sql = "SELECT id, record, evidence FROM anchors INDEXED BY changed_anchors ORDER BY changed, id";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(read(row)?, row.get(2)?)?;
    }
    Ok(())
}

fn evidence_text(connection: &Connection, id: u64) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT evidence FROM anchors WHERE id = ?1")?;
    Ok(statement.query_row([id.cast_signed()], |row| row.get(0)).optional()?.flatten())
}

/// The one that writes the same checkpoint to the same place.
fn same(connection: &Connection, anchor: &Anchor) -> rusqlite::Result<Option<u64>> {
    let Anchored::Checkpoint { epoch, size, .. } = &anchor.what else { return Ok(None) };
    let sql = "SELECT id FROM anchors INDEXED BY anchor_coverage
               WHERE state = ?1 AND epoch = ?2 AND size = ?3 AND chain_id = ?4 AND account = ?5 AND contract IS ?6";
    let mut statement = connection.prepare_cached(sql)?;
    for state in AnchorState::ALL {
        let found = statement.query_row(
            params![
                state.as_str(),
                epoch,
                size.cast_signed(),
                anchor.chain_id.cast_signed(),
                anchor.account.as_slice(),
                anchor.contract.as_ref().map(|contract| contract.as_slice()),
            ],
            |row| row.get::<_, i64>(0),
        );
        if let Some(id) = found.optional()? {
            return Ok(Some(id.cast_unsigned()));
        }
    }
    Ok(None)
}

/// Whether no other anchor holds the nonce of this one. The index would refuse it as well, but not say who has it.
fn nonce_is_free(connection: &Connection, anchor: &Anchor, id: u64) -> rusqlite::Result<Result<(), StoreError>> {
    let Some(nonce) = nonce(anchor) else { return Ok(Ok(())) };
    let sql = "SELECT id FROM anchors WHERE chain_id = ?1 AND account = ?2 AND nonce = ?3 AND id <> ?4";
    let values =
        params![anchor.chain_id.cast_signed(), anchor.account.as_slice(), nonce.cast_signed(), id.cast_signed()];
    let holder = connection.prepare_cached(sql)?.query_row(values, |row| row.get::<_, i64>(0)).optional()?;
    Ok(holder.map_or(Ok(()), |holder| Err(StoreError::NonceTaken { nonce, anchor: holder.cast_unsigned() })))
}

/// That of its transactions: all of those that may still be mined have one and the same.
fn nonce(anchor: &Anchor) -> Option<u64> {
    anchor.attempts.last().map(|attempt| attempt.nonce)
}

fn write(
    transaction: &Transaction<'_>,
    id: i64,
    anchor: &Anchor,
    evidence: Option<String>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let (epoch, size) = match &anchor.what {
        Anchored::Checkpoint { epoch, size, .. } => (Some(epoch), Some(size.cast_signed())),
        Anchored::Contract => (None, None),
    };
    let nonce = nonce(anchor).map(u64::cast_signed);
    // A nonce that was given up stays known, as long as the anchor is of the same account: that of another one means
    // nothing there, and would leave a gap that nobody fills. Not by `OR REPLACE`: it would delete another anchor that has
    // the nonce.
    let sql = "INSERT INTO anchors (id, chain_id, account, contract, epoch, size, state, queued, since, changed,
         next_check, nonce, highest_nonce, tx, record, evidence)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12, ?13, ?14, ?15)
         ON CONFLICT (id) DO UPDATE SET chain_id = excluded.chain_id, account = excluded.account,
         contract = excluded.contract, epoch = excluded.epoch, size = excluded.size, state = excluded.state,
         queued = excluded.queued, since = excluded.since, changed = excluded.changed,
         next_check = excluded.next_check, nonce = excluded.nonce,
         highest_nonce = CASE WHEN chain_id = excluded.chain_id AND account = excluded.account
         THEN coalesce(max(highest_nonce, excluded.highest_nonce), highest_nonce, excluded.highest_nonce)
         ELSE excluded.highest_nonce END,
         tx = excluded.tx, record = excluded.record, evidence = excluded.evidence";
    transaction.prepare_cached(sql)?.execute(params![
        id,
        anchor.chain_id.cast_signed(),
        anchor.account.as_slice(),
        anchor.contract.as_ref().map(|contract| contract.as_slice()),
        epoch,
        size,
        anchor.state.as_str(),
        anchor.queued.as_millis(),
        anchor.since.as_millis(),
        now.max(anchor.since).as_millis(),
        anchor.next_check.map(Timestamp::as_millis),
        nonce,
        anchor.transaction().map(|hash| hash.0),
        serde_json::to_string(anchor).map_err(of_json)?,
        evidence,
    ])?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Anchor> {
    let anchor: Anchor = json(row, 1)?;
    Ok(Anchor { id: row.get::<_, i64>(0)?.cast_unsigned(), ..anchor })
}

fn json<T: DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(at)?.as_str()?).map_err(of_json)
}

fn state(row: &Row<'_>, at: usize) -> rusqlite::Result<AnchorState> {
    let torn = || rusqlite::Error::InvalidColumnType(at, "anchors".to_owned(), rusqlite::types::Type::Text);
    AnchorState::named(row.get_ref(at)?.as_str()?).ok_or_else(torn)
}

fn read_coverage(row: &Row<'_>) -> rusqlite::Result<Coverage> {
    Ok(Coverage {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        size: row.get::<_, i64>(1)?.cast_unsigned(),
        state: state(row, 2)?,
        transaction: row.get::<_, Option<[u8; 32]>>(3)?.map(B256::from),
        chain_id: row.get::<_, i64>(4)?.cast_unsigned(),
    })
}

/// The chain that counts: `chain`, or that of the newest checkpoint that is in a block, or is on its way to one.
fn chain_or_newest(connection: &Connection, chain: Option<u64>) -> rusqlite::Result<Option<u64>> {
    if chain.is_some() {
        return Ok(chain);
    }
    for of_those in ["state IN ('included', 'final')", "TRUE"] {
        let sql =
            format!("SELECT chain_id FROM anchors WHERE epoch IS NOT NULL AND {of_those} ORDER BY id DESC LIMIT 1");
        let newest = connection.prepare_cached(&sql)?.query_row([], |row| row.get::<_, i64>(0)).optional()?;
        if let Some(newest) = newest {
            return Ok(Some(newest.cast_unsigned()));
        }
    }
    Ok(None)
}

/// The anchors of an epoch in a state on a chain that cover the entry `index`, by size, then id.
fn covering(
    connection: &Connection,
    (chain, state): (u64, AnchorState),
    epoch: &str,
    index: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Coverage>> {
    let sql = "SELECT id, size, state, tx, chain_id FROM anchors INDEXED BY anchor_coverage
               WHERE state = ?1 AND epoch = ?2 AND chain_id = ?5 AND size > ?3 ORDER BY size, id LIMIT ?4";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let values = params![state.as_str(), epoch, index.cast_signed(), limit, chain.cast_signed()];
    connection.prepare_cached(sql)?.query_map(values, read_coverage)?.collect()
}

/// Of two that cover the same entry, the one that is further on its way; of equals the one of the lesser size.
fn better(one: Option<Coverage>, other: Option<Coverage>) -> Option<Coverage> {
    let merit = |anchor: &Coverage| (anchor.state.merit(), std::cmp::Reverse((anchor.size, anchor.id)));
    [one, other].into_iter().flatten().max_by_key(merit)
}

/// What covers entries, asked one after the other. A final anchor is looked for once and holds for all entries from
/// the one it was found for up to its size; those that are not final are few.
struct Cover<'c> {
    connection: &'c Connection,
    chain: u64,
    epochs: BTreeMap<i64, OfEpoch>,
}

struct OfEpoch {
    epoch: String,
    /// Entries from here on, up to its size, have this one; where there is none, all further ones have none.
    last_final: Option<(u64, Option<Coverage>)>,
    unsettled: Vec<Coverage>,
}

impl<'c> Cover<'c> {
    fn new(connection: &'c Connection, chain: Option<u64>) -> rusqlite::Result<Self> {
        let mut epochs = BTreeMap::new();
        let Some(chain) = chain_or_newest(connection, chain)? else {
            // Nothing was ever to be anchored.
            return Ok(Self { connection, chain: 0, epochs });
        };
        let mut statement = connection.prepare_cached("SELECT number, epoch FROM epochs")?;
        for row in statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))? {
            let (number, epoch) = row?;
            let mut unsettled = Vec::new();
            for state in AnchorState::ALL.into_iter().filter(|state| *state != AnchorState::Final) {
                unsettled.extend(covering(connection, (chain, state), &epoch, 0, usize::MAX)?);
            }
            epochs.insert(number, OfEpoch { epoch, last_final: None, unsettled });
        }
        Ok(Self { connection, chain, epochs })
    }

    fn of(&mut self, epoch: i64, index: u64) -> rusqlite::Result<Option<Coverage>> {
        let Some(of) = self.epochs.get_mut(&epoch) else { return Ok(None) };
        let last = of
            .last_final
            .take()
            .filter(|(from, anchor)| *from <= index && anchor.as_ref().is_none_or(|anchor| index < anchor.size));
        let (from, found) = match last {
            Some(last) => last,
            None => (index, covering(self.connection, (self.chain, AnchorState::Final), &of.epoch, index, 1)?.pop()),
        };
        of.last_final = Some((from, found.clone()));
        if found.is_some() {
            return Ok(found);
        }
        let unsettled = of.unsettled.iter().filter(|anchor| index < anchor.size).cloned().map(Some);
        Ok(unsettled.fold(None, better))
    }
}

/// The number of the epoch, and when the last of its first `size` entries was made.
fn last_entry(connection: &Connection, epoch: &str, size: i64) -> rusqlite::Result<Option<(i64, i64)>> {
    let sql = "SELECT number, time FROM epochs CROSS JOIN entries ON entries.epoch = number
               WHERE epochs.epoch = ?1 AND idx = ?2 - 1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row(params![epoch, size], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn reach(connection: &Connection, epoch: &str, size: i64) -> rusqlite::Result<Option<Reach>> {
    /// Looked through for a block, from the last entry back: other entries come by the dozen.
    const BACK: i64 = 4_096;
    let Some((number, time)) = last_entry(connection, epoch, size)? else { return Ok(None) };
    let sql = "SELECT name, start, end FROM entries
               CROSS JOIN meters ON meters.id = entries.meter
               CROSS JOIN blocks ON blocks.meter = entries.meter AND start = source AND blocks.revision = entries.revision
               WHERE entries.epoch = ?1 AND idx < ?2 AND idx >= ?2 - ?3 ORDER BY idx DESC LIMIT 1";
    let block = connection.prepare_cached(sql)?.query_row([number, size, BACK], |row| {
        let (name, start, end): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let span = Span::new(Timestamp::from_millis(start), Timestamp::from_millis(end));
        Ok(name.parse().ok().zip(span))
    });
    Ok(Some(Reach { time: Timestamp::from_millis(time), block: block.optional()?.flatten() }))
}

fn of_json(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}
