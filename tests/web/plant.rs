//! A store with a day in it, and the web before it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, Bytes};
use meterseal::agent::access::{self, AccessDone, AccessOrder};
use meterseal::agent::{alert_orders, proofs, simulators};
use meterseal::blocks;
use meterseal::clock::Clock;
use meterseal::evidence::dataset::part;
use meterseal::evidence::jobs::Jobs;
use meterseal::evidence::log::Publisher;
use meterseal::evidence::mark::Mark;
use meterseal::evidence::prove::Prover;
use meterseal::model::note::SignedCheckpoint;
use meterseal::model::{
    Anchor, AnchorState, AnchorStatus, Anchored, Attempt, Block, BlockFlags, Borders, BrokerStatus, Category, Cause,
    ChainEvidence, Change, Commissioning, Condition, Digest, Energy, Identity, Inclusion, Layout, LineStatus,
    MalformedMessage, Meter, MeterId, MeterStatus, Method, Number, OpenBlock, Origin, Part, PeakWindow, Power,
    Proposal, Ratio, Reading, RpcStatus, RunningJobs, Setup, Slot, SourcesStatus, Span, Timestamp, UpstreamsStatus,
};
use meterseal::store::{self, Role, Sealing, Store};
use meterseal::web::{
    self, AnchorNow, Asks, Connection, Exports, Query, ScanNow, Site, TestNow, Tls, UpstreamNow, Views,
};
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A Saturday in Kuala Lumpur, 15:18:12 local time, peak hours.
pub const NOW: &str = "2026-11-21T07:18:12Z";
pub const HALF_MS: i64 = 1_800_000;

