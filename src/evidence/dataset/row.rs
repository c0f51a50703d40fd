//! Rows as canonical bytes, their order, and what cannot be a row.
//!
//! The bytes are written straight into a buffer that is used again: a JSON tree for each of ten million rows would cost
//! more than the hashing.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::model::{Cell, FieldValue, Row, jcs};

/// What may not be in a string of a dataset: it stands where something was that is not UTF-8.
pub const REPLACEMENT: char = '\u{fffd}';

/// Appends the canonical form of a row, without its line feed.
pub fn write(row: &Row, out: &mut Vec<u8>) {
    write_series(row, out);
    write_point(row, out);
}

/// The beginning, which rows of one series share: all up to the digits of the time.
pub(super) fn write_series(row: &Row, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"field\":");
    jcs::write_str(&row.field, out);
    out.extend_from_slice(b",\"measurement\":");
    jcs::write_str(&row.measurement, out);
    out.extend_from_slice(b",\"tags\":{");
    let mut separator: &[u8] = b"";
    in_jcs_order(
        &row.tags,
        |tag| tag.0.as_ref(),
        |(tag, value)| {
            out.extend_from_slice(separator);
            separator = b",";
            jcs::write_str(tag, out);
            out.push(b':');
            jcs::write_str(value, out);
        },
    );
    out.extend_from_slice(b"},\"time\":\"");
}

/// What follows it.
pub(super) fn write_point(row: &Row, out: &mut Vec<u8>) {
    write_whole(row.time_ns, out);
    out.extend_from_slice(b"\",");
    write_typed(&row.value, out);
    out.push(b'}');
}

/// Appends the canonical form of the `index`-th row of a free query's answer, without its line feed.
pub fn write_result(index: u64, columns: &[(Arc<str>, Cell)], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"columns\":{");
    let mut sorted: Vec<_> = columns.iter().collect();
    sorted.sort_unstable_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
    let mut separator: &[u8] = b"";
    in_jcs_order(
        &sorted,
        |column| column.0.as_ref(),
        |(name, cell)| {
            out.extend_from_slice(separator);
            separator = b",";
            jcs::write_str(name, out);
            out.extend_from_slice(b":{");
            match cell {
                Cell::Time(ns) => {
                    out.extend_from_slice(b"\"type\":\"time\",\"value\":\"");
                    write_whole(*ns, out);
                    out.push(b'"');
                }
                Cell::Value(value) => write_typed(value, out),
            }
            out.push(b'}');
        },
    );
    out.extend_from_slice(b"},\"row\":\"");
    write_whole(index, out);
    out.extend_from_slice(b"\"}");
}

/// Whether members in the order of their names' UTF-8 bytes are in JCS order (of UTF-16 code units) too: the two differ
/// only where characters beyond U+FFFF stand, whose first byte is F0 or more.
fn orders_agree<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.all(|name| name.bytes().all(|byte| byte < 0xf0))
}

/// Visits members that are sorted by the bytes of their names in JCS order.
fn in_jcs_order<T>(members: &[T], name: impl Fn(&T) -> &str, mut visit: impl FnMut(&T)) {
    if orders_agree(members.iter().map(&name)) {
        members.iter().for_each(visit);
    } else {
        let mut sorted: Vec<&T> = members.iter().collect();
        sorted.sort_by(|a, b| name(a).encode_utf16().cmp(name(b).encode_utf16()));
        sorted.into_iter().for_each(&mut visit);
    }
}

/// Appends `"type":…,"value":…`.
fn write_typed(value: &FieldValue, out: &mut Vec<u8>) {
    match value {
        FieldValue::F64(double) => {
            out.extend_from_slice(b"\"type\":\"f64\",\"value\":");
            jcs::write_f64(*double, out);
        }
        FieldValue::I64(whole) => {
            out.extend_from_slice(b"\"type\":\"i64\",\"value\":\"");
            write_whole(*whole, out);
            out.push(b'"');
        }
        FieldValue::U64(whole) => {
            out.extend_from_slice(b"\"type\":\"u64\",\"value\":\"");
            write_whole(*whole, out);
            out.push(b'"');
        }
        FieldValue::Bool(true) => out.extend_from_slice(b"\"type\":\"bool\",\"value\":true"),
        FieldValue::Bool(false) => out.extend_from_slice(b"\"type\":\"bool\",\"value\":false"),
        FieldValue::Str(text) => {
            out.extend_from_slice(b"\"type\":\"str\",\"value\":");
            jcs::write_str(text, out);
        }
    }
}

