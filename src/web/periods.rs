//! What derives from blocks and readings in local time: hours, days, weeks and months from sealed blocks, minutes from
//! readings. Pure. Absent is not zero: a sum is of what is known, and its coverage says how much that is.

use jiff::Unit;
use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa::ToSchema;

use super::query::Resolution;
use super::wire::{At, Decimal, mean_power, push_text};
use crate::model::decimal::push_value;
use crate::model::{Block, BlockFlags, Energy, Number, Power, Ratio, Role, Span, StoredReading, Timestamp};

/// The local hour, day, week (from Monday), month or year that `at` is in; `None` where the calendar ends.
pub fn period_of(at: Timestamp, resolution: Resolution, zone: &TimeZone) -> Option<Span> {
    let instant = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
    if resolution == Resolution::Hour {
        return local_hour(instant, zone);
    }
    let today = zone.to_datetime(instant).date();
    let (first, next) = match resolution {
        Resolution::Week => {
            let monday = today.checked_sub(jiff::Span::new().days(today.weekday().to_monday_zero_offset())).ok()?;
            (monday, monday.checked_add(jiff::Span::new().weeks(1)).ok()?)
        }
        Resolution::Month => (today.first_of_month(), today.last_of_month().tomorrow().ok()?),
        Resolution::Year => (today.first_of_year(), today.last_of_year().tomorrow().ok()?),
        _ => (today, today.tomorrow().ok()?),
    };
    let start = |date: jiff::civil::Date| Some(millis(date.to_zoned(zone.clone()).ok()?.timestamp()));
    Span::new(start(first)?, start(next)?)
}

/// A local hour ends where the zone changes its offset, so that no two hours share an instant.
fn local_hour(instant: jiff::Timestamp, zone: &TimeZone) -> Option<Span> {
    const HOUR: i64 = 3_600_000;
    let offset = i64::from(zone.to_offset(instant).seconds()) * 1_000;
    let local = instant.as_millisecond().checked_add(offset)?;
    let mut start = local - local.rem_euclid(HOUR) - offset;
    let mut end = start + HOUR;
    // `preceding` gives changes before its argument: one at this very instant began what it is in.
    let inclusive = instant.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
    if let Some(change) = zone.preceding(inclusive).next() {
        start = start.max(change.timestamp().as_millisecond());
    }
    if let Some(change) = zone.following(instant).next() {
        end = end.min(change.timestamp().as_millisecond());
    }
    Span::new(Timestamp::from_millis(start), Timestamp::from_millis(end))
}

fn millis(at: jiff::Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millisecond())
}

/// The date or hour by which a person names a period: `2026-11-21T14:00`, `2026-11-21`, `2026-W47`, `2026-11`,
/// `2026`.
fn local_name(start: Timestamp, resolution: Resolution, zone: &TimeZone) -> Option<String> {
    let local = zone.to_datetime(jiff::Timestamp::from_millisecond(start.as_millis()).ok()?);
    Some(match resolution {
        Resolution::Hour => local.round(Unit::Minute).ok()?.strftime("%Y-%m-%dT%H:%M").to_string(),
        Resolution::Week => local.strftime("%G-W%V").to_string(),
        Resolution::Month => local.strftime("%Y-%m").to_string(),
        Resolution::Year => local.strftime("%Y").to_string(),
        _ => local.date().to_string(),
    })
}

/// One period, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Period {
    pub start: At,
    pub end: At,
    /// The site's name for it.
    pub local: Option<String>,
    pub kwh: Option<Decimal>,
    pub kwh_import: Option<Decimal>,
    pub kwh_export: Option<Decimal>,
    /// The greatest demand of a block, and when that block began.
    pub max_demand_kw: Option<Decimal>,
    pub max_demand_at: Option<At>,
    pub max_kw: Option<Decimal>,
    pub min_kw: Option<Decimal>,
    /// Share of the period, as far as it is sealed, that readings cover.
    pub coverage: Decimal,
    /// Blocks with energy in it.
    pub blocks: u32,
    #[schema(value_type = Vec<crate::model::BlockFlag>, max_items = 10)]
    pub flags: Vec<&'static str>,
    /// What statistics tell beside it.
    #[serde(skip)]
    pub more: More,
}

