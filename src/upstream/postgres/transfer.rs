//! One batch, in one transaction with its cursor.

use std::io::Cursor;

use futures_util::SinkExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::{CopyInSink, SimpleQueryMessage};

use super::open::{position, rows};
use super::rows::{Rows, Table};
use super::sql::{self, identifier, literal};
use super::{Failed, Receiver, Session};
use crate::model::{Position, Timestamp};
use crate::upstream::receiver::{Answer, Batch, Rejected, Rejection};
use crate::upstream::record::{LineWriter, Record};

/// Rows go out in pieces of this size: the server takes one while the next is made.
const PIECE: usize = 128 * 1024;
/// Rows that come a second time wait here while they are compared.
const ARRIVING: &str = "pg_temp.meterseal_arriving";

/// Where the rows of a transaction go.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Straight into their table: nothing of them can be there.
    Straight,
    /// Through a temporary table, to be compared with what is there.
    Compared,
}

/// What a transaction came to.
enum Outcome {
    Committed {
        repeated: u64,
    },
    /// Nothing was kept, as something of it may be there.
    AnotherWay,
    /// Nothing was kept, as other records are there under these seqs.
    Conflicts(Vec<u64>),
}

impl Receiver {
    /// What became of the batch, and whether the connection is at rest.
    pub(super) async fn transfer(&mut self, session: &mut Session, table: &Table, batch: &Batch) -> (Answer, bool) {
        let mut lines = std::mem::take(&mut self.lines);
        let done = self.try_to(session, table, batch, &mut lines).await;
        self.lines = lines;
        match done {
            Ok(answer) => (answer, true),
            Err(failed) => {
                let fault = Some(self.failed(&failed, batch.records.len()));
                // What the server told of it has ended the transaction; what nobody told of may still be under way.
                let is_told = matches!(&failed, Failed::Told(error) if error.as_db_error().is_some());
                let is_at_rest = is_told && self.within(session.client.simple_query("ROLLBACK")).await.is_ok();
                (Answer { fault, ..Answer::default() }, is_at_rest)
            }
        }
    }

    async fn try_to(
        &self,
        session: &mut Session,
        table: &Table,
        batch: &Batch,
        lines: &mut LineWriter,
    ) -> Result<Answer, Failed> {
        let all = batch.records.len();
        let times = match times(table, batch, lines) {
            Ok(times) => times,
            Err(rejected) => return Ok(Answer { rejected, ..Answer::default() }),
        };
        let epoch = &batch.epoch;
        let gateway = self.within(self.number(session, &batch.identity, epoch)).await?;
        let own = self.within(self.number(session, &batch.identity, &batch.identity.epoch)).await?;
        if table.is_parted {
            let Session { client, months, .. } = session;
            self.within(months.ensure(client, &self.config.schema, table.name, &times)).await?;
        }
        let numbers = (gateway, own);
        let straight = self.transaction(session, table, batch, lines, numbers, Way::Straight).await?;
        let outcome = match straight {
            Outcome::AnotherWay => self.transaction(session, table, batch, lines, numbers, Way::Compared).await?,
            done => done,
        };
        Ok(match outcome {
            Outcome::Committed { repeated } => Answer { taken: all, repeated, ..Answer::default() },
            Outcome::Conflicts(seqs) => {
                let told = format!("{} has another record under this key", self.config.to());
                let conflict = |seq| Rejected { seq, why: Rejection::Conflict, told: told.clone() };
                Answer { rejected: seqs.into_iter().map(conflict).collect(), ..Answer::default() }
            }
            // There is none beyond the other one.
            Outcome::AnotherWay => Answer::default(),
        })
    }

