//! What nodes of Polygon do that anvil does not: events taken over from Ethereum, and shorter headers.

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes, keccak256};
use alloy_trie::root::ordered_trie_root_with_encoder;
use meterseal::evidence::evm;
use meterseal::evidence::rpc::{Receipt, RpcError};
use serde_json::{Value, json};

use crate::evidence::{anchor, crowd, deploy, proven};
use crate::harness::{Mining, Node, Proxy, Told, number};
use crate::methods::rpc;

/// As nodes tell of it: from nobody to nobody, for nothing.
fn state_sync(hash: B256, kind: &str, block: B256) -> (Value, Value) {
    let nobody = format!("0x{}", "00".repeat(20));
    let transaction = json!({
        "hash": hash, "type": kind, "from": nobody, "to": nobody, "gas": "0x0", "gasPrice": "0x0", "input": "0x",
        "nonce": "0x0", "value": "0x0", "v": "0x0", "r": "0x0", "s": "0x0", "blockHash": block,
    });
    let receipt = json!({
        "transactionHash": hash, "type": kind, "from": nobody, "to": nobody, "blockHash": block, "status": "0x1",
        "cumulativeGasUsed": "0xffff", "gasUsed": "0x0", "contractAddress": null,
        "logsBloom": format!("0x{}", "00".repeat(256)),
        "logs": [{ "address": nobody, "topics": [B256::repeat_byte(3)], "data": "0x01" }],
    });
    (transaction, receipt)
}

fn push(list: &mut Value, item: &Value) {
    list.as_array_mut().unwrap().push(item.clone());
}

#[tokio::test]
async fn what_is_in_no_root_is_left_out() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    let rpc = rpc(&proxy.url());
    let (contract, _) = deploy(&node, &rpc).await;
    crowd(&node, 4);
    let hash = anchor(&node, &rpc, 1, Some(contract)).await;
    node.mine(1);
    let (receipt, evidence) = proven(&rpc, hash).await;
    let key = [b"matic-bor-receipt-", &receipt.height.to_be_bytes()[..], receipt.hash.as_slice()].concat();
    let (transaction, told) = state_sync(keccak256(key), "0x0", receipt.hash);
    proxy.lie("eth_getBlockByHash", move |_, mut answer| {
        push(&mut answer["result"]["transactions"], &transaction);
        Told::Answer(answer)
    });
    proxy.lie("eth_getBlockReceipts", move |_, mut answer| {
        push(&mut answer["result"], &told);
        Told::Answer(answer)
    });
    assert_eq!(rpc.evidence(&receipt).await, Ok(Some(evidence.clone())));
    // Some nodes of Polygon cannot tell all receipts of such a block at once.
    proxy.lie("eth_getBlockReceipts", |_, _| Told::error(-32000, "receipts length mismatch: 6 vs 5"));
    assert_eq!(rpc.evidence(&receipt).await, Ok(Some(evidence)));
}

