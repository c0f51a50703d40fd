//! What was made through the API, merged into a config: connections and queries as if they stood in files of their own,
//! so that they are checked as those are; names and targets of meters where no file sets them. What a file says wins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::report::{Fault, Report};
use super::tree::{self, Node, Table};
use super::{Config, Files, check};
use crate::model::{Energy, Made, MadeKind, MeterId, Timestamp};

/// What a config was made of.
#[derive(Clone, Default, PartialEq)]
pub struct Source {
    /// As they were read, with the secrets that stand in them.
    pub files: Files,
    /// As they may be shown.
    pub shown: Vec<(PathBuf, String)>,
    pub warnings: Vec<Fault>,
    /// Where a file sets the name or the target of a meter, as `file:line`.
    pub set: BTreeMap<(String, &'static str), String>,
}

/// It bears secrets.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Keys of a meter that may be set through the API.
pub const NAME: &str = "name";
pub const TARGET: &str = "peak_target_kwh";

/// A connection or a query that was made through the API.
#[derive(Clone, PartialEq)]
pub struct Part {
    pub kind: MadeKind,
    pub name: String,
    pub value: Map<String, Value>,
}

impl Part {
    /// That of an object of the store, if it is one.
    pub fn of(made: &Made) -> Option<Self> {
        let Value::Object(value) = &made.value else { return None };
        matches!(made.kind, MadeKind::Connection | MadeKind::Query).then(|| Self {
            kind: made.kind,
            name: made.name.clone(),
            value: value.clone(),
        })
    }

    /// What stands for its file where a fault is told.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("{} `{}`, made through the API", self.kind.as_str(), self.name))
    }

    fn text(&self) -> String {
        let mut text = format!("[[{}]]\n", if self.kind == MadeKind::Connection { "influx" } else { "query" });
        push_pair(&mut text, "name", &Value::from(self.name.as_str()));
        for (key, value) in self.value.iter().filter(|(key, value)| *key != "name" && !value.is_null()) {
            push_pair(&mut text, key, value);
        }
        text
    }
}

fn push_pair(text: &mut String, key: &str, value: &Value) {
    push_text(text, key);
    text.push_str(" = ");
    push_value(text, value);
    text.push('\n');
}

/// JSON as TOML writes it. What TOML has no form for, such as a `null` in a list, becomes a fault of the part.
fn push_value(text: &mut String, value: &Value) {
    match value {
        Value::String(string) => push_text(text, string),
        Value::Array(items) => {
            text.push('[');
            for item in items {
                push_value(text, item);
                text.push(',');
            }
            text.push(']');
        }
        Value::Object(members) => {
            text.push('{');
            for (at, (key, value)) in members.iter().enumerate() {
                text.push_str(if at == 0 { " " } else { ", " });
                push_text(text, key);
                text.push_str(" = ");
                push_value(text, value);
            }
            text.push_str(" }");
        }
        other => text.push_str(&other.to_string()),
    }
}

/// A text of JSON is a basic string of TOML, but for one character that TOML wants escaped.
fn push_text(text: &mut String, string: &str) {
    text.push_str(&Value::from(string).to_string().replace('\u{7f}', "\\u007f"));
}

/// The base with these parts; the faults of parts where there are any. Blocks while it reads files of certificates.
pub fn with_parts(base: &Config, parts: &[Part], now: Timestamp) -> Result<Config, Vec<Fault>> {
    let files = base.source.files.with_made(parts.iter().map(|part| (part.path(), part.text())));
    let checked = check(&files, now);
    let (source, store) = (base.source.clone(), base.store.clone());
    checked.config.map(|config| Config { source, store, ..config }).ok_or(checked.faults)
}

/// The config of the files with all that was made through the API, and what of that is left out, for a person.
pub fn with_made(base: Config, made: &[Made], now: Timestamp) -> (Config, Vec<String>) {
    let mut problems = Vec::new();
    let mut parts: Vec<Part> = made.iter().filter_map(Part::of).collect();
    parts.retain(|part| match file_of(&base, part.kind, &part.name) {
        None => true,
        Some(file) => {
            problems.push(format!(
                "{} {} was made through the API, and {file} has one of the same name, which is used: give one of the two \
                 another name",
                part.kind.as_str(),
                part.name
            ));
            false
        }
    });
    let mut config = loop {
        if parts.is_empty() {
            break base;
        }
        match with_parts(&base, &parts, now) {
            Ok(config) => break config,
            Err(faults) => {
                let bad = |part: &Part| faults.iter().find(|fault| fault.file == part.path());
                let told = parts.iter().filter_map(|part| Some((part.path(), bad(part)?.within())));
                problems.extend(told.map(|(path, fault)| format!("{} is left out: {fault}", path.display())));
                let before = parts.len();
                parts.retain(|part| bad(part).is_none());
                if parts.len() == before {
                    problems.extend(
                        faults.iter().map(|fault| format!("what was made through the API is left out: {fault}")),
                    );
                    parts.clear();
                }
            }
        }
    };
    set_meters(&mut config, made);
    (config, problems)
}

/// The file that has a connection or query of this name.
pub fn file_of(config: &Config, kind: MadeKind, name: &str) -> Option<String> {
    let (connections, queries) = (&config.exports.connections, &config.exports.queries);
    match kind {
        MadeKind::Connection => connections.iter().find(|known| known.name == name)?.read_only.clone(),
        _ => queries.iter().find(|known| known.name == name)?.read_only.clone(),
    }
}

/// Names and targets that no file sets.
fn set_meters(config: &mut Config, made: &[Made]) {
    let source = config.source.clone();
    for object in made.iter().filter(|object| object.kind == MadeKind::Meter) {
        let Some(meter) = config.blocks.meters.iter_mut().find(|meter| meter.id.as_str() == object.name) else {
            continue;
        };
        let is_free = |key| !source.set.contains_key(&(object.name.clone(), key));
        if let Some(name) = object.value["name"].as_str().filter(|_| is_free(NAME)) {
            name.clone_into(&mut meter.name);
        }
        if let Some(uwh) = object.value["peak_target_uwh"].as_i64().filter(|_| is_free(TARGET)) {
            meter.peak_target = Some(Energy::from_uwh(uwh));
        }
    }
}

/// Where a file sets the name or the target of a meter or a sum. What this page wrote into a file of its own it may change.
pub fn set_in_files(root: &Table, report: &Report) -> BTreeMap<(String, &'static str), String> {
    let mut set = BTreeMap::new();
    for key in ["modbus", "mqtt"] {
        for line in tree::tables(root, key) {
            note_all(line, "meter", report, &mut set);
        }
    }
    note_all(root, "sum", report, &mut set);
    set
}

fn note_all(table: &Table, key: &str, report: &Report, set: &mut BTreeMap<(String, &'static str), String>) {
    for meter in tree::tables(table, key) {
        let Some((_, Node { value: tree::Value::Text(id), .. })) = meter.0.get("id") else { continue };
        for key in [NAME, TARGET] {
            if let Some((place, _)) = meter.0.get(key).filter(|(place, _)| !report.files().is_of_page(place.file)) {
                set.insert((id.clone(), key), report.spot(*place));
            }
        }
    }
}

/// Where a file sets this of a meter.
pub fn set_at<'c>(config: &'c Config, meter: &MeterId, key: &'static str) -> Option<&'c str> {
    config.source.set.get(&(meter.to_string(), key)).map(String::as_str)
}
