//! One job from its beginning, or from where it was interrupted, to its end.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Jobs;
use super::pause::Pauses;
use super::slices::Slices;
use super::told::Told;
use super::turn::Place;
use crate::evidence::dataset::manifest::{self, Query, Server};
use crate::evidence::dataset::{Absent, BadSlice, Heading, Kind, Manifest, Progress, Slice, WriteError, Writer};
use crate::evidence::influx::{Influx, InfluxError, Read, Schema, Selection};
use crate::model::{Job, JobProgress, ResultRow, Row, written_ns};
use crate::store::{JobEnd, NoRoom, StoreError};

/// How often it is seen whether there is room again.
const ROOM_AGAIN: Duration = Duration::from_secs(10);
/// Rows between two looks at the time, while they come.
const ROWS_TOLD: usize = 4_096;
/// Rows of a free query's answer that are handed on together.
const RESULT_ROWS: usize = 1_024;
/// Bytes of a free query's answer between two looks at the disk.
const RESULT_ROOM: u64 = 16 << 20;

/// A server that failed so often in a row lets jobs of others go first: one that only stumbles is soon asked again, and
/// what is in memory is not read twice.
const STUMBLES: u32 = 3;
/// A job that got nothing for so long fails: those behind it wait as long.
const NOTHING_FOR: Duration = Duration::from_secs(24 * 3_600);

pub struct Attempt<'a> {
    jobs: &'a Jobs,
    job: &'a Job,
    told: Told,
    place: &'a Place,
    pauses: Pauses,
    /// When the server first failed, ms since boot, with nothing come from it since; later by the time in which it was
    /// not this job's turn to ask.
    nothing_since: Option<u64>,
}

/// What an interrupted job needs to go on. The types of the fields are those that the first rows were read with.
#[derive(Serialize, Deserialize)]
struct Resume {
    schema: Schema,
    progress: Progress,
}

/// Why an attempt ends before the job.
enum Trouble {
    /// The job fails, with this text.
    Final(String),
    /// The server may give something later: it goes on by itself from what is kept.
    Passing {
        why: String,
        retry_after: Option<Duration>,
    },
    /// Others could work meanwhile: nothing is kept in memory, and it goes on from what is on disk.
    Aside {
        why: String,
        /// ms since boot.
        until: u64,
    },
    /// The disk may take something later.
    Disk(String),
    /// What is kept is of no use: it begins anew.
    Anew(String),
    /// It goes on when there is room.
    NoRoom(NoRoom),
    Store(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<InfluxError> for Trouble {
    fn from(error: InfluxError) -> Self {
        let why = error.to_string();
        match error {
            InfluxError::Passing { retry_after, .. } => Self::Passing { why, retry_after },
            _ => Self::Final(why),
        }
    }
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        let why = error.to_string();
        match error {
            WriteError::Changed { .. } | WriteError::Damaged { .. } => Self::Anew(why),
            WriteError::Io { source, .. } if source.kind() == ErrorKind::StorageFull => {
                Self::Disk("disk full: make room, and the export goes on by itself".to_owned())
            }
            WriteError::Io { source, .. } => Self::Disk(format!("{why}: {source}")),
            WriteError::Ended => Self::Disk(why),
            WriteError::InTheWay { .. }
            | WriteError::TwoTypes { .. }
            | WriteError::Unwritable { .. }
            | WriteError::Empty
            | WriteError::Manifest(_) => Self::Final(why),
        }
    }
}

/// Why a slice was not read.
enum NotRead {
    Influx(InfluxError),
    Slice(BadSlice),
    Write(WriteError),
    NoRoom(NoRoom),
    Store(StoreError),
}

impl From<InfluxError> for NotRead {
    fn from(error: InfluxError) -> Self {
        Self::Influx(error)
    }
}

impl<'a> Attempt<'a> {
    pub fn new(jobs: &'a Jobs, job: &'a Job, told: Told, place: &'a Place) -> Self {
        Self { jobs, job, told, place, pauses: Pauses::default(), nothing_since: None }
    }

