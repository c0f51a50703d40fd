//! Energy that a source states interval by interval: which of it counts, and what of it lies in a span. Pure.
//!
//! The energy of an interval is spread evenly over it. An instant that several intervals cover belongs to the first of
//! them, by time as labelled, then seq. What no interval covers is absent: nothing is bridged.

use super::register::border_of;
use crate::model::{Border, Energy, FASTEST_UWH_PER_MS, JITTER_UWH, Role, Span, StoredReading, Timestamp, part_within};

/// One interval with its energy in µWh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    pub span: Span,
    uwh: i64,
}

/// Stretches of time, in order; no two of them touch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stretches(Vec<Span>);

/// One direction's intervals over a span, taken in order of time, then seq.
#[derive(Clone, Debug, Default)]
pub struct Intervals {
    before: Vec<Border>,
    /// Labelled in the span, and first to cover something past its end.
    reaching: Vec<Border>,
    after: Vec<Border>,
    /// The one counted last, wherever it lies.
    last: Option<Border>,
    /// From the start of the span on.
    taken: Stretches,
    /// What counted intervals that end after their own label have in the span.
    ahead: Vec<(Told, Span)>,
    /// `None` while no interval has a part in the span.
    uwh: Option<i64>,
}

/// What becomes of an interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// It is the first to cover some of its time.
    pub counts: bool,
    /// Some of it in the span was covered already.
    pub overlaps: bool,
    /// It counts in the span.
    pub within: bool,
}

/// Intervals that reach past their own label at one time, at most: a record carries them over a border, and a source
/// that states more is not telling of intervals. Those beyond are not counted.
const MOST_AHEAD: usize = 8;

/// From when to when a reading has a say in blocks: beyond its own instant where it tells of an interval.
pub fn reach_of(reading: &StoredReading) -> (Timestamp, Timestamp) {
    let mut reach = (reading.time, reading.time.plus_millis(1));
    if reading.layout.has_intervals() {
        for role in [Role::Import, Role::Export] {
            let border = border_of(reading, role, reading.layout.slot_of(role));
            if let Some(told) = border.and_then(|border| Told::of(&border)) {
                reach = (reach.0.min(told.span.start()), reach.1.max(told.span.end()));
            }
        }
    }
    reach
}

impl Told {
    /// `None` where there is no energy: below nothing, or more than any plant takes or gives.
    pub fn of(at: &Border) -> Option<Self> {
        let span = at.told()?;
        let uwh = at.raw.scaled(at.scale, Energy::KWH_DECIMALS)?;
        let most = i128::from(JITTER_UWH) + FASTEST_UWH_PER_MS * i128::from(span.millis());
        (0..=most).contains(&i128::from(uwh)).then_some(Self { span, uwh })
    }

    fn part(&self, piece: Span) -> i64 {
        part_within(self.uwh, self.span.start(), self.span.end(), piece)
    }
}

impl Stretches {
    /// Adds a stretch, and tells those parts of it that were not there.
    pub fn add(&mut self, span: Span, mut fresh: impl FnMut(Span)) {
        let first = self.0.partition_point(|at| at.end() < span.start());
        let next = self.0.partition_point(|at| at.start() <= span.end());
        let (mut start, mut end, mut from) = (span.start(), span.end(), span.start());
        for at in &self.0[first..next] {
            if let Some(gap) = Span::new(from, at.start()) {
                fresh(gap);
            }
            from = from.max(at.end());
            (start, end) = (start.min(at.start()), end.max(at.end()));
        }
        if let Some(gap) = Span::new(from, span.end()) {
            fresh(gap);
        }
        self.0.splice(first..next, Span::new(start, end));
    }

    pub fn millis(&self) -> i64 {
        self.0.iter().map(Span::millis).sum()
    }

    /// What of `span` is covered.
    pub fn within(&self, span: Span) -> impl Iterator<Item = Span> {
        let first = self.0.partition_point(|at| at.end() <= span.start());
        self.0[first..].iter().map_while(move |at| at.shared(&span))
    }

