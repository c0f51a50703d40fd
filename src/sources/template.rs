//! Register maps as data: what a meter's registers hold.

use std::collections::BTreeMap;

use crate::model::{Digest, Quantity, Ratio};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordOrder {
    HighFirst,
    LowFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positive {
    Import,
    Export,
}