    /// Waits until it is this job's turn to work.
    pub async fn take_turn(&mut self) {
        let asked = self.jobs.clock.since_boot_ms();
        let (before, told) = (self.told.waiting(), &mut self.told);
        let at_work = |other| format!("export {other} is at work; this one goes on after it");
        self.place.take(|other| told.waits(Some(at_work(other)))).await;
        told.waits(before);
        let waited = self.jobs.clock.since_boot_ms().saturating_sub(asked);
        self.nothing_since = self.nothing_since.map(|since| since.saturating_add(waited));
    }

    /// Tries as long as there is hope. An error of the store is the caller's.
    pub async fn end(&mut self) -> Result<JobEnd, StoreError> {
        loop {
            let trouble = match self.once().await {
                Ok(end) => return Ok(end),
                Err(Trouble::Passing { why, retry_after }) => match self.wait_for_server(why, retry_after).await {
                    Ok(()) => continue,
                    Err(trouble) => trouble,
                },
                Err(trouble) => trouble,
            };
            match trouble {
                Trouble::Final(error) => return Ok(JobEnd::Failed { error }),
                Trouble::Store(error) => return Err(error),
                Trouble::Passing { why, .. } | Trouble::Disk(why) => {
                    self.nothing_since = None;
                    let pause = self.pauses.next(None);
                    self.waits(why, pause);
                    self.jobs.clock.sleep(pause).await;
                }
                Trouble::Aside { why, until } => self.step_aside(why, until).await,
                Trouble::NoRoom(why) => self.wait_for_disk(&why).await,
                Trouble::Anew(why) => {
                    warn!(id = %self.job.id, why, "export begins anew");
                    let nothing = (JobProgress::default(), 0, String::new());
                    self.jobs.ledger.job_is_at(self.job.id, nothing.0, nothing.1, nothing.2).await?;
                }
            }
        }
    }

    /// Pauses before the server is asked again, unless another job could work then; the job's end when it gave nothing for
    /// too long.
    async fn wait_for_server(&mut self, why: String, retry_after: Option<Duration>) -> Result<(), Trouble> {
        let now = self.jobs.clock.since_boot_ms();
        let since = *self.nothing_since.get_or_insert(now);
        if u128::from(now.saturating_sub(since)) >= NOTHING_FOR.as_millis() {
            let hours = NOTHING_FOR.as_secs() / 3_600;
            return Err(Trouble::Final(format!(
                "connection {}: nothing came for {hours} h, so that its other exports can go on. Last: {why}. See that the server \
                 answers (test the connection) and export it anew",
                self.job.request.connection
            )));
        }
        let pause = self.pauses.next(retry_after);
        self.waits(why.clone(), pause);
        if self.pauses.count() < STUMBLES {
            self.jobs.clock.sleep(pause).await;
            return Ok(());
        }
        let until = now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        tokio::select! {
            () = self.jobs.clock.sleep(pause) => Ok(()),
            () = self.place.wanted() => Err(Trouble::Aside { why, until }),
        }
    }

    /// Lets others work until the server is to be asked again, and then until it is this job's turn.
    async fn step_aside(&mut self, why: String, until: u64) {
        info!(id = %self.job.id, why, "export lets those of other connections go first");
        self.place.leave();
        let left = until.saturating_sub(self.jobs.clock.since_boot_ms());
        self.jobs.clock.sleep(Duration::from_millis(left)).await;
        self.take_turn().await;
    }

    /// Exports stop before readings lack room, and keep what they have. The server is not to blame for that time.
    async fn wait_for_disk(&mut self, none: &NoRoom) {
        self.nothing_since = None;
        self.told.waits(Some(none.to_string()));
        self.jobs.clock.sleep(ROOM_AGAIN).await;
    }

    fn waits(&mut self, why: String, pause: Duration) {
        info!(id = %self.job.id, why, ?pause, "export waits");
        self.told.waits(Some(why));
    }

