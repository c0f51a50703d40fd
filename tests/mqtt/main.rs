//! MQTT sources against a real broker, with what goes wrong between.

// clippy.toml allows it in test functions; here it is meant for what they call as well.
#![allow(clippy::unwrap_used)]

#[path = "../peers/mosquitto.rs"]
mod mosquitto;
mod plant;

use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{Condition, Number, Ratio, Timestamp};
use meterseal::sources::mqtt::formats::{Format, Plain};
use meterseal::sources::mqtt::{Broker, ClientCertificate, Login, Subscription, Tls, Version};
use mosquitto::Mosquitto;
use plant::{Feeder, Network, Plant, broker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

const METERS: usize = 40;

/// 2026-11-21T00:00:00Z
const T: i64 = 1_795_219_200_000;

/// The sample of a meter at an instant: its power tells both.
fn sample(meter: usize, at: usize) -> (String, Vec<u8>) {
    let (tp, kw) = (T + i64::try_from(at).unwrap() * 1000, power(meter, at));
    let text = format!(r#"{{"data":[{{"tp":{tp},"point":[{{"id":0,"val":"S{meter}"}},{{"id":13,"val":{kw}}}]}}]}}"#);
    ("platform/acrel/meter".to_owned(), text.into_bytes())
}

fn power(meter: usize, at: usize) -> usize {
    meter * 100_000 + at
}

fn samples(at: std::ops::Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    at.flat_map(|at| (0..METERS).map(move |meter| sample(meter, at)))
}

/// Every sample of `at` is stored once, with its own value, and nothing else is.
async fn assert_all_stored(plant: &Plant, at: std::ops::Range<usize>) {
    let stored = plant.until_stored(at.len() * METERS, METERS).await;
    assert_eq!(stored.len(), at.len() * METERS);
    for ((meter, time), readings) in stored {
        let at = usize::try_from((time - T) / 1000).unwrap();
        let values: Vec<_> = readings.iter().map(|reading| reading.at(0)).collect();
        let wanted = Number::I64(i64::try_from(power(meter, at)).unwrap());
        assert_eq!(values, [Some(wanted)], "meter {meter} at {at}");
        assert!(!readings[0].conflict);
    }
}

async fn started(settings: &'static str) -> Mosquitto {
    spawn_blocking(move || Mosquitto::start_with_tls(settings)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_stored_once_through_cuts_restarts_and_kills() {
    let mut mosquitto = started("max_inflight_messages 20").await;
    let network = Network::to(mosquitto.port).await.unwrap();
    let broker = broker(&mosquitto, network.port, METERS);
    let mut plant = Plant::start(broker.clone());
    plant.until("the connection", |broker| broker.connected).await;
    let feeder = Feeder::start(&mosquitto);
    // Each harm is done while a quarter of the samples is on its way.
    for round in 0..4 {
        let before = plant.until("the connection", |broker| broker.connected).await.messages;
        let fed = feeder.publish(samples(round * 25..(round + 1) * 25));
        let harmed = async {
            plant.until("messages", |broker| broker.messages > before + 200).await;
            match round {
                0 | 1 => {
                    network.cut();
                    plant.until("the cut", |broker| !broker.connected).await;
                    network.mend();
                }
                2 => plant = plant.killed_and_started_again(broker.clone()).await,
                _ => {
                    let again = move || {
                        mosquitto.stop();
                        mosquitto.start_again();
                        mosquitto
                    };
                    mosquitto = spawn_blocking(again).await.unwrap();
                }
            }
            (plant, mosquitto)
        };
        ((), (plant, mosquitto)) = tokio::join!(fed, harmed);
    }
    assert_all_stored(&plant, 0..100).await;
    let told = plant.until("the connection", |broker| broker.connected).await;
    assert_eq!((told.malformed, told.unasked, told.proposals.len()), (0, 0, 0));
    plant.end().await;
    drop(mosquitto);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_lost_its_sessions_is_subscribed_to_anew() {
    let mut mosquitto = started("").await;
    let mut plant = Plant::start(broker(&mosquitto, mosquitto.port, METERS));
    plant.until("the connection", |broker| broker.connected).await;
    let feeder = Feeder::start(&mosquitto);
    feeder.publish(samples(0..5)).await;
    assert_all_stored(&plant, 0..5).await;
    mosquitto = spawn_blocking(move || {
        mosquitto.kill();
        mosquitto.forget();
        mosquitto.start_again();
        mosquitto
    })
    .await
    .unwrap();
    plant.until("the connection", |broker| broker.connected && broker.connects >= 2).await;
    // The subscription follows the connection; whatever is published before it is nobody's.
    feeder.publish((0..METERS).map(|meter| sample(meter, 5))).await;
    while plant.stored(METERS).await.len() < 6 * METERS {
        feeder.publish((0..METERS).map(|meter| sample(meter, 5))).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_all_stored(&plant, 0..6).await;
    plant.end().await;
    drop(mosquitto);
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_5_keeps_its_session_as_well() {
    let mosquitto = started("max_inflight_messages 20").await;
    let network = Network::to(mosquitto.port).await.unwrap();
    let mut broker = broker(&mosquitto, network.port, METERS);
    broker.version = Version::V5;
    let mut plant = Plant::start(broker);
    plant.until("the connection", |broker| broker.connected).await;
    let feeder = Feeder::start(&mosquitto);
    feeder.publish(samples(0..10)).await;
    network.cut();
    plant.until("the cut", |broker| !broker.connected).await;
    feeder.publish(samples(10..20)).await;
    network.mend();
    assert_all_stored(&plant, 0..20).await;
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_we_are_away_comes_when_we_are_back() {
    let mosquitto = spawn_blocking(|| Mosquitto::start("")).await.unwrap();
    let known = broker(&mosquitto, mosquitto.port, METERS);
    let mut plant = Plant::start(known.clone());
    plant.until("the connection", |broker| broker.connected).await;
    let left = plant.left().await;
    Feeder::start(&mosquitto).publish(samples(0..20)).await;
    let mut plant = left.again(known);
    plant.until_committed(20 * METERS).await;
    assert_all_stored(&plant, 0..20).await;
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_and_costs_nothing_else() {
    let mosquitto = started("").await;
    let mut plant = Plant::start(broker(&mosquitto, mosquitto.port, METERS));
    plant.until("the connection", |broker| broker.connected).await;
    let feeder = Feeder::start(&mosquitto);
    let topic = || "platform/acrel/meter".to_owned();
    feeder.publish([(topic(), b"not JSON".to_vec()), sample(0, 0), (topic(), vec![b' '; 20_000]), sample(1, 0)]).await;
    feeder.publish((2..METERS).map(|meter| sample(meter, 0))).await;
    let told = plant.until("two malformed messages", |broker| broker.malformed == 2).await;
    let last = told.last_malformed.unwrap();
    assert!(last.reason.starts_with("20024 bytes, and `max_packet` is 10000"), "{}", last.reason);
    feeder
        .publish([(
            topic(),
            br#"{"data":[{"tp":1795219200000,"point":[{"id":0,"val":"X9"},{"id":13,"val":1}]}]}"#.to_vec(),
        )])
        .await;
    let told = plant.until("a proposal", |broker| !broker.proposals.is_empty()).await;
    assert_eq!((told.proposals[0].name.as_str(), told.connects), ("X9", 1));
    assert_all_stored(&plant, 0..1).await;
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_without_a_time_is_counted_by_itself() {
    let mosquitto = started("").await;
    let undated = br#"{"data":[{"tp":0,"point":[{"id":0,"val":"S0"},{"id":13,"val":1}]}]}"#;
    Feeder::start(&mosquitto).retain("platform/acrel/meter", undated).await;
    let mut plant = Plant::start(broker(&mosquitto, mosquitto.port, METERS));
    let told = plant.until("the message", |broker| broker.messages == 1).await;
    assert_eq!((told.undated, told.malformed, told.last_malformed.is_none()), (1, 0, true));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_changed_counts_on_and_is_asked_anew() {
    let mosquitto = started("").await;
    let mut known = broker(&mosquitto, mosquitto.port, METERS);
    let mut plant = Plant::start(known.clone());
    plant.until("the connection", |broker| broker.connected).await;
    let feeder = Feeder::start(&mosquitto);
    feeder.publish(samples(0..1)).await;
    feeder.publish([("platform/acrel/meter".to_owned(), b"not JSON".to_vec())]).await;
    plant.until("the messages", |broker| broker.messages == 41 && broker.malformed == 1).await;
    known.subscriptions[0].topic = "platform/#".to_owned();
    plant.configure(known);
    let told = plant.until("the connection anew", |broker| broker.connected && broker.connects == 2).await;
    assert_eq!((told.messages, told.malformed, told.last_malformed.is_some()), (41, 1, true));
    feeder.publish([("platform/hall".to_owned(), sample(0, 1).1)]).await;
    plant.until("what was not asked for before", |broker| broker.messages == 42).await;
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_comes_any_more_is_made_anew() {
    let mosquitto = started("").await;
    let network = Network::to(mosquitto.port).await.unwrap();
    let mut plant = Plant::start(broker(&mosquitto, network.port, METERS));
    plant.until("the connection", |broker| broker.connected).await;
    network.freeze();
    let feeder = Feeder::start(&mosquitto);
    feeder.publish(samples(0..2)).await;
    let told = plant.until("a connection anew", |broker| broker.connected && broker.connects == 2).await;
    assert!(told.messages > 0, "what was published meanwhile was kept by the broker");
    assert_all_stored(&plant, 0..2).await;
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_for_a_certificate_gets_ours() {
    let mosquitto = started("cafile {folder}/ca.pem\nrequire_certificate true").await;
    let stranger = broker(&mosquitto, mosquitto.port, METERS);
    let mut known = stranger.clone();
    let (chain, key) = mosquitto.client_certificate();
    known.tls.as_mut().unwrap().client = Some(ClientCertificate { chain, key });
    let mut plant = Plant::start(stranger);
    let told = plant.until("a problem", |broker| broker.problem.is_some()).await;
    assert!(!told.connected && told.problem.unwrap().to_lowercase().contains("certificate"));
    plant.end().await;
    let mut plant = Plant::start(known);
    plant.until("the connection", |broker| broker.connected).await;
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_see_whether_we_listen() {
    let mosquitto = spawn_blocking(|| Mosquitto::start("")).await.unwrap();
    let network = Network::to(mosquitto.port).await.unwrap();
    let mut plant = Plant::start(broker(&mosquitto, network.port, METERS));
    plant.until("the connection", |broker| broker.connected).await;
    Feeder::heard(&mosquitto, "meterseal/test/status", "online").await;
    // The broker says it by our will.
    network.cut();
    Feeder::heard(&mosquitto, "meterseal/test/status", "offline").await;
    network.mend();
    plant.until("the connection", |broker| broker.connects == 2 && broker.connected).await;
    Feeder::heard(&mosquitto, "meterseal/test/status", "online").await;
    plant.end().await;
    Feeder::heard(&mosquitto, "meterseal/test/status", "offline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_that_publishes_no_more_is_silent_and_so_is_its_broker() {
    let mosquitto = spawn_blocking(|| Mosquitto::start("")).await.unwrap();
    let clock = Clock::manual(Timestamp::from_millis(T));
    let mut plant = Plant::start_by(clock.clone(), broker(&mosquitto, mosquitto.port, 1));
    plant.until("the connection", |broker| broker.connected).await;
    let feeder = Feeder::start(&mosquitto);
    feeder.publish([sample(0, 0)]).await;
    let told = plant.until("a message", |broker| broker.messages == 1).await;
    assert!(!told.silent);
    plant.until_meter("answering", Condition::Answering).await;
    clock.advance(Duration::from_secs(16 * 60));
    plant.until("silence", |broker| broker.silent && broker.connected).await;
    plant.until_meter("silence", Condition::Silent).await;
    feeder.publish([sample(0, 1)]).await;
    plant.until("a message", |broker| broker.messages == 2 && !broker.silent).await;
    plant.until_meter("answering", Condition::Answering).await;
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_a_time_that_come_in_one_moment_are_readings_of_their_own() {
    let mosquitto = spawn_blocking(|| Mosquitto::start("")).await.unwrap();
    let mut known = broker(&mosquitto, mosquitto.port, 1);
    let plain = Plain { quantity: "power_kw".parse().unwrap(), scale: Ratio::ONE };
    known.subscriptions = vec![Subscription { topic: "hall/+".to_owned(), format: Format::Plain(plain) }];
    let mut plant = Plant::start(known.clone());
    plant.until("the connection", |broker| broker.connected).await;
    let left = plant.left().await;
    let kept: Vec<_> = [5, 5, 7, 7, 8].map(|kw| ("hall/S0".to_owned(), kw.to_string().into_bytes())).into();
    for message in &kept {
        Feeder::start(&mosquitto).publish([message.clone()]).await;
    }
    let plant = left.again(known);
    let stored = plant.until_stored(kept.len(), 1).await;
    let values: Vec<_> = stored.values().flatten().map(|reading| (reading.at(0), reading.conflict)).collect();
    assert_eq!(values, [5, 5, 7, 7, 8].map(|kw| (Some(Number::I64(kw)), false)));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_meters_is_counted_and_bounded() {
    let mosquitto = spawn_blocking(|| Mosquitto::start("")).await.unwrap();
    let mut plant = Plant::start(broker(&mosquitto, mosquitto.port, METERS));
    plant.until("the connection", |broker| broker.connected).await;
    let unknown = |at: usize| {
        let text = format!(r#"{{"data":[{{"tp":{T},"point":[{{"id":0,"val":"X{at}"}},{{"id":13,"val":1}}]}}]}}"#);
        (format!("platform/{at}/meter"), text.into_bytes())
    };
    Feeder::start(&mosquitto).publish((0..3_000).map(unknown).chain([sample(0, 0)])).await;
    let told = plant.until("the flood", |broker| broker.messages > 3_000 && broker.unnamed > 0).await;
    assert_eq!((told.proposals.len(), told.malformed), (256, 0));
    let told = plant.until("all of it", |broker| broker.unnamed == 3_000 - 256).await;
    assert_eq!(told.connects, 1);
    plant.until_committed(1).await;
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_let_us_in_says_why() {
    let mosquitto = started("").await;
    let mut wrong_password = broker(&mosquitto, mosquitto.port, 1);
    wrong_password.login = Some(Login { username: "edge".to_owned(), password: Some("wrong".to_owned()) });
    let mut wrong_ca = broker(&mosquitto, mosquitto.port, 1);
    let other = started("").await;
    wrong_ca.tls = Some(Tls { ca: other.ca(), client: None });
    let mut nobody = broker(&mosquitto, mosquitto.port, 1);
    nobody.port = 1;
    for (broker, why) in
        [(wrong_password, "does not let this client in"), (wrong_ca, "certificate"), (nobody, "nobody listens there")]
    {
        let mut plant = Plant::start(broker);
        let told = plant.until("a problem", |broker| broker.problem.is_some()).await;
        assert!(told.problem.as_ref().unwrap().contains(why), "{:?}", told.problem);
        plant.end().await;
    }
}

/// In plain words, whatever the library calls it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_ends_the_connection_is_told() {
    let mosquitto = started("").await;
    for (version, accepted) in [(Version::V311, &[0x20, 2, 0, 0][..]), (Version::V5, &[0x20, 3, 0, 0, 0])] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closing = broker(&mosquitto, listener.local_addr().unwrap().port(), 1);
        let mut plant = Plant::start(Broker { version, tls: None, ..closing });
        // All of the greeting is read, so that the end is no reset.
        let ends = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut greeting = [0; 1024];
            while stream.read(&mut greeting).await.unwrap() == greeting.len() {}
            stream.write_all(accepted).await.unwrap();
            stream.shutdown().await.unwrap();
            while stream.read(&mut greeting).await.is_ok_and(|came| came > 0) {}
        };
        let (told, ()) = tokio::join!(plant.until("a problem", |broker| broker.problem.is_some()), ends);
        // The sending side may notice it first.
        let plain = ["the broker closed the connection", "the connection ended"];
        assert!(plain.contains(&told.problem.as_deref().unwrap()), "{:?}", told.problem);
        plant.end().await;
    }
}
