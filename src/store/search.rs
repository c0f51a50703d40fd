//! Finds readings: by meter and effective time in chunks and tails, and by seq.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::codec::{self, Entry, TailRow, Torn};
use super::raw::{self, CHUNK_SPAN_MS, MeterTimes, RawFile, RawState, TailEntry};
use super::{Shared, StoreError, read, sqlite};
use crate::model::{ClockState, Layout, MeterId, Redate, Role, StoredReading, Timestamp};

/// Readings in one batch of a stream, about.
const BATCH: usize = 2_000;

/// The redates that touch one file, by number of boot.
struct Moves(Vec<(u32, u64, u64, i64)>);

impl Moves {
    fn of(file: &RawFile, state: &RawState, redates: &[Redate]) -> Self {
        let touching = redates.iter().filter(|r| r.first_seq <= state.last_seq && r.last_seq >= file.first_seq);
        let numbered = touching.filter_map(|redate| {
            let boot = state.boots.iter().position(|boot| *boot == redate.boot)?;
            Some((u32::try_from(boot + 1).ok()?, redate.first_seq, redate.last_seq, redate.offset_ms))
        });
        Self(numbered.collect())
    }

    fn offset(&self, boot: u32, seq: u64) -> i64 {
        let covers = |(of, first, last, _): &&(u32, u64, u64, i64)| *of == boot && (*first..=*last).contains(&seq);
        self.0.iter().filter(covers).map(|(.., offset)| offset).sum()
    }

    /// The offsets that occur among seqs of a boot.
    fn offsets(&self, boot: u32, first: u64, last: u64) -> Vec<i64> {
        let mut offsets = vec![0, self.offset(boot, first)];
        for (of, begin, end, _) in &self.0 {
            let turns = [*begin, end.saturating_add(1)];
            let inside = turns.into_iter().filter(|turn| *of == boot && (first..=last).contains(turn));
            offsets.extend(inside.map(|turn| self.offset(boot, turn)));
        }
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }

    /// The offsets that occur in the file at all.
    fn all(&self) -> Vec<i64> {
        let mut offsets = vec![0];
        for (boot, first, last, _) in &self.0 {
            offsets.extend(self.offsets(*boot, *first, *last));
        }
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }
}

/// One file as one search sees it.
struct Sight {
    moves: Moves,
    layouts: Arc<Vec<Arc<Layout>>>,
    /// `None` in a search for all meters, which looks at no times.
    meter: Option<MeterId>,
    /// The meter's number in the file, and its times as taken.
    times: MeterTimes,
    tail: Vec<TailEntry>,
    packs: u64,
}

impl Sight {
    /// `None` when the file has nothing of this meter.
    fn of(shared: &Shared, file: &Arc<RawFile>, meter: &MeterId) -> Option<Self> {
        let redates = read(&shared.redates).clone();
        let state = read(&file.state);
        let times = *state.meters.get(meter)?;
        let bit = raw::meter_bit(times.number);
        Some(Self {
            moves: Moves::of(file, &state, &redates),
            layouts: state.layouts.clone(),
            meter: Some(meter.clone()),
            times,
            tail: state.tail.iter().filter(|row| row.meters & bit != 0).copied().collect(),
            packs: state.packs,
        })
    }

    fn reading(&self, entry: Entry, boot: u32) -> Result<StoredReading, Torn> {
        let layout = self.layouts.get(raw::at(entry.layout)).ok_or(Torn)?.clone();
        // What a device timed by its own clock among them is not moved with ours.
        let offset = if entry.unsynchronised { self.moves.offset(boot, entry.seq) } else { 0 };
        Ok(stored(entry, layout, offset))
    }

