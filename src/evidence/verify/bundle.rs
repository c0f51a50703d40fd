//! A bundle, as a folder or as an archive: its manifest, and its parts against it.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom, Take};
use std::path::{Path, PathBuf};

use super::report::{Cause, Refused, Report};
use super::rows::{self, Progress};
use super::strict;
use crate::evidence::dataset::manifest::{self, Manifest, Query};
use crate::evidence::dataset::tar;
use crate::model::{Digest, JobId};

/// A longer manifest is not read: in memory it takes many times as much.
pub const LONGEST_MANIFEST: u64 = 32 << 20;
/// The block of a tar archive.
const BLOCK: u64 = 512;

const SHOWS_ROWS: &str = "these rows and no others, in this order. Not that the database held them before the export";
const SHOWS_MANIFEST: &str =
    "what was asked and counted. Left-out values, read times and the server are the gateway's word";

/// Where the files of a bundle are.
pub struct Bundle {
    /// As it was called, for a person.
    pub path: PathBuf,
    id: JobId,
    place: Place,
}

enum Place {
    Folder(PathBuf),
    /// Where each file's content begins in the archive.
    Archive(PathBuf, BTreeMap<String, u64>),
}

/// The manifest with its digest.
pub struct Opened {
    pub manifest: Manifest,
    pub sha256: Digest,
    /// Of its file.
    pub bytes: u64,
}

impl Bundle {
    /// The folder; its name is the bundle's id.
    pub fn folder(path: &Path) -> Result<Self, Refused> {
        let name = path.display().to_string();
        // `.` has a name too.
        let full = fs::canonicalize(path).map_err(|error| strict::unreadable(&name, &error))?;
        let id = id_of(full.file_name(), &name)?;
        Ok(Self { path: path.to_owned(), id, place: Place::Folder(full) })
    }

    /// The archive `<id>.tar`.
    pub fn archive(path: &Path) -> Result<Self, Refused> {
        let name = path.display().to_string();
        let id = id_of(path.file_stem(), &name)?;
        Ok(Self { path: path.to_owned(), id, place: Place::Archive(path.to_owned(), BTreeMap::new()) })
    }

    pub fn id(&self) -> JobId {
        self.id
    }

    /// A file beside the bundle.
    pub fn beside(&self, name: &str) -> PathBuf {
        match &self.place {
            Place::Folder(path) | Place::Archive(path, _) => path.with_file_name(name),
        }
    }

    /// Reads the manifest.
    pub fn open(&self) -> Result<Opened, Refused> {
        self.read_manifest().map_err(|refused| self.within(refused))
    }

    fn read_manifest(&self) -> Result<Opened, Refused> {
        let bytes = match &self.place {
            Place::Folder(folder) => {
                let path = folder.join(manifest::FILE);
                regular(&path, manifest::FILE)?;
                strict::read_file(&path, manifest::FILE, LONGEST_MANIFEST)?
            }
            Place::Archive(path, _) => first_of_archive(path, self.id)?,
        };
        let manifest = read_manifest(&bytes, manifest::FILE, "")?;
        if manifest.id != self.id {
            let (found, expected) = (manifest.id, format!("{}, the bundle's name", self.id));
            return Err(Refused::other(manifest::FILE, "member `id`", found, expected).because(Cause::Name));
        }
        Ok(Opened { manifest, sha256: Digest::of(&bytes), bytes: bytes.len() as u64 })
    }

    /// Whether the files are exactly those that the manifest names.
    fn check_files(&mut self, opened: &Opened) -> Result<(), Refused> {
        let sizes = [(manifest::FILE, opened.bytes)].into_iter();
        let parts = opened.manifest.parts.iter().map(|part| (part.name.as_str(), part.bytes));
        let sizes: Vec<_> = sizes.chain(parts).collect();
        match &mut self.place {
            Place::Folder(folder) => check_folder(folder, &sizes)?,
            Place::Archive(path, places) => *places = check_archive(path, self.id, &sizes)?,
        }
        Ok(())
    }

