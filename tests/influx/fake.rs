//! Servers that answer in the documented formats of InfluxDB 1, 2 and 3, for any rows: in another order each time,
//! packed or not, cut into pieces anywhere. What else should go wrong is said with [`Fake::spoil`].
//!
//! They understand the requests of this program and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use meterseal::evidence::influx::{Connection, PATIENCE, Secret, Server};
use meterseal::model::{FieldType, FieldValue, Row};
use serde_json::{Value, json};

pub const TOKEN: &str = "a-token-of-this-test";
pub const DATABASE: &str = "plant";

pub struct Fake {
    pub version: u8,
    pub port: u16,
    shared: Arc<Shared>,
}

type Harm = Box<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;

struct Shared {
    version: u8,
    rows: Vec<Row>,
    harm: Mutex<Option<Arc<Harm>>>,
    asked: AtomicUsize,
}

/// A request for points.
#[allow(dead_code, reason = "not all of the tests that share this file look at it")]
pub struct Asked {
    /// From 0, over the server's life.
    pub number: usize,
    pub text: String,
    /// The slice, in ns.
    pub from: i64,
    pub to: i64,
}

#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub ends: Ends,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Ends {
    Well,
    /// The connection is closed after so many bytes.
    Lost(usize),
    /// Nothing comes after so many bytes, but the connection stays.
    Stalled(usize),
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), ends: Ends::Well }
    }

    fn json(status: u16, body: Value) -> Self {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Self { headers, ..Self::new(status, body.to_string() + "\n") }
    }
}

impl Fake {
    /// Version 1 takes anybody, as it does by default; the others want [`TOKEN`].
    pub fn start(version: u8, rows: Vec<Row>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { version, rows, harm: Mutex::default(), asked: AtomicUsize::new(0) });
        let serving = shared.clone();
        // It ends with the test's process: a thread that only waits for connections costs nothing.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), shared) = (stream, serving.clone()) else { return };
                // A client that goes away in the middle is none of the server's business.
                thread::spawn(move || shared.serve(&stream).ok());
            }
        });
        Self { version, port, shared }
    }

    pub fn connection(&self) -> Connection {
        let token = Secret(TOKEN.to_owned());
        let database = DATABASE.to_owned();
        let server = match self.version {
            1 => Server::One { database, retention_policy: None, login: None },
            2 => Server::Two { org: "plant".to_owned(), bucket: database, token },
            _ => Server::Three { database, token: Some(token) },
        };
        let (name, url) = ("historian".to_owned(), format!("http://127.0.0.1:{}", self.port));
        Connection { name, url, server, ca: None, patience: PATIENCE }
    }

    /// The same connection as it stands in a config.
    #[allow(dead_code, reason = "only some of the tests that share this file run a whole program")]
    pub fn config(&self) -> String {
        let more = match self.version {
            1 => format!("database = \"{DATABASE}\""),
            2 => format!("org = \"plant\"\nbucket = \"{DATABASE}\"\ntoken = \"{TOKEN}\""),
            _ => format!("database = \"{DATABASE}\"\ntoken = \"{TOKEN}\""),
        };
        let (version, port) = (self.version, self.port);
        format!("[[influx]]\nname = \"historian\"\nversion = {version}\nurl = \"http://127.0.0.1:{port}\"\n{more}\n")
    }

    /// Changes every answer about points from now on.
    #[allow(dead_code, reason = "not all of the tests that share this file spoil something")]
    pub fn spoil(&self, harm: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) {
        *self.shared.harm.lock().unwrap() = Some(Arc::new(Box::new(harm)));
    }

    #[allow(dead_code, reason = "not all of the tests that share this file spoil something")]
    pub fn heal(&self) {
        *self.shared.harm.lock().unwrap() = None;
    }

    /// How many requests for points there were.
    #[allow(dead_code, reason = "not all of the tests that share this file count")]
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

