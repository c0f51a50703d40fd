//! The upstreams of these tests, by the port where each is found. They lose patience early, so that nobody waits long.

#![allow(dead_code, reason = "each test that takes it in uses a part of it")]

use std::net::Ipv4Addr;
use std::time::Duration;

use meterseal::model::Stream;
use meterseal::upstream::tls::Tls;
use meterseal::upstream::{Kind, Start, Upstream, https, mqtt, postgres};
use zeroize::Zeroizing;

use crate::postgres::{DATABASE, PASSWORD, USER};

const PATIENCE: Duration = Duration::from_secs(2);

pub fn cloud(port: u16) -> Upstream {
    cloud_at(Ipv4Addr::LOCALHOST, port)
}

pub fn cloud_at(host: Ipv4Addr, port: u16) -> Upstream {
    let url = https::address(&format!("http://{host}:{port}/v1/sync")).unwrap();
    of("cloud", Kind::Https(https::Config { url, token: None, tls: Tls::default(), timeout: PATIENCE }))
}

pub fn database(port: u16) -> Upstream {
    database_at(Ipv4Addr::LOCALHOST, port)
}

pub fn database_at(host: Ipv4Addr, port: u16) -> Upstream {
    of("database", Kind::Postgres(database_by(host, port, PASSWORD)))
}

pub fn database_by(host: Ipv4Addr, port: u16, password: &str) -> postgres::Config {
    let url = format!("postgres://{USER}@{host}:{port}/{DATABASE}?sslmode=disable");
    let password = Some(Zeroizing::new(password.to_owned()));
    let config = postgres::Config::from_url(&url, password, Tls::default(), None).unwrap();
    postgres::Config { connect_timeout: PATIENCE, statement_timeout: Duration::from_secs(5), ..config }
}

pub fn broker(port: u16) -> Upstream {
    broker_at(Ipv4Addr::LOCALHOST, port)
}

pub fn broker_at(host: Ipv4Addr, port: u16) -> Upstream {
    of(
        "broker",
        Kind::Mqtt(mqtt::Config {
            host: host.to_string(),
            port,
            tls: None,
            version: mqtt::Version::V5,
            username: None,
            password: None,
            client_id: None,
            topic: "meterseal/{gateway}/{stream}".parse().unwrap(),
            keep_alive: Duration::from_secs(5),
            timeout: PATIENCE,
            max_packet: 1 << 20,
        }),
    )
}

/// With the time-outs that a gateway has.
pub fn patient(upstream: Upstream) -> Upstream {
    let kind = match upstream.kind {
        Kind::Https(config) => Kind::Https(https::Config { timeout: Duration::from_secs(30), ..config }),
        Kind::Postgres(config) => Kind::Postgres(postgres::Config {
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
            ..config
        }),
        Kind::Mqtt(config) => {
            Kind::Mqtt(mqtt::Config { keep_alive: Duration::from_secs(30), timeout: Duration::from_secs(30), ..config })
        }
        other => other,
    };
    Upstream { kind, ..upstream }
}

/// All streams, from the oldest record on.
fn of(name: &str, kind: Kind) -> Upstream {
    let streams =
        [Stream::Checkpoints, Stream::Blocks, Stream::Anchors, Stream::Datasets, Stream::Alerts, Stream::Readings];
    Upstream { name: name.to_owned(), kind, streams: streams.to_vec(), start: Start::Oldest }
}
