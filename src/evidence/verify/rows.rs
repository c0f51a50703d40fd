//! The rows of a bundle's parts: decompressed and hashed on one thread, taken apart on another, and put into the tree on
//! a third.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};
use zstd::stream::read::Decoder;

use super::frames::Frames;
use super::report::{Cause, Refused};
use crate::evidence::dataset::line::{self, Line, Series};
use crate::evidence::dataset::manifest::{self, Kind, Manifest, Query, ResultQuery};
use crate::evidence::dataset::part::{PartFacts, WINDOW_LOG_MAX};
use crate::model::merkle::{self, Frontier};
use crate::model::{Digest, FieldType, jcs};

/// A longer row is not read.
const LONGEST_ROW: usize = 16 << 20;
/// Text is handed over in pieces of about this size, whole lines each.
const PIECE: usize = 256 << 10;
/// The beginnings of series that are remembered at a time; beyond, they are forgotten, and rows only take longer.
const SERIES_BYTES: usize = 4 << 20;
/// Pieces on their way. When it is full, decompression waits for the check.
const QUEUE: usize = 4;

/// What is being checked, now and then.
pub struct Progress<'a> {
    pub part: &'a str,
    /// Of all parts' files.
    pub bytes: u64,
    pub of_bytes: u64,
    pub rows: u64,
}

/// Checks all rows against the manifest. `open` gives a part's file, which has been found to have the right length.
pub fn check<R: Read + Send>(
    manifest: &Manifest,
    mut open: impl FnMut(&PartFacts) -> Result<R, Refused>,
    mut progress: impl FnMut(Progress),
) -> Result<(), Refused> {
    let of_bytes = manifest.parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.bytes));
    let mut rows = Rows::of(manifest);
    let mut tree = Frontier::default();
    let mut bytes = 0;
    for part in &manifest.parts {
        rows.begin(part);
        let file = open(part)?;
        let told = std::thread::scope(|scope| {
            let (full, pieces) = sync_channel(QUEUE);
            let (spare, emptied) = sync_channel(QUEUE);
            let unpacked = scope.spawn(move || unpack(file, part, &full, &emptied));
            let (good, leaves) = sync_channel::<Vec<u8>>(QUEUE);
            let tree = &mut tree;
            let grown = scope.spawn(move || {
                for text in leaves {
                    each_line(&text, |line| {
                        tree.push(merkle::leaf(line));
                        Ok(())
                    })?;
                    // One that finds no room is freed.
                    drop(spare.try_send(text));
                }
                Ok::<_, String>(())
            });
            let checked = rows.take(&pieces, &good, |read, rows| {
                progress(Progress { part: &part.name, bytes: bytes + read, of_bytes, rows });
            });
            // A check that ended early must not leave the others waiting.
            drop((pieces, good));
            let checked = match grown.join() {
                Ok(Ok(())) => checked,
                _ => checked.and(Err(refused(part, "cannot be hashed"))),
            };
            let unpacked = unpacked.join().unwrap_or_else(|_| Err(refused(part, "cannot be decompressed")));
            // What lies first in the file is told; and a bad row also where the digest tells that it was changed.
            checked.and(unpacked)
        });
        told?;
        rows.end()?;
        bytes += part.bytes;
    }
    rows.finish(&tree)
}

fn refused(part: &PartFacts, why: impl Into<String>) -> Refused {
    Refused::new(&part.name, "", why)
}

/// Whole lines of a part, and how far into its file they lie.
struct Piece {
    text: Vec<u8>,
    read: u64,
}

