//! Simulators: what they say by way of the page's WebSocket, made meters beside those of the config, and stored.
//!
//! They are kept in the store, so that after a restart nothing that was made up passes for measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::blocks;
use crate::clock::Clock;
use crate::model::{
    Category, Introduction, Layout, Meter, MeterId, Number, OpenBlock, Origin, Ratio, Reading, Role, Roster, Simulated,
    SimulatedReading, Simulator, SimulatorRefused, Slot, Timestamp,
};
use crate::store::{Ingest, Ledger, Reader, Sealing, StoreError};
use crate::web::SimulatorNow;

/// Orders of the page's clients; who has one more waits, and is not read from meanwhile.
pub const ASKED: usize = 256;
/// Readings that are stored together.
const TOGETHER: usize = 64;
/// Simulators known at once. One more takes the place of the one that was heard longest ago, if that is long enough.
const MOST: usize = 64;
const FORGOTTEN_MS: i64 = 10 * 60_000;
/// Readings are taken up to so far ahead of the clock: some simulators run a day through in minutes.
const AHEAD_MS: i64 = 24 * 3_600_000;
/// And so far back. Who gives seconds for milliseconds is told by it.
const BACK_MS: i64 = 400 * 24 * 3_600_000;
/// A simulator that says nothing else.
const INTERVAL_MS: u32 = 60_000;
/// Intervals of layouts. One of these serves all that are shorter, so that a change makes a layout seldom, and a short
/// one is bridged whatever comes next.
const STEPS: [u32; 5] = [60_000, 120_000, 300_000, 600_000, 900_000];
/// The longest block.
const BLOCK_MS: i64 = 3_600_000;

/// Under this name the store keeps them.
const STATE: &str = "simulators";

/// Where the task reads and writes.
pub struct Parts {
    /// The meters of the config, and how blocks are cut.
    pub config: watch::Receiver<Arc<blocks::Config>>,
    pub reader: Reader,
    pub ledger: Ledger,
    pub ingest: Ingest,
    pub clock: Clock,
}

/// Where it tells of meters: those of the config and the simulators together.
#[derive(Clone)]
pub struct Told {
    pub blocks: watch::Sender<Arc<blocks::Config>>,
    pub meters: watch::Sender<Arc<Vec<Meter>>>,
    pub roster: watch::Sender<Arc<Roster>>,
}

impl Told {
    pub fn new(config: &blocks::Config) -> Self {
        Self {
            blocks: watch::Sender::new(Arc::new(config.clone())),
            meters: watch::Sender::new(Arc::new(config.meters.clone())),
            roster: watch::Sender::default(),
        }
    }
}

/// The owner of the simulators.
pub struct Desk {
    parts: Parts,
    told: Told,
    known: BTreeMap<MeterId, Known>,
    /// What this version cannot read: it is another's, and stays as it is.
    unread: Vec<Value>,
}

/// A simulator, and when it last used each of [`STEPS`].
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    simulator: Simulator,
    steps: [Option<Timestamp>; STEPS.len()],
}

impl Desk {
    /// Takes up those of the store. Before blocks are sealed: what is made up must be known as such.
    pub async fn open(parts: Parts, told: Told) -> Result<Self, StoreError> {
        let kept = parts.reader.state(STATE).await?;
        let kept = match kept {
            Some(Value::Array(kept)) => kept,
            other => other.into_iter().collect(),
        };
        let (mut known, mut unread) = (BTreeMap::new(), Vec::new());
        for kept in kept {
            match Known::deserialize(&kept) {
                Ok(one) => drop(known.insert(one.simulator.id.clone(), one)),
                Err(why) => {
                    error!(%why, "a simulator of the store cannot be read, and is left there as it is: {kept}");
                    unread.push(kept);
                }
            }
        }
        let mut desk = Self { parts, told, known, unread };
        // The meters are told in any case; a store that cannot be written now gives them their numbers later.
        if let Err(error) = desk.tell().await {
            warn!(%error, "meters have no numbers yet");
        }
        Ok(desk)
    }

