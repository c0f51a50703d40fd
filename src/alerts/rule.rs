//! When an alert is raised and when it is over. Pure: time is an argument, and waiting is counted in monotonic time,
//! so that a step of the clock neither raises nor hides anything.

use std::collections::BTreeMap;

use crate::model::{Alert, AlertKind, Condition, Meter, MeterId, OpenBlock, SourcesStatus, Timestamp};

/// The projection must stand above the target for this long: a motor that starts is no cause.
const OVER_MS: u64 = 60_000;
/// A projection that falls below this share of the target (in 1/100) begins that wait anew.
const CLEAR_OF_TARGET: i128 = 98;
/// In the first tenth of a block the projection is all power of the moment.
const TOO_EARLY: i64 = 10;
/// A meter is silent when it gave no values for max(5 × interval, this).
const SILENT_MS: u64 = 60_000;
/// It is back when it has answered for this long.
const BACK_MS: u64 = 30_000;
/// The store is well when it has had no trouble for this long.
const WELL_MS: u64 = 600_000;
/// Sealing may wait this long for the clock, which is as long as it waits at boot for the first synchronisation.
const UNSTEADY_MS: u64 = 330_000;
/// A running block that nobody tells of any more is over after this.
const LONGEST_BLOCK_MS: i64 = 2 * 3_600_000;

/// What is seen at one moment.
pub struct Seen<'a> {
    pub now: Timestamp,
    pub since_boot_ms: u64,
    pub meters: &'a [Meter],
    pub open: &'a BTreeMap<MeterId, OpenBlock>,
    pub sources: &'a SourcesStatus,
    /// Why readings are not kept as they should be, for a person.
    pub store_trouble: Option<&'a str>,
    /// What the sealing of blocks waits for, for a person.
    pub clock_trouble: Option<&'a str>,
    /// Kinds that somebody switched off: they raise nothing, and what stands of them is over.
    pub off: &'a [AlertKind],
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Step {
    Raise(Alert),
    Clear(i64),
}

/// What was seen before, and the alerts that are not over.
#[derive(Default)]
pub struct Watching {
    raised: Vec<Alert>,
    /// Per meter: the block that the store has an alert for already, over or not.
    told: BTreeMap<MeterId, Timestamp>,
    /// Per meter: the running block, and since when (ms since boot) its projection is too high.
    over: BTreeMap<MeterId, (Timestamp, u64)>,
    down: BTreeMap<MeterId, Down>,
    /// When the store was last in trouble, ms since boot.
    trouble: Option<u64>,
    /// Since when sealing waits for the clock, ms since boot.
    unsteady: Option<u64>,
}

/// A meter that gives no values.
struct Down {
    /// Wall time, for the record.
    since: Timestamp,
    /// Ms since boot.
    seen: u64,
    back: Option<u64>,
    /// The store has an alert for it.
    told: bool,
}

impl Watching {
    /// Goes on from what the store has: a restart neither repeats nor forgets an alert.
    pub fn resume(raised: Vec<Alert>) -> Self {
        Self { raised, ..Self::default() }
    }

    /// The store has kept this alert under its id; `None` when it had it before.
    pub fn kept(&mut self, alert: Alert, id: Option<i64>) {
        match (alert.kind, &alert.meter) {
            (AlertKind::TargetAtRisk, Some(meter)) => {
                self.told.insert(meter.clone(), alert.occasion);
            }
            (AlertKind::MeterSilent, Some(meter)) => {
                if let Some(down) = self.down.get_mut(meter) {
                    down.told = true;
                }
            }
            _ => {}
        }
        if let Some(id) = id {
            self.raised.push(Alert { id, ..alert });
        }
    }

    /// The store knows that this alert is over.
    pub fn cleared(&mut self, id: i64) {
        self.raised.retain(|alert| alert.id != id);
    }

