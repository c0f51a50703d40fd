//! The page, and what the store holds: the log, damage, alerts.

use super::Finding;
use super::facts::{Facts, Kept, KeptFacts, Live, MarkFacts, QuickCheck, Setup};
use super::said::{ago, bytes, counted, lasting};
use crate::model::Timestamp;

const PAGE: &str = "page";
const EVIDENCE: &str = "evidence";
const ALERTS: &str = "alerts";

/// A certificate that ends sooner is to be renewed.
const NOTICE_MS: i64 = 21 * 86_400_000;

pub fn page(facts: &Facts) -> Vec<Finding> {
    let Some(setup) = &facts.setup else { return Vec::new() };
    let mut all = Vec::new();
    let has_pin = facts.kept.facts().map(|kept| kept.has_pin);
    let (at, answers) = match facts.daemon.live() {
        Some(live) => (live.page.clone(), ""),
        None => (setup.listen.clone(), ", once the daemon runs"),
    };
    all.push(match has_pin {
        Some(false) => {
            let found = format!("{at}{answers}: no PIN is set, and nobody can sign in");
            let remedy = "`sudo meterseal pin set`, or open the page with the set-up code: `journalctl -u meterseal -g \
                          'set-up code' -n 1`";
            Finding::look(PAGE, "", found, remedy)
        }
        Some(true) => Finding::ok(PAGE, "", format!("{at}{answers}, a PIN is set")),
        None => Finding::ok(PAGE, "", format!("{at}{answers}")),
    });
    if let Some(live) = facts.daemon.live() {
        all.extend(certificate(live, setup, facts.now));
    }
    all
}

fn certificate(live: &Live, setup: &Setup, now: Timestamp) -> Option<Finding> {
    let Some(certificate) = &live.certificate else {
        return setup.tls.then(|| {
            let found = "there is no certificate yet".to_owned();
            Finding::look(PAGE, "certificate", found, "see `journalctl -u meterseal -g certificate`")
        });
    };
    let whose = if certificate.self_signed { "self-signed" } else { "your own" };
    let until = certificate.until?;
    let left = until.millis_since(now);
    let day = until.to_string().chars().take(10).collect::<String>();
    let found = format!("{whose}, until {day}");
    let remedy = "renew the files that `web.tls` names: they are taken up by themselves within a minute";
    // Our own one is made anew by itself as soon as the clock is known to be right.
    let remedy = if certificate.self_signed { "set the clock right: it is made anew by itself then" } else { remedy };
    Some(match left {
        ..=0 => Finding::broken(PAGE, "certificate", format!("{found}: it has expired"), remedy),
        1..NOTICE_MS => Finding::look(PAGE, "certificate", format!("{found}: {} left", lasting(left)), remedy),
        _ => Finding::ok(PAGE, "certificate", found),
    })
}

pub fn evidence(facts: &Facts) -> Vec<Finding> {
    let restore = "a backup may hold what is lost: see docs/backup.md";
    let kept = match &facts.kept {
        Kept::Known(kept) => kept,
        Kept::Missing(why) => {
            let remedy = "mount the disk that holds it (`findmnt`, `sudo mount -a`); only on a gateway that never ran, \
                          `sudo -u meterseal meterseal init`";
            return vec![Finding::broken(EVIDENCE, "", why.clone(), remedy)];
        }
        Kept::Due(why) => {
            let remedy = "start the daemon: `sudo systemctl start meterseal`; a store of a newer version cannot be opened \
                          by an older meterseal any more";
            return vec![Finding::look(EVIDENCE, "", why.clone(), remedy)];
        }
        Kept::Closed { why, mend } => {
            let remedy = mend.as_deref().unwrap_or("see what is said of the disk above, and `dmesg | tail`");
            return vec![Finding::broken(EVIDENCE, "", format!("the store cannot be opened: {why}"), remedy)];
        }
        Kept::Unknown => return Vec::new(),
    };
    let mut all = vec![log(kept, facts.machine.mark.as_ref(), facts.now)];
    match &kept.quick_check {
        QuickCheck::Good => {
            all.push(Finding::ok(
                EVIDENCE,
                "database",
                format!("evidence.db is whole, {}", bytes(kept.evidence_bytes)),
            ));
        }
        QuickCheck::TooLarge => {
            let found = format!("evidence.db of {} is too large to be read through here", bytes(kept.evidence_bytes));
            all.push(Finding::ok(EVIDENCE, "database", found));
        }
        QuickCheck::Damaged(what) => {
            let found = format!("evidence.db is damaged: {what}");
            let remedy =
                format!("stop the daemon, copy the whole folder away before anything else, see `dmesg`; {restore}");
            all.push(Finding::broken(EVIDENCE, "database", found, remedy));
        }
    }
    for file in &kept.quarantined {
        let remedy = format!(
            "its readings are not shown, its blocks stay; look at the disk (`dmesg`), keep the file for whoever repairs \
             it, and delete it when nobody needs it; {restore}"
        );
        all.push(Finding::look(EVIDENCE, file, "is damaged, and left out".to_owned(), remedy));
    }
    for folder in &kept.replaced {
        let found = "is a former store, which a restore has set aside, with its private key".to_owned();
        let remedy = "when nobody needs it any more, delete that folder in the store's";
        all.push(Finding::look(EVIDENCE, folder, found, remedy));
    }
    if kept.lost > 0 {
        let found = format!("{} readings went before every upstream had them, since the daemon started", kept.lost);
        let remedy = "raise `store.max_disk` or `store.keep_raw`, and see that the upstreams are reached";
        all.push(Finding::look(EVIDENCE, "lost readings", found, remedy));
    }
    all.push(alerts(kept));
    all
}

