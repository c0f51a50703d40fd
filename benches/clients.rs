//! The live feed under many clients: `cargo bench --bench clients`. The server has one core to itself, 200 clients listen
//! from a process on another, and what one client alone sees in the same run is the figure to compare with.
//!
//! An event's delay runs from the return of its commit to its arrival at the client, by the clock that both share.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be set up fails")]

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{
    Category, ClockState, Layout, Meter, MeterId, Number, OpenBlock, Origin, Ratio, Reading, Slot, Stamp, Timestamp,
};
use meterseal::store::{self, Config, Store};
use meterseal::web::{self, Site, Tls, Views};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const NOON: i64 = 1_763_726_400_000;
const METERS: usize = 10;
const FEEDS: usize = 200;
/// Groups of readings, one of each meter, and the pause between them.
const ROUNDS: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(200);

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    // The clients are this program again.
    if let Some(at) = arguments.iter().position(|word| word == "--listen-to") {
        let [address, token, feeds, ca] = [1, 2, 3, 4].map(|after| arguments[at + after].clone());
        pin_to(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(listen(address.parse().unwrap(), token, feeds.parse().unwrap(), &ca));
    }
    pin_to(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

/// Threads that begin later stay there too.
fn pin_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).unwrap();
}

fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

async fn measure() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let config = Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(100),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 10_000_000_000,
        reserve: 0,
    };
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let token = store::init(&config, &"bench".parse().unwrap(), &clock).unwrap().token;
    let store = Store::open(config, clock.clone(), None).unwrap();
    let mut plant = Plant { store, clock, token, layouts: layouts(), time: 0 };
    for (name, tls) in [("in the clear", Tls::Off), ("under TLS", Tls::SelfSigned)] {
        let web = serve(&plant, tls, folder.path()).await;
        // One client alone is the baseline: what the commit, the feed and the socket cost without a crowd.
        let alone = plant.round(&web, 1).await;
        let crowd = plant.round(&web, FEEDS).await;
        println!("{name}: one client: {alone}");
        println!("{name}: {FEEDS} clients: {crowd} (at most 250 ms for 99 %, below 64 KiB each)");
        web.stop.cancel();
        web.tasks.join_all().await;
    }
    plant.store.close().await.unwrap();
}

struct Web {
    address: SocketAddr,
    /// PEM to know it by; empty in the clear.
    ca: PathBuf,
    stop: CancellationToken,
    tasks: JoinSet<std::io::Result<()>>,
    _open: watch::Sender<Arc<BTreeMap<MeterId, OpenBlock>>>,
}

async fn serve(plant: &Plant, tls: Tls, folder: &Path) -> Web {
    let site = Site {
        id: "bench".into(),
        name: "bench".into(),
        organization: String::new(),
        timezone: "Asia/Kuala_Lumpur".into(),
        block_minutes: 30,
        peaks: Vec::new(),
        simulated: true,
    };
    let open = watch::Sender::default();
    let views = Views {
        reader: plant.store.reader(),
        clock: plant.clock.clone(),
        site: watch::Sender::new(Arc::new(site)).subscribe(),
        meters: watch::Sender::new(Arc::new((0..METERS).map(meter).collect())).subscribe(),
        roster: watch::Sender::default().subscribe(),
        simulators: mpsc::channel(1).0,
        open: open.subscribe(),
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
        started: (plant.clock.now(), plant.clock.since_boot_ms()),
        gate: web::Gate::open(plant.store.reader(), plant.clock.clone(), mpsc::channel(1).0, web::SESSION_IDLE)
            .await
            .unwrap(),
    };
    let folder = folder.join("tls");
    let ca = if tls == Tls::Off { PathBuf::new() } else { folder.join("cert.pem") };
    let door = web::bind(&web::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls,
        folder,
        session_idle: web::SESSION_IDLE,
    })
    .await
    .unwrap();
    let (address, stop, mut certificate) = (door.address(), CancellationToken::new(), views.certificate.status());
    let mut tasks = JoinSet::new();
    tasks.spawn(web::run(door, views, stop.clone()));
    if ca != PathBuf::new() {
        certificate.wait_for(|shown| shown.fingerprint.is_some()).await.unwrap();
    }
    Web { address, ca, stop, tasks, _open: open }
}

