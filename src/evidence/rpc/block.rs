//! A block as a node tells it, put together again as it is hashed.
//!
//! Nothing of it is believed: the header has to have the hash, and the lists have to have the roots of the header. So
//! what a node leaves out, adds or changes is found out, however tolerantly its words are read.

use alloy_consensus::transaction::{EthereumTxEnvelope, TxEip4844};
use alloy_consensus::{Eip658Value, Receipt, ReceiptWithBloom};
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, Log, U256, keccak256};
use alloy_rlp::{Encodable, Header};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::quantity::Quantity;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockAnswer {
    pub hash: B256,
    parent_hash: B256,
    sha3_uncles: B256,
    miner: Address,
    state_root: B256,
    transactions_root: B256,
    receipts_root: B256,
    logs_bloom: Bloom,
    difficulty: Quantity<U256>,
    pub number: Quantity<u64>,
    gas_limit: Quantity<u64>,
    gas_used: Quantity<u64>,
    timestamp: Quantity<u64>,
    extra_data: Bytes,
    mix_hash: B256,
    nonce: B64,
    base_fee_per_gas: Option<Quantity<U256>>,
    withdrawals_root: Option<B256>,
    blob_gas_used: Option<Quantity<u64>>,
    excess_blob_gas: Option<Quantity<u64>>,
    parent_beacon_block_root: Option<B256>,
    requests_hash: Option<B256>,
    pub transactions: Vec<TransactionAnswer>,
}

impl BlockAnswer {
    /// RLP of the header, if any has that hash. Upgrades of chains added items to the end, and some nodes tell of more
    /// than are in it: as many are taken as give the hash.
    pub fn header(&self) -> Option<Vec<u8>> {
        let mut items = vec![
            alloy_rlp::encode(self.parent_hash),
            alloy_rlp::encode(self.sha3_uncles),
            alloy_rlp::encode(self.miner),
            alloy_rlp::encode(self.state_root),
            alloy_rlp::encode(self.transactions_root),
            alloy_rlp::encode(self.receipts_root),
            alloy_rlp::encode(self.logs_bloom),
            alloy_rlp::encode(self.difficulty.0),
            alloy_rlp::encode(self.number.0),
            alloy_rlp::encode(self.gas_limit.0),
            alloy_rlp::encode(self.gas_used.0),
            alloy_rlp::encode(self.timestamp.0),
            alloy_rlp::encode(&self.extra_data),
            alloy_rlp::encode(self.mix_hash),
            alloy_rlp::encode(self.nonce),
        ];
        let least = items.len();
        let added = [
            self.base_fee_per_gas.map(|fee| alloy_rlp::encode(fee.0)),
            self.withdrawals_root.map(alloy_rlp::encode),
            self.blob_gas_used.map(|gas| alloy_rlp::encode(gas.0)),
            self.excess_blob_gas.map(|gas| alloy_rlp::encode(gas.0)),
            self.parent_beacon_block_root.map(alloy_rlp::encode),
            self.requests_hash.map(alloy_rlp::encode),
        ];
        items.extend(added.into_iter().map_while(|item| item));
        (least..=items.len()).rev().map(|count| list(&items[..count])).find(|header| keccak256(header) == self.hash)
    }

    /// Wei for each unit of gas.
    pub fn base_fee(&self) -> Option<u128> {
        self.base_fee_per_gas.and_then(|fee| u128::try_from(fee.0).ok())
    }

    /// The hash under which nodes of Polygon tell of what it took over from Ethereum in that block, until that became a
    /// transaction of the block (PIP-74). It is in none of the roots.
    pub fn state_sync(&self) -> B256 {
        keccak256([b"matic-bor-receipt-", &self.number.0.to_be_bytes()[..], self.hash.as_slice()].concat())
    }
}

/// RLP of a list of items that are encoded already.
fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let payload_length = items.iter().map(Vec::len).sum();
    let mut encoded = Vec::with_capacity(payload_length + 4);
    Header { list: true, payload_length }.encode(&mut encoded);
    items.iter().for_each(|item| encoded.extend_from_slice(item));
    encoded
}

pub struct TransactionAnswer {
    pub hash: B256,
    /// As in EIP-2718; none if it is of a type or a spelling that is not known here.
    pub encoded: Option<Vec<u8>>,
}

impl<'de> Deserialize<'de> for TransactionAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            hash: B256,
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let Named { hash } = serde_json::from_str(text).map_err(serde::de::Error::custom)?;
        let envelope: Option<EthereumTxEnvelope<TxEip4844>> = serde_json::from_str(text).ok();
        Ok(Self { hash, encoded: envelope.as_ref().map(encoded) })
    }
}

fn encoded(envelope: &EthereumTxEnvelope<TxEip4844>) -> Vec<u8> {
    let mut encoded = Vec::new();
    match envelope {
        EthereumTxEnvelope::Legacy(signed) => signed.eip2718_encode(&mut encoded),
        EthereumTxEnvelope::Eip2930(signed) => signed.eip2718_encode(&mut encoded),
        EthereumTxEnvelope::Eip1559(signed) => signed.eip2718_encode(&mut encoded),
        EthereumTxEnvelope::Eip4844(signed) => signed.eip2718_encode(&mut encoded),
        EthereumTxEnvelope::Eip7702(signed) => signed.eip2718_encode(&mut encoded),
    }
    encoded
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptAnswer {
    pub transaction_hash: B256,
    pub block_hash: Option<B256>,
    #[serde(rename = "type")]
    kind: Option<Quantity<u64>>,
    status: Option<Quantity<u64>>,
    /// Instead of the status, long ago.
    root: Option<B256>,
    pub cumulative_gas_used: Quantity<u64>,
    logs_bloom: Bloom,
    logs: Vec<LogAnswer>,
}

#[derive(Deserialize)]
struct LogAnswer {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
}

impl ReceiptAnswer {
    pub fn is_success(&self) -> bool {
        self.status == Some(Quantity(1))
    }

    /// As in EIP-2718. Receipts of all types but the first look the same behind their type.
    pub fn encoded(self) -> Option<Vec<u8>> {
        let status = match (self.status, self.root) {
            (Some(Quantity(status @ 0..=1)), _) => Eip658Value::Eip658(status == 1),
            (None, Some(root)) => Eip658Value::PostState(root),
            _ => return None,
        };
        let log = |log: LogAnswer| Log::new_unchecked(log.address, log.topics, log.data);
        let receipt = ReceiptWithBloom {
            receipt: Receipt {
                status,
                cumulative_gas_used: self.cumulative_gas_used.0,
                logs: self.logs.into_iter().map(log).collect(),
            },
            logs_bloom: self.logs_bloom,
        };
        let mut encoded = match self.kind.map_or(0, |kind| kind.0) {
            0 => Vec::new(),
            kind => vec![u8::try_from(kind).ok().filter(|kind| *kind < 0x80)?],
        };
        receipt.encode(&mut encoded);
        Some(encoded)
    }
}
