//! A gateway and one server, with a network between them.

use std::collections::BTreeSet;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{DeadLetter, Stream, UpstreamStatus};
use meterseal::upstream::{Config, Upstream};

use crate::gateway::{self, Gateway, Records, differences};
use crate::listener::{self, Listener};
use crate::mosquitto::Mosquitto;
use crate::postgres::Postgres;
use crate::proxy::{Faults, Proxy};
use crate::receiver::Receiver;
use crate::upstreams;
use crate::{held, local};

/// What is on the other side.
pub enum Server {
    /// It keeps all in the folder.
    Cloud(Receiver, #[allow(dead_code, reason = "it is deleted with this")] tempfile::TempDir),
    Database(Box<Postgres>),
    Broker(Mosquitto, Listener),
}

impl Server {
    pub fn cloud() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::Cloud(Receiver::start(folder.path()), folder)
    }

    pub fn database() -> Self {
        Self::Database(Box::new(Postgres::start()))
    }

    pub fn broker() -> Self {
        let broker = Mosquitto::start(listener::SETTINGS);
        let mut listener = Listener::default();
        listener.listen(broker.port);
        Self::Broker(broker, listener)
    }

    fn port(&self) -> u16 {
        match self {
            Self::Cloud(receiver, _) => receiver.port,
            Self::Database(postgres) => postgres.port,
            Self::Broker(broker, _) => broker.port,
        }
    }

    /// The upstream that leads to it by way of `port`.
    fn upstream(&self, port: u16) -> Upstream {
        match self {
            Self::Cloud(..) => upstreams::cloud(port),
            Self::Database(_) => upstreams::database(port),
            Self::Broker(..) => upstreams::broker(port),
        }
    }

    pub fn held(&self, whose: &str) -> Records {
        match self {
            Self::Cloud(receiver, _) => held::by_receiver(receiver),
            Self::Database(postgres) => held::by_postgres(postgres),
            Self::Broker(_, listener) => listener.records(whose),
        }
    }
}

pub struct House {
    pub folder: tempfile::TempDir,
    pub server: Server,
    pub network: Proxy,
    pub clock: Clock,
    /// Of the upstream.
    pub name: String,
}

impl House {
    pub fn new(server: Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = gateway::make(folder.path());
        if let Server::Cloud(receiver, _) = &server {
            receiver.know(&key);
        }
        let network = Proxy::start(local(server.port()), Faults::default(), 1);
        let name = server.upstream(0).name;
        Self { folder, server, network, clock: Clock::trusted(), name }
    }

    pub fn cloud(&self) -> &Receiver {
        let Server::Cloud(receiver, _) = &self.server else { panic!("it has another server") };
        receiver
    }

    pub fn postgres(&self) -> &Postgres {
        let Server::Database(postgres) = &self.server else { panic!("it has another server") };
        postgres
    }

    pub fn upstream(&self) -> Upstream {
        self.server.upstream(self.network.port())
    }

    pub async fn open(&self) -> Gateway {
        self.open_with(self.upstream()).await
    }

    pub async fn open_with(&self, upstream: Upstream) -> Gateway {
        let config = Config { upstreams: vec![upstream] };
        Gateway::open(self.folder.path(), self.clock.clone(), config).await
    }

    /// All that the gateway holds is there, and nothing else.
    pub async fn check(&self, gateway: &Gateway) {
        self.check_all_but(gateway, &BTreeSet::new()).await;
    }

    /// But for these readings.
    pub async fn check_all_but(&self, gateway: &Gateway, readings: &BTreeSet<u64>) {
        let mut wanted = gateway.records().await;
        wanted.retain(|(_, stream, seq), _| *stream != Stream::Readings || !readings.contains(seq));
        let whose = gateway.store.identity().gateway.clone();
        let mut differs = differences(&self.server.held(&whose), &wanted);
        // What the broker has handed on may still lie before the listener.
        for _ in 0..500 {
            if differs.is_empty() || !matches!(self.server, Server::Broker(..)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            differs = differences(&self.server.held(&whose), &wanted);
        }
        assert!(differs.is_empty(), "{differs:#?}");
    }

    pub async fn letters(&self, gateway: &Gateway) -> Vec<DeadLetter> {
        gateway.store.reader().dead_letters(&self.name, None, 1_000).await.unwrap()
    }
}

/// What a person is told.
pub fn problem(status: &UpstreamStatus) -> String {
    status.problem.clone().unwrap_or_default()
}
