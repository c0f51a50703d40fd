//! The writing thread: commits groups of readings, packs, and keeps the raw files within their limits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::codec::Entry;
use super::lost::{Cause, Going};
use super::queue::Item;
use super::raw::{self, Pen, RawFile};
use super::retention::{self, Aged, Deletions};
use super::search::{AtInstants, Instants};
use super::{Receipt, Shared, StoreError, backup, evidence, mutex, read, search, sqlite, write};
use crate::model::{ClockState, Layout, MeterId, Reading, Redate, Stamp, StoredReading, Timestamp, Values};

const DAY_MS: i64 = 86_400_000;
/// The pause before a commit that failed is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the tail grows before it is packed, by time and by bytes: packing holds it in memory once.
const PACK_EVERY: Duration = Duration::from_secs(900);
const PACK_BYTES: usize = 6 << 20;
/// A packing that failed is not tried again at every commit.
const PACK_AGAIN: Duration = Duration::from_secs(30);
/// How often limits are looked at while nothing is to be written.
const IDLE: Duration = Duration::from_secs(10);
/// The clock must have been synchronised for so long before anything is deleted for its age.
const STEADY: Duration = Duration::from_secs(3_600);
const DAILY: Duration = Duration::from_secs(86_400);
/// A day's file is cut when it takes this share of `max_disk`, since room is only won by whole files.
const FILES_PER_DISK: u64 = 8;
const LEAST_FILE: u64 = 1 << 20;

pub struct Writer {
    shared: Arc<Shared>,
    pen: Option<Pen>,
    next_seq: u64,
    /// Seqs below it are reserved in `evidence.db`.
    ceiling: u64,
    /// The newest effective time of each meter: only a reading at or before it can repeat or contradict an earlier one.
    newest: HashMap<MeterId, Newest>,
    /// The redates that `newest` was made under.
    redates: Arc<Vec<Redate>>,
    packed: Instant,
    pack_failed: Option<Instant>,
    looked: Instant,
    checked: Instant,
    synchronised_since: Option<u64>,
    deletions: Deletions,
}

#[derive(Clone, Copy)]
struct Newest {
    committed: i64,
    /// With what is being committed.
    coming: i64,
}

/// A reply that is owed once the group is durable.
struct Owed {
    reply: oneshot::Sender<Result<Receipt, StoreError>>,
    receipt: Receipt,
}

/// What is being committed.
#[derive(Default)]
struct Batch {
    readings: Vec<(Arc<Layout>, Entry)>,
    /// Places of the first so many of them, by time: made when a reading comes that is not the newest of its meter.
    by_time: HashMap<i64, Vec<usize>>,
    placed: usize,
}

impl Batch {
    fn at(&mut self, meter: &MeterId, time: i64) -> impl Iterator<Item = &(Arc<Layout>, Entry)> {
        for (place, (_, entry)) in self.readings.iter().enumerate().skip(self.placed) {
            self.by_time.entry(entry.time).or_default().push(place);
        }
        self.placed = self.readings.len();
        let places = self.by_time.get(&time).into_iter().flatten();
        places.filter_map(|place| self.readings.get(*place)).filter(move |(layout, _)| layout.meter == *meter)
    }
}

const DELETIONS: &str = "store.deletions";

impl Writer {
    /// Takes up where the last process ended: the file of the day if it is whole, the numbers after it.
    pub fn new(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let files = shared.files();
        let last = files.last().map_or(0, |file| read(&file.state).last_seq.max(file.first_seq.saturating_sub(1)));
        let evidence = mutex(&shared.evidence);
        let next_seq = evidence.first_free_seq(last + 1)?;
        let ceiling = evidence.reserve_seqs(next_seq)?;
        let deletions = super::ledger::state(&evidence.connection, DELETIONS)
            .map_err(|error| evidence.fault(error))?
            .and_then(|value| serde_json::from_value(value).ok())
            .unwrap_or_default();
        drop(evidence);
        let now = Instant::now();
        let mut writer = Self {
            shared,
            pen: None,
            next_seq,
            ceiling,
            newest: HashMap::new(),
            redates: Arc::default(),
            packed: now,
            pack_failed: None,
            looked: now,
            checked: now,
            synchronised_since: None,
            deletions,
        };
        writer.recall_newest();
        writer.finish_old_files();
        Ok(writer)
    }

