//! InfluxDB 2: Flux, answered by annotated CSV.
//!
//! The dialect is always asked for: without it the answer has no types. A string that is null and one that is empty are
//! the same on the wire, and a raw point that is there has a value: it is the empty one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use reqwest::RequestBuilder;
use serde::Deserialize;
use serde_json::json;

use super::body::{As, Http};
use super::csv::{Csv, Record};
use super::error::{judged, shortened};
use super::escape::{flux_period, flux_string, reads_flux};
use super::points::{self, Points, Series};
use super::text::{time_ns, written};
use super::{Credentials, InfluxError, Read, Schema, Selection, Server, Tested};
use crate::model::{Cell, FieldType, FieldValue, ResultRow, Row};

pub async fn test(http: &Http) -> Result<Tested, InfluxError> {
    #[derive(Deserialize)]
    struct Health {
        version: Option<String>,
    }
    let (status, _, body) = http.small(http.get("/health", As::Anybody)).await?;
    let version = serde_json::from_slice::<Health>(&body).ok().and_then(|health| health.version);
    let server_version = version.unwrap_or_default().trim_start_matches('v').to_owned();
    if !server_version.starts_with("2.") {
        let found = if server_version.is_empty() { status.to_string() } else { format!("InfluxDB {server_version}") };
        return Err(http.wrong(format!("the server answers {found}, not InfluxDB 2; correct `url` or `version`")));
    }
    // Neither the version nor the server's health needs the token: this does.
    let bucket = bucket(http)?;
    let query = format!("buckets() |> filter(fn: (r) => r.name == {}) |> limit(n: 1)", flux_string(bucket));
    let mut found = false;
    read(http, &query, &mut |_, _| {
        found = true;
        Ok(())
    })
    .await?;
    if found {
        return Ok(Tested { server_version, credentials: Credentials::Proven });
    }
    let why = format!("there is no bucket {bucket}, or the token may not read it; correct `bucket` or the token");
    Err(InfluxError::unknown(&http.connection.name, why))
}

/// The types of the fields within the period, from one point of each series.
pub async fn schema(http: &Http, selection: &Selection, period: Range<i64>) -> Result<Schema, InfluxError> {
    let name = &http.connection.name;
    let mut fields: BTreeMap<Arc<str>, FieldType> = BTreeMap::new();
    let measurement = &selection.measurement;
    let query = format!("{} |> first()", points_of(http, selection, &period)?);
    read(http, &query, &mut |block: &Block, record| {
        let layout = block.layout(name)?;
        let field = block.text(name, record, layout.field)?;
        if let Some(before) = fields.insert(field.into(), layout.kind)
            && before != layout.kind
        {
            let why = format!(
                "field {field} of {measurement} is {before} and {}; name the other fields in `fields`, or export the \
                 time before and after apart",
                layout.kind
            );
            return Err(InfluxError::bad(name, why));
        }
        Ok(())
    })
    .await?;
    if fields.is_empty() {
        let why = format!("there are no points of {measurement} in that time; correct the query's names or the period");
        return Err(InfluxError::unknown(name, why));
    }
    Ok(Schema { fields, tags: Vec::new() })
}

/// The request for the points of a slice.
pub fn rows(http: &Http, selection: &Selection, slice: &Range<i64>) -> Result<RequestBuilder, InfluxError> {
    post(http, &points_of(http, selection, slice)?)
}

fn points_of(http: &Http, selection: &Selection, slice: &Range<i64>) -> Result<String, InfluxError> {
    let is = |column: &str, value: &str| format!("r[{}] == {}", flux_string(column), flux_string(value));
    let mut wanted = vec![is("_measurement", &selection.measurement)];
    if !selection.fields.is_empty() {
        let fields: Vec<_> = selection.fields.iter().map(|field| is("_field", field)).collect();
        wanted.push(format!("({})", fields.join(" or ")));
    }
    wanted.extend(selection.tags.iter().map(|(tag, value)| is(tag, value)));
    Ok(format!(
        "from(bucket: {}) |> range(start: {}, stop: {}) |> filter(fn: (r) => {}) |> drop(columns: [\"_start\", \"_stop\"])",
        flux_string(bucket(http)?),
        written(slice.start),
        written(slice.end),
        wanted.join(" and ")
    ))
}

pub async fn table<E: From<InfluxError>>(
    http: &Http,
    text: &str,
    period: &Range<i64>,
    sink: &mut (impl FnMut(ResultRow) -> Result<(), E> + Send),
) -> Result<Read, E> {
    reads_flux(text).map_err(|mend| http.wrong(mend))?;
    let query = flux_period(text, &written(period.start), &written(period.end));
    let mut result = Read::default();
    read(http, &query, &mut |block, record| block.give_result(&http.connection.name, record, &mut result, sink))
        .await?;
    Ok(result)
}

