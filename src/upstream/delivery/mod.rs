//! One upstream: it is opened, judged and given our checkpoint, and then the lanes go on until something breaks. What
//! waits is found in the store, so that a lost nudge, a restart and a week without a line are one case.

mod batch;
mod opening;
mod sight;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use self::sight::sight;
use super::halt::Halt;
use super::judge::Shows;
use super::lane::Flow;
use super::position::{self, Lane};
use super::receiver::{Fault, Receiver};
use super::replay::Replay;
use super::source::Source;
use super::status::Shown;
use super::{Parts, Upstream, minutes};
use crate::model::note::SignedCheckpoint;
use crate::model::{ClockState, NewDeadLetter, Stream, Timestamp, UpstreamState};
use crate::store::{Identity, Reader, StoreError};

/// Dead letters of one upstream, at most: with so many, something is wrong that a person must see to first.
pub const LETTERS: u64 = 10_000;
/// Pauses after failures: doubled from the first to the greatest, of which a random half is taken off.
const FIRST_PAUSE_MS: u64 = 1_000;
const GREATEST_PAUSE_MS: u64 = 60_000;
/// One that refuses us is asked again so often: somebody may have mended it.
const STOPPED_PAUSE: Duration = Duration::from_secs(900);
/// Nobody who asks for time is given more.
const GREATEST_WISH: Duration = Duration::from_secs(3_600);
/// One that asks for more time than this is connected to anew.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause before a store that cannot be used is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(10);
/// Positions are kept so often where what is sent again is known by its key.
const KEEP_EVERY_MS: u64 = 10_000;
/// Few new readings go out so often at most, and not with each commit: fewer requests, and fewer bytes for each reading.
const LIVE_EVERY_MS: u64 = 1_000;
/// Without news, what is shown is looked after so often.
const LOOK: Duration = Duration::from_secs(5);
/// A stream's oldest record is looked up so often at most.
const OLDEST_EVERY_MS: u64 = 10_000;
/// Batches of one stream's live lane in a row, so that the backfill gets its turn however much comes.
const LIVE_TURNS: usize = 2;

/// A clock that is right and further behind than this was ahead before: minutes that come again are other ones.
const FAR_MINUTES: u64 = 1_440;

/// Under this name the store keeps what others were believed.
pub const OUTSIDE: &str = "upstream.outside";

/// What others have shown that the store did not know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outside {
    /// Origins of epochs that it never had, after which its log began anew.
    pub met: std::collections::BTreeSet<String>,
    /// When each upstream was last believed what no key here has signed.
    pub believed: BTreeMap<String, Timestamp>,
    /// When each was last believed that it has other records of the epoch of that time.
    #[serde(default)]
    pub conflicts: BTreeMap<String, Timestamp>,
}

impl Outside {
    pub async fn read(reader: &Reader) -> Result<Self, StoreError> {
        let kept = reader.state(OUTSIDE).await?;
        Ok(kept.and_then(|kept| serde_json::from_value(kept).ok()).unwrap_or_default())
    }
}

/// What an upstream's task tells the owner of all of them.
pub enum Word {
    /// The other side knows more than the store of this epoch.
    WentBack {
        by: String,
        epoch: String,
        shown: Shows,
        done: oneshot::Sender<()>,
    },
    /// The other side has other records under these keys of this epoch. The answer is whether they have new keys now.
    Conflict {
        by: String,
        epoch: String,
        records: Vec<(Stream, u64)>,
        note: Option<SignedCheckpoint>,
        done: oneshot::Sender<bool>,
    },
    /// A person must act.
    Stopped {
        by: String,
        text: String,
    },
    Works {
        by: String,
    },
}

/// What somebody wants of an upstream.
pub enum Wish {
    Flush,
    /// These dead letters, or all.
    Replay(Option<Vec<u64>>),
}

/// Why a conversation ended.
enum Ended {
    /// It is to stop, or the log began anew.
    Halted,
    Fault(Fault),
    WentBack(Shows),
    Conflict(Conflict),
    Store(StoreError),
}

struct Conflict {
    epoch: String,
    stream: Stream,
    letters: Vec<NewDeadLetter>,
    note: Option<SignedCheckpoint>,
}

impl From<StoreError> for Ended {
    fn from(fault: StoreError) -> Self {
        Self::Store(fault)
    }
}

