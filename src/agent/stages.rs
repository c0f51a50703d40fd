//! The stages that run side by side: none may end unasked, and at the end each gets its time to finish.

use std::future::{Future, poll_fn};
use std::mem;
use std::task::Poll;
use std::time::Duration;

use anyhow::anyhow;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// The stages in the order in which data flows, which is the order in which they are stopped.
#[derive(Default)]
pub struct Stages {
    running: Vec<Stage>,
    /// Those that others took the place of, while they finish.
    replaced: JoinSet<()>,
}

/// What a stage that is replaced may take before the others go on without waiting for it.
const AT_ONCE: Duration = Duration::from_millis(100);
/// What it may take then.
const PARTING: Duration = Duration::from_secs(10);

struct Stage {
    name: &'static str,
    stop: CancellationToken,
    /// How long it may take to finish what is under way.
    limit: Duration,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Stages {
    /// Starts a stage. What `work` makes must end when its token is cancelled.
    pub fn start<W, F>(&mut self, name: &'static str, limit: Duration, work: W)
    where
        W: FnOnce(CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.running.push(Stage::new(name, limit, work));
    }

    /// Starts another stage in the place of the one of this name, which finishes beside it: whoever it answers last may be
    /// waiting for just this.
    pub async fn replace<W, F>(&mut self, name: &'static str, work: W)
    where
        W: FnOnce(CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let Some(stage) = self.running.iter_mut().find(|stage| stage.name == name) else { return };
        let limit = stage.limit;
        let mut old = mem::replace(stage, Stage::new(name, limit, work));
        if !old.finished_within(AT_ONCE).await {
            old.limit = PARTING;
            self.replaced.spawn(old.finish());
        }
    }

    /// Starts a stage on a thread of its own: what the others are busy with does not delay it, and each of its many
    /// wake-ups costs less than among several threads.
    pub fn start_alone<W, F>(&mut self, name: &'static str, limit: Duration, work: W)
    where
        W: FnOnce(CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let work = work(stop.clone());
        tasks.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let outcome = runtime.block_on(work);
            // A name that is still being looked up must not hold up the end.
            runtime.shutdown_background();
            outcome
        });
        self.running.push(Stage { name, stop, limit, tasks });
    }

    /// Resolves when a stage ends though nobody asked it to: with what is to be said of it.
    pub async fn ended(&mut self) -> anyhow::Error {
        poll_fn(|context| {
            while let Poll::Ready(Some(_)) = self.replaced.poll_join_next(context) {}
            for stage in &mut self.running {
                if let Poll::Ready(Some(outcome)) = stage.tasks.poll_join_next(context) {
                    return Poll::Ready(told(stage.name, outcome));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What stopping takes at the most.
    pub fn longest(&self) -> Duration {
        self.running.iter().map(|stage| stage.limit).sum()
    }

    /// Stops one after the other. A stage that does not finish in its time is dropped, and the next one follows.
    pub async fn drain(mut self) {
        for stage in self.running {
            stage.finish().await;
        }
        self.replaced.shutdown().await;
    }
}

impl Stage {
    fn new<W, F>(name: &'static str, limit: Duration, work: W) -> Self
    where
        W: FnOnce(CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(work(stop.clone()));
        Self { name, stop, limit, tasks }
    }

    async fn finish(mut self) {
        if !self.finished_within(self.limit).await {
            warn!(stage = self.name, limit = ?self.limit, "stopped before it finished");
        }
    }

    /// Stops it, and waits so long at the most.
    async fn finished_within(&mut self, limit: Duration) -> bool {
        self.stop.cancel();
        let finish = async {
            while let Some(outcome) = self.tasks.join_next().await {
                if let Err(error) = outcome.map_err(anyhow::Error::from).and_then(|done| done) {
                    warn!(stage = self.name, "ended badly: {error:#}");
                }
            }
        };
        let is_finished = timeout(limit, finish).await.is_ok();
        if is_finished {
            debug!(stage = self.name, "stopped");
        }
        is_finished
    }
}

fn told(stage: &str, outcome: Result<anyhow::Result<()>, JoinError>) -> anyhow::Error {
    match outcome {
        Ok(Ok(())) => anyhow!("stage {stage} ended though nobody stopped it"),
        Ok(Err(error)) => error.context(format!("stage {stage} ended")),
        Err(error) if error.is_panic() => {
            anyhow!("stage {stage} panicked: {}", panic_text(error.into_panic().as_ref()))
        }
        Err(error) => anyhow!("stage {stage} ended: {error}"),
    }
}

/// What a panic said, as far as it is text.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "something that is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stage_that_ends_fails_or_panics_is_told_by_name() {
        let said = async |work: fn() -> anyhow::Result<()>| {
            let mut stages = Stages::default();
            stages.start("calm", Duration::from_secs(1), |stop| async move {
                stop.cancelled().await;
                Ok(())
            });
            stages.start("blocks", Duration::from_secs(1), move |_| async move { work() });
            format!("{:#}", stages.ended().await)
        };
        assert_eq!(said(|| Ok(())).await, "stage blocks ended though nobody stopped it");
        assert_eq!(said(|| Err(anyhow!("the disk is gone"))).await, "stage blocks ended: the disk is gone");
        assert_eq!(said(|| panic!("no such slot")).await, "stage blocks panicked: no such slot");
    }

    #[tokio::test(start_paused = true)]
    async fn stages_stop_in_order_and_a_slow_one_is_left_behind() {
        let (told, mut order) = tokio::sync::mpsc::channel(4);
        let mut stages = Stages::default();
        for (name, takes) in [("sources", 1), ("blocks", 60), ("web", 1)] {
            let told = told.clone();
            stages.start(name, Duration::from_secs(2), move |stop| async move {
                stop.cancelled().await;
                tokio::time::sleep(Duration::from_secs(takes)).await;
                told.send(name).await?;
                Ok(())
            });
        }
        let began = tokio::time::Instant::now();
        stages.drain().await;
        assert_eq!((order.recv().await, order.recv().await), (Some("sources"), Some("web")));
        assert_eq!(began.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_is_replaced_finishes_beside_the_other() {
        let (asks, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(1);
        let mut stages = Stages::default();
        let (told, tells) = tokio::sync::oneshot::channel();
        // It ends only when what it waits for is done, which is that another takes its place.
        stages.start("web", Duration::from_millis(750), |_| async move {
            let (reply, answer) = tokio::sync::oneshot::channel();
            asks.send(reply).await?;
            told.send(answer.await).ok();
            Ok(())
        });
        let reply = asked.recv().await.unwrap();
        let other = |stop: CancellationToken| async move {
            stop.cancelled().await;
            Ok(())
        };
        stages.replace("web", other).await;
        reply.send(()).unwrap();
        assert_eq!(tells.await, Ok(Ok(())), "the old one goes on to its end");
        stages.drain().await;
    }
}
