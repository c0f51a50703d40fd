//! How a period is cut into slices that server and memory can bear. Pure.

use std::ops::Range;

/// The longest slice.
pub const LONGEST_NS: i64 = 86_400_000_000_000;
/// The first one: what a plant writes in an hour, any server can bear; it grows soon where that is little.
const FIRST_NS: i64 = 3_600_000_000_000;
/// A shorter one spares no server that is merely away.
const LEAST_NS: i64 = 60_000_000_000;
/// A slice that came with fewer bytes of rows lets the next one be twice as long.
const SMALL: u64 = 4 << 20;
/// After a slice was too much, so many follow before a longer one is tried.
const CAREFUL: u32 = 8;

/// The part of a period that is still to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slices {
    rest: Range<i64>,
    width: i64,
    careful: u32,
}

impl Slices {
    pub fn new(rest: Range<i64>) -> Self {
        Self { rest, width: FIRST_NS, careful: 0 }
    }

    /// The slice to read now; `None` when all is read.
    pub fn next(&self) -> Option<Range<i64>> {
        let Range { start, end } = self.rest;
        (start < end).then(|| start..start.saturating_add(self.width).min(end))
    }

    /// The slice was read, with so many bytes of rows.
    pub fn taken(&mut self, bytes: u64) {
        let Some(slice) = self.next() else { return };
        self.rest.start = slice.end;
        if self.careful > 0 {
            self.careful -= 1;
        } else if bytes < SMALL {
            self.width = (self.width * 2).min(LONGEST_NS);
        }
    }

    /// A server that dies of what it is asked for only goes silent: for one that failed again and again, less at a time,
    /// down to a minute.
    pub fn lighten(&mut self) {
        let Some(slice) = self.next() else { return };
        let width = slice.end.saturating_sub(slice.start);
        self.width = (width / 2).max(LEAST_NS.min(width));
        self.careful = 1;
    }

    /// The slice was too much: half of it is next. False when it cannot be cut any further.
    pub fn halve(&mut self) -> bool {
        let Some(slice) = self.next() else { return false };
        let width = slice.end.saturating_sub(slice.start);
        self.width = (width / 2).max(1);
        self.careful = CAREFUL;
        width > 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is too much and however much comes: the slices cover the period, each instant once.
        #[test]
        fn slices_cover_the_period_once(
            (from, length) in (any::<i64>(), 1..30 * LONGEST_NS),
            turns in prop::collection::vec((any::<bool>(), 0_u64..40 << 20), 0..200),
        ) {
            let to = from.saturating_add(length);
            let (mut slices, mut at) = (Slices::new(from..to), from);
            let mut turns = turns.into_iter();
            while let Some(slice) = slices.next() {
                prop_assert_eq!(slice.start, at);
                let width = slice.end - slice.start;
                prop_assert!(width > 0 && width <= LONGEST_NS && slice.end <= to);
                match turns.next() {
                    Some((true, _)) => {
                        prop_assert_eq!(slices.halve(), width > 1);
                        let next = slices.next().unwrap();
                        prop_assert_eq!(next.end - next.start, (width / 2).max(1));
                    }
                    turn => {
                        slices.taken(turn.map_or(0, |(_, bytes)| bytes));
                        at = slice.end;
                    }
                }
            }
            prop_assert_eq!(at, to);
        }
    }

    #[test]
    fn a_slice_grows_while_little_comes_and_one_instant_is_the_least() {
        let mut slices = Slices::new(0..10 * LONGEST_NS);
        for _ in 0..6 {
            slices.taken(0);
        }
        assert_eq!(slices.next().map(|slice| slice.end - slice.start), Some(LONGEST_NS));
        slices.taken(30 << 20);
        assert!(slices.halve());
        for _ in 0..CAREFUL {
            assert_eq!(slices.next().map(|slice| slice.end - slice.start), Some(LONGEST_NS / 2));
            slices.taken(0);
        }
        slices.taken(0);
        assert_eq!(slices.next().map(|slice| slice.end - slice.start), Some(LONGEST_NS));
        for _ in 0..20 {
            slices.lighten();
        }
        assert_eq!(slices.next().map(|slice| slice.end - slice.start), Some(LEAST_NS));
        let mut least = Slices::new(5..6);
        least.lighten();
        assert!(!least.halve());
        assert_eq!(least.next(), Some(5..6));
    }
}
