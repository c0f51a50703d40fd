//! What can go wrong with a connection, by what the caller can do about it.

use std::time::Duration;

/// Every text names the remedy; none bears a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InfluxError {
    /// The credentials are wrong, or do not suffice: somebody has to give others.
    #[error("connection {connection}: {why}")]
    Refused { connection: String, why: String },
    /// A database, bucket, measurement or field that is not there.
    #[error("connection {connection}: {why}")]
    Unknown { connection: String, why: String },
    /// Too much was asked for at once: ask for half of the time.
    #[error("connection {connection}: {why}")]
    Smaller { connection: String, why: String },
    /// It may pass by itself: ask again later.
    #[error("connection {connection}: {why}")]
    Passing { connection: String, why: String, retry_after: Option<Duration> },
    /// What is stored there can never become a dataset.
    #[error("connection {connection}: {why}")]
    Bad { connection: String, why: String },
    /// The address, the version or the query is not right, or something else answers: somebody has to look.
    #[error("connection {connection}: {why}")]
    Wrong { connection: String, why: String },
}

impl InfluxError {
    pub fn refused(connection: &str, why: impl Into<String>) -> Self {
        Self::Refused { connection: connection.to_owned(), why: why.into() }
    }

    pub fn unknown(connection: &str, why: impl Into<String>) -> Self {
        Self::Unknown { connection: connection.to_owned(), why: why.into() }
    }

    pub fn smaller(connection: &str, why: impl Into<String>) -> Self {
        Self::Smaller { connection: connection.to_owned(), why: why.into() }
    }

    pub fn passing(connection: &str, why: impl Into<String>) -> Self {
        Self::Passing { connection: connection.to_owned(), why: why.into(), retry_after: None }
    }

    pub fn bad(connection: &str, why: impl Into<String>) -> Self {
        Self::Bad { connection: connection.to_owned(), why: why.into() }
    }

    pub fn wrong(connection: &str, why: impl Into<String>) -> Self {
        Self::Wrong { connection: connection.to_owned(), why: why.into() }
    }
}

/// Words of servers that were asked for too much (1: `max-select-…`, `query-timeout`; 2: memory quota, time-out; 3: the
/// limit of files).
const TOO_MUCH: [&str; 8] =
    ["limit exceeded", "limit exceeed", "exceed", "too large", "memory", "timeout", "timed out", "file limit"];
/// Words for what is not there. A path that is not there is told by its status.
const NOT_THERE: [&str; 4] = ["not found", "could not find", "does not exist", "unknown database"];
/// Words for a server that has other things to do at present.
const BUSY: [&str; 3] = ["max-concurrent-queries", "engine is closed", "too many requests"];

/// What a server's own words ask of the caller.
pub fn judged(connection: &str, told: &str) -> InfluxError {
    let lower = told.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let told = shortened(told);
    if says(&BUSY) {
        InfluxError::passing(connection, format!("the server is busy: {told}"))
    } else if lower.contains("unauthorized") || lower.contains("not authorized") || lower.contains("authorization") {
        InfluxError::refused(connection, format!("the server refuses: {told}; give credentials that may read"))
    } else if says(&NOT_THERE) {
        InfluxError::unknown(connection, format!("the server says: {told}; correct the name"))
    } else if says(&TOO_MUCH) {
        InfluxError::smaller(connection, format!("the server was asked for too much: {told}; ask for a shorter time"))
    } else {
        InfluxError::wrong(connection, format!("the server does not take the query: {told}"))
    }
}

/// A text of somebody else's as it may stand in an error: one line, of bounded length.
pub fn shortened(text: &str) -> String {
    const MOST: usize = 300;
    let mut short: String = text.trim().chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().chars().count() > MOST {
        short.push('…');
    }
    short
}