/// Appends a whole number in decimal digits, without the machinery of `fmt`.
pub(super) fn write_whole(value: impl Into<i128>, out: &mut Vec<u8>) {
    let value: i128 = value.into();
    if value < 0 {
        out.push(b'-');
    }
    let (mut digits, mut at) = ([0; 20], 20);
    // i64 and u64 have at most 19 and 20 digits, and |i64::MIN| is within u64.
    let mut rest = u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX);
    loop {
        at -= 1;
        digits[at] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The order of rows by their keys: time, measurement, tags, field.
pub fn order(a: &Row, b: &Row) -> Ordering {
    a.time_ns.cmp(&b.time_ns).then_with(|| order_of_series(a, b))
}

/// The order of rows of one time.
pub(super) fn order_of_series(a: &Row, b: &Row) -> Ordering {
    (a.measurement.cmp(&b.measurement)).then_with(|| a.tags.cmp(&b.tags)).then_with(|| a.field.cmp(&b.field))
}

/// A total order of values in which those are equal that are written alike: −0 is 0.
pub(super) fn order_of_values(a: &FieldValue, b: &FieldValue) -> Ordering {
    match (a, b) {
        (FieldValue::F64(a), FieldValue::F64(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
        (FieldValue::I64(a), FieldValue::I64(b)) => a.cmp(b),
        (FieldValue::U64(a), FieldValue::U64(b)) => a.cmp(b),
        (FieldValue::Bool(a), FieldValue::Bool(b)) => a.cmp(b),
        (FieldValue::Str(a), FieldValue::Str(b)) => a.cmp(b),
        _ => a.kind().cmp(&b.kind()),
    }
}

/// Why a value cannot stand in a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    #[error("not a finite number, which JSON cannot hold")]
    NotFinite,
    #[error("text with U+FFFD, which stands where something was that is not UTF-8")]
    Replacement,
    #[error("an empty text, which is the same as none")]
    Empty,
    #[error("a tag that is out of order or comes twice")]
    Tags,
    #[error("a column that comes twice")]
    Columns,
}

/// Whether a row can be written. The door to the database leaves empty texts out and counts them; here they are refused.
pub fn check(row: &Row) -> Result<(), Unwritable> {
    if !row.tags.is_sorted_by(|(a, _), (b, _)| a.as_bytes() < b.as_bytes()) {
        return Err(Unwritable::Tags);
    }
    for (tag, value) in row.tags.iter() {
        check_text(tag)?;
        check_text(value)?;
        if value.is_empty() {
            return Err(Unwritable::Empty);
        }
    }
    check_but_tags(row)
}

/// What is left to check of a row that shares its tags with one that was checked.
pub(super) fn check_but_tags(row: &Row) -> Result<(), Unwritable> {
    check_text(&row.field)?;
    check_text(&row.measurement)?;
    check_value(&row.value)
}

/// Whether a row of a free query's answer can be written.
pub fn check_result(columns: &[(Arc<str>, Cell)]) -> Result<(), Unwritable> {
    for (at, (name, cell)) in columns.iter().enumerate() {
        check_text(name)?;
        if columns[..at].iter().any(|(earlier, _)| earlier == name) {
            return Err(Unwritable::Columns);
        }
        if let Cell::Value(value) = cell {
            check_value(value)?;
        }
    }
    Ok(())
}

fn check_value(value: &FieldValue) -> Result<(), Unwritable> {
    match value {
        FieldValue::F64(double) if !double.is_finite() => Err(Unwritable::NotFinite),
        FieldValue::Str(text) if text.is_empty() => Err(Unwritable::Empty),
        FieldValue::Str(text) => check_text(text),
        _ => Ok(()),
    }
}

fn check_text(text: &str) -> Result<(), Unwritable> {
    if text.contains(REPLACEMENT) { Err(Unwritable::Replacement) } else { Ok(()) }
}

/// Which row it is, for a person who looks for it in the database.
pub(super) struct Named<'a>(pub &'a Row);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { time_ns, measurement, tags, field, .. } = self.0;
        write!(f, "field {field:?} of {measurement:?}")?;
        for (tag, value) in tags.iter() {
            write!(f, ", {tag:?}={value:?}")?;
        }
        write!(f, " at {time_ns} ns")
    }
}
