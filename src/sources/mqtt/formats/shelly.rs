//! `shelly`: components of the second generation on, by `<prefix>/status/em:0` and the like, or by `NotifyStatus` on
//! `<prefix>/events/rpc`.
//!
//! An update says what has changed and leaves out the rest. Each message is a reading of what it says, and nothing is
//! filled in from earlier ones: so no old value is told as new, and nothing need be kept.

use super::time::{TimeFormat, believable};
use super::tree::{Node, cleaned, parse};
use super::{Decoded, Message, Sample, Value, field, meter_name};
use crate::model::{Quantity, Ratio, Stamp};

/// What the components of a device measure.
pub struct Components {
    kinds: Vec<Kind>,
}

struct Kind {
    name: &'static str,
    /// Where two give the same quantity, the first that has a number counts.
    attributes: Vec<(String, Quantity, Ratio)>,
}

impl Components {
    pub fn new() -> Self {
        let kinds = TABLE.iter().map(|(name, table)| Kind { name, attributes: attributes(table) });
        Self { kinds: kinds.collect() }
    }

    pub fn decode(&self, message: &Message<'_>, arrival: &Stamp) -> Decoded {
        if let Some(prefix) = message.topic.strip_suffix("/events/rpc") {
            return self.notification(prefix, message, arrival);
        }
        let Some((prefix, component)) = message.topic.rsplit_once("/status/") else { return Decoded::default() };
        let Some((kind, index)) = self.kind(component) else { return Decoded::default() };
        let mut decoded = Decoded::default();
        match parse(&cleaned(message.payload)) {
            Ok(status) => kind.read(&status, prefix, index, &mut decoded),
            Err(why) => decoded.complain(why),
        }
        decoded
    }

    fn notification(&self, prefix: &str, message: &Message<'_>, arrival: &Stamp) -> Decoded {
        let text = cleaned(message.payload);
        let root = match parse(&text) {
            Ok(root) => root,
            Err(why) => return Decoded::fault(why),
        };
        let (method, params) = match (root.member("method"), root.member("params")) {
            (Ok(Some(Node::Text(method))), Ok(Some(Node::Map(params)))) => (method, params),
            (Err(odd), _) => return Decoded::fault(format!("method: {odd}")),
            (_, Err(odd)) => return Decoded::fault(format!("params: {odd}")),
            _ => return Decoded::default(),
        };
        if method != "NotifyStatus" && method != "NotifyFullStatus" {
            return Decoded::default();
        }
        let mut decoded = Decoded::default();
        let mut read: Vec<(&str, u8)> = Vec::new();
        for (component, status) in params {
            let Some((kind, index)) = self.kind(component) else { continue };
            if read.contains(&(kind.name, index)) {
                decoded.complain(format!("{}:{index}: named twice", kind.name));
            } else {
                read.push((kind.name, index));
                kind.read(status, prefix, index, &mut decoded);
            }
        }
        let said = params.iter().find(|(name, _)| name == "ts");
        let said = said.and_then(|(_, node)| TimeFormat::UnixS.instant(node, arrival.time));
        let time = said.and_then(|said| believable(said, arrival));
        decoded.samples.iter_mut().for_each(|sample| sample.time = time);
        decoded
    }

    /// `em1:2` is the component 2 of the kind `em1`.
    fn kind(&self, component: &str) -> Option<(&Kind, u8)> {
        let (name, index) = component.split_once(':')?;
        Some((self.kinds.iter().find(|kind| kind.name == name)?, index.parse().ok()?))
    }
}

impl Kind {
    fn read(&self, status: &Node<'_>, prefix: &str, index: u8, decoded: &mut Decoded) {
        let place = self.name;
        if !matches!(status, Node::Map(_)) {
            return decoded.complain(format!("{place}: not an object"));
        }
        // Each component is a meter of its own; the first bears the name of the device.
        let name = if index == 0 { prefix.to_owned() } else { format!("{prefix}-{index}") };
        let Some(meter) = meter_name(&name) else {
            return decoded.complain("the topic gives no name of 1 to 128 bytes");
        };
        let mut values: Vec<Value> = Vec::new();
        for (attribute, quantity, scale) in &self.attributes {
            match status.member(attribute).and_then(|node| node.map_or(Ok(None), Node::number)) {
                Ok(None) => {}
                Ok(Some(number)) if values.iter().all(|value| value.quantity != *quantity) => {
                    values.push(Value { quantity: quantity.clone(), number, scale: *scale });
                }
                Ok(Some(_)) => {}
                Err(odd) => decoded.complain(format!("{place}: {attribute}: {odd}")),
            }
        }
        decoded.add(Sample { meter, time: None, values });
    }
}

type Table = &'static [(&'static str, &'static str)];

/// Attributes and quantities by component; `{}` stands for the phases. W, VA and Wh are told as kW, kVA and kWh.
const TABLE: &[(&str, Table)] = &[
    (
        "em",
        &[
            ("total_act_power", "power_kw"),
            ("total_aprt_power", "apparent_power_kva"),
            ("total_current", "current_a"),
            ("n_current", "current_n_a"),
            ("{}_freq", "frequency_hz"),
            ("{}_voltage", "voltage_{}_v"),
            ("{}_current", "current_{}_a"),
            ("{}_act_power", "power_{}_kw"),
            ("{}_aprt_power", "apparent_power_{}_kva"),
            ("{}_pf", "power_{}_factor"),
        ],
    ),
    (
        "emdata",
        &[
            // Each total adds the phases of its direction: it is no net energy.
            ("total_act", "energy_import_kwh"),
            ("total_act_ret", "energy_export_kwh"),
            ("{}_total_act_energy", "energy_import_{}_kwh"),
            ("{}_total_act_ret_energy", "energy_export_{}_kwh"),
        ],
    ),
    (
        "em1",
        &[
            ("act_power", "power_kw"),
            ("aprt_power", "apparent_power_kva"),
            ("voltage", "voltage_v"),
            ("current", "current_a"),
            ("pf", "power_factor"),
            ("freq", "frequency_hz"),
        ],
    ),
    ("em1data", &[("total_act_energy", "energy_import_kwh"), ("total_act_ret_energy", "energy_export_kwh")]),
];

fn attributes(table: Table) -> Vec<(String, Quantity, Ratio)> {
    let mut attributes = Vec::new();
    for (attribute, quantity) in table {
        let thousands = ["_kw", "_kva", "_kwh"].iter().any(|unit| quantity.ends_with(unit));
        let scale = if thousands { (1, 1000) } else { (1, 1) };
        let phases: &[_] =
            if attribute.contains("{}") { &[("a", "l1"), ("b", "l2"), ("c", "l3")] } else { &[("", "")] };
        let rows = phases.iter().filter_map(|(letter, line)| {
            let (quantity, scale) = field(&quantity.replace("{}", line), scale)?;
            Some((attribute.replace("{}", letter), quantity, scale))
        });
        attributes.extend(rows);
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_name_quantities() {
        let counts = Components::new().kinds.iter().map(|kind| kind.attributes.len()).collect::<Vec<_>>();
        assert_eq!(counts, [4 + 3 * 6, 2 + 3 * 2, 6, 2]);
    }
}
