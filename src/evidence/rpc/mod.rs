//! What a node says of the chain. It asks one node one thing at a time and keeps nothing; what a node says is checked
//! where it can be, and otherwise handed on as that node's word.

mod block;
mod canonical;
mod error;
mod evidence;
mod quantity;
mod wire;

pub use canonical::{Canonical, Finding, Said, canonical, final_height};
pub use error::RpcError;
pub use wire::{BadAddress, Line, NoRoots, address};

use std::fmt;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;
use quantity::Quantity;
use wire::Wire;

/// No account ever sends as many transactions.
const MOST_NONCES: u64 = 1 << 53;
/// So many blocks in a row may be empty where one with a transaction is looked for.
const MOST_EMPTY: usize = 64;

/// The parameters of a method that has none.
const NOTHING: [(); 0] = [];

/// How nodes refuse a tag that they do not know, or what it stands for while there is no such thing: unknown block (of the
/// engine's API), invalid parameters, resource not found, and what has no code of its own, as in Geth. Any other refusal is
/// about something else, such as a key.
const UNKNOWN: [i64; 4] = [-39_001, -32_602, -32_001, -32_000];

/// A node that is asked over HTTP.
#[derive(Clone)]
pub struct Rpc {
    wire: Wire,
}

/// Only the name: the address may bear a key.
impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rpc").field(&self.name()).finish()
    }
}

/// The newest height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub height: u64,
    pub hash: B256,
    /// The chain's own time of it.
    pub time: Timestamp,
    /// Wei for each unit of gas.
    pub base_fee: u128,
}

/// What a node says came of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub transaction: B256,
    pub height: u64,
    pub hash: B256,
    /// Of the transaction in the block.
    pub index: u64,
    /// Whether it did what it was to do; else it was paid for nothing.
    pub status: bool,
    pub gas_used: u64,
    /// Wei for each unit of gas, as it was paid.
    pub price: u128,
    /// The contract that it made.
    pub contract: Option<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadAnswer {
    number: Quantity<u64>,
    hash: B256,
    timestamp: Quantity<u64>,
    base_fee_per_gas: Option<Quantity<u128>>,
}

/// Some nodes have receipts of transactions that are in no block yet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptAnswer {
    transaction_hash: B256,
    block_number: Option<Quantity<u64>>,
    block_hash: Option<B256>,
    transaction_index: Option<Quantity<u64>>,
    status: Quantity<u64>,
    gas_used: Quantity<u64>,
    effective_gas_price: Quantity<u128>,
    contract_address: Option<Address>,
}

#[derive(Deserialize)]
struct TransactionAnswer {
    hash: B256,
}

impl Rpc {
    /// Every question waits for its answer for `timeout`, and for large ones four times as long.
    pub fn new(line: &Line, url: &str, timeout: Duration) -> Result<Self, BadAddress> {
        Wire::new(line, url, timeout).map(|wire| Self { wire })
    }

