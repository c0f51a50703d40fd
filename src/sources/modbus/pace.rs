//! When to ask and how long to wait. Pure: time is an argument, in milliseconds since boot.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::model::Timestamp;
use crate::sources::{BlockGrid, Wire};

/// Time-outs do not shrink below the shortest of their wire, nor below `ROOM` times what the line's slowest answers
/// needed of late. On a serial line an answer that comes too late spoils that of the next unit, so that neither would be
/// known for what it is; behind a gateway it comes when the whole of it has.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const SHORTEST_WAIT_SERIAL: Duration = Duration::from_millis(200);
const SHORTEST_WAIT_FAR: Duration = Duration::from_millis(500);
const ROOM: u32 = 4;

/// Pauses between attempts at a silent unit double from the first to the longest. With the spread of one eighth and a
/// queue of other units before it, a unit that returns is found within 30 s.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 20_000;

/// Pauses between attempts to connect.
const FIRST_CONNECT_MS: u64 = 250;
const LONGEST_CONNECT_MS: u64 = 10_000;

/// The polls of one meter: at `phase + n × interval`.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    phase_ms: u64,
    interval_ms: u64,
}

impl Grid {
    /// `share` in 0..1 places the polls within the interval, so that those of many meters are spread over it.
    pub fn new(interval: Duration, share: Share) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { phase_ms: share.of(interval_ms), interval_ms }
    }

    pub fn interval_ms(self) -> u64 {
        self.interval_ms
    }

    /// The first poll after `now_ms`. Polls that were missed are not made up for.
    pub fn after(self, now_ms: u64) -> u64 {
        match now_ms.checked_sub(self.phase_ms) {
            None => self.phase_ms,
            Some(since) => self.phase_ms + (since / self.interval_ms + 1) * self.interval_ms,
        }
    }
}

/// A part of a whole, in 1/2^32.
#[derive(Clone, Copy, Debug)]
pub struct Share(u32);

impl Share {
    /// A place that depends on `name` alone, and so stays the same over restarts and changes of the config.
    pub fn of_name(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let [.., a, b, c, d] = hasher.finish().to_be_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// This place moved on by `part / whole`, around the end.
    pub fn plus(self, part: usize, whole: usize) -> Self {
        let step = (1_u64 << 32) / u64::try_from(whole.max(1)).unwrap_or(u64::MAX);
        let moved = u64::from(self.0).wrapping_add(step.wrapping_mul(u64::try_from(part).unwrap_or(0)));
        Self(u32::try_from(moved & u64::from(u32::MAX)).unwrap_or(0))
    }

    fn of(self, whole: u64) -> u64 {
        u64::try_from((u128::from(whole) * u128::from(self.0)) >> 32).unwrap_or(0)
    }
}

/// What is known of how a unit answers.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    full: Duration,
    shortest: Duration,
    /// Attempts in turn without an answer.
    misses: u32,
    not_before_ms: u64,
    /// What it needed of late, fading; what it may need after a late answer.
    needs: Duration,
    waited: Duration,
    spread: Share,
}

impl Patience {
    /// `full` is the time-out of the config.
    pub fn new(full: Duration, wire: &Wire, spread: Share) -> Self {
        let shortest = match wire {
            Wire::Tcp(_) => SHORTEST_WAIT,
            Wire::Serial(_) => SHORTEST_WAIT_SERIAL,
            Wire::RtuOverTcp(_) => SHORTEST_WAIT_FAR,
        };
        Self { full, shortest, misses: 0, not_before_ms: 0, needs: Duration::ZERO, waited: full, spread }
    }

    /// How long to wait for the next answer. It shrinks while the unit keeps silent and others on the line answer, so
    /// that it costs them little; `others_need` is what the slowest of them needs. Too short a time-out is noticed by
    /// the late answer, which the next request of one of the others finds.
    pub fn wait(&mut self, others_need: Option<Duration>) -> Duration {
        let shrunk = self.full / (1 << self.misses.min(16));
        self.waited = match others_need {
            Some(need) => shrunk.max(self.shortest).max(self.needs.max(need) * ROOM).min(self.full),
            None => self.full,
        };
        self.waited
    }

