//! Whose turn it is to work: one job at a time, the oldest of those that can.

use std::collections::BTreeSet;

use tokio::sync::watch;

use crate::model::JobId;

/// Shared by all jobs that are under way.
#[derive(Clone, Default)]
pub struct Turn(watch::Sender<State>);

#[derive(Default)]
struct State {
    working: Option<JobId>,
    /// Those that could work now.
    ready: BTreeSet<JobId>,
}

/// A job among the others. Without it the job neither works nor stands in anybody's way.
pub struct Place {
    turn: Turn,
    id: JobId,
}

impl Turn {
    /// The job is ready from now on.
    pub fn enter(&self, id: JobId) -> Place {
        self.0.send_modify(|state| {
            state.ready.insert(id);
        });
        Place { turn: self.clone(), id }
    }
}

impl Place {
    /// Waits until it is this job's turn; `first` is told which other one comes first.
    pub async fn take(&self, mut first: impl FnMut(JobId)) {
        let state = &self.turn.0;
        let mut seen = state.subscribe();
        state.send_if_modified(|state| state.working != Some(self.id) && state.ready.insert(self.id));
        loop {
            seen.borrow_and_update();
            let mut other = None;
            state.send_if_modified(|state| {
                other = state.working.or(state.ready.first().copied()).filter(|other| *other != self.id);
                let mine = other.is_none() && state.working.is_none();
                if mine {
                    state.ready.remove(&self.id);
                    state.working = Some(self.id);
                }
                mine
            });
            let Some(other) = other else { return };
            first(other);
            // The sender lives as long as this place.
            seen.changed().await.ok();
        }
    }

    /// Resolves when another job could work.
    pub async fn wanted(&self) {
        let others = |state: &State| state.ready.iter().any(|id| *id != self.id);
        self.turn.0.subscribe().wait_for(others).await.map(drop).ok();
    }

    /// Others may work now.
    pub fn leave(&self) {
        self.turn.0.send_if_modified(|state| {
            let was_ready = state.ready.remove(&self.id);
            let worked = state.working == Some(self.id);
            state.working = state.working.filter(|working| *working != self.id);
            was_ready || worked
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::model::Timestamp;

    fn id(millis: i64) -> JobId {
        JobId::after(None, Timestamp::from_millis(millis), [0; 10])
    }

    #[test]
    fn one_works_at_a_time_and_the_oldest_that_can_comes_first() {
        let turn = Turn::default();
        let [first, second, third] = [1, 2, 3].map(|at| turn.enter(id(at)));
        let mut told = Vec::new();
        assert!(third.take(|other| told.push(other)).now_or_never().is_none());
        assert_eq!(told, [id(1)], "it is ready too, and older");
        assert!(first.take(|_| ()).now_or_never().is_some());
        assert!(first.take(|_| ()).now_or_never().is_some(), "it is still its turn");
        assert!(first.wanted().now_or_never().is_some());

        let mut waits = Box::pin(second.take(|_| ()));
        assert!((&mut waits).now_or_never().is_none(), "another one works");
        first.leave();
        assert!(waits.now_or_never().is_some());
        assert!(first.take(|_| ()).now_or_never().is_none(), "who works goes on");
        drop(second);
        assert!(third.take(|_| ()).now_or_never().is_none());
        assert!(first.take(|_| ()).now_or_never().is_some());
        drop(third);
        assert!(first.wanted().now_or_never().is_none(), "nobody is left");
    }
}
