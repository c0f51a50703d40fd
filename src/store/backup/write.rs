//! A backup is written: an archive in one zstd frame, with checksum, and its seal.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::time::SystemTime;

use ed25519_dalek::SigningKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zstd::stream::write::Encoder;

use super::super::evidence;
use super::{
    FORMAT, HEAD, Hashed, Head, Inventory, MANIFEST, Manifest, Member, PIECE, Progress, SEAL, SEALED, TLS, TOP,
};
use crate::model::{Digest, jcs, tar};

/// Quick, and small enough: raw readings are packed already.
const LEVEL: i32 = 3;

/// Why a backup was not made, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot read {name} of the store")]
    Read { name: String, source: io::Error },
    /// Another program writes to the store.
    #[error("{name} changed while it was read: end whatever else writes to the store, and begin again")]
    Changed { name: String },
    #[error(
        "the private key is not where it is kept in evidence.db, so it cannot be left out: a backup without it is not made"
    )]
    NoKey,
    #[error("cannot write the backup")]
    Write(#[source] io::Error),
    #[error("stopped")]
    Stopped,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub head: Head,
    /// Of the backup.
    pub bytes: u64,
}

/// Writes the files of a store at `root` that holds still. Blocking.
pub fn write(
    root: &Path,
    inventory: &Inventory,
    with_key: bool,
    out: impl Write,
    progress: Progress<'_>,
) -> Result<Written, BackupError> {
    // A certificate without its key is of no use.
    let files: Vec<&Member> = inventory.files.iter().filter(|file| with_key || !file.name.starts_with(TLS)).collect();
    let head = Head {
        bytes: files.iter().map(|file| file.bytes).sum(),
        epoch: inventory.epoch.clone(),
        files: files.len() as u64,
        format: FORMAT.to_owned(),
        gateway: inventory.gateway.clone(),
        key: with_key && !inventory.signing.is_empty(),
        program: concat!("meterseal ", env!("CARGO_PKG_VERSION")).to_owned(),
        schema: inventory.schema,
        site: inventory.site.clone(),
        taken: inventory.taken,
    };
    let mut encoder =
        Encoder::new(Sealing { out, hash: Sha256::new(), bytes: 0 }, LEVEL).map_err(BackupError::Write)?;
    encoder.include_checksum(true).map_err(BackupError::Write)?;
    let mut hashed = Vec::new();
    hashed.push(whole(&mut encoder, HEAD, &json!(head))?);
    let (mut done, mut pieces) = (0, vec![0; PIECE]);
    for file in files {
        let blanked = (!with_key && file.name == evidence::FILE).then_some(inventory);
        let mut copied = |bytes| {
            done += bytes;
            progress(done, head.bytes)
        };
        hashed.push(copy(&mut encoder, root, file, blanked, &mut pieces, &mut copied)?);
    }
    let manifest = Manifest { files: hashed, format: FORMAT.to_owned() };
    whole(&mut encoder, MANIFEST, &json!(manifest))?;
    let bytes = end(encoder).map_err(BackupError::Write)?;
    Ok(Written { head, bytes })
}

/// Ends archive and frame, and seals them; how many bytes all that is.
fn end(mut encoder: Encoder<'_, Sealing<impl Write>>) -> io::Result<u64> {
    encoder.write_all(&[0; 2 * tar::HEADER])?;
    let Sealing { mut out, hash, bytes } = encoder.finish()?;
    out.write_all(&SEAL)?;
    out.write_all(&hash.finalize())?;
    out.flush()?;
    Ok(bytes + SEALED as u64)
}

/// A member that is made here.
fn whole(out: &mut impl Write, name: &str, value: &serde_json::Value) -> Result<Hashed, BackupError> {
    let text = jcs::to_vec(value).map_err(|error| BackupError::Write(io::Error::other(error)))?;
    let bytes = text.len() as u64;
    begin(out, name, bytes)?;
    out.write_all(&text).and_then(|()| pad(out, bytes)).map_err(BackupError::Write)?;
    Ok(Hashed { bytes, name: name.to_owned(), sha256: Digest::of(&text) })
}

fn begin(out: &mut impl Write, name: &str, bytes: u64) -> Result<(), BackupError> {
    let header = tar::private_header(&format!("{TOP}/{name}"), bytes);
    let header = header.ok_or_else(|| io::Error::other(format!("the name {name} is too long for an archive")));
    header.and_then(|header| out.write_all(&header)).map_err(BackupError::Write)
}

fn pad(out: &mut impl Write, bytes: u64) -> io::Result<()> {
    let rest = usize::try_from(bytes.next_multiple_of(tar::HEADER as u64) - bytes).unwrap_or(0);
    out.write_all(&[0; tar::HEADER][..rest])
}

/// Copies a file of the store; the private keys of `blanked` are zeros in the copy.
fn copy(
    out: &mut impl Write,
    root: &Path,
    member: &Member,
    blanked: Option<&Inventory>,
    piece: &mut [u8],
    copied: &mut dyn FnMut(u64) -> bool,
) -> Result<Hashed, BackupError> {
    let name = member.name.clone();
    let failed = |source| BackupError::Read { name: name.clone(), source };
    let mut file = File::open(root.join(&name)).map_err(failed)?;
    let before = last_write(&file).map_err(failed)?;
    begin(out, &name, member.bytes)?;
    let (mut left, mut hash, mut found) = (member.bytes, Sha256::new(), Vec::new());
    while left > 0 {
        let wanted = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        let piece = &mut piece[..wanted];
        match file.read_exact(piece) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(BackupError::Changed { name }),
            read => read.map_err(failed)?,
        }
        if let Some(inventory) = blanked {
            found.extend(blank(piece, &inventory.keys));
        }
        hash.update(&*piece);
        out.write_all(piece).map_err(BackupError::Write)?;
        left -= wanted as u64;
        if !copied(wanted as u64) {
            return Err(BackupError::Stopped);
        }
    }
    if last_write(&file).map_err(failed)? != before || before.0 != member.bytes {
        return Err(BackupError::Changed { name });
    }
    // Those of former epochs may be gone from the file.
    if blanked.is_some_and(|inventory| !inventory.signing.iter().all(|key| found.contains(key))) {
        return Err(BackupError::NoKey);
    }
    pad(out, member.bytes).map_err(BackupError::Write)?;
    Ok(Hashed { bytes: member.bytes, name, sha256: Digest::from_bytes(hash.finalize().into()) })
}

fn last_write(file: &File) -> io::Result<(u64, SystemTime)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified()?))
}

/// Makes zeros of the private keys in whole pages of `evidence.db`; the public ones of those. A row of `keys` is the public key and the private
/// one behind it, also where it was deleted; a row of that size lies in one page. No other bytes are touched: what makes
/// no such pair stays.
fn blank(pages: &mut [u8], keys: &[Digest]) -> Vec<Digest> {
    let mut begins = [false; 256];
    keys.iter().for_each(|key| begins[usize::from(key.as_bytes()[0])] = true);
    let mut found = Vec::new();
    for at in 0..pages.len().saturating_sub(63) {
        if !begins[usize::from(pages[at])] {
            continue;
        }
        let (public, rest) = pages[at..].split_at_mut(32);
        let Some(private) = rest.first_chunk_mut::<32>() else { continue };
        let Some(key) = keys.iter().find(|key| key.as_bytes()[..] == *public) else { continue };
        if SigningKey::from_bytes(private).verifying_key().as_bytes() == key.as_bytes() {
            *private = [0; 32];
            found.push(*key);
        }
    }
    found
}

/// Hashes what goes through it.
struct Sealing<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
