//! What commands print.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::config::{Checked, Fault};
use crate::model::{Identity, MeterId, Origin, PollReport};
use crate::sources::template::{Template, WordOrder};
use crate::upstream::{Kind, Upstream};

/// Prints to stdout. A reader that closes its end early, such as `head`, is no failure.
pub fn out(text: &str) {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => eprintln!("meterseal: cannot print: {error}"),
        _ => {}
    }
}

/// What ends a command, on stderr. In the journal each line is an error (sd-daemon(3)), and not as unimportant as any other word.
pub fn fatal(text: &str) {
    let priority = if stderr_is_journal() { "<3>" } else { "" };
    for line in text.lines() {
        eprintln!("{priority}{line}");
    }
}

/// systemd names the journal's stream by device and inode (systemd.exec(5), JOURNAL_STREAM).
pub fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Every fault on stderr, one a line.
pub fn faults(faults: &[Fault]) {
    for fault in faults {
        fatal(&fault.to_string());
    }
}

/// What does not stop a config from running, on stderr.
pub fn warnings(warnings: &[Fault]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

pub fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

pub fn counted_as(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// What `check` has to say: faults on stderr, the rest on stdout.
pub fn check(path: &Path, checked: &Checked) {
    faults(&checked.faults);
    let mut text = String::new();
    for warning in &checked.warnings {
        text += &format!("warning: {warning}\n");
    }
    let mut told = BTreeSet::new();
    for (meter, template) in unverified(checked).filter(|(_, template)| told.insert(&template.name)) {
        // A map that the plant wrote into the config bears its meter's id.
        let what = if meter.as_str() == template.name {
            format!("the register map of meter {meter} is unverified:")
        } else {
            let Template { name, evidence, .. } = template;
            format!("template {name} is unverified: its register map rests on {evidence};")
        };
        text +=
            &format!("{what} no recording of a real meter has confirmed it, so compare its values with the display\n");
    }
    if let Some(config) = &checked.config {
        let sums = config.meters().iter().filter(|meter| matches!(meter.origin, Origin::Sum { .. })).count();
        let meters = counted(config.meters().len() - sums, "meter");
        let sums = if sums > 0 { format!(" and {}", counted(sums, "sum")) } else { String::new() };
        let (lines, brokers) = (config.sources.lines.len(), config.sources.brokers.len());
        let on = match (lines, brokers) {
            (lines, 0) => counted(lines, "line"),
            (0, brokers) => counted(brokers, "broker"),
            (lines, brokers) => format!("{} and {}", counted(lines, "line"), counted(brokers, "broker")),
        };
        let upstreams = &config.upstream.upstreams;
        for upstream in upstreams {
            text += &format!("{}\n", destination(upstream));
        }
        let sent = match upstreams.len() {
            0 => String::new(),
            count => format!(", {}", counted(count, "upstream")),
        };
        text += &format!("{}: good, {meters}{sums} on {on}{sent}\n", path.display());
    }
    out(&text);
    if checked.config.is_none() {
        fatal(&format!("{}: {}", path.display(), counted(checked.faults.len(), "fault")));
    }
}

/// An upstream in a line: where it goes and what it is sent. Why one is off stands among the warnings, with its line.
fn destination(Upstream { name, kind, streams, .. }: &Upstream) -> String {
    let what = match kind {
        Kind::Off { .. } => "off, as the warning says".to_owned(),
        _ => streams.iter().map(|stream| stream.as_str()).collect::<Vec<_>>().join(", "),
    };
    format!("upstream {name}: {} to {}: {what}", kind.as_str(), kind.to())
}

pub fn check_json(checked: &Checked) {
    let unverified: Vec<_> =
        unverified(checked).map(|(meter, template)| json!({ "meter": meter, "template": template.name })).collect();
    let upstreams = checked.config.iter().flat_map(|config| &config.upstream.upstreams);
    let upstreams: Vec<_> = upstreams
        .map(|Upstream { name, kind, streams, .. }| {
            let off = if let Kind::Off { why, .. } = kind { Some(why) } else { None };
            json!({ "name": name, "kind": kind.as_str(), "to": kind.to(), "streams": streams, "off": off })
        })
        .collect();
    json(&json!({
        "good": checked.config.is_some(),
        "faults": checked.faults,
        "warnings": checked.warnings,
        "unverified": unverified,
        "upstreams": upstreams,
    }));
}

/// The meters whose register map nobody has compared with a real meter, in the config's order.
fn unverified(checked: &Checked) -> impl Iterator<Item = (&MeterId, &Template)> {
    let lines = checked.config.iter().flat_map(|config| &config.sources.lines);
    let meters = lines.flat_map(|line| &line.meters).map(|meter| (&meter.id, &*meter.template));
    meters.filter(|(_, template)| !template.verified)
}

pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => out(&(text + "\n")),
        Err(error) => eprintln!("meterseal: cannot print: {error}"),
    }
}

/// One value in one line, for a script that reads them as they come.
pub fn json_line(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => out(&(text + "\n")),
        Err(error) => eprintln!("meterseal: cannot print: {error}"),
    }
}

