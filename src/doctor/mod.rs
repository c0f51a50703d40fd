//! What is wrong with a gateway, and what to do about it: findings from facts. Looks at the machine itself, changes
//! nothing, and asks no meter, no node and no upstream.

mod anchors;
mod daemon;
mod disk;
pub mod facts;
pub mod machine;
mod ports;
pub mod reader;
mod said;
mod sources;
mod store;
mod upstreams;

use serde::Serialize;

use crate::model::address::{KEY, without_keys};
use facts::Facts;

/// How a thing is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// It works, and somebody had better see to it.
    Look,
    /// It does not do what it is there for.
    Broken,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Look => "look",
            Self::Broken => "broken",
        }
    }
}

/// What one check found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Such as `disk`.
    pub check: &'static str,
    /// Of which thing: a meter, a port, an upstream; empty of the whole.
    pub subject: String,
    pub state: State,
    pub found: String,
    /// What to do; always there unless all is well.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, subject: &str, found: String) -> Self {
        Self { check, subject: subject.to_owned(), state: State::Ok, found, remedy: None }
    }

    fn look(check: &'static str, subject: &str, found: String, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { check, subject: subject.to_owned(), state: State::Look, found, remedy }
    }

    fn broken(check: &'static str, subject: &str, found: String, remedy: impl Into<String>) -> Self {
        Self { state: State::Broken, ..Self::look(check, subject, found, remedy) }
    }
}

/// All that is found, in the order in which a person would look. An address shows no key that is part of it.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let rooms = [
        daemon::daemon(facts),
        daemon::config(facts),
        daemon::problems(facts),
        daemon::clock(facts),
        disk::disk(facts),
        disk::writes(facts),
        ports::ports(facts),
        sources::meters(facts),
        upstreams::upstreams(facts),
        anchors::anchors(facts),
        store::page(facts),
        store::evidence(facts),
    ];
    let shown = |finding: Finding| Finding {
        found: without_keys(&finding.found, KEY),
        remedy: finding.remedy.map(|remedy| without_keys(&remedy, KEY)),
        ..finding
    };
    rooms.into_iter().flatten().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use facts::{Anchors, ConfigFacts, Daemon, Kept, KeptFacts, Live, Machine, QuickCheck, Setup};

    pub const NOW: Timestamp = Timestamp::from_millis(1_795_219_200_000);

    /// A gateway on which all is well.
    pub fn healthy() -> Facts {
        let live = Live {
            version: "1.0.0".to_owned(),
            pid: 12,
            started: NOW.plus_millis(-86_400_000),
            uptime_ms: 86_400_000,
            clock: crate::model::ClockState::Synchronised,
            problems: Vec::new(),
            page: "http://127.0.0.1:3001/".to_owned(),
            certificate: None,
            meters: vec![meter("main")],
            lines: Vec::new(),
            brokers: Vec::new(),
            written: 100_000_000,
        };
        let setup = Setup {
            site: "plant".to_owned(),
            timezone: "Asia/Kuala_Lumpur".to_owned(),
            store: "/var/lib/meterseal".into(),
            mark: "/var/lib/meterseal-mark/mark".into(),
            keep_raw_ms: 90 * 86_400_000,
            max_disk: 2_000_000_000,
            reserve: 64_000_000,
            commit_every_ms: 1_000,
            listen: "127.0.0.1:3001".to_owned(),
            tls: false,
            lines: Vec::new(),
            off: Vec::new(),
        };
        let kept = KeptFacts {
            origin: "plant/a/b".to_owned(),
            signed: 7,
            quick_check: QuickCheck::Good,
            raw_bytes: 10_000_000,
            evidence_bytes: 1_000_000,
            oldest_raw: Some(NOW.plus_millis(-86_400_000)),
            has_pin: true,
            ..KeptFacts::default()
        };
        let disk = facts::Disk {
            mounted_at: "/".to_owned(),
            kind: "ext4".to_owned(),
            size: 8_000_000_000,
            free: 5_000_000_000,
            files: 1_000,
            files_free: 900,
            read_only: false,
            reserve: Some(64_000_000),
        };
        let mark = facts::MarkFacts { path: setup.mark.clone(), same_disk: true, written: Some(NOW) };
        let device = facts::Device {
            name: "mmcblk0".to_owned(),
            bytes: 8_000_000_000,
            written: 1_000_000_000,
            life: Some([1, 1]),
        };
        let machine = Machine {
            clock: Some((crate::model::ClockState::Synchronised, 1_500)),
            has_rtc: true,
            time_service: facts::TimeService::Timesyncd,
            uptime_ms: 10 * 86_400_000,
            disk: Some(disk),
            mark: Some(mark),
            device: Some(device),
            ports: Vec::new(),
            gateways: Vec::new(),
        };
        Facts {
            now: NOW,
            version: "1.0.0".to_owned(),
            daemon: Daemon::Running(Box::new(live)),
            unit: None,
            config: ConfigFacts { path: "/etc/meterseal/meterseal.toml".into(), ..ConfigFacts::default() },
            setup: Some(setup),
            kept: Kept::Known(Box::new(kept)),
            upstreams: std::collections::BTreeMap::new(),
            anchors: Anchors::Absent,
            machine,
        }
    }

    /// A meter that has answered each second for a day.
    pub fn meter(id: &str) -> facts::MeterFacts {
        facts::MeterFacts {
            id: id.to_owned(),
            on: "msb".to_owned(),
            unit: Some(7),
            interval_ms: Some(1_000),
            condition: crate::model::Condition::Answering,
            since: NOW.plus_millis(-86_400_000),
            last_answer: Some(NOW.plus_millis(-500)),
            newest: Some(NOW.plus_millis(-500)),
            problem: None,
            refused: Vec::new(),
            polls: 86_400,
            timeouts: 0,
        }
    }

    /// The one finding of this check about this subject.
    pub fn found(facts: &Facts, check: &str, subject: &str) -> Finding {
        let mut all = findings(facts);
        all.retain(|finding| finding.check == check && finding.subject == subject);
        assert_eq!(all.len(), 1, "{check} {subject}: {all:#?} of {:#?}", findings(facts));
        all.remove(0)
    }

    /// What is found of this, and what is to be done, as a person reads it.
    pub fn told(facts: &Facts, check: &str, subject: &str) -> (State, String) {
        let Finding { state, found, remedy, .. } = found(facts, check, subject);
        (state, remedy.map_or(found.clone(), |remedy| format!("{found} -> {remedy}")))
    }

    pub fn live(facts: &mut Facts) -> &mut Live {
        match &mut facts.daemon {
            Daemon::Running(live) => live,
            _ => panic!("it runs"),
        }
    }

    pub fn kept(facts: &mut Facts) -> &mut KeptFacts {
        match &mut facts.kept {
            Kept::Known(kept) => kept,
            _ => panic!("it is known"),
        }
    }

    #[test]
    fn where_all_is_well_nothing_is_to_be_done() {
        let all = findings(&healthy());
        assert!(all.iter().all(|finding| finding.state == State::Ok && finding.remedy.is_none()), "{all:#?}");
        assert!(all.len() > 8, "{all:#?}");
    }

    #[test]
    fn a_key_in_an_address_is_not_shown() {
        let mut facts = healthy();
        live(&mut facts).problems = vec!["no answer from https://h/v3/1a2b3c4d5e6f708192a3b4c5d6e7f809".to_owned()];
        let all = format!("{:?}", findings(&facts));
        assert!(all.contains("https://h/***") && !all.contains("1a2b3c4d"), "{all}");
    }
}