    async fn once(&mut self) -> Result<JobEnd, Trouble> {
        let folder = self.jobs.reader.bundle_folder(self.job.id);
        if folder.exists() {
            // It got its name, and a crash came before its job ended.
            let manifest = found(&folder, self.jobs.rows_per_part)?;
            let identity = self.jobs.reader.identity();
            if (&manifest.gateway, &manifest.site) == (&identity.gateway, &identity.site) {
                return ended(&folder, &manifest);
            }
            // The log would commit to it under an origin that it does not name, and no verifier would have it. Under its
            // working name it is cleared away.
            return Err(self.undone(&folder, &manifest));
        }
        let query: Query = serde_json::from_value(self.job.request.query.clone()).map_err(|error| {
            Trouble::Final(format!("the query of this job cannot be read: {error}; export it anew"))
        })?;
        self.wait_for_room().await?;
        let influx = self.open()?;
        let server_version = influx.test().await?.server_version;
        let server = Server {
            kind: manifest::INFLUXDB.to_owned(),
            name: self.job.request.connection.clone(),
            server_version,
            version: influx.connection().server.version(),
        };
        let (kind, writer) = match &query {
            Query::Points(points) => {
                let selection = Selection {
                    measurement: points.measurement.clone(),
                    fields: points.fields.clone(),
                    tags: points.tags.clone(),
                };
                (Kind::Points, self.points(influx, &selection).await?)
            }
            Query::Result(result) => (Kind::Result, self.result(&influx, &result.text).await?),
        };
        let identity = self.jobs.reader.identity();
        let heading = Heading {
            id: self.job.id,
            kind,
            connection: server,
            query,
            from_ns: self.job.request.from_ns,
            to_ns: self.job.request.to_ns,
            gateway: identity.gateway.clone(),
            site: identity.site.clone(),
            program: concat!("meterseal ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let manifest = writer.finish(heading, &folder).map_err(|error| match error {
            WriteError::Empty => Trouble::Final(self.no_points()),
            error => error.into(),
        })?;
        ended(&folder, &manifest)
    }

    /// Takes its name from a bundle: the job begins anew in its folder.
    fn undone(&self, folder: &Path, manifest: &Manifest) -> Trouble {
        let working = self.working();
        let moved = match fs::remove_dir_all(&working) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => fs::rename(folder, &working),
        };
        let Manifest { site, gateway, .. } = manifest;
        match moved {
            Ok(()) => Trouble::Anew(format!("its bundle is of site {site}, gateway {gateway}, as this was before")),
            Err(error) => Trouble::Disk(format!("{} cannot be moved: {error}", folder.display())),
        }
    }

    /// Reads raw points slice by slice.
    async fn points(&mut self, mut influx: Influx, selection: &Selection) -> Result<Writer, Trouble> {
        let period = self.job.request.from_ns..self.job.request.to_ns;
        let (schema, progress) = match self.kept().await? {
            Some(Resume { schema, progress }) => (schema, progress),
            None => {
                let schema = influx.schema(selection, period.clone()).await;
                (schema.map_err(|error| self.about_the_query(error))?, Progress::default())
            }
        };
        let mut slices = Slices::new(progress.read_to_ns().unwrap_or(period.start)..period.end);
        let mut writer = Writer::with_parts_of(self.jobs.rows_per_part, &self.working(), progress)?;
        while let Some(slice) = slices.next() {
            self.wait_for_room().await?;
            let (before, at) = (writer.written(), slice.start);
            let told = &mut self.told;
            let mut tell = |rows: u64| {
                told.at(JobProgress { rows: before.0 + rows, bytes: before.1, position_ns: Some(at) });
            };
            tell(0);
            match read(&influx, selection, &schema, slice.clone(), &mut tell).await {
                Ok((rows, absent)) => {
                    let mut rows = rows;
                    rows.count_absent(absent);
                    let sorted = rows.sort().map_err(|bad| self.bad(bad))?;
                    let read_ms = u64::try_from(self.jobs.clock.now().as_millis()).unwrap_or(0);
                    if let Some(progress) = writer.append(&sorted, read_ms)? {
                        self.keep(&schema, progress).await?;
                    }
                    slices.taken(writer.written().1 - before.1);
                    self.pauses.end();
                    self.nothing_since = None;
                }
                Err(NotRead::Slice(BadSlice::Full { .. })) => {
                    if !slices.halve() {
                        return Err(Trouble::Final(self.too_much(slice.start, "it holds more than memory may take")));
                    }
                }
                Err(NotRead::Influx(InfluxError::Smaller { why, .. })) => {
                    if !slices.halve() {
                        return Err(Trouble::Final(self.too_much(slice.start, &why)));
                    }
                }
                Err(NotRead::Influx(InfluxError::Passing { connection, why, retry_after })) => {
                    if self.pauses.count() > 0 {
                        slices.lighten();
                    }
                    let why = format!("connection {connection}: {why}");
                    self.wait_for_server(why, retry_after).await?;
                    // Its address or its password may have been corrected meanwhile.
                    influx = self.open()?;
                }
                Err(NotRead::Influx(error)) => return Err(error.into()),
                Err(NotRead::Slice(bad)) => return Err(self.bad(bad)),
                Err(NotRead::Write(error)) => return Err(error.into()),
                Err(NotRead::NoRoom(none)) => return Err(Trouble::NoRoom(none)),
                Err(NotRead::Store(error)) => return Err(error.into()),
            }
        }
        Ok(writer)
    }