    async fn transaction(
        &self,
        session: &mut Session,
        table: &Table,
        batch: &Batch,
        lines: &mut LineWriter,
        (gateway, own): (i32, i32),
        way: Way,
    ) -> Result<Outcome, Failed> {
        let (client, schema) = (&session.client, identifier(&self.config.schema));
        let (name, columns) = (format!("{schema}.{}", table.name), table.columns);
        let (cursor, cursors) = self.begin(session, batch, own).await?;
        // Our next position follows from the one that we know. A table that another gateway made anew has set ours back, and
        // a transaction of ours that was given up for lost may have ended after all.
        let known = session.cursors.get(&(own, batch.stream));
        if cursor.as_ref() != known {
            self.within(client.simple_query("ROLLBACK")).await?;
            return Err(Failed::Changed);
        }
        if way == Way::Straight && batch.records.iter().any(|record| is_there(&cursors, record)) {
            self.within(client.simple_query("ROLLBACK")).await?;
            return Ok(Outcome::AnotherWay);
        }
        let target = match way {
            Way::Straight => name.as_str(),
            Way::Compared => {
                let make =
                    format!("CREATE TEMP TABLE meterseal_arriving (LIKE {name} INCLUDING DEFAULTS) ON COMMIT DROP");
                self.within(client.simple_query(&make)).await?;
                ARRIVING
            }
        };
        let form = if table.is_binary { "BINARY" } else { "TEXT" };
        let copy = format!("COPY {target} ({columns}) FROM STDIN (FORMAT {form})");
        match self.copy(session, &copy, batch, lines, gateway).await {
            Err(Failed::Told(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) && way == Way::Straight => {
                self.within(client.simple_query("ROLLBACK")).await?;
                return Ok(Outcome::AnotherWay);
            }
            other => other?,
        }
        let mut repeated = 0;
        if way == Way::Compared {
            let (first, last) = (batch.records.first(), batch.records.last());
            let range = |record: Option<&Record>| record.map_or(0, |record| record.seq);
            let there = format!(
                "{name} r WHERE r.gateway = {gateway} AND r.seq BETWEEN {} AND {} AND r.gateway = a.gateway AND \
                 r.seq = a.seq",
                range(first),
                range(last)
            );
            // Compared after they were written: what another writer wrote meanwhile is seen as well. A table that is parted by
            // time would let a second record of another time in.
            let compare = format!(
                "INSERT INTO {name} ({columns}) SELECT {columns} FROM {ARRIVING} a WHERE NOT EXISTS (SELECT FROM {there}) \
                 ON CONFLICT DO NOTHING; \
                 SELECT DISTINCT a.seq FROM {ARRIVING} a, {there} AND r.sha256 <> a.sha256 ORDER BY 1"
            );
            let answer = self.within(client.simple_query(&compare)).await?;
            let conflicts: Vec<u64> = rows(&answer).filter_map(|row| row.get(0)?.parse().ok()).collect();
            if !conflicts.is_empty() {
                self.within(client.simple_query("ROLLBACK")).await?;
                return Ok(Outcome::Conflicts(conflicts));
            }
            let new = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
                _ => None,
            });
            repeated = (batch.records.len() as u64).saturating_sub(new.unwrap_or_default());
        }
        let open = serde_json::to_string(&batch.after.open).unwrap_or_default();
        let (upstream, stream) = (literal(&self.name), literal(batch.stream.as_str()));
        let (live, open) = (batch.after.live, literal(&open));
        // One that was there is locked since the beginning; of two that come first, the second one fails.
        let cursor = match known {
            Some(_) => format!(
                "UPDATE {schema}.cursors SET live = {live}, open = {open} \
                 WHERE gateway = {own} AND upstream = {upstream} AND stream = {stream}"
            ),
            None => format!(
                "INSERT INTO {schema}.cursors (gateway, upstream, stream, live, open) \
                 VALUES ({own}, {upstream}, {stream}, {live}, {open})"
            ),
        };
        let commit = format!("UPDATE {schema}.gateways SET last_seen = now() WHERE id = {own}; {cursor}; COMMIT");
        match self.within(client.simple_query(&commit)).await {
            Err(Failed::Told(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                self.within(client.simple_query("ROLLBACK")).await?;
                return Err(Failed::Changed);
            }
            other => other?,
        };
        session.cursors.insert((own, batch.stream), Some(batch.after.clone()));
        Ok(Outcome::Committed { repeated })
    }

