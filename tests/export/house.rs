//! A store and the task that makes exports, on a clock that runs fast.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::evidence::Config;
use meterseal::evidence::dataset::{Manifest, part};
use meterseal::evidence::influx::{Asked, Connection, Query, Selection};
use meterseal::evidence::jobs::{self, Jobs};
use meterseal::model::{ExportOrder, Job, JobId, RunningJob, Timestamp};
use meterseal::store::{self, Store};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// 2025-11-21T00:00:00Z
pub const T: i64 = 1_763_683_200_000_000_000;
pub const SECOND: i64 = 1_000_000_000;
pub const HOUR: i64 = 3_600 * SECOND;
/// No wait of these tests comes near it unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct House {
    pub store: Option<Store>,
    pub jobs: Jobs,
    config: watch::Sender<Arc<Config>>,
    limits: store::Config,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _folder: Option<tempfile::TempDir>,
}

pub fn limits(folder: &Path) -> store::Config {
    store::Config {
        path: folder.join("store"),
        commit_every: Duration::from_millis(10),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 1 << 20,
    }
}

/// All fields and tags of measurement `energy`.
pub fn energy() -> Query {
    let selection = Selection { measurement: "energy".to_owned(), fields: Vec::new(), tags: BTreeMap::new() };
    Query { name: "energy".to_owned(), asked: Asked::Points(selection) }
}

