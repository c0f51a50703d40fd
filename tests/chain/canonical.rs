//! Whether a block is the chain's, asked of nodes that agree, lag, lie and are of another chain.

use alloy_primitives::B256;
use meterseal::evidence::rpc::{Canonical, Finding, Rpc, canonical};
use serde_json::{Value, json};

use crate::harness::{Mining, Node, Proxy, Told};
use crate::methods::rpc;

fn words(canonical: &Canonical, rpcs: &[&Rpc]) -> Vec<String> {
    let names: Vec<_> = canonical.said.iter().map(|said| said.rpc.as_str()).collect();
    assert_eq!(names, rpcs.iter().map(|rpc| rpc.name()).collect::<Vec<_>>());
    canonical.said.iter().map(|said| said.text.clone()).collect()
}

#[tokio::test]
async fn a_block_is_the_chains_when_a_node_has_it_as_final() {
    let node = Node::start(137, Mining::Manual);
    let rpc = rpc(&node.url());
    node.mine(5);
    let hash = rpc.hash_at(4).await.unwrap().unwrap();
    let found = canonical(std::slice::from_ref(&rpc), 137, 4, hash).await;
    assert_eq!(found.finding, Finding::NotFinal);
    assert_eq!(words(&found, &[&rpc]), ["has this block at height 4, which is not final yet (all up to 3 is)"]);
    node.mine(1);
    let found = canonical(std::slice::from_ref(&rpc), 137, 4, hash).await;
    assert_eq!(found.finding, Finding::Final);
    assert_eq!(words(&found, &[&rpc]), ["has this block at height 4, which is final (all up to 4 is)"]);

    let found = canonical(std::slice::from_ref(&rpc), 80002, 4, hash).await;
    assert_eq!((found.finding, words(&found, &[&rpc])), (Finding::Unknown, vec!["is of chain 137, not 80002".into()]));
    let found = canonical(std::slice::from_ref(&rpc), 137, 7, hash).await;
    let none = "has no block at height 7 (the newest is 6)".to_owned();
    assert_eq!((found.finding, words(&found, &[&rpc])), (Finding::Unknown, vec![none]));
    node.reorganise(4);
    let found = canonical(std::slice::from_ref(&rpc), 137, 4, hash).await;
    assert_eq!(found.finding, Finding::Another);
    let other = rpc.hash_at(4).await.unwrap().unwrap();
    assert_eq!(words(&found, &[&rpc]), [format!("has another block at height 4: {other}")]);
}

#[tokio::test]
async fn without_a_tag_what_is_256_below_is_final() {
    let node = Node::start(80002, Mining::Manual);
    let proxy = Proxy::start(&node);
    let rpc = rpc(&proxy.url());
    proxy.lie("eth_getBlockByNumber", |asked, truth| match asked.params[0].as_str() {
        Some("finalized") => Told::error(-39001, "Unknown block"),
        _ => Told::Answer(truth),
    });
    node.mine(259);
    let hash = rpc.hash_at(4).await.unwrap().unwrap();
    let found = canonical(std::slice::from_ref(&rpc), 80002, 4, hash).await;
    assert_eq!(found.finding, Finding::NotFinal);
    node.mine(1);
    let found = canonical(std::slice::from_ref(&rpc), 80002, 4, hash).await;
    assert_eq!(found.finding, Finding::Final);
    let text = "has this block at height 4, which is final (the newest is 260; it does not say what is final, so \
                what is 256 below is)";
    assert_eq!(words(&found, &[&rpc]), [text]);
}

#[tokio::test]
async fn nodes_that_contradict_one_another_leave_it_open() {
    let node = Node::start(137, Mining::Manual);
    node.mine(9);
    let (lying, lagging) = (Proxy::start(&node), Proxy::start(&node));
    let rpcs = [rpc(&node.url()), rpc(&lying.url()), rpc(&lagging.url())];
    let hash = rpcs[0].hash_at(4).await.unwrap().unwrap();
    lagging.lie("eth_getBlockByNumber", |asked, truth| match asked.params[0].as_str() {
        Some("0x4") => Told::result(Value::Null),
        _ => Told::Answer(truth),
    });
    assert_eq!(canonical(&rpcs, 137, 4, hash).await.finding, Finding::Final);
    lying.lie_always(|_, _| Told::Status(503, String::new()));
    assert_eq!(canonical(&rpcs, 137, 4, hash).await.finding, Finding::Final);
    lying.be_honest();
    lying.lie("eth_getBlockByNumber", |asked, mut truth| {
        if asked.params[0] == "0x4" {
            truth["result"]["hash"] = json!(B256::repeat_byte(9));
        }
        Told::Answer(truth)
    });
    let found = canonical(&rpcs, 137, 4, hash).await;
    assert_eq!(found.finding, Finding::Contradiction);
    let all: Vec<_> = rpcs.iter().collect();
    // One that stumbles over what is final still has the block.
    let stumbling = Proxy::start(&node);
    stumbling.lie("eth_getBlockByNumber", |asked, truth| match asked.params[0].as_str() {
        Some("finalized") => Told::Status(503, String::new()),
        _ => Told::Answer(truth),
    });
    let both = [rpc(&stumbling.url()), rpcs[1].clone()];
    let told = canonical(&both, 137, 4, hash).await;
    assert_eq!(told.finding, Finding::Contradiction);
    let has = "has this block at height 4, and does not say whether it is final: ";
    assert!(told.said[0].text.starts_with(has), "{told:?}");
    assert_eq!(canonical(&both[..1], 137, 4, hash).await.finding, Finding::NotFinal);
    let texts = [
        "has this block at height 4, which is final (all up to 7 is)".to_owned(),
        format!("has another block at height 4: {}", B256::repeat_byte(9)),
        "has no block at height 4 (the newest is 9)".to_owned(),
    ];
    assert_eq!(words(&found, &all), texts);
    assert_eq!(canonical(&rpcs[1..], 137, 4, hash).await.finding, Finding::Another);
    assert_eq!(canonical(&rpcs[2..], 137, 4, hash).await.finding, Finding::Unknown);
    assert_eq!(canonical(&[], 137, 4, hash).await.finding, Finding::Unknown);
}
