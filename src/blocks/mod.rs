//! Seals what is due. The rule itself is pure and reads neither clock nor store.

pub mod clock_rule;
pub mod interval;
mod live;
pub mod register;
pub mod rule;
mod seal;
mod sum;
pub mod track;
mod walk;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::live::Live;
pub use self::live::look;
use self::seal::Sealer;
use crate::clock::Clock;
use crate::model::{Meter, MeterId, OpenBlock, PeakWindow, Span, Timestamp};
use crate::store::{Ledger, Reader, StoreError};

/// Tariff and meters, as far as blocks need them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// IANA name of the zone.
    pub timezone: String,
    /// 15, 30 or 60.
    pub block_minutes: u8,
    /// How far the utility's block borders lie after those of our clock, ms.
    pub clock_offset_ms: i64,
    pub peaks: Vec<PeakWindow>,
    pub meters: Vec<Meter>,
}

/// The blocks that run, by meter.
pub type OpenBlocks = BTreeMap<MeterId, OpenBlock>;

/// Between two looks at what is due, at the clock, and between two views of the open blocks.
const LOOK: Duration = Duration::from_secs(1);

/// What sealing waits for, for a person; `None` while it waits for nothing.
pub type WaitsFor = Option<&'static str>;

/// Where the task tells how it stands.
pub struct Told {
    pub open: watch::Sender<Arc<OpenBlocks>>,
    pub waits_for: watch::Sender<WaitsFor>,
}

/// Seals what is due, revises what late readings change, publishes the open blocks about once a second, until stopped.
pub async fn run(
    mut config: watch::Receiver<Arc<Config>>,
    reader: Reader,
    ledger: Ledger,
    clock: Clock,
    told: Told,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    // The feed is followed before the store is read, so that nothing falls between.
    let mut feed = reader.feed();
    let running = config.borrow_and_update().clone();
    let mut sealer = Sealer::open(running, reader.clone(), ledger, clock.clone()).await?;
    sealer.catch_up().await?;
    let mut live = Live::default();
    let (mut lagged, mut failing) = (false, false);
    loop {
        match step(&mut sealer, &mut live, &reader, &clock, &mut lagged).await {
            Ok(()) => failing = false,
            // What was not made durable is still due, and found again at the next look.
            Err(error) if error.may_pass() => {
                if !std::mem::replace(&mut failing, true) {
                    error!(%error, "blocks wait until the store can be used again");
                }
                live.forget_all();
            }
            Err(error) => return Err(error),
        }
        told.waits_for.send_if_modified(|known| std::mem::replace(known, sealer.waits_for()) != sealer.waits_for());
        let shown = live.show(sealer.config(), sealer.spans(), clock.now());
        told.open.send_replace(Arc::new(shown));

        let look = clock.sleep(LOOK);
        tokio::pin!(look);
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    sealer.save(clock.stamp(), true).await?;
                    return Ok(());
                }
                () = &mut look => break,
                changed = config.changed() => {
                    if changed.is_err() {
                        return Ok(()); // The agent is gone.
                    }
                    sealer.reconfigure(config.borrow_and_update().clone());
                    live.forget_all();
                    break;
                }
                batch = feed.recv() => match batch {
                    Ok(batch) => {
                        // The first batches may have been found in the store already.
                        let fresh = batch.iter().filter(|reading| reading.seq > sealer.examined());
                        fresh.for_each(|reading| live.push(reading, sealer.spans()));
                        sealer.examine(&batch);
                    }
                    // Readings that were not seen are found in the store.
                    Err(RecvError::Lagged(_)) => {
                        lagged = true;
                        break;
                    }
                    Err(RecvError::Closed) => return Err(StoreError::Closed),
                },
            }
        }
    }
}

/// One look: seals what is due, and renews the open blocks.
async fn step(
    sealer: &mut Sealer,
    live: &mut Live,
    reader: &Reader,
    clock: &Clock,
    lagged: &mut bool,
) -> Result<(), StoreError> {
    if *lagged {
        sealer.catch_up().await?;
        live.forget_all();
        *lagged = false;
    }
    for meter in sealer.pass().await? {
        live.forget(&meter);
    }
    renew(live, sealer, reader, clock).await
}

/// Takes open blocks anew where they cannot be kept from what is held.
async fn renew(live: &mut Live, sealer: &Sealer, reader: &Reader, clock: &Clock) -> Result<(), StoreError> {
    let meters = sealer.measured();
    for meter in live.stale(meters.iter()) {
        let view = sealer.view(&meter, clock.now(), *reader.committed().borrow(), Vec::new());
        let last = sealer.last_block(&meter).await?;
        let configured = sealer.config().meters.iter().find(|at| at.id == meter);
        live.take_anew(&view, sealer.spans(), last.as_ref(), configured, clock.now()).await?;
    }
    Ok(())
}

/// The block that lies around `at`.
pub fn span_at(config: &Config, at: Timestamp) -> Span {
    seal::spans_of(config).containing(at).span
}

/// Seals and revises all that is due at the clock's present time, and returns.
pub async fn seal_all_due(config: &Config, reader: &Reader, ledger: &Ledger, clock: &Clock) -> Result<(), StoreError> {
    let config = Arc::new(config.clone());
    let mut sealer = Sealer::open(config, reader.clone(), ledger.clone(), clock.clone()).await?;
    sealer.catch_up().await?;
    sealer.pass().await?;
    sealer.save(clock.stamp(), true).await
}

#[cfg(test)]
mod tests;
