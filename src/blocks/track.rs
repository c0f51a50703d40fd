//! One direction's energy over a span, by its register, by intervals that the source states, or by one after the
//! other. Pure.

use super::interval::Intervals;
use super::register::{Register, Step, StepKind};
use crate::model::{BlockFlag, BlockFlags, Border, Borders, Break, Interval, Role, Span, Timestamp, part_within};

/// How one direction stands at an instant, from all readings before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stand {
    /// Empty where the last reading told of an interval: a register that speaks after it begins anew.
    pub register: Register,
    /// The last interval counted, and all that reach beyond the instant, in order.
    pub intervals: Vec<Border>,
}

impl Stand {
    /// What the record of a block that ends at `end` tells.
    pub fn after(borders: &Borders, role: Role, end: Timestamp) -> Self {
        let of = |list: &[Border]| -> Vec<Border> { list.iter().filter(|at| at.role == role).copied().collect() };
        let mut known = [of(&borders.before), of(&borders.last)].concat();
        known.sort_by_key(|at| (at.time, at.seq));
        known.dedup_by_key(|at| (at.time, at.seq));
        let newest = known.last().copied();
        let register = newest.filter(|at| at.interval.is_none());
        let reaches = |at: &Border| at.told().is_some_and(|told| told.end() > end);
        known.retain(|at| at.interval.is_some() && (reaches(at) || newest.as_ref() == Some(at)));
        Self { register: Register::resume(register, &of(&borders.pending)), intervals: known }
    }

    /// The last counted reading.
    pub fn last(&self) -> Option<&Border> {
        let register = self.register.last().map(|last| &last.at);
        register.or(self.intervals.last())
    }
}

/// One direction over a span.
#[derive(Clone, Debug, Default)]
pub struct Track {
    register: Register,
    intervals: Intervals,
    /// The reading taken last, counted or not.
    newest: Option<Border>,
    /// The time of the last reading of the register: an interval labelled after it counts from there.
    cut: Option<Timestamp>,
    /// Of the register.
    before: Option<Border>,
    /// Of either.
    first: Option<Border>,
    last: Option<Border>,
    /// Of the register.
    after: Option<Border>,
    breaks: Vec<Break>,
    /// By the register so far; `None` while no counted reading of it lies in the span and no step across.
    uwh: Option<i64>,
}

impl Track {
    pub fn begin(stand: Stand, span: Span, flags: &mut BlockFlags) -> Self {
        let (intervals, taken) = Intervals::resume(&stand.intervals, span);
        if taken.overlaps {
            flags.add(BlockFlag::Conflict);
        }
        let register = stand.register;
        let read = register.last().map(|last| last.at);
        Self { before: read, cut: read.map(|at| at.time), register, intervals, ..Self::default() }
    }

    pub fn push(&mut self, border: Border, span: Span, reach_ms: i64, flags: &mut BlockFlags) {
        if self.newest.is_some_and(|newest| newest.time == border.time && newest.raw != border.raw) {
            flags.add(BlockFlag::Conflict);
        }
        self.newest = Some(border);
        if border.interval.is_some() {
            return self.take_interval(border, span, flags);
        }
        if self.intervals.last().is_some_and(|last| border.time <= last.time) {
            return; // Of several at one instant the first counts, whatever it is.
        }
        self.cut = Some(border.time);
        let mut register = std::mem::take(&mut self.register);
        register.push(border, |step| self.step(&step, span, reach_ms, flags));
        self.register = register;
    }

    /// By the register, and by the intervals up to `until`.
    pub fn uwh(&self, span: Span, until: Timestamp) -> Option<i64> {
        match (self.uwh, self.intervals.uwh(span, until)) {
            (None, None) => None,
            (register, intervals) => Some(register.unwrap_or(0).saturating_add(intervals.unwrap_or(0))),
        }
    }

    pub fn by_register(&self) -> Option<i64> {
        self.uwh
    }

    pub fn by_intervals(&self, span: Span) -> Option<i64> {
        self.intervals.uwh(span, span.end())
    }

    pub fn register(&self) -> &Register {
        &self.register
    }

    /// Whether the last counted reading told of an interval.
    pub fn stands_on_intervals(&self) -> bool {
        self.register.last().is_none() && self.intervals.last().is_some()
    }