#[derive(Clone, Debug, Default)]
pub struct More {
    pub net: Option<Energy>,
    pub import: Option<Energy>,
    pub export: Option<Energy>,
    /// When the block of the greatest power began.
    pub max_at: Option<Timestamp>,
    /// When the first block with energy began.
    pub first: Option<Timestamp>,
    /// Energy of the blocks in peak hours, and of the others.
    pub peak: Option<Energy>,
    pub off_peak: Option<Energy>,
    pub covered_ms: i64,
    pub flags: BlockFlags,
}

pub const PERIOD_CSV: &str = "start,end,local,kwh,kwh_import,kwh_export,max_demand_kw,max_demand_at,max_kw,min_kw,\
    coverage,blocks,flags\r\n";

impl Period {
    pub fn push_csv(&self, out: &mut Vec<u8>) {
        push_text(out, format_args!("{},{},{}", self.start.0, self.end.0, self.local.as_deref().unwrap_or("")));
        let push = |out: &mut Vec<u8>, figure: Option<Decimal>| {
            out.push(b',');
            if let Some(figure) = figure {
                figure.push(out);
            }
        };
        for figure in [self.kwh, self.kwh_import, self.kwh_export, self.max_demand_kw] {
            push(out, figure);
        }
        out.push(b',');
        if let Some(at) = self.max_demand_at {
            push_text(out, format_args!("{}", at.0));
        }
        for figure in [self.max_kw, self.min_kw, Some(self.coverage)] {
            push(out, figure);
        }
        push_text(out, format_args!(",{},{}\r\n", self.blocks, self.flags.join(" ")));
    }
}

/// Sums blocks, given in order, into periods.
pub struct Summing {
    resolution: Resolution,
    zone: TimeZone,
    /// Whole periods; what lies outside is not looked at.
    within: Span,
    current: Option<Sum>,
    silence: Option<Silence>,
}

/// A record over many blocks without readings, from where nothing has been seen of it yet.
struct Silence {
    from: Timestamp,
    end: Timestamp,
    flags: BlockFlags,
}

#[derive(Clone, Debug)]
struct Sum {
    span: Span,
    sealed_to: Timestamp,
    demand: Option<(Decimal, Timestamp)>,
    max: Option<Power>,
    min: Option<Power>,
    blocks: u32,
    more: More,
}

impl Summing {
    pub fn new(resolution: Resolution, zone: TimeZone, within: Span) -> Self {
        Self { resolution, zone, within, current: None, silence: None }
    }

    /// Takes the next block and gives each period that it shows to be complete to `done`. A block counts in the period
    /// where it starts; a silence of many blocks lies in every period that it crosses, as far as no block lies in it.
    pub fn add(&mut self, block: &Block, mut done: impl FnMut(Period)) {
        let (start, end) = (block.span.start(), block.span.end());
        if block.span.millis() > i64::from(block.nominal_ms) {
            self.end_silence(&mut done);
            self.silence = Some(Silence { from: start.max(self.within.start()), end, flags: block.flags });
            return;
        }
        if !self.within.contains(start) {
            return;
        }
        if let Some(silence) = self.silence.take() {
            self.stretch(silence.from, silence.end.min(start), silence.flags, &mut done);
            self.silence = (end < silence.end).then_some(Silence { from: end, ..silence });
        }
        if let Some(sum) = self.period_at(start, &mut done) {
            sum.add(block);
        }
    }

    /// Gives what is left, complete or not.
    pub fn finish(mut self, mut done: impl FnMut(Period)) {
        self.end_silence(&mut done);
        if let Some(period) = self.take() {
            done(period);
        }
    }

    fn end_silence(&mut self, done: &mut impl FnMut(Period)) {
        if let Some(silence) = self.silence.take() {
            self.stretch(silence.from, silence.end, silence.flags, done);
        }
    }

    /// Time that is sealed and has nothing in it.
    fn stretch(&mut self, from: Timestamp, end: Timestamp, flags: BlockFlags, done: &mut impl FnMut(Period)) {
        let (mut at, end) = (from, end.min(self.within.end()));
        while at < end {
            let Some(sum) = self.period_at(at, done) else { return };
            sum.sealed_to = sum.sealed_to.max(end.min(sum.span.end()));
            sum.more.flags = sum.more.flags.union(flags);
            at = sum.span.end();
        }
    }