/// Reads, hashes and decompresses a part; hands over its lines.
fn unpack<R: Read>(
    file: R,
    part: &PartFacts,
    full: &SyncSender<Piece>,
    emptied: &Receiver<Vec<u8>>,
) -> Result<(), Refused> {
    let failed = |error: io::Error| refused(part, error.to_string());
    let mut file = Hashed { inner: file, hash: Sha256::new(), bytes: 0 };
    let (mut raw, mut raw_bytes) = (Sha256::new(), 0_u64);
    {
        let mut decoder = Decoder::new(Frames::over(&mut file)).map_err(failed)?;
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(failed)?;
        let mut rest = Vec::new();
        loop {
            let mut text = emptied.try_recv().unwrap_or_default();
            text.clear();
            text.append(&mut rest);
            let known = text.len();
            let read = (&mut decoder).take(PIECE as u64).read_to_end(&mut text).map_err(failed)?;
            raw.update(&text[known..]);
            raw_bytes += read as u64;
            if raw_bytes > part.raw_bytes {
                return Err(refused(part, format!("found more than the {} bytes of rows expected", part.raw_bytes)));
            }
            if read == 0 {
                if !text.is_empty() {
                    return Err(refused(part, "its last row does not end in a line feed"));
                }
                break;
            }
            let end = text[known..].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| known + at + 1);
            if end == 0 && text.len() > LONGEST_ROW {
                let why = format!("a row has more than {LONGEST_ROW} bytes, and is not read");
                return Err(refused(part, why).because(Cause::Unreadable));
            }
            rest.extend_from_slice(&text[end..]);
            text.truncate(end);
            if full.send(Piece { text, read: decoder.get_ref().get_ref().passed() }).is_err() {
                return Ok(()); // The check has found a fault already.
            }
        }
    }
    // Nothing may follow the frames, nor be left of the file.
    let (sha256, bytes) = (Digest::from_bytes(file.hash.finalize().into()), file.bytes);
    let raw_sha256 = Digest::from_bytes(raw.finalize().into());
    let other = |what: &str, found: String, expected: String| {
        Err(refused(part, format!("found {what} {found}, expected {expected}, as the manifest says")))
    };
    // The file is the one that was meant: then it is the manifest that does not fit it.
    let stated = |what: &str, found: String, expected: String| {
        let place = format!("{what} of {}", part.name);
        Err(Refused::other(manifest::FILE, place, found, format!("{expected}, by its rows")))
    };
    if bytes != part.bytes {
        return other("bytes", bytes.to_string(), part.bytes.to_string());
    }
    if sha256 != part.sha256 {
        return other("sha256", sha256.to_string(), part.sha256.to_string());
    }
    if raw_bytes != part.raw_bytes {
        return stated("raw_bytes", part.raw_bytes.to_string(), raw_bytes.to_string());
    }
    if raw_sha256 != part.raw_sha256 {
        return stated("raw_sha256", part.raw_sha256.to_string(), raw_sha256.to_string());
    }
    Ok(())
}

/// A file that is hashed as it is read.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}

/// The rows as they come, over all parts.
struct Rows<'m> {
    manifest: &'m Manifest,
    kind: Kind,
    query: Wanted,
    part: &'m str,
    rows_in_part: u64,
    due_in_part: u64,
    /// All so far.
    rows: u64,
    /// The window that the next row may lie in, and how many rows it has so far.
    window: usize,
    rows_in_window: u64,
    fields: Fields,
    /// The line before, from the piece before.
    last: Vec<u8>,
    /// Series that fit the query, in the order in which they came; rows of one instant mostly come in the same again.
    series: Vec<Series>,
    /// Where each is among them, by its beginning.
    places: HashMap<Vec<u8>, usize>,
    series_bytes: usize,
    next: usize,
}

/// What the query asks of each row, in the form in which texts stand in rows.
struct Wanted {
    measurement: String,
    /// All, when empty.
    fields: Vec<String>,
    tags: Vec<(String, String)>,
}

/// The fields that occur, as they stand in rows.
#[derive(Default)]
struct Fields {
    /// Those seen last: rows of few fields are told by them.
    known: Vec<(String, FieldType)>,
    all: BTreeMap<String, FieldType>,
}

