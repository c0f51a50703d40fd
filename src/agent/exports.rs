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
use crate::model::{ExportEvent, ExportOrder, JobId, JobState, RunningJob, RunningJobs};
use crate::store::Reader;
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

/// Makes an export for a command, until it is done or Ctrl-C is pressed, which cancels it: by the daemon that runs on
/// the store of this config, else by this process, which holds the store meanwhile. What `told` does with `Done` is done
/// before anything can happen to the bundle.
pub async fn for_command(
    order: ExportOrder,
    config: &Config,
    mut told: impl FnMut(ExportEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return tokio::select! {
            exported = admin::export(&socket, order, told) => exported,
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
    let by = user(rustix::process::geteuid().as_raw());
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

/// How a person at a shell is named in the log.
pub fn user(uid: u32) -> String {
    format!("user {uid} of this machine")
}
