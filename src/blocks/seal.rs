//! Seals what is due and revises what readings that came late have changed.
//!
//! Work is found in the store: a restart, a missed nudge and a week offline are the same case. Each transaction leaves
//! blocks, sums and positions that belong together. A crash between two of them repeats work that changes nothing,
//! because a block that says the same is not written again, and because `examined_seq` moves last.

mod clock;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Config;
use super::clock_rule::{ClockRule, Verdict};
use super::interval::reach_of;
use super::register::border_of;
use super::rule::{Carry, reach_ms};
use super::sum;
use super::walk::{Nature, Walk};
use super::window::View;
use crate::clock::Clock;
use crate::model::calendar::Spans;
use crate::model::{
    Block, BlockFlag, Border, Category, ClockState, Meter, MeterId, Origin, Redate, Role, Span, Stamp, StoredReading,
    Timestamp,
};
use crate::store::{Ledger, Reader, Sealing, StoreError};

/// So many blocks of one meter are sealed in one transaction; a revision is one whatever its size.
const BATCH: usize = 200;
/// So many readings are looked at for lateness at a time.
const ARRIVALS: usize = 4_000;
/// A late reading can change how the readings around it are judged: so many steps back a revision begins.
const STEPS_BACK: usize = 3;
/// Late readings further apart than this are revised one by one.
const APART_MS: i64 = 24 * 3_600_000;
/// Positions are made durable this often, so that a restart has little to look at again.
const SAVE_EVERY_MS: u64 = 60_000;

/// So many runs of readings that were turned away are remembered of each meter.
const RUNS: usize = 256;

/// Names of what the task keeps for itself in the store.
const CLOCK: &str = "blocks.clock";
const REJECTED: &str = "blocks.late_rejected";

/// All that the sealing of blocks knows between two looks.
pub struct Sealer {
    config: Arc<Config>,
    spans: Spans,
    reader: Reader,
    ledger: Ledger,
    clock: Clock,
    meters: BTreeMap<MeterId, State>,
    rule: ClockRule,
    rejected: BTreeMap<MeterId, Rejected>,
    examined: u64,
    saved: (u64, u64),
    waits_for: Option<&'static str>,
}

/// One meter between two sealings.
#[derive(Default)]
struct State {
    sealed_through: Option<Timestamp>,
    /// The time of the first reading seen of a meter that nothing is sealed of.
    first: Option<Timestamp>,
    interval_ms: Option<u32>,
    /// The seq of the reading looked at last.
    newest: Option<u64>,
    /// Late readings: the instants that they touch.
    touched: BTreeSet<Timestamp>,
    /// What the last sealed block still waits for; `None` when nothing that comes can change it but a late reading.
    tail: Option<Tail>,
    /// A reading came since the last look, or the next block may be due.
    next_due: Timestamp,
}

/// Readings of a meter that came too late to be booked.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Rejected {
    /// Since ever.
    count: u64,
    /// Some came since the last block, and the next one says so.
    untold: bool,
    /// The seq of the last one: after a crash the same readings are looked at again, and counted once.
    #[serde(default)]
    last_seq: u64,
    /// Which they are, from seq to seq, so that no revision books them either. All readings of the meter in a run were
    /// turned away. Of many runs the oldest are forgotten: a revision that meets one of those may book it.
    #[serde(default)]
    runs: Vec<(u64, u64)>,
}

/// The end of what is sealed, where something has no reading at or after it yet.
struct Tail {
    carry: Carry,
    reach_ms: i64,
    /// No reading at or after the end was known: coverage and power may gain by the next.
    open: bool,
    /// The registers that had no counted reading at or after the end.
    waiting: Vec<Role>,
    /// Where the last counted readings of those lie.
    from: Timestamp,
}

impl Sealer {
    /// Takes up where the store stands.
    pub async fn open(config: Arc<Config>, reader: Reader, ledger: Ledger, clock: Clock) -> Result<Self, StoreError> {
        let spans = spans_of(&config);
        let rule = reader.state(CLOCK).await?.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
        let rejected = reader.state(REJECTED).await?.and_then(|value| serde_json::from_value(value).ok());
        let examined = reader.examined_seq().await?;
        let sealed = reader.sealed_through().await?;
        let mut sealer = Self {
            config,
            spans,
            reader,
            ledger,
            clock,
            meters: BTreeMap::new(),
            rule,
            rejected: rejected.unwrap_or_default(),
            examined,
            saved: (examined, 0),
            waits_for: None,
        };
        for (meter, through) in sealed {
            let state = State { sealed_through: Some(through), ..State::default() };
            sealer.meters.insert(meter, state);
        }
        sealer.take_config();
        let known: Vec<_> = sealer.meters.keys().cloned().collect();
        for meter in known {
            let last = sealer.last_block(&meter).await?;
            sealer.set_tail(&meter, last);
        }
        Ok(sealer)
    }

