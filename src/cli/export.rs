//! `meterseal export`: what it says while the export goes on, and the copy of the bundle that it leaves.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use super::prove::{Written, check, notes};
use super::{Done, Failed, complete, good_config, print};
use crate::agent::{exports, proofs};
use crate::clock::Clock;
use crate::config;
use crate::model::proof::{Claim, ProofForm, ProofTold};
use crate::model::{ExportEvent, ExportListed, ExportOrder, JobId, JobProgress, instant_ns, written_ns};

#[derive(clap::Args)]
pub struct ExportArguments {
    /// The name of an [[influx]] of the config
    #[arg(required_unless_present_any = ["list", "fetch"])]
    connection: Option<String>,
    /// The name of a [[query]] of the config
    #[arg(long, value_name = "NAME", required_unless_present_any = ["list", "fetch"])]
    query: Option<String>,
    /// The beginning: 2026-11-01, 2026-11-01T08:00 (the site's time), RFC 3339, or ns since 1970
    #[arg(long, value_name = "T", required_unless_present_any = ["list", "fetch"])]
    from: Option<String>,
    /// The end, which is not in it any more
    #[arg(long, value_name = "T", required_unless_present_any = ["list", "fetch"])]
    to: Option<String>,
    /// List the exports instead, the newest first: how far each is, and what it waits for
    #[arg(long, conflicts_with_all = ["connection", "query", "from", "to", "fetch"])]
    list: bool,
    /// Get the bundle of an export that is done once more, and its proof
    #[arg(long, value_name = "ID", conflicts_with_all = ["connection", "query", "from", "to"])]
    fetch: Option<String>,
    /// Put the bundle into this folder
    #[arg(short = 'o', long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// The config
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Print each event, or each export of the list, as a line of JSON
    #[arg(long)]
    json: bool,
}