    /// The meter's readings in a row of the tail.
    fn row(&self, connection: &Connection, row: &TailEntry) -> Result<Vec<StoredReading>, Fault> {
        let Some(body) = tail_body(connection, row.first_seq)? else { return Ok(Vec::new()) };
        let body = TailRow::open(body, row.first_seq)?;
        let mut readings = Vec::new();
        for place in body.places()? {
            if self.layouts.get(raw::at(place.layout)).is_some_and(|layout| Some(&layout.meter) == self.meter.as_ref())
            {
                readings.push(self.reading(body.entry(place)?, row.boot)?);
            }
        }
        Ok(readings)
    }

    /// The readings of a chunk.
    fn chunk(&self, connection: &Connection, id: i64) -> Result<Vec<StoredReading>, Fault> {
        let mut statement = connection.prepare_cached("SELECT layout, boot, body FROM chunks WHERE id = ?1")?;
        let mut rows = statement.query([id])?;
        let Some(row) = rows.next()? else { return Ok(Vec::new()) };
        let (layout, boot): (u32, u32) = (row.get(0)?, row.get(1)?);
        let entries = codec::decode_chunk(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?, layout)?;
        entries.into_iter().map(|entry| Ok(self.reading(entry, boot)?)).collect()
    }

    /// The rows of the tail that may hold effective times in `[from, to)`.
    fn rows_between(&self, from: i64, to: i64) -> impl Iterator<Item = &TailEntry> {
        let offsets = self.moves.all();
        self.tail.iter().filter(move |row| {
            offsets.iter().any(|offset| row.max.saturating_add(*offset) >= from && row.min.saturating_add(*offset) < to)
        })
    }

    /// The rows of the tail that may hold any of these effective times.
    fn rows_at(&self, instants: &BTreeSet<i64>) -> impl Iterator<Item = &TailEntry> {
        let offsets = self.moves.all();
        self.tail.iter().filter(move |row| {
            offsets
                .iter()
                .any(|offset| has_any(instants, row.min.saturating_add(*offset), row.max.saturating_add(*offset)))
        })
    }

    /// The chunks that may hold any of these effective times.
    fn chunks_at(&self, connection: &Connection, instants: &BTreeSet<i64>) -> Result<BTreeSet<i64>, Fault> {
        let mut found = BTreeSet::new();
        let (Some(first), Some(last)) = (instants.first(), instants.last()) else { return Ok(found) };
        for offset in self.moves.all() {
            let (first, last) = (first.saturating_sub(offset), last.saturating_sub(offset));
            let mut statement = connection.prepare_cached(
                "SELECT id, min_time, max_time FROM chunks
                 WHERE meter = ?1 AND min_time > ?2 AND min_time <= ?3 AND max_time >= ?4",
            )?;
            let begin = first.saturating_sub(CHUNK_SPAN_MS);
            let mut rows = statement.query(params![self.times.number, begin, last, first])?;
            while let Some(row) = rows.next()? {
                let (min, max): (i64, i64) = (row.get(1)?, row.get(2)?);
                if has_any(instants, min.saturating_add(offset), max.saturating_add(offset)) {
                    found.insert(row.get(0)?);
                }
            }
        }
        Ok(found)
    }

    /// The chunks that may hold effective times in `[from, to)`, and the least each may hold.
    fn chunks_between(&self, connection: &Connection, from: i64, to: i64) -> Result<BTreeMap<i64, i64>, Fault> {
        let mut found = BTreeMap::new();
        for offset in self.moves.all() {
            let (from, to) = (from.saturating_sub(offset), to.saturating_sub(offset));
            let mut statement = connection.prepare_cached(
                "SELECT id, min_time, boot, first_seq, last_seq FROM chunks
                 WHERE meter = ?1 AND min_time > ?2 AND min_time < ?3 AND max_time >= ?4",
            )?;
            let mut rows = statement.query(params![self.times.number, from.saturating_sub(CHUNK_SPAN_MS), to, from])?;
            while let Some(row) = rows.next()? {
                let seqs = (row.get::<_, i64>(3)?.cast_unsigned(), row.get::<_, i64>(4)?.cast_unsigned());
                let offsets = self.moves.offsets(row.get(2)?, seqs.0, seqs.1);
                let least = offsets.first().copied().unwrap_or(0);
                found.insert(row.get(0)?, row.get::<_, i64>(1)?.saturating_add(least));
            }
        }
        Ok(found)
    }
}