    /// Goes on under another config.
    pub fn reconfigure(&mut self, config: Arc<Config>) {
        self.spans = spans_of(&config);
        self.config = config;
        self.take_config();
        self.meters.values_mut().for_each(|state| state.next_due = Timestamp::MIN);
    }

    pub fn spans(&self) -> &Spans {
        &self.spans
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What sealing waited for at the last look.
    pub fn waits_for(&self) -> Option<&'static str> {
        self.waits_for
    }

    /// Readings up to this one have been looked at.
    pub fn examined(&self) -> u64 {
        self.examined
    }

    /// Meters that are read, and not made of others, and of which something may be known.
    pub fn measured(&self) -> Vec<MeterId> {
        let sum = |meter: &MeterId| {
            self.config.meters.iter().any(|at| at.id == *meter && matches!(at.origin, Origin::Sum { .. }))
        };
        let heard = |state: &State| state.sealed_through.is_some() || state.first.is_some();
        let meters = self.meters.iter().filter(|(meter, state)| heard(state) && !sum(meter));
        meters.map(|(meter, _)| meter.clone()).collect()
    }

    /// Looks at what the store has taken since the last look, as far as it was not shown to [`Self::examine`].
    pub async fn catch_up(&mut self) -> Result<(), StoreError> {
        loop {
            let batch = self.reader.arrivals(self.examined, ARRIVALS).await?;
            if batch.is_empty() {
                return Ok(());
            }
            self.examine(&batch);
        }
    }

    /// Looks at committed readings, in order of seq: which of them come late, and what waited for them.
    pub fn examine(&mut self, readings: &[StoredReading]) {
        let stamp = self.clock.stamp();
        let mut oldest = None;
        for reading in readings.iter().filter(|reading| reading.seq > self.examined) {
            self.rule.note(reading, stamp);
            let speaks = Role::ALL.into_iter().any(|role| reading.layout.slot_of(role).is_some());
            if !speaks {
                continue;
            }
            let meter = &reading.layout.meter;
            let state = match self.meters.get_mut(meter) {
                Some(state) => state,
                None => self.meters.entry(meter.clone()).or_default(),
            };
            let (told_from, told_to) = reach_of(reading);
            match state.sealed_through {
                None => {
                    if state.first.is_none_or(|first| told_from < first) {
                        state.first = Some(told_from);
                        state.next_due = Timestamp::MIN;
                    }
                }
                Some(sealed) => {
                    let mut oldest = || *oldest.get_or_insert_with(|| self.reader.health().oldest_raw);
                    let old = reading.time < sealed && oldest().is_some_and(|oldest| reading.time < oldest);
                    // An unsynchronised clock's word is no reason to turn a reading away: it may yet be moved.
                    if old && reading.clock == ClockState::Synchronised {
                        let rejected = self.rejected.entry(meter.clone()).or_default();
                        let follows = state.newest == Some(rejected.last_seq);
                        rejected.take(meter, reading.seq, follows);
                    } else {
                        // The period's ends stand for all readings in it, so that a flood of them stays small.
                        for period in self.spans.between(told_from, told_to.min(sealed)) {
                            state.touched.insert(period.span.start());
                            state.touched.insert(period.span.end().min(sealed).plus_millis(-1));
                        }
                    }
                    let ends = |tail: &mut Tail| reading.time >= sealed && tail.ends_with(reading, sealed);
                    if state.tail.as_mut().is_some_and(ends)
                        && let Some(tail) = state.tail.take()
                    {
                        state.touched.insert(tail.from);
                        state.touched.insert(sealed.plus_millis(-1));
                    }
                }
            }
            if reading.layout.interval_ms.is_some() {
                state.interval_ms = reading.layout.interval_ms;
            }
            state.newest = Some(reading.seq);
        }
        if let Some(last) = readings.last() {
            self.examined = self.examined.max(last.seq);
        }
    }

