//! `tasmota`: `ENERGY` of `tele/…/SENSOR`, and of the answer `stat/…/STATUS8`, which wraps it in `StatusSNS`.

use jiff::tz::TimeZone;

use super::time::{TimeFormat, agreeing};
use super::tree::{Node, cleaned, parse};
use super::{Decoded, Message, Sample, Value, field, meter_name};
use crate::model::{Number, Quantity, Ratio, Stamp, Timestamp};

/// What a device measures, and how its clock is set.
pub struct Device {
    clock: TimeFormat,
    attributes: Vec<Attribute>,
}

struct Attribute {
    row: &'static Row,
    scale: Ratio,
    quantity: Quantity,
    /// Of phase 1, 2, …
    phases: Vec<Quantity>,
}

/// The name, and what it becomes: `power` and `kw` are `power_kw`, `power_l1_kw` ….
struct Row {
    name: &'static str,
    stem: &'static str,
    unit: &'static str,
    /// Units of the device in one of ours.
    over: i64,
    list: List,
}

/// What a list of the phases' values says of the whole.
#[derive(Clone, Copy, PartialEq)]
enum List {
    /// Their sum.
    Adds,
    /// Nothing.
    Each,
    /// The first that there is: all phases have the same.
    Same,
}

const fn row(name: &'static str, stem: &'static str, unit: &'static str, over: i64, list: List) -> Row {
    Row { name, stem, unit, over, list }
}

/// Where two give the same quantity, the first that the message has counts: `Total` adds what was exported too, unless
/// `SetOption162` is on, so a register of its own for import goes before. `Today`, `Yesterday` and `Period` begin again
/// at 0 and are no registers.
const TABLE: &[Row] = &[
    row("ImportActive", "energy_import", "kwh", 1, List::Adds),
    row("Total", "energy_import", "kwh", 1, List::Adds),
    row("ExportActive", "energy_export", "kwh", 1, List::Adds),
    row("Power", "power", "kw", 1000, List::Adds),
    row("ReactivePower", "reactive_power", "kvar", 1000, List::Adds),
    row("ApparentPower", "apparent_power", "kva", 1000, List::Each),
    row("Factor", "power", "factor", 1, List::Each),
    row("Frequency", "frequency", "hz", 1, List::Same),
    row("Voltage", "voltage", "v", 1, List::Each),
    row("Current", "current", "a", 1, List::Each),
];

/// The most that a device measures.
const PHASES: usize = 8;

impl Device {
    pub fn new(zone: TimeZone) -> Self {
        let attribute = |row: &'static Row| {
            let Row { stem, unit, over, .. } = row;
            let (quantity, scale) = field(&format!("{stem}_{unit}"), (1, *over))?;
            let phases = (1..=PHASES).filter_map(|phase| format!("{stem}_l{phase}_{unit}").parse().ok()).collect();
            Some(Attribute { row, scale, quantity, phases })
        };
        Self { clock: TimeFormat::Local(zone), attributes: TABLE.iter().filter_map(attribute).collect() }
    }

    pub fn decode(&self, message: &Message<'_>, arrival: &Stamp) -> Decoded {
        let Some(name) = name_of(message.topic) else { return Decoded::default() };
        let text = cleaned(message.payload);
        let root = match parse(&text) {
            Ok(root) => root,
            Err(why) => return Decoded::fault(why),
        };
        let state = match root.member("StatusSNS") {
            Ok(wrapped) => wrapped.unwrap_or(&root),
            Err(odd) => return Decoded::fault(format!("StatusSNS: {odd}")),
        };
        let energy = match state.member("ENERGY") {
            Ok(Some(energy @ Node::Map(_))) => energy,
            // A device that measures no energy.
            Ok(None) => return Decoded::default(),
            Ok(Some(_)) => return Decoded::fault("ENERGY: not an object"),
            Err(odd) => return Decoded::fault(format!("ENERGY: {odd}")),
        };
        let Some(meter) = meter_name(&name) else {
            return Decoded::fault("the topic gives no name of 1 to 128 bytes");
        };
        let mut decoded = Decoded::default();
        let time = self.time(state, arrival);
        let values = self.values(energy, &mut decoded);
        decoded.add(Sample { meter, time, values });
        decoded
    }

    /// The device's clock shows local time, and 1970 until it was set: it counts only where it agrees with the arrival.
    fn time(&self, state: &Node<'_>, arrival: &Stamp) -> Option<Timestamp> {
        let said = match (state.member("Epoch"), state.member("Time")) {
            (Ok(Some(epoch)), _) => TimeFormat::UnixS.instant(epoch, arrival.time),
            (Ok(None), Ok(Some(time @ Node::Number(_)))) => TimeFormat::UnixS.instant(time, arrival.time),
            (Ok(None), Ok(Some(time))) => self.clock.instant(time, arrival.time),
            _ => None,
        };
        said.and_then(|said| agreeing(said, arrival))
    }

    fn values(&self, energy: &Node<'_>, decoded: &mut Decoded) -> Vec<Value> {
        let mut values: Vec<Value> = Vec::new();
        let mut told: Vec<&Quantity> = Vec::new();
        for attribute in &self.attributes {
            let name = attribute.row.name;
            match energy.member(name) {
                Ok(None) => {}
                Ok(Some(_)) if told.contains(&&attribute.quantity) => {}
                Ok(Some(node)) => {
                    told.push(&attribute.quantity);
                    if let Err(why) = attribute.read(node, &mut values) {
                        decoded.complain(format!("{name}: {why}"));
                    }
                }
                Err(odd) => decoded.complain(format!("{name}: {odd}")),
            }
        }
        values
    }
}

