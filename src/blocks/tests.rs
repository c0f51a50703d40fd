//! The block task over the real store, with the clock set by hand.

mod interval;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::rule::tests::{Say, layout, values};
use super::*;
use crate::model::{
    Block, BlockFlag, Category, ClockState, Energy, Label, Layout, Meter, Method, Origin, Reading, Span, Stamp,
    Timestamp,
};
use crate::store::{self, Store};

/// 2026-11-21T00:00:00Z
const T: i64 = 1_795_219_200_000;
const MINUTE: i64 = 60_000;
const HALF: i64 = 30 * MINUTE;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

struct Plant {
    folder: TempDir,
    clock: Clock,
    store: Store,
    config: Config,
    layouts: BTreeMap<String, Arc<Layout>>,
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(T + ms)
}

fn measured(id: &str, interval_ms: Option<u32>) -> Meter {
    let line = "line".parse().unwrap();
    let origin = Origin::Modbus { line, unit: 1, template: "t".to_owned(), verified: true };
    Meter {
        id: id.parse().unwrap(),
        name: id.to_owned(),
        category: Category::Cons,
        origin,
        interval_ms,
        peak_target: None,
        simulated: false,
    }
}

fn summed(id: &str, add: &[&str], subtract: &[&str]) -> Meter {
    let ids = |ids: &[&str]| ids.iter().map(|id| id.parse().unwrap()).collect();
    Meter { origin: Origin::Sum { add: ids(add), subtract: ids(subtract) }, ..measured(id, None) }
}

fn store_config(folder: &TempDir) -> store::Config {
    store::Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 1 << 20,
    }
}

/// A plant at `T` whose meters are read every minute.
fn plant(meters: Vec<Meter>) -> Plant {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(at(0));
    store::init(&store_config(&folder), &"plant-7".parse().unwrap(), &clock).unwrap();
    let store = Store::open(store_config(&folder), clock.clone(), None).unwrap();
    let layouts = meters.iter().map(|meter| {
        let id = meter.id.to_string();
        (id.clone(), layout(&id, meter.category, meter.interval_ms))
    });
    let layouts = layouts.collect();
    let config =
        Config { timezone: "UTC".to_owned(), block_minutes: 30, clock_offset_ms: 0, peaks: Vec::new(), meters };
    Plant { folder, clock, store, config, layouts }
}

fn one_meter() -> Plant {
    plant(vec![measured("m", Some(60_000))])
}

impl Plant {
    fn reading(&self, meter: &str, ms: i64, say: Say) -> Reading {
        let taken = Stamp { time: at(ms), ..self.clock.stamp() };
        Reading { layout: self.layouts[meter].clone(), taken, values: values(say) }
    }

    async fn put(&self, readings: Vec<Reading>) {
        if !readings.is_empty() {
            self.store.ingest().store(readings).await.unwrap();
        }
    }

    /// A meter that reads `kwh` at each of these times.
    async fn read(&self, meter: &str, values: impl IntoIterator<Item = (i64, f64)>) {
        let say = |kwh| Say { import: Some(kwh), ..Say::default() };
        self.put(values.into_iter().map(|(ms, kwh)| self.reading(meter, ms, say(kwh))).collect()).await;
    }

    /// 12 kW from `from` to `to`, read once a minute.
    async fn run(&self, meter: &str, from: i64, to: i64) {
        let steady = |ms: i64| (ms, 1_000.0 + 12.0 * ms as f64 / HOUR as f64);
        self.read(meter, (from..=to).step_by(60_000).map(steady)).await;
    }

    /// Goes on to `ms`, with the clock steady and looked at, and seals what is due.
    async fn until(&self, ms: i64) {
        self.clock.advance_to(at(ms));
        self.seal().await;
    }

    async fn seal(&self) {
        seal_all_due(&self.config, &self.store.reader(), &self.store.ledger(), &self.clock).await.unwrap();
    }

    async fn blocks(&self, meter: &str) -> Vec<Block> {
        let span = Span::new(at(-100 * 365 * DAY), at(100 * 365 * DAY)).unwrap();
        self.store.reader().blocks(&meter.parse().unwrap(), span).await.unwrap()
    }

    async fn told(&self, meter: &str) -> Vec<(i64, Option<i64>, u32, Vec<&'static str>)> {
        let told = |block: &Block| {
            (
                block.span.start().millis_since(at(0)) / MINUTE,
                block.import.map(|energy| (energy.as_uwh() + 500_000) / 1_000_000),
                block.revision,
                block.flags.names(),
            )
        };
        self.blocks(meter).await.iter().map(told).collect()
    }

    async fn total(&self, meter: &str) -> i64 {
        self.blocks(meter).await.iter().filter_map(|block| block.import).map(Energy::as_uwh).sum()
    }

    async fn again(self) -> Self {
        let Self { folder, clock, store, config, layouts } = self;
        store.close().await.unwrap();
        let store = Store::open(store_config(&folder), clock.clone(), None).unwrap();
        Self { folder, clock, store, config, layouts }
    }
}

