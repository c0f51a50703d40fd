//! What an anchor's evidence shows, or why it shows nothing: docs/evidence-format.md section 6, "What is checked of each".
//!
//! Everything is read by the strict reader of `rlp`, not by the types of alloy-consensus: those read what is to be worked
//! with, and pass over an s in the upper half or a status that is a state root. From alloy come Keccak and the recovery of the
//! sender, which is given no signature before its r, s and parity were checked here.

use alloy_primitives::{Address, B256, Signature, U256, b256, keccak256, uint};
use alloy_rlp::Error;

use super::header::Header;
use super::rlp::{self, Item, List};
use super::{MARK, SELECTOR, Unproven, path};
use crate::model::{ChainEvidence, Digest, Timestamp};

/// What is shown, if `hash` is that of a block of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub chain_id: u64,
    /// Who signed the transaction.
    pub account: Address,
    /// None where call data alone bear it.
    pub contract: Option<Address>,
    /// SHA-256 of the origin line.
    pub origin: Digest,
    pub size: u64,
    pub root: Digest,
    pub transaction: B256,
    pub height: u64,
    /// Of the block.
    pub hash: B256,
    /// Of the block, by the chain's own clock.
    pub time: Timestamp,
}

/// Keccak("Anchored(address,bytes32,uint64,bytes32)").
const EVENT: B256 = b256!("3d0c97912257c6ad70e8f6fc81ae518ad3e14734d308b512c2729cc637a4b0b1");
/// EIP-1559 in EIP-2718, of transactions and receipts.
const TYPE: u8 = 2;
/// The order n of secp256k1.
const ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);
/// n / 2, rounded down. Of s and n - s, which sign the same, only the lower is taken (EIP-2).
const HALF: U256 = uint!(0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0_U256);
/// Items before the signature.
const SIGNED_ITEMS: usize = 9;
const MOST_TOPICS: usize = 4;

/// Checks evidence against itself, down to the hash of the block, which somebody has to vouch for.
pub fn check(evidence: &ChainEvidence) -> Result<Shown, Unproven> {
    let header = Header::read(&evidence.header)?;
    let index = evidence.index;
    let transaction = path::value("transaction", &header.transactions_root, index, &evidence.transaction)?;
    let receipt = path::value("receipt", &header.receipts_root, index, &evidence.receipt)?;
    let sent = Transaction::read(transaction).map_err(|why| Unproven::at("transaction", why))?;
    let anchored = Anchored::read(&sent).map_err(|why| Unproven::at("transaction", why))?;
    let logged = logs(receipt).and_then(|logs| match anchored.contract {
        Some(contract) => check_log(logs, contract, &anchored.topics(sent.account), &anchored.logged()),
        None => check_form(logs),
    });
    logged.map_err(|why| Unproven::at("receipt", why))?;
    Ok(Shown {
        chain_id: sent.chain_id,
        account: sent.account,
        contract: anchored.contract,
        origin: Digest::from_bytes(anchored.origin),
        size: anchored.size,
        root: Digest::from_bytes(anchored.root),
        transaction: keccak256(transaction),
        height: header.height,
        hash: header.hash,
        time: header.time,
    })
}

/// A transaction of type 2 that moves no value, as far as it is asked for.
struct Transaction<'a> {
    chain_id: u64,
    account: Address,
    to: Address,
    data: &'a [u8],
}

impl<'a> Transaction<'a> {
    fn read(value: &'a [u8]) -> Result<Self, String> {
        let list = typed(value)?;
        let items: [Item<'a>; 12] = list.exactly().map_err(|error| error.to_string())?;
        let [chain_id, nonce, tip, max_fee, gas_limit, to, worth, data, access_list, parity, r, s] = items;
        nonce.u64().map_err(of("nonce"))?;
        tip.number(16).map_err(of("max priority fee"))?;
        max_fee.number(16).map_err(of("max fee"))?;
        gas_limit.u64().map_err(of("gas limit"))?;
        if worth.bytes().map_err(of("value"))? != b"" {
            return Err("its value is not 0".to_owned());
        }
        if !access_list.list().map_err(of("access list"))?.is_empty() {
            return Err("its access list is not empty".to_owned());
        }
        let signed = list.first(SIGNED_ITEMS).map_err(|error| error.to_string())?;
        let hash = keccak256([&[TYPE][..], &signed].concat());
        Ok(Self {
            chain_id: chain_id.u64().map_err(of("chain id"))?,
            account: signer(&hash, parity, r, s)?,
            to: to.array().map_err(of("to"))?.into(),
            data: data.bytes().map_err(of("data"))?,
        })
    }
}

/// Who signed `hash`.
fn signer(hash: &B256, parity: Item<'_>, r: Item<'_>, s: Item<'_>) -> Result<Address, String> {
    let is_odd = match parity.u64().map_err(of("y parity"))? {
        0 => false,
        1 => true,
        other => return Err(format!("y parity is {other}, but expected 0 or 1")),
    };
    let (r, s) = (r.number(32).map_err(of("r"))?, s.number(32).map_err(of("s"))?);
    if r.is_zero() || r >= ORDER {
        return Err("r of its signature is 0 or not below the order of the curve".to_owned());
    }
    if s.is_zero() || s > HALF {
        return Err("s of its signature is 0 or above half the order of the curve".to_owned());
    }
    let signature = Signature::new(r, s, is_odd);
    signature.recover_address_from_prehash(hash).map_err(|_| "its signature is nobody's".to_owned())
}

/// What a transaction says of the checkpoint.
struct Anchored {
    contract: Option<Address>,
    origin: [u8; 32],
    size: u64,
    root: [u8; 32],
}

impl Anchored {
    fn read(sent: &Transaction<'_>) -> Result<Self, String> {
        let by_contract = sent.data.strip_prefix(&SELECTOR).and_then(split::<32>);
        let alone = sent.data.strip_prefix(MARK).and_then(split::<8>);
        let (contract, (origin, size, root)) = match (by_contract, alone) {
            (Some((origin, word, root)), _) => {
                let (zeros, size) = word.split_at(24);
                if zeros != [0; 24] {
                    return Err("the size in its data is above 8 bytes".to_owned());
                }
                (Some(sent.to), (origin, size, root))
            }
            (None, Some(parts)) if sent.to == sent.account => (None, parts),
            (None, Some(_)) => return Err(format!("it is to {}, not to its sender {}", sent.to, sent.account)),
            (None, None) => return Err(format!("its {} bytes of data are no anchor", sent.data.len())),
        };
        let size = size.try_into().map(u64::from_be_bytes).map_err(|_| "the size has not 8 bytes".to_owned())?;
        Ok(Self { contract, origin: *origin, size, root: *root })
    }

