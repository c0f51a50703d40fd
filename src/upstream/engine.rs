//! The owner of all upstreams: starts and stops them as the config says, passes orders on, and has the log begin anew
//! when one of them shows that the store went back in time.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{RwLock, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::delivery::{Delivery, OUTSIDE, Outside, Wish, Word};
use super::halt::{Epochs, Halt};
use super::judge::{self, Shows};
use super::receiver::Receiver;
use super::{Config, Order, Parts, Upstream};
use crate::model::entry::Reason;
use crate::model::note::SignedCheckpoint;
use crate::model::{
    Alert, AlertKind, Stream, Timestamp, UpstreamOrder, UpstreamRefused, UpstreamState, UpstreamStatus,
};
use crate::store::{Sealing, StoreError, Succession};

/// Words of the upstreams that wait for the owner; with so many, whoever has one more waits.
const WORDS: usize = 64;
/// Wishes that wait for one upstream; with so many, one more is refused.
const WISHES: usize = 64;
/// The pause before a store that cannot be used is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(10);
/// A conversation that has not heard that it is to end hears it again after this.
const LINE: Duration = Duration::from_millis(100);
/// Alerts that one look takes in; open ones are few.
const OPEN_ALERTS: usize = 1_000;
/// Dead letters that are discarded at once.
const PAGE: usize = 1_000;

/// Under this name the store keeps which alert stands for which upstream.
const STOPPED: &str = "upstream.stopped";

/// Delivers until stopped, through the receivers that `make` makes; why one cannot be made is for a person.
pub async fn run<R, M>(
    make: M,
    mut config: watch::Receiver<Arc<Config>>,
    parts: Parts,
    mut orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) -> Result<(), StoreError>
where
    R: Receiver + 'static,
    M: Fn(&Upstream) -> Result<R, String>,
{
    let (words, mut heard) = mpsc::channel(WORDS);
    let config_now = config.borrow_and_update().clone();
    let mut owner = Owner {
        make,
        wanted: config_now,
        parts,
        words,
        gate: Arc::default(),
        anew: watch::Sender::new(0),
        running: BTreeMap::new(),
        off: BTreeMap::new(),
        tasks: JoinSet::new(),
        opened_here: None,
        is_told: false,
        stop: stop.clone(),
    };
    owner.follow().await?;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Ok(()) = config.changed() => {
                owner.wanted = config.borrow_and_update().clone();
                owner.is_told = false;
                owner.follow().await?;
            }
            Some(Order { order, reply }) = orders.recv() => {
                let answer = owner.obey(order).await?;
                reply.send(answer).ok(); // whoever asked may have gone
            }
            Some(word) = heard.recv() => owner.hear(word).await?,
            Some(ended) = owner.tasks.join_next() => {
                owner.ended(ended)?;
                owner.follow().await?;
            }
            () = owner.parts.clock.sleep(STORE_AGAIN), if !owner.is_told => owner.follow().await?,
        }
    }
    while let Some(ended) = owner.tasks.join_next().await {
        owner.ended(ended)?;
    }
    Ok(())
}

type Ended = Result<(String, Result<(), StoreError>), tokio::task::JoinError>;

struct Owner<M> {
    make: M,
    wanted: Arc<Config>,
    parts: Parts,
    words: mpsc::Sender<Word>,
    /// Held by all who deliver; while an epoch begins nobody does.
    gate: Arc<RwLock<()>>,
    /// Counts the epochs that begin here.
    anew: watch::Sender<u64>,
    running: BTreeMap<String, Running>,
    /// Those that cannot run, and why.
    off: BTreeMap<String, String>,
    tasks: JoinSet<(String, Result<(), StoreError>)>,
    /// The epoch that began here because others contradict the store.
    opened_here: Option<String>,
    /// The store knows which upstreams there are.
    is_told: bool,
    stop: CancellationToken,
}

