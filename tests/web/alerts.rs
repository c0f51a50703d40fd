//! What a person does about alerts.

use std::sync::Arc;

use meterseal::alerts::{Config, Webhook};
use meterseal::model::{Alert, AlertKind, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::assert_problem;
use crate::plant::{NOW, Plant, at, id};

fn alert(kind: AlertKind, occasion: Timestamp) -> Alert {
    Alert::new(kind, Some(id("main")), occasion, at(NOW), "something is to be seen to".into())
}

async fn actions(plant: &Plant) -> Vec<(String, String)> {
    let log = plant.audit();
    log.iter().map(|entry| (entry["action"].to_string(), entry["by"].to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_acknowledged_once_by_who_was_first() {
    let plant = Plant::start().await;
    let ledger = plant.store.ledger();
    let alert = ledger.raise(alert(AlertKind::MeterSilent, at(NOW))).await.unwrap().unwrap();
    let acknowledge = format!("/api/alerts/{alert}/ack");
    assert_problem(&plant.send(plant.post(&acknowledge).bearer_auth("read")).await, 403);
    let first = plant.send(plant.post(&acknowledge).bearer_auth(&plant.token)).await.json();
    assert_eq!(
        (&first["acknowledged"], &first["acknowledged_by"]),
        (&json!("2026-11-21T07:18:12.000Z"), &json!("first"))
    );
    assert_eq!(first["cleared"], Value::Null, "the cause is not gone");
    plant.clock.advance(std::time::Duration::from_secs(60));
    let again = plant.send(plant.post(&acknowledge).bearer_auth(&plant.token)).await.json();
    assert_eq!(again, first);
    assert_eq!(plant.get("/api/alerts").await[0], first);
    assert_eq!(actions(&plant).await, [("\"alert-acknowledged\"".to_owned(), "\"first\"".to_owned())]);
    for unknown in ["99", "x"] {
        let path = format!("/api/alerts/{unknown}/ack");
        assert_problem(&plant.send(plant.post(&path).bearer_auth(&plant.token)).await, 404);
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_off_raises_nothing_and_ends_what_stands() {
    let plant = Plant::start().await;
    let ledger = plant.store.ledger();
    ledger.raise(alert(AlertKind::MeterSilent, at(NOW))).await.unwrap().unwrap();
    ledger.raise(alert(AlertKind::MeterChanged, at(NOW))).await.unwrap().unwrap();
    let switch = async |kind: &str, on: bool| {
        plant.send(plant.patch(&format!("/api/alerts/rules/{kind}"), &json!({ "on": on }))).await
    };
    let off = switch("meter_silent", false).await.json();
    assert_eq!((&off["kind"], &off["on"]), (&json!("meter_silent"), &json!(false)));
    let open = plant.get("/api/alerts?open=true").await;
    assert_eq!(open.as_array().unwrap().iter().map(|alert| &alert["kind"]).collect::<Vec<_>>(), ["meter_changed"]);
    let later = at(NOW).plus_millis(1_000);
    assert_eq!(ledger.raise(alert(AlertKind::MeterSilent, later)).await.unwrap(), None);
    let rules = plant.get("/api/alerts/rules").await;
    let on = |kind: &str| rules.as_array().unwrap().iter().find(|rule| rule["kind"] == kind).unwrap()["on"].clone();
    assert_eq!((on("meter_silent"), on("meter_changed")), (json!(false), json!(true)));
    assert_eq!(rules.as_array().unwrap().len(), AlertKind::ALL.len());
    assert_eq!(switch("meter_silent", true).await.json()["on"], true);
    assert_eq!(switch("meter_silent", true).await.json()["on"], true);
    assert!(ledger.raise(alert(AlertKind::MeterSilent, later)).await.unwrap().is_some());
    assert_eq!(actions(&plant).await.len(), 2, "what changes nothing is not on record");

    for kind in ["store_full", "log_began_anew", "readings_lost"] {
        let refused = assert_problem(&switch(kind, false).await, 409);
        assert!(refused["detail"].as_str().unwrap().contains(kind), "{refused}");
    }
    assert_problem(&switch("other", false).await, 404);
    let path = "/api/alerts/rules/meter_silent";
    assert_problem(&plant.send(plant.patch(path, &json!({ "on": "no" }))).await, 400);
    let reader = plant.method(reqwest::Method::PATCH, path).bearer_auth("read").body(r#"{"on":false}"#);
    assert_problem(&plant.send(reader).await, 403);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_goes_to_the_webhook_at_once_and_says_that_it_is_one() {
    let plant = Plant::start().await;
    let test = async || plant.send(plant.post("/api/alerts/test").bearer_auth(&plant.token)).await;
    let none = assert_problem(&test().await, 409);
    assert!(none["detail"].as_str().unwrap().contains("[alerts]"), "{none}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:secret@{}/hook?token=secret", listener.local_addr().unwrap());
    let body = r#"{"kind":"{{kind}}","text":"{{text}}"}"#.to_owned();
    let webhook = Webhook { url, body, contact: String::new() };
    plant.alerts.send_replace(Arc::new(Config { webhook: Some(webhook) }));
    let answer = async |status: &str| {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = vec![0; 4_096];
        let mut length = 0;
        while !heard[..length].ends_with(b"}") {
            length += stream.read(&mut heard[length..]).await.unwrap();
        }
        let said = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(said.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&heard[..length]).into_owned()
    };
    let (taken, heard) = tokio::join!(test(), answer("204 No Content"));
    assert_eq!(taken.json(), json!({ "status": 204 }));
    assert!(heard.contains(r#""kind":"test""#) && heard.contains("TEST"), "{heard}");
    let (refused, _) = tokio::join!(test(), answer("500 Internal Server Error"));
    assert!(assert_problem(&refused, 502)["detail"].as_str().unwrap().contains("500"), "{}", refused.text);
    drop(listener);
    let away = assert_problem(&test().await, 502);
    assert!(!away["detail"].as_str().unwrap().contains("secret"), "{away}");
    assert!(plant.get("/api/alerts").await.as_array().unwrap().is_empty(), "a test is no alert");
    plant.end().await;
}
