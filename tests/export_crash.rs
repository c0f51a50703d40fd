//! An export that is killed before any one of its writes goes on to the same bundle, and the log commits to it once.
//!
//! Without arguments: kills at some of the writes, spread over all of them from a chance beginning; `from N` begins at
//! the N-th, `all` kills at every one. `export DIR PORT` is the process that is killed: the task of exports on the
//! store in DIR, with short parts, until its job is over.
//!
//! One export is recorded under strace to learn its writes. `strace -e inject=…:when=N` counts for each thread and each
//! system call by itself, so that a write is named by its file, its call and its number among those.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

#[path = "influx/fake.rs"]
#[allow(dead_code, reason = "the tests of the connection use more of it")]
mod fake;
#[path = "export/house.rs"]
#[allow(dead_code, reason = "the tests of exports use more of it")]
mod house;

mod kill;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::{DATABASE, Fake, TOKEN, points};
use house::{SECOND, T, checked_with_parts_of, energy, limits};
use kill::{Which, Write, copy_folder, run};
use meterseal::clock::Clock;
use meterseal::evidence::Config;
use meterseal::evidence::dataset::Manifest;
use meterseal::evidence::influx::{Connection, PATIENCE, Secret, Server};
use meterseal::evidence::jobs::{self, Jobs};
use meterseal::evidence::log::{Publisher, settle};
use meterseal::evidence::mark::Mark;
use meterseal::model::{Digest, ExportOrder, Job, JobState, Timestamp, entry, merkle};
use meterseal::store::{self, Store};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Three whole parts and a shorter one; each ends within another of the windows that are read, so that an export that
/// is killed has finished parts to go on from, and rows in them that it meets again.
const ROWS: usize = 3_600;
const ROWS_PER_PART: u64 = 1_000;
/// Of a series; what is read first is an hour, and then twice as much each time.
const STEP: i64 = 120 * SECOND;
/// What `cargo test` kills at.
const SPREAD: usize = 40;
/// No export takes as long unless something is wrong.
const LONGEST: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["export", dir, port] => run(export(Path::new(dir), port.parse().unwrap())).map(drop),
        words => Which::by_arguments("export_crash", words).map_or(Ok(()), matrix),
    };
    kill::told(done)
}

/// A store and all that is kept of it outside.
struct Opened {
    store: Store,
    publisher: Publisher,
    jobs: Jobs,
}

/// The mark is beside the store, and agrees with it.
async fn open(dir: &Path, port: u16) -> Result<Opened, String> {
    // It stands still: when a window was read is part of a bundle.
    let clock = Clock::manual(Timestamp::from_millis(T / 1_000_000 + 40 * 86_400_000));
    let (limits, stands) = (limits(dir), clock.clone());
    let opening = tokio::task::spawn_blocking(move || Store::open(limits, stands, None));
    let store = opening.await.unwrap().map_err(|error| format!("does not open: {error}"))?;
    let (reader, ledger) = (store.reader(), store.ledger());
    let mark = Mark::at(dir.join("mark"));
    // A machine of which nothing is known is no other one.
    let settled = settle(&reader, &ledger, &"plant-7".parse().unwrap(), &mark, &dir.join("machine")).await;
    let settled = settled.map_err(|error| error.to_string())?;
    if settled.succession.is_some() || settled.unread.is_some() {
        return Err(format!("the log does not agree with its mark: {settled:?}"));
    }
    let server = Server::Two { org: "plant".to_owned(), bucket: DATABASE.to_owned(), token: Secret(TOKEN.to_owned()) };
    let (name, url) = ("historian".to_owned(), format!("http://127.0.0.1:{port}"));
    let connection = Connection { name, url, server, ca: None, patience: PATIENCE };
    let config = Config { connections: vec![connection], queries: vec![energy()], ..Config::default() };
    let publisher = Publisher::new(ledger.clone(), mark);
    publisher.publish().await.map_err(|error| error.to_string())?;
    let jobs = Jobs {
        config: watch::Sender::new(Arc::new(config)).subscribe(),
        reader,
        ledger,
        clock,
        rows_per_part: ROWS_PER_PART,
        told: watch::Sender::default(),
    };
    Ok(Opened { store, publisher, jobs })
}

/// The only job of a store.
async fn job(jobs: &Jobs) -> Job {
    let all = jobs.reader.jobs(None, 9).await.unwrap();
    assert_eq!(all.len(), 1);
    all.into_iter().next().unwrap()
}

/// Carries the job of a store to its end, and signs that.
async fn export(dir: &Path, port: u16) -> Result<Opened, String> {
    let opened = open(dir, port).await?;
    let stop = CancellationToken::new();
    let over = async {
        let mut changed = opened.jobs.reader.jobs_changed();
        while !job(&opened.jobs).await.state.is_over() {
            changed.changed().await.unwrap();
        }
        stop.cancel();
    };
    let exported = async { tokio::join!(jobs::run(opened.jobs.clone(), stop.clone()), over).0 };
    let exported = timeout(LONGEST, exported).await.map_err(|_| "the export does not end")?;
    exported.map_err(|error| error.to_string())?;
    opened.publisher.publish().await.map_err(|error| error.to_string())?;
    Ok(opened)
}

