//! A block's energy from the border readings in its record alone, for whoever has the record and no raw readings; and
//! what more can be repeated by whoever has those.

use super::record::write_reading_line;
use super::{Block, Border, Borders, Break, Digest, Energy, Method, Number, Power, Ratio, Role, Span, Timestamp};

/// No meter of a plant counts faster: 100 MW, in µWh per ms.
pub const FASTEST_UWH_PER_MS: i128 = 100_000_000_000 / 3_600;

/// A step back of up to 1 kWh, or one unit of the register if that is more, is rounding and not a reset.
pub const JITTER_UWH: i64 = 1_000_000_000;

/// Many meters renew their register once a minute only: an increase is judged over at least this time.
const SLOWEST_RENEWAL_MS: i64 = 60_000;

/// What the record's borders say of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recomputed {
    /// By the register: what the record must say.
    Register(Energy),
    /// Not by a register alone. Energy that the record has in this direction is by intervals or by power, of which the
    /// record does not carry those inside, or by the blocks of other meters: it cannot be found from the borders.
    NotByRegister,
}

impl Block {
    /// Import and export as the border readings give them.
    pub fn recompute(&self) -> (Recomputed, Recomputed) {
        (self.by_borders(Role::Import), self.by_borders(Role::Export))
    }

    /// Whether the record's energy is what its borders give. A direction by intervals or power is not judged, except
    /// that a block by register alone may have none.
    pub fn agrees_with_borders(&self) -> bool {
        let (import, export) = self.recompute();
        let agrees = |energy: Option<Energy>, borders| match borders {
            Recomputed::Register(by_borders) => energy == Some(by_borders),
            Recomputed::NotByRegister => energy.is_none() || self.method != Method::Counter,
        };
        agrees(self.import, import) && agrees(self.export, export)
    }

    /// Counted readings that follow one another make steps; each has its part in the block. Between the first and the
    /// last reading in the block the register only counted on, but for the breaks.
    fn by_borders(&self, role: Role) -> Recomputed {
        let borders = &self.borders;
        if self.method != Method::Counter && self.has_intervals(role) {
            return Recomputed::NotByRegister;
        }
        let breaks: Vec<_> = borders.breaks.iter().filter(|at| at.to.role == role).collect();
        let lists = [&borders.before, &borders.first, &borders.last, &borders.after];
        let mut known: Vec<Border> = lists.into_iter().flatten().copied().collect();
        known.extend(breaks.iter().flat_map(|at| [at.from, at.to]));
        known.retain(|border| border.role == role);
        known.sort_by_key(|border| (border.time, border.seq));
        known.dedup_by_key(|border| (border.time, border.seq));

        let counted = |border: &Border| border.interval.is_none() && self.span.contains(border.time);
        let mut total = known.iter().any(counted).then_some(0_i64);
        for pair in known.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if from.time >= self.span.end() || to.time <= self.span.start() {
                continue;
            }
            if from.interval.is_some() || to.interval.is_some() {
                continue; // A register ends where intervals begin, and begins anew after them.
            }
            let is = |a: &Border, b: &Border| (a.time, a.seq) == (b.time, b.seq);
            let at_break = breaks.iter().find(|at| is(&at.from, &from) && is(&at.to, &to));
            let step = match at_break.map(|at| (at.rollover, at)) {
                None => uwh(&to).zip(uwh(&from)).map(|(to, from)| to.saturating_sub(from)),
                Some((true, at)) => over_its_end(&at.from, &at.to),
                Some((false, _)) => continue, // Nothing is booked between an old register and a new one.
            };
            let part = step.map(|step| part_within(step, from.time, to.time, self.span));
            total = part.map(|part| total.unwrap_or(0).saturating_add(part));
            if total.is_none() {
                break; // Borders that are no numbers of this register: nobody sealed these.
            }
        }
        total.map_or(Recomputed::NotByRegister, |total| Recomputed::Register(Energy::from_uwh(total)))
    }
}

impl Block {
    /// Whether intervals may have a part in this direction: one is labelled in the block, or reaches into it.
    fn has_intervals(&self, role: Role) -> bool {
        let borders = &self.borders;
        let breaks = borders.breaks.iter().flat_map(|at| [&at.from, &at.to]);
        let lists = [&borders.before, &borders.first, &borders.last, &borders.after];
        let mut all = lists.into_iter().flatten().chain(breaks).filter(|border| border.role == role);
        all.any(|border| {
            let told = border.told();
            told.is_some_and(|told| self.span.contains(border.time) || told.overlaps(&self.span))
        })
    }
}

