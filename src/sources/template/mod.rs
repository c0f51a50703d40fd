//! Register maps as data: what a meter's registers hold. `docs/templates.md` is the manual of the format.

mod identity;
mod meant;
mod parse;
mod shipped;

use std::collections::BTreeMap;

use serde_json::json;

use crate::model::jcs;
use crate::model::{Digest, Quantity, Ratio};
pub use identity::{Expected, Form, IdentityRegister, Item, text};
pub(super) use parse::scaled_by;
pub use parse::{from_value, parse};
pub use shipped::shipped;

/// A register map, from `config/meters/*.toml` or from the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub name: String,
    pub title: String,
    /// What the map rests on: a vendor sheet, a recording.
    pub evidence: String,
    /// Backed by a recording from elsewhere than the sheet it was written from.
    pub verified: bool,
    /// SHA-256 of its canonical form (JCS).
    pub digest: Digest,
    /// At most this many registers in one request.
    pub max_registers: u16,
    /// A gap of up to this many unused registers may be read along.
    pub max_hole: u16,
    /// The device applies CT and VT ratios itself; then those of the config are not applied.
    pub applies_ratios: bool,
    pub quirks: BTreeMap<String, bool>,
    /// A SunSpec device says itself which registers it has: `registers` is empty until `sources::sunspec` found them.
    pub sunspec: bool,
    /// What the meter says of itself, by item; each item once.
    pub identity: Vec<IdentityRegister>,
    /// By function, then address; none overlaps another.
    pub registers: Vec<Register>,
}

/// One value of a register map.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    pub quantity: Quantity,
    pub function: Function,
    /// Zero-based protocol address.
    pub address: u16,
    pub kind: Kind,
    pub order: WordOrder,
    /// To the quantity's unit.
    pub scale: Ratio,
    /// Raw words that mean "no value", beside the type's own NaN.
    pub absent: Vec<u64>,
    pub rolls_over_at: Option<u64>,
    /// Multiplied by `ct_ratio`, by `vt_ratio`.
    pub ct: bool,
    pub vt: bool,
    /// What a positive raw power means.
    pub positive: Positive,
    /// Of a point of a SunSpec device: what must be read in one request with it.
    pub in_model: Option<InModel>,
}

/// The SunSpec model that a point belongs to, as it was found on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InModel {
    /// Address of its header: the model's number, then how many registers follow.
    pub header: u16,
    pub id: u16,
    pub length: u16,
    /// `None` for a point that is in its unit as it stands, such as a float.
    pub scale_factor: Option<ScaleFactor>,
}

/// A power of ten beside the value, which the device may change from one answer to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleFactor {
    pub address: u16,
    /// The device means 0 when it says that it has no scale factor.
    pub missing_is_zero: bool,
    /// What it was when the models were found: where the register rolls over depends on it.
    pub found: Option<i16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    Holding,
    Input,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

/// How the bytes of a number lie in its registers. Sheets write them with A for the highest byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordOrder {
    /// ABCD, as the Modbus standard has it.
    HighFirst,
    /// CDAB.
    LowFirst,
    /// BADC.
    HighFirstSwapped,
    /// DCBA.
    LowFirstSwapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positive {
    Import,
    Export,
}

/// One fault of a register map: where, why, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path below what was parsed, such as `registers.power_kw.address`; empty for the text as a whole.
    pub key: String,
    pub why: String,
    pub mend: String,
}

/// Most registers that one Modbus request may ask for (Modbus application protocol 1.1b3, 6.3).
pub const MOST_REGISTERS: u16 = 125;

/// Registers 0 to 65 535.
const ADDRESSES: u32 = 65_536;

/// A layout names its values by one byte.
const MOST_VALUES: usize = 255;

