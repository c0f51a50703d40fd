//! Readings of all meters in order of seq, at their times as taken: what is sent upstream.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::codec::{self, Entry, TailRow};
use super::raw::{self, RawFile};
use super::search::{Fault, on_file};
use super::{Reader, Shared, StoreError, blocking, read};
use crate::model::{ClockState, Layout, TakenReading, Timestamp, Values};

/// Reads on from any seq. It holds what was packed together, a quarter of an hour of readings or so, as it goes through
/// it; and no connection, so that a slow reader blocks nothing.
pub struct TakenCursor {
    shared: Arc<Shared>,
    /// Away while a step runs; read again when that step was given up.
    window: Option<Box<Window>>,
}

/// All readings with `after < seq <= through` that there are, but for simulated ones.
struct Window {
    after: u64,
    through: u64,
    /// By seq: the part and the row in it.
    order: Vec<(u64, u32, u32)>,
    parts: Vec<Part>,
}

/// Readings of one layout and boot, without a list of its own for each.
struct Part {
    layout: Arc<Layout>,
    boot: Arc<str>,
    rows: Vec<Row>,
    values: Vec<u64>,
    /// Of each value, its place and its type.
    kinds: Vec<(u8, u8)>,
}

struct Row {
    time: i64,
    since_boot_ms: u64,
    /// Where its values begin.
    start: u32,
    count: u16,
    unsynchronised: bool,
    conflict: bool,
}

impl Reader {
    /// A cursor over the readings of all meters, in order of seq.
    pub fn taken(&self) -> TakenCursor {
        TakenCursor { shared: self.shared.clone(), window: None }
    }
}

impl TakenCursor {
    /// The first `limit` readings with `after < seq <= until`, in order of seq; fewer only when there are no more of
    /// them. Cheapest where `after` is the last seq of the answer before.
    pub async fn next(&mut self, after: u64, until: u64, limit: usize) -> Result<Vec<TakenReading>, StoreError> {
        let (shared, mut window) = (self.shared.clone(), self.window.take());
        let (found, window) = blocking(move || {
            let found = step(&shared, &mut window, (after, until), limit)?;
            Ok((found, window))
        })
        .await?;
        self.window = window;
        Ok(found)
    }
}

fn step(
    shared: &Shared,
    window: &mut Option<Box<Window>>,
    (mut after, until): (u64, u64),
    limit: usize,
) -> Result<Vec<TakenReading>, StoreError> {
    let until = until.min(*shared.committed.borrow());
    let mut found = Vec::new();
    while found.len() < limit && after < until {
        match window {
            Some(at_hand) if at_hand.after <= after && after < at_hand.through => {
                after = at_hand.give((after, until), limit, &mut found);
            }
            _ => {
                // One at a time: it is the most that a cursor holds.
                *window = None;
                match load(shared, after, until)? {
                    Some(next) => *window = Some(Box::new(next)),
                    None => break,
                }
            }
        }
    }
    Ok(found)
}

impl Window {
    /// Adds readings to `found` until it has `limit`; up to where all are given.
    fn give(&self, (after, until): (u64, u64), limit: usize, found: &mut Vec<TakenReading>) -> u64 {
        let first = self.order.partition_point(|(seq, ..)| *seq <= after);
        for (seq, part, row) in &self.order[first..] {
            if *seq > until {
                break;
            }
            if let Some(part) = self.parts.get(place(*part)) {
                found.extend(part.reading(*seq, place(*row)));
            }
            if found.len() >= limit {
                return *seq;
            }
        }
        self.through
    }

    fn add(&mut self, layout: &Arc<Layout>, boot: &Arc<str>, entries: impl Iterator<Item = Entry>) {
        let number = index(self.parts.len());
        let mut part = Part {
            layout: layout.clone(),
            boot: boot.clone(),
            rows: Vec::new(),
            values: Vec::new(),
            kinds: Vec::new(),
        };
        for entry in entries.filter(|entry| self.after < entry.seq) {
            self.order.push((entry.seq, number, index(part.rows.len())));
            part.push(&entry);
        }
        part.rows.shrink_to_fit();
        part.values.shrink_to_fit();
        part.kinds.shrink_to_fit();
        self.parts.push(part);
    }
}

impl Part {
    fn push(&mut self, entry: &Entry) {
        self.rows.push(Row {
            time: entry.time,
            since_boot_ms: entry.since_boot_ms,
            start: index(self.values.len()),
            count: u16::try_from(entry.values.len()).unwrap_or(u16::MAX),
            unsynchronised: entry.unsynchronised,
            conflict: entry.conflict,
        });
        for (at, number) in &entry.values {
            self.values.push(codec::bits(*number));
            self.kinds.push((*at, codec::kind(*number)));
        }
    }

