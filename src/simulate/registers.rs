//! What a simulated meter holds in its registers: a template read the other way round, from values to words.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::identity;
use super::mood::{self, Mood};
use super::plant::{Plant, Sample, apparent};
use crate::model::{Quantity, Timestamp};
use crate::sources::template::{Function, Kind, Positive, Register, Template};

/// Why a request gets no data: the codes of the Modbus application protocol, section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exception {
    IllegalFunction = 1,
    IllegalAddress = 2,
    IllegalValue = 3,
    Busy = 6,
    NoSuchUnit = 11,
}

/// Meters of a plant, each behind a register map.
pub struct Meters {
    plant: Plant,
    count: usize,
    /// In turn; never empty.
    maps: Vec<Map>,
}

/// One register map, and where its words are found.
struct Map {
    template: Arc<Template>,
    words: BTreeMap<(Function, u16), Word>,
}

/// What one register holds.
#[derive(Clone, Copy)]
enum Word {
    /// Word `at` of the value of this register of the template.
    Of { register: usize, at: usize },
    /// Word `at` of this identity register of the template.
    OfIdentity { register: usize, at: usize },
    /// A hole that the device answers with 0.
    Hole,
}

impl Meters {
    /// `count` meters, with these templates in turn.
    pub fn new(plant: Plant, count: usize, templates: &[Arc<Template>]) -> Self {
        let maps = templates.iter().map(|template| Map { template: template.clone(), words: words(template) });
        Self { plant, count, maps: maps.collect() }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn template(&self, index: usize) -> &Arc<Template> {
        &self.map(index).template
    }

    fn map(&self, index: usize) -> &Map {
        &self.maps[index % self.maps.len()]
    }

    /// The words of every register of its template, in its order, as meter `index` has them at `now`; nothing while it
    /// does not answer.
    pub fn image(&self, index: usize, now: Timestamp) -> Option<Vec<Vec<u16>>> {
        if index >= self.count || mood::of(index, now) != Mood::Well {
            return None;
        }
        let sample = self.plant.sample(index, now);
        Some(self.template(index).registers.iter().map(|register| encode(register, &sample)).collect())
    }

    /// What meter `index` answers at `now` when asked for `count` registers from `address`. All of one answer belongs
    /// to one instant.
    pub fn read(
        &self,
        index: usize,
        function: Function,
        address: u16,
        count: u16,
        now: Timestamp,
    ) -> Result<Vec<u16>, Exception> {
        if index >= self.count {
            return Err(Exception::NoSuchUnit);
        }
        let Map { template, words } = self.map(index);
        // Some meters give their code at an address that is half of a value when it is read along with its neighbours.
        let alone = template
            .identity
            .iter()
            .find(|register| register.function == function && register.address == address && register.width() == count);
        if let Some(register) = alone {
            return Ok(identity::words(register, template, index));
        }
        if count == 0 || count > template.max_registers {
            return Err(Exception::IllegalValue);
        }
        let end = u32::from(address) + u32::from(count);
        let wanted: Vec<Word> = (u32::from(address)..end)
            .map_while(|address| words.get(&(function, u16::try_from(address).ok()?)).copied())
            .collect();
        if wanted.len() < usize::from(count) {
            return Err(Exception::IllegalAddress);
        }
        let sample = self.plant.sample(index, now);
        let mut value: (usize, Vec<u16>) = (usize::MAX, Vec::new());
        let word = |word: Word| match word {
            Word::Hole => 0,
            Word::Of { register, at } => {
                if value.0 != register {
                    value = (register, encode(&template.registers[register], &sample));
                }
                value.1[at]
            }
            Word::OfIdentity { register, at } => identity::words(&template.identity[register], template, index)[at],
        };
        Ok(wanted.into_iter().map(word).collect())
    }
}

/// Every address that answers. Holes up to the width that may be read along are there too.
fn words(template: &Template) -> BTreeMap<(Function, u16), Word> {
    let mut words = BTreeMap::new();
    for (register, what) in template.identity.iter().enumerate() {
        for (at, address) in (what.address..=u16::MAX).take(usize::from(what.width())).enumerate() {
            words.insert((what.function, address), Word::OfIdentity { register, at });
        }
    }
    for (register, what) in template.registers.iter().enumerate() {
        for (at, address) in (what.address..=u16::MAX).take(usize::from(what.kind.width())).enumerate() {
            words.insert((what.function, address), Word::Of { register, at });
        }
    }
    let known: Vec<(Function, u16)> = words.keys().copied().collect();
    for pair in known.windows(2) {
        let ((function, from), (other, to)) = (pair[0], pair[1]);
        if function == other && to - from - 1 <= template.max_hole {
            words.extend((from + 1..to).map(|address| ((function, address), Word::Hole)));
        }
    }
    words
}

/// The words of one register, the inverse of decoding.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates: the meter shows its limit
fn encode(register: &Register, sample: &Sample) -> Vec<u16> {
    let mut value = value_of(&register.quantity, sample) / register.scale.to_display();
    if register.quantity.as_str().starts_with("power") && register.positive == Positive::Export {
        value = -value;
    }
    let whole = value.round();
    let counted = match register.rolls_over_at {
        Some(end) => (whole.max(0.0) as u64) % end.max(1),
        None => whole as u64,
    };
    let bytes = match register.kind {
        Kind::U16 => u16::try_from(counted).unwrap_or(u16::MAX).to_be_bytes().to_vec(),
        Kind::U32 => u32::try_from(counted).unwrap_or(u32::MAX).to_be_bytes().to_vec(),
        Kind::U64 => counted.to_be_bytes().to_vec(),
        Kind::I16 => (whole as i16).to_be_bytes().to_vec(),
        Kind::I32 => (whole as i32).to_be_bytes().to_vec(),
        Kind::I64 => (whole as i64).to_be_bytes().to_vec(),
        Kind::F32 => (value as f32).to_be_bytes().to_vec(),
        Kind::F64 => value.to_be_bytes().to_vec(),
    };
    let mut words: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    if register.order.begins_low() {
        words.reverse();
    }
    if register.order.swaps_bytes() {
        words.iter_mut().for_each(|word| *word = word.swap_bytes());
    }
    words
}

/// The value of a quantity in its unit, import positive; 0 for one that the plant does not have.
fn value_of(quantity: &Quantity, sample: &Sample) -> f64 {
    let parts: Vec<&str> = quantity.as_str().split('_').collect();
    let phases: Vec<usize> = parts.iter().filter_map(|part| phase(part)).collect();
    let what: Vec<&str> = parts.iter().copied().filter(|part| phase(part).is_none()).collect();
    let sum = |values: &[f64; 3]| match phases.first() {
        Some(&phase) => values[phase],
        None => values.iter().sum(),
    };
    let share = if phases.is_empty() { 1.0 } else { 1.0 / 3.0 };
    let (kilowatts, kilovars) = (sum(&sample.kilowatts), sum(&sample.kilovars));
    match what.as_slice() {
        // Between two phases, or the mean of what is against neutral.
        ["voltage", "v"] if phases.len() == 2 => {
            (sample.volts[phases[0]] + sample.volts[phases[1]]) / 2.0 * 3_f64.sqrt()
        }
        ["voltage", "v"] => sum(&sample.volts) * if phases.is_empty() { 1.0 / 3.0 } else { 1.0 },
        ["voltage", .., "v"] => sample.volts.iter().sum::<f64>() / 3.0 * 3_f64.sqrt(),
        ["current", "a"] => sum(&sample.amperes),
        ["power", "kw"] => kilowatts,
        ["reactive", "power", "kvar"] => kilovars,
        ["apparent", "power", "kva"] => apparent(kilowatts, kilovars),
        ["power", "factor", ..] => match apparent(kilowatts, kilovars) {
            kva if kva > 0.0 => kilowatts / kva,
            _ => 1.0,
        },
        ["frequency", "hz"] => sample.hertz,
        ["energy", "import", "kwh"] => sample.imported_kwh * share,
        ["energy", "export", "kwh"] => sample.exported_kwh * share,
        ["energy", .., "kwh"] => (sample.imported_kwh + sample.exported_kwh) * share,
        ["reactive", "energy", "import", "kvarh"] => sample.imported_kwh * 0.4 * share,
        ["reactive", "energy", "export", "kvarh"] => sample.exported_kwh * 0.1 * share,
        _ => 0.0,
    }
}

fn phase(part: &str) -> Option<usize> {
    ["l1", "l2", "l3"].iter().position(|name| *name == part)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Digest, Ratio};

