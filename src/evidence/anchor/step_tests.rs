use proptest::prelude::*;

use super::super::example::{self, GWEI, NOW};
use super::super::fees::Budget;
use super::*;

fn market() -> Market {
    Market { height: 100, base_fee: 20 * GWEI, tip: GWEI, nonce: 4, pending: 4, balance: u128::from(u64::MAX) }
}

fn view() -> View {
    View {
        market: Ok(market()),
        answering: 2,
        known_by: 2,
        found: Found::Nowhere,
        denial: Denial::Unasked,
        standing: Standing::Unknown,
        finalized: Some(90),
        configured: 2,
        counted: counted([4, 4]),
        cost: Cost::Gas(24_000),
    }
}

fn counted(counts: [u64; 2]) -> Vec<(String, u64)> {
    ["http://one", "http://other"].map(String::from).into_iter().zip(counts).collect()
}

/// When these tests are, ms since boot.
const AT: u64 = 100_000_000;

fn seen() -> Seen {
    Seen { now_ms: AT, since: Some((AT - 1_000, 100)), sent_ms: Some(AT - 1_000), ..Seen::default() }
}

fn terms() -> Terms {
    let budget = Budget { daily: GWEI * GWEI, left: GWEI * GWEI, more: None };
    Terms {
        limits: Limits { chain_id: 137, max_fee: 300 * GWEI, budget },
        every: Duration::from_secs(6 * 3_600),
        next_nonce: 4,
        can_sign: true,
        is_taken: false,
    }
}

fn next(anchor: &Anchor, view: &View, seen: &Seen) -> Step {
    step(anchor, view, seen, &terms(), NOW)
}

fn reason(step: &Step) -> Option<WaitReason> {
    match step {
        Step::Wait(trouble) => Some(trouble.reason),
        _ => None,
    }
}

fn silent() -> View {
    let trouble = Trouble { reason: WaitReason::Unreachable, text: "nobody answers".into() };
    View { market: Err(trouble), answering: 0, known_by: 0, cost: Cost::Unknown, ..view() }
}

#[test]
fn a_queued_one_is_signed_with_the_next_nonce() {
    let price = Price { max_fee: 70 * GWEI, tip: 30 * GWEI };
    assert_eq!(
        next(&example::queued(1), &view(), &seen()),
        Step::Sign { nonce: 4, price, gas_limit: 30_000, height: 100 }
    );
    let ahead = Terms { next_nonce: 9, ..terms() };
    let signed = step(&example::queued(1), &view(), &seen(), &ahead, NOW);
    assert!(matches!(signed, Step::Sign { nonce: 9, .. }), "a node that lags is not believed: {signed:?}");
    let behind = Terms { next_nonce: 0, ..terms() };
    assert!(matches!(step(&example::queued(1), &view(), &seen(), &behind, NOW), Step::Sign { nonce: 4, .. }));
}

#[test]
fn nothing_is_signed_beside_another_that_is_on_its_way() {
    let terms = Terms { is_taken: true, ..terms() };
    assert_eq!(step(&example::queued(1), &view(), &seen(), &terms, NOW), Step::Rest);
}

#[test]
fn a_queued_one_waits_with_its_reason() {
    let queued = example::queued(1);
    let with = |market: Market| View { market: Ok(market), ..view() };
    let cost = |cost| View { cost, ..view() };
    let cases = [
        (silent(), WaitReason::Unreachable),
        (with(Market { base_fee: 280 * GWEI, ..market() }), WaitReason::FeeCeiling),
        (with(Market { balance: 1_000_000 * GWEI, ..market() }), WaitReason::Funds),
        (cost(Cost::Refused("no code".into())), WaitReason::Contract),
        (cost(Cost::Gas(90_000)), WaitReason::Contract),
        (cost(Cost::Unknown), WaitReason::Unreachable),
    ];
    for (view, expected) in cases {
        assert_eq!(reason(&next(&queued, &view, &seen())), Some(expected), "{view:?}");
    }
    let mut poor = terms();
    poor.limits.budget.left = 1_000_000 * GWEI;
    assert_eq!(reason(&step(&queued, &view(), &seen(), &poor, NOW)), Some(WaitReason::Budget));
}