/// The effective times between which a meter's readings of one file lie.
pub fn reach(shared: &Shared, file: &RawFile, meter: &MeterId) -> Option<(i64, i64)> {
    let redates = read(&shared.redates).clone();
    let state = read(&file.state);
    let times = state.meters.get(meter)?;
    let offsets = Moves::of(file, &state, &redates).all();
    let (low, high) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    Some((times.min.saturating_add(low), times.max.saturating_add(high)))
}

fn stored(entry: Entry, layout: Arc<Layout>, offset: i64) -> StoredReading {
    StoredReading {
        seq: entry.seq,
        time: Timestamp::from_millis(entry.time.saturating_add(offset)),
        layout,
        values: entry.values,
        clock: if entry.unsynchronised { ClockState::Unsynchronised } else { ClockState::Synchronised },
        conflict: entry.conflict,
    }
}

/// A reading that was just committed, at its time as taken.
pub fn committed(entry: Entry, layout: Arc<Layout>) -> StoredReading {
    stored(entry, layout, 0)
}

fn tail_body(connection: &Connection, first_seq: u64) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT body FROM tail WHERE first_seq = ?1")?;
    statement.query_row([first_seq.cast_signed()], |row| row.get(0)).optional()
}

/// What can go wrong inside one file.
pub enum Fault {
    Sql(rusqlite::Error),
    Torn,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Torn> for Fault {
    fn from(_: Torn) -> Self {
        Self::Torn
    }
}

/// Works on one file's connection. Damage is reported to the writing thread, which sets the file aside; a file that
/// was deleted meanwhile has nothing.
pub fn on_file<T>(
    shared: &Shared,
    file: &RawFile,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<Option<T>, StoreError> {
    let outcome = shared.pool.lend(&file.path).and_then(|connection| {
        work(&connection).map_err(|fault| match fault {
            Fault::Sql(error) => sqlite::fault(&file.path, error),
            Fault::Torn => Torn.at(&file.path),
        })
    });
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(_) if !shared.has_file(file.first_seq) => Ok(None),
        Err(error) => {
            if let StoreError::Damaged { .. } = &error {
                shared.report_damage(file.first_seq);
            }
            Err(error)
        }
    }
}

/// A search for one meter in one file, begun again when rows were packed under it.
fn in_file<T>(
    shared: &Shared,
    file: &Arc<RawFile>,
    meter: &MeterId,
    search: impl Fn(&Sight, &Connection) -> Result<T, Fault>,
) -> Result<Option<T>, StoreError> {
    loop {
        let Some(sight) = Sight::of(shared, file, meter) else { return Ok(None) };
        let found = on_file(shared, file, |connection| search(&sight, connection));
        if read(&file.state).packs == sight.packs {
            return found;
        }
    }
}

/// Instants of each of some meters.
pub type Instants = HashMap<MeterId, BTreeSet<i64>>;
/// The readings at such instants, in order of seq.
pub type AtInstants = HashMap<MeterId, HashMap<i64, Vec<StoredReading>>>;

/// All readings of these meters at these instants: what a value's identity is compared with. Each chunk and each row of a
/// tail is unpacked once, however many instants lie in it. For the writing thread: nothing is packed meanwhile.
pub fn at_instants(shared: &Shared, wanted: &Instants) -> Result<AtInstants, StoreError> {
    let mut found = AtInstants::new();
    for file in shared.files() {
        let near = |(meter, instants): &(&MeterId, &BTreeSet<i64>)| {
            reach(shared, &file, meter).is_some_and(|(min, max)| has_any(instants, min, max))
        };
        let sights = wanted.iter().filter(near);
        let sights = sights.filter_map(|(meter, instants)| Some((Sight::of(shared, &file, meter)?, instants)));
        let sights: Vec<(Sight, &BTreeSet<i64>)> = sights.collect();
        if sights.is_empty() {
            continue;
        }
        let here = on_file(shared, &file, |connection| at_instants_in(shared, &sights, connection))?;
        for (meter, reading) in here.into_iter().flatten() {
            let of_meter = match found.get_mut(&meter) {
                Some(of_meter) => of_meter,
                None => found.entry(meter).or_default(),
            };
            of_meter.entry(reading.time.as_millis()).or_default().push(reading);
        }
    }
    found.values_mut().flat_map(HashMap::values_mut).for_each(|readings| readings.sort_by_key(|reading| reading.seq));
    Ok(found)
}

fn has_any(instants: &BTreeSet<i64>, min: i64, max: i64) -> bool {
    min <= max && instants.range(min..=max).next().is_some()
}

fn at_instants_in(
    shared: &Shared,
    sights: &[(Sight, &BTreeSet<i64>)],
    connection: &Connection,
) -> Result<Vec<(MeterId, StoredReading)>, Fault> {
    let mut found = Vec::new();
    let (mut rows, mut by_meter) = (BTreeMap::new(), HashMap::new());
    for (sight, instants) in sights {
        for id in sight.chunks_at(connection, instants)? {
            shared.counters.unpacks();
            let readings = sight.chunk(connection, id)?.into_iter();
            let wanted = readings.filter(|reading| instants.contains(&reading.time.as_millis()));
            found.extend(wanted.map(|reading| (reading.layout.meter.clone(), reading)));
        }
        rows.extend(sight.rows_at(instants).map(|row| (row.first_seq, row)));
        by_meter.extend(sight.meter.iter().map(|meter| (meter, (sight, instants))));
    }
    let Some((any, _)) = sights.first() else { return Ok(found) };
    for row in rows.values() {
        shared.counters.unpacks();
        let Some(body) = tail_body(connection, row.first_seq)? else { continue };
        let body = TailRow::open(body, row.first_seq)?;
        for place in body.places()? {
            let Some(layout) = any.layouts.get(raw::at(place.layout)) else { continue };
            let Some((sight, instants)) = by_meter.get(&layout.meter) else { continue };
            let reading = sight.reading(body.entry(place)?, row.boot)?;
            if instants.contains(&reading.time.as_millis()) {
                found.push((layout.meter.clone(), reading));
            }
        }
    }
    Ok(found)
}

/// Which of two ends of time a search looks from.
#[derive(Clone, Copy, PartialEq)]
pub enum Side {
    /// The last before.
    Before,
    /// The first at or after.
    From,
}

/// The reading with a value of `role` that lies nearest to `at` on one side: the lowest seq of equals.
pub fn nearest(
    shared: &Shared,
    meter: &MeterId,
    role: Role,
    at: Timestamp,
    side: Side,
) -> Result<Option<StoredReading>, StoreError> {
    let mut files: Vec<(i64, Arc<RawFile>)> = Vec::new();
    for file in shared.files() {
        let Some((min, max)) = reach(shared, &file, meter) else { continue };
        let near = match side {
            Side::Before => (min < at.as_millis()).then_some(max),
            Side::From => (max >= at.as_millis()).then_some(min),
        };
        files.extend(near.map(|near| (near, file)));
    }
    match side {
        Side::Before => files.sort_by_key(|(max, _)| Reverse(*max)),
        Side::From => files.sort_by_key(|(min, _)| *min),
    }
    let mut best = Best { role, at: at.as_millis(), side, found: None };
    for (near, file) in files {
        if !best.may_improve(near) {
            break;
        }
        let here = in_file(shared, &file, meter, |sight, connection| {
            let mut here = Best { role, at: at.as_millis(), side, found: None };
            nearest_in(sight, connection, &mut here)?;
            Ok(here.found)
        })?;
        here.into_iter().flatten().for_each(|reading| best.look_at(reading));
    }
    Ok(best.found)
}

struct Best {
    role: Role,
    at: i64,
    side: Side,
    found: Option<StoredReading>,
}

impl Best {
    fn look_at(&mut self, reading: StoredReading) {
        let time = reading.time.as_millis();
        let wanted = if self.side == Side::Before { time < self.at } else { time >= self.at };
        if !wanted || reading.raw(self.role).is_none() {
            return;
        }
        let better = self.found.as_ref().is_none_or(|best| {
            let best_time = best.time.as_millis();
            let nearer = if self.side == Side::Before { time > best_time } else { time < best_time };
            nearer || time == best_time && reading.seq < best.seq
        });
        if better {
            self.found = Some(reading);
        }
    }