impl<'m> Rows<'m> {
    fn of(manifest: &'m Manifest) -> Self {
        let query = match &manifest.query {
            Query::Points(query) => Wanted {
                measurement: escaped(&query.measurement),
                fields: query.fields.iter().map(|field| escaped(field)).collect(),
                tags: query.tags.iter().map(|(tag, value)| (escaped(tag), escaped(value))).collect(),
            },
            Query::Result(ResultQuery { .. }) => {
                Wanted { measurement: String::new(), fields: Vec::new(), tags: Vec::new() }
            }
        };
        Self {
            manifest,
            kind: manifest.kind,
            query,
            part: "",
            rows_in_part: 0,
            due_in_part: 0,
            rows: 0,
            window: 0,
            rows_in_window: 0,
            fields: Fields::default(),
            last: Vec::new(),
            series: Vec::new(),
            places: HashMap::new(),
            series_bytes: 0,
            next: 0,
        }
    }

    fn begin(&mut self, part: &'m PartFacts) {
        (self.part, self.rows_in_part, self.due_in_part) = (&part.name, 0, part.rows);
    }

    /// Checks the lines of a part as they come, and hands them on.
    fn take(
        &mut self,
        pieces: &Receiver<Piece>,
        good: &SyncSender<Vec<u8>>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), Refused> {
        while let Ok(Piece { text, read }) = pieces.recv() {
            let checked = match self.kind {
                Kind::Points => self.points(&text),
                Kind::Result => each_line(&text, |line| self.result(line)),
            };
            checked.map_err(|why| Refused::new(self.part, format!("row {}", self.rows), why))?;
            progress(read, self.rows);
            if good.send(text).is_err() {
                break; // The other side has ended, and says why.
            }
        }
        Ok(())
    }

    fn points(&mut self, text: &[u8]) -> Result<(), String> {
        let last = std::mem::take(&mut self.last);
        let mut before: Option<Line> = if last.is_empty() { None } else { line::parse(&last).ok() };
        let mut newest: &[u8] = &[];
        each_line(text, |bytes| {
            self.due()?;
            let row = self.parse(bytes)?;
            if let Some(before) = &before
                && before.order(&row).is_ge()
            {
                let what = if before.order(&row).is_eq() { "the key of" } else { "a key before that of" };
                return Err(format!("it has {what} the row before it, and rows are strictly increasing"));
            }
            self.fits(&row)?;
            self.rows += 1;
            (before, newest) = (Some(row), bytes);
            Ok(())
        })?;
        self.last.extend_from_slice(newest);
        Ok(())
    }

