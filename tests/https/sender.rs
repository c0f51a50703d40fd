//! A gateway's log and records, and what sends them.

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meterseal::model::merkle::{self, Nodes};
use meterseal::model::note::{Checkpoint, SignedCheckpoint, VerifierKey};
use meterseal::model::{ClockState, Digest, Number, Position, Stream, TakenReading, Timestamp};
use meterseal::store::Identity;
use meterseal::upstream::https::{Config, HttpsReceiver, address};
use meterseal::upstream::receiver::{Batch, Receiver as _, Witness};
use meterseal::upstream::record::{Body, LineWriter, Record};
use meterseal::upstream::tls::Tls;
use zeroize::Zeroizing;

use crate::layout::layout;
use crate::receiver::{Key, Options, Receiver};

pub const GATEWAY: &str = "00112233445566778899aabbccddeeff";
pub const EPOCH: &str = "0123456789abcdef";
/// A time limit that no answer over the loopback needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn identity() -> Identity {
    Identity { site: "plant-7".parse().unwrap(), gateway: GATEWAY.to_owned(), epoch: EPOCH.to_owned() }
}

/// A receiver that knows a gateway, and the log of that.
pub struct Scene {
    pub receiver: Receiver,
    pub log: Log,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let scene = Self::made(options);
        scene.receiver.know(&scene.log.verifier());
        scene
    }

    pub fn without_gateway() -> Self {
        Self::made(Options::default())
    }

    fn made(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { receiver: Receiver::start_with(folder.path(), options), log: Log::new(0, 9), _folder: folder }
    }

    /// What sends to it, after the first question.
    pub async fn open(&self) -> HttpsReceiver {
        let mut sender = sender(&self.receiver.url);
        sender.open(&identity()).await.unwrap();
        sender
    }
}

/// A gateway's log: leaves without meaning, and the key that signs.
pub struct Log {
    key: SigningKey,
    leaves: Vec<Digest>,
}

impl Log {
    pub fn new(seed: u8, leaves: u64) -> Self {
        let leaves = (0..leaves).map(|leaf| Digest::of(&[&[seed][..], &leaf.to_be_bytes()].concat()));
        Self { key: SigningKey::from_bytes(&[1; 32]), leaves: leaves.collect() }
    }

    pub fn verifier(&self) -> VerifierKey {
        VerifierKey::new(identity().origin(), self.key.verifying_key().to_bytes())
    }

    pub fn signed(&self, size: u64) -> SignedCheckpoint {
        self.signed_as(&identity().origin(), size)
    }

    pub fn signed_as(&self, origin: &str, size: u64) -> SignedCheckpoint {
        let root = merkle::root(&mut Leaves(&self.leaves), size).unwrap();
        SignedCheckpoint::sign(Checkpoint { origin: origin.to_owned(), size, root }, &[(origin, &self.key)])
    }

    /// From the checkpoint of `old` leaves to that of `size`.
    pub fn witness(&self, old: u64, size: u64) -> Witness {
        let proof =
            if old == 0 { Vec::new() } else { merkle::consistency(&mut Leaves(&self.leaves), old, size).unwrap() };
        Witness { checkpoint: self.signed(size), old, consistency: proof }
    }
}

struct Leaves<'a>(&'a [Digest]);

impl Nodes for Leaves<'_> {
    type Error = std::convert::Infallible;

    fn node(&mut self, level: u8, n: u64) -> Result<Digest, Self::Error> {
        if level == 0 {
            return Ok(self.0[usize::try_from(n).unwrap()]);
        }
        Ok(merkle::node(&self.node(level - 1, 2 * n)?, &self.node(level - 1, 2 * n + 1)?))
    }
}

/// Readings of these seqs, each of one value.
pub fn readings(seqs: impl IntoIterator<Item = u64>) -> Batch {
    valued(seqs, 0)
}

/// The same, with other values.
pub fn valued(seqs: impl IntoIterator<Item = u64>, offset: i64) -> Batch {
    let layout = layout("main-incomer", 1_000, &[("power_kw", "0.001")]);
    let record = |seq: u64| {
        let time = Timestamp::from_millis(1_763_688_600_000 + seq.cast_signed());
        let reading = TakenReading {
            seq,
            time,
            since_boot_ms: seq,
            boot: "boot".into(),
            clock: ClockState::Synchronised,
            conflict: false,
            layout: layout.clone(),
            values: [(0, Number::I64(seq.cast_signed() + offset))].into_iter().collect(),
        };
        Record { seq, time, body: Body::Reading(reading) }
    };
    Batch {
        identity: identity(),
        epoch: EPOCH.to_owned(),
        stream: Stream::Readings,
        records: seqs.into_iter().map(record).collect(),
        after: Position::default(),
    }
}

/// What a receiver must hold when it has taken the batch.
pub fn hashes(batch: &Batch) -> BTreeMap<Key, Digest> {
    let of = |record: &Record| {
        let stream = batch.stream.to_string();
        let key = (batch.identity.gateway.clone(), batch.epoch.clone(), stream, record.seq);
        (key, Digest::of(line(record).as_bytes()))
    };
    batch.records.iter().map(of).collect()
}

pub fn line(record: &Record) -> String {
    let mut line = Vec::new();
    LineWriter::default().push(&mut line, record);
    String::from_utf8(line).unwrap()
}

pub fn config(url: &str) -> Config {
    Config { url: address(url).unwrap(), token: None, tls: Tls::default(), timeout: PATIENCE }
}

pub fn sender(url: &str) -> HttpsReceiver {
    HttpsReceiver::new(&config(url)).unwrap()
}

pub fn with_token(url: &str, token: &str) -> HttpsReceiver {
    HttpsReceiver::new(&Config { token: Some(Zeroizing::new(token.to_owned())), ..config(url) }).unwrap()
}