    /// Runs until the queue is stopped, and ends the store in order.
    pub fn run(mut self) {
        loop {
            let (commit_every, idle) = (read(&self.shared.config).commit_every, IDLE);
            let work = self.shared.queue.next(commit_every, idle);
            if !work.items.is_empty() {
                self.commit(work.items, work.stop);
            }
            if work.stop {
                break;
            }
            self.upkeep();
            if !work.tidy.is_empty() && self.shared.at_home().is_ok() {
                self.pack();
                self.look_after_limits();
            }
            for done in work.tidy {
                // Whoever asked may be gone.
                done.send(()).ok();
            }
            for reply in work.stills {
                // One that nobody takes ends at once.
                drop(reply.send(backup::hold(&self.shared, self.pen.as_ref().map(|pen| &*pen.file))));
            }
        }
        self.shared.pool.clear();
        if let Err(error) = self.shared.at_home() {
            tracing::warn!(%error, "the end could not be marked");
            return;
        }
        if let Some(mut pen) = self.pen.take()
            && let Err(error) = pen.rest()
        {
            tracing::warn!(%error, "the raw file was not left in order");
        }
        if let Err(error) = mutex(&self.shared.evidence).end(self.next_seq) {
            tracing::warn!(%error, "the end could not be marked: seqs leave a hole");
        }
    }

    fn commit(&mut self, items: Vec<Item>, last: bool) {
        if !Arc::ptr_eq(&self.redates, &read(&self.shared.redates)) {
            self.recall_newest();
        }
        let there = self.committed_at(&items);
        let (mut batch, mut owed, mut offered_room) = (Batch::default(), Vec::new(), 0);
        let (mut room, mut offered) = (0, Vec::new());
        let before = self.next_seq;
        let (mut repeated, mut conflicts) = (0, 0);
        let (mut failed, mut unread) = (None, Vec::new());
        for item in items {
            let mut receipt = Receipt { first_seq: self.next_seq, last_seq: self.next_seq - 1, repeated: 0 };
            for reading in item.readings {
                match self.earlier(&reading, &there, &mut batch) {
                    Ok(earlier) => {
                        let admitted = self.admit(reading, &earlier);
                        receipt.repeated += admitted.repeated;
                        if let Some((layout, entry)) = admitted.new {
                            conflicts += u64::from(entry.conflict);
                            receipt.last_seq = entry.seq;
                            offered.push(item.reply.is_none());
                            batch.readings.push((layout, entry));
                        }
                    }
                    Err(error) => {
                        failed = Some(error);
                        unread.extend(item.reply.is_none().then_some(reading));
                    }
                }
            }
            repeated += receipt.repeated;
            room += item.room;
            match item.reply {
                Some(reply) => owed.push(Owed { reply, receipt }),
                None => offered_room += item.room,
            }
        }
        let mut batch = batch.readings;
        let boot = self.shared.clock.boot();
        // Also a mere repetition is not acknowledged while the store is gone.
        let (home, mut is_undone) = (self.shared.at_home(), false);
        let outcome = match (home, failed) {
            (Err(error), _) => {
                is_undone = true;
                Err(error)
            }
            (Ok(()), Some(error)) => Err(error),
            (Ok(()), None) if batch.is_empty() => Ok(()),
            (Ok(()), None) => self.make_durable(&boot, &mut batch),
        };
        match outcome {
            Ok(()) => {
                for newest in self.newest.values_mut() {
                    newest.committed = newest.coming;
                }
                self.shared.counters.add(batch.len(), repeated, conflicts);
                self.publish(batch);
                for owed in owed {
                    // Whoever asked may be gone; the readings are durable all the same.
                    owed.reply.send(Ok(owed.receipt)).ok();
                }
                self.shared.queue.done(room);
            }
            Err(error) => {
                // A commit that failed for want of room, or was not begun, is surely undone. After any other failure its bytes may yet turn
                // out durable, so its numbers stay used: holes are legal, a number used twice is not.
                if is_undone || matches!(error, StoreError::Full { .. }) {
                    self.next_seq = before;
                }
                for newest in self.newest.values_mut() {
                    newest.coming = newest.committed;
                }
                self.trouble(&error);
                for owed in owed {
                    owed.reply.send(Err(error.again())).ok();
                }
                self.shared.queue.done(room - offered_room);
                let waiting: Vec<Reading> = batch
                    .into_iter()
                    .zip(offered)
                    .filter(|(_, offered)| *offered)
                    .map(|(pair, _)| again(pair))
                    .chain(unread)
                    .collect();
                if last {
                    tracing::error!(%error, readings = waiting.len(), "readings were not stored before the end");
                } else {
                    self.shared.queue.done(offered_room.saturating_sub(waiting.len()));
                    self.shared.queue.put_back(waiting, PAUSE);
                }
            }
        }
    }

