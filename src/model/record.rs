//! The sealed record of a block: canonical JSON (JCS) and back.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::jcs::{self, NotCanonical};
use super::{
    Block, BlockFlag, BlockFlags, Border, Borders, Break, Digest, Energy, Interval, Method, Number, Power, Ratio, Role,
    Span, StoredReading, Timestamp,
};

/// The version of the block rule, in every record.
pub const RULE: u64 = 1;

/// A text that is no record of a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("not JSON: {0}")]
    Json(String),
    #[error("made by block rule {0}, and this program knows rule {RULE}")]
    Rule(u64),
    #[error("`{0}` is missing or of the wrong form")]
    Member(&'static str),
}

impl Block {
    /// The sealed record: the bytes that are hashed.
    pub fn to_record(&self) -> Result<Vec<u8>, NotCanonical> {
        jcs::to_vec(&self.to_json())
    }

    /// The sealed record as a JSON value. Energy is whole µWh and power whole mW in decimal strings, times are ms.
    pub fn to_json(&self) -> Value {
        let borders = &self.borders;
        json!({
            "rule": RULE,
            "meter": self.meter.as_str(),
            "start": self.span.start().as_millis(),
            "end": self.span.end().as_millis(),
            "nominal_ms": self.nominal_ms,
            "revision": self.revision,
            "category": self.category.as_str(),
            "import_uwh": self.import.map(|energy| energy.as_uwh().to_string()),
            "export_uwh": self.export.map(|energy| energy.as_uwh().to_string()),
            "max_mw": self.max_power.map(|power| power.as_mw().to_string()),
            "min_mw": self.min_power.map(|power| power.as_mw().to_string()),
            "covered_ms": self.covered_ms,
            "coverage": self.coverage,
            "method": self.method,
            "is_peak_hour": self.is_peak_hour,
            "flags": self.flags.names(),
            "readings_sha256": self.readings_sha256.to_string(),
            "through_seq": self.through_seq,
            "before": list(&borders.before),
            "first": list(&borders.first),
            "last": list(&borders.last),
            "after": list(&borders.after),
            "breaks": borders.breaks.iter().map(|at| json!({
                "from": border(&at.from), "to": border(&at.to), "kind": if at.rollover { "rollover" } else { "reset" },
            })).collect::<Vec<_>>(),
            "pending": list(&borders.pending),
            "zone": self.zone,
            "interval_ms": self.interval_ms,
            "template": self.template.map(|digest| digest.to_string()),
            "sealed": self.sealed.as_millis(),
        })
    }

    /// The block of a record.
    pub fn from_record(bytes: &[u8]) -> Result<Self, BadRecord> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| BadRecord::Json(e.to_string()))?;
        let record = Record(value.as_object().ok_or(BadRecord::Member("rule"))?);
        match record.whole("rule")? {
            RULE => {}
            other => return Err(BadRecord::Rule(other)),
        }
        let (start, end) = (record.time("start")?, record.time("end")?);
        Ok(Self {
            meter: record.text("meter")?.parse().map_err(|_| BadRecord::Member("meter"))?,
            span: Span::new(start, end).ok_or(BadRecord::Member("end"))?,
            nominal_ms: record.fit("nominal_ms")?,
            revision: record.fit("revision")?,
            category: record.text("category")?.parse().map_err(|()| BadRecord::Member("category"))?,
            import: record.decimal("import_uwh")?.map(Energy::from_uwh),
            export: record.decimal("export_uwh")?.map(Energy::from_uwh),
            max_power: record.decimal("max_mw")?.map(Power::from_mw),
            min_power: record.decimal("min_mw")?.map(Power::from_mw),
            covered_ms: record.get("covered_ms", Value::as_i64)?,
            coverage: record.fit("coverage")?,
            method: Method::named(record.text("method")?).ok_or(BadRecord::Member("method"))?,
            is_peak_hour: record.get("is_peak_hour", Value::as_bool)?,
            flags: record.flags()?,
            readings_sha256: record
                .text("readings_sha256")?
                .parse()
                .map_err(|_| BadRecord::Member("readings_sha256"))?,
            through_seq: record.whole("through_seq")?,
            borders: Borders {
                before: record.borders("before")?,
                first: record.borders("first")?,
                last: record.borders("last")?,
                after: record.borders("after")?,
                breaks: record.breaks()?,
                pending: record.borders("pending")?,
            },
            zone: record.text("zone")?.to_owned(),
            interval_ms: record.fit("interval_ms")?,
            template: record.digest("template")?,
            sealed: record.time("sealed")?,
        })
    }
}

