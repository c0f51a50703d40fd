//! Nodes that stop, lag, lie, contradict one another or change their chain: each checkpoint is anchored once.

use std::time::Duration;

use alloy_primitives::B256;
use meterseal::model::{AlertKind, Anchor, AnchorState, WaitReason};
use serde_json::{Value, json};

use crate::faults::waits_for;
use crate::harness::{ACCOUNT, Asked, Mining, Node, OTHERS, Proxy, Told};
use crate::house::{EVERY, House, config, written};

fn is_included(anchor: &Anchor) -> bool {
    anchor.state == AnchorState::Included
}

fn counts(node: &Node) -> Vec<usize> {
    written(node).into_values().collect()
}

#[tokio::test]
async fn a_reorganisation_after_the_inclusion_is_found_and_mended() {
    for chain_id in [137, 80_002] {
        let node = Node::start(chain_id, Mining::Manual);
        node.mine(20);
        let mut house = House::new(config(chain_id, &[node.url()]));
        house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
        node.mine(1);
        let included = house.until(None, is_included).await;
        node.reorganise(10);
        let gone = house.until(None, |anchor| anchor.state == AnchorState::Reorganised).await;
        assert_eq!(gone.inclusion, included.inclusion, "it stays known where it was");
        let again = house.until_final(&node).await;
        assert_eq!(again.attempts[0], included.attempts[0], "the same transaction");
        assert_ne!(again.inclusion.unwrap().hash, included.inclusion.unwrap().hash);
        let shown = house.reader().anchor_evidence(again.id).await.unwrap().unwrap();
        assert_eq!(meterseal::evidence::evm::check(&shown).unwrap().transaction, again.attempts[0].hash);
        assert_eq!(counts(&node), [1]);
        assert_eq!(house.alerts().await, [], "it was not final");
    }
}

#[tokio::test]
async fn a_reorganisation_after_the_end_is_found_told_and_mended() {
    let node = Node::start(137, Mining::Manual);
    node.mine(20);
    let mut house = House::new(config(137, &[node.url()]));
    let first = house.until_final(&node).await;
    node.reorganise(10);
    house.until(None, |anchor| anchor.state == AnchorState::Reorganised).await;
    let alerts = house.alerts().await;
    assert!(matches!(&alerts[..], [alert] if alert.kind == AlertKind::AnchorReorganised), "{alerts:?}");
    let again = house.until_final(&node).await;
    assert_eq!((again.id, &again.attempts), (first.id, &first.attempts));
    assert_eq!(counts(&node), [1]);
    assert!(house.alerts().await[0].cleared.is_some(), "it is final again");
}

#[tokio::test]
async fn several_that_are_reorganised_are_sent_in_their_order() {
    let node = Node::start(137, Mining::Manual);
    node.mine(20);
    let mut house = House::new(config(137, &[node.url()]));
    for _ in 0..3 {
        house.until_final(&node).await;
        house.grow().await;
        house.order(meterseal::evidence::anchor::Wanted::Checkpoint).await.unwrap();
    }
    house.until_final(&node).await;
    node.reorganise(20);
    house.clock.advance(Duration::from_secs(60));
    for _ in 0..60 {
        house.round().await;
        node.mine(1);
    }
    let all = house.anchors().await;
    assert!(all.iter().all(|anchor| anchor.state == AnchorState::Final), "{all:#?}");
    assert_eq!(counts(&node), [1; 4]);
}

#[tokio::test]
async fn a_node_that_stops_between_any_two_steps_loses_nothing() {
    for stops_at in 0..9 {
        let mut node = Node::start(80_002, Mining::Manual);
        node.mine(3);
        let mut house = House::new(config(80_002, &[node.url()]));
        for round in 0..9 {
            if round == stops_at {
                node.stop();
                house.rounds(3).await;
                node.start_again();
            }
            house.round().await;
            if round % 2 == 1 {
                node.mine(1);
            }
        }
        house.until_final(&node).await;
        assert_eq!(counts(&node), [1], "stopped at {stops_at}");
    }
}

