//! Anchors beside a plain list of them: what is read is what was written last, whole, wherever a write was cut.

use alloy_primitives::{Address, B256, Bytes};

use super::*;
use crate::model::proof::AnchoredBy;
use crate::model::{
    Anchor, AnchorState, Anchored, Attempt, ChainEvidence, Coverage, Failed, Inclusion, JobRequest, WaitReason, Waiting,
};
use crate::store::log::cuts::Image;
use crate::store::log::tests::{audit, block, seal, wish};
use crate::store::{JobEnd, Reach};
use entry::Reason;

const EPOCH: &str = "0123456789abcdef";

fn account(n: u8) -> Address {
    Address::repeat_byte(n)
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOON + millis)
}

pub(super) fn checkpoint(epoch: &str, size: u64) -> Anchor {
    let note = format!("origin\n{size}\nroot\n\n— sig\n");
    let what = Anchored::Checkpoint { epoch: epoch.to_owned(), size, note };
    Anchor::queued(what, 137, account(1), None, time(0))
}

fn attempt(nonce: u64, dearer: u64) -> Attempt {
    let tag = nonce << 8 | dearer;
    Attempt {
        hash: B256::left_padding_from(&tag.to_be_bytes()),
        raw: Bytes::from(tag.to_be_bytes().to_vec()),
        nonce,
        max_fee: u128::MAX - u128::from(dearer),
        tip: 30_000_000_000,
        gas_limit: 40_000,
        signed: time(1),
        height: 78_000_000,
        sent: (dearer > 0).then_some(time(2)),
    }
}

fn inclusion(transaction: B256, height: u64) -> Inclusion {
    Inclusion {
        height,
        hash: B256::left_padding_from(&height.to_be_bytes()),
        time: time(3),
        index: 4,
        transaction,
        gas_used: 29_000,
        price: u128::from(u64::MAX) + 1,
    }
}

pub(super) fn evidence(tag: u8) -> ChainEvidence {
    ChainEvidence {
        header: vec![tag; 40],
        index: 4,
        receipt: vec![vec![tag; 5_000]],
        transaction: vec![vec![], vec![tag]],
    }
}

/// An anchor at this state, by the nonce.
pub(super) fn at_state(anchor: Anchor, state: AnchorState, nonce: u64, height: u64) -> Anchor {
    let attempts = if state == AnchorState::Queued { Vec::new() } else { vec![attempt(nonce, 0), attempt(nonce, 1)] };
    let inclusion = matches!(state, AnchorState::Included | AnchorState::Final | AnchorState::Reorganised)
        .then(|| inclusion(attempt(nonce, 1).hash, height));
    Anchor { state, attempts, inclusion, ..anchor }
}

/// Where an anchor may go, and with what; each is a whole record.
#[derive(Clone, Debug)]
enum Step {
    Add { size: u64, epoch: u8, account: u8 },
    Save { which: usize, state: usize, nonce: u64, by: u8, evidence: Option<u8>, height: u64, next_check: bool },
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..40_u64, 0..2_u8, 1..3_u8).prop_map(|(size, epoch, account)| Step::Add { size, epoch, account }),
        9 => (0..12_usize, 0..6_usize, 0..6_u64, 1..3_u8, proptest::option::of(any::<u8>()), 1..4_u64, any::<bool>()).prop_map(
            |(which, state, nonce, by, evidence, height, next_check)| Step::Save { which, state, nonce, by, evidence, height, next_check }
        ),
        1 => Just(Step::Again),
    ];
    proptest::collection::vec(step, 1..40)
}

/// What the store must hold.
#[derive(Default)]
struct Plain {
    anchors: Vec<(Anchor, Option<ChainEvidence>, Timestamp)>,
    /// Every nonce that was signed for, by anchor; not those of an account that the anchor has left.
    signed: Vec<(u64, Address, u64)>,
}

impl Plain {
    fn holder(&self, anchor: &Anchor) -> Option<u64> {
        let nonce = anchor.attempts.first()?.nonce;
        let other = self.anchors.iter().find(|(other, ..)| {
            other.id != anchor.id
                && other.account == anchor.account
                && other.attempts.first().is_some_and(|attempt| attempt.nonce == nonce)
        });
        other.map(|(other, ..)| other.id)
    }

