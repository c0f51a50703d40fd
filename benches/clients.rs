//! The web under many clients: `cargo bench --bench clients`. The server has one core to itself. From processes on another
//! 200 clients listen to the live feed and, at the same time, 100 dashboards to their WebSockets; what one client of each
//! sees in the same run is the figure to compare with.
//!
//! A delay runs from the commit of a reading to its arrival at the client, by the clock that both share. The feed has
//! each reading. Dashboards are told at once of what simulators say, of which one runs beside ten measured meters; what
//! they are told of those every 5 s anyway goes on meanwhile.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be set up fails")]

mod plant;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use meterseal::agent::simulators;
use meterseal::blocks;
use meterseal::clock::Clock;
use meterseal::model::{ClockState, Layout, Number, Ratio, Reading, Role, Stamp, StoredReading, Timestamp};
use meterseal::store::Store;
use meterseal::web::{Tls, Views};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

use plant::{NOON, Web, resident};

const FEEDS: usize = 200;
const SOCKETS: usize = 100;
/// Groups of readings, one of each meter, and the pause between them.
const ROUNDS: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(200);
/// Groups before the dashboards come: what the feeds take shows then.
const FEEDS_ALONE: u32 = 25;
/// The power of each reading is a number of its own, in kW: that of its group, or for the simulator one from here on.
const SIMULATED: u32 = 500_000;
const PATIENCE: Duration = Duration::from_secs(60);