    /// Begins the transaction. What its cursor tells, where it is there, and what all of the gateway's tell, of whatever
    /// upstream and epoch.
    async fn begin(
        &self,
        session: &Session,
        batch: &Batch,
        own: i32,
    ) -> Result<(Option<Option<Position>>, Vec<Position>), Failed> {
        let schema = identifier(&self.config.schema);
        let (gateway, stream) = (literal(&batch.identity.gateway), literal(batch.stream.as_str()));
        let upstream = literal(&self.name);
        let ask = format!(
            "{}; SELECT live::text, open::text, 'own' FROM {schema}.cursors WHERE gateway = {own} AND upstream = {upstream} AND \
             stream = {stream} FOR UPDATE; SELECT c.live::text, c.open::text FROM {schema}.cursors c \
             JOIN {schema}.gateways g ON g.id = c.gateway WHERE g.gateway = {gateway} AND c.stream = {stream}",
            sql::begin(self.config.statement_timeout.as_millis())
        );
        let answer = self.within(session.client.simple_query(&ask)).await?;
        // What was set for the transaction is a row as well.
        let of = |columns| {
            let rows = rows(&answer).filter(move |row| row.len() == columns);
            rows.map(|row| position(row.get(0), row.get(1)))
        };
        Ok((of(3).next(), of(2).flatten().collect()))
    }

    async fn copy(
        &self,
        session: &Session,
        copy: &str,
        batch: &Batch,
        lines: &mut LineWriter,
        gateway: i32,
    ) -> Result<(), Failed> {
        // The statement that this prepares ends before the transaction does.
        let sink: CopyInSink<Cursor<Vec<u8>>> = self.within(session.client.copy_in(copy)).await?;
        let mut sink = std::pin::pin!(sink);
        let mut made = Rows::new(batch.stream, gateway, lines);
        let mut piece = Vec::with_capacity(PIECE + PIECE / 4);
        made.begin(&mut piece);
        for record in &batch.records {
            // Whether it is one was looked at before.
            made.push(&mut piece, record).ok();
            if piece.len() >= PIECE {
                let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE + PIECE / 4));
                self.within(sink.send(Cursor::new(full))).await?;
            }
        }
        made.end(&mut piece);
        self.within(sink.send(Cursor::new(piece))).await?;
        self.within(sink.finish()).await.map(drop)
    }
}

/// Whether one of these says that the record has arrived.
fn is_there(cursors: &[Position], record: &Record) -> bool {
    let seq = record.seq;
    let is_open = |position: &Position| position.open.iter().any(|range| range.first <= seq && seq <= range.last);
    cursors.iter().any(|position| seq <= position.live && !is_open(position))
}

/// By which times the rows are parted, or which records are none.
fn times(table: &Table, batch: &Batch, lines: &mut LineWriter) -> Result<Vec<Timestamp>, Vec<Rejected>> {
    let (mut times, mut rejected) = (Vec::with_capacity(batch.records.len()), Vec::new());
    let mut rows = Rows::new(batch.stream, 0, lines);
    let mut row = Vec::new();
    for record in &batch.records {
        row.clear();
        match rows.time(&mut row, record) {
            Ok(time) => times.push(time),
            Err(told) => rejected.push(Rejected { seq: record.seq, why: Rejection::Invalid, told }),
        }
    }
    if !table.is_parted {
        times.clear();
    }
    if rejected.is_empty() { Ok(times) } else { Err(rejected) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Unsent;
    use crate::upstream::record::Body;

    #[test]
    fn a_cursor_covers_all_up_to_live_but_for_open_ranges() {
        let cursor = Position { live: 10, open: vec![Unsent { first: 3, last: 4 }, Unsent { first: 7, last: 7 }] };
        let there = |cursors: &[Position]| -> Vec<u64> {
            let record = |seq| Record { seq, time: Timestamp::default(), body: Body::Kept(String::new()) };
            (1..=12).filter(|seq| is_there(cursors, &record(*seq))).collect()
        };
        assert_eq!(there(&[]), [0; 0]);
        assert_eq!(there(std::slice::from_ref(&cursor)), [1, 2, 5, 6, 8, 9, 10]);
        // Another upstream's tells of the same table.
        let other = Position { live: 3, open: Vec::new() };
        assert_eq!(there(&[cursor, other]), [1, 2, 3, 5, 6, 8, 9, 10]);
    }
}