fn name(meter: usize) -> MeterId {
    format!("meter-{meter}").parse().unwrap()
}

fn meter(number: usize) -> Meter {
    Meter {
        id: name(number),
        name: format!("Meter {number}"),
        category: Category::Cons,
        origin: Origin::Modbus { line: "line".parse().unwrap(), unit: 1, template: "own".into(), verified: false },
        interval_ms: Some(1_000),
        peak_target: None,
        simulated: true,
    }
}

fn layouts() -> Vec<Arc<Layout>> {
    const QUANTITIES: [&str; 8] = [
        "power_kw",
        "energy_import_kwh",
        "voltage_l1_v",
        "voltage_l2_v",
        "voltage_l3_v",
        "current_l1_a",
        "current_l2_a",
        "current_l3_a",
    ];
    let slot = |quantity: &&str| Slot {
        quantity: quantity.parse().unwrap(),
        scale: Ratio::ONE,
        rolls_over_at: None,
        interval: None,
    };
    let layout = |meter| Layout {
        meter: name(meter),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: true,
        slots: QUANTITIES.iter().map(slot).collect(),
    };
    (0..METERS).map(|meter| Arc::new(layout(meter))).collect()
}

struct Plant {
    store: Store,
    clock: Clock,
    token: String,
    layouts: Vec<Arc<Layout>>,
    time: i64,
}

struct Figures {
    /// Delays in ns, in order.
    delays: Vec<i64>,
    bytes_each: Option<f64>,
}

impl std::fmt::Display for Figures {
    #[allow(clippy::cast_precision_loss, reason = "a figure for a person")]
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |share: usize| self.delays[(self.delays.len() - 1) * share / 100] as f64 / 1e6;
        write!(
            f,
            "{} deliveries, median {:.2} ms, 99 % {:.2} ms, most {:.2} ms",
            self.delays.len(),
            at(50),
            at(99),
            at(100)
        )?;
        self.bytes_each.map_or(Ok(()), |bytes| write!(f, ", {:.1} KiB resident each", bytes / 1_024.0))
    }
}

impl Plant {
    /// A reading of each meter, all with this number as their power.
    fn group(&mut self, number: u32) -> Vec<Reading> {
        self.time += 1_000;
        let taken = Stamp {
            time: Timestamp::from_millis(NOON + self.time),
            since_boot_ms: (1_000_000 + self.time).unsigned_abs(),
            clock: ClockState::Synchronised,
        };
        let values: Vec<_> = (0..8_u8).map(|place| (place, Number::U64(u64::from(number)))).collect();
        let reading = |layout: &Arc<Layout>| Reading { layout: layout.clone(), taken, values: values.clone().into() };
        self.clock.advance_to(taken.time);
        self.layouts.iter().map(reading).collect()
    }

    /// Commits groups of readings, and collects when each client heard of them.
    async fn round(&mut self, web: &Web, feeds: usize) -> Figures {
        let before = resident();
        let mut clients = Clients::start(web, &self.token, feeds).await;
        let (mut committed, mut most) = (HashMap::new(), resident());
        for number in 1..=ROUNDS {
            let group = self.group(number);
            self.store.ingest().store(group).await.unwrap();
            committed.insert(number, now_ns());
            tokio::time::sleep(BETWEEN).await;
            most = most.max(resident());
        }
        let arrived = clients.stop().await;
        assert_eq!(arrived.len(), feeds * ROUNDS as usize, "every client hears of every group");
        let mut delays: Vec<_> = arrived.into_iter().map(|(number, at)| (at - committed[&number]).max(0)).collect();
        delays.sort_unstable();
        #[allow(clippy::cast_precision_loss, reason = "a figure for a person")]
        let bytes_each = (feeds > 1).then(|| (most - before) as f64 / feeds as f64);
        Figures { delays, bytes_each }
    }
}

