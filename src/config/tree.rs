//! TOML to one tree in which everything knows its place; the files of `conf.d` are merged into it.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{NOT_TOML, Place, Report};

/// A value and where it stands.
#[derive(Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug)]
pub enum Value {
    Text(String),
    Integer(i64),
    /// As it is written, for ratios are taken exactly.
    Float(String),
    Bool(bool),
    Datetime(String),
    List(Vec<Node>),
    Table(Table),
}

/// A table: its keys with the place of the key and the value.
#[derive(Debug, Default)]
pub struct Table(pub BTreeMap<String, (Place, Node)>);

impl Value {
    /// What it is, for a person.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Datetime(_) => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// The tables of the list under `key`; none where it is something else.
pub fn tables<'t>(table: &'t Table, key: &str) -> impl Iterator<Item = &'t Table> {
    let list = match table.0.get(key) {
        Some((_, Node { value: Value::List(items), .. })) => items.as_slice(),
        _ => &[],
    };
    list.iter().filter_map(|node| if let Value::Table(table) = &node.value { Some(table) } else { None })
}

/// Parses all files and merges them. Also gives the places that are no TOML; each is a fault of `report`.
pub fn merged(report: &Report) -> (Table, Vec<Place>) {
    let (mut all, mut torn) = (Table::default(), Vec::new());
    for (file, text) in report.files().config().enumerate() {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let span = error.span().unwrap_or_default();
            let place = at(file, span);
            report.fault(place, NOT_TOML, format!("this is not TOML: {}", error.message()), "");
            torn.push(place);
        }
        if let Value::Table(table) = value(at(file, 0..0), DeValue::Table(table.into_inner()), report) {
            merge(&mut all, table, "", report);
        }
    }
    join_lines(&mut all);
    (all, torn)
}

/// A `[[modbus]]` of nothing but a name and meters adds these to the line of that name: a bus that is declared in one file
/// may get meters in another.
fn join_lines(all: &mut Table) {
    let Some((_, Node { value: Value::List(lines), .. })) = all.0.get_mut("modbus") else { return };
    let (more, mut whole): (Vec<Node>, Vec<Node>) = std::mem::take(lines).into_iter().partition(only_adds);
    for node in more {
        let name = name_of(&node).map(str::to_owned);
        match whole.iter_mut().find(|line| name.is_some() && name_of(line) == name.as_deref()).and_then(meters_of) {
            Some(meters) => meters.extend(take_meters(node)),
            // What is wrong with it is told as of any other line.
            None => whole.push(node),
        }
    }
    *lines = whole;
}

fn only_adds(line: &Node) -> bool {
    let Value::Table(table) = &line.value else { return false };
    let has_meters = matches!(table.0.get("meter"), Some((_, Node { value: Value::List(_), .. })));
    has_meters && table.0.len() == 2 && name_of(line).is_some()
}

fn name_of(line: &Node) -> Option<&str> {
    let Value::Table(table) = &line.value else { return None };
    let (_, Node { value: Value::Text(name), .. }) = table.0.get("name")? else { return None };
    Some(name)
}

/// The meters of a line, which may have none so far.
fn meters_of(line: &mut Node) -> Option<&mut Vec<Node>> {
    let place = line.place;
    let Value::Table(table) = &mut line.value else { return None };
    let none = || (place, Node { place, value: Value::List(Vec::new()) });
    let (_, node) = table.0.entry("meter".to_owned()).or_insert_with(none);
    if let Value::List(meters) = &mut node.value { Some(meters) } else { None }
}

fn take_meters(line: Node) -> Vec<Node> {
    let Value::Table(mut table) = line.value else { return Vec::new() };
    match table.0.remove("meter") {
        Some((_, Node { value: Value::List(meters), .. })) => meters,
        _ => Vec::new(),
    }
}

/// Tables merge, lists of tables append, and all else may be said once.
fn merge(into: &mut Table, from: Table, path: &str, report: &Report) {
    for (key, (place, node)) in from.0 {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some((first, present)) = into.0.get_mut(&key) else {
            into.0.insert(key, (place, node));
            continue;
        };
        match (&mut present.value, node.value) {
            (Value::Table(present), Value::Table(more)) => merge(present, more, &path, report),
            (Value::List(present), Value::List(more)) if all_tables(present) && all_tables(&more) => {
                present.extend(more);
            }
            _ => {
                let why = format!("is set here and at {}", report.spot(*first));
                report.fault(place, &path, why, "keep one of the two");
            }
        }
    }
}

fn all_tables(list: &[Node]) -> bool {
    list.iter().all(|node| matches!(node.value, Value::Table(_)))
}

fn node(file: usize, spanned: Spanned<DeValue<'_>>, report: &Report) -> Node {
    let place = at(file, spanned.span());
    Node { place, value: value(place, spanned.into_inner(), report) }
}

fn value(place: Place, value: DeValue<'_>, report: &Report) -> Value {
    let file = place.file;
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => {
            let parsed = i64::from_str_radix(integer.as_str(), integer.radix());
            if parsed.is_err() {
                report.fault(place, NOT_TOML, "this number does not fit 64 bits", "give a smaller one");
            }
            Value::Integer(parsed.unwrap_or_default())
        }
        DeValue::Float(float) => Value::Float(float.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
        DeValue::Array(list) => Value::List(list.into_iter().map(|item| node(file, item, report)).collect()),
        DeValue::Table(table) => {
            let keys = table.into_iter().map(|(key, item)| {
                let place = at(file, key.span());
                (key.into_inner().into_owned(), (place, node(file, item, report)))
            });
            Value::Table(Table(keys.collect()))
        }
    }
}

fn at(file: usize, span: Range<usize>) -> Place {
    Place { file, start: span.start, end: span.end }
}