    /// Seals and revises all that is due now. Returns the meters whose past changed.
    pub async fn pass(&mut self) -> Result<Vec<MeterId>, StoreError> {
        let through_seq = *self.reader.committed().borrow();
        let stamp = self.clock.stamp();
        let latest = self.meters.values().filter_map(|state| state.sealed_through).max();
        let booted = !self.rule.knows(&self.clock.boot());
        let Verdict { seal, waits_for, redates, withdraw } = self.rule.look(stamp, &self.clock.boot(), latest);
        if waits_for != self.waits_for {
            match waits_for {
                Some(why) => warn!("{why}"),
                None => info!("{}", sealing_again(stamp.clock)),
            }
            self.waits_for = waits_for;
        }
        let mut changed = Vec::new();
        if !redates.is_empty() && self.examined >= through_seq {
            changed.extend(self.redate(redates, stamp, through_seq).await?);
        }
        if withdraw {
            changed.extend(self.withdraw(stamp.time).await?);
        }
        if seal {
            for meter in self.due(stamp.time) {
                if self.bring_up(&meter, stamp.time, through_seq).await? {
                    changed.push(meter);
                }
            }
        }
        // What the clock said at boot explains the readings taken then, also to a task that is started anew.
        self.save(stamp, booted).await?;
        Ok(changed)
    }

    /// Makes positions and the clock's state durable.
    pub async fn save(&mut self, stamp: Stamp, at_once: bool) -> Result<(), StoreError> {
        let (saved_seq, saved_at) = self.saved;
        let waited = stamp.since_boot_ms.saturating_sub(saved_at) >= SAVE_EVERY_MS || stamp.since_boot_ms < saved_at;
        // What is touched and not yet revised must be found again after a crash.
        let settled = self.meters.values().all(|state| state.touched.is_empty());
        if !(at_once || waited) {
            return Ok(());
        }
        let begun = self.meters.iter().filter(|(_, state)| state.sealed_through.is_none());
        let begun = begun.filter_map(|(meter, state)| Some((meter.clone(), state.first?)));
        let sealed_through = begun
            .filter(|(_, first)| *first <= stamp.time)
            .map(|(meter, first)| (meter, self.spans.containing(first).span.start()))
            .collect();
        let sealing = Sealing {
            sealed_through,
            examined_seq: (settled && self.examined > saved_seq).then_some(self.examined),
            state: vec![
                (CLOCK, serde_json::to_value(&self.rule).unwrap_or_default()),
                (REJECTED, serde_json::to_value(&self.rejected).unwrap_or_default()),
            ],
            ..Sealing::default()
        };
        self.write(sealing).await?;
        self.saved = (if settled { self.examined } else { saved_seq }, stamp.since_boot_ms);
        Ok(())
    }

    /// One transaction. Between any two of them the program may end.
    async fn write(&self, mut sealing: Sealing) -> Result<(), StoreError> {
        #[cfg(test)]
        fuse::burn()?;
        let made_up = sealing.blocks.iter().filter(|block| self.is_made_up(block));
        sealing.unlogged = made_up.map(|block| block.meter.clone()).collect();
        self.ledger.seal(sealing).await
    }

    /// Whether a simulator made up what the block tells of. One that is forgotten meanwhile is no meter of the config.
    fn is_made_up(&self, block: &Block) -> bool {
        match self.config.meters.iter().find(|meter| meter.id == block.meter) {
            Some(meter) => matches!(meter.origin, Origin::Simulator),
            None => block.flags.has(BlockFlag::Simulated),
        }
    }

    /// Meters that have a block due or a reading that came late.
    fn due(&self, now: Timestamp) -> Vec<MeterId> {
        let due = |state: &State| !state.touched.is_empty() || state.next_due <= now;
        self.meters.iter().filter(|(_, state)| due(state)).map(|(meter, _)| meter.clone()).collect()
    }

