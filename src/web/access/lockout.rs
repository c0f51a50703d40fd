//! How long nobody is let in after wrong guesses: by source and overall. Pure; times are monotonic, in ms, so that a
//! clock that is set does not end a wait.
//!
//! Each wrong guess beyond the first few doubles the wait of its source, up to an hour. All guesses together have a wait
//! of minutes at most: it stops those who have many addresses. It does not hold up this machine itself, nor a source from
//! which an admin has signed in before, so that a stranger cannot keep the engineer out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::store::Lockout;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

/// How the wait grows with the failures.
struct Growth {
    /// Failures after which there is no wait yet.
    free: u32,
    first: u64,
    longest: u64,
    /// Failures are forgotten when none came for so long.
    forgotten: u64,
}

const BY_SOURCE: Growth = Growth { free: 2, first: 30 * SECOND, longest: HOUR, forgotten: 24 * HOUR };
const OVERALL: Growth = Growth { free: 9, first: 5 * SECOND, longest: 300 * SECOND, forgotten: HOUR };

impl Growth {
    fn wait(&self, failures: u32) -> u64 {
        match failures.saturating_sub(self.free) {
            0 => 0,
            beyond => self.first.saturating_mul(1_u64.checked_shl(beyond - 1).unwrap_or(u64::MAX)).min(self.longest),
        }
    }
}

/// Sources that are remembered. When they are full, the one that would be forgotten first goes; the overall wait lets
/// in some hundred guesses a day, so that nobody fills them.
const SOURCES: usize = 1_024;
/// Sources from which an admin has signed in; beyond, that from which none has for longest is forgotten.
const KNOWN: usize = 32;
/// Guesses are told in the log at most this often, all together.
const TOLD: u64 = HOUR;
/// Sources that are named when guesses are told.
const NAMED: usize = 8;

/// As [`Source::Here`](crate::web::source::Source) is told.
const LOOPBACK: &str = "loopback";

#[derive(Clone, Default, Debug, PartialEq)]
struct Tally {
    failures: u32,
    until: u64,
    forget: u64,
    untold: u64,
    known: Option<u64>,
}

impl Tally {
    fn fail(&mut self, growth: &Growth, now: u64) {
        if now >= self.forget {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.until = now + growth.wait(self.failures);
        self.forget = now + growth.forgotten;
    }

    fn left(&self, now: u64) -> Option<u64> {
        (now < self.until).then(|| self.until - now)
    }

    fn is_of_no_use(&self, now: u64) -> bool {
        now >= self.forget && now >= self.until && self.untold == 0 && self.known.is_none()
    }
}

/// What is remembered of wrong guesses.
#[derive(Debug, Default)]
pub struct Lockouts {
    sources: BTreeMap<String, Tally>,
    overall: Tally,
    /// When guesses were last told in the log.
    told: Option<u64>,
}

/// One source that has guessed wrong.
#[derive(Debug, PartialEq)]
pub struct Shown {
    pub source: String,
    pub failures: u32,
    /// How long it is still locked out.
    pub left: Option<u64>,
}

impl Lockouts {
    /// As they were kept: what was left to wait is waited again, whatever time it is now.
    pub fn restored(kept: Vec<Lockout>, now: u64) -> Self {
        let mut restored = Self::default();
        for Lockout { source, failures, wait_ms, forget_ms, untold, known } in kept {
            let tally = Tally { failures, until: now + wait_ms, forget: now + forget_ms, untold, known };
            if source.is_empty() {
                restored.overall = tally;
            } else {
                restored.sources.insert(source, tally);
            }
        }
        restored
    }

    /// As they are to be kept.
    pub fn kept(&self, now: u64) -> Vec<Lockout> {
        let kept = |(source, tally): (&String, &Tally)| Lockout {
            source: source.clone(),
            failures: tally.failures,
            wait_ms: tally.left(now).unwrap_or(0),
            forget_ms: tally.forget.saturating_sub(now),
            untold: tally.untold,
            known: tally.known,
        };
        self.sources.iter().chain([(&String::new(), &self.overall)]).map(kept).collect()
    }

    /// How long this source must wait before it is listened to.
    pub fn left(&self, source: &str, now: u64) -> Option<u64> {
        let own = self.sources.get(source);
        let is_trusted = source == LOOPBACK || own.is_some_and(|tally| tally.known.is_some());
        let overall = self.overall.left(now).filter(|_| !is_trusted);
        own.and_then(|tally| tally.left(now)).max(overall)
    }

    /// As [`left`](Self::left), by what the source itself has done.
    pub fn left_of_its_own(&self, source: &str, now: u64) -> Option<u64> {
        self.sources.get(source).and_then(|tally| tally.left(now))
    }

