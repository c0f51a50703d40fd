//! `acrel-adw`: `{"data":[{"tp":1631839905057,"point":[{"id":0,"val":"20201998111433"},{"id":13,"val":45.5}]}]}`.
//!
//! A meter may send one sample in two messages with the same `tp`, of which only one bears its serial number. The half
//! without it waits for the other; each then is a sample of its own, of the same meter and time. Meters that share a
//! topic and send at the same millisecond are told apart as long as all of them send their halves in the same order, and
//! not mixed with each other's; what is mixed is left out. A topic for each meter (its group) rules that out.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::time::{TimeFormat, believable};
use super::tree::{Node, cleaned, parse};
use super::{Decoded, MOST_SAMPLES, Message, Reason, Sample, Settled, Ticket, Value, beginning, field, meter_name};
use crate::model::{Number, Quantity, Ratio, Stamp, Timestamp};

/// Joins halves to serial numbers.
pub struct Joiner {
    /// By the id of the point.
    points: Vec<Option<(Quantity, Ratio)>>,
    /// Samples whose meter is known, the latest last; at most `REMEMBERED`.
    known: VecDeque<Known>,
    /// Messages that wait, the longest wait first; at most `HELD`.
    held: VecDeque<Held>,
}

/// A half waits for this long. Both are published in one go.
const WAIT_MS: u64 = 2_000;

/// Messages that wait at once. A broker sends 20 without an acknowledgement, and the other halves must find room.
const HELD: usize = 8;

/// Halves of one message that wait.
const HALVES: usize = 8;

/// Samples that are remembered for a half that comes later, or again after a lost connection.
const REMEMBERED: usize = 512;

/// Parts of one sample that are remembered.
const PARTS: usize = 8;

/// What the halves of one sample have in common. Meters of one group share a topic.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    tp: i64,
    topic: String,
}

/// Which points a message has, and a digest of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    ids: u64,
    digest: u64,
}

struct Known {
    key: Key,
    serial: String,
    parts: Vec<Part>,
    /// Where `tp` tells no time, it tells no sample either, so it is forgotten after `WAIT_MS`.
    until_ms: Option<u64>,
}

struct Held {
    ticket: Ticket,
    since_ms: u64,
    beginning: String,
    retained: bool,
    decoded: Decoded,
    halves: Vec<Half>,
}

/// Values that lack their meter.
struct Half {
    key: Key,
    part: Part,
    time: Option<Timestamp>,
    values: Vec<Value>,
}

/// Ids of one vendor table; what it calls phase A, B, C are L1, L2, L3. Signal strength, demand, transformer ratios,
/// ICCID and inputs are left out.
const POINTS: &[(usize, &str)] = &[
    (1, "voltage_l1_v"),
    (2, "voltage_l2_v"),
    (3, "voltage_l3_v"),
    (4, "voltage_l1_l2_v"),
    (5, "voltage_l2_l3_v"),
    (6, "voltage_l3_l1_v"),
    (7, "current_l1_a"),
    (8, "current_l2_a"),
    (9, "current_l3_a"),
    (10, "power_l1_kw"),
    (11, "power_l2_kw"),
    (12, "power_l3_kw"),
    (13, "power_kw"),
    (14, "reactive_power_l1_kvar"),
    (15, "reactive_power_l2_kvar"),
    (16, "reactive_power_l3_kvar"),
    (17, "reactive_power_kvar"),
    (18, "apparent_power_l1_kva"),
    (19, "apparent_power_l2_kva"),
    (20, "apparent_power_l3_kva"),
    (21, "apparent_power_kva"),
    (22, "power_l1_factor"),
    (23, "power_l2_factor"),
    (24, "power_l3_factor"),
    (25, "power_factor"),
    (26, "frequency_hz"),
    (28, "energy_import_kwh"),
    (29, "energy_export_kwh"),
    (30, "reactive_energy_import_kvarh"),
    (31, "reactive_energy_export_kvarh"),
];

impl Default for Joiner {
    fn default() -> Self {
        let mut points = vec![None; 32];
        for (id, quantity) in POINTS {
            points[*id] = field(quantity, (1, 1));
        }
        Self { points, known: VecDeque::new(), held: VecDeque::new() }
    }
}

