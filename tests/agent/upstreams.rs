//! Upstreams as whoever runs the daemon meets them: one that works, one that is dead, and one that comes later.

#[path = "../peers/receiver.rs"]
pub mod receiver;

use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{Number, Reading};
use meterseal::store::{self, Created, Store};
use receiver::{Faults, Receiver};
use serde_json::{Value, json};

use super::layout::layout;
use super::meter::FakeMeter;
use super::plant::{Plant, line};
use super::{client, until};

fn part(name: &str, url: &str) -> String {
    format!("[[upstream]]\nname = \"{name}\"\nkind = \"https\"\nurl = \"{url}\"\n")
}

/// What the meter showed in the two hours before: blocks of it are sealed as soon as the daemon runs.
async fn with_history(plant: &Plant) -> Created {
    let config = plant.load().config.unwrap();
    let now = Clock::trusted().now();
    let clock = Clock::manual(now.plus_millis(-7_200_000));
    let created = store::init(&config.store, &config.site_id, &clock).unwrap();
    let store = Store::open(config.store, clock.clone(), None).unwrap();
    let layout = layout("one", 60_000, &[("energy_import_kwh", "1")]);
    for minute in 0..119_u64 {
        clock.advance(Duration::from_secs(60));
        let values = vec![(0, Number::U64(minute))];
        let reading = Reading { layout: layout.clone(), taken: clock.stamp(), values: values.into() };
        store.ingest().store(vec![reading]).await.unwrap();
    }
    store.close().await.unwrap();
    created
}

