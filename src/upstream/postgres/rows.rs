//! Records as rows of their tables, in the forms in which COPY takes them: readings in its binary form, of which there are
//! many, all others as text.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::model::{Block, Energy, Power, Stream, TakenReading, Timestamp};
use crate::upstream::record::{Body, LineWriter, Record};

/// A table that a stream fills, and the columns that are written, in order.
pub struct Table {
    pub name: &'static str,
    pub columns: &'static str,
    pub is_binary: bool,
    /// Whether it has a part for each month.
    pub is_parted: bool,
}

/// None for streams that have no table to themselves.
pub fn table(stream: Stream) -> Option<Table> {
    let events = |name, columns| Some(Table { name, columns, is_binary: false, is_parted: false });
    match stream {
        Stream::Readings => Some(Table {
            name: "readings",
            columns: "gateway, seq, time, meter, category, values, flags, intervals, boot, since_boot_ms, sha256",
            is_binary: true,
            is_parted: true,
        }),
        Stream::Blocks => Some(Table {
            name: "blocks",
            columns: "gateway, seq, start, until, meter, category, kind, revision, kwh, kwh_import, kwh_export, \
                      demand_kw, avg_kw, max_kw, min_kw, coverage, covered_ms, nominal_ms, method, is_peak_hour, \
                      flags, zone, sealed, index, time, salt, meter_salt, record, sha256",
            is_binary: false,
            is_parted: true,
        }),
        Stream::Anchors => {
            events("anchors", "gateway, seq, time, anchor, kind, state, chain_id, size, transaction, record, sha256")
        }
        Stream::Datasets => events(
            "datasets",
            "gateway, seq, time, dataset, kind, connection, query, rows, bytes, manifest_sha256, record, sha256",
        ),
        Stream::Alerts => {
            events("alerts", "gateway, seq, time, alert, kind, meter, raised, cleared, text, record, sha256")
        }
        Stream::Notices => {
            events("notices", "gateway, seq, time, kind, first_seq, last_seq, boot, offset_ms, reason, record, sha256")
        }
        Stream::Checkpoints | Stream::Minutes => None,
    }
}

/// Turns records of one stream and epoch into rows.
pub struct Rows<'a> {
    stream: Stream,
    /// The number of the gateway in the database.
    gateway: i32,
    lines: &'a mut LineWriter,
    line: Vec<u8>,
}

/// What a COPY begins and ends with in its binary form.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Columns of a reading.
const READING: i16 = 11;
/// The years 1 to 9999. PostgreSQL knows others, but takes the greatest number for infinity.
const CALENDAR: std::ops::Range<i64> = -62_135_596_800_000..253_402_300_800_000;
/// 2000-01-01T00:00:00Z, from which PostgreSQL counts.
const Y2K_MS: i64 = 946_684_800_000;
/// `text` among the types of PostgreSQL.
const TEXT: i32 = 25;

impl<'a> Rows<'a> {
    pub fn new(stream: Stream, gateway: i32, lines: &'a mut LineWriter) -> Self {
        Self { stream, gateway, lines, line: Vec::new() }
    }

    pub fn begin(&self, out: &mut Vec<u8>) {
        if self.stream == Stream::Readings {
            out.extend_from_slice(SIGNATURE);
        }
    }

    pub fn end(&self, out: &mut Vec<u8>) {
        if self.stream == Stream::Readings {
            out.extend_from_slice(&TRAILER);
        }
    }

    /// As [`Self::push`] says it; a row is made only where that may fail.
    pub fn time(&mut self, out: &mut Vec<u8>, record: &Record) -> Result<Timestamp, String> {
        let time = match &record.body {
            Body::Reading(reading) => reading.time,
            _ => self.push(out, record)?,
        };
        CALENDAR.contains(&time.as_millis()).then_some(time).ok_or_else(|| format!("its time, {time}, is none"))
    }

