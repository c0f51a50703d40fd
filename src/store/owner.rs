//! Whom the files of a store belong to. Root may run any command on a store: what it makes must stay of use to the user
//! that the service runs as.

use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use rustix::process::geteuid;

/// The user and the group of a store's folder.
pub struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    pub fn of(root: &Path) -> io::Result<Self> {
        let root = root.metadata()?;
        Ok(Self { uid: root.uid(), gid: root.gid() })
    }

    /// Gives a file away that root made; nobody else can.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        let file = path.symlink_metadata()?;
        if (file.uid(), file.gid()) == (self.uid, self.gid) || !geteuid().is_root() {
            return Ok(());
        }
        lchown(path, Some(self.uid), Some(self.gid))
    }

    /// The same of a folder and all that is in it.
    pub fn give_all(&self, path: &Path) -> io::Result<()> {
        if path.symlink_metadata()?.is_dir() {
            path.read_dir()?.try_for_each(|entry| self.give_all(&entry?.path()))?;
        }
        self.give(path)
    }
}

/// Gives `made`, and all that is in it, to whom `folder` belongs: for the end of what root did there.
pub fn hand_over(made: &Path, folder: &Path) {
    if !geteuid().is_root() {
        return;
    }
    if let Err(error) = Owner::of(folder).and_then(|owner| owner.give_all(made)) {
        tracing::warn!(path = %made.display(), %error, "what root made here may be of no use to the service");
    }
}
