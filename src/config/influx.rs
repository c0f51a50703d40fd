//! Connections to InfluxDB, and the queries whose answers become datasets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::report::{MISSING, Place};
use super::secret::{bad_file, given, pem};
use super::section::{Field, Section};
use super::tree::Value;
use crate::evidence::influx::{
    self, Asked, Connection, Influx, InfluxError, Login, PATIENCE, Query, Secret, Selection, Server,
};
use crate::model::LineName;
use crate::{evidence, web};

/// Names that are taken, and where.
type Taken = BTreeMap<LineName, Place>;

/// Keys that only some versions have.
const ONLY: [(&str, &[i64]); 7] = [
    ("database", &[1, 3]),
    ("retention_policy", &[1]),
    ("username", &[1]),
    ("password", &[1]),
    ("org", &[2]),
    ("bucket", &[2]),
    ("token", &[2, 3]),
];

/// Reads all `[[influx]]` and `[[query]]`: as they are asked, as they are shown, and where secrets stand in the text.
pub fn read(root: &mut Section) -> (evidence::Config, web::Exports, Vec<Place>) {
    let (mut config, mut shown, mut inline) = (evidence::Config::default(), web::Exports::default(), Vec::new());
    let mut taken = Taken::new();
    for mut part in root.tables("influx").unwrap_or_default() {
        let view = shown_connection(&mut part);
        let connection = connection(part, &mut taken, &mut inline);
        shown.connections.push(web::Connection { off: connection.is_none(), ..view });
        config.connections.extend(connection);
    }
    let mut taken = Taken::new();
    for part in root.tables("query").unwrap_or_default() {
        let file = file(&part);
        let Some(query) = query(part, &shown.connections, &mut taken) else { continue };
        shown.queries.push(web::Query { name: query.name.clone(), asks: shown_query(&query.asked), read_only: file });
        config.queries.push(query);
    }
    (config, shown, inline)
}

/// What a connection says of itself, without its secrets. Where that is faulty there is no config at all.
fn shown_connection(part: &mut Section) -> web::Connection {
    let mut text = |key| match part.get(key)?.value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    let (name, url) = (text("name").unwrap_or_default(), text("url").unwrap_or_default());
    let (database, retention_policy, username) = (text("database"), text("retention_policy"), text("username"));
    let (org, bucket) = (text("org"), text("bucket"));
    let version = match part.get("version").map(|field| field.value) {
        Some(Value::Integer(version)) => u8::try_from(*version).unwrap_or(0),
        _ => 0,
    };
    let read_only = file(part);
    web::Connection { name, version, url, database, retention_policy, org, bucket, username, off: false, read_only }
}

fn shown_query(asked: &Asked) -> web::Asks {
    match asked {
        Asked::Points(Selection { measurement, fields, tags }) => {
            web::Asks::Points { measurement: measurement.clone(), fields: fields.clone(), tags: tags.clone() }
        }
        Asked::Result(text) => web::Asks::Result { text: text.clone() },
    }
}

/// The file that a part stands in; none for one that was made through the API.
fn file(part: &Section) -> Option<String> {
    let (files, file) = (part.report.files(), part.place.file);
    (!files.is_made(file)).then(|| files.path(file).display().to_string())
}

fn take_name(part: &mut Section, mend: &str, what: &str, taken: &mut Taken) -> Option<LineName> {
    let (report, path) = (part.report, part.path_of("name"));
    let (name, place) = part.named::<LineName>("name", mend)?;
    if let Some(first) = taken.insert(name.clone(), place) {
        let why = format!("`{name}` is the name of another {what} at {}", report.spot(first));
        report.fault(place, &path, why, format!("every {what} has a name of its own"));
    }
    Some(name)
}