/// `count` values of every type, in the order of a dataset: one measurement, a few series, some points without some of
/// the fields. The same each time.
#[allow(dead_code, reason = "not all of the tests that share this file need many")]
pub fn points(measurement: &str, from_ns: i64, step_ns: i64, count: usize) -> Vec<Row> {
    let mut dice = Dice(7);
    let measurement: Arc<str> = measurement.into();
    let fields = ["count", "name, with = \\n", "ok", "power", "total"].map(Arc::<str>::from);
    let tags: Vec<meterseal::model::Tags> =
        [&[("line", "a"), ("meter", "m 1")][..], &[("line", "b, c=d"), ("meter", "\"ä\\b")], &[("meter", "${x}")]]
            .map(|tags| tags.iter().map(|(tag, value)| ((*tag).into(), (*value).into())).collect())
            .into();
    let mut rows = Vec::with_capacity(count);
    for point in 0.. {
        let time_ns = from_ns + i64::try_from(point / tags.len()).unwrap() * step_ns;
        for field in &fields {
            if dice.one_in(5) {
                continue;
            }
            if rows.len() == count {
                return rows;
            }
            let number = dice.next();
            let value = match &**field {
                "count" => FieldValue::I64(number.cast_signed()),
                "total" => FieldValue::U64(number),
                "ok" => FieldValue::Bool(number.is_multiple_of(2)),
                "power" if dice.one_in(4) => FieldValue::F64(f64::from(u16::try_from(number % 1_000).unwrap())),
                "power" => {
                    let power = f64::from_bits(number);
                    FieldValue::F64(if power.is_finite() { power } else { 0.5 })
                }
                _ => FieldValue::Str(format!("näme\r\n\"{}\", {}", number % 97, number % 3).into()),
            };
            let (measurement, tags, field) = (measurement.clone(), tags[point % tags.len()].clone(), field.clone());
            rows.push(Row { time_ns, measurement, tags, field, value });
        }
    }
    rows
}

/// Numbers that look random, and are the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

struct Request {
    path: String,
    parameters: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Parameters of an address or a form.
fn parameters(encoded: &str) -> BTreeMap<String, String> {
    let address = reqwest::Url::parse(&format!("http://x/?{encoded}")).unwrap();
    address.query_pairs().into_owned().collect()
}

impl Shared {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        // Until the client has enough of the connection.
        while let Some(request) = read(&mut reader)? {
            let mut dice = Dice(u64::try_from(self.asked.load(Ordering::SeqCst)).unwrap() + 1);
            let mut answer = self.answer(&request, &mut dice);
            // Proxies say of what has no body, too, that it is packed.
            let packed = request.headers.get("accept-encoding").is_some_and(|takes| takes.contains("gzip"))
                && (answer.status == 204 || dice.one_in(2));
            if packed {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&answer.body)?;
                answer.body = encoder.finish()?;
                answer.headers.push(("Content-Encoding", "gzip".to_owned()));
            }
            if !write(stream, &answer, &mut dice)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request, dice: &mut Dice) -> Answer {
        match self.version {
            1 => self.one(request, dice),
            2 => self.two(request, dice),
            _ => self.three(request, dice),
        }
    }

    /// An answer about points, as it is or spoilt.
    fn points(&self, text: &str, from: i64, to: i64, answer: impl FnOnce(Vec<&Row>) -> Answer) -> Answer {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let within = self.rows.iter().filter(|row| (from..to).contains(&row.time_ns)).collect();
        let answer = answer(within);
        let harm = self.harm.lock().unwrap().clone();
        match harm {
            Some(harm) => harm(&Asked { number, text: text.to_owned(), from, to }, answer),
            None => answer,
        }
    }

    /// The names of tags, and the types of fields, of a measurement.
    fn schema(&self, measurement: &str) -> (BTreeSet<&str>, BTreeMap<&str, FieldType>) {
        let rows = self.rows.iter().filter(|row| *row.measurement == *measurement);
        let (mut tags, mut fields) = (BTreeSet::new(), BTreeMap::new());
        for row in rows {
            tags.extend(row.tags.iter().map(|(tag, _)| &**tag));
            fields.insert(&*row.field, row.value.kind());
        }
        (tags, fields)
    }

