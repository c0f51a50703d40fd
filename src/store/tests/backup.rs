//! Backups: what is in one, that every byte of it is checked, and what a restore leaves.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use super::super::backup::{BadBackup, RestoreError, check, finish, restore, write};
use super::super::evidence;
use super::opening::files;
use super::*;
use crate::model::entry::Reason;

fn quiet() -> impl FnMut(u64, u64) -> bool {
    |_, _| true
}

fn written(root: &Path, inventory: &Inventory, with_key: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(root, inventory, with_key, &mut bytes, &mut quiet()).unwrap();
    bytes
}

async fn backup(house: &House, with_key: bool) -> Vec<u8> {
    let still = house.store.ledger().hold_still().await.unwrap();
    written(&config(&house.folder).path, &still.inventory, with_key)
}

fn unzipped(backup: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    zstd::stream::read::Decoder::new(backup).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn private_key(root: &Path) -> [u8; 32] {
    let connection = sqlite::open_to_read(&root.join(evidence::FILE)).unwrap();
    connection.query_row("SELECT private FROM keys", [], |row| row.get(0)).unwrap()
}

fn has(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// All files below a folder with their content, but for the lock, which names who had it last.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = files(folder);
    found.retain(|path, _| !path.ends_with("lock"));
    found
}

/// A store in a folder of its own, made of a backup.
fn restored(backup: &[u8], clock: &Clock) -> (TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    restore(&config.path, backup, false, clock.now(), &mut quiet()).unwrap();
    (folder, config)
}

async fn succeed(store: &Store, reason: Reason) -> Arc<Identity> {
    let wish = Succession { reason, site: None, last_outside: None, since_open: false };
    store.ledger().succeed(wish).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_acknowledged_before_is_in_it_and_nothing_waits_for_it() {
    let house = house();
    let (m1, ingest) = (layout("m1"), house.store.ingest());
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (done, ended) = (acknowledged.clone(), stop.clone());
    let mut load = tokio::task::JoinSet::new();
    load.spawn(async move {
        for second in 0.. {
            if ended.load(Ordering::Acquire) > 0 {
                break;
            }
            let receipt =
                ingest.store(vec![reading(&m1, NOON + second * 1_000, &[(0, second), (1, 5)])]).await.unwrap();
            done.store(receipt.last_seq, Ordering::Release);
        }
    });
    let until = async |seq: u64| {
        let mut committed = house.store.reader().committed();
        committed.wait_for(|through| *through >= seq).await.unwrap();
    };
    until(50).await;
    house.store.tidy().await;
    until(80).await;
    let before = acknowledged.load(Ordering::Acquire);
    let still = house.store.ledger().hold_still().await.unwrap();
    let root = config(&house.folder).path;
    let held = |root: &Path| {
        let files =
            still.inventory.files.iter().map(|file| (file.name.clone(), fs::read(root.join(&file.name)).unwrap()));
        files.collect::<BTreeMap<_, _>>()
    };
    let files = held(&root);
    let begun = *house.store.reader().committed().borrow();
    // Commits, packing and blocks go on while it holds still, and touch none of its files.
    until(begun + 50).await;
    house.store.tidy().await;
    house.store.ledger().commission(commissioned("m1", NOON, Cause::First)).await.unwrap();
    for file in still.inventory.files.iter().filter(|file| file.name.ends_with(".db")) {
        // As SQLite does by itself when a log is long.
        let connection = sqlite::open(&root.join(&file.name)).unwrap();
        let checkpoint = connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
        let (log, copied) = checkpoint.unwrap();
        assert!(log > 0 && copied == 0, "{}: {copied} of {log} pages", file.name);
    }
    let second = house.store.ledger().hold_still().await;
    assert!(matches!(second.err(), Some(StoreError::BackingUp { .. })));
    let backup = written(&root, &still.inventory, false);
    assert_eq!(held(&root), files);
    assert_eq!(still.lost(), None);
    drop(still);
    stop.store(1, Ordering::Release);
    load.join_next().await.unwrap().unwrap();
    let all: BTreeSet<u64> = house.all("m1", i64::MIN, i64::MAX).await.iter().map(|reading| reading.seq).collect();

    let (_folder, limits) = restored(&backup, &house.clock);
    let store = Store::open(limits, house.clock.clone(), None).unwrap();
    let there =
        House { folder: tempfile::tempdir().unwrap(), clock: house.clock.clone(), store, created: house.created };
    let seqs: BTreeSet<u64> = there.all("m1", i64::MIN, i64::MAX).await.iter().map(|reading| reading.seq).collect();
    let last = *seqs.last().unwrap();
    assert!(last >= before, "{last} of {before}");
    assert_eq!(seqs, all.range(..=last).copied().collect(), "one point in time");
    assert!(
        there.store.reader().commissionings(&meter("m1"), 9).await.unwrap().is_empty(),
        "what came later is not in it"
    );
    // No number that the other store may have given out since is given again.
    succeed(&there.store, Reason::Restore).await;
    let next = there.put(vec![reading(&layout("m2"), NOON, &[(0, 1)])]).await;
    assert!(next.first_seq > *all.last().unwrap(), "{next:?}");
}

#[tokio::test]
async fn the_day_may_end_while_it_holds_still() {
    let house = house();
    let m1 = layout("m1");
    house.put(vec![reading(&m1, NOON, &[(0, 1)])]).await;
    let still = house.store.ledger().hold_still().await.unwrap();
    house.clock.advance(Duration::from_secs(86_400));
    house.put(vec![reading(&m1, NOON + 86_400_000, &[(0, 2)])]).await;
    let backup = written(&config(&house.folder).path, &still.inventory, false);
    drop(still);
    check(&backup[..], &mut quiet()).unwrap();
    // The next one has the file of the day before, whose log stayed, and that of the day.
    let backup = self::backup(&house, false).await;
    let house = house.again().await;
    assert_eq!(house.all("m1", i64::MIN, i64::MAX).await.len(), 2);
    let (_folder, limits) = restored(&backup, &house.clock);
    let store = Store::open(limits, house.clock.clone(), None).unwrap();
    let there = House { folder: tempfile::tempdir().unwrap(), store, ..house };
    assert_eq!(there.all("m1", i64::MIN, i64::MAX).await.len(), 2);
}

#[tokio::test]
async fn a_store_that_ends_or_needs_its_room_holds_still_no_longer() {
    let house = house();
    let still = house.store.ledger().hold_still().await.unwrap();
    assert!(mutex(&house.store.shared.reserve).give(true));
    assert!(still.lost().unwrap().contains("full"), "{:?}", still.lost());
    drop(still);
    // What was used before is no reason: a backup is wanted most where room is short.
    let still = house.store.ledger().hold_still().await.unwrap();
    assert_eq!(still.lost(), None);
    house.store.close().await.unwrap();
    // It ended in order, though nobody let go: no reader kept the logs from going into the files.
    let log = config(&house.folder).path.join("evidence.db-wal");
    assert!(log.metadata().is_err() || log.metadata().unwrap().len() == 0);
    assert!(still.lost().unwrap().contains("closed"));
}

#[tokio::test]
async fn private_keys_are_not_in_it_unless_they_are_asked_for() {
    let house = house();
    let root = config(&house.folder).path;
    let first = private_key(&root);
    succeed(&house.store, Reason::KeyRotation).await;
    let second = private_key(&root);
    assert_ne!(first, second);
    fs::create_dir(root.join("tls")).unwrap();
    fs::write(root.join("tls/key.pem"), "the page's private key").unwrap();
    let without = unzipped(&backup(&house, false).await);
    assert!(!has(&without, &first) && !has(&without, &second) && !has(&without, b"the page's private key"));
    let with = unzipped(&backup(&house, true).await);
    assert!(has(&with, &second) && has(&with, b"the page's private key"));
    assert!(!has(&with, &first), "a key that signs nothing more is nowhere");

    // A former key that lies in the file as free space, as stores of an earlier program have it.
    house.store.close().await.unwrap();
    let connection = sqlite::open(&root.join(evidence::FILE)).unwrap();
    connection.execute_batch("PRAGMA secure_delete = OFF").ok();
    let former = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = former.verifying_key().to_bytes();
    connection.execute("INSERT INTO keys VALUES (?1, ?2, 1)", rusqlite::params![public, former.to_bytes()]).unwrap();
    connection.execute("DELETE FROM keys WHERE public = ?1", [public]).unwrap();
    connection.execute("UPDATE epochs SET public = ?1 WHERE number = 1", [public]).unwrap();
    sqlite::finish(connection).unwrap();
    assert!(has(&fs::read(root.join(evidence::FILE)).unwrap(), &[7; 32]));
    let mut at_rest = AtRest::find(&root, &house.clock).unwrap();
    let backup = unzipped(&written(&root, &at_rest.inventory, false));
    assert!(!has(&backup, &[7; 32]) && !has(&backup, &second));

    // That a former one was met does not show that the one was that signs.
    at_rest.inventory.signing.push(Digest::of(b"of another file"));
    let unmet = write_backup(&root, &at_rest.inventory, false, &mut Vec::new(), &mut |_, _| true);
    assert!(matches!(unmet, Err(BackupError::NoKey)), "{unmet:?}");
}

#[tokio::test]
async fn a_backup_of_a_store_that_crashed_has_what_was_committed() {
    let house = house();
    house.put((0..9).map(|s| reading(&layout("m1"), NOON + s * 1000, &[(0, s)])).collect()).await;
    // As a crash leaves it: with write-ahead logs.
    let crashed = tempfile::tempdir().unwrap();
    let (from, to) = (config(&house.folder).path, config(&crashed).path);
    for (path, bytes) in content(&from) {
        let path = to.join(path.strip_prefix(&from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let at_rest = AtRest::find(&to, &house.clock).unwrap();
    assert!(matches!(AtRest::find(&to, &house.clock).err(), Some(StoreError::Locked { .. })));
    let backup = written(&to, &at_rest.inventory, true);
    drop(at_rest);
    let (_folder, limits) = restored(&backup, &house.clock);
    let store = Store::open(limits, house.clock.clone(), None).unwrap();
    let there = House { folder: tempfile::tempdir().unwrap(), store, ..house };
    assert_eq!(there.all("m1", i64::MIN, i64::MAX).await.len(), 9);
}

/// A small backup, of members of each kind.
async fn small() -> (House, Vec<u8>) {
    let house = house();
    house.put(vec![reading(&layout("m1"), NOON, &[(0, 1)])]).await;
    let tls = config(&house.folder).path.join("tls");
    fs::create_dir(&tls).unwrap();
    fs::write(tls.join("cert.pem"), "certificate").unwrap();
    let backup = backup(&house, true).await;
    (house, backup)
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_is_found() {
    let (house, backup) = small().await;
    let head = check(&backup[..], &mut quiet()).unwrap();
    assert_eq!((head.site.as_str(), head.files, head.key), ("plant-7", 3, true));
    let refused = |bytes: &[u8], how: &str| match check(bytes, &mut quiet()) {
        Err(BadBackup::Damaged { member, what }) => assert!(!member.is_empty() && !what.is_empty(), "{how}"),
        Err(BadBackup::Other | BadBackup::Format(_)) => {}
        other => panic!("{how}: {other:?}"),
    };
    // All of the beginning and the end, and what lies between here and there.
    let dense = 64;
    let places = (0..backup.len()).filter(|at| *at < dense || *at + dense > backup.len() || at % 97 == 0);
    for at in places {
        let mut changed = backup.clone();
        changed[at] ^= 1 << (at % 8);
        refused(&changed, &format!("bit {} of byte {at}", at % 8));
        refused(&backup[..at], &format!("cut at {at}"));
    }
    refused(&[&backup[..], b"x"].concat(), "one byte more");
    refused(&[&backup[..], &backup[..]].concat(), "twice");
    for other in [&b""[..], b"MZ", &unzipped(&backup)] {
        assert!(matches!(check(other, &mut quiet()), Err(BadBackup::Other)));
    }
    // Damage in the archive itself, under a right frame and seal, is that of its member.
    let archive = unzipped(&backup);
    let name = archive.windows(6).position(|window| window == b"SQLite").unwrap();
    let mut changed = archive;
    changed[name + 50] ^= 1;
    let mut bytes = zstd::stream::encode_all(&changed[..], 3).unwrap();
    let hash = Digest::of(&bytes);
    bytes.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18, 32, 0, 0, 0]);
    bytes.extend_from_slice(hash.as_bytes());
    let found = check(&bytes[..], &mut quiet());
    assert!(matches!(&found, Err(BadBackup::Damaged { member, .. }) if member == "evidence.db"), "{found:?}");

    // Nothing of a store is touched for it.
    let root = config(&house.folder).path;
    house.store.close().await.unwrap();
    let before = content(&root);
    let mut cut = backup.clone();
    cut.truncate(backup.len() - 1);
    let refused = restore(&root, &cut[..], true, house.clock.now(), &mut quiet());
    assert!(matches!(refused, Err(RestoreError::Backup(BadBackup::Damaged { .. }))), "{refused:?}");
    assert_eq!(content(&root), before);
}

/// A stick that is pulled out, or wears out, before any byte of it.
#[tokio::test]
async fn a_backup_that_cannot_be_read_is_not_told_to_be_damaged() {
    struct Pulled;
    impl std::io::Read for Pulled {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(rustix::io::Errno::IO.into())
        }
    }
    let (_house, backup) = small().await;
    for before in (0..=backup.len()).step_by(97) {
        let found = check(backup[..before].chain(Pulled), &mut quiet());
        let Err(BadBackup::Read(error)) = found else { panic!("after {before} bytes: {found:?}") };
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    }
}

/// As when the disk answers with an error for the one file that says how far it is.
#[tokio::test]
async fn a_restored_store_that_cannot_be_looked_at_is_not_taken_for_one_that_has_arrived() {
    let (_house, backup) = small().await;
    let (_folder, config) = restored(&backup, &Clock::manual(Timestamp::from_millis(NOON)));
    let waiting = config.path.join("restoring");
    fs::create_dir(&waiting).unwrap();
    fs::write(waiting.join("plan.json"), "{\"aside\":null}").unwrap();
    std::os::unix::fs::symlink("evidence.db", waiting.join("evidence.db")).unwrap();
    let before = names(&config.path);
    assert!(matches!(finish(&config.path), Err(StoreError::Io { .. })));
    assert_eq!(names(&config.path), before, "nothing is deleted");
}

/// The names of all that lies below a folder.
fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            let below = if path.is_dir() { names(&path) } else { BTreeSet::new() };
            below.into_iter().chain([path])
        })
        .collect()
}

