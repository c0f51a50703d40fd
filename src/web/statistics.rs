//! `/api/meters/{id}/statistics` and `/api/organization/summary`: one period of the site's calendar in figures, from its
//! sealed blocks. They are read in windows, one meter after the other, so that a year of many meters costs no memory.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{Object, Schema, Type};
use utoipa::{IntoParams, ToSchema};

use super::Web;
use super::periods::{Period, Summing, period_of, plus};
use super::problem::Problem;
use super::query::{Asked, Named, Resolution, one_of_these};
use super::readings::{BlockRows, known};
use super::wire::{At, Decimal, Json, mean_power};
use crate::model::{Block, BlockFlags, Category, Energy, MeterId, Origin, Span, Timestamp};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PeriodAsked {
    /// In the site's time; `today` unless told.
    #[param(schema_with = period_schema)]
    period: Option<String>,
}

/// The periods that have a name: which step of the calendar, and whether it is the one before that of now.
const PERIODS: [(&str, (Resolution, bool)); 7] = [
    ("today", (Resolution::Day, false)),
    ("yesterday", (Resolution::Day, true)),
    ("week", (Resolution::Week, false)),
    ("last_week", (Resolution::Week, true)),
    ("month", (Resolution::Month, false)),
    ("last_month", (Resolution::Month, true)),
    ("year", (Resolution::Year, false)),
];

fn period_schema() -> Schema {
    Object::builder().schema_type(Type::String).enum_values(Some(PERIODS.map(|(name, _)| name))).into()
}

/// The period that was asked for.
struct Chosen {
    name: &'static str,
    resolution: Resolution,
    span: Span,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Statistics)]
struct StatisticsView {
    #[schema(schema_with = period_schema)]
    period: &'static str,
    from: At,
    to: At,
    #[serde(flatten)]
    figures: Figures,
}

/// What a period comes to. Absent is not zero: nothing sealed is nothing known.
#[derive(Default, Serialize, ToSchema)]
struct Figures {
    kwh: Option<Decimal>,
    kwh_import: Option<Decimal>,
    kwh_export: Option<Decimal>,
    /// Over the time that readings cover.
    avg_kw: Option<Decimal>,
    /// The greatest of a reading, and when the block that it lies in began.
    max_kw: Option<Decimal>,
    max_kw_at: Option<At>,
    max_demand_kw: Option<Decimal>,
    max_demand_at: Option<At>,
    peak_hours_kwh: Option<Decimal>,
    off_peak_kwh: Option<Decimal>,
    coverage: Option<Decimal>,
    /// When the first block with energy began: what lies before it may be of a time when nothing was measured yet.
    first_block_at: Option<At>,
    blocks: u32,
    #[schema(value_type = Vec<crate::model::BlockFlag>, max_items = 10)]
    flags: Vec<&'static str>,
}

impl From<&Period> for Figures {
    fn from(period: &Period) -> Self {
        let more = &period.more;
        Self {
            kwh: period.kwh,
            kwh_import: period.kwh_import,
            kwh_export: period.kwh_export,
            avg_kw: more.net.and_then(|net| mean_power(net, more.covered_ms)),
            max_kw: period.max_kw,
            max_kw_at: more.max_at.map(At),
            max_demand_kw: period.max_demand_kw,
            max_demand_at: period.max_demand_at,
            peak_hours_kwh: more.peak.map(Into::into),
            off_peak_kwh: more.off_peak.map(Into::into),
            coverage: Some(period.coverage),
            first_block_at: more.first.map(At),
            blocks: period.blocks,
            flags: period.flags.clone(),
        }
    }
}

/// What one period of the site's calendar comes to, from the sealed blocks of a meter
#[utoipa::path(
    get,
    path = "/api/meters/{id}/statistics",
    params(("id" = MeterId, Path, description = "The meter's id"), PeriodAsked),
    responses(
        (status = 200, description = "The figures", body = StatisticsView),
        (status = 404, description = "There is no such meter")
    )
)]
pub async fn statistics(
    State(web): State<Web>,
    Named(id): Named,
    Asked(asked): Asked<PeriodAsked>,
) -> Result<Response, Problem> {
    let meter = known(&web, &id).await?;
    let asked = Chosen::of(&asked, &web.zone(), web.views.clock.now())?;
    let period = asked.sum(&web, meter, |_| ()).await?;
    let figures = period.as_ref().map(Figures::from).unwrap_or_default();
    let Chosen { name, span, .. } = asked;
    Ok(Json(StatisticsView { period: name, from: At(span.start()), to: At(span.end()), figures }).into_response())
}

