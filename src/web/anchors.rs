//! `/api/anchor…`: what of the log stands on a public chain. To anchor now is asked of `agent`; the rest is read from
//! the store.

use alloy_primitives::{Address, B256};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use super::Web;
use super::ask::ask_at_once;
use super::guard::Admin;
use super::problem::Problem;
use super::query::{Asked, Named, Nothing, before, count};
use super::wire::{At, Json};
use crate::model::note::SignedCheckpoint;
use crate::model::{
    Anchor, AnchorOrder, AnchorRefused, AnchorState, AnchorStatus, Anchored, Attempt, ChainEvidence, Coverage, Digest,
    Failed, Inclusion, MeterId, RpcStatus, WaitReason, Waiting,
};
use crate::store::{Reach, StoreError};

/// Somebody waits for the newest checkpoint to be anchored: for the record of it, not for the chain.
pub struct AnchorNow {
    pub order: AnchorOrder,
    pub reply: oneshot::Sender<Result<Result<Anchor, AnchorRefused>, StoreError>>,
}

/// Anchors in one answer, unless told.
const ANCHORS: usize = 20;
/// When whoever found the queue full may ask again.
const AGAIN_S: u32 = 10;

/// What covers something, in brief.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Covered)]
pub struct Covered {
    id: u64,
    chain_id: u64,
    /// Its name, where it is known.
    chain: Option<&'static str>,
    state: AnchorState,
    #[schema(value_type = Option<String>, pattern = "^0x[0-9a-f]{64}$")]
    transaction: Option<B256>,
    explorer: Option<String>,
}

impl From<&Coverage> for Covered {
    fn from(anchor: &Coverage) -> Self {
        let Coverage { id, chain_id, state, transaction, .. } = *anchor;
        Self { id, chain_id, chain: chain_name(chain_id), state, transaction, explorer: seen_at(chain_id, transaction) }
    }
}

/// How anchoring does, and the newest anchors.
#[derive(Serialize, ToSchema)]
struct Anchors {
    configured: bool,
    /// Why nothing is anchored though the config says so.
    off: Option<String>,
    chain_id: Option<u64>,
    chain: Option<&'static str>,
    account: Option<String>,
    contract: Option<String>,
    /// In the native coin.
    balance: Option<String>,
    balance_at: Option<At>,
    days_left: Option<u64>,
    /// When the next checkpoint is due.
    next: Option<At>,
    rpcs: Vec<RpcView>,
    waiting: Option<WaitingView>,
    explorer: Option<String>,
    log: Option<LogView>,
    /// What is final on the chain.
    covered: Option<CoveredView>,
    anchors: Vec<AnchorView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AnchorRpc)]
struct RpcView {
    name: String,
    height: Option<u64>,
    finalized: Option<u64>,
    answered: Option<At>,
    trouble: Option<String>,
}

/// The newest checkpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = AnchorLog)]
struct LogView {
    epoch: String,
    origin: String,
    size: u64,
    root: Digest,
    /// When its last entry was made.
    until: Option<At>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AnchorReach)]
struct CoveredView {
    epoch: String,
    size: u64,
    /// When the last entry that is covered was made.
    until: Option<At>,
    /// The block that was sealed last of those that are covered.
    block: Option<BlockName>,
    /// The name of the anchor's chain, where it is known.
    chain: Option<&'static str>,
    anchor: Covered,
}

#[derive(Serialize, ToSchema)]
struct BlockName {
    meter: MeterId,
    start: At,
    end: At,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Anchor)]
struct AnchorView {
    id: u64,
    kind: AnchorKind,
    state: AnchorState,
    since: At,
    queued_at: At,
    chain_id: u64,
    account: String,
    contract: Option<String>,
    epoch: Option<String>,
    origin: Option<String>,
    size: Option<u64>,
    root: Option<Digest>,
    nonce: Option<u64>,
    #[schema(value_type = Option<String>, pattern = "^0x[0-9a-f]{64}$")]
    transaction: Option<B256>,
    transactions: Vec<TransactionView>,
    failed: Vec<FailedView>,
    /// The height that holds it.
    block: Option<HeightView>,
    /// The height that held it before a reorganisation.
    was_in: Option<HeightView>,
    gas: Option<u64>,
    fee: Option<String>,
    waiting: Option<WaitingView>,
    explorer: Option<String>,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AnchorKind {
    Checkpoint,
    /// The making of one.
    Contract,
}

/// With what shows it.
#[derive(Serialize, ToSchema)]
struct OneAnchor {
    #[serde(flatten)]
    anchor: AnchorView,
    evidence: Option<ChainEvidence>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AnchorTransaction)]