#[tokio::test]
async fn a_block_is_sealed_when_its_last_readings_can_have_come() {
    let plant = one_meter();
    plant.run("m", 0, HALF).await;
    plant.until(HALF + 119_999).await;
    assert_eq!(plant.told("m").await, vec![]);
    plant.until(HALF + 120_000).await;
    assert_eq!(plant.told("m").await, vec![(0, Some(6_000), 0, vec![])]);
    let block = &plant.blocks("m").await[0];
    assert_eq!((block.method, block.interval_ms, block.zone.as_str()), (Method::Counter, 60_000, "UTC"));
    assert_eq!(block.through_seq, plant.store.reader().health().through_seq);
    plant.seal().await;
    assert_eq!(plant.blocks("m").await.len(), 1, "what is sealed is not sealed again");
}

#[tokio::test]
async fn a_meter_begins_with_the_block_of_its_first_reading() {
    let plant = one_meter();
    plant.until(5 * HOUR).await;
    plant.run("m", 5 * HOUR + 15 * MINUTE, 6 * HOUR).await;
    plant.until(6 * HOUR + 2 * MINUTE).await;
    let told = plant.told("m").await;
    assert_eq!(told, vec![(300, Some(3_000), 0, vec!["gap"]), (330, Some(6_000), 0, vec![])]);
}

#[tokio::test]
async fn a_late_reading_revises_its_block_and_both_neighbours() {
    let plant = one_meter();
    // Nothing from 20 to 40 minutes: the border at 30 is estimated.
    plant.run("m", 0, 20 * MINUTE).await;
    plant.run("m", 40 * MINUTE, HOUR).await;
    plant.until(HOUR + 2 * MINUTE).await;
    let gap = vec!["estimated", "gap"];
    assert_eq!(plant.told("m").await, vec![(0, Some(6_000), 0, gap.clone()), (30, Some(6_000), 0, gap)]);
    // It had drawn more before the border than after it.
    plant.read("m", [(30 * MINUTE, 1_007.0)]).await;
    plant.seal().await;
    let told = plant.told("m").await;
    assert_eq!(told, vec![(0, Some(7_000), 1, vec!["gap"]), (30, Some(5_000), 1, vec!["gap", "late"])]);
    assert_eq!(plant.total("m").await, 12_000_000_000);
    let revisions = plant.store.reader().revisions(&"m".parse().unwrap(), at(0)).await.unwrap();
    assert_eq!(revisions.len(), 2, "nothing is overwritten");
}

#[tokio::test]
async fn the_first_reading_after_a_gap_revises_all_blocks_in_it() {
    let plant = one_meter();
    plant.run("m", 0, 20 * MINUTE).await;
    for ms in (1..=6).map(|half| half * HALF + 2 * MINUTE) {
        plant.until(ms).await;
    }
    let silent = |start| (start, None, 0, vec!["gap"]);
    assert_eq!(plant.told("m").await[1..], [30, 60, 90, 120, 150].map(silent));
    plant.read("m", [(200 * MINUTE, 1_040.0)]).await;
    plant.clock.advance_to(at(201 * MINUTE));
    plant.seal().await;
    let told = plant.told("m").await;
    assert!(told.iter().all(|(_, import, revision, _)| import.is_some() && *revision == 1), "{told:?}");
    assert_eq!(told[1], (30, Some(6_000), 1, vec!["estimated", "gap"]));
    plant.until(212 * MINUTE).await;
    assert_eq!(plant.total("m").await, 40_000_000_000);
}

#[tokio::test]
async fn a_first_reading_later_than_the_clock_is_waited_for() {
    let plant = one_meter();
    plant.run("m", 0, 20 * MINUTE).await;
    plant.until(32 * MINUTE).await;
    plant.until(62 * MINUTE).await;
    let open = async || {
        let config = Arc::new(plant.config.clone());
        Sealer::open(config, plant.store.reader(), plant.store.ledger(), plant.clock.clone()).await.unwrap()
    };
    // The clock has been set back a little since the reading was taken.
    let mut sealer = open().await;
    plant.read("m", [(70 * MINUTE, 1_014.0)]).await;
    sealer.catch_up().await.unwrap();
    sealer.pass().await.unwrap();
    assert_eq!(plant.told("m").await[1].1, None);
    plant.clock.advance_to(at(92 * MINUTE));
    sealer.catch_up().await.unwrap();
    sealer.pass().await.unwrap();
    assert_eq!(plant.told("m").await[1], (30, Some(6_000), 1, vec!["estimated", "gap"]));
    assert_eq!(plant.total("m").await, 14_000_000_000);
}

#[tokio::test]
async fn a_week_offline_is_sealed_at_once_and_adds_up() {
    let plant = one_meter();
    plant.run("m", 0, HALF).await;
    plant.until(HALF + 2 * MINUTE).await;
    let plant = plant.again().await;
    plant.clock.advance_to(at(7 * DAY));
    plant.run("m", 7 * DAY, 7 * DAY + HALF).await;
    plant.until(7 * DAY + HALF + 2 * MINUTE).await;
    let blocks = plant.blocks("m").await;
    assert_eq!(blocks.len(), 7 * 48 + 1);
    assert_eq!(plant.total("m").await, (7 * 24 + 1) * 12_000_000_000 - 6_000_000_000);
}

