//! The task that holds one line: its connections, its units, and what is due on them.
//!
//! One task owns all of it. What is under way on each connection is a future that the task drives itself, so that no
//! state is shared and an answer costs one wake-up.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::link::{Link, Trouble};
use super::pace::{Connecting, Grid, Patience, Share, border_after};
use super::plan::Request;
use super::poll::{Outcome, Target, Unknown, poll};
use super::rtu::Owed;
use super::session::Session;
use crate::clock::Clock;
use crate::model::{Condition, LineStatus, MeterStatus, Timestamp};
use crate::sources::{BlockGrid, Line, MeterConfig, PollFailed, PollNow, setup};
use crate::store::Ingest;

/// A meter with an interval from here on is also polled right after each block border.
const LONG_MS: u64 = 5_000;

/// The line is looked at this often when it has such meters: a step of the wall clock moves the borders.
const LOOK_MS: u64 = 10_000;

/// A line on which no unit answers is connected anew after this many time-outs, and not before this long.
const SILENT_TIMEOUTS: u32 = 5;
const SILENT_AT_LEAST: Duration = Duration::from_secs(10);

/// A connection is given this long to come about.
pub const CONNECT_AT_LEAST: Duration = Duration::from_secs(3);

/// What is under way when the line stops may end within this.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How often a poll that was cut short is made again at once, before its next turn.
const SECOND_TRIES: u32 = 3;
const SECOND_TRY_MS: u64 = 1_000;

/// What a line tells of itself.
#[derive(Clone, Debug)]
pub struct Report {
    /// In the order of the config.
    pub meters: Vec<MeterStatus>,
    pub line: LineStatus,
    pub attempts: u64,
    pub waits: u64,
}

/// One request that is no poll: somebody searches the bus. It takes the time between two polls; where they leave none
/// that is long enough, at most one part of time in `SHARE_OF_ASKS`.
pub struct AskNow {
    pub unit: u8,
    pub request: Request,
    pub wait: Duration,
    /// As long as the answer will take, as far as one can know.
    pub likely: Duration,
    pub reply: oneshot::Sender<Asked>,
}

/// What came of it, and how long it took on the line.
pub struct Asked {
    pub answer: Result<Vec<u16>, Trouble>,
    pub took: Duration,
}

const SHARE_OF_ASKS: u32 = 20;

/// What a line needs from outside.
pub struct Outside {
    pub ingest: Ingest,
    pub clock: Clock,
    /// Somebody waits for each; when full, the asker is told that the line is busy.
    pub polls: mpsc::Receiver<PollNow>,
    /// Asked between the polls; when full, who searches waits.
    pub asks: mpsc::Receiver<AskNow>,
    pub report: watch::Sender<Report>,
    pub stop: CancellationToken,
}

impl Report {
    /// A line that has not done anything yet.
    pub fn new(line: &Line, now: Timestamp) -> Self {
        let meter = |meter: &MeterConfig| MeterStatus {
            setup: Some(Arc::new(setup(line, meter))),
            ..MeterStatus::starting(now)
        };
        Self {
            meters: line.meters.iter().map(meter).collect(),
            line: LineStatus {
                connected: false,
                since: now,
                problem: None,
                connects: 0,
                requests: 0,
                late_answers: 0,
                damaged_answers: 0,
            },
            attempts: 0,
            waits: 0,
        }
    }
}

