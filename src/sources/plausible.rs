//! Whether numbers can be what a meter on the grid shows. A wrong register map or a wrong order of words gives numbers,
//! too; they are just not near 50 or 60 Hz, nor near any nominal voltage.

use super::modbus::number_in;
use super::template::{Kind, Register, Template, WordOrder};
use crate::model::Unit;

/// How many values speak for the map that gave them, and how many against it. All others say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plausibility {
    pub hits: usize,
    pub misses: usize,
}

impl Plausibility {
    /// More speaks for the map than against it.
    pub fn holds(self) -> bool {
        self.hits > self.misses
    }
}

/// An order of words in which values make sense that make none in the template's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Better {
    pub order: WordOrder,
    /// A value that shows it: its place in the template.
    pub place: usize,
}

/// Judges the values of a template, in its order, as [`values`] gives them.
pub fn of(template: &Template, values: &[Option<f64>]) -> Plausibility {
    let mut plausibility = Plausibility::default();
    for (register, value) in template.registers.iter().zip(values) {
        match value.and_then(|value| judge(register, value)) {
            Some(true) => plausibility.hits += 1,
            Some(false) => plausibility.misses += 1,
            None => {}
        }
    }
    plausibility
}

/// What the words of each register say, in the unit of its quantity and as the meter gives it, without the ratios and
/// signs of a config: in the template's own order of words, or were all of them in another.
pub fn values(template: &Template, words: &[&[u16]], order: Option<WordOrder>) -> Vec<Option<f64>> {
    let value = |(register, words): (&Register, &&[u16])| {
        let number = number_in(order.unwrap_or(register.order), register, words);
        number.ok().map(|number| register.scale.display(number))
    };
    template.registers.iter().zip(words).map(value).collect()
}

/// Another order of words in which what a meter said makes sense, when it makes none in the template's own.
pub fn better_order(template: &Template, words: &[&[u16]]) -> Option<Better> {
    let own = values(template, words, None);
    let now = of(template, &own);
    if now.misses == 0 || now.holds() {
        return None;
    }
    let others = WordOrder::ALL.into_iter().map(|order| {
        let values = values(template, words, Some(order));
        (of(template, &values), order, values)
    });
    let sensible = others.filter(|(plausibility, ..)| plausibility.holds() && plausibility.hits > now.hits);
    let (_, order, values) = sensible.max_by_key(|(plausibility, ..)| plausibility.hits - plausibility.misses)?;
    let says = |place: usize, values: &[Option<f64>]| values[place].and_then(|v| judge(&template.registers[place], v));
    let place = (0..values.len()).find(|place| says(*place, &own) != Some(true) && says(*place, &values) == Some(true));
    place.map(|place| Better { order, place })
}

/// Whether a value speaks for its map or against it; `None` for one that may as well be either. A value of 0 is such a
/// one: a phase that is off reads 0 in any order.
pub fn judge(register: &Register, value: f64) -> Option<bool> {
    if value == 0.0 {
        return None;
    }
    let size = value.abs();
    let name = register.quantity.as_str();
    match register.quantity.unit() {
        Unit::Hertz => Some((45.0..=65.0).contains(&value)),
        // From a phase to neutral, or between two phases; a quantity that does not say which may be either. Behind
        // voltage transformers 58 V are a phase's on the secondary side, and on the primary one it may be thousands.
        Unit::Volts if name.starts_with("voltage") => {
            let phases = name.split('_').filter(|part| ["l1", "l2", "l3"].contains(part)).count();
            let nominal = if phases == 1 { 55.0..=300.0 } else { 80.0..=600.0 };
            if (1e3..=5e5).contains(&value) { None } else { Some(nominal.contains(&value)) }
        }
        // Next to no load has next to no power factor.
        Unit::One if name.ends_with("_factor") => match size {
            size if size > 1.0 => Some(false),
            size if size >= 0.05 => Some(true),
            _ => tiny(register, size),
        },
        unit => match most(unit) {
            Some(most) if size > most => Some(false),
            _ => tiny(register, size),
        },
    }
}

/// A float this close to 0, and not 0, is some other number's bits.
fn tiny(register: &Register, size: f64) -> Option<bool> {
    (matches!(register.kind, Kind::F32 | Kind::F64) && size < 1e-9).then_some(false)
}

