//! Tasks by name, one for each line or broker, that come and go with the config and never end unasked.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::model::LineName;

/// Tasks, each with what its owner must know of it.
pub struct Tasks<T> {
    running: HashMap<LineName, Running<T>>,
    tasks: JoinSet<()>,
}

struct Running<T> {
    known: T,
    stop: CancellationToken,
    task: Id,
}

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Self { running: HashMap::new(), tasks: JoinSet::new() }
    }
}

impl<T> Tasks<T> {
    pub fn iter(&self) -> impl Iterator<Item = (&LineName, &T)> {
        self.running.iter().map(|(name, running)| (name, &running.known))
    }

    pub fn has(&self, name: &LineName) -> bool {
        self.running.contains_key(name)
    }

    /// Begins a task, which must end when its token is cancelled.
    pub fn begin<F>(&mut self, name: LineName, known: T, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = self.tasks.spawn(work(stop.clone())).id();
        self.running.insert(name, Running { known, stop, task });
    }

    /// Ends all tasks but those that stay, side by side, and gives what was known of them when they have ended: what
    /// takes their place may need what they held, as many a gateway takes one connection only.
    pub async fn end_all_but(&mut self, stays: impl Fn(&LineName, &T) -> bool) -> Vec<T> {
        let leaving: Vec<_> = self
            .running
            .iter()
            .filter(|(name, running)| !stays(name, &running.known))
            .map(|(name, _)| name.clone())
            .collect();
        let leaving = leaving.iter().filter_map(|name| self.running.remove(name));
        let mut leaving: HashMap<Id, Running<T>> = leaving.map(|running| (running.task, running)).collect();
        leaving.values().for_each(|running| running.stop.cancel());
        let mut gone = Vec::new();
        while !leaving.is_empty() {
            let Some(ended) = self.tasks.join_next_with_id().await else { break };
            let left = leaving.remove(&ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id));
            match (left, ended) {
                (Some(running), Ok(_)) => gone.push(running.known),
                (_, ended) => self.ended(ended),
            }
        }
        gone
    }

    /// Never resolves while all is well. Panics when a task has ended, as none does unasked: its panic goes on here, and
    /// the agent ends the process for it.
    pub async fn watch(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.ended(ended),
            None => std::future::pending().await,
        }
    }

    fn ended(&self, ended: Result<(Id, ()), JoinError>) {
        match ended.map_err(JoinError::try_into_panic) {
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // Cancelled with the runtime, at the very end.
            Err(Err(_)) => {}
            Ok((id, ())) => {
                let name = self.running.iter().find(|(_, running)| running.task == id).map(|(name, _)| name);
                panic!("the task of {name:?} ended unasked");
            }
        }
    }
}
