//! A process that anchors is killed before any one of its writes, and the next one anchors the same checkpoint once.
//!
//! Without arguments: kills at some of the writes, spread over all of them from a chance beginning; `from N` begins at
//! the N-th, `all` kills at every one. `anchor DIR PORT` is the process that is killed: it anchors what the store in DIR
//! has, at the node on PORT, until it is final.
//!
//! After every second kill the node has forgotten what it had taken and not mined, as if the process had been killed
//! before it sent it.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

#[path = "chain/harness/mod.rs"]
mod harness;
#[path = "anchor/house.rs"]
mod house;
mod kill;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use harness::{Mining, Node};
use house::{EVERY, House, config, limits, written};
use kill::{Which, run};
use meterseal::clock::Clock;
use meterseal::model::{AnchorState, Timestamp};
use meterseal::store;
use serde_json::json;

/// It stands still but for the pauses between rounds.
const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
/// What `cargo test` kills at.
const SPREAD: usize = 25;
/// More rounds than an anchor takes.
const MOST_ROUNDS: usize = 60;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["anchor", dir, port] => run(anchor(Path::new(dir), port.parse().unwrap(), NOW.plus(EVERY))),
        words => Which::by_arguments("anchor_crash", words).map_or(Ok(()), matrix),
    };
    kill::told(done)
}

/// Anchors until all is final; before each round the node makes a block.
async fn anchor(dir: &Path, port: u16, now: Timestamp) -> Result<(), String> {
    let mut house = House::at(dir, config(137, &[format!("http://127.0.0.1:{port}")]), Clock::manual(now));
    for _ in 0..MOST_ROUNDS {
        harness::mine(port);
        house.round().await;
        if house.anchors().await.iter().all(|anchor| anchor.state == AnchorState::Final) {
            return Ok(());
        }
    }
    Err(format!("it never comes to its end: {:#?}", house.anchors().await))
}

/// What must have come of it, whatever was killed: two anchors by now, each on the chain once.
async fn look(dir: &Path, node: &Node) -> Result<(), String> {
    let house = House::at(dir, config(137, &[node.url()]), Clock::manual(NOW.plus(EVERY * 2)));
    let anchors = house.anchors().await;
    let counts: Vec<usize> = written(node).into_values().collect();
    if counts != [1, 1] {
        return Err(format!("payloads are on the chain {counts:?} times: {anchors:#?}"));
    }
    if anchors.len() != 2 || anchors.iter().any(|anchor| anchor.state != AnchorState::Final) {
        return Err(format!("not two final anchors: {anchors:#?}"));
    }
    for anchor in &anchors {
        let evidence = house.reader().anchor_evidence(anchor.id).await.unwrap().ok_or("there is no evidence")?;
        let shown = meterseal::evidence::evm::check(&evidence).map_err(|unproven| unproven.to_string())?;
        if Some(shown.transaction) != anchor.transaction() {
            return Err(format!("the evidence is of another transaction: {anchor:#?}"));
        }
    }
    let alerts = house.alerts().await;
    if alerts.is_empty() { Ok(()) } else { Err(format!("there are alerts: {alerts:?}")) }
}

/// Kills at every write, or at some.
fn matrix(which: Which) -> Result<(), String> {
    let began = Instant::now();
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    // Always one place, since writes are told by their paths.
    let (dir, kept) = (folder.path().join("dir"), folder.path().join("kept"));
    fs::create_dir(&dir).unwrap();
    let node = Node::start(137, Mining::Manual);
    store::init(&limits(&dir), &"plant-7".parse().unwrap(), &Clock::manual(NOW)).unwrap();
    run(anchor(&dir, node.port, NOW))?;
    run(async {
        let house = House::at(&dir, config(137, &[node.url()]), Clock::manual(NOW));
        house.grow().await;
    });
    kill::copy_folder(&dir, &kept);
    let arguments = ["anchor".to_owned(), dir.display().to_string(), node.port.to_string()];
    let mut beginning = node.ask("evm_snapshot", json!([]));
    let mut begin_anew = || {
        kill::copy_folder(&kept, &dir);
        assert_eq!(node.ask("evm_revert", json!([beginning])), true);
        node.ask("anvil_dropAllTransactions", json!([]));
        beginning = node.ask("evm_snapshot", json!([]));
    };
    let writes = kill::record(&folder.path().join("log"), &dir, &arguments)?;
    run(look(&dir, &node))?;
    let (first, stride) = which.of(writes.len(), SPREAD);
    let mut kills = 0;
    for (at, write) in writes.iter().enumerate().skip(first).step_by(stride) {
        begin_anew();
        kills += usize::from(kill::kill_at(write, &arguments));
        let forgets = (at / stride).is_multiple_of(2);
        if forgets {
            node.ask("anvil_dropAllTransactions", json!([]));
        }
        let goes_on = run(async {
            anchor(&dir, node.port, NOW.plus(EVERY)).await?;
            look(&dir, &node).await
        });
        goes_on.map_err(|wrong| format!("killed at write {at}, {write:?}, forgotten: {forgets}: {wrong}"))?;
    }
    let tried = writes.len().saturating_sub(first).div_ceil(stride);
    println!(
        "anchor_crash: {kills} kills at {tried} of {} writes, from {first}: each checkpoint once, in {:?}",
        writes.len(),
        began.elapsed()
    );
    // How many writes there are is a matter of how the threads fall together, but for a few.
    if kills * 10 < tried * 8 { Err("too many were over before they were killed".to_owned()) } else { Ok(()) }
}
