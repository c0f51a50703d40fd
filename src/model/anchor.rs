//! Anchors: a checkpoint of the log on a public chain, and how far on its way there it is.

use alloy_primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// One record on the chain, from the wish for it to its finality. The chain has *heights*; *blocks* are the plant's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// In the order in which they were queued, from 1; given by the store, 0 before.
    pub id: u64,
    pub what: Anchored,
    pub chain_id: u64,
    /// Who signs and pays.
    pub account: Address,
    /// The contract that is called; none: call data to the own account, or the making of a contract.
    pub contract: Option<Address>,
    pub queued: Timestamp,
    pub state: AnchorState,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// Every transaction that was ever signed for it and may still be mined, in order; all of the same nonce, each
    /// dearer than the one before.
    pub attempts: Vec<Attempt>,
    /// What was signed for it before and is taken for lost, the oldest first. All nodes may have been wrong: it is looked
    /// for again before anything else is signed.
    pub given_up: Vec<GivenUp>,
    /// Transactions that were mined and paid for, but achieved nothing; their nonces are gone.
    pub failed: Vec<Failed>,
    /// The height that holds it; kept when it is reorganised, as where it was.
    pub inclusion: Option<Inclusion>,
    /// When the chain is asked again whether a final one is still there.
    pub next_check: Option<Timestamp>,
    /// What it waits for; none when it goes on by itself.
    pub waiting: Option<Waiting>,
}

impl Anchor {
    /// One of which nothing is signed yet, before the store numbers it.
    pub fn queued(what: Anchored, chain_id: u64, account: Address, contract: Option<Address>, now: Timestamp) -> Self {
        Self {
            id: 0,
            what,
            chain_id,
            account,
            contract,
            queued: now,
            state: AnchorState::Queued,
            since: now,
            attempts: Vec::new(),
            given_up: Vec::new(),
            failed: Vec::new(),
            inclusion: None,
            next_check: None,
            waiting: None,
        }
    }

    /// It gives up all that is signed for it, and remembers it.
    pub fn give_up(self) -> Self {
        let Self { what, chain_id, account, contract, attempts, mut given_up, .. } = self.clone();
        given_up.push(GivenUp { what, chain_id, account, contract, attempts });
        Self { attempts: Vec::new(), inclusion: None, given_up, ..self }
    }

    /// As it was when this transaction was signed for it, if it is one of those given up.
    pub fn taken_back(&self, transaction: B256) -> Option<Self> {
        let given_up = self.given_up.iter().find(|given_up| given_up.has(transaction))?;
        let mut anchor = given_up.of(self);
        anchor.given_up.retain(|given_up| !given_up.has(transaction));
        Some(anchor)
    }

    /// Where the contract is, or will be, that it makes: this follows from account and nonce.
    pub fn made_contract(&self) -> Option<Address> {
        let nonce = self.attempts.last()?.nonce;
        (self.what == Anchored::Contract).then(|| self.account.create(nonce))
    }

    /// The transaction that was mined, while it is in a block; else the newest one that was sent.
    pub fn transaction(&self) -> Option<B256> {
        let is_mined = matches!(self.state, AnchorState::Included | AnchorState::Final);
        let mined = self.inclusion.as_ref().filter(|_| is_mined).map(|inclusion| inclusion.transaction);
        mined.or_else(|| self.attempts.iter().rfind(|attempt| attempt.sent.is_some()).map(|attempt| attempt.hash))
    }
}

/// What is written to the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchored {
    /// A signed checkpoint. While it is queued it gives way to a newer one of its epoch.
    Checkpoint { epoch: String, size: u64, note: String },
    /// The contract that anchors are sent to from then on.
    Contract,
}

/// How far an anchor is. Each is written before it is acted on. They have no order: one falls back; what one is worth
/// is its [`merit`](Self::merit).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnchorState {
    /// Nothing of it is signed.
    Queued,
    /// A transaction is signed and stored, and may have been sent.
    Signed,
    /// A node has taken a transaction, which says nothing of its being mined.
    Sent,
    /// It is in a block of the chain, and proven to be.
    Included,
    /// That block is final.
    Final,
    /// It was in a block that is not on the chain any more; its transactions are sent again.
    Reorganised,
}