const CLEAR: &str = "in the clear";
const SECURE: &str = "under TLS";

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let after = |word: &str| Some(&arguments[arguments.iter().position(|argument| argument == word)? + 1..]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The servers and the clients are this program again. Each server is a new process: memory that the one before it
    // has used and given back would not count.
    if let Some(asked) = after("--listen-to") {
        pin_to(1);
        runtime.block_on(listen(Asked::read(asked)));
    } else if let Some([how, ..]) = after("--serve") {
        pin_to(0);
        runtime.block_on(measure(how));
    } else {
        for how in [CLEAR, SECURE] {
            let ended = Command::new(std::env::current_exe().unwrap()).args(["--serve", how]).status().unwrap();
            assert!(ended.success(), "{how}: {ended}");
        }
    }
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

async fn measure(how: &str) {
    let folder = tempfile::tempdir_in(".").unwrap();
    let (store, clock, token) = plant::store(folder.path(), Duration::from_millis(100));
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let views = living(&store, &clock, &stop, &mut tasks).await;
    let kept = folder.path().join("tls");
    let (tls, ca) = if how == CLEAR { (Tls::Off, PathBuf::new()) } else { (Tls::SelfSigned, kept.join("cert.pem")) };
    let web = Web::start(views, tls, &kept).await;
    let committed = watch::Sender::default();
    tasks.spawn(note_commits(store.reader().feed(), committed.clone()));
    let layouts = plant::layouts(&QUANTITIES, |_| Ratio::ONE);
    let mut plant = Plant { store, clock, token, layouts, group: 0, committed, address: web.address, ca };
    // One client of each alone is the baseline: what the commit and the socket cost without a crowd.
    for (feeds, sockets) in [(1, 1), (FEEDS, SOCKETS)] {
        let [feed, socket] = plant.round(feeds, sockets).await;
        println!("{how}: {feeds} of the live feed: {feed}");
        println!("{how}: {sockets} by WebSocket, at the same time: {socket}");
    }
    println!("{how}: at most 250 ms for 99 %, and below 64 KiB each, are wanted of the many");
    web.end().await;
    stop.cancel();
    plant.store.close().await.unwrap();
    tasks.join_all().await;
}

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

/// The views with what dashboards need of the rest of the daemon: running blocks, and the owner of the simulators.
async fn living(store: &Store, clock: &Clock, stop: &CancellationToken, tasks: &mut JoinSet<()>) -> Views {
    let config = blocks::Config {
        timezone: plant::TIMEZONE.into(),
        block_minutes: plant::BLOCK_MINUTES,
        clock_offset_ms: 0,
        peaks: Vec::new(),
        meters: plant::meters(),
    };
    let (known, config) = (simulators::Told::new(&config), watch::Sender::new(Arc::new(config)));
    let parts = simulators::Parts {
        config: config.subscribe(),
        reader: store.reader(),
        ledger: store.ledger(),
        ingest: store.ingest(),
        clock: clock.clone(),
    };
    let (simulators, asked) = mpsc::channel(simulators::ASKED);
    let desk = simulators::Desk::open(parts, known.clone()).await.unwrap().run(asked, stop.clone());
    let (open, waits_for) = (watch::Sender::default(), watch::Sender::default());
    let views = Views {
        meters: known.meters.subscribe(),
        roster: known.roster.subscribe(),
        simulators,
        open: open.subscribe(),
        ..plant::views(store, clock).await
    };
    let told = blocks::Told { open, waits_for };
    let blocks = known.blocks.subscribe();
    let sealing = blocks::run(blocks, store.reader(), store.ledger(), clock.clone(), told, stop.clone());
    tasks.spawn(async move { sealing.await.unwrap() });
    tasks.spawn(async move {
        desk.await.unwrap();
        drop((config, known));
    });
    views
}

/// When each number was committed.
type Commits = HashMap<u32, i64>;

async fn note_commits(mut feed: broadcast::Receiver<Arc<Vec<StoredReading>>>, committed: watch::Sender<Commits>) {
    loop {
        let batch = match feed.recv().await {
            Ok(batch) => batch,
            Err(broadcast::error::RecvError::Closed) => return,
            Err(lagged) => panic!("{lagged}"),
        };
        let at = now_ns();
        committed.send_modify(|committed| {
            for reading in batch.iter() {
                let power = reading.raw(Role::Power).and_then(|power| power.scaled(Ratio::ONE, 0)).unwrap();
                committed.entry(power.try_into().unwrap()).or_insert(at);
            }
        });
    }
}

struct Plant {
    store: Store,
    clock: Clock,
    token: String,
    layouts: Vec<Arc<Layout>>,
    /// The last group.
    group: u32,
    committed: watch::Sender<Commits>,
    address: SocketAddr,
    /// PEM to know the web by; empty in the clear.
    ca: PathBuf,
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

impl Figures {
    /// Of what arrived at so many clients, each of which must have heard of all these numbers.
    fn new(arrived: &[(u32, i64)], committed: &Commits, clients: usize, numbers: &[RangeInclusive<u32>]) -> Self {
        let is_wanted = |number| numbers.iter().any(|range| range.contains(&number));
        let wanted = arrived.iter().filter(|(number, _)| is_wanted(*number));
        let mut delays: Vec<_> = wanted.map(|(number, at)| (at - committed[number]).max(0)).collect();
        delays.sort_unstable();
        let all: usize = numbers.iter().map(|range| range.clone().count()).sum();
        assert_eq!(delays.len(), clients * all, "every client hears of every reading");
        Self { delays, bytes_each: None }
    }

    /// From the memory before they came to the most while they listened.
    #[allow(clippy::cast_precision_loss, reason = "a figure for a person")]
    fn with_memory(self, (before, most): (i64, i64), clients: usize) -> Self {
        Self { bytes_each: (clients > 1).then(|| (most - before) as f64 / clients as f64), ..self }
    }
}

impl Plant {
    /// A reading of each meter, all with this number as their power.
    fn next_group(&mut self) -> Vec<Reading> {
        self.group += 1;
        let since = i64::from(self.group) * 1_000;
        let taken = Stamp {
            time: Timestamp::from_millis(NOON + since),
            since_boot_ms: (1_000_000 + since).unsigned_abs(),
            clock: ClockState::Synchronised,
        };
        let values: Vec<_> = (0..8_u8).map(|place| (place, Number::U64(u64::from(self.group)))).collect();
        let reading = |layout: &Arc<Layout>| Reading { layout: layout.clone(), taken, values: values.clone().into() };
        self.clock.advance_to(taken.time);
        self.layouts.iter().map(reading).collect()
    }

    /// Commits groups of readings; the most memory meanwhile.
    async fn commit(&mut self, groups: u32) -> i64 {
        let mut most = resident();
        for _ in 0..groups {
            let group = self.next_group();
            self.store.ingest().store(group).await.unwrap();
            tokio::time::sleep(BETWEEN).await;
            most = most.max(resident());
        }
        most
    }

    /// Has readings committed, and collects when each client of the feed and each dashboard heard of them.
    async fn round(&mut self, feeds: usize, sockets: usize) -> [Figures; 2] {
        let before = resident();
        let mut listening = Clients::start(self, Kind::Feed, feeds).await;
        let with_feeds = self.commit(FEEDS_ALONE).await;
        let mut looking = Clients::start(self, Kind::Socket, sockets).await;
        let groups = self.group + 1..=self.group + ROUNDS;
        let simulated = SIMULATED + groups.start()..=SIMULATED + groups.end();
        let with_all = self.commit(ROUNDS).await;
        let mut committed = self.committed.subscribe();
        let all = committed.wait_for(|committed| committed.contains_key(simulated.end()));
        let committed = tokio::time::timeout(PATIENCE, all).await.expect("the simulator goes on").unwrap().clone();
        let (heard, seen) = (listening.stop().await, looking.stop().await);
        let news = seen.iter().filter(|(number, _)| *number < SIMULATED).count();
        assert!(news >= sockets, "every dashboard is told of the measured meters");
        let feed = Figures::new(&heard, &committed, feeds, &[groups, simulated.clone()]);
        let socket = Figures::new(&seen, &committed, sockets, &[simulated]);
        [
            feed.with_memory((before, with_feeds), feeds),
            socket.with_memory((with_feeds, with_all.max(with_feeds)), sockets),
        ]
    }
}

/// How a client listens.
#[derive(Clone, Copy)]
enum Kind {
    Feed,
    Socket,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Socket => "socket",
        }
    }
}

