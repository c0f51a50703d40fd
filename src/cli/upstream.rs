//! `meterseal upstream`: status, flush, dead-letters, replay, discard.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Done, Failed, USAGE, complete, good_config, print};
use crate::agent::upstreams::{self, UpstreamsTold};
use crate::clock::Clock;
use crate::config;
use crate::model::{DeadLetter, Stream, StreamStatus, UpstreamOrder, UpstreamState, UpstreamStatus};

#[derive(Args)]
pub struct UpstreamArguments {
    #[command(subcommand)]
    command: Option<UpstreamCommand>,
    /// The config
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = config::DEFAULT_PATH, global = true)]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum UpstreamCommand {
    /// Show how far each upstream is, and what is wrong
    #[command(after_help = "Example:\n  meterseal upstream status")]
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Try at once what else waits for its time
    #[command(after_help = "Example:\n  meterseal upstream flush cloud")]
    Flush {
        /// The upstream's name in the config
        name: String,
    },
    /// List the records that an upstream would not take, the newest first
    #[command(
        after_help = "Example:\n  meterseal upstream dead-letters cloud\n  meterseal upstream dead-letters cloud --json"
    )]
    DeadLetters {
        /// The upstream's name in the config
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send dead letters again, once the other side takes them
    #[command(after_help = "Example:\n  meterseal upstream replay cloud\n  meterseal upstream replay cloud 12 13")]
    Replay {
        /// The upstream's name in the config
        name: String,
        /// Which; all unless told
        #[arg(value_name = "ID")]
        ids: Vec<u64>,
    },
    /// Forget dead letters: the other side never gets them
    #[command(
        after_help = "Example:\n  meterseal upstream discard cloud 12 13\n  meterseal upstream discard cloud --all"
    )]
    Discard {
        /// The upstream's name in the config
        name: String,
        /// Which
        #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<u64>,
        /// All that there are
        #[arg(long)]
        all: bool,
    },
}

pub fn upstream(UpstreamArguments { command, config: path, json: first }: UpstreamArguments) -> Done {
    // `--json` may stand before what it belongs to.
    match command {
        None => status(&path, first),
        Some(UpstreamCommand::Status { json }) => status(&path, first || json),
        Some(UpstreamCommand::DeadLetters { name, json }) => dead_letters(&name, &path, first || json),
        Some(_) if first => {
            let why = "--json is for `meterseal upstream status` and `meterseal upstream dead-letters`";
            Err(Failed { code: USAGE, ..Failed::new(why) })
        }
        Some(UpstreamCommand::Flush { name }) => {
            order(&path, UpstreamOrder::Flush { upstream: name.clone() })?;
            done(&format!("upstream {name} is tried at once; see with `meterseal upstream`\n"))
        }
        Some(UpstreamCommand::Replay { name, ids }) => {
            let ids = (!ids.is_empty()).then_some(ids);
            if ids.is_none() && has_refused_nothing(&path, &name)? {
                return done(&format!("{name} has refused nothing: there is nothing to send again\n"));
            }
            order(&path, UpstreamOrder::Replay { upstream: name.clone(), ids })?;
            done(&format!(
                "they are sent again; what is refused once more is in `meterseal upstream dead-letters {name}`\n"
            ))
        }
        Some(UpstreamCommand::Discard { name, ids, all }) => {
            let ids = (!all).then_some(ids);
            if ids.is_none() && has_refused_nothing(&path, &name)? {
                return done(&format!("{name} has refused nothing: there is nothing to discard\n"));
            }
            order(&path, UpstreamOrder::Discard { upstream: name, ids })?;
            done("discarded\n")
        }
    }
}

fn done(text: &str) -> Done {
    print::out(text);
    Ok(ExitCode::SUCCESS)
}

fn order(path: &Path, order: UpstreamOrder) -> Result<(), Failed> {
    let config = good_config(path, &Clock::system())?;
    Ok(complete(upstreams::order(&config, order))??)
}

