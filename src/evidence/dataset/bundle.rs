//! The writer of a bundle: rows in, parts and manifest out, and the place from which it goes on after a crash.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::manifest::{self, BadManifest, Kind, Manifest, Query, Server, Window};
use super::part::{self, PIECE, PartFacts, Piece, Press, Pressed};
use super::row::{self, Unwritable};
use super::slice::{Absent, SortedSlice};
use crate::model::{Digest, FieldType, JobId, ResultRow, Row, SiteId, merkle};

/// Why a bundle was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A full disk among them: the job goes on from its progress once there is room.
    #[error("cannot write {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the thread that writes the dataset has ended")]
    Ended,
    /// The job must begin anew.
    #[error(
        "the database gives other rows than before the export was interrupted, though its first {rows} rows are written; \
         export it anew"
    )]
    Changed { rows: u64 },
    #[error("the part {} was changed or damaged since it was written; export it anew", path.display())]
    Damaged { path: PathBuf },
    #[error("{} is in the way: it is none of a bundle's files", path.display())]
    InTheWay { path: PathBuf },
    #[error("field {field:?} is {first} in some rows and {second} in others; ask for fields of one type")]
    TwoTypes { field: String, first: FieldType, second: FieldType },
    #[error("row {row} of the answer has a value that is {why}")]
    Unwritable { row: u64, why: Unwritable },
    #[error("no rows in the period; a dataset has at least one")]
    Empty,
    #[error("the manifest would not hold")]
    Manifest(#[from] BadManifest),
}

impl WriteError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// How far a bundle is: what is durable in its finished parts, and what is known of the windows behind. Kept with the
/// job, and handed back when work goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub parts: Vec<PartFacts>,
    /// Of the Merkle tree over their rows.
    subtrees: Vec<Digest>,
    fields: BTreeMap<String, FieldType>,
    /// Those whose rows are all in finished parts, or were found to be none.
    pub windows: Vec<Window>,
    absent: Absent,
    repeated: u64,
    /// Rows in finished parts that lie behind the last of `windows`, and the SHA-256 of their leaf hashes. When that
    /// stretch is read again, it must begin with these very rows.
    begun: u64,
    begun_sha256: Option<Digest>,
}

impl Progress {
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Of the rows as canonical text.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.raw_bytes).sum()
    }

    /// Where reading goes on: the end of the last window, if there is one.
    pub fn read_to_ns(&self) -> Option<i64> {
        self.windows.last().map(|window| window.to_ns)
    }
}

/// What a manifest says that does not come from the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Heading {
    pub id: JobId,
    pub kind: Kind,
    pub connection: Server,
    pub query: Query,
    pub from_ns: i64,
    pub to_ns: i64,
    pub gateway: String,
    pub site: SiteId,
    /// Such as `meterseal 0.1.0`.
    pub program: String,
}

/// Writes a bundle into a working folder, which gets its name when all is done. Blocking: not for async threads.
pub struct Writer {
    working: PathBuf,
    press: Press,
    rows_per_part: u64,
    /// Rows that are not handed over yet.
    piece: Piece,
    rows_in_part: u64,
    /// In all, those of finished parts among them.
    rows: u64,
    /// Over the rows of finished parts.
    tree: merkle::Frontier,
    fields: Fields,
    /// As if all that was handed over were durable; `parts` are those that are.
    progress: Progress,
    begun: Begun,
    /// Rows to be met again before anything is written.
    again: Option<Again>,
    /// What the progress will be once the parts that were cut are durable; the oldest first, two at most.
    cut: VecDeque<(u64, Progress)>,
    newest: Option<Progress>,
    bytes: u64,
}

/// Rows behind the last whole window.
#[derive(Default)]
struct Begun {
    rows: u64,
    leaves: Sha256,
}

/// Rows that finished parts hold, while they are read again.
struct Again {
    left: u64,
    leaves: Sha256,
    want: Digest,
}