#[test]
fn after_a_failure_nothing_is_paid_before_its_time() {
    let mut failed = example::queued(1);
    failed.failed.push(Failed { transaction: example::hash(1), height: 7, at: NOW, fee: 5 });
    let at = |now| step(&failed, &view(), &seen(), &terms(), now);
    assert_eq!(reason(&at(NOW.plus(Duration::from_secs(60)))), Some(WaitReason::Reverted));
    assert!(matches!(at(NOW.plus(terms().every)), Step::Sign { .. }));
    assert!(matches!(at(NOW.minus(terms().every * 9)), Step::Sign { .. }), "the clock went back");
}

#[test]
fn what_was_never_sent_is_sent_whatever_else_there_is() {
    let none = Seen { sent_ms: None, since: None, ..seen() };
    let unknown = View { known_by: 0, ..view() };
    assert_eq!(next(&example::signed(4), &unknown, &none), Step::Send);
    assert_eq!(next(&example::sent(4), &unknown, &none), Step::Send, "after a restart");
    assert_eq!(next(&example::sent(4), &view(), &none), Step::Rest, "all nodes know it");
    assert_eq!(reason(&next(&example::signed(4), &silent(), &none)), Some(WaitReason::Unreachable));
}

#[test]
fn a_receipt_comes_before_all_else() {
    let mined = Found::Mined { inclusion: example::inclusion(4), evidence: None };
    for anchor in [example::signed(4), example::sent(4)] {
        for state in [AnchorState::Signed, AnchorState::Sent, AnchorState::Reorganised] {
            let anchor = Anchor { state, ..anchor.clone() };
            let view = View { found: mined.clone(), ..silent() };
            assert_eq!(
                next(&anchor, &view, &seen()),
                Step::Include { inclusion: example::inclusion(4), evidence: None }
            );
        }
    }
}

#[test]
fn what_reverted_counts_when_it_is_final() {
    let failed = Failed { transaction: example::hash(4), height: 90, at: NOW, fee: 5 };
    let with = |is_final| View { found: Found::Reverted { failed: failed.clone(), is_final }, ..view() };
    assert_eq!(reason(&next(&example::sent(4), &with(false), &seen())), Some(WaitReason::Reverted));
    assert_eq!(next(&example::sent(4), &with(true), &seen()), Step::Fail(failed.clone()));
}

#[test]
fn a_dearer_one_keeps_nonce_and_gas() {
    let stuck = Seen { since: Some((AT - STUCK_MS, 95)), ..seen() };
    let price = Price { max_fee: 78_750_000_000, tip: 33_750_000_000 };
    let dearer = Step::Sign { nonce: 4, price, gas_limit: 30_000, height: 100 };
    assert_eq!(next(&example::sent(4), &view(), &stuck), dearer);
    let halted = Seen { since: Some((AT - STUCK_MS, 100)), ..seen() };
    assert_eq!(next(&example::sent(4), &view(), &halted), Step::Rest, "no heights come: it is not the price");
    let leapt = View { market: Ok(Market { base_fee: 60 * GWEI, ..market() }), ..view() };
    let Step::Sign { nonce: 4, price, .. } = next(&example::sent(4), &leapt, &seen()) else { panic!("not at once") };
    assert_eq!(price.max_fee, 120 * GWEI + price.tip);
}

