//! The task that holds one broker: its connection, its subscriptions, and what waits to be acknowledged.
//!
//! A message is acknowledged when the readings in it are durable, and in the order in which it came. Whatever is cut
//! off before that is sent again by the broker, and a reading with a time of its own is then known as a repetition.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::{self, Publish, Sender};
use super::dial::Dial;
use super::formats::{Decoder, Message, Reason, Settled, Ticket};
use super::heard::{Heard, Meters};
use super::{Broker, takes};
use crate::clock::Clock;
use crate::model::{BrokerStatus, Condition, MalformedMessage, MeterStatus, Reading, Timestamp};
use crate::store::{Ingest, Receipt, StoreError};

/// What has come and is not looked at yet. When it is full the connection is not read, and the broker waits.
const WAITING: usize = 256;

/// Messages taken into one hand-over to the store.
const TOGETHER: usize = 64;

/// Messages that may wait for the store; beyond them the connection is not read.
const UNACKNOWLEDGED: usize = 4_096;

/// Attempts to connect begin with this pause, and it doubles up to 30 s.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A connection that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(60);

/// A broker must accept within this time.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(20);

/// The store is asked again after this long.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// What is under way when the broker is left may end within this.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A publisher without an interval counts as silent after this long.
const SILENT_AFTER: Duration = Duration::from_secs(15 * 60);

const LOOK: Duration = Duration::from_secs(1);

/// What a broker's task tells of itself.
#[derive(Clone, Debug)]
pub struct Report {
    pub broker: BrokerStatus,
    /// In the order of the config.
    pub meters: Vec<MeterStatus>,
    /// Steps of work done, whatever came of them: the sign of life.
    pub attempts: u64,
}

/// What a broker's task needs from outside.
pub struct Outside {
    pub ingest: Ingest,
    pub clock: Clock,
    pub report: watch::Sender<Report>,
    pub stop: CancellationToken,
}

impl Report {
    /// The counters go on from those of the same broker under another config.
    pub fn going_on(self, before: &BrokerStatus) -> Self {
        let BrokerStatus { connects, messages, last_message, repeated, undated, malformed, unasked, .. } = *before;
        let last_malformed = before.last_malformed.clone();
        let broker = BrokerStatus {
            connects,
            messages,
            last_message,
            repeated,
            undated,
            malformed,
            last_malformed,
            unasked,
            ..self.broker
        };
        Self { broker, ..self }
    }

    /// A broker that has not been reached yet.
    pub fn new(broker: &Broker, now: Timestamp) -> Self {
        Self {
            broker: BrokerStatus {
                connected: false,
                since: now,
                problem: None,
                connects: 0,
                messages: 0,
                last_message: None,
                silent: false,
                repeated: 0,
                undated: 0,
                malformed: 0,
                last_malformed: None,
                unasked: 0,
                proposals: Vec::new(),
                unnamed: 0,
            },
            meters: vec![MeterStatus::starting(now); broker.meters.len()],
            attempts: 0,
        }
    }
}

/// Listens to a broker until stopped.
pub async fn run(broker: Arc<Broker>, outside: Outside) {
    let Outside { ingest, clock, report, stop } = outside;
    let dial = match Dial::new(&broker) {
        Ok(dial) => dial,
        Err(why) => {
            // The config room refuses such a broker; were one to get here, the others must go on.
            warn!(broker = %broker.name, problem = %why, "not listened to");
            report.send_modify(|report| report.broker.problem = Some(why));
            return stop.cancelled().await;
        }
    };
    let meters = Meters::new(&broker);
    let decoders = broker
        .subscriptions
        .iter()
        .map(|subscription| Decoder::new(subscription.format.clone(), &subscription.topic))
        .collect();
    let mut listening = Listening {
        broker,
        ingest,
        clock,
        report,
        meters,
        decoders,
        dial,
        held: HashMap::new(),
        tickets: 0,
        asked: false,
    };
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let ended = listening.converse(&stop).await;
        listening.lost(ended.err());
        pause = if began.elapsed() >= GOOD { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::select! {
            () = stop.cancelled() => {}
            () = listening.clock.sleep(jittered(pause)) => {}
        }
    }
}

