//! Bytes that may never change: evidence from a real node, and from a chain made up by another program.

use std::fs;
use std::path::Path;

use alloy_primitives::hex;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::model::Timestamp;

#[derive(Deserialize)]
struct Frozen {
    evidence: ChainEvidence,
    shown: FrozenShown,
}

#[derive(Deserialize)]
struct FrozenShown {
    chain_id: u64,
    account: String,
    contract: Option<String>,
    origin: Digest,
    size: u64,
    root: Digest,
    transaction: B256,
    height: u64,
    hash: B256,
    time: Timestamp,
}

#[derive(Deserialize)]
struct FrozenBlock {
    header: String,
    transactions: Vec<String>,
    receipts: Vec<String>,
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen/chain-v1");
    serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

pub fn evidence_in(name: &str) -> ChainEvidence {
    read::<Frozen>(name).evidence
}

#[test]
fn frozen_evidence_shows_what_it_showed() {
    for name in ["anvil-contract.json", "anvil-data.json", "made-of-300.json"] {
        let Frozen { evidence, shown } = read(name);
        let wanted = Shown {
            chain_id: shown.chain_id,
            account: read_address(&shown.account).unwrap(),
            contract: shown.contract.map(|contract| read_address(&contract).unwrap()),
            origin: shown.origin,
            size: shown.size,
            root: shown.root,
            transaction: shown.transaction,
            height: shown.height,
            hash: shown.hash,
            time: shown.time,
        };
        assert_eq!(check(&evidence).unwrap(), wanted, "{name}");
    }
}

#[test]
fn the_evidence_of_a_frozen_block_is_made_again_alike() {
    let FrozenBlock { header, transactions, receipts } = read("anvil-block.json");
    let bytes = |text: String| hex::decode(text).unwrap();
    let [transactions, receipts] = [transactions, receipts].map(|list| list.into_iter().map(bytes).collect());
    let block = Block { header: bytes(header), transactions, receipts };
    for name in ["anvil-contract.json", "anvil-data.json"] {
        let frozen = evidence_in(name);
        assert_eq!(evidence(&block, frozen.index), Ok(frozen), "{name}");
    }
    // Neighbours of other types and without anchors are proven to be there, and show nothing.
    for index in (0..20).filter(|index| ![5, 12].contains(index)) {
        let told = refused(&evidence(&block, index).unwrap());
        assert!(told.starts_with("transaction: "), "{index}: {told}");
    }
}
