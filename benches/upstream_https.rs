//! How fast readings get to a receiver over HTTPS, and in how many bytes: `cargo bench --bench upstream_https`. Beside it, in
//! the same run, the same lines packed by `zstd -3` and sent by curl to such a receiver over one connection; that starts from files with
//! their `Idempotency-Key` at hand, and neither writes nor hashes a line.
//!
//! One thread sends. Its processor time tells what a core can do; the wall time has the receiver's in it.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

#[path = "../tests/peers/certificates.rs"]
mod certificates;
#[path = "../tests/peers/receiver.rs"]
mod receiver;

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certificates::Authority;
use ed25519_dalek::SigningKey;
use meterseal::model::note::VerifierKey;
use meterseal::model::{
    Category, ClockState, Digest, Layout, Number, Position, Ratio, Slot, Stream, TakenReading, Timestamp,
};
use meterseal::store::Identity;
use meterseal::upstream::https::{Config, HttpsReceiver, address};
use meterseal::upstream::receiver::{Answer, Batch, Receiver as _};
use meterseal::upstream::record::{Body, LineWriter, Record};
use meterseal::upstream::tls::Tls;
use receiver::{Options, Receiver, ServerTls};
use rustix::time::{ClockId, clock_gettime};

const METERS: usize = 100;
const READINGS: usize = 400_000;
/// Of IP and TCP for each full segment, and half an acknowledgement.
const HEADERS: f64 = (52.0 + 26.0) / 1448.0;
const T: i64 = 1_795_219_200_000;
const GATEWAY: &str = "00112233445566778899aabbccddeeff";
const EPOCH: &str = "0123456789abcdef";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("{READINGS} readings of {METERS} meters, each of six values, over TLS to a receiver on this machine");
    for (values, digits) in [("of fixed resolution", Digits::Fixed), ("of 32-bit floats", Digits::Floats)] {
        let all = readings(digits);
        for most in [5_000, 100] {
            // A second's worth at a time need not be so many.
            let records = if most == 100 { &all[..READINGS / 8] } else { &all[..] };
            let ours = runtime.block_on(ours(records, most));
            println!("{values}, {most} a batch: {ours}");
            if most > 100 {
                println!("{values}, {most} a batch, zstd -3 and curl: {}", theirs(records, most));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Digits {
    /// 0.001 A, 0.01 kWh, 0.01 Hz, 0.001, 0.001 kW, 0.1 V.
    Fixed,
    Floats,
}

struct Figures {
    readings: usize,
    took: Duration,
    /// Of whoever sends.
    processor: Duration,
    bytes: u64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let (readings, bytes) = (self.readings as f64, self.bytes as f64 / self.readings as f64);
        let (wall, processor) = (self.took.as_secs_f64(), self.processor.as_secs_f64());
        write!(
            f,
            "{:.0} readings/s; {:.0} per second of processor, of which it had {:.0} %; {bytes:.1} bytes each, {:.1} with the headers of TCP/IP",
            readings / wall,
            readings / processor,
            100.0 * processor / wall,
            bytes * (1.0 + HEADERS)
        )
    }
}

/// A receiver, and what it is known by.
fn started(folder: &std::path::Path) -> (Receiver, Authority) {
    let authority = Authority::new();
    let server = authority.server("localhost");
    let tls = ServerTls { chain: server.chain, key: server.key, clients: None };
    let receiver = Receiver::start_with(folder, Options { token: None, tls: Some(tls) });
    let public = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
    receiver.know(&VerifierKey::new(format!("plant-7/{GATEWAY}/{EPOCH}"), public));
    (receiver, authority)
}

/// From readings as the store gives them to the last acknowledgement.
async fn ours(records: &[Record], most: usize) -> Figures {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, authority) = started(folder.path());
    let config = Config {
        url: address(&receiver.url).unwrap(),
        token: None,
        tls: Tls { ca: Some(authority.pem()), identity: None },
        timeout: Duration::from_secs(30),
    };
    let mut sender = HttpsReceiver::new(&config).unwrap();
    let batches: Vec<Batch> = records.chunks(most).map(batch).collect();
    let (before, began) = (processor_time(), Instant::now());
    sender.open(&batches[0].identity).await.unwrap();
    for batch in &batches {
        assert_eq!(sender.deliver(batch).await, Answer { taken: batch.records.len(), ..Answer::default() });
    }
    let (took, processor) = (began.elapsed(), processor_time().saturating_sub(before));
    Figures { readings: records.len(), took, processor, bytes: receiver.bytes() }
}

/// Of this thread, which is the only one that sends.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn theirs(records: &[Record], most: usize) -> Figures {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (receiver, authority) = started(&path.join("receiver"));
    fs::write(path.join("ca.pem"), authority.pem()).unwrap();
    let (mut writer, mut names, mut asked) = (LineWriter::default(), Vec::new(), String::new());
    for (at, records) in records.chunks(most).enumerate() {
        let mut lines = Vec::new();
        for record in records {
            writer.push(&mut lines, record);
            lines.push(b'\n');
        }
        let (name, hash) = (format!("{at}.ndjson"), Digest::of(&lines));
        let range = format!("{}-{}", records[0].seq, records[records.len() - 1].seq);
        fs::write(path.join(&name), lines).unwrap();
        let next = if at > 0 { "next\n" } else { "" };
        write!(
            asked,
            "{next}url = \"{}/{GATEWAY}/{EPOCH}/readings\"\ncacert = \"ca.pem\"\nfail\nsilent\nshow-error\noutput = \"answers\"\n\
             header = \"Content-Type: application/x-ndjson\"\nheader = \"Content-Encoding: zstd\"\nheader = \"Expect:\"\n\
             header = \"Idempotency-Key: {GATEWAY}/{EPOCH}/readings/{range}/{hash}\"\ndata-binary = \"@{name}.zst\"\n",
            receiver.url
        )
        .unwrap();
        names.push(name);
    }
    fs::write(path.join("asked"), asked).unwrap();
    let (before, began) = (childrens_time(), Instant::now());
    let run = |command: &mut Command| assert!(command.current_dir(path).status().unwrap().success(), "{command:?}");
    run(Command::new("zstd").args(["-3", "-q"]).args(&names));
    run(Command::new("curl").args(["-K", "asked"]));
    let (took, processor) = (began.elapsed(), childrens_time().saturating_sub(before));
    assert_eq!(receiver.lines("readings").len(), records.len());
    Figures { readings: records.len(), took, processor, bytes: receiver.bytes() }
}

