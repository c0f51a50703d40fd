//! What a verification comes to: the links of the chain that hold, what is missing, and what is refused, where.

use std::fmt;

use alloy_primitives::B256;
use serde_json::{Map, Value, json};

use crate::evidence::evm::Shown;

const SHOWS_BLOCK: &str =
    "that the upper bound in time is the chain's. It is worth as much as the word of whoever vouches";

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
    pub cause: Cause,
}

/// Where to look for the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cause {
    /// A byte is not what it must be, or something in it was never true.
    #[default]
    Content,
    /// It was never a matter of truth: it cannot be read, or is of no known kind.
    Unreadable,
    /// It is not by the key that was given.
    Key,
    /// It is not anchored by whom, through what or where the auditor said.
    Anchor,
    /// The chain has another block there.
    Block,
    /// The bundle bears another name than its id.
    Name,
    /// Another program packed the archive.
    Packing,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comma = if self.place.is_empty() { "" } else { ", " };
        write!(f, "{}{comma}{}: {}", self.file, self.place, self.why)
    }
}

impl Refused {
    pub fn new(file: impl Into<String>, place: impl Into<String>, why: impl Into<String>) -> Self {
        Self { file: file.into(), place: place.into(), why: why.into(), cause: Cause::Content }
    }

    pub fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    pub fn unreadable(file: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(file, "", why).because(Cause::Unreadable)
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
    /// So many entries, of so many, came after what is anchored.
    PartlyAnchored {
        after: usize,
        of: usize,
    },
    NoAccount,
    /// Nobody says that the block of an anchor is one of the chain's, and final.
    BlockOpen,
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
            Self::PartlyAnchored { .. } => "partly_anchored",
            Self::NoAccount => "no_account",
            Self::BlockOpen => "block_open",
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
            Self::PartlyAnchored { after, of } => {
                return write!(f, "it is anchored in part: {after} of its {of} entries came after what is anchored");
            }
            Self::NoAccount => "no account was given: whoever made this could have paid for the anchor too (--account)",
            Self::BlockOpen => {
                "nobody says that the block of its anchor is one of the chain's, and final (--rpc, --trust)"
            }
            Self::Simulated => "the data are simulated",
            Self::Overlap(1) => "1 block overlaps others: its energy is counted twice in the sum",
            Self::Overlap(count) => {
                return write!(f, "{count} blocks overlap others: their energy is counted twice in the sum");
            }
        })
    }
}

/// The anchor of a section, proven down to the hash of a block.
#[derive(Clone, Debug)]
pub struct ShownAnchor {
    /// Of `log`, from 0.
    pub section: usize,
    pub shown: Shown,
    /// The size of the checkpoint that was anchored before.
    pub before: Option<u64>,
    /// So many of so many entries that were to be anchored are.
    pub covered: usize,
    pub of: usize,
}

/// A block that holds an anchor: what a proof cannot show of itself is that it is one of the chain's, and final.
#[derive(Clone, Debug)]
pub struct AnchorBlock {
    pub chain_id: u64,
    pub height: u64,
    pub hash: B256,
    /// Who vouches for it.
    pub voucher: Option<Voucher>,
    file: String,
    place: String,
    /// Where it is told.
    link: usize,
}

/// Who says that a block is one of the chain's, and final.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Voucher {
    /// A file that the auditor gave.
    File(String),
    /// Nodes of the chain, which were asked.
    Nodes,
}

/// What nodes of a chain say of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnChain {
    /// It is there, and final.
    Confirmed,
    /// Another one is there.
    Other,
    /// Some have it, and some another one.
    Disputed,
    /// None says that it is there and final, nor that another one is.
    Open,
}

/// What was looked at, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Such as `dataset` or `period`; empty while it is not known.
    pub what: &'static str,
    pub links: Vec<Link>,
    pub lacks: Vec<Lack>,
    pub refused: Option<Refused>,
    /// The blocks of its anchors, each once.
    pub blocks: Vec<AnchorBlock>,
    pub anchors: Vec<ShownAnchor>,
    /// All that was found, for a script.
    pub facts: Map<String, Value>,
}

