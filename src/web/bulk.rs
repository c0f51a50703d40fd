//! `/api/bulk…`: export jobs and their bundles. What changes something is asked of `agent`; the rest is read from the
//! store.

pub mod download;
pub mod feed;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

pub use download::Reached;

use super::Web;
use super::anchors::Covered;
use super::ask::ask;
use super::guard::Exporter;
use super::problem::Problem;
use super::query::{Asked, Named, Nothing, before, count};
use super::wire::{At, Json};
use crate::model::{
    Actor, Coverage, ExportOrder, ExportRefused, Job, JobId, JobState, RunningJobs, instant_ns, nearest, written_ns,
};
use crate::store::{Dropped, StoreError};

/// Something about exports that somebody waits for.
pub enum BulkNow {
    Order {
        order: ExportOrder,
        by: Actor,
        reply: oneshot::Sender<Result<Result<Job, ExportRefused>, StoreError>>,
    },
    /// Cancels a job, or deletes the bundle of one that is over.
    Drop {
        id: JobId,
        by: Actor,
        reply: oneshot::Sender<Result<Dropped, StoreError>>,
    },
    /// Opens the bundle in this folder as an archive.
    Archive {
        folder: PathBuf,
        reply: oneshot::Sender<io::Result<BulkArchive>>,
    },
    /// Puts on record that a download begins; nothing of it is sent before.
    Download {
        id: JobId,
        by: Actor,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Somebody has the last byte of it.
    Downloaded {
        id: JobId,
    },
}

/// The archive of a bundle, which is made while it is read.
pub struct BulkArchive {
    pub length: u64,
    pub read_at: ReadAt,
}

/// Fills a buffer with the bytes from a place on, as far as there are any. Blocking.
pub type ReadAt = Arc<dyn Fn(u64, &mut [u8]) -> io::Result<usize> + Send + Sync>;

/// An order is two names and two times.
pub const LONGEST_ORDER: usize = 4_096;
/// Jobs in one answer, unless told.
const JOBS: usize = 100;

/// A job as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Export)]
pub struct JobView {
    id: JobId,
    state: JobState,
    connection: String,
    /// As the manifest has it.
    #[schema(value_type = Object)]
    query: Value,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    by: String,
    rows: u64,
    bytes: u64,
    /// All before it is read.
    #[schema(format = DateTime)]
    position: Option<String>,
    rows_per_s: Option<f64>,
    seconds_left: Option<u64>,
    waiting: Option<String>,
    error: Option<String>,
    created: At,
    started: Option<At>,
    ended: Option<At>,
    bundle: Option<BundleView>,
    anchor: Option<Covered>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ExportBundle)]
struct BundleView {
    #[schema(value_type = crate::model::Digest)]
    manifest_sha256: String,
    bytes: u64,
    downloaded: Option<At>,
    deleted: Option<At>,
}

impl JobView {
    /// The job as the store has it, and how far it is now if it is not over.
    fn new(job: Job, running: &RunningJobs, anchor: Option<&Coverage>) -> Self {
        let running = running.get(&job.id).filter(|_| !job.state.is_over());
        let progress = running.map_or(job.progress, |running| running.progress);
        let at_work = running.filter(|_| job.state == JobState::Running);
        Self {
            id: job.id,
            state: job.state,
            connection: job.request.connection,
            query: job.request.query,
            from: written_ns(job.request.from_ns),
            to: written_ns(job.request.to_ns),
            by: job.by,
            rows: progress.rows,
            bytes: progress.bytes,
            position: progress.position_ns.map(written_ns),
            rows_per_s: at_work.map(|running| running.rows_per_s.round()),
            seconds_left: running.and_then(|running| running.seconds_left),
            waiting: running.and_then(|running| running.waiting.clone()),
            error: job.error,
            created: At(job.created),
            started: job.started.map(At),
            ended: job.ended.map(At),
            bundle: job.artifact.map(|bundle| BundleView {
                manifest_sha256: bundle.manifest_sha256.to_string(),
                bytes: bundle.bytes,
                downloaded: bundle.downloaded.map(At),
                deleted: bundle.deleted.map(At),
            }),
            anchor: anchor.map(Covered::from),
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAsked {
    /// Only exports before this id.
    #[param(value_type = Option<JobId>)]
    before: Option<String>,
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// Exports, the newest first
#[utoipa::path(
    get,
    path = "/api/bulk",
    params(ListAsked),
    responses((status = 200, description = "The exports", body = [JobView]))
)]
pub async fn list(State(web): State<Web>, Asked(asked): Asked<ListAsked>) -> Result<Response, Problem> {
    let limit = count("limit", asked.limit.as_deref(), 1..=1_000)?.unwrap_or(JOBS);
    let before = before(asked.before.as_deref(), "a job")?;
    let jobs = web.views.reader.jobs(before, limit).await?;
    let running = web.views.running.borrow().clone();
    let anchors = web.views.reader.covered_datasets(jobs.iter().map(|job| job.id).collect(), web.chain()).await?;
    let jobs = jobs.into_iter().zip(&anchors).map(|(job, anchor)| JobView::new(job, &running, anchor.as_ref()));
    Ok(Json(jobs.collect::<Vec<_>>()).into_response())
}

/// What `POST` takes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExportOrder)]
struct Order {
    connection: String,
    query: String,
    from: Instant,
    to: Instant,
}

/// RFC 3339, or nanoseconds as a number or a text.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ExportInstant)]
enum Instant {
    Whole(i64),
    Text(String),
}

/// Orders an export
#[utoipa::path(
    post,
    path = "/api/bulk",
    request_body = Order,
    responses(
        (status = 202, description = "It is queued", body = JobView,
            headers(("Location" = String, description = "Of the export"))),
        (status = 429, description = "16 exports wait or run already")
    ),
    security(("token" = ["export"]))
)]
pub async fn order(
    State(web): State<Web>,
    Exporter(by): Exporter,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLong(LONGEST_ORDER))?;
    let Order { connection, query, from, to } = serde_json::from_slice(&body).map_err(|_| misunderstood(&body))?;
    let zone = web.zone();
    let time = |name, at: &Instant| {
        let text = match at {
            Instant::Whole(ns) => ns.to_string(),
            Instant::Text(text) => text.clone(),
        };
        instant_ns(&text, &zone).map_err(|what| Problem::Parameter { name, what })
    };
    let order = ExportOrder { connection, query, from_ns: time("from", &from)?, to_ns: time("to", &to)? };
    let job = ask(&web.views.bulk, |reply| BulkNow::Order { order, by, reply }).await???;
    let location = format!("/api/bulk/{}", job.id);
    let view = Json(JobView::new(job, &RunningJobs::default(), None));
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], view).into_response())
}

