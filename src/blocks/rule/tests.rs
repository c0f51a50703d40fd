use super::*;
use crate::model::{BadReadings, Number, Quantity, Ratio, RawReading, Recomputed, Repeated, Slot};
use proptest::prelude::*;

/// What a test meter says at an instant: import and export in kWh, power in kW.
#[derive(Clone, Copy, Debug, Default)]
pub struct Say {
    pub import: Option<f64>,
    pub export: Option<f64>,
    pub power: Option<f64>,
}

pub fn layout(meter: &str, category: Category, interval_ms: Option<u32>) -> Arc<Layout> {
    let slot = |role: Role| Slot {
        quantity: role.quantity().parse::<Quantity>().unwrap(),
        scale: Ratio::ONE,
        rolls_over_at: (role != Role::Power).then_some(100_000_000),
        interval: None,
    };
    Arc::new(Layout {
        meter: meter.parse().unwrap(),
        category,
        interval_ms,
        template: None,
        simulated: false,
        slots: Role::ALL.map(slot).to_vec(),
    })
}

pub fn values(say: Say) -> Box<[(u8, Number)]> {
    let values = [say.import, say.export, say.power];
    (0..).zip(values).filter_map(|(place, value)| Some((place, Number::from_f64(value?)?))).collect()
}

pub fn reading(layout: &Arc<Layout>, seq: u64, ms: i64, say: Say) -> StoredReading {
    StoredReading {
        seq,
        time: Timestamp::from_millis(ms),
        layout: layout.clone(),
        values: values(say),
        clock: ClockState::Synchronised,
        conflict: false,
    }
}

pub fn terms(category: Category, interval_ms: u32) -> Terms {
    Terms {
        meter: "m".parse().unwrap(),
        category,
        interval_ms,
        template: None,
        simulated: false,
        nominal_ms: 1_800_000,
        cut: false,
        is_peak_hour: false,
        zone: "UTC".to_owned(),
        through_seq: 1 << 40,
        sealed: Timestamp::default(),
    }
}

/// Closes the spans that lie between `borders` one after the other, each from the record of the one before.
pub fn close_all(borders: &[i64], readings: &[StoredReading], terms: &Terms) -> Vec<Block> {
    let mut carry = Carry::default();
    let mut blocks = Vec::new();
    for pair in borders.windows(2) {
        let span = Span::new(Timestamp::from_millis(pair[0]), Timestamp::from_millis(pair[1])).unwrap();
        let mut tally = Tally::begin(span, carry, terms.interval_ms, true);
        readings.iter().for_each(|reading| tally.push(reading));
        let block = tally.finish(terms.clone());
        carry = Carry::after(&block.borders, block.span.end());
        blocks.push(block);
    }
    blocks
}

fn uwh(block: &Block) -> (Option<i64>, Option<i64>) {
    (block.import.map(Energy::as_uwh), block.export.map(Energy::as_uwh))
}

/// The values that a block commits to, in their order.
fn committed_to(block: &Block, readings: &[StoredReading]) -> Vec<RawReading> {
    let beside = |list: &[Border]| {
        let mut list = list.to_vec();
        list.sort_by_key(|at| (at.time, at.seq, at.role.quantity()));
        list.into_iter().map(|at| RawReading { role: at.role, time: at.time, seq: at.seq, raw: at.raw })
    };
    let within = readings.iter().filter(|at| block.span.contains(at.time)).flat_map(|at| {
        let value = |role| Some(RawReading { role, time: at.time, seq: at.seq, raw: at.raw(role)? });
        [Role::Export, Role::Import, Role::Power].into_iter().filter_map(value)
    });
    beside(&block.borders.before).chain(within).chain(beside(&block.borders.after)).collect()
}

const HOUR: i64 = 3_600_000;
const HALF: i64 = HOUR / 2;