    /// Brings one meter up to date: first its past, then what is due. True when its past changed.
    async fn bring_up(&mut self, meter: &MeterId, now: Timestamp, through_seq: u64) -> Result<bool, StoreError> {
        let configured = self.config.meters.iter().find(|at| at.id == *meter).cloned();
        if configured.as_ref().is_some_and(|at| matches!(at.origin, Origin::Sum { .. })) {
            // Sums go with their parts; one that has just come into the config begins with the next block of any.
            self.plan(meter, now, true);
            return Ok(false);
        }
        let view = self.view(meter, now, through_seq, Vec::new());
        let revised = self.revise(meter, configured.as_ref(), &view, now).await?;
        let again = revised;
        let mut waits = false;
        loop {
            let (more, moved) = self.seal(meter, configured.as_ref(), &view, now).await?;
            waits |= !moved;
            if !more {
                break;
            }
        }
        self.plan(meter, now, waits);
        Ok(again)
    }

    /// Revises what late readings touch, with the sums made of it, in one transaction.
    async fn revise(
        &mut self,
        meter: &MeterId,
        configured: Option<&Meter>,
        view: &View,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (made, unbooked) = self.revised(meter, configured, view, now).await?;
        self.reject(meter, &unbooked);
        let through = self.meters.get(meter).and_then(|state| state.sealed_through);
        let changed = !made.is_empty();
        if changed {
            info!(%meter, blocks = made.len(), "readings that came late changed sealed blocks");
            let mut sealing = Sealing::default();
            sealing.blocks = self.with_sums(meter, made, &mut sealing, through, now).await?;
            self.write(sealing.clone()).await?;
            self.took(&sealing);
        }
        if let Some(state) = self.meters.get_mut(meter) {
            state.touched.clear();
        }
        // Also when nothing has changed: what came may be later than the clock, and is waited for once more.
        if let Some(through) = through {
            let last = self.block_before(meter, through).await?;
            self.set_tail(meter, last);
        }
        Ok(changed)
    }

    /// Counts readings that came too late to be booked, those that were not counted yet.
    fn reject(&mut self, meter: &MeterId, seqs: &[u64]) {
        let mut seqs = seqs.to_vec();
        seqs.sort_unstable();
        for seq in seqs {
            self.rejected.entry(meter.clone()).or_default().take(meter, seq, false);
        }
    }

    /// The blocks that late readings of a meter change, and those of them that cannot be booked any more.
    async fn revised(
        &self,
        meter: &MeterId,
        configured: Option<&Meter>,
        view: &View,
        now: Timestamp,
    ) -> Result<(Vec<Block>, Vec<u64>), StoreError> {
        let (mut made, mut unbooked): (Vec<Block>, Vec<u64>) = (Vec::new(), Vec::new());
        let Some(state) = self.meters.get(meter) else { return Ok((made, unbooked)) };
        let Some(sealed) = state.sealed_through else { return Ok((made, unbooked)) };
        let mut left = state.touched.clone();
        while let Some(first) = left.first().copied() {
            // What lies far apart is revised by itself, and not all that lies between.
            let mut last = first;
            let near = left.iter().take_while(|at| at.millis_since(std::mem::replace(&mut last, **at)) <= APART_MS);
            let near: BTreeSet<_> = near.copied().collect();
            left.retain(|at| !near.contains(at));
            let from = self.begin_of_change(meter, first).await?;
            let mut records = self.records(meter, from, sealed).await?;
            records.extend(made.iter().cloned());
            let mut walk = Walk::begin(&self.spans, view.clone(), now, from, records, nature(configured));
            walk.revise(&near, sealed).await?;
            made.append(&mut walk.made);
            unbooked.append(&mut walk.unbooked);
        }
        Ok((made, unbooked))
    }