    /// What the unit needed of late, while it answers.
    pub fn needs(&self) -> Option<Duration> {
        (self.misses == 0 && !self.needs.is_zero()).then_some(self.needs)
    }

    /// Attempts in turn without an answer.
    pub fn misses(&self) -> u32 {
        self.misses
    }

    /// While the unit is silent, when to try it again.
    pub fn again_ms(&self) -> Option<u64> {
        (self.misses > 0).then_some(self.not_before_ms)
    }

    pub fn answered(&mut self, took: Duration) {
        self.misses = 0;
        self.needs = took.max(self.needs * 15 / 16);
    }

    /// No answer. Gives the pause until the next attempt.
    pub fn missed(&mut self, now_ms: u64) {
        let doubled = FIRST_PAUSE_MS.checked_shl(self.misses).unwrap_or(u64::MAX).min(LONGEST_PAUSE_MS);
        self.misses = self.misses.saturating_add(1).min(32);
        // Units that fell silent together do not come back together.
        self.spread = self.spread.plus(5, 13);
        self.not_before_ms = now_ms + doubled + self.spread.of(doubled / 8);
    }

    /// The answer that was given up came late: the unit is alive, and slow. It gets the full time-out again; where
    /// that was not enough, the pauses stay, as it would hold up the others each time.
    pub fn was_late(&mut self, now_ms: u64) {
        self.needs = self.full;
        if self.waited < self.full {
            self.misses = 0;
            self.not_before_ms = now_ms;
        }
    }

    /// Something changed that may have brought the unit back.
    pub fn try_now(&mut self, now_ms: u64) {
        self.not_before_ms = self.not_before_ms.min(now_ms);
    }
}

/// Attempts to connect.
#[derive(Clone, Copy, Debug)]
pub struct Connecting {
    tries: u32,
    spread: Share,
}

impl Connecting {
    pub fn new(spread: Share) -> Self {
        Self { tries: 0, spread }
    }

    pub fn worked(&mut self) {
        self.tries = 0;
    }

    /// The pause before the next attempt: doubling up to 10 s, each between half of it and the whole.
    pub fn pause_ms(&mut self) -> u64 {
        let doubled = FIRST_CONNECT_MS.checked_shl(self.tries).unwrap_or(u64::MAX).min(LONGEST_CONNECT_MS);
        self.tries = self.tries.saturating_add(1).min(32);
        self.spread = self.spread.plus(5, 13);
        doubled / 2 + self.spread.of(doubled / 2)
    }
}

