//! Blocks, alerts and states: their rows in `evidence.db`.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::codec::{decode_borders, encode_borders};
use super::evidence::Evidence;
use super::{Sealing, StoreError, events, log, objects};
use crate::model::{
    Alert, Block, BlockFlags, Category, Commissioning, Digest, Energy, MeterId, Method, Power, Span, Timestamp,
};
use std::collections::BTreeMap;

/// No block that is not a silence of many is longer than this; the index `long_blocks` has the others.
const LONG_MS: i64 = 7_200_000;

/// Blocks get their entries in the log in the same transaction.
pub fn seal(evidence: &mut Evidence, sealing: &Sealing, now: Timestamp) -> Result<(), StoreError> {
    let work = |connection: &mut Connection| -> rusqlite::Result<Result<(), StoreError>> {
        let transaction = connection.transaction()?;
        let mut stored: i64 = transaction.query_row(
            "UPDATE meta SET value = value + ?1 WHERE name = 'stored' RETURNING value - ?1",
            [i64::try_from(sealing.blocks.len()).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )?;
        let sealed_before = log::append(&transaction, now, |log| {
            for block in &sealing.blocks {
                stored += 1;
                let meter = meter_number(&transaction, &block.meter)?;
                let is_logged = !sealing.unlogged.contains(&block.meter);
                if !insert_block(&transaction, block, meter, stored, is_logged.then(|| log.next()))? {
                    return Ok(Some(block));
                }
                if is_logged {
                    log.block(block, meter)?;
                }
            }
            Ok(None)
        })?;
        if let Some(block) = sealed_before {
            return Ok(Err(StoreError::Sealed {
                meter: block.meter.clone(),
                start: block.span.start(),
                revision: block.revision,
            }));
        }
        for (meter, at) in &sealing.sealed_through {
            let meter = meter_number(&transaction, meter)?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO sealed_through VALUES (?1, ?2)")?
                .execute(params![meter, at.as_millis()])?;
        }
        if let Some(seq) = sealing.examined_seq {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('examined_seq', ?1)")?
                .execute([seq.cast_signed()])?;
        }
        for redate in &sealing.redates {
            transaction.execute(
                "INSERT INTO redates (boot, first_seq, last_seq, offset_ms) VALUES (?1, ?2, ?3, ?4)",
                params![redate.boot, redate.first_seq.cast_signed(), redate.last_seq.cast_signed(), redate.offset_ms],
            )?;
            events::redate(&transaction, redate, now)?;
        }
        for (name, value) in &sealing.state {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO state VALUES (?1, ?2)")?
                .execute(params![name, value.to_string()])?;
        }
        transaction.commit()?;
        Ok(Ok(()))
    };
    let outcome = work(&mut evidence.connection);
    outcome.map_err(|error| evidence.fault(error))?
}

/// False when this revision of the block exists already.
fn insert_block(
    transaction: &Transaction<'_>,
    block: &Block,
    meter: i64,
    stored: i64,
    entry: Option<(i64, u64)>,
) -> rusqlite::Result<bool> {
    let changed = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO blocks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15,
             ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
        )?
        .execute(params![
            meter,
            block.span.start().as_millis(),
            block.revision,
            block.span.end().as_millis(),
            stored,
            block.nominal_ms,
            block.category.as_str(),
            block.import.map(Energy::as_uwh),
            block.export.map(Energy::as_uwh),
            block.max_power.map(Power::as_mw),
            block.min_power.map(Power::as_mw),
            block.covered_ms,
            block.coverage,
            block.method.as_str(),
            block.is_peak_hour,
            block.flags.bits(),
            block.readings_sha256.as_bytes(),
            block.through_seq.cast_signed(),
            encode_borders(&block.borders),
            block.zone,
            block.interval_ms,
            block.template.map(|digest| *digest.as_bytes()),
            block.sealed.as_millis(),
            entry.map(|(epoch, _)| epoch),
            entry.map(|(_, index)| index.cast_signed()),
        ])?;
    Ok(changed == 1)
}

pub fn meter_number(connection: &Connection, meter: &MeterId) -> rusqlite::Result<i64> {
    if let Some(number) = find_meter(connection, meter)? {
        return Ok(number);
    }
    connection.execute("INSERT INTO meters (name) VALUES (?1)", [meter.as_str()])?;
    Ok(connection.last_insert_rowid())
}

pub fn find_meter(connection: &Connection, meter: &MeterId) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM meters WHERE name = ?1")?;
    statement.query_row([meter.as_str()], |row| row.get(0)).optional()
}

