//! Raw files: the readings that were committed during one UTC day, a contiguous range of seq, named by its first.
//!
//! Readings arrive in the *tail*, a row for each commit, since arrival order is what wears the flash least. About every
//! quarter of an hour the tail is *packed*: written once more as chunks of one meter each, by column and compressed,
//! in one transaction with the deletion of its rows. What a file's readings mean (meters, layouts, boots) lies in the
//! file too, so that it stays readable alone.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use rusqlite::{Connection, OptionalExtension, params};

use super::codec::{self, Entry, TailRow};
use super::{Identity, StoreError, evidence, mutex, read, sqlite, write};
use crate::model::{Digest, Layout, MeterId, Role};

pub const FOLDER: &str = "raw";
pub const QUARANTINED: &str = "quarantined";
const VERSION: u32 = 1;

const SCHEMA: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE boots (id INTEGER PRIMARY KEY, boot TEXT NOT NULL) STRICT;
    -- The times are those of the meter's chunks, without the tail.
    CREATE TABLE meters (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, min_time INTEGER, max_time INTEGER
    ) STRICT;
    CREATE TABLE layouts (id INTEGER PRIMARY KEY, digest BLOB NOT NULL, layout TEXT NOT NULL) STRICT;
    CREATE TABLE tail (
        first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, min_time INTEGER NOT NULL, max_time INTEGER NOT NULL,
        boot INTEGER NOT NULL, meters INTEGER NOT NULL, body BLOB NOT NULL
    ) STRICT;
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY, meter INTEGER NOT NULL, layout INTEGER NOT NULL, boot INTEGER NOT NULL,
        roles INTEGER NOT NULL, min_time INTEGER NOT NULL, max_time INTEGER NOT NULL,
        first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, readings INTEGER NOT NULL, body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX chunks_by_time ON chunks (meter, min_time, max_time, first_seq, last_seq, layout, boot, roles);
    -- The chunks of one packing hold exactly the seqs of one range.
    CREATE TABLE packs (
        first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, first_chunk INTEGER NOT NULL,
        last_chunk INTEGER NOT NULL
    ) STRICT;
";

/// No chunk spans more: what begins earlier than this before an instant cannot reach it.
pub const CHUNK_SPAN_MS: i64 = 6 * 3_600_000;
/// A gap that ends a chunk, so that a reading of days ago gets one of its own and widens none.
const CHUNK_GAP_MS: i64 = 3_600_000;
const CHUNK_READINGS: usize = 1_024;
/// Readings in one row of the tail, at most.
const ROW_READINGS: usize = 1_024;

/// A raw file as the store knows it, shared by the writer and the readers.
pub struct RawFile {
    pub path: PathBuf,
    pub first_seq: u64,
    /// The UTC day of its first commit, in days since 1970, and whether the clock was synchronised then.
    pub day: i64,
    pub synchronised: bool,
    pub state: RwLock<RawState>,
}

#[derive(Default)]
pub struct RawState {
    /// The last committed seq; the one before the first while there is none.
    pub last_seq: u64,
    pub meters: HashMap<MeterId, MeterTimes>,
    /// By number, from 1.
    pub boots: Vec<String>,
    /// By number, from 1.
    pub layouts: Arc<Vec<Arc<Layout>>>,
    pub tail: Vec<TailEntry>,
    pub tail_bytes: usize,
    /// Counts packings: a search that saw another count begins again, since rows moved under it.
    pub packs: u64,
}

impl RawState {
    fn count(&mut self, meter: &MeterId, first: i64, last: i64) {
        if let Some(times) = self.meters.get_mut(meter) {
            (times.min, times.max) = (times.min.min(first), times.max.max(last));
        }
    }
}

/// A meter's times as taken, chunks and tail together.
#[derive(Clone, Copy)]
pub struct MeterTimes {
    pub number: i64,
    pub min: i64,
    pub max: i64,
}

/// What is known of a row of the tail without reading it.
#[derive(Clone, Copy)]
pub struct TailEntry {
    pub first_seq: u64,
    pub min: i64,
    pub max: i64,
    pub boot: u32,
    /// A bit for each meter of the row, by number modulo 64.
    pub meters: u64,
}

/// Bit of a meter in [`TailEntry::meters`].
pub fn meter_bit(number: i64) -> u64 {
    1 << number.rem_euclid(64)
}

