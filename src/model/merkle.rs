//! The Merkle tree of RFC 6962 section 2.1 (and RFC 9162 section 2.1), over SHA-256. Pure: where hashes lie is the
//! caller's affair.

use super::Digest;

/// A proof that does not fit the tree it is said to be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProof {
    #[error("leaf {index} is not in a tree of {size} leaves")]
    Index { index: u64, size: u64 },
    #[error("the proof has {got} hashes, and a tree of {size} leaves asks for {want}")]
    Length { got: usize, want: usize, size: u64 },
    #[error("a tree of {old} leaves does not come before one of {new}")]
    Sizes { old: u64, new: u64 },
    #[error("the proof gives another root")]
    Root,
}

/// The hash of a leaf's data.
pub fn leaf(data: &[u8]) -> Digest {
    Digest::of_parts(&[&[0], data])
}

/// The hash of two subtrees.
pub fn node(left: &Digest, right: &Digest) -> Digest {
    // Put together first: the hash takes one text faster than three.
    let mut text = [1; 65];
    text[1..33].copy_from_slice(left.as_bytes());
    text[33..].copy_from_slice(right.as_bytes());
    Digest::of(&text)
}

/// The root of the tree without leaves.
pub fn empty() -> Digest {
    Digest::of(b"")
}

/// Where a tree of `leaves` (at least 2) is split: the largest power of two smaller than that.
pub fn split(leaves: u64) -> u64 {
    debug_assert!(leaves >= 2, "a leaf is not split");
    1 << (u64::BITS - 1 - (leaves - 1).leading_zeros())
}

/// A tree that grows leaf by leaf and keeps only the roots of its complete subtrees: 64 hashes at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Of the complete subtrees from left to right, the largest first: one for each bit that is set in `size`.
    subtrees: Vec<Digest>,
}

impl Frontier {
    /// One that was kept: `subtrees` as [`subtrees`](Self::subtrees) gave them. `None` when they do not fit the size.
    pub fn restore(size: u64, subtrees: Vec<Digest>) -> Option<Self> {
        (usize::try_from(size.count_ones()).ok()? == subtrees.len()).then_some(Self { size, subtrees })
    }

    /// Adds the hash of one more leaf.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                hash = node(&left, &hash);
            }
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn subtrees(&self) -> &[Digest] {
        &self.subtrees
    }

    pub fn root(&self) -> Digest {
        let mut from_right = self.subtrees.iter().rev();
        let Some(last) = from_right.next() else { return empty() };
        from_right.fold(*last, |right, left| node(left, &right))
    }
}

/// Where the hashes of complete subtrees are found: level 0 is leaves, a node of level L at n spans the leaves
/// `[n·2^L, (n+1)·2^L)`.
pub trait Nodes {
    type Error;
    fn node(&mut self, level: u8, n: u64) -> Result<Digest, Self::Error>;
}

/// The root of the leaves `[low, high)` of a tree, `low < high`, and `low` a multiple of the power of two at or above
/// their number: as every subtree that a split gives.
pub fn subtree<N: Nodes>(nodes: &mut N, low: u64, high: u64) -> Result<Digest, N::Error> {
    let len = high - low;
    if len.is_power_of_two() {
        let level = len.trailing_zeros();
        return nodes.node(u8::try_from(level).unwrap_or(u8::MAX), low >> level);
    }
    let middle = low + split(len);
    let left = subtree(nodes, low, middle)?;
    Ok(node(&left, &subtree(nodes, middle, high)?))
}

/// The root of a tree's first `size` leaves.
pub fn root<N: Nodes>(nodes: &mut N, size: u64) -> Result<Digest, N::Error> {
    if size == 0 { Ok(empty()) } else { subtree(nodes, 0, size) }
}

