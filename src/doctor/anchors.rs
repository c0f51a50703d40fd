//! Anchors: the chain, its nodes, the account, and what is not anchored yet.

use super::Finding;
use super::daemon::unseen;
use super::facts::{AnchorFacts, Anchors, Facts};
use super::said::{ago, lasted};
use crate::model::{Anchor, AnchorState, Anchored, Timestamp, WaitReason};

const ANCHOR: &str = "anchor";
/// Money for fewer days is to be brought soon.
const DAYS: u64 = 30;
/// So long after it was due, it is late.
const LATE_MS: i64 = 3_600_000;

pub fn anchors(facts: &Facts) -> Vec<Finding> {
    let status = "see `meterseal anchor status`; docs/anchors.md leads through it";
    match &facts.anchors {
        Anchors::Absent if facts.setup.is_none() => Vec::new(),
        Anchors::Absent => vec![Finding::ok(ANCHOR, "", "none is configured".to_owned())],
        Anchors::Off(why) => vec![match unseen(why, facts) {
            Some(remedy) => Finding::look(ANCHOR, "", why.clone(), remedy),
            None => Finding::broken(ANCHOR, "", why.clone(), status),
        }],
        Anchors::Unknown(why) => vec![Finding::look(ANCHOR, "", format!("nothing is known: {why}"), status)],
        Anchors::Known(known) => {
            let mut all = vec![whole(known, facts.now)];
            all.push(balance(known, facts.now));
            all.extend(nodes(known, facts.now));
            all
        }
    }
}

fn whole(known: &AnchorFacts, now: Timestamp) -> Finding {
    let chain = known.status.chain_id;
    let newest = known.anchors.iter().find(|anchor| anchor.state == AnchorState::Final && is_of_log(anchor));
    let newest = match newest {
        Some(Anchor { what: Anchored::Checkpoint { size, .. }, since, .. }) => {
            format!("{size} entries of the log are final since {}", ago(*since, now))
        }
        _ => "nothing is final yet".to_owned(),
    };
    let found = format!("chain {chain}: {newest}");
    if let Some(waiting) = &known.status.waiting {
        let found = format!("{found}; all has waited for {}: {}", lasted(waiting.since, now), waiting.text);
        return Finding::broken(ANCHOR, "", found, what_to_do(waiting.reason));
    }
    let stuck = known.anchors.iter().filter(|anchor| is_of_log(anchor)).find_map(|anchor| anchor.waiting.as_ref());
    if let Some(waiting) = stuck {
        let found = format!("{found}; one has been stuck for {}: {}", lasted(waiting.since, now), waiting.text);
        return Finding::look(ANCHOR, "", found, what_to_do(waiting.reason));
    }
    match known.status.next.filter(|next| now.millis_since(*next) > LATE_MS) {
        Some(next) => {
            let found = format!("{found}; the next one was due {}", ago(next, now));
            Finding::look(ANCHOR, "", found, "`meterseal anchor now` says what it waits for")
        }
        None => Finding::ok(ANCHOR, "", found),
    }
}

fn is_of_log(anchor: &Anchor) -> bool {
    matches!(anchor.what, Anchored::Checkpoint { .. })
}

fn what_to_do(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Unreachable => "is the line up? `curl -v URL` of a node in anchor.rpc; name a second one there",
        WaitReason::WrongChain => "anchor.chain_id and anchor.rpc do not fit together: mend the config, and reload",
        WaitReason::FeeCeiling => "wait for lower fees, or raise anchor.max_fee_gwei, and reload",
        WaitReason::Budget => "wait a day, or raise anchor.daily_budget, and reload",
        WaitReason::Funds => "send coins to the account that `meterseal anchor status` names",
        WaitReason::Contract => {
            "is anchor.contract right? `meterseal anchor deploy` makes one; without it call data is used"
        }
        WaitReason::Disagreement => "take out the node that lies, or name a third one in anchor.rpc, and reload",
        WaitReason::Nonce => "somebody else signs with this key: give each gateway one of its own (docs/anchors.md)",
        WaitReason::Refused | WaitReason::Reverted => "see `meterseal anchor status`, and docs/anchors.md",
    }
}

