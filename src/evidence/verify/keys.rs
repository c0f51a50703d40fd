//! Whose signatures they are: the gateway's keys from rotation to rotation, the key that was given, and checkpoints
//! that somebody kept.

use std::path::Path;

use alloy_primitives::{Address, B256};

use super::anchor::Vouched;
use super::proof::SectionText;
use super::record::{Origin, Record, read_note};
use super::report::{Cause, Lack, Refused, Report};
use super::section::{Leaf, Section};
use super::strict;
use crate::model::Digest;
use crate::model::note::{BadNote, Checkpoint, NoteSignature, SignedCheckpoint, VerifierKey};

/// Longer files of kept checkpoints are not read.
const LONGEST_TRUST: u64 = 16 << 20;

pub const SHOWS_KEY: &str = "who signed it. It is worth as much as the way by which you got the key";
pub const SHOWS_KEPT: &str = "that this gateway tells you the same story as whoever kept the checkpoint";

/// What the auditor brings along.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// The gateway's key, from elsewhere than from whoever hands over the proof.
    pub key: Option<VerifierKey>,
    /// Checkpoints and blocks that somebody vouches for, and the file that they came from.
    pub kept: Vec<SignedCheckpoint>,
    pub blocks: Vec<Vouched>,
    pub kept_in: String,
    /// Who may have anchored, through which contracts, and on which chain; empty for any.
    pub accounts: Vec<Address>,
    pub contracts: Vec<Address>,
    pub chain: Option<u64>,
}

impl Trusted {
    /// Adds what a file holds: signed notes, each followed by an empty line, and lines that name a block of a chain.
    pub fn read_kept(&mut self, path: &Path) -> Result<(), Refused> {
        let name = path.display().to_string();
        let bytes = strict::read_file(path, &name, LONGEST_TRUST)?;
        let text = String::from_utf8(bytes).map_err(|_| Refused::unreadable(&name, "it is not UTF-8"))?;
        let wrong =
            |(line, why): (usize, String)| Refused { place: format!("line {line}"), ..Refused::unreadable(&name, why) };
        (self.kept, self.blocks) = kept(&text).map_err(wrong)?;
        if self.kept.is_empty() && self.blocks.is_empty() {
            return Err(Refused::unreadable(name, "it holds neither a signed checkpoint nor a block"));
        }
        self.kept_in = name;
        Ok(())
    }

    /// The kept checkpoints of a log. Those that bear no signature by its key are passed over; where no key is known,
    /// none by a key of the same id as `found` has.
    pub fn of_log<'a>(
        &'a self,
        found: &'a SignedCheckpoint,
        key: Option<&'a VerifierKey>,
    ) -> impl Iterator<Item = Result<&'a Checkpoint, Refused>> {
        let same_log = self.kept.iter().filter(|kept| kept.checkpoint.origin == found.checkpoint.origin);
        let key = key.filter(|key| key.name() == found.checkpoint.origin);
        same_log.filter_map(move |kept| match key.map(|key| kept.verify_by(key)) {
            Some(Ok(())) => Some(Ok(&kept.checkpoint)),
            Some(Err(BadNote::Unsigned(_))) => None,
            Some(Err(error)) => Some(Err(Refused::new(&self.kept_in, "", error.to_string()))),
            None => {
                let same = |a: &NoteSignature, b: &NoteSignature| (&a.name, a.key_id) == (&b.name, b.key_id);
                let first = found.signatures.first()?;
                kept.signatures.iter().any(|line| same(line, first)).then_some(Ok(&kept.checkpoint))
            }
        })
    }
}

