//! What the client makes of a node that is broken, busy, or lies.

use std::time::Duration;

use alloy_primitives::{B256, Bytes, hex};
use meterseal::evidence::rpc::{Line, Rpc, RpcError};
use serde_json::{Value, json};

use crate::harness::{Asked, Mining, Node, OTHERS, Proxy, Told, words};
use crate::methods::rpc;

/// Longer than a node on this machine takes, and short enough to wait for.
const SHORT: Duration = Duration::from_secs(2);

fn is_unreachable<T: std::fmt::Debug>(answer: &Result<T, RpcError>, words: &str) -> bool {
    matches!(answer, Err(error @ RpcError::Unreachable { .. }) if error.to_string().contains(words))
}

fn is_malformed<T: std::fmt::Debug>(answer: &Result<T, RpcError>, words: &str) -> bool {
    matches!(answer, Err(error @ RpcError::Malformed { .. }) if error.to_string().contains(words))
}

fn changed(mut answer: Value, member: &str, to: Value) -> Told {
    answer["result"][member] = to;
    Told::Answer(answer)
}

#[tokio::test]
async fn what_a_node_cannot_say_now_is_asked_again_later() {
    let mut node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    let rpc = Rpc::new(&Line::new().unwrap(), &proxy.url(), SHORT).unwrap();
    proxy.lie_always(|_, _| Told::Status(429, r#"{"error":{"code":-32005,"message":"slow down"}}"#.to_owned()));
    let busy = rpc.head().await;
    assert!(is_unreachable(&busy, "answers 429 Too Many Requests: slow down; ask again later"), "{busy:?}");
    // A tag that is refused is not known; but this says nothing of the tag.
    let busy = rpc.finalized().await;
    assert!(is_unreachable(&busy, "429"), "{busy:?}");
    proxy.lie_always(|_, _| Told::Status(502, "<html>bad gateway".to_owned()));
    let down = rpc.nonce(OTHERS[0]).await;
    assert!(is_unreachable(&down, "502 Bad Gateway: a page"), "{down:?}");
    proxy.lie_always(|_, truth| Told::Cut(150, truth));
    let cut = rpc.head().await;
    assert!(is_unreachable(&cut, "broke its answer off"), "{cut:?}");
    proxy.lie_always(|_, _| Told::Hang);
    let silent = rpc.head().await;
    assert!(is_unreachable(&silent, "did not answer eth_getBlockByNumber within 2s"), "{silent:?}");
    proxy.be_honest();
    assert!(rpc.head().await.is_ok());
    node.stop();
    let gone = rpc.head().await;
    assert!(is_unreachable(&gone, "cannot be asked"), "{gone:?}");
}

#[tokio::test]
async fn what_cannot_be_is_not_believed() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    let rpc = rpc(&proxy.url());
    proxy.lie_always(|_, mut truth| {
        truth["id"] = json!(999);
        Told::Answer(truth)
    });
    let other = rpc.chain_id().await;
    assert!(is_malformed(&other, "to another question"), "{other:?}");
    proxy.lie_always(|_, _| Told::Huge((16 << 20) + 1));
    let huge = rpc.chain_id().await;
    assert!(is_malformed(&huge, "more than 16 MiB"), "{huge:?}");
    proxy.lie_always(|_, _| Told::result(Value::Null));
    let null = rpc.chain_id().await;
    assert!(is_malformed(&null, "null"), "{null:?}");
    let null = rpc.head().await;
    assert!(is_malformed(&null, "null"), "{null:?}");
    proxy.lie_always(|_, _| Told::result(json!("137")));
    let decimal = rpc.chain_id().await;
    assert!(is_malformed(&decimal, "a number as `0x` and hex digits"), "{decimal:?}");
    proxy.be_honest();
    proxy.lie("eth_getBlockByNumber", |_, truth| changed(truth, "number", json!("0x7")));
    let elsewhere = rpc.hash_at(0).await;
    assert!(is_malformed(&elsewhere, "height 7 instead of 0"), "{elsewhere:?}");

    let hash = node.send_as(OTHERS[0], json!({ "to": OTHERS[1], "value": "0x1" }));
    node.mine(1);
    let other = B256::repeat_byte(7);
    proxy.lie("eth_getTransactionReceipt", move |_, truth| changed(truth, "transactionHash", json!(other)));
    let receipt = rpc.receipt(hash).await;
    assert!(is_malformed(&receipt, "that of 0x0707"), "{receipt:?}");
    proxy.lie("eth_getTransactionReceipt", |_, truth| changed(truth, "status", json!("0x2")));
    let receipt = rpc.receipt(hash).await;
    assert!(is_malformed(&receipt, "status 2 is neither 0 nor 1"), "{receipt:?}");
    proxy.lie("eth_getTransactionReceipt", |_, truth| changed(truth, "blockHash", Value::Null));
    assert_eq!(rpc.receipt(hash).await, Ok(None));
    proxy.lie("eth_getTransactionByHash", move |_, truth| changed(truth, "hash", json!(other)));
    let known = rpc.knows(hash).await;
    assert!(is_malformed(&known, "0x0707"), "{known:?}");
    proxy.lie("eth_sendRawTransaction", move |_, _| Told::result(json!(other)));
    let sent = rpc.send(&Bytes::from_static(&[2, 3])).await;
    assert!(is_malformed(&sent, "it took 0x0707"), "{sent:?}");
}

#[tokio::test]
async fn refusals_bear_the_words_of_the_node() {
    let node = Node::start(80002, Mining::Manual);
    let proxy = Proxy::start(&node);
    let rpc = rpc(&proxy.url());
    for text in [words::KNOWN, words::NONCE_TOO_LOW, words::TOO_CHEAP_TO_REPLACE, words::TOO_CHEAP, words::NO_FUNDS]
        .as_flattened()
    {
        proxy.lie("eth_sendRawTransaction", |_, _| Told::error(-32000, text));
        let refused = rpc.send(&Bytes::from_static(&[2, 3])).await.unwrap_err();
        let RpcError::Refused { code, message, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!((*code, message.as_str()), (-32000, *text));
    }
    proxy.lie("eth_getBlockByNumber", |asked, truth| match asked.params[0].as_str() {
        Some("finalized") => Told::error(-32602, "invalid argument 0: hex string without 0x prefix"),
        _ => Told::Answer(truth),
    });
    assert_eq!(rpc.finalized().await, Ok(None));
    proxy.lie("eth_getBlockByNumber", |_, _| Told::error(-32603, "internal error"));
    let other = rpc.finalized().await;
    assert!(matches!(&other, Err(RpcError::Refused { code: -32603, .. })), "{other:?}");
    proxy.lie("eth_getBlockByNumber", |_, _| Told::result(Value::Null));
    assert_eq!(rpc.finalized().await, Ok(None));
    proxy.be_honest();
    // Its own words for what is no transaction.
    let refused = rpc.send(&Bytes::from_static(&[0])).await.unwrap_err();
    assert!(matches!(&refused, RpcError::Refused { code: -32602, .. }), "{refused:?}");
    let sent = proxy.asked("eth_sendRawTransaction");
    let raw = |asked: &Asked| asked.params[0].as_str().unwrap().to_owned();
    assert_eq!(sent.iter().map(raw).collect::<Vec<_>>(), [vec!["0x0203"; 10], vec!["0x00"]].concat());
    assert_eq!(hex::decode(raw(&sent[0])).unwrap(), [2, 3]);
    proxy.lie("eth_chainId", |_, _| Told::result(json!("0x1")));
    assert_eq!(rpc.chain_id().await, Ok(1));
}
