//! The log after a cut at any write. What reaches the device of `evidence.db` between two of its checkpoints is the
//! write-ahead log alone, from front to end: a store with any beginning of it is what a cut leaves.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;

use super::tests::{audit, block, holds, seal, wish};
use super::*;
use crate::clock::Clock;
use crate::model::Cause;
use crate::model::entry::Reason;
use crate::model::note::SignedCheckpoint;
use crate::store::evidence::{self, Evidence};
use crate::store::tests::{commissioned, config, house, meter};
use crate::store::{Store, sqlite};

/// SQLite's file format, section 4.1: a header, and frames of a header and a page.
const WAL_HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

/// `evidence.db` and its write-ahead log.
pub(in crate::store) struct Image {
    file: Vec<u8>,
    log: Vec<u8>,
}

fn log_of(root: &Path) -> PathBuf {
    root.join(format!("{}-wal", evidence::FILE))
}

impl Image {
    pub(in crate::store) fn of(root: &Path) -> Self {
        Self {
            file: std::fs::read(root.join(evidence::FILE)).unwrap(),
            log: std::fs::read(log_of(root)).unwrap_or_default(),
        }
    }

    /// Where a cut may fall: after each frame; and within some, which is the same to a reader as before them.
    pub(in crate::store) fn cuts(&self) -> impl Iterator<Item = usize> {
        let frames = (self.log.len() - WAL_HEADER) / FRAME;
        (0..=frames).map(|frame| WAL_HEADER + frame * FRAME + if frame % 8 == 3 { FRAME / 2 } else { 0 })
    }

    /// A store whose last writes are missing.
    pub(in crate::store) fn cut(&self, at: usize) -> (TempDir, Clock) {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let root = config(&folder).path;
        std::fs::create_dir_all(root.join("raw")).unwrap();
        std::fs::write(root.join(evidence::FILE), &self.file).unwrap();
        std::fs::write(log_of(&root), &self.log[..at.min(self.log.len())]).unwrap();
        (folder, Clock::manual(Timestamp::from_millis(1_763_900_000_000)))
    }
}

#[tokio::test]
async fn a_cut_at_any_write_leaves_a_log_that_goes_on() {
    let house = house().again().await;
    let (root, ledger) = (config(&house.folder).path, house.store.ledger());
    let wal_len = || usize::try_from(log_of(&root).metadata().unwrap().len()).unwrap();
    let file = Image::of(&root).file;
    // What was shown to somebody, and how long the write-ahead log was by then.
    let mut shown: Vec<(usize, SignedCheckpoint)> = Vec::new();
    let mut at = 0;
    for reason in [None, Some(Reason::Rollback), Some(Reason::KeyRotation), Some(Reason::Site), Some(Reason::Clone)] {
        if let Some(reason) = reason {
            ledger.succeed(wish(reason)).await.unwrap();
        }
        for _ in 0..3 {
            seal(&ledger, (at..at + 5).map(|at| block(&format!("m{}", at % 3), at, 0)).collect()).await;
            at += 5;
            let note = ledger.checkpoint().await.unwrap();
            shown.push((wal_len(), note));
        }
        ledger.commission(commissioned("m1", at, Cause::First)).await.unwrap();
        if reason.is_none() {
            ledger.append((0..260).map(audit).collect()).await.unwrap();
        }
    }
    let image = Image::of(&root);
    assert_eq!(image.file, file, "all of it lies in the write-ahead log");
    let mut opened = 0;
    for cut in image.cuts() {
        let (folder, clock) = image.cut(cut);
        let store = Store::open(config(&folder), clock, None).unwrap();
        let (reader, ledger) = (store.reader(), store.ledger());
        let mut notes: Vec<SignedCheckpoint> =
            shown.iter().filter(|(len, _)| *len <= cut).map(|(_, note)| note.clone()).collect();
        // What was shown last is still there.
        if let Some(last) = notes.last() {
            let epochs = reader.epochs().await.unwrap();
            let epoch = epochs.iter().find(|epoch| epoch.identity.origin() == last.checkpoint.origin).unwrap();
            let kept = reader.checkpoint(&epoch.identity.epoch).await.unwrap().unwrap();
            assert!(kept.checkpoint.size >= last.checkpoint.size, "cut at {cut}");
        }
        notes.push(ledger.checkpoint().await.unwrap());
        ledger.append(vec![audit(1)]).await.unwrap();
        seal(&ledger, vec![block("m2", 1_000, 0)]).await;
        notes.push(ledger.checkpoint().await.unwrap());
        if opened % 4 == 0 {
            ledger.succeed(wish(Reason::KeyRotation)).await.unwrap();
            notes.push(ledger.checkpoint().await.unwrap());
        }
        holds(&reader, &notes).await;
        opened += 1;
    }
    assert!(opened > 200, "{opened} cuts");
}

