//! What waits to be anchored: what is due by itself, and what somebody wants now.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tracing::info;

use super::due::{Due, Stretch, due};
use super::{Config, Order, Part, Parts, Wanted};
use crate::model::note::SignedCheckpoint;
use crate::model::{Anchor, AnchorRefused, AnchorState, Anchored, Timestamp};
use crate::store::StoreError;

/// Adds anchors to the store, for a round or for whoever asks. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    pub parts: Parts,
    part: watch::Receiver<Arc<Part>>,
    /// One at a time: of each epoch one at most waits.
    turn: Arc<Mutex<()>>,
}

impl Queue {
    pub fn new(parts: Parts, part: watch::Receiver<Arc<Part>>) -> Self {
        Self { parts, part, turn: Arc::default() }
    }

    /// The config as it is now, or why nothing can be anchored.
    pub fn config(&self) -> Result<Arc<Config>, AnchorRefused> {
        match &**self.part.borrow() {
            Part::Absent => Err(AnchorRefused::NotConfigured),
            Part::Off(why) => Err(AnchorRefused::Off(why.clone())),
            Part::On(config) => Ok(config.clone()),
        }
    }

    pub async fn answer(&self, order: Order) {
        let done = self.order(order.wanted, &order.by).await;
        let done = done.unwrap_or_else(|cause| Err(AnchorRefused::Off(cause.to_string())));
        // Who asked may have gone.
        order.reply.send(done).ok();
    }

    /// Queues what somebody wants; the id of it, or of what waits already.
    pub async fn order(&self, wanted: Wanted, by: &str) -> Result<Result<u64, AnchorRefused>, StoreError> {
        let config = match self.config() {
            Ok(config) => config,
            Err(refused) => return Ok(Err(refused)),
        };
        let _turn = self.turn.lock().await;
        let reader = &self.parts.reader;
        let anchored = match wanted {
            // It keeps nothing and serves everybody, so that one is enough for ever.
            Wanted::Contract => match reader.newest_contract(config.chain_id, config.key.address()).await? {
                Some(anchor) => return Ok(Ok(anchor.id)),
                None => Anchored::Contract,
            },
            Wanted::Checkpoint => {
                let epoch = reader.identity().epoch.clone();
                let signed = self.parts.publisher.publish().await?;
                let covering = self.newest(&epoch, &config, |_| true).await?;
                let covered = covering.as_ref().map_or(0, size);
                let unsettled = reader.unsettled_anchors().await?;
                if let Some(anchor) = unsettled.iter().find(|anchor| is_wanted_of(anchor, &epoch, covered)) {
                    return Ok(Ok(anchor.id));
                }
                if let Some(covering) = covering.filter(|_| covered >= signed.checkpoint.size) {
                    return Ok(Err(AnchorRefused::NothingNew(covering.id)));
                }
                of_checkpoint(epoch, &signed)
            }
        };
        let id = self.queue(anchored, &config).await?;
        info!(anchor = id, by, "queued");
        Ok(Ok(id))
    }

    /// While it is held nothing is queued, and nobody is answered.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// Queues the checkpoint that is due; when the next one is, if that is known: with nothing new it is not due before.
    pub async fn queue_due(&self, config: &Arc<Config>) -> Result<Option<Timestamp>, StoreError> {
        let _turn = self.turn.lock().await;
        loop {
            let (stretches, last) = self.stretches(config).await?;
            let now = self.parts.clock.now();
            match due(&stretches, last, config.every, now) {
                // Once that is past, it is due as soon as there is something new.
                Due::Nothing => return Ok(last.map(|last| last.plus(config.every)).filter(|next| *next > now)),
                Due::At(at) => return Ok(Some(at)),
                Due::Now { epoch } => {
                    let Some(signed) = self.newest_checkpoint(&epoch).await? else { return Ok(None) };
                    let id = self.queue(of_checkpoint(epoch, &signed), config).await?;
                    info!(anchor = id, size = signed.checkpoint.size, "queued");
                }
            }
        }
    }

    /// The epochs of this gateway, the oldest first, and when the running one had its last turn.
    async fn stretches(&self, config: &Config) -> Result<(Vec<Stretch>, Option<Timestamp>), StoreError> {
        let reader = &self.parts.reader;
        let identity = reader.identity();
        let unsettled = reader.unsettled_anchors().await?;
        let (mut stretches, mut last) = (Vec::new(), None);
        for epoch in reader.epochs().await?.into_iter().map(|epoch| epoch.identity) {
            if epoch.gateway != identity.gateway {
                continue;
            }
            let epoch = epoch.epoch;
            let signed = self.newest_checkpoint(&epoch).await?.map_or(0, |signed| signed.checkpoint.size);
            let covering = self.newest(&epoch, config, |_| true).await?;
            let is_ended = epoch != identity.epoch;
            if !is_ended {
                last = covering.as_ref().and_then(|anchor| anchor.attempts.first()).map(|attempt| attempt.signed);
            }
            let covered = covering.as_ref().map_or(0, size);
            stretches.push(Stretch {
                signed,
                covered,
                is_queued: unsettled.iter().any(|anchor| is_wanted_of(anchor, &epoch, covered)),
                is_ended,
                epoch,
            });
        }
        Ok((stretches, last))
    }