    /// A guess at a PIN was wrong; true when that begins to lock out, which is worth an entry of its own.
    pub fn refused(&mut self, source: &str, now: u64) -> bool {
        self.overall.fail(&OVERALL, now);
        self.refused_alone(source, now) || self.overall.failures == OVERALL.free + 1
    }

    /// A guess was wrong at what nobody can guess: others do not wait for it.
    pub fn refused_alone(&mut self, source: &str, now: u64) -> bool {
        self.sources.retain(|_, tally| !tally.is_of_no_use(now));
        if self.sources.len() >= SOURCES && !self.sources.contains_key(source) {
            let first = self.sources.iter().filter(|(_, tally)| tally.known.is_none());
            if let Some(first) = first.min_by_key(|(_, tally)| tally.forget).map(|(source, _)| source.clone()) {
                self.sources.remove(&first);
            }
        }
        let own = self.sources.entry(source.to_owned()).or_default();
        own.fail(&BY_SOURCE, now);
        own.untold += 1;
        self.overall.untold += 1;
        own.failures == BY_SOURCE.free + 1
    }

    /// An admin has signed in: this source has done with guessing. A viewer has not: whoever knows that PIN could go on to
    /// guess the other one.
    pub fn admitted(&mut self, source: &str) {
        let newest = self.sources.values().filter_map(|tally| tally.known).max().map_or(0, |newest| newest + 1);
        let own = self.sources.entry(source.to_owned()).or_default();
        *own = Tally { untold: own.untold, known: Some(newest), ..Tally::default() };
        let known = self.sources.values().filter_map(|tally| tally.known);
        if known.clone().count() > KNOWN
            && let Some(oldest) = known.min()
        {
            self.sources.values_mut().filter(|tally| tally.known == Some(oldest)).for_each(|tally| tally.known = None);
        }
    }

    /// The sources with failures that are not forgotten.
    pub fn shown(&self, now: u64) -> Vec<Shown> {
        let all = self.sources.iter().filter(|(_, tally)| tally.failures > 0 && now < tally.forget);
        let shown = |(source, tally): (&String, &Tally)| Shown {
            source: source.clone(),
            failures: tally.failures,
            left: tally.left(now),
        };
        all.map(shown).collect()
    }

