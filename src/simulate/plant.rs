//! A factory as a function of time: what each of its meters shows at an instant.
//!
//! The plant lives one and the same week for ever, so the counters at any instant follow from the calendar alone: a
//! simulation that is started again goes on where it would have been, and no counter ever steps back. For the same
//! reason it keeps its zone's standard time all the year. Power changes on the second, and the counters are its exact
//! integral.

use std::f64::consts::{PI, TAU};

use crate::model::{Category, Timestamp};

/// Meters of one plant; a simulation of more repeats them in other sizes.
pub const METERS: usize = 8;

/// What stands at one place of the plant.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub id: &'static str,
    pub name: &'static str,
    pub category: Category,
    /// A target that an ordinary day comes near, kWh in half an hour.
    pub peak_target_kwh: Option<f64>,
    power_factor: f64,
    /// Counters at commissioning, kWh: import, export.
    counters: [f64; 2],
}

/// All but the last stand behind the main incomer, whose power is the sum of theirs and of what has no meter of its
/// own; the last feeds straight into the grid.
pub const PLACES: [Place; METERS] = [
    place("main-incomer", "Main incomer", Category::Cons, Some(160.0), 0.95, [48_210.0, 913.0]),
    place("line-a", "Production line A", Category::Cons, Some(75.0), 0.88, [19_377.0, 0.0]),
    place("line-b", "Production line B", Category::Cons, None, 0.91, [14_822.0, 0.0]),
    place("compressor", "Compressed air", Category::Cons, None, 0.85, [7_405.0, 0.0]),
    place("chiller", "Chiller and ventilation", Category::Cons, Some(47.0), 0.87, [10_960.0, 0.0]),
    place("solar-roof", "Solar, main roof", Category::Prod, None, 0.99, [37.0, 12_208.0]),
    place("battery", "Battery", Category::Stor, None, 0.98, [3_150.0, 3_011.0]),
    place("feed-in", "Solar, feed-in roof", Category::Inj, None, 0.99, [12.0, 4_466.0]),
];

const fn place(
    id: &'static str,
    name: &'static str,
    category: Category,
    peak_target_kwh: Option<f64>,
    power_factor: f64,
    counters: [f64; 2],
) -> Place {
    Place { id, name, category, peak_target_kwh, power_factor, counters }
}

/// What one meter shows at an instant, in the directions of its registers: import is positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub volts: [f64; 3],
    pub amperes: [f64; 3],
    pub kilowatts: [f64; 3],
    pub kilovars: [f64; 3],
    pub hertz: f64,
    pub imported_kwh: f64,
    pub exported_kwh: f64,
}

/// Monday 2026-11-02 at midnight, when the counters were commissioned.
const EPOCH_MS: i64 = 1_793_577_600_000;
const MINUTES: usize = 7 * 24 * 60;
const WEEK_S: usize = MINUTES * 60;
const WEEK_MS: i64 = 604_800_000;
const MW_S_PER_KWH: f64 = 3.6e9;

/// What has a course of its own through the week, by its place in the course.
const LINE_A: usize = 0;
const LINE_B: usize = 1;
const COMPRESSOR: usize = 2;
const CHILLER: usize = 3;
const SOLAR: usize = 4;
const BATTERY: usize = 5;
const FEED_IN: usize = 6;
const UNMETERED: usize = 7;
const PARTS: usize = 8;

/// The compressor runs loaded or idle; its course is the share of time that it runs loaded, in 1/1000.
const COMPRESSOR_CYCLE_S: usize = 240;
const COMPRESSOR_LOADED_KW: f64 = 76.0;
const COMPRESSOR_IDLE_KW: f64 = 21.0;

/// The plant with its week worked out; takes about 2 MB.
pub struct Plant {
    /// Standard time of the zone, ms east of UTC.
    offset_ms: i64,
    /// At the start of each minute, mW, import positive; a straight line between two minutes.
    course: Vec<[i64; PARTS]>,
    /// Imported and exported since the start of the week, at the start of each minute, mW·s.
    energy: Vec<[[i64; 2]; METERS]>,
    week: [[i64; 2]; METERS],
}

impl Plant {
    /// The plant of this seed, in a zone with this standard offset from UTC.
    pub fn new(seed: u64, offset_ms: i64) -> Self {
        let mut plant = Self { offset_ms, course: course(seed), energy: Vec::new(), week: [[0; 2]; METERS] };
        let mut energy = Vec::with_capacity(MINUTES);
        let mut sum = [[0; 2]; METERS];
        for second in 0..WEEK_S {
            if second % 60 == 0 {
                energy.push(sum);
            }
            add(&mut sum, &plant.powers(second));
        }
        plant.energy = energy;
        plant.week = sum;
        plant
    }