/// The store becomes one of version 2, without a log: one made as that version was, with the rows that it can hold.
fn without_log(root: &Path) {
    let (path, making) = (root.join(evidence::FILE), root.join("older.db"));
    let connection = sqlite::create(&making, 2, &evidence::schema(2)).unwrap();
    connection.execute("ATTACH ?1 AS newer", [path.to_str().unwrap()]).unwrap();
    let names = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    };
    for table in names("SELECT name FROM main.sqlite_schema WHERE type = 'table'") {
        let columns = names(&format!("SELECT name FROM pragma_table_info('{table}', 'main')")).join(", ");
        let copy = format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}");
        connection.execute(&copy, []).unwrap();
    }
    connection.execute_batch("DELETE FROM meta WHERE name = 'dead_letters'; DETACH newer;").unwrap();
    sqlite::finish(connection).unwrap();
    std::fs::rename(&making, &path).unwrap();
}

/// A store of version 2 with blocks of three meters, and commissioning records.
async fn older(blocks: i64) -> TempDir {
    let house = house();
    let ledger = house.store.ledger();
    for at in (0..blocks).step_by(100) {
        seal(&ledger, (at..blocks.min(at + 100)).map(|at| block(&format!("m{}", at % 3), at, 0)).collect()).await;
    }
    for since in 0..3 {
        ledger.commission(commissioned("m1", since, Cause::First)).await.unwrap();
    }
    drop(ledger);
    house.store.close().await.unwrap();
    without_log(&config(&house.folder).path);
    house.folder
}

/// All that was stored before there was a log is in it, once, in the order in which it was stored.
async fn is_taken_up(folder: &TempDir, clock: Clock, blocks: i64) {
    let store = Store::open(config(folder), clock, None).unwrap();
    let note = store.ledger().checkpoint().await.unwrap();
    assert_eq!(i64::try_from(note.checkpoint.size).unwrap(), 1 + blocks + 3);
    let reader = store.reader();
    holds(&reader, &[note]).await;
    let epoch = store.identity().epoch.clone();
    for at in [0, 1, blocks / 2, blocks - 1] {
        let sealed = block(&format!("m{}", at % 3), at, 0);
        let places = reader.entries_of_block(&sealed.meter, sealed.span.start()).await.unwrap();
        assert_eq!(places, [LogPlace { epoch: epoch.clone(), index: u64::try_from(at).unwrap() + 1 }]);
    }
    let commissioned = reader.entries_of_meter(&epoch, &meter("m1")).await.unwrap();
    assert!(commissioned.ends_with(&[1, 2, 3].map(|after| u64::try_from(blocks).unwrap() + after)));
    seal(&store.ledger(), vec![block("m1", 5_000, 0)]).await;
    let connection = Connection::open(config(folder).path.join(evidence::FILE)).unwrap();
    let index = "SELECT count(*) FROM sqlite_schema WHERE name = 'blocks_to_log'";
    assert_eq!(connection.query_row(index, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[tokio::test]
async fn an_older_store_is_taken_up_wherever_that_was_cut() {
    const BLOCKS: i64 = 1_203;
    let folder = older(BLOCKS).await;
    let root = config(&folder).path;
    let whole = Image::of(&root);
    // Between two transactions.
    for steps in 0..8 {
        let (folder, clock) = whole.cut(0);
        let evidence = Evidence::open(&config(&folder).path).unwrap();
        for _ in 0..steps {
            take_up_step(&evidence.connection, clock.now()).unwrap();
        }
        drop(evidence);
        is_taken_up(&folder, clock, BLOCKS).await;
    }
    // Within the step of the schema, and between its commit and the file's header.
    let (cut, _) = whole.cut(0);
    let connection = sqlite::open(&config(&cut).path.join(evidence::FILE)).unwrap();
    connection.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = 3; COMMIT;")).unwrap();
    let image = Image::of(&config(&cut).path);
    assert_eq!(sqlite::version(&config(&cut).path.join(evidence::FILE), 3).unwrap(), 2);
    for at in image.cuts().step_by(7).chain([image.log.len()]) {
        let (folder, clock) = image.cut(at);
        is_taken_up(&folder, clock, BLOCKS).await;
    }
    drop(connection);
    // Within the batches.
    let (cut, clock) = whole.cut(0);
    let evidence = Evidence::open(&config(&cut).path).unwrap();
    while take_up_step(&evidence.connection, clock.now()).unwrap().is_some() {}
    let image = Image::of(&config(&cut).path);
    for at in image.cuts().step_by(29) {
        let (folder, clock) = image.cut(at);
        is_taken_up(&folder, clock, BLOCKS).await;
    }
}
