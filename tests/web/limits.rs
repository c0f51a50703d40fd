//! One client cannot have the server to itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::assert_problem;
use crate::plant::{Plant, id, open_block};

const PATIENCE: Duration = Duration::from_secs(20);

/// So many requests over one connection, as fast as they go; how many of them were told to come again.
async fn hammer(address: SocketAddr, path: &str, header: &str, times: usize) -> usize {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
    let last = ask.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    let (mut answers, mut questions) = stream.split();
    let asking = async {
        questions.write_all(ask.repeat(times - 1).as_bytes()).await.unwrap();
        questions.write_all(last.as_bytes()).await.unwrap();
    };
    let mut all = Vec::new();
    let hearing = async { timeout(PATIENCE, answers.read_to_end(&mut all)).await.unwrap().unwrap() };
    tokio::join!(asking, hearing);
    String::from_utf8_lossy(&all).matches("HTTP/1.1 429 ").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_ask_too_often_are_told_when_to_come_again() {
    let plant = Plant::start().await;
    assert!(hammer(plant.address, "/api/meters", "", 900).await > 0);
    let refused = plant.send(plant.request("/api/meters")).await;
    assert_problem(&refused, 429);
    assert_eq!(refused.header("retry-after"), "1");
    let guess = plant.send(plant.request("/api/meters").bearer_auth("a-guess")).await;
    assert_problem(&guess, 429);

    // Those who are known, and what is public, are not held up by it.
    for path in ["/api/health", "/log/", "/page.css"] {
        assert_eq!(plant.send(plant.request(path)).await.status, 200, "{path}");
    }
    plant.get("/api/meters").await;

    // It is over by itself.
    let began = Instant::now();
    while plant.send(plant.request("/api/meters")).await.status == 429 {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_known_may_ask_often_but_not_without_end() {
    let plant = Plant::start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", plant.token);
    assert_eq!(hammer(plant.address, "/api/brokers", &bearer, 1_500).await, 0);
    assert!(hammer(plant.address, "/api/brokers", &bearer, 3_000).await > 0);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_those_of_one_source_are_closed() {
    let plant = Plant::start().await;
    let mut held = Vec::new();
    for _ in 0..384 {
        held.push(TcpStream::connect(plant.address).await.unwrap());
    }
    let is_closed = async |stream: &mut TcpStream| {
        let asked = stream.write_all(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        asked.is_err() || !matches!(timeout(PATIENCE, stream.read_u8()).await.unwrap(), Ok(b'H'))
    };
    // All of them are in, since the last is answered.
    assert!(!is_closed(held.last_mut().unwrap()).await);
    let mut beyond = TcpStream::connect(plant.address).await.unwrap();
    assert!(is_closed(&mut beyond).await);
    drop(held);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(plant.address).await.unwrap();
            if !is_closed(&mut stream).await {
                break;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("places are given back");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_nobody_reads_gives_its_place_back() {
    let plant = Plant::start().await;
    let mut stuck = TcpStream::connect(plant.address).await.unwrap();
    let ask = format!("GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", plant.token);
    stuck.write_all(ask.as_bytes()).await.unwrap();
    let mut first = [0; 16];
    stuck.read_exact(&mut first).await.unwrap();
    let feeds = async || {
        let metrics = plant.ask("/metrics").await.text;
        metrics.lines().find_map(|line| line.strip_prefix("meterseal_web_event_clients ").map(str::to_owned)).unwrap()
    };
    assert_eq!(feeds().await, "1");
    let block = |n| {
        let meter = id(&format!("m{n}"));
        (meter.clone(), meterseal::model::OpenBlock { meter, ..open_block() })
    };
    let blocks: std::collections::BTreeMap<_, _> = (0..400).map(block).collect();
    // Events fill what lies between, and then nothing is taken for 30 s.
    let began = Instant::now();
    while feeds().await != "0" {
        assert!(began.elapsed() < 6 * PATIENCE, "the feed is still open");
        plant.open.send_replace(std::sync::Arc::new(blocks.clone()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(30), "{:?}", began.elapsed());
    drop(stuck);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_longer_than_its_route_takes_is_refused() {
    let plant = Plant::start().await;
    for path in ["/api/scan", "/api/bulk", "/api/upstream/cloud/dead-letters"] {
        let long = plant.post(path).bearer_auth(&plant.token).body(" ".repeat(70_000));
        assert_problem(&plant.send(long).await, 413);
    }
    plant.end().await;
}
