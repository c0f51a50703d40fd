//! Export jobs and the bundles that they make. A bundle lies in `artifacts/<id>`, and in `artifacts/<id>.part` while it
//! is made; what its row says of it is written before its folder is touched, but for the rename that makes it whole.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::json;

use super::evidence::Evidence;
use super::retention::{self, Bundle};
use super::{Append, Ledger, Reader, Shared, StoreError, blocking, events, log, mutex, read, sqlite};
use crate::model::{Actor, Artifact, ClockState, Digest, Job, JobId, JobProgress, JobRequest, JobState, Timestamp};

/// Jobs that wait or run, at most: one more is refused, so that nobody fills the disk with orders.
pub const JOBS: usize = 16;
/// Bundles may take this share of `max_disk`, since they push out raw readings; a job waits at it.
const SHARE: u64 = 2;
/// Must stay free beside what the reserve needs: readings and blocks come first. A whole slice of an export that cannot
/// be compressed fits into it.
const MARGIN: u64 = 32 << 20;

const FOLDER: &str = "artifacts";
const MAKING: &str = "part";

/// Of the jobs in `evidence.db`. `request` is JSON, `resume` what the task needs to go on.
pub const SCHEMA: &str = "
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, request TEXT NOT NULL, asked_by TEXT NOT NULL, state TEXT NOT NULL,
        rows INTEGER NOT NULL, bytes INTEGER NOT NULL, position INTEGER, resume TEXT, error TEXT,
        created INTEGER NOT NULL, started INTEGER, ended INTEGER,
        manifest_sha256 BLOB, stored INTEGER NOT NULL, downloaded INTEGER, deleted INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX jobs_under_way ON jobs (id) WHERE ended IS NULL;
    CREATE INDEX bundles ON jobs (id) WHERE stored > 0;
";
const COLUMNS: &str = "id, request, asked_by, state, rows, bytes, position, error, created, started, ended, \
    manifest_sha256, stored, downloaded, deleted";

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum JobEnd {
    /// The bundle lies under its name, whole.
    Done { manifest_sha256: Digest, stored: u64, progress: JobProgress },
    /// With the remedy.
    Failed { error: String },
}

/// Why an export cannot go on writing, for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error(
        "disk full: make room for {} MB more, and the export goes on by itself; readings and blocks have the rest",
        short.div_ceil(1_000_000)
    )]
    Disk { short: u64 },
    #[error(
        "exports have their half of store.max_disk ({} MB): download or delete one (DELETE /api/bulk/<id>), or raise \
         store.max_disk, and this one goes on by itself",
        limit / 1_000_000
    )]
    Share { limit: u64 },
}

/// What stands in a job's way when somebody wants it gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It waited or ran, and will not be done.
    Cancelled,
    /// It was over; its bundle is deleted, if it had one.
    Deleted,
    /// Its bundle is being downloaded.
    InUse,
    Unknown,
}

/// Keeps a bundle from retention while it is read.
pub struct Held {
    shared: Arc<Shared>,
    id: JobId,
}

/// Bundles that are read, and by how many.
pub type Holds = BTreeMap<JobId, usize>;

impl Drop for Held {
    fn drop(&mut self) {
        let mut holds = mutex(&self.shared.holds);
        if let Some(count) = holds.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.id);
            }
        }
    }
}

/// Keeps a bundle that is there; to be called with `evidence` held.
pub fn hold(shared: &Arc<Shared>, id: JobId) -> Held {
    *mutex(&shared.holds).entry(id).or_default() += 1;
    Held { shared: shared.clone(), id }
}

impl Reader {
    /// The newest jobs first, at most `limit`; those before `before` when it is given.
    pub async fn jobs(&self, before: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.evidence(move |connection| list(connection, before, limit)).await
    }

