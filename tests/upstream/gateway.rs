//! The gateway of these tests: a store that takes readings, blocks and alerts, a log that is signed, and the engine.

#![allow(dead_code, reason = "each test that takes it in uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::evidence::log::{Publisher, settle};
use meterseal::evidence::mark::Mark;
use meterseal::model::note::VerifierKey;
use meterseal::model::{
    Alert, AlertKind, Block, BlockFlags, Borders, Category, ClockState, Digest, Energy, Layout, MeterId, Method,
    Number, Ratio, Reading, Slot, Span, Stamp, Stream, TakenReading, Timestamp, UpstreamOrder, UpstreamRefused,
    UpstreamStatus, UpstreamsStatus,
};
use meterseal::store::{self, Receipt, Sealing, Store};
use meterseal::upstream::record::{Body, LineWriter, Record};
use meterseal::upstream::{self, Config, Order, Parts};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::proxy::Dice;

/// No wait of these tests comes near it unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);
const HALF_AN_HOUR: i64 = 1_800_000;

/// What a record is called, but for the gateway: `(epoch, stream, seq)`.
pub type Key = (String, Stream, u64);
/// Records by key, with the hash of each one's line.
pub type Records = BTreeMap<Key, Digest>;

pub struct Gateway {
    pub store: Store,
    pub publisher: Publisher,
    pub clock: Clock,
    pub plant: Plant,
    config: watch::Sender<Arc<Config>>,
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Arc<UpstreamsStatus>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Makes a store in `folder`; the key that signs its log.
pub fn make(folder: &Path) -> VerifierKey {
    store::init(&limits(folder), &"plant-7".parse().unwrap(), &Clock::trusted()).unwrap().key
}

/// Puts a backup in the place of the store in `folder`.
pub fn restore(folder: &Path, backup: &Path) {
    let file = std::fs::File::open(backup).unwrap();
    store::restore(&limits(folder).path, file, true, Clock::trusted().now(), &mut |_, _| true).unwrap();
}

fn limits(folder: &Path) -> store::Config {
    store::Config {
        path: folder.join("store"),
        commit_every: Duration::from_millis(10),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 0,
    }
}

impl Gateway {
    /// On the store that [`make`] made in `folder`, with the mark beside it.
    pub async fn open(folder: &Path, clock: Clock, config: Config) -> Self {
        let store = Store::open(limits(folder), clock.clone(), None).unwrap();
        let site = store.identity().site.clone();
        let mark = Mark::at(folder.join("mark"));
        settle(&store.reader(), &store.ledger(), &site, &mark, &folder.join("machine")).await.unwrap();
        let publisher = Publisher::new(store.ledger(), mark);
        publisher.publish().await.unwrap();
        let plant = Plant::new(0..3, &clock);
        let (config, status) = (watch::Sender::new(Arc::new(config)), watch::Sender::default());
        let (orders, their_orders) = mpsc::channel(4); // whoever orders waits while it is full
        let (seen, stop) = (status.subscribe(), CancellationToken::new());
        let parts = Parts {
            reader: store.reader(),
            ledger: store.ledger(),
            clock: clock.clone(),
            checkpoint: publisher.newest(),
            status,
        };
        let (wanted, until) = (config.subscribe(), stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { upstream::run(wanted, parts, their_orders, until).await.unwrap() });
        Self { store, publisher, clock, plant, config, orders, status: seen, stop, tasks }
    }

    /// Writes a backup of the store to a file in `folder`.
    pub async fn back_up(&self, folder: &Path, with_key: bool) -> std::path::PathBuf {
        let still = self.store.ledger().hold_still().await.unwrap();
        let path = folder.join("backup");
        let file = std::fs::File::create(&path).unwrap();
        store::write_backup(&limits(folder).path, &still.inventory, with_key, file, &mut |_, _| true).unwrap();
        path
    }

    pub fn configure(&self, config: Config) {
        self.config.send_replace(Arc::new(config));
    }

    /// Takes so many answers of each meter; what was acknowledged.
    pub async fn take(&mut self, answers: usize) -> Vec<(u64, Digest)> {
        let mut acknowledged = Vec::new();
        let ingest = self.store.ingest();
        for _ in 0..answers.div_ceil(50) {
            let readings: Vec<Reading> = (0..answers.min(50)).flat_map(|_| self.plant.answers(&self.clock)).collect();
            let receipt = ingest.store(readings.clone()).await.unwrap();
            acknowledged.extend(hashes(&readings, receipt, &self.clock));
        }
        acknowledged
    }

