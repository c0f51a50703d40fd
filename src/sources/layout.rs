//! What a configured meter's registers mean as quantities: ratios, direction, category.

use crate::model::{Category, Layout, Quantity, Ratio, Setup, Slot, Unit};
use crate::sources::template::{self, Positive, Register, Template};
use crate::sources::{Line, MeterConfig};

/// A ratio times a scale is too long a fraction to be exact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{quantity}: its scale {scale} times the ratios of the transformers is no fraction of two numbers of 31 bits")]
pub struct RatioTooFine {
    pub quantity: Quantity,
    pub scale: Ratio,
}

/// The layout of all readings of `meter`: one slot for each register of its template, in the template's order.
pub fn layout(meter: &MeterConfig, simulated: bool) -> Result<Layout, RatioTooFine> {
    let template = &*meter.template;
    let slots = template.registers.iter().map(|register| slot(meter, template, register));
    Ok(Layout {
        meter: meter.id.clone(),
        category: meter.category,
        interval_ms: u32::try_from(meter.interval.as_millis()).ok(),
        template: Some(template.digest),
        simulated,
        slots: slots.collect::<Result<_, _>>()?,
    })
}

/// What the config says of `meter`, for its commissioning record. Registers that stand in the config itself bear the
/// meter's own id as their name.
pub fn setup(line: &Line, meter: &MeterConfig) -> Setup {
    let template = &*meter.template;
    Setup {
        line: line.name.clone(),
        wire: line.wire.to_string(),
        unit: meter.unit,
        template: (template.name != meter.id.as_str()).then(|| template.name.clone()),
        template_sha256: template.digest,
        ct_ratio: meter.ct_ratio,
        vt_ratio: meter.vt_ratio,
        invert: meter.invert,
        category: meter.category,
    }
}

/// How a meter is mounted: what turns its own numbers into the plant's.
#[derive(Clone, Copy, Debug)]
pub struct Mounting {
    pub category: Category,
    pub ct_ratio: Ratio,
    pub vt_ratio: Ratio,
    /// Its transformers are mounted the other way round.
    pub invert: bool,
}

/// The slot of a quantity that a meter publishes, positive for import; `scale` leads to the quantity's unit.
pub fn published(mounting: &Mounting, quantity: &Quantity, scale: Ratio) -> Result<Slot, RatioTooFine> {
    let (ct, vt) = template::scaled_by(quantity.unit());
    mounting.slot(quantity, scale, (ct, vt), Positive::Import, None)
}

fn slot(meter: &MeterConfig, template: &Template, register: &Register) -> Result<Slot, RatioTooFine> {
    let MeterConfig { category, ct_ratio, vt_ratio, invert, .. } = *meter;
    let mounting = Mounting { category, ct_ratio, vt_ratio, invert };
    let by = (register.ct && !template.applies_ratios, register.vt && !template.applies_ratios);
    mounting.slot(&register.quantity, register.scale, by, register.positive, end(register))
}

/// The number after which the register begins again, as its numbers are kept.
fn end(register: &Register) -> Option<u64> {
    match register.in_model.and_then(|model| model.scale_factor) {
        None => register.rolls_over_at,
        Some(factor) => factor.end(register.rolls_over_at?),
    }
}

impl Mounting {
    fn slot(
        &self,
        quantity: &Quantity,
        scale: Ratio,
        (ct, vt): (bool, bool),
        positive: Positive,
        rolls_over_at: Option<u64>,
    ) -> Result<Slot, RatioTooFine> {
        let factors = [
            ct.then_some(self.ct_ratio),
            vt.then_some(self.vt_ratio),
            self.negates(quantity.unit(), positive).then_some(Ratio::MINUS_ONE),
        ];
        let too_fine = || RatioTooFine { quantity: quantity.clone(), scale };
        let scale = factors.into_iter().flatten().try_fold(scale, Ratio::times).ok_or_else(too_fine)?;
        let quantity = if self.invert { quantity.swapped() } else { quantity.clone() };
        Ok(Slot { quantity, scale, rolls_over_at, interval: None })
    }

