//! Times and single values as servers write them. Pure.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::InfluxError;
use crate::model::{Cell, FieldType, FieldValue};

/// ns since 1970 as `2026-01-01T00:00:00.000000000Z`.
pub fn written(time_ns: i64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or_default();
    format!("{time:.9}")
}

/// A time with a zone (RFC 3339), or, as version 3 writes it, without one: UTC.
pub fn time_ns(text: &str) -> Option<i64> {
    let time = match text.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) => text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp(),
    };
    i64::try_from(time.as_nanosecond()).ok()
}

/// A single value of JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(Box<str>),
}

impl Scalar {
    /// As a value of this type; `None` for no value, an error for one of another type.
    pub fn into_value(self, kind: FieldType) -> Result<Option<FieldValue>, &'static str> {
        Ok(Some(match (kind, self) {
            (_, Self::Null) => return Ok(None),
            (FieldType::F64, Self::F64(number)) => FieldValue::F64(number),
            // A double without a fraction is written like a whole number.
            (FieldType::F64, Self::I64(number)) => FieldValue::F64(number as f64),
            (FieldType::F64, Self::U64(number)) => FieldValue::F64(number as f64),
            (FieldType::I64, Self::I64(number)) => FieldValue::I64(number),
            (FieldType::U64, Self::U64(number)) => FieldValue::U64(number),
            (FieldType::U64, Self::I64(number)) => {
                FieldValue::U64(u64::try_from(number).map_err(|_| "a negative number")?)
            }
            (FieldType::Bool, Self::Bool(value)) => FieldValue::Bool(value),
            (FieldType::Str, Self::Str(text)) => FieldValue::Str(text),
            (_, other) => return Err(other.kind()),
        }))
    }

    /// As a cell of a free query. JSON does not tell a double without a fraction from a whole number: a number is a
    /// double wherever that says it exactly.
    pub fn into_cell(self) -> Option<Cell> {
        const EXACT: u64 = 1 << 53;
        Some(Cell::Value(match self {
            Self::Null => return None,
            Self::Bool(value) => FieldValue::Bool(value),
            Self::I64(number) if number.unsigned_abs() <= EXACT => FieldValue::F64(number as f64),
            Self::I64(number) => FieldValue::I64(number),
            Self::U64(number) => FieldValue::U64(number),
            Self::F64(number) => FieldValue::F64(number),
            Self::Str(text) => FieldValue::Str(text),
        }))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::I64(_) | Self::U64(_) => "a whole number",
            Self::F64(_) => "a number",
            Self::Str(_) => "a string",
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;

        impl Visitor<'_> for One {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value")
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::I64(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(i64::try_from(value).map_or(Scalar::U64(value), Scalar::I64))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::F64(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Str(value.into()))
            }
        }

        deserializer.deserialize_any(One)
    }
}

/// Cuts a stream at its line feeds.
pub struct Lines {
    connection: String,
    begun: Vec<u8>,
}

/// What one line may hold: a string is at most 64 KB, and answers are asked for in pieces of few strings.
const LONGEST_LINE: usize = 64 << 20;

impl Lines {
    pub fn new(connection: &str) -> Self {
        Self { connection: connection.to_owned(), begun: Vec::new() }
    }

    /// Calls `take` with each line that ends within `bytes`.
    pub fn feed<E: From<InfluxError>>(
        &mut self,
        mut bytes: &[u8],
        take: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            if self.begun.is_empty() {
                take(&bytes[..end])?;
            } else {
                self.begun.extend_from_slice(&bytes[..end]);
                let line = std::mem::take(&mut self.begun);
                take(&line)?;
            }
            bytes = &bytes[end + 1..];
        }
        if self.begun.len() + bytes.len() > LONGEST_LINE {
            let why = format!("the answer has a line of more than {} MiB; is this InfluxDB?", LONGEST_LINE >> 20);
            return Err(InfluxError::wrong(&self.connection, why).into());
        }
        self.begun.extend_from_slice(bytes);
        Ok(())
    }

    /// What came after the last line feed.
    pub fn rest(self) -> Vec<u8> {
        self.begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_read_with_and_without_a_zone() {
        const T: i64 = 1_795_219_200_000_000_000;
        for (text, ns) in [
            ("2026-11-21T00:00:00Z", T),
            ("2026-11-21T08:00:00+08:00", T),
            ("2026-11-21T00:00:00.000000001Z", T + 1),
            ("2026-11-21T00:00:00", T),
            ("2026-11-21T00:00:00.1", T + 100_000_000),
            ("1969-12-31T23:59:59.999999999", -1),
        ] {
            assert_eq!(time_ns(text), Some(ns), "{text}");
        }
        // The last is beyond 64 bits.
        for bad in ["", "now", "2026-13-01T00:00:00Z", "2300-01-01T00:00:00Z"] {
            assert_eq!(time_ns(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_time_that_is_written_reads_back(ns in any::<i64>()) {
            prop_assert_eq!(time_ns(&written(ns)), Some(ns));
            prop_assert_eq!(time_ns(written(ns).trim_end_matches('Z')), Some(ns));
        }

        #[test]
        fn a_number_of_json_is_exact(double in any::<f64>(), signed in any::<i64>(), unsigned in any::<u64>()) {
            let read = |text: String| serde_json::from_str::<Scalar>(&text).unwrap();
            prop_assume!(double.is_finite());
            for text in [format!("{double:?}"), format!("{double:e}"), double.to_string()] {
                let value = read(text).into_value(FieldType::F64).unwrap();
                prop_assert_eq!(value, Some(FieldValue::F64(double)));
            }
            prop_assert_eq!(read(signed.to_string()).into_value(FieldType::I64), Ok(Some(FieldValue::I64(signed))));
            let wanted = Ok(Some(FieldValue::U64(unsigned)));
            prop_assert_eq!(read(unsigned.to_string()).into_value(FieldType::U64), wanted);
        }
    }

    #[test]
    fn a_value_of_another_type_is_none_of_its_field() {
        let read = |text: &str| serde_json::from_str::<Scalar>(text).unwrap();
        for (kind, bad) in [
            (FieldType::F64, "\"1\""),
            (FieldType::I64, "1.5"),
            (FieldType::I64, "9223372036854775808"),
            (FieldType::U64, "-1"),
            (FieldType::Bool, "1"),
            (FieldType::Str, "1"),
        ] {
            assert!(read(bad).into_value(kind).is_err(), "{bad} as {kind}");
            assert_eq!(read("null").into_value(kind), Ok(None));
        }
    }
}
