//! The way from a root to the value of an index in a Merkle-Patricia trie (Yellow Paper, appendix D).
//!
//! alloy-trie can check such a way too, but it forgives what the evidence format refuses: other forms of a node's hex prefix,
//! nodes that are listed though they are embedded, and what follows a node.

use alloy_primitives::{B256, keccak256};

use super::Unproven;
use super::rlp::{self, Item, List};

/// A header or node above this is refused unread.
pub const LARGEST: usize = 1 << 20;
/// What has fewer bytes stands where it is referred to.
pub const HASHED_FROM: usize = 32;
const BRANCH: usize = 17;

/// The value that `nodes` lead to by RLP(`index`), every one of them used. `what` names them in what is refused.
pub fn value<'a>(what: &str, root: &'a [u8; 32], index: u64, nodes: &'a [Vec<u8>]) -> Result<&'a [u8], Unproven> {
    let key = key(index);
    let mut way = Way { what, nodes, used: 0 };
    let mut rest = key.as_slice();
    let mut child = Child::Hashed(root.as_slice());
    let mut is_after_extension = false;
    // Each turn but the last uses up a nibble of the key, so that there are few of them.
    let value = loop {
        let node = way.node(child)?;
        let count = node.len();
        let item = match (count, rest) {
            (BRANCH, []) => break way.item(node, BRANCH - 1)?,
            (BRANCH, [nibble, after @ ..]) => {
                rest = after;
                way.item(node, usize::from(*nibble))?
            }
            (2, _) if !is_after_extension => {
                let prefix =
                    way.item(node, 0)?.bytes().map_err(|error| way.unproven(format!("hex prefix: {error}")))?;
                let (is_leaf, nibbles) =
                    hex_prefix(prefix).ok_or_else(|| way.unproven("a hex prefix in another form than its own"))?;
                let after = rest.strip_prefix(nibbles.as_slice()).filter(|after| !is_leaf || after.is_empty());
                rest = after.ok_or_else(|| way.unproven(format!("leads to another index than {index}")))?;
                match (is_leaf, nibbles.as_slice()) {
                    (true, _) => break way.item(node, 1)?,
                    (false, []) => return Err(way.unproven("an extension by nothing")),
                    (false, _) => way.item(node, 1)?,
                }
            }
            (2, _) => return Err(way.unproven("an extension leads to a node of 2 items, but expected a branch")),
            _ => return Err(way.unproven(format!("a node of {count} items, but expected 2 or 17"))),
        };
        is_after_extension = count == 2;
        child = way.child(item)?;
    };
    match value.bytes() {
        Ok(value) if !value.is_empty() && way.used == nodes.len() => Ok(value),
        Ok([]) => Err(way.unproven(format!("nothing stands at index {index}"))),
        Ok(_) => Err(way.unproven(format!("it ends here, but {} nodes are listed", nodes.len()))),
        Err(_) => Err(way.unproven("a list stands where the value should")),
    }
}

/// How a node refers to the next.
enum Child<'a> {
    Hashed(&'a [u8]),
    Embedded(List<'a>),
}

struct Way<'w, 'a> {
    what: &'w str,
    nodes: &'a [Vec<u8>],
    used: usize,
}

impl<'a> Way<'_, 'a> {
    fn node(&mut self, child: Child<'a>) -> Result<List<'a>, Unproven> {
        let hash = match child {
            Child::Embedded(list) => return Ok(list),
            Child::Hashed(hash) => hash,
        };
        let nodes = self.nodes;
        let node = nodes.get(self.used).ok_or_else(|| self.unproven("the path ends before a value"))?;
        self.used += 1;
        if node.len() > LARGEST {
            let unread = self.unproven(format!("{} bytes, at most {LARGEST} are read", node.len()));
            return Err(Unproven { is_unread: true, ..unread });
        }
        let found = keccak256(node);
        if found.as_slice() != hash {
            return Err(self.unproven(format!("its Keccak is {found}, but {} is referred to", B256::from_slice(hash))));
        }
        // The root alone is hashed however short it is.
        if self.used > 1 && node.len() < HASHED_FROM {
            return Err(self.unproven("a node so short is embedded, not hashed"));
        }
        rlp::list(node).map_err(|error| self.unproven(error.to_string()))
    }

    fn item(&self, node: List<'a>, at: usize) -> Result<Item<'a>, Unproven> {
        node.nth(at).map_err(|error| self.unproven(error.to_string()))
    }

    fn child(&self, item: Item<'a>) -> Result<Child<'a>, Unproven> {
        match item {
            Item::Bytes(hash) if hash.len() == 32 => Ok(Child::Hashed(hash)),
            Item::List(list) if list.whole.len() < HASHED_FROM => Ok(Child::Embedded(list)),
            Item::Bytes([]) => Err(self.unproven("nothing stands at this index")),
            Item::Bytes(_) => Err(self.unproven("a reference that is not 32 bytes")),
            Item::List(_) => Err(self.unproven("a node so long is hashed, not embedded")),
        }
    }

    /// At the node that was read last.
    fn unproven(&self, why: impl Into<String>) -> Unproven {
        Unproven::at(&format!("{}[{}]", self.what, self.used.saturating_sub(1)), why.into())
    }
}

/// The nibbles of RLP(`index`).
fn key(index: u64) -> Vec<u8> {
    alloy_rlp::encode(index).iter().flat_map(|byte| [byte >> 4, byte & 15]).collect()
}

/// Whether it is of a leaf, and its nibbles; none where it is not in its only form (Yellow Paper, appendix C).
fn hex_prefix(bytes: &[u8]) -> Option<(bool, Vec<u8>)> {
    let (first, more) = bytes.split_first()?;
    let (flags, nibble) = (first >> 4, first & 15);
    let is_odd = flags & 1 == 1;
    if flags > 3 || (!is_odd && nibble != 0) {
        return None;
    }
    let nibbles = more.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Some((flags & 2 == 2, is_odd.then_some(nibble).into_iter().chain(nibbles).collect()))
}
