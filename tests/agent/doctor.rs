//! `meterseal doctor` as a program, on a plant that is well and on one that is not, with and without the daemon.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::meter::FakeMeter;
use super::plant::{Plant, line};
use super::small_disk::Disk;
use super::start::storing_on;
use super::upstreams::receiver::{Faults, Receiver, Said};

/// All findings, and the exit code.
fn doctor(plant: &Plant) -> (Vec<Value>, Option<i32>) {
    let output = plant.output(&["doctor", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let found = serde_json::from_str(&text);
    let found = found.unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    (found, output.status.code())
}

/// State, finding and remedy of the one about this subject.
fn of(found: &[Value], check: &str, subject: &str) -> (String, String) {
    let mut same = found.iter().filter(|one| one["check"] == check && one["subject"] == subject);
    let one = same.next().unwrap_or_else(|| panic!("{check} {subject} is not in {found:#?}"));
    assert!(same.next().is_none(), "{check} {subject} is told twice: {found:#?}");
    let remedy = one["remedy"].as_str().unwrap_or_default();
    assert_eq!(one["state"] == "ok", remedy.is_empty(), "{one}");
    (one["state"].as_str().unwrap().to_owned(), format!("{} -> {remedy}", one["found"].as_str().unwrap()))
}

/// That it is as bad as this, and says so.
#[track_caller]
fn is(found: &[Value], (check, subject): (&str, &str), state: &str, words: &[&str]) {
    let (is, text) = of(found, check, subject);
    assert_eq!(is, state, "{text}");
    for words in words {
        assert!(text.contains(words), "{words} is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plant_that_is_well_has_nothing_broken() {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("one", 1), ("two", 2)]));
    let mut daemon = plant.daemon();
    let answers = |status: &Value, id: &str| status["sources"]["meters"][id]["condition"] == "answering";
    daemon.status(|status| answers(status, "one") && answers(status, "two")).await;
    let (found, code) = doctor(&plant);
    assert_eq!(code, Some(0), "{found:#?}");
    is(&found, ("daemon", ""), "ok", &["runs, started ", &format!("process {}", daemon.child.id())]);
    is(&found, ("meter", ""), "ok", &["2 of 2 answer"]);
    is(&found, ("disk", "reserve"), "ok", &["1.0 MB"]);
    is(&found, ("evidence", "database"), "ok", &["evidence.db is whole"]);
    is(&found, ("page", ""), "look", &["no PIN is set", "meterseal pin set"]);
    is(&found, ("upstream", ""), "ok", &["none is configured"]);
    let text = plant.output(&["doctor"]);
    assert_eq!(text.status.code(), Some(0));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(!text.contains('\u{1b}') && text.contains("\n0 broken, "), "{text}");
    assert!(text.lines().all(|line| line.starts_with("ok ") || line.chars().count() <= 100), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_with_a_plant_is_found_with_and_without_its_daemon() {
    let (meter, mute, folder) = (FakeMeter::start().await, FakeMeter::mute().await, tempfile::tempdir().unwrap());
    let cloud = Receiver::start(folder.path());
    cloud.set(Faults { answer: Some(Said { status: 401, ..Said::default() }), ..Faults::default() });
    let port = "/dev/serial/by-id/usb-that-was-unplugged";
    let lines = line("a", meter.address, &[("one", 1)])
        + &line("b", mute.address, &[("dead", 1)])
        + &line("c", port, &[("gone", 1)]).replace("tcp = ", "serial = ")
        + &format!("[[upstream]]\nname = \"cloud\"\nkind = \"https\"\nurl = \"{}\"\n", cloud.url)
        + "[[upstream]]\nname = \"off\"\nkind = \"https\"\nurl = \"http://127.0.0.1:1/\"\ntoken = { credential = \"none\" }\n";
    let (plant, _) = Plant::new(&lines);
    let mut daemon = plant.daemon();
    let refused = |told: &Value| told["upstreams"]["cloud"]["state"] == "stopped";
    let silent = |told: &Value| told["sources"]["meters"]["dead"]["condition"] == "silent";
    let answers = |told: &Value| told["sources"]["meters"]["one"]["condition"] == "answering";
    daemon.status(|status| answers(status) && silent(status)).await;
    super::until(async || {
        let told = super::ask(&plant.socket(), &meterseal::agent::admin::Request::Upstreams {}).await;
        told.is_ok_and(|told| refused(&told))
    })
    .await;
    plant.write(&lines.replacen("unit = 1", "unt = 1", 1));

    let (found, code) = doctor(&plant);
    assert_eq!(code, Some(1), "{found:#?}");
    is(&found, ("daemon", ""), "ok", &["runs"]);
    is(&found, ("config", ""), "broken", &["the last good config runs in its stead", "systemctl reload"]);
    let fault = found.iter().find(|one| one["subject"].as_str().unwrap().ends_with("modbus[0].meter[0].unt")).unwrap();
    assert_eq!((&fault["state"], &fault["remedy"]), (&json!("broken"), &json!("did you mean `unit`?")), "{fault}");
    is(&found, ("meter", ""), "broken", &["1 of 3 answer"]);
    is(
        &found,
        ("meter", "dead"),
        "broken",
        &["is silent on b, it never answered", "`meterseal read dead`", "meterseal scan"],
    );
    is(&found, ("line", "c"), "broken", &["has been down for", "it has 1 meter", "see what is said of its port"]);
    is(&found, ("port", &format!("c {port}")), "broken", &["is not there", "ls -l /dev/serial/by-id"]);
    is(&found, ("upstream", "cloud"), "broken", &["has refused us for", "401", "renew its token"]);
    is(&found, ("upstream", "off"), "broken", &["upstream off is off: credential", "LoadCredential="]);
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());

    let (found, code) = doctor(&plant);
    assert_eq!(code, Some(1), "{found:#?}");
    is(&found, ("daemon", ""), "broken", &["does not run", "systemctl start meterseal"]);
    is(&found, ("config", ""), "broken", &["the last good config, which the store holds, would run"]);
    is(&found, ("upstream", "off"), "look", &["while the daemon does not run"]);
    is(&found, ("port", &format!("a {}", meter.address)), "ok", &["takes connections"]);
    is(&found, ("port", &format!("c {port}")), "broken", &["is not there"]);
    is(&found, ("meter", ""), "look", &["3 meters not asked", "meterseal read ID"]);
    is(&found, ("upstream", "cloud"), "look", &["nothing is sent while the daemon does not run", "records wait"]);
    is(&found, ("evidence", "database"), "ok", &["whole"]);
    assert!(!plant.socket().exists(), "it left nothing behind");
}

/// Each file of a store, with what it holds.
fn files(folder: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let of = |path: std::path::PathBuf| match path.is_dir() {
        true => files(&path),
        false => [(path.clone(), std::fs::read(&path).unwrap())].into(),
    };
    entries.flat_map(of).collect()
}

/// Whoever looks why something is wrong may yet go back: no epoch begins for it, also with anchors.
#[tokio::test]
async fn a_store_that_is_looked_into_stays_as_it_is() {
    let key = format!("{:064x}", 7);
    let anchors = format!("[anchor]\nchain_id = 137\nrpc = [\"http://127.0.0.1:9\"]\nkey = \"0x{key}\"\n");
    let (plant, _) = Plant::new(&anchors);
    let backup = plant.config().with_file_name("plant.backup");
    let backup = backup.to_str().unwrap();
    assert!(plant.output(&["backup", "--with-key", backup]).status.success());
    assert!(plant.output(&["restore", "--replace", backup]).status.success());
    let before = files(&plant.store());
    let (found, _) = doctor(&plant);
    is(&found, ("evidence", "database"), "ok", &["is whole"]);
    assert!(plant.output(&["anchor", "status"]).status.success());
    assert!(files(&plant.store()) == before, "{:?}", files(&plant.store()).keys());

    // The user version in SQLite's header, big-endian.
    let file = plant.store().join("evidence.db");
    let mut older = std::fs::read(&file).unwrap();
    older[63] -= 1;
    std::fs::write(&file, &older).unwrap();
    let (found, _) = doctor(&plant);
    is(&found, ("evidence", ""), "look", &["of version ", "start the daemon"]);
    assert!(std::fs::read(&file).unwrap() == older);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_open_is_told() {
    let pty = super::pty::Pty::new();
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("port");
    let pty = pty.named(&name);
    let (plant, _) = Plant::new(&line("c", name.display(), &[("one", 1)]).replace("tcp = ", "serial = "));
    let subject = format!("c {}", name.display());
    let held = std::fs::File::open(&pty.port).unwrap();
    let mut other = std::process::Command::new("sleep").arg("60").stdin(held).spawn().unwrap();
    let (found, code) = doctor(&plant);
    let pid = other.id().to_string();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(code, Some(1));
    is(&found, ("port", &subject), "broken", &["as well", &pid, "two masters"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_with_what_makes_room() {
    let Some(disk) = Disk::mount(24) else { return };
    let (_meter, plant, mut daemon) = storing_on(&disk).await;
    disk.fill();
    daemon.status(|status| status["store"]["reserve_used"] == true || !status["store"]["unwritable"].is_null()).await;
    let (found, code) = doctor(&plant);
    assert_eq!(code, Some(1), "{found:#?}");
    is(&found, ("disk", ""), "broken", &[disk.path().to_str().unwrap(), "tmpfs", "make room"]);
    is(&found, ("disk", "reserve"), "look", &["are given up", "by itself"]);
    disk.make_room();
    daemon.status(|status| status["store"]["reserve_used"] == false && status["store"]["unwritable"].is_null()).await;
    let (found, code) = doctor(&plant);
    assert_eq!(code, Some(0), "{found:#?}");
    is(&found, ("disk", ""), "ok", &["free"]);
}

#[tokio::test]
async fn what_cannot_be_looked_at_ends_with_2() {
    let plant = Plant::bare("");
    let (found, code) = doctor(&plant);
    assert_eq!(code, Some(1));
    is(&found, ("evidence", ""), "broken", &["there is no store at", "meterseal init"]);
    std::fs::remove_file(plant.config()).unwrap();
    let refused = plant.output(&["doctor"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("cannot be read"));
    assert_eq!(plant.output(&["doctor", "--jason"]).status.code(), Some(2));
}