    /// What meter `index` shows at `at`. Indexes beyond the eight repeat them in other sizes.
    pub fn sample(&self, index: usize, at: Timestamp) -> Sample {
        let since_epoch = at.as_millis().saturating_add(self.offset_ms).saturating_sub(EPOCH_MS);
        let in_week = usize::try_from(since_epoch.rem_euclid(WEEK_MS)).unwrap_or(0);
        let (second, millis) = (in_week / 1_000, (in_week % 1_000) as f64);
        let minute = second / 60;
        let (meter, size) = (index % METERS, size_of_copy(index / METERS));

        let mut sum = self.energy[minute];
        for whole in minute * 60..second {
            add(&mut sum, &self.powers(whole));
        }
        let power = self.powers(second)[meter];
        let counter = |direction: usize, flow: i64| {
            let weeks = since_epoch.div_euclid(WEEK_MS).saturating_mul(self.week[meter][direction]);
            let within = weeks.saturating_add(sum[meter][direction]) as f64 + flow.max(0) as f64 * millis / 1_000.0;
            // A clock set before the commissioning finds counters that have not begun.
            (PLACES[meter].counters[direction] + within.max(0.0) / MW_S_PER_KWH) * size
        };
        let (imported_kwh, exported_kwh) = (counter(0, power), counter(1, -power));
        let (volts, amperes, kilowatts, kilovars, hertz) =
            electrical(power as f64 / 1e6 * size, PLACES[meter].power_factor, index, second);
        Sample { volts, amperes, kilowatts, kilovars, hertz, imported_kwh, exported_kwh }
    }

    /// Power of each meter in one second of the week, mW, import positive.
    fn powers(&self, second: usize) -> [i64; METERS] {
        let (from, to) = (&self.course[second / 60], &self.course[(second / 60 + 1) % MINUTES]);
        let within = i64::try_from(second % 60).unwrap_or(0);
        let mut parts = [0; PARTS];
        for (part, power) in parts.iter_mut().enumerate() {
            let smooth = from[part] + (to[part] - from[part]) * within / 60;
            // One per cent of unrest.
            *power = smooth + smooth / 12_800 * (noise(second, part) - 128);
        }
        let phase = i64::try_from(second % COMPRESSOR_CYCLE_S * 1_000 / COMPRESSOR_CYCLE_S).unwrap_or(0);
        let loaded = phase < from[COMPRESSOR];
        parts[COMPRESSOR] = milliwatts(if loaded { COMPRESSOR_LOADED_KW } else { COMPRESSOR_IDLE_KW });
        let incomer = parts.iter().sum::<i64>() - parts[FEED_IN];
        [
            incomer,
            parts[LINE_A],
            parts[LINE_B],
            parts[COMPRESSOR],
            parts[CHILLER],
            parts[SOLAR],
            parts[BATTERY],
            parts[FEED_IN],
        ]
    }
}

fn add(sum: &mut [[i64; 2]; METERS], powers: &[i64; METERS]) {
    for (sum, power) in sum.iter_mut().zip(powers) {
        sum[0] += (*power).max(0);
        sum[1] += (-*power).max(0);
    }
}

/// The first plant is as built; the others are between half and one and a half of it.
fn size_of_copy(copy: usize) -> f64 {
    if copy == 0 { 1.0 } else { 0.5 + noise(copy, 77) as f64 / 256.0 }
}

type Phases = [f64; 3];

/// Splits a total over the phases of a 400 V network that sags a little under load.
fn electrical(kilowatts: f64, power_factor: f64, index: usize, second: usize) -> (Phases, Phases, Phases, Phases, f64) {
    let unrest = |what: usize| noise(second, what + index * 16) as f64 / 256.0 - 0.5;
    let skew = |phase: usize| (noise(index, phase) as f64 / 256.0 - 0.5) * 0.04;
    let (one, two) = (1.0 / 3.0 + skew(1), 1.0 / 3.0 + skew(2));
    let kilowatts = [kilowatts * one, kilowatts * two, kilowatts * (1.0 - one - two)];
    let tangent = (1.0 - power_factor * power_factor).sqrt() / power_factor;
    let kilovars = kilowatts.map(|power| power.abs() * tangent);
    let slow = (second as f64 * TAU / 5_400.0).sin();
    let mut volts = [0.0; 3];
    let mut amperes = [0.0; 3];
    for phase in 0..3 {
        volts[phase] = 231.0 + 1.6 * slow + skew(phase) * 20.0 + unrest(phase) * 0.6 - kilowatts[phase] * 0.012;
        amperes[phase] = apparent(kilowatts[phase], kilovars[phase]) * 1_000.0 / volts[phase];
    }
    // The grid's frequency is one and the same at all meters.
    let hertz = 50.0 + 0.02 * (second as f64 * TAU / 700.0).sin() + (noise(second, 999) as f64 / 256.0 - 0.5) * 0.01;
    (volts, amperes, kilowatts, kilovars, hertz)
}

