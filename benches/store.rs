//! What the store costs: `cargo bench --bench store [-- ingest|device|blocks|readings|taken|open]`, all of them by default.
//!
//! `device` needs root and loop devices: it counts what reaches a block device of its own, the journal of its ext4
//! included.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use meterseal::clock::Clock;
use meterseal::model::{
    Block, BlockFlags, Borders, Category, ClockState, Digest, Energy, Layout, Method, Number, Ratio, Reading, Role,
    Slot, Span, Stamp, Timestamp,
};
use meterseal::store::{self, Config, Sealing, Store};

const NOON: i64 = 1_763_726_400_000;
const METERS: usize = 100;
/// Six doubles and a key of twelve bytes.
const PAYLOAD: usize = 60;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if is_wanted("ingest") {
        runtime.block_on(ingest());
    }
    if is_wanted("device") {
        runtime.block_on(device());
    }
    if is_wanted("blocks") {
        runtime.block_on(blocks());
    }
    if is_wanted("readings") {
        runtime.block_on(readings());
    }
    if is_wanted("taken") {
        runtime.block_on(taken());
    }
    if is_wanted("open") {
        runtime.block_on(open());
    }
}

fn config(path: &Path) -> Config {
    Config {
        path: path.to_owned(),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 100_000_000_000,
        reserve: 0,
    }
}

fn made(path: &Path) -> (Store, Clock) {
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    store::init(&config(path), &"bench".parse().unwrap(), &clock).unwrap();
    (Store::open(config(path), clock.clone(), None).unwrap(), clock)
}

fn layout(meter: usize) -> Arc<Layout> {
    let names = ["energy_import_kwh", "power_kw", "voltage_v", "current_a", "frequency_hz", "power_factor"];
    let slot =
        |name: &&str| Slot { quantity: name.parse().unwrap(), scale: Ratio::ONE, rolls_over_at: None, interval: None };
    Arc::new(Layout {
        meter: format!("meter-{meter}").parse().unwrap(),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: names.iter().map(slot).collect(),
    })
}

/// Six doubles as a meter with much noise would send them: nothing of it is easy to compress.
struct Plant {
    layouts: Vec<Arc<Layout>>,
    energy: Vec<f64>,
    dice: u64,
}

impl Plant {
    fn new(meters: usize) -> Self {
        Self { layouts: (0..meters).map(layout).collect(), energy: vec![1000.0; meters], dice: 1 }
    }

