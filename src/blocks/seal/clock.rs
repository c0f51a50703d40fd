//! What the clock rule asks of what is sealed: readings that move to their right time, and blocks that are taken back.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::{ARRIVALS, CLOCK, Sealer};
use crate::blocks::interval::reach_of;
use crate::blocks::walk::withdrawn;
use crate::model::{MeterId, Redate, Span, Stamp, Timestamp};
use crate::store::{Sealing, StoreError};

impl Sealer {
    /// Moves readings taken before the clock was right, with the blocks at the old and the new times, in one
    /// transaction.
    pub(super) async fn redate(
        &mut self,
        redates: Vec<Redate>,
        stamp: Stamp,
        through_seq: u64,
    ) -> Result<Vec<MeterId>, StoreError> {
        let mut places: BTreeMap<MeterId, BTreeSet<Timestamp>> = BTreeMap::new();
        for redate in &redates {
            let mut after = redate.first_seq.saturating_sub(1);
            while after < redate.last_seq {
                let batch = self.reader.arrivals(after, ARRIVALS).await?;
                let Some(last) = batch.last() else { break };
                after = last.seq;
                for reading in batch.iter().filter(|at| (redate.first_seq..=redate.last_seq).contains(&at.seq)) {
                    let places = places.entry(reading.layout.meter.clone()).or_default();
                    let (from, to) = reach_of(reading);
                    for moved in [0, redate.offset_ms] {
                        // One instant for each block is enough, and the first of all.
                        let periods = self.spans.between(from.plus_millis(moved), to.plus_millis(moved));
                        places.extend(periods.map(|period| period.span.start()));
                    }
                }
            }
        }
        info!(redates = redates.len(), meters = places.len(), "the clock is right: readings taken before are moved");
        let mut sealing = Sealing { redates: redates.clone(), ..Sealing::default() };
        let mut changed = Vec::new();
        for (meter, places) in places {
            let configured = self.config.meters.iter().find(|at| at.id == meter).cloned();
            let Some(state) = self.meters.get_mut(&meter) else { continue };
            if let Some(first) = state.first.as_mut() {
                *first = places.last().copied().unwrap_or(*first);
            }
            let Some(sealed) = state.sealed_through else { continue };
            state.touched.extend(places.range(..sealed));
            if state.touched.is_empty() {
                continue;
            }
            let view = self.view(&meter, stamp.time, through_seq, redates.clone());
            let (made, _) = self.revised(&meter, configured.as_ref(), &view, stamp.time).await?;
            let through = self.meters.get(&meter).and_then(|state| state.sealed_through);
            let made = self.with_sums(&meter, made, &mut sealing, through, stamp.time).await?;
            sealing.blocks.extend(made);
            changed.push(meter);
        }
        // Moved and settled at once: after a crash in between, the same readings would be moved once more.
        let mut settled = self.rule.clone();
        settled.settled();
        sealing.state.push((CLOCK, serde_json::to_value(&settled).unwrap_or_default()));
        self.write(sealing.clone()).await?;
        self.rule = settled;
        self.took(&sealing);
        for meter in &changed {
            if let Some(state) = self.meters.get_mut(meter) {
                state.touched.clear();
            }
            let last = self.last_block(meter).await?;
            self.set_tail(meter, last);
        }
        Ok(changed)
    }

    /// Takes back every block that ends after `now`.
    pub(super) async fn withdraw(&mut self, now: Timestamp) -> Result<Vec<MeterId>, StoreError> {
        let mut sealing = Sealing::default();
        let ahead: Vec<_> =
            self.meters.iter().filter_map(|(meter, state)| Some((meter, state.sealed_through?))).collect();
        for (meter, sealed) in ahead.into_iter().filter(|(_, sealed)| *sealed > now) {
            let Some(span) = Span::new(now, sealed) else { continue };
            let blocks = self.reader.blocks(meter, span).await?;
            let start = blocks.iter().map(|block| block.span.start()).min().unwrap_or(now);
            let start = start.min(self.spans.containing(now).span.start());
            sealing.blocks.extend(blocks.iter().map(|block| withdrawn(block, now)));
            sealing.sealed_through.push((meter.clone(), start));
        }
        warn!(blocks = sealing.blocks.len(), "blocks sealed ahead of the clock are withdrawn");
        self.write(sealing.clone()).await?;
        let changed: Vec<_> = sealing.sealed_through.iter().map(|(meter, _)| meter.clone()).collect();
        for (meter, start) in &sealing.sealed_through {
            if let Some(state) = self.meters.get_mut(meter) {
                // What came late for a block that is gone will be found when it is sealed again.
                state.touched = state.touched.split_off(&Timestamp::MIN).into_iter().filter(|at| at < start).collect();
                state.sealed_through = Some(*start);
                state.next_due = Timestamp::MIN;
            }
            let last = self.block_before(meter, *start).await?;
            self.set_tail(meter, last);
        }
        Ok(changed)
    }
}