    fn next_nonce(&self, account: Address) -> Option<u64> {
        self.signed.iter().filter(|(_, by, _)| *by == account).map(|(.., nonce)| nonce + 1).max()
    }

    fn coverage(&self, epoch: &str) -> Vec<Coverage> {
        let mut all: Vec<Coverage> = self.anchors.iter().filter_map(|(anchor, ..)| covering(anchor, epoch)).collect();
        all.sort_by_key(|anchor| (anchor.size, anchor.id));
        all
    }
}

fn covering(anchor: &Anchor, of: &str) -> Option<Coverage> {
    match &anchor.what {
        Anchored::Checkpoint { epoch, size, .. } if epoch == of => Some(Coverage {
            id: anchor.id,
            chain_id: anchor.chain_id,
            size: *size,
            state: anchor.state,
            transaction: anchor.transaction(),
        }),
        _ => None,
    }
}

fn epoch(n: u8) -> String {
    format!("{n}{}", &EPOCH[1..])
}

async fn agrees(reader: &Reader, plain: &Plain) {
    let all: Vec<Anchor> = plain.anchors.iter().map(|(anchor, ..)| anchor.clone()).collect();
    let newest_first: Vec<Anchor> = all.iter().rev().cloned().collect();
    assert_eq!(reader.anchors(None, 100).await.unwrap(), newest_first);
    let paged = reader.anchors(Some(all.len() as u64), 2).await.unwrap();
    assert_eq!(paged, newest_first.iter().skip(1).take(2).cloned().collect::<Vec<_>>());
    let unsettled = |anchor: &&Anchor| anchor.state != AnchorState::Final || anchor.next_check.is_some();
    assert_eq!(reader.unsettled_anchors().await.unwrap(), all.iter().filter(unsettled).cloned().collect::<Vec<_>>());
    for (anchor, evidence, changed) in &plain.anchors {
        assert_eq!(reader.anchor(anchor.id).await.unwrap().as_ref(), Some(anchor));
        // What is not in a block any more shows nothing, though it may come back.
        let is_in = matches!(anchor.state, AnchorState::Included | AnchorState::Final);
        assert_eq!(reader.anchor_evidence(anchor.id).await.unwrap(), evidence.clone().filter(|_| is_in));
        let until = changed.plus(Duration::from_secs(1));
        let within = plain.anchors.iter().filter(|(.., at)| (*changed..=until).contains(at));
        let mut within: Vec<(Timestamp, u64)> = within.map(|(a, _, at)| (*at, a.id)).collect();
        within.sort_unstable_by(|a, b| b.cmp(a));
        let within: Vec<u64> = within.into_iter().map(|(_, id)| id).take(5).collect();
        let found = reader.anchors_changed(*changed..=until, 5).await.unwrap();
        assert_eq!(found.iter().map(|anchor| anchor.id).collect::<Vec<_>>(), within);
    }
    for n in 0..2 {
        assert_eq!(reader.coverage(&epoch(n)).await.unwrap(), plain.coverage(&epoch(n)));
        let newest = plain.coverage(&epoch(n)).into_iter().rfind(|anchor| anchor.state == AnchorState::Final);
        assert_eq!(
            reader.newest_final(&epoch(n), None).await.unwrap().map(|anchor| anchor.size),
            newest.map(|a| a.size)
        );
    }
    for n in 1..3 {
        assert_eq!(reader.next_nonce(137, account(n)).await.unwrap(), plain.next_nonce(account(n)));
    }
    let mut counts = std::collections::HashMap::new();
    all.iter().for_each(|anchor| *counts.entry(anchor.state).or_default() += 1);
    assert_eq!(reader.anchors_by_state().await.unwrap(), counts);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_read_is_what_was_written_last(steps in steps()) {
        runtime().block_on(async {
            let (mut house, mut plain) = (house(), Plain::default());
            for (turn, step) in steps.into_iter().enumerate() {
                house.clock.advance(Duration::from_secs(u64::from(turn % 3 == 0)));
                let now = house.clock.now();
                let ledger = house.store.ledger();
                match step {
                    Step::Add { size, epoch: n, account: by } => {
                        let anchor = Anchor { account: account(by), ..checkpoint(&epoch(n), size) };
                        let there = plain.anchors.iter().find(|(a, ..)| a.what == anchor.what && a.account == anchor.account);
                        let expected = there.map_or(plain.anchors.len() as u64 + 1, |(there, ..)| there.id);
                        let is_new = there.is_none();
                        assert_eq!(ledger.add_anchor(anchor.clone()).await.unwrap(), expected);
                        if is_new {
                            plain.anchors.push((Anchor { id: expected, ..anchor }, None, now));
                        }
                    }
                    Step::Save { which, state, nonce, by, evidence: tag, height, next_check } => {
                        let Some((anchor, kept, _)) = plain.anchors.get(which).cloned() else { continue };
                        // One that is queued goes with the config; where the same is there already it would be a second one.
                        let moved = Anchor { account: account(by), ..anchor.clone() };
                        let is_free = plain.anchors.iter().all(|(a, ..)| a.what != moved.what || a.account != moved.account);
                        let anchor = if anchor.state == AnchorState::Queued && is_free { moved } else { anchor };
                        let next_check = next_check.then_some(now);
                        let was_in = anchor.inclusion.clone();
                        let next = at_state(Anchor { next_check, ..anchor }, AnchorState::ALL[state], nonce, height);
                        let is_in = next.inclusion.clone();
                        let saved = ledger.save_anchor(next.clone(), tag.map(evidence)).await;
                        if let Some(holder) = plain.holder(&next) {
                            assert!(matches!(saved, Err(StoreError::NonceTaken { nonce: n, anchor }) if (n, anchor) == (nonce, holder)), "{saved:?}");
                            continue;
                        }
                        saved.unwrap();
                        plain.signed.retain(|(id, by, _)| *id != next.id || *by == next.account);
                        plain.signed.extend(next.attempts.first().map(|attempt| (next.id, next.account, attempt.nonce)));
                        let stays = is_in.is_some() && is_in.map(|i| i.hash) == was_in.map(|i| i.hash);
                        let told = tag.map(evidence).or(kept.filter(|_| stays));
                        plain.anchors[which] = (next, told, now);
                    }
                    Step::Again => house = house.again().await,
                }
            }
            agrees(&house.again().await.store.reader(), &plain).await;
        });
    }
}

