//! A gateway that is restored from yesterday's backup opens a new epoch, and all that anybody ever acknowledged is upstream, once.

use crate::gateway::Records;
use crate::house::{House, Server};
use crate::kill::copy_folder;
use crate::proxy::Line;

/// What is known of the restored store outside of it.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    /// The mark lies on another disk, and is newer.
    Stays,
    /// It went with the store.
    Gone,
}

/// What happens after the restore, before the line is up.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// The gateway finds the line up.
    Connects,
    /// It takes readings without a line, and ends and starts once more.
    WorksWithoutALine,
}

/// How the store comes back.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// Its folder was copied.
    Copy,
    /// `meterseal backup` and `restore`, with the key.
    Backup,
}

async fn goes_on_in_a_new_epoch(server: Server, mark: Mark, then: Then, by: By) {
    let house = House::new(server);
    let mut gateway = house.open().await;
    let whose = gateway.store.identity().gateway.clone();
    gateway.take(100).await;
    gateway.seal().await;
    gateway.until_through(&house.name).await;
    let at_backup = gateway.records().await;
    let backup = gateway.back_up(house.folder.path(), true).await;
    gateway.close().await;
    let (store, yesterday) = (house.folder.path().join("store"), house.folder.path().join("yesterday"));
    copy_folder(&store, &yesterday);

    let mut gateway = house.open().await;
    gateway.take(200).await;
    gateway.seal().await;
    gateway.seal().await;
    gateway.until_through(&house.name).await;
    house.check(&gateway).await;
    let today = gateway.records().await;
    gateway.close().await;

    match by {
        By::Copy => copy_folder(&yesterday, &store),
        By::Backup => crate::gateway::restore(house.folder.path(), &backup),
    }
    if mark == Mark::Gone {
        std::fs::remove_file(house.folder.path().join("mark")).unwrap();
    }
    let mut acknowledged = Vec::new();
    if then == Then::WorksWithoutALine {
        house.network.line(Line::Down);
        for _ in 0..2 {
            let mut gateway = house.open().await;
            acknowledged.extend(gateway.take(30).await);
            gateway.seal().await;
            gateway.close().await;
        }
        house.network.line(Line::Up);
    }
    let mut gateway = house.open().await;
    acknowledged.extend(gateway.take(50).await);
    gateway.seal().await;
    gateway.until_through(&house.name).await;
    acknowledged.extend(gateway.take(20).await);
    gateway.seal().await;
    gateway.until_through(&house.name).await;

    let letters = house.letters(&gateway).await;
    assert!(letters.is_empty(), "{letters:#?}");
    let epochs = gateway.epochs().await;
    assert_eq!(epochs.len(), 2, "{epochs:?}");
    let now = gateway.records().await;
    // What was there before the backup keeps its key, and is sent no second time under another one.
    for (key, hash) in &at_backup {
        assert_eq!(now.get(key), Some(hash), "{key:?}");
    }
    // All that was acknowledged since is there under the new one.
    let new: Vec<_> = now.iter().filter(|((epoch, ..), _)| *epoch == epochs[1]).collect();
    for (seq, hash) in &acknowledged {
        assert!(new.iter().any(|((.., own), stored)| own == seq && *stored == hash), "reading {seq} is not there");
    }
    if then == Then::Connects {
        assert_eq!(new.len() + at_backup.len(), now.len(), "something new bears the old epoch");
    }
    // And what the store lost was delivered before, and stays as it was.
    let mut wanted: Records = today;
    wanted.extend(now);
    let held = house.server.held(&whose);
    let differs = crate::gateway::differences(&held, &wanted);
    assert!(differs.is_empty(), "{differs:#?}");
    gateway.close().await;
}

macro_rules! restored {
    ($name:ident, $server:expr, $mark:expr, $then:expr) => {
        restored!($name, $server, $mark, $then, By::Copy);
    };
    ($name:ident, $server:expr, $mark:expr, $then:expr, $by:expr) => {
        #[tokio::test]
        async fn $name() {
            goes_on_in_a_new_epoch($server, $mark, $then, $by).await;
        }
    };
}

restored!(a_receiver_is_told_by_the_mark, Server::cloud(), Mark::Stays, Then::Connects);
restored!(a_receiver_tells_by_its_checkpoint, Server::cloud(), Mark::Gone, Then::Connects);
restored!(a_receiver_tells_after_days_without_a_line, Server::cloud(), Mark::Gone, Then::WorksWithoutALine);
restored!(postgresql_is_told_by_the_mark, Server::database(), Mark::Stays, Then::Connects);
restored!(postgresql_tells_by_its_checkpoint, Server::database(), Mark::Gone, Then::Connects);
restored!(postgresql_tells_after_days_without_a_line, Server::database(), Mark::Gone, Then::WorksWithoutALine);
restored!(a_broker_is_told_by_the_mark, Server::broker(), Mark::Stays, Then::Connects);
restored!(a_broker_tells_by_its_checkpoint, Server::broker(), Mark::Gone, Then::Connects);
restored!(a_receiver_meets_a_restored_backup, Server::cloud(), Mark::Gone, Then::WorksWithoutALine, By::Backup);
restored!(a_broker_meets_a_restored_backup, Server::broker(), Mark::Gone, Then::Connects, By::Backup);
