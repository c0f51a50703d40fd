//! Exports: what the page and commands ask of the daemon, and the export of a command alone.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::signal;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::admin;
use crate::clock::Clock;
use crate::config::Config;
use crate::evidence::dataset::tar::Archive;
use crate::evidence::dataset::{Manifest, part};
use crate::evidence::jobs::{Downloads, Jobs};
use crate::model::{
    Actor, ExportEvent, ExportListed, ExportOrder, Job, JobId, JobRequest, JobState, RunningJob, RunningJobs,
};
use crate::store::{Reader, StoreError};
use crate::web::{BulkArchive, BulkNow};

/// Requests about exports; who asks for one more waits.
pub const ASKED: usize = 16;

/// Does what is asked about exports. Whoever asked may be gone when it is done.
pub async fn run(mut asked: mpsc::Receiver<BulkNow>, jobs: Jobs, stop: CancellationToken) -> anyhow::Result<()> {
    let mut downloads = Downloads::default();
    loop {
        let now = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            now = asked.recv() => now,
        };
        match now {
            None => {
                // Nobody can ask any more: the program is stopping.
                stop.cancelled().await;
                return Ok(());
            }
            Some(BulkNow::Order { order, by, reply }) => drop(reply.send(jobs.order(order, by).await)),
            Some(BulkNow::Drop { id, by, reply }) => drop(reply.send(jobs.ledger.drop_job(id, by).await)),
            Some(BulkNow::Archive { folder, reply }) => drop(reply.send(archive(&folder))),
            Some(BulkNow::Download { id, by, reply }) => drop(reply.send(downloads.note(&jobs, id, by).await)),
            Some(BulkNow::Downloaded { id }) => {
                if let Err(cause) = jobs.ledger.downloaded(id).await {
                    let cause = &cause as &dyn std::error::Error;
                    tracing::warn!(error = cause, %id, "that a bundle was downloaded could not be kept");
                }
            }
        }
    }
}

/// A few looks at names and one short file: nothing that would be worth a thread.
fn archive(folder: &Path) -> io::Result<BulkArchive> {
    let text = fs::read(folder.join("manifest.json"))?;
    let manifest = Manifest::from_bytes(&text).map_err(io::Error::other)?;
    let archive = Archive::of(folder, &manifest)?;
    Ok(BulkArchive { length: archive.length(), read_at: Arc::new(move |at, buffer| archive.read_at(at, buffer)) })
}

/// Exports in one list for a command: more than a person reads, and within what the socket carries.
const LISTED: usize = 100;
/// A look at a job that goes on: no more events than a person can read.
const EVERY: Duration = Duration::from_millis(250);

/// Follows a job to its end.
pub struct Following {
    reader: Reader,
    running: watch::Receiver<Arc<RunningJobs>>,
    changed: watch::Receiver<u64>,
    id: JobId,
    last: Option<ExportEvent>,
}

impl Following {
    pub fn new(reader: Reader, running: watch::Receiver<Arc<RunningJobs>>, id: JobId) -> Self {
        let changed = reader.jobs_changed();
        Self { reader, running, changed, id, last: None }
    }

    /// The next thing to tell; `Done` and `Failed` are the last.
    pub async fn next(&mut self) -> anyhow::Result<ExportEvent> {
        loop {
            self.changed.borrow_and_update();
            let running = self.running.borrow_and_update().get(&self.id).cloned();
            let job = self.reader.job(self.id).await?.context("the job is gone")?;
            let event = match job.state {
                JobState::Done => {
                    let folder = self.reader.bundle_folder(self.id);
                    return Ok(ExportEvent::Done { id: self.id, progress: job.progress, folder });
                }
                JobState::Failed => return Ok(ExportEvent::Failed { error: job.error.unwrap_or_default() }),
                JobState::Cancelled => return Ok(ExportEvent::Failed { error: "the export was cancelled".to_owned() }),
                JobState::Queued | JobState::Running => {
                    let RunningJob { progress, rows_per_s, seconds_left, waiting } =
                        running.unwrap_or(RunningJob { progress: job.progress, ..RunningJob::default() });
                    ExportEvent::Progress { progress, rows_per_s, seconds_left, waiting }
                }
            };
            if self.last.as_ref() != Some(&event) {
                self.last = Some(event.clone());
                return Ok(event);
            }
            tokio::select! {
                changed = self.changed.changed() => changed?,
                changed = self.running.changed() => {
                    changed?;
                    tokio::time::sleep(EVERY).await;
                }
            }
        }
    }
}

/// The event that hands over the bundle of an export that is done; an error says why there is none.
pub async fn done(reader: &Reader, id: JobId) -> anyhow::Result<ExportEvent> {
    let unknown = || format!("there is no export {id}: `meterseal export --list` shows which there are");
    let job = reader.job(id).await?.with_context(unknown)?;
    match job.state {
        JobState::Done if job.artifact.is_some_and(|bundle| bundle.deleted.is_none()) => {
            Ok(ExportEvent::Done { id, progress: job.progress, folder: reader.bundle_folder(id) })
        }
        JobState::Done => bail!("the bundle of export {id} was deleted: export it again"),
        JobState::Queued | JobState::Running => {
            bail!("export {id} is not done: `meterseal export --list` shows how far it is")
        }
        JobState::Failed => bail!("export {id} has no bundle: {}", job.error.unwrap_or_default()),
        JobState::Cancelled => bail!("export {id} was cancelled: export it again"),
    }
}