/// The process of the clients of one kind.
struct Clients {
    process: Child,
    told: mpsc::Receiver<String>,
    _reading: JoinSet<()>,
}

impl Clients {
    async fn start(plant: &Plant, kind: Kind, count: usize) -> Self {
        let (address, count, group) = (plant.address.to_string(), count.to_string(), plant.group.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--listen-to", kind.as_str(), &address, &plant.token, &count, &group])
            .arg(&plant.ca)
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

    /// What arrived: the number and the instant.
    async fn stop(&mut self) -> Vec<(u32, i64)> {
        tokio::time::sleep(BETWEEN * 5).await;
        self.process.stdin.take().unwrap().write_all(b"stop\n").unwrap();
        let mut all = Vec::new();
        while let Some(line) = self.told.recv().await {
            let (number, at) = line.split_once(' ').unwrap();
            all.push((number.parse().unwrap(), at.parse().unwrap()));
        }
        assert!(self.process.wait().unwrap().success());
        all
    }
}

/// What a process of clients is asked for.
struct Asked {
    kind: Kind,
    address: SocketAddr,
    token: String,
    count: usize,
    /// The group before the first that all of them hear of.
    group: u32,
    connector: Option<TlsConnector>,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

impl Asked {
    fn read(arguments: &[String]) -> Self {
        let [kind, address, token, count, group, ca] = arguments else { panic!("{arguments:?}") };
        Self {
            kind: if kind == Kind::Feed.as_str() { Kind::Feed } else { Kind::Socket },
            address: address.parse().unwrap(),
            token: token.clone(),
            count: count.parse().unwrap(),
            group: group.parse().unwrap(),
            connector: (!ca.is_empty()).then(|| trusting(Path::new(ca))),
        }
    }

    async fn connect(&self) -> Box<dyn Wire> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match &self.connector {
            None => Box::new(stream),
            Some(connector) => {
                let name = ServerName::try_from("127.0.0.1").unwrap();
                Box::new(connector.connect(name, stream).await.unwrap())
            }
        }
    }
}

/// What clients tell one another.
#[derive(Clone)]
struct Signs {
    /// One listens.
    listens: mpsc::Sender<()>,
    /// All listen.
    begin: CancellationToken,
    stop: CancellationToken,
}

/// The clients: each tells when it heard of each number.
async fn listen(asked: Asked) {
    let ((listens, mut ready), asked) = (mpsc::channel(asked.count), Arc::new(asked));
    let signs = Signs { listens, begin: CancellationToken::new(), stop: CancellationToken::new() };
    let mut listening = JoinSet::new();
    for client in 0..asked.count {
        let (asked, signs) = (asked.clone(), signs.clone());
        listening.spawn(async move {
            match asked.kind {
                Kind::Feed => hear(&asked, signs).await,
                Kind::Socket => look(&asked, client == 0, signs).await,
            }
        });
    }
    for _ in 0..asked.count {
        ready.recv().await.unwrap();
    }
    println!("all listen");
    signs.begin.cancel();
    let mut line = String::new();
    let line = tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line).unwrap());
    assert!(line.await.unwrap() > 0, "the server's side has gone");
    signs.stop.cancel();
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

/// The whole numbers that stand behind this in a text.
fn numbers<'a>(text: &'a str, behind: &'a str) -> impl Iterator<Item = u32> + 'a {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    text.split(behind).skip(1).map(move |rest| digits(rest).parse().unwrap())
}

/// One feed: when the last reading of each number came.
async fn hear(asked: &Asked, signs: Signs) -> HashMap<u32, i64> {
    let mut stream = asked.connect().await;
    let ask = format!("GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", asked.token);
    stream.write_all(ask.as_bytes()).await.unwrap();
    let (mut arrived, mut text, mut part) = (HashMap::new(), String::new(), vec![0; 16_384]);
    let mut greeted = false;
    while let Some(read) = signs.stop.run_until_cancelled(stream.read(&mut part)).await {
        let (read, at) = (read.unwrap(), now_ns());
        assert!(read > 0, "the feed ended");
        text.push_str(std::str::from_utf8(&part[..read]).unwrap());
        if !greeted && text.contains("event: hello") {
            greeted = true;
            signs.listens.send(()).await.unwrap();
        }
        while let Some((event, rest)) = text.split_once("\n\n") {
            if event.contains("event: readings") {
                arrived.extend(numbers(event, "\"power_kw\":").map(|number| (number, at)));
            }
            text = rest.to_owned();
        }
    }
    arrived
}

type Socket = WebSocketStream<Box<dyn Wire>>;

/// One dashboard, which may be the simulator too: when the last update of each number came.
async fn look(asked: &Asked, simulates: bool, signs: Signs) -> HashMap<u32, i64> {
    let mut request = format!("ws://{}/ws", asked.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {}", asked.token).parse().unwrap());
    let (mut says, mut hears) = client_async(request, asked.connect().await).await.unwrap().0.split();
    says.send(Message::text(r#"{"type":"dashboard:register"}"#)).await.unwrap();
    let (acknowledge, acknowledged) = mpsc::channel(1);
    let (mut arrived, mut simulating) = (HashMap::new(), JoinSet::new());
    if simulates {
        simulating.spawn(simulate(says, acknowledged, asked.group, signs.begin));
    }
    while let Some(message) = signs.stop.run_until_cancelled(hears.next()).await {
        let (message, at) = (message.expect("the socket was closed").unwrap(), now_ns());
        let Message::Text(text) = message else { continue };
        if text.contains("\"dashboard:update\"") {
            arrived.extend(numbers(&text, "\"total_power_kw\":\"").map(|number| (number, at)));
        } else if text.contains("\"dashboard:initial\"") {
            signs.listens.send(()).await.unwrap();
        } else if text.contains("\"simulator:acknowledged\"") {
            assert!(text.contains("\"accepted\""), "{text}");
            acknowledge.send(()).await.unwrap();
        }
    }
    arrived
}

/// Says a reading for each group, at the pace of the meters.
async fn simulate(
    mut says: SplitSink<Socket, Message>,
    mut acknowledged: mpsc::Receiver<()>,
    group: u32,
    begin: CancellationToken,
) {
    begin.cancelled().await;
    for number in group + 1..=group + ROUNDS {
        let (time, kw) = (NOON + i64::from(number) * 1_000, SIMULATED + number);
        let said = format!(
            r#"{{"type":"simulator:reading","deviceId":"bench","totalPowerKw":{kw},"timestamp":{time},"readingInterval":1}}"#
        );
        says.send(Message::text(said)).await.unwrap();
        acknowledged.recv().await.unwrap();
        tokio::time::sleep(BETWEEN).await;
    }
}