/// How many records of a stream there are.
fn count(receiver: &Receiver, stream: &str) -> usize {
    receiver.records().keys().filter(|(_, _, of, _)| of == stream).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_holds_up_no_other_and_all_is_told() {
    let (meter, folder) = (FakeMeter::start().await, tempfile::tempdir().unwrap());
    let place = |name: &str| {
        let place = folder.path().join(name);
        std::fs::create_dir(&place).unwrap();
        place
    };
    let (cloud, later) = (Receiver::start(&place("cloud")), Receiver::start(&place("later")));
    let dead = "http://127.0.0.1:1/v1/sync";
    let lines = line("a", meter.address, &[("one", 1)]) + &part("cloud", &cloud.url) + &part("dead", dead);
    let plant = Plant::bare(&lines);
    let Created { key, token, .. } = with_history(&plant).await;
    cloud.know(&key);
    later.know(&key);
    let mut agent = plant.agent().await;
    let address = agent.address();
    let get = async |path: &str| {
        let answer = client().get(format!("http://{address}{path}")).bearer_auth(&token).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let told = async |name: &str| -> Value {
        let all: Vec<Value> = serde_json::from_str(&get("/api/upstream").await).unwrap();
        all.into_iter().find(|one| one["name"] == name).unwrap()
    };
    let stream = async |name: &str, stream: &str| {
        let told = told(name).await;
        told["streams"].as_array().unwrap().iter().find(|one| one["stream"] == stream).cloned().unwrap()
    };

    // What is sealed and what is read arrives, though the other one is dead.
    until(async || count(&cloud, "blocks") >= 3 && count(&cloud, "readings") > 130).await;
    until(async || told("cloud").await["state"] == "connected" && told("dead").await["state"] == "away").await;
    until(async || stream("cloud", "blocks").await["depth"] == 0).await;
    assert_eq!(cloud.checkpoints().len(), 1);
    let lines = cloud.lines("readings");
    assert!(lines.iter().any(|line| line.contains("\"power_kw\":1.052")), "{}", lines[0]);
    let health: Value = serde_json::from_str(&get("/api/health").await).unwrap();
    let problem = health["problems"].as_array().unwrap().iter().find_map(|problem| problem.as_str());
    assert_eq!(health["status"], "degraded");
    assert!(problem.unwrap().starts_with("upstream dead is away: "), "{health}");
    let metrics = get("/metrics").await;
    for sample in ["meterseal_upstream_up{upstream=\"cloud\"} 1\n", "meterseal_upstream_up{upstream=\"dead\"} 0\n"] {
        assert!(metrics.contains(sample), "{sample} is not in\n{metrics}");
    }

    // A third one comes, and gets all; those that are there do not notice.
    plant.write(
        &(line("a", meter.address, &[("one", 1)])
            + &part("cloud", &cloud.url)
            + &part("dead", dead)
            + &part("later", &later.url)),
    );
    assert_eq!(agent.reload().await.changed, ["upstream"]);
    until(async || count(&later, "blocks") == count(&cloud, "blocks") && count(&later, "readings") > 130).await;
    let of_cloud = stream("cloud", "readings").await;
    assert_eq!((&of_cloud["repeated"], &of_cloud["rejected"]), (&json!(0), &json!(0)));

    // One record is refused: it is put aside, the rest flows, and it goes when it is sent again.
    let poison = of_cloud["head"].as_u64().unwrap() + 20;
    cloud.set(Faults { reject: [poison].into(), ..Faults::default() });
    until(async || told("cloud").await["dead_letters"] == 1).await;
    until(async || cloud.records().keys().any(|(_, _, stream, seq)| stream == "readings" && *seq > poison)).await;
    let letters: Value = serde_json::from_str(&get("/api/upstream/cloud/dead-letters").await).unwrap();
    assert_eq!((&letters[0]["stream"], &letters[0]["seq"]), (&json!("readings"), &json!(poison)));
    let listed = said(&plant, &["upstream", "dead-letters", "cloud"]);
    assert!(listed.contains(&format!("readings {poison} of epoch")), "{listed}");
    cloud.set(Faults::default());
    assert!(said(&plant, &["upstream", "replay", "cloud"]).starts_with("they are sent again; "));
    until(async || told("cloud").await["dead_letters"] == 0).await;
    assert!(cloud.records().keys().any(|(_, _, stream, seq)| stream == "readings" && *seq == poison));
    assert_eq!(said(&plant, &["upstream", "dead-letters", "cloud"]), "there are none\n");
    assert!(said(&plant, &["upstream", "replay", "cloud"]).ends_with("there is nothing to send again\n"));

    // Commands tell the same as the API.
    let table = said(&plant, &["upstream"]);
    assert!(table.contains(&format!("cloud: https to {}, connected since ", cloud.url)), "{table}");
    assert!(table.contains("dead: https to http://127.0.0.1:1/v1/sync, away since "), "{table}");
    said(&plant, &["upstream", "flush", "dead"]);
    let unknown = plant.output(&["upstream", "flush", "other"]);
    assert_eq!(unknown.status.code(), Some(1));
    agent.stop().await.unwrap();

    // Without a daemon the store tells how far they are.
    let table = said(&plant, &["upstream", "status"]);
    assert!(table.starts_with("no daemon runs"), "{table}");
    let json: Value = serde_json::from_str(&said(&plant, &["upstream", "--json"])).unwrap();
    assert_eq!((&json["running"], &json["upstreams"][0]["name"]), (&json!(false), &json!("cloud")));
    let blocks = json["upstreams"][0]["streams"].as_array().unwrap().iter().find(|one| one["stream"] == "blocks");
    assert!(blocks.unwrap()["position"]["live"].as_u64().unwrap() >= 3, "{json}");
    let flush = plant.output(&["upstream", "flush", "cloud"]);
    assert!(String::from_utf8(flush.stderr).unwrap().contains("while the daemon does not run"));
    let none = "cloud has refused nothing: there is nothing to discard\n";
    assert_eq!(said(&plant, &["upstream", "discard", "cloud", "--all"]), none);
}

/// What a command that succeeds prints.
fn said(plant: &Plant, arguments: &[&str]) -> String {
    let output = plant.output(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
