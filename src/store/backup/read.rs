//! A backup is read, and every byte of it checked: nothing is believed before the seal at its end has been.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use zstd::stream::read::Decoder;

use super::{FORMAT, HEAD, Hashed, Head, MANIFEST, Manifest, PIECE, Progress, SEAL, SEALED, TOP, is_member};
use crate::model::{Digest, jcs, tar};

/// zstd: the first bytes of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What is made by this program asks for 2 MiB.
const WINDOW_LOG_MAX: u32 = 23;
/// A manifest of some ten thousand files.
const LONGEST: u64 = 32 << 20;

/// Why a backup is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadBackup {
    #[error("this is no backup of meterseal")]
    Other,
    #[error("this backup is of the format {0}, which this program does not know: install the newer meterseal")]
    Format(String),
    #[error("this backup is damaged in {member}: {what}")]
    Damaged { member: String, what: String },
    /// Nothing is known of what is in it.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("cannot write {name}")]
    Write { name: String, source: io::Error },
    #[error("stopped")]
    Stopped,
}

/// Reads all of a backup and keeps nothing. Blocking.
pub fn check(input: impl Read, progress: Progress<'_>) -> Result<Head, BadBackup> {
    unpack(input, None, |_| Ok(()), progress)
}

/// Reads a backup, and writes its files below `folder`; `begin` looks at its head before that.
pub fn unpack<E: From<BadBackup>>(
    input: impl Read,
    folder: Option<&Path>,
    begin: impl FnOnce(&Head) -> Result<(), E>,
    progress: Progress<'_>,
) -> Result<Head, E> {
    let mut sealed = Sealed { inner: input, hash: Sha256::new(), held: Vec::new(), ended: false };
    let start = sealed.peek().map_err(|error| unread("its beginning", error))?;
    if start != MAGIC {
        return Err(BadBackup::Other.into());
    }
    let buffered = BufReader::with_capacity(128 << 10, sealed);
    let decoder = Decoder::with_buffer(buffered).map_err(|error| unread("its beginning", error))?;
    let mut archive = Archive { decoder: decoder.single_frame(), place: HEAD.to_owned(), piece: vec![0; PIECE] };
    archive.decoder.window_log_max(WINDOW_LOG_MAX).map_err(|error| damaged("its beginning", &error))?;

    let mut found = Vec::new();
    let (name, bytes) = archive.member().map_err(|error| match error {
        BadBackup::Damaged { member, .. } if member == "its order" => BadBackup::Other,
        error => error,
    })?;
    if name != HEAD {
        return Err(BadBackup::Other.into());
    }
    let text = archive.text(&name, bytes)?;
    // Another format may have other members: its name comes first.
    let format = serde_json::from_slice::<serde_json::Value>(&text).ok();
    match format.as_ref().and_then(|head| head["format"].as_str()) {
        Some(FORMAT) => {}
        Some(other) => return Err(BadBackup::Format(other.to_owned()).into()),
        None => return Err(BadBackup::Other.into()),
    }
    let head: Head = canonical(&name, &text)?;
    found.push(Hashed { bytes, sha256: Digest::of(&text), name });
    begin(&head)?;

    let mut done = 0;
    let manifest: Manifest = loop {
        let (name, bytes) = archive.member()?;
        if name == MANIFEST {
            let text = archive.text(&name, bytes)?;
            break canonical(&name, &text)?;
        }
        if !is_member(&name) || found.iter().any(|known| known.name == name) {
            return Err(damaged(&name, &"it does not belong there").into());
        }
        let mut copied = |bytes| {
            done += bytes;
            progress(done, head.bytes)
        };
        let sha256 = archive.file(&name, bytes, folder, &mut copied)?;
        found.push(Hashed { bytes, name, sha256 });
    };
    archive.end()?;
    if manifest.format != FORMAT || manifest.files.len() != found.len() {
        return Err(damaged(MANIFEST, &"it lists other files than there are").into());
    }
    for (listed, found) in manifest.files.iter().zip(&found) {
        if listed != found {
            return Err(damaged(&found.name, &"size or SHA-256 are not those of the manifest").into());
        }
    }
    let (files, bytes) = (&found[1..], found[1..].iter().map(|file| file.bytes).sum::<u64>());
    if head.files != files.len() as u64
        || head.bytes != bytes
        || files.first().map(|file| &*file.name) != Some(super::evidence::FILE)
    {
        return Err(damaged(HEAD, &"it names other files than there are").into());
    }
    Ok(head)
}

/// What the input could not give is not damage.
fn unread(member: &str, error: io::Error) -> BadBackup {
    match error.downcast::<Unread>() {
        Ok(Unread(error)) => BadBackup::Read(error),
        Err(error) => damaged(member, &error),
    }
}

fn damaged(member: &str, what: &dyn std::fmt::Display) -> BadBackup {
    BadBackup::Damaged { member: member.to_owned(), what: what.to_string() }
}

/// JCS, with exactly the members that it has.
fn canonical<T: DeserializeOwned>(name: &str, text: &[u8]) -> Result<T, BadBackup> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| damaged(name, &error))?;
    if jcs::to_vec(&value).ok().as_deref() != Some(text) {
        return Err(damaged(name, &"it is not canonical JSON"));
    }
    serde_json::from_value(value).map_err(|error| damaged(name, &error))
}