#[tokio::test]
async fn a_whole_record_comes_back() {
    let house = house();
    let whole = Anchor {
        contract: Some(account(9)),
        failed: vec![Failed { transaction: B256::repeat_byte(1), height: 5, at: time(9), fee: u128::MAX }],
        next_check: Some(time(10)),
        waiting: Some(Waiting { reason: WaitReason::FeeCeiling, text: "fee".to_owned(), since: time(8) }),
        ..at_state(checkpoint(EPOCH, 7), AnchorState::Included, 3, 80_000_000)
    };
    let ledger = house.store.ledger();
    let id = ledger.add_anchor(whole.clone()).await.unwrap();
    let contract = Anchor { what: Anchored::Contract, account: account(2), ..whole.clone() };
    let second = ledger.add_anchor(contract.clone()).await.unwrap();
    assert_eq!((id, second), (1, 2));
    let unknown = ledger.save_anchor(Anchor { id: 3, ..whole.clone() }, None).await;
    assert!(matches!(unknown, Err(StoreError::NoAnchor(3))), "{unknown:?}");
    let house = house.again().await;
    let reader = house.store.reader();
    assert_eq!(reader.anchor(1).await.unwrap(), Some(Anchor { id, ..whole }));
    assert_eq!(reader.anchor(2).await.unwrap(), Some(Anchor { id: second, ..contract }));
    assert_eq!(reader.anchor(3).await.unwrap(), None);
    assert_eq!(reader.anchor(u64::MAX).await.unwrap(), None);
}

