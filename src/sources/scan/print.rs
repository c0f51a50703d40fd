//! What was found as config, ready to paste.

use std::fmt::Write as _;

use crate::model::{Bus, Category, FoundUnit, LineName, ScanOrder, SerialSettings};

/// `[[modbus]]` with a `[[modbus.meter]]` for each unit that was recognised; the others as comments. `running` is the
/// line of the running config that has this bus already.
pub fn config(order: &ScanOrder, running: Option<&LineName>, found: &[FoundUnit]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    write(&mut text, order, running, found).ok();
    text
}

fn write(out: &mut String, order: &ScanOrder, running: Option<&LineName>, found: &[FoundUnit]) -> std::fmt::Result {
    writeln!(out, "# Found by `meterseal scan` on {}. Ids stay with a meter for ever: give those", order.bus)?;
    writeln!(out, "# that the plant uses. The category gives power its sign: CONS, PROD, STOR or INJ.")?;
    let line = line_name(&order.bus);
    let is_new = |unit: &&FoundUnit| !unit.candidates.is_empty() && unit.meter.is_none();
    if found.iter().any(|unit| is_new(&unit)) {
        match running {
            Some(running) => {
                writeln!(out, "# The running config has this bus as line {running}, which gets these meters as well.")?;
                writeln!(out, "[[modbus]]\nname = \"{running}\"")?;
            }
            None => write_line(out, &line, &order.bus)?,
        }
    }
    let interval = interval_s(found);
    for unit in found {
        write_unit(out, unit, &line, interval)?;
    }
    Ok(())
}

fn write_line(out: &mut String, line: &str, bus: &Bus) -> std::fmt::Result {
    writeln!(out, "[[modbus]]\nname = \"{line}\"")?;
    match bus {
        Bus::Tcp(address) => writeln!(out, "tcp = \"{address}\""),
        Bus::RtuOverTcp(address) => writeln!(out, "rtu_over_tcp = \"{address}\""),
        Bus::Serial { device, settings } => {
            writeln!(out, "serial = {}", toml::Value::from(device.as_str()))?;
            match settings {
                Some(SerialSettings { baud, parity, stop_bits }) => {
                    writeln!(out, "baud = {baud}\nparity = \"{parity}\"\nstop_bits = {stop_bits}")
                }
                None => Ok(()),
            }
        }
    }
}

fn write_unit(out: &mut String, unit: &FoundUnit, line: &str, interval: u32) -> std::fmt::Result {
    let number = unit.unit;
    writeln!(out)?;
    if let Some(meter) = &unit.meter {
        return writeln!(out, "# Unit {number} is meter {meter} of the running config.");
    }
    let Some((best, others)) = unit.candidates.split_first() else {
        writeln!(
            out,
            "# Unit {number} answers and was not recognised. With the vendor's sheet of registers a template"
        )?;
        writeln!(out, "# can be written for it: docs/templates.md. What it answered:")?;
        return unit.heard.iter().try_for_each(|line| writeln!(out, "#   {}", comment(line)));
    };
    if !others.is_empty() {
        writeln!(out, "# Several templates fit unit {number} alike: see its name plate.")?;
    }
    if unit.under_any_unit {
        writeln!(out, "# It answers under every unit number.")?;
    }
    let serial = unit.identity.serial_number.as_ref().map(|number| format!(", serial number {number}"));
    let title = if others.is_empty() { best.title.clone() } else { format!("Unit {number}") };
    let name = format!("{title}{}", serial.unwrap_or_default());
    let part = unit.device.map(|device| format!("-{device}")).unwrap_or_default();
    writeln!(out, "[[modbus.meter]]\nid = \"{line}-{number}{part}\"")?;
    writeln!(out, "name = {}\nunit = {number}", toml::Value::from(name.replace(char::is_control, " ")))?;
    if let Some(device) = unit.device {
        writeln!(out, "device = {device}")?;
    }
    writeln!(out, "template = {} # {}", toml::Value::from(best.template.as_str()), comment(&best.reason))?;
    for other in others {
        writeln!(out, "# or template = {} # {}", toml::Value::from(other.template.as_str()), comment(&other.reason))?;
    }
    writeln!(out, "category = \"{}\"\ninterval = \"{interval}s\"", category(unit))
}

/// An inverter produces and a battery stores; of all else only the plant knows.
fn category(unit: &FoundUnit) -> Category {
    let has = |models: &[u16]| unit.identity.sunspec_models.iter().any(|model| models.contains(model));
    if has(&[802]) {
        Category::Stor
    } else if has(&[101, 102, 103, 111, 112, 113, 701]) {
        Category::Prod
    } else {
        Category::Cons
    }
}