    pub async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.evidence(move |connection| job(connection, id)).await
    }

    /// The jobs that are not over, the oldest first: [`JOBS`] at most.
    pub async fn jobs_under_way(&self) -> Result<Vec<Job>, StoreError> {
        self.evidence(jobs_under_way).await
    }

    /// Where a job that was interrupted goes on, as it was last written.
    pub async fn resume_of(&self, id: JobId) -> Result<Option<String>, StoreError> {
        self.evidence(move |connection| {
            let mut statement = connection.prepare_cached("SELECT resume FROM jobs WHERE id = ?1")?;
            Ok(statement.query_row([id.to_string()], |row| row.get(0)).optional()?.flatten())
        })
        .await
    }

    /// Changes whenever a job does.
    pub fn jobs_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.jobs_changed.subscribe()
    }

    /// The folder of a bundle, kept there as long as the result lives; `None` when it is not, or no longer, there.
    pub async fn bundle(&self, id: JobId) -> Result<Option<(PathBuf, Held)>, StoreError> {
        let shared = self.shared.clone();
        let held = blocking(move || {
            // Under the lock that is held where a bundle is marked as deleted.
            let evidence = mutex(&shared.evidence);
            let job = job(&evidence.connection, id).map_err(|error| evidence.fault(error))?;
            let is_there = job.and_then(|job| job.artifact).is_some_and(|bundle| bundle.deleted.is_none());
            Ok(is_there.then(|| hold(&shared, id)))
        });
        Ok(held.await?.map(|held| (self.bundle_folder(id), held)))
    }

    pub fn bundle_folder(&self, id: JobId) -> PathBuf {
        self.shared.root.join(FOLDER).join(id.to_string())
    }

    /// Where a bundle is while it is made, beside its place.
    pub fn making_folder(&self, id: JobId) -> PathBuf {
        self.bundle_folder(id).with_extension(MAKING)
    }
}

