//! A store that went back in time, and a receiver that has other records under our keys.

use std::path::Path;

use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::far::Memory;
use super::*;
use crate::model::entry::Reason;
use crate::store::Succession;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

impl House {
    async fn close(&mut self) {
        self.store.take().unwrap().close().await.unwrap();
    }

    fn open(&mut self) {
        self.store = Some(Store::open(config_in(&self.folder), self.clock.clone(), None).unwrap());
        self.newest.send_replace(None);
    }
}

/// Yesterday's store is put back, and today's readings are others than those that went out.
#[tokio::test]
async fn a_store_of_yesterday_begins_an_epoch_and_all_arrives() {
    for memory in [Memory::Keys, Memory::Positions] {
        let mut house = House::new();
        let far = Far::new(memory);
        let both = || vec![upstream("a", "", &ALL), upstream("b", "", &[Stream::Readings])];
        let other = Far::new(Memory::None);
        let fars = [("a", &far), ("b", &other)];
        house.readings(60).await;
        house.blocks(4).await;
        let agent = Agent::new(&house, &fars, both());
        house.until_delivered("a").await;
        house.until_delivered("b").await;
        agent.stop().await;
        house.close().await;
        let (path, aside) = (config_in(&house.folder).path, house.folder.path().join("yesterday"));
        copy(&path, &aside);

        house.open();
        house.readings(40).await;
        house.blocks(3).await;
        let agent = Agent::new(&house, &fars, both());
        house.until_delivered("a").await;
        agent.stop().await;
        house.close().await;
        let before = far.records();

        std::fs::remove_dir_all(&path).unwrap();
        copy(&aside, &path);
        house.open();
        let old = house.store().identity();
        house.clock.advance(Duration::from_secs(3_600));
        house.blocks = 4;
        house.readings(70).await;
        house.blocks(5).await;
        let agent = Agent::new(&house, &fars, both());
        let is_new = || house.store().identity().epoch != old.epoch;
        house.until("an epoch began", is_new).await;
        house.sign().await;
        house.until_delivered("a").await;
        house.until_delivered("b").await;
        agent.stop().await;

        // What went out before stays as it is; what came since is there once, under keys of the new epoch.
        let now = house.records(&ALL[1..]).await;
        let records = far.records();
        let mut expected = before.clone();
        expected.extend(now.clone());
        assert!(records.keys().eq(expected.keys()), "{memory:?}: {} of {}", records.len(), expected.len());
        assert_eq!(records, expected);
        let of_new = now.keys().filter(|(epoch, ..)| *epoch != old.epoch);
        assert_eq!(of_new.count(), 70 + 5 + 1, "readings, blocks, and the alert of it");
        let alerts = house.alerts_of(AlertKind::LogBeganAnew).await;
        assert_eq!(alerts.len(), 1, "{alerts:?}");
        let epochs = house.store().reader().epochs().await.unwrap();
        assert_eq!(epochs.len(), 2, "one epoch, however often it is asked");
        let letters = house.store().reader().dead_letter_count("a").await.unwrap();
        assert_eq!(letters, 0);
    }
}

#[tokio::test]
async fn other_records_under_our_keys_begin_one_epoch_and_are_dead_letters_then() {
    let house = House::new();
    house.readings(50).await;
    let far = Far::new(Memory::Keys);
    far.state().is_witness = false;
    let old = house.store().identity();
    for seq in 11..=20 {
        far.state().records.insert((old.epoch.clone(), Stream::Readings, seq), "another".to_owned());
    }
    let streams = [Stream::Readings];
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &streams)]);
    house.until("an epoch began", || house.store().identity().epoch != old.epoch).await;
    house.until_delivered("a").await;
    let records = far.records();
    for (key, line) in house.records(&streams).await {
        assert!(
            records.get(&key) == Some(&line) || records.contains_key(&(old.epoch.clone(), key.1, key.2)),
            "{key:?}"
        );
        assert!(!(11..=20).contains(&key.2) || records.get(&key) == Some(&line), "{key:?} was not sent anew");
    }
    // Once more, under the keys of the new epoch: it is not to be helped so.
    house.readings(30).await;
    let new = house.store().identity();
    for seq in 81..=83 {
        far.state().records.insert((new.epoch.clone(), Stream::Readings, seq), "another".to_owned());
    }
    house.readings(10).await;
    house.until("they are dead letters", || house.status("a").dead_letters == 3).await;
    house.until_delivered("a").await;
    assert_eq!(house.store().identity(), new);
    agent.stop().await;
}

