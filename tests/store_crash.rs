//! Every acknowledged reading and block is there, wherever the process ended.
//!
//! Without arguments: kills a writer some times under load and looks after each kill. `kill TIMES [SEED]` does it more
//! often. `write DIR TURN STEPS` and `verify DIR ACKED` are the writer and the verifier alone, for the power cuts of
//! `tests/soak`: the writer says on its standard output what is durable, as soon as it is.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::entry::{self, Entry, Reason};
use meterseal::model::note::{Checkpoint, SignedCheckpoint};
use meterseal::model::{
    Block, BlockFlags, Borders, Category, ClockState, Digest, Energy, Layout, MeterId, Method, Number, Ratio, Reading,
    Slot, Span, Stamp, Timestamp, merkle,
};
use meterseal::store::{self, Append, Config, Opening, Reader, Sealing, Store, StoreError, Succession};

const NOON: i64 = 1_763_726_400_000; // 2025-11-21T12:00:00Z
const HOUR: i64 = 3_600_000;
const METERS: i64 = 5;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["write", dir, turn, steps] => run(write(Path::new(dir), turn.parse().unwrap(), steps.parse().unwrap())),
        ["verify", dir, acked] => run(verify(Path::new(dir), &std::fs::read_to_string(acked).unwrap())),
        ["kill", times] => kill(times.parse().unwrap(), 1),
        ["kill", times, seed] => kill(times.parse().unwrap(), seed.parse().unwrap()),
        // As the test harness calls it, with flags and filters.
        filters if filters.iter().any(|word| !word.starts_with("--") && !"store_crash".contains(word)) => Ok(()),
        _ => kill(12, 1).and_then(|()| frozen()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(lost) => {
            println!("{lost}");
            ExitCode::FAILURE
        }
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

/// A seeded row of numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

fn config(dir: &Path) -> Config {
    Config {
        path: dir.to_owned(),
        commit_every: Duration::from_millis(5),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 2_000_000_000,
        reserve: 0,
    }
}

fn layout(meter: i64) -> Arc<Layout> {
    let slot = |quantity: &str| Slot {
        quantity: quantity.parse().unwrap(),
        scale: Ratio::ONE,
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: format!("m{meter}").parse().unwrap(),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: vec![slot("energy_import_kwh"), slot("power_kw")],
    })
}

/// What a reading of this meter and time says: the verifier knows it too.
fn value(meter: i64, time: i64) -> i64 {
    time.wrapping_mul(31).wrapping_add(meter)
}

