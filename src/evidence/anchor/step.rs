//! What an anchor's next step is. Pure: what the nodes said, what may be spent and the time are arguments, and exactly
//! one step comes out. Whoever takes it saves it first.

use std::time::Duration;

use alloy_primitives::B256;

use super::fees::{self, Coin, Gwei, Limits, Market, Price, TooDear};
use crate::model::{Anchor, AnchorState, Anchored, Attempt, ChainEvidence, Failed, Inclusion, Timestamp, WaitReason};

/// What the nodes said, as far as it bears on one anchor. What no node said is unknown, and decides nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Else why nobody of the anchor's chain answers.
    pub market: Result<Market, Trouble>,
    /// Nodes of that chain that answered.
    pub answering: usize,
    /// Of those, they know the newest attempt.
    pub known_by: usize,
    pub found: Found,
    pub denial: Denial,
    pub standing: Standing,
    /// The height up to which all is final, for every one of them.
    pub finalized: Option<u64>,
    /// Nodes that are to be asked, whether they answer or not.
    pub configured: usize,
    /// How many transactions of the account are mined, by each node that does not lag.
    pub counted: Vec<(String, u64)>,
    /// Asked where something is to be signed for the first time.
    pub cost: Cost,
}

impl View {
    /// Nobody was asked.
    pub fn unasked() -> Self {
        let text = "no rpc was asked".to_owned();
        Self {
            market: Err(Trouble { reason: WaitReason::Unreachable, text }),
            answering: 0,
            known_by: 0,
            found: Found::Nowhere,
            denial: Denial::Unasked,
            standing: Standing::Unknown,
            finalized: None,
            configured: 0,
            counted: Vec::new(),
            cost: Cost::Unknown,
        }
    }
}

/// What holds something up, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub reason: WaitReason,
    pub text: String,
}

/// Where the attempts are.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// No node has a receipt of any, which is no proof that there is none.
    Nowhere,
    /// A node has a receipt, and does not prove it.
    Unproven(String),
    /// Proven, and contradicted by nobody.
    Mined {
        inclusion: Inclusion,
        evidence: Option<ChainEvidence>,
    },
    /// Mined for nothing, as it reverted or did not anchor; only what is final counts as gone.
    Reverted {
        failed: Failed,
        is_final: bool,
    },
    Contradiction(String),
}

/// Whether the nodes deny all that was signed for a nonce that is used up. That they have no receipt is not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    Unasked,
    /// One knows an attempt: which, for a person.
    Known(String),
    /// Not all of them deny it, or not all would know of it: why, and the remedy.
    Partial(String),
    /// All that are configured answered, would know of any attempt, and know none.
    Whole,
}

/// Whether the block that holds it is the chain's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Unknown,
    /// It is, and not final yet.
    There,
    Final,
    /// There is another one at its height.
    Gone,
    Contradiction(String),
}

/// What the call takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    Unknown,
    Gas(u64),
    /// It would fail, or there is nothing at the contract's address.
    Refused(String),
    /// The nodes do not say, for a reason of their own.
    Withheld(String),
}

/// What this process has seen of an anchor; all of it is lost at a restart, and found again. Monotonic time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub now_ms: u64,
    /// When the newest attempt was signed or first seen, and at which height.
    pub since: Option<(u64, u64)>,
    pub sent_ms: Option<u64>,
    /// What the nodes answered when the newest attempt was sent to them, if none took it.
    pub refused: Option<String>,
    /// Why it came to no node when it was sent, if none answered.
    pub unsent: Option<String>,
    /// Its nonce is used up while nobody has a receipt.
    pub overtaken: Option<Overtaken>,
    /// What nodes did not prove, for a while.
    pub unproven: Vec<UnprovenBlock>,
}

/// A block that a node did not prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnprovenBlock {
    pub rpc: String,
    pub block: B256,
    pub since_ms: u64,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overtaken {
    pub since_ms: u64,
    pub height: u64,
    /// When the nodes were last asked whether they deny the attempts.
    pub asked_ms: Option<u64>,
    /// Since when none knew any, and at how many looks all denied them since.
    pub denied_ms: Option<u64>,
    pub looks: u32,
    /// Why the last look did not count.
    pub why: Option<String>,
}