    fn one(&self, request: &Request, dice: &mut Dice) -> Answer {
        if request.path == "/ping" {
            let headers = vec![("X-Influxdb-Version", "1.8.10".to_owned()), ("X-Influxdb-Build", "OSS".to_owned())];
            return Answer { headers, ..Answer::new(204, "") };
        }
        let parameter = |name: &str| request.parameters.get(name).map_or("", String::as_str);
        let told = |result: Value| Answer::json(200, json!({ "results": [result] }));
        if parameter("db") != DATABASE {
            return told(json!({ "statement_id": 0, "error": format!("database not found: {}", parameter("db")) }));
        }
        let query = parameter("q");
        let bound: Value = serde_json::from_str(parameter("params")).unwrap();
        if query.starts_with("SHOW RETENTION POLICIES") {
            let columns = json!(["name", "duration", "shardGroupDuration", "replicaN", "default"]);
            let values = json!([["autogen", "0s", "168h0m0s", 1, true]]);
            return told(json!({ "statement_id": 0, "series": [{ "columns": columns, "values": values }] }));
        }
        if let Some(source) = query.strip_prefix("SHOW FIELD KEYS FROM ") {
            let measurement = influxql_name(source).0;
            let (_, fields) = self.schema(&measurement);
            if fields.is_empty() {
                return told(json!({ "statement_id": 0 }));
            }
            let kind = |kind| match kind {
                FieldType::F64 => "float",
                FieldType::I64 => "integer",
                FieldType::U64 => "unsigned",
                FieldType::Bool => "boolean",
                FieldType::Str => "string",
            };
            let values: Vec<_> = fields.iter().map(|(field, of)| json!([field, kind(*of)])).collect();
            let columns = json!(["fieldKey", "fieldType"]);
            let series = json!([{ "name": measurement, "columns": columns, "values": values }]);
            return told(json!({ "statement_id": 0, "series": series }));
        }
        let Some(mut rest) = query.strip_prefix("SELECT ") else {
            return Answer::json(400, json!({ "error": "error parsing query: found that, expected this at line 1" }));
        };
        let mut fields = Vec::new();
        while rest.starts_with('"') {
            let (field, after) = influxql_name(rest);
            fields.push(field);
            rest = after.strip_prefix("::field").unwrap().trim_start_matches([',', ' ']);
        }
        let (measurement, mut rest) = influxql_name(rest.strip_prefix("FROM ").unwrap());
        let mut wanted = Vec::new();
        while let Some((_, after)) = rest.split_once(" AND \"") {
            let (tag, after) = influxql_name(&query[query.len() - after.len() - 1..]);
            let (name, _) = after.strip_prefix("::tag = $").unwrap().split_once(' ').unwrap();
            wanted.push((tag, bound[name].as_str().unwrap()));
            rest = after;
        }
        let limit: usize = parameter("chunk_size").parse().unwrap();
        assert_eq!((parameter("epoch"), parameter("chunked")), ("ns", "true"));
        let (from, to) = (bound["from"].as_i64().unwrap(), bound["to"].as_i64().unwrap());
        let tags = self.schema(&measurement).0;
        self.points(query, from, to, |rows| {
            let rows = rows.into_iter().filter(|row| is_wanted(row, &measurement, &fields, &wanted));
            Answer::new(200, documents(rows, &fields, &tags, limit, dice))
        })
    }

