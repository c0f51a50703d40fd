//! Which anchor a section is shown with: the oldest one that covers what is to be anchored, since its time is the bound.

use super::{ProveError, Prover, missing};
use crate::model::note::{Checkpoint, SignedCheckpoint};
use crate::model::{Anchor, AnchorState, AnchorStatus, Anchored, ChainEvidence, Coverage, Digest};
use crate::store::Epoch;

/// The anchor of a section, as it is written into a proof.
#[derive(Debug)]
pub struct SectionAnchor {
    pub signed: SignedCheckpoint,
    /// From it to the checkpoint of the section.
    pub hashes: Vec<Digest>,
    pub evidence: ChainEvidence,
    /// The one that was anchored before in this epoch, and the hashes from it.
    pub before: Option<(SignedCheckpoint, Vec<Digest>)>,
    /// As the store has it.
    pub anchor: Anchor,
}

impl SectionAnchor {
    pub fn size(&self) -> u64 {
        self.signed.checkpoint.size
    }

    pub fn covers(&self, due: &[u64]) -> bool {
        due.last().is_some_and(|last| *last < self.size())
    }
}

impl Prover {
    /// The chain that is anchored on; none where nobody can tell.
    fn chain(&self) -> Option<u64> {
        self.anchoring.as_ref().and_then(|status| status.borrow().chain())
    }

    /// The anchor for the leaves at `due` (increasing), of `at_most` entries: the oldest final one that covers all of them,
    /// or else the oldest that is in a block; where none covers all, the newest that covers some. All of one chain: the
    /// one that is configured, if anything of the epoch stands there.
    pub(super) async fn anchor(
        &self,
        epoch: &Epoch,
        due: &[u64],
        at_most: u64,
    ) -> Result<Option<SectionAnchor>, ProveError> {
        let Some((first, last)) = due.first().zip(due.last()) else { return Ok(None) };
        let mut mined = self.reader.coverage(&epoch.identity.epoch).await?;
        mined.retain(|at| matches!(at.state, AnchorState::Included | AnchorState::Final));
        let newest = mined.iter().max_by_key(|at| at.id).map(|at| at.chain_id);
        let configured = self.chain().filter(|chain| mined.iter().any(|at| at.chain_id == *chain));
        // Another one may have been tried, which shows less.
        let Some(chain) = configured.or(newest) else { return Ok(None) };
        mined.retain(|at| at.chain_id == chain);
        let all = |state| mined.iter().filter(move |at| at.state == state && at.size > *last);
        let some = mined.iter().rev().filter(|at| at.size <= *last && at.size > *first);
        let candidates = all(AnchorState::Final).chain(all(AnchorState::Included)).chain(some);
        for at in candidates.filter(|at| at.size <= at_most) {
            if let Some((anchor, signed, evidence)) = self.mined(epoch, at).await? {
                let before = self.before(epoch, &mined, &signed).await?;
                return Ok(Some(SectionAnchor { signed, hashes: Vec::new(), evidence, before, anchor }));
            }
        }
        Ok(None)
    }

    /// The hashes from the checkpoint of an anchor to that of its section.
    pub(super) async fn continued(&self, epoch: &Epoch, from: u64, to: u64) -> Result<Vec<Digest>, ProveError> {
        let name = &epoch.identity.epoch;
        self.reader.consistency(name, from, to).await?.ok_or_else(|| missing(name, from))
    }

    /// An anchor that is in a block, and what shows it; `None` where it is not any more.
    async fn mined(
        &self,
        epoch: &Epoch,
        at: &Coverage,
    ) -> Result<Option<(Anchor, SignedCheckpoint, ChainEvidence)>, ProveError> {
        let (anchor, evidence) = (self.reader.anchor(at.id).await?, self.reader.anchor_evidence(at.id).await?);
        let Some((anchor, evidence)) = anchor.zip(evidence) else { return Ok(None) };
        Ok(signed(epoch, at, &anchor).map(|signed| (anchor, signed, evidence)))
    }

