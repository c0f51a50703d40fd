//! What the nodes say of one anchor, gathered and checked: nothing is taken for mined that is not proven, nor against
//! the word of another node.

use alloy_primitives::{Address, Bytes, keccak256};

use super::fees::Market;
use super::nodes::{Nodes, Present};
use super::step::{Cost, Denial, Found, Overtaken, Seen, Standing, UnprovenBlock, View};
use crate::clock::Clock;
use crate::evidence::evm;
use crate::evidence::rpc::{self, Finding, Receipt, Rpc, RpcError};
use crate::model::note::{Checkpoint, SignedCheckpoint};
use crate::model::{Anchor, AnchorState, Anchored, Attempt, ChainEvidence, Digest, Failed, Inclusion, Timestamp};

/// Where no node proposes a tip.
const TIP: u128 = 1_000_000_000;

/// A block that a node did not prove is fetched from it again after so long: it is large.
const PROVE_AGAIN_MS: u64 = 300_000;
/// Nodes are asked so often whether they deny all that was signed for a nonce that is used up.
const DENY_AGAIN_MS: u64 = 600_000;

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
            denial: Denial::Unasked,
            standing: Standing::Unknown,
            finalized: None,
            configured: self.nodes.count(),
            counted: Vec::new(),
            cost: Cost::Unknown,
        };
        if matches!(anchor.state, AnchorState::Included | AnchorState::Final) {
            view.standing = self.standing(anchor).await;
            view.answering = self.present.len();
            return view;
        }
        if anchor.state.is_outstanding() {
            view.found = match self.back(anchor).await {
                Some(found) => found,
                None => self.found(anchor, seen).await,
            };
            if let Some(newest) = anchor.attempts.last().map(|attempt| attempt.hash) {
                let known = self.each(move |rpc| async move { rpc.knows(newest).await }).await;
                view.known_by = known.iter().filter(|(_, knows)| *knows).count();
            }
        }
        if anchor.state == AnchorState::Queued {
            view.found = self.found_again(anchor, seen).await;
            view.cost = self.cost(anchor).await;
        }
        if let Some((market, counted)) = self.market(anchor).await {
            (view.market, view.counted) = (Ok(market), counted);
        } else {
            view.market = Err(self.nodes.silence());
        }
        note(anchor, &view, seen);
        view.denial = self.denial(anchor, &view.found, seen).await;
        count(&view.denial, seen);
        view.finalized = self.finalized();
        view.answering = self.present.len();
        view
    }

    async fn each<T, F>(&mut self, ask: impl Fn(Rpc) -> F) -> Vec<(Present, T)>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        self.nodes.each(self.present, self.clock, ask).await
    }

    /// For all of them.
    fn finalized(&self) -> Option<u64> {
        // One that has nothing final is less than all.
        self.present.iter().map(final_height).min().flatten()
    }

    /// The least nonce that a node says: one that is too low is found out, one that is too high would block all that
    /// follows.
    async fn market(&mut self, anchor: &Anchor) -> Option<(Market, Vec<(String, u64)>)> {
        let account = anchor.account;
        let said = self
            .each(move |rpc| async move {
                let (nonce, pending, balance) =
                    futures_util::try_join!(rpc.nonce(account), rpc.pending_nonce(account), rpc.balance(account))?;
                // Not every node proposes one.
                Ok((nonce, pending, balance, rpc.tip().await.ok()))
            })
            .await;
        self.nodes.ask_chain(self.present, self.clock).await;
        let is_here = |node: &Present| self.present.iter().any(|here| here.is(node));
        let said: Vec<_> = said.into_iter().filter(|(node, _)| is_here(node)).collect();
        let (highest, (_, _, balance, _)) = said.iter().max_by_key(|(node, _)| node.head.height)?;
        let counted = said.iter().filter(|(node, _)| !node.lags);
        let counted: Vec<_> = counted.map(|(node, said)| (node.rpc.name().to_owned(), said.0)).collect();
        let market = Market {
            height: highest.head.height,
            base_fee: highest.head.base_fee,
            tip: said.iter().filter_map(|(_, said)| said.3).min().unwrap_or(TIP),
            nonce: counted.iter().map(|(_, nonce)| *nonce).min()?,
            pending: said.iter().map(|(_, said)| said.1).max()?,
            balance: *balance,
        };
        Some((market, counted))
    }

    /// Whether every node that is configured denies all that could still be mined under a nonce that is used up. It
    /// counts only from those that would know of it.
    async fn denial(&mut self, anchor: &Anchor, found: &Found, seen: &mut Seen) -> Denial {
        let of_chain = anchor.given_up.iter().filter(|given_up| given_up.chain_id == anchor.chain_id);
        let attempts: Vec<&Attempt> = match (anchor.state, &mut seen.overtaken) {
            (AnchorState::Queued, _) => of_chain.flat_map(|given_up| &given_up.attempts).collect(),
            (_, Some(overtaken)) => {
                let is_due = |asked: u64| seen.now_ms.saturating_sub(asked) >= DENY_AGAIN_MS;
                if !overtaken.asked_ms.is_none_or(is_due) {
                    return Denial::Unasked;
                }
                overtaken.asked_ms = Some(seen.now_ms);
                anchor.attempts.iter().collect()
            }
            (_, None) => return Denial::Unasked,
        };
        let Some(height) = attempts.iter().map(|attempt| attempt.height).min() else { return Denial::Unasked };
        if *found != Found::Nowhere {
            return Denial::Unasked;
        }
        for hash in attempts.into_iter().map(|attempt| attempt.hash) {
            let known = self.each(move |rpc| async move { rpc.knows(hash).await }).await;
            if let Some((node, _)) = known.iter().find(|(_, knows)| *knows) {
                return Denial::Known(format!("{} knows {hash}", node.rpc.name()));
            }
        }
        let finds = self.each(move |rpc| async move { rpc.finds_from(height).await }).await;
        if let Some((node, _)) = finds.iter().find(|(_, finds)| !finds) {
            return Denial::Partial(format!(
                "{} finds no transactions of as long ago as height {height}: put one that does in its place in rpc",
                node.rpc.name()
            ));
        }
        self.nodes.ask_chain(self.present, self.clock).await;
        match self.nodes.absent(self.present) {
            Some(absent) => {
                Denial::Partial(format!("{absent} does not answer, or lags: mend it, or take it out of rpc"))
            }
            None => Denial::Whole,
        }
    }

    /// What the call would take, by the first node that says so; a contract must be there before it is called.
    async fn cost(&mut self, anchor: &Anchor) -> Cost {
        if let Some(contract) = anchor.contract {
            let code = self.each(move |rpc| async move { rpc.code(contract).await }).await;
            if code.is_empty() {
                return Cost::Unknown;
            }
            // Some contracts take any call for their own and succeed: that would be paid for nothing.
            if !code.iter().any(|(_, code)| code == evm::DEPLOYED_CODE) {
                let is_empty = code.iter().all(|(_, code)| code.is_empty());
                let what =
                    if is_empty { "there is no contract" } else { "there is another contract than EvidenceAnchor" };
                let text = format!(
                    "{what} at {contract} on chain {}: correct contract, deploy one with `meterseal anchor deploy`, or \
                     leave it out",
                    anchor.chain_id
                );
                return Cost::Refused(text);
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
        // One node that is on a fork does not undo what was final: there it must be final as well.
        let is_final = anchor.state == AnchorState::Final;
        match if is_final { canonical.of_final } else { canonical.finding } {
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

    /// One that was reorganised, and whose block is the chain's again, is there as it was proven then.
    async fn back(&mut self, anchor: &Anchor) -> Option<Found> {
        let inclusion = anchor.inclusion.clone().filter(|_| anchor.state == AnchorState::Reorganised)?;
        let is_back = matches!(self.standing(anchor).await, Standing::There | Standing::Final);
        is_back.then_some(Found::Mined { inclusion, evidence: None })
    }

    /// Looks for what was given up.
    async fn found_again(&mut self, anchor: &Anchor, seen: &mut Seen) -> Found {
        let mut found = Found::Nowhere;
        for given_up in anchor.given_up.iter().filter(|given_up| given_up.chain_id == anchor.chain_id) {
            match self.found(&given_up.of(anchor), seen).await {
                Found::Nowhere => {}
                mined @ Found::Mined { .. } => return mined,
                other => found = other,
            }
        }
        found
    }

    /// Looks for a receipt of any attempt at every node, and believes one when its block proves it.
    async fn found(&mut self, anchor: &Anchor, seen: &mut Seen) -> Found {
        let now_ms = seen.now_ms;
        seen.unproven.retain(|unproven| now_ms.saturating_sub(unproven.since_ms) < PROVE_AGAIN_MS);
        let mut unproven = None;
        for attempt in anchor.attempts.iter().rev() {
            let hash = attempt.hash;
            let receipts = self.each(move |rpc| async move { rpc.receipt(hash).await }).await;
            for (node, receipt) in receipts.into_iter().filter_map(|(node, receipt)| Some((node, receipt?))) {
                let (rpc, block) = (node.rpc.name().to_owned(), receipt.hash);
                let known = seen.unproven.iter().find(|unproven| (&unproven.rpc, unproven.block) == (&rpc, block));
                let why = match known {
                    Some(known) => known.why.clone(),
                    None => match self.proven(anchor, attempt, &node, &receipt).await {
                        Ok(found) => return found,
                        Err(Unproven::NotNow(why)) => why,
                        Err(Unproven::Wrong(why)) => {
                            self.nodes.blame(&node, format!("it does not prove its receipt of {hash}: {why}"));
                            seen.unproven.push(UnprovenBlock { rpc, block, since_ms: now_ms, why: why.clone() });
                            why
                        }
                    },
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
        if others.iter().all(|(_, said)| *said != Some(hash)) {
            return Err(Unproven::NotNow(format!("no node says which block is at height {height}")));
        }
        let for_nothing = || {
            let fee = receipt.price.saturating_mul(receipt.gas_used.into());
            let failed = Failed { transaction: attempt.hash, height, at: self.clock.now(), fee };
            let is_final = final_height(node).is_some_and(|up_to| height <= up_to);
            Found::Reverted { failed, is_final }
        };
        if !receipt.status {
            return Ok(for_nothing());
        }
        let time = match &anchor.what {
            Anchored::Contract => {
                let made = anchor.account.create(attempt.nonce);
                if receipt.contract != Some(made) {
                    return Err(wrong(format!("it made {:?} and not {made}", receipt.contract)));
                }
                evm::Header::read(&evidence.header).map_err(|unproven| wrong(unproven.to_string()))?.time
            }
            Anchored::Checkpoint { .. } => match shown(anchor, attempt, receipt, &evidence) {
                Ok(time) => time,
                // The block holds this very transaction, and whoever is shown it sees no anchor.
                Err(why) => {
                    tracing::warn!(transaction = %attempt.hash, height, "it was mined and shows no anchor: {why}");
                    return Ok(for_nothing());
                }
            },
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
    let first = Overtaken { since_ms: seen.now_ms, height: market.height, ..Overtaken::default() };
    seen.overtaken.get_or_insert(first);
}

/// Only looks at which all deny count; as soon as one knows an attempt, it begins anew.
fn count(denial: &Denial, seen: &mut Seen) {
    let Some(overtaken) = &mut seen.overtaken else { return };
    match denial {
        Denial::Unasked => {}
        Denial::Whole => {
            overtaken.denied_ms.get_or_insert(seen.now_ms);
            (overtaken.looks, overtaken.why) = (overtaken.looks.saturating_add(1), None);
        }
        Denial::Known(why) => (overtaken.denied_ms, overtaken.looks, overtaken.why) = (None, 0, Some(why.clone())),
        Denial::Partial(why) => overtaken.why = Some(why.clone()),
    }
}

fn final_height(node: &Present) -> Option<u64> {
    rpc::final_height(node.finalized, node.head.height)
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
