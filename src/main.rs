//! Arguments, logging, exit code; everything else is `agent`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use meterseal::agent::LogLines;
use meterseal::cli;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

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
    let filter = || {
        EnvFilter::builder()
            .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
            .with_env_var("METERSEAL_LOG")
            .from_env_lossy()
    };
    let journal = stderr_is_journal().then(tracing_journald::layer).and_then(Result::ok);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match journal {
        Some(layer) => {
            let layer = layer.with_syslog_identifier("meterseal".to_owned());
            Box::new(layer.with_field_prefix(Some("METERSEAL".to_owned())).with_filter(filter()))
        }
        None => {
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
            Box::new(layer.with_ansi(std::io::stderr().is_terminal()).with_filter(filter()))
        }
    };
    let lines = lines.clone();
    let kept = tracing_subscriber::fmt::layer().with_writer(move || lines.line()).with_ansi(false);
    let kept = kept.with_filter(filter().and(filter_fn(|told| told.target() != LogLines::NOT_KEPT)));
    tracing_subscriber::registry().with(layer).with(kept).init();
}

/// systemd names the journal's stream by device and inode (systemd.exec(5), JOURNAL_STREAM).
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}
