//! Connections for reading, kept open for the next reader.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use super::{StoreError, mutex, sqlite};

/// Connections that lie idle, at most; the oldest is closed. Each takes some 100 KiB.
const IDLE: usize = 4;

#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<(PathBuf, Connection)>>,
    /// Counts forgotten files: a connection lent before is not kept after.
    forgotten: AtomicU64,
}

/// A connection that goes back to the pool when it is dropped.
pub struct Lent<'a> {
    pool: &'a Pool,
    path: &'a Path,
    connection: Option<Connection>,
    forgotten: u64,
}

impl Pool {
    pub fn lend<'a>(&'a self, path: &'a Path) -> Result<Lent<'a>, StoreError> {
        let forgotten = self.forgotten.load(Ordering::Acquire);
        let mut idle = mutex(&self.idle);
        let known = idle.iter().rposition(|(file, _)| file == path).map(|at| idle.remove(at).1);
        drop(idle);
        let connection = match known {
            Some(connection) => connection,
            None => sqlite::open_to_read(path)?,
        };
        Ok(Lent { pool: self, path, connection: Some(connection), forgotten })
    }

    /// Closes what is open of a file that is to be moved or deleted.
    pub fn forget(&self, path: &Path) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        mutex(&self.idle).retain(|(file, _)| file != path);
    }

    pub fn clear(&self) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        mutex(&self.idle).clear();
    }
}

impl Deref for Lent<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        // Only `drop` takes it.
        self.connection.as_ref().unwrap_or_else(|| unreachable!("a lent connection is there until it goes back"))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.pool.forgotten.load(Ordering::Acquire) != self.forgotten {
            return;
        }
        let mut idle = mutex(&self.pool.idle);
        idle.push((self.path.to_owned(), connection));
        if idle.len() > IDLE {
            idle.remove(0);
        }
    }
}
