//! Readings on their way to the writing thread, and the rule when a group of them is committed.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::{Receipt, StoreError, backup, mutex};
use crate::model::Reading;

/// Readings that may wait for their commit. When as many wait, `offer` and `store` wait too: memory stays bounded and
/// the sources slow down.
const ROOM: usize = 8_192;
const ROOM_PERMITS: u32 = 8_192;
/// A broker sends 20 messages unacknowledged by default and then stops: so many acknowledgements do not wait longer.
const ACKS_AT_ONCE: usize = 20;
/// Nor do so many readings that somebody waits for.
const READINGS_AT_ONCE: usize = 1_000;
/// The wait after the first acknowledgement that waits: others join the same flush.
const ACK_WAIT: Duration = Duration::from_millis(75);

/// One hand-over: readings without or with somebody who waits until they are durable.
pub struct Item {
    pub readings: Vec<Reading>,
    /// Room taken in the queue.
    pub room: usize,
    pub reply: Option<oneshot::Sender<Result<Receipt, StoreError>>>,
}

pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    room: Semaphore,
}

#[derive(Default)]
struct Waiting {
    /// Readings nobody waits for lie in one item, so that a poll costs no list of its own.
    offered: Vec<Reading>,
    items: VecDeque<Item>,
    awaited: usize,
    first: Option<Instant>,
    first_ack: Option<Instant>,
    nudged: bool,
    /// Those who asked for upkeep; told when it is done.
    tidy: Vec<oneshot::Sender<()>>,
    /// Those who want the files to hold still.
    stills: Vec<oneshot::Sender<backup::Answer>>,
    stopped: bool,
}

/// What the writing thread has to do.
pub struct Work {
    pub items: Vec<Item>,
    pub tidy: Vec<oneshot::Sender<()>>,
    pub stills: Vec<oneshot::Sender<backup::Answer>>,
    pub stop: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: Mutex::default(), wake: Condvar::new(), room: Semaphore::new(ROOM) }
    }
}