    /// Seals a batch of the blocks that are due. Whether more are due, and whether it could go on at all.
    async fn seal(
        &mut self,
        meter: &MeterId,
        configured: Option<&Meter>,
        view: &View,
        now: Timestamp,
    ) -> Result<(bool, bool), StoreError> {
        let Some(state) = self.meters.get(meter) else { return Ok((false, false)) };
        let due = self.due_end(state, now);
        let from = match state.sealed_through {
            Some(sealed) => sealed,
            None => match view.from(Timestamp::MIN).peek(0).await? {
                // An interval that comes after the first reading may reach back behind it.
                Some(first) => {
                    let told = reach_of(first).0;
                    self.spans.containing(state.first.map_or(told, |first| first.min(told))).span.start()
                }
                None => return Ok((false, false)),
            },
        };
        if from >= due {
            return Ok((false, true));
        }
        let records = self.records(meter, from, due).await?;
        let untold = self.rejected.get(meter).is_some_and(|rejected| rejected.untold);
        let mut walk = Walk::begin(&self.spans, view.clone(), now, from, records, nature(configured));
        walk.rejected = untold;
        let mut more = walk.seal(due, configured.is_some(), BATCH).await?;
        if let Some(touched) = self.tail_that_ends(meter, &walk.made) {
            // A register that had fallen silent spoke again: the blocks it was silent in have a share in that. They
            // go first, because after a crash in between nothing else would tell of them.
            if let Some(state) = self.meters.get_mut(meter) {
                state.touched.extend(touched);
            }
            self.revise(meter, configured, view, now).await?;
            let records = self.records(meter, from, due).await?;
            walk = Walk::begin(&self.spans, view.clone(), now, from, records, nature(configured));
            walk.rejected = untold;
            more = walk.seal(due, configured.is_some(), BATCH).await?;
        }
        let (pos, rejected, moved) = (walk.pos(), walk.rejected, walk.pos() > from);
        let made = walk.made;
        if !moved {
            return Ok((false, false));
        }
        let mut sealing = Sealing { sealed_through: vec![(meter.clone(), pos)], ..Sealing::default() };
        let last = made.last().cloned();
        sealing.blocks = self.with_sums(meter, made, &mut sealing, Some(pos), now).await?;
        let told = untold && !rejected;
        if told {
            let mut known = self.rejected.clone();
            known.entry(meter.clone()).or_default().untold = false;
            sealing.state.push((REJECTED, serde_json::to_value(&known).unwrap_or_default()));
        }
        self.write(sealing.clone()).await?;
        if told && let Some(known) = self.rejected.get_mut(meter) {
            known.untold = false;
        }
        self.took(&sealing);
        self.set_tail(meter, last);
        Ok((more, true))
    }

    /// The instants to revise when one of `made` ends what the meter's tail waited for.
    fn tail_that_ends(&self, meter: &MeterId, made: &[Block]) -> Option<[Timestamp; 2]> {
        let state = self.meters.get(meter)?;
        let (tail, sealed) = (state.tail.as_ref()?, state.sealed_through?);
        let counted = |block: &Block| {
            let borders = &block.borders;
            let all = borders.first.iter().chain(&borders.after);
            all.into_iter().any(|border| tail.waiting.contains(&border.role))
                || !borders.pending.is_empty()
                || borders.before.iter().any(|border| border.time >= sealed)
        };
        made.iter().any(counted).then(|| [tail.from, sealed.plus_millis(-1)])
    }

