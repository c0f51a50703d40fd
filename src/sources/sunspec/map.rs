//! From the models of a device, as they were found, to a register map.

use super::models::{BATTERY, MODELS, Model, Point, PowerFactor};
use super::walk::{Device, Found};
use crate::model::{Quantity, Ratio, Unit};
use crate::sources::template::{Function, InModel, Positive, Register, ScaleFactor, Template, WordOrder};

/// A layout names its values by one byte.
const MOST_VALUES: usize = 255;

/// The registers of `device` under the limits and quirks of `template`: each quantity once, from the model that is
/// preferred among those that have it. What does not fit one request with its scale factor and header is left out.
pub fn registers(device: &Device, template: &Template) -> Vec<Register> {
    let mut registers: Vec<Register> = Vec::new();
    for yielding in [false, true] {
        for model in MODELS {
            // Of several models of one kind, such as two strings of batteries, the first is the device's.
            let Some(found) = device.models.iter().find(|found| model.ids.contains(&found.id)) else { continue };
            for (point, name, start) in points(model, found).filter(|(point, ..)| point.yields == yielding) {
                let register = register(model, found, point, &name, start, template);
                let Some(register) = register else { continue };
                let (from, to) = register.reach();
                let fits = to - u32::from(from) <= u32::from(template.max_registers)
                    && to <= u32::from(found.address) + 2 + u32::from(found.length);
                if fits && registers.iter().all(|other| other.quantity != register.quantity) {
                    registers.push(register);
                }
            }
        }
    }
    registers.sort_by_key(|register| register.address);
    registers.truncate(MOST_VALUES);
    registers
}

/// The points of a model with their names, and the offset that theirs count from.
fn points<'m>(model: &'m Model, found: &Found) -> impl Iterator<Item = (&'m Point, String, u16)> {
    let own = model.points.iter().map(|point| (point, point.quantity.to_owned(), 0));
    let room = found.length.saturating_add(2);
    let parts = model.parts.iter().flat_map(move |parts| {
        let most = room.saturating_sub(parts.first) / parts.length;
        let count = found.parts.map_or(most, |count| count.min(most));
        (0..count).flat_map(move |at| {
            let start = parts.first + at * parts.length;
            parts
                .points
                .iter()
                .map(move |point| (point, point.quantity.replace('#', &(u32::from(at) + 1).to_string()), start))
        })
    });
    own.chain(parts)
}

