//! Arguments, logging, exit code; everything else is `agent`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use meterseal::agent::LogLines;
use meterseal::cli;
use tracing::field::{Field, Value, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::format::{DefaultFields, FormatFields, Writer};
use tracing_subscriber::layer::{Context, SubscriberExt};
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
    let journal = cli::stderr_is_journal().then(tracing_journald::layer).and_then(Result::ok);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match journal {
        Some(layer) => {
            let layer = layer.with_syslog_identifier("meterseal".to_owned());
            let layer = layer.with_field_prefix(Some("METERSEAL".to_owned()));
            Box::new(WithFields(layer).with_filter(filter.clone()))
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

/// Hands each event on with its fields in its message too, as a terminal shows it: `journalctl` prints the message alone.
struct WithFields<L>(L);

impl<S: Subscriber, L: Layer<S>> Layer<S> for WithFields<L> {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.0.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.0.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = String::new();
        let mut told = Told::default();
        event.record(&mut told);
        if DefaultFields::new().format_fields(Writer::new(&mut line), event).is_ok() {
            let message = told.0.iter_mut().find(|(field, _)| field.name() == "message");
            if let Some((_, text)) = message {
                *text = line;
            }
        }
        let Some((first, _)) = told.0.first() else { return self.0.on_event(event, context) };
        // tracing takes the values of an event as an array alone, and its macros end at 32; what is absent is skipped.
        let values: [(&Field, Option<&dyn Value>); 32] = std::array::from_fn(|at| match told.0.get(at) {
            Some((field, text)) => (field, Some(text as &dyn Value)),
            None => (first, None),
        });
        let metadata = event.metadata();
        let values = metadata.fields().value_set(&values);
        self.0.on_event(&Event::new(metadata, &values), context);
    }
}

/// The fields of an event, as text.
#[derive(Default)]
struct Told(Vec<(Field, String)>);

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.clone(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push((field.clone(), format!("{value:?}")));
    }
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::warn;

    use super::*;

    /// Keeps the fields of what it is told.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<(String, String)>>>);

    impl<S: Subscriber> Layer<S> for Heard {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut told = Told::default();
            event.record(&mut told);
            self.0.lock().unwrap().extend(told.0.into_iter().map(|(field, text)| (field.name().to_owned(), text)));
        }
    }

    #[test]
    fn a_message_bears_its_fields_which_stay_fields() {
        let heard = Heard::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(WithFields(heard.clone())), || {
            let error = std::io::Error::other("no route");
            warn!(meter = %"m1", attempts = 3, site = "plant 7", %error, "the connection is {}", "closed");
        });
        let expected = [
            ("message", "the connection is closed meter=m1 attempts=3 site=\"plant 7\" error=no route"),
            ("meter", "m1"),
            ("attempts", "3"),
            ("site", "plant 7"),
            ("error", "no route"),
        ];
        let heard = heard.0.lock().unwrap();
        let heard: Vec<_> = heard.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(heard, expected);
    }

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