#[derive(Serialize, ToSchema)]
#[schema(as = OrganizationSummary)]
struct SummaryView<'a> {
    organization: &'a str,
    site: &'a str,
    #[schema(schema_with = period_schema)]
    period: &'static str,
    from: At,
    to: At,
    /// By the name of the category.
    #[schema(value_type = BTreeMap<String, Figures>)]
    categories: BTreeMap<&'static str, Figures>,
    meters: Vec<MeterFigures<'a>>,
}

#[derive(Serialize, ToSchema)]
struct MeterFigures<'a> {
    id: &'a MeterId,
    name: &'a str,
    category: Category,
    /// A sum of other meters: it is in no category's figures, in which its parts are.
    sum: bool,
    #[serde(flatten)]
    figures: Figures,
}

/// What one period of the site's calendar comes to, by category and by meter
#[utoipa::path(
    get,
    path = "/api/organization/summary",
    params(PeriodAsked),
    responses((status = 200, description = "The figures", body = SummaryView))
)]
pub async fn summary(State(web): State<Web>, Asked(asked): Asked<PeriodAsked>) -> Result<Response, Problem> {
    let asked = Chosen::of(&asked, &web.zone(), web.views.clock.now())?;
    let (site, all) = (web.site(), web.views.meters.borrow().clone());
    let (mut categories, mut meters) = (BTreeMap::<&str, Together>::new(), Vec::with_capacity(all.len()));
    for meter in all.iter() {
        let sum = matches!(meter.origin, Origin::Sum { .. });
        // What somebody makes up is no energy of the plant.
        let counts = !sum && !matches!(meter.origin, Origin::Simulator);
        let mut together = counts.then(|| categories.entry(meter.category.as_str()).or_default());
        let period = asked
            .sum(&web, meter.id.clone(), |block| {
                if let Some(together) = &mut together {
                    together.at_once(block);
                }
            })
            .await?;
        if let Some(together) = together {
            together.add(period.as_ref());
        }
        let figures = period.as_ref().map(Figures::from).unwrap_or_default();
        meters.push(MeterFigures { id: &meter.id, name: &meter.name, category: meter.category, sum, figures });
    }
    let Chosen { name, span, .. } = asked;
    let summary = SummaryView {
        organization: &site.organization,
        site: &site.name,
        period: name,
        from: At(span.start()),
        to: At(span.end()),
        categories: categories.into_iter().map(|(category, together)| (category, together.figures())).collect(),
        meters,
    };
    Ok(Json(summary).into_response())
}

impl Chosen {
    fn of(asked: &PeriodAsked, zone: &TimeZone, now: Timestamp) -> Result<Self, Problem> {
        let named = one_of_these("period", asked.period.as_deref(), &PERIODS)?;
        let (resolution, before) = named.unwrap_or((Resolution::Day, false));
        let name = PERIODS.iter().find(|(_, period)| *period == (resolution, before)).map_or("today", |(name, _)| name);
        let span = period_of(now, resolution, zone);
        let span =
            if before { span.and_then(|span| period_of(span.start().plus_millis(-1), resolution, zone)) } else { span };
        let span = span.ok_or_else(|| Problem::BadRequest(format!("the clock says {now}, which no calendar has")))?;
        Ok(Self { name, resolution, span })
    }

    /// The period of one meter; `each` sees every block of it as it goes by. `None` when nothing of it is sealed.
    async fn sum(&self, web: &Web, meter: MeterId, mut each: impl FnMut(&Block)) -> Result<Option<Period>, Problem> {
        let mut summing = Summing::new(self.resolution, web.zone(), self.span);
        let mut blocks = BlockRows::overlapping(&web.views.reader, meter, self.span).await?;
        let mut sum = None;
        while let Some((block, _)) = blocks.next().await? {
            if self.span.contains(block.span.start()) {
                each(&block);
            }
            summing.add(&block, |period| sum = Some(period));
        }
        summing.finish(|period| sum = Some(period));
        Ok(sum)
    }
}

/// The meters of one category, taken together.
#[derive(Default)]
struct Together {
    meters: u32,
    net: Option<Energy>,
    import: Option<Energy>,
    export: Option<Energy>,
    peak: Option<Energy>,
    off_peak: Option<Energy>,
    /// Sum of what each meter took on average.
    average: Option<i64>,
    /// What all of them took in the blocks that began at one time, and how long those are: their greatest demand is
    /// that of one block, and not the sum of each one's own.
    blocks_at: BTreeMap<Timestamp, (Energy, u32)>,
    coverage: Option<i64>,
    first: Option<Timestamp>,
    blocks: u32,
    flags: BlockFlags,
}

