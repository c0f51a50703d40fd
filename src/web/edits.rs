//! What a person changes here: a meter's name and target, connections, queries. Each is asked of `agent`, which keeps it
//! in the store and has the parts follow; what a file says cannot be changed here.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::commissioning::OneMeterView;
use super::connections::{Connection, Query, shown_connection, shown_query};
use super::guard::Admin;
use super::problem::Problem;
use super::query::{Asked, Named, Nothing, body_of};
use super::{Web, meters};
use crate::model::{Actor, Energy, MadeKind, MeterId, Number, Ratio};
use crate::store::StoreError;

/// A change that somebody waits for.
pub struct EditNow {
    pub edit: Edit,
    /// Who wants it, for the record.
    pub by: Actor,
    pub reply: oneshot::Sender<Result<Edited, EditRefused>>,
}

/// What is to be changed. Values of connections bear secrets: they are never printed.
pub enum Edit {
    /// What is `None` stays; what is `Some(None)` is as the config has it again.
    Meter {
        id: MeterId,
        name: Option<Option<String>>,
        peak_target: Option<Option<Energy>>,
    },
    Put {
        kind: MadeKind,
        name: String,
        value: Map<String, Value>,
        /// There must be none of this name yet; else there must be one.
        is_new: bool,
    },
    Delete {
        kind: MadeKind,
        name: String,
    },
    /// Whether this would do as the main file.
    Check {
        text: String,
    },
    Reload,
    /// Lines and meters to be added, in a file of their own.
    AddMeters {
        text: String,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum Edited {
    Done,
    Checked { faults: Vec<ConfigFault>, warnings: Vec<ConfigFault> },
    Reloaded(Reloaded),
    Written { path: String, reloaded: Reloaded },
}

/// What came of reading the config again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = ConfigReloaded)]
pub struct Reloaded {
    pub changed: Vec<String>,
    pub at_next_start: Vec<String>,
    /// Why it was refused; what ran before goes on.
    pub faults: Vec<String>,
}

/// One fault of a config, or one warning.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ConfigFault {
    pub file: String,
    /// From 1; 0 where it is the file's as a whole.
    pub line: usize,
    pub key: String,
    pub text: String,
    /// What to do about it.
    pub hint: String,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EditRefused {
    /// What there is none of, and where those that there are stand.
    #[error("{0}")]
    Unknown(String),
    /// A file says otherwise, or has the name.
    #[error("{0}")]
    Conflict(String),
    /// What was given has faults.
    #[error("{0}")]
    Faulty(String),
    #[error("the config would have {}: {}", counted(.0.len()), first(.0))]
    Faults(Vec<ConfigFault>),
    /// The text is to be put there by somebody who may.
    #[error("{path} cannot be written: {why}; put the text there yourself, and have the config read again")]
    Unwritable { path: String, why: String, text: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn counted(count: usize) -> String {
    if count == 1 { "a fault".to_owned() } else { format!("{count} faults") }
}

fn first(faults: &[ConfigFault]) -> String {
    faults.first().map_or_else(String::new, |ConfigFault { file, line, key, text, .. }| {
        let key = if key.is_empty() { String::new() } else { format!(" {key}:") };
        format!("{file}:{line}:{key} {text}")
    })
}

/// More than a query of some pages.
pub const LONGEST_ORDER: usize = 64 * 1_024;

/// Asks, and waits for what comes of it.
pub async fn ask(web: &Web, by: Actor, edit: Edit) -> Result<Edited, Problem> {
    Ok(super::ask::ask(&web.views.edits, |reply| EditNow { edit, by, reply }).await??)
}

/// Characters of a name of a meter.
const LONGEST_NAME: usize = 100;
/// kWh of one block.
const GREATEST_TARGET: f64 = 1e6;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MeterPatch {
    /// `null` takes that of the config again.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 100)]
    name: Option<Option<String>>,
    /// `null` for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<f64>, exclusive_minimum = 0.0, maximum = 1_000_000.0)]
    peak_target_kwh: Option<Option<serde_json::Number>>,
}

/// Tells `null` from what is left out.
#[expect(clippy::option_option, reason = "none given, and none wanted, are told apart")]
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Gives a meter another name or target
#[utoipa::path(
    patch,
    path = "/api/meters/{id}",
    params(("id" = MeterId, Path, description = "The meter's id")),
    request_body = MeterPatch,
    responses(
        (status = 200, description = "The meter", body = OneMeterView),
        (status = 404, description = "There is no such meter"),
        (status = 409, description = "A file sets that: `detail` says which, and in what line")
    ),
    security(("token" = ["admin"]))
)]
pub async fn meter(
    State(web): State<Web>,
    Named(id): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let MeterPatch { name, peak_target_kwh } = body_of(body, LONGEST_ORDER)?;
    let meter = web.meter(&id)?;
    let name = name.map(|name| name.map(|name| meter_name(&name)).transpose()).transpose()?;
    let peak_target = peak_target_kwh.map(|kwh| kwh.map(|kwh| target(&kwh)).transpose()).transpose()?;
    if name.is_none() && peak_target.is_none() {
        return Err(Problem::BadRequest("give `name`, `peak_target_kwh` or both".into()));
    }
    ask(&web, by, Edit::Meter { id: meter.id, name, peak_target }).await?;
    meters::shown(&web, &id).await
}

fn meter_name(name: &str) -> Result<String, Problem> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
        let what =
            format!("a name has 1 to {LONGEST_NAME} characters in one line; `null` takes that of the config again");
        return Err(Problem::Parameter { name: "name", what });
    }
    Ok(name.to_owned())
}