/// What one conversation has come to know.
struct Line {
    identity: Arc<Identity>,
    /// What the other side holds of the current epoch.
    held: Option<SignedCheckpoint>,
    is_witness: bool,
}

impl Line {
    /// Blocks of the current epoch may be sent whose index is below this.
    fn signed(&self) -> u64 {
        if self.is_witness { self.held.as_ref().map_or(0, |held| held.checkpoint.size) } else { u64::MAX }
    }
}

pub struct Delivery<R> {
    upstream: Upstream,
    receiver: R,
    parts: Parts,
    halt: Halt,
    words: mpsc::Sender<Word>,
    wishes: mpsc::Receiver<Wish>,
    committed: watch::Receiver<u64>,
    sendable: watch::Receiver<u64>,
    source: Source,
    /// In order of urgency.
    order: Vec<Stream>,
    flows: BTreeMap<Stream, Flow>,
    shown: Shown,
    replay: Replay,
    /// Dead letters that are not durable yet: they become so with the position that passes them.
    pending: Vec<NewDeadLetter>,
    /// Dead letters that the store has.
    letters: u64,
    failures: u32,
    /// On this connection the other side has answered.
    is_proven: bool,
    is_stopped: bool,
    kept_ms: u64,
    live_ms: Option<u64>,
    /// Of each stream the lowest seq that is not settled, when that came to be, and when it was looked up.
    oldest: BTreeMap<Stream, (u64, Option<Timestamp>, u64)>,
}

impl<R: Receiver> Delivery<R> {
    pub fn new(
        upstream: Upstream,
        receiver: R,
        parts: Parts,
        halt: Halt,
        (words, wishes): (mpsc::Sender<Word>, mpsc::Receiver<Wish>),
    ) -> Self {
        let order = upstream.effective_streams();
        let shown = Shown::new(&upstream, &order, parts.clock.clone(), parts.status.clone());
        Self {
            receiver,
            halt,
            words,
            wishes,
            committed: parts.reader.committed(),
            sendable: parts.reader.sendable(),
            source: Source::new(parts.reader.clone(), parts.clock.clone()),
            order,
            flows: BTreeMap::new(),
            shown,
            replay: Replay::default(),
            pending: Vec::new(),
            letters: 0,
            failures: 0,
            is_proven: false,
            is_stopped: true, // an alert of a former run may stand
            kept_ms: parts.clock.since_boot_ms(),
            live_ms: None,
            oldest: BTreeMap::new(),
            upstream,
            parts,
        }
    }

    /// Delivers until stopped. It ends by itself only when the store cannot be used for good.
    pub async fn run(mut self) -> Result<(), StoreError> {
        self.shown.tell_now();
        while let Err(fault) = self.take_up().await {
            if !fault.may_pass() {
                return Err(fault);
            }
            tokio::select! {
                () = self.halt.stopped() => return Ok(()),
                () = self.parts.clock.sleep(STORE_AGAIN) => {}
            }
        }
        while !self.halt.is_stopped() {
            let ended = self.converse().await;
            self.after(ended).await?;
        }
        // What could not be kept is sent again after the next start.
        if let Err(fault) = self.keep().await {
            warn!(upstream = self.upstream.name, error = %fault, "how far it is could not be kept");
        }
        self.shown.tell_now();
        Ok(())
    }

    /// Where it goes on. A start at `now` is kept at once, so that a restart does not move it.
    async fn take_up(&mut self) -> Result<(), StoreError> {
        let kept = self.parts.reader.positions(&self.upstream.name).await?;
        let heads = self.heads().await?;
        let mut begun = Vec::new();
        for stream in &self.order {
            let head = heads.get(stream).copied().unwrap_or(0);
            let mut position = kept.get(stream).cloned().unwrap_or_else(|| {
                let position = position::begin(self.upstream.start, head);
                begun.push((*stream, position.clone()));
                position
            });
            position::tidy(&mut position);
            self.flows.insert(*stream, Flow::new(position));
        }
        self.letters = self.parts.reader.dead_letter_count(&self.upstream.name).await?;
        self.shown.dead_letters(self.letters);
        if !begun.is_empty() {
            self.parts.ledger.save_upstream(self.upstream.name.clone(), begun, Vec::new()).await?;
        }
        Ok(())
    }

