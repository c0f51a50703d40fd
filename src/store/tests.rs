//! The store as the house uses it, over its own outer side.

mod access;
mod anchors;
mod backup;
mod jobs;
mod opening;
mod owner;
mod upstream;

use super::*;
use crate::model::{
    AlertKind, Block, BlockFlags, Border, Borders, Category, Cause, ClockState, Digest, Energy, Interval, Label,
    Layout, Method, Number, Ratio, Role, Setup, Slot, Span, Stamp, StoredReading,
};
use proptest::prelude::*;
use tempfile::TempDir;

const NOON: i64 = 1_763_726_400_000; // 2025-11-21T12:00:00Z

pub(super) fn config(folder: &TempDir) -> Config {
    Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 1 << 20,
    }
}

pub(super) struct House {
    pub(super) folder: TempDir,
    pub(super) clock: Clock,
    pub(super) store: Store,
    pub(super) created: Created,
}

pub(super) fn house() -> House {
    // In memory where there is such a folder: these tests ask what is found, not what outlives the power.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let created = init(&config(&folder), &"plant-7".parse().unwrap(), &clock).unwrap();
    let store = Store::open(config(&folder), clock.clone(), None).unwrap();
    House { folder, clock, store, created }
}

impl House {
    /// Ends the store and opens it again.
    pub(super) async fn again(self) -> Self {
        let Self { folder, clock, store, created } = self;
        store.close().await.unwrap();
        let store = Store::open(config(&folder), clock.clone(), None).unwrap();
        Self { folder, clock, store, created }
    }

    pub(super) async fn put(&self, readings: Vec<Reading>) -> Receipt {
        self.store.ingest().store(readings).await.unwrap()
    }

    async fn all(&self, name: &str, from: i64, to: i64) -> Vec<StoredReading> {
        let (from, to) = (Timestamp::from_millis(from), Timestamp::from_millis(to));
        let mut stream = self.store.reader().readings(meter(name), from, to);
        let mut all = Vec::new();
        while let Some(batch) = stream.next().await {
            all.extend(batch.unwrap());
        }
        all
    }
}

pub(super) fn meter(name: &str) -> MeterId {
    name.parse().unwrap()
}

pub(super) fn layout(name: &str) -> Arc<Layout> {
    let slot = |quantity: &str| Slot {
        quantity: quantity.parse().unwrap(),
        scale: Ratio::ONE,
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: meter(name),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: vec![slot("energy_import_kwh"), slot("power_kw"), slot("voltage_v")],
    })
}

pub(super) fn reading(layout: &Arc<Layout>, time: i64, values: &[(u8, i64)]) -> Reading {
    let taken = Stamp {
        time: Timestamp::from_millis(time),
        since_boot_ms: (time - NOON + 1_000_000).unsigned_abs(),
        clock: ClockState::Synchronised,
    };
    Reading {
        layout: layout.clone(),
        taken,
        values: values.iter().map(|(place, value)| (*place, Number::I64(*value))).collect(),
    }
}

fn facts(readings: &[StoredReading]) -> Vec<(i64, u64, bool, String)> {
    let fact = |r: &StoredReading| (r.time.as_millis(), r.seq, r.conflict, format!("{:?}", r.values));
    readings.iter().map(fact).collect()
}