#[test]
fn a_dearer_one_keeps_within_the_limits_and_needs_the_key() {
    let leapt = View { market: Ok(Market { base_fee: 400 * GWEI, ..market() }), ..view() };
    assert_eq!(reason(&next(&example::sent(4), &leapt, &seen())), Some(WaitReason::FeeCeiling));
    let again = Seen { sent_ms: Some(AT - SPREAD_AGAIN_MS), ..seen() };
    let forgotten = View { known_by: 0, ..leapt };
    assert_eq!(next(&example::sent(4), &forgotten, &again), Step::Send, "what there is goes on being sent");
    let stuck = Seen { since: Some((AT - STUCK_MS, 95)), ..seen() };
    let keyless = Terms { can_sign: false, ..terms() };
    assert_eq!(reason(&step(&example::sent(4), &view(), &stuck, &keyless, NOW)), Some(WaitReason::Refused));
}

#[test]
fn somebody_elses_transaction_that_waits_is_outbid() {
    let held = View { known_by: 0, market: Ok(Market { pending: 5, ..market() }), ..view() };
    let refused = Seen { refused: Some("replacement transaction underpriced".into()), ..seen() };
    assert_eq!(reason(&next(&example::signed(4), &held, &refused)), Some(WaitReason::Nonce));
    let later = Seen { since: Some((AT - OUTBID_MS, 100)), ..refused };
    assert!(matches!(next(&example::signed(4), &held, &later), Step::Sign { nonce: 4, .. }));
}

#[test]
fn a_refusal_is_told_by_what_is_known_not_by_its_words() {
    let refused = Seen { refused: Some("insufficient funds".into()), ..seen() };
    let nobody = View { known_by: 0, ..view() };
    assert_eq!(reason(&next(&example::signed(4), &nobody, &refused)), Some(WaitReason::Refused));
    let poor = View { market: Ok(Market { balance: 5, ..market() }), ..nobody };
    assert_eq!(reason(&next(&example::signed(4), &poor, &refused)), Some(WaitReason::Funds));
    assert_eq!(next(&example::sent(4), &view(), &refused), Step::Rest, "nodes know it");
}

/// All that is needed to give a nonce up.
fn lost() -> (View, Overtaken) {
    let market = Ok(Market { nonce: 5, pending: 5, ..market() });
    let view = View { market, known_by: 0, denial: Denial::Whole, finalized: Some(100), ..view() };
    let overtaken = Overtaken {
        since_ms: AT - OVERTAKEN_MS,
        height: 100,
        asked_ms: Some(AT),
        denied_ms: Some(AT - OVERTAKEN_MS),
        looks: OVERTAKEN_LOOKS,
        why: None,
    };
    (view, overtaken)
}

#[test]
fn a_nonce_is_given_up_only_when_all_deny_it_for_hours_and_its_other_use_is_final() {
    let (used, overtaken) = lost();
    let with = |overtaken: &Overtaken| Seen { overtaken: Some(overtaken.clone()), ..seen() };
    let sent = example::sent(4);
    assert_eq!(next(&sent, &used, &seen()), Step::Rest);
    assert_eq!(next(&sent, &used, &with(&overtaken)), Step::GiveUpNonce);
    for less in [
        Overtaken { denied_ms: Some(AT - OVERTAKEN_MS + 1), ..overtaken.clone() },
        Overtaken { denied_ms: None, ..overtaken.clone() },
        Overtaken { height: 101, ..overtaken.clone() },
        Overtaken { looks: OVERTAKEN_LOOKS - 1, ..overtaken.clone() },
    ] {
        assert_eq!(reason(&next(&sent, &used, &with(&less))), Some(WaitReason::Nonce), "{less:?}");
    }
    for less in [
        View { known_by: 1, ..used.clone() },
        View { answering: 1, ..used.clone() },
        View { finalized: None, ..used.clone() },
        View { denial: Denial::Unasked, ..used.clone() },
        View { denial: Denial::Known("one knows it".into()), ..used.clone() },
        View { denial: Denial::Partial("one is silent".into()), ..used.clone() },
    ] {
        assert_eq!(reason(&next(&sent, &less, &with(&overtaken))), Some(WaitReason::Nonce), "{less:?}");
    }
    let unproven = View { found: Found::Unproven("no proof".into()), ..used };
    assert_eq!(reason(&next(&sent, &unproven, &with(&overtaken))), Some(WaitReason::Disagreement));
}