async fn write(dir: &Path, turn: i64, steps: i64) -> Result<(), String> {
    let clock = Clock::manual(Timestamp::from_millis(NOON + turn * HOUR));
    match store::init(&config(dir), &"plant-7".parse().unwrap(), &clock) {
        Ok(_) => say(["init".to_owned()]),
        Err(StoreError::Exists { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    let store = Store::open(config(dir), clock.clone(), None).map_err(|error| error.to_string())?;
    let (ingest, ledger) = (store.ingest(), store.ledger());
    let layouts: Vec<Arc<Layout>> = (0..METERS).map(layout).collect();
    let mut dice = Dice(turn.unsigned_abs());
    for step in 0..steps {
        let mut calls = tokio::task::JoinSet::new();
        for call in 0..3 {
            // Each call has its own milliseconds, so that no two readings are one.
            let late = if dice.roll(10) == 0 { i64::try_from(dice.roll(48)).unwrap() * HOUR } else { 0 };
            let times: Vec<(i64, i64)> = (0..METERS)
                .map(|meter| (meter, clock.now().as_millis() - late + turn * 7 + call * 20_000_000_000))
                .collect();
            let reading = |(meter, time): &(i64, i64)| Reading {
                layout: layouts[usize::try_from(*meter).unwrap()].clone(),
                taken: Stamp {
                    time: Timestamp::from_millis(*time),
                    since_boot_ms: clock.since_boot_ms(),
                    clock: ClockState::Synchronised,
                },
                values: Box::new([(0, Number::I64(value(*meter, *time)))]),
            };
            let readings = times.iter().map(reading).collect();
            let ingest = ingest.clone();
            calls.spawn(async move {
                ingest.store(readings).await.map_err(|error| error.to_string())?;
                say(times.iter().map(|(meter, time)| format!("{meter} {time}")));
                Ok::<(), String>(())
            });
        }
        while let Some(call) = calls.join_next().await {
            call.map_err(|error| error.to_string())??;
        }
        clock.advance(Duration::from_secs(1));
        if step % 20 == 0 {
            let start = (turn * 100_000 + step) * HOUR;
            let sealing = Sealing { blocks: vec![block(start)], ..Sealing::default() };
            ledger.seal(sealing).await.map_err(|error| error.to_string())?;
            say([format!("block {start}")]);
        }
        if step % 5 == 3 {
            let detail = serde_json::json!({"step": step});
            let entry = Append::Audit { action: "test".to_owned(), by: "nobody".to_owned(), detail };
            ledger.append(vec![entry]).await.map_err(|error| error.to_string())?;
            let note = ledger.checkpoint().await.map_err(|error| error.to_string())?;
            say([format!("note {}", serde_json::json!(note.note()))]);
        }
        if step % 30 == 29 {
            let reasons = [Reason::KeyRotation, Reason::Site, Reason::Rollback, Reason::Clone];
            let reason = reasons[usize::try_from(dice.roll(4)).unwrap()];
            let wish = Succession { reason, site: None, last_outside: None, since_open: false };
            ledger.succeed(wish).await.map_err(|error| error.to_string())?;
        }
        if step % 25 == 24 {
            store.tidy().await;
        }
        if step % 60 == 59 {
            clock.advance(Duration::from_secs(86_400));
        }
    }
    store.close().await.map_err(|error| error.to_string())
}

/// One write for each acknowledgement: a line without its end does not count.
fn say(lines: impl IntoIterator<Item = String>) {
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    std::io::stdout().lock().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()).unwrap();
}

fn block(start: i64) -> Block {
    Block {
        meter: "m0".parse().unwrap(),
        span: Span::new(Timestamp::from_millis(start), Timestamp::from_millis(start + HOUR / 2)).unwrap(),
        nominal_ms: 1_800_000,
        revision: 0,
        category: Category::Cons,
        import: Some(Energy::from_uwh(start)),
        export: None,
        max_power: None,
        min_power: None,
        covered_ms: 0,
        coverage: 0,
        method: Method::Counter,
        is_peak_hour: false,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(&start.to_le_bytes()),
        through_seq: 0,
        borders: Borders::default(),
        zone: "UTC".to_owned(),
        interval_ms: 1_000,
        template: None,
        sealed: Timestamp::from_millis(start),
    }
}

/// The store opens, holds all that was acknowledged, finds it by meter and by seq alike, and takes more.
async fn verify(dir: &Path, acked: &str) -> Result<(), String> {
    let whole = acked.rfind('\n').map_or("", |end| &acked[..end]);
    let clock = Clock::manual(Timestamp::from_millis(NOON + 10_000 * HOUR));
    let store = match Store::open(config(dir), clock, None) {
        Ok(store) => store,
        Err(StoreError::Missing { .. }) if whole.is_empty() => return Ok(()),
        Err(error) => return Err(format!("does not open: {error}")),
    };
    let reader = store.reader();
    let mut by_seq: BTreeMap<u64, (MeterId, i64)> = BTreeMap::new();
    loop {
        let after = by_seq.last_key_value().map_or(0, |(seq, _)| *seq);
        let more = reader.arrivals(after, 5_000).await.map_err(|error| error.to_string())?;
        if more.is_empty() {
            break;
        }
        for reading in more {
            let (meter, time) = (reading.layout.meter.clone(), reading.time.as_millis());
            let number: i64 = meter.as_str()[1..].parse().map_err(|_| "a meter nobody wrote")?;
            if reading.at(0) != Some(Number::I64(value(number, time))) {
                return Err(format!("seq {} of {meter} at {time} says something else", reading.seq));
            }
            if by_seq.insert(reading.seq, (meter, time)).is_some() {
                return Err(format!("seq {} is there twice", reading.seq));
            }
        }
    }
    let stored: BTreeSet<(MeterId, i64)> = by_seq.values().cloned().collect();
    if stored.len() != by_seq.len() {
        return Err("a reading is there twice".to_owned());
    }
    let mut by_meter = BTreeSet::new();
    for meter in 0..METERS {
        let id: MeterId = format!("m{meter}").parse().unwrap();
        let mut stream = reader.readings(id.clone(), Timestamp::MIN, Timestamp::MAX);
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| error.to_string())?;
            by_meter.extend(batch.into_iter().map(|reading| (id.clone(), reading.time.as_millis())));
        }
    }
    if by_meter != stored {
        return Err("by meter other readings are found than by seq".to_owned());
    }
    let (notes, whole): (Vec<&str>, Vec<&str>) = whole.lines().partition(|line| line.starts_with("note "));
    store.ledger().checkpoint().await.map_err(|error| error.to_string())?;
    verify_log(&reader, &notes).await?;
    for line in whole.into_iter().filter(|line| *line != "init") {
        let (kind, number) = line.split_once(' ').ok_or("a line that nobody says")?;
        let number: i64 = number.parse().map_err(|_| "a line that nobody says")?;
        let there = if kind == "block" {
            let found = reader.revisions(&"m0".parse().unwrap(), Timestamp::from_millis(number)).await;
            let logged = reader.entries_of_block(&"m0".parse().unwrap(), Timestamp::from_millis(number)).await;
            found.map_err(|error| error.to_string())? == [block(number)]
                && logged.map_err(|error| error.to_string())?.len() == 1
        } else {
            stored.contains(&(format!("m{kind}").parse().unwrap(), number))
        };
        if !there {
            return Err(format!("lost: {line}"));
        }
    }
    let time = NOON + 20_000_000 * HOUR;
    let taken = Stamp { time: Timestamp::from_millis(time), since_boot_ms: 1, clock: ClockState::Synchronised };
    let reading = Reading { layout: layout(0), taken, values: Box::new([(0, Number::I64(1))]) };
    let receipt = store.ingest().store(vec![reading]).await.map_err(|error| error.to_string())?;
    if by_seq.last_key_value().is_some_and(|(last, _)| receipt.first_seq <= *last) {
        return Err(format!("seq {} is used again", receipt.first_seq));
    }
    Ok(())
}

