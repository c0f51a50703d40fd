//! REST, live feed and the page. Holds a `Reader`, which has no write method.
//!
//! Every answer but health, the log and the page's files needs a session or a token, and whatever others can reach is
//! under TLS. Answers of any length are streamed from the store, so that memory stays flat.

mod about;
mod access;
mod alert_rules;
mod anchors;
mod ask;
mod brokers;
mod bulk;
mod commissioning;
mod config;
mod connections;
mod dashboard;
mod edits;
mod events;
mod guard;
mod health;
mod host;
mod log;
mod log_lines;
mod meters;
mod metrics;
mod openapi;
mod page;
mod periods;
mod problem;
mod proof;
mod quality;
mod query;
mod readings;
mod registers;
mod routes;
mod rows;
mod scan;
mod serve;
mod source;
mod stall;
mod statistics;
mod support;
mod tls;
mod upstreams;
mod visitors;
mod wire;
mod ws;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use jiff::tz::TimeZone;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::Clock;
use crate::model::note::SignedCheckpoint;
use crate::model::{
    AnchorStatus, Meter, MeterId, OpenBlock, PeakWindow, Roster, RunningJobs, SourcesStatus, Timestamp, UpstreamsStatus,
};
use crate::store::Reader;
pub use access::pin::{BadPin, Pin};
pub use access::{AccessNow, Gate, choose_pin, random_token, recovery_codes, token_name, totp};
pub use alert_rules::{AlertNow, WebhookFault};
pub use anchors::AnchorNow;
pub use bulk::{BulkArchive, BulkNow, ReadAt};
pub use config::{ShownConfig, ShownFile};
pub use connections::{Asks, Connection, Credentials, Exports, Query, TestFault, TestNow, Tested};
pub use edits::{ConfigFault, Edit, EditNow, EditRefused, Edited, Reloaded};
pub use health::{problems_of, problems_of_store};
pub use log_lines::LogLines;
use openapi::Audience;
use problem::Problem;
pub use proof::{ProofText, ProveNow};
pub use registers::{NotRead, RegistersNow};
use routes::{Routes, handlers};
pub use scan::{AnotherRuns, ScanNow};
pub use serve::Peer;
pub use tls::{Certificate, CertificateStatus, Tls, look_at};
pub use upstreams::UpstreamNow;
pub use ws::SimulatorNow;

/// Part `[web]` of the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub listen: SocketAddr,
    /// Never off where others can reach the address.
    pub tls: Tls,
    /// Other names of the page, of a proxy before it for one; in lower case.
    pub names: Vec<String>,
    /// Where the self-signed certificate is kept: in the store.
    pub folder: PathBuf,
    /// A session that nobody uses ends after this time.
    pub session_idle: Duration,
}

/// Of [`Config::session_idle`], unless told.
pub const SESSION_IDLE: Duration = Duration::from_secs(900);

/// What the page says of the site, and the local day.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub id: String,
    pub name: String,
    pub organization: String,
    pub timezone: String,
    pub block_minutes: u8,
    /// How far the utility's block borders lie after those of our clock, ms.
    pub clock_offset_ms: i64,
    pub peaks: Vec<PeakWindow>,
    pub simulated: bool,
}

/// All that the web looks at.
#[derive(Clone)]
pub struct Views {
    pub reader: Reader,
    pub clock: Clock,
    pub site: watch::Receiver<Arc<Site>>,
    pub meters: watch::Receiver<Arc<Vec<Meter>>>,
    /// The simulators among the meters, and the number of each meter.
    pub roster: watch::Receiver<Arc<Roster>>,
    /// What simulators say, which the web only hands on. When it is full, they wait.
    pub simulators: mpsc::Sender<SimulatorNow>,
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
    pub upstreams: watch::Receiver<Arc<UpstreamsStatus>>,
    /// What is wanted of upstreams. One more than it holds is refused.
    pub upstream_orders: mpsc::Sender<UpstreamNow>,
    /// What is wanted of the alerts. Who has one more than it holds waits.
    pub alert_orders: mpsc::Sender<AlertNow>,
    /// Changes of what is kept beside the config. Who has one more than it holds waits.
    pub edits: mpsc::Sender<EditNow>,
    /// The certificate in use, which the web keeps itself.
    pub certificate: Certificate,
    /// The config as it was last read, without its secrets.
    pub config: watch::Receiver<Arc<ShownConfig>>,
    /// Polls of one meter for a person. Who has one more than it holds waits.
    pub registers: mpsc::Sender<RegistersNow>,
    /// The newest lines of the program's log.
    pub log: LogLines,
    /// When the program started: by the clock, and in ms since boot.
    pub started: (Timestamp, u64),
    /// Who may come in, and who is in.
    pub gate: Gate,
}

