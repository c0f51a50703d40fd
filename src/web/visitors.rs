//! How much one source may take of the server: connections, handshakes, requests. One that takes more is told when to
//! come again, and the others do not notice it.
//!
//! Behind a proxy or a tunnel all are one source, so the limits leave room for many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::source::Source;

/// So many at once, and one more each time that `every` has gone by.
#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// All requests: 200 a second. The page is some thirty files, and a program that reads a plant asks a few times a second.
const REQUESTS: Rate = Rate { burst: 2_000, every: Duration::from_millis(5) };
/// Those that nobody answers for, but for what is public: 20 a second. Each is refused after all.
const STRANGE: Rate = Rate { burst: 600, every: Duration::from_millis(50) };
/// TLS handshakes: 20 a second. One takes about a millisecond of a small ARM core.
const HANDSHAKES: Rate = Rate { burst: 100, every: Duration::from_millis(50) };
/// Connections at once. A browser opens six, and one for each live feed.
const CONNECTIONS: usize = 64;
/// From the machine itself, where proxies and tunnels end.
const OWN_CONNECTIONS: usize = 384;
/// Sources that are told apart. When as many are here already, further ones share one account until some have gone.
const SOURCES: usize = 1_024;

/// Who is here. Cheap to clone.
#[derive(Clone, Default)]
pub struct Visitors(Arc<Mutex<HashMap<Key, Account>>>);

/// `None` for those beyond [`SOURCES`].
type Key = Option<Source>;

#[derive(Default)]
struct Account {
    connections: usize,
    requests: Bucket,
    strange: Bucket,
    handshakes: Bucket,
}

/// A connection's place; given back when it is dropped.
pub struct Place {
    visitors: Visitors,
    key: Key,
}

impl Visitors {
    /// A place for one more connection; `None` when its source has all that it may.
    pub fn enter(&self, source: Source, now: Instant) -> Option<Place> {
        let most = if source == Source::Here { OWN_CONNECTIONS } else { CONNECTIONS };
        let mut all = self.all();
        let key = known(&mut all, source, now);
        let account = all.entry(key).or_default();
        if account.connections >= most {
            return None;
        }
        account.connections += 1;
        Some(Place { visitors: self.clone(), key })
    }

    /// How long a handshake must wait for its turn, at most `most`.
    pub fn handshake(&self, source: Source, most: Duration, now: Instant) -> Duration {
        let mut all = self.all();
        let key = known(&mut all, source, now);
        all.entry(key).or_default().handshakes.reserve(HANDSHAKES, most, now)
    }

    /// Counts a request; the time after which it may be made, if it is one too many. A strange one is neither public nor
    /// made by somebody who is known.
    pub fn request(&self, source: Source, strange: bool, now: Instant) -> Result<(), Duration> {
        let mut all = self.all();
        let key = known(&mut all, source, now);
        let account = all.entry(key).or_default();
        if strange {
            account.strange.take(STRANGE, now)?;
        }
        account.requests.take(REQUESTS, now)
    }

    /// A panic while it was locked ends the process anyway.
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(account) = self.visitors.all().get_mut(&self.key) {
            account.connections -= 1;
        }
    }
}

/// Whose account it is. Those of sources that have gone, and used nothing of late, make room.
fn known(all: &mut HashMap<Key, Account>, source: Source, now: Instant) -> Key {
    let key = Some(source);
    if all.contains_key(&key) || all.len() < SOURCES {
        return key;
    }
    all.retain(|_, account| account.connections > 0 || !account.is_fresh(now));
    if all.len() < SOURCES { key } else { None }
}

impl Account {
    fn is_fresh(&self, now: Instant) -> bool {
        [&self.requests, &self.strange, &self.handshakes].iter().all(|bucket| bucket.is_full(now))
    }
}

/// When it will be full again; nothing for one that never was otherwise.
#[derive(Default)]
struct Bucket(Option<Instant>);

impl Bucket {
    fn is_full(&self, now: Instant) -> bool {
        self.0.is_none_or(|full| full <= now)
    }

