//! The stages that run side by side: none may end unasked, and at the end each gets its time to finish.

use std::future::{Future, poll_fn};
use std::mem;
use std::task::Poll;
use std::time::Duration;

use anyhow::anyhow;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The stages in the order in which data flows, which is the order in which they are stopped.
#[derive(Default)]
pub struct Stages(Vec<Stage>);

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
        self.0.push(Stage::new(name, limit, work));
    }

    /// Stops the stage of this name, in its time, and starts another in its place.
    pub async fn replace<W, F>(&mut self, name: &'static str, work: W)
    where
        W: FnOnce(CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        if let Some(stage) = self.0.iter_mut().find(|stage| stage.name == name) {
            let limit = stage.limit;
            mem::replace(stage, Stage::new(name, limit, work)).finish().await;
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
        self.0.push(Stage { name, stop, limit, tasks });
    }

    /// Resolves when a stage ends though nobody asked it to: with what is to be said of it.
    pub async fn ended(&mut self) -> anyhow::Error {
        poll_fn(|context| {
            for stage in &mut self.0 {
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
        self.0.iter().map(|stage| stage.limit).sum()
    }

    /// Stops one after the other. A stage that does not finish in its time is dropped, and the next one follows.
    pub async fn drain(self) {
        for stage in self.0 {
            stage.finish().await;
        }
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
        self.stop.cancel();
        let finish = async {
            while let Some(outcome) = self.tasks.join_next().await {
                if let Err(error) = outcome.map_err(anyhow::Error::from).and_then(|done| done) {
                    warn!(stage = self.name, "ended badly: {error:#}");
                }
            }
        };
        match timeout(self.limit, finish).await {
            Ok(()) => info!(stage = self.name, "stopped"),
            Err(_) => warn!(stage = self.name, limit = ?self.limit, "stopped before it finished"),
        }
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
}