impl Together {
    fn at_once(&mut self, block: &Block) {
        let Some(import) = block.import.filter(|_| block.span.millis() <= i64::from(block.nominal_ms)) else { return };
        let (all, _) = self.blocks_at.entry(block.span.start()).or_insert((Energy::from_uwh(0), block.nominal_ms));
        *all = all.checked_add(import).unwrap_or(*all);
    }

    fn add(&mut self, period: Option<&Period>) {
        self.meters += 1;
        let Some(period) = period else { return };
        let more = &period.more;
        self.net = plus(self.net, more.net);
        self.import = plus(self.import, more.import);
        self.export = plus(self.export, more.export);
        self.peak = plus(self.peak, more.peak);
        self.off_peak = plus(self.off_peak, more.off_peak);
        if let Some(average) = more.net.and_then(|net| mean_power(net, more.covered_ms)) {
            self.average = Some(self.average.unwrap_or(0).saturating_add(average.units()));
        }
        self.coverage = Some(self.coverage.unwrap_or(0) + period.coverage.units());
        self.first = [self.first, more.first].into_iter().flatten().min();
        self.blocks += period.blocks;
        self.flags = self.flags.union(more.flags);
    }

    fn figures(self) -> Figures {
        let mut demand: Option<(Decimal, Timestamp)> = None;
        for (start, (import, nominal_ms)) in self.blocks_at {
            if let Some(mean) = mean_power(import, nominal_ms.into())
                && demand.is_none_or(|(greatest, _)| mean > greatest)
            {
                demand = Some((mean, start));
            }
        }
        Figures {
            kwh: self.net.map(Into::into),
            kwh_import: self.import.map(Into::into),
            kwh_export: self.export.map(Into::into),
            avg_kw: self.average.map(|units| Decimal::new(units, 9)),
            // Each meter had its greatest power at a time of its own.
            max_kw: None,
            max_kw_at: None,
            max_demand_kw: demand.map(|(demand, _)| demand),
            max_demand_at: demand.map(|(_, at)| At(at)),
            peak_hours_kwh: self.peak.map(Into::into),
            off_peak_kwh: self.off_peak.map(Into::into),
            first_block_at: self.first.map(At),
            coverage: self.coverage.map(|sum| Decimal::new(sum / i64::from(self.meters.max(1)), 4)),
            blocks: self.blocks,
            flags: self.flags.names(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn span(period: &str, zone: &str, now: &str) -> (String, String) {
        let asked = PeriodAsked { period: Some(period.to_owned()) };
        let named = Chosen::of(&asked, &TimeZone::get(zone).unwrap(), at(now)).ok().unwrap();
        assert_eq!(named.name, period);
        (named.span.start().to_string(), named.span.end().to_string())
    }

    #[test]
    fn a_period_begins_and_ends_by_the_sites_calendar() {
        let malaysia = |period| span(period, "Asia/Kuala_Lumpur", "2026-11-21T07:18:12Z");
        let spans = [
            ("today", "2026-11-20T16:00:00.000Z", "2026-11-21T16:00:00.000Z"),
            ("yesterday", "2026-11-19T16:00:00.000Z", "2026-11-20T16:00:00.000Z"),
            ("week", "2026-11-15T16:00:00.000Z", "2026-11-22T16:00:00.000Z"),
            ("last_week", "2026-11-08T16:00:00.000Z", "2026-11-15T16:00:00.000Z"),
            ("month", "2026-10-31T16:00:00.000Z", "2026-11-30T16:00:00.000Z"),
            ("last_month", "2026-09-30T16:00:00.000Z", "2026-10-31T16:00:00.000Z"),
            ("year", "2025-12-31T16:00:00.000Z", "2026-12-31T16:00:00.000Z"),
        ];
        for (period, from, to) in spans {
            assert_eq!(malaysia(period), (from.to_owned(), to.to_owned()), "{period}");
        }
    }

    #[test]
    fn a_day_on_which_the_clocks_change_is_as_long_as_it_is() {
        let hours = |period, now| {
            let (from, to) = span(period, "Europe/Berlin", now);
            at(&to).millis_since(at(&from)) / 3_600_000
        };
        assert_eq!(hours("today", "2026-10-25T12:00:00Z"), 25);
        assert_eq!(hours("yesterday", "2026-10-26T12:00:00Z"), 25);
        assert_eq!(hours("today", "2026-03-29T12:00:00Z"), 23);
        assert_eq!(hours("month", "2026-03-29T12:00:00Z"), 31 * 24 - 1);
    }
}