pub fn export(arguments: ExportArguments) -> Done {
    let ExportArguments { connection, query, from, to, list: listed, fetch, output, config, json } = arguments;
    let config = good_config(&config, &Clock::system())?;
    if listed {
        return list(&config, json);
    }
    // Where neither is asked for, clap has seen that all of these are given.
    let [connection, query, from, to] = [connection, query, from, to].map(Option::unwrap_or_default);
    let fetch =
        fetch.map(|id| id.parse::<JobId>().map_err(|why| Failed::new(format!("`{id}` is {why}")))).transpose()?;
    // The config has checked the zone's name.
    let zone = TimeZone::get(&config.site.timezone).unwrap_or(TimeZone::UTC);
    let time = |name: &str, text: &str| instant_ns(text, &zone).map_err(|why| Failed::new(format!("--{name}: {why}")));
    let (from_ns, to_ns) = if fetch.is_some() { (0, 0) } else { (time("from", &from)?, time("to", &to)?) };
    if !output.is_dir() {
        return Err(Failed::new(format!("{} is no folder", output.display())).hint("Make it, or give another with -o."));
    }
    let mut seen = Seen::new(json, (from_ns, to_ns), output);
    let order = ExportOrder { connection, query, from_ns, to_ns };
    let done = match fetch {
        Some(id) => complete(exports::fetch_for_command(id, &config, |event| seen.take(event)))?,
        None => complete(exports::for_command(order, &config, |event| seen.take(event)))?,
    };
    seen.clear();
    done?;
    let Some((id, copy)) = seen.copy.take() else {
        return Err(Failed::new(seen.failed.unwrap_or_else(|| "the export has no end".to_owned())));
    };
    let JobProgress { rows, bytes, .. } = seen.progress;
    seen.say(&format!("export {id}: {rows} rows, {}", megabytes(bytes)));
    let told = prove(&config, id, &copy)?;
    let check = check(&copy.display().to_string(), &told);
    seen.say(&format!("its proof lies beside it. To check both, with nothing but them and the key:\n  {check}"));
    if told.anchored.is_empty() && !told.notes.is_empty() {
        let proof = copy.with_file_name(format!("{id}{}", ProofForm::Json.ending()));
        let again = format!("meterseal prove --dataset {id} -o {}", proof.display());
        seen.say(&format!("the bundle stays as it is; its proof with the anchor is had later by\n  {again}"));
    }
    if !json {
        print::out(&format!("{}\n", copy.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(config: &config::Config, json: bool) -> Done {
    let listed = complete(exports::list_for_command(config))??;
    if json {
        listed.iter().for_each(print::json_line);
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for export in &listed {
        let ExportListed { id, state, connection, query, from_ns, to_ns, progress, .. } = export;
        let (from, to) = (written_ns(*from_ns), written_ns(*to_ns));
        let JobProgress { rows, bytes, .. } = *progress;
        text += &format!(
            "{id}  {:<9}  {connection} {query}, {from} to {to}: {rows} rows, {}\n",
            state.as_str(),
            megabytes(bytes)
        );
        let deleted = export.bundle_deleted.map(|at| format!("its bundle was deleted {at}"));
        for note in [&export.waiting, &export.error, &deleted].into_iter().flatten() {
            text += &format!("    {note}\n");
        }
    }
    print::out(&text);
    if listed.is_empty() {
        eprintln!("Nothing was exported yet.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the proof beside the bundle.
fn prove(config: &config::Config, id: JobId, copy: &Path) -> Result<ProofTold, Failed> {
    let path = copy.with_file_name(format!("{id}{}", ProofForm::Json.ending()));
    let mut written = Written::begin(&path)?;
    let take = |piece: &[u8]| written.file.write_all(piece);
    let told = complete(proofs::for_command(config, Claim::Dataset { id }, ProofForm::Json, take))?;
    let again = format!("The bundle is there. For its proof: meterseal prove --dataset {id}");
    let told = told.map_err(|error| Failed::from(error).hint(again))?;
    written.finish()?;
    notes(&told);
    Ok(told)
}

/// On what is no terminal, progress is told so often.
const EVERY: Duration = Duration::from_secs(10);
const BAR: usize = 24;

/// What came so far.
struct Seen {
    json: bool,
    terminal: bool,
    period: (i64, i64),
    output: PathBuf,
    progress: JobProgress,
    told: Option<Instant>,
    waiting: Option<String>,
    copy: Option<(JobId, PathBuf)>,
    failed: Option<String>,
}

impl Seen {
    fn new(json: bool, period: (i64, i64), output: PathBuf) -> Self {
        Self {
            json,
            terminal: io::stderr().is_terminal(),
            period,
            output,
            progress: JobProgress::default(),
            told: None,
            waiting: None,
            copy: None,
            failed: None,
        }
    }

    fn take(&mut self, event: ExportEvent) -> anyhow::Result<()> {
        if self.json && !matches!(event, ExportEvent::Done { .. }) {
            print::json_line(&event);
        }
        match event {
            ExportEvent::Queued { id } => self.say(&format!("export {id} begins")),
            ExportEvent::Progress { progress, rows_per_s, seconds_left, waiting } => {
                self.progress = progress;
                if waiting != self.waiting {
                    if let Some(why) = &waiting {
                        self.say(&format!("waiting: {why}"));
                    }
                    self.waiting = waiting;
                }
                self.show(rows_per_s, seconds_left);
            }
            ExportEvent::Done { id, progress, folder } => {
                self.progress = progress;
                let copy = self.output.join(id.to_string());
                copy_bundle(&folder, &copy).with_context(|| {
                    format!("export {id} is done and stays in the store, but cannot be copied to {}", copy.display())
                })?;
                if self.json {
                    print::json_line(&ExportEvent::Done { id, progress, folder: copy.clone() });
                }
                self.copy = Some((id, copy));
            }
            ExportEvent::Failed { error } => self.failed = Some(error),
        }
        Ok(())
    }

    fn show(&mut self, rows_per_s: f64, seconds_left: Option<u64>) {
        let due = self.terminal || self.told.is_none_or(|told| told.elapsed() >= EVERY);
        if self.json || self.waiting.is_some() || !due {
            return;
        }
        self.told = Some(Instant::now());
        let JobProgress { rows, bytes, position_ns } = self.progress;
        let left = seconds_left.map(|seconds| format!(", {} left", duration(seconds))).unwrap_or_default();
        let text = format!("{rows} rows, {}, {rows_per_s:.0} rows/s{left}", megabytes(bytes));
        if self.terminal {
            eprint!("\r\x1b[K{} {text}", bar(self.period, position_ns));
        } else {
            eprintln!("{text}");
        }
    }

    /// A line for a person.
    fn say(&self, text: &str) {
        if !self.json {
            self.clear();
            eprintln!("{text}");
        }
    }

    fn clear(&self) {
        if self.terminal && !self.json {
            eprint!("\r\x1b[K");
        }
    }
}

/// How much of the period is read.
fn bar((from, to): (i64, i64), position: Option<i64>) -> String {
    let (done, all) = (i128::from(position.unwrap_or(from)) - i128::from(from), i128::from(to) - i128::from(from));
    let filled = usize::try_from(done * BAR as i128 / all.max(1)).unwrap_or(0).min(BAR);
    format!("[{}{}] {:3} %", "#".repeat(filled), "-".repeat(BAR - filled), done * 100 / all.max(1))
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Copies a bundle; it has its name only when it is whole and on the disk. The store may delete its own from then on.
fn copy_bundle(from: &Path, to: &Path) -> io::Result<()> {
    if to.symlink_metadata().is_ok() {
        let why = format!("{} is there already: verify it, move it away, or name another folder with -o", to.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    let making = to.with_extension("part");
    // What an earlier copy left, that was killed.
    if making.symlink_metadata().is_ok() {
        fs::remove_dir_all(&making)?;
    }
    fs::create_dir(&making)?;
    let sync = |path: &Path| fs::File::open(path)?.sync_all();
    let copied = from.read_dir().and_then(|mut files| {
        files.try_for_each(|file| {
            let file = file?;
            let copy = making.join(file.file_name());
            fs::copy(file.path(), &copy)?;
            sync(&copy)
        })
    });
    let done = copied.and_then(|()| sync(&making)).and_then(|()| fs::rename(&making, to));
    // Beside it, in the folder that holds its name.
    let done = done.and_then(|()| to.parent().map_or(Ok(()), sync));
    if done.is_err() {
        // The error that is told is the first one.
        fs::remove_dir_all(&making).ok();
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_was_cut_short_does_not_stand_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("store"), folder.path().join("01J"));
        let (part, left) = ("data-00000.jsonl.zst", folder.path().join("01J.part"));
        for (folder, text) in [(&from, "whole"), (&left, "wh")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join(part), text).unwrap();
        }
        fs::write(left.join("data-00001.jsonl.zst"), "of another").unwrap();
        copy_bundle(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join(part)).unwrap(), "whole");
        assert_eq!((to.read_dir().unwrap().count(), left.exists()), (1, false));
        assert!(copy_bundle(&from, &to).is_err(), "a bundle that is there is not replaced");
        assert!(!left.exists());
    }

    #[test]
    fn progress_is_shown_for_a_person() {
        assert_eq!(bar((0, 100), Some(50)), format!("[{}{}]  50 %", "#".repeat(12), "-".repeat(12)));
        assert_eq!(bar((0, 100), None), format!("[{}]   0 %", "-".repeat(24)));
        assert_eq!(bar((i64::MIN, i64::MAX), Some(i64::MAX)), format!("[{}] 100 %", "#".repeat(24)));
        assert_eq!(megabytes(1_234_567), "1.2 MB");
        assert_eq!([duration(9), duration(80), duration(7_260)], ["9 s", "1 min 20 s", "2 h 1 min"]);
    }
}
