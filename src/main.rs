//! Arguments, logging, exit code; everything else is `agent`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use meterseal::agent::LogLines;
use meterseal::cli;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let lines = LogLines::default();
    if cli::logs(&arguments) {
        share_heaps();
        log(&lines);
    }
    cli::run(arguments, lines)
}

/// glibc gives each thread a heap of its own, which keeps what that thread once used; two are enough for two cores. Run
/// with 100 meters at 1 s, the default took half as much again and went on growing.
#[allow(unsafe_code)]
fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets one number of the allocator, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// To the journal when stderr leads there, so that fields stay fields; else to stderr. The newest lines also stay in memory. METERSEAL_LOG says how much.
fn log(lines: &LogLines) {
    let filter = level(&std::env::var("METERSEAL_LOG").unwrap_or_default());
    let journal = stderr_is_journal().then(tracing_journald::layer).and_then(Result::ok);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match journal {
        Some(layer) => {
            let layer = layer.with_syslog_identifier("meterseal".to_owned());
            Box::new(layer.with_field_prefix(Some("METERSEAL".to_owned())).with_filter(filter.clone()))
        }
        None => {
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
            Box::new(layer.with_ansi(std::io::stderr().is_terminal()).with_filter(filter.clone()))
        }
    };
    let lines = lines.clone();
    let kept = tracing_subscriber::fmt::layer().with_writer(move || lines.line()).with_ansi(false);
    let kept = kept.with_filter(filter.and(filter_fn(|told| told.target() != LogLines::NOT_KEPT)));
    tracing_subscriber::registry().with(layer).with(kept).init();
}

/// How much is logged: a level, or levels of parts, with commas between (`info,meterseal::store=debug`).
fn level(wanted: &str) -> Targets {
    let read = match wanted.parse::<Targets>() {
        Ok(read) if !wanted.is_empty() => read,
        Ok(_) => Targets::new(),
        Err(error) => {
            eprintln!(
                "METERSEAL_LOG: {error}: write a level (debug), or levels of parts (info,meterseal::store=debug)"
            );
            Targets::new()
        }
    };
    let default = read.default_level().unwrap_or(LevelFilter::INFO);
    read.with_default(default)
}

/// systemd names the journal's stream by device and inode (systemd.exec(5), JOURNAL_STREAM).
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_levels_of_parts() {
        for (wanted, of_all, of_store) in [
            ("", LevelFilter::INFO, LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG, LevelFilter::DEBUG),
            ("meterseal::store=trace", LevelFilter::INFO, LevelFilter::TRACE),
            ("warn,meterseal::store=debug", LevelFilter::WARN, LevelFilter::DEBUG),
            ("nonsense=of=all", LevelFilter::INFO, LevelFilter::INFO),
        ] {
            let levels = level(wanted);
            let enabled = |target: &str, level: LevelFilter| {
                level.into_level().is_some_and(|level| levels.would_enable(target, &level))
            };
            let highest = |target| {
                let all = [LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE];
                all.into_iter().filter(|level| enabled(target, *level)).max()
            };
            assert_eq!(highest("meterseal::agent"), Some(of_all), "{wanted}");
            assert_eq!(highest("meterseal::store"), Some(of_store), "{wanted}");
        }
    }
}
