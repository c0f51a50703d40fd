//! Publishing instead of listening: for the simulated meters, which talk to a real broker.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{self, Heard};
use super::dial::Dial;
use super::{Broker, check};
use crate::clock::Clock;

/// The pause before a lost connection is made again.
const AGAIN: Duration = Duration::from_secs(2);

/// Publishes what comes, topic and text, until stopped. While there is no connection, what comes is dropped: a meter
/// that measures again has no use for its old values.
pub async fn talk(
    broker: &Broker,
    mut messages: mpsc::Receiver<(String, String)>,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), String> {
    check(broker)?;
    let dial = Dial::new(broker)?;
    while !stop.is_cancelled() {
        let (sender, mut receiver) = connection::open(broker, &dial)?;
        let mut connected = false;
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => {
                    sender.disconnect().await?;
                    while receiver.next().await.is_ok() {}
                    return Ok(());
                }
                heard = receiver.next() => match heard {
                    Ok(Heard::Connected { .. }) => connected = true,
                    Ok(_) => {}
                    Err(why) => break why,
                },
                Some((topic, text)) = messages.recv() => {
                    if connected && let Err(why) = sender.publish(&topic, &text, false).await {
                        break why;
                    }
                }
            }
        };
        warn!(broker = %broker.name, problem = %ended, "simulated meters cannot publish");
        clock.sleep(AGAIN).await;
    }
    Ok(())
}
