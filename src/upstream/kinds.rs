//! The kinds of receivers there are, as one.

use super::https::HttpsReceiver;
use super::receiver::{Answer, Batch, Fault, Opened, Receiver, Witness};
use super::{Kind, Upstream, ems, mqtt, postgres, telemetry};
use crate::model::Stream;
use crate::model::note::SignedCheckpoint;
use crate::store::{Identity, Reader};

pub enum Any {
    Https(Box<HttpsReceiver>),
    Mqtt(Box<mqtt::Receiver>),
    Postgres(Box<postgres::Receiver>),
    Telemetry(Box<telemetry::Receiver>),
    EmsWebsocket(Box<ems::Receiver>),
}

/// The receiver of an upstream; or why there is none, for a person.
pub fn make(upstream: &Upstream, reader: &Reader) -> Result<Any, String> {
    let name = &upstream.name;
    Ok(match &upstream.kind {
        Kind::Https(config) => Any::Https(Box::new(HttpsReceiver::new(config)?)),
        Kind::Mqtt(config) => Any::Mqtt(Box::new(mqtt::Receiver::new(config, name)?)),
        Kind::Postgres(config) => Any::Postgres(Box::new(postgres::Receiver::new(config, name)?)),
        Kind::Telemetry(config) => {
            Any::Telemetry(Box::new(telemetry::Receiver::new(config, name, Some(reader.clone()))?))
        }
        Kind::EmsWebsocket(config) => Any::EmsWebsocket(Box::new(ems::Receiver::new(config, name)?)),
        Kind::Off { why, .. } => return Err(why.clone()),
    })
}

/// The same of whatever kind it is.
macro_rules! of_any {
    ($any:expr, $one:ident => $work:expr) => {
        match $any {
            Any::Https($one) => $work,
            Any::Mqtt($one) => $work,
            Any::Postgres($one) => $work,
            Any::Telemetry($one) => $work,
            Any::EmsWebsocket($one) => $work,
        }
    };
}

impl Receiver for Any {
    async fn open(&mut self, identity: &Identity) -> Result<Opened, Fault> {
        of_any!(self, one => one.open(identity).await)
    }

    async fn witness(&mut self, checkpoint: &Witness) -> Result<Option<SignedCheckpoint>, Fault> {
        of_any!(self, one => one.witness(checkpoint).await)
    }

    async fn deliver(&mut self, batch: &Batch) -> Answer {
        of_any!(self, one => one.deliver(batch).await)
    }

    fn asks_at_opening(&self) -> bool {
        of_any!(self, one => one.asks_at_opening())
    }

    fn most(&self, stream: Stream) -> usize {
        of_any!(self, one => one.most(stream))
    }

    fn knows_keys(&self) -> bool {
        of_any!(self, one => one.knows_keys())
    }
}
