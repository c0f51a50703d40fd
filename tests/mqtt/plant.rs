//! The sources listening to a broker, on a store of their own, and somebody who publishes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use meterseal::clock::Clock;
use meterseal::model::{BrokerStatus, Category, Condition, Ratio, SourcesStatus, StoredReading, Timestamp};
use meterseal::sources::mqtt::formats::Format;
use meterseal::sources::mqtt::{Broker, Login, Publisher, Subscription, Tls, Version};
use meterseal::sources::{Config, Told, run};
use meterseal::store::{self, Store};
use rumqttc_v4::{AsyncClient, Event, MqttOptions, Packet, PublishOptions, SessionMode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::mosquitto::{Mosquitto, PASSWORD, USERNAME};

/// Longer than anything takes that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A broker of the config: Acrel meters `m0`, `m1` … with the serial numbers `S0`, `S1` …
pub fn broker(mosquitto: &Mosquitto, port: u16, meters: usize) -> Broker {
    Broker {
        name: "plant".parse().unwrap(),
        host: "localhost".to_owned(),
        port,
        tls: mosquitto.ca().map(|ca| Tls { ca: Some(ca), client: None }),
        version: Version::V311,
        client_id: "meterseal-test".to_owned(),
        login: mosquitto
            .is_secured()
            .then(|| Login { username: USERNAME.to_owned(), password: Some(PASSWORD.to_owned()) }),
        keep_alive: Duration::from_secs(5),
        max_packet: 10_000,
        status_topic: "meterseal/test/status".to_owned(),
        subscriptions: vec![Subscription { topic: "platform/+/meter".to_owned(), format: Format::Acrel }],
        meters: (0..meters).map(|at| publisher(&format!("m{at}"), &format!("S{at}"))).collect(),
        simulated: false,
    }
}

pub fn publisher(id: &str, matches: &str) -> Publisher {
    Publisher {
        id: id.parse().unwrap(),
        matches: matches.to_owned(),
        category: Category::Cons,
        interval: None,
        ct_ratio: Ratio::ONE,
        vt_ratio: Ratio::ONE,
        invert: false,
    }
}

pub struct Plant {
    pub status: watch::Receiver<Arc<SourcesStatus>>,
    config: watch::Sender<Arc<Config>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    store: Store,
    kept: store::Config,
    _folder: Arc<tempfile::TempDir>,
}

impl Plant {
    pub fn start(broker: Broker) -> Self {
        Self::start_by(Clock::trusted(), broker)
    }

    pub fn start_by(clock: Clock, broker: Broker) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let kept = store::Config {
            path: folder.path().join("store"),
            commit_every: Duration::from_millis(100),
            keep_raw: Duration::from_secs(10 * 86_400),
            max_disk: 1 << 30,
            reserve: 1 << 20,
        };
        store::init(&kept, &"test".parse().unwrap(), &clock).unwrap();
        Self::on(kept, folder, clock, broker)
    }

    fn on(kept: store::Config, folder: Arc<tempfile::TempDir>, clock: Clock, broker: Broker) -> Self {
        let store = Store::open(kept.clone(), clock.clone(), None).unwrap();
        let config = Config { brokers: vec![broker], ..Config::default() };
        let (config, follow) = watch::channel(Arc::new(config));
        let (tell, status) = watch::channel(Arc::new(SourcesStatus::default()));
        let (_, orders) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let told = Told { status: tell, ..Told::default() };
        tasks.spawn(run(follow, store.ingest(), clock, told, orders, stop.clone()));
        Self { status, config, stop, tasks, store, kept, _folder: folder }
    }

    /// Stops listening; the store is closed and stays.
    pub async fn left(mut self) -> Left {
        self.stop.cancel();
        timeout(PATIENCE, self.tasks.join_next()).await.expect("the sources did not stop").unwrap().unwrap();
        self.store.close().await.unwrap();
        Left { kept: self.kept, folder: self._folder }
    }

    /// Waits until this many readings have been committed since the start.
    pub async fn until_committed(&mut self, wanted: usize) {
        let mut committed = self.store.reader().committed();
        let enough = async {
            while usize::try_from(self.store.reader().health().readings).unwrap() < wanted {
                committed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE * 2, enough).await.expect("readings are missing");
    }

    /// As after a SIGHUP with another config.
    pub fn configure(&self, broker: Broker) {
        self.config.send_replace(Arc::new(Config { brokers: vec![broker], ..Config::default() }));
    }

    /// As after `kill -9`: what was under way is cut off, and the same store is opened again.
    pub async fn killed_and_started_again(mut self, broker: Broker) -> Self {
        self.tasks.shutdown().await;
        self.store.close().await.unwrap();
        Self::on(self.kept, self._folder, Clock::trusted(), broker)
    }

    /// Waits until the broker's status is as wanted, and gives it.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&BrokerStatus) -> bool) -> BrokerStatus {
        let is = |status: &Arc<SourcesStatus>| status.brokers.values().next().is_some_and(&wanted);
        if let Ok(Ok(status)) = timeout(PATIENCE, self.status.wait_for(is)).await {
            return status.brokers.values().next().unwrap().clone();
        }
        panic!("{what} did not come about: {:#?}", self.status.borrow());
    }

    /// Waits until the first meter does as wanted.
    pub async fn until_meter(&mut self, what: &str, wanted: Condition) {
        let does = |status: &Arc<SourcesStatus>| status.meters.values().next().is_some_and(|m| m.condition == wanted);
        if timeout(PATIENCE, self.status.wait_for(does)).await.is_err() {
            panic!("{what} did not come about: {:#?}", self.status.borrow());
        }
    }

    /// Waits until this many readings are in the store.
    pub async fn until_stored(&self, wanted: usize, meters: usize) -> BTreeMap<(usize, i64), Vec<StoredReading>> {
        let looked = async {
            loop {
                let stored = self.stored(meters).await;
                if stored.values().map(Vec::len).sum::<usize>() >= wanted {
                    return stored;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        match timeout(PATIENCE, looked).await {
            Ok(stored) => stored,
            Err(_) => panic!(
                "{} of {wanted} readings: {:#?}",
                self.stored(meters).await.values().map(Vec::len).sum::<usize>(),
                self.status.borrow()
            ),
        }
    }

    /// All readings, by meter and time.
    pub async fn stored(&self, meters: usize) -> BTreeMap<(usize, i64), Vec<StoredReading>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for meter in 0..meters {
            let id = format!("m{meter}").parse().unwrap();
            let mut stream = self.store.reader().readings(id, Timestamp::from_millis(0), Timestamp::MAX);
            while let Some(batch) = stream.next().await {
                for reading in batch.unwrap() {
                    all.entry((meter, reading.time.as_millis())).or_default().push(reading);
                }
            }
        }
        all
    }

    pub async fn end(mut self) {
        self.stop.cancel();
        timeout(PATIENCE, self.tasks.join_next()).await.expect("the sources did not stop").unwrap().unwrap();
        self.store.close().await.unwrap();
    }
}

/// A plant that nobody listens to.
pub struct Left {
    kept: store::Config,
    folder: Arc<tempfile::TempDir>,
}

impl Left {
    pub fn again(self, broker: Broker) -> Plant {
        Plant::on(self.kept, self.folder, Clock::trusted(), broker)
    }
}

/// A client that publishes at QoS 1 and knows what the broker has acknowledged.
pub struct Feeder {
    client: AsyncClient,
    _tasks: JoinSet<()>,
}

/// Messages under way at a time.
const WINDOW: usize = 40;

impl Feeder {
    pub fn start(mosquitto: &Mosquitto) -> Self {
        let mut options = MqttOptions::new("feeder", ("localhost", mosquitto.port));
        options.set_session_mode(SessionMode::Persistent).set_keep_alive(5).set_max_packet_size(100_000, 100_000);
        if let Some(ca) = mosquitto.ca() {
            options.set_credentials(USERNAME, PASSWORD.to_owned());
            let (port, connector) = (mosquitto.port, connector(&ca));
            options.set_socket_connector(move |_, _| {
                let connector = connector.clone();
                async move {
                    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
                }
            });
        }
        let (client, mut events) = AsyncClient::builder(options).build();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                if events.poll().await.is_err() {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
        Self { client, _tasks: tasks }
    }

    /// Publishes and waits until the broker has acknowledged every one; again what a lost session took away.
    pub async fn publish(&self, messages: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let mut under_way = FuturesUnordered::new();
        for (topic, payload) in messages {
            if under_way.len() >= WINDOW {
                under_way.next().await;
            }
            under_way.push(self.publish_one(topic, payload, PublishOptions::at_least_once()));
        }
        while under_way.next().await.is_some() {}
    }

    /// Publishes a message that the broker keeps for new subscribers.
    pub async fn retain(&self, topic: &str, payload: &[u8]) {
        let options = PublishOptions::at_least_once().retained();
        self.publish_one(topic.to_owned(), payload.to_vec(), options).await;
    }

    /// Waits for a message on a topic.
    pub async fn heard(mosquitto: &Mosquitto, topic: &str, wanted: &str) {
        let mut options = MqttOptions::new(format!("listener-{wanted}"), ("localhost", mosquitto.port));
        options.set_keep_alive(5);
        let (client, mut events) = AsyncClient::builder(options).build();
        client.subscribe(topic, rumqttc_v4::QoS::AtLeastOnce).await.unwrap();
        let heard = async {
            loop {
                match events.poll().await.unwrap() {
                    Event::Incoming(Packet::Publish(message)) if message.payload == wanted.as_bytes() => return,
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{wanted} was not heard on {topic}"));
    }

    async fn publish_one(&self, topic: String, payload: Vec<u8>, options: PublishOptions) {
        loop {
            let sent = self.client.publish_tracked(topic.clone(), payload.clone(), options).await.unwrap();
            if timeout(PATIENCE, sent.wait_async()).await.expect("the broker acknowledges nothing").is_ok() {
                return;
            }
        }
    }
}

fn connector(ca: &[u8]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// A network between us and the broker, which can be cut or freeze.
pub struct Network {
    pub port: u16,
    cut: Arc<AtomicBool>,
    harm: watch::Sender<Harm>,
    _tasks: JoinSet<()>,
}

/// What becomes of the connections that are open.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    End,
    /// They stay open, and nothing passes any more.
    Freeze,
}

impl Network {
    pub async fn to(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?.port();
        let cut = Arc::new(AtomicBool::new(false));
        let harm = watch::Sender::new(Harm::End);
        let (is_cut, follow) = (cut.clone(), harm.subscribe());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut follow = follow.clone();
                follow.mark_unchanged();
                if is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                connections.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = follow.changed() => {
                            if *follow.borrow() == Harm::Freeze {
                                std::future::pending().await
                            }
                        }
                    }
                });
            }
        });
        Ok(Self { port: own, cut, harm, _tasks: tasks })
    }

    /// Ends all connections; nobody gets through until it is mended.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.harm.send_replace(Harm::End);
    }

    /// Nothing passes any more on the connections that are open; new ones are fine.
    pub fn freeze(&self) {
        self.harm.send_replace(Harm::Freeze);
    }

    pub fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }
}
