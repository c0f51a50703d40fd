//! Lines, meters and sums, and what must hold among them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::mqtt;
use super::report::{Place, Report};
use super::section::{Field, Section};
use super::templates::Templates;
use super::tree::Value;
use super::wire;
use crate::model::{Category, Energy, LineName, Meter, MeterId, Number, Origin, Ratio, Role, nearest};
use crate::sources::mqtt::Broker;
use crate::sources::template::{Register, Template};
use crate::sources::{self, Line, MeterConfig};

/// All meters of a config, as the sources and as everybody else must know them.
#[derive(Default)]
pub struct Meters {
    pub lines: Vec<Line>,
    pub brokers: Vec<Broker>,
    pub meters: Vec<Meter>,
    /// Register maps beside the config.
    pub templates: Vec<Arc<Template>>,
}

const CATEGORIES: [&str; 4] = ["PROD", "CONS", "STOR", "INJ"];

/// The meters of all lines and brokers, and the sums of them; and where secrets stand in the text.
pub fn read(root: &mut Section, of: Option<&mqtt::Of>) -> (Meters, Vec<Place>) {
    let templates = Templates::of(root.report);
    let mut known = Known { report: root.report, ids: BTreeMap::new(), lines: BTreeMap::new(), wires: BTreeMap::new() };
    let mut all = Meters { templates: templates.own(), ..Meters::default() };
    for line in root.tables("modbus").unwrap_or_default() {
        read_line(line, &templates, &mut known, &mut all);
    }
    let (brokers, published, inline) = mqtt::read(root, of, &mut known);
    all.brokers = brokers;
    all.meters.extend(published);
    let mut sums = Vec::new();
    for sum in root.tables("sum").unwrap_or_default() {
        read_sum(sum, &mut known, &mut sums);
    }
    check_parts(&sums, &known);
    all.meters.extend(sums.into_iter().filter_map(|sum| sum.meter));
    flag_simulated(&mut all.meters);
    (all, inline)
}

/// What is taken already, and where.
pub struct Known<'t> {
    report: &'t Report<'t>,
    ids: BTreeMap<MeterId, Place>,
    lines: BTreeMap<LineName, Place>,
    wires: wire::Taken,
}

impl Known<'_> {
    /// The id, if it is free.
    pub fn take_id(&mut self, id: MeterId, place: Place, path: &str) -> Option<MeterId> {
        if let Some(first) = self.ids.get(&id) {
            let why = format!("`{id}` is the id of another meter at {}", self.report.spot(*first));
            self.report.fault(place, path, why, "every meter and every sum has an id of its own");
            return None;
        }
        self.ids.insert(id.clone(), place);
        Some(id)
    }

    /// The name of a line or broker; one that is taken is told, and used all the same.
    pub fn take_line(&mut self, name: LineName, place: Place, path: &str) -> Option<LineName> {
        if let Some(first) = self.lines.get(&name) {
            let why = format!("`{name}` is the name of another line or broker at {}", self.report.spot(*first));
            self.report.fault(place, path, why, "every line and broker has a name of its own");
        }
        self.lines.insert(name.clone(), place);
        Some(name)
    }
}

