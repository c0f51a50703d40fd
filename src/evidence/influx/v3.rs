//! InfluxDB 3: SQL, answered by one JSON object a line.
//!
//! `json` would be put together whole in the server's memory. Columns without a value are left out of the objects.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use reqwest::RequestBuilder;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::json;

use super::body::{As, Http, told};
use super::error::{judged, shortened};
use super::escape::sql_name;
use super::points::{self, Points, Series};
use super::text::{Lines, Scalar, time_ns, written};
use super::{Credentials, InfluxError, Read, Schema, Selection, Server, Tested};
use crate::model::{Cell, FieldType, ResultRow, Row};

pub async fn test(http: &Http) -> Result<Tested, InfluxError> {
    #[derive(Deserialize)]
    struct Ping {
        version: String,
    }
    let (status, _, body) = http.small(http.get("/ping", As::Configured)).await?;
    let Ok(Ping { version }) = serde_json::from_slice(&body) else {
        let why = format!("the server answers {status}: {}", told(&body));
        return Err(match status.as_u16() {
            401 | 403 => InfluxError::refused(&http.connection.name, format!("{why}; correct the token")),
            _ => http.wrong(format!("{why}; that is not InfluxDB 3: correct `url` or `version`")),
        });
    };
    let server_version = version.trim_start_matches('v').to_owned();
    if !server_version.starts_with("3.") {
        return Err(http.wrong(format!("the server is InfluxDB {server_version}; correct `version`")));
    }
    let query = "SELECT table_name FROM information_schema.tables LIMIT 1";
    // A server without authorisation takes any token: only the refusal of nobody says that it counts.
    let is_open = http.is_answered(post(http, query, &json!({}), As::Anybody)).await?;
    if !is_open && matches!(http.connection.server, Server::Three { token: None, .. }) {
        return Err(InfluxError::refused(&http.connection.name, "the server asks for a token; give `token`"));
    }
    read::<InfluxError>(http, query, &json!({}), &mut |_| Ok(())).await?;
    let credentials = if is_open { Credentials::NotAsked } else { Credentials::Proven };
    Ok(Tested { server_version, credentials })
}

/// The columns of the measurement's table: a field's type is the same at all times.
pub async fn schema(http: &Http, selection: &Selection) -> Result<Schema, InfluxError> {
    let name = &http.connection.name;
    let (mut fields, mut tags) = (BTreeMap::new(), Vec::new());
    let query = "SELECT column_name, data_type FROM information_schema.columns \
                 WHERE table_schema = 'iox' AND table_name = $table";
    let bound = json!({ "table": selection.measurement });
    read::<InfluxError>(http, query, &bound, &mut |mut line: Line| {
        let (Some(column), Some(kind)) = (line.take_text("column_name"), line.take_text("data_type")) else {
            return Err(http.wrong("the answer does not tell columns and types; is there a proxy?"));
        };
        let kind = match &*kind {
            "Float64" => FieldType::F64,
            "Int64" => FieldType::I64,
            "UInt64" => FieldType::U64,
            "Boolean" => FieldType::Bool,
            "Utf8" | "LargeUtf8" | "Utf8View" => FieldType::Str,
            kind if kind.starts_with("Dictionary(") => {
                tags.push(column.into());
                return Ok(());
            }
            kind if kind.starts_with("Timestamp(") => return Ok(()),
            other => return Err(http.wrong(format!("field {column} is of the unknown type {other}"))),
        };
        if selection.fields.is_empty() || selection.fields.iter().any(|wanted| **wanted == *column) {
            fields.insert(column.into(), kind);
        }
        Ok(())
    })
    .await?;
    Schema::of(name, selection, fields, Some(tags))
}

/// The request for the points of a slice.
pub fn rows(
    http: &Http,
    selection: &Selection,
    schema: &Schema,
    slice: &Range<i64>,
) -> Result<RequestBuilder, InfluxError> {
    let columns: Vec<_> = schema.tags.iter().chain(schema.fields.keys()).map(|column| sql_name(column)).collect();
    let mut query = format!(
        "SELECT time, {} FROM {} WHERE time >= $from AND time < $to",
        columns.join(", "),
        sql_name(&selection.measurement)
    );
    let mut bound = period(slice);
    for (at, (tag, value)) in selection.tags.iter().enumerate() {
        query.push_str(&format!(" AND {} = $t{at}", sql_name(tag)));
        bound[format!("t{at}")] = json!(value);
    }
    post(http, &query, &bound, As::Configured)
}

fn period(period: &Range<i64>) -> serde_json::Value {
    json!({ "from": written(period.start), "to": written(period.end) })
}

pub async fn table<E: From<InfluxError>>(
    http: &Http,
    text: &str,
    wanted: &Range<i64>,
    sink: &mut (impl FnMut(ResultRow) -> Result<(), E> + Send),
) -> Result<Read, E> {
    let mut result = Read::default();
    // What a text does not name may not be bound.
    let mut bound = period(wanted);
    if let Some(bound) = bound.as_object_mut() {
        bound.retain(|name, _| text.contains(&format!("${name}")));
    }
    read(http, text, &bound, &mut |line: Line| line.into_result(&http.connection.name, &mut result, sink)).await?;
    Ok(result)
}

async fn read<E: From<InfluxError>>(
    http: &Http,
    query: &str,
    bound: &serde_json::Value,
    take: &mut (impl FnMut(Line) -> Result<(), E> + Send),
) -> Result<(), E> {
    let mut body = http.answer(post(http, query, bound, As::Configured)).await?;
    let mut answer = Answer::new(&http.connection.name);
    while let Some(bytes) = body.next().await? {
        answer.feed(&bytes, take)?;
    }
    answer.finish(take)
}

