//! What the evidence log costs: `cargo bench --bench log [-- append|disk|proof]`, all of them by default.
//!
//! `proof` makes a log of 10 million entries, some 2 GB in the current folder, or of as many as `LEAVES` says.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use meterseal::clock::Clock;
use meterseal::model::{
    Block, BlockFlags, Border, Borders, Category, Digest, Energy, Method, Number, Power, Ratio, Role, Span, Timestamp,
    merkle,
};
use meterseal::store::{self, Append, Config, Sealing, Store};
use serde_json::json;

const NOON: i64 = 1_763_726_400_000;
const HALF: i64 = 1_800_000;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if is_wanted("append") {
        runtime.block_on(append());
    }
    if is_wanted("disk") {
        runtime.block_on(disk());
    }
    if is_wanted("proof") {
        runtime.block_on(proof());
    }
}

fn made(path: &Path) -> Store {
    let config = Config {
        path: path.to_owned(),
        commit_every: Duration::from_millis(1),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 100_000_000_000,
        reserve: 0,
    };
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    store::init(&config, &"bench".parse().unwrap(), &clock).unwrap();
    Store::open(config, clock, None).unwrap()
}

fn audits(many: u64) -> Vec<Append> {
    let audit = |number| Append::Audit { action: "bench".to_owned(), by: "x".to_owned(), detail: json!(number) };
    (0..many).map(audit).collect()
}

/// One border of many meters: blocks as a meter with both registers and power has them.
fn border(meters: usize, at: i64) -> Vec<Block> {
    let time = Timestamp::from_millis;
    let start = NOON + at * HALF;
    let reading = |role: Role, at: i64| Border {
        role,
        time: time(at),
        seq: at.unsigned_abs() / 1_000,
        raw: Number::U64(at.unsigned_abs() / 60_000),
        scale: Ratio::new(1, 1_000).unwrap(),
        rolls_over_at: None,
        interval: None,
    };
    let both = |at: i64| vec![reading(Role::Import, at), reading(Role::Export, at)];
    let block = |meter: usize| Block {
        meter: format!("meter-{meter}").parse().unwrap(),
        span: Span::new(time(start), time(start + HALF)).unwrap(),
        nominal_ms: 1_800_000,
        revision: 0,
        category: Category::Cons,
        import: Some(Energy::from_uwh(start)),
        export: Some(Energy::from_uwh(7)),
        max_power: Some(Power::from_mw(70_000)),
        min_power: Some(Power::from_mw(20_000)),
        covered_ms: HALF,
        coverage: 10_000,
        method: Method::Counter,
        is_peak_hour: false,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(&start.to_le_bytes()),
        through_seq: at.unsigned_abs(),
        borders: Borders {
            before: both(start - 500),
            first: both(start + 500),
            last: both(start + HALF - 500),
            after: both(start + HALF + 500),
            ..Borders::default()
        },
        zone: "Asia/Kuala_Lumpur".to_owned(),
        interval_ms: 1_000,
        template: Some(Digest::of(b"template")),
        sealed: time(start + HALF + 10_000),
    };
    (0..meters).map(block).collect()
}

/// Batches of 1000, beside a bare loop of SQLite that stores as many rows of a digest and a salt, in turns.
#[allow(clippy::cast_precision_loss)]
async fn append() {
    const BATCH: u64 = 1_000;
    const BATCHES: i64 = 30;
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = made(&folder.path().join("store"));
    let ledger = store.ledger();
    let bare = rusqlite::Connection::open(folder.path().join("bare.db")).unwrap();
    bare.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -1024;
         CREATE TABLE entries (id INTEGER PRIMARY KEY, time INTEGER, salt BLOB, digest BLOB);",
    )
    .unwrap();
    let rate = |started: Instant| BATCH as f64 * BATCHES as f64 / started.elapsed().as_secs_f64();
    for round in 0..5 {
        let started = Instant::now();
        for batch in 0..BATCHES {
            let transaction = bare.unchecked_transaction().unwrap();
            let mut insert = transaction.prepare_cached("INSERT INTO entries VALUES (NULL, ?1, ?2, ?3)").unwrap();
            for row in 0..BATCH {
                let digest = *Digest::of(&row.to_le_bytes()).as_bytes();
                insert.execute(rusqlite::params![NOON + batch, digest, digest]).unwrap();
            }
            drop(insert);
            transaction.commit().unwrap();
        }
        let bare_rate = rate(started);
        let started = Instant::now();
        for _ in 0..BATCHES {
            ledger.append(audits(BATCH)).await.unwrap();
        }
        let audit_rate = rate(started);
        let borders: Vec<_> = (0..BATCHES).map(|at| border(1_000, round * BATCHES + at)).collect();
        let started = Instant::now();
        for blocks in borders {
            ledger.seal(Sealing { blocks, ..Sealing::default() }).await.unwrap();
        }
        let block_rate = rate(started);
        let started = Instant::now();
        ledger.checkpoint().await.unwrap();
        println!(
            "append round {round}: entries {audit_rate:.0}/s ({:.2} of a bare loop, {bare_rate:.0}/s), sealed blocks \
             with their entries {block_rate:.0}/s ({:.2}); a checkpoint in {:.1?}",
            audit_rate / bare_rate,
            block_rate / bare_rate,
            started.elapsed()
        );
    }
}