fn register(
    model: &Model,
    found: &Found,
    point: &Point,
    name: &str,
    start: u16,
    template: &Template,
) -> Option<Register> {
    let quantity: Quantity = name.parse().ok()?;
    let is_on = |quirk: &str| template.quirk(quirk).unwrap_or(false);
    let is_meter = (201..=214).contains(&found.id);
    let is_reversed =
        (is_meter && is_on("meter_power_reversed")) || (found.id == BATTERY && is_on("battery_power_reversed"));
    let positive = match (model.positive, is_reversed) {
        (positive, false) => positive,
        (Positive::Import, true) => Positive::Export,
        (Positive::Export, true) => Positive::Import,
    };
    let missing_is_zero = is_on("missing_scale_factor_is_zero");
    let scale_factor = point.scale_factor.map(|offset| ScaleFactor {
        address: found.address.saturating_add(offset),
        missing_is_zero,
        found: found.accumulators.or(missing_is_zero.then_some(0)).filter(|_| model.accumulators == Some(offset)),
    });
    let in_percent = template.quirk("power_factor_in_percent").unwrap_or(model.power_factor == PowerFactor::Percent);
    let to_unit = match quantity.unit() {
        Unit::KilowattHours | Unit::Kilowatts | Unit::KilovarHours | Unit::Kilovars => Ratio::new(1, 1000),
        Unit::KilovoltAmpereHours | Unit::KilovoltAmperes => Ratio::new(1, 1000),
        Unit::One if in_percent && name.ends_with("_factor") => Ratio::new(1, 100),
        _ => Some(Ratio::ONE),
    };
    let of_kept = if scale_factor.is_some() { ScaleFactor::of_kept() } else { Some(Ratio::ONE) };
    Some(Register {
        quantity,
        function: Function::Holding,
        address: found.address.checked_add(start)?.checked_add(point.offset)?,
        kind: point.form.kind(),
        order: WordOrder::HighFirst,
        scale: to_unit?.times(of_kept?)?,
        absent: point.form.absent(),
        rolls_over_at: point.form.rolls_over_at(),
        ct: false,
        vt: false,
        positive,
        in_model: Some(InModel { header: found.address, id: found.id, length: found.length, scale_factor }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::template;

    fn template(quirks: &str) -> Template {
        let text = format!("title = \"T\"\nevidence = \"made up\"\n[sunspec]\n[quirks]\n{quirks}");
        template::parse("t", &text).unwrap()
    }

    fn device(models: &[(u16, u16)]) -> Device {
        let mut address = 40_002;
        let models = models.iter().map(|(id, length)| {
            let found = Found { id: *id, address, length: *length, accumulators: Some(0), parts: None };
            address += 2 + length;
            found
        });
        Device { models: models.collect(), ..Device::default() }
    }

    fn names(registers: &[Register]) -> Vec<&str> {
        registers.iter().map(|register| register.quantity.as_str()).collect()
    }

    const LENGTHS: [(u16, u16); 21] = [
        (101, 50),
        (102, 50),
        (103, 50),
        (111, 60),
        (112, 60),
        (113, 60),
        (120, 26),
        (160, 8 + 20 * 6),
        (201, 105),
        (202, 105),
        (203, 105),
        (204, 105),
        (211, 124),
        (212, 124),
        (213, 124),
        (214, 124),
        (701, 153),
        (714, 18 + 25 * 4),
        (802, 62),
        (160, 8),
        (714, 18),
    ];

    #[test]
    fn every_point_fits_one_request_with_its_factor_and_its_header() {
        for (id, length) in LENGTHS {
            let registers = registers(&device(&[(id, length)]), &template(""));
            let expected = match (id, length) {
                (101..=113, _) => 23,
                (120, _) | (160, 8) => 0,
                // Six modules of five values; the temperature of the last is beyond 125 registers.
                (160, _) => 29,
                (201..=214, _) => 43,
                (701, _) => 45,
                (714, 18) => 4,
                (714, _) => 4 + 4 * 6,
                (802, _) => 11,
                _ => unreachable!(),
            };
            assert_eq!(registers.len(), expected, "model {id}");
            for register in &registers {
                let (from, to) = register.reach();
                assert!(from == 40_002 && to - 40_002 <= 125 && to <= 40_004 + u32::from(length), "{register:?}");
            }
        }
    }

    #[test]
    fn modules_that_do_not_fit_one_request_with_their_factors_are_left_out() {
        let eight = registers(&device(&[(160, 8 + 20 * 8)]), &template(""));
        assert_eq!(names(&eight).iter().filter(|name| name.ends_with("_power_kw")).count(), 6);
        let short = registers(&device(&[(103, 20)]), &template(""));
        assert_eq!(names(&short).last(), Some(&"reactive_power_kvar"));
        let mut narrow = template("");
        narrow.max_registers = 60;
        for (most, some) in [(122, true), (114, true), (113, false)] {
            narrow.max_registers = most;
            let found = registers(&device(&[(701, 153)]), &narrow).len();
            assert!((found > 0) == some && found < 45, "{found} of model 701 in requests of {most}");
        }
        narrow.max_registers = 60;
        assert_eq!(registers(&device(&[(103, 50)]), &narrow).len(), 23);
    }

    #[test]
    fn a_model_has_as_many_parts_as_it_says_and_as_there_is_room_for() {
        for (says, has) in [(None, 4), (Some(1), 1), (Some(2), 2), (Some(4), 4), (Some(40), 4)] {
            for (id, length) in [(160, 8 + 20 * 4), (714, 18 + 25 * 4)] {
                let mut device = device(&[(id, length)]);
                device.models[0].parts = says;
                let found = registers(&device, &template(""));
                let of_parts = names(&found).iter().filter(|name| name.ends_with("_voltage_v")).count();
                assert_eq!(of_parts, has, "model {id} that says {says:?}");
            }
        }
    }

    #[test]
    fn each_quantity_is_taken_once_from_the_model_that_is_preferred() {
        let taken = |models: &[(u16, u16)], quantity: &str| {
            let registers = registers(&device(models), &template(""));
            let mut all: Vec<_> = names(&registers);
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), registers.len(), "a quantity is there twice");
            let found = registers.iter().find(|register| register.quantity.as_str() == quantity);
            found.and_then(|register| register.in_model).map(|model| model.id)
        };
        let both = [(1, 66), (103, 50), (113, 60), (701, 153), (802, 62)];
        assert_eq!(taken(&both, "power_kw"), Some(701));
        assert_eq!(taken(&both, "energy_export_kwh"), Some(103));
        assert_eq!(taken(&both, "energy_import_kwh"), Some(701));
        assert_eq!(taken(&both, "dc_power_kw"), Some(103));
        assert_eq!(taken(&both, "battery_power_kw"), Some(802));
        assert_eq!(taken(&[(1, 66), (113, 60), (103, 50)], "power_kw"), Some(103));
        assert_eq!(taken(&[(1, 66), (701, 153)], "energy_export_kwh"), Some(701));
        assert_eq!(taken(&[(1, 66), (802, 62)], "power_kw"), Some(802));
        assert_eq!(taken(&[(1, 66), (714, 43), (160, 28)], "dc_1_power_kw"), Some(714));
        assert_eq!(taken(&[(1, 66), (714, 43), (160, 28)], "dc_1_energy_kwh"), Some(160));
    }

    #[test]
    fn quirks_change_what_they_name_and_nothing_else() {
        let models = [(1, 66), (103, 50), (160, 28), (802, 62)];
        let plain = registers(&device(&models), &template(""));
        let reversed = registers(&device(&models), &template("battery_power_reversed = true"));
        for (one, other) in plain.iter().zip(&reversed) {
            let turned = one.in_model.unwrap().id == 802;
            assert_eq!(one.positive != other.positive, turned, "{}", one.quantity);
        }
        assert_eq!(registers(&device(&models), &template("meter_power_reversed = true")), plain);
        let meter = registers(&device(&[(1, 66), (204, 105)]), &template("meter_power_reversed = true"));
        assert!(meter.iter().all(|register| register.positive == Positive::Export));
        let scale = |models: &[(u16, u16)], quirks: &str| {
            let registers = registers(&device(models), &template(quirks));
            registers.iter().find(|register| register.quantity.as_str() == "power_factor").unwrap().scale.to_string()
        };
        assert_eq!(scale(&models, ""), "1/100000000");
        assert_eq!(scale(&models, "power_factor_in_percent = false"), "1/1000000");
        assert_eq!(scale(&[(701, 153)], ""), "1/1000000");
        assert_eq!(scale(&[(213, 124)], ""), "1/1");
        assert_eq!(scale(&[(213, 124)], "power_factor_in_percent = true"), "1/100");
    }

    #[test]
    fn the_digest_is_that_of_the_map_and_not_of_a_factor_that_was_seen() {
        let template = template("");
        let digest = |device: &Device| template.found(registers(device, &template)).digest;
        let one = device(&[(1, 66), (103, 50)]);
        let mut other = one.clone();
        other.models[1].accumulators = None;
        assert_eq!(digest(&one), digest(&other));
        assert_ne!(digest(&one), digest(&device(&[(1, 65), (103, 50)])), "the map has moved");
        assert_ne!(digest(&one), template.digest);
    }
}
