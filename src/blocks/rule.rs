//! The block rule: what one meter's readings say of one span. Pure; reads neither clock nor store.
//!
//! A [`Tally`] takes the readings of a span in order of time, then seq, begins with what is carried into the span and
//! goes on, past its end, until each register has a counted reading at or after it. The same tally makes a sealed
//! block when it is finished and the open block while it runs.

use std::sync::Arc;

use super::interval::{Stretches, Told};
use super::register::border_of;
use super::track::{Stand, Track};
use crate::model::record::{lines_around, write_reading, write_reading_line};
use crate::model::{
    Block, BlockFlag, BlockFlags, Border, Borders, Break, Category, ClockState, Digest, Energy, Layout, MeterId,
    Method, Power, Role, Span, StoredReading, Timestamp,
};

/// Nominally: the least time that a reading speaks for, whatever the interval.
const LEAST_REACH_MS: i64 = 60_000;

/// How long one reading speaks for: max(3 × interval, 60 s).
pub fn reach_ms(interval_ms: u32) -> i64 {
    (3 * i64::from(interval_ms)).max(LEAST_REACH_MS)
}

/// What is known of a meter at an instant from all readings before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Carry {
    pub import: Stand,
    pub export: Stand,
    /// The last reading of power.
    pub power: Option<Border>,
}

impl Carry {
    /// When the meter last said something; `None` when it never did.
    pub fn spoke(&self) -> Option<Timestamp> {
        let energies = [&self.import, &self.export].map(|stand| stand.last().map(|last| last.time));
        energies.into_iter().chain([self.power.map(|at| at.time)]).flatten().max()
    }

    /// Until when what the meter has said tells something: to the end of the last interval.
    pub fn told_until(&self) -> Option<Timestamp> {
        let intervals = self.import.intervals.iter().chain(&self.export.intervals);
        intervals.filter_map(Border::told).map(|told| told.end()).chain(self.spoke()).max()
    }

    /// What the record of the block before, which ends at `end`, tells: enough to go on without any raw reading.
    pub fn after(borders: &Borders, end: Timestamp) -> Self {
        let of = |list: &[Border]| list.iter().find(|at| at.role == Role::Power).copied();
        Self {
            import: Stand::after(borders, Role::Import, end),
            export: Stand::after(borders, Role::Export, end),
            power: of(&borders.last).or_else(|| of(&borders.before)),
        }
    }
}

/// What a block's record says beside its energy, given by whoever closes it.
#[derive(Clone, Debug)]
pub struct Terms {
    pub meter: MeterId,
    pub category: Category,
    pub interval_ms: u32,
    pub template: Option<Digest>,
    pub simulated: bool,
    pub nominal_ms: u32,
    /// A zone change cut the span.
    pub cut: bool,
    pub is_peak_hour: bool,
    pub zone: String,
    pub through_seq: u64,
    pub sealed: Timestamp,
}

/// The readings of one span, taken one after the other.
#[derive(Clone, Debug)]
pub struct Tally {
    span: Span,
    reach_ms: i64,
    import: Track,
    export: Track,
    power: Held,
    covered: Stretches,
    readings: u64,
    flags: BlockFlags,
    /// The lines of the span's readings that `readings_sha256` commits to: some 100 bytes for each value, and only
    /// while a block is being closed.
    lines: Option<Vec<u8>>,
    places: Option<(Arc<Layout>, [Option<u8>; 3])>,
}

/// Power held from reading to reading.
#[derive(Clone, Debug, Default)]
struct Held {
    before: Option<Border>,
    last: Option<Border>,
    after: Option<Border>,
    in_span: bool,
    /// A reading came after the span, beyond its reach.
    ended: bool,
    max: Option<i64>,
    min: Option<i64>,
    /// mW·ms in the span, in the direction that the category counts and against it.
    along: i128,
    against: i128,
}