/// What every export must come to.
#[derive(Debug, PartialEq)]
struct Made {
    /// Without the windows: which they were is part of how it was read, and an export that goes on begins with short
    /// ones again.
    manifest: Manifest,
    /// All but the manifest, by their paths below `artifacts`.
    files: BTreeMap<PathBuf, Digest>,
}

/// The only bundle of a store, and the SHA-256 of its manifest.
fn made(dir: &Path) -> Result<(Made, Digest), String> {
    let root = limits(dir).path.join("artifacts");
    let mut files = BTreeMap::new();
    for path in below(&root) {
        let bytes = fs::read(&path).map_err(|error| format!("{} is left: {error}", path.display()))?;
        files.insert(path.strip_prefix(&root).unwrap().to_owned(), bytes);
    }
    let at = files.keys().find(|path| path.ends_with("manifest.json")).cloned().ok_or("there is no manifest")?;
    let bytes = files.remove(&at).unwrap();
    // The windows are whole and have as many rows as there are, or it does not hold.
    let manifest = Manifest::with_parts_of(ROWS_PER_PART, &bytes).map_err(|error| format!("the manifest: {error}"))?;
    if Path::new(&manifest.id.to_string()).join("manifest.json") != at {
        return Err(format!("the bundle of {} lies at {}", manifest.id, at.display()));
    }
    let manifest = Manifest { windows: Vec::new(), ..manifest };
    let files = files.into_iter().map(|(path, bytes)| (path, Digest::of(&bytes))).collect();
    Ok((Made { manifest, files }, Digest::of(&bytes)))
}

/// The files below a folder; an empty folder counts as one.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    let inner = |path: PathBuf| if path.is_dir() { below(&path) } else { vec![path] };
    if entries.is_empty() { vec![folder.to_owned()] } else { entries.into_iter().flat_map(inner).collect() }
}

/// Goes on with the export of a store, and looks at all that came of it.
async fn goes_on(dir: &Path, port: u16, reference: Option<&Made>) -> Result<Made, String> {
    let before = Mark::at(dir.join("mark")).read().map_err(|error| format!("the mark is torn: {error}"))?;
    let Opened { store, publisher, jobs } = export(dir, port).await?;
    let job = job(&jobs).await;
    if job.state != JobState::Done {
        return Err(format!("the job is {:?}: {:?}", job.state, job.error));
    }
    let (made, manifest_sha256) = made(dir)?;
    if let Some(reference) = reference.filter(|reference| **reference != made) {
        return Err(format!("other files than those of an export that was not killed: {made:#?}, {reference:#?}"));
    }
    if (made.manifest.id, manifest_sha256) != (job.id, job.artifact.unwrap().manifest_sha256) {
        return Err("the job is that of another manifest".to_owned());
    }
    let epochs = jobs.reader.epochs().await.unwrap();
    let [epoch] = epochs.as_slice() else { return Err(format!("{} epochs", epochs.len())) };
    let id = epoch.identity.epoch.as_str();
    let newest = publisher.newest().borrow().clone().unwrap();
    newest.verify(&[&epoch.key]).map_err(|error| format!("the checkpoint: {error}"))?;
    let head = &newest.checkpoint;
    for old in before.iter().map(|old| &old.checkpoint) {
        let proof = jobs.reader.consistency(id, old.size, head.size).await.unwrap();
        let proof = proof.ok_or_else(|| format!("the log is behind {}, which was shown", old.size))?;
        merkle::verify_consistency((old.size, &old.root), (head.size, &head.root), &proof)
            .map_err(|error| format!("two checkpoints that do not agree: {error}"))?;
    }
    let openings = jobs.reader.openings(id, (0..head.size).collect()).await.unwrap();
    let entries = jobs.reader.log_entries(id, 0, head.size).await.unwrap();
    let opens = openings.iter().zip(&entries).all(|(at, entry)| entry::commit(&at.salt, &at.record) == entry.commit);
    if openings.len() as u64 != head.size || !opens {
        return Err("an entry of the log does not open".to_owned());
    }
    let committed: Vec<_> = openings.iter().filter(|at| at.kind == entry::EntryKind::Dataset).collect();
    let record = |at: &store::Opening| serde_json::from_slice::<serde_json::Value>(&at.record).unwrap();
    match committed.as_slice() {
        [only] if record(only)["manifest_sha256"] == manifest_sha256.to_string() => {}
        entries => return Err(format!("{} entries of a dataset, or of another one", entries.len())),
    }
    let listed = jobs.reader.entries_of_dataset(&job.id.to_string()).await.unwrap();
    if listed.len() != 1 {
        return Err(format!("the log names the dataset {} times", listed.len()));
    }
    drop((jobs, publisher));
    store.close().await.map_err(|error| error.to_string())?;
    Ok(made)
}