    /// Takes one, or says how long until there is one.
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full = self.0.map_or(now, |full| full.max(now)) + rate.every;
        let early = full.saturating_duration_since(now + rate.every * rate.burst);
        if early.is_zero() {
            self.0 = Some(full);
            Ok(())
        } else {
            Err(early)
        }
    }

    /// Takes one, and says how long to wait before it is used: never longer than `most`, beyond which nothing is owed.
    fn reserve(&mut self, rate: Rate, most: Duration, now: Instant) -> Duration {
        let latest = now + rate.every * rate.burst + most;
        let full = (self.0.map_or(now, |full| full.max(now)) + rate.every).min(latest);
        self.0 = Some(full);
        full.saturating_duration_since(now + rate.every * rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn address(last: u8) -> Source {
        Source::Address([192, 0, 2, last].into())
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { burst: 3, every: Duration::from_secs(1) };
        let (mut bucket, began) = (Bucket::default(), Instant::now());
        assert_eq!([(); 4].map(|()| bucket.take(rate, began).is_ok()), [true, true, true, false]);
        assert_eq!(bucket.take(rate, began), Err(Duration::from_secs(1)));
        let later = began + Duration::from_millis(2_500);
        assert_eq!([(); 3].map(|()| bucket.take(rate, later).is_ok()), [true, true, false]);
        assert_eq!(bucket.take(rate, later), Err(Duration::from_millis(500)));
        assert!(!bucket.is_full(later) && bucket.is_full(later + Duration::from_secs(3)));
        let idle = later + Duration::from_secs(3_600);
        assert_eq!([(); 4].map(|()| bucket.take(rate, idle).is_ok()), [true, true, true, false]);
    }

    #[test]
    fn handshakes_wait_for_their_turn() {
        let (visitors, now) = (Visitors::default(), Instant::now());
        let waits: Vec<_> = (0..HANDSHAKES.burst + 2).map(|_| visitors.handshake(address(1), HOUR, now)).collect();
        let (at_once, later) = waits.split_at(HANDSHAKES.burst as usize);
        assert!(at_once.iter().all(Duration::is_zero));
        assert_eq!(later, [HANDSHAKES.every, HANDSHAKES.every * 2]);
        assert_eq!(visitors.handshake(address(2), HOUR, now), Duration::ZERO);
        let most = Duration::from_secs(10);
        let waits: Vec<_> = (0..10_000).map(|_| visitors.handshake(address(3), most, now)).collect();
        assert_eq!(waits.last(), Some(&most));
        assert_eq!(visitors.handshake(address(3), most, now + most), most.min(HANDSHAKES.every));
    }

    #[test]
    fn strangers_are_held_to_less_than_those_who_are_known() {
        let (visitors, now) = (Visitors::default(), Instant::now());
        let taken = |strange, from| (0..10_000).take_while(|_| visitors.request(from, strange, now).is_ok()).count();
        assert_eq!(taken(true, address(1)), STRANGE.burst as usize);
        assert_eq!(taken(false, address(1)), (REQUESTS.burst - STRANGE.burst) as usize);
        assert_eq!(taken(false, address(2)), REQUESTS.burst as usize);
    }

    #[test]
    fn one_source_leaves_connections_to_the_others() {
        let (visitors, now) = (Visitors::default(), Instant::now());
        let mut places: Vec<_> = (0..CONNECTIONS).map(|_| visitors.enter(address(1), now).unwrap()).collect();
        assert!(visitors.enter(address(1), now).is_none());
        assert!(visitors.enter(address(2), now).is_some());
        places.pop();
        assert!(visitors.enter(address(1), now).is_some());
        let own: Vec<_> = (0..CONNECTIONS + 1).map(|_| visitors.enter(Source::Here, now)).collect();
        assert!(own.iter().all(Option::is_some));
    }

    #[test]
    fn sources_beyond_those_told_apart_share_an_account() {
        let (visitors, now) = (Visitors::default(), Instant::now());
        let source = |n: usize| Source::Address(u32::try_from(n).unwrap().to_be_bytes().into());
        let busy: Vec<_> = (0..SOURCES).map(|n| visitors.enter(source(n), now).unwrap()).collect();
        let shared: Vec<_> = (0..CONNECTIONS).map(|n| visitors.enter(source(SOURCES + n), now).unwrap()).collect();
        assert!(visitors.enter(source(SOURCES * 2), now).is_none());
        assert_eq!(visitors.all().len(), SOURCES + 1);
        drop(busy);
        // Those that have gone make room.
        assert!(visitors.enter(source(SOURCES * 2), now).is_some());
        assert!(visitors.all().len() < 4);
        drop(shared);
        assert!(visitors.request(source(1), true, now).is_ok());
    }
}
