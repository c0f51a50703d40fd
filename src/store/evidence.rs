//! `evidence.db`: what is small and precious. Its schema, its making, and the marks by which the store knows itself.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Created, FirstToken, Identity, StoreError, access, anchors, backup, events, jobs, log, objects, owner, sqlite,
    upstream,
};
use crate::clock::Clock;
use crate::model::note::VerifierKey;
use crate::model::{Digest, Redate, SiteId};

pub const FILE: &str = "evidence.db";
const MAKING: &str = "evidence.db.new";
pub const VERSION: u32 = 8;

/// Seqs are handed out below a ceiling that lies here before any of them is used: a number is never used again,
/// whatever becomes of the raw files.
const SEQ_STEP: u64 = 1 << 20;

/// Of version 1. A new store is brought up from it by the same steps as an old one.
const SCHEMA: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE keys (public BLOB PRIMARY KEY, private BLOB NOT NULL, created INTEGER NOT NULL) STRICT;
    CREATE TABLE tokens (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, scope TEXT NOT NULL, sha256 BLOB NOT NULL UNIQUE,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE meters (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    -- A meter's blocks lie together: a month of it is a few hundred neighbouring pages, also on slow flash.
    CREATE TABLE blocks (
        meter INTEGER NOT NULL, start INTEGER NOT NULL, revision INTEGER NOT NULL, end INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        nominal_ms INTEGER NOT NULL, category TEXT NOT NULL,
        import INTEGER, export INTEGER, max_power INTEGER, min_power INTEGER,
        covered_ms INTEGER NOT NULL, coverage INTEGER NOT NULL, method TEXT NOT NULL, peak INTEGER NOT NULL,
        flags INTEGER NOT NULL, readings_sha256 BLOB NOT NULL, through_seq INTEGER NOT NULL,
        borders BLOB NOT NULL, zone TEXT NOT NULL, interval_ms INTEGER NOT NULL,
        template BLOB, sealed INTEGER NOT NULL,
        PRIMARY KEY (meter, start, revision)
    ) STRICT, WITHOUT ROWID;
    -- The few records of a long silence begin far before what they cover, and are looked for apart.
    CREATE INDEX long_blocks ON blocks (meter, end) WHERE end - start > 7200000;
    CREATE TABLE sealed_through (meter INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;
    CREATE TABLE redates (
        id INTEGER PRIMARY KEY, boot TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
        offset_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE alerts (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, meter TEXT NOT NULL, occasion INTEGER NOT NULL,
        raised INTEGER NOT NULL, cleared INTEGER, text TEXT NOT NULL, delivered INTEGER,
        UNIQUE (kind, meter, occasion)
    ) STRICT;
    CREATE INDEX open_alerts ON alerts (id) WHERE cleared IS NULL;
    CREATE TABLE config (id INTEGER PRIMARY KEY CHECK (id = 1), text TEXT NOT NULL, saved INTEGER NOT NULL) STRICT;
";

/// Steps from each version to the next; step 0 leads from version 1 to 2.
const MIGRATIONS: [&str; VERSION as usize - 1] = [
    "
    -- Rows are only ever added. `record` is canonical JSON (JCS).
    CREATE TABLE commissionings (
        id INTEGER PRIMARY KEY, meter INTEGER NOT NULL, since INTEGER NOT NULL, record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX commissionings_of_meter ON commissionings (meter, id);
",
    log::SCHEMA,
    jobs::SCHEMA,
    anchors::SCHEMA,
    upstream::SCHEMA,
    objects::SCHEMA,
    access::SCHEMA,
];

/// All tables of a version, as a store of that time had them.
#[cfg(test)]
pub fn schema(version: u32) -> String {
    let steps = usize::try_from(version).unwrap() - 1;
    [SCHEMA].iter().chain(&MIGRATIONS[..steps]).copied().collect()
}

/// The connection that writes `evidence.db`.
pub struct Evidence {
    pub connection: Connection,
    pub path: PathBuf,
    /// Of the file that is open.
    place: Place,
}

/// What a file is, under whatever name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place {
    device: u64,
    inode: u64,
}

impl Place {
    pub fn of(file: &std::fs::Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino() }
    }

    /// The same file, though its disk may have come back as another device.
    pub fn is_again(self, other: Self) -> bool {
        self.inode == other.inode
    }
}

/// What lies under this name now.
pub fn place(path: &Path) -> Option<Place> {
    path.metadata().ok().map(|file| Place::of(&file))
}

/// Whether a store is there to be opened. One that this user may not see is not missing; one that was restored, and waits to
/// be moved in, is there.
pub fn find(root: &Path) -> Result<(), StoreError> {
    if backup::is_committed(root) {
        return Ok(());
    }
    match root.join(FILE).metadata() {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(StoreError::Missing { path: root.to_owned() })
        }
        Err(error) => Err(StoreError::of_io(root, error)),
    }
}

/// Makes the store. `evidence.db` appears by one rename, complete: a crash before it leaves no store, after it a whole
/// one. The private key lies inside, so the file is for its owner alone.
pub fn init(root: &Path, site: &SiteId, clock: &Clock, first: FirstToken) -> Result<Created, StoreError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source: std::io::Error| match source.kind() {
            ErrorKind::PermissionDenied => StoreError::Unwritable { path, what: source.to_string() },
            _ => StoreError::of_io(&path, source),
        }
    };
    let path = root.join(FILE);
    if path.exists() || backup::is_committed(root) {
        return Err(StoreError::Exists { path: root.to_owned() });
    }
    let raw = root.join(super::raw::FOLDER);
    if raw.read_dir().is_ok_and(|mut files| files.next().is_some()) {
        // A new identity beside old readings would hide that the evidence was lost.
        let what = "it is gone, but readings are there: restore a backup of it, or move the folder away".to_owned();
        return Err(StoreError::Damaged { file: path, what });
    }
    DirBuilder::new().recursive(true).mode(0o750).create(&raw).map_err(io(&raw))?;
    let making = root.join(MAKING);
    for left_over in ["", "-wal", "-shm", "-journal"].map(|end| root.join(format!("{MAKING}{end}"))) {
        match std::fs::remove_file(&left_over) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(&left_over)(error)),
            _ => {}
        }
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&making).map_err(io(&making))?;

    let random = |bytes: &mut [u8]| {
        getrandom::fill(bytes)
            .map_err(|error| StoreError::Io { path: making.clone(), source: std::io::Error::other(error) })
    };
    let (mut private, mut epoch, mut token) = ([0; 32], [0; 8], [0; 32]);
    random(&mut private)?;
    random(&mut epoch)?;
    random(&mut token)?;
    let public = ed25519_dalek::SigningKey::from_bytes(&private).verifying_key().to_bytes();
    let identity = Identity { site: site.clone(), gateway: log::gateway_of(&public), epoch: log::hex(&epoch) };
    let token = URL_SAFE_NO_PAD.encode(token);

    let mut connection = sqlite::create(&making, 1, SCHEMA)?;
    migrate(&mut connection, 1).map_err(|error| sqlite::fault(&making, error))?;
    let now = clock.now().as_millis();
    let fill = |connection: &Connection| -> rusqlite::Result<()> {
        let transaction = connection.unchecked_transaction()?;
        let facts = [("site", identity.site.as_str()), ("gateway", &identity.gateway), ("epoch", &identity.epoch)];
        for (name, value) in facts {
            transaction.execute("INSERT INTO meta VALUES (?1, ?2)", params![name, value])?;
        }
        for (name, value) in [("created", now), ("seq_ceiling", 1), ("clean_seq", 1), ("stored", 0)] {
            transaction.execute("INSERT INTO meta VALUES (?1, ?2)", params![name, value])?;
        }
        transaction.execute("INSERT INTO keys VALUES (?1, ?2, ?3)", params![public, private, now])?;
        if first == FirstToken::Made {
            let digest = Digest::of(token.as_bytes());
            transaction.execute(
                "INSERT INTO tokens (name, scope, sha256, created, made_by) VALUES ('first', 'admin', ?1, ?2, 'meterseal init')",
                params![digest.as_bytes(), now],
            )?;
        }
        transaction.commit()
    };
    fill(&connection).map_err(|error| sqlite::fault(&making, error))?;
    while log::take_up_step(&connection, clock.now()).map_err(|error| sqlite::fault(&making, error))?.is_some() {}
    events::take_up(&connection, clock.now()).map_err(|error| sqlite::fault(&making, error))?;
    sqlite::finish(connection).map_err(|error| sqlite::fault(&making, error))?;
    std::fs::rename(&making, &path).map_err(io(&path))?;
    flush_folder(root)?;
    if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        flush_folder(parent)?;
    }
    owner::hand_over(root, root);
    Ok(Created { key: VerifierKey::new(identity.origin(), public), identity, token })
}