    /// Checks files and rows against the manifest, and tells of both. What the manifest says is to be believed by then, if
    /// there is a proof: or a changed manifest would be told as a fault of other files.
    pub fn check(
        &mut self,
        opened: &Opened,
        report: &mut Report,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Refused> {
        let manifest = &opened.manifest;
        self.check_files(opened).map_err(|refused| self.within(refused))?;
        let checked = rows::check(manifest, |part| self.content(&part.name, part.bytes), progress);
        checked.map_err(|refused| self.within(refused))?;
        let parts = manifest.parts.len();
        report.holds(
            "rows",
            vec![
                format!(
                    "{}: {} rows, {} bytes in {parts} part{}",
                    self.path.display(),
                    manifest.rows,
                    manifest.bytes,
                    if parts == 1 { "" } else { "s" }
                ),
                format!("dataset root {}", manifest.root),
            ],
            SHOWS_ROWS,
        );
        tell_manifest(opened, report);
        Ok(())
    }

    /// A refusal of a file of the bundle, with the path of folder or archive.
    pub fn within(&self, refused: Refused) -> Refused {
        let Refused { file, place, .. } = &refused;
        match &self.place {
            Place::Folder(_) => Refused { file: self.path.join(file).display().to_string(), ..refused },
            Place::Archive(path, _) => {
                let archive = path.display().to_string();
                if *file == archive {
                    return refused;
                }
                let comma = if place.is_empty() { "" } else { ", " };
                Refused { place: format!("{file}{comma}{place}"), file: archive, ..refused }
            }
        }
    }

    /// A part's file.
    fn content(&self, name: &str, bytes: u64) -> Result<Take<File>, Refused> {
        let failed = |error| strict::unreadable(name, &error);
        match &self.place {
            Place::Folder(folder) => {
                let path = folder.join(name);
                regular(&path, name)?;
                // One byte more than there should be: the check of the part tells when a file has grown.
                Ok(File::open(path).map_err(failed)?.take(bytes.saturating_add(1)))
            }
            Place::Archive(path, places) => {
                let at = places.get(name).ok_or_else(|| Refused::new(name, "", "it is not in the archive"))?;
                let mut file = File::open(path).map_err(failed)?;
                file.seek(SeekFrom::Start(*at)).map_err(failed)?;
                Ok(file.take(bytes))
            }
        }
    }
}

/// A manifest that is canonical and agrees with itself.
pub fn read_manifest(bytes: &[u8], file: &str, place: &str) -> Result<Manifest, Refused> {
    strict::check_format(bytes, file, manifest::FORMAT)?;
    Manifest::from_bytes(bytes).map_err(|error| Refused::new(file, place, error.to_string()))
}

/// Tells what a manifest says.
pub fn tell_manifest(opened: &Opened, report: &mut Report) {
    let Opened { manifest, sha256, .. } = opened;
    let server = &manifest.connection;
    let asked = match &manifest.query {
        Query::Points(query) => {
            let fields = if query.fields.is_empty() {
                "all fields".to_owned()
            } else {
                format!("fields {}", query.fields.join(", "))
            };
            let tags = query.tags.iter().map(|(tag, value)| format!(", {tag}={value}")).collect::<String>();
            format!("query {}: raw points of {}, {fields}{tags}", query.name, query.measurement)
        }
        Query::Result(query) => format!("query {}: {}", query.name, query.text.escape_debug()),
    };
    let told = vec![
        format!("dataset {}, manifest SHA-256 {sha256}", manifest.id),
        asked,
        format!("from {} to {}", utc(manifest.from_ns), utc(manifest.to_ns)),
        format!(
            "from {} (InfluxDB {}, server {}), by {}",
            server.name, server.version, server.server_version, manifest.program
        ),
        format!(
            "left out: {} empty strings, {} empty tags; {} rows came twice",
            manifest.absent.empty_strings, manifest.absent.empty_tags, manifest.repeated
        ),
    ];
    report.fact("dataset", manifest.id.to_string());
    report.fact("manifest_sha256", sha256.to_string());
    report.fact("root", manifest.root.to_string());
    report.fact("rows", manifest.rows);
    report.fact("bytes", manifest.bytes);
    report.fact("from_ns", manifest.from_ns.to_string());
    report.fact("to_ns", manifest.to_ns.to_string());
    report.holds("manifest", told, SHOWS_MANIFEST);
}

/// A time of rows, with all its digits.
fn utc(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| format!("{ns} ns"), |at| at.to_string())
}

fn id_of(name: Option<&OsStr>, path: &str) -> Result<JobId, Refused> {
    let name = name.and_then(|name| name.to_str()).unwrap_or_default();
    let found = format!("the name `{}`", name.escape_debug());
    let expected = "a bundle's id of 26 characters, as its manifest has it";
    name.parse().map_err(|_| Refused::other(path, "", found, expected).because(Cause::Name))
}

/// Not a symbolic link: what it leads to is not part of the bundle.
fn regular(path: &Path, name: &str) -> Result<u64, Refused> {
    let metadata = fs::symlink_metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Refused::new(name, "", "it is missing"),
        _ => strict::unreadable(name, &error),
    })?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(Refused::new(name, "", "it is no regular file")) }
}

