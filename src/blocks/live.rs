//! The blocks that run: kept from reading to reading, and taken anew from the store when a reading comes out of order.

use std::collections::BTreeMap;

use super::rule::{Carry, Tally, reach_ms, share};
use super::seal::spans_of;
use super::sum::parts;
use super::window::View;
use super::{Config, OpenBlocks};
use crate::model::calendar::Spans;
use crate::model::{
    Block, BlockFlag, Category, Energy, Layout, Meter, MeterId, Method, OpenBlock, Power, Role, Span, StoredReading,
    Timestamp,
};
use crate::store::{Reader, StoreError};

/// The open blocks of all meters that have been heard.
#[derive(Default)]
pub struct Live {
    meters: BTreeMap<MeterId, Open>,
}

struct Open {
    tally: Tally,
    newest: Option<Timestamp>,
    /// Readings up to this seq are in the tally already.
    through_seq: u64,
    category: Category,
    interval_ms: u32,
    simulated: bool,
    /// A reading came out of order, or the past changed: what is held may be wrong.
    stale: bool,
}

/// Energy in µWh is power in mW times ms, divided by this.
const MW_MS_PER_UWH: i128 = 3_600;

/// The block of a meter that has power alone, at `at`, and the number of its readings: what is known with power held no
/// further than `until`. For whoever cannot wait for the next look at the open blocks.
pub async fn look(
    config: &Config,
    reader: &Reader,
    meter: &Meter,
    (at, until): (Timestamp, Timestamp),
) -> Result<(OpenBlock, u64), StoreError> {
    let spans = spans_of(config);
    let span = spans.containing(at).span;
    let interval_ms = meter.interval_ms.unwrap_or(60_000);
    let mut carry = Carry::default();
    if let Some(before) = reader.last_before(&meter.id, Role::Power, span.start()).await?
        && let Some(held) = Span::new(before.time, span.start())
    {
        let mut tally = Tally::begin(held, carry, interval_ms, false);
        tally.push(&before);
        carry = tally.carry();
    }
    let mut open = Open {
        tally: Tally::begin(span, carry, interval_ms, false),
        newest: None,
        through_seq: 0,
        category: meter.category,
        interval_ms,
        simulated: meter.simulated,
        stale: false,
    };
    let mut readings = reader.readings(meter.id.clone(), span.start(), span.end());
    while let Some(batch) = readings.next().await {
        batch?.iter().for_each(|reading| open.tally.push(reading));
    }
    let block = open.show(&meter.id, &spans, meter.peak_target, until.min(span.end()));
    Ok((block, open.tally.readings()))
}

impl Live {
    /// Takes a committed reading.
    pub fn push(&mut self, reading: &StoredReading, spans: &Spans) {
        let layout = &reading.layout;
        if !Role::ALL.into_iter().any(|role| layout.slot_of(role).is_some()) {
            return;
        }
        let Some(open) = self.meters.get_mut(&layout.meter) else {
            let mut open = Open::new(layout, spans, reading.time);
            open.stale = true;
            self.meters.insert(layout.meter.clone(), open);
            return; // Taken anew with what lies before it.
        };
        if reading.seq <= open.through_seq {
            return;
        }
        let reaches_in = reading.time < open.tally.span().start() && reading.layout.has_intervals();
        // In order of time, then seq, as the store reads them: a quick meter has two answers in one millisecond.
        let in_order = open.newest.is_none_or(|newest| reading.time >= newest) && !reaches_in;
        if open.stale || !in_order || layout.interval_ms.is_some_and(|interval| interval != open.interval_ms) {
            open.stale = true;
            return;
        }
        if reading.time >= open.tally.span().end() {
            open.turn(spans.containing(reading.time).span);
        }
        (open.newest, open.through_seq) = (Some(reading.time), reading.seq);
        open.tally.push(reading);
    }

    /// What is held of a meter must be taken anew: its past changed.
    pub fn forget(&mut self, meter: &MeterId) {
        if let Some(open) = self.meters.get_mut(meter) {
            open.stale = true;
        }
    }

    pub fn forget_all(&mut self) {
        self.meters.values_mut().for_each(|open| open.stale = true);
    }

