//! The manifest of a bundle: canonical JSON and back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::part::{self, PartFacts};
use super::slice::Absent;
use crate::model::jcs::{self, NotCanonical};
use crate::model::{Digest, FieldType, JobId, SiteId};

pub const FILE: &str = "manifest.json";
pub const FORMAT: &str = "meterseal-dataset-1";
/// What a connection is of.
pub const INFLUXDB: &str = "influxdb";

/// What a bundle says of itself. Every member is in docs/evidence-format.md section 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub absent: Absent,
    pub bytes: u64,
    pub connection: Server,
    pub fields: BTreeMap<String, FieldType>,
    pub format: String,
    #[serde(rename = "from", with = "nanoseconds")]
    pub from_ns: i64,
    pub gateway: String,
    pub id: JobId,
    pub kind: Kind,
    pub parts: Vec<PartFacts>,
    pub program: String,
    pub query: Query,
    pub repeated: u64,
    pub root: Digest,
    pub rows: u64,
    pub site: SiteId,
    #[serde(rename = "to", with = "nanoseconds")]
    pub to_ns: i64,
    pub windows: Vec<Window>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Raw points: the same rows from every version of the database.
    Points,
    /// The answer to a free query.
    Result,
}

/// The database that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub kind: String,
    pub name: String,
    pub server_version: String,
    pub version: u8,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Query {
    Points(PointsQuery),
    Result(ResultQuery),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointsQuery {
    /// Sorted; all of them when empty.
    pub fields: Vec<String>,
    pub measurement: String,
    pub name: String,
    /// Points that bear all of these.
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultQuery {
    pub name: String,
    pub text: String,
}

/// A slice as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    #[serde(rename = "from", with = "nanoseconds")]
    pub from_ns: i64,
    /// When the answer was whole: ms since 1970.
    #[serde(rename = "read")]
    pub read_ms: u64,
    pub rows: u64,
    #[serde(rename = "to", with = "nanoseconds")]
    pub to_ns: i64,
}

/// A text that is no manifest, or one that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    #[error("not the JSON of a manifest: {0}")]
    Json(String),
    #[error("not canonical JSON: written anew it differs at byte {0}")]
    NotCanonical(usize),
    #[error("`{member}`: {what}")]
    Member { member: String, what: &'static str },
}

impl Manifest {
    /// The bytes of `manifest.json`.
    pub fn to_bytes(&self) -> Result<Vec<u8>, NotCanonical> {
        // A struct of texts and whole numbers is always a JSON value; were it not, the text would say why.
        let value = serde_json::to_value(self).map_err(|error| NotCanonical::TooWide(error.to_string()))?;
        jcs::to_vec(&value)
    }

    /// The manifest of these bytes, if they are canonical and it agrees with itself. What it says of the rows is to be
    /// checked against them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadManifest> {
        Self::with_parts_of(part::ROWS, bytes)
    }

    /// As [`from_bytes`](Self::from_bytes), of a bundle with parts of another length.
    pub fn with_parts_of(rows: u64, bytes: &[u8]) -> Result<Self, BadManifest> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| BadManifest::Json(error.to_string()))?;
        let again = manifest.to_bytes().map_err(|error| BadManifest::Json(error.to_string()))?;
        if again != bytes {
            let same = again.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            return Err(BadManifest::NotCanonical(same));
        }
        manifest.check(rows)?;
        Ok(manifest)
    }

    pub fn sha256(&self) -> Result<Digest, NotCanonical> {
        Ok(Digest::of(&self.to_bytes()?))
    }

    pub(super) fn check(&self, rows_per_part: u64) -> Result<(), BadManifest> {
        let fault = |member: &str, what| Err(BadManifest::Member { member: member.to_owned(), what });
        if self.format != FORMAT {
            return fault("format", "not a format that this program knows");
        }
        if self.connection.kind != INFLUXDB || !(1..=3).contains(&self.connection.version) {
            return fault("connection", "not a database that this program knows");
        }
        if self.gateway.len() != 32 || !self.gateway.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return fault("gateway", "not 32 hex digits");
        }
        if self.from_ns >= self.to_ns {
            return fault("to", "does not come after `from`");
        }
        match (self.kind, &self.query) {
            (Kind::Points, Query::Points(query)) => {
                if !query.fields.is_sorted_by(|a, b| a < b) {
                    return fault("query.fields", "not sorted, or one comes twice");
                }
                if self.fields.is_empty() {
                    return fault("fields", "empty, and a dataset has at least one row");
                }
            }
            (Kind::Result, Query::Result(_)) => {
                if !self.fields.is_empty() {
                    return fault("fields", "not empty, and a result has none");
                }
                if self.windows.len() != 1 {
                    return fault("windows", "a result has one");
                }
            }
            _ => return fault("query", "not of the kind that `kind` says"),
        }
        self.check_windows()?;
        self.check_parts(rows_per_part)
    }

    fn check_windows(&self) -> Result<(), BadManifest> {
        let fault = |at, what| Err(BadManifest::Member { member: format!("windows[{at}]"), what });
        let (mut next, mut rows) = (self.from_ns, 0_u64);
        for (at, window) in self.windows.iter().enumerate() {
            if window.from_ns != next {
                return fault(at, "does not begin where the one before it ends");
            }
            if window.from_ns >= window.to_ns {
                return fault(at, "ends before it begins");
            }
            next = window.to_ns;
            rows = rows.saturating_add(window.rows);
        }
        if next != self.to_ns {
            return fault(self.windows.len(), "missing: the windows end before `to`, or beyond it");
        }
        if rows != self.rows {
            return Err(BadManifest::Member { member: "rows".to_owned(), what: "not the sum of those of the windows" });
        }
        Ok(())
    }

    fn check_parts(&self, rows_per_part: u64) -> Result<(), BadManifest> {
        let fault = |at, what| Err(BadManifest::Member { member: format!("parts[{at}]"), what });
        let (mut rows, mut bytes) = (0_u64, 0_u64);
        for (at, part) in self.parts.iter().enumerate() {
            if part.name != part::name(at) {
                return fault(at, "not named by its place");
            }
            let is_last = at + 1 == self.parts.len();
            if if is_last { !(1..=rows_per_part).contains(&part.rows) } else { part.rows != rows_per_part } {
                return fault(at, "not of the number of rows that parts have");
            }
            rows = rows.saturating_add(part.rows);
            bytes = bytes.saturating_add(part.raw_bytes);
        }
        let fault = |member: &str, what| Err(BadManifest::Member { member: member.to_owned(), what });
        if self.parts.is_empty() {
            return fault("parts", "empty, and a dataset has at least one row");
        }
        if rows != self.rows {
            return fault("rows", "not the sum of those of the parts");
        }
        if bytes != self.bytes {
            return fault("bytes", "not the sum of those of the parts");
        }
        Ok(())
    }
}

/// Nanoseconds as decimal strings, as they are beyond 2^53.
mod nanoseconds {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
    pub fn serialize<S: Serializer>(ns: &i64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(ns)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| D::Error::custom("not nanoseconds as a decimal string"))
    }
}
