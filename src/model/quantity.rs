//! What is measured. A quantity bears its unit in its name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A measured quantity such as `power_kw`, `voltage_l1_v` or `soc_percent`: lower-case words joined by `_`, the last
/// one the unit. At most 48 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z][a-z0-9_]{0,47}$")]
pub struct Quantity(Arc<str>);

/// The text names no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuantity {
    #[error("`{0}` is not a quantity: lower-case letters, digits and `_`, at most 48, beginning with a letter")]
    Form(String),
    #[error("`{0}` does not end in a unit: one of {known}", known = Unit::NAMES)]
    NoUnit(String),
}

/// What a quantity means to the block rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Role {
    /// `energy_import_kwh`: the cumulative import register.
    Import,
    /// `energy_export_kwh`: the cumulative export register.
    Export,
    /// `power_kw`: total active power, positive as the meter's category names it.
    Power,
}

/// The unit at the end of a quantity's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unit {
    KilowattHours,
    Kilowatts,
    KilovarHours,
    Kilovars,
    KilovoltAmpereHours,
    KilovoltAmperes,
    Volts,
    Amperes,
    Hertz,
    Celsius,
    Percent,
    Degrees,
    Seconds,
    Hours,
    CubicMetres,
    Bar,
    /// A plain number: `power_factor`, `…_ratio`, `…_count`.
    One,
}

impl Unit {
    const NAMES: &'static str = "kwh kw kvarh kvar kvah kva v a hz c percent deg s h m3 bar factor ratio count";

    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "kwh" => Self::KilowattHours,
            "kw" => Self::Kilowatts,
            "kvarh" => Self::KilovarHours,
            "kvar" => Self::Kilovars,
            "kvah" => Self::KilovoltAmpereHours,
            "kva" => Self::KilovoltAmperes,
            "v" => Self::Volts,
            "a" => Self::Amperes,
            "hz" => Self::Hertz,
            "c" => Self::Celsius,
            "percent" => Self::Percent,
            "deg" => Self::Degrees,
            "s" => Self::Seconds,
            "h" => Self::Hours,
            "m3" => Self::CubicMetres,
            "bar" => Self::Bar,
            "factor" | "ratio" | "count" => Self::One,
            _ => return None,
        })
    }

    /// The unit as a person writes it; empty for a plain number.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::KilowattHours => "kWh",
            Self::Kilowatts => "kW",
            Self::KilovarHours => "kvarh",
            Self::Kilovars => "kvar",
            Self::KilovoltAmpereHours => "kVAh",
            Self::KilovoltAmperes => "kVA",
            Self::Volts => "V",
            Self::Amperes => "A",
            Self::Hertz => "Hz",
            Self::Celsius => "°C",
            Self::Percent => "%",
            Self::Degrees => "°",
            Self::Seconds => "s",
            Self::Hours => "h",
            Self::CubicMetres => "m³",
            Self::Bar => "bar",
            Self::One => "",
        }
    }
}

impl Quantity {
    pub const ENERGY_IMPORT: &'static str = "energy_import_kwh";
    pub const ENERGY_EXPORT: &'static str = "energy_export_kwh";
    pub const POWER: &'static str = "power_kw";

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn unit(&self) -> Unit {
        self.0.rsplit('_').next().and_then(Unit::of).unwrap_or(Unit::One)
    }

    /// What the block rule makes of it; `None` for all that it does not use.
    pub fn role(&self) -> Option<Role> {
        match self.as_str() {
            Self::ENERGY_IMPORT => Some(Role::Import),
            Self::ENERGY_EXPORT => Some(Role::Export),
            Self::POWER => Some(Role::Power),
            _ => None,
        }
    }

    /// The same quantity in the other direction: import for export; any other quantity is itself.
    pub fn swapped(&self) -> Self {
        let text = self.as_str();
        let other = if text.contains("_import") {
            text.replacen("_import", "_export", 1)
        } else {
            text.replacen("_export", "_import", 1)
        };
        Self(other.into())
    }
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Import, Self::Export, Self::Power];

    /// The quantity that has this role.
    pub fn quantity(self) -> &'static str {
        match self {
            Self::Import => Quantity::ENERGY_IMPORT,
            Self::Export => Quantity::ENERGY_EXPORT,
            Self::Power => Quantity::POWER,
        }
    }
}

impl FromStr for Quantity {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let formed = text.len() <= 48
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !formed {
            return Err(BadQuantity::Form(text.chars().take(80).collect()));
        }
        match text.rsplit_once('_').map(|(_, unit)| Unit::of(unit)) {
            Some(Some(_)) => Ok(Self(text.into())),
            _ => Err(BadQuantity::NoUnit(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Quantity {
    type Error = BadQuantity;

    fn try_from(text: String) -> Result<Self, BadQuantity> {
        text.parse()
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.0.as_ref().to_owned()
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_ends_in_its_unit() {
        let quantity: Quantity = "voltage_l1_v".parse().unwrap();
        assert_eq!(quantity.unit().symbol(), "V");
        assert_eq!("power_factor".parse::<Quantity>().unwrap().unit(), Unit::One);
        assert_eq!("power_kw".parse::<Quantity>().unwrap().role(), Some(Role::Power));
        for bad in ["", "power", "Power_kw", "power_watts", "1_kw", "power kw"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_of_direction_swaps_import_and_export() {
        let swap = |text: &str| text.parse::<Quantity>().unwrap().swapped().to_string();
        assert_eq!(swap("energy_import_kwh"), "energy_export_kwh");
        assert_eq!(swap("energy_export_l1_kwh"), "energy_import_l1_kwh");
        assert_eq!(swap("voltage_v"), "voltage_v");
    }
}
