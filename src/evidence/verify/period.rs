//! Every entry that the log links to a meter, in each epoch that has any.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use super::block::{check_energy, check_prev, exact_kwh, is_silence};
use super::proof::SectionText;
use super::record::{Record, Succession};
use super::report::{Lack, Refused, Report};
use super::section::{Leaf, Section};
use crate::model::{Block, BlockFlag, Digest, Energy, MeterId, Recomputed, Span, Timestamp};

const SHOWS_ALL: &str = "that no entry of this meter which the log links, and none after the last of them, is left out. Not that the \
     gateway linked each one as it wrote: its public log has every entry with its subject";
const SHOWS_EPOCHS: &str = "how one epoch follows another. Not that there is no other log beside it";
const SHOWS_BLOCKS: &str =
    "the energy that was sealed, in its newest revision, and that it follows from border readings";
/// So many stretches are listed one by one.
const LISTED: usize = 20;

/// What a period's sections say, taken leaf by leaf.
pub struct Period {
    meter: MeterId,
    span: Span,
    /// The newest revision of each block, by its start.
    blocks: BTreeMap<Timestamp, Newest>,
    revised: u64,
    set_up: Vec<(u64, i64)>,
    simulated: bool,
    epochs: Vec<Epoch>,
}

/// What is kept of a block: a proof of years has hundreds of thousands.
struct Newest {
    span: Span,
    revision: u32,
    index: u64,
    import: Option<Energy>,
    export: Option<Energy>,
    silent: bool,
    withdrawn: bool,
    by_register: bool,
}

struct Epoch {
    succession: Succession,
    entries: u64,
    /// The leaves of blocks that touch the period, in all their revisions.
    touching: Vec<u64>,
}

/// One section as it is walked through.
#[derive(Default)]
struct Walk {
    succession: Option<Succession>,
    /// The meter's subject in this epoch, and the index of its newest entry so far.
    newest: Option<(Digest, u64)>,
    entries: u64,
    /// The next index that must stand there plain.
    tail: Option<u64>,
    /// The newest revision of each block, by its start.
    revisions: HashMap<Timestamp, u32>,
    touching: Vec<u64>,
}

impl Period {
    pub fn new(meter: MeterId, span: Span) -> Self {
        let (blocks, set_up, epochs) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { meter, span, blocks, revised: 0, set_up, simulated: false, epochs }
    }

    /// Reads the next section.
    pub fn read(
        &mut self,
        text: &SectionText,
        file: &str,
        at: usize,
        before: Option<&Section>,
    ) -> Result<Section, Refused> {
        let mut walk = Walk::default();
        let section = Section::read(text, file, format!("log section {at}"), |leaf| self.take(leaf, &mut walk))?;
        let Some(succession) = walk.succession else { return Err(section.refuse("its leaf 0 is not opened")) };
        let Some((_, newest)) = walk.newest else {
            return Err(section.refuse(format!("it opens no entry of meter {}", self.meter)));
        };
        let known = walk.tail.unwrap_or(newest + 1);
        if known != section.size() {
            let why = format!(
                "leaf {known} is missing: every leaf after the meter's newest is given, up to {}",
                section.size() - 1
            );
            return Err(section.refuse(why));
        }
        if let Some(before) = before {
            follows(&section, &succession, before)?;
        }
        self.epochs.push(Epoch { succession, entries: walk.entries, touching: walk.touching });
        Ok(section)
    }

