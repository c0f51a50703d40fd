//! An order to export a period from the plant's InfluxDB, why one is refused, and what is told while it is carried out.

use jiff::civil;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{JobId, JobProgress, JobState, Timestamp};

/// What somebody wants exported, by the names of the config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportOrder {
    pub connection: String,
    pub query: String,
    /// The period `[from, to)` in ns since 1970.
    pub from_ns: i64,
    pub to_ns: i64,
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ExportRefused {
    #[error("there is no connection `{name}`{}", there_is("[[influx]]", near.as_deref(), known))]
    Connection { name: String, near: Option<String>, known: Vec<String> },
    #[error("there is no query `{name}`{}", there_is("[[query]]", near.as_deref(), known))]
    Query { name: String, near: Option<String>, known: Vec<String> },
    #[error("the period ends where it begins or before: give a `to` that is later than `from`")]
    Period,
    #[error(
        "the period ends at {}, which is still to come: what is not over cannot be exported whole; give a `to` of {} at the latest",
        written_ns(*to_ns),
        written_ns(*now_ns)
    )]
    Future { to_ns: i64, now_ns: i64 },
    #[error("{limit} exports wait or run already: wait until one is done, or cancel one")]
    Full { limit: usize },
}

fn there_is(section: &str, near: Option<&str>, known: &[String]) -> String {
    let near = near.map(|near| format!(": did you mean {near}?")).unwrap_or_default();
    if known.is_empty() {
        return format!("{near}: the config has no {section}");
    }
    format!("{near} ({section} of the config: {})", known.join(", "))
}

/// What is told while an export goes on; `Done` or `Failed` is the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ExportEvent {
    Queued {
        id: JobId,
    },
    Progress {
        #[serde(flatten)]
        progress: JobProgress,
        rows_per_s: f64,
        seconds_left: Option<u64>,
        /// What it waits for, and what would help.
        waiting: Option<String>,
    },
    Done {
        id: JobId,
        #[serde(flatten)]
        progress: JobProgress,
        /// Where the bundle lies in the store.
        folder: std::path::PathBuf,
    },
    Failed {
        error: String,
    },
}

/// An export as a command lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportListed {
    pub id: JobId,
    pub state: JobState,
    pub connection: String,
    /// The query's name.
    pub query: String,
    pub from_ns: i64,
    pub to_ns: i64,
    #[serde(flatten)]
    pub progress: JobProgress,
    /// The name of the token, or of the user, that asked.
    pub by: String,
    pub created: Timestamp,
    pub ended: Option<Timestamp>,
    /// What it waits for, and what would help.
    pub waiting: Option<String>,
    /// Why it failed, with the remedy.
    pub error: Option<String>,
    /// On disk; `None` before it is made.
    pub bundle_bytes: Option<u64>,
    pub bundle_deleted: Option<Timestamp>,
}

/// Reads RFC 3339, nanoseconds since 1970, or a date or time without a zone, which is the site's: ns since 1970.
pub fn instant_ns(text: &str, zone: &TimeZone) -> Result<i64, String> {
    let beginning: String = text.chars().take(40).collect();
    let number = text.strip_prefix('-').unwrap_or(text);
    if !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()) {
        // Seconds, milliseconds or microseconds of our days, taken for nanoseconds, would be some day before 1973.
        const OTHER_UNITS: std::ops::Range<i64> = 100_000_000..100_000_000_000_000_000;
        let ns: i64 = text.parse().map_err(|_| format!("{beginning} ns lies before 1677 or after 2262"))?;
        if OTHER_UNITS.contains(&ns) {
            return Err(format!("{text} is no time of our days in nanoseconds since 1970: write it as RFC 3339"));
        }
        return Ok(ns);
    }
    let at = match text.parse::<jiff::Timestamp>() {
        Ok(at) => Some(at),
        Err(_) => {
            let date = || text.parse::<civil::Date>().ok().map(|date| date.at(0, 0, 0, 0));
            let local = if text.len() == 10 { date() } else { text.parse::<civil::DateTime>().ok() };
            local.and_then(|local| local.to_zoned(zone.clone()).ok()).map(|zoned| zoned.timestamp())
        }
    };
    let at = at.ok_or_else(|| {
        format!(
            "`{beginning}` is no time: give 2026-11-21T08:00:00Z, 2026-11-21T08:00 or 2026-11-21 (the site's time), or \
             nanoseconds since 1970"
        )
    })?;
    i64::try_from(at.as_nanosecond()).map_err(|_| format!("{beginning} lies before 1677 or after 2262"))
}

/// An instant in ns as RFC 3339, with as many digits as it needs.
pub fn written_ns(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(ns.into()).map_or_else(|_| format!("{ns} ns"), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_to_the_nanosecond_or_refused() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let read = |text: &str| instant_ns(text, &berlin);
        let eight = 1_795_244_400_000_000_000;
        for text in ["2026-11-21T07:00:00Z", "2026-11-21T08:00:00+01:00", "2026-11-21T08:00", "1795244400000000000"] {
            assert_eq!(read(text), Ok(eight), "{text}");
        }
        assert_eq!(read("2026-11-21T07:00:00.000000001Z"), Ok(eight + 1));
        assert_eq!(read("2026-11-21"), Ok(eight - 8 * 3_600_000_000_000));
        assert_eq!((read("0"), read("-5")), (Ok(0), Ok(-5)));
        for ns in [i64::MIN, -1, 0, eight + 1, i64::MAX] {
            assert_eq!(read(&written_ns(ns)), Ok(ns), "{}", written_ns(ns));
        }
        for text in ["", "soon", "1795244400", "1795244400000", "1795244400000000", "9223372036854775808", "2300-01-01"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refusal_tells_what_there_is() {
        let told = ExportRefused::Connection {
            name: "plnt".to_owned(),
            near: Some("plant".to_owned()),
            known: vec!["plant".to_owned(), "old".to_owned()],
        };
        assert_eq!(
            told.to_string(),
            "there is no connection `plnt`: did you mean plant? ([[influx]] of the config: plant, old)"
        );
        let none = ExportRefused::Query { name: "x".to_owned(), near: None, known: Vec::new() };
        assert_eq!(none.to_string(), "there is no query `x`: the config has no [[query]]");
    }
}
