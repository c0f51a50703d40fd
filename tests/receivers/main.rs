//! Each kind of receiver against the other side that it is for: what it says to every answer, what is sent again after a cut,
//! and that nothing is taken for delivered that was not.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[path = "../peers/collector.rs"]
mod collector;
mod ems;
#[path = "../peers/ems.rs"]
mod ems_backend;
#[path = "../peers/layout.rs"]
mod layout;
#[path = "../peers/mosquitto.rs"]
mod mosquitto;
mod mqtt;
mod mqtt_broker;
mod telemetry;
#[path = "../peers/telemetry.rs"]
mod telemetry_backend;

use meterseal::model::{Position, Stream, Timestamp};
use meterseal::store::Identity;
use meterseal::upstream::receiver::Batch;
use meterseal::upstream::record::{Body, Record};

fn identity() -> Identity {
    Identity {
        site: "plant".parse().unwrap(),
        gateway: "0123456789abcdef0123456789abcdef".to_owned(),
        epoch: "00112233aabbccdd".to_owned(),
    }
}

/// Records by their numbers and lines.
fn batch(stream: Stream, lines: impl IntoIterator<Item = (u64, String)>) -> Batch {
    let record = |(seq, line)| Record { seq, time: Timestamp::default(), body: Body::Kept(line) };
    let identity = identity();
    Batch {
        epoch: identity.epoch.clone(),
        identity,
        stream,
        records: lines.into_iter().map(record).collect(),
        after: Position::default(),
    }
}

/// Lines of readings with these numbers.
fn readings(seqs: impl IntoIterator<Item = u64>) -> Batch {
    batch(Stream::Readings, seqs.into_iter().map(|seq| (seq, format!(r#"{{"meter":"m1","seq":{seq},"values":{{}}}}"#))))
}

/// The batch without its first records.
fn rest(batch: &Batch, taken: usize) -> Batch {
    Batch { records: batch.records[taken..].to_vec(), ..batch.clone() }
}