fn read_line(mut part: Section, templates: &Templates, known: &mut Known, all: &mut Meters) {
    let report = part.report;
    let path = part.path_of("name");
    let name = part
        .named::<LineName>("name", "give the line a name, such as name = \"msb\"")
        .and_then(|(name, place)| known.take_line(name, place, &path));
    let wire = wire::read(&mut part, &mut known.wires);
    // Also of a line whose wire has a fault of its own.
    let is_rtu = ["serial", "rtu_over_tcp"].into_iter().any(|key| part.get(key).is_some());
    let secs = Duration::from_secs;
    let timeout = part.duration("timeout", Duration::from_millis(10)..=secs(60)).unwrap_or(secs(1));
    let gap = part.duration("gap", Duration::ZERO..=secs(10)).unwrap_or(Duration::ZERO);
    let parallel = part.integer("parallel", 1..=16).and_then(|parallel| usize::try_from(parallel).ok()).unwrap_or(1);
    let simulated = part.flag("simulated").unwrap_or(false);
    let given = part.tables("meter");
    if given.as_ref().is_none_or(Vec::is_empty) {
        report.warn(part.place, &part.path_of("meter"), "this line has no meter", "add a [[modbus.meter]]");
    }
    let mut meters: Vec<MeterConfig> = Vec::new();
    for meter in given.unwrap_or_default() {
        let (place, path) = (meter.place, meter.path_of("unit"));
        let [own_map, template] = ["registers", "template"].map(|key| meter.path_of(key));
        let Some((config, meter)) = read_meter(meter, name.as_ref(), is_rtu, templates, known) else { continue };
        if let Some(other) = meters.iter().find(|other| reads_the_same(other, &config)) {
            let why = format!("`{}` and `{}` read the same registers of unit {}", other.id, config.id, config.unit);
            let mend = if config.template.sunspec {
                "give each meter the unit number that is set on it, or where one unit is several devices its `device`"
            } else {
                "give each meter the unit number that is set on it"
            };
            report.warn(place, &path, why, mend);
        }
        let registers = &config.template.registers;
        if !registers.is_empty() && registers.iter().all(|register| register.quantity.role().is_none()) {
            let quantities = Role::ALL.map(Role::quantity).join(", ");
            let why = format!("`{}` gives no energy blocks: its map has none of {quantities}", config.id);
            let path = if config.template.name == config.id.as_str() { own_map } else { template };
            report.warn(place, &path, why, "name the meter's totals so");
        }
        meters.push(config);
        all.meters.push(Meter { simulated, ..meter });
    }
    part.done(&[]);
    let (Some(name), Some(wire)) = (name, wire) else { return };
    all.lines.push(Line { name, wire, timeout, gap, parallel, meters, simulated });
}

/// Two meters of one line that are one device: most often one was copied from the other. Meters that share a unit and
/// have registers of their own, such as the channels of one device, do not overlap.
fn reads_the_same(one: &MeterConfig, other: &MeterConfig) -> bool {
    let overlap = |a: &Register, b: &Register| {
        let end = |register: &Register| u32::from(register.address) + u32::from(register.kind.width());
        a.function == b.function && u32::from(a.address) < end(b) && u32::from(b.address) < end(a)
    };
    if one.template.sunspec && other.template.sunspec {
        return (one.unit, one.device) == (other.unit, other.device);
    }
    let mut registers = one.template.registers.iter();
    one.unit == other.unit && registers.any(|a| other.template.registers.iter().any(|b| overlap(a, b)))
}

fn read_meter(
    mut part: Section,
    line: Option<&LineName>,
    is_rtu: bool,
    templates: &Templates,
    known: &mut Known,
) -> Option<(MeterConfig, Meter)> {
    let path = part.path_of("id");
    let id = part
        .named::<MeterId>("id", "give the meter an id, such as id = \"main-incomer\"")
        .and_then(|(id, place)| known.take_id(id, place, &path));
    let name = part.text("name").map(str::to_owned);
    let unit = unit(&mut part, is_rtu).unwrap_or(1);
    let device = part.integer("device", 1..=64).and_then(|device| u8::try_from(device).ok());
    let category = category(&mut part);
    let interval = part.duration("interval", INTERVAL).unwrap_or(Duration::from_secs(1));
    let ct_ratio = ratio(&mut part, "ct_ratio").unwrap_or(Ratio::ONE);
    let vt_ratio = ratio(&mut part, "vt_ratio").unwrap_or(Ratio::ONE);
    let invert = part.flag("invert").unwrap_or(false);
    let peak_target = peak_target(&mut part);
    let template = match (part.get("template"), part.get("registers")) {
        (Some(field), None) => field.text().and_then(|name| templates.named(name, &field)),
        (None, Some(registers)) => templates.inline(id.as_ref(), &registers),
        (Some(_), Some(registers)) => {
            registers.fault("a meter has a template or registers of its own", "take one of them out")
        }
        (None, None) => {
            let mend = "name one: template = \"eastron-sdm630\", or write [modbus.meter.registers]";
            part.report.fault(part.place, &part.path_of("template"), super::report::MISSING, mend);
            None
        }
    };
    if let (Some(field), Some(false)) = (part.get("device"), template.as_ref().map(|template| template.sunspec)) {
        field.fault::<()>("only a SunSpec unit has several devices", "take it out, or name a SunSpec template");
    }
    let (report, place, path) = (part.report, part.place, part.path_of("ct_ratio"));
    part.done(&[]);
    let (id, category, template) = (id?, category?, template?);
    let device = device.unwrap_or(1);
    let config = MeterConfig { id: id.clone(), unit, device, template, category, interval, ct_ratio, vt_ratio, invert };
    if let Err(error) = sources::layout(&config, false) {
        report.fault(place, &path, error.to_string(), "write the ratios of the name plates, such as \"200/5\"");
    }
    let meter = Meter {
        name: name.unwrap_or_else(|| id.to_string()),
        id,
        category,
        origin: Origin::Modbus {
            line: line?.clone(),
            unit,
            template: config.template.name.clone(),
            verified: config.template.verified,
        },
        interval_ms: u32::try_from(interval.as_millis()).ok(),
        peak_target,
        simulated: false,
    };
    Some((config, meter))
}

