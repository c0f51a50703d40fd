//! A plant that has something of everything, and somebody behind each door of the web.

use std::sync::Arc;

use meterseal::model::{
    Alert, AlertKind, AnchorState, JobRequest, NewDeadLetter, PollReport, Position, ScanEvent, Stream, StreamStatus,
    UpstreamState, UpstreamStatus,
};
use meterseal::store::JobEnd;
use meterseal::web::{
    AnchorNow, Credentials, Edit, EditNow, EditRefused, Edited, RegistersNow, Reloaded, ScanNow, TestNow, Tested,
    UpstreamNow,
};
use serde_json::json;

use super::plant::{HALF_MS, NOW, Plant, anchor, anchor_status, at, block, commissioning, id};

/// Fills the store and what the rooms tell; the ids of the exports.
pub async fn furnish(plant: &Plant) -> Vec<String> {
    let (ledger, now) = (plant.store.ledger(), at(NOW));
    plant.read(now.plus_millis(-1_000), 200_000.0, 5_000).await;
    plant.read(now, 201_000.0, 5_001).await;
    let start = at("2026-11-21T04:00:00Z");
    let blocks = (0..6).map(|half| block(start.plus_millis(half * HALF_MS), (half != 2).then_some(50_000_000_000)));
    plant.seal(blocks.collect()).await;
    ledger.commission(commissioning()).await.unwrap();
    let alert = Alert {
        id: 0,
        kind: AlertKind::MeterSilent,
        meter: Some(id("main")),
        occasion: now,
        raised: now,
        acknowledged: None,
        acknowledged_by: None,
        cleared: None,
        text: "meter main does not answer".into(),
        delivered: Some(now),
    };
    ledger.raise(alert.clone()).await.unwrap();
    ledger.raise(Alert { kind: AlertKind::ConfigRefused, meter: None, delivered: None, ..alert }).await.unwrap();
    let note = plant.sign().await;
    for (state, nonce) in [(AnchorState::Final, 1), (AnchorState::Sent, 2), (AnchorState::Reorganised, 3)] {
        plant.anchor(anchor(&note, state, nonce)).await;
    }
    plant.anchor.send_replace(anchor_status());
    let mut exports = Vec::new();
    for end in [None, Some(JobEnd::Failed { error: "wrong password".into() })] {
        let query = json!({ "name": "energy" });
        let request = JobRequest { connection: "historian".into(), query, from_ns: 0, to_ns: 1 };
        let export = ledger.queue_job(request, meterseal::model::Actor::here("first")).await.unwrap().unwrap().id;
        if let Some(end) = end {
            assert!(ledger.begin_job(export).await.unwrap() && ledger.end_job(export, end).await.unwrap());
        }
        exports.push(export.to_string());
    }
    let letter = |seq| NewDeadLetter {
        stream: Stream::Readings,
        epoch: "e".into(),
        seq,
        line: format!(r#"{{"meter":"main","seq":{seq}}}"#),
        reason: "power_kw is too high".into(),
    };
    ledger.save_upstream("cloud".into(), Vec::new(), (4..40).map(letter).collect()).await.unwrap();
    let stream = StreamStatus { position: Position { live: 3, open: Vec::new() }, ..StreamStatus::default() };
    let cloud = UpstreamStatus {
        kind: "https".into(),
        to: "https://backend.example/v1/sync".into(),
        state: UpstreamState::Connected,
        since: now,
        streams: vec![(Stream::Blocks, stream)],
        ..UpstreamStatus::default()
    };
    let history = UpstreamStatus { state: UpstreamState::Away, problem: Some("it is away".into()), ..cloud.clone() };
    plant.upstreams.send_replace(Arc::new([("cloud".to_owned(), cloud), ("history".to_owned(), history)].into()));
    exports
}

pub fn epoch(plant: &Plant) -> String {
    plant.store.reader().identity().epoch.clone()
}

/// Does what is asked, for ever.
pub async fn answer(plant: &mut Plant) {
    let note = plant.sign().await;
    // Whoever asked may have gone.
    loop {
        tokio::select! {
            Some(ScanNow { tell, begun, .. }) = plant.scans.recv() => {
                begun.send(Ok(())).ok();
                tell.send(ScanEvent::Failed { why: "nobody answers".into(), hint: "is it on?".into() }).await.ok();
            }
            Some(TestNow { tell, .. }) = plant.tests.recv() => {
                let tested = Tested { server_version: "1.6.7".into(), credentials: Credentials::Proven };
                tell.send(Ok(tested)).ok();
            }
            Some(AnchorNow { reply, .. }) = plant.anchors.recv() => {
                reply.send(Ok(Ok(anchor(&note, AnchorState::Queued, 9)))).ok();
            }
            Some(EditNow { edit, reply, .. }) = plant.edits.recv() => {
                let done = match edit {
                    Edit::Check { .. } => Ok(Edited::Checked { faults: Vec::new(), warnings: Vec::new() }),
                    Edit::Reload => Ok(Edited::Reloaded(Reloaded::default())),
                    _ => Err(EditRefused::Conflict("meterseal.toml says otherwise".into())),
                };
                reply.send(done).ok();
            }
            Some(RegistersNow { meter, reply }) = plant.registers.recv() => {
                let report = PollReport { meter, time: at(NOW), identity: None, values: Vec::new(), advice: None };
                reply.send(Ok(report)).ok();
            }
            Some(UpstreamNow { reply, .. }) = plant.upstream_orders.recv() => {
                reply.send(Ok(())).ok();
            }
        }
    }
}
