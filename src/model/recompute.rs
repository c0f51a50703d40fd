//! A block's energy from the border readings in its record alone, for whoever has the record and no raw readings.

use super::{Block, Border, Energy, Method, Number, Role, Span, Timestamp};

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
            let at_break = breaks.iter().find(|at| at.to.seq == to.seq && at.to.time == to.time);
            let step = match at_break.map(|at| at.rollover) {
                None => uwh(&to).zip(uwh(&from)).map(|(to, from)| to.saturating_sub(from)),
                Some(true) => over_its_end(&from, &to),
                Some(false) => continue, // Nothing is booked between an old register and a new one.
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
