//! Every entry of a meter, in each epoch that has any.

use super::{ProveError, Prover, Section};
use crate::model::proof::NotProven;
use crate::model::{MeterId, Span, Timestamp};
use crate::store::{Epoch, LogPlace};

impl Prover {
    /// The sections, and what should be told beside.
    pub(super) async fn period(
        &self,
        epochs: &[Epoch],
        meter: &MeterId,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<(Vec<Section>, Vec<String>), ProveError> {
        if from >= to {
            let why = format!("the period from {from} to {to} has no length: give an earlier start or a later end");
            return Err(NotProven::BadRequest(why).into());
        }
        let current = self.sign_all(epochs).await?;
        let mut found = Vec::new();
        for epoch in epochs {
            let name = &epoch.identity.epoch;
            let is_current = current.checkpoint.origin == epoch.key.name();
            let checkpoint = if is_current { Some(current.clone()) } else { self.reader.checkpoint(name).await? };
            let Some(checkpoint) = checkpoint else { continue };
            let mut entries = self.reader.entries_of_meter(name, meter).await?;
            // One that came meanwhile may be under a newer checkpoint.
            entries.retain(|index| *index < checkpoint.checkpoint.size);
            if !entries.is_empty() {
                found.push((epoch, checkpoint, entries));
            }
        }
        let gateway = of_one_gateway(found.iter().map(|(epoch, ..)| *epoch), epochs, (from, to))?;
        found.retain(|(epoch, ..)| Some(&epoch.identity.gateway) == gateway.as_ref());
        if found.is_empty() {
            return Err(NotProven::NoMeter(meter.clone()).into());
        }
        let mut places = match Span::new(from, to) {
            Some(span) => self.reader.entries_of_blocks(meter, span).await?,
            None => Vec::new(),
        };
        places.sort_unstable();
        let mut sections = Vec::new();
        for (epoch, checkpoint, entries) in found {
            let index = entries.last().copied().unwrap_or_default();
            let newest = self.opening(&LogPlace { epoch: epoch.identity.epoch.clone(), index }).await?;
            // Leaf 0 says how the epoch came to be; it is of no meter.
            let opened = [vec![0], entries].concat();
            let size = checkpoint.checkpoint.size;
            let is_due = |at: &&LogPlace| at.epoch == epoch.identity.epoch && at.index < size;
            let due: Vec<u64> = places.iter().filter(is_due).map(|at| at.index).collect();
            let mut anchor = self.anchor(epoch, &due, size).await?;
            if let Some(anchor) = &mut anchor {
                anchor.hashes = self.continued(epoch, anchor.size(), size).await?;
            }
            let section = Section::new(epoch, checkpoint, opened, newest.meter);
            sections.push(Section { has_tail: true, due, anchor, ..section });
        }
        let mut notes = Vec::new();
        let sealed = self.reader.sealed_through().await?.get(meter).copied();
        if let Some(sealed) = sealed.filter(|sealed| *sealed < to) {
            notes.push(format!("blocks of {meter} are sealed up to {sealed}: what comes after is not in this proof"));
        }
        Ok((sections, notes))
    }
}

/// The gateway whose log covers the period: the one that a proof is about, since another has other keys.
fn of_one_gateway<'e>(
    found: impl DoubleEndedIterator<Item = &'e Epoch> + Clone,
    epochs: &[Epoch],
    (from, to): (Timestamp, Timestamp),
) -> Result<Option<String>, NotProven> {
    // The newest epoch that was open before the period's end; for one before the log began, the first.
    let newest = found.clone().rev().find(|epoch| epoch.opened < to).or_else(|| found.clone().next());
    let Some(gateway) = newest.map(|epoch| &epoch.identity.gateway) else { return Ok(None) };
    let begun = epochs.iter().find(|epoch| epoch.identity.gateway == *gateway).map(|epoch| epoch.opened);
    let is_before = |epoch: &&Epoch| epoch.identity.gateway != *gateway && begun.is_some_and(|at| epoch.opened < at);
    match begun.filter(|at| from < *at && *at < to && found.clone().any(|epoch| is_before(&epoch))) {
        Some(at) => Err(NotProven::OtherGateway { at }),
        None => Ok(Some(gateway.clone())),
    }
}