    /// One connection, from opening it to what ended it. While it lasts no epoch begins.
    async fn converse(&mut self) -> Ended {
        let Some(turn) = self.halt.turn().await else { return Ended::Halted };
        let ended = match self.deliver().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        // What is acknowledged under a key is known to be before that key may change.
        let kept = self.keep().await;
        drop(turn);
        match (kept, ended) {
            (Err(fault), Ended::Halted) if fault.may_pass() => Ended::Halted,
            (Err(fault), _) => Ended::Store(fault),
            (Ok(()), ended) => ended,
        }
    }

    async fn after(&mut self, ended: Ended) -> Result<(), StoreError> {
        let name = self.upstream.name.clone();
        match ended {
            Ended::Halted => {}
            Ended::Fault(Fault::Stopped(told)) => self.needs_a_person(told).await,
            Ended::Fault(Fault::Busy { wait, told }) => {
                self.away(told);
                self.pause(wait.clamp(Duration::from_millis(FIRST_PAUSE_MS), GREATEST_WISH)).await;
            }
            Ended::Fault(Fault::Away(told) | Fault::TooLarge(told) | Fault::Refused(told)) => self.fails(told).await,
            Ended::WentBack(shown) => {
                let (done, answer) = oneshot::channel();
                let epoch = self.parts.reader.identity().epoch.clone();
                self.ask(Word::WentBack { by: name, epoch, shown, done }, answer).await;
            }
            Ended::Conflict(Conflict { epoch, stream, mut letters, note }) => {
                let (done, answer) = oneshot::channel();
                let records = letters.iter().map(|letter| (stream, letter.seq)).collect();
                let rekeyed = self.ask(Word::Conflict { by: name, epoch, records, note, done }, answer).await;
                if rekeyed != Some(false) {
                    return Ok(());
                }
                // Those that there is no room for are sent and contradicted again.
                let room = room(self.letters, self.pending.len());
                let is_full = letters.len() > room;
                letters.truncate(room);
                if let Some(flow) = self.flows.get_mut(&stream) {
                    flow.aside.extend(letters.iter().map(|letter| letter.seq));
                }
                self.pending.extend(letters);
                if is_full {
                    match self.keep().await {
                        Err(fault) if !fault.may_pass() => return Err(fault),
                        _ => self.needs_a_person(full()).await,
                    }
                } else {
                    self.fails("it has other records under keys that nobody else can have used".to_owned()).await;
                }
            }
            Ended::Store(fault) if fault.may_pass() => {
                self.away(format!("the store cannot be used: {fault}"));
                self.pause(STORE_AGAIN).await;
            }
            Ended::Store(fault) => return Err(fault),
        }
        Ok(())
    }

    async fn needs_a_person(&mut self, told: String) {
        self.shown.retried();
        if self.shown.turn(UpstreamState::Stopped, Some(told.clone())) {
            warn!(upstream = self.upstream.name, "{told}");
        }
        self.is_stopped = true;
        self.say(Word::Stopped { by: self.upstream.name.clone(), text: told }).await;
        self.pause(STOPPED_PAUSE).await;
    }

    async fn fails(&mut self, told: String) {
        self.failures = self.failures.saturating_add(1);
        self.away(told);
        self.pause(Duration::from_millis(pause_ms(self.failures, random_byte()))).await;
    }

    fn away(&mut self, told: String) {
        self.shown.retried();
        let was_up = self.shown.state() != UpstreamState::Away;
        if self.shown.turn(UpstreamState::Away, Some(told.clone())) && was_up {
            warn!(upstream = self.upstream.name, "{told}");
        }
    }

    /// It takes what it is sent.
    async fn works(&mut self) {
        self.failures = 0;
        if self.letters < LETTERS && std::mem::take(&mut self.is_stopped) {
            self.is_stopped = !self.say(Word::Works { by: self.upstream.name.clone() }).await;
        }
        self.connected();
    }

    fn connected(&mut self) {
        if self.shown.turn(UpstreamState::Connected, None) {
            info!(upstream = self.upstream.name, "it takes what it is sent");
        }
    }

    /// Whether the owner was told; not while the log begins anew.
    async fn say(&mut self, word: Word) -> bool {
        tokio::select! {
            () = self.halt.halted() => false,
            sent = self.words.send(word) => sent.is_ok(),
        }
    }

    async fn ask<T>(&mut self, word: Word, answer: oneshot::Receiver<T>) -> Option<T> {
        let asked = async {
            self.words.send(word).await.ok()?;
            answer.await.ok()
        };
        tokio::select! {
            () = self.halt.stopped() => None,
            answer = asked => answer,
        }
    }