/// A load of 12 kW read every `interval` ms from `from` to `to`, by register and power, or by one of them.
fn load(interval: i64, from: i64, to: i64, register: bool, power: bool) -> Vec<StoredReading> {
    let layout = layout("m", Category::Cons, Some(u32::try_from(interval).unwrap()));
    let said = |ms: i64| Say {
        import: register.then_some(1_000.0 + 12.0 * ms as f64 / 3_600_000.0),
        export: None,
        power: power.then_some(12.0),
    };
    (from..=to)
        .step_by(usize::try_from(interval).unwrap())
        .zip(1..)
        .map(|(ms, seq)| reading(&layout, seq, ms, said(ms)))
        .collect()
}

#[test]
fn counter_and_power_agree_on_one_load_at_any_interval() {
    for interval in [100, 1_000, 7_000, 60_000, 600_000] {
        let terms = terms(Category::Cons, u32::try_from(interval).unwrap());
        for (register, power, method) in [(true, true, Method::Counter), (false, true, Method::Power)] {
            let readings = load(interval, -600_000, HOUR + 600_000, register, power);
            let block = &close_all(&[-HALF, 0, HALF], &readings, &terms)[1];
            let import = block.import.unwrap().as_uwh();
            assert!((import - 6_000_000_000).abs() <= 2, "{interval} {method:?} {import}");
            assert_eq!((block.method, block.coverage, block.flags.names()), (method, 10_000, vec![]));
            assert_eq!(block.export.map(Energy::as_uwh), if register { None } else { Some(0) });
        }
    }
}

#[test]
fn power_against_the_category_is_the_other_direction() {
    for (category, positive_is_import) in
        [(Category::Cons, true), (Category::Stor, true), (Category::Prod, false), (Category::Inj, false)]
    {
        let layout = layout("m", category, Some(1_000));
        let say = |kw| Say { power: Some(kw), ..Say::default() };
        let readings: Vec<_> = (0..HALF / 1_000)
            .map(|s| reading(&layout, 1 + s.unsigned_abs(), s * 1_000, say(if s < 900 { 4.0 } else { -2.0 })))
            .collect();
        let block = &close_all(&[0, HALF], &readings, &terms(category, 1_000))[0];
        let (along, against) = (1_000_000_000, 500_000_000);
        let want = if positive_is_import { (along, against) } else { (against, along) };
        assert_eq!(uwh(block), (Some(want.0), Some(want.1)), "{category}");
        assert_eq!(block.net().unwrap().as_uwh(), 500_000_000);
        assert_eq!(block.max_power, Some(Power::from_mw(4_000_000)));
        assert_eq!(block.min_power, Some(Power::from_mw(-2_000_000)));
    }
}

#[test]
fn a_direction_without_register_comes_from_power_when_there_is_any() {
    let layout = layout("m", Category::Cons, Some(1_000));
    let say = |s: i64| Say {
        import: Some(100.0 + 4.0 * s.min(900) as f64 / 3_600.0),
        export: None,
        power: Some(if s < 900 { 4.0 } else { -2.0 }),
    };
    let readings: Vec<_> =
        (0..=HALF / 1_000).map(|s| reading(&layout, 1 + s.unsigned_abs(), s * 1_000, say(s))).collect();
    let block = &close_all(&[0, HALF], &readings, &terms(Category::Cons, 1_000))[0];
    assert_eq!((block.method, uwh(block)), (Method::Mixed, (Some(1_000_000_000), Some(500_000_000))));
}

#[test]
fn a_reading_of_power_speaks_for_a_minute_at_most() {
    let layout = layout("m", Category::Cons, Some(1_000));
    let say = Say { power: Some(60.0), ..Say::default() };
    let readings = [reading(&layout, 1, 600_000, say), reading(&layout, 2, 1_200_000, say)];
    let block = &close_all(&[0, HALF], &readings, &terms(Category::Cons, 1_000))[0];
    // Twice one minute of 60 kW.
    assert_eq!(block.import.unwrap().as_uwh(), 2_000_000_000);
    assert_eq!((block.covered_ms, block.coverage, block.flags.names()), (120_000, 666, vec!["gap"]));
    assert_eq!(block.avg_kw(), Some(60.0));
}

