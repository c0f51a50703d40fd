//! Datasets and single rows, and the entry of the log that commits to them.

use std::path::Path;

use super::anchor::Anchors;
use super::bundle::{self, Bundle, LONGEST_MANIFEST, Opened};
use super::keys::Chain;
use super::proof::{Claim, LONGEST_PROOF, Proof};
use super::record::Record;
use super::report::{Lack, Refused, Report};
use super::rows::{self, Progress};
use super::section::Section;
use super::{Trusted, only_section, signed, strict};
use crate::evidence::dataset::manifest;
use crate::model::{Digest, JobId, merkle};

const SHOWS_COMMITTED: &str = "that the gateway committed to this manifest, and so to all that follows from it";
const SHOWS_ROW: &str = "this row, unchanged. Not that the database held it before the export";

/// What a proof says of a dataset, once it holds in itself.
struct Committed {
    id: JobId,
    log: [Section; 1],
    index: u64,
    chain: Chain,
    anchors: Anchors,
    manifest_sha256: Digest,
    told: Vec<String>,
}

/// A bundle, with the proof beside it if there is one.
pub fn of_bundle(
    mut bundle: Bundle,
    trusted: &Trusted,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), Refused> {
    report.what = "dataset";
    let beside = bundle.beside(&format!("{}.proof.json", bundle.id()));
    if beside.symlink_metadata().is_err() {
        let opened = bundle.open()?;
        bundle.check(&opened, report, progress)?;
        report.lacks(Lack::NoProof);
        report.open("log", vec![format!("{} is not there", beside.display())], SHOWS_COMMITTED);
        if trusted.key.is_none() {
            report.lacks(Lack::NoKey);
        }
        if opened.manifest.site.as_str() == super::SIMULATED_SITE {
            report.lacks(Lack::Simulated);
        }
        super::not_anchored(report);
        return Ok(());
    }
    let file = beside.display().to_string();
    let bytes = strict::read_file(&beside, &file, LONGEST_PROOF)?;
    let proof = Proof::read(&bytes, &file)?;
    if !matches!(proof.claim, Claim::Dataset { .. }) {
        return Err(Refused::new(file, "member `claim`", "expected one of the dataset, as belongs beside a bundle"));
    }
    let committed = read(&proof, &file, trusted)?;
    whole(&committed, &mut bundle, progress, report)?;
    end(committed, trusted, report)
}

/// The proof of a dataset, with the bundle beside it: as a folder, as an archive, or both.
pub fn of_proof(
    proof: &Proof,
    path: &Path,
    trusted: &Trusted,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), Refused> {
    report.what = "dataset";
    let Claim::Dataset { id } = &proof.claim else { return Ok(()) };
    let file = path.display().to_string();
    let committed = read(proof, &file, trusted)?;
    let folder = path.with_file_name(id.to_string());
    let archive = path.with_file_name(format!("{id}.tar"));
    let mut bundles = Vec::new();
    if folder.symlink_metadata().is_ok() {
        bundles.push(Bundle::folder(&folder)?);
    }
    if archive.symlink_metadata().is_ok() {
        bundles.push(Bundle::archive(&archive)?);
    }
    if bundles.is_empty() {
        return Err(Refused::unreadable(file, format!("neither {id} nor {id}.tar lies beside it")));
    }
    for mut bundle in bundles {
        whole(&committed, &mut bundle, progress, report)?;
    }
    end(committed, trusted, report)
}

