//! The config by the API: shown without its secrets, tried, read again, added to; what runs; and what helps from afar.

use std::io::Read as _;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use reqwest::Method;
use serde_json::{Value, json};

use crate::edits::Api;
use crate::meter::FakeMeter;
use crate::plant::{Plant, line};
use crate::{client, id, live};

/// Each stands in the config, and nowhere else.
const SECRETS: [&str; 10] = [
    "of-influx-password",
    "of-influx-token",
    "of-webhook-path",
    "of-webhook-body",
    "of-mqtt-password",
    "of-upstream-token",
    "of-a-comment",
    "of-an-address",
    "of-a-node",
    "0f5ee1ab0f5ee1ab0f5ee1ab",
];

fn secretive() -> String {
    r#"
# token = "of-a-comment"
[alerts.webhook]
url = "http://127.0.0.1:9/hooks/of-webhook-path"
body = '{"key":"of-webhook-body","text":"{{text}}"}'
[[influx]]
name = "one"
version = 1
url = "http://127.0.0.1:9"
database = "plant"
username = "reader"
password = "of-influx-password"
[[influx]]
name = "two"
version = 2
url = "http://127.0.0.1:9"
org = "plant"
bucket = "energy"
token = "of-influx-token"
[[mqtt]]
name = "broker"
url = "mqtt://127.0.0.1:9"
username = "meterseal"
password = "of-mqtt-password"
[[mqtt.subscribe]]
topic = "tele/#"
format = "tasmota"
category = "CONS"
[[upstream]]
name = "cloud"
kind = "https"
url = "https://127.0.0.1:9/api/0f5ee1ab0f5ee1ab0f5ee1ab"
token = "of-upstream-token"
[anchor]
chain_id = 137
rpc = ["https://127.0.0.1:9/v3/of-a-node"]
key = { credential = "nowhere" }
"#
    .to_owned()
}

fn no_secret(text: &str, what: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} has {secret}: {text}");
    }
}

