//! When the clock is good enough to seal by, and what must be moved or withdrawn when it was not. Pure: it is shown
//! both clocks from time to time and says what follows.

use serde::{Deserialize, Serialize};

use crate::model::{ClockState, Redate, Stamp, StoredReading, Timestamp};

/// Blocks wait so long for the clock to be synchronised, then readings are used as they are.
const PATIENCE_MS: u64 = 5 * 60_000;
/// So long a clock must go steadily before it is believed against what was known.
const STEADY_MS: u64 = 60 * 60_000;
/// A difference between wall and monotonic time that is a step, and no correction.
const STEP_MS: i64 = 60_000;
/// A difference between two readings' clocks that is worth moving readings for.
const REDATE_MS: i64 = 1_000;
/// After boot, a clock further than this past the last sealed block is not believed at once.
const LEAP_MS: i64 = 24 * 60 * 60_000;
/// Readings reach the store within so long: the longest `commit_every` and some more.
const ARRIVAL_MS: u64 = 15_000;

/// What is remembered of the clock, also over a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClockRule {
    boot: String,
    /// Wall time minus monotonic time, at the last look.
    base_ms: i64,
    /// Since when, in ms since boot, wall and monotonic time have gone together, synchronised or not.
    steady_since: u64,
    /// Since when the clock is synchronised, and since when it is not.
    synced_since: Option<u64>,
    unsynced_since: Option<u64>,
    /// The clock leapt forward: nothing is sealed until it has been synchronised and steady.
    held: bool,
    /// Since when the clock stands behind what is sealed.
    behind_since: Option<u64>,
    /// Readings of this boot that were taken unsynchronised.
    runs: Vec<Run>,
}

/// Unsynchronised readings taken under one setting of the clock, in order of seq.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Run {
    base_ms: i64,
    first_seq: u64,
    last_seq: u64,
}

/// What follows from a look at the clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Blocks may be sealed and revised.
    pub seal: bool,
    /// Why not, for a person.
    pub waits_for: Option<&'static str>,
    /// Readings to be moved, now that the clock is right.
    pub redates: Vec<Redate>,
    /// Blocks that end after the present time are not true: the clock was wrong when they were sealed.
    pub withdraw: bool,
}

impl ClockRule {
    /// Looks at both clocks. `sealed` is up to where the meters are sealed, at the latest.
    pub fn look(&mut self, stamp: Stamp, boot: &str, sealed: Option<Timestamp>) -> Verdict {
        let base_ms = stamp.time.as_millis().saturating_sub(i64::try_from(stamp.since_boot_ms).unwrap_or(i64::MAX));
        let past_sealed = sealed.is_some_and(|sealed| stamp.time.millis_since(sealed) > LEAP_MS);
        let now = stamp.since_boot_ms;
        let synced = stamp.clock == ClockState::Synchronised;
        if self.boot != boot {
            // Monotonic time of another boot explains nothing; what was held is held until the clock is steady.
            *self =
                Self { boot: boot.to_owned(), steady_since: now, held: self.held || past_sealed, ..Self::default() };
        } else {
            let step = base_ms.saturating_sub(self.base_ms);
            let found = synced && self.synced_since.is_none();
            if step.abs() > STEP_MS {
                self.steady_since = now;
                self.behind_since = None;
            }
            if found {
                // The time service has set the clock: what it says is explained, unless it is days ahead.
                self.held = past_sealed;
            } else if step > STEP_MS {
                self.held = true;
            }
        }
        self.base_ms = base_ms;
        if synced {
            self.synced_since.get_or_insert(now);
            self.unsynced_since = None;
        } else {
            self.unsynced_since.get_or_insert(now);
            self.synced_since = None;
        }
        let behind = sealed.is_some_and(|sealed| stamp.time < sealed);
        self.behind_since = behind.then(|| self.behind_since.unwrap_or(now));

        let steady = |since: Option<u64>| since.is_some_and(|since| now.saturating_sub(since) >= STEADY_MS);
        if self.held && steady(self.synced_since.map(|since| since.max(self.steady_since))) {
            self.held = false;
        }
        // A clock that is not believed moves nothing.
        let redates = if self.held { Vec::new() } else { self.redates() };
        let arrived = self.synced_since.is_some_and(|since| now.saturating_sub(since) >= ARRIVAL_MS);
        let waits_for = if self.held {
            Some("the clock leapt forward: blocks wait until it has been synchronised and steady for an hour")
        } else if self.unsynced_since.is_some_and(|since| now.saturating_sub(since) < PATIENCE_MS) {
            Some("the clock is not synchronised: blocks wait for it for five minutes")
        } else if !redates.is_empty() && !arrived {
            Some("the clock has just been set: blocks wait until the readings taken before are moved")
        } else if !synced && sealed.is_some_and(|sealed| sealed.millis_since(stamp.time) > LEAP_MS) {
            // A gateway without a battery-backed clock begins in 1970: that is no reason to take back its history, and
            // an unsynchronised clock has never sealed further ahead than this.
            Some("the clock is more than a day behind what is sealed: blocks wait until it is synchronised")
        } else if behind && !steady(self.behind_since) {
            Some(
                "the clock stands behind what is sealed: blocks wait until it has caught up or been steady for an hour",
            )
        } else {
            None
        };
        let withdraw = behind && waits_for.is_none();
        if withdraw {
            self.behind_since = None;
        }
        if arrived && !self.held && redates.is_empty() {
            // The clock was right all along: a step of later is none of these readings' affair.
            self.runs.clear();
        }
        let redates = if arrived { redates } else { Vec::new() };
        Verdict { seal: waits_for.is_none(), waits_for, redates, withdraw }
    }

