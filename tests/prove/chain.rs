//! A chain made by hand: blocks with a few transactions each, of which one is an anchor. No node is needed.

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_rlp::Header;
use alloy_trie::root::ordered_trie_root_encoded;
use meterseal::evidence::evm::{self, Block, Call, Key, Signed};
use meterseal::model::note::SignedCheckpoint;
use meterseal::model::{Attempt, ChainEvidence, Digest, Inclusion, Timestamp};

const GWEI: u128 = 1_000_000_000;

/// A chain, and the account that anchors on it.
pub struct Chain {
    pub id: u64,
    key: Key,
    pub contract: Option<Address>,
    height: u64,
    nonce: u64,
}

/// A transaction in its block.
pub struct Mined {
    pub attempt: Attempt,
    pub inclusion: Inclusion,
    pub evidence: ChainEvidence,
}

impl Chain {
    /// `account` tells its key from others.
    pub fn new(id: u64, account: u8, contract: Option<Address>) -> Self {
        let key = Key::read(&format!("{account:064x}"), None).unwrap();
        Self { id, key, contract, height: 79_000_000, nonce: 0 }
    }

    pub fn account(&self) -> Address {
        self.key.address()
    }

    /// Puts a checkpoint into the next block, which is of this time.
    pub fn mine(&mut self, signed: &SignedCheckpoint, time: Timestamp) -> Mined {
        let checkpoint = &signed.checkpoint;
        let to = self.contract.unwrap_or(self.account());
        let call = Call {
            chain_id: self.id,
            nonce: self.nonce,
            max_fee: 200 * GWEI,
            tip: 30 * GWEI,
            gas_limit: 60_000,
            to: Some(to),
            data: evm::payload(&checkpoint.origin, checkpoint.size, &checkpoint.root, self.contract.is_some()),
        };
        let Signed { hash, raw } = self.key.sign(&call);
        let logs = self.contract.map(|contract| self.log(contract, signed)).into_iter().collect();
        let stranger = |byte: u8, length| vec![byte; length];
        let transactions = vec![stranger(2, 200), raw.to_vec(), stranger(1, 40), stranger(2, 90)];
        let receipts = vec![stranger(2, 300), receipt(logs), stranger(1, 280), stranger(2, 35)];
        let header = header(&transactions, &receipts, self.height, time);
        let block = Block { header, transactions, receipts };
        let evidence = evm::evidence(&block, 1).unwrap();
        let inclusion = Inclusion {
            height: self.height,
            hash: keccak256(&evidence.header),
            time,
            index: 1,
            transaction: hash,
            gas_used: 25_000,
            price: 60 * GWEI,
        };
        let attempt = Attempt {
            hash,
            raw,
            nonce: self.nonce,
            max_fee: call.max_fee,
            tip: call.tip,
            gas_limit: call.gas_limit,
            signed: time,
            height: self.height - 1,
            sent: Some(time),
        };
        (self.height, self.nonce) = (self.height + 7, self.nonce + 1);
        Mined { attempt, inclusion, evidence }
    }

    /// docs/evidence-format.md section 6: what the contract logs.
    fn log(&self, contract: Address, signed: &SignedCheckpoint) -> Vec<u8> {
        let checkpoint = &signed.checkpoint;
        let origin = B256::from(*Digest::of(checkpoint.origin.as_bytes()).as_bytes());
        let topics = [keccak256("Anchored(address,bytes32,uint64,bytes32)"), self.account().into_word(), origin];
        let data = [U256::from(checkpoint.size).to_be_bytes::<32>(), *checkpoint.root.as_bytes()].concat();
        list(&[string(contract.as_slice()), list(&topics.map(|topic| string(topic.as_slice()))), string(&data)])
    }
}

/// That of a transaction that did what it was to do. A log of the chain's own stands behind that of the contract.
fn receipt(mut logs: Vec<Vec<u8>>) -> Vec<u8> {
    let of_chain = [string(&[0x10; 20]), list(&[string(&[7; 32])]), string(&[1; 70])];
    logs.push(list(&of_chain));
    let fields = [string(&[1]), string(&[0x61, 0xa8]), string(&[0; 256]), list(&logs)];
    [vec![2], list(&fields)].concat()
}

fn header(transactions: &[Vec<u8>], receipts: &[Vec<u8>], height: u64, time: Timestamp) -> Vec<u8> {
    let seconds = u64::try_from(time.as_millis() / 1000).unwrap();
    let number = |number: u64| alloy_rlp::encode(number);
    let root = |values: &[Vec<u8>]| string(ordered_trie_root_encoded(values).as_slice());
    list(&[
        string(&[1; 32]),
        string(&[2; 32]),
        string(&[0; 20]),
        string(&[3; 32]),
        root(transactions),
        root(receipts),
        string(&[0; 256]),
        number(1),
        number(height),
        number(30_000_000),
        number(9_000_000),
        number(seconds),
        string(b"bor"),
        string(&[0; 32]),
        string(&[0; 8]),
        number(50 * 1_000_000_000),
    ])
}

fn string(bytes: &[u8]) -> Vec<u8> {
    alloy_rlp::encode(bytes)
}

/// Of items that are encoded already.
fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let payload = items.concat();
    let mut out = Vec::new();
    Header { list: true, payload_length: payload.len() }.encode(&mut out);
    out.extend_from_slice(&payload);
    out
}
