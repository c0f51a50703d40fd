//! `/api/upstream…`: how the upstreams do, and what they would not take. What is wanted of one is asked of `agent`.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use super::Web;
use super::ask::ask_at_once;
use super::guard::Admin;
use super::problem::Problem;
use super::query::{Asked, Named, Nothing, before, body_of, count};
use super::wire::{At, Json};
use crate::model::{
    Actor, DeadLetter, Position, Stream, StreamStatus, Timestamp, UpstreamOrder, UpstreamRefused, UpstreamState,
    UpstreamStatus,
};

/// Somebody wants something of an upstream.
pub struct UpstreamNow {
    pub order: UpstreamOrder,
    pub by: Actor,
    pub reply: oneshot::Sender<Result<(), UpstreamRefused>>,
}

/// Dead letters in one answer, unless told.
const DEAD_LETTERS: usize = 20;
/// When whoever found the queue full may ask again.
const AGAIN_S: u32 = 2;
/// More than an order with some thousand ids.
pub const LONGEST_ORDER: usize = 64 * 1_024;

#[derive(Serialize, ToSchema)]
#[schema(as = Upstream)]
struct UpstreamView<'a> {
    name: &'a str,
    kind: &'a str,
    to: &'a str,
    state: UpstreamState,
    since: At,
    problem: Option<&'a str>,
    retries: u64,
    dead_letters: u64,
    /// In order of urgency.
    streams: Vec<StreamView<'a>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = UpstreamStream)]
struct StreamView<'a> {
    stream: Stream,
    head: u64,
    position: &'a Position,
    depth: u64,
    /// When the oldest record that is not acknowledged came to be.
    oldest_unsent: Option<At>,
    oldest_unsent_age_s: Option<i64>,
    per_minute: u64,
    /// When something was last acknowledged.
    acknowledged: Option<At>,
    sent: u64,
    repeated: u64,
    rejected: u64,
    in_doubt: u64,
    skipped: u64,
}

impl<'a> UpstreamView<'a> {
    fn of(name: &'a str, status: &'a UpstreamStatus, now: Timestamp) -> Self {
        let UpstreamStatus { kind, to, state, since, problem, retries, dead_letters, streams } = status;
        Self {
            name,
            kind,
            to,
            state: *state,
            since: At(*since),
            problem: problem.as_deref(),
            retries: *retries,
            dead_letters: *dead_letters,
            streams: streams.iter().map(|(stream, status)| StreamView::of(*stream, status, now)).collect(),
        }
    }
}

impl<'a> StreamView<'a> {
    fn of(stream: Stream, status: &'a StreamStatus, now: Timestamp) -> Self {
        let StreamStatus { ref position, head, depth, oldest, sent, repeated, rejected, in_doubt, skipped, .. } =
            *status;
        Self {
            stream,
            head,
            position,
            depth,
            oldest_unsent: oldest.map(At),
            oldest_unsent_age_s: oldest.map(|oldest| age_ms(oldest, now) / 1_000),
            per_minute: status.per_minute,
            acknowledged: status.acknowledged.map(At),
            sent,
            repeated,
            rejected,
            in_doubt,
            skipped,
        }
    }
}

/// A clock that was set back makes nothing younger than it is.
pub fn age_ms(time: Timestamp, now: Timestamp) -> i64 {
    now.millis_since(time).max(0)
}

#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct DeadLetterView {
    id: u64,
    stream: Stream,
    epoch: String,
    seq: u64,
    reason: String,
    at: At,
    attempts: u32,
    /// As it was sent, to the byte.
    line: String,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        let DeadLetter { id, stream, epoch, seq, line, reason, at, attempts, .. } = letter;
        Self { id, stream, epoch, seq, reason, at: At(at), attempts, line }
    }
}

/// How each upstream does: how far it is, what is wrong
#[utoipa::path(get, path = "/api/upstream", responses((status = 200, description = "The upstreams", body = [UpstreamView])))]
pub async fn list(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Response {
    Json(views(&web)).into_response()
}

/// All of them, as they are shown.
pub fn views(web: &Web) -> serde_json::Value {
    let (upstreams, now) = (web.views.upstreams.borrow().clone(), web.views.clock.now());
    let views: Vec<_> = upstreams.iter().map(|(name, status)| UpstreamView::of(name, status, now)).collect();
    serde_json::json!(views)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LettersAsked {
    /// Only dead letters before this id.
    #[param(value_type = Option<u64>)]
    before: Option<String>,
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200, default = 20)]
    limit: Option<String>,
}