    pub fn judge(&mut self, seen: &Seen<'_>) -> Vec<Step> {
        let mut steps = Vec::new();
        self.over.retain(|meter, (block, _)| seen.open.get(meter).is_some_and(|open| open.span.start() == *block));
        for open in seen.open.values() {
            let Some(meter) = seen.meters.iter().find(|meter| meter.id == open.meter) else { continue };
            if self.is_at_risk(open, seen.since_boot_ms)
                && self.told.get(&open.meter) != Some(&open.span.start())
                && !self.stands(AlertKind::TargetAtRisk, &open.meter, |alert| alert.occasion == open.span.start())
            {
                let text = risk_text(meter, open);
                steps.push(Step::Raise(alert(AlertKind::TargetAtRisk, meter, open.span.start(), seen.now, text)));
            }
        }
        self.note_silence(seen);
        for meter in seen.meters {
            let Some(down) = self.down.get(&meter.id) else { continue };
            let silent_for = seen.since_boot_ms.saturating_sub(down.seen);
            let limit = meter.interval_ms.map_or(SILENT_MS, |interval| SILENT_MS.max(5 * u64::from(interval)));
            let known = down.told || self.stands(AlertKind::MeterSilent, &meter.id, |_| true);
            if down.back.is_none() && silent_for >= limit && !known {
                let text = silence_text(meter, silent_for, seen.sources);
                steps.push(Step::Raise(alert(AlertKind::MeterSilent, meter, down.since, seen.now, text)));
            }
        }
        steps.extend(self.judge_store(seen));
        steps.extend(self.judge_clock(seen));
        steps.retain(|step| !matches!(step, Step::Raise(alert) if seen.off.contains(&alert.kind)));
        steps.extend(self.raised.iter().filter(|alert| self.is_over(alert, seen)).map(|alert| Step::Clear(alert.id)));
        steps
    }

    fn judge_store(&mut self, seen: &Seen<'_>) -> Option<Step> {
        let why = seen.store_trouble?;
        self.trouble = Some(seen.since_boot_ms);
        let stands = self.raised.iter().any(|alert| alert.kind == AlertKind::StoreFull);
        (!stands).then(|| {
            Step::Raise(Alert::new(
                AlertKind::StoreFull,
                None,
                seen.now,
                seen.now,
                format!("The store is in trouble: {why}."),
            ))
        })
    }

    fn judge_clock(&mut self, seen: &Seen<'_>) -> Option<Step> {
        let Some(why) = seen.clock_trouble else {
            self.unsteady = None;
            return None;
        };
        let since = *self.unsteady.get_or_insert(seen.since_boot_ms);
        let stands = self.raised.iter().any(|alert| alert.kind == AlertKind::ClockUnsteady);
        (!stands && seen.since_boot_ms.saturating_sub(since) >= UNSTEADY_MS).then(|| {
            Step::Raise(Alert::new(
                AlertKind::ClockUnsteady,
                None,
                seen.now,
                seen.now,
                format!("No block is sealed: {why}. Readings are kept. Check the gateway's time service."),
            ))
        })
    }

    fn stands(&self, kind: AlertKind, meter: &MeterId, which: impl Fn(&Alert) -> bool) -> bool {
        self.raised.iter().any(|alert| alert.kind == kind && alert.meter.as_ref() == Some(meter) && which(alert))
    }

    fn is_at_risk(&mut self, open: &OpenBlock, since_boot_ms: u64) -> bool {
        let Some(target) = open.peak_target.map(|target| i128::from(target.as_uwh())) else { return false };
        if open.net().is_some_and(|net| i128::from(net.as_uwh()) >= target) {
            return true;
        }
        let Some(projected) = open.projected.map(|projected| i128::from(projected.as_uwh())) else { return false };
        if projected * 100 < target * CLEAR_OF_TARGET {
            self.over.remove(&open.meter);
            return false;
        }
        let is_over = projected > target;
        if !is_over && !self.over.contains_key(&open.meter) {
            return false;
        }
        let (_, since) = *self.over.entry(open.meter.clone()).or_insert((open.span.start(), since_boot_ms));
        let passed = open.at.millis_since(open.span.start());
        is_over && since_boot_ms.saturating_sub(since) >= OVER_MS && passed * TOO_EARLY >= open.span.millis()
    }