/// One poll as a table; below it, where the values make no sense or somebody wants it, the readings in all four orders
/// of words.
pub fn poll(report: &PollReport, orders: bool) {
    let mut text = format!("{} at {}\n", report.meter, report.time);
    if let Some(identity) = &report.identity {
        text += &format!("{}\n", said_of_itself(identity));
    }
    let mut rows = vec![["quantity", "value", "unit", "register", "raw words"].map(str::to_owned)];
    for value in &report.values {
        let shown = match (value.value, &value.absent) {
            // With all its digits, but not with 30 zeros, which only a wrong register or order gives.
            (Some(number), _) if number != 0.0 && !(1e-9..1e15).contains(&number.abs()) => format!("{number:e}"),
            (Some(number), _) => number.to_string(),
            (None, Some(why)) => format!("({why})"),
            (None, None) => "-".to_owned(),
        };
        let mut words: Vec<_> = value.words.iter().map(|word| format!("{word:04x}")).collect();
        words.extend(value.scale_factor.map(|factor| format!("× 10^{factor}")));
        let unit = value.quantity.unit().symbol().to_owned();
        // Sheets print either.
        let register = format!("{} 0x{0:x}", value.register);
        rows.push([value.quantity.to_string(), shown, unit, register, words.join(" ")]);
    }
    let [a, b, c, d, _] = widths(&rows);
    for [quantity, value, unit, register, words] in &rows {
        text += &format!("{quantity:<a$}  {value:>b$}  {unit:<c$}  {register:>d$}  {words}\n");
    }
    if orders || report.advice.is_some() {
        text += &by_order(report);
    }
    if let Some(advice) = &report.advice {
        text += &format!("\n{advice}\n");
    }
    out(&text);
}

/// Such as `Schneider Electric iEM3255, serial number 19088743, firmware 14002`.
fn said_of_itself(identity: &Identity) -> String {
    let name = [&identity.manufacturer, &identity.model].into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
    let number = identity.serial_number.as_ref().map(|number| format!("serial number {number}"));
    let firmware = identity.firmware.as_ref().map(|version| format!("firmware {version}"));
    let parts = [Some(name).filter(|name| !name.is_empty()), number, firmware];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What the words of each value would say in each order; one word has no order.
fn by_order(report: &PollReport) -> String {
    let orders = WordOrder::ALL.map(WordOrder::name);
    let [a, b, c, d] = orders;
    let mut rows = vec![["with order =", a, b, c, d].map(str::to_owned)];
    for value in report.values.iter().filter(|value| !value.by_order.is_empty()) {
        let said = |order| value.by_order.get(order).copied().flatten().map_or_else(|| "-".to_owned(), short);
        let [a, b, c, d] = orders.map(said);
        rows.push([value.quantity.to_string(), a, b, c, d]);
    }
    let [a, b, c, d, e] = widths(&rows);
    let line = |[quantity, high, low, high_swapped, low_swapped]: &[String; 5]| {
        format!("{quantity:<a$}  {high:>b$}  {low:>c$}  {high_swapped:>d$}  {low_swapped:>e$}\n")
    };
    rows.iter().fold("\n".to_owned(), |text, row| text + &line(row))
}

/// In at most 12 characters, for a look: a number in the wrong order may have any size.
fn short(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-3..1e9).contains(&size) {
        return format!("{number:.3e}");
    }
    format!("{number:.6e}").parse::<f64>().unwrap_or(number).to_string()
}

fn widths(rows: &[[String; 5]]) -> [usize; 5] {
    let mut widths = [0; 5];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(quantity: &str) -> PollReport {
        let by_order = json!({ "high-first": 230.100_006, "low-first": -1.234_567e-38, "high-first-swapped": null,
            "low-first-swapped": -123_456.789 });
        let value = json!({ "quantity": quantity, "value": 1.0, "register": 0, "words": [1, 2], "absent": null,
            "by_order": by_order });
        let single =
            json!({ "quantity": "frequency_hz", "value": 50.0, "register": 2, "words": [500], "absent": null });
        serde_json::from_value(json!({ "meter": "m", "time": 0, "values": [value, single] })).unwrap()
    }

    #[test]
    fn a_meter_says_what_it_is_in_one_line() {
        let said = |identity| said_of_itself(&serde_json::from_value(identity).unwrap());
        let all = json!({ "manufacturer": "Acme", "model": "M1", "serial_number": "42", "firmware": "7" });
        assert_eq!(said(all), "Acme M1, serial number 42, firmware 7");
        assert_eq!(said(json!({ "serial_number": "42" })), "serial number 42");
    }

    #[test]
    fn the_four_readings_fit_a_hundred_columns() {
        let text = by_order(&report("reactive_energy_export_l1_kvarh"));
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0][3..], ["high-first", "low-first", "high-first-swapped", "low-first-swapped"]);
        assert_eq!(lines[1][1..], ["230.1", "-1.235e-38", "-", "-123456.8"]);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