fn post(http: &Http, query: &str, bound: &serde_json::Value, who: As) -> Result<RequestBuilder, InfluxError> {
    let Server::Three { database, .. } = &http.connection.server else {
        return Err(http.wrong("is not of version 3"));
    };
    let body = json!({ "db": database, "q": query, "format": "jsonl", "params": bound });
    http.post_json("/api/v3/query_sql", &[], &body, who)
}

/// One object, in the order of its members.
pub struct Line(Vec<(Box<str>, Scalar)>);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Line;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Line(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// The lines of one answer.
pub struct Answer {
    connection: String,
    lines: Lines,
}

impl Answer {
    pub fn new(connection: &str) -> Self {
        Self { connection: connection.to_owned(), lines: Lines::new(connection) }
    }

    pub fn feed<E: From<InfluxError>>(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(Line) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { connection, lines } = self;
        lines.feed(bytes, &mut |line| object(connection, line, take))
    }

    /// An error unless the last line was whole.
    pub fn finish<E: From<InfluxError>>(self, take: &mut impl FnMut(Line) -> Result<(), E>) -> Result<(), E> {
        object(&self.connection, &self.lines.rest(), take)
    }
}

fn object<E: From<InfluxError>>(
    connection: &str,
    line: &[u8],
    take: &mut impl FnMut(Line) -> Result<(), E>,
) -> Result<(), E> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let begins = || shortened(&String::from_utf8_lossy(line));
    let line: Line = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) if error.is_eof() => {
            return Err(InfluxError::passing(connection, "the server cut its answer short; ask again").into());
        }
        Err(_) if std::str::from_utf8(line).is_err() => {
            let why = format!("the row {} holds bytes that are no UTF-8; correct or delete that point", begins());
            return Err(InfluxError::bad(connection, why).into());
        }
        Err(error) => {
            let why =
                format!("the answer is not that of InfluxDB 3 ({error}): {}; correct `url` or `version`", begins());
            return Err(InfluxError::wrong(connection, why).into());
        }
    };
    // An object about an error has nothing beside it; a row has at least its time.
    if let [(name, Scalar::Str(told))] = &line.0[..]
        && **name == *"error"
    {
        return Err(judged(connection, told).into());
    }
    take(line)
}

impl Line {
    fn take_text(&mut self, name: &str) -> Option<Box<str>> {
        let (_, value) = self.0.iter_mut().find(|(member, _)| **member == *name)?;
        match std::mem::replace(value, Scalar::Null) {
            Scalar::Str(text) => Some(text),
            _ => None,
        }
    }

    fn into_result<E: From<InfluxError>>(
        self,
        connection: &str,
        read: &mut Read,
        sink: &mut impl FnMut(ResultRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut columns = ResultRow::new();
        for (name, value) in self.0 {
            let cell = match value {
                Scalar::Str(text) if *name == *"time" => match time_ns(&text) {
                    Some(time) => Some(Cell::Time(time)),
                    None => Scalar::Str(text).into_cell(),
                },
                value => value.into_cell(),
            };
            columns.extend(cell.map(|cell| (name.into(), cell)));
        }
        points::give_result(connection, columns, read, sink)
    }
}

/// Which columns are tags, and what consecutive rows have in common.
pub struct Known {
    tags: Vec<Arc<str>>,
    fields: HashMap<Box<str>, (Arc<str>, FieldType)>,
    values: Vec<(usize, Box<str>)>,
    series: Option<Series>,
}

impl Known {
    pub fn new(schema: &Schema) -> Self {
        let fields = schema.fields.iter().map(|(name, kind)| ((&**name).into(), (name.clone(), *kind))).collect();
        Self { tags: schema.tags.clone(), fields, values: Vec::new(), series: None }
    }

    /// Hands out the values of a point.
    pub fn give<E: From<InfluxError>>(
        &mut self,
        line: Line,
        points: &mut Points,
        sink: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let wrong = |why: String| E::from(InfluxError::wrong(&points.connection, why));
        let (mut time, mut values, mut tags) = (None, Vec::with_capacity(line.0.len()), Vec::new());
        for (name, value) in line.0 {
            if *name == *"time" {
                let Scalar::Str(text) = &value else { return Err(wrong(format!("{value:?} is no time"))) };
                let read = time_ns(text).ok_or_else(|| wrong(format!("{} is no time", shortened(text))))?;
                if time.replace(read).is_some() {
                    return Err(wrong("a point has two times".to_owned()));
                }
            } else if let Some(field) = self.fields.get(&name) {
                values.push((field, value));
            } else if let Ok(at) = self.tags.binary_search_by(|tag| (**tag).cmp(&name)) {
                match value {
                    Scalar::Str(text) => tags.push((at, text)),
                    Scalar::Null => {}
                    other => return Err(wrong(format!("tag {name} is {other:?}, not a string"))),
                }
            } else {
                return Err(wrong(format!("the answer has a column {name} that was not asked for")));
            }
        }
        let Some(time) = time else { return Err(wrong("a point has no time".to_owned())) };
        let series = match &mut self.series {
            Some(series) if self.values == tags => series,
            series => {
                let named = tags.iter().map(|(at, value)| (&*self.tags[*at], &**value));
                let series = series.insert(Series::new(named));
                self.values = tags;
                series
            }
        };
        for ((field, kind), value) in values {
            match value.into_value(*kind) {
                Ok(Some(value)) => points.give(time, series, field, value, sink)?,
                Ok(None) => {}
                Err(found) => return Err(points.mistyped(series, field, time, found, *kind).into()),
            }
        }
        Ok(())
    }
}
