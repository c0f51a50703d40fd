//! From the text of a template to a checked map: every fault at once.

use std::collections::BTreeMap;

use super::identity::{self, IdentityRegister};
use super::meant;
use super::{
    ADDRESSES, Fault, Function, Kind, MOST_REGISTERS, MOST_VALUES, Positive, Register, Template, WordOrder, canonical,
};
use crate::model::{Digest, Quantity, Ratio, Unit};

/// Reads a template file; `name` is the file's name without `.toml`. Tells every fault at once.
pub fn parse(name: &str, text: &str) -> Result<Template, Vec<Fault>> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let why = error.message().to_owned();
            return Err(vec![Fault {
                key: String::new(),
                why,
                mend: "write it as TOML: texts in quotes, decimals with a point, each name once".to_owned(),
            }]);
        }
    };
    let mut faults = Faults::default();
    let title = faults.text(&table, "", "title");
    let evidence = faults.text(&table, "", "evidence");
    let verified = faults.flag(&table, "", "verified").unwrap_or(false);
    faults.unknown(&table, "", &["title", "evidence", "verified", "quirks", "identity", "registers", "sunspec"]);
    let sunspec = faults.table(&table, "sunspec", false).map(|section| faults.sunspec(section));
    let quirks = faults.quirks(&table, sunspec.is_some());
    let identity = faults.table(&table, "identity", false).map(|table| identity::read(&mut faults, table));
    let map = match sunspec {
        None => faults.table(&table, "registers", true).map(|map| faults.map(map, "registers")),
        Some(map) => {
            for key in ["registers", "identity"].into_iter().filter(|key| table.contains_key(*key)) {
                faults.add(key, "a SunSpec device says this itself", format!("take [{key}] or [sunspec] out"));
            }
            Some(map)
        }
    };
    let Some(map) = map.filter(|_| faults.list.is_empty()) else {
        return Err(faults.list);
    };
    let identity = identity.unwrap_or_default();
    Ok(template(name, Wording { title, evidence, verified }, quirks, identity, map))
}

/// Reads `[modbus.meter.registers]`, a map that the plant wrote itself: the same as `registers` of a template file.
pub fn from_value(name: &str, table: &toml::Table) -> Result<Template, Vec<Fault>> {
    let mut faults = Faults::default();
    let map = faults.map(table, "");
    if !faults.list.is_empty() {
        return Err(faults.list);
    }
    let wording = Wording { title: name.to_owned(), evidence: "written by the plant".to_owned(), verified: false };
    Ok(template(name, wording, BTreeMap::new(), Vec::new(), map))
}

/// Oddities of SunSpec devices that the program knows of; `docs/templates.md` says what they are.
const SUNSPEC_QUIRKS: &[&str] =
    &["battery_power_reversed", "meter_power_reversed", "missing_scale_factor_is_zero", "power_factor_in_percent"];

/// Keys of a register map beside its quantities. None of them ends in a unit, so none can be taken for a quantity.
const SETTINGS: &[&str] = &["function", "type", "order", "max_registers", "max_hole", "applies_ratios"];

const REGISTER_KEYS: &[&str] =
    &["address", "function", "type", "order", "scale", "absent", "rolls_over_at", "ct", "vt", "positive"];
/// The register map of a template, checked.
struct Map {
    max_registers: u16,
    max_hole: u16,
    applies_ratios: bool,
    sunspec: bool,
    registers: Vec<Register>,
}
/// What a template says of itself, for people.
struct Wording {
    title: String,
    evidence: String,
    verified: bool,
}

fn template(
    name: &str,
    wording: Wording,
    quirks: BTreeMap<String, bool>,
    identity: Vec<IdentityRegister>,
    map: Map,
) -> Template {
    let Wording { title, evidence, verified } = wording;
    let Map { max_registers, max_hole, applies_ratios, sunspec, registers } = map;
    let mut template = Template {
        name: name.to_owned(),
        title,
        evidence,
        verified,
        digest: Digest::of(b""),
        max_registers,
        max_hole,
        applies_ratios,
        quirks,
        sunspec,
        identity,
        registers,
    };
    template.digest = Digest::of(&canonical(&template));
    template
}
/// The faults found so far, and the ways to read a key that may add one.
#[derive(Default)]
pub(super) struct Faults {
    pub list: Vec<Fault>,
}