    pub async fn run(mut self, mut asked: mpsc::Receiver<SimulatorNow>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut orders = Vec::with_capacity(TOGETHER);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = self.parts.config.changed() => {
                    if changed.is_err() {
                        return Ok(()); // The agent is gone.
                    }
                    if let Err(error) = self.tell().await {
                        warn!(%error, "the numbers of new meters are given later");
                    }
                }
                count = asked.recv_many(&mut orders, TOGETHER) => {
                    if count == 0 {
                        // Nobody can ask any more: the program is stopping.
                        break stop.cancelled().await;
                    }
                    self.take(&mut orders).await;
                }
            }
        }
        // When each was heard last is kept now, and else only with what changes.
        if let Err(error) = self.save().await {
            warn!(%error, "when simulators were heard last was not kept");
        }
        Ok(())
    }

    /// Does what was asked, in its order; readings that follow one another are stored together.
    async fn take(&mut self, orders: &mut Vec<SimulatorNow>) {
        let mut readings = Vec::new();
        for order in orders.drain(..) {
            match order {
                SimulatorNow::Reading { reading, reply } => readings.push((reading, reply)),
                SimulatorNow::Register { introduction, reply } => {
                    self.store(std::mem::take(&mut readings)).await;
                    // Who asked may have gone.
                    reply.send(self.register(introduction).await).ok();
                }
            }
        }
        self.store(readings).await;
    }

    async fn register(&mut self, said: Introduction) -> Result<Simulator, SimulatorRefused> {
        let (now, before) = (self.parts.clock.now(), self.known.clone());
        let known = self.admit(&said.id, now)?;
        let simulator = &mut known.simulator;
        simulator.name = said.name.or(simulator.name.take());
        simulator.phone = said.phone.or(simulator.phone.take());
        if let Some(target) = said.peak_target {
            simulator.peak_target_uwh = Some(target.as_uwh());
        }
        simulator.heard = now;
        let same = |before: &Known| Simulator { heard: now, ..before.simulator.clone() } == *simulator;
        let known_before = before.get(&simulator.id);
        if !known_before.is_some_and(same) {
            simulator.updated = now;
            let is_new = known_before.is_none();
            let simulator = simulator.clone();
            if let Err(error) = self.keep().await {
                self.known = before;
                return Err(SimulatorRefused::Store(error.to_string()));
            }
            if is_new {
                info!(meter = %simulator.id, "a simulator came");
            }
            return Ok(simulator);
        }
        Ok(simulator.clone())
    }

    /// The simulator of this name, which may be new.
    fn admit(&mut self, id: &MeterId, now: Timestamp) -> Result<&mut Known, SimulatorRefused> {
        if self.parts.config.borrow().meters.iter().any(|meter| meter.id == *id) {
            return Err(SimulatorRefused::IsMeter(id.clone()));
        }
        if !self.known.contains_key(id) && self.known.len() >= MOST {
            let oldest = self.known.values().min_by_key(|known| known.simulator.heard);
            let oldest = oldest.filter(|known| now.millis_since(known.simulator.heard) >= FORGOTTEN_MS);
            let gone = oldest.map(|known| known.simulator.id.clone()).ok_or(SimulatorRefused::Full(MOST))?;
            self.known.remove(&gone);
        }
        Ok(self.known.entry(id.clone()).or_insert_with(|| Known {
            simulator: Simulator {
                id: id.clone(),
                name: None,
                interval_ms: INTERVAL_MS,
                peak_target_uwh: None,
                phone: None,
                created: now,
                updated: now,
                heard: now,
            },
            steps: [None; STEPS.len()],
        }))
    }

    /// Stores readings and answers each when all are durable.
    async fn store(&mut self, asked: Vec<(SimulatedReading, Reply)>) {
        let (mut readings, mut waiting, mut changed) = (Vec::new(), Vec::new(), false);
        let before = self.known.clone();
        for (said, reply) in asked {
            match self.reading(&said) {
                Ok((reading, is_new)) => {
                    readings.push(reading);
                    waiting.push((said, reply));
                    changed |= is_new;
                }
                Err(refused) => drop(reply.send(Err(refused))),
            }
        }
        if readings.is_empty() {
            return;
        }
        // That they are simulators is durable before the first of what they say is; what is not durable is not known, so
        // that it is kept before the next of them.
        let outcome = if changed { self.keep().await } else { Ok(()) };
        if outcome.is_err() {
            self.known = before;
        }
        let outcome = match outcome {
            Ok(()) => self.parts.ingest.store(readings).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            warn!(%error, "readings of simulators were not stored");
            let told = error.to_string();
            for (_, reply) in waiting {
                reply.send(Err(SimulatorRefused::Store(told.clone()))).ok();
            }
            return;
        }
        let mut looked = BTreeMap::new();
        for (said, reply) in waiting {
            reply.send(self.answer(&said, &mut looked).await).ok();
        }
    }

    /// What is stored of it; whether anything of the simulator changed that must be kept.
    fn reading(&mut self, said: &SimulatedReading) -> Result<(Reading, bool), SimulatorRefused> {
        let stamp = self.parts.clock.stamp();
        let ahead = said.time.millis_since(stamp.time);
        if ahead > AHEAD_MS {
            return Err(SimulatorRefused::Time("lies more than a day ahead of the gateway's clock"));
        }
        if ahead < -BACK_MS {
            return Err(SimulatorRefused::Time("lies more than 400 days back: it is in milliseconds since 1970"));
        }
        let is_new = !self.known.contains_key(&said.id);
        let known = self.admit(&said.id, stamp.time)?;
        known.simulator.heard = stamp.time;
        let interval_ms = said.interval_ms.unwrap_or(known.simulator.interval_ms);
        let differs = known.simulator.interval_ms != interval_ms;
        if differs {
            (known.simulator.interval_ms, known.simulator.updated) = (interval_ms, stamp.time);
        }
        let begins = known.use_step(interval_ms, said.time);
        let layout = Arc::new(layout(&said.id, known.step_at(said.time)));
        let numbers = [Some(said.power_kw), said.frequency_hz, Some(f64::from(interval_ms) / 1_000.0)];
        let numbers = (0..).zip(numbers).filter_map(|(place, value)| Some((place, Number::from_f64(value?)?)));
        let reading = Reading { layout, taken: stamp.by_device(said.time), values: numbers.collect() };
        Ok((reading, is_new || differs || begins))
    }

    async fn answer(&self, said: &SimulatedReading, looked: &mut Looked) -> Result<Simulated, SimulatorRefused> {
        let simulator = self.known.get(&said.id).map(|known| known.simulator.clone());
        // One that has just been put out by a newer one.
        let simulator = simulator.ok_or(SimulatorRefused::Full(MOST))?;
        if !said.shows {
            return Ok(Simulated { simulator, seq: None, block: None });
        }
        let failed = |error: StoreError| warn!(%error, "a block could not be looked at");
        let stored = self.parts.reader.first_from(&said.id, Role::Power, said.time).await;
        let seq = stored.map_err(failed).ok().flatten().map(|stored| stored.seq);
        let config = self.told.blocks.borrow().clone();
        let start = blocks::span_at(&config, said.time).start();
        let key = (said.id.clone(), start);
        if !looked.contains_key(&key) {
            let until = self.parts.clock.now().max(said.time);
            let meter = Meter { interval_ms: Some(self.step_of(&said.id, said.time)), ..meter_of(&simulator) };
            let block = blocks::look(&config, &self.parts.reader, &meter, (said.time, until)).await;
            looked.insert(key.clone(), block.map_err(failed).ok());
        }
        Ok(Simulated { simulator, seq, block: looked.get(&key).cloned().flatten() })
    }

    fn step_of(&self, id: &MeterId, at: Timestamp) -> u32 {
        self.known.get(id).map_or(INTERVAL_MS, |known| known.step_at(at))
    }

    /// Makes what is known durable, and tells it.
    async fn keep(&mut self) -> Result<(), StoreError> {
        self.save().await?;
        self.tell().await
    }

    async fn save(&self) -> Result<(), StoreError> {
        let known: Result<Vec<Value>, _> = self.known.values().map(serde_json::to_value).collect();
        // Plain strings and numbers: they have a JSON form.
        let known = known.unwrap_or_default().into_iter().chain(self.unread.iter().cloned());
        let state = vec![(STATE, Value::Array(known.collect()))];
        self.parts.ledger.seal(Sealing { state, ..Sealing::default() }).await
    }

    /// Tells the meters of the config and the simulators, none of which is one of those.
    async fn tell(&mut self) -> Result<(), StoreError> {
        let config = self.parts.config.borrow_and_update().clone();
        self.known.retain(|id, _| {
            let is_meter = config.meters.iter().any(|meter| meter.id == *id);
            if is_meter {
                warn!(meter = %id, "a simulator is forgotten: the config has a meter of its name");
            }
            !is_meter
        });
        let simulators = || self.known.values().map(|known| known.simulator.clone());
        let meters: Vec<_> = config.meters.iter().cloned().chain(simulators().map(|one| meter_of(&one))).collect();
        self.told.blocks.send_replace(Arc::new(blocks::Config { meters: meters.clone(), ..(*config).clone() }));
        let ids = meters.iter().map(|meter| meter.id.clone()).collect();
        self.told.meters.send_replace(Arc::new(meters));
        let simulators: BTreeMap<_, _> = simulators().map(|one| (one.id.clone(), one)).collect();
        let numbers = self.parts.ledger.meter_numbers(ids).await?;
        self.told.roster.send_replace(Arc::new(Roster { simulators, numbers }));
        Ok(())
    }
}

