//! How values look on the wire: exact decimals and times, and the one shape of a block that all routes share.

use std::collections::BTreeMap;
use std::io::Write as _;

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::{Object, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::anchors::Covered;
use crate::model::decimal::push_decimal;
use crate::model::{
    Block, BlockFlags, Coverage, Digest, Energy, MeterId, Method, OpenBlock, Power, StoredReading, Timestamp,
};

/// With `no`, for a proxy in between: what is told as it goes on is handed on at once.
pub const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// An answer in JSON that ends its last line, so that a shell's next prompt stands on its own.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let mut out = Vec::new();
        push_json(&mut out, &self.0);
        out.push(b'\n');
        ([(header::CONTENT_TYPE, "application/json")], out).into_response()
    }
}

/// An instant as RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, ToSchema)]
#[schema(as = Time, value_type = String, format = DateTime)]
pub struct At(pub Timestamp);

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// `units / 10^decimals` as a JSON number with exactly its decimals: a double would add or lose some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal {
    units: i64,
    decimals: u32,
}

impl Decimal {
    pub fn new(units: i64, decimals: u32) -> Self {
        Self { units, decimals }
    }

    /// The whole number of small units.
    pub fn units(self) -> i64 {
        self.units
    }

    pub fn push(self, out: &mut Vec<u8>) {
        push_decimal(out, self.units < 0, self.units.unsigned_abs(), self.decimals);
    }
}

impl From<Energy> for Decimal {
    fn from(energy: Energy) -> Self {
        Self::new(energy.as_uwh(), Energy::KWH_DECIMALS)
    }
}

impl From<Power> for Decimal {
    fn from(power: Power) -> Self {
        Self::new(power.as_mw(), Power::KW_DECIMALS)
    }
}

impl PartialSchema for Decimal {
    fn schema() -> RefOr<Schema> {
        Object::builder().schema_type(Type::Number).into()
    }
}

impl ToSchema for Decimal {}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = Vec::with_capacity(24);
        self.push(&mut text);
        let text = String::from_utf8(text).map_err(serde::ser::Error::custom)?;
        RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

/// Energy over a time as mean power, in whole µW (9 decimals of a kW), rounded to the nearest.
pub fn mean_power(energy: Energy, millis: i64) -> Option<Decimal> {
    let (energy, millis) = (i128::from(energy.as_uwh()), i128::from(millis));
    if millis <= 0 {
        return None;
    }
    let doubled = energy * 3_600_000 * 2 + millis;
    i64::try_from(doubled.div_euclid(2 * millis)).ok().map(|units| Decimal::new(units, 9))
}

/// A sealed block as the API shows it (product names; `kwh` and `kw` are views of whole µWh and mW).
#[derive(Serialize, ToSchema)]
#[schema(as = Block)]
pub struct BlockView<'a> {
    pub meter: &'a MeterId,
    pub start: At,
    pub end: At,
    pub kwh: Option<Decimal>,
    pub kwh_import: Option<Decimal>,
    pub kwh_export: Option<Decimal>,
    pub demand_kw: Option<Decimal>,
    pub avg_kw: Option<Decimal>,
    pub max_kw: Option<Decimal>,
    pub min_kw: Option<Decimal>,
    pub coverage: Decimal,
    pub method: Method,
    pub is_peak_hour: bool,
    #[schema(value_type = Vec<crate::model::BlockFlag>, max_items = 10)]
    pub flags: Vec<&'static str>,
    pub revision: u32,
    pub readings_sha256: Digest,
    pub through_seq: u64,
    pub sealed: At,
    pub anchor: Option<Covered>,
}

impl<'a> BlockView<'a> {
    pub fn new(block: &'a Block, anchor: Option<&Coverage>) -> Self {
        let net = block.net();
        Self {
            meter: &block.meter,
            start: At(block.span.start()),
            end: At(block.span.end()),
            kwh: net.map(Into::into),
            kwh_import: block.import.map(Into::into),
            kwh_export: block.export.map(Into::into),
            demand_kw: block.import.and_then(|import| mean_power(import, block.nominal_ms.into())),
            avg_kw: net.and_then(|net| mean_power(net, block.covered_ms)),
            max_kw: block.max_power.map(Into::into),
            min_kw: block.min_power.map(Into::into),
            coverage: Decimal::new(block.coverage.into(), 4),
            method: block.method,
            is_peak_hour: block.is_peak_hour,
            flags: block.flags.names(),
            revision: block.revision,
            readings_sha256: block.readings_sha256,
            through_seq: block.through_seq,
            sealed: At(block.sealed),
            anchor: anchor.map(Covered::from),
        }
    }
}

