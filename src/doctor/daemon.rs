//! The daemon itself, its config, what it complains of, and the clock.

use super::Finding;
use super::facts::{Anchors, Daemon, Facts, Machine, TimeService, Unit};
use super::said::{ago, counted, lasting};
use crate::model::ClockState;

const DAEMON: &str = "daemon";
const CONFIG: &str = "config";
const PROBLEMS: &str = "problems";
const CLOCK: &str = "clock";

/// The log of the last end, and why systemd does not try again (`RestartPreventExitStatus=`).
const BAD_CONFIG: i32 = 78;
/// 2026-01-01: no clock of a gateway that runs this is behind it.
const BUILT: i64 = 1_767_225_600_000;

pub fn daemon(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    match &facts.daemon {
        Daemon::Running(live) => {
            let (since, pid) = (ago(live.started, facts.now), live.pid);
            all.push(Finding::ok(
                DAEMON,
                "",
                format!("runs, started {since}, process {pid}, version {}", live.version),
            ));
            if live.version != facts.version {
                let found = format!("version {} runs, and this program is {}", live.version, facts.version);
                all.push(Finding::look(
                    DAEMON,
                    "version",
                    found,
                    "start the new one: `sudo systemctl restart meterseal`",
                ));
            }
        }
        Daemon::Mute { pid, why } => {
            let found = format!("process {pid} has the store open and does not answer: {why}");
            let remedy = "if it is the daemon: `journalctl -u meterseal -n 50`, then `sudo systemctl restart meterseal`; \
                          if it is a command, wait until it is done";
            all.push(Finding::broken(DAEMON, "", found, remedy));
        }
        Daemon::Down => {
            let (found, remedy) = down(facts.unit.as_ref());
            all.push(Finding::broken(DAEMON, "", found, remedy));
        }
    }
    let own = |unit: &&Unit| facts.daemon.live().is_some_and(|live| live.pid == unit.main_pid);
    if let Some(unit) = facts.unit.as_ref().filter(own).filter(|unit| unit.restarts > 0) {
        let times = if unit.restarts == 1 { "once".to_owned() } else { format!("{} times", unit.restarts) };
        let found = format!("systemd has started it again {times} after it ended unasked");
        let remedy =
            "see why: `journalctl -u meterseal -p warning -n 100`; with `coredumpctl list meterseal` if it crashed";
        all.push(Finding::look(DAEMON, "restarts", found, remedy));
    }
    all
}

/// What is said of a daemon that does not run.
fn down(unit: Option<&Unit>) -> (String, &'static str) {
    let start = "start it: `sudo systemctl enable --now meterseal`; what it said last: `journalctl -u meterseal -n 50`";
    let Some(unit) = unit else {
        return ("does not run".to_owned(), "start it: `sudo systemctl start meterseal`, or `meterseal run -c FILE`");
    };
    if unit.exit_code == BAD_CONFIG {
        let found = "does not run: it ended over a bad config, with no last good one to run".to_owned();
        return (found, "mend the config (`sudo meterseal check`), then `sudo systemctl start meterseal`");
    }
    let ended = match unit.result.as_str() {
        "" | "success" => String::new(),
        "watchdog" => ", and the watchdog ended it: no work was done for a minute".to_owned(),
        "oom-kill" => ", and the kernel ended it for want of memory".to_owned(),
        result => format!(", and ended with {result} (exit code {})", unit.exit_code),
    };
    (format!("does not run: systemd says {}{ended}", unit.active), start)
}

pub fn config(facts: &Facts) -> Vec<Finding> {
    let config = &facts.config;
    let mut all = Vec::new();
    for fault in &config.faults {
        all.push(Finding::broken(CONFIG, &fault.place, fault.why.clone(), mended(&fault.mend)));
    }
    if config.faults.is_empty() {
        let warned = match config.warnings {
            0 => String::new(),
            count => format!(", {}: see `sudo meterseal check`", counted(count, "warning")),
        };
        all.push(Finding::ok(CONFIG, "", format!("{} has no fault{warned}", config.path.display())));
    } else {
        let count = counted(config.faults.len(), "fault");
        let found = match &facts.daemon {
            Daemon::Running(_) => format!("{count}: the last good config runs in its stead"),
            _ if config.last_good => format!("{count}: the last good config, which the store holds, would run"),
            _ => format!("{count}, and no last good config: the daemon does not start"),
        };
        let remedy = if facts.daemon.live().is_some() {
            "mend it, see with `sudo meterseal check`, then `sudo systemctl reload meterseal`"
        } else {
            "mend it, see with `sudo meterseal check`, then `sudo systemctl restart meterseal`"
        };
        all.push(Finding::broken(CONFIG, "", found, remedy));
    }
    // A daemon that runs tells of these among its problems, and of what was made through the API as well.
    if facts.daemon.live().is_none() {
        all.extend(facts.setup.iter().flat_map(|setup| &setup.off).filter_map(|off| turned_off(off, facts)));
    }
    all
}