type Reply = oneshot::Sender<Result<Simulated, SimulatorRefused>>;
/// Blocks of one hand-over, each looked at once.
type Looked = BTreeMap<(MeterId, Timestamp), Option<(OpenBlock, u64)>>;

impl Known {
    /// Notes that a reading of `time` has this interval; true when that must be kept. It is noted for the half hour, so
    /// that it is seldom written.
    fn use_step(&mut self, interval_ms: u32, time: Timestamp) -> bool {
        const HALF_HOUR_MS: i64 = 1_800_000;
        let step = STEPS.iter().position(|step| *step >= interval_ms).unwrap_or(STEPS.len() - 1);
        let until = Timestamp::from_millis((time.as_millis().div_euclid(HALF_HOUR_MS) + 1) * HALF_HOUR_MS);
        let is_news = step > 0 && self.steps[step].is_none_or(|last| last < until);
        if is_news {
            self.steps[step] = Some(until);
        }
        is_news
    }

    /// The interval that a block with a reading of `time` is judged by: the longest that readings had which may reach
    /// into it, so that none of them is cut short when the interval becomes shorter.
    fn step_at(&self, time: Timestamp) -> u32 {
        let reaches = |step: u32, last: Timestamp| time.millis_since(last) <= BLOCK_MS + 3 * i64::from(step);
        let used = STEPS.iter().zip(self.steps).filter_map(|(step, last)| Some((*step, last?)));
        used.filter(|(step, last)| reaches(*step, *last)).map(|(step, _)| step).max().unwrap_or(STEPS[0])
    }
}

