//! What was stored before there was a log gets its entries when the store is opened.

use rusqlite::{Connection, OptionalExtension};

use super::epoch::{self, Opened};
use super::{append, rows};
use crate::model::Timestamp;
use crate::model::entry::Reason;
use crate::store::evidence::Evidence;
use crate::store::{StoreError, ledger};

/// Entries in one transaction: the write-ahead log stays small, and a crash loses little work.
const BATCH: u32 = 500;

/// Opens the first epoch where there is none, and logs what has no entry: blocks in the order in which they were stored,
/// then commissioning records. Each batch is found by what it has not yet done, so a crash between two costs nothing.
pub fn take_up(evidence: &mut Evidence, now: Timestamp) -> Result<(), StoreError> {
    let path = evidence.path.clone();
    let mut logged = 0;
    loop {
        let done = take_up_step(&evidence.connection, now).map_err(|error| evidence.fault(error))?;
        let Some(more) = done else { return Ok(()) };
        logged += more;
        if more > 0 && logged % 100_000 < u64::from(BATCH) {
            tracing::info!(logged, file = %path.display(), "older blocks get their entries in the evidence log");
        }
    }
}

/// One transaction of it: how many entries it made, `None` when nothing is left to do.
pub fn take_up_step(connection: &Connection, now: Timestamp) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.unchecked_transaction()?;
    let begun = transaction.query_row("SELECT 1 FROM epochs LIMIT 1", [], |_| Ok(())).optional()?.is_some();
    if !begun {
        let identity = epoch::kept_identity(&transaction)?;
        let public = transaction.query_row("SELECT public FROM keys", [], |row| row.get(0))?;
        epoch::open(&transaction, &Opened { identity, public, reason: Reason::Init }, (None, None, None), now)?;
        transaction.commit()?;
        return Ok(Some(1));
    }
    let marked = "SELECT 1 FROM sqlite_schema WHERE name = 'blocks_to_log'";
    if transaction.query_row(marked, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    let mut logged = blocks(&transaction, now)?;
    if logged == 0 {
        logged = commissionings(&transaction, now)?;
    }
    if logged == 0 {
        transaction.execute_batch("DROP INDEX blocks_to_log")?;
    }
    transaction.commit()?;
    Ok(Some(logged))
}

fn blocks(connection: &Connection, now: Timestamp) -> rusqlite::Result<u64> {
    let unlogged = ledger::unlogged_blocks(connection, BATCH)?;
    append(connection, now, |log| {
        for (meter, block) in &unlogged {
            let (epoch, index) = log.next();
            log.block(block, *meter)?;
            ledger::mark_block(connection, *meter, block, epoch, index)?;
        }
        Ok(unlogged.len() as u64)
    })
}

fn commissionings(connection: &Connection, now: Timestamp) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare(
        "SELECT commissionings.id, meter, name, record FROM commissionings JOIN meters ON meters.id = meter
         WHERE log_index IS NULL ORDER BY commissionings.id LIMIT ?1",
    )?;
    let found = statement.query_map([BATCH], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
    })?;
    let found = found.collect::<rusqlite::Result<Vec<_>>>()?;
    append(connection, now, |log| {
        for (id, meter, name, record) in &found {
            let name =
                name.parse().map_err(|_| rows::torn("a commissioning record is of no meter that there can be"))?;
            let record = serde_json::from_str(record).map_err(|error| rows::refused(&error))?;
            let (epoch, index) = log.next();
            log.commissioning(*id, (*meter, &name), record)?;
            ledger::mark_commissioning(connection, *id, epoch, index)?;
        }
        Ok(found.len() as u64)
    })
}
