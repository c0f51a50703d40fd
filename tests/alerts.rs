//! Alerts from their cause to a webhook on a real socket, before a real store, with time set by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meterseal::alerts::{self, Config, Views, Webhook};
use meterseal::clock::Clock;
use meterseal::model::{
    Alert, AlertKind, BlockFlags, Category, Condition, Energy, Meter, MeterId, MeterStatus, Method, OpenBlock, Origin,
    SourcesStatus, Span, Timestamp,
};
use meterseal::store::{self, Store, StoreError};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
const START: Timestamp = Timestamp::from_millis(1_763_703_000_000);
const BODY: &str = r#"{"to":"{{contact}}","message":"{{text}}","kind":"{{kind}}"}"#;

struct Plant {
    store: Store,
    config: store::Config,
    clock: Clock,
    settings: watch::Sender<Arc<Config>>,
    meters: watch::Sender<Arc<Vec<Meter>>>,
    open: watch::Sender<Arc<BTreeMap<MeterId, OpenBlock>>>,
    sources: watch::Sender<Arc<SourcesStatus>>,
    problem: watch::Sender<Option<String>>,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), StoreError>>,
    folder: tempfile::TempDir,
}

impl Plant {
    fn start(webhook: Option<Webhook>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = store::Config {
            path: folder.path().join("store"),
            commit_every: Duration::from_secs(1),
            keep_raw: Duration::from_secs(90 * 86_400),
            max_disk: 1 << 30,
            reserve: 1 << 20,
        };
        let clock = Clock::manual(START.plus_millis(600_000));
        store::init(&config, &"plant-7".parse().unwrap(), &clock).unwrap();
        Self::open(config, clock, webhook, folder)
    }

    fn open(config: store::Config, clock: Clock, webhook: Option<Webhook>, folder: tempfile::TempDir) -> Self {
        let store = Store::open(config.clone(), clock.clone(), None).unwrap();
        let plant = Self {
            settings: watch::Sender::new(Arc::new(Config { webhook })),
            meters: watch::Sender::new(Arc::new(vec![meter()])),
            open: watch::Sender::default(),
            sources: watch::Sender::default(),
            problem: watch::Sender::new(None),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            store,
            config,
            clock,
            folder,
        };
        plant.run()
    }

    fn run(mut self) -> Self {
        let views = Views {
            config: self.settings.subscribe(),
            meters: self.meters.subscribe(),
            open: self.open.subscribe(),
            sources: self.sources.subscribe(),
            sealing: watch::Sender::new(None).subscribe(),
            problem: self.problem.clone(),
        };
        let (reader, ledger) = (self.store.reader(), self.store.ledger());
        self.tasks.spawn(alerts::run(views, reader, ledger, self.clock.clone(), self.stop.clone()));
        self
    }

