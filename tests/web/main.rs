//! The web as a client meets it: over a socket, before a real store, with time set by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(dead_code, reason = "the page's test shares the plant and does more with it")]

mod access;
mod alerts;
mod anchors;
#[path = "../peers/certificates.rs"]
mod certificates;
mod limits;
mod openapi;
mod page;
mod plant;
mod statistics;
mod tls;
mod upstreams;
mod ws;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meterseal::model::{Alert, AlertKind, Condition, Digest, ScanEvent, SourcesStatus};
use meterseal::web::{self, Credentials, TestFault, Tested};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use plant::{Answer, HALF_MS, NOW, Plant, at, block, commissioning, id, open_block, sources_status};

const PATIENCE: Duration = Duration::from_secs(20);

fn assert_problem(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!((&problem["type"], &problem["status"]), (&json!("about:blank"), &json!(status)));
    assert!(problem["title"].is_string() && !problem["detail"].as_str().unwrap().is_empty());
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_how_a_browser_must_treat_it() {
    let plant = Plant::start().await;
    for path in ["/", "/api/health", "/api/meters", "/nothing", "/page.css"] {
        let answer = plant.send(plant.request(path)).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{path}");
        assert!(answer.header("permissions-policy").contains("camera=()"), "{path}");
        // It would hold for every port of the machine, and leave no way past the warning of a self-signed certificate.
        assert_eq!(answer.header("strict-transport-security"), "", "{path}");
        let cache = if path == "/" || path == "/page.css" { "no-cache" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), cache, "{path}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_this_machine_is_no_host() {
    let plant = Plant::start().await;
    let answer = plant.send(plant.request("/api/health").header("host", "plant.example")).await;
    assert_problem(&answer, 421);
    // The last one is that of a proxy, as the config has it.
    for host in ["localhost:1", "proxy.example"] {
        assert_eq!(plant.send(plant.request("/api/health").header("host", host)).await.status, 200, "{host}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_is_told_what_is_wrong() {
    let plant = Plant::start().await;
    assert_problem(&plant.ask("/api/nothing").await, 404);
    assert_problem(&plant.ask("/api/meters/nobody").await, 404);
    assert_problem(&plant.ask("/api/meters/nobody/readings").await, 404);
    assert_problem(&plant.ask("/api/meters/total/current-block").await, 404);
    let posted = plant.send(reqwest::Client::new().post(plant.url("/api/meters")).bearer_auth(&plant.token)).await;
    assert_problem(&posted, 405);
    assert!(posted.header("allow").contains("GET"));
    for (query, parameter) in
        [("from=yesterday", "from"), ("to=1763688600", "to"), ("from=2026-11-21&to=2026-11-20", "from")]
    {
        let problem = assert_problem(&plant.ask(&format!("/api/meters/main/readings?{query}")).await, 400);
        assert_eq!(problem["parameter"], parameter, "{query}");
    }
    for (path, parameter, told) in [
        ("/api/meters/main/readings?resolution=second", "resolution", "raw or minute or block"),
        ("/api/meters/main/blocks?resolution=second", "resolution", "`second` is not known"),
        ("/api/meters/main/readings?format=xml", "format", "json or csv"),
        ("/api/meters/main/blocks?format=xml", "format", "json or csv"),
        ("/api/alerts?limit=0", "limit", "from 1 to 1000"),
        ("/api/alerts?limit=many", "limit", "`many`"),
        ("/api/alerts?open=yes", "open", "true or false"),
        ("/api/dashboard/snapshot?limit=-1", "limit", "from 0 to 1000"),
    ] {
        let problem = assert_problem(&plant.ask(path).await, 400);
        assert_eq!(problem["parameter"], parameter, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(told), "{problem}");
    }
    for query in ["resolutoin=hour", "from=0&from=1"] {
        assert_problem(&plant.ask(&format!("/api/meters/main/readings?{query}")).await, 400);
    }
    let sum = assert_problem(&plant.ask("/api/meters/total/readings?resolution=raw").await, 400);
    assert_eq!(sum["parameter"], "resolution");
    assert_problem(&plant.ask(&format!("/api/meters?x={}", "y".repeat(3_000))).await, 414);
    let long = plant.send(plant.request("/api/health").header("x-long", "y".repeat(20_000))).await;
    assert_eq!(long.status, 431);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_strangers_little_and_others_all() {
    let plant = Plant::start().await;
    let stranger = plant.send(plant.request("/api/health")).await;
    assert_eq!((stranger.status, stranger.json()), (200, json!({ "status": "ok" })));
    let known = plant.get("/api/health").await;
    assert_eq!((&known["status"], &known["meters_answering"]), (&json!("ok"), &json!(1)));
    assert!(known["store"]["commits"].is_u64());

    let mut sources: SourcesStatus = sources_status();
    sources.lines.values_mut().for_each(|line| line.connected = false);
    sources.meters.values_mut().for_each(|meter| {
        meter.condition = Condition::Silent;
        meter.problem = Some("no answer within 1 s".into());
    });
    plant.sources.send_replace(Arc::new(sources));
    plant.problems.send_replace(Arc::new(vec!["the webhook is away".into()]));
    let stranger = plant.send(plant.request("/api/health")).await;
    assert_eq!((stranger.status, stranger.json()), (200, json!({ "status": "degraded" })));
    let known = plant.get("/api/health").await;
    let expected = ["the webhook is away", "line msb is down", "meter main does not answer: no answer within 1 s"];
    assert_eq!(known["problems"], json!(expected));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_shows_its_values_with_their_age() {
    let plant = Plant::start().await;
    plant.read(at(NOW), 230_100.0, 5_000).await;
    plant.clock.advance(Duration::from_secs(5));
    let meters = plant.get("/api/meters").await;
    let meter = &meters[0];
    assert_eq!((&meter["id"], &meter["device_id"]), (&json!("main"), &json!("main")));
    let expected = json!({
        "name": "Main incomer", "category": "CONS", "kind": "modbus", "line": "msb", "unit": 1, "template": "own",
        "verified": false, "peak_target_kwh": 120, "interval_ms": 1_000, "simulated": false, "power_kw": 230.1,
        "condition": "answering", "problem": null, "refused_registers": [52], "stale": false, "age_ms": 5_000,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&meter[name], value, "{name}");
    }
    let energy = json!({ "value": 5, "time": "2026-11-21T07:18:12.000Z", "age_ms": 5_000, "stale": false });
    assert_eq!(meter["values"]["energy_import_kwh"]["value"].as_f64(), energy["value"].as_f64());
    assert_eq!(meter["values"]["energy_import_kwh"]["time"], energy["time"]);
    assert_eq!((&meters[1]["kind"], &meters[1]["power_kw"]), (&json!("sum"), &json!(230.1)));
    assert_eq!(plant.get("/api/meters/main").await["commissioning"], Value::Null);
    plant.clock.advance(Duration::from_secs(56));
    let meter = plant.get("/api/meters/main").await;
    assert_eq!((&meter["stale"], &meter["values"]["power_kw"]["stale"]), (&json!(true), &json!(true)));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_shows_what_it_is_and_how_it_is_set_up() {
    let plant = Plant::start().await;
    plant.store.ledger().commission(commissioning()).await.unwrap();
    let meter = plant.get("/api/meters/main").await;
    let expected = json!({
        "since": "2026-11-21T07:18:12.000Z", "cause": "changed", "manufacturer": null, "model": null,
        "serial_number": "4711", "firmware": "1.2", "sunspec_models": [], "line": "msb", "wire": "192.0.2.10:502",
        "unit": 1, "template": "acme", "template_sha256": Digest::of(b"acme").to_string(), "ct_ratio": "40/1",
        "vt_ratio": "1/1", "invert": false, "category": "CONS",
        "changes": [{ "what": "firmware", "from": "1.1", "to": "1.2" }],
    });
    assert_eq!(meter["commissioning"], expected);
    assert_eq!(plant.get("/api/dashboard/snapshot").await["meter"], meter);
    assert_eq!(plant.get("/api/meters/total").await["commissioning"], Value::Null);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_shows_what_it_heard_and_how_to_declare_it() {
    let plant = Plant::start().await;
    let brokers = plant.get("/api/brokers").await;
    let broker = &brokers[0];
    assert_eq!((&broker["name"], &broker["messages"]), (&json!("plant"), &json!(40)));
    assert_eq!(broker["last_malformed"]["reason"], "not JSON");
    let declared = "[[mqtt.meter]]\nid = \"plant-press-3\"\nmatch = \"plant/press 3\"\n";
    assert_eq!(broker["proposals"][0]["config"], declared);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_has_the_fields_of_the_product_with_exact_figures() {
    let plant = Plant::start().await;
    let start = at("2026-11-20T16:00:00Z"); // local midnight
    plant
        .seal(vec![
            block(start.plus_millis(-HALF_MS), Some(1)),
            block(start, Some(50_000_000_001)),
            block(start.plus_millis(HALF_MS), None),
        ])
        .await;
    let answer = plant.ask("/api/meters/main/blocks/today").await;
    assert!(answer.text.contains("\"kwh\":50.000000001,") && answer.text.contains("\"demand_kw\":100.000000002,"));
    let blocks = answer.json();
    assert_eq!(blocks.as_array().unwrap().len(), 2);
    let expected = json!({
        "meter": "main", "start": "2026-11-20T16:00:00.000Z", "end": "2026-11-20T16:30:00.000Z", "kwh_export": null,
        "max_kw": 100, "min_kw": 100, "coverage": 1, "method": "counter", "is_peak_hour": false, "flags": [],
        "revision": 0, "through_seq": 7,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(blocks[0][name].as_f64(), value.as_f64(), "{name}");
        assert!(value.is_number() || blocks[0][name] == *value, "{name}");
    }
    assert_eq!(blocks[0]["readings_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(
        (&blocks[1]["kwh"], &blocks[1]["avg_kw"], blocks[1]["coverage"].as_f64()),
        (&Value::Null, &Value::Null, Some(0.0))
    );

    let range = plant.get("/api/meters/main/blocks?from=2026-11-20T23:30&to=2026-11-21").await;
    assert_eq!(range.as_array().unwrap().len(), 1, "adjoining ranges share no block: {range}");
    let day = plant.get("/api/channels/main/readings?startDate=2026-11-21&endDate=2026-11-21&resolution=day").await;
    assert_eq!((&day[0]["local"], &day[0]["blocks"]), (&json!("2026-11-21"), &json!(1)));
    assert_eq!(day[0]["coverage"], json!(0.5));
    let csv = plant.ask("/api/meters/main/blocks?from=2026-11-21&to=2026-11-22&format=csv").await;
    let lines: Vec<&str> = csv.text.split("\r\n").collect();
    assert!(
        lines[1]
            .starts_with("2026-11-20T16:00:00.000Z,2026-11-20T16:30:00.000Z,50.000000001,50.000000001,,100.000000002,")
    );
    assert!(lines[2].starts_with("2026-11-20T16:30:00.000Z,2026-11-20T17:00:00.000Z,,,,,,,,0,counter,false,,0,"));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_ten_thousand_years_costs_what_is_in_it() {
    let plant = Plant::start().await;
    let midnight = at("2026-11-20T16:00:00Z");
    let ever = "from=0001-01-01&to=9999-12-31";
    // A look in the store for each month of it would take far longer.
    let quick = async |path: String| {
        let answer = timeout(Duration::from_secs(10), plant.get(&path)).await.expect("a quick answer");
        answer.as_array().unwrap().len()
    };
    for resolution in ["raw", "minute", "block", "hour", "day", "week", "month"] {
        assert_eq!(quick(format!("/api/meters/main/readings?{ever}&resolution={resolution}")).await, 0, "{resolution}");
    }
    let years = 40 * 365 * 48;
    plant.seal(vec![block(midnight, Some(1)), block(midnight.plus_millis(years * HALF_MS), Some(1))]).await;
    for resolution in ["block", "hour", "day", "week", "month"] {
        assert_eq!(quick(format!("/api/meters/main/readings?{ever}&resolution={resolution}")).await, 2, "{resolution}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_block_tells_what_must_be_shed() {
    let plant = Plant::start().await;
    let answer = plant.ask("/api/meters/main/current-block").await;
    assert!(answer.text.contains("\"kwh\":80.000000001,"), "{}", answer.text);
    let block = answer.json();
    assert_eq!((&block["remaining_s"], &block["projected_kwh"]), (&json!(708), &json!(132)));
    assert_eq!((&block["shed_kw"], &block["max_kw"]), (&json!(61.016_949), &json!(300.000_5)));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_come_raw_and_by_the_minute_in_both_forms() {
    let plant = Plant::start().await;
    let start = at("2026-11-21T06:00:00Z");
    for (after, watts, wh) in [(0, 1_000.5, 10), (30_000, 2_000.0, 11), (60_000, 4_000.0, 12)] {
        plant.read(start.plus_millis(after), watts, wh).await;
    }
    plant.clock.step_to(at(NOW));
    let range = "from=2026-11-21T14:00&to=2026-11-21T14:10";
    let raw = plant.ask(&format!("/api/meters/main/readings?{range}")).await;
    let expected = concat!(
        "[{\"time\":\"2026-11-21T06:00:00.000Z\",\"seq\":1,\"power_kw\":1.0005,\"energy_import_kwh\":0.01},\n",
        "{\"time\":\"2026-11-21T06:00:30.000Z\",\"seq\":2,\"power_kw\":2,\"energy_import_kwh\":0.011},\n",
        "{\"time\":\"2026-11-21T06:01:00.000Z\",\"seq\":3,\"power_kw\":4,\"energy_import_kwh\":0.012}]\n",
    );
    assert_eq!(raw.text, expected);
    let csv = plant.ask(&format!("/api/channels/main/readings?{range}&format=csv")).await;
    assert_eq!(
        csv.text.lines().take(2).collect::<Vec<_>>(),
        ["time,seq,power_kw,energy_import_kwh,clock,conflict", "2026-11-21T06:00:00.000Z,1,1.0005,0.01,,"]
    );
    assert!(csv.header("content-type").starts_with("text/csv"));
    let minutes = plant.get(&format!("/api/meters/main/readings?{range}&resolution=minute")).await;
    assert_eq!(minutes.as_array().unwrap().len(), 2);
    let first = json!({
        "start": "2026-11-21T06:00:00.000Z", "power_mean_kw": 1.50025, "power_min_kw": 1.0005, "power_max_kw": 2,
        "energy_import_kwh": 0.011, "readings": 2,
    });
    assert_eq!(minutes[0], first);
    let none = plant.ask("/api/meters/main/readings?from=2026-01-01&to=2026-01-02").await;
    assert_eq!(none.text, "[]\n");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_has_what_the_page_needs() {
    let plant = Plant::start().await;
    plant.seal(vec![block(at("2026-11-20T16:00:00Z"), Some(50_000_000_000))]).await;
    let alert = Alert::new(AlertKind::TargetAtRisk, Some(id("main")), at(NOW), at(NOW), "heading for 132 kWh".into());
    plant.store.ledger().raise(alert).await.unwrap();
    let snapshot = plant.get("/api/dashboard/snapshot").await;
    assert_eq!((&snapshot["meter"]["device_id"], &snapshot["meter"]["target_peak_kwh"]), (&json!("main"), &json!(120)));
    assert_eq!(snapshot["all_meters"].as_array().unwrap().len(), 2);
    assert_eq!(snapshot["current_block"], snapshot["current_blocks"]["main"]);
    assert_eq!(snapshot["block_info"]["is_peak_hour"], true);
    let peak = json!([{ "start": "2026-11-21T06:00:00.000Z", "end": "2026-11-21T14:00:00.000Z" }]);
    assert_eq!(snapshot["peak_hours_today"], peak);
    assert_eq!(snapshot["blocks_today"], snapshot["last_ten_blocks"]);
    assert_eq!(snapshot["alerts"][0]["kind"], "target_at_risk");
    assert_eq!(snapshot["site"]["timezone"], "Asia/Kuala_Lumpur");
    assert_eq!((&snapshot["open_alerts"], &snapshot["unseen_alerts"]), (&json!(1), &json!(1)));
    let other = plant.get("/api/dashboard/snapshot?device_id=total").await;
    assert_eq!((&other["meter"]["id"], &other["current_block"]), (&json!("total"), &Value::Null));
    let summary = plant.get("/api/meters/summary").await;
    let figures =
        ["current_kwh", "projected_kwh", "today_kwh", "today_max_block_kwh"].map(|name| summary[0][name].as_f64());
    assert_eq!(figures, [Some(80.000000001), Some(132.0), Some(130.000000001), Some(50.0)]);
    let alerts = plant.get("/api/alerts?open=true").await;
    assert_eq!(alerts, snapshot["alerts"]);
    let quality = plant.get("/api/quality").await;
    assert_eq!((&quality[0]["meter"], &quality[0]["coverage"]), (&json!("main"), &json!(1)));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_alert_is_counted_however_many_came_after_it() {
    let plant = Plant::start().await;
    let ledger = plant.store.ledger();
    let raise = |n: i64| {
        let (at, text) = (at(NOW).plus_millis(n), format!("heading for {n} kWh"));
        ledger.raise(Alert::new(AlertKind::TargetAtRisk, Some(id("main")), at, at, text))
    };
    raise(0).await.unwrap();
    for n in 1..=25 {
        let over = raise(n).await.unwrap().unwrap();
        ledger.clear_alert(over, at(NOW).plus_millis(n)).await.unwrap();
    }
    let snapshot = plant.get("/api/dashboard/snapshot").await;
    assert!(snapshot["alerts"].as_array().unwrap().iter().all(|alert| !alert["cleared"].is_null()));
    assert_eq!((&snapshot["open_alerts"], &snapshot["unseen_alerts"]), (&json!(1), &json!(1)));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quality_of_one_meter_lists_its_newest_gaps() {
    let plant = Plant::start().await;
    // Every other half-hour is silent: 240 blocks, 120 gaps.
    let first = at("2026-11-16T00:00:00Z");
    let kwh = |n: i64| (n % 2 == 0).then_some(50_000_000_000);
    plant.seal((0..240).map(|n| block(first.plus_millis(n * HALF_MS), kwh(n))).collect()).await;
    let quality = plant.get("/api/quality?meter=main&from=2026-11-15").await;
    assert_eq!(quality.as_array().unwrap().len(), 1);
    let gaps = quality[0]["gaps"].as_array().unwrap();
    assert_eq!((gaps.len(), &quality[0]["more_gaps"]), (100, &json!(true)));
    assert_eq!(gaps[99]["end"], "2026-11-21T00:00:00.000Z");
    assert_problem(&plant.ask("/api/quality?meter=none").await, 404);
    plant.end().await;
}

/// The events of a feed as they come.
struct Events {
    answer: reqwest::Response,
    text: String,
}

impl Events {
    async fn open(plant: &Plant) -> Self {
        let answer = plant.request("/api/events").bearer_auth(&plant.token).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut events = Self { answer, text: String::new() };
        assert_eq!(events.next("hello").await["timestamp"], "2026-11-21T07:18:12.000Z");
        events
    }

    /// The data of the next event with this name.
    async fn next(&mut self, name: &str) -> Value {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field =
                    |field: &str| event.lines().find_map(|line| line.strip_prefix(field).map(ToOwned::to_owned));
                if field("event: ").as_deref() == Some(name) {
                    return serde_json::from_str(&field("data: ").unwrap()).unwrap();
                }
                continue;
            }
            let chunk = timeout(PATIENCE, self.answer.chunk()).await.expect("an event comes").unwrap();
            self.text.push_str(std::str::from_utf8(&chunk.expect("the feed goes on")).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_told_live() {
    let plant = Plant::start().await;
    let mut events = Events::open(&plant).await;
    plant.read(at(NOW), 1_500.0, 10).await;
    let readings = events.next("readings").await;
    let expected = json!([{ "meter": "main", "time": "2026-11-21T07:18:12.000Z", "seq": 1, "power_kw": 1.5, "energy_import_kwh": 0.01 }]);
    assert_eq!(readings, expected);

    plant.open.send_replace(Arc::new([(id("main"), open_block())].into()));
    assert_eq!(events.next("open_blocks").await[0]["remaining_s"], 708);
    let start = at("2026-11-20T16:00:00Z");
    plant.seal(vec![block(start, Some(1))]).await;
    plant.seal(vec![meterseal::model::Block { revision: 1, ..block(start, Some(2)) }]).await;
    assert_eq!(events.next("blocks").await[0]["revision"], 0);
    assert_eq!(events.next("blocks").await[0]["revision"], 1);

    let alert = Alert::new(AlertKind::MeterSilent, Some(id("main")), at(NOW), at(NOW), "silent".into());
    // Also where no block runs that is told.
    let alert = plant.store.ledger().raise(alert).await.unwrap().unwrap();
    assert_eq!(events.next("alerts").await[0]["cleared"], Value::Null);
    plant.store.ledger().clear_alert(alert, at(NOW)).await.unwrap();
    assert_eq!(events.next("alerts").await[0]["cleared"], "2026-11-21T07:18:12.000Z");
    // A feed has no end of its own: stopping must not wait for it.
    timeout(PATIENCE, plant.end()).await.expect("the web stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_told_what_it_missed() {
    let plant = Plant::start().await;
    let mut slow = TcpStream::connect(plant.address).await.unwrap();
    let ask = format!("GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", plant.token);
    slow.write_all(ask.as_bytes()).await.unwrap();
    let mut first = [0; 16];
    slow.read_exact(&mut first).await.unwrap();
    let mut quick = Events::open(&plant).await;
    let blocks: BTreeMap<_, _> = (0..400)
        .map(|n| {
            let meter = id(&format!("m{n}"));
            (meter.clone(), meterseal::model::OpenBlock { meter, ..open_block() })
        })
        .collect();
    // Far more than the socket's buffers hold, so that the feed fills up behind them.
    for _ in 0..150 {
        plant.open.send_replace(Arc::new(blocks.clone()));
        quick.next("open_blocks").await;
    }
    let mut all = Vec::new();
    let told = async {
        let mut part = vec![0; 1 << 20];
        while !String::from_utf8_lossy(&all).contains("event: missed\ndata: {\"events\":") {
            let read = slow.read(&mut part).await.unwrap();
            assert!(read > 0, "the feed goes on");
            let kept = all.len().saturating_sub(100);
            all.drain(..kept);
            all.extend_from_slice(&part[..read]);
        }
    };
    timeout(PATIENCE, told).await.expect("the slow client is told");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_feeds_are_open_at_once() {
    let plant = Plant::start().await;
    let mut feeds = Vec::new();
    for _ in 0..256 {
        feeds.push(Events::open(&plant).await);
    }
    let refused = plant.ask("/api/events").await;
    assert_problem(&refused, 503);
    assert_eq!(refused.header("retry-after"), "5");
    drop(feeds);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_open_metrics() {
    let plant = Plant::start().await;
    plant.anchor.send_replace(plant::anchor_status());
    plant.read(at(NOW), 230_100.0, 5_000).await;
    let answer = plant.ask("/metrics").await;
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.text.ends_with("\n# EOF\n"));
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in answer.text.lines().filter(|line| *line != "# EOF") {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            assert!(families.insert(name.into(), kind.into()).is_none(), "{name} comes twice");
            current = name.into();
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            let (name, unit) = unit.split_once(' ').unwrap();
            assert!(name == current && name.ends_with(&format!("_{unit}")), "{line}");
        } else if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(help.starts_with(&format!("{current} ")), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.split('{').next().unwrap();
            let suffix = match families[&current].as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            assert_eq!(name, format!("{current}{suffix}"), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    for sample in [
        "meterseal_meter_power_watts{meter=\"main\",category=\"CONS\"} 230100\n",
        "meterseal_meter_polls_total{meter=\"main\"} 10\n",
        "meterseal_line_late_answers_total{line=\"msb\"} 2\n",
        "meterseal_line_damaged_answers_total{line=\"msb\"} 3\n",
        "meterseal_block_target_kwh{meter=\"main\"} 120\n",
        "meterseal_store_readings_total 1\n",
    ] {
        assert!(answer.text.contains(sample), "{sample} is not in\n{}", answer.text);
    }
    assert!(answer.text.contains("meterseal_store_written_bytes_total "));
    plant.clock.advance(Duration::from_secs(60));
    assert!(plant.ask("/metrics").await.text.contains("meterseal_store_written_gigabytes_per_day "));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_told_line_by_line_and_ends_when_the_client_goes() {
    let mut plant = Plant::start().await;
    let order = json!({ "tcp": "192.0.2.10", "units": "1-3" });
    let sent = plant.post("/api/scan").bearer_auth(&plant.token).body(order.to_string()).send();
    let (answer, now) = tokio::join!(sent, async {
        let now = plant.scans.recv().await.unwrap();
        now.begun.send(Ok(())).unwrap();
        (now.order, now.tell)
    });
    let (mut answer, (order, tell)) = (answer.unwrap(), now);
    assert_eq!(
        serde_json::to_value(&order).unwrap(),
        json!({ "tcp": "192.0.2.10:502", "units": "1-3", "timeout_ms": 300 })
    );
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/x-ndjson".parse().unwrap())
    );
    for asked in 0..3 {
        tell.send(ScanEvent::Progress { unit: 1, asked, of: 3, found: 0 }).await.unwrap();
        let line = timeout(PATIENCE, answer.chunk()).await.unwrap().unwrap().unwrap();
        let event: Value = serde_json::from_slice(line.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!(event, json!({ "event": "progress", "unit": 1, "asked": asked, "of": 3, "found": 0 }));
    }
    drop(answer);
    timeout(PATIENCE, tell.closed()).await.expect("the search hears that nobody listens");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_cannot_be_made_is_refused_with_the_reason() {
    let mut plant = Plant::start().await;
    for (order, why) in [
        ("{}", "tcp"),
        ("not json", "expected"),
        (r#"{"tcp": "h", "units": "0"}"#, "units"),
        (r#"{"tcp": "h", "serial": "/dev/x"}"#, "tcp"),
        (r#"{"tcp": "h", "port": 502}"#, "port"),
        (r#"{"serial": "../etc/passwd"}"#, "serial"),
    ] {
        let answer = plant.send(plant.post("/api/scan").bearer_auth(&plant.token).body(order)).await;
        let detail = assert_problem(&answer, 400)["detail"].to_string();
        assert!(detail.contains(why), "{order}: {detail}");
    }
    let long = format!(r#"{{"tcp": "{}"}}"#, "h".repeat(5_000));
    assert_problem(&plant.send(plant.post("/api/scan").bearer_auth(&plant.token).body(long)).await, 413);
    assert_problem(&plant.ask("/api/scan").await, 405);
    assert_problem(&plant.send(plant.post("/api/scan").bearer_auth("another").body("{}")).await, 401);

    let another = plant.post("/api/scan").bearer_auth(&plant.token).body(r#"{"tcp": "h"}"#).send();
    let (answer, ()) = tokio::join!(another, async {
        let now = plant.scans.recv().await.unwrap();
        now.begun.send(Err(web::AnotherRuns)).unwrap();
    });
    assert_eq!(answer.unwrap().status().as_u16(), 409);
    plant.scans.close();
    assert_problem(&plant.send(plant.post("/api/scan").bearer_auth(&plant.token).body(r#"{"tcp": "h"}"#)).await, 503);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_queries_are_listed_with_the_file_that_says_so() {
    let plant = Plant::start().await;
    let connections = plant.ask("/api/connections").await.json();
    assert_eq!(
        connections[0],
        json!({ "name": "historian", "version": 1, "url": "http://127.0.0.1:8086", "database": "plant", "off": false,
                "read_only": "m.toml" })
    );
    assert_eq!((&connections[1]["name"], &connections[1]["off"]), (&json!("old"), &json!(true)));
    let queries = plant.ask("/api/queries").await.json();
    assert_eq!(queries, json!([{ "name": "all", "kind": "result", "text": "SHOW DATABASES", "read_only": "m.toml" }]));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_tested_by_who_holds_its_credentials() {
    let mut plant = Plant::start().await;
    let ask = |plant: &Plant, name: &str| {
        plant.post(&format!("/api/connections/{name}/test")).bearer_auth(&plant.token).send()
    };
    let (answer, name) = tokio::join!(ask(&plant, "historian"), async {
        let now = plant.tests.recv().await.unwrap();
        let tested = Tested { server_version: "1.8.10".to_owned(), credentials: Credentials::NotAsked };
        now.tell.send(Ok(tested)).unwrap();
        now.name
    });
    let answer: Value = serde_json::from_slice(&answer.unwrap().bytes().await.unwrap()).unwrap();
    assert_eq!(
        (answer, name.as_str()),
        (json!({ "server_version": "1.8.10", "credentials": "not_asked" }), "historian")
    );
    let (answer, ()) = tokio::join!(ask(&plant, "historian"), async {
        let why = "connection historian: the server asks for a token; give `token`".to_owned();
        plant.tests.recv().await.unwrap().tell.send(Err(TestFault::Failed(why))).unwrap();
    });
    let answer = answer.unwrap();
    assert_eq!(answer.status().as_u16(), 502);
    assert!(answer.text().await.unwrap().contains("give `token`"));
    for (name, status) in [("old", 409), ("none", 404)] {
        let answer = plant.send(plant.post(&format!("/api/connections/{name}/test")).bearer_auth(&plant.token)).await;
        assert_problem(&answer, status);
    }
    plant.tests.close();
    let request = plant.post("/api/connections/historian/test").bearer_auth(&plant.token);
    assert_problem(&plant.send(request).await, 503);
    plant.end().await;
}

#[tokio::test]
async fn a_proof_is_streamed_and_what_cannot_be_proven_says_why() {
    let plant = Plant::start().await;
    let now = at(NOW).as_millis();
    let first = at(NOW).plus_millis(-4 * HALF_MS);
    plant.seal((0..4).map(|n| block(first.plus_millis(n * HALF_MS), Some(1_000_000_000))).collect()).await;
    let start = first.as_millis();
    let answer = plant.ask(&format!("/api/proof?meter=main&block={start}")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{}", answer.text);
    assert!(answer.header("content-disposition").ends_with(".proof.json\""), "{:?}", answer.headers);
    let proof: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(proof["claim"], json!({"kind": "block", "meter": "main", "start": start}));
    assert_eq!(proof["log"][0]["leaves"][0]["record"]["start"], start);
    let answer = plant.ask(&format!("/api/proof?meter=main&from={start}&to={}", start + 1)).await;
    let proof: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(proof["log"][0]["leaves"].as_array().map(Vec::len), Some(5), "the succession and every block");
    let answer = plant.ask(&format!("/api/proof?meter=main&block={start}&format=tlog-proof")).await;
    assert!(answer.text.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{}", answer.text);
    assert!(answer.header("content-type").starts_with("text/plain"));

    let dataset = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    for (query, status, why) in [
        (format!("meter=main&block={}", start + 1), 404, "the one that contains it starts at"),
        (format!("meter=main&block={now}"), 409, "is not sealed yet: it is due at"),
        (format!("meter=other&block={start}"), 404, "meter other has no entry in the log"),
        ("meter=no/meter&block=0".to_owned(), 404, "there is no meter"),
        (format!("dataset={dataset}"), 404, "there is no dataset"),
        (format!("dataset={dataset}&row=-1"), 400, "the row's number"),
        ("dataset=12".to_owned(), 400, "not the id of a job"),
        (format!("meter=main&from={start}"), 400, "say what is to be proven"),
        (format!("meter=main&from={start}&to={start}"), 400, "has no length"),
        (format!("meter=main&from={start}&to={now}&format=tlog-proof"), 400, "is of one entry"),
        (format!("meter=main&block={start}&format=xml"), 400, "give json or tlog-proof"),
    ] {
        let answer = plant.ask(&format!("/api/proof?{query}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (status, "application/problem+json"), "{query}");
        assert!(answer.text.contains(why), "{query}: {}", answer.text);
    }
    assert_eq!(plant.ask(&format!("/api/bulk/{dataset}/proof")).await.status, 404);
    assert_eq!(plant.ask("/api/bulk/12/proof").await.status, 404);
    assert_eq!(plant.send(plant.request("/api/proof")).await.status, 401);
    plant.end().await;
}
