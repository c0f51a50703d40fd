//! A sealed block: all its revisions that a proof opens, and their energy recomputed.

use serde_json::{Value, json};

use super::proof::{ReadingText, ReadingValue};
use super::record::Record;
use super::report::{Lack, Refused, Report};
use super::section::{Leaf, Section};
use crate::model::entry::EntryKind;
use crate::model::{Block, BlockFlag, Energy, MeterId, Method, Number, RawReading, Recomputed, Role, Timestamp};

const SHOWS_RECORD: &str = "what the gateway sealed, to the digit. Not the meter, its transformers or its wiring";
const SHOWS_BORDERS: &str = "the arithmetic: energy by register follows from the readings at the block's borders";
const SHOWS_RAW: &str = "that nothing else went into the block, and what follows from all of it";

/// A revision of a block, with the place of its entry.
pub struct Revision {
    pub index: u64,
    pub sealed_in: Timestamp,
    pub block: Box<Block>,
}

/// Reads the leaves of a block's proof.
pub struct Revisions {
    pub meter: MeterId,
    pub start: Timestamp,
    pub all: Vec<Revision>,
}

impl Revisions {
    pub fn take(&mut self, leaf: Leaf) -> Result<(), String> {
        let Some(record) = leaf.record else { return Err("it is not opened, and no block".to_owned()) };
        let Record::Block { block, prev } = record else {
            return Err(format!("found an entry of kind {}, expected a block", leaf.entry.kind));
        };
        if block.meter != self.meter || block.span.start() != self.start {
            let (meter, start) = (&block.meter, block.span.start());
            return Err(format!("found a block of {meter} at {start}, expected {} at {}", self.meter, self.start));
        }
        check_prev(leaf.index, prev)?;
        check_energy(&block)?;
        if let Some(before) = self.all.last()
            && before.block.revision >= block.revision
        {
            return Err(format!("found revision {} after {}", block.revision, before.block.revision));
        }
        self.all.push(Revision { index: leaf.index, sealed_in: leaf.entry.time, block });
        Ok(())
    }

    /// Tells what was found, the newest revision last.
    pub fn tell(
        &self,
        section: &Section,
        readings: Option<&[ReadingText]>,
        file: &str,
        report: &mut Report,
    ) -> Result<(), Refused> {
        let Some(newest) = self.all.last() else { return Err(section.refuse("it opens no block")) };
        let block = &newest.block;
        let mut told =
            vec![format!("meter {}, block from {} to {}", block.meter, block.span.start(), block.span.end())];
        told.extend(self.all.iter().map(|at| {
            format!(
                "revision {}, leaf {}, written {}: {}",
                at.block.revision,
                at.index,
                at.sealed_in,
                energy(&at.block)
            )
        }));
        told.extend(beside(block));
        report.holds("record", told, SHOWS_RECORD);
        tell_borders(block, report);
        if let Some(readings) = readings {
            if block.method == Method::Sum {
                return Err(Refused::new(file, "member `readings`", "a block made of others has none"));
            }
            let raw = read(readings).map_err(|(at, why)| Refused::new(file, format!("reading {at}"), why))?;
            let repeated =
                block.repeat(&raw).map_err(|error| Refused::new(file, "member `readings`", error.to_string()))?;
            let mut told = vec![format!(
                "{} raw values, those that revision {} commits to: digest {}",
                raw.len(),
                block.revision,
                block.readings_sha256
            )];
            told.push("the border readings are among them".to_owned());
            for (name, repeated, stated) in
                [("import", repeated.register[0], block.import), ("export", repeated.register[1], block.export)]
            {
                if repeated {
                    told.push(format!("{name}: the register counts on through all of them, and nothing is left out"));
                } else if stated.is_some() && !repeated_by_power(block) {
                    told.push(format!("{name}: not computed again from all of them: they do not simply count on"));
                }
            }
            if repeated.power {
                told.push("energy by power, greatest and least power computed again: the same".to_owned());
            }
            if repeated.coverage {
                told.push(format!("coverage computed again: {} of {} ms", block.covered_ms, block.span.millis()));
            }
            report.holds("raw readings", told, SHOWS_RAW);
        }
        if self.all.iter().any(|at| at.block.flags.has(BlockFlag::Simulated)) {
            report.lacks(Lack::Simulated);
        }
        report.fact("meter", self.meter.as_str());
        report.fact("revisions", self.all.iter().map(|at| facts(&at.block, at.index)).collect::<Vec<_>>());
        Ok(())
    }
}

fn repeated_by_power(block: &Block) -> bool {
    matches!(block.method, Method::Power | Method::Interval)
}

/// An entry comes after the one before it.
pub fn check_prev(index: u64, prev: Option<u64>) -> Result<(), String> {
    match prev {
        Some(prev) if prev >= index => Err(format!("member `prev`: found {prev}, expected an index below {index}")),
        _ => Ok(()),
    }
}

/// The block's energy is what its border readings give.
pub fn check_energy(block: &Block) -> Result<(), String> {
    if block.agrees_with_borders() {
        return Ok(());
    }
    let (import, export) = block.recompute();
    let stated =
        |energy: Option<Energy>| energy.map_or_else(|| "null".to_owned(), |energy| energy.as_uwh().to_string());
    let found = |recomputed| match recomputed {
        Recomputed::Register(energy) => stated(Some(energy)),
        Recomputed::NotByRegister => "nothing".to_owned(),
    };
    Err(format!(
        "the record says import {} and export {} µWh, and its border readings give {} and {}",
        stated(block.import),
        stated(block.export),
        found(import),
        found(export)
    ))
}

