//! A block with its revisions, and its readings as long as they are kept.

use super::{ProveError, Prover, Section};
use crate::model::proof::NotProven;
use crate::model::record::{lines_around, write_reading};
use crate::model::{Block, BlockFlag, Digest, MeterId, Method, Span, Timestamp};
use crate::store::{Reader, StoreError};

/// Blocks lie around an instant within this, but for a silence of many, which is found however long it is.
const AROUND_MS: i64 = 86_400_000;

impl Prover {
    /// The section, and the members of `readings`.
    pub(super) async fn block(
        &self,
        meter: &MeterId,
        start: Timestamp,
    ) -> Result<(Section, Option<Vec<u8>>), ProveError> {
        let revisions = self.reader.revisions(meter, start).await?;
        if revisions.is_empty() {
            return Err(why_not(&self.reader, meter, start).await?.into());
        }
        let mut places = self.reader.entries_of_block(meter, start).await?;
        if places.len() < revisions.len() {
            self.publisher.publish().await?;
            places = self.reader.entries_of_block(meter, start).await?;
        }
        let epochs = self.reader.epochs().await?;
        // Revisions of one epoch are chained; those of an earlier one need a section that a block's proof has no room for.
        let Some(last) = places.last().cloned() else {
            if revisions.iter().all(|block| block.flags.has(BlockFlag::Simulated)) {
                return Err(NotProven::Simulated(meter.clone()).into());
            }
            return Err(ProveError::Torn {
                epoch: epochs.last().map(|epoch| epoch.identity.epoch.clone()).unwrap_or_default(),
                what: format!("the block of {meter} at {start} has no entry"),
            });
        };
        let opening = self.opening(&last).await?;
        // What is opened last is the newest revision for whoever reads the proof: another may have been sealed by now.
        let newest = Block::from_record(&opening.record).map_err(|error| ProveError::Torn {
            epoch: last.epoch.clone(),
            what: format!("entry {} is no block: {error}", last.index),
        })?;
        let mut opened: Vec<u64> = places.iter().filter(|at| at.epoch == last.epoch).map(|at| at.index).collect();
        opened.sort_unstable();
        let section = self.section(&epochs, &last.epoch, opened, opening.meter).await?;
        Ok((section, readings(&self.reader, &newest).await?))
    }
}

/// The readings that the block commits to, as members of a JSON array; `None` when they are not all there any more, or
/// when it has none of its own.
async fn readings(reader: &Reader, block: &Block) -> Result<Option<Vec<u8>>, StoreError> {
    if block.method == Method::Sum {
        return Ok(None);
    }
    let mut within = Vec::new();
    let mut stream = reader.readings(block.meter.clone(), block.span.start(), block.span.end());
    while let Some(batch) = stream.next().await {
        for reading in batch?.iter().filter(|reading| reading.seq <= block.through_seq) {
            write_reading(reading, &mut within);
        }
    }
    let mut lines = lines_around(&block.borders, &within);
    if Digest::of(&lines) != block.readings_sha256 {
        return Ok(None);
    }
    lines.pop();
    lines.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b',');
    Ok(Some(lines))
}

/// Why no block of the meter starts at this instant.
async fn why_not(reader: &Reader, meter: &MeterId, at: Timestamp) -> Result<NotProven, StoreError> {
    let Some((first, last)) = reader.block_starts(meter).await? else {
        // It is read, or was: its first block is still to come.
        let is_known = reader.meters().contains(meter) || !reader.commissionings(meter, 1).await?.is_empty();
        let why = if is_known { NotProven::NoneSealed } else { NotProven::NoMeter };
        return Ok(why(meter.clone()));
    };
    let around = |at: Timestamp| Span::new(at.plus_millis(-AROUND_MS), at.plus_millis(AROUND_MS));
    let near = match around(at) {
        Some(around) => reader.blocks(meter, around).await?,
        None => Vec::new(),
    };
    if let Some(block) = near.iter().find(|block| block.span.contains(at)) {
        return Ok(NotProven::Within { meter: meter.clone(), at, within: block.span });
    }
    let sealed = reader.sealed_through().await?.get(meter).copied();
    let newest = reader.revisions(meter, last).await?.pop();
    Ok(match (sealed, newest) {
        (Some(sealed), Some(newest)) if at >= sealed => not_sealed(&newest, sealed, at),
        _ => NotProven::NoBlock { meter: meter.clone(), at, first },
    })
}

/// A block that is still to come, by the newest one: as long as that, and sealed as long after its end.
fn not_sealed(newest: &Block, sealed: Timestamp, at: Timestamp) -> NotProven {
    let nominal = i64::from(newest.nominal_ms).max(1);
    let start = at.plus_millis(-(at.millis_since(sealed).rem_euclid(nominal)));
    let due = start.plus_millis(nominal + (2 * i64::from(newest.interval_ms)).clamp(10_000, 900_000));
    NotProven::NotSealed { meter: newest.meter.clone(), at, start, due }
}
