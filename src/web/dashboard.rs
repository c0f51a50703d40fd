//! What the page needs, in one call; and the alerts.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::brokers::{self, BrokerView};
use super::commissioning::{self, OneMeterView};
use super::health::{problems, store_health};
use super::meters::{MeterView, Moment};
use super::problem::Problem;
use super::query::{Asked, Resolution, count, one_of_these};
use super::wire::{At, BlockView, Json, OpenBlockView};
use super::{Site, Web, periods, ws};
use crate::model::calendar::Spans;
use crate::model::{Alert, AlertKind, Meter, MeterId, Span};

/// Alerts given at most; the newest are kept in.
const ALERTS: usize = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SnapshotAsked {
    /// The meter that is shown by itself; the first one that has a target unless told. Also `device_id`.
    #[param(value_type = Option<MeterId>)]
    #[serde(alias = "device_id")]
    meter_id: Option<String>,
    /// Who asks by one of these two wants the answer of an older backend, which is not described.
    #[param(ignore)]
    #[serde(rename = "meterId")]
    old_meter: Option<String>,
    #[param(ignore)]
    #[serde(rename = "deviceId")]
    old_device: Option<String>,
    /// Alerts in the answer, 0 to 1000.
    #[param(value_type = Option<u16>, maximum = 1000, default = 20)]
    limit: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Snapshot<'a> {
    timestamp: At,
    version: &'static str,
    site: SiteView<'a>,
    /// The meter that was asked for, or the first that has a target.
    meter: Option<OneMeterView<'a>>,
    all_meters: Vec<MeterView<'a>>,
    current_block: Option<OpenBlockView<'a>>,
    block_info: Option<BlockInfo>,
    /// The running blocks of all meters.
    #[schema(value_type = BTreeMap<String, OpenBlockView>)]
    current_blocks: BTreeMap<&'a MeterId, OpenBlockView<'a>>,
    today: Option<SpanView>,
    peak_hours_today: Vec<SpanView>,
    blocks_today: Vec<BlockView<'a>>,
    #[schema(max_items = 10)]
    last_ten_blocks: Vec<BlockView<'a>>,
    #[schema(max_items = 1000)]
    alerts: Vec<AlertView<'a>>,
    /// How many alerts are not over, those included that are too old to be among `alerts`.
    open_alerts: u32,
    /// How many of these nobody has acknowledged.
    unseen_alerts: u32,
    problems: Vec<String>,
    brokers: Vec<BrokerView<'a>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Site)]
struct SiteView<'a> {
    id: &'a str,
    name: &'a str,
    organization: &'a str,
    timezone: &'a str,
    block_minutes: u8,
    simulated: bool,
}

#[derive(Serialize, ToSchema)]
struct BlockInfo {
    start: At,
    end: At,
    is_peak_hour: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Span)]
struct SpanView {
    start: At,
    end: At,
}

impl From<Span> for SpanView {
    fn from(span: Span) -> Self {
        Self { start: At(span.start()), end: At(span.end()) }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Alert)]
pub struct AlertView<'a> {
    id: i64,
    kind: AlertKind,
    meter: Option<&'a MeterId>,
    text: &'a str,
    occasion: At,
    raised: At,
    cleared: Option<At>,
    delivered: Option<At>,
    /// When somebody said that it is seen to, and who.
    acknowledged: Option<At>,
    acknowledged_by: Option<&'a str>,
}

impl<'a> From<&'a Alert> for AlertView<'a> {
    fn from(alert: &'a Alert) -> Self {
        Self {
            id: alert.id,
            kind: alert.kind,
            meter: alert.meter.as_ref(),
            text: &alert.text,
            occasion: At(alert.occasion),
            raised: At(alert.raised),
            cleared: alert.cleared.map(At),
            delivered: alert.delivered.map(At),
            acknowledged: alert.acknowledged.map(At),
            acknowledged_by: alert.acknowledged_by.as_deref(),
        }
    }
}

