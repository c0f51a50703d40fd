//! Anchors: writes checkpoints of the log to a public chain. One owner signs: this room's task in the daemon, or the
//! command that holds the store while no daemon runs. Every step is saved before it is taken, so that a crash repeats
//! the same transaction and no other. Work is found in the store; a month without a line is nothing special.
//!
//! `due` says which checkpoint is next, `step` what comes next of an anchor and `fees` what it may cost, all three
//! purely; `nodes` and `look` ask the chain, and believe only what is proven.

mod alarms;
mod due;
#[cfg(test)]
mod example;
pub mod fees;
mod health;
mod look;
mod nodes;
mod queue;
mod round;
mod step;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::evm::Key;
use crate::clock::Clock;
use crate::evidence::log::Publisher;
use crate::model::{AnchorRefused, AnchorStatus};
use crate::store::{Ledger, Reader, StoreError};
pub use queue::Queue;
pub use round::Anchorer;

/// Part `[anchor]` of the config.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Part {
    #[default]
    Absent,
    /// It is there, and cannot be used: why, for a person.
    Off(String),
    On(Arc<Config>),
}

#[derive(Clone)]
pub struct Config {
    pub chain_id: u64,
    /// The addresses of the nodes, which may bear keys.
    pub rpc: Vec<String>,
    /// What anchors call; none: they are call data to the own account.
    pub contract: Option<Address>,
    pub key: Key,
    pub every: Duration,
    /// Wei for each unit of gas.
    pub max_fee: u128,
    /// Wei in 24 h.
    pub daily_budget: u128,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let of = |config: &Self| (config.chain_id, config.contract, config.key.address(), config.every);
        let limits = |config: &Self| (config.max_fee, config.daily_budget);
        of(self) == of(other) && limits(self) == limits(other) && self.rpc == other.rpc
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Config");
        shown.field("chain_id", &self.chain_id).field("rpc", &"***").field("contract", &self.contract);
        shown.field("account", &self.key.address()).field("every", &self.every);
        shown.field("max_fee", &self.max_fee).field("daily_budget", &self.daily_budget).finish()
    }
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// The newest checkpoint, now.
    Checkpoint,
    /// The contract.
    Contract,
}

/// A wish; the id of the anchor that answers it.
pub struct Order {
    pub wanted: Wanted,
    /// Who wants it.
    pub by: String,
    pub reply: oneshot::Sender<Result<u64, AnchorRefused>>,
}

/// What the owner needs.
#[derive(Clone)]
pub struct Parts {
    pub reader: Reader,
    pub ledger: Ledger,
    pub publisher: Publisher,
    pub clock: Clock,
    pub status: watch::Sender<AnchorStatus>,
}

/// The pause before a store that cannot be used is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(10);

/// Anchors until stopped. Nothing here holds up the start: the network is first asked from within.
pub async fn run(
    mut config: watch::Receiver<Arc<Part>>,
    parts: Parts,
    mut orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let (clock, nudge) = (parts.clock.clone(), Notify::new());
    let mut anchorer = Anchorer::new(parts, config.clone());
    let queue = anchorer.queue();
    // Beside the rounds, and never within one: nodes may take their time, and a wish is kept at once.
    let answers = async {
        while let Some(order) = orders.recv().await {
            queue.answer(order).await;
            nudge.notify_one();
        }
        std::future::pending().await
    };
    let rounds = async {
        loop {
            let pause = match anchorer.round().await {
                Ok(pause) => pause,
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(cause) => {
                    // Anchors are the last that may stop the plant's readings: whatever it is, it is tried again.
                    error!(error = &cause as &dyn std::error::Error, "anchors wait for the store");
                    Some(STORE_AGAIN)
                }
            };
            let wait = async {
                match pause {
                    Some(pause) => clock.sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = nudge.notified() => {}
                Ok(()) = config.changed() => anchorer.reconfigure(),
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = rounds => ended,
        ended = answers => ended,
    }
}
