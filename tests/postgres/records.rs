//! Records to be delivered, and a gateway that does so.

use std::sync::Arc;

use meterseal::model::entry::{EntryKind, Salt};
use meterseal::model::note::{Checkpoint, SignedCheckpoint};
use meterseal::model::{
    Block, BlockFlag, BlockFlags, Borders, Category, ClockState, Digest, Energy, Event, Layout, LoggedBlock, Method,
    Number, Position, Power, Ratio, Slot, Span, Stream, TakenReading, Timestamp,
};
use meterseal::store::Identity;
use meterseal::upstream::postgres::{Config, Receiver};
use meterseal::upstream::receiver::{Answer, Batch, Opened, Receiver as _, Witness};
use meterseal::upstream::record::{Body, LineWriter, Record};
use meterseal::upstream::tls::Tls;
use zeroize::Zeroizing;

use crate::postgres::{PASSWORD, Postgres};

/// 2026-11-21T00:00:00Z
pub const T: i64 = 1_795_219_200_000;
pub const QUANTITIES: [&str; 6] =
    ["current_a", "energy_import_kwh", "frequency_hz", "power_factor", "power_kw", "voltage_v"];

pub fn config(server: &Postgres) -> Config {
    Config::from_url(&server.url(), Some(Zeroizing::new(PASSWORD.to_owned())), Tls::default(), None).unwrap()
}

/// A gateway with one upstream.
pub struct Gateway {
    pub identity: Identity,
    pub receiver: Receiver,
}

impl Gateway {
    pub fn new(config: &Config, gateway: &str) -> Self {
        let (site, epoch) = ("plant-7".parse().unwrap(), "e000000000000001".to_owned());
        let identity = Identity { site, gateway: gateway.to_owned(), epoch };
        Self { identity, receiver: Receiver::new(config, "cloud").unwrap() }
    }

    pub async fn opened(config: &Config, gateway: &str) -> Self {
        let mut gateway = Self::new(config, gateway);
        gateway.open().await;
        gateway
    }

    pub async fn open(&mut self) -> Opened {
        self.receiver.open(&self.identity).await.unwrap()
    }

    pub fn batch(&self, stream: Stream, records: Vec<Record>) -> Batch {
        let live = records.last().unwrap().seq;
        let after = Position { live, open: Vec::new() };
        Batch { identity: self.identity.clone(), epoch: self.identity.epoch.clone(), stream, records, after }
    }

    pub async fn deliver(&mut self, stream: Stream, records: Vec<Record>) -> Answer {
        let batch = self.batch(stream, records);
        self.receiver.deliver(&batch).await
    }

    /// Once they are taken, all of them.
    pub async fn delivered(&mut self, stream: Stream, records: Vec<Record>) -> Answer {
        let all = records.len();
        let answer = self.deliver(stream, records).await;
        assert_eq!((answer.taken, &answer.fault, &answer.rejected[..]), (all, &None, &[][..]));
        answer
    }

    pub async fn witness(&mut self, size: u64, old: u64) -> Option<SignedCheckpoint> {
        let witness = Witness { checkpoint: self.checkpoint(size), old, consistency: Vec::new() };
        self.receiver.witness(&witness).await.unwrap()
    }

    pub fn checkpoint(&self, size: u64) -> SignedCheckpoint {
        let root = Digest::of(&size.to_be_bytes());
        let checkpoint = Checkpoint { origin: self.identity.origin(), size, root };
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        SignedCheckpoint::sign(checkpoint, &[(&self.identity.origin(), &key)])
    }
}

pub fn layout(meter: &str) -> Arc<Layout> {
    let slots = QUANTITIES.iter().map(|quantity| Slot {
        quantity: quantity.parse().unwrap(),
        scale: Ratio::parse("0.001").unwrap(),
        rolls_over_at: None,
        interval: None,
    });
    Arc::new(Layout {
        meter: meter.parse().unwrap(),
        category: Category::Cons,
        interval_ms: Some(1_000),
        template: None,
        simulated: false,
        slots: slots.collect(),
    })
}

/// A reading at `T` + seq seconds; all its values tell its seq.
pub fn taken(seq: u64, layout: &Arc<Layout>) -> TakenReading {
    TakenReading {
        seq,
        time: Timestamp::from_millis(T + i64::try_from(seq).unwrap() * 1_000),
        since_boot_ms: 5,
        boot: "boot-1".into(),
        clock: ClockState::Synchronised,
        conflict: false,
        layout: layout.clone(),
        values: (0..6).map(|at| (at, Number::U64(seq * 1_000 + u64::from(at)))).collect(),
    }
}

pub fn readings(seqs: impl IntoIterator<Item = u64>) -> Vec<Record> {
    let layout = layout("main");
    seqs.into_iter().map(|seq| reading(taken(seq, &layout))).collect()
}

pub fn reading(taken: TakenReading) -> Record {
    Record { seq: taken.seq, time: taken.time, body: Body::Reading(taken) }
}

/// Half an hour of a meter, `at` half-hours after `T`, whose energy is that number of kWh.
pub fn block(seq: u64, meter: &str, at: i64, revision: u32, flags: &[BlockFlag]) -> Record {
    let start = T + at * 1_800_000;
    let time = Timestamp::from_millis(start + 1_800_000);
    let block = Block {
        meter: meter.parse().unwrap(),
        span: Span::new(Timestamp::from_millis(start), time).unwrap(),
        nominal_ms: 1_800_000,
        revision,
        category: Category::Cons,
        import: Some(Energy::from_uwh(at * 1_000_000_000 + i64::from(revision))),
        export: Some(Energy::ZERO),
        max_power: Some(Power::from_mw(at * 3_000_000)),
        min_power: None,
        covered_ms: if flags.contains(&BlockFlag::Gap) { 900_000 } else { 1_800_000 },
        coverage: if flags.contains(&BlockFlag::Gap) { 5_000 } else { 10_000 },
        method: Method::Counter,
        is_peak_hour: at % 2 == 0,
        flags: flags.iter().copied().collect::<BlockFlags>(),
        readings_sha256: Digest::of(b""),
        through_seq: 12,
        borders: Borders::default(),
        zone: "Asia/Kuala_Lumpur".to_owned(),
        interval_ms: 1_000,
        template: None,
        sealed: time,
    };
    let logged = LoggedBlock {
        seq,
        epoch: "e000000000000001".to_owned(),
        index: seq + 100,
        kind: EntryKind::Block,
        time,
        record: block.to_record().unwrap(),
        salt: Salt([1; 32]),
        meter: meter.parse().unwrap(),
        meter_salt: Salt([2; 32]),
    };
    Record { seq, time, body: Body::Block(Box::new(logged)) }
}

/// One that is kept as its line.
pub fn event(seq: u64, line: &str) -> Record {
    let time = Timestamp::from_millis(T);
    let event = Event { seq, epoch: "e000000000000001".to_owned(), time, line: line.to_owned() };
    Record { seq, time, body: Body::Event(event) }
}

pub fn line(record: &Record) -> String {
    let mut line = Vec::new();
    LineWriter::default().push(&mut line, record);
    String::from_utf8(line).unwrap()
}

/// The same record, as a dead letter that is sent again.
pub fn kept(record: &Record) -> Record {
    Record { body: Body::Kept(line(record)), ..record.clone() }
}

pub fn sha256(record: &Record) -> String {
    Digest::of(line(record).as_bytes()).to_string()
}
