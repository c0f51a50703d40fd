//! How an upstream does, as it is shown: told at once when its state changes, and else once a second at most.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::Upstream;
use super::lane::Flow;
use super::minutes::PLACES;
use super::position;
use crate::clock::Clock;
use crate::model::{Position, Stream, StreamStatus, Timestamp, Unsent, UpstreamState, UpstreamStatus, UpstreamsStatus};

/// Counters are told so often at most.
const TOLD_EVERY_MS: u64 = 1_000;
/// What `per_minute` counts is kept by stretches of so long.
const STEP_MS: u64 = 5_000;
const STEPS: usize = 12;

/// How much of a stream waits: seqs, or minutes. Those of readings that were never used are not counted.
pub fn depth(stream: Stream, position: &Position, (head, unused): (u64, &[Unsent])) -> u64 {
    match stream {
        // Only the newest one is owed, whatever its size.
        Stream::Checkpoints => u64::from(head > position.live),
        Stream::Minutes => position::depth(position, head, &[]).div_ceil(PLACES),
        Stream::Readings => position::depth(position, head, unused),
        _ => position::depth(position, head, &[]),
    }
}

/// What is shown of one upstream.
pub struct Shown {
    name: String,
    clock: Clock,
    status: UpstreamStatus,
    streams: BTreeMap<Stream, Acknowledged>,
    all: watch::Sender<Arc<UpstreamsStatus>>,
    told_ms: u64,
    is_untold: bool,
}

/// Acknowledged records by the time of their acknowledgement.
#[derive(Default)]
struct Acknowledged {
    /// The number of the newest step, and what each of the last ones counted.
    step: u64,
    counts: [u64; STEPS],
}

impl Acknowledged {
    fn turn(&mut self, now_ms: u64) {
        let step = now_ms / STEP_MS;
        for _ in 0..step.saturating_sub(self.step).min(STEPS as u64) {
            self.counts.rotate_right(1);
            self.counts[0] = 0;
        }
        self.step = self.step.max(step);
    }
}

/// What a batch came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Came {
    pub sent: u64,
    pub repeated: u64,
    pub rejected: u64,
    pub in_doubt: u64,
    pub skipped: u64,
}

impl Shown {
    pub fn new(
        upstream: &Upstream,
        streams: &[Stream],
        clock: Clock,
        all: watch::Sender<Arc<UpstreamsStatus>>,
    ) -> Self {
        let status = UpstreamStatus {
            kind: upstream.kind.as_str().to_owned(),
            to: upstream.kind.to(),
            since: clock.now(),
            streams: streams.iter().map(|stream| (*stream, StreamStatus::default())).collect(),
            ..UpstreamStatus::default()
        };
        let name = upstream.name.clone();
        Self { name, clock, status, streams: BTreeMap::new(), all, told_ms: 0, is_untold: true }
    }

    /// Another state, or another problem; told at once. Whether it is another one.
    pub fn turn(&mut self, state: UpstreamState, problem: Option<String>) -> bool {
        let is_new = self.status.state != state || self.status.problem != problem;
        if self.status.state != state {
            (self.status.state, self.status.since) = (state, self.clock.now());
        }
        self.status.problem = problem;
        if is_new {
            self.tell_now();
        }
        is_new
    }

    pub fn state(&self) -> UpstreamState {
        self.status.state
    }

    pub fn retried(&mut self) {
        self.status.retries += 1;
        self.is_untold = true;
    }

    pub fn dead_letters(&mut self, count: u64) {
        self.is_untold |= self.status.dead_letters != count;
        self.status.dead_letters = count;
    }

    pub fn came(&mut self, stream: Stream, came: Came) {
        let (now, now_ms) = (self.clock.now(), self.clock.since_boot_ms());
        self.is_untold = true;
        let acknowledged = self.streams.entry(stream).or_default();
        acknowledged.turn(now_ms);
        acknowledged.counts[0] += came.sent;
        let Some(status) = self.stream(stream) else { return };
        status.sent += came.sent;
        status.repeated += came.repeated;
        status.rejected += came.rejected;
        status.in_doubt += came.in_doubt;
        status.skipped += came.skipped;
        if came.sent > 0 {
            status.acknowledged = Some(now);
        }
    }

    /// How far a stream is.
    pub fn stands(&mut self, stream: Stream, flow: &Flow, (head, unused): (u64, &[Unsent]), oldest: Option<Timestamp>) {
        let depth = depth(stream, &flow.position, (head, unused));
        let Some(status) = self.stream(stream) else { return };
        let is_same = status.head == head && status.depth == depth && status.oldest == oldest;
        if is_same && status.position == flow.position {
            return;
        }
        (status.head, status.depth, status.oldest) = (head, depth, oldest);
        status.position.clone_from(&flow.position);
        self.is_untold = true;
    }

    fn stream(&mut self, wanted: Stream) -> Option<&mut StreamStatus> {
        self.status.streams.iter_mut().find(|(stream, _)| *stream == wanted).map(|(_, status)| status)
    }

    /// Tells what changed when its time has come.
    pub fn tell(&mut self) {
        let now_ms = self.clock.since_boot_ms();
        for (stream, acknowledged) in &mut self.streams {
            acknowledged.turn(now_ms);
            let sum = acknowledged.counts.iter().sum();
            let shown = self.status.streams.iter_mut().find(|(shown, _)| shown == stream);
            if let Some((_, status)) = shown.filter(|(_, status)| status.per_minute != sum) {
                status.per_minute = sum;
                self.is_untold = true;
            }
        }
        if self.is_untold && now_ms.saturating_sub(self.told_ms) >= TOLD_EVERY_MS {
            self.tell_now();
        }
    }

    pub fn tell_now(&mut self) {
        (self.told_ms, self.is_untold) = (self.clock.since_boot_ms(), false);
        self.all.send_modify(|all| {
            Arc::make_mut(all).insert(self.name.clone(), self.status.clone());
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::{Kind, Start};

    #[test]
    fn counters_are_told_once_a_second_and_states_at_once() {
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let all = watch::Sender::new(Arc::default());
        let mut seen = all.subscribe();
        let kind = Kind::Off { kind: "https", to: "there".to_owned(), why: String::new() };
        let upstream = Upstream { name: "u".to_owned(), kind, streams: vec![Stream::Alerts], start: Start::Oldest };
        let mut shown = Shown::new(&upstream, &upstream.streams, clock.clone(), all);
        shown.turn(UpstreamState::Connected, None);
        assert_eq!(seen.borrow_and_update()["u"].state, UpstreamState::Connected);
        let of_it =
            |seen: &mut watch::Receiver<Arc<UpstreamsStatus>>| seen.borrow_and_update()["u"].streams[0].1.clone();
        for _ in 0..10 {
            shown.came(Stream::Alerts, Came { sent: 7, ..Came::default() });
            shown.tell();
        }
        assert!(!seen.has_changed().unwrap(), "the second is not over");
        clock.advance(Duration::from_secs(1));
        shown.tell();
        assert_eq!((of_it(&mut seen).sent, of_it(&mut seen).per_minute), (70, 70));
        clock.advance(Duration::from_secs(61));
        shown.tell();
        assert_eq!((of_it(&mut seen).sent, of_it(&mut seen).per_minute), (70, 0), "over a minute ago");
        shown.turn(UpstreamState::Connected, None);
        assert!(!seen.has_changed().unwrap());
        assert!(shown.turn(UpstreamState::Away, Some("no answer".to_owned())));
        assert_eq!(seen.borrow_and_update()["u"].problem.as_deref(), Some("no answer"));
    }
}