    /// The period that `at` is in; one that came before it is complete.
    fn period_at(&mut self, at: Timestamp, done: &mut impl FnMut(Period)) -> Option<&mut Sum> {
        if self.current.as_ref().is_none_or(|sum| !sum.span.contains(at)) {
            if let Some(period) = self.take() {
                done(period);
            }
            self.current = period_of(at, self.resolution, &self.zone).map(Sum::new);
        }
        self.current.as_mut()
    }

    fn take(&mut self) -> Option<Period> {
        let sum = self.current.take()?;
        let passed = sum.sealed_to.millis_since(sum.span.start()).max(1);
        let coverage = (sum.more.covered_ms.saturating_mul(10_000) / passed).clamp(0, 10_000);
        Some(Period {
            start: At(sum.span.start()),
            end: At(sum.span.end()),
            local: local_name(sum.span.start(), self.resolution, &self.zone),
            kwh: sum.more.net.map(Into::into),
            kwh_import: sum.more.import.map(Into::into),
            kwh_export: sum.more.export.map(Into::into),
            max_demand_kw: sum.demand.map(|(demand, _)| demand),
            max_demand_at: sum.demand.map(|(_, at)| At(at)),
            max_kw: sum.max.map(Into::into),
            min_kw: sum.min.map(Into::into),
            coverage: Decimal::new(coverage, 4),
            blocks: sum.blocks,
            flags: sum.more.flags.names(),
            more: sum.more,
        })
    }
}

impl Sum {
    fn new(span: Span) -> Self {
        let more = More::default();
        Self { span, sealed_to: span.start(), demand: None, max: None, min: None, blocks: 0, more }
    }

    fn add(&mut self, block: &Block) {
        let (net, more) = (block.net(), &mut self.more);
        self.sealed_to = self.sealed_to.max(block.span.end().min(self.span.end()));
        more.flags = more.flags.union(block.flags);
        more.net = plus(more.net, net);
        more.import = plus(more.import, block.import);
        more.export = plus(more.export, block.export);
        let of_hours = if block.is_peak_hour { &mut more.peak } else { &mut more.off_peak };
        *of_hours = plus(*of_hours, net);
        if block.max_power > self.max {
            (self.max, more.max_at) = (block.max_power, Some(block.span.start()));
        }
        self.min = [self.min, block.min_power].into_iter().flatten().min();
        more.covered_ms += block.covered_ms;
        if net.is_some() {
            self.blocks += 1;
            more.first.get_or_insert(block.span.start());
        }
        let demand = block.import.and_then(|import| mean_power(import, block.nominal_ms.into()));
        if let Some(demand) = demand.filter(|demand| self.demand.is_none_or(|(greatest, _)| *demand > greatest)) {
            self.demand = Some((demand, block.span.start()));
        }
    }
}

pub fn plus(sum: Option<Energy>, part: Option<Energy>) -> Option<Energy> {
    match (sum, part) {
        (Some(sum), Some(part)) => Some(sum.checked_add(part).unwrap_or(sum)),
        (sum, part) => sum.or(part),
    }
}

const MINUTE_MS: i64 = 60_000;

/// One minute of readings: zone offsets are whole minutes, so a local minute is a minute of UTC.
#[derive(Clone, Debug)]
pub struct Minute {
    start: Timestamp,
    readings: u32,
    power_sum: i128,
    powers: u32,
    min: i64,
    max: i64,
    import: Option<(Number, Ratio)>,
    export: Option<(Number, Ratio)>,
}

pub const MINUTE_CSV: &str =
    "start,power_mean_kw,power_min_kw,power_max_kw,energy_import_kwh,energy_export_kwh,readings\r\n";

impl Minute {
    /// The minute that `at` is in.
    pub fn of(at: Timestamp) -> Self {
        Self {
            start: at.plus_millis(-at.as_millis().rem_euclid(MINUTE_MS)),
            readings: 0,
            power_sum: 0,
            powers: 0,
            min: i64::MAX,
            max: i64::MIN,
            import: None,
            export: None,
        }
    }

