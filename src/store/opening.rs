//! How a store is opened: to be used, or to be looked into.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::live::LiveMeters;
use super::reserve::Reserve;
use super::*;

impl Store {
    /// Opens the store under its lock. `socket` is written into the lock file, for commands to find this process.
    pub fn open(config: Config, clock: Clock, socket: Option<PathBuf>) -> Result<Self, StoreError> {
        let root = config.path.clone();
        evidence::find(&root)?;
        let lock = Lock::take(&root, socket)?;
        backup::finish(&root)?;
        let mut reserve = Reserve::open(&root, config.reserve);
        let evidence = loop {
            match Evidence::open(&root) {
                // Opening needs room as well, for the shared index of the log.
                Err(StoreError::Full { .. }) if reserve.give(true) => {
                    tracing::warn!("the disk is full: the store is opened in the reserve");
                }
                opened => break opened?,
            }
        };
        let folder = root.join(raw::FOLDER);
        lost::finish(&evidence.connection, &folder)?;
        let readings = Readings::load(&folder, &clock)?;
        for (_, path, what) in &readings.damaged {
            tracing::error!(file = %path.display(), what, "damaged; set aside");
        }
        let (through, listed, damaged) = (readings.through(), readings.listed.clone(), readings.damaged.clone());
        let shared = Arc::new(Shared::new(config, clock, evidence, reserve, readings)?);
        *mutex(&shared.lock) = Some(lock);
        let last_seq = shared.write_evidence(|evidence| {
            log::take_up(evidence, shared.clock.now())?;
            let work = |connection: &rusqlite::Connection| {
                events::take_up(connection, shared.clock.now())?;
                let since_open = log::Since::now(connection, through + 1)?;
                Ok((since_open, lost::hole(connection)?, lost::last_seq(connection)?))
            };
            let (since_open, hole, last) =
                work(&evidence.connection).map_err(|error: rusqlite::Error| evidence.fault(error))?;
            *mutex(&shared.since_open) = since_open;
            shared.hole.store(hole, Ordering::Release);
            shared.given_before.store(last, Ordering::Release);
            let hole = Unsent { first: through + 1, last };
            let unused = upstream::keep_unused(&evidence.connection, hole).map_err(|error| evidence.fault(error))?;
            *write(&shared.unused) = unused.into();
            Ok(last)
        })?;
        for (first_seq, path, _) in damaged {
            // Nobody knows how far it went: as far as the next one at most.
            let next = listed.range(first_seq + 1..).next().map(|(next, _)| next - 1);
            let last_seq = next.unwrap_or(last_seq).max(first_seq);
            let file = lost::Going { first_seq, last_seq, latest: i64::MAX, leaves_a_hole: false };
            shared.give_up(&file, lost::Cause::Damaged)?;
            raw::quarantine(&path)?;
        }
        *write(&shared.quarantined) = raw::quarantined(&folder);
        let writer = Writer::new(shared.clone())?;
        let queue_end = shared.clone();
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            // However the thread ends, nobody may wait for it in vain.
            let _end = End(queue_end);
            writer.run();
        });
        let writer = thread.map_err(|source| StoreError::Io { path: shared.root.clone(), source })?;
        Ok(Self { shared, writer: Some(writer), look: None })
    }

    /// Opens a store that no process has open, to look into it: nothing that it holds changes, and whoever writes to it finds
    /// it closed. What the next start would take up first (a restored backup, an older version) is an error, and left to it.
    pub fn look(config: Config, clock: Clock) -> Result<Self, StoreError> {
        let root = config.path.clone();
        evidence::find(&root)?;
        let lock = Lock::share(&root)?;
        let due = |what: String| StoreError::Due { path: root.clone(), what };
        if backup::is_committed(&root) {
            return Err(due("becomes that of a restored backup".to_owned()));
        }
        let version = evidence::version(&root)?;
        if version < evidence::VERSION {
            return Err(due(format!("of version {version} is brought to {}", evidence::VERSION)));
        }
        let evidence = Evidence::open(&root)?;
        let folder = root.join(raw::FOLDER);
        // Older ones have no write-ahead log. A damaged one is told of by whoever reads it.
        let newest = raw::list(&folder)?.into_values().rev().find_map(|path| sqlite::hold(&path).ok());
        let readings = Readings::load(&folder, &clock)?;
        let (through, damaged) = (readings.through(), readings.damaged.clone());
        let reserve = Reserve::found(&root, config.reserve);
        let shared = Shared::new(config, clock, evidence, reserve, readings)?;
        shared.queue.stop();
        {
            let evidence = mutex(&shared.evidence);
            let connection = &evidence.connection;
            let known = || Ok((lost::hole(connection)?, lost::last_seq(connection)?, upstream::unused(connection)?));
            let (hole, last, mut unused) = known().map_err(|error: rusqlite::Error| evidence.fault(error))?;
            shared.hole.store(hole, Ordering::Release);
            shared.given_before.store(last, Ordering::Release);
            unused.extend(Some(Unsent { first: through + 1, last }).filter(|gap| gap.first <= gap.last));
            *write(&shared.unused) = unused.into();
        }
        let mut quarantined = raw::quarantined(&folder);
        quarantined.extend(damaged.iter().map(|(_, path, _)| path.display().to_string()));
        *write(&shared.quarantined) = quarantined;
        let look = Look { _newest: Mutex::new(newest), _lock: lock };
        Ok(Self { shared: Arc::new(shared), writer: None, look: Some(look) })
    }
}

