//! Lines, brokers and meters: the few that are in trouble, and one line for all others.

use std::collections::BTreeSet;

use super::Finding;
use super::facts::{Facts, LineSetup, Live, MeterFacts};
use super::ports::gateway_remedy;
use super::said::{ago, counted, lasted, lasting, why};
use crate::model::{Condition, Timestamp};

const LINE: &str = "line";
const BROKER: &str = "broker";
const METER: &str = "meter";

/// A newest value older than this and three intervals is late: blocks count it as a gap then.
const LATE_MS: i64 = 60_000;
/// A meter's own clock may be so far off before it is told.
const AHEAD_MS: i64 = 30_000;
const BEHIND_MS: i64 = 600_000;
/// The pace of polls says something after this.
const TELLING_MS: i64 = 60_000;

pub fn meters(facts: &Facts) -> Vec<Finding> {
    let lines = facts.setup.as_ref().map_or(&[][..], |setup| &setup.lines);
    let Some(live) = facts.daemon.live() else {
        let count: usize = lines.iter().map(|line| line.meters).sum();
        if count == 0 {
            return Vec::new();
        }
        let found = format!("{} not asked, as the daemon does not run", counted(count, "meter"));
        return vec![Finding::look(
            METER,
            "",
            found,
            "ask one: `meterseal read ID`, or all of a bus: `meterseal scan HOST`",
        )];
    };
    let (mut all, mut down) = (Vec::new(), BTreeSet::new());
    for line in live.lines.iter().filter(|line| !line.connected) {
        let setup = lines.iter().find(|setup| setup.name == line.name);
        let meters = live.meters.iter().filter(|meter| meter.on == line.name).count();
        let found = format!(
            "has been down for {}{}; it has {}",
            lasted(line.since, facts.now),
            why(line.problem.as_deref()),
            counted(meters, "meter")
        );
        let remedy = match setup {
            Some(LineSetup { address: Some(address), .. }) => gateway_remedy(address),
            _ => "see what is said of its port above".to_owned(),
        };
        all.push(Finding::broken(LINE, &line.name, found, remedy));
        down.insert(&line.name);
    }
    for broker in &live.brokers {
        let found = why(broker.problem.as_deref());
        if !broker.connected {
            let found = format!("has been away for {}{found}", lasted(broker.since, facts.now));
            let remedy =
                "is it on, and are `url`, user and password right? `journalctl -u meterseal -n 50` has its words";
            all.push(Finding::broken(BROKER, &broker.name, found, remedy));
            down.insert(&broker.name);
        } else if broker.problem.is_some() {
            let found = format!("is connected{found}");
            let remedy =
                "are the topics of `[[mqtt.subscribe]]` right? `mosquitto_sub -h HOST -v -t '#'` shows what comes";
            all.push(Finding::look(BROKER, &broker.name, found, remedy));
        }
    }
    let own = || live.meters.iter().filter(|meter| !down.contains(&meter.on));
    all.extend(own().filter_map(|meter| trouble(meter, live, lines, facts.now)));
    all.extend(own().filter_map(|meter| drift(meter, facts.now)));
    all.insert(0, summary(live, facts.now));
    all
}

fn summary(live: &Live, now: Timestamp) -> Finding {
    let of = |condition| live.meters.iter().filter(|meter| meter.condition == condition).count();
    let (all, answering) = (live.meters.len(), of(Condition::Answering));
    if all == 0 {
        let found = "none is configured, or none was heard yet".to_owned();
        let remedy = "find them: `meterseal scan HOST` or `meterseal scan --serial DEV`, and paste what it prints";
        return Finding::look(METER, "", found, remedy);
    }
    let newest = live.meters.iter().filter_map(|meter| meter.last_answer).max();
    let newest = newest.map_or_else(String::new, |at| format!(", the newest reading is of {}", ago(at, now)));
    let found = format!("{answering} of {all} answer{newest}");
    let (silent, refusing) = (of(Condition::Silent), of(Condition::Refusing));
    if silent + refusing == 0 {
        return Finding::ok(METER, "", found);
    }
    let of = [(silent, "silent"), (refusing, "without values")];
    let of = of.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}"));
    let found = format!("{found}; {}", of.collect::<Vec<_>>().join(", "));
    Finding::broken(METER, "", found, "see each below; power and wiring first, then unit number and template")
}