impl<'a> From<&'a (Block, Option<Coverage>)> for BlockView<'a> {
    fn from((block, anchor): &'a (Block, Option<Coverage>)) -> Self {
        Self::new(block, anchor.as_ref())
    }
}

/// The header of a CSV of blocks, in the order of [`push_block_csv`].
pub const BLOCK_CSV: &str = "start,end,kwh,kwh_import,kwh_export,demand_kw,avg_kw,max_kw,min_kw,coverage,method,\
    is_peak_hour,flags,revision,readings_sha256,through_seq,anchor,anchor_state,anchor_transaction\r\n";

/// One line of CSV. Absent is an empty cell, never 0; flags are joined by blanks.
pub fn push_block_csv(out: &mut Vec<u8>, block: &Block, anchor: Option<&Coverage>) {
    let view = BlockView::new(block, None);
    push_text(out, format_args!("{},{}", view.start.0, view.end.0));
    let figures = [view.kwh, view.kwh_import, view.kwh_export, view.demand_kw, view.avg_kw, view.max_kw, view.min_kw];
    for figure in figures.into_iter().chain([Some(view.coverage)]) {
        out.push(b',');
        if let Some(figure) = figure {
            figure.push(out);
        }
    }
    let (method, flags) = (view.method.as_str(), view.flags.join(" "));
    let (peak, revision, digest, seq) = (view.is_peak_hour, view.revision, view.readings_sha256, view.through_seq);
    push_text(out, format_args!(",{method},{peak},{flags},{revision},{digest},{seq},"));
    if let Some(Coverage { id, state, transaction, .. }) = anchor {
        push_text(out, format_args!("{id},{},", state.as_str()));
        if let Some(hash) = transaction {
            push_text(out, format_args!("{hash}"));
        }
    } else {
        out.push(b',');
        out.push(b',');
    }
    out.extend_from_slice(b"\r\n");
}

/// The running block as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenBlock)]
pub struct OpenBlockView<'a> {
    pub meter: &'a MeterId,
    pub start: At,
    pub end: At,
    pub at: At,
    pub kwh: Option<Decimal>,
    pub kwh_import: Option<Decimal>,
    pub kwh_export: Option<Decimal>,
    pub demand_kw: Option<Decimal>,
    pub avg_kw: Option<Decimal>,
    pub max_kw: Option<Decimal>,
    pub min_kw: Option<Decimal>,
    pub coverage: Decimal,
    pub method: Method,
    pub is_peak_hour: bool,
    #[schema(value_type = Vec<crate::model::BlockFlag>, max_items = 10)]
    pub flags: Vec<&'static str>,
    pub projected_kwh: Option<Decimal>,
    pub remaining_s: i64,
    pub peak_target_kwh: Option<Decimal>,
    pub shed_kw: Option<Decimal>,
}

impl<'a> From<&'a OpenBlock> for OpenBlockView<'a> {
    fn from(open: &'a OpenBlock) -> Self {
        let net = open.net();
        Self {
            meter: &open.meter,
            start: At(open.span.start()),
            end: At(open.span.end()),
            at: At(open.at),
            kwh: net.map(Into::into),
            kwh_import: open.import.map(Into::into),
            kwh_export: open.export.map(Into::into),
            demand_kw: open.import.and_then(|import| mean_power(import, open.nominal_ms.into())),
            avg_kw: net.and_then(|net| mean_power(net, open.covered_ms)),
            max_kw: open.max_power.map(Into::into),
            min_kw: open.min_power.map(Into::into),
            coverage: Decimal::new(open.coverage.into(), 4),
            method: open.method,
            is_peak_hour: open.is_peak_hour,
            flags: BlockFlags::names(open.flags),
            projected_kwh: open.projected.map(Into::into),
            // Rounded up: "0 s left" is said only when it is over.
            remaining_s: open.remaining_ms.max(0).saturating_add(999) / 1_000,
            peak_target_kwh: open.peak_target.map(Into::into),
            shed_kw: open.shed.map(Into::into),
        }
    }
}

/// Writes instants as RFC 3339, quickly: the day is kept from one to the next.
#[derive(Default)]
pub struct TimeWriter {
    day: Option<(i64, [u8; 11])>,
}