/// Polls a line's meters until stopped.
pub async fn run(line: Arc<Line>, block: BlockGrid, outside: Outside) {
    let Outside { ingest, clock, mut polls, mut asks, report, stop } = outside;
    let mut state = State::new(line, block, clock.clone(), ingest, report);
    let mut under_way = FuturesUnordered::new();
    let (mut orders_open, mut asks_open) = (true, true);
    let mut stopped = std::pin::pin!(stop.cancelled());
    loop {
        while let Some(job) = state.next_job() {
            under_way.push(job.run());
        }
        let wake = state.wake_in();
        let sleep = async {
            match wake {
                Some(pause) => clock.sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = &mut stopped => break,
            Some(done) = under_way.next(), if !under_way.is_empty() => state.finish(done),
            order = polls.recv(), if orders_open => match order {
                Some(order) => state.order(order),
                None => orders_open = false,
            },
            ask = asks.recv(), if asks_open && state.asks.pending.is_none() => match ask {
                Some(ask) => state.ask(ask),
                None => asks_open = false,
            },
            () = sleep => {}
        }
    }
    // An answer that is on its way is taken; what is cut off here was not acknowledged.
    let rest = async { while under_way.next().await.is_some() {} };
    if timeout(LAST_ANSWERS, rest).await.is_err() {
        info!(line = %state.line.name, "stopped before the last answer came");
    }
}

struct State {
    line: Arc<Line>,
    block: BlockGrid,
    clock: Clock,
    ingest: Ingest,
    report: watch::Sender<Report>,
    lanes: Vec<Lane>,
    units: Vec<Unit>,
    meters: Vec<Meter>,
    /// The next block border, where meters with a long interval get a poll more.
    border: Option<Timestamp>,
    /// Since when no unit has answered, though asked.
    silent_since_ms: Option<u64>,
    /// There is no connection, and the last attempt to make one failed.
    down: bool,
    asks: Asks,
}

/// Requests that are no polls.
#[derive(Default)]
struct Asks {
    pending: Option<AskNow>,
    /// Until then the polls have the line to themselves, unless they leave a gap that is long enough.
    rest_until_ms: u64,
}

/// One connection.
struct Lane {
    at: LaneAt,
    connecting: Connecting,
    /// Something was heard on this connection.
    heard: bool,
    /// The answers that may still come to requests of the connection before.
    owed: Owed,
}

enum LaneAt {
    Closed { retry_ms: u64 },
    Connecting,
    Idle(Box<Link>),
    Busy,
}

/// A device behind the line; several meters may be parts of it.
struct Unit {
    id: u8,
    patience: Patience,
    busy: bool,
    /// Since it was heard in time, an answer came this long after its request.
    late: Option<Duration>,
}

struct Meter {
    /// Place in the config, and so in the report.
    at: usize,
    config: MeterConfig,
    /// Not here while a poll is under way.
    session: Option<Box<Session>>,
    /// Place in `State::units`.
    unit: usize,
    grid: Grid,
    due_ms: u64,
    second_tries: u32,
    orders: Vec<PollNow>,
}

/// Something that takes a lane.
enum Job {
    Connect { lane: usize, line: Arc<Line> },
    Poll(Box<PollJob>),
    Ask { lane: usize, link: Box<Link>, ask: AskNow },
}

struct PollJob {
    lane: usize,
    meter: usize,
    link: Box<Link>,
    session: Box<Session>,
    unit: u8,
    wait: Duration,
    clock: Clock,
    ingest: Ingest,
    is_silent: bool,
    told: bool,
}

enum Done {
    Connected { lane: usize, link: Result<Box<Link>, String> },
    Polled { job: Box<PollJob>, outcome: Outcome },
    Asked { lane: usize, link: Box<Link>, ask: AskNow, asked: Asked },
}

impl Job {
    async fn run(self) -> Done {
        match self {
            Self::Connect { lane, line } => {
                let wait = line.timeout.max(CONNECT_AT_LEAST);
                let link = Link::open(&line.wire, wait, line.gap).await;
                Done::Connected { lane, link: link.map(Box::new).map_err(|error| error.to_string()) }
            }
            Self::Poll(mut job) => {
                let PollJob { link, session, unit, wait, clock, ingest, is_silent, told, .. } = &mut *job;
                let (ingest, is_silent) = (Some(&*ingest), *is_silent);
                let target = Target { unit: *unit, wait: *wait, clock, ingest, is_silent, told: *told };
                let outcome = poll(link, session, &target).await;
                Done::Polled { job, outcome }
            }
            Self::Ask { lane, mut link, ask } => {
                let from = Instant::now();
                let answer = link.read(ask.unit, &ask.request, ask.wait).await;
                let asked = Asked { answer, took: from.elapsed() };
                Done::Asked { lane, link, ask, asked }
            }
        }
    }
}

impl State {
    fn new(line: Arc<Line>, block: BlockGrid, clock: Clock, ingest: Ingest, report: watch::Sender<Report>) -> Self {
        let start = Share::of_name(line.name.as_str());
        let now_ms = clock.since_boot_ms();
        let mut units: Vec<Unit> = Vec::new();
        let mut meters = Vec::new();
        for (at, config) in line.meters.iter().enumerate() {
            let session = match Session::new(config, line.simulated) {
                Ok(session) => Some(Box::new(session)),
                Err(error) => {
                    // The config room refuses such a meter; were one to get here, the others must go on.
                    warn!(meter = %config.id, %error, "not polled");
                    continue;
                }
            };
            let share = start.plus(at, line.meters.len());
            let unit = units.iter().position(|unit| unit.id == config.unit).unwrap_or_else(|| {
                units.push(Unit {
                    id: config.unit,
                    patience: Patience::new(line.timeout, &line.wire, share),
                    busy: false,
                    late: None,
                });
                units.len() - 1
            });
            let grid = Grid::new(config.interval, share);
            let first = Grid::new(config.interval.min(Duration::from_millis(LONG_MS)), share).after(now_ms);
            meters.push(Meter {
                at,
                config: config.clone(),
                session,
                unit,
                grid,
                due_ms: first,
                second_tries: 0,
                orders: Vec::new(),
            });
        }
        let lanes = (0..line.parallel.max(1)).map(|at| Lane {
            at: LaneAt::Closed { retry_ms: 0 },
            connecting: Connecting::new(start.plus(at, line.parallel.max(1))),
            heard: false,
            owed: Owed::default(),
        });
        let border = border_after(block, clock.now());
        Self {
            lanes: lanes.collect(),
            units,
            meters,
            border,
            silent_since_ms: None,
            down: false,
            asks: Asks::default(),
            line,
            block,
            clock,
            ingest,
            report,
        }
    }

    /// Something to do now on a lane that is free.
    fn next_job(&mut self) -> Option<Job> {
        if self.meters.is_empty() {
            return None;
        }
        self.ask_at_the_border();
        let now_ms = self.clock.since_boot_ms();
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            match &lane.at {
                LaneAt::Closed { retry_ms } if *retry_ms <= now_ms => {
                    lane.at = LaneAt::Connecting;
                    return Some(Job::Connect { lane: at, line: self.line.clone() });
                }
                _ => {}
            }
        }
        let lane = self.lanes.iter().position(|lane| matches!(lane.at, LaneAt::Idle(_)))?;
        // Nobody waits for it any more.
        self.asks.pending.take_if(|ask| ask.reply.is_closed());
        if self.may_ask(now_ms)
            && let Some(ask) = self.asks.pending.take()
            && let LaneAt::Idle(link) = std::mem::replace(&mut self.lanes[lane].at, LaneAt::Busy)
        {
            self.units.iter_mut().filter(|unit| unit.id == ask.unit).for_each(|unit| unit.busy = true);
            return Some(Job::Ask { lane, link, ask });
        }
        let meter = self.most_urgent(now_ms)?;
        let LaneAt::Idle(link) = std::mem::replace(&mut self.lanes[lane].at, LaneAt::Busy) else { return None };
        let polled = &mut self.meters[meter];
        let others_need = self.units.iter().filter_map(|unit| unit.patience.needs()).max();
        let unit = &mut self.units[polled.unit];
        // Taken above only when it is here.
        let session = polled.session.take()?;
        unit.busy = true;
        Some(Job::Poll(Box::new(PollJob {
            lane,
            meter,
            link,
            session,
            unit: unit.id,
            wait: unit.patience.wait(others_need),
            clock: self.clock.clone(),
            ingest: self.ingest.clone(),
            is_silent: unit.patience.misses() > 0,
            told: !polled.orders.is_empty(),
        })))
    }

    /// The meter to poll now: one that somebody waits for, else the one whose next turn comes first.
    fn most_urgent(&self, now_ms: u64) -> Option<usize> {
        let free = self.meters.iter().enumerate().filter(|(_, meter)| !self.units[meter.unit].busy);
        let due = free.filter(|(_, meter)| !meter.orders.is_empty() || self.due_ms(meter) <= now_ms);
        due.min_by_key(|(_, meter)| {
            let deadline = self.due_ms(meter).saturating_add(meter.grid.interval_ms());
            if meter.orders.is_empty() { deadline } else { 0 }
        })
        .map(|(at, _)| at)
    }

    /// Whether the request that waits may go out now: it does not keep a poll waiting, or has waited long enough.
    fn may_ask(&self, now_ms: u64) -> bool {
        let Some(ask) = &self.asks.pending else { return false };
        if self.is_busy(ask.unit) {
            return false;
        }
        let next = self.meters.iter().map(|meter| if meter.orders.is_empty() { self.due_ms(meter) } else { 0 }).min();
        let gap_ms = u128::from(next.map_or(u64::MAX, |next| next.saturating_sub(now_ms)));
        gap_ms >= ask.likely.as_millis() || now_ms >= self.asks.rest_until_ms
    }

    fn is_busy(&self, unit: u8) -> bool {
        self.units.iter().any(|known| known.id == unit && known.busy)
    }

    fn due_ms(&self, meter: &Meter) -> u64 {
        self.units[meter.unit].patience.again_ms().unwrap_or(meter.due_ms)
    }

    /// Meters with a long interval are due when a block has ended, so that its border lies beside a reading.
    fn ask_at_the_border(&mut self) {
        let Some(border) = self.border else { return };
        let now = self.clock.now();
        let ahead = border.millis_since(now);
        if (1..=self.block.every_ms).contains(&ahead) {
            return;
        }
        self.border = border_after(self.block, now);
        if ahead > self.block.every_ms {
            return; // the clock was set back
        }
        let now_ms = self.clock.since_boot_ms();
        for meter in self.meters.iter_mut().filter(|meter| meter.grid.interval_ms() >= LONG_MS) {
            meter.due_ms = meter.due_ms.min(now_ms);
        }
    }

    /// How long nothing will be due on a lane that is free; `None` when only an answer can bring something to do.
    fn wake_in(&self) -> Option<Duration> {
        let now_ms = self.clock.since_boot_ms();
        let closed = self.lanes.iter().filter_map(|lane| match lane.at {
            LaneAt::Closed { retry_ms } => Some(retry_ms),
            _ => None,
        });
        let mut wake = if self.meters.is_empty() { None } else { closed.min() };
        if self.lanes.iter().any(|lane| matches!(lane.at, LaneAt::Idle(_))) {
            let free = self.meters.iter().filter(|meter| !self.units[meter.unit].busy);
            let ask = self.asks.pending.as_ref().filter(|ask| !self.is_busy(ask.unit));
            let ask = ask.map(|_| self.asks.rest_until_ms);
            wake = free.map(|meter| self.due_ms(meter)).chain(wake).chain(ask).min();
            if let Some(border) = self.border
                && self.meters.iter().any(|meter| meter.grid.interval_ms() >= LONG_MS)
            {
                let left = u64::try_from(border.millis_since(self.clock.now())).unwrap_or(0).min(LOOK_MS);
                wake = wake.map(|wake| wake.min(now_ms + left));
            }
        }
        wake.map(|at| Duration::from_millis(at.saturating_sub(now_ms)))
    }

    fn order(&mut self, order: PollNow) {
        let found = self.meters.iter_mut().find(|meter| meter.config.id == order.meter);
        let Some(meter) = found else {
            let failed = PollFailed::Unknown(order.meter);
            drop(order.reply.send(Err(failed)));
            return;
        };
        if self.down {
            let why = self.report.borrow().line.problem.clone().unwrap_or_else(|| "no connection".to_owned());
            drop(order.reply.send(Err(PollFailed::NoAnswer { meter: order.meter, why })));
            return;
        }
        meter.orders.push(order);
    }

    fn ask(&mut self, ask: AskNow) {
        if self.down {
            let why = self.report.borrow().line.problem.clone().unwrap_or_else(|| "no connection".to_owned());
            let asked = Asked { answer: Err(Trouble::Broken(why)), took: Duration::ZERO };
            // Who asked may be gone.
            drop(ask.reply.send(asked));
            return;
        }
        self.asks.pending = Some(ask);
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Connected { lane, link: Ok(link) } => self.connected(lane, link),
            Done::Connected { lane, link: Err(why) } => {
                let why = format!("no connection to {}: {why}", self.line.wire);
                self.report.send_modify(|report| report.attempts += 1);
                self.closed(lane, &why);
                if self.open_lanes() == 0 {
                    self.go_down(&why);
                }
            }
            Done::Polled { job, outcome } => self.polled(*job, outcome),
            Done::Asked { lane, link, ask, asked } => self.asked(lane, link, ask, asked),
        }
    }

    fn connected(&mut self, lane: usize, mut link: Box<Link>) {
        let now_ms = self.clock.since_boot_ms();
        link.expect(std::mem::take(&mut self.lanes[lane].owed));
        self.lanes[lane].at = LaneAt::Idle(link);
        self.lanes[lane].heard = false;
        let now = self.clock.now();
        self.report.send_modify(|report| {
            report.line.connects += 1;
            if !report.line.connected {
                report.line.connected = true;
                report.line.since = now;
            }
        });
        // After a time without any connection, or without any answer, no unit's silence is its own.
        let was_down = std::mem::take(&mut self.down);
        if self.silent_since_ms.take().is_some() || was_down {
            self.units.iter_mut().for_each(|unit| unit.patience.try_now(now_ms));
        }
        if was_down {
            // What was unplugged may come back with other meters.
            self.meters.iter_mut().filter_map(|meter| meter.session.as_mut()).for_each(|session| session.was_away());
        }
    }

    fn close(&mut self, lane: usize, link: Link, why: &str) {
        self.lanes[lane].owed = link.owed();
        self.closed(lane, why);
    }

    /// The lane has no connection any more. It is opened again, soon if it worked.
    fn closed(&mut self, lane: usize, why: &str) {
        let now_ms = self.clock.since_boot_ms();
        let closed = &mut self.lanes[lane];
        if closed.heard {
            closed.connecting.worked();
        }
        closed.heard = false;
        closed.at = LaneAt::Closed { retry_ms: now_ms + closed.connecting.pause_ms() };
        if self.open_lanes() > 0 {
            return;
        }
        let now = self.clock.now();
        if self.report.borrow().line.problem.as_deref() != Some(why) {
            warn!(line = %self.line.name, problem = why, "the connection is closed");
        }
        self.report.send_modify(|report| {
            if report.line.connected {
                report.line.connected = false;
                report.line.since = now;
            }
            report.line.problem = Some(why.to_owned());
        });
    }

    /// No connection can be made: nobody can be asked.
    fn go_down(&mut self, why: &str) {
        self.down = true;
        let now = self.clock.now();
        self.report.send_modify(|report| {
            for meter in &mut report.meters {
                change(meter, Condition::Silent, now);
                meter.problem = Some(why.to_owned());
            }
        });
        if let Some(ask) = self.asks.pending.take() {
            self.ask(ask);
        }
        for order in self.meters.iter_mut().flat_map(|meter| meter.orders.drain(..)) {
            let failed = PollFailed::NoAnswer { meter: order.meter, why: why.to_owned() };
            drop(order.reply.send(Err(failed)));
        }
    }

    fn open_lanes(&self) -> usize {
        self.lanes.iter().filter(|lane| matches!(lane.at, LaneAt::Idle(_) | LaneAt::Busy)).count()
    }

    fn polled(&mut self, job: PollJob, mut outcome: Outcome) {
        let PollJob { lane, meter: at, mut link, session, told, .. } = job;
        let (now_ms, now) = (self.clock.since_boot_ms(), self.clock.now());
        let (late, damaged) = (link.late(), link.damaged());
        let meter = &mut self.meters[at];
        let unit = &mut self.units[meter.unit];
        unit.busy = false;
        let (was_away, missed_one) = (unit.patience.misses() > 1, unit.patience.misses() == 1);
        // A second connection that a gateway takes and never serves says nothing of the unit.
        let others_heard = self.lanes.iter().enumerate().any(|(other, lane_at)| other != lane && lane_at.heard);
        let unheard = outcome.requests > 0 && !outcome.heard && !outcome.away;
        let dead_lane = unheard && !self.lanes[lane].heard && others_heard;
        let is_broken = outcome.broken.is_some();
        let lost = is_broken && outcome.wrong == 0 && self.lanes[lane].heard;
        let wrong_only = outcome.wrong > 0 && !is_broken;
        if outcome.heard {
            unit.patience.answered(outcome.took);
            unit.late = None;
        } else if !dead_lane && !lost && !wrong_only && outcome.requests > 0 {
            unit.patience.missed(now_ms);
        }
        if let (Some(after), true) = (unit.late, outcome.timeouts > 0) {
            let why = outcome.problem.take().unwrap_or_default();
            outcome.problem =
                Some(format!("{why}; its answers come late (the last one after {after:?}): raise `timeout`"));
        }
        if outcome.heard || outcome.away || wrong_only || !late.is_empty() {
            self.lanes[lane].heard = true;
            self.silent_since_ms = None;
        } else if outcome.timeouts > 0 {
            self.silent_since_ms.get_or_insert(now_ms);
        }
        // A poll that was cut short is made again before its turn, when its turn is far.
        meter.due_ms = meter.grid.after(now_ms);
        let cut_short = outcome.timeouts > 0 || outcome.busy || dead_lane || lost || (was_away && outcome.heard);
        if cut_short && meter.second_tries < SECOND_TRIES {
            meter.second_tries += 1;
            let pause = if dead_lane || lost || was_away { 0 } else { SECOND_TRY_MS };
            meter.due_ms = meter.due_ms.min(now_ms + pause);
        } else if !cut_short {
            meter.second_tries = 0;
        }
        let finds_out = outcome.unknown == Some(Unknown::Walking) && outcome.heard;
        if finds_out && !outcome.busy {
            meter.due_ms = now_ms;
        }
        // Who asked while a poll was under way that tells no values waits for the next one, which is due at once.
        let orders = if !told || finds_out { Vec::new() } else { std::mem::take(&mut meter.orders) };
        if !orders.is_empty() {
            answer(orders, &outcome, now);
        }
        let refused = session.asking.refused_registers();
        meter.session = Some(session);
        if was_away && outcome.heard {
            // All meters that are parts of the unit were away with it, whichever of them was asked.
            let unit = self.meters[at].unit;
            for part in self.meters.iter_mut().filter(|part| part.unit == unit) {
                part.session.iter_mut().for_each(|session| session.was_away());
            }
        }
        if missed_one && outcome.heard {
            // An exchange may take no longer than one poll.
            let unit = self.meters[at].unit;
            for part in self.meters.iter_mut().filter(|part| part.unit == unit) {
                part.session.iter_mut().for_each(|session| session.may_be_another(now_ms));
            }
        }
        for late in &late {
            if let Some(unit) = self.units.iter_mut().find(|unit| unit.id == late.unit) {
                unit.patience.was_late(now_ms);
                unit.late = Some(late.after);
            }
        }
        if damaged > 0 {
            self.report.send_modify(|report| report.line.damaged_answers += damaged);
        }
        self.tell(at, &outcome, refused, late.len(), now);
        let limit = (self.line.timeout * SILENT_TIMEOUTS).max(SILENT_AT_LEAST).as_millis();
        let silent_ms = self.silent_since_ms.map_or(0, |since| now_ms.saturating_sub(since));
        if let Some(why) = outcome.broken {
            self.close(lane, *link, &why);
        } else if dead_lane {
            self.close(lane, *link, "this connection is not served");
        } else if u128::from(silent_ms) >= limit {
            self.close(lane, *link, &format!("no unit has answered for {} s", silent_ms / 1000));
        } else {
            self.lanes[lane].at = LaneAt::Idle(link);
        }
    }

    /// A request that is no poll says nothing of any meter.
    fn asked(&mut self, lane: usize, mut link: Box<Link>, ask: AskNow, asked: Asked) {
        let now_ms = self.clock.since_boot_ms();
        let rest = asked.took * (SHARE_OF_ASKS - 1);
        self.asks.rest_until_ms = now_ms.saturating_add(u64::try_from(rest.as_millis()).unwrap_or(u64::MAX));
        self.units.iter_mut().filter(|unit| unit.id == ask.unit).for_each(|unit| unit.busy = false);
        let (late, damaged) = (u64::try_from(link.late().len()).unwrap_or(0), link.damaged());
        self.report.send_modify(|report| {
            report.line.requests += 1;
            report.line.late_answers += late;
            report.line.damaged_answers += damaged;
        });
        match &asked.answer {
            Err(Trouble::Nonsense(why) | Trouble::Broken(why)) => self.close(lane, *link, &why.clone()),
            answer => {
                if matches!(answer, Ok(_) | Err(Trouble::Exception(_))) {
                    self.lanes[lane].heard = true;
                    self.silent_since_ms = None;
                }
                self.lanes[lane].at = LaneAt::Idle(link);
            }
        }
        drop(ask.reply.send(asked));
    }

    fn tell(&self, at: usize, outcome: &Outcome, refused: Vec<u16>, late: usize, now: Timestamp) {
        let (at, id) = (self.meters[at].at, &self.meters[at].config.id);
        if let Some(why) = &outcome.unstored
            && self.report.borrow().line.problem.as_ref() != Some(why)
        {
            warn!(meter = %id, problem = %why, "readings are not stored");
        }
        let is_over = outcome.unstored.is_none() && outcome.heard;
        if is_over && let Some(problem) = &self.report.borrow().line.problem {
            info!(line = %self.line.name, was = %problem, "the line works again");
        }
        self.report.send_modify(|report| {
            report.attempts += 1;
            report.waits += outcome.waits;
            let line = &mut report.line;
            line.requests += outcome.requests;
            line.late_answers += u64::try_from(late).unwrap_or(0);
            if outcome.unstored.is_some() {
                line.problem.clone_from(&outcome.unstored);
            } else if is_over && line.problem.is_some() {
                line.problem = None;
            }
            let meter = &mut report.meters[at];
            meter.polls += 1;
            meter.answers += u64::from(outcome.answers > 0);
            meter.timeouts += outcome.timeouts;
            meter.exceptions += outcome.exceptions;
            meter.bad_answers += outcome.wrong;
            let condition = if outcome.answers > 0 {
                meter.last_answer = Some(now);
                Condition::Answering
            } else if outcome.heard && outcome.unknown == Some(Unknown::Walking) {
                meter.condition
            } else if outcome.heard || outcome.wrong > 0 || outcome.requests == 0 {
                Condition::Refusing
            } else {
                Condition::Silent
            };
            change(meter, condition, now);
            if meter.problem != outcome.problem {
                meter.problem.clone_from(&outcome.problem);
            }
            if let Some(identity) = &outcome.identity {
                meter.identity = Some((**identity).clone());
            }
            if meter.refused_registers != refused {
                warn!(meter = %id, registers = ?refused, "the meter refuses registers");
                meter.refused_registers = refused;
            }
        });
    }
}

fn change(meter: &mut MeterStatus, condition: Condition, now: Timestamp) {
    if meter.condition != condition {
        meter.condition = condition;
        meter.since = now;
    }
}

fn answer(orders: Vec<PollNow>, outcome: &Outcome, time: Timestamp) {
    for order in orders {
        let meter = order.meter;
        let report = if outcome.unknown == Some(Unknown::NothingFound) {
            let why = outcome.problem.clone().unwrap_or_default();
            Err(PollFailed::Unreadable { meter, why })
        } else if outcome.heard || outcome.requests == 0 {
            Ok(outcome.report(meter, time))
        } else {
            let why = outcome.problem.clone().unwrap_or_else(|| "no request was due".to_owned());
            Err(PollFailed::NoAnswer { meter, why })
        };
        // The asker may be gone; the readings are stored all the same.
        drop(order.reply.send(report));
    }
}
