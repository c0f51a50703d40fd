//! What all versions promise of a row, checked in one place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::text::written;
use super::{InfluxError, Schema, Selection};
use crate::model::{Cell, FieldType, FieldValue, ResultRow, Row, Tags};

/// What a read gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub rows: u64,
    /// Values that are the empty string: absent.
    pub empty_strings: u64,
    /// Tags whose value is the empty string, in the rows given: absent. Version 1 writes so a tag that a point does not
    /// have; those are not counted.
    pub empty_tags: u64,
}

/// The rows of one slice.
pub struct Points {
    pub connection: String,
    pub measurement: Arc<str>,
    fields: BTreeMap<Arc<str>, FieldType>,
    slice: Range<i64>,
    pub read: Read,
}

/// The tags of a series, made once for all its rows.
#[derive(Clone)]
pub struct Series {
    pub tags: Tags,
    pub empty: u64,
}

impl Series {
    /// From tags in any order; those that are empty are left out.
    pub fn new<'t>(tags: impl Iterator<Item = (&'t str, &'t str)>) -> Self {
        let (mut kept, mut empty) = (Vec::<(Box<str>, Box<str>)>::new(), 0);
        for (tag, value) in tags {
            if value.is_empty() {
                empty += 1;
            } else {
                kept.push((tag.into(), value.into()));
            }
        }
        kept.sort();
        Self { tags: kept.into(), empty }
    }
}

/// What stands in a row, for an error: measurement, tags and field.
struct At<'a>(&'a str, &'a Tags, &'a str, i64);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(measurement, tags, field, time) = self;
        write!(f, "{measurement}")?;
        for (tag, value) in tags.iter() {
            write!(f, ",{tag}={value}")?;
        }
        write!(f, " {field} at {}", written(*time))
    }
}

impl Points {
    pub fn new(connection: &str, selection: &Selection, schema: &Schema, slice: Range<i64>) -> Self {
        Self {
            connection: connection.to_owned(),
            measurement: selection.measurement.as_str().into(),
            fields: schema.fields.clone(),
            slice,
            read: Read::default(),
        }
    }

    /// The name and type of a field.
    pub fn field(&self, name: &str) -> Result<(Arc<str>, FieldType), InfluxError> {
        match self.fields.get_key_value(name) {
            Some((name, kind)) => Ok((name.clone(), *kind)),
            None => {
                let why = format!(
                    "{} has a field {name} that it did not have when the types were read; begin the export again",
                    self.measurement
                );
                Err(InfluxError::bad(&self.connection, why))
            }
        }
    }

    /// A value that is not what its field is.
    pub fn mistyped(&self, series: &Series, field: &str, time_ns: i64, found: &str, wanted: FieldType) -> InfluxError {
        let at = At(&self.measurement, &series.tags, field, time_ns);
        let mend = "leave the field out with `fields`, or export the time before and after apart";
        let why = format!("{at} is {found}, and elsewhere the field is {wanted}; {mend}");
        InfluxError::bad(&self.connection, why)
    }

    /// Hands out one value; one that is absent is counted, one that may not be refuses the export.
    pub fn give<E: From<InfluxError>>(
        &mut self,
        time_ns: i64,
        series: &Series,
        field: &Arc<str>,
        value: FieldValue,
        sink: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let bad = |what: &str| {
            let at = At(&self.measurement, &series.tags, field, time_ns);
            E::from(InfluxError::bad(&self.connection, format!("{at} {what}")))
        };
        if !self.slice.contains(&time_ns) {
            let at = At(&self.measurement, &series.tags, field, time_ns);
            let why = format!("{at} is outside of the time that was asked for; is there a cache in between?");
            return Err(InfluxError::wrong(&self.connection, why).into());
        }
        match &value {
            FieldValue::F64(number) if !number.is_finite() => {
                return Err(bad(&format!("is {number}, which no dataset can hold; correct or delete that point")));
            }
            FieldValue::Str(text) if text.is_empty() => {
                self.read.empty_strings += 1;
                return Ok(());
            }
            FieldValue::Str(text) if text.contains('\u{fffd}') => return Err(bad(REPLACED)),
            _ => {}
        }
        if series.tags.iter().any(|(tag, value)| tag.contains('\u{fffd}') || value.contains('\u{fffd}'))
            || field.contains('\u{fffd}')
        {
            return Err(bad(REPLACED));
        }
        self.read.rows += 1;
        self.read.empty_tags += series.empty;
        let (tags, measurement) = (series.tags.clone(), self.measurement.clone());
        sink(Row { time_ns, measurement, tags, field: field.clone(), value })
    }
}

const REPLACED: &str = "holds U+FFFD, which stands for bytes that are no UTF-8; correct or delete that point";

/// Hands out a row of a free query, without what is absent.
pub fn give_result<E: From<InfluxError>>(
    connection: &str,
    mut columns: ResultRow,
    read: &mut Read,
    sink: &mut impl FnMut(ResultRow) -> Result<(), E>,
) -> Result<(), E> {
    let bad = |name: &str, what: &str| {
        let why = format!("column {name} of row {} {what}", read.rows);
        Err(InfluxError::bad(connection, why).into())
    };
    let mut names: Vec<_> = columns.iter().map(|(name, _)| name).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let why = format!("the answer has two columns {}; give one another name in the query", twice[0]);
        return Err(InfluxError::wrong(connection, why).into());
    }
    let mut empty = 0;
    for (name, cell) in &columns {
        match cell {
            Cell::Value(FieldValue::F64(number)) if !number.is_finite() => {
                return bad(name, &format!("is {number}, which no dataset can hold; leave it out in the query"));
            }
            Cell::Value(FieldValue::Str(text)) if text.is_empty() => empty += 1,
            Cell::Value(FieldValue::Str(text)) if text.contains('\u{fffd}') => return bad(name, REPLACED),
            _ if name.contains('\u{fffd}') => return bad(name, REPLACED),
            _ => {}
        }
    }
    if empty > 0 {
        columns.retain(|(_, cell)| !matches!(cell, Cell::Value(FieldValue::Str(text)) if text.is_empty()));
    }
    read.empty_strings += empty;
    read.rows += 1;
    sink(columns)
}
