//! One meter's way through its blocks: closes one after the other from readings and from what is sealed already.
//!
//! The same walk seals what is due and revises what is sealed. It writes nothing: what it makes is handed to the store
//! in one transaction.

use std::collections::BTreeSet;

use super::interval::reach_of;
use super::register::{Register, border_of};
use super::rule::{Carry, Tally, Terms, committed};
use super::window::{View, Window};
use crate::model::calendar::Spans;
use crate::model::{
    Block, BlockFlag, BlockFlags, Border, Borders, Category, Digest, Interval, Role, Span, StoredReading, Timestamp,
};
use crate::store::StoreError;

/// A silence longer than this is one record.
pub const LONG_SILENCE_MS: i64 = 24 * 3_600_000;
/// A gap longer than this is not split into blocks, so that a clock years ahead makes no million of them.
const LONG_GAP_MS: i64 = 400 * 24 * 3_600_000;
/// So many readings are held to look past the end of a block; a register that says nothing for longer is looked for
/// by itself.
const LOOK_AHEAD: usize = 2_000;
/// The interval of a meter of which nothing else is known.
const UNKNOWN_INTERVAL_MS: u32 = 60_000;
/// A meter without interval: the median of so many gaps.
const GAPS: usize = 20;

/// What a block's record tells of its meter beside its energy, from the newest reading that is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Nature {
    pub category: Category,
    pub interval_ms: u32,
    pub template: Option<Digest>,
    pub simulated: bool,
}

/// Where the walk is, and what it made.
pub struct Walk<'a> {
    spans: &'a Spans,
    view: View,
    window: Window,
    now: Timestamp,
    pos: Timestamp,
    carry: Carry,
    nature: Nature,
    /// What is in effect from a little before the first block on, by start.
    records: Vec<Block>,
    /// A direction's next words, looked for beyond what is held, by role.
    far: [Option<Far>; 2],
    /// A reading too old to be booked came since the last block.
    pub rejected: bool,
    /// Readings that came late for blocks whose other readings are gone, by seq.
    pub unbooked: Vec<u64>,
    pub made: Vec<Block>,
}

/// One direction's words beyond what is held. It serves all blocks of a gap, so that their readings are read once.
struct Far {
    /// Where its register stood then; empty where the last reading told of an interval.
    stood: Register,
    after: Timestamp,
    /// The words after that, but for those that change nothing, such as a night of zeros.
    found: Vec<Border>,
    /// Where the search stopped.
    rest: Window,
}

impl<'a> Walk<'a> {
    /// Begins at `pos`, a border; `records` are the blocks in effect from just before it.
    pub fn begin(
        spans: &'a Spans,
        view: View,
        now: Timestamp,
        pos: Timestamp,
        records: Vec<Block>,
        nature: Nature,
    ) -> Self {
        let window = view.from(pos);
        let mut walk = Self {
            spans,
            view,
            window,
            now,
            pos,
            carry: Carry::default(),
            nature,
            records,
            far: [None, None],
            rejected: false,
            unbooked: Vec::new(),
            made: Vec::new(),
        };
        if let Some(last) = walk.record_before(pos).cloned() {
            walk.carry = Carry::after(&last.borders, last.span.end());
            walk.nature.interval_ms = last.interval_ms;
            walk.nature.template = last.template;
            walk.nature.category = last.category;
            walk.nature.simulated = last.flags.has(BlockFlag::Simulated);
        }
        walk
    }

    pub fn pos(&self) -> Timestamp {
        self.pos
    }

    /// Revises the blocks that `touched` instants lie in, and those after them until nothing changes, up to
    /// `sealed`.
    pub async fn revise(&mut self, touched: &BTreeSet<Timestamp>, sealed: Timestamp) -> Result<(), StoreError> {
        while self.pos < sealed {
            let more = touched.range(self.pos..).next().is_some_and(|at| *at < sealed);
            let known = self
                .record_before(self.pos)
                .map(|record| Carry::after(&record.borders, record.span.end()))
                .unwrap_or_default();
            let passed = touched.range(..self.pos).next_back().is_some();
            if passed && !more && known == self.carry {
                break;
            }
            self.one_more(sealed, true).await?;
        }
        Ok(())
    }