#[tokio::test]
async fn a_mark_of_a_restore_that_cannot_be_read_is_an_error() {
    let (_house, backup) = small().await;
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let (_folder, config) = restored(&backup, &clock);
    let connection = sqlite::open(&config.path.join(evidence::FILE)).unwrap();
    let changed = connection.execute("UPDATE state SET value = '{\"taken\":1}' WHERE name = 'store.restored'", []);
    assert_eq!(changed.unwrap(), 1);
    drop(connection);
    let store = Store::open(config, clock, None).unwrap();
    assert!(store.reader().restored_from().await.is_err());
}

#[tokio::test]
async fn what_is_there_is_refused_or_set_aside() {
    let (house, backup) = small().await;
    let root = config(&house.folder).path;
    let now = house.clock.now();
    let again = |replace| restore(&root, &backup[..], replace, now, &mut quiet());
    assert!(matches!(again(true), Err(RestoreError::Store(StoreError::Locked { .. }))));
    house.put(vec![reading(&layout("m1"), NOON + 1, &[(0, 2)])]).await;
    house.store.close().await.unwrap();
    let before = content(&root);
    assert!(matches!(again(false), Err(RestoreError::Exists { .. })));
    assert_eq!(content(&root), before);
    let first = again(true).unwrap().aside.unwrap();
    assert!(first.file_name().unwrap().to_str().unwrap().starts_with("replaced-20251121T120000Z"), "{first:?}");
    let second = again(true).unwrap().aside.unwrap();
    assert_ne!(first, second);
    // Whole: it is a store by itself.
    let aside = Store::open(Config { path: first, ..config(&house.folder) }, house.clock.clone(), None).unwrap();
    assert_eq!(*aside.reader().committed().borrow(), 2);
    drop(aside);
    let names = || -> Vec<String> {
        let names = root.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("restoring")).collect()
    };
    assert_eq!(names(), Vec::<String>::new());
    let store = Store::open(config(&house.folder), house.clock.clone(), None).unwrap();
    assert_eq!(*store.reader().committed().borrow(), 1);
    store.close().await.unwrap();

    // Of a newer program.
    let connection = sqlite::open(&root.join(evidence::FILE)).unwrap();
    connection.pragma_update(None, "user_version", evidence::VERSION + 1).unwrap();
    sqlite::finish(connection).unwrap();
    let newer = AtRest::find(&root, &house.clock).err();
    assert!(matches!(newer, Some(StoreError::Newer { .. })), "{newer:?}");
    let mut inventory = Inventory {
        site: house.created.identity.site.clone(),
        gateway: house.created.identity.gateway.clone(),
        epoch: house.created.identity.epoch.clone(),
        taken: now,
        schema: evidence::VERSION + 1,
        signing: Vec::new(),
        keys: Vec::new(),
        files: Vec::new(),
    };
    let bytes = root.join(evidence::FILE).metadata().unwrap().len();
    inventory.files.push(super::super::backup::Member { bytes, name: evidence::FILE.to_owned() });
    let backup = written(&root, &inventory, true);
    let empty = tempfile::tempdir().unwrap();
    let refused = restore(&config(&empty).path, &backup[..], false, now, &mut quiet());
    assert!(matches!(refused, Err(RestoreError::Store(StoreError::Newer { .. }))), "{refused:?}");
}