impl Method {
    pub const ALL: [Self; 5] = [Self::Counter, Self::Power, Self::Interval, Self::Mixed, Self::Sum];

    /// The word of the record and of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Power => "power",
            Self::Interval => "interval",
            Self::Mixed => "mixed",
            Self::Sum => "sum",
        }
    }

    /// The method of this name.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }
}

/// Appends one line of what `readings_sha256` commits to, LF included. Written straight: the members are in canonical
/// order, and a block may have tens of thousands of lines.
pub fn write_reading_line(role: Role, time: Timestamp, seq: u64, raw: Number, out: &mut Vec<u8>) {
    let (quantity, kind) = (role.quantity(), raw.type_name());
    let head = format!(r#"{{"quantity":"{quantity}","seq":{seq},"time":{},"type":"{kind}","value":"#, time.as_millis());
    out.extend_from_slice(head.as_bytes());
    match raw {
        Number::F32(value) => jcs::write_f64(f64::from(value), out),
        Number::F64(value) => jcs::write_f64(value, out),
        Number::I64(value) => out.extend_from_slice(format!("\"{value}\"").as_bytes()),
        Number::U64(value) => out.extend_from_slice(format!("\"{value}\"").as_bytes()),
    }
    out.extend_from_slice(b"}\n");
}

/// All lines that the `readings_sha256` of a block with these borders commits to, `within` being those of the readings
/// in it: the border readings before, those, and the border readings after, each ordered by time, seq and quantity.
pub fn lines_around(borders: &Borders, within: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(within.len() + 1_024);
    let beside = |list: &[Border], lines: &mut Vec<u8>| {
        let mut list = list.to_vec();
        list.sort_by_key(|at| (at.time, at.seq, at.role.quantity()));
        list.iter().for_each(|at| write_reading_line(at.role, at.time, at.seq, at.raw, lines));
    };
    beside(&borders.before, &mut lines);
    lines.extend_from_slice(within);
    beside(&borders.after, &mut lines);
    lines
}

/// Appends the lines of a reading that is in a block, in the order of the quantities' names.
pub fn write_reading(reading: &StoredReading, out: &mut Vec<u8>) {
    for role in [Role::Export, Role::Import, Role::Power] {
        if let Some(raw) = reading.raw(role) {
            write_reading_line(role, reading.time, reading.seq, raw, out);
        }
    }
}

/// A whole number as a decimal string, a double as a JSON number.
fn number(raw: Number) -> Value {
    match raw {
        Number::F32(value) => f64::from(value).into(),
        Number::F64(value) => value.into(),
        Number::I64(value) => value.to_string().into(),
        Number::U64(value) => value.to_string().into(),
    }
}

fn border(at: &Border) -> Value {
    let mut value = json!({
        "quantity": at.role.quantity(),
        "time": at.time.as_millis(),
        "seq": at.seq,
        "type": at.raw.type_name(),
        "value": number(at.raw),
        "scale": at.scale,
    });
    if let Some(end) = at.rolls_over_at {
        // Beyond 2^53 as a decimal string, like every whole number that a double may not hold.
        value["rolls_over_at"] = end.to_string().into();
    }
    if let Some(interval) = at.interval {
        value["interval"] = json!(interval);
    }
    value
}

fn list(borders: &[Border]) -> Vec<Value> {
    borders.iter().map(border).collect()
}

/// The members of a record, each asked for by name.
struct Record<'a>(&'a Map<String, Value>);

