//! Checkpoints: what is held, and what goes on from there.

use meterseal::upstream::receiver::{Fault, Receiver as _, Witness};

use crate::sender::{EPOCH, GATEWAY, Log, Scene, identity, sender};

#[tokio::test]
async fn a_checkpoint_is_taken_when_it_goes_on_from_the_one_that_is_held() {
    let mut scene = Scene::new();
    let log = &scene.log;
    let mut sender = scene.open().await;
    assert_eq!(sender.witness(&log.witness(0, 5)).await, Ok(Some(log.signed(5))));
    assert_eq!(sender.witness(&log.witness(5, 9)).await, Ok(Some(log.signed(9))));
    assert_eq!(sender.witness(&log.witness(9, 9)).await, Ok(Some(log.signed(9))), "once more");
    scene.receiver.restart();
    assert_eq!(sender.open(&identity()).await.unwrap().held, [scene.log.signed(9)]);
}

#[tokio::test]
async fn one_that_holds_another_says_so_and_takes_nothing() {
    let scene = Scene::new();
    let log = &scene.log;
    let mut sender = scene.open().await;
    assert_eq!(sender.witness(&log.witness(5, 9)).await, Ok(None), "it holds none");
    sender.witness(&log.witness(0, 5)).await.unwrap();
    for old in [0, 4] {
        assert_eq!(sender.witness(&log.witness(old, 9)).await, Ok(Some(log.signed(5))), "it holds 5, and not {old}");
    }
    assert_eq!(sender.witness(&log.witness(5, 9)).await, Ok(Some(log.signed(9))));
    assert_eq!(sender.witness(&log.witness(5, 7)).await, Ok(Some(log.signed(9))), "it never goes back");
}

#[tokio::test]
async fn what_does_not_follow_or_is_by_another_key_stops_the_upstream() {
    let scene = Scene::new();
    let log = &scene.log;
    let mut sender = scene.open().await;
    sender.witness(&log.witness(0, 5)).await.unwrap();
    let mut forged = log.witness(5, 9);
    forged.checkpoint.signatures[0].signature[7] ^= 1;
    let another_log = Log::new(9, 9).witness(5, 9);
    let without_proof = Witness { consistency: Vec::new(), ..log.witness(5, 9) };
    let back = Witness { checkpoint: log.signed(3), old: 5, consistency: Vec::new() };
    let elsewhere = format!("plant-7/{GATEWAY}/{EPOCH}x");
    let fork = Witness { checkpoint: Log::new(9, 9).signed(5), old: 5, consistency: Vec::new() };
    for (witness, part) in [
        (forged, "the signature is by no key"),
        (another_log, "does not go on from"),
        (without_proof, "does not go on from"),
        (back, "does not go on from"),
        (fork, "does not go on from"),
    ] {
        let Err(Fault::Stopped(told)) = sender.witness(&witness).await else { panic!("{part}") };
        assert!(told.contains(part) && told.contains("`meterseal key show`"), "{told}");
    }
    // Another epoch of the same gateway, by the same key, stands beside it.
    let other = Witness { checkpoint: log.signed_as(&elsewhere, 4), old: 0, consistency: Vec::new() };
    assert_eq!(sender.witness(&other).await, Ok(Some(other.checkpoint.clone())));
    assert_eq!(sender.open(&identity()).await.unwrap().held, [log.signed(5), other.checkpoint]);
}

#[tokio::test]
async fn a_gateway_that_is_not_known_is_told() {
    let scene = Scene::without_gateway();
    let Err(Fault::Stopped(told)) = sender(&scene.receiver.url).open(&identity()).await else { panic!() };
    assert!(told.contains("403 Forbidden: this gateway is not known here; does it know this gateway"), "{told}");
}
