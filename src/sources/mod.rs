//! Meters to readings: Modbus lines and MQTT brokers. Each family of sources is a folder here.

mod layout;
mod modbus;
pub mod mqtt;
pub mod plausible;
pub mod scan;
mod sunspec;
mod tasks;
pub mod template;
mod wire;

pub use layout::{RatioTooFine, layout, setup};
pub use modbus::number;
pub use wire::{Serial, Wire};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::{Category, LineName, MeterId, PollReport, Ratio, SourcesStatus};
use crate::store::Ingest;
use mqtt::{Broker, Listeners};
use tasks::Tasks;
use template::Template;

/// The sources' part of the config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub lines: Vec<Line>,
    pub brokers: Vec<Broker>,
    /// Block borders lie at local times of day that are multiples of this: a reading is taken beside each.
    pub block: BlockGrid,
    /// Register maps beside the config; one of them may have the name of a shipped one, and stands for it.
    pub templates: Vec<Arc<Template>>,
}

/// Where block borders lie, as far as polling must know: UTC instants `offset + n × every` (zone offsets are whole
/// minutes, and a poll more at a border that a zone change moved does no harm).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockGrid {
    pub every_ms: i64,
    pub offset_ms: i64,
}

/// One `[[modbus]]`: a gateway, a device or a serial line, whose units share its connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub name: LineName,
    pub wire: Wire,
    pub timeout: Duration,
    /// Pause between requests.
    pub gap: Duration,
    /// Connections opened to it; one request under way on each. A serial line has one.
    pub parallel: usize,
    pub meters: Vec<MeterConfig>,
    pub simulated: bool,
}

/// One `[[modbus.meter]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MeterConfig {
    pub id: MeterId,
    pub unit: u8,
    /// Which of the devices behind one unit, from 1 on: of SunSpec devices, where an inverter may carry its meters.
    pub device: u8,
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

/// What the sources tell of themselves.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub status: watch::Sender<Arc<SourcesStatus>>,
    /// The lines that run, for a search that must not disturb them.
    pub lines: watch::Sender<Arc<Vec<RunningLine>>>,
}

/// A line that runs, and the way to ask between its polls.
#[derive(Clone, Debug)]
pub struct RunningLine {
    line: Arc<Line>,
    asks: mpsc::Sender<modbus::AskNow>,
}

/// Why a poll gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PollFailed {
    #[error("no meter `{0}` in the config")]
    Unknown(MeterId),
    #[error("meter {meter} did not answer: {why}")]
    NoAnswer { meter: MeterId, why: String },
    #[error("meter {meter} cannot be read: {why}")]
    Unreadable { meter: MeterId, why: String },
}

/// Polls all lines until stopped, and follows changes of the config: a line that stays the same goes on undisturbed.
/// Panics when a line's task does, as a stage that ends unasked ends the process.
pub async fn run(
    mut config: watch::Receiver<Arc<Config>>,
    ingest: Ingest,
    clock: Clock,
    told: Told,
    mut polls: mpsc::Receiver<PollNow>,
    stop: CancellationToken,
) {
    let Told { status, lines: running } = told;
    let mut listeners = Listeners::new(ingest.clone(), clock.clone());
    let mut lines = Lines { ingest, clock, running: Tasks::default(), past: Counted::default() };
    let mut look = tokio::time::interval(TELL_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut config_open, mut polls_open) = (true, true);
    let first = config.borrow_and_update().clone();
    lines.follow(&first).await;
    running.send_replace(lines.running());
    listeners.follow(&first.brokers).await;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            changed = config.changed(), if config_open => match changed {
                Ok(()) => {
                    let wanted = config.borrow_and_update().clone();
                    lines.follow(&wanted).await;
                    running.send_replace(lines.running());
                    listeners.follow(&wanted.brokers).await;
                }
                Err(_) => config_open = false,
            },
            order = polls.recv(), if polls_open => match order {
                Some(order) => lines.order(order),
                None => polls_open = false,
            },
            () = lines.running.watch() => {}
            () = listeners.watch() => {}
            _ = look.tick() => drop(status.send_replace(Arc::new(all(&lines, &listeners)))),
        }
    }
    // Side by side, as each may need a while for its last words.
    let nothing = Config::default();
    tokio::join!(lines.follow(&nothing), listeners.follow(&nothing.brokers));
    running.send_replace(lines.running());
    status.send_replace(Arc::new(all(&lines, &listeners)));
}

