//! The mark: the newest checkpoint that this gateway has signed, kept outside of the store. A store that went back in
//! time does not know what the mark knows.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::model::note::SignedCheckpoint;
use crate::store::hand_over;

/// A note with two signatures is far shorter.
const LONGEST: u64 = 4_096;

/// The file that holds it.
#[derive(Clone, Debug)]
pub struct Mark {
    path: PathBuf,
}

impl Mark {
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; `None` when there is none yet.
    pub fn read(&self) -> io::Result<Option<SignedCheckpoint>> {
        match fs::metadata(&self.path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error),
            Ok(file) if file.len() > LONGEST => return Err(io::Error::other("it is too long for a checkpoint")),
            Ok(_) => {}
        }
        fs::read_to_string(&self.path)?.parse().map(Some).map_err(io::Error::other)
    }

    /// Puts a file that is no mark aside, so that what it may show is not overwritten.
    pub fn put_aside(&self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".unread");
        fs::rename(&self.path, aside)
    }

    /// Replaces it. It holds no secret, and whoever adds to the store must be able to read it. Durable when this returns, and whole at any time.
    pub fn write(&self, checkpoint: &SignedCheckpoint) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
        file.write_all(checkpoint.note().as_bytes())?;
        file.sync_all()?;
        hand_over(new.as_ref(), folder);
        fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::model::Digest;
    use crate::model::note::Checkpoint;

    #[test]
    fn it_reads_back_what_was_written_last() {
        let folder = tempfile::tempdir().unwrap();
        let mark = Mark::at(folder.path().join("mark"));
        assert_eq!(mark.read().unwrap(), None);
        for size in [1, 200] {
            let checkpoint = Checkpoint { origin: "a/b/c".to_owned(), size, root: Digest::of(b"") };
            let signed = SignedCheckpoint::sign(checkpoint, &[("a/b/c", &SigningKey::from_bytes(&[1; 32]))]);
            mark.write(&signed).unwrap();
            assert_eq!(mark.read().unwrap(), Some(signed));
        }
        fs::write(mark.path(), "a/b/c\n").unwrap();
        assert!(mark.read().is_err());
        fs::write(mark.path(), "a".repeat(10_000)).unwrap();
        assert!(mark.read().is_err());
    }
}
