//! What the owner's rounds do beside the chain: how often they ask, what is answered meanwhile, and what a new config
//! changes.

use std::sync::Mutex;
use std::sync::mpsc as blocking;
use std::time::Duration;

use meterseal::evidence::anchor::Wanted;
use meterseal::model::{Alert, AlertKind, Anchor, AnchorRefused, AnchorState, Anchored, WaitReason};
use serde_json::json;
use tokio::sync::mpsc;

use crate::faults::waits_for;
use crate::harness::{ACCOUNT, Mining, Node, Proxy, Told};
use crate::house::{EVERY, House, config, grow, written};

const HOUR: Duration = Duration::from_secs(3_600);

fn size(anchor: &Anchor) -> u64 {
    match anchor.what {
        Anchored::Checkpoint { size, .. } => size,
        Anchored::Contract => 0,
    }
}

#[tokio::test]
async fn a_round_goes_by_the_config_that_its_nodes_are_of() {
    let (node, other) = (Node::start(137, Mining::Manual), Node::start(80_002, Mining::Manual));
    let mut house = House::new(config(137, &[node.url()]));
    // It comes while a round runs: the nodes are still those of before.
    house.announce(|config| (config.chain_id, config.rpc) = (80_002, vec![other.url()]));
    house.rounds(3).await;
    let anchor = house.newest().await.unwrap();
    assert_eq!((anchor.chain_id, anchor.attempts.len()), (137, 1), "{anchor:?}");
    house.reconfigure(|_| {});
    house.grow().await;
    house.order(Wanted::Checkpoint).await.unwrap();
    let next = house.until_final(&other).await;
    assert_eq!((next.chain_id, house.status().chain_id), (80_002, 80_002));
}

#[tokio::test]
async fn a_node_that_fails_at_the_estimate_is_asked_less_and_less_often() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    proxy.lie("eth_estimateGas", |_, _| Told::Status(503, "overloaded".into()));
    let mut house = House::new(config(137, &[proxy.url()]));
    let begun = house.clock.since_boot_ms();
    house.rounds(12).await;
    let took = house.clock.since_boot_ms() - begun;
    assert!(took > 120_000, "12 rounds in {took} ms");
    let waiting = house.newest().await.unwrap();
    assert!(waits_for(WaitReason::Unreachable)(&waiting), "{waiting:?}");
    // What a node refuses for a reason of its own is not the contract's doing: here there is none.
    proxy.lie("eth_estimateGas", |_, _| Told::error(-32000, "over the rate limit"));
    house.clock.advance(Duration::from_secs(60));
    let waiting = house.until(None, waits_for(WaitReason::Refused)).await.waiting.unwrap();
    assert!(waiting.text.contains("over the rate limit"), "{}", waiting.text);
    proxy.be_honest();
    house.until_final(&node).await;
    assert_eq!(written(&node).into_values().collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn what_takes_long_is_asked_about_less_and_less_often() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    // Another one waits behind the one that is not mined, and does not hurry it.
    house.grow().await;
    house.order(Wanted::Checkpoint).await.unwrap();
    house.round().await;
    house.clock.advance(HOUR);
    assert!(house.pause().await > 30_000, "not mined: {:#?}", house.anchors().await);
    // Both are mined, and the chain does not become final.
    house.until(Some(&node), |anchor| anchor.state == AnchorState::Included).await;
    house.rounds(2).await;
    house.clock.advance(HOUR);
    assert!(house.pause().await > 30_000, "not final: {:#?}", house.anchors().await);
}

#[tokio::test]
async fn a_wish_during_a_round_is_in_what_the_round_signs() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    let (told, mut asked) = mpsc::channel(1);
    let (go_on, gone_on) = blocking::channel::<()>();
    let gone_on = Mutex::new(gone_on);
    proxy.lie("eth_estimateGas", move |_, truth| {
        if told.blocking_send(()).is_ok() {
            gone_on.lock().unwrap().recv().ok();
        }
        Told::Answer(truth)
    });
    let mut house = House::new(config(137, &[proxy.url()]));
    let (queue, ledger, reader) = (house.queue(), house.ledger(), house.reader());
    let wish = async {
        asked.recv().await.unwrap();
        let before = reader.anchors(None, 1).await.unwrap().remove(0);
        grow(&ledger).await;
        let id = queue.order(Wanted::Checkpoint, "the test").await.unwrap().unwrap();
        asked.close();
        go_on.send(()).unwrap();
        (id, size(&before))
    };
    let ((), (id, before)) = tokio::join!(house.round(), wish);
    let anchor = house.until_final(&node).await;
    assert_eq!((anchor.id, size(&anchor)), (id, before + 1), "what was wanted is in it");
}