    fn two(&self, request: &Request, dice: &mut Dice) -> Answer {
        if request.path == "/health" {
            let health = json!({ "name": "influxdb", "message": "ready for queries and writes", "status": "pass",
                                 "checks": [], "version": "v2.7.6", "commit": "407fa622e9" });
            return Answer::json(200, health);
        }
        if request.headers.get("authorization").is_none_or(|given| *given != format!("Token {TOKEN}")) {
            return Answer::json(401, json!({ "code": "unauthorized", "message": "unauthorized access" }));
        }
        if request.parameters.get("org").is_none_or(|org| org != "plant") {
            let message = "organization name \"other\" not found";
            return Answer::json(404, json!({ "code": "not found", "message": message }));
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["dialect"]["annotations"], json!(["datatype", "group", "default"]));
        let query = body["query"].as_str().unwrap();
        if query.starts_with("buckets()") {
            let known = query.contains(&format!("r.name == \"{DATABASE}\""));
            let table = "#datatype,string,long,string,string\r\n#group,false,false,false,false\r\n#default,_result,,,\r\n\
                         ,result,table,name,id\r\n,,0,plant,0a1b2c3d\r\n";
            return Answer::new(200, format!("{}\r\n", if known { table } else { "" }));
        }
        let Some(rest) = query.strip_prefix("from(bucket: ") else {
            let message = "compilation failed: error at @1:1-1:2: invalid expression";
            return Answer::json(400, json!({ "code": "invalid", "message": message }));
        };
        let (bucket, rest) = flux_string(rest);
        if bucket != DATABASE {
            let message = format!("failed to initialize execute state: could not find bucket \"{bucket}\"");
            return Answer::json(404, json!({ "code": "not found", "message": message }));
        }
        let (_, rest) = rest.split_once("start: ").unwrap();
        let (from, rest) = rest.split_once(", stop: ").unwrap();
        let (to, mut rest) = rest.split_once(')').unwrap();
        let (mut measurement, mut fields, mut wanted) = (String::new(), Vec::new(), Vec::new());
        while let Some((_, after)) = rest.split_once("r[") {
            let (column, after) = flux_string(after);
            let (value, after) = flux_string(after.strip_prefix("] == ").unwrap());
            match column.as_str() {
                "_measurement" => measurement = value,
                "_field" => fields.push(value),
                _ => wanted.push((column, value)),
            }
            rest = after;
        }
        let wanted: Vec<_> = wanted.iter().map(|(tag, value)| (tag.clone(), value.as_str())).collect();
        let ns = |text: &str| i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap();
        let first = query.contains("|> first()");
        let mut csv = |rows: Vec<&Row>| {
            let rows = rows.into_iter().filter(|row| is_wanted(row, &measurement, &fields, &wanted));
            let headers = vec![("Content-Type", "text/csv; charset=utf-8".to_owned())];
            Answer { headers, ..Answer::new(200, annotated(rows, first, dice)) }
        };
        if first {
            let (from, to) = (ns(from), ns(to));
            return csv(self.rows.iter().filter(|row| (from..to).contains(&row.time_ns)).collect());
        }
        self.points(query, ns(from), ns(to), csv)
    }

    fn three(&self, request: &Request, dice: &mut Dice) -> Answer {
        if request.headers.get("authorization").is_none_or(|given| *given != format!("Bearer {TOKEN}")) {
            return Answer::new(401, "");
        }
        if request.path == "/ping" {
            return Answer::json(200, json!({ "version": "3.4.2", "revision": "a1b2c3d", "process_id": "1" }));
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["format"], "jsonl");
        if body["db"] != DATABASE {
            return Answer::json(404, json!({ "error": format!("database not found: {}", body["db"]) }));
        }
        let (query, bound) = (body["q"].as_str().unwrap(), &body["params"]);
        if query.contains("information_schema.tables") {
            return Answer::new(200, "{\"table_name\":\"energy\"}\n");
        }
        if query.contains("information_schema.columns") {
            let (tags, fields) = self.schema(bound["table"].as_str().unwrap());
            let kind = |kind| match kind {
                FieldType::F64 => "Float64",
                FieldType::I64 => "Int64",
                FieldType::U64 => "UInt64",
                FieldType::Bool => "Boolean",
                FieldType::Str => "Utf8",
            };
            let mut columns: Vec<_> = tags.iter().map(|tag| (*tag, "Dictionary(Int32, Utf8)")).collect();
            columns.extend(fields.iter().map(|(field, of)| (*field, kind(*of))));
            if !fields.is_empty() {
                columns.push(("time", "Timestamp(Nanosecond, None)"));
            }
            dice.shuffle(&mut columns);
            let line = |(name, kind)| json!({ "column_name": name, "data_type": kind }).to_string() + "\n";
            return Answer::new(200, columns.into_iter().map(line).collect::<String>());
        }
        let Some(mut rest) = query.strip_prefix("SELECT time, ") else {
            let error = "query error: error while planning query: SQL error";
            return Answer::json(400, json!({ "error": error }));
        };
        let mut columns = Vec::new();
        while rest.starts_with('"') {
            let (column, after) = sql_name(rest);
            columns.push(column);
            rest = after.trim_start_matches([',', ' ']);
        }
        let (measurement, mut rest) = sql_name(rest.strip_prefix("FROM ").unwrap());
        let mut wanted = Vec::new();
        while let Some((_, after)) = rest.split_once(" AND \"") {
            let (tag, after) = sql_name(&query[query.len() - after.len() - 1..]);
            let name = after.strip_prefix(" = $").unwrap().split(' ').next().unwrap();
            wanted.push((tag, bound[name].as_str().unwrap()));
            rest = after;
        }
        let ns = |name: &str| {
            let time: jiff::Timestamp = bound[name].as_str().unwrap().parse().unwrap();
            i64::try_from(time.as_nanosecond()).unwrap()
        };
        let fields: Vec<_> =
            columns.iter().filter(|name| self.schema(&measurement).1.contains_key(name.as_str())).cloned().collect();
        self.points(query, ns("from"), ns("to"), |rows| {
            let rows = rows.into_iter().filter(|row| is_wanted(row, &measurement, &fields, &wanted));
            let headers = vec![("Content-Type", "application/jsonl".to_owned())];
            Answer { headers, ..Answer::new(200, objects(rows, dice)) }
        })
    }
}

