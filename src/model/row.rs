//! Rows of a dataset: single values of points as a historian keeps them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What kind of value a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    F64,
    I64,
    U64,
    Bool,
    Str,
}

impl FieldType {
    pub const ALL: [Self; 5] = [Self::F64, Self::I64, Self::U64, Self::Bool, Self::Str];

    /// As it stands in rows and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::Bool => "bool",
            Self::Str => "str",
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One value. A double is finite, a string is not empty and holds no U+FFFD.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    F64(f64),
    I64(i64),
    U64(u64),
    Bool(bool),
    Str(Box<str>),
}

impl FieldValue {
    pub fn kind(&self) -> FieldType {
        match self {
            Self::F64(_) => FieldType::F64,
            Self::I64(_) => FieldType::I64,
            Self::U64(_) => FieldType::U64,
            Self::Bool(_) => FieldType::Bool,
            Self::Str(_) => FieldType::Str,
        }
    }
}

/// Tags and their values, sorted by the bytes of the tag; none is empty.
pub type Tags = Arc<[(Box<str>, Box<str>)]>;

/// The value of one field of one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub time_ns: i64,
    pub measurement: Arc<str>,
    pub tags: Tags,
    pub field: Arc<str>,
    pub value: FieldValue,
}

/// A value of a free query's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// ns since 1970, UTC.
    Time(i64),
    Value(FieldValue),
}

/// A row of a free query's answer: its columns, without those that have no value. No name comes twice.
pub type ResultRow = Vec<(Arc<str>, Cell)>;
