//! Searches for meters on simulated buses, on devices that misbehave, and on ports where no meter is.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(dead_code, reason = "the device of the other Modbus tests can do more")]

#[path = "../modbus/device.rs"]
mod device;
#[path = "../modbus/plant.rs"]
mod plant;
#[path = "../modbus/pty.rs"]
mod pty;
mod serial;
mod shared;
mod sunspec;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use meterseal::clock::Clock;
use meterseal::config::{self, Files};
use meterseal::model::{FoundUnit, RecognisedBy, ScanEvent, ScanOrder, Timestamp};
use meterseal::simulate::{self, Simulation};
use meterseal::sources::RunningLine;
use meterseal::sources::scan::scan;
use meterseal::sources::template::{self, Template};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use device::{Act, Device, Manner};

const PATIENCE: Duration = Duration::from_secs(90);

/// A Wednesday noon at which every simulated meter is well.
const NOON: Timestamp = Timestamp::from_millis(1_795_003_320_000);

fn shipped(name: &str) -> Arc<Template> {
    let (name, text) = template::shipped().iter().find(|(known, _)| *known == name).unwrap();
    Arc::new(template::parse(name, text).unwrap())
}

fn all_shipped() -> Vec<Arc<Template>> {
    template::shipped().iter().map(|(name, _)| shipped(name)).collect()
}

/// Simulated meters with these templates, as units 1, 2 and so on.
async fn simulation(templates: Vec<Arc<Template>>) -> Simulation {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = simulate::Config { listen, meters: templates.len(), templates, timezone: TimeZone::UTC };
    Simulation::bind(&config).await.unwrap()
}

/// The same, answering; gives their address.
async fn simulated(tasks: &mut JoinSet<()>, templates: Vec<Arc<Template>>) -> String {
    let simulation = simulation(templates).await;
    let address = simulation.simulated().unwrap()[0].address.to_string();
    tasks.spawn(simulation.run(Clock::manual(NOON), CancellationToken::new()));
    address
}

/// What a search told.
#[derive(Debug, Default)]
struct Told {
    line: Option<String>,
    notes: Vec<String>,
    units: Vec<FoundUnit>,
    config: Option<String>,
    failed: Option<(String, String)>,
}

async fn search(order: Value) -> Told {
    search_beside(order, Arc::default()).await
}

/// A search while these lines run.
async fn search_beside(order: Value, lines: Arc<Vec<RunningLine>>) -> Told {
    let order: ScanOrder = serde_json::from_value(order).unwrap();
    let (tell, mut events) = mpsc::channel(4);
    let mut told = Told::default();
    let listen = async {
        while let Some(event) = events.recv().await {
            assert!(told.config.is_none() && told.failed.is_none(), "{event:?} after the end");
            match event {
                ScanEvent::Begun { line, .. } => told.line = line.map(|line| line.to_string()),
                ScanEvent::Progress { .. } => {}
                ScanEvent::Note { text } => told.notes.push(text),
                ScanEvent::Unit(unit) => told.units.push(unit),
                ScanEvent::End { config, .. } => told.config = Some(config),
                ScanEvent::Failed { why, hint } => told.failed = Some((why, hint)),
            }
        }
    };
    let search = scan(order, all_shipped(), lines, tell);
    timeout(PATIENCE, async { tokio::join!(search, listen) }).await.expect("the search ends in time");
    told
}

impl Told {
    fn unit(&self, unit: u8) -> &FoundUnit {
        self.units.iter().find(|found| found.unit == unit).unwrap_or_else(|| panic!("unit {unit}: {self:#?}"))
    }
}

/// Pastes what was found behind a site, and gives unit and template of each meter.
fn pasted(told: &Told) -> Vec<(i64, String)> {
    let site = "[site]\nid = \"plant-7\"\ntimezone = \"Asia/Kuala_Lumpur\"\n[store]\npath = \"/var/lib/meterseal\"\n";
    let text = format!("{site}{}", told.config.as_ref().unwrap());
    let checked = config::check(&Files::of_text("m.toml", text.clone()), NOON);
    assert!(checked.faults.is_empty() && checked.warnings.is_empty(), "{:#?}\n{text}", checked);
    let table: toml::Table = text.parse().unwrap();
    let lines = table.get("modbus").map(|lines| lines.as_array().unwrap().clone()).unwrap_or_default();
    let meters = lines.iter().flat_map(|line| line["meter"].as_array().unwrap());
    let of =
        |meter: &toml::Value| (meter["unit"].as_integer().unwrap(), meter["template"].as_str().unwrap().to_owned());
    meters.map(of).collect()
}