pub fn at(text: &str) -> Timestamp {
    Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

pub fn id(text: &str) -> MeterId {
    text.parse().unwrap()
}

type Kept<T> = watch::Sender<Arc<T>>;

pub struct Plant {
    pub store: Store,
    pub clock: Clock,
    pub token: String,
    pub address: SocketAddr,
    pub open: watch::Sender<Arc<BTreeMap<MeterId, OpenBlock>>>,
    pub sources: watch::Sender<Arc<SourcesStatus>>,
    pub problems: watch::Sender<Arc<Vec<String>>>,
    /// Searches for meters that were asked for.
    pub scans: mpsc::Receiver<ScanNow>,
    pub tests: mpsc::Receiver<TestNow>,
    /// The export that runs.
    pub running: watch::Sender<Arc<RunningJobs>>,
    /// The newest checkpoint that may be shown.
    pub checkpoint: watch::Sender<Option<Arc<SignedCheckpoint>>>,
    pub anchor: watch::Sender<AnchorStatus>,
    /// Anchors that were asked for.
    pub anchors: mpsc::Receiver<AnchorNow>,
    pub upstreams: watch::Sender<Arc<UpstreamsStatus>>,
    /// What was wanted of upstreams.
    pub upstream_orders: mpsc::Receiver<UpstreamNow>,
    /// Changes that were asked for.
    pub edits: mpsc::Receiver<web::EditNow>,
    /// Polls that were asked for.
    pub registers: mpsc::Receiver<web::RegistersNow>,
    /// The webhook of the alerts.
    pub alerts: watch::Sender<Arc<meterseal::alerts::Config>>,
    /// Does what is asked about exports.
    asked: JoinSet<anyhow::Result<()>>,
    stop_asked: CancellationToken,
    pub stop: CancellationToken,
    pub tasks: JoinSet<std::io::Result<()>>,
    views: Views,
    config: web::Config,
    client: reqwest::Client,
    _kept: (Kept<Site>, Kept<Exports>),
    /// The meters of the config, which may change.
    pub measured: Kept<blocks::Config>,
    /// Those and the simulators, as blocks are made of them.
    pub known: simulators::Told,
    _proving: JoinSet<anyhow::Result<()>>,
    folder: tempfile::TempDir,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        assert!(self.text.ends_with('\n'), "an answer leaves its line open: {}", self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|fault| panic!("{fault}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Tokens that may do less than that of the owner; each is its own scope.
pub const LESSER: [&str; 3] = ["read", "export", "ingest"];

fn add_tokens(store: &Path) {
    let evidence = rusqlite::Connection::open(store.join("evidence.db")).unwrap();
    for scope in LESSER {
        let sql = "INSERT INTO tokens (name, scope, sha256, created) VALUES (?1, ?1, ?2, 0)";
        evidence.execute(sql, rusqlite::params![scope, Digest::of(scope.as_bytes()).as_bytes()]).unwrap();
    }
}

fn store_config(folder: &tempfile::TempDir) -> store::Config {
    store::Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(50),
        keep_raw: Duration::from_secs(90 * 86_400),
        max_disk: 1 << 30,
        reserve: 1 << 20,
    }
}

impl Plant {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Tls::Off).await
    }

    pub async fn start_at(listen: SocketAddr, tls: Tls) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(at(NOW));
        let config = store_config(&folder);
        let created = store::init(&config, &"plant-7".parse().unwrap(), &clock).unwrap();
        add_tokens(&config.path);
        Self::open(folder, clock, created.token, (listen, tls)).await
    }

    async fn open(folder: tempfile::TempDir, clock: Clock, token: String, (listen, tls): (SocketAddr, Tls)) -> Self {
        let store = Store::open(store_config(&folder), clock.clone(), None).unwrap();
        let site = watch::Sender::new(Arc::new(site()));
        let open = watch::Sender::new(Arc::new([(id("main"), open_block())].into()));
        let sources = watch::Sender::new(Arc::new(sources_status()));
        let problems = watch::Sender::default();
        let (scans, scans_asked) = mpsc::channel(1);
        let (tests, tests_asked) = mpsc::channel(1);
        let exports = watch::Sender::new(Arc::new(exports()));
        let (proofs, proofs_asked) = mpsc::channel(1);
        let (bulk, bulk_asked) = mpsc::channel(1);
        let running = watch::Sender::default();
        let anchor = watch::Sender::default();
        let checkpoint = watch::Sender::default();
        let (anchors, anchors_asked) = mpsc::channel(1);
        let upstreams = watch::Sender::default();
        let (upstream_orders, upstreams_asked) = mpsc::channel(1);
        let (alert_orders, alerts_asked) = mpsc::channel(1);
        let alerts = watch::Sender::default();
        let (edits, edits_asked) = mpsc::channel(1);
        let (registers, registers_asked) = mpsc::channel(1);
        let (wishes, access_asked) = mpsc::channel(access::ASKED);
        let gate = web::Gate::open(store.reader(), clock.clone(), wishes, web::SESSION_IDLE).await.unwrap();
        let jobs = Jobs {
            config: watch::Sender::default().subscribe(),
            reader: store.reader(),
            ledger: store.ledger(),
            clock: clock.clone(),
            rows_per_part: part::ROWS,
            told: running.clone(),
        };
        let mut asked = JoinSet::new();
        let of_store = (store.reader(), store.ledger());
        let stop_asked = CancellationToken::new();
        asked.spawn(meterseal::agent::exports::run(bulk_asked, jobs, stop_asked.clone()));
        let (config, reader) = (alerts.subscribe(), store.reader());
        let desk = alert_orders::Desk { config, reader, ledger: store.ledger(), clock: clock.clone() };
        asked.spawn(alert_orders::run(alerts_asked, desk, stop_asked.clone()));
        asked.spawn(access::run(access_asked, gate.clone(), of_store, stop_asked.clone()));
        let measured = watch::Sender::new(Arc::new(blocks()));
        let (simulators, simulated) = mpsc::channel(simulators::ASKED);
        let known = simulators::Told::new(&measured.borrow());
        let desk = simulators::Parts {
            config: measured.subscribe(),
            reader: store.reader(),
            ledger: store.ledger(),
            ingest: store.ingest(),
            clock: clock.clone(),
        };
        let desk = simulators::Desk::open(desk, known.clone()).await.unwrap();
        asked.spawn(desk.run(simulated, stop_asked.clone()));
        let views = Views {
            roster: known.roster.subscribe(),
            simulators,
            reader: store.reader(),
            clock: clock.clone(),
            site: site.subscribe(),
            meters: known.meters.subscribe(),
            open: open.subscribe(),
            sources: sources.subscribe(),
            problems: problems.subscribe(),
            checkpoint: checkpoint.subscribe(),
            scans,
            exports: exports.subscribe(),
            tests,
            proofs,
            running: running.subscribe(),
            bulk,
            anchor: anchor.subscribe(),
            anchors,
            upstreams: upstreams.subscribe(),
            upstream_orders,
            alert_orders,
            edits,
            certificate: web::Certificate::default(),
            config: watch::Sender::default().subscribe(),
            registers,
            log: web::LogLines::default(),
            started: (clock.now(), clock.since_boot_ms()),
            gate: gate.clone(),
        };
        let config = web::Config {
            listen,
            tls,
            folder: folder.path().join("tls"),
            names: vec!["proxy.example".into()],
            session_idle: web::SESSION_IDLE,
        };
        let door = web::bind(&config).await.unwrap();
        let (address, stop) = (door.address(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(web::run(door, views.clone(), stop.clone()));
        let mut proving = JoinSet::new();
        let publisher = Publisher::new(store.ledger(), Mark::at(folder.path().join("mark")));
        let prover = Prover { reader: store.reader(), publisher, anchoring: None };
        proving.spawn(proofs::run(proofs_asked, prover, CancellationToken::new()));
        // An error says that another test was first, which serves as well.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let kept = (site, exports);
        Self {
            store,
            clock,
            token,
            address,
            open,
            sources,
            problems,
            scans: scans_asked,
            tests: tests_asked,
            stop,
            tasks,
            views,
            config,
            client,
            running,
            checkpoint,
            anchor,
            anchors: anchors_asked,
            upstreams,
            upstream_orders: upstreams_asked,
            edits: edits_asked,
            registers: registers_asked,
            alerts,
            asked,
            stop_asked,
            _kept: kept,
            measured,
            known,
            _proving: proving,
            folder,
        }
    }

    /// The web goes away and comes back at the same address.
    pub async fn restart_web(mut self) -> Self {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap().unwrap();
        }
        self.stop = CancellationToken::new();
        let config = web::Config { listen: self.address, ..self.config.clone() };
        self.views.certificate = web::Certificate::default();
        self.tasks.spawn(web::run(web::bind(&config).await.unwrap(), self.views.clone(), self.stop.clone()));
        self
    }

    pub fn certificate(&self) -> &web::Certificate {
        &self.views.certificate
    }

    /// Where the self-signed certificate is kept.
    pub fn tls_folder(&self) -> &Path {
        &self.config.folder
    }

    /// The daemon ends in order and starts again, on a machine that has booted meanwhile. The clock goes on.
    pub async fn restart_daemon(mut self) -> Self {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap().unwrap();
        }
        self.stop_asked.cancel();
        while let Some(ended) = self.asked.join_next().await {
            ended.unwrap().unwrap();
        }
        let Self { store, clock, folder, token, config, .. } = self;
        store.close().await.unwrap();
        clock.reboot();
        Self::open(folder, clock, token, (config.listen, config.tls)).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn request(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.url(path))
    }

    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(self.url(path))
    }

    pub fn method(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// The audit entries of the log, the oldest first.
    pub fn audit(&self) -> Vec<Value> {
        let evidence = rusqlite::Connection::open(self.folder.path().join("store/evidence.db")).unwrap();
        let mut statement = evidence.prepare("SELECT record FROM entries WHERE kind = 5 ORDER BY idx").unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(|record| serde_json::from_str(&record.unwrap()).unwrap()).collect()
    }

    pub fn patch(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.patch(self.url(path)).bearer_auth(&self.token).body(body.to_string())
    }

    pub fn by(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), self.url(path))
    }

    /// Sets a PIN, as the command does it.
    pub async fn set_pin(&self, role: Role, pin: &str) {
        self.order(AccessOrder::Pin { role, pin: pin.parse().unwrap() }).await;
    }

    /// Does what a command does with PINs, TOTP and tokens.
    pub async fn order(&self, order: AccessOrder) -> AccessDone {
        let (reader, ledger) = (self.store.reader(), self.store.ledger());
        access::carry_out(&reader, &ledger, &self.clock, order, meterseal::model::Actor::here("user 0")).await.unwrap()
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, text: answer.text().await.unwrap() }
    }

    /// Asks with the token.
    pub async fn ask(&self, path: &str) -> Answer {
        self.send(self.request(path).bearer_auth(&self.token)).await
    }

    /// As [`Self::ask`], for what must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.ask(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    }

    /// One reading of `main` at `time`: watts as a float, Wh as an integer.
    pub async fn read(&self, time: Timestamp, watts: f32, energy_wh: u64) {
        self.clock.step_to(time);
        let values = vec![(0, Number::from_f32(watts).unwrap()), (1, Number::U64(energy_wh))];
        let reading = Reading { layout: layout(), taken: self.clock.stamp(), values: values.into() };
        self.store.ingest().store(vec![reading]).await.unwrap();
    }

    pub async fn seal(&self, blocks: Vec<Block>) {
        let through = blocks.iter().map(|block| (block.meter.clone(), block.span.end())).collect();
        let sealing = Sealing { blocks, sealed_through: through, ..Sealing::default() };
        self.store.ledger().seal(sealing).await.unwrap();
    }

    /// Signs the log as it is, and shows it.
    pub async fn sign(&self) -> SignedCheckpoint {
        let note = self.store.ledger().checkpoint().await.unwrap();
        self.checkpoint.send_replace(Some(Arc::new(note.clone())));
        note
    }

    /// Keeps an anchor, with something that shows it where it is in a block; its id.
    pub async fn anchor(&self, anchor: Anchor) -> u64 {
        let ledger = self.store.ledger();
        let id = ledger.add_anchor(anchor.clone()).await.unwrap();
        let is_in = matches!(anchor.state, AnchorState::Included | AnchorState::Final);
        let evidence = is_in.then(|| ChainEvidence {
            header: vec![0xc0, 0xff],
            index: 3,
            receipt: vec![vec![1]],
            transaction: vec![vec![2], vec![3]],
        });
        ledger.save_anchor(Anchor { id, ..anchor }, evidence).await.unwrap();
        id
    }

    pub async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap().unwrap();
        }
        self.store.close().await.unwrap();
    }
}