    /// The newest effective time of each meter, by what is committed.
    fn recall_newest(&mut self) {
        self.redates = read(&self.shared.redates).clone();
        self.newest.clear();
        for file in self.shared.files() {
            let meters: Vec<MeterId> = read(&file.state).meters.keys().cloned().collect();
            for meter in meters {
                let Some((_, max)) = search::reach(&self.shared, &file, &meter) else { continue };
                let known = self.newest.entry(meter).or_insert(Newest { committed: max, coming: max });
                known.committed = known.committed.max(max);
                known.coming = known.committed;
            }
        }
    }

    /// What is committed at the times of those readings that are no newer than what is there of their meters.
    fn committed_at(&self, items: &[Item]) -> Result<AtInstants, StoreError> {
        let mut instants = Instants::new();
        for reading in items.iter().flat_map(|item| &item.readings) {
            let (meter, time) = (&reading.layout.meter, reading.taken.time.as_millis());
            if self.newest.get(meter).is_some_and(|newest| time <= newest.committed) {
                match instants.get_mut(meter) {
                    Some(of_meter) => of_meter.insert(time),
                    None => instants.entry(meter.clone()).or_default().insert(time),
                };
            }
        }
        if instants.is_empty() { Ok(AtInstants::new()) } else { search::at_instants(&self.shared, &instants) }
    }

    /// What is there of the same meter and time, committed or in the batch.
    fn earlier(
        &mut self,
        reading: &Reading,
        there: &Result<AtInstants, StoreError>,
        batch: &mut Batch,
    ) -> Result<Vec<(Arc<Layout>, Values)>, StoreError> {
        let time = reading.taken.time.as_millis();
        let meter = &reading.layout.meter;
        let mut earlier: Vec<(Arc<Layout>, Values)> = Vec::new();
        match self.newest.get_mut(meter) {
            Some(newest) if time > newest.coming => newest.coming = time,
            Some(newest) => {
                if time <= newest.committed {
                    let there = there.as_ref().map_err(StoreError::again)?;
                    let found = there.get(meter).and_then(|of_meter| of_meter.get(&time)).into_iter().flatten();
                    earlier.extend(found.map(|reading| (reading.layout.clone(), reading.values.clone())));
                }
                earlier.extend(batch.at(meter, time).map(|(layout, entry)| (layout.clone(), entry.values.clone())));
            }
            None => {
                self.newest.insert(meter.clone(), Newest { committed: i64::MIN, coming: time });
            }
        }
        Ok(earlier)
    }

    /// Compares a reading with what is there, and numbers what is new in it.
    fn admit(&mut self, reading: Reading, earlier: &[(Arc<Layout>, Values)]) -> Admitted {
        let time = reading.taken.time.as_millis();
        let Reading { layout, taken, values } = reading;
        let (values, repeated, conflict) =
            if earlier.is_empty() { (values, 0, false) } else { compare(&layout, values, earlier) };
        if repeated > 0 && values.is_empty() {
            return Admitted { new: None, repeated };
        }
        let entry = Entry {
            seq: self.next_seq,
            time,
            since_boot_ms: taken.since_boot_ms,
            unsynchronised: taken.clock == ClockState::Unsynchronised,
            conflict,
            layout: 0,
            values,
        };
        self.next_seq += 1;
        Admitted { new: Some((layout, entry)), repeated }
    }

    fn make_durable(&mut self, boot: &str, batch: &mut [(Arc<Layout>, Entry)]) -> Result<(), StoreError> {
        loop {
            let outcome = self.try_make_durable(boot, batch);
            match &outcome {
                Err(StoreError::Full { .. }) if mutex(&self.shared.reserve).give(false) => {
                    tracing::warn!("the disk is full: readings go on in their part of the reserve");
                }
                Err(StoreError::Damaged { .. }) if self.pen.is_some() => {
                    // What was acknowledged in it stays for a person to save; the group goes to a new file.
                    if let Some(pen) = self.pen.take() {
                        self.set_aside(&pen.file)?;
                    }
                }
                Err(StoreError::Unwritable { .. } | StoreError::Io { .. }) => {
                    // After a failed flush the kernel may take lost pages for written: nothing more goes there.
                    self.pen = None;
                    return outcome;
                }
                _ => return outcome,
            }
        }
    }