#[tokio::test]
async fn a_nonce_that_was_given_up_is_not_taken_anew_but_may_be() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    assert_eq!(reader.next_nonce(137, account(1)).await.unwrap(), None);
    let first = ledger.add_anchor(checkpoint(EPOCH, 5)).await.unwrap();
    let second = ledger.add_anchor(checkpoint(EPOCH, 9)).await.unwrap();
    let saved = |id, size, state, nonce| {
        let anchor = Anchor { id, ..checkpoint(EPOCH, size) };
        ledger.save_anchor(at_state(anchor, state, nonce, 1), None)
    };
    saved(first, 5, AnchorState::Final, 5).await.unwrap();
    // Also a final one keeps its nonce: it may be reorganised, and then it is sent again.
    let taken = saved(second, 9, AnchorState::Signed, 5).await;
    assert!(matches!(taken, Err(StoreError::NonceTaken { nonce: 5, anchor: 1 })), "{taken:?}");
    assert_eq!(reader.anchor(second).await.unwrap().unwrap().state, AnchorState::Queued, "nothing of it was written");
    // The same nonce of another account, and of another chain, is another one.
    for (id, anchor) in [
        (3, Anchor { account: account(2), ..checkpoint(EPOCH, 5) }),
        (4, Anchor { chain_id: 80_002, ..checkpoint(EPOCH, 5) }),
    ] {
        assert_eq!(ledger.add_anchor(anchor.clone()).await.unwrap(), id);
        ledger.save_anchor(at_state(Anchor { id, ..anchor }, AnchorState::Sent, 5, 1), None).await.unwrap();
    }
    // Somebody else's transaction took it in a reorganisation: another one is signed for in its place.
    saved(first, 5, AnchorState::Reorganised, 5).await.unwrap();
    saved(first, 5, AnchorState::Signed, 6).await.unwrap();
    saved(first, 5, AnchorState::Queued, 0).await.unwrap();
    assert_eq!(reader.next_nonce(137, account(1)).await.unwrap(), Some(7), "those given up are remembered");
    assert_eq!(reader.next_nonce(80_002, account(1)).await.unwrap(), Some(6));
    // It may be filled, should theirs go as well.
    saved(second, 9, AnchorState::Signed, 5).await.unwrap();
}

#[tokio::test]
async fn a_nonce_that_was_given_up_stays_with_the_account_that_signed() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let id = ledger.add_anchor(checkpoint(EPOCH, 5)).await.unwrap();
    let of = |by, chain_id| Anchor { id, account: account(by), chain_id, ..checkpoint(EPOCH, 5) };
    ledger.save_anchor(at_state(of(1, 137), AnchorState::Signed, 700, 1), None).await.unwrap();
    for (by, chain_id) in [(1, 137), (2, 137), (2, 80_002)] {
        ledger.save_anchor(of(by, chain_id), None).await.unwrap();
        let expected = (by == 1).then_some(701);
        assert_eq!(reader.next_nonce(chain_id, account(by)).await.unwrap(), expected, "{by} on {chain_id}");
    }
}

#[tokio::test]
async fn the_newest_contract_is_that_of_the_account_on_the_chain() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let made =
        |by, chain_id| Anchor { what: Anchored::Contract, account: account(by), chain_id, ..checkpoint(EPOCH, 5) };
    for anchor in [made(1, 137), checkpoint(EPOCH, 5), made(1, 137), made(2, 137), made(1, 80_002)] {
        ledger.add_anchor(anchor).await.unwrap();
    }
    for (by, chain_id, id) in [(1, 137, Some(3)), (2, 137, Some(4)), (1, 80_002, Some(5)), (2, 80_002, None)] {
        let newest = reader.newest_contract(chain_id, account(by)).await.unwrap();
        assert_eq!(newest.map(|anchor| anchor.id), id);
    }
}

#[tokio::test]
async fn what_the_states_say_of_a_nonce_is_held_by_the_table() {
    let house = house();
    let ledger = house.store.ledger();
    let id = ledger.add_anchor(checkpoint(EPOCH, 5)).await.unwrap();
    let of = |state, nonce| Anchor { state, ..at_state(Anchor { id, ..checkpoint(EPOCH, 5) }, nonce, 5, 1) };
    for wrong in [
        of(AnchorState::Queued, AnchorState::Sent),
        of(AnchorState::Signed, AnchorState::Queued),
        of(AnchorState::Sent, AnchorState::Queued),
    ] {
        assert!(ledger.save_anchor(wrong, None).await.is_err());
    }
    assert_eq!(house.store.reader().anchor(id).await.unwrap(), Some(Anchor { id, ..checkpoint(EPOCH, 5) }));
    // The index is a wall of its own, behind the look at who has the nonce.
    ledger.save_anchor(of(AnchorState::Sent, AnchorState::Sent), None).await.unwrap();
    let connection = rusqlite::Connection::open(config(&house.folder).path.join("evidence.db")).unwrap();
    let copy =
        "INSERT INTO anchors SELECT id + 1, chain_id, account, contract, epoch, size, state, queued, since, changed,
                next_check, nonce, highest_nonce, tx, record, evidence FROM anchors";
    assert!(connection.execute(copy, []).unwrap_err().to_string().contains("UNIQUE"));
}

