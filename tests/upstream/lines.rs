//! Lines that are dead for long, of one upstream or of all.

use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{Stream, Timestamp, UpstreamState};
use meterseal::upstream::Config;
use tokio::time::Instant;

use crate::house::{House, Server};
use crate::proxy::{Faults, Line, Proxy};
use crate::{local, upstreams};

#[tokio::test]
async fn an_upstream_that_is_dead_all_the_while_holds_up_no_other() {
    let house = House::new(Server::database());
    let silent = Proxy::start(local(1), Faults::default(), 1);
    silent.line(Line::Dark);
    let mut gateway = house.open().await;
    gateway.configure(Config { upstreams: vec![upstreams::cloud(silent.port()), house.upstream()] });
    for _ in 0..10 {
        let began = Instant::now();
        gateway.take(50).await;
        gateway.seal().await;
        gateway.until_through("database").await;
        assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    }
    house.check(&gateway).await;
    let dead = gateway.until("cloud", "it is away", |status| status.state == UpstreamState::Away).await;
    let readings = &dead.streams.iter().find(|(stream, _)| *stream == Stream::Readings).unwrap().1;
    assert!(readings.sent == 0 && readings.depth >= 1_000, "{dead:#?}");
    gateway.close().await;
}

/// An hour by the clock of all that waits in the gateway.
#[tokio::test]
async fn an_hour_without_a_broker_loses_nothing() {
    let mut house = House::new(Server::broker());
    house.clock = Clock::manual(Timestamp::from_millis(1_763_726_400_000));
    let mut gateway = house.open().await;
    gateway.take(20).await;
    gateway.until_through("broker").await;
    let Server::Broker(broker, _) = &mut house.server else { unreachable!() };
    broker.kill();
    house.network.line(Line::Down);
    for minute in 0..60 {
        house.clock.advance(Duration::from_secs(60));
        gateway.take(20).await;
        if minute % 30 == 0 {
            gateway.seal().await;
        }
    }
    gateway.until("broker", "it is away", |status| status.state == UpstreamState::Away).await;
    let Server::Broker(broker, listener) = &mut house.server else { unreachable!() };
    broker.start_again();
    listener.listen(broker.port);
    house.network.line(Line::Up);
    house.clock.advance(Duration::from_secs(60));
    gateway.until_through("broker").await;
    house.check(&gateway).await;
    gateway.close().await;
}
