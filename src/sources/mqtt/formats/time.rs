//! When a device says that it measured, and whether to believe it.

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::tree::Node;
use crate::model::{ClockState, Ratio, Stamp, Timestamp};

/// How a message writes its time.
#[derive(Clone, Debug, PartialEq)]
pub enum TimeFormat {
    /// `2026-11-21T09:30:00Z`, `2026-11-21T17:30:00.5+08:00`.
    Rfc3339,
    /// Seconds since 1970 in UTC, with or without a fraction, as a number or as text.
    UnixS,
    /// Milliseconds since 1970 in UTC, as a number or as text.
    UnixMs,
    /// `2026-11-21T17:30:00`, the local time of a zone. See `local`.
    Local(TimeZone),
}

impl TimeFormat {
    /// The instant that `node` names; `None` where it names none in this format. `near` is when it arrived.
    pub fn instant(&self, node: &Node<'_>, near: Timestamp) -> Option<Timestamp> {
        let unix = |decimals| node.number().ok()??.scaled(Ratio::ONE, decimals).map(Timestamp::from_millis);
        match (self, node) {
            (Self::UnixS, _) => unix(3),
            (Self::UnixMs, _) => unix(0),
            (Self::Rfc3339, Node::Text(text)) => absolute(text),
            (Self::Local(zone), Node::Text(text)) => local(text, zone, near),
            (Self::Rfc3339 | Self::Local(_), _) => None,
        }
    }
}

/// More characters than any time has.
const LONGEST: usize = 64;

/// A time with its offset from UTC.
fn absolute(text: &str) -> Option<Timestamp> {
    if text.len() > LONGEST {
        return None;
    }
    Some(Timestamp::from_millis(text.trim().parse::<jiff::Timestamp>().ok()?.as_millisecond()))
}

/// A time of day in `zone`; with an offset of its own, that counts. Where clocks are put back, an hour comes twice: the
/// instant nearer to `near` is meant. Where they are put forward, an hour is missing: a device that shows it has not put
/// its clock forward yet.
pub fn local(text: &str, zone: &TimeZone, near: Timestamp) -> Option<Timestamp> {
    if let Some(at) = absolute(text) {
        return Some(at);
    }
    // A date alone, which the parser takes for midnight, says nothing of the hour.
    let text = text.trim();
    if text.len() > LONGEST || !text.get(10..11).is_some_and(|between| matches!(between, "T" | "t" | " ")) {
        return None;
    }
    let shown: DateTime = text.parse().ok()?;
    let at = |offset: jiff::tz::Offset| {
        offset.to_timestamp(shown).ok().map(|at| Timestamp::from_millis(at.as_millisecond()))
    };
    match zone.to_ambiguous_timestamp(shown).offset() {
        AmbiguousOffset::Unambiguous { offset } => at(offset),
        AmbiguousOffset::Gap { before, .. } => at(before),
        AmbiguousOffset::Fold { before, after } => {
            let (first, second) = (at(before)?, at(after)?);
            let far = |at: Timestamp| at.as_millis().abs_diff(near.as_millis());
            Some(if far(first) <= far(second) { first } else { second })
        }
    }
}

/// 2020-01-01: a device that shows an earlier year does not know the time.
const EARLIEST: Timestamp = Timestamp::from_millis(1_577_836_800_000);

/// 2100-01-01.
const LATEST: Timestamp = Timestamp::from_millis(4_102_444_800_000);

/// How far two clocks may differ that both tell the time.
const APART_MS: i64 = 5 * 60_000;

/// The device's time, unless it lies before any meter of today, or after the arrival. It may lie far back: a message may
/// have waited in the device or the broker. While our own clock is not right, it judges nobody's.
pub fn believable(said: Timestamp, arrival: &Stamp) -> Option<Timestamp> {
    let latest = match arrival.clock {
        ClockState::Synchronised => arrival.time.plus_millis(APART_MS).min(LATEST),
        ClockState::Unsynchronised => LATEST,
    };
    (EARLIEST <= said && said <= latest).then_some(said)
}