/// RFC 6962 section 2.1.1: the audit path of leaf `index` in a tree of `size` leaves, from leaf to root.
/// `index < size`.
pub fn inclusion<N: Nodes>(nodes: &mut N, index: u64, size: u64) -> Result<Vec<Digest>, N::Error> {
    let (mut low, mut high, mut path) = (0, size, Vec::new());
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(subtree(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(subtree(nodes, low, middle)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root that an audit path leads to.
pub fn root_by_inclusion(leaf: Digest, index: u64, size: u64, path: &[Digest]) -> Result<Digest, BadProof> {
    if index >= size {
        return Err(BadProof::Index { index, size });
    }
    // From the root down: whether the leaf lies in the left part at each split.
    let (mut low, mut high, mut sides) = (0, size, Vec::new());
    while high - low > 1 {
        let middle = low + split(high - low);
        sides.push(index < middle);
        if index < middle { high = middle } else { low = middle }
    }
    if sides.len() != path.len() {
        return Err(BadProof::Length { got: path.len(), want: sides.len(), size });
    }
    let up = path.iter().zip(sides.iter().rev());
    Ok(up.fold(leaf, |hash, (other, is_left)| if *is_left { node(&hash, other) } else { node(other, &hash) }))
}

/// RFC 6962 section 2.1.2: the proof that the tree of `old` leaves is the beginning of that of `new`, `0 < old <= new`.
pub fn consistency<N: Nodes>(nodes: &mut N, old: u64, new: u64) -> Result<Vec<Digest>, N::Error> {
    let (mut low, mut high, mut proof) = (0, new, Vec::new());
    // Whether the old tree ends exactly where the subtree looked at does; its root is then known to the verifier if
    // that subtree is the whole old tree.
    while high > old {
        let middle = low + split(high - low);
        if old <= middle {
            proof.push(subtree(nodes, middle, high)?);
            high = middle;
        } else {
            proof.push(subtree(nodes, low, middle)?);
            low = middle;
        }
    }
    if low > 0 {
        proof.push(subtree(nodes, low, high)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `proof` shows that the tree of `old` leaves with that root is the beginning of that of `new`.
pub fn verify_consistency(
    (old, old_root): (u64, &Digest),
    (new, new_root): (u64, &Digest),
    proof: &[Digest],
) -> Result<(), BadProof> {
    if old == 0 || old > new {
        return Err(BadProof::Sizes { old, new });
    }
    let (mut low, mut high, mut sides) = (0, new, Vec::new());
    while high > old {
        let middle = low + split(high - low);
        sides.push(old <= middle);
        if old <= middle { high = middle } else { low = middle }
    }
    let want = sides.len() + usize::from(low > 0);
    if proof.len() != want {
        return Err(BadProof::Length { got: proof.len(), want, size: new });
    }
    let (seed, rest) = match proof.split_first() {
        Some((first, rest)) if low > 0 => (*first, rest),
        _ => (*old_root, proof),
    };
    let (mut of_old, mut of_new) = (seed, seed);
    for (other, old_ends_left) in rest.iter().zip(sides.iter().rev()) {
        if *old_ends_left {
            of_new = node(&of_new, other);
        } else {
            (of_old, of_new) = (node(other, &of_old), node(other, &of_new));
        }
    }
    if of_old == *old_root && of_new == *new_root { Ok(()) } else { Err(BadProof::Root) }
}

/// The hashes that, with the leaves at `indices` (increasing, below `size`, at least one), give the root: those of the
/// largest subtrees without any of these leaves, from left to right.
pub fn siblings<N: Nodes>(nodes: &mut N, indices: &[u64], size: u64) -> Result<Vec<Digest>, N::Error> {
    fn walk<N: Nodes>(
        nodes: &mut N,
        indices: &[u64],
        (low, high): (u64, u64),
        out: &mut Vec<Digest>,
    ) -> Result<(), N::Error> {
        if indices.is_empty() {
            out.push(subtree(nodes, low, high)?);
            return Ok(());
        }
        if high - low == 1 {
            return Ok(());
        }
        let middle = low + split(high - low);
        let (left, right) = indices.split_at(indices.partition_point(|index| *index < middle));
        walk(nodes, left, (low, middle), out)?;
        walk(nodes, right, (middle, high), out)
    }
    let mut out = Vec::new();
    walk(nodes, indices, (0, size), &mut out)?;
    Ok(out)
}

/// The root by some leaves (index and hash, the indices increasing) and the [`siblings`] of them. Every leaf and every
/// hash is used exactly once, or the proof is refused.
pub fn root_by_siblings(leaves: &[(u64, Digest)], siblings: &[Digest], size: u64) -> Result<Digest, BadProof> {
    struct Walk<'a> {
        siblings: std::slice::Iter<'a, Digest>,
    }
    impl Walk<'_> {
        /// `None` when hashes are missing.
        fn root(&mut self, leaves: &[(u64, Digest)], low: u64, high: u64) -> Option<Digest> {
            match leaves {
                [] => self.siblings.next().copied(),
                [(_, hash)] if high - low == 1 => Some(*hash),
                _ => {
                    let middle = low + split(high - low);
                    let (left, right) = leaves.split_at(leaves.partition_point(|(index, _)| *index < middle));
                    let left = self.root(left, low, middle)?;
                    Some(node(&left, &self.root(right, middle, high)?))
                }
            }
        }
    }
    let outside = leaves.iter().find(|(index, _)| *index >= size);
    let unordered = leaves.windows(2).find(|pair| pair[0].0 >= pair[1].0);
    if let Some((index, _)) = outside.or(unordered.map(|pair| &pair[1])) {
        return Err(BadProof::Index { index: *index, size });
    }
    let Some(first) = leaves.first() else { return Err(BadProof::Index { index: 0, size }) };
    debug_assert!(first.0 < size);
    let mut walk = Walk { siblings: siblings.iter() };
    let root = walk.root(leaves, 0, size);
    let left = walk.siblings.len();
    match root {
        Some(root) if left == 0 => Ok(root),
        Some(_) => Err(BadProof::Length { got: siblings.len(), want: siblings.len() - left, size }),
        None => Err(BadProof::Length { got: siblings.len(), want: siblings.len() + 1, size }),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// All leaves in memory, each subtree computed anew: as RFC 6962 section 2.1 defines the tree.
    struct Plain(Vec<Digest>);

    impl Plain {
        fn of(leaves: u64) -> Self {
            Self((0..leaves).map(|at| leaf(&at.to_be_bytes())).collect())
        }

        fn root_of(leaves: &[Digest]) -> Digest {
            match leaves {
                [] => empty(),
                [one] => *one,
                more => {
                    let mut k = 1;
                    while k * 2 < more.len() {
                        k *= 2;
                    }
                    node(&Self::root_of(&more[..k]), &Self::root_of(&more[k..]))
                }
            }
        }
    }

    impl Nodes for Plain {
        type Error = Infallible;
        fn node(&mut self, level: u8, n: u64) -> Result<Digest, Infallible> {
            let (from, len) = (usize::try_from(n << level).unwrap(), 1 << level);
            Ok(Self::root_of(&self.0[from..from + len]))
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_known_tree_of_certificate_transparency_has_its_roots_and_paths() {
        // The reference vectors of the Certificate Transparency project: eight leaves and the root after each.
        let data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Frontier::default();
        for (data, want) in data.iter().zip(roots) {
            tree.push(leaf(&hex(data)));
            assert_eq!(tree.root().to_string(), want);
        }
        assert_eq!(empty().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        // The audit path of the first leaf in the tree of eight.
        let mut nodes = Plain(data.iter().map(|data| leaf(&hex(data))).collect());
        let path = inclusion(&mut nodes, 0, 8).unwrap();
        assert_eq!(
            path.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]
        );
    }

    #[test]
    fn consistency_is_as_in_the_example_of_rfc_6962() {
        // RFC 6962 section 2.1.3: from 3, 4 and 6 leaves to 7.
        let (mut nodes, range) = (Plain::of(7), |low: usize, high: usize| Plain::root_of(&Plain::of(7).0[low..high]));
        let proof = |nodes: &mut Plain, old| consistency(nodes, old, 7).unwrap();
        assert_eq!(proof(&mut nodes, 3), [range(2, 3), range(3, 4), range(0, 2), range(4, 7)]);
        assert_eq!(proof(&mut nodes, 4), [range(4, 7)]);
        assert_eq!(proof(&mut nodes, 6), [range(4, 6), range(6, 7), range(0, 4)]);
        assert_eq!(proof(&mut nodes, 7), []);
    }

    proptest! {
        #[test]
        fn what_the_tree_gives_is_accepted_and_nothing_else(size in 1_u64..200, a in 0_u64..200, b in 0_u64..200) {
            let mut nodes = Plain::of(size);
            let whole = root(&mut nodes, size).unwrap();
            prop_assert_eq!(whole, Plain::root_of(&nodes.0));
            let index = a % size;
            let at = |nodes: &Plain, index: u64| nodes.0[usize::try_from(index).unwrap()];
            let mut path = inclusion(&mut nodes, index, size).unwrap();
            prop_assert_eq!(root_by_inclusion(at(&nodes, index), index, size, &path), Ok(whole));
            let other = b % size;
            if other != index {
                prop_assert_ne!(root_by_inclusion(at(&nodes, index), other, size, &path), Ok(whole));
            }
            path.push(whole);
            prop_assert!(root_by_inclusion(at(&nodes, index), index, size, &path).is_err());
            path.truncate(path.len().saturating_sub(2));
            if size > 1 {
                prop_assert!(root_by_inclusion(at(&nodes, index), index, size, &path).is_err());
            }
            prop_assert!(root_by_inclusion(at(&nodes, index), size, size, &[]).is_err());
        }

        #[test]
        fn only_a_beginning_is_consistent(new in 1_u64..200, a in 0_u64..200, b in 0_u64..8) {
            let mut nodes = Plain::of(new);
            let old = a % new + 1;
            let (old_root, new_root) = (root(&mut nodes, old).unwrap(), root(&mut nodes, new).unwrap());
            let mut proof = consistency(&mut nodes, old, new).unwrap();
            prop_assert_eq!(verify_consistency((old, &old_root), (new, &new_root), &proof), Ok(()));
            let wrong = leaf(b"wrong");
            prop_assert!(verify_consistency((old, &wrong), (new, &new_root), &proof).is_err());
            if old != new {
                prop_assert!(verify_consistency((old, &old_root), (new, &wrong), &proof).is_err());
                let at = usize::try_from(b).unwrap() % proof.len();
                let right = std::mem::replace(&mut proof[at], wrong);
                prop_assert!(verify_consistency((old, &old_root), (new, &new_root), &proof).is_err());
                proof[at] = right;
            }
            proof.push(wrong);
            prop_assert!(verify_consistency((old, &old_root), (new, &new_root), &proof).is_err());
            prop_assert!(verify_consistency((0, &empty()), (new, &new_root), &[]).is_err());
            prop_assert!(verify_consistency((new + 1, &new_root), (new, &new_root), &[]).is_err());
        }

        #[test]
        fn several_leaves_share_one_proof(size in 1_u64..200, picked in prop::collection::btree_set(0_u64..200, 1..20)) {
            let mut nodes = Plain::of(size);
            let indices: Vec<u64> = picked.into_iter().map(|at| at % size).collect::<std::collections::BTreeSet<_>>()
                .into_iter().collect();
            let whole = root(&mut nodes, size).unwrap();
            let mut hashes = siblings(&mut nodes, &indices, size).unwrap();
            let leaves: Vec<_> = indices.iter().map(|at| (*at, nodes.0[usize::try_from(*at).unwrap()])).collect();
            prop_assert_eq!(root_by_siblings(&leaves, &hashes, size), Ok(whole));
            hashes.push(whole);
            prop_assert!(root_by_siblings(&leaves, &hashes, size).is_err());
            hashes.pop();
            if hashes.pop().is_some() {
                prop_assert!(root_by_siblings(&leaves, &hashes, size).is_err());
            }
            let outside = [leaves.clone(), vec![(size, whole)]].concat();
            prop_assert!(root_by_siblings(&outside, &hashes, size).is_err());
            prop_assert!(root_by_siblings(&[], &[whole], size).is_err());
        }

        #[test]
        fn a_frontier_is_kept_and_goes_on(size in 0_u64..300, more in 0_u64..50) {
            let all = Plain::of(size + more);
            let (first, rest) = all.0.split_at(usize::try_from(size).unwrap());
            let mut tree = Frontier::default();
            first.iter().for_each(|leaf| tree.push(*leaf));
            let mut again = Frontier::restore(tree.size(), tree.subtrees().to_vec()).unwrap();
            rest.iter().for_each(|leaf| again.push(*leaf));
            prop_assert_eq!(again.root(), Plain::root_of(&all.0));
            prop_assert_eq!(Frontier::restore(size + 1, tree.subtrees().to_vec()).is_some(),
                size.count_ones() == (size + 1).count_ones());
        }
    }
}