#[tokio::test]
async fn a_cut_at_any_write_leaves_the_old_record_or_the_new() {
    let house = house().again().await;
    let (root, ledger) = (config(&house.folder).path, house.store.ledger());
    let mut written: Vec<Option<(Anchor, Option<ChainEvidence>)>> = vec![None];
    let id = ledger.add_anchor(checkpoint(EPOCH, 1)).await.unwrap();
    written.push(Some((Anchor { id, ..checkpoint(EPOCH, 1) }, None)));
    for (height, state) in (1..).zip([AnchorState::ALL, AnchorState::ALL].concat()) {
        // Waiting is told at length, so that records lie on several pages.
        let text = "x".repeat(usize::try_from(height).unwrap() * 3_000);
        let waiting = Some(Waiting { reason: WaitReason::Refused, text, since: time(0) });
        let anchor = Anchor { waiting, ..at_state(Anchor { id, ..checkpoint(EPOCH, height) }, state, height, height) };
        let told = matches!(state, AnchorState::Included | AnchorState::Final).then(|| evidence(1));
        ledger.save_anchor(anchor.clone(), told.clone()).await.unwrap();
        written.push(Some((anchor, told)));
    }
    let image = Image::of(&root);
    let (mut at, mut opened) = (0, 0);
    for cut in image.cuts() {
        let (folder, clock) = image.cut(cut);
        let reader = Store::open(config(&folder), clock, None).unwrap().reader();
        let found = match reader.anchor(1).await.unwrap() {
            Some(anchor) => Some((anchor, reader.anchor_evidence(1).await.unwrap())),
            None => None,
        };
        while written[at] != found {
            at += 1;
            assert!(at < written.len(), "cut at {cut}: {found:?}");
        }
        // What is beside the record is of the same write.
        let covered = found.iter().filter_map(|(anchor, _)| covering(anchor, EPOCH)).collect::<Vec<_>>();
        assert_eq!(reader.coverage(EPOCH).await.unwrap(), covered);
        opened += 1;
    }
    assert_eq!(at, written.len() - 1, "all was found in its turn");
    assert!(opened > 60, "{opened} cuts");
}

/// The store becomes one of version 4.
fn without_anchors(root: &Path) {
    let connection = rusqlite::Connection::open(root.join("evidence.db")).unwrap();
    connection.execute_batch(super::access::WITHOUT_ACCESS).unwrap();
    connection.execute_batch(super::upstream::WITHOUT_UPSTREAM).unwrap();
    connection.execute_batch("DROP TABLE anchors; PRAGMA user_version = 4;").unwrap();
    sqlite::settle(&connection).unwrap();
}

