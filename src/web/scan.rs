//! `POST /api/scan`: a search for meters, told as it goes on (NDJSON). Whoever goes away ends it.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};

use super::Web;
use super::ask::ask;
use super::guard::Admin;
use super::problem::Problem;
use super::query::{Asked, Nothing, body_of};
use super::wire::UNBUFFERED;
use crate::model::{ScanEvent, ScanOrder, ScanRequest};

/// A search that somebody waits for.
pub struct ScanNow {
    pub order: ScanOrder,
    /// Dropped by who waits when he has gone.
    pub tell: mpsc::Sender<ScanEvent>,
    pub begun: oneshot::Sender<Result<(), AnotherRuns>>,
}

/// One search at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another search is under way: wait for its end, or stop it")]
pub struct AnotherRuns;

/// Events on their way to one client. When they are full, the search waits.
const EVENTS: usize = 64;

/// More than an order with 247 unit numbers one by one.
pub const LONGEST_ORDER: usize = 4_096;

/// Searches a bus for meters; told as it goes on
///
/// One search at a time. Closing the connection ends it.
#[utoipa::path(
    post,
    path = "/api/scan",
    request_body = ScanRequest,
    responses(
        (status = 200, description = "A line for each event", content_type = "application/x-ndjson", body = ScanEvent),
        (status = 409, description = "Another search is under way")
    ),
    security(("token" = ["admin"]))
)]
pub async fn scan(
    State(web): State<Web>,
    _: Admin,
    Asked(Nothing {}): Asked<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let order = body_of(body, LONGEST_ORDER)?;
    let (tell, events) = mpsc::channel(EVENTS);
    ask(&web.views.scans, |begun| ScanNow { order, tell, begun }).await??;
    let body = Body::from_stream(stream::unfold((events, web), |(mut events, web)| async {
        let event = tokio::select! {
            () = web.stop.cancelled() => return None,
            event = events.recv() => event?,
        };
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), (events, web)))
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson"), (UNBUFFERED, "no")], body).into_response())
}
