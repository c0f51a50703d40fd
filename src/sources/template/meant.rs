//! What the author of a map may have meant: the words, units and numbers of vendors' sheets, where the map has its own.

use super::Kind;
use crate::model::Quantity;

/// Words of sheets and of other programs for a function, a type or an order, by the key that they were written for.
const WORDS: &[(&str, &[&str], &str)] = &[
    ("function", &["3", "03", "0x03", "fc3", "fc03", "read holding", "holding registers", "4x"], "holding"),
    ("function", &["4", "04", "0x04", "fc4", "fc04", "read input", "input registers", "3x"], "input"),
    ("type", &["uint16", "ushort", "word", "unsigned short"], "u16"),
    ("type", &["int16", "short", "sint16", "s16"], "i16"),
    ("type", &["uint32", "dword", "udint", "unsigned long"], "u32"),
    ("type", &["int32", "dint", "long", "sint32", "s32"], "i32"),
    ("type", &["uint64", "ulint", "qword"], "u64"),
    ("type", &["int64", "lint", "sint64", "s64"], "i64"),
    ("type", &["float", "float32", "real", "single", "ieee754", "fp32"], "f32"),
    ("type", &["double", "float64", "lreal", "fp64"], "f64"),
    ("type", &["string", "str", "ascii", "utf8", "char"], "text"),
    ("order", &["abcd", "big", "big-endian", "be", "msw first", "msw-first"], "high-first"),
    ("order", &["cdab", "lsw first", "lsw-first", "word-swapped", "little-endian words"], "low-first"),
    ("order", &["badc", "byte-swapped"], "high-first-swapped"),
    ("order", &["dcba", "little", "little-endian", "le"], "low-first-swapped"),
];

/// Units of sheets: the one in which a quantity is kept, and the factor to it.
const UNITS: &[(&str, &str, &str)] = &[
    ("w", "kw", "0.001"),
    ("var", "kvar", "0.001"),
    ("va", "kva", "0.001"),
    ("wh", "kwh", "0.001"),
    ("varh", "kvarh", "0.001"),
    ("vah", "kvah", "0.001"),
    ("mw", "kw", "1000"),
    ("mwh", "kwh", "1000"),
    ("mv", "v", "0.001"),
    ("kv", "v", "1000"),
    ("ma", "a", "0.001"),
    ("ka", "a", "1000"),
    ("mhz", "hz", "0.001"),
    ("pf", "factor", "1"),
    ("cosphi", "factor", "1"),
];

/// The name that this key has for a word of a sheet, if it is one of `known`.
pub fn name<'k>(key: &str, value: &toml::Value, known: &[&'k str]) -> Option<&'k str> {
    let text = match value {
        toml::Value::String(text) => text.trim().to_lowercase(),
        toml::Value::Integer(number) => number.to_string(),
        _ => return None,
    };
    let (.., meant) = WORDS.iter().find(|(of, words, _)| *of == key && words.contains(&text.as_str()))?;
    known.iter().copied().find(|name| name == meant)
}

/// How to write what is no name of a quantity.
pub fn quantity(name: &str) -> String {
    const EXAMPLES: &str = "name it like power_kw, voltage_l1_v, energy_import_kwh";
    let plain = name.trim().to_lowercase().replace([' ', '-', '.'], "_");
    if plain.parse::<Quantity>().is_ok() {
        return format!("name it {plain}");
    }
    let Some((what, unit)) = plain.rsplit_once('_') else { return EXAMPLES.to_owned() };
    let Some((_, ours, factor)) = UNITS.iter().find(|(theirs, ..)| *theirs == unit) else { return EXAMPLES.to_owned() };
    match (format!("{what}_{ours}"), *factor) {
        (name, _) if name.parse::<Quantity>().is_err() => EXAMPLES.to_owned(),
        (name, "1") => format!("name it {name}"),
        (name, factor) => format!("name it {name}, and multiply its scale by {factor}"),
    }
}

/// How to write a number that is no register address and no count.
pub fn number(key: &str, value: &toml::Value) -> String {
    const CORRECT: &str = "correct the number";
    match value {
        toml::Value::String(text) => {
            let text = text.trim();
            let digits = text.strip_prefix("0x").unwrap_or(text);
            let prefix = if digits.chars().all(|c| c.is_ascii_digit()) && digits == text { "" } else { "0x" };
            match u16::from_str_radix(digits, 16) {
                Ok(_) => format!("write it without quotes: {prefix}{digits}"),
                Err(_) => CORRECT.to_owned(),
            }
        }
        toml::Value::Integer(number) if key == "address" => match *number {
            300_001..=365_536 => format!("on sheets, 3xxxxx is address {} of function \"input\"", number - 300_001),
            400_001..=465_536 => format!("on sheets, 4xxxxx is address {} of function \"holding\"", number - 400_001),
            _ => CORRECT.to_owned(),
        },
        _ => CORRECT.to_owned(),
    }
}

