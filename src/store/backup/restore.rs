//! A store is made of a backup. All of it is unpacked and checked in a folder inside the store's, since that may be the root of a
//! disk, or one that only its owner may write beside. That folder gets the name [`COMMITTED`] by one rename: before it
//! nothing was touched, and after it whoever opens the store first moves what was there aside and the new files in, as
//! often as that is interrupted.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::super::evidence::{self, flush_folder};
use super::super::lock::Lock;
use super::super::owner::Owner;
use super::super::{StoreError, raw, sqlite};
use super::read::unpack;
use super::{BUNDLES, BadBackup, Head, Progress, RestoredFrom, TLS, mark_restored};
use crate::model::Timestamp;

const MAKING: &str = "restoring.part";
const COMMITTED: &str = "restoring";
const PLAN: &str = "plan.json";
const ASIDE: &str = "replaced-";

/// What a store is made of, and what SQLite may have left beside it. The last of [`ARRIVING`] decides: while it has not
/// arrived, all of [`OLD`] that is there is of the former store, but for what has arrived.
const ARRIVING: [&str; 4] = [raw::FOLDER, BUNDLES, TLS, evidence::FILE];
const OLD: [&str; 7] =
    ["evidence.db-wal", "evidence.db-shm", "evidence.db-journal", evidence::FILE, raw::FOLDER, BUNDLES, TLS];

/// More than the files need: room to open the store.
const MARGIN: u64 = 16 << 20;

/// Why nothing was restored, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Backup(#[from] BadBackup),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not overwritten.
    #[error("there is already a store at {path}")]
    Exists { path: PathBuf },
    #[error("the backup needs {} MB at {path}, where {} MB are free", needed.div_ceil(1_000_000), free / 1_000_000)]
    Room { path: PathBuf, needed: u64, free: u64 },
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    pub head: Head,
    /// Where the former store lies now.
    pub aside: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Plan {
    /// The folder for what was there before.
    aside: Option<String>,
}

/// Makes the store at `root` of a backup. Blocking. A store that is there is set aside, if `replace` says so.
pub fn restore(
    root: &Path,
    input: impl Read,
    replace: bool,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Restored, RestoreError> {
    let of_root = |error| StoreError::of_io(root, error);
    if !root.is_dir() {
        let there = root.ancestors().skip(1).find(|folder| folder.is_dir());
        DirBuilder::new().recursive(true).mode(0o750).create(root).map_err(of_root)?;
        // A power cut takes away none of the names on the way to what was restored.
        for folder in root.ancestors().skip(1) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            flush_folder(folder)?;
            if there == Some(folder) {
                break;
            }
        }
    }
    let owner = Owner::of(root).map_err(of_root)?;
    // One that is open is told from one that is there.
    let _lock = Lock::take(root, None)?;
    owner.give(&root.join("lock")).map_err(of_root)?;
    finish(root)?;
    let making = root.join(MAKING);
    let is_there = OLD.iter().any(|name| *name != TLS && holds_something(&root.join(name)));
    if is_there && !replace {
        return Err(RestoreError::Exists { path: root.to_owned() });
    }
    let begin = |head: &Head| {
        if head.schema > evidence::VERSION {
            let (file, version) = (PathBuf::from(evidence::FILE), head.schema);
            return Err(StoreError::Newer { file, version, known: evidence::VERSION }.into());
        }
        let (needed, free) = (head.bytes.saturating_add(MARGIN), sqlite::free_bytes(root).unwrap_or(u64::MAX));
        if free < needed {
            return Err(RestoreError::Room { path: root.to_owned(), needed, free });
        }
        DirBuilder::new().mode(0o750).create(&making).map_err(|error| StoreError::of_io(&making, error).into())
    };
    let unpacked = unpack::<RestoreError>(input, Some(&making), begin, progress);
    let committed = unpacked.and_then(|head| Ok((commit(root, &making, &head, &owner, now)?, head)));
    let (aside, head) = match committed {
        Ok(committed) => committed,
        Err(error) => {
            // What is told is why.
            remove(&making).ok();
            return Err(error);
        }
    };
    finish(root)?;
    Ok(Restored { head, aside: aside.map(|name| root.join(name)) })
}

/// Marks the unpacked store as restored, and has it be the store from here on; the folder for the former one.
fn commit(
    root: &Path,
    making: &Path,
    head: &Head,
    owner: &Owner,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    // Also without content: what comes takes the place of what is there.
    for name in [raw::FOLDER, BUNDLES] {
        let folder = making.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&folder)
            .map_err(|error| StoreError::of_io(&folder, error))?;
    }
    for (_, path) in raw::list(&making.join(raw::FOLDER))? {
        raw::version(&path)?;
    }
    prepare(making, &RestoredFrom { taken: head.taken, restored: now })?;
    let goes = |name: &&str| holds_something(&root.join(name)) && (**name != *TLS || making.join(TLS).exists());
    let aside = OLD.iter().any(goes).then(|| aside(root, now));
    let plan = making.join(PLAN);
    let text = serde_json::to_vec(&Plan { aside: aside.clone() }).unwrap_or_default();
    fs::write(&plan, text).map_err(|error| StoreError::of_io(&plan, error))?;
    owner.give_all(making).and_then(|()| flush_all(making)).map_err(|error| StoreError::of_io(making, error))?;
    fs::rename(making, root.join(COMMITTED)).map_err(|error| StoreError::of_io(root, error))?;
    flush_folder(root)?;
    Ok(aside)
}