#[tokio::test]
async fn a_silence_longer_than_a_day_is_one_record() {
    let plant = one_meter();
    plant.run("m", 0, 20 * MINUTE).await;
    plant.until(HALF + 2 * MINUTE).await;
    // Found after the fact: one record over all whole blocks.
    plant.until(50 * HOUR + 7 * MINUTE).await;
    let blocks = plant.blocks("m").await;
    assert_eq!(blocks.len(), 2);
    let silence = &blocks[1];
    assert_eq!((silence.span.start(), silence.span.end()), (at(HALF), at(50 * HOUR)));
    assert_eq!((silence.net(), silence.coverage, silence.nominal_ms), (None, 0, 1_800_000));
    // It speaks again: each block of the silence gets its share, and the total holds.
    plant.read("m", [(51 * HOUR, 1_612.0)]).await;
    plant.clock.advance_to(at(51 * HOUR + MINUTE));
    plant.seal().await;
    plant.until(51 * HOUR + 32 * MINUTE).await;
    assert_eq!(plant.total("m").await, 612_000_000_000);
    assert_eq!(plant.blocks("m").await.len(), 103);
}

#[tokio::test]
async fn a_silence_that_lasts_is_told_block_by_block_then_day_by_day() {
    let plant = one_meter();
    plant.run("m", 0, 20 * MINUTE).await;
    for half in 1..=150 {
        plant.until(half * HALF + 2 * MINUTE).await;
    }
    let lengths: Vec<_> = plant.blocks("m").await.iter().map(|block| block.span.millis() / HALF).collect();
    assert_eq!(lengths[..49], [1; 49]);
    assert!(lengths[49..].iter().all(|blocks| *blocks > 48) && lengths[49..].len() == 2, "{lengths:?}");
}

#[tokio::test]
async fn sums_are_sealed_with_their_last_part_and_revised_with_any() {
    let meters = vec![
        measured("a", Some(60_000)),
        measured("b", Some(60_000)),
        measured("c", Some(60_000)),
        summed("ab", &["a", "b"], &[]),
        summed("net", &["ab"], &["c"]),
    ];
    let plant = plant(meters);
    for (meter, factor) in [("a", 1.0), ("b", 2.0), ("c", 0.5)] {
        let steady = |ms: i64| (ms, 1_000.0 + factor * 12.0 * ms as f64 / HOUR as f64);
        let gap = |ms: &i64| meter != "b" || !(20 * MINUTE..=40 * MINUTE).contains(ms);
        plant.read(meter, (0..=HOUR).step_by(60_000).filter(gap).map(steady)).await;
    }
    plant.until(HOUR + 2 * MINUTE).await;
    let gap = vec!["estimated", "gap"];
    assert_eq!(plant.told("ab").await, vec![(0, Some(18_000), 0, gap.clone()), (30, Some(18_000), 0, gap.clone())]);
    assert_eq!(plant.told("net").await, vec![(0, Some(15_000), 0, gap.clone()), (30, Some(15_000), 0, gap)]);
    let (sum, part) = (&plant.blocks("ab").await[0], &plant.blocks("b").await[0]);
    assert_eq!((sum.method, sum.coverage), (Method::Sum, part.coverage));
    plant.read("b", [(30 * MINUTE, 1_013.0)]).await;
    plant.seal().await;
    let told: Vec<_> = plant.told("net").await.into_iter().map(|(_, import, revision, _)| (import, revision)).collect();
    assert_eq!(told, vec![(Some(16_000), 1), (Some(14_000), 1)]);
    // One part falls silent: so does the sum, and the whole of it is known when the part speaks again.
    plant.run("a", HOUR, 2 * HOUR).await;
    plant.run("c", HOUR, 2 * HOUR).await;
    plant.until(2 * HOUR + 2 * MINUTE).await;
    assert_eq!(plant.told("net").await[3].1, None);
    plant.read("b", [(2 * HOUR + MINUTE, 1_048.4)]).await;
    plant.seal().await;
    assert!(plant.told("net").await[3].1.is_some());
    let sums = |blocks: Vec<Block>| blocks.iter().map(|block| block.import.unwrap().as_uwh()).collect::<Vec<_>>();
    let (a, b, ab) = (sums(plant.blocks("a").await), sums(plant.blocks("b").await), sums(plant.blocks("ab").await));
    for at in 0..4 {
        assert_eq!(ab[at], a[at] + b[at], "block {at}");
    }
}

#[tokio::test]
async fn unsynchronised_at_boot_waits_then_uses_readings_then_moves_them() {
    let plant = one_meter();
    plant.run("m", -HOUR, -30 * MINUTE).await;
    plant.seal().await;
    // The gateway boots with a clock twelve hours behind, and blocks go on after five minutes.
    plant.clock.reboot();
    plant.clock.step_to(at(-12 * HOUR));
    plant.clock.set_state(ClockState::Unsynchronised);
    plant.seal().await;
    let before = plant.told("m").await;
    assert_eq!(before.len(), 1);
    let mut kwh = 1_010.0;
    for _ in 0..70 {
        plant.clock.advance(Duration::from_secs(60));
        let now = plant.clock.now().millis_since(at(0));
        kwh += 0.2;
        plant.read("m", [(now, kwh)]).await;
        plant.seal().await;
    }
    // The time service comes: it is 1 h 10 min after T.
    plant.clock.step_to(at(70 * MINUTE));
    plant.clock.set_state(ClockState::Synchronised);
    plant.seal().await;
    for _ in 0..60 {
        plant.clock.advance(Duration::from_secs(60));
        let now = plant.clock.now().millis_since(at(0));
        kwh += 0.2;
        plant.read("m", [(now, kwh)]).await;
        plant.seal().await;
    }
    let redates = plant.store.reader().redates().await.unwrap();
    assert_eq!(redates.len(), 1);
    assert_eq!(redates[0].offset_ms, 12 * HOUR);
    let blocks = plant.blocks("m").await;
    for block in &blocks {
        let early = block.span.end() <= at(-HOUR);
        assert_eq!(block.net().is_none(), early, "{block:?}");
        if early {
            assert!(block.flags.has(BlockFlag::Clock));
        }
    }
    let of_first: Vec<_> = blocks.iter().filter(|block| block.span.start() == at(HALF)).collect();
    assert!(of_first[0].flags.has(BlockFlag::Clock));
    assert_eq!(of_first[0].import.unwrap().as_uwh() / 1_000_000, 6_000);
    // 988 kWh at -60 min, 1034 at 120 min.
    assert_eq!((plant.total("m").await + 500) / 1_000, 46_000_000);
}