fn uwh(border: &Border) -> Option<i64> {
    border.raw.scaled(border.scale, Energy::KWH_DECIMALS)
}

fn over_its_end(from: &Border, to: &Border) -> Option<i64> {
    let range = Number::U64(from.rolls_over_at?).scaled(from.scale, Energy::KWH_DECIMALS)?;
    uwh(to)?.checked_add(range)?.checked_sub(uwh(from)?)
}

/// So much a register of this scale may step back by rounding.
pub fn jitter_uwh(scale: Ratio) -> i64 {
    let unit = Number::U64(1).scaled(scale, Energy::KWH_DECIMALS).unwrap_or(0);
    unit.saturating_abs().max(JITTER_UWH)
}

/// The most that a register of this scale can have counted in so long.
pub fn most_uwh(scale: Ratio, waited_ms: i64) -> i128 {
    i128::from(jitter_uwh(scale)) + FASTEST_UWH_PER_MS * i128::from(waited_ms.max(SLOWEST_RENEWAL_MS))
}

/// The part of `uwh`, counted between two instants, that lies in `span`.
pub fn part_within(uwh: i64, from: Timestamp, to: Timestamp, span: Span) -> i64 {
    part_before(uwh, from, to, span.end()) - part_before(uwh, from, to, span.start())
}

/// The part of `uwh`, counted between two instants, that lies before `at`: in proportion to time, rounded down.
pub fn part_before(uwh: i64, from: Timestamp, to: Timestamp, at: Timestamp) -> i64 {
    let (passed, whole) = (at.millis_since(from), to.millis_since(from));
    if passed <= 0 {
        0
    } else if passed >= whole {
        uwh
    } else {
        let part = (i128::from(uwh) * i128::from(passed)).div_euclid(i128::from(whole));
        i64::try_from(part).unwrap_or(uwh)
    }
}

/// One value of those that a block's digest commits to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RawReading {
    pub role: Role,
    pub time: Timestamp,
    pub seq: u64,
    pub raw: Number,
}

/// Why raw readings are not those that a block was computed from, or give another block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReadings {
    #[error("the readings have the digest {found}, and the record says {stated}")]
    Digest { found: Digest, stated: Digest },
    #[error("the border reading of {quantity} at {time} (seq {seq}) is not among the readings")]
    Border { quantity: &'static str, time: Timestamp, seq: u64 },
    #[error("the record says {what} {stated}, and the readings say {found}")]
    Other { what: &'static str, found: String, stated: String },
}

/// What the raw readings repeated of a block, beside what its borders do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repeated {
    /// By the register: import, export. Not where readings do not simply count on, or the scale changed: what counts may
    /// then hang on readings before these. A direction without readings has nothing to repeat.
    pub register: [bool; 2],
    /// Energy by power, greatest and least power; not where the scale of power changed, or is not in the record.
    pub power: bool,
    /// Coverage, but for what a reading shortly after the end may add; not where intervals have a part in it.
    pub coverage: bool,
}

impl Block {
    /// Holds the block against the readings that it commits to, in the order in which it does.
    pub fn repeat(&self, readings: &[RawReading]) -> Result<Repeated, BadReadings> {
        if let Some(late) = readings.iter().find(|at| at.seq > self.through_seq) {
            let (found, stated) = (format!("seq {}", late.seq), self.through_seq.to_string());
            return Err(BadReadings::Other { what: "through_seq", found, stated });
        }
        let mut lines = Vec::new();
        readings.iter().for_each(|at| write_reading_line(at.role, at.time, at.seq, at.raw, &mut lines));
        let (found, stated) = (Digest::of(&lines), self.readings_sha256);
        if found != stated {
            return Err(BadReadings::Digest { found, stated });
        }
        drop(lines);
        let mut known: Vec<_> = readings.iter().collect();
        known.sort_by_key(|at| (at.time, at.seq, at.role));
        // A value kept aside may be from before the block; the digest does not cover it.
        let is_due = |border: &&Border| border.time >= self.span.start() || !self.borders.pending.contains(border);
        let is_missing = |border: &&Border| {
            let place = |at: &&RawReading| (at.time, at.seq, at.role);
            let found = known.binary_search_by_key(&(border.time, border.seq, border.role), place);
            !found.is_ok_and(|at| known[at].raw == border.raw)
        };
        if let Some(Border { role, time, seq, .. }) = self.all_borders().filter(is_due).find(is_missing) {
            return Err(BadReadings::Border { quantity: role.quantity(), time: *time, seq: *seq });
        }
        let [import, export] = [Role::Import, Role::Export].map(|role| self.repeat_register(&known, role));
        let register = [import?, export?];
        let power = self.scale_of(Role::Power).map(|scale| self.repeat_power(&known, scale)).transpose()?.is_some();
        let coverage = self.all_borders().all(|border| border.interval.is_none());
        if coverage {
            self.repeat_coverage(&known)?;
        }
        Ok(Repeated { register, power, coverage })
    }