struct TransactionView {
    #[schema(value_type = String, pattern = "^0x[0-9a-f]{64}$")]
    hash: B256,
    max_fee_gwei: String,
    tip_gwei: String,
    signed_at: At,
    sent_at: Option<At>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AnchorFailed)]
struct FailedView {
    #[schema(value_type = String, pattern = "^0x[0-9a-f]{64}$")]
    transaction: B256,
    height: u64,
    at: At,
    fee: String,
    explorer: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChainBlock)]
struct HeightView {
    height: u64,
    #[schema(value_type = String, pattern = "^0x[0-9a-f]{64}$")]
    hash: B256,
    time: At,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AnchorWaiting)]
struct WaitingView {
    reason: WaitReason,
    text: String,
    since: At,
}

impl From<Anchor> for AnchorView {
    fn from(anchor: Anchor) -> Self {
        let (transaction, nonce) = (anchor.transaction(), anchor.attempts.last().map(|attempt| attempt.nonce));
        let contract = anchor.contract.or_else(|| anchor.made_contract());
        let is_in = matches!(anchor.state, AnchorState::Included | AnchorState::Final);
        let paid = anchor.inclusion.as_ref().filter(|_| is_in);
        let (gas, fee) = (paid.map(|paid| paid.gas_used), paid.map(|paid| fee(paid.gas_used, paid.price)));
        let (block, was_in) = match anchor.inclusion.as_ref().map(HeightView::from) {
            height if is_in => (height, None),
            height => (None, height),
        };
        let (kind, epoch, size, note) = match anchor.what {
            Anchored::Checkpoint { epoch, size, note } => (AnchorKind::Checkpoint, Some(epoch), Some(size), Some(note)),
            Anchored::Contract => (AnchorKind::Contract, None, None, None),
        };
        let head = note.and_then(|note| note.parse::<SignedCheckpoint>().ok()).map(|note| note.checkpoint);
        let chain = anchor.chain_id;
        let failed = |failed: Failed| FailedView {
            transaction: failed.transaction,
            height: failed.height,
            at: At(failed.at),
            fee: decimal(failed.fee, COIN_DECIMALS),
            explorer: seen_at(chain, Some(failed.transaction)),
        };
        Self {
            id: anchor.id,
            kind,
            state: anchor.state,
            since: At(anchor.since),
            queued_at: At(anchor.queued),
            chain_id: chain,
            account: anchor.account.to_string(),
            contract: contract.as_ref().map(Address::to_string),
            epoch,
            origin: head.as_ref().map(|head| head.origin.clone()),
            size,
            root: head.map(|head| head.root),
            nonce,
            transaction,
            transactions: anchor.attempts.iter().map(Into::into).collect(),
            failed: anchor.failed.into_iter().map(failed).collect(),
            block,
            was_in,
            gas,
            fee,
            waiting: anchor.waiting.map(Into::into),
            explorer: seen_at(chain, transaction),
        }
    }
}

impl From<&Attempt> for TransactionView {
    fn from(attempt: &Attempt) -> Self {
        Self {
            hash: attempt.hash,
            max_fee_gwei: decimal(attempt.max_fee, GWEI_DECIMALS),
            tip_gwei: decimal(attempt.tip, GWEI_DECIMALS),
            signed_at: At(attempt.signed),
            sent_at: attempt.sent.map(At),
        }
    }
}

impl From<&Inclusion> for HeightView {
    fn from(inclusion: &Inclusion) -> Self {
        Self { height: inclusion.height, hash: inclusion.hash, time: At(inclusion.time) }
    }
}

