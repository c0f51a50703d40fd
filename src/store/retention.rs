//! Which raw files and which bundles go, and when. Pure.

use std::time::Duration;

use crate::model::{JobId, Position, Timestamp, Unsent};

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

/// Whether somebody upstream still waits for a raw file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Every upstream that is sent readings has acknowledged all of it, or there is none.
    ForNobody,
    Waiting,
}

/// Which raw files go, in this order, so that `excess` bytes are won: the oldest that nobody waits for, then the oldest
/// others. The newest file stays.
pub fn files_to_go(files: &[(u64, Kept)], excess: u64) -> Vec<usize> {
    let mut won: u64 = 0;
    let older = &files[..files.len().saturating_sub(1)];
    let of = |which: Kept| older.iter().enumerate().filter(move |(_, (_, kept))| *kept == which);
    of(Kept::ForNobody)
        .chain(of(Kept::Waiting))
        .take_while(|(_, (bytes, _))| {
            let wanted = won < excess;
            won = won.saturating_add(*bytes);
            wanted
        })
        .map(|(at, _)| at)
        .collect()
}

/// What of the seqs from `first` to `last` is not acknowledged.
pub fn unacknowledged(position: &Position, first: u64, last: u64) -> Vec<Unsent> {
    let behind = Unsent { first: position.live.saturating_add(1), last: u64::MAX };
    let cut = |range: &Unsent| Unsent { first: range.first.max(first), last: range.last.min(last) };
    position.open.iter().chain([&behind]).map(cut).filter(|range| range.first <= range.last).collect()
}

/// Whether all minutes up to that of `latest` are acknowledged. A minute's seq is 4096 times its number, and more.
pub fn minutes_reach(position: &Position, latest: Timestamp) -> bool {
    let through = position.open.first().map_or(position.live, |open| open.first.saturating_sub(1));
    let minute = i64::try_from(through / 4_096).unwrap_or(i64::MAX);
    latest.as_millis().div_euclid(60_000) < minute
}

/// These ranges as disjoint ones, increasing.
pub fn union(mut ranges: Vec<Unsent>) -> Vec<Unsent> {
    ranges.sort_unstable();
    let mut union: Vec<Unsent> = Vec::new();
    for range in ranges {
        match union.last_mut() {
            Some(before) if range.first <= before.last.saturating_add(1) => before.last = before.last.max(range.last),
            _ => union.push(range),
        }
    }
    union
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

    fn open(ranges: &[(u64, u64)]) -> Vec<Unsent> {
        ranges.iter().map(|(first, last)| Unsent { first: *first, last: *last }).collect()
    }

    #[test]
    fn files_that_nobody_waits_for_go_first_and_the_newest_never() {
        use Kept::{ForNobody, Waiting};
        let files = [(10, Waiting), (10, ForNobody), (10, Waiting), (10, ForNobody), (10, ForNobody)];
        assert_eq!(files_to_go(&files, 0), [0; 0]);
        assert_eq!(files_to_go(&files, 1), [1]);
        assert_eq!(files_to_go(&files, 11), [1, 3]);
        assert_eq!(files_to_go(&files, 21), [1, 3, 0]);
        assert_eq!(files_to_go(&files, 1_000), [1, 3, 0, 2]);
        assert_eq!(files_to_go(&files[..1], 1_000), [0; 0]);
        assert_eq!(files_to_go(&[], 1_000), [0; 0]);
    }

    #[test]
    fn what_lies_open_or_beyond_the_live_lane_is_not_acknowledged() {
        let position = Position { live: 100, open: open(&[(5, 9), (20, 40)]) };
        assert_eq!(unacknowledged(&position, 1, 4), []);
        assert_eq!(unacknowledged(&position, 8, 25), open(&[(8, 9), (20, 25)]));
        assert_eq!(unacknowledged(&position, 41, 100), []);
        assert_eq!(unacknowledged(&position, 30, 120), open(&[(30, 40), (101, 120)]));
        assert_eq!(unacknowledged(&Position::default(), 3, 7), open(&[(3, 7)]));
        assert_eq!(union(open(&[(8, 9), (1, 3), (4, 5), (2, 4), (12, 12)])), open(&[(1, 5), (8, 9), (12, 12)]));
    }

    #[test]
    fn minutes_reach_readings_of_the_minutes_before_their_position() {
        let at = |minute: i64| Timestamp::from_millis(minute * 60_000);
        let through = |minute: u64| Position { live: minute * 4_096 + 7, open: Vec::new() };
        assert!(minutes_reach(&through(10), at(9)));
        assert!(!minutes_reach(&through(10), at(10)), "more of that minute may be to come");
        let behind = Position { open: open(&[(5 * 4_096, 5 * 4_096 + 3)]), ..through(10) };
        assert!(minutes_reach(&behind, at(3)) && !minutes_reach(&behind, at(5)));
        assert!(
            minutes_reach(&Position::default(), Timestamp::from_millis(-1))
                && !minutes_reach(&Position::default(), at(0))
        );
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