impl Tally {
    /// Begins a span with what is carried into it. `hashed` says whether the readings are to be committed to: an
    /// open block need not.
    pub fn begin(span: Span, carry: Carry, interval_ms: u32, hashed: bool) -> Self {
        let mut covered = Stretches::default();
        for at in carry.import.intervals.iter().chain(&carry.export.intervals) {
            cover(&mut covered, at.told(), span);
        }
        let mut flags = BlockFlags::NONE;
        Self {
            span,
            reach_ms: reach_ms(interval_ms),
            import: Track::begin(carry.import, span, &mut flags),
            export: Track::begin(carry.export, span, &mut flags),
            power: Held { before: carry.power, ..Held::default() },
            covered,
            readings: 0,
            flags,
            lines: hashed.then(Vec::new),
            places: None,
        }
    }

    pub fn span(&self) -> Span {
        self.span
    }

    /// Takes the next reading, in the span or after it.
    pub fn push(&mut self, reading: &StoredReading) {
        if reading.time < self.span.start() {
            return;
        }
        let places = self.places(&reading.layout);
        let [import, export, power] =
            [Role::Import, Role::Export, Role::Power].map(|role| border_of(reading, role, places[role as usize]));
        if import.is_none() && export.is_none() && power.is_none() {
            return;
        }
        let values = [export, import, power].into_iter().flatten();
        if values.clone().any(|border| border.interval.is_none()) {
            // As far back as one reading speaks for. An interval speaks for itself alone.
            let near = Span::new(reading.time.plus_millis(-self.reach_ms), reading.time);
            cover(&mut self.covered, near, self.span);
        }
        if reading.time < self.span.end() {
            self.note(reading);
            // In the order of the quantities' names, as the lines are.
            values.clone().for_each(|border| self.commit(&border));
        }
        values.for_each(|border| self.take(border));
    }

    /// Takes one value from beyond the span, found by looking far ahead for a role's next one.
    pub fn take_ahead(&mut self, border: Border) {
        if border.time >= self.span.end() {
            self.take(border);
        }
    }

    /// Whether the span's end still waits for a counted value of this role, or one kept aside for its verdict.
    pub fn wants(&self, role: Role) -> bool {
        match role {
            Role::Import => self.import.wants(self.span),
            Role::Export => self.export.wants(self.span),
            // Power tells nothing across a gap: only a reading within reach of the end is looked for.
            Role::Power => false,
        }
    }

    /// Whether a reading at `at`, just taken, is the last that the span's end needs: coverage and power look no
    /// further than a reading's reach.
    pub fn settled(&self, at: Timestamp) -> bool {
        at >= self.span.end()
            && (self.power.after.is_some()
                || self.power.last.or(self.power.before).is_none()
                || at >= self.span.end().plus_millis(self.reach_ms))
    }

    /// One direction's energy.
    pub fn track(&self, role: Role) -> Option<&Track> {
        match role {
            Role::Import => Some(&self.import),
            Role::Export => Some(&self.export),
            Role::Power => None,
        }
    }

    /// What the next span begins with.
    pub fn carry(&self) -> Carry {
        Carry::after(&self.borders(), self.span.end())
    }

    /// Import and export so far or in the end, with power held and intervals taken no further than `until`.
    pub fn energy(&self, category: Category, until: Timestamp) -> (Option<Energy>, Option<Energy>, Method) {
        let tracks = [&self.import, &self.export];
        let [import, export] = tracks.map(|track| track.uwh(self.span, until));
        let known = import.is_some() || export.is_some();
        let held = (self.power.in_span && (import.is_none() || export.is_none()))
            .then(|| self.power.energy(category, self.span, self.reach_ms, until));
        // A meter with one register has no other direction, unless its power says otherwise.
        let by_power = |uwh: i64| (!known || uwh > 0).then_some(uwh);
        let (from_power, to_power) = held.map_or((None, None), |(a, b)| (by_power(a), by_power(b)));
        let used = import.is_none() && from_power.is_some() || export.is_none() && to_power.is_some();
        let register = tracks.iter().any(|track| track.by_register().is_some());
        let intervals = tracks.iter().any(|track| track.by_intervals(self.span).is_some());
        let method = match (register, intervals, used) {
            (true, false, false) => Method::Counter,
            (false, true, false) => Method::Interval,
            (false, false, true) => Method::Power,
            (false, false, false) => self.last_method(),
            _ => Method::Mixed,
        };
        let energy = |uwh: Option<i64>| uwh.map(Energy::from_uwh);
        (energy(import.or(from_power)), energy(export.or(to_power)), method)
    }