    /// Meters whose open block must be taken anew, beside those of `known` that have none yet.
    pub fn stale<'a>(&'a self, known: impl Iterator<Item = &'a MeterId>) -> Vec<MeterId> {
        let missing = known.filter(|meter| !self.meters.contains_key(*meter));
        let stale = self.meters.iter().filter(|(_, open)| open.stale).map(|(meter, _)| meter);
        missing.chain(stale).cloned().collect()
    }

    /// Takes one meter's open block anew from the store. `last` is the last sealed block.
    pub async fn take_anew(
        &mut self,
        view: &View,
        spans: &Spans,
        last: Option<&Block>,
        meter: Option<&Meter>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let running = spans.containing(now).span;
        let mut carry = last.map(|block| Carry::after(&block.borders, block.span.end())).unwrap_or_default();
        let from = last.map_or(running.start(), |block| block.span.end()).min(running.start());
        let mut window = view.from(from);
        let mut open: Option<Open> = None;
        if let Some(before) = Span::new(from, running.start()) {
            let interval_ms = last.map_or(1_000, |block| block.interval_ms);
            let mut tally = Tally::begin(before, carry, interval_ms, false);
            while window.peek(0).await?.is_some_and(|reading| reading.time < running.start())
                && let Some(reading) = window.pop().await?
            {
                tally.push(&reading);
            }
            carry = tally.carry();
        }
        if let (Some(block), Some(spoke)) = (last, carry.spoke()) {
            let interval_ms = meter.and_then(|meter| meter.interval_ms).unwrap_or(block.interval_ms);
            open = Some(Open {
                tally: Tally::begin(running, carry.clone(), interval_ms, false),
                newest: Some(spoke),
                through_seq: view.through_seq,
                category: meter.map_or(block.category, |meter| meter.category),
                interval_ms,
                simulated: block.flags.has(BlockFlag::Simulated),
                stale: false,
            });
        }
        while let Some(reading) = window.pop().await? {
            let open = open.get_or_insert_with(|| {
                let mut open = Open::new(&reading.layout, spans, now);
                open.tally = Tally::begin(running, carry.clone(), open.interval_ms, false);
                open.through_seq = view.through_seq;
                open
            });
            open.newest = Some(reading.time);
            open.tally.push(&reading);
        }
        match open {
            Some(open) => self.meters.insert(view.meter.clone(), open),
            None => self.meters.remove(&view.meter),
        };
        Ok(())
    }

    /// What is known now of all meters of the config, sums included.
    pub fn show(&mut self, config: &Config, spans: &Spans, now: Timestamp) -> OpenBlocks {
        let mut shown = OpenBlocks::new();
        for (id, open) in &mut self.meters {
            if now >= open.tally.span().end() && !open.stale {
                open.turn(spans.containing(now).span);
            }
            if !open.tally.span().contains(now) {
                continue; // The clock stands elsewhere than the readings.
            }
            let target = config.meters.iter().find(|meter| meter.id == *id).and_then(|meter| meter.peak_target);
            shown.insert(id.clone(), open.show(id, spans, target, now));
        }
        // A sum of sums comes when its parts are there; the config has no cycles.
        let mut sums: Vec<&Meter> = config.meters.iter().filter(|meter| !parts(meter).is_empty()).collect();
        while let Some(at) = sums.iter().position(|sum| {
            let waits = |part: &MeterId| sums.iter().any(|other| other.id == *part);
            !parts(sum).iter().any(|(part, _)| waits(part))
        }) {
            let sum = sums.swap_remove(at);
            if let Some(open) = add_up(sum, &shown) {
                shown.insert(sum.id.clone(), open);
            }
        }
        shown
    }
}

impl Open {
    fn new(layout: &Layout, spans: &Spans, at: Timestamp) -> Self {
        let interval_ms = layout.interval_ms.unwrap_or(60_000);
        Self {
            tally: Tally::begin(spans.containing(at).span, Carry::default(), interval_ms, false),
            newest: None,
            through_seq: 0,
            category: layout.category,
            interval_ms,
            simulated: layout.simulated,
            stale: false,
        }
    }

    /// Goes on to another block.
    fn turn(&mut self, span: Span) {
        self.tally = Tally::begin(span, self.tally.carry(), self.interval_ms, false);
    }

    fn show(&self, meter: &MeterId, spans: &Spans, peak_target: Option<Energy>, now: Timestamp) -> OpenBlock {
        let span = self.tally.span();
        let (import, export, method) = self.tally.energy(self.category, now);
        let (max_power, min_power) = self.tally.extremes();
        let passed = now.millis_since(span.start());
        let covered_ms = self.tally.covered_ms().min(passed);
        let mut flags = self.tally.flags();
        if self.simulated {
            flags.add(BlockFlag::Simulated);
        }
        if covered_ms < passed - reach_ms(self.interval_ms) {
            flags.add(BlockFlag::Gap);
        }
        let mut open = OpenBlock {
            meter: meter.clone(),
            span,
            nominal_ms: spans.nominal_ms(),
            at: now,
            category: self.category,
            import,
            export,
            max_power,
            min_power,
            covered_ms,
            coverage: share(covered_ms, passed),
            method,
            is_peak_hour: spans.is_peak(span.start()),
            flags,
            projected: None,
            remaining_ms: span.end().millis_since(now),
            peak_target,
            shed: None,
        };
        open.projected = self.projected(&open, now);
        open.shed = shed(&open);
        open
    }

