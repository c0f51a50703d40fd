//! The audit path of one row of a dataset, found while all its rows pass by.

use std::collections::VecDeque;
use std::ops::Range;

use crate::model::merkle::{self, Frontier};
use crate::model::{Digest, merkle::split};

/// Takes every row in turn and keeps one hash for each level of the tree.
pub struct RowPath {
    row: u64,
    rows: u64,
    /// How many have passed.
    seen: u64,
    /// The subtrees that the path is made of, from left to right, each with its level as counted from the root.
    siblings: VecDeque<(Range<u64>, usize)>,
    /// What has passed of the first of them.
    under_way: Frontier,
    path: Vec<Digest>,
    text: Option<Vec<u8>>,
}

/// A row, and the hashes from its leaf to the root.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub text: Vec<u8>,
    pub path: Vec<Digest>,
    pub root: Digest,
}

impl RowPath {
    /// Of row `row` among `rows`; `None` when there is no such row.
    pub fn new(row: u64, rows: u64) -> Option<Self> {
        let (mut low, mut high, mut level) = (0, rows, 0);
        let (mut left, mut right) = (VecDeque::new(), Vec::new());
        while row < rows && high - low > 1 {
            let middle = low + split(high - low);
            if row < middle {
                right.push((middle..high, level));
                high = middle;
            } else {
                left.push_back((low..middle, level));
                low = middle;
            }
            level += 1;
        }
        left.extend(right.into_iter().rev());
        let path = vec![merkle::empty(); level];
        let under_way = Frontier::default();
        (row < rows).then_some(Self { row, rows, seen: 0, siblings: left, under_way, path, text: None })
    }

    /// The next row, without its line feed. More rows than were said are counted, and refused at the end.
    pub fn push(&mut self, text: &[u8]) {
        let at = self.seen;
        self.seen += 1;
        if at == self.row {
            self.text = Some(text.to_vec());
            return;
        }
        let Some((leaves, level)) = self.siblings.front() else { return };
        self.under_way.push(merkle::leaf(text));
        if self.seen == leaves.end {
            self.path[*level] = std::mem::take(&mut self.under_way).root();
            self.siblings.pop_front();
        }
    }

    /// What was looked for, when exactly as many rows have passed as were said.
    pub fn finish(mut self) -> Option<Found> {
        let text = self.text.filter(|_| self.seen == self.rows)?;
        self.path.reverse();
        let root = merkle::root_by_inclusion(merkle::leaf(&text), self.row, self.rows, &self.path).ok()?;
        Some(Found { text, path: self.path, root })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pass(row: u64, said: u64, rows: u64) -> Option<Found> {
        let mut path = RowPath::new(row, said)?;
        (0..rows).for_each(|at| path.push(at.to_string().as_bytes()));
        path.finish()
    }

    proptest! {
        #[test]
        fn the_path_leads_to_the_root_of_all_rows(rows in 1_u64..300, at in 0_u64..300) {
            let row = at % rows;
            let mut tree = Frontier::default();
            (0..rows).for_each(|at| tree.push(merkle::leaf(at.to_string().as_bytes())));
            let found = pass(row, rows, rows).unwrap();
            prop_assert_eq!(found.root, tree.root());
            prop_assert_eq!(found.text, row.to_string().into_bytes());
            prop_assert_eq!(pass(row, rows, rows + 1), None);
            prop_assert_eq!(pass(row, rows, rows - 1), None);
        }
    }

    #[test]
    fn there_is_no_path_of_a_row_that_is_not_there() {
        assert_eq!(pass(0, 0, 0), None);
        assert_eq!(pass(7, 7, 7), None);
        assert_eq!(pass(u64::MAX, 7, 7), None);
        assert!(pass(6, 7, 7).is_some());
    }
}