    /// Remembers since when a meter gives no values: its condition may change between silence and refusal meanwhile.
    fn note_silence(&mut self, seen: &Seen<'_>) {
        self.down.retain(|id, _| seen.meters.iter().any(|meter| meter.id == *id));
        for meter in seen.meters {
            let Some(status) = seen.sources.meters.get(&meter.id) else { continue };
            match status.condition {
                Condition::Silent | Condition::Refusing => {
                    let down = Down { since: status.since, seen: seen.since_boot_ms, back: None, told: false };
                    self.down.entry(meter.id.clone()).or_insert(down).back = None;
                }
                Condition::Answering => {
                    let Some(down) = self.down.get_mut(&meter.id) else { continue };
                    let back = *down.back.get_or_insert(seen.since_boot_ms);
                    if seen.since_boot_ms.saturating_sub(back) >= BACK_MS {
                        self.down.remove(&meter.id);
                    }
                }
                Condition::Starting => {}
            }
        }
    }

    fn is_over(&self, alert: &Alert, seen: &Seen<'_>) -> bool {
        if seen.off.contains(&alert.kind) {
            return true;
        }
        let Some(id) = &alert.meter else {
            let well = self.trouble.is_none_or(|last| seen.since_boot_ms.saturating_sub(last) >= WELL_MS);
            return match alert.kind {
                AlertKind::StoreFull => seen.store_trouble.is_none() && well,
                AlertKind::ClockUnsteady => seen.clock_trouble.is_none(),
                _ => false,
            };
        };
        let Some(meter) = seen.meters.iter().find(|meter| meter.id == *id) else {
            // Taken out of the config: nobody will ever tell that it is over.
            return matches!(alert.kind, AlertKind::TargetAtRisk | AlertKind::MeterSilent);
        };
        match alert.kind {
            // It stands until its block ends, though the load may fall meanwhile: it would not be raised again.
            AlertKind::TargetAtRisk => match seen.open.get(&meter.id) {
                Some(open) => open.span.start() != alert.occasion,
                None => seen.now.millis_since(alert.occasion) > LONGEST_BLOCK_MS,
            },
            AlertKind::MeterSilent => {
                let answers = |condition| condition == Condition::Answering;
                let status = seen.sources.meters.get(&meter.id);
                status.is_some_and(|status| answers(status.condition)) && !self.down.contains_key(&meter.id)
            }
            // Others find these, and clear them.
            AlertKind::ConfigRefused
            | AlertKind::StoreFull
            | AlertKind::ClockUnsteady
            | AlertKind::LogBeganAnew
            | AlertKind::MeterChanged
            | AlertKind::AnchorOverdue
            | AlertKind::AnchorFundsLow
            | AlertKind::AnchorNonceTaken
            | AlertKind::AnchorReorganised
            | AlertKind::UpstreamStopped
            | AlertKind::ReadingsLost => false,
        }
    }
}

fn alert(kind: AlertKind, meter: &Meter, occasion: Timestamp, now: Timestamp, text: String) -> Alert {
    let meter = Some(meter.id.clone());
    Alert::new(kind, meter, occasion, now, text)
}

fn risk_text(meter: &Meter, open: &OpenBlock) -> String {
    let kwh =
        |energy: Option<crate::model::Energy>| energy.map_or_else(|| "?".into(), |energy| figure(energy.to_kwh()));
    let (name, target) = (&meter.name, kwh(open.peak_target));
    let left = open.remaining_ms.max(0).saturating_add(59_999) / 60_000;
    if open.net() >= open.peak_target {
        let so_far = kwh(open.net());
        return format!(
            "{name}: the running block has passed its target of {target} kWh: {so_far} kWh with {left} min left."
        );
    }
    let projected = kwh(open.projected);
    let shed = open.shed.map_or_else(String::new, |shed| format!(" Shed {} kW until it ends.", figure(shed.to_kw())));
    format!(
        "{name}: the running block is heading for {projected} kWh, its target is {target} kWh, {left} min are left.{shed}"
    )
}