impl Joiner {
    pub fn take(&mut self, ticket: Ticket, message: &Message<'_>, arrival: &Stamp) -> Vec<Settled> {
        let mut settled = self.expire(arrival.since_boot_ms);
        let mut decoded = Decoded::default();
        let mut halves = Vec::new();
        match parse(&cleaned(message.payload)).as_ref().map(|root| entries(root)) {
            Ok(Ok(entries)) => {
                for entry in entries.iter().take(MOST_SAMPLES) {
                    match self.entry(entry, message.topic, arrival, &mut decoded) {
                        Some(half) if halves.len() < HALVES => halves.push(half),
                        Some(_) => drop(decoded.reason.get_or_insert(Reason::NoSerial)),
                        None => {}
                    }
                }
                if entries.len() > MOST_SAMPLES {
                    decoded.complain(format!("data: more than {MOST_SAMPLES} entries"));
                }
            }
            Ok(Err(why)) => decoded.complain(why),
            Err(why) => decoded.complain(why.as_str()),
        }
        let beginning = || beginning(message.payload);
        if halves.is_empty() {
            settled.push(decoded.settled(ticket, message.retained, beginning));
        } else {
            let (beginning, retained, since_ms) = (beginning(), message.retained, arrival.since_boot_ms);
            self.held.push_back(Held { ticket, since_ms, beginning, retained, decoded, halves });
        }
        self.join(&mut settled);
        if self.held.len() > HELD {
            settled.extend(self.held.pop_front().map(Held::given_up));
        }
        settled
    }

    pub fn expire(&mut self, now_ms: u64) -> Vec<Settled> {
        let mut settled = Vec::new();
        while self.held.front().is_some_and(|held| held.since_ms.saturating_add(WAIT_MS) <= now_ms) {
            settled.extend(self.held.pop_front().map(Held::given_up));
        }
        self.known.retain(|known| known.until_ms.is_none_or(|until| now_ms < until));
        settled
    }

    pub fn next_expiry(&self) -> Option<u64> {
        self.held.front().map(|held| held.since_ms.saturating_add(WAIT_MS))
    }

    pub fn drop_held(&mut self) {
        self.held.clear();
    }

    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.known.len()
    }

    /// Reads one sample: into `decoded` where it bears its serial number, else it is given back.
    fn entry(&mut self, entry: &Node<'_>, topic: &str, arrival: &Stamp, decoded: &mut Decoded) -> Option<Half> {
        let tp = match entry.member("tp") {
            Ok(Some(node)) => TimeFormat::UnixMs.instant(node, arrival.time),
            Ok(None) => None,
            Err(odd) => {
                decoded.complain(format!("tp: {odd}"));
                None
            }
        };
        let time = tp.and_then(|tp| believable(tp, arrival));
        let points = match entry.member("point") {
            Ok(Some(Node::List(points))) => points,
            Ok(_) => {
                decoded.complain("point: not a list");
                return None;
            }
            Err(odd) => {
                decoded.complain(format!("point: {odd}"));
                return None;
            }
        };
        let Points { serial, values, part } = self.points(points, decoded);
        let key = tp.map(|tp| Key { tp: tp.as_millis(), topic: topic.to_owned() });
        match (serial, key) {
            (Some(serial), key) => {
                if let Some(key) = key {
                    let until_ms =
                        if time.is_none() { Some(arrival.since_boot_ms.saturating_add(WAIT_MS)) } else { None };
                    self.remember(key, &serial, part, until_ms);
                }
                decoded.add(Sample { meter: serial, time, values });
                None
            }
            (None, _) if values.is_empty() => None,
            (None, Some(key)) => Some(Half { key, part, time, values }),
            (None, None) => {
                decoded.reason.get_or_insert(Reason::NoSerial);
                None
            }
        }
    }

    fn points(&self, points: &[Node<'_>], decoded: &mut Decoded) -> Points {
        let mut read = Points { serial: None, values: Vec::new(), part: Part { ids: 0, digest: 0 } };
        let mut digest = DefaultHasher::new();
        for point in points {
            let id = match point.member("id").and_then(|node| node.map_or(Ok(None), Node::number)) {
                Ok(Some(Number::I64(id))) => usize::try_from(id).ok(),
                Ok(_) => None,
                Err(odd) => {
                    decoded.complain(format!("point: id: {odd}"));
                    continue;
                }
            };
            let (Some(id), Ok(Some(val))) = (id, point.member("val")) else {
                decoded.complain("point: its `id` or `val` is missing, or comes twice");
                continue;
            };
            if id == 0 {
                match val.name().map(|name| name.map(|name| meter_name(&name))) {
                    Ok(None) => {}
                    Ok(Some(Some(serial))) if read.serial.as_ref().is_none_or(|first| *first == serial) => {
                        read.serial = Some(serial);
                    }
                    _ => decoded.complain("point 0: no serial number of 1 to 128 bytes, or two"),
                }
                continue;
            }
            let Some(Some((quantity, scale))) = self.points.get(id) else { continue };
            match val.number() {
                Ok(None) => {}
                Ok(Some(_)) if read.part.ids & 1 << id != 0 => decoded.complain(format!("point {id}: comes twice")),
                Ok(Some(number)) => {
                    read.part.ids |= 1 << id;
                    (id, number.type_name(), number.to_display().to_bits()).hash(&mut digest);
                    read.values.push(Value { quantity: quantity.clone(), number, scale: *scale });
                }
                Err(odd) => decoded.complain(format!("point {id}: {odd}")),
            }
        }
        read.part.digest = digest.finish();
        read
    }

    fn remember(&mut self, key: Key, serial: &str, part: Part, until_ms: Option<u64>) {
        let place = self.known.iter().rposition(|known| known.key == key && known.serial == serial);
        let mut known = place.and_then(|place| self.known.remove(place)).unwrap_or_else(|| Known {
            key,
            serial: serial.to_owned(),
            parts: Vec::new(),
            until_ms,
        });
        known.add(part);
        self.known.push_back(known);
        if self.known.len() > REMEMBERED {
            self.known.pop_front();
        }
    }

    /// Gives every half that waits its serial number, where there is one, and settles what waits no more.
    fn join(&mut self, settled: &mut Vec<Settled>) {
        let all: Vec<&Half> = self.held.iter().flat_map(|held| &held.halves).collect();
        let is_rival = |half: &Half, other: &Half| other.key == half.key && half.part.rules_out(&other.part);
        let rivals: Vec<bool> = all.iter().map(|half| all.iter().any(|other| is_rival(half, other))).collect();
        let mut rivals = rivals.into_iter();
        for held in &mut self.held {
            for half in std::mem::take(&mut held.halves) {
                let rival = rivals.next().unwrap_or(true);
                match owner(&mut self.known, &half, rival) {
                    Some(known) => {
                        known.add(half.part);
                        let meter = known.serial.clone();
                        held.decoded.add(Sample { meter, time: half.time, values: half.values });
                    }
                    None => held.halves.push(half),
                }
            }
        }
        for held in std::mem::take(&mut self.held) {
            if held.halves.is_empty() { settled.push(held.settled()) } else { self.held.push_back(held) }
        }
    }
}

