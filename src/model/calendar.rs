//! Where blocks begin and end, and which are at peak: the plant's zone made into instants. Pure.
//!
//! A border is an instant where local time since midnight is a multiple of the block's length, moved by
//! `clock_offset`. A change of the zone's offset inside a block cuts it there.

use jiff::tz::TimeZone;

use super::{Span, Timestamp};

/// One `[[tariff.peak]]`: local minutes since midnight, on the block grid; `from > to` runs over midnight, on the days
/// it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeakWindow {
    /// Monday first.
    pub days: [bool; 7],
    pub from_minute: u16,
    pub to_minute: u16,
}

/// The block borders of one zone.
#[derive(Clone, Debug)]
pub struct Spans {
    zone: TimeZone,
    name: String,
    block_ms: i64,
    offset_ms: i64,
    peaks: Vec<PeakWindow>,
}

/// One block period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period {
    pub span: Span,
    /// A zone change cut it: it is shorter than the nominal length.
    pub cut: bool,
}

/// The zone is not in the time zone database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone `{0}`: use an IANA name such as `Asia/Kuala_Lumpur`")]
pub struct NoZone(pub String);

/// Local time is reckoned within these instants, about ±8000 years; a clock beyond them is wrong, and its readings
/// are sealed as if taken at the edge.
const FIRST_MS: i64 = -250_000_000_000_000;
const LAST_MS: i64 = 250_000_000_000_000;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

impl Spans {
    /// The borders of an IANA zone. `block_minutes` divides a day: 15, 30 or 60. `clock_offset_ms` is how far the
    /// utility's borders lie after those of our clock.
    pub fn new(zone: &str, block_minutes: u8, clock_offset_ms: i64, peaks: Vec<PeakWindow>) -> Result<Self, NoZone> {
        Ok(Self {
            zone: TimeZone::get(zone).map_err(|_| NoZone(zone.to_owned()))?,
            name: zone.to_owned(),
            block_ms: i64::from(block_minutes.max(1)) * MINUTE_MS,
            offset_ms: clock_offset_ms,
            peaks,
        })
    }

    /// The zone's IANA name.
    pub fn zone(&self) -> &str {
        &self.name
    }

    /// The length of a block that nothing cuts, ms.
    pub fn nominal_ms(&self) -> u32 {
        u32::try_from(self.block_ms).unwrap_or(u32::MAX)
    }

    /// The period that `at` lies in.
    pub fn containing(&self, at: Timestamp) -> Period {
        // The zone's clock, set to the utility's: its borders come `offset_ms` after ours.
        let at = at.as_millis().clamp(FIRST_MS, LAST_MS) - self.offset_ms;
        let (from, to, offset) = self.steady(at);
        // Midnight is a multiple of the block's length too, so multiples since midnight are multiples of local time.
        let start = (at + offset).div_euclid(self.block_ms) * self.block_ms - offset;
        let (start, end) = (start.max(from), (start + self.block_ms).min(to));
        let span = Span::new(self.back(start), self.back(end)).unwrap_or_else(|| unreachable!("a period is not empty"));
        Period { span, cut: span.millis() < self.block_ms }
    }

    /// The periods that lie in `[from, to)`, from the one that `from` lies in, as long as they begin before `to`.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = Period> + '_ {
        let mut next = Some(from);
        std::iter::from_fn(move || {
            let at = next.filter(|at| *at < to)?;
            let period = self.containing(at);
            // Beyond the edge of the calendar there is no next period.
            next = (period.span.end() > at).then(|| period.span.end());
            next?;
            Some(period)
        })
    }

    /// Whether a block that starts at `start` is at peak.
    pub fn is_peak(&self, start: Timestamp) -> bool {
        let at = start.as_millis().clamp(FIRST_MS, LAST_MS) - self.offset_ms;
        let local = at + self.steady(at).2;
        let minute = local.rem_euclid(DAY_MS) / MINUTE_MS;
        // 1970-01-01 was a Thursday; Monday is 0.
        let weekday = (local.div_euclid(DAY_MS) + 3).rem_euclid(7);
        self.peaks.iter().any(|window| window.covers(weekday, minute))
    }

    /// The peak hours that lie in `span`, cut to it: of each stretch of blocks at peak where it begins and ends.
    pub fn peaks_in(&self, span: Span) -> Vec<Span> {
        let mut found: Vec<Span> = Vec::new();
        for period in self.between(span.start(), span.end()).map(|period| period.span) {
            if !self.is_peak(period.start()) {
                continue;
            }
            let (start, end) = (period.start().max(span.start()), period.end().min(span.end()));
            match found.last_mut() {
                Some(last) if last.end() == start => *last = Span::new(last.start(), end).unwrap_or(*last),
                _ => found.extend(Span::new(start, end)),
            }
        }
        found
    }

    fn back(&self, at: i64) -> Timestamp {
        Timestamp::from_millis(at + self.offset_ms)
    }

    /// The span around `at` in which the zone keeps its offset from UTC, and that offset, in ms.
    fn steady(&self, at: i64) -> (i64, i64, i64) {
        let Ok(instant) = jiff::Timestamp::from_millisecond(at) else { return (i64::MIN / 2, i64::MAX / 2, 0) };
        let offset = self.zone.to_offset(instant);
        let just_after = jiff::Timestamp::from_millisecond(at + 1).unwrap_or(instant);
        // Some transitions change only the zone's abbreviation: those cut nothing.
        let from = self.zone.preceding(just_after).map(|change| change.timestamp()).find(|change| {
            jiff::Timestamp::from_nanosecond(change.as_nanosecond() - 1)
                .is_ok_and(|before| self.zone.to_offset(before) != offset)
        });
        let to = self.zone.following(instant).find(|change| change.offset() != offset).map(|change| change.timestamp());
        (
            from.map_or(i64::MIN / 2, jiff::Timestamp::as_millisecond),
            to.map_or(i64::MAX / 2, jiff::Timestamp::as_millisecond),
            i64::from(offset.seconds()) * 1_000,
        )
    }
}