    /// Appends the record's row; says by which time its table is parted, or why the record is none. What was appended of
    /// such a one stays.
    pub fn push(&mut self, out: &mut Vec<u8>, record: &Record) -> Result<Timestamp, String> {
        self.line.clear();
        self.lines.push(&mut self.line, record);
        let sha256: [u8; 32] = Sha256::digest(&self.line).into();
        if let Body::Reading(reading) = &record.body
            && !reading.layout.has_intervals()
        {
            self.taken(out, reading, &sha256);
            return Ok(reading.time);
        }
        let line = std::str::from_utf8(&self.line).map_err(|_| "not UTF-8".to_owned())?;
        match self.stream {
            Stream::Readings => {
                let reading: ReadingLine = read(line)?;
                if !reading.values.get().starts_with('{') {
                    return Err("`values` is no object".to_owned());
                }
                let [category, boot] = [&reading.category, &reading.boot].map(|text| text.as_deref().map(stored));
                let row = Reading {
                    seq: reading.seq,
                    time: Timestamp::from_millis(reading.time),
                    meter: &stored(&reading.meter),
                    category: category.as_deref(),
                    values: reading.values.get().as_bytes(),
                    conflict: reading.conflict,
                    clock: reading.clock.is_some(),
                    intervals: reading.intervals.map(|intervals| intervals.get().as_bytes()),
                    boot: boot.as_deref(),
                    since_boot_ms: reading.since_boot_ms,
                };
                row.push(out, self.gateway, &sha256);
                Ok(row.time)
            }
            Stream::Blocks => block(out, self.gateway, line, &sha256),
            stream => event(out, self.gateway, stream, line, &sha256),
        }
    }

    /// A reading whose line is there: its values are the last object in it.
    fn taken(&self, out: &mut Vec<u8>, reading: &TakenReading, sha256: &[u8; 32]) {
        let values = self.line.iter().rposition(|byte| *byte == b'{').unwrap_or_default();
        let is_unsynchronised = reading.clock == crate::model::ClockState::Unsynchronised;
        let row = Reading {
            seq: reading.seq,
            time: reading.time,
            meter: reading.layout.meter.as_str(),
            category: Some(reading.layout.category.as_str()),
            values: &self.line[values..self.line.len() - 1],
            conflict: reading.conflict,
            clock: is_unsynchronised,
            intervals: None,
            boot: is_unsynchronised.then_some(&*reading.boot),
            since_boot_ms: is_unsynchronised.then_some(reading.since_boot_ms),
        };
        row.push(out, self.gateway, sha256);
    }
}

struct Reading<'a> {
    seq: u64,
    time: Timestamp,
    meter: &'a str,
    category: Option<&'a str>,
    values: &'a [u8],
    conflict: bool,
    clock: bool,
    intervals: Option<&'a [u8]>,
    boot: Option<&'a str>,
    since_boot_ms: Option<u64>,
}

impl Reading<'_> {
    fn push(&self, out: &mut Vec<u8>, gateway: i32, sha256: &[u8; 32]) {
        out.extend_from_slice(&READING.to_be_bytes());
        field(out, &gateway.to_be_bytes());
        field(out, &bigint(self.seq).to_be_bytes());
        let micros = self.time.as_millis().saturating_sub(Y2K_MS).saturating_mul(1_000);
        field(out, &micros.to_be_bytes());
        field(out, self.meter.as_bytes());
        optional(out, self.category.map(str::as_bytes));
        field(out, self.values);
        self.flags(out);
        optional(out, self.intervals);
        optional(out, self.boot.map(str::as_bytes));
        optional(out, self.since_boot_ms.map(|ms| bigint(ms).to_be_bytes()).as_ref().map(<[u8; 8]>::as_slice));
        field(out, sha256);
    }

    /// An array of texts, or null.
    fn flags(&self, out: &mut Vec<u8>) {
        let names: Vec<&str> = [(self.clock, "clock"), (self.conflict, "conflict")]
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, name)| *name)
            .collect();
        if names.is_empty() {
            return optional(out, None);
        }
        let mut array = Vec::new();
        let count = i32::try_from(names.len()).unwrap_or(i32::MAX);
        // Dimensions, whether it holds nulls, type of elements, length, number of the first one.
        for head in [1, 0, TEXT, count, 1] {
            array.extend_from_slice(&head.to_be_bytes());
        }
        names.iter().for_each(|name| field(&mut array, name.as_bytes()));
        field(out, &array);
    }
}