    /// Whether this boot's clock has been looked at.
    pub fn knows(&self, boot: &str) -> bool {
        self.boot == boot
    }

    /// Notes a committed reading: those taken unsynchronised may have to be moved.
    pub fn note(&mut self, reading: &StoredReading, stamp: Stamp) {
        if reading.clock == ClockState::Synchronised || reading.seq <= self.runs.last().map_or(0, |run| run.last_seq) {
            return;
        }
        // A reading comes from the store within seconds of its time, by the clock that gave it that time.
        let age = |base: i64| {
            base.saturating_add(i64::try_from(stamp.since_boot_ms).unwrap_or(i64::MAX)) - reading.time.as_millis()
        };
        let arrival = i64::try_from(ARRIVAL_MS).unwrap_or(i64::MAX);
        let older = self.runs.last().map(|run| run.base_ms).filter(|base| {
            (self.base_ms - base).abs() <= REDATE_MS
                || !(-REDATE_MS..=arrival).contains(&age(self.base_ms)) && (-REDATE_MS..=arrival).contains(&age(*base))
        });
        match (older, self.runs.last_mut()) {
            (Some(_), Some(run)) => run.last_seq = reading.seq,
            _ => {
                self.runs.push(Run { base_ms: self.base_ms, first_seq: reading.seq, last_seq: reading.seq });
            }
        }
    }

    /// Forgets the readings that have been moved, or need not be.
    pub fn settled(&mut self) {
        if self.synced_since.is_some() {
            self.runs.clear();
        }
    }

