//! Registers by which a meter says what it is: maker, model, serial number, firmware. They tell a meter from its
//! neighbour and a model from another; none of them is a quantity.

use super::parse::{Faults, path};
use super::{ADDRESSES, Function, Kind, MOST_REGISTERS, WordOrder};

/// One thing that a meter says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityRegister {
    pub item: Item,
    pub function: Function,
    /// Zero-based protocol address.
    pub address: u16,
    pub form: Form,
    pub order: WordOrder,
    /// What it holds in meters of this template; empty where each meter has its own.
    pub is: Vec<Expected>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    Manufacturer,
    Model,
    SerialNumber,
    Firmware,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A whole number of one, two or four registers.
    Number(Kind),
    /// Two characters a register, the first in the high byte, padded with NUL or blanks.
    Text { registers: u16 },
}

/// What an identity register of a known meter may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Number(u64),
    /// The text begins so.
    Text(String),
}

impl Item {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("manufacturer", Self::Manufacturer),
        ("model", Self::Model),
        ("serial_number", Self::SerialNumber),
        ("firmware", Self::Firmware),
    ];
}

/// The text in these words, two characters each, without its padding; `None` for an empty one. What is no printable
/// ASCII is shown as `?`.
pub fn text(words: &[u16]) -> Option<String> {
    // Some meters keep one character in each register, in its low byte.
    let skipped = usize::from(words.iter().all(|word| *word <= 0xFF));
    let bytes = words.iter().flat_map(|word| word.to_be_bytes().into_iter().skip(skipped));
    let bytes = bytes.take_while(|byte| *byte != 0);
    let shown = |byte: u8| if (0x20..0x7F).contains(&byte) { char::from(byte) } else { '?' };
    let text: String = bytes.map(shown).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

impl IdentityRegister {
    /// How many registers it takes.
    pub fn width(&self) -> u16 {
        match self.form {
            Form::Number(kind) => kind.width(),
            Form::Text { registers } => registers,
        }
    }
}

impl Form {
    const NAMES: &'static [(&'static str, Option<Kind>)] =
        &[("u16", Some(Kind::U16)), ("u32", Some(Kind::U32)), ("u64", Some(Kind::U64)), ("text", None)];
}

/// Text of at most this many registers: longer than any serial number or model name.
const LONGEST_TEXT: u16 = 32;

const KEYS: &[&str] = &["address", "function", "type", "order", "length", "is"];

/// Reads `[identity]`.
pub fn read(faults: &mut Faults, table: &toml::Table) -> Vec<IdentityRegister> {
    const BELOW: &str = "identity";
    let names: Vec<&str> = Item::NAMES.iter().map(|(name, _)| *name).chain(["function", "order"]).collect();
    faults.unknown(table, BELOW, &names);
    let function = faults.choice(table, BELOW, "function", Function::NAMES);
    let order = faults.choice(table, BELOW, "order", WordOrder::NAMES).unwrap_or(WordOrder::HighFirst);
    let mut registers = Vec::new();
    for (name, item) in Item::NAMES {
        let at = path(BELOW, name);
        match table.get(*name) {
            None => {}
            Some(toml::Value::Table(entry)) => registers.extend(register(faults, entry, &at, *item, function, order)),
            Some(_) => faults.add(at, "not a register", "write `{ address = 0xFC00, type = \"u32\" }`"),
        }
    }
    registers
}

fn register(
    faults: &mut Faults,
    entry: &toml::Table,
    at: &str,
    item: Item,
    function: Option<Function>,
    order: WordOrder,
) -> Option<IdentityRegister> {
    let before = faults.list.len();
    faults.unknown(entry, at, KEYS);
    let address = faults.whole(entry, at, "address", 0, u16::MAX);
    if !entry.contains_key("address") {
        faults.add(path(at, "address"), "missing", "add the zero-based protocol address");
    }
    let function = faults.choice(entry, at, "function", Function::NAMES).or(function);
    if function.is_none() && !entry.contains_key("function") {
        faults.add(path(at, "function"), "missing", "add `function = \"holding\"` (03) or `\"input\"` (04)");
    }
    let kind = faults.choice(entry, at, "type", Form::NAMES);
    if !entry.contains_key("type") {
        faults.add(path(at, "type"), "missing", "add `type`: u16 u32 u64 text");
    }
    let length = faults.whole(entry, at, "length", 1, LONGEST_TEXT.min(MOST_REGISTERS));
    let form = match (kind?, length) {
        (Some(kind), None) => Form::Number(kind),
        (None, Some(registers)) => Form::Text { registers },
        (Some(_), Some(_)) => {
            faults.add(path(at, "length"), "only a text has a length", "take it out");
            return None;
        }
        (None, None) => {
            if !entry.contains_key("length") {
                faults.add(path(at, "length"), "missing", "add how many registers the text takes");
            }
            return None;
        }
    };
    let order = faults.choice(entry, at, "order", WordOrder::NAMES).unwrap_or(order);
    let is = expected(faults, entry, at, form);
    let register = IdentityRegister { item, function: function?, address: address?, form, order, is };
    if u32::from(register.address) + u32::from(register.width()) > ADDRESSES {
        let why = format!("{} registers from {} on end beyond 65535", register.width(), register.address);
        faults.add(path(at, "address"), why, "correct the address or the length");
    }
    (faults.list.len() == before).then_some(register)
}

fn expected(faults: &mut Faults, entry: &toml::Table, at: &str, form: Form) -> Vec<Expected> {
    let at = path(at, "is");
    let values = match entry.get("is") {
        None => return Vec::new(),
        Some(toml::Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    let mut expected = Vec::new();
    for value in values {
        match (form, value) {
            (Form::Number(kind), value) => {
                let Some(number) = faults.wide(value, &at, None) else { continue };
                // These count as not told, or do not fit the registers.
                if (1..all_bits(kind)).contains(&number) {
                    expected.push(Expected::Number(number));
                } else {
                    let registers = if kind.width() == 1 { "its register tells" } else { "its registers tell" };
                    faults.add(
                        &at,
                        format!("{value} is never told: {registers} 1 to {}", all_bits(kind) - 1),
                        "take it out, or correct it",
                    );
                }
            }
            (Form::Text { .. }, toml::Value::String(text)) if !text.trim().is_empty() => {
                expected.push(Expected::Text(text.trim().to_owned()));
            }
            (Form::Text { .. }, value) => {
                faults.add(&at, format!("{value} is no text"), "write what the text begins with, in quotes");
            }
        }
    }
    expected
}

/// The number of these registers with every bit set.
fn all_bits(kind: Kind) -> u64 {
    u64::MAX >> (64 - 16 * kind.width())
}
