//! The log as it is appended to, signed and read, beside a plain tree over all its entries.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::entry::Reason;
use crate::model::note::SignedCheckpoint;
use crate::model::{
    BlockFlags, Border, Borders, Break, Category, Cause, Energy, Interval, Label, Method, Number, Power, Ratio, Role,
    Span, merkle,
};
use crate::store::tests::{House, commissioned, config, house, layout, meter, reading};
use crate::store::{Ledger, Reader, Sealing};

const HALF: i64 = 1_800_000;

pub(in crate::store) fn block(name: &str, at: i64, revision: u32) -> Block {
    let start = 1_763_726_400_000 + at * HALF;
    let time = Timestamp::from_millis;
    let is_silent = at % 5 == 4;
    Block {
        meter: meter(name),
        span: Span::new(time(start), time(start + HALF)).unwrap(),
        nominal_ms: 1_800_000,
        revision,
        category: Category::Cons,
        import: (!is_silent).then_some(Energy::from_uwh(at)),
        export: None,
        max_power: None,
        min_power: None,
        covered_ms: if is_silent { 0 } else { 1_800_000 },
        coverage: 10_000,
        method: Method::Counter,
        is_peak_hour: false,
        flags: BlockFlags::NONE,
        readings_sha256: Digest::of(&at.to_le_bytes()),
        through_seq: 7,
        borders: Borders::default(),
        zone: "UTC".to_owned(),
        interval_ms: 1_000,
        template: None,
        sealed: time(start + HALF + 10_000),
    }
}

pub(in crate::store) fn audit(number: u64) -> Append {
    Append::Audit { action: "export".to_owned(), by: "first".to_owned(), detail: json!({"number": number}) }
}

pub(in crate::store) fn wish(reason: Reason) -> Succession {
    Succession { reason, site: None, last_outside: None, since_open: false }
}

pub(in crate::store) async fn seal(ledger: &Ledger, blocks: Vec<Block>) {
    ledger.seal(Sealing { blocks, ..Sealing::default() }).await.unwrap();
}

/// A tree as RFC 6962 section 2.1 defines it, each subtree computed anew.
fn plain_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => merkle::empty(),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(usize::try_from(merkle::split(more.len() as u64)).unwrap());
            merkle::node(&plain_root(left), &plain_root(right))
        }
    }
}

/// The data of the first `size` leaves, by the entry tiles.
async fn leaves(reader: &Reader, epoch: &str, size: u64) -> Vec<Vec<u8>> {
    let mut leaves = Vec::new();
    for n in 0..size.div_ceil(TILE) {
        let width = u16::try_from((size - n * TILE).min(TILE)).unwrap();
        let bytes = reader.entry_tile(epoch, n, width).await.unwrap().unwrap();
        let mut rest = bytes.as_slice();
        while let Some((len, more)) = rest.split_first_chunk::<2>() {
            let (data, more) = more.split_at(u16::from_be_bytes(*len).into());
            leaves.push(data.to_vec());
            rest = more;
        }
    }
    assert_eq!(leaves.len() as u64, size);
    leaves
}

/// All that must hold of the signed part of every epoch.
pub(super) async fn holds(reader: &Reader, notes: &[SignedCheckpoint]) {
    let epochs = reader.epochs().await.unwrap();
    assert_eq!(epochs.last().map(|epoch| &epoch.identity), Some(&*reader.identity()));
    for (at, epoch) in epochs.iter().enumerate() {
        let id = epoch.identity.epoch.as_str();
        let origin = epoch.identity.origin();
        let Some(newest) = reader.checkpoint(id).await.unwrap() else { continue };
        let head = &newest.checkpoint;
        let mut keys = vec![&epoch.key];
        let next = epochs.get(at + 1);
        keys.extend(next.filter(|next| next.reason == Reason::KeyRotation).map(|next| &next.key));
        newest.verify(&keys).unwrap();
        assert_eq!((&head.origin, head.size <= epoch.size), (&origin, true));

        assert_eq!(reader.root_at(id, epoch.size + 1).await.unwrap(), None);
        let data = leaves(reader, id, head.size).await;
        let hashes: Vec<Digest> = data.iter().map(|data| merkle::leaf(data)).collect();
        assert_eq!(plain_root(&hashes), head.root);
        opens(reader, epoch, &data).await;
        tiles(reader, id, &hashes).await;
        for note in notes.iter().filter(|note| note.checkpoint.origin == origin) {
            let old = &note.checkpoint;
            assert_eq!(reader.root_at(id, old.size).await.unwrap(), Some(old.root));
            assert_eq!(old.root, plain_root(&hashes[..usize::try_from(old.size).unwrap()]), "another tree was signed");
            let proof = reader.consistency(id, old.size, head.size).await.unwrap().unwrap();
            merkle::verify_consistency((old.size, &old.root), (head.size, &head.root), &proof).unwrap();
        }
        for index in (0..head.size).step_by(7) {
            let path = reader.inclusion(id, index, head.size).await.unwrap().unwrap();
            let leaf = hashes[usize::try_from(index).unwrap()];
            assert_eq!(merkle::root_by_inclusion(leaf, index, head.size, &path), Ok(head.root));
        }
    }
}