/// The device's time where it is about the arrival: for devices whose zone may be set wrong, which puts them hours off.
pub fn agreeing(said: Timestamp, arrival: &Stamp) -> Option<Timestamp> {
    let agrees = match arrival.clock {
        ClockState::Synchronised => said.as_millis().abs_diff(arrival.time.as_millis()) <= APART_MS.unsigned_abs(),
        ClockState::Unsynchronised => true,
    };
    believable(said, arrival).filter(|_| agrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        absolute(text).unwrap()
    }

    fn instant(format: &TimeFormat, json: &str) -> Option<Timestamp> {
        let tree = super::super::tree::parse(json.as_bytes()).unwrap();
        format.instant(&tree, at("2026-11-21T09:30:00Z"))
    }

    #[test]
    fn each_format_reads_its_own_form() {
        let noon = Some(at("2026-11-21T12:00:00.250Z"));
        assert_eq!(instant(&TimeFormat::Rfc3339, r#""2026-11-21T20:00:00.25+08:00""#), noon);
        assert_eq!(instant(&TimeFormat::UnixS, "1795262400.25"), noon);
        assert_eq!(instant(&TimeFormat::UnixMs, "1795262400250"), noon);
        assert_eq!(instant(&TimeFormat::UnixMs, r#""1795262400250""#), noon);
        let zone = TimeFormat::Local(TimeZone::get("Asia/Kuala_Lumpur").unwrap());
        assert_eq!(instant(&zone, r#""2026-11-21T20:00:00.25""#), noon);
        assert_eq!(instant(&zone, r#""2026-11-21 20:00:00.25""#), noon);
        assert_eq!(instant(&zone, r#""2026-11-21T12:00:00.25Z""#), noon);
        for bad in
            [r#""2026-11-21""#, r#""20:00:00""#, r#""2026-13-21T20:00:00""#, "1795262400", "null", r#""é2026-11-2T1""#]
        {
            assert_eq!(instant(&zone, bad), None, "{bad}");
        }
        assert_eq!(instant(&TimeFormat::Rfc3339, r#""2026-11-21T20:00:00""#), None);
        assert_eq!(instant(&TimeFormat::UnixS, "1e300"), None);
        assert_eq!(instant(&TimeFormat::UnixS, "null"), None);
    }

    #[test]
    fn an_hour_that_comes_twice_is_the_one_nearer_to_the_arrival() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let shown = "2026-10-25T02:30:00";
        assert_eq!(local(shown, &zone, at("2026-10-25T00:30:02Z")), Some(at("2026-10-25T00:30:00Z")));
        assert_eq!(local(shown, &zone, at("2026-10-25T01:30:02Z")), Some(at("2026-10-25T01:30:00Z")));
        assert_eq!(local("2026-03-29T02:30:00", &zone, at("2026-03-29T01:30:01Z")), Some(at("2026-03-29T01:30:00Z")));
    }

    #[test]
    fn a_clock_that_was_never_set_or_runs_ahead_is_not_believed() {
        let noon = at("2026-11-21T12:00:00Z");
        let arrival = |clock| Stamp { time: noon, since_boot_ms: 0, clock };
        let believes = |said: &str, clock| believable(at(said), &arrival(clock)).is_some();
        assert!(believes("2026-11-21T12:05:00Z", ClockState::Synchronised));
        assert!(believes("2025-01-01T00:00:00Z", ClockState::Synchronised));
        assert!(!believes("2026-11-21T12:05:01Z", ClockState::Synchronised));
        assert!(!believes("1970-01-01T00:05:00Z", ClockState::Synchronised));
        assert!(believes("2027-11-21T12:05:01Z", ClockState::Unsynchronised));
        let agrees = |said: &str| agreeing(at(said), &arrival(ClockState::Synchronised)).is_some();
        assert!(agrees("2026-11-21T11:55:00Z") && !agrees("2026-11-21T11:54:59Z"));
    }
}
