//! A slice of the period in memory: rows in whatever order they come, to be put in order and written.

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
    pub(super) rows: Vec<Row>,
    pub(super) repeated: u64,
    pub(super) absent: Absent,
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
        let shares_tags = last.is_some_and(|last| std::sync::Arc::ptr_eq(&last.tags, &row.tags));
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
        let Self { from_ns, to_ns, mut rows, absent, .. } = self;
        rows.sort_unstable_by(|a, b| row::order(a, b).then_with(|| row::order_of_values(&a.value, &b.value)));
        for pair in rows.windows(2) {
            if row::order(&pair[0], &pair[1]).is_eq() && row::order_of_values(&pair[0].value, &pair[1].value).is_ne() {
                let (row, first) = (Named(&pair[0]).to_string(), shown(&pair[0].value));
                return Err(BadSlice::TwoValues { row, first, second: shown(&pair[1].value) });
            }
        }
        let read = rows.len();
        rows.dedup_by(|b, a| row::order(a, b).is_eq());
        let repeated = (read - rows.len()) as u64;
        Ok(SortedSlice { from_ns, to_ns, rows, repeated, absent })
    }
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