fn layout(id: &MeterId, interval_ms: u32) -> Layout {
    let slot = |name: &str| {
        let quantity = name.parse().unwrap_or_else(|_| unreachable!("{name} names its unit"));
        Slot { quantity, scale: Ratio::ONE, rolls_over_at: None, interval: None }
    };
    Layout {
        meter: id.clone(),
        category: Category::Cons,
        interval_ms: Some(interval_ms),
        template: None,
        simulated: true,
        slots: ["power_kw", "frequency_hz", "reading_interval_s"].map(slot).into(),
    }
}

fn meter_of(simulator: &Simulator) -> Meter {
    Meter {
        id: simulator.id.clone(),
        name: simulator.name.clone().unwrap_or_else(|| simulator.id.to_string()),
        category: Category::Cons,
        origin: Origin::Simulator,
        interval_ms: Some(simulator.interval_ms),
        peak_target: simulator.peak_target(),
        simulated: true,
    }
}

/// What a stage needs to end in time: at most one hand-over is under way.
pub const STOPPING: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::rule::{Carry, Tally};
    use crate::model::calendar::Spans;
    use crate::model::{ClockState, StoredReading};
    use crate::store::{self, Store};

    fn known() -> Known {
        let id: MeterId = "SIM-1".parse().unwrap();
        let at = Timestamp::from_millis(0);
        let simulator = Simulator {
            id,
            name: None,
            interval_ms: INTERVAL_MS,
            peak_target_uwh: None,
            phone: None,
            created: at,
            updated: at,
            heard: at,
        };
        Known { simulator, steps: [None; STEPS.len()] }
    }

    /// Energy of all blocks, as they are sealed, in µWh; and how many there are.
    fn sealed(minutes: u8, readings: &[StoredReading]) -> (i64, i64) {
        let spans = Spans::new("UTC", minutes, 0, Vec::new()).unwrap();
        let (mut carry, mut energy, mut blocks, mut at) = (Carry::default(), 0, 0, 0);
        while at < readings.len() {
            let span = spans.containing(readings[at].time).span;
            let within = readings[at..].partition_point(|reading| reading.time < span.end());
            let last = &readings[at + within - 1];
            let mut tally = Tally::begin(span, carry, last.layout.interval_ms.unwrap(), false);
            readings[at..].iter().for_each(|reading| tally.push(reading));
            let (import, export, _) = tally.energy(Category::Cons, span.end());
            energy += import.unwrap_or_default().as_uwh() - export.unwrap_or_default().as_uwh();
            carry = tally.carry();
            (at, blocks) = (at + within, blocks + 1);
        }
        (energy, blocks)
    }

    proptest! {
        #[test]
        fn blocks_add_up_to_the_integral_whatever_the_intervals_are(
            minutes in prop::sample::select(vec![15_u8, 30, 60]),
            begin in 0_i64..3_600_000,
            said in prop::collection::vec(
                (prop_oneof![100_u32..2_000, 50_000_u32..70_000, Just(900_000_u32), 100_u32..900_000], -500_000_000_i64..500_000_000),
                2..120,
            ),
        ) {
            let (mut known, mut time, mut integral, mut readings) = (known(), begin, 0_i128, Vec::new());
            for (at, (interval_ms, mw)) in said.iter().enumerate() {
                let taken = Timestamp::from_millis(time);
                known.use_step(*interval_ms, taken);
                let layout = Arc::new(layout(&known.simulator.id, known.step_at(taken)));
                let is_last = at + 1 == said.len();
                // The last one is nothing, so that all that was held is over.
                let mw = if is_last { 0 } else { *mw };
                #[allow(clippy::cast_precision_loss)]
                let kw = Number::from_f64(mw as f64 / 1e6).unwrap();
                let values = Box::new([(0, kw)]);
                let seq = at as u64 + 1;
                let clock = ClockState::Synchronised;
                readings.push(StoredReading { seq, time: taken, layout, values, clock, conflict: false });
                integral += i128::from(mw) * i128::from(*interval_ms);
                time += i64::from(*interval_ms);
            }
            let (energy, blocks) = sealed(minutes, &readings);
            let exact = i64::try_from(integral / 3_600).unwrap();
            // Each block rounds each direction down once.
            prop_assert!((energy - exact).abs() <= 2 * blocks + 1, "{energy} {exact} {blocks}");
        }
    }

    #[test]
    fn a_longer_interval_is_held_until_nothing_of_it_reaches_into_a_block() {
        let mut known = known();
        let at = |minutes: i64| Timestamp::from_millis(minutes * 60_000);
        assert_eq!(known.step_at(at(0)), 60_000);
        assert!(known.use_step(300_000, at(10)) && !known.use_step(299_999, at(20)));
        assert!(!known.use_step(1_000, at(21)));
        assert_eq!(known.step_at(at(21)), 300_000);
        // Noted up to 00:30, and from there on an hour and three intervals.
        assert_eq!((known.step_at(at(105)), known.step_at(at(106))), (300_000, 60_000));
        assert!(known.use_step(300_000, at(200)), "it is used anew");
    }

    async fn opened(folder: &std::path::Path) -> (Store, Desk) {
        let secs = Duration::from_secs;
        let config = store::Config {
            path: folder.join("store"),
            commit_every: Duration::from_millis(10),
            keep_raw: secs(86_400),
            max_disk: 100_000_000,
            reserve: 1_000_000,
        };
        let clock = Clock::trusted();
        if !config.path.exists() {
            store::init(&config, &"test".parse().unwrap(), &clock).unwrap();
        }
        let store = Store::open(config, clock.clone(), None).unwrap();
        let (blocks, timezone) = (15, "UTC".to_owned());
        let config = blocks::Config {
            timezone,
            block_minutes: blocks,
            clock_offset_ms: 0,
            peaks: Vec::new(),
            meters: Vec::new(),
        };
        let told = Told::new(&config);
        let parts = Parts {
            config: watch::Sender::new(Arc::new(config)).subscribe(),
            reader: store.reader(),
            ledger: store.ledger(),
            ingest: store.ingest(),
            clock,
        };
        let desk = Desk::open(parts, told).await.unwrap();
        (store, desk)
    }

    #[tokio::test]
    async fn what_could_not_be_kept_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let (store, mut desk) = opened(folder.path()).await;
        let time = desk.parts.clock.now();
        let said = |power_kw, interval_ms| {
            let id = "SIM-1".parse().unwrap();
            SimulatedReading { id, time, power_kw, frequency_hz: None, interval_ms, shows: false }
        };
        let tell = async |desk: &mut Desk, said| {
            let (reply, answer) = oneshot::channel();
            desk.store(vec![(said, reply)]).await;
            answer.await.unwrap()
        };
        assert!(tell(&mut desk, said(1.0, None)).await.is_ok());
        let before = serde_json::to_value(&desk.known).unwrap();
        // Nothing can be written any more.
        store.close().await.unwrap();
        assert!(tell(&mut desk, said(2.0, Some(900_000))).await.is_err());
        let other = SimulatedReading { id: "SIM-2".parse().unwrap(), ..said(1.0, None) };
        assert!(tell(&mut desk, other).await.is_err());
        let introduction = Introduction { id: "SIM-3".parse().unwrap(), name: None, peak_target: None, phone: None };
        assert!(desk.register(introduction).await.is_err());
        assert_eq!(serde_json::to_value(&desk.known).unwrap(), before, "the next of them is kept first");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (store, desk) = opened(folder.path()).await;
        let strange = serde_json::json!({"id": "SIM-9", "of": "another version"});
        let state = vec![(STATE, serde_json::json!([serde_json::to_value(known()).unwrap(), strange]))];
        store.ledger().seal(Sealing { state, ..Sealing::default() }).await.unwrap();
        drop(desk);
        store.close().await.unwrap();
        let (store, desk) = opened(folder.path()).await;
        assert_eq!(desk.known.keys().map(MeterId::as_str).collect::<Vec<_>>(), ["SIM-1"]);
        desk.save().await.unwrap();
        let kept = store.reader().state(STATE).await.unwrap().unwrap();
        assert!(kept.as_array().unwrap().len() == 2 && kept.as_array().unwrap().contains(&strange), "{kept}");
    }
}