fn is_wanted(row: &Row, measurement: &str, fields: &[String], tags: &[(String, &str)]) -> bool {
    *row.measurement == *measurement
        && (fields.is_empty() || fields.iter().any(|field| **field == *row.field))
        && tags.iter().all(|(tag, value)| row.tags.iter().any(|(has, is)| **has == **tag && **is == **value))
}

/// A name in double quotes as InfluxQL escapes it, and what follows.
fn influxql_name(text: &str) -> (String, &str) {
    let (mut name, mut chars) = (String::new(), text.char_indices().skip(1));
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (name, &text[at + 1..]),
            '\\' => name.push(match chars.next().unwrap().1 {
                'n' => '\n',
                c => c,
            }),
            c => name.push(c),
        }
    }
    panic!("a name without an end: {text}");
}

fn sql_name(text: &str) -> (String, &str) {
    let mut end = 1;
    loop {
        end += text[end..].find('"').unwrap();
        if !text[end + 1..].starts_with('"') {
            return (text[1..end].replace("\"\"", "\""), &text[end + 1..]);
        }
        end += 2;
    }
}

fn flux_string(text: &str) -> (String, &str) {
    let (mut read, mut chars) = (Vec::new(), text.char_indices().skip(1));
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (String::from_utf8(read).unwrap(), &text[at + 1..]),
            '$' => assert!(!text[at..].starts_with("${"), "an expression in a string: {text}"),
            '\\' => match chars.next().unwrap().1 {
                'n' => read.push(b'\n'),
                'r' => read.push(b'\r'),
                't' => read.push(b'\t'),
                'x' => {
                    let digits = [chars.next().unwrap().1, chars.next().unwrap().1];
                    read.push(u8::from_str_radix(&String::from_iter(digits), 16).unwrap());
                }
                c => read.extend(c.to_string().bytes()),
            },
            c => read.extend(c.to_string().bytes()),
        }
    }
    panic!("a string without an end: {text}");
}

type ByPoint<'r> = BTreeMap<i64, BTreeMap<&'r str, &'r FieldValue>>;