impl Faults {
    pub fn add(&mut self, key: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) {
        self.list.push(Fault { key: key.into(), why: why.into(), mend: mend.into() });
    }

    pub fn unknown(&mut self, table: &toml::Table, below: &str, known: &[&str]) {
        for (key, value) in table.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            let mend = match nearest(key, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None if below.is_empty() && belongs_below(key, value) => "put it below [registers]".to_owned(),
                None if known.is_empty() => "take it out".to_owned(),
                None => format!("known are {}", known.join(", ")),
            };
            self.add(path(below, key), "unknown key", mend);
        }
    }

    fn text(&mut self, table: &toml::Table, below: &str, key: &str) -> String {
        match table.get(key) {
            Some(toml::Value::String(text)) if !text.trim().is_empty() => text.trim().to_owned(),
            Some(_) => {
                self.add(path(below, key), "not a text", "write some words in quotes");
                String::new()
            }
            None => {
                self.add(path(below, key), "missing", format!("add `{key} = \"…\"`"));
                String::new()
            }
        }
    }

    fn flag(&mut self, table: &toml::Table, below: &str, key: &str) -> Option<bool> {
        match table.get(key)? {
            toml::Value::Boolean(flag) => Some(*flag),
            other => {
                self.add(path(below, key), format!("{other} is neither true nor false"), "write true or false");
                None
            }
        }
    }

    fn table<'t>(&mut self, table: &'t toml::Table, key: &str, needed: bool) -> Option<&'t toml::Table> {
        match table.get(key) {
            Some(toml::Value::Table(inner)) => Some(inner),
            Some(_) => {
                self.add(key, "not a table", format!("write it as [{key}]"));
                None
            }
            None if needed => {
                self.add(key, "missing", format!("add [{key}]"));
                None
            }
            None => None,
        }
    }

    pub fn choice<T: Copy>(
        &mut self,
        table: &toml::Table,
        below: &str,
        key: &str,
        names: &[(&'static str, T)],
    ) -> Option<T> {
        let value = table.get(key)?;
        let found = value.as_str().and_then(|text| names.iter().find(|(name, _)| *name == text));
        if found.is_none() {
            let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            let near = || value.as_str().and_then(|text| nearest(text, &known));
            let mend = match meant::name(key, value, &known).or_else(near) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("one of \"{}\"", known.join("\", \"")),
            };
            self.add(path(below, key), format!("unknown {key} {value}"), mend);
        }
        found.map(|(_, choice)| *choice)
    }

    pub fn whole(&mut self, table: &toml::Table, below: &str, key: &str, least: u16, most: u16) -> Option<u16> {
        let value = table.get(key)?;
        let number = value.as_integer().and_then(|number| u16::try_from(number).ok());
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let why = format!("{value} is not a whole number from {least} to {most}");
            self.add(path(below, key), why, meant::number(key, value));
        }
        number
    }

    /// A whole number of up to 64 bits: an integer, or a text such as "0xFFFFFFFFFFFFFFFF", as TOML has 63 bits only.
    pub fn wide(&mut self, value: &toml::Value, at: &str, kind: Option<Kind>) -> Option<u64> {
        let number = match value {
            toml::Value::Integer(number) => u64::try_from(*number).ok(),
            toml::Value::String(text) => match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            },
            _ => None,
        };
        if number.is_none() {
            self.add(at, format!("{value} is not a whole number of up to 64 bits"), meant::raw(value, kind));
        }
        number
    }

    fn map(&mut self, table: &toml::Table, below: &str) -> Map {
        let max_registers = self.whole(table, below, "max_registers", 1, MOST_REGISTERS).unwrap_or(MOST_REGISTERS);
        let defaults = Defaults {
            function: self.choice(table, below, "function", Function::NAMES),
            kind: self.choice(table, below, "type", Kind::NAMES),
            order: self.choice(table, below, "order", WordOrder::NAMES).unwrap_or(WordOrder::HighFirst),
            max_registers,
        };
        let max_hole = self.whole(table, below, "max_hole", 0, MOST_REGISTERS - 1).unwrap_or(0);
        let applies_ratios = self.flag(table, below, "applies_ratios").unwrap_or(false);
        let mut registers = Vec::new();
        let mut count = 0;
        for (key, value) in table.iter().filter(|(key, _)| !SETTINGS.contains(&key.as_str())) {
            let at = path(below, key);
            let toml::Value::Table(entry) = value else {
                match nearest(key, SETTINGS) {
                    Some(near) => self.add(at, "unknown key", format!("did you mean `{near}`?")),
                    None => self.add(at, "not a register", "write `power_kw = { address = 52, … }`"),
                }
                continue;
            };
            count += 1;
            registers.extend(self.register(key, entry, &at, &defaults));
        }
        if count == 0 {
            self.add(below, "no registers", "add at least one, such as `power_kw = { address = 52, type = \"f32\" }`");
        }
        if count > MOST_VALUES {
            let mend = "split it into two meters of the same unit";
            self.add(below, format!("{count} values, and one meter has at most {MOST_VALUES}"), mend);
        }
        registers.sort_by_key(|register| (register.function, register.address));
        self.overlaps(&registers, below);
        Map { max_registers, max_hole, applies_ratios, sunspec: false, registers }
    }

    /// `[sunspec]`: a device that says itself what its registers hold, in primary values.
    fn sunspec(&mut self, section: &toml::Table) -> Map {
        self.unknown(section, "sunspec", &["max_registers"]);
        let max_registers = self.whole(section, "sunspec", "max_registers", 1, MOST_REGISTERS);
        let max_registers = max_registers.unwrap_or(MOST_REGISTERS);
        Map { max_registers, max_hole: 0, applies_ratios: true, sunspec: true, registers: Vec::new() }
    }

    fn quirks(&mut self, table: &toml::Table, sunspec: bool) -> BTreeMap<String, bool> {
        let mut quirks = BTreeMap::new();
        let Some(named) = self.table(table, "quirks", false) else { return quirks };
        for key in named.keys() {
            if let Some(on) = self.flag(named, "quirks", key) {
                quirks.insert(key.clone(), on);
            }
            if !sunspec {
                let is_known = SUNSPEC_QUIRKS.contains(&key.as_str());
                let why = if is_known { "is a quirk of SunSpec devices" } else { "unknown key" };
                self.add(path("quirks", key), why, "take it out");
            }
        }
        if sunspec {
            self.unknown(named, "quirks", SUNSPEC_QUIRKS);
        }
        quirks
    }

    fn register(&mut self, name: &str, entry: &toml::Table, at: &str, defaults: &Defaults) -> Option<Register> {
        let before = self.list.len();
        let quantity: Option<Quantity> = match name.parse() {
            Ok(quantity) => Some(quantity),
            Err(error) => {
                self.add(at, error.to_string(), meant::quantity(name));
                None
            }
        };
        self.unknown(entry, at, REGISTER_KEYS);
        let address = self.whole(entry, at, "address", 0, u16::MAX);
        if !entry.contains_key("address") {
            self.add(path(at, "address"), "missing", "add the zero-based protocol address");
        }
        let function = self.choice(entry, at, "function", Function::NAMES).or(defaults.function);
        if function.is_none() && !entry.contains_key("function") {
            self.add(path(at, "function"), "missing", "add `function = \"holding\"` (03) or `\"input\"` (04)");
        }
        let kind = self.choice(entry, at, "type", Kind::NAMES).or(defaults.kind);
        if kind.is_none() && !entry.contains_key("type") {
            self.add(path(at, "type"), "missing", "add `type`: u16 i16 u32 i32 u64 i64 f32 f64");
        }
        let order = self.choice(entry, at, "order", WordOrder::NAMES).unwrap_or(defaults.order);
        let positive = self.choice(entry, at, "positive", Positive::NAMES).unwrap_or(Positive::Import);
        let scale = self.scale(entry, at);
        let absent = self.absent(entry, at, kind);
        let rolls_over_at = self.rolls_over_at(entry, at, quantity.as_ref(), kind);
        let (by_ct, by_vt) = quantity.as_ref().map_or((false, false), |quantity| scaled_by(quantity.unit()));
        let ct = self.flag(entry, at, "ct").unwrap_or(by_ct);
        let vt = self.flag(entry, at, "vt").unwrap_or(by_vt);
        if let (Some(address), Some(kind)) = (address, kind) {
            if u32::from(address) + u32::from(kind.width()) > ADDRESSES {
                let why = format!("{} registers from {address} on end beyond 65535", kind.width());
                self.add(path(at, "address"), why, "correct the address or the type");
            }
            if kind.width() > defaults.max_registers {
                let why =
                    format!("takes {} registers, and a request may ask for {}", kind.width(), defaults.max_registers);
                self.add(path(at, "type"), why, "raise `max_registers`");
            }
        }
        if self.list.len() > before {
            return None;
        }
        Some(Register {
            quantity: quantity?,
            function: function?,
            address: address?,
            kind: kind?,
            order,
            scale: scale?,
            absent,
            rolls_over_at,
            ct,
            vt,
            positive,
            in_model: None,
        })
    }

    /// A factor, exactly: 1000, 0.001, "1/3".
    fn scale(&mut self, entry: &toml::Table, at: &str) -> Option<Ratio> {
        let Some(value) = entry.get("scale") else {
            return Some(Ratio::ONE);
        };
        let ratio = match value {
            toml::Value::Integer(number) => Ratio::new(*number, 1),
            toml::Value::Float(number) => Ratio::parse(&number.to_string()),
            toml::Value::String(text) => Ratio::parse(text),
            _ => None,
        };
        if ratio.is_none() {
            let mend = "write a decimal that is not zero, such as 0.001, or a fraction such as \"1/3\"";
            self.add(path(at, "scale"), format!("{value} is not a factor"), mend);
        }
        ratio
    }

    fn absent(&mut self, entry: &toml::Table, at: &str, kind: Option<Kind>) -> Vec<u64> {
        let at = path(at, "absent");
        let values = match entry.get("absent") {
            None => return Vec::new(),
            Some(toml::Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let mut absent = Vec::new();
        for value in values {
            let Some(number) = self.wide(value, &at, kind) else { continue };
            let bits = kind.map_or(64, |kind| u32::from(kind.width()) * 16);
            if bits < 64 && number >> bits != 0 {
                self.add(&at, format!("{value} is wider than {bits} bits"), "correct it, or the type");
            }
            absent.push(number);
        }
        absent.sort_unstable();
        absent.dedup();
        absent
    }

    fn rolls_over_at(
        &mut self,
        entry: &toml::Table,
        at: &str,
        quantity: Option<&Quantity>,
        kind: Option<Kind>,
    ) -> Option<u64> {
        let at = path(at, "rolls_over_at");
        let number = self.wide(entry.get("rolls_over_at")?, &at, kind)?;
        if !quantity.is_none_or(|quantity| is_energy(quantity.unit())) {
            self.add(&at, "only an energy counts up and begins again", "take it out");
        }
        let widest = kind.map_or(u128::MAX, |kind| 1_u128 << (u32::from(kind.width()) * 16));
        if number < 2 || u128::from(number) > widest {
            let why = format!("{number} is not a number after which this type begins again at 0");
            self.add(&at, why, "write one more than the greatest raw number, such as 4294967296");
        }
        Some(number)
    }

    fn overlaps(&mut self, sorted: &[Register], below: &str) {
        let mut widest: Option<&Register> = None;
        for register in sorted {
            if let Some(before) = widest
                && before.function == register.function
                && u32::from(register.address) < before.end()
            {
                let why = format!(
                    "register {} belongs to {} already ({} to {})",
                    register.address,
                    before.quantity,
                    before.address,
                    before.end() - 1
                );
                let at = path(&path(below, register.quantity.as_str()), "address");
                self.add(at, why, "correct the address or the type of one of them");
            }
            let reaches_further =
                widest.is_none_or(|before| before.function != register.function || before.end() < register.end());
            if reaches_further {
                widest = Some(register);
            }
        }
    }
}

/// What a register takes from its map when it does not say it itself.
struct Defaults {
    function: Option<Function>,
    kind: Option<Kind>,
    order: WordOrder,
    max_registers: u16,
}

pub(super) fn path(below: &str, key: &str) -> String {
    if below.is_empty() { key.to_owned() } else { format!("{below}.{key}") }
}

/// A register, or what all of them have alike, that stands above its table.
fn belongs_below(key: &str, value: &toml::Value) -> bool {
    SETTINGS.contains(&key) || value.as_table().is_some_and(|entry| entry.contains_key("address"))
}

fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let close = known.iter().map(|name| (strsim::damerau_levenshtein(text, name), *name));
    close.filter(|(far, name)| *far <= 2 && *far < name.len()).min().map(|(_, name)| name)
}

