//! The owner's work: everything that is due, each step saved before it is taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::fees::{self, Limits};
use super::health::{self, Health};
use super::look::{self, Look};
use super::nodes::{Nodes, Present, less_some};
use super::queue::{Queue, is_of};
use super::step::{Seen, Step, Terms, Trouble, View, is_to_be_checked, step};
use super::{Config, Part, Parts};
use crate::evidence::evm::Call;
use crate::evidence::rpc::{Line, NoRoots, Rpc, RpcError};
use crate::model::{
    Anchor, AnchorRefused, AnchorState, AnchorStatus, Anchored, Attempt, ChainEvidence, Timestamp, WaitReason, Waiting,
};
use crate::store::StoreError;

/// What one question to a node may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause while something is on its way; longer when it has been for long, since nodes count questions.
const POLL_MS: u64 = 4_000;
const SLOW_POLL_MS: u64 = 15_000;
const SLOWEST_POLL_MS: u64 = 60_000;
const SLOW_AFTER_MS: u64 = 600_000;
const SLOWEST_AFTER_MS: u64 = 3_600_000;
/// The pause while nothing is: a clock that was set is noticed within it.
const IDLE: Duration = Duration::from_secs(600);
/// What a queued one waits for may pass.
const WAITING: Duration = Duration::from_secs(20);
/// The text of what it waits for has figures, and is kept this often; the reason at once, and all under a new config.
const TEXT_MS: u64 = 60_000;
/// Steps of one anchor in a row: signed, sent and found mined are three.
const STEPS: usize = 5;
/// What changed lately, at most as many: far more than a day's budget lets through.
const RECENT: usize = 1_000;

/// The one who signs.
pub struct Anchorer {
    queue: Queue,
    /// The config that the nodes are of, or why nothing is anchored. A newer one holds from the next round on.
    config: Result<Arc<Config>, AnchorRefused>,
    /// Made when it is first needed, and kept.
    line: Option<Line>,
    nodes: Nodes,
    health: Health,
    /// What was seen of the anchors that are under way.
    seen: BTreeMap<u64, Seen>,
    /// When the text of what an anchor waits for was kept, ms since boot.
    kept_ms: BTreeMap<u64, u64>,
}

/// What holds for one round.
struct Round {
    config: Arc<Config>,
    /// Those that are not settled, in the order in which they are looked at.
    unsettled: Vec<Anchor>,
    /// What changed within 24 h.
    recent: Vec<Anchor>,
    present: Vec<Present>,
}

impl Anchorer {
    pub fn new(parts: Parts, part: watch::Receiver<Arc<Part>>) -> Self {
        let mut anchorer = Self {
            queue: Queue::new(parts, part),
            config: Err(AnchorRefused::NotConfigured),
            line: None,
            nodes: Nodes::new(0, Vec::new()),
            health: Health::default(),
            seen: BTreeMap::new(),
            kept_ms: BTreeMap::new(),
        };
        anchorer.reconfigure();
        anchorer
    }

