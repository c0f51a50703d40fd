//! Events: what became of anchors, datasets, alerts and readings, kept as it is sent (docs/upstream.md section 2). Each is
//! written in the transaction of what it tells, and never changed.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::{anchors, evidence, jobs, ledger};
use crate::model::{Alert, Anchor, AnchorState, Anchored, Event, Job, Redate, Stream, Timestamp, Unsent, jcs};

/// Events of which one answer has as many as it asks for, but for this many bytes: those of anchors bear their evidence.
const ANSWER_BYTES: usize = 4 << 20;

/// The streams that are made of events.
pub const STREAMS: [Stream; 4] = [Stream::Anchors, Stream::Datasets, Stream::Alerts, Stream::Notices];

/// An anchor that is new, or whose state has changed; its evidence, as JSON, where it has one.
pub fn anchor(
    connection: &Connection,
    anchor: &Anchor,
    evidence: Option<&str>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let (kind, checkpoint) = match &anchor.what {
        Anchored::Checkpoint { epoch, size, note } => ("checkpoint", Some((epoch, size, note))),
        Anchored::Contract => ("contract", None),
    };
    let evidence = evidence.filter(|_| anchor.state == AnchorState::Final);
    let evidence: Option<Value> =
        evidence.map(|text| serde_json::from_str(text).map_err(|error| unwritten(&error))).transpose()?;
    let block = anchor.inclusion.as_ref().map(
        |inclusion| json!({"hash": inclusion.hash, "height": inclusion.height, "time": inclusion.time.as_millis()}),
    );
    let line = json!({
        "account": anchor.account,
        "anchor": anchor.id,
        "block": block,
        "chain_id": anchor.chain_id,
        "contract": anchor.contract,
        "epoch": checkpoint.map(|(epoch, ..)| epoch),
        "evidence": evidence,
        "kind": kind,
        "note": checkpoint.map(|(.., note)| note),
        "since": anchor.since.as_millis(),
        "size": checkpoint.map(|(_, size, _)| size),
        "state": anchor.state.as_str(),
        "transaction": anchor.transaction(),
    });
    append(connection, Stream::Anchors, line, now)
}

/// An export that is done, with the place of its entry in the log.
pub fn dataset(
    connection: &Connection,
    job: &Job,
    (epoch, index): (&str, u64),
    now: Timestamp,
) -> rusqlite::Result<()> {
    let Some(artifact) = &job.artifact else { return Ok(()) };
    let query = &job.request.query;
    let line = json!({
        "bytes": artifact.bytes,
        "connection": job.request.connection,
        "dataset": job.id.to_string(),
        "epoch": epoch,
        "from": job.request.from_ns.to_string(),
        "index": index,
        "kind": if query.get("text").is_some() { "result" } else { "dataset" },
        "manifest_sha256": artifact.manifest_sha256.to_string(),
        "query": query["name"].as_str().unwrap_or_default(),
        "rows": job.progress.rows,
        "time": job.ended.unwrap_or(now).as_millis(),
        "to": job.request.to_ns.to_string(),
    });
    append(connection, Stream::Datasets, line, now)
}

/// An alert as it is now.
pub fn alert(connection: &Connection, alert: &Alert, now: Timestamp) -> rusqlite::Result<()> {
    let line = json!({
        "alert": alert.id,
        "cleared": alert.cleared.map(Timestamp::as_millis),
        "kind": alert.kind,
        "meter": alert.meter,
        "occasion": alert.occasion.as_millis(),
        "raised": alert.raised.as_millis(),
        "text": alert.text,
        "time": alert.cleared.unwrap_or(alert.raised).as_millis(),
    });
    append(connection, Stream::Alerts, line, now)
}

/// Readings that were moved in time.
pub fn redate(connection: &Connection, redate: &Redate, now: Timestamp) -> rusqlite::Result<()> {
    let line = json!({
        "boot": redate.boot,
        "first_seq": redate.first_seq,
        "kind": "redate",
        "last_seq": redate.last_seq,
        "offset_ms": redate.offset_ms,
        "time": now.as_millis(),
    });
    append(connection, Stream::Notices, line, now)
}

/// Readings that are gone before all upstreams have them.
pub fn lost(connection: &Connection, range: Unsent, reason: &str, now: Timestamp) -> rusqlite::Result<()> {
    let line = json!({
        "first_seq": range.first,
        "kind": "lost",
        "last_seq": range.last,
        "reason": reason,
        "time": now.as_millis(),
    });
    append(connection, Stream::Notices, line, now)
}

/// Keeps a line under the next seq of its stream, in the current epoch.
fn append(connection: &Connection, stream: Stream, mut line: Value, now: Timestamp) -> rusqlite::Result<()> {
    let seq = newest(connection, stream)? + 1;
    line["seq"] = seq.into();
    let line = jcs::to_vec(&line).map_err(|error| unwritten(&error))?;
    connection
        .prepare_cached("INSERT INTO events VALUES (?1, ?2, (SELECT max(number) FROM epochs), ?3, ?4)")?
        .execute(params![stream.as_str(), seq.cast_signed(), now.as_millis(), String::from_utf8_lossy(&line)])
        .map(|_| ())
}

/// The last seq of a stream; 0 before the first.
pub fn newest(connection: &Connection, stream: Stream) -> rusqlite::Result<u64> {
    let newest: Option<i64> = connection
        .prepare_cached("SELECT max(seq) FROM events WHERE stream = ?1")?
        .query_row([stream.as_str()], |row| row.get(0))?;
    Ok(newest.unwrap_or(0).cast_unsigned())
}

/// Events with `after < seq <= until`, in order of seq.
pub fn list(
    connection: &Connection,
    stream: Stream,
    (after, until): (u64, u64),
    limit: usize,
) -> rusqlite::Result<Vec<Event>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, epochs.epoch, time, line FROM events JOIN epochs ON number = events.epoch
         WHERE stream = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4",
    )?;
    let highest = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![stream.as_str(), highest(after), highest(until), limit])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let line: String = row.get(3)?;
        bytes += line.len();
        if bytes > ANSWER_BYTES && !found.is_empty() {
            break;
        }
        let seq = row.get::<_, i64>(0)?.cast_unsigned();
        found.push(Event { seq, epoch: row.get(1)?, time: Timestamp::from_millis(row.get(2)?), line });
    }
    Ok(found)
}

/// What was stored before there were events gets them, as it is now; and readings get their epoch. One transaction: a
/// crash before its end leaves all of it to be done. False when it was done already.
pub fn take_up(connection: &Connection, now: Timestamp) -> rusqlite::Result<bool> {
    let transaction = connection.unchecked_transaction()?;
    if transaction.query_row("SELECT 1 FROM reading_epochs LIMIT 1", [], |_| Ok(())).optional()?.is_some() {
        return Ok(false);
    }
    transaction.execute("INSERT INTO reading_epochs SELECT 0, max(number) FROM epochs", [])?;
    ledger::each_alert(&transaction, |found| alert(&transaction, &found, now))?;
    jobs::each_done(&transaction, |job, (epoch, index)| dataset(&transaction, &job, (&epoch, index), now))?;
    anchors::each(&transaction, |found, evidence| anchor(&transaction, &found, evidence.as_deref(), now))?;
    for moved in evidence::redates(&transaction)? {
        redate(&transaction, &moved, now)?;
    }
    transaction.commit()?;
    Ok(true)
}

fn unwritten(error: &dyn std::error::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.to_string().into())
}
