//! Whose signatures they are: the gateway's keys from rotation to rotation, the key that was given, and checkpoints
//! that somebody kept.

use std::path::Path;

use super::proof::SectionText;
use super::record::{Origin, Record, read_note};
use super::report::{Lack, Refused, Report};
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
    /// Checkpoints that somebody kept, and the file that they came from.
    pub kept: Vec<SignedCheckpoint>,
    pub kept_in: String,
}

impl Trusted {
    /// Adds the checkpoints of a file: signed notes, each followed by an empty line.
    pub fn read_kept(&mut self, path: &Path) -> Result<(), Refused> {
        let name = path.display().to_string();
        let bytes = strict::read_file(path, &name, LONGEST_TRUST)?;
        let text = String::from_utf8(bytes).map_err(|_| Refused::new(&name, "", "it is not UTF-8"))?;
        let notes = notes(&text).ok_or_else(|| {
            Refused::new(&name, "", "found no signed checkpoints, each with an empty line behind it, the last one too")
        })?;
        for (note, at) in notes.into_iter().zip(1..) {
            let note = read_note(&note).map_err(|why| Refused::new(&name, format!("checkpoint {at}"), why))?;
            self.kept.push(note);
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

/// The notes of a text: each with an empty line in its midst, and one behind it. `None` where there is none, or something
/// beside them.
fn notes(text: &str) -> Option<Vec<String>> {
    let pieces: Vec<_> = text.split("\n\n").collect();
    let (last, pieces) = pieces.split_last()?;
    let whole = last.is_empty() && !pieces.is_empty() && pieces.len() % 2 == 0;
    let note = |pair: &[&str]| format!("{}\n\n{}\n", pair[0], pair[1]);
    whole.then(|| pieces.chunks(2).map(note).collect())
}

/// The gateway's keys, oldest first, as its rotations tell them.
pub struct Chain {
    keys: Vec<VerifierKey>,
    /// Each epoch that ended by a rotation: its last size, and the key that it went over to.
    ends: Vec<(String, u64, VerifierKey)>,
}

impl Chain {
    /// Reads the rotations of a proof and holds the sections of its log against them.
    pub fn read(rotations: &[SectionText], log: &[Section], file: &str) -> Result<Self, Refused> {
        let mut chain = Self { keys: Vec::new(), ends: Vec::new() };
        let mut rotated = Vec::new();
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
            chain.ends.push((section.key.name().to_owned(), section.size(), new_key.clone()));
            rotated.push(section);
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
        rotated.iter().chain(log).try_for_each(|section| chain.check_gateway(section))?;
        Ok(chain)
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
            let told =
                self.ends.iter().map(|(origin, size, to)| format!("epoch {origin} ended at {size} entries; {to}"));
            report.fact("rotations", self.ends.len());
            report.holds("key rotations", told.collect(), "that each new key was signed in by the one before it");
        }
        report.fact("key", last.key.to_string());
        match &trusted.key {
            None => no_key(&last.key, report),
            Some(given) => {
                let Some(from) = self.place(given) else {
                    let found = self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ");
                    return Err(last.refuse(format!("signed by {found}, and the key that was given is {given}")));
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
        for section in log {
            compare(&section.signed, Some(&section.key), trusted, report, |why| section.refuse(why))?;
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
pub fn of_lone(signed: &SignedCheckpoint, trusted: &Trusted) -> Result<Option<VerifierKey>, String> {
    let origin = &signed.checkpoint.origin;
    if signed.signatures.len() > 2 {
        return Err(format!(
            "found {} signatures, expected one, or two at the end of an epoch",
            signed.signatures.len()
        ));
    }
    if signed.signatures.first().is_none_or(|first| first.name != *origin)
        || signed.signatures.iter().any(|line| Origin::of(&line.name).is_none())
    {
        return Err("the name of its first signature is not its origin, or that of the second is none".to_owned());
    }
    let Some(given) = &trusted.key else { return Ok(None) };
    let named = |line: &NoteSignature| VerifierKey::new(line.name.as_str(), *given.public());
    let own = signed.signatures.iter().find(|line| named(line).id() == line.key_id);
    let own = own.map(named).ok_or_else(|| format!("it is not signed by the key that was given, {given}"))?;
    signed.verify_by(&own).map_err(|error| error.to_string())?;
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

/// A signed checkpoint against the kept ones of its log: of equal size they are equal.
pub fn compare(
    signed: &SignedCheckpoint,
    key: Option<&VerifierKey>,
    trusted: &Trusted,
    report: &mut Report,
    refuse: impl Fn(String) -> Refused,
) -> Result<(), Refused> {
    let mut told = Vec::new();
    let mut compared = false;
    let found = &signed.checkpoint;
    for kept in trusted.of_log(signed, key) {
        let kept = kept?;
        if kept.size == found.size && kept.root != found.root {
            let (size, found, kept) = (found.size, found.root, kept.root);
            return Err(refuse(format!(
                "found the root {found} at size {size}, expected {kept}: two histories were signed"
            )));
        }
        compared |= kept.size == found.size;
        told.push(if kept.size == found.size {
            format!("the kept checkpoint of {} entries is the same", kept.size)
        } else {
            format!(
                "a kept checkpoint has {} entries and this one {}: the log folder would tell",
                kept.size, found.size
            )
        });
    }
    match told.is_empty() {
        true if trusted.kept.is_empty() => {}
        true => {
            report.open("kept checkpoint", vec!["none of those given is of this log and key".to_owned()], SHOWS_KEPT)
        }
        false if compared => report.holds("kept checkpoint", told, SHOWS_KEPT),
        false => report.open("kept checkpoint", told, SHOWS_KEPT),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_follow_one_another() {
        let note = "a\n1\nroot\n\n— a sig\n".to_owned();
        assert_eq!(notes(&format!("{note}\n")), Some(vec![note.clone()]));
        assert_eq!(notes(&format!("{note}\n{note}\n")), Some(vec![note.clone(), note.clone()]));
        for bad in ["", "\n\n", &note, &format!("{note}\n{note}"), &format!("{note}\nx")] {
            assert_eq!(notes(bad), None, "{bad:?}");
        }
    }
}