fn log(kept: &KeptFacts, mark: Option<&MarkFacts>, now: Timestamp) -> Finding {
    let signed = match kept.signed {
        0 => "nothing is signed yet".to_owned(),
        size => format!(
            "{} signed",
            counted(usize::try_from(size).unwrap_or(usize::MAX), "entry").replace("entrys", "entries")
        ),
    };
    let age = mark.and_then(|mark| mark.written);
    let age = age.map_or_else(String::new, |at| format!(", the last checkpoint {}", ago(at, now)));
    Finding::ok(EVIDENCE, "", format!("log {}: {signed}{age}", kept.origin))
}

fn alerts(kept: &KeptFacts) -> Finding {
    if kept.open_alerts == 0 {
        return Finding::ok(ALERTS, "", "none is open".to_owned());
    }
    let open = usize::try_from(kept.open_alerts).unwrap_or(usize::MAX);
    let newest = kept.alerts.iter().map(|text| text.trim_end_matches('.')).collect::<Vec<_>>().join("; ");
    let found = format!("{} open, {} of them not acknowledged: {newest}", counted(open, "alert"), kept.unacknowledged);
    if kept.unacknowledged == 0 {
        return Finding::ok(ALERTS, "", found);
    }
    Finding::look(ALERTS, "", found, "see to what they say, and acknowledge them on the page, under Alerts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State::{Broken, Look, Ok};
    use crate::doctor::facts::{CertificateFacts, Daemon};
    use crate::doctor::tests::{NOW, healthy, kept, live, told};

    #[test]
    fn a_page_without_pin_says_how_to_set_one() {
        let mut facts = healthy();
        assert_eq!(told(&facts, "page", ""), (Ok, "http://127.0.0.1:3001/, a PIN is set".to_owned()));
        kept(&mut facts).has_pin = false;
        let (state, text) = told(&facts, "page", "");
        assert!(
            state == Look && text.contains("-> `sudo meterseal pin set`") && text.contains("set-up code"),
            "{text}"
        );
        facts.daemon = Daemon::Down;
        assert!(told(&facts, "page", "").1.starts_with("127.0.0.1:3001, once the daemon runs: no PIN"));
    }

    #[test]
    fn a_certificate_that_ends_is_told_in_time() {
        let ends = |days: i64, self_signed: bool| {
            let mut facts = healthy();
            let until = Some(NOW.plus_millis(days * 86_400_000));
            live(&mut facts).certificate = Some(CertificateFacts { self_signed, until });
            told(&facts, "page", "certificate")
        };
        assert_eq!(ends(400, true), (Ok, "self-signed, until 2027-12-26".to_owned()));
        let (state, text) = ends(20, false);
        assert!(state == Look && text.contains("20 days left -> renew the files"), "{text}");
        let (state, text) = ends(-1, true);
        assert!(state == Broken && text.contains("it has expired -> set the clock right"), "{text}");
        let mut none = healthy();
        none.setup.as_mut().unwrap().tls = true;
        assert_eq!(told(&none, "page", "certificate").0, Look);
    }

    #[test]
    fn a_store_that_is_not_there_or_damaged_is_told() {
        let of = |kept| told(&Facts { kept, ..healthy() }, "evidence", "");
        let (state, text) = of(Kept::Missing("there is no store at /x".to_owned()));
        assert!(state == Broken && text.contains("-> mount the disk") && text.contains("meterseal init"), "{text}");
        let (state, text) =
            of(Kept::Closed { why: "it is of version 9".to_owned(), mend: Some("install it".to_owned()) });
        assert!(state == Broken && text == "the store cannot be opened: it is of version 9 -> install it", "{text}");
        let (state, text) = of(Kept::Due("the store is of version 3".to_owned()));
        assert!(state == Look && text.starts_with("the store is of version 3 -> start the daemon"), "{text}");
        let mut facts = healthy();
        assert!(
            told(&facts, "evidence", "").1.starts_with("log plant/a/b: 7 entries signed, the last checkpoint 0 s ago")
        );
        kept(&mut facts).quick_check = QuickCheck::Damaged("page 3".to_owned());
        let (state, text) = told(&facts, "evidence", "database");
        assert!(state == Broken && text.contains("copy the whole folder away"), "{text}");
        kept(&mut facts).quick_check = QuickCheck::TooLarge;
        assert_eq!(told(&facts, "evidence", "database").0, Ok);
        kept(&mut facts).quarantined = vec!["raw/1.db".to_owned()];
        assert_eq!(told(&facts, "evidence", "raw/1.db").0, Look);
        kept(&mut facts).replaced = vec!["replaced-20261121T120000Z".to_owned()];
        assert_eq!(told(&facts, "evidence", "replaced-20261121T120000Z").0, Look);
        kept(&mut facts).lost = 9;
        assert!(told(&facts, "evidence", "lost readings").1.contains("store.max_disk"));
    }

    #[test]
    fn alerts_that_nobody_has_seen_to_are_told() {
        let mut facts = healthy();
        assert_eq!(told(&facts, "alerts", ""), (Ok, "none is open".to_owned()));
        let facts_kept = kept(&mut facts);
        (facts_kept.open_alerts, facts_kept.unacknowledged) = (2, 1);
        facts_kept.alerts = vec!["Meter a is silent.".to_owned(), "Meter b is.".to_owned()];
        let (state, text) = told(&facts, "alerts", "");
        assert!(state == Look, "{text}");
        assert!(
            text.starts_with("2 alerts open, 1 of them not acknowledged: Meter a is silent; Meter b is -> "),
            "{text}"
        );
        kept(&mut facts).unacknowledged = 0;
        assert_eq!(told(&facts, "alerts", "").0, Ok);
    }
}