/// A seq as PostgreSQL holds it. The store has none beyond.
fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&i32::try_from(bytes.len()).unwrap_or(i32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => field(out, bytes),
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

#[derive(Deserialize)]
struct ReadingLine<'a> {
    seq: u64,
    time: i64,
    #[serde(borrow)]
    meter: Cow<'a, str>,
    #[serde(borrow, default)]
    category: Option<Cow<'a, str>>,
    #[serde(borrow)]
    values: &'a RawValue,
    #[serde(default)]
    conflict: bool,
    #[serde(borrow, default)]
    clock: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    intervals: Option<&'a RawValue>,
    #[serde(borrow, default)]
    boot: Option<Cow<'a, str>>,
    #[serde(default)]
    since_boot_ms: Option<u64>,
}

#[derive(Deserialize)]
struct BlockLine<'a> {
    seq: u64,
    index: u64,
    time: i64,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    salt: Cow<'a, str>,
    #[serde(borrow)]
    meter_salt: Cow<'a, str>,
    #[serde(borrow)]
    record: &'a RawValue,
}

fn read<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| format!("not a record of its stream: {error}"))
}

fn block(out: &mut Vec<u8>, gateway: i32, line: &str, sha256: &[u8; 32]) -> Result<Timestamp, String> {
    let line: BlockLine = read(line)?;
    let block = Block::from_record(line.record.get().as_bytes()).map_err(|error| format!("no block: {error}"))?;
    let (start, until) = (block.span.start(), block.span.end());
    let kw = |power: Option<Power>| power.map(|power| power.to_kw().to_string());
    let mut row = TextRow::new(out, gateway);
    row.text(line.seq).text(start).text(until).text(block.meter.as_str()).text(block.category.as_str());
    row.text(stored(&line.kind)).text(block.revision);
    row.maybe(block.net().map(kwh)).maybe(block.import.map(kwh)).maybe(block.export.map(kwh));
    row.maybe(block.demand_kw()).maybe(block.avg_kw()).maybe(kw(block.max_power)).maybe(kw(block.min_power));
    row.text(f64::from(block.coverage) / 10_000.0).text(block.covered_ms).text(block.nominal_ms);
    row.text(block.method.as_str()).text(block.is_peak_hour).text(format!("{{{}}}", block.flags.names().join(",")));
    row.text(stored(&block.zone)).text(block.sealed).text(line.index).text(Timestamp::from_millis(line.time));
    row.text(format!("\\x{}", line.salt)).text(format!("\\x{}", line.meter_salt));
    row.text(line.record.get()).digest(sha256).end();
    Ok(start)
}

fn event(out: &mut Vec<u8>, gateway: i32, stream: Stream, line: &str, sha256: &[u8; 32]) -> Result<Timestamp, String> {
    let members: serde_json::Map<String, serde_json::Value> = read(line)?;
    let seq = members.get("seq").and_then(serde_json::Value::as_u64).ok_or("it has no `seq`")?;
    // An anchor's change is told by the state that it came to, and since when it is in it.
    let instant_of = if stream == Stream::Anchors { "since" } else { "time" };
    let time = members.get(instant_of).and_then(serde_json::Value::as_i64);
    let time = Timestamp::from_millis(time.ok_or_else(|| format!("it has no `{instant_of}`"))?);
    let text = |name: &str| members.get(name).and_then(|value| value.as_str()).map(|text| stored(text).into_owned());
    let whole = |name: &str| members.get(name).and_then(serde_json::Value::as_i64).map(|n| n.to_string());
    let instant = |name: &str| {
        members.get(name).and_then(serde_json::Value::as_i64).map(|ms| Timestamp::from_millis(ms).to_string())
    };
    let own: Vec<Option<String>> = match stream {
        Stream::Anchors => {
            vec![whole("anchor"), text("kind"), text("state"), whole("chain_id"), whole("size"), text("transaction")]
        }
        Stream::Datasets => vec![
            text("dataset"),
            text("kind"),
            text("connection"),
            text("query"),
            whole("rows"),
            whole("bytes"),
            text("manifest_sha256"),
        ],
        Stream::Alerts => {
            vec![whole("alert"), text("kind"), text("meter"), instant("raised"), instant("cleared"), text("text")]
        }
        _ => {
            vec![text("kind"), whole("first_seq"), whole("last_seq"), text("boot"), whole("offset_ms"), text("reason")]
        }
    };
    let mut row = TextRow::new(out, gateway);
    row.text(seq).text(time);
    own.into_iter().for_each(|value| {
        row.maybe(value);
    });
    row.text(line).digest(sha256).end();
    Ok(time)
}

