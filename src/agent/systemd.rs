//! Notices to systemd, and the watchdog that is fed by progress alone.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::model::{Condition, Meter, Origin, SourcesStatus};
use crate::store::Reader;
use crate::web;

/// Tells systemd; there is none in a terminal or a container, and that is fine.
pub fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd was not told");
    }
}

/// A reload begins; [`NotifyState::Ready`] ends it.
pub fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no monotonic time for systemd"),
    }
}

/// What the watchdog looks at.
pub struct Signs {
    pub reader: Reader,
    pub sources: watch::Receiver<Arc<SourcesStatus>>,
    pub meters: watch::Receiver<Arc<Vec<Meter>>>,
    /// What is wrong with the config, and with what stands beside it.
    pub problems: watch::Receiver<Arc<Vec<String>>>,
}

/// Feeds systemd's watchdog, three times in its period, for as long as work is done. Without a watchdog it only says
/// so when the work stops.
pub async fn watch(signs: Signs, stop: CancellationToken) -> anyhow::Result<()> {
    let period = sd_notify::watchdog_enabled().map_or(Duration::from_secs(30), |period| period / 3);
    let began = Instant::now();
    let mut progress = Progress::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(period) => {}
        }
        match progress.look(&signs.look(period).await, began.elapsed()) {
            Ok(()) => tell(&[NotifyState::Watchdog, NotifyState::Status(&signs.status())]),
            Err(stuck) => error!("no sign of life from {stuck}: the watchdog is not fed"),
        }
    }
}

impl Signs {
    /// For `systemctl status`.
    fn status(&self) -> String {
        let sources = self.sources.borrow();
        let answering = sources.meters.values().filter(|meter| meter.condition == Condition::Answering).count();
        let mut wrong = web::problems_of_store(&self.reader.health());
        wrong.extend(self.problems.borrow().iter().cloned());
        status(answering, sources.meters.len(), &wrong)
    }

    async fn look(&self, patience: Duration) -> Seen {
        let health = self.reader.health();
        let answers = timeout(patience, self.reader.examined_seq()).await.is_ok();
        let meters = self.meters.borrow();
        let interval = |meter: &Meter| match meter.origin {
            Origin::Modbus { .. } => meter.interval_ms,
            // A publisher that says nothing is no sign of trouble here: the task that listens ticks by itself.
            Origin::Mqtt { .. } | Origin::Simulator | Origin::Sum { .. } => None,
        };
        // A disk that cannot be written is told and waited for, and the sources wait with it once the queue is full; a
        // restart would not mend it, and would lose what is queued.
        let writable = health.unwritable.is_none();
        let interval = meters.iter().filter_map(interval).min().filter(|_| writable);
        Seen {
            attempts: self.sources.borrow().attempts,
            interval: interval.map(|ms| Duration::from_millis(ms.into())),
            commits: health.commits,
            waiting: health.queued > 0 && writable,
            answers,
        }
    }
}

fn status(answering: usize, meters: usize, wrong: &[String]) -> String {
    let mut text = format!("{answering} of {meters} meters answer");
    if let Some(first) = wrong.first() {
        text += &format!("; {first}");
    }
    if wrong.len() > 1 {
        text += &format!(" (and {} more: `meterseal health`)", wrong.len() - 1);
    }
    text
}

/// What one look saw.
struct Seen {
    /// Polls tried since start, answered or not.
    attempts: u64,
    /// The shortest polling interval; absent without meters, and while the sources wait for a disk.
    interval: Option<Duration>,
    commits: u64,
    /// Readings wait for a commit.
    waiting: bool,
    /// The store answered a question.
    answers: bool,
}

/// When each kind of work was last seen to go on.
#[derive(Default)]
struct Progress {
    attempts: (u64, Duration),
    commits: (u64, Duration),
    answered: Duration,
}

/// Silent meters are asked again within 30 s, so a minute without any attempt is a standstill.
const PATIENCE: Duration = Duration::from_secs(60);

impl Progress {
    /// The part that has stood still for too long, if any. `now` is time since start.
    fn look(&mut self, seen: &Seen, now: Duration) -> Result<(), &'static str> {
        if seen.attempts != self.attempts.0 || seen.interval.is_none() {
            self.attempts = (seen.attempts, now);
        }
        if seen.commits != self.commits.0 || !seen.waiting {
            self.commits = (seen.commits, now);
        }
        if seen.answers {
            self.answered = now;
        }
        let polls_due = PATIENCE.max(seen.interval.unwrap_or_default() * 3);
        if now - self.attempts.1 > polls_due {
            return Err("the sources");
        }
        if now - self.commits.1 > PATIENCE || now - self.answered > PATIENCE {
            return Err("the store");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(attempts: u64, commits: u64) -> Seen {
        Seen { attempts, interval: Some(SECOND), commits, waiting: true, answers: true }
    }

    #[test]
    fn what_is_wrong_is_told_beside_the_meters() {
        let told = |wrong: &[&str]| status(3, 4, &wrong.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(told(&[]), "3 of 4 meters answer");
        assert_eq!(told(&["the disk is full"]), "3 of 4 meters answer; the disk is full");
        let two = "3 of 4 meters answer; the disk is full (and 1 more: `meterseal health`)";
        assert_eq!(told(&["the disk is full", "the config on disk is refused"]), two);
    }

    #[test]
    fn polls_and_commits_that_go_on_feed_it() {
        let mut progress = Progress::default();
        for at in 1..100 {
            assert_eq!(progress.look(&seen(u64::from(at), u64::from(at)), SECOND * 10 * at), Ok(()));
        }
    }

    #[test]
    fn a_standstill_of_either_starves_it() {
        let mut progress = Progress::default();
        assert_eq!(progress.look(&seen(0, 1), SECOND * 30), Ok(()));
        assert_eq!(progress.look(&seen(0, 2), SECOND * 61), Err("the sources"));
        assert_eq!(progress.look(&seen(1, 2), SECOND * 90), Ok(()));
        assert_eq!(progress.look(&seen(2, 2), SECOND * 122), Err("the store"));
        assert_eq!(progress.look(&Seen { waiting: false, ..seen(3, 2) }, SECOND * 130), Ok(()));
        let mute = |attempts| Seen { answers: false, waiting: false, ..seen(attempts, 2) };
        assert_eq!(progress.look(&mute(4), SECOND * 150), Ok(()));
        assert_eq!(progress.look(&mute(5), SECOND * 191), Err("the store"));
    }

    #[test]
    fn without_meters_the_store_alone_counts() {
        let idle = Seen { attempts: 0, interval: None, commits: 0, waiting: false, answers: true };
        assert_eq!(Progress::default().look(&idle, SECOND * 100_000), Ok(()));
    }

    #[test]
    fn meters_asked_every_quarter_of_an_hour_are_no_standstill() {
        let rare = |attempts| Seen { interval: Some(SECOND * 900), ..seen(attempts, attempts) };
        let mut progress = Progress::default();
        assert_eq!(progress.look(&Seen { waiting: false, ..rare(0) }, SECOND * 1_800), Ok(()));
        assert_eq!(progress.look(&Seen { waiting: false, ..rare(0) }, SECOND * 2_701), Err("the sources"));
    }
}