impl From<Waiting> for WaitingView {
    fn from(waiting: Waiting) -> Self {
        Self { reason: waiting.reason, text: waiting.text, since: At(waiting.since) }
    }
}

impl From<RpcStatus> for RpcView {
    fn from(rpc: RpcStatus) -> Self {
        Self {
            name: rpc.name,
            height: rpc.height,
            finalized: rpc.finalized,
            answered: rpc.answered.map(At),
            trouble: rpc.trouble,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAsked {
    /// Only anchors before this id.
    #[param(value_type = Option<u64>)]
    before: Option<String>,
    #[param(value_type = Option<u16>, maximum = 200, default = 20)]
    limit: Option<String>,
}

/// How far the log stands on a public chain, and the newest anchors
#[utoipa::path(
    get,
    path = "/api/anchor",
    params(ListAsked),
    responses((status = 200, description = "The anchors, the newest first", body = Anchors))
)]
pub async fn list(State(web): State<Web>, Asked(asked): Asked<ListAsked>) -> Result<Response, Problem> {
    let limit = count("limit", asked.limit.as_deref(), 0..=200)?.unwrap_or(ANCHORS);
    let before = before(asked.before.as_deref(), "an anchor")?;
    let anchors = web.views.reader.anchors(before, limit).await?;
    let status = web.views.anchor.borrow().clone();
    let is_configured = status.is_configured();
    let AnchorStatus { chain_id, off, account, contract, balance, days_left, next, rpcs, waiting } = status;
    let view = Anchors {
        configured: is_configured || off.is_some(),
        off,
        chain_id: is_configured.then_some(chain_id),
        chain: chain_name(chain_id),
        account: account.as_ref().map(Address::to_string),
        contract: contract.as_ref().map(Address::to_string),
        balance: balance.map(|(wei, _)| decimal(wei, COIN_DECIMALS)),
        balance_at: balance.map(|(_, at)| At(at)),
        days_left,
        next: next.map(At),
        rpcs: rpcs.into_iter().map(Into::into).collect(),
        waiting: waiting.map(Into::into),
        explorer: account.and_then(|account| explorer(chain_id, &format!("address/{account}"))),
        log: log(&web).await?,
        covered: covered(&web).await?,
        anchors: anchors.into_iter().map(Into::into).collect(),
    };
    Ok(Json(view).into_response())
}

/// One anchor, with the evidence that shows it
#[utoipa::path(
    get,
    path = "/api/anchor/{id}",
    params(("id" = u64, Path, description = "The anchor's id")),
    responses(
        (status = 200, description = "The anchor", body = OneAnchor),
        (status = 404, description = "There is no such anchor")
    )
)]
pub async fn one(
    State(web): State<Web>,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let absent = || Problem::NoAnchor(id.chars().take(40).collect());
    let number = id.parse().map_err(|_| absent())?;
    let anchor = web.views.reader.anchor(number).await?.ok_or_else(absent)?;
    let evidence = web.views.reader.anchor_evidence(number).await?;
    Ok(Json(OneAnchor { anchor: anchor.into(), evidence }).into_response())
}

/// Has the newest checkpoint anchored now
///
/// It spends money, little by little: what becomes of it is in the anchor's `state`.
#[utoipa::path(
    post,
    path = "/api/anchor",
    responses(
        (status = 202, description = "It is queued", body = AnchorView,
            headers(("Location" = String, description = "Of the anchor"))),
        (status = 409, description = "There is nothing to anchor: not configured, off, or nothing was logged since")
    ),
    security(("token" = ["admin"]))
)]
pub async fn order(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let full = Problem::AnchorQueue { again: AGAIN_S };
    let order = AnchorOrder { by: by.name };
    let anchor = ask_at_once(&web.views.anchors, full, |reply| AnchorNow { order, reply }).await???;
    let location = format!("/api/anchor/{}", anchor.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(AnchorView::from(anchor))).into_response())
}