impl Report {
    pub fn verdict(&self) -> Verdict {
        match &self.refused {
            Some(refused) if refused.cause == Cause::Unreadable => Verdict::Unreadable,
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

    /// A block that holds an anchor, at this place of the proof.
    pub(super) fn block(&mut self, shown: &Shown, voucher: Option<Voucher>, file: &str, place: String) {
        let Shown { chain_id, height, hash, time, .. } = *shown;
        if self.blocks.iter().any(|known| (known.chain_id, known.hash) == (chain_id, hash)) {
            return;
        }
        let (file, link) = (file.to_owned(), self.links.len());
        self.open("block", vec![format!("block {height} of chain {chain_id}, {time}, hash {hash}")], SHOWS_BLOCK);
        self.blocks.push(AnchorBlock { chain_id, height, hash, voucher, file, place, link });
        self.tell_block(self.blocks.len() - 1, Vec::new());
    }

    /// Takes what nodes say of a block, by its place in `blocks`, with their words.
    pub fn confirm(&mut self, block: usize, found: OnChain, words: Vec<String>) {
        let Some(at) = self.blocks.get_mut(block) else { return };
        match found {
            OnChain::Confirmed => at.voucher = Some(Voucher::Nodes),
            OnChain::Disputed => at.voucher = None,
            OnChain::Open => {}
            OnChain::Other => {
                let AnchorBlock { chain_id, height, hash, .. } = at;
                let expected = format!("that of block {height} of chain {chain_id} ({})", words.join("; "));
                let refused = Refused::other(&at.file, &at.place, format!("hash {hash}"), expected);
                (self.refused, at.voucher) = (Some(refused.because(Cause::Block)), None);
            }
        }
        self.tell_block(block, words);
        if let (OnChain::Other, Some(link)) = (found, self.blocks.get(block).and_then(|at| self.links.get_mut(at.link)))
        {
            link.holds = Some(false);
        }
    }

    /// Tells who vouches for a block, and keeps the lack of it true.
    fn tell_block(&mut self, block: usize, words: Vec<String>) {
        let Some(at) = self.blocks.get(block) else { return };
        if let Some(link) = self.links.get_mut(at.link) {
            link.told.truncate(1);
            link.told.extend(words);
            link.told.push(match &at.voucher {
                Some(Voucher::File(file)) => format!("{file} vouches for it"),
                Some(Voucher::Nodes) => "so the chain has it, and it is final".to_owned(),
                None => "so nobody vouches for it".to_owned(),
            });
            link.holds = at.voucher.as_ref().map(|_| true);
        }
        self.lacks.retain(|lack| *lack != Lack::BlockOpen);
        if self.blocks.iter().any(|at| at.voucher.is_none()) {
            self.lacks.push(Lack::BlockOpen);
        }
    }

    /// An anchor, for a script.
    fn anchor_json(&self, anchor: &ShownAnchor) -> Value {
        let ShownAnchor { section, shown, before, covered, of } = anchor;
        let block = self.blocks.iter().find(|at| (at.chain_id, at.hash) == (shown.chain_id, shown.hash));
        let vouched = block.and_then(|at| at.voucher.as_ref()).map(|voucher| match voucher {
            Voucher::File(_) => "trust",
            Voucher::Nodes => "rpc",
        });
        json!({
            "section": section,
            "transaction": shown.transaction.to_string(),
            "account": shown.account.to_string(),
            "contract": shown.contract.map(|contract| contract.to_string()),
            "chain_id": shown.chain_id,
            "height": shown.height,
            "block_hash": shown.hash.to_string(),
            "time": shown.time,
            "size": shown.size,
            "before": before,
            "entries": of,
            "covered": covered,
            "vouched_by": vouched,
        })
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
            "anchors": self.anchors.iter().map(|anchor| self.anchor_json(anchor)).collect::<Vec<_>>(),
            "facts": self.facts,
        })
    }
}
