//! Records of a stream, read from the store. A batch's records are held and one pack of readings for each lane that is
//! at old ones, however much waits behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::minutes::{self, Tally};
use super::position::{Lane, Stretch};
use super::record::{Body, Minute, Record};
use crate::clock::Clock;
use crate::model::{ClockState, Event, LoggedBlock, Role, Stream, TakenReading, Timestamp};
use crate::store::{Identity, Reader, StoreError, TakenCursor};

/// So long after it was taken, a reading is sent though the clock is not right yet.
const CLOCK_WAIT_MS: u64 = 300_000;
/// Minutes that are made at once, and about so many records of them.
const MINUTES: usize = 60;
const MADE: usize = 4_096;

/// Reads for one upstream.
pub struct Source {
    reader: Reader,
    clock: Clock,
    live: Option<TakenCursor>,
    backfill: Option<TakenCursor>,
    /// Of each lane.
    made: [Option<Made>; 2],
}

/// Records of complete minutes: all that there are with `after < seq <= through`.
struct Made {
    after: u64,
    through: u64,
    records: Vec<Record>,
}

/// What was found in a stretch: records of one epoch.
#[derive(Debug, Default)]
pub struct Found {
    pub epoch: String,
    pub records: Vec<Record>,
    /// Up to this seq there is nothing else.
    pub through: u64,
    /// What follows must wait so long for the clock.
    pub wait: Option<Duration>,
}

impl Source {
    pub fn new(reader: Reader, clock: Clock) -> Self {
        Self { reader, clock, live: None, backfill: None, made: [None, None] }
    }

    /// The first records of a stretch, at most `limit`. Blocks of the current epoch only with an index below `signed`.
    pub async fn read(
        &mut self,
        stream: Stream,
        stretch: Stretch,
        limit: usize,
        (identity, signed): (&Identity, u64),
    ) -> Result<Found, StoreError> {
        match stream {
            Stream::Readings => self.readings(stretch, limit).await,
            Stream::Blocks => self.blocks(stretch, limit, (identity, signed)).await,
            Stream::Minutes => self.minutes(stretch, limit, identity).await,
            Stream::Anchors | Stream::Datasets | Stream::Alerts | Stream::Notices => {
                let found = self.reader.events(stream, stretch.after, stretch.until, limit).await?;
                let through = found.last().map_or(stretch.until, |event| event.seq);
                Ok(of_one_epoch(found, through))
            }
            // Only the newest one is ever sent, and not from here.
            Stream::Checkpoints => Ok(Found { through: stretch.until, ..Found::default() }),
        }
    }

    async fn readings(&mut self, stretch: Stretch, limit: usize) -> Result<Found, StoreError> {
        let cursor = match stretch.lane {
            Lane::Live => self.live.get_or_insert_with(|| self.reader.taken()),
            Lane::Backfill => self.backfill.get_or_insert_with(|| self.reader.taken()),
        };
        let mut found = cursor.next(stretch.after, stretch.until, limit).await?;
        let mut through = if found.len() < limit { stretch.until } else { found.last().map_or(0, |one| one.seq) };
        if stretch.lane == Lane::Live && through == stretch.until {
            // The next ones come to the end of the newest file, of which nothing need be held.
            self.live = None;
        }
        let wait = self.hold_back(&mut found, &mut through);
        let (Some(first), Some(last)) = (found.first(), found.last()) else {
            return Ok(Found { through, wait, ..Found::default() });
        };
        let mut epochs = self.reader.epochs_of_readings(first.seq, last.seq).await?.into_iter();
        let epoch = epochs.next().map(|(_, epoch)| epoch).unwrap_or_default();
        if let Some((next, _)) = epochs.next() {
            found.retain(|reading| reading.seq < next);
            return Ok(Found { epoch, records: records(found), through: next - 1, wait: None });
        }
        Ok(Found { epoch, records: records(found), through, wait })
    }

    /// While the clock is not right, readings of this boot wait for it, each for some minutes.
    fn hold_back(&self, found: &mut Vec<TakenReading>, through: &mut u64) -> Option<Duration> {
        let now = self.clock.stamp();
        if now.clock == ClockState::Synchronised {
            return None;
        }
        let boot = self.clock.boot();
        let due = |one: &TakenReading| one.since_boot_ms.saturating_add(CLOCK_WAIT_MS);
        let waits = |one: &TakenReading| {
            one.clock == ClockState::Unsynchronised && *one.boot == *boot && due(one) > now.since_boot_ms
        };
        let at = found.iter().position(waits)?;
        let wait = due(&found[at]) - now.since_boot_ms;
        *through = found[at].seq - 1;
        found.truncate(at);
        Some(Duration::from_millis(wait))
    }

    async fn blocks(
        &self,
        stretch: Stretch,
        limit: usize,
        (identity, signed): (&Identity, u64),
    ) -> Result<Found, StoreError> {
        let mut found = self.reader.blocks_to_send(stretch.after, stretch.until, limit).await?;
        let mut through = if found.len() < limit { stretch.until } else { found.last().map_or(0, |one| one.seq) };
        let is_ahead = |block: &LoggedBlock| block.epoch == identity.epoch && block.index >= signed;
        if let Some(at) = found.iter().position(is_ahead) {
            through = found[at].seq - 1;
            found.truncate(at);
        }
        Ok(of_one_epoch(found, through))
    }