/// The newest checkpoint that may be shown.
async fn log(web: &Web) -> Result<Option<LogView>, Problem> {
    let Some(marked) = web.views.checkpoint.borrow().clone() else { return Ok(None) };
    let head = &marked.checkpoint;
    let epoch = head.origin.rsplit('/').next().unwrap_or_default().to_owned();
    let until = web.views.reader.last_entry_time(&epoch, head.size).await?;
    Ok(Some(LogView { epoch, origin: head.origin.clone(), size: head.size, root: head.root, until: until.map(At) }))
}

/// The newest of what is final, in the newest epoch that has any.
async fn covered(web: &Web) -> Result<Option<CoveredView>, Problem> {
    Ok(newest_final(web).await?.map(|(epoch, anchor, reach)| CoveredView {
        epoch,
        size: anchor.size,
        until: reach.as_ref().map(|reach| At(reach.time)),
        block: reach.and_then(|reach| reach.block).map(|(meter, span)| BlockName {
            meter,
            start: At(span.start()),
            end: At(span.end()),
        }),
        chain: chain_name(anchor.chain_id),
        anchor: Covered::from(&anchor),
    }))
}

/// The largest checkpoint that is final, of the newest epoch that has one, and how far it reaches.
pub async fn newest_final(web: &Web) -> Result<Option<(String, Coverage, Option<Reach>)>, StoreError> {
    let (reader, chain) = (&web.views.reader, web.chain());
    for epoch in reader.epochs().await?.into_iter().rev() {
        let epoch = epoch.identity.epoch;
        if let Some(anchor) = reader.newest_final(&epoch, chain).await? {
            let reach = reader.reach(&epoch, anchor.size).await?;
            return Ok(Some((epoch, anchor, reach)));
        }
    }
    Ok(None)
}

const COIN_DECIMALS: usize = 18;
const GWEI_DECIMALS: usize = 9;

/// `units / 10^decimals`, exactly, without needless zeros.
pub fn decimal(units: u128, decimals: usize) -> String {
    let digits = format!("{units:0>width$}", width = decimals + 1);
    let (whole, part) = digits.split_at(digits.len() - decimals);
    match part.trim_end_matches('0') {
        "" => whole.to_owned(),
        part => format!("{whole}.{part}"),
    }
}

/// The native coin of an amount in wei.
pub fn coins(wei: u128) -> String {
    decimal(wei, COIN_DECIMALS)
}

fn fee(gas: u64, price: u128) -> String {
    coins(u128::from(gas).saturating_mul(price))
}

/// The name of a chain, and where a person looks things up on it.
fn chain(id: u64) -> Option<(&'static str, &'static str)> {
    match id {
        137 => Some(("Polygon", "https://polygonscan.com")),
        80_002 => Some(("Polygon Amoy", "https://amoy.polygonscan.com")),
        _ => None,
    }
}

fn chain_name(id: u64) -> Option<&'static str> {
    chain(id).map(|(name, _)| name)
}

/// Where a person looks at a transaction.
fn seen_at(chain_id: u64, transaction: Option<B256>) -> Option<String> {
    explorer(chain_id, &format!("tx/{}", transaction?))
}

fn explorer(chain_id: u64, what: &str) -> Option<String> {
    chain(chain_id).map(|(_, site)| format!("{site}/{what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_amount_has_no_more_digits_than_it_needs() {
        assert_eq!(coins(0), "0");
        assert_eq!(coins(1), "0.000000000000000001");
        assert_eq!(coins(1_500_000_000_000_000_000), "1.5");
        assert_eq!(coins(20_000_000_000_000_000_000), "20");
        assert_eq!(decimal(30_000_000_001, GWEI_DECIMALS), "30.000000001");
        assert_eq!(fee(29_000, 31_000_000_000), "0.000899");
        assert_eq!(fee(u64::MAX, u128::MAX), coins(u128::MAX), "no chain has as much");
    }

    proptest! {
        #[test]
        fn an_amount_reads_back(wei: u128) {
            let text = coins(wei);
            let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
            prop_assert_eq!(format!("{whole}{part:0<18}").parse::<u128>().unwrap(), wei);
            prop_assert!(!text.contains('.') || !text.ends_with('0'));
        }
    }
}
