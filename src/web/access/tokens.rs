//! `/api/tokens` and `/api/audit`: API tokens, and what was done by whom.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::random_token;
use super::routes::read_body;
use crate::model::Digest;
use crate::store::{AccessChange, AccessRefused, AuditEntry, AuditPlace, Role, Scope, Token};
use crate::web::Web;
use crate::web::guard::Admin;
use crate::web::problem::Problem;
use crate::web::query::{Asked, Named, Nothing, count};
use crate::web::wire::{At, Json};

/// Letters of a token's name.
const NAME: usize = 64;
/// Entries in one answer, unless told.
const ENTRIES: usize = 50;

/// A token as the API shows it; the token itself only once.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
struct TokenView {
    id: i64,
    name: String,
    scope: Scope,
    created: At,
    by: Option<String>,
    last_used: Option<At>,
    /// Shown once, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token: Option<String>,
}

impl TokenView {
    fn new(token: Token, secret: Option<String>) -> Self {
        let Token { id, name, scope, created, by, last_used } = token;
        Self { id, name, scope, created: At(created), by, last_used: last_used.map(At), token: secret }
    }
}

/// API tokens
#[utoipa::path(
    get,
    path = "/api/tokens",
    responses(
        (status = 200, description = "The tokens", body = [TokenView])
    )
)]
pub async fn list(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Response {
    let tokens = web.views.reader.tokens().into_iter().map(|token| TokenView::new(token, None));
    Json(tokens.collect::<Vec<_>>()).into_response()
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewToken {
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    scope: Scope,
}

/// Why a name is none for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error(
        "a token's name has 1 to {NAME} letters, digits, spaces and . _ - @ /, and begins and ends with none of the spaces"
    )]
    Letters,
    #[error("the log calls sessions of the page `admin` and `viewer`: take another name")]
    Role,
}

/// Whether a token may be called so: the log names it by that.
pub fn token_name(name: &str) -> Result<(), BadName> {
    let is_letter = |letter: char| letter.is_alphanumeric() || matches!(letter, ' ' | '.' | '_' | '-' | '@' | '/');
    if Role::ALL.into_iter().any(|role| role.as_str() == name) {
        return Err(BadName::Role);
    }
    let fits = (1..=NAME).contains(&name.chars().count()) && name.chars().all(is_letter) && name.trim() == name;
    if fits { Ok(()) } else { Err(BadName::Letters) }
}

/// Makes an API token
#[utoipa::path(
    post,
    path = "/api/tokens",
    request_body = NewToken,
    responses(
        (status = 201, description = "It is there; the token itself is shown this once", body = TokenView,
            headers(("Location" = String, description = "Of it"))),
        (status = 409, description = "There is one of this name, or there are too many")
    )
)]
pub async fn create(
    State(web): State<Web>,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let example = r#"{"name": "…", "scope": "read", "ingest", "export" or "admin"}"#;
    let NewToken { name, scope } = read_body(body, example)?;
    token_name(&name).map_err(|bad| Problem::Parameter { name: "name", what: bad.to_string() })?;
    let secret = random_token().map_err(Problem::random)?;
    let change = AccessChange::Token { name, scope, token: Digest::of(secret.as_bytes()) };
    let made = web.views.gate.ask(change, by).await?;
    let made = made.ok_or(Problem::Stopping)?;
    info!(name = made.name, scope = scope.as_str(), "a token was made");
    let location = format!("/api/tokens/{}", made.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(TokenView::new(made, Some(secret)))).into_response())
}

/// Revokes an API token
#[utoipa::path(
    delete,
    path = "/api/tokens/{id}",
    params(("id" = i64, Path, description = "The token's id")),
    responses(
        (status = 204, description = "It is revoked"),
        (status = 404, description = "There is no such token")
    )
)]
pub async fn revoke(
    State(web): State<Web>,
    Admin(by): Admin,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let known: i64 = id.parse().map_err(|_| AccessRefused::NoToken(id.chars().take(40).collect()))?;
    web.views.gate.ask(AccessChange::NoTokenOf { id: known }, by).await?;
    info!(id = known, "a token was revoked");
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditAsked {
    /// Only entries before this id.
    #[param(pattern = r"^\d+-\d+$")]
    before: Option<String>,
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 50)]
    limit: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct AuditView {
    /// Its place among all, for `before`.
    id: String,
    time: At,
    action: String,
    by: String,
    /// Where a request came from; `null` for a command, and for what was done before there were sources.
    #[schema(value_type = Option<String>)]
    source: Value,
    #[schema(value_type = Object)]
    detail: Value,
    epoch: String,
    index: u64,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { place, epoch, time, action, by, mut detail } = entry;
        let source = detail.as_object_mut().and_then(|detail| detail.remove("source")).unwrap_or_default();
        let id = format!("{}-{}", place.epoch, place.index);
        Self { id, time: At(time), action, by, source, detail, epoch, index: place.index }
    }
}

/// What was done, by whom and from where, the newest first
#[utoipa::path(
    get,
    path = "/api/audit",
    params(AuditAsked),
    responses(
        (status = 200, description = "The entries of the log", body = [AuditView])
    )
)]
pub async fn audit(State(web): State<Web>, Asked(asked): Asked<AuditAsked>) -> Result<Response, Problem> {
    let limit = count("limit", asked.limit.as_deref(), 1..=500)?.unwrap_or(ENTRIES);
    let before = asked.before.as_deref().map(place).transpose()?;
    let entries = web.views.reader.audit(before, limit).await?;
    Ok(Json(entries.into_iter().map(AuditView::from).collect::<Vec<_>>()).into_response())
}

fn place(id: &str) -> Result<AuditPlace, Problem> {
    let place = id
        .split_once('-')
        .and_then(|(epoch, index)| Some(AuditPlace { epoch: epoch.parse().ok()?, index: index.parse().ok()? }));
    let what =
        || format!("`{}` is no id of an entry: give one of an earlier answer", id.chars().take(40).collect::<String>());
    place.ok_or_else(|| Problem::Parameter { name: "before", what: what() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_called_by_plain_letters_and_not_as_a_role() {
        for good in ["grafana", "Büro 2", "a", "ci/export@plant-7", &"x".repeat(64)] {
            assert_eq!(token_name(good), Ok(()), "{good}");
        }
        for bad in ["", " a", "a\n", "a\u{202e}", "<b>", &"x".repeat(65)] {
            assert_eq!(token_name(bad), Err(BadName::Letters), "{bad}");
        }
        assert_eq!(token_name("admin"), Err(BadName::Role));
    }

    #[test]
    fn an_id_of_an_entry_is_two_numbers() {
        assert_eq!(place("3-17").unwrap(), AuditPlace { epoch: 3, index: 17 });
        for bad in ["", "3", "3-", "-3-1x", "a-b", "3--1"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