    /// Means of complete minutes, of all meters. What was made of a minute stays until all of it is settled: a reading that
    /// comes late must not move the others to other places.
    async fn minutes(&mut self, stretch: Stretch, limit: usize, identity: &Identity) -> Result<Found, StoreError> {
        let now = self.clock.stamp();
        if now.clock == ClockState::Unsynchronised && now.since_boot_ms < CLOCK_WAIT_MS {
            let wait = Duration::from_millis(CLOCK_WAIT_MS - now.since_boot_ms);
            return Ok(Found { through: stretch.after, wait: Some(wait), ..Found::default() });
        }
        let place = match stretch.lane {
            Lane::Live => 0,
            Lane::Backfill => 1,
        };
        let made = match self.made[place].take().filter(|made| (made.after..made.through).contains(&stretch.after)) {
            Some(made) => made,
            None => self.make(stretch).await?,
        };
        let within = |record: &&Record| (stretch.after + 1..=stretch.until).contains(&record.seq);
        let records: Vec<Record> = made.records.iter().filter(within).take(limit).cloned().collect();
        let through = if records.len() < limit { made.through } else { records.last().map_or(0, |last| last.seq) };
        self.made[place] = Some(made);
        Ok(Found { epoch: identity.epoch.clone(), records, through: through.min(stretch.until), wait: None })
    }

    async fn make(&self, stretch: Stretch) -> Result<Made, StoreError> {
        let nothing = Made { after: stretch.after, through: stretch.until, records: Vec::new() };
        let until = minutes::minute_of(stretch.until);
        let mut first = minutes::minute_of(stretch.after.saturating_add(1));
        let meters = self.reader.meters();
        // Years without readings are passed over at once.
        let mut begin: Option<Timestamp> = None;
        for meter in &meters {
            let next = self.reader.first_from(meter, Role::Power, minutes::start_of(first)).await?;
            begin = begin.into_iter().chain(next.map(|reading| reading.time)).min();
        }
        let Some(begin) = begin else { return Ok(nothing) };
        first = first.max(begin.as_millis().div_euclid(minutes::MINUTE_MS));
        if first > until {
            return Ok(nothing);
        }
        let at_once = (MADE / meters.len().max(1)).clamp(1, MINUTES);
        let last = until.min(first.saturating_add(i64::try_from(at_once).unwrap_or(1) - 1));
        let mut by_minute: BTreeMap<i64, Vec<Minute>> = BTreeMap::new();
        for meter in meters {
            let start = minutes::start_of(first);
            // The last power before it holds on into it.
            let before = self.reader.last_before(&meter, Role::Power, start).await?.map(|reading| reading.time);
            let from = before.filter(|time| start.millis_since(*time) <= minutes::REACH_MS).unwrap_or(start);
            let mut readings = self.reader.readings(meter.clone(), from, minutes::start_of(last + 1));
            let mut tally = Tally::default();
            while let Some(batch) = readings.next().await {
                batch?.iter().for_each(|reading| tally.add(reading));
            }
            for minute in tally.finish(&meter, first, last) {
                let at = minute.start.as_millis().div_euclid(minutes::MINUTE_MS);
                by_minute.entry(at).or_default().push(minute);
            }
        }
        let records = by_minute.into_iter().flat_map(|(minute, of_it)| minutes::records(minute, of_it));
        Ok(Made {
            after: stretch.after,
            through: minutes::last_of(last).min(stretch.until),
            records: records.collect(),
        })
    }

    /// When the first record of `after < seq <= until` came to be.
    pub async fn time_of(&self, stream: Stream, after: u64, until: u64) -> Result<Option<Timestamp>, StoreError> {
        Ok(match stream {
            Stream::Readings => self.reader.taken().next(after, until, 1).await?.first().map(|one| one.time),
            Stream::Blocks => self.reader.blocks_to_send(after, until, 1).await?.first().map(|one| one.time),
            Stream::Minutes => {
                let first = minutes::start_of(minutes::minute_of(after.saturating_add(1)));
                self.reader.oldest_taken().map(|oldest| oldest.max(first))
            }
            Stream::Checkpoints => None,
            _ => self.reader.events(stream, after, until, 1).await?.first().map(|one| one.time),
        })
    }
}

fn records(readings: Vec<TakenReading>) -> Vec<Record> {
    let record = |one: TakenReading| Record { seq: one.seq, time: one.time, body: Body::Reading(one) };
    readings.into_iter().map(record).collect()
}

/// What bears its epoch itself.
trait Keyed {
    fn epoch(&self) -> &str;
    fn record(self) -> Record;
}

impl Keyed for Event {
    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn record(self) -> Record {
        Record { seq: self.seq, time: self.time, body: Body::Event(self) }
    }
}

impl Keyed for LoggedBlock {
    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn record(self) -> Record {
        Record { seq: self.seq, time: self.time, body: Body::Block(Box::new(self)) }
    }
}

fn of_one_epoch<T: Keyed>(found: Vec<T>, through: u64) -> Found {
    let Some(epoch) = found.first().map(|first| first.epoch().to_owned()) else {
        return Found { through, ..Found::default() };
    };
    let all = found.len();
    let records: Vec<Record> = found.into_iter().take_while(|one| one.epoch() == epoch).map(Keyed::record).collect();
    let through = if records.len() == all { through } else { records.last().map_or(through, |last| last.seq) };
    Found { epoch, records, through, wait: None }
}
