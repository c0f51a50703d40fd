//! Health: from work done and from what the parts say of themselves. Open to all; details need a token.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::openapi::perhaps;
use super::problem::Problem;
use super::query::{Asked, Nothing};
use super::wire::{At, Json};
use super::{Web, guard};
use crate::model::{ClockState, Condition, SourcesStatus, UpstreamState, UpstreamsStatus};
use crate::store::StoreHealth;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = HealthStatus)]
enum Status {
    Ok,
    /// A meter, a line or another part is down; the rest works.
    Degraded,
    /// Nothing can be stored.
    Failing,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct HealthView {
    status: Status,
    /// Without a session or a token there is none.
    #[serde(flatten)]
    #[schema(value_type = PerhapsDetails, inline)]
    details: Option<Details>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = HealthDetails)]
struct Details {
    version: &'static str,
    timestamp: At,
    clock: ClockState,
    /// What is wrong, for a person.
    problems: Vec<String>,
    meters: usize,
    meters_answering: usize,
    lines: usize,
    lines_connected: usize,
    poll_attempts: u64,
    store: StoreView,
}

struct PerhapsDetails;

impl PartialSchema for PerhapsDetails {
    fn schema() -> RefOr<Schema> {
        perhaps::<Details>()
    }
}

impl ToSchema for PerhapsDetails {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Details::schemas(schemas);
    }
}

/// Counters are since start.
#[derive(Serialize, ToSchema)]
#[schema(as = StoreHealth)]
struct StoreView {
    /// Why nothing can be written.
    unwritable: Option<String>,
    commits: u64,
    readings: u64,
    repeated: u64,
    conflicts: u64,
    /// Readings that went before every upstream had them.
    lost: u64,
    /// Readings that wait for their commit.
    queued: u64,
    raw_bytes: u64,
    evidence_bytes: u64,
    /// Which the program had written to the device.
    written_bytes: u64,
    free_bytes: u64,
    /// The disk is full, and the reserve is being written into.
    reserve_used: bool,
    /// Damaged files that were set aside.
    quarantined: Vec<String>,
    through_seq: u64,
    oldest_raw: Option<At>,
}

impl From<StoreHealth> for StoreView {
    fn from(health: StoreHealth) -> Self {
        Self {
            unwritable: health.unwritable,
            commits: health.commits,
            readings: health.readings,
            repeated: health.repeated,
            conflicts: health.conflicts,
            lost: health.lost,
            queued: health.queued,
            raw_bytes: health.raw_bytes,
            evidence_bytes: health.evidence_bytes,
            written_bytes: health.written_bytes,
            free_bytes: health.free_bytes,
            reserve_used: health.reserve_used,
            quarantined: health.quarantined,
            through_seq: health.through_seq,
            oldest_raw: health.oldest_raw.map(At),
        }
    }
}

/// Whether it can store, and what is wrong
#[utoipa::path(
    get,
    path = "/api/health",
    responses(
        (status = 200, description = "It stores what it reads", body = HealthView),
        (status = 503, description = "Nothing can be stored, or it is stopping",
            content((HealthView = "application/json"), (crate::web::problem::Details = "application/problem+json")))
    )
)]
pub async fn health(
    State(web): State<Web>,
    headers: HeaderMap,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let store = store_health(&web).await?;
    let problems = problems(&web, &store);
    let (code, status) = match () {
        () if store.unwritable.is_some() => (StatusCode::SERVICE_UNAVAILABLE, Status::Failing),
        () if !problems.is_empty() => (StatusCode::OK, Status::Degraded),
        () => (StatusCode::OK, Status::Ok),
    };
    // A probe with an old token still hears whether the program is well.
    let details = guard::may_read(&web, &headers).is_ok().then(|| details(&web, problems, store));
    Ok((code, Json(HealthView { status, details })).into_response())
}

fn details(web: &Web, problems: Vec<String>, store: StoreHealth) -> Details {
    let sources = web.views.sources.borrow().clone();
    Details {
        version: env!("CARGO_PKG_VERSION"),
        timestamp: At(web.views.clock.now()),
        clock: web.views.clock.state(),
        problems,
        meters: sources.meters.len(),
        meters_answering: sources.meters.values().filter(|meter| meter.condition == Condition::Answering).count(),
        lines: sources.lines.len(),
        lines_connected: sources.lines.values().filter(|line| line.connected).count(),
        poll_attempts: sources.attempts,
        store: store.into(),
    }
}

/// How the store is doing. It looks at files: a disk that does not answer must not stand in the way of other requests.
pub async fn store_health(web: &Web) -> Result<StoreHealth, Problem> {
    let reader = web.views.reader.clone();
    tokio::task::spawn_blocking(move || reader.health()).await.map_err(|_| Problem::Stopping)
}

/// All that is wrong now, one sentence each.
pub fn problems(web: &Web, store: &StoreHealth) -> Vec<String> {
    let (own, sources) = (web.views.problems.borrow().clone(), web.views.sources.borrow().clone());
    let upstreams = web.views.upstreams.borrow();
    problems_of(&own, &sources, &upstreams, store)
}

/// The same, for whoever has no page: what is wrong by itself, and what the parts say of themselves.
pub fn problems_of(
    own: &[String],
    sources: &SourcesStatus,
    upstreams: &UpstreamsStatus,
    store: &StoreHealth,
) -> Vec<String> {
    let mut problems = own.to_vec();
    let told = |problem: &Option<String>| problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
    for (name, line) in &sources.lines {
        if !line.connected {
            problems.push(format!("line {name} is down{}", told(&line.problem)));
        }
    }
    for (name, broker) in &sources.brokers {
        if !broker.connected {
            problems.push(format!("broker {name} is away{}", told(&broker.problem)));
        } else if let Some(problem) = &broker.problem {
            problems.push(format!("broker {name}: {problem}"));
        } else if broker.silent {
            problems.push(format!("broker {name} is connected, and nothing comes from it: are the topics right?"));
        }
    }
    for (id, meter) in &sources.meters {
        match meter.condition {
            Condition::Silent => problems.push(format!("meter {id} does not answer{}", told(&meter.problem))),
            Condition::Refusing => problems.push(format!("meter {id} gives no values{}", told(&meter.problem))),
            Condition::Starting | Condition::Answering => {}
        }
    }
    for (name, upstream) in upstreams {
        match upstream.state {
            UpstreamState::Away => problems.push(format!("upstream {name} is away{}", told(&upstream.problem))),
            UpstreamState::Stopped => problems.push(format!("upstream {name} has stopped{}", told(&upstream.problem))),
            // One that is off is told with the parts that are off.
            UpstreamState::Starting | UpstreamState::Connected | UpstreamState::Off => {}
        }
        if upstream.dead_letters > 0 {
            let count = upstream.dead_letters;
            problems.push(format!(
                "upstream {name} has refused records, and {count} wait for somebody: see them on the page, under Upstream, \
                 or with `meterseal upstream dead-letters {name}`, and have them sent again or discarded"
            ));
        }
    }
    problems.extend(problems_of_store(store));
    problems
}

/// What is wrong with the store.
pub fn problems_of_store(store: &StoreHealth) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(why) = &store.unwritable {
        problems.push(format!("the store is in trouble: {why}"));
    }
    if store.reserve_used {
        problems.push(
            "the disk is full, and readings go on in the reserve: make room, or they wait and polling stops when their \
             part of it is used up"
                .into(),
        );
    }
    if store.lost > 0 {
        problems.push(format!("{} readings were given up for want of room since start", store.lost));
    }
    problems.extend(store.quarantined.iter().map(|file| format!("{file} was damaged and set aside")));
    problems
}
