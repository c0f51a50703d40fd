//! Records as they are sent, to the byte: docs/upstream.md section 2. A record's hash is that of its line, so that a line
//! is the same whenever it is made.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use crate::model::decimal::push_value;
use crate::model::{ClockState, Event, Layout, LoggedBlock, MeterId, TakenReading, Timestamp, jcs};

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    pub seq: u64,
    /// When what it tells came to be.
    pub time: Timestamp,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Reading(TakenReading),
    Block(Box<LoggedBlock>),
    Event(Event),
    Minute(Minute),
    /// A dead letter that is sent again: its line.
    Kept(String),
}

/// The mean power of one meter in one minute.
#[derive(Clone, Debug, PartialEq)]
pub struct Minute {
    pub meter: MeterId,
    pub start: Timestamp,
    pub kw: f64,
    pub frequency_hz: Option<f64>,
}

/// Writes the lines of records. It remembers what readings of one layout have in common.
#[derive(Default)]
pub struct LineWriter {
    /// By address of the layout, which is held so that the address stays its own.
    forms: HashMap<usize, (Arc<Layout>, Form)>,
}

/// The constant parts of a layout's lines.
struct Form {
    /// `"category":"CONS",`
    category: Vec<u8>,
    /// `"meter":"main-incomer","seq":`
    meter: Vec<u8>,
    /// For each place, `"power_kw":`, and its rank by name.
    values: Vec<(Vec<u8>, usize)>,
    /// `"intervals":{…},` where a value is the energy of an interval; else empty.
    intervals: Vec<u8>,
}

/// Layouts that are remembered; a gateway has some of them for each meter.
const FORMS: usize = 16_384;

impl LineWriter {
    /// Appends the record's line, without line feed.
    pub fn push(&mut self, out: &mut Vec<u8>, record: &Record) {
        match &record.body {
            Body::Reading(reading) => self.reading(out, reading),
            Body::Block(block) => self::block(out, block),
            Body::Event(event) => out.extend_from_slice(event.line.as_bytes()),
            Body::Minute(minute) => self::minute(out, record.seq, minute),
            Body::Kept(line) => out.extend_from_slice(line.as_bytes()),
        }
    }

    fn reading(&mut self, out: &mut Vec<u8>, reading: &TakenReading) {
        let address = Arc::as_ptr(&reading.layout).addr();
        if self.forms.len() >= FORMS && !self.forms.contains_key(&address) {
            self.forms.clear();
        }
        let form = &self.forms.entry(address).or_insert_with(|| (reading.layout.clone(), Form::of(&reading.layout))).1;
        out.push(b'{');
        let is_unsynchronised = reading.clock == ClockState::Unsynchronised;
        if is_unsynchronised {
            out.extend_from_slice(b"\"boot\":");
            jcs::write_str(&reading.boot, out);
            out.push(b',');
        }
        out.extend_from_slice(&form.category);
        if is_unsynchronised {
            out.extend_from_slice(b"\"clock\":\"unsynchronised\",");
        }
        if reading.conflict {
            out.extend_from_slice(b"\"conflict\":true,");
        }
        out.extend_from_slice(&form.intervals);
        out.extend_from_slice(&form.meter);
        push_integer(out, reading.seq);
        if is_unsynchronised {
            out.extend_from_slice(b",\"since_boot_ms\":");
            push_integer(out, reading.since_boot_ms);
        }
        out.extend_from_slice(b",\"time\":");
        push_integer(out, reading.time.as_millis());
        out.extend_from_slice(b",\"values\":{");
        // By name. Nearly every layout has few values, and many have them in order.
        let mut places: Vec<(usize, usize)> = reading
            .values
            .iter()
            .enumerate()
            .filter_map(|(at, (place, _))| Some((form.values.get(usize::from(*place))?.1, at)))
            .collect();
        places.sort_unstable();
        for (n, (_, at)) in places.into_iter().enumerate() {
            let (place, raw) = reading.values[at];
            if n > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&form.values[usize::from(place)].0);
            push_value(out, raw, reading.layout.slots[usize::from(place)].scale);
        }
        out.extend_from_slice(b"}}");
    }
}

impl Form {
    fn of(layout: &Layout) -> Self {
        let mut category = b"\"category\":".to_vec();
        jcs::write_str(layout.category.as_str(), &mut category);
        category.push(b',');
        let mut meter = b"\"meter\":".to_vec();
        jcs::write_str(layout.meter.as_str(), &mut meter);
        meter.extend_from_slice(b",\"seq\":");
        let mut names: Vec<&str> = layout.slots.iter().map(|slot| slot.quantity.as_str()).collect();
        names.sort_unstable();
        let values = layout.slots.iter().map(|slot| {
            let mut member = Vec::new();
            jcs::write_str(slot.quantity.as_str(), &mut member);
            member.push(b':');
            (member, names.partition_point(|name| *name < slot.quantity.as_str()))
        });
        let mut intervals = Vec::new();
        if layout.has_intervals() {
            let of = |slot: &crate::model::Slot| Some((slot.quantity.as_str().to_owned(), slot.interval?));
            let named: std::collections::BTreeMap<_, _> = layout.slots.iter().filter_map(of).collect();
            intervals.extend_from_slice(b"\"intervals\":");
            // As a value its members are in order; an interval always is one.
            let named = serde_json::to_value(&named).unwrap_or_default();
            intervals.extend_from_slice(named.to_string().as_bytes());
            intervals.push(b',');
        }
        Self { category, meter, values: values.collect(), intervals }
    }
}