fn is_energy(unit: Unit) -> bool {
    matches!(unit, Unit::KilowattHours | Unit::KilovarHours | Unit::KilovoltAmpereHours)
}

/// Whether a primary value is the secondary one times the ratio of the current transformers, of the voltage ones.
pub fn scaled_by(unit: Unit) -> (bool, bool) {
    match unit {
        Unit::Amperes => (true, false),
        Unit::Volts => (false, true),
        Unit::Kilowatts | Unit::Kilovars | Unit::KilovoltAmperes => (true, true),
        unit if is_energy(unit) => (true, true),
        _ => (false, false),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{canonical, shipped};
    use super::*;

    fn own(text: &str) -> Result<Template, Vec<Fault>> {
        from_value("own", &text.parse().unwrap())
    }

    fn keys(text: &str) -> Vec<String> {
        own(text).unwrap_err().into_iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn every_shipped_template_is_read() {
        for (name, text) in shipped() {
            let template = parse(name, text).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
            let counts = template.registers.iter().any(|register| register.quantity.role().is_some());
            assert!(counts || template.sunspec, "{name}");
            assert!(template.registers.is_sorted_by_key(|register| (register.function, register.address)), "{name}");
        }
    }

    #[test]
    fn every_file_of_the_folder_is_shipped() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/meters");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|file| file.strip_suffix(".toml").map(str::to_owned))
            .collect();
        files.sort();
        assert_eq!(files, shipped().iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_key() {
        let text = r#"
            functoin = "input"
            max_registers = 126
            a_kw = { address = 70000, type = "f32", function = "input" }
            b_kw = { address = 65535, type = "f32", function = "input" }
            c_kw = { address = 10, type = "f33", function = "coil" }
            d_kw = { address = 20, type = "u16", function = "input", scale = 0 }
            e_watts = { address = 22, type = "u16", function = "input" }
            f_kw = { adress = 30, type = "u16", function = "input" }
            g_kw = { address = 40 }
            h_kw = { address = 50, type = "u16", function = "input", absent = [0x10000], rolls_over_at = 65536 }
            i_kw = 12
        "#;
        let mut told = keys(text);
        told.sort();
        assert_eq!(
            told,
            [
                "a_kw.address",
                "b_kw.address",
                "c_kw.function",
                "c_kw.type",
                "d_kw.scale",
                "e_watts",
                "f_kw.address",
                "f_kw.adress",
                "functoin",
                "g_kw.function",
                "g_kw.type",
                "h_kw.absent",
                "h_kw.rolls_over_at",
                "i_kw",
                "max_registers",
            ]
        );
        let faults = own(text).unwrap_err();
        let mend = |key: &str| faults.iter().find(|fault| fault.key == key).unwrap().mend.clone();
        assert_eq!(mend("functoin"), "did you mean `function`?");
        assert_eq!(mend("f_kw.adress"), "did you mean `address`?");
        assert_eq!(mend("c_kw.type"), "did you mean \"f32\"?");
    }

    #[test]
    fn registers_that_overlap_are_named_both() {
        let text = r#"
            type = "u32"
            function = "holding"
            a_kwh = { address = 0, type = "u64" }
            b_kw = { address = 2 }
            c_kw = { address = 3, function = "input" }
            d_kw = { address = 3 }
        "#;
        let faults = own(text).unwrap_err();
        let told: Vec<_> = faults.iter().map(|fault| (fault.key.as_str(), fault.why.as_str())).collect();
        assert_eq!(
            told,
            [
                ("b_kw.address", "register 2 belongs to a_kwh already (0 to 3)"),
                ("d_kw.address", "register 3 belongs to a_kwh already (0 to 3)"),
            ]
        );
    }

    #[test]
    fn a_map_holds_at_least_one_and_at_most_255_values_that_fit_a_request() {
        assert_eq!(keys("type = \"u16\""), [""]);
        let many: String = (0..256)
            .map(|at| format!("x{at}_kw = {{ address = {at}, type = \"u16\", function = \"input\" }}\n"))
            .collect();
        assert_eq!(own(&many).unwrap_err()[0].why, "256 values, and one meter has at most 255");
        let wide = "max_registers = 2\na_kw = { address = 0, type = \"f64\", function = \"input\" }";
        assert_eq!(keys(wide), ["a_kw.type"]);
    }

    #[test]
    fn scales_are_exact() {
        let scale = |text: &str| {
            own(&format!("a_kw = {{ address = 0, type = \"u16\", function = \"input\", scale = {text} }}"))
                .map(|template| template.registers[0].scale.to_string())
        };
        assert_eq!(scale("0.001").unwrap(), "1/1000");
        assert_eq!(scale("1e-7").unwrap(), "1/10000000");
        assert_eq!(scale("100").unwrap(), "100/1");
        assert_eq!(scale("\"1/3\"").unwrap(), "1/3");
        for bad in ["0", "nan", "\"x\"", "true", "1e300"] {
            assert!(scale(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sentinels_of_64_bits_are_written_as_text() {
        let text = "a_kwh = { address = 0, type = \"u64\", function = \"input\", \
                    absent = [\"0xFFFFFFFFFFFFFFFF\", 0], rolls_over_at = \"18446744073709551615\" }";
        let template = own(text).unwrap();
        assert_eq!(template.registers[0].absent, [0, u64::MAX]);
        assert_eq!(template.registers[0].rolls_over_at, Some(u64::MAX));
    }

    #[test]
    fn the_digest_follows_the_map_and_not_the_wording() {
        let text = shipped().iter().find(|(name, _)| *name == "eastron-sdm630").unwrap().1;
        let digest = |text: &str| parse("eastron-sdm630", text).unwrap().digest;
        assert_eq!(digest(text), digest(&text.replace("title = \"Eastron SDM630\"", "title = \"The SDM630\"")));
        assert_ne!(digest(text), digest(&text.replace("0x34, scale = 0.001", "0x34, scale = 0.01")));
        // The digest stands in every sealed block: a change of the canonical form must be meant.
        let own = own("a_kw = { address = 0, type = \"u16\", function = \"input\" }").unwrap();
        assert_eq!(
            String::from_utf8(canonical(&own)).unwrap(),
            concat!(
                r#"{"applies_ratios":false,"max_hole":0,"max_registers":125,"name":"own","quirks":{},"registers":"#,
                r#"[{"absent":[],"address":0,"ct":true,"function":"input","order":"high-first","positive":"import","#,
                r#""quantity":"a_kw","rolls_over_at":null,"scale":"1/1","type":"u16","vt":true}]}"#
            )
        );
    }

    #[test]
    fn a_template_file_says_what_it_rests_on() {
        let faults = parse("x", "verified = 1\ntitel = \"X\"\n[quirks]\nodd = true\n").unwrap_err();
        let mut told: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        told.sort_unstable();
        assert_eq!(told, ["evidence", "quirks.odd", "registers", "titel", "title", "verified"]);
        let torn = parse("x", "title = ").unwrap_err();
        assert_eq!((torn.len(), torn[0].key.as_str()), (1, ""));
    }
}