impl Kind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("u16", Self::U16),
        ("i16", Self::I16),
        ("u32", Self::U32),
        ("i32", Self::I32),
        ("u64", Self::U64),
        ("i64", Self::I64),
        ("f32", Self::F32),
        ("f64", Self::F64),
    ];

    /// How many registers it takes.
    pub fn width(self) -> u16 {
        match self {
            Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
            Self::U64 | Self::I64 | Self::F64 => 4,
        }
    }
}

impl Function {
    const NAMES: &'static [(&'static str, Self)] = &[("holding", Self::Holding), ("input", Self::Input)];
}

impl WordOrder {
    pub const ALL: [Self; 4] = [Self::HighFirst, Self::LowFirst, Self::HighFirstSwapped, Self::LowFirstSwapped];

    const NAMES: &'static [(&'static str, Self)] = &[
        ("high-first", Self::HighFirst),
        ("low-first", Self::LowFirst),
        ("high-first-swapped", Self::HighFirstSwapped),
        ("low-first-swapped", Self::LowFirstSwapped),
    ];

    /// As templates write it.
    pub fn name(self) -> &'static str {
        name_of(Self::NAMES, self)
    }

    /// The low word comes first.
    pub fn begins_low(self) -> bool {
        matches!(self, Self::LowFirst | Self::LowFirstSwapped)
    }

    /// The low byte of each word comes first.
    pub fn swaps_bytes(self) -> bool {
        matches!(self, Self::HighFirstSwapped | Self::LowFirstSwapped)
    }
}

impl Positive {
    const NAMES: &'static [(&'static str, Self)] = &[("import", Self::Import), ("export", Self::Export)];
}

impl Register {
    /// The address after its last register.
    pub fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.kind.width())
    }

    /// What a request must cover to read it: the first address, and the one after the last.
    pub fn reach(&self) -> (u16, u32) {
        match self.in_model {
            None => (self.address, self.end()),
            Some(InModel { header, scale_factor, .. }) => {
                let after = scale_factor.map_or(0, |factor| u32::from(factor.address) + 1);
                (header.min(self.address), self.end().max(after))
            }
        }
    }
}

impl Template {
    /// The quirk of this name, if the template says anything of it.
    pub fn quirk(&self, name: &str) -> Option<bool> {
        self.quirks.get(name).copied()
    }

    /// The map of a SunSpec device as it was found, under the name and the quirks of its template.
    pub fn found(&self, registers: Vec<Register>) -> Self {
        let mut found = Self { registers, ..self.clone() };
        found.digest = Digest::of(&canonical(&found));
        found
    }
}

/// What the hash of a template commits to: all that decides how an answer becomes values. Its wording may be mended
/// without a new hash.
fn canonical(template: &Template) -> Vec<u8> {
    let registers: Vec<_> = template
        .registers
        .iter()
        .map(|register| {
            let mut value = json!({
                "quantity": register.quantity,
                "function": name_of(Function::NAMES, register.function),
                "address": register.address,
                "type": name_of(Kind::NAMES, register.kind),
                "order": name_of(WordOrder::NAMES, register.order),
                "scale": register.scale.to_string(),
                "absent": register.absent.iter().map(u64::to_string).collect::<Vec<_>>(),
                "rolls_over_at": register.rolls_over_at.map(|at| at.to_string()),
                "ct": register.ct,
                "vt": register.vt,
                "positive": name_of(Positive::NAMES, register.positive),
            });
            if let Some(model) = &register.in_model {
                value["model"] = json!([model.id, model.length, model.header]);
                value["scale_factor"] = json!(model.scale_factor.map(|factor| factor.address));
            }
            value
        })
        .collect();
    let mut value = json!({
        "name": template.name,
        "max_registers": template.max_registers,
        "max_hole": template.max_hole,
        "applies_ratios": template.applies_ratios,
        "quirks": template.quirks,
        "registers": registers,
    });
    if template.sunspec {
        value["sunspec"] = json!(true);
    }
    // Every number in it fits 16 bits, so it has a canonical form.
    jcs::to_vec(&value).unwrap_or_default()
}

fn name_of<T: Copy + PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}
