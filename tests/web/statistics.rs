//! Statistics of one meter, and the summary of the site.

use meterseal::model::{Block, BlockFlag, Power, Span};
use serde_json::{Value, json};

use crate::assert_problem;
use crate::plant::{HALF_MS, Plant, at, block, id};

/// Three blocks of a Saturday in Kuala Lumpur, of which the last one lies in peak hours, and one of the day before.
fn day() -> Vec<Block> {
    let midnight = at("2026-11-20T16:00:00Z");
    let peak = at("2026-11-21T06:00:00Z");
    vec![
        block(midnight.plus_millis(-HALF_MS), Some(7_000_000_000)),
        block(midnight, Some(50_000_000_000)),
        Block { max_power: Some(Power::from_mw(250_000_000)), ..block(midnight.plus_millis(HALF_MS), Some(1)) },
        Block { is_peak_hour: true, ..block(peak, Some(60_000_000_000)) },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_comes_to_exact_figures_of_its_blocks() {
    let plant = Plant::start().await;
    plant.seal(day()).await;
    let today = plant.ask("/api/meters/main/statistics").await;
    assert!(today.text.contains("\"kwh\":110.000000001,"), "to the µWh: {}", today.text);
    let today = today.json();
    let member = |name: &str| today[name].clone();
    assert_eq!(member("period"), "today");
    assert_eq!((member("from"), member("to")), (json!("2026-11-20T16:00:00.000Z"), json!("2026-11-21T16:00:00.000Z")));
    assert_eq!((member("max_kw"), member("max_kw_at")), (json!(250), json!("2026-11-20T16:30:00.000Z")));
    assert_eq!((member("max_demand_kw"), member("max_demand_at")), (json!(120), json!("2026-11-21T06:00:00.000Z")));
    assert_eq!((member("peak_hours_kwh"), member("kwh_export")), (json!(60), Value::Null));
    assert!(today["off_peak_kwh"] == json!(50.000000001), "{}", today["off_peak_kwh"]);
    // 110 kWh in the 1.5 h that readings cover.
    assert_eq!(member("avg_kw"), json!(73.333333334));
    assert_eq!((member("blocks"), member("coverage")), (json!(3), json!(0.1034)));
    assert_eq!(member("first_block_at"), "2026-11-20T16:00:00.000Z");
    let yesterday = plant.get("/api/meters/main/statistics?period=yesterday").await;
    assert_eq!((&yesterday["kwh"], &yesterday["blocks"]), (&json!(7), &json!(1)));
    let year = plant.get("/api/meters/main/statistics?period=year").await;
    assert_eq!((&year["kwh"], &year["from"]), (&json!(117.000000001), &json!("2025-12-31T16:00:00.000Z")));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_of_a_period_is_absent_and_not_zero() {
    let plant = Plant::start().await;
    plant.seal(day()).await;
    let none = plant.get("/api/meters/total/statistics?period=month").await;
    for member in ["kwh", "avg_kw", "max_kw", "max_demand_kw", "peak_hours_kwh", "coverage"] {
        assert!(none[member].is_null() && none.as_object().unwrap().contains_key(member), "{member}: {none}");
    }
    assert_eq!((&none["blocks"], &none["flags"]), (&json!(0), &json!([])));
    assert_problem(&plant.ask("/api/meters/other/statistics").await, 404);
    let wrong = assert_problem(&plant.ask("/api/meters/main/statistics?period=decade").await, 400);
    assert_eq!(wrong["parameter"], "period");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_over_midnight_is_told_in_both_days() {
    let plant = Plant::start().await;
    let mut silence = block(at("2026-11-20T10:00:00Z"), None);
    silence.span = Span::new(silence.span.start(), at("2026-11-20T20:00:00Z")).unwrap();
    silence.flags.add(BlockFlag::Gap);
    plant.seal(vec![silence]).await;
    for period in ["today", "yesterday"] {
        let told = plant.get(&format!("/api/meters/main/statistics?period={period}")).await;
        assert_eq!((&told["kwh"], &told["coverage"]), (&Value::Null, &json!(0)), "{period}");
        assert_eq!(told["flags"], json!(["gap"]), "{period}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_takes_each_category_together_without_its_sums() {
    let plant = Plant::start().await;
    let mut blocks = day();
    // What the sum of the main meter has is in the category once.
    blocks.extend(day().into_iter().map(|block| Block { meter: id("total"), ..block }));
    plant.seal(blocks).await;
    let summary = plant.get("/api/organization/summary?period=week").await;
    assert_eq!((&summary["organization"], &summary["site"]), (&json!("Acme Foods"), &json!("Shah Alam plant")));
    assert_eq!(summary["period"], "week");
    let cons = &summary["categories"]["CONS"];
    assert_eq!((&cons["kwh"], &cons["max_demand_kw"]), (&json!(117.000000001), &json!(120)));
    assert_eq!(cons["max_kw"], Value::Null, "each had its greatest at a time of its own");
    assert_eq!(summary["categories"].as_object().unwrap().len(), 1, "a category without meters is left out");
    let [main, total] = &summary["meters"].as_array().unwrap()[..] else { panic!("{summary}") };
    assert_eq!((&main["id"], &main["sum"], &main["max_kw"]), (&json!("main"), &json!(false), &json!(250)));
    assert_eq!((&total["id"], &total["sum"], &total["kwh"]), (&json!("total"), &json!(true), &json!(117.000000001)));
    plant.end().await;
}
