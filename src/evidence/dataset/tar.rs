//! A finished bundle as an archive that never lies on the disk: its length, and the bytes of any stretch of it.
//!
//! Every header is fixed but for name and size, so that a bundle has one archive and a download can go on at any byte.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::manifest::{self, Manifest};
pub use crate::model::tar::{HEADER, has_its_checksum, header};

const BLOCK: u64 = HEADER as u64;
/// Two blocks of NUL.
const END: u64 = 2 * BLOCK;

/// The archive of a bundle.
#[derive(Clone, Debug)]
pub struct Archive {
    folder: PathBuf,
    id: String,
    members: Vec<Member>,
    length: u64,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    bytes: u64,
    /// Where its header begins.
    at: u64,
}

impl Archive {
    /// That of the finished bundle in `folder`.
    pub fn of(folder: &Path, manifest: &Manifest) -> io::Result<Self> {
        let id = manifest.id.to_string();
        let manifest_bytes = folder.join(manifest::FILE).metadata()?.len();
        let files = [(manifest::FILE, manifest_bytes)].into_iter();
        let files = files.chain(manifest.parts.iter().map(|part| (part.name.as_str(), part.bytes)));
        let (mut members, mut at) = (Vec::new(), 0);
        for (name, bytes) in files {
            if header(&id, name, bytes).is_none() {
                return Err(io::Error::other(format!("{name} of {bytes} bytes is too long for an archive")));
            }
            members.push(Member { name: name.to_owned(), bytes, at });
            at += BLOCK + bytes.next_multiple_of(BLOCK);
        }
        Ok(Self { folder: folder.to_owned(), id, members, length: at + END })
    }

    /// Bytes of the whole archive.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` with the bytes from `at` on; fewer only where the archive ends. Blocking: not for async threads.
    pub fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let buffer = &mut buffer[..wanted];
        // All that is not said below is padding.
        buffer.fill(0);
        let end = at + wanted as u64;
        let first = self.members.partition_point(|member| member.at <= at).saturating_sub(1);
        for member in self.members[first..].iter().take_while(|member| member.at < end) {
            let content = member.at + BLOCK;
            if let Some((from, into)) = shared(at, buffer, member.at, BLOCK) {
                let header = header(&self.id, &member.name, member.bytes).unwrap_or([0; HEADER]);
                let from = usize::try_from(from).unwrap_or(HEADER);
                into.copy_from_slice(&header[from..from + into.len()]);
            }
            if let Some((from, into)) = shared(at, buffer, content, member.bytes) {
                let path = self.folder.join(&member.name);
                let read = File::open(&path).and_then(|file| file.read_exact_at(into, from));
                read.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            }
        }
        Ok(wanted)
    }
}

/// What `buffer`, which stands for the archive from `at` on, shares with the `bytes` from `start` on: how far into them,
/// and the piece of the buffer.
fn shared(at: u64, buffer: &mut [u8], start: u64, bytes: u64) -> Option<(u64, &mut [u8])> {
    let (from, to) = (at.max(start), (at + buffer.len() as u64).min(start + bytes));
    if from >= to {
        return None;
    }
    let within = |place: u64| usize::try_from(place).ok();
    // How far may be more than 32 bits hold, and is for a file; the piece lies in memory.
    Some((from - start, &mut buffer[within(from - at)?..within(to - at)?]))
}
