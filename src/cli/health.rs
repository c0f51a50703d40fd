//! `meterseal health`: whether the daemon runs and stores what it reads, for scripts of packages and monitors.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{ConfigArgument, Done, Failed, complete, faulty, print};
use crate::agent::admin;
use crate::clock::Clock;
use crate::config::{self, Checked};
use crate::store;

#[derive(clap::Args)]
pub struct HealthArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Wait for it, at most so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=3600))]
    wait: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Between two looks of one that waits.
const AGAIN: Duration = Duration::from_millis(500);

pub fn health(arguments: &HealthArguments) -> Done {
    let path = &arguments.config.path;
    // A config that is refused says where the store is all the same: the last good one runs. Not so one that cannot be
    // read, or whose fault is just that.
    let (files, Checked { faults, store, .. }) = config::load(path, Clock::system().now());
    let of_store: Vec<_> = faults.into_iter().filter(|fault| files.is_none() || fault.key == "store.path").collect();
    if !of_store.is_empty() {
        return Err(faulty(path, &of_store, ""));
    }
    let patience = Duration::from_secs(arguments.wait.into());
    let status = complete(wait_for(&store, patience))??;
    if arguments.json {
        print::json(&status);
    } else {
        print::out(&told(&status));
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait_for(store: &store::Config, patience: Duration) -> Result<Value, Failed> {
    let until = Instant::now() + patience;
    loop {
        let looked = look(store).await;
        if looked.is_ok() || Instant::now() >= until {
            return looked;
        }
        sleep(AGAIN).await;
    }
}

async fn look(store: &store::Config) -> Result<Value, Failed> {
    let Some(socket) = admin::daemon_of(store)? else {
        return Err(Failed::new("no daemon runs").hint("See why with `journalctl -u meterseal`."));
    };
    let status = admin::status(&socket).await?;
    if let Some(why) = status["store"]["unwritable"].as_str() {
        return Err(Failed::new(format!("the daemon runs and cannot store what it reads: {why}")));
    }
    Ok(status)
}

fn told(status: &Value) -> String {
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let mut told = format!("meterseal {} runs and stores what it reads\npage: {}\n", text("version"), text("page"));
    if let Some(fingerprint) = status["fingerprint"].as_str() {
        told.push_str(&format!("certificate (SHA-256): {fingerprint}\n"));
    }
    for problem in status["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        told.push_str(&format!("problem: {problem}\n"));
    }
    told
}