    pub fn holds(&self, at: Timestamp) -> bool {
        (0..MINUTE_MS).contains(&at.millis_since(self.start))
    }

    pub fn add(&mut self, reading: &StoredReading) {
        self.readings += 1;
        let value = |role| {
            let place = reading.layout.slot_of(role)?;
            let slot = &reading.layout.slots[usize::from(place)];
            // The last value of an interval says nothing of a minute, as a register's does.
            slot.interval.is_none().then_some((reading.at(place)?, slot.scale))
        };
        if let Some(power) = value(Role::Power).and_then(|(raw, scale)| raw.scaled(scale, Power::KW_DECIMALS)) {
            self.power_sum += i128::from(power);
            self.powers += 1;
            self.min = self.min.min(power);
            self.max = self.max.max(power);
        }
        self.import = value(Role::Import).or(self.import);
        self.export = value(Role::Export).or(self.export);
    }

    fn mean(&self) -> Option<Decimal> {
        let count = i128::from(self.powers);
        let mean = (2 * self.power_sum + count).checked_div_euclid(2 * count)?;
        Some(Decimal::new(i64::try_from(mean).ok()?, Power::KW_DECIMALS))
    }

    fn powers(&self) -> [(&'static str, Option<Decimal>); 3] {
        let seen = |power: i64| (self.powers > 0).then_some(Decimal::new(power, Power::KW_DECIMALS));
        [("power_mean_kw", self.mean()), ("power_min_kw", seen(self.min)), ("power_max_kw", seen(self.max))]
    }

    /// Members without a value are left out.
    pub fn push_json(&self, out: &mut Vec<u8>) {
        push_text(out, format_args!("{{\"start\":\"{}\"", self.start));
        for (name, power) in self.powers() {
            if let Some(power) = power {
                push_text(out, format_args!(",\"{name}\":"));
                power.push(out);
            }
        }
        for (role, value) in [(Role::Import, self.import), (Role::Export, self.export)] {
            if let Some((raw, scale)) = value {
                push_text(out, format_args!(",\"{}\":", role.quantity()));
                push_value(out, raw, scale);
            }
        }
        push_text(out, format_args!(",\"readings\":{}}}", self.readings));
    }

    pub fn push_csv(&self, out: &mut Vec<u8>) {
        push_text(out, format_args!("{}", self.start));
        for (_, power) in self.powers() {
            out.push(b',');
            if let Some(power) = power {
                power.push(out);
            }
        }
        for value in [self.import, self.export] {
            out.push(b',');
            if let Some((raw, scale)) = value {
                push_value(out, raw, scale);
            }
        }
        push_text(out, format_args!(",{}\r\n", self.readings));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BlockFlag, Category, Digest, Method};
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn block(start: Timestamp, millis: i64, import: Option<i64>) -> Block {
        Block {
            meter: "m".parse().unwrap(),
            span: Span::new(start, start.plus_millis(millis)).unwrap(),
            nominal_ms: 1_800_000,
            revision: 0,
            category: Category::Cons,
            import: import.map(Energy::from_uwh),
            export: None,
            max_power: import.map(|_| Power::from_mw(5)),
            min_power: import.map(|_| Power::from_mw(3)),
            covered_ms: if import.is_some() { millis } else { 0 },
            coverage: if import.is_some() { 10_000 } else { 0 },
            method: Method::Counter,
            is_peak_hour: false,
            flags: if import.is_some() { BlockFlags::NONE } else { BlockFlags::NONE.with(BlockFlag::Gap) },
            readings_sha256: Digest::of(b""),
            through_seq: 0,
            borders: crate::model::Borders::default(),
            zone: "UTC".into(),
            interval_ms: 1_000,
            template: None,
            sealed: start,
        }
    }

    fn periods(resolution: Resolution, zone_name: &str, blocks: &[Block]) -> Vec<Period> {
        let ever = Span::new(Timestamp::from_millis(0), at("2100-01-01T00:00:00Z")).unwrap();
        let mut summing = Summing::new(resolution, zone(zone_name), ever);
        let mut periods = Vec::new();
        for block in blocks {
            summing.add(block, |period| periods.push(period));
        }
        summing.finish(|period| periods.push(period));
        periods
    }

    #[test]
    fn a_day_in_berlin_has_23_24_or_25_hours() {
        let hours = |text| period_of(at(text), Resolution::Day, &zone("Europe/Berlin")).unwrap().millis() / 3_600_000;
        assert_eq!(
            (hours("2026-03-29T12:00:00Z"), hours("2026-10-25T12:00:00Z"), hours("2026-11-21T12:00:00Z")),
            (23, 25, 24)
        );
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_first() {
        let zone = zone("Asia/Kuala_Lumpur");
        let week = period_of(at("2026-11-21T12:00:00Z"), Resolution::Week, &zone).unwrap();
        assert_eq!(week.start(), at("2026-11-15T16:00:00Z"));
        assert_eq!(local_name(week.start(), Resolution::Week, &zone).unwrap(), "2026-W47");
        let month = period_of(at("2026-11-30T17:00:00Z"), Resolution::Month, &zone).unwrap();
        assert_eq!(local_name(month.start(), Resolution::Month, &zone).unwrap(), "2026-12");
    }

    #[test]
    fn what_is_silent_is_not_zero() {
        let start = at("2026-11-21T00:00:00Z");
        let half = 1_800_000;
        let day = &periods(
            Resolution::Hour,
            "UTC",
            &[block(start, half, Some(7)), block(start.plus_millis(half), half, None)],
        )[0];
        assert_eq!(day.kwh, Some(Decimal::new(7, 9)));
        assert_eq!((day.coverage, day.blocks), (Decimal::new(5_000, 4), 1));
        assert_eq!(day.flags, ["gap"]);
        let silent = &periods(Resolution::Hour, "UTC", &[block(start, half, None)])[0];
        assert_eq!((silent.kwh, silent.max_demand_kw, silent.coverage), (None, None, Decimal::new(0, 4)));
    }

    #[test]
    fn the_greatest_demand_of_a_month_is_that_of_its_first_such_block() {
        let start = at("2026-11-21T00:00:00Z");
        let blocks: Vec<_> = (0..4_i64)
            .map(|n| {
                block(start.plus_millis(n * 1_800_000), 1_800_000, Some([5, 9, 9, 2][usize::try_from(n).unwrap()]))
            })
            .collect();
        let month = &periods(Resolution::Month, "UTC", &blocks)[0];
        assert_eq!(month.max_demand_kw, Some(Decimal::new(18, 9)));
        assert_eq!(month.max_demand_at, Some(At(start.plus_millis(1_800_000))));
        assert_eq!(month.min_kw, Some(Power::from_mw(3).into()));
    }

    #[test]
    fn a_silence_of_days_is_in_every_day_that_it_crosses() {
        let start = at("2026-11-20T12:00:00Z");
        let days = periods(Resolution::Day, "UTC", &[block(start, 2 * 86_400_000, None)]);
        assert_eq!(
            days.iter().map(|day| day.local.clone().unwrap()).collect::<Vec<_>>(),
            ["2026-11-20", "2026-11-21", "2026-11-22"]
        );
        assert!(days.iter().all(|day| day.kwh.is_none() && day.coverage == Decimal::new(0, 4)));
    }

    #[test]
    fn blocks_that_came_late_lie_within_the_silence_that_was_sealed_before() {
        let start = at("2026-11-20T00:00:00Z");
        let late = block(start.plus_millis(86_400_000), 1_800_000, Some(9));
        let days = periods(Resolution::Day, "UTC", &[block(start, 3 * 86_400_000, None), late]);
        let seen: Vec<_> = days.iter().map(|day| (day.local.clone().unwrap(), day.blocks, day.coverage)).collect();
        let day = |name: &str, blocks, coverage| (name.to_owned(), blocks, Decimal::new(coverage, 4));
        assert_eq!(seen, [day("2026-11-20", 0, 0), day("2026-11-21", 1, 208), day("2026-11-22", 0, 0)]);
    }

    #[test]
    fn a_minute_has_the_mean_of_its_power_and_its_last_energy() {
        use crate::model::{ClockState, Layout, Slot};
        use std::sync::Arc;
        let slot = |name: &str, scale: &str| Slot {
            quantity: name.parse().unwrap(),
            scale: Ratio::parse(scale).unwrap(),
            rolls_over_at: None,
            interval: None,
        };
        let layout = Arc::new(Layout {
            meter: "m".parse().unwrap(),
            category: Category::Cons,
            interval_ms: Some(1_000),
            template: None,
            simulated: false,
            slots: vec![slot("power_kw", "0.001"), slot("energy_import_kwh", "0.1")],
        });
        let start = at("2026-11-21T00:01:00Z");
        let mut minute = Minute::of(start.plus_millis(59_999));
        for (n, raw) in [(0, 1_000_i64), (1, 2_000), (2, 4_000)] {
            minute.add(&StoredReading {
                seq: n,
                time: start.plus_millis(1_000),
                layout: layout.clone(),
                values: vec![(0, Number::I64(raw)), (1, Number::U64(70 + n))].into(),
                clock: ClockState::Synchronised,
                conflict: false,
            });
        }
        let mut out = Vec::new();
        minute.push_json(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"start":"2026-11-21T00:01:00.000Z","power_mean_kw":2.333333,"power_min_kw":1,"power_max_kw":4,"energy_import_kwh":7.2,"readings":3}"#
        );
        assert!(minute.holds(start) && !minute.holds(start.plus_millis(60_000)));

        // The energy of an interval is not the minute's last register value, and a reading says which it is.
        let interval = Some(crate::model::Interval { ms: 900_000, label: crate::model::Label::End });
        let slots = layout.slots.iter().cloned().map(|slot| Slot { interval, ..slot }).skip(1).collect();
        let reading = StoredReading {
            seq: 4,
            time: start,
            layout: Arc::new(Layout { slots, ..Layout::clone(&layout) }),
            values: vec![(0, Number::U64(3))].into(),
            clock: ClockState::Synchronised,
            conflict: false,
        };
        let (mut minute, mut out) = (Minute::of(start), Vec::new());
        minute.add(&reading);
        minute.push_json(&mut out);
        crate::web::wire::push_intervals(&mut out, &reading);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"start":"2026-11-21T00:01:00.000Z","readings":1},"intervals":{"energy_import_kwh":{"ms":900000,"label":"end"}}"#
        );
    }

    proptest! {
        #[test]
        fn periods_tile_time(
            millis in 0..4_000_000_000_000_i64,
            name in prop::sample::select(vec!["Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns", "UTC"]),
            resolution in prop::sample::select(vec![Resolution::Hour, Resolution::Day, Resolution::Week, Resolution::Month]),
        ) {
            let zone = zone(name);
            let instant = Timestamp::from_millis(millis);
            let period = period_of(instant, resolution, &zone).unwrap();
            prop_assert!(period.contains(instant));
            prop_assert_eq!(period_of(period.start(), resolution, &zone), Some(period));
            prop_assert_eq!(period_of(period.end().plus_millis(-1), resolution, &zone), Some(period));
            prop_assert_eq!(period_of(period.end(), resolution, &zone).unwrap().start(), period.end());
        }

        #[test]
        fn days_add_up_to_their_blocks(energies in prop::collection::vec(prop::option::of(0..1_000_000_000_i64), 1..200)) {
            let start = at("2026-10-24T00:00:00Z");
            let blocks: Vec<_> = energies.iter().zip(0_i64..).map(|(energy, n)| block(start.plus_millis(n * 1_800_000), 1_800_000, *energy)).collect();
            for resolution in [Resolution::Hour, Resolution::Day, Resolution::Month] {
                let all = periods(resolution, "Europe/Berlin", &blocks);
                let sum = all.iter().filter_map(|period| period.kwh).map(Decimal::units).reduce(|a, b| a + b);
                prop_assert_eq!(sum, energies.iter().flatten().copied().reduce(|a, b| a + b));
                prop_assert_eq!(all.iter().map(|period| period.blocks as usize).sum::<usize>(), energies.iter().flatten().count());
            }
        }
    }
}
