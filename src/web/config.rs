//! `/api/config…`: the config as it may be shown, and what a person has done with it. `agent` reads, checks and writes it.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Web;
use super::edits::{ConfigFault, Edit, Edited, Reloaded, ask};
use super::guard::Admin;
use super::problem::Problem;
use super::query::{Asked, Nothing, body_of};
use super::wire::{At, Json};
use crate::model::Timestamp;

/// The config as it was last read, without its secrets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShownConfig {
    pub path: String,
    pub files: Vec<ShownFile>,
    pub loaded_at: Timestamp,
    pub warnings: Vec<ConfigFault>,
    /// Why it was refused; an older one runs then.
    pub faults: Vec<ConfigFault>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = ConfigFile)]
pub struct ShownFile {
    pub path: String,
    /// With `***` for each secret.
    pub text: String,
}

/// A config of a thousand meters.
pub const LONGEST_TEXT: usize = 1 << 20;

#[derive(Serialize, ToSchema)]
#[schema(as = Config)]
struct ConfigView<'a> {
    path: &'a str,
    files: &'a [ShownFile],
    loaded_at: At,
    warnings: &'a [ConfigFault],
    faults: &'a [ConfigFault],
}

/// The config as it was last read, without its secrets
#[utoipa::path(
    get,
    path = "/api/config",
    responses(
        (status = 200, description = "The files, and what is wrong with them", body = ConfigView)
    ),
    security(("token" = ["admin"]))
)]
pub async fn shown(State(web): State<Web>, _: Admin, Asked(Nothing {}): Asked<Nothing>) -> Result<Response, Problem> {
    let config = web.views.config.borrow().clone();
    let ShownConfig { path, files, loaded_at, warnings, faults } = &*config;
    Ok(Json(ConfigView { path, files, loaded_at: At(*loaded_at), warnings, faults }).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConfigText)]
struct Given {
    /// TOML.
    text: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ConfigChecked)]
struct CheckedView {
    faults: Vec<ConfigFault>,
    warnings: Vec<ConfigFault>,
}

/// Whether a text would do as the main file of the config; what it refers to is not looked for
#[utoipa::path(
    post,
    path = "/api/config/check",
    request_body = Given,
    responses(
        (status = 200, description = "What is wrong with it: the first 200 faults", body = CheckedView),
        (status = 409, description = "There is no config file, or others are being tried")
    ),
    security(("token" = ["admin"]))
)]
pub async fn check(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Given { text } = body_of(body, LONGEST_TEXT)?;
    match ask(&web, by, Edit::Check { text }).await? {
        Edited::Checked { faults, warnings } => Ok(Json(CheckedView { faults, warnings }).into_response()),
        _ => Err(Problem::Stopping),
    }
}

/// Reads the config again
#[utoipa::path(
    post,
    path = "/api/config/reload",
    responses(
        (status = 200, description = "What has changed, or why it was refused", body = Reloaded)
    ),
    security(("token" = ["admin"]))
)]
pub async fn reload(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    match ask(&web, by, Edit::Reload).await? {
        Edited::Reloaded(reloaded) => Ok(Json(reloaded).into_response()),
        _ => Err(Problem::Stopping),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = ConfigWritten)]
struct WrittenView {
    path: String,
    #[serde(flatten)]
    reloaded: Reloaded,
}

/// Adds lines and meters to the config, in a file of their own
#[utoipa::path(
    post,
    path = "/api/config/meters",
    request_body = Given,
    responses(
        (status = 201, description = "It is written and read", body = WrittenView),
        (status = 409, description = "The folder cannot be written: `text` belongs at `path`")
    ),
    security(("token" = ["admin"]))
)]
pub async fn add_meters(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Given { text } = body_of(body, LONGEST_TEXT)?;
    match ask(&web, by, Edit::AddMeters { text }).await? {
        Edited::Written { path, reloaded } => {
            Ok((StatusCode::CREATED, Json(WrittenView { path, reloaded })).into_response())
        }
        _ => Err(Problem::Stopping),
    }
}
