//! Rows as the clients of this protocol know them: those of a database, where decimals and 64-bit numbers are text.

use serde_json::{Value, json};

use crate::model::{
    Block, Energy, Meter, MeterId, OpenBlock, Power, Ratio, Role, Roster, Span, StoredReading, Timestamp,
};
use crate::web::wire::At;

/// Decimals of a row's power, frequency and energy.
const KW: u32 = 2;
const KWH: u32 = 4;
/// A meter that has no interval of its own.
const INTERVAL_MS: u32 = 60_000;

/// A meter's row. Its `id` is a whole number that stays the same for ever.
pub fn meter(meter: &Meter, roster: &Roster) -> Value {
    let simulator = roster.simulators.get(&meter.id);
    json!({
        "id": number(roster, &meter.id),
        "device_id": meter.id,
        "client_name": meter.name,
        "is_simulator": meter.simulated,
        "reading_interval": seconds(meter.interval_ms.unwrap_or(INTERVAL_MS)),
        "target_peak_kwh": meter.peak_target.map(|target| fixed(target.as_uwh(), Energy::KWH_DECIMALS, KW)),
        "whatsapp_number": simulator.and_then(|simulator| simulator.phone.as_deref()),
        "created_at": simulator.map(|simulator| At(simulator.created)),
        "updated_at": simulator.map(|simulator| At(simulator.updated)),
    })
}

/// The number of a meter.
pub fn number(roster: &Roster, meter: &MeterId) -> Option<i64> {
    roster.numbers.get(meter).copied()
}

/// The row of a reading that has just been taken.
pub fn reading(meter: Option<i64>, seq: Option<u64>, at: Timestamp, kw: f64, hz: Option<f64>, ms: u32) -> Value {
    json!({
        "id": seq,
        "meter_id": meter,
        "timestamp": at.as_millis().to_string(),
        "total_power_kw": format!("{kw:.2}"),
        "frequency": hz.map(|hz| format!("{hz:.2}")),
        "reading_interval": seconds(ms),
    })
}

/// The row of a stored reading; nothing of one without power.
pub fn stored(meter: Option<i64>, stored: &StoredReading) -> Option<Value> {
    let shown = |place: Option<u8>| {
        let place = place?;
        Some(stored.layout.slots.get(usize::from(place))?.scale.display(stored.at(place)?))
    };
    let kw = shown(stored.layout.slot_of(Role::Power))?;
    let hz = shown(stored.layout.slot_named("frequency_hz"));
    let told = stored.layout.slot_named("reading_interval_s").and_then(|place| stored.at(place));
    let told = told.and_then(|seconds| u32::try_from(seconds.scaled(Ratio::ONE, 3)?).ok());
    let ms = told.or(stored.layout.interval_ms).unwrap_or(INTERVAL_MS);
    Some(reading(meter, Some(stored.seq), stored.time, kw, hz, ms))
}

/// What a block's row is made of.
struct Figures {
    span: Span,
    net: Energy,
    covered_ms: i64,
    interval_ms: u32,
    max: Option<Power>,
    min: Option<Power>,
    is_peak_hour: bool,
    readings: Option<u64>,
}

/// A sealed block's row; nothing of one without energy. How many readings it has is not kept: as many as its interval
/// needs for what is covered are told.
pub fn block(meter: Option<i64>, block: &Block) -> Option<Value> {
    Some(row(
        meter,
        &Figures {
            span: block.span,
            net: block.net()?,
            covered_ms: block.covered_ms,
            interval_ms: block.interval_ms,
            max: block.max_power,
            min: block.min_power,
            is_peak_hour: block.is_peak_hour,
            readings: None,
        },
    ))
}

/// A running block's row, with the number of its readings where that was counted.
pub fn open_block(
    meter: Option<i64>,
    interval_ms: Option<u32>,
    (open, readings): (&OpenBlock, Option<u64>),
) -> Option<Value> {
    Some(row(
        meter,
        &Figures {
            span: open.span,
            net: open.net()?,
            covered_ms: open.covered_ms,
            interval_ms: interval_ms.unwrap_or(INTERVAL_MS),
            max: open.max_power,
            min: open.min_power,
            is_peak_hour: open.is_peak_hour,
            readings,
        },
    ))
}

fn row(meter: Option<i64>, of: &Figures) -> Value {
    let guessed = || u64::try_from(of.covered_ms / i64::from(of.interval_ms.max(1))).unwrap_or(0).max(1);
    let readings = of.readings.unwrap_or_else(guessed);
    let mean = mean_uw(of.net, of.covered_ms);
    let power = |power: Option<Power>| power.map(|power| fixed(power.as_mw(), Power::KW_DECIMALS, KW));
    json!({
        "meter_id": meter,
        "block_start": At(of.span.start()),
        "block_end": At(of.span.end()),
        "total_kwh": fixed(of.net.as_uwh(), Energy::KWH_DECIMALS, KWH),
        "avg_power_kw": mean.map(|mean| fixed(mean, 9, KW)),
        "max_power_kw": power(of.max),
        "min_power_kw": power(of.min),
        "reading_count": readings,
        "is_peak_hour": of.is_peak_hour,
        "readings": readings,
    })
}

/// Energy over the time that is covered, in µW.
fn mean_uw(energy: Energy, covered_ms: i64) -> Option<i64> {
    let covered = Some(i128::from(covered_ms)).filter(|ms| *ms > 0)?;
    i64::try_from(i128::from(energy.as_uwh()) * 3_600_000 / covered).ok()
}

/// `units / 10^have` as text with exactly `keep` decimals, rounded once, half away from zero.
fn fixed(units: i64, have: u32, keep: u32) -> String {
    let unit = 10_i128.pow(have - keep);
    let rounded = (i128::from(units).abs() + unit / 2) / unit;
    let part = 10_i128.pow(keep);
    let sign = if units < 0 && rounded > 0 { "-" } else { "" };
    format!("{sign}{}.{:0width$}", rounded / part, rounded % part, width = usize::try_from(keep).unwrap_or(0))
}

/// Seconds, whole where they are.
fn seconds(ms: u32) -> Value {
    if ms.is_multiple_of(1_000) { json!(ms / 1_000) } else { json!(f64::from(ms) / 1_000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_text_of_a_fixed_length() {
        assert_eq!(fixed(0, 9, 4), "0.0000");
        assert_eq!(fixed(12_345_650_000, 9, 4), "12.3457");
        assert_eq!(fixed(-12_345_650_000, 9, 4), "-12.3457");
        assert_eq!(fixed(-49_999, 9, 4), "0.0000");
        assert_eq!(fixed(75_000_000, 6, 2), "75.00");
        assert_eq!(fixed(i64::MAX, 9, 2), "9223372036.85");
        assert_eq!(seconds(60_000), json!(60));
        assert_eq!(seconds(1_500), json!(1.5));
    }
}