    /// Takes a row apart that fits the query. Its series is mostly the one that came next the last time.
    fn parse<'a>(&mut self, bytes: &'a [u8]) -> Result<Line<'a>, String> {
        let again = self.series.get(self.next).or_else(|| self.series.first()).and_then(|series| series.parse(bytes));
        if let Some(again) = again {
            self.next = if self.next < self.series.len() { self.next + 1 } else { 1 };
            return again.map_err(|error| error.to_string());
        }
        let row = line::parse(bytes).map_err(|error| error.to_string())?;
        fits_query(&row, &self.query)?;
        let beginning = row.beginning();
        if let Some(at) = self.places.get(beginning) {
            self.next = at + 1;
            return Ok(row);
        }
        self.series_bytes += beginning.len();
        if self.series_bytes > SERIES_BYTES {
            self.series.clear();
            self.places.clear();
            self.series_bytes = beginning.len();
        }
        self.places.insert(beginning.to_vec(), self.series.len());
        self.series.push(Series::of(&row));
        self.next = self.series.len();
        Ok(row)
    }

    fn result(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.due()?;
        let index = line::parse_result(bytes).map_err(|error| error.to_string())?;
        if index != self.rows {
            return Err(format!("member `row`: found {index}, expected {}", self.rows));
        }
        self.rows_in_window += 1;
        self.rows += 1;
        Ok(())
    }

    fn due(&mut self) -> Result<(), String> {
        if self.rows_in_part == self.due_in_part {
            return Err(format!("found one more, expected {} in this part", self.due_in_part));
        }
        self.rows_in_part += 1;
        Ok(())
    }

    /// Whether a row lies in the window that is its turn, and its field is of one type.
    fn fits(&mut self, row: &Line) -> Result<(), String> {
        let (time, windows) = (row.time_ns(), &self.manifest.windows);
        while let Some(window) = windows.get(self.window).filter(|window| time >= window.to_ns) {
            full(self.window, self.rows_in_window, window.rows)?;
            (self.window, self.rows_in_window) = (self.window + 1, 0);
        }
        if time < self.manifest.from_ns || self.window == windows.len() {
            let (from, to) = (self.manifest.from_ns, self.manifest.to_ns);
            return Err(format!("found the time {time}, expected one from {from} to before {to}"));
        }
        self.rows_in_window += 1;
        let (field, kind) = (row.field().escaped(), row.kind());
        self.fields.see(field, kind)
    }

    /// The part is at its end.
    fn end(&self) -> Result<(), Refused> {
        if self.rows_in_part == self.due_in_part {
            return Ok(());
        }
        let found = format!("{} rows", self.rows_in_part);
        Err(Refused::other(self.part, "", found, format!("{}, as the manifest says", self.due_in_part)))
    }

    /// All rows are there: what the manifest says of them.
    fn finish(mut self, tree: &Frontier) -> Result<(), Refused> {
        let refuse = |place: &str, why: String| Refused::new(manifest::FILE, place, why);
        for (at, window) in self.manifest.windows.iter().enumerate().skip(self.window) {
            full(at, self.rows_in_window, window.rows).map_err(|why| refuse("member `windows`", why))?;
            self.rows_in_window = 0;
        }
        let found: BTreeMap<String, FieldType> =
            self.fields.all.iter().map(|(field, kind)| (plain(field), *kind)).collect();
        if found != self.manifest.fields {
            let text = |fields: &BTreeMap<String, FieldType>| {
                fields.iter().map(|(field, kind)| format!("{field} {kind}")).collect::<Vec<_>>().join(", ")
            };
            let why = format!("found {}, expected {}, by the rows", text(&self.manifest.fields), text(&found));
            return Err(refuse("member `fields`", why));
        }
        let root = tree.root();
        if root != self.manifest.root {
            return Err(refuse("member `root`", format!("found {}, expected {root}, by the rows", self.manifest.root)));
        }
        Ok(())
    }
}

fn full(at: usize, found: u64, expected: u64) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("window {at} has {found} rows, expected {expected}, as the manifest says"))
    }
}

/// Visits the lines of a text, without their line feeds, until one does not hold.
fn each_line<'t>(text: &'t [u8], mut visit: impl FnMut(&'t [u8]) -> Result<(), String>) -> Result<(), String> {
    match std::str::from_utf8(text) {
        // The same, and faster by a word at a time.
        Ok(text) => text.split_terminator('\n').try_for_each(|line| visit(line.as_bytes())),
        Err(_) => {
            let mut lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
            lines.try_for_each(visit)
        }
    }
}

fn fits_query(row: &Line, query: &Wanted) -> Result<(), String> {
    let (measurement, field) = (row.measurement().escaped(), row.field().escaped());
    if measurement != query.measurement {
        return Err(format!("found measurement {measurement}, expected {}, as the query says", query.measurement));
    }
    if !query.fields.is_empty() && !query.fields.iter().any(|wanted| wanted == field) {
        return Err(format!("found field {field}, for which the query does not ask"));
    }
    for (tag, value) in &query.tags {
        if !row.tags().any(|(of, found)| of.escaped() == tag && found.escaped() == value) {
            return Err(format!("it has no tag {tag} of {value}, for which the query asks"));
        }
    }
    Ok(())
}

