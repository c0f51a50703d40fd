//! Meters to readings. Modbus/TCP lines so far; each family of sources is a folder here.

mod layout;
pub mod template;

pub use layout::{RatioTooFine, layout};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::{Category, LineName, MeterId, PollReport, Ratio, SourcesStatus};
use crate::store::Ingest;
use template::Template;

/// The sources' part of the config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub lines: Vec<Line>,
    /// Block borders lie at local times of day that are multiples of this: a reading is taken beside each.
    pub block: BlockGrid,
}

/// Where block borders lie, as far as polling must know: UTC instants `offset + n × every` (zone offsets are whole
/// minutes, and a poll more at a border that a zone change moved does no harm).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockGrid {
    pub every_ms: i64,
    pub offset_ms: i64,
}

/// One `[[modbus]]`: a gateway or a device, whose units share its connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub name: LineName,
    /// `host:port`.
    pub tcp: String,
    pub timeout: Duration,
    /// Pause between requests.
    pub gap: Duration,
    /// Connections opened to it; one request under way on each.
    pub parallel: usize,
    pub meters: Vec<MeterConfig>,
    pub simulated: bool,
}

/// One `[[modbus.meter]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MeterConfig {
    pub id: MeterId,
    pub unit: u8,
    pub template: Arc<Template>,
    pub category: Category,
    pub interval: Duration,
    pub ct_ratio: Ratio,
    pub vt_ratio: Ratio,
    pub invert: bool,
}

/// A poll that somebody waits for: `meterseal read`.
pub struct PollNow {
    pub meter: MeterId,
    pub reply: oneshot::Sender<Result<PollReport, PollFailed>>,
}

/// Why a poll gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PollFailed {
    #[error("no meter `{0}` in the config")]
    Unknown(MeterId),
    #[error("meter {meter} did not answer: {why}")]
    NoAnswer { meter: MeterId, why: String },
}

/// Polls all lines until stopped, and follows changes of the config: a line that stays the same goes on undisturbed.
pub async fn run(
    config: watch::Receiver<Arc<Config>>,
    ingest: Ingest,
    clock: Clock,
    status: watch::Sender<Arc<SourcesStatus>>,
    polls: mpsc::Receiver<PollNow>,
    stop: CancellationToken,
) {
    let _ = (config, ingest, clock, status, polls, stop);
    todo!()
}

/// One poll over a connection of its own: `meterseal read` while no daemon runs.
pub async fn poll_once(line: &Line, meter: &MeterConfig, clock: &Clock) -> Result<PollReport, PollFailed> {
    let _ = (line, meter, clock);
    todo!()
}