/// The blocks that overlap `span`; see [`super::Reader::blocks`].
pub fn blocks(connection: &Connection, meter: &MeterId, span: Span) -> rusqlite::Result<Vec<Block>> {
    Ok(placed_blocks(connection, meter, span)?.into_iter().map(|(block, _)| block).collect())
}

/// The number of an epoch, and the index of an entry in it.
pub type Place = (i64, u64);

/// The same, each with its place in the log.
pub fn placed_blocks(
    connection: &Connection,
    meter: &MeterId,
    span: Span,
) -> rusqlite::Result<Vec<(Block, Option<Place>)>> {
    let Some(number) = find_meter(connection, meter)? else { return Ok(Vec::new()) };
    let (from, to) = (span.start().as_millis(), span.end().as_millis());
    let mut rows = Vec::new();
    let mut collect = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(sql)?;
        let mut found = statement.query(values)?;
        while let Some(row) = found.next()? {
            let place = row.get::<_, Option<i64>>(23)?.zip(row.get::<_, Option<i64>>(24)?.map(i64::cast_unsigned));
            rows.push((row.get::<_, i64>(4)?, (read_block(row, meter)?, place)));
        }
        Ok(())
    };
    collect(
        "SELECT * FROM blocks WHERE meter = ?1 AND start > ?2 AND start < ?4 AND end > ?3 AND end - start <= ?5",
        &[&number, &from.saturating_sub(LONG_MS + 1), &from, &to, &LONG_MS],
    )?;
    collect(
        "SELECT * FROM blocks INDEXED BY long_blocks
         WHERE meter = ?1 AND end > ?2 AND start < ?3 AND end - start > 7200000",
        &[&number, &from, &to],
    )?;
    // The newest first: a record counts as long as something of it is not covered by newer ones.
    rows.sort_by_key(|(stored, _)| std::cmp::Reverse(*stored));
    let mut covered = Covered::default();
    let mut newest: Vec<(Block, Option<Place>)> = rows
        .into_iter()
        .map(|(_, block)| block)
        .filter(|(block, _)| {
            covered.add(block.span.start().as_millis().max(from), block.span.end().as_millis().min(to))
        })
        .collect();
    newest.sort_by_key(|(block, _)| (block.span.start(), block.span.end()));
    Ok(newest)
}

/// The places of the entries of all blocks that touch the span, in all their revisions.
pub fn places_of_blocks(connection: &Connection, meter: &MeterId, span: Span) -> rusqlite::Result<Vec<Place>> {
    let Some(number) = find_meter(connection, meter)? else { return Ok(Vec::new()) };
    let (from, to) = (span.start().as_millis(), span.end().as_millis());
    let mut statement = connection.prepare_cached(
        "SELECT log_epoch, log_index FROM blocks
         WHERE meter = ?1 AND start > ?2 AND start < ?4 AND end > ?3 AND end - start <= ?5 AND log_index IS NOT NULL
         UNION ALL SELECT log_epoch, log_index FROM blocks INDEXED BY long_blocks
         WHERE meter = ?1 AND end > ?3 AND start < ?4 AND end - start > 7200000 AND log_index IS NOT NULL",
    )?;
    let earliest = from.saturating_sub(LONG_MS + 1);
    let rows = statement.query_map(params![number, earliest, from, to, LONG_MS], |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
    })?;
    rows.collect()
}

/// When the first and the last block of a meter start.
pub fn block_starts(connection: &Connection, meter: &MeterId) -> rusqlite::Result<Option<(Timestamp, Timestamp)>> {
    let Some(number) = find_meter(connection, meter)? else { return Ok(None) };
    // Each by itself is one step in the primary key; both in one query would be a walk along all of it.
    let mut statement = connection.prepare_cached(
        "SELECT (SELECT min(start) FROM blocks WHERE meter = ?1), (SELECT max(start) FROM blocks WHERE meter = ?1)",
    )?;
    let (first, last) = statement.query_row([number], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?)))?;
    let at = |millis: Option<i64>| millis.map(Timestamp::from_millis);
    Ok(at(first).zip(at(last)))
}

/// Disjoint stretches of time, start to end.
#[derive(Default)]
struct Covered(BTreeMap<i64, i64>);