    fn reading(&self, seq: u64, row: usize) -> Option<TakenReading> {
        let row = self.rows.get(row)?;
        let range = place(row.start)..place(row.start) + usize::from(row.count);
        let pairs = self.kinds.get(range.clone())?.iter().zip(self.values.get(range)?);
        let values: Values = pairs
            .map(|((at, kind), bits)| Ok((*at, codec::number(*kind, *bits)?)))
            .collect::<Result<_, codec::Torn>>()
            .ok()?;
        Some(TakenReading {
            seq,
            time: Timestamp::from_millis(row.time),
            since_boot_ms: row.since_boot_ms,
            boot: self.boot.clone(),
            clock: if row.unsynchronised { ClockState::Unsynchronised } else { ClockState::Synchronised },
            conflict: row.conflict,
            layout: self.layout.clone(),
            values,
        })
    }
}

/// The parts and rows of a window are far below 2^32.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn place(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// The next readings after `after` that lie together in a file; `None` when all there are lie beyond `until`.
fn load(shared: &Shared, after: u64, until: u64) -> Result<Option<Window>, StoreError> {
    for file in shared.files() {
        if file.first_seq > until {
            break;
        }
        if read(&file.state).last_seq <= after {
            continue;
        }
        // What was deleted or set aside meanwhile is a hole.
        if let Some(Some(window)) = on_file(shared, &file, |connection| in_file(&file, connection, after, until))? {
            return Ok(Some(window));
        }
    }
    Ok(None)
}

/// Looks at packs and tail as they are at one instant: what is packed meanwhile is in one of them, and not in both.
fn in_file(file: &RawFile, connection: &Connection, after: u64, until: u64) -> Result<Option<Window>, Fault> {
    // Taken before: all that is committed up to `until` has its layouts and boots there. What lies beyond the last seq that
    // is known was never acknowledged.
    let (layouts, boots, until) = {
        let state = read(&file.state);
        let boots: Vec<Arc<str>> = state.boots.iter().map(|boot| Arc::from(boot.as_str())).collect();
        (state.layouts.clone(), boots, until.min(state.last_seq))
    };
    let transaction = connection.unchecked_transaction()?;
    // The range that contains the next seq, or else the first one behind it.
    let pack = transaction
        .prepare_cached(
            "SELECT first_seq, last_seq, first_chunk, last_chunk FROM packs
             WHERE first_seq >= (SELECT coalesce(max(first_seq), 0) FROM packs WHERE first_seq <= ?1 + 1)
             AND last_seq > ?1 ORDER BY first_seq LIMIT 1",
        )?
        .query_row([after.cast_signed()], |row| {
            let seqs = (row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned());
            Ok((seqs, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
        })
        .optional()?;
    if let Some(((first, through), first_chunk, last_chunk)) = pack {
        if first > until {
            return Ok(None);
        }
        let mut window = Window { after, through, order: Vec::new(), parts: Vec::new() };
        let mut statement = transaction
            .prepare_cached("SELECT layout, boot, body FROM chunks WHERE id BETWEEN ?1 AND ?2 AND last_seq > ?3")?;
        let mut rows = statement.query(params![first_chunk, last_chunk, after.cast_signed()])?;
        while let Some(row) = rows.next()? {
            let (number, boot): (u32, u32) = (row.get(0)?, row.get(1)?);
            let (layout, boot) = named(&layouts, &boots, number, boot)?;
            if !layout.simulated {
                let body = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
                window.add(layout, boot, codec::decode_chunk(body, number)?.into_iter());
            }
        }
        window.order.sort_unstable();
        return Ok(Some(window));
    }
    let row = transaction
        .prepare_cached(
            "SELECT first_seq, last_seq, boot, body FROM tail
             WHERE first_seq >= (SELECT coalesce(max(first_seq), 0) FROM tail WHERE first_seq <= ?1 + 1)
             AND last_seq > ?1 ORDER BY first_seq LIMIT 1",
        )?
        .query_row([after.cast_signed()], |row| {
            let seqs = (row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned());
            Ok((seqs, row.get::<_, u32>(2)?, row.get::<_, Vec<u8>>(3)?))
        })
        .optional()?;
    let Some(((first, through), boot, body)) = row.filter(|((first, _), ..)| *first <= until) else { return Ok(None) };
    let mut window = Window { after, through, order: Vec::new(), parts: Vec::new() };
    let body = TailRow::open(body, first)?;
    let mut by_layout: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
    for place in body.places()? {
        by_layout.entry(place.layout).or_default().push(body.entry(place)?);
    }
    for (number, entries) in by_layout {
        let (layout, boot) = named(&layouts, &boots, number, boot)?;
        if !layout.simulated {
            window.add(layout, boot, entries.into_iter());
        }
    }
    window.order.sort_unstable();
    Ok(Some(window))
}

fn named<'a>(
    layouts: &'a [Arc<Layout>],
    boots: &'a [Arc<str>],
    layout: u32,
    boot: u32,
) -> Result<(&'a Arc<Layout>, &'a Arc<str>), codec::Torn> {
    layouts.get(raw::at(layout)).zip(boots.get(raw::at(boot))).ok_or(codec::Torn)
}