impl Ledger {
    /// Queues a job, with its entry in the log; `None` when as many as may wait are under way.
    pub async fn queue_job(&self, request: JobRequest, by: Actor) -> Result<Option<Job>, StoreError> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)
            .map_err(|error| StoreError::Io { path: self.shared.root.clone(), source: std::io::Error::other(error) })?;
        self.jobs(move |transaction, now| {
            if under_way(transaction)? >= JOBS {
                return Ok(None);
            }
            let last = transaction.query_row("SELECT max(id) FROM jobs", [], |row| row.get::<_, Option<String>>(0))?;
            let id = JobId::after(last.and_then(|id| id.parse().ok()), now, random);
            let text = serde_json::to_string(&request).map_err(of_json)?;
            transaction.execute(
                "INSERT INTO jobs (id, request, asked_by, state, rows, bytes, created, stored)
                 VALUES (?1, ?2, ?3, 'queued', 0, 0, ?4, 0)",
                params![id.to_string(), text, by.name, now.as_millis()],
            )?;
            let detail = json!({
                "connection": request.connection, "from": request.from_ns.to_string(), "id": id,
                "query": request.query, "to": request.to_ns.to_string(),
            });
            log::tell(transaction, (now, "export", &by), detail)?;
            job(transaction, id)
        })
        .await
    }

    /// Marks a job as running, also one that ran before a restart. False when it is over.
    pub async fn begin_job(&self, id: JobId) -> Result<bool, StoreError> {
        self.change_job(
            "UPDATE jobs SET state = 'running', started = coalesce(started, ?2) WHERE id = ?1 AND ended IS NULL",
            move |now| vec![id.to_string().into(), now.as_millis().into()],
        )
        .await
    }

    /// Keeps how far a job is: `resume` for the task, `stored` for retention. False when it is over.
    pub async fn job_is_at(
        &self,
        id: JobId,
        progress: JobProgress,
        stored: u64,
        resume: String,
    ) -> Result<bool, StoreError> {
        self.change_job(
            "UPDATE jobs SET rows = ?2, bytes = ?3, position = ?4, stored = ?5, resume = ?6
             WHERE id = ?1 AND ended IS NULL",
            move |_| {
                let JobProgress { rows, bytes, position_ns } = progress;
                let whole = |number: u64| number.cast_signed().into();
                vec![
                    id.to_string().into(),
                    whole(rows),
                    whole(bytes),
                    position_ns.into(),
                    whole(stored),
                    resume.clone().into(),
                ]
            },
        )
        .await
    }

    /// Ends a job, once: with a bundle its entry in the log is part of the same transaction. False when it was over.
    pub async fn end_job(&self, id: JobId, end: JobEnd) -> Result<bool, StoreError> {
        self.jobs(move |transaction, now| {
            let changed = match &end {
                JobEnd::Done { manifest_sha256, stored, progress } => transaction.execute(
                    "UPDATE jobs SET state = 'done', ended = ?2, rows = ?3, bytes = ?4, position = ?5, stored = ?6,
                     manifest_sha256 = ?7, resume = NULL WHERE id = ?1 AND ended IS NULL",
                    params![
                        id.to_string(),
                        now.as_millis(),
                        progress.rows.cast_signed(),
                        progress.bytes.cast_signed(),
                        progress.position_ns,
                        stored.cast_signed(),
                        manifest_sha256.as_bytes(),
                    ],
                )?,
                JobEnd::Failed { error } => transaction.execute(
                    "UPDATE jobs SET state = 'failed', ended = ?2, error = ?3, stored = 0, resume = NULL
                     WHERE id = ?1 AND ended IS NULL",
                    params![id.to_string(), now.as_millis(), error],
                )?,
            };
            if let (JobEnd::Done { manifest_sha256, .. }, 1) = (&end, changed) {
                let entry = Append::Dataset { dataset: id.to_string(), manifest_sha256: *manifest_sha256 };
                let places = log::append_all(transaction, now, &[entry])?;
                let epoch = log::kept_identity(transaction)?.epoch;
                if let (Some(job), [index]) = (job(transaction, id)?, places.as_slice()) {
                    events::dataset(transaction, &job, (&epoch, *index), now)?;
                }
            }
            Ok(changed == 1)
        })
        .await
    }

    /// Cancels a job, or deletes the bundle of one that is over.
    pub async fn drop_job(&self, id: JobId, by: Actor) -> Result<Dropped, StoreError> {
        let shared = self.shared.clone();
        let dropped = self
            .jobs(move |transaction, now| {
                let Some(job) = job(transaction, id)? else { return Ok(Dropped::Unknown) };
                if !job.state.is_over() {
                    transaction.execute(
                        "UPDATE jobs SET state = 'cancelled', ended = ?2, stored = 0, resume = NULL WHERE id = ?1",
                        params![id.to_string(), now.as_millis()],
                    )?;
                    log::tell(transaction, (now, "export-cancel", &by), json!({ "id": id }))?;
                    return Ok(Dropped::Cancelled);
                }
                if job.artifact.is_none_or(|bundle| bundle.deleted.is_some()) {
                    return Ok(Dropped::Deleted);
                }
                if mutex(&shared.holds).contains_key(&id) {
                    return Ok(Dropped::InUse);
                }
                mark_deleted(transaction, id, now)?;
                log::tell(transaction, (now, "export-delete", &by), json!({ "id": id }))?;
                Ok(Dropped::Deleted)
            })
            .await?;
        if dropped == Dropped::Deleted {
            let shared = self.shared.clone();
            blocking(move || shared.remove_bundle(id)).await?;
        }
        Ok(dropped)
    }

    /// Puts on record that somebody begins to download a bundle.
    pub async fn note_download(&self, id: JobId, by: Actor) -> Result<(), StoreError> {
        self.jobs(move |transaction, now| log::tell(transaction, (now, "download", &by), json!({ "id": id }))).await
    }

    /// Somebody has all of it, so that it may go when room is needed.
    pub async fn downloaded(&self, id: JobId) -> Result<bool, StoreError> {
        self.change_job("UPDATE jobs SET downloaded = ?2 WHERE id = ?1 AND downloaded IS NULL", move |now| {
            vec![id.to_string().into(), now.as_millis().into()]
        })
        .await
    }

    /// Whether an export may go on writing; `own` is what it has written. Bundles that may go make room for it. Blocking:
    /// for the thread of the job.
    pub fn room_for_export(&self, id: JobId, own: u64) -> Result<Result<(), NoRoom>, StoreError> {
        let shared = &self.shared;
        shared.at_home()?;
        for last in [false, true] {
            let Some((excess, reason)) = shared.lacks_room(id, own)? else { return Ok(Ok(())) };
            if last || shared.delete_bundles(excess)? == 0 {
                return Ok(Err(reason));
            }
        }
        Ok(Ok(()))
    }

    /// Removes what a crash, a cancelled job or a deletion that was cut off has left in the folder of bundles.
    pub async fn sweep_bundles(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            shared.at_home()?;
            let folder = shared.root.join(FOLDER);
            let entries = match folder.read_dir() {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                entries => entries.map_err(|error| StoreError::of_io(&folder, error))?,
            };
            for entry in entries {
                let path = entry.map_err(|error| StoreError::of_io(&folder, error))?.path();
                let id = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse::<JobId>().ok());
                // What is not ours by its name stays.
                let Some(id) = id else { continue };
                let evidence = mutex(&shared.evidence);
                let job = job(&evidence.connection, id).map_err(|error| evidence.fault(error))?;
                drop(evidence);
                let Some(job) = job else {
                    // A job's row is there before its folder: this store is older than the folder.
                    tracing::warn!(bundle = %path.display(), "no job is known that made it; it stays, uncounted");
                    continue;
                };
                let stays = match &job.artifact {
                    Some(bundle) => path.extension().is_none() && bundle.deleted.is_none(),
                    None => !job.state.is_over(),
                };
                if !stays {
                    remove(&path)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn change_job(
        &self,
        sql: &'static str,
        values: impl Fn(Timestamp) -> Vec<rusqlite::types::Value> + Send + 'static,
    ) -> Result<bool, StoreError> {
        self.jobs(move |transaction, now| {
            let values = rusqlite::params_from_iter(values(now));
            Ok(transaction.prepare_cached(sql)?.execute(values)? == 1)
        })
        .await
    }

    /// Changes jobs in one transaction, and tells it.
    async fn jobs<T: Send + 'static>(
        &self,
        work: impl Fn(&Transaction<'_>, Timestamp) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            let now = shared.clock.now();
            let done = shared.write_evidence(|evidence: &mut Evidence| {
                let work = |connection: &mut Connection| {
                    let transaction = connection.transaction()?;
                    let done = work(&transaction, now)?;
                    transaction.commit()?;
                    Ok(done)
                };
                work(&mut evidence.connection).map_err(|error| evidence.fault(error))
            })?;
            shared.jobs_changed.send_modify(|count| *count += 1);
            shared.tell_sendable();
            Ok(done)
        })
        .await
    }
}

