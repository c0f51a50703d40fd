//! Anchors on a real node, and the evidence that its blocks give of them.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Bytes};
use meterseal::evidence::evm::{self, CREATION_CODE, Call, Key, Signed};
use meterseal::evidence::rpc::{Receipt, Rpc, RpcError};
use meterseal::model::{ChainEvidence, Digest, Timestamp};
use serde_json::{Value, json};

use crate::harness::{ACCOUNT, KEY, Mining, Node, OTHERS, Proxy, Told, number};
use crate::methods::rpc;

const ORIGIN: &str = "plant-7/4f0c2a/9d1e";
const SIZE: u64 = 123_456;
/// What an anchor may cost.
const MOST_GAS: u64 = 30_000;

fn root() -> Digest {
    Digest::of(b"the root of a log")
}

fn key() -> Key {
    Key::read(KEY, None).unwrap()
}

fn signed(node: &Node, nonce: u64, to: Option<Address>, data: Bytes) -> Signed {
    let (max_fee, tip) = (100_000_000_000, 30_000_000_000);
    key().sign(&Call { chain_id: node.chain_id, nonce, max_fee, tip, gas_limit: 500_000, to, data })
}

/// Sends the contract and waits for nothing: its address follows from the account.
pub async fn deploy(node: &Node, rpc: &Rpc) -> (Address, Receipt) {
    let deployment = signed(node, 0, None, CREATION_CODE.into());
    rpc.send(&deployment.raw).await.unwrap();
    node.mine(1);
    let receipt = rpc.receipt(deployment.hash).await.unwrap().unwrap();
    let contract = receipt.contract.unwrap();
    assert_eq!(contract, ACCOUNT.create(0));
    assert!(!rpc.code(contract).await.unwrap().is_empty());
    (contract, receipt)
}

pub async fn anchor(node: &Node, rpc: &Rpc, nonce: u64, contract: Option<Address>) -> B256 {
    let data = evm::payload(ORIGIN, SIZE, &root(), contract.is_some());
    let signed = signed(node, nonce, contract.or(Some(ACCOUNT)), data);
    rpc.send(&signed.raw).await.unwrap();
    signed.hash
}

