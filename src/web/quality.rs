//! How good the data of a period is: gaps, and what is stale, frozen or out of range.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Web;
use super::meters::Moment;
use super::problem::Problem;
use super::query::{Asked, RangeAsked, Resolution, instant_schema};
use super::wire::{At, Decimal, Json};
use crate::model::{Block, BlockFlag, BlockFlags, Energy, MeterId, Quantity, Timestamp, Unit};
use crate::store::LiveValues;

/// The longest period looked at, and the most gaps listed for a meter.
const LONGEST_MS: i64 = 62 * 86_400_000;
const GAPS: usize = 100;
/// A power that has not moved at all for this long is frozen.
const FROZEN_MS: i64 = 3_600_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QualityAsked {
    #[param(schema_with = instant_schema)]
    from: Option<String>,
    #[param(schema_with = instant_schema)]
    to: Option<String>,
    /// Of this meter alone; of all of them unless told.
    #[param(value_type = Option<MeterId>)]
    meter: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Quality)]
struct QualityView<'a> {
    meter: &'a MeterId,
    start: At,
    end: At,
    /// Share of the sealed time that readings cover.
    coverage: Option<Decimal>,
    blocks: usize,
    blocks_without_energy: usize,
    /// Blocks with each flag, by its name.
    #[schema(value_type = std::collections::BTreeMap<String, usize>)]
    flags: std::collections::BTreeMap<&'static str, usize>,
    revised: usize,
    /// The newest of them, in the order of time.
    #[schema(max_items = 100)]
    gaps: Vec<Stretch>,
    /// There are more gaps than are listed.
    more_gaps: bool,
    frozen: Vec<Stretch>,
    /// Now: no fresh value.
    stale: bool,
    /// Now: values that cannot be.
    out_of_range: Vec<OutOfRange<'a>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Stretch)]
struct Stretch {
    start: At,
    end: At,
}

#[derive(Serialize, ToSchema)]
struct OutOfRange<'a> {
    quantity: &'a Quantity,
    value: f64,
    /// What it should lie within.
    expected: &'static str,
}

/// How good the data of a period is, meter by meter: gaps, and what is stale, frozen or out of range
///
/// The last 24 h unless told; at most 62 days.
#[utoipa::path(
    get,
    path = "/api/quality",
    params(QualityAsked),
    responses(
        (status = 200, description = "The meters", body = [QualityView]),
        (status = 404, description = "There is no such meter")
    )
)]
pub async fn quality(State(web): State<Web>, Asked(asked): Asked<QualityAsked>) -> Result<Response, Problem> {
    let now = web.views.clock.now();
    let from = asked.from.or_else(|| asked.to.is_none().then(|| now.plus_millis(-86_400_000).as_millis().to_string()));
    let span = RangeAsked { from, to: asked.to, ..RangeAsked::default() }.span(Resolution::Raw, &web.zone(), now)?;
    if span.millis() > LONGEST_MS {
        let what = format!("{span} is longer than 62 days: ask for less at a time");
        return Err(Problem::Parameter { name: "from", what });
    }
    let one = asked.meter.as_deref().map(|id| web.meter(id)).transpose()?;
    let (moment, all) = (Moment::take(&web), web.views.meters.borrow().clone());
    let meters = one.as_ref().map_or(all.as_slice(), std::slice::from_ref);
    let mut views = Vec::with_capacity(meters.len());
    for meter in meters {
        let mut blocks = web.views.reader.blocks(&meter.id, span).await?;
        blocks.retain(|block| span.contains(block.span.start()));
        let mut gaps = stretches(&blocks, 0, |block| block.flags.has(BlockFlag::Gap) || block.coverage == 0);
        let more_gaps = gaps.len() > GAPS;
        gaps.drain(..gaps.len().saturating_sub(GAPS));
        views.push(QualityView {
            meter: &meter.id,
            start: At(span.start()),
            end: At(span.end()),
            coverage: coverage(&blocks),
            blocks: blocks.len(),
            blocks_without_energy: blocks.iter().filter(|block| block.net().is_none()).count(),
            flags: flags(&blocks),
            revised: blocks.iter().filter(|block| block.revision > 0).count(),
            gaps,
            more_gaps,
            frozen: frozen(&blocks),
            stale: moment.is_stale(meter),
            out_of_range: out_of_range(&moment.live, &meter.id),
        });
    }
    Ok(Json(views).into_response())
}