    fn all_borders(&self) -> impl Iterator<Item = &Border> {
        let Borders { before, first, last, after, breaks, pending } = &self.borders;
        let lists = [before, first, last, after, pending].into_iter().flatten();
        lists.chain(breaks.iter().flat_map(|at| [&at.from, &at.to]))
    }

    /// The scale of all readings of a quantity, where the borders show that it did not change, and no intervals.
    fn scale_of(&self, role: Role) -> Option<Ratio> {
        let mut borders = self.all_borders().filter(|border| border.role == role).peekable();
        let scale = borders.peek()?.scale;
        borders.all(|border| border.scale == scale && border.interval.is_none()).then_some(scale)
    }

    /// Where each reading of a register is no lower than the one before, and higher by no more than can be, all of them
    /// count: the borders are the outermost of them, and there is nothing else. Whether that is the case.
    fn repeat_register(&self, readings: &[&RawReading], role: Role) -> Result<bool, BadReadings> {
        let Some(scale) = self.scale_of(role) else { return Ok(false) };
        let mut counted: Vec<&RawReading> = readings.iter().filter(|at| at.role == role).copied().collect();
        // Of several at one instant the first counts.
        counted.dedup_by_key(|at| at.time);
        let values: Option<Vec<i64>> = counted.iter().map(|at| at.raw.scaled(scale, Energy::KWH_DECIMALS)).collect();
        let Some(values) = values else { return Ok(false) };
        let counts_on = counted.windows(2).zip(values.windows(2)).all(|(at, uwh)| {
            let rise = i128::from(uwh[1]) - i128::from(uwh[0]);
            (0..=most_uwh(scale, at[1].time.millis_since(at[0].time))).contains(&rise)
        });
        if !counts_on {
            return Ok(false);
        }
        let inside = || counted.iter().filter(|at| self.span.contains(at.time));
        let before = counted.iter().rev().find(|at| at.time < self.span.start());
        let after = counted.iter().find(|at| at.time >= self.span.end());
        let lists = [&self.borders.before, &self.borders.first, &self.borders.last, &self.borders.after];
        let names = ["before", "first", "last", "after"];
        for ((what, list), found) in
            names.into_iter().zip(lists).zip([before, inside().next(), inside().next_back(), after])
        {
            let stated = list.iter().find(|border| border.role == role);
            if stated.map(|at| (at.time, at.seq)) != found.map(|at| (at.time, at.seq)) {
                let text = |at: Option<(Timestamp, u64)>| {
                    at.map_or_else(|| "none".to_owned(), |(time, seq)| format!("{time} (seq {seq})"))
                };
                let (found, stated) = (found.map(|at| (at.time, at.seq)), stated.map(|at| (at.time, at.seq)));
                return Err(BadReadings::Other { what, found: text(found), stated: text(stated) });
            }
        }
        let of_it = |at: &Break| at.to.role == role;
        let aside = |at: &Border| at.role == role && at.time >= self.span.start();
        if self.borders.breaks.iter().any(of_it) || self.borders.pending.iter().any(aside) {
            let (found, stated) = ("none".to_owned(), "some".to_owned());
            return Err(BadReadings::Other { what: "breaks or pending", found, stated });
        }
        Ok(true)
    }

