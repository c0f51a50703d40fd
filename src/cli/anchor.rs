//! `meterseal anchor`: now, status, deploy.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{Done, Failed, complete, good_config, print};
use crate::agent::anchors::{self, AnchorsTold};
use crate::clock::Clock;
use crate::config;
use crate::evidence::anchor::Wanted;
use crate::evidence::anchor::fees::Coin;
use crate::model::proof::AnchoredBy;
use crate::model::{Anchor, AnchorRefused, AnchorState, AnchorStatus, Anchored};

#[derive(Subcommand)]
pub enum AnchorCommand {
    /// Anchor the newest checkpoint, and wait until it is final
    #[command(after_help = "Examples:\n  meterseal anchor now\n  meterseal anchor now --wait included --json\n\n\
        Goes through the daemon when it runs. Ctrl-C ends the waiting, not the anchor: what is queued or sent goes on.")]
    Now(AnchorArguments),
    /// Show the account, what it has left, the nodes, and the newest anchors
    #[command(after_help = "Example:\n  meterseal anchor status")]
    Status {
        /// The config
        #[arg(short = 'c', long = "config", value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Deploy the contract that anchors are written to, and print the line for the config
    #[command(after_help = "Example:\n  meterseal anchor deploy\n\n\
        Costs some 100 000 gas, once. Without a contract anchors are call data, which cost the same and prove as much; a \
        contract\nmakes them easy to find by others.")]
    Deploy(AnchorArguments),
}

#[derive(clap::Args)]
pub struct AnchorArguments {
    /// The config
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// How far it must be
    #[arg(long, value_name = "STATE", default_value = "final")]
    wait: Wait,
    /// Print each change as a line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wait {
    /// It is in a block of the chain, and proven to be
    Included,
    /// That block is final
    Final,
}

pub fn anchor(command: AnchorCommand) -> Done {
    match command {
        AnchorCommand::Now(arguments) => {
            let anchor = followed(&arguments, Wanted::Checkpoint)?;
            if !arguments.json
                && let (Some(inclusion), Anchored::Checkpoint { size, .. }) = (&anchor.inclusion, &anchor.what)
            {
                print::out(&format!(
                    "anchor {}: {size} entries of the log are at height {} of chain {}, transaction {}, {}\n",
                    anchor.id,
                    inclusion.height,
                    anchor.chain_id,
                    inclusion.transaction,
                    anchor.state.as_str()
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        AnchorCommand::Deploy(arguments) => {
            let anchor = followed(&arguments, Wanted::Contract)?;
            if let (false, Some(contract)) = (arguments.json, anchor.made_contract()) {
                print::out(&format!(
                    "# the contract is there. Put this line into [anchor] of the config, and reload: systemctl reload meterseal, or SIGHUP\n\
                     contract = \"{contract}\"\n"
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        AnchorCommand::Status { config, json } => status(&config, json),
    }
}

/// What to do where this process cannot anchor itself; a daemon that runs is asked in any case.
fn unable(error: anyhow::Error) -> Failed {
    let hint = match error.downcast_ref() {
        Some(AnchorRefused::Off(_)) => {
            "Start meterseal, which is then asked: a credential can be seen by the service alone. A key in a file is read by \
             root and by the user that runs meterseal."
        }
        Some(AnchorRefused::NotConfigured) => "docs/anchors.md says how to set it up.",
        _ => return error.into(),
    };
    Failed::from(error).hint(hint)
}

fn followed(arguments: &AnchorArguments, wanted: Wanted) -> Result<Anchor, Failed> {
    let config = good_config(&arguments.config, &Clock::system())?;
    let until = match arguments.wait {
        Wait::Included => AnchorState::Included,
        Wait::Final => AnchorState::Final,
    };
    let mut seen = Seen { json: arguments.json, terminal: io::stderr().is_terminal(), said: String::new(), last: None };
    let done = complete(anchors::for_command(&config, wanted, until, |anchor| {
        seen.take(anchor);
        Ok(())
    }))?;
    if seen.terminal && !seen.json {
        eprintln!();
    }
    done.map_err(unable)?;
    seen.last.ok_or_else(|| Failed::new("nothing was told of the anchor"))
}

/// What came so far.
struct Seen {
    json: bool,
    terminal: bool,
    said: String,
    last: Option<Anchor>,
}

impl Seen {
    fn take(&mut self, anchor: Anchor) {
        let line = line(&anchor);
        self.last = Some(anchor);
        if self.json {
            print::json_line(&self.last);
        } else if self.said != line {
            if self.terminal {
                // One line that is written over, but for what it waits for, which is worth keeping.
                eprint!("\r{line}\x1b[K");
                // Nothing hangs on it.
                io::stderr().flush().ok();
            } else {
                eprintln!("{line}");
            }
            self.said = line;
        }
    }
}

fn is_in_a_block(state: AnchorState) -> bool {
    matches!(state, AnchorState::Included | AnchorState::Final)
}

/// Where an anchor is, in a line.
fn line(anchor: &Anchor) -> String {
    let mut line = format!("anchor {}: {}", anchor.id, anchor.state.as_str());
    if let Some(inclusion) = anchor.inclusion.as_ref().filter(|_| is_in_a_block(anchor.state)) {
        line += &format!(" at height {}", inclusion.height);
    } else if let Some(attempt) = anchor.attempts.last() {
        line += &format!(", transaction {} (attempt {})", attempt.hash, anchor.attempts.len());
    }
    if let Some(waiting) = &anchor.waiting {
        line += &format!("; waiting: {}", waiting.text);
    }
    line
}

fn status(path: &std::path::Path, json: bool) -> Done {
    let config = good_config(path, &Clock::system())?;
    let told = complete(anchors::status(&config))?.map_err(unable)?;
    if json {
        let contract = told.anchors.iter().find_map(Anchor::made_contract);
        print::json(
            &json!({ "status": told.status, "anchors": told.anchors, "deployed": contract, "former": told.former }),
        );
    } else {
        print::out(&table(&told));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(told: &AnchorsTold) -> String {
    let mut text = match (&told.status.off, told.status.is_configured()) {
        (Some(why), _) => format!("anchoring is off: {why}\n"),
        (None, true) => set_up(&told.status),
        (None, false) => "no anchoring is configured: docs/anchors.md says how to set it up\n".to_owned(),
    };
    for AnchoredBy { chain_id, account } in &told.former {
        text += &format!("formerly: {account} on chain {chain_id}\n");
    }
    text += "\n";
    for anchor in &told.anchors {
        let what = match (&anchor.what, anchor.made_contract()) {
            (Anchored::Checkpoint { epoch, size, .. }, _) => format!("{size} entries of {epoch}"),
            (Anchored::Contract, Some(contract)) => format!("contract {contract}"),
            (Anchored::Contract, None) => "contract".to_owned(),
        };
        text += &format!("{}; {what}; since {}\n", line(anchor), anchor.since);
    }
    if told.anchors.is_empty() {
        text += "nothing is anchored yet\n";
    }
    text
}

/// How anchoring is set up, and how it does.
fn set_up(status: &AnchorStatus) -> String {
    let AnchorStatus { chain_id, account, contract, balance, days_left, next, rpcs, waiting, .. } = status;
    let name = match chain_id {
        137 => " (Polygon)",
        80_002 => " (Amoy, Polygon's test net)",
        _ => "",
    };
    let mut text = format!("chain:    {chain_id}{name}\n");
    if let Some(account) = account {
        text += &format!("account:  {account}\n");
    }
    let lasts = days_left.map_or_else(String::new, |days| format!(", which lasts {days} days at the present rate"));
    text += &match balance {
        Some((wei, at)) => format!("balance:  {}{lasts} (asked at {at})\n", Coin { wei: *wei, chain_id: *chain_id }),
        None => "balance:  not known yet\n".to_owned(),
    };
    text += &contract.map_or_else(
        || "contract: none; anchors are call data\n".to_owned(),
        |contract| format!("contract: {contract}\n"),
    );
    if let Some(next) = next {
        text += &format!("next:     {next}\n");
    }
    for rpc in rpcs {
        let height = rpc.height.map_or_else(String::new, |height| format!(", height {height}"));
        let end = rpc.finalized.map_or_else(String::new, |height| format!(", final up to {height}"));
        let trouble = rpc.trouble.as_ref().map_or_else(String::new, |trouble| format!(": {trouble}"));
        text += &format!("rpc:      {}{height}{end}{trouble}\n", rpc.name);
    }
    if let Some(waiting) = waiting {
        text += &format!("waiting:  since {}: {}\n", waiting.since, waiting.text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attempt, Inclusion, Timestamp};
    use alloy_primitives::{Address, B256, Bytes};

    #[test]
    fn what_is_not_set_up_is_told_as_that() {
        let told = |status| table(&AnchorsTold { status, anchors: Vec::new(), former: Vec::new() });
        let none = "no anchoring is configured: docs/anchors.md says how to set it up\n\nnothing is anchored yet\n";
        assert_eq!(told(AnchorStatus::default()), none);
        let off = AnchorStatus { off: Some("there is no file /key".to_owned()), ..AnchorStatus::default() };
        assert!(told(off).starts_with("anchoring is off: there is no file /key\n"));
        assert!(
            told(AnchorStatus { chain_id: 137, ..AnchorStatus::default() }).starts_with("chain:    137 (Polygon)\n")
        );
    }

    #[test]
    fn one_that_fell_off_the_chain_is_told_by_what_is_sent_again() {
        let (now, hash) = (Timestamp::from_millis(0), B256::repeat_byte(7));
        let attempt = Attempt {
            hash,
            raw: Bytes::new(),
            nonce: 1,
            max_fee: 1,
            tip: 1,
            gas_limit: 1,
            signed: now,
            height: 1,
            sent: Some(now),
        };
        let (transaction, gas_used) = (hash, 1);
        let inclusion = Inclusion { height: 12, hash, time: now, index: 0, transaction, gas_used, price: 1 };
        let told = |state| {
            line(&Anchor {
                id: 3,
                state,
                attempts: vec![attempt.clone()],
                inclusion: Some(inclusion.clone()),
                ..Anchor::queued(Anchored::Contract, 137, Address::ZERO, None, now)
            })
        };
        assert_eq!(told(AnchorState::Included), "anchor 3: included at height 12");
        assert_eq!(told(AnchorState::Final), "anchor 3: final at height 12");
        let again = format!("anchor 3: reorganised, transaction {hash} (attempt 1)");
        assert_eq!(told(AnchorState::Reorganised), again);
    }
}
