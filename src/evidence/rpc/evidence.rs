//! The evidence of a transaction, and whether what a node said of it holds.

use alloy_consensus::Signed;
use alloy_consensus::transaction::{RlpEcdsaDecodableTx, TxEip1559};
use alloy_primitives::{Bytes, TxKind};

use super::block::{BlockAnswer, ReceiptAnswer, TransactionAnswer};
use super::{Receipt, Rpc, RpcError};
use crate::evidence::evm::{self, Block};
use crate::model::ChainEvidence;

const BLOCK: &str = "eth_getBlockByHash";
const RECEIPTS: &str = "eth_getBlockReceipts";
const RECEIPT: &str = "eth_getTransactionReceipt";
const RAW: &str = "eth_getRawTransactionByHash";

/// What a block shows of the gas that a transaction paid for.
struct Paid {
    gas_used: Option<u64>,
    base_fee: u128,
    status: bool,
}

impl Rpc {
    /// Fetches the block of a receipt, computes its hash and both its roots anew, and holds the receipt against what
    /// they show. `None`: the node does not have that block (any more).
    ///
    /// A node of Polygon may be unable to tell the whole of a block that takes something over from Ethereum, where
    /// another node is able to.
    pub async fn evidence(&self, receipt: &Receipt) -> Result<Option<ChainEvidence>, RpcError> {
        let block: Option<BlockAnswer> = self.wire.ask(BLOCK, (receipt.hash, true), true).await?;
        let Some(mut block) = block else { return Ok(None) };
        if (block.number.0, block.hash) != (receipt.height, receipt.hash) {
            return Err(self.wrong(BLOCK, format!("height {} with the hash {}", block.number.0, block.hash)));
        }
        let header = block.header();
        let header = header.ok_or_else(|| self.wrong(BLOCK, "the header that it tells does not have its hash"))?;
        let state_sync = block.state_sync();
        block.transactions.retain(|transaction| transaction.hash != state_sync);
        let Some(mut told) = self.receipts(&block).await? else { return Ok(None) };
        told.retain(|receipt| receipt.transaction_hash != state_sync);
        if !told.iter().map(|told| told.transaction_hash).eq(block.transactions.iter().map(|told| told.hash)) {
            return Err(self.wrong(RECEIPTS, "its receipts are not those of its transactions"));
        }
        let paid = self.paid(&block, &told, receipt.index)?;
        let transactions = self.whole(block.transactions).await?;
        let receipts = told.into_iter().map(ReceiptAnswer::encoded).collect::<Option<_>>();
        let receipts = receipts.ok_or_else(|| self.wrong(RECEIPTS, "a status or a type that cannot be"))?;
        let block = Block { header, transactions, receipts };
        let evidence = evm::evidence(&block, receipt.index)
            .map_err(|unproven| self.wrong(BLOCK, format!("{}: {}", unproven.place, unproven.why)))?;
        self.compare(receipt, &block, &paid)?;
        Ok(Some(evidence))
    }

    async fn receipts(&self, block: &BlockAnswer) -> Result<Option<Vec<ReceiptAnswer>>, RpcError> {
        // By height, as not all nodes take a hash here.
        let at = format!("{:#x}", block.number.0);
        let receipts: Option<Vec<ReceiptAnswer>> = match self.wire.ask(RECEIPTS, (at,), true).await {
            Err(RpcError::Refused { .. }) => self.receipts_one_by_one(block).await?,
            answer => answer?,
        };
        // Others come of a reorganisation in between.
        Ok(receipts.filter(|receipts| receipts.iter().all(|receipt| receipt.block_hash == Some(block.hash))))
    }

    /// For nodes that do not know, or cannot do, all at once.
    async fn receipts_one_by_one(&self, block: &BlockAnswer) -> Result<Option<Vec<ReceiptAnswer>>, RpcError> {
        let mut receipts = Vec::with_capacity(block.transactions.len());
        for transaction in &block.transactions {
            match self.wire.ask(RECEIPT, (transaction.hash,), false).await? {
                Some(receipt) => receipts.push(receipt),
                None => return Ok(None),
            }
        }
        Ok(Some(receipts))
    }

    /// As they are hashed. Those of types that are not known here are asked for as bytes.
    async fn whole(&self, transactions: Vec<TransactionAnswer>) -> Result<Vec<Vec<u8>>, RpcError> {
        let mut whole = Vec::with_capacity(transactions.len());
        for TransactionAnswer { hash, encoded } in transactions {
            whole.push(match encoded {
                Some(encoded) => encoded,
                None => {
                    let raw: Option<Bytes> = self.wire.ask(RAW, (hash,), false).await?;
                    let unknown = || self.wrong(RAW, format!("null for {hash}, which is in a block; ask another node"));
                    raw.ok_or_else(unknown)?.to_vec()
                }
            });
        }
        Ok(whole)
    }

    fn paid(&self, block: &BlockAnswer, told: &[ReceiptAnswer], index: u64) -> Result<Paid, RpcError> {
        let at = usize::try_from(index).ok().filter(|at| *at < told.len());
        let at = at.ok_or_else(|| self.wrong(RECEIPT, format!("index {index} in a block of {}", told.len())))?;
        let before = at.checked_sub(1).map_or(0, |before| told[before].cumulative_gas_used.0);
        Ok(Paid {
            gas_used: told[at].cumulative_gas_used.0.checked_sub(before),
            base_fee: block.base_fee().unwrap_or_default(),
            status: told[at].is_success(),
        })
    }

    /// Whether the receipt says of its transaction what the block shows.
    fn compare(&self, receipt: &Receipt, block: &Block, paid: &Paid) -> Result<(), RpcError> {
        let lie = |what: String| Err(self.wrong(RECEIPT, format!("{what}, but its block shows otherwise")));
        let at = usize::try_from(receipt.index).unwrap_or(usize::MAX);
        let encoded = block.transactions.get(at).map(Vec::as_slice).unwrap_or_default();
        let signed: Signed<TxEip1559> = TxEip1559::eip2718_decode(&mut &*encoded)
            .map_err(|_| self.wrong(RECEIPT, format!("index {} is of no transaction of type 2", receipt.index)))?;
        let transaction = signed.tx();
        if *signed.hash() != receipt.transaction {
            return lie(format!("index {}", receipt.index));
        }
        if receipt.status != paid.status {
            return lie(format!("status {}", u8::from(receipt.status)));
        }
        if Some(receipt.gas_used) != paid.gas_used {
            return lie(format!("{} gas used", receipt.gas_used));
        }
        let price = transaction.max_fee_per_gas.min(paid.base_fee.saturating_add(transaction.max_priority_fee_per_gas));
        if receipt.price != price {
            return lie(format!("a price of {} wei", receipt.price));
        }
        let made = match transaction.to {
            TxKind::Create if receipt.status => signed.recover_signer().ok().map(|by| by.create(transaction.nonce)),
            // Some nodes name the address that it would have been given.
            TxKind::Create => receipt.contract,
            TxKind::Call(_) => None,
        };
        match receipt.contract {
            Some(contract) if Some(contract) != made => lie(format!("the contract {contract}")),
            None if made.is_some() => lie("no contract".to_owned()),
            _ => Ok(()),
        }
    }
}