    /// `made` and the blocks of every sum that they are part of; the sums' positions go into `sealing`.
    async fn with_sums(
        &self,
        meter: &MeterId,
        made: Vec<Block>,
        sealing: &mut Sealing,
        sealed: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Vec<Block>, StoreError> {
        // Of a meter that has been heard but never sealed, everything before its first block is complete.
        let first = |state: &State| Some(self.spans.containing(state.first?).span.start());
        let sealed_or_first = |state: &State| state.sealed_through.or_else(|| first(state));
        let mut through: BTreeMap<MeterId, Timestamp> =
            self.meters.iter().filter_map(|(meter, state)| Some((meter.clone(), sealed_or_first(state)?))).collect();
        through.extend(sealing.sealed_through.iter().cloned());
        if let Some(sealed) = sealed {
            through.insert(meter.clone(), sealed);
        }
        let mut fresh = sealing.blocks.clone();
        fresh.extend(made.iter().cloned());
        let sums = sum::Sums { spans: &self.spans, meters: &self.config.meters, reader: &self.reader, now };
        let (more, positions) = sums.follow(meter, &made, &mut fresh, &mut through).await?;
        sealing.sealed_through.extend(positions);
        Ok(made.into_iter().chain(more).collect())
    }

    /// Remembers what a transaction made durable.
    fn took(&mut self, sealing: &Sealing) {
        for (meter, through) in &sealing.sealed_through {
            let state = self.meters.entry(meter.clone()).or_default();
            state.sealed_through = Some(*through);
        }
    }

    /// Where a revision of the block at `touched` must begin: at the block of the readings that its start stands on,
    /// and so on for a few steps, because a late reading may change which of them count.
    async fn begin_of_change(&self, meter: &MeterId, touched: Timestamp) -> Result<Timestamp, StoreError> {
        let mut from = self.spans.containing(touched).span.start();
        for _ in 0..STEPS_BACK {
            let Some(span) = Span::new(from, touched.max(from).plus_millis(1)) else { break };
            let blocks = self.reader.blocks(meter, span).await?;
            let Some(block) = blocks.first() else { break };
            let start = block.span.start().min(from);
            let judged = |border: &&Border| border.role != Role::Power && border.interval.is_none();
            let registers = block.borders.before.iter().filter(judged);
            let before = registers.map(|border| border.time).min().unwrap_or(start).min(start.plus_millis(-1));
            let Some(earlier) = self.block_before(meter, before.plus_millis(1)).await? else {
                from = start;
                break;
            };
            from = earlier.span.start();
        }
        Ok(from)
    }

    /// The blocks in effect from the one before `from` up to `to`.
    async fn records(&self, meter: &MeterId, from: Timestamp, to: Timestamp) -> Result<Vec<Block>, StoreError> {
        match Span::new(from.plus_millis(-1), to.max(from)) {
            Some(span) => self.reader.blocks(meter, span).await,
            None => Ok(Vec::new()),
        }
    }

    /// The last sealed block of a meter.
    pub async fn last_block(&self, meter: &MeterId) -> Result<Option<Block>, StoreError> {
        match self.meters.get(meter).and_then(|state| state.sealed_through) {
            Some(through) => self.block_before(meter, through).await,
            None => Ok(None),
        }
    }

    async fn block_before(&self, meter: &MeterId, at: Timestamp) -> Result<Option<Block>, StoreError> {
        match Span::new(at.plus_millis(-1), at) {
            Some(span) => Ok(self.reader.blocks(meter, span).await?.pop()),
            None => Ok(None),
        }
    }

    fn set_tail(&mut self, meter: &MeterId, last: Option<Block>) {
        let Some(state) = self.meters.get_mut(meter) else { return };
        let now = self.clock.now();
        state.tail = last.as_ref().and_then(|last| Tail::of(last, now));
        if state.interval_ms.is_none() {
            state.interval_ms = last.map(|block| block.interval_ms);
        }
    }

    /// A meter's readings as they are to be believed now.
    pub fn view(&self, meter: &MeterId, now: Timestamp, through_seq: u64, moves: Vec<Redate>) -> View {
        let rejected = self.rejected.get(meter).map(|rejected| rejected.runs.clone()).unwrap_or_default();
        View { reader: self.reader.clone(), meter: meter.clone(), horizon: now, through_seq, moves, rejected }
    }

    /// Blocks that end at this instant or before are due.
    fn due_end(&self, state: &State, now: Timestamp) -> Timestamp {
        let at = now.plus_millis(-grace_ms(state.interval_ms));
        let period = self.spans.containing(at);
        if period.span.end() <= at { period.span.end() } else { period.span.start() }
    }

    /// When the meter must be looked at next.
    fn plan(&mut self, meter: &MeterId, now: Timestamp, waits: bool) {
        let next = self.spans.containing(now).span.end();
        let Some(state) = self.meters.get_mut(meter) else { return };
        let grace = grace_ms(state.interval_ms);
        // Of a meter heard for the first time, the block of its first reading may have ended already.
        let from = match state.sealed_through.or(state.first) {
            Some(at) if !waits => self.spans.containing(at).span.end(),
            _ => next,
        };
        state.next_due = from.plus_millis(grace);
    }

    fn take_config(&mut self) {
        for meter in &self.config.meters {
            let state = self.meters.entry(meter.id.clone()).or_default();
            if meter.interval_ms.is_some() {
                state.interval_ms = meter.interval_ms;
            }
        }
    }
}

impl Rejected {
    /// Counts one, once.
    fn take(&mut self, meter: &MeterId, seq: u64, follows: bool) {
        if seq <= self.last_seq {
            return;
        }
        match self.runs.last_mut().filter(|_| follows) {
            Some((_, last)) => *last = seq,
            None => self.runs.push((seq, seq)),
        }
        if self.runs.len() > RUNS {
            self.runs.remove(0);
        }
        *self = Self { count: self.count + 1, untold: true, last_seq: seq, runs: std::mem::take(&mut self.runs) };
        warn!(%meter, seq, "reading came when the raw readings beside it were gone: it is not booked");
    }
}

impl Tail {
    fn of(last: &Block, now: Timestamp) -> Option<Self> {
        let borders = &last.borders;
        let carry = Carry::after(borders, last.span.end());
        let has = |list: &[Border], role| list.iter().find(|border| border.role == role).copied();
        let stands_on = |role| if role == Role::Import { carry.import.last() } else { carry.export.last() };
        let is_told = |border: &Border| border.told().is_some_and(|told| told.end() >= last.span.end());
        let waiting: Vec<_> = [Role::Import, Role::Export]
            .into_iter()
            .filter(|role| stands_on(*role).is_some_and(|border| !is_told(border)))
            // What a clock that was ahead has read is not to be believed before its time.
            .filter(|role| has(&borders.after, *role).is_none_or(|after| after.time > now))
            .collect();
        // Coverage and power: an interval speaks for itself alone.
        let mut speak = borders.last.iter().chain(&borders.before);
        let open = borders.after.is_empty() && speak.any(|border| border.interval.is_none());
        // Over what no interval tells nothing is bridged.
        let registers = waiting.iter().filter_map(|role| stands_on(*role)).filter(|border| border.interval.is_none());
        let from = registers.map(|border| border.time).min();
        let from = from.unwrap_or(last.span.start()).min(last.span.end().plus_millis(-1));
        (open || !waiting.is_empty()).then(|| Self {
            carry: carry.clone(),
            reach_ms: reach_ms(last.interval_ms),
            open,
            waiting,
            from,
        })
    }