#[tokio::test]
async fn one_that_others_cover_has_its_turn_when_there_is_something_new() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    let first = house.until_final(&node).await;
    house.grow().await;
    house.order(Wanted::Checkpoint).await.unwrap();
    let second = house.until_final(&node).await;
    // As after a reorganisation in which somebody else took its nonce.
    let (state, waiting) = (AnchorState::Queued, None);
    let lost = Anchor { state, attempts: Vec::new(), inclusion: None, next_check: None, waiting, ..first.clone() };
    house.ledger().save_anchor(lost, None).await.unwrap();
    // The looks at the final one go on for 23 days.
    for _ in 0..30 {
        house.clock.advance(HOUR * 24);
        house.round().await;
    }
    assert_eq!(house.pause().await, 600_000, "nobody is asked for its sake: {:#?}", house.anchors().await);
    assert_eq!(house.order(Wanted::Checkpoint).await, Err(AnchorRefused::NothingNew(second.id)));
    house.grow().await;
    house.clock.advance(EVERY);
    let again = house.until(Some(&node), |_| true).await;
    assert_eq!(again.id, second.id, "the row of the first serves anew");
    for _ in 0..100 {
        node.mine(1);
        house.round().await;
    }
    let all = house.anchors().await;
    let [second, again] = &all[..] else { panic!("{all:#?}") };
    assert_eq!((again.id, again.state, size(again)), (first.id, AnchorState::Final, size(second) + 1));
}

#[tokio::test]
async fn a_contract_is_made_where_it_was_wanted_and_once() {
    let (node, other) = (Node::start(137, Mining::Manual), Node::start(80_002, Mining::Manual));
    let mut house = House::new(config(137, &["http://127.0.0.1:9".to_owned()]));
    house.round().await;
    let id = house.order(Wanted::Contract).await.unwrap();
    house.reconfigure(|config| (config.chain_id, config.rpc) = (80_002, vec![other.url()]));
    for _ in 0..80 {
        other.mine(1);
        house.round().await;
    }
    let made = house.reader().anchor(id).await.unwrap().unwrap();
    assert_eq!((made.chain_id, made.state), (137, AnchorState::Queued), "{made:?}");
    assert!(waits_for(WaitReason::WrongChain)(&made), "{made:?}");
    assert_eq!(house.status().waiting, None, "it holds up nothing but itself");
    house.reconfigure(|config| (config.chain_id, config.rpc) = (137, vec![node.url()]));
    for _ in 0..160 {
        node.mine(1);
        house.round().await;
    }
    let made = house.reader().anchor(id).await.unwrap().unwrap();
    assert_eq!((made.chain_id, made.state), (137, AnchorState::Final), "{made:?}");
    assert!(made.made_contract().is_some());
    assert_eq!(house.order(Wanted::Contract).await, Ok(id), "one is enough");
}

#[tokio::test]
async fn the_next_time_is_never_one_that_is_past() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    house.until_final(&node).await;
    house.round().await;
    assert!(house.status().next.is_some_and(|next| next > house.clock.now()));
    house.clock.advance(EVERY * 2);
    house.round().await;
    assert_eq!(house.status().next, None);
}

#[tokio::test]
async fn what_is_not_anchored_any_more_alerts_nobody() {
    let node = Node::start(137, Mining::Manual);
    node.set_balance(ACCOUNT, 1_000);
    let mut house = House::new(config(137, &[node.url()]));
    house.until(Some(&node), waits_for(WaitReason::Funds)).await;
    let stands = |alerts: Vec<Alert>| alerts.into_iter().filter(|alert| alert.cleared.is_none()).count();
    let alerts = house.alerts().await;
    assert!(alerts.iter().any(|alert| alert.kind == AlertKind::AnchorFundsLow), "{alerts:?}");
    house.remove().await;
    assert_eq!(stands(house.alerts().await), 0);
}

#[tokio::test]
async fn a_transaction_that_comes_to_no_node_is_not_refused() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    proxy.lie("eth_sendRawTransaction", |_, _| Told::Status(503, String::new()));
    // The node has it nonetheless: this is of one whose answers and looks-up fail as well.
    proxy.lie("eth_getTransactionByHash", |_, _| Told::result(json!(null)));
    let mut house = House::new(config(137, &[proxy.url()]));
    let waiting = house.until(None, |anchor| anchor.state == AnchorState::Signed && anchor.waiting.is_some()).await;
    assert!(waits_for(WaitReason::Unreachable)(&waiting), "{waiting:?}");
    proxy.be_honest();
    house.until_final(&node).await;
    assert_eq!(written(&node).into_values().collect::<Vec<_>>(), [1]);
}
