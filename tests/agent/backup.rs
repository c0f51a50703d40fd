//! A backup of a daemon that runs, and a gateway that is restored from it, by the commands.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use meterseal::clock::Clock;
use meterseal::model::entry::Reason;
use meterseal::model::{AlertKind, Timestamp};
use meterseal::store::{Reader, Store};
use rustix::process::Signal;
use serde_json::Value;

use super::meter::FakeMeter;
use super::plant::{Daemon, Plant, line, through_seq};

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].concat().into_iter().map(char::from).collect()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn stopped(daemon: Daemon) {
    daemon.signal(Signal::TERM);
    let (status, said) = daemon.ended();
    assert!(status.success(), "{said}");
}

async fn seqs(reader: &Reader) -> BTreeSet<u64> {
    let (from, to) = (Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX));
    let mut stream = reader.readings("main".parse().unwrap(), from, to);
    let mut seqs = BTreeSet::new();
    while let Some(batch) = stream.next().await {
        seqs.extend(batch.unwrap().iter().map(|reading| reading.seq));
    }
    seqs
}

fn opened(plant: &Plant) -> Store {
    Store::open(plant.load().config.unwrap().store, Clock::trusted(), None).unwrap()
}

/// What was told of the restore.
async fn alert(reader: &Reader) -> String {
    let alerts = reader.alerts(true, 10).await.unwrap();
    let mut texts = alerts.into_iter().filter(|alert| alert.kind == AlertKind::LogBeganAnew).map(|alert| alert.text);
    let text = texts.next().expect("it is told");
    assert_eq!(texts.next(), None, "once");
    text
}

async fn comes_back(with_key: bool) {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("main", 2)]));
    let file = plant.config().with_file_name("plant.backup");
    let path = file.to_str().unwrap().to_owned();
    let mut daemon = plant.daemon();
    let before = through_seq(&daemon.status(|status| through_seq(status) > 10).await);
    let mut arguments = vec!["backup", &path];
    arguments.extend(with_key.then_some("--with-key"));
    let told = done(&plant.output(&arguments));
    assert_eq!(told.contains("can sign as this gateway"), with_key, "{told}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!Path::new(&format!("{path}.part")).exists());
    let again = said(&plant.output(&arguments));
    assert!(again.contains("is there already") && again.contains("--force"), "{again}");
    arguments.push("--force");
    done(&plant.output(&arguments));
    let whole: Value = serde_json::from_str(&done(&plant.output(&["restore", "--check", "--json", &path]))).unwrap();
    assert_eq!(whole["backup"]["key"], with_key);

    // It goes on, and so does the log.
    let later = through_seq(&daemon.status(|status| through_seq(status) > before + 10).await);
    let refused = said(&plant.output(&["restore", &path, "--replace"]));
    assert!(refused.contains("open") && refused.contains("systemctl stop meterseal"), "{refused}");
    stopped(daemon).await;
    let refused = said(&plant.output(&["restore", &path]));
    assert!(refused.contains("there is already a store") && refused.contains("--replace"), "{refused}");
    let mut damaged = fs::read(&file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 4;
    let other = file.with_extension("damaged");
    fs::write(&other, damaged).unwrap();
    let refused = said(&plant.output(&["restore", other.to_str().unwrap(), "--replace"]));
    assert!(refused.contains("is damaged in ") && refused.contains("Nothing was changed"), "{refused}");
    let store = opened(&plant);
    let old = store.identity();
    assert!(*store.reader().committed().borrow() >= later);
    store.close().await.unwrap();

    // The folder stays, as where it is the root of a disk; all in it is gone.
    for entry in plant.store().read_dir().unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let told = done(&plant.output(&["restore", &path]));
    assert!(told.contains("systemctl start meterseal") && told.contains("meterseal key show"), "{told}");
    let mut daemon = plant.daemon();
    // It goes on where no number was given out.
    daemon.status(|status| through_seq(status) > later).await;
    stopped(daemon).await;
    let store = opened(&plant);
    let reader = store.reader();
    let seqs = seqs(&reader).await;
    assert!((1..=before).all(|seq| seqs.contains(&seq)), "all that was acknowledged before the backup");
    assert!(seqs.iter().any(|seq| *seq > later));
    let epochs = reader.epochs().await.unwrap();
    let reasons: Vec<_> = epochs.iter().map(|epoch| epoch.reason).collect();
    assert_eq!(reasons, [Reason::Init, Reason::Restore], "one epoch, though the mark knows more");
    assert_eq!(epochs[1].identity.gateway == old.gateway, with_key);
    assert_eq!(epochs[0].identity.epoch, old.epoch);
    let text = alert(&reader).await;
    assert!(text.contains("restored from a backup of 20"), "{text}");
    assert_eq!(text.contains("a new id and key"), !with_key, "{text}");
    // From when on readings are of the new epoch.
    let of = reader.epochs_of_readings(1, *seqs.last().unwrap()).await.unwrap();
    assert_eq!(of.len(), 2, "{of:?}");
    assert!(of[1].0 > before && of[1].1 == epochs[1].identity.epoch);
    store.close().await.unwrap();
    let keys = done(&plant.output(&["key", "show"]));
    assert!(keys.contains(&epochs[1].identity.origin()), "{keys}");

    // The same file once more, on the store that came of it.
    done(&plant.output(&["restore", &path, "--replace"]));
    done(&plant.output(&["key", "show"]));
    let store = opened(&plant);
    let again = store.reader().epochs().await.unwrap();
    assert_eq!(again.len(), 2);
    assert!(again[1].identity.epoch != epochs[1].identity.epoch);
    assert_eq!((again[1].identity.gateway == old.gateway, again[1].reason), (with_key, Reason::Restore));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_comes_back_from_a_backup_without_its_key() {
    comes_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_comes_back_from_a_backup_with_its_key() {
    comes_back(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_finds_no_room_leaves_nothing_behind() {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("main", 2)]));
    let mut daemon = plant.daemon();
    daemon.status(|status| through_seq(status) > 0).await;
    // The disk that the backup goes to is full.
    let full = plant.command(&["backup", "-"]).stdout(fs::File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(said(&full).contains("cannot write the backup: No space left"), "{}", said(&full));
    let nowhere = plant.config().with_file_name("none").join("file");
    let refused = plant.output(&["backup", nowhere.to_str().unwrap()]);
    assert!(said(&refused).contains("cannot write"), "{}", said(&refused));
    // The daemon goes on, and is ready for the next one.
    let now = through_seq(&daemon.status(|_| true).await);
    daemon.status(|status| through_seq(status) > now).await;
    let output = plant.output(&["backup", "-"]);
    assert!(output.status.success(), "{}", said(&output));
    meterseal::store::check_backup(&output.stdout[..], &mut |_, _| true).unwrap();
    stopped(daemon).await;
    // Also while no daemon runs.
    let output = plant.output(&["backup", "-", "--with-key"]);
    assert!(meterseal::store::check_backup(&output.stdout[..], &mut |_, _| true).unwrap().key);
}