fn target(kwh: &serde_json::Number) -> Result<Energy, Problem> {
    let value = kwh.as_f64().filter(|kwh| *kwh > 0.0 && *kwh <= GREATEST_TARGET);
    let energy = value.and_then(Number::from_f64).and_then(|kwh| kwh.scaled(Ratio::ONE, Energy::KWH_DECIMALS));
    energy.map(Energy::from_uwh).filter(|energy| energy.as_uwh() > 0).ok_or_else(|| {
        let what = format!("{kwh} is no energy of one block: give kWh above 0, up to 1000000; `null` for no target");
        Problem::Parameter { name: "peak_target_kwh", what }
    })
}

/// Makes a connection, which is kept beside the config
#[utoipa::path(
    post,
    path = "/api/connections",
    request_body(content = Object, description = "The keys of `[[influx]]` in the config"),
    responses(
        (status = 201, description = "It is there", body = Connection,
            headers(("Location" = String, description = "Of it"))),
        (status = 409, description = "There is one of this name")
    ),
    security(("token" = ["admin"]))
)]
pub async fn add_connection(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    add(&web, MadeKind::Connection, by, body).await
}

/// Makes a query, which is kept beside the config
#[utoipa::path(
    post,
    path = "/api/queries",
    request_body(content = Object, description = "The keys of `[[query]]` in the config"),
    responses(
        (status = 201, description = "It is there", body = Query,
            headers(("Location" = String, description = "Of it"))),
        (status = 409, description = "There is one of this name")
    ),
    security(("token" = ["admin"]))
)]
pub async fn add_query(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    add(&web, MadeKind::Query, by, body).await
}

/// Changes a connection that was made here
#[utoipa::path(
    put,
    path = "/api/connections/{name}",
    params(("name" = String, Path)),
    request_body(content = Object, description = "The keys of `[[influx]]` in the config, but for `name`"),
    responses(
        (status = 200, description = "As it is now", body = Connection),
        (status = 404, description = "There is none of this name"),
        (status = 409, description = "It stands in a file")
    ),
    security(("token" = ["admin"]))
)]
pub async fn change_connection(
    State(web): State<Web>,
    Named(name): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    change(&web, (MadeKind::Connection, name), by, body).await
}

/// Changes a query that was made here
#[utoipa::path(
    put,
    path = "/api/queries/{name}",
    params(("name" = String, Path)),
    request_body(content = Object, description = "The keys of `[[query]]` in the config, but for `name`"),
    responses(
        (status = 200, description = "As it is now", body = Query),
        (status = 404, description = "There is none of this name"),
        (status = 409, description = "It stands in a file")
    ),
    security(("token" = ["admin"]))
)]
pub async fn change_query(
    State(web): State<Web>,
    Named(name): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    change(&web, (MadeKind::Query, name), by, body).await
}

/// Deletes a connection that was made here
#[utoipa::path(
    delete,
    path = "/api/connections/{name}",
    params(("name" = String, Path)),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is none of this name"),
        (status = 409, description = "It stands in a file")
    ),
    security(("token" = ["admin"]))
)]
pub async fn delete_connection(
    State(web): State<Web>,
    Named(name): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    ask(&web, by, Edit::Delete { kind: MadeKind::Connection, name }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Deletes a query that was made here
#[utoipa::path(
    delete,
    path = "/api/queries/{name}",
    params(("name" = String, Path)),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is none of this name"),
        (status = 409, description = "It stands in a file")
    ),
    security(("token" = ["admin"]))
)]
pub async fn delete_query(
    State(web): State<Web>,
    Named(name): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    ask(&web, by, Edit::Delete { kind: MadeKind::Query, name }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn add(web: &Web, kind: MadeKind, by: Actor, body: Result<Bytes, BytesRejection>) -> Result<Response, Problem> {
    let value: Map<String, Value> = part_of(body)?;
    let Some(name) = value.get("name").and_then(Value::as_str).map(str::to_owned) else {
        return Err(Problem::Parameter { name: "name", what: "give it a name, such as \"historian\"".into() });
    };
    ask(web, by, Edit::Put { kind, name: name.clone(), value, is_new: true }).await?;
    let folder = if kind == MadeKind::Connection { "connections" } else { "queries" };
    let mut response = (StatusCode::CREATED, shown(web, kind, &name)?).into_response();
    let place = HeaderValue::from_str(&format!("/api/{folder}/{name}"));
    place.ok().and_then(|place| response.headers_mut().insert(header::LOCATION, place));
    Ok(response)
}

async fn change(
    web: &Web,
    (kind, name): (MadeKind, String),
    by: Actor,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let value: Map<String, Value> = part_of(body)?;
    if value.get("name").is_some_and(|other| other.as_str() != Some(&name)) {
        let what = "a name stays: make another one, and delete this".into();
        return Err(Problem::Parameter { name: "name", what });
    }
    ask(web, by, Edit::Put { kind, name: name.clone(), value, is_new: false }).await?;
    shown(web, kind, &name)
}

/// What is wrong with a body that bears secrets is told without quoting it.
fn part_of(body: Result<Bytes, BytesRejection>) -> Result<Map<String, Value>, Problem> {
    let body = body.ok().filter(|body| body.len() <= LONGEST_ORDER).ok_or(Problem::BodyTooLong(LONGEST_ORDER))?;
    serde_json::from_slice(&body).map_err(|fault| {
        let (line, column) = (fault.line(), fault.column());
        Problem::BadRequest(format!("the body is no object in JSON, as line {line}, column {column} shows"))
    })
}

/// One as the lists show it. The config that has it runs when the change is answered.
fn shown(web: &Web, kind: MadeKind, name: &str) -> Result<Response, Problem> {
    let found = match kind {
        MadeKind::Connection => shown_connection(web, name),
        _ => shown_query(web, name),
    };
    found.ok_or(Problem::Stopping)
}
