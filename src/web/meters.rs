//! Meters: what they are, what they said last, and how old that is.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::Web;
use super::commissioning::{self, OneMeterView};
use super::openapi::perhaps;
use super::problem::Problem;
use super::query::{Asked, Named, Nothing, day_start};
use super::wire::{At, Decimal, Json, OpenBlockView};
use crate::model::{
    Block, Category, Condition, Energy, Interval, Meter, MeterId, MeterStatus, Origin, Quantity, Span, Timestamp,
};
use crate::store::{Live, LiveValues};

/// A value older than max(3 × interval, this) is stale.
const FRESH_MS: i64 = 60_000;

/// A meter as lists show it. `id` is also given as `device_id`, and the target by both names in use.
#[derive(Serialize, ToSchema)]
#[schema(as = Meter)]
pub struct MeterView<'a> {
    id: &'a MeterId,
    device_id: &'a MeterId,
    name: &'a str,
    category: Category,
    simulated: bool,
    peak_target_kwh: Option<Decimal>,
    target_peak_kwh: Option<Decimal>,
    interval_ms: Option<u32>,
    #[serde(flatten)]
    origin: OriginView<'a>,
    #[serde(flatten)]
    #[schema(value_type = PerhapsStatus, inline)]
    status: Option<StatusView<'a>>,
    /// Of the power, where there is one; else of the newest value.
    age_ms: Option<i64>,
    stale: bool,
    power_kw: Option<f64>,
    #[schema(value_type = BTreeMap<String, ValueView>)]
    values: BTreeMap<&'a Quantity, ValueView>,
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = MeterOrigin)]
enum OriginView<'a> {
    Modbus { line: &'a str, unit: u8, template: &'a str, verified: bool },
    Mqtt { broker: &'a str, r#match: &'a str },
    Simulator,
    Sum { add: &'a [MeterId], subtract: &'a [MeterId] },
}

#[derive(Serialize, ToSchema)]
#[schema(as = MeterStatus)]
struct StatusView<'a> {
    condition: Condition,
    since: At,
    last_answer: Option<At>,
    problem: Option<&'a str>,
    refused_registers: &'a [u16],
}

struct PerhapsStatus;

impl PartialSchema for PerhapsStatus {
    fn schema() -> RefOr<Schema> {
        perhaps::<StatusView>()
    }
}

impl ToSchema for PerhapsStatus {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        StatusView::schemas(schemas);
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = MeterValue)]
struct ValueView {
    value: f64,
    time: At,
    age_ms: i64,
    stale: bool,
    /// The value is the energy of an interval, and no register's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    interval: Option<Interval>,
}

/// What is known of all meters at one moment.
pub struct Moment {
    pub now: Timestamp,
    meters: std::sync::Arc<Vec<Meter>>,
    pub live: std::sync::Arc<LiveValues>,
    pub sources: std::sync::Arc<crate::model::SourcesStatus>,
}

impl Moment {
    pub fn take(web: &Web) -> Self {
        Self {
            now: web.views.clock.now(),
            meters: web.views.meters.borrow().clone(),
            live: web.views.reader.live(),
            sources: web.views.sources.borrow().clone(),
        }
    }

    pub fn view<'a>(&'a self, meter: &'a Meter) -> MeterView<'a> {
        let values = self.live.get(&meter.id);
        let limit = fresh_for(meter);
        let age = |live: &Live| self.now.millis_since(live.time).max(0);
        let power = self.power(meter);
        let shown = power.or_else(|| values.and_then(|values| values.values().max_by_key(|live| live.time)).copied());
        let target = meter.peak_target.map(Decimal::from);
        MeterView {
            id: &meter.id,
            device_id: &meter.id,
            name: &meter.name,
            category: meter.category,
            simulated: meter.simulated,
            peak_target_kwh: target,
            target_peak_kwh: target,
            interval_ms: meter.interval_ms,
            origin: origin_view(&meter.origin),
            status: self.sources.meters.get(&meter.id).map(status_view),
            age_ms: shown.as_ref().map(age),
            stale: shown.as_ref().is_none_or(|live| age(live) > limit),
            power_kw: power.map(|live| live.value),
            values: values
                .into_iter()
                .flatten()
                .map(|(quantity, live)| (quantity, value_view(live, age(live), limit)))
                .collect(),
        }
    }

