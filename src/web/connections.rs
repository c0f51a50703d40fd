//! `/api/connections` and `/api/queries`: what may be exported from where. A test is asked of who holds the credentials,
//! and what is shown here never had any.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::Web;
use super::ask::ask;
use super::guard::Exporter;
use super::problem::Problem;
use super::query::{Asked, Named, Nothing};
use super::wire::Json;

/// What the config says of exports, as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exports {
    pub connections: Vec<Connection>,
    pub queries: Vec<Query>,
}

/// A connection to InfluxDB.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Connection {
    pub name: String,
    pub version: u8,
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub retention_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub username: Option<String>,
    /// Its secret, or a file it needs, is not there.
    pub off: bool,
    /// The file that says so: only there can it be changed. None for one that was made here.
    pub read_only: Option<String>,
}

/// A query whose answer becomes a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Query {
    pub name: String,
    #[serde(flatten)]
    pub asks: Asks,
    pub read_only: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = QueryAsks)]
pub enum Asks {
    Points { measurement: String, fields: Vec<String>, tags: std::collections::BTreeMap<String, String> },
    Result { text: String },
}

/// A test that somebody waits for.
pub struct TestNow {
    pub name: String,
    /// Dropped by who waits when he has gone.
    pub tell: oneshot::Sender<Result<Tested, TestFault>>,
}

/// A connection that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ConnectionTest)]
pub struct Tested {
    pub server_version: String,
    pub credentials: Credentials,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// The server refuses without them.
    Proven,
    /// The server answers anybody, so that a good answer says nothing of them.
    NotAsked,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TestFault {
    #[error("there is no connection `{0}`: `/api/connections` lists them")]
    NoConnection(String),
    #[error("connection `{0}` is off for want of a secret or a file: `/api/health` says which")]
    Off(String),
    /// The text names what is wrong and how to mend it.
    #[error("{0}")]
    Failed(String),
}

/// The connections to InfluxDB, without their secrets
#[utoipa::path(
    get,
    path = "/api/connections",
    responses((status = 200, description = "The connections", body = [Connection]))
)]
pub async fn list(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Response {
    let exports = web.views.exports.borrow().clone();
    Json(&exports.connections).into_response()
}

/// One connection
#[utoipa::path(
    get,
    path = "/api/connections/{name}",
    params(("name" = String, Path)),
    responses(
        (status = 200, description = "The connection", body = Connection),
        (status = 404, description = "There is none of this name")
    )
)]
pub async fn one(
    State(web): State<Web>,
    Named(name): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    shown_connection(&web, &name).ok_or_else(|| TestFault::NoConnection(name.chars().take(64).collect()).into())
}

/// As the list has it.
pub fn shown_connection(web: &Web, name: &str) -> Option<Response> {
    let exports = web.views.exports.borrow().clone();
    exports.connections.iter().find(|known| known.name == name).map(|known| Json(known).into_response())
}

/// One query
#[utoipa::path(
    get,
    path = "/api/queries/{name}",
    params(("name" = String, Path)),
    responses(
        (status = 200, description = "The query", body = Query),
        (status = 404, description = "There is none of this name")
    )
)]
pub async fn query(
    State(web): State<Web>,
    Named(name): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    shown_query(&web, &name).ok_or_else(|| Problem::NoQuery(name.chars().take(64).collect()))
}

/// As the list has it.
pub fn shown_query(web: &Web, name: &str) -> Option<Response> {
    let exports = web.views.exports.borrow().clone();
    exports.queries.iter().find(|known| known.name == name).map(|known| Json(known).into_response())
}

/// What may be exported
#[utoipa::path(get, path = "/api/queries", responses((status = 200, description = "The queries", body = [Query])))]
pub async fn queries(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Response {
    let exports = web.views.exports.borrow().clone();
    Json(&exports.queries).into_response()
}

/// Asks the server for something that wrong credentials do not give
#[utoipa::path(
    post,
    path = "/api/connections/{name}/test",
    params(("name" = String, Path, description = "The connection's name")),
    responses(
        (status = 200, description = "It answers", body = Tested),
        (status = 404, description = "There is no such connection"),
        (status = 409, description = "The connection is off"),
        (status = 502, description = "It does not answer as it should: `detail` says what is wrong")
    ),
    security(("token" = ["export"]))
)]
pub async fn test(
    State(web): State<Web>,
    Named(name): Named,
    Asked(Nothing {}): Asked<Nothing>,
    _: Exporter,
) -> Result<Response, Problem> {
    let known = web.views.exports.borrow().connections.iter().find(|known| known.name == name).map(|known| known.off);
    match known {
        None => return Err(TestFault::NoConnection(name.chars().take(64).collect()).into()),
        Some(true) => return Err(TestFault::Off(name).into()),
        Some(false) => {}
    }
    let tested = ask(&web.views.tests, |tell| TestNow { name, tell }).await??;
    Ok(Json(tested).into_response())
}