/// Pages of each table of `evidence.db`, after a month of 100 meters.
#[allow(clippy::cast_precision_loss)]
async fn disk() {
    const METERS: usize = 100;
    const BORDERS: i64 = 48 * 30;
    let folder = tempfile::tempdir_in(".").unwrap();
    let path = folder.path().join("store");
    let store = made(&path);
    for at in 0..BORDERS {
        store.ledger().seal(Sealing { blocks: border(METERS, at), ..Sealing::default() }).await.unwrap();
        store.ledger().checkpoint().await.unwrap();
    }
    store.close().await.unwrap();
    let connection = rusqlite::Connection::open(path.join("evidence.db")).unwrap();
    let mut statement =
        connection.prepare("SELECT name, sum(pgsize) AS bytes FROM dbstat GROUP BY name ORDER BY bytes DESC").unwrap();
    let tables = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let blocks = METERS as f64 * BORDERS as f64;
    let mut log = 0.0;
    for table in tables {
        let (name, bytes) = table.unwrap();
        let each = bytes as f64 / blocks;
        if ["entries", "tiles", "subjects", "checkpoints", "epochs"].contains(&name.as_str()) {
            log += each;
        }
        if each >= 0.05 {
            println!("disk: {name} {each:.1} bytes for each block");
        }
    }
    println!("disk: the log {log:.1} bytes for each block");
}

/// Proofs out of a large log, at random places; beside them, one row of 8 KiB by its key.
async fn proof() {
    let size: u64 = std::env::var("LEAVES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    let folder = tempfile::tempdir_in(".").unwrap();
    let path = folder.path().join("store");
    let store = made(&path);
    let started = Instant::now();
    let mut missing = size - 1;
    while missing > 0 {
        let many = missing.min(20_000);
        store.ledger().append(audits(many)).await.unwrap();
        missing -= many;
    }
    println!("proof: {size} entries appended in {:.0?}", started.elapsed());
    let note = store.ledger().checkpoint().await.unwrap();
    let (reader, epoch) = (store.reader(), store.identity().epoch.clone());
    let evidence = rusqlite::Connection::open(path.join("evidence.db")).unwrap();
    let mut tile = evidence.prepare("SELECT hashes FROM tiles WHERE epoch = 1 AND level = 0 AND n = ?1").unwrap();
    let (mut rows, mut inclusions, mut consistencies) = (Vec::new(), Vec::new(), Vec::new());
    let mut dice = 7_u64;
    for _ in 0..2_000 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let index = (dice >> 20) % size;
        let started = Instant::now();
        let n = (index / 256).min(size / 256 - 1).cast_signed();
        let hashes: Vec<u8> = tile.query_row([n], |row| row.get(0)).unwrap();
        rows.push(started.elapsed());
        assert_eq!(hashes.len(), 8192);
        let started = Instant::now();
        let path = reader.inclusion(&epoch, index, size).await.unwrap().unwrap();
        inclusions.push(started.elapsed());
        let entry = reader.log_entries(&epoch, index, index + 1).await.unwrap()[0];
        let root = merkle::root_by_inclusion(entry.leaf_hash(), index, size, &path);
        assert_eq!(root, Ok(note.checkpoint.root));
        let started = Instant::now();
        reader.consistency(&epoch, index + 1, size).await.unwrap().unwrap();
        consistencies.push(started.elapsed());
    }
    for (name, times) in
        [("one row of 8 KiB", &mut rows), ("inclusion", &mut inclusions), ("consistency", &mut consistencies)]
    {
        times.sort();
        println!(
            "proof: {name} in {:.3?} (median), {:.3?} (99 of 100), {:.3?} (worst)",
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            times[times.len() - 1]
        );
    }
}
