//! Delivery against another side that does as a script says: with a store on disk, and time set by hand.

mod far;
mod faults;
mod keeping;
mod refused;
mod rollback;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::far::Far;
use super::record::{Body, LineWriter, Record};
use super::{Config, Kind, Order, Parts, Start, Upstream, engine};
use crate::clock::Clock;
use crate::model::note::SignedCheckpoint;
use crate::model::{
    Alert, AlertKind, Block, BlockFlags, Borders, Category, ClockState, Digest, Energy, Layout, Method, Number, Ratio,
    Reading, Slot, Span, Stamp, Stream, StreamStatus, Timestamp, UpstreamOrder, UpstreamRefused, UpstreamStatus,
    UpstreamsStatus,
};
use crate::store::{self, Sealing, Store, StoreError};

const NOON: i64 = 1_763_726_400_000; // 2025-11-21T12:00:00Z
const ALL: [Stream; 4] = [Stream::Checkpoints, Stream::Blocks, Stream::Alerts, Stream::Readings];

/// A gateway without its sources.
struct House {
    folder: TempDir,
    clock: Clock,
    store: Option<Store>,
    newest: watch::Sender<Option<Arc<SignedCheckpoint>>>,
    status: watch::Sender<Arc<UpstreamsStatus>>,
    blocks: i64,
    alerts: i64,
}

fn config_in(folder: &TempDir) -> store::Config {
    store::Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 1 << 16,
    }
}

impl House {
    fn new() -> Self {
        // In memory where there is such a folder: these tests ask what arrives, not what outlives the power.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = Clock::manual(Timestamp::from_millis(NOON));
        store::init(&config_in(&folder), &"plant-7".parse().unwrap(), &clock).unwrap();
        let store = Some(Store::open(config_in(&folder), clock.clone(), None).unwrap());
        let (newest, status) = (watch::Sender::new(None), watch::Sender::default());
        Self { folder, clock, store, newest, status, blocks: 0, alerts: 0 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn parts(&self) -> Parts {
        Parts {
            reader: self.store().reader(),
            ledger: self.store().ledger(),
            clock: self.clock.clone(),
            checkpoint: self.newest.subscribe(),
            status: self.status.clone(),
        }
    }

    async fn readings(&self, count: i64) {
        // Later than all before: the same value for the same time would be the same reading.
        self.clock.advance(Duration::from_millis(count.unsigned_abs()));
        let readings = (0..count).map(|n| reading(&self.clock, n)).collect();
        self.store().ingest().store(readings).await.unwrap();
    }

    /// Seals so many blocks, and signs the log.
    async fn blocks(&mut self, count: i64) {
        let blocks = (self.blocks..self.blocks + count).map(block).collect();
        self.blocks += count;
        self.store().ledger().seal(Sealing { blocks, ..Sealing::default() }).await.unwrap();
        self.sign().await;
    }

    async fn sign(&self) {
        let signed = self.store().ledger().checkpoint().await.unwrap();
        self.newest.send_replace(Some(Arc::new(signed)));
    }

    async fn alerts(&mut self, count: i64) {
        for at in self.alerts..self.alerts + count {
            let time = Timestamp::from_millis(NOON + at);
            let alert =
                Alert::new(AlertKind::MeterSilent, Some("m".parse().unwrap()), time, time, format!("alert {at}"));
            self.store().ledger().raise(alert).await.unwrap();
        }
        self.alerts += count;
    }

    /// Every record of these streams, under its key: what the other side is to have at the end.
    async fn records(&self, streams: &[Stream]) -> BTreeMap<far::Key, String> {
        let reader = self.store().reader();
        let mut all = BTreeMap::new();
        let mut lines = LineWriter::default();
        let mut add = |epoch: String, stream: Stream, record: Record| {
            let mut line = Vec::new();
            lines.push(&mut line, &record);
            all.insert((epoch, stream, record.seq), String::from_utf8(line).unwrap());
        };
        let until = u64::MAX >> 1;
        for stream in streams {
            match stream {
                Stream::Checkpoints => {}
                Stream::Blocks => {
                    for block in reader.blocks_to_send(0, until, 100_000).await.unwrap() {
                        let record =
                            Record { seq: block.seq, time: block.time, body: Body::Block(Box::new(block.clone())) };
                        add(block.epoch, Stream::Blocks, record);
                    }
                }
                Stream::Readings => {
                    for taken in reader.taken().next(0, until, 100_000).await.unwrap() {
                        let epoch = reader.epochs_of_readings(taken.seq, taken.seq).await.unwrap().remove(0).1;
                        add(
                            epoch,
                            Stream::Readings,
                            Record { seq: taken.seq, time: taken.time, body: Body::Reading(taken) },
                        );
                    }
                }
                stream => {
                    for event in reader.events(*stream, 0, until, 100_000).await.unwrap() {
                        let record = Record { seq: event.seq, time: event.time, body: Body::Event(event.clone()) };
                        add(event.epoch, *stream, record);
                    }
                }
            }
        }
        all
    }

    fn status(&self, name: &str) -> UpstreamStatus {
        self.status.borrow().get(name).cloned().unwrap_or_default()
    }

    async fn alerts_of(&self, kind: AlertKind) -> Vec<Alert> {
        let mut alerts = self.store().reader().alerts(false, 1_000).await.unwrap();
        alerts.retain(|alert| alert.kind == kind);
        alerts
    }

    async fn epochs(&self) -> usize {
        self.store().reader().epochs().await.unwrap().len()
    }

    async fn order(&self, agent: &Agent, order: UpstreamOrder) -> Result<(), UpstreamRefused> {
        let (reply, mut answer) = oneshot::channel();
        agent.orders.send(Order { order, reply }).await.unwrap();
        for _ in 0..20_000 {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            self.pass(Duration::from_millis(100)).await;
        }
        panic!("an order was not answered");
    }

    /// Time goes on, and the tasks with it.
    async fn pass(&self, by: Duration) {
        self.clock.advance(by);
        tokio::time::sleep(Duration::from_micros(200)).await;
    }

    /// Time goes on until something is so.
    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        self.until_by(Duration::from_millis(100), what, is_so).await;
    }

    /// The same, by larger steps, where there are long pauses.
    async fn until_by(&self, step: Duration, what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if is_so() {
                return;
            }
            self.pass(step).await;
        }
        panic!("{what}: not in 10000 steps of {step:?}; {:?}", self.status.borrow());
    }

