//! Which readings of a cumulative register count: tells a roll-over, a replaced meter, a step back and a value that
//! is not there apart. Pure.
//!
//! A register counts on from its last counted reading. A reading that does not fit is kept aside, and believed once
//! two more have counted on from it; until then, and for ever if the register comes back, it is a glitch. What lies
//! between a register's old life and its new one is never energy.

use crate::model::{Border, Energy, Number, Ratio, Role, StoredReading, Timestamp, jitter_uwh, most_uwh};

/// A counted reading with its value in µWh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    pub at: Border,
    pub uwh: i64,
}

/// The register has gone on from one counted reading to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// `None` for the first reading there is.
    pub from: Option<Counted>,
    pub to: Counted,
    pub kind: StepKind,
    /// The energy between the two: never negative, 0 for a reset.
    pub uwh: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    First,
    Count,
    Rollover,
    Reset,
}

/// A register as it stands after some readings, pushed in order of time, then seq.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Register {
    last: Option<Counted>,
    /// Readings that do not fit `last` but follow from one another; fewer than `BELIEVED`.
    pending: Vec<Counted>,
    /// The time of the last reading looked at, counted or not: of equals, the first counts.
    seen: Option<Timestamp>,
}

/// So many readings in a row that count on from one another are believed against the register's past.
const BELIEVED: usize = 3;

impl Register {
    /// A register that goes on from what a record tells of it.
    pub fn resume(last: Option<Border>, pending: &[Border]) -> Self {
        let last = last.and_then(Counted::new);
        let pending: Vec<_> = pending.iter().copied().filter_map(Counted::new).collect();
        let seen = pending.last().or(last.as_ref()).map(|counted| counted.at.time);
        Self { last, pending, seen }
    }

    /// The last counted reading.
    pub fn last(&self) -> Option<&Counted> {
        self.last.as_ref()
    }

    /// What is kept aside, not yet believed.
    pub fn pending(&self) -> impl Iterator<Item = &Border> {
        self.pending.iter().map(|counted| &counted.at)
    }

    /// Whether both stand alike, whatever they have looked at since.
    pub fn stands_as(&self, other: &Self) -> bool {
        self.last == other.last && self.pending == other.pending
    }

    /// Takes the next reading and tells each step that is known by it: none, one, or several at once when readings
    /// kept aside are believed.
    pub fn push(&mut self, at: Border, mut told: impl FnMut(Step)) {
        if self.seen.is_some_and(|seen| at.time <= seen) {
            return;
        }
        let Some(next) = Counted::new(at) else { return };
        self.seen = Some(at.time);
        let Some(last) = self.last else {
            self.last = Some(next);
            return told(Step { from: None, to: next, kind: StepKind::First, uwh: 0 });
        };
        if next.uwh == 0 && last.uwh > jitter_uwh(last.at.scale) {
            return; // Some devices read 0 when they have nothing to say, for a poll or for a night.
        }
        let aside = self.pending.last().copied();
        let fits_aside = aside.is_some_and(|aside| aside.fits(&next));
        let nearer_to = |counted: Counted| next.uwh.abs_diff(counted.uwh);
        if last.fits(&next) && !(fits_aside && aside.is_some_and(|aside| nearer_to(aside) < nearer_to(last))) {
            self.pending.clear();
            // A little below the last one: neither energy nor a new beginning; the register catches up.
            if next.uwh >= last.uwh {
                self.last = Some(next);
                told(Step { from: Some(last), to: next, kind: StepKind::Count, uwh: next.uwh - last.uwh });
            }
            return;
        }
        if !fits_aside {
            self.pending.clear();
        }
        self.pending.push(next);
        if self.pending.len() < BELIEVED {
            return;
        }
        let mut run = std::mem::take(&mut self.pending).into_iter();
        let Some(first) = run.next() else { return };
        let rolled = last.rolled_over_to(&first);
        let kind = if rolled.is_some() { StepKind::Rollover } else { StepKind::Reset };
        told(Step { from: Some(last), to: first, kind, uwh: rolled.unwrap_or(0) });
        let mut from = first;
        for to in run {
            if to.uwh >= from.uwh {
                told(Step { from: Some(from), to, kind: StepKind::Count, uwh: to.uwh - from.uwh });
                from = to;
            }
        }
        self.last = Some(from);
    }
}

impl Counted {
    fn new(at: Border) -> Option<Self> {
        Some(Self { at, uwh: at.raw.scaled(at.scale, Energy::KWH_DECIMALS)? })
    }

