//! The door to InfluxDB 1, 2 and 3: a connection's test, the types of its fields, and its points as rows.
//!
//! Only ever reads. Answers are decoded while they arrive, so that memory is bounded by a piece of an answer, whatever
//! the answer's length. No order is promised: servers promise none.

mod body;
mod csv;
mod error;
mod escape;
mod points;
mod text;
mod v1;
mod v2;
mod v3;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{FieldType, ResultRow, Row};

pub use error::InfluxError;
pub use escape::one_reading_statement;
pub use points::Read;

use body::Http;
use points::Points;

/// The longest silence of a server, before its answer and within it, where the config says nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One `[[influx]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    pub name: String,
    /// `http://host:8086`, maybe with a path; ends without a slash.
    pub url: String,
    pub server: Server,
    /// PEM of the authorities to trust instead of the system's.
    pub ca: Option<Vec<u8>>,
    pub patience: Duration,
}

/// A version of InfluxDB, and what it wants to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    One { database: String, retention_policy: Option<String>, login: Option<Login> },
    Two { org: String, bucket: String, token: Secret },
    Three { database: String, token: Option<Secret> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    pub username: String,
    pub password: Secret,
}

/// A password or token. Prints as `***`.
#[derive(Clone, PartialEq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Server {
    /// 1, 2 or 3.
    pub fn version(&self) -> u8 {
        match self {
            Self::One { .. } => 1,
            Self::Two { .. } => 2,
            Self::Three { .. } => 3,
        }
    }
}

/// Whether a free query only reads, as far as a server of this version has to be told; an error says what one is.
pub fn only_reads(text: &str, version: u8) -> Result<(), &'static str> {
    match version {
        1 => one_reading_statement(text),
        2 => escape::reads_flux(text),
        // Its door for queries takes nothing else.
        _ => Ok(()),
    }
}

/// One `[[query]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub name: String,
    pub asked: Asked,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// Raw points: the same rows from every version.
    Points(Selection),
    /// A text in the server's language, in which `$from` and `$to` stand for the period.
    Result(String),
}

/// Which points of a measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub measurement: String,
    /// All of them when empty.
    pub fields: Vec<String>,
    /// Points that bear all of these tags.
    pub tags: BTreeMap<String, String>,
}

/// What the fields of a selection are. Read once for an export and used for all its slices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub fields: BTreeMap<Arc<str>, FieldType>,
    /// Version 3 has to be asked for its tags by name; others leave this empty.
    tags: Vec<Arc<str>>,
}

impl Schema {
    /// Of what a server said that it has; `tags` only of one that is asked for them by name. What the selection names
    /// and the server has not is [`InfluxError::Unknown`].
    fn of(
        connection: &str,
        selection: &Selection,
        fields: BTreeMap<Arc<str>, FieldType>,
        tags: Option<Vec<Arc<str>>>,
    ) -> Result<Self, InfluxError> {
        let measurement = &selection.measurement;
        let without = |what: &str, missing: &str| {
            let why = format!("measurement {measurement} has no {what} {missing}; correct the query's names");
            InfluxError::unknown(connection, why)
        };
        if let Some(missing) = selection.fields.iter().find(|field| !fields.contains_key(field.as_str())) {
            return Err(without("field", missing));
        }
        if fields.is_empty() {
            let why = format!("there is no measurement {measurement}; correct the query or the connection's database");
            return Err(InfluxError::unknown(connection, why));
        }
        let Some(mut tags) = tags else { return Ok(Self { fields, tags: Vec::new() }) };
        if let Some(missing) = selection.tags.keys().find(|tag| !tags.iter().any(|known| **known == ***tag)) {
            return Err(without("tag", missing));
        }
        tags.sort();
        Ok(Self { fields, tags })
    }
}

/// A connection that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    pub server_version: String,
    pub credentials: Credentials,
}

/// What a good answer says of the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The server refuses without them and answers with them.
    Proven,
    /// The server answers anybody, and does not look at what is configured.
    NotAsked,
}

/// A connection that can be asked. Cheap to clone.
#[derive(Clone)]
pub struct Influx {
    http: Http,
}

impl Influx {
    /// Connects to nothing yet. Fails on certificates and addresses that are none.
    pub fn open(connection: &Connection) -> Result<Self, InfluxError> {
        Ok(Self { http: Http::new(connection)? })
    }

    pub fn connection(&self) -> &Connection {
        &self.http.connection
    }

    /// Asks for the server's version, and for something that wrong credentials do not give.
    pub async fn test(&self) -> Result<Tested, InfluxError> {
        match &self.connection().server {
            Server::One { .. } => v1::test(&self.http).await,
            Server::Two { .. } => v2::test(&self.http).await,
            Server::Three { .. } => v3::test(&self.http).await,
        }
    }

    /// The types of the selected fields. A selection of which nothing is there is [`InfluxError::Unknown`].
    pub async fn schema(&self, selection: &Selection, period: Range<i64>) -> Result<Schema, InfluxError> {
        match &self.connection().server {
            Server::One { .. } => v1::schema(&self.http, selection).await,
            Server::Two { .. } => v2::schema(&self.http, selection, period).await,
            Server::Three { .. } => v3::schema(&self.http, selection).await,
        }
    }