impl Writer {
    /// Begins, or goes on from what was kept. What `working` holds beyond `progress` is thrown away: it was not whole.
    pub fn open(working: &Path, progress: Progress) -> Result<Self, WriteError> {
        Self::with_parts_of(part::ROWS, working, progress)
    }

    /// As [`open`](Self::open), with parts of another length. Such a bundle is none to a verifier; tests of what
    /// happens at the end of a part need not write millions of rows.
    pub fn with_parts_of(rows: u64, working: &Path, progress: Progress) -> Result<Self, WriteError> {
        fs::create_dir_all(working).map_err(|source| WriteError::io(working, source))?;
        clear_beyond(working, &progress.parts)?;
        for facts in &progress.parts {
            check_part(&working.join(&facts.name), facts)?;
        }
        let written = progress.rows();
        let Some(tree) = merkle::Frontier::restore(written, progress.subtrees.clone()) else {
            return Err(WriteError::Changed { rows: written });
        };
        let again = progress.begun_sha256.map(|want| Again { left: progress.begun, leaves: Sha256::new(), want });
        Ok(Self {
            press: Press::start(working.to_owned(), progress.parts.len(), tree.clone())?,
            tree,
            working: working.to_owned(),
            rows_per_part: rows,
            piece: Piece::new(),
            rows_in_part: 0,
            rows: written,
            fields: Fields { known: Vec::new(), all: progress.fields.clone() },
            bytes: progress.bytes(),
            progress,
            begun: Begun::default(),
            again: again.filter(|again| again.left > 0),
            cut: VecDeque::new(),
            newest: None,
        })
    }

    /// Writes the rows of the next window, whose answer was whole at `read_ms`. Gives the progress when more of it has
    /// become durable: keep that, and hand it to [`open`](Self::open) after a crash.
    pub fn append(&mut self, slice: &SortedSlice, read_ms: u64) -> Result<Option<Progress>, WriteError> {
        let beginnings = Beginnings::of(slice);
        for (series, row) in slice.in_order() {
            self.fields.see(row)?;
            let start = self.piece.text.len();
            match beginnings.get(series) {
                Some(text) => self.piece.text.extend_from_slice(text),
                None => row::write_series(row, &mut self.piece.text),
            }
            row::write_point(row, &mut self.piece.text);
            self.line(start)?;
        }
        self.progress.repeated += slice.repeated;
        self.progress.absent.empty_strings += slice.absent.empty_strings;
        self.progress.absent.empty_tags += slice.absent.empty_tags;
        self.end_window(slice.from_ns, slice.to_ns, read_ms)
    }

    /// Writes the next rows of a free query's answer.
    pub fn append_result(&mut self, rows: &[ResultRow]) -> Result<(), WriteError> {
        for columns in rows {
            let index = self.begun.rows;
            row::check_result(columns).map_err(|why| WriteError::Unwritable { row: index, why })?;
            let start = self.piece.text.len();
            row::write_result(index, columns, &mut self.piece.text);
            self.line(start)?;
        }
        Ok(())
    }

    /// Counts values that a free query's answer gave empty.
    pub fn count_absent(&mut self, absent: Absent) {
        self.progress.absent.empty_strings += absent.empty_strings;
        self.progress.absent.empty_tags += absent.empty_tags;
    }

    /// Ends a free query's answer, its only window.
    pub fn end_result(&mut self, from_ns: i64, to_ns: i64, read_ms: u64) -> Result<Option<Progress>, WriteError> {
        self.end_window(from_ns, to_ns, read_ms)
    }

    /// All rows that were handed over or are in finished parts, and the bytes of their text.
    pub fn written(&self) -> (u64, u64) {
        (self.rows, self.bytes)
    }

