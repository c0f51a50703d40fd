//! Polls of a meter for the page: one at a time of each meter.

use std::collections::BTreeSet;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::model::{MeterId, PollReport};
use crate::sources::{PollFailed, PollNow};
use crate::web::{NotRead, RegistersNow};

/// Who asks for one more waits.
pub const ASKED: usize = 8;

pub async fn run(
    mut asked: mpsc::Receiver<RegistersNow>,
    polls: mpsc::Sender<PollNow>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (mut tasks, mut under_way) = (JoinSet::new(), BTreeSet::new());
    loop {
        tokio::select! {
            // One that has ended is free again before the next is looked at.
            biased;
            () = stop.cancelled() => return Ok(()),
            Some(ended) = tasks.join_next() => {
                under_way.remove(&ended.context("a poll for the page")?);
            }
            now = asked.recv() => {
                let Some(RegistersNow { meter, reply }) = now else {
                    // Nobody can ask any more: the program is stopping.
                    stop.cancelled().await;
                    return Ok(());
                };
                if !under_way.insert(meter.clone()) {
                    // Who asked may have gone.
                    reply.send(Err(NotRead::Busy(meter))).ok();
                    continue;
                }
                let polls = polls.clone();
                tasks.spawn(async move {
                    let outcome = poll(&polls, meter.clone()).await;
                    reply.send(outcome).ok();
                    meter
                });
            }
        }
    }
}

async fn poll(polls: &mpsc::Sender<PollNow>, meter: MeterId) -> Result<PollReport, NotRead> {
    let (reply, answer) = oneshot::channel();
    let stopping = || NotRead::Silent("the program is stopping".to_owned());
    polls.send(PollNow { meter, reply }).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?.map_err(|failed: PollFailed| NotRead::Silent(failed.to_string()))
}