/// There may be a private key in what a restore unpacked before it was cut off.
#[tokio::test]
async fn what_a_restore_left_that_was_cut_off_goes_with_the_next_opening() {
    let House { folder, clock, store, .. } = house();
    store.close().await.unwrap();
    let left = config(&folder).path.join("restoring.part");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("evidence.db"), "a key").unwrap();
    Store::open(config(&folder), clock, None).unwrap().close().await.unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn exports_that_were_under_way_begin_again() {
    let house = house();
    let request = crate::model::JobRequest {
        connection: "historian".to_owned(),
        query: serde_json::json!({"name": "energy"}),
        from_ns: 0,
        to_ns: 1,
    };
    let by = crate::model::Actor::here("test");
    let job = house.store.ledger().queue_job(request, by).await.unwrap().unwrap();
    house.store.ledger().begin_job(job.id).await.unwrap();
    let progress = crate::model::JobProgress { rows: 5, bytes: 6, position_ns: Some(1) };
    house.store.ledger().job_is_at(job.id, progress, 7, "{}".to_owned()).await.unwrap();
    let backup = backup(&house, false).await;
    let (_folder, limits) = restored(&backup, &house.clock);
    let store = Store::open(limits, house.clock.clone(), None).unwrap();
    let reader = store.reader();
    assert_eq!(reader.job(job.id).await.unwrap().unwrap(), job, "as it was ordered");
    assert_eq!(reader.resume_of(job.id).await.unwrap(), None);
}