    async fn restart(mut self) -> Self {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap().unwrap();
        }
        let webhook = self.settings.borrow().webhook.clone();
        self.store.close().await.unwrap();
        Self::open(self.config, self.clock, webhook, self.folder)
    }

    /// The energy of the running block that began at `start` stands at the target.
    fn pass_target(&self, start: Timestamp) {
        self.open.send_replace(Arc::new([("main".parse().unwrap(), open_block(start))].into()));
    }

    /// The alerts, once they are as wanted.
    async fn alerts(&self, wanted: impl Fn(&[Alert]) -> bool) -> Vec<Alert> {
        let seen = async {
            loop {
                let alerts = self.store.reader().alerts(false, 100).await.unwrap();
                if wanted(&alerts) {
                    return alerts;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, seen).await.expect("the alerts come")
    }

    /// Moves time on until the webhook is tried again.
    async fn next_try(&self, hook: &mut Hook) -> Try {
        let tried = async {
            loop {
                tokio::select! {
                    tried = hook.tries.recv() => return tried.unwrap(),
                    () = tokio::time::sleep(Duration::from_millis(5)) => self.clock.advance(Duration::from_secs(1)),
                }
            }
        };
        timeout(PATIENCE, tried).await.expect("the webhook is tried")
    }
}

fn meter() -> Meter {
    Meter {
        id: "main".parse().unwrap(),
        name: "Main \"incomer\"".into(),
        category: Category::Cons,
        origin: Origin::Sum { add: Vec::new(), subtract: Vec::new() },
        interval_ms: Some(1_000),
        peak_target: Some(Energy::from_uwh(120_000_000_000)),
        simulated: false,
    }
}

fn open_block(start: Timestamp) -> OpenBlock {
    OpenBlock {
        meter: "main".parse().unwrap(),
        span: Span::new(start, start.plus_millis(1_800_000)).unwrap(),
        nominal_ms: 1_800_000,
        at: start.plus_millis(1_500_000),
        category: Category::Cons,
        import: Some(Energy::from_uwh(121_000_000_000)),
        export: None,
        max_power: None,
        min_power: None,
        covered_ms: 1_500_000,
        coverage: 10_000,
        method: Method::Counter,
        is_peak_hour: true,
        flags: BlockFlags::NONE,
        projected: Some(Energy::from_uwh(140_000_000_000)),
        remaining_ms: 300_000,
        peak_target: meter().peak_target,
        shed: None,
    }
}

/// What the webhook was given.
struct Try {
    head: String,
    body: Value,
}

/// A webhook that answers with the statuses it is told, then with 204.
struct Hook {
    url: String,
    tries: mpsc::Receiver<Try>,
    _tasks: JoinSet<()>,
}

/// Head and body of a request, once all of it is there.
fn asked(bytes: &[u8]) -> Option<(String, Value)> {
    let (head, body) = std::str::from_utf8(bytes).ok()?.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    (length == Some(body.len())).then(|| (head.to_owned(), serde_json::from_str(body).unwrap_or_default()))
}

impl Hook {
    async fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?key=secret", listener.local_addr().unwrap());
        let (send, tries) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut statuses = statuses.iter();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = Vec::new();
                let asked = loop {
                    let read = stream.read_buf(&mut bytes).await.unwrap_or(0);
                    if let Some(asked) = asked(&bytes) {
                        break Some(asked);
                    }
                    if read == 0 {
                        break None;
                    }
                };
                // A client that went away before it had asked comes again on another connection.
                let Some((head, body)) = asked else { continue };
                let status = statuses.next().unwrap_or(&204);
                let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    continue;
                }
                stream.shutdown().await.ok();
                send.send(Try { head, body }).await.unwrap();
            }
        });
        Self { url, tries, _tasks: tasks }
    }

    fn webhook(&self) -> Option<Webhook> {
        Some(Webhook { url: self.url.clone(), body: BODY.into(), contact: "+60 12".into() })
    }

    fn has_more(&mut self) -> bool {
        self.tries.try_recv().is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_passed_reaches_the_webhook_once() {
    let mut hook = Hook::start(&[]).await;
    let plant = Plant::start(hook.webhook());
    plant.pass_target(START);
    let tried = timeout(PATIENCE, hook.tries.recv()).await.unwrap().unwrap();
    let message = "Main \"incomer\": the running block has passed its target of 120 kWh: 121 kWh with 5 min left.";
    assert_eq!(tried.body, serde_json::json!({ "to": "+60 12", "message": message, "kind": "target_at_risk" }));
    assert!(tried.head.to_lowercase().contains("content-type: application/json"), "{}", tried.head);
    let alerts = plant.alerts(|alerts| alerts.iter().all(|alert| alert.delivered.is_some())).await;
    assert_eq!((alerts.len(), alerts[0].occasion, alerts[0].cleared), (1, START, None));

    let plant = plant.restart().await;
    plant.pass_target(START);
    let next = START.plus_millis(1_800_000);
    plant.pass_target(next);
    let alerts = plant.alerts(|alerts| alerts.len() == 2 && alerts[0].delivered.is_some()).await;
    assert_eq!((alerts[0].occasion, alerts[0].cleared), (next, None));
    assert!(alerts[1].cleared.is_some());
    hook.tries.recv().await.unwrap();
    assert!(!hook.has_more());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_not_well_is_tried_until_it_takes_the_alert() {
    let mut hook = Hook::start(&[503, 429, 500]).await;
    let plant = Plant::start(hook.webhook());
    plant.pass_target(START);
    let first = plant.next_try(&mut hook).await;
    let told = plant.problem.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(told.contains("503") && !told.contains("secret"), "{told}");
    // What is owed outlives the program.
    let plant = plant.restart().await;
    let second = plant.next_try(&mut hook).await;
    let key = |tried: &Try| tried.head.lines().find(|line| line.starts_with("idempotency-key")).map(ToOwned::to_owned);
    assert!(key(&first).is_some() && key(&first) == key(&second));
    plant.next_try(&mut hook).await;
    plant.next_try(&mut hook).await;
    plant.alerts(|alerts| alerts[0].delivered.is_some()).await;
    timeout(PATIENCE, plant.problem.subscribe().wait_for(Option::is_none)).await.unwrap().unwrap();
    assert!(!hook.has_more());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_is_refused_does_not_hold_up_the_next() {
    let mut hook = Hook::start(&[422]).await;
    let plant = Plant::start(None);
    plant.pass_target(START);
    plant.alerts(|alerts| alerts.len() == 1).await;
    plant.pass_target(START.plus_millis(1_800_000));
    plant.alerts(|alerts| alerts.len() == 2).await;
    plant.settings.send_replace(Arc::new(Config { webhook: hook.webhook() }));
    let alerts = plant.alerts(|alerts| alerts.iter().any(|alert| alert.delivered.is_some())).await;
    assert_eq!((alerts[1].delivered, alerts[0].delivered.is_some()), (None, true), "the older one was refused");
    let told = plant.problem.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(told.contains("refuses alert 1") && told.contains("422"), "{told}");
    hook.tries.recv().await.unwrap();
    hook.tries.recv().await.unwrap();
    // Somebody mended it: it is offered again in a quarter of an hour.
    plant.clock.advance(Duration::from_secs(900));
    plant.next_try(&mut hook).await;
    plant.alerts(|alerts| alerts.iter().all(|alert| alert.delivered.is_some())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_another_room_raises_reaches_the_webhook_without_a_restart() {
    let mut hook = Hook::start(&[]).await;
    let plant = Plant::start(hook.webhook());
    // The task has looked once, found its own alert, and waits.
    plant.pass_target(START);
    timeout(PATIENCE, hook.tries.recv()).await.unwrap().unwrap();
    plant.alerts(|alerts| alerts.len() == 1 && alerts[0].delivered.is_some()).await;
    let refused = Alert::new(
        AlertKind::ConfigRefused,
        None,
        START,
        START.plus_millis(600_000),
        "The new config has 2 faults.".into(),
    );
    plant.store.ledger().raise(refused).await.unwrap();
    let tried = plant.next_try(&mut hook).await;
    assert_eq!(tried.body["kind"], "config_refused");
    plant.alerts(|alerts| alerts.iter().all(|alert| alert.delivered.is_some())).await;
    assert!(!hook.has_more());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_meter_is_told_and_its_return_too() {
    let plant = Plant::start(None);
    let show = |condition| {
        let status = MeterStatus { condition, ..MeterStatus::starting(START) };
        let meters = [("main".parse().unwrap(), status)].into();
        plant.sources.send_replace(Arc::new(SourcesStatus { meters, ..SourcesStatus::default() }));
    };
    show(Condition::Silent);
    let passes = async {
        loop {
            plant.clock.advance(Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = passes => {}
        _ = async {
            let alerts = plant.alerts(|alerts| alerts.len() == 1).await;
            assert_eq!((alerts[0].kind, alerts[0].occasion), (AlertKind::MeterSilent, START));
            show(Condition::Answering);
            plant.alerts(|alerts| alerts[0].cleared.is_some()).await
        } => {}
    }
}
