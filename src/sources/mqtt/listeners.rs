//! The brokers that are listened to: follows changes of the config, one task for each.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Broker, Outside, Report, run};
use crate::clock::Clock;
use crate::model::{LineName, SourcesStatus};
use crate::store::Ingest;

pub struct Listeners {
    ingest: Ingest,
    clock: Clock,
    running: HashMap<LineName, Running>,
    tasks: JoinSet<()>,
    /// Attempts of brokers that are listened to no more, so that the count never goes back.
    past_attempts: u64,
}

struct Running {
    broker: Arc<Broker>,
    stop: CancellationToken,
    report: watch::Receiver<Report>,
    task: Id,
}

impl Listeners {
    pub fn new(ingest: Ingest, clock: Clock) -> Self {
        Self { ingest, clock, running: HashMap::new(), tasks: JoinSet::new(), past_attempts: 0 }
    }

    /// Leaves what is no longer wanted as it is, then begins what is new. The old task of a changed broker ends first:
    /// a broker takes two connections of one client for one that was lost.
    pub async fn follow(&mut self, brokers: &[Broker]) {
        let stays = |running: &Running| brokers.iter().any(|broker| *broker == *running.broker);
        let leaving: Vec<_> =
            self.running.iter().filter(|(_, running)| !stays(running)).map(|(name, _)| name.clone()).collect();
        let mut leaving: HashMap<Id, Running> = leaving
            .iter()
            .filter_map(|name| self.running.remove(name))
            .map(|running| (running.task, running))
            .collect();
        leaving.values().for_each(|running| running.stop.cancel());
        while !leaving.is_empty() {
            let Some(ended) = self.tasks.join_next_with_id().await else { break };
            match leaving.remove(&id_of(&ended)) {
                Some(running) => {
                    self.past_attempts += running.report.borrow().attempts;
                    if let Err(error) = ended {
                        end_with(error);
                    }
                }
                None => self.ended(ended),
            }
        }
        for broker in brokers {
            if !self.running.contains_key(&broker.name) {
                self.begin(broker);
            }
        }
    }

    fn begin(&mut self, broker: &Broker) {
        let broker = Arc::new(broker.clone());
        let (tell, report) = watch::channel(Report::new(&broker, self.clock.now()));
        let stop = CancellationToken::new();
        let outside =
            Outside { ingest: self.ingest.clone(), clock: self.clock.clone(), report: tell, stop: stop.clone() };
        let task = self.tasks.spawn(run(broker.clone(), outside)).id();
        self.running.insert(broker.name.clone(), Running { broker, stop, report, task });
    }

    /// Resolves when a task ends, which none does unasked.
    pub async fn next_end(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.ended(ended),
            None => std::future::pending().await,
        }
    }

    fn ended(&self, ended: Result<(Id, ()), JoinError>) {
        match ended {
            Err(error) => end_with(error),
            Ok((id, ())) => {
                let name = self.running.iter().find(|(_, running)| running.task == id).map(|(name, _)| name);
                panic!("the task of broker {name:?} ended unasked");
            }
        }
    }

    /// Adds what the brokers tell.
    pub fn tell(&self, status: &mut SourcesStatus) {
        status.attempts += self.past_attempts;
        for (name, running) in &self.running {
            let report = running.report.borrow();
            status.attempts += report.attempts;
            status.brokers.insert(name.clone(), report.broker.clone());
            let meters = running.broker.meters.iter().zip(&report.meters);
            status.meters.extend(meters.map(|(meter, known)| (meter.id.clone(), known.clone())));
        }
    }
}

fn id_of(ended: &Result<(Id, ()), JoinError>) -> Id {
    match ended {
        Ok((id, ())) => *id,
        Err(error) => error.id(),
    }
}

/// A task's panic becomes this one's, which the agent ends the process for.
fn end_with(error: JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}