    /// Up to when the energy is known; by intervals `until` at the latest.
    pub fn known_until(&self, until: Timestamp) -> Option<Timestamp> {
        let register = self.register.last().map(|last| last.at.time);
        register.into_iter().chain(self.intervals.known_until().map(|at| at.min(until))).max()
    }

    /// Whether a reading after the span may yet have a part in it.
    pub fn wants(&self, span: Span) -> bool {
        if let Some(last) = self.register.last() {
            return self.after.is_none() && last.at.time < span.end() && (self.before.is_some() || self.last.is_some());
        }
        if self.intervals.last().is_none() {
            return false;
        }
        // An interval labelled by its end reaches back, but no further than the longest.
        let gap = self.intervals.taken().last_gap(span);
        let newest = self.newest.map_or(span.start(), |newest| newest.time);
        gap.is_some_and(|gap| newest.millis_since(gap) < i64::from(Interval::LONGEST_MS))
    }

    pub fn before(&self) -> impl Iterator<Item = Border> {
        let mut all: Vec<_> = self.intervals.before().iter().copied().chain(self.before).collect();
        all.sort_by_key(|at| (at.time, at.seq));
        all.into_iter()
    }

    pub fn first(&self) -> Option<Border> {
        self.first
    }

    pub fn last(&self) -> impl Iterator<Item = Border> {
        let reaching = self.intervals.reaching().iter().copied();
        reaching.filter(|at| Some(*at) != self.last).chain(self.last)
    }

    pub fn after(&self) -> impl Iterator<Item = Border> {
        self.after.into_iter().chain(self.intervals.after().iter().copied())
    }

    /// Roll-overs, resets, and ends of a register.
    pub fn breaks(&self) -> &[Break] {
        &self.breaks
    }

    fn take_interval(&mut self, border: Border, span: Span, flags: &mut BlockFlags) {
        if self.cut == Some(border.time) {
            return;
        }
        let taken = self.intervals.take(border, self.cut, span);
        if taken.overlaps {
            flags.add(BlockFlag::Conflict);
        }
        if !taken.counts {
            return;
        }
        let ended = std::mem::take(&mut self.register).last().map(|last| last.at);
        let crosses = ended.filter(|ended| ended.time < span.end() && border.time > span.start());
        if let Some(from) = crosses {
            flags.add(BlockFlag::Reset);
            self.breaks.push(Break { from, to: border, rollover: false });
        }
        if span.contains(border.time) {
            self.first.get_or_insert(border);
            self.last = Some(border);
        } else if taken.within || crosses.is_some() {
            self.intervals.stand_on(border);
        }
    }

    fn step(&mut self, step: &Step, span: Span, reach_ms: i64, flags: &mut BlockFlags) {
        let (to, start, end) = (step.to.at, span.start(), span.end());
        if to.time < start {
            // Kept aside in an earlier block and believed only now.
            self.before = Some(to);
        } else if to.time < end {
            self.first.get_or_insert(to);
            self.last = Some(to);
            self.uwh.get_or_insert(0);
        } else if step.from.is_some() {
            self.after.get_or_insert(to);
        }
        let Some(from) = step.from.map(|from| from.at) else { return };
        if from.time >= end || to.time <= start {
            return;
        }
        match step.kind {
            StepKind::First | StepKind::Count => {}
            StepKind::Rollover => flags.add(BlockFlag::Rollover),
            StepKind::Reset => flags.add(BlockFlag::Reset),
        }
        if matches!(step.kind, StepKind::Rollover | StepKind::Reset) {
            self.breaks.push(Break { from, to, rollover: step.kind == StepKind::Rollover });
        }
        if step.kind == StepKind::Reset {
            return;
        }
        let crosses = |border: Timestamp| from.time < border && border < to.time;
        if to.time.millis_since(from.time) > reach_ms && (crosses(start) || crosses(end)) {
            flags.add(BlockFlag::Estimated);
        }
        let within = |part| part_within(step.uwh, from.time, to.time, part);
        let own = Span::new(from.time, to.time).and_then(|own| own.shared(&span));
        // What intervals labelled before have told is not counted again.
        let told = own.map_or(0, |own| self.intervals.taken().within(own).map(within).sum());
        self.uwh = Some(self.uwh.unwrap_or(0).saturating_add(within(span) - told));
    }
}
