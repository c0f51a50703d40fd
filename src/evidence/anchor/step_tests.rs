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
        standing: Standing::Unknown,
        finalized: Some(90),
        cost: Cost::Gas(24_000),
    }
}

fn seen() -> Seen {
    Seen {
        now_ms: 1_000_000,
        since: Some((999_000, 100)),
        sent_ms: Some(999_000),
        refused: None,
        unsent: None,
        overtaken: None,
    }
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
    assert_eq!(next(&example::queued(1), &view(), &seen()), Step::Sign { nonce: 4, price, gas_limit: 30_000 });
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
    let stuck = Seen { since: Some((1_000_000 - STUCK_MS, 95)), ..seen() };
    let price = Price { max_fee: 78_750_000_000, tip: 33_750_000_000 };
    let dearer = Step::Sign { nonce: 4, price, gas_limit: 30_000 };
    assert_eq!(next(&example::sent(4), &view(), &stuck), dearer);
    let halted = Seen { since: Some((1_000_000 - STUCK_MS, 100)), ..seen() };
    assert_eq!(next(&example::sent(4), &view(), &halted), Step::Rest, "no heights come: it is not the price");
    let leapt = View { market: Ok(Market { base_fee: 60 * GWEI, ..market() }), ..view() };
    let Step::Sign { nonce: 4, price, .. } = next(&example::sent(4), &leapt, &seen()) else { panic!("not at once") };
    assert_eq!(price.max_fee, 120 * GWEI + price.tip);
}

#[test]
fn a_dearer_one_keeps_within_the_limits_and_needs_the_key() {
    let leapt = View { market: Ok(Market { base_fee: 400 * GWEI, ..market() }), ..view() };
    assert_eq!(reason(&next(&example::sent(4), &leapt, &seen())), Some(WaitReason::FeeCeiling));
    let again = Seen { sent_ms: Some(1_000_000 - SPREAD_AGAIN_MS), ..seen() };
    let forgotten = View { known_by: 0, ..leapt };
    assert_eq!(next(&example::sent(4), &forgotten, &again), Step::Send, "what there is goes on being sent");
    let stuck = Seen { since: Some((1_000_000 - STUCK_MS, 95)), ..seen() };
    let keyless = Terms { can_sign: false, ..terms() };
    assert_eq!(reason(&step(&example::sent(4), &view(), &stuck, &keyless, NOW)), Some(WaitReason::Refused));
}

#[test]
fn somebody_elses_transaction_that_waits_is_outbid() {
    let held = View { known_by: 0, market: Ok(Market { pending: 5, ..market() }), ..view() };
    let refused = Seen { refused: Some("replacement transaction underpriced".into()), ..seen() };
    assert_eq!(reason(&next(&example::signed(4), &held, &refused)), Some(WaitReason::Nonce));
    let later = Seen { since: Some((1_000_000 - OUTBID_MS, 100)), ..refused };
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

#[test]
fn a_nonce_is_given_up_only_when_its_other_use_is_final() {
    let market = Ok(Market { nonce: 5, pending: 5, ..market() });
    let used = View { market, known_by: 0, finalized: Some(100), ..view() };
    let overtaken = Overtaken { since_ms: 1_000_000 - OVERTAKEN_MS, height: 100, looks: OVERTAKEN_LOOKS };
    let with = |overtaken| Seen { overtaken, ..seen() };
    let sent = example::sent(4);
    assert_eq!(next(&sent, &used, &with(None)), Step::Rest);
    assert_eq!(next(&sent, &used, &with(Some(overtaken))), Step::GiveUpNonce);
    for less in [
        Overtaken { since_ms: overtaken.since_ms + 1, ..overtaken },
        Overtaken { height: 101, ..overtaken },
        Overtaken { looks: OVERTAKEN_LOOKS - 1, ..overtaken },
    ] {
        assert_eq!(reason(&next(&sent, &used, &with(Some(less)))), Some(WaitReason::Nonce), "{less:?}");
    }
    let known = View { known_by: 1, ..used.clone() };
    assert_eq!(reason(&next(&sent, &known, &with(Some(overtaken)))), Some(WaitReason::Nonce), "it may be mined");
    let unproven = View { found: Found::Unproven("no proof".into()), ..used };
    assert_eq!(reason(&next(&sent, &unproven, &with(Some(overtaken)))), Some(WaitReason::Disagreement));
}

#[test]
fn a_nonce_below_ours_is_waited_for() {
    let behind = View { market: Ok(Market { nonce: 2, pending: 2, ..market() }), ..view() };
    assert_eq!(next(&example::sent(4), &behind, &seen()), Step::Rest);
    let long = Seen { since: Some((1_000_000 - STUCK_MS, 50)), ..seen() };
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
        AnchorState::Queued => example::queued(4),
        _ => Anchor { state, next_check: Some(NOW), ..example::included(4) },
    })
}

proptest! {
    /// What would make two transactions land, or lose one that did.
    #[test]
    fn no_step_can_anchor_twice(
        anchor in any_anchor(), view in any_view(), is_taken: bool, next_nonce in 0..9_u64, waited in 0..400_000_u64,
        refused: bool,
    ) {
        let overtaken = Some(Overtaken { since_ms: 1_000_000 - waited, height: 50, looks: 9 });
        let seen = Seen {
            overtaken,
            since: Some((1_000_000 - waited, 50)),
            sent_ms: Some(1_000_000 - waited),
            refused: refused.then(String::new),
            ..seen()
        };
        let terms = Terms { is_taken, next_nonce, ..terms() };
        match step(&anchor, &view, &seen, &terms, NOW) {
            Step::Sign { nonce, price, gas_limit } => {
                prop_assert!(price.max_fee <= terms.limits.max_fee && price.tip <= price.max_fee);
                if anchor.state == AnchorState::Queued {
                    prop_assert!(!is_taken && nonce >= next_nonce);
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
                prop_assert!(view.finalized >= Some(50) && waited >= OVERTAKEN_MS);
            }
            Step::Wait(_) | Step::Rest => {}
        }
    }
}
