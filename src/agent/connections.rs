//! Tests of connections that the page asks for: the credentials are here, and not in the web.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::evidence;
use crate::evidence::influx::{self, Influx};
use crate::web::{Credentials, TestFault, TestNow, Tested};

/// Tests that are asked for; who asks for one more waits.
pub const ASKED: usize = 4;
/// Tests under way. Who asks for one more waits in the queue.
const UNDER_WAY: usize = 4;

pub async fn run(
    mut asked: mpsc::Receiver<TestNow>,
    config: watch::Receiver<Arc<evidence::Config>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(ended) = tasks.join_next() => ended.context("a test of a connection")?,
            now = asked.recv(), if tasks.len() < UNDER_WAY => {
                let Some(TestNow { name, mut tell }) = now else {
                    // Nobody can ask any more: the program is stopping.
                    stop.cancelled().await;
                    return Ok(());
                };
                let connection = config.borrow().connections.iter().find(|known| known.name == name).cloned();
                tasks.spawn(async move {
                    let tested = match connection {
                        // Between the list and here the config was read again.
                        None => Err(TestFault::NoConnection(name)),
                        Some(connection) => tokio::select! {
                            tested = test(&connection) => tested,
                            () = tell.closed() => return,
                        },
                    };
                    // Who asked has gone: then nobody wants to know.
                    tell.send(tested).ok();
                });
            }
        }
    }
}

async fn test(connection: &influx::Connection) -> Result<Tested, TestFault> {
    let failed = |error: influx::InfluxError| TestFault::Failed(error.to_string());
    let tested = Influx::open(connection).map_err(failed)?.test().await.map_err(failed)?;
    let credentials = match tested.credentials {
        influx::Credentials::Proven => Credentials::Proven,
        influx::Credentials::NotAsked => Credentials::NotAsked,
    };
    Ok(Tested { server_version: tested.server_version, credentials })
}