    /// Of the log by which the contract says the same.
    fn topics(&self, account: Address) -> [[u8; 32]; 3] {
        [EVENT.0, account.into_word().0, self.origin]
    }

    fn logged(&self) -> Vec<u8> {
        [&[0; 24][..], &self.size.to_be_bytes(), &self.root].concat()
    }
}

/// Origin, size of `N` bytes and root, and nothing else.
fn split<const N: usize>(data: &[u8]) -> Option<(&[u8; 32], &[u8], &[u8; 32])> {
    let (origin, rest) = data.split_first_chunk()?;
    let (size, rest) = rest.split_at_checked(N)?;
    Some((origin, size, rest.try_into().ok()?))
}

/// The logs of a receipt of type 2 whose transaction did what it was to do.
fn logs(value: &[u8]) -> Result<List<'_>, String> {
    let [status, gas, bloom, logs] = typed(value)?.exactly().map_err(|error| error.to_string())?;
    gas.u64().map_err(of("cumulative gas"))?;
    bloom.array::<256>().map_err(of("bloom"))?;
    match status.u64().map_err(of("status"))? {
        1 => logs.list().map_err(of("logs")),
        other => Err(format!("its status is {other}, but expected 1: it did nothing")),
    }
}

/// Exactly one log is by `contract`, and says `topics` and `data`.
fn check_log(logs: List<'_>, contract: Address, topics: &[[u8; 32]; 3], data: &[u8]) -> Result<(), String> {
    let mut own = None;
    for item in logs.items() {
        let log = Log::read(item)?;
        if log.address == contract && own.replace(log).is_some() {
            return Err(format!("it has several logs by {contract}, but expected one"));
        }
    }
    let log = own.ok_or_else(|| format!("it has no log by {contract}"))?;
    if log.topics().collect::<Result<Vec<_>, _>>()? != topics {
        return Err(format!("the topics of the log by {contract} are not those of the transaction's anchor"));
    }
    match log.data == data {
        true => Ok(()),
        false => Err(format!("size and root in the log by {contract} are not the transaction's")),
    }
}

fn check_form(logs: List<'_>) -> Result<(), String> {
    logs.items().try_for_each(|item| Log::read(item).map(drop))
}

struct Log<'a> {
    address: Address,
    topics: List<'a>,
    data: &'a [u8],
}

impl<'a> Log<'a> {
    fn read(item: rlp::Result<Item<'a>>) -> Result<Self, String> {
        let [address, topics, data] = item.and_then(|item| item.list()?.exactly()).map_err(of("log"))?;
        let log = Self {
            address: address.array().map_err(of("address of a log"))?.into(),
            topics: topics.list().map_err(of("topics of a log"))?,
            data: data.bytes().map_err(of("data of a log"))?,
        };
        match log.topics().try_fold(0, |count, topic| topic.map(|_| count + 1))? {
            0..=MOST_TOPICS => Ok(log),
            count => Err(format!("a log has {count} topics, at most {MOST_TOPICS} are possible")),
        }
    }

    fn topics(&self) -> impl Iterator<Item = Result<[u8; 32], String>> + use<'a> {
        self.topics.items().map(|topic| topic.and_then(Item::array).map_err(of("topic of a log")))
    }
}

/// The list in a value of type 2.
fn typed(value: &[u8]) -> Result<List<'_>, String> {
    match value.split_first() {
        Some((&TYPE, rest)) => rlp::list(rest).map_err(|error| error.to_string()),
        Some((first @ ..0x80, _)) => Err(format!("it is of type {first}, but expected 2 (EIP-1559)")),
        _ => Err("it is of no type (legacy), but expected 2 (EIP-1559)".to_owned()),
    }
}

fn of(name: &'static str) -> impl Fn(Error) -> String {
    move |error| format!("{name}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_is_that_of_the_contract() {
        assert_eq!(EVENT, keccak256("Anchored(address,bytes32,uint64,bytes32)"));
    }
}