    /// Scheme, host and port: a path may bear a key.
    pub fn name(&self) -> &str {
        &self.wire.name
    }

    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        self.number("eth_chainId", NOTHING).await
    }

    pub async fn head(&self) -> Result<Head, RpcError> {
        const METHOD: &str = "eth_getBlockByNumber";
        let head: HeadAnswer = self.some(METHOD, ("latest", false)).await?;
        let time = time(head.timestamp.0).ok_or_else(|| self.wrong(METHOD, "its time is beyond all times"))?;
        let base_fee = head.base_fee_per_gas.ok_or_else(|| self.wrong(METHOD, "it has no base fee"))?;
        Ok(Head { height: head.number.0, hash: head.hash, time, base_fee: base_fee.0 })
    }

    /// The height up to which nothing changes any more; `None` if the node does not know such a thing.
    pub async fn finalized(&self) -> Result<Option<u64>, RpcError> {
        match self.block_at("finalized").await {
            Ok(head) => Ok(head.map(|head| head.number.0)),
            Err(RpcError::Refused { code, .. }) if UNKNOWN.contains(&code) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None`: it has no block of that height.
    pub async fn hash_at(&self, height: u64) -> Result<Option<B256>, RpcError> {
        let Some(block) = self.block_at(format!("{height:#x}")).await? else { return Ok(None) };
        if block.number.0 != height {
            return Err(self.wrong("eth_getBlockByNumber", format!("height {} instead of {height}", block.number.0)));
        }
        Ok(Some(block.hash))
    }

    async fn block_at(&self, which: impl Serialize) -> Result<Option<HeadAnswer>, RpcError> {
        self.wire.ask("eth_getBlockByNumber", (which, false), false).await
    }

    /// That of the next transaction of the account after all that are in blocks.
    pub async fn nonce(&self, account: Address) -> Result<u64, RpcError> {
        self.count(account, "latest").await
    }

    /// The same after all that the node knows of.
    pub async fn pending_nonce(&self, account: Address) -> Result<u64, RpcError> {
        self.count(account, "pending").await
    }

    async fn count(&self, account: Address, at: &'static str) -> Result<u64, RpcError> {
        const METHOD: &str = "eth_getTransactionCount";
        match self.number(METHOD, (account, at)).await? {
            count if count < MOST_NONCES => Ok(count),
            count => Err(self.wrong(METHOD, format!("{count} is more than any account sends"))),
        }
    }

    /// Wei.
    pub async fn balance(&self, account: Address) -> Result<u128, RpcError> {
        let balance: Quantity<u128> = self.some("eth_getBalance", (account, "latest")).await?;
        Ok(balance.0)
    }

    /// The tip that the node thinks right: wei for each unit of gas.
    pub async fn tip(&self) -> Result<u128, RpcError> {
        let tip: Quantity<u128> = self.some("eth_maxPriorityFeePerGas", NOTHING).await?;
        Ok(tip.0)
    }

    /// Empty where there is no contract.
    pub async fn code(&self, address: Address) -> Result<Bytes, RpcError> {
        self.some("eth_getCode", (address, "latest")).await
    }

    /// The gas that it would take; refused if it would fail.
    pub async fn estimate(&self, from: Address, to: Option<Address>, data: &Bytes) -> Result<u64, RpcError> {
        #[derive(Serialize)]
        struct Call<'a> {
            from: Address,
            #[serde(skip_serializing_if = "Option::is_none")]
            to: Option<Address>,
            data: &'a Bytes,
        }
        self.number("eth_estimateGas", (Call { from, to, data },)).await
    }

    /// Hands a signed transaction over. That it is taken says nothing of its being mined; and if it is refused, it may
    /// be known already.
    pub async fn send(&self, raw: &Bytes) -> Result<(), RpcError> {
        const METHOD: &str = "eth_sendRawTransaction";
        let (taken, own): (B256, _) = (self.some(METHOD, (raw,)).await?, alloy_primitives::keccak256(raw));
        if taken != own {
            return Err(self.wrong(METHOD, format!("it took {taken} for {own}")));
        }
        Ok(())
    }

    /// `None`: it knows of no block with this transaction, which does not mean that there is none.
    pub async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, RpcError> {
        const METHOD: &str = "eth_getTransactionReceipt";
        let answer: Option<ReceiptAnswer> = self.wire.ask(METHOD, (transaction,), false).await?;
        let Some(answer) = answer else { return Ok(None) };
        if answer.transaction_hash != transaction {
            return Err(self.wrong(METHOD, format!("that of {} instead of {transaction}", answer.transaction_hash)));
        }
        if answer.status.0 > 1 {
            return Err(self.wrong(METHOD, format!("status {} is neither 0 nor 1", answer.status.0)));
        }
        let (Some(height), Some(hash), Some(index)) =
            (answer.block_number, answer.block_hash, answer.transaction_index)
        else {
            return Ok(None);
        };
        Ok(Some(Receipt {
            transaction,
            height: height.0,
            hash,
            index: index.0,
            status: answer.status.0 == 1,
            gas_used: answer.gas_used.0,
            price: answer.effective_gas_price.0,
            contract: answer.contract_address.filter(|contract| !contract.is_zero()),
        }))
    }

    /// Whether it has this transaction, in a block or waiting.
    pub async fn knows(&self, transaction: B256) -> Result<bool, RpcError> {
        const METHOD: &str = "eth_getTransactionByHash";
        let answer: Option<TransactionAnswer> = self.wire.ask(METHOD, (transaction,), false).await?;
        match answer {
            Some(answer) if answer.hash != transaction => {
                Err(self.wrong(METHOD, format!("{} instead of {transaction}", answer.hash)))
            }
            answer => Ok(answer.is_some()),
        }
    }

    /// Whether it still finds transactions of as long ago as this height: else that it does not know one says nothing.
    /// A transaction that is in no block up to this height is in none of the empty ones after it either.
    pub async fn finds_from(&self, height: u64) -> Result<bool, RpcError> {
        #[derive(Deserialize)]
        struct Content {
            transactions: Vec<B256>,
        }
        for height in (height..).take(MOST_EMPTY) {
            let content: Option<Content> =
                self.wire.ask("eth_getBlockByNumber", (format!("{height:#x}"), false), false).await?;
            let Some(content) = content else { return Ok(false) };
            if let Some(first) = content.transactions.first() {
                return Ok(self.knows(*first).await? && self.receipt(*first).await?.is_some());
            }
        }
        Ok(false)
    }

    async fn number(&self, method: &'static str, params: impl Serialize) -> Result<u64, RpcError> {
        let number: Quantity<u64> = self.some(method, params).await?;
        Ok(number.0)
    }

    /// What no node may not know.
    async fn some<T: DeserializeOwned>(&self, method: &'static str, params: impl Serialize) -> Result<T, RpcError> {
        self.wire.ask(method, params, false).await?.ok_or_else(|| self.wrong(method, "null"))
    }

    fn wrong(&self, method: &'static str, why: impl Into<String>) -> RpcError {
        self.wire.malformed(method, why.into())
    }
}

/// The chain has whole seconds.
fn time(seconds: u64) -> Option<Timestamp> {
    let millis = i64::try_from(seconds).ok()?.checked_mul(1_000)?;
    Some(Timestamp::from_millis(millis))
}