    /// Whether something at `time` at best could still win.
    fn may_improve(&self, time: i64) -> bool {
        self.found.as_ref().is_none_or(|best| {
            let best = best.time.as_millis();
            if self.side == Side::Before { time >= best } else { time <= best }
        })
    }
}

fn nearest_in(sight: &Sight, connection: &Connection, best: &mut Best) -> Result<(), Fault> {
    let (from, to) = if best.side == Side::Before { (i64::MIN, best.at) } else { (best.at, i64::MAX) };
    let mut rows: Vec<&TailEntry> = sight.rows_between(from, to).collect();
    let offsets = sight.moves.all();
    let (low, high) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    match best.side {
        Side::Before => rows.sort_by_key(|row| Reverse(row.max)),
        Side::From => rows.sort_by_key(|row| row.min),
    }
    for row in rows {
        let near = if best.side == Side::Before { row.max.saturating_add(high) } else { row.min.saturating_add(low) };
        if best.may_improve(near) {
            sight.row(connection, row)?.into_iter().for_each(|reading| best.look_at(reading));
        }
    }
    // Chunks are walked by their beginning; none reaches further than its longest span.
    let sql = match best.side {
        Side::Before => {
            "SELECT id, min_time, max_time, boot, first_seq, last_seq, roles FROM chunks
             WHERE meter = ?1 AND min_time < ?2 ORDER BY min_time DESC"
        }
        Side::From => {
            "SELECT id, min_time, max_time, boot, first_seq, last_seq, roles FROM chunks
             WHERE meter = ?1 AND min_time > ?2 ORDER BY min_time"
        }
    };
    for offset in offsets {
        let bound = match best.side {
            Side::Before => best.at.saturating_sub(offset),
            Side::From => best.at.saturating_sub(offset).saturating_sub(CHUNK_SPAN_MS),
        };
        let mut statement = connection.prepare_cached(sql)?;
        let mut found = statement.query(params![sight.times.number, bound])?;
        while let Some(row) = found.next()? {
            let (min, max): (i64, i64) = (row.get(1)?, row.get(2)?);
            let (min, max) = (min.saturating_add(offset), max.saturating_add(offset));
            let reach = if best.side == Side::Before { min.saturating_add(CHUNK_SPAN_MS) } else { min };
            if !best.may_improve(reach) {
                break;
            }
            let near = if best.side == Side::Before { max } else { min };
            let roles: u8 = row.get(6)?;
            let seqs = (row.get::<_, i64>(4)?.cast_unsigned(), row.get::<_, i64>(5)?.cast_unsigned());
            if roles & raw::role_bit(best.role) == 0
                || !best.may_improve(near)
                || best.side == Side::From && max < best.at
                || !sight.moves.offsets(row.get(3)?, seqs.0, seqs.1).contains(&offset)
            {
                continue;
            }
            sight.chunk(connection, row.get(0)?)?.into_iter().for_each(|reading| best.look_at(reading));
        }
    }
    Ok(())
}

/// A meter's readings in order of effective time, then seq. Between two steps it holds no connection and blocks no
/// checkpoint, so a slow reader costs memory for a batch and nothing else.
pub struct Cursor {
    shared: Arc<Shared>,
    meter: MeterId,
    from: i64,
    to: i64,
    plan: Option<VecDeque<Planned>>,
    /// In order; what comes from later chunks may still belong between.
    pending: VecDeque<StoredReading>,
}

/// A chunk that is still to be read.
struct Planned {
    file: Arc<RawFile>,
    id: i64,
    /// The least effective time in it.
    min: i64,
}

impl Cursor {
    pub fn new(shared: Arc<Shared>, meter: MeterId, from: Timestamp, to: Timestamp) -> Self {
        let (from, to) = (from.as_millis(), to.as_millis());
        Self { shared, meter, from, to, plan: None, pending: VecDeque::new() }
    }