    /// Seals a block of each meter, raises an alert, ends the one before, and signs all that.
    pub async fn seal(&mut self) {
        seal(&self.store, &self.plant).await;
        self.publisher.publish().await.unwrap();
    }

    pub fn status(&self, upstream: &str) -> UpstreamStatus {
        self.status.borrow().get(upstream).cloned().unwrap_or_default()
    }

    pub async fn until(&self, upstream: &str, what: &str, wanted: impl Fn(&UpstreamStatus) -> bool) -> UpstreamStatus {
        let mut status = self.status.clone();
        let is = |all: &Arc<UpstreamsStatus>| all.get(upstream).is_some_and(&wanted);
        match tokio::time::timeout(PATIENCE, status.wait_for(is)).await {
            Ok(all) => all.unwrap()[upstream].clone(),
            Err(_) => panic!("{upstream} never: {what}; {:#?}", self.status(upstream)),
        }
    }

    /// Waits until all that the store holds now is acknowledged. Meanwhile the log is signed, as the daemon does.
    pub async fn until_through(&self, upstream: &str) {
        let began = Instant::now();
        while !self.is_through(upstream).await {
            assert!(began.elapsed() < PATIENCE, "{upstream} is not through: {:#?}", self.status(upstream));
            self.publisher.publish().await.unwrap();
            self.order(UpstreamOrder::Flush { upstream: upstream.to_owned() }).await.ok();
            // A clock that is set by hand stands still else, and so does whoever waits by it.
            self.clock.advance(Duration::from_millis(50));
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn is_through(&self, upstream: &str) -> bool {
        let heads = self.store.reader().heads().await.unwrap();
        let status = self.status(upstream);
        !status.streams.is_empty()
            && status.streams.iter().all(|(stream, status)| {
                let head = heads.get(stream).copied().unwrap_or(0);
                *stream == Stream::Checkpoints || (status.position.live >= head && status.position.open.is_empty())
            })
    }

    pub async fn order(&self, order: UpstreamOrder) -> Result<(), UpstreamRefused> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order { order, reply }).await.unwrap();
        answer.await.unwrap()
    }

    /// All that the store holds and may be sent, as it is to arrive.
    pub async fn records(&self) -> Records {
        records(&self.store).await
    }

    /// The epochs of its log, the current one last.
    pub async fn epochs(&self) -> Vec<String> {
        let epochs = self.store.reader().epochs().await.unwrap();
        epochs.into_iter().map(|epoch| epoch.identity.epoch).collect()
    }