impl Queue {
    pub async fn offer(&self, reading: Reading) -> Result<(), StoreError> {
        let permit = self.room.acquire().await.map_err(|_| StoreError::Closed)?;
        let mut waiting = mutex(&self.waiting);
        if waiting.stopped {
            return Err(StoreError::Closed);
        }
        permit.forget();
        waiting.offered.push(reading);
        let begins = waiting.first.is_none();
        waiting.first.get_or_insert_with(Instant::now);
        // Only what shortens the wait needs to wake the thread.
        if begins || waiting.offered.len() == ROOM / 2 {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub async fn store(&self, readings: Vec<Reading>) -> Result<Receipt, StoreError> {
        let permits = u32::try_from(readings.len()).unwrap_or(u32::MAX).min(ROOM_PERMITS);
        let permit = self.room.acquire_many(permits).await.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = mutex(&self.waiting);
            if waiting.stopped {
                return Err(StoreError::Closed);
            }
            permit.forget();
            waiting.awaited += readings.len();
            let room = usize::try_from(permits).unwrap_or(ROOM);
            waiting.items.push_back(Item { readings, room, reply: Some(reply) });
            waiting.first.get_or_insert_with(Instant::now);
            waiting.first_ack.get_or_insert_with(Instant::now);
            self.wake.notify_one();
        }
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Waits for work: until a group is due, a nudge, the end, or `idle` has passed.
    pub fn next(&self, commit_every: Duration, idle: Duration) -> Work {
        let asked = Instant::now();
        let mut waiting = mutex(&self.waiting);
        loop {
            let now = Instant::now();
            let due = waiting.due(commit_every);
            let until = due.unwrap_or(asked + idle).min(asked + idle.max(commit_every));
            if waiting.stopped || std::mem::take(&mut waiting.nudged) || until <= now {
                let stop = waiting.stopped;
                let taken = stop || due.is_some_and(|due| due <= now);
                let items = if taken { waiting.take() } else { Vec::new() };
                let (tidy, stills) = (std::mem::take(&mut waiting.tidy), std::mem::take(&mut waiting.stills));
                return Work { items, tidy, stills, stop };
            }
            waiting = match self.wake.wait_timeout(waiting, until - now) {
                Ok((waiting, _)) => waiting,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Gives room back once readings are durable or refused.
    pub fn done(&self, room: usize) {
        self.room.add_permits(room);
    }

    /// Puts readings that nobody waits for back in front, to be tried again after `pause` unless the store stops.
    pub fn put_back(&self, readings: Vec<Reading>, pause: Duration) {
        let mut waiting = mutex(&self.waiting);
        let newer = std::mem::replace(&mut waiting.offered, readings);
        waiting.offered.extend(newer);
        if !waiting.offered.is_empty() {
            waiting.first.get_or_insert_with(Instant::now);
        }
        let until = Instant::now() + pause;
        while !waiting.stopped && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            waiting = match self.wake.wait_timeout(waiting, left) {
                Ok((waiting, _)) => waiting,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Wakes the writing thread for its upkeep.
    pub fn nudge(&self) {
        mutex(&self.waiting).nudged = true;
        self.wake.notify_one();
    }

    /// Has all upkeep done now, and waits for it.
    pub async fn tidy(&self) {
        let (done, answer) = oneshot::channel();
        {
            let mut waiting = mutex(&self.waiting);
            waiting.tidy.push(done);
            waiting.nudged = true;
        }
        self.wake.notify_one();
        // A store that ends meanwhile does it at its next start.
        answer.await.ok();
    }

    /// Asks for the files to hold still. A store that ends meanwhile drops the request.
    pub fn hold_still(&self, reply: oneshot::Sender<backup::Answer>) {
        {
            let mut waiting = mutex(&self.waiting);
            if waiting.stopped {
                return;
            }
            waiting.stills.push(reply);
            waiting.nudged = true;
        }
        self.wake.notify_one();
    }

    /// Takes no more readings; the writing thread commits what waits and ends.
    pub fn stop(&self) {
        mutex(&self.waiting).stopped = true;
        self.room.close();
        self.wake.notify_all();
    }

    /// Whoever still waits is told that the store is closed.
    pub fn abandon(&self) {
        self.stop();
        let mut waiting = mutex(&self.waiting);
        waiting.items.clear();
        waiting.offered.clear();
        waiting.tidy.clear();
        waiting.stills.clear();
    }

    pub fn len(&self) -> usize {
        let waiting = mutex(&self.waiting);
        waiting.offered.len() + waiting.awaited
    }
}

impl Waiting {
    /// When what waits must be committed; `None` when nothing waits.
    fn due(&self, commit_every: Duration) -> Option<Instant> {
        let first = self.first?;
        if self.items.len() >= ACKS_AT_ONCE
            || self.awaited >= READINGS_AT_ONCE
            || self.offered.len() + self.awaited >= ROOM / 2
        {
            return Some(first);
        }
        let latest = first + commit_every;
        Some(self.first_ack.map_or(latest, |ack| latest.min(ack + ACK_WAIT)))
    }

    fn take(&mut self) -> Vec<Item> {
        let offered = std::mem::take(&mut self.offered);
        let mut items = Vec::with_capacity(self.items.len() + 1);
        if !offered.is_empty() {
            items.push(Item { room: offered.len(), readings: offered, reply: None });
        }
        items.extend(self.items.drain(..));
        (self.awaited, self.first, self.first_ack) = (0, None, None);
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(readings: usize) -> Item {
        Item { readings: Vec::new(), room: readings, reply: None }
    }

    #[test]
    fn a_group_is_due_by_age_or_by_those_who_wait() {
        let now = Instant::now();
        let every = Duration::from_secs(10);
        let mut waiting = Waiting::default();
        assert_eq!(waiting.due(every), None);
        waiting.first = Some(now);
        assert_eq!(waiting.due(every), Some(now + every));
        waiting.first_ack = Some(now);
        assert_eq!(waiting.due(every), Some(now + ACK_WAIT));
        assert_eq!(waiting.due(Duration::from_millis(10)), Some(now + Duration::from_millis(10)));
        waiting.items.extend((0..ACKS_AT_ONCE - 1).map(|_| item(1)));
        assert_eq!(waiting.due(every), Some(now + ACK_WAIT));
        waiting.items.push_back(item(1));
        assert_eq!(waiting.due(every), Some(now));
        waiting.items.clear();
        waiting.awaited = READINGS_AT_ONCE;
        assert_eq!(waiting.due(every), Some(now));
    }
}