fn connection(mut part: Section, taken: &mut Taken, inline: &mut Vec<Place>) -> Option<Connection> {
    let name = take_name(&mut part, "give it a name, such as name = \"historian\"", "connection", taken);
    let of = name.as_ref().map_or("a connection to InfluxDB".to_owned(), |name| format!("connection {name}"));
    let mend = "name the server: url = \"http://127.0.0.1:8086\"";
    let url = part.need("url", mend).and_then(|field| address(&field));
    let ca_field = part.get("ca");
    let ca = match &ca_field {
        None => Some(None),
        Some(field) if url.as_ref().is_some_and(|url| url.starts_with("http:")) => {
            field.fault("is for TLS", "begin the address with https://")
        }
        Some(field) => pem(field, &of).map(Some),
    };
    let secs = Duration::from_secs;
    let patience = part.duration("timeout", secs(1)..=secs(3600)).unwrap_or(PATIENCE);
    let server = version(&mut part).and_then(|version| server(&mut part, version, &of, inline));
    part.done(&[]);
    let connection = Connection { name: name?.to_string(), url: url?, server: server?, ca: ca?, patience };
    if let Some(field) = ca_field
        && let Err(error) = Influx::open(&connection)
    {
        let why = match error {
            InfluxError::Wrong { why, .. } => why,
            other => other.to_string(),
        };
        bad_file::<()>(&field, &of, &why, "write the whole file anew, in PEM");
        return None;
    }
    Some(connection)
}

fn version(part: &mut Section) -> Option<i64> {
    let version = part.need("version", "say which InfluxDB it is: version = 1, 2 or 3");
    if let Some(Value::Integer(number @ 1..=3)) = version.as_ref().map(|field| field.value) {
        return Some(*number);
    }
    if let Some(field) = version {
        field.fault::<()>(format!("{} is none of 1, 2, 3", field.shown()), "");
    }
    // What is meant for some version is no fault of its own.
    ONLY.iter().for_each(|(key, _)| drop(part.get(key)));
    None
}

/// What the version needs to know; what is meant for another one is a fault.
fn server(part: &mut Section, version: i64, of: &str, inline: &mut Vec<Place>) -> Option<Server> {
    for (key, versions) in ONLY {
        if !versions.contains(&version)
            && let Some(field) = part.get(key)
        {
            let listed = versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            let why = format!("InfluxDB {version} has no such thing; it is for version {listed}");
            field.fault::<()>(why, "take it out, or correct `version`");
        }
    }
    let token = part.get("token").filter(|_| version != 1);
    let token = token.map(|field| given(&field, of, inline).map(Secret));
    Some(match version {
        1 => {
            let database = words(part, "database", "name the database: database = \"plant\"");
            let retention_policy = part.get("retention_policy").map(|field| named(&field));
            let login = login(part, of, inline);
            let retention_policy = match retention_policy {
                Some(policy) => Some(policy?),
                None => None,
            };
            Server::One { database: database?, retention_policy, login: login? }
        }
        2 => {
            let (org, bucket) = (
                words(part, "org", "name the organization: org = \"plant\""),
                words(part, "bucket", "name the bucket: bucket = \"energy\""),
            );
            if token.is_none() {
                let mend = "version 2 answers nobody without one: token = { credential = \"influx\" }";
                part.report.fault(part.place, &part.path_of("token"), MISSING, mend);
            }
            Server::Two { org: org?, bucket: bucket?, token: token?? }
        }
        _ => {
            let database = words(part, "database", "name the database: database = \"plant\"");
            let token = match token {
                Some(token) => Some(token?),
                None => None,
            };
            Server::Three { database: database?, token }
        }
    })
}

/// The login; `Some(None)` for none, `None` when there is a fault or the password is not to be had.
#[expect(clippy::option_option, reason = "none, and none to be had, are told apart")]
fn login(part: &mut Section, of: &str, inline: &mut Vec<Place>) -> Option<Option<Login>> {
    match (part.get("username"), part.get("password")) {
        (None, None) => Some(None),
        (Some(username), Some(password)) => {
            let (username, password) = (named(&username), given(&password, of, inline));
            Some(Some(Login { username: username?, password: Secret(password?) }))
        }
        (Some(field), None) | (None, Some(field)) => {
            field.fault("a user and a password go together", "give both `username` and `password`")
        }
    }
}

/// `http://host[:port][/path]`, without a slash at its end.
fn address(field: &Field) -> Option<String> {
    let text = field.text()?;
    let mend = "write it as \"http://127.0.0.1:8086\" or \"https://historian.plant:8086\"";
    let Ok(url) = reqwest::Url::parse(text) else { return field.fault("is no URL", mend) };
    if !matches!(url.scheme(), "http" | "https") {
        return field.fault(format!("{}: is neither http nor https", url.scheme()), mend);
    }
    if !url.username().is_empty() || url.password().is_some() {
        let mend = "use `username` and `password`, or `token`";
        return field.fault("a user in the address stands in the file for all to read", mend);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return field.fault("has more than a host and a path", mend);
    }
    Some(url.as_str().trim_end_matches('/').to_owned())
}

