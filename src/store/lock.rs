//! One process opens the store: an advisory lock that names its holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::evidence::{Place, place};

/// The held lock; free again when it is dropped or the process ends in whatever way.
pub struct Lock {
    file: File,
    /// What is written over the name of the holder before, in place: on a full disk there is no room for a longer file.
    name: Vec<u8>,
    is_named: bool,
    place: Option<Place>,
    /// Where commands reach this process.
    pub socket: Option<PathBuf>,
}

/// What the lock file says of its holder. Only the lock itself tells whether it is held.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    socket: Option<PathBuf>,
}

/// A name takes a multiple of this, filled up with blanks, so that the next one has its place.
const NAME: usize = 512;

impl Lock {
    /// Keeps others from opening the store while the file is held, but for those who look as well; none where nobody ever
    /// opened it. Changes nothing.
    pub fn share(store: &Path) -> Result<Option<File>, StoreError> {
        let path = store.join("lock");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::of_io(&path, error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Err(held(store, &mut file)),
            Err(TryLockError::Error(source)) => Err(StoreError::Io { path, source }),
        }
    }

    /// Fails as [`Lock::take`] would, and takes nothing.
    pub fn is_free(store: &Path) -> Result<(), StoreError> {
        Self::share(store).map(drop)
    }

    pub fn take(store: &Path, socket: Option<PathBuf>) -> Result<Self, StoreError> {
        let path = store.join("lock");
        let io = |source| StoreError::Io { path: path.clone(), source };
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|source| StoreError::of_io(store, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(held(store, &mut file));
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let there = file.metadata().ok();
        let place = there.as_ref().map(Place::of);
        let holder = Holder { pid: std::process::id(), socket };
        let mut name = serde_json::to_vec(&holder).map_err(|source| io(source.into()))?;
        let before = there.map_or(0, |file| usize::try_from(file.len()).unwrap_or(0));
        name.resize(name.len().max(before.min(NAME * 16)).next_multiple_of(NAME), b' ');
        let mut lock = Self { file, name, is_named: false, place, socket: holder.socket };
        match lock.tell_name() {
            // On a full disk the lock still holds; only its holder stays unnamed until there is room.
            Err(source) if source.kind() != ErrorKind::StorageFull => Err(io(source)),
            _ => Ok(lock),
        }
    }

    /// Names the holder, where there was no room for that before.
    pub fn tell_name(&mut self) -> std::io::Result<()> {
        if !self.is_named {
            self.file.write_all_at(&self.name, 0)?;
            self.is_named = true;
        }
        Ok(())
    }

    /// The lock file of the store at this path is the one that is held.
    pub fn lies_at(&self, store: &Path) -> bool {
        self.place.is_some() && place(&store.join("lock")) == self.place
    }
}

fn held(store: &Path, file: &mut File) -> StoreError {
    let mut text = String::new();
    // The holder may be about to write its name: it is unknown for that instant.
    let read = file.read_to_string(&mut text).ok();
    let holder = read.and_then(|_| serde_json::from_str(&text).ok()).unwrap_or(Holder { pid: 0, socket: None });
    StoreError::Locked { path: store.to_owned(), pid: holder.pid, socket: holder.socket }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The name goes first: a command that finds no name knows that nobody answers.
        self.name.fill(b' ');
        if let Err(error) = self.file.write_all_at(&self.name, 0).and_then(|()| self.file.unlock()) {
            tracing::debug!(%error, "the lock file could not be cleared");
        }
    }
}