/// What bounds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    pub limits: Limits,
    /// After a failure nothing is tried before this.
    pub every: Duration,
    /// One above the highest nonce that was ever signed for this account.
    pub next_nonce: u64,
    /// The key of its account is here, and the nodes are of its chain.
    pub can_sign: bool,
    /// Another transaction of the account is on its way.
    pub is_taken: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Sign for the first time, or a dearer one in the place of the last.
    Sign {
        nonce: u64,
        price: Price,
        gas_limit: u64,
        /// The newest one.
        height: u64,
    },
    /// Give the newest attempt, or after a reorganisation all, to the nodes.
    Send,
    Include {
        inclusion: Inclusion,
        evidence: Option<ChainEvidence>,
    },
    Finalise {
        next_check: Option<Timestamp>,
    },
    /// It is still there; it is looked at again then.
    Check {
        next_check: Option<Timestamp>,
    },
    Reorganise,
    /// It was mined for nothing. It is tried anew with another nonce.
    Fail(Failed),
    /// Somebody else used its nonce, so that none of its attempts can ever be mined. It is tried anew with another, and
    /// the attempts stay known.
    GiveUpNonce,
    /// Nothing can be done until something changes.
    Wait(Trouble),
    /// All is well; look again.
    Rest,
}

/// After it is final it is looked at again so long after; then it is left.
const CHECKS: [Duration; 8] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3_600),
    Duration::from_secs(12 * 3_600),
    Duration::from_secs(86_400),
    Duration::from_secs(4 * 86_400),
    Duration::from_secs(16 * 86_400),
];

const LONGEST: Duration = CHECKS[CHECKS.len() - 1];

/// An attempt that is not mined after so long, and so many heights, gives way to a dearer one.
const STUCK_MS: u64 = 180_000;
const STUCK_HEIGHTS: u64 = 5;
/// The pause before a transaction that holds up the nonce is outbid once more.
const OUTBID_MS: u64 = 10_000;
/// Sent again to nodes that do not know it: to all of them, when none does; and to the rest.
const SEND_AGAIN_MS: u64 = 15_000;
const SPREAD_AGAIN_MS: u64 = 60_000;
/// A nonce that is used up while nobody has a receipt: nodes may be late with their receipts for hours. It would be
/// anchored twice if this was too short; that it is long costs nothing but time.
const OVERTAKEN_MS: u64 = 12 * 3_600_000;
const OVERTAKEN_LOOKS: u32 = 36;
/// After this it is told, though not yet certain.
const OVERTAKEN_TOLD_MS: u64 = 30_000;
/// What an estimate is raised by, since it holds for the moment: a quarter.
const SPARE_GAS: u64 = 4;
/// No anchor takes as much, and no contract.
const MOST_GAS: u64 = 100_000;
const MOST_GAS_TO_MAKE: u64 = 2_000_000;

pub fn step(anchor: &Anchor, view: &View, seen: &Seen, terms: &Terms, now: Timestamp) -> Step {
    match (anchor.state, anchor.attempts.last()) {
        (AnchorState::Included, _) => included(view, now),
        (AnchorState::Final, _) => settled(anchor, view, now),
        // One that has no attempts is not signed, whatever it says.
        (AnchorState::Queued, _) | (_, None) => queued(anchor, view, terms, now),
        (_, Some(newest)) => outstanding(anchor, newest, view, seen, terms),
    }
}

fn queued(anchor: &Anchor, view: &View, terms: &Terms, now: Timestamp) -> Step {
    if let Some(step) = given_up(anchor, view) {
        return step;
    }
    if let Some(failed) = anchor.failed.last() {
        let again = failed.at.plus(terms.every);
        // Not where the clock went back behind the failure: it would wait for nobody knows how long.
        if (failed.at..again).contains(&now) {
            let text = format!(
                "transaction {} was mined at height {} for nothing, which cost {}; it is tried again at {again}. See that \
                 contract is the address of an EvidenceAnchor",
                failed.transaction,
                failed.height,
                Coin { wei: failed.fee, chain_id: anchor.chain_id }
            );
            return wait(WaitReason::Reverted, text);
        }
    }
    if terms.is_taken {
        return Step::Rest;
    }
    let market = match &view.market {
        Ok(market) => market,
        Err(trouble) => return Step::Wait(trouble.clone()),
    };
    let most = if anchor.what == Anchored::Contract { MOST_GAS_TO_MAKE } else { MOST_GAS };
    let gas_limit = match &view.cost {
        Cost::Gas(gas) => gas.saturating_add(gas / SPARE_GAS),
        Cost::Unknown => {
            return wait(WaitReason::Unreachable, "no node says how much gas the transaction takes".to_owned());
        }
        Cost::Refused(why) => return wait(WaitReason::Contract, why.clone()),
        Cost::Withheld(why) => return wait(WaitReason::Refused, why.clone()),
    };
    if gas_limit > most {
        let text = format!(
            "the contract would take {gas_limit} gas, and no anchor may take more than {most}: see that contract is the \
             address of an EvidenceAnchor"
        );
        return wait(WaitReason::Contract, text);
    }
    match (fees::fresh(market, gas_limit, &terms.limits), uncertain_count(anchor, view, terms)) {
        (Ok(_), Some(trouble)) => Step::Wait(trouble),
        // What the chain counts above our own was used by somebody else, or by a store that was lost.
        (Ok(price), None) => {
            Step::Sign { nonce: terms.next_nonce.max(market.nonce), price, gas_limit, height: market.height }
        }
        (Err(too_dear), _) => Step::Wait(told(too_dear, anchor, gas_limit, market, terms)),
    }
}