#[tokio::test]
async fn a_process_that_ends_between_any_two_rounds_repeats_the_same() {
    for ends_at in 0..8 {
        let node = Node::start(137, Mining::Manual);
        node.mine(3);
        let mut house = House::new(config(137, &[node.url()]));
        for round in 0..8 {
            if round == ends_at {
                house.restart();
            }
            house.round().await;
            if round % 2 == 1 {
                node.mine(1);
            }
        }
        house.until_final(&node).await;
        assert_eq!((counts(&node), house.anchors().await.len()), (vec![1], 1), "ended at {ends_at}");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_changes_nothing() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    // The node takes it, and nobody hears of it.
    proxy.lie("eth_sendRawTransaction", |_, truth| Told::Cut(20, truth));
    let mut house = House::new(config(137, &[proxy.url()]));
    house.until_final(&node).await;
    assert_eq!(counts(&node), [1]);
}

#[tokio::test]
async fn a_node_of_another_chain_is_left_out_and_told() {
    let (node, other) = (Node::start(137, Mining::Manual), Node::start(80_002, Mining::Manual));
    let mut house = House::new(config(137, &[other.url()]));
    let waiting = house.until(None, waits_for(WaitReason::WrongChain)).await.waiting.unwrap();
    assert!(waiting.text.contains("it is of chain 80002, not 137"), "{}", waiting.text);
    house.reconfigure(|config| config.rpc.push(node.url()));
    house.until_final(&node).await;
    assert_eq!((counts(&node), counts(&other)), (vec![1], vec![]));
    let trouble = house.status().rpcs[0].trouble.clone();
    assert_eq!(trouble.as_deref(), Some("it is of chain 80002, not 137"));
}

#[tokio::test]
async fn a_month_without_a_line_ends_in_one_transaction() {
    let mut node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    house.until_final(&node).await;
    node.stop();
    for _ in 0..30 * 4 {
        house.grow().await;
        house.clock.advance(EVERY);
        house.round().await;
    }
    let anchors = house.anchors().await;
    assert_eq!(anchors.len(), 2, "{anchors:#?}");
    assert!(waits_for(WaitReason::Unreachable)(&anchors[0]), "{:?}", anchors[0]);
    let overdue = |alert: &&meterseal::model::Alert| alert.kind == AlertKind::AnchorOverdue;
    assert_eq!(house.alerts().await.iter().filter(overdue).count(), 1);
    node.start_again();
    let anchor = house.until_final(&node).await;
    let meterseal::model::Anchored::Checkpoint { size, .. } = anchor.what else { panic!("{anchor:?}") };
    assert_eq!(size, 121, "all that grew meanwhile");
    assert_eq!(counts(&node), [1, 1]);
    house.rounds(20).await;
    assert!(house.alerts().await.iter().filter(overdue).all(|alert| alert.cleared.is_some()));
}

#[tokio::test]
async fn a_receipt_of_a_block_that_does_not_hold_it_is_not_believed() {
    let node = Node::start(137, Mining::Manual);
    node.mine(5);
    let liar = Proxy::start(&node);
    let truth = node.ask("eth_getBlockByNumber", json!(["0x2", false]));
    let (hash, height) = (truth["hash"].clone(), truth["number"].clone());
    liar.lie("eth_getTransactionReceipt", move |asked, _| {
        Told::result(json!({
            "transactionHash": asked.params[0], "blockHash": hash, "blockNumber": height, "transactionIndex": "0x0",
            "status": "0x1", "gasUsed": "0x5208", "effectiveGasPrice": "0x1", "contractAddress": null,
            "cumulativeGasUsed": "0x5208", "logs": [], "logsBloom": format!("0x{}", "00".repeat(256)), "type": "0x2",
        }))
    });
    for urls in [vec![liar.url()], vec![node.url(), liar.url()]] {
        let mut house = House::new(config(137, &urls));
        house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
        house.rounds(6).await;
        let anchor = house.newest().await.unwrap();
        assert_eq!((anchor.state, anchor.inclusion), (AnchorState::Sent, None));
        house.reconfigure(|config| config.rpc = vec![node.url()]);
        house.until_final(&node).await;
    }
    assert!(counts(&node).into_iter().all(|count| count == 1));
}

#[tokio::test]
async fn a_receipt_that_says_failed_where_it_was_not_is_not_believed() {
    let node = Node::start(137, Mining::Manual);
    let liar = Proxy::start(&node);
    liar.lie("eth_getTransactionReceipt", |_, mut truth| {
        if !truth["result"].is_null() {
            truth["result"]["status"] = json!("0x0");
        }
        Told::Answer(truth)
    });
    let mut house = House::new(config(137, &[liar.url()]));
    for _ in 0..40 {
        node.mine(1);
        house.round().await;
    }
    let anchor = house.newest().await.unwrap();
    assert!(anchor.failed.is_empty() && anchor.attempts.len() == 1, "{anchor:#?}");
    assert!((1..3).contains(&liar.asked("eth_getBlockByHash").len()), "the whole block is fetched now and then");
    liar.be_honest();
    house.until_final(&node).await;
    assert_eq!(counts(&node), [1]);
}

#[tokio::test]
async fn null_is_unknown_and_never_failed() {
    let node = Node::start(137, Mining::Manual);
    let forgetful = Proxy::start(&node);
    for method in ["eth_getTransactionReceipt", "eth_getTransactionByHash"] {
        forgetful.lie(method, |_, _| Told::result(Value::Null));
    }
    let mut house = House::new(config(137, &[forgetful.url()]));
    house.until(None, |anchor| !anchor.attempts.is_empty()).await;
    for _ in 0..10 {
        node.mine(1);
        house.round().await;
    }
    let anchor = house.newest().await.unwrap();
    assert_eq!((anchor.attempts.len(), anchor.inclusion), (1, None));
    forgetful.be_honest();
    house.until_final(&node).await;
    assert_eq!(counts(&node), [1]);
}

/// Null for all that is of the account.
fn without_ours(proxy: &Proxy) {
    for method in ["eth_getTransactionReceipt", "eth_getTransactionByHash"] {
        proxy.lie(method, |_, truth| {
            let by = truth["result"]["from"].as_str().and_then(|by| by.parse().ok());
            if by == Some(ACCOUNT) { Told::result(Value::Null) } else { Told::Answer(truth) }
        });
    }
}

/// Somebody else's transactions are found from the first block on.
fn with_others(node: &Node) {
    node.send_as(OTHERS[0], json!({ "to": OTHERS[1], "value": "0x1" }));
    node.mine(1);
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn receipts_that_are_late_for_hours_are_waited_for() {
    let node = Node::start(137, Mining::Manual);
    with_others(&node);
    let late = Proxy::start(&node);
    without_ours(&late);
    let mut house = House::new(config(137, &[late.url()]));
    let signed = house.until(None, |anchor| !anchor.attempts.is_empty()).await;
    house.pass(&node, HOUR * 11).await;
    assert_eq!(house.newest().await.unwrap().attempts, signed.attempts);
    late.be_honest();
    house.until_final(&node).await;
    assert_eq!((counts(&node), house.alerts().await), (vec![1], vec![]));
}

#[tokio::test]
async fn a_node_that_forgot_old_transactions_decides_nothing() {
    let node = Node::start(137, Mining::Manual);
    with_others(&node);
    let pruned = Proxy::start(&node);
    let mut house = House::new(config(137, &[pruned.url()]));
    let sent = house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    for method in ["eth_getTransactionReceipt", "eth_getTransactionByHash"] {
        pruned.lie(method, |_, _| Told::result(Value::Null));
    }
    house.pass(&node, HOUR * 26).await;
    let anchor = house.newest().await.unwrap();
    assert_eq!(anchor.attempts, sent.attempts);
    let waiting = anchor.waiting.unwrap();
    assert!(waiting.text.contains("finds no transactions of as long ago as height 1"), "{}", waiting.text);
    // Another one has them.
    house.reconfigure(|config| config.rpc.push(node.url()));
    house.until_final(&node).await;
    assert_eq!(counts(&node), [1]);
}

#[tokio::test]
async fn a_node_that_knows_an_older_attempt_keeps_the_nonce() {
    let node = Node::start(137, Mining::Manual);
    with_others(&node);
    node.set_base_fee(3_000_000_000);
    let late = Proxy::start(&node);
    let mut house = House::new(config(137, &[late.url()]));
    let sent = house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    node.set_base_fee(60_000_000_000);
    node.mine(1);
    let dearer = house.until(None, |anchor| anchor.attempts.len() == 2).await;
    without_ours(&late);
    let first = sent.attempts[0].hash;
    late.lie("eth_getTransactionByHash", move |asked, truth| match asked.params[0] == json!(first) {
        true => Told::result(json!({ "hash": first })),
        false if truth["result"]["from"].as_str().is_some_and(|by| by.parse() == Ok(ACCOUNT)) => {
            Told::result(Value::Null)
        }
        false => Told::Answer(truth),
    });
    house.pass(&node, HOUR * 14).await;
    assert_eq!(house.newest().await.unwrap().attempts[..2], dearer.attempts);
    late.be_honest();
    house.until_final(&node).await;
    assert_eq!(counts(&node), [1]);
}

#[tokio::test]
async fn a_node_that_is_silent_keeps_the_nonce() {
    let node = Node::start(137, Mining::Manual);
    with_others(&node);
    let late = Proxy::start(&node);
    without_ours(&late);
    let silent = Proxy::start(&node);
    silent.lie_always(|_, _| Told::Status(503, String::new()));
    let mut house = House::new(config(137, &[late.url(), silent.url()]));
    let signed = house.until(None, |anchor| !anchor.attempts.is_empty()).await;
    house.pass(&node, HOUR * 14).await;
    let anchor = house.newest().await.unwrap();
    assert_eq!(anchor.attempts, signed.attempts);
    let text = anchor.waiting.unwrap().text;
    assert!(text.contains(&format!("{} does not answer", silent.url())), "{text}");
    silent.be_honest();
    house.until_final(&node).await;
    assert_eq!(counts(&node), [1]);
}

#[tokio::test]
async fn what_was_given_up_and_is_there_all_the_same_is_not_signed_again() {
    let node = Node::start(137, Mining::Manual);
    with_others(&node);
    let late = Proxy::start(&node);
    without_ours(&late);
    let mut house = House::new(config(137, &[late.url()]));
    let signed = house.until(None, |anchor| !anchor.attempts.is_empty()).await;
    node.mine(1);
    house.rounds(3).await;
    house.reconfigure(|config| config.max_fee = 1);
    house.pass(&node, HOUR * 14).await;
    house.grow().await;
    house.pass(&node, HOUR).await;
    let given_up = house.newest().await.unwrap();
    assert_eq!((given_up.state, given_up.id, given_up.attempts.len()), (AnchorState::Queued, signed.id, 0));
    assert_eq!(given_up.given_up[0].attempts[0].hash, signed.attempts[0].hash);
    house.restart();
    late.be_honest();
    house.reconfigure(|config| config.max_fee = 300_000_000_000);
    house.round().await;
    let there = house.reader().anchor(signed.id).await.unwrap().unwrap();
    assert_eq!((&there.what, &there.attempts[0].hash), (&signed.what, &signed.attempts[0].hash));
    assert_eq!((there.given_up.len(), counts(&node)), (0, vec![1]));
    let shown = house.reader().anchor_evidence(there.id).await.unwrap().unwrap();
    assert_eq!(meterseal::evidence::evm::check(&shown).unwrap().transaction, there.attempts[0].hash);
    house.until_final(&node).await;
    assert!(counts(&node).into_iter().all(|count| count == 1), "{:?}", written(&node));
}

#[tokio::test]
async fn another_chain_behind_the_same_address_is_found_out_before_anything_is_signed() {
    let (node, other) = (Node::start(137, Mining::Manual), Node::start(80_002, Mining::Manual));
    other.ask("anvil_setNonce", json!([ACCOUNT, "0x32"]));
    let proxy = Proxy::start(&node);
    let mut house = House::new(config(137, &[proxy.url()]));
    house.until_final(&node).await;
    proxy.turn_to(&other);
    house.grow().await;
    house.order(meterseal::evidence::anchor::Wanted::Checkpoint).await.unwrap();
    let waiting = house.until(Some(&other), waits_for(WaitReason::WrongChain)).await;
    assert_eq!(waiting.attempts, []);
    proxy.turn_to(&node);
    let anchor = house.until_final(&node).await;
    assert_eq!((anchor.attempts[0].nonce, counts(&node), counts(&other)), (1, vec![1, 1], vec![]));
}

#[tokio::test]
async fn a_chain_that_is_exchanged_within_a_round_is_found_out_too() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    // It is of the right chain when it is greeted, and of another when it is asked again.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    proxy.lie("eth_chainId", move |_, truth| match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2 {
        0 => Told::Answer(truth),
        _ => Told::result(json!("0x13882")),
    });
    let mut house = House::new(config(137, &[proxy.url()]));
    house.until(Some(&node), waits_for(WaitReason::WrongChain)).await;
    assert_eq!(house.newest().await.unwrap().attempts, []);
    proxy.be_honest();
    house.until_final(&node).await;
}

