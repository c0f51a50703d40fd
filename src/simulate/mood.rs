//! How well a simulated meter answers. All do, but one.

use std::time::Duration;

use crate::model::Timestamp;

/// Index of the meter that does not always answer.
const FLAKY: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    Silent,
    /// Answers with exception 6.
    Busy,
    /// Answers after this.
    Slow(Duration),
}

/// In each 20 minutes the flaky meter is slow for a while, silent for most of a minute and busy for a moment; every
/// third hour its silence lasts long enough to show as a gap.
pub(super) fn of(index: usize, now: Timestamp) -> Mood {
    const ROUND_S: i64 = 1_200;
    if index != FLAKY {
        return Mood::Well;
    }
    let second = now.as_millis().div_euclid(1_000);
    let long = second.div_euclid(ROUND_S).rem_euclid(9) == 0;
    match second.rem_euclid(ROUND_S) {
        200..206 => Mood::Slow(Duration::from_millis(1_400)),
        500..545 => Mood::Silent,
        545..680 if long => Mood::Silent,
        900..904 => Mood::Busy,
        _ => Mood::Well,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flaky_meter_is_silent_for_a_minute_each_hour_third_and_longer_at_times() {
        let mood = |index, second: i64| of(index, Timestamp::from_millis(second * 1_000));
        assert_eq!(mood(FLAKY, 202), Mood::Slow(Duration::from_millis(1_400)));
        assert_eq!((mood(FLAKY, 902), mood(FLAKY, 1_000)), (Mood::Busy, Mood::Well));
        assert_eq!((0..10_800).filter(|second| mood(FLAKY, *second) == Mood::Silent).count(), 9 * 45 + 135);
        assert!((0..10_800).all(|second| mood(FLAKY + 1, second) == Mood::Well));
    }
}
