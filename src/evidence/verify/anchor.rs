//! Anchors: the transactions on a chain that bear checkpoints of the log, each proven down to the hash of its block.

use std::fmt::Write as _;

use alloy_primitives::{Address, B256};
use serde_json::Value;
use serde_json::value::RawValue;

use super::keys;
use super::proof::{LONGEST_RECORD, Proof};
use super::record::read_note;
use super::report::{Cause, Lack, Refused, Report, ShownAnchor, Voucher};
use super::section::Section;
use super::strict::{self, Members};
use super::{SHOWS_ANCHOR, Trusted};
use crate::evidence::evm::{self, Shown, Unproven};
use crate::model::note::{Checkpoint, SignedCheckpoint};
use crate::model::{ChainEvidence, Digest, merkle};

/// The anchors of a proof. What is wrong with one of them, or is not as the auditor wants it, was refused.
pub struct Anchors {
    list: Vec<Anchor>,
    file: String,
}

/// The anchor of one section.
struct Anchor {
    section: usize,
    shown: Shown,
    signed: SignedCheckpoint,
    /// The size of the section, which has grown on since.
    grown: u64,
    /// The checkpoint that was anchored before.
    before: Option<SignedCheckpoint>,
}

/// A block that somebody vouches for, as one of the chain's and final.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vouched {
    pub chain_id: u64,
    pub height: u64,
    pub hash: B256,
}

impl Anchors {
    /// Checks every anchor of a proof, whose sections are `log`.
    pub fn read(proof: &Proof, log: &[Section], trusted: &Trusted, file: &str) -> Result<Self, Refused> {
        let anchors = of_each_section(proof.anchor.as_deref(), "anchor", log, file)?;
        let earlier = of_each_section(proof.consistency.as_deref(), "consistency", log, file)?;
        let mut list = Vec::new();
        for (at, section) in log.iter().enumerate() {
            let within = |name: &str| {
                let element = format!("{name} {at}");
                move |Unproven { place, why, is_unread }| {
                    let comma = if place.is_empty() { "" } else { ", " };
                    let refused = Refused::new(file, format!("{element}{comma}{place}"), why);
                    if is_unread { refused.because(Cause::Unreadable) } else { refused }
                }
            };
            let Some(text) = anchors[at] else {
                if earlier[at].is_some() {
                    let why = "found what was anchored before, and the section has no anchor";
                    return Err(within("consistency")(fault("", why)));
                }
                continue;
            };
            let (shown, signed) = shown(text, section).map_err(within("anchor"))?;
            let before = earlier[at].map(|earlier| before(earlier, &signed.checkpoint, section)).transpose();
            let before = before.map_err(within("consistency"))?;
            check_wanted(&shown, trusted, file, at)?;
            list.push(Anchor { section: at, shown, signed, grown: section.size(), before });
        }
        Ok(Self { list, file: file.to_owned() })
    }

    /// Its checkpoints, to be held against others. `log` is what they were read with.
    pub fn shown<'a>(&'a self, log: &'a [Section]) -> impl Iterator<Item = keys::Shown<'a>> {
        self.list.iter().flat_map(move |Anchor { section, signed, before, .. }| {
            let of = [("anchor", Some(signed)), ("consistency", before.as_ref())].into_iter();
            of.filter_map(move |(name, signed)| {
                let key = log.get(*section).map(|section| &section.key);
                Some(keys::Shown { signed: signed?, key, file: &self.file, place: format!("{name} {section}") })
            })
        })
    }

    /// Tells what is anchored of the entries that should be: of each section, their indices.
    pub fn tell(&self, due: &[Vec<u64>], trusted: &Trusted, report: &mut Report) {
        let all: usize = due.iter().map(Vec::len).sum();
        let mut after = all;
        for anchor in &self.list {
            let of_section = due.get(anchor.section).map(Vec::as_slice).unwrap_or_default();
            let covered = of_section.iter().filter(|index| **index < anchor.shown.size).count();
            after -= covered;
            anchor.tell((covered, of_section.len()), trusted, report);
        }
        if after == all {
            report.lacks(Lack::NotAnchored);
        } else if after > 0 {
            report.lacks(Lack::PartlyAnchored { after, of: all });
        }
        if self.list.is_empty() {
            report.open("anchor", vec!["it is not anchored".to_owned()], SHOWS_ANCHOR);
            return;
        }
        if trusted.accounts.is_empty() {
            report.lacks(Lack::NoAccount);
        }
        for Anchor { section, shown, .. } in &self.list {
            let block = Vouched { chain_id: shown.chain_id, height: shown.height, hash: shown.hash };
            let voucher = trusted.blocks.contains(&block).then(|| Voucher::File(trusted.kept_in.clone()));
            report.block(shown, voucher, &self.file, format!("anchor {section}, header"));
        }
    }
}

