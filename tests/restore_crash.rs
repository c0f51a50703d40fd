//! A restore that is killed before any one of its writes leaves the former store or the restored one, whole; and the next
//! restore succeeds.
//!
//! Without arguments: kills at some of the writes, spread over all of them from a chance beginning; `from N` begins at
//! the N-th, `all` kills at every one. `restore DIR` is the process that is killed.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "the other tests that kill use more of it")]
mod kill;
#[path = "peers/layout.rs"]
mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kill::{Which, Write, copy_folder};
use layout::layout;
use meterseal::clock::Clock;
use meterseal::model::{Number, Reading, Timestamp};
use meterseal::store::{self, Config, Store, StoreError};

/// What `cargo test` kills at.
const SPREAD: usize = 40;
const T: i64 = 1_795_219_200_000; // 2026-11-21T00:00:00Z

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["restore", dir] => restore(Path::new(dir)),
        words => Which::by_arguments("restore_crash", words).map_or(Ok(()), matrix),
    };
    kill::told(done)
}

fn config(dir: &Path) -> Config {
    Config {
        path: dir.join("store"),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 0,
    }
}

fn clock() -> Clock {
    Clock::manual(Timestamp::from_millis(T))
}

fn restore(dir: &Path) -> Result<(), String> {
    let backup = fs::File::open(dir.with_extension("backup")).map_err(|error| error.to_string())?;
    let restored = store::restore(&config(dir).path, backup, true, clock().now(), &mut |_, _| true);
    restored.map(drop).map_err(|error| error.to_string())
}

/// Stores so many readings more; the last seq of the store. `looks` is done when they are committed and the store is
/// still open, as a crash would leave it.
fn fill(dir: &Path, readings: i64, looks: impl FnOnce()) -> u64 {
    kill::run(async {
        let store = Store::open(config(dir), clock(), None).unwrap();
        let layout = layout("m1", 1_000, &[("power_kw", "1")]);
        let reading = |at: i64| Reading {
            layout: layout.clone(),
            taken: meterseal::model::Stamp { time: Timestamp::from_millis(T + at * 1_000), ..clock().stamp() },
            values: Box::new([(0, Number::I64(at))]),
        };
        store.ingest().store((0..readings).map(reading).collect()).await.unwrap();
        looks();
        let through = *store.reader().committed().borrow();
        store.close().await.unwrap();
        through
    })
}

/// What is found by whoever opens the store.
#[derive(Debug, PartialEq)]
enum Found {
    Nothing,
    /// So many readings, and whether it was restored.
    Store(u64, bool),
}

fn found(dir: &Path) -> Result<Found, String> {
    found_at(config(dir))
}

fn found_at(config: Config) -> Result<Found, String> {
    kill::run(async {
        match Store::open(config, clock(), None) {
            Err(StoreError::Missing { .. }) => Ok(Found::Nothing),
            Err(error) => Err(format!("does not open: {error}")),
            Ok(store) => {
                let reader = store.reader();
                let is_restored = reader.restored_from().await.map_err(|error| error.to_string())?.is_some();
                let through = *reader.committed().borrow();
                if !reader.health().quarantined.is_empty() {
                    return Err("a raw file was set aside".to_owned());
                }
                store.close().await.map_err(|error| error.to_string())?;
                Ok(Found::Store(through, is_restored))
            }
        }
    })
}

/// The former store must be somewhere, whole, once it is not the store any more.
fn is_kept(dir: &Path, former: &Found) -> bool {
    let aside = config(dir).path.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut aside = aside.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("replaced-"));
    aside.any(|path| found_at(Config { path, ..config(dir) }).as_ref() == Ok(former))
}

/// Kills at every write, or at some.
fn matrix(which: Which) -> Result<(), String> {
    let began = Instant::now();
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let dir = folder.path().join("dir");
    fs::create_dir(&dir).unwrap();
    store::init(&config(&dir), &"plant-7".parse().unwrap(), &clock()).unwrap();
    let at_backup = fill(&dir, 5, || ());
    kill::run(async {
        let store = Store::open(config(&dir), clock(), None).unwrap();
        let still = store.ledger().hold_still().await.unwrap();
        let file = fs::File::create(dir.with_extension("backup")).unwrap();
        store::write_backup(&config(&dir).path, &still.inventory, false, file, &mut |_, _| true).unwrap();
        drop(still);
        store.close().await.unwrap();
    });
    // As a crash leaves it: with something in write-ahead logs.
    let (there, empty) = (folder.path().join("there"), folder.path().join("empty"));
    let now = fill(&dir, 9, || copy_folder(&dir, &there));
    assert_ne!(at_backup, now);
    let raw = config(&there).path.join("raw").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let logs = raw.filter(|path| path.to_str().unwrap().ends_with("-wal"));
    assert!(logs.map(|log| log.metadata().unwrap().len()).sum::<u64>() > 0, "nothing is in write-ahead logs");
    fs::create_dir_all(config(&empty).path).unwrap();
    let beginnings = [(there, Found::Store(now, false)), (empty, Found::Nothing)];

    let arguments = ["restore".to_owned(), dir.display().to_string()];
    let mut writes: Vec<(&(PathBuf, Found), Write)> = Vec::new();
    for beginning in &beginnings {
        copy_folder(&beginning.0, &dir);
        let recorded = kill::record(&folder.path().join("log"), &dir, &arguments)?;
        writes.extend(recorded.into_iter().map(|write| (beginning, write)));
    }
    let restored = Found::Store(at_backup, true);
    let (first, stride) = which.of(writes.len(), SPREAD);
    let (mut kills, mut before, mut after) = (0, 0, 0);
    for (at, ((folder, former), write)) in writes.iter().enumerate().skip(first).step_by(stride) {
        copy_folder(folder, &dir);
        kills += usize::from(kill::kill_at(write, &arguments));
        let wrong = |what: String| format!("killed at write {at}, {write:?}, with `from {first}`: {what}");
        // Whoever looks first opens it, or restores once more.
        if at % 2 == 0 {
            let found = found(&dir).map_err(wrong)?;
            match &found {
                found if found == former => before += 1,
                found if *found == restored => after += 1,
                other => return Err(wrong(format!("found {other:?}"))),
            }
            if found == restored && *former != Found::Nothing && !is_kept(&dir, former) {
                return Err(wrong("the former store is gone".to_owned()));
            }
        }
        restore(&dir).map_err(|error| wrong(format!("the next restore: {error}")))?;
        let found = found(&dir).map_err(wrong)?;
        if found != restored {
            return Err(wrong(format!("after the next restore: {found:?}")));
        }
        if *former != Found::Nothing && !is_kept(&dir, former) {
            return Err(wrong("the former store is gone".to_owned()));
        }
        let left = config(&dir).path.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_str().unwrap().starts_with("restoring")).collect();
        if !left.is_empty() {
            return Err(wrong(format!("{left:?} is left")));
        }
    }
    let tried = writes.len().saturating_sub(first).div_ceil(stride);
    println!(
        "restore_crash: {kills} kills at {tried} of {} writes, from {first}: {before} found the former store, {after} the \
         restored one, in {:?}",
        writes.len(),
        began.elapsed()
    );
    if kills * 10 < tried * 8 { Err("too many restores were over before they were killed".to_owned()) } else { Ok(()) }
}