/// The account of [`anchor`].
pub const ACCOUNT: &str = "0x8ba1f109551bD432803012645Ac136ddd64DBA72";

/// An anchor of this checkpoint on Polygon in this state, with two transactions of this nonce where any is signed.
pub fn anchor(note: &SignedCheckpoint, state: AnchorState, nonce: u64) -> Anchor {
    let epoch = note.checkpoint.origin.rsplit('/').next().unwrap().to_owned();
    let time = at(NOW).plus_millis(-600_000);
    let attempt = |dearer: u64| Attempt {
        hash: B256::left_padding_from(&(nonce << 8 | dearer).to_be_bytes()),
        raw: Bytes::from_static(&[2, 0xc0]),
        nonce,
        max_fee: 60_500_000_000 * u128::from(1 + dearer),
        tip: 30_000_000_000,
        gas_limit: 40_000,
        signed: time,
        height: 78_000_000,
        sent: (state != AnchorState::Signed).then_some(time),
    };
    let inclusion = Inclusion {
        height: 79_000_000 + nonce,
        hash: B256::repeat_byte(0xb1),
        time: time.plus_millis(4_000),
        index: 3,
        transaction: attempt(1).hash,
        gas_used: 29_123,
        price: 31_000_000_000,
    };
    let is_mined = matches!(state, AnchorState::Included | AnchorState::Final | AnchorState::Reorganised);
    let what = Anchored::Checkpoint { epoch, size: note.checkpoint.size, note: note.note() };
    Anchor {
        state,
        attempts: if state == AnchorState::Queued { Vec::new() } else { vec![attempt(0), attempt(1)] },
        inclusion: is_mined.then_some(inclusion),
        ..Anchor::queued(what, 137, ACCOUNT.parse().unwrap(), None, time)
    }
}

