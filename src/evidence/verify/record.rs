//! The records of opened entries: read strictly, each byte of them.

use serde_json::{Value, json};

use super::strict::{self, Members};
use crate::model::entry::{EntryKind, Reason};
use crate::model::note::{SignedCheckpoint, VerifierKey};
use crate::model::{Block, Digest, JobId, MeterId, Method, SiteId, jcs};

/// What an opened entry committed to.
pub enum Record {
    /// Also a silence.
    Block {
        block: Box<Block>,
        prev: Option<u64>,
    },
    Commissioning {
        meter: MeterId,
        since: i64,
        prev: Option<u64>,
    },
    Dataset {
        id: JobId,
        manifest: Digest,
    },
    Config,
    Audit,
    Key {
        new_key: VerifierKey,
    },
    Succession(Succession),
}

/// Why an epoch was opened, and what is known of the one before.
pub struct Succession {
    pub reason: Reason,
    pub old_origin: Option<Origin>,
    pub last_local: Option<SignedCheckpoint>,
    pub last_outside: Option<SignedCheckpoint>,
}

/// The parts of a log's origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    pub site: SiteId,
    /// 32 hex digits.
    pub gateway: String,
    /// 16 hex digits.
    pub epoch: String,
}

impl Record {
    /// The record of an entry of this kind; otherwise why it is none.
    pub fn read(kind: EntryKind, text: &str) -> Result<Self, String> {
        let bytes = text.as_bytes();
        match kind {
            EntryKind::Block | EntryKind::Silence => read_block(kind, bytes),
            _ => Self::of_value(kind, &strict::value(bytes)?),
        }
        .map_err(|why| format!("the record of this {kind}: {why}"))
    }

    fn of_value(kind: EntryKind, value: &Value) -> Result<Self, String> {
        match kind {
            EntryKind::Commissioning => {
                let members = Members::of(value)?;
                let prev = members.or_null("prev", "an index or null", Value::as_u64)?;
                Ok(Self::Commissioning {
                    meter: members.parsed("meter", "a meter's id")?,
                    since: members.time("since")?,
                    prev,
                })
            }
            EntryKind::Dataset => {
                let members = Members::exactly(value, &["dataset", "manifest_sha256"])?;
                Ok(Self::Dataset {
                    id: members.parsed("dataset", super::proof::JOB)?,
                    manifest: members.digest("manifest_sha256")?,
                })
            }
            EntryKind::Config => {
                let members = Members::exactly(value, &["config_sha256", "program", "subjects"])?;
                members.digest("config_sha256")?;
                let subjects = members.object("subjects")?;
                let is_subject = |(meter, subject): (&String, &Value)| {
                    meter.parse::<MeterId>().is_ok()
                        && subject.as_str().is_some_and(|text| text.parse::<Digest>().is_ok())
                };
                if !subjects.iter().all(is_subject) {
                    return Err("member `subjects`: expected meters' ids with 64 hex digits each".to_owned());
                }
                members.text("program").map(|_| Self::Config)
            }
            EntryKind::Audit => {
                let members = Members::exactly(value, &["action", "by", "detail"])?;
                members.object("detail")?;
                members.text("action").and(members.text("by")).map(|_| Self::Audit)
            }
            EntryKind::Key => {
                let members = Members::exactly(value, &["new_key", "new_origin"])?;
                let new_key: VerifierKey = members.parsed("new_key", "a verifier key")?;
                let new_origin = members.text("new_origin")?;
                if Origin::of(new_origin).is_none() || new_key.name() != new_origin {
                    return Err("member `new_origin`: expected an origin, the name of `new_key`".to_owned());
                }
                Ok(Self::Key { new_key })
            }
            EntryKind::Succession => read_succession(value).map(Self::Succession),
            EntryKind::Block | EntryKind::Silence => Err("a block is read as one".to_owned()),
        }
    }

