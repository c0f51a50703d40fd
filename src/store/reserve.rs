//! The reserve: a preallocated file that is given up, piece by piece, when the disk is full.
//!
//! Raw readings may take it down to the last quarter, which is for blocks and evidence alone.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::sqlite;

pub struct Reserve {
    path: PathBuf,
    wanted: u64,
    held: u64,
}

/// Room beyond the reserve that must be free before it is filled again, so that it does not swing.
const SLACK: u64 = 4 << 20;

impl Reserve {
    pub fn open(root: &Path, wanted: u64) -> Self {
        let mut reserve = Self::found(root, wanted);
        reserve.refill();
        reserve
    }

    /// As it is.
    pub fn found(root: &Path, wanted: u64) -> Self {
        let path = root.join("reserve");
        let held = path.metadata().map_or(0, |file| file.len());
        Self { path, wanted, held }
    }

    pub fn resize(&mut self, wanted: u64) {
        self.wanted = wanted;
        if self.held > wanted {
            self.set(wanted);
        }
    }

    /// The bytes that it has now.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Some of it is given up.
    pub fn is_used(&self) -> bool {
        self.held < self.wanted
    }

    /// Gives a piece up; false when nothing is left that the caller may have.
    pub fn give(&mut self, for_evidence: bool) -> bool {
        let floor = if for_evidence { 0 } else { self.wanted / 4 };
        let piece = (self.wanted / 8).max(1 << 20);
        self.held > floor && self.set(self.held.saturating_sub(piece).max(floor))
    }

    /// What must be free for it to be filled again, and to stay so.
    pub fn room_needed(&self) -> u64 {
        let missing = self.wanted.saturating_sub(self.held);
        missing.saturating_add(self.wanted / 4).saturating_add(SLACK)
    }

    /// Fills it again as far as there is ample room.
    pub fn refill(&mut self) {
        let free = sqlite::free_bytes(self.path.parent().unwrap_or(&self.path)).unwrap_or(0);
        if !self.is_used() || free < self.room_needed() {
            return;
        }
        let filled = self.file().and_then(|file| {
            fallocate(&file, FallocateFlags::empty(), 0, self.wanted)?;
            file.sync_all()
        });
        match filled {
            Ok(()) => self.held = self.wanted,
            Err(error) => tracing::warn!(%error, file = %self.path.display(), "the reserve cannot be set aside"),
        }
    }

    fn set(&mut self, len: u64) -> bool {
        let cut = self.file().and_then(|file| {
            file.set_len(len)?;
            file.sync_all()
        });
        match cut {
            Ok(()) => {
                self.held = len;
                true
            }
            Err(error) => {
                tracing::warn!(%error, file = %self.path.display(), "the reserve cannot be given up");
                false
            }
        }
    }

    fn file(&self) -> std::io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).open(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_readings_leave_the_last_quarter_to_the_evidence() {
        let folder = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::open(folder.path(), 8 << 20);
        let held = || folder.path().join("reserve").metadata().unwrap().len();
        assert!(!reserve.is_used());
        assert_eq!(held(), 8 << 20);
        assert_eq!((0..).take_while(|_| reserve.give(false)).count(), 6);
        assert_eq!(held(), 2 << 20);
        assert_eq!((0..).take_while(|_| reserve.give(true)).count(), 2);
        assert_eq!(held(), 0);
        reserve.refill();
        assert_eq!(held(), 8 << 20);
    }
}
