//! A record that the other side will not have holds up no other, is kept, and is sent again when that is mended.

use std::collections::BTreeSet;
use std::time::Duration;

use meterseal::model::{Stream, UpstreamOrder, UpstreamState};

use crate::held;
use crate::house::{House, Server};
use crate::receiver::{Cut, Faults};

const POISON: [u64; 2] = [77, 142];

/// Both are put aside, the rest is there, and once `mended` a replay brings them.
async fn is_put_aside_and_replayed(house: House, mend: impl FnOnce(&House)) {
    let mut gateway = house.open().await;
    gateway.take(100).await;
    gateway.seal().await;
    gateway.until_through(&house.name).await;
    let letters = house.letters(&gateway).await;
    let aside: BTreeSet<u64> = letters.iter().map(|letter| letter.seq).collect();
    assert_eq!(aside, BTreeSet::from(POISON), "{letters:#?}");
    assert!(letters.iter().all(|letter| !letter.reason.is_empty() && letter.attempts == 1), "{letters:#?}");
    house.check_all_but(&gateway, &aside).await;
    let status = gateway.status(&house.name);
    assert_eq!((status.state, status.dead_letters), (UpstreamState::Connected, 2), "{status:#?}");

    // While it is not mended, a replay changes nothing but how often it was tried.
    let replay = || UpstreamOrder::Replay { upstream: house.name.clone(), ids: None };
    gateway.order(replay()).await.unwrap();
    while house.letters(&gateway).await.iter().any(|letter| letter.attempts < 2) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(house.letters(&gateway).await.len(), 2);

    // It outlives a restart.
    gateway.close().await;
    let mut gateway = house.open().await;
    mend(&house);
    gateway.order(replay()).await.unwrap();
    gateway.until(&house.name, "no dead letter is left", |status| status.dead_letters == 0).await;
    gateway.take(10).await;
    gateway.until_through(&house.name).await;
    house.check(&gateway).await;
    gateway.close().await;
}

#[tokio::test]
async fn a_body_that_is_refused_is_halved_until_the_record_is_found() {
    let house = House::new(Server::cloud());
    house.cloud().set(Faults { refuse: BTreeSet::from(POISON), ..Faults::default() });
    is_put_aside_and_replayed(house, |house| house.cloud().set(Faults::default())).await;
}

#[tokio::test]
async fn records_that_are_named_as_rejected_are_put_aside() {
    let house = House::new(Server::cloud());
    house.cloud().set(Faults { reject: BTreeSet::from(POISON), ..Faults::default() });
    is_put_aside_and_replayed(house, |house| house.cloud().set(Faults::default())).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_stored_is_put_aside() {
    let house = House::new(Server::database());
    // The schema is made by the first connection.
    let gateway = house.open().await;
    gateway.until(&house.name, "it is connected", |status| status.state == UpstreamState::Connected).await;
    gateway.close().await;
    let [first, second] = POISON;
    let check = format!("ALTER TABLE meterseal.readings ADD CONSTRAINT poison CHECK (seq NOT IN ({first}, {second}))");
    house.postgres().psql(&check);
    is_put_aside_and_replayed(house, |house| {
        house.postgres().psql("ALTER TABLE meterseal.readings DROP CONSTRAINT poison");
    })
    .await;
}

/// More dead letters than go in one batch, to a backend that has the first batch and dies before it says so.
#[tokio::test]
async fn a_backend_that_fails_in_the_middle_of_a_replay_has_each_of_them_once() {
    let mut house = House::new(Server::cloud());
    house.cloud().set(Faults { reject: (11..=260).collect(), ..Faults::default() });
    let mut gateway = house.open().await;
    gateway.take(100).await;
    gateway.until_through(&house.name).await;
    assert_eq!(house.letters(&gateway).await.len(), 250);
    let replay = || UpstreamOrder::Replay { upstream: house.name.clone(), ids: None };
    let arrived = |house: &House| {
        let held = held::by_receiver(house.cloud()).into_keys();
        held.filter(|(_, stream, seq)| *stream == Stream::Readings && (11..=260).contains(seq)).count()
    };

    house.cloud().set(Faults { cut: Some(Cut::BeforeCommit), ..Faults::default() });
    gateway.order(replay()).await.unwrap();
    gateway.until(&house.name, "it is away", |status| status.state == UpstreamState::Away).await;
    assert_eq!(arrived(&house), 0);
    house.cloud().set(Faults { cut: Some(Cut::AfterCommit), ..Faults::default() });
    while arrived(&house) == 0 {
        gateway.order(replay()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(arrived(&house) < 250, "not all in one batch");
    assert_eq!(house.letters(&gateway).await.len(), 250, "none is gone that was not acknowledged");
    let Server::Cloud(cloud, _) = &mut house.server else { unreachable!() };
    cloud.kill();
    gateway.take(10).await;
    cloud.set(Faults::default());
    cloud.restart();

    // A replay is given up after some failures in a row; what is left of it is there for the next one.
    while !house.letters(&gateway).await.is_empty() {
        let replay = UpstreamOrder::Replay { upstream: house.name.clone(), ids: None };
        gateway.order(replay).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gateway.until_through(&house.name).await;
    house.check(&gateway).await;
    let status = gateway.status(&house.name);
    let (_, readings) = status.streams.iter().find(|(stream, _)| *stream == Stream::Readings).unwrap();
    assert!(readings.repeated >= 200, "{readings:?}");
    gateway.close().await;
}
