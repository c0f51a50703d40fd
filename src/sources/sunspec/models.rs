//! The SunSpec models that are read, as data. Offsets count from a model's first register, that of its number.
//!
//! Facts are from the model definitions of the SunSpec Alliance (sunspec/models). What is not a measurement (ratings,
//! states, settings, texts) is left out.

use crate::sources::template::{Kind, Positive};

/// A model, or several with the same registers.
pub struct Model {
    pub ids: &'static [u16],
    /// What a positive power means.
    pub positive: Positive,
    pub power_factor: PowerFactor,
    pub points: &'static [Point],
    /// Parts that follow one another, each with the same points.
    pub parts: Option<Parts>,
    /// Where the scale factor of the accumulators stands, if it has any.
    pub accumulators: Option<u16>,
}

/// What the power factor of a model is given in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerFactor {
    Percent,
    Fraction,
}

/// Repeated parts, numbered from 1 on: `#` in the names of their quantities is the number.
pub struct Parts {
    /// Offset of the first part in the model.
    pub first: u16,
    pub length: u16,
    /// Offset of their number in the model.
    pub count: u16,
    /// With offsets from the part's first register, and scale factors from the model's.
    pub points: &'static [Point],
}

/// One measurement.
pub struct Point {
    pub quantity: &'static str,
    pub offset: u16,
    pub form: Form,
    pub scale_factor: Option<u16>,
    /// Taken only when no other model of the device gives this quantity.
    pub yields: bool,
}

/// The types of SunSpec that measurements have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Int16,
    Uint16,
    Uint32,
    Uint64,
    Acc32,
    Float32,
}

impl Form {
    pub fn kind(self) -> Kind {
        match self {
            Self::Int16 => Kind::I16,
            Self::Uint16 => Kind::U16,
            Self::Uint32 | Self::Acc32 => Kind::U32,
            Self::Uint64 => Kind::U64,
            Self::Float32 => Kind::F32,
        }
    }

    /// The words that mean "not implemented". An accumulator has 0 for it, so that a new counter, or one that has
    /// nothing to say at night, is absent and not 0.
    pub fn absent(self) -> Vec<u64> {
        match self {
            Self::Int16 => vec![0x8000],
            Self::Uint16 => vec![0xFFFF],
            Self::Uint32 => vec![0xFFFF_FFFF],
            Self::Uint64 => vec![u64::MAX],
            Self::Acc32 => vec![0],
            Self::Float32 => Vec::new(),
        }
    }

    /// The raw number after which it begins again.
    pub fn rolls_over_at(self) -> Option<u64> {
        (self == Self::Acc32).then_some(1 << 32)
    }
}

/// The model that says what a device is; a device runs from one of them to the next.
pub const COMMON: u16 = 1;

/// The places of texts in model 1, with their lengths.
pub const MANUFACTURER: (u16, u16) = (2, 16);
pub const MODEL: (u16, u16) = (18, 16);
pub const VERSION: (u16, u16) = (42, 8);
pub const SERIAL_NUMBER: (u16, u16) = (50, 16);

/// All models that are read, the preferred ones first: of two that give a quantity, the first has it.
pub const MODELS: &[Model] = &[
    Model {
        ids: &[701],
        positive: Positive::Export,
        power_factor: PowerFactor::Fraction,
        points: DER_AC,
        parts: None,
        accumulators: None,
    },
    Model {
        ids: &[101, 102, 103],
        positive: Positive::Export,
        power_factor: PowerFactor::Percent,
        points: INVERTER,
        parts: None,
        accumulators: Some(26),
    },
    Model {
        ids: &[111, 112, 113],
        positive: Positive::Export,
        power_factor: PowerFactor::Percent,
        points: INVERTER_FLOAT,
        parts: None,
        accumulators: None,
    },
    Model {
        ids: &[201, 202, 203, 204],
        positive: Positive::Import,
        power_factor: PowerFactor::Percent,
        points: METER,
        parts: None,
        accumulators: Some(54),
    },
    Model {
        ids: &[211, 212, 213, 214],
        positive: Positive::Import,
        power_factor: PowerFactor::Fraction,
        points: METER_FLOAT,
        parts: None,
        accumulators: None,
    },
    Model {
        ids: &[714],
        positive: Positive::Export,
        power_factor: PowerFactor::Fraction,
        points: DER_DC,
        parts: Some(Parts { first: 20, length: 25, count: 4, points: DER_DC_PORT }),
        accumulators: None,
    },
    Model {
        ids: &[160],
        positive: Positive::Export,
        power_factor: PowerFactor::Fraction,
        points: &[],
        parts: Some(Parts { first: 10, length: 20, count: 8, points: MPPT_MODULE }),
        accumulators: Some(5),
    },
    Model {
        ids: &[BATTERY],
        positive: Positive::Export,
        power_factor: PowerFactor::Fraction,
        points: BATTERY_BASE,
        parts: None,
        accumulators: None,
    },
];

