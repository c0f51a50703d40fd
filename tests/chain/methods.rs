//! What the client makes of the words of a real node.

use std::time::{Duration, Instant};

use alloy_primitives::{B256, Bytes};
use meterseal::evidence::evm::{CREATION_CODE, DEPLOYED_CODE};
use meterseal::evidence::rpc::{Line, Rpc, RpcError};
use serde_json::{Value, json};

use crate::harness::{ACCOUNT, Mining, Node, OTHERS};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn rpc(url: &str) -> Rpc {
    Rpc::new(&Line::new().unwrap(), url, PATIENCE).unwrap()
}

#[tokio::test]
async fn a_node_tells_of_its_chain() {
    for chain_id in [137, 80002] {
        let node = Node::start(chain_id, Mining::Manual);
        let rpc = rpc(&node.url());
        assert_eq!(rpc.chain_id().await, Ok(chain_id));
        node.set_base_fee(40_000_000_000);
        node.mine(10);
        let head = rpc.head().await.unwrap();
        assert_eq!((head.height, rpc.hash_at(10).await), (10, Ok(Some(head.hash))));
        assert!(head.base_fee > 1_000_000_000 && head.time.as_millis() > 1_700_000_000_000, "{head:?}");
        assert_eq!(rpc.finalized().await, Ok(Some(8)));
        assert_eq!(rpc.hash_at(11).await, Ok(None));
        assert!(rpc.tip().await.unwrap() > 0);
        assert_eq!(rpc.balance(ACCOUNT).await, Ok(10_000 * 10u128.pow(18)));
    }
}

#[tokio::test]
async fn a_node_tells_of_a_transaction_before_and_after_it_is_mined() {
    let node = Node::start(137, Mining::Manual);
    let rpc = rpc(&node.url());
    let account = OTHERS[0];
    let code = Bytes::from(CREATION_CODE);
    let gas = rpc.estimate(account, None, &code).await.unwrap();
    let hash = node.send_as(account, json!({ "data": code, "gas": format!("{gas:#x}") }));
    assert_eq!((rpc.nonce(account).await, rpc.pending_nonce(account).await), (Ok(0), Ok(1)));
    assert_eq!((rpc.knows(hash).await, rpc.receipt(hash).await), (Ok(true), Ok(None)));
    node.mine(1);
    assert_eq!(rpc.nonce(account).await, Ok(1));
    let receipt = rpc.receipt(hash).await.unwrap().unwrap();
    assert_eq!((receipt.transaction, receipt.height, receipt.index, receipt.status), (hash, 1, 0, true));
    assert_eq!(Ok(Some(receipt.hash)), rpc.hash_at(1).await);
    assert!(receipt.gas_used <= gas && receipt.price > 0, "{receipt:?}");
    let contract = receipt.contract.unwrap();
    assert_eq!(contract, account.create(0));
    assert_eq!(rpc.code(contract).await.unwrap(), *DEPLOYED_CODE);
    assert!(rpc.code(account).await.unwrap().is_empty());
    let artifact: Value = serde_json::from_str(include_str!("../../contracts/EvidenceAnchor.json")).unwrap();
    assert_eq!(node.ask("eth_getCode", json!([contract, "latest"])), artifact["deployedBytecode"]);
    // Data that the contract does not know.
    let error = rpc.estimate(account, Some(contract), &Bytes::from_static(&[1, 2, 3, 4])).await.unwrap_err();
    assert!(matches!(error, RpcError::Refused { code: 3, .. }), "{error:?}");
    let failing = json!({ "to": contract, "data": "0x01020304", "gas": "0x10000" });
    let failed = node.send_as(account, failing);
    node.mine(1);
    let receipt = rpc.receipt(failed).await.unwrap().unwrap();
    assert!(!receipt.status && receipt.contract.is_none());
    assert_eq!((rpc.knows(B256::ZERO).await, rpc.receipt(B256::ZERO).await), (Ok(false), Ok(None)));
}

#[tokio::test]
async fn a_node_keeps_its_chain_when_it_is_started_again() {
    let mut node = Node::start(80002, Mining::Manual);
    let rpc = rpc(&node.url());
    let hash = node.send_as(OTHERS[0], json!({ "to": OTHERS[1], "value": "0x1" }));
    node.mine(1);
    let receipt = rpc.receipt(hash).await.unwrap().unwrap();
    node.stop();
    assert!(matches!(rpc.head().await, Err(RpcError::Unreachable { .. })));
    node.start_again();
    assert_eq!(rpc.receipt(hash).await, Ok(Some(receipt)));
    assert_eq!(rpc.nonce(OTHERS[0]).await, Ok(1));
    node.stop();
}

#[tokio::test]
async fn what_is_not_on_the_chain_any_more_is_unknown() {
    let node = Node::start(137, Mining::Manual);
    let rpc = rpc(&node.url());
    let spend = |nonce: u64| {
        node.send_as(OTHERS[0], json!({ "to": OTHERS[1], "value": "0x1", "nonce": format!("{nonce:#x}") }))
    };
    let first = spend(0);
    node.mine(12);
    let receipt = rpc.receipt(first).await.unwrap().unwrap();
    node.reorganise(12);
    assert_eq!((rpc.receipt(first).await, rpc.evidence(&receipt).await), (Ok(None), Ok(None)));
    assert_ne!(rpc.hash_at(1).await, Ok(Some(receipt.hash)));
    assert_eq!((rpc.head().await.unwrap().height, rpc.nonce(OTHERS[0]).await), (12, Ok(0)));

    let second = spend(0);
    assert_eq!(rpc.knows(second).await, Ok(true));
    node.drop_transaction(second);
    assert_eq!(rpc.knows(second).await, Ok(false));

    let third = spend(0);
    node.mine(1);
    assert!(rpc.receipt(third).await.unwrap().is_some());
    node.roll_back(1);
    assert_eq!((rpc.receipt(third).await, rpc.nonce(OTHERS[0]).await), (Ok(None), Ok(0)));
    assert_eq!(rpc.hash_at(13).await, Ok(None));
    node.set_balance(OTHERS[2], 5);
    assert_eq!(rpc.balance(OTHERS[2]).await, Ok(5));
}

#[tokio::test]
async fn a_node_mines_by_itself_and_can_lose_its_chain() {
    let mut node = Node::start(137, Mining::Every(1));
    let asked = rpc(&node.url());
    let end = Instant::now() + PATIENCE;
    while asked.head().await.unwrap().height < 2 {
        assert!(Instant::now() < end, "no block in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let first = asked.hash_at(1).await.unwrap();
    node.lose();
    node.start_again();
    assert_ne!(rpc(&node.url()).hash_at(1).await.unwrap(), first);
}