    /// Where wishes are taken, also during a round.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// The config is another one. What is on its way stays as it is.
    pub fn reconfigure(&mut self) {
        self.config = self.queue.config();
        let rpcs = match self.config.as_ref().map(|config| rpcs(&mut self.line, config)) {
            Ok(Ok(rpcs)) => rpcs,
            Ok(Err(no_roots)) => {
                self.config = Err(AnchorRefused::Off(no_roots.to_string()));
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        self.nodes = Nodes::new(self.config.as_ref().map_or(0, |config| config.chain_id), rpcs);
        self.health.forget();
        // What they wait for may be of the old one.
        self.kept_ms.clear();
    }

    /// Does all that is due; after how long to look again, or never.
    pub async fn round(&mut self) -> Result<Option<Duration>, StoreError> {
        let config = match &self.config {
            Ok(config) => config.clone(),
            Err(refused) => {
                if *refused == AnchorRefused::NotConfigured {
                    health::no_more(&self.queue.parts).await?;
                }
                self.tell(None, None);
                return Ok(None);
            }
        };
        let (clock, reader) = (self.queue.parts.clock.clone(), self.queue.parts.reader.clone());
        let next = self.queue.queue_due(&config).await?;
        let mut unsettled = Vec::new();
        for anchor in reader.unsettled_anchors().await? {
            if !self.queue.is_idle(&anchor, &config).await? {
                unsettled.push(anchor);
            } else if anchor.waiting.is_some() {
                let ledger = &self.queue.parts.ledger;
                ledger.save_anchor(Anchor { waiting: None, ..anchor }, None).await?;
            }
        }
        self.seen.retain(|id, _| unsettled.iter().any(|anchor| anchor.id == *id));
        self.kept_ms.retain(|id, _| unsettled.iter().any(|anchor| anchor.id == *id));
        // Transactions come in the order of their nonces, and what is not signed yet after them.
        let nonce = |anchor: &Anchor| anchor.attempts.last().map_or(u64::MAX, |attempt| attempt.nonce);
        unsettled.sort_by_key(|anchor| (nonce(anchor), anchor.id));
        let recent = reader.anchors_changed(fees::around(clock.now()), RECENT).await?;
        let mut round = Round { config, unsettled, recent, present: Vec::new() };
        if self.health.asks_for_balance(&clock) || round.unsettled.iter().any(|anchor| self.is_active(anchor)) {
            round.present = self.nodes.greet(&clock).await;
            self.health.ask_balance(&mut self.nodes, &mut round.present, &round.config, &clock).await;
            for at in 0..round.unsettled.len() {
                self.advance(&mut round, at).await?;
            }
        }
        let waiting = self.waiting(&round.config, &round.unsettled);
        self.health.judge(&self.queue, &round.config, &round.unsettled, waiting.as_ref()).await?;
        self.tell(next, waiting);
        Ok(Some(self.pause(&round, next)))
    }

    /// Asks how nodes and account are, and changes nothing.
    pub async fn look(&mut self) -> Result<(), StoreError> {
        let Ok(config) = self.config.clone() else { return Ok(()) };
        let clock = self.queue.parts.clock.clone();
        let mut present = self.nodes.greet(&clock).await;
        self.health.ask_balance(&mut self.nodes, &mut present, &config, &clock).await;
        self.health.rate(&self.queue, &config).await?;
        let unsettled = self.queue.parts.reader.unsettled_anchors().await?;
        self.tell(None, self.waiting(&config, &unsettled));
        Ok(())
    }

    /// What holds up everything: what is of another chain or account holds up itself alone.
    fn waiting(&self, config: &Config, unsettled: &[Anchor]) -> Option<Waiting> {
        let holds_up = |anchor: &&Anchor| is_of(anchor, config) && self.is_active(anchor);
        unsettled.iter().filter(holds_up).find_map(|anchor| anchor.waiting.clone())
    }

    /// Whether there is anything to be done or seen about it.
    fn is_active(&self, anchor: &Anchor) -> bool {
        anchor.state != AnchorState::Final || is_to_be_checked(anchor, self.queue.parts.clock.now())
    }

    /// Takes one anchor as far as it goes now.
    async fn advance(&mut self, round: &mut Round, at: usize) -> Result<(), StoreError> {
        for _ in 0..STEPS {
            if !self.is_active(&round.unsettled[at]) {
                return Ok(());
            }
            let Some(anchor) = self.taken_up(round, at).await? else { return self.go_on(round, at).await };
            let meant_for = |anchor: &Anchor| (anchor.chain_id, anchor.account, anchor.contract);
            if meant_for(&anchor) != meant_for(&round.unsettled[at]) {
                self.save(round, at, anchor.clone(), None).await?;
            }
            let is_elsewhere = anchor.state == AnchorState::Queued && !is_of(&anchor, &round.config);
            if anchor.chain_id != round.config.chain_id || is_elsewhere {
                let text = format!(
                    "it is of {} on chain {}, and [anchor] speaks of {} on chain {}: it goes on when that chain and that key \
                     are configured again",
                    anchor.account,
                    anchor.chain_id,
                    round.config.key.address(),
                    round.config.chain_id
                );
                return self.wait(round, at, Trouble { reason: WaitReason::WrongChain, text }).await;
            }
            let terms = self.terms(round, &anchor).await?;
            let now_ms = self.queue.parts.clock.since_boot_ms();
            let seen = self.seen.entry(anchor.id).or_default();
            seen.now_ms = now_ms;
            let view = if terms.is_taken && anchor.state == AnchorState::Queued {
                View::unasked()
            } else {
                let clock = &self.queue.parts.clock;
                Look { nodes: &mut self.nodes, present: &mut round.present, clock }.at(&anchor, seen).await
            };
            if matches!(anchor.state, AnchorState::Included | AnchorState::Final) {
                // From then on it is looked at less and less often. Its height is of no account.
                seen.since.get_or_insert((now_ms, 0));
            }
            let step = step(&anchor, &view, seen, &terms, self.queue.parts.clock.now());
            if let (Ok(market), true) = (&view.market, anchor.account == round.config.key.address()) {
                self.health.note(*market, &self.queue.parts.clock);
            }
            match step {
                Step::Rest => return self.go_on(round, at).await,
                Step::Wait(trouble) => return self.wait(round, at, trouble).await,
                step => self.take(round, at, anchor, step).await?,
            }
        }
        Ok(())
    }

    /// One of which nothing is signed goes with the config and the log as they are now; `None`: others cover all of it.
    /// A contract stays where it was wanted: nobody asked for one elsewhere, and it costs.
    async fn taken_up(&self, round: &Round, at: usize) -> Result<Option<Anchor>, StoreError> {
        let (anchor, config) = (&round.unsettled[at], &round.config);
        if anchor.state != AnchorState::Queued || anchor.what == Anchored::Contract {
            return Ok(Some(anchor.clone()));
        }
        let (chain_id, account, contract) = (config.chain_id, config.key.address(), config.contract);
        let anchor = Anchor { chain_id, account, contract, ..anchor.clone() };
        self.queue.brought_up_to_date(&anchor, config).await
    }

    async fn terms(&self, round: &Round, anchor: &Anchor) -> Result<Terms, StoreError> {
        let Round { config, unsettled, recent, .. } = round;
        let settled = recent.iter().filter(|recent| unsettled.iter().all(|one| one.id != recent.id));
        let spending = settled.chain(unsettled).filter(|one| one.chain_id == config.chain_id);
        let budget = fees::budget(config.daily_budget, spending, anchor.id, self.queue.parts.clock.now());
        let next_nonce = self.queue.parts.reader.next_nonce(anchor.chain_id, anchor.account).await?;
        Ok(Terms {
            limits: Limits { chain_id: config.chain_id, max_fee: config.max_fee, budget },
            every: config.every,
            next_nonce: next_nonce.unwrap_or(0),
            can_sign: is_of(anchor, config),
            is_taken: is_behind(anchor, unsettled),
        })
    }

    /// Takes a step that changes the anchor. It is saved first, whatever it is.
    async fn take(&mut self, round: &mut Round, at: usize, anchor: Anchor, step: Step) -> Result<(), StoreError> {
        let (now, id) = (self.queue.parts.clock.now(), anchor.id);
        let moved = |state| Anchor { state, since: now, waiting: None, ..anchor.clone() };
        match step {
            Step::Sign { nonce, price, gas_limit, height } => {
                // Until it is saved nobody is answered with this anchor: what was wanted while the nodes were asked is in it,
                // and what is wanted later is in the next.
                let _turn = self.queue.turn().await;
                let mut next = match anchor.state {
                    AnchorState::Queued => match self.queue.brought_up_to_date(&anchor, &round.config).await? {
                        Some(anchor) => anchor,
                        None => return Ok(()),
                    },
                    _ => anchor.clone(),
                };
                next.waiting = None;
                if anchor.state == AnchorState::Queued {
                    health::tell_of_count(&self.queue.parts, &anchor, nonce).await?;
                    (next.state, next.since) = (AnchorState::Signed, now);
                }
                let Some(data) = look::data(&next) else { return Ok(()) };
                let call = Call {
                    chain_id: next.chain_id,
                    nonce,
                    max_fee: price.max_fee,
                    tip: price.tip,
                    gas_limit,
                    to: look::to(&next),
                    data,
                };
                let signed = round.config.key.sign(&call);
                next.attempts.push(Attempt {
                    hash: signed.hash,
                    raw: signed.raw,
                    nonce,
                    max_fee: price.max_fee,
                    tip: price.tip,
                    gas_limit,
                    signed: now,
                    height,
                    sent: None,
                });
                // A crash from here on finds this very transaction, and sends it again.
                self.save(round, at, next, None).await?;
                let now_ms = self.queue.parts.clock.since_boot_ms();
                self.seen.insert(id, Seen { now_ms, ..Seen::default() });
                info!(anchor = id, transaction = %signed.hash, nonce, "signed");
            }
            Step::Send => self.send(round, at).await?,
            Step::Include { inclusion, evidence } => {
                info!(anchor = id, transaction = %inclusion.transaction, height = inclusion.height, "included");
                // One that was given up is again what it was then.
                let known = anchor.taken_back(inclusion.transaction).unwrap_or_else(|| anchor.clone());
                let state = AnchorState::Included;
                let next = Anchor { inclusion: Some(inclusion), state, since: now, waiting: None, ..known };
                self.save(round, at, next, evidence).await?;
                self.seen.remove(&id);
            }
            Step::Finalise { next_check } => {
                info!(anchor = id, "final");
                self.save(round, at, Anchor { next_check, ..moved(AnchorState::Final) }, None).await?;
                health::well_again(&self.queue.parts).await?;
                self.health.ask_again();
            }
            Step::Check { next_check } => {
                self.save(round, at, Anchor { next_check, waiting: None, ..anchor }, None).await?;
            }
            Step::Reorganise => {
                warn!(anchor = id, was = anchor.state.as_str(), "its block is not on the chain any more");
                if anchor.state == AnchorState::Final {
                    health::tell_of_reorganisation(&self.queue.parts, &anchor).await?;
                }
                self.save(round, at, Anchor { next_check: None, ..moved(AnchorState::Reorganised) }, None).await?;
                self.seen.remove(&id);
            }
            Step::Fail(failed) => {
                warn!(anchor = id, transaction = %failed.transaction, height = failed.height, "reverted");
                let mut next = Anchor { attempts: Vec::new(), inclusion: None, ..moved(AnchorState::Queued) };
                next.given_up.retain(|given_up| !given_up.has(failed.transaction));
                next.failed.push(failed);
                self.save(round, at, next, None).await?;
                self.seen.remove(&id);
            }
            Step::GiveUpNonce => {
                let nonce = anchor.attempts.last().map_or(0, |attempt| attempt.nonce);
                health::tell_of_rival(&self.queue.parts, &anchor, nonce).await?;
                let next = moved(AnchorState::Queued).give_up();
                self.save(round, at, next, None).await?;
                self.seen.remove(&id);
            }
            Step::Wait(_) | Step::Rest => {}
        }
        Ok(())
    }

    /// Hands the newest attempt to the nodes; after a reorganisation all, one of which they may have mined before.
    async fn send(&mut self, round: &mut Round, at: usize) -> Result<(), StoreError> {
        let anchor = &round.unsettled[at];
        let before = match (anchor.state, anchor.attempts.len()) {
            (AnchorState::Reorganised, count) => count.saturating_sub(1),
            _ => 0,
        };
        for attempt in &anchor.attempts[..before] {
            // What comes of these is looked up, as of all.
            self.nodes.send(&round.present, &attempt.raw).await;
        }
        let Some(newest) = anchor.attempts.last().cloned() else { return Ok(()) };
        let (mut taken, failed) = self.nodes.send(&round.present, &newest.raw).await;
        if taken == 0 {
            // Words differ from node to node, such as "already known": what counts is whether it is known.
            let hash = newest.hash;
            let clock = &self.queue.parts.clock;
            let known =
                self.nodes.each(&mut round.present, clock, move |rpc| async move { rpc.knows(hash).await }).await;
            taken = known.iter().filter(|(_, knows)| *knows).count();
        }
        let now_ms = self.queue.parts.clock.since_boot_ms();
        let seen = self.seen.entry(round.unsettled[at].id).or_default();
        seen.sent_ms = Some(now_ms);
        (seen.refused, seen.unsent) = match failed.filter(|_| taken == 0) {
            // Nobody refused anything where nobody could be asked.
            Some(error @ RpcError::Unreachable { .. }) => (None, Some(error.to_string())),
            error => (error.map(|error| error.to_string()), None),
        };
        if taken == 0 || newest.sent.is_some() {
            return Ok(());
        }
        let mut next = round.unsettled[at].clone();
        let now = self.queue.parts.clock.now();
        if let Some(newest) = next.attempts.last_mut() {
            newest.sent = Some(now);
        }
        if next.state == AnchorState::Signed {
            (next.state, next.since) = (AnchorState::Sent, now);
        }
        next.waiting = None;
        info!(anchor = next.id, transaction = %newest.hash, "sent");
        self.save(round, at, next, None).await
    }

    async fn save(
        &self,
        round: &mut Round,
        at: usize,
        next: Anchor,
        evidence: Option<ChainEvidence>,
    ) -> Result<(), StoreError> {
        self.queue.parts.ledger.save_anchor(next.clone(), evidence).await?;
        round.unsettled[at] = next;
        Ok(())
    }

    /// Keeps what it waits for: the reason at once, other figures in its text now and then.
    async fn wait(&mut self, round: &mut Round, at: usize, trouble: Trouble) -> Result<(), StoreError> {
        let (now, now_ms) = (self.queue.parts.clock.now(), self.queue.parts.clock.since_boot_ms());
        let anchor = &round.unsettled[at];
        let known = anchor.waiting.as_ref().filter(|waiting| waiting.reason == trouble.reason);
        let since = known.map_or(now, |waiting| waiting.since);
        let (is_known, is_same) = (known.is_some(), known.is_some_and(|waiting| waiting.text == trouble.text));
        let is_fresh = self.kept_ms.get(&anchor.id).is_some_and(|kept| now_ms.saturating_sub(*kept) < TEXT_MS);
        let waiting = Some(Waiting { reason: trouble.reason, text: trouble.text, since });
        let next = Anchor { waiting, ..anchor.clone() };
        if !is_known {
            info!(anchor = next.id, "waits: {}", next.waiting.as_ref().map_or("", |waiting| &waiting.text));
        }
        if is_known && (is_same || is_fresh) {
            // Shown as it is, though the store has older figures.
            round.unsettled[at] = next;
            return Ok(());
        }
        self.kept_ms.insert(next.id, now_ms);
        self.save(round, at, next, None).await
    }

    /// It waits for nothing any more.
    async fn go_on(&mut self, round: &mut Round, at: usize) -> Result<(), StoreError> {
        let anchor = &round.unsettled[at];
        if anchor.waiting.is_none() {
            return Ok(());
        }
        self.kept_ms.remove(&anchor.id);
        self.save(round, at, Anchor { waiting: None, ..anchor.clone() }, None).await
    }

    fn tell(&self, next: Option<Timestamp>, waiting: Option<Waiting>) {
        let off = match &self.config {
            Err(AnchorRefused::Off(why)) => Some(why.clone()),
            _ => None,
        };
        let config = self.config.as_deref().ok();
        let status = AnchorStatus {
            chain_id: config.map_or(0, |config| config.chain_id),
            off,
            account: config.map(|config| config.key.address()),
            contract: config.and_then(|config| config.contract),
            balance: self.health.balance,
            days_left: self.health.days_left,
            next,
            rpcs: self.nodes.status(),
            waiting,
        };
        self.queue.parts.status.send_if_modified(|known| {
            let differs = *known != status;
            *known = status;
            differs
        });
    }

    /// After how long to look again.
    fn pause(&self, round: &Round, next: Option<Timestamp>) -> Duration {
        let (now, now_ms) = (self.queue.parts.clock.now(), self.queue.parts.clock.since_boot_ms());
        let until = |at: Timestamp| Duration::from_millis(u64::try_from(at.millis_since(now)).unwrap_or(0));
        let mut pause = IDLE;
        if let Some(next) = next.filter(|next| *next > now) {
            pause = pause.min(until(next));
        }
        for anchor in round.unsettled.iter().filter(|anchor| anchor.chain_id == round.config.chain_id) {
            let is_queued = anchor.state == AnchorState::Queued;
            let wanted = match anchor.state {
                AnchorState::Final if !self.is_active(anchor) => anchor.next_check.map_or(IDLE, until),
                // Nothing comes of it until the config is another one, or until the one before it is mined.
                AnchorState::Queued if !is_of(anchor, &round.config) || is_behind(anchor, &round.unsettled) => continue,
                _ if is_queued && anchor.waiting.is_some() && round.present.is_empty() => {
                    WAITING.max(self.nodes.pause(now_ms))
                }
                _ if round.present.is_empty() => self.nodes.pause(now_ms),
                _ if is_queued && anchor.waiting.is_some() => WAITING,
                _ => {
                    let since = self.seen.get(&anchor.id).and_then(|seen| seen.since).map_or(now_ms, |since| since.0);
                    Duration::from_millis(less_some(match now_ms.saturating_sub(since) {
                        0..SLOW_AFTER_MS => POLL_MS,
                        SLOW_AFTER_MS..SLOWEST_AFTER_MS => SLOW_POLL_MS,
                        _ => SLOWEST_POLL_MS,
                    }))
                }
            };
            pause = pause.min(wanted);
        }
        pause.max(Duration::from_millis(200))
    }
}

/// The nodes that the config names, over the one line there is.
fn rpcs(line: &mut Option<Line>, config: &Config) -> Result<Vec<Rpc>, NoRoots> {
    let line = match line {
        Some(line) => line,
        None => line.insert(Line::new()?),
    };
    let rpcs = config.rpc.iter().filter_map(|url| match Rpc::new(line, url, PATIENCE) {
        Ok(rpc) => Some(rpc),
        Err(error) => {
            warn!("{error}");
            None
        }
    });
    Ok(rpcs.collect())
}

/// Whether another transaction of its account is on its way.
fn is_behind(anchor: &Anchor, unsettled: &[Anchor]) -> bool {
    unsettled.iter().any(|other| {
        other.id != anchor.id
            && other.state.is_outstanding()
            && (other.chain_id, other.account) == (anchor.chain_id, anchor.account)
    })
}