/// The notes and blocks of a text; otherwise the line that is neither, and why. People edit it: how lines end, and how
/// many empty ones stand between, is no matter.
fn kept(text: &str) -> Result<(Vec<SignedCheckpoint>, Vec<Vouched>), (usize, String)> {
    let lines: Vec<&str> = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let (mut notes, mut blocks, mut at) = (Vec::new(), Vec::new(), 0);
    while at < lines.len() {
        if lines[at].is_empty() {
            at += 1;
        } else if let Some(block) = lines[at].strip_prefix("block ") {
            let form = "expected `block <chain id> <height> <0x and 64 hex digits, lower case>`";
            blocks.push(vouched(block).ok_or_else(|| (at + 1, form.to_owned()))?);
            at += 1;
        } else {
            // An empty line in its midst, and one behind it or the end.
            let empty = |from: usize| lines.iter().skip(from).position(|line| line.is_empty()).map(|line| from + line);
            let end = empty(at).map(|middle| empty(middle + 1).unwrap_or(lines.len()));
            let note = lines[at..end.unwrap_or(lines.len())].join("\n") + "\n";
            let wrong = |error: BadNote| match error {
                BadNote::Form(line, why) => (at + line, why.to_owned()),
                other => (at + 1, other.to_string()),
            };
            let signed = note.parse::<SignedCheckpoint>().map_err(wrong)?;
            read_note(&note).map_err(|why| (at + 1, why))?;
            notes.push(signed);
            at = end.unwrap_or(lines.len()) + 1;
        }
    }
    Ok((notes, blocks))
}

fn vouched(text: &str) -> Option<Vouched> {
    let mut words = text.split(' ');
    let (chain_id, height) = (strict::decimal(words.next()?)?, strict::decimal(words.next()?)?);
    let hash = strict::hex(words.next()?.strip_prefix("0x")?)?;
    words.next().is_none().then_some(Vouched { chain_id, height, hash: B256::try_from(hash.as_slice()).ok()? })
}

/// The gateway's keys, oldest first, as its rotations tell them.
pub struct Chain {
    keys: Vec<VerifierKey>,
    /// The end of each epoch that ended by a rotation, and the key that it went over to.
    ends: Vec<(Section, VerifierKey)>,
}

impl Chain {
    /// Reads the rotations of a proof and holds the sections of its log against them.
    pub fn read(rotations: &[SectionText], log: &[Section], file: &str) -> Result<Self, Refused> {
        let mut chain = Self { keys: Vec::new(), ends: Vec::new() };
        for (text, at) in rotations.iter().zip(0..) {
            let mut leaves = Vec::new();
            let section = Section::read(text, file, format!("rotations section {at}"), |leaf| {
                leaves.push(leaf);
                Ok(())
            })?;
            let (index, new_key) = match leaves.as_slice() {
                [Leaf { index, record: Some(Record::Key { new_key }), .. }] => (*index, new_key),
                _ => return Err(section.refuse("it has one leaf, the opened entry of kind key")),
            };
            if index + 1 != section.size() {
                return Err(
                    section.refuse_leaf(index, format!("a key is the last of its epoch, which has {}", section.size()))
                );
            }
            section.verify_signatures(Some(new_key))?;
            match chain.keys.last() {
                Some(before) if before.public() != section.key.public() => {
                    return Err(
                        section.refuse(format!("its key is not {before}, to which the rotation before it went over"))
                    );
                }
                Some(_) => {}
                None => chain.keys.push(section.key.clone()),
            }
            chain.keys.push(new_key.clone());
            chain.ends.push((section, new_key.clone()));
        }
        let Some(last) = log.last() else { return Err(Refused::new(file, "member `log`", "it has no section")) };
        match chain.keys.last() {
            Some(newest) if newest.public() != last.key.public() => {
                return Err(last.refuse(format!("its key is not {newest}, the one of the last rotation")));
            }
            Some(_) => {}
            None => chain.keys.push(last.key.clone()),
        }
        for section in log {
            if chain.place(&section.key).is_none() {
                return Err(section.refuse(format!("its key {} is not one of the gateway's", section.key)));
            }
            section.verify_signatures(None)?;
        }
        chain.rotated().chain(log).try_for_each(|section| chain.check_gateway(section))?;
        Ok(chain)
    }

    /// The sections of its rotations.
    pub fn rotated(&self) -> impl Iterator<Item = &Section> {
        self.ends.iter().map(|(section, _)| section)
    }

    /// The newest place of a key; a gateway may have gone back to an old one.
    fn place(&self, key: &VerifierKey) -> Option<usize> {
        self.keys.iter().rposition(|known| known.public() == key.public())
    }