/// What is wrong with one meter, and what to look at.
fn trouble(meter: &MeterFacts, live: &Live, lines: &[LineSetup], now: Timestamp) -> Option<Finding> {
    let MeterFacts { id, on, problem, .. } = meter;
    let last = meter.last_answer.map_or("it never answered".to_owned(), |at| format!("last answer {}", ago(at, now)));
    let problem = why(problem.as_deref());
    let line = lines.iter().find(|line| line.name == *on);
    let scan = match line {
        Some(LineSetup { address: Some(address), .. }) => format!("`meterseal scan {address}`"),
        Some(LineSetup { device: Some(device), .. }) => format!("`meterseal scan --serial {}`", device.display()),
        _ => "`meterseal scan`".to_owned(),
    };
    match meter.condition {
        Condition::Silent => {
            let found = format!("is silent on {on}, {last}{problem}");
            let remedy = match meter.unit {
                Some(unit) => format!(
                    "is it on, is its unit number {unit}, and are A and B not swapped? `meterseal read {id}`; {scan} \
                     finds what answers there"
                ),
                None => {
                    "is it on, and does it publish where the config says? See what comes with `mosquitto_sub -v -t \
                         '#'`"
                        .to_owned()
                }
            };
            return Some(Finding::broken(METER, id, found, remedy));
        }
        Condition::Refusing => {
            let found = format!("answers, and gives no values{problem}");
            let remedy = format!("is its template the right one? `meterseal read {id}` shows each register; {scan}");
            return Some(Finding::broken(METER, id, found, remedy));
        }
        Condition::Starting | Condition::Answering => {}
    }
    if !meter.refused.is_empty() {
        let named: Vec<_> = meter.refused.iter().take(8).map(u16::to_string).collect();
        let more = if meter.refused.len() > named.len() { " …" } else { "" };
        let what = if named.len() == 1 { "register" } else { "registers" };
        let found = format!("refuses {what} {}{more}: their values are left out", named.join(", "));
        let remedy = format!(
            "it may be a smaller model of its family: compare with `meterseal read {id}`, or name another template"
        );
        return Some(Finding::look(METER, id, found, remedy));
    }
    if meter.condition == Condition::Answering {
        return late(meter, live, now);
    }
    None
}

/// A meter that answers, and not as often as it shall.
fn late(meter: &MeterFacts, live: &Live, now: Timestamp) -> Option<Finding> {
    let interval = i64::from(meter.interval_ms?);
    let remedy = || {
        format!(
            "its line is too slow for what is asked of it: a longer `interval` or a shorter `timeout` for those that are \
             silent on {}; on a network, `parallel = 2` where the gateway takes it",
            meter.on
        )
    };
    let last = meter.last_answer?;
    let age = now.millis_since(last);
    if age > (3 * interval).max(LATE_MS) {
        let found = format!("is to be asked every {}, and answered {}", every(interval), ago(last, now));
        return Some(Finding::look(METER, &meter.id, found, remedy()));
    }
    // Of one that has answered without a break: a pause after silence is no slowness.
    let steady = now.millis_since(meter.since);
    let is_steady = meter.timeouts == 0 && meter.since.millis_since(live.started) < TELLING_MS && meter.unit.is_some();
    if !is_steady || steady < TELLING_MS.max(20 * interval) {
        return None;
    }
    let polls = i64::try_from(meter.polls).unwrap_or(i64::MAX).max(1);
    let took = steady / polls;
    // A quarter: polls begin beside block borders as well, and the start is not to the second.
    (took > interval + interval / 4 + 100).then(|| {
        let found = format!("is asked every {} instead of {}", every(took), every(interval));
        Finding::look(METER, &meter.id, found, remedy())
    })
}

fn every(millis: i64) -> String {
    if millis < 10_000 { format!("{millis} ms") } else { lasting(millis) }
}

