//! A cable that is pulled, between two machines of their own: neither side is told, and every time-out runs out.

use std::net::IpAddr;
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::UpstreamState;
use meterseal::upstream::Config;
use tokio::time::{Instant, sleep, timeout};

use crate::cable::{Cable, End, THERE};
use crate::gateway::{self, Gateway, differences};
use crate::listener::{self, Listener};
use crate::mosquitto::Mosquitto;
use crate::postgres::Postgres;
use crate::proxy::{Faults, Proxy};
use crate::receiver::Receiver;
use crate::{held, local, upstreams};

/// Longer than every time-out of the upstreams of these tests. PULLED in the environment says otherwise, in seconds; from
/// 120 on the upstreams keep the time-outs that a gateway has.
const PULLED: u64 = 35;
/// On the servers' machine nobody else has a port.
const BROKER: u16 = 1_883;

#[test]
fn a_cable_that_is_pulled_for_longer_than_every_time_out_loses_nothing() {
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => return println!("left out, as no network can be made here: {why}"),
    };
    let seconds = std::env::var("PULLED").map_or(PULLED, |seconds| seconds.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let key = gateway::make(home.path());
    let (cloud, doorstep, postgres, _broker, listener) = cable.on(End::There, || {
        let cloud = Receiver::start(&home.path().join("cloud"));
        cloud.know(&key);
        // It listens to its own machine only.
        let doorstep = Proxy::start_on(IpAddr::from(THERE), local(cloud.port), Faults::default(), 1);
        let postgres = Postgres::start_with("listen_addresses = '*'");
        let broker =
            Mosquitto::start(&format!("{}\nallow_anonymous true\nlistener {BROKER} {THERE}", listener::SETTINGS));
        let mut listener = Listener::default();
        listener.listen(broker.port);
        (cloud, doorstep, postgres, broker, listener)
    });
    let all = [
        upstreams::cloud_at(THERE, doorstep.port()),
        upstreams::database_at(THERE, postgres.port),
        upstreams::broker_at(THERE, BROKER),
    ];
    let patient = seconds >= 120;
    let config = Config { upstreams: all.map(|one| if patient { upstreams::patient(one) } else { one }).to_vec() };
    let names: Vec<String> = config.upstreams.iter().map(|one| one.name.clone()).collect();
    cable.on(End::Here, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut gateway = Gateway::open(home.path(), Clock::trusted(), config).await;
            works_for(&mut gateway, Duration::from_secs(2)).await;
            for (end, seconds) in [(End::There, seconds), (End::Here, 8)] {
                cable.down(end);
                works_for(&mut gateway, Duration::from_secs(seconds)).await;
                for name in names.iter().filter(|_| end == End::There) {
                    assert_eq!(gateway.status(name).state, UpstreamState::Away, "{name} after {seconds} s");
                }
                cable.up(end);
                for name in &names {
                    gateway.until_through(name).await;
                }
            }
            let whose = gateway.store.identity().gateway.clone();
            let wanted = gateway.records().await;
            let delivered = || [held::by_receiver(&cloud), held::by_postgres(&postgres), listener.records(&whose)];
            let all_there = async {
                while delivered().iter().any(|held| held.len() < wanted.len()) {
                    sleep(Duration::from_millis(50)).await;
                }
            };
            // What the broker has handed on may still lie before the listener.
            timeout(Duration::from_secs(5), all_there).await.ok();
            for (name, held) in names.iter().zip(delivered()) {
                let differs = differences(&held, &wanted);
                assert!(differs.is_empty(), "{name}: {differs:#?}");
            }
            assert_eq!(gateway.epochs().await.len(), 1);
            gateway.close().await;
        });
    });
}

/// Takes readings and seals blocks.
async fn works_for(gateway: &mut Gateway, duration: Duration) {
    let began = Instant::now();
    while began.elapsed() < duration {
        gateway.take(5).await;
        gateway.seal().await;
        sleep(Duration::from_millis(200)).await;
    }
}
