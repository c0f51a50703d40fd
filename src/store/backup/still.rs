//! How a store holds still. A file of SQLite whose write-ahead log is all in it is not written to while a reader that began
//! then is in it: what is committed meanwhile waits in the log. So the files are the copy, at one point in time: nothing has to
//! be copied beside them, and whoever may read them does so without the daemon.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::super::evidence;
use super::super::jobs::{self, Held};
use super::super::lock::Lock;
use super::super::raw::{self, RawFile};
use super::super::{Ledger, Shared, StoreError, log, mutex, sqlite, writer};
use super::{BUNDLES, Inventory, Member, TLS, keys, list};
use crate::clock::Clock;

/// Readers of the page are in each other's way for moments only.
const TRIES: u32 = 100;
const AGAIN: Duration = Duration::from_millis(100);

/// What comes meanwhile makes the logs longer: so much must be free when it begins, and so much all the time.
const ROOM: u64 = 16 << 20;
const LEAST: u64 = 4 << 20;

/// The files that hold still now, for whom.
pub struct Frozen {
    number: u64,
    _files: Vec<Connection>,
}

/// An open store holds still as long as this lives, unless it needs its room for more important things.
pub struct Still {
    shared: Arc<Shared>,
    number: u64,
    /// Bytes of the reserve when it began, which may have been used before.
    reserve: u64,
    pub inventory: Inventory,
    /// Keep the bundles from being deleted.
    _bundles: Vec<Held>,
}

/// What the writing thread answers: `None` while a reader is in the way.
pub type Answer = Result<Option<Still>, StoreError>;

impl Ledger {
    /// Has all files hold still, at one point in time: all that was committed until then is in them. Commits go on.
    pub async fn hold_still(&self) -> Result<Still, StoreError> {
        for _ in 0..TRIES {
            let (reply, answer) = oneshot::channel();
            self.shared.queue.hold_still(reply);
            if let Some(still) = answer.await.map_err(|_| StoreError::Closed)?? {
                return Ok(still);
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(StoreError::Busy { path: self.shared.root.clone() })
    }
}

impl Still {
    /// Why it holds still no longer.
    pub fn lost(&self) -> Option<&'static str> {
        if mutex(&self.shared.still).as_ref().is_none_or(|frozen| frozen.number != self.number) {
            return Some("the store was closed or its disk was away");
        }
        let is_full = mutex(&self.shared.reserve).held() < self.reserve || free(&self.shared.root) < LEAST;
        is_full.then_some("the disk of the store is full: make room there, or stop meterseal and back up then")
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        mutex(&self.shared.still).take_if(|frozen| frozen.number == self.number);
    }
}

/// For the writing thread, between two commits; `pen` stands on the file of the day.
pub fn hold(shared: &Arc<Shared>, pen: Option<&RawFile>) -> Answer {
    shared.at_home()?;
    if mutex(&shared.still).is_some() {
        return Err(StoreError::BackingUp { path: shared.root.clone() });
    }
    if free(&shared.root) < ROOM {
        let what = "less than 16 MB are free, which it needs for what comes during a backup: make room there, or stop meterseal \
                    and back up then";
        return Err(StoreError::Unwritable { path: shared.root.clone(), what: what.to_owned() });
    }
    let reserve = mutex(&shared.reserve).held();
    let (mut frozen, mut files) = (Vec::new(), Vec::new());
    for file in shared.files() {
        let is_written = pen.is_some_and(|pen| pen.first_seq == file.first_seq);
        if is_written || writer::log_size(&file) > 0 {
            let Some(connection) = sqlite::still(&file.path)? else { return Ok(None) };
            frozen.push(connection);
        }
        let name = format!("{}/{}", raw::FOLDER, raw::file_name(file.first_seq));
        let bytes = file.path.metadata().map_err(|error| StoreError::of_io(&file.path, error))?.len();
        files.push(Member { bytes, name });
    }
    let evidence = mutex(&shared.evidence);
    evidence.in_place()?;
    let Some(connection) = sqlite::still(&evidence.path)? else { return Ok(None) };
    // Whoever deletes a bundle has `evidence`.
    let bundles = jobs::bundles(&connection).map_err(|error| evidence.fault(error))?;
    let bundles: Vec<Held> = bundles.into_iter().map(|bundle| jobs::hold(shared, bundle.id)).collect();
    let inventory = inventory(&shared.root, &connection, files, &shared.clock)?;
    drop(evidence);
    frozen.push(connection);
    let mut still = mutex(&shared.still);
    let number = mutex(&shared.stills).wrapping_add(1);
    *mutex(&shared.stills) = number;
    *still = Some(Frozen { number, _files: frozen });
    drop(still);
    Ok(Some(Still { shared: shared.clone(), number, reserve, inventory, _bundles: bundles }))
}

fn free(root: &Path) -> u64 {
    sqlite::free_bytes(root).unwrap_or(u64::MAX)
}

/// `raw` are the raw files; the rest is found by `evidence.db`, which holds still.
fn inventory(
    root: &Path,
    connection: &Connection,
    mut files: Vec<Member>,
    clock: &Clock,
) -> Result<Inventory, StoreError> {
    let path = root.join(evidence::FILE);
    let bytes = path.metadata().map_err(|error| StoreError::of_io(&path, error))?.len();
    files.insert(0, Member { bytes, name: evidence::FILE.to_owned() });
    let read = || -> rusqlite::Result<_> {
        let schema: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        // Before version 4 there were none.
        let bundles = if schema < 4 { Vec::new() } else { jobs::bundles(connection)? };
        Ok((schema, log::kept_identity(connection)?, keys(connection)?, bundles))
    };
    let (schema, identity, (keys, signing), bundles) = read().map_err(|error| sqlite::fault(&path, error))?;
    for bundle in bundles {
        list(root, &format!("{BUNDLES}/{}", bundle.id), &mut files)?;
    }
    list(root, TLS, &mut files)?;
    let (site, gateway, epoch) = (identity.site, identity.gateway, identity.epoch);
    Ok(Inventory { site, gateway, epoch, taken: clock.now(), schema, signing, keys, files })
}

/// A store that no process has open, under its lock as long as this lives.
pub struct AtRest {
    pub inventory: Inventory,
    _lock: Lock,
}

impl AtRest {
    /// Nothing is changed but that what a crash has left in write-ahead logs goes into the files.
    pub fn find(root: &Path, clock: &Clock) -> Result<Self, StoreError> {
        evidence::find(root)?;
        let lock = Lock::take(root, None)?;
        super::finish(root)?;
        evidence::version(root)?;
        let mut files = Vec::new();
        for (first_seq, path) in raw::list(&root.join(raw::FOLDER))? {
            let left = ["-wal", "-journal"].iter().any(|end| {
                let mut log = path.clone().into_os_string();
                log.push(end);
                match Path::new(&log).metadata() {
                    Ok(log) => log.len() > 0,
                    Err(error) => error.kind() != ErrorKind::NotFound,
                }
            });
            if left {
                raw::settle(&path)?;
            }
            let bytes = path.metadata().map_err(|error| StoreError::of_io(&path, error))?.len();
            files.push(Member { bytes, name: format!("{}/{}", raw::FOLDER, raw::file_name(first_seq)) });
        }
        let path = root.join(evidence::FILE);
        let connection = sqlite::open(&path)?;
        let fault = |error| sqlite::fault(&path, error);
        sqlite::settle(&connection).map_err(fault)?;
        let inventory = inventory(root, &connection, files, clock)?;
        sqlite::finish(connection).map_err(fault)?;
        Ok(Self { inventory, _lock: lock })
    }
}