struct Points {
    serial: Option<String>,
    values: Vec<Value>,
    part: Part,
}

fn entries<'n, 'a>(root: &'n Node<'a>) -> Result<&'n [Node<'a>], String> {
    match root.member("data") {
        Ok(Some(Node::List(entries))) => Ok(entries),
        Ok(_) => Err("data: not a list".to_owned()),
        Err(odd) => Err(format!("data: {odd}")),
    }
}

/// The one sample that `half` can belong to. Several meters may send at the same instant: one that already has any of
/// its points has its other half, unless it is this very half again. Where more than one is left, or where a `rival`
/// waits that could be the other half as well, none is taken.
fn owner<'k>(known: &'k mut VecDeque<Known>, half: &Half, rival: bool) -> Option<&'k mut Known> {
    let (mut repeats, mut fits) = (Vec::new(), Vec::new());
    for (at, known) in known.iter().enumerate().filter(|(_, known)| known.key == half.key) {
        if known.parts.contains(&half.part) {
            repeats.push(at);
        } else if !rival && !known.parts.iter().any(|part| half.part.rules_out(part)) {
            fits.push(at);
        }
    }
    let at = match (&repeats[..], &fits[..]) {
        ([at], _) | ([], [at]) => *at,
        _ => return None,
    };
    known.get_mut(at)
}

impl Part {
    /// Whether the two cannot be of one sample: they share points, and are not the same message twice.
    fn rules_out(&self, other: &Self) -> bool {
        self.ids & other.ids != 0 && self != other
    }
}

impl Known {
    fn add(&mut self, part: Part) {
        if self.parts.len() < PARTS && !self.parts.contains(&part) {
            self.parts.push(part);
        }
    }
}

impl Held {
    fn settled(self) -> Settled {
        self.decoded.settled(self.ticket, self.retained, || self.beginning)
    }

    fn given_up(mut self) -> Settled {
        self.decoded.reason.get_or_insert(Reason::NoSerial);
        self.settled()
    }
}