/// Processor time of the programs that were run and have ended: proc(5), in hundredths of a second.
fn childrens_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(13) + ticks(14)))
}

fn batch(records: &[Record]) -> Batch {
    Batch {
        identity: Identity { site: "plant-7".parse().unwrap(), gateway: GATEWAY.to_owned(), epoch: EPOCH.to_owned() },
        epoch: EPOCH.to_owned(),
        stream: Stream::Readings,
        records: records.to_vec(),
        after: Position::default(),
    }
}

/// Each meter once a second, at its own time in it: values that wander as those of a plant do, and a register that counts.
fn readings(digits: Digits) -> Vec<Record> {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut meters: Vec<Meter> = (0..METERS).map(|at| Meter::new(at, digits, &mut chance)).collect();
    let mut hertz = 50.0;
    let mut records = Vec::with_capacity(READINGS);
    for second in 0.. {
        hertz = 50.0 + (hertz - 50.0) * 0.98 + 0.004 * chance.normal();
        for meter in &mut meters {
            if records.len() == READINGS {
                return records;
            }
            let seq = records.len() as u64 + 1;
            records.push(meter.read(seq, second, hertz, digits, &mut chance));
        }
    }
    records
}

struct Meter {
    layout: Arc<Layout>,
    boot: Arc<str>,
    phase: i64,
    volts: f64,
    kw: f64,
    factor: f64,
    kwh: f64,
}

impl Meter {
    fn new(at: usize, digits: Digits, chance: &mut Chance) -> Self {
        let names = ["current_a", "energy_import_kwh", "frequency_hz", "power_factor", "power_kw", "voltage_v"];
        let slots = names.iter().zip(["0.001", "0.01", "0.01", "0.001", "0.001", "0.1"]).map(|(name, scale)| Slot {
            quantity: name.parse().unwrap(),
            scale: Ratio::parse(if digits == Digits::Fixed { scale } else { "1" }).unwrap(),
            rolls_over_at: None,
            interval: None,
        });
        let layout = Layout {
            meter: format!("meter-{at:03}").parse().unwrap(),
            category: Category::Cons,
            interval_ms: Some(1_000),
            template: None,
            simulated: false,
            slots: slots.collect(),
        };
        Self {
            layout: Arc::new(layout),
            boot: "6f1c7d0e-3f2b-4a55-9d0e-2b7f4c8a9e10".into(),
            phase: i64::try_from(at).unwrap() * 10,
            volts: 230.0 + 2.0 * chance.normal(),
            kw: 2.0 + 78.0 * chance.unit(),
            factor: 0.8 + 0.19 * chance.unit(),
            kwh: 1e3 + 2e5 * chance.unit(),
        }
    }

    fn read(&mut self, seq: u64, second: i64, hertz: f64, digits: Digits, chance: &mut Chance) -> Record {
        self.volts += 0.02 * (230.0 - self.volts) + 0.15 * chance.normal();
        self.kw = (self.kw * (1.0 + 0.01 * chance.normal())).max(0.1);
        self.factor = (self.factor + 0.002 * chance.normal()).clamp(0.5, 0.999);
        self.kwh += self.kw / 3600.0;
        let amperes = self.kw * 1000.0 / (3.0 * self.volts * self.factor);
        let values = [amperes, self.kwh, hertz, self.factor, self.kw, self.volts];
        #[allow(clippy::cast_possible_truncation, reason = "a meter rounds so")]
        let number = |value: f64, scale: f64| match digits {
            Digits::Fixed => Number::I64((value / scale).round() as i64),
            Digits::Floats => Number::F32(value as f32),
        };
        let scales = [0.001, 0.01, 0.01, 0.001, 0.001, 0.1];
        let numbers = (0..6_u8).map(|at| (at, number(values[usize::from(at)], scales[usize::from(at)])));
        #[allow(clippy::cast_possible_truncation, reason = "some milliseconds")]
        let late = (12.0 * chance.unit()) as i64;
        let time = Timestamp::from_millis(T + second * 1_000 + self.phase + late);
        let reading = TakenReading {
            seq,
            time,
            since_boot_ms: 5,
            boot: self.boot.clone(),
            clock: ClockState::Synchronised,
            conflict: false,
            layout: self.layout.clone(),
            values: numbers.collect(),
        };
        Record { seq, time, body: Body::Reading(reading) }
    }
}

/// The same each time (xorshift64*).
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        #[allow(clippy::cast_precision_loss, reason = "53 bits")]
        let whole = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64;
        whole / 9_007_199_254_740_992.0
    }

    /// Nearly: a sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}
