//! Proofs: sections of the log and what goes beside them, put together from what the store and a bundle hold, so that a
//! stranger can check them without either. docs/evidence-format.md section 5.
//!
//! What cannot be proven is told before the first byte; after it a proof is written as it is read, in bounded memory.

mod anchor;
mod block;
mod path;
mod period;
mod row;
mod text;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::vec;

use tokio::sync::watch;

use crate::evidence::log::Publisher;
use crate::model::entry::{Reason, Salt};
use crate::model::note::SignedCheckpoint;
use crate::model::proof::{AnchoredBy, Claim, NotProven, ProofForm, ProofTold};
use crate::model::{AnchorStatus, Digest, JobId, MeterId, merkle};
use crate::store::{Epoch, LogPlace, Opening, Reader, StoreError};
use anchor::SectionAnchor;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes handed on at once. With a batch of leaves, all the memory a proof takes beside the indices and hashes of its
/// leaves.
const CHUNK: usize = 64 * 1024;
/// Leaves that are read from the store at once: a record has some 2 KiB.
const LEAVES: usize = 64;

/// What ended the making of a proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error(transparent)]
    Not(#[from] NotProven),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store contradicts itself.
    #[error("the log of epoch {epoch} is not whole: {what}")]
    Torn { epoch: String, what: String },
    #[error("the bundle of dataset {id} cannot be read: {what}")]
    Bundle { id: JobId, what: String },
}

/// From what proofs are made.
#[derive(Clone)]
pub struct Prover {
    pub reader: Reader,
    pub publisher: Publisher,
    /// How anchoring does; `None` where nobody can tell.
    pub anchoring: Option<watch::Receiver<AnchorStatus>>,
}

/// A proof that is written as it is read.
pub struct Proof {
    reader: Reader,
    out: Vec<u8>,
    pieces: VecDeque<Piece>,
    /// What the person who asked is told, though the proof says it too.
    pub told: ProofTold,
}

/// What is still to be written.
enum Piece {
    Text(Vec<u8>),
    Hashes {
        hashes: vec::IntoIter<Digest>,
        is_first: bool,
    },
    Opened {
        epoch: String,
        indices: vec::IntoIter<u64>,
        is_first: bool,
    },
    /// Leaves whose records are not shown; opened ones come before them.
    Plain {
        epoch: String,
        next: u64,
        to: u64,
    },
}

/// One epoch's part of a proof.
struct Section {
    epoch: Epoch,
    checkpoint: SignedCheckpoint,
    opened: Vec<u64>,
    /// The leaves from the last opened one to the last of the tree are given plain.
    has_tail: bool,
    /// Whose entries are opened.
    meter: Option<(MeterId, Salt)>,
    /// The leaves that are to be anchored for the claim to be, and their anchor.
    due: Vec<u64>,
    anchor: Option<SectionAnchor>,
}

impl Prover {
    /// Finds all that the claim needs.
    pub async fn prove(&self, claim: &Claim, form: ProofForm) -> Result<Proof, ProveError> {
        let epochs = self.reader.epochs().await?;
        let mut beside = Beside::default();
        let mut notes = Vec::new();
        let sections = match claim {
            Claim::Dataset { id } => vec![self.dataset(*id).await?.0],
            Claim::Row { dataset, row } => {
                let (section, opening) = self.dataset(*dataset).await?;
                beside.row = Some(row::find(&self.reader, *dataset, *row, &opening.record).await?);
                vec![section]
            }
            Claim::Block { meter, start } => {
                let (section, readings) = self.block(meter, *start).await?;
                beside.readings = readings;
                vec![section]
            }
            Claim::Period { meter, from, to } => {
                let (sections, more) = self.period(&epochs, meter, (*from, *to)).await?;
                notes = more;
                sections
            }
        };
        match form {
            ProofForm::Json => {
                let rotations = self.rotations(&epochs, &sections).await?;
                for Section { epoch, due, anchor, .. } in &sections {
                    notes.extend(self.on_its_way(epoch, due, anchor.as_ref()).await?);
                }
                Proof::begin(&self.reader, claim, sections, beside, rotations, notes).await
            }
            ProofForm::TlogProof => self.tlog_proof(claim, sections).await,
        }
    }

