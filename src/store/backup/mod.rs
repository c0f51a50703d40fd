//! Backups (docs/backup.md): a store that holds still is written as one file, and a store is made of such a file again.
//!
//! What is restored goes on in a new epoch of the log: the mark of that lies in the restored `evidence.db` itself, before
//! anybody can open it.

mod read;
mod restore;
mod still;
mod write;

use std::path::Path;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{StoreError, evidence, ledger, raw};
use crate::model::{Digest, JobId, SiteId, Timestamp};
pub use read::{BadBackup, check};
pub use restore::{RestoreError, Restored, restore};
pub(super) use restore::{finish, is_committed, replaced, version_of_committed};
pub(super) use still::{Answer, Frozen, hold};
pub use still::{AtRest, Still};
pub use write::{BackupError, Written, write};

const FORMAT: &str = "meterseal-backup-1";
/// The folder of the archive that all members lie in.
const TOP: &str = "meterseal-backup";
const HEAD: &str = "head.json";
const MANIFEST: &str = "manifest.json";
/// The zstd frame that a reader passes over ends the file: the SHA-256 of all before it.
const SEAL: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 32, 0, 0, 0];
const SEALED: usize = SEAL.len() + 32;
/// Bytes that are moved at once: whole pages of SQLite.
const PIECE: usize = 1 << 20;
const TLS: &str = "tls";
const BUNDLES: &str = "artifacts";

/// What there is to back up while a store holds still. No secret is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub site: SiteId,
    pub gateway: String,
    pub epoch: String,
    pub taken: Timestamp,
    /// Version of `evidence.db`.
    pub schema: u32,
    /// The public keys whose private ones are there: the one that signs, unless a restore left it out.
    pub signing: Vec<Digest>,
    /// The public keys of all epochs.
    pub keys: Vec<Digest>,
    pub files: Vec<Member>,
}

/// A file, by its path below the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub bytes: u64,
    pub name: String,
}

/// The first member of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Of all files of the store that follow.
    pub bytes: u64,
    pub epoch: String,
    pub files: u64,
    pub format: String,
    pub gateway: String,
    /// Whether the private keys are in it.
    pub key: bool,
    pub program: String,
    /// Version of `evidence.db`.
    pub schema: u32,
    pub site: SiteId,
    pub taken: Timestamp,
}

/// The last member: all others.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    files: Vec<Hashed>,
    format: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hashed {
    bytes: u64,
    name: String,
    sha256: Digest,
}

/// How far it is, in bytes of the store's files; false stops it.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// What lies in the state of a store that was restored, until its log has begun anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoredFrom {
    pub taken: Timestamp,
    pub restored: Timestamp,
}

const RESTORED: &str = "store.restored";

/// The mark of a restored store whose log has not begun anew yet. One that cannot be read is none that is not there:
/// without a new epoch the log would be signed on beside what others have seen of it.
pub(super) fn restored_from(connection: &Connection) -> rusqlite::Result<Option<RestoredFrom>> {
    let kept = ledger::state(connection, RESTORED)?.map(serde_json::from_value).transpose();
    kept.map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into()))
}

fn mark_restored(connection: &Connection, from: &RestoredFrom) -> rusqlite::Result<()> {
    let text = serde_json::to_string(from).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.execute("INSERT OR REPLACE INTO state VALUES (?1, ?2)", params![RESTORED, text]).map(|_| ())
}

/// Part of the transaction in which the log begins anew.
pub(super) fn forget_restored(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM state WHERE name = ?1", [RESTORED]).map(|_| ())
}

/// A file of a store that belongs into a backup, or can lie in one, by its path.
fn is_member(name: &str) -> bool {
    let plain = |name: &str| {
        !name.starts_with('.')
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte))
    };
    match name.split('/').collect::<Vec<_>>()[..] {
        [file] => file == evidence::FILE,
        [raw::FOLDER, file] => {
            file.strip_suffix(".db").is_some_and(|seq| seq.len() == 20 && seq.parse::<u64>().is_ok())
        }
        [TLS, file] => plain(file),
        [BUNDLES, id, file] => id.parse::<JobId>().is_ok() && plain(file),
        _ => false,
    }
}

/// What `evidence.db` says of its log: the public keys of all epochs, and those whose private ones are there.
fn keys(connection: &Connection) -> rusqlite::Result<(Vec<Digest>, Vec<Digest>)> {
    let begun = connection.query_row("SELECT 1 FROM sqlite_schema WHERE name = 'epochs'", [], |_| Ok(())).optional()?;
    let sql = match begun {
        Some(()) => "SELECT public FROM epochs UNION SELECT public FROM keys",
        None => "SELECT public FROM keys",
    };
    let all = |sql| -> rusqlite::Result<Vec<Digest>> {
        let mut statement = connection.prepare(sql)?;
        statement.query_map([], |row| Ok(Digest::from_bytes(row.get(0)?)))?.collect()
    };
    Ok((all(sql)?, all("SELECT public FROM keys WHERE private <> zeroblob(32)")?))
}

/// The files of a folder whose names a backup takes.
fn list(root: &Path, folder: &str, files: &mut Vec<Member>) -> Result<(), StoreError> {
    let path = root.join(folder);
    let entries = match path.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| StoreError::of_io(&path, error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::of_io(&path, error))?;
        let Ok(file) = entry.file_name().into_string() else { continue };
        let (name, metadata) = (format!("{folder}/{file}"), entry.metadata());
        let metadata = metadata.map_err(|error| StoreError::of_io(&entry.path(), error))?;
        if metadata.is_file() && is_member(&name) && !file.ends_with(".new") {
            found.push(Member { bytes: metadata.len(), name });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    files.extend(found);
    Ok(())
}
