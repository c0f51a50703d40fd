//! The evidence of one transaction, taken from the whole block that holds it.

use alloy_primitives::B256;
use alloy_trie::proof::ProofRetainer;
use alloy_trie::{HashBuilder, Nibbles};

use super::header::Header;
use super::{Unproven, path};
use crate::model::ChainEvidence;

/// A block of the chain as it is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// RLP.
    pub header: Vec<u8>,
    /// As in EIP-2718, of any type: they are only hashed.
    pub transactions: Vec<Vec<u8>>,
    pub receipts: Vec<Vec<u8>>,
}

/// The paths to the transaction at `index` and to its receipt, once both lists are shown to be those of the header: a node
/// may have left one out, or answered with another block.
pub fn evidence(block: &Block, index: u64) -> Result<ChainEvidence, Unproven> {
    let header = Header::read(&block.header)?;
    let transaction = nodes("transaction", &block.transactions, &header.transactions_root, index)?;
    let receipt = nodes("receipt", &block.receipts, &header.receipts_root, index)?;
    Ok(ChainEvidence { header: block.header.clone(), index, receipt, transaction })
}

fn nodes(what: &str, values: &[Vec<u8>], root: &[u8; 32], index: u64) -> Result<Vec<Vec<u8>>, Unproven> {
    let key = |index: usize| Nibbles::unpack(alloy_rlp::encode(index));
    let at = usize::try_from(index).ok().filter(|at| *at < values.len());
    let at = at.ok_or_else(|| Unproven::at(what, format!("no index {index} among {}", values.len())))?;
    let mut trie = HashBuilder::default().with_proof_retainer(ProofRetainer::new(vec![key(at)]));
    // In the order of their keys: RLP of 0 is 80, of 1 to 127 one byte below it, of all others longer and above it.
    let count = values.len();
    for index in (1..count.min(128)).chain([0]).chain(128..count) {
        trie.add_leaf(key(index), &values[index]);
    }
    let computed = trie.root();
    if computed != *root {
        let wanted = B256::from(*root);
        return Err(Unproven::at(
            what,
            format!("the root over all {count} is {computed}, but the header's is {wanted}"),
        ));
    }
    // The builder keeps embedded nodes too, which stand in the one before them.
    let kept = trie.take_proof_nodes().into_nodes_sorted().into_iter();
    let nodes: Vec<Vec<u8>> = kept
        .filter(|(way, node)| way.is_empty() || node.len() >= path::HASHED_FROM)
        .map(|(_, node)| node.to_vec())
        .collect();
    // Builder and reader are written apart: what the one makes, the other has to read.
    match path::value(what, root, index, &nodes)? == values[at] {
        true => Ok(nodes),
        false => Err(Unproven::at(what, format!("its path leads to another value at index {index}"))),
    }
}