    /// Seals the next blocks up to `due`, at most `limit`. True when more are due.
    pub async fn seal(&mut self, due: Timestamp, configured: bool, limit: usize) -> Result<bool, StoreError> {
        while self.pos < due {
            if self.made.len() >= limit {
                return Ok(true);
            }
            let next = self.next_told().await?;
            match next {
                // Before the first reading there is nothing to tell.
                Some(at) if self.carry.spoke().is_none() && at >= self.end_of_next(due) => {
                    self.pos = self.spans.containing(at).span.start().max(self.pos);
                    if self.pos >= due {
                        break;
                    }
                }
                None if self.carry.spoke().is_none() || !configured => break,
                _ => {}
            }
            if !self.one_more(due, false).await? {
                break;
            }
        }
        Ok(false)
    }

    /// Closes the block at the present place, or several as one record. False when it must wait.
    async fn one_more(&mut self, until: Timestamp, revising: bool) -> Result<bool, StoreError> {
        let recorded = self.record_at(self.pos).cloned();
        let next = self.next_told().await?;
        let period = self.period(recorded.as_ref(), until);
        if next.is_some_and(|at| at < period.end()) {
            self.close(period, recorded.as_ref()).await?;
            return Ok(true);
        }
        // No reading of its own: the run of such blocks, as far as they are whole.
        let run_end = match next {
            Some(at) => self.spans.containing(at).span.start().min(until),
            None => until,
        };
        let run = Span::new(self.pos, run_end.max(period.end())).unwrap_or(period);
        let (before, rejected) = (self.carry.clone(), self.rejected);
        let (made, known) = (self.made.len(), self.carry.told_until());
        self.close(period, recorded.as_ref()).await?;
        let null = self.made.last().filter(|_| self.made.len() > made).map_or_else(
            || recorded.as_ref().is_none_or(|record| record.net().is_none()),
            |block| block.import.is_none() && block.export.is_none(),
        );
        let long = if null { run.millis() > LONG_SILENCE_MS } else { run.millis() > LONG_GAP_MS };
        if long {
            self.made.truncate(made);
            (self.carry, self.rejected, self.pos) = (before, rejected, run.start());
            if revising && null && self.is_silent(run) {
                self.pos = run.end();
                return Ok(true);
            }
            self.close(run, recorded.as_ref()).await?;
            return Ok(true);
        }
        let silent_for = known.map_or(0, |spoke| run.start().millis_since(spoke));
        if null && !revising && silent_for > LONG_SILENCE_MS {
            self.made.truncate(made);
            (self.carry, self.rejected, self.pos) = (before, rejected, run.start());
            // The first day of a silence is told block by block; what follows as one record a day, or up to its end.
            if next.is_none() {
                return Ok(false);
            }
            self.close(run, recorded.as_ref()).await?;
        }
        Ok(true)
    }

    /// From when on the readings that come next tell something: intervals reach back behind their labels.
    async fn next_told(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let Some(first) = self.window.peek(0).await? else { return Ok(None) };
        let (first, mut from) = (first.time, reach_of(first).0);
        let longest = i64::from(Interval::LONGEST_MS);
        for place in 0..LOOK_AHEAD {
            match self.window.peek(place).await? {
                Some(next) if next.layout.has_intervals() && next.time.millis_since(first) <= longest => {
                    from = from.min(reach_of(next).0);
                }
                _ => break,
            }
        }
        Ok(Some(from))
    }

