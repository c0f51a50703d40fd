//! What a verification comes to: the links of the chain that hold, what is missing, and what is refused, where.

use std::fmt;

use serde_json::{Map, Value, json};

/// How sure one may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All of it holds, pinned and anchored.
    Valid,
    /// Something does not hold.
    Invalid,
    /// It cannot be read, or is none of the things that can be verified.
    Unreadable,
    /// All of it holds, but something outside is missing to rely on it.
    Incomplete,
}

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Unreadable => 2,
            Self::Incomplete => 3,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Unreadable => "unreadable",
            Self::Incomplete => "incomplete",
        }
    }
}

/// Why something is refused: the file, the place in it, and what was found there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Refused {
    pub file: String,
    /// Such as `row 12` or `log section 1, leaf 7`; empty for the whole file.
    pub place: String,
    /// What was found and what was expected.
    pub why: String,
    /// It was never a matter of truth: it cannot be read, or is of no known kind.
    pub unreadable: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comma = if self.place.is_empty() { "" } else { ", " };
        write!(f, "{}{comma}{}: {}", self.file, self.place, self.why)
    }
}

impl Refused {
    pub fn new(file: impl Into<String>, place: impl Into<String>, why: impl Into<String>) -> Self {
        Self { file: file.into(), place: place.into(), why: why.into(), unreadable: false }
    }

    pub fn unreadable(file: impl Into<String>, why: impl Into<String>) -> Self {
        Self { unreadable: true, ..Self::new(file, "", why) }
    }

    /// What was found, and what was expected in its place.
    pub fn other(
        file: impl Into<String>,
        place: impl Into<String>,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self::new(file, place, format!("found {found}, expected {expected}"))
    }
}

/// One link of the chain from what is shown to what one trusts.
#[derive(Clone, Debug)]
pub struct Link {
    pub name: &'static str,
    /// `None` where it cannot be told: something outside is missing.
    pub holds: Option<bool>,
    /// What was found, a line each.
    pub told: Vec<String>,
    /// What it shows and what it does not, as `docs/trust.md` says.
    pub shows: &'static str,
}

/// What keeps a proof that holds from being one to rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lack {
    NoProof,
    NoKey,
    /// The key that was given came later than the first section.
    LaterKey,
    NotAnchored,
    Simulated,
    /// So many blocks of a period begin within others that have energy, as they have.
    Overlap(usize),
}

impl Lack {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoProof => "no_proof",
            Self::NoKey => "no_key",
            Self::LaterKey => "later_key",
            Self::NotAnchored => "not_anchored",
            Self::Simulated => "simulated",
            Self::Overlap(_) => "overlap",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoProof => "no proof lies beside the bundle, so nothing says whose it is",
            Self::NoKey => "no key was given: whoever made this could have made the key too (--key)",
            Self::LaterKey => "its first part was signed before the key that was given",
            Self::NotAnchored => "it is not anchored: nothing outside the plant says since when it has been so",
            Self::Simulated => "the data are simulated",
            Self::Overlap(1) => "1 block overlaps others: its energy is counted twice in the sum",
            Self::Overlap(count) => {
                return write!(f, "{count} blocks overlap others: their energy is counted twice in the sum");
            }
        })
    }
}

/// What was looked at, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Such as `dataset` or `period`; empty while it is not known.
    pub what: &'static str,
    pub links: Vec<Link>,
    pub lacks: Vec<Lack>,
    pub refused: Option<Refused>,
    /// All that was found, for a script.
    pub facts: Map<String, Value>,
}

impl Report {
    pub fn verdict(&self) -> Verdict {
        match &self.refused {
            Some(refused) if refused.unreadable => Verdict::Unreadable,
            Some(_) => Verdict::Invalid,
            None if self.lacks.is_empty() => Verdict::Valid,
            None => Verdict::Incomplete,
        }
    }

    /// A link that holds.
    pub(super) fn holds(&mut self, name: &'static str, told: Vec<String>, shows: &'static str) {
        self.links.push(Link { name, holds: Some(true), told, shows });
    }

    /// A link of which nothing can be said.
    pub(super) fn open(&mut self, name: &'static str, told: Vec<String>, shows: &'static str) {
        self.links.push(Link { name, holds: None, told, shows });
    }

    pub(super) fn lacks(&mut self, lack: Lack) {
        if !self.lacks.contains(&lack) {
            self.lacks.push(lack);
        }
    }

    pub(super) fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    pub fn to_json(&self) -> Value {
        let holds = |link: &Link| match link.holds {
            Some(true) => "holds",
            Some(false) => "fails",
            None => "open",
        };
        let link = |link: &Link| json!({ "name": link.name, "state": holds(link), "told": link.told });
        let refused = self
            .refused
            .as_ref()
            .map(|refused| json!({ "file": refused.file, "place": refused.place, "why": refused.why }));
        json!({
            "verdict": self.verdict().as_str(),
            "exit_code": self.verdict().exit_code(),
            "what": (!self.what.is_empty()).then_some(self.what),
            "lacks": self.lacks.iter().map(|lack| lack.as_str()).collect::<Vec<_>>(),
            "links": self.links.iter().map(link).collect::<Vec<_>>(),
            "refused": refused,
            "facts": self.facts,
        })
    }
}
