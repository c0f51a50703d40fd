//! What ends a conversation from outside: a stop, or an epoch that begins.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio_util::sync::CancellationToken;

/// What is under way at a stop may be finished in this time, and is given up then.
const AT_STOP: Duration = Duration::from_millis(150);
/// And when an epoch begins: what was sent and is not acknowledged would be sent again under another key.
const AT_EPOCH: Duration = Duration::from_secs(5);

/// How epochs begin.
#[derive(Clone)]
pub struct Epochs {
    /// Counts them.
    pub anew: watch::Receiver<u64>,
    /// Held by all who deliver under keys; whoever begins an epoch waits until they have let go.
    pub gate: Arc<RwLock<()>>,
}

/// One upstream's sight of it.
pub struct Halt {
    stop: CancellationToken,
    /// None for a receiver that knows no keys: an epoch is nothing to it, and what it was sent is not to be broken off.
    epochs: Option<Epochs>,
}

/// While it is held no epoch begins.
pub struct Turn(#[allow(dead_code, reason = "held, not read")] Option<OwnedRwLockReadGuard<()>>);

impl Halt {
    pub fn new(stop: CancellationToken, epochs: Option<Epochs>) -> Self {
        Self { stop, epochs }
    }

    /// `None` at a stop.
    pub async fn turn(&mut self) -> Option<Turn> {
        let Some(epochs) = &mut self.epochs else { return (!self.stop.is_cancelled()).then_some(Turn(None)) };
        // Before it waits: an epoch that is wanted meanwhile ends this turn at once, and is never waited for in vain.
        epochs.anew.mark_unchanged();
        tokio::select! {
            () = self.stop.cancelled() => None,
            turn = epochs.gate.clone().read_owned() => Some(Turn(Some(turn))),
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub fn is_halted(&self) -> bool {
        self.is_stopped() || self.epochs.as_ref().is_some_and(|epochs| epochs.anew.has_changed().unwrap_or(true))
    }

    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    pub async fn halted(&self) {
        let Some(mut anew) = self.epochs.as_ref().map(|epochs| epochs.anew.clone()) else {
            return self.stop.cancelled().await;
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = anew.changed() => {}
        }
    }

    /// What comes of `work`; `None` when it was given up.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            outcome = &mut work => return Some(outcome),
            () = self.halted() => {}
        }
        let epoch = async {
            tokio::select! {
                () = self.stop.cancelled() => tokio::time::sleep(AT_STOP).await,
                () = tokio::time::sleep(AT_EPOCH) => {}
            }
        };
        tokio::select! {
            biased;
            outcome = &mut work => Some(outcome),
            () = epoch => None,
        }
    }
}
