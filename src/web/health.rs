//! Health: from work done and from what the parts say of themselves. Open to all; details need a token.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::Problem;
use super::query::{Asked, Nothing};
use super::wire::{At, Json};
use super::{Web, guard};
use crate::model::{ClockState, Condition};
use crate::store::StoreHealth;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    /// A meter, a line or another part is down; the rest works.
    Degraded,
    /// Nothing can be stored.
    Failing,
}

#[derive(Serialize)]
struct HealthView {
    status: Status,
    #[serde(flatten)]
    details: Option<Details>,
}

#[derive(Serialize)]
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
    store: serde_json::Value,
}

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
    let oldest_raw = store.oldest_raw.map(At);
    let mut store = serde_json::json!(store);
    store["oldest_raw"] = serde_json::json!(oldest_raw); // as all times of this interface are written
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
        store,
    }
}

/// How the store is doing. It looks at files: a disk that does not answer must not stand in the way of other requests.
pub async fn store_health(web: &Web) -> Result<StoreHealth, Problem> {
    let reader = web.views.reader.clone();
    tokio::task::spawn_blocking(move || reader.health()).await.map_err(|_| Problem::Stopping)
}

/// All that is wrong now, one sentence each.
pub fn problems(web: &Web, store: &StoreHealth) -> Vec<String> {
    let mut problems = web.views.problems.borrow().as_ref().clone();
    let sources = web.views.sources.borrow().clone();
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
