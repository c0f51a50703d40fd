//! The demo's past: readings of the simulated plant, stored and sealed as if the daemon had run, by a clock set by
//! hand.

use std::sync::Arc;
use std::time::Duration;

use crate::blocks;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::{ClockState, Layout, Reading, Stamp, Timestamp};
use crate::simulate::Meters;
use crate::sources;
use crate::store::Store;

/// A reading of each meter this often, for eight meters; more meters are read less often, so that the demo is ready
/// as soon.
const EVERY_MS: i64 = 15_000;
/// Readings further apart than a minute would show as gaps.
const AT_MOST_EVERY_MS: i64 = 50_000;
/// Sealing waits this long at each step for nothing but the disk, so it takes some blocks at once.
const STEP: Duration = Duration::from_secs(2 * 3_600);
const DAY_MS: i64 = 86_400_000;
/// Readings that fit into the few seconds that a person waits.
const READINGS: i64 = 150_000;

/// Where the past of a demo of so many meters begins: on a block border, a day ago or less for many meters.
pub fn start(config: &Config, meters: usize, now: Timestamp) -> Timestamp {
    let meters = i64::try_from(meters).unwrap_or(i64::MAX).max(1);
    let length = DAY_MS.min(READINGS.saturating_mul(AT_MOST_EVERY_MS) / meters);
    let grid = config.sources.block;
    let since = now.as_millis() - length - grid.offset_ms;
    Timestamp::from_millis(since.div_euclid(grid.every_ms.max(1)) * grid.every_ms + grid.offset_ms)
}

/// Writes what the meters showed from `from` until `wall`, which goes on meanwhile. `clock` is the store's, set by
/// hand; `told` hears of the share that is done, in per cent.
pub async fn write(
    config: &Config,
    meters: &Meters,
    store: &Store,
    clock: &Clock,
    from: Timestamp,
    wall: &Clock,
    mut told: impl FnMut(i64),
) -> anyhow::Result<()> {
    let layouts = layouts(config)?;
    let count = i64::try_from(layouts.len()).unwrap_or(i64::MAX).max(1);
    let every = (EVERY_MS * count / 8).clamp(EVERY_MS, AT_MOST_EVERY_MS);
    let (ingest, ledger, reader) = (store.ingest(), store.ledger(), store.reader());
    let mut at = from;
    loop {
        let now = wall.now();
        let until = at.plus(STEP).min(now);
        clock.advance_to(until);
        let mut readings = Vec::new();
        while at < until {
            for (index, layout) in layouts.iter().enumerate() {
                // The first readings lie on the border, so that the first blocks are whole; the others are spread.
                let shift = if at == from { 0 } else { every * i64::try_from(index).unwrap_or(0) / count };
                let time = at.plus_millis(shift);
                if time < until {
                    readings.extend(reading(meters, index, layout, stamp(clock, time)));
                }
            }
            at = at.plus_millis(every);
        }
        if !readings.is_empty() {
            ingest.store(readings).await?;
        }
        blocks::seal_all_due(&config.blocks, &reader, &ledger, clock).await?;
        told(until.millis_since(from) * 100 / now.millis_since(from).max(1));
        if until == now {
            return Ok(());
        }
    }
}

/// What the readings of each meter mean, in the order of the meters' indexes.
fn layouts(config: &Config) -> anyhow::Result<Vec<Arc<Layout>>> {
    let meters = config.sources.lines.iter().flat_map(|line| line.meters.iter().map(|meter| (meter, line.simulated)));
    meters.map(|(meter, simulated)| Ok(Arc::new(sources::layout(meter, simulated)?))).collect()
}

fn reading(meters: &Meters, index: usize, layout: &Arc<Layout>, taken: Stamp) -> Option<Reading> {
    let image = meters.image(index, taken.time)?;
    let registers = meters.template(index).registers.iter().zip(&image).enumerate();
    let values = registers.filter_map(|(place, (register, words))| {
        Some((u8::try_from(place).ok()?, sources::number(register, words).ok()?))
    });
    let values = values.collect();
    Some(Reading { layout: layout.clone(), taken, values })
}

/// Monotonic time runs beside wall time, so it differs from the clock's by as much.
fn stamp(clock: &Clock, time: Timestamp) -> Stamp {
    let now = clock.stamp();
    let ago = u64::try_from(now.time.millis_since(time)).unwrap_or(0);
    Stamp { time, since_boot_ms: now.since_boot_ms.saturating_sub(ago), clock: ClockState::Synchronised }
}
