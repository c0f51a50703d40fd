//! What is told of a job that is not over: how far, how fast, how long still, and what it waits for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::model::{Job, JobId, JobProgress, RunningJob, RunningJobs};

/// Tells no more often than a person can see.
const EVERY: Duration = Duration::from_millis(200);
/// A rate over less time than this is chance.
const LEAST: f64 = 0.5;

pub struct Told {
    sender: watch::Sender<Arc<RunningJobs>>,
    id: JobId,
    job: RunningJob,
    period: std::ops::Range<i64>,
    /// When this run of the job began to read, and how far it was then.
    began: Option<(Instant, JobProgress)>,
    last: Option<Instant>,
}

impl Told {
    pub fn of(job: &Job, sender: watch::Sender<Arc<RunningJobs>>) -> Self {
        let (id, period) = (job.id, job.request.from_ns..job.request.to_ns);
        let job = RunningJob { progress: job.progress, ..RunningJob::default() };
        let told = Self { sender, id, job, period, began: None, last: None };
        told.tell();
        told
    }

    /// It reads, and stands here.
    pub fn at(&mut self, progress: JobProgress) {
        let now = Instant::now();
        let (began, from) = *self.began.get_or_insert((now, progress));
        let waited = self.job.waiting.take().is_some();
        if !waited && self.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            return;
        }
        self.last = Some(now);
        let elapsed = now.duration_since(began).as_secs_f64();
        self.job.progress = progress;
        if elapsed >= LEAST {
            #[allow(clippy::cast_precision_loss)] // a rate for a person
            let rows = progress.rows.saturating_sub(from.rows) as f64;
            self.job.rows_per_s = rows / elapsed;
            self.job.seconds_left = seconds_left(&self.period, from.position_ns, progress.position_ns, elapsed);
        }
        self.tell();
    }

    /// What it waits for; `None` while it works.
    pub fn waiting(&self) -> Option<String> {
        self.job.waiting.clone()
    }

    /// It waits for this; with `None` for nothing that would be known.
    pub fn waits(&mut self, why: Option<String>) {
        if self.job.waiting == why {
            return;
        }
        self.job.waiting = why;
        self.job.rows_per_s = 0.0;
        self.job.seconds_left = None;
        self.tell();
    }

    fn tell(&self) {
        self.sender.send_modify(|jobs| drop(Arc::make_mut(jobs).insert(self.id, self.job.clone())));
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.sender.send_modify(|jobs| drop(Arc::make_mut(jobs).remove(&self.id)));
    }
}

/// As long still as the rest of the period takes when it goes on as so far.
fn seconds_left(period: &std::ops::Range<i64>, from: Option<i64>, at: Option<i64>, elapsed: f64) -> Option<u64> {
    let (from, at) = (from.unwrap_or(period.start), at?);
    let (done, left) = (i128::from(at) - i128::from(from), i128::from(period.end) - i128::from(at));
    if done <= 0 || left < 0 {
        return None;
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // a figure for a person; the cast saturates
    Some((elapsed * left as f64 / done as f64).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_goes_by_the_period_that_is_read() {
        assert_eq!(seconds_left(&(0..100), None, Some(25), 10.0), Some(30));
        assert_eq!(seconds_left(&(0..100), Some(50), Some(75), 10.0), Some(10));
        assert_eq!(seconds_left(&(0..100), None, Some(100), 10.0), Some(0));
        assert_eq!(seconds_left(&(0..100), Some(50), Some(50), 10.0), None);
        assert_eq!(seconds_left(&(0..100), None, None, 10.0), None);
        assert!(seconds_left(&(i64::MIN..i64::MAX), None, Some(i64::MIN + 1), 1.0).is_some());
    }
}
