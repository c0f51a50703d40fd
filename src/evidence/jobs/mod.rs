//! Export jobs: takes those that are queued in their order, reads the plant's InfluxDB slice by slice, and leaves a
//! bundle that the log commits to. Work is found in the store, so that a restart goes on where the last run ended.
//!
//! One job at a time works, and of each connection one at a time is under way. One whose server gives nothing steps
//! aside for those of other connections, and holds nothing in memory meanwhile.

mod attempt;
mod pause;
mod slices;
mod told;
mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Config;
use super::dataset::manifest::{PointsQuery, Query, ResultQuery};
use super::influx::{self, Asked};
use crate::clock::Clock;
use crate::model::{
    Actor, ExportOrder, ExportRefused, Job, JobId, JobRequest, JobState, RunningJobs, Timestamp, nearest,
};
use crate::store::{JOBS, JobEnd, Ledger, Reader, StoreError};
use attempt::Attempt;
use told::Told;
use turn::{Place, Turn};

/// The pause before a store that cannot be used is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(10);
/// Requests for one bundle by one token that lie closer together are one download: a client that fetches it in ranges,
/// or goes on after a break, fills no log.
const ONE_DOWNLOAD: Duration = Duration::from_secs(600);
/// Downloads that are remembered; beyond, one may be put on record twice.
const DOWNLOADS: usize = 64;

/// All that jobs need.
#[derive(Clone)]
pub struct Jobs {
    pub config: watch::Receiver<Arc<Config>>,
    pub reader: Reader,
    pub ledger: Ledger,
    pub clock: Clock,
    /// [`ROWS`](super::dataset::part::ROWS), or no verifier takes the bundle; less where a test is about the ends of
    /// parts.
    pub rows_per_part: u64,
    /// What is told of the jobs that are not over.
    pub told: watch::Sender<Arc<RunningJobs>>,
}

