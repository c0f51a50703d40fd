//! How fast a broker's backlog becomes durable: `cargo bench --bench mqtt`. Beside it, in the same run, a client that
//! acknowledges at once and stores nothing. The broker sends so many messages unacknowledged, and then waits.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

#[path = "../tests/peers/mosquitto.rs"]
mod mosquitto;
#[path = "../tests/mqtt/plant.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod plant;

use std::time::{Duration, Instant};

use mosquitto::Mosquitto;
use plant::{Feeder, Plant, broker};
use rumqttc_v4::{AsyncClient, Event, MqttOptions, Packet, QoS, SessionMode};

const METERS: usize = 500;
const MESSAGES: usize = 20_000;

/// 2026-11-21T00:00:00Z
const T: usize = 1_795_219_200_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{MESSAGES} messages of {METERS} meters, each one reading of 3 values");
    for in_flight in [20, 1000] {
        let bare = runtime.block_on(bare(in_flight));
        let ours = runtime.block_on(ours(in_flight));
        println!(
            "{in_flight:>5} in flight: {:.0} readings/s durable, {:.0} messages/s by a client that stores nothing ({:.2})",
            rate(ours),
            rate(bare),
            bare.as_secs_f64() / ours.as_secs_f64()
        );
    }
}

fn rate(took: Duration) -> f64 {
    f64::from(u32::try_from(MESSAGES).unwrap()) / took.as_secs_f64()
}

fn started(in_flight: u32) -> Mosquitto {
    Mosquitto::start(&format!("max_inflight_messages {in_flight}"))
}

fn samples() -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..MESSAGES).map(|at| {
        let (serial, tp) = (at % METERS, T + at / METERS * 60_000);
        let points = format!(
            r#"{{"id":0,"val":"S{serial}"}},{{"id":13,"val":{at}.5}},{{"id":26,"val":"50.01"}},{{"id":28,"val":{at}}}"#
        );
        let text = format!(r#"{{"data":[{{"tp":{tp},"point":[{points}]}}]}}"#);
        ("platform/acrel/meter".to_owned(), text.into_bytes())
    })
}

/// From the connection to the last message stored.
async fn ours(in_flight: u32) -> Duration {
    let mosquitto = tokio::task::spawn_blocking(move || started(in_flight)).await.unwrap();
    let known = broker(&mosquitto, mosquitto.port, METERS);
    let mut plant = Plant::start(known.clone());
    plant.until("the connection", |broker| broker.connected).await;
    let plant = plant.left().await;
    Feeder::start(&mosquitto).publish(samples()).await;
    let began = Instant::now();
    let mut plant = plant.again(known);
    plant.until_committed(MESSAGES).await;
    let took = began.elapsed();
    plant.end().await;
    took
}

async fn bare(in_flight: u32) -> Duration {
    let mosquitto = tokio::task::spawn_blocking(move || started(in_flight)).await.unwrap();
    let connect = || {
        let mut options = MqttOptions::new("bare", ("localhost", mosquitto.port));
        options.set_session_mode(SessionMode::Persistent);
        AsyncClient::builder(options).build()
    };
    let (client, mut events) = connect();
    client.subscribe("platform/+/meter", QoS::AtLeastOnce).await.unwrap();
    while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    client.disconnect().await.unwrap();
    while events.poll().await.is_ok() {}
    Feeder::start(&mosquitto).publish(samples()).await;
    let began = Instant::now();
    let (_client, mut events) = connect();
    let mut came = 0;
    while came < MESSAGES {
        came += usize::from(matches!(events.poll().await.unwrap(), Event::Incoming(Packet::Publish(_))));
    }
    began.elapsed()
}