/// The store is put back by several epochs, of which a key of another one signed the last: one epoch begins, or one more
/// when the receiver that knows less is the first to come.
#[tokio::test]
async fn a_store_of_several_epochs_ago_begins_an_epoch_for_what_nobody_showed_before() {
    for is_better_first in [true, false] {
        let mut house = House::new();
        let (a, b) = (Far::new(Memory::Keys), Far::new(Memory::Keys));
        let fars = [("a", &a), ("b", &b)];
        let both = || vec![upstream("a", "", &ALL), upstream("b", "", &ALL)];
        house.readings(60).await;
        house.blocks(3).await;
        let agent = Agent::new(&house, &fars, both());
        house.until_delivered("a").await;
        house.until_delivered("b").await;
        agent.stop().await;
        house.close().await;
        let (path, aside) = (config_in(&house.folder).path, house.folder.path().join("aside"));
        copy(&path, &aside);

        for reason in [Reason::Rollback, Reason::KeyRotation] {
            house.open();
            let wish = Succession { reason, site: None, last_outside: None, since_open: true };
            house.store().ledger().succeed(wish).await.unwrap();
            house.readings(20).await;
            house.blocks(2).await;
            // The second one has not seen the last epoch.
            b.state().is_away = reason == Reason::KeyRotation;
            let agent = Agent::new(&house, &fars, both());
            house.until_delivered("a").await;
            if reason == Reason::Rollback {
                house.until_delivered("b").await;
            }
            agent.stop().await;
            house.close().await;
        }
        assert_eq!((a.state().held.len(), b.state().held.len()), (3, 2), "epochs that each has seen");
        let before = fars.map(|(_, far)| far.records());

        std::fs::remove_dir_all(&path).unwrap();
        copy(&aside, &path);
        house.open();
        let old = house.store().identity();
        house.clock.advance(Duration::from_secs(3_600));
        house.blocks = 3;
        house.readings(30).await;
        house.blocks(2).await;
        (a.state().is_away, b.state().is_away) = (!is_better_first, is_better_first);
        let agent = Agent::new(&house, &fars, both());
        house.until("an epoch began", || house.store().identity().epoch != old.epoch).await;
        let first = house.store().identity();
        (a.state().is_away, b.state().is_away) = (false, false);
        if !is_better_first {
            house.until("another epoch began", || house.store().identity().epoch != first.epoch).await;
        }
        agent.stop().await;
        for _ in 0..2 {
            let agent = Agent::new(&house, &fars, both());
            house.sign().await;
            house.until_delivered("a").await;
            house.until_delivered("b").await;
            agent.stop().await;
        }
        let alerts = house.alerts_of(AlertKind::LogBeganAnew).await;
        let epochs = if is_better_first { 2 } else { 3 };
        assert_eq!((house.epochs().await, alerts.len() + 1), (epochs, epochs), "{alerts:?}");
        for ((name, far), mut expected) in fars.into_iter().zip(before) {
            let now = house.records(&ALL[1..]).await;
            let records = far.records();
            assert!(now.iter().all(|(key, line)| records.get(key) == Some(line)), "{name}, {is_better_first}");
            expected.extend(now);
            assert!(records == expected || !is_better_first, "{name} has more");
        }
    }
}

