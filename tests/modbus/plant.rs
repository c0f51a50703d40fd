//! The sources running on a store of their own, as the agent runs them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{Category, MeterStatus, Parity, PollReport, Ratio, SourcesStatus, StoredReading};
use meterseal::sources::template::{self, Template};
use meterseal::sources::{Config, Line, MeterConfig, PollFailed, PollNow, RunningLine, Serial, Told, Wire, run};
use meterseal::store::{self, Store};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(45);

pub struct Plant {
    pub config: watch::Sender<Arc<Config>>,
    pub status: watch::Receiver<Arc<SourcesStatus>>,
    #[allow(dead_code, reason = "for the tests of searches, which share this")]
    pub lines: watch::Receiver<Arc<Vec<RunningLine>>>,
    pub polls: mpsc::Sender<PollNow>,
    feed: broadcast::Receiver<Arc<Vec<StoredReading>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    store: Store,
    _folder: tempfile::TempDir,
}

/// Ten registers of 16 bits, `a_count` to `j_count` at 0 to 9.
pub fn ten() -> Arc<Template> {
    map("function = \"input\"\ntype = \"u16\"\n".to_owned() + &registers(0..10))
}

pub fn registers(addresses: std::ops::Range<u8>) -> String {
    addresses.map(|at| format!("{}_count = {{ address = {at} }}\n", char::from(b'a' + at % 26))).collect()
}

pub fn map(text: String) -> Arc<Template> {
    Arc::new(template::from_value("own", &text.parse().unwrap()).unwrap())
}

pub fn meter(id: &str, unit: u8, template: &Arc<Template>, interval: Duration) -> MeterConfig {
    MeterConfig {
        id: id.parse().unwrap(),
        unit,
        device: 1,
        template: template.clone(),
        category: Category::Cons,
        interval,
        ct_ratio: Ratio::ONE,
        vt_ratio: Ratio::ONE,
        invert: false,
    }
}

/// A line to `address` with a time-out of 200 ms.
pub fn line(name: &str, address: &str, meters: Vec<MeterConfig>) -> Line {
    Line {
        name: name.parse().unwrap(),
        wire: Wire::Tcp(address.to_owned()),
        timeout: Duration::from_millis(200),
        gap: Duration::ZERO,
        parallel: 1,
        meters,
        simulated: true,
    }
}

/// A line on the serial port `port`, as quick as its test may be.
pub fn on_serial(name: &str, port: &Path, meters: Vec<MeterConfig>) -> Line {
    let serial = Serial { device: port.to_owned(), baud: 115_200, parity: Parity::None, stop_bits: 1 };
    Line { wire: Wire::Serial(serial), ..line(name, "", meters) }
}

impl Plant {
    pub async fn start(lines: Vec<Line>) -> Self {
        Self::start_with(Config { lines, ..Config::default() }).await
    }

    pub async fn start_with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kept = store::Config {
            path: folder.path().join("store"),
            commit_every: Duration::from_millis(100),
            keep_raw: Duration::from_secs(86_400),
            max_disk: 1 << 30,
            reserve: 1 << 20,
        };
        let clock = Clock::trusted();
        store::init(&kept, &"test".parse().unwrap(), &clock).unwrap();
        let store = Store::open(kept, clock.clone(), None).unwrap();
        let feed = store.reader().feed();
        let (config, follow) = watch::channel(Arc::new(config));
        let (tell, status) = watch::channel(Arc::new(SourcesStatus::default()));
        let (polls, orders) = mpsc::channel(8);
        let running = watch::Sender::default();
        let lines = running.subscribe();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(follow, store.ingest(), clock, Told { status: tell, lines: running }, orders, stop.clone()));
        Self { config, status, lines, polls, feed, stop, tasks, store, _folder: folder }
    }

    /// Waits until the status is as wanted, and gives it.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&SourcesStatus) -> bool) -> Arc<SourcesStatus> {
        let waited = timeout(PATIENCE, self.status.wait_for(|status| wanted(status))).await;
        if let Some(status) = waited.ok().map(|status| status.unwrap().clone()) {
            return status;
        }
        panic!("{what} did not come about: {:#?}", self.status.borrow());
    }

    /// Waits until the status of `meter` is as wanted, and gives it.
    pub async fn until_meter(&mut self, id: &str, what: &str, wanted: impl Fn(&MeterStatus) -> bool) -> MeterStatus {
        let id = id.parse().unwrap();
        let status = self.until(what, |status| status.meters.get(&id).is_some_and(&wanted)).await;
        status.meters[&id].clone()
    }

    pub async fn poll(&self, meter: &str) -> Result<PollReport, PollFailed> {
        let (reply, answer) = oneshot::channel();
        self.polls.send(PollNow { meter: meter.parse().unwrap(), reply }).await.unwrap();
        timeout(PATIENCE, answer).await.unwrap().unwrap()
    }

    /// The next committed reading.
    pub async fn reading(&mut self, ready: &mut Vec<StoredReading>) -> StoredReading {
        while ready.is_empty() {
            let batch = timeout(PATIENCE, self.feed.recv()).await.expect("no reading came").unwrap();
            ready.extend(batch.iter().rev().cloned());
        }
        ready.pop().unwrap()
    }

    /// Stops the sources and closes the store; gives what was committed and not looked at yet.
    pub async fn end(mut self) -> Vec<StoredReading> {
        self.stop.cancel();
        timeout(PATIENCE, self.tasks.join_next()).await.expect("the sources did not stop").unwrap().unwrap();
        self.store.close().await.unwrap();
        let mut rest = Vec::new();
        while let Ok(batch) = self.feed.try_recv() {
            rest.extend(batch.iter().cloned());
        }
        rest
    }
}
