//! Whether the store that is open still lies at its path. A folder can be deleted and a disk unmounted under it, and
//! then writes go on, without an error, into files that nobody finds again.

use std::path::Path;

use super::lock::Lock;
use super::{Shared, StoreError, mutex, read};

impl Shared {
    /// To be asked before each commit, and before files are touched by name: fails while the store is not at its path.
    pub fn at_home(&self) -> Result<(), StoreError> {
        let mut lock = mutex(&self.lock);
        let held = lock.as_mut().ok_or(StoreError::Closed)?;
        if held.lies_at(&self.root) {
            if let Err(error) = held.tell_name() {
                tracing::debug!(%error, "commands do not find this process by the store");
            }
            return Ok(());
        }
        let mut evidence = mutex(&self.evidence);
        if !evidence.is_there() {
            return Err(gone(&self.root));
        }
        // The same store under another lock file: its disk came back as another device, or only the lock was deleted.
        // Somebody may have opened it meanwhile, so it is locked before anything of it is opened.
        let taken = Lock::take(&self.root, held.socket.clone()).map_err(|error| match error {
            StoreError::Locked { path, pid, .. } => {
                let what = format!("process {pid} has opened it while its disk was away: stop one of the two");
                StoreError::Unwritable { path, what }
            }
            error => error,
        })?;
        evidence.reopen(&read(&self.identity))?;
        self.pool.clear();
        *mutex(&self.still) = None;
        *lock = Some(taken);
        Ok(())
    }

    /// Why nothing could be written now, without a look at anything but names.
    pub fn away(&self) -> Option<StoreError> {
        if mutex(&self.lock).as_ref().is_some_and(|lock| !lock.lies_at(&self.root)) {
            return Some(gone(&self.root));
        }
        // While somebody writes to it, that one has asked.
        let evidence = self.evidence.try_lock().ok()?;
        evidence.in_place().err()
    }
}

fn gone(root: &Path) -> StoreError {
    let what = "its folder is gone, for it was deleted or its disk is not mounted: mount the disk again, and writing \
                goes on by itself; if it was deleted, restore a backup or run `meterseal init`, and restart meterseal";
    StoreError::Unwritable { path: root.to_owned(), what: what.to_owned() }
}
