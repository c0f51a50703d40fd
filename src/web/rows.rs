//! What the rows of `/api/meters/{id}/readings` look like. They are written by hand; this is what the description says of
//! them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::periods::Period;
use super::wire::{At, BlockView, Decimal};
use crate::model::Interval;

/// What comes depends on `resolution`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only describes")]
pub enum Row {
    Raw(RawRow),
    Minute(MinuteRow),
    Block(BlockView<'static>),
    Period(Period),
}

/// One reading. Each quantity that was read is a member, such as `power_kw`; what is absent is left out.
#[derive(Serialize, ToSchema)]
pub struct RawRow {
    time: At,
    seq: u64,
    /// The quantities that are the energy of an interval, and no register's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    intervals: Option<BTreeMap<String, Interval>>,
    /// There where the clock was not synchronised.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    clock: Option<Unsynchronised>,
    /// There where another value for the same quantity and time came first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    conflict: Option<bool>,
    #[serde(flatten)]
    values: BTreeMap<String, f64>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes")]
enum Unsynchronised {
    Unsynchronised,
}

/// A minute with readings. What is absent is left out.
#[derive(Serialize, ToSchema)]
pub struct MinuteRow {
    start: At,
    #[schema(nullable = false)]
    power_mean_kw: Option<Decimal>,
    #[schema(nullable = false)]
    power_min_kw: Option<Decimal>,
    #[schema(nullable = false)]
    power_max_kw: Option<Decimal>,
    #[schema(nullable = false)]
    energy_import_kwh: Option<Decimal>,
    #[schema(nullable = false)]
    energy_export_kwh: Option<Decimal>,
    readings: u32,
}
