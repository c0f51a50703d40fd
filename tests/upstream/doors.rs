//! Certificates, passwords and clocks that are wrong for a while: nothing is lost by them, a person is told, and all goes on
//! when they are right.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{Stream, UpstreamOrder, UpstreamState, UpstreamStatus};
use meterseal::upstream::tls::Tls;
use meterseal::upstream::{Config, Kind, Upstream, https, mqtt, postgres};
use zeroize::Zeroizing;

use crate::collector::Collector;
use crate::gateway::{self, Gateway};
use crate::house::{House, Server, problem};
use crate::mosquitto::Mosquitto;
use crate::postgres::{DATABASE, PASSWORD, Postgres, USER};
use crate::proxy::{Faults, Proxy};
use crate::receiver::{self, Options, Receiver, ServerTls};
use crate::upstreams::{self, database_by};
use crate::{held, local};

/// An authority, and certificates for `localhost` by it: one that is good, and one whose time is over.
struct Certificates {
    ca: Vec<u8>,
    key: Vec<u8>,
    good: Vec<u8>,
    expired: Vec<u8>,
}

impl Certificates {
    fn make(folder: &Path) -> Self {
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.args(arguments.split(' ')).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
            assert!(command.status().expect("openssl is missing: run tests/setup").success(), "{arguments}");
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        fs::write(folder.join("usage"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        let ca = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n";
        fs::write(folder.join("ca.cnf"), ca).unwrap();
        fs::write(folder.join("index"), "").unwrap();
        fs::write(folder.join("index.attr"), "unique_subject=no\n").unwrap();
        openssl(&format!("req -x509 -days 9 -subj /CN=authority -keyout ca.key -out ca.pem {key}"));
        openssl(&format!("req -subj /CN=localhost -keyout server.key -out server.csr {key}"));
        let sign = "ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -extfile usage -in server.csr";
        openssl(&format!("{sign} -days 9 -out good.pem"));
        openssl(&format!("{sign} -startdate 20200101000000Z -enddate 20200301000000Z -out expired.pem"));
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        Self { ca: read("ca.pem"), key: read("server.key"), good: read("good.pem"), expired: read("expired.pem") }
    }

    fn tls(&self) -> Tls {
        Tls { ca: Some(self.ca.clone()), identity: None }
    }
}

/// Waits until a person is told of what `words` names, and that nothing is put aside for it.
async fn is_stopped(gateway: &Gateway, name: &str, words: &str) {
    let told = |status: &UpstreamStatus| {
        status.state == UpstreamState::Stopped && problem(status).to_lowercase().contains(words)
    };
    // On a slow machine it may be in one of its longer pauses, after attempts of which nothing came in time.
    let nudged = async {
        loop {
            gateway.order(UpstreamOrder::Flush { upstream: name.to_owned() }).await.ok();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let what = format!("it is stopped for its {words}");
    tokio::select! {
        _ = gateway.until(name, &what, told) => {}
        () = nudged => {}
    }
    assert_eq!(gateway.store.reader().dead_letter_count(name).await.unwrap(), 0);
}

#[tokio::test]
async fn a_receiver_whose_certificate_has_expired_is_told_of_and_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    let tls = |chain: &Vec<u8>| Options {
        tls: Some(ServerTls { chain: chain.clone(), key: certificates.key.clone(), clients: None }),
        ..Options::default()
    };
    let home = tempfile::tempdir().unwrap();
    let key = gateway::make(home.path());
    let records = folder.path().join("records");
    let good = Receiver::start_with(&records, tls(&certificates.good));
    good.know(&key);
    let network = Proxy::start(local(good.port), Faults::default(), 1);
    let url = https::address(&format!("https://localhost:{}/v1/sync", network.port())).unwrap();
    let https = https::Config { url, token: None, tls: certificates.tls(), timeout: Duration::from_secs(2) };
    let config = Config { upstreams: vec![Upstream { kind: Kind::Https(https), ..upstreams::cloud(1) }] };
    let mut gateway = Gateway::open(home.path(), Clock::trusted(), config).await;
    gateway.take(50).await;
    gateway.seal().await;
    gateway.until_through("cloud").await;

    drop(good);
    let expired = Receiver::start_with(&records, tls(&certificates.expired));
    network.lead_to(local(expired.port));
    gateway.take(50).await;
    is_stopped(&gateway, "cloud", "expired").await;
    drop(expired);
    let renewed = Receiver::start_with(&records, tls(&certificates.good));
    network.lead_to(local(renewed.port));
    gateway.until_through("cloud").await;
    assert!(gateway::differences(&held::by_receiver(&renewed), &gateway.records().await).is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn postgresql_whose_certificate_has_expired_is_told_of_and_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    let mut server = Postgres::start_with_tls();
    let present = |server: &mut Postgres, chain: &[u8]| {
        for (name, bytes) in [("server.pem", chain), ("server.key", &certificates.key)] {
            let path = server.folder().join(name);
            fs::write(&path, bytes).unwrap();
            server.give(&path, 0o600);
        }
        server.restart();
    };
    present(&mut server, &certificates.good);
    let house = House::new(Server::Database(Box::new(server)));
    let House { network, .. } = &house;
    let url = format!("postgres://{USER}@localhost:{}/{DATABASE}?sslmode=require", network.port());
    let password = Some(Zeroizing::new(PASSWORD.to_owned()));
    let config = postgres::Config::from_url(&url, password, certificates.tls(), None).unwrap();
    let upstream = Upstream { kind: Kind::Postgres(config), ..house.upstream() };
    let mut gateway = house.open_with(upstream).await;
    gateway.take(50).await;
    gateway.seal().await;
    gateway.until_through("database").await;

    let mut house = house;
    let Server::Database(server) = &mut house.server else { unreachable!() };
    present(server, &certificates.expired);
    gateway.take(50).await;
    is_stopped(&gateway, "database", "expired").await;
    present(server, &certificates.good);
    gateway.until_through("database").await;
    house.check(&gateway).await;
    gateway.close().await;
}

#[tokio::test]
async fn a_password_that_was_changed_at_postgresql_is_told_of_and_taken_when_it_is_right() {
    let house = House::new(Server::database());
    let mut gateway = house.open().await;
    gateway.take(50).await;
    gateway.seal().await;
    gateway.until_through("database").await;

    house.postgres().psql(&format!("ALTER ROLE {USER} PASSWORD 'another one'"));
    house.postgres().psql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'"));
    gateway.take(50).await;
    is_stopped(&gateway, "database", "password").await;
    let kind = Kind::Postgres(database_by(Ipv4Addr::LOCALHOST, house.network.port(), "another one"));
    gateway.configure(Config { upstreams: vec![Upstream { kind, ..house.upstream() }] });
    gateway.until_through("database").await;
    house.check(&gateway).await;
    gateway.close().await;
}

#[tokio::test]
async fn a_password_that_was_changed_at_a_broker_is_told_of_and_taken_when_it_is_right() {
    let mut broker = Mosquitto::start_with_tls("");
    let collector = Collector::start(&broker, "meterseal/#");
    let passwords = broker.ca_file().with_file_name("passwd");
    let change = |broker: &mut Mosquitto, password: &str| {
        let mut change = Command::new("mosquitto_passwd");
        change.arg("-b").arg(&passwords).args(["gateway", password]);
        assert!(change.status().unwrap().success());
        broker.stop();
        broker.start_again();
    };
    change(&mut broker, "one");
    let house = tempfile::tempdir().unwrap();
    gateway::make(house.path());
    let kind = |port: u16, password: &str, broker: &Mosquitto| {
        let Kind::Mqtt(plain) = upstreams::broker(port).kind else { unreachable!() };
        Kind::Mqtt(mqtt::Config {
            tls: Some(Tls { ca: broker.ca(), identity: None }),
            username: Some("gateway".to_owned()),
            password: Some(Zeroizing::new(password.to_owned())),
            ..plain
        })
    };
    let config = |kind| Config { upstreams: vec![Upstream { kind, ..upstreams::broker(1) }] };
    let mut gateway = Gateway::open(house.path(), Clock::trusted(), config(kind(broker.port, "one", &broker))).await;
    gateway.take(50).await;
    gateway.seal().await;
    gateway.until_through("broker").await;

    change(&mut broker, "another one");
    gateway.take(50).await;
    is_stopped(&gateway, "broker", "password").await;
    change(&mut broker, "one");
    gateway.until_through("broker").await;
    let wanted = gateway.records().await;
    let held = collector.until(wanted.len()).into_iter().map(|((_, epoch, stream, seq), record)| {
        ((epoch, Stream::named(&stream).unwrap(), seq), record.sha256.parse().unwrap())
    });
    assert!(gateway::differences(&held.collect(), &wanted).is_empty());
    gateway.close().await;
}

/// A clock that is wrong by a year makes nobody wait for a year: what a receiver says of time counts from its own clock.
#[tokio::test]
async fn a_receiver_whose_clock_is_a_year_ahead_is_asked_again_when_it_said() {
    let house = House::new(Server::cloud());
    let date = |second: u32| format!("Sun, 21 Nov 2027 12:00:{second:02} GMT");
    let headers = vec![("date", date(1)), ("retry-after", date(2))];
    let said = receiver::Said { status: 503, headers, body: String::new() };
    house.cloud().set(receiver::Faults { answer: Some(said), ..receiver::Faults::default() });
    let mut gateway = house.open().await;
    gateway.take(50).await;
    gateway.seal().await;
    gateway.until("cloud", "it is away", |status| status.state == UpstreamState::Away).await;
    house.cloud().set(receiver::Faults::default());
    // Without a word from anybody.
    let through = async {
        while !gateway.is_through("cloud").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), through).await.expect("it waits for the receiver's year");
    house.check(&gateway).await;
    gateway.close().await;
}
