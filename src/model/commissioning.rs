//! Commissioning records: which meter stood behind an id, and how it was set up, from when on.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::jcs::{self, NotCanonical};
use super::{Category, Digest, Identity, LineName, MeterId, Ratio, Timestamp};

/// How a meter is set up: all of the config that says where it is and what its numbers mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    pub line: LineName,
    /// How the line is reached, as a person reads it.
    pub wire: String,
    pub unit: u8,
    /// `None` where the registers stand in the config itself.
    pub template: Option<String>,
    /// Of the template's canonical form.
    pub template_sha256: Digest,
    pub ct_ratio: Ratio,
    pub vt_ratio: Ratio,
    pub invert: bool,
    pub category: Category,
}

/// What is known of a meter from `since` on. Nothing of it is ever overwritten: a change is the next record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commissioning {
    pub meter: MeterId,
    pub since: Timestamp,
    #[serde(flatten)]
    pub setup: Setup,
    /// What the meter has said of itself; what it once said and now keeps to itself stays.
    pub identity: Option<Identity>,
    pub cause: Cause,
    /// What differs from the record before; empty for the first one.
    pub changes: Vec<Change>,
}

impl Commissioning {
    /// The record as canonical JSON: the bytes that are hashed.
    pub fn to_record(&self) -> Result<Vec<u8>, NotCanonical> {
        jcs::to_vec(&json!(self))
    }
}

/// Why there is a new record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The meter was heard for the first time.
    First,
    /// It said more of itself.
    Completed,
    /// A person changed the config.
    Configured,
    /// Something changed that nobody announced.
    Changed,
    /// Such a change was taken back.
    Restored,
}

/// One thing that a record has otherwise than the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub what: Part,
    pub from: Option<String>,
    pub to: Option<String>,
    /// Nobody announced it.
    pub silent: bool,
}

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Line,
    Wire,
    Unit,
    Template,
    TemplateSha256,
    CtRatio,
    VtRatio,
    Invert,
    Category,
    Manufacturer,
    Model,
    SerialNumber,
    Firmware,
    SunspecModels,
}

/// As a person calls it.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "line",
            Self::Wire => "address of the line",
            Self::Unit => "unit",
            Self::Template => "template",
            Self::TemplateSha256 => "register map",
            Self::CtRatio => "current transformers",
            Self::VtRatio => "voltage transformers",
            Self::Invert => "direction",
            Self::Category => "category",
            Self::Manufacturer => "maker",
            Self::Model => "model",
            Self::SerialNumber => "serial number",
            Self::Firmware => "firmware",
            Self::SunspecModels => "list of SunSpec models",
        })
    }
}