/// The clients' process.
struct Clients {
    process: Child,
    told: mpsc::Receiver<String>,
    _reading: JoinSet<()>,
}

impl Clients {
    async fn start(web: &Web, token: &str, feeds: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--listen-to", &web.address.to_string(), token, &feeds.to_string()])
            .arg(&web.ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Read on a thread of its own, so that the server is not measured waiting for a pipe.
        let (told, heard) = mpsc::channel(1_024);
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut reading = JoinSet::new();
        reading.spawn_blocking(move || {
            for line in output.lines() {
                if told.blocking_send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut clients = Self { process: child, told: heard, _reading: reading };
        assert_eq!(clients.told.recv().await.as_deref(), Some("all listen"));
        clients
    }

    /// What arrived: the group's number and the instant.
    async fn stop(&mut self) -> Vec<(u32, i64)> {
        tokio::time::sleep(BETWEEN * 5).await;
        self.process.stdin.take().unwrap().write_all(b"stop\n").unwrap();
        let mut all = Vec::new();
        while let Some(line) = self.told.recv().await {
            let (number, at) = line.split_once(' ').unwrap();
            all.push((number.parse().unwrap(), at.parse().unwrap()));
        }
        self.process.wait().unwrap();
        all
    }
}

fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<i64>().unwrap() * 1_024
}

/// The clients: each tells when it heard of each group.
async fn listen(address: SocketAddr, token: String, feeds: usize, ca: &str) {
    let connector = (!ca.is_empty()).then(|| trusting(Path::new(ca)));
    let ask = format!("GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let (mut listening, (listens, mut ready)) = (JoinSet::new(), mpsc::channel(feeds));
    let stop = CancellationToken::new();
    for _ in 0..feeds {
        let (connector, ask, listens, stop) = (connector.clone(), ask.clone(), listens.clone(), stop.clone());
        listening.spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            match connector {
                None => hear(stream, &ask, listens, stop).await,
                Some(connector) => {
                    let name = ServerName::try_from("127.0.0.1").unwrap();
                    hear(connector.connect(name, stream).await.unwrap(), &ask, listens, stop).await
                }
            }
        });
    }
    for _ in 0..feeds {
        ready.recv().await.unwrap();
    }
    println!("all listen");
    let mut line = String::new();
    let line = tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line).unwrap());
    assert!(line.await.unwrap() > 0, "the server's side has gone");
    stop.cancel();
    let mut out = std::io::stdout().lock();
    for (number, at) in listening.join_all().await.into_iter().flatten() {
        writeln!(out, "{number} {at}").unwrap();
    }
}

fn trusting(ca: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth()).into()
}

/// One feed: when the last reading of each group came.
async fn hear(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ask: &str,
    listens: mpsc::Sender<()>,
    stop: CancellationToken,
) -> HashMap<u32, i64> {
    const POWER: &str = "\"power_kw\":";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let (mut arrived, mut text, mut part) = (HashMap::new(), String::new(), vec![0; 16_384]);
    let mut greeted = false;
    while let Some(read) = stop.run_until_cancelled(stream.read(&mut part)).await {
        let (read, at) = (read.unwrap(), now_ns());
        assert!(read > 0, "the feed ended");
        text.push_str(std::str::from_utf8(&part[..read]).unwrap());
        if !greeted && text.contains("event: hello") {
            greeted = true;
            listens.send(()).await.unwrap();
        }
        while let Some((event, rest)) = text.split_once("\n\n") {
            for reading in event.split(POWER).skip(1) {
                let digits: String = reading.chars().take_while(char::is_ascii_digit).collect();
                arrived.insert(digits.parse().unwrap(), at);
            }
            text = rest.to_owned();
        }
    }
    arrived
}
