//! What the nodes say of one anchor, gathered and checked: nothing is taken for mined that is not proven, nor against
//! the word of another node.

use alloy_primitives::{Address, Bytes, keccak256};

use super::fees::Market;
use super::nodes::{Nodes, Present};
use super::step::{Cost, Found, Overtaken, Seen, Standing, View};
use crate::clock::Clock;
use crate::evidence::evm;
use crate::evidence::rpc::{self, Finding, Receipt, Rpc, RpcError};
use crate::model::note::{Checkpoint, SignedCheckpoint};
use crate::model::{Anchor, AnchorState, Anchored, Attempt, ChainEvidence, Digest, Failed, Inclusion, Timestamp};

/// Where no node proposes a tip.
const TIP: u128 = 1_000_000_000;

/// Where a block of the chain is final without a node that says so.
const DEEP: u64 = 256;

pub struct Look<'a> {
    pub nodes: &'a mut Nodes,
    pub present: &'a mut Vec<Present>,
    pub clock: &'a Clock,
}

impl Look<'_> {
    /// Asks what bears on the anchor in its state, and notes in `seen` what is to be remembered.
    pub async fn at(&mut self, anchor: &Anchor, seen: &mut Seen) -> View {
        let mut view = View {
            market: Err(self.nodes.silence()),
            answering: 0,
            known_by: 0,
            found: Found::Nowhere,
            standing: Standing::Unknown,
            finalized: self.finalized(),
            cost: Cost::Unknown,
        };
        if matches!(anchor.state, AnchorState::Included | AnchorState::Final) {
            view.standing = self.standing(anchor).await;
            view.answering = self.present.len();
            return view;
        }
        if anchor.state.is_outstanding() {
            view.found = self.found(anchor).await;
            if let Some(newest) = anchor.attempts.last().map(|attempt| attempt.hash) {
                let known = self.each(move |rpc| async move { rpc.knows(newest).await }).await;
                view.known_by = known.iter().filter(|(_, knows)| *knows).count();
            }
        }
        if anchor.state == AnchorState::Queued {
            view.cost = self.cost(anchor).await;
        }
        view.market = self.market(anchor).await.ok_or_else(|| self.nodes.silence());
        view.answering = self.present.len();
        note(anchor, &view, seen);
        view
    }

    async fn each<T, F>(&mut self, ask: impl Fn(Rpc) -> F) -> Vec<(Present, T)>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        self.nodes.each(self.present, self.clock, ask).await
    }

    fn finalized(&self) -> Option<u64> {
        let of = |node: &Present| node.finalized.or_else(|| node.head.height.checked_sub(DEEP));
        self.present.iter().filter_map(of).max()
    }

    /// The least nonce that a node says: one that is too low is found out, one that is too high would block all that
    /// follows.
    async fn market(&mut self, anchor: &Anchor) -> Option<Market> {
        let account = anchor.account;
        let said = self
            .each(move |rpc| async move {
                let (nonce, pending, balance) =
                    futures_util::try_join!(rpc.nonce(account), rpc.pending_nonce(account), rpc.balance(account))?;
                // Not every node proposes one.
                Ok((nonce, pending, balance, rpc.tip().await.ok()))
            })
            .await;
        let (highest, (_, _, balance, _)) = said.iter().max_by_key(|(node, _)| node.head.height)?;
        let nonces = said.iter().filter(|(node, _)| !node.lags).map(|(_, said)| said.0);
        Some(Market {
            height: highest.head.height,
            base_fee: highest.head.base_fee,
            tip: said.iter().filter_map(|(_, said)| said.3).min().unwrap_or(TIP),
            nonce: nonces.min()?,
            pending: said.iter().map(|(_, said)| said.1).max()?,
            balance: *balance,
        })
    }

    /// What the call would take, by the first node that says so; a contract must be there before it is called.
    async fn cost(&mut self, anchor: &Anchor) -> Cost {
        if let Some(contract) = anchor.contract {
            let code = self.each(move |rpc| async move { rpc.has_code(contract).await }).await;
            match code.iter().find(|(_, has)| *has) {
                Some(_) => {}
                None if code.is_empty() => return Cost::Unknown,
                None => {
                    let text = format!(
                        "there is no contract at {contract} on chain {}: correct contract, deploy one with `meterseal anchor \
                         deploy`, or leave it out",
                        anchor.chain_id
                    );
                    return Cost::Refused(text);
                }
            }
        }
        let Some(data) = data(anchor) else { return Cost::Refused("its checkpoint cannot be read".to_owned()) };
        let (to, account) = (to(anchor), anchor.account);
        let said = self.each(move |rpc| {
            let data = data.clone();
            async move {
                match rpc.estimate(account, to, &data).await {
                    // It answers: it goes on being asked.
                    Err(error @ RpcError::Refused { .. }) => Ok(Err(error)),
                    said => said.map(Ok),
                }
            }
        });
        let said = said.await;
        if let Some(gas) = said.iter().find_map(|(_, said)| said.as_ref().ok()) {
            return Cost::Gas(*gas);
        }
        match said.into_iter().find_map(|(_, said)| said.err()) {
            Some(error) if anchor.contract.is_some() && is_of_the_contract(&error) => Cost::Refused(format!(
                "the transaction would fail: {error}. Is contract the address of an EvidenceAnchor?"
            )),
            Some(error) => Cost::Withheld(format!("no node says how much gas the transaction takes: {error}")),
            None => Cost::Unknown,
        }
    }

    async fn standing(&mut self, anchor: &Anchor) -> Standing {
        let Some(inclusion) = &anchor.inclusion else { return Standing::Unknown };
        let rpcs: Vec<Rpc> = self.present.iter().map(|node| node.rpc.clone()).collect();
        let canonical = rpc::canonical(&rpcs, anchor.chain_id, inclusion.height, inclusion.hash).await;
        match canonical.finding {
            Finding::Final => Standing::Final,
            Finding::NotFinal => Standing::There,
            Finding::Another => Standing::Gone,
            Finding::Contradiction => {
                let said = canonical.said.iter().map(|said| format!("{} {}", said.rpc, said.text));
                Standing::Contradiction(said.collect::<Vec<_>>().join("; "))
            }
            Finding::Unknown => Standing::Unknown,
        }
    }

    /// Looks for a receipt of any attempt at every node, and believes one when its block proves it.
    async fn found(&mut self, anchor: &Anchor) -> Found {
        let mut unproven = None;
        for attempt in anchor.attempts.iter().rev() {
            let hash = attempt.hash;
            let receipts = self.each(move |rpc| async move { rpc.receipt(hash).await }).await;
            for (node, receipt) in receipts.into_iter().filter_map(|(node, receipt)| Some((node, receipt?))) {
                let why = match self.proven(anchor, attempt, &node, &receipt).await {
                    Ok(found) => return found,
                    Err(Unproven::NotNow(why)) => why,
                    Err(Unproven::Wrong(why)) => {
                        self.nodes.blame(&node, format!("it does not prove its receipt of {hash}: {why}"));
                        why
                    }
                };
                unproven = Some(format!("{} has a receipt of {hash}, and does not prove it: {why}", node.rpc.name()));
            }
        }
        unproven.map_or(Found::Nowhere, Found::Unproven)
    }

    async fn proven(
        &mut self,
        anchor: &Anchor,
        attempt: &Attempt,
        node: &Present,
        receipt: &Receipt,
    ) -> Result<Found, Unproven> {
        let wrong = |why: String| Unproven::Wrong(why);
        let evidence = match node.rpc.evidence(receipt).await {
            Ok(Some(evidence)) => evidence,
            Ok(None) => return Err(Unproven::NotNow("it does not have that block".to_owned())),
            Err(error @ RpcError::Unreachable { .. }) => return Err(Unproven::NotNow(error.to_string())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        if keccak256(&evidence.header) != receipt.hash {
            return Err(wrong("its block is another one".to_owned()));
        }
        let (height, hash) = (receipt.height, receipt.hash);
        let others = self.each(move |rpc| async move { rpc.hash_at(height).await }).await;
        if let Some((other, Some(said))) = others.iter().find(|(_, said)| said.is_some_and(|said| said != hash)) {
            return Ok(Found::Contradiction(format!(
                "{} has transaction {} at height {height} in block {hash}, and {} has block {said} there",
                node.rpc.name(),
                attempt.hash,
                other.rpc.name()
            )));
        }
        if !receipt.status {
            let fee = receipt.price.saturating_mul(receipt.gas_used.into());
            let failed = Failed { transaction: attempt.hash, height, at: self.clock.now(), fee };
            let is_final = self.finalized().is_some_and(|finalized| finalized >= height);
            return Ok(Found::Reverted { failed, is_final });
        }
        let time = match &anchor.what {
            Anchored::Contract => {
                let made = anchor.account.create(attempt.nonce);
                if receipt.contract != Some(made) {
                    return Err(wrong(format!("it made {:?} and not {made}", receipt.contract)));
                }
                evm::Header::read(&evidence.header).map_err(|unproven| wrong(unproven.to_string()))?.time
            }
            Anchored::Checkpoint { .. } => shown(anchor, attempt, receipt, &evidence).map_err(wrong)?,
        };
        let Receipt { index, gas_used, price, .. } = *receipt;
        let inclusion = Inclusion { height, hash, time, index, transaction: attempt.hash, gas_used, price };
        Ok(Found::Mined { inclusion, evidence: Some(evidence) })
    }
}

/// Whether a refused estimate speaks of what the contract does, and not of the node. Codes and words differ: of geth, and
/// of Erigon and Nethermind.
fn is_of_the_contract(error: &RpcError) -> bool {
    let RpcError::Refused { code, message, .. } = error else { return false };
    let message = message.to_lowercase();
    let words = ["revert", "opcode", "out of gas", "gas required exceeds", "stack"];
    [3, -32015].contains(code) || words.iter().any(|word| message.contains(word))
}

/// Why a receipt is not believed.
enum Unproven {
    /// The node may prove it later, and another one now.
    NotNow(String),
    Wrong(String),
}

/// What the evidence shows is this anchor; the chain's time of it.
fn shown(anchor: &Anchor, attempt: &Attempt, receipt: &Receipt, evidence: &ChainEvidence) -> Result<Timestamp, String> {
    let shown = evm::check(evidence).map_err(|unproven| unproven.to_string())?;
    let Some(checkpoint) = checkpoint(anchor) else { return Err("its checkpoint cannot be read".to_owned()) };
    let is_ours = shown.chain_id == anchor.chain_id
        && shown.account == anchor.account
        && shown.contract == anchor.contract
        && shown.origin == Digest::of(checkpoint.origin.as_bytes())
        && (shown.size, shown.root) == (checkpoint.size, checkpoint.root)
        && (shown.transaction, shown.height, shown.hash) == (attempt.hash, receipt.height, receipt.hash);
    if is_ours { Ok(shown.time) } else { Err("it shows another transaction".to_owned()) }
}

/// Remembers since when the nonce is used up while nobody has a receipt, and since when the newest attempt is out.
fn note(anchor: &Anchor, view: &View, seen: &mut Seen) {
    let (Ok(market), Some(newest)) = (&view.market, anchor.attempts.last()) else { return };
    seen.since.get_or_insert((seen.now_ms, market.height));
    if market.nonce <= newest.nonce || view.found != Found::Nowhere {
        seen.overtaken = None;
        return;
    }
    let first = Overtaken { since_ms: seen.now_ms, height: market.height, looks: 0 };
    let overtaken = seen.overtaken.get_or_insert(first);
    overtaken.looks = overtaken.looks.saturating_add(1);
}

/// The checkpoint that an anchor is of.
pub fn checkpoint(anchor: &Anchor) -> Option<Checkpoint> {
    match &anchor.what {
        Anchored::Checkpoint { note, .. } => Some(note.parse::<SignedCheckpoint>().ok()?.checkpoint),
        Anchored::Contract => None,
    }
}

/// Whom its transaction is to; none: it makes a contract.
pub fn to(anchor: &Anchor) -> Option<Address> {
    match anchor.what {
        Anchored::Checkpoint { .. } => Some(anchor.contract.unwrap_or(anchor.account)),
        Anchored::Contract => None,
    }
}

pub fn data(anchor: &Anchor) -> Option<Bytes> {
    match &anchor.what {
        Anchored::Checkpoint { .. } => {
            let Checkpoint { origin, size, root } = checkpoint(anchor)?;
            Some(evm::payload(&origin, size, &root, anchor.contract.is_some()))
        }
        Anchored::Contract => Some(Bytes::from_static(evm::CREATION_CODE)),
    }
}
