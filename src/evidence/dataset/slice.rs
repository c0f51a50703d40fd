//! A slice of the period in memory: rows in whatever order they come, to be put in order and written.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{FieldValue, Row};

use super::row::{self, Named, Unwritable};

/// Rows of one slice in memory, at most. A slice that holds more is thrown away and read in halves.
pub const LIMIT: usize = 32 << 20;

/// Values that were left out since they were empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    pub empty_strings: u64,
    pub empty_tags: u64,
}

/// Why the rows of a slice are no part of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSlice {
    /// To be read again in halves.
    #[error("more than {} MiB of rows between {from_ns} ns and {to_ns} ns; read it in halves", LIMIT >> 20)]
    Full { from_ns: i64, to_ns: i64 },
    #[error("{row} is {why}; leave it out of the query or mend it in the database")]
    Unwritable { row: String, why: Unwritable },
    #[error("{row} lies outside of [{from_ns}, {to_ns}) that was asked for")]
    Outside { row: String, from_ns: i64, to_ns: i64 },
    #[error("{row} has two values, {first} and {second}; a dataset cannot hold both: mend it in the database")]
    TwoValues { row: String, first: String, second: String },
}

/// Rows of `[from, to)` as they come.
#[derive(Debug)]
pub struct Slice {
    from_ns: i64,
    to_ns: i64,
    rows: Vec<Row>,
    bytes: usize,
    absent: Absent,
}

/// The rows of a slice in the order of datasets, each key once.
#[derive(Debug)]
pub struct SortedSlice {
    pub(super) from_ns: i64,
    pub(super) to_ns: i64,
    rows: Vec<Row>,
    order: Vec<Place>,
    /// A row of each series, by the rank of the series.
    heads: Vec<u32>,
    pub(super) repeated: u64,
    pub(super) absent: Absent,
}

/// A row's place in the order: its time, the rank of its series, and where the row lies, from the highest bits to the
/// lowest. Comparing texts and moving rows for each step of a sort would cost more than hashing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u128);

impl Place {
    fn new(row: &Row, series: u32, at: u32) -> Self {
        // Times before 1970 come first, so the sign's bit is turned.
        let time = row.time_ns.cast_unsigned() ^ 1 << 63;
        Self(u128::from(time) << 64 | u128::from(series) << 32 | u128::from(at))
    }

    /// Time and series.
    fn key(self) -> u128 {
        self.0 >> 32
    }

    #[allow(clippy::cast_possible_truncation, reason = "these bits are meant")]
    fn series(self) -> usize {
        (self.0 >> 32) as u32 as usize
    }

    #[allow(clippy::cast_possible_truncation, reason = "these bits are meant")]
    fn at(self) -> usize {
        self.0 as u32 as usize
    }
}

impl Slice {
    pub fn new(from_ns: i64, to_ns: i64) -> Self {
        Self { from_ns, to_ns, rows: Vec::new(), bytes: 0, absent: Absent::default() }
    }

    /// Adds a row. A refusal is final for this slice.
    pub fn push(&mut self, row: Row) -> Result<(), BadSlice> {
        let (from_ns, to_ns) = (self.from_ns, self.to_ns);
        // Rows of one series share their texts, which are checked and counted where they change.
        let last = self.rows.last();
        let shares_tags = last.is_some_and(|last| Arc::ptr_eq(&last.tags, &row.tags));
        let checked = if shares_tags { row::check_but_tags(&row) } else { row::check(&row) };
        if let Err(why) = checked {
            return Err(BadSlice::Unwritable { row: Named(&row).to_string(), why });
        }
        if !(from_ns..to_ns).contains(&row.time_ns) {
            return Err(BadSlice::Outside { row: Named(&row).to_string(), from_ns, to_ns });
        }
        self.bytes += size_of::<Row>() + heap_of(&row, shares_tags);
        if self.bytes > LIMIT {
            return Err(BadSlice::Full { from_ns, to_ns });
        }
        self.rows.push(row);
        Ok(())
    }