    async fn dataset(&self, id: JobId) -> Result<(Section, Opening), ProveError> {
        let mut places = self.reader.entries_of_dataset(&id.to_string()).await?;
        if places.is_empty() {
            self.publisher.publish().await?;
            places = self.reader.entries_of_dataset(&id.to_string()).await?;
        }
        if places.is_empty() {
            let state = self.reader.job(id).await?.map(|job| job.state);
            return Err(state
                .map_or(NotProven::NoDataset(id), |state| NotProven::NotExported { dataset: id, state })
                .into());
        }
        let epochs = self.reader.epochs().await?;
        // The manifest names site and gateway: no verifier takes it from a log of another origin.
        if let Some((site, gateway)) = row::origin(&self.reader, id).await? {
            places.retain(|place| {
                let epoch = epochs.iter().find(|epoch| epoch.identity.epoch == place.epoch);
                epoch.is_some_and(|epoch| (&epoch.identity.site, &epoch.identity.gateway) == (&site, &gateway))
            });
        }
        let place = places.pop().ok_or(NotProven::OtherOrigin(id))?;
        let opening = self.opening(&place).await?;
        let section = self.section(&epochs, &place.epoch, vec![place.index], None).await?;
        Ok((section, opening))
    }

    /// A section about entries that are in the log of an epoch.
    async fn section(
        &self,
        epochs: &[Epoch],
        epoch: &str,
        opened: Vec<u64>,
        meter: Option<(MeterId, Salt)>,
    ) -> Result<Section, ProveError> {
        let torn = |what: &str| ProveError::Torn { epoch: epoch.to_owned(), what: what.to_owned() };
        let known = epochs.iter().find(|known| known.identity.epoch == epoch).ok_or_else(|| torn("there is none"))?;
        let mut anchor = self.anchor(known, &opened, u64::MAX).await?;
        // Where it covers all, its checkpoint is the section's: there is nothing between the two to be shown.
        let anchored = anchor.as_ref().filter(|anchor| anchor.covers(&opened)).map(|anchor| anchor.signed.clone());
        let checkpoint = match anchored {
            Some(anchored) => anchored,
            None => {
                let least =
                    opened.last().map_or(1, |last| last + 1).max(anchor.as_ref().map_or(0, SectionAnchor::size));
                self.checkpoint(epochs, known, least).await?
            }
        };
        if let Some(anchor) = &mut anchor {
            anchor.hashes = self.continued(known, anchor.size(), checkpoint.checkpoint.size).await?;
        }
        Ok(Section { due: opened.clone(), anchor, ..Section::new(known, checkpoint, opened, meter) })
    }

    /// The newest checkpoint of an epoch, which has `least` entries at least.
    async fn checkpoint(&self, epochs: &[Epoch], epoch: &Epoch, least: u64) -> Result<SignedCheckpoint, ProveError> {
        let is_current = epochs.last().is_some_and(|last| last == epoch);
        let name = &epoch.identity.epoch;
        let found = if is_current { Some(self.signed(least).await?) } else { self.reader.checkpoint(name).await? };
        found.filter(|found| found.checkpoint.size >= least && found.checkpoint.origin == epoch.key.name()).ok_or_else(
            || ProveError::Torn { epoch: name.clone(), what: format!("no checkpoint covers {least} entries") },
        )
    }

    /// The newest published checkpoint of the current epoch, made now unless that has so many entries.
    async fn signed(&self, least: u64) -> Result<SignedCheckpoint, ProveError> {
        let origin = self.reader.identity().origin();
        let covers =
            |known: &Arc<SignedCheckpoint>| known.checkpoint.origin == origin && known.checkpoint.size >= least;
        let known = self.publisher.newest().borrow().clone().filter(covers);
        let checkpoint = match known {
            Some(known) => known,
            None => self.publisher.publish().await?,
        };
        Ok(SignedCheckpoint::clone(&checkpoint))
    }

