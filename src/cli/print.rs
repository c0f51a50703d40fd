//! What commands print.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::config::{Checked, Fault};
use crate::model::{Origin, PollReport};

/// Prints to stdout. A reader that closes its end early, such as `head`, is no failure.
pub fn out(text: &str) {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => eprintln!("meterseal: cannot print: {error}"),
        _ => {}
    }
}

/// Every fault on stderr, one a line.
pub fn faults(faults: &[Fault]) {
    for fault in faults {
        eprintln!("{fault}");
    }
}

pub fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// What `check` has to say: faults on stderr, the rest on stdout.
pub fn check(path: &Path, checked: &Checked) {
    faults(&checked.faults);
    let mut text = String::new();
    for warning in &checked.warnings {
        text += &format!("warning: {warning}\n");
    }
    let mut told = BTreeSet::new();
    for (meter, template) in unverified(checked) {
        // A map that the plant wrote into the config bears its meter's id.
        let what = if meter == template {
            format!("the register map of meter {meter}")
        } else {
            format!("template {template}")
        };
        if told.insert(template) {
            text += &format!("{what} is unverified: no recording from elsewhere backs it\n");
        }
    }
    if let Some(config) = &checked.config {
        let sums = config.meters().iter().filter(|meter| matches!(meter.origin, Origin::Sum { .. })).count();
        let meters = counted(config.meters().len() - sums, "meter");
        let sums = if sums > 0 { format!(" and {}", counted(sums, "sum")) } else { String::new() };
        let lines = counted(config.sources.lines.len(), "line");
        text += &format!("{}: good, {meters}{sums} on {lines}\n", path.display());
    }
    out(&text);
    if checked.config.is_none() {
        eprintln!("{}: {}", path.display(), counted(checked.faults.len(), "fault"));
    }
}

pub fn check_json(checked: &Checked) {
    let unverified: Vec<_> =
        unverified(checked).map(|(meter, template)| json!({ "meter": meter, "template": template })).collect();
    json(&json!({
        "good": checked.config.is_some(),
        "faults": checked.faults,
        "warnings": checked.warnings,
        "unverified": unverified,
    }));
}

fn unverified(checked: &Checked) -> impl Iterator<Item = (&str, &str)> {
    checked.config.iter().flat_map(|config| config.meters()).filter_map(|meter| match &meter.origin {
        Origin::Modbus { template, verified: false, .. } => Some((meter.id.as_str(), template.as_str())),
        _ => None,
    })
}

pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => out(&(text + "\n")),
        Err(error) => eprintln!("meterseal: cannot print: {error}"),
    }
}

/// One poll as a table.
pub fn poll(report: &PollReport) {
    let mut text = format!("{} at {}\n", report.meter, report.time);
    let mut rows = vec![["quantity", "value", "unit", "register", "raw words"].map(str::to_owned)];
    for value in &report.values {
        let shown = match (value.value, &value.absent) {
            (Some(number), _) => number.to_string(),
            (None, Some(why)) => format!("({why})"),
            (None, None) => "-".to_owned(),
        };
        let words: Vec<_> = value.words.iter().map(|word| format!("{word:04x}")).collect();
        let unit = value.quantity.unit().symbol().to_owned();
        rows.push([value.quantity.to_string(), shown, unit, value.register.to_string(), words.join(" ")]);
    }
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for [quantity, value, unit, register, words] in &rows {
        let [a, b, c, d, _] = widths;
        text += &format!("{quantity:<a$}  {value:>b$}  {unit:<c$}  {register:>d$}  {words}\n");
    }
    out(&text);
}