/// A store at rest and the writes of an export from there on.
struct Beginning {
    name: &'static str,
    folder: PathBuf,
    writes: Vec<Write>,
}

struct Bench {
    folder: tempfile::TempDir,
    server: Fake,
}

impl Bench {
    /// Where exports are killed: always one place, since writes are told by their paths.
    fn dir(&self) -> PathBuf {
        self.folder.path().join("dir")
    }

    fn lay(&self, beginning: &Path) {
        copy_folder(beginning, &self.dir());
    }

    fn keep(&self, name: &str) -> PathBuf {
        let kept = self.folder.path().join(name);
        copy_folder(&self.dir(), &kept);
        kept
    }

    /// Those of `export` as a process.
    fn arguments(&self) -> [String; 3] {
        ["export".to_owned(), self.dir().display().to_string(), self.server.port.to_string()]
    }

    fn record(&self, name: &'static str, folder: PathBuf) -> Result<Beginning, String> {
        self.lay(&folder);
        let writes = kill::record(&self.folder.path().join("log"), &self.dir(), &self.arguments());
        Ok(Beginning { name, folder, writes: writes.map_err(|wrong| format!("{name}: {wrong}"))? })
    }

    /// Kills an export just before it does this. False when it was over before.
    fn kill_at(&self, beginning: &Path, write: &Write) -> bool {
        self.lay(beginning);
        kill::kill_at(write, &self.arguments())
    }
}

/// Kills at every write, or at some.
fn matrix(which: Which) -> Result<(), String> {
    let began = Instant::now();
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let rows = points("energy", T, STEP, ROWS);
    let to_ns = rows.last().unwrap().time_ns + 1;
    let bench = Bench { folder, server: Fake::start(2, rows) };
    let (dir, port) = (bench.dir(), bench.server.port);

    fs::create_dir(&dir).unwrap();
    run(async {
        let clock = Clock::manual(Timestamp::from_millis(T / 1_000_000));
        store::init(&limits(&dir), &"plant-7".parse().unwrap(), &clock).unwrap();
        let Opened { store, publisher, jobs } = open(&dir, port).await?;
        let (connection, query) = ("historian".to_owned(), "energy".to_owned());
        let order = ExportOrder { connection, query, from_ns: T, to_ns };
        jobs.order(order, meterseal::model::Actor::here("first")).await.unwrap().unwrap();
        drop((jobs, publisher));
        store.close().await.map_err(|error| error.to_string())
    })?;
    let ordered = bench.keep("ordered");
    let reference = run(goes_on(&dir, port, None))?;
    let bundles = limits(&dir).path.join("artifacts");
    let manifest = checked_with_parts_of(ROWS_PER_PART, &bundles.read_dir().unwrap().next().unwrap().unwrap().path());
    assert_eq!((manifest.parts.len(), manifest.rows), (4, ROWS as u64));

    let ordered = bench.record("an export", ordered)?;
    let last_part = |write: &&Write| write.call == "write" && write.path.ends_with("data-00003.jsonl.zst");
    assert!(bench.kill_at(&ordered.folder, ordered.writes.iter().find(last_part).unwrap()));
    let halfway = bench.keep("halfway");
    run(async {
        let Opened { store, jobs, .. } = open(&dir, port).await?;
        let kept = job(&jobs).await.progress.rows;
        assert!(kept > 0, "nothing is kept, so that it does not go on but begins anew");
        drop(jobs);
        store.close().await.map_err(|error| error.to_string())
    })?;
    let halfway = bench.record("an export that was killed before", halfway)?;

    let beginnings = [ordered, halfway];
    let writes: Vec<(&Beginning, &Write)> =
        beginnings.iter().flat_map(|from| from.writes.iter().map(move |write| (from, write))).collect();
    let (first, stride) = which.of(writes.len(), SPREAD);
    let mut kills = 0;
    for (at, (from, write)) in writes.iter().enumerate().skip(first).step_by(stride) {
        kills += usize::from(bench.kill_at(&from.folder, write));
        run(goes_on(&dir, port, Some(&reference)))
            .map_err(|wrong| format!("{} killed at write {at}, {write:?}, with `from {first}`: {wrong}", from.name))?;
    }
    let tried = writes.len().saturating_sub(first).div_ceil(stride);
    println!(
        "export_crash: {kills} kills at {tried} of {} writes, from {first}: one bundle each, in {:?}",
        writes.len(),
        began.elapsed()
    );
    // How many writes there are is a matter of how the threads fall together, but for a few.
    if kills * 10 < tried * 8 {
        Err("too many of the exports were over before they were killed".to_owned())
    } else {
        Ok(())
    }
}
