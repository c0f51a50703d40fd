//! Anchors as a client meets them, and what they say of blocks and exports.

use std::time::Duration;

use meterseal::model::{
    Anchor, AnchorRefused, AnchorState, AnchorStatus, Digest, Failed, JobProgress, JobRequest, WaitReason, Waiting,
};
use meterseal::store::JobEnd;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::assert_problem;
use super::plant::{ACCOUNT, HALF_MS, LESSER, NOW, Plant, anchor, anchor_status, at, block};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_config_the_routes_are_there_and_say_so() {
    let mut plant = Plant::start().await;
    let answer = plant.get("/api/anchor").await;
    assert_eq!((&answer["configured"], &answer["chain_id"]), (&json!(false), &Value::Null));
    assert_eq!((&answer["log"], &answer["covered"], &answer["anchors"]), (&Value::Null, &Value::Null, &json!([])));
    let ask = plant.post("/api/anchor").bearer_auth(&plant.token).send();
    let (refused, ()) = tokio::join!(ask, async {
        plant.anchors.recv().await.unwrap().reply.send(Ok(Err(AnchorRefused::NotConfigured))).unwrap();
    });
    let refused = refused.unwrap();
    assert_eq!(refused.status().as_u16(), 409);
    assert!(refused.text().await.unwrap().contains("[anchor]"));
    let off = Some("the file of its key is not there".to_owned());
    plant.anchor.send_replace(AnchorStatus { off: off.clone(), ..AnchorStatus::default() });
    let answer = plant.get("/api/anchor").await;
    assert_eq!((&answer["configured"], &answer["chain_id"], &answer["off"]), (&json!(true), &Value::Null, &json!(off)));
    for absent in ["1", "-1", "x", "18446744073709551616"] {
        assert_problem(&plant.ask(&format!("/api/anchor/{absent}")).await, 404);
    }
    for wrong in ["before=x", "limit=201", "bfore=1"] {
        assert_problem(&plant.ask(&format!("/api/anchor?{wrong}")).await, 400);
    }
    assert!(!plant.ask("/metrics").await.text.contains("meterseal_anchor"));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_is_shown_with_exact_amounts_and_what_it_covers() {
    let plant = Plant::start().await;
    plant.anchor.send_replace(anchor_status());
    let first = at("2026-11-20T16:00:00Z"); // local midnight
    let mut sealed = 0;
    let mut seal = async |count: i64| {
        let blocks = (sealed..sealed + count).map(|n| block(first.plus_millis(n * HALF_MS), Some(1_000_000_000)));
        plant.seal(blocks.collect()).await;
        sealed += count;
        plant.sign().await
    };
    let note = seal(10).await;
    let failed = Failed { transaction: Digest::of(b"x").as_bytes().into(), height: 7, at: at(NOW), fee: 1 };
    let last = Anchor { failed: vec![failed], ..anchor(&note, AnchorState::Final, 4) };
    assert_eq!(plant.anchor(last).await, 1);
    plant.clock.advance(Duration::from_secs(60));
    let newer = seal(3).await;
    let waiting = Waiting { reason: WaitReason::FeeCeiling, text: "the base fee is 700 gwei".into(), since: at(NOW) };
    let sent = Anchor { waiting: Some(waiting), ..anchor(&newer, AnchorState::Sent, 5) };
    plant.anchor(sent).await;
    let unanchored = seal(2).await;

    let answer = plant.get("/api/anchor").await;
    let expected = json!({
        "configured": true, "off": null, "chain_id": 137, "chain": "Polygon", "account": ACCOUNT, "contract": null,
        "balance": "20.0485", "balance_at": "2026-11-21T07:17:42.000Z", "days_left": 812,
        "next": "2026-11-21T08:18:12.000Z", "waiting": null,
        "explorer": format!("https://polygonscan.com/address/{ACCOUNT}"),
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(answer[name], *value, "{name}");
    }
    assert_eq!(answer["rpcs"][0]["name"], "https://polygon.example");
    let head = &unanchored.checkpoint;
    let epoch = head.origin.rsplit('/').next().unwrap();
    let log = json!({
        "epoch": epoch, "origin": head.origin, "size": 16, "root": head.root, "until": "2026-11-21T07:19:12.000Z",
    });
    assert_eq!(answer["log"], log);
    let hash = |nonce: u64, nth: u64| format!("0x{:064x}", nonce << 8 | nth);
    let seen_at = |hash: String| format!("https://polygonscan.com/tx/{hash}");
    let covering = json!({
        "id": 1, "chain_id": 137, "chain": "Polygon", "state": "final", "transaction": hash(4, 1),
        "explorer": seen_at(hash(4, 1)),
    });
    let covered = json!({
        "epoch": epoch, "size": 11, "until": "2026-11-21T07:18:12.000Z", "chain": "Polygon", "anchor": covering,
        "block": { "meter": "main", "start": "2026-11-20T20:30:00.000Z", "end": "2026-11-20T21:00:00.000Z" },
    });
    assert_eq!(answer["covered"], covered);
    let anchors = &answer["anchors"];
    assert_eq!((&anchors[0]["id"], &anchors[1]["id"], &anchors[2]), (&json!(2), &json!(1), &Value::Null));
    let told =
        json!({ "reason": "fee_ceiling", "text": "the base fee is 700 gwei", "since": "2026-11-21T07:18:12.000Z" });
    assert_eq!((&anchors[0]["waiting"], &anchors[0]["block"]), (&told, &Value::Null));

    let mut one = plant.get("/api/anchor/1").await;
    let evidence = json!({ "header": "c0ff", "index": 3, "receipt": ["01"], "transaction": ["02", "03"] });
    assert_eq!(one["evidence"].take(), evidence);
    one.as_object_mut().unwrap().remove("evidence");
    assert_eq!(one, anchors[1]);
    let transaction = |nth: u64, max_fee: &str| {
        let time = "2026-11-21T07:08:12.000Z";
        json!({
            "hash": hash(4, nth), "max_fee_gwei": max_fee, "tip_gwei": "30", "signed_at": time, "sent_at": time,
        })
    };
    let expected = json!({
        "id": 1, "kind": "checkpoint", "state": "final", "since": "2026-11-21T07:08:12.000Z",
        "queued_at": "2026-11-21T07:08:12.000Z", "chain_id": 137, "account": ACCOUNT, "contract": null,
        "epoch": epoch, "origin": note.checkpoint.origin, "size": 11, "root": note.checkpoint.root, "nonce": 4,
        "transaction": hash(4, 1), "transactions": [transaction(0, "60.5"), transaction(1, "121")],
        "failed": [{
            "transaction": format!("0x{}", Digest::of(b"x")), "height": 7, "at": "2026-11-21T07:18:12.000Z",
            "fee": "0.000000000000000001", "explorer": format!("https://polygonscan.com/tx/0x{}", Digest::of(b"x")),
        }],
        "block": {
            "height": 79_000_004, "hash": format!("0x{}", "b1".repeat(32)), "time": "2026-11-21T07:08:16.000Z",
        },
        "was_in": null, "gas": 29_123, "fee": "0.000902813", "waiting": null,
        "explorer": format!("https://polygonscan.com/tx/{}", hash(4, 1)),
    });
    assert_eq!(one, expected);
    assert_eq!(plant.get("/api/anchor?before=2&limit=5").await["anchors"], json!([expected]));

    // Each block says what covers it, in each form, wherever it is shown.
    let sent = json!({
        "id": 2, "chain_id": 137, "chain": "Polygon", "state": "sent", "transaction": hash(5, 1),
        "explorer": seen_at(hash(5, 1)),
    });
    for path in ["/api/meters/main/blocks/today", "/api/meters/main/readings?resolution=block&from=2026-11-21"] {
        let blocks = plant.get(path).await;
        let by: Vec<&Value> = blocks.as_array().unwrap().iter().map(|block| &block["anchor"]).collect();
        assert_eq!(by, [vec![&covering; 10], vec![&sent; 3], vec![&Value::Null; 2]].concat(), "{path}");
    }
    let csv = plant.ask("/api/meters/main/blocks?from=2026-11-21&format=csv").await.text;
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert!(lines[0].ends_with(",through_seq,anchor,anchor_state,anchor_transaction"), "{csv}");
    assert!(lines[1].ends_with(&format!(",7,1,final,{}", hash(4, 1))), "{csv}");
    assert!(lines[15].ends_with(",7,,,"), "{csv}");
    assert_eq!(lines[1].split(',').count(), lines[0].split(',').count());
    assert_eq!(lines[15].split(',').count(), lines[0].split(',').count());
    let snapshot = plant.get("/api/dashboard/snapshot").await;
    assert_eq!(snapshot["blocks_today"][12]["anchor"], sent);

    let metrics = plant.ask("/metrics").await.text;
    for sample in [
        "meterseal_anchors{state=\"final\"} 1\n",
        "meterseal_anchors{state=\"sent\"} 1\n",
        "meterseal_anchors{state=\"queued\"} 0\n",
        "meterseal_anchor_age_seconds 60.000\n",
        "meterseal_anchor_balance 20.0485\n",
        "meterseal_anchor_waits 0\n",
    ] {
        assert!(metrics.contains(sample), "{sample} is not in\n{metrics}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_final_on_the_test_net_is_not_said_of_the_chain() {
    let plant = Plant::start().await;
    plant.seal(vec![block(at("2026-11-20T16:00:00Z"), Some(1))]).await;
    let note = plant.sign().await;
    plant.anchor(Anchor { chain_id: 80_002, ..anchor(&note, AnchorState::Final, 4) }).await;
    let covered = async || {
        let (answer, blocks) = (plant.get("/api/anchor").await, plant.get("/api/meters/main/blocks/today").await);
        let covered = &answer["covered"];
        let chain_id = (&covered["anchor"]["chain_id"], &blocks[0]["anchor"]["chain_id"]);
        json!([covered["chain"], chain_id.0, chain_id.1, plant.ask("/metrics").await.text.contains("anchor_age")])
    };
    plant.anchor.send_replace(AnchorStatus { chain_id: 80_002, ..anchor_status() });
    assert_eq!(covered().await, json!(["Polygon Amoy", 80_002, 80_002, true]));
    plant.anchor.send_replace(anchor_status());
    assert_eq!(covered().await, json!([null, null, null, false]));
    plant.anchor.send_replace(AnchorStatus::default());
    assert_eq!(covered().await, json!(["Polygon Amoy", 80_002, 80_002, true]), "the config says nothing");
    plant.anchor(anchor(&note, AnchorState::Final, 4)).await;
    assert_eq!(covered().await, json!(["Polygon", 137, 137, true]));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_says_what_covers_it() {
    let plant = Plant::start().await;
    let (ledger, query) = (plant.store.ledger(), json!({ "name": "energy" }));
    let request = JobRequest { connection: "historian".into(), query, from_ns: 0, to_ns: 1 };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = ledger.queue_job(request.clone(), meterseal::model::Actor::here("first")).await.unwrap().unwrap().id;
        let end = JobEnd::Done { manifest_sha256: Digest::of(b"m"), stored: 1, progress: JobProgress::default() };
        assert!(ledger.begin_job(id).await.unwrap() && ledger.end_job(id, end).await.unwrap());
        ids.push(id);
        if ids.len() == 1 {
            plant.anchor(anchor(&plant.sign().await, AnchorState::Reorganised, 3)).await;
        }
    }
    let hash = format!("0x{:064x}", 3 << 8 | 1);
    let covering = json!({
        "id": 1, "chain_id": 137, "chain": "Polygon", "state": "reorganised", "transaction": hash,
        "explorer": format!("https://polygonscan.com/tx/{hash}"),
    });
    let exports = plant.get("/api/bulk").await;
    assert_eq!((&exports[0]["anchor"], &exports[1]["anchor"]), (&Value::Null, &covering));
    assert_eq!(plant.get(&format!("/api/bulk/{}", ids[0])).await["anchor"], covering);
    // It was in a block, and is not any more: nothing was paid for it.
    let one = plant.get("/api/anchor/1").await;
    assert_eq!(
        (&one["block"], &one["was_in"]["height"], &one["fee"]),
        (&Value::Null, &json!(79_000_003), &Value::Null)
    );
    assert_eq!(one["evidence"], Value::Null);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_is_asked_for_by_who_may_spend() {
    let mut plant = Plant::start().await;
    plant.anchor.send_replace(AnchorStatus { chain_id: 80_002, ..anchor_status() });
    let note = plant.sign().await;
    let ask = |plant: &Plant| plant.post("/api/anchor").bearer_auth(&plant.token).send();
    let queued = Anchor { id: 9, chain_id: 80_002, ..anchor(&note, AnchorState::Queued, 0) };
    let (answer, by) = tokio::join!(ask(&plant), async {
        let now = plant.anchors.recv().await.unwrap();
        now.reply.send(Ok(Ok(queued))).unwrap();
        now.order.by
    });
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), by.as_str()), (202, "first"));
    assert_eq!(answer.headers()["location"], "/api/anchor/9");
    let shown: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!((&shown["id"], &shown["state"], &shown["explorer"]), (&json!(9), &json!("queued"), &Value::Null));
    let (answer, ()) = tokio::join!(ask(&plant), async {
        plant.anchors.recv().await.unwrap().reply.send(Ok(Err(AnchorRefused::NothingNew(3)))).unwrap();
    });
    let answer = answer.unwrap();
    assert_eq!(answer.status().as_u16(), 409);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(answer.text().await.unwrap().contains("anchor 3 has all that the log holds"));

    for lesser in LESSER {
        assert_problem(&plant.send(plant.post("/api/anchor").bearer_auth(lesser)).await, 403);
    }
    assert!(plant.anchors.is_empty(), "nobody was bothered");
    // One waits in the queue, which holds no more.
    let mut waits = JoinSet::new();
    waits.spawn(ask(&plant));
    while plant.anchors.is_empty() {
        tokio::task::yield_now().await;
    }
    let full = plant.send(plant.post("/api/anchor").bearer_auth(&plant.token)).await;
    assert_problem(&full, 503);
    assert_eq!(full.header("retry-after"), "10");
    plant.anchors.recv().await.unwrap().reply.send(Ok(Err(AnchorRefused::Off("the key is gone".into())))).unwrap();
    assert_eq!(waits.join_next().await.unwrap().unwrap().unwrap().status().as_u16(), 409);
    plant.anchors.close();
    assert_problem(&plant.send(plant.post("/api/anchor").bearer_auth(&plant.token)).await, 503);
    plant.end().await;
}