#[tokio::test]
async fn a_store_is_made_once_and_opened_by_one() {
    let house = house();
    let again = init(&config(&house.folder), &"plant-7".parse().unwrap(), &house.clock);
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    let second = Store::open(config(&house.folder), house.clock.clone(), None);
    assert!(matches!(second.err(), Some(StoreError::Locked { pid, .. }) if pid == std::process::id()));
    assert_eq!(*house.store.identity(), house.created.identity);
    assert_eq!(house.created.identity.gateway.len(), 32);
    let reader = house.store.reader();
    assert_eq!(reader.scope_of(&house.created.token), Some(Scope::Admin));
    assert_eq!(reader.scope_of("something else"), None);
    assert!(matches!(free(&config(&house.folder).path), Err(StoreError::Locked { .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(free(&config(&empty).path), Err(StoreError::Missing { .. })));
    let missing = Store::open(config(&empty), house.clock.clone(), None);
    assert!(matches!(missing.err(), Some(StoreError::Missing { .. })));
    house.store.close().await.unwrap();
    free(&config(&house.folder).path).unwrap();
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let house = house();
    let layout = layout("m1");
    let receipt = house.put((0..10).map(|s| reading(&layout, NOON + s * 1000, &[(0, s), (1, 5)])).collect()).await;
    assert_eq!((receipt.first_seq, receipt.last_seq, receipt.repeated), (1, 10, 0));
    assert_eq!(*house.store.reader().committed().borrow(), 10);
    let before = facts(&house.all("m1", i64::MIN, i64::MAX).await);
    assert_eq!(before.len(), 10);
    let house = house.again().await;
    assert_eq!(facts(&house.all("m1", i64::MIN, i64::MAX).await), before);
    assert_eq!(house.all("m1", NOON + 2000, NOON + 4000).await.len(), 2);
    let live = house.store.reader().live();
    assert_eq!(live[&meter("m1")][&"energy_import_kwh".parse().unwrap()].time.as_millis(), NOON + 9000);
    let next = house.put(vec![reading(&layout, NOON + 60_000, &[(0, 1)])]).await;
    assert_eq!(next.first_seq, 11, "a clean end leaves no hole");
}

#[tokio::test]
async fn offered_readings_are_committed_and_fed() {
    let house = house();
    let mut feed = house.store.reader().feed();
    house.store.ingest().offer(reading(&layout("m1"), NOON, &[(1, 7)])).await.unwrap();
    let batch = feed.recv().await.unwrap();
    assert_eq!((batch.len(), batch[0].seq), (1, 1));
    let reader = house.store.reader();
    assert_eq!(reader.layouts(&meter("m1")), [layout("m1")]);
    assert_eq!(reader.layouts(&meter("m2")), []);
    assert_eq!(house.store.reader().arrivals(0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_value_that_comes_again_is_ignored_and_another_one_is_a_conflict() {
    let house = house();
    let layout = layout("m1");
    house.put(vec![reading(&layout, NOON, &[(0, 1), (1, 2)]), reading(&layout, NOON + 1000, &[(0, 1)])]).await;
    let same = house.put(vec![reading(&layout, NOON, &[(0, 1), (1, 2)])]).await;
    assert_eq!(same.repeated, 2);
    assert!(same.last_seq < same.first_seq);
    let other = house.put(vec![reading(&layout, NOON, &[(0, 1), (1, 3), (2, 230)])]).await;
    assert_eq!(other.repeated, 1);
    // In one group, and once more with a repetition of the conflict itself.
    let third = [reading(&layout, NOON + 2000, &[(0, 1)]), reading(&layout, NOON + 2000, &[(0, 2)])];
    house.put(third.to_vec()).await;
    assert_eq!(house.put(third.to_vec()).await.repeated, 2);
    let found: Vec<_> = house.all("m1", i64::MIN, i64::MAX).await;
    let flags: Vec<(i64, bool, usize)> =
        found.iter().map(|r| (r.time.as_millis() - NOON, r.conflict, r.values.len())).collect();
    assert_eq!(flags, [(0, false, 2), (0, true, 2), (1000, false, 1), (2000, false, 1), (2000, true, 1)]);
    let health = house.store.reader().health();
    assert_eq!((health.repeated, health.conflicts, health.readings), (5, 2, 5));
    // The same figure of an interval and of a register.
    let slots = layout.slots.iter().cloned().map(|mut slot| {
        slot.interval =
            (slot.quantity.as_str() == "energy_import_kwh").then_some(Interval { ms: 900_000, label: Label::End });
        slot
    });
    let by_interval = Arc::new(Layout { slots: slots.collect(), ..(*layout).clone() });
    let again = house.put(vec![reading(&by_interval, NOON + 1000, &[(0, 1)])]).await;
    assert_eq!((again.repeated, house.store.reader().health().conflicts), (0, 3));
}

#[tokio::test]
async fn one_store_lets_only_later_revisions_hide_a_silence() {
    let house = house();
    let block = |start: i64, end: i64, revision: u32| Block {
        meter: meter("m1"),
        span: Span::new(Timestamp::from_millis(start), Timestamp::from_millis(end)).unwrap(),
        nominal_ms: 1_800_000,
        revision,
        category: Category::Cons,
        import: Some(Energy::from_uwh(start)),
        export: None,
        max_power: None,
        min_power: None,
        covered_ms: 5,
        coverage: 1,
        method: Method::Counter,
        is_peak_hour: true,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(b"x"),
        through_seq: 7,
        borders: Borders {
            before: vec![Border {
                role: Role::Import,
                time: Timestamp::from_millis(1),
                seq: 9,
                raw: Number::U64(3),
                scale: Ratio::ONE,
                rolls_over_at: None,
                interval: None,
            }],
            ..Borders::default()
        },
        zone: "Asia/Kuala_Lumpur".to_owned(),
        interval_ms: 1_000,
        template: Some(Digest::of(b"t")),
        sealed: Timestamp::from_millis(NOON),
    };
    let half = 1_800_000;
    let ledger = house.store.ledger();
    let seal = |blocks: Vec<Block>| {
        let ledger = ledger.clone();
        async move { ledger.seal(Sealing { blocks, ..Sealing::default() }).await }
    };
    let silence = block(0, 96 * half, 0);
    seal(vec![silence.clone()]).await.unwrap();
    let span = Span::new(Timestamp::from_millis(50 * half), Timestamp::from_millis(52 * half)).unwrap();
    let reader = house.store.reader();
    assert_eq!(reader.blocks(&meter("m1"), span).await.unwrap(), std::slice::from_ref(&silence));
    let parts = |range: std::ops::Range<i64>| range.map(|n| block(n * half, (n + 1) * half, u32::from(n == 0)));
    seal(parts(0..51).collect()).await.unwrap();
    let found = reader.blocks(&meter("m1"), span).await.unwrap();
    assert_eq!(found, [silence, block(50 * half, 51 * half, 0)]);
    seal(parts(51..96).chain([block(50 * half, 51 * half, 1)]).collect()).await.unwrap();
    let found = reader.blocks(&meter("m1"), span).await.unwrap();
    assert_eq!(found, [block(50 * half, 51 * half, 1), block(51 * half, 52 * half, 0)]);
    let all = Span::new(Timestamp::from_millis(0), Timestamp::from_millis(96 * half)).unwrap();
    assert_eq!(reader.blocks(&meter("m1"), all).await.unwrap().len(), 96);
    assert_eq!(reader.revisions(&meter("m1"), Timestamp::from_millis(50 * half)).await.unwrap().len(), 2);
    let twice = seal(vec![block(97 * half, 98 * half, 0), block(50 * half, 51 * half, 1)]).await;
    assert!(matches!(twice, Err(StoreError::Sealed { revision: 1, .. })));
    assert_eq!(reader.revisions(&meter("m1"), Timestamp::from_millis(97 * half)).await.unwrap(), [], "all or nothing");
}

#[tokio::test]
async fn what_tasks_keep_is_kept() {
    let house = house();
    let at = Timestamp::from_millis;
    let redate = Redate { boot: "manual-1".to_owned(), first_seq: 1, last_seq: 2, offset_ms: 500 };
    let sealing = Sealing {
        sealed_through: vec![(meter("m1"), at(5))],
        examined_seq: Some(42),
        redates: vec![redate.clone()],
        state: vec![("gap", serde_json::json!({"a": 1}))],
        ..Sealing::default()
    };
    let ledger = house.store.ledger();
    ledger.seal(sealing).await.unwrap();
    ledger.save_config("[site]".to_owned()).await.unwrap();
    let alert =
        Alert::new(AlertKind::MeterSilent, Some(meter("m1")), at(1), at(2), "meter m1 does not answer".to_owned());
    let id = ledger.raise(alert.clone()).await.unwrap().unwrap();
    assert_eq!(ledger.raise(alert.clone()).await.unwrap(), None);
    ledger.alert_delivered(id, at(3)).await.unwrap();
    let house = house.again().await;
    let reader = house.store.reader();
    assert_eq!(reader.sealed_through().await.unwrap(), [(meter("m1"), at(5))].into());
    assert_eq!(reader.examined_seq().await.unwrap(), 42);
    assert_eq!(reader.redates().await.unwrap(), [redate]);
    assert_eq!(reader.state("gap").await.unwrap(), Some(serde_json::json!({"a": 1})));
    assert_eq!(reader.last_good_config().await.unwrap().as_deref(), Some("[site]"));
    assert_eq!(reader.alerts(true, 5).await.unwrap(), [Alert { id, delivered: Some(at(3)), ..alert }]);
    assert_eq!(reader.count_open_alerts().await.unwrap(), [1, 1]);
    house.store.ledger().clear_alert(id, at(4)).await.unwrap();
    assert_eq!(reader.count_open_alerts().await.unwrap(), [0, 0]);
    assert_eq!(reader.alerts(true, 5).await.unwrap(), []);
    assert_eq!(reader.alerts(false, 5).await.unwrap().len(), 1);
}

/// What a test does to the store, one after the other.
#[derive(Clone, Debug)]
enum Step {
    /// Readings of one meter at these times.
    Put(usize, Vec<i64>),
    Pack,
    NextDay,
    Restart,
    Redate(u64, u64, i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let times = prop_oneof![0_i64..50, 0_i64..30_000_000, -86_400_000_i64 * 30..86_400_000 * 30];
    let put = (0_usize..3, proptest::collection::vec(times, 1..12)).prop_map(|(meter, times)| Step::Put(meter, times));
    let step = prop_oneof![
        8 => put,
        3 => Just(Step::Pack),
        1 => Just(Step::NextDay),
        1 => Just(Step::Restart),
        1 => (1_u64..40, 0_u64..20, prop_oneof![-30_i64..30, -100_000_i64..100_000]).prop_map(|(at, len, by)| Step::Redate(at, at + len, by)),
    ];
    proptest::collection::vec(step, 1..25)
}

/// The meter whose readings bear the time of its own clock, which ours does not move.
const TIMED_BY_DEVICE: usize = 2;

/// What the store should hold: a plain list, searched by looking at all of it.
#[derive(Default)]
struct Plain {
    kept: Vec<(u64, usize, i64, i64)>,
    redates: Vec<(u64, u64, i64)>,
}

impl Plain {
    fn times(&self, meter: usize) -> Vec<(i64, u64)> {
        let of = self.kept.iter().filter(|(_, of, ..)| *of == meter);
        let mut times: Vec<(i64, u64)> = of.map(|(seq, _, time, _)| (time + self.moved(*seq, meter), *seq)).collect();
        times.sort_unstable();
        times
    }

    fn values_at(&self, meter: usize, at: i64) -> Vec<i64> {
        let there = self.kept.iter().filter(|(seq, of, time, _)| *of == meter && time + self.moved(*seq, meter) == at);
        there.map(|(.., value)| *value).collect()
    }

    fn moved(&self, seq: u64, meter: usize) -> i64 {
        if meter == TIMED_BY_DEVICE {
            return 0;
        }
        self.redates.iter().filter(|(a, b, _)| (*a..=*b).contains(&seq)).map(|(.., by)| by).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_search_finds_what_a_look_at_everything_finds(steps in steps(), at in -86_400_000_i64..86_400_000) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut house = house();
            let layouts = [layout("m0"), layout("m1"), layout("m2")];
            let mut plain = Plain::default();
            for step in steps {
                match step {
                    Step::Put(of, times) => {
                        for time in times {
                            let (time, value) = (NOON + time, time.rem_euclid(3));
                            let is_there = plain.values_at(of, time).contains(&value);
                            let mut reading = reading(&layouts[of], time, &[(0, value)]);
                            if of != TIMED_BY_DEVICE {
                                reading.taken.clock = ClockState::Unsynchronised;
                            }
                            let receipt = house.put(vec![reading]).await;
                            assert_eq!(receipt.repeated == 1, is_there, "what is there, and only that, is ignored");
                            if !is_there {
                                plain.kept.push((receipt.last_seq, of, time, value));
                            }
                        }
                    }
                    Step::Pack => house.store.tidy().await,
                    Step::NextDay => house.clock.advance(Duration::from_secs(86_400)),
                    Step::Restart => house = house.again().await,
                    Step::Redate(first_seq, last_seq, offset_ms) => {
                        plain.redates.push((first_seq, last_seq, offset_ms));
                        let redates = vec![Redate { boot: house.clock.boot(), first_seq, last_seq, offset_ms }];
                        house.store.ledger().seal(Sealing { redates, ..Sealing::default() }).await.unwrap();
                    }
                }
            }
            let reader = house.store.reader();
            for (of, layout) in layouts.iter().enumerate() {
                let expected = plain.times(of);
                let name = layout.meter.as_str();
                let found: Vec<(i64, u64)> =
                    house.all(name, i64::MIN, i64::MAX).await.iter().map(|r| (r.time.as_millis(), r.seq)).collect();
                assert_eq!(found, expected);
                let (from, to) = (NOON + at, NOON + at + 3_600_000);
                let part: Vec<(i64, u64)> =
                    house.all(name, from, to).await.iter().map(|r| (r.time.as_millis(), r.seq)).collect();
                let within = |(time, _): &&(i64, u64)| (from..to).contains(time);
                assert_eq!(part, expected.iter().filter(within).copied().collect::<Vec<_>>());
                let before = reader.last_before(&layout.meter, Role::Import, Timestamp::from_millis(from)).await.unwrap();
                let last = expected.iter().filter(|(time, _)| *time < from).map(|(time, _)| *time).max();
                let last = expected.iter().find(|(time, _)| Some(*time) == last).copied();
                assert_eq!(before.map(|r| (r.time.as_millis(), r.seq)), last);
                let first = reader.first_from(&layout.meter, Role::Import, Timestamp::from_millis(from)).await.unwrap();
                let next = expected.iter().find(|(time, _)| *time >= from).copied();
                assert_eq!(first.map(|r| (r.time.as_millis(), r.seq)), next);
                assert!(reader.first_from(&layout.meter, Role::Power, Timestamp::MIN).await.unwrap().is_none());
            }
            let mut seqs: Vec<u64> = plain.kept.iter().map(|(seq, ..)| *seq).collect();
            seqs.sort_unstable();
            let mut found = Vec::new();
            loop {
                let more = reader.arrivals(found.last().copied().unwrap_or(0), 7).await.unwrap();
                if more.is_empty() {
                    break;
                }
                found.extend(more.iter().map(|reading| reading.seq));
            }
            assert_eq!(found, seqs);
            // As taken, whatever was moved since, and from one cursor in pieces.
            let (mut cursor, mut taken) = (reader.taken(), Vec::new());
            loop {
                let after = taken.last().map_or(0, |(seq, _)| *seq);
                let more = cursor.next(after, u64::MAX, 7).await.unwrap();
                if more.is_empty() {
                    break;
                }
                taken.extend(more.iter().map(|reading| (reading.seq, reading.time.as_millis())));
            }
            let mut kept: Vec<(u64, i64)> = plain.kept.iter().map(|(seq, _, time, _)| (*seq, *time)).collect();
            kept.sort_unstable();
            assert_eq!(taken, kept);
        });
    }
}

#[test]
fn a_making_that_was_cut_short_leaves_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let root = config(&folder).path;
    std::fs::create_dir_all(root.join(raw::FOLDER)).unwrap();
    std::fs::write(root.join("evidence.db.new"), "half").unwrap();
    let opened = Store::open(config(&folder), clock.clone(), None);
    assert!(matches!(opened.err(), Some(StoreError::Missing { .. })));
    init(&config(&folder), &"plant-7".parse().unwrap(), &clock).unwrap();
    drop(Store::open(config(&folder), clock.clone(), None).unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&root.join("evidence.db").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "the private key lies in it");
    // Readings whose evidence is lost are no place to begin anew.
    std::fs::write(root.join("raw/00000000000000000001.db"), "x").unwrap();
    std::fs::remove_file(root.join("evidence.db")).unwrap();
    let again = init(&config(&folder), &"plant-7".parse().unwrap(), &clock);
    assert!(matches!(again, Err(StoreError::Damaged { .. })));
}

/// Every file below `root` and its bytes.
pub(super) fn bytes_of(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for file in root.read_dir().unwrap().flatten() {
        if file.path().is_dir() {
            files.extend(bytes_of(&file.path()));
        } else if file.file_name() != "lock" {
            files.insert(file.path(), std::fs::read(file.path()).unwrap());
        }
    }
    files
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_named_and_not_touched() {
    for (name, newest) in [("evidence.db", 8), ("raw/00000000000000000001.db", 1)] {
        let house = house();
        house.put(vec![reading(&layout("m1"), NOON, &[(0, 1)])]).await;
        let House { folder, clock, store, .. } = house;
        store.close().await.unwrap();
        let path = config(&folder).path.join(name);
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 9).unwrap();
        connection.close().unwrap();
        let before = bytes_of(&config(&folder).path);
        let error = Store::open(config(&folder), clock.clone(), None).err().unwrap();
        let newer =
            matches!(&error, StoreError::Newer { file, version: 9, known } if *file == path && *known == newest);
        assert!(newer, "{error}");
        assert_eq!(bytes_of(&config(&folder).path), before);
    }
}

pub(super) fn commissioned(name: &str, since: i64, cause: Cause) -> Commissioning {
    let setup = Setup {
        line: "msb".parse().unwrap(),
        wire: "192.0.2.10:502".to_owned(),
        unit: 3,
        template: Some("acme".to_owned()),
        template_sha256: Digest::of(b"acme"),
        ct_ratio: Ratio::new(40, 1).unwrap(),
        vt_ratio: Ratio::ONE,
        invert: false,
        category: Category::Cons,
    };
    let since = Timestamp::from_millis(since);
    Commissioning { meter: meter(name), since, setup, identity: None, cause, changes: Vec::new() }
}

#[tokio::test]
async fn commissioning_records_are_added_and_read_back_in_order() {
    let house = house();
    let records = [(1, Cause::First), (9, Cause::Configured), (5, Cause::Changed)];
    let records = records.map(|(since, cause)| commissioned("m1", NOON + since, cause));
    for record in &records {
        house.store.ledger().commission(record.clone()).await.unwrap();
    }
    house.store.ledger().commission(commissioned("m2", NOON, Cause::First)).await.unwrap();
    let house = house.again().await;
    let reader = house.store.reader();
    // The order is that of their making, whatever the clock said.
    assert_eq!(reader.commissionings(&meter("m1"), 9).await.unwrap(), records);
    assert_eq!(reader.commissionings(&meter("m1"), 2).await.unwrap(), records[1..]);
    assert_eq!(reader.commissionings(&meter("m3"), 2).await.unwrap(), []);
}

#[tokio::test]
async fn a_store_of_version_1_becomes_what_a_new_one_is() {
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen/store-v1/store");
    let folder = tempfile::tempdir().unwrap();
    let path = config(&folder).path;
    std::fs::create_dir_all(path.join("raw")).unwrap();
    for file in bytes_of(&frozen).keys() {
        std::fs::copy(file, path.join(file.strip_prefix(&frozen).unwrap())).unwrap();
    }
    assert_eq!(evidence::version(&path).unwrap(), 1);
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    for turn in 0..2 {
        let store = Store::open(config(&folder), clock.clone(), None).unwrap();
        assert_eq!(store.reader().commissionings(&meter("m1"), 9).await.unwrap().len(), turn);
        store.ledger().commission(commissioned("m1", NOON, Cause::First)).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(evidence::version(&path).unwrap(), 8);
    }
    let schema = |path: &Path| -> Vec<Option<String>> {
        let connection = rusqlite::Connection::open(path.join("evidence.db")).unwrap();
        let mut statement = connection.prepare("SELECT sql FROM sqlite_schema ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    };
    let House { folder: new, store, .. } = house();
    store.close().await.unwrap();
    assert_eq!(schema(&path), schema(&config(&new).path));
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
}

#[tokio::test]
async fn damaged_evidence_is_an_error_with_a_remedy() {
    let house = house();
    house.store.ledger().save_config("[site]".to_owned()).await.unwrap();
    let House { folder, clock, store, .. } = house;
    store.close().await.unwrap();
    let path = config(&folder).path.join("evidence.db");
    for at in [0, 5 * 4096] {
        overwrite(&path, at, &[0x55; 2048]);
        let error = Store::open(config(&folder), clock.clone(), None).err().unwrap();
        assert!(error.to_string().contains("restore a backup"), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_raw_file_is_set_aside_and_readings_go_on() {
    let house = house();
    let layout = layout("m1");
    let rows: Vec<Reading> = (0..500).map(|s| reading(&layout, NOON + s * 1000, &[(0, s * s), (1, s)])).collect();
    house.put(rows).await;
    house.store.tidy().await;
    house.clock.advance(Duration::from_secs(86_400));
    house.put(vec![reading(&layout, NOON + 86_400_000, &[(0, 1)])]).await;
    let raw = config(&house.folder).path.join("raw");
    // In the bytes of a chunk, which SQLite itself would not notice.
    let first = raw.join("00000000000000000001.db");
    let connection = sqlite::open_to_read(&first).unwrap();
    let body: Vec<u8> = connection.query_row("SELECT body FROM chunks", [], |row| row.get(0)).unwrap();
    drop(connection);
    let bytes = std::fs::read(&first).unwrap();
    let at = bytes.windows(100).position(|window| *window == body[..100]).unwrap();
    overwrite(&first, at as u64 + 50, &[0x55; 50]);
    let reader = house.store.reader();
    let mut stream = reader.readings(meter("m1"), Timestamp::MIN, Timestamp::MAX);
    let found = stream.next().await.unwrap();
    assert!(matches!(&found, Err(StoreError::Damaged { file, .. }) if *file == first));
    house.store.tidy().await;
    assert_eq!(reader.health().quarantined, ["00000000000000000001.db.quarantined"]);
    assert_eq!(house.all("m1", i64::MIN, i64::MAX).await.len(), 1);
    // And one that is damaged from its beginning, found when the store opens.
    let second = raw.join("00000000000000000501.db");
    let last = house.put(vec![reading(&layout, NOON + 86_401_000, &[(0, 1)])]).await.last_seq;
    let House { folder, clock, store, created } = house;
    store.close().await.unwrap();
    overwrite(&second, 0, &[0x55; 2048]);
    let store = Store::open(config(&folder), clock.clone(), None).unwrap();
    let house = House { folder, clock, store, created };
    assert_eq!(house.store.reader().health().quarantined.len(), 2);
    let receipt = house.put(vec![reading(&layout, NOON, &[(0, 1)])]).await;
    assert!(receipt.first_seq > last, "no number is used twice");
    assert_eq!(house.all("m1", i64::MIN, i64::MAX).await.len(), 1);
}

#[tokio::test]
async fn old_raw_files_go_two_a_day_once_the_clock_is_steady() {
    let mut house = house();
    let layout = layout("m1");
    let day = Duration::from_secs(86_400);
    for number in 0..6 {
        house.put(vec![reading(&layout, NOON + number * 86_400_000, &[(0, number)])]).await;
        house.clock.advance(day);
    }
    let count = async |house: &House| {
        house.store.tidy().await;
        house.all("m1", i64::MIN, i64::MAX).await.len()
    };
    house.store.reconfigure(&Config { keep_raw: day * 2, ..config(&house.folder) });
    house.clock.set_state(ClockState::Unsynchronised);
    assert_eq!(count(&house).await, 6);
    house.clock.advance(day);
    assert_eq!(count(&house).await, 6, "not on a clock that is not synchronised");
    house.clock.set_state(ClockState::Synchronised);
    assert_eq!(count(&house).await, 6, "not before it is steady");
    house.clock.advance(Duration::from_secs(3_601));
    assert_eq!(count(&house).await, 4);
    assert_eq!(count(&house).await, 4);
    house = house.again().await;
    house.store.reconfigure(&Config { keep_raw: day * 2, ..config(&house.folder) });
    assert_eq!(count(&house).await, 4);
    house.clock.advance(Duration::from_secs(3_601));
    assert_eq!(count(&house).await, 4, "a restart allows no more");
    house.clock.advance(day);
    assert_eq!(count(&house).await, 2);
    house.clock.advance(day * 100);
    assert_eq!(count(&house).await, 1, "the newest file stays");
}

#[tokio::test]
async fn at_max_disk_the_oldest_raw_files_go() {
    let house = house();
    let layout = wide_layout();
    let mut time = NOON;
    let size = || house.store.reader().health().raw_bytes;
    house.store.reconfigure(&Config { max_disk: 6 << 20, ..config(&house.folder) });
    for _ in 0..10 {
        house.put(noisy(&layout, &mut time)).await;
        house.store.tidy().await;
    }
    let bytes = size();
    assert!((3 << 20..7 << 20).contains(&bytes), "{bytes}");
    let kept = house.all("m1", i64::MIN, i64::MAX).await;
    assert_eq!(kept.last().unwrap().time.as_millis(), time);
    assert!(kept.len() < 10_000 && kept.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    assert_eq!(house.store.reader().health().lost, 0, "nobody upstream was to have them");
}

/// A meter of 100 values.
fn wide_layout() -> Arc<Layout> {
    let slot = |number: i32| Slot {
        quantity: format!("voltage_{number}_v").parse().unwrap(),
        scale: Ratio::ONE,
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout { slots: (0..100).map(slot).collect(), ..(*layout("m1")).clone() })
}

/// A thousand readings that nothing compresses, 1 MB of them.
fn noisy(layout: &Arc<Layout>, time: &mut i64) -> Vec<Reading> {
    let noise = |number: i64| {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed());
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb_u64.cast_signed());
        mixed ^ (mixed >> 31)
    };
    let mut one = || {
        *time += 1_000;
        let values: Vec<(u8, i64)> = (0..100).map(|place| (place, noise(*time + i64::from(place)))).collect();
        reading(layout, *time, &values)
    };
    (0..1_000).map(|_| one()).collect()
}

/// A file system of its own, for root.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn new(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        mount(&["-t", "tmpfs", "-o", &size, "meterseal-test", folder.path().to_str().unwrap()]).then(|| Self(folder))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let done = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(done.unwrap().success());
    }
}

fn mount(args: &[&str]) -> bool {
    let done = std::process::Command::new("mount").args(args).stderr(std::process::Stdio::null()).status();
    done.is_ok_and(|done| done.success())
}

#[tokio::test]
async fn a_full_disk_stops_readings_last_and_they_resume_by_themselves() {
    let Some(disk) = Tmpfs::new(64) else {
        println!("not run: mounting a small file system needs root");
        return;
    };
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let config = Config {
        path: disk.0.path().join("store"),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 8 << 20,
    };
    init(&config, &"plant-7".parse().unwrap(), &clock).unwrap();
    let store = Store::open(config.clone(), clock.clone(), None).unwrap();
    let (ingest, reader, ledger) = (store.ingest(), store.reader(), store.ledger());
    let filler = disk.0.path().join("filler");
    let free_bytes = reader.health().free_bytes;
    std::fs::write(&filler, vec![1; usize::try_from(free_bytes - (3 << 20)).unwrap()]).unwrap();
    let layout = wide_layout();
    let (mut time, mut acknowledged, mut saw_reserve) = (NOON, Vec::new(), false);
    let full = loop {
        let group = noisy(&layout, &mut time);
        let times: Vec<i64> = group.iter().map(|reading| reading.taken.time.as_millis()).collect();
        match ingest.store(group).await {
            Ok(_) => acknowledged.extend(times),
            Err(error) => break error,
        }
        saw_reserve |= reader.health().reserve_used;
    };
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    assert!(saw_reserve, "readings went on while the reserve lasted");
    assert!(reader.health().unwritable.unwrap().contains("full"));
    // The last quarter of the reserve is for evidence.
    for number in 0..50 {
        let state = vec![("proof", serde_json::json!("x".repeat(10_000 + number)))];
        ledger.seal(Sealing { state, ..Sealing::default() }).await.unwrap();
    }
    // Entries of the log, its checkpoints and its epochs are evidence.
    let audit = |number: u64| Append::Audit {
        action: "export".to_owned(),
        by: "first".to_owned(),
        detail: serde_json::json!("x".repeat(500) + &number.to_string()),
    };
    ledger.append((0..300).map(audit).collect()).await.unwrap();
    let wish = Succession {
        reason: crate::model::entry::Reason::KeyRotation,
        site: None,
        last_outside: None,
        since_open: false,
    };
    ledger.succeed(wish).await.unwrap();
    let signed = ledger.checkpoint().await.unwrap();
    ingest.offer(reading(&layout, time + 1_000, &[(0, 1)])).await.unwrap();
    let mut committed = reader.committed();
    let before = *committed.borrow_and_update();
    std::fs::remove_file(&filler).unwrap();
    committed.wait_for(|seq| *seq > before).await.unwrap();
    acknowledged.push(time + 1_000);
    assert_eq!(reader.health().unwritable, None);
    store.tidy().await;
    assert!(!reader.health().reserve_used, "the reserve is filled again");
    drop((ingest, ledger, reader));
    store.close().await.unwrap();
    let store = Store::open(config, clock, None).unwrap();
    assert_eq!(store.ledger().checkpoint().await.unwrap(), signed);
    let mut stream = store.reader().readings(meter("m1"), Timestamp::MIN, Timestamp::MAX);
    let mut found = std::collections::BTreeSet::new();
    while let Some(batch) = stream.next().await {
        found.extend(batch.unwrap().iter().map(|reading| reading.time.as_millis()));
    }
    assert!(acknowledged.iter().all(|time| found.contains(time)));
}

#[tokio::test]
async fn a_read_only_disk_is_named() {
    let Some(disk) = Tmpfs::new(16) else {
        println!("not run: mounting a small file system needs root");
        return;
    };
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let at = |name: &str| Config {
        path: disk.0.path().join(name),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 0,
    };
    init(&at("store"), &"plant-7".parse().unwrap(), &clock).unwrap();
    assert!(mount(&["-o", "remount,ro", disk.0.path().to_str().unwrap()]));
    let opened = Store::open(at("store"), clock.clone(), None).err().unwrap();
    assert!(matches!(&opened, StoreError::Unwritable { path, .. } if path.ends_with("store")), "{opened}");
    let made = init(&at("other"), &"plant-7".parse().unwrap(), &clock).err().unwrap();
    assert!(matches!(made, StoreError::Unwritable { .. }), "{made}");
}

#[tokio::test]
async fn a_disk_that_goes_away_and_comes_back_is_taken_up_again() {
    let house = house();
    let (here, away) = (config(&house.folder).path, house.folder.path().join("away"));
    let layout = layout("m1");
    house.put(vec![reading(&layout, NOON, &[(0, 1)])]).await;
    std::fs::rename(&here, &away).unwrap();
    std::fs::create_dir(&here).unwrap();
    // A new day needs a new file, and the empty folder is no place for it.
    house.clock.advance(Duration::from_secs(86_400));
    let ingest = house.store.ingest();
    let refused = ingest.store(vec![reading(&layout, NOON + 86_400_000, &[(0, 2)])]).await;
    assert!(matches!(refused, Err(StoreError::Missing { .. } | StoreError::Unwritable { .. })), "{refused:?}");
    assert!(house.store.reader().health().unwritable.is_some());
    assert_eq!(here.read_dir().unwrap().count(), 0);
    ingest.offer(reading(&layout, NOON + 86_401_000, &[(0, 3)])).await.unwrap();
    let mut committed = house.store.reader().committed();
    committed.borrow_and_update();
    std::fs::remove_dir(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    committed.changed().await.unwrap();
    assert_eq!(house.all("m1", i64::MIN, i64::MAX).await.len(), 2);
    assert_eq!(house.store.reader().health().unwritable, None);
}

#[tokio::test]
async fn a_store_whose_folder_is_gone_acknowledges_nothing_until_it_is_back() {
    let house = house();
    let (here, away) = (config(&house.folder).path, house.folder.path().join("away"));
    let layout = layout("m1");
    house.put(vec![reading(&layout, NOON, &[(0, 1)])]).await;
    std::fs::rename(&here, &away).unwrap();
    let (ingest, ledger, reader) = (house.store.ingest(), house.store.ledger(), house.store.reader());
    assert!(reader.health().unwritable.unwrap().contains("its folder is gone"), "told before a reading comes");
    for again in [reading(&layout, NOON + 1_000, &[(0, 2)]), reading(&layout, NOON, &[(0, 1)])] {
        let refused = ingest.store(vec![again]).await;
        assert!(matches!(&refused, Err(StoreError::Unwritable { what, .. }) if what.contains("gone")), "{refused:?}");
    }
    let state = || Sealing { state: vec![("proof", serde_json::json!(1))], ..Sealing::default() };
    let refused = ledger.seal(state()).await;
    assert!(matches!(&refused, Err(StoreError::Unwritable { what, .. }) if what.contains("gone")), "{refused:?}");
    assert!(reader.health().unwritable.unwrap().contains("its folder is gone"));
    ingest.offer(reading(&layout, NOON + 2_000, &[(0, 3)])).await.unwrap();

    // Somebody begins anew in its place meanwhile: that store is left alone.
    init(&config(&house.folder), &"plant-8".parse().unwrap(), &house.clock).unwrap();
    let other = Store::open(config(&house.folder), house.clock.clone(), None).unwrap();
    other.ingest().store(vec![reading(&layout, NOON, &[(0, 9)])]).await.unwrap();
    house.store.tidy().await;
    assert!(ingest.store(vec![reading(&layout, NOON + 3_000, &[(0, 4)])]).await.is_err());
    other.close().await.unwrap();
    let other = Store::open(config(&house.folder), house.clock.clone(), None).unwrap();
    assert_eq!(other.identity().site.as_str(), "plant-8");
    assert_eq!(*other.reader().committed().borrow(), 1);
    other.close().await.unwrap();
    std::fs::remove_dir_all(&here).unwrap();

    let mut committed = reader.committed();
    committed.borrow_and_update();
    std::fs::rename(&away, &here).unwrap();
    committed.changed().await.unwrap();
    house.put(vec![reading(&layout, NOON + 1_000, &[(0, 2)])]).await;
    ledger.seal(state()).await.unwrap();
    assert_eq!(reader.health().unwritable, None);
    drop((ingest, ledger, reader));
    let house = house.again().await;
    let times: Vec<i64> = house.all("m1", i64::MIN, i64::MAX).await.iter().map(|r| r.time.as_millis()).collect();
    assert_eq!(times, [NOON, NOON + 1_000, NOON + 2_000]);
}

#[tokio::test]
async fn a_disk_that_comes_back_under_another_lock_is_locked_anew() {
    let house = house();
    let layout = layout("m1");
    house.put(vec![reading(&layout, NOON, &[(0, 1)])]).await;
    std::fs::remove_file(config(&house.folder).path.join("lock")).unwrap();
    house.put(vec![reading(&layout, NOON + 1_000, &[(0, 2)])]).await;
    assert_eq!(house.store.reader().health().unwritable, None);
    let second = Store::open(config(&house.folder), house.clock.clone(), None).err().unwrap();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
}

#[tokio::test]
async fn a_raw_file_deleted_while_it_is_open_takes_no_more_readings() {
    let house = house();
    let layout = layout("m1");
    house.put(vec![reading(&layout, NOON, &[(0, 1)])]).await;
    let raw = config(&house.folder).path.join(raw::FOLDER);
    for file in raw.read_dir().unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    house.put(vec![reading(&layout, NOON + 1_000, &[(0, 2)])]).await;
    let house = house.again().await;
    assert_eq!(house.all("m1", i64::MIN, i64::MAX).await.len(), 1);
}

#[test]
fn a_store_that_may_not_be_seen_is_not_missing() {
    use std::io::Error;
    let of = |kind: ErrorKind| StoreError::of_io(Path::new("store"), Error::from(kind));
    let forbidden = of(ErrorKind::PermissionDenied);
    assert!(matches!(forbidden, StoreError::Forbidden { .. }));
    assert!(forbidden.to_string().contains("as the user that owns the store"));
    assert!(matches!(of(ErrorKind::ReadOnlyFilesystem), StoreError::Unwritable { .. }));
    assert!(matches!(of(ErrorKind::StorageFull), StoreError::Full { .. }));
    assert!(matches!(of(ErrorKind::TimedOut), StoreError::Io { .. }));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(free(&folder.path().join("none")), Err(StoreError::Missing { .. })));
}

/// Readings that come late are compared with what is there, however many of them come at once.
#[tokio::test]
async fn late_readings_unpack_what_is_there_once() {
    let house = house();
    let layouts = [layout("m1"), layout("m2")];
    let evening = layouts.iter().map(|layout| reading(layout, NOON + 36_000_000, &[(0, 1)])).collect();
    house.put(evening).await;
    let late = |seconds: std::ops::Range<i64>, value: i64| {
        let of = |second: i64| layouts.iter().map(move |layout| reading(layout, NOON + second * 1_000, &[(0, value)]));
        seconds.flat_map(of).collect::<Vec<_>>()
    };
    // Both meters in two chunks each, and in two rows of the tail.
    house.put(late(0..2_000, 7)).await;
    house.store.tidy().await;
    house.put(late(1_000..2_000, 8)).await;
    let unpacked = || house.store.shared.counters.unpacked.load(Ordering::Relaxed);
    let before = unpacked();
    let again = [late(0..2_000, 7), late(1_000..2_000, 8), late(0..1_000, 9)].concat();
    let receipt = house.put(again).await;
    assert_eq!((receipt.repeated, receipt.last_seq + 1 - receipt.first_seq), (6_000, 2_000));
    assert!(unpacked() - before <= 2 * 2 + 2, "{} chunks and rows were unpacked", unpacked() - before);
    let found = house.all("m1", NOON, NOON + 2_000_000).await;
    assert_eq!((found.len(), found.iter().filter(|reading| reading.conflict).count()), (4_000, 2_000));
}