impl Shared {
    /// What bundles take on disk, those that are being made included.
    pub fn bundle_bytes(&self) -> Result<u64, StoreError> {
        let evidence = mutex(&self.evidence);
        stored_bytes(&evidence.connection, None).map_err(|error| evidence.fault(error))
    }

    /// Deletes bundles that may go until so many bytes are won; the bytes that were.
    pub fn delete_bundles(&self, excess: u64) -> Result<u64, StoreError> {
        let now = self.clock.now();
        // A clock that may be wrong lets nothing expire.
        let trusted = (self.clock.state() == ClockState::Synchronised).then_some(now);
        let going = self.write_evidence(|evidence| {
            let choose = |connection: &mut Connection| {
                let transaction = connection.transaction()?;
                let mut bundles = bundles(&transaction)?;
                bundles.retain(|bundle| !mutex(&self.holds).contains_key(&bundle.id));
                let going = retention::bundles_to_go(&bundles, trusted, excess);
                for bundle in &going {
                    mark_deleted(&transaction, bundle.id, now)?;
                }
                transaction.commit()?;
                Ok(going)
            };
            choose(&mut evidence.connection).map_err(|error| evidence.fault(error))
        })?;
        for bundle in &going {
            tracing::info!(id = %bundle.id, "the bundle of an export was deleted to make room");
            self.remove_bundle(bundle.id)?;
        }
        if !going.is_empty() {
            self.jobs_changed.send_modify(|count| *count += 1);
        }
        Ok(going.iter().map(|bundle| bundle.bytes).sum())
    }

    fn remove_bundle(&self, id: JobId) -> Result<(), StoreError> {
        remove(&self.root.join(FOLDER).join(id.to_string()))
    }

    /// How much too much an export with so many bytes takes, and of what.
    fn lacks_room(&self, id: JobId, own: u64) -> Result<Option<(u64, NoRoom)>, StoreError> {
        let limit = read(&self.config).max_disk / SHARE;
        let evidence = mutex(&self.evidence);
        let others = stored_bytes(&evidence.connection, Some(id)).map_err(|error| evidence.fault(error))?;
        drop(evidence);
        if others + own >= limit {
            return Ok(Some((others + own + 1 - limit, NoRoom::Share { limit })));
        }
        let needed = MARGIN + mutex(&self.reserve).room_needed();
        let free = sqlite::free_bytes(&self.root).unwrap_or(u64::MAX);
        let short = needed.saturating_sub(free);
        Ok((short > 0).then_some((short, NoRoom::Disk { short })))
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::of_io(path, error)),
        _ => Ok(()),
    }
}

fn job(connection: &Connection, id: JobId) -> rusqlite::Result<Option<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1");
    connection.prepare_cached(&sql)?.query_row([id.to_string()], read_job).optional()
}