    /// Closes `span` and goes on behind it. Makes nothing where what is in effect says the same.
    async fn close(&mut self, span: Span, recorded: Option<&Block>) -> Result<(), StoreError> {
        let readings = self.window.take_before(span.end()).await?;
        let own = recorded.filter(|record| record.span == span);
        let mut block = match own {
            Some(record) if self.raw_is_gone(record, &readings).await? => {
                let late = readings.iter().filter(|reading| reading.seq > record.through_seq);
                self.unbooked.extend(late.map(|reading| reading.seq));
                // From where the record ends, with what has come after it.
                let carry = Carry::after(&record.borders, record.span.end());
                let mut tally = Tally::begin(span, carry, record.interval_ms, false);
                self.look_ahead(&mut tally).await?;
                tally.extend(record, self.now)
            }
            _ => {
                self.learn(&readings);
                let mut tally = Tally::begin(span, self.carry.clone(), self.nature.interval_ms, true);
                readings.iter().for_each(|reading| tally.push(reading));
                self.look_ahead(&mut tally).await?;
                tally.finish(self.terms(span, own))
            }
        };
        let unheard = self.carry.spoke().is_none() && block.import.is_none() && block.export.is_none();
        self.carry = Carry::after(&block.borders, block.span.end());
        self.pos = span.end();
        if recorded.is_none() && unheard {
            return Ok(()); // Before the first reading there is nothing to tell.
        }
        if let Some(record) = recorded {
            // Intervals reach into the block from outside.
            let beside = block.borders.before.iter().chain(&block.borders.after);
            let mut told = beside.filter(|at| at.told().is_some_and(|told| told.overlaps(&span))).map(|at| at.seq);
            let new = record.through_seq + 1..=block.through_seq;
            let is_late = readings.iter().any(|at| new.contains(&at.seq)) || told.any(|seq| new.contains(&seq));
            if is_late || record.flags.has(BlockFlag::Late) {
                block.flags.add(BlockFlag::Late);
            }
            if record.flags.has(BlockFlag::LateRejected) {
                block.flags.add(BlockFlag::LateRejected);
            }
            let null = block.import.is_none() && block.export.is_none();
            if null && record.flags.has(BlockFlag::Clock) {
                block.flags.add(BlockFlag::Clock);
            }
            if record.span == span && says_the_same(record, &block) {
                return Ok(());
            }
            if !self.view.moves.is_empty() {
                block.flags.add(BlockFlag::Clock);
            }
        }
        if std::mem::take(&mut self.rejected) {
            block.flags.add(BlockFlag::LateRejected);
        }
        block.revision = self.next_revision(span);
        self.made.push(block);
        Ok(())
    }

    /// Takes readings past the span's end until nothing more can change it.
    async fn look_ahead(&mut self, tally: &mut Tally) -> Result<(), StoreError> {
        let mut place = 0;
        let mut last = self.pos;
        while let Some(reading) = self.window.peek(place).await? {
            tally.push(reading);
            last = reading.time;
            place += 1;
            if tally.settled(last) && !tally.wants(Role::Import) && !tally.wants(Role::Export) {
                return Ok(());
            }
            if tally.settled(last) && place >= LOOK_AHEAD {
                break;
            }
        }
        if place < LOOK_AHEAD {
            return Ok(()); // There are no more readings.
        }
        for (slot, role) in [Role::Import, Role::Export].into_iter().enumerate() {
            if tally.wants(role) {
                self.look_far(tally, slot, role, last).await?;
            }
        }
        Ok(())
    }

