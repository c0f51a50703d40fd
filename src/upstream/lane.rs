//! How much of a stream goes into the next batch, and what of it is left out. Pure.

use std::collections::BTreeSet;

use super::position::{self, Lane, Stretch};
use crate::model::Position;

/// One stream of one upstream.
#[derive(Debug, Default)]
pub struct Flow {
    pub position: Position,
    /// The position is another than the one that is kept.
    pub is_unsaved: bool,
    /// Dead letters that the position has not passed yet: they are left out. At most some batches of them.
    pub aside: BTreeSet<u64>,
    live: Pace,
    backfill: Pace,
}

/// How large batches of one lane are.
#[derive(Debug, Default)]
struct Pace {
    /// More than this was too much.
    most: Option<usize>,
    /// Batches of that size that went through since.
    full: u32,
    /// One of the next so many records is refused, as a batch of them was; 0 while none is looked for.
    suspects: usize,
}

/// After so many batches of the size that goes through, twice as much is tried again.
const FULL: u32 = 64;

impl Flow {
    pub fn new(position: Position) -> Self {
        Self { position, ..Self::default() }
    }

    fn pace(&mut self, lane: Lane) -> &mut Pace {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Backfill => &mut self.backfill,
        }
    }

    /// What a lane has before it.
    pub fn stretch(&self, lane: Lane, head: u64) -> Option<Stretch> {
        match lane {
            Lane::Live => position::live(&self.position, head),
            Lane::Backfill => position::backfill(&self.position, head),
        }
    }

    /// Records for the next batch, at most: `most` of what the receiver takes at once, and fewer where that was too much or
    /// a record is looked for that it refuses.
    pub fn size(&mut self, lane: Lane, most: usize) -> usize {
        let pace = self.pace(lane);
        if pace.most.is_some_and(|known| known >= most) {
            pace.most = None;
        }
        let size = pace.most.unwrap_or(most).max(1);
        if pace.suspects > 0 { size.min((pace.suspects / 2).max(1)) } else { size }
    }

    /// All of `stretch` up to `through` is settled.
    pub fn settle(&mut self, stretch: Stretch, through: u64) {
        let before = self.position.clone();
        position::settle(&mut self.position, stretch, through);
        self.is_unsaved |= self.position != before;
        let position = &self.position;
        self.aside.retain(|seq| position::is_unsent(position, *seq));
    }

    pub fn reopen(&mut self, first: u64, last: u64) {
        position::reopen(&mut self.position, first, last);
        self.is_unsaved = true;
    }

    pub fn leap(&mut self, head: u64, late: u64, keep: u64) {
        if position::leap(&mut self.position, head, late, keep) {
            self.is_unsaved = true;
            // Which records the suspects are is not known any more.
            (self.live.suspects, self.backfill.suspects) = (0, 0);
        }
    }

    /// `taken` of a batch of `sent` records went through.
    pub fn took(&mut self, lane: Lane, sent: usize, taken: usize) {
        let pace = self.pace(lane);
        pace.suspects = pace.suspects.saturating_sub(taken);
        if let Some(most) = pace.most.filter(|most| taken == sent && sent >= *most) {
            pace.full += 1;
            if pace.full >= FULL {
                (pace.most, pace.full) = (Some(most.saturating_mul(2)), 0);
            }
        }
    }

    /// `sent` records were too much at once; false when that was one, which will never be less.
    pub fn too_large(&mut self, lane: Lane, sent: usize) -> bool {
        if sent > 1 {
            let pace = self.pace(lane);
            (pace.most, pace.full) = (Some(sent / 2), 0);
        }
        sent > 1
    }

    /// One of the next `sent` records is refused; false when it is known which.
    pub fn refused(&mut self, lane: Lane, sent: usize) -> bool {
        self.pace(lane).suspects = if sent > 1 { sent } else { 0 };
        sent > 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// A receiver that refuses each batch with a bad record in it, and whatever is larger than it takes.
        #[test]
        fn the_bad_records_are_found_and_the_rest_flows(
            bad in proptest::collection::btree_set(1_u64..=400, 0..6),
            largest in 1_usize..80,
            most in 1_usize..120,
        ) {
            let head = 400;
            let mut flow = Flow::default();
            let (mut taken, mut dead) = (Vec::new(), Vec::new());
            let mut requests = 0;
            while let Some(stretch) = flow.stretch(Lane::Live, head) {
                requests += 1;
                prop_assert!(requests < 2_000, "it goes round in circles");
                let size = flow.size(Lane::Live, most);
                let left_out = flow.aside.clone();
                let records: Vec<u64> =
                    (stretch.after + 1..=stretch.until).filter(|seq| !left_out.contains(seq)).take(size).collect();
                let (Some(first), Some(last)) = (records.first(), records.last()) else {
                    flow.settle(stretch, stretch.until);
                    continue;
                };
                if records.len() > largest {
                    prop_assert!(flow.too_large(Lane::Live, records.len()));
                } else if records.iter().any(|seq| bad.contains(seq)) {
                    if !flow.refused(Lane::Live, records.len()) {
                        dead.push(*first);
                        flow.aside.insert(*first);
                    }
                } else {
                    flow.took(Lane::Live, records.len(), records.len());
                    flow.settle(stretch, *last);
                    taken.extend(records);
                }
            }
            prop_assert_eq!(&dead, &bad.iter().copied().collect::<Vec<_>>());
            prop_assert!((1..=400).filter(|seq| !bad.contains(seq)).eq(taken.iter().copied()));
            let least = 400_usize.div_ceil(largest.min(most).max(1) / 2 + 1);
            prop_assert!(requests <= 4 * least + 40 * (bad.len() + 1), "{} requests", requests);
            prop_assert!(flow.aside.is_empty());
        }
    }

    #[test]
    fn the_size_that_went_through_is_remembered_and_tried_again_later() {
        let mut flow = Flow::default();
        assert!(flow.too_large(Lane::Live, 100));
        assert_eq!((flow.size(Lane::Live, 500), flow.size(Lane::Backfill, 500)), (50, 500));
        for _ in 0..FULL {
            assert_eq!(flow.size(Lane::Live, 500), 50);
            flow.took(Lane::Live, 50, 50);
        }
        assert_eq!(flow.size(Lane::Live, 500), 100);
        assert!(!flow.too_large(Lane::Live, 1));
    }
}
