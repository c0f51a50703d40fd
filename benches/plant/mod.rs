//! What measurements of the web have in common: ten meters, a store of their own, and the web before it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{Category, Layout, Meter, MeterId, Origin, Ratio, Slot, Timestamp};
use meterseal::store::{self, Config, Store};
use meterseal::web::{self, Site, Tls, Views};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub const NOON: i64 = 1_763_726_400_000;
pub const METERS: usize = 10;
pub const TIMEZONE: &str = "Asia/Kuala_Lumpur";
pub const BLOCK_MINUTES: u8 = 30;

/// A new store, a clock that is set by hand, and a token that may do all.
pub fn store(folder: &Path, commit_every: Duration) -> (Store, Clock, String) {
    let config = Config {
        path: folder.join("store"),
        commit_every,
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 100_000_000_000,
        reserve: 0,
    };
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let token = store::init(&config, &"bench".parse().unwrap(), &clock).unwrap().token;
    (Store::open(config, clock.clone(), None).unwrap(), clock, token)
}

pub fn name(meter: usize) -> MeterId {
    format!("meter-{meter}").parse().unwrap()
}

pub fn meters() -> Vec<Meter> {
    let meter = |number| Meter {
        id: name(number),
        name: format!("Meter {number}"),
        category: Category::Cons,
        origin: Origin::Modbus { line: "line".parse().unwrap(), unit: 1, template: "own".into(), verified: false },
        interval_ms: Some(1_000),
        peak_target: None,
        simulated: true,
    };
    (0..METERS).map(meter).collect()
}

/// A layout for each meter.
pub fn layouts(quantities: &[&str], scale: impl Fn(&str) -> Ratio) -> Vec<Arc<Layout>> {
    let slot =
        |name: &&str| Slot { quantity: name.parse().unwrap(), scale: scale(name), rolls_over_at: None, interval: None };
    let layout = |meter| Layout {
        meter: name(meter),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: true,
        slots: quantities.iter().map(slot).collect(),
    };
    (0..METERS).map(|meter| Arc::new(layout(meter))).collect()
}

/// What the web looks at: the store and its meters, and beside them nothing that happens.
pub async fn views(store: &Store, clock: &Clock) -> Views {
    let site = Site {
        id: "bench".into(),
        name: "bench".into(),
        organization: String::new(),
        timezone: TIMEZONE.into(),
        block_minutes: BLOCK_MINUTES,
        clock_offset_ms: 0,
        peaks: Vec::new(),
        simulated: true,
    };
    let gate = web::Gate::open(store.reader(), clock.clone(), mpsc::channel(1).0, web::SESSION_IDLE);
    Views {
        reader: store.reader(),
        clock: clock.clone(),
        site: watch::Sender::new(Arc::new(site)).subscribe(),
        meters: watch::Sender::new(Arc::new(meters())).subscribe(),
        roster: watch::Sender::default().subscribe(),
        simulators: mpsc::channel(1).0,
        open: watch::Sender::default().subscribe(),
        sources: watch::Sender::default().subscribe(),
        problems: watch::Sender::default().subscribe(),
        checkpoint: watch::Sender::default().subscribe(),
        scans: mpsc::channel(1).0,
        exports: watch::Sender::default().subscribe(),
        tests: mpsc::channel(1).0,
        proofs: mpsc::channel(1).0,
        running: watch::Sender::default().subscribe(),
        bulk: mpsc::channel(1).0,
        anchor: watch::Sender::default().subscribe(),
        anchors: mpsc::channel(1).0,
        upstreams: watch::Sender::default().subscribe(),
        upstream_orders: mpsc::channel(1).0,
        alert_orders: mpsc::channel(1).0,
        edits: mpsc::channel(1).0,
        certificate: web::Certificate::default(),
        config: watch::Sender::default().subscribe(),
        registers: mpsc::channel(1).0,
        log: web::LogLines::default(),
        started: (clock.now(), clock.since_boot_ms()),
        gate: gate.await.unwrap(),
    }
}

/// The web as it runs.
pub struct Web {
    pub address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<std::io::Result<()>>,
}

impl Web {
    /// Its certificate, where it is self-signed, is `cert.pem` in the folder.
    pub async fn start(views: Views, tls: Tls, folder: &Path) -> Self {
        let is_secure = tls != Tls::Off;
        let config = web::Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls,
            folder: folder.to_owned(),
            names: Vec::new(),
            session_idle: web::SESSION_IDLE,
        };
        let door = web::bind(&config).await.unwrap();
        let (address, stop, mut certificate) = (door.address(), CancellationToken::new(), views.certificate.status());
        let mut tasks = JoinSet::new();
        tasks.spawn(web::run(door, views, stop.clone()));
        if is_secure {
            certificate.wait_for(|shown| shown.fingerprint.is_some()).await.unwrap();
        }
        Self { address, stop, tasks }
    }

    pub async fn end(self) {
        self.stop.cancel();
        for ended in self.tasks.join_all().await {
            ended.unwrap();
        }
    }
}

/// Bytes of this process in memory.
pub fn resident() -> i64 {
    kilobytes("VmRSS:") * 1_024
}

/// A figure of this process.
pub fn kilobytes(name: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}
