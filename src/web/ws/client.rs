//! Who is connected, and what waits for each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::model::MeterId;

/// Clients at once. One more is refused before the upgrade.
pub const CLIENTS: usize = 100;
/// Messages that wait for one client. When they are full, the oldest gives way and is counted: whoever reads slowly gets
/// the newest state. A message is held once for all clients.
const WAITING: usize = 32;

/// The clients, and who of them is what.
pub struct Clients {
    inner: Mutex<Inner>,
    places: Arc<Semaphore>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Inner {
    last: u64,
    all: BTreeMap<u64, Client>,
}

struct Client {
    outbox: Arc<Outbox>,
    is_dashboard: bool,
    simulator: Option<Registered>,
}

/// A simulator as its socket registered it.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    pub id: MeterId,
    pub name: String,
    /// Readings acknowledged to this socket.
    pub sequence: u64,
}

/// What waits for one client.
#[derive(Default)]
pub struct Outbox {
    waiting: Mutex<VecDeque<Utf8Bytes>>,
    filled: Notify,
}

impl Default for Clients {
    fn default() -> Self {
        Self { inner: Mutex::default(), places: Arc::new(Semaphore::new(CLIENTS)), dropped: AtomicU64::new(0) }
    }
}

impl Clients {
    /// A place for one more; `None` when all are taken.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    pub fn count(&self) -> usize {
        CLIENTS - self.places.available_permits()
    }

    /// Messages that slow clients missed since start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// One more is connected: its number, and what waits for it.
    pub fn enter(&self) -> (u64, Arc<Outbox>) {
        let mut inner = lock(&self.inner);
        inner.last += 1;
        let (me, outbox) = (inner.last, Arc::new(Outbox::default()));
        inner.all.insert(me, Client { outbox: outbox.clone(), is_dashboard: false, simulator: None });
        (me, outbox)
    }

    /// One is gone: whether it was a dashboard, and what it was as a simulator.
    pub fn leave(&self, me: u64) -> (bool, Option<Registered>) {
        let gone = lock(&self.inner).all.remove(&me);
        gone.map_or((false, None), |gone| (gone.is_dashboard, gone.simulator))
    }

    pub fn is_dashboard(&self, me: u64) {
        if let Some(client) = lock(&self.inner).all.get_mut(&me) {
            client.is_dashboard = true;
        }
    }

    pub fn is_simulator(&self, me: u64, simulator: Registered) {
        if let Some(client) = lock(&self.inner).all.get_mut(&me) {
            client.simulator = Some(simulator);
        }
    }

    pub fn simulator(&self, me: u64) -> Option<Registered> {
        lock(&self.inner).all.get(&me)?.simulator.clone()
    }

    /// Counts a reading of this socket; `None` while it is not registered.
    pub fn count_reading(&self, me: u64) -> Option<u64> {
        let mut inner = lock(&self.inner);
        let simulator = inner.all.get_mut(&me)?.simulator.as_mut()?;
        simulator.sequence += 1;
        Some(simulator.sequence)
    }

    pub fn dashboards(&self) -> usize {
        lock(&self.inner).all.values().filter(|client| client.is_dashboard).count()
    }

    /// The simulators that are connected, in the order in which they came.
    pub fn simulators(&self) -> Vec<Registered> {
        lock(&self.inner).all.values().filter_map(|client| client.simulator.clone()).collect()
    }

    pub fn tell_dashboards(&self, text: &str) {
        let text = Utf8Bytes::from(text);
        for client in lock(&self.inner).all.values().filter(|client| client.is_dashboard) {
            self.push(client, text.clone());
        }
    }

    pub fn tell_simulators(&self, text: impl Fn(&Registered) -> String) {
        for client in lock(&self.inner).all.values() {
            if let Some(simulator) = &client.simulator {
                self.push(client, text(simulator).into());
            }
        }
    }

    fn push(&self, client: &Client, text: Utf8Bytes) {
        let mut waiting = lock(&client.outbox.waiting);
        if waiting.len() >= WAITING {
            waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(text);
        client.outbox.filled.notify_one();
    }
}

impl Outbox {
    /// The next message, once there is one.
    pub async fn next(&self) -> Utf8Bytes {
        loop {
            if let Some(text) = self.take() {
                return text;
            }
            self.filled.notified().await;
        }
    }

    /// The next message, if there is one.
    pub fn take(&self) -> Option<Utf8Bytes> {
        lock(&self.waiting).pop_front()
    }
}

/// Nothing is left half-changed under these locks by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_client_keeps_the_newest_messages_and_the_others_lose_nothing() {
        let clients = Clients::default();
        let (slow, kept) = clients.enter();
        let (quick, read) = clients.enter();
        clients.is_dashboard(slow);
        clients.is_dashboard(quick);
        for at in 0..WAITING + 5 {
            clients.tell_dashboards(&at.to_string());
            assert_eq!(read.take().unwrap().as_str(), at.to_string());
        }
        let kept: Vec<_> = std::iter::from_fn(|| kept.take()).map(|text| text.as_str().to_owned()).collect();
        assert_eq!(kept, (5..WAITING + 5).map(|at| at.to_string()).collect::<Vec<_>>());
        assert_eq!(clients.dropped(), 5);
    }

    #[test]
    fn places_are_given_back() {
        let clients = Clients::default();
        let taken: Vec<_> = std::iter::from_fn(|| clients.place()).collect();
        assert_eq!((taken.len(), clients.count()), (CLIENTS, CLIENTS));
        drop(taken);
        assert_eq!(clients.count(), 0);
    }

    #[test]
    fn readings_are_counted_for_a_registered_socket_alone() {
        let clients = Clients::default();
        let (me, _outbox) = clients.enter();
        assert_eq!(clients.count_reading(me), None);
        clients.is_simulator(me, Registered { id: "S".parse().unwrap(), name: "N".to_owned(), sequence: 0 });
        assert_eq!((clients.count_reading(me), clients.count_reading(me)), (Some(1), Some(2)));
        assert_eq!(clients.leave(me).1.unwrap().sequence, 2);
        assert!(clients.simulators().is_empty());
    }
}