    /// Whether the register may have gone on from this reading to `next`: up no faster than any plant, or back by
    /// no more than rounding. Another scale is another register.
    fn fits(&self, next: &Self) -> bool {
        let rise = i128::from(next.uwh) - i128::from(self.uwh);
        if next.at.scale != self.at.scale || next.at.rolls_over_at != self.at.rolls_over_at {
            return false;
        }
        if rise >= 0 {
            rise <= self.most_until(next)
        } else {
            -rise <= i128::from(jitter_uwh(self.at.scale)) && next.uwh >= self.uwh / 2
        }
    }

    /// The energy from this reading over the register's end to `next`, if that is what happened: less than a quarter
    /// of the range, and no faster than any plant.
    fn rolled_over_to(&self, next: &Self) -> Option<i64> {
        if next.at.scale != self.at.scale || next.uwh >= self.uwh {
            return None;
        }
        let range = Number::U64(self.at.rolls_over_at?).scaled(self.at.scale, Energy::KWH_DECIMALS)?;
        let rise = i128::from(next.uwh) + i128::from(range) - i128::from(self.uwh);
        let possible = (0..=i128::from(range) / 4).contains(&rise) && rise <= self.most_until(next);
        possible.then(|| i64::try_from(rise).ok())?
    }

    /// The most that can have been counted from this reading until `next`.
    fn most_until(&self, next: &Self) -> i128 {
        most_uwh(self.at.scale, next.at.time.millis_since(self.at.time))
    }
}

