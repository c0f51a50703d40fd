//! What the views tell, and that every query of the dashboard runs on them.

use std::fs;
use std::path::Path;

use meterseal::model::{BlockFlag, Stream};
use serde_json::Value;

use crate::postgres::Postgres;
use crate::records::{Gateway, T, block, config, event, readings};

/// Two revisions of one block, a gap, a block of the next month, and one that was logged anew in a later epoch.
async fn filled(server: &Postgres) {
    let mut gateway = Gateway::opened(&config(server), "a").await;
    gateway.delivered(Stream::Readings, readings(1..=3_600)).await;
    // T is 8 o'clock of the plant: block 32 begins its next day, and 32 + 9 * 48 its next month.
    let blocks = vec![
        block(1, "main", 1, 0, &[]),
        block(2, "main", 2, 0, &[BlockFlag::Gap]),
        block(3, "main", 3, 0, &[]),
        block(4, "main", 3, 1, &[BlockFlag::Late]),
        block(5, "main", 32, 0, &[]),
        block(6, "main", 32 + 9 * 48, 0, &[]),
    ];
    gateway.delivered(Stream::Blocks, blocks).await;
    let alert = |seq: u64, cleared: &str| {
        format!(
            r#"{{"alert":5,"cleared":{cleared},"kind":"meter_silent","meter":"m","occasion":1,"raised":{T},"seq":{seq},"text":"meter m is silent","time":{T}}}"#
        )
    };
    gateway.delivered(Stream::Alerts, vec![event(1, &alert(1, "null"))]).await;
    gateway.delivered(Stream::Alerts, vec![event(2, &alert(2, &(T + 5).to_string()))]).await;
    gateway.identity.epoch = "e000000000000002".to_owned();
    gateway.open().await;
    gateway.delivered(Stream::Blocks, vec![block(7, "main", 3, 1, &[BlockFlag::Late])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_views_tell_what_holds_now() {
    let server = Postgres::start();
    filled(&server).await;
    let live = server.psql("SELECT site, meter, power_kw, time AT TIME ZONE 'UTC' FROM meterseal.live");
    assert_eq!(live, "plant-7|main|3600.004|2026-11-21 01:00:00");
    let current = server.psql("SELECT revision, kwh, gateway FROM meterseal.blocks_current ORDER BY start");
    assert_eq!(current, "0|1.000000000|1\n0|2.000000000|1\n1|3.000000001|2\n0|32.000000000|1\n0|464.000000000|1");
    let demand = "SELECT month, demand_kw, at AT TIME ZONE 'UTC', peak_demand_kw, kwh_import FROM \
                  meterseal.monthly_maximum_demand ORDER BY month";
    assert_eq!(
        server.psql(demand),
        "2026-11-01|64|2026-11-21 16:00:00|64|38.000000001\n2026-12-01|928|2026-11-30 16:00:00|928|464.000000000"
    );
    let quality =
        "SELECT day, round(coverage::numeric, 4), blocks, gaps, revised, flags FROM meterseal.quality ORDER BY day";
    assert_eq!(
        server.psql(quality),
        "2026-11-21|0.8333|3|1|1|{gap,late}\n2026-11-22|1.0000|1|0|0|\n2026-12-01|1.0000|1|0|0|"
    );
    assert_eq!(server.psql("SELECT alert, cleared IS NULL FROM meterseal.alerts_current"), "5|f");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_has_an_answer() {
    let server = Postgres::start();
    filled(&server).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/meterseal.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut queries = Vec::new();
    find(&dashboard, &mut queries);
    assert!(queries.len() >= 10, "{queries:?}");
    for query in queries {
        let told = server.psql(&format!("SET search_path = meterseal; {}", expanded(&query)));
        assert!(!told.is_empty(), "{query}");
    }
}

fn find(value: &Value, queries: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| match member {
            Value::String(text) if name == "rawSql" || (name == "query" && text.starts_with("SELECT")) => {
                queries.push(text.clone());
            }
            other => find(other, queries),
        }),
        Value::Array(items) => items.iter().for_each(|item| find(item, queries)),
        _ => {}
    }
}

/// As Grafana puts variables and macros in.
fn expanded(query: &str) -> String {
    let mut text = query.to_owned();
    while let Some((before, rest)) = text.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').unwrap();
        text = format!("{before}{column} BETWEEN '2026-11-01T00:00:00Z' AND '2026-12-31T00:00:00Z'{after}");
    }
    while let Some((before, rest)) = text.split_once("$__timeGroupAlias(") {
        let (arguments, after) = rest.split_once(')').unwrap();
        let (column, _) = arguments.split_once(',').unwrap();
        text = format!("{before}floor(extract(epoch from {column})/60)*60 AS \"time\"{after}");
    }
    text.replace("$meter", "'main'").replace("$site", "plant-7").replace("$target", "120")
}