/// The jobs that have made a bundle, in the order in which they ended, each with the newest place of its dataset in the
/// log.
pub fn each_done(
    connection: &Connection,
    mut each: impl FnMut(Job, (String, u64)) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let sql =
        format!("SELECT {COLUMNS} FROM jobs WHERE state = 'done' AND manifest_sha256 IS NOT NULL ORDER BY ended, id");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let job = read_job(row)?;
        let place = place_of(connection, job.id)?;
        if let Some(place) = place {
            each(job, place)?;
        }
    }
    Ok(())
}

/// Tells a dataset that is logged again, within a transaction.
pub fn dataset_is_at(
    connection: &Connection,
    dataset: &str,
    place: (&str, u64),
    now: Timestamp,
) -> rusqlite::Result<()> {
    match dataset.parse().ok().map(|id| job(connection, id)).transpose()?.flatten() {
        Some(job) => events::dataset(connection, &job, place, now),
        None => Ok(()),
    }
}

/// Where the log has a dataset last.
fn place_of(connection: &Connection, id: JobId) -> rusqlite::Result<Option<(String, u64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT epochs.epoch, idx FROM dataset_entries JOIN epochs ON number = dataset_entries.epoch
         WHERE dataset = ?1 ORDER BY number DESC, idx DESC LIMIT 1",
    )?;
    let place = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()));
    statement.query_row([id.to_string()], place).optional()
}

fn list(connection: &Connection, before: Option<JobId>, limit: usize) -> rusqlite::Result<Vec<Job>> {
    let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id < ?1 ORDER BY id DESC LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![before, i64::try_from(limit).unwrap_or(i64::MAX)], read_job)?.collect()
}

fn jobs_under_way(connection: &Connection) -> rusqlite::Result<Vec<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE ended IS NULL ORDER BY id");
    connection.prepare_cached(&sql)?.query_map([], read_job)?.collect()
}

fn under_way(connection: &Connection) -> rusqlite::Result<usize> {
    let count: i64 = connection.query_row("SELECT count(*) FROM jobs WHERE ended IS NULL", [], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// What bundles take on disk, that of `but` left out.
fn stored_bytes(connection: &Connection, but: Option<JobId>) -> rusqlite::Result<u64> {
    let sum: i64 = connection
        .prepare_cached("SELECT coalesce(sum(stored), 0) FROM jobs WHERE stored > 0 AND deleted IS NULL AND id <> ?1")?
        .query_row([but.map_or_else(String::new, |id| id.to_string())], |row| row.get(0))?;
    Ok(u64::try_from(sum).unwrap_or(0))
}

pub fn bundles(connection: &Connection) -> rusqlite::Result<Vec<Bundle>> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE stored > 0 AND deleted IS NULL AND state = 'done' ORDER BY id");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = Vec::new();
    for job in statement.query_map([], read_job)? {
        let Job { id, ended, artifact, .. } = job?;
        if let (Some(ended), Some(Artifact { bytes, downloaded, .. })) = (ended, artifact) {
            found.push(Bundle { id, ended, is_downloaded: downloaded.is_some(), bytes });
        }
    }
    Ok(found)
}

fn mark_deleted(transaction: &Transaction<'_>, id: JobId, now: Timestamp) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE jobs SET deleted = ?2 WHERE id = ?1 AND deleted IS NULL")?
        .execute(params![id.to_string(), now.as_millis()])
        .map(|_| ())
}

fn read_job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let wrong = |error: &dyn std::fmt::Display| rusqlite::Error::ToSqlConversionFailure(error.to_string().into());
    let time = |at: usize| row.get::<_, Option<i64>>(at).map(|at| at.map(Timestamp::from_millis));
    let count = |at: usize| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let (id, request, state): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(3)?);
    let manifest: Option<[u8; 32]> = row.get(11)?;
    Ok(Job {
        id: id.parse().map_err(|error| wrong(&error))?,
        request: serde_json::from_str(&request).map_err(|error| wrong(&error))?,
        by: row.get(2)?,
        state: JobState::named(&state).ok_or_else(|| wrong(&state))?,
        progress: JobProgress { rows: count(4)?, bytes: count(5)?, position_ns: row.get(6)? },
        error: row.get(7)?,
        created: time(8)?.unwrap_or_default(),
        started: time(9)?,
        ended: time(10)?,
        artifact: match manifest {
            None => None,
            Some(manifest) => Some(Artifact {
                manifest_sha256: Digest::from_bytes(manifest),
                bytes: count(12)?,
                downloaded: time(13)?,
                deleted: time(14)?,
            }),
        },
    })
}

fn of_json(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}