fn mended(mend: &str) -> String {
    if mend.is_empty() { "mend it, and see with `sudo meterseal check`".to_owned() } else { mend.to_owned() }
}

/// A part that is off, unless it is told of in its own place.
fn turned_off(off: &str, facts: &Facts) -> Option<Finding> {
    let is_told = facts.upstreams.values().any(|upstream| upstream.problem.as_deref() == Some(off))
        || matches!(&facts.anchors, Anchors::Off(why) if why == off);
    let remedy = for_what_is_off(off);
    let finding = match unseen(off, facts) {
        Some(remedy) => Finding::look(CONFIG, "off", off.to_owned(), remedy),
        None => Finding::broken(CONFIG, "off", off.to_owned(), remedy),
    };
    (!is_told).then_some(finding)
}

/// What to do about a file or a secret that a part lacks, by what is said of it.
pub fn for_what_is_off(why: &str) -> &'static str {
    if why.contains("Permission denied") {
        "let the service read that file: `sudo chgrp meterseal FILE && sudo chmod 640 FILE`, then `sudo systemctl restart \
         meterseal`; the rest runs without it"
    } else if why.contains("credential") {
        "put there what is missing (the file `/etc/credstore/NAME`, and `LoadCredential=NAME` in `systemctl edit \
         meterseal`), then `sudo systemctl restart meterseal`; the rest runs without it"
    } else {
        "put there what is missing, then `sudo systemctl restart meterseal`; the rest runs without it"
    }
}

/// What to do where a part is off in the eyes of this program alone: credentials and the environment of the service are
/// the service's, and while it does not run nobody knows whether they are there.
pub fn unseen(off: &str, facts: &Facts) -> Option<&'static str> {
    let is_unseen = off.contains("cannot be seen outside the service") || off.contains("the environment has no ");
    (is_unseen && facts.daemon.live().is_none())
        .then_some("start the daemon, which alone sees it (`sudo systemctl start meterseal`), and look again")
}

/// What the daemon says of itself.
pub fn problems(facts: &Facts) -> Vec<Finding> {
    let Some(live) = facts.daemon.live() else { return Vec::new() };
    let is_off = |problem: &String| facts.setup.as_ref().is_some_and(|setup| setup.off.contains(problem));
    let mut all: Vec<Finding> =
        live.problems.iter().filter(|problem| is_off(problem)).filter_map(|off| turned_off(off, facts)).collect();
    // A refused config is told of with its faults, where those can still be read.
    let is_told = |problem: &&String| {
        is_off(problem) || (!facts.config.faults.is_empty() && problem.starts_with("The config on disk is refused"))
    };
    for problem in live.problems.iter().filter(|problem| !is_told(problem)) {
        all.push(if problem.starts_with("the clock ") {
            Finding::look(CLOCK, "blocks", problem.clone(), synchronise(facts.machine.time_service))
        } else {
            let remedy = "if that says no remedy: `journalctl -u meterseal -p warning -n 50`";
            Finding::look(PROBLEMS, "", problem.clone(), remedy)
        });
    }
    all
}