    /// The next batch; `None` at the end.
    pub fn step(&mut self) -> Option<Result<Vec<StoredReading>, StoreError>> {
        self.try_step().transpose()
    }

    fn try_step(&mut self) -> Result<Option<Vec<StoredReading>>, StoreError> {
        let mut plan = match self.plan.take() {
            Some(plan) => plan,
            None => self.make_plan()?,
        };
        let mut batch = Vec::new();
        while batch.is_empty() {
            let bound = plan.front().map(|next| next.min);
            let ready = bound.map_or(self.pending.len(), |bound| {
                self.pending.partition_point(|reading| reading.time.as_millis() < bound)
            });
            if ready > 0 {
                batch.extend(self.pending.drain(..ready.min(BATCH)));
            } else if let Some(next) = plan.pop_front() {
                let found = in_file(&self.shared, &next.file, &self.meter, |sight, connection| {
                    sight.chunk(connection, next.id)
                })?;
                self.add(found.unwrap_or_default());
            } else {
                break;
            }
        }
        self.plan = Some(plan);
        Ok(if batch.is_empty() { None } else { Some(batch) })
    }

    fn make_plan(&mut self) -> Result<VecDeque<Planned>, StoreError> {
        let mut plan = Vec::new();
        let (from, to) = (self.from, self.to);
        for file in self.shared.files() {
            let reach = reach(&self.shared, &file, &self.meter);
            if from >= to || reach.is_none_or(|(min, max)| min >= to || max < from) {
                continue;
            }
            let found = in_file(&self.shared, &file, &self.meter, |sight, connection| {
                let chunks = sight.chunks_between(connection, from, to)?;
                // Rows of the tail move when they are packed, so they are read now; it is a quarter of an hour at most.
                let mut tail = Vec::new();
                for row in sight.rows_between(from, to) {
                    let readings = sight.row(connection, row)?;
                    tail.extend(readings.into_iter().filter(|r| (from..to).contains(&r.time.as_millis())));
                }
                Ok((chunks, tail))
            })?;
            let Some((chunks, tail)) = found else { continue };
            plan.extend(chunks.into_iter().map(|(id, min)| Planned { file: file.clone(), id, min }));
            self.add(tail);
        }
        plan.sort_by_key(|chunk| (chunk.min, chunk.file.first_seq, chunk.id));
        Ok(plan.into())
    }