    pub async fn close(mut self) {
        self.stop.cancel();
        let ends = async { while self.tasks.join_next().await.is_some_and(|ended| ended.is_ok()) {} };
        tokio::time::timeout(PATIENCE, ends).await.expect("the engine does not stop");
        self.store.close().await.unwrap();
        // Whoever opens it again takes its first answers later than these were.
        while self.clock.now().as_millis() <= self.plant.last {
            self.clock.advance(Duration::from_millis(1));
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Meters that answer.
pub struct Plant {
    layouts: Vec<Arc<Layout>>,
    dice: Dice,
    /// ms since 1970; no two answers of a meter have one time.
    last: i64,
}

impl Plant {
    pub fn new(meters: std::ops::Range<usize>, clock: &Clock) -> Self {
        let now = clock.now().as_millis();
        Self { layouts: meters.map(layout).collect(), dice: Dice(now.unsigned_abs()), last: 0 }
    }

    /// One of each meter.
    pub fn answers(&mut self, clock: &Clock) -> Vec<Reading> {
        self.last = clock.now().as_millis().max(self.last + 1);
        let taken = Stamp {
            time: Timestamp::from_millis(self.last),
            since_boot_ms: clock.since_boot_ms(),
            clock: ClockState::Synchronised,
        };
        let dice = &mut self.dice;
        let mut answer = |layout: &Arc<Layout>| {
            let energy = Number::U64(dice.roll(1 << 40));
            let power = Number::I64(i64::try_from(dice.roll(2_000_000)).unwrap() - 1_000_000);
            let voltage = Number::from_f64(230.0 + f64::from(u32::try_from(dice.roll(1_000)).unwrap()) / 7.0).unwrap();
            // Now and then a value is absent.
            let values = [(0, energy), (1, power), (2, voltage)].into_iter().filter(|_| !dice.once_in(9)).collect();
            Reading { layout: layout.clone(), taken, values }
        };
        self.layouts.iter().map(&mut answer).filter(|reading| !reading.values.is_empty()).collect()
    }

    pub fn meters(&self) -> impl Iterator<Item = &MeterId> {
        self.layouts.iter().map(|layout| &layout.meter)
    }
}

fn layout(meter: usize) -> Arc<Layout> {
    let slot = |quantity: &str, scale: &str| Slot {
        quantity: quantity.parse().unwrap(),
        scale: Ratio::parse(scale).unwrap(),
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: format!("meter-{meter}").parse().unwrap(),
        category: [Category::Cons, Category::Prod, Category::Stor][meter % 3],
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: vec![slot("energy_import_kwh", "0.01"), slot("power_kw", "0.001"), slot("voltage_v", "1")],
    })
}

/// The seq and the hash of each, as it is to arrive; by what was handed in, and not by what the store says.
pub fn hashes(readings: &[Reading], receipt: Receipt, clock: &Clock) -> Vec<(u64, Digest)> {
    assert_eq!(receipt.last_seq + 1 - receipt.first_seq, readings.len() as u64, "{receipt:?}");
    let boot: Arc<str> = clock.boot().into();
    let mut lines = LineWriter::default();
    let hash = |(seq, reading): (u64, &Reading)| {
        let Stamp { time, since_boot_ms, clock } = reading.taken;
        let (layout, values) = (reading.layout.clone(), reading.values.clone());
        let taken =
            TakenReading { seq, time, since_boot_ms, boot: boot.clone(), clock, conflict: false, layout, values };
        (seq, hash(&mut lines, &Record { seq, time, body: Body::Reading(taken) }))
    };
    (receipt.first_seq..).zip(readings).map(hash).collect()
}

fn hash(lines: &mut LineWriter, record: &Record) -> Digest {
    let mut line = Vec::new();
    lines.push(&mut line, record);
    Digest::of(&line)
}

/// What was acknowledged by [`seal`].
pub struct Sealed {
    pub blocks: Vec<(MeterId, Timestamp)>,
    pub alert: i64,
}

/// Seals the next block of each meter and raises an alert; the one before ends.
pub async fn seal(store: &Store, plant: &Plant) -> Sealed {
    let (reader, ledger) = (store.reader(), store.ledger());
    let mut blocks = Vec::new();
    for meter in plant.meters() {
        let last = reader.block_starts(meter).await.unwrap().map(|(_, last)| last.as_millis());
        blocks.push(block(meter, last.map_or(1_763_726_400_000, |last| last + HALF_AN_HOUR)));
    }
    let sealed = blocks.iter().map(|block| (block.meter.clone(), block.span.start())).collect();
    ledger.seal(Sealing { blocks, ..Sealing::default() }).await.unwrap();
    let newest = reader.alerts(false, 1).await.unwrap().pop();
    // Each has an occasion of its own.
    let last = newest.as_ref().map_or(0, |alert| alert.occasion.as_millis());
    let now = Timestamp::from_millis(plant.last.max(last + 1));
    if let Some(open) = newest.filter(|alert| alert.cleared.is_none()) {
        ledger.clear_alert(open.id, now).await.unwrap();
    }
    let alert = Alert::new(
        AlertKind::MeterSilent,
        plant.meters().next().cloned(),
        now,
        now,
        "“meter-0” is silent\tsince a while: look at its line".to_owned(),
    );
    Sealed { blocks: sealed, alert: ledger.raise(alert).await.unwrap().unwrap() }
}

fn block(meter: &MeterId, start: i64) -> Block {
    Block {
        meter: meter.clone(),
        span: Span::new(Timestamp::from_millis(start), Timestamp::from_millis(start + HALF_AN_HOUR)).unwrap(),
        nominal_ms: 1_800_000,
        revision: 0,
        category: Category::Cons,
        import: Some(Energy::from_uwh(start)),
        export: None,
        max_power: None,
        min_power: None,
        covered_ms: 0,
        coverage: 0,
        method: Method::Counter,
        is_peak_hour: false,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(&start.to_le_bytes()),
        through_seq: 0,
        borders: Borders::default(),
        zone: "UTC".to_owned(),
        interval_ms: 1_000,
        template: None,
        sealed: Timestamp::from_millis(start),
    }
}

/// All that the store holds and may be sent, as it is to arrive.
pub async fn records(store: &Store) -> Records {
    let reader = store.reader();
    let heads = reader.heads().await.unwrap();
    let mut records = Records::new();
    let mut lines = LineWriter::default();
    for (stream, head) in heads {
        let mut after = 0;
        let epochs = match stream {
            Stream::Readings => reader.epochs_of_readings(1, head.max(1)).await.unwrap(),
            _ => Vec::new(),
        };
        let mut taken = reader.taken();
        while after < head {
            let epoch_of = |seq: u64| epochs.iter().rev().find(|(from, _)| *from <= seq).unwrap().1.clone();
            let some: Vec<(String, Record)> = match stream {
                Stream::Readings => {
                    let some = taken.next(after, head, 5_000).await.unwrap().into_iter();
                    let record = |one: TakenReading| Record { seq: one.seq, time: one.time, body: Body::Reading(one) };
                    some.map(|one| (epoch_of(one.seq), record(one))).collect()
                }
                Stream::Blocks => {
                    let some = reader.blocks_to_send(after, head, 1_000).await.unwrap().into_iter();
                    some.map(|one| {
                        let record = Record { seq: one.seq, time: one.time, body: Body::Block(Box::new(one.clone())) };
                        (one.epoch, record)
                    })
                    .collect()
                }
                Stream::Checkpoints | Stream::Minutes => break,
                events => {
                    let some = reader.events(events, after, head, 1_000).await.unwrap().into_iter();
                    some.map(|one| (one.epoch.clone(), Record { seq: one.seq, time: one.time, body: Body::Event(one) }))
                        .collect()
                }
            };
            let Some((_, last)) = some.last() else { break };
            after = last.seq;
            for (epoch, record) in some {
                let hash = hash(&mut lines, &record);
                assert_eq!(records.insert((epoch, stream, record.seq), hash), None, "one key twice in the store");
            }
        }
    }
    records
}

/// The blocks and the alerts that will be sent.
pub async fn sealed(store: &Store) -> (BTreeSet<(String, i64)>, BTreeSet<i64>) {
    let reader = store.reader();
    let (mut blocks, mut alerts) = (BTreeSet::new(), BTreeSet::new());
    let heads = reader.heads().await.unwrap();
    let head = |stream| heads.get(&stream).copied().unwrap_or(0);
    for block in reader.blocks_to_send(0, head(Stream::Blocks), 1_000_000).await.unwrap() {
        let record: serde_json::Value = serde_json::from_slice(&block.record).unwrap();
        blocks.insert((record["meter"].as_str().unwrap().to_owned(), record["start"].as_i64().unwrap()));
    }
    for event in reader.events(Stream::Alerts, 0, head(Stream::Alerts), 1_000_000).await.unwrap() {
        let line: serde_json::Value = serde_json::from_str(&event.line).unwrap();
        alerts.insert(line["alert"].as_i64().unwrap());
    }
    (blocks, alerts)
}

/// What is wrong with what is held upstream, by what it ought to be; at the most some of each fault.
pub fn differences(held: &Records, wanted: &Records) -> Vec<String> {
    let some = |what: &str, keys: Vec<&Key>| {
        (!keys.is_empty()).then(|| format!("{} {what}: {:?} …", keys.len(), &keys[..keys.len().min(3)]))
    };
    let missing = wanted.keys().filter(|key| !held.contains_key(*key)).collect();
    let changed = wanted.iter().filter(|(key, hash)| held.get(*key).is_some_and(|held| held != *hash));
    let foreign = held.keys().filter(|key| !wanted.contains_key(*key)).collect();
    [some("missing", missing), some("changed", changed.map(|(key, _)| key).collect()), some("nobody sent", foreign)]
        .into_iter()
        .flatten()
        .collect()
}
