//! A section of a proof: one epoch of the log, some of its leaves, and the checkpoint that they lead to.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::Shown;
use super::proof::{LeafForm, SectionText};
use super::record::{Origin, Record, read_note};
use super::report::Refused;
use crate::model::entry::{self, Entry, EntryKind, Salt};
use crate::model::note::{SignedCheckpoint, VerifierKey};
use crate::model::{Digest, MeterId, Timestamp, merkle};

/// A section whose leaves lead to the root of its checkpoint. Who signed that is checked by
/// [`signed`](Section::signed).
pub struct Section {
    pub origin: Origin,
    pub key: VerifierKey,
    pub signed: SignedCheckpoint,
    file: String,
    place: String,
}

/// A leaf of a section: with its record where it is opened.
pub struct Leaf {
    pub index: u64,
    pub entry: Entry,
    pub record: Option<Record>,
}

impl Section {
    /// Reads a section; `look` sees each of its leaves in their order, before their place in the tree is proven.
    pub fn read(
        text: &SectionText,
        file: &str,
        place: String,
        mut look: impl FnMut(Leaf) -> Result<(), String>,
    ) -> Result<Self, Refused> {
        let refuse = |why: String| Refused::new(file, &place, why);
        let key: VerifierKey = text.key.parse().map_err(|error| refuse(format!("member `key`: {error}")))?;
        let signed = read_note(&text.checkpoint).map_err(refuse)?;
        let checkpoint = &signed.checkpoint;
        let origin = Origin::of(&checkpoint.origin);
        let origin = origin.ok_or_else(|| refuse(format!("`{}` is no origin of a log", checkpoint.origin)))?;
        let meters = meters(text).map_err(refuse)?;
        let mut hashes = Vec::with_capacity(text.leaves.len());
        let mut unused: BTreeSet<&MeterId> = meters.keys().collect();
        for leaf in &text.leaves {
            let refuse = |why: String| Refused::new(file, format!("{place}, leaf {}", leaf.index), why);
            let (entry, record) = open(leaf.form().map_err(refuse)?, &meters).map_err(refuse)?;
            if let Some((meter, _)) = record.as_ref().and_then(Record::of_meter) {
                unused.remove(meter);
            }
            if (leaf.index == 0) != (entry.kind == EntryKind::Succession) {
                let why = format!("it is of kind {}: leaf 0 is a succession, and no other is", entry.kind);
                return Err(refuse(why));
            }
            hashes.push((leaf.index, entry.leaf_hash()));
            look(Leaf { index: leaf.index, entry, record }).map_err(refuse)?;
        }
        if let Some(meter) = unused.first() {
            return Err(refuse(format!("member `meters`: no entry of meter {meter} is opened")));
        }
        if hashes.is_empty() {
            return Err(refuse("it has no leaves".to_owned()));
        }
        let root = merkle::root_by_siblings(&hashes, &text.hashes, checkpoint.size);
        let root = root.map_err(|error| refuse(error.to_string()))?;
        if root != checkpoint.root {
            let (found, expected) = (format!("the root {root} by its leaves"), checkpoint.root);
            return Err(Refused::other(file, &place, found, format!("{expected}, as its checkpoint says")));
        }
        Ok(Self { origin, key, signed, file: file.to_owned(), place })
    }

    pub fn size(&self) -> u64 {
        self.signed.checkpoint.size
    }

    /// Signed by its own key, and by `second` where an epoch ended by a rotation; by nobody else.
    pub fn verify_signatures(&self, second: Option<&VerifierKey>) -> Result<(), Refused> {
        let keys: Vec<_> = [Some(&self.key), second].into_iter().flatten().collect();
        self.signed.verify(&keys).map_err(|error| self.refuse(error.to_string()))
    }

    /// Its checkpoint, to be held against others.
    pub fn shown(&self) -> Shown<'_> {
        Shown { signed: &self.signed, key: Some(&self.key), file: &self.file, place: self.place.clone() }
    }

    pub fn refuse(&self, why: impl Into<String>) -> Refused {
        Refused::new(&self.file, &self.place, why)
    }

    /// The place of a leaf, for a refusal.
    pub fn refuse_leaf(&self, index: u64, why: impl Into<String>) -> Refused {
        Refused::new(&self.file, format!("{}, leaf {index}", self.place), why)
    }
}

fn meters(text: &SectionText) -> Result<BTreeMap<MeterId, Salt>, String> {
    let read = |(meter, salt): (&String, &Digest)| {
        let id = meter.parse().map_err(|error: crate::model::BadId| format!("member `meters`: {error}"))?;
        Ok((id, Salt(*salt.as_bytes())))
    };
    text.meters.iter().map(read).collect()
}

/// The entry of a leaf, put together from its opening where it is opened.
fn open(form: LeafForm, meters: &BTreeMap<MeterId, Salt>) -> Result<(Entry, Option<Record>), String> {
    let known =
        |kind: &str| EntryKind::named(kind).ok_or_else(|| format!("the kind `{}` is not known", kind.escape_debug()));
    let (entry, record) = match form {
        LeafForm::Plain(plain) => {
            if plain.v != 1 {
                return Err(format!("found version {} of an entry, expected 1", plain.v));
            }
            let (kind, time) = (known(&plain.kind)?, Timestamp::from_millis(plain.time));
            (Entry { kind, time, subject: plain.subject, commit: plain.commit }, None)
        }
        LeafForm::Opened { kind, record: text, salt, time } => {
            let kind = known(kind)?;
            let record = Record::read(kind, text)?;
            let subject = match record.of_meter() {
                None => None,
                Some((meter, _)) => {
                    let salt =
                        meters.get(meter).ok_or_else(|| format!("the salt of meter {meter} is not in `meters`"))?;
                    Some(entry::subject(salt, meter))
                }
            };
            let commit = entry::commit(&salt, text.as_bytes());
            (Entry { kind, time: Timestamp::from_millis(time), subject, commit }, Some(record))
        }
    };
    if entry.subject.is_some() != entry.kind.is_of_a_meter() {
        return Err(format!(
            "an entry of kind {} {} a subject",
            entry.kind,
            if entry.subject.is_some() { "has no" } else { "has" }
        ));
    }
    Ok((entry, record))
}