    /// The end of the last part of `span` that is not covered.
    pub fn last_gap(&self, span: Span) -> Option<Timestamp> {
        let mut end = span.end();
        for at in self.0.iter().rev().filter(|at| at.start() < span.end()) {
            if at.end() < end {
                break;
            }
            end = at.start();
        }
        (end > span.start()).then_some(end)
    }
}

impl Intervals {
    /// Begins a span with the intervals labelled before it that may reach into it, in order.
    pub fn resume(carried: &[Border], span: Span) -> (Self, Taken) {
        let mut intervals = Self::default();
        let mut all = Taken::default();
        for at in carried.iter().filter(|at| at.told().is_some_and(|told| told.end() > span.start())) {
            let taken = intervals.take(*at, None, span);
            all.overlaps |= taken.overlaps;
            intervals.before.push(*at);
        }
        intervals.last = carried.last().copied();
        if intervals.before.is_empty() {
            // It tells the next block how its meter speaks.
            intervals.before.extend(intervals.last);
        }
        intervals.reaching.clear();
        (intervals, all)
    }

    /// Takes the next interval; only what lies at or after `cut` counts.
    pub fn take(&mut self, at: Border, cut: Option<Timestamp>, span: Span) -> Taken {
        let mut taken = Taken::default();
        let Some(told) = Told::of(&at) else { return taken };
        if self.last.is_some_and(|last| at.time <= last.time) {
            return taken; // Of several at one instant the first counts.
        }
        self.ahead.retain(|(told, _)| told.span.end() > at.time);
        if self.ahead.len() >= MOST_AHEAD {
            taken.overlaps = told.span.overlaps(&span);
            return taken;
        }
        let from = told.span.start().max(cut.unwrap_or(Timestamp::MIN));
        let Some(own) = Span::new(from.max(span.start()), told.span.end()) else {
            // All of it belongs to blocks before.
            taken.counts = true;
            self.last = Some(at);
            return taken;
        };
        let mut pieces = Vec::new();
        self.taken.add(own, |piece| pieces.push(piece));
        let here = pieces.iter().filter_map(|piece| piece.shared(&span));
        let fresh: i64 = here.clone().map(|piece| piece.millis()).sum();
        taken.overlaps = own.shared(&span).is_some_and(|own| own.millis() > fresh);
        taken.counts = !pieces.is_empty();
        if !taken.counts {
            return taken;
        }
        for piece in here {
            taken.within = true;
            let uwh = self.uwh.get_or_insert(0);
            *uwh = uwh.saturating_add(told.part(piece));
        }
        if told.span.end() > at.time {
            self.ahead.extend(pieces.iter().map(|piece| (told, *piece)));
        }
        if at.time < span.end() && pieces.iter().any(|piece| piece.end() > span.end()) {
            self.reaching.push(at);
        }
        self.last = Some(at);
        taken
    }

    /// Names an interval labelled after the span as one that the block stands on.
    pub fn stand_on(&mut self, after: Border) {
        self.after.push(after);
    }

    /// The energy in `span` up to `until`.
    pub fn uwh(&self, span: Span, until: Timestamp) -> Option<i64> {
        let rest = Span::new(until.max(span.start()), span.end());
        let of = |(told, piece): &(Told, Span)| {
            let late = rest.and_then(|rest| piece.shared(&rest));
            late.map_or(0, |late| told.part(late))
        };
        self.uwh.map(|uwh| uwh - self.ahead.iter().map(of).sum::<i64>())
    }

    /// What is covered, from the start of the span on.
    pub fn taken(&self) -> &Stretches {
        &self.taken
    }

    pub fn last(&self) -> Option<&Border> {
        self.last.as_ref()
    }

    pub fn before(&self) -> &[Border] {
        &self.before
    }

    pub fn reaching(&self) -> &[Border] {
        &self.reaching
    }

    pub fn after(&self) -> &[Border] {
        &self.after
    }

    /// Until when all is known.
    pub fn known_until(&self) -> Option<Timestamp> {
        self.taken.0.last().map(Span::end)
    }
}