impl House {
    /// A new store with one connection and the query `energy`; nothing is exported yet.
    pub fn new(connection: Connection) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let house = Self::made(limits(folder.path()), connection);
        Self { _folder: Some(folder), ..house }
    }

    /// The same in a folder of the caller's.
    pub fn made(limits: store::Config, connection: Connection) -> Self {
        store::init(&limits, &"plant-7".parse().unwrap(), &clock()).unwrap();
        Self::open(limits, connection)
    }

    /// On a store that is there.
    pub fn open(limits: store::Config, connection: Connection) -> Self {
        let clock = clock();
        let store = Store::open(limits.clone(), clock.clone(), None).unwrap();
        let parts = Config { connections: vec![connection], queries: vec![energy()], ..Config::default() };
        let config = watch::Sender::new(Arc::new(parts));
        let jobs = Jobs {
            config: config.subscribe(),
            reader: store.reader(),
            ledger: store.ledger(),
            clock: clock.clone(),
            rows_per_part: part::ROWS,
            told: watch::Sender::default(),
        };
        let mut tasks = JoinSet::new();
        // Pauses of a minute take no time.
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(2)).await;
                clock.advance(Duration::from_secs(1));
            }
        });
        Self { store: Some(store), jobs, config, limits, stop: CancellationToken::new(), tasks, _folder: None }
    }

    pub fn start(&mut self) {
        self.stop = CancellationToken::new();
        let (jobs, stop) = (self.jobs.clone(), self.stop.clone());
        self.tasks.spawn(async move { jobs::run(jobs, stop).await.unwrap() });
    }

    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        self.config.send_modify(|config| change(Arc::make_mut(config)));
    }

    pub async fn order(&self, from_ns: i64, to_ns: i64) -> JobId {
        self.order_query("energy", from_ns, to_ns).await
    }

    /// From another connection than the first.
    pub async fn order_from(&self, connection: &str, from_ns: i64, to_ns: i64) -> JobId {
        self.order_at(connection, "energy", from_ns, to_ns).await
    }

    pub async fn order_query(&self, query: &str, from_ns: i64, to_ns: i64) -> JobId {
        self.order_at("historian", query, from_ns, to_ns).await
    }

    async fn order_at(&self, connection: &str, query: &str, from_ns: i64, to_ns: i64) -> JobId {
        let order = ExportOrder { connection: connection.to_owned(), query: query.to_owned(), from_ns, to_ns };
        self.jobs.order(order, meterseal::model::Actor::here("first")).await.unwrap().unwrap().id
    }

    pub async fn job(&self, id: JobId) -> Job {
        self.jobs.reader.job(id).await.unwrap().unwrap()
    }

    /// The job when it is over.
    pub async fn over(&self, id: JobId) -> Job {
        let mut changed = self.jobs.reader.jobs_changed();
        let over = async {
            loop {
                changed.borrow_and_update();
                let job = self.job(id).await;
                if job.state.is_over() {
                    return job;
                }
                changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, over).await.expect("the job does not end")
    }

    /// Waits until what is told of a job is like this.
    pub async fn told(&self, id: JobId, wanted: impl Fn(&RunningJob) -> bool) -> RunningJob {
        let mut told = self.jobs.told.subscribe();
        let told = timeout(PATIENCE, told.wait_for(|told| told.get(&id).is_some_and(&wanted))).await;
        told.expect("it does not come to what is wanted").unwrap()[&id].clone()
    }

    /// Waits until a job waits for what these words are part of.
    pub async fn waits(&self, id: JobId, words: &str) -> String {
        let waits = |told: &RunningJob| told.waiting.as_ref().is_some_and(|why| why.contains(words));
        self.told(id, waits).await.waiting.unwrap()
    }

    pub fn folder(&self, id: JobId) -> PathBuf {
        self.jobs.reader.bundle_folder(id)
    }

    /// The manifest of a job that is done, checked against the files by other programs than ours.
    pub async fn exported(&self, id: JobId) -> Manifest {
        let job = self.over(id).await;
        let bundle = job.artifact.unwrap_or_else(|| panic!("not done: {:?}", job.error));
        let manifest = checked(&self.folder(id));
        assert_eq!((manifest.id, manifest.sha256().unwrap()), (id, bundle.manifest_sha256));
        assert_eq!((job.progress.rows, job.progress.bytes), (manifest.rows, manifest.bytes));
        self.jobs.ledger.checkpoint().await.unwrap();
        let entries = self.jobs.reader.entries_of_dataset(&id.to_string()).await.unwrap();
        assert_eq!(entries.len(), 1, "the log commits to it once");
        assert!(!self.jobs.reader.making_folder(id).exists());
        manifest
    }

    /// Why a job failed; nothing of it is left.
    pub async fn failed(&self, id: JobId) -> String {
        let job = self.over(id).await;
        assert!(job.artifact.is_none(), "it is done");
        // The folder is removed after the end of the job is told.
        let gone = async {
            while self.jobs.reader.making_folder(id).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the working folder stays");
        assert!(!self.folder(id).exists());
        self.jobs.ledger.checkpoint().await.unwrap();
        assert_eq!(self.jobs.reader.entries_of_dataset(&id.to_string()).await.unwrap(), []);
        job.error.unwrap()
    }

    /// Stops the task and closes the store; what remains is the folder.
    pub async fn end(mut self) -> (store::Config, Option<tempfile::TempDir>) {
        self.stop.cancel();
        self.tasks.shutdown().await;
        let (limits, folder) = (self.limits.clone(), self._folder.take());
        self.store.take().unwrap().close().await.unwrap();
        (limits, folder)
    }
}

fn clock() -> Clock {
    Clock::manual(Timestamp::from_millis(T / 1_000_000 + 40 * 86_400_000))
}

/// The manifest of a bundle whose files are as it says, by `sha256sum` and `zstd -dc`.
pub fn checked(folder: &Path) -> Manifest {
    checked_with_parts_of(part::ROWS, folder)
}

pub fn checked_with_parts_of(rows: u64, folder: &Path) -> Manifest {
    let bytes = std::fs::read(folder.join("manifest.json")).unwrap();
    let manifest = Manifest::with_parts_of(rows, &bytes).unwrap();
    let sums: String = manifest.parts.iter().map(|part| format!("{}  {}\n", part.sha256, part.name)).collect();
    let raw = |name: &str| format!("zstd -dc '{name}' | tee >(wc -l >&2) | sha256sum");
    let told = shell(folder, &format!("sha256sum --strict --check - <<'END'\n{sums}END"));
    assert_eq!(told.matches(": OK").count(), manifest.parts.len(), "{told}");
    for part in &manifest.parts {
        let told = shell(folder, &raw(&part.name));
        assert!(told.contains(&part.raw_sha256.to_string()), "{told}");
        assert!(told.lines().any(|line| line.trim() == part.rows.to_string()), "{told}");
    }
    manifest
}

fn shell(folder: &Path, text: &str) -> String {
    let done = Command::new("bash").args(["-o", "pipefail", "-c", text]).current_dir(folder).output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{text}: {told}");
    told
}
