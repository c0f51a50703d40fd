//! Energy by intervals: the rule by itself, and the block task over the real store.

use super::super::rule::tests::{close_all, reading, terms};
use super::super::window::FILLS;
use super::*;
use crate::model::{Interval, Label, Recomputed, Slot};

/// A meter that states import and export by interval, and power as a value.
fn by_interval(minutes: i64, label: Label) -> Arc<Layout> {
    of("m", minutes, label)
}

pub fn of(meter: &str, minutes: i64, label: Label) -> Arc<Layout> {
    let interval = Interval { ms: u32::try_from(minutes * MINUTE).unwrap(), label };
    let plain = layout(meter, Category::Cons, Some(900_000));
    let slots = plain.slots.iter().map(|slot| Slot { interval: Some(interval), rolls_over_at: None, ..slot.clone() });
    Arc::new(Layout { slots: slots.collect(), ..Layout::clone(&plain) })
}

fn kwh(kwh: f64) -> Say {
    Say { import: Some(kwh), ..Say::default() }
}

/// Where the label of an interval lies that begins at `start`, ms.
fn labelled(start: i64, minutes: i64, label: Label) -> i64 {
    if label == Label::Start { start } else { start + minutes * MINUTE }
}

/// Import in Wh, method, coverage and flags.
type Short = (Option<i64>, Method, u16, Vec<&'static str>);

fn short(block: &Block) -> Short {
    let wh = block.import.map(|energy| energy.as_uwh() / 1_000_000);
    (wh, block.method, block.coverage, block.flags.names())
}

/// Blocks of half an hour over these readings: `(layout, label in minutes, what is said)`.
fn halves(count: i64, said: &[(&Arc<Layout>, i64, Say)]) -> Vec<Block> {
    let borders: Vec<i64> = (0..=count).map(|half| half * HALF).collect();
    let readings: Vec<_> =
        (1..).zip(said).map(|(seq, (layout, minute, say))| reading(layout, seq, minute * MINUTE, *say)).collect();
    close_all(&borders, &readings, &terms(Category::Cons, 900_000))
}

#[test]
fn an_interval_is_spread_evenly_over_the_blocks_it_covers() {
    for label in [Label::Start, Label::End] {
        let at = |start: i64, minutes: i64| labelled(start * MINUTE, minutes, label) / MINUTE;
        // An hour over two blocks.
        let hour = by_interval(60, label);
        let blocks = halves(2, &[(&hour, at(0, 60), kwh(3.0))]);
        let half: Short = (Some(1_500), Method::Interval, 10_000, vec![]);
        assert_eq!(blocks.iter().map(short).collect::<Vec<_>>(), [half.clone(), half], "{label:?}");
        // Five minutes, not aligned: a fifth lies before the border.
        let five = by_interval(5, label);
        let blocks = halves(2, &[(&five, at(29, 5), kwh(0.5))]);
        let part = |wh, coverage| (Some(wh), Method::Interval, coverage, vec!["gap"]);
        assert_eq!(blocks.iter().map(short).collect::<Vec<_>>(), [part(100, 333), part(400, 1_333)], "{label:?}");
        // A third of a µWh goes where the border value is rounded to: the sum is exact.
        let quarter = by_interval(15, label);
        let blocks = halves(2, &[(&quarter, at(25, 15), kwh(1e-9))]);
        let uwh: Vec<_> = blocks.iter().map(|block| block.import.unwrap().as_uwh()).collect();
        assert_eq!(uwh, [0, 1], "{label:?}");
    }
}

#[test]
fn a_missing_interval_is_absent_and_not_bridged() {
    for label in [Label::Start, Label::End] {
        let quarter = by_interval(15, label);
        let said = |start| (&quarter, labelled(start * MINUTE, 15, label) / MINUTE, kwh(1.0));
        let blocks = halves(4, &[said(0), said(30), said(45), said(105)]);
        let half = (Some(1_000), Method::Interval, 5_000, vec!["gap"]);
        let none = (None, Method::Interval, 0, vec!["gap"]);
        let whole = (Some(2_000), Method::Interval, 10_000, vec![]);
        let told: Vec<_> = blocks.iter().map(short).collect();
        assert_eq!(told, [half.clone(), whole, none, half], "{label:?}");
    }
}

#[test]
fn what_cannot_be_energy_is_absent() {
    let quarter = by_interval(15, Label::End);
    // Below nothing; a lifetime's register; and the right one, labelled alike and later.
    let blocks = halves(1, &[(&quarter, 15, kwh(-1.0)), (&quarter, 30, kwh(98_765_432.1)), (&quarter, 30, kwh(2.0))]);
    assert_eq!(short(&blocks[0]), (Some(2_000), Method::Interval, 5_000, vec!["conflict", "gap"]));
    let longer_than_a_day = by_interval(1_441, Label::Start);
    assert_eq!(halves(1, &[(&longer_than_a_day, 0, kwh(1.0))])[0].import, None);
}

#[test]
fn overlapping_intervals_are_counted_once() {
    let quarter = by_interval(15, Label::Start);
    let hour = by_interval(60, Label::Start);
    // The quarter from 20 has ten minutes of its own.
    let blocks = halves(2, &[(&quarter, 15, kwh(3.0)), (&quarter, 20, kwh(3.0)), (&hour, 25, kwh(60.0))]);
    assert_eq!(short(&blocks[0]), (Some(3_000), Method::Interval, 5_000, vec!["conflict", "gap"]));
    // Five minutes of the second quarter, then the rest of the hour.
    assert_eq!(short(&blocks[1]), (Some(1_000 + 25_000), Method::Interval, 10_000, vec!["conflict"]));
    // The same stretch once by its start and once by its end.
    let by_end = by_interval(15, Label::End);
    let blocks = halves(1, &[(&quarter, 0, kwh(1.0)), (&by_end, 15, kwh(1.0)), (&quarter, 15, kwh(2.0))]);
    assert_eq!(blocks[0].import.unwrap().as_uwh(), 3_000_000_000, "what tells nothing new keeps nothing out");
    let blocks = halves(1, &[(&quarter, 15, kwh(1.0)), (&by_end, 15, kwh(2.0))]);
    assert_eq!(blocks[0].import.unwrap().as_uwh(), 1_000_000_000, "of two values at one instant the first counts");
}

#[test]
fn a_source_that_states_nonsense_does_not_fill_the_record() {
    // Labelled by when it was read, each second, although each tells of an hour.
    let hour = by_interval(60, Label::Start);
    let readings: Vec<_> = (0..3_600).map(|s| reading(&hour, s + 1, s.cast_signed() * 1_000, kwh(3.6))).collect();
    let blocks = close_all(&[0, HALF, HOUR, HOUR + HALF], &readings, &terms(Category::Cons, 900_000));
    for block in &blocks {
        let borders = &block.borders;
        assert!(borders.before.len() + borders.last.len() + borders.after.len() < 20, "{borders:#?}");
        assert!(block.flags.has(BlockFlag::Conflict));
    }
    assert_eq!(blocks[0].import.unwrap().as_uwh(), 1_800_000_000);
}

#[test]
fn a_register_ends_where_intervals_begin_and_begins_anew_after_them() {
    let counter = layout("m", Category::Cons, Some(900_000));
    let (by_start, by_end) = (by_interval(15, Label::Start), by_interval(15, Label::End));
    // 4 kW by register until 10, then quarters labelled by their end: the first counts from 10 on.
    let said = [
        (&counter, 0, kwh(1_000.0)),
        (&counter, 10, kwh(1_000.0 + 2.0 / 3.0)),
        (&by_end, 15, kwh(1.0)),
        (&by_end, 30, kwh(1.0)),
        // The register again, with a value that knows all of it: nothing is booked twice.
        (&counter, 40, kwh(1_003.0)),
        (&counter, 60, kwh(1_004.0)),
    ];
    let blocks = halves(2, &said);
    let (first, second) = (&blocks[0], &blocks[1]);
    assert_eq!(short(first), (Some(2_000), Method::Mixed, 10_000, vec!["reset"]));
    assert_eq!(short(second), (Some(1_000), Method::Counter, 10_000, vec![]));
    assert_eq!(first.recompute().0, Recomputed::NotByRegister);
    assert_eq!(second.recompute().0, Recomputed::Register(Energy::from_uwh(1_000_000_000)));
    assert_eq!(first.borders.breaks.len(), 1);
    // Labelled by its start, a quarter reaches over the register's next readings: they count from its end.
    let said = [(&by_start, 0, kwh(1.0)), (&counter, 5, kwh(500.0)), (&counter, 25, kwh(502.0))];
    assert_eq!(short(&halves(1, &said)[0]), (Some(2_000), Method::Mixed, 8_333, vec!["gap"]));
}

#[test]
fn intervals_beside_a_register_or_power_of_the_other_direction_are_mixed() {
    let mut layout = Layout::clone(&by_interval(15, Label::End));
    layout.slots[1].interval = None;
    let layout = Arc::new(layout);
    let say = |export: f64| Say { import: Some(1.0), export: Some(export), power: None };
    let block = &halves(1, &[(&layout, 0, say(7.0)), (&layout, 15, say(7.5)), (&layout, 30, say(8.0))])[0];
    assert_eq!(block.import.unwrap().as_uwh(), 2_000_000_000);
    assert_eq!((block.export.unwrap().as_uwh(), block.method), (1_000_000_000, Method::Mixed));
    assert_eq!(block.recompute(), (Recomputed::NotByRegister, Recomputed::Register(block.export.unwrap())));
    assert!(block.agrees_with_borders());
    let power = |import| Say { import, export: None, power: Some(-2.0) };
    let said: Vec<_> = (0..=30).map(|minute| (&layout, minute, power((minute % 15 == 0).then_some(0.0)))).collect();
    let block = &halves(1, &said)[0];
    assert_eq!(
        (block.import, block.export, block.method),
        (Some(Energy::ZERO), Some(Energy::from_uwh(1_000_000_000)), Method::Mixed,)
    );
}

/// The rule as plainly as it can be said: all ends cut time into pieces, and each piece goes to the first that covers
/// it. `told` is `(label, start, end, µWh)` in order of label. Energy and covered ms of each span.
fn plainly(told: &[(i64, i64, i64, i64)], borders: &[i64]) -> Vec<(Option<i64>, i64)> {
    let mut ends: Vec<i64> =
        told.iter().flat_map(|(_, start, end, _)| [*start, *end]).chain(borders.to_vec()).collect();
    ends.sort_unstable();
    let share = |(_, start, end, uwh): &(i64, i64, i64, i64), at: i64| {
        i64::try_from(i128::from(*uwh) * i128::from(at - start) / i128::from(end - start)).unwrap()
    };
    let spans = borders.windows(2).map(|span| {
        let mut total = (None, 0);
        for piece in ends.windows(2).filter(|piece| span[0] <= piece[0] && piece[1] <= span[1] && piece[0] < piece[1]) {
            if let Some(owner) = told.iter().find(|(_, start, end, _)| *start <= piece[0] && piece[1] <= *end) {
                total.0 = Some(total.0.unwrap_or(0) + share(owner, piece[1]) - share(owner, piece[0]));
                total.1 += piece[1] - piece[0];
            }
        }
        total
    });
    spans.collect()
}

/// Intervals as `(start in ms, minutes, 128ths of a kWh)`, whatever their labels.
fn series(ragged: bool) -> impl Strategy<Value = Vec<(i64, i64, u32)>> {
    let step = if ragged { (10 * MINUTE..95 * MINUTE).boxed() } else { Just(15 * MINUTE).boxed() };
    let minutes = if ragged { prop::sample::select(vec![5, 10, 15, 30, 60]).boxed() } else { Just(15).boxed() };
    let one = (step, minutes, 0..5_000_u32, prop::bool::weighted(0.8));
    prop::collection::vec(one, 3..30).prop_map(|steps| {
        let mut start = 7 * MINUTE;
        let mut told = Vec::new();
        for (step, minutes, wh, there) in steps {
            if there {
                told.push((start, minutes, wh));
            }
            start += step;
        }
        told
    })
}

/// So many 128ths of a kWh, which a float has exactly.
fn energy(parts: u32) -> f64 {
    f64::from(parts) / 128.0
}

fn uwh(parts: u32) -> i64 {
    i64::from(parts) * 7_812_500
}

proptest! {
    /// Whatever the intervals and wherever the borders: each block has what the plain rule gives it, and together
    /// they have every µWh that was stated.
    #[test]
    fn blocks_add_up_to_the_intervals(
        told in series(true),
        labels in prop::collection::vec(any::<bool>(), 30),
        cuts in prop::collection::btree_set(1..30_000_i64, 0..12),
    ) {
        let mut known = std::collections::BTreeMap::new();
        for ((start, minutes, wh), by_start) in told.iter().zip(labels) {
            let label = if by_start { Label::Start } else { Label::End };
            let at = labelled(*start, *minutes, label);
            known.entry(at).or_insert((*start, *minutes, *wh, label));
        }
        let readings: Vec<_> = (1..)
            .zip(&known)
            .map(|(seq, (at, (_, minutes, wh, label)))| reading(&by_interval(*minutes, *label), seq, *at, kwh(energy(*wh))))
            .collect();
        let mut borders: Vec<i64> = cuts.iter().map(|cut| cut * 4_001).collect();
        borders.insert(0, 0);
        borders.push(200_000_000);
        let blocks = close_all(&borders, &readings, &terms(Category::Cons, 900_000));
        let stated: Vec<_> = known
            .iter()
            .map(|(at, (start, minutes, part, _))| (*at, *start, *start + minutes * MINUTE, uwh(*part)))
            .collect();
        let found: Vec<_> = blocks.iter().map(|block| (block.import.map(Energy::as_uwh), block.covered_ms)).collect();
        prop_assert_eq!(found, plainly(&stated, &borders));
        for block in blocks {
            let back = Block::from_record(&block.to_record().unwrap()).unwrap();
            prop_assert!(back.agrees_with_borders() && back == block, "{:#?}", block);
        }
        // Where none overlaps, all of it is there.
        if stated.iter().all(|a| stated.iter().all(|b| a == b || a.2 <= b.1 || b.2 <= a.1)) {
            let total: i64 = plainly(&stated, &borders).iter().filter_map(|(uwh, _)| *uwh).sum();
            prop_assert_eq!(total, stated.iter().map(|(.., uwh)| uwh).sum::<i64>());
        }
    }
}

impl Plant {
    /// An interval that begins at `start`, stated under this layout.
    pub fn interval(&self, start: i64, minutes: i64, label: Label, wh: f64) -> Reading {
        let taken = Stamp { time: at(labelled(start, minutes, label)), ..self.clock.stamp() };
        Reading { layout: by_interval(minutes, label), taken, values: values(kwh(wh)) }
    }
}

#[tokio::test]
async fn an_interval_that_comes_late_revises_every_block_it_touches() {
    for label in [Label::Start, Label::End] {
        let plant = one_meter();
        let hour = |start: i64, kwh: f64| plant.interval(start, 60, label, kwh);
        plant.clock.advance_to(at(45 * MINUTE));
        plant.put(vec![hour(-15 * MINUTE, 2.0)]).await;
        plant.until(HALF + 15 * MINUTE).await;
        // It begins in the block before the first border, wherever its label lies.
        let whole = |start, wh, flags: &[&'static str]| (start, Some(wh), 0, flags.to_vec());
        assert_eq!(plant.told("m").await, vec![whole(-30, 500, &["gap"]), whole(0, 1_000, &[])], "{label:?}");
        plant.until(3 * HOUR).await;
        let told = plant.told("m").await;
        assert_eq!(told[2], (30, Some(500), 0, vec!["gap"]), "{label:?}");
        assert!(told[3..].iter().all(|(_, wh, revision, _)| wh.is_none() && *revision == 0), "{told:?}");
        // The next one is hours late: the energy of three blocks changes.
        plant.put(vec![hour(45 * MINUTE, 4.0)]).await;
        plant.seal().await;
        let told = plant.told("m").await;
        let late = |start, wh, flags: &[&'static str]| (start, Some(wh), 1, flags.to_vec());
        assert_eq!(
            told[2..5],
            [late(30, 1_500, &["late"]), late(60, 2_000, &["late"]), late(90, 1_000, &["gap", "late"])]
        );
        assert_eq!(told[1], whole(0, 1_000, &[]));
        // Of what is silent after it, the record names it as the last reading before.
        assert!(told[5..].iter().all(|(_, wh, revision, _)| wh.is_none() && *revision == 1), "{told:?}");
        assert_eq!(plant.total("m").await, 6_000_000_000);
    }
}

#[tokio::test]
async fn intervals_stand_over_a_restart_and_a_silence() {
    for label in [Label::Start, Label::End] {
        let mut plant = one_meter();
        for quarter in 0..8 {
            plant.clock.advance_to(at((quarter + 1) * 15 * MINUTE));
            plant.put(vec![plant.interval(quarter * 15 * MINUTE, 15, label, 0.25)]).await;
            plant.seal().await;
            plant = plant.again().await;
        }
        plant.until(3 * DAY).await;
        plant.put(vec![plant.interval(3 * DAY - 25 * MINUTE, 15, label, 0.3)]).await;
        plant.until(3 * DAY + HOUR).await;
        let blocks = plant.blocks("m").await;
        assert_eq!(plant.total("m").await, 8 * 250_000_000 + 300_000_000, "{label:?}");
        let silent = blocks.iter().filter(|block| block.net().is_none()).map(|block| block.span.millis()).sum::<i64>();
        assert_eq!(silent, 3 * DAY - 2 * HOUR + HALF - HALF, "{label:?} {blocks:#?}");
    }
}

/// More readings than are held, so that what comes after a gap is looked for by itself.
#[tokio::test]
async fn a_gap_of_intervals_is_read_once_and_not_for_each_of_its_blocks() {
    const GAP: (i64, i64) = (HOUR, 13 * HOUR);
    let plant = one_meter();
    let quarters = |from: i64, to: i64| (from / (15 * MINUTE)..to / (15 * MINUTE)).map(|at| at * 15 * MINUTE);
    let end = GAP.1 + 26 * HOUR;
    plant.clock.advance_to(at(end));
    let layout = by_interval(15, Label::End);
    let power = |ms| {
        let values = values(Say { power: Some(1.0), ..Say::default() });
        Reading { layout: layout.clone(), taken: Stamp { time: at(ms), ..plant.clock.stamp() }, values }
    };
    plant.put((0..end).step_by(10_000).map(|ms| power(ms + 5_000)).collect()).await;
    let told = quarters(0, GAP.0).chain(quarters(GAP.1, end));
    plant.put(told.map(|start| plant.interval(start, 15, Label::End, 0.25)).collect()).await;
    let readings = usize::try_from(end / 10_000).unwrap();
    FILLS.set(0);
    plant.seal().await;
    let fills = FILLS.get();
    let blocks = plant.blocks("m").await;
    let within = |block: &Block| block.span.start() >= at(GAP.0) && block.span.end() <= at(GAP.1);
    let by_interval = blocks.iter().filter(|block| block.method == Method::Interval && block.coverage == 10_000);
    // The last one waits for what may come late.
    assert_eq!(by_interval.filter(|block| !within(block)).count(), 2 + 26 * 2 - 1, "{blocks:#?}");
    assert_eq!(blocks.iter().filter(|block| within(block)).count(), 12 * 2);
    // Once for the blocks themselves and once beyond them, in batches of 2000 from files of a day.

    assert!(fills <= 2 * (readings / 2_000 + 2), "{fills} reads of {readings} readings");
}

#[tokio::test]
async fn the_open_block_counts_intervals_up_to_now() {
    let plant = one_meter();
    plant.clock.advance_to(at(10 * MINUTE));
    // Labelled by its start and told at once: what lies ahead is not there yet.
    plant.put(vec![plant.interval(0, 15, Label::Start, 0.15)]).await;
    let open = plant.open("m").await;
    assert_eq!((open.import, open.method), (Some(Energy::from_uwh(100_000_000)), Method::Interval));
    assert_eq!((open.covered_ms, open.coverage, open.flags.names()), (10 * MINUTE, 10_000, vec![]));
    assert_eq!(open.projected, Some(Energy::from_uwh(300_000_000)));
    plant.clock.advance_to(at(25 * MINUTE));
    let open = plant.open("m").await;
    assert_eq!(open.import, Some(Energy::from_uwh(150_000_000)));
    assert_eq!(open.projected, Some(Energy::from_uwh(300_000_000)), "0.6 kW for the rest of the block");
}

impl Plant {
    /// The open block as the store gives it.
    async fn open(&self, meter: &str) -> crate::model::OpenBlock {
        let config = Arc::new(self.config.clone());
        let mut sealer =
            Sealer::open(config, self.store.reader(), self.store.ledger(), self.clock.clone()).await.unwrap();
        sealer.catch_up().await.unwrap();
        let mut live = Live::default();
        renew(&mut live, &sealer, &self.store.reader(), &self.clock).await.unwrap();
        live.show(&self.config, sealer.spans(), self.clock.now()).remove(&meter.parse().unwrap()).unwrap()
    }
}

/// Intervals on time and late, of any length and label, a register that they follow, and a sum.
fn interval_story() -> Vec<Event> {
    use Event::{Read, State, Until};
    use Label::{End, Start};
    let quarters = |from: i64, count: i64, label| -> Vec<_> {
        (0..count).map(|n| (from + n * 15 * MINUTE, 15, label, 0.25)).collect()
    };
    let mut story = vec![
        Read("a", (0..=8).map(|n| (n * 5 * MINUTE, 1_000.0 + n as f64 / 12.0)).collect()),
        Read("b", (0..=8).map(|n| (n * 5 * MINUTE, 1_000.0 + n as f64 / 6.0)).collect()),
        Until(45 * MINUTE),
        State("a", quarters(30 * MINUTE, 1, End)),
        Until(75 * MINUTE),
        State("b", vec![(40 * MINUTE, 60, End, 2.0)]),
        Until(105 * MINUTE),
    ];
    for hour in 1..6 {
        story.push(State("a", quarters(hour * HOUR, 3, End)));
        story.push(Until(hour * HOUR + 50 * MINUTE));
        story.push(State("b", vec![(hour * HOUR + 45 * MINUTE, 60, Start, 2.0)]));
        story.push(Until(hour * HOUR + 100 * MINUTE));
    }
    // What was left out comes late, the last first.
    for hour in (1..6).rev() {
        story.push(State("a", quarters(hour * HOUR + 45 * MINUTE, 1, End)));
        story.push(Until(8 * HOUR - hour * MINUTE));
    }
    story.extend([State("b", quarters(7 * HOUR, 2, Start)), Until(9 * HOUR)]);
    story
}

#[tokio::test]
async fn a_crash_between_any_two_transactions_of_intervals_changes_nothing() {
    let told = survives_a_crash_after_any_transaction(interval_story).await;
    let totals: Vec<i64> = told
        .blocks
        .iter()
        .map(|blocks| blocks.iter().filter_map(|block| block.import).map(Energy::as_uwh).sum())
        .collect();
    // By register until minute 40; then quarters to hour 6 of the one, and six hours and two quarters of the other.
    let (a, b) = (666_666_667 + 250_000_000 / 3 + 20 * 250_000_000, 1_333_333_333 + 6 * 2_000_000_000 + 500_000_000);
    assert!((totals[0] - a).abs() < 3 && (totals[1] - b).abs() < 3, "{totals:?} {a} {b}");
    assert!(told.blocks[0].iter().any(|block| block.revision > 0));
}

#[tokio::test]
async fn intervals_add_up_where_the_zone_changes_and_the_demand_clock_is_late() {
    for label in [Label::Start, Label::End] {
        let mut plant = one_meter();
        // Half an hour is left out at 02:00 on 4 October 2026, and borders lie seven seconds after the full hour.
        plant.config.timezone = "Australia/Lord_Howe".to_owned();
        (plant.config.block_minutes, plant.config.clock_offset_ms) = (60, 7_000);
        let midnight = "2026-10-04T00:00:00+10:30".parse::<jiff::Timestamp>().unwrap().as_millisecond() - T;
        plant.put((0..6).map(|hour| plant.interval(midnight + hour * HOUR, 60, label, 1.0)).collect()).await;
        plant.seal().await;
        let blocks: Vec<_> = plant.blocks("m").await.into_iter().filter(|block| block.import.is_some()).collect();
        let lengths: Vec<_> = blocks.iter().map(|block| block.span.millis() / MINUTE).collect();
        assert_eq!(lengths, [60, 60, 60, 30, 60, 60, 60, 60], "{label:?}");
        let energies: Vec<_> = blocks.iter().map(|block| block.import.unwrap().as_uwh()).collect();
        assert_eq!((energies[0], energies[3]), (1_944_444, 500_000_000), "{label:?} {energies:?}");
        assert_eq!(plant.total("m").await, 6_000_000_000);
    }
}

/// What a block says, whenever it was sealed.
fn gist(block: &Block) -> (Timestamp, Option<Energy>, i64, Method, Vec<&'static str>, [usize; 4]) {
    let (flags, borders) = (block.flags.names(), &block.borders);
    let flags = flags.into_iter().filter(|name| *name != "late").collect();
    let lists = [&borders.before, &borders.first, &borders.last, &borders.after].map(Vec::len);
    (block.span.start(), block.import, block.covered_ms, block.method, flags, lists)
}

/// The blocks with energy that come of these intervals when each arrives so many minutes after its end.
async fn sealed(told: &[(i64, i64, u32, Label)], late: impl Fn(usize) -> i64) -> Vec<Block> {
    let plant = one_meter();
    let end = told.iter().map(|(start, minutes, ..)| start + minutes * MINUTE).max().unwrap_or(0) + 8 * HOUR;
    let arrival =
        |(index, told): (usize, &(i64, i64, u32, Label))| (told.0 + told.1 * MINUTE + late(index) * MINUTE, *told);
    let mut arrivals: Vec<_> = told.iter().enumerate().map(arrival).collect();
    arrivals.sort_by_key(|(arrival, _)| *arrival);
    let mut arrivals = arrivals.into_iter().peekable();
    let mut now = 0;
    while now < end {
        now += 17 * MINUTE;
        plant.clock.advance_to(at(now));
        let mut batch = Vec::new();
        while let Some((_, (start, minutes, wh, label))) = arrivals.next_if(|(arrival, _)| *arrival <= now) {
            batch.push(plant.interval(start, minutes, label, energy(wh)));
        }
        plant.put(batch).await;
        plant.seal().await;
    }
    let mut blocks = plant.blocks("m").await;
    blocks.retain(|block| block.net().is_some());
    blocks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Intervals that come late, in any order, end in the blocks of those that came on time; and it is one whether a
    /// source labels them by their start or by their end.
    #[test]
    fn late_intervals_and_either_label_give_the_same_blocks(
        told in series(false),
        lateness in prop::collection::vec(0..200_i64, 30),
        overlap in any::<bool>(),
    ) {
        prop_assume!(!told.is_empty());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let minutes = if overlap { 20 } else { 15 };
            let labelled = |label| told.iter().map(|(start, _, wh)| (*start, minutes, *wh, label)).collect::<Vec<_>>();
            let on_time = sealed(&labelled(Label::Start), |_| 0).await;
            if !overlap {
                let total: i64 = on_time.iter().filter_map(|block| block.import).map(Energy::as_uwh).sum();
                assert_eq!(total, told.iter().map(|(.., wh)| uwh(*wh)).sum::<i64>());
            }
            let late = sealed(&labelled(Label::Start), |index| lateness[index]).await;
            assert_eq!(on_time.iter().map(gist).collect::<Vec<_>>(), late.iter().map(gist).collect::<Vec<_>>());
            let by_end = sealed(&labelled(Label::End), |index| lateness[index]).await;
            let energies = |blocks: &[Block]| -> Vec<_> {
                blocks.iter().map(|at| (at.span.start(), at.import, at.covered_ms, at.method)).collect()
            };
            assert_eq!(energies(&on_time), energies(&by_end));
        });
    }

    /// The same for intervals of any length and label, one over the other.
    #[test]
    fn late_intervals_of_any_length_give_the_same_blocks(
        told in series(true),
        labels in prop::collection::vec(any::<bool>(), 30),
        lateness in prop::collection::vec(0..200_i64, 30),
    ) {
        prop_assume!(!told.is_empty());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut seen = std::collections::BTreeSet::new();
            let labelled: Vec<_> = told
                .iter()
                .zip(labels)
                .map(|((start, minutes, wh), by_start)| {
                    (*start, *minutes, *wh, if by_start { Label::Start } else { Label::End })
                })
                .filter(|(start, minutes, _, label)| seen.insert(super::interval::labelled(*start, *minutes, *label)))
                .collect();
            let on_time = sealed(&labelled, |_| 0).await;
            let late = sealed(&labelled, |index| lateness[index]).await;
            assert_eq!(on_time.iter().map(gist).collect::<Vec<_>>(), late.iter().map(gist).collect::<Vec<_>>());
        });
    }
}