/// Anchoring as it goes well.
pub fn anchor_status() -> AnchorStatus {
    let asked = at(NOW).plus_millis(-30_000);
    let rpc = |name: &str, trouble: Option<&str>| RpcStatus {
        name: name.to_owned(),
        height: Some(79_000_500),
        finalized: Some(79_000_498),
        answered: Some(asked),
        trouble: trouble.map(str::to_owned),
    };
    AnchorStatus {
        chain_id: 137,
        off: None,
        account: ACCOUNT.parse().ok(),
        contract: None,
        balance: Some((20_048_500_000_000_000_000, asked)),
        days_left: Some(812),
        next: Some(at(NOW).plus_millis(3_600_000)),
        rpcs: vec![rpc("https://polygon.example", None)],
        waiting: None,
    }
}

pub fn layout() -> Arc<Layout> {
    let slot = |name: &str, scale: &str| Slot {
        quantity: name.parse().unwrap(),
        scale: Ratio::parse(scale).unwrap(),
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: id("main"),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: vec![slot("power_kw", "0.001"), slot("energy_import_kwh", "0.001")],
    })
}

fn exports() -> Exports {
    let connection = |name: &str, off| Connection {
        name: name.to_owned(),
        version: 1,
        url: "http://127.0.0.1:8086".to_owned(),
        database: Some("plant".to_owned()),
        retention_policy: None,
        org: None,
        bucket: None,
        username: None,
        off,
        read_only: Some("m.toml".to_owned()),
    };
    let asks = Asks::Result { text: "SHOW DATABASES".to_owned() };
    let query = Query { name: "all".to_owned(), asks, read_only: Some("m.toml".to_owned()) };
    Exports { connections: vec![connection("historian", false), connection("old", true)], queries: vec![query] }
}