    fn take(&mut self, leaf: Leaf, walk: &mut Walk) -> Result<(), String> {
        let Some(record) = leaf.record else {
            let Some((subject, newest)) = walk.newest else {
                return Err("it is plain, and stands before the meter's newest entry".to_owned());
            };
            let due = walk.tail.unwrap_or(newest + 1);
            if leaf.index != due {
                return Err(format!(
                    "found leaf {}, expected {due}: none after the meter's newest is left out",
                    leaf.index
                ));
            }
            if leaf.entry.subject == Some(subject) {
                return Err("it is of the same meter, and not opened".to_owned());
            }
            walk.tail = Some(leaf.index + 1);
            return Ok(());
        };
        if let Record::Succession(succession) = record {
            walk.succession = Some(succession);
            return Ok(());
        }
        let (meter, prev) = record.of_meter().ok_or_else(|| format!("found an entry of kind {}", leaf.entry.kind))?;
        if *meter != self.meter {
            return Err(format!("found an entry of meter {meter}, expected {}", self.meter));
        }
        if walk.tail.is_some() {
            return Err("it is opened, and stands behind plain ones".to_owned());
        }
        check_prev(leaf.index, prev)?;
        let before = walk.newest.map(|(_, index)| index);
        if prev != before {
            let text = |index: Option<u64>| index.map_or_else(|| "null".to_owned(), |index| index.to_string());
            return Err(format!(
                "member `prev`: found {}, expected {}, the opened entry before it",
                text(prev),
                text(before)
            ));
        }
        walk.newest = leaf.entry.subject.map(|subject| (subject, leaf.index));
        walk.entries += 1;
        match record {
            Record::Block { block, .. } => {
                let (start, revision) = (block.span.start(), block.revision);
                if let Some(before) = walk.revisions.insert(start, revision).filter(|before| *before >= revision) {
                    return Err(format!("found revision {revision} of the block of {start} after {before}"));
                }
                if block.span.overlaps(&self.span) {
                    walk.touching.push(leaf.index);
                }
                self.take_block(&block, leaf.index)
            }
            Record::Commissioning { since, .. } => {
                self.set_up.push((leaf.index, since));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_block(&mut self, block: &Block, index: u64) -> Result<(), String> {
        check_energy(block)?;
        self.simulated |= block.flags.has(BlockFlag::Simulated);
        if !block.span.overlaps(&self.span) {
            return Ok(());
        }
        let recomputed = block.recompute();
        let newest = Newest {
            span: block.span,
            revision: block.revision,
            index,
            import: block.import,
            export: block.export,
            silent: is_silence(block),
            withdrawn: is_silence(block) && block.flags.has(BlockFlag::Clock),
            by_register: [(block.import, recomputed.0), (block.export, recomputed.1)]
                .iter()
                .all(|(stated, found)| stated.is_none() || matches!(found, Recomputed::Register(_))),
        };
        self.revised += u64::from(self.blocks.insert(block.span.start(), newest).is_some());
        Ok(())
    }
}

/// Whether a section may stand behind another: of a later epoch, and after all that the earlier one is said to hold.
fn follows(section: &Section, succession: &Succession, before: &Section) -> Result<(), Refused> {
    let Some(old_origin) = &succession.old_origin else {
        return Err(section.refuse("its epoch is the first one, and another section stands before it"));
    };
    if before.origin == section.origin {
        return Err(section.refuse("the section before is of the same epoch"));
    }
    let known = succession.last_local.as_ref().filter(|last| last.checkpoint.origin == before.key.name());
    let Some(last) = known.filter(|_| *old_origin == before.origin) else { return Ok(()) };
    let refuse = |why: String| section.refuse_leaf(0, format!("the last checkpoint of the epoch before: {why}"));
    last.verify_known(&[&before.key]).map_err(|error| refuse(error.to_string()))?;
    let (found, stated) = (&before.signed.checkpoint, &last.checkpoint);
    if found.size < stated.size {
        let why = format!("it has {} entries, and the epoch ended with {}: some are left out", found.size, stated.size);
        return Err(before.refuse(why));
    }
    if found.size == stated.size && found.root != stated.root {
        return Err(refuse(format!("found the root {}, expected {}", stated.root, found.root)));
    }
    Ok(())
}

impl Period {
    /// Of each section the entries that must be anchored if the period is to be. That there are no others rests on the
    /// newest checkpoint.
    pub fn due(&mut self) -> Vec<Vec<u64>> {
        self.epochs.iter_mut().map(|epoch| std::mem::take(&mut epoch.touching)).collect()
    }

    /// Tells what was found, once all sections are read.
    pub fn tell(&self, log: &[Section], report: &mut Report) {
        report.fact("meter", self.meter.as_str());
        report.fact("from", self.span.start().as_millis());
        report.fact("to", self.span.end().as_millis());
        self.tell_epochs(log, report);
        let entries: u64 = self.epochs.iter().map(|epoch| epoch.entries).sum();
        let mut told = vec![format!("meter {}: {entries} entries, linked one to the next", self.meter)];
        told.extend(self.set_up.iter().rev().take(LISTED).rev().map(|(index, since)| {
            format!("leaf {index}: how the meter is set up, since {}", Timestamp::from_millis(*since))
        }));
        report.fact("entries", entries);
        report.holds("entries", told, SHOWS_ALL);
        self.tell_blocks(report);
        match self.counted_twice() {
            0 => {}
            count => report.lacks(Lack::Overlap(count)),
        }
        if self.simulated {
            report.lacks(Lack::Simulated);
        }
    }

    fn tell_epochs(&self, log: &[Section], report: &mut Report) {
        let mut told = Vec::new();
        let mut before: Option<&Section> = None;
        for (section, epoch) in log.iter().zip(&self.epochs) {
            let succession = &epoch.succession;
            let reason = succession.reason.as_str();
            told.push(format!(
                "{}: {} entries in all, {} of this meter",
                section.origin,
                section.size(),
                epoch.entries
            ));
            told.push(match &succession.old_origin {
                None => format!("  opened because: {reason} (nothing came before)"),
                Some(old) => format!("  opened because: {reason}, after {old}"),
            });
            match (&succession.old_origin, before) {
                (Some(old), Some(before)) if *old != before.origin => told.push(format!(
                    "  between {} and this one lie epochs that are not shown: by the proof's word they hold no entry of this meter",
                    before.origin
                )),
                (Some(_), None) => told.push("  what came before it is not part of this proof".to_owned()),
                _ => {}
            }
            if let Some(outside) = &succession.last_outside {
                let (size, origin) = (outside.checkpoint.size, &outside.checkpoint.origin);
                told.push(format!(
                    "  outside, {size} entries of {origin} had been seen: what the store had lost is not here"
                ));
            }
            before = Some(section);
        }
        let fact = |(section, epoch): (&Section, &Epoch)| {
            json!({
                "origin": section.origin.to_string(), "size": section.size(), "entries": epoch.entries,
                "reason": epoch.succession.reason.as_str(),
                "old_origin": epoch.succession.old_origin.as_ref().map(ToString::to_string),
            })
        };
        report.fact("epochs", log.iter().zip(&self.epochs).map(fact).collect::<Vec<_>>());
        report.holds("epochs", told, SHOWS_EPOCHS);
    }

    fn tell_blocks(&self, report: &mut Report) {
        let within = |at: &&Newest| at.span.shared(&self.span) == Some(at.span);
        let total = |of: fn(&Newest) -> Option<Energy>| {
            let known = self.blocks.values().filter(within).filter_map(of).map(|energy| i128::from(energy.as_uwh()));
            known.reduce(|sum, more| sum.saturating_add(more))
        };
        let (import, export) = (total(|at| at.import), total(|at| at.export));
        let count = |is: fn(&Newest) -> bool| self.blocks.values().filter(|at| is(at)).count();
        let (silent, withdrawn) = (count(|at| at.silent), count(|at| at.withdrawn));
        let not_by_register = count(|at| !at.by_register);
        let uncovered = self.uncovered();
        let kwh = |uwh: Option<i128>| uwh.map_or_else(|| "none".to_owned(), |uwh| format!("{} kWh", exact_kwh(uwh)));
        let mut told = vec![
            format!("{} blocks touch the period from {} to {}", self.blocks.len(), self.span.start(), self.span.end()),
            format!("in those that lie in it whole: import {}, export {}", kwh(import), kwh(export)),
            format!("{} revised later, {silent} silent, {withdrawn} withdrawn because of the clock", self.revised),
        ];
        if not_by_register > 0 {
            told.push(format!(
                "{not_by_register} have energy by power, by intervals or of a sum: not computed again, since their record does not hold all readings"
            ));
        }
        if uncovered.is_empty() {
            told.push("no stretch of the period is without a block".to_owned());
        }
        told.extend(uncovered.iter().take(LISTED).map(|at| format!("no block covers {} to {}", at.start(), at.end())));
        if uncovered.len() > LISTED {
            told.push(format!("and {} more stretches", uncovered.len() - LISTED));
        }
        report.fact("blocks", self.blocks.values().map(fact).collect::<Vec<_>>());
        report.fact("import_uwh", import.map(|uwh| uwh.to_string()));
        report.fact("export_uwh", export.map(|uwh| uwh.to_string()));
        let stretch = |at: &Span| json!({ "from": at.start(), "to": at.end() });
        report.fact("uncovered", uncovered.iter().map(stretch).collect::<Vec<_>>());
        report.holds("blocks", told, SHOWS_BLOCKS);
    }

    /// How many of the blocks in the sum overlap one that began before and has energy too. What is silent may be covered
    /// again later.
    fn counted_twice(&self) -> usize {
        let within = |at: &&Newest| at.span.shared(&self.span) == Some(at.span);
        let bearing = self.blocks.values().filter(within).filter(|at| at.import.is_some() || at.export.is_some());
        let (mut reached, mut count) = (self.span.start(), 0);
        for at in bearing {
            count += usize::from(at.span.start() < reached);
            reached = reached.max(at.span.end());
        }
        count
    }

    /// The stretches of the period that no block covers.
    fn uncovered(&self) -> Vec<Span> {
        let (mut from, mut gaps) = (self.span.start(), Vec::new());
        for at in self.blocks.values() {
            gaps.extend(Span::new(from, at.span.start()));
            from = from.max(at.span.end());
        }
        gaps.extend(Span::new(from, self.span.end()));
        gaps
    }
}

fn fact(at: &Newest) -> serde_json::Value {
    let energy = |energy: Option<Energy>| energy.map(|energy| energy.as_uwh().to_string());
    json!({
        "start": at.span.start(), "end": at.span.end(), "revision": at.revision, "index": at.index,
        "import_uwh": energy(at.import), "export_uwh": energy(at.export), "silent": at.silent,
    })
}
