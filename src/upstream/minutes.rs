//! One mean power for each meter and minute, from power held between readings as blocks hold it: docs/blocks.md. Pure.

use std::collections::BTreeMap;

use crate::model::{MeterId, Power, Role, StoredReading, Timestamp};
use crate::upstream::record::{Body, Minute, Record};

pub const MINUTE_MS: i64 = 60_000;
/// Meters that one minute has room for in its seqs.
pub const PLACES: u64 = 4_096;
/// A minute is complete so long after its end: by then its last readings are stored.
const SETTLED_MS: i64 = 10_000;
/// A meter that publishes when it likes is taken to do so as often.
const UNKNOWN_INTERVAL_MS: i64 = 20_000;

/// The seq of the last place in the newest minute that is complete at `now`.
pub fn head(now: Timestamp) -> u64 {
    let minute = now.plus_millis(-SETTLED_MS).as_millis().div_euclid(MINUTE_MS);
    if minute > 0 { last_of(minute - 1) } else { 0 }
}

/// When the head moves on.
pub fn next(now: Timestamp) -> Timestamp {
    let minutes = now.plus_millis(-SETTLED_MS).as_millis().div_euclid(MINUTE_MS);
    Timestamp::from_millis((minutes + 1).saturating_mul(MINUTE_MS)).plus_millis(SETTLED_MS)
}

/// The minute that a seq lies in.
pub fn minute_of(seq: u64) -> i64 {
    i64::try_from(seq / PLACES).unwrap_or(i64::MAX)
}

/// The last seq of a minute.
pub fn last_of(minute: i64) -> u64 {
    u64::try_from(minute).unwrap_or(0).saturating_add(1).saturating_mul(PLACES).saturating_sub(1)
}

/// When a minute begins.
pub fn start_of(minute: i64) -> Timestamp {
    Timestamp::from_millis(minute.saturating_mul(MINUTE_MS))
}

/// Readings of the time before this one can reach into it: they are read along.
pub const REACH_MS: i64 = 45 * MINUTE_MS;

/// The minutes of one meter, from its readings in order of effective time.
#[derive(Default)]
pub struct Tally {
    last: Option<Held>,
    minutes: BTreeMap<i64, Sum>,
}

struct Held {
    time: i64,
    mw: i64,
    reach_ms: i64,
}

#[derive(Default)]
struct Sum {
    /// mW·ms, and the time that they are of.
    energy: i128,
    ms: i64,
    /// A reading of power lies in it.
    is_read: bool,
    frequency_hz: Option<f64>,
}

impl Tally {
    pub fn add(&mut self, reading: &StoredReading) {
        if reading.layout.simulated {
            return;
        }
        let (time, layout) = (reading.time.as_millis(), &reading.layout);
        let frequency = layout.slot_named("frequency_hz").and_then(|place| Some((place, reading.at(place)?)));
        if let Some((slot, raw)) = frequency.and_then(|(place, raw)| Some((layout.slots.get(usize::from(place))?, raw)))
        {
            self.minute(time).frequency_hz = Some(slot.scale.display(raw)).filter(|hz| hz.is_finite());
        }
        // Of two values for one time the first one counts.
        if self.last.as_ref().is_some_and(|last| last.time == time) {
            return;
        }
        let power = layout.slot_of(Role::Power).and_then(|place| {
            let slot = layout.slots.get(usize::from(place))?;
            reading.at(place)?.scaled(slot.scale, Power::KW_DECIMALS)
        });
        let Some(mw) = power else { return };
        self.hold(time);
        self.minute(time).is_read = true;
        let interval = layout.interval_ms.map_or(UNKNOWN_INTERVAL_MS, i64::from);
        self.last = Some(Held { time, mw, reach_ms: interval.saturating_mul(3).clamp(MINUTE_MS, REACH_MS) });
    }

    /// The minutes from `first` to `last` in which there was a reading of power.
    pub fn finish(mut self, meter: &MeterId, first: i64, last: i64) -> Vec<Minute> {
        self.hold((last.saturating_add(1)).saturating_mul(MINUTE_MS));
        let told = self.minutes.range(first..=last).filter(|(_, sum)| sum.is_read);
        told.map(|(minute, sum)| Minute {
            meter: meter.clone(),
            start: start_of(*minute),
            kw: mean_kw(sum),
            frequency_hz: sum.frequency_hz,
        })
        .collect()
    }

    fn minute(&mut self, time: i64) -> &mut Sum {
        self.minutes.entry(time.div_euclid(MINUTE_MS)).or_default()
    }

