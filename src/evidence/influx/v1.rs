//! InfluxDB 1: InfluxQL, answered by a stream of JSON documents.
//!
//! Tags are told from fields by `GROUP BY *`, which moves them out of the columns. CSV is never asked for: there a value
//! that is missing repeats the one before it (influxdb issue 8343).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use reqwest::{RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::body::{As, Http, told};
use super::error::judged;
use super::escape::{influxql_name, one_reading_statement};
use super::points::{self, Points};
use super::text::{Lines, Scalar};
use super::{Credentials, InfluxError, Read, Schema, Selection, Server, Tested};
use crate::model::{Cell, FieldType, FieldValue, ResultRow, Row};

/// Values in one document, so that it takes some ten KB; a string may have 64 KB, so that there are fewer of them.
const NUMBERS_AT_ONCE: usize = 4_000;
const STRINGS_AT_ONCE: usize = 200;

pub async fn test(http: &Http) -> Result<Tested, InfluxError> {
    let server_version = server_version(http).await?;
    let Server::One { database, retention_policy, login } = &http.connection.server else {
        return Err(http.wrong("is not of version 1"));
    };
    let policies = format!("SHOW RETENTION POLICIES ON {}", influxql_name(database));
    // Without authentication wrong credentials are taken as well: only the refusal of nobody says that they count.
    let is_open = http.is_answered(post(http, &policies, &json!({}), 1, As::Anybody)).await?;
    if !is_open && login.is_none() {
        let why = "the server asks for credentials; give `username` and `password`";
        return Err(InfluxError::refused(&http.connection.name, why));
    }
    let mut known = Vec::new();
    read(http, &policies, &mut |series: Series| {
        known.extend(series.column("name")?.filter_map(text));
        Ok(())
    })
    .await?;
    if let Some(wanted) = retention_policy
        && !known.iter().any(|known| **known == **wanted)
    {
        let why = format!("database {database} has no retention policy {wanted}; there are: {}", known.join(", "));
        return Err(InfluxError::unknown(&http.connection.name, why));
    }
    let credentials = if is_open { Credentials::NotAsked } else { Credentials::Proven };
    Ok(Tested { server_version, credentials })
}

async fn server_version(http: &Http) -> Result<String, InfluxError> {
    let (status, headers, body) = http.small(http.get("/ping", As::Configured)).await?;
    let version = headers.get("x-influxdb-version").and_then(|version| version.to_str().ok());
    let version = version.map(|version| version.trim_start_matches('v').to_owned());
    match version {
        Some(version) if status.is_success() && version.starts_with("1.") => Ok(version),
        Some(version) if status.is_success() => {
            Err(http.wrong(format!("the server is InfluxDB {version}; correct `version`")))
        }
        _ if status == StatusCode::UNAUTHORIZED => {
            let why = format!("the server answers {status}: {}; correct the credentials", told(&body));
            Err(InfluxError::refused(&http.connection.name, why))
        }
        _ => Err(http.wrong(format!("{status} without a version is no answer of InfluxDB 1; correct `url`"))),
    }
}

/// The types of fields over all time: version 1 tells them for no other.
pub async fn schema(http: &Http, selection: &Selection) -> Result<Schema, InfluxError> {
    let name = &http.connection.name;
    let mut fields: BTreeMap<Arc<str>, FieldType> = BTreeMap::new();
    let query = format!("SHOW FIELD KEYS FROM {}", source(http, selection));
    read(http, &query, &mut |series: Series| {
        let kinds = series.column("fieldType")?.collect::<Vec<_>>();
        for (field, kind) in series.column("fieldKey")?.zip(kinds) {
            let (Some(field), Some(kind)) = (text(field), text(kind)) else { continue };
            if !selection.fields.is_empty() && !selection.fields.iter().any(|wanted| **wanted == *field) {
                continue;
            }
            let kind = match &*kind {
                "float" => FieldType::F64,
                "integer" => FieldType::I64,
                "unsigned" => FieldType::U64,
                "boolean" => FieldType::Bool,
                "string" => FieldType::Str,
                other => return Err(http.wrong(format!("field {field} is of the unknown type {other}"))),
            };
            if let Some(before) = fields.insert(field.clone().into(), kind)
                && before != kind
            {
                let measurement = &selection.measurement;
                let mend = "name the other fields in `fields`, or rewrite it as one type";
                let why = format!("field {field} of {measurement} is {before} and {kind}; {mend}");
                return Err(InfluxError::bad(name, why));
            }
        }
        Ok(())
    })
    .await?;
    Schema::of(name, selection, fields, None)
}