/// What was given up may have been mined all the same: then nothing else is signed.
fn given_up(anchor: &Anchor, view: &View) -> Option<Step> {
    match &view.found {
        Found::Nowhere => {}
        Found::Mined { inclusion, evidence } => {
            return Some(Step::Include { inclusion: inclusion.clone(), evidence: evidence.clone() });
        }
        Found::Reverted { failed, is_final: true } => return Some(Step::Fail(failed.clone())),
        Found::Reverted { failed, is_final: false } => return Some(not_final_yet(failed)),
        Found::Contradiction(text) | Found::Unproven(text) => {
            return Some(wait(WaitReason::Disagreement, text.clone()));
        }
    }
    // Without a node that answers there are other words for it.
    view.market.as_ref().ok()?;
    let nonce = anchor.given_up.iter().rfind(|given_up| given_up.chain_id == anchor.chain_id)?.attempts.last()?.nonce;
    let why = match &view.denial {
        Denial::Whole => return None,
        Denial::Unasked => return Some(Step::Rest),
        Denial::Known(why) | Denial::Partial(why) => why,
    };
    let text = format!("what was signed with nonce {nonce} before is looked for once more, and {why}");
    Some(wait(WaitReason::Nonce, text))
}

/// A nonce too high would leave a gap that nothing fills: where the nodes count more than was ever signed here, they must
/// agree, and one of several is not enough.
fn uncertain_count(anchor: &Anchor, view: &View, terms: &Terms) -> Option<Trouble> {
    let (_, first) = view.counted.first()?;
    if view.counted.iter().all(|(_, count)| *count <= terms.next_nonce) {
        return None;
    }
    let agree = view.counted.iter().all(|(_, count)| count == first);
    if agree && (view.configured == 1 || view.counted.len() > 1) {
        return None;
    }
    let said = view.counted.iter().map(|(rpc, count)| format!("{rpc} counts {count}")).collect::<Vec<_>>().join(", ");
    let text = format!(
        "of the transactions of {} that are mined on chain {}, {said}, and {} are known here. Until two rpcs agree and \
         none says otherwise nothing is signed: mend those that are wrong or do not answer, or take them out of rpc",
        anchor.account, anchor.chain_id, terms.next_nonce
    );
    Some(Trouble { reason: if agree { WaitReason::Nonce } else { WaitReason::Disagreement }, text })
}

fn not_final_yet(failed: &Failed) -> Step {
    let (transaction, height) = (failed.transaction, failed.height);
    let text = format!("transaction {transaction} was mined for nothing at height {height}, which is not final yet");
    wait(WaitReason::Reverted, text)
}