/// Every signed entry is what its opening says, and each meter's chain has no hole.
async fn opens(reader: &Reader, epoch: &Epoch, data: &[Vec<u8>]) {
    let id = epoch.identity.epoch.as_str();
    let indices: Vec<u64> = (0..data.len() as u64).collect();
    let openings = reader.openings(id, indices.clone()).await.unwrap();
    assert_eq!(openings.iter().map(|opening| opening.index).collect::<Vec<_>>(), indices);
    let mut newest: BTreeMap<MeterId, Vec<u64>> = BTreeMap::new();
    for (opening, data) in openings.iter().zip(data) {
        let subject = opening.meter.as_ref().map(|(meter, salt)| entry::subject(salt, meter));
        let (kind, time) = (opening.kind, opening.time);
        let entry = Entry { kind, time, subject, commit: entry::commit(&opening.salt, &opening.record) };
        assert_eq!(entry.to_bytes(), *data);
        let record: Value = serde_json::from_slice(&opening.record).unwrap();
        assert_eq!(jcs::to_vec(&record).unwrap(), opening.record);
        assert_eq!(kind == EntryKind::Succession, opening.index == 0);
        if let Some((meter, _)) = &opening.meter {
            let chain = newest.entry(meter.clone()).or_default();
            assert_eq!(
                (record["prev"].as_u64(), record["meter"].as_str()),
                (chain.last().copied(), Some(meter.as_str()))
            );
            chain.push(opening.index);
        }
        if matches!(kind, EntryKind::Block | EntryKind::Silence) {
            let block = Block::from_record(&opening.record).unwrap();
            assert_eq!(kind, EntryKind::of(&block));
            let stored = reader.revisions(&block.meter, block.span.start()).await.unwrap();
            assert!(stored.contains(&block));
        }
    }
    for (meter, chain) in newest {
        assert_eq!(reader.entries_of_meter(id, &meter).await.unwrap(), chain);
    }
}