    /// The newest checkpoint of an epoch that may be shown to others.
    pub async fn newest_checkpoint(&self, epoch: &str) -> Result<Option<SignedCheckpoint>, StoreError> {
        if self.parts.reader.identity().epoch == epoch {
            return Ok(Some(self.parts.publisher.publish().await?.as_ref().clone()));
        }
        self.parts.reader.checkpoint(epoch).await
    }

    /// The anchor of an epoch with the largest checkpoint among those on the config's chain that are signed, and fit.
    pub async fn newest(
        &self,
        epoch: &str,
        config: &Config,
        fits: impl Fn(&Anchor) -> bool,
    ) -> Result<Option<Anchor>, StoreError> {
        let covering = self.parts.reader.coverage(epoch).await?;
        for coverage in covering.into_iter().rev().filter(|coverage| coverage.state != AnchorState::Queued) {
            let anchor = self.parts.reader.anchor(coverage.id).await?;
            if let Some(anchor) = anchor.filter(|anchor| anchor.chain_id == config.chain_id && fits(anchor)) {
                return Ok(Some(anchor));
            }
        }
        Ok(None)
    }

    async fn queue(&self, what: Anchored, config: &Config) -> Result<u64, StoreError> {
        let now = self.parts.clock.now();
        let contract = config.contract.filter(|_| what != Anchored::Contract);
        let (chain_id, account) = (config.chain_id, config.key.address());
        if let Anchored::Checkpoint { epoch, .. } = &what {
            let unsettled = self.parts.reader.unsettled_anchors().await?;
            if let Some(idle) = unsettled.into_iter().find(|anchor| is_queued_of(anchor, epoch)) {
                // Of each epoch one at most waits to be signed for: this one has its turn at last.
                let id = idle.id;
                let again = Anchor { what, chain_id, account, contract, queued: now, waiting: None, ..idle };
                self.parts.ledger.save_anchor(again, None).await?;
                return Ok(id);
            }
        }
        self.parts.ledger.add_anchor(Anchor::queued(what, chain_id, account, contract, now)).await
    }

    /// Whether others cover all that it was to: it lost its transaction, to a reorganisation or by reverting, while a later
    /// one stands. Nothing is left to do for it until the next checkpoint is due, which it bears then.
    pub async fn is_idle(&self, anchor: &Anchor, config: &Config) -> Result<bool, StoreError> {
        let (Anchored::Checkpoint { epoch, .. }, AnchorState::Queued) = (&anchor.what, anchor.state) else {
            return Ok(false);
        };
        let covering = self.newest(epoch, config, |_| true).await?;
        Ok(covering.is_some_and(|covering| size(&covering) >= size(anchor)))
    }

    /// With the newest checkpoint of its epoch, since one transaction covers all since the last; `None` where others cover
    /// all of that.
    pub async fn brought_up_to_date(&self, anchor: &Anchor, config: &Config) -> Result<Option<Anchor>, StoreError> {
        let Anchored::Checkpoint { epoch, .. } = &anchor.what else { return Ok(Some(anchor.clone())) };
        let Some(signed) = self.newest_checkpoint(epoch).await? else { return Ok(None) };
        let covering = self.newest(epoch, config, |other| other.id != anchor.id).await?;
        if covering.is_some_and(|covering| size(&covering) >= signed.checkpoint.size) {
            return Ok(None);
        }
        Ok(Some(Anchor { what: of_checkpoint(epoch.clone(), &signed), ..anchor.clone() }))
    }
}

pub fn is_of(anchor: &Anchor, config: &Config) -> bool {
    (anchor.chain_id, anchor.account) == (config.chain_id, config.key.address())
}

fn is_queued_of(anchor: &Anchor, epoch: &str) -> bool {
    anchor.state == AnchorState::Queued && matches!(&anchor.what, Anchored::Checkpoint { epoch: of, .. } if of == epoch)
}

/// Whether it is to be signed for, where others cover `covered` entries.
fn is_wanted_of(anchor: &Anchor, epoch: &str, covered: u64) -> bool {
    is_queued_of(anchor, epoch) && size(anchor) > covered
}

pub fn size(anchor: &Anchor) -> u64 {
    match anchor.what {
        Anchored::Checkpoint { size, .. } => size,
        Anchored::Contract => 0,
    }
}

/// With the one signature that proofs bear: that of the epoch's own key comes first.
fn of_checkpoint(epoch: String, signed: &SignedCheckpoint) -> Anchored {
    let signatures = signed.signatures.iter().take(1).cloned().collect();
    let signed = SignedCheckpoint { checkpoint: signed.checkpoint.clone(), signatures };
    Anchored::Checkpoint { epoch, size: signed.checkpoint.size, note: signed.note() }
}
