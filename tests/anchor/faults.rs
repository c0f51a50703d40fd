//! What can go wrong with money, nonces and contracts, and that all goes on when it is mended.

use std::time::Duration;

use alloy_primitives::{Address, address};
use meterseal::evidence::anchor::{Wanted, fees};
use meterseal::evidence::evm::DEPLOYED_CODE;
use meterseal::model::{AlertKind, Anchor, AnchorState, WaitReason};
use serde_json::json;

use crate::harness::{ACCOUNT, Mining, Node, OTHERS, Proxy, Told};
use crate::house::{EVERY, House, config, written};

const HOUR: Duration = Duration::from_secs(3_600);
const GWEI: u128 = 1_000_000_000;

pub fn waits_for(reason: WaitReason) -> impl Fn(&Anchor) -> bool {
    move |anchor| anchor.waiting.as_ref().is_some_and(|waiting| waiting.reason == reason)
}

fn is_final(anchor: &Anchor) -> bool {
    anchor.state == AnchorState::Final
}

/// How often each payload was written.
fn counts(node: &Node) -> Vec<usize> {
    written(node).into_values().collect()
}

#[tokio::test]
async fn an_account_without_funds_is_told_and_goes_on_when_it_has_some() {
    let node = Node::start(137, Mining::Manual);
    node.set_balance(ACCOUNT, 1_000);
    let mut house = House::new(config(137, &[node.url()]));
    let waiting = house.until(Some(&node), waits_for(WaitReason::Funds)).await.waiting.unwrap();
    assert!(waiting.text.contains(&format!("{ACCOUNT} has 0 POL on chain 137")), "{}", waiting.text);
    let low = |alert: &&meterseal::model::Alert| alert.kind == AlertKind::AnchorFundsLow;
    assert_eq!(house.alerts().await.iter().filter(low).count(), 1);
    node.set_balance(ACCOUNT, GWEI * GWEI);
    house.until_final(&node).await;
    house.rounds(20).await;
    let alerts = house.alerts().await;
    assert!(alerts.iter().filter(low).all(|alert| alert.cleared.is_some()), "{alerts:?}");
    assert_eq!(counts(&node), [1]);
}

/// A backup knows of no nonce that was used after it.
#[tokio::test]
async fn a_restored_gateway_anchors_behind_what_it_sent_since_the_backup() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    let under_way = house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    let backup = house.backup().await;
    house.until_final(&node).await;
    house.grow().await;
    let forgotten = house.order(Wanted::Checkpoint).await.unwrap();
    let forgotten = house.until(Some(&node), |anchor| anchor.id == forgotten && is_final(anchor)).await;
    assert_eq!(forgotten.attempts[0].nonce, 1);

    house.restore(&backup).await;
    let known = house.anchors().await;
    assert_eq!(
        known.iter().map(|anchor| (anchor.id, anchor.state)).collect::<Vec<_>>(),
        [(under_way.id, AnchorState::Sent)]
    );
    house.until_final(&node).await;
    house.grow().await;
    let wanted = house.order(Wanted::Checkpoint).await.unwrap();
    house.until(Some(&node), |anchor| anchor.id == wanted && is_final(anchor)).await;
    let since: Vec<_> = house.anchors().await.into_iter().filter(|anchor| anchor.id > under_way.id).collect();
    assert!(
        !since.is_empty() && since.iter().all(|anchor| is_final(anchor) && anchor.attempts[0].nonce >= 2),
        "{since:#?}"
    );
    assert_eq!(counts(&node), vec![1; 2 + since.len()], "nothing is anchored twice");
    let taken = house.alerts().await.into_iter().filter(|alert| alert.kind == AlertKind::AnchorNonceTaken);
    let taken: Vec<_> = taken.map(|alert| alert.text).collect();
    assert!(taken.len() == 1 && taken[0].contains("with nonce 1") && taken[0].contains("was restored"), "{taken:?}");
}

#[tokio::test]
async fn a_fee_above_the_ceiling_is_waited_for() {
    let node = Node::start(80_002, Mining::Manual);
    let mut house = House::new(config(80_002, &[node.url()]));
    house.reconfigure(|config| config.max_fee = fees::gwei(45));
    node.set_base_fee(30 * GWEI);
    let waiting = house.until(Some(&node), waits_for(WaitReason::FeeCeiling)).await.waiting.unwrap();
    assert!(waiting.text.contains("max_fee_gwei allows 45 gwei"), "{}", waiting.text);
    node.set_base_fee(2 * GWEI);
    let anchor = house.until_final(&node).await;
    assert!(anchor.attempts.iter().all(|attempt| attempt.max_fee <= 45 * GWEI), "{anchor:?}");
}

