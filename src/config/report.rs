//! What is wrong with a config, all of it, each with its file and line.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::files::Files;

/// Where something stands: a file of [`Files`] and a byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

/// One fault of a config, or one warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    pub file: PathBuf,
    /// From 1; 0 when the fault is the file's as a whole.
    pub line: usize,
    /// Such as `modbus[0].meter[1].interval`; places in lists count from 0, over all files.
    pub key: String,
    pub why: String,
    /// What to do about it.
    pub mend: String,
}

impl Fault {
    /// The fault of one part by itself, whose file and place in a list tell nothing.
    pub fn within(&self) -> String {
        let key = self.key.rsplit_once("].").map_or(self.key.as_str(), |(_, key)| key);
        let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
        if self.mend.is_empty() { format!("{key}{}", self.why) } else { format!("{key}{}; {}", self.why, self.mend) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.why)?;
        if self.mend.is_empty() { Ok(()) } else { write!(f, "; {}", self.mend) }
    }
}

/// A file that a config is made of, or that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    pub path: PathBuf,
    /// Where it is named, as in a [`Fault`].
    pub file: PathBuf,
    pub line: usize,
    pub key: String,
}

/// Faults and warnings as they are found. One is shared by all that look at one config.
pub struct Report<'f> {
    files: &'f Files,
    /// Where lines end, of each text of the config.
    line_ends: Vec<Vec<usize>>,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
    /// Parts that are off for want of a secret: told by `run` as well, while it runs.
    off: RefCell<Vec<String>>,
    used: RefCell<Vec<Used>>,
}

impl<'f> Report<'f> {
    pub fn new(files: &'f Files) -> Self {
        let ends = |text: &str| text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Self {
            files,
            line_ends: files.config().map(ends).collect(),
            faults: RefCell::default(),
            warnings: RefCell::default(),
            off: RefCell::default(),
            used: RefCell::default(),
        }
    }

    /// The line of a place, from 1.
    pub fn line(&self, place: Place) -> usize {
        self.line_ends[place.file].partition_point(|end| *end < place.start) + 1
    }

    /// Whether there are as many faults as anybody would mend in one go: a wrong file may have one in each line.
    pub fn is_full(&self) -> bool {
        self.faults.borrow().len() >= MOST
    }

    pub fn files(&self) -> &'f Files {
        self.files
    }

    /// `file:line`, for a fault that names a second place.
    pub fn spot(&self, place: Place) -> String {
        format!("{}:{}", self.files.path(place.file).display(), self.line(place))
    }

    pub fn fault(&self, place: Place, key: &str, why: impl Into<String>, mend: impl Into<String>) {
        if !self.is_full() {
            self.faults.borrow_mut().push(self.told(place, key, why.into(), mend.into()));
        }
    }

    pub fn warn(&self, place: Place, key: &str, why: impl Into<String>, mend: impl Into<String>) {
        if self.warnings.borrow().len() < MOST {
            self.warnings.borrow_mut().push(self.told(place, key, why.into(), mend.into()));
        }
    }

    /// A part is turned off, and the rest runs.
    pub fn off(&self, place: Place, key: &str, part: &str, why: &str) {
        self.warn(place, key, format!("{part} is off: {why}"), "");
        self.off.borrow_mut().push(format!("{part} is off: {why}"));
    }

    /// A file that is named there is looked into.
    pub fn uses(&self, place: Place, key: &str, path: impl Into<PathBuf>) {
        let (file, line) = (self.files.path(place.file).to_owned(), self.line(place));
        self.used.borrow_mut().push(Used { path: path.into(), file, line, key: key.to_owned() });
    }

    /// All that was looked into.
    pub fn used(&self) -> Vec<Used> {
        self.used.take()
    }

    /// A fault of a file of registers: it has no place in the tree.
    pub fn fault_of_file(&self, file: PathBuf, line: usize, key: &str, why: String, mend: String) {
        if !self.is_full() {
            self.faults.borrow_mut().push(Fault { file, line, key: key.to_owned(), why, mend });
        }
    }

    fn told(&self, place: Place, key: &str, why: String, mend: String) -> Fault {
        let (file, line) = (self.files.path(place.file).to_owned(), self.line(place));
        Fault { file, line, key: key.to_owned(), why, mend }
    }

    /// Faults, warnings, and the parts that are off: each in the order of files and lines.
    ///
    /// A line that is no TOML is told once: what follows from reading half of it is left out, and so is all that seems
    /// to be missing from a file of which some lines were not understood.
    pub fn told_in_order(self, torn: &[Place]) -> (Vec<Fault>, Vec<Fault>, Vec<String>) {
        let line = |place: &Place| (self.files.path(place.file), self.line(*place));
        let torn_lines: BTreeSet<_> = torn.iter().map(line).collect();
        let mut faults = self.faults.take();
        let counts = [faults.len(), self.warnings.borrow().len()];
        faults.retain(|fault| {
            let follows =
                torn_lines.contains(&(fault.file.as_path(), fault.line)) || (!torn.is_empty() && fault.why == MISSING);
            !follows || fault.key == NOT_TOML
        });
        let order = |fault: &Fault| (self.files.rank(&fault.file), fault.line);
        faults.sort_by_key(order);
        faults.dedup();
        for fault in &mut faults {
            if fault.key == NOT_TOML {
                fault.key.clear();
            }
        }
        let mut warnings = self.warnings.take();
        warnings.sort_by_key(order);
        for (told, count) in [&mut faults, &mut warnings].into_iter().zip(counts) {
            let why = format!("there is more than these {MOST}, which is not looked for");
            let mend = "mend these first, or see that it is the right file".to_owned();
            let file = self.files.path(0).to_owned();
            told.extend((count >= MOST).then_some(Fault { file, line: 0, key: String::new(), why, mend }));
        }
        (faults, warnings, self.off.take())
    }
}

/// Faults that are told, and warnings.
const MOST: usize = 200;

/// The `why` of a key that should be there.
pub const MISSING: &str = "is missing";

/// The `key` of a fault of syntax, until it is told.
pub const NOT_TOML: &str = "(not TOML)";