    /// Where nothing is known: by what the meter last had.
    fn last_method(&self) -> Method {
        let before: Vec<Border> = self.import.before().chain(self.export.before()).collect();
        if before.iter().any(|at| at.interval.is_none()) {
            Method::Counter
        } else if !before.is_empty() {
            Method::Interval
        } else if self.power.before.is_some() {
            Method::Power
        } else {
            Method::Counter
        }
    }

    /// The greatest and the least power read in the span.
    pub fn extremes(&self) -> (Option<Power>, Option<Power>) {
        (self.power.max.map(Power::from_mw), self.power.min.map(Power::from_mw))
    }

    /// The last value of power in the span or carried into it.
    pub fn last_power(&self) -> Option<(Timestamp, Power)> {
        let last = self.power.last.or(self.power.before)?;
        Some((last.time, Power::from_mw(milliwatts(&last)?)))
    }

    /// Up to when, `until` at the latest, the energy is known by what is counted in the span or carried into it.
    pub fn counted_until(&self, until: Timestamp) -> Option<Timestamp> {
        [self.import.known_until(until), self.export.known_until(until)].into_iter().flatten().max()
    }

    pub fn covered_ms(&self) -> i64 {
        self.covered.millis()
    }

    pub fn flags(&self) -> BlockFlags {
        self.flags
    }

    /// How many readings lie in the span.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// The block that these readings make, as its first revision.
    pub fn finish(mut self, terms: Terms) -> Block {
        let (import, export, method) = self.energy(terms.category, self.span.end());
        let silent = import.is_none() && export.is_none();
        let covered_ms = if silent { 0 } else { self.covered_ms() };
        let whole = self.span.millis();
        let mut flags = self.flags;
        if covered_ms < whole {
            flags.add(BlockFlag::Gap);
        }
        if terms.cut {
            flags.add(BlockFlag::Dst);
        }
        if terms.simulated {
            flags.add(BlockFlag::Simulated);
        }
        let (max_power, min_power) = self.extremes();
        let borders = self.borders();
        let readings_sha256 = self.digest(&borders);
        Block {
            meter: terms.meter,
            span: self.span,
            nominal_ms: terms.nominal_ms,
            revision: 0,
            category: terms.category,
            import,
            export,
            max_power,
            min_power,
            covered_ms,
            coverage: share(covered_ms, whole),
            method,
            is_peak_hour: terms.is_peak_hour,
            flags,
            readings_sha256,
            through_seq: terms.through_seq,
            borders,
            zone: terms.zone,
            interval_ms: terms.interval_ms,
            template: terms.template,
            sealed: terms.sealed,
        }
    }