/// Of other accounts, of all types but that with blobs: anvil takes the blobs into the root, as no other node does, and
/// Polygon has none.
pub fn crowd(node: &Node, count: usize) {
    let (max_fee, tip) = ("0x174876e800", "0x6fc23ac00");
    let access = json!([{ "address": OTHERS[2], "storageKeys": [B256::ZERO] }]);
    // By nobody: it is passed over.
    let authorization =
        json!({ "address": OTHERS[2], "chainId": "0x0", "nonce": "0x0", "yParity": "0x0", "r": "0x1", "s": "0x1" });
    for number in 0..count {
        let mut transaction = json!({ "to": OTHERS[1], "value": format!("{:#x}", number + 1), "gas": "0x20000" });
        let more = match number % 50 {
            0 => json!({ "gasPrice": max_fee, "data": format!("0x{}", "ab".repeat(number)) }),
            1 => json!({ "gasPrice": max_fee, "accessList": access }),
            2 => json!({ "maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip, "authorizationList": [authorization] }),
            3 => json!({ "gasPrice": max_fee, "to": null, "value": "0x0", "data": "0x00" }),
            _ => json!({ "maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip }),
        };
        transaction.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        node.send_as(OTHERS[number % 2], transaction);
    }
}

/// Of the transactions of the newest block, each once.
fn types(node: &Node) -> Vec<String> {
    let block = node.ask("eth_getBlockByNumber", json!(["latest", true]));
    let types = block["transactions"].as_array().unwrap().iter().map(|told| told["type"].as_str().unwrap().to_owned());
    types.collect::<BTreeSet<_>>().into_iter().collect()
}

fn time(node: &Node, block: B256) -> Timestamp {
    let block = node.ask("eth_getBlockByHash", json!([block, false]));
    Timestamp::from_millis(i64::try_from(number(&block["timestamp"])).unwrap() * 1000)
}

pub async fn proven(rpc: &Rpc, transaction: B256) -> (Receipt, ChainEvidence) {
    let receipt = rpc.receipt(transaction).await.unwrap().unwrap();
    let evidence = rpc.evidence(&receipt).await.unwrap().unwrap();
    (receipt, evidence)
}

#[tokio::test]
async fn an_anchor_is_proven_from_the_words_of_a_node() {
    for chain_id in [137, 80002] {
        for others in [0, 220] {
            let node = Node::start(chain_id, Mining::Manual);
            let rpc = rpc(&node.url());
            let (contract, deployed) = deploy(&node, &rpc).await;
            assert!(rpc.evidence(&deployed).await.unwrap().is_some());
            crowd(&node, others);
            let by_event = anchor(&node, &rpc, 1, Some(contract)).await;
            if others == 0 {
                node.mine(1);
            }
            let by_data = anchor(&node, &rpc, 2, None).await;
            crowd(&node, others / 2);
            node.mine(1);
            assert_eq!(types(&node), if others == 0 { vec!["0x2"] } else { vec!["0x0", "0x1", "0x2", "0x4"] });
            for (hash, contract) in [(by_event, Some(contract)), (by_data, None)] {
                let (receipt, evidence) = proven(&rpc, hash).await;
                let shown = evm::check(&evidence).unwrap();
                assert_eq!((shown.chain_id, shown.account, shown.contract), (chain_id, ACCOUNT, contract));
                assert_eq!((shown.size, shown.root, shown.transaction), (SIZE, root(), hash));
                assert_eq!(shown.origin, Digest::of(ORIGIN.as_bytes()));
                assert_eq!((shown.height, shown.hash), (receipt.height, receipt.hash));
                assert_eq!(shown.time, time(&node, receipt.hash));
                assert!(receipt.gas_used <= MOST_GAS, "{receipt:?}");
                let form = if contract.is_some() { "event" } else { "call data" };
                println!("chain {chain_id}, {others} others: an anchor by {form} takes {} gas", receipt.gas_used);
            }
        }
    }
}

#[tokio::test]
async fn a_node_that_lies_about_a_receipt_is_found_out() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    let rpc = rpc(&proxy.url());
    let (contract, deployed) = deploy(&node, &rpc).await;
    crowd(&node, 10);
    let hash = anchor(&node, &rpc, 1, Some(contract)).await;
    node.mine(1);
    let (truth, _) = proven(&rpc, hash).await;
    let nowhere = Receipt { hash: B256::repeat_byte(1), ..truth };
    assert_eq!(rpc.evidence(&nowhere).await, Ok(None));
    for (lie, words) in [
        (Receipt { height: truth.height + 1, ..truth }, "height 2 with the hash"),
        (Receipt { index: truth.index - 1, ..truth }, "index "),
        (Receipt { index: 11, ..truth }, "index 11 in a block of 11"),
        (Receipt { status: false, ..truth }, "status 0, but its block shows otherwise"),
        (Receipt { gas_used: truth.gas_used - 1, ..truth }, "gas used, but"),
        (Receipt { price: truth.price - 1, ..truth }, "a price of "),
        (Receipt { contract: Some(OTHERS[0]), ..truth }, "the contract 0x"),
        (Receipt { transaction: B256::ZERO, ..truth }, "index "),
        (Receipt { contract: Some(OTHERS[0]), ..deployed }, "the contract 0x"),
        (Receipt { contract: None, ..deployed }, "no contract, but"),
    ] {
        let found = rpc.evidence(&lie).await;
        let Err(error @ RpcError::Malformed { .. }) = &found else { panic!("{lie:?}: {found:?}") };
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_node_that_lies_about_a_block_is_found_out() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    let rpc = rpc(&proxy.url());
    let (contract, _) = deploy(&node, &rpc).await;
    crowd(&node, 10);
    let hash = anchor(&node, &rpc, 1, Some(contract)).await;
    node.mine(1);
    let (truth, evidence) = proven(&rpc, hash).await;
    type Change = fn(&mut Value);
    let lies: [(&str, Change, &str); 10] = [
        ("eth_getBlockByHash", |block| block["hash"] = json!(B256::ZERO), "with the hash 0x00"),
        ("eth_getBlockByHash", |block| block["timestamp"] = json!("0x1"), "does not have its hash"),
        ("eth_getBlockByHash", |block| block["extraData"] = json!("0x01"), "does not have its hash"),
        (
            "eth_getBlockByHash",
            |block| drop(block["transactions"].as_array_mut().unwrap().remove(3)),
            "not those of its transactions",
        ),
        ("eth_getBlockByHash", |block| block["transactions"][3]["value"] = json!("0xffff"), "the root over all"),
        (
            "eth_getBlockByHash",
            |block| block["transactions"].as_array_mut().unwrap().swap(3, 4),
            "not those of its transactions",
        ),
        (
            "eth_getBlockReceipts",
            |receipts| drop(receipts.as_array_mut().unwrap().pop()),
            "not those of its transactions",
        ),
        ("eth_getBlockReceipts", |receipts| receipts[3]["status"] = json!("0x0"), "the root over all"),
        ("eth_getBlockReceipts", |receipts| receipts[3]["status"] = json!("0x7"), "a status or a type that cannot be"),
        ("eth_getBlockReceipts", |receipts| receipts[10]["logs"][0]["data"] = json!("0x"), "the root over all"),
    ];
    for (method, change, words) in lies {
        proxy.be_honest();
        proxy.lie(method, move |_, mut answer| {
            change(&mut answer["result"]);
            Told::Answer(answer)
        });
        let found = rpc.evidence(&truth).await;
        let Err(error @ RpcError::Malformed { .. }) = &found else { panic!("{words}: {found:?}") };
        assert!(error.to_string().contains(words), "{error}");
    }
    // A reorganisation between two questions is no lie.
    proxy.be_honest();
    proxy.lie("eth_getBlockReceipts", |_, mut answer| {
        answer["result"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|receipt| receipt["blockHash"] = json!(B256::ZERO));
        Told::Answer(answer)
    });
    assert_eq!(rpc.evidence(&truth).await, Ok(None));
    // Nodes that do not tell all receipts at once, or tell of more in the header than there is.
    proxy.be_honest();
    proxy.lie("eth_getBlockReceipts", |_, _| Told::error(-32601, "the method does not exist/is not available"));
    assert_eq!(rpc.evidence(&truth).await, Ok(Some(evidence.clone())));
    proxy.lie("eth_getTransactionReceipt", |_, _| Told::result(Value::Null));
    assert_eq!(rpc.evidence(&truth).await, Ok(None));
}