    /// The last power holds until `next`, as far as it reaches.
    fn hold(&mut self, next: i64) {
        let Some(Held { time, mw, reach_ms }) = self.last.take() else { return };
        let until = next.min(time + reach_ms);
        let mut at = time;
        while at < until {
            let end = until.min((at.div_euclid(MINUTE_MS) + 1) * MINUTE_MS);
            let sum = self.minute(at);
            sum.energy += i128::from(mw) * i128::from(end - at);
            sum.ms += end - at;
            at = end;
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a number of mW that stands for a meter's power fits a double")]
fn mean_kw(sum: &Sum) -> f64 {
    let mw = sum.energy.checked_div(sum.ms.into()).and_then(|mw| i64::try_from(mw).ok()).unwrap_or(0);
    mw as f64 / 1e6
}

/// The records of one minute, in order of their meters' ids.
pub fn records(minute: i64, minutes: Vec<Minute>) -> Vec<Record> {
    let first = u64::try_from(minute).unwrap_or(0).saturating_mul(PLACES);
    let places = (0..PLACES).zip(minutes);
    places
        .map(|(place, minute)| Record { seq: first + place, time: minute.start, body: Body::Minute(minute) })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Category, ClockState, Layout, Number, Ratio, Slot};

    fn layout(simulated: bool) -> Arc<Layout> {
        let slot = |quantity: &str, scale: Ratio| Slot {
            quantity: quantity.parse().unwrap(),
            scale,
            rolls_over_at: None,
            interval: None,
        };
        Arc::new(Layout {
            meter: "m".parse().unwrap(),
            category: Category::Cons,
            interval_ms: Some(10_000),
            template: None,
            simulated,
            slots: vec![
                slot("frequency_hz", Ratio::parse("0.01").unwrap()),
                slot("power_kw", Ratio::parse("0.001").unwrap()),
            ],
        })
    }

    fn reading(seconds: i64, values: &[(u8, i64)]) -> StoredReading {
        StoredReading {
            seq: 1,
            time: Timestamp::from_millis(seconds * 1_000),
            layout: layout(false),
            values: values.iter().map(|(place, value)| (*place, Number::I64(*value))).collect(),
            clock: ClockState::Synchronised,
            conflict: false,
        }
    }

    fn told(readings: &[StoredReading], first: i64, last: i64) -> Vec<(i64, f64, Option<f64>)> {
        let mut tally = Tally::default();
        readings.iter().for_each(|reading| tally.add(reading));
        let minutes = tally.finish(&"m".parse().unwrap(), first, last);
        minutes.into_iter().map(|one| (one.start.as_millis() / MINUTE_MS, one.kw, one.frequency_hz)).collect()
    }

    #[test]
    fn power_holds_from_reading_to_reading() {
        let day = [reading(0, &[(1, 6_000)]), reading(30, &[(0, 5_001), (1, 12_000)]), reading(60, &[(1, 1_000)])];
        assert_eq!(told(&day, 0, 1), [(0, 9.0, Some(50.01)), (1, 1.0, None)]);
        // What came before counts as far as it reaches.
        let carried = [reading(45, &[(1, 3_000)]), reading(90, &[(1, 1_000)])];
        assert_eq!(told(&carried, 1, 1), [(1, 2.0, None)]);
        // It reaches 60 s at the most here: the mean is of the time that is known.
        let gap = [reading(60, &[(1, 4_000)]), reading(179, &[(1, 8_000)])];
        assert_eq!(told(&gap, 1, 2), [(1, 4.0, None), (2, 8.0, None)]);
    }

    #[test]
    fn a_minute_without_a_reading_of_power_is_not_told() {
        let readings = [reading(30, &[(1, 3_000)]), reading(70, &[(0, 5_000)]), reading(180, &[(1, -500)])];
        assert_eq!(told(&readings, 0, 9), [(0, 3.0, None), (3, -0.5, None)]);
        let simulated = StoredReading { layout: layout(true), ..reading(30, &[(1, 3_000)]) };
        assert_eq!(told(&[simulated], 0, 9), []);
    }

    #[test]
    fn the_first_of_two_values_for_one_time_counts() {
        assert_eq!(told(&[reading(30, &[(1, 3_000)]), reading(30, &[(1, 9_000)])], 0, 0), [(0, 3.0, None)]);
    }

    #[test]
    fn a_minute_is_complete_some_seconds_after_its_end() {
        let at = Timestamp::from_millis;
        assert_eq!(head(at(69_999)), 0);
        assert_eq!(head(at(70_000)), PLACES - 1);
        assert_eq!(next(at(70_000)), at(130_000));
        assert_eq!(minute_of(head(at(70_000))), 0);
        assert_eq!(head(Timestamp::MIN), 0);
    }
}
