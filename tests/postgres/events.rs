//! Events as a store writes them.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use meterseal::clock::Clock;
use meterseal::model::{
    Alert, AlertKind, Anchor, AnchorState, Anchored, Attempt, ChainEvidence, Digest, Event, Inclusion, JobProgress,
    JobRequest, Redate, Stream, Timestamp,
};
use meterseal::store::{self, JobEnd, Sealing, Store};

use crate::records::T;

/// An alert that is raised and ends, an export, an anchor up to its finality, and a re-dating: what a store made of them,
/// by stream.
pub async fn told_by_a_store() -> Vec<(Stream, Vec<Event>)> {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(T));
    let kept = store::Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(100),
        keep_raw: Duration::from_secs(10 * 86_400),
        max_disk: 1 << 30,
        reserve: 1 << 20,
    };
    store::init(&kept, &"plant-7".parse().unwrap(), &clock).unwrap();
    let store = Store::open(kept, clock.clone(), None).unwrap();
    let ledger = store.ledger();

    let raised = clock.now();
    let alert = Alert::new(
        AlertKind::MeterSilent,
        Some("m".parse().unwrap()),
        raised,
        raised,
        "tab\there, back\\slash, nul\0, it's ä".to_owned(),
    );
    let id = ledger.raise(alert).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(60));
    ledger.clear_alert(id, clock.now()).await.unwrap();

    let query = serde_json::json!({"name": "energy", "text": "SELECT 1"});
    let request = JobRequest { connection: "historian".to_owned(), query, from_ns: 1, to_ns: i64::MAX };
    let job = ledger.queue_job(request, meterseal::model::Actor::here("first")).await.unwrap().unwrap();
    let progress = JobProgress { rows: 7, bytes: 700, position_ns: None };
    let end = JobEnd::Done { manifest_sha256: Digest::of(b"m"), stored: 900, progress };
    ledger.end_job(job.id, end).await.unwrap();

    let (epoch, note) = ("0123456789abcdef".to_owned(), "origin\n5\nroot\n\n— sig\n".to_owned());
    let what = Anchored::Checkpoint { epoch, size: 5, note };
    let queued = Anchor::queued(what, 137, Address::repeat_byte(1), None, clock.now());
    let id = ledger.add_anchor(queued.clone()).await.unwrap();
    for state in [AnchorState::Sent, AnchorState::Final] {
        clock.advance(Duration::from_secs(60));
        let anchor = Anchor { id, state, since: clock.now(), attempts: vec![attempt(&clock)], ..queued.clone() };
        let (inclusion, evidence) = match state {
            AnchorState::Final => (Some(inclusion(&clock)), Some(evidence())),
            _ => (None, None),
        };
        ledger.save_anchor(Anchor { inclusion, ..anchor }, evidence).await.unwrap();
    }

    let redates = vec![Redate { boot: "b".to_owned(), first_seq: 5, last_seq: 9, offset_ms: 3_600_000 }];
    ledger.seal(Sealing { redates, ..Sealing::default() }).await.unwrap();

    let mut told = Vec::new();
    for (stream, count) in [(Stream::Alerts, 2), (Stream::Datasets, 1), (Stream::Anchors, 3), (Stream::Notices, 1)] {
        let events = store.reader().events(stream, 0, u64::MAX, 9).await.unwrap();
        assert_eq!(events.len(), count, "{stream}");
        told.push((stream, events));
    }
    drop(ledger);
    store.close().await.unwrap();
    told
}

fn attempt(clock: &Clock) -> Attempt {
    Attempt {
        hash: B256::repeat_byte(7),
        raw: Bytes::from(vec![7]),
        nonce: 4,
        max_fee: 300,
        tip: 30,
        gas_limit: 40_000,
        signed: clock.now(),
        height: 600,
        sent: Some(clock.now()),
    }
}

fn inclusion(clock: &Clock) -> Inclusion {
    Inclusion {
        height: 601,
        hash: B256::repeat_byte(8),
        time: clock.now(),
        index: 4,
        transaction: B256::repeat_byte(7),
        gas_used: 29_000,
        price: 300,
    }
}

fn evidence() -> ChainEvidence {
    ChainEvidence { header: vec![1; 40], index: 4, receipt: vec![vec![2; 50]], transaction: vec![vec![], vec![3]] }
}