/// Names and contents of an archive, in its order.
fn unpacked(packed: &[u8]) -> Vec<(String, String)> {
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    while bytes[at] != 0 {
        let text = |from: usize, to: usize| {
            let field = bytes[at + from..at + to].split(|byte| *byte == 0).next().unwrap();
            String::from_utf8(field.to_vec()).unwrap()
        };
        let size = usize::from_str_radix(&text(124, 136), 8).unwrap();
        let content = String::from_utf8(bytes[at + 512..at + 512 + size].to_vec()).unwrap();
        found.push((text(0, 100), content));
        at += 512 + size.next_multiple_of(512);
    }
    assert_eq!(bytes.len(), at + 1_024, "an archive ends with two empty blocks");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_config_nor_a_support_bundle_tells_a_secret() {
    let meter = FakeMeter::start().await;
    let lines = line("a", meter.address, &[("main", 2)]);
    let (plant, token) = Plant::new(&format!("{lines}{}", secretive()));
    let api = Api::start(&plant, &token).await;
    live(&api.reader, |live| live.contains_key(&id("main"))).await;
    let made = json!({"name": "made", "version": 1, "url": "http://127.0.0.1:9", "database": "d",
                      "username": "u", "password": "of-an-address"});
    assert_eq!(api.ask(Method::POST, "/api/connections", Some(made)).await.0, 201);
    let config = api.get("/api/config").await;
    assert_eq!(config["path"], plant.config().display().to_string());
    let text = config["files"][0]["text"].as_str().unwrap();
    assert!(text.contains("password = \"***\"") && text.contains("username = \"reader\""), "{text}");
    assert!(text.contains("[[modbus]]") && text.contains("# ***"), "{text}");
    assert_eq!(config["files"].as_array().unwrap().len(), 1, "what was made here is no file");
    assert!(config["warnings"].as_array().unwrap().iter().any(|told| told["key"] == "influx[0].password"), "{config}");
    assert_eq!(config["faults"], json!([]));
    no_secret(&config.to_string(), "the config");

    let members = unpacked(&api.bytes("/api/support").await);
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["about.json", "health.json", "sources.json", "upstreams.json", "alerts.json", "config.json", "log.txt"]
    {
        assert!(names.contains(&format!("meterseal-support/{name}").as_str()), "{names:?}");
    }
    assert!(names.contains(&"meterseal-support/config/00-meterseal.toml"), "{names:?}");
    let all: String = members.iter().map(|(_, content)| content.as_str()).collect();
    no_secret(&all, "the bundle");
    let evidence = rusqlite::Connection::open(plant.store().join("evidence.db")).unwrap();
    let key: Vec<u8> = evidence.query_row("SELECT private FROM keys", [], |row| row.get(0)).unwrap();
    let hash: Vec<u8> = evidence.query_row("SELECT sha256 FROM tokens", [], |row| row.get(0)).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for secret in [token.clone(), hex(&key), hex(&hash)] {
        assert!(!all.contains(&secret), "a key or a token is in the bundle");
    }
    // The power that the meter tells.
    assert!(!all.contains("2.052"), "a reading is in the bundle");
    assert!(all.contains("\"main\""), "{all}");
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_support_bundle_does_not_open_the_gateway() {
    let (plant, token) = Plant::new("");
    let mut daemon = plant.daemon();
    let status = daemon.status(|status| status["page"].is_string()).await;
    let url = format!("{}api/support", status["page"].as_str().unwrap());
    let log_of = async || {
        let bundle = client().get(&url).bearer_auth(&token).send().await.unwrap().bytes().await.unwrap();
        unpacked(&bundle).into_iter().find(|(name, _)| name.ends_with("log.txt")).unwrap().1
    };
    // It says that it runs a moment after its socket answers.
    let until = Instant::now() + Duration::from_secs(20);
    let mut log = log_of().await;
    while !log.contains("running") {
        assert!(Instant::now() < until, "{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        log = log_of().await;
    }
    daemon.signal(rustix::process::Signal::TERM);
    let (_, said) = tokio::task::block_in_place(|| daemon.ended());
    let code = said.split("set-up code: ").nth(1).and_then(|rest| rest.lines().next()).expect("the log tells one");
    assert!(code.len() >= 10 && !log.contains(code), "{code}: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_tried_read_again_and_added_to() {
    let meter = FakeMeter::start().await;
    let (plant, token) = Plant::new(&line("a", meter.address, &[("main", 2)]));
    let api = Api::start(&plant, &token).await;
    let check = async |text: &str| api.ask(Method::POST, "/api/config/check", Some(json!({ "text": text }))).await;
    let good = std::fs::read_to_string(plant.config()).unwrap();
    assert_eq!(check(&good).await, (200, json!({"faults": [], "warnings": []})));
    let (_, tried) = check(&good.replace("unit = 2", "unti = 2")).await;
    let fault = &tried["faults"][0];
    assert_eq!((&fault["text"], &fault["key"]), (&json!("no such key"), &json!("modbus[0].meter[0].unti")));
    assert!(fault["hint"].as_str().unwrap().contains("unit") && fault["line"].as_u64() > Some(1), "{fault}");
    assert_eq!(api.get("/api/config").await["faults"], json!([]), "what is tried is not taken");

    let other = FakeMeter::start().await;
    let add = async |text: &str| api.ask(Method::POST, "/api/config/meters", Some(json!({ "text": text }))).await;
    let (status, problem) = add(&line("b", other.address, &[("main", 3)])).await;
    assert_eq!(status, 400, "{problem}");
    assert!(problem["faults"][0]["text"].as_str().unwrap().contains("`main` is the id of another meter"), "{problem}");
    for (wrong, told) in [("[site]\nid = \"x\"\n", "[[modbus]]"), ("", "nothing"), ("x = ", "not TOML")] {
        let (status, problem) = add(wrong).await;
        assert!(status == 400 && problem["detail"].as_str().unwrap().contains(told), "{problem}");
    }
    // Neither door sends a file of the gateway to a host of somebody's choice, nor tells what is in one.
    let broker = "[[mqtt]]\nname = \"x\"\nurl = \"mqtts://127.0.0.1:9\"\nusername = \"u\"\n";
    for (line, told) in [
        ("password = { file = \"/etc/hostname\" }\n", "references are for files"),
        ("ca = \"/etc/hostname\"\n", "paths are for files"),
    ] {
        let (status, problem) = add(&format!("{broker}{line}")).await;
        assert!(status == 400 && problem["faults"][0]["text"].as_str().unwrap().contains(told), "{problem}");
    }
    let secret = plant.config().with_file_name("secret");
    std::fs::write(&secret, "topsecret:more of it").unwrap();
    let hook = format!("{good}[alerts]\nwebhook = {{ url = {{ file = \"{}\" }} }}\n", secret.display());
    assert_eq!(check(&hook).await, (200, json!({"faults": [], "warnings": []})));
    let folder = plant.config().parent().unwrap().join("conf.d");
    assert!(!folder.exists(), "nothing was written");
    let (status, written) = add(&line("b", other.address, &[("second", 3)])).await;
    assert_eq!((status, &written["faults"]), (201, &json!([])), "{written}");
    assert_eq!(written["path"], folder.join("50-page.toml").display().to_string());
    assert!(written["changed"].as_array().unwrap().contains(&json!("sources")), "{written}");
    live(&api.reader, |live| live.contains_key(&id("second"))).await;
    assert_eq!(api.get("/api/config").await["files"].as_array().unwrap().len(), 2);
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["50-page.toml"], "nothing half-made stays");

    // A folder that cannot be written: it is a file.
    std::fs::remove_dir_all(&folder).unwrap();
    let (_, reloaded) = api.ask(Method::POST, "/api/config/reload", None).await;
    assert_eq!((&reloaded["faults"], reloaded["changed"].as_array().unwrap().is_empty()), (&json!([]), false));
    std::os::unix::fs::symlink("/proc/self/nowhere", &folder).unwrap();
    let text = line("b", other.address, &[("second", 3)]);
    let (status, problem) = add(&text).await;
    assert_eq!((status, &problem["text"]), (409, &json!(text)), "{problem}");
    assert!(problem["path"].as_str().unwrap().ends_with("conf.d/50-page.toml"), "{problem}");
    std::fs::remove_file(&folder).unwrap();

    plant.write("[broken");
    let (_, reloaded) = api.ask(Method::POST, "/api/config/reload", None).await;
    assert!(!reloaded["faults"].as_array().unwrap().is_empty());
    let shown = api.get("/api/config").await;
    assert_eq!(shown["faults"][0]["file"], plant.config().display().to_string());
    assert!(!shown["files"][0]["text"].as_str().unwrap().contains("broken"), "what is no TOML is not shown");
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_are_read_now_with_their_raw_words_and_what_runs_is_told() {
    let meter = FakeMeter::start().await;
    let mut lines = line("a", meter.address, &[("main", 2)]);
    lines += "[[sum]]\nid = \"total\"\ncategory = \"CONS\"\nadd = [\"main\"]\n";
    let (plant, token) = Plant::new(&lines);
    let api = Api::start(&plant, &token).await;
    live(&api.reader, |live| live.contains_key(&id("main"))).await;
    let report = api.get("/api/meters/main/registers").await;
    let power = report["values"].as_array().unwrap().iter().find(|value| value["quantity"] == "power_kw").unwrap();
    let raw = 2_052_f32.to_bits();
    assert_eq!((&power["register"], &power["value"]), (&json!(52), &json!(2.052)));
    assert_eq!(power["words"], json!([raw >> 16, raw & 0xffff]));
    assert!(report["time"].as_str().unwrap().ends_with('Z'));
    let (status, problem) = api.ask(Method::GET, "/api/meters/total/registers", None).await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("sum"), "{problem}");
    meter.unplug();
    let (one, other) = tokio::join!(
        api.ask(Method::GET, "/api/meters/main/registers", None),
        api.ask(Method::GET, "/api/meters/main/registers", None)
    );
    let mut found = [one.0, other.0];
    found.sort_unstable();
    assert_eq!(found, [409, 502], "one at a time: {one:?} {other:?}");

    let about = api.get("/api/about").await;
    assert_eq!((&about["version"], &about["site"]["id"]), (&json!(env!("CARGO_PKG_VERSION")), &json!("test")));
    assert_eq!((&about["fingerprint"], &about["licences"]), (&Value::Null, &json!("/licences.txt")));
    assert!(about["store"]["evidence_bytes"].as_u64() > Some(0) && about["uptime_s"].is_u64(), "{about}");
    assert_eq!(about["gateway"], api.reader.identity().gateway);
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_moves_the_page_is_answered() {
    let (plant, token) = Plant::new("");
    let api = Api::start(&plant, &token).await;
    let text = std::fs::read_to_string(plant.config()).unwrap();
    std::fs::write(plant.config(), text.replace("[web]\n", "[web]\ntls = \"self-signed\"\n")).unwrap();
    let (status, reloaded) = api.ask(Method::POST, "/api/config/reload", None).await;
    assert_eq!((status, &reloaded["changed"]), (200, &json!(["web"])), "{reloaded}");
    api.end().await;
}