    fn try_make_durable(&mut self, boot: &str, batch: &mut [(Arc<Layout>, Entry)]) -> Result<(), StoreError> {
        let (Some((_, first)), Some((_, last))) = (batch.first(), batch.last()) else { return Ok(()) };
        let (first, last) = (first.seq, last.seq);
        if let Some(pen) = &self.pen {
            match evidence::place(&pen.file.path) {
                there if there == pen.place => {}
                Some(there) if pen.place.is_some_and(|place| place.is_again(there)) => self.pen = None,
                _ => {
                    let what = "it was deleted or replaced while it was open".to_owned();
                    return Err(StoreError::Damaged { file: pen.file.path.clone(), what });
                }
            }
        }
        if last >= self.ceiling {
            self.ceiling = mutex(&self.shared.evidence).reserve_seqs(last + 1)?;
        }
        self.open_file_of_the_day(first)?;
        match &mut self.pen {
            Some(pen) => pen.append(boot, batch),
            None => Err(StoreError::Closed),
        }
    }

    /// The pen stands on a file of today that has room.
    fn open_file_of_the_day(&mut self, first_seq: u64) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        let day = now.as_millis().div_euclid(DAY_MS);
        let largest = (read(&self.shared.config).max_disk / FILES_PER_DISK).max(LEAST_FILE);
        let stays = |file: &RawFile| file.day == day && size(file) < largest;
        if let Some(pen) = self.pen.take_if(|pen| !stays(&pen.file)) {
            let path = pen.file.path.clone();
            self.packed = Instant::now();
            // An idle connection would keep the write-ahead log alive.
            self.shared.pool.forget(&path);
            let holds_still = mutex(&self.shared.still).is_some();
            if let Err(error) = pen.finish(holds_still) {
                tracing::warn!(%error, file = %path.display(), "the day's file is packed later");
            }
        }
        if self.pen.is_none() {
            let synchronised = self.shared.clock.state() == ClockState::Synchronised;
            let folder = self.shared.root.join(raw::FOLDER);
            // An attempt that failed before its first commit left an empty file of this name, perhaps with a log.
            let failed = self.shared.files().into_iter().find(|file| file.first_seq == first_seq);
            if let Some(failed) = failed {
                write(&self.shared.raw).retain(|file| file.first_seq != first_seq);
                self.shared.pool.forget(&failed.path);
                raw::delete(&failed.path)?;
            }
            let pen = Pen::create(&folder, &read(&self.shared.identity), first_seq, day, synchronised)?;
            write(&self.shared.raw).push(pen.file.clone());
            self.pen = Some(pen);
        }
        Ok(())
    }

    /// Lets the rest of the house see what is durable.
    fn publish(&mut self, batch: Vec<(Arc<Layout>, Entry)>) {
        let readings: Vec<StoredReading> =
            batch.into_iter().map(|(layout, entry)| search::committed(entry, layout)).collect();
        if write(&self.shared.trouble).take().is_some() {
            tracing::info!("readings are stored again");
        }
        mutex(&self.shared.live).take(&readings, self.shared.clock.now());
        let Some(last) = readings.last().map(|reading| reading.seq) else { return };
        let showing = mutex(&self.shared.showing);
        self.shared.committed.send_replace(last);
        drop(showing);
        // Nobody may be listening.
        self.shared.feed.send(Arc::new(readings)).ok();
    }

    fn trouble(&self, error: &StoreError) {
        let mut trouble = write(&self.shared.trouble);
        if trouble.is_none() {
            let cause = error as &dyn std::error::Error;
            tracing::error!(
                error = cause,
                "readings cannot be stored: they wait, and so does polling when the queue is full"
            );
        }
        *trouble = Some(match error {
            StoreError::Io { source, .. } => format!("{error}: {source}"),
            StoreError::Full { .. } => {
                format!("{error}; readings wait meanwhile, and polling when their queue is full")
            }
            error => error.to_string(),
        });
    }

    /// All that is due besides commits. Each part goes on where it left, so a failure is tried again at the next look.
    fn upkeep(&mut self) {
        // What lies under these names may be another's.
        if self.shared.at_home().is_err() {
            return;
        }
        for first_seq in std::mem::take(&mut *mutex(&self.shared.damaged)) {
            let damaged = self.shared.files().into_iter().find(|file| file.first_seq == first_seq);
            if self.pen.as_ref().is_some_and(|pen| pen.file.first_seq == first_seq) {
                self.pen = None;
            }
            if let Some(file) = damaged
                && let Err(error) = self.set_aside(&file)
            {
                tracing::error!(%error, "a damaged file cannot be set aside");
            }
        }
        let tail = self.pen.as_ref().map_or(0, |pen| read(&pen.file.state).tail_bytes);
        let full = tail >= PACK_BYTES && self.pack_failed.is_none_or(|failed| failed.elapsed() >= PACK_AGAIN);
        if full || tail > 0 && self.packed.elapsed() >= PACK_EVERY {
            self.pack();
        }
        if self.looked.elapsed() >= IDLE {
            self.looked = Instant::now();
            self.look_after_limits();
        }
        if self.checked.elapsed() >= DAILY {
            self.checked = Instant::now();
            let path = self.shared.root.join(evidence::FILE);
            let sound = self.shared.pool.lend(&path).and_then(|connection| sqlite::check(&connection, &path));
            if let Err(error) = sound {
                tracing::error!(%error, "the daily look for damage");
                *write(&self.shared.evidence_damage) = Some(error.to_string());
            }
        }
    }

    fn pack(&mut self) {
        self.packed = Instant::now();
        let Some(pen) = &mut self.pen else { return };
        let outcome = pen.pack();
        self.pack_failed = outcome.is_err().then(Instant::now);
        match outcome {
            Ok(()) => {}
            Err(StoreError::Damaged { .. }) => mutex(&self.shared.damaged).push(pen.file.first_seq),
            Err(error) => tracing::warn!(%error, "packing is put off"),
        }
    }

    /// Sets a damaged file aside. Its readings are gone from every search.
    fn set_aside(&self, file: &Arc<RawFile>) -> Result<(), StoreError> {
        tracing::error!(file = %file.path.display(), "damaged; set aside, and readings go on in a new file");
        self.shared.give_up(&Going::of(file, false), Cause::Damaged)?;
        write(&self.shared.raw).retain(|known| known.first_seq != file.first_seq);
        self.shared.pool.forget(&file.path);
        raw::quarantine(&file.path)?;
        *write(&self.shared.quarantined) = raw::quarantined(&self.shared.root.join(raw::FOLDER));
        Ok(())
    }

    /// Reserve, age and room of the raw files.
    fn look_after_limits(&mut self) {
        mutex(&self.shared.reserve).refill();
        // What a backup reads stays until it is done, or the disk is full.
        if mutex(&self.shared.still).is_some() {
            return;
        }
        let config = read(&self.shared.config).clone();
        let files = self.shared.files();
        let since_boot_ms = self.shared.clock.since_boot_ms();
        if self.shared.clock.state() == ClockState::Unsynchronised {
            self.synchronised_since = None;
        } else {
            let since = *self.synchronised_since.get_or_insert(since_boot_ms);
            let steady = u128::from(since_boot_ms.saturating_sub(since)) >= STEADY.as_millis();
            let aged: Vec<Aged> =
                files.iter().map(|file| Aged { day: file.day, synchronised: file.synchronised }).collect();
            let boot = self.shared.clock.boot();
            let expired = retention::expired(&aged, self.shared.clock.now(), config.keep_raw);
            let allowed = if steady { self.deletions.allowed(&boot, since_boot_ms) } else { 0 };
            for file in files.iter().take(expired.min(allowed)) {
                // Counted before it is done: a crash in between must not allow a third.
                let deletions = self.deletions.with(&boot, since_boot_ms);
                if let Err(error) = self.shared.keep_state(DELETIONS, &deletions) {
                    tracing::warn!(%error, "nothing is deleted for its age");
                    break;
                }
                self.deletions = deletions;
                self.delete(file, Cause::KeepRaw);
            }
        }
        let files = self.shared.files();
        let mut bytes: u64 = files.iter().map(|file| size(file)).sum();
        match self.make_room_among_bundles(bytes, config.max_disk) {
            Ok(bundles) => bytes = bytes.saturating_add(bundles),
            Err(error) => tracing::warn!(%error, "what exports take on disk is not counted"),
        }
        let excess = bytes.saturating_sub(config.max_disk);
        if excess > 0 {
            let going: Vec<Going> = files.iter().map(|file| Going::of(file, false)).collect();
            match self.shared.kept_for_nobody(&going) {
                Ok(kept) => {
                    let sizes = files.iter().map(|file| size(file)).zip(kept).collect::<Vec<_>>();
                    for at in retention::files_to_go(&sizes, excess) {
                        self.delete(&files[at], Cause::MaxDisk);
                    }
                }
                Err(error) => tracing::warn!(%error, "nothing is deleted to make room"),
            }
        }
        if let Err(error) = self.shared.clear_old_loss() {
            tracing::debug!(%error, "the alert of lost readings is looked at later");
        }
    }

    /// What bundles take on disk, after those have gone that may when they and raw readings reach `max_disk` together.
    fn make_room_among_bundles(&self, raw: u64, max_disk: u64) -> Result<u64, StoreError> {
        let bundles = self.shared.bundle_bytes()?;
        let excess = raw.saturating_add(bundles).saturating_sub(max_disk);
        let won = if bundles > 0 && excess > 0 { self.shared.delete_bundles(excess)? } else { 0 };
        Ok(bundles.saturating_sub(won))
    }

    fn delete(&self, file: &Arc<RawFile>, why: Cause) {
        let leaves_a_hole = self.shared.files().iter().any(|other| other.first_seq < file.first_seq);
        if let Err(error) = self.shared.give_up(&Going::of(file, leaves_a_hole), why) {
            tracing::warn!(%error, file = %file.path.display(), "it is not deleted before its loss can be told");
            return;
        }
        tracing::info!(file = %file.path.display(), ?why, "raw readings deleted");
        write(&self.shared.raw).retain(|known| known.first_seq != file.first_seq);
        self.shared.pool.forget(&file.path);
        if let Err(error) = raw::delete(&file.path) {
            tracing::warn!(%error, "a raw file cannot be deleted");
        }
    }

    /// After a start: the newest file is written on if it is of today, all others are packed and closed.
    fn finish_old_files(&mut self) {
        let files = self.shared.files();
        let day = self.shared.clock.now().as_millis().div_euclid(DAY_MS);
        for (at, file) in files.iter().enumerate() {
            let newest = at + 1 == files.len() && file.day == day;
            if !newest && read(&file.state).tail.is_empty() && log_size(file) == 0 {
                continue;
            }
            let outcome = Pen::resume(file.clone()).and_then(|pen| {
                if newest {
                    self.pen = Some(pen);
                    return Ok(());
                }
                pen.finish(false)
            });
            match outcome {
                Err(StoreError::Damaged { .. }) => mutex(&self.shared.damaged).push(file.first_seq),
                Err(error) => tracing::warn!(%error, "a raw file is packed later"),
                Ok(()) => {}
            }
        }
        if !mutex(&self.shared.damaged).is_empty() {
            self.shared.queue.nudge();
        }
    }
}