/// Layouts by digest: each is held once, however many files name it.
#[derive(Default)]
pub struct Layouts(std::sync::Mutex<HashMap<Digest, Arc<Layout>>>);

impl Layouts {
    fn read(&self, digest: Digest, text: &str) -> Result<Arc<Layout>, serde_json::Error> {
        if let Some(known) = mutex(&self.0).get(&digest) {
            return Ok(known.clone());
        }
        let layout: Arc<Layout> = Arc::new(serde_json::from_str(text)?);
        Ok(mutex(&self.0).entry(digest).or_insert(layout).clone())
    }
}

pub fn file_name(first_seq: u64) -> String {
    format!("{first_seq:020}.db")
}

/// The raw files of a store, by first seq. What a crash left half-made is removed.
pub fn list(folder: &Path) -> Result<BTreeMap<u64, PathBuf>, StoreError> {
    let io = |source| StoreError::Io { path: folder.to_owned(), source };
    let mut files = BTreeMap::new();
    for file in folder.read_dir().map_err(io)? {
        let file = file.map_err(io)?;
        let name = file.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.contains(".new") {
            std::fs::remove_file(file.path()).map_err(io)?;
        } else if let Some(Ok(first_seq)) = name.strip_suffix(".db").map(str::parse) {
            files.insert(first_seq, file.path());
        }
    }
    Ok(files)
}

/// The names of quarantined files.
pub fn quarantined(folder: &Path) -> Vec<String> {
    let names =
        folder.read_dir().into_iter().flatten().flatten().filter_map(|file| file.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".db.quarantined")).collect();
    names.sort();
    names
}

/// Sets a damaged file aside, with its write-ahead log: a person may still save readings from it.
pub fn quarantine(path: &Path) -> Result<(), StoreError> {
    for end in ["-wal", "-shm", "-journal", ""] {
        let mut from = path.as_os_str().to_owned();
        from.push(end);
        let mut to = path.as_os_str().to_owned();
        to.push(format!(".{QUARANTINED}{end}"));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io { path: path.to_owned(), source: error });
            }
            _ => {}
        }
    }
    path.parent().map_or(Ok(()), evidence::flush_folder)
}

/// Deletes a raw file: the log first, so that what is left of a crash is a whole file or nothing.
pub fn delete(path: &Path) -> Result<(), StoreError> {
    for end in ["-wal", "-shm", "-journal", ""] {
        let mut file = path.as_os_str().to_owned();
        file.push(end);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io { path: path.to_owned(), source: error });
            }
            _ => {}
        }
    }
    path.parent().map_or(Ok(()), evidence::flush_folder)
}

/// The version of a file; nothing is touched.
pub fn version(path: &Path) -> Result<u32, StoreError> {
    sqlite::version(path, VERSION)
}

/// What a crash left in the write-ahead log of a file that nobody has open goes into the file.
pub fn settle(path: &Path) -> Result<(), StoreError> {
    sqlite::recover(path)?;
    let connection = sqlite::open(path)?;
    sqlite::finish(connection).map_err(|error| sqlite::fault(path, error))
}

/// Reads what is known of a file, without its readings.
pub fn load(path: &Path, first_seq: u64, layouts: &Layouts) -> Result<RawFile, StoreError> {
    match sqlite::version(path, VERSION) {
        Err(error @ StoreError::Newer { .. }) => return Err(error),
        _ => sqlite::recover(path)?,
    }
    sqlite::version(path, VERSION)?;
    let connection = sqlite::open_to_read(path)?;
    let mut state = RawState { last_seq: first_seq - 1, ..RawState::default() };
    let (mut day, mut synchronised) = (0, false);
    let mut read = || -> rusqlite::Result<()> {
        let fact = |name: &str| -> rusqlite::Result<i64> {
            connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        };
        day = fact("day")?;
        synchronised = fact("synchronised")? != 0;
        let mut statement = connection.prepare("SELECT boot FROM boots ORDER BY id")?;
        state.boots = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut statement = connection.prepare("SELECT digest, layout FROM layouts ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let layout = layouts.read(Digest::from_bytes(row.get(0)?), row.get_ref(1)?.as_str()?);
            let layout = layout.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            Arc::make_mut(&mut state.layouts).push(layout);
        }
        let mut statement = connection.prepare("SELECT id, name, min_time, max_time FROM meters")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(1)?;
            let Ok(name) = name.parse() else { continue };
            let (min, max): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
            let times = MeterTimes { number: row.get(0)?, min: min.unwrap_or(i64::MAX), max: max.unwrap_or(i64::MIN) };
            state.meters.insert(name, times);
        }
        for table in ["packs", "tail"] {
            let sql = format!("SELECT last_seq FROM {table} ORDER BY first_seq DESC LIMIT 1");
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query([])?;
            if let Some(row) = rows.next()? {
                state.last_seq = state.last_seq.max(row.get::<_, i64>(0)?.cast_unsigned());
            }
        }
        let mut statement = connection
            .prepare("SELECT first_seq, min_time, max_time, boot, meters, length(body) FROM tail ORDER BY first_seq")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            state.tail.push(TailEntry {
                first_seq: row.get::<_, i64>(0)?.cast_unsigned(),
                min: row.get(1)?,
                max: row.get(2)?,
                boot: row.get(3)?,
                meters: row.get::<_, i64>(4)?.cast_unsigned(),
            });
            state.tail_bytes += usize::try_from(row.get::<_, i64>(5)?).unwrap_or(0);
        }
        Ok(())
    };
    read().map_err(|error| sqlite::fault(path, error))?;
    Ok(RawFile { path: path.to_owned(), first_seq, day, synchronised, state: RwLock::new(state) })
}