impl PeakWindow {
    /// Whether the local minute of a weekday (Monday 0) lies in the window. A window over midnight belongs to the day
    /// it begins; one whose edges are equal lasts the whole day.
    fn covers(&self, weekday: i64, minute: i64) -> bool {
        let on = |day: i64| usize::try_from(day.rem_euclid(7)).is_ok_and(|day| self.days[day]);
        let (from, to) = (i64::from(self.from_minute), i64::from(self.to_minute));
        if from < to {
            on(weekday) && from <= minute && minute < to
        } else {
            on(weekday) && from <= minute || on(weekday - 1) && minute < to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instant(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn spans(zone: &str, minutes: u8) -> Spans {
        Spans::new(zone, minutes, 0, Vec::new()).unwrap()
    }

    /// The periods of a local day.
    fn day(zone: &str, minutes: u8, date: &str) -> Vec<Period> {
        let zoned = |date: jiff::civil::Date| {
            let at = date.to_zoned(TimeZone::get(zone).unwrap()).unwrap();
            Timestamp::from_millis(at.timestamp().as_millisecond())
        };
        let date: jiff::civil::Date = date.parse().unwrap();
        spans(zone, minutes).between(zoned(date), zoned(date.tomorrow().unwrap())).collect()
    }

    #[test]
    fn days_of_a_zone_change_have_fewer_or_more_blocks() {
        assert_eq!(day("Europe/Berlin", 30, "2026-03-29").len(), 46);
        assert_eq!(day("Europe/Berlin", 30, "2026-10-25").len(), 50);
        assert_eq!(day("Europe/Berlin", 30, "2026-11-21").len(), 48);
        assert_eq!(day("Australia/Lord_Howe", 30, "2026-10-04").len(), 47);
        assert_eq!(day("Australia/Lord_Howe", 30, "2026-04-05").len(), 49);
        assert!(day("Europe/Berlin", 15, "2026-03-29").iter().all(|period| !period.cut));
        assert_eq!(day("Europe/Berlin", 15, "2026-10-25").len(), 100);
        assert_eq!(day("Europe/Berlin", 60, "2026-10-25").len(), 25);
    }

    #[test]
    fn a_change_of_half_an_hour_cuts_an_hour() {
        for date in ["2026-10-04", "2026-04-05"] {
            let cut: Vec<_> = day("Australia/Lord_Howe", 60, date).into_iter().filter(|period| period.cut).collect();
            assert_eq!(cut.len(), 1, "{date}");
            assert_eq!(cut[0].span.millis(), 30 * MINUTE_MS);
        }
        // 02:00 becomes 02:30: the hour from 02:00 has its second half only.
        let cut = day("Australia/Lord_Howe", 60, "2026-10-04")[2];
        assert_eq!(cut.span.start(), instant("2026-10-03T15:30:00Z"));
    }

    #[test]
    fn borders_follow_local_time_of_any_offset() {
        let period = spans("Asia/Kathmandu", 30).containing(instant("2026-11-21T00:00:00Z"));
        assert_eq!(period.span.start(), instant("2026-11-20T23:45:00Z"));
        assert_eq!(day("Asia/Kathmandu", 60, "2026-11-21").len(), 24);
        assert_eq!(
            spans("Asia/Kathmandu", 60).containing(instant("2026-11-21T00:00:00Z")).span.start(),
            instant("2026-11-20T23:15:00Z")
        );
    }

    #[test]
    fn a_day_without_midnight_begins_on_the_grid() {
        // Cairo's clocks go from 00:00 to 01:00 on the last Friday of April.
        let day = day("Africa/Cairo", 60, "2026-04-24");
        assert_eq!(day.len(), 23);
        assert!(day.iter().all(|period| !period.cut));
    }

    #[test]
    fn the_clock_offset_moves_every_border() {
        let at = |offset| {
            Spans::new("Asia/Kuala_Lumpur", 30, offset, Vec::new())
                .unwrap()
                .containing(instant("2026-11-21T10:00:10Z"))
                .span
                .start()
        };
        assert_eq!(at(0), instant("2026-11-21T10:00:00Z"));
        assert_eq!(at(20_000), instant("2026-11-21T09:30:20Z"));
        assert_eq!(at(-20_000), instant("2026-11-21T09:59:40Z"));
    }

    #[test]
    fn peak_windows_are_local_and_run_over_midnight() {
        let days = |names: &[usize]| std::array::from_fn(|day| names.contains(&day));
        let peaks = vec![
            PeakWindow { days: days(&[0, 1, 2, 3, 4]), from_minute: 14 * 60, to_minute: 22 * 60 },
            PeakWindow { days: days(&[6]), from_minute: 23 * 60, to_minute: 60 },
        ];
        let spans = Spans::new("Asia/Kuala_Lumpur", 30, 0, peaks).unwrap();
        let peak = |text: &str| spans.is_peak(instant(&format!("{text}:00+08:00")));
        assert!(peak("2026-11-20T14:00") && peak("2026-11-20T21:30"));
        assert!(!peak("2026-11-20T22:00") && !peak("2026-11-20T13:30"));
        assert!(!peak("2026-11-21T15:00"), "a Saturday");
        assert!(peak("2026-11-22T23:30") && peak("2026-11-23T00:30"));
        assert!(!peak("2026-11-23T01:00") && !peak("2026-11-22T00:30") && !peak("2026-11-23T23:30"));
    }

    #[test]
    fn the_peak_hours_of_a_day_are_those_of_its_blocks() {
        let hours = |window: PeakWindow, offset_ms, day: &str| {
            let spans = Spans::new("UTC", 30, offset_ms, vec![window]).unwrap();
            let start = instant(day);
            let day = Span::new(start, start.plus_millis(DAY_MS)).unwrap();
            let within = |span: &Span| [span.start(), span.end()].map(|at| at.millis_since(start) / MINUTE_MS);
            spans.peaks_in(day).iter().map(within).collect::<Vec<_>>()
        };
        let window = |days, from_minute, to_minute| PeakWindow { days, from_minute, to_minute };
        let mut monday = [false; 7];
        monday[0] = true;
        let night = window(monday, 22 * 60, 6 * 60);
        assert_eq!(hours(night.clone(), 0, "2026-11-16T00:00:00Z"), [[22 * 60, 24 * 60]], "a Monday");
        assert_eq!(hours(night.clone(), 0, "2026-11-17T00:00:00Z"), [[0, 6 * 60]]);
        assert_eq!(hours(night, 0, "2026-11-18T00:00:00Z"), [[0; 2]; 0]);
        let afternoon = window([true; 7], 14 * 60, 22 * 60);
        assert_eq!(hours(afternoon.clone(), 0, "2026-11-18T00:00:00Z"), [[14 * 60, 22 * 60]]);
        let late = hours(afternoon, 5 * MINUTE_MS, "2026-11-18T00:00:00Z");
        assert_eq!(late, [[14 * 60 + 5, 22 * 60 + 5]], "by the utility's clock, as the blocks");
    }

    #[test]
    fn an_unknown_zone_is_named() {
        assert_eq!(Spans::new("Mars/Olympus", 30, 0, Vec::new()).unwrap_err(), NoZone("Mars/Olympus".to_owned()));
    }

    #[test]
    fn the_ends_of_time_neither_loop_nor_panic() {
        for zone in ["Europe/Berlin", "UTC", "Africa/Monrovia"] {
            let spans = spans(zone, 30);
            for at in [i64::MIN, FIRST_MS, 0, LAST_MS, i64::MAX] {
                let at = Timestamp::from_millis(at);
                assert!(spans.containing(at).span.millis() > 0);
                assert!(spans.between(at, Timestamp::MAX).take(3).count() <= 3);
            }
        }
    }

    proptest! {
        /// Over all of history, odd offsets and skipped days included: periods tile time, none is longer than a
        /// block, and every border that is not a cut lies on the local grid.
        #[test]
        fn periods_tile_time(
            zone in prop::sample::select(vec![
                "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Monrovia", "Europe/Amsterdam",
                "Pacific/Apia", "America/St_Johns", "Antarctica/Troll", "Asia/Kuala_Lumpur", "Africa/Casablanca",
            ]),
            minutes in prop::sample::select(vec![15_u8, 30, 60]),
            at in -5_000_000_000_000..5_000_000_000_000_i64,
            offset in -90_000..90_000_i64,
        ) {
            let spans = Spans::new(zone, minutes, offset, Vec::new()).unwrap();
            let mut last = spans.containing(Timestamp::from_millis(at));
            prop_assert!(last.span.contains(Timestamp::from_millis(at)));
            for _ in 0..20 {
                let next = spans.containing(last.span.end());
                prop_assert_eq!(next.span.start(), last.span.end());
                prop_assert!(next.span.millis() <= i64::from(minutes) * MINUTE_MS);
                if !next.cut {
                    let local = jiff::Timestamp::from_millisecond(next.span.start().as_millis() - offset).unwrap();
                    let local = local.to_zoned(TimeZone::get(zone).unwrap());
                    let second = i64::from(local.minute()) * 60 + i64::from(local.second());
                    prop_assert_eq!(second % (i64::from(minutes) * 60), 0);
                }
                last = next;
            }
        }
    }
}