/// What an upstream would not take, the newest first
#[utoipa::path(
    get,
    path = "/api/upstream/{name}/dead-letters",
    params(("name" = String, Path, description = "The upstream's name"), LettersAsked),
    responses(
        (status = 200, description = "The dead letters", body = [DeadLetterView]),
        (status = 404, description = "There is no such upstream")
    )
)]
pub async fn letters(
    State(web): State<Web>,
    Named(name): Named,
    Asked(asked): Asked<LettersAsked>,
) -> Result<Response, Problem> {
    let limit = count("limit", asked.limit.as_deref(), 1..=200)?.unwrap_or(DEAD_LETTERS);
    let before = before(asked.before.as_deref(), "a dead letter")?;
    known(&web, &name)?;
    let letters = web.views.reader.dead_letters(&name, before, limit).await?;
    Ok(Json(letters.into_iter().map(DeadLetterView::from).collect::<Vec<_>>()).into_response())
}

/// Tries at once what else waits for its time
#[utoipa::path(
    post,
    path = "/api/upstream/{name}/flush",
    params(("name" = String, Path, description = "The upstream's name")),
    responses(
        (status = 202, description = "It is tried now", body = UpstreamView),
        (status = 404, description = "There is no such upstream"),
        (status = 409, description = "The upstream is off")
    ),
    security(("token" = ["admin"]))
)]
pub async fn flush(
    State(web): State<Web>,
    Named(name): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    have(&web, by, UpstreamOrder::Flush { upstream: name.clone() }).await?;
    accepted(&web, &name)
}

/// What shall become of dead letters.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = DeadLetterOrder)]
enum Settle {
    Replay(Which),
    Discard(Which),
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "give the ids in a list, or \"all\"")]
#[schema(as = DeadLetters)]
enum Which {
    Ids(Vec<u64>),
    All(All),
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AllDeadLetters)]
enum All {
    All,
}

impl Which {
    fn ids(self) -> Option<Vec<u64>> {
        match self {
            Self::Ids(ids) => Some(ids),
            Self::All(All::All) => None,
        }
    }
}

/// Sends dead letters again, or forgets them
#[utoipa::path(
    post,
    path = "/api/upstream/{name}/dead-letters",
    params(("name" = String, Path, description = "The upstream's name")),
    request_body = Settle,
    responses(
        (status = 202, description = "They are sent again", body = UpstreamView),
        (status = 204, description = "They are forgotten"),
        (status = 404, description = "There is no such upstream or dead letter"),
        (status = 409, description = "The upstream is off")
    ),
    security(("token" = ["admin"]))
)]
pub async fn settle(
    State(web): State<Web>,
    Named(upstream): Named,
    Admin(by): Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    match body_of(body, LONGEST_ORDER)? {
        Settle::Replay(which) => {
            have(&web, by, UpstreamOrder::Replay { upstream: upstream.clone(), ids: which.ids() }).await?;
            accepted(&web, &upstream)
        }
        Settle::Discard(which) => {
            have(&web, by, UpstreamOrder::Discard { upstream, ids: which.ids() }).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

async fn have(web: &Web, by: Actor, order: UpstreamOrder) -> Result<(), Problem> {
    let full = Problem::UpstreamQueue { again: AGAIN_S };
    let done = ask_at_once(&web.views.upstream_orders, full, |reply| UpstreamNow { order, by, reply }).await?;
    Ok(done?)
}

fn accepted(web: &Web, name: &str) -> Result<Response, Problem> {
    let (upstreams, now) = (web.views.upstreams.borrow().clone(), web.views.clock.now());
    let status = upstreams.get(name).ok_or_else(|| unknown(name))?;
    Ok((StatusCode::ACCEPTED, Json(UpstreamView::of(name, status, now))).into_response())
}

fn known(web: &Web, name: &str) -> Result<(), Problem> {
    if web.views.upstreams.borrow().contains_key(name) { Ok(()) } else { Err(unknown(name)) }
}

fn unknown(name: &str) -> Problem {
    UpstreamRefused::Unknown(name.chars().take(64).collect()).into()
}