struct Running {
    upstream: Upstream,
    stop: CancellationToken,
    wishes: mpsc::Sender<Wish>,
}

/// What the owner does about a word.
enum Deed {
    BeginAnew { by: String, epoch: String, shown: Shows, conflicts: Vec<(Stream, u64)> },
    Rekey(Vec<(Stream, u64)>),
    Raise { by: String, text: String },
    Clear(String),
}

impl<R, M> Owner<M>
where
    R: Receiver + 'static,
    M: Fn(&Upstream) -> Result<R, String>,
{
    /// Starts and stops upstreams until those run that are wanted. One that changed is started anew when its task has
    /// ended, and with it its positions are kept; the others go on.
    async fn follow(&mut self) -> Result<(), StoreError> {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let wanted = self.wanted.clone();
        for (name, running) in &self.running {
            if !wanted.upstreams.iter().any(|one| one.name == *name && *one == running.upstream) {
                running.stop.cancel();
            }
        }
        self.off.retain(|name, _| wanted.upstreams.iter().any(|one| one.name == *name));
        let is_known = |name: &String| wanted.upstreams.iter().any(|one| one.name == *name);
        self.parts.status.send_if_modified(|all| {
            let is_over = all.keys().any(|name| !is_known(name));
            if is_over {
                Arc::make_mut(all).retain(|name, _| is_known(name));
            }
            is_over
        });
        if !self.is_told {
            let streams = wanted.upstreams.iter().map(|one| (one.name.clone(), one.effective_streams())).collect();
            match self.parts.ledger.set_upstreams(streams).await {
                Ok(()) => self.is_told = true,
                Err(fault) if fault.may_pass() => {
                    warn!(error = %fault, "the store does not know yet which upstreams there are");
                }
                Err(fault) => return Err(fault),
            }
            self.forget_alerts().await?;
        }
        for upstream in &wanted.upstreams {
            if !self.running.contains_key(&upstream.name) {
                self.start(upstream).await;
            }
        }
        Ok(())
    }

    async fn start(&mut self, upstream: &Upstream) {
        let name = upstream.name.clone();
        let receiver = match (self.make)(upstream) {
            Ok(receiver) => receiver,
            Err(why) => {
                if self.off.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                    warn!(upstream = name, "it is off: {why}");
                }
                return self.show_off(upstream, why).await;
            }
        };
        self.off.remove(&name);
        let (stop, (wishes, wanted)) = (self.stop.child_token(), mpsc::channel(WISHES));
        let epochs = Epochs { anew: self.anew.subscribe(), gate: self.gate.clone() };
        let halt = Halt::new(stop.clone(), receiver.knows_keys().then_some(epochs));
        let delivery =
            Delivery::new(upstream.clone(), receiver, self.parts.clone(), halt, (self.words.clone(), wanted));
        let task = name.clone();
        self.tasks.spawn(async move { (task, delivery.run().await) });
        self.running.insert(name, Running { upstream: upstream.clone(), stop, wishes });
    }

    async fn show_off(&self, upstream: &Upstream, why: String) {
        let status = UpstreamStatus {
            kind: upstream.kind.as_str().to_owned(),
            to: upstream.kind.to(),
            state: UpstreamState::Off,
            since: self.parts.clock.now(),
            problem: Some(why),
            dead_letters: self.parts.reader.dead_letter_count(&upstream.name).await.unwrap_or(0),
            ..UpstreamStatus::default()
        };
        self.parts.status.send_modify(|all| {
            Arc::make_mut(all).insert(upstream.name.clone(), status);
        });
    }

    fn ended(&mut self, ended: Ended) -> Result<(), StoreError> {
        match ended {
            Ok((name, outcome)) => {
                self.running.remove(&name);
                outcome
            }
            Err(fault) => match fault.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Ok(()),
            },
        }
    }

    /// What can be refused is refused at once; the rest is done in its time. Fails only when the store cannot be used
    /// for good.
    async fn obey(&mut self, order: UpstreamOrder) -> Result<Result<(), UpstreamRefused>, StoreError> {
        let (UpstreamOrder::Flush { upstream: name }
        | UpstreamOrder::Replay { upstream: name, .. }
        | UpstreamOrder::Discard { upstream: name, .. }) = &order;
        let name = name.clone();
        let Some(upstream) = self.wanted.upstreams.iter().find(|one| one.name == name).cloned() else {
            return Ok(Err(UpstreamRefused::Unknown(name)));
        };
        let outcome = match order {
            UpstreamOrder::Flush { .. } => Ok(self.wish(&name, Wish::Flush)),
            UpstreamOrder::Replay { ids, .. } => match self.missing(&name, ids.as_deref()).await {
                Ok(Some(id)) => Ok(Err(UpstreamRefused::NoDeadLetter(id))),
                Ok(None) => Ok(self.wish(&name, Wish::Replay(ids))),
                Err(fault) => Err(fault),
            },
            UpstreamOrder::Discard { ids, .. } => self.discard(&upstream, ids).await,
        };
        match outcome {
            Err(fault) if fault.may_pass() => {
                Ok(Err(UpstreamRefused::Off(format!("the store cannot be used now: {fault}"))))
            }
            outcome => outcome,
        }
    }

    fn wish(&self, name: &str, wish: Wish) -> Result<(), UpstreamRefused> {
        if let Some(why) = self.off.get(name) {
            return Err(UpstreamRefused::Off(why.clone()));
        }
        let refused =
            || UpstreamRefused::Off(format!("{name} is being started anew, or much is wanted of it: try again"));
        self.running.get(name).and_then(|running| running.wishes.try_send(wish).ok()).ok_or_else(refused)
    }

    /// The first of these dead letters that is not there.
    async fn missing(&self, name: &str, ids: Option<&[u64]>) -> Result<Option<u64>, StoreError> {
        for id in ids.unwrap_or_default() {
            let found = self.parts.reader.dead_letters(name, id.checked_add(1), 1).await?;
            if found.first().is_none_or(|letter| letter.id != *id) {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    }

    async fn discard(
        &self,
        upstream: &Upstream,
        ids: Option<Vec<u64>>,
    ) -> Result<Result<(), UpstreamRefused>, StoreError> {
        let name = &upstream.name;
        if let Some(id) = self.missing(name, ids.as_deref()).await? {
            return Ok(Err(UpstreamRefused::NoDeadLetter(id)));
        }
        match ids {
            Some(ids) => self.parts.ledger.settle_dead_letters(name.clone(), ids, Vec::new()).await?,
            None => loop {
                let letters = self.parts.reader.dead_letters(name, None, PAGE).await?;
                if letters.is_empty() {
                    break;
                }
                let gone = letters.into_iter().map(|letter| letter.id).collect();
                self.parts.ledger.settle_dead_letters(name.clone(), gone, Vec::new()).await?;
            },
        }
        match self.off.get(name) {
            Some(why) => self.show_off(upstream, why.clone()).await,
            // With room for more it may go on at once.
            None => drop(self.wish(name, Wish::Flush)),
        }
        Ok(Ok(()))
    }

    async fn hear(&mut self, word: Word) -> Result<(), StoreError> {
        let current = self.parts.reader.identity().epoch.clone();
        match word {
            Word::WentBack { by, epoch, shown, done } => {
                // Another one may have shown the same meanwhile.
                if epoch == current {
                    self.surely(&Deed::BeginAnew { by, epoch, shown, conflicts: Vec::new() }).await?;
                }
                done.send(()).ok(); // its task may have been stopped
            }
            // A new epoch's keys are nobody else's: whoever has other records under them is not to be helped so. Nor is one
            // that says so again and again, whatever restarts: nobody has signed that.
            Word::Conflict { by, epoch, done, .. }
                if epoch == current
                    && (self.opened_here.as_ref() == Some(&epoch) || !self.is_believed_of_conflicts(&by).await?) =>
            {
                done.send(false).ok();
            }
            Word::Conflict { by, epoch, records, note, done } => {
                let deed = match epoch == current {
                    true => {
                        Deed::BeginAnew { by, epoch, shown: Shows { note, ..Shows::default() }, conflicts: records }
                    }
                    false => Deed::Rekey(records),
                };
                self.surely(&deed).await?;
                done.send(true).ok();
            }
            Word::Stopped { by, text } => {
                let text = format!(
                    "The upstream {by} does not take what it is sent, and is asked again every 15 minutes: {text}"
                );
                self.surely(&Deed::Raise { by, text }).await?;
            }
            Word::Works { by } => self.surely(&Deed::Clear(by)).await?,
        }
        Ok(())
    }

    /// Does it as soon as the store can be used; not after a stop.
    async fn surely(&mut self, deed: &Deed) -> Result<(), StoreError> {
        loop {
            let outcome = match deed {
                Deed::BeginAnew { by, epoch, shown, conflicts } => self.begin_anew((by, epoch), shown, conflicts).await,
                Deed::Rekey(records) => self.rekey(records).await,
                Deed::Raise { by, text } => self.raise(by, text).await,
                Deed::Clear(by) => self.clear(&[by.clone()].into()).await,
            };
            match outcome {
                Err(fault) if fault.may_pass() => {
                    warn!(error = %fault, "what upstreams have shown is seen to when the store can be used again");
                }
                outcome => return outcome,
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = self.parts.clock.sleep(STORE_AGAIN) => {}
            }
        }
    }

    /// Ends all conversations, and gives the time in which nobody has one; `None` at a stop.
    async fn alone(&self) -> Option<tokio::sync::OwnedRwLockWriteGuard<()>> {
        let mut alone = std::pin::pin!(self.gate.clone().write_owned());
        loop {
            // Again and again: a conversation that began before this stood in line has not heard the first.
            self.anew.send_modify(|count| *count += 1);
            tokio::select! {
                () = self.stop.cancelled() => return None,
                alone = &mut alone => return Some(alone),
                () = tokio::time::sleep(LINE) => {}
            }
        }
    }

    async fn rekey(&mut self, records: &[(Stream, u64)]) -> Result<(), StoreError> {
        let Some(_alone) = self.alone().await else { return Ok(()) };
        self.parts.ledger.rekey(records.to_vec()).await
    }

    /// The log begins anew, since others have seen of it what the store does not know.
    async fn begin_anew(
        &mut self,
        (by, ended): (&str, &str),
        shown: &Shows,
        conflicts: &[(Stream, u64)],
    ) -> Result<(), StoreError> {
        let Some(_alone) = self.alone().await else { return Ok(()) };
        let parts = &self.parts;
        let mut identity = parts.reader.identity();
        // Once, though what follows may have to be tried again.
        if identity.epoch == ended {
            let last_outside = shown.note.as_ref().map(SignedCheckpoint::note);
            let wish = Succession { reason: Reason::Rollback, site: None, last_outside, since_open: true };
            identity = parts.ledger.succeed(wish).await?;
        }
        self.opened_here = Some(identity.epoch.clone());
        if !conflicts.is_empty() {
            parts.ledger.rekey(conflicts.to_vec()).await?;
        }
        // After the epoch: a crash between the two begins another one, which does no harm.
        let mut outside = Outside::read(&parts.reader).await?;
        // All that it holds, or each of them would begin an epoch.
        outside.met.extend(shown.unknown.iter().cloned());
        outside.conflicts.extend((!conflicts.is_empty()).then(|| (by.to_owned(), parts.clock.now())));
        outside.believed.extend(shown.on_its_word.then(|| (by.to_owned(), parts.clock.now())));
        let state = vec![(OUTSIDE, json!(outside))];
        parts.ledger.seal(Sealing { state, ..Sealing::default() }).await?;
        let origin = identity.origin();
        warn!(
            upstream = by,
            origin, "the log began anew: what the upstream has is not in the store, which went back in time"
        );
        let text = format!(
            "The store went back in time: the upstream {by} has what this gateway signed or sent before and the store does not \
             know. Readings and blocks since then are lost here unless a newer copy of the store is found. The log goes on as \
             {origin}; `meterseal key show` prints its key."
        );
        self.raise_new(AlertKind::LogBeganAnew, text).await.map(|_| ())
    }

    async fn is_believed_of_conflicts(&self, by: &str) -> Result<bool, StoreError> {
        match Outside::read(&self.parts.reader).await {
            Ok(outside) => Ok(judge::is_believed_again(outside.conflicts.get(by).copied(), self.parts.clock.now())),
            Err(fault) if fault.may_pass() => Ok(true),
            Err(fault) => Err(fault),
        }
    }

    /// `None` when alerts of this kind are off.
    async fn raise_new(&self, kind: AlertKind, text: String) -> Result<Option<i64>, StoreError> {
        let now = self.parts.clock.now();
        let mut occasion = now;
        loop {
            let (meter, text) = (None, text.clone());
            let alert = Alert::new(kind, meter, occasion, now, text);
            if let Some(id) = self.parts.ledger.raise(alert).await? {
                return Ok(Some(id));
            }
            if self.parts.reader.alerts_off().await?.contains(&kind) {
                return Ok(None);
            }
            // Another upstream's was raised in this very millisecond.
            occasion = occasion.plus_millis(1);
        }
    }

    /// Which alert stands for which upstream.
    async fn standing(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let kept = self.parts.reader.state(STOPPED).await?;
        Ok(kept.and_then(|kept| serde_json::from_value(kept).ok()).unwrap_or_default())
    }

    async fn keep_standing(&self, standing: &BTreeMap<String, i64>) -> Result<(), StoreError> {
        let state = vec![(STOPPED, json!(standing))];
        self.parts.ledger.seal(Sealing { state, ..Sealing::default() }).await
    }

    async fn raise(&self, by: &str, text: &str) -> Result<(), StoreError> {
        let mut standing = self.standing().await?;
        if standing.contains_key(by) {
            return Ok(());
        }
        // One that was raised before this could be kept.
        let open = self.parts.reader.alerts(true, OPEN_ALERTS).await?;
        let known = open.iter().find(|alert| alert.kind == AlertKind::UpstreamStopped && alert.text == text);
        let id = match known {
            Some(alert) => Some(alert.id),
            None => self.raise_new(AlertKind::UpstreamStopped, text.to_owned()).await?,
        };
        let Some(id) = id else { return Ok(()) };
        standing.insert(by.to_owned(), id);
        self.keep_standing(&standing).await
    }

    async fn clear(&self, names: &BTreeSet<String>) -> Result<(), StoreError> {
        let mut standing = self.standing().await?;
        let now: Timestamp = self.parts.clock.now();
        let over: Vec<i64> = names.iter().filter_map(|name| standing.remove(name)).collect();
        for id in &over {
            self.parts.ledger.clear_alert(*id, now).await?;
        }
        if over.is_empty() { Ok(()) } else { self.keep_standing(&standing).await }
    }

    /// Nobody needs to act on an upstream that is not there any more.
    async fn forget_alerts(&self) -> Result<(), StoreError> {
        let is_wanted = |name: &String| self.wanted.upstreams.iter().any(|one| one.name == *name);
        let cleared = async {
            let standing = self.standing().await?;
            self.clear(&standing.into_keys().filter(|name| !is_wanted(name)).collect()).await
        };
        match cleared.await {
            Err(fault) if !fault.may_pass() => Err(fault),
            _ => Ok(()), // asked again with the next config
        }
    }
}