/// The text of PostgreSQL cannot hold U+0000; in `record` it stays as it is escaped there.
fn stored(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// kWh to the last µWh.
fn kwh(energy: Energy) -> String {
    let uwh = energy.as_uwh();
    let sign = if uwh < 0 { "-" } else { "" };
    let uwh = uwh.unsigned_abs();
    format!("{sign}{}.{:09}", uwh / 1_000_000_000, uwh % 1_000_000_000)
}

/// One row as text: columns parted by tabs, null as `\N`, what has a meaning there escaped.
struct TextRow<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> TextRow<'a> {
    fn new(out: &'a mut Vec<u8>, gateway: i32) -> Self {
        out.extend_from_slice(gateway.to_string().as_bytes());
        Self { out }
    }

    fn text(&mut self, value: impl ToString) -> &mut Self {
        self.out.push(b'\t');
        for byte in value.to_string().bytes() {
            match byte {
                b'\\' => self.out.extend_from_slice(b"\\\\"),
                b'\t' => self.out.extend_from_slice(b"\\t"),
                b'\n' => self.out.extend_from_slice(b"\\n"),
                b'\r' => self.out.extend_from_slice(b"\\r"),
                other => self.out.push(other),
            }
        }
        self
    }

    fn maybe(&mut self, value: Option<impl ToString>) -> &mut Self {
        match value {
            Some(value) => self.text(value),
            None => {
                self.out.extend_from_slice(b"\t\\N");
                self
            }
        }
    }

    fn digest(&mut self, digest: &[u8; 32]) -> &mut Self {
        self.text(format!("\\x{}", crate::model::Digest::from_bytes(*digest)))
    }

    fn end(&mut self) {
        self.out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::record::tests::{layout, reading};

    #[test]
    fn energy_is_written_to_the_last_micro_watt_hour() {
        for (uwh, text) in [
            (0, "0.000000000"),
            (-1, "-0.000000001"),
            (1_234_567_890, "1.234567890"),
            (i64::MIN, "-9223372036.854775808"),
        ] {
            assert_eq!(kwh(Energy::from_uwh(uwh)), text);
        }
    }

    #[test]
    fn a_reading_that_is_sent_again_as_its_line_is_the_same_row() {
        let layout = layout("main", &[("power_kw", "0.001"), ("energy_import_kwh", "1")]);
        let numbers = [crate::model::Number::I64(-12_500), crate::model::Number::F32(12.3)];
        let plain = reading(7, 1_763_688_600_123, &layout, &numbers);
        let odd = TakenReading { clock: crate::model::ClockState::Unsynchronised, conflict: true, ..plain.clone() };
        for taken in [plain, odd] {
            let (mut lines, mut line) = (LineWriter::default(), Vec::new());
            let record = Record { seq: 7, time: taken.time, body: Body::Reading(taken) };
            lines.push(&mut line, &record);
            let kept = Record { body: Body::Kept(String::from_utf8(line).unwrap()), ..record.clone() };
            let mut row = |record: &Record| {
                let mut out = Vec::new();
                let time = Rows::new(Stream::Readings, 3, &mut lines).push(&mut out, record).unwrap();
                (time, out)
            };
            assert_eq!(row(&record), row(&kept));
        }
    }

    #[test]
    fn what_has_a_meaning_to_copy_is_escaped() {
        let mut out = Vec::new();
        TextRow::new(&mut out, 1).text("a\tb\\c\nd\r").maybe(None::<u8>).text(stored("\0")).end();
        assert_eq!(String::from_utf8(out).unwrap(), "1\ta\\tb\\\\c\\nd\\r\t\\N\t\u{fffd}\n");
    }
}