    /// Counts values that the database gave empty.
    pub fn count_absent(&mut self, absent: Absent) {
        self.absent.empty_strings += absent.empty_strings;
        self.absent.empty_tags += absent.empty_tags;
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Puts the rows in order. What comes twice is dropped and counted; two values for one key are refused, and both
    /// are named whatever the order was in which they came.
    pub fn sort(self) -> Result<SortedSlice, BadSlice> {
        let Self { from_ns, to_ns, rows, absent, .. } = self;
        let (series, heads) = rank(&rows);
        let places = rows.iter().zip(series).zip(0..);
        let mut order: Vec<Place> = places.map(|((row, series), at)| Place::new(row, series, at)).collect();
        order.sort_unstable();
        for same in order.chunk_by_mut(|a, b| a.key() == b.key()).filter(|same| same.len() > 1) {
            same.sort_by(|a, b| row::order_of_values(&rows[a.at()].value, &rows[b.at()].value));
            let first = &rows[same[0].at()];
            let others = same.iter().map(|place| &rows[place.at()]);
            for other in others {
                if row::order_of_values(&first.value, &other.value).is_ne() {
                    let (row, first) = (Named(first).to_string(), shown(&first.value));
                    return Err(BadSlice::TwoValues { row, first, second: shown(&other.value) });
                }
            }
        }
        order.dedup_by_key(|place| place.key());
        let repeated = (rows.len() - order.len()) as u64;
        Ok(SortedSlice { from_ns, to_ns, rows, order, heads, repeated, absent })
    }
}

impl SortedSlice {
    /// The rows in their order, each with the rank of its series.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (usize, &Row)> {
        self.order.iter().map(|place| (place.series(), &self.rows[place.at()]))
    }

    /// A row of each series, by the rank of the series.
    pub(super) fn heads(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.heads.iter().map(|at| &self.rows[*at as usize])
    }
}

/// For each row the rank of its series (measurement, tags and field), and a row of each of them. Series are told by the
/// addresses of their texts, which rows share; those that are at several addresses are found to be one by their texts.
fn rank(rows: &[Row]) -> (Vec<u32>, Vec<u32>) {
    let mut seen: HashMap<(usize, usize, usize), u32> = HashMap::new();
    // The first row at each address.
    let mut firsts: Vec<u32> = Vec::new();
    let mut series = Vec::with_capacity(rows.len());
    for (row, at) in rows.iter().zip(0_u32..) {
        let address = (row.measurement.as_ptr().addr(), row.tags.as_ptr().addr(), row.field.as_ptr().addr());
        series.push(*seen.entry(address).or_insert_with(|| {
            firsts.push(at);
            u32::try_from(firsts.len() - 1).unwrap_or(u32::MAX)
        }));
    }
    let first = |id: u32| &rows[firsts[id as usize] as usize];
    let mut ids: Vec<u32> = (0..).take(firsts.len()).collect();
    ids.sort_by(|a, b| row::order_of_series(first(*a), first(*b)));
    let (mut ranks, mut heads) = (vec![0; firsts.len()], Vec::new());
    for same in ids.chunk_by(|a, b| row::order_of_series(first(*a), first(*b)).is_eq()) {
        for id in same {
            ranks[*id as usize] = u32::try_from(heads.len()).unwrap_or(u32::MAX);
        }
        heads.push(firsts[same[0] as usize]);
    }
    series.iter_mut().for_each(|id| *id = ranks[*id as usize]);
    (series, heads)
}

/// What a row holds on the heap and does not share with the row before it, about.
fn heap_of(row: &Row, shares_tags: bool) -> usize {
    let text = match &row.value {
        FieldValue::Str(text) => text.len() + 16,
        _ => 0,
    };
    // Two counters of the list, and for each tag two texts with their places and what the allocator adds.
    let tags = || 16 + row.tags.iter().map(|(tag, value)| tag.len() + value.len() + 64).sum::<usize>();
    text + if shares_tags { 0 } else { tags() }
}

fn shown(value: &FieldValue) -> String {
    match value {
        FieldValue::F64(value) => format!("{value:?} (f64)"),
        FieldValue::I64(value) => format!("{value} (i64)"),
        FieldValue::U64(value) => format!("{value} (u64)"),
        FieldValue::Bool(value) => format!("{value} (bool)"),
        FieldValue::Str(value) => {
            let short: String = value.chars().take(80).collect();
            format!("{short:?} (str)")
        }
    }
}