/// The request for the points of a slice.
pub fn rows(
    http: &Http,
    selection: &Selection,
    schema: &Schema,
    slice: &Range<i64>,
) -> Result<RequestBuilder, InfluxError> {
    let fields: Vec<_> = schema.fields.keys().map(|field| format!("{}::field", influxql_name(field))).collect();
    let mut query =
        format!("SELECT {} FROM {} WHERE time >= $from AND time < $to", fields.join(", "), source(http, selection));
    let mut bound = json!({ "from": slice.start, "to": slice.end });
    for (at, (tag, value)) in selection.tags.iter().enumerate() {
        query.push_str(&format!(" AND {}::tag = $t{at}", influxql_name(tag)));
        bound[format!("t{at}")] = json!(value);
    }
    query.push_str(" GROUP BY *");
    let strings = schema.fields.values().filter(|kind| **kind == FieldType::Str).count();
    let points =
        (NUMBERS_AT_ONCE / fields.len().max(1)).min(STRINGS_AT_ONCE.checked_div(strings).unwrap_or(usize::MAX));
    post(http, &query, &bound, points.max(1), As::Configured)
}

pub async fn table<E: From<InfluxError>>(
    http: &Http,
    text: &str,
    period: &Range<i64>,
    sink: &mut (impl FnMut(ResultRow) -> Result<(), E> + Send),
) -> Result<Read, E> {
    one_reading_statement(text).map_err(|mend| http.wrong(mend))?;
    let bound = json!({ "from": period.start, "to": period.end });
    let mut body = http.answer(post(http, text, &bound, STRINGS_AT_ONCE, As::Configured)).await?;
    let mut answer = Answer::new(&http.connection.name);
    let mut read = Read::default();
    let mut take = |series: Series| series.into_results(http, &mut read, sink);
    while let Some(bytes) = body.next().await? {
        answer.feed(&bytes, &mut take)?;
    }
    answer.finish(&mut take)?;
    Ok(read)
}

/// Reads a small answer.
async fn read(
    http: &Http,
    query: &str,
    take: &mut (impl FnMut(Series) -> Result<(), InfluxError> + Send),
) -> Result<(), InfluxError> {
    let mut body = http.answer(post(http, query, &json!({}), NUMBERS_AT_ONCE, As::Configured)).await?;
    let mut answer = Answer::new(&http.connection.name);
    while let Some(bytes) = body.next().await? {
        answer.feed(&bytes, take)?;
    }
    answer.finish(take)
}

fn post(
    http: &Http,
    query: &str,
    bound: &serde_json::Value,
    points: usize,
    who: As,
) -> Result<RequestBuilder, InfluxError> {
    let Server::One { database, retention_policy, .. } = &http.connection.server else {
        return Err(http.wrong("is not of version 1"));
    };
    let (bound, points) = (bound.to_string(), points.to_string());
    let mut parameters = vec![
        ("db", database.as_str()),
        ("q", query),
        ("params", &bound),
        ("epoch", "ns"),
        ("chunked", "true"),
        ("chunk_size", &points),
    ];
    if let Some(policy) = retention_policy {
        parameters.push(("rp", policy));
    }
    http.post_form("/query", &parameters, who)
}

