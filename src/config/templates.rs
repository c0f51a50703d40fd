//! The register maps that meters may name: those shipped, those in `meters/` beside the config, and those written
//! into the config itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::files::Files;
use super::report::{Place, Report};
use super::section::Field;
use super::tree::{self, Table, Value};
use crate::model::{MeterId, nearest};
use crate::sources::template::{self, Template};

pub struct Templates {
    /// From `meters/` beside the config. One of them may bear the name of a shipped one, and then stands for it. A
    /// faulty one is `None`: what is wrong with it has been told.
    own: BTreeMap<String, Option<Arc<Template>>>,
    /// Of the shipped ones, those that were asked for.
    shipped: RefCell<BTreeMap<&'static str, Arc<Template>>>,
}

impl Templates {
    /// All that can be named.
    pub fn of(report: &Report) -> Self {
        let mut own = BTreeMap::new();
        for (path, text) in report.files().meters() {
            let Some(name) = path.file_stem().map(|name| name.to_string_lossy().into_owned()) else { continue };
            let template = match template::parse(&name, text) {
                Ok(template) => Some(Arc::new(template)),
                Err(faults) => {
                    tell(path, text, faults, report);
                    None
                }
            };
            own.insert(name, template);
        }
        Self { own, shipped: RefCell::default() }
    }

    /// Those beside the config.
    pub fn own(&self) -> Vec<Arc<Template>> {
        self.own.values().flatten().cloned().collect()
    }

    pub fn named(&self, name: &str, field: &Field) -> Option<Arc<Template>> {
        if let Some(template) = self.own.get(name) {
            return template.clone();
        }
        if let Some(template) = self.shipped.borrow().get(name) {
            return Some(template.clone());
        }
        if let Some((name, text)) = template::shipped().iter().find(|(known, _)| *known == name) {
            let template = Arc::new(template::parse(name, text).ok()?);
            self.shipped.borrow_mut().insert(name, template.clone());
            return Some(template);
        }
        let known = self.own.keys().map(String::as_str).chain(template::shipped().iter().map(|(name, _)| *name));
        let mend = nearest(name, known).map_or_else(
            || "put it beside the config as meters/NAME.toml, or write [modbus.meter.registers]".to_owned(),
            |near| format!("did you mean \"{near}\"?"),
        );
        field.fault(format!("there is no template {}", field.shown()), mend)
    }

    /// `[modbus.meter.registers]`: a map of this meter's own.
    pub fn inline(&self, id: Option<&MeterId>, registers: &Field) -> Option<Arc<Template>> {
        let Value::Table(table) = registers.value else {
            return registers.fault(format!("is {}, not a table", registers.value.kind()), "");
        };
        let name = id.map_or("registers", MeterId::as_str);
        match template::from_value(name, &plain(table)) {
            Ok(template) => Some(Arc::new(template)),
            Err(faults) => {
                for fault in faults {
                    let place = nearest_place(table, &fault.key).unwrap_or(registers.place);
                    let key = [registers.path.as_str(), &fault.key].join(".");
                    registers.report.fault(place, key.trim_end_matches('.'), fault.why, fault.mend);
                }
                None
            }
        }
    }
}

/// Tells the faults of a file of registers, each with its line.
fn tell(path: &Path, text: &str, faults: Vec<template::Fault>, report: &Report) {
    let file = Files::of_text(path, text);
    let alone = Report::new(&file);
    let (table, torn) = tree::merged(&alone);
    for fault in faults {
        let place = nearest_place(&table, &fault.key).or(torn.first().copied());
        let line = place.map_or(1, |place| alone.line(place));
        report.fault_of_file(path.to_owned(), line, &fault.key, fault.why, fault.mend);
    }
}

/// The place of the deepest part of a dotted key that is there.
fn nearest_place(table: &Table, key: &str) -> Option<Place> {
    let (mut table, mut found) = (table, None);
    for part in key.split('.') {
        let Some((place, node)) = table.0.get(part) else { break };
        found = Some(*place);
        let Value::Table(inner) = &node.value else { break };
        table = inner;
    }
    found
}

fn plain(table: &Table) -> toml::Table {
    table.0.iter().map(|(key, (_, node))| (key.clone(), plain_value(&node.value))).collect()
}

fn plain_value(value: &Value) -> toml::Value {
    match value {
        Value::Text(text) | Value::Datetime(text) => toml::Value::String(text.clone()),
        Value::Integer(value) => toml::Value::Integer(*value),
        Value::Float(text) => toml::Value::Float(text.parse().unwrap_or(f64::NAN)),
        Value::Bool(value) => toml::Value::Boolean(*value),
        Value::List(items) => toml::Value::Array(items.iter().map(|node| plain_value(&node.value)).collect()),
        Value::Table(table) => toml::Value::Table(plain(table)),
    }
}