/// What a device says must not end the comment.
fn comment(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// A line is named after where it is.
fn line_name(bus: &Bus) -> String {
    let place = match bus {
        Bus::Tcp(address) | Bus::RtuOverTcp(address) => address.strip_suffix(":502").unwrap_or(address),
        Bus::Serial { device, .. } => device.rsplit('/').next().unwrap_or(device),
    };
    let allowed = |char: char| char.is_ascii_alphanumeric() || char == '.';
    let name: String = place.chars().map(|char| if allowed(char) { char } else { '-' }).collect();
    let name = name.trim_matches('-');
    // Room for `-247-64` behind it in the id of a meter.
    let name: String = name.chars().take(56).collect();
    if name.is_empty() { "line".to_owned() } else { name }
}

/// Polls as often as the bus can bear, with as much time left over.
fn interval_s(found: &[FoundUnit]) -> u32 {
    let polled = found.iter().filter(|unit| !unit.candidates.is_empty());
    let round_ms: u32 = polled.map(|unit| unit.poll_ms).fold(0, u32::saturating_add);
    [1, 2, 5, 10, 15, 30].into_iter().find(|seconds| round_ms.saturating_mul(2) <= seconds * 1_000).unwrap_or(60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Candidate, Identity, RecognisedBy};
    use proptest::prelude::*;

    fn order(bus: Bus) -> ScanOrder {
        ScanOrder { bus, units: "1-247".parse().unwrap(), timeout_ms: 300 }
    }

    fn unit(unit: u8, text: &str) -> FoundUnit {
        let candidate = Candidate {
            template: "eastron-sdm630".to_owned(),
            title: text.to_owned(),
            verified: false,
            by: RecognisedBy::Identity,
            reason: text.to_owned(),
        };
        FoundUnit {
            unit,
            device: None,
            candidates: vec![candidate],
            identity: Identity { serial_number: Some(text.to_owned()), ..Identity::default() },
            heard: Vec::new(),
            under_any_unit: false,
            meter: None,
            poll_ms: 200,
        }
    }

    fn meters(text: &str) -> Vec<toml::Value> {
        let table: toml::Table = text.parse().unwrap();
        table["modbus"].as_array().unwrap().iter().flat_map(|line| line["meter"].as_array().unwrap().clone()).collect()
    }

    #[test]
    fn the_interval_leaves_the_bus_as_much_time_again() {
        let found =
            |count: u8, poll_ms| (1..=count).map(|at| FoundUnit { poll_ms, ..unit(at, "") }).collect::<Vec<_>>();
        assert_eq!(interval_s(&found(2, 200)), 1);
        assert_eq!(interval_s(&found(10, 200)), 5);
        assert_eq!(interval_s(&found(247, 400)), 60);
        assert_eq!(interval_s(&[]), 1);
    }

    #[test]
    fn a_meter_of_the_running_config_is_not_printed_again() {
        let known = FoundUnit { meter: Some("main".parse().unwrap()), ..unit(1, "x") };
        let found = [known, unit(2, "y")];
        let line = "msb".parse().unwrap();
        let text = config(&order(Bus::Tcp("h:502".to_owned())), Some(&line), &found);
        assert!(text.contains("# Unit 1 is meter main of the running config."));
        assert!(text.contains("\n[[modbus]]\nname = \"msb\"\n") && !text.contains("tcp ="), "{text}");
        assert_eq!(text.matches("\n[[modbus.meter]]").count(), 1);
    }

    #[test]
    fn a_line_is_named_after_its_place() {
        let name = |bus: Bus| line_name(&bus);
        assert_eq!(name(Bus::Tcp("192.0.2.10:502".to_owned())), "192.0.2.10");
        assert_eq!(name(Bus::RtuOverTcp("[2001:db8::1]:4001".to_owned())), "2001-db8--1--4001");
        let device = "/dev/serial/by-id/usb-FTDI_USB-RS485_Cable_FT123-if00-port0".to_owned();
        assert_eq!(name(Bus::Serial { device, settings: None }), "usb-FTDI-USB-RS485-Cable-FT123-if00-port0");
    }

    proptest! {
        #[test]
        fn whatever_devices_say_of_themselves_the_config_stays_what_it_is(
            texts in prop::collection::vec(any::<String>(), 1..5),
            device in "/[^\u{0}-\u{1f}\u{7f}]{1,60}",
        ) {
            let mut found: Vec<_> = (1..).zip(&texts).map(|(at, text)| unit(at, text)).collect();
            let unknown = FoundUnit { candidates: Vec::new(), heard: texts.clone(), ..unit(200, "") };
            found.push(unknown);
            let text = config(&order(Bus::Serial { device: device.clone(), settings: None }), None, &found);
            let table: toml::Table = text.parse().unwrap();
            prop_assert_eq!(table["modbus"][0]["serial"].as_str(), Some(device.as_str()));
            let meters = meters(&text);
            prop_assert_eq!(meters.len(), texts.len());
            for (at, meter) in (1..).zip(&meters) {
                prop_assert_eq!(meter["unit"].as_integer(), Some(at));
                prop_assert_eq!(meter["template"].as_str(), Some("eastron-sdm630"));
                prop_assert!(meter["id"].as_str().unwrap().parse::<crate::model::MeterId>().is_ok());
            }
        }
    }
}