    /// Looks for the next words of one direction alone, and keeps them for the blocks that follow.
    async fn look_far(
        &mut self,
        tally: &mut Tally,
        slot: usize,
        role: Role,
        last: Timestamp,
    ) -> Result<(), StoreError> {
        let register = |tally: &Tally| tally.track(role).map(|track| track.register().clone()).unwrap_or_default();
        let stood = register(tally);
        let known = self.far[slot].take().filter(|far| far.after <= last && far.stood.stands_as(&stood));
        let mut far = known.unwrap_or_else(|| {
            let rest = self.view.from(last.plus_millis(1));
            Far { stood, after: last, found: Vec::new(), rest }
        });
        for border in far.found.iter().filter(|border| border.time > last) {
            if !tally.wants(role) {
                break;
            }
            tally.take_ahead(*border);
        }
        // Whether an interval counts depends on the block, so that after one nothing is known to change nothing.
        let mut by_register = far.stood.last().is_some() && far.found.iter().all(|border| border.interval.is_none());
        while tally.wants(role)
            && let Some(reading) = far.rest.pop().await?
        {
            if let Some(border) = border_of(&reading, role, reading.layout.slot_of(role)) {
                let before = register(tally);
                tally.take_ahead(border);
                by_register &= border.interval.is_none();
                if !by_register || !before.stands_as(&register(tally)) {
                    far.found.push(border);
                }
            }
        }
        self.far[slot] = Some(far);
        Ok(())
    }

    /// What the readings tell of their meter.
    fn learn(&mut self, readings: &[StoredReading]) {
        let Some(last) = readings.last() else { return };
        let layout = &last.layout;
        self.nature.category = layout.category;
        self.nature.template = layout.template;
        self.nature.simulated = layout.simulated;
        self.nature.interval_ms = match layout.interval_ms {
            Some(interval) => interval,
            None => median_gap(readings).unwrap_or(self.nature.interval_ms),
        };
    }

    fn terms(&self, span: Span, own: Option<&Block>) -> Terms {
        let whole = i64::from(self.spans.nominal_ms());
        Terms {
            meter: self.view.meter.clone(),
            category: self.nature.category,
            interval_ms: self.nature.interval_ms,
            template: self.nature.template,
            simulated: self.nature.simulated,
            nominal_ms: own.map_or(self.spans.nominal_ms(), |record| record.nominal_ms),
            // A record keeps the borders it was sealed with, whatever the tariff says today.
            cut: own.map_or_else(
                || span.millis() < whole && self.spans.containing(span.start()).cut,
                |record| record.flags.has(BlockFlag::Dst),
            ),
            is_peak_hour: own.map_or_else(|| self.spans.is_peak(span.start()), |record| record.is_peak_hour),
            zone: own.map_or_else(|| self.spans.zone().to_owned(), |record| record.zone.clone()),
            through_seq: self.view.through_seq,
            sealed: self.now,
        }
    }

    /// The block at the present place: as it was sealed, else by the calendar.
    fn period(&self, recorded: Option<&Block>, until: Timestamp) -> Span {
        if let Some(record) = recorded
            && record.span.start() == self.pos
            && record.span.millis() <= i64::from(record.nominal_ms)
        {
            return record.span;
        }
        let mut end = self.spans.containing(self.pos).span.end().min(until);
        if let Some(next) = self.records.iter().find(|record| record.span.start() > self.pos) {
            end = end.min(next.span.start());
        }
        Span::new(self.pos, end).unwrap_or_else(|| self.spans.containing(self.pos).span)
    }

    fn end_of_next(&self, until: Timestamp) -> Timestamp {
        self.period(self.record_at(self.pos), until).end()
    }

    fn record_at(&self, at: Timestamp) -> Option<&Block> {
        // The newest of those that overlap: a long silence may reach over blocks that came later.
        self.records.iter().filter(|record| record.span.contains(at)).max_by_key(|record| record.revision)
    }

    fn record_before(&self, at: Timestamp) -> Option<&Block> {
        self.record_at(at.plus_millis(-1))
    }

    fn next_revision(&self, span: Span) -> u32 {
        self.records
            .iter()
            .filter(|record| record.span.overlaps(&span))
            .map(|record| record.revision + 1)
            .max()
            .unwrap_or(0)
    }

    /// Whether all that is in effect over `run` is silence after the same last words.
    fn is_silent(&self, run: Span) -> bool {
        let mut at = run.start();
        while at < run.end() {
            match self.record_at(at) {
                Some(record)
                    if record.net().is_none()
                        && Carry::after(&record.borders, record.span.end()) == self.carry
                        && record.borders.after.is_empty() =>
                {
                    at = record.span.end();
                }
                _ => return false,
            }
        }
        true
    }

