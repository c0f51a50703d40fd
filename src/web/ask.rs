//! Asking the owner of something, who is elsewhere, and waiting for the answer.

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::problem::Problem;

/// Waits for a place in the queue as well. An owner that is gone has the program stopping.
pub async fn ask<O, A>(owner: &mpsc::Sender<O>, order: impl FnOnce(oneshot::Sender<A>) -> O) -> Result<A, Problem> {
    let (reply, answer) = oneshot::channel();
    owner.send(order(reply)).await.map_err(|_| Problem::Stopping)?;
    answer.await.map_err(|_| Problem::Stopping)
}

/// As [`ask`], but for a queue that is full, of which `full` tells.
pub async fn ask_at_once<O, A>(
    owner: &mpsc::Sender<O>,
    full: Problem,
    order: impl FnOnce(oneshot::Sender<A>) -> O,
) -> Result<A, Problem> {
    let (reply, answer) = oneshot::channel();
    owner.try_send(order(reply)).map_err(|fault| match fault {
        TrySendError::Full(_) => full,
        TrySendError::Closed(_) => Problem::Stopping,
    })?;
    answer.await.map_err(|_| Problem::Stopping)
}