#[test]
fn what_was_given_up_is_looked_for_before_anything_else_is_signed() {
    let anchor = Anchor { state: AnchorState::Queued, ..example::sent(4).give_up() };
    let with = |found, denial| next(&anchor, &View { found, denial, ..view() }, &Seen::default());
    let mined = Found::Mined { inclusion: example::inclusion(4), evidence: None };
    let include = Step::Include { inclusion: example::inclusion(4), evidence: None };
    assert_eq!(with(mined, Denial::Unasked), include);
    assert_eq!(anchor.taken_back(example::inclusion(4).transaction).unwrap().attempts, example::sent(4).attempts);
    let failed = Failed { transaction: example::hash(4), height: 90, at: NOW, fee: 5 };
    let reverted = |is_final| Found::Reverted { failed: failed.clone(), is_final };
    assert_eq!(with(reverted(true), Denial::Unasked), Step::Fail(failed.clone()));
    assert_eq!(reason(&with(reverted(false), Denial::Unasked)), Some(WaitReason::Reverted));
    assert_eq!(reason(&with(Found::Unproven("no proof".into()), Denial::Unasked)), Some(WaitReason::Disagreement));
    assert_eq!(reason(&with(Found::Nowhere, Denial::Known("one knows it".into()))), Some(WaitReason::Nonce));
    assert_eq!(reason(&with(Found::Nowhere, Denial::Partial("one is silent".into()))), Some(WaitReason::Nonce));
    assert!(matches!(with(Found::Nowhere, Denial::Whole), Step::Sign { .. }));
    let elsewhere = Anchor { chain_id: 80_002, ..anchor.clone() };
    assert!(matches!(next(&elsewhere, &view(), &Seen::default()), Step::Sign { .. }), "it cannot land there");
    assert_eq!(reason(&next(&anchor, &silent(), &Seen::default())), Some(WaitReason::Unreachable));
}

#[test]
fn a_count_above_our_own_must_be_agreed_on() {
    let with = |counts: &[u64], configured| {
        let counted: Vec<_> = counted([counts[0], counts[counts.len() - 1]]).into_iter().take(counts.len()).collect();
        let nonce = *counts.iter().min().unwrap();
        next(
            &example::queued(1),
            &View { market: Ok(Market { nonce, ..market() }), counted, configured, ..view() },
            &seen(),
        )
    };
    assert!(matches!(with(&[4, 2], 2), Step::Sign { nonce: 4, .. }), "our own count decides");
    assert!(matches!(with(&[3], 2), Step::Sign { nonce: 4, .. }));
    assert!(matches!(with(&[9, 9], 3), Step::Sign { nonce: 9, .. }));
    assert!(matches!(with(&[9], 1), Step::Sign { nonce: 9, .. }), "there is no other");
    assert_eq!(reason(&with(&[9], 2)), Some(WaitReason::Nonce));
    assert_eq!(reason(&with(&[4, 9], 2)), Some(WaitReason::Disagreement));
}

#[test]
fn one_that_a_node_took_is_not_outbid_for_being_unknown() {
    let held = View { known_by: 0, market: Ok(Market { pending: 5, ..market() }), ..view() };
    let refused = Seen { refused: Some("already known".into()), since: Some((AT - OUTBID_MS, 100)), ..seen() };
    assert!(!matches!(next(&example::sent(4), &held, &refused), Step::Sign { .. }), "it is our own that waits");
}

#[test]
fn a_good_one_that_is_stuck_under_the_ceiling_is_left_alone() {
    let stuck = Seen { since: Some((AT - STUCK_MS, 95)), ..seen() };
    let mut low = terms();
    low.limits.max_fee = 75 * GWEI;
    assert_eq!(step(&example::sent(4), &view(), &stuck, &low, NOW), Step::Rest, "1.125 times 70 gwei is above it");
    let leapt = View { market: Ok(Market { base_fee: 60 * GWEI, ..market() }), ..view() };
    let Step::Wait(trouble) = step(&example::sent(4), &leapt, &stuck, &low, NOW) else { panic!("it cannot be mined") };
    assert_eq!(trouble.reason, WaitReason::FeeCeiling);
    assert!(trouble.text.contains("one in its place takes 93.75 gwei"), "{}", trouble.text);
}

