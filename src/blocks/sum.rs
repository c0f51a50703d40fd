//! Meters made of other meters, block by block: sealed with the last of their parts, revised with any.

use std::collections::BTreeMap;

use super::walk::LONG_SILENCE_MS;
use crate::model::calendar::Spans;
use crate::model::{
    Block, BlockFlag, BlockFlags, Borders, Digest, Energy, Meter, MeterId, Method, Origin, Span, Timestamp, jcs,
};
use crate::store::{Reader, StoreError};

/// What sums are made from.
pub struct Sums<'a> {
    pub spans: &'a Spans,
    pub meters: &'a [Meter],
    pub reader: &'a Reader,
    pub now: Timestamp,
}

/// The parts of a sum, with whether each is added.
pub fn parts(meter: &Meter) -> Vec<(&MeterId, bool)> {
    match &meter.origin {
        Origin::Sum { add, subtract } => {
            add.iter().map(|part| (part, true)).chain(subtract.iter().map(|part| (part, false))).collect()
        }
        Origin::Modbus { .. } | Origin::Mqtt { .. } | Origin::Simulator => Vec::new(),
    }
}

impl Sums<'_> {
    /// The blocks of the sums that `meter` is part of, and of their sums, that follow from `made`. `fresh` are all
    /// blocks of the transaction so far, `through` up to where each meter is sealed by it; both gain what is made.
    pub async fn follow(
        &self,
        meter: &MeterId,
        made: &[Block],
        fresh: &mut Vec<Block>,
        through: &mut BTreeMap<MeterId, Timestamp>,
    ) -> Result<(Vec<Block>, Vec<(MeterId, Timestamp)>), StoreError> {
        let (mut blocks, mut positions) = (Vec::new(), Vec::new());
        // Breadth first: a sum of sums comes after its parts, and the config has no cycles.
        let mut changed: Vec<(MeterId, Vec<Span>)> = vec![(meter.clone(), made.iter().map(|at| at.span).collect())];
        while let Some((part, spans)) = changed.pop() {
            for sum in self.meters.iter().filter(|sum| parts(sum).iter().any(|(of, _)| **of == part)) {
                let more = self.one(sum, &spans, fresh, through, &mut positions).await?;
                if !more.is_empty() {
                    changed.push((sum.id.clone(), more.iter().map(|block| block.span).collect()));
                }
                fresh.extend(more.iter().cloned());
                blocks.extend(more);
            }
        }
        Ok((blocks, positions))
    }

    /// One sum's blocks that the changed spans of a part touch, and those that are now complete.
    async fn one(
        &self,
        sum: &Meter,
        touched: &[Span],
        fresh: &[Block],
        through: &mut BTreeMap<MeterId, Timestamp>,
        positions: &mut Vec<(MeterId, Timestamp)>,
    ) -> Result<Vec<Block>, StoreError> {
        let parts = parts(sum);
        let (Some(first), Some(last)) = (touched.iter().map(Span::start).min(), touched.iter().map(Span::end).max())
        else {
            return Ok(Vec::new());
        };
        let sealed = through.get(&sum.id).copied();
        // A part that never said anything is null for ever; the others decide how far the sum is complete.
        let Some(complete) = parts.iter().filter_map(|(part, _)| through.get(part)).min().copied() else {
            return Ok(Vec::new());
        };
        let from = sealed.map_or(first, |sealed| first.min(sealed));
        let to = complete.max(sealed.unwrap_or(complete).min(last));
        let Some(range) = Span::new(from, to) else { return Ok(Vec::new()) };

        let mut of_parts = Vec::new();
        for (part, added) in &parts {
            let stored = self.reader.blocks(part, range).await?;
            of_parts.push((*part, *added, in_effect(part, stored, fresh)));
        }
        let own = in_effect(&sum.id, self.reader.blocks(&sum.id, range).await?, fresh);
        let mut made: Vec<Block> = Vec::new();
        let mut pos = from;
        while pos < to {
            let longest = of_parts.iter().filter_map(|(_, _, blocks)| at(blocks, pos)).map(|block| block.span);
            // Blocks of all parts have the same borders; only a silence reaches over several.
            let end = longest.map(|span| span.end()).min().unwrap_or_else(|| self.spans.containing(pos).span.end());
            let calendar = self.spans.containing(pos).span;
            let end = if calendar.start() <= pos { end.min(calendar.end()) } else { end }.min(to);
            let Some(span) = Span::new(pos, end) else { break };
            pos = end;
            let fresh_span = sealed.is_none_or(|sealed| span.start() >= sealed);
            if !fresh_span && !touched.iter().any(|at| at.overlaps(&span)) {
                continue;
            }
            if fresh_span && span.end() > complete {
                break;
            }
            let mut block = self.add_up(sum, span, &of_parts);
            if let Some(known) = at(&own, span.start()) {
                block.revision = known.revision + 1;
                let same = Block { revision: known.revision, sealed: known.sealed, ..block.clone() };
                if same == *known {
                    continue;
                }
            }
            match made.last_mut() {
                // A silence longer than a day becomes one record, like a meter's own.
                Some(before) if joins(before, &block) => {
                    before.span = Span::new(before.span.start(), block.span.end()).unwrap_or(before.span);
                }
                _ => made.push(block),
            }
        }
        if sealed.is_none_or(|sealed| complete > sealed) {
            through.insert(sum.id.clone(), complete);
            positions.push((sum.id.clone(), complete));
        }
        Ok(made)
    }

    fn add_up(&self, sum: &Meter, span: Span, parts: &[(&MeterId, bool, Vec<Block>)]) -> Block {
        let (mut import, mut export) = (Some(0_i64), Some(0_i64));
        let (mut has_import, mut has_export, mut null) = (false, false, false);
        let (mut covered, mut coverage, mut interval_ms, mut through_seq) = (span.millis(), 10_000, 0, 0);
        let mut flags = BlockFlags::NONE;
        let mut lines = Vec::new();
        for (part, added, blocks) in parts {
            let Some(block) = at(blocks, span.start()).filter(|block| block.span.end() >= span.end()) else {
                (null, covered, coverage) = (true, 0, 0);
                flags.add(BlockFlag::Gap);
                continue;
            };
            let whole = block.span == span;
            let record = block.to_record().unwrap_or_default();
            let line = serde_json::json!({
                "add": added, "meter": part.as_str(), "record_sha256": Digest::of(&record).to_string(),
            });
            lines.extend(jcs::to_vec(&line).unwrap_or_default());
            lines.push(b'\n');
            null |= block.net().is_none() || !whole;
            let take = |total: Option<i64>, energy: Option<Energy>| {
                let energy = energy.unwrap_or_default().as_uwh();
                total.and_then(|total| if *added { total.checked_add(energy) } else { total.checked_sub(energy) })
            };
            import = take(import, block.import);
            export = take(export, block.export);
            has_import |= block.import.is_some();
            has_export |= block.export.is_some();
            covered = covered.min(if whole { block.covered_ms } else { 0 });
            coverage = coverage.min(block.coverage);
            flags = flags.union(block.flags);
            interval_ms = interval_ms.max(block.interval_ms);
            through_seq = through_seq.max(block.through_seq);
        }
        let energy = |has: bool, total: Option<i64>| total.filter(|_| has && !null).map(Energy::from_uwh);
        Block {
            meter: sum.id.clone(),
            span,
            nominal_ms: self.spans.nominal_ms(),
            revision: 0,
            category: sum.category,
            import: energy(has_import, import),
            export: energy(has_export, export),
            max_power: None,
            min_power: None,
            covered_ms: if null { 0 } else { covered },
            coverage: if null { 0 } else { coverage },
            method: Method::Sum,
            is_peak_hour: self.spans.is_peak(span.start()),
            flags,
            readings_sha256: Digest::of(&lines),
            through_seq,
            borders: Borders::default(),
            zone: self.spans.zone().to_owned(),
            interval_ms,
            template: None,
            sealed: self.now,
        }
    }
}

/// Whether two silent blocks of a sum, one after the other, belong to one record: never within the first day.
fn joins(before: &Block, next: &Block) -> bool {
    let both_null = before.net().is_none() && next.net().is_none();
    both_null
        && before.flags == next.flags
        && before.span.end() == next.span.start()
        && before.revision == next.revision
        && (before.span.millis() > LONG_SILENCE_MS || next.span.millis() > LONG_SILENCE_MS)
}

/// A meter's blocks: those stored, with those of this transaction in their place.
fn in_effect(meter: &MeterId, stored: Vec<Block>, fresh: &[Block]) -> Vec<Block> {
    let mut blocks: Vec<Block> = fresh.iter().rev().filter(|block| block.meter == *meter).cloned().collect();
    blocks.extend(stored);
    blocks
}

/// The block in effect at an instant: the first of those in the list that contain it.
fn at(blocks: &[Block], instant: Timestamp) -> Option<&Block> {
    blocks.iter().find(|block| block.span.contains(instant))
}