    /// Ends the bundle: its folder becomes `finished`, which must not exist.
    pub fn finish(mut self, heading: Heading, finished: &Path) -> Result<Manifest, WriteError> {
        if let Some(again) = &self.again {
            return Err(WriteError::Changed { rows: self.rows - again.left });
        }
        if self.rows == 0 {
            return Err(WriteError::Empty);
        }
        if self.rows_in_part > 0 {
            self.cut()?;
        }
        while !self.cut.is_empty() {
            let pressed = self.press.wait()?;
            self.settle(pressed);
        }
        let manifest = self.manifest(heading);
        manifest.check(self.rows_per_part)?;
        let bytes = manifest.to_bytes().map_err(|error| BadManifest::Json(error.to_string()))?;
        write_durably(&self.working.join(manifest::FILE), &bytes)?;
        part::sync_folder(&self.working)?;
        // The folder has its name only when all in it is durable: whoever finds it by that name may trust it.
        fs::rename(&self.working, finished).map_err(|source| WriteError::io(finished, source))?;
        if let Some(parent) = finished.parent() {
            part::sync_folder(parent)?;
        }
        Ok(manifest)
    }

    fn manifest(&self, heading: Heading) -> Manifest {
        let Heading { id, kind, connection, query, from_ns, to_ns, gateway, site, program } = heading;
        let Progress { parts, windows, absent, repeated, .. } = &self.progress;
        Manifest {
            absent: *absent,
            bytes: self.bytes,
            connection,
            fields: self.fields.all.clone(),
            format: manifest::FORMAT.to_owned(),
            from_ns,
            gateway,
            id,
            kind,
            parts: parts.clone(),
            program,
            query,
            repeated: *repeated,
            root: self.tree.root(),
            rows: self.rows,
            site,
            to_ns,
            windows: windows.clone(),
        }
    }

    /// Takes the line that was put at the end of the text, without its line feed.
    fn line(&mut self, start: usize) -> Result<(), WriteError> {
        let leaf = merkle::leaf(&self.piece.text[start..]);
        self.begun.rows += 1;
        self.begun.leaves.update(leaf.as_bytes());
        if let Some(again) = &mut self.again {
            // It is in a finished part already.
            self.piece.text.truncate(start);
            again.leaves.update(leaf.as_bytes());
            again.left -= 1;
            if again.left == 0 {
                let got = Digest::from_bytes(again.leaves.finalize_reset().into());
                if got != again.want {
                    return Err(WriteError::Changed { rows: self.rows });
                }
                self.again = None;
            }
            return Ok(());
        }
        self.piece.text.push(b'\n');
        self.bytes += (self.piece.text.len() - start) as u64;
        self.piece.leaves.push(leaf);
        self.rows += 1;
        self.rows_in_part += 1;
        if self.rows_in_part == self.rows_per_part {
            return self.cut();
        }
        // Pieces end where the rows say, not where windows do, so that the same rows give the same file.
        if self.piece.text.len() >= PIECE {
            self.hand_over()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), WriteError> {
        let full = std::mem::replace(&mut self.piece, Piece { text: Vec::new(), leaves: Vec::new() });
        self.piece = self.press.rows(full)?;
        Ok(())
    }

    /// Ends the part.
    fn cut(&mut self) -> Result<(), WriteError> {
        self.hand_over()?;
        self.press.cut()?;
        let progress = Progress {
            parts: Vec::new(),
            subtrees: Vec::new(),
            fields: self.fields.all.clone(),
            begun: self.begun.rows,
            begun_sha256: Some(Digest::from_bytes(self.begun.leaves.clone().finalize().into())),
            ..self.progress.clone()
        };
        self.cut.push_back((self.rows_in_part, progress));
        self.rows_in_part = 0;
        while self.cut.len() > 1 {
            let pressed = self.press.wait()?;
            self.settle(pressed);
        }
        Ok(())
    }

    /// The oldest part that was cut is durable.
    fn settle(&mut self, pressed: Pressed) {
        let Pressed { tree, raw_bytes, raw_sha256, bytes, sha256 } = pressed;
        let Some((rows, progress)) = self.cut.pop_front() else { return };
        let name = part::name(self.progress.parts.len());
        self.progress.parts.push(PartFacts { bytes, name, raw_bytes, raw_sha256, rows, sha256 });
        let (parts, subtrees) = (self.progress.parts.clone(), tree.subtrees().to_vec());
        self.newest = Some(Progress { parts, subtrees, ..progress });
        self.tree = tree;
    }

    fn end_window(&mut self, from_ns: i64, to_ns: i64, read_ms: u64) -> Result<Option<Progress>, WriteError> {
        self.progress.windows.push(Window { from_ns, read_ms, rows: self.begun.rows, to_ns });
        self.begun = Begun::default();
        while let Some(pressed) = self.press.poll()? {
            self.settle(pressed);
        }
        Ok(self.newest.take())
    }
}

/// What the rows of a series begin with, written once for all of them.
#[derive(Default)]
struct Beginnings {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Beginnings {
    /// With more series than this a slice has few rows of each, and their beginnings would take the memory that the
    /// rows are to have.
    const SERIES: usize = 4_096;