/// Two decimals at most.
fn figure(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn silence_text(meter: &Meter, silent_for: u64, sources: &SourcesStatus) -> String {
    let (name, minutes) = (&meter.name, silent_for / 60_000);
    let why = sources.meters.get(&meter.id).and_then(|status| status.problem.as_deref());
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    format!("{name} has given no values for {minutes} min{why}. Check its power, its wiring and its address.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BlockFlags, Category, Energy, MeterStatus, Method, Origin, Power, Span};

    const START: Timestamp = Timestamp::from_millis(1_763_703_000_000);

    fn meter() -> Meter {
        Meter {
            id: "main".parse().unwrap(),
            name: "Main incomer".into(),
            category: Category::Cons,
            origin: Origin::Modbus { line: "msb".parse().unwrap(), unit: 1, template: "t".into(), verified: true },
            interval_ms: Some(1_000),
            peak_target: Some(Energy::from_uwh(120_000_000_000)),
            simulated: false,
        }
    }

    fn open(start: Timestamp, passed_ms: i64, kwh: i64, projected: i64) -> OpenBlock {
        OpenBlock {
            meter: "main".parse().unwrap(),
            span: Span::new(start, start.plus_millis(1_800_000)).unwrap(),
            nominal_ms: 1_800_000,
            at: start.plus_millis(passed_ms),
            category: Category::Cons,
            import: Some(Energy::from_uwh(kwh * 1_000_000_000)),
            export: None,
            max_power: None,
            min_power: None,
            covered_ms: passed_ms,
            coverage: 10_000,
            method: Method::Counter,
            is_peak_hour: true,
            flags: BlockFlags::NONE,
            projected: Some(Energy::from_uwh(projected * 1_000_000_000)),
            remaining_ms: 1_800_000 - passed_ms,
            peak_target: meter().peak_target,
            shed: Some(Power::from_mw(41_250_000)),
        }
    }

    fn status(condition: Condition) -> SourcesStatus {
        let status = MeterStatus {
            condition,
            problem: (condition == Condition::Silent).then(|| "no answer within 1 s".into()),
            ..MeterStatus::starting(START)
        };
        SourcesStatus { meters: [("main".parse().unwrap(), status)].into(), ..SourcesStatus::default() }
    }

    /// A plant in which time goes on and the store keeps what it is told.
    struct Plant {
        watching: Watching,
        ms: u64,
        next_id: i64,
        log: Vec<String>,
        trouble: Option<&'static str>,
        clock: Option<&'static str>,
        off: Vec<AlertKind>,
    }

    impl Plant {
        fn new() -> Self {
            Self {
                watching: Watching::default(),
                ms: 1_000,
                next_id: 1,
                log: Vec::new(),
                trouble: None,
                clock: None,
                off: Vec::new(),
            }
        }

        fn see(&mut self, after_ms: u64, open: Option<OpenBlock>, condition: Condition) -> &mut Self {
            self.ms += after_ms;
            let open: BTreeMap<_, _> = open.into_iter().map(|open| (open.meter.clone(), open)).collect();
            let now = START.plus_millis(i64::try_from(self.ms).unwrap());
            let (meters, sources) = ([meter()], status(condition));
            let seen = Seen {
                now,
                since_boot_ms: self.ms,
                meters: &meters,
                open: &open,
                sources: &sources,
                store_trouble: self.trouble,
                clock_trouble: self.clock,
                off: &self.off,
            };
            for step in self.watching.judge(&seen) {
                match step {
                    Step::Raise(alert) => {
                        self.log.push(alert.text.clone());
                        self.watching.kept(alert, Some(self.next_id));
                        self.next_id += 1;
                    }
                    Step::Clear(id) => {
                        self.log.push(format!("over {id}"));
                        self.watching.cleared(id);
                    }
                }
            }
            self
        }

        /// One look a second for `seconds`.
        fn pass(&mut self, seconds: u64, open: &OpenBlock, condition: Condition) -> &mut Self {
            for _ in 0..seconds {
                self.see(1_000, Some(open.clone()), condition);
            }
            self
        }
    }

    #[test]
    fn a_clock_that_sealing_waits_for_is_told_when_it_is_more_than_a_boot() {
        let mut plant = Plant::new();
        let why = "the clock leapt forward: blocks wait until it has been synchronised and steady for an hour";
        // The gateway boots, and the time service comes within five minutes.
        plant.clock = Some("the clock is not synchronised: blocks wait for it for five minutes");
        plant.see(0, None, Condition::Answering).see(315_000, None, Condition::Answering);
        plant.clock = None;
        plant.see(1_000, None, Condition::Answering);
        assert_eq!(plant.log, [""; 0]);
        plant.clock = Some(why);
        plant.see(1_000, None, Condition::Answering).see(329_999, None, Condition::Answering);
        assert_eq!(plant.log, [""; 0]);
        plant.see(1, None, Condition::Answering).see(1_000_000, None, Condition::Answering);
        let told = format!("No block is sealed: {why}. Readings are kept. Check the gateway's time service.");
        assert_eq!((plant.log.len(), &plant.log[0]), (1, &told));
        plant.clock = None;
        plant.see(1_000, None, Condition::Answering).see(1_000, None, Condition::Answering);
        assert_eq!(plant.log[1..], ["over 1"]);
        plant.clock = Some(why);
        plant.see(1_000, None, Condition::Answering).see(400_000, None, Condition::Answering);
        assert_eq!(plant.log[2..], [told], "another time is another alert");
    }

    #[test]
    fn a_rule_that_is_off_is_over_and_tells_the_next_occasion_once_it_is_on() {
        let mut plant = Plant::new();
        plant.see(0, None, Condition::Silent).see(61_000, None, Condition::Silent);
        assert_eq!(plant.log.len(), 1);
        plant.off = vec![AlertKind::MeterSilent];
        plant.see(1_000, None, Condition::Silent).see(61_000, None, Condition::Silent);
        assert_eq!(plant.log[1..], ["over 1"]);
        plant.see(1_000, None, Condition::Answering).see(30_000, None, Condition::Answering);
        plant.see(1_000, None, Condition::Silent).see(120_000, None, Condition::Silent);
        assert_eq!(plant.log.len(), 2, "nothing is told while it is off");
        plant.off.clear();
        plant.see(1_000, None, Condition::Silent);
        assert_eq!(plant.log.len(), 3, "it stands still, and nobody was told");
    }

    #[test]
    fn a_projection_above_the_target_is_told_once_when_it_has_stood_for_a_minute() {
        let mut plant = Plant::new();
        let at_risk = open(START, 600_000, 50, 133);
        plant.pass(60, &at_risk, Condition::Answering);
        assert_eq!(plant.log, [""; 0]);
        plant.pass(600, &at_risk, Condition::Answering);
        assert_eq!(
            plant.log,
            [
                "Main incomer: the running block is heading for 133 kWh, its target is 120 kWh, 20 min are left. Shed 41.25 kW until it ends."
            ]
        );
        let next = open(START.plus_millis(1_800_000), 600_000, 10, 60);
        plant.pass(10, &next, Condition::Answering);
        assert_eq!(plant.log[1..], ["over 1"]);
    }

    #[test]
    fn energy_at_the_target_is_told_at_once() {
        let mut plant = Plant::new();
        plant.see(0, Some(open(START, 1_500_000, 120, 130)), Condition::Answering);
        assert_eq!(
            plant.log,
            ["Main incomer: the running block has passed its target of 120 kWh: 120 kWh with 5 min left."]
        );
    }

    #[test]
    fn a_peak_of_some_seconds_is_no_alert_and_hovering_at_the_target_is() {
        let (above, at, below) =
            (open(START, 600_000, 50, 133), open(START, 600_000, 50, 119), open(START, 600_000, 50, 100));
        let mut plant = Plant::new();
        for _ in 0..10 {
            plant.pass(50, &above, Condition::Answering).pass(5, &below, Condition::Answering);
        }
        assert_eq!(plant.log, [""; 0]);
        plant.pass(50, &above, Condition::Answering).pass(9, &at, Condition::Answering).pass(
            2,
            &above,
            Condition::Answering,
        );
        assert_eq!(plant.log.len(), 1);
    }

    #[test]
    fn the_first_minutes_of_a_block_tell_nothing() {
        let mut plant = Plant::new();
        plant.pass(120, &open(START, 170_000, 12, 133), Condition::Answering);
        assert_eq!(plant.log, [""; 0]);
        plant.pass(1, &open(START, 180_000, 12, 133), Condition::Answering);
        assert_eq!(plant.log.len(), 1);
    }

    #[test]
    fn the_same_block_is_not_told_again_after_a_restart() {
        let mut plant = Plant::new();
        let passed = open(START, 1_500_000, 130, 140);
        plant.see(0, Some(passed.clone()), Condition::Answering);
        let raised = plant.watching.raised.clone();
        let mut again = Plant { watching: Watching::resume(raised), ..Plant::new() };
        again.pass(10, &passed, Condition::Answering);
        assert_eq!(again.log, [""; 0]);
        // Over already when the program stopped: the store says that it had it.
        let mut third = Plant::new();
        third.watching.kept(alert(AlertKind::TargetAtRisk, &meter(), START, START, String::new()), None);
        third.pass(10, &passed, Condition::Answering);
        assert_eq!(third.log, [""; 0]);
    }

    #[test]
    fn a_meter_is_silent_after_a_minute_and_back_after_half_of_one() {
        let mut plant = Plant::new();
        plant.see(0, None, Condition::Silent).see(59_000, None, Condition::Refusing);
        assert_eq!(plant.log, [""; 0]);
        plant.see(1_000, None, Condition::Silent).see(60_000, None, Condition::Silent);
        assert_eq!(
            plant.log,
            [
                "Main incomer has given no values for 1 min (no answer within 1 s). Check its power, its wiring and its address."
            ]
        );
        plant.see(1_000, None, Condition::Answering).see(10_000, None, Condition::Silent);
        plant.see(1_000, None, Condition::Answering).see(29_000, None, Condition::Answering);
        assert_eq!(plant.log.len(), 1, "one answer does not make it well");
        plant.see(1_000, None, Condition::Answering);
        assert_eq!(plant.log[1..], ["over 1"]);
    }

    #[test]
    fn a_silence_goes_on_through_a_restart() {
        let standing = alert(AlertKind::MeterSilent, &meter(), START, START, String::new());
        let mut plant = Plant { watching: Watching::resume(vec![Alert { id: 7, ..standing }]), ..Plant::new() };
        plant.see(0, None, Condition::Starting).see(1_000, None, Condition::Silent).see(
            300_000,
            None,
            Condition::Silent,
        );
        assert_eq!(plant.log, [""; 0]);
        plant.see(1_000, None, Condition::Answering).see(30_000, None, Condition::Answering);
        assert_eq!(plant.log, ["over 7"]);
    }

    #[test]
    fn an_alert_of_a_meter_that_was_taken_out_is_over() {
        let gone = Alert {
            id: 3,
            meter: Some("gone".parse().unwrap()),
            ..alert(AlertKind::MeterSilent, &meter(), START, START, String::new())
        };
        let mut plant = Plant { watching: Watching::resume(vec![gone]), ..Plant::new() };
        plant.see(0, None, Condition::Answering);
        assert_eq!(plant.log, ["over 3"]);
    }

    #[test]
    fn trouble_of_the_store_is_told_once_and_over_after_ten_quiet_minutes() {
        let mut plant = Plant::new();
        for trouble in [Some("the disk is full"), None, Some("the disk is full"), None] {
            plant.trouble = trouble;
            plant.see(60_000, None, Condition::Answering);
        }
        assert_eq!(plant.log, ["The store is in trouble: the disk is full."]);
        plant.see(539_000, None, Condition::Answering);
        assert_eq!(plant.log.len(), 1);
        plant.see(1_000, None, Condition::Answering);
        assert_eq!(plant.log[1..], ["over 1"]);
    }
}
