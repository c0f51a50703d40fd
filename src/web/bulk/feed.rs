//! `GET /api/bulk/{id}/events`: a job as it goes on (server-sent events). The newest state is all that a slow client
//! gets, so that nothing waits for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::warn;

use super::super::events::{BEAT, CLIENTS, FeedEvent};
use super::{JobView, known};
use crate::model::{JobId, RunningJobs};
use crate::web::problem::Problem;
use crate::web::query::{Asked, Named, Nothing};
use crate::web::wire::{UNBUFFERED, push_json, push_text};
use crate::web::{Web, guard};

/// No more events than a page can show.
const EVERY: Duration = Duration::from_millis(250);

struct Listening {
    web: Web,
    watch: guard::Watch,
    id: JobId,
    changed: watch::Receiver<u64>,
    running: watch::Receiver<Arc<RunningJobs>>,
    beat: Interval,
    last: Option<Bytes>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// How an export goes on (server-sent events)
///
/// Events `job` and `end`: the export, as `GET /api/bulk/{id}` gives it.
#[utoipa::path(
    get,
    path = "/api/bulk/{id}/events",
    params(("id" = JobId, Path, description = "The export's id")),
    responses(
        (status = 200, description = "The feed", content_type = "text/event-stream", body = FeedEvent),
        (status = 404, description = "There is no such export")
    )
)]
pub async fn events(
    State(web): State<Web>,
    headers: HeaderMap,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let id = known(&web, &id).await?.id;
    let place = web.feed.place().ok_or(Problem::Busy { limit: CLIENTS, again: 5 })?;
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let listening = Listening {
        watch: guard::Watch::new(&web, &headers)?,
        id,
        changed: web.views.reader.jobs_changed(),
        running: web.views.running.clone(),
        beat,
        last: None,
        ended: false,
        _place: place,
        web,
    };
    let body = Body::from_stream(stream::unfold(listening, |mut listening| async {
        let event = listening.next().await?;
        Some((Ok::<_, Infallible>(event), listening))
    }));
    Ok(([(header::CONTENT_TYPE, "text/event-stream"), (UNBUFFERED, "no")], body).into_response())
}

impl Listening {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            let event = self.look().await;
            if self.last.as_ref() != Some(&event) {
                let is_first = self.last.is_none();
                self.last = Some(event.clone());
                let greeting = if is_first { &b"retry: 2000\n"[..] } else { b"" };
                return Some([greeting, &event].concat().into());
            }
            let news = async {
                tokio::select! {
                    Ok(()) = self.changed.changed() => {}
                    Ok(()) = self.running.changed() => {}
                }
                tokio::time::sleep(EVERY).await;
            };
            tokio::select! {
                () = self.web.stop.cancelled() => return None,
                () = news => {}
                why = self.watch.ended() => {
                    self.ended = true;
                    return Some(format!("event: end\ndata: {{\"reason\":\"{why}\"}}\n\n").into());
                }
                _ = self.beat.tick() => return Some(Bytes::from_static(b": beat\n\n")),
            }
        }
    }

    /// The job as it is now; one that is over is told once, and the feed ends.
    async fn look(&mut self) -> Bytes {
        self.changed.borrow_and_update();
        let running = self.running.borrow_and_update().clone();
        let mut event = Vec::with_capacity(512);
        match self.web.views.reader.job(self.id).await {
            Ok(Some(job)) => {
                self.ended = job.state.is_over();
                push_text(&mut event, format_args!("event: {}\ndata: ", if self.ended { "end" } else { "job" }));
                push_json(&mut event, &JobView::new(job, &running, None));
            }
            Ok(None) => self.ended = true,
            Err(cause) => {
                warn!(error = &cause as &dyn std::error::Error, "the feed of a job could not look into the store");
                self.ended = true;
            }
        }
        event.extend_from_slice(b"\n\n");
        event.into()
    }
}
