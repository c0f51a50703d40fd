//! Turns the file into one checked config made of each room's own, and tells every fault at once.
//!
//! Reads files, the environment and credentials; never the clock, the store or the network.

mod anchor;
mod files;
mod influx;
pub mod made;
mod meters;
mod mqtt;
mod parts;
mod report;
mod secret;
mod section;
mod shown;
mod templates;
mod tree;
mod units;
mod upstream;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::{Meter, SiteId, Timestamp};
use crate::{alerts, blocks, evidence, sources, store, web};

pub use files::{Files, Unreadable, page_files};
pub use made::Source;
pub use report::{Fault, Used};
pub use secret::Secret;

/// Where the config is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/meterseal/meterseal.toml";

/// A config without faults: what each room needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub site_id: SiteId,
    pub site: web::Site,
    pub store: store::Config,
    pub web: web::Config,
    pub sources: sources::Config,
    /// Also holds the meters, measured and summed.
    pub blocks: blocks::Config,
    pub alerts: alerts::Config,
    pub evidence: evidence::Config,
    pub anchor: evidence::anchor::Part,
    pub upstream: crate::upstream::Config,
    /// The same as it is shown, with those that are off.
    pub exports: web::Exports,
    /// Parts that are turned off for want of a secret, for a person.
    pub off: Vec<String>,
    pub source: Arc<Source>,
}

/// What there is to say of a config.
#[derive(Debug)]
pub struct Checked {
    /// Absent when there are faults.
    pub config: Option<Config>,
    pub faults: Vec<Fault>,
    pub warnings: Vec<Fault>,
    /// The texts as they may be kept: secrets that stand in them are left out.
    pub kept: Files,
    /// The texts as they may be shown.
    pub shown: Vec<(PathBuf, String)>,
    /// What the file says of the store, faulty as the rest may be: there lies the last good config.
    pub store: store::Config,
    /// The files that it is made of and that it names, for who may read them.
    pub used: Vec<Used>,
}

impl Config {
    pub fn meters(&self) -> &[Meter] {
        &self.blocks.meters
    }
}

/// Reads and checks the config at `path`. A file that cannot be read is a fault like others.
pub fn load(path: &Path, now: Timestamp) -> (Option<Files>, Checked) {
    match Files::read(path) {
        Ok(files) => {
            let checked = check(&files, now);
            (Some(files), checked)
        }
        Err(Unreadable { path, source }) => {
            let mend =
                "name the file with -c, and read it as root (`sudo`) or as the user that runs meterseal".to_owned();
            let why = format!("cannot be read: {source}");
            let fault = Fault { file: path, line: 0, key: String::new(), why, mend };
            let (faults, warnings, kept) = (vec![fault], Vec::new(), Files::default());
            (
                None,
                Checked {
                    config: None,
                    faults,
                    warnings,
                    kept,
                    shown: Vec::new(),
                    store: parts::default_store(),
                    used: Vec::new(),
                },
            )
        }
    }
}

/// Checks a config. `now` only says which of the zone's offsets holds at present.
pub fn check(files: &Files, now: Timestamp) -> Checked {
    let report = report::Report::new(files);
    let (table, torn) = tree::merged(&report);
    let parts::Read { config, inline, store } = parts::read(&table, &report, now);
    let shown = shown::texts(files, &table, &inline, &torn);
    let set = made::set_in_files(&table, &report);
    let mut used = files.used();
    used.extend(report.used());
    let (faults, warnings, off) = report.told_in_order(&torn);
    let source = || Arc::new(Source { files: files.clone(), shown: shown.clone(), warnings: warnings.clone(), set });
    let config = config.filter(|_| faults.is_empty()).map(|config| Config { off, source: source(), ..config });
    // A credential that never exists: the part that needs it is off when this text is read again.
    let not_kept = |place| (place, "{ credential = \"not-kept-in-the-store\" }".to_owned());
    let kept = files.replaced(&inline.into_iter().map(not_kept).collect::<Vec<_>>());
    Checked { config, faults, warnings, kept, shown, store, used }
}