/// Takes jobs until stopped. To be run on a thread of its own: it hashes, compresses and writes between its waits.
pub async fn run(jobs: Jobs, stop: CancellationToken) -> Result<(), StoreError> {
    let mut changed = jobs.reader.jobs_changed();
    let (mut queue, mut under_way) = (Queue::default(), FuturesUnordered::new());
    let mut unswept = true;
    while !stop.is_cancelled() {
        changed.borrow_and_update();
        let found = async {
            if unswept {
                jobs.ledger.sweep_bundles().await?;
                unswept = false;
            }
            jobs.reader.jobs_under_way().await
        };
        let mut again = None;
        match found.await {
            Ok(found) => under_way.extend(queue.heads(&jobs, found).into_iter().map(|(job, place)| {
                let jobs = &jobs;
                async move {
                    let connection = job.request.connection.clone();
                    (connection, jobs.to_its_end(job, place).await)
                }
            })),
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(cause) => {
                store_fails(&cause);
                again = Some(STORE_AGAIN);
            }
        }
        let wait = async {
            match again {
                Some(pause) => jobs.clock.sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = wait => {}
            Ok(()) = changed.changed(), if again.is_none() => {}
            Some((connection, ended)) = under_way.next() => {
                ended?;
                queue.heads.remove(&connection);
                unswept = true;
            }
        }
    }
    Ok(())
}

/// Exports are the last that may stop the plant's readings: whatever it is, it is told and tried again.
fn store_fails(cause: &StoreError) {
    error!(error = cause as &dyn std::error::Error, "exports wait for the store");
}

/// The jobs that are not over.
#[derive(Default)]
struct Queue {
    turn: Turn,
    /// Of each connection the job that is under way.
    heads: BTreeMap<String, JobId>,
    /// Those behind them.
    behind: BTreeMap<JobId, Told>,
}

impl Queue {
    /// Takes in what the store has: the jobs that are to be begun now, and what the others wait for.
    fn heads(&mut self, jobs: &Jobs, found: Vec<Job>) -> Vec<(Job, Place)> {
        let Self { turn, heads, behind } = self;
        let mut begun = Vec::new();
        behind.retain(|id, _| found.iter().any(|job| job.id == *id));
        for job in found {
            match heads.get(&job.request.connection) {
                Some(head) if *head == job.id => {}
                Some(head) => {
                    let told = behind.entry(job.id).or_insert_with(|| Told::of(&job, jobs.told.clone()));
                    told.waits(Some(format!("export {head} of the same connection comes first")));
                }
                None => {
                    behind.remove(&job.id);
                    heads.insert(job.request.connection.clone(), job.id);
                    let place = turn.enter(job.id);
                    begun.push((job, place));
                }
            }
        }
        begun
    }
}

impl Jobs {
    /// Queues what was ordered, with the query as it is now: later changes of the config do not touch it.
    pub async fn order(&self, order: ExportOrder, by: Actor) -> Result<Result<Job, ExportRefused>, StoreError> {
        let request = match request(&self.config.borrow(), order, self.clock.now()) {
            Ok(request) => request,
            Err(refused) => return Ok(Err(refused)),
        };
        let job = self.ledger.queue_job(request, by).await?;
        Ok(job.ok_or(ExportRefused::Full { limit: JOBS }))
    }

    /// Carries out a job to its end, whatever the store says in between.
    async fn to_its_end(&self, mut job: Job, place: Place) -> Result<(), StoreError> {
        loop {
            let failed = match self.carry_out_at(&job, &place).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            self.pause_for_store(failed, &place).await?;
            // It goes on from where it came to, and not from where it was when it was taken.
            match self.reader.job(job.id).await {
                Ok(Some(now)) => job = now,
                Ok(None) => return Ok(()),
                Err(failed) => self.pause_for_store(failed, &place).await?,
            }
        }
    }

    async fn pause_for_store(&self, cause: StoreError, place: &Place) -> Result<(), StoreError> {
        if let StoreError::Closed = cause {
            return Err(cause);
        }
        store_fails(&cause);
        place.leave();
        self.clock.sleep(STORE_AGAIN).await;
        Ok(())
    }

    /// Carries out a job that is alone. When it is dropped in between, it goes on from there the next time.
    pub async fn carry_out(&self, job: &Job) -> Result<(), StoreError> {
        self.carry_out_at(job, &Turn::default().enter(job.id)).await
    }

    async fn carry_out_at(&self, job: &Job, place: &Place) -> Result<(), StoreError> {
        let mut attempt = Attempt::new(self, job, Told::of(job, self.told.clone()), place);
        let work = async {
            attempt.take_turn().await;
            if !self.ledger.begin_job(job.id).await? {
                return Ok(None);
            }
            info!(id = %job.id, connection = job.request.connection, "export begins");
            attempt.end().await.map(Some)
        };
        let end = tokio::select! {
            end = work => end?,
            over = self.over(job.id) => return over,
        };
        drop(attempt);
        let Some(end) = end else { return Ok(()) };
        match &end {
            JobEnd::Done { progress, .. } => info!(id = %job.id, rows = progress.rows, "export done"),
            JobEnd::Failed { error } => warn!(id = %job.id, error, "export failed"),
        }
        // Of a job that was cancelled at the last moment the bundle is swept away.
        self.ledger.end_job(job.id, end).await?;
        self.ledger.sweep_bundles().await
    }

    /// Resolves when somebody has ended the job.
    async fn over(&self, id: JobId) -> Result<(), StoreError> {
        let mut changed = self.reader.jobs_changed();
        loop {
            changed.borrow_and_update();
            if self.reader.job(id).await?.is_none_or(|job| job.state == JobState::Cancelled) {
                info!(%id, "export cancelled");
                return Ok(());
            }
            changed.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }
}

/// What a job keeps of an order.
fn request(config: &Config, order: ExportOrder, now: Timestamp) -> Result<JobRequest, ExportRefused> {
    let ExportOrder { connection, query, from_ns, to_ns } = order;
    let names = config.connections.iter().map(|connection| connection.name.as_str());
    if !names.clone().any(|name| name == connection) {
        let near = nearest(&connection, names.clone()).map(str::to_owned);
        return Err(ExportRefused::Connection { near, known: names.map(str::to_owned).collect(), name: connection });
    }
    let names = config.queries.iter().map(|query| query.name.as_str());
    let Some(asked) = config.queries.iter().find(|known| known.name == query) else {
        let near = nearest(&query, names.clone()).map(str::to_owned);
        return Err(ExportRefused::Query { near, known: names.map(str::to_owned).collect(), name: query });
    };
    if from_ns >= to_ns {
        return Err(ExportRefused::Period);
    }
    let now_ns = now.as_millis().saturating_mul(1_000_000);
    if to_ns > now_ns {
        return Err(ExportRefused::Future { to_ns, now_ns });
    }
    // Texts, lists and maps of texts are always JSON.
    let query = serde_json::to_value(stated(asked)).unwrap_or_default();
    Ok(JobRequest { connection, query, from_ns, to_ns })
}

/// A query as the manifest has it.
fn stated(query: &influx::Query) -> Query {
    let name = query.name.clone();
    match &query.asked {
        Asked::Result(text) => Query::Result(ResultQuery { name, text: text.clone() }),
        Asked::Points(selection) => {
            let influx::Selection { measurement, fields, tags } = selection.clone();
            let mut fields = fields;
            fields.sort();
            fields.dedup();
            Query::Points(PointsQuery { fields, measurement, name, tags })
        }
    }
}

/// Which downloads were put on record of late.
#[derive(Default)]
pub struct Downloads(BTreeMap<(JobId, String), u64>);

impl Downloads {
    /// Puts on record that somebody begins to download a bundle, before the first byte of it goes out.
    pub async fn note(&mut self, jobs: &Jobs, id: JobId, by: Actor) -> Result<(), StoreError> {
        if self.begins(id, &by.name, jobs.clock.since_boot_ms()) {
            jobs.ledger.note_download(id, by).await
        } else {
            Ok(())
        }
    }

    /// Whether this request begins a download, and does not go on with one.
    fn begins(&mut self, id: JobId, by: &str, since_boot_ms: u64) -> bool {
        let is_recent = |at: u64| u128::from(since_boot_ms.saturating_sub(at)) < ONE_DOWNLOAD.as_millis();
        self.0.retain(|_, at| is_recent(*at));
        let begins = self.0.insert((id, by.to_owned()), since_boot_ms).is_none();
        while self.0.len() > DOWNLOADS {
            let oldest = self.0.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.0.remove(&key));
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn ranges_of_one_download_are_put_on_record_once() {
        let mut downloads = Downloads::default();
        let id = |millis: i64| JobId::after(None, Timestamp::from_millis(millis), [0; 10]);
        assert!(downloads.begins(id(1), "auditor", 0));
        assert!(!downloads.begins(id(1), "auditor", 599_999), "it goes on");
        assert!(!downloads.begins(id(1), "auditor", 1_199_998));
        assert!(downloads.begins(id(1), "other", 1_199_998));
        assert!(downloads.begins(id(2), "auditor", 1_199_998));
        assert!(downloads.begins(id(1), "auditor", 1_799_998), "after a while it is another one");
        for millis in 0..1_000 {
            downloads.begins(id(millis), "auditor", 2_000_000);
        }
        assert!(downloads.0.len() <= DOWNLOADS);
    }
}
