//! A server that has no room, or has lost a table, is told of; when it is mended all goes on.

use meterseal::model::{UpstreamState, UpstreamStatus};

use crate::house::{House, Server, problem};
use crate::postgres::{DATABASE, USER};
use crate::small_disk::Disk;

#[tokio::test]
async fn a_full_disk_of_postgresql_holds_up_and_puts_nothing_aside() {
    let Some(disk) = Disk::mount(24) else { return };
    let house = House::new(Server::database());
    let server = house.postgres();
    let space = disk.path().join("space");
    std::fs::create_dir(&space).unwrap();
    server.give(&space, 0o700);
    server.psql_in("postgres", &format!("CREATE TABLESPACE small OWNER {USER} LOCATION '{}'", space.display()));
    server.psql_in("postgres", &format!("ALTER DATABASE {DATABASE} SET default_tablespace = small"));
    let mut gateway = house.open().await;
    gateway.take(50).await;
    gateway.seal().await;
    gateway.until_through("database").await;

    // All that is left, to the last page.
    disk.fill();
    gateway.take(2_000).await;
    let is_told = |status: &UpstreamStatus| {
        status.state != UpstreamState::Connected && problem(status).to_lowercase().contains("full")
    };
    gateway.until("database", "a person is told that there is no room", is_told).await;
    disk.make_room();
    gateway.until_through("database").await;
    assert!(house.letters(&gateway).await.is_empty());
    house.check(&gateway).await;
    gateway.close().await;
}

/// What was in the table comes once more, as nothing else would make it whole.
#[tokio::test]
async fn a_table_that_was_dropped_is_made_and_filled_anew() {
    let house = House::new(Server::database());
    let mut gateway = house.open().await;
    gateway.take(50).await;
    gateway.seal().await;
    gateway.until_through("database").await;
    house.postgres().psql("DROP TABLE meterseal.readings CASCADE; DROP TABLE meterseal.alerts CASCADE");
    gateway.take(50).await;
    gateway.until("database", "the table is missed", |status| status.retries > 0).await;
    gateway.until_through("database").await;
    house.check(&gateway).await;
    gateway.close().await;
}
