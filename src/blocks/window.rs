//! One meter's readings in order of time, read from the store as they are needed, with moves that are about to be
//! made durable already applied.

use std::collections::VecDeque;

use crate::model::{MeterId, Redate, StoredReading, Timestamp};
use crate::store::{Reader, ReadingStream, StoreError};

/// Readings of a meter up to a time and a seq: what came later is left for the next look.
#[derive(Clone)]
pub struct View {
    pub reader: Reader,
    pub meter: MeterId,
    /// Readings later than this are not believed yet.
    pub horizon: Timestamp,
    pub through_seq: u64,
    /// Moves that are not in the store yet.
    pub moves: Vec<Redate>,
    /// Readings that were turned away, from seq to seq in order.
    pub rejected: Vec<(u64, u64)>,
}

/// A view's readings from some time on.
pub struct Window {
    view: View,
    source: Source,
    buffer: VecDeque<StoredReading>,
}

enum Source {
    Stream(ReadingStream),
    /// With moves, stretches are read and put in order one at a time, beginning here, this long.
    Stretches(Timestamp, i64),
    Ended,
}

/// A stretch of readings that is put in order in memory.
const STRETCH_MS: i64 = 6 * 3_600_000;

#[cfg(test)]
thread_local! {
    /// How often the store was read, for tests of what a gap costs.
    pub static FILLS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl View {
    pub fn from(&self, from: Timestamp) -> Window {
        let source = if from > self.horizon {
            Source::Ended
        } else if self.moves.is_empty() {
            Source::Stream(self.reader.readings(self.meter.clone(), from, self.horizon.plus_millis(1)))
        } else {
            Source::Stretches(from, STRETCH_MS)
        };
        Window { view: self.clone(), source, buffer: VecDeque::new() }
    }

    fn admits(&self, seq: u64) -> bool {
        let run = self.rejected.partition_point(|(_, last)| *last < seq);
        seq <= self.through_seq && self.rejected.get(run).is_none_or(|(first, _)| seq < *first)
    }

    /// All readings in `[from, to)` with the moves applied, in order.
    async fn stretch(&self, from: Timestamp, to: Timestamp) -> Result<Vec<StoredReading>, StoreError> {
        let moved = |seq| self.moves.iter().find(|at| (at.first_seq..=at.last_seq).contains(&seq));
        let mut found = Vec::new();
        let mut stream = self.reader.readings(self.meter.clone(), from, to);
        while let Some(batch) = stream.next().await {
            found.extend(batch?.into_iter().filter(|at| moved(at.seq).is_none()));
        }
        for at in &self.moves {
            let (from, to) = (from.plus_millis(-at.offset_ms), to.plus_millis(-at.offset_ms));
            let mut stream = self.reader.readings(self.meter.clone(), from, to);
            while let Some(batch) = stream.next().await {
                let of_it = batch?.into_iter().filter(|reading| (at.first_seq..=at.last_seq).contains(&reading.seq));
                found.extend(of_it.map(|mut reading| {
                    reading.time = reading.time.plus_millis(at.offset_ms);
                    reading
                }));
            }
        }
        found.sort_by_key(|reading| (reading.time, reading.seq));
        Ok(found)
    }
}

impl Window {
    /// The reading at `place` after the first one, if there is one up to the horizon.
    pub async fn peek(&mut self, place: usize) -> Result<Option<&StoredReading>, StoreError> {
        while self.buffer.len() <= place && self.fill().await? {}
        Ok(self.buffer.get(place))
    }

    /// Takes the readings before `end` out of the window.
    pub async fn take_before(&mut self, end: Timestamp) -> Result<Vec<StoredReading>, StoreError> {
        let mut taken = Vec::new();
        while self.peek(0).await?.is_some_and(|reading| reading.time < end) {
            taken.extend(self.buffer.pop_front());
        }
        Ok(taken)
    }

    /// Takes the first reading out of the window.
    pub async fn pop(&mut self) -> Result<Option<StoredReading>, StoreError> {
        self.peek(0).await?;
        Ok(self.buffer.pop_front())
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> Result<bool, StoreError> {
        #[cfg(test)]
        FILLS.set(FILLS.get() + usize::from(!matches!(self.source, Source::Ended)));
        let view = &self.view;
        match &mut self.source {
            Source::Ended => return Ok(false),
            Source::Stream(stream) => match stream.next().await {
                Some(batch) => self.buffer.extend(batch?.into_iter().filter(|at| view.admits(at.seq))),
                None => self.source = Source::Ended,
            },
            Source::Stretches(from, long) => {
                let to = from.plus_millis(*long).min(view.horizon.plus_millis(1));
                let found = view.stretch(*from, to).await?;
                // Over a long silence the stretches grow, so that years of it cost a few reads.
                *long = if found.is_empty() { long.saturating_mul(2) } else { STRETCH_MS };
                *from = to;
                if to > view.horizon {
                    self.source = Source::Ended;
                }
                self.buffer.extend(found.into_iter().filter(|at| view.admits(at.seq)));
            }
        }
        Ok(true)
    }
}