fn outstanding(anchor: &Anchor, newest: &Attempt, view: &View, seen: &Seen, terms: &Terms) -> Step {
    match &view.found {
        Found::Nowhere | Found::Unproven(_) => {}
        Found::Mined { inclusion, evidence } => {
            return Step::Include { inclusion: inclusion.clone(), evidence: evidence.clone() };
        }
        // Until that is final the next attempt could land as well.
        Found::Reverted { failed, is_final: true } => return Step::Fail(failed.clone()),
        Found::Reverted { failed, is_final: false } => return not_final_yet(failed),
        Found::Contradiction(text) => return wait(WaitReason::Disagreement, text.clone()),
    }
    let market = match &view.market {
        Ok(market) => market,
        Err(trouble) => return Step::Wait(trouble.clone()),
    };
    let unproven = match &view.found {
        Found::Unproven(text) => Some(wait(WaitReason::Disagreement, text.clone())),
        _ => None,
    };
    if market.nonce > newest.nonce {
        // It may well be ours that is mined.
        return unproven.unwrap_or_else(|| overtaken(newest, view, seen));
    }
    let since_sent = seen.sent_ms.map(|sent| seen.now_ms.saturating_sub(sent));
    let is_to_be_sent = match since_sent {
        None => newest.sent.is_none() || view.known_by < view.answering,
        Some(ago) => {
            (view.known_by == 0 && ago >= SEND_AGAIN_MS) || (view.known_by < view.answering && ago >= SPREAD_AGAIN_MS)
        }
    };
    if is_to_be_sent {
        return Step::Send;
    }
    let (since_ms, since_height) = seen.since.unwrap_or((seen.now_ms, market.height));
    let waited = seen.now_ms.saturating_sub(since_ms);
    if market.nonce < newest.nonce {
        // Earlier ones of this account come first; a node that lags, or forgot them, is told again meanwhile.
        return if waited < STUCK_MS {
            Step::Rest
        } else {
            let text = format!(
                "the chain has mined {} transactions of {} and this is number {} from 0: a node lags behind, or \
                 transactions of before are not mined. If they never are, send others with the numbers from {} to {} \
                 from this account by hand",
                market.nonce,
                anchor.account,
                newest.nonce,
                market.nonce,
                newest.nonce.saturating_sub(1)
            );
            wait(WaitReason::Nonce, text)
        };
    }
    // Not by itself: a node that took it once may stand beside one that does not know it.
    let was_taken = newest.sent.is_some();
    let is_held_up = !was_taken && view.known_by == 0 && market.pending > newest.nonce && seen.refused.is_some();
    let is_minable = fees::is_minable(newest, market.base_fee, anchor.chain_id);
    let is_stuck = waited >= STUCK_MS && market.height >= since_height.saturating_add(STUCK_HEIGHTS);
    if (is_held_up && waited >= OUTBID_MS) || !is_minable || is_stuck {
        return match fees::dearer(newest, market, &terms.limits) {
            Ok(price) if terms.can_sign => {
                Step::Sign { nonce: newest.nonce, price, gas_limit: newest.gas_limit, height: market.height }
            }
            Ok(_) => {
                let text = format!(
                    "it is not mined at the present fees, and a dearer one cannot be signed: the key of {} is not the one \
                     that is configured",
                    anchor.account
                );
                wait(WaitReason::Refused, text)
            }
            // It is good as it is, and a dearer one is not to be had.
            Err(TooDear::Ceiling { .. }) if was_taken && is_minable => unproven.unwrap_or(Step::Rest),
            Err(TooDear::Ceiling { least }) => wait(WaitReason::FeeCeiling, replacement_text(least, market, terms)),
            Err(too_dear) => Step::Wait(told(too_dear, anchor, newest.gas_limit, market, terms)),
        };
    }
    match &seen.refused {
        Some(_) if is_held_up => wait(
            WaitReason::Nonce,
            format!("another transaction of {} waits with nonce {}: it is outbid", anchor.account, newest.nonce),
        ),
        Some(_) if newest.sent.is_none() && market.balance < fees::worst(newest) => {
            let (has, needs) = (market.balance, fees::worst(newest));
            wait(WaitReason::Funds, funds_text(anchor, has, needs))
        }
        Some(refused) if view.known_by == 0 => {
            wait(WaitReason::Refused, format!("no node takes the transaction: {refused}"))
        }
        _ => {
            let unsent = seen.unsent.as_ref().filter(|_| view.known_by == 0);
            let silence =
                |why: &String| wait(WaitReason::Unreachable, format!("no node could be given the transaction: {why}"));
            unproven.or_else(|| unsent.map(silence)).unwrap_or(Step::Rest)
        }
    }
}

/// The nonce is used up on the chain, and nobody has a receipt of ours. It is given up only when that use is final: or
/// else the chain could go back, and both this and the next transaction land.
fn overtaken(newest: &Attempt, view: &View, seen: &Seen) -> Step {
    let Some(overtaken) = &seen.overtaken else { return Step::Rest };
    let is_final = view.finalized.is_some_and(|finalized| finalized >= overtaken.height);
    let is_denied = view.denial == Denial::Whole && view.answering == view.configured && view.known_by == 0;
    let is_long = overtaken.denied_ms.is_some_and(|since| seen.now_ms.saturating_sub(since) >= OVERTAKEN_MS);
    if is_final && is_denied && is_long && overtaken.looks >= OVERTAKEN_LOOKS {
        return Step::GiveUpNonce;
    }
    if seen.now_ms.saturating_sub(overtaken.since_ms) < OVERTAKEN_TOLD_MS {
        return Step::Rest;
    }
    let but = overtaken.why.as_ref().map_or_else(String::new, |why| format!(". But {why}"));
    let text = format!(
        "nonce {} is used up on the chain, and no node has a receipt of ours: they are late, or somebody else signs with \
         this key. Another is taken when all in rpc have denied ours for {} h{but}",
        newest.nonce,
        OVERTAKEN_MS / 3_600_000
    );
    wait(WaitReason::Nonce, text)
}

