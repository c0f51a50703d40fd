//! What it costs to freeze rows: `cargo bench --bench export`. Ten million rows to a hashed and compressed bundle, in
//! turns with `tee >(openssl dgst -sha256) | zstd -3` over the same canonical bytes. Needs 3 GB of disk.
//!
//! The bundle is written by a child process, so that its memory can be told from the kernel's high-water mark. Time is
//! told by the clock, which says little on a busy machine, and as processor time of all processes, which says more.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

mod bundle;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::{ID, MEASUREMENT, METERS, NOON, SECOND, heading, tags};
use meterseal::evidence::dataset::manifest::Manifest;
use meterseal::evidence::dataset::{Progress, Slice, Writer, part};
use meterseal::model::{FieldValue, Row, Tags};

const ROWS: i64 = 10_000_000;
/// Power and energy of each meter.
const ROWS_PER_SECOND: i64 = 2 * METERS as i64;
/// Nearly what a slice may hold.
const SECONDS_PER_SLICE: i64 = 9_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--write") {
        return write(Path::new(&args[at + 1]));
    }
    let folder = tempfile::tempdir_in(".").unwrap();
    let (bundle, raw) = (folder.path().join(ID), folder.path().join("raw.jsonl"));
    let mut ratios = Vec::new();
    for round in 0..4 {
        if bundle.exists() {
            fs::remove_dir_all(&bundle).unwrap();
        }
        let started = Started::now();
        let child = Command::new(std::env::current_exe().unwrap()).arg("--write").arg(folder.path()).output().unwrap();
        let ours = started.took();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        let manifest = Manifest::from_bytes(&fs::read(bundle.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest.rows, ROWS.unsigned_abs());
        if round == 0 {
            // The canonical bytes, for the others; and all is read once before anything is compared.
            unpack(&bundle, &manifest, &raw);
        }
        let bytes = manifest.bytes;
        let plain = pipe(&raw, folder.path());
        let by_clock = plain.clock.as_secs_f64() / ours.clock.as_secs_f64();
        let by_processor = plain.processor.as_secs_f64() / ours.processor.as_secs_f64();
        let high_water = String::from_utf8(child.stdout).unwrap();
        println!(
            "export: {ROWS} rows of {} B: {}, made, sorted, hashed and compressed, {}",
            bytes / ROWS.unsigned_abs(),
            ours.told(bytes),
            high_water.trim(),
        );
        println!(
            "        tee, openssl and zstd -3: {}; {:.0} % by the clock, {:.0} % by processor time{}",
            plain.told(bytes),
            100.0 * by_clock,
            100.0 * by_processor,
            if round == 0 { " (to warm up)" } else { "" },
        );
        if round > 0 {
            ratios.push((by_clock, by_processor));
        }
    }
    let middle = |mut ratios: Vec<f64>| {
        ratios.sort_by(f64::total_cmp);
        100.0 * ratios[ratios.len() / 2]
    };
    let (by_clock, by_processor) = ratios.into_iter().unzip();
    println!(
        "export: {:.0} % of the plain pipe by the clock, {:.0} % by processor time (at least 40 % is asked)",
        middle(by_clock),
        middle(by_processor)
    );
}

/// A beginning by the clock and by the processor time of all children that have ended.
struct Started(Instant, Duration);

struct Took {
    clock: Duration,
    processor: Duration,
}

impl Started {
    fn now() -> Self {
        Self(Instant::now(), processor_time())
    }

    fn took(self) -> Took {
        Took { clock: self.0.elapsed(), processor: processor_time() - self.1 }
    }
}

impl Took {
    #[allow(clippy::cast_precision_loss)]
    fn told(&self, bytes: u64) -> String {
        let rate = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
        format!("{:.0} MB/s in {:.1} s of processor time", rate(self.clock), self.processor.as_secs_f64())
    }
}

/// proc(5): `cutime` and `cstime`, in hundredths of a second.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let hundredths: u64 = after_name.split(' ').skip(13).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * hundredths)
}

/// What a person would type who has the canonical bytes already.
fn pipe(raw: &Path, folder: &Path) -> Took {
    let started = Started::now();
    // Waited for, openssl is counted too.
    let line = "{ tee >(openssl dgst -sha256 > \"$2/digest\") < \"$1\"; wait $!; } | zstd -3 -q -f -o \"$2/plain.zst\"";
    let status = Command::new("bash").args(["-c", line, "bash"]).arg(raw).arg(folder).stdin(Stdio::null()).status();
    assert!(status.unwrap().success());
    started.took()
}

fn unpack(bundle: &Path, manifest: &Manifest, raw: &Path) {
    let mut raw = File::create(raw).unwrap();
    for facts in &manifest.parts {
        let mut rows = part::open(File::open(bundle.join(&facts.name)).unwrap()).unwrap();
        io::copy(&mut rows, &mut raw).unwrap();
    }
    raw.sync_all().unwrap();
}

/// The child: makes rows as a database gives them, series after series in each slice, and writes them.
fn write(folder: &Path) {
    let mut writer = Writer::open(&folder.join("working"), Progress::default()).unwrap();
    let mut plant = Plant::new();
    let end = NOON + ROWS / ROWS_PER_SECOND * SECOND;
    let mut from = NOON;
    while from < end {
        let to = (from + SECONDS_PER_SLICE * SECOND).min(end);
        writer.append(&plant.slice(from, to).sort().unwrap(), 0).unwrap();
        from = to;
    }
    writer.finish(heading(end), &folder.join(ID)).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = mark.trim().trim_end_matches(" kB").parse().unwrap();
    println!("{} MiB at most (under 64 is asked)", kib / 1024);
}

/// Meters whose power wanders and whose energy grows.
struct Plant {
    measurement: Arc<str>,
    power: Arc<str>,
    energy: Arc<str>,
    tags: Vec<Tags>,
    wh: Vec<u64>,
    dice: u64,
}

impl Plant {
    fn new() -> Self {
        Self {
            measurement: MEASUREMENT.into(),
            power: "power".into(),
            energy: "import_wh".into(),
            tags: tags(),
            wh: vec![1_000_000; METERS],
            dice: 1,
        }
    }

    fn slice(&mut self, from: i64, to: i64) -> Slice {
        let mut slice = Slice::new(from, to);
        for meter in 0..METERS {
            for second in 0..(to - from) / SECOND {
                self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Milliwatts would be noise alone: a meter has a tenth of a watt.
                let power = 40_000.0 + f64::from(u16::try_from(self.dice >> 50).unwrap()) / 10.0;
                self.wh[meter] += 10 + (self.dice >> 60);
                for (field, value) in
                    [(&self.power, FieldValue::F64(power)), (&self.energy, FieldValue::U64(self.wh[meter]))]
                {
                    let row = Row {
                        time_ns: from + second * SECOND,
                        measurement: self.measurement.clone(),
                        tags: self.tags[meter].clone(),
                        field: field.clone(),
                        value,
                    };
                    slice.push(row).unwrap();
                }
            }
        }
        slice
    }
}