/// On a serial line 0 speaks to all units, who do not answer, and those above 247 are reserved (Modbus over serial line
/// 1.02, 2.2).
fn unit(part: &mut Section, is_rtu: bool) -> Option<u8> {
    let field = part.get("unit")?;
    let unit = part.integer("unit", 0..=255).and_then(|unit| u8::try_from(unit).ok())?;
    if is_rtu && !(1..=247).contains(&unit) {
        return field.fault(format!("{unit} is no unit on a serial line"), "units there are 1 to 247");
    }
    Some(unit)
}

pub const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(15 * 60);

pub fn category(part: &mut Section) -> Option<Category> {
    let mend = "say what it stands at: category = \"CONS\" (or PROD, STOR, INJ); it gives power its sign";
    category_of(&part.need("category", mend)?)
}

pub fn category_of(field: &Field) -> Option<Category> {
    CATEGORIES[field.one_of(&CATEGORIES)?].parse().ok()
}

/// `"200/5"`, `"40"`, `40` or `0.5`.
pub fn ratio(part: &mut Section, key: &'static str) -> Option<Ratio> {
    let field = part.get(key)?;
    let ratio = match field.value {
        Value::Text(text) => Ratio::parse(text.trim()),
        Value::Integer(value) => Ratio::new(*value, 1),
        Value::Float(text) => Ratio::parse(text),
        _ => None,
    };
    // The way round is said by `invert`; a ratio below 0 would hide it.
    match ratio.filter(|ratio| <(i64, i64)>::from(*ratio).0 > 0) {
        Some(ratio) => Some(ratio),
        None => field.fault(format!("{} is no ratio above 0", field.shown()), "write it as \"200/5\" or 40"),
    }
}

/// kWh in one block.
pub fn peak_target(part: &mut Section) -> Option<Energy> {
    let field = part.get("peak_target_kwh")?;
    let kwh: Option<f64> = match field.value {
        Value::Integer(value) => value.to_string().parse().ok(),
        Value::Float(text) => text.parse().ok(),
        _ => None,
    };
    let energy = kwh
        .filter(|kwh| *kwh > 0.0 && *kwh <= 1e6)
        .and_then(Number::from_f64)
        .and_then(|kwh| kwh.scaled(Ratio::ONE, Energy::KWH_DECIMALS));
    match energy {
        Some(uwh) => Some(Energy::from_uwh(uwh)),
        None => field.fault(format!("{} is no energy of one block", field.shown()), "give kWh above 0, up to 1000000"),
    }
}

/// A sum, and the places where it names its parts.
struct Sum<'t> {
    id: Option<MeterId>,
    parts: Vec<(MeterId, Field<'t>)>,
    meter: Option<Meter>,
}

fn read_sum<'t>(mut part: Section<'t>, known: &mut Known, sums: &mut Vec<Sum<'t>>) {
    let path = part.path_of("id");
    let id = part
        .named::<MeterId>("id", "give the sum an id, such as id = \"plant-total\"")
        .and_then(|(id, place)| known.take_id(id, place, &path));
    let name = part.text("name").map(str::to_owned);
    let category = category(&mut part);
    let peak_target = peak_target(&mut part);
    let add = part.need("add", "name the meters it is made of: add = [\"main-incomer\"]").and_then(|field| {
        let listed = field.list()?;
        if listed.is_empty() { field.fault("names no meter", "") } else { Some(listed) }
    });
    let subtract = part.get("subtract").and_then(|field| field.list()).unwrap_or_default();
    part.done(&[]);

    let ids = |fields: &[Field<'t>]| -> Vec<(MeterId, Field<'t>)> {
        fields.iter().filter_map(|field| Some((field.parsed()?, field.clone()))).collect()
    };
    let (add, subtract) = (ids(&add.unwrap_or_default()), ids(&subtract));
    let only_ids = |parts: &[(MeterId, Field)]| parts.iter().map(|(id, _)| id.clone()).collect();
    let meter = id.clone().zip(category).map(|(id, category)| Meter {
        name: name.unwrap_or_else(|| id.to_string()),
        id,
        category,
        origin: Origin::Sum { add: only_ids(&add), subtract: only_ids(&subtract) },
        interval_ms: None,
        peak_target,
        simulated: false,
    });
    sums.push(Sum { id, parts: add.into_iter().chain(subtract).collect(), meter });
}

