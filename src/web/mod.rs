//! REST, live feed and the page. Holds a `Reader`, which has no write method.
//!
//! Every answer but health and the page's files needs a token; only loopback is listened on. Answers of any length are
//! streamed from the store, so that memory stays flat.

mod anchors;
mod brokers;
mod bulk;
mod commissioning;
mod connections;
mod dashboard;
mod events;
mod guard;
mod health;
mod log;
mod meters;
mod metrics;
mod page;
mod periods;
mod problem;
mod proof;
mod quality;
mod query;
mod readings;
mod scan;
mod serve;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use jiff::tz::TimeZone;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::note::SignedCheckpoint;
use crate::model::{AnchorStatus, Meter, MeterId, OpenBlock, RunningJobs, SourcesStatus};
use crate::store::Reader;
pub use anchors::AnchorNow;
pub use bulk::{BulkArchive, BulkNow, ReadAt};
pub use connections::{Asks, Connection, Credentials, Exports, Query, TestFault, TestNow, Tested};
use problem::Problem;
pub use proof::{ProofText, ProveNow};
pub use scan::{AnotherRuns, ScanNow};

/// Part `[web]` of the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Loopback only until sign-in exists.
    pub listen: SocketAddr,
}

/// What the page says of the site, and the local day.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub id: String,
    pub name: String,
    pub organization: String,
    pub timezone: String,
    pub block_minutes: u8,
    /// Local minutes since midnight; Monday first.
    pub peaks: Vec<([bool; 7], u16, u16)>,
    pub simulated: bool,
}

/// All that the web looks at.
#[derive(Clone)]
pub struct Views {
    pub reader: Reader,
    pub clock: Clock,
    pub site: watch::Receiver<Arc<Site>>,
    pub meters: watch::Receiver<Arc<Vec<Meter>>>,
    pub open: watch::Receiver<Arc<BTreeMap<MeterId, OpenBlock>>>,
    pub sources: watch::Receiver<Arc<SourcesStatus>>,
    /// Parts that are turned off or wrong, for a person; empty when all is well.
    pub problems: watch::Receiver<Arc<Vec<String>>>,
    /// The newest checkpoint of the log that may be shown.
    pub checkpoint: watch::Receiver<Option<Arc<SignedCheckpoint>>>,
    /// Searches for meters, which the web only asks for.
    pub scans: mpsc::Sender<ScanNow>,
    pub exports: watch::Receiver<Arc<Exports>>,
    /// Tests of connections, which the web only asks for as well.
    pub tests: mpsc::Sender<TestNow>,
    /// Proofs, which the evidence room makes.
    pub proofs: mpsc::Sender<ProveNow>,
    /// The exports that are not over.
    pub running: watch::Receiver<Arc<RunningJobs>>,
    /// What is asked about exports.
    pub bulk: mpsc::Sender<BulkNow>,
    /// How anchoring does.
    pub anchor: watch::Receiver<AnchorStatus>,
    /// Anchors that are wanted now. One more than it holds is refused: each of them waits for the chain's nodes.
    pub anchors: mpsc::Sender<AnchorNow>,
}