/// The battery base model, whose sign the standard does not fix.
pub const BATTERY: u16 = 802;

const fn point(quantity: &'static str, offset: u16, form: Form, scale_factor: u16) -> Point {
    Point { quantity, offset, form, scale_factor: Some(scale_factor), yields: false }
}

const fn float(quantity: &'static str, offset: u16) -> Point {
    Point { quantity, offset, form: Form::Float32, scale_factor: None, yields: false }
}

/// As `point`, of a quantity that another model has if it can.
const fn second(quantity: &'static str, offset: u16, form: Form, scale_factor: u16) -> Point {
    Point { quantity, offset, form, scale_factor: Some(scale_factor), yields: true }
}

use Form::{Acc32, Int16, Uint16, Uint32, Uint64};

const INVERTER: &[Point] = &[
    point("current_a", 2, Uint16, 6),
    point("current_l1_a", 3, Uint16, 6),
    point("current_l2_a", 4, Uint16, 6),
    point("current_l3_a", 5, Uint16, 6),
    point("voltage_l1_l2_v", 7, Uint16, 13),
    point("voltage_l2_l3_v", 8, Uint16, 13),
    point("voltage_l3_l1_v", 9, Uint16, 13),
    point("voltage_l1_v", 10, Uint16, 13),
    point("voltage_l2_v", 11, Uint16, 13),
    point("voltage_l3_v", 12, Uint16, 13),
    point("power_kw", 14, Int16, 15),
    point("frequency_hz", 16, Uint16, 17),
    point("apparent_power_kva", 18, Int16, 19),
    point("reactive_power_kvar", 20, Int16, 21),
    point("power_factor", 22, Int16, 23),
    point("energy_export_kwh", 24, Acc32, 26),
    point("dc_current_a", 27, Uint16, 28),
    point("dc_voltage_v", 29, Uint16, 30),
    point("dc_power_kw", 31, Int16, 32),
    point("cabinet_temperature_c", 33, Int16, 37),
    point("heat_sink_temperature_c", 34, Int16, 37),
    point("transformer_temperature_c", 35, Int16, 37),
    point("other_temperature_c", 36, Int16, 37),
];

const INVERTER_FLOAT: &[Point] = &[
    float("current_a", 2),
    float("current_l1_a", 4),
    float("current_l2_a", 6),
    float("current_l3_a", 8),
    float("voltage_l1_l2_v", 10),
    float("voltage_l2_l3_v", 12),
    float("voltage_l3_l1_v", 14),
    float("voltage_l1_v", 16),
    float("voltage_l2_v", 18),
    float("voltage_l3_v", 20),
    float("power_kw", 22),
    float("frequency_hz", 24),
    float("apparent_power_kva", 26),
    float("reactive_power_kvar", 28),
    float("power_factor", 30),
    float("energy_export_kwh", 32),
    float("dc_current_a", 34),
    float("dc_voltage_v", 36),
    float("dc_power_kw", 38),
    float("cabinet_temperature_c", 40),
    float("heat_sink_temperature_c", 42),
    float("transformer_temperature_c", 44),
    float("other_temperature_c", 46),
];