fn coverage(blocks: &[Block]) -> Option<Decimal> {
    let (covered, all) = blocks.iter().fold((0_i64, 0_i64), |(covered, all), block| {
        (covered.saturating_add(block.covered_ms), all.saturating_add(block.span.millis()))
    });
    (all > 0).then(|| Decimal::new((covered.saturating_mul(10_000) / all).clamp(0, 10_000), 4))
}

fn flags(blocks: &[Block]) -> std::collections::BTreeMap<&'static str, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for name in blocks.iter().flat_map(|block| BlockFlags::names(block.flags)) {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Adjoining blocks for which `holds`, joined, when they are at least `shortest` ms long together.
fn stretches(blocks: &[Block], shortest: i64, holds: impl Fn(&Block) -> bool) -> Vec<Stretch> {
    let mut found: Vec<(Timestamp, Timestamp)> = Vec::new();
    for block in blocks.iter().filter(|block| holds(block)) {
        match found.last_mut() {
            Some((_, end)) if *end == block.span.start() => *end = block.span.end(),
            _ => found.push((block.span.start(), block.span.end())),
        }
    }
    let long_enough = found.into_iter().filter(|(start, end)| end.millis_since(*start) >= shortest);
    long_enough.map(|(start, end)| Stretch { start: At(start), end: At(end) }).collect()
}

/// Power that stays at one value which is not zero while the register stands still: the meter repeats its last answer.
fn frozen(blocks: &[Block]) -> Vec<Stretch> {
    let stands = |energy: Option<Energy>| energy.is_none_or(|energy| energy == Energy::ZERO);
    stretches(blocks, FROZEN_MS, |block| {
        let still =
            matches!((block.min_power, block.max_power), (Some(min), Some(max)) if min == max && min.as_mw() != 0);
        still && block.net().is_some() && stands(block.import) && stands(block.export)
    })
}

fn out_of_range<'a>(live: &'a LiveValues, meter: &MeterId) -> Vec<OutOfRange<'a>> {
    let values = live.get(meter).into_iter().flatten();
    let beyond = values.filter_map(|(quantity, live)| {
        let expected = expected(quantity, live.value)?;
        Some(OutOfRange { quantity, value: live.value, expected })
    });
    beyond.collect()
}

/// What a value should lie within, when it does not. Wide bounds: only what no plant has.
fn expected(quantity: &Quantity, value: f64) -> Option<&'static str> {
    let (range, told) = match quantity.unit() {
        Unit::Hertz => (40.0..=70.0, "40 to 70 Hz"),
        Unit::Percent => (0.0..=100.0, "0 to 100 %"),
        Unit::Volts => (0.0..=500_000.0, "0 to 500 kV"),
        Unit::Celsius => (-60.0..=1_500.0, "-60 to 1500 °C"),
        Unit::KilowattHours => (0.0..=1e12, "0 or more"),
        Unit::One if quantity.as_str().contains("power_factor") => (-1.0..=1.0, "-1 to 1"),
        _ => return None,
    };
    (!range.contains(&value)).then_some(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_plant_has_is_out_of_range() {
        let told = |quantity: &str, value| expected(&quantity.parse().unwrap(), value);
        assert_eq!(told("frequency_hz", 49.98), None);
        assert_eq!(told("frequency_hz", 0.0), Some("40 to 70 Hz"));
        assert_eq!(told("power_factor", 1.2), Some("-1 to 1"));
        assert_eq!(told("soc_percent", 101.0), Some("0 to 100 %"));
        assert_eq!(told("power_kw", -1e9), None);
    }
}