/// Version 1: documents of at most `limit` points, one series each.
fn documents<'r>(
    rows: impl Iterator<Item = &'r Row>,
    fields: &[String],
    tags: &BTreeSet<&str>,
    limit: usize,
    dice: &mut Dice,
) -> Vec<u8> {
    let mut by_series: BTreeMap<_, ByPoint> = BTreeMap::new();
    let mut measurement = "";
    for row in rows {
        measurement = &row.measurement;
        by_series.entry(&row.tags).or_default().entry(row.time_ns).or_default().insert(&row.field, &row.value);
    }
    let columns: Vec<_> = std::iter::once("time").chain(fields.iter().map(String::as_str)).collect();
    let mut pieces = Vec::new();
    let mut all: Vec<_> = by_series.into_iter().collect();
    dice.shuffle(&mut all);
    for (of, points) in all {
        let value = |tag: &str| of.iter().find(|(has, _)| **has == *tag).map_or("", |(_, value)| value);
        let tags: BTreeMap<_, _> = tags.iter().map(|tag| (*tag, value(tag))).collect();
        let mut points: Vec<_> = points.into_iter().collect();
        dice.shuffle(&mut points);
        let series: Vec<_> = points.chunks(limit).collect();
        for (at, points) in series.iter().enumerate() {
            let values = points.iter().map(|(time, values)| {
                let cells =
                    fields.iter().map(|field| values.get(field.as_str()).map_or("null".to_owned(), |v| go_json(v)));
                format!("[{time},{}]", cells.collect::<Vec<_>>().join(","))
            });
            let values = values.collect::<Vec<_>>().join(",");
            let partial = if at + 1 < series.len() { ",\"partial\":true" } else { "" };
            let (columns, tags) = (json!(columns), json!(tags));
            pieces.push(format!(
                "{{\"name\":{},\"tags\":{tags},\"columns\":{columns},\"values\":[{values}]{partial}}}",
                json!(measurement)
            ));
        }
    }
    if pieces.is_empty() {
        return b"{\"results\":[{\"statement_id\":0}]}\n".to_vec();
    }
    let last = pieces.len() - 1;
    let document = |(at, series)| {
        let partial = if at < last { ",\"partial\":true" } else { "" };
        format!("{{\"results\":[{{\"statement_id\":0,\"series\":[{series}]{partial}}}]}}\n")
    };
    pieces.into_iter().enumerate().map(document).collect::<String>().into_bytes()
}

/// A value as Go writes it: a double without a fraction looks like a whole number.
fn go_json(value: &FieldValue) -> String {
    match value {
        FieldValue::F64(number) => number.to_string(),
        FieldValue::I64(number) => number.to_string(),
        FieldValue::U64(number) => number.to_string(),
        FieldValue::Bool(value) => value.to_string(),
        FieldValue::Str(text) => json!(text).to_string().replace('<', "\\u003c").replace('&', "\\u0026"),
    }
}