    fn add(&mut self, readings: Vec<StoredReading>) {
        let wanted = readings.into_iter().filter(|r| (self.from..self.to).contains(&r.time.as_millis()));
        let key = |reading: &StoredReading| (reading.time, reading.seq);
        let before = self.pending.len();
        self.pending.extend(wanted);
        let pending = self.pending.make_contiguous();
        if !pending[before.saturating_sub(1)..].is_sorted_by_key(key) {
            pending.sort_by_key(key);
        }
    }
}

/// Readings of all meters after `seq`, in order of seq.
pub fn arrivals(shared: &Shared, seq: u64, limit: usize) -> Result<Vec<StoredReading>, StoreError> {
    let mut found: Vec<StoredReading> = Vec::new();
    for file in shared.files() {
        let after = found.last().map_or(seq, |reading| reading.seq);
        loop {
            let state = read(&file.state);
            if found.len() >= limit || state.last_seq <= after {
                break;
            }
            let redates = read(&shared.redates).clone();
            let sight = Sight {
                moves: Moves::of(&file, &state, &redates),
                layouts: state.layouts.clone(),
                meter: None,
                times: MeterTimes { number: 0, min: 0, max: 0 },
                tail: state.tail.clone(),
                packs: state.packs,
            };
            drop(state);
            let more =
                on_file(shared, &file, |connection| arrivals_in(&sight, connection, after, limit - found.len()))?;
            if read(&file.state).packs == sight.packs {
                found.extend(more.into_iter().flatten());
                break;
            }
        }
    }
    Ok(found)
}

fn arrivals_in(sight: &Sight, connection: &Connection, seq: u64, limit: usize) -> Result<Vec<StoredReading>, Fault> {
    let mut found: Vec<StoredReading> = Vec::new();
    let mut statement = connection
        .prepare_cached("SELECT first_chunk, last_chunk FROM packs WHERE last_seq > ?1 ORDER BY first_seq")?;
    let mut packs = statement.query([seq.cast_signed()])?;
    while let Some(pack) = packs.next()? {
        if found.len() >= limit {
            break;
        }
        pack_arrivals(sight, connection, (pack.get(0)?, pack.get(1)?), seq, limit - found.len(), &mut found)?;
    }
    let first = sight.tail.partition_point(|row| row.first_seq <= seq.saturating_add(1)).saturating_sub(1);
    for row in &sight.tail[first.min(sight.tail.len())..] {
        if found.len() >= limit {
            break;
        }
        let Some(body) = tail_body(connection, row.first_seq)? else { continue };
        let body = TailRow::open(body, row.first_seq)?;
        for place in body.places()? {
            let entry = body.entry(place)?;
            if entry.seq > seq && found.len() < limit {
                found.push(sight.reading(entry, row.boot)?);
            }
        }
    }
    Ok(found)
}

/// The next `limit` readings of one packing. Its chunks are looked through for their seqs first, so that no more is
/// unpacked at a time than what is asked for and one chunk.
fn pack_arrivals(
    sight: &Sight,
    connection: &Connection,
    (first, last): (i64, i64),
    seq: u64,
    limit: usize,
    found: &mut Vec<StoredReading>,
) -> Result<(), Fault> {
    let mut statement =
        connection.prepare_cached("SELECT id, body FROM chunks WHERE id BETWEEN ?1 AND ?2 AND last_seq > ?3")?;
    let mut seqs = Vec::new();
    let mut rows = statement.query(params![first, last, seq.cast_signed()])?;
    while let Some(row) = rows.next()? {
        let body = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        seqs.extend(codec::chunk_seqs(body)?.into_iter().filter(|other| *other > seq));
    }
    if seqs.len() > limit && limit > 0 {
        seqs.select_nth_unstable(limit - 1);
        seqs.truncate(limit);
    }
    let Some(until) = seqs.iter().max().copied() else { return Ok(()) };
    let mut statement = connection
        .prepare_cached("SELECT id FROM chunks WHERE id BETWEEN ?1 AND ?2 AND last_seq > ?3 AND first_seq <= ?4")?;
    let mut rows = statement.query(params![first, last, seq.cast_signed(), until.cast_signed()])?;
    let start = found.len();
    while let Some(row) = rows.next()? {
        let readings = sight.chunk(connection, row.get(0)?)?;
        found.extend(readings.into_iter().filter(|reading| reading.seq > seq && reading.seq <= until));
    }
    found[start..].sort_by_key(|reading| reading.seq);
    Ok(())
}