#[test]
fn a_clock_that_was_set_back_makes_no_loop() {
    for back in [1, 3_600, 86_400 * 17, 86_400 * 3_650].map(Duration::from_secs) {
        let now = NOW.minus(back);
        let anchor = Anchor { state: AnchorState::Final, since: NOW, next_check: Some(NOW), ..example::included(4) };
        let sure = View { standing: Standing::Final, ..view() };
        let next_check = match step(&anchor, &sure, &seen(), &terms(), now) {
            Step::Check { next_check } => next_check,
            Step::Rest => anchor.next_check,
            other => panic!("{other:?}"),
        };
        let anchor = Anchor { next_check, ..anchor };
        assert!(next_check.is_some() && !is_to_be_checked(&anchor, now), "{back:?} {next_check:?}");
    }
}

#[test]
fn a_nonce_below_ours_is_waited_for() {
    let behind = View { market: Ok(Market { nonce: 2, pending: 2, ..market() }), ..view() };
    assert_eq!(next(&example::sent(4), &behind, &seen()), Step::Rest);
    let long = Seen { since: Some((AT - STUCK_MS, 50)), ..seen() };
    assert_eq!(reason(&next(&example::sent(4), &behind, &long)), Some(WaitReason::Nonce), "and never outbid");
}

#[test]
fn an_included_one_goes_by_what_the_chain_says_of_its_block() {
    let at = |standing| next(&example::included(4), &View { standing, ..view() }, &seen());
    assert_eq!(at(Standing::There), Step::Rest);
    assert_eq!(at(Standing::Unknown), Step::Rest, "null is not gone");
    assert_eq!(at(Standing::Gone), Step::Reorganise);
    assert_eq!(reason(&at(Standing::Contradiction("x".into()))), Some(WaitReason::Disagreement));
    assert_eq!(at(Standing::Final), Step::Finalise { next_check: Some(NOW.plus(Duration::from_secs(60))) });
}

#[test]
fn a_final_one_is_looked_at_eight_times_more() {
    let mut anchor = Anchor { state: AnchorState::Final, since: NOW, ..example::included(4) };
    let (mut looks, mut at) = (0, NOW.plus(CHECKS[0]));
    loop {
        anchor.next_check = Some(at);
        let before = at.plus_millis(-1);
        let seen_final = View { standing: Standing::Final, ..view() };
        assert_eq!(step(&anchor, &seen_final, &seen(), &terms(), before), Step::Rest);
        let Step::Check { next_check } = step(&anchor, &seen_final, &seen(), &terms(), at) else { panic!("{at}") };
        looks += 1;
        let Some(next) = next_check else { break };
        at = next;
    }
    assert_eq!((looks, at), (8, NOW.plus(CHECKS[7])));
    let gone = View { standing: Standing::Gone, ..view() };
    assert_eq!(step(&anchor, &gone, &seen(), &terms(), at), Step::Reorganise);
    let set_back = NOW.minus(Duration::from_secs(86_400 * 365));
    assert_eq!(step(&anchor, &gone, &seen(), &terms(), set_back), Step::Reorganise, "the clock was set back");
}

fn any_found() -> impl Strategy<Value = Found> {
    let failed = Failed { transaction: example::hash(4), height: 90, at: NOW, fee: 5 };
    prop_oneof![
        6 => Just(Found::Nowhere),
        1 => Just(Found::Mined { inclusion: example::inclusion(4), evidence: None }),
        1 => any::<bool>().prop_map(move |is_final| Found::Reverted { failed: failed.clone(), is_final }),
        1 => Just(Found::Contradiction("two hashes".into())),
        1 => Just(Found::Unproven("no proof".into())),
    ]
}