#[test]
fn a_gap_in_across_and_longer_than_blocks_keeps_the_total() {
    let terms = terms(Category::Cons, 1_000);
    // Inside the first block, across a border, and over two whole blocks.
    for (gap, estimated) in
        [((300, 900), [false; 4]), ((1_500, 2_400), [true, true, false, false]), ((1_500, 6_000), [true; 4])]
    {
        let readings: Vec<_> = load(1_000, 0, 4 * HALF, true, false)
            .into_iter()
            .filter(|r| !(gap.0 * 1_000..gap.1 * 1_000).contains(&r.time.as_millis()))
            .collect();
        let blocks = close_all(&[0, HALF, 2 * HALF, 3 * HALF, 4 * HALF], &readings, &terms);
        let total: i64 = blocks.iter().map(|block| block.import.unwrap().as_uwh()).sum();
        assert_eq!(total, 24_000_000_000, "{gap:?}");
        let marked: Vec<_> = blocks.iter().map(|block| block.flags.has(BlockFlag::Estimated)).collect();
        assert_eq!(marked, estimated, "{gap:?}");
        assert!(blocks[0].flags.has(BlockFlag::Gap) && blocks[0].covered_ms < HALF);
    }
}

#[test]
fn a_silent_block_is_null() {
    let terms = terms(Category::Cons, 1_000);
    let readings = load(1_000, 0, HALF - 10_000, true, true);
    let blocks = close_all(&[0, HALF, 2 * HALF], &readings, &terms);
    assert_eq!((uwh(&blocks[1]), blocks[1].coverage, blocks[1].net()), ((None, None), 0, None));
    assert_eq!((blocks[1].method, blocks[1].flags.names()), (Method::Counter, vec!["gap"]));
    assert_eq!(blocks[1].borders.before.len(), 2, "it carries the readings that the next block begins with");
    // No reading at or after the end: the register's last value stands at the border.
    assert_eq!(uwh(&blocks[0]), (Some(5_966_666_667), None));
}

#[test]
fn a_meter_that_starts_in_mid_block_has_a_partial_one() {
    let readings = load(1_000, HALF / 2, HALF + 5_000, true, true);
    let block = &close_all(&[0, HALF], &readings, &terms(Category::Cons, 1_000))[0];
    assert_eq!(block.import.unwrap().as_uwh(), 3_000_000_000);
    assert_eq!((block.covered_ms, block.flags.names()), (HALF / 2 + 60_000, vec!["gap"]));
}

#[test]
fn a_sentinel_in_the_middle_is_absent() {
    let mut readings = load(1_000, 0, HALF, true, true);
    for at in &mut readings[600..700] {
        at.values = values(Say { power: Some(12.0), ..Say::default() });
    }
    let block = &close_all(&[0, HALF], &readings, &terms(Category::Cons, 1_000))[0];
    assert_eq!((uwh(block), block.flags.names()), ((Some(6_000_000_000), None), vec![]));
}

#[test]
fn a_replaced_meter_and_a_rollover_at_a_border_are_booked_once() {
    let layout = layout("m", Category::Cons, Some(60_000));
    let run = |values: &[f64]| {
        let readings: Vec<_> = (0..)
            .zip(values)
            .map(|(at, kwh)| {
                let say = Say { import: Some(*kwh), ..Say::default() };
                reading(&layout, 1 + at, i64::try_from(at).unwrap() * 60_000 + 30_000, say)
            })
            .collect();
        close_all(&[0, 180_000, 360_000], &readings, &terms(Category::Cons, 60_000))
    };
    // The border at 180 s lies half way between the third and the fourth reading.
    let blocks = run(&[99_999_997.0, 99_999_998.0, 99_999_999.0, 1.0, 2.0, 3.0]);
    assert_eq!((uwh(&blocks[0]).0, uwh(&blocks[1]).0), (Some(3_000_000_000), Some(3_000_000_000)));
    assert!(blocks.iter().all(|block| block.flags.has(BlockFlag::Rollover)));
    assert_eq!(blocks[0].borders.breaks, blocks[1].borders.breaks);
    let blocks = run(&[5_000.0, 5_001.0, 5_002.0, 1.0, 2.0, 3.0]);
    assert_eq!((uwh(&blocks[0]).0, uwh(&blocks[1]).0), (Some(2_000_000_000), Some(2_000_000_000)));
    assert!(blocks.iter().all(|block| block.flags.has(BlockFlag::Reset)));
}