pub fn clock(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    let Machine { clock, has_rtc, time_service, .. } = &facts.machine;
    // Simulated data takes the clock for right, whatever the kernel says.
    let trusted = facts.daemon.live().map(|live| live.clock);
    let state = trusted.or(clock.map(|(state, _)| state));
    if facts.now.as_millis() < BUILT {
        let found = format!("says {}, which is long past", facts.now);
        let remedy = format!("set it: `sudo date -s '2026-11-21 12:00'`; then {}", synchronise(*time_service));
        all.push(Finding::broken(CLOCK, "", found, remedy));
    } else {
        let zone = facts.setup.as_ref().map_or_else(String::new, |setup| format!(", zone {}", setup.timezone));
        match state {
            Some(ClockState::Synchronised) => {
                let error = clock.filter(|(state, _)| *state == ClockState::Synchronised);
                let error = error.map_or_else(String::new, |(_, us)| format!(" within {}", within(us)));
                all.push(Finding::ok(CLOCK, "", format!("{} UTC, synchronised{error}{zone}", facts.now)));
            }
            Some(ClockState::Unsynchronised) => {
                let found = format!(
                    "{} UTC, not synchronised: readings are stored, blocks wait 5 min after a start and are `unsynced` \
                     then{zone}",
                    facts.now
                );
                all.push(Finding::look(CLOCK, "", found, synchronise(*time_service)));
            }
            None => {
                let found = "the kernel does not tell whether it is synchronised".to_owned();
                all.push(Finding::look(CLOCK, "", found, "allow the system call `adjtimex` (a container's filter?)"));
            }
        }
    }
    if !has_rtc && trusted != Some(ClockState::Synchronised) {
        let found = "this machine has no hardware clock: after a power cut it begins in the past".to_owned();
        let remedy = "see that a time server can be reached at each start, or fit an RTC; blocks wait meanwhile, and \
                      readings are dated when the clock is right";
        all.push(Finding::look(CLOCK, "rtc", found, remedy));
    }
    all
}

fn within(us: i64) -> String {
    if us < 1_000_000 { format!("{} ms", us.max(0) / 1_000) } else { lasting(us / 1_000) }
}