/// The measurement, in its retention policy if one is configured.
fn source(http: &Http, selection: &Selection) -> String {
    let measurement = influxql_name(&selection.measurement);
    match &http.connection.server {
        Server::One { retention_policy: Some(policy), .. } => format!("{}.{measurement}", influxql_name(policy)),
        _ => measurement,
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    results: Vec<ResultPart>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct ResultPart {
    #[serde(default)]
    series: Vec<Series>,
    error: Option<String>,
    #[serde(default)]
    partial: bool,
}

/// A piece of a series.
#[derive(Deserialize)]
pub struct Series {
    #[serde(default)]
    name: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    columns: Vec<String>,
    #[serde(default)]
    values: Vec<Vec<Scalar>>,
    #[serde(default)]
    partial: bool,
}

/// The documents of one answer.
pub struct Answer {
    connection: String,
    lines: Lines,
    begun: bool,
    /// The last document said that more follows.
    more: bool,
}

impl Answer {
    pub fn new(connection: &str) -> Self {
        Self { connection: connection.to_owned(), lines: Lines::new(connection), begun: false, more: false }
    }

    pub fn feed<E: From<InfluxError>>(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(Series) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { connection, lines, begun, more } = self;
        lines.feed(bytes, &mut |line| document(connection, line, begun, more, take))
    }

    /// An error unless the answer was whole.
    pub fn finish<E: From<InfluxError>>(mut self, take: &mut impl FnMut(Series) -> Result<(), E>) -> Result<(), E> {
        let rest = self.lines.rest();
        document(&self.connection, &rest, &mut self.begun, &mut self.more, take)?;
        if self.begun && !self.more {
            return Ok(());
        }
        Err(InfluxError::passing(&self.connection, "the server cut its answer short; ask again").into())
    }
}

fn document<E: From<InfluxError>>(
    connection: &str,
    line: &[u8],
    begun: &mut bool,
    more: &mut bool,
    take: &mut impl FnMut(Series) -> Result<(), E>,
) -> Result<(), E> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let document: Document = match serde_json::from_slice(line) {
        Ok(document) => document,
        Err(error) if error.is_eof() => {
            return Err(InfluxError::passing(connection, "the server cut its answer short; ask again").into());
        }
        Err(_) if std::str::from_utf8(line).is_err() => {
            let begins = super::error::shortened(&String::from_utf8_lossy(line));
            let why = format!("the answer holds bytes that are no UTF-8, in {begins}; correct or delete that point");
            return Err(InfluxError::bad(connection, why).into());
        }
        Err(error) => {
            let begins = super::error::shortened(&String::from_utf8_lossy(line));
            let why = format!("the answer is not that of InfluxDB 1 ({error}): {begins}; correct `url` or `version`");
            return Err(InfluxError::wrong(connection, why).into());
        }
    };
    if let Some(error) = document.error {
        return Err(judged(connection, &error).into());
    }
    *begun |= !document.results.is_empty();
    for result in document.results {
        if let Some(error) = result.error {
            return Err(judged(connection, &error).into());
        }
        *more = result.partial || result.series.last().is_some_and(|series| series.partial);
        for series in result.series {
            if series.values.iter().any(|row| row.len() != series.columns.len()) {
                let why = format!("series {} has rows that do not fit its columns; is there a proxy?", series.name);
                return Err(InfluxError::wrong(connection, why).into());
            }
            take(series)?;
        }
    }
    Ok(())
}

/// Hands out the rows of a piece of a series.
pub fn give<E: From<InfluxError>>(
    series: Series,
    points: &mut Points,
    sink: &mut impl FnMut(Row) -> Result<(), E>,
) -> Result<(), E> {
    let wrong = |points: &Points, why: String| E::from(InfluxError::wrong(&points.connection, why));
    if *series.name != *points.measurement || series.columns.first().is_none_or(|first| first != "time") {
        let why = format!("the answer is about {} instead of {}", series.name, points.measurement);
        return Err(wrong(points, why));
    }
    let fields: Vec<_> = series.columns[1..].iter().map(|name| points.field(name)).collect::<Result<_, _>>()?;
    // Here an empty tag says that the point has none.
    let tags = series.tags.iter().filter(|(_, value)| !value.is_empty());
    let tags = points::Series::new(tags.map(|(tag, value)| (tag.as_str(), value.as_str())));
    for row in series.values {
        let mut row = row.into_iter();
        let Some(Scalar::I64(time_ns)) = row.next() else {
            return Err(wrong(points, format!("a point of {} has no time in ns", points.measurement)));
        };
        for (value, (field, kind)) in row.zip(&fields) {
            match value.into_value(*kind) {
                Ok(Some(value)) => points.give(time_ns, &tags, field, value, sink)?,
                Ok(None) => {}
                Err(found) => return Err(points.mistyped(&tags, field, time_ns, found, *kind).into()),
            }
        }
    }
    Ok(())
}

fn text(value: Scalar) -> Option<Box<str>> {
    if let Scalar::Str(text) = value { Some(text) } else { None }
}

impl Series {
    /// The values of a column of a small answer.
    fn column(&self, name: &str) -> Result<impl Iterator<Item = Scalar>, InfluxError> {
        let at = self.columns.iter().position(|column| column == name);
        Ok(self.values.iter().filter_map(move |row| row.get(at?).cloned()))
    }

    /// Hands out rows of a free query: the columns, the tags it is grouped by, and the name of the series.
    fn into_results<E: From<InfluxError>>(
        self,
        http: &Http,
        read: &mut Read,
        sink: &mut impl FnMut(ResultRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let names: Vec<Arc<str>> = self.columns.iter().map(|name| name.as_str().into()).collect();
        let mut same = Vec::new();
        if !self.name.is_empty() {
            same.push(("_measurement".into(), Cell::Value(FieldValue::Str(self.name.as_str().into()))));
        }
        for (tag, value) in self.tags.iter().filter(|(_, value)| !value.is_empty()) {
            same.push((tag.as_str().into(), Cell::Value(FieldValue::Str(value.as_str().into()))));
        }
        for row in self.values {
            let mut columns: ResultRow = same.clone();
            for (name, value) in names.iter().zip(row) {
                let cell = match value {
                    Scalar::I64(time) if **name == *"time" => Some(Cell::Time(time)),
                    other => other.into_cell(),
                };
                columns.extend(cell.map(|cell| (name.clone(), cell)));
            }
            points::give_result(&http.connection.name, columns, read, sink)?;
        }
        Ok(())
    }
}