#[test]
fn the_digest_covers_the_borders_and_what_lies_between() {
    let readings = load(1_000, HALF - 2_000, HALF + 2_000, true, true);
    let blocks = close_all(&[0, HALF, 2 * HALF], &readings, &terms(Category::Cons, 1_000));
    let digest = |readings: &[StoredReading]| {
        let mut lines = Vec::new();
        for at in readings {
            for role in [Role::Import, Role::Power] {
                write_reading_line(role, at.time, at.seq, at.raw(role).unwrap(), &mut lines);
            }
        }
        Digest::of(&lines)
    };
    assert_eq!(blocks[0].readings_sha256, digest(&readings[..3]));
    assert_eq!(blocks[1].readings_sha256, digest(&readings[1..]));
}

#[test]
fn raw_readings_show_that_nothing_was_left_out_of_a_register() {
    let readings = load(1_000, -HALF, HALF + 60_000, true, true);
    let block = close_all(&[-HALF, 0, HALF], &readings, &terms(Category::Cons, 1_000)).remove(1);
    let raw = committed_to(&block, &readings);
    let all = Repeated { register: [true, false], power: true, coverage: true };
    assert_eq!(block.repeat(&raw), Ok(all));
    // A register that was said to have begun anew in mid-block hides what it counted until then.
    let border = |at: &StoredReading| border_of(at, Role::Import, Some(0)).unwrap();
    let inside: Vec<_> = readings.iter().filter(|at| block.span.contains(at.time)).map(border).collect();
    let mut reset = block.clone();
    reset.borders.breaks.push(Break { from: inside[400], to: inside[401], rollover: false });
    let Recomputed::Register(energy) = reset.recompute().0 else { panic!("by register") };
    reset.import = Some(energy);
    assert!(reset.agrees_with_borders() && reset.import < block.import);
    assert!(matches!(reset.repeat(&raw), Err(BadReadings::Other { what: "breaks or pending", .. })));
    // So does one that is said to end before its last reading.
    let mut early = block.clone();
    early.borders.last[0] = inside[1_000];
    assert!(matches!(early.repeat(&raw), Err(BadReadings::Other { what: "last", .. })));
    // Where a register steps back, what counts is a longer story.
    let mut glitch = readings.clone();
    glitch[2_000].values = values(Say { import: Some(17.0), power: Some(12.0), export: None });
    let block = close_all(&[-HALF, 0, HALF], &glitch, &terms(Category::Cons, 1_000)).remove(1);
    let told = block.repeat(&committed_to(&block, &glitch));
    assert_eq!(told, Ok(Repeated { register: [false, false], ..all }));
}

#[test]
fn conflicting_values_are_flagged_and_the_first_counts() {
    let mut readings = load(1_000, 0, HALF, true, true);
    let mut other = readings[900].clone();
    other.seq = 9_999;
    other.conflict = true;
    other.values = values(Say { import: Some(1_900.0), power: Some(99.0), export: None });
    readings.insert(901, other);
    let block = &close_all(&[0, HALF], &readings, &terms(Category::Cons, 1_000))[0];
    assert_eq!((uwh(block).0, block.flags.names()), (Some(6_000_000_000), vec!["conflict"]));
    assert_eq!(block.max_power, Some(Power::from_mw(12_000_000)));
}

/// The rule as slowly and plainly as it can be said, for readings of a register that only counts on: the value at
/// a border, looked up among all readings.
fn value_at(at: i64, readings: &[(i64, i64)]) -> Option<i64> {
    let next = readings.iter().find(|(time, _)| *time >= at);
    let before = readings.iter().rev().find(|(time, _)| *time < at);
    match (before, next) {
        (None, None) => None,
        (None, Some((_, value))) | (Some((_, value)), None) => Some(*value),
        (Some((t0, v0)), Some((t1, v1))) => {
            Some(v0 + i64::try_from(i128::from(v1 - v0) * i128::from(at - t0) / i128::from(t1 - t0)).unwrap())
        }
    }
}