/// The first block border after `now`; `None` without a grid.
pub fn border_after(grid: BlockGrid, now: Timestamp) -> Option<Timestamp> {
    if grid.every_ms <= 0 {
        return None;
    }
    let since = now.as_millis().saturating_sub(grid.offset_ms);
    let next = since.div_euclid(grid.every_ms).saturating_add(1);
    Some(Timestamp::from_millis(next.saturating_mul(grid.every_ms).saturating_add(grid.offset_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Parity;
    use crate::sources::Serial;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn patience() -> Patience {
        Patience::new(SECOND, &Wire::Tcp("gateway:502".to_owned()), Share::of_name("line"))
    }

    proptest! {
        #[test]
        fn the_next_poll_lies_within_one_interval(interval in 1..1_000_000_u64, name in ".*", now in 0..u64::MAX / 4) {
            let grid = Grid::new(Duration::from_millis(interval), Share::of_name(&name));
            let next = grid.after(now);
            prop_assert!(next > now || now < interval);
            prop_assert!(next <= now + interval);
            prop_assert_eq!(grid.after(next), next + interval);
        }

        #[test]
        fn the_meters_of_a_line_are_spread_evenly(meters in 1..200_usize, name in ".*") {
            let interval = 1_000_000;
            let start = Share::of_name(&name);
            let grid = |at| Grid::new(Duration::from_millis(interval), start.plus(at, meters));
            let mut phases: Vec<u64> = (0..meters).map(|at| grid(at).phase_ms).collect();
            phases.sort_unstable();
            let fair = interval / u64::try_from(meters).unwrap();
            prop_assert!(phases.windows(2).all(|pair| pair[1] - pair[0] + 2 >= fair));
        }

        #[test]
        fn a_border_lies_ahead_within_one_block(now in -1_000_000_000_000..4_000_000_000_000_i64, offset in 0..1_800_000_i64) {
            let grid = BlockGrid { every_ms: 1_800_000, offset_ms: offset };
            let border = border_after(grid, Timestamp::from_millis(now)).unwrap().as_millis();
            prop_assert!(border > now && border <= now + 1_800_000);
            prop_assert_eq!((border - offset).rem_euclid(1_800_000), 0);
        }
    }

    #[test]
    fn a_silent_unit_costs_less_and_less_and_is_tried_at_least_every_30_s() {
        let mut unit = patience();
        let (mut now, mut waits, mut pauses) = (0, Vec::new(), Vec::new());
        for _ in 0..12 {
            let wait = unit.wait(Some(MS));
            waits.push(wait.as_millis());
            now += u64::try_from(wait.as_millis()).unwrap();
            unit.missed(now);
            pauses.push(unit.again_ms().unwrap() - now);
            now = unit.again_ms().unwrap();
        }
        assert_eq!(waits[..7], [1000, 500, 250, 125, 62, 50, 50]);
        assert!(pauses.windows(2).take(4).all(|pair| pair[1] > pair[0]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| (1_000..=22_500).contains(pause)), "{pauses:?}");
    }

    #[test]
    fn a_unit_that_answers_gets_its_full_time_out_back() {
        let mut unit = patience();
        (0..5).for_each(|_| unit.missed(0));
        unit.answered(Duration::from_millis(20));
        assert_eq!((unit.wait(Some(MS)), unit.again_ms()), (SECOND, None));
    }

    #[test]
    fn a_slow_unit_is_not_starved_by_shrunk_time_outs() {
        let mut unit = patience();
        unit.answered(Duration::from_millis(240));
        unit.missed(0);
        unit.missed(0);
        assert_eq!(unit.wait(Some(MS)), Duration::from_millis(960), "four times what it needs");
        let mut unknown = patience();
        (0..9).for_each(|_| unknown.missed(0));
        assert_eq!(unknown.wait(Some(MS)), SHORTEST_WAIT);
        assert_eq!(unknown.wait(Some(MS * 20)), MS * 80, "the others on the line are no faster");
        assert_eq!(unknown.wait(None), SECOND, "there is nobody to hold up");
        unknown.wait(Some(MS));
        unknown.was_late(500);
        assert_eq!((unknown.wait(Some(MS)), unknown.again_ms()), (SECOND, None));
        unknown.missed(0);
        assert_eq!(unknown.wait(Some(MS)), SECOND, "it is known to be slow");
    }

    #[test]
    fn a_dead_unit_that_wakes_on_a_serial_line_is_not_talked_over() {
        let serial = Serial { device: "/dev/ttyS1".into(), baud: 1200, parity: Parity::None, stop_bits: 2 };
        for (wire, shortest) in
            [(Wire::Serial(serial), SHORTEST_WAIT_SERIAL), (Wire::RtuOverTcp("gw:4001".to_owned()), SHORTEST_WAIT_FAR)]
        {
            let mut unit = Patience::new(SECOND, &wire, Share::of_name("line"));
            (0..9).for_each(|_| unit.missed(0));
            assert_eq!(unit.wait(Some(MS)), shortest);
            let mut hasty = Patience::new(MS * 100, &wire, Share::of_name("line"));
            hasty.missed(0);
            assert_eq!(hasty.wait(Some(MS)), MS * 100, "the config says the most");
        }
    }

    #[test]
    fn a_unit_slower_than_the_configured_time_out_does_not_hold_up_the_others() {
        let mut unit = patience();
        for _ in 0..6 {
            assert_eq!(unit.wait(Some(MS)), SECOND);
            unit.missed(0);
            unit.was_late(100);
        }
        assert!(unit.again_ms().unwrap() >= LONGEST_PAUSE_MS);
    }

    #[test]
    fn connecting_is_tried_at_least_every_10_s() {
        let mut connecting = Connecting::new(Share::of_name("line"));
        let pauses: Vec<u64> = (0..40).map(|_| connecting.pause_ms()).collect();
        assert!(pauses[0] <= 250 && pauses.iter().all(|pause| *pause <= 10_000), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| *pause >= 5_000), "{pauses:?}");
        connecting.worked();
        assert!(connecting.pause_ms() <= 250);
    }
}
