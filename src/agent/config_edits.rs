//! What the page has done with the config itself: a reload, meters that are written beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tracing::{info, warn};

use super::Agent;
use super::admin;
use crate::config::{self, Fault, Files};
use crate::model::Actor;
use crate::web::{ConfigFault, EditRefused, Edited, Reloaded, ShownConfig, ShownFile};

/// Parts that meters are made of: more than these is for who may write the config.
const OF_METERS: [&str; 3] = ["modbus", "mqtt", "sum"];

impl Agent {
    pub(super) async fn reload_for(&mut self, by: Actor) -> Result<Edited, EditRefused> {
        let reloaded = told_reload(self.reload().await);
        self.record("config-reloaded", &by, json!({"taken": reloaded.faults.is_empty()})).await;
        Ok(Edited::Reloaded(reloaded))
    }

    /// Writes lines and meters as a file of `conf.d`, if the whole config does with it, and reads it again.
    pub(super) async fn add_meters(&mut self, text: String, by: Actor) -> Result<Edited, EditRefused> {
        let table: toml::Table =
            text.parse().map_err(|fault| EditRefused::Faulty(format!("this is not TOML: {fault}")))?;
        if let Some(other) = table.keys().find(|key| !OF_METERS.contains(&key.as_str())) {
            let parts = OF_METERS.map(|part| format!("[[{part}]]")).join(", ");
            return Err(EditRefused::Faulty(format!("`{other}`: only {parts} can be added here")));
        }
        if table.is_empty() {
            return Err(EditRefused::Faulty("there is nothing in it: add a [[modbus]] with its meters".to_owned()));
        }
        let Some(main) = self.path.clone() else { return Err(no_file()) };
        let folder = main.parent().unwrap_or(Path::new("")).join("conf.d");
        let Some(path) = free_name(&folder) else {
            let why = format!("{} is full of files of this page: put them together by hand", folder.display());
            return Err(EditRefused::Conflict(why));
        };
        let (files, now) = (read_files(Some(&main)).await?, self.clock.now());
        let (tried, text_there) = (path.clone(), text.clone());
        let checked = off_thread(move || config::check(&files.with_posted(tried, text_there), now)).await?;
        if !checked.faults.is_empty() {
            return Err(EditRefused::Faults(told(&checked.faults)));
        }
        let (place, bytes) = (path.clone(), text.clone());
        if let Err(error) = off_thread(move || write_whole(&place, bytes.as_bytes())).await? {
            let path = path.display().to_string();
            return Err(EditRefused::Unwritable { path, why: error.to_string(), text });
        }
        let path = path.display().to_string();
        info!(by = by.name, path, "meters were added through the API");
        self.record("meters-added", &by, json!({"path": path})).await;
        Ok(Edited::Written { path, reloaded: told_reload(self.reload().await) })
    }

    /// It was done, whether that can be put on record or not.
    async fn record(&self, action: &'static str, by: &Actor, detail: serde_json::Value) {
        if let Err(error) = self.ledger.audit(action, by, detail).await {
            warn!(error = &error as &dyn std::error::Error, action, "what was done is not on record");
        }
    }

    /// Shows the config as it was just read.
    pub(super) fn show_config(&self, texts: &[(PathBuf, String)], warnings: &[Fault], faults: &[Fault]) {
        self.shown.send_replace(Arc::new(shown(self.path.as_deref(), texts, (warnings, faults), self.clock.now())));
    }
}

pub fn shown(
    path: Option<&Path>,
    texts: &[(PathBuf, String)],
    (warnings, faults): (&[Fault], &[Fault]),
    loaded_at: crate::model::Timestamp,
) -> ShownConfig {
    let text = |path: &Path| path.display().to_string();
    let file = |(path, shown): &(PathBuf, String)| ShownFile { path: text(path), text: shown.clone() };
    ShownConfig {
        path: path.map(text).unwrap_or_default(),
        files: texts.iter().map(file).collect(),
        loaded_at,
        warnings: told(warnings),
        faults: told(faults),
    }
}

/// The config as it lies there.
pub async fn read_files(main: Option<&PathBuf>) -> Result<Files, EditRefused> {
    let Some(path) = main.cloned() else { return Err(no_file()) };
    let read = off_thread(move || Files::read(&path)).await?;
    read.map_err(|error| EditRefused::Conflict(error.to_string()))
}

fn no_file() -> EditRefused {
    EditRefused::Conflict("this daemon has no config file".to_owned())
}

pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EditRefused> {
    tokio::task::spawn_blocking(work).await.map_err(|error| EditRefused::Conflict(error.to_string()))
}

pub fn told(faults: &[Fault]) -> Vec<ConfigFault> {
    let one = |fault: &Fault| ConfigFault {
        file: fault.file.display().to_string(),
        line: fault.line,
        key: fault.key.clone(),
        text: fault.why.clone(),
        hint: fault.mend.clone(),
    };
    faults.iter().map(one).collect()
}

fn told_reload(admin::Reloaded { changed, at_next_start, faults }: admin::Reloaded) -> Reloaded {
    Reloaded { changed, at_next_start, faults }
}

fn free_name(folder: &Path) -> Option<PathBuf> {
    config::page_files().map(|name| folder.join(name)).find(|path| !path.exists())
}

/// The file appears by one rename, complete and durable: a crash leaves none, or all of it. Its name is hidden until
/// then, and hidden files are no config.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let making = folder.join(format!(".{}.new", name.to_string_lossy()));
    if !folder.exists() {
        fs::create_dir(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&making)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&making, path));
    if let Err(error) = written {
        // What is left of it is no config.
        fs::remove_file(&making).ok();
        return Err(error);
    }
    File::open(folder)?.sync_all()
}