    /// Reads the answer to a free query, in one piece: what was read before an interruption cannot be told apart.
    async fn result(&mut self, influx: &Influx, text: &str) -> Result<Writer, Trouble> {
        let Range { start, end } = self.job.request.from_ns..self.job.request.to_ns;
        let mut writer = Writer::with_parts_of(self.jobs.rows_per_part, &self.working(), Progress::default())?;
        let (mut rows, mut looked) = (Vec::with_capacity(RESULT_ROWS), 0);
        let (working, jobs, id) = (self.working(), self.jobs, self.job.id);
        let told = &mut self.told;
        let mut take = |row: ResultRow| {
            rows.push(row);
            if rows.len() < RESULT_ROWS {
                return Ok(());
            }
            writer.append_result(&rows).map_err(NotRead::Write)?;
            rows.clear();
            let (rows, bytes) = writer.written();
            told.at(JobProgress { rows, bytes, position_ns: None });
            if bytes - looked >= RESULT_ROOM {
                looked = bytes;
                let room = jobs.ledger.room_for_export(id, size(&working)).map_err(NotRead::Store)?;
                room.map_err(NotRead::NoRoom)?;
            }
            Ok(())
        };
        let Read { empty_strings, .. } =
            influx.table(text, start..end, &mut take).await.map_err(|error| match error {
                NotRead::Influx(InfluxError::Smaller { connection, why }) => Trouble::Final(format!(
                    "connection {connection}: {why}; a free query is asked in one piece: give a shorter period"
                )),
                NotRead::Influx(error) => error.into(),
                NotRead::Slice(bad) => Trouble::Final(bad.to_string()),
                NotRead::Write(error) => error.into(),
                NotRead::NoRoom(none) => Trouble::NoRoom(none),
                NotRead::Store(error) => error.into(),
            })?;
        writer.append_result(&rows)?;
        writer.count_absent(Absent { empty_strings, empty_tags: 0 });
        writer.end_result(start, end, u64::try_from(self.jobs.clock.now().as_millis()).unwrap_or(0))?;
        Ok(writer)
    }

    fn open(&self) -> Result<Influx, Trouble> {
        let name = &self.job.request.connection;
        let config = self.jobs.config.borrow().clone();
        let connection = config.connections.iter().find(|connection| connection.name == *name).ok_or_else(|| {
            Trouble::Final(format!(
                "there is no connection {name} in the config any more, or its secret is missing: see `meterseal check`"
            ))
        })?;
        Ok(Influx::open(connection)?)
    }

    /// Where the job was interrupted, if anything of it was kept.
    async fn kept(&self) -> Result<Option<Resume>, StoreError> {
        let text = self.jobs.reader.resume_of(self.job.id).await?.filter(|text| !text.is_empty());
        Ok(text.and_then(|text| match serde_json::from_str(&text) {
            Ok(resume) => Some(resume),
            Err(error) => {
                warn!(id = %self.job.id, %error, "what was kept of the export cannot be read, so it begins anew");
                None
            }
        }))
    }

