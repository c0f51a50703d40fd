//! The live feed (server-sent events): readings and blocks as they are committed, running blocks once a second, alerts.
//!
//! An event is written once for all clients. A client that reads too slowly is told how much it missed and goes on
//! with what is new; one that reads nothing at all is cut off by the connection's time-out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;
use utoipa::ToSchema;

use super::dashboard::AlertView;
use super::problem::Problem;
use super::query::{Asked, Nothing};
use super::wire::{At, BlockView, OpenBlockView, TimeWriter, UNBUFFERED, push_intervals, push_json, push_text};
use super::{Web, guard};
use crate::model::decimal::push_value;
use crate::model::{Alert, StoredReading, Timestamp};
use crate::store::StoreError;

/// Feeds open at once. Events are shared by all, so one takes what its connection takes.
pub const CLIENTS: usize = 256;
/// Events that wait for the slowest client. When they are full, the oldest is dropped for it and it is told.
const WAITING: usize = 32;
/// Readings or blocks in one event at most, which bounds what `WAITING` events can take.
const READINGS: usize = 500;
/// An idle feed shows that it lives this often.
pub const BEAT: Duration = Duration::from_secs(15);
/// Alerts looked through for changes.
const ALERTS: usize = 100;
/// How often.
const ALERTS_EVERY: Duration = Duration::from_secs(1);
/// What changed so long before the first look is told as well.
const JUST_MS: i64 = 10_000;

/// Where events go out.
#[derive(Clone)]
pub struct Feed {
    events: broadcast::Sender<Bytes>,
    places: Arc<Semaphore>,
    missed: Arc<AtomicU64>,
}

impl Feed {
    pub fn new() -> Self {
        Self {
            events: broadcast::Sender::new(WAITING),
            places: Arc::new(Semaphore::new(CLIENTS)),
            missed: Arc::new(AtomicU64::new(0)),
        }
    }

    /// A place for one more feed of any kind; `None` when all are taken.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    pub fn clients(&self) -> usize {
        CLIENTS - self.places.available_permits()
    }

    /// Events that slow clients missed since start.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn is_heard(&self) -> bool {
        self.events.receiver_count() > 0
    }

    fn tell_missed(&self, events: u64) {
        self.send("missed", |out| push_text(out, format_args!("{{\"events\":{events}}}")));
    }

    fn send(&self, name: &str, push_data: impl FnOnce(&mut Vec<u8>)) {
        let mut event = Vec::with_capacity(1_024);
        push_text(&mut event, format_args!("event: {name}\ndata: "));
        push_data(&mut event);
        event.extend_from_slice(b"\n\n");
        // Without a receiver there is nobody to tell.
        self.events.send(event.into()).ok();
    }
}