impl Attribute {
    /// Adds the values of `node`, as far as they can be read.
    fn read(&self, node: &Node<'_>, values: &mut Vec<Value>) -> Result<(), String> {
        let mut push = |quantity: &Quantity, number: Number| {
            values.push(Value { quantity: quantity.clone(), number, scale: self.scale });
        };
        let Node::List(phases) = node else {
            let number = node.number().map_err(|odd| odd.to_string())?;
            number.into_iter().for_each(|number| push(&self.quantity, number));
            return Ok(());
        };
        if phases.len() > PHASES {
            return Err(format!("more than {PHASES} phases"));
        }
        let read: Vec<_> = phases.iter().map(Node::number).collect();
        let numbers: Vec<Option<Number>> = read.iter().map(|number| number.ok().flatten()).collect();
        let whole = match self.row.list {
            List::Adds => numbers.iter().copied().collect::<Option<Vec<_>>>().and_then(|all| sum(&all)),
            List::Each => None,
            List::Same => numbers.iter().copied().flatten().next(),
        };
        whole.into_iter().for_each(|number| push(&self.quantity, number));
        if self.row.list != List::Same {
            for (quantity, number) in self.phases.iter().zip(numbers) {
                number.into_iter().for_each(|number| push(quantity, number));
            }
        }
        read.into_iter().find_map(Result::err).map_or(Ok(()), |odd| Err(odd.to_string()))
    }
}

/// The device's name: its topic without the last level and without `tele` or `stat`, wherever its pattern puts them.
/// `None` for topics that bear no sensors, such as `LWT`.
fn name_of(topic: &str) -> Option<String> {
    let (path, last) = topic.rsplit_once('/')?;
    if !matches!(last, "SENSOR" | "STATUS8" | "STATUS10") {
        return None;
    }
    let mut levels: Vec<&str> = path.split('/').collect();
    if let Some(at) = levels.iter().position(|level| matches!(*level, "tele" | "stat")) {
        levels.remove(at);
    }
    Some(levels.join("/"))
}

/// The sum as a person adds the decimals that were sent, not as their binary neighbours add.
fn sum(numbers: &[Number]) -> Option<Number> {
    const DECIMALS: usize = 12;
    let mut total: i128 = 0;
    for number in numbers {
        let text = match *number {
            Number::I64(value) => value.to_string(),
            Number::U64(value) => value.to_string(),
            Number::F32(_) | Number::F64(_) => number.to_display().to_string(),
        };
        let (negative, digits) = text.strip_prefix('-').map_or((false, text.as_str()), |digits| (true, digits));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.len() > 20 || part.len() > DECIMALS {
            return None;
        }
        let scaled: i128 = format!("{whole}{part:0<DECIMALS$}").parse().ok()?;
        total += if negative { -scaled } else { scaled };
    }
    let (unit, sign) = (10_u128.pow(12), if total < 0 { "-" } else { "" });
    let (whole, part) = (total.unsigned_abs() / unit, total.unsigned_abs() % unit);
    let text = if numbers.iter().all(|number| matches!(number, Number::I64(_) | Number::U64(_))) {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{part:0>DECIMALS$}")
    };
    if numbers.is_empty() { None } else { super::plain::number(&text).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_names_quantities() {
        let device = Device::new(TimeZone::UTC);
        assert_eq!(device.attributes.len(), TABLE.len());
        assert!(device.attributes.iter().all(|attribute| attribute.phases.len() == PHASES));
    }

    #[test]
    fn the_devices_name_is_its_topic_wherever_the_pattern_puts_it() {
        assert_eq!(name_of("tele/plug/SENSOR").as_deref(), Some("plug"));
        assert_eq!(name_of("stat/plug/STATUS8").as_deref(), Some("plug"));
        assert_eq!(name_of("hall/plug/tele/SENSOR").as_deref(), Some("hall/plug"));
        for none in ["tele/plug/LWT", "tele/plug/STATE", "SENSOR"] {
            assert_eq!(name_of(none), None, "{none}");
        }
    }

    #[test]
    fn phases_add_up_as_decimals() {
        let add = |numbers: &[f64]| sum(&numbers.iter().map(|n| Number::from_f64(*n).unwrap()).collect::<Vec<_>>());
        assert_eq!(add(&[0.1, 0.2]), Some(Number::F64(0.3)));
        assert_eq!(add(&[-136.495, 0.0, -78.478]), Some(Number::F64(-214.973)));
        assert_eq!(add(&[1e300, 1.0]), None);
        assert_eq!(add(&[]), None);
        assert_eq!(sum(&[Number::I64(-5), Number::I64(2)]), Some(Number::I64(-3)));
        assert_eq!(sum(&[Number::U64(u64::MAX), Number::I64(0)]), Some(Number::U64(u64::MAX)));
    }

    proptest! {
        #[test]
        fn a_sum_is_the_exact_one_in_thousandths(parts in prop::collection::vec(-1_000_000_000..1_000_000_000_i64, 1..8)) {
            let sent = |part: &i64| super::super::plain::number(&format!("{}e-3", part)).unwrap();
            let added = sum(&parts.iter().map(sent).collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(added.scaled(Ratio::ONE, 3), Some(parts.iter().sum()));
        }
    }
}