fn any_view() -> impl Strategy<Value = View> {
    let market = (0..9_u64, 0..3_u64, 0..400_u128, 0..u128::from(u64::MAX)).prop_map(|(nonce, more, fee, balance)| {
        Market { height: 100, base_fee: fee * GWEI, tip: GWEI, nonce, pending: nonce + more, balance }
    });
    let standing = prop::sample::select(vec![Standing::Unknown, Standing::There, Standing::Final, Standing::Gone]);
    (prop::option::of(market), 0..3_usize, any_found(), standing, 0..200_u64).prop_map(
        |(market, known_by, found, standing, finalized)| View {
            market: market.ok_or_else(|| silent().market.unwrap_err()),
            known_by,
            found,
            standing,
            finalized: Some(finalized),
            ..view()
        },
    )
}

fn any_anchor() -> impl Strategy<Value = Anchor> {
    prop::sample::select(AnchorState::ALL.to_vec()).prop_map(|state| match state {
        AnchorState::Queued => Anchor { state, ..example::sent(4).give_up() },
        _ => Anchor { state, next_check: Some(NOW), ..example::included(4) },
    })
}

proptest! {
    /// What would make two transactions land, or lose one that did.
    #[test]
    fn no_step_can_anchor_twice(
        anchor in any_anchor(), view in any_view(), is_taken: bool, next_nonce in 0..9_u64, waited in 0..99_999_999_u64,
        refused: bool, is_denied: bool,
    ) {
        let overtaken = Some(Overtaken {
            since_ms: AT - waited,
            height: 50,
            denied_ms: Some(AT - waited),
            looks: 99,
            ..Overtaken::default()
        });
        let seen = Seen {
            overtaken,
            since: Some((AT - waited, 50)),
            sent_ms: Some(AT - waited),
            refused: refused.then(String::new),
            ..seen()
        };
        let terms = Terms { is_taken, next_nonce, ..terms() };
        let denial = if is_denied { Denial::Whole } else { Denial::Partial("one is silent".into()) };
        let view = View { denial, ..view };
        match step(&anchor, &view, &seen, &terms, NOW) {
            Step::Sign { nonce, price, gas_limit, .. } => {
                prop_assert!(price.max_fee <= terms.limits.max_fee && price.tip <= price.max_fee);
                if anchor.state == AnchorState::Queued {
                    prop_assert!(!is_taken && nonce >= next_nonce);
                    prop_assert!(anchor.given_up.is_empty() || (is_denied && view.found == Found::Nowhere));
                } else {
                    prop_assert!(anchor.state.is_outstanding());
                    let is_open = matches!(view.found, Found::Nowhere | Found::Unproven(_));
                    prop_assert!(is_open, "it is mined already");
                    let before = &anchor.attempts[0];
                    prop_assert_eq!((nonce, gas_limit), (before.nonce, before.gas_limit));
                    prop_assert!(price.max_fee > before.max_fee && price.tip > before.tip);
                }
            }
            Step::Send => prop_assert!(anchor.state.is_outstanding()),
            Step::Include { .. } => prop_assert!(matches!(view.found, Found::Mined { .. }), "nothing is mined"),
            Step::Finalise { .. } => prop_assert_eq!(view.standing, Standing::Final),
            Step::Check { .. } => prop_assert_eq!(anchor.state, AnchorState::Final),
            Step::Reorganise => prop_assert_eq!(view.standing, Standing::Gone),
            Step::Fail(_) => {
                prop_assert!(matches!(view.found, Found::Reverted { is_final: true, .. }), "it could still land");
            }
            Step::GiveUpNonce => {
                let used = view.market.as_ref().is_ok_and(|market| market.nonce > anchor.attempts[0].nonce);
                prop_assert!(used && view.known_by == 0 && view.found == Found::Nowhere);
                prop_assert!(view.finalized >= Some(50) && waited >= OVERTAKEN_MS && is_denied);
            }
            Step::Wait(_) | Step::Rest => {}
        }
    }
}
