//! Seals what is due. The rule itself is pure and reads neither clock nor store.

pub mod calendar;
pub mod clock_rule;
pub mod register;
pub mod rule;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::{Meter, MeterId, OpenBlock};
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

/// One `[[tariff.peak]]`: local minutes since midnight, on the block grid; `from > to` runs over midnight, on the days
/// it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeakWindow {
    /// Monday first.
    pub days: [bool; 7],
    pub from_minute: u16,
    pub to_minute: u16,
}

/// The blocks that run, by meter.
pub type OpenBlocks = BTreeMap<MeterId, OpenBlock>;

/// Seals what is due, revises what late readings change, publishes the open blocks about once a second, until stopped.
pub async fn run(
    config: watch::Receiver<Arc<Config>>,
    reader: Reader,
    ledger: Ledger,
    clock: Clock,
    open: watch::Sender<Arc<OpenBlocks>>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let _ = (config, reader, ledger, clock, open, stop);
    todo!()
}

/// Seals and revises all that is due at the clock's present time, and returns.
pub async fn seal_all_due(config: &Config, reader: &Reader, ledger: &Ledger, clock: &Clock) -> Result<(), StoreError> {
    let _ = (config, reader, ledger, clock);
    todo!()
}
