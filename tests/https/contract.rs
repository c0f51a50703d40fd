//! The written contract, and the receiver that stands for it here: neither says what the other does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use meterseal::model::Digest;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::receiver::{Faults, Options, Receiver};
use crate::sender::{EPOCH, GATEWAY, Log, Scene};

/// For each method and path, the statuses that are documented; `5XX` stands for all from 500 on.
fn documented() -> BTreeMap<(String, String), BTreeSet<String>> {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/upstream-openapi.yaml");
    let text = std::fs::read_to_string(text).unwrap();
    let paths = text.split("\npaths:\n").nth(1).unwrap().split("\ncomponents:\n").next().unwrap();
    let (mut path, mut method, mut all) = (String::new(), String::new(), BTreeMap::new());
    for line in paths.lines() {
        let name = line.trim().split(':').next().unwrap();
        match line.len() - line.trim_start().len() {
            2 => path = name.to_owned(),
            4 => method = name.to_owned(),
            8 if name.starts_with('"') => {
                let statuses: &mut BTreeSet<String> = all.entry((method.clone(), path.clone())).or_default();
                statuses.insert(name.trim_matches('"').to_owned());
            }
            _ => {}
        }
    }
    all
}

/// Asks the receiver, holds its answer against the schemas, and notes the status that was seen.
struct Asks {
    client: Client,
    url: String,
    seen: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Asks {
    fn new(receiver: &Receiver) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        Self { client: Client::new(), url: receiver.url.clone(), seen: BTreeMap::new() }
    }

    async fn held(&mut self) -> u16 {
        let request = self.client.get(format!("{}/{GATEWAY}/checkpoints", self.url));
        let (status, body) = self.ask(&Method::GET, "/{gateway}/checkpoints", request).await;
        if status == 200 {
            assert!(body["held"].as_array().unwrap().iter().all(Value::is_string), "{body}");
        }
        status
    }

    async fn witness(&mut self, body: &Value) -> u16 {
        let request = self.client.put(format!("{}/{GATEWAY}/checkpoint", self.url)).body(body.to_string());
        let (status, body) = self.ask(&Method::PUT, "/{gateway}/checkpoint", request).await;
        match status {
            200 => assert!(body["held"].is_string(), "{body}"),
            409 => assert!(body.get("held").is_some_and(|held| held.is_string() || held.is_null()), "{body}"),
            _ => {}
        }
        status
    }

    async fn take(&mut self, stream: &str, lines: &str, mend: impl FnOnce(RequestBuilder) -> RequestBuilder) -> u16 {
        let seqs: Vec<u64> =
            lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["seq"].as_u64()).collect();
        let (first, last) = (seqs.first().copied().unwrap_or(0), seqs.last().copied().unwrap_or(0));
        let key = format!("{GATEWAY}/{EPOCH}/{stream}/{first}-{last}/{}", Digest::of(lines.as_bytes()));
        let request = self.client.post(format!("{}/{GATEWAY}/{EPOCH}/{stream}", self.url));
        let request = request.header("idempotency-key", key).header("content-encoding", "zstd");
        let request = request.header("content-type", "application/x-ndjson");
        let request = mend(request.body(zstd::encode_all(lines.as_bytes(), 1).unwrap()));
        let (status, body) = self.ask(&Method::POST, "/{gateway}/{epoch}/{stream}", request).await;
        if status == 200 {
            let [accepted, repeated] = ["accepted", "repeated"].map(|count| body[count].as_u64().unwrap());
            let rejected = body["rejected"].as_array().unwrap();
            assert_eq!(accepted + repeated + rejected.len() as u64, seqs.len() as u64, "{body}");
            for one in rejected {
                assert!(seqs.contains(&one["seq"].as_u64().unwrap()), "{body}");
                assert!(matches!(one["error"].as_str(), Some("conflict" | "invalid")), "{body}");
                assert!(one.get("detail").is_none_or(Value::is_string), "{body}");
            }
        }
        status
    }

    async fn ask(&mut self, method: &Method, path: &str, request: RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/json", "{method} {path}: {status}");
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        if !matches!(status, 200 | 409) {
            assert!(body["detail"].is_string(), "{method} {path}: {status}: {body}");
        }
        let place = (method.as_str().to_lowercase(), path.to_owned());
        self.seen.entry(place).or_default().insert(status.to_string());
        (status, body)
    }
}

