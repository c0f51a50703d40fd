//! What answers cost: `cargo bench --bench web`. A month of one meter by block, and a raw day of one meter at 1 s, over
//! a socket from a real store.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be set up fails")]

mod plant;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meterseal::clock::Clock;
use meterseal::model::{
    Block, BlockFlags, Borders, Category, ClockState, Digest, Energy, Layout, Method, Number, Power, Ratio, Reading,
    Span, Stamp, Timestamp,
};
use meterseal::store::{Sealing, Store};
use meterseal::web::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use plant::{METERS, NOON, Web};

const HALF: i64 = 1_800_000;
const QUANTITIES: [&str; 20] = [
    "energy_import_kwh",
    "energy_export_kwh",
    "power_kw",
    "power_l1_kw",
    "power_l2_kw",
    "power_l3_kw",
    "voltage_l1_v",
    "voltage_l2_v",
    "voltage_l3_v",
    "current_l1_a",
    "current_l2_a",
    "current_l3_a",
    "reactive_power_kvar",
    "apparent_power_kva",
    "power_factor",
    "frequency_hz",
    "power_factor_l1_ratio",
    "power_factor_l2_ratio",
    "power_factor_l3_ratio",
    "temperature_c",
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let (store, clock, token) = plant::store(folder.path(), Duration::from_millis(1));
    fill_blocks(&store).await;
    let end = fill_readings(&store, &clock).await;
    let web = Web::start(plant::views(&store, &clock).await, Tls::Off, &folder.path().join("tls")).await;
    let address = web.address;

    let month = format!("/api/meters/meter-3/readings?resolution=block&from={}&to={NOON}", NOON - 1_440 * HALF);
    let mut times = Vec::new();
    for _ in 0..20 {
        times.push(get(address, &token, &month).await);
    }
    times.sort_by_key(|got| got.whole);
    let got = &times[10];
    println!("month by block: {:.1?}, {} bytes (median of 20; at most 50 ms)", got.whole, got.bytes);

    for format in ["json", "csv"] {
        let day = format!("/api/meters/meter-3/readings?from={NOON}&to={end}&format={format}");
        let before = resident();
        let mut days = Vec::new();
        for _ in 0..5 {
            days.push(get(address, &token, &day).await);
        }
        days.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        let got = &days[2];
        println!(
            "raw meter-day as {format}: first byte after {:.1?} (at most 100 ms), {:.0} MB at {:.0} MB/s (at least 40), \
             median of 5; resident {:.1} MB before, {:.1} MB after",
            got.first,
            got.megabytes(),
            got.rate(),
            before,
            resident()
        );
    }
    println!("resident at most {} kB", plant::kilobytes("VmHWM:"));
    web.end().await;
    store.close().await.unwrap();
}

fn layouts() -> Vec<Arc<Layout>> {
    // As a meter of the Eastron family has it: floats, power in W.
    let watts = Ratio::new(1, 1_000).unwrap();
    plant::layouts(&QUANTITIES, |name| if name.ends_with("kw") { watts } else { Ratio::ONE })
}

async fn fill_blocks(store: &Store) {
    let block = |meter: usize, start: i64| Block {
        meter: plant::name(meter),
        span: Span::new(Timestamp::from_millis(start), Timestamp::from_millis(start + HALF)).unwrap(),
        nominal_ms: 1_800_000,
        revision: 0,
        category: Category::Cons,
        import: Some(Energy::from_uwh(50_123_456_789)),
        export: Some(Energy::ZERO),
        max_power: Some(Power::from_mw(120_345_678)),
        min_power: Some(Power::from_mw(80_123_456)),
        covered_ms: HALF,
        coverage: 10_000,
        method: Method::Counter,
        is_peak_hour: false,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(&start.to_le_bytes()),
        through_seq: 0,
        borders: Borders::default(),
        zone: plant::TIMEZONE.to_owned(),
        interval_ms: 1_000,
        template: None,
        sealed: Timestamp::from_millis(start + HALF),
    };
    for number in 0..1_440 {
        let blocks = (0..METERS).map(|meter| block(meter, NOON - 1_440 * HALF + number * HALF)).collect();
        store.ledger().seal(Sealing { blocks, ..Sealing::default() }).await.unwrap();
    }
}

/// A day at 1 s, packed each quarter of an hour but for the last; gives its end.
async fn fill_readings(store: &Store, clock: &Clock) -> i64 {
    let layouts = layouts();
    let (mut time, mut dice) = (NOON, 1_u64);
    for quarter in 0..96 {
        for _ in 0..30 {
            let mut group = Vec::new();
            for _ in 0..30 {
                time += 1_000;
                group.extend(layouts.iter().map(|layout| reading(layout, time, &mut dice)));
            }
            store.ingest().store(group).await.unwrap();
            clock.advance_to(Timestamp::from_millis(time));
        }
        if quarter < 95 {
            store.tidy().await;
        }
    }
    time + 1
}

fn reading(layout: &Arc<Layout>, time: i64, dice: &mut u64) -> Reading {
    let mut values = Vec::with_capacity(QUANTITIES.len());
    for place in 0..20_u8 {
        *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = f32::from(u16::try_from(*dice >> 48).unwrap()) / 65_536.0;
        values.push((place, Number::from_f32(1_000.0 * f32::from(place) + 230.0 * noise).unwrap()));
    }
    Reading {
        layout: layout.clone(),
        taken: Stamp {
            time: Timestamp::from_millis(time),
            since_boot_ms: (time - NOON + 1_000_000).unsigned_abs(),
            clock: ClockState::Synchronised,
        },
        values: values.into(),
    }
}

struct Got {
    first: Duration,
    whole: Duration,
    bytes: usize,
}

impl Got {
    #[allow(clippy::cast_precision_loss)]
    fn megabytes(&self) -> f64 {
        self.bytes as f64 / 1e6
    }

    fn rate(&self) -> f64 {
        self.megabytes() / self.whole.as_secs_f64()
    }
}

/// The bytes as they come over the socket; a client that parses them would be what is measured.
async fn get(address: SocketAddr, token: &str, path: &str) -> Got {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ask =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    let started = Instant::now();
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 1 << 18];
    let (mut first, mut bytes) = (None, 0);
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        if first.is_none() {
            assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..read]));
            first = Some(started.elapsed());
        }
        bytes += read;
    }
    Got { first: first.unwrap(), whole: started.elapsed(), bytes }
}

#[allow(clippy::cast_precision_loss)]
fn resident() -> f64 {
    plant::resident() as f64 / 1e6
}
