//! The words of a chain of the Ethereum kind, and what can be shown of one with them: addresses, keys, transactions,
//! the form of an anchor, and the path from a transaction to the hash of its block. docs/evidence-format.md section 6.
//!
//! Pure: it reads no clock, asks no network and keeps nothing.

mod address;
mod block;
mod check;
mod contract;
mod header;
mod key;
mod keystore;
mod path;
mod rlp;

pub use address::{BadAddress, read_address};
pub use block::{Block, evidence};
pub use check::{Shown, check};
pub use contract::{CREATION_CODE, DEPLOYED_CODE};
pub use header::Header;
pub use key::{BadKey, Call, Key, Signed};

use alloy_primitives::Bytes;

use crate::model::Digest;

/// The first 4 bytes of Keccak("anchor(bytes32,uint64,bytes32)").
const SELECTOR: [u8; 4] = [0x70, 0xc1, 0x27, 0xc6];
/// Begins an anchor without a contract.
const MARK: &[u8; 6] = b"MSEAL1";

/// Why evidence shows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Unproven {
    /// The member of the evidence, and which node of it.
    pub place: String,
    pub why: String,
    /// It is beyond what is read, so that nothing was found wrong.
    pub is_unread: bool,
}

impl Unproven {
    fn at(place: &str, why: String) -> Self {
        Self { place: place.to_owned(), why, is_unread: false }
    }
}

/// The data of the transaction that anchors the checkpoint of this origin line, size and root.
pub fn payload(origin: &str, size: u64, root: &Digest, by_contract: bool) -> Bytes {
    let (origin, size) = (Digest::of(origin.as_bytes()), size.to_be_bytes());
    let parts: &[&[u8]] = match by_contract {
        true => &[&SELECTOR, origin.as_bytes(), &[0; 24], &size, root.as_bytes()],
        false => &[MARK, origin.as_bytes(), &size, root.as_bytes()],
    };
    parts.concat().into()
}

#[cfg(test)]
mod tests;