fn site() -> Site {
    Site {
        id: "plant-7".into(),
        name: "Shah Alam plant".into(),
        organization: "Acme Foods".into(),
        timezone: "Asia/Kuala_Lumpur".into(),
        block_minutes: 30,
        clock_offset_ms: 0,
        peaks: vec![peak()],
        simulated: false,
    }
}

fn peak() -> PeakWindow {
    PeakWindow { days: [true; 7], from_minute: 14 * 60, to_minute: 22 * 60 }
}

/// How blocks are made of the meters.
fn blocks() -> blocks::Config {
    blocks::Config {
        timezone: site().timezone,
        block_minutes: 30,
        clock_offset_ms: 0,
        peaks: vec![peak()],
        meters: meters(),
    }
}

fn meters() -> Vec<Meter> {
    let main = Meter {
        id: id("main"),
        name: "Main incomer".into(),
        category: Category::Cons,
        origin: Origin::Modbus { line: "msb".parse().unwrap(), unit: 1, template: "own".into(), verified: false },
        interval_ms: Some(1_000),
        peak_target: Some(Energy::from_uwh(120_000_000_000)),
        simulated: false,
    };
    let origin = Origin::Sum { add: vec![id("main")], subtract: Vec::new() };
    let sum = Meter { id: id("total"), name: "Plant total".into(), origin, interval_ms: None, ..main.clone() };
    vec![main, sum]
}

/// The main meter has got another firmware.
pub fn commissioning() -> Commissioning {
    let setup = Setup {
        line: "msb".parse().unwrap(),
        wire: "192.0.2.10:502".into(),
        unit: 1,
        template: Some("acme".into()),
        template_sha256: Digest::of(b"acme"),
        ct_ratio: Ratio::parse("200/5").unwrap(),
        vt_ratio: Ratio::ONE,
        invert: false,
        category: Category::Cons,
    };
    let identity = Identity { serial_number: Some("4711".into()), firmware: Some("1.2".into()), ..Identity::default() };
    let change = Change { what: Part::Firmware, from: Some("1.1".into()), to: Some("1.2".into()), silent: true };
    Commissioning {
        meter: id("main"),
        since: at(NOW),
        setup,
        identity: Some(identity),
        cause: Cause::Changed,
        changes: vec![change],
    }
}

