//! What sealing costs at one border: `cargo bench --bench seal`. One meter with a reading every 100 ms, and a thousand
//! meters with one a minute.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use meterseal::blocks::{Config, seal_all_due};
use meterseal::clock::Clock;
use meterseal::model::{
    Category, Layout, LineName, Meter, Number, Origin, Ratio, Reading, Role, Slot, Span, Stamp, Timestamp,
};
use meterseal::store::{self, Store};

/// A border of half an hour.
const START: i64 = 1_763_726_400_000;
const HALF: i64 = 1_800_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for (meters, interval_ms) in [(1, 100), (1, 1_000), (1_000, 60_000)] {
        runtime.block_on(border(meters, interval_ms));
    }
}

fn meter(number: usize, interval_ms: u32) -> Meter {
    let line: LineName = "line".parse().unwrap();
    Meter {
        id: format!("m{number}").parse().unwrap(),
        name: String::new(),
        category: Category::Cons,
        origin: Origin::Modbus { line, unit: 1, template: "t".to_owned(), verified: true },
        interval_ms: Some(interval_ms),
        peak_target: None,
        simulated: false,
    }
}

fn layout(meter: &Meter) -> Arc<Layout> {
    let slot = |role: Role| Slot {
        quantity: role.quantity().parse().unwrap(),
        scale: Ratio::ONE,
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: meter.id.clone(),
        category: meter.category,
        interval_ms: meter.interval_ms,
        template: None,
        simulated: false,
        slots: vec![slot(Role::Import), slot(Role::Power)],
    })
}

/// The second of two blocks, each of readings of import and power; a little of the third has come.
async fn border(meters: usize, interval_ms: u32) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(START));
    let limits = store::Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 100_000_000_000,
        reserve: 0,
    };
    store::init(&limits, &"bench".parse().unwrap(), &clock).unwrap();
    let store = Store::open(limits, clock.clone(), None).unwrap();
    let meters: Vec<_> = (0..meters).map(|number| meter(number, interval_ms)).collect();
    let layouts: Vec<_> = meters.iter().map(layout).collect();
    let config =
        Config { timezone: "UTC".to_owned(), block_minutes: 30, clock_offset_ms: 0, peaks: Vec::new(), meters };
    let read = async |from: i64, to: i64| {
        let mut readings = Vec::new();
        for ms in (from..to).step_by(usize::try_from(interval_ms).unwrap()) {
            let time = Timestamp::from_millis(START + ms);
            for layout in &layouts {
                let values = [Number::U64(1_000 + ms.unsigned_abs() / 60_000), Number::U64(12 + ms.unsigned_abs() % 7)];
                let values = (0_u8..).zip(values).collect();
                readings.push(Reading { layout: layout.clone(), taken: Stamp { time, ..clock.stamp() }, values });
            }
        }
        for batch in readings.chunks(2_000) {
            store.ingest().store(batch.to_vec()).await.unwrap();
        }
    };
    let (reader, ledger) = (store.reader(), store.ledger());
    let seal = async |ms: i64| {
        clock.advance_to(Timestamp::from_millis(START + ms));
        let began = (Instant::now(), processor_ms());
        seal_all_due(&config, &reader, &ledger, &clock).await.unwrap();
        (began.0.elapsed().as_secs_f64() * 1e3, processor_ms() - began.1)
    };
    let grace = (2 * i64::from(interval_ms)).max(10_000);
    read(0, HALF + grace).await;
    seal(HALF + grace).await;
    read(HALF + grace, 2 * HALF + grace).await;
    let nothing = seal(2 * HALF + grace - 1).await; // The readings are looked at, and nothing is due.
    let again = seal(2 * HALF + grace - 1).await;
    let due = seal(2 * HALF + grace).await;
    let span = Span::new(Timestamp::from_millis(START + HALF), Timestamp::from_millis(START + 2 * HALF)).unwrap();
    for meter in &config.meters {
        assert_eq!(reader.blocks(&meter.id, span).await.unwrap().len(), 1);
    }
    println!(
        "{} meters at {interval_ms} ms, {} readings each in the block: sealed in {:.1} ms ({} ms of processor), of which \
         {:.1} ms are taking up the task; looking at the readings before: {:.1} ms ({} ms)",
        config.meters.len(),
        HALF / i64::from(interval_ms),
        due.0,
        due.1,
        again.0,
        nothing.0,
        nothing.1,
    );
}

/// Of all threads, in steps of 10 ms.
fn processor_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit(')').next().unwrap();
    after.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}