    /// Has all signed that is in the log: what is not signed cannot be seen.
    async fn sign_all(&self, epochs: &[Epoch]) -> Result<SignedCheckpoint, ProveError> {
        self.signed(epochs.last().map_or(1, |current| current.size)).await
    }

    async fn opening(&self, place: &LogPlace) -> Result<Opening, ProveError> {
        let mut openings = self.reader.openings(&place.epoch, vec![place.index]).await?;
        openings.pop().ok_or_else(|| missing(&place.epoch, place.index))
    }

    /// One section for each key rotation of the gateway up to the last of these sections.
    async fn rotations(&self, epochs: &[Epoch], sections: &[Section]) -> Result<Vec<Section>, ProveError> {
        let mut rotations = Vec::new();
        let last = sections.last().map(|section| section.epoch.clone());
        for epoch in rotated(epochs, last.as_ref()) {
            let name = &epoch.identity.epoch;
            let checkpoint = self.reader.checkpoint(name).await?.ok_or_else(|| missing(name, 0))?;
            let opened = vec![checkpoint.checkpoint.size.saturating_sub(1)];
            let of_rotation = Section { opened, ..Section::new(epoch, checkpoint.clone(), Vec::new(), None) };
            // It bears both signatures.
            rotations.push(Section { checkpoint, ..of_rotation });
        }
        Ok(rotations)
    }

    async fn tlog_proof(&self, claim: &Claim, sections: Vec<Section>) -> Result<Proof, ProveError> {
        let is_of_one = matches!(claim, Claim::Block { .. } | Claim::Dataset { .. });
        let (Some(section), true) = (sections.into_iter().next_back(), is_of_one) else {
            let why =
                "a .tlog-proof is of one entry: of a block or a dataset. Ask for a .proof.json of a row or a period";
            return Err(NotProven::BadRequest(why.to_owned()).into());
        };
        let (epoch, size) = (&section.epoch.identity.epoch, section.checkpoint.checkpoint.size);
        // The newest revision.
        let index = section.opened.last().copied().unwrap_or_default();
        let opening = self.opening(&LogPlace { epoch: epoch.clone(), index }).await?;
        let path = self.reader.inclusion(epoch, index, size).await?.ok_or_else(|| missing(epoch, index))?;
        let text = tlog_text(&opening, &path, &section.checkpoint);
        let pieces = VecDeque::from([Piece::Text(text)]);
        let told = ProofTold { key: section.epoch.key.to_string(), ..ProofTold::default() };
        Ok(Proof { reader: self.reader.clone(), out: Vec::new(), pieces, told })
    }
}

impl Section {
    fn new(epoch: &Epoch, mut checkpoint: SignedCheckpoint, opened: Vec<u64>, meter: Option<(MeterId, Salt)>) -> Self {
        // The second one, of a rotation, could be checked by nobody who does not see the rotation.
        checkpoint.signatures.retain(|line| line.name == epoch.key.name());
        Self { epoch: epoch.clone(), checkpoint, opened, has_tail: false, meter, due: Vec::new(), anchor: None }
    }
}

/// All who anchored what is to be, each once; nobody unless all of it is.
fn anchored_by(sections: &[Section]) -> Vec<AnchoredBy> {
    let due = sections.iter().filter(|section| !section.due.is_empty());
    let anchors = due.map(|section| section.anchor.as_ref().filter(|anchor| anchor.covers(&section.due)));
    let mut all = Vec::new();
    for SectionAnchor { anchor, .. } in anchors.collect::<Option<Vec<_>>>().unwrap_or_default() {
        let by = AnchoredBy { chain_id: anchor.chain_id, account: anchor.account };
        if !all.contains(&by) {
            all.push(by);
        }
    }
    all
}