    /// The power that a meter shows. That of a sum is the sum of its parts' as long as all are known, and as old as the
    /// oldest; its sign goes by the sum's own category.
    pub fn power(&self, meter: &Meter) -> Option<Live> {
        let Origin::Sum { add, subtract } = &meter.origin else {
            return self
                .live
                .get(&meter.id)?
                .iter()
                .find(|(quantity, _)| quantity.as_str() == Quantity::POWER)
                .map(|(_, live)| *live);
        };
        let mut sum = Live { value: 0.0, time: Timestamp::MAX, interval: None };
        for (sign, id) in add.iter().map(|id| (1.0, id)).chain(subtract.iter().map(|id| (-1.0, id))) {
            let part = self.meters.iter().find(|part| part.id == *id)?;
            let power = self.power(part)?;
            // What a part produces is what a sum that consumes does not take.
            let same_way = part.category.counts_import() == meter.category.counts_import();
            sum.value += if same_way { sign * power.value } else { -sign * power.value };
            sum.time = sum.time.min(power.time);
        }
        Some(sum)
    }

    pub fn is_stale(&self, meter: &Meter) -> bool {
        let newest = || self.live.get(&meter.id)?.values().max_by_key(|live| live.time).copied();
        let shown = self.power(meter).or_else(newest);
        shown.is_none_or(|live| self.now.millis_since(live.time) > fresh_for(meter))
    }
}

/// How old a meter's value may be before it is shown as stale.
pub fn fresh_for(meter: &Meter) -> i64 {
    meter.interval_ms.map_or(FRESH_MS, |interval| FRESH_MS.max(3 * i64::from(interval)))
}

fn origin_view(origin: &Origin) -> OriginView<'_> {
    match origin {
        Origin::Modbus { line, unit, template, verified } => {
            OriginView::Modbus { line: line.as_str(), unit: *unit, template, verified: *verified }
        }
        Origin::Mqtt { broker, name } => OriginView::Mqtt { broker: broker.as_str(), r#match: name },
        Origin::Simulator => OriginView::Simulator,
        Origin::Sum { add, subtract } => OriginView::Sum { add, subtract },
    }
}

fn status_view(status: &MeterStatus) -> StatusView<'_> {
    StatusView {
        condition: status.condition,
        since: At(status.since),
        last_answer: status.last_answer.map(At),
        problem: status.problem.as_deref(),
        refused_registers: &status.refused_registers,
    }
}

fn value_view(live: &Live, age_ms: i64, limit: i64) -> ValueView {
    ValueView { value: live.value, time: At(live.time), age_ms, stale: age_ms > limit, interval: live.interval }
}

/// Every meter with its live values, their age, its condition and what is wrong with it
#[utoipa::path(get, path = "/api/meters", responses((status = 200, description = "The meters", body = [MeterView])))]
pub async fn list(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Response {
    let (moment, meters) = (Moment::take(&web), web.views.meters.borrow().clone());
    Json(meters.iter().map(|meter| moment.view(meter)).collect::<Vec<_>>()).into_response()
}

/// One meter, with its commissioning: which meter it is and how it is set up, since when
#[utoipa::path(
    get,
    path = "/api/meters/{id}",
    params(("id" = MeterId, Path, description = "The meter's id")),
    responses(
        (status = 200, description = "The meter", body = OneMeterView),
        (status = 404, description = "There is no such meter")
    )
)]
pub async fn one(
    State(web): State<Web>,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    shown(&web, &id).await
}

/// One meter, as it is now.
pub async fn shown(web: &Web, id: &str) -> Result<Response, Problem> {
    let (meter, moment) = (web.meter(id)?, Moment::take(web));
    let commissioning = commissioning::newest(web, &meter).await?;
    Ok(Json(OneMeterView { meter: moment.view(&meter), commissioning }).into_response())
}

/// The running block, with what it will come to
#[utoipa::path(
    get,
    path = "/api/meters/{id}/current-block",
    params(("id" = MeterId, Path, description = "The meter's id")),
    responses(
        (status = 200, description = "The running block", body = OpenBlockView),
        (status = 404, description = "There is no such meter, or it was not heard yet")
    )
)]
pub async fn current_block(
    State(web): State<Web>,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let meter = web.meter(&id)?;
    let open = web.views.open.borrow().clone();
    let open = open.get(&meter.id).ok_or(Problem::NoBlock(meter.id))?;
    Ok(Json(OpenBlockView::from(open)).into_response())
}

/// One line for each meter: now, the running block and today.
#[derive(Serialize, ToSchema)]
#[schema(as = MeterSummary)]
struct SummaryView<'a> {
    id: &'a MeterId,
    device_id: &'a MeterId,
    name: &'a str,
    category: Category,
    simulated: bool,
    peak_target_kwh: Option<Decimal>,
    target_peak_kwh: Option<Decimal>,
    condition: Option<Condition>,
    last_answer: Option<At>,
    stale: bool,
    power_kw: Option<f64>,
    current_kwh: Option<Decimal>,
    projected_kwh: Option<Decimal>,
    shed_kw: Option<Decimal>,
    /// Sealed blocks of the local day and the running one; absent when none has energy.
    today_kwh: Option<Decimal>,
    today_max_block_kwh: Option<Decimal>,
    today_max_block_start: Option<At>,
}

