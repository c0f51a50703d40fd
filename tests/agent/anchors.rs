//! Anchoring as a client of the daemon sees it, with no node of the chain to be reached.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::plant::{Daemon, Plant};
use super::{client, until};

/// Of nobody: the number one.
const KEY: &str = "0x0000000000000000000000000000000000000000000000000000000000000001";

fn part(key: &str) -> String {
    format!("[anchor]\nchain_id = 80002\nrpc = [\"http://127.0.0.1:1\"]\nkey = {key}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_queued_and_says_what_it_waits_for() {
    let (plant, token) = Plant::new(&part(&format!("\"{KEY}\"")));
    let agent = plant.agent().await;
    let url = |path: &str| format!("http://{}{path}", agent.address());
    let get = async |path: &str| -> Value {
        let text = client().get(url(path)).bearer_auth(&token).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    };
    // The first one is due at once.
    until(async || get("/api/anchor").await["anchors"][0]["waiting"]["reason"] == "unreachable").await;
    let answer = client().post(url("/api/anchor")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    let asked: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let told = get("/api/anchor").await;
    assert_eq!(
        (&told["configured"], &told["chain"], &told["balance"]),
        (&json!(true), &json!("Polygon Amoy"), &Value::Null)
    );
    assert_eq!(told["account"], "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
    assert_eq!((&told["anchors"][0]["id"], &told["anchors"][0]["state"]), (&asked["id"], &json!("queued")));
    assert_eq!(told["anchors"].as_array().map(Vec::len), Some(1), "the one that waits has the newest checkpoint");
    assert_eq!((&told["covered"], &told["rpcs"][0]["name"]), (&Value::Null, &json!("http://127.0.0.1:1")));
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_there_turns_anchoring_off_and_nothing_else() {
    let (plant, token) = Plant::new(&part("{ file = \"/nowhere/key\" }"));
    let agent = plant.agent().await;
    let address = format!("http://{}/api/anchor", agent.address());
    until(async || {
        let answer = client().get(&address).bearer_auth(&token).send().await.unwrap().text().await.unwrap();
        let told: Value = serde_json::from_str(&answer).unwrap();
        told["off"].as_str().is_some_and(|why| why.contains("/nowhere/key"))
    })
    .await;
    let answer = client().post(&address).bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 409);
    assert!(answer.text().await.unwrap().contains("/nowhere/key"));
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_the_credential_asks_the_daemon_that_has_it() {
    let (plant, _) = Plant::new(&part("{ credential = \"anchor-key\" }"));
    let credentials = tempfile::tempdir().unwrap();
    fs::write(credentials.path().join("anchor-key"), KEY).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = plant.command(arguments);
        command.env_remove("CREDENTIALS_DIRECTORY");
        command
    };
    let alone = command(&["anchor", "status"]).output().unwrap();
    let said = String::from_utf8(alone.stderr).unwrap();
    assert_eq!(alone.status.code(), Some(1));
    assert!(said.contains("anchor-key cannot be seen") && said.contains("Start meterseal"), "{said}");

    let mut run = plant.command(&["run"]);
    run.env("CREDENTIALS_DIRECTORY", credentials.path());
    let mut daemon = Daemon::start(run, plant.socket());
    daemon.status(|_| true).await;
    until(async || {
        let status = command(&["anchor", "status", "--json"]).output().unwrap();
        let told: Value = serde_json::from_slice(&status.stdout).unwrap();
        told["status"]["account"] == "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"
    })
    .await;
    // It waits for a node; that it tells of the anchor at all is what is asked here.
    for wanted in ["now", "deploy"] {
        let followed = command(&["anchor", wanted, "--json"]).stdout(Stdio::piped()).spawn().unwrap();
        let followed = Followed(followed);
        let told: Value = serde_json::from_str(&followed.line()).unwrap();
        assert_eq!(told["state"], "queued", "{told}");
    }
}

/// A command that is ended when the test has seen enough.
struct Followed(Child);

impl Followed {
    fn line(mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // It may have ended already.
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}