/// Whether only this machine itself can reach the address.
pub fn is_own(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Where the page is asked for. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    listener: Arc<TcpListener>,
    page: Page,
    tls: Tls,
    names: Vec<String>,
    folder: PathBuf,
}

/// The address of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub address: SocketAddr,
    pub is_secure: bool,
}

/// As it is opened on the machine itself, where it listens on every address.
impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        if self.address.ip().is_unspecified() {
            write!(f, "{scheme}://localhost:{}/", self.address.port())
        } else {
            write!(f, "{scheme}://{}/", self.address)
        }
    }
}

impl Door {
    pub fn page(&self) -> Page {
        self.page
    }

    pub fn address(&self) -> SocketAddr {
        self.page.address
    }

    /// The same address under another config of TLS.
    pub fn under(&self, config: &Config) -> io::Result<Self> {
        allowed(config)?;
        let page = Page { is_secure: config.tls != Tls::Off, ..self.page };
        Ok(Self::new(self.listener.clone(), page, config))
    }

    fn new(listener: Arc<TcpListener>, page: Page, config: &Config) -> Self {
        let Config { tls, names, folder, .. } = config.clone();
        Self { listener, page, tls, names, folder }
    }
}

/// Binds the address; port 0 takes a free one. One that others can reach is refused without TLS: a token must not cross
/// a network in the clear.
pub async fn bind(config: &Config) -> io::Result<Door> {
    allowed(config)?;
    let listener = listen(config.listen)?;
    let page = Page { address: listener.local_addr()?, is_secure: config.tls != Tls::Off };
    Ok(Door::new(Arc::new(listener), page, config))
}