    fn of(slice: &SortedSlice) -> Self {
        let mut all = Self::default();
        if slice.heads().len() <= Self::SERIES {
            for row in slice.heads() {
                row::write_series(row, &mut all.text);
                all.ends.push(all.text.len());
            }
        }
        all
    }

    fn get(&self, series: usize) -> Option<&[u8]> {
        let start = if series == 0 { 0 } else { *self.ends.get(series - 1)? };
        self.text.get(start..*self.ends.get(series)?)
    }
}

/// The fields that occur, each of one type.
struct Fields {
    /// The last ones by address: rows of one series share the name.
    known: Vec<(Arc<str>, FieldType)>,
    all: BTreeMap<String, FieldType>,
}

impl Fields {
    /// More names than rows in a row have; beyond, the look-up by address is not worth its while.
    const KNOWN: usize = 32;

    fn see(&mut self, row: &Row) -> Result<(), WriteError> {
        let kind = row.value.kind();
        if self.known.iter().any(|(field, known)| *known == kind && Arc::ptr_eq(field, &row.field)) {
            return Ok(());
        }
        match self.all.get(&*row.field) {
            Some(first) if *first != kind => {
                return Err(WriteError::TwoTypes { field: row.field.to_string(), first: *first, second: kind });
            }
            Some(_) => {}
            None => {
                self.all.insert(row.field.to_string(), kind);
            }
        }
        if self.known.len() == Self::KNOWN {
            self.known.clear();
        }
        self.known.push((row.field.clone(), kind));
        Ok(())
    }
}

/// Removes what a crash left behind the finished parts.
fn clear_beyond(working: &Path, parts: &[PartFacts]) -> Result<(), WriteError> {
    let failed = |source| WriteError::io(working, source);
    for entry in fs::read_dir(working).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if parts.iter().any(|part| part.name == name) {
            continue;
        }
        if name != manifest::FILE && !(name.starts_with("data-") && name.ends_with(".jsonl.zst")) {
            return Err(WriteError::InTheWay { path });
        }
        fs::remove_file(&path).map_err(|source| WriteError::io(&path, source))?;
    }
    Ok(())
}

/// A finished part must be what it was when it was finished, or the bundle would be refused by its verifier later.
fn check_part(path: &Path, facts: &PartFacts) -> Result<(), WriteError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => WriteError::Damaged { path: path.to_owned() },
        _ => WriteError::io(path, source),
    };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            length => {
                hash.update(&buffer[..length]);
                bytes += length as u64;
            }
        }
    }
    if bytes != facts.bytes || Digest::from_bytes(hash.finalize().into()) != facts.sha256 {
        return Err(WriteError::Damaged { path: path.to_owned() });
    }
    Ok(())
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| WriteError::io(path, source))
}
