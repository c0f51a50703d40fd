//! What simulated meters say of themselves: what their template expects, and a serial number each.

use crate::sources::template::{Expected, Form, IdentityRegister, Item, Template};

/// The serial number of the first meter.
const FIRST_SERIAL_NUMBER: u64 = 26_110_001;
const FIRMWARE: u64 = 102;

/// The words of an identity register of meter `index`.
pub(super) fn words(register: &IdentityRegister, template: &Template, index: usize) -> Vec<u16> {
    let serial_number = FIRST_SERIAL_NUMBER + u64::try_from(index).unwrap_or(0);
    match register.form {
        Form::Number(_) => {
            let expected = register.is.iter().find_map(|expected| match expected {
                Expected::Number(number) => Some(*number),
                Expected::Text(_) => None,
            });
            let number = expected.unwrap_or(match register.item {
                Item::SerialNumber => serial_number,
                Item::Firmware => FIRMWARE,
                Item::Manufacturer | Item::Model => 1,
            });
            // A short register holds the low end of a long number.
            let mut words: Vec<u16> = (0..register.width())
                .rev()
                .map(|at| u16::try_from(number >> (16 * at) & 0xFFFF).unwrap_or(u16::MAX))
                .collect();
            if register.order.begins_low() {
                words.reverse();
            }
            if register.order.swaps_bytes() {
                words.iter_mut().for_each(|word| *word = word.swap_bytes());
            }
            words
        }
        Form::Text { registers } => {
            let expected = register.is.iter().find_map(|expected| match expected {
                Expected::Text(text) => Some(text.clone()),
                Expected::Number(_) => None,
            });
            let text = expected.unwrap_or_else(|| match register.item {
                Item::SerialNumber => format!("{serial_number}"),
                Item::Firmware => format!("{}.{:02}", FIRMWARE / 100, FIRMWARE % 100),
                Item::Manufacturer => "simulated".to_owned(),
                Item::Model => template.title.clone(),
            });
            let mut bytes = text.into_bytes();
            bytes.resize(usize::from(registers) * 2, 0);
            bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
        }
    }
}