impl<'a> Record<'a> {
    fn get<T>(&self, name: &'static str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T, BadRecord> {
        self.0.get(name).and_then(read).ok_or(BadRecord::Member(name))
    }

    fn text(&self, name: &'static str) -> Result<&'a str, BadRecord> {
        self.get(name, Value::as_str)
    }

    fn whole(&self, name: &'static str) -> Result<u64, BadRecord> {
        self.get(name, Value::as_u64)
    }

    fn fit<T: TryFrom<u64>>(&self, name: &'static str) -> Result<T, BadRecord> {
        T::try_from(self.whole(name)?).map_err(|_| BadRecord::Member(name))
    }

    fn time(&self, name: &'static str) -> Result<Timestamp, BadRecord> {
        self.get(name, Value::as_i64).map(Timestamp::from_millis)
    }

    fn decimal(&self, name: &'static str) -> Result<Option<i64>, BadRecord> {
        self.get(name, |value| match value {
            Value::Null => Some(None),
            _ => value.as_str()?.parse().ok().map(Some),
        })
    }

    fn digest(&self, name: &'static str) -> Result<Option<Digest>, BadRecord> {
        self.get(name, |value| match value {
            Value::Null => Some(None),
            _ => value.as_str()?.parse().ok().map(Some),
        })
    }

    fn flags(&self) -> Result<BlockFlags, BadRecord> {
        let known = |name: &Value| BlockFlag::ALL.into_iter().find(|flag| Some(flag.as_str()) == name.as_str());
        self.get("flags", |value| value.as_array()?.iter().map(known).collect())
    }

    fn borders(&self, name: &'static str) -> Result<Vec<Border>, BadRecord> {
        self.get(name, |value| value.as_array()?.iter().map(read_border).collect())
    }

    fn breaks(&self) -> Result<Vec<Break>, BadRecord> {
        let read = |value: &Value| {
            let rollover = match value.get("kind")?.as_str()? {
                "rollover" => true,
                "reset" => false,
                _ => return None,
            };
            Some(Break { from: read_border(value.get("from")?)?, to: read_border(value.get("to")?)?, rollover })
        };
        self.get("breaks", |value| value.as_array()?.iter().map(read).collect())
    }
}

fn read_border(value: &Value) -> Option<Border> {
    let raw = value.get("value")?;
    Some(Border {
        role: Role::ALL.into_iter().find(|role| Some(role.quantity()) == value["quantity"].as_str())?,
        time: Timestamp::from_millis(value.get("time")?.as_i64()?),
        seq: value.get("seq")?.as_u64()?,
        raw: match value.get("type")?.as_str()? {
            "f64" => Number::from_f64(raw.as_f64()?)?,
            "i64" => Number::I64(raw.as_str()?.parse().ok()?),
            "u64" => Number::U64(raw.as_str()?.parse().ok()?),
            _ => return None,
        },
        scale: {
            let scale = value.get("scale")?.as_array()?;
            Ratio::new(scale.first()?.as_i64()?, scale.get(1)?.as_i64()?)?
        },
        rolls_over_at: match value.get("rolls_over_at") {
            None => None,
            Some(end) => Some(end.as_str()?.parse().ok()?),
        },
        interval: match value.get("interval") {
            None => None,
            Some(interval) => Some(Interval::deserialize(interval).ok()?),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Category;

    fn at(role: Role, raw: Number) -> Border {
        Border {
            role,
            time: Timestamp::from_millis(1_763_688_599_500),
            seq: 7,
            raw,
            scale: Ratio::new(1, 1000).unwrap(),
            rolls_over_at: Some(1 << 32),
            interval: None,
        }
    }

    fn block() -> Block {
        let time = Timestamp::from_millis;
        let (import, power) = (at(Role::Import, Number::U64(u64::MAX)), at(Role::Power, Number::F32(0.1)));
        Block {
            meter: "main-incomer".parse().unwrap(),
            span: Span::new(time(1_763_688_600_000), time(1_763_690_400_000)).unwrap(),
            nominal_ms: 1_800_000,
            revision: 1,
            category: Category::Cons,
            import: Some(Energy::from_uwh(i64::MAX)),
            export: None,
            max_power: Some(Power::from_mw(-5)),
            min_power: None,
            covered_ms: 1_800_000,
            coverage: 10_000,
            method: Method::Counter,
            is_peak_hour: true,
            flags: [BlockFlag::Late, BlockFlag::Gap].into_iter().collect(),
            readings_sha256: Digest::of(b""),
            through_seq: 12,
            borders: Borders {
                before: vec![import, power],
                breaks: vec![Break { from: import, to: at(Role::Import, Number::I64(-3)), rollover: true }],
                ..Borders::default()
            },
            zone: "Asia/Kuala_Lumpur".to_owned(),
            interval_ms: 1_000,
            template: Some(Digest::of(b"t")),
            sealed: time(1_763_690_410_000),
        }
    }

    #[test]
    fn a_record_is_canonical_and_comes_back_as_it_went() {
        let block = block();
        let record = block.to_record().unwrap();
        assert_eq!(Block::from_record(&record).unwrap(), block);
        let text = String::from_utf8(record).unwrap();
        assert!(
            text.starts_with(r#"{"after":[],"before":[{"quantity":"energy_import_kwh","rolls_over_at":"4294967296","#)
        );
        assert!(text.contains(r#""flags":["gap","late"],"import_uwh":"9223372036854775807""#), "{text}");
        assert!(text.contains(r#""type":"f64","value":0.10000000149011612"#), "{text}");
    }

    #[test]
    fn an_interval_stands_in_the_record_only_where_there_is_one() {
        use crate::model::Label;
        let mut block = block();
        assert!(!String::from_utf8(block.to_record().unwrap()).unwrap().contains(r#""interval":"#));
        let interval = Some(Interval { ms: 900_000, label: Label::End });
        block.borders.after = vec![Border { interval, rolls_over_at: None, ..at(Role::Export, Number::U64(3)) }];
        block.method = Method::Interval;
        let record = block.to_record().unwrap();
        assert_eq!(Block::from_record(&record).unwrap(), block);
        let text = String::from_utf8(record).unwrap();
        assert!(text.starts_with(r#"{"after":[{"interval":{"label":"end","ms":900000},"quantity":"#), "{text}");
        let bad = text.replace(r#""label":"end""#, r#""label":"middle""#);
        assert_eq!(Block::from_record(bad.as_bytes()), Err(BadRecord::Member("after")));
    }

    #[test]
    fn a_record_that_is_none_says_which_member_is_wrong() {
        let mut value = block().to_json();
        value["coverage"] = json!("all");
        let bad = Block::from_record(value.to_string().as_bytes());
        assert_eq!(bad, Err(BadRecord::Member("coverage")));
        value["rule"] = json!(2);
        assert_eq!(Block::from_record(value.to_string().as_bytes()), Err(BadRecord::Rule(2)));
    }

    #[test]
    fn a_line_is_canonical_json() {
        for raw in [Number::U64(u64::MAX), Number::I64(-3), Number::F32(0.1), Number::F64(1e21)] {
            let mut line = Vec::new();
            write_reading_line(Role::Import, Timestamp::from_millis(-5), 9, raw, &mut line);
            assert_eq!(line.pop(), Some(b'\n'));
            assert_eq!(line, jcs::to_vec(&serde_json::from_slice(&line).unwrap()).unwrap());
        }
        let mut line = Vec::new();
        write_reading_line(Role::Import, Timestamp::from_millis(5), 9, Number::U64(3), &mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"quantity\":\"energy_import_kwh\",\"seq\":9,\"time\":5,\"type\":\"u64\",\"value\":\"3\"}\n"
        );
    }
}