    /// The newest of those checkpoints of the epoch that was anchored before this one.
    async fn before(
        &self,
        epoch: &Epoch,
        mined: &[Coverage],
        anchored: &SignedCheckpoint,
    ) -> Result<Option<(SignedCheckpoint, Vec<Digest>)>, ProveError> {
        let size = anchored.checkpoint.size;
        for at in mined.iter().rev().filter(|at| at.size < size) {
            if let Some(before) = self.reader.anchor(at.id).await?.and_then(|anchor| signed(epoch, at, &anchor)) {
                let hashes = self.continued(epoch, before.checkpoint.size, size).await?;
                return Ok(Some((before, hashes)));
            }
        }
        Ok(None)
    }

    /// For a person: how far the leaves at `due` are on their way to a chain; nothing where there is no way.
    pub(super) async fn on_its_way(
        &self,
        epoch: &Epoch,
        due: &[u64],
        found: Option<&SectionAnchor>,
    ) -> Result<Option<String>, ProveError> {
        let Some(last) = due.last() else { return Ok(None) };
        if let Some(SectionAnchor { anchor, .. }) = found.filter(|found| found.covers(due)) {
            let is_final = anchor.state == AnchorState::Final;
            return Ok((!is_final).then(|| {
                "it is anchored in a block that is not final yet: a verifier tells when it is (--rpc)".to_owned()
            }));
        }
        let mut coverage = self.reader.coverage(&epoch.identity.epoch).await?;
        coverage.retain(|at| self.chain().is_none_or(|chain| at.chain_id == chain));
        let covering = coverage.iter().filter(|at| at.size > *last).max_by_key(|at| at.state.merit());
        let waiting = match covering {
            Some(at) => self.reader.anchor(at.id).await?,
            None => None,
        };
        let status = self.anchoring.as_ref().map(|status| status.borrow().clone());
        // Without an account nobody anchors here.
        let status = status.filter(|status| status.account.is_some());
        let way = match (&waiting, &status) {
            (Some(anchor), _) => of_anchor(anchor),
            (None, Some(status)) => of_status(status),
            (None, None) if coverage.is_empty() => return Ok(None),
            (None, None) => "nothing that is anchored, or on its way, covers it".to_owned(),
        };
        let some = if found.is_some() { "only a part of it is anchored yet" } else { "it is not anchored yet" };
        Ok(Some(format!("{some}: {way}. Ask for the proof again then: what it proves stays the same")))
    }
}

/// What an anchor waits for.
fn of_anchor(anchor: &Anchor) -> String {
    if let Some(waiting) = &anchor.waiting {
        return format!("its checkpoint waits: {}", waiting.text.trim_end_matches('.'));
    }
    let newest = anchor.attempts.last().map(|attempt| format!(" by transaction {}", attempt.hash)).unwrap_or_default();
    match anchor.state {
        AnchorState::Queued => "its checkpoint is queued".to_owned(),
        AnchorState::Signed | AnchorState::Sent => format!("its checkpoint is on its way{newest}"),
        AnchorState::Reorganised => format!("the chain was reorganised, and its checkpoint is sent again{newest}"),
        AnchorState::Included | AnchorState::Final => format!("its checkpoint is in a block{newest}"),
    }
}

fn of_status(status: &AnchorStatus) -> String {
    match (&status.waiting, status.next) {
        (Some(waiting), _) => format!("anchoring waits: {}", waiting.text.trim_end_matches('.')),
        (None, Some(next)) => format!("the next checkpoint is anchored at {next}"),
        (None, None) => "no anchor is due".to_owned(),
    }
}

/// The checkpoint of an anchor, with the signature of the epoch's key alone; `None` where it is none of this epoch.
fn signed(epoch: &Epoch, at: &Coverage, anchor: &Anchor) -> Option<SignedCheckpoint> {
    let Anchored::Checkpoint { note, .. } = &anchor.what else { return None };
    let mut signed: SignedCheckpoint = note.parse().ok()?;
    signed.signatures.retain(|line| line.name == epoch.key.name());
    let Checkpoint { origin, size, .. } = &signed.checkpoint;
    (origin == epoch.key.name() && *size == at.size).then_some(signed)
}
