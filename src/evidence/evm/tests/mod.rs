//! A small chain for the tests: blocks with neighbours of every type, transactions and receipts with any item bent.

mod anchors;
mod frozen;
mod paths;
mod words;

use alloy_consensus::crypto::secp256k1::sign_message;
use alloy_primitives::{Address, B256, Signature, U256, address, keccak256};
use alloy_trie::root::ordered_trie_root_encoded;

use super::*;
use crate::model::ChainEvidence;

const ORIGIN: &str = "site/00112233445566778899aabbccddeeff/0011223344556677";
const SIZE: u64 = 0x0102;
const CONTRACT: Address = address!("00000000000000000000000000000000000c0de0");
const SECRET: B256 = B256::repeat_byte(0x46);

fn key() -> Key {
    Key::read(&SECRET.to_string(), None).unwrap()
}

fn root() -> Digest {
    Digest::of(b"root")
}

/// RLP of a string.
fn text(bytes: &[u8]) -> Vec<u8> {
    alloy_rlp::encode(bytes)
}

fn number(value: u128) -> Vec<u8> {
    alloy_rlp::encode(value)
}

/// RLP of a list of items that are RLP already.
fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let payload = items.concat();
    let mut whole = Vec::new();
    alloy_rlp::Header { list: true, payload_length: payload.len() }.encode(&mut whole);
    [whole, payload].concat()
}

/// The nine items that are signed, of an anchor.
fn items(by_contract: bool) -> Vec<Vec<u8>> {
    let to = if by_contract { CONTRACT } else { key().address() };
    let data = payload(ORIGIN, SIZE, &root(), by_contract);
    [137, 7, 30_000_000_000, 60_000_000_000, 30_000]
        .map(number)
        .into_iter()
        .chain([text(to.as_slice()), number(0), text(&data), list(&[])])
        .collect()
}

/// The items with the signature of the account.
fn signed(items: &[Vec<u8>]) -> Vec<u8> {
    let signature = signature(items);
    let [r, s] = [signature.r(), signature.s()].map(alloy_rlp::encode);
    with_signature(items, [number(signature.v().into()), r, s])
}

fn signature(items: &[Vec<u8>]) -> Signature {
    sign_message(SECRET, keccak256([vec![2], list(items)].concat())).unwrap()
}

fn with_signature(items: &[Vec<u8>], signature: [Vec<u8>; 3]) -> Vec<u8> {
    [vec![2], list(&[items, signature.as_slice()].concat())].concat()
}

fn log(address: Address, topics: &[B256], data: &[u8]) -> Vec<u8> {
    let topics: Vec<_> = topics.iter().map(|topic| text(topic.as_slice())).collect();
    list(&[text(address.as_slice()), list(&topics), text(data)])
}

/// What the contract logs for the anchor.
fn own_log() -> Vec<u8> {
    let event = keccak256("Anchored(address,bytes32,uint64,bytes32)");
    let origin = B256::new(*Digest::of(ORIGIN.as_bytes()).as_bytes());
    log(CONTRACT, &[event, key().address().into_word(), origin], &logged())
}

fn logged() -> Vec<u8> {
    let size: [u8; 32] = U256::from(SIZE).to_be_bytes();
    [size.as_slice(), root().as_bytes()].concat()
}

/// Polygon writes one of its own beside each transaction.
fn fee_log() -> Vec<u8> {
    log(address!("0000000000000000000000000000000000001010"), &[B256::repeat_byte(1); 4], &[2; 160])
}

fn receipt(logs: &[Vec<u8>]) -> Vec<u8> {
    typed_receipt(&[number(1), number(52_000), text(&[0; 256]), list(logs)])
}

fn typed_receipt(items: &[Vec<u8>]) -> Vec<u8> {
    [vec![2], list(items)].concat()
}

fn header(transactions: &[Vec<u8>], receipts: &[Vec<u8>]) -> Vec<u8> {
    let [transactions, receipts] =
        [transactions, receipts].map(|values| text(ordered_trie_root_encoded(values).as_slice()));
    let word = text(&[7; 32]);
    let mut items = vec![word.clone(), word.clone(), text(&[8; 20]), word.clone(), transactions, receipts];
    items.extend([text(&[0; 256]), number(0), number(80_000_000), number(30_000_000), number(52_000)]);
    items.extend([number(1_795_000_000), text(b"bor"), word, text(&[0; 8]), number(25_000_000_000)]);
    list(&items)
}

/// Transactions of the other types, of which only the first byte is right: they are never read.
fn neighbour(index: usize) -> Vec<u8> {
    let body = list(&[number(index as u128), text(&[9; 100])]);
    match index % 6 {
        0 => body,
        1 => [vec![1], body].concat(),
        2 => [vec![2], body].concat(),
        3 => [vec![3], body].concat(),
        4 => [vec![4], body].concat(),
        _ => [vec![0x7f], body].concat(),
    }
}

fn block(transaction: &[u8], receipt: &[u8], index: usize, count: usize) -> Block {
    let with = |own: &[u8]| -> Vec<Vec<u8>> {
        (0..count).map(|at| if at == index { own.to_vec() } else { neighbour(at) }).collect()
    };
    let (transactions, receipts) = (with(transaction), with(receipt));
    Block { header: header(&transactions, &receipts), transactions, receipts }
}

fn evidence_of(transaction: &[u8], receipt: &[u8]) -> ChainEvidence {
    evidence(&block(transaction, receipt, 5, 20), 5).unwrap()
}

fn anchored(by_contract: bool) -> ChainEvidence {
    let logs = if by_contract { vec![own_log(), fee_log()] } else { vec![fee_log()] };
    evidence_of(&signed(&items(by_contract)), &receipt(&logs))
}

fn refused(evidence: &ChainEvidence) -> String {
    check(evidence).unwrap_err().to_string()
}