/// The epochs that ended by a key rotation of the gateway of `last`, up to that one.
fn rotated<'e>(epochs: &'e [Epoch], last: Option<&'e Epoch>) -> impl Iterator<Item = &'e Epoch> {
    let until = epochs.iter().position(|epoch| Some(epoch) == last).map_or(0, |at| at + 1);
    let is_of_it = move |epoch: &Epoch| last.is_some_and(|last| last.identity.gateway == epoch.identity.gateway);
    let pairs = epochs[..until].windows(2);
    pairs.filter(move |pair| pair[1].reason == Reason::KeyRotation && is_of_it(&pair[0])).map(|pair| &pair[0])
}

fn missing(epoch: &str, index: u64) -> ProveError {
    ProveError::Torn { epoch: epoch.to_owned(), what: format!("entry {index} is missing") }
}

/// C2SP tlog-proof.
fn tlog_text(opening: &Opening, path: &[Digest], checkpoint: &SignedCheckpoint) -> Vec<u8> {
    let mut extra = format!("{{\"kind\":\"{}\",\"meter_salt\":", opening.kind).into_bytes();
    let salt = opening.meter.as_ref().map_or_else(|| "null".to_owned(), |(_, salt)| format!("\"{}\"", salt.to_hex()));
    extra.extend_from_slice(format!("{salt},\"record\":").as_bytes());
    extra.extend_from_slice(&opening.record);
    let time = opening.time.as_millis();
    extra.extend_from_slice(format!(",\"salt\":\"{}\",\"time\":{time}}}", opening.salt.to_hex()).as_bytes());
    let mut text = format!("c2sp.org/tlog-proof@v1\nextra {}\nindex {}\n", STANDARD.encode(extra), opening.index);
    for hash in path {
        text.push_str(&STANDARD.encode(hash.as_bytes()));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&checkpoint.note());
    text.into_bytes()
}

/// What stands beside the sections of a proof.
#[derive(Default)]
struct Beside {
    /// The members of the array `readings`, with commas between.
    readings: Option<Vec<u8>>,
    row: Option<row::Row>,
}

impl Proof {
    async fn begin(
        reader: &Reader,
        claim: &Claim,
        sections: Vec<Section>,
        beside: Beside,
        rotations: Vec<Section>,
        notes: Vec<String>,
    ) -> Result<Self, ProveError> {
        let key = sections.last().map(|section| section.epoch.key.to_string()).unwrap_or_default();
        let told = ProofTold { key, notes, anchored: anchored_by(&sections) };
        let mut proof = Self { reader: reader.clone(), out: Vec::new(), pieces: VecDeque::new(), told };
        proof.text(text::opening(claim, &sections.iter().map(|section| section.anchor.as_ref()).collect::<Vec<_>>()));
        proof.sections(sections).await?;
        let mut end = b"]".to_vec();
        if let Some(row) = &beside.row {
            end.extend_from_slice(b",\"manifest\":");
            end.extend_from_slice(&row.manifest);
            end.extend_from_slice(b",\"path\":");
            text::push_hashes(&row.path, &mut end);
        }
        if let Some(readings) = &beside.readings {
            end.extend_from_slice(b",\"readings\":[");
            end.extend_from_slice(readings);
            end.push(b']');
        }
        end.extend_from_slice(b",\"rotations\":[");
        proof.text(end);
        proof.sections(rotations).await?;
        let mut end = b"]".to_vec();
        if let Some(row) = &beside.row {
            end.extend_from_slice(b",\"row\":");
            end.extend_from_slice(&row.text);
        }
        end.push(b'}');
        proof.text(end);
        Ok(proof)
    }

    async fn sections(&mut self, sections: Vec<Section>) -> Result<(), ProveError> {
        for (at, section) in sections.into_iter().enumerate() {
            if at > 0 {
                self.text(b",".to_vec());
            }
            self.section(section).await?;
        }
        Ok(())
    }