const METER: &[Point] = &[
    point("current_a", 2, Int16, 6),
    point("current_l1_a", 3, Int16, 6),
    point("current_l2_a", 4, Int16, 6),
    point("current_l3_a", 5, Int16, 6),
    point("voltage_v", 7, Int16, 15),
    point("voltage_l1_v", 8, Int16, 15),
    point("voltage_l2_v", 9, Int16, 15),
    point("voltage_l3_v", 10, Int16, 15),
    point("voltage_ll_v", 11, Int16, 15),
    point("voltage_l1_l2_v", 12, Int16, 15),
    point("voltage_l2_l3_v", 13, Int16, 15),
    point("voltage_l3_l1_v", 14, Int16, 15),
    point("frequency_hz", 16, Int16, 17),
    point("power_kw", 18, Int16, 22),
    point("power_l1_kw", 19, Int16, 22),
    point("power_l2_kw", 20, Int16, 22),
    point("power_l3_kw", 21, Int16, 22),
    point("apparent_power_kva", 23, Int16, 27),
    point("apparent_power_l1_kva", 24, Int16, 27),
    point("apparent_power_l2_kva", 25, Int16, 27),
    point("apparent_power_l3_kva", 26, Int16, 27),
    point("reactive_power_kvar", 28, Int16, 32),
    point("reactive_power_l1_kvar", 29, Int16, 32),
    point("reactive_power_l2_kvar", 30, Int16, 32),
    point("reactive_power_l3_kvar", 31, Int16, 32),
    point("power_factor", 33, Int16, 37),
    point("power_l1_factor", 34, Int16, 37),
    point("power_l2_factor", 35, Int16, 37),
    point("power_l3_factor", 36, Int16, 37),
    point("energy_export_kwh", 38, Acc32, 54),
    point("energy_export_l1_kwh", 40, Acc32, 54),
    point("energy_export_l2_kwh", 42, Acc32, 54),
    point("energy_export_l3_kwh", 44, Acc32, 54),
    point("energy_import_kwh", 46, Acc32, 54),
    point("energy_import_l1_kwh", 48, Acc32, 54),
    point("energy_import_l2_kwh", 50, Acc32, 54),
    point("energy_import_l3_kwh", 52, Acc32, 54),
    point("apparent_energy_export_kvah", 55, Acc32, 71),
    point("apparent_energy_import_kvah", 63, Acc32, 71),
    point("reactive_energy_q1_kvarh", 72, Acc32, 104),
    point("reactive_energy_q2_kvarh", 80, Acc32, 104),
    point("reactive_energy_q3_kvarh", 88, Acc32, 104),
    point("reactive_energy_q4_kvarh", 96, Acc32, 104),
];

const METER_FLOAT: &[Point] = &[
    float("current_a", 2),
    float("current_l1_a", 4),
    float("current_l2_a", 6),
    float("current_l3_a", 8),
    float("voltage_v", 10),
    float("voltage_l1_v", 12),
    float("voltage_l2_v", 14),
    float("voltage_l3_v", 16),
    float("voltage_ll_v", 18),
    float("voltage_l1_l2_v", 20),
    float("voltage_l2_l3_v", 22),
    float("voltage_l3_l1_v", 24),
    float("frequency_hz", 26),
    float("power_kw", 28),
    float("power_l1_kw", 30),
    float("power_l2_kw", 32),
    float("power_l3_kw", 34),
    float("apparent_power_kva", 36),
    float("apparent_power_l1_kva", 38),
    float("apparent_power_l2_kva", 40),
    float("apparent_power_l3_kva", 42),
    float("reactive_power_kvar", 44),
    float("reactive_power_l1_kvar", 46),
    float("reactive_power_l2_kvar", 48),
    float("reactive_power_l3_kvar", 50),
    float("power_factor", 52),
    float("power_l1_factor", 54),
    float("power_l2_factor", 56),
    float("power_l3_factor", 58),
    float("energy_export_kwh", 60),
    float("energy_export_l1_kwh", 62),
    float("energy_export_l2_kwh", 64),
    float("energy_export_l3_kwh", 66),
    float("energy_import_kwh", 68),
    float("energy_import_l1_kwh", 70),
    float("energy_import_l2_kwh", 72),
    float("energy_import_l3_kwh", 74),
    float("apparent_energy_export_kvah", 76),
    float("apparent_energy_import_kvah", 84),
    float("reactive_energy_q1_kvarh", 92),
    float("reactive_energy_q2_kvarh", 100),
    float("reactive_energy_q3_kvarh", 108),
    float("reactive_energy_q4_kvarh", 116),
];