/// Parts are known meters, each once, and no sum is a part of itself.
fn check_parts(sums: &[Sum], known: &Known) {
    let circles = Circles::of(sums);
    for sum in sums {
        let mut named = BTreeSet::new();
        for (id, field) in &sum.parts {
            if known.report.is_full() {
                return;
            }
            if !known.ids.contains_key(id) {
                let mend = nearest(id.as_str(), known.ids.keys().map(MeterId::as_str)).map_or_else(
                    || "name a meter or another sum".to_owned(),
                    |near| format!("did you mean \"{near}\"?"),
                );
                field.fault::<()>(format!("there is no meter `{id}`"), mend);
            }
            if !named.insert(id) {
                field.fault::<()>(format!("`{id}` is in this sum already"), "name each part once");
            }
        }
        let Some(id) = &sum.id else { continue };
        if let Some((_, field)) = sum.parts.iter().find(|(part, _)| circles.reach(part, id)) {
            field.fault::<()>(
                format!("`{id}` would be a part of itself"),
                "take it out of this sum, or out of that part",
            );
        }
    }
}

/// A sum of which any part is simulated is simulated too, through sums of sums.
fn flag_simulated(meters: &mut [Meter]) {
    let mut users: BTreeMap<MeterId, Vec<usize>> = BTreeMap::new();
    for (at, meter) in meters.iter().enumerate() {
        if let Origin::Sum { add, subtract } = &meter.origin {
            add.iter().chain(subtract).for_each(|part| users.entry(part.clone()).or_default().push(at));
        }
    }
    let simulated = meters.iter().filter(|meter| meter.simulated);
    let mut ahead: Vec<MeterId> = simulated.map(|meter| meter.id.clone()).collect();
    while let Some(id) = ahead.pop() {
        for at in users.remove(&id).unwrap_or_default() {
            if !meters[at].simulated {
                meters[at].simulated = true;
                ahead.push(meters[at].id.clone());
            }
        }
    }
}

/// The sums that are part of a circle or made of one, with their parts.
struct Circles<'s>(BTreeMap<&'s MeterId, Vec<&'s MeterId>>);

impl<'s> Circles<'s> {
    /// Takes away what is made of meters alone, then what is made of that, and so on: what is left goes round.
    fn of(sums: &'s [Sum]) -> Self {
        let parts = |sum: &'s Sum| Some((sum.id.as_ref()?, sum.parts.iter().map(|(part, _)| part).collect()));
        let mut left: BTreeMap<&MeterId, Vec<&MeterId>> = sums.iter().filter_map(parts).collect();
        let (mut users, mut waits) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
        for (sum, parts) in &left {
            let of_sums = parts.iter().filter(|part| left.contains_key(**part));
            waits.insert(*sum, of_sums.clone().count());
            of_sums.for_each(|part| users.entry(*part).or_default().push(*sum));
        }
        let mut ahead: Vec<_> = waits.iter().filter(|(_, count)| **count == 0).map(|(sum, _)| *sum).collect();
        while let Some(sum) = ahead.pop() {
            left.remove(sum);
            for user in users.remove(sum).unwrap_or_default() {
                let count = waits.entry(user).or_default();
                *count -= 1;
                if *count == 0 {
                    ahead.push(user);
                }
            }
        }
        Self(left)
    }

    /// Whether `from` is `wanted`, or is made of it, directly or through other sums.
    fn reach(&self, from: &MeterId, wanted: &MeterId) -> bool {
        if !self.0.contains_key(wanted) {
            return false;
        }
        let (mut seen, mut ahead) = (BTreeSet::new(), vec![from]);
        while let Some(next) = ahead.pop() {
            if next == wanted {
                return true;
            }
            if seen.insert(next) {
                ahead.extend(self.0.get(next).into_iter().flatten());
            }
        }
        false
    }
}
