//! What was made or changed through the API, and lies in the store beside the config.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Timestamp;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MadeKind {
    /// Name and target of a meter that the config declares.
    Meter,
    /// A connection to InfluxDB, with its secrets.
    Connection,
    /// A query whose answer becomes a dataset.
    Query,
    /// A kind of alert that is off; one that is on has none.
    AlertRule,
}

impl MadeKind {
    pub const ALL: [Self; 4] = [Self::Meter, Self::Connection, Self::Query, Self::AlertRule];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::Connection => "connection",
            Self::Query => "query",
            Self::AlertRule => "alert_rule",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One of them, as it is now. `value` may bear secrets, so it has no `Debug` of its own.
#[derive(Clone, PartialEq)]
pub struct Made {
    pub kind: MadeKind,
    pub name: String,
    pub value: Value,
    pub changed: Timestamp,
    /// Who changed it last.
    pub by: String,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}