impl Covered {
    /// Adds a stretch; false when all of it was there.
    fn add(&mut self, start: i64, end: i64) -> bool {
        let (mut low, mut high) = (start, end);
        if let Some((before, until)) = self.0.range(..=start).next_back().map(|(a, b)| (*a, *b))
            && until >= start
        {
            if until >= end {
                return false;
            }
            low = before;
            high = high.max(until);
        }
        let inside: Vec<(i64, i64)> = self.0.range(low..=high).map(|(a, b)| (*a, *b)).collect();
        for (begin, until) in inside {
            self.0.remove(&begin);
            high = high.max(until);
        }
        self.0.insert(low, high);
        true
    }
}

pub fn revisions(connection: &Connection, meter: &MeterId, start: Timestamp) -> rusqlite::Result<Vec<Block>> {
    let Some(number) = find_meter(connection, meter)? else { return Ok(Vec::new()) };
    let mut statement =
        connection.prepare_cached("SELECT * FROM blocks WHERE meter = ?1 AND start = ?2 ORDER BY revision")?;
    let rows = statement.query_map(params![number, start.as_millis()], |row| read_block(row, meter))?;
    rows.collect()
}

/// One revision of a block of the meter with this number and name.
pub fn block(
    connection: &Connection,
    (number, meter): (i64, &MeterId),
    start: Timestamp,
    revision: u32,
) -> rusqlite::Result<Option<Block>> {
    let mut statement =
        connection.prepare_cached("SELECT * FROM blocks WHERE meter = ?1 AND start = ?2 AND revision = ?3")?;
    statement.query_row(params![number, start.as_millis(), revision], |row| read_block(row, meter)).optional()
}

/// Blocks without an entry in the log, each with its meter's number, in the order in which they were stored.
pub fn unlogged_blocks(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<(i64, Block)>> {
    let mut statement = connection.prepare_cached(
        "SELECT blocks.*, name FROM blocks INDEXED BY blocks_to_log JOIN meters ON meters.id = meter
         WHERE log_index IS NULL ORDER BY stored LIMIT ?1",
    )?;
    let rows = statement.query_map([limit], |row| {
        let name: String = row.get("name")?;
        let meter = name.parse().map_err(|error: crate::model::BadId| refused(&error))?;
        Ok((row.get(0)?, read_block(row, &meter)?))
    })?;
    rows.collect()
}

/// The block that was stored as the `seq`th one, with its meter's number and its place in the log.
pub fn stored_block(connection: &Connection, seq: u64) -> rusqlite::Result<Option<(i64, Block, Option<Place>)>> {
    let mut statement = connection.prepare_cached(
        "SELECT blocks.*, name FROM blocks INDEXED BY blocks_to_send JOIN meters ON meters.id = meter
         WHERE stored = ?1 AND flags & 256 = 0",
    )?;
    let found = statement.query_row([seq.cast_signed()], |row| {
        let name: String = row.get("name")?;
        let meter = name.parse().map_err(|error: crate::model::BadId| refused(&error))?;
        let place = row.get::<_, Option<i64>>(23)?.zip(row.get::<_, Option<i64>>(24)?.map(i64::cast_unsigned));
        Ok((row.get(0)?, read_block(row, &meter)?, place))
    });
    found.optional()
}

/// Whether the newest entry of a block is this one.
pub fn is_logged_at(connection: &Connection, meter: i64, block: &Block, place: Place) -> rusqlite::Result<bool> {
    let (epoch, index) = place;
    let mut statement = connection.prepare_cached(
        "SELECT log_epoch IS ?4 AND log_index IS ?5 FROM blocks WHERE meter = ?1 AND start = ?2 AND revision = ?3",
    )?;
    let values = params![meter, block.span.start().as_millis(), block.revision, epoch, index.cast_signed()];
    statement.query_row(values, |row| row.get(0))
}

/// Keeps where the log has a block.
pub fn mark_block(connection: &Connection, meter: i64, block: &Block, epoch: i64, index: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE blocks SET log_epoch = ?4, log_index = ?5 WHERE meter = ?1 AND start = ?2 AND revision = ?3",
        )?
        .execute(params![meter, block.span.start().as_millis(), block.revision, epoch, index.cast_signed()])
        .map(|_| ())
}

fn refused(error: &dyn std::error::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.to_string().into())
}