/// What is held while a store is looked into.
pub(super) struct Look {
    _newest: Mutex<Option<rusqlite::Connection>>,
    _lock: Option<File>,
}

/// The raw files of a store.
struct Readings {
    listed: BTreeMap<u64, PathBuf>,
    files: Vec<Arc<raw::RawFile>>,
    live: LiveMeters,
    /// First seq, path, and what is wrong.
    damaged: Vec<(u64, PathBuf, String)>,
}

impl Readings {
    fn load(folder: &Path, clock: &Clock) -> Result<Self, StoreError> {
        let layouts = raw::Layouts::default();
        let (mut files, mut live, mut damaged) = (Vec::new(), LiveMeters::default(), Vec::new());
        let listed = raw::list(folder)?;
        for (first_seq, path) in &listed {
            match raw::load(path, *first_seq, &layouts) {
                Ok(file) => files.push(Arc::new(file)),
                Err(StoreError::Damaged { what, .. }) => damaged.push((*first_seq, path.clone(), what)),
                Err(error) => return Err(error),
            }
        }
        let newest_two = files.len().saturating_sub(2);
        for (at, file) in files.iter().enumerate() {
            live.recall(file, at >= newest_two, clock.now());
        }
        Ok(Self { listed, files, live, damaged })
    }

    /// The last seq.
    fn through(&self) -> u64 {
        self.files.last().map_or(0, |file| read(&file.state).last_seq)
    }
}

impl Shared {
    /// Without a lock it is closed to whoever writes.
    fn new(
        config: Config,
        clock: Clock,
        evidence: Evidence,
        reserve: Reserve,
        readings: Readings,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            root: config.path.clone(),
            clock,
            lock: Mutex::default(),
            identity: RwLock::new(Arc::new(evidence.identity()?)),
            access: RwLock::new(Arc::new(evidence.access()?)),
            access_changed: watch::Sender::new(0),
            tokens_used: Mutex::default(),
            redates: RwLock::new(Arc::new(evidence.redates()?)),
            evidence: Mutex::new(evidence),
            reserve: Mutex::new(reserve),
            committed: watch::Sender::new(readings.through()),
            raw: RwLock::new(readings.files),
            pool: pool::Pool::default(),
            queue: queue::Queue::default(),
            still: Mutex::default(),
            stills: Mutex::default(),
            live: Mutex::new(readings.live),
            feed: broadcast::Sender::new(FEED),
            sealed: broadcast::Sender::new(FEED),
            jobs_changed: watch::Sender::new(0),
            sendable: watch::Sender::new(0),
            showing: Mutex::default(),
            since_open: Mutex::default(),
            given_before: AtomicU64::new(0),
            unused: RwLock::new(Arc::default()),
            hole: AtomicU64::default(),
            holds: Mutex::default(),
            counters: Counters::default(),
            trouble: RwLock::default(),
            damaged: Mutex::default(),
            quarantined: RwLock::default(),
            evidence_damage: RwLock::default(),
            config: RwLock::new(config),
        })
    }
}

struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *write(&self.0.trouble) = Some("the writing thread has ended: restart meterseal".to_owned());
        }
        self.0.queue.abandon();
    }
}