/// Coverage and power, millisecond by millisecond (in steps of `STEP`, on which all times lie).
fn plainly(span: (i64, i64), reach: i64, readings: &[(i64, Option<i64>)]) -> (i64, i128, i128) {
    const STEP: i64 = 500;
    let (mut covered, mut along, mut against) = (0, 0, 0);
    for at in (span.0..span.1).step_by(500) {
        // The millisecond's far end decides, for a reading closes the time before it.
        if readings.iter().any(|(time, _)| *time >= at + STEP && *time - at <= reach) {
            covered += STEP;
        }
        let last = readings.iter().rev().find(|(time, power)| *time <= at && power.is_some());
        if let Some((time, Some(mw))) = last
            && at + STEP - time <= reach
        {
            let sum = i128::from(*mw) * i128::from(STEP);
            along += sum.max(0);
            against += (-sum).max(0);
        }
    }
    (covered, along / 3_600, against / 3_600)
}

proptest! {
    /// Whatever the readings, and however the span is cut: a record's borders give the energy that it says, also
    /// after it has been written and read again.
    #[test]
    fn borders_alone_give_the_energy_of_a_record(
        said in prop::collection::vec(
            (
                1..400_i64,
                prop::option::weighted(0.8, prop_oneof![
                    4 => 0.0..3.0, 4 => 1_000.0..1_003.0, 1 => Just(0.0), 2 => 65_533.0..65_536.0, 1 => 0.0..1e9,
                ]),
                prop::option::of(500.0..502.0),
                prop::option::of(-9.0..9.0),
            ),
            1..60,
        ),
        rising in any::<bool>(),
        cuts in prop::collection::btree_set(1..8_000_i64, 0..8),
    ) {
        let layout = layout("m", Category::Cons, Some(1_000));
        let slots = layout.slots.iter().cloned().map(|mut slot| {
            slot.rolls_over_at = slot.rolls_over_at.map(|_| 1 << 16);
            slot
        });
        let layout = Arc::new(Layout { slots: slots.collect(), ..Layout::clone(&layout) });
        let (mut ms, mut readings) = (0, Vec::new());
        for (seq, (wait, import, export, power)) in (1..).zip(said) {
            ms += wait * 500;
            // Wild values are mostly glitches; those that rise and pass the end are not.
            let kwh = (65_000.0 + ms as f64 / 100.0) % 65_536.0;
            let import = import.map(|value| if rising { kwh + value / 1e9 } else { value });
            readings.push(reading(&layout, seq, ms, Say { import, export, power }));
        }
        let mut borders: Vec<i64> = [0].into_iter().chain(cuts.iter().map(|cut| cut * 500)).collect();
        borders.push(ms.max(*borders.last().unwrap()) + 200_000);
        for block in close_all(&borders, &readings, &terms(Category::Cons, 1_000)) {
            let block = Block::from_record(&block.to_record().unwrap()).unwrap();
            prop_assert!(block.agrees_with_borders(), "{:?} {:#?}", block.recompute(), block);
            if block.method == Method::Counter {
                let known = |energy: Option<Energy>| energy.map_or(Recomputed::NotByRegister, Recomputed::Register);
                prop_assert_eq!(block.recompute(), (known(block.import), known(block.export)));
            }
            let raw = committed_to(&block, &readings);
            let repeated = block.repeat(&raw);
            let knows_power = raw.iter().any(|at| at.role == Role::Power);
            let Ok(Repeated { power, coverage, .. }) = repeated else {
                return Err(TestCaseError::fail(format!("{repeated:?} {block:#?}")));
            };
            prop_assert_eq!((power, coverage), (knows_power, true), "{:#?}", block);
            if let Some(at) = raw.get(raw.len() / 2) {
                let mut other = raw.clone();
                other[raw.len() / 2] = RawReading { seq: at.seq + 1, ..*at };
                let refused = matches!(block.repeat(&other), Err(BadReadings::Digest { .. }));
                prop_assert!(refused);
            }
            if let Some(max_power) = block.max_power {
                let max_power = Some(Power::from_mw(max_power.as_mw() + 1));
                let higher = Block { max_power, ..block.clone() };
                prop_assert!(higher.repeat(&raw).is_err());
            }
            let uncovered = Block { covered_ms: block.covered_ms - 1, ..block.clone() };
            let next = readings.iter().find(|at| at.time >= block.span.end() && !at.values.is_empty());
            let is_known = next.is_none_or(|next| raw.iter().any(|at| at.seq == next.seq));
            prop_assert!(uncovered.repeat(&raw).is_err() || !is_known, "{:#?}", block);
            let forged = Block { import: block.import.map(|at| Energy::from_uwh(at.as_uwh() + 1)), ..block };
            let by_power = matches!(forged.recompute().0, Recomputed::NotByRegister) && forged.import.is_some();
            prop_assert_eq!(forged.repeat(&raw).is_err(), by_power, "{:#?}", forged);
            let by_register = matches!(forged.recompute().0, Recomputed::Register(_));
            prop_assert_eq!(forged.agrees_with_borders(), !by_register);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_rule_agrees_with_the_plain_one(
        steps in prop::collection::vec((1..400_i64, 0..3_000_000_i64, prop::option::of(-9_000_000..9_000_000_i64)), 1..60),
        interval in prop::sample::select(vec![1_000_u32, 30_000, 60_000]),
        cuts in prop::collection::btree_set(1..8_000_i64, 0..6),
    ) {
        let layout = layout("m", Category::Cons, Some(interval));
        let raw = |uwh: i64| Number::I64(uwh);
        let layout = Arc::new(Layout {
            slots: layout.slots.iter().cloned().map(|mut slot| {
                // Whole µWh and mW, so that the plain rule needs no rounding.
                let decimals = if slot.quantity.role() == Some(Role::Power) { 1_000_000 } else { 1_000_000_000 };
                slot.scale = Ratio::new(1, decimals).unwrap();
                slot
            }).collect(),
            ..Layout::clone(&layout)
        });
        let (mut ms, mut uwh, mut readings) = (0, 5_000_000_000_i64, Vec::new());
        for (seq, (wait, rise, power)) in (1..).zip(&steps) {
            ms += wait * 500;
            uwh += rise;
            let mut at = reading(&layout, seq, ms, Say::default());
            at.values = [Some((0, raw(uwh))), power.map(|mw| (2, raw(mw)))].into_iter().flatten().collect();
            readings.push(at);
        }
        let mut borders: Vec<i64> = [0].into_iter().chain(cuts.iter().map(|cut| cut * 500)).collect();
        borders.push(ms.max(*borders.last().unwrap()) + 200_000);
        let blocks = close_all(&borders, &readings, &terms(Category::Cons, interval));

        let values: Vec<_> = readings.iter().map(|at| {
            (at.time.as_millis(), at.raw(Role::Import).unwrap().scaled(layout.slots[0].scale, 9).unwrap())
        }).collect();
        let power: Vec<_> = readings.iter().map(|at| {
            (at.time.as_millis(), at.raw(Role::Power).map(|raw| raw.scaled(layout.slots[2].scale, 6).unwrap()))
        }).collect();
        let mut total = 0;
        for (block, pair) in blocks.iter().zip(borders.windows(2)) {
            let (v0, v1) = (value_at(pair[0], &values), value_at(pair[1], &values));
            let (covered, along, against) = plainly((pair[0], pair[1]), reach_ms(interval), &power);
            match block.import {
                Some(import) => {
                    prop_assert_eq!(import.as_uwh(), v1.unwrap() - v0.unwrap());
                    prop_assert_eq!(block.covered_ms, covered);
                    total += import.as_uwh();
                }
                None => prop_assert_eq!(v0, v1, "only a silent block books nothing"),
            }
            let _ = along;
            if let Some(export) = block.export {
                prop_assert_eq!(i128::from(export.as_uwh()), against);
            } else {
                prop_assert!(against == 0 || power.iter().all(|(time, mw)| mw.is_none() || !(pair[0]..pair[1]).contains(time)));
            }
        }
        prop_assert_eq!(total, values.last().unwrap().1 - values[0].1, "totals hold");
    }
}