fn allowed(config: &Config) -> io::Result<()> {
    let address = config.listen;
    if config.tls != Tls::Off || is_own(address) {
        return Ok(());
    }
    let told = format!(
        "{address} can be reached from other machines, and web.tls is \"off\": say \"self-signed\", or set web.listen to \
         127.0.0.1:{port} and reach it through `ssh -L {port}:127.0.0.1:{port}`",
        port = address.port()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, told))
}

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// The unspecified address of IPv6 takes IPv4 as well, whatever the system's default is.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = |address: SocketAddr| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
        }
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    match bound(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && has_no_ipv6(&error) => {
            warn!(%error, "this system has no IPv6: the page is reached by IPv4 alone");
            bound(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let missing = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Serves until stopped; then lets answers under way finish.
pub async fn run(door: Door, views: Views, stop: CancellationToken) -> io::Result<()> {
    let mut tasks = JoinSet::new();
    let mut tls = None;
    if door.tls == Tls::Off {
        views.certificate.none();
    } else {
        let (clock, certificate) = (views.clock.clone(), views.certificate.clone());
        let keeper = tls::Keeper::open(door.tls, door.folder, clock, certificate).await?;
        tls = Some(keeper.shown());
        tasks.spawn(keeper.keep(stop.clone()));
    }
    let web = Web {
        hub: Arc::default(),
        feed: events::Feed::new(),
        disk: metrics::DiskUse::new(),
        reached: Arc::default(),
        hosts: host::Hosts::new(views.certificate.status(), &door.names),
        visitors: visitors::Visitors::default(),
        views: Arc::new(views),
        stop: stop.clone(),
    };
    tasks.spawn(events::publish(web.clone()));
    tasks.spawn(metrics::watch_disk(web.clone()));
    tasks.spawn(ws::tell_news(web.clone()));
    let (hosts, visitors) = (web.hosts.clone(), web.visitors.clone());
    let house = serve::House { tls, ..serve::House::new(router(web), hosts, visitors, stop) };
    tokio::select! {
        () = serve::serve(&door.listener, house) => {}
        // None ends unasked, so one that does has panicked.
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
    hosts: host::Hosts,
    visitors: visitors::Visitors,
    hub: Arc<ws::Hub>,
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

/// Bytes of a body where the route says nothing else.
const LONGEST_BODY: usize = 64 * 1024;

/// The routes, by who may ask. What is no interface for programs (the page's files, the log's tiles) is not described.
fn routes() -> [(Audience, Routes); 4] {
    let at_most = DefaultBodyLimit::max;
    let readers = Routes::default()
        .at(handlers!(meters::list))
        .at(handlers!(meters::summary))
        .at(handlers!(meters::one, edits::meter).layer(at_most(edits::LONGEST_ORDER)))
        .at(handlers!(meters::current_block))
        .at(handlers!(readings::blocks_today))
        .at(handlers!(readings::blocks))
        .at(handlers!(readings::readings))
        .at(handlers!(statistics::statistics))
        .at(handlers!(statistics::summary))
        .at(handlers!(readings::channel_readings))
        .at(handlers!(brokers::list))
        .at(handlers!(quality::quality))
        .at(handlers!(dashboard::snapshot))
        .at(handlers!(dashboard::alerts))
        .at(handlers!(alert_rules::acknowledge))
        .at(handlers!(alert_rules::rules))
        .at(handlers!(alert_rules::switch).layer(at_most(alert_rules::LONGEST_ORDER)))
        .at(handlers!(alert_rules::test))
        .at(handlers!(registers::registers))
        .at(handlers!(config::shown))
        .at(handlers!(config::check).layer(at_most(config::LONGEST_TEXT)))
        .at(handlers!(config::reload))
        .at(handlers!(config::add_meters).layer(at_most(config::LONGEST_TEXT)))
        .at(handlers!(about::about))
        .at(handlers!(support::support))
        .at(handlers!(events::events))
        .at(handlers!(scan::scan).layer(at_most(scan::LONGEST_ORDER)))
        .at(handlers!(proof::proof))
        .at(handlers!(anchors::list, anchors::order))
        .at(handlers!(anchors::one))
        .at(handlers!(upstreams::list))
        .at(handlers!(upstreams::flush))
        .at(handlers!(upstreams::letters, upstreams::settle).layer(at_most(upstreams::LONGEST_ORDER)))
        .at(handlers!(metrics::metrics))
        .at(handlers!(ws::plain))
        .undescribed("/socket", get(ws::plain))
        .undescribed("/websocket", get(ws::plain));
    let exporters = Routes::default()
        .at(handlers!(connections::list, edits::add_connection).layer(at_most(edits::LONGEST_ORDER)))
        .at(handlers!(connections::one, edits::change_connection, edits::delete_connection)
            .layer(at_most(edits::LONGEST_ORDER)))
        .at(handlers!(connections::test))
        .at(handlers!(connections::queries, edits::add_query).layer(at_most(edits::LONGEST_ORDER)))
        .at(handlers!(connections::query, edits::change_query, edits::delete_query)
            .layer(at_most(edits::LONGEST_ORDER)))
        .at(handlers!(bulk::list, bulk::order).layer(at_most(bulk::LONGEST_ORDER)))
        .at(handlers!(bulk::one, bulk::drop_job))
        .at(handlers!(bulk::feed::events))
        .at(handlers!(bulk::download::manifest))
        .at(handlers!(bulk::download::download))
        .at(handlers!(proof::of_dataset));
    let admins = Routes::default()
        .at(handlers!(access::routes::access))
        .at(handlers!(access::routes::set_pin))
        .at(handlers!(access::routes::drop_viewer))
        .at(handlers!(access::routes::propose_totp, access::routes::confirm_totp, access::routes::drop_totp))
        .at(handlers!(access::routes::end_session))
        .at(handlers!(access::tokens::list, access::tokens::create))
        .at(handlers!(access::tokens::revoke))
        .at(handlers!(access::tokens::audit))
        .layer(at_most(access::routes::LONGEST_BODY));
    let signing_in = Routes::default()
        .at(handlers!(access::routes::session, access::routes::sign_in, access::routes::sign_out))
        .at(handlers!(access::routes::setup, access::routes::set_up))
        .layer(at_most(access::routes::LONGEST_BODY));
    let anyone = Routes::default()
        .merge(signing_in)
        .at(handlers!(openapi::openapi))
        .at(handlers!(health::health))
        .at(handlers!(log::epochs))
        .at(handlers!(log::checkpoint))
        .undescribed("/log/{epoch}/tile/{*tile}", get(log::tile))
        .merge(Routes::from(page::routes()));
    [
        (Audience::Readers, readers),
        (Audience::Exporters, exporters),
        (Audience::Admins, admins),
        (Audience::Anyone, anyone),
    ]
}

fn router(web: Web) -> Router {
    let mut router = Router::new();
    for (audience, routes) in routes() {
        let routes = Router::from(routes);
        router = router.merge(match audience {
            Audience::Anyone => routes,
            Audience::Readers => routes.route_layer(from_fn_with_state(web.clone(), guard::signed_in)),
            Audience::Exporters => routes.route_layer(from_fn_with_state(web.clone(), guard::known)),
            Audience::Admins => routes.route_layer(from_fn_with_state(web.clone(), guard::admin)),
        });
    }
    router
        .fallback(async |uri: Uri| Problem::NoRoute(uri.path().chars().take(80).collect()))
        .method_not_allowed_fallback(async || Problem::Method)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(from_fn_with_state(web.clone(), ws::upgrades))
        .layer(from_fn_with_state(web.clone(), guard::limits))
        .with_state(web)
}
