//! What it costs to verify a bundle: `cargo bench --bench verify`. Two million rows, in turns with
//! `zstd -dc | openssl dgst -sha256` over the same parts, which reads them and believes all.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

mod bundle;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::{ID, MEASUREMENT, NOON, SECOND, heading, tags};
use meterseal::evidence::dataset::manifest::Manifest;
use meterseal::evidence::dataset::{Progress, Slice, Writer};
use meterseal::evidence::verify::{Trusted, Verdict, verify};
use meterseal::model::{FieldValue, Row};

/// Power and energy of each meter, once a second.
const SECONDS: i64 = 50_000;

fn main() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let bundle = folder.path().join(ID);
    let manifest = write(folder.path(), &bundle);
    let mut ratios = Vec::new();
    for round in 0..6 {
        let (plain, ours) = (pipe(&bundle), check(&bundle));
        let ratio = plain.as_secs_f64() / ours.as_secs_f64();
        println!(
            "verify: {} rows of {} B: {}; zstd -dc and openssl {}; {:.0} %{}",
            manifest.rows,
            manifest.bytes / manifest.rows,
            rate(manifest.bytes, ours),
            rate(manifest.bytes, plain),
            100.0 * ratio,
            if round == 0 { " (to warm up)" } else { "" },
        );
        if round > 0 {
            ratios.push(ratio);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "verify: {:.0} % of the plain pipe (middle of {}; at least 20 % is asked)",
        100.0 * ratios[2],
        ratios.len()
    );
}

#[allow(clippy::cast_precision_loss)]
fn rate(bytes: u64, took: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64())
}

fn check(bundle: &Path) -> Duration {
    let started = Instant::now();
    let report = verify(bundle, &Trusted::default(), &mut |_| ());
    assert_eq!(report.verdict(), Verdict::Incomplete, "{:?}", report.refused);
    started.elapsed()
}

/// What a person would type who only wants to know that the parts can be read.
fn pipe(bundle: &Path) -> Duration {
    let started = Instant::now();
    let line = "zstd -dc \"$1\"/data-*.jsonl.zst | openssl dgst -sha256 > /dev/null";
    assert!(Command::new("bash").args(["-c", line, "bash"]).arg(bundle).status().unwrap().success());
    started.elapsed()
}

fn write(folder: &Path, bundle: &Path) -> Manifest {
    let texts = [MEASUREMENT, "power", "import_wh"].map(Arc::<str>::from);
    let tags = tags();
    let mut writer = Writer::open(&folder.join("working"), Progress::default()).unwrap();
    for from in (0..SECONDS).step_by(5_000) {
        let mut slice = Slice::new(NOON + from * SECOND, NOON + (from + 5_000) * SECOND);
        for at in from..from + 5_000 {
            for (meter, tags) in (0..).zip(&tags) {
                #[allow(clippy::cast_precision_loss)]
                let power = 4.0 + (at * 7 % 1_000 + meter) as f64 / 1_000.0;
                for (field, value) in [
                    (&texts[1], FieldValue::F64(power)),
                    (&texts[2], FieldValue::U64((1_000_000 + at * 3 + meter).unsigned_abs())),
                ] {
                    let (measurement, tags, field) = (texts[0].clone(), tags.clone(), field.clone());
                    let row = Row { time_ns: NOON + at * SECOND, measurement, tags, field, value };
                    slice.push(row).unwrap();
                }
            }
        }
        writer.append(&slice.sort().unwrap(), 0).unwrap();
    }
    writer.finish(heading(NOON + SECONDS * SECOND), bundle).unwrap()
}
