//! A backlog from the store into a local PostgreSQL, as the daemon delivers it, beside `psql \copy` of the same rows into
//! the same table: rate and memory. `cargo bench --bench upstream_postgres -- 5000000` says how many readings.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on says where")]

#[path = "../tests/peers/postgres.rs"]
mod postgres;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meterseal::clock::Clock;
use meterseal::model::{
    Category, ClockState, Layout, Number, Ratio, Reading, Slot, Stamp, Stream, Timestamp, UpstreamsStatus,
};
use meterseal::store::{self, Store};
use meterseal::upstream::postgres::Config;
use meterseal::upstream::tls::Tls;
use meterseal::upstream::{self, Kind, Parts, Start, Upstream};
use postgres::{PASSWORD, Postgres};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

const METERS: u64 = 100;
/// 2026-11-01T00:00:00Z
const T: i64 = 1_793_491_200_000;
const QUANTITIES: [(&str, &str, u64); 6] = [
    ("current_a", "0.01", 4_000),
    ("energy_import_kwh", "0.001", 123_456_000),
    ("frequency_hz", "0.01", 5_000),
    ("power_factor", "0.001", 950),
    ("power_kw", "0.001", 25_000),
    ("voltage_v", "0.1", 2_300),
];

fn main() {
    let asked = std::env::args().find_map(|word| word.parse().ok());
    let all: u64 = asked.unwrap_or(5_000_000);
    let server = Postgres::start_with("fsync = on\nmax_wal_size = 4GB\nshared_buffers = 256MB\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(fill(folder.path(), all));
    server.psql("CHECKPOINT");
    let (ours, most) = runtime.block_on(deliver(&server, folder.path(), all));
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings"), all.to_string());
    println!("meterseal    {:>9.0} readings/s  memory above idle {:.1} MiB", rate(all, ours), mib(most));

    let rows = server.folder().join("rows");
    let columns = "gateway, seq, time, meter, category, values, flags, intervals, boot, since_boot_ms, sha256";
    server.psql(&format!("\\copy (SELECT {columns} FROM meterseal.readings ORDER BY seq) TO '{}'", rows.display()));
    server.psql("TRUNCATE meterseal.readings");
    server.psql("CHECKPOINT");
    let began = Instant::now();
    server.psql(&format!("\\copy meterseal.readings ({columns}) FROM '{}'", rows.display()));
    let theirs = began.elapsed();
    assert_eq!(server.psql("SELECT count(*) FROM meterseal.readings"), all.to_string());
    println!("psql \\copy  {:>9.0} readings/s", rate(all, theirs));
    println!("ratio        {:.2} (at least 0.7)", theirs.as_secs_f64() / ours.as_secs_f64());
}

fn limits(folder: &Path) -> store::Config {
    store::Config {
        path: folder.join("store"),
        commit_every: Duration::from_millis(100),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 20_000_000_000,
        reserve: 0,
    }
}

/// A store with so many readings of which nobody was told.
async fn fill(folder: &Path, all: u64) {
    let clock = Clock::trusted();
    store::init(&limits(folder), &"plant-7".parse().unwrap(), &clock).unwrap();
    let store = Store::open(limits(folder), clock, None).unwrap();
    let (ingest, layouts) = (store.ingest(), (0..METERS).map(layout).collect::<Vec<_>>());
    let mut number = 0;
    while number < all {
        let next = (number + 2_000).min(all);
        ingest.store((number..next).map(|number| reading(number, &layouts)).collect()).await.unwrap();
        number = next;
    }
    drop(ingest);
    store.close().await.unwrap();
}

/// How long it took, and how much memory more than before it had begun.
async fn deliver(server: &Postgres, folder: &Path, all: u64) -> (Duration, u64) {
    let clock = Clock::trusted();
    let store = Store::open(limits(folder), clock.clone(), None).unwrap();
    let password = Some(Zeroizing::new(PASSWORD.to_owned()));
    let kind = Kind::Postgres(Config::from_url(&server.url(), password, Tls::default(), None).unwrap());
    let database = Upstream { name: "bench".to_owned(), kind, streams: vec![Stream::Readings], start: Start::Oldest };
    let (_config, wanted) = watch::channel(Arc::new(upstream::Config { upstreams: vec![database] }));
    let (status, mut shown) = watch::channel(Arc::new(UpstreamsStatus::default()));
    let (_checkpoint, checkpoint) = watch::channel(None);
    let (_orders, orders) = mpsc::channel(1); // nobody orders anything
    let parts = Parts { reader: store.reader(), ledger: store.ledger(), clock, checkpoint, status };
    let idle = resident();
    let stop = CancellationToken::new();
    let began = Instant::now();
    let engine = upstream::run(wanted, parts, orders, stop.clone());
    let through = async {
        let mut highest = 0;
        let is_through = |shown: &UpstreamsStatus| {
            let streams = shown.get("bench").map_or(&[][..], |one| &one.streams);
            let mut readings = streams.iter().filter(|(stream, _)| *stream == Stream::Readings);
            readings.any(|(_, status)| status.position.live >= all && status.position.open.is_empty())
        };
        while !is_through(&shown.borrow_and_update()) {
            shown.changed().await.unwrap();
            highest = highest.max(resident());
        }
        let took = began.elapsed();
        stop.cancel();
        (took, highest.saturating_sub(idle))
    };
    let (ended, figures) = tokio::join!(engine, through);
    ended.unwrap();
    store.close().await.unwrap();
    figures
}

fn layout(meter: u64) -> Arc<Layout> {
    let slots = QUANTITIES.iter().map(|(quantity, scale, _)| Slot {
        quantity: quantity.parse().unwrap(),
        scale: Ratio::parse(scale).unwrap(),
        rolls_over_at: None,
        interval: None,
    });
    Arc::new(Layout {
        meter: format!("meter-{meter:03}").parse().unwrap(),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: slots.collect(),
    })
}

fn reading(number: u64, layouts: &[Arc<Layout>]) -> Reading {
    let meter = number % METERS;
    let time = Timestamp::from_millis(T + i64::try_from(number / METERS * 1_000 + meter).unwrap());
    // Numbers that are not alike, and of which the register counts on.
    let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let value = |(at, (_, _, typical)): (usize, &(&str, &str, u64))| {
        (
            u8::try_from(at).unwrap(),
            Number::U64(if at == 1 { typical + number / METERS } else { typical + noise % (typical / 4) }),
        )
    };
    Reading {
        layout: layouts[usize::try_from(meter).unwrap()].clone(),
        taken: Stamp { time, since_boot_ms: number, clock: ClockState::Synchronised },
        values: QUANTITIES.iter().enumerate().map(value).collect(),
    }
}

#[allow(clippy::cast_precision_loss)]
fn rate(readings: u64, took: Duration) -> f64 {
    readings as f64 / took.as_secs_f64()
}

#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes of memory that this process has now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}
