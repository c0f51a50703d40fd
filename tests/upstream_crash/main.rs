//! Whatever is killed and whatever the line does, the records upstream are those that were acknowledged at the source: none
//! is missing, none is there twice, none is changed.
//!
//! Without arguments: for a minute, gateway, receiver, PostgreSQL and broker are killed at random, behind networks at
//! their worst. `SECONDS [SEED]` does so for longer. `gateway …` and `receiver …` are processes that are killed.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

mod child;
#[path = "../upstream/gateway.rs"]
mod gateway;
#[path = "../upstream/held.rs"]
mod held;
#[path = "../upstream/listener.rs"]
mod listener;
#[path = "../peers/mosquitto.rs"]
mod mosquitto;
#[path = "../peers/postgres.rs"]
mod postgres;
#[path = "../peers/proxy.rs"]
mod proxy;
#[path = "../peers/receiver.rs"]
mod receiver;
mod scene;
#[path = "../upstream/upstreams.rs"]
mod upstreams;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use receiver::Receiver;
use scene::Scene;

/// What `cargo test` takes.
const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (seconds, seed) = match words.as_slice() {
        ["gateway", folder, addresses, seed] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let config = scene::config(serde_json::from_str(addresses).unwrap());
            runtime.block_on(child::run(Path::new(folder), config, seed.parse().unwrap()));
            return ExitCode::SUCCESS;
        }
        ["receiver", folder] => return serve(Path::new(folder)),
        [seconds] if seconds.parse::<u64>().is_ok() => (Duration::from_secs(seconds.parse().unwrap()), random()),
        [seconds, seed] => (Duration::from_secs(seconds.parse().unwrap()), seed.parse().unwrap()),
        // As the test harness calls it, with flags and filters.
        filters if filters.iter().any(|word| !word.starts_with("--") && !"upstream_crash".contains(word)) => {
            return ExitCode::SUCCESS;
        }
        _ => (MINUTE, random()),
    };
    println!("upstream_crash: {} s of seed {seed}", seconds.as_secs());
    match Scene::new(seed).play(seconds) {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            println!("seed {seed}: {wrong}");
            ExitCode::FAILURE
        }
    }
}

/// The receiver, until it is killed.
fn serve(folder: &Path) -> ExitCode {
    let receiver = Receiver::start(folder);
    println!("{}", receiver.port);
    loop {
        std::thread::park();
    }
}

fn random() -> u64 {
    let mut random = [0; 4];
    getrandom::fill(&mut random).unwrap();
    u32::from_le_bytes(random).into()
}
