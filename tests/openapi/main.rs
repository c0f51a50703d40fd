//! What the gateway says of its interface (OpenAPI), held against what it answers: schemathesis asks every operation what
//! fits and what does not. `tests/setup` installs it.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(dead_code, reason = "the plant of the other web tests can do more")]

mod doors;
mod edits;
#[path = "../agent/plant.rs"]
mod gateway;
#[path = "../web/plant.rs"]
mod plant;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use plant::Plant;

/// More than twice what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(180);

/// Feeds have no end, and each case would wait for their next event; a WebSocket is no question with an answer. The first
/// token is the one with which all is asked: it must not be revoked.
const NEVER_ASKED: [&str; 4] = ["/api/events", "/api/bulk/{id}/events", "/ws", "/api/tokens/{id}"];

/// What may be asked for where, and what schemathesis cannot know of its own accord.
struct Plan<'a> {
    url: String,
    token: &'a str,
    /// Names that are there, for the `{id}` and `{name}` of paths that match.
    known: &'a [(&'a str, &'a str, &'a [&'a str])],
    left_out: &'a [&'a str],
    /// Only these operations, by their paths.
    only: Option<&'a str>,
    /// Of each kind, for each operation.
    examples: usize,
    /// Operations that must have succeeded at least once: else it was not looked at what they answer.
    succeed: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_answers_as_it_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
    command.args(["demo", "--listen", "127.0.0.1:0"]).env("TMPDIR", folder.path()).kill_on_drop(true);
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let page = lines.next_line().await.unwrap().unwrap();
    let pin = lines.next_line().await.unwrap().unwrap();
    assert!(pin.starts_with("pin: "), "{pin}");
    let token = lines.next_line().await.unwrap().unwrap();
    let (page, token) = (page.strip_prefix("page: ").unwrap(), token.strip_prefix("token: ").unwrap());
    let url = page.split('#').next().unwrap().trim_end_matches('/').to_owned();
    let meters = asked(&url, token, "/api/meters").await;
    let meters: Vec<&str> = meters.as_array().unwrap().iter().map(|meter| meter["id"].as_str().unwrap()).collect();
    let plan = Plan {
        url: url.clone(),
        token,
        known: &[("^/api/(meters|channels)/", "id", &meters)],
        // A search would look for meters at whatever address comes out, beyond this machine too.
        left_out: &["/api/scan"],
        only: None,
        examples: 4,
        succeed: 20,
    };
    plan.carry_out(folder.path()).await;
    let health = asked(&url, token, "/api/health").await;
    assert_ne!(health["status"], "failing", "{health:#}");
    assert!(demo.try_wait().unwrap().is_none(), "the daemon has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plant_with_all_there_is_answers_as_it_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let mut plant = Plant::start().await;
    let exports = doors::furnish(&plant).await;
    let (url, token) = (plant.url(""), plant.token.clone());
    let exports: Vec<&str> = exports.iter().map(String::as_str).collect();
    let known: [(&str, &str, &[&str]); 6] = [
        ("^/api/(meters|channels)/", "id", &["main", "total"]),
        ("^/api/anchor/", "id", &["1", "2", "3"]),
        ("^/api/bulk/", "id", &exports),
        ("^/api/upstream/", "name", &["cloud", "history"]),
        ("^/api/connections/", "name", &["historian", "old"]),
        ("^/log/", "epoch", &[&doors::epoch(&plant)]),
    ];
    let plan =
        Plan { url: url.clone(), token: &token, known: &known, left_out: &[], only: None, examples: 4, succeed: 30 };
    tokio::select! {
        () = plan.carry_out(folder.path()) => {}
        () = doors::answer(&mut plant) => unreachable!("it answers until it is dropped"),
    }
    assert_eq!(asked(&url, &token, "/api/meters").await.as_array().unwrap().len(), 2);
    plant.end().await;
}

