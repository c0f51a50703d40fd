//! The texts that make up a config: the file, `conf.d/*.toml` and `meters/*.toml` beside it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::report::{Place, Used};

/// The texts of one config, as read at one moment. Kept whole in the store as the last good config, so that a file
/// that was broken or deleted since does not change what that config means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// The main file first, then those of `conf.d` by name.
    config: Vec<Text>,
    /// Register maps of the plant's own, by name.
    meters: Vec<Text>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Text {
    path: PathBuf,
    text: String,
    #[serde(skip)]
    whence: Whence,
}

/// Where a text came from. Only who writes the files of this machine may have it look into other files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whence {
    #[default]
    File,
    /// It lies in the store and in no file; its path says what it is.
    Made,
    /// It came by the API, to become a file.
    Posted,
    /// It came by the API, to be looked at: what it refers to may be there or not.
    Tried,
}

/// A file of a config cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {source}")]
pub struct Unreadable {
    pub path: PathBuf,
    pub source: io::Error,
}

/// Names of the files in `conf.d` that the page writes.
pub fn page_files() -> impl Iterator<Item = String> {
    (50..=99).map(|number| format!("{number}-page.toml"))
}

impl Files {
    /// Reads the config at `path` and what lies beside it.
    pub fn read(path: &Path) -> Result<Self, Unreadable> {
        let beside = path.parent().unwrap_or(Path::new(""));
        let mut config = vec![Text::read(path.to_owned())?];
        config.extend(folder(&beside.join("conf.d"))?);
        Ok(Self { config, meters: folder(&beside.join("meters"))? })
    }

    /// A config that is one text, as if it stood at `path`.
    pub fn of_text(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { config: vec![Text { path: path.into(), text: text.into(), whence: Whence::File }], meters: Vec::new() }
    }

    /// These, and one more text that came by the API, is to be a file, and is merged last.
    #[must_use]
    pub fn with_posted(&self, path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let mut files = self.clone();
        files.config.push(Text { path: path.into(), text: text.into(), whence: Whence::Posted });
        files
    }

    /// These with a text that came by the API in the stead of the main file's.
    #[must_use]
    pub fn with_main_tried(&self, text: impl Into<String>) -> Self {
        let mut files = self.clone();
        if let Some(main) = files.config.first_mut() {
            (main.text, main.whence) = (text.into(), Whence::Tried);
        }
        files
    }

    /// These, and what was made through the API: what it is, and its text.
    #[must_use]
    pub fn with_made(&self, parts: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        let mut files = self.clone();
        files.config.extend(parts.into_iter().map(|(path, text)| Text { path, text, whence: Whence::Made }));
        files
    }

    /// Whether the page wrote it.
    pub fn is_of_page(&self, file: usize) -> bool {
        let path = self.path(file);
        let is_beside = path.parent().is_some_and(|folder| folder.ends_with("conf.d"));
        is_beside && path.file_name().is_some_and(|name| page_files().any(|of_page| *name == *of_page))
    }

    pub fn whence(&self, file: usize) -> Whence {
        self.config.get(file).map_or(Whence::File, |text| text.whence)
    }

    /// Whether a file of these was made through the API, and so is none.
    pub fn is_made(&self, file: usize) -> bool {
        self.whence(file) == Whence::Made
    }

    /// As the store keeps it.
    pub fn to_kept(&self) -> String {
        // Plain strings and paths that came from this process: they have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From what the store kept.
    pub fn from_kept(kept: &str) -> Option<Self> {
        serde_json::from_str(kept).ok().filter(|files: &Self| !files.config.is_empty())
    }

    /// The same texts with something else in the stead of each place; of a place within another only the outer one.
    #[must_use]
    pub fn replaced(&self, places: &[(Place, String)]) -> Self {
        let mut places: Vec<&(Place, String)> = places.iter().collect();
        places.sort();
        let mut files = self.clone();
        for (at, file) in files.config.iter_mut().enumerate() {
            let (mut text, mut from) = (String::with_capacity(file.text.len()), 0);
            for (place, other) in places.iter().filter(|(place, _)| place.file == at) {
                if place.start >= from {
                    text.push_str(&file.text[from..place.start]);
                    text.push_str(other);
                    from = place.end;
                }
            }
            text.push_str(&file.text[from..]);
            file.text = text;
        }
        files
    }

    /// Those that lie on this machine.
    pub fn used(&self) -> Vec<Used> {
        let all = self.config.iter().chain(&self.meters).filter(|text| text.whence == Whence::File);
        let used = |path: &PathBuf| Used { path: path.clone(), file: path.clone(), line: 0, key: String::new() };
        all.map(|text| used(&text.path)).collect()
    }

    /// What stands at a place.
    pub fn at(&self, place: Place) -> &str {
        self.config.get(place.file).and_then(|file| file.text.get(place.start..place.end)).unwrap_or_default()
    }

    /// The texts of the config proper, in the order in which they are merged.
    pub fn config(&self) -> impl Iterator<Item = &str> {
        self.config.iter().map(|file| file.text.as_str())
    }

    /// Register maps of the plant's own: path and text.
    pub fn meters(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.meters.iter().map(|file| (file.path.as_path(), file.text.as_str()))
    }

    pub fn path(&self, file: usize) -> &Path {
        &self.config[file].path
    }

    /// Where a file comes among these.
    pub fn rank(&self, path: &Path) -> usize {
        let all = self.config.iter().chain(&self.meters);
        all.map(|file| file.path.as_path()).position(|other| other == path).unwrap_or(usize::MAX)
    }
}

impl Text {
    fn read(path: PathBuf) -> Result<Self, Unreadable> {
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Self { path, text, whence: Whence::File }),
            Err(source) => Err(Unreadable { path, source }),
        }
    }
}

/// The `*.toml` files of a folder by name; none when there is no such folder.
fn folder(folder: &Path) -> Result<Vec<Text>, Unreadable> {
    let unreadable = |source| Unreadable { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        // An editor's `.#x.toml` is not a config.
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.into_iter().map(Text::read).collect()
}