#[tokio::test]
async fn a_transaction_of_a_type_of_polygons_own_is_asked_for_as_bytes() {
    let node = Node::start(137, Mining::Manual);
    let proxy = Proxy::start(&node);
    let rpc = rpc(&proxy.url());
    let (contract, _) = deploy(&node, &rpc).await;
    crowd(&node, 4);
    let hash = anchor(&node, &rpc, 1, Some(contract)).await;
    node.mine(1);
    let truth = rpc.receipt(hash).await.unwrap().unwrap();

    // The same block with one more transaction, and with a header that ends with the base fee.
    let mut block = node.ask("eth_getBlockByHash", json!([truth.hash, true]));
    let mut receipts = node.ask("eth_getBlockReceipts", json!([format!("{:#x}", truth.height)]));
    let raw = Bytes::from([&[0x7f][..], &alloy_rlp::encode([0xabu8; 60].as_slice())].concat());
    let (transaction, told) = state_sync(keccak256(&raw), "0x7f", truth.hash);
    push(&mut block["transactions"], &transaction);
    push(&mut receipts, &told);
    let mut transactions: Vec<Bytes> = Vec::new();
    for told in block["transactions"].as_array().unwrap() {
        let asked = node.ask("eth_getRawTransactionByHash", json!([told["hash"]]));
        transactions.push(serde_json::from_value(asked).unwrap_or_else(|_| raw.clone()));
    }
    let encoded: Vec<_> = receipts.as_array().unwrap().iter().map(receipt_bytes).collect();
    let mut header: Header = serde_json::from_value(block.clone()).unwrap();
    header.transactions_root = ordered_trie_root_with_encoder(&transactions, |bytes, out| out.extend_from_slice(bytes));
    header.receipts_root =
        ordered_trie_root_with_encoder(&encoded, |bytes: &Vec<u8>, out| out.extend_from_slice(bytes));
    (header.withdrawals_root, header.blob_gas_used, header.excess_blob_gas) = (None, None, None);
    (header.parent_beacon_block_root, header.requests_hash) = (None, None);
    let hash_anew = header.hash_slow();
    block["transactionsRoot"] = json!(header.transactions_root);
    block["receiptsRoot"] = json!(header.receipts_root);
    block["hash"] = json!(hash_anew);
    receipts.as_array_mut().unwrap().iter_mut().for_each(|receipt| receipt["blockHash"] = json!(hash_anew));

    let receipt = Receipt { hash: hash_anew, ..truth };
    proxy.lie("eth_getBlockByHash", move |_, _| Told::result(block.clone()));
    proxy.lie("eth_getBlockReceipts", move |_, _| Told::result(receipts.clone()));
    proxy.lie("eth_getRawTransactionByHash", move |_, _| Told::result(json!(raw)));
    let evidence = rpc.evidence(&receipt).await.unwrap().unwrap();
    let shown = evm::check(&evidence).unwrap();
    assert_eq!((shown.hash, shown.transaction, shown.height), (hash_anew, hash, truth.height));
    assert_eq!(proxy.asked("eth_getRawTransactionByHash").len(), 1);

    proxy.lie("eth_getRawTransactionByHash", |_, _| Told::result(Value::Null));
    let unable = rpc.evidence(&receipt).await.unwrap_err();
    assert!(unable.to_string().contains("which is in a block; ask another node"), "{unable}");
    proxy.lie("eth_getRawTransactionByHash", |_, _| Told::error(-32601, "the method does not exist"));
    let unable = rpc.evidence(&receipt).await.unwrap_err();
    assert!(matches!(unable, RpcError::Refused { method: "eth_getRawTransactionByHash", .. }), "{unable}");
}

/// Status, gas, bloom and logs behind the type, written apart from what the client does.
fn receipt_bytes(receipt: &Value) -> Vec<u8> {
    let bytes = |value: &Value| serde_json::from_value::<Bytes>(value.clone()).unwrap();
    let logs: Vec<_> = receipt["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|log| {
            let topics: Vec<_> =
                log["topics"].as_array().unwrap().iter().map(|topic| alloy_rlp::encode(bytes(topic))).collect();
            list(&[alloy_rlp::encode(bytes(&log["address"])), list(&topics), alloy_rlp::encode(bytes(&log["data"]))])
        })
        .collect();
    let payload = list(&[
        alloy_rlp::encode(number(&receipt["status"])),
        alloy_rlp::encode(number(&receipt["cumulativeGasUsed"])),
        alloy_rlp::encode(bytes(&receipt["logsBloom"])),
        list(&logs),
    ]);
    match u8::try_from(number(&receipt["type"])).unwrap() {
        0 => payload,
        kind => [vec![kind], payload].concat(),
    }
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let payload_length = items.iter().map(Vec::len).sum();
    let mut bytes = Vec::new();
    alloy_rlp::Header { list: true, payload_length }.encode(&mut bytes);
    [bytes, items.concat()].concat()
}