    #[allow(clippy::cast_precision_loss)]
    fn noise(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn values(&mut self, meter: usize) -> [f64; 6] {
        let power = 50.0 + 10.0 * self.noise();
        self.energy[meter] += power / 3600.0;
        let rest = [self.noise(), self.noise(), self.noise(), self.noise()];
        [self.energy[meter], power, 230.0 + rest[0], 70.0 + rest[1], 50.0 + rest[2] / 100.0, 0.9 + rest[3] / 50.0]
    }

    /// One reading of each meter.
    fn second(&mut self, time: i64) -> Vec<Reading> {
        (0..self.layouts.len())
            .map(|meter| {
                let values = self.values(meter);
                let numbers = values.iter().map(|value| Number::from_f64(*value).unwrap());
                Reading {
                    layout: self.layouts[meter].clone(),
                    taken: Stamp {
                        time: Timestamp::from_millis(time + i64::try_from(meter).unwrap()),
                        since_boot_ms: (time - NOON + 1_000_000).unsigned_abs(),
                        clock: ClockState::Synchronised,
                    },
                    values: (0..).zip(numbers).collect(),
                }
            })
            .collect()
    }
}

/// Against a bare loop of SQLite with the same bytes, the same group size and the same flush, in turns.
#[allow(clippy::cast_precision_loss)]
async fn ingest() {
    const GROUP: usize = 500;
    const GROUPS: usize = 200;
    let folder = tempfile::tempdir_in(".").unwrap();
    let (store, clock) = made(&folder.path().join("store"));
    let bare = rusqlite::Connection::open(folder.path().join("bare.db")).unwrap();
    bare.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -1024;
         CREATE TABLE readings (id INTEGER PRIMARY KEY, key BLOB, body BLOB);",
    )
    .unwrap();
    let mut ratios = Vec::new();
    let (mut plant, mut time) = (Plant::new(METERS), NOON);
    for round in 0..5 {
        let mut groups = Vec::new();
        for _ in 0..GROUPS {
            let mut group = Vec::new();
            for _ in 0..GROUP / METERS {
                time += 1_000;
                group.extend(plant.second(time));
            }
            groups.push(group);
        }
        let rows: Vec<Vec<([u8; 12], [u8; 48])>> = groups.iter().map(|group| group.iter().map(row).collect()).collect();
        let started = Instant::now();
        for rows in &rows {
            let transaction = bare.unchecked_transaction().unwrap();
            let mut insert = transaction.prepare_cached("INSERT INTO readings (key, body) VALUES (?1, ?2)").unwrap();
            for (key, body) in rows {
                insert.execute(rusqlite::params![key, body]).unwrap();
            }
            drop(insert);
            transaction.commit().unwrap();
        }
        let bare_rate = (GROUP * GROUPS) as f64 / started.elapsed().as_secs_f64();
        let started = Instant::now();
        // Two groups are under way, as with any source that goes on while its last group is flushed: each is a commit of
        // its own, like the bare loop's.
        let ingest = store.ingest();
        let mut under_way = FuturesOrdered::new();
        for group in groups {
            under_way.push_back(ingest.store(group));
            if under_way.len() == 2 {
                under_way.next().await.unwrap().unwrap();
            }
        }
        while let Some(stored) = under_way.next().await {
            stored.unwrap();
        }
        // Its share of the second writing belongs to the price.
        store.tidy().await;
        let rate = (GROUP * GROUPS) as f64 / started.elapsed().as_secs_f64();
        clock.advance_to(Timestamp::from_millis(time));
        println!("ingest round {round}: store {rate:.0}/s, bare loop {bare_rate:.0}/s, ratio {:.2}", rate / bare_rate);
        ratios.push(rate / bare_rate);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ingest: durable, packing included, {:.2} of a bare loop (median of 5; at least 0.5)", ratios[2]);
}

fn row(reading: &Reading) -> ([u8; 12], [u8; 48]) {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&reading.taken.time.as_millis().to_be_bytes());
    let mut body = [0; 48];
    for (at, (_, number)) in reading.values.iter().enumerate() {
        if let Number::F64(value) = number {
            body[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    (key, body)
}

/// Bytes that reach the device for each byte of payload, at a commit for each second and for each ten seconds.
#[allow(clippy::cast_precision_loss)]
async fn device() {
    let Some(disk) = LoopDisk::new(600 << 20) else {
        println!("device: not measured, needs root and a loop device");
        return;
    };
    for (every, most) in [(1_usize, 10.0), (10, 7.0)] {
        const SECONDS: usize = 3_600;
        let (store, clock) = made(&disk.mount.join(format!("store-{every}")));
        let mut plant = Plant::new(METERS);
        let (mut time, mut waiting) = (NOON, Vec::new());
        rustix::fs::sync();
        let before = disk.written();
        for second in 1..=SECONDS {
            time += 1_000;
            waiting.extend(plant.second(time));
            if second % every == 0 {
                store.ingest().store(std::mem::take(&mut waiting)).await.unwrap();
                clock.advance_to(Timestamp::from_millis(time));
            }
            if second % 900 == 0 {
                store.tidy().await;
            }
        }
        store.close().await.unwrap();
        rustix::fs::sync();
        let written = disk.written() - before;
        let payload = SECONDS * METERS * PAYLOAD;
        let share = written as f64 / payload as f64;
        println!(
            "device: commit each {every} s: {share:.1} bytes for each byte of payload (at most {most}), {:.2} GB a day",
            share * (METERS * PAYLOAD * 86_400) as f64 / 1e9
        );
    }
}

/// An ext4 on a block device of its own.
struct LoopDisk {
    device: String,
    mount: PathBuf,
    _folder: tempfile::TempDir,
}

impl LoopDisk {
    fn new(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir_in(".").ok()?;
        let image = folder.path().join("image");
        std::fs::File::create(&image).ok()?.set_len(bytes).ok()?;
        let image = image.to_str()?;
        said("mkfs.ext4", &["-q", image])?;
        let device = said("losetup", &["--find", "--show", image])?.trim().to_owned();
        let mount = folder.path().join("mount");
        std::fs::create_dir(&mount).ok()?;
        said("mount", &[&device, mount.to_str()?])?;
        Some(Self { device, mount, _folder: folder })
    }

    /// Sectors of 512 bytes written since the device was made (Linux, Documentation/block/stat.rst).
    fn written(&self) -> u64 {
        let name = self.device.trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        stat.split_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        said("umount", &[self.mount.to_str().unwrap_or_default()]);
        said("losetup", &["--detach", &self.device]);
    }
}

fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A month of one meter's blocks, out of a store that holds those of a hundred.
async fn blocks() {
    const HALF: i64 = 1_800_000;
    let folder = tempfile::tempdir_in(".").unwrap();
    let (store, _) = made(&folder.path().join("store"));
    for number in 0..1_440_i64 {
        let of = |meter: usize| block(&layout(meter), number * HALF, HALF);
        let sealing = Sealing { blocks: (0..METERS).map(of).collect(), ..Sealing::default() };
        store.ledger().seal(sealing).await.unwrap();
    }
    let month = Span::new(Timestamp::from_millis(0), Timestamp::from_millis(1_440 * HALF)).unwrap();
    let reader = store.reader();
    let mut times = Vec::new();
    for meter in 0..20 {
        let started = Instant::now();
        assert_eq!(reader.blocks(&layout(meter).meter, month).await.unwrap().len(), 1_440);
        times.push(started.elapsed());
    }
    let first = times[0];
    times.sort();
    println!("blocks: a month of one meter in {:.1?} (median of 20; the first {first:.1?})", times[10]);
}

fn block(layout: &Layout, start: i64, length: i64) -> Block {
    Block {
        meter: layout.meter.clone(),
        span: Span::new(Timestamp::from_millis(start), Timestamp::from_millis(start + length)).unwrap(),
        nominal_ms: 1_800_000,
        revision: 0,
        category: Category::Cons,
        import: Some(Energy::from_uwh(start)),
        export: None,
        max_power: None,
        min_power: None,
        covered_ms: length,
        coverage: 10_000,
        method: Method::Counter,
        is_peak_hour: false,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(&start.to_le_bytes()),
        through_seq: 0,
        borders: Borders::default(),
        zone: "Asia/Kuala_Lumpur".to_owned(),
        interval_ms: 1_000,
        template: None,
        sealed: Timestamp::from_millis(start),
    }
}

/// A day of one meter at 1 s, as readings; and what the block rule asks for at a border.
#[allow(clippy::cast_precision_loss)]
async fn readings() {
    const OTHERS: usize = 10;
    let folder = tempfile::tempdir_in(".").unwrap();
    let (store, clock) = made(&folder.path().join("store"));
    let mut plant = Plant::new(OTHERS);
    let mut time = NOON;
    for quarter in 0..96 {
        for _ in 0..30 {
            let mut group = Vec::new();
            for _ in 0..30 {
                time += 1_000;
                group.extend(plant.second(time));
            }
            store.ingest().store(group).await.unwrap();
            clock.advance_to(Timestamp::from_millis(time));
        }
        if quarter < 95 {
            store.tidy().await;
        }
    }
    let reader = store.reader();
    let meter = plant.layouts[3].meter.clone();
    for _ in 0..3 {
        let started = Instant::now();
        let mut stream = reader.readings(meter.clone(), Timestamp::from_millis(NOON), Timestamp::MAX);
        let (mut count, mut first) = (0, None);
        while let Some(batch) = stream.next().await {
            first.get_or_insert_with(|| started.elapsed());
            count += batch.unwrap().len();
        }
        let whole = started.elapsed();
        println!(
            "readings: {count} of one meter in {whole:.1?}, the first after {:.1?}; {:.1} M readings/s",
            first.unwrap(),
            f64::from(u32::try_from(count).unwrap()) / whole.as_secs_f64() / 1e6
        );
    }
    for hours in [1, 12] {
        let at = Timestamp::from_millis(time - hours * 3_600_000);
        let started = Instant::now();
        for _ in 0..100 {
            reader.last_before(&meter, Role::Import, at).await.unwrap().unwrap();
            reader.first_from(&meter, Role::Import, at).await.unwrap().unwrap();
        }
        println!("readings: both sides of a border {hours} h ago in {:.0?}", started.elapsed() / 100);
    }
    println!("readings: {} of resident memory", resident());
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    format!("{} (at most {})", line("VmRSS:"), line("VmHWM:"))
}

/// A backlog of 5 million readings of six values, read in order of seq as it is sent upstream: 5 000 at a time.
async fn taken() {
    const READINGS: u64 = 5_000_000;
    let folder = tempfile::tempdir_in(".").unwrap();
    let path = folder.path().join("store");
    let (store, clock) = made(&path);
    let mut plant = Plant::new(METERS);
    let mut time = NOON;
    let mut last = 0;
    while last < READINGS {
        let mut group = Vec::new();
        for _ in 0..10 {
            time += 1_000;
            group.extend(plant.second(time));
        }
        last = store.ingest().store(group).await.unwrap().last_seq;
        clock.advance_to(Timestamp::from_millis(time));
        if last % 90_000 == 0 {
            store.tidy().await;
        }
    }
    store.close().await.unwrap();
    drop(plant);
    let store = Store::open(config(&path), clock, None).unwrap();
    // The highest so far is that of the writing: what counts is how much more it is from here on.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    println!("taken: resident before {}", resident());
    let mut cursor = store.reader().taken();
    let (started, mut after, mut count) = (Instant::now(), 0, 0_u32);
    loop {
        let found = cursor.next(after, last, 5_000).await.unwrap();
        let Some(reading) = found.last() else { break };
        after = reading.seq;
        count += u32::try_from(found.len()).unwrap();
    }
    let whole = started.elapsed();
    println!(
        "taken: {count} in {whole:.1?}, {:.0} readings/s; resident {}",
        f64::from(count) / whole.as_secs_f64(),
        resident()
    );
}

/// Opening a store of 30 million readings.
async fn open() {
    const DAYS: usize = 35;
    let folder = tempfile::tempdir_in(".").unwrap();
    let path = folder.path().join("store");
    let (store, clock) = made(&path);
    let mut plant = Plant::new(METERS);
    let mut time = NOON;
    for _ in 0..DAYS {
        for _ in 0..864 {
            let mut group = Vec::new();
            for _ in 0..10 {
                time += 10_000;
                group.extend(plant.second(time));
            }
            store.ingest().store(group).await.unwrap();
            clock.advance_to(Timestamp::from_millis(time));
        }
    }
    let health = store.reader().health();
    println!("open: {} readings in {} MB; {}", health.readings, health.raw_bytes / 1_000_000, resident());
    store.close().await.unwrap();
    let mut times = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let store = Store::open(config(&path), clock.clone(), None).unwrap();
        times.push(started.elapsed());
        store.close().await.unwrap();
    }
    times.sort();
    println!("open: {:.0?} (median of 5)", times[2]);
}
