//! `meterseal key`: who signs the log.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigArgument, Done, complete, good_config, print};
use crate::agent::admin::{self, KeyView, Request};
use crate::agent::open_alone;
use crate::clock::Clock;
use crate::config::Config;
use crate::evidence::log::Publisher;
use crate::evidence::mark::Mark;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Print the verifier key that signs now. Auditors give the one they have, which may be an earlier one, to `verify --key`
    #[command(after_help = "Example:\n  meterseal key show\n  meterseal key show --all")]
    Show {
        #[command(flatten)]
        config: ConfigArgument,
        /// Also those of earlier epochs of the log, the oldest first
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign with a new key from now on: the old one vouches for it, and proofs that are pinned to the old one hold on
    #[command(after_help = "Example:\n  meterseal key rotate")]
    Rotate {
        #[command(flatten)]
        config: ConfigArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn key(command: KeyCommand) -> Done {
    match command {
        KeyCommand::Show { config, all, json } => show(&config.path, all, json),
        KeyCommand::Rotate { config, json } => rotate(&config.path, json),
    }
}

fn show(path: &Path, all: bool, json: bool) -> Done {
    let config = good_config(path, &Clock::system())?;
    let mut keys = complete(keys(&config))??;
    if !all {
        keys.drain(..keys.len().saturating_sub(1));
    }
    if json {
        print::json(&keys);
    } else if all {
        for KeyView { key, opened, reason, .. } in keys {
            print::out(&format!("{key}\n    since {opened}: {reason}\n"));
        }
    } else {
        keys.iter().for_each(|view| print::out(&format!("{}\n", view.key)));
    }
    Ok(ExitCode::SUCCESS)
}

async fn keys(config: &Config) -> anyhow::Result<Vec<KeyView>> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::ask(&socket, &Request::Keys {}).await;
    }
    let store = open_alone(config).await?;
    let keys = admin::keys(&store.reader()).await;
    store.close().await?;
    Ok(keys?)
}

fn rotate(path: &Path, json: bool) -> Done {
    let config = good_config(path, &Clock::system())?;
    let view = complete(rotated(&config))??;
    if json {
        print::json(&view);
    } else {
        print::out(&format!(
            "the log goes on as {}\nkey: {}\nAuditors keep the key they have: proofs from now on show how it vouched for this one.\n",
            view.origin, view.key
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn rotated(config: &Config) -> anyhow::Result<KeyView> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::ask(&socket, &Request::RotateKey {}).await;
    }
    let store = open_alone(config).await?;
    let publisher = Publisher::new(store.ledger(), Mark::at(config.evidence.mark.clone()));
    let view = admin::rotate_key(&store.reader(), &store.ledger(), &publisher).await;
    store.close().await?;
    view
}
