//! Which raw files and which bundles go, and when. Pure.

use std::time::Duration;

use crate::model::{JobId, Timestamp};

const DAY_MS: i64 = 86_400_000;
/// Deletions by age within one day of monotonic time: a clock that leaps must not take the history with it.
const PER_DAY: usize = 2;

/// What retention knows of a raw file.
#[derive(Clone, Copy, Debug)]
pub struct Aged {
    /// The UTC day of its first commit, in days since 1970, and whether the clock was synchronised then.
    pub day: i64,
    pub synchronised: bool,
}

/// How many of the oldest files are past their time. A file ends where the next one that knows its day begins: a
/// file's own day may be wrong when the clock was.
pub fn expired(files: &[Aged], now: Timestamp, keep: Duration) -> usize {
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let known = |file: &Aged| file.synchronised && file.day.saturating_mul(DAY_MS) <= now.as_millis();
    let past = |file: &Aged| file.day.saturating_mul(DAY_MS).saturating_add(keep) <= now.as_millis();
    files.iter().rposition(|file| known(file) && past(file)).unwrap_or(0)
}

/// A bundle that nobody has fetched for so long may go.
const BUNDLE_MS: i64 = 30 * DAY_MS;

/// What retention knows of the bundle of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub id: JobId,
    pub ended: Timestamp,
    pub is_downloaded: bool,
    pub bytes: u64,
}

/// The bundles that go so that `excess` bytes are won, the oldest first: those that somebody has downloaded, and those
/// that have expired; none expires while `now` is not known.
pub fn bundles_to_go(bundles: &[Bundle], now: Option<Timestamp>, excess: u64) -> Vec<Bundle> {
    let is_expired = |bundle: &Bundle| now.is_some_and(|now| now.millis_since(bundle.ended) >= BUNDLE_MS);
    let mut may_go: Vec<Bundle> =
        bundles.iter().filter(|bundle| bundle.is_downloaded || is_expired(bundle)).copied().collect();
    may_go.sort_by_key(|bundle| (bundle.ended, bundle.id));
    let mut won: u64 = 0;
    may_go
        .into_iter()
        .take_while(|bundle| {
            let wanted = won < excess;
            won = won.saturating_add(bundle.bytes);
            wanted
        })
        .collect()
}

/// The deletions of the last day of monotonic time, so that it bears no more than two.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Deletions {
    boot: String,
    /// Milliseconds since that boot.
    at: Vec<u64>,
}

impl Deletions {
    /// How many more may be made now. What another boot deleted counts from this boot's beginning: nobody knows how
    /// long the machine was off.
    pub fn allowed(&self, boot: &str, since_boot_ms: u64) -> usize {
        const DAY: u64 = 86_400_000;
        let recent = |at: &u64| if self.boot == boot { since_boot_ms < at + DAY } else { since_boot_ms < DAY };
        PER_DAY.saturating_sub(self.at.iter().filter(|at| recent(at)).count())
    }

    #[must_use]
    pub fn with(&self, boot: &str, since_boot_ms: u64) -> Self {
        let mut at: Vec<u64> = if self.boot == boot { self.at.clone() } else { vec![0; self.at.len()] };
        at.push(since_boot_ms);
        let drop = at.len().saturating_sub(PER_DAY);
        at.drain(..drop);
        Self { boot: boot.to_owned(), at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(days: &[i64]) -> Vec<Aged> {
        days.iter().map(|day| Aged { day: *day, synchronised: *day != 0 }).collect()
    }

    fn expired_on(day: i64, days: &[i64]) -> usize {
        let now = Timestamp::from_millis(day * DAY_MS + 1);
        expired(&files(days), now, Duration::from_secs(90 * 86_400))
    }

    #[test]
    fn a_file_goes_when_the_next_one_is_older_than_the_time_kept() {
        assert_eq!(expired_on(100, &[9, 10, 11]), 1);
        assert_eq!(expired_on(99, &[9, 10, 11]), 0);
        assert_eq!(expired_on(101, &[9, 10, 11]), 2);
        assert_eq!(expired_on(1000, &[9, 10, 11]), 2);
        assert_eq!(expired_on(100, &[]), 0);
    }

    #[test]
    fn a_file_of_a_wrong_clock_goes_with_its_neighbours() {
        // 0: not synchronised. 50 000: a clock that said 2106.
        assert_eq!(expired_on(100, &[0, 11, 12]), 0);
        assert_eq!(expired_on(101, &[0, 11, 12]), 1);
        assert_eq!(expired_on(101, &[9, 50_000, 11, 12]), 2);
        assert_eq!(expired_on(200, &[9, 50_000]), 0);
        assert_eq!(expired_on(200, &[9, 0]), 0);
    }

    #[test]
    fn bundles_that_somebody_has_or_nobody_wants_go_oldest_first() {
        let at = |day: i64| Timestamp::from_millis(day * DAY_MS);
        let mut last = None;
        let mut bundle = |day: i64, is_downloaded: bool, bytes: u64| {
            let id = JobId::after(last, at(day), [0; 10]);
            last = Some(id);
            Bundle { id, ended: at(day), is_downloaded, bytes }
        };
        let bundles = [bundle(0, false, 10), bundle(5, true, 10), bundle(10, false, 10), bundle(3, true, 10)];
        let going = |day: Option<i64>, excess: u64| -> Vec<i64> {
            let going = bundles_to_go(&bundles, day.map(at), excess);
            going.iter().map(|bundle| bundle.ended.as_millis() / DAY_MS).collect()
        };
        assert_eq!(going(Some(20), 0), [0; 0]);
        assert_eq!(going(Some(20), 1), [3]);
        assert_eq!(going(Some(20), 11), [3, 5]);
        assert_eq!(going(Some(29), 100), [3, 5], "one that nobody has fetched stays for 30 days");
        assert_eq!(going(Some(30), 100), [0, 3, 5]);
        assert_eq!(going(Some(40), 100), [0, 3, 5, 10]);
        assert_eq!(going(None, 100), [3, 5], "nothing expires by a clock that may be wrong");
    }

    #[test]
    fn a_day_of_monotonic_time_bears_two_deletions() {
        const HOUR: u64 = 3_600_000;
        let none = Deletions::default();
        assert_eq!(none.allowed("a", 0), 2);
        let two = none.with("a", HOUR).with("a", 2 * HOUR);
        assert_eq!(two.allowed("a", 24 * HOUR), 0);
        assert_eq!(two.allowed("a", 25 * HOUR), 1);
        assert_eq!(two.allowed("a", 26 * HOUR), 2);
        assert_eq!(two.allowed("b", 23 * HOUR), 0);
        assert_eq!(two.allowed("b", 24 * HOUR), 2);
        assert_eq!(two.with("b", 23 * HOUR).allowed("b", 24 * HOUR), 1);
    }
}
