//! Delivers what the store holds to others, and moves a position only when that is acknowledged.
//!
//! One engine serves every kind of receiver: each upstream has its own task, its own positions and its own pauses, so
//! that a dead one holds up nobody. docs/upstream.md has the records and the keys.

mod delivery;
mod dial;
pub mod ems;
mod endpoint;
mod engine;
mod halt;
pub mod https;
mod judge;
mod kinds;
mod lane;
mod minutes;
pub mod mqtt;
mod position;
pub mod postgres;
pub mod receiver;
pub mod record;
mod replay;
mod source;
mod status;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod tls;

use std::sync::Arc;

pub use status::depth;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::note::SignedCheckpoint;
use crate::model::{Stream, UpstreamOrder, UpstreamRefused, UpstreamsStatus};
use crate::store::{Ledger, Reader, StoreError};

/// The parts `[[upstream]]` of the config.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Config {
    pub upstreams: Vec<Upstream>,
}

/// One destination.
#[derive(Clone, PartialEq, Debug)]
pub struct Upstream {
    /// Its positions are kept under this name, whatever else of it changes.
    pub name: String,
    pub kind: Kind,
    /// In order of urgency. `notices` goes before `readings` whether it is listed or not.
    pub streams: Vec<Stream>,
    pub start: Start,
}

impl Upstream {
    /// What is sent to it, in order.
    pub fn effective_streams(&self) -> Vec<Stream> {
        let mut streams: Vec<Stream> = Vec::new();
        for stream in &self.streams {
            // What became of readings is told before more of them are.
            let first = (*stream == Stream::Readings).then_some(Stream::Notices);
            for stream in first.into_iter().chain([*stream]) {
                if !streams.contains(&stream) {
                    streams.push(stream);
                }
            }
        }
        streams
    }
}

/// Where it begins when the store knows no position of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// With all that the store still holds.
    #[default]
    Oldest,
    /// With what comes from now on.
    Now,
}

/// How records get there.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    Https(https::Config),
    Postgres(postgres::Config),
    Mqtt(mqtt::Config),
    Telemetry(telemetry::Config),
    EmsWebsocket(ems::Config),
    /// Something that it needs is missing: why, for a person.
    Off {
        kind: &'static str,
        to: String,
        why: String,
    },
}

impl Kind {
    /// As the config names it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Https(_) => "https",
            Self::Postgres(_) => "postgres",
            Self::Mqtt(_) => "mqtt",
            Self::Telemetry(_) => "telemetry",
            Self::EmsWebsocket(_) => "ems-websocket",
            Self::Off { kind, .. } => kind,
        }
    }

    /// Where it goes, without secrets.
    pub fn to(&self) -> String {
        match self {
            Self::Https(config) => config.to(),
            Self::Postgres(config) => config.to(),
            Self::Mqtt(config) => config.to(),
            Self::Telemetry(config) => config.to(),
            Self::EmsWebsocket(config) => config.to(),
            Self::Off { to, .. } => to.clone(),
        }
    }
}

/// What delivery needs of the house.
#[derive(Clone)]
pub struct Parts {
    pub reader: Reader,
    pub ledger: Ledger,
    pub clock: Clock,
    /// The newest checkpoint that may be shown.
    pub checkpoint: watch::Receiver<Option<Arc<SignedCheckpoint>>>,
    pub status: watch::Sender<Arc<UpstreamsStatus>>,
}

/// What somebody wants of an upstream. Whoever asks waits until it is begun, not until it is done.
pub struct Order {
    pub order: UpstreamOrder,
    pub reply: oneshot::Sender<Result<(), UpstreamRefused>>,
}

/// Delivers until stopped. Nothing here holds up the start: others are first asked from within.
pub async fn run(
    config: watch::Receiver<Arc<Config>>,
    parts: Parts,
    orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let reader = parts.reader.clone();
    engine::run(move |upstream: &Upstream| kinds::make(upstream, &reader), config, parts, orders, stop).await
}