    async fn section(&mut self, section: Section) -> Result<(), ProveError> {
        let Section { epoch, checkpoint, opened, has_tail, meter, .. } = section;
        let (name, size) = (epoch.identity.epoch, checkpoint.checkpoint.size);
        let last = opened.last().copied().unwrap_or_default();
        let hashes = self.reader.siblings(&name, opened.clone(), size).await?;
        let mut hashes = hashes.ok_or_else(|| missing(&name, last))?;
        if has_tail {
            hashes.truncate(hashes.len().saturating_sub(right_of(last, size)));
        }
        self.text(text::section(&checkpoint));
        self.pieces.push_back(Piece::Hashes { hashes: hashes.into_iter(), is_first: true });
        self.text(text::leaves(&epoch.key));
        self.pieces.push_back(Piece::Opened { epoch: name.clone(), indices: opened.into_iter(), is_first: true });
        if has_tail {
            self.pieces.push_back(Piece::Plain { epoch: name, next: last + 1, to: size });
        }
        self.text(text::meters(meter.as_ref()));
        Ok(())
    }

    fn text(&mut self, text: Vec<u8>) {
        self.pieces.push_back(Piece::Text(text));
    }

    /// The next bytes; `None` at the end. After an error there is no more, and what came is no proof.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>, ProveError>> {
        while self.out.len() < CHUNK {
            let Some(piece) = self.pieces.pop_front() else { break };
            match self.write(piece).await {
                Ok(Some(rest)) => self.pieces.push_front(rest),
                Ok(None) => {}
                Err(error) => {
                    self.pieces.clear();
                    self.out.clear();
                    return Some(Err(error));
                }
            }
        }
        (!self.out.is_empty()).then(|| Ok(mem::take(&mut self.out)))
    }

    /// Writes a piece or some of it; what is left of it.
    async fn write(&mut self, piece: Piece) -> Result<Option<Piece>, ProveError> {
        match piece {
            Piece::Text(text) => {
                self.out.extend_from_slice(&text);
                Ok(None)
            }
            Piece::Hashes { mut hashes, mut is_first } => {
                for hash in hashes.by_ref().take(CHUNK / 64) {
                    text::push_comma(mem::take(&mut is_first), &mut self.out);
                    text::push_hash(&hash, &mut self.out);
                }
                Ok((hashes.len() > 0).then_some(Piece::Hashes { hashes, is_first }))
            }
            Piece::Opened { epoch, mut indices, mut is_first } => {
                let wanted: Vec<u64> = indices.by_ref().take(LEAVES).collect();
                let openings = self.reader.openings(&epoch, wanted.clone()).await?;
                if let Some(index) = wanted.get(openings.len()) {
                    return Err(missing(&epoch, *index));
                }
                for opening in openings {
                    text::push_comma(mem::take(&mut is_first), &mut self.out);
                    text::push_opened(&opening, &mut self.out);
                }
                Ok((indices.len() > 0).then_some(Piece::Opened { epoch, indices, is_first }))
            }
            Piece::Plain { epoch, next, to } => {
                let end = to.min(next + LEAVES as u64);
                let entries = self.reader.log_entries(&epoch, next, end).await?;
                if entries.len() as u64 != end - next {
                    return Err(missing(&epoch, next));
                }
                for (index, entry) in (next..).zip(&entries) {
                    self.out.push(b',');
                    text::push_plain(index, entry, &mut self.out);
                }
                Ok((end < to).then_some(Piece::Plain { epoch, next: end, to }))
            }
        }
    }

    /// All of it at once, for one that is known to be short.
    pub async fn whole(mut self) -> Result<Vec<u8>, ProveError> {
        let mut bytes = Vec::new();
        while let Some(more) = self.next().await {
            bytes.extend_from_slice(&more?);
        }
        Ok(bytes)
    }
}

/// How many of the hashes beside a leaf are of what lies to its right: in a walk from left to right they come last.
fn right_of(leaf: u64, size: u64) -> usize {
    let (mut low, mut high, mut right) = (0, size, 0);
    while high - low > 1 {
        let middle = low + merkle::split(high - low);
        if leaf < middle {
            (high, right) = (middle, right + 1);
        } else {
            low = middle;
        }
    }
    right
}