/// A line for each meter: now, the running block, today
#[utoipa::path(
    get,
    path = "/api/meters/summary",
    responses((status = 200, description = "The meters", body = [SummaryView]))
)]
pub async fn summary(State(web): State<Web>, Asked(Nothing {}): Asked<Nothing>) -> Result<Response, Problem> {
    let (moment, meters) = (Moment::take(&web), web.views.meters.borrow().clone());
    let open = web.views.open.borrow().clone();
    let today = day_start(moment.now, &web.zone()).and_then(|start| Span::new(start, moment.now.plus_millis(1)));
    let mut lines = Vec::with_capacity(meters.len());
    for meter in meters.iter() {
        let blocks = match today {
            Some(today) => web.views.reader.blocks(&meter.id, today).await?,
            None => Vec::new(),
        };
        let started = blocks.iter().filter(|block| today.is_some_and(|today| today.contains(block.span.start())));
        let energies: Vec<(Energy, Timestamp)> =
            started.filter_map(|block: &Block| Some((block.net()?, block.span.start()))).collect();
        let greatest = energies.iter().max_by_key(|(energy, start)| (*energy, std::cmp::Reverse(*start)));
        let open = open.get(&meter.id);
        let running = open.and_then(crate::model::OpenBlock::net);
        let status = moment.sources.meters.get(&meter.id);
        lines.push(SummaryView {
            id: &meter.id,
            device_id: &meter.id,
            name: &meter.name,
            category: meter.category,
            simulated: meter.simulated,
            peak_target_kwh: meter.peak_target.map(Into::into),
            target_peak_kwh: meter.peak_target.map(Into::into),
            condition: status.map(|status| status.condition),
            last_answer: status.and_then(|status| status.last_answer).map(At),
            stale: moment.is_stale(meter),
            power_kw: moment.power(meter).map(|live| live.value),
            current_kwh: running.map(Into::into),
            projected_kwh: open.and_then(|open| open.projected).map(Into::into),
            shed_kw: open.and_then(|open| open.shed).map(Into::into),
            today_kwh: energies
                .iter()
                .map(|(energy, _)| *energy)
                .chain(running)
                .reduce(|sum, energy| sum.checked_add(energy).unwrap_or(sum))
                .map(Into::into),
            today_max_block_kwh: greatest.map(|(energy, _)| (*energy).into()),
            today_max_block_start: greatest.map(|(_, start)| At(*start)),
        });
    }
    Ok(Json(lines).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SourcesStatus;

    #[test]
    fn the_power_of_a_sum_goes_by_the_directions_of_its_parts_through_sums_of_sums() {
        let id = |name: &str| name.parse::<MeterId>().unwrap();
        let meter = |name: &str, category, add: &[&str], subtract: &[&str]| Meter {
            id: id(name),
            name: name.to_owned(),
            category,
            origin: Origin::Sum {
                add: add.iter().map(|part| id(part)).collect(),
                subtract: subtract.iter().map(|part| id(part)).collect(),
            },
            interval_ms: None,
            peak_target: None,
            simulated: false,
        };
        let measured = |name: &str, category| Meter {
            origin: Origin::Modbus { line: "l".parse().unwrap(), unit: 1, template: String::new(), verified: false },
            ..meter(name, category, &[], &[])
        };
        let meters = vec![
            measured("grid", Category::Cons),
            measured("sun", Category::Prod),
            measured("tenant", Category::Cons),
            meter("net", Category::Cons, &["grid", "sun"], &["tenant"]),
            meter("all", Category::Prod, &["net"], &[]),
        ];
        let power = |kw: f64, second: i64| {
            let live = Live { value: kw, time: Timestamp::from_millis(second * 1_000), interval: None };
            BTreeMap::from([(Quantity::POWER.parse().unwrap(), live)])
        };
        let live = [("grid", power(100.0, 3)), ("sun", power(30.0, 2)), ("tenant", power(8.0, 4))];
        let moment = Moment {
            now: Timestamp::from_millis(5_000),
            live: std::sync::Arc::new(live.map(|(name, values)| (id(name), values)).into()),
            sources: std::sync::Arc::new(SourcesStatus::default()),
            meters: std::sync::Arc::new(meters.clone()),
        };
        let shown = |at: usize| moment.power(&meters[at]).map(|live| (live.value, live.time.as_millis()));
        assert_eq!(shown(3), Some((62.0, 2_000)));
        assert_eq!(shown(4), Some((-62.0, 2_000)));
    }
}