    /// The id is made from the gateway's first key, which stands in the proof: all rotations do, or the id would not fit.
    fn check_gateway(&self, section: &Section) -> Result<(), Refused> {
        let gateway = self.keys.first().map(|first| Digest::of(first.public()).to_string()[..32].to_owned());
        let gateway = gateway.unwrap_or_default();
        if section.origin.gateway == gateway {
            return Ok(());
        }
        let found = &section.origin.gateway;
        Err(section
            .refuse(format!("found gateway {found}, expected {gateway}, which the first key of the proof makes")))
    }

    /// Tells whose signatures they are, and holds them against what the auditor brought along.
    pub fn judge(&self, log: &[Section], trusted: &Trusted, report: &mut Report) -> Result<(), Refused> {
        let Some((first, last)) = log.first().zip(log.last()) else { return Ok(()) };
        if self.ends.is_empty() {
            report.fact("rotations", 0);
        } else {
            let told = self
                .ends
                .iter()
                .map(|(section, to)| format!("epoch {} ended at {} entries; {to}", section.key.name(), section.size()));
            report.fact("rotations", self.ends.len());
            report.holds("key rotations", told.collect(), "that each new key was signed in by the one before it");
        }
        report.fact("key", last.key.to_string());
        match &trusted.key {
            None => no_key(&last.key, report),
            Some(given) => {
                let Some(from) = self.place(given) else {
                    let found = self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ");
                    let why = format!("signed by {found}, and the key that was given is {given}");
                    return Err(last.refuse(why).because(Cause::Key));
                };
                let mut told = vec![format!("the key that was given: {given}")];
                if from < self.keys.len() - 1 {
                    told.push(format!("it went over to {}", last.key));
                }
                if self.place(&first.key).is_some_and(|place| place < from) {
                    report.lacks(Lack::LaterKey);
                }
                report.holds("key", told, SHOWS_KEY);
            }
        }
        Ok(())
    }
}

/// Says that nobody vouches for the key.
pub fn no_key(found: &VerifierKey, report: &mut Report) {
    report.lacks(Lack::NoKey);
    report.open("key", vec![format!("signed by {found}"), "no key was given to compare it with".to_owned()], SHOWS_KEY);
}

/// A checkpoint that comes without its key: the one that was given, under the name that it has there; `None` where none
/// was given. One of two signatures must be by it.
pub fn of_lone(
    signed: &SignedCheckpoint,
    trusted: &Trusted,
    refuse: impl Fn(String) -> Refused,
) -> Result<Option<VerifierKey>, Refused> {
    let origin = &signed.checkpoint.origin;
    if signed.signatures.len() > 2 {
        let found = signed.signatures.len();
        return Err(refuse(format!("found {found} signatures, expected one, or two at the end of an epoch")));
    }
    if signed.signatures.first().is_none_or(|first| first.name != *origin)
        || signed.signatures.iter().any(|line| Origin::of(&line.name).is_none())
    {
        let why = "the name of its first signature is not its origin, or that of the second is none";
        return Err(refuse(why.to_owned()));
    }
    let Some(given) = &trusted.key else { return Ok(None) };
    let named = |line: &NoteSignature| VerifierKey::new(line.name.as_str(), *given.public());
    let own = signed.signatures.iter().find(|line| named(line).id() == line.key_id);
    let own = own
        .map(named)
        .ok_or_else(|| refuse(format!("it is not signed by the key that was given, {given}")).because(Cause::Key))?;
    signed.verify_by(&own).map_err(|error| refuse(error.to_string()))?;
    Ok(Some(own))
}

/// Says that a checkpoint that comes without its key cannot be checked.
pub fn unchecked(signed: &SignedCheckpoint, report: &mut Report) {
    report.lacks(Lack::NoKey);
    let names =
        signed.signatures.iter().map(|line| format!("a signature that bears the name {} is NOT checked", line.name));
    let told = names.chain(["no key was given, and none is in it (--key)".to_owned()]);
    report.open("key", told.collect(), SHOWS_KEY);
}