    /// A register map for tests: floats in two banks, one hole that may be read along and one that may not.
    pub(in super::super) fn template() -> Arc<Template> {
        let register = |quantity: &str, function, address, kind, order, scale: &str| Register {
            quantity: quantity.parse().unwrap(),
            function,
            address,
            kind,
            order,
            scale: Ratio::parse(scale).unwrap(),
            absent: Vec::new(),
            rolls_over_at: None,
            ct: false,
            vt: false,
            positive: Positive::Import,
            in_model: None,
        };
        use crate::sources::template::WordOrder::{HighFirst, LowFirst};
        use Function::{Holding, Input};
        Arc::new(Template {
            name: "test".to_owned(),
            title: "Test meter".to_owned(),
            evidence: "made up".to_owned(),
            verified: false,
            digest: Digest::of(b"test"),
            max_registers: 40,
            max_hole: 2,
            applies_ratios: false,
            quirks: BTreeMap::new(),
            sunspec: false,
            identity: Vec::new(),
            registers: vec![
                register("voltage_l1_v", Input, 0, Kind::F32, HighFirst, "1"),
                register("power_kw", Input, 4, Kind::F32, HighFirst, "0.001"),
                register("frequency_hz", Input, 70, Kind::U16, HighFirst, "0.01"),
                register("energy_import_kwh", Holding, 10, Kind::U64, LowFirst, "0.001"),
                register("energy_export_kwh", Holding, 14, Kind::F64, HighFirst, "1"),
            ],
        })
    }