/// The newest exports first.
pub async fn listed(reader: &Reader, running: &RunningJobs) -> Result<Vec<ExportListed>, StoreError> {
    let view = |job: Job| {
        let running = running.get(&job.id).filter(|_| !job.state.is_over());
        let JobRequest { connection, query, from_ns, to_ns } = job.request;
        ExportListed {
            id: job.id,
            state: job.state,
            connection,
            query: query["name"].as_str().unwrap_or_default().to_owned(),
            from_ns,
            to_ns,
            progress: running.map_or(job.progress, |running| running.progress),
            by: job.by,
            created: job.created,
            ended: job.ended,
            waiting: running.and_then(|running| running.waiting.clone()),
            error: job.error,
            bundle_bytes: job.artifact.as_ref().map(|bundle| bundle.bytes),
            bundle_deleted: job.artifact.and_then(|bundle| bundle.deleted),
        }
    };
    Ok(reader.jobs(None, LISTED).await?.into_iter().map(view).collect())
}

/// The newest exports first, for a command: those that the daemon knows, or the store when none runs.
pub async fn list_for_command(config: &Config) -> anyhow::Result<Vec<ExportListed>> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::ask(&socket, &admin::Request::Exports {}).await;
    }
    let store = super::open_alone(config).await?;
    let listed = listed(&store.reader(), &RunningJobs::new()).await;
    store.close().await?;
    Ok(listed?)
}

/// Hands the bundle of an export that is done to a command, by the daemon or from the store when none runs. What `told`
/// does with `Done` is done before anything can happen to the bundle.
pub async fn fetch_for_command(
    id: JobId,
    config: &Config,
    mut told: impl FnMut(ExportEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::exported(&socket, &admin::Request::Fetch { id }, told).await;
    }
    let store = super::open_alone(config).await?;
    let fetched = async {
        let event = done(&store.reader(), id).await?;
        store.ledger().note_download(id, myself()).await?;
        told(event)?;
        store.ledger().downloaded(id).await?;
        Ok(())
    };
    let fetched = fetched.await;
    store.close().await?;
    fetched
}

/// Makes an export for a command, until it is done or Ctrl-C is pressed, which cancels it: by the daemon that runs on
/// the store of this config, else by this process, which holds the store meanwhile. What `told` does with `Done` is done
/// before anything can happen to the bundle.
pub async fn for_command(
    order: ExportOrder,
    config: &Config,
    mut told: impl FnMut(ExportEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        let request = admin::Request::Export { order };
        return tokio::select! {
            exported = admin::exported(&socket, &request, told) => exported,
            stopped = signal::ctrl_c() => stopped.context(STOPPED).and_then(|()| bail!(STOPPED)),
        };
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    let store = super::open_alone(config).await?;
    let evidence = watch::Sender::new(Arc::new(config.evidence.clone()));
    let running = watch::Sender::default();
    let jobs = Jobs {
        config: evidence.subscribe(),
        reader: store.reader(),
        ledger: store.ledger(),
        clock: Clock::system(),
        rows_per_part: part::ROWS,
        told: running.clone(),
    };
    let done = alone(&jobs, order, running.subscribe(), &mut told).await;
    drop(jobs);
    store.close().await?;
    done
}

const STOPPED: &str = "stopped: the export is cancelled";

async fn alone(
    jobs: &Jobs,
    order: ExportOrder,
    running: watch::Receiver<Arc<RunningJobs>>,
    told: &mut impl FnMut(ExportEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let by = myself();
    let job = jobs.order(order, by.clone()).await?.map_err(|refused| anyhow!(refused))?;
    told(ExportEvent::Queued { id: job.id })?;
    let mut following = Following::new(jobs.reader.clone(), running, job.id);
    let tell = async {
        loop {
            let event = following.next().await?;
            match event {
                ExportEvent::Done { .. } => {
                    jobs.ledger.note_download(job.id, by.clone()).await?;
                    told(event)?;
                    jobs.ledger.downloaded(job.id).await?;
                    return Ok(());
                }
                ExportEvent::Failed { .. } => return told(event),
                event => told(event)?,
            }
        }
    };
    let work = async {
        jobs.carry_out(&job).await?;
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        told = tell => told,
        failed = work => failed,
        stopped = signal::ctrl_c() => {
            stopped?;
            jobs.ledger.drop_job(job.id, by.clone()).await?;
            jobs.ledger.sweep_bundles().await?;
            bail!(STOPPED)
        }
    }
}

/// Whoever runs this program.
pub fn myself() -> Actor {
    user(rustix::process::geteuid().as_raw())
}

/// How a person at a shell is named in the log.
pub fn user(uid: u32) -> Actor {
    Actor::here(&format!("user {uid} of this machine"))
}