fn has_refused_nothing(path: &Path, name: &str) -> Result<bool, Failed> {
    let config = good_config(path, &Clock::system())?;
    Ok(!complete(upstreams::has_dead_letters(&config, name))??)
}

fn status(path: &Path, json: bool) -> Done {
    let config = good_config(path, &Clock::system())?;
    let told = complete(upstreams::status(&config))??;
    if json {
        print::json(&as_json(&told));
    } else {
        print::out(&table(&told));
    }
    Ok(ExitCode::SUCCESS)
}

/// As the API tells it, with times in ms.
fn as_json(told: &UpstreamsTold) -> Value {
    let with = |value: Value, name: &str, of: &str| {
        let mut value = value;
        value[name] = json!(of);
        value
    };
    let upstreams = told.upstreams.iter().map(|(name, status)| {
        let streams = status.streams.iter().map(|(stream, status)| with(json!(status), "stream", stream.as_str()));
        let mut upstream = with(json!(status), "name", name);
        upstream["streams"] = streams.collect();
        upstream
    });
    json!({ "running": told.running, "upstreams": upstreams.collect::<Vec<_>>() })
}

fn table(told: &UpstreamsTold) -> String {
    if told.upstreams.is_empty() {
        return "no upstream is configured: see [[upstream]] in the example of the config\n".to_owned();
    }
    let mut text = String::new();
    if !told.running {
        text += "no daemon runs: this is what the store knows\n";
    }
    for (name, upstream) in &told.upstreams {
        let UpstreamStatus { kind, to, state, since, problem, retries, dead_letters, streams } = upstream;
        let state = match state {
            _ if !told.running => String::new(),
            UpstreamState::Starting => ", not reached yet".to_owned(),
            UpstreamState::Connected => format!(", connected since {since}"),
            UpstreamState::Away => format!(", away since {since}"),
            UpstreamState::Stopped => format!(", stopped since {since}"),
            UpstreamState::Off => ", off".to_owned(),
        };
        let retries =
            if *retries > 0 { format!(", {}", print::counted_as(*retries, "retry", "retries")) } else { String::new() };
        text += &format!(
            "{name}: {kind}{}{state}{retries}\n",
            if to.is_empty() { String::new() } else { format!(" to {to}") }
        );
        if let Some(problem) = problem {
            text += &format!("  {problem}\n");
        }
        for (stream, status) in streams {
            text += &format!("  {:<12} {}\n", stream.as_str(), line(*stream, status));
        }
        if *dead_letters > 0 {
            let count = print::counted_as(*dead_letters, "record was", "records were");
            text += &format!("  {count} refused: meterseal upstream dead-letters {name}\n");
        }
    }
    text
}

/// How a stream does, in a line.
fn line(stream: Stream, status: &StreamStatus) -> String {
    let mut parts = vec![match status.depth {
        0 => "all is acknowledged".to_owned(),
        // Of these only the newest is sent.
        _ if stream == Stream::Checkpoints => "the newest is not acknowledged".to_owned(),
        depth => format!("{depth} to go"),
    }];
    if let Some(oldest) = status.oldest.filter(|_| status.depth > 0) {
        parts.push(format!("the oldest of {oldest}"));
    }
    let counts = [
        (status.per_minute, "in the last minute"),
        (status.sent, "sent"),
        (status.repeated, "it had already"),
        (status.rejected, "refused"),
        (status.in_doubt, "in doubt"),
        (status.skipped, "passed over"),
    ];
    parts.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
    parts.join(", ")
}

fn dead_letters(name: &str, path: &Path, json: bool) -> Done {
    let config = good_config(path, &Clock::system())?;
    let letters = complete(upstreams::dead_letters(&config, name))??;
    if json {
        print::json(&letters);
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for DeadLetter { id, stream, epoch, seq, line, reason, at, attempts, .. } in &letters {
        let times = if *attempts > 1 { format!(", {attempts} times") } else { String::new() };
        text += &format!("{id}: {stream} {seq} of epoch {epoch}, refused at {at}{times}: {reason}\n    {line}\n");
    }
    if letters.is_empty() {
        text += "there are none\n";
    }
    done(&text)
}