    async fn deliver(&mut self) -> Result<Infallible, Ended> {
        // What was refused or, without keys, acknowledged is durable before anything more is sent.
        self.keep().await?;
        let identity = self.parts.reader.identity();
        let opening = self.halt.during(self.receiver.open(&identity));
        let opened = sight!(self).during(opening).await.ok_or(Ended::Halted)?.map_err(at_opening)?;
        let mut line = Line { is_witness: self.order.contains(&Stream::Checkpoints), identity, held: None };
        line.held = self.judge(&line.identity, opened.held).await?;
        self.adopt(opened.positions, &line).await?;
        self.witness(&mut line).await?;
        self.is_proven = self.receiver.asks_at_opening();
        if self.is_proven {
            self.connected();
        }
        let (mut is_new, mut is_asked) = (true, true);
        loop {
            while let Ok(wish) = self.wishes.try_recv() {
                self.wish(wish);
                is_asked = true;
            }
            if std::mem::take(&mut is_asked) {
                // Some may have been discarded.
                self.count_letters().await?;
            }
            // A key that was rotated or a site that was renamed by command began an epoch as well.
            if self.halt.is_halted() || self.parts.reader.identity() != line.identity {
                return Err(Ended::Halted);
            }
            self.committed.borrow_and_update();
            self.sendable.borrow_and_update();
            let heads = self.heads().await?;
            self.witness(&mut line).await?;
            self.leap(&heads, is_new);
            is_new = false;
            let mut rest = LOOK;
            let is_busy = self.round(&line, &heads, &mut rest).await?;
            let since_kept = self.parts.clock.since_boot_ms().saturating_sub(self.kept_ms);
            if since_kept >= KEEP_EVERY_MS {
                self.keep().await?;
            }
            sight!(self).show(&heads).await?;
            if !is_busy {
                if self.is_proven {
                    self.works().await;
                }
                is_asked = self.rest(rest).await;
            }
        }
    }

    /// Each stream's newest records first, and then a batch of what is older. Whether anything moved.
    async fn round(&mut self, line: &Line, heads: &BTreeMap<Stream, u64>, rest: &mut Duration) -> Result<bool, Ended> {
        let mut is_busy = self.send_again(line).await?;
        for stream in self.order.clone() {
            let head = heads.get(&stream).copied().unwrap_or(0);
            for _ in 0..LIVE_TURNS {
                if !self.step(line, (stream, Lane::Live), head, rest).await? {
                    break;
                }
                is_busy = true;
            }
        }
        for stream in self.order.clone() {
            let head = heads.get(&stream).copied().unwrap_or(0);
            if self.step(line, (stream, Lane::Backfill), head, rest).await? {
                return Ok(true);
            }
        }
        Ok(is_busy)
    }

    async fn heads(&mut self) -> Result<BTreeMap<Stream, u64>, StoreError> {
        let mut heads = self.parts.reader.heads().await?;
        if self.order.contains(&Stream::Minutes) {
            let now = self.parts.clock.stamp();
            let head = minutes::head(now.time);
            heads.insert(Stream::Minutes, head);
            // A clock that is not right yet, or was set back by a little, takes nothing back: with the minutes that were
            // sent already it only waits.
            let is_far = |flow: &&mut Flow| flow.position.live > head.saturating_add(FAR_MINUTES * minutes::PLACES);
            if now.clock == ClockState::Synchronised
                && let Some(flow) = self.flows.get_mut(&Stream::Minutes).filter(is_far)
            {
                position::fall_back(&mut flow.position, head);
                flow.is_unsaved = true;
            }
        }
        Ok(heads)
    }

    /// What the live lanes are late with becomes the backfill's, so that the newest need not wait.
    fn leap(&mut self, heads: &BTreeMap<Stream, u64>, is_new: bool) {
        for (stream, flow) in &mut self.flows {
            let Some(head) = heads.get(stream) else { continue };
            let most = self.receiver.most(*stream).max(1) as u64;
            let (keep, late) = match stream {
                Stream::Checkpoints => continue,
                Stream::Readings => (most.min(500), most.saturating_mul(4)),
                Stream::Minutes => (5 * minutes::PLACES, 10 * minutes::PLACES),
                _ => (most.min(64), most.saturating_mul(4)),
            };
            // A line that just came up is to show the newest at once; later the lanes need not part for every burst.
            flow.leap(*head, if is_new { 2 * keep } else { late.max(2 * keep) }, keep);
        }
    }