/// One row, with the manifest that it is of.
pub fn of_row(proof: &Proof, file: &str, trusted: &Trusted, report: &mut Report) -> Result<(), Refused> {
    report.what = "row";
    let (Claim::Row { row: index, .. }, Some(text), Some(row), Some(path)) =
        (&proof.claim, proof.manifest, proof.row, &proof.path)
    else {
        return Ok(());
    };
    let committed = read(proof, file, trusted)?;
    if text.len() as u64 > LONGEST_MANIFEST {
        let why = format!("its manifest has {} bytes, and more than {LONGEST_MANIFEST} are not read", text.len());
        return Err(Refused::unreadable(file, why));
    }
    let manifest = bundle::read_manifest(text.as_bytes(), file, "member `manifest`")?;
    let opened = Opened { manifest, sha256: Digest::of(text.as_bytes()), bytes: text.len() as u64 };
    let expected = committed.manifest_sha256;
    if opened.sha256 != expected {
        let found = format!("SHA-256 {}", opened.sha256);
        return Err(Refused::other(file, "member `manifest`", found, format!("{expected}, as the log commits to")));
    }
    committed.agrees(&opened, file, "member `manifest`")?;
    rows::fits_manifest(row.as_bytes(), *index, &opened.manifest)
        .map_err(|why| Refused::new(file, "member `row`", why))?;
    let root = merkle::root_by_inclusion(merkle::leaf(row.as_bytes()), *index, opened.manifest.rows, path);
    let root = root.map_err(|error| Refused::new(file, "member `path`", error.to_string()))?;
    if root != opened.manifest.root {
        let (found, expected) = (format!("the root {root} by row and path"), opened.manifest.root);
        return Err(Refused::other(file, "member `path`", found, format!("{expected}, as the manifest says")));
    }
    let told = vec![row.chars().take(2_000).collect(), format!("row {index} of {}", opened.manifest.rows)];
    report.fact("row", index.to_string());
    report.holds("row", told, SHOWS_ROW);
    bundle::tell_manifest(&opened, report);
    end(committed, trusted, report)
}

/// The entry that commits to a manifest. It is the only one of the proof.
fn read(proof: &Proof, file: &str, trusted: &Trusted) -> Result<Committed, Refused> {
    let (Claim::Dataset { id } | Claim::Row { dataset: id, .. }) = &proof.claim else {
        return Err(Refused::new(file, "member `claim`", "it is about no dataset"));
    };
    let mut found = None;
    let section = only_section(proof, file, |leaf| match leaf.record {
        Some(Record::Dataset { .. }) if found.is_some() => Err("found another leaf, expected one".to_owned()),
        Some(Record::Dataset { id: of, .. }) if of != *id => {
            Err(format!("found an entry of dataset {of}, expected {id}, as is claimed"))
        }
        Some(Record::Dataset { manifest, .. }) => {
            found = Some((leaf.index, leaf.entry.time, manifest));
            Ok(())
        }
        _ => Err("it is no opened entry of a dataset".to_owned()),
    })?;
    let Some((index, time, manifest_sha256)) = found else { return Err(section.refuse("it has no leaf")) };
    let log = [section];
    let chain = Chain::read(&proof.rotations, &log, file)?;
    let anchors = Anchors::read(proof, &log, trusted, file)?;
    let told = vec![format!("leaf {index}, written {time}, commits to the manifest")];
    Ok(Committed { id: *id, log, index, chain, anchors, manifest_sha256, told })
}

/// A bundle against the manifest's digest in the log, and its rows against the manifest.
fn whole(
    committed: &Committed,
    bundle: &mut Bundle,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), Refused> {
    let opened = bundle.open()?;
    if opened.sha256 != committed.manifest_sha256 {
        let (found, expected) = (format!("SHA-256 {}", opened.sha256), committed.manifest_sha256);
        let refused = Refused::other(manifest::FILE, "", found, format!("{expected}, as the log commits to"));
        return Err(bundle.within(refused));
    }
    committed.agrees(&opened, manifest::FILE, "").map_err(|refused| bundle.within(refused))?;
    bundle.check(&opened, report, progress)
}

fn end(committed: Committed, trusted: &Trusted, report: &mut Report) -> Result<(), Refused> {
    let Committed { log, index, chain, anchors, told, .. } = committed;
    report.holds("commitment", told, SHOWS_COMMITTED);
    signed(&chain, &log, &anchors, &[vec![index]], trusted, report)
}

impl Committed {
    /// Gateway, site and id of the manifest are those of the log.
    fn agrees(&self, opened: &Opened, file: &str, place: &str) -> Result<(), Refused> {
        let (manifest, origin, id) = (&opened.manifest, &self.log[0].origin, self.id.to_string());
        for (name, found, expected) in [
            ("gateway", manifest.gateway.as_str(), origin.gateway.as_str()),
            ("id", manifest.id.to_string().as_str(), id.as_str()),
            ("site", manifest.site.as_str(), origin.site.as_str()),
        ] {
            if found != expected {
                let place = if place.is_empty() { format!("member `{name}`") } else { format!("{place}, {name}") };
                return Err(Refused::other(file, place, found, format!("{expected}, as the log says")));
            }
        }
        Ok(())
    }
}