fn read_block(row: &Row<'_>, meter: &MeterId) -> rusqlite::Result<Block> {
    let torn = |at: usize| rusqlite::Error::InvalidColumnType(at, "blocks".to_owned(), rusqlite::types::Type::Null);
    let time = |at: usize| row.get::<_, i64>(at).map(Timestamp::from_millis);
    let text = |at: usize| row.get_ref(at).and_then(|value| Ok(value.as_str()?));
    let borders = |at: usize| {
        let bytes = row.get_ref(at)?.as_blob()?;
        decode_borders(bytes).map_err(|_| torn(at))
    };
    Ok(Block {
        meter: meter.clone(),
        span: Span::new(time(1)?, time(3)?).ok_or_else(|| torn(3))?,
        revision: row.get(2)?,
        nominal_ms: row.get(5)?,
        category: text(6)?.parse::<Category>().map_err(|()| torn(6))?,
        import: row.get::<_, Option<i64>>(7)?.map(Energy::from_uwh),
        export: row.get::<_, Option<i64>>(8)?.map(Energy::from_uwh),
        max_power: row.get::<_, Option<i64>>(9)?.map(Power::from_mw),
        min_power: row.get::<_, Option<i64>>(10)?.map(Power::from_mw),
        covered_ms: row.get(11)?,
        coverage: row.get(12)?,
        method: Method::named(text(13)?).ok_or_else(|| torn(13))?,
        is_peak_hour: row.get(14)?,
        flags: BlockFlags::from_bits(row.get(15)?),
        readings_sha256: Digest::from_bytes(row.get(16)?),
        through_seq: row.get::<_, i64>(17)?.cast_unsigned(),
        borders: borders(18)?,
        zone: row.get(19)?,
        interval_ms: row.get(20)?,
        template: row.get::<_, Option<[u8; 32]>>(21)?.map(Digest::from_bytes),
        sealed: time(22)?,
    })
}

pub fn sealed_through(connection: &Connection) -> rusqlite::Result<BTreeMap<MeterId, Timestamp>> {
    let mut statement =
        connection.prepare_cached("SELECT name, at FROM sealed_through JOIN meters ON meters.id = meter")?;
    let rows = statement.query_map([], |row| {
        let name: String = row.get(0)?;
        Ok((name.parse::<MeterId>(), Timestamp::from_millis(row.get(1)?)))
    })?;
    let mut all = BTreeMap::new();
    for row in rows {
        let (name, at) = row?;
        let name = name.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        all.insert(name, at);
    }
    Ok(all)
}

pub fn examined_seq(connection: &Connection) -> rusqlite::Result<u64> {
    let seq = connection
        .query_row("SELECT value FROM meta WHERE name = 'examined_seq'", [], |row| row.get::<_, i64>(0))
        .optional()?;
    Ok(seq.unwrap_or(0).cast_unsigned())
}

pub fn state(connection: &Connection, name: &str) -> rusqlite::Result<Option<serde_json::Value>> {
    let text: Option<String> =
        connection.query_row("SELECT value FROM state WHERE name = ?1", [name], |row| row.get(0)).optional()?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into())))
        .transpose()
}

/// A commissioning record gets its entry in the log in the same transaction.
pub fn commission(connection: &Connection, record: &Commissioning, now: Timestamp) -> rusqlite::Result<()> {
    let bytes = record.to_record().map_err(|error| refused(&error))?;
    let transaction = connection.unchecked_transaction()?;
    let meter = meter_number(&transaction, &record.meter)?;
    log::append(&transaction, now, |log| {
        let (epoch, index) = log.next();
        transaction.execute(
            "INSERT INTO commissionings (meter, since, record, log_epoch, log_index) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![meter, record.since.as_millis(), String::from_utf8_lossy(&bytes), epoch, index.cast_signed()],
        )?;
        log.commissioning(transaction.last_insert_rowid(), (meter, &record.meter), serde_json::json!(record))
    })?;
    transaction.commit()
}

/// A commissioning record as it is stored.
pub fn commissioning_text(connection: &Connection, id: i64) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT record FROM commissionings WHERE id = ?1")?;
    statement.query_row([id], |row| row.get(0)).optional()
}

/// Keeps where the log has a commissioning record.
pub fn mark_commissioning(connection: &Connection, id: i64, epoch: i64, index: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE commissionings SET log_epoch = ?2, log_index = ?3 WHERE id = ?1")?
        .execute(params![id, epoch, index.cast_signed()])
        .map(|_| ())
}

/// A meter's newest records, the oldest of them first.
pub fn commissionings(connection: &Connection, meter: &MeterId, limit: usize) -> rusqlite::Result<Vec<Commissioning>> {
    let Some(number) = find_meter(connection, meter)? else { return Ok(Vec::new()) };
    let mut statement =
        connection.prepare_cached("SELECT record FROM commissionings WHERE meter = ?1 ORDER BY id DESC LIMIT ?2")?;
    let rows = statement.query_map(params![number, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let text: String = row.get(0)?;
        serde_json::from_str(&text).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    })?;
    let mut records = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    records.reverse();
    Ok(records)
}