    /// Whether `reading`, at or after the end of what is sealed, is what was waited for.
    fn ends_with(&mut self, reading: &StoredReading, sealed: Timestamp) -> bool {
        if self.open && reading.time.millis_since(sealed) < self.reach_ms {
            return true;
        }
        let mut told = false;
        for role in &self.waiting {
            let register = match role {
                Role::Import => &mut self.carry.import.register,
                _ => &mut self.carry.export.register,
            };
            match border_of(reading, *role, reading.layout.slot_of(*role)) {
                // It ends the register. One that reaches back is known by its reach.
                Some(border) if border.interval.is_some() => told |= register.last().is_some(),
                Some(border) => register.push(border, |_| told = true),
                None => {}
            }
        }
        told
    }
}

/// How long after its end a block is sealed: max(10 s, 2 × interval), at most 15 min.
fn grace_ms(interval_ms: Option<u32>) -> i64 {
    (2 * i64::from(interval_ms.unwrap_or(0))).clamp(10_000, 900_000)
}

fn nature(configured: Option<&Meter>) -> Nature {
    match configured {
        Some(meter) => Nature::unknown(meter.category, meter.interval_ms, meter.simulated),
        None => Nature::unknown(Category::Cons, None, false),
    }
}

/// The config was checked, so its zone is known; were it not, UTC would do.
pub fn spans_of(config: &Config) -> Spans {
    let new = |zone: &str| Spans::new(zone, config.block_minutes, config.clock_offset_ms, config.peaks.clone());
    new(&config.timezone)
        .or_else(|unknown| {
            warn!(%unknown, "borders follow UTC");
            new("UTC")
        })
        .unwrap_or_else(|_| unreachable!("UTC is built in"))
}

/// Ends the task between two transactions, as a crash would.
/// What is said when blocks wait for the clock no longer, be it good or not.
fn sealing_again(clock: ClockState) -> &'static str {
    match clock {
        ClockState::Synchronised => "the clock is good: blocks are sealed again",
        ClockState::Unsynchronised => {
            "the clock is still not synchronised: blocks are sealed by it as it is, and say so in their flags"
        }
    }
}

#[cfg(test)]
pub mod fuse {
    use std::cell::Cell;

    use crate::store::StoreError;

    thread_local! {
        /// So many transactions are left to this thread; `None`: any number.
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub fn set(left: Option<usize>) {
        LEFT.set(left);
    }

    pub fn left() -> Option<usize> {
        LEFT.get()
    }

    pub fn burn() -> Result<(), StoreError> {
        match LEFT.get() {
            Some(0) => Err(StoreError::Closed),
            left => {
                LEFT.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod sealing {
    use super::*;

    #[test]
    fn a_clock_that_never_came_is_not_called_good() {
        assert!(sealing_again(ClockState::Synchronised).starts_with("the clock is good"));
        let told = sealing_again(ClockState::Unsynchronised);
        assert!(told.contains("not synchronised") && !told.contains("good"), "{told}");
    }
}