/// The keys of an order, and what to give for each.
const KEYS: [(&str, &str); 4] = [
    ("connection", "give the name of an [[influx]] of the config, in quotes"),
    ("query", "give the name of a [[query]] of the config, in quotes"),
    ("from", "give the beginning, such as \"2026-11-01\" or \"2026-11-01T08:00:00Z\""),
    ("to", "give the end, such as \"2026-12-01\" or \"2026-12-01T08:00:00Z\""),
];

/// Why a body is no order, by the first key that is at fault.
fn misunderstood(body: &[u8]) -> Problem {
    let Ok(Value::Object(given)) = serde_json::from_slice(body) else {
        let example = r#"{"connection": "…", "query": "…", "from": "2026-11-01", "to": "2026-12-01"}"#;
        return Problem::BadRequest(format!("the body is no JSON object: give an order such as {example}"));
    };
    let names = KEYS.map(|(name, _)| name);
    if let Some(other) = given.keys().find(|key| !names.contains(&key.as_str())) {
        let near = nearest(other, names.into_iter()).map(|near| format!(": did you mean {near}?")).unwrap_or_default();
        let other: String = other.chars().take(40).collect();
        return Problem::BadRequest(format!("an order has no `{other}`{near} (its keys: {})", names.join(", ")));
    }
    for (name, mend) in KEYS {
        let is_time = matches!(name, "from" | "to");
        let why = match given.get(name) {
            None => "is missing",
            Some(Value::String(_)) => continue,
            Some(Value::Number(number)) if is_time && number.is_i64() => continue,
            Some(Value::Number(_)) if is_time => "is no whole number of nanoseconds since 1970",
            Some(_) if is_time => "is no time",
            Some(_) => "is no name",
        };
        return Problem::Parameter { name, what: format!("{why}: {mend}") };
    }
    Problem::BadRequest("the order says one thing twice: give each key once".to_owned())
}

/// One export
#[utoipa::path(
    get,
    path = "/api/bulk/{id}",
    params(("id" = JobId, Path, description = "The export's id")),
    responses(
        (status = 200, description = "The export", body = JobView),
        (status = 404, description = "There is no such export")
    )
)]
pub async fn one(
    State(web): State<Web>,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let job = known(&web, &id).await?;
    let running = web.views.running.borrow().clone();
    let anchors = web.views.reader.covered_datasets(vec![job.id], web.chain()).await?;
    Ok(Json(JobView::new(job, &running, anchors.iter().flatten().next())).into_response())
}

/// Cancels an export, or deletes the bundle of one that is over
#[utoipa::path(
    delete,
    path = "/api/bulk/{id}",
    params(("id" = JobId, Path, description = "The export's id")),
    responses(
        (status = 204, description = "It is cancelled, or its bundle is deleted"),
        (status = 404, description = "There is no such export"),
        (status = 409, description = "Its bundle is being downloaded")
    ),
    security(("token" = ["export"]))
)]
pub async fn drop_job(
    State(web): State<Web>,
    Exporter(by): Exporter,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let job = known(&web, &id).await?;
    match ask(&web.views.bulk, |reply| BulkNow::Drop { id: job.id, by, reply }).await?? {
        Dropped::Cancelled | Dropped::Deleted => Ok(StatusCode::NO_CONTENT.into_response()),
        Dropped::InUse => Err(Problem::BundleInUse),
        Dropped::Unknown => Err(no_job(&id)),
    }
}

async fn known(web: &Web, id: &str) -> Result<Job, Problem> {
    let id: JobId = id.parse().map_err(|_| no_job(id))?;
    web.views.reader.job(id).await?.ok_or_else(|| no_job(&id.to_string()))
}

fn no_job(id: &str) -> Problem {
    Problem::NoJob(id.chars().take(40).collect())
}