struct Archive<R: Read> {
    decoder: Decoder<'static, BufReader<Sealed<R>>>,
    /// What is being read.
    place: String,
    piece: Vec<u8>,
}

impl<R: Read> Archive<R> {
    fn fill(&mut self, length: usize) -> Result<&mut [u8], BadBackup> {
        let place = &self.place;
        self.decoder.read_exact(&mut self.piece[..length]).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(place, &"it is cut off there"),
            _ => unread(place, error),
        })?;
        Ok(&mut self.piece[..length])
    }

    /// Name and size of the next member.
    fn member(&mut self) -> Result<(String, u64), BadBackup> {
        let mut header = [0; tar::HEADER];
        header.copy_from_slice(self.fill(tar::HEADER)?);
        let place = &self.place;
        let named = tar::path_and_bytes(&header).filter(|(path, bytes)| {
            // Written in the one way that we write it.
            tar::private_header(path, *bytes).is_some_and(|again| again == header)
        });
        let name = named.and_then(|(path, bytes)| Some((path.strip_prefix(TOP)?.strip_prefix('/')?.to_owned(), bytes)));
        let (name, bytes) = name.ok_or_else(|| damaged(place, &"what follows it is no header of a file"))?;
        self.place.clone_from(&name);
        Ok((name, bytes))
    }

    /// A short member.
    fn text(&mut self, name: &str, bytes: u64) -> Result<Vec<u8>, BadBackup> {
        if bytes > LONGEST {
            return Err(damaged(name, &"it is too long"));
        }
        let (mut text, mut left) = (Vec::new(), usize::try_from(bytes).unwrap_or(0));
        while left > 0 {
            let wanted = left.min(PIECE);
            text.extend_from_slice(self.fill(wanted)?);
            left -= wanted;
        }
        self.padding(bytes)?;
        Ok(text)
    }

    fn file(
        &mut self,
        name: &str,
        bytes: u64,
        folder: Option<&Path>,
        copied: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Digest, BadBackup> {
        let unwritten = |source| BadBackup::Write { name: name.to_owned(), source };
        let mut file = folder.map(|folder| create(&folder.join(name))).transpose().map_err(unwritten)?;
        let (mut left, mut hash) = (bytes, Sha256::new());
        while left > 0 {
            let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let piece = self.fill(wanted)?;
            hash.update(&*piece);
            if let Some(file) = &mut file {
                file.write_all(piece).map_err(unwritten)?;
            }
            left -= wanted as u64;
            if !copied(wanted as u64) {
                return Err(BadBackup::Stopped);
            }
        }
        if let Some(file) = file {
            file.sync_all().map_err(unwritten)?;
        }
        self.padding(bytes)?;
        Ok(Digest::from_bytes(hash.finalize().into()))
    }

    fn padding(&mut self, bytes: u64) -> Result<(), BadBackup> {
        let rest = usize::try_from(bytes.next_multiple_of(tar::HEADER as u64) - bytes).unwrap_or(0);
        let is_blank = self.fill(rest)?.iter().all(|byte| *byte == 0);
        if is_blank { Ok(()) } else { Err(damaged(&self.place, &"its padding is not blank")) }
    }

    /// Nothing comes after the archive, and the seal is that of all before it.
    fn end(mut self) -> Result<(), BadBackup> {
        self.place = "its end".to_owned();
        let is_blank = self.fill(2 * tar::HEADER)?.iter().all(|byte| *byte == 0);
        let more = self.decoder.read(&mut [0]).map_err(|error| unread("its end", error))?;
        let mut rest = self.decoder.finish();
        let behind = rest.read(&mut [0]).map_err(|error| unread("its end", error))?;
        if !is_blank || more + behind > 0 {
            return Err(damaged("its end", &"something follows the archive"));
        }
        let Sealed { hash, held, .. } = rest.into_inner();
        let wanted = [&SEAL[..], &hash.finalize()[..]].concat();
        if held == wanted { Ok(()) } else { Err(damaged("its end", &"the seal over all of it does not fit")) }
    }
}

/// A new file and the folders that it lies in, for the owner alone.
fn create(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// An error of the input itself, told from those of what unpacks it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unread(io::Error);

/// Holds the last bytes back, and hashes those before.
struct Sealed<R> {
    inner: R,
    hash: Sha256,
    held: Vec<u8>,
    ended: bool,
}

impl<R: Read> Sealed<R> {
    /// Reads until more is held than the seal.
    fn hold(&mut self) -> io::Result<()> {
        let mut piece = [0; 64 << 10];
        while self.held.len() <= SEALED && !self.ended {
            match self.inner.read(&mut piece) {
                Ok(0) => self.ended = true,
                Ok(read) => self.held.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::other(Unread(error))),
            }
        }
        Ok(())
    }

    /// The first bytes.
    fn peek(&mut self) -> io::Result<&[u8]> {
        self.hold()?;
        Ok(&self.held[..self.held.len().min(MAGIC.len())])
    }
}

impl<R: Read> Read for Sealed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.hold()?;
        let given = self.held.len().saturating_sub(SEALED).min(out.len());
        let piece = self.held.drain(..given);
        out[..given].copy_from_slice(piece.as_slice());
        drop(piece);
        self.hash.update(&out[..given]);
        Ok(given)
    }
}