    /// The record's block when its raw readings are gone and this tally, begun with what the record carries, has taken
    /// what came after it: the same, and what each register that waited has in it of the step to its next reading.
    /// Digest and `through_seq` stay, and with them what they say.
    pub fn extend(self, record: &Block, now: Timestamp) -> Block {
        let mut block = record.clone();
        let of = |list: &[Border], role: Role| list.iter().find(|border| border.role == role).copied();
        let (mut by_register, mut by_intervals) = (false, false);
        for role in [Role::Import, Role::Export] {
            let track = if role == Role::Import { &self.import } else { &self.export };
            let energy = if role == Role::Import { &mut block.import } else { &mut block.export };
            if Stand::after(&record.borders, role, record.span.end()).last().is_some_and(|at| at.interval.is_some()) {
                by_intervals = true;
                continue; // Intervals are booked from raw readings only.
            }
            let had = of(&record.borders.last, role).is_some();
            by_register |= had;
            if of(&record.borders.after, role).is_some() {
                by_register = true;
                continue; // What follows it was known.
            }
            if let Some(uwh) = track.by_register() {
                by_register = true;
                // What was by power until now is by register now.
                let known = energy.filter(|_| had).map_or(0, Energy::as_uwh);
                *energy = Some(Energy::from_uwh(known.saturating_add(uwh)));
            }
            let borders = &mut block.borders;
            borders.first.extend(track.first().filter(|at| !had && at.interval.is_none()));
            if let Some(last) = track.last().find(|at| at.interval.is_none()) {
                borders.last.retain(|border| border.role != role);
                borders.last.push(last);
            }
            borders.after.extend(track.after());
            borders.breaks.extend(track.breaks());
            borders.pending.retain(|border| border.role != role || track.register().pending().any(|at| at == border));
        }
        let borders = &mut block.borders;
        for list in [&mut borders.first, &mut borders.last, &mut borders.after] {
            list.sort_by_key(|border| border.role);
        }
        borders.breaks.sort_by_key(|at| (at.to.time, at.to.seq, at.to.role));
        if block != *record {
            let power = |role, energy: Option<Energy>| {
                energy.is_some() && of(&block.borders.last, role).or(of(&block.borders.after, role)).is_none()
            };
            let [import, export] = [power(Role::Import, block.import), power(Role::Export, block.export)];
            // Beside a register, power tells of the other direction only when it went that way.
            let nothing = |energy: Option<Energy>| by_register && energy == Some(Energy::from_uwh(0));
            block.import = block.import.filter(|_| !(import && nothing(block.import)));
            block.export = block.export.filter(|_| !(export && nothing(block.export)));
            let held = import && block.import.is_some() || export && block.export.is_some();
            block.method = match (by_register, held) {
                (true, _) if by_intervals => Method::Mixed,
                (true, true) => Method::Mixed,
                (true, false) => Method::Counter,
                (false, _) => record.method,
            };
            block.flags = block.flags.union(self.flags);
            block.sealed = now;
        }
        block
    }

    /// The places of the three roles in a layout; a meter's layout hardly ever changes.
    fn places(&mut self, layout: &Arc<Layout>) -> [Option<u8>; 3] {
        match &self.places {
            Some((known, places)) if Arc::ptr_eq(known, layout) => *places,
            _ => {
                let mut places = [None; 3];
                for role in Role::ALL {
                    places[role as usize] = layout.slot_of(role);
                }
                self.places = Some((layout.clone(), places));
                places
            }
        }
    }

    fn note(&mut self, reading: &StoredReading) {
        self.readings += 1;
        if reading.conflict {
            self.flags.add(BlockFlag::Conflict);
        }
        if reading.clock == ClockState::Unsynchronised {
            self.flags.add(BlockFlag::Clock);
        }
        if reading.layout.simulated {
            self.flags.add(BlockFlag::Simulated);
        }
    }

    fn take(&mut self, border: Border) {
        let (span, reach_ms, flags) = (self.span, self.reach_ms, &mut self.flags);
        if let Some(told) = Told::of(&border) {
            cover(&mut self.covered, Some(told.span), span);
        }
        match border.role {
            Role::Import => self.import.push(border, span, reach_ms, flags),
            Role::Export => self.export.push(border, span, reach_ms, flags),
            Role::Power => self.power.push(border, span, reach_ms, flags),
        }
    }

    fn commit(&mut self, border: &Border) {
        if let Some(lines) = &mut self.lines {
            write_reading_line(border.role, border.time, border.seq, border.raw, lines);
        }
    }

    fn borders(&self) -> Borders {
        let (import, export, power) = (&self.import, &self.export, &self.power);
        let mut breaks: Vec<Break> = import.breaks().iter().chain(export.breaks()).copied().collect();
        breaks.sort_by_key(|at| (at.to.time, at.to.seq, at.to.role));
        let waiting = |track: &Track| -> Vec<Border> {
            track.register().pending().filter(|at| at.time < self.span.end()).copied().collect()
        };
        Borders {
            before: import.before().chain(export.before()).chain(power.before).collect(),
            first: import.first().into_iter().chain(export.first()).collect(),
            last: import.last().chain(export.last()).chain(power.last).collect(),
            after: import.after().chain(export.after()).chain(power.after).collect(),
            breaks,
            pending: [waiting(&self.import), waiting(&self.export)].concat(),
        }
    }