#[tokio::test]
async fn a_lone_word_about_the_nonce_is_not_believed() {
    let node = Node::start(137, Mining::Manual);
    let (silent, liar) = (Proxy::start(&node), Proxy::start(&node));
    silent.lie_always(|_, _| Told::Status(503, String::new()));
    liar.lie("eth_getTransactionCount", |_, _| Told::result(json!("0x5")));
    let mut house = House::new(config(137, &[silent.url(), liar.url()]));
    house.until(Some(&node), waits_for(WaitReason::Nonce)).await;
    silent.be_honest();
    house.until(Some(&node), waits_for(WaitReason::Disagreement)).await;
    liar.lie("eth_getTransactionCount", |_, _| Told::result(json!("0x20000000000000")));
    house.round().await;
    let trouble = house.status().rpcs[1].trouble.clone().unwrap();
    assert!(trouble.contains("9007199254740992 is more than any account sends"), "{trouble}");
    let anchor = house.until_final(&node).await;
    assert_eq!((anchor.attempts[0].nonce, counts(&node)), (0, vec![1]));
}

#[tokio::test]
async fn what_was_final_is_not_undone_by_a_node_for_which_nothing_is_final() {
    let node = Node::start(137, Mining::Manual);
    let fork = Proxy::start(&node);
    let mut house = House::new(config(137, &[fork.url()]));
    let first = house.until_final(&node).await;
    let evidence = house.reader().anchor_evidence(first.id).await.unwrap();
    let of_fork = |is_final: bool| {
        move |asked: &Asked, mut truth: Value| {
            match asked.params[0].as_str() {
                Some("finalized") if !is_final => truth["result"]["number"] = json!("0x0"),
                Some(at) if at.starts_with("0x") => truth["result"]["hash"] = json!(B256::repeat_byte(9)),
                _ => {}
            }
            Told::Answer(truth)
        }
    };
    fork.lie("eth_getBlockByNumber", of_fork(false));
    house.pass(&node, HOUR).await;
    assert_eq!((house.newest().await.unwrap().state, house.alerts().await), (AnchorState::Final, vec![]));
    assert_eq!(house.reader().anchor_evidence(first.id).await.unwrap(), evidence);
    fork.lie("eth_getBlockByNumber", of_fork(true));
    house.until(Some(&node), |anchor| anchor.state == AnchorState::Reorganised).await;
    assert_eq!(house.reader().anchor_evidence(first.id).await.unwrap(), None, "it is in no block");
    // It is there again, without a block that shows it anew.
    fork.be_honest();
    fork.lie("eth_getBlockByHash", |_, _| Told::result(Value::Null));
    let again = house.until_final(&node).await;
    assert_eq!((again.id, &again.inclusion), (first.id, &first.inclusion));
    assert_eq!(house.reader().anchor_evidence(first.id).await.unwrap(), evidence);
    assert_eq!(counts(&node), [1]);
}