/// The folder holds these files of these sizes, and nothing else.
fn check_folder(folder: &Path, sizes: &[(&str, u64)]) -> Result<(), Refused> {
    let failed = |error| strict::unreadable("", &error);
    let known: HashSet<&OsStr> = sizes.iter().map(|(name, _)| OsStr::new(*name)).collect();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !known.contains(&*name) {
            return Err(Refused::new(name.to_string_lossy(), "", "it is none of the files that the manifest names"));
        }
    }
    for (name, size) in sizes {
        let found = regular(&folder.join(name), name)?;
        if found != *size {
            return Err(Refused::other(*name, "", format!("{found} bytes"), format!("{size}, as the manifest says")));
        }
    }
    Ok(())
}

/// Reads so many bytes of an archive.
fn exactly(file: &mut File, bytes: &mut [u8], name: &str) -> Result<(), Refused> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Refused::new(name, "", "the archive is cut short"),
        _ => strict::unreadable(name, &error),
    })
}

/// The manifest, the first file of an archive.
fn first_of_archive(path: &Path, id: JobId) -> Result<Vec<u8>, Refused> {
    let name = path.display().to_string();
    let (mut file, _) = strict::open_file(path, &name)?;
    let mut found = [0; 512];
    exactly(&mut file, &mut found, &name)?;
    let size = found[124..135].iter().try_fold(0_u64, |size, digit| match digit {
        b'0'..=b'7' => Some(size << 3 | u64::from(digit - b'0')),
        _ => None,
    });
    let place = format!("header of {id}/{}", manifest::FILE);
    let size = size.ok_or_else(|| Refused::new(&name, &place, "it has no size"))?;
    check_header(&found, id, manifest::FILE, size, &name)?;
    if size > LONGEST_MANIFEST {
        return Err(Refused::unreadable(
            manifest::FILE,
            format!("it has {size} bytes, and more than {LONGEST_MANIFEST} are not read"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    exactly(&mut file, &mut bytes, &name)?;
    Ok(bytes)
}

fn check_header(found: &[u8; 512], id: JobId, name: &str, size: u64, archive: &str) -> Result<(), Refused> {
    let place = format!("header of {id}/{name}");
    let expected = tar::header(&id.to_string(), name, size);
    let expected =
        expected.ok_or_else(|| Refused::new(archive, &place, format!("{size} bytes do not fit a header")))?;
    match found.iter().zip(&expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => {
            let why = format!("byte {at}: found {:#04x}, expected {:#04x}", found[at], expected[at]);
            // One changed byte breaks the header's own checksum; another program writes another header, and its checksum.
            let cause = if tar::has_its_checksum(found) { Cause::Packing } else { Cause::Content };
            Err(Refused::new(archive, place, why).because(cause))
        }
    }
}

/// The archive holds these files of these sizes in this order, and nothing else. Where the content of each begins.
fn check_archive(path: &Path, id: JobId, sizes: &[(&str, u64)]) -> Result<BTreeMap<String, u64>, Refused> {
    let archive = path.display().to_string();
    let (mut file, length) = strict::open_file(path, &archive)?;
    let (mut at, mut places) = (0_u64, BTreeMap::new());
    let mut block = [0; 512];
    let mut zeros = |file: &mut File, count: u64, place: &str| -> Result<(), Refused> {
        let count = usize::try_from(count).unwrap_or(0).min(block.len());
        exactly(file, &mut block[..count], &archive)?;
        match block[..count].iter().find(|byte| **byte != 0) {
            None => Ok(()),
            Some(byte) => Err(Refused::new(&archive, place, format!("found {byte:#04x}, expected nothing but NUL"))),
        }
    };
    for (name, size) in sizes {
        let member = format!("{id}/{name}");
        let mut found = [0; 512];
        exactly(&mut file, &mut found, &archive)?;
        check_header(&found, id, name, *size, &archive)?;
        at += BLOCK;
        places.insert((*name).to_owned(), at);
        at = at.saturating_add(*size);
        file.seek(SeekFrom::Start(at)).map_err(|error| strict::unreadable(&archive, &error))?;
        let padding = at.next_multiple_of(BLOCK) - at;
        zeros(&mut file, padding, &format!("padding after {member}"))?;
        at += padding;
    }
    zeros(&mut file, BLOCK, "end")?;
    zeros(&mut file, BLOCK, "end")?;
    at += 2 * BLOCK;
    if length != at {
        return Err(Refused::other(&archive, "", format!("{length} bytes"), format!("{at}, by the files in it")));
    }
    Ok(places)
}