fn block(out: &mut Vec<u8>, block: &LoggedBlock) {
    let (index, kind, salt, meter_salt) = (block.index, block.kind, block.salt.to_hex(), block.meter_salt.to_hex());
    write!(out, r#"{{"index":{index},"kind":"{kind}","meter_salt":"{meter_salt}","record":"#).ok();
    out.extend_from_slice(&block.record);
    write!(out, r#","salt":"{salt}","seq":{},"time":{}}}"#, block.seq, block.time.as_millis()).ok();
}

fn minute(out: &mut Vec<u8>, seq: u64, minute: &Minute) {
    out.push(b'{');
    if let Some(hz) = minute.frequency_hz {
        out.extend_from_slice(b"\"frequency_hz\":");
        jcs::write_f64(hz, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"meter\":");
    jcs::write_str(minute.meter.as_str(), out);
    out.extend_from_slice(b",\"power_kw\":");
    jcs::write_f64(minute.kw, out);
    write!(out, r#","seq":{seq},"start":{}}}"#, minute.start.as_millis()).ok();
}

fn push_integer(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").ok(); // writing to memory does not fail
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::entry::{EntryKind, Salt};
    use crate::model::{Category, Interval, Label, Number, Ratio, Slot};

    /// A layout of one meter with these quantities and scales.
    pub fn layout(meter: &str, slots: &[(&str, &str)]) -> Arc<Layout> {
        let slots = slots.iter().map(|(quantity, scale)| Slot {
            quantity: quantity.parse().unwrap(),
            scale: Ratio::parse(scale).unwrap(),
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

    /// A reading with a value at each place.
    pub fn reading(seq: u64, time: i64, layout: &Arc<Layout>, values: &[Number]) -> TakenReading {
        let values = values.iter().enumerate().map(|(at, number)| (u8::try_from(at).unwrap(), *number));
        TakenReading {
            seq,
            time: Timestamp::from_millis(time),
            since_boot_ms: 5,
            boot: "b".into(),
            clock: ClockState::Synchronised,
            conflict: false,
            layout: layout.clone(),
            values: values.collect(),
        }
    }

    fn line(seq: u64, body: Body) -> String {
        let mut out = Vec::new();
        LineWriter::default().push(&mut out, &Record { seq, time: Timestamp::default(), body });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reading_is_one_line_with_its_values_by_name() {
        let layout = layout("main-incomer", &[("power_kw", "0.001"), ("energy_import_kwh", "1")]);
        let taken = reading(7, 1_763_688_600_123, &layout, &[Number::I64(-12_500), Number::F32(12.3)]);
        let plain = concat!(
            r#"{"category":"CONS","meter":"main-incomer","seq":7,"time":1763688600123,"#,
            r#""values":{"energy_import_kwh":12.3,"power_kw":-12.5}}"#
        );
        assert_eq!(line(7, Body::Reading(taken.clone())), plain);
        let odd = TakenReading { clock: ClockState::Unsynchronised, conflict: true, ..taken };
        let told = concat!(
            r#"{"boot":"b","category":"CONS","clock":"unsynchronised","conflict":true,"meter":"main-incomer","seq":7,"#,
            r#""since_boot_ms":5,"time":1763688600123,"values":{"energy_import_kwh":12.3,"power_kw":-12.5}}"#
        );
        assert_eq!(line(7, Body::Reading(odd)), told);
    }

    #[test]
    fn members_stand_in_the_order_of_their_names() {
        let mut with_interval = (*layout("m", &[("energy_import_kwh", "1"), ("current_a", "1")])).clone();
        with_interval.slots[0].interval = Some(Interval { ms: 900_000, label: Label::End });
        let taken = TakenReading {
            clock: ClockState::Unsynchronised,
            conflict: true,
            ..reading(1, -5, &Arc::new(with_interval), &[Number::U64(3), Number::F64(0.5)])
        };
        let block = LoggedBlock {
            seq: 3,
            epoch: "e".to_owned(),
            index: 9,
            kind: EntryKind::Block,
            time: Timestamp::from_millis(4),
            record: br#"{"meter":"m"}"#.to_vec(),
            salt: Salt([1; 32]),
            meter: "m".parse().unwrap(),
            meter_salt: Salt([2; 32]),
        };
        let minute = Minute {
            meter: "m".parse().unwrap(),
            start: Timestamp::from_millis(60_000),
            kw: 1.5,
            frequency_hz: Some(50.0),
        };
        for body in [Body::Reading(taken), Body::Block(Box::new(block)), Body::Minute(minute)] {
            let line = line(1, body);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(String::from_utf8(jcs::to_vec(&value).unwrap()).unwrap(), line);
        }
    }
}