    /// Active power is positive as the category names it: import for CONS and STOR, export for PROD and INJ. Reactive
    /// power keeps the meter's own sign, but transformers mounted the other way round turn it as well.
    fn negates(&self, unit: Unit, positive: Positive) -> bool {
        match unit {
            Unit::Kilowatts => {
                let reads_import = (positive == Positive::Import) != self.invert;
                reads_import != self.category.counts_import()
            }
            Unit::Kilovars => self.invert,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::model::{Category, Number};
    use crate::sources::template;

    fn meter(category: Category, invert: bool, map: &str) -> MeterConfig {
        let table: toml::Table = map.parse().unwrap();
        MeterConfig {
            id: "m".parse().unwrap(),
            unit: 1,
            device: 1,
            template: Arc::new(template::from_value("own", &table).unwrap()),
            category,
            interval: Duration::from_secs(1),
            ct_ratio: Ratio::ONE,
            vt_ratio: Ratio::ONE,
            invert,
        }
    }

    const MAP: &str = r#"
        function = "input"
        type = "f32"
        power_kw = { address = 0, scale = 0.001 }
        reactive_power_kvar = { address = 2 }
        energy_import_kwh = { address = 4 }
        energy_export_kwh = { address = 6 }
    "#;

    /// What 1000 W in import direction, and the import register, come out as.
    fn seen(category: Category, invert: bool, map: &str) -> (f64, String) {
        let layout = layout(&meter(category, invert, map), false).unwrap();
        let power = layout.slots[0].scale.display(Number::F32(1000.0));
        (power, layout.slots[2].quantity.to_string())
    }

    #[test]
    fn power_is_positive_as_the_category_names_it_and_energy_keeps_the_registers_direction() {
        let import = "energy_import_kwh".to_owned();
        let export = "energy_export_kwh".to_owned();
        for (category, sign) in
            [(Category::Cons, 1.0), (Category::Stor, 1.0), (Category::Prod, -1.0), (Category::Inj, -1.0)]
        {
            assert_eq!(seen(category, false, MAP), (sign, import.clone()), "{category}");
            assert_eq!(seen(category, true, MAP), (-sign, export.clone()), "{category} inverted");
        }
        let export_meter = MAP.replace("scale = 0.001", r#"scale = 0.001, positive = "export""#);
        assert_eq!(seen(Category::Prod, false, &export_meter), (1.0, import.clone()));
        assert_eq!(seen(Category::Cons, false, &export_meter), (-1.0, import));
    }

    #[test]
    fn reactive_power_turns_with_the_transformers_only() {
        let sign = |category, invert| layout(&meter(category, invert, MAP), false).unwrap().slots[1].scale;
        assert_eq!(sign(Category::Prod, false), Ratio::ONE);
        assert_eq!(sign(Category::Cons, true), Ratio::MINUS_ONE);
    }

    #[test]
    fn ratios_are_applied_where_the_meter_does_not_and_only_where_they_belong() {
        let scales = |applies: bool| {
            let map = format!(
                "function = \"input\"\ntype = \"f32\"\napplies_ratios = {applies}\nvoltage_v = {{ address = 0 }}\n\
                 current_a = {{ address = 2 }}\npower_kw = {{ address = 4 }}\nfrequency_hz = {{ address = 6 }}\n\
                 energy_import_kwh = {{ address = 8, vt = false }}\n"
            );
            let mut meter = meter(Category::Cons, false, &map);
            meter.ct_ratio = Ratio::parse("200/5").unwrap();
            meter.vt_ratio = Ratio::parse("11000/110").unwrap();
            let slots = layout(&meter, false).unwrap().slots;
            slots.iter().map(|slot| slot.scale.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(scales(false), ["100/1", "40/1", "4000/1", "1/1", "40/1"]);
        assert_eq!(scales(true), ["1/1"; 5]);
    }

    #[test]
    fn a_ratio_that_cannot_be_exact_is_refused() {
        let mut meter = meter(Category::Cons, false, MAP);
        meter.ct_ratio = Ratio::new(2_147_483_647, 2_147_483_629).unwrap();
        assert_eq!(layout(&meter, false).unwrap_err().quantity.as_str(), "power_kw");
    }
}
