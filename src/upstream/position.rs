//! How far a stream is, and what of it is sent next. Pure: seqs up to `live` are settled but for those in `open`, and
//! whoever calls says up to which seq (`head`) there is something to send.
//!
//! The live lane goes upwards from `live`, the backfill through the newest open range, upwards as well. A leap turns what
//! the live lane would be late with into an open range, so that the newest records never wait behind old ones.

use super::Start;
use crate::model::{Position, Unsent};

/// Open ranges at most: with so many the live lane leaps no more, and a position stays small whatever the line does.
pub const RANGES: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    Live,
    Backfill,
}

/// What a lane has before it: `after < seq <= until`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    pub lane: Lane,
    pub after: u64,
    pub until: u64,
}

/// Where a stream begins of which no position is known.
pub fn begin(start: Start, head: u64) -> Position {
    let live = match start {
        Start::Oldest => 0,
        Start::Now => head,
    };
    Position { live, open: Vec::new() }
}

/// What the live lane has to send.
pub fn live(position: &Position, head: u64) -> Option<Stretch> {
    (head > position.live).then_some(Stretch { lane: Lane::Live, after: position.live, until: head })
}

/// What the backfill works off next. What lies beyond the head, since that went back, stays open.
pub fn backfill(position: &Position, head: u64) -> Option<Stretch> {
    let range = position.open.iter().rev().find(|range| range.first <= head)?;
    Some(Stretch { lane: Lane::Backfill, after: range.first.saturating_sub(1), until: range.last.min(head) })
}

/// Has the live lane leap to the newest `keep` seqs when it is more than `late` seqs behind; whether it leapt.
pub fn leap(position: &mut Position, head: u64, late: u64, keep: u64) -> bool {
    if head.saturating_sub(position.live) <= late.max(keep) {
        return false;
    }
    let to = head - keep;
    let ranges = position.open.len();
    match position.open.last_mut() {
        Some(last) if last.last == position.live => last.last = to,
        _ if ranges < RANGES => position.open.push(Unsent { first: position.live + 1, last: to }),
        _ => return false,
    }
    position.live = to;
    true
}

/// All of `stretch` up to `through` is settled: acknowledged, kept as a dead letter, or not there.
pub fn settle(position: &mut Position, stretch: Stretch, through: u64) {
    match stretch.lane {
        Lane::Live => position.live = position.live.max(through),
        Lane::Backfill => close(position, stretch.after.saturating_add(1), through),
    }
}

fn close(position: &mut Position, first: u64, last: u64) {
    let parts = |range: &Unsent| {
        let below = first.checked_sub(1).map(|end| Unsent { first: range.first, last: range.last.min(end) });
        let above = last.checked_add(1).map(|begin| Unsent { first: range.first.max(begin), last: range.last });
        [below, above].into_iter().flatten().filter(|part| part.first <= part.last).collect::<Vec<_>>()
    };
    if first <= last {
        position.open = position.open.iter().flat_map(parts).collect();
    }
}

/// What was settled must be sent again. With too many ranges what lies between two of them is sent again too.
pub fn reopen(position: &mut Position, first: u64, last: u64) {
    position.open.push(Unsent { first, last });
    tidy(position);
}

/// A position as it must be, whoever kept it: in order, disjoint, not beyond `live`, of few ranges.
pub fn tidy(position: &mut Position) {
    let live = position.live;
    let mut ranges = std::mem::take(&mut position.open);
    for range in &mut ranges {
        range.first = range.first.max(1);
        range.last = range.last.min(live);
    }
    ranges.retain(|range| range.first <= range.last);
    ranges.sort_unstable();
    let mut merged: Vec<Unsent> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
            _ => merged.push(range),
        }
    }
    while merged.len() > RANGES {
        let gap = |pair: &[Unsent]| pair[1].first - pair[0].last;
        let nearest = (1..merged.len()).min_by_key(|at| gap(&merged[at - 1..=*at])).unwrap_or(1);
        let joined = merged.remove(nearest);
        merged[nearest - 1].last = joined.last;
    }
    position.open = merged;
}

/// The head went back for good, as that of minutes does with a clock that is set back: what comes again is sent again.
pub fn fall_back(position: &mut Position, head: u64) {
    position.live = position.live.min(head);
    tidy(position);
}