    /// The meter that it is of, and the index of the entry before of the same.
    pub fn of_meter(&self) -> Option<(&MeterId, Option<u64>)> {
        match self {
            Self::Block { block, prev } => Some((&block.meter, *prev)),
            Self::Commissioning { meter, prev, .. } => Some((meter, *prev)),
            _ => None,
        }
    }
}

/// A block is written again from what was read of it, so that it holds nothing else.
fn read_block(kind: EntryKind, bytes: &[u8]) -> Result<Record, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?;
    let prev = Members::of(&value)?.or_null("prev", "an index or null", Value::as_u64)?;
    let block = Block::from_record(bytes).map_err(|error| error.to_string())?;
    let mut again = block.to_json();
    again["prev"] = json!(prev);
    strict::same(&jcs::to_vec(&again).map_err(|error| error.to_string())?, bytes, 0)?;
    check_coverage(&block)?;
    let silent = block.import.is_none() && block.export.is_none() && block.covered_ms == 0;
    if silent != (kind == EntryKind::Silence) {
        let other = if silent { "has no energy and nothing covered, which is a silence" } else { "is no silence" };
        return Err(format!("it {other}"));
    }
    Ok(Record::Block { block: Box::new(block), prev })
}

/// What is covered lies in the block, and `coverage` is its share; a sum has the least of its parts.
fn check_coverage(block: &Block) -> Result<(), String> {
    let (covered, length) = (i128::from(block.covered_ms), i128::from(block.span.millis()));
    if !(0..=length).contains(&covered) {
        return Err(format!("member `covered_ms`: found {covered}, expected 0 to {length}"));
    }
    let (found, expected) = (i128::from(block.coverage), covered * 10_000 / length);
    let known = if block.method == Method::Sum { found <= 10_000 } else { found == expected };
    if !known {
        return Err(format!("member `coverage`: found {found}, expected {expected}, by covered_ms"));
    }
    Ok(())
}

fn read_succession(value: &Value) -> Result<Succession, String> {
    let members = Members::exactly(value, &["last_local", "last_outside", "old_origin", "reason"])?;
    let checkpoint = |name| {
        let read = |value: &Value| read_note(value.as_str()?).ok();
        members.or_null(name, "a signed checkpoint or null", read)
    };
    let reason = members.text("reason")?;
    let succession = Succession {
        reason: Reason::named(reason).ok_or_else(|| format!("the reason `{}` is not known", reason.escape_debug()))?,
        old_origin: members.or_null("old_origin", "an origin or null", |value| Origin::of(value.as_str()?))?,
        last_local: checkpoint("last_local")?,
        last_outside: checkpoint("last_outside")?,
    };
    let first = succession.reason == Reason::Init;
    if first != succession.old_origin.is_none() {
        return Err("an old origin stands in it if and only if there was an epoch before".to_owned());
    }
    if first && (succession.last_local.is_some() || succession.last_outside.is_some()) {
        return Err("the first epoch comes after no checkpoint".to_owned());
    }
    Ok(succession)
}

/// A signed checkpoint in its one form.
pub fn read_note(text: &str) -> Result<SignedCheckpoint, String> {
    let signed: SignedCheckpoint = text.parse().map_err(|error: crate::model::note::BadNote| error.to_string())?;
    if signed.note() != text {
        return Err("the checkpoint is not written as it must be".to_owned());
    }
    if signed.checkpoint.size == 0 {
        return Err("the checkpoint is of an empty log, and every log has a first entry".to_owned());
    }
    Ok(signed)
}

impl Origin {
    /// `None` where it is not `<site>/<gateway>/<epoch>`.
    pub fn of(text: &str) -> Option<Self> {
        let is_hex = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
        let mut parts = text.split('/');
        let (site, gateway, epoch) = (parts.next()?, parts.next()?, parts.next()?);
        let formed =
            parts.next().is_none() && gateway.len() == 32 && epoch.len() == 16 && is_hex(gateway) && is_hex(epoch);
        formed.then_some(())?;
        Some(Self { site: site.parse().ok()?, gateway: gateway.to_owned(), epoch: epoch.to_owned() })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.site, self.gateway, self.epoch)
    }
}