fn synchronise(service: TimeService) -> &'static str {
    match service {
        TimeService::Timesyncd => {
            "`sudo timedatectl set-ntp true`, and the plant's time server as `NTP=` in /etc/systemd/timesyncd.conf; see \
             with `timedatectl timesync-status`"
        }
        TimeService::Chrony => {
            "`sudo systemctl enable --now chrony`, and the plant's time server as `server HOST iburst` in \
             /etc/chrony/chrony.conf; see with `chronyc sources`"
        }
        TimeService::Ntpd => "`sudo systemctl enable --now ntpsec`, and the plant's time server in its ntp.conf",
        TimeService::None => {
            "no time service is installed: `sudo apt install systemd-timesyncd` and `sudo timedatectl set-ntp true`"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State::{Broken, Look, Ok};
    use crate::doctor::facts::FaultFacts;
    use crate::doctor::tests::{healthy, live, told};
    use crate::model::Timestamp;

    #[test]
    fn a_daemon_that_runs_is_told_with_its_version_and_restarts() {
        let mut facts = healthy();
        assert_eq!(told(&facts, "daemon", ""), (Ok, "runs, started 24 h ago, process 12, version 1.0.0".to_owned()));
        facts.version = "1.1.0".to_owned();
        let (state, text) = told(&facts, "daemon", "version");
        assert_eq!(state, Look);
        assert!(
            text.contains("version 1.0.0 runs, and this program is 1.1.0 -> ") && text.contains("restart"),
            "{text}"
        );
        facts.unit = Some(Unit { main_pid: 12, active: "active".to_owned(), restarts: 3, ..Unit::default() });
        let (state, text) = told(&facts, "daemon", "restarts");
        assert_eq!(state, Look);
        assert!(text.starts_with("systemd has started it again 3 times") && text.contains("journalctl"), "{text}");
        facts.unit = Some(Unit { main_pid: 13, restarts: 3, ..Unit::default() });
        assert!(super::daemon(&facts).iter().all(|finding| finding.subject != "restarts"), "another daemon's");
    }

    #[test]
    fn one_that_does_not_run_says_how_it_ended() {
        let mut facts = healthy();
        facts.daemon = Daemon::Down;
        let mut said = |unit: Option<Unit>| {
            facts.unit = unit;
            let (state, text) = told(&facts, "daemon", "");
            assert_eq!(state, Broken);
            text
        };
        assert!(said(None).starts_with("does not run -> start it: `sudo systemctl start meterseal`"));
        let failed = |result: &str, exit_code: i32| {
            let (active, result) = ("failed".to_owned(), result.to_owned());
            Some(Unit { active, result, exit_code, ..Unit::default() })
        };
        assert!(said(failed("watchdog", 0)).contains("the watchdog ended it"));
        assert!(said(failed("oom-kill", 0)).contains("for want of memory"));
        assert!(said(failed("exit-code", 1)).contains("ended with exit-code (exit code 1)"));
        assert!(said(failed("exit-code", 78)).contains("bad config, with no last good one to run -> mend the config"));
        facts.daemon = Daemon::Mute { pid: 9, why: "it took too long".to_owned() };
        let (state, text) = told(&facts, "daemon", "");
        assert_eq!(state, Broken);
        assert!(text.contains("process 9 has the store open and does not answer: it took too long"), "{text}");
    }

    #[test]
    fn every_fault_is_told_and_what_runs_instead() {
        let mut facts = healthy();
        let fault = |mend: &str| FaultFacts {
            place: "m.toml:3: site.id".to_owned(),
            why: "is not there".to_owned(),
            mend: mend.to_owned(),
        };
        facts.config.faults = vec![fault("write it")];
        assert_eq!(told(&facts, "config", "m.toml:3: site.id"), (Broken, "is not there -> write it".to_owned()));
        let of_all = |facts: &Facts| told(facts, "config", "").1;
        assert!(of_all(&facts).starts_with("1 fault: the last good config runs in its stead -> mend it"));
        live(&mut facts).problems = vec!["The config on disk is refused and the last good one runs: x".to_owned()];
        assert!(problems(&facts).is_empty(), "it is told with its faults");
        facts.daemon = Daemon::Down;
        assert!(of_all(&facts).starts_with("1 fault, and no last good config: the daemon does not start"));
        facts.config.last_good = true;
        assert!(of_all(&facts).contains("which the store holds, would run"));
        facts.config.faults = vec![fault("")];
        assert!(told(&facts, "config", "m.toml:3: site.id").1.ends_with("see with `sudo meterseal check`"));
        facts.config.faults.clear();
        facts.config.warnings = 2;
        assert!(of_all(&facts).contains("has no fault, 2 warnings"));
    }

    #[test]
    fn a_part_that_is_off_is_broken_and_told_once() {
        let mut facts = healthy();
        let off = "broker plant is off: no credential".to_owned();
        facts.setup.as_mut().unwrap().off = vec![off.clone()];
        live(&mut facts).problems =
            vec![off.clone(), "the clock leapt forward".to_owned(), "the webhook is away".to_owned()];
        let (state, text) = told(&facts, "config", "off");
        assert!(state == Broken && text.starts_with(&off) && text.contains("LoadCredential="), "{text}");
        assert_eq!(told(&facts, "problems", "").0, Look);
        let (state, text) = told(&facts, "clock", "blocks");
        assert!(
            state == Look && text.starts_with("the clock leapt forward -> `sudo timedatectl set-ntp true`"),
            "{text}"
        );
        let anchors = std::mem::replace(&mut facts.anchors, Anchors::Off(off));
        assert!(problems(&facts).iter().all(|finding| finding.check != "config"), "the anchors tell it");
        (facts.daemon, facts.anchors) = (Daemon::Down, anchors);
        assert_eq!(told(&facts, "config", "off").0, Broken);
        facts.setup.as_mut().unwrap().off =
            vec!["x is off: credential y cannot be seen outside the service".to_owned()];
        let (state, text) = told(&facts, "config", "off");
        assert!(state == Look && text.contains("-> start the daemon, which alone sees it"), "{text}");
    }

    #[test]
    fn a_clock_that_nobody_sets_names_the_service_that_would() {
        let mut facts = healthy();
        let (state, text) = told(&facts, "clock", "");
        assert!(state == Ok && text.ends_with("UTC, synchronised within 1 ms, zone Asia/Kuala_Lumpur"), "{text}");
        live(&mut facts).clock = ClockState::Unsynchronised;
        facts.machine.clock = Some((ClockState::Unsynchronised, 16_000_000));
        for (service, command) in [
            (TimeService::Timesyncd, "timedatectl set-ntp true"),
            (TimeService::Chrony, "enable --now chrony"),
            (TimeService::Ntpd, "ntpsec"),
            (TimeService::None, "apt install systemd-timesyncd"),
        ] {
            facts.machine.time_service = service;
            let (state, text) = told(&facts, "clock", "");
            assert!(state == Look && text.contains("not synchronised") && text.contains(command), "{text}");
        }
        facts.machine.has_rtc = false;
        assert_eq!(told(&facts, "clock", "rtc").0, Look);
        facts.daemon = Daemon::Down;
        facts.machine.clock = None;
        assert!(told(&facts, "clock", "").1.contains("adjtimex"));
        facts.now = Timestamp::from_millis(5_000);
        let (state, text) = told(&facts, "clock", "");
        assert!(state == Broken && text.starts_with("says 1970-01-01T00:00:05.000Z, which is long past"), "{text}");
    }
}
