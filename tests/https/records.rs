//! What becomes of records.

use meterseal::upstream::receiver::{Answer, Fault, Receiver as _, Rejected, Rejection};

use crate::receiver::{Cut, Faults};
use crate::sender::{Scene, hashes, identity, readings, valued};

fn taken(count: usize) -> Answer {
    Answer { taken: count, ..Answer::default() }
}

#[tokio::test]
async fn what_is_acknowledged_is_there_and_what_is_sent_again_is_there_once() {
    let mut scene = Scene::new();
    let mut sender = scene.open().await;
    let batch = readings([3, 4, 9]);
    assert_eq!(sender.deliver(&batch).await, taken(3));
    assert_eq!(sender.deliver(&readings([10])).await, taken(1));
    assert_eq!(scene.receiver.connections(), 1);
    scene.receiver.restart();
    sender.open(&identity()).await.unwrap();
    // In another batch, and beside a new one.
    assert_eq!(sender.deliver(&readings([4, 5, 9])).await, Answer { taken: 3, repeated: 2, ..Answer::default() });
    assert_eq!(scene.receiver.records(), hashes(&readings([3, 4, 5, 9, 10])));
    assert_eq!(scene.receiver.lines("readings")[0], crate::sender::line(&batch.records[0]));
}

#[tokio::test]
async fn the_first_record_under_a_key_stays() {
    let scene = Scene::new();
    let mut sender = scene.open().await;
    assert_eq!(sender.deliver(&readings([1, 2])).await, taken(2));
    let answer = sender.deliver(&valued([2, 3], 7)).await;
    let conflict = Rejected { seq: 2, why: Rejection::Conflict, told: "another record has this key".to_owned() };
    assert_eq!(answer, Answer { rejected: vec![conflict], ..taken(2) });
    let held = [hashes(&readings([1, 2])), hashes(&valued([3], 7))].into_iter().flatten().collect();
    assert_eq!(scene.receiver.records(), held);
}

#[tokio::test]
async fn a_record_that_will_not_do_is_told_and_the_others_are_taken() {
    let scene = Scene::new();
    let mut sender = scene.open().await;
    scene.receiver.set(Faults { reject: [5].into(), ..Faults::default() });
    let invalid = Rejected { seq: 5, why: Rejection::Invalid, told: "it is not as it must be".to_owned() };
    assert_eq!(sender.deliver(&readings(4..7)).await, Answer { rejected: vec![invalid], ..taken(3) });
    assert_eq!(scene.receiver.records(), hashes(&readings([4, 6])));

    scene.receiver.set(Faults { refuse: [8].into(), ..Faults::default() });
    let answer = sender.deliver(&readings(7..10)).await;
    let told = format!("{} answers 422 Unprocessable Entity: record 8 is poison", scene.receiver.url);
    assert_eq!(answer, Answer { fault: Some(Fault::Refused(told)), ..Answer::default() });
    assert_eq!(scene.receiver.records(), hashes(&readings([4, 6])));
}

#[tokio::test]
async fn a_batch_that_is_cut_off_is_sent_again_and_there_once() {
    for (cut, repeated) in [(Cut::BeforeCommit, 0), (Cut::AfterCommit, 2)] {
        let scene = Scene::new();
        let mut sender = scene.open().await;
        scene.receiver.set(Faults { cut: Some(cut), ..Faults::default() });
        let batch = readings([1, 2]);
        let answer = sender.deliver(&batch).await;
        assert!(matches!(&answer, Answer { taken: 0, fault: Some(Fault::Away(_)), .. }), "{answer:?}");
        scene.receiver.set(Faults::default());
        sender.open(&identity()).await.unwrap();
        assert_eq!(sender.deliver(&batch).await, Answer { repeated, ..taken(2) });
        assert_eq!(scene.receiver.records(), hashes(&batch));
        let batches = scene.receiver.batches();
        assert_eq!((batches.len(), &batches[0]), (2, &batches[1]), "the same batch bears the same key");
    }
}

#[tokio::test]
async fn a_batch_that_is_too_large_makes_the_next_ones_smaller() {
    let scene = Scene::new();
    let mut sender = scene.open().await;
    let batch = readings(1..1_000);
    scene.receiver.set(Faults { too_large: Some(1_000), ..Faults::default() });
    let most = sender.most(batch.stream);
    let answer = sender.deliver(&batch).await;
    assert!(matches!(&answer, Answer { taken: 0, fault: Some(Fault::TooLarge(_)), .. }), "{answer:?}");
    assert_eq!(sender.most(batch.stream), most / 2);
    assert_eq!(sender.deliver(&readings(1..5)).await, taken(4));
    assert_eq!(sender.most(batch.stream), most / 2, "it was too large once");
    sender.open(&identity()).await.unwrap();
    assert_eq!(sender.deliver(&readings(5..9)).await, taken(4));
    assert_eq!(sender.most(batch.stream), most);
}