fn balance(known: &AnchorFacts, now: Timestamp) -> Finding {
    let (Some((wei, at)), Some(held)) = (known.status.balance, &known.balance) else {
        let found = "is not known yet".to_owned();
        return Finding::look(
            ANCHOR,
            "balance",
            found,
            "no node has told it: see `meterseal anchor status` in a minute",
        );
    };
    let price = known.anchors.iter().find_map(|anchor| anchor.inclusion.as_ref());
    let price = price.map(|mined| u128::from(mined.gas_used).saturating_mul(mined.price)).filter(|price| *price > 0);
    let pays = price.map_or_else(String::new, |price| format!(", pays for {} anchors at the last price", wei / price));
    let lasts = known.status.days_left.map_or_else(String::new, |days| format!(", {days} days at the present rate"));
    let found = format!("{held}{pays}{lasts} (asked {})", ago(at, now));
    let remedy = match known.status.account {
        Some(account) => format!("send coins to {account}"),
        None => "send coins to the account that `meterseal anchor status` names".to_owned(),
    };
    match known.status.days_left {
        _ if wei == 0 => Finding::broken(ANCHOR, "balance", found, remedy),
        Some(days) if days < DAYS => Finding::look(ANCHOR, "balance", found, remedy),
        _ => Finding::ok(ANCHOR, "balance", found),
    }
}