pub fn sources_status() -> SourcesStatus {
    let meter = MeterStatus {
        condition: Condition::Answering,
        last_answer: Some(at(NOW)),
        refused_registers: vec![52],
        polls: 10,
        answers: 9,
        timeouts: 1,
        ..MeterStatus::starting(at(NOW))
    };
    let line = LineStatus {
        connected: true,
        since: at(NOW),
        problem: None,
        connects: 1,
        requests: 20,
        late_answers: 2,
        damaged_answers: 3,
    };
    SourcesStatus {
        brokers: [("plant".parse().unwrap(), broker_status())].into(),
        meters: [(id("main"), meter)].into(),
        lines: [("msb".parse().unwrap(), line)].into(),
        attempts: 10,
        waits: 0,
    }
}

fn broker_status() -> BrokerStatus {
    BrokerStatus {
        connected: true,
        since: at(NOW),
        problem: None,
        connects: 2,
        messages: 40,
        last_message: Some(at(NOW)),
        silent: false,
        repeated: 3,
        undated: 2,
        malformed: 1,
        last_malformed: Some(MalformedMessage {
            topic: "plant/oven".to_owned(),
            time: at(NOW),
            reason: "not JSON".to_owned(),
            payload: "{\"p\":".to_owned(),
        }),
        unasked: 0,
        proposals: vec![Proposal {
            name: "plant/press 3".to_owned(),
            topic: "plant/press 3".to_owned(),
            first: at(NOW),
            last: at(NOW),
            messages: 7,
            quantities: vec!["power_kw".parse().unwrap()],
        }],
        unnamed: 0,
    }
}

pub fn open_block() -> OpenBlock {
    let start = at("2026-11-21T07:00:00Z");
    OpenBlock {
        meter: id("main"),
        span: Span::new(start, start.plus_millis(HALF_MS)).unwrap(),
        nominal_ms: 1_800_000,
        at: at(NOW),
        category: Category::Cons,
        import: Some(Energy::from_uwh(80_000_000_001)),
        export: None,
        max_power: Some(Power::from_mw(300_000_500)),
        min_power: Some(Power::from_mw(200_000_000)),
        covered_ms: 1_092_000,
        coverage: 10_000,
        method: Method::Counter,
        is_peak_hour: true,
        flags: BlockFlags::NONE,
        projected: Some(Energy::from_uwh(132_000_000_000)),
        remaining_ms: 708_000,
        peak_target: Some(Energy::from_uwh(120_000_000_000)),
        shed: Some(Power::from_mw(61_016_949)),
    }
}

/// A sealed block of `main`; `None` for one without readings.
pub fn block(start: Timestamp, import_uwh: Option<i64>) -> Block {
    let power = import_uwh.map(|_| Power::from_mw(100_000_000));
    Block {
        meter: id("main"),
        span: Span::new(start, start.plus_millis(HALF_MS)).unwrap(),
        nominal_ms: 1_800_000,
        revision: 0,
        category: Category::Cons,
        import: import_uwh.map(Energy::from_uwh),
        export: None,
        max_power: power,
        min_power: power,
        covered_ms: if import_uwh.is_some() { HALF_MS } else { 0 },
        coverage: if import_uwh.is_some() { 10_000 } else { 0 },
        method: Method::Counter,
        is_peak_hour: false,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(b"readings"),
        through_seq: 7,
        borders: Borders::default(),
        zone: "Asia/Kuala_Lumpur".into(),
        interval_ms: 1_000,
        template: None,
        sealed: start.plus_millis(HALF_MS + 10_000),
    }
}