/// Makes new, renamed and deleted names in a folder durable.
pub fn flush_folder(path: &Path) -> Result<(), StoreError> {
    let flushed = File::open(path).and_then(|folder| folder.sync_all());
    flushed.map_err(|source| StoreError::Io { path: path.to_owned(), source })
}

/// The version of a store's `evidence.db`; nothing is touched.
pub fn version(root: &Path) -> Result<u32, StoreError> {
    if backup::is_committed(root) {
        return backup::version_of_committed(root);
    }
    sqlite::version(&root.join(FILE), VERSION).map_err(remedy)
}

impl Evidence {
    /// Opens `evidence.db` and brings it to this program's version. A small file is looked through for damage.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        const SMALL: u64 = 64 << 20;
        let path = root.join(FILE);
        find(root)?;
        version(root)?;
        let mut connection = sqlite::open(&path).map_err(remedy)?;
        // A key that signs nothing more leaves no trace in pages that are written anyway: a backup would have it.
        let secure = connection.query_row("PRAGMA secure_delete = FAST", [], |_| Ok(()));
        secure.map_err(|error| remedy(sqlite::fault(&path, error)))?;
        // What a crash left in the write-ahead log counts as well: there a step may be done that the header has not yet.
        let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
        let version: u32 = version.map_err(|error| remedy(sqlite::fault(&path, error)))?;
        if version > VERSION {
            return Err(StoreError::Newer { file: path, version, known: VERSION });
        }
        if path.metadata().is_ok_and(|file| file.len() <= SMALL) {
            sqlite::check(&connection, &path).map_err(remedy)?;
        }
        migrate(&mut connection, version).map_err(|error| remedy(sqlite::fault(&path, error)))?;
        let place = place(&path).ok_or_else(|| StoreError::Missing { path: root.to_owned() })?;
        Ok(Self { connection, path, place })
    }

    /// Fails when another file than the one that is open lies at the path, or none.
    pub fn in_place(&self) -> Result<(), StoreError> {
        if place(&self.path) == Some(self.place) {
            return Ok(());
        }
        let what = "it was deleted or replaced while it was open: restore a backup of it, and restart meterseal";
        Err(StoreError::Unwritable { path: self.path.clone(), what: what.to_owned() })
    }

    /// The file that is open lies at the path, on whatever device.
    pub fn is_there(&self) -> bool {
        place(&self.path).is_some_and(|there| there.is_again(self.place))
    }

    /// Opens the file that is there now, if it is of the same store.
    pub fn reopen(&mut self, identity: &Identity) -> Result<(), StoreError> {
        let root = self.path.parent().unwrap_or(&self.path);
        let there = Self::open(root)?;
        if there.identity()? != *identity {
            let what = "another store is there now: put the disk back, or restart meterseal".to_owned();
            return Err(StoreError::Unwritable { path: root.to_owned(), what });
        }
        *self = there;
        Ok(())
    }

    pub fn identity(&self) -> Result<Identity, StoreError> {
        log::kept_identity(&self.connection).map_err(|error| self.fault(error))
    }

    pub fn access(&self) -> Result<access::Access, StoreError> {
        access::access(&self.connection).map_err(|error| self.fault(error))
    }

    pub fn redates(&self) -> Result<Vec<Redate>, StoreError> {
        redates(&self.connection).map_err(|error| self.fault(error))
    }

    /// The first seq that may be used. After a clean end that is the next one; otherwise the old ceiling, since a
    /// damaged raw file does not tell how far it went. The hole is legal.
    pub fn first_free_seq(&self, after_last: u64) -> Result<u64, StoreError> {
        let transaction = || -> rusqlite::Result<u64> {
            let clean = self.mark("clean_seq")?;
            self.connection.execute("DELETE FROM meta WHERE name = 'clean_seq'", [])?;
            match clean {
                Some(clean) if clean >= after_last => Ok(clean),
                _ => Ok(self.mark("seq_ceiling")?.unwrap_or(1).max(after_last)),
            }
        };
        transaction().map_err(|error| self.fault(error))
    }

    /// Reserves seqs from `next` on; all below the result may be used.
    pub fn reserve_seqs(&self, next: u64) -> Result<u64, StoreError> {
        let ceiling = next + SEQ_STEP;
        self.connection
            .execute("INSERT OR REPLACE INTO meta VALUES ('seq_ceiling', ?1)", [ceiling.cast_signed()])
            .map_err(|error| self.fault(error))?;
        Ok(ceiling)
    }

    /// The store ends in order: seqs go on at `next`.
    pub fn end(&self, next: u64) -> Result<(), StoreError> {
        self.connection
            .execute("INSERT OR REPLACE INTO meta VALUES ('clean_seq', ?1)", [next.cast_signed()])
            .and_then(|_| sqlite::settle(&self.connection))
            .map_err(|error| self.fault(error))
    }

    fn mark(&self, name: &str) -> rusqlite::Result<Option<u64>> {
        let mut statement = self.connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
        statement.query_row([name], |row| row.get::<_, i64>(0).map(i64::cast_unsigned)).optional()
    }

    pub fn fault(&self, error: rusqlite::Error) -> StoreError {
        remedy(sqlite::fault(&self.path, error))
    }
}