/// Before anybody can open it: the log begins anew at the next start, seqs go on beyond all that may have been given out
/// since the backup, and exports that were under way begin again, since their parts are not in it.
fn prepare(folder: &Path, from: &RestoredFrom) -> Result<(), StoreError> {
    let path = folder.join(evidence::FILE);
    evidence::version(folder)?;
    let connection = sqlite::open(&path)?;
    sqlite::check(&connection, &path)?;
    let mark = |connection: &Connection| -> rusqlite::Result<()> {
        let transaction = connection.unchecked_transaction()?;
        mark_restored(&transaction, from)?;
        transaction.execute("DELETE FROM meta WHERE name = 'clean_seq'", [])?;
        let jobs = "SELECT count(*) FROM sqlite_schema WHERE name = 'jobs'";
        if transaction.query_row(jobs, [], |row| row.get::<_, i64>(0))? > 0 {
            transaction.execute(
                "UPDATE jobs SET state = 'queued', started = NULL, rows = 0, bytes = 0, position = NULL, resume = NULL,
                 stored = 0 WHERE ended IS NULL",
                [],
            )?;
        }
        transaction.commit()
    };
    mark(&connection).and_then(|()| sqlite::finish(connection)).map_err(|error| sqlite::fault(&path, error))
}

/// A name that nothing bears.
/// The folders of former stores.
pub fn replaced(root: &Path) -> Vec<String> {
    let names =
        root.read_dir().into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<_> = names.filter(|name| name.starts_with(ASIDE)).collect();
    found.sort();
    found
}

fn aside(root: &Path, now: Timestamp) -> String {
    let time: String = now.to_string().chars().filter(char::is_ascii_alphanumeric).take(15).collect();
    let mut name = format!("{ASIDE}{time}Z");
    for more in 2.. {
        if !root.join(&name).exists() {
            break;
        }
        name = format!("{ASIDE}{time}Z-{more}");
    }
    name
}

/// A restored store waits to be moved in.
pub fn is_committed(root: &Path) -> bool {
    root.join(COMMITTED).join(evidence::FILE).exists()
}

/// Version of the `evidence.db` that waits to be moved in.
pub fn version_of_committed(root: &Path) -> Result<u32, StoreError> {
    evidence::version(&root.join(COMMITTED))
}

/// Moves a restored store in, if one waits: to be called under the lock, before anything else is opened.
pub fn finish(root: &Path) -> Result<(), StoreError> {
    let waiting = root.join(COMMITTED);
    let of_io = |error| StoreError::of_io(root, error);
    // What cannot be looked at has not arrived: it would be deleted below.
    let has_arrived = |name: &str| match waiting.join(name).try_exists() {
        Ok(waits) => Ok(!waits),
        Err(error) => Err(StoreError::of_io(&waiting.join(name), error)),
    };
    // Of a restore that was cut off before it decided anything. There may be a private key in it.
    remove(&root.join(MAKING))?;
    if !waiting.try_exists().map_err(of_io)? {
        return Ok(());
    }
    if !has_arrived(evidence::FILE)? {
        let owner = Owner::of(root).map_err(of_io)?;
        let plan = waiting.join(PLAN);
        let text = fs::read(&plan).map_err(|error| StoreError::of_io(&plan, error))?;
        let plan: Plan = serde_json::from_slice(&text)
            .map_err(|error| StoreError::Damaged { file: plan, what: error.to_string() })?;
        // What the backup does not bring, the certificate, stays as it is; so does what has arrived.
        for name in OLD {
            let from = root.join(name);
            let goes = !ARRIVING.contains(&name) || !has_arrived(name)?;
            if !goes || from.symlink_metadata().is_err() {
                continue;
            }
            match &plan.aside {
                Some(aside) => {
                    let folder = root.join(aside);
                    if !folder.is_dir() {
                        DirBuilder::new().mode(0o750).create(&folder).map_err(of_io)?;
                        owner.give(&folder).map_err(of_io)?;
                    }
                    fs::rename(&from, folder.join(name)).map_err(of_io)?;
                    flush_folder(&folder)?;
                }
                // Empty folders.
                None => remove(&from)?,
            }
        }
        flush_folder(root)?;
        for name in ARRIVING {
            if has_arrived(name)? {
                continue;
            }
            fs::rename(waiting.join(name), root.join(name)).map_err(of_io)?;
            flush_folder(root)?;
        }
    }
    remove(&waiting)?;
    flush_folder(root)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Ok(file) if file.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    removed.map_err(|error| StoreError::of_io(path, error))
}

fn holds_something(path: &Path) -> bool {
    match path.read_dir() {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.symlink_metadata().is_ok(),
    }
}

/// Has files and names of a folder be durable.
fn flush_all(folder: &Path) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() { flush_all(&path)? } else { File::open(&path)?.sync_all()? }
    }
    File::open(folder)?.sync_all()
}
