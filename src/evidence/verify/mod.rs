//! The verifier: whether a bundle, a proof or a folder of the log holds, by docs/evidence-format.md.
//!
//! It needs nothing of this machine: no store, no config, no network, nor the clock. Every byte is recomputed from
//! others or the whole is refused, and what it reads is bounded before it is read: it is shown what strangers made.

mod anchor;
mod block;
mod bundle;
mod dataset;
mod entry_proof;
mod frames;
mod keys;
mod log_folder;
mod period;
mod proof;
mod record;
mod report;
mod rows;
mod section;
mod strict;

use std::path::Path;

pub use anchor::Vouched;
pub use keys::Trusted;
pub use report::{AnchorBlock, Cause, Lack, Link, OnChain, Refused, Report, ShownAnchor, Verdict, Voucher};
pub use rows::Progress;

use crate::model::Span;
use anchor::Anchors;
use block::Revisions;
use bundle::Bundle;
use keys::Chain;
use proof::{Claim, LONGEST_PROOF, Proof};
use section::Section;

const SHOWS_ENTRY: &str = "that it was written to the log, behind all entries before it. Times are the gateway's clock";
const SHOWS_CHECKPOINT: &str = "that the log's key signed exactly this. Not whose key that is, nor since when";
const SHOWS_ANCHOR: &str = "an upper bound in time that does not rest on the gateway, if the chain has this block. Not what was before, nor \
     that the account anchored no other story";

/// Verifies what is at `path`. `progress` hears of long work.
pub fn verify(path: &Path, trusted: &Trusted, progress: &mut dyn FnMut(Progress)) -> Report {
    let mut report = Report::default();
    let told = look(path, trusted, progress, &mut report);
    report.refused = told.err();
    report
}

/// What it is, is told by its name.
fn look(
    path: &Path,
    trusted: &Trusted,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), Refused> {
    let name = path.display().to_string();
    let metadata = std::fs::metadata(path).map_err(|error| strict::unreadable(&name, &error))?;
    let has = |file: &str| path.join(file).symlink_metadata().is_ok();
    if metadata.is_dir() {
        return match (has("manifest.json"), has("checkpoint")) {
            (true, _) => dataset::of_bundle(Bundle::folder(path)?, trusted, progress, report),
            (false, true) => log_folder::verify(path, trusted, progress, report),
            (false, false) => {
                let why = "it holds neither manifest.json, as a bundle does, nor checkpoint, as a log folder does";
                Err(Refused::unreadable(name, why))
            }
        };
    }
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if file.ends_with(".tar") {
        dataset::of_bundle(Bundle::archive(path)?, trusted, progress, report)
    } else if file.ends_with(".proof.json") {
        of_proof(path, trusted, progress, report)
    } else if file.ends_with(".tlog-proof") {
        entry_proof::verify(path, trusted, report)
    } else {
        let why = "by its name it is no bundle (.tar, or a folder), proof (.proof.json, .tlog-proof) or log folder";
        Err(Refused::unreadable(name, why))
    }
}

fn of_proof(
    path: &Path,
    trusted: &Trusted,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), Refused> {
    let file = path.display().to_string();
    let bytes = strict::read_file(path, &file, LONGEST_PROOF)?;
    let proof = Proof::read(&bytes, &file)?;
    match &proof.claim {
        Claim::Dataset { .. } => dataset::of_proof(&proof, path, trusted, progress, report),
        Claim::Row { .. } => dataset::of_row(&proof, &file, trusted, report),
        Claim::Block { meter, start } => {
            report.what = "block";
            let mut revisions = Revisions { meter: meter.clone(), start: *start, all: Vec::new() };
            let section = only_section(&proof, &file, |leaf| revisions.take(leaf))?;
            let log = [section];
            let chain = Chain::read(&proof.rotations, &log, &file)?;
            let anchors = Anchors::read(&proof, &log, trusted, &file)?;
            revisions.tell(&log[0], proof.readings.as_deref(), &file, report)?;
            let due = [revisions.all.iter().map(|at| at.index).collect()];
            signed(&chain, &log, &anchors, &due, trusted, report)
        }
        Claim::Period { meter, from, to } => {
            report.what = "period";
            let Some(span) = Span::new(*from, *to) else {
                return Err(Refused::new(file, "member `claim`", "the period has no length"));
            };
            let mut period = period::Period::new(meter.clone(), span);
            let mut log: Vec<Section> = Vec::new();
            for (at, text) in proof.log.iter().enumerate() {
                let section = period.read(text, &file, at, log.last())?;
                log.push(section);
            }
            let chain = Chain::read(&proof.rotations, &log, &file)?;
            let anchors = Anchors::read(&proof, &log, trusted, &file)?;
            period.tell(&log, report);
            signed(&chain, &log, &anchors, &period.due(), trusted, report)
        }
    }
}

/// The section of a proof that has one.
fn only_section(
    proof: &Proof,
    file: &str,
    look: impl FnMut(section::Leaf) -> Result<(), String>,
) -> Result<Section, Refused> {
    match proof.log.as_slice() {
        [text] => Section::read(text, file, "log section 0".to_owned(), look),
        other => Err(Refused::new(file, "member `log`", format!("found {} sections, expected one", other.len()))),
    }
}

/// The links from the leaves of a proof to whoever signed them, and to the chain that bears them. `due` are the leaves of
/// each section that are to be anchored.
fn signed(
    chain: &Chain,
    log: &[Section],
    anchors: &Anchors,
    due: &[Vec<u64>],
    trusted: &Trusted,
    report: &mut Report,
) -> Result<(), Refused> {
    let checkpoints = log.iter().map(|section| {
        let checkpoint = &section.signed.checkpoint;
        format!(
            "{} entries of {}, root {}, signed by {}",
            checkpoint.size,
            checkpoint.origin,
            checkpoint.root,
            section.key.name()
        )
    });
    report.holds("log", vec!["the opened entries lead to the root of the checkpoint".to_owned()], SHOWS_ENTRY);
    report.holds("checkpoint", checkpoints.collect(), SHOWS_CHECKPOINT);
    chain.judge(log, trusted, report)?;
    let shown: Vec<_> = log.iter().chain(chain.rotated()).map(Section::shown).chain(anchors.shown(log)).collect();
    keys::compare(&shown, trusted, report)?;
    if log.iter().any(|section| section.origin.site.as_str() == SIMULATED_SITE) {
        report.lacks(Lack::Simulated);
    }
    anchors.tell(due, trusted, report);
    Ok(())
}

/// The site of the demo.
const SIMULATED_SITE: &str = "demo";

fn not_anchored(report: &mut Report) {
    report.lacks(Lack::NotAnchored);
    report.open("anchor", vec!["it is not anchored".to_owned()], SHOWS_ANCHOR);
}