    /// Whether readings that the record stands on are no longer kept. `readings` are those in its span that are.
    async fn raw_is_gone(&mut self, record: &Block, readings: &[StoredReading]) -> Result<bool, StoreError> {
        let borders = &record.borders;
        if !self.view.moves.is_empty() {
            // What is about to be moved is not where the record had it.
            let moved = |seq: u64| self.view.moves.iter().any(|at| (at.first_seq..=at.last_seq).contains(&seq));
            let found = |border: &Border| readings.iter().any(|at| at.seq == border.seq && at.time == border.time);
            return Ok(borders.last.iter().any(|border| !found(border) && !moved(border.seq)));
        }
        if *borders == Borders::default() {
            return Ok(false); // Withdrawn: it stands on nothing.
        }
        let known = readings.iter().filter(|reading| reading.seq <= record.through_seq);
        if committed(borders, known) != record.readings_sha256 {
            return Ok(true);
        }
        // The span may be whole, or have been silent always, and what follows be gone.
        for border in &borders.after {
            if !self.is_kept(border).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a reading at or after the present place is still in the store.
    async fn is_kept(&mut self, border: &Border) -> Result<bool, StoreError> {
        if border.time > self.now {
            return Ok(true); // Not believed yet.
        }
        for place in 0..LOOK_AHEAD {
            match self.window.peek(place).await? {
                Some(reading) if reading.time < border.time => {}
                Some(reading) if reading.time == border.time && reading.seq != border.seq => {}
                found => return Ok(found.is_some_and(|reading| reading.time == border.time)),
            }
        }
        let mut window = self.view.from(border.time);
        let mut place = 0;
        while let Some(reading) = window.peek(place).await?.filter(|reading| reading.time == border.time) {
            if reading.seq == border.seq {
                return Ok(true);
            }
            place += 1;
        }
        Ok(false)
    }
}

/// The same block but for when and how often it was sealed.
fn says_the_same(a: &Block, b: &Block) -> bool {
    let plain = |block: &Block| {
        let flags: BlockFlags =
            block.flags.iter().filter(|flag| !matches!(flag, BlockFlag::Late | BlockFlag::LateRejected)).collect();
        Block { revision: 0, through_seq: 0, sealed: Timestamp::default(), flags, ..block.clone() }
    };
    plain(a) == plain(b)
}

/// The block withdrawn: what was sealed by a wrong clock says nothing.
pub fn withdrawn(block: &Block, now: Timestamp) -> Block {
    Block {
        revision: block.revision + 1,
        import: None,
        export: None,
        max_power: None,
        min_power: None,
        covered_ms: 0,
        coverage: 0,
        flags: BlockFlags::NONE.with(BlockFlag::Clock).with(BlockFlag::Gap),
        readings_sha256: Digest::of(b""),
        borders: Borders::default(),
        sealed: now,
        ..block.clone()
    }
}

/// The median of the last gaps between readings, 1 s to 15 min.
fn median_gap(readings: &[StoredReading]) -> Option<u32> {
    let last = &readings[readings.len().saturating_sub(GAPS + 1)..];
    let mut gaps: Vec<i64> = last.windows(2).map(|pair| pair[1].time.millis_since(pair[0].time)).collect();
    gaps.sort_unstable();
    let median = *gaps.get(gaps.len() / 2)?;
    u32::try_from(median.clamp(1_000, 900_000)).ok()
}

impl Nature {
    /// A meter of which nothing is known but its category.
    pub fn unknown(category: Category, interval_ms: Option<u32>, simulated: bool) -> Self {
        Self { category, interval_ms: interval_ms.unwrap_or(UNKNOWN_INTERVAL_MS), template: None, simulated }
    }
}