/// After a start: calls `each` with every reading of the tail, in order of arrival, and counts it to its meter's times.
pub fn recall_tail(file: &RawFile, mut each: impl FnMut(&Arc<Layout>, Entry)) -> Result<(), StoreError> {
    let state = read(&file.state);
    if state.tail.is_empty() {
        return Ok(());
    }
    let layouts = state.layouts.clone();
    drop(state);
    let connection = sqlite::open_to_read(&file.path)?;
    for (_, row) in tail_rows(&connection, &file.path)? {
        let mut state = write(&file.state);
        for place in row.places().map_err(|torn| torn.at(&file.path))? {
            let entry = row.entry(place).map_err(|torn| torn.at(&file.path))?;
            let Some(layout) = layouts.get(at(entry.layout)) else { continue };
            state.count(&layout.meter, entry.time, entry.time);
            each(layout, entry);
        }
    }
    Ok(())
}

/// Calls `each` with the readings of every meter's last chunk.
pub fn recall_last(file: &RawFile, mut each: impl FnMut(&Arc<Layout>, Entry)) -> Result<(), StoreError> {
    let (layouts, meters) = {
        let state = read(&file.state);
        (state.layouts.clone(), state.meters.values().map(|times| times.number).collect::<Vec<_>>())
    };
    let connection = sqlite::open_to_read(&file.path)?;
    let last = |meter: i64| -> rusqlite::Result<Option<(u32, Vec<u8>)>> {
        let mut statement = connection
            .prepare_cached("SELECT layout, body FROM chunks WHERE meter = ?1 ORDER BY min_time DESC LIMIT 1")?;
        statement.query_row([meter], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    };
    for meter in meters {
        let Some((number, body)) = last(meter).map_err(|error| sqlite::fault(&file.path, error))? else { continue };
        let entries = codec::decode_chunk(&body, number).map_err(|torn| torn.at(&file.path))?;
        if let Some(layout) = layouts.get(at(number)) {
            entries.into_iter().for_each(|entry| each(layout, entry));
        }
    }
    Ok(())
}

/// The place of a number from 1 in a list.
pub fn at(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).wrapping_sub(1)
}

fn tail_rows(connection: &Connection, path: &Path) -> Result<Vec<(u32, TailRow)>, StoreError> {
    let read = || -> rusqlite::Result<Vec<(u64, u32, Vec<u8>)>> {
        let mut statement = connection.prepare_cached("SELECT first_seq, boot, body FROM tail ORDER BY first_seq")?;
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?, row.get(2)?)))?;
        rows.collect()
    };
    let rows = read().map_err(|error| sqlite::fault(path, error))?;
    rows.into_iter()
        .map(|(first_seq, boot, body)| Ok((boot, TailRow::open(body, first_seq).map_err(|torn| torn.at(path))?)))
        .collect()
}

/// A layout that the file has.
struct Known {
    /// Held, so that its address stays its own.
    _layout: Arc<Layout>,
    number: u32,
    /// The number of its meter.
    meter: i64,
}

/// Writes to one raw file.
pub struct Pen {
    pub file: Arc<RawFile>,
    /// Of the file when it was opened.
    pub place: Option<evidence::Place>,
    connection: Connection,
    /// By address: the same layout comes again and again, and comparing it each time would cost more than storing it.
    by_address: HashMap<usize, Known>,
    by_digest: HashMap<Digest, u32>,
}