/// Keeps an alert and tells it, within a transaction that is open on `connection`; its id, unless it is there already or
/// alerts of its kind are off.
pub fn raise(connection: &Connection, alert: &Alert, now: Timestamp) -> rusqlite::Result<Option<i64>> {
    if objects::is_off(connection, alert.kind)? {
        return Ok(None);
    }
    let changed = connection.execute(
        "INSERT OR IGNORE INTO alerts (kind, meter, occasion, raised, cleared, text, delivered)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            word(&alert.kind)?,
            alert.meter.as_ref().map_or("", MeterId::as_str),
            alert.occasion.as_millis(),
            alert.raised.as_millis(),
            alert.cleared.map(Timestamp::as_millis),
            alert.text,
            alert.delivered.map(Timestamp::as_millis),
        ],
    )?;
    if changed == 0 {
        return Ok(None);
    }
    let id = connection.last_insert_rowid();
    events::alert(connection, &Alert { id, ..alert.clone() }, now)?;
    Ok(Some(id))
}

/// Ends an alert and tells it, within a transaction.
pub fn clear_alert(connection: &Connection, id: i64, at: Timestamp, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE alerts SET cleared = ?2 WHERE id = ?1 AND cleared IS NULL";
    if connection.execute(sql, params![id, at.as_millis()])? == 0 {
        return Ok(());
    }
    let alert = connection.query_row("SELECT * FROM alerts WHERE id = ?1", [id], read_alert)?;
    events::alert(connection, &alert, now)
}

/// One alert.
pub fn alert(connection: &Connection, id: i64) -> rusqlite::Result<Option<Alert>> {
    connection.query_row("SELECT * FROM alerts WHERE id = ?1", [id], read_alert).optional()
}

pub fn alert_delivered(connection: &Connection, id: i64, at: Timestamp) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE alerts SET delivered = ?2 WHERE id = ?1 AND delivered IS NULL", params![id, at.as_millis()])
        .map(|_| ())
}

pub fn alerts(connection: &Connection, open_only: bool, limit: usize) -> rusqlite::Result<Vec<Alert>> {
    let mut statement = connection.prepare_cached(if open_only {
        "SELECT * FROM alerts WHERE cleared IS NULL ORDER BY id DESC LIMIT ?1"
    } else {
        "SELECT * FROM alerts ORDER BY id DESC LIMIT ?1"
    })?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([limit], read_alert)?;
    rows.collect()
}

/// How many alerts are not over, and how many of them nobody has acknowledged.
pub fn count_open_alerts(connection: &Connection) -> rusqlite::Result<[u32; 2]> {
    let sql = "SELECT count(*), count(*) - count(acknowledged) FROM alerts WHERE cleared IS NULL";
    connection.prepare_cached(sql)?.query_row([], |row| Ok([row.get(0)?, row.get(1)?]))
}

/// All alerts, the oldest first.
pub fn each_alert(
    connection: &Connection,
    mut each: impl FnMut(Alert) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT * FROM alerts ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(read_alert(row)?)?;
    }
    Ok(())
}

fn read_alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
    let wrong = |error: &dyn std::error::Error| rusqlite::Error::ToSqlConversionFailure(error.to_string().into());
    let kind: String = row.get(1)?;
    let meter: String = row.get(2)?;
    let time = |at: usize| row.get::<_, Option<i64>>(at).map(|at| at.map(Timestamp::from_millis));
    Ok(Alert {
        id: row.get(0)?,
        kind: serde_json::from_value(kind.into()).map_err(|error| wrong(&error))?,
        meter: match meter.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|error| wrong(&error))?),
        },
        occasion: time(3)?.unwrap_or_default(),
        raised: time(4)?.unwrap_or_default(),
        cleared: time(5)?,
        text: row.get(6)?,
        delivered: time(7)?,
        acknowledged: time(8)?,
        acknowledged_by: row.get(9)?,
    })
}

/// The name that serde gives a plain enum.
fn word(kind: &impl serde::Serialize) -> rusqlite::Result<String> {
    let value = serde_json::to_value(kind).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    Ok(value.as_str().unwrap_or_default().to_owned())
}

pub fn save_config(connection: &Connection, text: &str, at: Timestamp) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO config VALUES (1, ?1, ?2)", params![text, at.as_millis()]).map(|_| ())
}

pub fn last_good_config(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT text FROM config WHERE id = 1", [], |row| row.get(0)).optional()
}