    async fn count_letters(&mut self) -> Result<(), StoreError> {
        self.letters = self.parts.reader.dead_letter_count(&self.upstream.name).await?;
        self.shown.dead_letters(self.letters);
        Ok(())
    }

    /// Keeps how far it is, and the dead letters with it.
    async fn keep(&mut self) -> Result<(), StoreError> {
        self.kept_ms = self.parts.clock.since_boot_ms();
        let unsaved = self.flows.iter().filter(|(_, flow)| flow.is_unsaved);
        let positions: Vec<_> = unsaved.map(|(stream, flow)| (*stream, flow.position.clone())).collect();
        if positions.is_empty() && self.pending.is_empty() {
            return Ok(());
        }
        let (name, pending) = (self.upstream.name.clone(), self.pending.clone());
        self.parts.ledger.save_upstream(name, positions, pending).await?;
        self.flows.values_mut().for_each(|flow| flow.is_unsaved = false);
        if !self.pending.is_empty() {
            self.pending.clear();
            self.count_letters().await?;
        }
        Ok(())
    }

    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Flush => {}
            Wish::Replay(ids) => self.replay.want(ids),
        }
    }

    /// Waits for news, but no longer than `rest`; whether somebody wanted something.
    async fn rest(&mut self, rest: Duration) -> bool {
        let is_live = self.order.contains(&Stream::Readings);
        let next_minute = minutes::next(self.parts.clock.now());
        let has_minutes = self.order.contains(&Stream::Minutes);
        // Until then it would find nothing that it may send.
        let may_go = self.live_ms.map_or(0, |sent_ms| sent_ms + LIVE_EVERY_MS);
        let is_early = self.parts.clock.since_boot_ms() < may_go;
        tokio::select! {
            () = self.halt.halted() => {}
            Some(wish) = self.wishes.recv() => {
                self.wish(wish);
                return true;
            }
            Ok(()) = self.committed.changed(), if is_live && !is_early => {}
            Ok(()) = self.sendable.changed() => {}
            Ok(()) = self.parts.checkpoint.changed() => {}
            () = self.parts.clock.until(next_minute), if has_minutes => {}
            () = self.parts.clock.sleep(if is_early { rest.min(Duration::from_millis(LIVE_EVERY_MS)) } else { rest }) => {}
        }
        false
    }

    /// Waits, and shows meanwhile how much more there is. A wish, a stop and a new epoch end it.
    async fn pause(&mut self, wait: Duration) {
        let until = self.parts.clock.since_boot_ms() + u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / 2);
        loop {
            let left = Duration::from_millis(until.saturating_sub(self.parts.clock.since_boot_ms()));
            if left.is_zero() {
                return;
            }
            if let Ok(heads) = self.heads().await {
                sight!(self).show(&heads).await.ok(); // shown another time
            }
            tokio::select! {
                () = self.halt.halted() => return,
                Some(wish) = self.wishes.recv() => return self.wish(wish),
                () = self.parts.clock.sleep(left.min(LOOK)) => {}
            }
        }
    }
}

/// For so many dead letters more there is room, where the store has `kept`.
fn room(kept: u64, pending: usize) -> usize {
    usize::try_from(LETTERS.saturating_sub(kept)).unwrap_or(usize::MAX).saturating_sub(pending)
}

fn full() -> String {
    format!(
        "it has refused {LETTERS} records, and no more of them are kept: see `meterseal upstream dead-letters`, and have them \
         sent again or discard them"
    )
}

/// Nothing was handed over yet that could be at fault.
fn at_opening(fault: Fault) -> Ended {
    Ended::Fault(match fault {
        Fault::TooLarge(told) | Fault::Refused(told) => Fault::Stopped(told),
        fault => fault,
    })
}

fn pause_ms(failures: u32, random: u8) -> u64 {
    let whole = FIRST_PAUSE_MS.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(GREATEST_PAUSE_MS);
    whole - whole * u64::from(random) / 512
}

fn random_byte() -> u8 {
    let mut byte = [0];
    // Without randomness the pauses are the same everywhere, which is no reason to stop.
    getrandom::fill(&mut byte).ok();
    byte[0]
}
