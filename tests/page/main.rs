//! The page in a real browser, before a plant whose power moves. `tests/setup` installs what it needs; with
//! `SCREENSHOTS=folder` it leaves pictures there.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(dead_code, reason = "the plant of the other web tests can do more")]

#[path = "../web/plant.rs"]
mod plant;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use meterseal::clock::Clock;
use meterseal::model::{
    Alert, AlertKind, Anchor, AnchorState, Digest, JobProgress, JobRequest, OpenBlock, RpcStatus, Timestamp,
    WaitReason, Waiting, instant_ns,
};
use meterseal::simulate::{self, Simulation};
use meterseal::sources::scan::scan;
use meterseal::sources::template::{self, Template};
use meterseal::store::JobEnd;
use meterseal::web::ScanNow;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use plant::{HALF_MS, NOW, Plant, anchor, anchor_status, at, block, commissioning, id, open_block};

const PATIENCE: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_plant_live() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(
        root.join(".peers/node_modules/playwright-core").exists(),
        "playwright-core is not installed: run tests/setup"
    );
    let mut plant = Plant::start().await;
    fill(&plant).await;
    let mut tasks = JoinSet::new();
    let bus = bus(&mut tasks).await;
    let mut browser = tokio::process::Command::new("node")
        .arg(root.join("tests/page/page.mjs"))
        .args([plant.url("").as_str(), plant.token.as_str(), "/usr/bin/chromium", bus.as_str()])
        .args(std::env::var_os("SCREENSHOTS"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node is installed by tests/setup");
    let mut said = BufReader::new(browser.stdout.take().unwrap()).lines();
    let mut say = browser.stdin.take().unwrap();
    let (end, mut beat) = (Instant::now() + PATIENCE, interval(Duration::from_millis(250)));
    for second in 1.. {
        tokio::select! {
            _ = beat.tick() => {
                let time = at(NOW).plus_millis(second * 250);
                let watts = 200_000.0 + f32::from(u16::try_from(second % 900).unwrap()) * 100.0;
                plant.read(time, watts, 5_000).await;
                plant.open.send_replace(Arc::new([(id("main"), OpenBlock { at: time, ..open_block() })].into()));
            }
            Some(ScanNow { order, tell, begun }) = plant.scans.recv() => {
                begun.send(Ok(())).unwrap();
                tasks.spawn(scan(order, templates(), Arc::default(), tell));
            }
            line = timeout_at(end, said.next_line()) => match line.expect("the browser is done in time").unwrap().as_deref() {
                Some("anchor") => {
                    anchor_all(&plant).await;
                    say.write_all(b"anchored\n").await.unwrap();
                }
                Some("restart") => {
                    plant = plant.restart_web().await;
                    say.write_all(b"restarted\n").await.unwrap();
                }
                Some("done") => break,
                Some(other) => println!("{other}"),
                None => panic!("the page is not as it should be: see above"),
            }
        }
    }
    assert!(browser.wait().await.unwrap().success());
    plant.end().await;
}

/// The address of a bus of simulated meters, one of which is not told from its like by anything it says.
async fn bus(tasks: &mut JoinSet<()>) -> String {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let named = |name: &str| templates().into_iter().find(|template| template.name == name).unwrap();
    let templates = ["eastron-sdm630", "abb-b23", "siemens-pac2200", "schneider-iem3000"].map(named).into();
    let config = simulate::Config { listen, meters: 4, templates, timezone: TimeZone::UTC };
    let simulation = Simulation::bind(&config).await.unwrap();
    let address = simulation.simulated().unwrap()[0].address.to_string();
    // A Wednesday noon at which every one of them is well.
    let noon = Clock::manual(Timestamp::from_millis(1_795_003_320_000));
    tasks.spawn(simulation.run(noon, CancellationToken::new()));
    address
}

fn templates() -> Vec<Arc<Template>> {
    template::shipped().iter().map(|(name, text)| Arc::new(template::parse(name, text).unwrap())).collect()
}

/// The fee has fallen, and everything is final.
async fn anchor_all(plant: &Plant) {
    let note = plant.sign().await;
    for (id, state) in [(2, AnchorState::Reorganised), (3, AnchorState::Final)] {
        let nonce = 3 + id;
        let kept = plant.store.reader().anchor(id).await.unwrap().unwrap();
        let Anchor { attempts, inclusion, .. } = anchor(&note, state, nonce);
        let next = Anchor { state, attempts, inclusion, waiting: None, ..kept };
        plant.store.ledger().save_anchor(next, None).await.unwrap();
    }
    plant.anchor(anchor(&note, AnchorState::Final, 7)).await;
    plant.anchor.send_replace(anchor_status());
}

/// An export of November that is done with so many rows, or has failed.
async fn export(plant: &Plant, name: &str, rows: Option<u64>) {
    let ns = |text| instant_ns(text, &TimeZone::UTC).unwrap();
    let request = JobRequest {
        connection: "historian".into(),
        query: json!({ "name": name }),
        from_ns: ns("2025-10-31T16:00:00Z"),
        to_ns: ns("2025-11-30T16:00:00Z"),
    };
    let ledger = plant.store.ledger();
    let id = ledger.queue_job(request, "first".to_owned()).await.unwrap().unwrap().id;
    let end = match rows {
        Some(rows) => JobEnd::Done {
            manifest_sha256: Digest::of(name.as_bytes()),
            stored: 1,
            progress: JobProgress { rows, ..JobProgress::default() },
        },
        None => JobEnd::Failed { error: "the server is away".into() },
    };
    assert!(ledger.begin_job(id).await.unwrap() && ledger.end_job(id, end).await.unwrap());
}

/// Thirty blocks of the local day with one that is silent and one above the target, an alert and a problem.
async fn fill(plant: &Plant) {
    let midnight = at("2026-11-20T16:00:00Z");
    let kwh = |n: i64| match n {
        9 => None,
        24 => Some(130),
        n => Some(60 + n),
    };
    export(plant, "sixth", Some(2)).await;
    let uwh = |n| kwh(n).map(|kwh| kwh * 1_000_000_000);
    for (blocks, state) in [(0..20, AnchorState::Final), (20..26, AnchorState::Included), (26..30, AnchorState::Queued)]
    {
        plant.seal(blocks.map(|n| block(midnight.plus_millis(n * HALF_MS), uwh(n))).collect()).await;
        export(plant, state.as_str(), Some(12_345)).await;
        let waiting = Waiting {
            reason: WaitReason::FeeCeiling,
            text: "the least fee is 712 gwei, above the ceiling of 300: raise anchor.max_fee_gwei, or wait".into(),
            since: at(NOW).plus_millis(-900_000),
        };
        let waiting = (state == AnchorState::Queued).then_some(waiting);
        plant
            .anchor(Anchor {
                waiting,
                ..anchor(&plant.sign().await, state, 4 + u64::from(state == AnchorState::Included))
            })
            .await;
    }
    // Some that no anchor covers, one whose name is markup, and one that failed.
    export(plant, "unanchored", Some(1)).await;
    export(plant, "<b id=bold>no</b>", Some(0)).await;
    export(plant, "failed", None).await;
    let mut status = anchor_status();
    status.rpcs.push(RpcStatus {
        name: "https://second.example:8443".into(),
        trouble: Some("does not answer: connection refused".into()),
        ..status.rpcs[0].clone()
    });
    plant.anchor.send_replace(status);
    let alert = Alert {
        id: 0,
        kind: AlertKind::TargetAtRisk,
        meter: Some(id("main")),
        occasion: at(NOW),
        raised: at(NOW),
        cleared: None,
        text: "Main incomer is heading for 132 kWh".into(),
        delivered: None,
    };
    plant.store.ledger().raise(alert).await.unwrap();
    plant.store.ledger().commission(commissioning()).await.unwrap();
    plant.problems.send_replace(Arc::new(vec!["the webhook is away".into()]));
    plant.read(at(NOW), 200_000.0, 5_000).await;
}