#[tokio::test]
async fn readings_before_synchronisation_within_five_minutes_are_moved_before_any_block() {
    let plant = one_meter();
    plant.clock.step_to(Timestamp::from_millis(0));
    plant.clock.set_state(ClockState::Unsynchronised);
    plant.seal().await;
    plant.read("m", [(-T + 1_000, 5.0), (-T + 2_000, 5.1)]).await;
    plant.seal().await;
    plant.clock.step_to(at(MINUTE));
    plant.clock.set_state(ClockState::Synchronised);
    plant.seal().await;
    plant.until(2 * MINUTE).await;
    plant.read("m", (3..=30).map(|minute| (minute * MINUTE, 5.0 + minute as f64 / 10.0))).await;
    plant.until(HALF + 2 * MINUTE).await;
    let told = plant.told("m").await;
    assert_eq!(told, vec![(0, Some(3_000), 0, vec!["clock"])]);
}

#[tokio::test]
async fn a_clock_that_says_2100_for_an_hour_leaves_no_block_of_2100() {
    for minutes in [59_i64, 180] {
        let plant = one_meter();
        plant.run("m", 0, HOUR).await;
        plant.until(HOUR + 2 * MINUTE).await;
        let leap = 74 * 365 * DAY;
        plant.clock.step_to(at(leap));
        for minute in 0..=minutes {
            plant.clock.advance(Duration::from_secs(60));
            plant.read("m", [(leap + minute * MINUTE, 1_012.0 + (minute + 2) as f64 / 5.0)]).await;
            plant.seal().await;
        }
        let real = HOUR + (minutes + 3) * MINUTE;
        plant.clock.step_to(at(real));
        for minute in 0..=150 {
            let now = real + minute * MINUTE;
            plant.clock.advance_to(at(now));
            plant.read("m", [(now, 1_000.0 + now as f64 / 300_000.0)]).await;
            plant.seal().await;
        }
        let blocks = plant.blocks("m").await;
        let ahead: Vec<_> = blocks.iter().filter(|block| block.span.end() > at(365 * DAY)).collect();
        assert!(ahead.iter().all(|block| block.net().is_none()), "{minutes} {ahead:#?}");
        let end = blocks.iter().filter(|block| block.net().is_some()).map(|block| block.span.end()).max().unwrap();
        assert!(end >= at(real + 118 * MINUTE), "{minutes}: sealing goes on");
        let wanted = end.millis_since(at(0)) * 10_000 / 3;
        assert_eq!(plant.total("m").await, wanted, "{minutes}: nothing is lost or made up");
        // The readings of that hour are all there.
        let mut stream = plant.store.reader().readings("m".parse().unwrap(), at(leap), at(leap + DAY));
        let mut kept = 0;
        while let Some(batch) = stream.next().await {
            kept += i64::try_from(batch.unwrap().len()).unwrap();
        }
        assert_eq!(kept, minutes + 1);
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_a_little_catches_up() {
    let plant = one_meter();
    plant.run("m", 0, HOUR).await;
    plant.until(HOUR + 2 * MINUTE).await;
    plant.clock.step_to(at(50 * MINUTE));
    plant.seal().await;
    for minute in 51..=92 {
        plant.clock.advance_to(at(minute * MINUTE));
        plant.read("m", [(minute * MINUTE + 1, 1_012.4 + (minute - 50) as f64 / 5.0)]).await;
        plant.seal().await;
    }
    plant.until(92 * MINUTE + 30_000).await;
    let blocks = plant.blocks("m").await;
    assert_eq!(blocks.len(), 3);
    let last = blocks[2].borders.last[0].raw.to_display();
    let total = plant.total("m").await as f64 / 1e9;
    assert!((total - (last - 1_000.0)).abs() < 0.3, "{total} {last}");
}

#[tokio::test]
async fn a_reading_older_than_all_raw_is_counted_and_flagged() {
    let plant = one_meter();
    plant.run("m", 0, HALF).await;
    plant.until(HALF + 2 * MINUTE).await;
    plant.clock.advance_to(at(DAY));
    plant.run("m", DAY, DAY + MINUTE).await;
    plant.until(DAY + HALF + 2 * MINUTE).await;
    let before = plant.told("m").await;
    plant.read("m", [(-DAY, 900.0)]).await;
    plant.seal().await;
    assert_eq!(plant.told("m").await, before);
    plant.until(DAY + HOUR + 2 * MINUTE).await;
    let last = plant.told("m").await.pop().unwrap();
    assert_eq!(last, (24 * 60 + 30, None, 0, vec!["gap", "late_rejected"]));
    let counted = plant.store.reader().state("blocks.late_rejected").await.unwrap().unwrap();
    assert_eq!(counted["m"]["count"], 1);
}

impl Plant {
    /// Retention lets go of all raw files but those of `days`; a meter of its own makes a file each day.
    async fn forget_raw(&self, days: u64) {
        let config = store_config(&self.folder);
        self.store.reconfigure(&store::Config { keep_raw: Duration::from_secs(days * 86_400), ..config });
        loop {
            let oldest = self.store.reader().health().oldest_raw.unwrap();
            self.store.tidy().await;
            if self.store.reader().health().oldest_raw.unwrap() == oldest {
                break;
            }
            self.clock.advance(Duration::from_secs(86_401));
        }
    }
}

#[tokio::test]
async fn where_raw_readings_are_gone_blocks_go_on_from_the_records() {
    let plant = plant(vec![measured("m", Some(60_000)), measured("other", Some(60_000))]);
    plant.run("m", 0, 50 * MINUTE).await;
    let before = |blocks: Vec<Block>| blocks.into_iter().next().unwrap();
    for day in 0..12 {
        plant.clock.advance_to(at(day * DAY + HOUR + 2 * MINUTE));
        plant.run("other", day * DAY + HOUR, day * DAY + HOUR + MINUTE).await;
        plant.seal().await;
        plant.store.tidy().await;
    }
    let first = before(plant.blocks("m").await);
    plant.forget_raw(2).await;
    let oldest = plant.store.reader().health().oldest_raw.unwrap();
    assert!(oldest > at(5 * DAY), "{oldest}");
    plant.seal().await;

    // A late reading for what is gone, and one in the silence.
    plant.read("m", [(10 * MINUTE, 1_002.5), (3 * DAY, 1_400.0)]).await;
    plant.seal().await;
    let rejected = plant.store.reader().state("blocks.late_rejected").await.unwrap().unwrap();
    assert_eq!(rejected["m"]["count"], 2);
    assert_eq!(before(plant.blocks("m").await), first);

    // The meter speaks again: the silence began before the oldest raw.
    let now = plant.clock.now().millis_since(at(0)) / HALF * HALF + DAY;
    plant.clock.advance_to(at(now + MINUTE));
    plant.run("m", now, now).await;
    plant.seal().await;
    let blocks = plant.blocks("m").await;
    let told: Vec<_> = blocks.iter().filter(|block| block.span.end() <= at(now)).collect();
    assert!(told.windows(2).all(|pair| pair[0].span.end() == pair[1].span.start()));
    assert!(told.iter().all(|block| block.import.is_some() && block.agrees_with_borders()));
    let steady = |block: &Block| block.span.millis() * 12_000_000_000 / HOUR;
    let uneven = told.iter().find(|block| (block.import.unwrap().as_uwh() - steady(block)).abs() > 2);
    assert_eq!(uneven, None);
    let end = told.last().unwrap().span.end().millis_since(at(0));
    assert!(end >= now - HALF && now > 10 * DAY);
    assert_eq!(told.iter().map(|block| block.import.unwrap().as_uwh()).sum::<i64>(), end * 10_000 / 3);
    // What was sealed from readings that are gone says what it said, and how far its digest goes.
    assert_eq!(*told[0], first);
    let (last, revised) = (plant.store.reader().revisions(&"m".parse().unwrap(), at(HALF)).await.unwrap(), told[1]);
    assert_eq!((last.len(), revised.revision), (2, 1));
    assert_eq!((revised.readings_sha256, revised.through_seq), (last[0].readings_sha256, last[0].through_seq));
    assert_eq!(revised.covered_ms, last[0].covered_ms);
    assert!(revised.borders.after[0].seq > revised.through_seq);

    // And what comes next takes its beginning from the record, and says that readings were turned away.
    plant.run("m", now + MINUTE, now + HALF).await;
    plant.until(now + HALF + 2 * MINUTE).await;
    let blocks = plant.blocks("m").await;
    let block = blocks.last().unwrap();
    assert_eq!((block.span.start(), block.import.unwrap().as_uwh()), (at(now), 6_000_000_000));
    assert!(blocks.iter().any(|block| block.flags.has(BlockFlag::LateRejected)));
}

#[tokio::test]
async fn a_block_that_has_lost_some_of_its_readings_is_not_computed_from_the_rest() {
    let plant = one_meter();
    plant.run("m", 0, DAY - 15 * MINUTE).await;
    plant.run("m", DAY - 5 * MINUTE, DAY).await;
    plant.until(DAY + 2 * MINUTE).await;
    // One reading of the last block of the day is kept with those of the next.
    plant.run("m", DAY - 10 * MINUTE, DAY - 10 * MINUTE).await;
    plant.run("m", DAY + MINUTE, DAY + HOUR).await;
    plant.until(DAY + HOUR + 2 * MINUTE).await;
    let before = plant.blocks("m").await;
    let last = &before[47];
    assert_eq!((last.revision, last.flags.names()), (1, vec!["gap", "late"]));
    plant.until(2 * DAY).await;
    plant.run("m", 2 * DAY, 2 * DAY).await;
    // The files of both later days stay.
    let keep_raw = Duration::from_secs(5 * 86_400);
    plant.store.reconfigure(&store::Config { keep_raw, ..store_config(&plant.folder) });
    plant.store.tidy().await;
    plant.clock.advance_to(at(6 * DAY + 2 * HOUR));
    plant.store.tidy().await;
    assert_eq!(plant.store.reader().health().oldest_raw, Some(at(DAY - 10 * MINUTE)));
    plant.read("m", [(DAY - 8 * MINUTE, 1_287.9)]).await;
    plant.seal().await;
    let after = plant.blocks("m").await;
    assert_eq!(after[..49], before[..49]);
    let rejected = plant.store.reader().state("blocks.late_rejected").await.unwrap().unwrap();
    assert_eq!(rejected["m"]["count"], 1);
}

/// One thing that happens in a story.
enum Event {
    /// The clock goes on to this time.
    Until(i64),
    Read(&'static str, Vec<(i64, f64)>),
    /// The source states intervals: where each begins, its minutes, its label, and kWh.
    State(&'static str, Vec<(i64, i64, Label, f64)>),
    /// The gateway boots with an unsynchronised clock that says this.
    Boot(i64),
    Synchronise(i64),
}

/// Sealing, late readings, a gap, a sum, and readings too old to be booked.
fn ordinary_story() -> Vec<Event> {
    use Event::{Read, Until};
    let steady = |from: i64, to: i64| -> Vec<_> {
        (from..=to).step_by(300_000).map(|ms| (ms, 1_000.0 + 12.0 * ms as f64 / HOUR as f64)).collect()
    };
    vec![
        Read("a", steady(0, HALF)),
        Read("b", steady(0, 20 * MINUTE)),
        Until(HALF + 10 * MINUTE),
        Read("a", steady(35 * MINUTE, HOUR)),
        Read("b", steady(40 * MINUTE, HOUR)),
        Until(HOUR + 10 * MINUTE),
        Read("b", vec![(30 * MINUTE, 1_007.0)]),
        Read("a", vec![(22 * MINUTE, 1_004.5)]),
        Until(HOUR + 11 * MINUTE),
        Read("a", steady(65 * MINUTE, 3 * HOUR)),
        Until(2 * HOUR + 10 * MINUTE),
        Until(3 * HOUR + 10 * MINUTE),
        Read("b", vec![(3 * HOUR + 11 * MINUTE, 1_044.4)]),
        Until(3 * HOUR + 12 * MINUTE),
        Until(3 * HOUR + 40 * MINUTE),
        Until(DAY),
        Read("a", steady(DAY, DAY + 10 * MINUTE)),
        Read("b", steady(DAY, DAY + HALF)),
        Until(DAY + 40 * MINUTE),
        Read("a", vec![(-DAY, 900.0)]),
        Until(DAY + HOUR + 10 * MINUTE),
        Read("a", vec![(-DAY - 1, 900.0)]),
        Until(DAY + 2 * HOUR + 10 * MINUTE),
    ]
}

/// A clock twelve hours behind, blocks withdrawn, and readings moved when it is right.
fn clock_story() -> Vec<Event> {
    use Event::{Boot, Read, Synchronise, Until};
    let both = |ms: i64, kwh: f64| [Read("a", vec![(ms, kwh)]), Read("b", vec![(ms, 2.0 * kwh)])];
    let mut story = Vec::new();
    (0..=7).for_each(|step: i32| story.extend(both(i64::from(step) * 5 * MINUTE, 1_000.0 + f64::from(step))));
    story.extend([Until(HALF + 10 * MINUTE), Boot(-12 * HOUR)]);
    let mut kwh = 1_010.0;
    for step in 1..=9 {
        kwh += 2.0;
        story.push(Until(-12 * HOUR + step * 10 * MINUTE));
        story.extend(both(-12 * HOUR + step * 10 * MINUTE, kwh));
    }
    story.push(Synchronise(140 * MINUTE));
    for second in [5, 20, 40, 100] {
        story.push(Until(140 * MINUTE + second * 1_000));
    }
    for step in 15..=24 {
        kwh += 2.0;
        story.push(Until(step * 10 * MINUTE));
        story.extend(both(step * 10 * MINUTE, kwh));
    }
    story.push(Until(250 * MINUTE));
    story
}

/// What a story leaves behind.
#[derive(Debug, PartialEq)]
struct Outcome {
    blocks: Vec<Vec<Block>>,
    sealed_through: BTreeMap<crate::model::MeterId, Timestamp>,
    rejected: Option<u64>,
    redates: usize,
}

/// Tells a story to one sealing task, which ends after `crash` transactions and is taken up again by another, at the
/// same instant or (when that was its last for a while) before the next thing happens.
async fn tell(story: Vec<Event>, crash: Option<usize>) -> (Outcome, bool) {
    use super::seal::fuse;
    let meters = vec![measured("a", Some(300_000)), measured("b", Some(300_000)), summed("ab", &["a", "b"], &[])];
    let mut plant = plant(meters);
    let open = async |plant: &Plant| {
        let (reader, ledger) = (plant.store.reader(), plant.store.ledger());
        Sealer::open(Arc::new(plant.config.clone()), reader, ledger, plant.clock.clone()).await.unwrap()
    };
    let pass = async |sealer: &mut Sealer| {
        sealer.catch_up().await?;
        sealer.pass().await
    };
    let mut sealer = open(&plant).await;
    let mut crashed = false;
    fuse::set(crash);
    for event in story {
        match event {
            Event::Until(ms) => plant.clock.advance_to(at(ms)),
            Event::Read(meter, values) => {
                let latest = values.iter().map(|(ms, _)| at(*ms)).max().unwrap();
                plant.clock.advance_to(latest.max(plant.clock.now()));
                plant.read(meter, values).await;
            }
            Event::State(meter, told) => {
                let told = told.into_iter().map(|(start, minutes, label, kwh)| {
                    // The meter's interval is as in the config, and so is the time at which its blocks are due.
                    let layout = Layout::clone(&interval::of(meter, minutes, label));
                    let layout = Arc::new(Layout { interval_ms: Some(300_000), ..layout });
                    Reading { layout, ..plant.interval(start, minutes, label, kwh) }
                });
                plant.put(told.collect()).await;
            }
            Event::Boot(ms) => {
                plant.clock.reboot();
                plant.clock.step_to(at(ms));
                plant.clock.set_state(ClockState::Unsynchronised);
                sealer = open(&plant).await;
            }
            Event::Synchronise(ms) => {
                plant.clock.step_to(at(ms));
                plant.clock.set_state(ClockState::Synchronised);
            }
        }
        let outcome = pass(&mut sealer).await;
        if outcome.is_err() || fuse::left() == Some(0) {
            fuse::set(None);
            crashed = true;
            drop(sealer);
            plant = plant.again().await;
            sealer = open(&plant).await;
            pass(&mut sealer).await.unwrap();
        }
    }
    sealer.save(plant.clock.stamp(), true).await.unwrap_or_else(|_| crashed = true);
    fuse::set(None);
    let mut blocks = Vec::new();
    for meter in ["a", "b", "ab"] {
        blocks.push(plant.blocks(meter).await);
    }
    let reader = plant.store.reader();
    let outcome = Outcome {
        blocks,
        sealed_through: reader.sealed_through().await.unwrap(),
        rejected: reader.state("blocks.late_rejected").await.unwrap().and_then(|told| told["a"]["count"].as_u64()),
        redates: reader.redates().await.unwrap().len(),
    };
    (outcome, crashed)
}

/// However many transactions were made when the task ended: the same in the end as if it had not.
async fn survives_a_crash_after_any_transaction(story: fn() -> Vec<Event>) -> Outcome {
    let (undisturbed, _) = tell(story(), None).await;
    for transactions in 1.. {
        let (outcome, crashed) = tell(story(), Some(transactions)).await;
        if !crashed {
            assert!(transactions > 20, "{transactions}");
            break;
        }
        let both = outcome.blocks.iter().flatten().zip(undisturbed.blocks.iter().flatten());
        let differ = { both }.find(|(a, b)| a != b);
        assert_eq!(differ, None, "ended after {transactions} transactions");
        assert_eq!(outcome, undisturbed, "ended after {transactions} transactions");
    }
    undisturbed
}

#[tokio::test]
async fn a_crash_between_any_two_transactions_of_sealing_changes_nothing() {
    let told = survives_a_crash_after_any_transaction(ordinary_story).await;
    let revised = |block: &&Block| block.revision > 0;
    assert!(told.blocks.iter().all(|blocks| blocks.iter().filter(revised).count() >= 2), "the story has revisions");
    assert_eq!(told.rejected, Some(2));
    for (a, (b, ab)) in told.blocks[0].iter().zip(told.blocks[1].iter().zip(&told.blocks[2])).take(6) {
        let [a, b, ab] = [a, b, ab].map(|block| block.import.unwrap().as_uwh());
        assert_eq!(ab, a + b);
    }
}

#[tokio::test]
async fn a_crash_between_any_two_transactions_of_a_clock_set_right_changes_nothing() {
    let told = survives_a_crash_after_any_transaction(clock_story).await;
    assert_eq!(told.redates, 1);
    assert!(told.blocks[0].iter().any(|block| block.flags.has(BlockFlag::Clock)));
}

/// What `waited` gives, or `None` after a moment, with the clock moved on by a second: the task looks about once a
/// second, and may have begun to wait after the clock was moved last.
async fn waited<T>(clock: &Clock, waited: impl Future<Output = T>) -> Option<T> {
    let outcome = tokio::time::timeout(Duration::from_millis(50), waited).await.ok();
    if outcome.is_none() {
        clock.advance(Duration::from_secs(1));
    }
    outcome
}

#[tokio::test]
async fn the_running_task_seals_and_shows_the_open_block() {
    let mut meters = vec![measured("a", Some(60_000)), measured("b", Some(60_000)), summed("ab", &["a", "b"], &[])];
    meters[2].peak_target = Some(Energy::from_uwh(10_000_000_000));
    let plant = plant(meters);
    let (_config, watched) = watch::channel(Arc::new(plant.config.clone()));
    let open = watch::Sender::new(Arc::new(OpenBlocks::new()));
    let stop = CancellationToken::new();
    let mut shown = open.subscribe();
    let (reader, ledger, clock) = (plant.store.reader(), plant.store.ledger(), plant.clock.clone());
    let mut sealed = plant.store.reader().sealed();
    let told = Told { open, waits_for: watch::Sender::new(None) };
    let mut waits_for = told.waits_for.subscribe();
    let task = run(watched, reader, ledger, clock, told, stop.clone());
    let story = async {
        let say =
            |ms: i64| Say { import: Some(1_000.0 + 12.0 * ms as f64 / HOUR as f64), export: None, power: Some(12.0) };
        for minute in 0..=45 {
            let ms = minute * MINUTE;
            plant.clock.advance_to(at(ms));
            plant.put(["a", "b"].map(|meter| plant.reading(meter, ms, say(ms))).to_vec()).await;
        }
        plant.clock.advance_to(at(45 * MINUTE + 1_000));
        let mut names = Vec::new();
        while names.len() < 3 {
            match waited(&plant.clock, sealed.recv()).await {
                Some(blocks) => names.extend(blocks.unwrap().iter().map(|at| (at.meter.to_string(), at.revision))),
                None => continue,
            }
        }
        names.sort();
        assert_eq!(names, [("a", 0), ("ab", 0), ("b", 0)].map(|(name, revision)| (name.to_owned(), revision)));
        let sum = "ab".parse().unwrap();
        let open = loop {
            let open = shown.borrow_and_update().get(&sum).cloned();
            match open.filter(|open| open.import.is_some_and(|import| import.as_uwh() > 5_990_000_000)) {
                Some(open) => break open,
                None => {
                    waited(&plant.clock, shown.changed()).await;
                }
            }
        };
        assert_eq!(open.span.start(), at(HALF));
        let net = open.net().unwrap().as_uwh();
        assert_eq!(net, 6_000_000_000, "a quarter of an hour of 24 kW");
        assert_eq!(open.projected, Some(Energy::from_uwh(12_000_000_000)), "{open:?}");
        // 2 kWh too much in what remains of the block.
        let mw = i128::from(open.shed.unwrap().as_mw());
        let uwh = mw * i128::from(open.remaining_ms) / 3_600;
        assert!((2_000_000_000..2_001_000_000).contains(&uwh), "{mw}");
        // The clock leaps: the task says what it waits for, and once it goes on, that it waits no more.
        assert_eq!(*waits_for.borrow_and_update(), None);
        plant.clock.step_to(at(2 * DAY));
        while waits_for.borrow_and_update().is_none() {
            waited(&plant.clock, waits_for.changed()).await;
        }
        assert!(waits_for.borrow().unwrap().starts_with("the clock leapt forward"));
        plant.clock.advance(Duration::from_secs(3_600));
        while waits_for.borrow_and_update().is_some() {
            waited(&plant.clock, waits_for.changed()).await;
        }
        stop.cancel();
    };
    let (outcome, ()) = tokio::join!(task, story);
    outcome.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whatever the order in which readings arrive, and however sealing falls between: the same blocks in the end,
    /// and they add up to the difference of the register.
    #[test]
    fn the_order_of_arrival_changes_nothing(
        steps in prop::collection::vec((1..40_i64, 0..2_000_u32), 5..40),
        lateness in prop::collection::vec(0..200_i64, 40),
        glitch in prop::option::of((1..30_usize, prop::sample::select(vec![0.0, 0.3, 50_000.0, 99_999_999.0]))),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut ms = 0;
            let mut kwh = 1_000.0;
            let mut readings = Vec::new();
            for (index, (wait, rise)) in steps.iter().enumerate() {
                ms += wait * MINUTE;
                kwh += f64::from(*rise) / 64.0;
                let value = glitch.filter(|(at, _)| *at == index).map_or(kwh, |(_, value)| value);
                readings.push((ms, value));
            }
            let end = ms + 6 * HOUR;
            let mut told = Vec::new();
            for in_order in [true, false] {
                let plant = one_meter();
                let late = |index: usize| if in_order { 0 } else { lateness[index] * MINUTE };
                let mut arrivals: Vec<_> =
                    readings.iter().enumerate().map(|(index, reading)| (reading.0 + late(index), *reading)).collect();
                arrivals.sort_by_key(|(arrival, _)| *arrival);
                let mut arrivals = arrivals.into_iter().peekable();
                let mut now = 0;
                while now < end {
                    now += 17 * MINUTE;
                    plant.clock.advance_to(at(now));
                    let mut batch = Vec::new();
                    while arrivals.peek().is_some_and(|(arrival, _)| *arrival <= now) {
                        batch.extend(arrivals.next().map(|(_, reading)| reading));
                    }
                    plant.read("m", batch).await;
                    plant.seal().await;
                }
                let mut blocks = plant.blocks("m").await;
                // What there is before the first reading depends on when it came.
                blocks.retain(|block| block.net().is_some());
                told.push(blocks.iter().map(|block| (
                    block.span.start(), block.import, block.coverage, block.borders.first.len(),
                    block.flags.names().into_iter().filter(|name| *name != "late").collect::<Vec<_>>(),
                )).collect::<Vec<_>>());
                if glitch.is_none() {
                    let total: i64 = blocks.iter().filter_map(|block| block.import).map(Energy::as_uwh).sum();
                    let sixty_fourths: i64 = steps[1..].iter().map(|(_, rise)| i64::from(*rise)).sum();
                    assert_eq!(total, sixty_fourths * 15_625_000);
                }
            }
            assert_eq!(told[0], told[1]);
        });
    }
}