impl AnchorState {
    pub const ALL: [Self; 6] = [Self::Queued, Self::Signed, Self::Sent, Self::Included, Self::Final, Self::Reorganised];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Signed => "signed",
            Self::Sent => "sent",
            Self::Included => "included",
            Self::Final => "final",
            Self::Reorganised => "reorganised",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// How much it is worth to whoever relies on it: the greater, the more.
    pub fn merit(self) -> u8 {
        match self {
            Self::Queued => 0,
            Self::Reorganised => 1,
            Self::Signed => 2,
            Self::Sent => 3,
            Self::Included => 4,
            Self::Final => 5,
        }
    }

    /// A transaction of it is out, or may be, and is not in a block: its nonce is taken.
    pub fn is_outstanding(self) -> bool {
        matches!(self, Self::Signed | Self::Sent | Self::Reorganised)
    }
}

/// Attempts whose nonce somebody else used, as all nodes say; and what the anchor was when they were signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GivenUp {
    pub what: Anchored,
    pub chain_id: u64,
    pub account: Address,
    pub contract: Option<Address>,
    pub attempts: Vec<Attempt>,
}

impl GivenUp {
    /// Its anchor as it was.
    pub fn of(&self, anchor: &Anchor) -> Anchor {
        let Self { what, chain_id, account, contract, attempts } = self.clone();
        Anchor { what, chain_id, account, contract, attempts, ..anchor.clone() }
    }

    pub fn has(&self, transaction: B256) -> bool {
        self.attempts.iter().any(|attempt| attempt.hash == transaction)
    }
}

/// One signed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub hash: B256,
    /// As it is sent (EIP-2718).
    pub raw: Bytes,
    pub nonce: u64,
    /// Wei for each unit of gas.
    pub max_fee: u128,
    pub tip: u128,
    pub gas_limit: u64,
    pub signed: Timestamp,
    /// The newest height at that time: no block up to there holds it.
    pub height: u64,
    /// When a node first took it.
    pub sent: Option<Timestamp>,
}

/// Where it is on the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion {
    pub height: u64,
    pub hash: B256,
    /// The chain's own time of that block.
    pub time: Timestamp,
    /// Of the transaction in the block.
    pub index: u64,
    pub transaction: B256,
    pub gas_used: u64,
    /// Wei for each unit of gas, as it was paid.
    pub price: u128,
}

/// A transaction that was mined for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub transaction: B256,
    pub height: u64,
    pub at: Timestamp,
    /// Wei.
    pub fee: u128,
}

/// Why an anchor does not go on, for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub reason: WaitReason,
    /// What happened, where, and what to do.
    pub text: String,
    pub since: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// No RPC answers.
    Unreachable,
    /// An RPC is of another chain.
    WrongChain,
    /// The base fee and the least tip are above the ceiling.
    FeeCeiling,
    /// What may be spent in 24 h is spent.
    Budget,
    /// The account cannot pay.
    Funds,
    /// There is no code at the contract's address, or it does not do what it must.
    Contract,
    /// RPCs contradict one another, or themselves.
    Disagreement,
    /// Another transaction of this account has taken the nonce, or holds it up.
    Nonce,
    /// The nodes do not take the transaction.
    Refused,
    /// It was mined, and reverted.
    Reverted,
}

/// What shows, without asking anybody but for one block hash, that a transaction was mined and what came of it.
/// docs/evidence-format.md section 6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChainEvidence {
    /// RLP of the block header.
    #[serde(with = "hex")]
    #[schema(value_type = String, pattern = "^[0-9a-f]*$")]
    pub header: Vec<u8>,
    /// Of the transaction in the block.
    pub index: u64,
    /// The nodes from `receiptsRoot` to the receipt, the root's first.
    #[serde(with = "hex_list")]
    #[schema(value_type = Vec<String>)]
    pub receipt: Vec<Vec<u8>>,
    /// The nodes from `transactionsRoot` to the transaction, the root's first.
    #[serde(with = "hex_list")]
    #[schema(value_type = Vec<String>)]
    pub transaction: Vec<Vec<u8>>,
}