    fn meters() -> Meters {
        Meters::new(Plant::new(1, 0), 9, &[template()])
    }

    const NOON: Timestamp = Timestamp::from_millis(1_795_003_200_000);

    #[test]
    fn registers_hold_the_plants_values_in_the_templates_form() {
        let meters = meters();
        let sample = meters.plant.sample(5, NOON);
        let words = meters.read(5, Function::Input, 0, 6, NOON).unwrap();
        let float = |at: usize| f32::from_bits(u32::from(words[at]) << 16 | u32::from(words[at + 1]));
        assert!((f64::from(float(0)) - sample.volts[0]).abs() < 1e-4);
        let kilowatts: f64 = sample.kilowatts.iter().sum();
        assert!(kilowatts < -10.0 && (f64::from(float(4)) - kilowatts * 1_000.0).abs() < 0.1, "the sun exports");
        assert_eq!((words[2], words[3]), (0, 0), "a hole that may be read along");

        let words = meters.read(5, Function::Holding, 10, 4, NOON).unwrap();
        let low_first = words.iter().rev().fold(0_u64, |sum, word| sum << 16 | u64::from(*word));
        assert_eq!(low_first.to_string(), format!("{:.0}", sample.imported_kwh * 1_000.0));
    }

    #[test]
    fn what_the_map_does_not_hold_is_refused() {
        let meters = meters();
        let read = |index, address, count| meters.read(index, Function::Input, address, count, NOON);
        assert_eq!(read(0, 0, 7), Err(Exception::IllegalAddress));
        assert_eq!(read(0, 6, 1), Err(Exception::IllegalAddress));
        assert_eq!(read(0, u16::MAX, 2), Err(Exception::IllegalAddress));
        assert_eq!(read(0, 0, 0), Err(Exception::IllegalValue));
        assert_eq!(read(0, 0, 41), Err(Exception::IllegalValue));
        assert_eq!(read(9, 0, 2), Err(Exception::NoSuchUnit));
        assert_eq!(meters.read(0, Function::Holding, 0, 2, NOON), Err(Exception::IllegalAddress));
    }

    #[test]
    fn a_value_beyond_its_register_stays_at_the_limit_and_a_counter_rolls_over() {
        let meters = meters();
        let sample = meters.plant.sample(0, NOON);
        let mut register = template().registers[3].clone();
        register.kind = Kind::U16;
        assert_eq!(encode(&register, &sample), [u16::MAX]);
        register.rolls_over_at = Some(10_000);
        let whole = format!("{:.0}", sample.imported_kwh * 1_000.0).parse::<u64>().unwrap();
        assert_eq!(u64::from(encode(&register, &sample)[0]), whole % 10_000);
    }
}