fn all(lines: &Lines, listeners: &Listeners) -> SourcesStatus {
    let mut status = lines.status();
    listeners.tell(&mut status);
    status
}

/// One poll over a connection of its own: `meterseal read` while no daemon runs.
pub async fn poll_once(line: &Line, meter: &MeterConfig, clock: &Clock) -> Result<PollReport, PollFailed> {
    modbus::poll_once(line, meter, clock).await
}

/// Whether a line's port or gateway can be opened; nothing is asked of its meters. Only while no daemon has it open.
pub async fn opens(line: &Line) -> Result<(), String> {
    modbus::opens(line).await
}

const TELL_EVERY: Duration = Duration::from_secs(1);

/// Polls that wait for one line; the asker of one more is told that the line is busy.
const WAITING_POLLS: usize = 8;

/// Requests of a search that wait for one line; who has one more waits.
const WAITING_ASKS: usize = 1;

/// The lines that run.
struct Lines {
    ingest: Ingest,
    clock: Clock,
    running: Tasks<Running>,
    /// Of lines that run no more, so that the counts never go back.
    past: Counted,
}

struct Running {
    line: Arc<Line>,
    block: BlockGrid,
    polls: mpsc::Sender<PollNow>,
    asks: mpsc::Sender<modbus::AskNow>,
    report: watch::Receiver<modbus::Report>,
}

#[derive(Clone, Copy, Default)]
struct Counted {
    attempts: u64,
    waits: u64,
}

impl Lines {
    /// Ends what is no longer wanted as it is, then begins what is new.
    async fn follow(&mut self, config: &Config) {
        let wanted =
            |running: &Running| running.block == config.block && config.lines.iter().any(|line| *line == *running.line);
        for gone in self.running.end_all_but(|_, running| wanted(running)).await {
            let report = gone.report.borrow();
            self.past.attempts += report.attempts;
            self.past.waits += report.waits;
        }
        for line in &config.lines {
            if !self.running.has(&line.name) {
                self.begin(line, config.block);
            }
        }
    }

    fn begin(&mut self, line: &Line, block: BlockGrid) {
        let line = Arc::new(line.clone());
        let (polls, orders) = mpsc::channel(WAITING_POLLS);
        let (asks, asked) = mpsc::channel(WAITING_ASKS);
        let (tell, report) = watch::channel(modbus::Report::new(&line, self.clock.now()));
        let (ingest, clock) = (self.ingest.clone(), self.clock.clone());
        let known = Running { line: line.clone(), block, polls, asks, report };
        self.running.begin(line.name.clone(), known, |stop| {
            modbus::run(line, block, modbus::Outside { ingest, clock, polls: orders, asks: asked, report: tell, stop })
        });
    }

    /// Lines that hold a connection: one without meters has none.
    fn running(&self) -> Arc<Vec<RunningLine>> {
        let hold = self.running.iter().filter(|(_, running)| !running.line.meters.is_empty());
        let line = |(_, running): (_, &Running)| RunningLine { line: running.line.clone(), asks: running.asks.clone() };
        Arc::new(hold.map(line).collect())
    }

    fn order(&self, order: PollNow) {
        let holds = |running: &Running| running.line.meters.iter().any(|meter| meter.id == order.meter);
        let refused = match self.running.iter().find(|(_, running)| holds(running)) {
            None => Some((order, None)),
            Some((_, running)) => running
                .polls
                .try_send(order)
                .err()
                .map(|error| (error.into_inner(), Some("its line is busy".to_owned()))),
        };
        if let Some((PollNow { meter, reply }, why)) = refused {
            let failed = match why {
                Some(why) => PollFailed::NoAnswer { meter, why },
                None => PollFailed::Unknown(meter),
            };
            // The asker may be gone.
            drop(reply.send(Err(failed)));
        }
    }

    fn status(&self) -> SourcesStatus {
        let mut status =
            SourcesStatus { attempts: self.past.attempts, waits: self.past.waits, ..SourcesStatus::default() };
        for (name, running) in self.running.iter() {
            let report = running.report.borrow();
            status.attempts += report.attempts;
            status.waits += report.waits;
            status.lines.insert(name.clone(), report.line.clone());
            let meters = running.line.meters.iter().zip(&report.meters);
            status.meters.extend(meters.map(|(meter, known)| (meter.id.clone(), known.clone())));
        }
        status
    }
}
