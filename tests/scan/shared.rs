//! Searches of a bus that the daemon reads: over its connection, between its polls.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::device::{Act, Asked, Device, Manner};
use crate::plant::{Plant, line, meter, ten};
use crate::search_beside;

/// Polls ask for the ten registers of the plant's map; a search never does.
fn is_poll(asked: &Asked) -> bool {
    (asked.function, asked.address, asked.count) == (4, 0, 10)
}

fn polls_of(device: &Device, unit: u8, from: Instant) -> Vec<Instant> {
    let polls = device.asked().into_iter().filter(|asked| asked.unit == unit && is_poll(asked) && asked.at >= from);
    polls.map(|asked| asked.at).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_read_is_searched_over_its_one_connection_and_no_poll_is_lost() {
    let manner = Manner { most: 1, bus: Some(Duration::from_millis(5)), ..Manner::default() };
    let device = Device::start_at("127.0.0.1:0", manner, |asked| match asked.unit {
        1..=3 if is_poll(asked) => Act::Answer,
        1..=3 | 6 => Act::Exception(2),
        _ => Act::Silence,
    })
    .await;
    let interval = Duration::from_secs(1);
    let meters = (1..4).map(|unit| meter(&format!("m{unit}"), unit, &ten(), interval)).collect();
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    for id in ["m1", "m2", "m3"] {
        plant.until_meter(id, "answers", |meter| meter.answers > 0).await;
    }
    let port = device.address.rsplit_once(':').unwrap().1;
    let (from, lines) = (Instant::now(), plant.lines.borrow().clone());
    let told =
        search_beside(json!({ "tcp": format!("localhost:{port}"), "units": "1-8", "timeout_ms": 100 }), lines).await;
    let took = from.elapsed();
    assert_eq!(told.line.as_deref(), Some("msb"), "another name of the same place is found: {told:#?}");
    let found: Vec<_> = told.units.iter().map(|unit| (unit.unit, unit.meter.as_ref().map(|id| id.as_str()))).collect();
    assert_eq!(found, [(1, Some("m1")), (2, Some("m2")), (3, Some("m3")), (6, None)]);
    assert!(told.config.unwrap().contains("of the running config"));
    assert_eq!(device.connections(), 1);
    for unit in 1..4 {
        let polls = polls_of(&device, unit, from);
        let due = took.as_millis() / interval.as_millis();
        assert!(polls.len() as u128 + 1 >= due, "unit {unit}: {} of {due} polls in {took:?}", polls.len());
        let longest = polls.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest < interval + Duration::from_millis(300), "unit {unit} waited {longest:?}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_line_that_is_always_busy_a_search_takes_a_twentieth_of_the_time() {
    let manner = Manner { most: 1, bus: Some(Duration::from_millis(12)), ..Manner::default() };
    let act = |asked: &Asked| if asked.unit < 4 { Act::Answer } else { Act::Silence };
    let device = Device::start_at("127.0.0.1:0", manner, act).await;
    let interval = Duration::from_millis(100);
    let meters = (1..4).map(|unit| meter(&format!("m{unit}"), unit, &ten(), interval)).collect();
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    plant.until_meter("m3", "answers", |meter| meter.answers > 2).await;
    let lines = plant.lines.borrow().clone();
    let told = search_beside(json!({ "tcp": device.address, "units": "7-8", "timeout_ms": 100 }), lines).await;
    assert!(told.units.is_empty() && told.failed.is_none(), "{told:#?}");
    let asked = device.asked();
    let searched: Vec<_> = asked.iter().enumerate().filter(|(_, asked)| asked.unit > 6).collect();
    assert_eq!(searched.len(), 4);
    for pair in searched.windows(2) {
        let [(at, asked), (next, other)] = pair else { unreachable!() };
        // Each takes the line's 200 ms, and 3.8 s are for polls: longer on a machine that has other things to do. The
        // device hears of it a little after it was sent.
        assert!(other.at - asked.at > Duration::from_millis(3_700), "{:?}", other.at - asked.at);
        assert!(next - at > 10, "{} polls between two requests of the search", next - at - 1);
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_connection_is_told_and_one_that_ends_ends_the_search() {
    let gone = Device::start(|_| Act::Answer).await.end().await;
    let mut plant = Plant::start(vec![line("msb", &gone, vec![meter("m", 1, &ten(), Duration::from_secs(1))])]).await;
    plant.until_meter("m", "silent", |meter| meter.problem.is_some()).await;
    let lines = plant.lines.borrow().clone();
    let (why, hint) = search_beside(json!({ "tcp": gone }), lines.clone()).await.failed.unwrap();
    assert!(why.starts_with("line msb of the daemon has no connection: ") && hint.contains("daemon"), "{why}");
    plant.end().await;
    let (why, _) = search_beside(json!({ "tcp": gone }), lines).await.failed.unwrap();
    assert_eq!(why, "line msb of the daemon was changed or ended meanwhile");
}
