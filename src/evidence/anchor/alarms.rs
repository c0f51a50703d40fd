//! When a person must be told of the anchors. Pure: time is an argument, and what lasts is counted in monotonic time.

use std::time::Duration;

use alloy_primitives::Address;

use super::fees::{self, Coin};
use crate::model::{Alert, AlertKind, Anchor, Timestamp, Waiting};

/// Beside two turns: a transaction takes its time.
const LATE: Duration = Duration::from_secs(3_600);
/// What is found late must stay so: a gateway that was off is late when it starts, and has it done in a minute.
const LATE_MS: u64 = 600_000;
/// Days that the balance must last, and those at which it is well again.
const LOW_DAYS: u64 = 14;
const WELL_DAYS: u64 = 21;
/// It must stay low so long, and the balance is looked at anew meanwhile: fees may leap for minutes.
const LOW_MS: u64 = 3_600_000;
/// Where it does not pay as many anchors it is told at once.
const FEW_ANCHORS: u128 = 3;

/// What is seen at one moment.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    pub now: Timestamp,
    pub now_ms: u64,
    pub account: Address,
    pub chain_id: u64,
    pub every: Duration,
    /// Since when the log holds something that is under no final anchor; none: all of it is.
    pub uncovered: Option<Timestamp>,
    pub waiting: Option<&'a Waiting>,
    pub balance: Option<u128>,
    /// How many anchors the balance pays.
    pub anchors_left: Option<u128>,
}

#[derive(Debug, PartialEq)]
pub enum Act {
    Raise(Alert),
    Clear(i64),
}

/// What was seen before.
#[derive(Default)]
pub struct Alarms {
    /// Since when anchors are late, ms since boot.
    late: Option<u64>,
    /// Since when the balance is low, ms since boot.
    low: Option<u64>,
}

impl Alarms {
    /// `standing` are the alerts that are not over.
    pub fn judge(&mut self, seen: &Seen<'_>, standing: &[Alert]) -> Vec<Act> {
        let stands = |kind| standing.iter().find(move |alert| alert.kind == kind);
        let is_late = seen.uncovered.is_some_and(|since| seen.now > since.plus(seen.every * 2).plus(LATE));
        let mut acts = Vec::new();
        self.late = is_late.then(|| self.late.unwrap_or(seen.now_ms));
        match (stands(AlertKind::AnchorOverdue), self.late) {
            (None, Some(since_ms)) if seen.now_ms.saturating_sub(since_ms) >= LATE_MS => {
                acts.push(Act::Raise(alert(AlertKind::AnchorOverdue, seen.now, seen.now, overdue(seen))));
            }
            (Some(alert), None) => acts.push(Act::Clear(alert.id)),
            _ => {}
        }
        if let Some(anchors) = seen.anchors_left {
            let days = fees::days(anchors, seen.every);
            self.low = (days < LOW_DAYS).then(|| self.low.unwrap_or(seen.now_ms));
            let is_to_be_told = |since_ms: u64| anchors < FEW_ANCHORS || seen.now_ms.saturating_sub(since_ms) >= LOW_MS;
            match stands(AlertKind::AnchorFundsLow) {
                None if self.low.is_some_and(is_to_be_told) => {
                    let text = funds(seen, anchors, days);
                    acts.push(Act::Raise(alert(AlertKind::AnchorFundsLow, seen.now, seen.now, text)));
                }
                Some(alert) if days > WELL_DAYS => acts.push(Act::Clear(alert.id)),
                _ => {}
            }
        }
        acts
    }
}

pub fn alert(kind: AlertKind, occasion: Timestamp, now: Timestamp, text: String) -> Alert {
    Alert::new(kind, None, occasion, now, text)
}

/// Somebody else used this nonce of the anchor's account.
pub fn rival(anchor: &Anchor, nonce: u64, now: Timestamp) -> Alert {
    let Anchor { account, chain_id, .. } = anchor;
    let text = format!(
        "This store does not know the transaction of {account} on chain {chain_id} with nonce {nonce}. Anchors go on behind it. \
         If the store was restored, it may be an anchor made after the backup; else somebody else signs with this key: \
         give each gateway a key of its own."
    );
    // The occasion is of this anchor and this nonce: however often a crash repeats it, it is told once, and the next
    // nonce again.
    let occasion = anchor.queued.plus_millis(i64::try_from(nonce).unwrap_or(0));
    alert(AlertKind::AnchorNonceTaken, occasion, now, text)
}

fn overdue(seen: &Seen<'_>) -> String {
    let since = seen.uncovered.unwrap_or(seen.now);
    let why = seen.waiting.map_or_else(
        || "See `meterseal anchor status`".to_owned(),
        |waiting| format!("It waits since {}: {}", waiting.since, waiting.text),
    );
    format!("What was logged since {since} is not anchored yet, though it was due. {why}.")
}