#[tokio::test]
async fn what_the_receiver_answers_is_documented_and_what_is_documented_it_answers() {
    let scene = Scene::with(Options { token: Some("t".to_owned()), ..Options::default() });
    let mut asks = Asks::new(&scene.receiver);
    let line = |seq: u64, value: u64| format!("{{\"seq\":{seq},\"value\":{value}}}\n");
    let note = |log: &Log, old: u64, size: u64| {
        let witness = log.witness(old, size);
        json!({ "note": witness.checkpoint.note(), "old": old, "consistency": witness.consistency })
    };
    assert_eq!(asks.held().await, 401);
    assert_eq!(asks.witness(&json!({})).await, 401);
    assert_eq!(asks.take("readings", &line(1, 1), |it| it).await, 401);
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("authorization", "Bearer t".parse().unwrap());
    asks.client = Client::builder().default_headers(headers).build().unwrap();

    assert_eq!(asks.held().await, 200);
    assert_eq!(asks.witness(&json!({ "note": "x" })).await, 400);
    assert_eq!(asks.witness(&json!({ "note": "x", "old": 0, "consistency": [] })).await, 422);
    assert_eq!(asks.witness(&note(&scene.log, 2, 5)).await, 409);
    assert_eq!(asks.witness(&note(&scene.log, 0, 5)).await, 200);
    assert_eq!(asks.witness(&note(&scene.log, 2, 5)).await, 409);
    assert_eq!(asks.witness(&note(&Log::new(9, 9), 5, 9)).await, 422);
    assert_eq!(asks.held().await, 200);

    let two = line(1, 1) + &line(3, 3);
    assert_eq!(asks.take("readings", &two, |it| it).await, 200);
    assert_eq!(asks.take("readings", &two, |it| it).await, 200);
    assert_eq!(asks.take("readings", &(line(1, 2) + &line(2, 2)), |it| it).await, 200);
    for stream in ["blocks", "anchors", "datasets", "alerts", "notices"] {
        assert_eq!(asks.take(stream, &two, |it| it).await, 200, "{stream}");
    }
    for unknown in ["minutes", "checkpoints", "x"] {
        assert_eq!(asks.take(unknown, &two, |it| it).await, 404, "{unknown}");
    }
    for bad in
        ["", "\n", "{}\n", "[1]\n", "{\"seq\":1}", "{\"seq\":-1}\n", &(line(3, 3) + &line(1, 1)), &line(1, 1).repeat(2)]
    {
        assert_eq!(asks.take("readings", bad, |it| it).await, 400, "{bad:?}");
    }
    let with = |name: &'static str, value: String| {
        move |it: RequestBuilder| {
            let (client, request) = it.build_split();
            let mut request = request.unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
            RequestBuilder::from_parts(client, request)
        }
    };
    let key = |stream: &str, range: &str, hash: &str| format!("{GATEWAY}/{EPOCH}/{stream}/{range}/{hash}");
    let hash = Digest::of(two.as_bytes()).to_string();
    for (wrong, status) in [
        (key("alerts", "1-3", &hash), 400),
        (key("readings", "1-2", &hash), 400),
        (key("readings", "1-3", &Digest::of(b"").to_string()), 503),
    ] {
        assert_eq!(asks.take("readings", &two, with("idempotency-key", wrong.clone())).await, status, "{wrong}");
    }
    assert_eq!(asks.take("readings", &two, with("content-encoding", "gzip".to_owned())).await, 415);
    assert_eq!(asks.take("readings", &two, |it| it.body("damaged")).await, 503);
    assert_eq!(torn(&scene.receiver, "POST", &format!("{EPOCH}/readings")), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(torn(&scene.receiver, "PUT", "checkpoint"), "HTTP/1.1 503 Service Unavailable");
    scene.receiver.set(Faults { too_large: Some(8), ..Faults::default() });
    assert_eq!(asks.take("readings", &two, |it| it).await, 413);
    scene.receiver.set(Faults { refuse: [3].into(), ..Faults::default() });
    assert_eq!(asks.take("readings", &two, |it| it).await, 422);

    let unknown = Scene::without_gateway();
    asks.url.clone_from(&unknown.receiver.url);
    assert_eq!(asks.held().await, 403);
    assert_eq!(asks.witness(&note(&scene.log, 0, 5)).await, 403);
    assert_eq!(asks.take("readings", &two, |it| it).await, 403);

    // What no receiver that is well says by itself.
    let mut documented = documented();
    for ((method, path), statuses) in &mut documented {
        statuses.remove("5XX");
        statuses.remove("429");
        if method != "post" || path != "/{gateway}/{epoch}/{stream}" {
            statuses.remove("503");
        }
    }
    assert_eq!(asks.seen, documented);
}

/// What the receiver says first to a body that ends before it is whole.
fn torn(receiver: &Receiver, method: &str, path: &str) -> String {
    let mut line = TcpStream::connect(("127.0.0.1", receiver.port)).unwrap();
    let request = format!(
        "{method} /v1/sync/{GATEWAY}/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\
         Content-Length: 1000\r\n\r\nsome"
    );
    line.write_all(request.as_bytes()).unwrap();
    line.shutdown(Shutdown::Write).unwrap();
    BufReader::new(line).lines().next().unwrap().unwrap()
}