fn nodes(known: &AnchorFacts, now: Timestamp) -> Vec<Finding> {
    let all = &known.status.rpcs;
    let one_works = all.iter().any(|node| node.trouble.is_none() && node.answered.is_some());
    let mut found = Vec::new();
    for node in all {
        let answered = node.answered.map_or("never answered".to_owned(), |at| format!("answered {}", ago(at, now)));
        let height = node.height.map_or_else(String::new, |height| format!(", height {height}"));
        found.push(match &node.trouble {
            None => Finding::ok(ANCHOR, &node.name, format!("{answered}{height}")),
            Some(trouble) => {
                let (text, remedy) = (
                    format!("{answered}{height}: {trouble}"),
                    "try it by hand (`curl -v URL`), or name another one in anchor.rpc",
                );
                if one_works {
                    Finding::look(ANCHOR, &node.name, text, remedy)
                } else {
                    Finding::broken(ANCHOR, &node.name, text, remedy)
                }
            }
        });
    }
    if let [only] = all.as_slice() {
        let text = "it is the only node: while it is away, or lies, nothing is anchored".to_owned();
        let subject = format!("{} alone", only.name);
        found.push(Finding::look(
            ANCHOR,
            &subject,
            text,
            "name a second one of somebody else in anchor.rpc, and reload",
        ));
    }
    if let Some(late) =
        all.iter().filter_map(|node| node.answered).max().filter(|at| now.millis_since(*at) > 24 * LATE_MS)
    {
        let text = format!("no node has answered for {}", lasted(late, now));
        found.push(Finding::broken(ANCHOR, "nodes", text, what_to_do(WaitReason::Unreachable)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State::{Broken, Look, Ok};
    use crate::doctor::tests::{NOW, healthy, told};
    use crate::model::{AnchorStatus, RpcStatus, Waiting};

    fn node(name: &str, trouble: Option<&str>) -> RpcStatus {
        let trouble = trouble.map(str::to_owned);
        RpcStatus { name: name.to_owned(), height: Some(9), finalized: None, answered: Some(NOW), trouble }
    }

    fn with(change: impl FnOnce(&mut AnchorFacts)) -> Facts {
        let status = AnchorStatus {
            chain_id: 137,
            balance: Some((1_000, NOW)),
            days_left: Some(400),
            next: Some(NOW.plus_millis(1_000)),
            rpcs: vec![node("a", None), node("b", None)],
            ..AnchorStatus::default()
        };
        let mut known = AnchorFacts { status, balance: Some("0.5 POL".to_owned()), anchors: Vec::new() };
        change(&mut known);
        Facts { anchors: Anchors::Known(Box::new(known)), ..healthy() }
    }

    #[test]
    fn what_holds_up_anchors_has_its_remedy() {
        assert_eq!(told(&with(|_| ()), "anchor", ""), (Ok, "chain 137: nothing is final yet".to_owned()));
        for (reason, remedy) in [
            (WaitReason::Unreachable, "is the line up?"),
            (WaitReason::WrongChain, "anchor.chain_id"),
            (WaitReason::FeeCeiling, "anchor.max_fee_gwei"),
            (WaitReason::Budget, "anchor.daily_budget"),
            (WaitReason::Funds, "send coins"),
            (WaitReason::Contract, "anchor.contract"),
            (WaitReason::Disagreement, "that lies"),
            (WaitReason::Nonce, "somebody else signs"),
        ] {
            let waiting = Waiting { reason, text: "so it is".to_owned(), since: NOW.plus_millis(-300_000) };
            let (state, text) = told(&with(|known| known.status.waiting = Some(waiting)), "anchor", "");
            assert!(state == Broken && text.contains("all has waited for 5 min: so it is -> "), "{text}");
            assert!(text.split_once(" -> ").unwrap().1.contains(remedy), "{text}");
        }
        let late = with(|known| known.status.next = Some(NOW.plus_millis(-2 * LATE_MS)));
        assert!(told(&late, "anchor", "").0 == Look && told(&late, "anchor", "").1.contains("was due 2 h ago"));
    }

    #[test]
    fn an_account_that_cannot_pay_for_long_names_where_to_send_coins() {
        let (state, text) = told(&with(|_| ()), "anchor", "balance");
        assert_eq!((state, text.as_str()), (Ok, "0.5 POL, 400 days at the present rate (asked 0 s ago)"));
        let few = with(|known| known.status.days_left = Some(3));
        assert!(
            told(&few, "anchor", "balance").0 == Look && told(&few, "anchor", "balance").1.contains("send coins to")
        );
        assert_eq!(told(&with(|known| known.status.balance = Some((0, NOW))), "anchor", "balance").0, Broken);
        assert_eq!(told(&with(|known| known.status.balance = None), "anchor", "balance").0, Look);
    }

    #[test]
    fn nodes_are_told_one_by_one() {
        let one = with(|known| known.status.rpcs[1] = node("b", Some("is of another chain")));
        assert_eq!((told(&one, "anchor", "a").0, told(&one, "anchor", "b").0), (Ok, Look));
        let (state, text) = told(&with(|known| known.status.rpcs = vec![node("a", Some("no answer"))]), "anchor", "a");
        assert!(state == Broken && text.starts_with("answered 0 s ago, height 9: no answer -> "), "{text}");
        assert_eq!(told(&with(|known| drop(known.status.rpcs.pop())), "anchor", "a alone").0, Look);
        let gone = with(|known| {
            known.status.rpcs.iter_mut().for_each(|node| node.answered = Some(NOW.plus_millis(-100_000_000)))
        });
        assert!(told(&gone, "anchor", "nodes").1.starts_with("no node has answered for 27 h"));
    }

    #[test]
    fn one_that_is_off_or_absent_is_told() {
        let of = |anchors| told(&Facts { anchors, ..healthy() }, "anchor", "");
        assert_eq!(of(Anchors::Absent), (Ok, "none is configured".to_owned()));
        assert_eq!(of(Anchors::Off("no key".to_owned())).0, Broken);
        assert_eq!(of(Anchors::Unknown("the store is closed".to_owned())).0, Look);
    }
}