#[tokio::test]
async fn two_restores_of_one_backup_sign_two_logs() {
    let house = house();
    house.store.ledger().commission(commissioned("m1", NOON, Cause::First)).await.unwrap();
    let signed = house.store.ledger().checkpoint().await.unwrap();
    house.store.ledger().commission(commissioned("m2", NOON, Cause::First)).await.unwrap();
    for with_key in [true, false] {
        let backup = backup(&house, with_key).await;
        let mut seen = vec![house.created.identity.clone()];
        for _ in 0..2 {
            let (_folder, limits) = restored(&backup, &house.clock);
            let store = Store::open(limits, house.clock.clone(), None).unwrap();
            let reader = store.reader();
            assert!(reader.restored_from().await.unwrap().is_some());
            let next = succeed(&store, Reason::Restore).await;
            assert_eq!(reader.restored_from().await.unwrap(), None, "once");
            assert_eq!(next.gateway == house.created.identity.gateway, with_key);
            assert!(seen.iter().all(|known| known.epoch != next.epoch));
            let head = store.ledger().checkpoint().await.unwrap();
            // What nobody had signed stands in the new epoch again; of the old one nothing more is signed.
            assert_eq!((head.checkpoint.origin.clone(), head.checkpoint.size), (next.origin(), 2));
            let old = reader.checkpoint(&house.created.identity.epoch).await.unwrap().unwrap();
            assert_eq!(old, signed);
            let epochs = reader.epochs().await.unwrap();
            head.verify(&[&epochs[1].key]).unwrap();
            signed.verify(&[&epochs[0].key]).unwrap();
            assert_eq!(epochs[0].key.public() == epochs[1].key.public(), with_key);
            seen.push(Identity::clone(&next));
        }
    }
}
