//! The evidence log as an agent keeps it: served to everybody, signed, and begun anew where it may not go on.

use std::fs;
use std::path::Path;

use meterseal::clock::Clock;
use meterseal::model::entry::{Entry, EntryKind, Reason};
use meterseal::model::merkle::{self, Frontier};
use meterseal::model::note::{SignedCheckpoint, VerifierKey};
use meterseal::model::{AlertKind, Digest};
use meterseal::store::Store;
use serde_json::Value;

use super::plant::Plant;
use super::{client, until};

/// An epoch as `/log/` lists it.
struct Listed {
    epoch: String,
    origin: String,
    key: VerifierKey,
    reason: Reason,
}

async fn listed(address: std::net::SocketAddr) -> Vec<Listed> {
    let text = client().get(format!("http://{address}/log/")).send().await.unwrap().text().await.unwrap();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let word = |epoch: &Value, name: &str| epoch[name].as_str().unwrap().to_owned();
    let read = |epoch: &Value| Listed {
        epoch: word(epoch, "epoch"),
        origin: word(epoch, "origin"),
        key: word(epoch, "key").parse().unwrap(),
        reason: Reason::named(&word(epoch, "reason")).unwrap(),
    };
    list.iter().map(read).collect()
}

/// Fetches a small epoch as any stranger may, and recomputes all of it: its checkpoint and its entries.
async fn fetched(address: std::net::SocketAddr, epoch: &str) -> (SignedCheckpoint, Vec<Entry>) {
    let get = async |path: String| {
        let answer = client().get(format!("http://{address}/log/{epoch}/{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.bytes().await.unwrap()
    };
    let note = String::from_utf8(get("checkpoint".into()).await.to_vec()).unwrap();
    let signed: SignedCheckpoint = note.parse().unwrap();
    let size = signed.checkpoint.size;
    assert!((1..256).contains(&size), "one partial tile is enough here");
    let (hashes, data) = (get(format!("tile/0/000.p/{size}")).await, get(format!("tile/entries/000.p/{size}")).await);
    let (mut tree, mut rest, mut entries) = (Frontier::default(), &data[..], Vec::new());
    for hash in hashes.chunks(32) {
        let (length, after) = rest.split_first_chunk::<2>().unwrap();
        let (entry, after) = after.split_at(u16::from_be_bytes(*length).into());
        assert_eq!(merkle::leaf(entry), Digest::from_bytes(hash.try_into().unwrap()));
        tree.push(merkle::leaf(entry));
        entries.push(Entry::from_bytes(entry).unwrap());
        rest = after;
    }
    assert!(rest.is_empty());
    assert_eq!((tree.size(), tree.root()), (size, signed.checkpoint.root));
    let beyond = client().get(format!("http://{address}/log/{epoch}/tile/0/000.p/{}", size + 1)).send().await.unwrap();
    // Another entry may have been signed meanwhile.
    let newer: SignedCheckpoint = String::from_utf8(get("checkpoint".into()).await.to_vec()).unwrap().parse().unwrap();
    assert!(beyond.status() == 404 || newer.checkpoint.size > size, "nothing is shown that is not signed");
    (signed, entries)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &to) } else { fs::copy(entry.path(), to).map(|_| ()).unwrap() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_follow_the_log() {
    let (plant, _) = Plant::new("");
    let agent = plant.agent().await;
    until(async || {
        client()
            .get(format!("http://{}/log/", agent.address()))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("\"size\":2")
    })
    .await;
    let epochs = listed(agent.address()).await;
    assert_eq!((epochs.len(), epochs[0].reason), (1, Reason::Init));
    let (signed, entries) = fetched(agent.address(), &epochs[0].epoch).await;
    assert_eq!(signed.checkpoint.origin, epochs[0].origin);
    signed.verify(&[&epochs[0].key]).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.kind).collect::<Vec<_>>(), [EntryKind::Succession, EntryKind::Config]);
    assert_eq!(fs::read_to_string(plant.mark()).unwrap(), signed.note(), "what is shown is marked");
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_back_in_time_begins_a_new_epoch() {
    let (plant, _) = Plant::new("");
    plant.agent().await.stop().await.unwrap();
    let backup = plant.store().with_extension("backup");
    copy(&plant.store(), &backup);
    // Goes on, and signs what the backup does not know.
    plant.write("# another config\n");
    plant.agent().await.stop().await.unwrap();
    let ahead: SignedCheckpoint = fs::read_to_string(plant.mark()).unwrap().parse().unwrap();

    fs::remove_dir_all(plant.store()).unwrap();
    copy(&backup, &plant.store());
    let agent = plant.agent().await;
    let epochs = listed(agent.address()).await;
    assert_eq!(epochs.iter().map(|epoch| epoch.reason).collect::<Vec<_>>(), [Reason::Init, Reason::Rollback]);
    assert_eq!(epochs[0].key.public(), epochs[1].key.public(), "the gateway is the same");
    assert_eq!(ahead.checkpoint.origin, epochs[0].origin);
    // It is signed a moment after the start, and nothing is shown before.
    let first = async || agent.reader().openings(&epochs[1].epoch, vec![0]).await.unwrap();
    until(async || !first().await.is_empty()).await;
    let record: Value = serde_json::from_slice(&first().await[0].record).unwrap();
    assert_eq!(record["last_outside"], ahead.note());
    assert_eq!(record["old_origin"], epochs[0].origin);
    let alerts = agent.reader().alerts(true, 10).await.unwrap();
    assert!(alerts.iter().any(|alert| alert.kind == AlertKind::LogBeganAnew), "{alerts:?}");
    agent.stop().await.unwrap();

    // From then on it is an ordinary log: nothing more is opened.
    let agent = plant.agent().await;
    assert_eq!(listed(agent.address()).await.len(), 2);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_site_begins_a_new_epoch_of_the_same_gateway() {
    let (plant, _) = Plant::new("");
    plant.agent().await.stop().await.unwrap();
    let text = fs::read_to_string(plant.config()).unwrap();
    fs::write(plant.config(), text.replace("id = \"test\"", "id = \"moved\"")).unwrap();
    let agent = plant.agent().await;
    // Before the new epoch is signed nothing of the log is shown.
    let newest = agent.reader().identity().epoch.clone();
    until(async || {
        client().get(format!("http://{}/log/{newest}/checkpoint", agent.address())).send().await.unwrap().status()
            == 200
    })
    .await;
    let epochs = listed(agent.address()).await;
    assert_eq!(epochs.iter().map(|epoch| epoch.reason).collect::<Vec<_>>(), [Reason::Init, Reason::Site]);
    assert!(epochs[0].origin.starts_with("test/") && epochs[1].origin.starts_with("moved/"));
    let (signed, _) = fetched(agent.address(), &epochs[0].epoch).await;
    signed.verify(&[&epochs[0].key]).unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_vouched_for_by_the_old_one() {
    let (plant, _) = Plant::new("");
    let shown = |arguments: &[&str]| {
        let output = plant.output(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // Once without a daemon, once through it.
    let first: VerifierKey = shown(&["key", "show"]).trim_end().parse().unwrap();
    shown(&["key", "rotate"]);
    let agent = plant.agent().await;
    tokio::task::block_in_place(|| shown(&["key", "rotate"]));
    let epochs = listed(agent.address()).await;
    assert_eq!(
        epochs.iter().map(|epoch| epoch.reason).collect::<Vec<_>>(),
        [Reason::Init, Reason::KeyRotation, Reason::KeyRotation]
    );
    assert_eq!(epochs[0].key, first);
    for pair in epochs.windows(2) {
        assert_ne!(pair[0].key.public(), pair[1].key.public());
        let (signed, entries) = fetched(agent.address(), &pair[0].epoch).await;
        signed.verify(&[&pair[0].key, &pair[1].key]).unwrap();
        assert_eq!(entries.last().unwrap().kind, EntryKind::Key);
    }
    let newest: VerifierKey = tokio::task::block_in_place(|| shown(&["key", "show"])).trim_end().parse().unwrap();
    assert_eq!(newest, epochs[2].key);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_of_the_trust_page_fetches_a_log_that_can_be_verified() {
    let (plant, _) = Plant::new("");
    let config = plant.load().config.unwrap();
    let store = Store::open(config.store, Clock::trusted(), None).unwrap();
    // Whole tiles, partial ones, and a level above.
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    for _ in 0..520 {
        store.ledger().note_download(id, meterseal::model::Actor::here("first")).await.unwrap();
    }
    store.close().await.unwrap();
    let agent = plant.agent().await;
    let text = include_str!("../../docs/trust.md").split_once("## To keep the whole public log").unwrap().1;
    let script: String = text.lines().filter_map(|line| Some(line.strip_prefix("    ")?.to_owned() + "\n")).collect();
    let script = script.replace("http://127.0.0.1:3001", &format!("http://{}", agent.address()));
    let (folder, mut keys) = (tempfile::tempdir().unwrap(), listed(agent.address()).await);
    until(async || {
        agent.reader().checkpoint(&keys[0].epoch).await.unwrap().is_some_and(|kept| kept.checkpoint.size > 520)
    })
    .await;
    let run = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).current_dir(folder.path());
        tokio::task::block_in_place(|| command.output().unwrap())
    };
    let fetched = run("bash", &["-euo", "pipefail", "-c", &script]);
    assert!(fetched.status.success() && fetched.stderr.is_empty(), "{fetched:?}");
    let key = keys.remove(0);
    let verified = run(env!("CARGO_BIN_EXE_meterseal"), &["verify", &key.epoch, "--key", &key.key.to_string()]);
    let said = String::from_utf8(verified.stdout).unwrap();
    assert!(said.contains(" entries of "), "{said}");
    assert_eq!(verified.status.code(), Some(3), "all holds, and only an anchor is missing: {said}");
    assert!(folder.path().join(&key.epoch).join("tile/1/000.p/2").is_file());
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rotated_is_told_in_the_log_of_the_daemon() {
    let (plant, _) = Plant::new("");
    let mut daemon = plant.daemon();
    daemon.status(|_| true).await;
    let rotated = tokio::task::block_in_place(|| plant.output(&["key", "rotate", "--json"]));
    let view: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    daemon.signal(rustix::process::Signal::TERM);
    let (_, said) = tokio::task::block_in_place(|| daemon.ended());
    let line = said.lines().find(|line| line.contains("a new key")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(view["key"].as_str().unwrap()) && line.contains(view["origin"].as_str().unwrap()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_cannot_be_written_is_told_and_stops_nothing() {
    // The lines follow those of the store.
    let (plant, _) = Plant::new("mark = \"/proc/mark\"\n");
    let mut daemon = plant.daemon();
    let status = daemon.status(|status| status["problems"].to_string().contains("store.mark")).await;
    let page = status["page"].as_str().unwrap().trim_start_matches("http://").trim_end_matches('/');
    let epochs = listed(page.parse().unwrap()).await;
    fetched(page.parse().unwrap(), &epochs[0].epoch).await.0.verify(&[&epochs[0].key]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn init_remembers_the_machine() {
    let plant = Plant::bare("");
    let output = plant.output(&["init"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let store = Store::open(plant.load().config.unwrap().store, Clock::trusted(), None).unwrap();
    let kept = store.reader().state("evidence.hardware").await.unwrap();
    assert!(kept.is_some(), "an image made after init would be at home anywhere");
    let epochs = store.reader().epochs().await.unwrap();
    assert!(said.contains(&format!("key:     {}\n", epochs[0].key)), "{said}");
    store.close().await.unwrap();
}