/// The week of each part by the minute.
fn course(seed: u64) -> Vec<[i64; PARTS]> {
    let mut course = Vec::with_capacity(MINUTES);
    let mut battery = Battery { stored_kwh: Battery::LEAST_KWH };
    for minute in 0..MINUTES {
        let (day, of_day) = (minute / 1_440, minute % 1_440);
        let hour = of_day as f64 / 60.0;
        let wander = |part: usize, every: usize| drift(seed, part, minute, every);
        let pace = match day {
            0..=4 => 1.0,
            5 => 0.9,
            _ => 0.6,
        };
        let by_shift = |early: f64, late: f64, night: f64| match of_day {
            360..840 => early * pace,
            840..1_320 => late * pace,
            _ => night,
        };
        let pause = match of_day {
            120..150 | 540..555 | 720..750 | 1_020..1_035 | 1_140..1_170 => 0.4,
            _ => 1.0,
        };
        let line_a = by_shift(148.0, 136.0, 31.0) * pause * (1.0 + 0.12 * wander(LINE_A, 7));
        let line_b = by_shift(112.0, 98.0, 18.0) * pause * (1.0 + 0.15 * wander(LINE_B, 11));
        let loaded = by_shift(0.74, 0.68, 0.22) * (0.4 + 0.6 * pause) * (1.0 + 0.1 * wander(COMPRESSOR, 20));
        let warmth = ((hour - 7.0) / 14.0 * PI).sin().max(0.0);
        let chiller = (20.0 + 58.0 * warmth + by_shift(17.0, 17.0, 0.0)) * (1.0 + 0.1 * wander(CHILLER, 15));
        let unmetered = by_shift(33.0, 27.0, 14.0) * (1.0 + 0.08 * wander(UNMETERED, 9));
        let height = ((hour - 6.5) / 12.0 * PI).sin().max(0.0).powf(1.3);
        let cloudy = [0.15, 0.35, 0.75, 0.25, 0.5, 0.2, 0.3][day];
        let sky = |place: usize| (1.0 - cloudy * (0.4 + wander(place, 6)).max(0.0)).clamp(0.12, 1.0);
        let (solar, feed_in) = (250.0 * height * sky(SOLAR), 85.0 * height * sky(FEED_IN));
        let air = COMPRESSOR_IDLE_KW + (COMPRESSOR_LOADED_KW - COMPRESSOR_IDLE_KW) * loaded;
        let net = line_a + line_b + air + chiller + unmetered - solar;
        let stored = battery.minute(hour, solar, net);
        course.push([
            milliwatts(line_a),
            milliwatts(line_b),
            milliwatts(loaded / 1_000.0),
            milliwatts(chiller),
            milliwatts(-solar),
            milliwatts(stored),
            milliwatts(-feed_in),
            milliwatts(unmetered),
        ]);
    }
    course
}

/// Charges from a good part of the midday sun, and shaves the evening's peak until it is empty.
struct Battery {
    stored_kwh: f64,
}

impl Battery {
    const LEAST_KWH: f64 = 50.0;
    const MOST_KWH: f64 = 350.0;
    const MOST_KW: f64 = 90.0;

    /// Its power for one minute, charging positive.
    fn minute(&mut self, hour: f64, solar: f64, net: f64) -> f64 {
        let power = if (8.0..15.0).contains(&hour) && self.stored_kwh < Self::MOST_KWH {
            ((solar - 70.0) * 0.6).clamp(0.0, Self::MOST_KW)
        } else if (16.0..22.0).contains(&hour) && self.stored_kwh > Self::LEAST_KWH {
            -(net - 310.0).clamp(0.0, Self::MOST_KW)
        } else {
            0.0
        };
        self.stored_kwh += power / 60.0;
        power
    }
}

/// Apparent power. Not by `hypot`: glibc has a new one since 2.35, and the program would run on no older system for it.
pub fn apparent(kilowatts: f64, kilovars: f64) -> f64 {
    (kilowatts * kilowatts + kilovars * kilovars).sqrt()
}

#[allow(clippy::cast_possible_truncation)] // far within 64 bits
fn milliwatts(kilowatts: f64) -> i64 {
    (kilowatts * 1e6).round() as i64
}