/// Between half of it and the whole, so that the gateways of a site do not come back at one moment.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness there is only less spread.
    getrandom::fill(&mut random).ok();
    pause / 2 + (pause / 2).mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}

struct Listening {
    broker: Arc<Broker>,
    ingest: Ingest,
    clock: Clock,
    report: watch::Sender<Report>,
    meters: Meters,
    /// One for each subscription.
    decoders: Vec<Decoder>,
    dial: Dial,
    /// Messages that a decoder has and that are not settled.
    held: HashMap<Ticket, Publish>,
    /// The last ticket given out.
    tickets: Ticket,
    /// The broker has been asked for what is published: its session is of this config.
    asked: bool,
}

/// A hand-over to the store and the messages that it came from.
struct Stored {
    outcome: Result<Receipt, StoreError>,
    messages: Vec<Publish>,
}

/// What one look at the messages that have come gives.
#[derive(Default)]
struct Batch {
    readings: Vec<Reading>,
    /// Done with when the readings are durable.
    messages: Vec<Publish>,
}

impl Listening {
    /// One connection, from the attempt to its end.
    async fn converse(&mut self, stop: &CancellationToken) -> Result<(), String> {
        self.held.clear();
        self.decoders.iter_mut().for_each(Decoder::drop_held);
        self.report.send_modify(|report| report.attempts += 1);
        let (sender, mut receiver) = connection::open(&self.broker, &self.dial)?;
        let (tell, mut heard) = mpsc::channel(WAITING);
        let mut reading = JoinSet::new();
        // The client is asked by a task of its own: its work must not be cut off in the middle.
        reading.spawn(async move {
            loop {
                let next = receiver.next().await;
                let is_last = next.is_err();
                if tell.send(next).await.is_err() || is_last {
                    return;
                }
            }
        });
        let mut under_way = FuturesOrdered::new();
        let mut unacknowledged = 0;
        let (mut accepted, mut last_sign) = (false, Instant::now());
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(stored) = under_way.next(), if !under_way.is_empty() => {
                    let stored: Stored = stored;
                    unacknowledged -= stored.messages.len();
                    self.acknowledge(&sender, stored)?;
                }
                count = heard.recv_many(&mut waiting, TOGETHER), if unacknowledged < UNACKNOWLEDGED => {
                    if count == 0 {
                        return Err("the connection ended".to_owned());
                    }
                    if waiting.iter().any(|next| !matches!(next, Ok(connection::Heard::Sent))) {
                        last_sign = Instant::now();
                    }
                    let mut batch = Batch::default();
                    let mut ended = None;
                    for next in waiting.drain(..) {
                        match next {
                            Ok(connection::Heard::Connected { session_present }) => {
                                accepted = true;
                                self.accepted(&sender, session_present).await?;
                            }
                            Ok(connection::Heard::Subscribed(granted)) => self.subscribed(&granted),
                            Ok(connection::Heard::Message(message)) => self.take(message, &mut batch),
                            Ok(connection::Heard::Other | connection::Heard::Sent) => {}
                            Err(why) => ended = Some(why),
                        }
                    }
                    unacknowledged += batch.messages.len();
                    under_way.push_back(store(self.ingest.clone(), self.clock.clone(), batch));
                    if let Some(why) = ended {
                        // What is being stored is sent again by the broker; nothing of it can be acknowledged here.
                        return Err(why);
                    }
                }
                _ = look.tick() => {
                    let limit = if accepted { self.broker.keep_alive * 2 } else { ACCEPTED_WITHIN };
                    if last_sign.elapsed() > limit {
                        let seconds = limit.as_secs();
                        return Err(format!("the broker has given no sign of life for {seconds} s"));
                    }
                    let batch = self.look();
                    if !batch.messages.is_empty() {
                        unacknowledged += batch.messages.len();
                        under_way.push_back(store(self.ingest.clone(), self.clock.clone(), batch));
                    }
                }
            }
        }
        let rest = async {
            while let Some(stored) = under_way.next().await {
                self.acknowledge(&sender, stored)?;
            }
            sender.say_offline(&self.broker.status_topic).await?;
            sender.disconnect().await?;
            while let Some(Ok(_)) = heard.recv().await {}
            Ok::<_, String>(())
        };
        if timeout(LAST_WORDS, rest).await.is_err() {
            info!(broker = %self.broker.name, "left before the last acknowledgement was sent");
        }
        Ok(())
    }

    /// The broker has let us in.
    async fn accepted(&mut self, sender: &Sender, session_present: bool) -> Result<(), String> {
        let asked = std::mem::replace(&mut self.asked, true);
        self.report.send_modify(|report| report.broker.connects += 1);
        sender.say_online(&self.broker.status_topic).await?;
        // A session from before our start may have been made for another config. Later, asking again would only have
        // the broker repeat all that it keeps.
        if asked && session_present || self.broker.subscriptions.is_empty() {
            self.connected(None);
            return Ok(());
        }
        let filters: Vec<_> = self.broker.subscriptions.iter().map(|asked| asked.topic.clone()).collect();
        sender.subscribe(&filters).await
    }

    fn subscribed(&self, granted: &[bool]) {
        let mut refused = self.broker.subscriptions.iter().zip(granted).filter(|(_, granted)| !**granted);
        let why = refused
            .next()
            .map(|(asked, _)| format!("the broker refuses the subscription to {}: check its access list", asked.topic));
        if let Some(why) = &why {
            warn!(broker = %self.broker.name, problem = %why, "not subscribed");
        }
        self.connected(why);
    }

    /// What is published from now on comes here.
    fn connected(&self, problem: Option<String>) {
        let now = self.clock.now();
        if problem.is_none()
            && let Some(problem) = &self.report.borrow().broker.problem
        {
            info!(broker = %self.broker.name, was = %problem, "connected");
        }
        self.report.send_modify(|report| {
            report.broker.connected = true;
            report.broker.since = now;
            report.broker.problem = problem;
        });
    }

    /// Takes one message into the batch.
    fn take(&mut self, message: Publish, batch: &mut Batch) {
        let topic = message.topic();
        let now = self.clock.now();
        self.report.send_modify(|report| {
            report.broker.messages += 1;
            report.broker.last_message = Some(now);
            report.broker.silent = false;
        });
        if message.payload().is_empty()
            && let Some(cut) = self.dial.cuts.take(&topic, message.id())
        {
            let (bytes, most) = (cut.bytes, self.broker.max_packet);
            let reason = format!("{bytes} bytes, and `max_packet` is {most}: it was not read");
            warn!(broker = %self.broker.name, topic, bytes, "a message is too long");
            self.malformed(topic, reason, String::new());
            return batch.messages.push(message);
        }
        let Some(at) = self.broker.subscriptions.iter().position(|asked| takes(&asked.topic, &topic)) else {
            self.report.send_modify(|report| report.broker.unasked += 1);
            return batch.messages.push(message);
        };
        self.tickets += 1;
        let (known, arrival) =
            (Message { topic: &topic, payload: message.payload(), retained: message.retained() }, self.clock.stamp());
        let settled = self.decoders[at].take(self.tickets, &known, &arrival);
        self.held.insert(self.tickets, message);
        settled.into_iter().for_each(|settled| self.settle(settled, batch));
    }

    /// A message is read: what it says goes into the batch, and so does the message.
    fn settle(&mut self, settled: Settled, batch: &mut Batch) {
        let Some(message) = self.held.remove(&settled.ticket) else { return };
        let (topic, taken) = (message.topic(), self.clock.stamp());
        for sample in settled.samples {
            match self.meters.hear(sample, &topic, taken) {
                Heard::Reading(at, reading) => {
                    self.report.send_modify(|report| report.meters[at].answered(taken.time));
                    batch.readings.push(reading);
                }
                Heard::Proposed => {}
                Heard::TooFine(error) => self.malformed(topic.clone(), error.to_string(), String::new()),
            }
        }
        match settled.fault {
            // A broker hands those out at every connection: they are no fault of anybody's.
            Some(fault) if fault.reason == Reason::Undated => {
                self.report.send_modify(|report| report.broker.undated += 1)
            }
            Some(fault) => self.malformed(topic, fault.reason.to_string(), fault.beginning),
            None => {}
        }
        batch.messages.push(message);
    }

    fn malformed(&self, topic: String, reason: String, payload: String) {
        let time = self.clock.now();
        self.report.send_modify(|report| {
            report.broker.malformed += 1;
            report.broker.last_malformed = Some(MalformedMessage { topic, time, reason, payload });
        });
    }

    /// What time alone brings: halves that wait in vain, meters that keep silent.
    fn look(&mut self) -> Batch {
        let (now, since_boot_ms) = (self.clock.now(), self.clock.since_boot_ms());
        let mut batch = Batch::default();
        let expired: Vec<_> = self.decoders.iter_mut().flat_map(|decoder| decoder.expire(since_boot_ms)).collect();
        expired.into_iter().for_each(|settled| self.settle(settled, &mut batch));
        let (proposals, unnamed) = (self.meters.proposals(), self.meters.unnamed);
        self.report.send_modify(|report| {
            report.attempts += 1;
            let broker = &mut report.broker;
            (broker.proposals, broker.unnamed) = (proposals, unnamed);
            let last = broker.last_message.map_or(broker.since, |last| last.max(broker.since));
            broker.silent = broker.connected && silent_for(last, now, SILENT_AFTER);
            for (meter, publisher) in report.meters.iter_mut().zip(&self.broker.meters) {
                let limit = publisher.interval.map_or(SILENT_AFTER, |interval| (interval * 5).max(SILENT_AFTER / 15));
                let last = meter.last_answer.unwrap_or(meter.since);
                if silent_for(last, now, limit) && meter.condition != Condition::Silent {
                    meter.condition = Condition::Silent;
                    meter.since = now;
                    meter.problem = Some(format!("nothing was published for {} s", limit.as_secs()));
                }
            }
        });
        batch
    }

    fn acknowledge(&self, sender: &Sender, stored: Stored) -> Result<(), String> {
        match stored.outcome {
            Ok(receipt) => self.report.send_modify(|report| report.broker.repeated += receipt.repeated),
            Err(error) => return Err(error.to_string()),
        }
        stored.messages.iter().try_for_each(|message| sender.acknowledge(message))
    }

    /// The connection is gone.
    fn lost(&self, why: Option<String>) {
        let now = self.clock.now();
        let is_new = self.report.borrow().broker.problem != why;
        if let (Some(why), true) = (&why, is_new) {
            warn!(broker = %self.broker.name, problem = %why, "not connected");
        }
        self.report.send_modify(|report| {
            report.attempts += 1;
            if report.broker.connected {
                report.broker.connected = false;
                report.broker.since = now;
            }
            report.broker.problem = why;
        });
    }
}

fn silent_for(last: Timestamp, now: Timestamp, limit: Duration) -> bool {
    u128::try_from(now.millis_since(last)).is_ok_and(|ms| ms >= limit.as_millis())
}

/// Stores the readings of a batch, however long the store may need. What cannot be stored is not acknowledged.
async fn store(ingest: Ingest, clock: Clock, batch: Batch) -> Stored {
    let Batch { readings, messages } = batch;
    if readings.is_empty() {
        let outcome = Ok(Receipt { first_seq: 1, last_seq: 0, repeated: 0 });
        return Stored { outcome, messages };
    }
    loop {
        match ingest.store(readings.clone()).await {
            Err(error) if error.may_pass() => clock.sleep(STORE_AGAIN).await,
            outcome => return Stored { outcome, messages },
        }
    }
}