fn included(view: &View, now: Timestamp) -> Step {
    match &view.standing {
        Standing::Final => Step::Finalise { next_check: next_check(now, now) },
        Standing::Gone => Step::Reorganise,
        Standing::Contradiction(text) => wait(WaitReason::Disagreement, text.clone()),
        Standing::There => Step::Rest,
        Standing::Unknown => match &view.market {
            Err(trouble) if view.answering == 0 => Step::Wait(trouble.clone()),
            _ => Step::Rest,
        },
    }
}

fn settled(anchor: &Anchor, view: &View, now: Timestamp) -> Step {
    if !is_to_be_checked(anchor, now) {
        return Step::Rest;
    }
    match &view.standing {
        Standing::Final | Standing::There => Step::Check { next_check: next_check(anchor.since, now) },
        Standing::Gone => Step::Reorganise,
        Standing::Contradiction(text) => wait(WaitReason::Disagreement, text.clone()),
        Standing::Unknown => Step::Rest,
    }
}

/// When a final one is looked at next; none: never again.
fn next_check(since: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let next = CHECKS.iter().map(|after| since.plus(*after)).find(|at| *at > now);
    // Where the clock was set back it must not look at once as if it had been again.
    next.map(|at| at.min(now.plus(LONGEST)))
}

/// Its time has come, or lies so far ahead that the clock must have been set back.
pub fn is_to_be_checked(anchor: &Anchor, now: Timestamp) -> bool {
    anchor.next_check.is_some_and(|at| at <= now || at > now.plus(LONGEST))
}

fn told(too_dear: TooDear, anchor: &Anchor, gas_limit: u64, market: &Market, terms: &Terms) -> Trouble {
    let Limits { chain_id, max_fee, budget } = terms.limits;
    let needs = |least: u128| least.saturating_mul(gas_limit.into());
    match too_dear {
        TooDear::Ceiling { least } => Trouble {
            reason: WaitReason::FeeCeiling,
            text: format!(
                "a unit of gas takes {} at present (base fee {}), and max_fee_gwei allows {}: wait until fees fall, or raise \
                 max_fee_gwei to at least {}",
                Gwei(least),
                Gwei(market.base_fee),
                Gwei(max_fee),
                fees::whole_gwei(least)
            ),
        },
        TooDear::Budget { least } => {
            let coin = |wei| Coin { wei, chain_id };
            let (needed, daily) = (coin(needs(least)), coin(budget.daily));
            let raised = |wei| fees::enough(wei, chain_id);
            let text = if needed.wei > daily.wei {
                // However long it waits, there will never be as much.
                format!(
                    "it takes up to {needed}, and the whole daily_budget is {daily}: raise daily_budget to at least {}",
                    raised(needed.wei)
                )
            } else {
                let until = budget.more.map_or_else(String::new, |more| format!("; more comes free at {more}"));
                let spent = budget.daily.saturating_sub(budget.left);
                format!(
                    "it takes up to {needed}, and {} of daily_budget ({daily}) are left{until}: wait, or raise daily_budget \
                     to at least {}",
                    coin(budget.left),
                    raised(spent.saturating_add(needed.wei))
                )
            };
            Trouble { reason: WaitReason::Budget, text }
        }
        TooDear::Funds { least } => {
            Trouble { reason: WaitReason::Funds, text: funds_text(anchor, market.balance, needs(least)) }
        }
    }
}

fn replacement_text(least: u128, market: &Market, terms: &Terms) -> String {
    format!(
        "what was sent pays too little, one in its place takes {} for a unit of gas (base fee {}), and max_fee_gwei \
         allows {}",
        Gwei(least),
        Gwei(market.base_fee),
        Gwei(terms.limits.max_fee)
    )
}

fn funds_text(anchor: &Anchor, has: u128, needs: u128) -> String {
    let coin = |wei| Coin { wei, chain_id: anchor.chain_id };
    format!("{} has {} on chain {} and needs {}: send it some", anchor.account, coin(has), anchor.chain_id, coin(needs))
}

fn wait(reason: WaitReason, text: String) -> Step {
    Step::Wait(Trouble { reason, text })
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