/// More than any meter shows.
fn most(unit: Unit) -> Option<f64> {
    match unit {
        Unit::Kilowatts | Unit::Kilovars | Unit::KilovoltAmperes => Some(1e7),
        Unit::KilowattHours | Unit::KilovarHours | Unit::KilovoltAmpereHours => Some(1e13),
        Unit::Volts | Unit::Amperes => Some(1e6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::template;

    const MAP: &str = r#"
        function = "input"
        type = "f32"
        voltage_l1_v = { address = 0 }
        voltage_l1_l2_v = { address = 2 }
        power_kw = { address = 4, scale = 0.001 }
        power_factor = { address = 6 }
        frequency_hz = { address = 8 }
        energy_import_kwh = { address = 10 }
    "#;

    fn map(text: &str) -> Template {
        template::from_value("own", &text.parse().unwrap()).unwrap()
    }

    fn judged(values: [f64; 6]) -> (usize, usize) {
        let Plausibility { hits, misses } = of(&map(MAP), &values.map(Some));
        (hits, misses)
    }

    #[test]
    fn frequency_voltage_and_power_factor_speak_for_a_map_and_odd_sizes_against_it() {
        assert_eq!(judged([230.1, 398.7, 2.8, 0.97, 50.01, 18_934.5]), (4, 0));
        assert_eq!(judged([120.0, 208.0, -2.8, -0.5, 59.9, 1e12]), (4, 0));
        assert_eq!(judged([398.7, 1e6, 2e7, 1.2, 46_000.0, 1e14]), (0, 6));
        assert_eq!(judged([57.7, 100.0, 2.8, 0.97, 50.01, 18_934.5]), (4, 0), "secondary side");
        assert_eq!(judged([11_547.0, 20_000.0, 9e3, 0.97, 50.01, 1e9]), (2, 0), "primary side");
        assert_eq!(judged([1e-38, 1e30, 1e-38, 1e-38, 1e-38, 1e-38]), (0, 6));
    }

    #[test]
    fn what_is_0_or_absent_says_nothing() {
        assert_eq!(judged([0.0; 6]), (0, 0));
        assert_eq!(of(&map(MAP), &[None; 6]), Plausibility::default());
        assert_eq!(judged([0.0, 0.0, 0.0, 0.01, 0.0, 0.0]), (0, 0), "next to no load");
    }

    /// What a meter sends whose bytes lie in `order`.
    fn sent(numbers: [f32; 6], order: WordOrder) -> Vec<Vec<u16>> {
        let words = |number: f32| {
            let mut bytes = number.to_be_bytes();
            if order.begins_low() {
                bytes.rotate_left(2);
            }
            if order.swaps_bytes() {
                bytes = [bytes[1], bytes[0], bytes[3], bytes[2]];
            }
            vec![u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])]
        };
        numbers.map(words).to_vec()
    }

    fn found(map: &Template, words: &[Vec<u16>]) -> Option<Better> {
        better_order(map, &words.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn the_order_that_a_meter_uses_is_found_whatever_the_map_says() {
        let numbers = [230.1, 398.7, 2800.5, 0.97, 50.01, 18_934.5];
        for written in WordOrder::ALL {
            let map = map(&MAP.replace("\"f32\"", &format!("\"f32\"\norder = \"{}\"", written.name())));
            for used in WordOrder::ALL {
                let better = found(&map, &sent(numbers, used));
                let expected = (used != written).then_some(Better { order: used, place: 0 });
                assert_eq!(better, expected, "written {written:?}, used {used:?}");
            }
        }
    }

    #[test]
    fn an_order_is_not_doubted_where_the_values_make_sense_or_none_would() {
        // Behind voltage transformers: the voltages are those of the primary side.
        let medium = sent([11_547.0, 20_000.0, 9e6, 0.97, 50.01, 1e9], WordOrder::HighFirst);
        assert_eq!(found(&map(MAP), &medium), None);
        let off = sent([0.0, 0.0, 0.0, 0.0, 0.0, 18_934.5], WordOrder::HighFirst);
        assert_eq!(found(&map(MAP), &off), None);
        let of_another_map = sent([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], WordOrder::HighFirst);
        assert_eq!(found(&map(MAP), &of_another_map), None);
        assert_eq!(found(&map(MAP), &[]), None);
    }

    #[test]
    fn whole_numbers_are_judged_the_same_way() {
        let text = r#"
            function = "input"
            type = "i32"
            voltage_l1_v = { address = 0, scale = 0.1 }
            power_kw = { address = 2, scale = 0.0001 }
            frequency_hz = { address = 4, type = "u16", scale = 0.1 }
            voltage_l2_v = { address = 6, scale = 0.1 }
        "#;
        // A meter that sends the low word first; its frequency takes one word and is right in either order.
        let words = [vec![2301, 0], vec![0x92BF, 0xFFFF], vec![500], vec![2314, 0]];
        assert_eq!(found(&map(text), &words), Some(Better { order: WordOrder::LowFirst, place: 0 }));
    }
}