async fn read<E: From<InfluxError>>(
    http: &Http,
    query: &str,
    take: &mut (impl FnMut(&Block, &Record) -> Result<(), E> + Send),
) -> Result<(), E> {
    let mut body = http.answer(post(http, query)).await?;
    let mut answer = Answer::new(&http.connection.name);
    while let Some(bytes) = body.next().await? {
        answer.feed(&bytes, take)?;
    }
    Ok(answer.finish()?)
}

fn post(http: &Http, query: &str) -> Result<RequestBuilder, InfluxError> {
    let Server::Two { org, .. } = &http.connection.server else { return Err(http.wrong("is not of version 2")) };
    let body = json!({
        "query": query,
        "type": "flux",
        "dialect": {
            "header": true,
            "delimiter": ",",
            "annotations": ["datatype", "group", "default"],
            "commentPrefix": "#",
            "dateTimeFormat": "RFC3339Nano",
        },
    });
    http.post_json("/api/v2/query", &[("org", org)], &body, As::Configured)
}

fn bucket(http: &Http) -> Result<&str, InfluxError> {
    match &http.connection.server {
        Server::Two { bucket, .. } => Ok(bucket),
        _ => Err(http.wrong("is not of version 2")),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Value(FieldType),
    Time,
    TimeNumber,
}

struct Column {
    name: Arc<str>,
    kind: Kind,
    group: bool,
    default: Box<str>,
}

/// Tables with the same columns.
pub struct Block {
    columns: Vec<Column>,
    /// Where the parts of a raw point are; known once it is asked for.
    layout: std::cell::OnceCell<Option<Layout>>,
}

/// Where the parts of a raw point are.
#[derive(Clone)]
struct Layout {
    time: usize,
    value: usize,
    kind: FieldType,
    field: usize,
    measurement: usize,
    tags: Vec<usize>,
}

/// The columns of every table before its own: the empty one of annotations, `result` and `table`.
const OWN: usize = 3;

/// An answer's blocks.
pub struct Answer {
    connection: String,
    csv: Csv,
    begun: bool,
    annotations: Annotations,
    at: At,
}

#[derive(Default)]
struct Annotations {
    datatype: Option<Vec<Box<str>>>,
    group: Option<Vec<Box<str>>>,
    default: Option<Vec<Box<str>>>,
}

enum At {
    /// Nothing, or an empty line, came before.
    Start,
    Annotations,
    Rows(Block),
    /// The rows that follow tell what went wrong; whether the first column is that of annotations.
    Failed(bool),
}

impl Answer {
    pub fn new(connection: &str) -> Self {
        let annotations = Annotations::default();
        Self { connection: connection.to_owned(), csv: Csv::default(), begun: false, annotations, at: At::Start }
    }

    pub fn feed<E: From<InfluxError>>(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(&Block, &Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { connection, csv, begun, annotations, at } = self;
        *begun |= !bytes.is_empty();
        let faulty = |fault| E::from(wrong(connection, &format!("it has {fault}")));
        csv.feed(bytes, faulty, &mut |record| take_record(connection, annotations, at, record, take))
    }

    /// An error unless the answer was whole: every result ends with an empty line, one without tables too.
    pub fn finish(self) -> Result<(), InfluxError> {
        if self.begun && self.csv.is_between_records() && matches!(self.at, At::Start) {
            return Ok(());
        }
        Err(InfluxError::passing(&self.connection, "the server cut its answer short; ask again"))
    }
}

fn wrong(connection: &str, what: &str) -> InfluxError {
    InfluxError::wrong(connection, format!("the answer is no annotated CSV: {what}; correct `url` or `version`"))
}

fn take_record<E: From<InfluxError>>(
    connection: &str,
    annotations: &mut Annotations,
    at: &mut At,
    record: &Record,
    take: &mut impl FnMut(&Block, &Record) -> Result<(), E>,
) -> Result<(), E> {
    if record.is_blank() {
        if matches!(at, At::Failed(_) | At::Annotations) {
            return Err(wrong(connection, "a table ends before its first row").into());
        }
        *at = At::Start;
        *annotations = Annotations::default();
        return Ok(());
    }
    if record.cell(0).starts_with(b"#") {
        if matches!(at, At::Rows(_)) {
            *annotations = Annotations::default();
        }
        *at = At::Annotations;
        return annotations.note(connection, record).map_err(E::from);
    }
    match at {
        At::Rows(block) => {
            if record.len() != block.columns.len() + 1 || !record.cell(0).is_empty() {
                return Err(wrong(connection, "a row does not fit its columns").into());
            }
            if !record.is_text() {
                let cells = (1..record.len()).map(|at| String::from_utf8_lossy(record.cell(at)));
                let row = shortened(&cells.collect::<Vec<_>>().join(","));
                let why = format!("the row {row} holds bytes that are no UTF-8; correct or delete that point");
                return Err(InfluxError::bad(connection, why).into());
            }
            take(block, record)
        }
        At::Failed(shifted) => {
            let first = usize::from(*shifted);
            let told = if first < record.len() { String::from_utf8_lossy(record.cell(first)) } else { "".into() };
            Err(judged(connection, &told).into())
        }
        At::Start | At::Annotations => {
            let is_failure = |first: usize| {
                record.len() == first + 2 && record.cell(first) == b"error" && record.cell(first + 1) == b"reference"
            };
            *at = match (is_failure(0), is_failure(1)) {
                (true, _) => At::Failed(false),
                (_, true) => At::Failed(true),
                _ => At::Rows(std::mem::take(annotations).block(connection, record)?),
            };
            Ok(())
        }
    }
}

impl Annotations {
    fn note(&mut self, connection: &str, record: &Record) -> Result<(), InfluxError> {
        if !record.is_text() {
            return Err(wrong(connection, "an annotation is no text"));
        }
        let cells = (1..record.len()).map(|at| String::from_utf8_lossy(record.cell(at)).into());
        let cells = Some(cells.collect());
        match record.cell(0) {
            b"#datatype" => self.datatype = cells,
            b"#group" => self.group = cells,
            b"#default" => self.default = cells,
            _ => {}
        }
        Ok(())
    }

    fn block(self, connection: &str, header: &Record) -> Result<Block, InfluxError> {
        let (Some(datatype), Some(group), Some(default)) = (self.datatype, self.group, self.default) else {
            return Err(wrong(connection, "a table has no annotations"));
        };
        let count = header.len() - 1;
        let fits = [&datatype, &group, &default].iter().all(|annotation| annotation.len() == count);
        let begins = count >= OWN - 1 && header.cell(1) == b"result" && header.cell(2) == b"table";
        if !fits || !begins || !header.is_text() {
            return Err(wrong(connection, "a table's header does not fit its annotations"));
        }
        let mut columns = Vec::with_capacity(count);
        for (at, default) in default.into_iter().enumerate() {
            let kind = kind(&datatype[at])
                .ok_or_else(|| wrong(connection, &format!("a column is of the unknown type {}", datatype[at])))?;
            let name = String::from_utf8_lossy(header.cell(at + 1)).into();
            columns.push(Column { name, kind, group: &*group[at] == "true", default });
        }
        Ok(Block { columns, layout: std::cell::OnceCell::new() })
    }
}

fn kind(datatype: &str) -> Option<Kind> {
    Some(match datatype {
        "boolean" => Kind::Value(FieldType::Bool),
        "unsignedLong" => Kind::Value(FieldType::U64),
        "long" => Kind::Value(FieldType::I64),
        "double" => Kind::Value(FieldType::F64),
        "string" | "base64Binary" | "duration" => Kind::Value(FieldType::Str),
        "dateTime:number" => Kind::TimeNumber,
        "dateTime" | "dateTime:RFC3339" | "dateTime:RFC3339Nano" => Kind::Time,
        _ => return None,
    })
}

impl Block {
    fn layout(&self, connection: &str) -> Result<&Layout, InfluxError> {
        let found = self.layout.get_or_init(|| {
            // The first two are the table's own, whatever tags are called.
            let own = || self.columns.iter().enumerate().skip(OWN - 1);
            let at = |name: &str| own().find(|(_, column)| *column.name == *name).map(|(at, _)| at);
            let value = at("_value")?;
            let Kind::Value(kind) = self.columns[value].kind else { return None };
            let is_tag = |column: &Column| {
                column.group && !matches!(&*column.name, "_start" | "_stop" | "_field" | "_measurement")
            };
            let tags = own().filter(|(_, column)| is_tag(column)).map(|(at, _)| at).collect();
            let (time, field, measurement) = (at("_time")?, at("_field")?, at("_measurement")?);
            Some(Layout { time, value, kind, field, measurement, tags })
        });
        found
            .as_ref()
            .ok_or_else(|| InfluxError::wrong(connection, "the answer holds no raw points; is there a proxy?"))
    }

    /// A cell, or its column's default; empty for none.
    fn text<'r>(&'r self, connection: &str, record: &'r Record, at: usize) -> Result<&'r str, InfluxError> {
        match std::str::from_utf8(record.cell(at + 1)) {
            Ok("") => Ok(&self.columns[at].default),
            Ok(text) => Ok(text),
            Err(_) => Err(wrong(connection, "a cell is no text")),
        }
    }

    fn time(&self, connection: &str, record: &Record, at: usize) -> Result<Option<i64>, InfluxError> {
        let text = self.text(connection, record, at)?;
        if text.is_empty() {
            return Ok(None);
        }
        let time = if self.columns[at].kind == Kind::TimeNumber { text.parse().ok() } else { time_ns(text) };
        time.map(Some).ok_or_else(|| wrong(connection, &format!("{} is no time", shortened(text))))
    }

    fn give_result<E: From<InfluxError>>(
        &self,
        connection: &str,
        record: &Record,
        read: &mut Read,
        sink: &mut impl FnMut(ResultRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut columns = ResultRow::new();
        for (at, column) in self.columns.iter().enumerate() {
            let text = self.text(connection, record, at)?;
            // The number of a table only groups rows, and the usual name of the result says nothing.
            if at == 1 || (at == 0 && text == "_result") || (text.is_empty() && !column.is_text()) {
                continue;
            }
            let cell = match column.kind {
                Kind::Value(kind) => Cell::Value(value(connection, kind, text)?),
                Kind::Time | Kind::TimeNumber => match self.time(connection, record, at)? {
                    Some(time) => Cell::Time(time),
                    None => continue,
                },
            };
            columns.push((column.name.clone(), cell));
        }
        points::give_result(connection, columns, read, sink)
    }
}

impl Column {
    fn is_text(&self) -> bool {
        self.kind == Kind::Value(FieldType::Str)
    }
}

fn value(connection: &str, kind: FieldType, text: &str) -> Result<FieldValue, InfluxError> {
    let parsed = match kind {
        FieldType::F64 => text.parse().ok().map(FieldValue::F64),
        FieldType::I64 => text.parse().ok().map(FieldValue::I64),
        FieldType::U64 => text.parse().ok().map(FieldValue::U64),
        FieldType::Bool => text.parse().ok().map(FieldValue::Bool),
        FieldType::Str => Some(FieldValue::Str(text.into())),
    };
    parsed.ok_or_else(|| wrong(connection, &format!("{} is not of its column's type {kind}", shortened(text))))
}

/// What consecutive rows have in common.
#[derive(Default)]
pub struct Known {
    field: Option<(Arc<str>, FieldType)>,
    tags: Vec<(Arc<str>, Box<str>)>,
    series: Option<Series>,
}

impl Known {
    /// Hands out the value of a raw point.
    pub fn give<E: From<InfluxError>>(
        &mut self,
        block: &Block,
        record: &Record,
        points: &mut Points,
        sink: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let connection = points.connection.clone();
        let layout = block.layout(&connection)?;
        let text = |at| block.text(&connection, record, at);
        if text(layout.measurement)? != &*points.measurement {
            let why = format!("the answer is about {} instead of {}", text(layout.measurement)?, points.measurement);
            return Err(InfluxError::wrong(&connection, why).into());
        }
        let name = text(layout.field)?;
        let (field, kind) = match &self.field {
            Some((field, kind)) if **field == *name => (field.clone(), *kind),
            _ => self.field.insert(points.field(name)?).clone(),
        };
        let is_known = self.series.is_some() && self.tags.len() == layout.tags.len();
        let mut same = is_known;
        for (at, (tag, value)) in layout.tags.iter().zip(&self.tags).take_while(|_| is_known) {
            same &= block.columns[*at].name == *tag && text(*at)? == &**value;
        }
        if !same {
            self.tags.clear();
            for at in &layout.tags {
                self.tags.push((block.columns[*at].name.clone(), text(*at)?.into()));
            }
            self.series = Some(Series::new(self.tags.iter().map(|(tag, value)| (&**tag, &**value))));
        }
        let Some(series) = &self.series else { return Ok(()) };
        let Some(time) = block.time(&connection, record, layout.time)? else {
            return Err(wrong(&connection, "a point has no time").into());
        };
        if layout.kind != kind {
            return Err(points.mistyped(series, name, time, layout.kind.as_str(), kind).into());
        }
        let text = text(layout.value)?;
        if text.is_empty() && kind != FieldType::Str {
            return Ok(());
        }
        points.give(time, series, &field, value(&connection, kind, text)?, sink)
    }
}