pub fn schema(root: &Path) -> Vec<Option<String>> {
    let connection = rusqlite::Connection::open(root.join("evidence.db")).unwrap();
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema ORDER BY name").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

#[tokio::test]
async fn a_store_of_version_4_is_brought_up_wherever_that_is_cut() {
    let House { folder, store, .. } = house();
    let ledger = store.ledger();
    seal(&ledger, (0..30).map(|at| block("m1", at, 0)).collect()).await;
    let note = ledger.checkpoint().await.unwrap();
    store.close().await.unwrap();
    let root = config(&folder).path;
    let new = schema(&root);
    without_anchors(&root);
    assert_eq!(evidence::version(&root).unwrap(), 4);
    let whole = Image::of(&root);
    let (cut, _) = whole.cut(0);
    let connection = sqlite::open(&config(&cut).path.join("evidence.db")).unwrap();
    connection
        .execute_batch(&format!("BEGIN; {} PRAGMA user_version = 5; COMMIT;", crate::store::anchors::SCHEMA))
        .unwrap();
    let image = Image::of(&config(&cut).path);
    let mut opened = 0;
    for at in image.cuts() {
        let (folder, clock) = image.cut(at);
        let store = Store::open(config(&folder), clock, None).unwrap();
        let (ledger, reader) = (store.ledger(), store.reader());
        assert_eq!(reader.anchors(None, 9).await.unwrap(), []);
        assert_eq!(ledger.checkpoint().await.unwrap(), note, "the log is as it was");
        let epoch = store.identity().epoch.clone();
        assert_eq!(ledger.add_anchor(checkpoint(&epoch, note.checkpoint.size)).await.unwrap(), 1);
        store.close().await.unwrap();
        let root = config(&folder).path;
        assert_eq!((evidence::version(&root).unwrap(), &schema(&root)), (8, &new));
        opened += 1;
    }
    assert!(opened > 5, "{opened} cuts");
}

#[tokio::test]
async fn a_block_is_covered_by_the_oldest_of_those_that_are_furthest() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let first_epoch = house.store.identity().epoch.clone();
    // Entry 0 is the succession; block `at` is entry `at + 1`.
    seal(&ledger, (0..60).map(|at| block("m1", at, 0)).collect()).await;
    ledger.checkpoint().await.unwrap();
    ledger.succeed(wish(Reason::KeyRotation)).await.unwrap();
    let second_epoch = house.store.identity().epoch.clone();
    seal(&ledger, (60..70).map(|at| block("m1", at, 0)).collect()).await;
    let states = [
        (10, AnchorState::Final),
        (11, AnchorState::Included),
        (20, AnchorState::Final),
        (20, AnchorState::Final),
        (25, AnchorState::Queued),
        (30, AnchorState::Reorganised),
        (35, AnchorState::Signed),
        (35, AnchorState::Sent),
        (40, AnchorState::Sent),
        (45, AnchorState::Signed),
        (50, AnchorState::Queued),
        (55, AnchorState::Reorganised),
    ];
    for (n, (size, state)) in (0_u8..).zip(states) {
        let anchor = Anchor { account: account(n), ..checkpoint(&first_epoch, size) };
        ledger.add_anchor(at_state(anchor, state, 20 - u64::from(n), 1)).await.unwrap();
    }
    let span = |from: i64, to: i64| {
        let start = |at: i64| block("m1", at, 0).span.start();
        Span::new(start(from), start(to)).unwrap()
    };
    let plain = reader.coverage(&first_epoch).await.unwrap();
    assert!(plain.is_sorted_by_key(|anchor| (anchor.size, anchor.id)) && plain.len() == states.len());
    let best = |index: u64| {
        let of = |state| plain.iter().find(|anchor| anchor.size > index && anchor.state == state);
        use AnchorState::{Final, Included, Queued, Reorganised, Sent, Signed};
        [Final, Included, Sent, Signed, Reorganised, Queued].into_iter().find_map(of).cloned()
    };
    for (from, to) in [(0, 70), (0, 1), (5, 15), (9, 10), (18, 45), (48, 52), (58, 63)] {
        let covered = reader.covered_blocks(&meter("m1"), span(from, to), None).await.unwrap();
        assert_eq!(covered.len(), usize::try_from(to - from).unwrap());
        for (at, (sealed, anchor)) in (from..).zip(covered) {
            assert_eq!(sealed, block("m1", at, 0));
            let expected = if at < 60 { best(u64::try_from(at + 1).unwrap()) } else { None };
            assert_eq!(anchor, expected, "block {at}");
        }
    }
    assert_eq!(best(1).map(|anchor| anchor.id), Some(1));
    assert_eq!(best(15).map(|anchor| anchor.id), Some(3));
    assert_eq!(best(22).map(|anchor| (anchor.size, anchor.state)), Some((35, AnchorState::Sent)));
    assert_eq!(best(55), None);
    // A revision is an entry of its own, which is not covered by what covers the block.
    seal(&ledger, vec![block("m1", 3, 1)]).await;
    let revised = reader.covered_blocks(&meter("m1"), span(3, 4), None).await.unwrap();
    assert_eq!((revised[0].0.revision, &revised[0].1), (1, &None));
    ledger.add_anchor(checkpoint(&second_epoch, 100)).await.unwrap();
    let revised = reader.covered_blocks(&meter("m1"), span(3, 4), None).await.unwrap();
    assert_eq!(revised[0].1.as_ref().map(|anchor| anchor.state), Some(AnchorState::Queued));
}