impl Pen {
    /// Makes a new file. It gets its name when it is complete.
    pub fn create(
        folder: &Path,
        identity: &Identity,
        first_seq: u64,
        day: i64,
        synchronised: bool,
    ) -> Result<Self, StoreError> {
        let path = folder.join(file_name(first_seq));
        let making = folder.join(format!("{}.new", file_name(first_seq)));
        let fault = |error| sqlite::fault(&making, error);
        // What an attempt on a full disk left.
        delete(&making)?;
        let connection = sqlite::create(&making, VERSION, SCHEMA)?;
        let fill = || -> rusqlite::Result<()> {
            let transaction = connection.unchecked_transaction()?;
            let mut statement = transaction.prepare("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
            statement.execute(params!["site", identity.site.as_str()])?;
            statement.execute(params!["gateway", identity.gateway])?;
            statement.execute(params!["epoch", identity.epoch])?;
            statement.execute(params!["day", day])?;
            statement.execute(params!["synchronised", synchronised])?;
            drop(statement);
            transaction.commit()
        };
        fill().map_err(fault)?;
        sqlite::finish(connection).map_err(fault)?;
        std::fs::rename(&making, &path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        evidence::flush_folder(folder)?;
        let state = RwLock::new(RawState { last_seq: first_seq - 1, ..RawState::default() });
        Self::resume(Arc::new(RawFile { path, first_seq, day, synchronised, state }))
    }

    /// Goes on writing to a file.
    pub fn resume(file: Arc<RawFile>) -> Result<Self, StoreError> {
        let connection = sqlite::open(&file.path)?;
        let by_digest = || -> rusqlite::Result<HashMap<Digest, u32>> {
            let mut statement = connection.prepare("SELECT digest, id FROM layouts")?;
            let rows = statement.query_map([], |row| Ok((Digest::from_bytes(row.get(0)?), row.get(1)?)))?;
            rows.collect()
        };
        let by_digest = by_digest().map_err(|error| sqlite::fault(&file.path, error))?;
        let place = evidence::place(&file.path);
        Ok(Self { file, place, connection, by_address: HashMap::new(), by_digest })
    }

    /// Makes readings durable, all or none, and gives their layouts a number.
    pub fn append(&mut self, boot: &str, readings: &mut [(Arc<Layout>, Entry)]) -> Result<(), StoreError> {
        let outcome = self.try_append(boot, readings);
        if outcome.is_err() {
            // The numbers given in the transaction that failed are not in the file.
            self.by_address.clear();
            let known = read(&self.file.state).layouts.len();
            self.by_digest.retain(|_, number| at(*number) < known);
        }
        outcome.map_err(|error| sqlite::fault(&self.file.path, error))
    }

    fn try_append(&mut self, boot: &str, readings: &mut [(Arc<Layout>, Entry)]) -> rusqlite::Result<()> {
        let file = self.file.clone();
        let transaction =
            rusqlite::Transaction::new_unchecked(&self.connection, rusqlite::TransactionBehavior::Immediate)?;
        let (mut new_layouts, mut new_meters) = (Vec::new(), HashMap::new());
        // The first and the last time under each layout, by its number: meters are looked up once for a group.
        let mut times: Vec<Option<(Arc<Layout>, i64, i64)>> = Vec::new();
        let state = read(&file.state);
        let (known_layouts, boots) = (state.layouts.len(), state.boots.len());
        let known_boot = state.boots.iter().position(|known| known == boot);
        let boot_number = u32::try_from(known_boot.unwrap_or(boots) + 1).unwrap_or(u32::MAX);
        if known_boot.is_none() {
            transaction.execute("INSERT INTO boots VALUES (?1, ?2)", params![boot_number, boot])?;
        }
        let mut rows = Vec::new();
        for part in readings.chunks_mut(ROW_READINGS) {
            let (mut min, mut max, mut meters) = (i64::MAX, i64::MIN, 0);
            for (layout, entry) in part.iter_mut() {
                let address = Arc::as_ptr(layout).addr();
                let (layout_number, meter) = match self.by_address.get(&address) {
                    Some(known) => (known.number, known.meter),
                    None => {
                        let text = serde_json::to_string(&**layout).unwrap_or_default();
                        let digest = Digest::of(text.as_bytes());
                        let number = match self.by_digest.get(&digest) {
                            Some(number) => *number,
                            None => {
                                new_layouts.push(layout.clone());
                                let number = u32::try_from(known_layouts + new_layouts.len()).unwrap_or(u32::MAX);
                                transaction.execute(
                                    "INSERT INTO layouts VALUES (?1, ?2, ?3)",
                                    params![number, digest.as_bytes(), text],
                                )?;
                                self.by_digest.insert(digest, number);
                                number
                            }
                        };
                        let known = state.meters.get(&layout.meter).map(|times| times.number);
                        let meter = match known.or_else(|| new_meters.get(&layout.meter).copied()) {
                            Some(meter) => meter,
                            None => {
                                transaction
                                    .execute("INSERT INTO meters (name) VALUES (?1)", [layout.meter.as_str()])?;
                                let meter = transaction.last_insert_rowid();
                                new_meters.insert(layout.meter.clone(), meter);
                                meter
                            }
                        };
                        if self.by_address.len() >= 65_536 {
                            self.by_address.clear();
                        }
                        self.by_address.insert(address, Known { _layout: layout.clone(), number, meter });
                        (number, meter)
                    }
                };
                entry.layout = layout_number;
                let place = at(layout_number);
                if times.len() <= place {
                    times.resize(place + 1, None);
                }
                let (_, first, last) = times[place].get_or_insert_with(|| (layout.clone(), i64::MAX, i64::MIN));
                (*first, *last) = ((*first).min(entry.time), (*last).max(entry.time));
                meters |= meter_bit(meter);
                (min, max) = (min.min(entry.time), max.max(entry.time));
            }
            let [(_, first), ..] = &*part else { continue };
            let first_seq = first.seq;
            let body = codec::encode_tail(part.iter().map(|(_, entry)| entry));
            let last_seq = part.last().map_or(first_seq, |(_, entry)| entry.seq);
            transaction.prepare_cached("INSERT INTO tail VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
                first_seq.cast_signed(),
                last_seq.cast_signed(),
                min,
                max,
                boot_number,
                meters.cast_signed(),
                body,
            ])?;
            rows.push((TailEntry { first_seq, min, max, boot: boot_number, meters }, body.len()));
        }
        drop(state);
        transaction.commit()?;

        let mut state = write(&file.state);
        if known_boot.is_none() {
            state.boots.push(boot.to_owned());
        }
        if !new_layouts.is_empty() {
            Arc::make_mut(&mut state.layouts).extend(new_layouts);
        }
        for (meter, number) in new_meters {
            state.meters.insert(meter, MeterTimes { number, min: i64::MAX, max: i64::MIN });
        }
        for (layout, first, last) in times.into_iter().flatten() {
            state.count(&layout.meter, first, last);
        }
        if let Some((_, entry)) = readings.last() {
            state.last_seq = entry.seq;
        }
        for (row, bytes) in rows {
            state.tail.push(row);
            state.tail_bytes += bytes;
        }
        Ok(())
    }

    /// Moves the tail into chunks.
    pub fn pack(&mut self) -> Result<(), StoreError> {
        let rows = tail_rows(&self.connection, &self.file.path)?;
        if rows.is_empty() {
            return Ok(());
        }
        let torn = |torn: codec::Torn| torn.at(&self.file.path);
        let mut places: BTreeMap<(u32, u32), Vec<(u32, codec::Place)>> = BTreeMap::new();
        for (number, (boot, row)) in (0..).zip(&rows) {
            for place in row.places().map_err(torn)? {
                places.entry((place.layout, *boot)).or_default().push((number, place));
            }
        }
        let state = read(&self.file.state);
        let (layouts, meters) = (state.layouts.clone(), state.meters.clone());
        let (first_seq, last_seq) = (state.tail.first().map_or(0, |row| row.first_seq), state.last_seq);
        drop(state);
        let transaction = || -> Result<(), StoreError> {
            let fault = |error| sqlite::fault(&self.file.path, error);
            let transaction = self.connection.unchecked_transaction().map_err(fault)?;
            let (mut first_chunk, mut last_chunk) = (i64::MAX, i64::MIN);
            for ((layout_number, boot), places) in &places {
                let damaged = || codec::Torn.at(&self.file.path);
                let layout = layouts.get(at(*layout_number)).ok_or_else(damaged)?;
                let meter = meters.get(&layout.meter).ok_or_else(damaged)?.number;
                let mut entries = Vec::with_capacity(places.len());
                for (number, place) in places {
                    let (_, row) = &rows[usize::try_from(*number).unwrap_or(usize::MAX)];
                    entries.push(row.entry(*place).map_err(torn)?);
                }
                entries.sort_by_key(|entry| (entry.time, entry.seq));
                for chunk in entries.chunk_by(|a, b| b.time.saturating_sub(a.time) <= CHUNK_GAP_MS) {
                    for chunk in by_span(chunk) {
                        let id =
                            insert_chunk(&transaction, meter, (*layout_number, layout), *boot, chunk).map_err(fault)?;
                        (first_chunk, last_chunk) = (first_chunk.min(id), last_chunk.max(id));
                    }
                }
            }
            let end = || -> rusqlite::Result<()> {
                transaction.execute(
                    "INSERT INTO packs VALUES (?1, ?2, ?3, ?4)",
                    params![first_seq.cast_signed(), last_seq.cast_signed(), first_chunk, last_chunk],
                )?;
                transaction.execute("DELETE FROM tail", [])?;
                Ok(())
            };
            end().map_err(fault)?;
            transaction.commit().map_err(fault)
        };
        transaction()?;
        let mut state = write(&self.file.state);
        state.tail.clear();
        state.tail_bytes = 0;
        state.packs += 1;
        Ok(())
    }

    /// The process ends: what is in the write-ahead log goes into the file.
    pub fn rest(&mut self) -> Result<(), StoreError> {
        sqlite::settle(&self.connection).map_err(|error| sqlite::fault(&self.file.path, error))
    }

    /// The day is over: packs, and leaves one plain file without a write-ahead log. One that holds still keeps its log
    /// until the next start.
    pub fn finish(mut self, holds_still: bool) -> Result<(), StoreError> {
        self.pack()?;
        if holds_still {
            return Ok(());
        }
        // A reader that is in it right now keeps the log alive; the file stays right with it.
        if let Err(error) = self.connection.pragma_update(None, "journal_mode", "DELETE") {
            tracing::debug!(%error, file = %self.file.path.display(), "the write-ahead log stays for now");
        }
        Ok(())
    }
}

/// Parts of no more readings and time than a chunk takes.
fn by_span(mut entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    std::iter::from_fn(move || {
        let first = entries.first()?;
        let within = |entry: &Entry| entry.time.saturating_sub(first.time) < CHUNK_SPAN_MS;
        let len = entries.iter().take(CHUNK_READINGS).take_while(|entry| within(entry)).count();
        let (chunk, rest) = entries.split_at(len.max(1));
        entries = rest;
        Some(chunk)
    })
}

fn insert_chunk(
    transaction: &rusqlite::Transaction<'_>,
    meter: i64,
    (layout_number, layout): (u32, &Layout),
    boot: u32,
    entries: &[Entry],
) -> rusqlite::Result<i64> {
    // Parts of a list are never empty.
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(0) };
    let seqs = entries.iter().map(|entry| entry.seq);
    let (first_seq, last_seq) = (seqs.clone().min().unwrap_or(0), seqs.max().unwrap_or(0));
    transaction.prepare_cached("INSERT INTO chunks VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?.execute(
        params![
            meter,
            layout_number,
            boot,
            roles(layout, entries),
            first.time,
            last.time,
            first_seq.cast_signed(),
            last_seq.cast_signed(),
            i64::try_from(entries.len()).unwrap_or(i64::MAX),
            codec::encode_chunk(entries),
        ],
    )?;
    let id = transaction.last_insert_rowid();
    transaction
        .prepare_cached(
            "UPDATE meters SET min_time = min(coalesce(min_time, ?2), ?2), max_time = max(coalesce(max_time, ?3), ?3)
             WHERE id = ?1",
        )?
        .execute(params![meter, first.time, last.time])?;
    Ok(id)
}

/// Bit of a role in the column `roles` of a chunk.
pub fn role_bit(role: Role) -> u8 {
    match role {
        Role::Import => 1,
        Role::Export => 2,
        Role::Power => 4,
    }
}

fn roles(layout: &Layout, entries: &[Entry]) -> u8 {
    let has = |place: u8| entries.iter().any(|entry| entry.values.iter().any(|(at, _)| *at == place));
    let present = Role::ALL.into_iter().filter(|role| layout.slot_of(*role).is_some_and(has));
    present.map(role_bit).fold(0, |all, bit| all | bit)
}