const DAY_MS: i64 = 86_400_000;

impl TimeWriter {
    pub fn push(&mut self, out: &mut Vec<u8>, at: Timestamp) {
        let (day, within) = (at.as_millis().div_euclid(DAY_MS), at.as_millis().rem_euclid(DAY_MS));
        let prefix = match self.day {
            Some((known, prefix)) if known == day => prefix,
            _ => {
                let text = at.to_string();
                let prefix = text.as_bytes().first_chunk::<11>().filter(|_| text.len() == 24);
                // An instant beyond the year 9999 is written as it prints, whatever that is.
                let Some(prefix) = prefix else { return out.extend_from_slice(text.as_bytes()) };
                self.day = Some((day, *prefix));
                *prefix
            }
        };
        out.extend_from_slice(&prefix);
        let (seconds, millis) = (within / 1_000, within % 1_000);
        push_two(out, seconds / 3_600);
        out.push(b':');
        push_two(out, seconds / 60 % 60);
        out.push(b':');
        push_two(out, seconds % 60);
        out.push(b'.');
        out.push(digit(millis / 100));
        push_two(out, millis % 100);
        out.push(b'Z');
    }
}

fn push_two(out: &mut Vec<u8>, value: i64) {
    out.push(digit(value / 10));
    out.push(digit(value % 10));
}

/// The last decimal digit of a number that is not negative.
fn digit(value: i64) -> u8 {
    b'0' + u8::try_from(value % 10).unwrap_or(0)
}

/// A member that tells which of a reading's values are the energy of an interval, where any is.
pub fn push_intervals(out: &mut Vec<u8>, reading: &StoredReading) {
    if !reading.layout.has_intervals() {
        return;
    }
    let slots = reading.values.iter().filter_map(|(place, _)| reading.layout.slots.get(usize::from(*place)));
    let intervals: BTreeMap<_, _> = slots.filter_map(|slot| Some((&slot.quantity, slot.interval?))).collect();
    if !intervals.is_empty() {
        out.extend_from_slice(b",\"intervals\":");
        push_json(out, &intervals);
    }
}

/// Formats into a buffer of bytes.
pub fn push_text(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).ok(); // writing to memory does not fail
}

/// Writes JSON into a buffer of bytes. What this room shows always serialises.
pub fn push_json(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn energy_keeps_every_micro_watt_hour() {
        let json = |uwh| serde_json::to_string(&Decimal::from(Energy::from_uwh(uwh))).unwrap();
        assert_eq!(json(0), "0");
        assert_eq!(json(1), "0.000000001");
        assert_eq!(json(-1_500_000_000), "-1.5");
        assert_eq!(json(60_000_000_000), "60");
        assert_eq!(json(123_456_789_123_456_789), "123456789.123456789");
        assert_eq!(json(i64::MIN), "-9223372036.854775808");
    }

    #[test]
    fn mean_power_is_energy_over_time_to_the_micro_watt() {
        let mean = |uwh, millis| mean_power(Energy::from_uwh(uwh), millis).map(|power| power.units);
        assert_eq!(mean(50_000_000_000, 1_800_000), Some(100_000_000_000));
        assert_eq!(mean(1, 1_800_001), Some(2));
        assert_eq!(mean(-1, 1_800_000), Some(-2));
        assert_eq!(mean(1, 0), None);
        assert_eq!(mean(i64::MAX, 1), None);
    }

    proptest! {
        #[test]
        fn an_instant_prints_as_its_display(millis in proptest::collection::vec(-62_135_596_800_000..253_402_300_799_999_i64, 1..8)) {
            let mut writer = TimeWriter::default();
            for at in millis.into_iter().flat_map(|at| [at, at + 1]).map(Timestamp::from_millis) {
                prop_assert_eq!(text(|out| writer.push(out, at)), at.to_string());
            }
        }

        #[test]
        fn a_decimal_reads_back(units in any::<i64>(), decimals in 0..=9_u32) {
            let written = text(|out| Decimal::new(units, decimals).push(out));
            let (whole, part) = written.split_once('.').unwrap_or((&written, ""));
            let padded = format!("{whole}{part:0<width$}", width = decimals as usize);
            prop_assert_eq!(padded.parse::<i64>().unwrap(), units);
            prop_assert!(!written.contains('.') || !written.ends_with('0'));
        }
    }
}