/// What the page needs, in one call
#[utoipa::path(
    get,
    path = "/api/dashboard/snapshot",
    params(SnapshotAsked),
    responses(
        (status = 200, description = "All of it at one moment", body = Snapshot),
        (status = 404, description = "There is no such meter")
    )
)]
pub async fn snapshot(State(web): State<Web>, Asked(asked): Asked<SnapshotAsked>) -> Result<Response, Problem> {
    const DAY_MS: i64 = 86_400_000;
    let limit = count("limit", asked.limit.as_deref(), 0..=ALERTS)?;
    if asked.old_meter.is_some() || asked.old_device.is_some() {
        let old = ws::old_snapshot(&web, [asked.old_meter.as_deref(), asked.old_device.as_deref()], limit);
        return Ok(Json(old.await?).into_response());
    }
    let limit = limit.unwrap_or(20);
    let (moment, meters, site) = (Moment::take(&web), web.views.meters.borrow().clone(), web.site());
    let (open, sources) = (web.views.open.borrow().clone(), web.views.sources.borrow().clone());
    let meter = match asked.meter_id {
        Some(id) => Some(web.meter(&id)?),
        None => usual_meter(&meters).cloned(),
    };
    let now = moment.now;
    let today = periods::period_of(now, Resolution::Day, &web.zone());
    // Ten blocks of an hour, and some that a silence left out, lie within a day before now.
    let recent = today.and_then(|today| Span::new(today.start().min(now.plus_millis(-DAY_MS)), today.end()));
    let blocks = match (&meter, recent) {
        (Some(meter), Some(recent)) => web.views.reader.covered_blocks(&meter.id, recent, web.chain()).await?,
        _ => Vec::new(),
    };
    let alerts = web.views.reader.alerts(false, limit).await?;
    let [open_alerts, unseen_alerts] = web.views.reader.count_open_alerts().await?;
    let current = meter.as_ref().and_then(|meter| open.get(&meter.id));
    let commissioning = match &meter {
        Some(meter) => commissioning::newest(&web, meter).await?,
        None => None,
    };
    let snapshot = Snapshot {
        timestamp: At(now),
        version: env!("CARGO_PKG_VERSION"),
        site: site_view(&site),
        meter: meter.as_ref().map(|meter| OneMeterView { meter: moment.view(meter), commissioning }),
        all_meters: meters.iter().map(|meter| moment.view(meter)).collect(),
        current_block: current.map(Into::into),
        block_info: current.map(|open| BlockInfo {
            start: At(open.span.start()),
            end: At(open.span.end()),
            is_peak_hour: open.is_peak_hour,
        }),
        current_blocks: open.iter().map(|(id, open)| (id, open.into())).collect(),
        today: today.map(Into::into),
        peak_hours_today: today.map_or_else(Vec::new, |today| peak_hours(&site, today)),
        blocks_today: blocks
            .iter()
            .filter(|(block, _)| today.is_some_and(|today| today.contains(block.span.start())))
            .map(Into::into)
            .collect(),
        last_ten_blocks: blocks.iter().rev().take(10).map(Into::into).collect(),
        alerts: alerts.iter().map(Into::into).collect(),
        open_alerts,
        unseen_alerts,
        problems: problems(&web, &store_health(&web).await?),
        brokers: brokers::all(&sources),
    };
    Ok(Json(snapshot).into_response())
}

fn usual_meter(meters: &[Meter]) -> Option<&Meter> {
    meters.iter().find(|meter| meter.peak_target.is_some()).or(meters.first())
}

fn site_view(site: &Site) -> SiteView<'_> {
    SiteView {
        id: &site.id,
        name: &site.name,
        organization: &site.organization,
        timezone: &site.timezone,
        block_minutes: site.block_minutes,
        simulated: site.simulated,
    }
}

/// The peak hours that lie in a local day, as blocks have them.
fn peak_hours(site: &Site, today: Span) -> Vec<SpanView> {
    // The config has checked the zone.
    let spans = Spans::new(&site.timezone, site.block_minutes, site.clock_offset_ms, site.peaks.clone());
    spans.map_or_else(|_| Vec::new(), |spans| spans.peaks_in(today).into_iter().map(SpanView::from).collect())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AlertsAsked {
    /// Only what is not over.
    #[param(value_type = Option<bool>, default = false)]
    open: Option<String>,
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// The newest alerts, the newest first
#[utoipa::path(
    get,
    path = "/api/alerts",
    params(AlertsAsked),
    responses((status = 200, description = "The alerts", body = [AlertView]))
)]
pub async fn alerts(State(web): State<Web>, Asked(asked): Asked<AlertsAsked>) -> Result<Response, Problem> {
    let limit = count("limit", asked.limit.as_deref(), 1..=ALERTS)?.unwrap_or(100);
    let open_only = one_of_these("open", asked.open.as_deref(), &[("true", true), ("false", false)])?.unwrap_or(false);
    let alerts = web.views.reader.alerts(open_only, limit).await?;
    Ok(Json(alerts.iter().map(AlertView::from).collect::<Vec<_>>()).into_response())
}