/// Turns what is committed into events until stopped. Does next to nothing while nobody listens.
pub async fn publish(web: Web) {
    let mut readings = web.views.reader.feed();
    let mut sealed = web.views.reader.sealed();
    let mut open = web.views.open.clone();
    let mut alerts = None;
    let mut looks = interval(ALERTS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = web.stop.cancelled() => return,
            batch = readings.recv() => match batch {
                Ok(batch) if web.feed.is_heard() => {
                    for part in batch.chunks(READINGS) {
                        web.feed.send("readings", |out| push_readings(out, part));
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(batches)) => web.feed.tell_missed(batches),
                // The store is closed: nothing more will come.
                Err(RecvError::Closed) => return web.stop.cancelled().await,
            },
            blocks = sealed.recv() => match blocks {
                Ok(blocks) if web.feed.is_heard() => {
                    for part in blocks.chunks(READINGS) {
                        let views: Vec<_> = part.iter().map(|block| BlockView::new(block, None)).collect();
                        web.feed.send("blocks", |out| push_json(out, &views));
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(batches)) => web.feed.tell_missed(batches),
                Err(RecvError::Closed) => return web.stop.cancelled().await,
            },
            changed = open.changed() => {
                if changed.is_err() {
                    return web.stop.cancelled().await;
                }
                let blocks = open.borrow_and_update().clone();
                if web.feed.is_heard() {
                    let views: Vec<_> = blocks.values().map(OpenBlockView::from).collect();
                    web.feed.send("open_blocks", |out| push_json(out, &views));
                }
            }
            _ = looks.tick() => {
                if !web.feed.is_heard() {
                    alerts = None;
                    continue;
                }
                if let Err(cause) = tell_alerts(&web, &mut alerts).await {
                    warn!(error = &cause as &dyn std::error::Error, "the live feed could not look into the store");
                }
            }
        }
    }
}

fn push_readings(out: &mut Vec<u8>, readings: &[StoredReading]) {
    let mut time = TimeWriter::default();
    out.push(b'[');
    for (at, reading) in readings.iter().enumerate() {
        push_text(
            out,
            format_args!("{}{{\"meter\":\"{}\",\"time\":\"", if at == 0 { "" } else { "," }, reading.layout.meter),
        );
        time.push(out, reading.time);
        push_text(out, format_args!("\",\"seq\":{}", reading.seq));
        for (place, raw) in &reading.values {
            if let Some(slot) = reading.layout.slots.get(usize::from(*place)) {
                push_text(out, format_args!(",\"{}\":", slot.quantity));
                push_value(out, *raw, slot.scale);
            }
        }
        push_intervals(out, reading);
        out.push(b'}');
    }
    out.push(b']');
}

/// Alerts as they were when last looked at, by id: when each was cleared and acknowledged.
type KnownAlerts = BTreeMap<i64, [Option<Timestamp>; 2]>;

/// Tells the alerts raised, cleared or acknowledged since the last look.
async fn tell_alerts(web: &Web, known: &mut Option<KnownAlerts>) -> Result<(), StoreError> {
    let alerts = web.views.reader.alerts(false, ALERTS).await?;
    let state = |alert: &Alert| [alert.cleared, alert.acknowledged];
    let now: KnownAlerts = alerts.iter().map(|alert| (alert.id, state(alert))).collect();
    let since = web.views.clock.now().plus_millis(-JUST_MS);
    let is_news = |alert: &&Alert| match known {
        Some(known) => known.get(&alert.id) != Some(&state(alert)),
        // Whoever has begun to listen may have asked for all just before.
        None => [Some(alert.raised), alert.cleared, alert.acknowledged].iter().flatten().any(|time| *time >= since),
    };
    let news: Vec<_> = alerts.iter().filter(is_news).map(AlertView::from).collect();
    if !news.is_empty() {
        web.feed.send("alerts", |out| push_json(out, &news));
    }
    *known = Some(now);
    Ok(())
}

/// One event of a feed, as the description shows it.
#[derive(Serialize, ToSchema)]
pub struct FeedEvent {
    event: String,
    /// JSON.
    data: String,
    /// Milliseconds to wait before connecting again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry: Option<u32>,
}

/// One client.
struct Listening {
    web: Web,
    watch: guard::Watch,
    events: broadcast::Receiver<Bytes>,
    beat: Interval,
    greeting: Option<Bytes>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// Readings and blocks as they are committed, running blocks once a second, alerts (server-sent events)
///
/// Events `hello`, then `readings`, `blocks`, `open_blocks`, `alerts` (each a JSON array), `missed` and `end`.
#[utoipa::path(
    get,
    path = "/api/events",
    responses((status = 200, description = "The feed", content_type = "text/event-stream", body = FeedEvent))
)]
pub async fn events(
    State(web): State<Web>,
    headers: HeaderMap,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let place = web.feed.place().ok_or(Problem::Busy { limit: CLIENTS, again: 5 })?;
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let now = serde_json::json!({ "timestamp": At(web.views.clock.now()), "version": env!("CARGO_PKG_VERSION") });
    let listening = Listening {
        watch: guard::Watch::new(&web, &headers)?,
        events: web.feed.events.subscribe(),
        beat,
        greeting: Some(format!("retry: 2000\nevent: hello\ndata: {now}\n\n").into()),
        ended: false,
        _place: place,
        web,
    };
    let body = Body::from_stream(stream::unfold(listening, |mut listening| async {
        let event = listening.next().await?;
        Some((Ok::<_, std::convert::Infallible>(event), listening))
    }));
    Ok(([(header::CONTENT_TYPE, "text/event-stream"), (UNBUFFERED, "no")], body).into_response())
}

impl Listening {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        if self.ended {
            return None;
        }
        tokio::select! {
            () = self.web.stop.cancelled() => None,
            event = self.events.recv() => match event {
                Ok(event) => Some(event),
                Err(RecvError::Lagged(events)) => {
                    self.web.feed.missed.fetch_add(events, Ordering::Relaxed);
                    Some(format!("event: missed\ndata: {{\"events\":{events}}}\n\n").into())
                }
                Err(RecvError::Closed) => None,
            },
            why = self.watch.ended() => {
                self.ended = true;
                Some(format!("event: end\ndata: {{\"reason\":\"{why}\"}}\n\n").into())
            }
            _ = self.beat.tick() => Some(Bytes::from_static(b": beat\n\n")),
        }
    }
}
