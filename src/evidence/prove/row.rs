//! One row of a dataset: its path to the root, by one pass through the bundle.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use super::ProveError;
use super::path::RowPath;
use crate::evidence::dataset::manifest::{self, Manifest};
use crate::evidence::dataset::part;
use crate::model::proof::NotProven;
use crate::model::{Digest, JobId, SiteId};
use crate::store::{Reader, StoreError};

/// What stands beside the section.
#[derive(Debug)]
pub struct Row {
    /// JCS, as it lies in the bundle.
    pub manifest: Vec<u8>,
    /// From leaf to root.
    pub path: Vec<Digest>,
    pub text: Vec<u8>,
}

/// Row `row` of the dataset whose entry in the log has this record. The bundle is kept while it is read.
pub async fn find(reader: &Reader, dataset: JobId, row: u64, record: &[u8]) -> Result<Row, ProveError> {
    let Some((folder, held)) = reader.bundle(dataset).await? else { return Err(NotProven::Gone(dataset).into()) };
    let record = record.to_vec();
    let pass = tokio::task::spawn_blocking(move || {
        let found = find_in(&folder, dataset, row, &record);
        drop(held);
        found
    });
    match pass.await {
        Ok(found) => found,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(NotProven::Broken("the program is stopping".to_owned()).into()),
        },
    }
}

/// Site and gateway that the manifest of a bundle names; `None` when it is gone or cannot be read.
pub async fn origin(reader: &Reader, dataset: JobId) -> Result<Option<(SiteId, String)>, StoreError> {
    let Some((folder, held)) = reader.bundle(dataset).await? else { return Ok(None) };
    let read = tokio::task::spawn_blocking(move || {
        let manifest = Manifest::from_bytes(&fs::read(folder.join(manifest::FILE)).ok()?).ok()?;
        drop(held);
        Some((manifest.site, manifest.gateway))
    });
    Ok(read.await.ok().flatten())
}

fn find_in(folder: &Path, dataset: JobId, row: u64, record: &[u8]) -> Result<Row, ProveError> {
    let wrong = |what: String| ProveError::Bundle { id: dataset, what };
    let file = |name: &str, error: io::Error| wrong(format!("{name}: {error}"));
    let bytes = fs::read(folder.join(manifest::FILE)).map_err(|error| file(manifest::FILE, error))?;
    let committed = format!("{{\"dataset\":\"{dataset}\",\"manifest_sha256\":\"{}\"}}", Digest::of(&bytes));
    if committed.as_bytes() != record {
        return Err(wrong(format!("{} is not the one that the log commits to", manifest::FILE)));
    }
    let manifest = Manifest::from_bytes(&bytes).map_err(|error| wrong(format!("{}: {error}", manifest::FILE)))?;
    let rows = manifest.rows;
    let mut path = RowPath::new(row, rows).ok_or(NotProven::NoRow { dataset, row, rows })?;
    let mut line = Vec::new();
    for facts in &manifest.parts {
        let name = &facts.name;
        let open = File::open(folder.join(name)).and_then(part::open).map_err(|error| file(name, error))?;
        let mut text = BufReader::new(open);
        while text.read_until(b'\n', &mut line).map_err(|error| file(name, error))? > 0 {
            path.push(line.strip_suffix(b"\n").unwrap_or(&line));
            line.clear();
        }
    }
    let found = path.finish().filter(|found| found.root == manifest.root);
    let found = found.ok_or_else(|| wrong("its rows are not those of its manifest".to_owned()))?;
    Ok(Row { manifest: bytes, path: found.path, text: found.text })
}