    /// Whether all that was in the store with these heads is with the other side, as the status says it.
    fn is_delivered(&self, name: &str, heads: &BTreeMap<Stream, u64>) -> bool {
        let status = self.status(name);
        let is_done = |stream: &Stream, status: &StreamStatus| {
            status.depth == 0 && status.head >= heads.get(stream).copied().unwrap_or(0)
        };
        !status.streams.is_empty() && status.streams.iter().all(|(stream, status)| is_done(stream, status))
    }

    async fn until_delivered(&self, name: &str) {
        let heads = self.store().reader().heads().await.unwrap();
        self.until("all is delivered", || self.is_delivered(name, &heads)).await;
    }
}

fn layout() -> Arc<Layout> {
    let slot = |quantity: &str| Slot {
        quantity: quantity.parse().unwrap(),
        scale: Ratio::ONE,
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: "m".parse().unwrap(),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: vec![slot("energy_import_kwh"), slot("power_kw")],
    })
}

fn reading(clock: &Clock, number: i64) -> Reading {
    let Stamp { time, since_boot_ms, clock } = clock.stamp();
    let taken = Stamp { time: time.plus_millis(number), since_boot_ms, clock };
    Reading { layout: layout(), taken, values: Box::new([(0, Number::I64(number)), (1, Number::I64(7))]) }
}

fn block(at: i64) -> Block {
    const HALF: i64 = 1_800_000;
    let time = Timestamp::from_millis;
    let start = NOON + at * HALF;
    Block {
        meter: "m".parse().unwrap(),
        span: Span::new(time(start), time(start + HALF)).unwrap(),
        nominal_ms: 1_800_000,
        revision: 0,
        category: Category::Cons,
        import: Some(Energy::from_uwh(at)),
        export: None,
        max_power: None,
        min_power: None,
        covered_ms: HALF,
        coverage: 10_000,
        method: Method::Counter,
        is_peak_hour: false,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(&at.to_le_bytes()),
        through_seq: 7,
        borders: Borders::default(),
        zone: "UTC".to_owned(),
        interval_ms: 1_000,
        template: None,
        sealed: time(start + HALF + 10_000),
    }
}

/// An upstream of this name; `mark` is what of its config may change.
fn upstream(name: &str, mark: &str, streams: &[Stream]) -> Upstream {
    let kind = Kind::Off { kind: "https", to: mark.to_owned(), why: String::new() };
    Upstream { name: name.to_owned(), kind, streams: streams.to_vec(), start: Start::Oldest }
}

/// The part of the daemon that delivers.
struct Agent {
    config: watch::Sender<Arc<Config>>,
    orders: mpsc::Sender<Order>,
    stop: CancellationToken,
    task: JoinSet<Result<(), StoreError>>,
}

impl Agent {
    fn new(house: &House, fars: &[(&str, &Far)], upstreams: Vec<Upstream>) -> Self {
        let fars: BTreeMap<String, Far> = fars.iter().map(|(name, far)| ((*name).to_owned(), (*far).clone())).collect();
        let make = move |upstream: &Upstream| {
            fars.get(&upstream.name).cloned().ok_or_else(|| "its secret is missing".to_owned())
        };
        let config = watch::Sender::new(Arc::new(Config { upstreams }));
        let ((orders, wanted), stop) = (mpsc::channel(8), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(engine::run(make, config.subscribe(), house.parts(), wanted, stop.clone()));
        Self { config, orders, stop, task }
    }

    fn reconfigure(&self, upstreams: Vec<Upstream>) {
        self.config.send_replace(Arc::new(Config { upstreams }));
    }

    /// Ends in order.
    async fn stop(mut self) {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap().unwrap();
    }

    /// Is gone from one moment to the next.
    async fn die(mut self) {
        self.task.shutdown().await;
    }
}