/// How to write what is no raw word.
pub fn raw(value: &toml::Value, kind: Option<Kind>) -> String {
    match value {
        toml::Value::Integer(number) => {
            let bits = kind.map_or(64, |kind| u32::from(kind.width()) * 16);
            let words = u64::from_be_bytes(number.to_be_bytes()) & (u64::MAX >> (64 - bits));
            let quote = if bits == 64 { "\"" } else { "" };
            format!("write the words as the meter sends them: {quote}{words:#X}{quote}").replace("0X", "0x")
        }
        toml::Value::String(text) if u64::from_str_radix(text, 16).is_ok() => format!("write \"0x{text}\""),
        _ => "write 65535, 0xFFFF or, beyond 63 bits, \"0xFFFFFFFFFFFFFFFF\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> toml::Value {
        format!("v = {text}").parse::<toml::Table>().unwrap().remove("v").unwrap()
    }

    #[test]
    fn the_words_of_sheets_are_known() {
        let functions = ["holding", "input"];
        assert_eq!(name("function", &value("3"), &functions), Some("holding"));
        assert_eq!(name("function", &value("\"FC04\""), &functions), Some("input"));
        assert_eq!(name("type", &value("\"Float32\""), &["u16", "f32"]), Some("f32"));
        assert_eq!(name("type", &value("\"string\""), &["u16", "f32"]), None, "a register map has no text");
        assert_eq!(name("order", &value("\"CDAB\""), &["high-first", "low-first"]), Some("low-first"));
        assert_eq!(name("order", &value("true"), &["high-first"]), None);
    }

    #[test]
    fn every_word_means_a_name_of_its_own_key_and_every_unit_a_known_one() {
        let mut seen = std::collections::BTreeSet::new();
        for (key, words, _) in WORDS {
            assert!(words.iter().all(|word| seen.insert((key, word))), "{key}: a word twice in {words:?}");
            assert!(words.iter().all(|word| *word == word.to_lowercase()), "{words:?}");
        }
        for (theirs, ours, _) in UNITS {
            assert!(format!("x_{ours}").parse::<Quantity>().is_ok(), "{ours}");
            assert!(format!("x_{theirs}").parse::<Quantity>().is_err(), "{theirs} is one of ours");
        }
    }

    #[test]
    fn a_unit_of_a_sheet_becomes_ours_with_its_factor() {
        assert_eq!(quantity("Power_kW"), "name it power_kw");
        assert_eq!(quantity("power_w"), "name it power_kw, and multiply its scale by 0.001");
        assert_eq!(quantity("Energy Import MWh"), "name it energy_import_kwh, and multiply its scale by 1000");
        assert_eq!(quantity("l1_pf"), "name it l1_factor");
        for strange in ["voltage", "", "_w", "power_x", "é_w"] {
            assert!(quantity(strange).starts_with("name it like"), "{strange}: {}", quantity(strange));
        }
    }

    #[test]
    fn numbers_of_sheets_become_addresses_and_words() {
        assert_eq!(number("address", &value("300053")), "on sheets, 3xxxxx is address 52 of function \"input\"");
        assert_eq!(number("address", &value("400001")), "on sheets, 4xxxxx is address 0 of function \"holding\"");
        assert_eq!(number("max_registers", &value("300053")), "correct the number");
        assert_eq!(number("address", &value("\"0x34\"")), "write it without quotes: 0x34");
        assert_eq!(number("address", &value("\"5B00\"")), "write it without quotes: 0x5B00");
        assert_eq!(number("address", &value("\"52\"")), "write it without quotes: 52");
        assert_eq!(number("address", &value("\"first\"")), "correct the number");
        assert_eq!(raw(&value("-32768"), Some(Kind::I16)), "write the words as the meter sends them: 0x8000");
        assert_eq!(
            raw(&value("-1"), Some(Kind::I64)),
            "write the words as the meter sends them: \"0xFFFFFFFFFFFFFFFF\""
        );
        assert_eq!(raw(&value("\"FFFF\""), None), "write \"0xFFFF\"");
        assert_eq!(raw(&value("\"none\""), None), "write 65535, 0xFFFF or, beyond 63 bits, \"0xFFFFFFFFFFFFFFFF\"");
    }
}