/// The tiles of each level, up to what is signed and not one hash further.
async fn tiles(reader: &Reader, epoch: &str, leaves: &[Digest]) {
    let mut level_hashes = leaves.to_vec();
    for level in 0.. {
        let count = level_hashes.len() as u64;
        for (n, tile) in (0..).zip(level_hashes.chunks(256)) {
            for width in [1, tile.len() / 2 + 1, tile.len()] {
                let bytes = reader.tile(epoch, level, n, u16::try_from(width).unwrap()).await.unwrap().unwrap();
                assert_eq!(rows::hashes(&bytes).unwrap(), tile[..width]);
            }
            if tile.len() < 256 {
                let beyond = u16::try_from(tile.len() + 1).unwrap();
                assert_eq!(reader.tile(epoch, level, n, beyond).await.unwrap(), None);
                assert!(level > 0 || reader.entry_tile(epoch, n, beyond).await.unwrap().is_none());
            }
        }
        assert_eq!(reader.tile(epoch, level, count.div_ceil(TILE), 1).await.unwrap(), None);
        if count == 0 {
            break;
        }
        level_hashes = level_hashes.as_chunks::<256>().0.iter().map(|tile| plain_root(tile)).collect();
    }
    for (n, width) in [(u64::MAX, 256), (0, 0), (0, 257)] {
        assert_eq!(reader.tile(epoch, 0, n, width).await.unwrap(), None);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Seal(Vec<u8>),
    Revise(u8),
    Commission(u8),
    Append(u16),
    Config,
    Checkpoint,
    NextDay,
    Restart,
    Succeed(Reason),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reason = prop_oneof![
        Just(Reason::KeyRotation),
        Just(Reason::Site),
        Just(Reason::Restore),
        Just(Reason::Rollback),
        Just(Reason::Clone),
    ];
    let step = prop_oneof![
        4 => prop::collection::vec(0_u8..4, 0..9).prop_map(Step::Seal),
        2 => (0_u8..4).prop_map(Step::Revise),
        2 => (0_u8..4).prop_map(Step::Commission),
        2 => (1_u16..200).prop_map(Step::Append),
        1 => Just(Step::Config),
        4 => Just(Step::Checkpoint),
        1 => Just(Step::NextDay),
        1 => Just(Step::Restart),
        1 => reason.prop_map(Step::Succeed),
    ];
    prop::collection::vec(step, 1..25)
}

async fn act(mut house: House, steps: Vec<Step>) {
    let (mut at, mut number, mut notes): (i64, u64, Vec<SignedCheckpoint>) = (0, 0, Vec::new());
    let mut revisions: BTreeMap<String, (i64, u32)> = BTreeMap::new();
    for step in steps {
        let ledger = house.store.ledger();
        house.clock.advance(Duration::from_secs(60));
        match step {
            Step::Seal(meters) => {
                let mut blocks = Vec::new();
                for name in meters.iter().map(|meter| format!("m{meter}")) {
                    blocks.push(block(&name, at, 0));
                    revisions.insert(name, (at, 0));
                    at += 1;
                }
                seal(&ledger, blocks).await;
            }
            Step::Revise(meter) => {
                let name = format!("m{meter}");
                if let Some((at, revision)) = revisions.get_mut(&name) {
                    *revision += 1;
                    seal(&ledger, vec![block(&name, *at, *revision)]).await;
                }
            }
            Step::Commission(meter) => {
                number += 1;
                let since = i64::try_from(number).unwrap();
                ledger.commission(commissioned(&format!("m{meter}"), since, Cause::First)).await.unwrap();
            }
            Step::Append(many) => {
                let places = ledger.append((0..u64::from(many)).map(|at| audit(number + at)).collect()).await.unwrap();
                number += u64::from(many);
                assert!(places.windows(2).all(|pair| pair[0].index + 1 == pair[1].index));
            }
            Step::Config => {
                let wanted = Append::Config {
                    config_sha256: Digest::of(b"config"),
                    program: "meterseal 0.1.0".to_owned(),
                    meters: vec![meter("m9")],
                };
                ledger.append(vec![wanted]).await.unwrap();
            }
            Step::Checkpoint => {
                let note = ledger.checkpoint().await.unwrap();
                assert_eq!(ledger.checkpoint().await.unwrap(), note, "nothing was appended");
                notes.push(note);
            }
            Step::NextDay => house.clock.advance(Duration::from_secs(86_400)),
            Step::Restart => {
                drop(ledger);
                house = house.again().await;
            }
            Step::Succeed(reason) => {
                let before = house.store.identity();
                let after = ledger.succeed(wish(reason)).await.unwrap();
                assert_ne!(after.epoch, before.epoch);
                assert_eq!(after.gateway == before.gateway, reason != Reason::Clone);
                assert_eq!((&after, &after), (&house.store.identity(), &house.store.reader().identity()));
            }
        }
    }
    notes.push(house.store.ledger().checkpoint().await.unwrap());
    holds(&house.store.reader(), &notes).await;
    // Whatever ended, every block that was sealed can be proven somewhere.
    for (name, (at, revision)) in revisions {
        let sealed = block(&name, at, 0);
        let reader = house.store.reader();
        let places = reader.entries_of_block(&sealed.meter, sealed.span.start()).await.unwrap();
        assert_eq!(places.len(), usize::try_from(revision).unwrap() + 1);
        for (revision, place) in (0..).zip(places) {
            let opening = reader.openings(&place.epoch, vec![place.index]).await.unwrap().remove(0);
            assert_eq!(Block::from_record(&opening.record).unwrap(), block(&name, at, revision));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn rows_tiles_and_a_plain_tree_agree_after_anything(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(act(house(), steps));
    }
}

/// Levels of tiles fill up one by one.
#[tokio::test]
async fn a_tree_of_three_levels_is_whole() {
    let house = house();
    let size = 65_536 + 256 + 3;
    let fill = |many: u64| {
        let wanted = (0..many).map(audit).collect::<Vec<_>>();
        let ledger = house.store.ledger();
        async move { ledger.append(wanted).await.unwrap() }
    };
    // One by one over the border of a tile, and then in one batch over many.
    for _ in 0..260 {
        fill(1).await;
    }
    let early = house.store.ledger().checkpoint().await.unwrap();
    assert_eq!(early.checkpoint.size, 261);
    fill(size - 261).await;
    let note = house.store.ledger().checkpoint().await.unwrap();
    assert_eq!(note.checkpoint.size, size);

    let (reader, epoch) = (house.store.reader(), house.store.identity().epoch.clone());
    let hashes: Vec<Digest> = leaves(&reader, &epoch, size).await.iter().map(|data| merkle::leaf(data)).collect();
    assert_eq!(plain_root(&hashes), note.checkpoint.root);
    tiles(&reader, &epoch, &hashes).await;
    for index in [0, 255, 256, 65_535, 65_536, 65_791, 65_792, size - 1] {
        let path = reader.inclusion(&epoch, index, size).await.unwrap().unwrap();
        let leaf = hashes[usize::try_from(index).unwrap()];
        assert_eq!(merkle::root_by_inclusion(leaf, index, size, &path), Ok(note.checkpoint.root));
    }
    let proof = reader.consistency(&epoch, 261, size).await.unwrap().unwrap();
    let (old, new) = ((261, &early.checkpoint.root), (size, &note.checkpoint.root));
    assert_eq!(merkle::verify_consistency(old, new, &proof), Ok(()));
    let some = [3, 256, 700, size - 2];
    let beside = reader.siblings(&epoch, some.to_vec(), size).await.unwrap().unwrap();
    let some = some.map(|index| (index, hashes[usize::try_from(index).unwrap()]));
    assert_eq!(merkle::root_by_siblings(&some, &beside, size), Ok(note.checkpoint.root));
}

#[tokio::test]
async fn only_what_is_signed_is_shown() {
    let house = house();
    let (ledger, reader, epoch) = (house.store.ledger(), house.store.reader(), house.store.identity().epoch.clone());
    assert_eq!(reader.checkpoint(&epoch).await.unwrap(), None);
    assert_eq!(reader.tile(&epoch, 0, 0, 1).await.unwrap(), None);
    ledger.checkpoint().await.unwrap();
    let sealed = block("m1", 0, 0);
    seal(&ledger, vec![sealed.clone()]).await;
    let dataset = Append::Dataset { dataset: "01J".to_owned(), manifest_sha256: Digest::of(b"manifest") };
    let places = ledger.append(vec![dataset]).await.unwrap();
    assert_eq!(places, [LogPlace { epoch: epoch.clone(), index: 2 }]);
    let start = sealed.span.start();
    for is_signed in [false, true] {
        assert_eq!(reader.tile(&epoch, 0, 0, 3).await.unwrap().is_some(), is_signed);
        assert_eq!(reader.entry_tile(&epoch, 0, 3).await.unwrap().is_some(), is_signed);
        assert_eq!(reader.log_entries(&epoch, 1, 9).await.unwrap().len(), if is_signed { 2 } else { 0 });
        assert_eq!(reader.openings(&epoch, vec![0, 2]).await.unwrap().len(), if is_signed { 2 } else { 1 });
        assert_eq!(reader.entries_of_meter(&epoch, &sealed.meter).await.unwrap() == [1], is_signed);
        assert_eq!(reader.entries_of_block(&sealed.meter, start).await.unwrap().len(), usize::from(is_signed));
        assert_eq!(reader.entries_of_dataset("01J").await.unwrap() == places, is_signed);
        assert_eq!(reader.inclusion(&epoch, 1, 3).await.unwrap().is_some(), is_signed);
        assert_eq!(reader.siblings(&epoch, vec![1], 3).await.unwrap().is_some(), is_signed);
        assert_eq!(reader.consistency(&epoch, 1, 3).await.unwrap().is_some(), is_signed);
        assert!(reader.root_at(&epoch, 3).await.unwrap().is_some());
        ledger.checkpoint().await.unwrap();
    }
    // What is asked wrongly has no answer, and is no panic.
    assert_eq!(reader.inclusion(&epoch, 3, 3).await.unwrap(), None);
    for indices in [vec![], vec![1, 1], vec![2, 1], vec![3]] {
        assert_eq!(reader.siblings(&epoch, indices, 3).await.unwrap(), None);
    }
    assert_eq!(reader.consistency(&epoch, 0, 3).await.unwrap(), None);
    assert_eq!(reader.consistency(&epoch, 3, 2).await.unwrap(), None);
    assert_eq!(reader.tile("0000000000000000", 0, 0, 1).await.unwrap(), None);
}

#[tokio::test]
async fn a_key_is_rotated_by_both_keys() {
    let house = house();
    let (ledger, reader) = (house.store.ledger(), house.store.reader());
    seal(&ledger, vec![block("m1", 0, 0)]).await;
    let receipt = house.put(vec![reading(&layout("m1"), 1_763_726_400_000, &[(0, 1)])]).await;
    ledger.succeed(wish(Reason::KeyRotation)).await.unwrap();
    seal(&ledger, vec![block("m1", 1, 0)]).await;
    ledger.checkpoint().await.unwrap();
    let epochs = reader.epochs().await.unwrap();
    let [old, new] = epochs.as_slice() else { panic!("{epochs:?}") };
    assert_eq!((old.reason, new.reason), (Reason::Init, Reason::KeyRotation));
    assert_eq!(old.identity.gateway, new.identity.gateway);
    assert_ne!(old.key.public(), new.key.public());

    let last = reader.checkpoint(&old.identity.epoch).await.unwrap().unwrap();
    assert_eq!(last.verify(&[&old.key, &new.key]), Ok(()));
    assert_eq!(last.checkpoint.size, 3);
    let key = reader.openings(&old.identity.epoch, vec![2]).await.unwrap().remove(0);
    let record = json!({"new_key": new.key.to_string(), "new_origin": new.identity.origin()});
    assert_eq!((key.kind, key.record), (EntryKind::Key, jcs::to_vec(&record).unwrap()));
    let leaf_0 = reader.openings(&new.identity.epoch, vec![0]).await.unwrap().remove(0);
    let origin = old.identity.origin();
    let record = entry::succession(Reason::KeyRotation, Some(&origin), Some(&last.note()), None);
    assert_eq!((leaf_0.kind, leaf_0.record), (EntryKind::Succession, jcs::to_vec(&record).unwrap()));

    // Nothing signs in the name of the old key any more, and seqs go on.
    let keys = rusqlite::Connection::open(config(&house.folder).path.join("evidence.db")).unwrap();
    let keys: Vec<[u8; 32]> = {
        let mut statement = keys.prepare("SELECT public FROM keys").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    };
    assert_eq!(keys, [*new.key.public()]);
    let next = house.put(vec![reading(&layout("m1"), 1_763_726_401_000, &[(0, 1)])]).await;
    assert_eq!(next.first_seq, receipt.last_seq + 1);
    // Each epoch has its own chain, and its own name for the meter.
    for (epoch, index) in [(old, 1), (new, 1)] {
        assert_eq!(reader.entries_of_meter(&epoch.identity.epoch, &meter("m1")).await.unwrap(), [index]);
    }
    let name = async |epoch: &Epoch| reader.log_entries(&epoch.identity.epoch, 1, 2).await.unwrap()[0].subject;
    assert_ne!(name(old).await, name(new).await);
}

#[tokio::test]
async fn a_store_that_may_have_a_twin_signs_nothing_more_of_the_old_epoch() {
    for reason in [Reason::Restore, Reason::Rollback, Reason::Clone] {
        let house = house();
        let (ledger, reader) = (house.store.ledger(), house.store.reader());
        seal(&ledger, vec![block("m1", 0, 0)]).await;
        let signed = ledger.checkpoint().await.unwrap();
        seal(&ledger, vec![block("m1", 1, 0)]).await;
        let dataset = Append::Dataset { dataset: "01J".to_owned(), manifest_sha256: Digest::of(b"manifest") };
        ledger.append(vec![dataset]).await.unwrap();
        let old = house.store.identity();
        let wish = Succession {
            reason,
            site: Some("plant-8".parse().unwrap()),
            last_outside: Some("a note".to_owned()),
            since_open: false,
        };
        let new = ledger.succeed(wish).await.unwrap();
        assert_eq!(new.site.as_str(), "plant-8");
        let after = ledger.checkpoint().await.unwrap();
        assert_eq!(reader.checkpoint(&old.epoch).await.unwrap().as_ref(), Some(&signed));
        // What was beyond the last checkpoint is proven in the new epoch.
        assert_eq!((after.checkpoint.size, after.checkpoint.origin), (3, new.origin()));
        assert_eq!(reader.entries_of_meter(&old.epoch, &meter("m1")).await.unwrap(), [1]);
        assert_eq!(reader.entries_of_meter(&new.epoch, &meter("m1")).await.unwrap(), [1]);
        let place = |index| LogPlace { epoch: new.epoch.clone(), index };
        assert_eq!(reader.entries_of_dataset("01J").await.unwrap(), [place(2)]);
        let start = block("m1", 1, 0).span.start();
        assert_eq!(reader.entries_of_block(&meter("m1"), start).await.unwrap(), [place(1)]);
        let leaf_0 = reader.openings(&new.epoch, vec![0]).await.unwrap().remove(0);
        let record = entry::succession(reason, Some(&old.origin()), Some(&signed.note()), Some("a note"));
        assert_eq!(leaf_0.record, jcs::to_vec(&record).unwrap());
        let again = house.again().await;
        assert_eq!(again.store.identity(), new);
    }
    assert!(house().store.ledger().succeed(wish(Reason::Init)).await.is_err());
}

#[tokio::test]
async fn of_a_day_the_last_checkpoint_stays_and_those_that_are_named() {
    let house = house();
    let (ledger, reader, old) = (house.store.ledger(), house.store.reader(), house.store.identity().epoch.clone());
    let mut sizes = Vec::new();
    for day in 0..3 {
        for _ in 0..4 {
            ledger.append(vec![audit(day)]).await.unwrap();
            sizes.push(ledger.checkpoint().await.unwrap().checkpoint.size);
        }
        house.clock.advance(Duration::from_secs(86_400));
    }
    let kept = async |epoch: &str, sizes: &[u64]| {
        let mut kept = Vec::new();
        for size in sizes {
            if let Some(note) = reader.checkpoint_at(epoch, *size).await.unwrap() {
                assert_eq!(note.checkpoint.size, *size);
                kept.push(*size);
            }
        }
        kept
    };
    assert_eq!(kept(&old, &sizes).await, [5, 9, 13]);
    ledger.succeed(wish(Reason::Site)).await.unwrap();
    assert_eq!(kept(&old, &sizes).await, [5, 9, 13]);
    // Without `named`, nothing but the day of its signing would keep the last one.
    let connection = rusqlite::Connection::open(config(&house.folder).path.join("evidence.db")).unwrap();
    let named: Vec<i64> = {
        let mut statement = connection.prepare("SELECT size FROM checkpoints WHERE named").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    };
    assert_eq!(named, [13]);
}

fn numbers() -> impl Strategy<Value = Number> {
    prop_oneof![
        any::<f32>().prop_filter("finite", |value| value.is_finite()).prop_map(Number::F32),
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(Number::F64),
        any::<i64>().prop_map(Number::I64),
        any::<u64>().prop_map(Number::U64),
    ]
}

/// Whole numbers that have a canonical form.
fn whole() -> impl Strategy<Value = i64> {
    -(1_i64 << 53)..=1 << 53
}

fn borders() -> impl Strategy<Value = Vec<Border>> {
    let interval = (1_u32.., any::<bool>()).prop_map(|(ms, at_end)| {
        let label = if at_end { Label::End } else { Label::Start };
        Interval { ms, label }
    });
    let border = (
        (0..Role::ALL.len(), whole(), 0..1_u64 << 53, numbers()),
        (any::<i64>(), 1..i64::MAX, prop::option::of(any::<u64>()), prop::option::of(interval)),
    )
        .prop_map(|((role, time, seq, raw), (num, den, rolls_over_at, interval))| Border {
            role: Role::ALL[role],
            time: Timestamp::from_millis(time),
            seq,
            raw,
            scale: Ratio::new(num % (1 << 53), den % (1 << 53) + 1).unwrap_or(Ratio::ONE),
            rolls_over_at,
            interval,
        });
    prop::collection::vec(border, 0..4)
}

fn blocks() -> impl Strategy<Value = Block> {
    let numbers = (
        any::<u32>(),
        prop::option::of(any::<i64>()),
        prop::option::of(any::<i64>()),
        prop::option::of(any::<i64>()),
        whole(),
        any::<u16>(),
        (0..Method::ALL.len(), any::<bool>(), any::<u16>()),
    );
    let rest =
        (borders(), borders(), borders(), borders(), any::<bool>(), "\\PC{0,9}", prop::option::of(any::<[u8; 32]>()));
    let span = (whole(), 1..1_000_000_000_i64);
    (numbers, rest, span, whole()).prop_map(
        |(
            (revision, import, export, power, covered_ms, coverage, (method, is_peak_hour, flags)),
            (before, first, pending, broken, rollover, zone, template),
            (start, len),
            sealed,
        )| {
            let time = Timestamp::from_millis;
            let pairs = broken.as_chunks::<2>().0;
            Block {
                span: Span::new(time(start - len), time(start)).unwrap(),
                revision,
                import: import.map(Energy::from_uwh),
                export: export.map(Energy::from_uwh),
                max_power: power.map(Power::from_mw),
                min_power: import.map(Power::from_mw),
                covered_ms,
                coverage,
                method: Method::ALL[method],
                is_peak_hour,
                flags: BlockFlags::from_bits(flags),
                borders: Borders {
                    last: first.iter().rev().copied().collect(),
                    after: before.iter().rev().copied().collect(),
                    before,
                    first,
                    breaks: pairs.iter().map(|[from, to]| Break { from: *from, to: *to, rollover }).collect(),
                    pending,
                },
                zone,
                template: template.map(Digest::from_bytes),
                sealed: time(sealed),
                ..block("m1", 0, 0)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn a_record_is_rebuilt_byte_for_byte_from_its_row(blocks in prop::collection::vec(blocks(), 1..20)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let house = house();
            let mut known = std::collections::BTreeSet::new();
            let blocks: Vec<Block> =
                blocks.into_iter().filter(|block| known.insert((block.span.start(), block.revision))).collect();
            seal(&house.store.ledger(), blocks.clone()).await;
            house.store.ledger().checkpoint().await.unwrap();
            let (reader, epoch) = (house.store.reader(), house.store.identity().epoch.clone());
            let indices = (1..=blocks.len() as u64).collect();
            let openings = reader.openings(&epoch, indices).await.unwrap();
            for (opening, block) in openings.iter().zip(&blocks) {
                let prev = (opening.index > 1).then(|| opening.index - 1);
                assert_eq!(opening.record, entry::with_prev(block.to_json(), prev).unwrap());
            }
            assert_eq!(openings.len(), blocks.len());
        });
    }
}

/// A record that was changed in its row is not shown as what was committed to.
#[tokio::test]
async fn a_changed_record_is_damage() {
    let house = house();
    let ledger = house.store.ledger();
    seal(&ledger, vec![block("m1", 0, 0), block("m1", 1, 0)]).await;
    ledger.checkpoint().await.unwrap();
    let connection = rusqlite::Connection::open(config(&house.folder).path.join("evidence.db")).unwrap();
    connection.execute("UPDATE blocks SET import = 5 WHERE log_index = 2", []).unwrap();
    let (reader, epoch) = (house.store.reader(), house.store.identity().epoch.clone());
    assert_eq!(reader.openings(&epoch, vec![1]).await.unwrap().len(), 1);
    let changed = reader.openings(&epoch, vec![2]).await;
    assert!(matches!(changed, Err(crate::store::StoreError::Damaged { .. })));
}
