//! `GET /api/support`: what somebody needs who helps from afar, in one archive. No secret is in it, and no reading.

use std::io::Write as _;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Value, json};

use super::dashboard::AlertView;
use super::edits::ConfigFault;
use super::guard::Admin;
use super::health::{problems, store_health};
use super::problem::Problem;
use super::query::{Asked, Nothing};
use super::{Web, about, upstreams};
use crate::model::address::{KEY, without_keys};
use crate::model::tar;

/// The newest alerts in it.
const ALERTS: usize = 200;
/// The folder that the archive unpacks to.
const FOLDER: &str = "meterseal-support";

#[derive(Serialize)]
struct ConfigState<'a> {
    path: &'a str,
    warnings: &'a [ConfigFault],
    faults: &'a [ConfigFault],
}

/// What somebody needs who helps from afar: no secret is in it, and no reading
#[utoipa::path(
    get,
    path = "/api/support",
    responses(
        (status = 200, description = "The archive", content_type = "application/gzip", body = Vec<u8>,
            headers(("Content-Disposition" = String)))
    ),
    security(("token" = ["admin"]))
)]
pub async fn support(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let (config, sources) = (web.views.config.borrow().clone(), web.views.sources.borrow().clone());
    let store = store_health(&web).await?;
    let alerts = web.views.reader.alerts(false, ALERTS).await?;
    let upstreams = upstreams::views(&web);
    let state = ConfigState { path: &config.path, warnings: &config.warnings, faults: &config.faults };
    let mut members = vec![
        ("about.json".to_owned(), text(&about::view(&web).await?)),
        ("health.json".to_owned(), text(&json!({"problems": problems(&web, &store), "store": store}))),
        ("sources.json".to_owned(), text(&without_payloads(json!(*sources)))),
        ("upstreams.json".to_owned(), text(&upstreams)),
        ("alerts.json".to_owned(), text(&alerts.iter().map(AlertView::from).collect::<Vec<_>>())),
        ("config.json".to_owned(), text(&state)),
        ("log.txt".to_owned(), web.views.log.text().into_bytes()),
    ];
    // What goes elsewhere than to the admin himself shows no address of which a key is part, whoever wrote it down.
    for (_, bytes) in &mut members {
        *bytes = without_keys(&String::from_utf8_lossy(bytes), KEY).into_bytes();
    }
    for (at, file) in config.files.iter().enumerate() {
        let name = file.path.rsplit('/').next().unwrap_or("config.toml");
        let name: String = name.chars().filter(char::is_ascii).take(60).collect();
        members.push((format!("config/{at:02}-{name}"), file.text.clone().into_bytes()));
    }
    tracing::info!(by = by.name, "somebody had a support bundle");
    // Compressing half a megabyte takes a slow processor a while.
    let packed = tokio::task::spawn_blocking(move || pack(&members)).await.map_err(|_| Problem::Stopping)?;
    let packed = packed.map_err(|_| Problem::Stopping)?;
    let named = HeaderValue::from_static("attachment; filename=\"meterseal-support.tar.gz\"");
    let kind = HeaderValue::from_static("application/gzip");
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, named)], packed).into_response())
}

fn text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// What a broker sent and nobody could read may be a reading, or anything else.
fn without_payloads(mut sources: Value) -> Value {
    if let Some(brokers) = sources["brokers"].as_object_mut() {
        for broker in brokers.values_mut() {
            strip(broker);
        }
    }
    sources
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("payload");
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn pack(members: &[(String, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    for (name, bytes) in members {
        // Names and sizes are such that they fit.
        let Some(header) = tar::header(FOLDER, name, bytes.len() as u64) else { continue };
        out.write_all(&header)?;
        out.write_all(bytes)?;
        out.write_all(&vec![0; bytes.len().next_multiple_of(tar::HEADER) - bytes.len()])?;
    }
    out.write_all(&[0; 2 * tar::HEADER])?;
    out.finish()
}
