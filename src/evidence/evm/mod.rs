//! The words of a chain of the Ethereum kind, and what can be shown of one with them: addresses, keys, transactions,
//! the form of an anchor, and the path from a transaction to the hash of its block. docs/evidence-format.md section 6.
//!
//! Pure: it reads no clock, asks no network and keeps nothing.

mod address;
mod contract;
mod key;
mod keystore;

pub use address::{BadAddress, read_address};
pub use contract::CREATION_CODE;
pub use key::{BadKey, Call, Key, Signed};

use alloy_primitives::Bytes;

use crate::model::Digest;

/// The first 4 bytes of Keccak("anchor(bytes32,uint64,bytes32)").
const SELECTOR: [u8; 4] = [0x70, 0xc1, 0x27, 0xc6];
/// Begins an anchor without a contract.
const MARK: &[u8; 6] = b"MSEAL1";

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
mod tests {
    use alloy_primitives::{hex, keccak256};

    use super::*;

    #[test]
    fn the_selector_is_that_of_the_contract() {
        assert_eq!(SELECTOR, keccak256("anchor(bytes32,uint64,bytes32)")[..4]);
    }

    #[test]
    fn an_anchor_has_two_forms() {
        let root = Digest::of(b"root");
        let origin = hex::encode(Digest::of(b"site/gateway/epoch").as_bytes());
        let size = "0000000000000102";
        let by_contract = payload("site/gateway/epoch", 0x0102, &root, true);
        let selector = hex::encode(SELECTOR);
        assert_eq!(hex::encode(&by_contract), format!("{selector}{origin}{}{size}{root}", "0".repeat(48)));
        assert_eq!(by_contract.len(), 100);
        let alone = payload("site/gateway/epoch", 0x0102, &root, false);
        assert_eq!(hex::encode(&alone), format!("4d5345414c31{origin}{size}{root}"));
        assert_eq!(alone.len(), 78);
    }
}