/// A bus as plants have them.
const MIXED: [&str; 10] = [
    "eastron-sdm630",
    "schneider-iem3000",
    "abb-b23",
    "carlo-gavazzi-em24",
    "janitza-umg604",
    "siemens-7kt1665",
    "socomec-diris-a10",
    "schneider-pm5000",
    "eastron-sdm120",
    "carlo-gavazzi-em340",
];

#[tokio::test(flavor = "multi_thread")]
async fn ten_mixed_meters_are_found_and_their_config_can_be_pasted() {
    let mut tasks = JoinSet::new();
    let address = simulated(&mut tasks, MIXED.map(shipped).into()).await;
    let told = search(json!({ "tcp": address })).await;
    assert_eq!(told.units.iter().map(|unit| unit.unit).collect::<Vec<_>>(), (1..=10).collect::<Vec<u8>>());
    for (unit, name) in (1..).zip(MIXED) {
        let found = told.unit(unit);
        assert!(found.candidates.iter().any(|candidate| candidate.template == name), "{name}: {found:#?}");
        assert!(!found.under_any_unit);
    }
    let serial_numbers: Vec<_> = told.units.iter().filter_map(|unit| unit.identity.serial_number.clone()).collect();
    assert!(serial_numbers.len() >= 6, "{serial_numbers:?}");
    assert_eq!(told.unit(3).candidates[0].by, RecognisedBy::Identity);
    let pasted = pasted(&told);
    assert_eq!(pasted.len(), 10);
    assert_eq!(pasted[2], (3, "abb-b23".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shipped_template_is_recognised_and_no_identity_is_mistaken() {
    let mut tasks = JoinSet::new();
    let templates: Vec<_> = all_shipped().into_iter().filter(|template| !template.registers.is_empty()).collect();
    let address = simulated(&mut tasks, templates.clone()).await;
    let told = search(json!({ "tcp": address, "units": format!("1-{}", templates.len()) })).await;
    for (unit, template) in (1..).zip(&templates) {
        let found = told.unit(unit);
        let names: Vec<&str> = found.candidates.iter().map(|candidate| candidate.template.as_str()).collect();
        assert!(names.contains(&template.name.as_str()), "{}: {found:#?}", template.name);
        if template.identity.iter().any(|register| !register.is.is_empty()) {
            assert_eq!(names, [template.name.as_str()], "{found:#?}");
            assert_eq!(found.candidates[0].by, RecognisedBy::Identity);
        }
        for register in &template.identity {
            if register.item == template::Item::SerialNumber {
                let number = found.identity.serial_number.as_deref();
                assert_eq!(number, Some(format!("{}", 26_110_000 + u32::from(unit)).as_str()), "{}", template.name);
            }
        }
    }
    pasted(&told);
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_told_in_a_sentence() {
    let device = Device::start(|_| Act::Silence).await;
    let address = device.end().await;
    let told = search(json!({ "tcp": address })).await;
    let (why, hint) = told.failed.unwrap();
    assert!(why.starts_with(&format!("cannot connect to {address}: ")), "{why}");
    assert!(hint.contains("502"), "{hint}");
}

#[tokio::test]
async fn a_device_that_never_answers_costs_two_requests_for_each_unit() {
    let device = Device::start(|_| Act::Silence).await;
    let told = search(json!({ "tcp": device.address, "units": "1-6", "timeout_ms": 50 })).await;
    assert_eq!((told.units.len(), told.failed.is_none()), (0, true));
    assert_eq!(device.asked().len(), 12);
    assert!(pasted(&told).is_empty());
}

#[tokio::test]
async fn a_device_that_refuses_everything_is_listed_once_with_what_it_says() {
    let device = Device::start(|_| Act::Exception(1)).await;
    let told = search(json!({ "tcp": device.address, "units": "1-20" })).await;
    assert_eq!(told.units.len(), 1, "{told:#?}");
    assert!(told.units[0].under_any_unit && told.units[0].candidates.is_empty());
    assert_eq!(told.units[0].heard, ["answers every request with exception 1 (illegal function)"]);
    let config = told.config.as_ref().unwrap();
    assert!(config.contains("exception 1 (illegal function)") && config.contains("docs/templates.md"), "{config}");
    assert!(pasted(&told).is_empty());
}

#[tokio::test]
async fn a_real_unit_is_found_behind_a_gateway_that_refuses_for_those_that_are_away() {
    let device = Device::start(|asked| if asked.unit == 7 { Act::Words(vec![7; 2]) } else { Act::Exception(4) }).await;
    let told = search(json!({ "tcp": device.address, "units": "1-9" })).await;
    let units: Vec<u8> = told.units.iter().map(|unit| unit.unit).collect();
    assert_eq!(units, [1, 7], "{told:#?}");
    assert!(told.units[0].under_any_unit && told.units[0].heard[0].contains("exception 4"), "{told:#?}");
    assert!(!told.units[1].under_any_unit && told.units[1].heard.iter().any(|line| line.contains("0007 0007")));
}

#[tokio::test]
async fn what_answers_under_every_number_is_reported_once() {
    let device = Device::start(|asked| Act::Words(vec![3; asked.count.into()])).await;
    let told = search(json!({ "tcp": device.address })).await;
    assert_eq!(told.units.len(), 1, "{told:#?}");
    assert!(told.units[0].under_any_unit);
}

#[tokio::test]
async fn garbage_and_a_web_server_are_no_modbus() {
    let garbage = Device::start(|_| Act::Raw(vec![0x55; 40])).await;
    let (why, _) = search(json!({ "tcp": garbage.address })).await.failed.unwrap();
    assert!(why.contains("does not speak Modbus"), "{why}");
    let web = Device::start(|_| Act::Raw(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec())).await;
    let (why, hint) = search(json!({ "tcp": web.address })).await.failed.unwrap();
    assert!(why.contains("web server") && hint.contains("--rtu"), "{why}");
    let closing = Device::start(|_| Act::Close).await;
    let (why, hint) = search(json!({ "tcp": closing.address })).await.failed.unwrap();
    assert!(why.contains("closes the connection") && hint.contains("one connection"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_takes_long_to_say_that_a_unit_is_away_is_waited_for() {
    let manner = Manner { bus: Some(Duration::from_millis(5)), ..Manner::default() };
    let device = Device::start_at("127.0.0.1:0", manner, |asked| match asked.unit {
        9 => Act::Words(vec![1; asked.count.into()]),
        _ => {
            std::thread::sleep(Duration::from_millis(200));
            Act::Exception(11)
        }
    })
    .await;
    let told = search(json!({ "tcp": device.address, "units": "1-9", "timeout_ms": 50 })).await;
    assert_eq!(told.units.iter().map(|unit| unit.unit).collect::<Vec<_>>(), [9], "{told:#?}");
    let to_absent = device.asked().iter().filter(|asked| asked.unit < 9).count();
    assert_eq!(to_absent, 8, "a unit that the gateway calls away is asked once");
}

#[tokio::test]
async fn one_request_at_a_time_and_a_pause_between_them() {
    let device = Device::start(|asked| if asked.unit < 3 { Act::Exception(2) } else { Act::Exception(11) }).await;
    search(json!({ "tcp": device.address, "units": "1-9" })).await;
    let asked = device.asked();
    assert_eq!(device.connections(), 1);
    assert!(asked.windows(2).all(|pair| pair[1].at - pair[0].at >= Duration::from_millis(18)), "{asked:?}");
}

#[tokio::test]
async fn a_search_that_nobody_listens_to_ends() {
    let device = Device::start(|_| Act::Exception(11)).await;
    let order: ScanOrder = serde_json::from_value(json!({ "tcp": device.address })).unwrap();
    let (tell, mut events) = mpsc::channel(1);
    let mut search = JoinSet::new();
    search.spawn(scan(order, all_shipped(), Arc::default(), tell));
    while !matches!(events.recv().await.unwrap(), ScanEvent::Progress { asked: 5, .. }) {}
    drop(events);
    timeout(PATIENCE, search.join_next()).await.expect("the search ends").unwrap().unwrap();
    assert!(device.asked().len() < 10);
}