    async fn keep(&self, schema: &Schema, progress: Progress) -> Result<(), Trouble> {
        let position_ns = progress.read_to_ns();
        let at = JobProgress { rows: progress.rows(), bytes: progress.bytes(), position_ns };
        let stored = progress.parts.iter().map(|part| part.bytes).sum();
        let resume = Resume { schema: schema.clone(), progress };
        let text = serde_json::to_string(&resume).map_err(|error| Trouble::Final(error.to_string()))?;
        self.jobs.ledger.job_is_at(self.job.id, at, stored, text).await?;
        Ok(())
    }

    async fn wait_for_room(&mut self) -> Result<(), StoreError> {
        while let Err(none) = self.jobs.ledger.room_for_export(self.job.id, size(&self.working()))? {
            self.wait_for_disk(&none).await;
        }
        Ok(())
    }

    fn working(&self) -> PathBuf {
        self.jobs.reader.making_folder(self.job.id)
    }

    fn bad(&self, bad: BadSlice) -> Trouble {
        Trouble::Final(format!("connection {}: {bad}", self.job.request.connection))
    }

    fn too_much(&self, at: i64, why: &str) -> String {
        let connection = &self.job.request.connection;
        let at = written_ns(at);
        format!(
            "connection {connection}: the instant {at} alone is too much: {why}; ask for fewer fields or for one tag"
        )
    }

    /// What a server says of the names and the period that a query asks for, with these.
    fn about_the_query(&self, error: InfluxError) -> Trouble {
        let asked = self.asked();
        match error {
            InfluxError::Unknown { .. } => Trouble::Final(format!("{error} ({asked})")),
            error => error.into(),
        }
    }

    fn no_points(&self) -> String {
        let request = &self.job.request;
        let of = match request.query["measurement"].as_str() {
            Some(measurement) => format!("there are no points of {measurement} in that time"),
            None => "the answer has no rows".to_owned(),
        };
        format!("connection {}: {of}; correct the query or the period ({})", request.connection, self.asked())
    }

    fn asked(&self) -> String {
        let request = &self.job.request;
        let name = request.query["name"].as_str().unwrap_or_default();
        format!("query {name} between {} and {}", written_ns(request.from_ns), written_ns(request.to_ns))
    }
}

/// Reads the rows of a slice.
async fn read(
    influx: &Influx,
    selection: &Selection,
    schema: &Schema,
    slice: Range<i64>,
    tell: &mut (impl FnMut(u64) + Send),
) -> Result<(Slice, Absent), NotRead> {
    let mut rows = Slice::new(slice.start, slice.end);
    let mut take = |row: Row| {
        if rows.rows().is_multiple_of(ROWS_TOLD) {
            tell(rows.rows() as u64);
        }
        rows.push(row).map_err(NotRead::Slice)
    };
    let Read { empty_strings, empty_tags, .. } = influx.rows(selection, schema, slice, &mut take).await?;
    Ok((rows, Absent { empty_strings, empty_tags }))
}

/// The manifest of a bundle that lies under its name.
fn found(folder: &Path, rows_per_part: u64) -> Result<Manifest, Trouble> {
    let path = folder.join(manifest::FILE);
    let bytes = fs::read(&path)
        .map_err(|error| Trouble::Final(format!("{} cannot be read: {error}; export it anew", path.display())))?;
    Manifest::with_parts_of(rows_per_part, &bytes)
        .map_err(|error| Trouble::Final(format!("{} is damaged: {error}; export it anew", path.display())))
}

fn ended(folder: &Path, manifest: &Manifest) -> Result<JobEnd, Trouble> {
    let progress = JobProgress { rows: manifest.rows, bytes: manifest.bytes, position_ns: Some(manifest.to_ns) };
    let manifest_sha256 = manifest.sha256().map_err(|error| Trouble::Final(error.to_string()))?;
    Ok(JobEnd::Done { manifest_sha256, stored: size(folder), progress })
}

/// Bytes of the files in a folder; of one that is not there, none.
fn size(folder: &Path) -> u64 {
    let files = folder.read_dir().into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}
