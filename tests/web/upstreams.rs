//! Upstreams as a client meets them.

use std::sync::Arc;

use meterseal::model::{
    NewDeadLetter, Position, Stream, StreamStatus, Unsent, UpstreamOrder, UpstreamRefused, UpstreamState,
    UpstreamStatus, UpstreamsStatus,
};
use meterseal::web::UpstreamNow;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::assert_problem;
use super::plant::{LESSER, NOW, Plant, at};

/// One that works and lies behind with readings, and one that is away.
fn upstreams() -> Arc<UpstreamsStatus> {
    let readings = StreamStatus {
        position: Position { live: 90, open: vec![Unsent { first: 10, last: 39 }] },
        head: 100,
        depth: 40,
        oldest: Some(at(NOW).plus_millis(-90_500)),
        sent: 60,
        repeated: 2,
        rejected: 1,
        in_doubt: 3,
        skipped: 4,
        per_minute: 12,
        acknowledged: Some(at(NOW).plus_millis(-1_000)),
    };
    let cloud = UpstreamStatus {
        kind: "https".into(),
        to: "https://backend.example/v1/sync".into(),
        state: UpstreamState::Connected,
        since: at(NOW).plus_millis(-60_000),
        problem: None,
        retries: 5,
        dead_letters: 0,
        streams: vec![(Stream::Blocks, StreamStatus::default()), (Stream::Readings, readings)],
    };
    let history = UpstreamStatus {
        kind: "postgres".into(),
        to: "db.example:5432/plant".into(),
        state: UpstreamState::Away,
        since: at(NOW),
        problem: Some("db.example:5432 does not answer: see that it runs".into()),
        ..UpstreamStatus::default()
    };
    Arc::new([("cloud".to_owned(), cloud), ("history".to_owned(), history)].into())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_upstream_tells_how_far_it_is_and_what_is_wrong() {
    let plant = Plant::start().await;
    assert_eq!(plant.get("/api/upstream").await, json!([]));
    assert!(!plant.ask("/metrics").await.text.contains("meterseal_upstream"));
    assert_eq!(plant.get("/api/health").await["status"], "ok");
    plant.upstreams.send_replace(upstreams());

    let answer = plant.get("/api/upstream").await;
    let idle = json!({
        "stream": "blocks", "head": 0, "position": { "live": 0, "open": [] }, "depth": 0, "oldest_unsent": null,
        "oldest_unsent_age_s": null, "per_minute": 0, "acknowledged": null, "sent": 0, "repeated": 0, "rejected": 0,
        "in_doubt": 0, "skipped": 0,
    });
    let readings = json!({
        "stream": "readings", "head": 100, "position": { "live": 90, "open": [{ "first": 10, "last": 39 }] },
        "depth": 40, "oldest_unsent": "2026-11-21T07:16:41.500Z", "oldest_unsent_age_s": 90, "per_minute": 12,
        "acknowledged": "2026-11-21T07:18:11.000Z", "sent": 60, "repeated": 2, "rejected": 1, "in_doubt": 3,
        "skipped": 4,
    });
    let cloud = json!({
        "name": "cloud", "kind": "https", "to": "https://backend.example/v1/sync", "state": "connected",
        "since": "2026-11-21T07:17:12.000Z", "problem": null, "retries": 5, "dead_letters": 0,
        "streams": [idle, readings],
    });
    assert_eq!(answer[0], cloud);
    assert_eq!((&answer[1]["name"], &answer[1]["state"]), (&json!("history"), &json!("away")));

    let health = plant.get("/api/health").await;
    let away = "upstream history is away: db.example:5432 does not answer: see that it runs";
    assert_eq!((&health["status"], &health["problems"]), (&json!("degraded"), &json!([away])));
    plant.upstreams.send_modify(|upstreams| {
        let upstreams = Arc::make_mut(upstreams);
        let history = upstreams.get_mut("history").unwrap();
        (history.state, history.problem) = (UpstreamState::Stopped, Some("the password is wrong".into()));
        upstreams.get_mut("cloud").unwrap().dead_letters = 2;
    });
    let health = plant.get("/api/health").await;
    let refused = health["problems"][0].as_str().unwrap();
    assert!(refused.contains("cloud has refused") && refused.contains("dead-letters cloud`"), "{refused}");
    assert_eq!(health["problems"][1], "upstream history has stopped: the password is wrong");

    let metrics = plant.ask("/metrics").await.text;
    for sample in [
        "meterseal_upstream_up{upstream=\"cloud\"} 1\n",
        "meterseal_upstream_up{upstream=\"history\"} 0\n",
        "meterseal_upstream_retries_total{upstream=\"cloud\"} 5\n",
        "meterseal_upstream_dead_letters{upstream=\"cloud\"} 2\n",
        "meterseal_upstream_depth{upstream=\"cloud\",stream=\"readings\"} 40\n",
        "meterseal_upstream_sent_total{upstream=\"cloud\",stream=\"readings\"} 60\n",
        "meterseal_upstream_repeated_total{upstream=\"cloud\",stream=\"readings\"} 2\n",
        "meterseal_upstream_rejected_total{upstream=\"cloud\",stream=\"readings\"} 1\n",
        "meterseal_upstream_in_doubt_total{upstream=\"cloud\",stream=\"readings\"} 3\n",
        "meterseal_upstream_skipped_total{upstream=\"cloud\",stream=\"readings\"} 4\n",
        "meterseal_upstream_oldest_age_seconds{upstream=\"cloud\",stream=\"readings\"} 90.500\n",
        "meterseal_upstream_oldest_age_seconds{upstream=\"cloud\",stream=\"blocks\"} 0.000\n",
    ] {
        assert!(metrics.contains(sample), "{sample} is not in\n{metrics}");
    }
    plant.end().await;
}

/// A plant with those upstreams, and what is asked of them.
async fn plant() -> (Plant, mpsc::Receiver<UpstreamNow>) {
    let mut plant = Plant::start().await;
    plant.upstreams.send_replace(upstreams());
    let orders = std::mem::replace(&mut plant.upstream_orders, mpsc::channel(1).1);
    (plant, orders)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_of_an_upstream_is_asked_of_its_owner() {
    let (plant, mut orders) = plant().await;
    let upstream = || "cloud".to_owned();
    let replay = |ids| UpstreamOrder::Replay { upstream: upstream(), ids };
    let discard = |ids| UpstreamOrder::Discard { upstream: upstream(), ids };
    let cases = [
        ("flush", Value::Null, UpstreamOrder::Flush { upstream: upstream() }, 202),
        ("dead-letters", json!({ "replay": [3, 4] }), replay(Some(vec![3, 4])), 202),
        ("dead-letters", json!({ "replay": "all" }), replay(None), 202),
        ("dead-letters", json!({ "discard": [3] }), discard(Some(vec![3])), 204),
        ("dead-letters", json!({ "discard": "all" }), discard(None), 204),
    ];
    for (route, body, order, status) in cases {
        let request = plant.post(&format!("/api/upstream/cloud/{route}")).bearer_auth(&plant.token);
        let (answer, ()) = tokio::join!(plant.send(request.body(body.to_string())), async {
            let asked = orders.recv().await.unwrap();
            assert_eq!(asked.order, order);
            asked.reply.send(Ok(())).unwrap();
        });
        assert_eq!(answer.status, status, "{order:?}: {}", answer.text);
        if status == 202 {
            assert_eq!(answer.json()["name"], "cloud");
        } else {
            assert_eq!(answer.text, "");
        }
    }
    let refusals = [
        (UpstreamRefused::Unknown("cloud".into()), 404),
        (UpstreamRefused::NoDeadLetter(9), 404),
        (UpstreamRefused::Off("upstream cloud is off: its token is not there".into()), 409),
    ];
    for (why, status) in refusals {
        let request = plant.post("/api/upstream/cloud/flush").bearer_auth(&plant.token);
        let (answer, ()) = tokio::join!(plant.send(request), async {
            orders.recv().await.unwrap().reply.send(Err(why.clone())).unwrap();
        });
        assert_eq!(assert_problem(&answer, status)["detail"], why.to_string());
    }
    for wrong in ["", "all", "{}", r#"{"replay":"some"}"#, r#"{"replay":[-1]}"#, r#"{"replay":[1],"discard":[2]}"#] {
        let request = plant.post("/api/upstream/cloud/dead-letters").bearer_auth(&plant.token).body(wrong);
        assert_problem(&plant.send(request).await, 400);
    }
    let long = format!(r#"{{"replay":[{}1]}}"#, "1,".repeat(40_000));
    let request = plant.post("/api/upstream/cloud/dead-letters").bearer_auth(&plant.token).body(long);
    assert_problem(&plant.send(request).await, 413);
    for lesser in LESSER {
        for route in ["flush", "dead-letters"] {
            let request = plant.post(&format!("/api/upstream/cloud/{route}")).bearer_auth(lesser);
            assert_problem(&plant.send(request.body(r#"{"discard":"all"}"#)).await, 403);
        }
    }

    // One who does not answer keeps nobody else waiting.
    let waiting = plant.post("/api/upstream/cloud/flush").bearer_auth(&plant.token).send();
    let mut waiting = tokio::task::JoinSet::from_iter([waiting]);
    let first = orders.recv().await.unwrap();
    waiting.spawn(plant.post("/api/upstream/cloud/flush").bearer_auth(&plant.token).send());
    while orders.is_empty() {
        tokio::task::yield_now().await;
    }
    let refused = plant.send(plant.post("/api/upstream/cloud/flush").bearer_auth(&plant.token)).await;
    assert_problem(&refused, 503);
    assert_eq!(refused.header("retry-after"), "2");
    drop((first, orders));
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status().as_u16(), 503, "it is stopping");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_as_they_were_sent() {
    let (plant, _orders) = plant().await;
    assert_eq!(plant.get("/api/upstream/cloud/dead-letters").await, json!([]));
    let line = |seq: u64| format!(r#"{{"meter":"main","seq":{seq}}}"#);
    let letter = |seq| NewDeadLetter {
        stream: Stream::Readings,
        epoch: "e".into(),
        seq,
        line: line(seq),
        reason: "power_kw is too high".into(),
    };
    let letters = [4, 5, 6].map(letter).to_vec();
    plant.store.ledger().save_upstream("cloud".into(), Vec::new(), letters).await.unwrap();

    let all = plant.get("/api/upstream/cloud/dead-letters").await;
    let seqs = |answer: &Value| answer.as_array().unwrap().iter().map(|one| one["seq"].clone()).collect::<Vec<_>>();
    assert_eq!(seqs(&all), [6, 5, 4]);
    let newest = json!({
        "id": all[0]["id"], "stream": "readings", "epoch": "e", "seq": 6, "reason": "power_kw is too high",
        "at": "2026-11-21T07:18:12.000Z", "attempts": 1, "line": line(6),
    });
    assert_eq!(all[0], newest);
    let next = format!("/api/upstream/cloud/dead-letters?limit=1&before={}", all[0]["id"]);
    assert_eq!(seqs(&plant.get(&next).await), [5]);
    assert_eq!(plant.get("/api/upstream/history/dead-letters").await, json!([]));
    assert_problem(&plant.ask("/api/upstream/other/dead-letters").await, 404);
    for wrong in ["before=x", "limit=0", "limit=201", "bfore=1"] {
        assert_problem(&plant.ask(&format!("/api/upstream/cloud/dead-letters?{wrong}")).await, 400);
    }
    plant.end().await;
}