/// Version 2: a table for each series and field; tables with the same columns share a block.
fn annotated<'r>(rows: impl Iterator<Item = &'r Row>, first: bool, dice: &mut Dice) -> Vec<u8> {
    let mut tables: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        tables.entry((&row.tags, &row.field, row.value.kind())).or_default().push(row);
    }
    let mut tables: Vec<_> = tables.into_iter().collect();
    dice.shuffle(&mut tables);
    let (mut csv, mut open) = (String::new(), None);
    for (number, ((tags, field, kind), mut rows)) in tables.into_iter().enumerate() {
        rows.sort_by_key(|row| row.time_ns);
        if first {
            rows.truncate(1);
        } else {
            dice.shuffle(&mut rows);
        }
        let names: Vec<_> = tags.iter().map(|(tag, _)| tag.clone()).collect();
        let schema = Some((names.clone(), kind));
        if open != schema {
            if open.is_some() {
                csv.push_str("\r\n");
            }
            open = schema;
            let datatype = match kind {
                FieldType::F64 => "double",
                FieldType::I64 => "long",
                FieldType::U64 => "unsignedLong",
                FieldType::Bool => "boolean",
                FieldType::Str => "string",
            };
            let (strings, trues) = (",string".repeat(names.len()), ",true".repeat(names.len()));
            let mut annotations = [
                format!("#datatype,string,long,dateTime:RFC3339,{datatype},string,string{strings}\r\n"),
                format!("#group,false,false,false,false,true,true{trues}\r\n"),
                format!("#default,_result,,,,,{}\r\n", ",".repeat(names.len())),
            ];
            dice.shuffle(&mut annotations);
            csv.push_str(&annotations.concat());
            csv.push_str(",result,table,_time,_value,_field,_measurement");
            names.iter().for_each(|name| csv.push_str(&format!(",{}", quoted(name))));
            csv.push_str("\r\n");
        }
        for row in rows {
            let time = jiff::Timestamp::from_nanosecond(i128::from(row.time_ns)).unwrap();
            let value = match &row.value {
                FieldValue::Str(text) => quoted(text),
                FieldValue::F64(number) if number.is_infinite() => {
                    format!("{}Inf", if *number > 0.0 { '+' } else { '-' })
                }
                other => go_json(other),
            };
            csv.push_str(&format!(",,{number},{time},{value},{},{}", quoted(field), quoted(&row.measurement)));
            tags.iter().for_each(|(_, value)| csv.push_str(&format!(",{}", quoted(value))));
            csv.push_str("\r\n");
        }
    }
    csv.push_str("\r\n");
    csv.into_bytes()
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// Version 3: an object for each point, its members by the alphabet, those without a value left out.
fn objects<'r>(rows: impl Iterator<Item = &'r Row>, dice: &mut Dice) -> Vec<u8> {
    let mut points: BTreeMap<_, BTreeMap<&str, String>> = BTreeMap::new();
    for row in rows {
        let point = points.entry((&row.tags, row.time_ns)).or_default();
        let time = jiff::Timestamp::from_nanosecond(i128::from(row.time_ns)).unwrap().to_string();
        point.insert("time", format!("\"{}\"", time.trim_end_matches('Z')));
        point.extend(row.tags.iter().map(|(tag, value)| (&**tag, json!(value).to_string())));
        let value = match &row.value {
            FieldValue::F64(number) if !number.is_finite() => "null".to_owned(),
            FieldValue::F64(number) => format!("{number:?}"),
            other => go_json(other),
        };
        point.insert(&row.field, value);
    }
    let mut points: Vec<_> = points.into_values().collect();
    dice.shuffle(&mut points);
    let line = |point: BTreeMap<&str, String>| {
        let members: Vec<_> = point.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
        format!("{{{}}}\n", members.join(","))
    };
    points.into_iter().map(line).collect::<String>().into_bytes()
}

fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, encoded) = target.split_once('?').unwrap_or((&target, ""));
    let mut given = parameters(encoded);
    if headers.get("content-type").is_some_and(|kind| kind.contains("form")) {
        given.extend(parameters(std::str::from_utf8(&body).unwrap()));
    }
    Ok(Some(Request { path: path.to_owned(), parameters: given, headers, body }))
}

/// Writes an answer in chunks cut anywhere; whether the connection goes on.
fn write(stream: &TcpStream, answer: &Answer, dice: &mut Dice) -> io::Result<bool> {
    let mut out = BufWriter::new(stream);
    write!(out, "HTTP/1.1 {} Whatever\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    if answer.status == 204 {
        write!(out, "\r\n")?;
        out.flush()?;
        return Ok(true);
    }
    write!(out, "Transfer-Encoding: chunked\r\n\r\n")?;
    let whole = match answer.ends {
        Ends::Well => answer.body.len(),
        Ends::Lost(at) | Ends::Stalled(at) => at.min(answer.body.len()),
    };
    let mut rest = &answer.body[..whole];
    let largest = if dice.one_in(2) { 40 } else { 20_000 };
    while !rest.is_empty() {
        // Some of the smallest pieces, and then larger ones, so that a long answer does not take long.
        let limit = if whole - rest.len() < 4_000 { largest } else { 20_000 };
        let (piece, after) = rest.split_at((1 + dice.below(limit)).min(rest.len()));
        write!(out, "{:x}\r\n", piece.len())?;
        out.write_all(piece)?;
        write!(out, "\r\n")?;
        rest = after;
    }
    if answer.ends == Ends::Well {
        write!(out, "0\r\n\r\n")?;
    }
    out.flush()?;
    if let Ends::Stalled(_) = answer.ends {
        // Until the client goes.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        io::copy(&mut &*stream, &mut io::sink()).ok();
    }
    Ok(answer.ends == Ends::Well)
}