    /// Each reading of power holds until the next one, at most for a reading's reach.
    fn repeat_power(&self, readings: &[&RawReading], scale: Ratio) -> Result<(), BadReadings> {
        let (mut along, mut against) = (0_i128, 0_i128);
        let (mut in_span, mut max, mut min) = (false, None::<i64>, None::<i64>);
        let power = readings.iter().filter(|at| at.role == Role::Power);
        let mut values: Vec<(Timestamp, i64)> =
            power.filter_map(|at| Some((at.time, at.raw.scaled(scale, Power::KW_DECIMALS)?))).collect();
        // Of several at one instant the first counts.
        values.dedup_by_key(|(time, _)| *time);
        for (at, (time, mw)) in values.iter().enumerate() {
            let next = values.get(at + 1).map_or(Timestamp::MAX, |(next, _)| *next);
            let until = next.min(time.plus_millis(self.reach_ms())).min(self.span.end());
            let ms = until.millis_since((*time).max(self.span.start())).max(0);
            let sum = i128::from(*mw) * i128::from(ms);
            (along, against) = (along + sum.max(0), against + (-sum).max(0));
            if self.span.contains(*time) {
                in_span = true;
                max = Some(max.map_or(*mw, |max| max.max(*mw)));
                min = Some(min.map_or(*mw, |min| min.min(*mw)));
            }
        }
        other("max_mw", max, self.max_power.map(Power::as_mw))?;
        other("min_mw", min, self.min_power.map(Power::as_mw))?;
        // 1 mW for 1 ms is 1 µJ; 3600 µJ are 1 µWh.
        let uwh = |sum: i128| i64::try_from(sum / 3_600).unwrap_or(i64::MAX);
        let (import, export) =
            if self.category.counts_import() { (uwh(along), uwh(against)) } else { (uwh(against), uwh(along)) };
        let counted = [Role::Import, Role::Export].map(|role| self.is_counted(role));
        let known = counted.contains(&true);
        for (what, is_counted, by_power, stated) in
            [("import_uwh", counted[0], import, self.import), ("export_uwh", counted[1], export, self.export)]
        {
            // Beside a register, power tells of the other direction only when it went that way.
            let by_power = (in_span && (!known || by_power > 0)).then_some(by_power);
            if !is_counted {
                other(what, by_power, stated.map(Energy::as_uwh))?;
            }
        }
        Ok(())
    }

    /// Whether a direction is by a register or by intervals.
    fn is_counted(&self, role: Role) -> bool {
        self.has_intervals(role) || matches!(self.by_borders(role), Recomputed::Register(_))
    }

    /// An instant is covered when the next reading is near. One shortly after the end may have covered some that is no
    /// border reading: so the record may say more, up to what a reading at the very end would cover.
    fn repeat_coverage(&self, readings: &[&RawReading]) -> Result<(), BadReadings> {
        let reach_ms = self.reach_ms();
        let covered = |times: &mut dyn Iterator<Item = Timestamp>| {
            let (mut until, mut covered) = (self.span.start(), 0);
            for time in times {
                let near = Span::new(time.plus_millis(-reach_ms).max(until), time.min(self.span.end()));
                covered += near.map_or(0, |near| near.millis());
                until = until.max(time);
            }
            covered
        };
        let times = || readings.iter().map(|at| at.time).filter(|time| *time >= self.span.start());
        let before_end = times().take_while(|time| *time < self.span.end());
        let silent = self.import.is_none() && self.export.is_none();
        let least = if silent { 0 } else { covered(&mut times()) };
        let most = if silent { 0 } else { covered(&mut before_end.chain([self.span.end()])) };
        if (least..=most).contains(&self.covered_ms) {
            return Ok(());
        }
        let found = if least == most { least.to_string() } else { format!("{least} to {most}") };
        Err(BadReadings::Other { what: "covered_ms", found, stated: self.covered_ms.to_string() })
    }

    /// How long one reading speaks for: max(3 × interval, 60 s).
    fn reach_ms(&self) -> i64 {
        (3 * i64::from(self.interval_ms)).max(60_000)
    }
}

fn other(what: &'static str, found: Option<i64>, stated: Option<i64>) -> Result<(), BadReadings> {
    let text = |number: Option<i64>| number.map_or_else(|| "null".to_owned(), |number| number.to_string());
    if found == stated { Ok(()) } else { Err(BadReadings::Other { what, found: text(found), stated: text(stated) }) }
}