#[tokio::test]
async fn a_base_fee_that_leaps_is_followed_by_the_same_nonce() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    node.set_base_fee(3 * GWEI);
    node.mine(1);
    let sent = house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    for _ in 0..5 {
        node.set_base_fee(60 * GWEI);
        node.mine(1);
        house.round().await;
    }
    let anchor = house.until_final(&node).await;
    assert!(anchor.attempts.len() > 1, "{anchor:?}");
    assert!(anchor.attempts.iter().all(|attempt| attempt.nonce == sent.attempts[0].nonce), "{anchor:?}");
    assert_eq!(anchor.attempts[0], sent.attempts[0], "what was sent stays known");
    assert_eq!(counts(&node), [1]);
}

#[tokio::test]
async fn the_budget_of_a_day_holds_and_comes_free() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    let first = house.until_final(&node).await;
    let inclusion = first.inclusion.clone().unwrap();
    let paid = inclusion.price * u128::from(inclusion.gas_used);
    house.reconfigure(|config| config.daily_budget = paid * 2);
    house.grow().await;
    house.order(Wanted::Checkpoint).await.unwrap();
    let waiting = house.until(Some(&node), waits_for(WaitReason::Budget)).await.waiting.unwrap();
    assert!(waiting.text.contains("more comes free at"), "{}", waiting.text);
    house.clock.advance(EVERY * 4);
    let second = house.until(Some(&node), is_final).await;
    assert!(second.id > first.id);
}

#[tokio::test]
async fn a_transaction_that_holds_up_the_nonce_is_outbid() {
    let node = Node::start(137, Mining::Manual);
    node.mine(1);
    let dear = format!("{:#x}", 90 * GWEI);
    let rival = json!({ "to": OTHERS[0], "value": "0x1", "maxFeePerGas": dear, "maxPriorityFeePerGas": dear });
    node.send_as(ACCOUNT, rival);
    let mut house = House::new(config(137, &[node.url()]));
    house.until(None, waits_for(WaitReason::Nonce)).await;
    let sent = house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    assert!(sent.attempts.len() > 2 && sent.attempts.iter().all(|attempt| attempt.nonce == 0), "{sent:?}");
    house.until_final(&node).await;
    assert_eq!(counts(&node), [1], "the other one never lands");
}

#[tokio::test]
async fn a_nonce_that_somebody_else_takes_is_told_and_another_is_taken() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    node.mine(1);
    let sent = house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    let dear = format!("{:#x}", 200 * GWEI);
    let rival = json!({ "to": OTHERS[0], "value": "0x1", "maxFeePerGas": dear, "maxPriorityFeePerGas": dear });
    node.drop_transaction(sent.attempts[0].hash);
    node.send_as(ACCOUNT, rival);
    house.pass(&node, HOUR * 11).await;
    let waiting = house.newest().await.unwrap();
    assert!(waits_for(WaitReason::Nonce)(&waiting), "{waiting:?}");
    assert_eq!(waiting.attempts, sent.attempts, "they may only be late");
    house.pass(&node, HOUR * 2).await;
    let anchor = house.until_final(&node).await;
    assert_eq!((anchor.id, anchor.attempts.len(), anchor.attempts[0].nonce), (sent.id, 1, 1));
    assert_eq!(anchor.given_up[0].attempts, sent.attempts, "it stays known");
    let alerts = house.alerts().await;
    let taken: Vec<_> = alerts.iter().filter(|alert| alert.kind == AlertKind::AnchorNonceTaken).collect();
    assert!(matches!(taken[..], [alert] if alert.text.contains("with nonce 0.")), "{alerts:?}");
    let mut counts = written(&node);
    counts.remove("0x");
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [1]);
    // The next one goes on behind what somebody else has done meanwhile, and that is told.
    node.send_as(ACCOUNT, json!({ "to": OTHERS[0], "value": "0x1" }));
    node.mine(1);
    house.clock.advance(EVERY);
    house.grow().await;
    house.order(Wanted::Checkpoint).await.unwrap();
    let next = house.until_final(&node).await;
    assert_eq!((next.id > anchor.id, next.attempts[0].nonce), (true, 3));
    let told = |alert: &&meterseal::model::Alert| alert.kind == AlertKind::AnchorNonceTaken;
    assert_eq!(house.alerts().await.iter().filter(told).count(), 2);
}