/// The others have no config file, or a stand-in for who edits it: here what is asked for is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_config_is_edited_answers_as_it_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = edits::Gateway::start().await;
    gateway.furnish().await;
    let plan = Plan {
        url: gateway.url.clone(),
        token: &gateway.token,
        known: &[
            ("^/api/meters/", "id", &["main"]),
            ("^/api/connections/", "name", &["one", "two", "three"]),
            ("^/api/queries/", "name", &["points", "free"]),
        ],
        // It would ask whatever address comes out.
        left_out: &["/api/connections/{name}/test"],
        only: Some(r"^/api/(config|connections|queries|meters/\{id\}$)"),
        examples: 6,
        succeed: 6,
    };
    plan.carry_out(folder.path()).await;
    for (folder, body) in edits::made() {
        // It may have been deleted, or there still.
        gateway.ask(Method::POST, folder, &body).await;
    }
    gateway.twist().await;
    let health = asked(&gateway.url, &gateway.token, "/api/health").await;
    assert_ne!(health["status"], "failing", "{health:#}");
    gateway.end().await;
}

impl Plan<'_> {
    async fn carry_out(&self, folder: &Path) {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/venv/bin/schemathesis");
        assert!(program.exists(), "schemathesis is not installed: run tests/setup");
        fs::write(folder.join("schemathesis.toml"), self.config()).unwrap();
        let mut command = Command::new(program);
        command.args(["run", &format!("{}/api/openapi.json", self.url), "--no-color"]);
        command.args(["--header", &format!("Authorization: Bearer {}", self.token)]);
        command.args(self.only.iter().flat_map(|only| ["--include-path-regex", only]));
        command.args(["--report", "ndjson", "--report-ndjson-path", "report.ndjson"]);
        command.current_dir(folder).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.expect("schemathesis is done in time").unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        if std::env::var_os("SCHEMATHESIS_REPORT").is_some() {
            println!("{told}");
        }
        assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
        let answered = statuses(&folder.join("report.ndjson"));
        let failing: Vec<_> = answered.iter().filter(|(_, statuses)| !statuses.iter().any(|one| *one < 300)).collect();
        assert!(
            answered.len() - failing.len() >= self.succeed,
            "{} of {} operations succeeded; never: {failing:#?}",
            answered.len() - failing.len(),
            answered.len()
        );
    }

    fn config(&self) -> String {
        let mut config = CONFIG.replace("EXAMPLES", &self.examples.to_string());
        for (at, (path, parameter, names)) in self.known.iter().enumerate() {
            // A number is one, or it would not fit the schema of its parameter.
            let is_number = |name: &&str| name.bytes().all(|digit| digit.is_ascii_digit());
            let shown = |name: &&str| if is_number(name) { (*name).to_owned() } else { format!("{name:?}") };
            let names = names.iter().map(shown).collect::<Vec<_>>().join(", ");
            write!(
                config,
                "[dictionaries.known{at}]\nvalues = [{names}]\n[[operations]]\ninclude-path-regex = {path:?}\n\
                 parameters = {{ \"path.{parameter}\" = {{ dictionary = \"known{at}\", probability = 0.7 }} }}\n"
            )
            .unwrap();
        }
        for path in NEVER_ASKED.iter().chain(self.left_out) {
            writeln!(config, "[[operations]]\ninclude-path = {path:?}\nenabled = false").unwrap();
        }
        config
    }
}

/// Reproducible, and short. One case at a time, since some queues hold one. What is not held: that all which fits its
/// schema is accepted, since one parameter may contradict another (`from` after `to`).
const CONFIG: &str = r#"
seed = 1
request-timeout = 10
continue-on-failure = true
[generation]
max-examples = EXAMPLES
deterministic = true
database = "none"
no-shrink = true
[phases.stateful]
enabled = false
[checks.positive_data_acceptance]
enabled = false
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 414, 429]
"#;

/// The statuses that came, by operation.
fn statuses(report: &Path) -> BTreeMap<String, BTreeSet<u64>> {
    let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for line in fs::read_to_string(report).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let told = &event["ScenarioFinished"]["recorder"];
        let Some(operation) = told["label"].as_str() else { continue };
        let interactions = told["interactions"].as_object().into_iter().flatten();
        let statuses = interactions.filter_map(|(_, interaction)| interaction["response"]["status_code"].as_u64());
        found.entry(operation.to_owned()).or_default().extend(statuses);
    }
    found
}

async fn asked(url: &str, token: &str, path: &str) -> Value {
    rustls::crypto::ring::default_provider().install_default().ok();
    let request = reqwest::Client::new().get(format!("{url}{path}")).bearer_auth(token);
    serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
}