/// Such as `import 6.000000 kWh, export none; method counter; flags gap, late`.
pub fn energy(block: &Block) -> String {
    let kwh = |energy: Option<Energy>| {
        energy.map_or_else(|| "none".to_owned(), |energy| format!("{} kWh", exact_kwh(energy.as_uwh().into())))
    };
    let flags = block.flags.names();
    let flags = if flags.is_empty() { "no flags".to_owned() } else { format!("flags {}", flags.join(", ")) };
    match (block.import, block.export) {
        (None, None) => format!("no energy; {flags}"),
        (import, export) => {
            format!("import {}, export {}; method {}; {flags}", kwh(import), kwh(export), block.method.as_str())
        }
    }
}

/// With all its digits: a µWh is the ninth.
pub fn exact_kwh(uwh: i128) -> String {
    let (sign, size) = (if uwh < 0 { "-" } else { "" }, uwh.unsigned_abs());
    format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000)
}

fn beside(block: &Block) -> Vec<String> {
    let mut told = vec![format!(
        "covered {} of {} ms by readings; interval {} ms; zone {}",
        block.covered_ms,
        block.span.millis(),
        block.interval_ms,
        block.zone
    )];
    if let (Some(max), Some(min)) = (block.max_power, block.min_power) {
        told.push(format!("power between {} and {} mW", min.as_mw(), max.as_mw()));
    }
    told
}

/// How each direction's energy was recomputed, or why it cannot be.
fn tell_borders(block: &Block, report: &mut Report) {
    let (import, export) = block.recompute();
    let mut told = Vec::new();
    let mut all = true;
    for (name, role, stated, recomputed) in
        [("import", Role::Import, block.import, import), ("export", Role::Export, block.export, export)]
    {
        match (stated, recomputed) {
            (Some(energy), Recomputed::Register(_)) => {
                told.push(format!(
                    "{name}: {} kWh, computed again from these readings of the register:",
                    exact_kwh(energy.as_uwh().into())
                ));
                told.extend(borders(block, role));
            }
            (Some(_), Recomputed::NotByRegister) => {
                all = false;
                told.push(format!("{name}: cannot be computed again from the record: {}", why_not(block)));
            }
            (None, _) => {}
        }
    }
    if told.is_empty() {
        told.push("there is no energy to compute".to_owned());
    }
    if all {
        report.holds("energy by register", told, SHOWS_BORDERS);
    } else {
        report.open("energy by register", told, SHOWS_BORDERS);
    }
}

fn why_not(block: &Block) -> &'static str {
    match block.method {
        Method::Sum => "it is a sum, whose parts are blocks of other meters with entries of their own",
        Method::Interval => "it is by intervals, and takes all of them",
        Method::Counter | Method::Power | Method::Mixed => "it is by power, and takes all readings of it",
    }
}

fn borders(block: &Block, role: Role) -> Vec<String> {
    let borders = &block.borders;
    let lists =
        [("before", &borders.before), ("first", &borders.first), ("last", &borders.last), ("after", &borders.after)];
    let mut told = Vec::new();
    for (name, list) in lists {
        for at in list.iter().filter(|at| at.role == role) {
            let raw = at.raw.to_display();
            told.push(format!("  {name:6} {} seq {} raw {raw} × {}", at.time, at.seq, at.scale));
        }
    }
    for at in borders.breaks.iter().filter(|at| at.to.role == role) {
        let kind = if at.rollover { "roll-over" } else { "reset" };
        told.push(format!(
            "  {kind} between {} (seq {}) and {} (seq {})",
            at.from.time, at.from.seq, at.to.time, at.to.seq
        ));
    }
    told
}

/// The raw values of a proof; otherwise which of them is none, and why.
fn read(readings: &[ReadingText]) -> Result<Vec<RawReading>, (usize, String)> {
    let one = |at: &ReadingText| {
        let role = Role::ALL.into_iter().find(|role| role.quantity() == at.quantity);
        let role = role.ok_or_else(|| format!("`{}` is no quantity of energy or power", at.quantity.escape_debug()))?;
        let raw = match (&*at.kind, &at.value) {
            ("f64", ReadingValue::Double(value)) => Number::from_f64(*value),
            ("i64", ReadingValue::Whole(text)) => text.parse().ok().map(Number::I64),
            ("u64", ReadingValue::Whole(text)) => text.parse().ok().map(Number::U64),
            _ => None,
        };
        let raw = raw.ok_or("its value is not of its type")?;
        Ok(RawReading { role, time: Timestamp::from_millis(at.time), seq: at.seq, raw })
    };
    let numbered = readings.iter().enumerate();
    numbered.map(|(at, reading)| one(reading).map_err(|why: String| (at, why))).collect()
}

/// A block for a script.
pub fn facts(block: &Block, index: u64) -> Value {
    let energy = |energy: Option<Energy>| energy.map(|energy| energy.as_uwh().to_string());
    json!({
        "start": block.span.start(),
        "end": block.span.end(),
        "revision": block.revision,
        "index": index,
        "kind": if is_silence(block) { EntryKind::Silence.as_str() } else { EntryKind::Block.as_str() },
        "import_uwh": energy(block.import),
        "export_uwh": energy(block.export),
        "method": block.method,
        "flags": block.flags.names(),
    })
}

pub fn is_silence(block: &Block) -> bool {
    block.import.is_none() && block.export.is_none() && block.covered_ms == 0
}