/// Every checkpoint that was ever shown is of the log that goes on, and each entry opens.
async fn verify_log(reader: &Reader, notes: &[&str]) -> Result<(), String> {
    let mut shown: BTreeMap<(String, u64), Digest> = BTreeMap::new();
    for line in notes {
        let note: String = serde_json::from_str(&line["note ".len()..]).map_err(|error| error.to_string())?;
        let Checkpoint { origin, size, root } = note.parse::<SignedCheckpoint>().map_err(|e| e.to_string())?.checkpoint;
        if shown.insert((origin.clone(), size), root).is_some_and(|other| other != root) {
            return Err(format!("two checkpoints of {origin} at {size}"));
        }
    }
    let epochs = reader.epochs().await.map_err(|error| error.to_string())?;
    if let Some(((origin, _), _)) =
        shown.iter().find(|((origin, _), _)| !epochs.iter().any(|epoch| epoch.identity.origin() == *origin))
    {
        return Err(format!("lost: the epoch of {origin}"));
    }
    for epoch in epochs {
        let (origin, id) = (epoch.identity.origin(), epoch.identity.epoch.as_str());
        let Some(newest) = reader.checkpoint(id).await.map_err(|error| error.to_string())? else { continue };
        let new = &newest.checkpoint;
        for ((_, size), root) in shown.iter().filter(|((shown, _), _)| *shown == origin) {
            let proof = reader.consistency(id, *size, new.size).await.map_err(|error| error.to_string())?;
            let proof = proof.ok_or_else(|| format!("{origin} is behind {size}, which was shown"))?;
            merkle::verify_consistency((*size, root), (new.size, &new.root), &proof)
                .map_err(|error| format!("{origin} at {size}: {error}"))?;
        }
        let opened =
            reader.openings(id, (0..new.size).collect()).await.map_err(|error| format!("{origin}: {error}"))?;
        let entries = reader.log_entries(id, 0, new.size).await.map_err(|error| error.to_string())?;
        let opens =
            |(opening, entry): (&Opening, &Entry)| entry::commit(&opening.salt, &opening.record) == entry.commit;
        if opened.len() as u64 != new.size || !opened.iter().zip(&entries).all(opens) {
            return Err(format!("{origin}: an entry does not open"));
        }
    }
    Ok(())
}

fn kill(times: i64, seed: u64) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let (dir, acked) = (folder.path().join("store"), folder.path().join("acked"));
    let mut dice = Dice(seed);
    for turn in 0..times {
        let out = OpenOptions::new().create(true).append(true).open(&acked).unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["write", dir.to_str().unwrap(), &turn.to_string(), "1000000"])
            .stdout(Stdio::from(out))
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 + dice.roll(600)));
        writer.kill().unwrap();
        writer.wait().unwrap();
        // The verifier leaves a reading of its own behind, so it looks at a copy.
        let copy = folder.path().join("copy");
        copy_folder(&dir, &copy);
        // A line that the kill cut off does not count; nor may the next turn's first one be glued to it.
        let mut text = std::fs::read_to_string(&acked).unwrap();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        std::fs::write(&acked, &text).unwrap();
        run(verify(&copy, &text)).map_err(|lost| format!("kill {turn} of seed {seed}: {lost}"))?;
    }
    let lines = std::fs::read_to_string(&acked).unwrap().lines().count();
    println!("store_crash: {times} kills, {lines} acknowledged lines, all there");
    if lines == 0 { Err("nothing was ever acknowledged".to_owned()) } else { Ok(()) }
}

/// A store that an earlier program left behind still opens, with all that was acknowledged then.
fn frozen() -> Result<(), String> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen/store-v1");
    let acked = std::fs::read_to_string(kept.join("acked")).unwrap();
    assert!(acked.lines().count() > 100);
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&kept.join("store"), &folder.path().join("store"));
    run(verify(&folder.path().join("store"), &acked)).map_err(|lost| format!("store-v1: {lost}"))
}

fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::create_dir_all(to).unwrap();
    for file in from.read_dir().into_iter().flatten().flatten() {
        let target = to.join(file.file_name());
        if file.path().is_dir() {
            copy_folder(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).unwrap();
        }
    }
}