fn funds(seen: &Seen<'_>, anchors: u128, days: u64) -> String {
    let Seen { account, chain_id, .. } = *seen;
    let has = Coin { wei: seen.balance.unwrap_or(0), chain_id };
    format!(
        "The account that pays for anchors, {account} on chain {chain_id}, has {has}: that pays {anchors} anchors at what the \
         last ones cost, and lasts {days} days at one for each `every`. Send it some."
    )
}

#[cfg(test)]
mod tests {
    use super::super::example::{self, NOW};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn seen<'a>() -> Seen<'a> {
        Seen {
            now: NOW,
            now_ms: 1_000_000,
            account: Address::ZERO,
            chain_id: 137,
            every: HOUR * 6,
            uncovered: None,
            waiting: None,
            balance: Some(5),
            anchors_left: None,
        }
    }

    fn kinds(acts: &[Act]) -> Vec<AlertKind> {
        let raised = |act: &Act| match act {
            Act::Raise(alert) => Some(alert.kind),
            Act::Clear(_) => None,
        };
        acts.iter().filter_map(raised).collect()
    }

    #[test]
    fn what_stays_late_is_told_with_its_reason() {
        let mut alarms = Alarms::default();
        let waiting = Waiting {
            reason: crate::model::WaitReason::Unreachable,
            text: "no rpc answers".into(),
            since: NOW.minus(HOUR * 13),
        };
        let late = Seen { uncovered: Some(NOW.minus(HOUR * 13).plus_millis(-1)), waiting: Some(&waiting), ..seen() };
        assert_eq!(alarms.judge(&late, &[]), [], "not at once: the gateway may have been off");
        let in_time = Seen { uncovered: Some(NOW.minus(HOUR * 13)), ..seen() };
        assert_eq!(alarms.judge(&in_time, &[]), []);
        alarms.judge(&late, &[]);
        let later = Seen { now_ms: 1_000_000 + LATE_MS, ..late };
        let acts = alarms.judge(&later, &[]);
        let [Act::Raise(alert)] = &acts[..] else { panic!("{acts:?}") };
        assert_eq!(alert.kind, AlertKind::AnchorOverdue);
        assert!(alert.text.contains("no rpc answers"), "{}", alert.text);
        let standing = [Alert { id: 3, ..alert.clone() }];
        assert_eq!(alarms.judge(&later, &standing), [], "told once");
        assert_eq!(alarms.judge(&in_time, &standing), [Act::Clear(3)]);
    }

    #[test]
    fn each_nonce_that_somebody_takes_is_an_occasion_of_its_own() {
        let anchor = example::queued(1);
        let occasion = |nonce, after| rival(&anchor, nonce, NOW.plus(after)).occasion;
        assert_eq!(occasion(3, HOUR), occasion(3, HOUR * 2), "a crash repeats it");
        assert_ne!(occasion(3, HOUR), occasion(4, HOUR));
        assert!(rival(&anchor, 3, NOW).text.contains("with nonce 3."));
    }

    #[test]
    fn a_low_balance_is_told_until_it_is_well_again() {
        let mut alarms = Alarms::default();
        let with = |days: u128| Seen { anchors_left: Some(days * 4), ..seen() };
        assert_eq!(alarms.judge(&with(13), &[]), [], "fees may leap for minutes");
        let later = |days| Seen { now_ms: 1_000_000 + LOW_MS, ..with(days) };
        let acts = alarms.judge(&later(13), &[]);
        assert_eq!(kinds(&acts), [AlertKind::AnchorFundsLow]);
        let [Act::Raise(alert_of_it)] = &acts[..] else { panic!("{acts:?}") };
        assert!(alert_of_it.text.contains("pays 52 anchors"), "{}", alert_of_it.text);
        assert_eq!(alarms.judge(&later(14), &[]), []);
        assert_eq!(alarms.judge(&later(13), &[]), [], "it was well in between");
        let standing = [Alert { id: 4, ..alert(AlertKind::AnchorFundsLow, NOW, NOW, String::new()) }];
        assert_eq!(alarms.judge(&with(21), &standing), []);
        assert_eq!(alarms.judge(&seen(), &standing), [], "an unknown balance says nothing");
        assert_eq!(alarms.judge(&with(22), &standing), [Act::Clear(4)]);
    }

    #[test]
    fn a_balance_that_pays_next_to_nothing_is_told_at_once() {
        let with = |anchors| Seen { anchors_left: Some(anchors), ..seen() };
        assert_eq!(Alarms::default().judge(&with(3), &[]), []);
        assert_eq!(kinds(&Alarms::default().judge(&with(2), &[])), [AlertKind::AnchorFundsLow]);
    }
}
