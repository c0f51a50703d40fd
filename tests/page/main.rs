//! The page in a real browser, before a plant whose power moves. `tests/setup` installs what it needs; with
//! `SCREENSHOTS=folder` it leaves pictures there.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(dead_code, reason = "the plant of the other web tests can do more")]

mod browser;
#[path = "../web/plant.rs"]
mod plant;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use meterseal::clock::Clock;
use meterseal::model::{Actor, Alert, AlertKind, AnchorState, Category, Condition, OpenBlock, Timestamp};
use meterseal::simulate::plant::PLACES;
use meterseal::simulate::{self, Simulation};
use meterseal::sources::scan::scan;
use meterseal::sources::template::{self, Template};
use meterseal::store::{AccessChange, Role};
use meterseal::web::{ScanNow, totp};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use browser::Browser;
use plant::{HALF_MS, NOW, Plant, anchor, anchor_status, at, block, commissioning, id, open_block};

/// A Wednesday noon at which every simulated meter is well.
const NOON: i64 = 1_795_003_320_000;
/// Between two readings.
const BEAT_MS: u64 = 250;
/// How long the meter has been silent when the page is told.
const SILENCE: Duration = Duration::from_secs(300);
/// The PINs that the looks sign in by.
const PINS: [(Role, &str); 2] = [(Role::Admin, "271828"), (Role::Viewer, "314159")];

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_takes_a_pin_and_a_code_and_holds_up_who_guesses() {
    look("sign-in").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_leads_from_the_code_to_the_first_reading() {
    look("setup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plant_is_shown_live_and_what_is_stale_is_grey() {
    look("now").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn meters_are_shown_found_and_named() {
    look("meters").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_told_in_every_state_of_its_anchors() {
    look("evidence").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_flows_as_it_does_in_the_plant_and_nothing_is_guessed() {
    look("flows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_held_back_or_refused_is_done_without() {
    look("feed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_view_says_what_is_so_and_can_be_used_by_everybody() {
    look("views").await;
}

/// Has a browser look at the page by `tests/page/<name>.mjs`, and does meanwhile what that wants of the plant.
async fn look(name: &str) {
    let mut plant = Plant::start().await;
    fill(&plant).await;
    let mut tasks = JoinSet::new();
    let bus = bus(&mut tasks).await;
    let code = totp::random_code().unwrap();
    if name == "setup" {
        let change = AccessChange::SetupCode { code: totp::digest_of(&code).unwrap() };
        let by = Actor::here("meterseal");
        plant.store.ledger().change_access(change, by).await.unwrap().unwrap();
    } else {
        for (role, pin) in PINS {
            plant.set_pin(role, pin).await;
        }
    }
    let told = json!({ "token": plant.token, "code": code, "bus": bus, "noon": noon() });
    let mut browser = Browser::open(&format!("page/{name}"), &plant.url(""), &told);
    let mut beat = interval(Duration::from_millis(BEAT_MS));
    let (mut beats, mut is_silent) = (0_u16, false);
    loop {
        tokio::select! {
            _ = beat.tick() => {
                beats += 1;
                plant.clock.advance(Duration::from_millis(BEAT_MS));
                if !is_silent {
                    let time = plant.clock.now();
                    plant.read(time, 200_000.0 + f32::from(beats % 900) * 100.0, 5_000).await;
                    plant.open.send_replace(Arc::new([(id("main"), OpenBlock { at: time, ..open_block() })].into()));
                }
            }
            Some(ScanNow { order, tell, begun }) = plant.scans.recv() => {
                begun.send(Ok(())).unwrap();
                tasks.spawn(scan(order, templates(), Arc::default(), tell));
            }
            wanted = browser.wants() => {
                match wanted.as_deref() {
                    None => break,
                    Some("restart") => plant = plant.restart_web().await,
                    Some("alert") => raise(&plant, "Main incomer is heading for 140 kWh").await,
                    Some("alerts that are over") => raise_and_clear(&plant, 25).await,
                    Some("silence") => {
                        is_silent = true;
                        fall_silent(&plant);
                        plant.clock.advance(SILENCE);
                    }
                    Some(other) => match other.strip_prefix("wait ").and_then(|seconds| seconds.parse().ok()) {
                        Some(seconds) => plant.clock.advance(Duration::from_secs(seconds)),
                        None => {
                            println!("{other}");
                            continue;
                        }
                    },
                }
                browser.is_done().await;
            }
        }
    }
    browser.end().await;
    plant.end().await;
}

/// The meter answers no more.
fn fall_silent(plant: &Plant) {
    plant.sources.send_modify(|sources| {
        let meters = &mut Arc::make_mut(sources).meters;
        meters.values_mut().for_each(|meter| {
            meter.condition = Condition::Silent;
            meter.problem = Some("no answer within 1 s".into());
        });
    });
}

async fn raise(plant: &Plant, text: &str) {
    let now = plant.clock.now();
    let alert = Alert::new(AlertKind::TargetAtRisk, Some(id("main")), now, now, text.into());
    plant.store.ledger().raise(alert).await.unwrap();
}

async fn raise_and_clear(plant: &Plant, many: i64) {
    let (now, ledger) = (plant.clock.now(), plant.store.ledger());
    for n in 0..many {
        let alert = Alert::new(AlertKind::TargetAtRisk, Some(id("total")), now.plus_millis(n), now, "over".into());
        let raised = ledger.raise(alert).await.unwrap().unwrap();
        ledger.clear_alert(raised, now).await.unwrap();
    }
}

/// The address of a bus of simulated meters, one of which is not told from its like by anything it says.
async fn bus(tasks: &mut JoinSet<()>) -> String {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let named = |name: &str| templates().into_iter().find(|template| template.name == name).unwrap();
    let templates = ["eastron-sdm630", "abb-b23", "siemens-pac2200", "schneider-iem3000"].map(named).into();
    let config = simulate::Config { listen, meters: 4, templates, timezone: TimeZone::UTC };
    let simulation = Simulation::bind(&config).await.unwrap();
    let address = simulation.simulated().unwrap()[0].address.to_string();
    let noon = Clock::manual(Timestamp::from_millis(NOON));
    tasks.spawn(simulation.run(noon, CancellationToken::new()));
    address
}

/// What each meter of the simulated plant says on a sunny Wednesday at noon, and the power that no meter measures, kW.
fn noon() -> serde_json::Value {
    let plant = simulate::plant::Plant::new(1, 0);
    let import = |index| plant.sample(index, Timestamp::from_millis(NOON)).kilowatts.iter().sum::<f64>();
    let meters = PLACES.iter().enumerate().map(|(index, place)| {
        let sign = if matches!(place.category, Category::Prod | Category::Inj) { -1.0 } else { 1.0 };
        json!({ "id": place.id, "name": place.name, "category": place.category, "kw": sign * import(index) })
    });
    // All but the last stand behind the incomer.
    let unmetered = import(0) - (1..PLACES.len() - 1).map(import).sum::<f64>();
    json!({ "meters": meters.collect::<Vec<_>>(), "unmetered": unmetered })
}

fn templates() -> Vec<Arc<Template>> {
    template::shipped().iter().map(|(name, text)| Arc::new(template::parse(name, text).unwrap())).collect()
}

/// Thirty blocks of the local day with one that is silent and one above the target, an alert and a problem.
async fn fill(plant: &Plant) {
    let midnight = at("2026-11-20T16:00:00Z");
    let kwh = |n: i64| match n {
        9 => None,
        24 => Some(130),
        n => Some(60 + n),
    };
    let uwh = |n| kwh(n).map(|kwh| kwh * 1_000_000_000);
    for (blocks, state) in [(0..20, AnchorState::Final), (20..26, AnchorState::Included), (26..30, AnchorState::Queued)]
    {
        plant.seal(blocks.map(|n| block(midnight.plus_millis(n * HALF_MS), uwh(n))).collect()).await;
        let nonce = 4 + u64::from(state == AnchorState::Included);
        plant.anchor(anchor(&plant.sign().await, state, nonce)).await;
    }
    plant.anchor.send_replace(anchor_status());
    raise(plant, "Main incomer is heading for 132 kWh").await;
    plant.store.ledger().commission(commissioning()).await.unwrap();
    plant.problems.send_replace(Arc::new(vec!["the webhook is away".into()]));
    plant.read(at(NOW), 200_000.0, 5_000).await;
}