/// Two contradict while a third one is at a batch: its answer is waited for, and then one epoch begins for both.
#[tokio::test]
async fn conflicts_of_two_while_a_third_one_delivers_begin_one_epoch() {
    let house = House::new();
    house.readings(60).await;
    let old = house.store().identity();
    let streams = [Stream::Readings];
    let fars: BTreeMap<&str, Far> = ["a", "b", "c"].into_iter().map(|name| (name, Far::new(Memory::Keys))).collect();
    // No reading has the seq 0: the third one contradicts nothing.
    let others = [("a", 11..=20), ("b", 31..=40), ("c", 0..=0)];
    for (name, others) in others.clone() {
        let mut state = fars[name].state();
        state.is_witness = false;
        let key = |seq| (old.epoch.clone(), Stream::Readings, seq);
        state.records.extend(others.map(|seq| (key(seq), "another".to_owned())));
    }
    fars["c"].state().ponders = true;
    let named: Vec<(&str, &Far)> = fars.iter().map(|(name, far)| (*name, far)).collect();
    let began = house.clock.now();
    let agent = Agent::new(&house, &named, fars.keys().map(|name| upstream(name, "", &streams)).collect());
    house.until("all have a batch", || fars.values().all(|far| far.state().batches > 0)).await;
    for _ in 0..10 {
        house.pass(Duration::from_millis(100)).await;
    }
    // On a busy machine so much time passes by the clock set by hand, until all have a batch, that the third one's answer is overdue.
    let is_over = house.clock.now().millis_since(began) > 50_000;
    assert!(is_over || house.store().identity() == old, "not while one delivers under the old keys");
    fars["c"].state().ponders = false;
    house.until("an epoch began", || house.store().identity().epoch != old.epoch).await;
    for name in fars.keys() {
        house.until_delivered(name).await;
    }
    agent.stop().await;
    assert_eq!(house.epochs().await, 2);
    assert_eq!(house.alerts_of(AlertKind::LogBeganAnew).await.len(), 1);
    for (name, others) in others {
        let records = fars[name].records();
        for (key, line) in house.records(&streams).await {
            let former = records.get(&(old.epoch.clone(), key.1, key.2));
            let is_there = records.get(&key) == Some(&line) || former == Some(&line);
            assert!(is_there, "{name} lacks {key:?}");
            assert!(!others.contains(&key.2) || former.is_some_and(|former| former == "another"), "{name}: {key:?}");
        }
        assert_eq!(house.store().reader().dead_letter_count(name).await.unwrap(), 0);
    }
}

/// Takes the store away when an epoch has begun, before that is told.
struct Thief {
    path: std::path::PathBuf,
    is_done: Arc<AtomicBool>,
}

impl<S: tracing::Subscriber> Layer<S> for Thief {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Says(bool);
        impl tracing::field::Visit for Says {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 |= field.name() == "message" && format!("{value:?}").starts_with("the log began anew");
            }
        }
        let mut says = Says(false);
        event.record(&mut says);
        if says.0 && !self.is_done.swap(true, Ordering::SeqCst) {
            std::fs::rename(&self.path, self.path.with_extension("away")).unwrap();
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_when_an_epoch_has_begun_begins_no_other() {
    let house = House::new();
    house.readings(50).await;
    let far = Far::new(Memory::Keys);
    let old = house.store().identity();
    far.state().is_witness = false;
    far.state().records.insert((old.epoch.clone(), Stream::Readings, 7), "another".to_owned());
    let (path, is_away) = (config_in(&house.folder).path, Arc::new(AtomicBool::default()));
    let thief = Thief { path: path.clone(), is_done: is_away.clone() };
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(thief));
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    house.until("the store is away", || is_away.load(Ordering::SeqCst)).await;
    // It is tried again and again.
    for _ in 0..300 {
        house.pass(Duration::from_millis(100)).await;
    }
    std::fs::rename(path.with_extension("away"), &path).unwrap();
    house.until_delivered("a").await;
    agent.stop().await;
    assert_eq!((house.epochs().await, house.alerts_of(AlertKind::LogBeganAnew).await.len()), (2, 1));
    let new = house.store().identity().epoch.clone();
    assert!(far.records().contains_key(&(new, Stream::Readings, 7)), "it was not sent anew");
}