/// The lowest seq that is not settled.
pub fn lowest(position: &Position, head: u64) -> Option<u64> {
    let waiting = (head > position.live).then(|| position.live + 1);
    position.open.first().map(|range| range.first).or(waiting)
}

/// Whether `seq` is not settled.
pub fn is_unsent(position: &Position, seq: u64) -> bool {
    seq > position.live || position.open.iter().any(|range| (range.first..=range.last).contains(&seq))
}

/// Seqs that are not settled, without those of `unused`, which are disjoint; holes of another kind are among them.
pub fn depth(position: &Position, head: u64, unused: &[Unsent]) -> u64 {
    let live = (head > position.live).then(|| Unsent { first: position.live + 1, last: head });
    let used = |range: &Unsent| {
        let holes = unused.iter().map(|hole| {
            let (first, last) = (hole.first.max(range.first), hole.last.min(range.last));
            (last + 1).saturating_sub(first)
        });
        (range.last - range.first + 1).saturating_sub(holes.sum())
    };
    position.open.iter().chain(&live).map(used).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// So many records come.
        Grow(u64),
        /// The line comes up: leap when late by more than the first, down to the second.
        Leap(u64, u64),
        /// A lane sends a batch of so many, of which so many are settled.
        Send(Lane, u64, u64),
        Reopen(u64, u64),
        /// The head is so much lower for a while.
        Behind(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let lane = prop_oneof![Just(Lane::Live), Just(Lane::Backfill)];
        prop_oneof![
            3 => (0_u64..60).prop_map(Step::Grow),
            3 => (0_u64..10, 0_u64..5).prop_map(|(late, keep)| Step::Leap(late, keep)),
            6 => (lane, 1_u64..30, 0_u64..30).prop_map(|(lane, size, taken)| Step::Send(lane, size, taken)),
            1 => (1_u64..500, 0_u64..5).prop_map(|(first, more)| Step::Reopen(first, more)),
            1 => (0_u64..20).prop_map(Step::Behind),
        ]
    }

    fn is_well_formed(position: &Position) {
        assert!(position.open.len() <= RANGES, "{position:?}");
        assert!(
            position.open.iter().all(|range| (1..=range.last).contains(&range.first) && range.last <= position.live)
        );
        assert!(position.open.windows(2).all(|pair| pair[0].last < pair[1].first), "{position:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Against a plain set of what is settled: nothing is lost, and nothing is sent that was settled.
        #[test]
        fn a_position_says_what_a_set_would(steps in proptest::collection::vec(step(), 1..120)) {
            let (mut position, mut head) = (begin(Start::Oldest, 0), 0_u64);
            let mut settled = BTreeSet::new();
            for step in steps {
                let mut behind = 0;
                match step {
                    Step::Grow(by) => head += by,
                    Step::Leap(late, keep) => {
                        let before = position.clone();
                        let leapt = leap(&mut position, head, late, keep);
                        prop_assert_eq!(leapt, before != position);
                        prop_assert!(!leapt || position.live == head - keep);
                    }
                    Step::Send(lane, size, taken) => {
                        let stretch = match lane {
                            Lane::Live => live(&position, head),
                            Lane::Backfill => backfill(&position, head),
                        };
                        if let Some(stretch) = stretch {
                            let last = stretch.until.min(stretch.after + size);
                            for seq in stretch.after + 1..=last {
                                prop_assert!(!settled.contains(&seq), "{} is sent twice", seq);
                                prop_assert!(is_unsent(&position, seq));
                            }
                            let through = last.min(stretch.after + taken);
                            settle(&mut position, stretch, through);
                            settled.extend(stretch.after + 1..=through);
                        }
                    }
                    Step::Reopen(first, more) => {
                        let last = (first + more).min(position.live);
                        reopen(&mut position, first, last);
                        settled.retain(|seq| !(first..=last).contains(seq));
                        // What lies between two ranges that had to be joined is sent again.
                        settled.retain(|seq| !is_unsent(&position, *seq));
                    }
                    Step::Behind(by) => behind = by,
                }
                let lower = head.saturating_sub(behind);
                if let Some(stretch) = live(&position, lower).or(backfill(&position, lower)) {
                    prop_assert!(stretch.after < stretch.until && stretch.until <= lower);
                }
                is_well_formed(&position);
                let unsent: Vec<u64> = (1..=head).filter(|seq| !settled.contains(seq)).collect();
                prop_assert_eq!(depth(&position, head, &[]), unsent.len() as u64);
                let hole = [Unsent { first: 40, last: 90 }, Unsent { first: 100, last: 100 }];
                let is_used = |seq: &&u64| !(40..=90).contains(*seq) && **seq != 100;
                prop_assert_eq!(depth(&position, head, &hole), unsent.iter().filter(is_used).count() as u64);
                prop_assert_eq!(lowest(&position, head), unsent.first().copied());
                prop_assert!(unsent.iter().all(|seq| is_unsent(&position, *seq)));
            }
            // Whatever happened: the two lanes bring the rest, each once.
            while let Some(stretch) = live(&position, head).or(backfill(&position, head)) {
                for seq in stretch.after + 1..=stretch.until {
                    prop_assert!(settled.insert(seq), "{} is sent twice", seq);
                }
                settle(&mut position, stretch, stretch.until);
            }
            prop_assert!(settled.iter().copied().eq(1..=head));
            prop_assert_eq!(position, Position { live: head, open: Vec::new() });
        }

        #[test]
        fn whatever_was_kept_is_made_sound(live in 0_u64..100, open in proptest::collection::vec((0_u64..120, 0_u64..120), 0..80)) {
            let open: Vec<_> = open.into_iter().map(|(first, last)| Unsent { first, last }).collect();
            let mut position = Position { live, open: open.clone() };
            tidy(&mut position);
            is_well_formed(&position);
            for range in open {
                for seq in range.first.max(1)..=range.last.min(live) {
                    prop_assert!(is_unsent(&position, seq), "{} is lost", seq);
                }
            }
        }
    }

    #[test]
    fn the_newest_go_first_and_the_newest_gap_next() {
        let mut position = begin(Start::Oldest, 900);
        assert!(leap(&mut position, 1_000, 20, 10));
        assert_eq!(live(&position, 1_000), Some(Stretch { lane: Lane::Live, after: 990, until: 1_000 }));
        let newest = live(&position, 1_000).unwrap();
        settle(&mut position, newest, 1_000);
        assert!(leap(&mut position, 2_000, 20, 10));
        let newest = Stretch { lane: Lane::Backfill, after: 1_000, until: 1_990 };
        assert_eq!(backfill(&position, 2_000), Some(newest));
        settle(&mut position, newest, 1_500);
        assert_eq!(position.open, [Unsent { first: 1, last: 990 }, Unsent { first: 1_501, last: 1_990 }]);
        assert_eq!(begin(Start::Now, 900), Position { live: 900, open: Vec::new() });
    }

    #[test]
    fn a_leap_that_goes_on_from_a_gap_makes_no_second_one() {
        let mut position = begin(Start::Oldest, 0);
        for head in [100, 200, 300] {
            assert!(leap(&mut position, head, 20, 0));
        }
        assert_eq!(position, Position { live: 300, open: vec![Unsent { first: 1, last: 300 }] });
    }

    #[test]
    fn with_many_gaps_the_live_lane_goes_in_order() {
        let mut position = begin(Start::Oldest, 0);
        let mut head = 0;
        for _ in 0..RANGES {
            head += 100;
            assert!(leap(&mut position, head, 20, 10));
            let stretch = live(&position, head).unwrap();
            settle(&mut position, stretch, head);
        }
        assert!(!leap(&mut position, head + 1_000, 20, 10));
        assert_eq!(live(&position, head + 1_000).unwrap().after, head);
        let stretch = backfill(&position, head).unwrap();
        settle(&mut position, stretch, stretch.until);
        assert!(leap(&mut position, head + 1_000, 20, 10));
    }

    #[test]
    fn what_lies_beyond_a_head_that_went_back_waits_for_it() {
        let mut position = Position { live: 50, open: vec![Unsent { first: 10, last: 40 }] };
        assert_eq!(live(&position, 20), None);
        let stretch = backfill(&position, 20).unwrap();
        assert_eq!(stretch.until, 20);
        settle(&mut position, stretch, 20);
        assert_eq!((backfill(&position, 20), position.open[0].first), (None, 21));
        fall_back(&mut position, 30);
        assert_eq!(position, Position { live: 30, open: vec![Unsent { first: 21, last: 30 }] });
    }
}