impl Anchor {
    fn tell(&self, (covered, of): (usize, usize), trusted: &Trusted, report: &mut Report) {
        let Shown { chain_id, account, contract, size, transaction, height, hash, time, .. } = &self.shown;
        let by = match trusted.accounts.is_empty() {
            false => "which was given",
            true => "and no account was given to compare it with",
        };
        let through = contract.map_or_else(|| "call data".to_owned(), |contract| format!("contract {contract}"));
        let grown = match self.grown.saturating_sub(*size) {
            0 => "the one that the entries lead to".to_owned(),
            more => format!("which {more} more entries continue up to the one that the entries lead to"),
        };
        let mut told = vec![
            format!("transaction {transaction} on chain {chain_id}"),
            format!("by account {account}, {by}"),
            format!("through {through}"),
            format!("in block {height} of {time}, hash {hash}"),
            format!("it bears a checkpoint of {size} entries, {grown}"),
        ];
        let before = self.before.as_ref().map(|before| before.checkpoint.size);
        told.extend(before.map(|before| format!("it continues the one of {before} entries that was anchored before")));
        told.push(match (covered, of) {
            (_, 0) => "nothing of what is claimed is in this part".to_owned(),
            (covered, of) if covered == of => format!("what is claimed existed at {time}"),
            (covered, of) => format!("{} of {of} entries came after it", of - covered),
        });
        match covered == of && !trusted.accounts.is_empty() {
            true => report.holds("anchor", told, SHOWS_ANCHOR),
            false => report.open("anchor", told, SHOWS_ANCHOR),
        }
        let (section, shown) = (self.section, self.shown.clone());
        report.anchors.push(ShownAnchor { section, shown, before, covered, of });
    }
}

/// The objects of a member that has an element for each section; nothing where it is null.
fn of_each_section<'p>(
    member: Option<&[Option<&'p RawValue>]>,
    name: &str,
    log: &[Section],
    file: &str,
) -> Result<Vec<Option<&'p str>>, Refused> {
    let Some(list) = member else { return Ok(vec![None; log.len()]) };
    let place = format!("member `{name}`");
    if list.len() != log.len() {
        let expected = format!("{}, one for each section of `log`", log.len());
        return Err(Refused::other(file, place, format!("{} elements", list.len()), expected));
    }
    if list.iter().all(Option::is_none) {
        return Err(Refused::new(file, place, "none of its elements is an object: it is null then"));
    }
    let bounded = |(at, raw): (usize, &Option<&'p RawValue>)| match raw.map(RawValue::get) {
        Some(text) if text.len() > LONGEST_RECORD => {
            let why = format!("it has {} bytes, and more than {LONGEST_RECORD} are not read", text.len());
            Err(Refused::new(file, format!("{name} {at}"), why).because(Cause::Unreadable))
        }
        text => Ok(text),
    };
    list.iter().enumerate().map(bounded).collect()
}

/// What an anchor shows, and the checkpoint that it bears.
fn shown(text: &str, section: &Section) -> Result<(Shown, SignedCheckpoint), Unproven> {
    let value = strict::value(text.as_bytes()).map_err(|why| fault("", why))?;
    let members = ["checkpoint", "hashes", "header", "index", "receipt", "transaction"];
    let members = Members::exactly(&value, &members).map_err(|why| fault("", why))?;
    let signed = checkpoint(&members, section)?;
    let (anchored, newest) = (&signed.checkpoint, &section.signed.checkpoint);
    if anchored.size == newest.size && signed.note() != section.signed.note() {
        return Err(fault("checkpoint", "it is of the section's size, and not the section's"));
    }
    check_continued(&members, anchored, newest, "the section")?;
    let evidence = evidence(&members).map_err(|why| fault("", why))?;
    let shown = evm::check(&evidence)?;
    let origin = Digest::of(anchored.origin.as_bytes());
    for (name, found, expected) in [
        ("origin", shown.origin.to_string(), origin.to_string()),
        ("size", shown.size.to_string(), anchored.size.to_string()),
        ("root", shown.root.to_string(), anchored.root.to_string()),
    ] {
        if found != expected {
            let why = format!("found {name} {found} on the chain, expected {expected}, as its checkpoint says");
            return Err(fault("transaction", why));
        }
    }
    Ok((shown, signed))
}