/// A checkpoint of what is verified, by whose key it is signed if that is known, and where it stands.
pub struct Shown<'a> {
    pub signed: &'a SignedCheckpoint,
    pub key: Option<&'a VerifierKey>,
    pub file: &'a str,
    pub place: String,
}

/// Checkpoints against the kept ones of their logs: of equal size they are equal.
pub fn compare(shown: &[Shown], trusted: &Trusted, report: &mut Report) -> Result<(), Refused> {
    let (mut same, mut others): (Vec<&Checkpoint>, Vec<&Checkpoint>) = Default::default();
    for Shown { signed, key, file, place } in shown {
        let found = &signed.checkpoint;
        for kept in trusted.of_log(signed, *key) {
            let kept = kept?;
            if kept.size == found.size && kept.root != found.root {
                let (size, found, kept) = (found.size, found.root, kept.root);
                let why = format!("found the root {found} at size {size}, expected {kept}: two histories were signed");
                return Err(Refused::new(*file, place, why));
            }
            let list = if kept.size == found.size { &mut same } else { &mut others };
            if !list.contains(&kept) {
                list.push(kept);
            }
        }
    }
    others.retain(|kept| !same.contains(kept));
    let equal = same.iter().map(|kept| format!("the kept checkpoint of {} entries is the same", kept.size));
    let other = others.iter().map(|kept| {
        format!("a kept checkpoint has {} entries, and none of this has so many: the log folder would tell", kept.size)
    });
    let told: Vec<_> = equal.chain(other).collect();
    if told.is_empty() && !trusted.kept.is_empty() {
        report.open("kept checkpoint", vec!["none of those given is of this log and key".to_owned()], SHOWS_KEPT);
    } else if !same.is_empty() {
        report.holds("kept checkpoint", told, SHOWS_KEPT);
    } else if !told.is_empty() {
        report.open("kept checkpoint", told, SHOWS_KEPT);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "a/b/c\n1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n\u{2014} a/b/c AAAAAAA=\n";
    const HASH: &str = "0xfaf06b66f1e5c7acb0c8d9a20b3ae5bd3b6b7cb73adb76ad4d5ac3f4d7df8b2c";

    #[test]
    fn notes_and_blocks_follow_one_another() {
        let block = format!("block 137 79000123 {HASH}\n");
        let counted = |text: &str| kept(text).map(|(notes, blocks)| (notes.len(), blocks.len()));
        for (text, found) in [
            (format!("{NOTE}\n"), (1, 0)),
            (NOTE.to_owned(), (1, 0)),
            (NOTE.trim_end().to_owned(), (1, 0)),
            (format!("{NOTE}\n{NOTE}\n"), (2, 0)),
            (format!("\n\n{NOTE}\n\n\n{block}\n{block}{NOTE}"), (2, 2)),
            (format!("{block}{NOTE}\n{block}").replace('\n', "\r\n"), (1, 2)),
            (block.trim_end().to_owned(), (0, 1)),
            (String::new(), (0, 0)),
        ] {
            assert_eq!(counted(&text), Ok(found), "{text:?}");
        }
        assert_eq!(kept(&block).unwrap().1[0].height, 79_000_123);
    }

    #[test]
    fn the_line_that_is_wrong_is_named() {
        let block = format!("block 137 79000123 {HASH}\n");
        for (text, line) in [
            ("x".to_owned(), 2),
            (format!("{block}{NOTE}{block}"), 7),
            (format!("{NOTE}{NOTE}"), 6),
            (format!("{NOTE}\n{}", NOTE.replace("\n1\n", "\n01\n")), 8),
            (format!("{NOTE}\n{}", NOTE.replace("AAAAAAA=", "AA=A")), 11),
            (format!("{block}{}", block.replace("0xfa", "0xFa")), 2),
            (format!("\n{}", block.replace("137 ", "137  ")), 2),
            (block.replace("block 137", "block 0137"), 1),
            (block.replace("2c\n", "2\n"), 1),
            (block.replace("2c\n", "2c \n"), 1),
        ] {
            assert_eq!(kept(&text).err().map(|(line, _)| line), Some(line), "{text:?}");
        }
    }
}
