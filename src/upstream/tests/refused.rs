//! What the other side will not have, however much of it there is.

use super::far::{Memory, Refusing};
use super::*;
use crate::model::UpstreamState;
use crate::upstream::delivery::LETTERS;

const READINGS: [Stream; 1] = [Stream::Readings];

impl House {
    /// The seqs of its dead letters, in order.
    async fn letters(&self, name: &str) -> Vec<u64> {
        let reader = self.store().reader();
        let mut seqs: Vec<u64> = Vec::new();
        let mut before = None;
        loop {
            let letters = reader.dead_letters(name, before, 1_000).await.unwrap();
            let Some(last) = letters.last() else { break };
            before = Some(last.id);
            seqs.extend(letters.iter().map(|letter| letter.seq));
        }
        seqs.sort_unstable();
        seqs
    }
}

#[tokio::test]
async fn more_dead_letters_than_are_kept_stop_it_until_they_are_discarded() {
    let house = House::new();
    house.readings(10_010).await;
    let far = Far::new(Memory::Keys);
    far.state().most = 5_000;
    far.state().bad = (1..=10_004).map(|seq| (Stream::Readings, seq)).collect();
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &READINGS)]);
    house.until("it is stopped", || house.status("a").state == UpstreamState::Stopped).await;
    let status = house.status("a");
    assert_eq!(status.dead_letters, LETTERS, "as many as there is room for");
    assert!(status.problem.is_some_and(|told| told.contains("10000 records") && told.contains("discard")));
    house.until_by(Duration::from_secs(60), "it is asked again", || far.state().opened == 3).await;
    let alerts = house.alerts_of(AlertKind::UpstreamStopped).await;
    assert_eq!((alerts.len(), alerts[0].cleared), (1, None), "{alerts:?}");

    house.order(&agent, UpstreamOrder::Discard { upstream: "a".to_owned(), ids: None }).await.unwrap();
    house.until_delivered("a").await;
    house.until("the last ones are dead letters", || house.status("a").dead_letters == 4).await;
    agent.stop().await;
    assert!(far.seqs(Stream::Readings).into_iter().eq(10_005..=10_010));
    assert!(house.alerts_of(AlertKind::UpstreamStopped).await[0].cleared.is_some());
}

#[tokio::test]
async fn one_that_contradicts_everything_has_one_epoch_begin_and_dead_letters_then() {
    let house = House::new();
    house.readings(60).await;
    let far = Far::new(Memory::Keys);
    (far.state().is_witness, far.state().contradicts) = (false, true);
    for (count, more) in [(60, 20), (80, 20), (100, 0)] {
        let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &READINGS)]);
        house.until("all are dead letters", || house.status("a").dead_letters == count).await;
        agent.stop().await;
        assert!(house.letters("a").await.into_iter().eq(1..=count), "each once");
        assert_eq!(house.epochs().await, 2, "whatever it says, and whatever restarts");
        house.readings(more).await;
    }
    assert_eq!(house.alerts_of(AlertKind::LogBeganAnew).await.len(), 1);
    assert_eq!(far.records(), BTreeMap::new());
}

#[tokio::test]
async fn one_that_contradicts_more_than_is_kept_is_stopped() {
    let house = House::new();
    house.readings(10_010).await;
    let far = Far::new(Memory::Keys);
    (far.state().is_witness, far.state().contradicts, far.state().most) = (false, true, 5_000);
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &READINGS)]);
    house.until("it is stopped", || house.status("a").state == UpstreamState::Stopped).await;
    let status = house.status("a");
    assert!(status.problem.is_some_and(|told| told.contains("10000 records")));
    assert_eq!(status.dead_letters, LETTERS);
    // Discarded, they are given up; the rest becomes dead letters in their stead.
    house.order(&agent, UpstreamOrder::Discard { upstream: "a".to_owned(), ids: None }).await.unwrap();
    house.until("the last ones are dead letters", || house.status("a").dead_letters == 10).await;
    house.until_delivered("a").await;
    agent.stop().await;
    assert_eq!(house.epochs().await, 2);
}

#[tokio::test]
async fn without_keys_the_refused_ones_are_found_and_nothing_comes_twice() {
    for refusing in [Refusing::Listed, Refusing::Aside, Refusing::Whole] {
        for largest in [7, usize::MAX] {
            let house = House::new();
            house.readings(230).await;
            let far = Far::new(Memory::None);
            let bad = [3, 77, 78, 230];
            (far.state().refusing, far.state().largest) = (refusing, largest);
            far.state().bad = bad.iter().map(|seq| (Stream::Readings, *seq)).collect();
            let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &READINGS)]);
            house.until_delivered("a").await;
            agent.stop().await;
            assert_eq!(house.letters("a").await, bad, "{refusing:?}");
            let mut expected = house.records(&READINGS).await;
            expected.retain(|(.., seq), _| !bad.contains(seq));
            assert_eq!(far.records(), expected, "{refusing:?}");
            let came = far.state().came.iter().filter(|(_, seq)| !bad.contains(seq)).count();
            assert_eq!(came, 226, "{refusing:?}: something came twice");
        }
    }
}