    /// What the log is to tell of guesses: at once when `at_once`, else once in a while. They count as told then.
    pub fn take_untold(&mut self, at_once: bool, now: u64) -> Option<Value> {
        let is_due = self.told.is_none_or(|told| now.saturating_sub(told) >= TOLD);
        if self.overall.untold == 0 || !(is_due || at_once) {
            return None;
        }
        let mut sources: Vec<(&String, u64)> = self
            .sources
            .iter()
            .filter(|(_, tally)| tally.untold > 0)
            .map(|(name, tally)| (name, tally.untold))
            .collect();
        sources.sort_by_key(|(_, guesses)| std::cmp::Reverse(*guesses));
        let more = sources.len().saturating_sub(NAMED);
        let named: Vec<Value> = sources
            .iter()
            .take(NAMED)
            .map(|(source, guesses)| json!({ "source": source, "guesses": guesses }))
            .collect();
        let told = json!({ "guesses": self.overall.untold, "sources": named, "more_sources": more });
        self.overall.untold = 0;
        self.sources.values_mut().for_each(|tally| tally.untold = 0);
        self.told = Some(now);
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A guess when the wait allows it, as soon as it does.
    fn patient(lockouts: &mut Lockouts, source: &str, now: &mut u64) {
        while let Some(left) = lockouts.left(source, *now) {
            *now += left;
        }
        lockouts.refused(source, *now);
    }

    #[test]
    fn the_wait_of_a_source_grows_to_an_hour_and_is_forgotten_after_a_quiet_day() {
        let (mut lockouts, mut now) = (Lockouts::default(), 0);
        let mut waits = Vec::new();
        for _ in 0..11 {
            patient(&mut lockouts, LOOPBACK, &mut now);
            waits.push(lockouts.left(LOOPBACK, now).unwrap_or(0) / SECOND);
        }
        assert_eq!(waits, [0, 0, 30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        now += 24 * HOUR;
        lockouts.refused(LOOPBACK, now);
        assert_eq!(lockouts.left(LOOPBACK, now), None);
    }

    #[test]
    fn a_stranger_with_many_addresses_has_some_hundred_guesses_a_day_and_the_engineer_gets_in() {
        let (mut lockouts, mut now, mut guesses) = (Lockouts::default(), 0, 0_u32);
        lockouts.admitted("192.0.2.7");
        while now < 24 * HOUR {
            patient(&mut lockouts, &format!("2001:db8:0:{guesses:x}::/64"), &mut now);
            guesses += 1;
        }
        assert!((280..320).contains(&guesses), "{guesses}");
        assert!(lockouts.left("192.0.2.8", now).is_some_and(|left| left <= 300 * SECOND), "a stranger waits minutes");
        assert_eq!((lockouts.left("192.0.2.7", now), lockouts.left(LOOPBACK, now)), (None, None));
        for _ in 0..3 {
            lockouts.refused("192.0.2.7", now);
        }
        assert!(lockouts.left("192.0.2.7", now).is_some(), "a known source has its own wait");
    }

    #[test]
    fn wrong_set_up_codes_hold_up_nobody_else() {
        let mut lockouts = Lockouts::default();
        for guess in 0..100 {
            lockouts.refused_alone(&format!("192.0.2.{}", guess % 10), guess);
        }
        assert_eq!((lockouts.left_of_its_own("192.0.2.77", 100), lockouts.left("192.0.2.77", 100)), (None, None));
        assert!(lockouts.left_of_its_own("192.0.2.1", 100).is_some());
        assert_eq!(lockouts.take_untold(false, 100).unwrap()["guesses"], 100);
    }

    #[test]
    fn a_viewer_who_signs_in_between_guesses_gains_nothing() {
        // Only the sign-in of an admin is told to the rule at all; it ends the wait of its own source alone.
        let mut lockouts = Lockouts::default();
        for _ in 0..4 {
            lockouts.refused("192.0.2.1", 0);
            lockouts.refused("192.0.2.2", 0);
        }
        lockouts.admitted("192.0.2.1");
        assert_eq!(lockouts.left("192.0.2.1", 1), None);
        assert!(lockouts.left("192.0.2.2", 1).is_some());
        assert_eq!(lockouts.shown(1).len(), 1);
    }

    #[test]
    fn guesses_are_told_at_most_once_an_hour_but_for_what_begins() {
        let (mut lockouts, mut now, mut told, mut counted) = (Lockouts::default(), 0, 0_u32, 0);
        for guess in 0..2_000_u32 {
            let begins = lockouts.refused(&format!("10.0.{}.{}", guess / 256, guess % 256), now);
            if let Some(entry) = lockouts.take_untold(begins, now) {
                told += 1;
                counted += entry["guesses"].as_u64().unwrap();
                assert!(entry["sources"].as_array().unwrap().len() <= NAMED);
            }
            now += 10 * SECOND;
        }
        assert_eq!(told, 1 + 1 + 5, "the first, the begin of the overall wait, and one in each hour");
        counted += lockouts.take_untold(true, now).unwrap()["guesses"].as_u64().unwrap();
        assert_eq!(counted, 2_000);
        assert_eq!(lockouts.take_untold(true, now), None);
        assert!(lockouts.sources.len() <= SOURCES);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Guess(u8),
        Admin(u8),
        Pass(u64),
        Restart,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => (0_u8..4).prop_map(Event::Guess),
            1 => (0_u8..4).prop_map(Event::Admin),
            3 => (0_u64..2 * HOUR).prop_map(Event::Pass),
            1 => Just(Event::Restart),
        ];
        proptest::collection::vec(event, 0..80)
    }

    proptest! {
        #[test]
        fn a_wait_only_ends_by_time_or_by_an_admin(events in events()) {
            let (mut lockouts, mut now) = (Lockouts::default(), 5_000_u64);
            for event in events {
                let before: Vec<u64> = (0..4).map(|n| lockouts.left(&n.to_string(), now).unwrap_or(0)).collect();
                let mut passed = 0;
                let mut admitted = None;
                match event {
                    Event::Guess(n) => drop(lockouts.refused(&n.to_string(), now)),
                    Event::Admin(n) => {
                        lockouts.admitted(&n.to_string());
                        admitted = Some(n);
                    }
                    Event::Pass(ms) => {
                        now += ms;
                        passed = ms;
                    }
                    Event::Restart => {
                        // Monotonic time begins anew, and nobody knows for how long we were away.
                        lockouts = Lockouts::restored(lockouts.kept(now), 77);
                        now = 77;
                    }
                }
                for (n, before) in (0..4_u8).zip(before) {
                    let after = lockouts.left(&n.to_string(), now).unwrap_or(0);
                    prop_assert!(after <= HOUR);
                    if admitted != Some(n) {
                        prop_assert!(after >= before.saturating_sub(passed), "{n}: {before} to {after} in {passed}");
                    }
                }
            }
        }

        #[test]
        fn the_wait_grows_with_each_failure(failures in 0_u32..u32::MAX) {
            for growth in [BY_SOURCE, OVERALL] {
                prop_assert!(growth.wait(failures) <= growth.wait(failures + 1));
                prop_assert!(growth.wait(failures) <= growth.longest);
            }
        }
    }
}