/// The clock of a meter that dates its own values.
fn drift(meter: &MeterFacts, now: Timestamp) -> Option<Finding> {
    if meter.unit.is_some() || meter.condition != Condition::Answering {
        return None;
    }
    let (newest, came) = (meter.newest?, meter.last_answer?);
    let ahead = newest.millis_since(came);
    let remedy = "set its clock, or let it have a time server; or have its values dated as they come, by a config without \
                  a time pointer";
    if ahead > AHEAD_MS {
        let found = format!("dates its values {} ahead", lasting(ahead));
        return Some(Finding::look(METER, &format!("{} clock", meter.id), found, remedy));
    }
    (ahead < -BEHIND_MS).then(|| {
        let found = format!(
            "its newest value, which came {}, is dated {} before: its clock, or messages that waited",
            ago(came, now),
            lasting(-ahead)
        );
        Finding::look(METER, &format!("{} clock", meter.id), found, remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State::{Broken, Look, Ok};
    use crate::doctor::facts::{Daemon, LineFacts};
    use crate::doctor::tests::{NOW, healthy, live, told};

    fn meter(id: &str, condition: Condition) -> MeterFacts {
        MeterFacts { condition, ..crate::doctor::tests::meter(id) }
    }

    fn with(meters: Vec<MeterFacts>) -> Facts {
        let mut facts = healthy();
        let address = Some("192.0.2.10:502".to_owned());
        facts.setup.as_mut().unwrap().lines =
            vec![LineSetup { name: "msb".to_owned(), device: None, address, meters: meters.len() }];
        live(&mut facts).meters = meters;
        live(&mut facts).lines = vec![LineFacts { name: "msb".to_owned(), connected: true, since: NOW, problem: None }];
        facts
    }

    #[test]
    fn hundreds_of_meters_are_one_line_and_those_in_trouble() {
        let mut meters: Vec<_> = (0..300).map(|n| meter(&format!("m{n}"), Condition::Answering)).collect();
        let facts = with(meters.clone());
        assert_eq!(told(&facts, "meter", ""), (Ok, "300 of 300 answer, the newest reading is of 0 s ago".to_owned()));
        assert_eq!(super::meters(&facts).len(), 1);
        meters[5].condition = Condition::Silent;
        meters[5].problem = Some("no answer within 1s".to_owned());
        let facts = with(meters);
        assert_eq!(super::meters(&facts).len(), 2);
        let (state, text) = told(&facts, "meter", "m5");
        assert!(state == Broken && text.starts_with("is silent on msb, last answer 0 s ago: no answer within 1s -> "));
        assert!(text.contains("`meterseal read m5`; `meterseal scan 192.0.2.10:502`"), "{text}");
        let (state, text) = told(&facts, "meter", "");
        assert!(state == Broken && text.contains("299 of 300 answer") && text.contains("; 1 silent -> "), "{text}");
    }

    #[test]
    fn a_line_that_is_down_speaks_for_its_meters() {
        let mut facts = with(vec![meter("a", Condition::Silent), meter("b", Condition::Silent)]);
        live(&mut facts).lines[0].connected = false;
        live(&mut facts).lines[0].problem = Some("no route to host".to_owned());
        let (state, text) = told(&facts, "line", "msb");
        assert!(state == Broken && text.starts_with("has been down for 0 s: no route to host; it has 2 meters -> "));
        assert!(text.contains("`ping 192.0.2.10`"), "{text}");
        assert_eq!(meters(&facts).len(), 2, "the line and the summary");
    }

    #[test]
    fn registers_that_are_refused_and_values_that_are_none_name_the_template() {
        let mut refused = meter("a", Condition::Answering);
        refused.refused = vec![52, 72];
        let (state, text) = told(&with(vec![refused]), "meter", "a");
        assert!(state == Look && text.starts_with("refuses registers 52, 72: their values are left out -> "), "{text}");
        let (state, text) = told(&with(vec![meter("a", Condition::Refusing)]), "meter", "a");
        assert!(state == Broken && text.contains("is its template the right one?"), "{text}");
    }

    #[test]
    fn a_meter_that_is_asked_too_seldom_is_told() {
        let mut slow = meter("a", Condition::Answering);
        slow.polls = 40_000;
        let (state, text) = told(&with(vec![slow.clone()]), "meter", "a");
        assert!(state == Look && text.starts_with("is asked every 2160 ms instead of 1000 ms -> "), "{text}");
        slow.timeouts = 1;
        assert_eq!(meters(&with(vec![slow.clone()])).len(), 1, "it was silent meanwhile");
        slow.last_answer = Some(NOW.plus_millis(-120_000));
        let (state, text) = told(&with(vec![slow]), "meter", "a");
        assert!(state == Look && text.starts_with("is to be asked every 1000 ms, and answered 2 min ago"), "{text}");
    }

    #[test]
    fn the_clock_of_a_meter_that_dates_its_values_is_looked_at() {
        let published = |ahead: i64| {
            let mut one = meter("a", Condition::Answering);
            (one.unit, one.interval_ms) = (None, None);
            one.newest = one.last_answer.map(|came| came.plus_millis(ahead));
            with(vec![one])
        };
        let (state, text) = told(&published(90_000), "meter", "a clock");
        assert!(state == Look && text.starts_with("dates its values 90 s ahead -> set its clock"), "{text}");
        assert!(told(&published(-3_600_000), "meter", "a clock").1.contains("is dated 60 min before"));
        assert_eq!(meters(&published(-5_000)).len(), 1);
    }

    #[test]
    fn brokers_are_told_and_no_meter_at_all() {
        let mut facts = with(Vec::new());
        assert!(told(&facts, "meter", "").0 == Look && told(&facts, "meter", "").1.contains("meterseal scan"));
        let broker = |connected, problem: &str| LineFacts {
            name: "plant".to_owned(),
            connected,
            since: NOW.plus_millis(-300_000),
            problem: Some(problem.to_owned()),
        };
        live(&mut facts).brokers = vec![broker(false, "refused")];
        let (state, text) = told(&facts, "broker", "plant");
        assert!(state == Broken && text.starts_with("has been away for 5 min: refused -> "), "{text}");
        live(&mut facts).brokers = vec![broker(true, "nothing comes from it")];
        assert!(told(&facts, "broker", "plant").0 == Look);
        facts.daemon = Daemon::Down;
        assert_eq!(meters(&facts), []);
        facts.setup.as_mut().unwrap().lines[0].meters = 3;
        assert!(told(&facts, "meter", "").1.starts_with("3 meters not asked, as the daemon does not run -> ask one"));
    }
}