    /// The moves to be made once the clock is synchronised, and everything taken before is in the store.
    fn redates(&self) -> Vec<Redate> {
        if self.synced_since.is_none() {
            return Vec::new();
        }
        let moved = |run: &Run| {
            let offset_ms = self.base_ms - run.base_ms;
            (offset_ms.abs() > REDATE_MS).then(|| Redate {
                boot: self.boot.clone(),
                first_seq: run.first_seq,
                last_seq: run.last_seq,
                offset_ms,
            })
        };
        self.runs.iter().filter_map(moved).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::tests::{Say, layout, reading};
    use super::*;
    use crate::model::Category;

    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    /// 2026-11-21T00:00:00Z
    const T: i64 = 1_795_219_200_000;

    struct Hands {
        rule: ClockRule,
        stamp: Stamp,
        boot: u32,
        sealed: Option<Timestamp>,
    }

    impl Hands {
        fn at(time: i64, clock: ClockState, sealed: Option<i64>) -> Self {
            let stamp = Stamp { time: Timestamp::from_millis(time), since_boot_ms: 10_000, clock };
            Self { rule: ClockRule::default(), stamp, boot: 1, sealed: sealed.map(Timestamp::from_millis) }
        }

        fn look(&mut self) -> Verdict {
            self.rule.look(self.stamp, &self.boot.to_string(), self.sealed)
        }

        /// Time passes, with a look each minute.
        fn pass(&mut self, ms: i64) -> Verdict {
            let mut left = ms;
            let mut verdict = self.look();
            while left > 0 {
                let step = left.min(60_000);
                self.stamp.time = self.stamp.time.plus_millis(step);
                self.stamp.since_boot_ms += step.unsigned_abs();
                left -= step;
                verdict = self.look();
            }
            verdict
        }

        fn step(&mut self, ms: i64) -> Verdict {
            self.stamp.time = self.stamp.time.plus_millis(ms);
            self.look()
        }

        fn note(&mut self, seq: u64) {
            let layout = layout("m", Category::Cons, Some(1_000));
            let mut at = reading(&layout, seq, self.stamp.time.as_millis(), Say::default());
            at.clock = self.stamp.clock;
            self.rule.note(&at, self.stamp);
        }
    }

    use ClockState::{Synchronised, Unsynchronised};

    #[test]
    fn a_good_clock_seals_at_once() {
        let mut hands = Hands::at(T, Synchronised, Some(T - HOUR));
        assert!(hands.look().seal);
        assert!(hands.step(30_000).seal, "a correction is no step");
        assert!(hands.step(-30_000).seal);
    }

    #[test]
    fn blocks_wait_five_minutes_for_a_time_service() {
        let mut hands = Hands::at(T, Unsynchronised, Some(T - HOUR));
        assert!(!hands.look().seal);
        assert!(!hands.pass(4 * 60_000).seal);
        assert!(hands.pass(60_000).seal);
    }

    #[test]
    fn readings_before_synchronisation_move_with_the_clock() {
        let mut hands = Hands::at(0, Unsynchronised, None);
        hands.look();
        hands.note(5);
        hands.pass(2_000);
        hands.note(6);
        // Somebody sets the clock by hand before the time service comes.
        hands.step(T - DAY);
        hands.note(7);
        hands.pass(1_000);
        hands.note(8);
        hands.stamp.clock = Synchronised;
        assert!(hands.step(DAY).redates.is_empty(), "some may not be in the store yet");
        let moves = hands.pass(20_000).redates;
        let told: Vec<_> = moves.iter().map(|at| (at.first_seq, at.last_seq, at.offset_ms)).collect();
        assert_eq!(told, vec![(5, 6, T), (7, 8, DAY)]);
        hands.rule.settled();
        assert_eq!(hands.look().redates, vec![]);
    }

    #[test]
    fn a_step_long_after_moves_no_reading_whose_clock_was_right() {
        let mut hands = Hands::at(T, Unsynchronised, None);
        hands.look();
        hands.note(1);
        hands.stamp.clock = Synchronised;
        assert!(hands.pass(20_000).redates.is_empty());
        assert!(hands.step(5_000).redates.is_empty());
        hands.step(75 * 365 * DAY);
        assert!(hands.pass(2 * HOUR).redates.is_empty());
    }

    #[test]
    fn a_clock_that_is_not_believed_moves_no_reading() {
        let mut hands = Hands::at(T, Unsynchronised, Some(T - HOUR));
        hands.look();
        hands.note(1);
        hands.stamp.clock = Synchronised;
        hands.step(3 * DAY);
        assert!(hands.pass(59 * 60_000).redates.is_empty());
        assert_eq!(hands.pass(60_000).redates.len(), 1, "steady for an hour: it is believed");
    }

    #[test]
    fn a_reading_that_comes_after_the_step_belongs_to_the_clock_before() {
        let mut hands = Hands::at(T, Unsynchronised, None);
        hands.look();
        hands.note(1);
        let before = hands.stamp;
        hands.step(HOUR);
        let layout = layout("m", Category::Cons, Some(1_000));
        let mut late = reading(&layout, 2, before.time.as_millis() + 500, Say::default());
        late.clock = Unsynchronised;
        hands.rule.note(&late, hands.stamp);
        hands.note(3);
        let told: Vec<_> = hands.rule.runs.iter().map(|run| (run.first_seq, run.last_seq)).collect();
        assert_eq!(told, vec![(1, 2), (3, 3)]);
    }

    #[test]
    fn a_leap_forward_holds_until_steady_for_an_hour() {
        let mut hands = Hands::at(T, Synchronised, Some(T - HOUR));
        hands.look();
        assert!(!hands.step(75 * 365 * DAY).seal);
        assert!(!hands.pass(59 * 60_000).seal);
        assert!(hands.pass(60_000).seal);
        // It goes back before the hour is over: nothing was sealed, and nothing waits any longer than needed.
        let mut hands = Hands::at(T, Synchronised, Some(T - HOUR));
        hands.look();
        hands.step(75 * 365 * DAY);
        hands.pass(30 * 60_000);
        hands.step(-75 * 365 * DAY);
        assert!(!hands.pass(59 * 60_000).seal);
        assert!(hands.pass(60_000).seal);
    }

    #[test]
    fn after_boot_a_clock_days_ahead_is_held_over_restarts() {
        let mut hands = Hands::at(T, Synchronised, Some(T - 3 * DAY));
        assert!(!hands.look().seal);
        let kept = serde_json::to_string(&hands.rule).unwrap();
        hands.rule = serde_json::from_str(&kept).unwrap();
        hands.boot = 2;
        hands.stamp.since_boot_ms = 0;
        hands.sealed = Some(Timestamp::from_millis(T - HOUR));
        assert!(!hands.pass(59 * 60_000).seal, "a reboot does not let it go");
        assert!(hands.pass(60_000).seal);
        // A stop of three days without a reboot is explained by monotonic time.
        let mut hands = Hands::at(T, Synchronised, Some(T - HOUR));
        hands.look();
        hands.stamp.time = hands.stamp.time.plus_millis(3 * DAY);
        hands.stamp.since_boot_ms += (3 * DAY).unsigned_abs();
        assert!(hands.look().seal);
    }

    #[test]
    fn synchronisation_explains_a_step_of_less_than_a_day() {
        let mut hands = Hands::at(T - HOUR, Unsynchronised, Some(T - 2 * HOUR));
        hands.look();
        hands.stamp.clock = Synchronised;
        assert!(hands.step(HOUR).seal, "no reading has to be moved");
        let mut hands = Hands::at(T - HOUR, Unsynchronised, Some(T - 2 * HOUR));
        hands.look();
        hands.stamp.clock = Synchronised;
        assert!(!hands.step(3 * DAY).seal);
    }

    #[test]
    fn a_clock_behind_what_is_sealed_withdraws_it_after_an_hour() {
        let mut hands = Hands::at(T, Synchronised, Some(T + 10 * DAY));
        let verdict = hands.pass(59 * 60_000);
        assert!(!verdict.seal && !verdict.withdraw);
        let verdict = hands.pass(60_000);
        assert!(verdict.seal && verdict.withdraw);
        // Unsynchronised it is believed for less than a day only.
        for (days, believed) in [(1, true), (10, false)] {
            let mut hands = Hands::at(T, Unsynchronised, Some(T + days * DAY));
            let verdict = hands.pass(60 * 60_000);
            assert_eq!((verdict.seal, verdict.withdraw), (believed, believed), "{days} days behind");
        }
        // It catches up sooner than that: all goes on.
        let mut hands = Hands::at(T, Synchronised, Some(T + 60_000));
        assert!(!hands.look().seal);
        let verdict = hands.pass(60_000);
        assert!(verdict.seal && !verdict.withdraw);
    }
}
