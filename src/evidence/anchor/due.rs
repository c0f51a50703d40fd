//! Which checkpoint is to be anchored next. Pure: time is an argument.

use std::time::Duration;

use crate::model::Timestamp;

/// An epoch of this gateway, as far as it bears on this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub epoch: String,
    /// The size of its newest checkpoint; 0 when there is none.
    pub signed: u64,
    /// Of these entries a transaction of the present chain is signed, or more than that.
    pub covered: u64,
    /// A checkpoint of it waits to be signed for.
    pub is_queued: bool,
    /// Another epoch follows it: it does not grow any more.
    pub is_ended: bool,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// The newest checkpoint of this epoch.
    Now { epoch: String },
    /// There is something new; its time comes then.
    At(Timestamp),
    /// All is covered, or on its way there.
    Nothing,
}

/// What is due at `now`, the oldest epoch first: an epoch that ended is anchored to its end at once. The running one has
/// its turn `every` so often after it had its last, which is `last`, and at once when it never had one.
pub fn due(stretches: &[Stretch], last: Option<Timestamp>, every: Duration, now: Timestamp) -> Due {
    for stretch in stretches {
        if stretch.is_queued || stretch.signed <= stretch.covered {
            continue;
        }
        let at = match last {
            Some(last) if !stretch.is_ended && stretch.covered > 0 => last.plus(every),
            _ => now,
        };
        // A last turn in the future is one of before the clock was set back; when it was, nobody can tell.
        let is_ahead = last.is_some_and(|last| last > now);
        if at <= now || is_ahead {
            return Due::Now { epoch: stretch.epoch.clone() };
        }
        return Due::At(at);
    }
    Due::Nothing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_secs(6 * 3_600);
    const HOUR: i64 = 3_600_000;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(hours * HOUR)
    }

    fn stretch(epoch: &str, signed: u64, covered: u64) -> Stretch {
        Stretch { epoch: epoch.into(), signed, covered, is_queued: false, is_ended: false }
    }

    fn now(epoch: &str) -> Due {
        Due::Now { epoch: epoch.into() }
    }

    #[test]
    fn what_is_new_has_its_turn_and_nothing_new_has_none() {
        let grown = [stretch("b", 9, 5)];
        assert_eq!(due(&grown, Some(at(10)), EVERY, at(15)), Due::At(at(16)));
        assert_eq!(due(&grown, Some(at(10)), EVERY, at(16)), now("b"));
        assert_eq!(due(&grown, Some(at(10)), EVERY, at(1_000)), now("b"), "a month offline is one turn");
        assert_eq!(due(&[stretch("b", 9, 9)], Some(at(10)), EVERY, at(1_000)), Due::Nothing);
        assert_eq!(due(&[], None, EVERY, at(0)), Due::Nothing);
        assert_eq!(due(&[stretch("b", 0, 0)], None, EVERY, at(0)), Due::Nothing, "nothing is signed yet");
    }

    #[test]
    fn the_first_of_an_epoch_waits_for_nothing() {
        assert_eq!(due(&[stretch("b", 1, 0)], None, EVERY, at(0)), now("b"));
        assert_eq!(due(&[stretch("a", 5, 5), stretch("b", 1, 0)], Some(at(0)), EVERY, at(0)), now("b"));
    }

    #[test]
    fn an_ended_epoch_comes_first_and_at_once() {
        let ended = Stretch { is_ended: true, ..stretch("a", 9, 5) };
        let both = [ended.clone(), stretch("b", 3, 0)];
        assert_eq!(due(&both, Some(at(10)), EVERY, at(10)), now("a"));
        let queued = [Stretch { is_queued: true, ..ended }, stretch("b", 3, 0)];
        assert_eq!(due(&queued, Some(at(10)), EVERY, at(10)), now("b"), "each epoch has its own");
    }

    #[test]
    fn what_is_queued_is_not_queued_again() {
        let queued = [Stretch { is_queued: true, ..stretch("b", 9, 5) }];
        assert_eq!(due(&queued, Some(at(0)), EVERY, at(1_000)), Due::Nothing);
    }

    #[test]
    fn a_clock_that_was_set_back_delays_nothing() {
        assert_eq!(due(&[stretch("b", 9, 5)], Some(at(10)), EVERY, at(9)), now("b"));
    }

    proptest! {
        #[test]
        fn there_is_no_waiting_beyond_every(last in -50..50_i64, now_at in -50..50_i64, covered in 0..3_u64) {
            match due(&[stretch("b", 2, covered)], Some(at(last)), EVERY, at(now_at)) {
                Due::At(then) => prop_assert!(then > at(now_at) && then <= at(now_at).plus(EVERY)),
                Due::Now { .. } => prop_assert!(covered < 2),
                Due::Nothing => prop_assert!(covered >= 2),
            }
        }
    }
}