/// Energy is optional in model 701 and mandatory in the older models, so theirs is taken where a device has both.
const DER_AC: &[Point] = &[
    point("power_kw", 10, Int16, 116),
    point("apparent_power_kva", 11, Int16, 118),
    point("reactive_power_kvar", 12, Int16, 119),
    point("power_factor", 13, Int16, 117),
    point("current_a", 14, Int16, 113),
    point("voltage_ll_v", 15, Uint16, 114),
    point("voltage_v", 16, Uint16, 114),
    point("frequency_hz", 17, Uint32, 115),
    second("energy_export_kwh", 19, Uint64, 120),
    second("energy_import_kwh", 23, Uint64, 120),
    point("reactive_energy_export_kvarh", 27, Uint64, 121),
    point("reactive_energy_import_kvarh", 31, Uint64, 121),
    point("ambient_temperature_c", 35, Int16, 122),
    point("cabinet_temperature_c", 36, Int16, 122),
    point("heat_sink_temperature_c", 37, Int16, 122),
    point("transformer_temperature_c", 38, Int16, 122),
    point("switch_temperature_c", 39, Int16, 122),
    point("other_temperature_c", 40, Int16, 122),
    point("power_l1_kw", 41, Int16, 116),
    point("apparent_power_l1_kva", 42, Int16, 118),
    point("reactive_power_l1_kvar", 43, Int16, 119),
    point("power_l1_factor", 44, Int16, 117),
    point("current_l1_a", 45, Int16, 113),
    point("voltage_l1_l2_v", 46, Uint16, 114),
    point("voltage_l1_v", 47, Uint16, 114),
    point("energy_export_l1_kwh", 48, Uint64, 120),
    point("energy_import_l1_kwh", 52, Uint64, 120),
    point("power_l2_kw", 64, Int16, 116),
    point("apparent_power_l2_kva", 65, Int16, 118),
    point("reactive_power_l2_kvar", 66, Int16, 119),
    point("power_l2_factor", 67, Int16, 117),
    point("current_l2_a", 68, Int16, 113),
    point("voltage_l2_l3_v", 69, Uint16, 114),
    point("voltage_l2_v", 70, Uint16, 114),
    point("energy_export_l2_kwh", 71, Uint64, 120),
    point("energy_import_l2_kwh", 75, Uint64, 120),
    point("power_l3_kw", 87, Int16, 116),
    point("apparent_power_l3_kva", 88, Int16, 118),
    point("reactive_power_l3_kvar", 89, Int16, 119),
    point("power_l3_factor", 90, Int16, 117),
    point("current_l3_a", 91, Int16, 113),
    point("voltage_l3_l1_v", 92, Uint16, 114),
    point("voltage_l3_v", 93, Uint16, 114),
    point("energy_export_l3_kwh", 94, Uint64, 120),
    point("energy_import_l3_kwh", 98, Uint64, 120),
];

const DER_DC: &[Point] = &[
    point("dc_current_a", 5, Int16, 15),
    point("dc_power_kw", 6, Int16, 17),
    point("dc_energy_export_kwh", 7, Uint64, 18),
    point("dc_energy_import_kwh", 11, Uint64, 18),
];

const DER_DC_PORT: &[Point] = &[
    point("dc_#_current_a", 10, Int16, 15),
    point("dc_#_voltage_v", 11, Uint16, 16),
    point("dc_#_power_kw", 12, Int16, 17),
    point("dc_#_energy_export_kwh", 13, Uint64, 18),
    point("dc_#_energy_import_kwh", 17, Uint64, 18),
    point("dc_#_temperature_c", 21, Int16, 19),
];

const MPPT_MODULE: &[Point] = &[
    point("dc_#_current_a", 9, Uint16, 2),
    point("dc_#_voltage_v", 10, Uint16, 3),
    point("dc_#_power_kw", 11, Uint16, 4),
    // Of a battery behind a hybrid inverter a module may count what it charged, so this has no direction.
    point("dc_#_energy_kwh", 12, Acc32, 5),
    Point { quantity: "dc_#_temperature_c", offset: 16, form: Int16, scale_factor: None, yields: false },
];

const BATTERY_BASE: &[Point] = &[
    point("soc_percent", 11, Uint16, 56),
    point("depth_of_discharge_percent", 12, Uint16, 57),
    point("health_percent", 13, Uint16, 58),
    Point { quantity: "battery_cycles_count", offset: 14, form: Uint32, scale_factor: None, yields: false },
    point("battery_voltage_v", 34, Uint16, 59),
    point("cell_voltage_max_v", 37, Uint16, 60),
    point("cell_voltage_min_v", 40, Uint16, 60),
    point("cell_voltage_v", 43, Uint16, 60),
    point("battery_current_a", 44, Int16, 61),
    point("battery_power_kw", 47, Int16, 63),
    // What a battery alone has for its power.
    second("power_kw", 47, Int16, 63),
];