/// Whether a row that stands alone fits the manifest; what its window's count is cannot be told.
pub fn fits_manifest(row: &[u8], index: u64, manifest: &Manifest) -> Result<(), String> {
    match manifest.kind {
        Kind::Result => {
            let found = line::parse_result(row).map_err(|error| error.to_string())?;
            if found == index { Ok(()) } else { Err(format!("member `row`: found {found}, expected {index}")) }
        }
        Kind::Points => {
            let row = line::parse(row).map_err(|error| error.to_string())?;
            fits_query(&row, &Rows::of(manifest).query)?;
            let (time, from, to) = (row.time_ns(), manifest.from_ns, manifest.to_ns);
            if !(from..to).contains(&time) {
                return Err(format!("found the time {time}, expected one from {from} to before {to}"));
            }
            let stated = manifest.fields.get(&*row.field().plain());
            if stated != Some(&row.kind()) {
                return Err(format!(
                    "found field {} of {}, which is not in the manifest",
                    row.field().escaped(),
                    row.kind()
                ));
            }
            Ok(())
        }
    }
}

impl Fields {
    /// More names than rows in a row have; beyond, to look through them is not worth its while.
    const KNOWN: usize = 16;

    fn see(&mut self, field: &str, kind: FieldType) -> Result<(), String> {
        if self.known.iter().any(|(known, of)| known == field && *of == kind) {
            return Ok(());
        }
        match self.all.get(field) {
            Some(first) if *first != kind => {
                return Err(format!("found field {field} of {kind}, and it was {first} before"));
            }
            Some(_) => {}
            None => {
                self.all.insert(field.to_owned(), kind);
            }
        }
        if self.known.len() == Self::KNOWN {
            self.known.clear();
        }
        self.known.push((field.to_owned(), kind));
        Ok(())
    }
}

/// A text as it stands in rows, without its quotes.
fn escaped(text: &str) -> String {
    let mut out = Vec::new();
    jcs::write_str(text, &mut out);
    String::from_utf8_lossy(&out[1..out.len() - 1]).into_owned()
}

/// The text that stands in rows like this.
fn plain(escaped: &str) -> String {
    serde_json::from_str(&format!("\"{escaped}\"")).unwrap_or_else(|_| escaped.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(row: &Line) -> (i64, FieldType, String, usize) {
        (row.time_ns(), row.kind(), row.field().plain().into_owned(), row.tags().count())
    }

    #[test]
    fn a_row_of_a_known_series_is_read_as_any_other() {
        let rows = [
            r#"{"field":"p","measurement":"e","tags":{"line":"a"},"time":"1","type":"f64","value":12.5}"#,
            r#"{"field":"p","measurement":"e","tags":{"line":"a"},"time":"12","type":"u64","value":"7"}"#,
            r#"{"field":"p","measurement":"e","tags":{},"time":"-1","type":"bool","value":true}"#,
            r#"{"field":"é\n","measurement":"","tags":{"l\"":"😀","z":"b"},"time":"0","type":"str","value":"x"}"#,
        ];
        let bytes = rows.iter().flat_map(|row| (0..row.len() * 8).map(|bit| (row.as_bytes().to_vec(), bit)));
        for (mut changed, bit) in bytes {
            let whole = changed.clone();
            let series = Series::of(&line::parse(&whole).unwrap());
            for flipped in [false, true] {
                changed[bit / 8] ^= u8::from(flipped) << (bit % 8);
                let Some(again) = series.parse(&changed) else {
                    assert!(flipped, "a row begins as its own series does");
                    continue;
                };
                let (again, plain) = (again.map(|row| told(&row)), line::parse(&changed).map(|row| told(&row)));
                assert_eq!(again, plain, "{}", changed.escape_ascii());
            }
        }
    }

    #[test]
    fn lines_are_the_same_whether_or_not_they_are_utf_8() {
        let lines = |text: &[u8]| {
            let mut lines = Vec::new();
            each_line(text, |line| {
                lines.push(line.to_vec());
                Ok(())
            })
            .unwrap();
            lines
        };
        assert_eq!(lines(b"a\n\nb\n"), [&b"a"[..], b"", b"b"]);
        assert_eq!(lines(b"a\n\n\xff\n"), [&b"a"[..], b"", b"\xff"]);
    }
}