/// How anchoring does as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnchorStatus {
    /// 0 where anchors are not configured, or off.
    pub chain_id: u64,
    /// Why nothing is anchored though the config says so, with the remedy.
    pub off: Option<String>,
    pub account: Option<Address>,
    pub contract: Option<Address>,
    /// Wei, and when it was asked.
    #[serde(with = "balance")]
    pub balance: Option<(u128, Timestamp)>,
    /// At the present rate.
    pub days_left: Option<u64>,
    /// When the next checkpoint is due.
    pub next: Option<Timestamp>,
    pub rpcs: Vec<RpcStatus>,
    /// What holds up everything, for a person.
    pub waiting: Option<Waiting>,
}

impl AnchorStatus {
    /// Whether anything is to be anchored; else all the rest says nothing.
    pub fn is_configured(&self) -> bool {
        self.chain_id != 0
    }

    /// The chain that is anchored on.
    pub fn chain(&self) -> Option<u64> {
        self.is_configured().then_some(self.chain_id)
    }
}

/// Somebody wants the newest checkpoint to be anchored now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorOrder {
    /// The name of the token, or of the user, that asks.
    pub by: String,
}

/// Why nothing is anchored on demand, by what whoever asked can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AnchorRefused {
    #[error("nothing is anchored here: add a part [anchor] to the config")]
    NotConfigured,
    #[error("anchor {0} has all that the log holds: there is nothing new")]
    NothingNew(u64),
    /// It is configured and cannot begin; the text says why, and the remedy.
    #[error("{0}")]
    Off(String),
}

/// One node that is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RpcStatus {
    /// Scheme, host and port: a path may bear a key.
    pub name: String,
    /// The newest height it knew.
    pub height: Option<u64>,
    pub finalized: Option<u64>,
    pub answered: Option<Timestamp>,
    /// What it does wrong, for a person.
    pub trouble: Option<String>,
}

/// What stands on the chain for the entries of an epoch below `size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    pub id: u64,
    pub chain_id: u64,
    pub size: u64,
    pub state: AnchorState,
    /// The newest one that was sent, or the one that was mined.
    pub transaction: Option<B256>,
}

/// Wei as a decimal string: as a number it would not fit into 64 bits from 18 coins on, which is as far as JSON values go.
mod balance {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::Timestamp;

    pub fn serialize<S: Serializer>(balance: &Option<(u128, Timestamp)>, serializer: S) -> Result<S::Ok, S::Error> {
        balance.map(|(wei, at)| (wei.to_string(), at)).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<(u128, Timestamp)>, D::Error> {
        let read = Option::<(String, Timestamp)>::deserialize(deserializer)?;
        read.map(|(wei, at)| Ok((wei.parse().map_err(de::Error::custom)?, at))).transpose()
    }
}

/// Lower-case hex without prefix, as everywhere in the evidence format.
mod hex {
    use alloy_primitives::hex;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        read(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }

    /// Only the one spelling.
    pub fn read(text: &str) -> Result<Vec<u8>, String> {
        let bytes = hex::decode(text).map_err(|error| error.to_string())?;
        if hex::encode(&bytes) == text { Ok(bytes) } else { Err("hex is lower case and has no prefix".to_owned()) }
    }
}

mod hex_list {
    use alloy_primitives::hex;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(hex::encode))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let list = Vec::<String>::deserialize(deserializer)?;
        list.iter().map(|text| super::hex::read(text).map_err(de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back() {
        assert!(AnchorState::ALL.into_iter().all(|state| AnchorState::named(state.as_str()) == Some(state)));
    }

    #[test]
    fn a_balance_of_any_size_goes_through_json() {
        for balance in [None, Some((10_u128.pow(22), Timestamp::from_millis(5)))] {
            let status = AnchorStatus { balance, ..AnchorStatus::default() };
            let value = serde_json::to_value(&status).unwrap();
            assert_eq!(serde_json::from_value::<AnchorStatus>(value).unwrap(), status);
        }
    }

    #[test]
    fn evidence_has_one_spelling() {
        let text = r#"{"header":"c0ff","index":3,"receipt":["00","0a1b"],"transaction":[]}"#;
        let read: ChainEvidence = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        for bad in ["C0ff", "0xc0ff", "c0f", "c0fg"] {
            assert!(serde_json::from_str::<ChainEvidence>(&text.replace("c0ff", bad)).is_err(), "{bad}");
        }
    }
}