    /// Net energy at the end if power stays as it is: the last reading of power while it speaks, else the mean of the
    /// block so far.
    fn projected(&self, open: &OpenBlock, now: Timestamp) -> Option<Energy> {
        let net = open.net();
        let start = open.span.start();
        // The energy so far is known up to the last counted reading, or with held power up to now.
        let counted = self.tally.counted_until(now).unwrap_or(start).max(start);
        let known_until = if open.method == Method::Power { now } else { counted };
        let fresh = self.tally.last_power().filter(|(at, _)| now.millis_since(*at) <= reach_ms(self.interval_ms));
        let mw = match fresh {
            Some((_, power)) => i128::from(power.as_mw()),
            None => {
                let long = i128::from(known_until.millis_since(start));
                (long >= 60_000).then(|| i128::from(net.unwrap_or_default().as_uwh()) * MW_MS_PER_UWH / long)?
            }
        };
        let rest = mw * i128::from(open.span.end().millis_since(known_until)) / MW_MS_PER_UWH;
        let whole = i128::from(net.unwrap_or_default().as_uwh()) + rest;
        i64::try_from(whole).ok().map(Energy::from_uwh)
    }
}

/// The load that must go for the rest of the block, rounded up so that the target is met.
fn shed(open: &OpenBlock) -> Option<Power> {
    let (projected, target) = (open.projected?, open.peak_target?);
    let over = i128::from(projected.as_uwh()) - i128::from(target.as_uwh());
    if over <= 0 {
        return Some(Power::ZERO);
    }
    let left = i128::from(open.remaining_ms.max(1));
    let mw = (over * MW_MS_PER_UWH + left - 1) / left;
    Some(Power::from_mw(i64::try_from(mw).unwrap_or(i64::MAX)))
}

/// A sum's open block: unknown while any part is.
fn add_up(sum: &Meter, shown: &OpenBlocks) -> Option<OpenBlock> {
    let parts: Option<Vec<_>> = parts(sum).into_iter().map(|(part, add)| Some((shown.get(part)?, add))).collect();
    let parts = parts?;
    let (first, _) = parts.first()?;
    let total = |of: &dyn Fn(&OpenBlock) -> Option<Energy>| {
        parts.iter().try_fold(Energy::ZERO, |sum, (part, add)| {
            let energy = of(part)?;
            if *add { sum.checked_add(energy) } else { sum.checked_sub(energy) }
        })
    };
    let known = parts.iter().all(|(part, _)| part.net().is_some());
    let direction = |of: &dyn Fn(&OpenBlock) -> Option<Energy>| {
        let any = known && parts.iter().any(|(part, _)| of(part).is_some());
        any.then(|| total(&|part| Some(of(part).unwrap_or_default()))).flatten()
    };
    // A part's net energy counts in the sum's direction.
    let net_of = |part: &OpenBlock, energy: Energy| {
        if part.category.counts_import() == sum.category.counts_import() {
            Some(energy)
        } else {
            Energy::ZERO.checked_sub(energy)
        }
    };
    let mut open = OpenBlock {
        meter: sum.id.clone(),
        category: sum.category,
        import: direction(&|part| part.import),
        export: direction(&|part| part.export),
        max_power: None,
        min_power: None,
        covered_ms: parts.iter().map(|(part, _)| part.covered_ms).min().unwrap_or(0),
        coverage: parts.iter().map(|(part, _)| part.coverage).min().unwrap_or(0),
        method: Method::Sum,
        flags: parts.iter().fold(first.flags, |flags, (part, _)| flags.union(part.flags)),
        projected: total(&|part| net_of(part, part.projected?)),
        peak_target: sum.peak_target,
        shed: None,
        ..(*first).clone()
    };
    open.shed = shed(&open);
    Some(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::rule::tests::{Say, layout, reading};

    #[test]
    fn only_what_is_out_of_order_is_taken_anew() {
        let spans = Spans::new("UTC", 30, 0, Vec::new()).unwrap();
        let layout = layout("m", Category::Cons, Some(1_000));
        let (kwh, kw) =
            (|kwh| Say { import: Some(kwh), ..Say::default() }, |kw| Say { power: Some(kw), ..Say::default() });
        let mut live = Live::default();
        let known: [MeterId; 0] = [];
        live.push(&reading(&layout, 1, 1_000, kwh(1.0)), &spans);
        assert_eq!(live.stale(known.iter()).len(), 1, "what lies before the first reading is in the store");
        live.meters.values_mut().for_each(|open| open.stale = false);
        let mut stale_after = |seq, ms, say| {
            live.push(&reading(&layout, seq, ms, say), &spans);
            !live.stale(known.iter()).is_empty()
        };
        assert!(!stale_after(2, 2_000, kwh(1.1)));
        assert!(!stale_after(3, 2_000, kw(3.6)), "the next answer of the same poll, in the same millisecond");
        assert!(!stale_after(3, 1_000, kw(9.9)), "known already");
        assert!(stale_after(4, 1_999, kw(3.6)), "late");
    }
}