/// Binds the address; port 0 takes a free one. An address that others can reach is refused: there is no sign-in and
/// no TLS yet, and a token must not cross a network in the clear.
pub async fn bind(config: &Config) -> io::Result<TcpListener> {
    let address = config.listen;
    if !address.ip().to_canonical().is_loopback() {
        let told = format!(
            "{address} can be reached from other machines, and the page has no TLS yet: set web.listen to 127.0.0.1:{port} \
             and reach it through `ssh -L {port}:127.0.0.1:{port}`",
            port = address.port()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
    }
    TcpListener::bind(address).await
}

/// Serves until stopped; then lets answers under way finish.
pub async fn run(listener: TcpListener, views: Views, stop: CancellationToken) -> io::Result<()> {
    let web = Web {
        feed: events::Feed::new(),
        disk: metrics::DiskUse::new(),
        reached: Arc::default(),
        views: Arc::new(views),
        stop: stop.clone(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(events::publish(web.clone()));
    tasks.spawn(metrics::watch_disk(web.clone()));
    tokio::select! {
        () = serve::serve(listener, router(web), stop.clone()) => {}
        // Neither ends unasked, so one that does has panicked.
        Some(Err(fault)) = tasks.join_next() => return Err(io::Error::other(fault)),
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// What every route has at hand.
#[derive(Clone)]
struct Web {
    views: Arc<Views>,
    feed: events::Feed,
    disk: metrics::DiskUse,
    reached: Arc<Mutex<bulk::Reached>>,
    stop: CancellationToken,
}

impl Web {
    fn site(&self) -> Arc<Site> {
        self.views.site.borrow().clone()
    }

    /// The site's zone. The config has checked its name.
    fn zone(&self) -> TimeZone {
        TimeZone::get(&self.views.site.borrow().timezone).unwrap_or(TimeZone::UTC)
    }

    /// The chain whose anchors count; none while none is configured.
    fn chain(&self) -> Option<u64> {
        self.views.anchor.borrow().chain()
    }

    /// A meter of the running config.
    fn meter(&self, id: &str) -> Result<Meter, Problem> {
        let meters = self.views.meters.borrow();
        let meter = meters.iter().find(|meter| meter.id.as_str() == id).cloned();
        meter.ok_or_else(|| Problem::NoMeter(id.chars().take(64).collect()))
    }
}

fn router(web: Web) -> Router {
    let signed_in = Router::new()
        .route("/api/meters", get(meters::list))
        .route("/api/meters/summary", get(meters::summary))
        .route("/api/meters/{id}", get(meters::one))
        .route("/api/meters/{id}/current-block", get(meters::current_block))
        .route("/api/meters/{id}/blocks/today", get(readings::blocks_today))
        .route("/api/meters/{id}/blocks", get(readings::blocks))
        .route("/api/meters/{id}/readings", get(readings::readings))
        .route("/api/channels/{id}/readings", get(readings::readings))
        .route("/api/brokers", get(brokers::list))
        .route("/api/quality", get(quality::quality))
        .route("/api/dashboard/snapshot", get(dashboard::snapshot))
        .route("/api/alerts", get(dashboard::alerts))
        .route("/api/events", get(events::events))
        .route("/api/scan", post(scan::scan).layer(DefaultBodyLimit::max(scan::LONGEST_ORDER)))
        .route("/api/proof", get(proof::proof))
        .route("/api/anchor", get(anchors::list).post(anchors::order))
        .route("/api/anchor/{id}", get(anchors::one))
        .route("/metrics", get(metrics::metrics))
        .route_layer(from_fn_with_state(web.clone(), guard::signed_in));
    let exports = Router::new()
        .route("/api/connections", get(connections::list))
        .route("/api/connections/{name}/test", post(connections::test))
        .route("/api/queries", get(connections::queries))
        .route("/api/bulk", get(bulk::list).post(bulk::order).layer(DefaultBodyLimit::max(bulk::LONGEST_ORDER)))
        .route("/api/bulk/{id}", get(bulk::one).delete(bulk::drop_job))
        .route("/api/bulk/{id}/events", get(bulk::events))
        .route("/api/bulk/{id}/manifest", get(bulk::manifest))
        .route("/api/bulk/{id}/download", get(bulk::download))
        .route("/api/bulk/{id}/proof", get(proof::of_dataset))
        .route_layer(from_fn_with_state(web.clone(), guard::known));
    Router::new()
        .merge(signed_in)
        .merge(exports)
        .route("/api/health", get(health::health))
        .route("/log/", get(log::epochs))
        .route("/log/{epoch}/checkpoint", get(log::checkpoint))
        .route("/log/{epoch}/tile/{*tile}", get(log::tile))
        .route("/", get(page::html))
        .route("/page.css", get(page::css))
        .route("/page.js", get(page::js))
        .route("/find.js", get(page::find_js))
        .route("/evidence.js", get(page::evidence_js))
        .route("/icon.svg", get(page::icon))
        .fallback(async |uri: Uri| Problem::NoRoute(uri.path().chars().take(80).collect()))
        .method_not_allowed_fallback(async || Problem::Method)
        .layer(from_fn(guard::limits))
        .with_state(web)
}