    /// Hands out the selected rows of `slice` (ns, half open), in no order. After an error those handed out are void.
    pub async fn rows<E: From<InfluxError>>(
        &self,
        selection: &Selection,
        schema: &Schema,
        slice: Range<i64>,
        sink: &mut (impl FnMut(Row) -> Result<(), E> + Send),
    ) -> Result<Read, E> {
        let request = match &self.connection().server {
            Server::One { .. } => v1::rows(&self.http, selection, schema, &slice),
            Server::Two { .. } => v2::rows(&self.http, selection, &slice),
            Server::Three { .. } => v3::rows(&self.http, selection, schema, &slice),
        };
        let mut body = self.http.answer(request).await?;
        let mut decoder = self.decoder(selection, schema, slice);
        while let Some(bytes) = body.next().await? {
            decoder.feed(&bytes, sink)?;
        }
        decoder.finish(sink)
    }

    fn decoder(&self, selection: &Selection, schema: &Schema, slice: Range<i64>) -> Decoder {
        Decoder::new(&self.connection().name, self.connection().server.version(), selection, schema, slice)
    }

    /// Hands out the answer to a free query, in the server's order.
    pub async fn table<E: From<InfluxError>>(
        &self,
        text: &str,
        period: Range<i64>,
        sink: &mut (impl FnMut(ResultRow) -> Result<(), E> + Send),
    ) -> Result<Read, E> {
        match &self.connection().server {
            Server::One { .. } => v1::table(&self.http, text, &period, sink).await,
            Server::Two { .. } => v2::table(&self.http, text, &period, sink).await,
            Server::Three { .. } => v3::table(&self.http, text, &period, sink).await,
        }
    }
}

/// Turns the bytes of an answer into rows, however they are cut. Pure.
pub struct Decoder {
    points: Points,
    answer: Answer,
}

enum Answer {
    One(v1::Answer),
    Two(v2::Answer, v2::Known),
    Three(v3::Answer, v3::Known),
}

impl Decoder {
    /// `version` is that of the server: 1, 2 or 3.
    pub fn new(connection: &str, version: u8, selection: &Selection, schema: &Schema, slice: Range<i64>) -> Self {
        let answer = match version {
            1 => Answer::One(v1::Answer::new(connection)),
            2 => Answer::Two(v2::Answer::new(connection), v2::Known::default()),
            _ => Answer::Three(v3::Answer::new(connection), v3::Known::new(schema)),
        };
        Self { points: Points::new(connection, selection, schema, slice), answer }
    }

    pub fn feed<E: From<InfluxError>>(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let points = &mut self.points;
        match &mut self.answer {
            Answer::One(answer) => answer.feed(bytes, &mut |series| v1::give(series, points, sink)),
            Answer::Two(answer, known) => {
                answer.feed(bytes, &mut |block, record| known.give(block, record, points, sink))
            }
            Answer::Three(answer, known) => answer.feed(bytes, &mut |line| known.give(line, points, sink)),
        }
    }

    /// What was read, if the answer is whole.
    pub fn finish<E: From<InfluxError>>(mut self, sink: &mut impl FnMut(Row) -> Result<(), E>) -> Result<Read, E> {
        let points = &mut self.points;
        match self.answer {
            Answer::One(answer) => answer.finish(&mut |series| v1::give(series, points, sink))?,
            Answer::Two(answer, _) => answer.finish()?,
            Answer::Three(answer, mut known) => answer.finish(&mut |line| known.give(line, points, sink))?,
        }
        Ok(self.points.read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_server_has_not_are_told_alike() {
        let selection = |field: &str, tag: &str| Selection {
            measurement: "energy".to_owned(),
            fields: [field].into_iter().filter(|field| !field.is_empty()).map(str::to_owned).collect(),
            tags: [tag].into_iter().filter(|tag| !tag.is_empty()).map(|tag| (tag.to_owned(), "x".to_owned())).collect(),
        };
        let power = || BTreeMap::from([("power".into(), FieldType::F64)]);
        let told = |selection: &Selection, fields, tags: Option<Vec<Arc<str>>>| {
            let InfluxError::Unknown { connection, why } =
                Schema::of("plant", selection, fields, tags).expect_err("it is not there")
            else {
                panic!("it is the name that is wrong")
            };
            assert_eq!(connection, "plant");
            why
        };
        let field = "measurement energy has no field watts; correct the query's names";
        for tags in [None, Some(Vec::new())] {
            assert_eq!(told(&selection("watts", ""), power(), tags.clone()), field);
            let measurement = "there is no measurement energy; correct the query or the connection's database";
            assert_eq!(told(&selection("", ""), BTreeMap::new(), tags), measurement);
        }
        let tag = "measurement energy has no tag line; correct the query's names";
        assert_eq!(told(&selection("power", "line"), power(), Some(vec!["meter".into()])), tag);

        // A server that is not asked for its tags by name says nothing of those that it has.
        let schema = Schema::of("plant", &selection("power", "line"), power(), None).unwrap();
        assert_eq!(schema, Schema { fields: power(), tags: Vec::new() });
        let schema = Schema::of("plant", &selection("", "line"), power(), Some(vec!["meter".into(), "line".into()]));
        assert_eq!(schema.unwrap().tags, ["line".into(), "meter".into()]);
    }
}