/// Between −0.5 and 0.5, in a straight line between points `every` minutes apart.
fn drift(seed: u64, part: usize, minute: usize, every: usize) -> f64 {
    let point = |at: usize| mix(seed ^ mix(part as u64) ^ at as u64) as f64 / u64::MAX as f64 - 0.5;
    let share = (minute % every) as f64 / every as f64;
    point(minute / every) * (1.0 - share) + point(minute / every + 1) * share
}

/// 0..=255, the same for the same arguments.
fn noise(at: usize, what: usize) -> i64 {
    i64::from(mix((at as u64) << 20 ^ what as u64).to_be_bytes()[0])
}

/// A small repeatable mixer (the finaliser of splitmix64).
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn plant() -> Plant {
        Plant::new(1, 8 * 3_600_000)
    }

    /// Local Monday of the second week.
    fn monday(plant: &Plant) -> i64 {
        EPOCH_MS + WEEK_MS - plant.offset_ms
    }

    fn total(sample: &Sample) -> f64 {
        sample.kilowatts.iter().sum()
    }

    #[test]
    fn counters_are_the_integral_of_power_across_minutes_and_weeks() {
        let plant = plant();
        for start in [monday(&plant) + 43_199_500, monday(&plant) + WEEK_MS - 65_250] {
            for index in 0..METERS + 3 {
                let mut held = [0.0; 2];
                for step in 0..500 {
                    let power = total(&plant.sample(index, Timestamp::from_millis(start + step * 250)));
                    held[0] += power.max(0.0) * 0.25 / 3_600.0;
                    held[1] += (-power).max(0.0) * 0.25 / 3_600.0;
                }
                let from = plant.sample(index, Timestamp::from_millis(start));
                let to = plant.sample(index, Timestamp::from_millis(start + 125_000));
                assert!((to.imported_kwh - from.imported_kwh - held[0]).abs() < 1e-6, "meter {index}");
                assert!((to.exported_kwh - from.exported_kwh - held[1]).abs() < 1e-6, "meter {index}");
            }
        }
    }

    #[test]
    fn energy_balances_at_the_incomer() {
        let plant = plant();
        for minute in (0..10_080).step_by(37) {
            let at = Timestamp::from_millis(monday(&plant) + minute * 60_000);
            let power: Vec<f64> = (0..METERS).map(|index| total(&plant.sample(index, at))).collect();
            let unmetered = power[0] - power[1..7].iter().sum::<f64>();
            assert!((10.0..40.0).contains(&unmetered), "{unmetered} kW has no meter at minute {minute}");
            assert!(power[5] <= 0.0 && power[7] <= 0.0, "the sun consumes at minute {minute}");
        }
    }

    #[test]
    fn a_day_has_shifts_sun_and_an_evening_peak() {
        let plant = plant();
        let kw = |index: usize, hour: i64| {
            total(&plant.sample(index, Timestamp::from_millis(monday(&plant) + hour * 3_600_000 + 1_200_000)))
        };
        assert!(kw(1, 10) > 3.0 * kw(1, 3), "line A works by day");
        assert!(kw(5, 12) < -100.0 && kw(5, 2).abs() < 1e-9, "the sun shines by day");
        assert!(kw(6, 11) > 10.0 && kw(6, 18) < -10.0, "the battery charges by day and helps in the evening");
        assert!((0..7 * 24).all(|hour| (20.0..500.0).contains(&kw(0, hour))), "the incomer stays within its fuse");
    }

    #[test]
    fn counters_never_step_back_not_even_for_a_clock_before_commissioning() {
        let plant = plant();
        let mut last = [[0.0; 2]; METERS];
        for hour in -200..400 {
            for (index, last) in last.iter_mut().enumerate() {
                let now = plant.sample(index, Timestamp::from_millis(EPOCH_MS + hour * DAY_MS / 24));
                assert!(now.imported_kwh >= last[0] && now.exported_kwh >= last[1], "meter {index} at hour {hour}");
                *last = [now.imported_kwh, now.exported_kwh];
            }
        }
    }

    #[test]
    fn phases_are_those_of_a_400_volt_network() {
        let plant = plant();
        for index in 0..24 {
            let sample = plant.sample(index, Timestamp::from_millis(monday(&plant) + 36_000_000));
            assert!(sample.volts.iter().all(|volts| (215.0..245.0).contains(volts)), "{sample:?}");
            assert!((49.9..50.1).contains(&sample.hertz));
            assert!(sample.amperes.iter().all(|amperes| (0.0..1_500.0).contains(amperes)), "{sample:?}");
        }
    }
}