#[tokio::test]
async fn two_that_wait_for_one_epoch_never_anchor_the_same() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    node.mine(1);
    let first = house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    house.grow().await;
    let second = house.order(Wanted::Checkpoint).await.unwrap();
    assert!(second > first.id, "the first is on its way already");
    let dear = format!("{:#x}", 200 * GWEI);
    node.drop_transaction(first.attempts[0].hash);
    let rival = json!({ "to": OTHERS[0], "value": "0x1", "maxFeePerGas": dear, "maxPriorityFeePerGas": dear });
    node.send_as(ACCOUNT, rival);
    house.pass(&node, HOUR * 14).await;
    let anchors = house.anchors().await;
    let states: Vec<_> = anchors.iter().map(|anchor| (anchor.id, anchor.state, &anchor.waiting)).collect();
    assert_eq!(states, [(second, AnchorState::Queued, &None), (first.id, AnchorState::Final, &None)]);
    house.grow().await;
    house.until_final(&node).await;
    let mut counts = written(&node);
    counts.remove("0x");
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn a_contract_that_is_not_there_is_not_called() {
    let node = Node::start(137, Mining::Manual);
    let nowhere = address!("00000000000000000000000000000000000000f1");
    let mut house = House::new(config(137, &[node.url()]));
    house.reconfigure(|config| config.contract = Some(nowhere));
    house.until(Some(&node), waits_for(WaitReason::Contract)).await;
    // It reverts whatever it is called with.
    node.ask("anvil_setCode", json!([nowhere, "0x60006000fd"]));
    house.rounds(3).await;
    let waiting = house.newest().await.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason, WaitReason::Contract, "{waiting:?}");
    house.reconfigure(|config| config.contract = None);
    let anchor = house.until_final(&node).await;
    assert_eq!(anchor.contract, None, "what is not signed goes with the config");
    assert_eq!(counts(&node), [1]);
}

/// It says that the contract is the right one, and that all goes well.
fn pretending(node: &Node) -> Proxy {
    let proxy = Proxy::start(node);
    proxy.lie("eth_estimateGas", |_, _| Told::result(json!("0x7530")));
    proxy.lie("eth_getCode", |_, _| Told::result(json!(alloy_primitives::hex::encode_prefixed(DEPLOYED_CODE))));
    proxy
}

#[tokio::test]
async fn a_contract_that_takes_any_call_holds_up_nothing() {
    let node = Node::start(137, Mining::Manual);
    let contract = address!("00000000000000000000000000000000000000f3");
    // It stops at once, which is a success.
    node.ask("anvil_setCode", json!([contract, "0x00"]));
    let mut house = House::new(config(137, &[node.url()]));
    house.reconfigure(|config| config.contract = Some(contract));
    let waiting = house.until(Some(&node), waits_for(WaitReason::Contract)).await.waiting.unwrap();
    assert!(waiting.text.contains("another contract than EvidenceAnchor"), "{}", waiting.text);
    assert_eq!(counts(&node), [0_usize; 0]);
    let proxy = pretending(&node);
    house.reconfigure(|config| config.rpc = vec![proxy.url()]);
    let failed = house.until(Some(&node), |anchor| !anchor.failed.is_empty()).await;
    assert_eq!((failed.state, failed.attempts.len()), (AnchorState::Queued, 0));
    assert!(failed.failed[0].fee > 0);
    house.reconfigure(|config| config.contract = None::<Address>);
    house.clock.advance(EVERY);
    let anchor = house.until_final(&node).await;
    assert_eq!((anchor.id, anchor.attempts[0].nonce), (failed.id, 1));
}

#[tokio::test]
async fn what_reverted_is_paid_told_and_tried_again_in_its_time() {
    let node = Node::start(137, Mining::Manual);
    let contract = address!("00000000000000000000000000000000000000f2");
    node.ask("anvil_setCode", json!([contract, "0x60006000fd"]));
    let proxy = pretending(&node);
    let mut house = House::new(config(137, &[proxy.url()]));
    house.reconfigure(|config| config.contract = Some(contract));
    let failed = house.until(Some(&node), |anchor| !anchor.failed.is_empty()).await;
    assert_eq!((failed.state, failed.attempts.len()), (AnchorState::Queued, 0));
    assert!(failed.failed[0].fee > 0);
    house.rounds(5).await;
    let waiting = house.newest().await.unwrap();
    assert!(waits_for(WaitReason::Reverted)(&waiting), "{waiting:?}");
    house.reconfigure(|config| config.contract = None);
    house.rounds(5).await;
    assert!(house.newest().await.unwrap().attempts.is_empty(), "its time has not come");
    house.clock.advance(EVERY);
    let anchor = house.until_final(&node).await;
    assert_eq!((anchor.id, anchor.attempts[0].nonce, anchor.failed.len()), (failed.id, 1, 1));
}
