//! The store as the house uses it, over its own outer side.

use super::*;
use crate::model::{
    AlertKind, Block, BlockFlags, Border, Borders, Category, ClockState, Energy, Layout, Method, Number, Ratio, Role,
    Slot, Span, Stamp, StoredReading,
};
use proptest::prelude::*;
use tempfile::TempDir;

const NOON: i64 = 1_763_726_400_000; // 2025-11-21T12:00:00Z

fn config(folder: &TempDir) -> Config {
    Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 1 << 20,
    }
}

struct House {
    folder: TempDir,
    clock: Clock,
    store: Store,
    created: Created,
}

fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let created = init(&config(&folder), &"plant-7".parse().unwrap(), &clock).unwrap();
    let store = Store::open(config(&folder), clock.clone(), None).unwrap();
    House { folder, clock, store, created }
}

impl House {
    /// Ends the store and opens it again.
    async fn again(self) -> Self {
        let Self { folder, clock, store, created } = self;
        store.close().await.unwrap();
        let store = Store::open(config(&folder), clock.clone(), None).unwrap();
        Self { folder, clock, store, created }
    }

    async fn put(&self, readings: Vec<Reading>) -> Receipt {
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

fn meter(name: &str) -> MeterId {
    name.parse().unwrap()
}

fn layout(name: &str) -> Arc<Layout> {
    let slot = |quantity: &str| Slot { quantity: quantity.parse().unwrap(), scale: Ratio::ONE, rolls_over_at: None };
    Arc::new(Layout {
        meter: meter(name),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: vec![slot("energy_import_kwh"), slot("power_kw"), slot("voltage_v")],
    })
}

fn reading(layout: &Arc<Layout>, time: i64, values: &[(u8, i64)]) -> Reading {
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
    assert_eq!(house.store.identity(), &house.created.identity);
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
    let alert = Alert {
        id: 0,
        kind: AlertKind::MeterSilent,
        meter: Some(meter("m1")),
        occasion: at(1),
        raised: at(2),
        cleared: None,
        text: "meter m1 does not answer".to_owned(),
        delivered: None,
    };
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
    house.store.ledger().clear_alert(id, at(4)).await.unwrap();
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
        1 => (1_u64..40, 0_u64..20, -100_000_i64..100_000).prop_map(|(at, len, by)| Step::Redate(at, at + len, by)),
    ];
    proptest::collection::vec(step, 1..25)
}

/// What the store should hold: a plain list, searched by looking at all of it.
#[derive(Default)]
struct Plain {
    kept: Vec<(u64, usize, i64, i64)>,
    redates: Vec<(u64, u64, i64)>,
}

impl Plain {
    fn times(&self, meter: usize) -> Vec<(i64, u64)> {
        let moved = |seq: u64| -> i64 {
            self.redates.iter().filter(|(a, b, _)| (*a..=*b).contains(&seq)).map(|(.., by)| by).sum()
        };
        let of = self.kept.iter().filter(|(_, of, ..)| *of == meter);
        let mut times: Vec<(i64, u64)> = of.map(|(seq, _, time, _)| (time + moved(*seq), *seq)).collect();
        times.sort_unstable();
        times
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
                            // A value of its own for each time, so that what comes twice is the same.
                            let effective_is_there = plain.times(of).iter().any(|(there, _)| *there == NOON + time);
                            let value = time.rem_euclid(1000);
                            let receipt = house.put(vec![reading(&layouts[of], NOON + time, &[(0, value)])]).await;
                            if receipt.last_seq < receipt.first_seq {
                                assert!(effective_is_there, "nothing is ignored but what is there");
                            } else {
                                plain.kept.push((receipt.last_seq, of, NOON + time, value));
                            }
                        }
                    }
                    Step::Pack => house.store.pack_now().await,
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
        });
    }
}
