//! Entries of the evidence log: what is public of a record, and what opens it. docs/evidence-format.md section 4.

use std::fmt;

use serde_json::{Value, json};

use super::jcs::{self, NotCanonical};
use super::{Block, Digest, MeterId, Timestamp, merkle};

/// What an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryKind {
    Block,
    Silence,
    Dataset,
    Config,
    Commissioning,
    Audit,
    Key,
    Succession,
}

impl EntryKind {
    pub const ALL: [Self; 8] = [
        Self::Block,
        Self::Silence,
        Self::Dataset,
        Self::Config,
        Self::Commissioning,
        Self::Audit,
        Self::Key,
        Self::Succession,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Silence => "silence",
            Self::Dataset => "dataset",
            Self::Config => "config",
            Self::Commissioning => "commissioning",
            Self::Audit => "audit",
            Self::Key => "key",
            Self::Succession => "succession",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The kind of a block's entry: a silence is a block of which nothing is known.
    pub fn of(block: &Block) -> Self {
        let is_silent = block.import.is_none() && block.export.is_none() && block.covered_ms == 0;
        if is_silent { Self::Silence } else { Self::Block }
    }

    /// Whether its record is of a meter, and so bears `meter` and `prev`.
    pub fn is_of_a_meter(self) -> bool {
        matches!(self, Self::Block | Self::Silence | Self::Commissioning)
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 32 random bytes, without which a commitment tells nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

impl Salt {
    /// Those of 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        // A salt is written as a digest is.
        text.parse::<Digest>().ok().map(|bytes| Self(*bytes.as_bytes()))
    }

    pub fn to_hex(self) -> String {
        Digest::from_bytes(self.0).to_string()
    }
}

/// The public face of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub kind: EntryKind,
    /// When it was written.
    pub time: Timestamp,
    /// The meter that it is of, as only those can tell who know the meter's salt.
    pub subject: Option<Digest>,
    pub commit: Digest,
}

impl Entry {
    /// The leaf's data: JCS, written straight since its members are few and in order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let subject = self.subject.map_or_else(|| "null".to_owned(), |subject| format!("\"{subject}\""));
        let (commit, kind, time) = (self.commit, self.kind, self.time.as_millis());
        format!(r#"{{"commit":"{commit}","kind":"{kind}","subject":{subject},"time":{time},"v":1}}"#).into_bytes()
    }

    /// The entry of a leaf's data; `None` for anything that is not exactly as [`to_bytes`](Self::to_bytes) writes it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let entry = Self {
            kind: EntryKind::named(value["kind"].as_str()?)?,
            time: Timestamp::from_millis(value["time"].as_i64()?),
            subject: match &value["subject"] {
                Value::Null => None,
                subject => Some(subject.as_str()?.parse().ok()?),
            },
            commit: value["commit"].as_str()?.parse().ok()?,
        };
        (entry.to_bytes() == bytes).then_some(entry)
    }

    pub fn leaf_hash(&self) -> Digest {
        merkle::leaf(&self.to_bytes())
    }
}

/// What an entry commits to.
pub fn commit(salt: &Salt, record: &[u8]) -> Digest {
    Digest::of_parts(&[&salt.0, record])
}

/// A meter's name in one epoch of the log.
pub fn subject(salt: &Salt, meter: &MeterId) -> Digest {
    Digest::of_parts(&[&salt.0, meter.as_str().as_bytes()])
}

/// The log's origin, which is also the name of the key that signs it.
pub fn origin(site: &str, gateway: &str, epoch: &str) -> String {
    format!("{site}/{gateway}/{epoch}")
}

/// Why an epoch was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    Init,
    KeyRotation,
    Site,
    Restore,
    Rollback,
    Clone,
}

impl Reason {
    pub const ALL: [Self; 6] = [Self::Init, Self::KeyRotation, Self::Site, Self::Restore, Self::Rollback, Self::Clone];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::KeyRotation => "key-rotation",
            Self::Site => "site",
            Self::Restore => "restore",
            Self::Rollback => "rollback",
            Self::Clone => "clone",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// The record of a `succession`; checkpoints are signed notes.
pub fn succession(
    reason: Reason,
    old_origin: Option<&str>,
    last_local: Option<&str>,
    last_outside: Option<&str>,
) -> Value {
    json!({
        "last_local": last_local, "last_outside": last_outside, "old_origin": old_origin, "reason": reason.as_str(),
    })
}

/// A record of a meter as it is committed to: with the index of the entry before it of the same meter.
pub fn with_prev(mut record: Value, prev: Option<u64>) -> Result<Vec<u8>, NotCanonical> {
    record["prev"] = json!(prev);
    jcs::to_vec(&record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_written_in_one_way_only() {
        let salt = Salt([7; 32]);
        let meter: MeterId = "main-incomer".parse().unwrap();
        for subject in [None, Some(subject(&salt, &meter))] {
            let entry = Entry {
                kind: EntryKind::Block,
                time: Timestamp::from_millis(1_767_225_610_000),
                subject,
                commit: commit(&salt, b"{}"),
            };
            let bytes = entry.to_bytes();
            assert_eq!(jcs::to_vec(&serde_json::from_slice(&bytes).unwrap()).unwrap(), bytes);
            assert_eq!(Entry::from_bytes(&bytes), Some(entry));
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                if let Some(other) = Entry::from_bytes(&changed) {
                    assert_ne!(other.leaf_hash(), entry.leaf_hash(), "bit {bit}");
                }
            }
            assert_eq!(Entry::from_bytes(&[&bytes[..], b"\n"].concat()), None);
            assert_eq!(Entry::from_bytes(&[b" ", &bytes[..]].concat()), None);
        }
    }

    #[test]
    fn names_read_back() {
        assert!(EntryKind::ALL.into_iter().all(|kind| EntryKind::named(kind.as_str()) == Some(kind)));
        assert!(Reason::ALL.into_iter().all(|reason| Reason::named(reason.as_str()) == Some(reason)));
        assert_eq!(Salt::from_hex(&Salt([9; 32]).to_hex()).map(|salt| salt.0), Some([9; 32]));
    }
}