#[tokio::test]
async fn a_receipt_whose_height_nobody_tells_is_not_believed() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    proxy.lie("eth_getBlockByNumber", |asked, truth| {
        match asked.params[0].as_str().is_some_and(|at| at.starts_with("0x")) {
            true => Told::Status(503, String::new()),
            false => Told::Answer(truth),
        }
    });
    let mut house = House::new(config(137, &[proxy.url()]));
    house.until(None, |anchor| anchor.state == AnchorState::Sent).await;
    for _ in 0..10 {
        node.mine(1);
        house.round().await;
    }
    assert_eq!(house.newest().await.unwrap().inclusion, None);
    proxy.be_honest();
    house.until_final(&node).await;
}

#[tokio::test]
async fn nodes_that_contradict_one_another_are_waited_for() {
    let node = Node::start(137, Mining::Manual);
    let other = Proxy::start(&node);
    other.lie("eth_getBlockByNumber", |asked, mut truth| {
        if asked.params[0].as_str().is_some_and(|at| at.starts_with("0x")) {
            truth["result"]["hash"] = json!(B256::repeat_byte(9));
        }
        Told::Answer(truth)
    });
    let mut house = House::new(config(137, &[node.url(), other.url()]));
    house.until(Some(&node), waits_for(WaitReason::Disagreement)).await;
    let anchor = house.newest().await.unwrap();
    assert!(anchor.inclusion.is_none(), "{anchor:?}");
    other.be_honest();
    house.until_final(&node).await;
    assert_eq!(counts(&node), [1]);
}