#[tokio::test]
async fn what_stands_on_one_chain_says_nothing_of_another() {
    const AMOY: u64 = 80_002;
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let epoch = house.store.identity().epoch.clone();
    seal(&ledger, (0..30).map(|at| block("m1", at, 0)).collect()).await;
    let anchored = async |chain_id, size, state, nonce| {
        let anchor = Anchor { chain_id, ..checkpoint(&epoch, size) };
        ledger.add_anchor(at_state(anchor, state, nonce, 1)).await.unwrap()
    };
    let sizes = async |chain| {
        let newest = reader.newest_final(&epoch, chain).await.unwrap();
        let span = block("m1", 0, 0).span;
        let first = reader.covered_blocks(&meter("m1"), span, chain).await.unwrap().remove(0).1;
        (newest.map(|anchor| anchor.size), first.map(|anchor| (anchor.chain_id, anchor.size, anchor.state)))
    };
    assert_eq!(sizes(None).await, (None, None));
    anchored(AMOY, 20, AnchorState::Final, 1).await;
    let amoy = (Some(20), Some((AMOY, 20, AnchorState::Final)));
    assert_eq!((sizes(None).await, sizes(Some(AMOY)).await), (amoy, amoy));
    assert_eq!(sizes(Some(137)).await, (None, None));
    // While nothing of it is in a block, another chain is not that of the newest.
    anchored(137, 10, AnchorState::Sent, 1).await;
    assert_eq!((sizes(None).await, sizes(Some(137)).await), (amoy, (None, Some((137, 10, AnchorState::Sent)))));
    anchored(137, 15, AnchorState::Final, 2).await;
    let polygon = (Some(15), Some((137, 15, AnchorState::Final)));
    assert_eq!((sizes(None).await, sizes(Some(137)).await, sizes(Some(AMOY)).await), (polygon, polygon, amoy));
    let by = |chain_id| AnchoredBy { chain_id, account: account(1) };
    assert_eq!(reader.anchored_by().await.unwrap(), [by(AMOY), by(137)]);
}

#[tokio::test]
async fn a_dataset_is_covered_and_a_checkpoint_tells_how_far_it_reaches() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    let epoch = house.store.identity().epoch.clone();
    seal(&ledger, vec![block("m1", 0, 0), block("m2", 1, 0)]).await;
    let request = JobRequest { connection: "plant".into(), query: serde_json::json!({}), from_ns: 0, to_ns: 1 };
    let id = ledger.queue_job(request, crate::model::Actor::here("first")).await.unwrap().unwrap().id;
    let other = crate::model::JobId::after(None, Timestamp::MIN, [0; 10]);
    assert_eq!(reader.covered_datasets(vec![id, other], None).await.unwrap(), [None, None]);
    let end = JobEnd::Done { manifest_sha256: Digest::of(b"m"), stored: 1, progress: Default::default() };
    house.clock.advance(Duration::from_secs(60));
    ledger.end_job(id, end).await.unwrap();
    let size = ledger.checkpoint().await.unwrap().checkpoint.size;
    let anchor = ledger.add_anchor(checkpoint(&epoch, size - 1)).await.unwrap();
    assert_eq!(reader.covered_datasets(vec![id], None).await.unwrap(), [None], "the one before it");
    let anchor = ledger.add_anchor(checkpoint(&epoch, size)).await.unwrap().max(anchor);
    let covered = reader.covered_datasets(vec![other, id], None).await.unwrap();
    assert_eq!(covered.iter().map(|anchor| anchor.as_ref().map(|a| a.id)).collect::<Vec<_>>(), [None, Some(anchor)]);

    let sealed = |at: i64, name: &str| Some((meter(name), block(name, at, 0).span));
    let noon = Timestamp::from_millis(NOON);
    let reach = async |size| {
        let reach = reader.reach(&epoch, size).await.unwrap();
        let time = reader.last_entry_time(&epoch, size).await.unwrap();
        assert_eq!(time, reach.as_ref().map(|reach| reach.time));
        reach
    };
    assert_eq!(reach(0).await, None);
    assert_eq!(reach(1).await, Some(Reach { time: noon, block: None }));
    assert_eq!(reach(2).await, Some(Reach { time: noon, block: sealed(0, "m1") }));
    assert_eq!(reach(size - 1).await, Some(Reach { time: noon, block: sealed(1, "m2") }));
    assert_eq!(reach(size).await, Some(Reach { time: time(60_000), block: sealed(1, "m2") }));
    assert_eq!(reach(size + 1).await, None);
    assert_eq!(reader.reach(EPOCH, 1).await.unwrap(), None);
    ledger.append(vec![audit(1)]).await.unwrap();
    assert_eq!(reach(size + 1).await.unwrap().block, sealed(1, "m2"));
}