/// What became of one reading.
struct Admitted {
    new: Option<(Arc<Layout>, Entry)>,
    repeated: u64,
}

/// A reading of which nothing became durable, as it was handed in.
fn again((layout, entry): (Arc<Layout>, Entry)) -> Reading {
    let clock = if entry.unsynchronised { ClockState::Unsynchronised } else { ClockState::Synchronised };
    let taken = Stamp { time: Timestamp::from_millis(entry.time), since_boot_ms: entry.since_boot_ms, clock };
    Reading { layout, taken, values: entry.values }
}

/// What of `values` is new beside earlier values of the same meter and time; how many were there already; and
/// whether one contradicts.
fn compare(layout: &Layout, values: Values, earlier: &[(Arc<Layout>, Values)]) -> (Values, u64, bool) {
    let (mut repeated, mut conflict) = (0, false);
    let mut kept = Vec::with_capacity(values.len());
    for (place, number) in values {
        let Some(slot) = layout.slots.get(usize::from(place)) else { continue };
        let (mut same, mut other) = (false, false);
        for (their_layout, their_values) in earlier {
            for (their_place, their_number) in their_values {
                let Some(their_slot) = their_layout.slots.get(usize::from(*their_place)) else { continue };
                if their_slot.quantity == slot.quantity {
                    // The same figure for another stretch of time is another value.
                    let alike = their_slot.scale == slot.scale && their_slot.interval == slot.interval;
                    let equal = *their_number == number && alike;
                    same |= equal;
                    other |= !equal;
                }
            }
        }
        if same {
            repeated += 1;
        } else {
            conflict |= other;
            kept.push((place, number));
        }
    }
    (kept.into(), repeated, conflict)
}

/// Bytes on disk, the write-ahead log included.
pub fn size(file: &RawFile) -> u64 {
    file.path.metadata().map_or(0, |file| file.len()) + log_size(file)
}

pub fn log_size(file: &RawFile) -> u64 {
    let mut log = file.path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |file| file.len())
}