/// The checkpoint that was anchored before.
fn before(text: &str, anchored: &Checkpoint, section: &Section) -> Result<SignedCheckpoint, Unproven> {
    let value = strict::value(text.as_bytes()).map_err(|why| fault("", why))?;
    let members = Members::exactly(&value, &["checkpoint", "hashes"]).map_err(|why| fault("", why))?;
    let signed = checkpoint(&members, section)?;
    let size = signed.checkpoint.size;
    if size >= anchored.size {
        let why = format!("found {size} entries, expected fewer than the {} of the anchor", anchored.size);
        return Err(fault("checkpoint", why));
    }
    check_continued(&members, &signed.checkpoint, anchored, "the anchor")?;
    Ok(signed)
}

/// A checkpoint of the section's log, signed by the section's key and nobody else.
fn checkpoint(members: &Members, section: &Section) -> Result<SignedCheckpoint, Unproven> {
    let read = |note: &str| {
        let signed = read_note(note)?;
        signed.verify(&[&section.key]).map_err(|error| error.to_string())?;
        Ok(signed)
    };
    members.text("checkpoint").and_then(read).map_err(|why| fault("checkpoint", why))
}

fn check_continued(members: &Members, old: &Checkpoint, new: &Checkpoint, whose: &str) -> Result<(), Unproven> {
    let hashes: Vec<Digest> = members
        .list("hashes", "an array of 64 hex digits each", |value| value.as_str()?.parse().ok())
        .map_err(|why| fault("", why))?;
    merkle::verify_consistency((old.size, &old.root), (new.size, &new.root), &hashes)
        .map_err(|error| fault("hashes", format!("{error}, where that of {whose} is expected")))
}

/// What is hex in it, as bytes.
fn evidence(members: &Members) -> Result<ChainEvidence, String> {
    let nodes = |name| members.list(name, "an array of lower-case hex", |node| strict::hex(node.as_str()?));
    Ok(ChainEvidence {
        header: members.read("header", "lower-case hex", |header| strict::hex(header.as_str()?))?,
        index: members.read("index", "a whole number from 0", Value::as_u64)?,
        receipt: nodes("receipt")?,
        transaction: nodes("transaction")?,
    })
}

fn fault(place: &str, why: impl Into<String>) -> Unproven {
    Unproven { place: place.to_owned(), why: why.into(), is_unread: false }
}

/// Account, contract and chain are those that the auditor gave, and so is the block where somebody vouches for one.
fn check_wanted(shown: &Shown, trusted: &Trusted, file: &str, at: usize) -> Result<(), Refused> {
    let refuse = |found: String, expected: String| {
        Err(Refused::other(file, format!("anchor {at}"), found, expected).because(Cause::Anchor))
    };
    let Shown { chain_id, account, contract, height, hash, .. } = shown;
    if let Some(chain) = trusted.chain.filter(|chain| chain != chain_id) {
        return refuse(format!("chain {chain_id}"), format!("{chain}, which was given"));
    }
    if !trusted.accounts.is_empty() && !trusted.accounts.contains(account) {
        return refuse(format!("account {account}"), one_of(&trusted.accounts));
    }
    if !trusted.contracts.is_empty() && !contract.is_some_and(|contract| trusted.contracts.contains(&contract)) {
        let found = contract.map_or_else(|| "call data".to_owned(), |contract| format!("contract {contract}"));
        return refuse(found, one_of(&trusted.contracts));
    }
    let same_place = trusted.blocks.iter().filter(|known| (known.chain_id, known.height) == (*chain_id, *height));
    if let Some(other) = same_place.clone().find(|known| known.hash != *hash) {
        let found = format!("hash {hash} of block {height} of chain {chain_id}");
        let expected = format!("{}, as {} says", other.hash, trusted.kept_in);
        return Err(Refused::other(file, format!("anchor {at}, header"), found, expected).because(Cause::Block));
    }
    Ok(())
}

fn one_of(given: &[Address]) -> String {
    let mut text = String::new();
    for (at, address) in given.iter().enumerate() {
        let between = if at == 0 { "" } else { " or " };
        // A String takes whatever is written.
        write!(text, "{between}{address}").ok();
    }
    text + ", which was given"
}
