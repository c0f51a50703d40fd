//! One table of the config, read key by key. What is wrong goes into the report, and reading goes on, so that one run
//! tells every fault.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::files::Whence;
use super::report::{MISSING, Place, Report};
use super::tree::{Node, Table, Value};
use super::units;
use crate::model::nearest;

/// A table that is being read. [`Section::done`] tells the keys that nobody asked for.
pub struct Section<'t> {
    pub report: &'t Report<'t>,
    /// Its header, for what is missing from it.
    pub place: Place,
    path: String,
    table: Option<&'t Table>,
    known: Vec<&'static str>,
}

/// The value of a key.
#[derive(Clone)]
pub struct Field<'t> {
    pub report: &'t Report<'t>,
    pub place: Place,
    pub path: String,
    pub value: &'t Value,
}

impl<'t> Section<'t> {
    /// The whole config.
    pub fn root(table: &'t Table, report: &'t Report<'t>) -> Self {
        let place = Place { file: 0, start: 0, end: 0 };
        Self { report, place, path: String::new(), table: Some(table), known: Vec::new() }
    }

    /// The value of `key`, if it is there.
    pub fn get(&mut self, key: &'static str) -> Option<Field<'t>> {
        self.known.push(key);
        let (_, Node { place, value }) = self.table?.0.get(key)?;
        Some(Field { report: self.report, place: *place, path: self.path_of(key), value })
    }

    /// As [`Section::get`]; a fault if it is missing.
    pub fn need(&mut self, key: &'static str, mend: &str) -> Option<Field<'t>> {
        let field = self.get(key);
        if field.is_none() {
            self.report.fault(self.place, &self.path_of(key), MISSING, mend);
        }
        field
    }

    /// The table under `key`; an empty one if it is not there or none.
    pub fn table(&mut self, key: &'static str) -> Section<'t> {
        let empty =
            Section { report: self.report, place: self.place, path: self.path_of(key), table: None, known: Vec::new() };
        self.get(key).and_then(|field| field.section()).unwrap_or(empty)
    }

    /// The tables of the list under `key`; `None` if it is not there.
    pub fn tables(&mut self, key: &'static str) -> Option<Vec<Section<'t>>> {
        let field = self.get(key)?;
        let Value::List(items) = field.value else {
            let mend = format!("begin it with [[{}]]", self.path_of(key));
            field.fault::<()>(format!("is {}, not a list of tables", field.value.kind()), mend);
            return Some(Vec::new());
        };
        let each = items.iter().enumerate().filter_map(|(at, node)| {
            let path = format!("{}[{at}]", field.path);
            Field { report: self.report, place: node.place, path, value: &node.value }.section()
        });
        Some(each.collect())
    }

    pub fn text(&mut self, key: &'static str) -> Option<&'t str> {
        self.get(key)?.text()
    }

    /// A name of some kind, which must be there.
    pub fn named<T: FromStr<Err: Display>>(&mut self, key: &'static str, mend: &str) -> Option<(T, Place)> {
        let field = self.need(key, mend)?;
        Some((field.parsed()?, field.place))
    }

    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let field = self.get(key)?;
        match field.value {
            Value::Bool(value) => Some(*value),
            _ => field.is_not("true or false"),
        }
    }

    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let field = self.get(key)?;
        let Value::Integer(value) = *field.value else { return field.is_not("a whole number") };
        if range.contains(&value) {
            return Some(value);
        }
        let (least, most) = (range.start(), range.end());
        field.fault(format!("{value} is not within {least} to {most}"), "")
    }

    pub fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let field = self.get(key)?;
        let value = field.text().map(units::duration)?;
        let Some(value) = value else {
            return field.fault(
                format!("{} is not a duration", field.shown()),
                "write it as \"500ms\", \"1s\", \"15min\", \"6h\" or \"90d\"",
            );
        };
        if range.contains(&value) {
            return Some(value);
        }
        let (least, most) = (units::written(*range.start()), units::written(*range.end()));
        field.fault(format!("{} is not within {least} to {most}", units::written(value)), "")
    }

    pub fn size(&mut self, key: &'static str, least: u64, least_written: &str) -> Option<u64> {
        let field = self.get(key)?;
        let value = field.text().map(units::size)?;
        let Some(value) = value else {
            return field.fault(format!("{} is not a size", field.shown()), "write it as \"500MB\" or \"2GB\"");
        };
        if value >= least {
            return Some(value);
        }
        field.fault(format!("{} is too little", field.shown()), format!("give at least {least_written}"))
    }

    /// Tells the keys that nobody asked for. `later` names those of parts that this version does not have.
    pub fn done(self, later: &[&'static str]) {
        for (key, (place, _)) in self.table.iter().flat_map(|table| &table.0) {
            if self.report.is_full() {
                break;
            }
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let path = self.path_of(key);
            if later.contains(&key.as_str()) {
                self.report.fault(*place, &path, "this version of meterseal does not have this part", "take it out");
                continue;
            }
            let known = self.known.iter().copied();
            let mend = nearest(key, known.clone())
                .map_or_else(|| format!("known here: {}", sorted(known)), |near| format!("did you mean `{near}`?"));
            self.report.fault(*place, &path, "no such key", mend);
        }
    }

    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'t> Field<'t> {
    /// Tells a fault of this value. Gives `None`, for the caller to pass on.
    pub fn fault<T>(&self, why: impl Into<String>, mend: impl Into<String>) -> Option<T> {
        self.report.fault(self.place, &self.path, why, mend);
        None
    }

    /// Where the text that has it came from.
    pub fn whence(&self) -> Whence {
        self.report.files().whence(self.place.file)
    }

    fn is_not<T>(&self, wanted: &str) -> Option<T> {
        self.fault(format!("is {}, not {wanted}", self.value.kind()), "")
    }

    pub fn text(&self) -> Option<&'t str> {
        match self.value {
            Value::Text(text) => Some(text),
            _ => self.is_not("a text in quotes"),
        }
    }

    pub fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(error) => self.fault(error.to_string(), ""),
        }
    }

    /// One of a few words; the fault names them and the nearest.
    pub fn one_of(&self, words: &[&'static str]) -> Option<usize> {
        let text = self.text()?;
        let at = words.iter().position(|word| *word == text);
        if at.is_none() {
            let mend =
                nearest(text, words.iter().copied()).map_or(String::new(), |near| format!("did you mean \"{near}\"?"));
            self.fault::<()>(format!("{} is none of {}", self.shown(), words.join(", ")), mend);
        }
        at
    }

    /// The texts of a list, each with its place.
    pub fn list(&self) -> Option<Vec<Field<'t>>> {
        let Value::List(items) = self.value else { return self.is_not("a list of texts") };
        let each = items.iter().enumerate().map(|(at, node)| Field {
            report: self.report,
            place: node.place,
            path: format!("{}[{at}]", self.path),
            value: &node.value,
        });
        Some(each.collect())
    }

    pub fn section(&self) -> Option<Section<'t>> {
        let Value::Table(table) = self.value else { return self.is_not("a table") };
        let (report, place, path) = (self.report, self.place, self.path.clone());
        Some(Section { report, place, path, table: Some(table), known: Vec::new() })
    }

    /// The value as a fault shows it: never a secret, for those are not shown.
    pub fn shown(&self) -> String {
        match self.value {
            Value::Text(text) => format!("\"{}\"", text.chars().take(80).collect::<String>()),
            Value::Integer(value) => value.to_string(),
            Value::Float(text) => text.clone(),
            Value::Bool(value) => value.to_string(),
            other => other.kind().to_owned(),
        }
    }
}

fn sorted<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let mut words: Vec<_> = words.collect();
    words.sort_unstable();
    words.dedup();
    words.join(", ")
}