fn words(part: &mut Section, key: &'static str, mend: &str) -> Option<String> {
    part.need(key, mend).and_then(|field| named(&field))
}

/// A name of InfluxDB's.
fn named(field: &Field) -> Option<String> {
    match field.text()? {
        "" => field.fault("is empty", "name it, or take it out"),
        text => Some(text.to_owned()),
    }
}

fn query(mut part: Section, connections: &[web::Connection], taken: &mut Taken) -> Option<Query> {
    let name = take_name(&mut part, "give it a name, such as name = \"energy\"", "query", taken);
    let asked = match (part.get("measurement"), part.get("text")) {
        (Some(measurement), None) => {
            let measurement = named(&measurement);
            let fields = part.get("fields").map_or(Some(Vec::new()), |field| fields(&field));
            let tags = part.get("tags").map_or(Some(BTreeMap::new()), |field| tags(&field));
            measurement
                .zip(fields)
                .zip(tags)
                .map(|((measurement, fields), tags)| Asked::Points(Selection { measurement, fields, tags }))
        }
        (None, Some(field)) => {
            for key in ["fields", "tags"] {
                if let Some(other) = part.get(key) {
                    other.fault::<()>("a query with `text` selects by its text", "take it out");
                }
            }
            free(&field, connections)
        }
        (Some(_), Some(field)) => {
            let mend = "keep `measurement` for raw points, or `text` for a query of your own";
            field.fault("the query has a `measurement` as well", mend)
        }
        (None, None) => {
            let mend = "say what is exported: measurement = \"energy\", or text = \"SELECT ...\"";
            part.report.fault(part.place, &part.path_of("measurement"), MISSING, mend);
            None
        }
    };
    // What is meant for a query that is faulty is no fault of its own.
    ["fields", "tags"].iter().for_each(|key| drop(part.get(key)));
    part.done(&[]);
    Some(Query { name: name?.to_string(), asked: asked? })
}

fn fields(field: &Field) -> Option<Vec<String>> {
    let listed = field.list()?;
    if listed.is_empty() {
        return field.fault("names no field", "leave it out for all fields");
    }
    let (mut names, mut known) = (Vec::new(), BTreeSet::new());
    for field in &listed {
        let name = named(field)?;
        if !known.insert(name.clone()) {
            return field.fault(format!("{} is named twice", field.shown()), "keep one of the two");
        }
        names.push(name);
    }
    Some(names)
}

fn tags(field: &Field) -> Option<BTreeMap<String, String>> {
    let Value::Table(table) = field.value else {
        return field.fault(format!("is {}, not a table", field.value.kind()), "write it as tags = { line = \"a\" }");
    };
    let tags = table.0.iter().map(|(tag, (place, node))| {
        let path = format!("{}.{tag}", field.path);
        let value = Field { report: field.report, place: *place, path, value: &node.value };
        if tag.is_empty() || value.text()?.is_empty() {
            return value.fault("is empty, and InfluxDB has no empty tags", "take it out");
        }
        Some((tag.clone(), value.text()?.to_owned()))
    });
    tags.collect::<Vec<_>>().into_iter().collect()
}

/// A query of one's own, in the language of whichever connection it is asked of.
fn free(field: &Field, connections: &[web::Connection]) -> Option<Asked> {
    let text = named(field)?;
    let mut refused = connections.iter().map(|connection| influx::only_reads(&text, connection.version).err());
    // What no connection is asked would fail at every export.
    if let Some(Some(why)) = refused.next()
        && refused.all(|other| other.is_some())
    {
        return field.fault(format!("no connection of this config is asked that: {why}"), "write one that only reads");
    }
    if !text.contains("$from") || !text.contains("$to") {
        let why = "the text does not use `$from` and `$to`, so that it gives the same whatever the period";
        let mend = "for InfluxQL and SQL: WHERE time >= $from AND time < $to; for Flux: range(start: $from, stop: $to)";
        field.report.warn(field.place, &field.path, why, mend);
    }
    Some(Asked::Result(text))
}