    /// SHA-256 over the lines of the border readings before, of the readings in the span and of those after, ordered
    /// by time, seq and quantity.
    fn digest(&mut self, borders: &Borders) -> Digest {
        let within = self.lines.take().unwrap_or_default();
        Digest::of(&lines_around(borders, &within))
    }
}

/// What the digest of a block with these borders and these readings in it is, whatever its energy.
pub fn committed<'a>(borders: &Borders, readings: impl Iterator<Item = &'a StoredReading>) -> Digest {
    let mut within = Vec::new();
    readings.for_each(|reading| write_reading(reading, &mut within));
    Digest::of(&lines_around(borders, &within))
}

impl Held {
    fn push(&mut self, border: Border, span: Span, reach_ms: i64, flags: &mut BlockFlags) {
        let Some(mw) = milliwatts(&border) else { return };
        if let Some(last) = self.last.or(self.before) {
            if border.time <= last.time {
                if border.time == last.time && border.raw != last.raw {
                    flags.add(BlockFlag::Conflict);
                }
                return;
            }
            if self.after.is_none() && !self.ended {
                self.hold(&last, border.time, span, reach_ms);
            }
        }
        if span.contains(border.time) {
            self.in_span = true;
            self.last = Some(border);
            self.max = Some(self.max.map_or(mw, |max| max.max(mw)));
            self.min = Some(self.min.map_or(mw, |min| min.min(mw)));
        } else if self.last.or(self.before).is_some() && border.time < span.end().plus_millis(reach_ms) {
            self.after.get_or_insert(border);
        } else {
            self.ended = true;
        }
    }

    /// Books the power of `at` until `next`, as far as it speaks for.
    fn hold(&mut self, at: &Border, next: Timestamp, span: Span, reach_ms: i64) {
        let (along, against) = held(at, next, span, reach_ms);
        self.along += along;
        self.against += against;
    }

    /// Import and export in µWh, divided and rounded down once.
    fn energy(&self, category: Category, span: Span, reach_ms: i64, until: Timestamp) -> (i64, i64) {
        let (mut along, mut against) = (self.along, self.against);
        if let Some(last) = self.last.or(self.before).filter(|_| self.after.is_none() && !self.ended) {
            let (more_along, more_against) = held(&last, until, span, reach_ms);
            along += more_along;
            against += more_against;
        }
        // 1 mW for 1 ms is 1 µJ; 3600 µJ are 1 µWh.
        let uwh = |sum: i128| i64::try_from(sum / 3_600).unwrap_or(i64::MAX);
        if category.counts_import() { (uwh(along), uwh(against)) } else { (uwh(against), uwh(along)) }
    }
}

/// mW·ms of a reading of power until `next` within `span`: along the category's direction and against it.
fn held(at: &Border, next: Timestamp, span: Span, reach_ms: i64) -> (i128, i128) {
    let until = next.min(at.time.plus_millis(reach_ms)).min(span.end());
    let ms = until.millis_since(at.time.max(span.start())).max(0);
    let sum = i128::from(milliwatts(at).unwrap_or(0)) * i128::from(ms);
    (sum.max(0), (-sum).max(0))
}

fn milliwatts(at: &Border) -> Option<i64> {
    at.raw.scaled(at.scale, Power::KW_DECIMALS)
}

/// Adds what of a stretch lies in `span`.
fn cover(covered: &mut Stretches, stretch: Option<Span>, span: Span) {
    if let Some(stretch) = stretch.and_then(|stretch| stretch.shared(&span)) {
        covered.add(stretch, |_| ());
    }
}

/// `part` of `whole` in 1/10 000, rounded down.
pub fn share(part: i64, whole: i64) -> u16 {
    let share = i128::from(part.max(0)) * 10_000 / i128::from(whole.max(1));
    u16::try_from(share.min(10_000)).unwrap_or(10_000)
}

#[cfg(test)]
pub(super) mod tests;
