//! How every SQLite file of the store is opened, and what its errors mean here.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StoreError;

/// Stands in the header of each of our files: "MSEL".
pub const APPLICATION_ID: i32 = 0x4d53_454c;

/// The write-ahead log is copied into the file once it has this many pages of 4 KiB.
const CHECKPOINT_PAGES: u32 = 1_000;
/// It is overwritten in place, not cut, up to this size: growing a file costs the file system's journal each time.
const WAL_BYTES: u32 = 16 << 20;

/// Opens for writing: WAL and a flush to the device at every commit.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    let fault = |error| fault(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    connection
        .execute_batch(&format!(
            "PRAGMA busy_timeout = 10000; PRAGMA cache_size = -1024; PRAGMA mmap_size = 0;
             PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
             PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA journal_size_limit = {WAL_BYTES}; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
        ))
        .map_err(fault)?;
    Ok(connection)
}

/// Opens for reading only.
pub fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let fault = |error| fault(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    connection
        .execute_batch(
            "PRAGMA busy_timeout = 10000; PRAGMA cache_size = -512; PRAGMA mmap_size = 0;
             PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
        )
        .map_err(fault)?;
    Ok(connection)
}

/// Makes a new file of version `version` under a name that no reader looks for; the caller fills it, and then has it
/// [finished](finish) and renamed.
pub fn create(path: &Path, version: u32, schema: &str) -> Result<Connection, StoreError> {
    let fault = |error| fault(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;
             BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}; {schema} COMMIT;"
        ))
        .map_err(fault)?;
    Ok(connection)
}

/// Closes a new file. Nothing of it lies in a log after that, so a rename is all that is left to do.
pub fn finish(connection: Connection) -> rusqlite::Result<()> {
    settle(&connection)?;
    connection.close().map_err(|(_, error)| error)
}

/// Rolls back what a power cut left half-changed while the file's journal mode was turned: a reader cannot.
pub fn recover(path: &Path) -> Result<(), StoreError> {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    if Path::new(&journal).exists() {
        hold(path)?;
    }
    Ok(())
}

/// Opened to write, and not written to. Whoever closes a file last takes away what SQLite keeps beside it, which one who
/// only reads makes and cannot take away.
pub fn hold(path: &Path) -> Result<Connection, StoreError> {
    let fault = |error| fault(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(fault)?;
    Ok(connection)
}

/// The file's version by its header, read without SQLite, so that a file of a newer version is not touched at all.
pub fn version(path: &Path, known: u32) -> Result<u32, StoreError> {
    let mut header = [0; 100];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    if let Err(source) = read {
        return Err(match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                StoreError::Damaged { file: path.to_owned(), what: "it is cut off".to_owned() }
            }
            _ => StoreError::of_io(path, source),
        });
    }
    // SQLite's file format, section 1.3: user version at offset 60, application id at 68, both big-endian.
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if !header.starts_with(b"SQLite format 3\0") || word(68) != APPLICATION_ID.cast_unsigned() {
        return Err(StoreError::Damaged { file: path.to_owned(), what: "it is no file of meterseal".to_owned() });
    }
    let version = word(60);
    if version > known {
        return Err(StoreError::Newer { file: path.to_owned(), version, known });
    }
    Ok(version)
}

/// Has a file hold still as long as the connection lives; `None` while a reader is in the way of that. Whoever calls keeps
/// writers out meanwhile. The write-ahead log is copied into the file as far as readers allow; when all of it is, a reader that
/// begins takes the file alone, and no checkpoint writes to it until that one has gone (SQLite's "WAL-mode file format",
/// WAL_READ_LOCK(0)).
pub fn still(path: &Path) -> Result<Option<Connection>, StoreError> {
    let connection = open(path)?;
    let hold = || -> rusqlite::Result<bool> {
        let (busy, log, copied): (i64, i64, i64) =
            connection
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if busy != 0 || log != copied {
            return Ok(false);
        }
        connection.execute_batch("PRAGMA query_only = ON; BEGIN")?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(true))
    };
    let holds = hold().map_err(|error| fault(path, error))?;
    Ok(holds.then_some(connection))
}

/// What an error of SQLite means to the caller.
pub fn fault(path: &Path, error: rusqlite::Error) -> StoreError {
    let what = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path: path.to_owned() },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { file: path.to_owned(), what }
        }
        // Growing the shared index of the log, or a flush, says "I/O error" when it means that there is no room.
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if no_room(path) => {
            StoreError::Full { path: path.to_owned() }
        }
        _ => StoreError::Unwritable { path: path.to_owned(), what },
    }
}

fn no_room(path: &Path) -> bool {
    free_bytes(path.parent().unwrap_or(path)).is_some_and(|free| free < 256 << 10)
}

/// What the file system at `path` has free for this user.
pub fn free_bytes(path: &Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|space| space.f_bavail * space.f_frsize)
}

/// A quick look for damage through the whole file.
pub fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let word: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| fault(path, error))?;
    if word == "ok" { Ok(()) } else { Err(StoreError::Damaged { file: path.to_owned(), what: word }) }
}

/// Empties the write-ahead log into the file.
pub fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