/// The value of a role in a reading, at `place` of its layout.
pub fn border_of(reading: &StoredReading, role: Role, place: Option<u8>) -> Option<Border> {
    let place = place?;
    let slot = reading.layout.slots.get(usize::from(place))?;
    let (time, seq, raw) = (reading.time, reading.seq, reading.at(place)?);
    let scale: Ratio = slot.scale;
    // Power is no energy, whatever its layout says.
    let interval = slot.interval.filter(|_| role != Role::Power);
    Some(Border { role, time, seq, raw, scale, rolls_over_at: slot.rolls_over_at, interval })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::part_before;
    use proptest::prelude::*;

    fn border(second: i64, kwh: f64, rolls_over_at: Option<u64>) -> Border {
        Border {
            role: Role::Import,
            time: Timestamp::from_millis(second * 1_000),
            seq: u64::try_from(second).unwrap(),
            raw: Number::from_f64(kwh).unwrap(),
            scale: Ratio::ONE,
            rolls_over_at,
            interval: None,
        }
    }

    /// The kinds of the steps and the energy in mWh of a register read once a second.
    fn run(values: &[f64], rolls_over_at: Option<u64>) -> (Vec<StepKind>, i64) {
        let (mut register, mut kinds, mut uwh) = (Register::default(), Vec::new(), 0);
        for (second, kwh) in (0..).zip(values) {
            register.push(border(second, *kwh, rolls_over_at), |step| {
                kinds.push(step.kind);
                uwh += step.uwh;
            });
        }
        (kinds, (uwh + 500) / 1_000)
    }

    use StepKind::{Count, First, Reset, Rollover};

    #[test]
    fn a_register_counts_on() {
        assert_eq!(run(&[100.0, 100.0, 100.5, 101.0], None), (vec![First, Count, Count, Count], 1_000_000));
    }

    #[test]
    fn a_step_back_by_a_tenth_is_neither_energy_nor_a_reset() {
        assert_eq!(run(&[100.0, 99.9, 100.0, 100.1], None), (vec![First, Count, Count], 100_000));
        // It stays below for a while: the register catches up, and nothing counts twice.
        assert_eq!(run(&[100.0, 99.9, 99.9, 99.9, 99.95, 100.2], None), (vec![First, Count], 200_000));
    }

    #[test]
    fn one_wrong_value_is_a_glitch() {
        assert_eq!(run(&[123_456.0, 0.0, 123_456.5], None), (vec![First, Count], 500_000));
        assert_eq!(run(&[123_456.0, 17.0, 123_456.5], None), (vec![First, Count], 500_000));
        assert_eq!(run(&[123_456.0, 99_999_999.0, 123_456.5], None), (vec![First, Count], 500_000));
        assert_eq!(run(&[123_456.0, 17.0, 17.1, 123_456.5], None), (vec![First, Count], 500_000));
    }

    #[test]
    fn zeros_for_a_night_are_not_there() {
        let night: Vec<f64> = [vec![123_456.0], vec![0.0; 50], vec![123_456.5]].concat();
        assert_eq!(run(&night, Some(1 << 24)), (vec![First, Count], 500_000));
    }

    #[test]
    fn a_replaced_meter_books_nothing_across_and_counts_on() {
        assert_eq!(run(&[5_000.0, 0.0, 0.1, 0.2, 0.3], None), (vec![First, Reset, Count, Count], 200_000));
        assert_eq!(run(&[5_000.0, 17.0, 17.0, 17.0, 17.5], None), (vec![First, Reset, Count, Count, Count], 500_000));
        // A used meter: its lifetime is no energy of ours.
        assert_eq!(run(&[5_000.0, 98_765.0, 98_765.1, 98_765.2], None), (vec![First, Reset, Count, Count], 200_000));
        assert_eq!(run(&[0.0, 98_765.0, 98_765.1, 98_765.2], None), (vec![First, Reset, Count, Count], 200_000));
    }

    #[test]
    fn a_register_passes_its_end() {
        for end in [1 << 16, 1 << 24, 1 << 32, 100_000_000_u64] {
            #[allow(clippy::cast_precision_loss)]
            let top = end as f64;
            let values = [top - 2.0, top - 1.0, 1.0, 2.0, 3.0];
            assert_eq!(run(&values, Some(end)), (vec![First, Count, Rollover, Count, Count], 5_000_000), "{end}");
            // Exactly 0 is passed over, and nothing is lost by it.
            let values = [top - 1.0, 0.0, 1.0, 2.0, 3.0];
            assert_eq!(run(&values, Some(end)), (vec![First, Rollover, Count, Count], 4_000_000), "{end}");
            // A zero for one poll near the end is no roll-over.
            let values = [top - 2.0, 0.0, top - 1.0];
            assert_eq!(run(&values, Some(end)), (vec![First, Count], 1_000_000), "{end}");
        }
        // Half way is no place to roll over.
        assert_eq!(run(&[30_000.0, 1.0, 2.0, 3.0], Some(1 << 16)).0, vec![First, Reset, Count, Count]);
    }

    #[test]
    fn another_scale_is_another_register() {
        let mut register = Register::default();
        let mut kinds = Vec::new();
        for (second, scale) in (0..).zip([1, 1, 40, 40, 40]) {
            let scale = Ratio::new(scale, 1).unwrap();
            register.push(Border { scale, ..border(second, 100.0, None) }, |step| kinds.push((step.kind, step.uwh)));
        }
        assert_eq!(kinds, vec![(First, 0), (Count, 0), (Reset, 0), (Count, 0), (Count, 0)]);
    }

    #[test]
    fn of_two_values_at_one_instant_the_first_counts() {
        let mut register = Register::default();
        let mut to = Vec::new();
        for kwh in [1.0, 2.0] {
            register.push(border(5, kwh, None), |step| to.push(step.to.uwh));
        }
        assert_eq!(to, vec![1_000_000_000]);
    }

    proptest! {
        /// Resumed from what a record keeps, a register goes on as if it had never stopped.
        #[test]
        fn a_resumed_register_goes_on_the_same(
            values in prop::collection::vec(prop_oneof![Just(0.0), 0.0..5.0, 1000.0..1005.0, Just(70_000.0)], 1..40),
            cut in 0_usize..40,
        ) {
            let mut whole = Register::default();
            let mut parted = Register::default();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for (at, kwh) in values.iter().enumerate() {
                let next = border(i64::try_from(at).unwrap(), *kwh, Some(1 << 16));
                if at == cut {
                    let pending: Vec<_> = parted.pending().copied().collect();
                    parted = Register::resume(parted.last().map(|last| last.at), &pending);
                }
                whole.push(next, |step| a.push(step));
                parted.push(next, |step| b.push(step));
            }
            prop_assert_eq!(a, b);
        }

        /// No series of values, however wild, books a lifetime: a step is never more than what can flow in its time.
        #[test]
        fn no_step_is_faster_than_any_plant(
            values in prop::collection::vec(prop_oneof![Just(0.0), 0.0..1e9, 1e5..1.0001e5], 1..60),
        ) {
            let mut register = Register::default();
            for (at, kwh) in values.iter().enumerate() {
                register.push(border(i64::try_from(at).unwrap(), *kwh, Some(1 << 24)), |step| {
                    let waited = step.from.map_or(0, |from| step.to.at.time.millis_since(from.at.time));
                    let most = 1_000_000_000 + 27_777_778 * i128::from(waited.max(60_000));
                    assert!(step.uwh >= 0 && i128::from(step.uwh) <= most, "{step:?}");
                });
            }
        }

        #[test]
        fn parts_of_a_step_add_up(uwh in 0..i64::MAX, from in -1_000_000..0_i64, to in 1..1_000_000_i64, at in -2_000_000..2_000_000_i64) {
            let time = Timestamp::from_millis;
            let part = part_before(uwh, time(from), time(to), time(at));
            prop_assert!((0..=uwh).contains(&part));
            if at > from && at < to {
                let exact = i128::from(uwh) * i128::from(at - from);
                let whole = i128::from(to - from);
                prop_assert!(i128::from(part) * whole <= exact && exact < (i128::from(part) + 1) * whole);
            }
        }
    }
}