pub fn redates(connection: &Connection) -> rusqlite::Result<Vec<Redate>> {
    let mut statement =
        connection.prepare_cached("SELECT boot, first_seq, last_seq, offset_ms FROM redates ORDER BY id")?;
    let rows = statement.query_map([], |row| {
        Ok(Redate {
            boot: row.get(0)?,
            first_seq: row.get::<_, i64>(1)?.cast_unsigned(),
            last_seq: row.get::<_, i64>(2)?.cast_unsigned(),
            offset_ms: row.get(3)?,
        })
    })?;
    rows.collect()
}

fn migrate(connection: &mut Connection, version: u32) -> rusqlite::Result<()> {
    let from = usize::try_from(version).unwrap_or(0).saturating_sub(1);
    for (step, statements) in MIGRATIONS.iter().enumerate().skip(from) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(statements)?;
        transaction.pragma_update(None, "user_version", i64::try_from(step + 2).unwrap_or(i64::MAX))?;
        transaction.commit()?;
        // The version is read from the file's header, so it must not stay in the write-ahead log.
        sqlite::settle(connection)?;
    }
    Ok(())
}

/// Damage here has a remedy of its own.
fn remedy(error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged { file, what } => StoreError::Damaged {
            what: format!("{what}: restore a backup of it; the readings in `raw` are files of their own and stay"),
            file,
        },
        other => other,
    }
}
