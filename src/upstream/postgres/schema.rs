//! Tables, views and parts of tables: made where they are missing, several gateways at once.

use std::collections::BTreeSet;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::sql::{self, identifier, literal};
use crate::model::Timestamp;

/// What an administrator may run as well.
const FILE: &str = include_str!("../../../packaging/postgres/schema.sql");
const TABLES: [&str; 10] =
    ["version", "gateways", "readings", "blocks", "checkpoints", "anchors", "datasets", "alerts", "notices", "cursors"];

/// Makes what is missing. A table that somebody took away is empty when it is back: then no cursor tells that anything
/// of it is there.
pub async fn ensure(client: &Client, schema: &str) -> Result<(), Error> {
    let (has_schema, lost) = missing(client, schema).await?;
    if has_schema && lost.is_empty() {
        return Ok(());
    }
    sql::transaction(client, async {
        let lock = literal(&format!("meterseal {schema}"));
        client.simple_query(&format!("SELECT pg_advisory_xact_lock(hashtextextended({lock}, 0))")).await?;
        // Somebody else may have made all of it while we waited, and it is theirs.
        let (has_schema, lost) = missing(client, schema).await?;
        if has_schema && lost.is_empty() {
            return Ok(());
        }
        let name = identifier(schema);
        if !has_schema {
            client.simple_query(&format!("CREATE SCHEMA {name}")).await?;
        }
        client.simple_query(&format!("SET LOCAL search_path = {name}, pg_temp")).await?;
        client.simple_query(made()).await?;
        let lost: Vec<_> = lost.iter().map(|table| literal(table)).collect();
        let lost = if lost.is_empty() { "NULL".to_owned() } else { lost.join(", ") };
        let forget = format!("UPDATE {name}.cursors SET live = 0, open = '[]' WHERE stream IN ({lost})");
        client.simple_query(&forget).await.map(drop)
    })
    .await
}

/// The part of the file that names no schema.
fn made() -> &'static str {
    let (_, after) = FILE.split_once("-- From here").unwrap_or_default();
    let (_, body) = after.split_once('\n').unwrap_or_default();
    body.split("-- The end mark.").next().unwrap_or_default()
}

/// Whether the schema is there, and which of its tables are not.
async fn missing(client: &Client, schema: &str) -> Result<(bool, Vec<String>), Error> {
    let names: Vec<_> = TABLES.iter().map(|table| literal(table)).collect();
    // Read from the catalogue itself: what to_regclass says may be older than a lock that was waited for.
    let ask = format!(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = {0}); SELECT name FROM unnest(ARRAY[{1}]) AS name \
         WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {0} AND c.relname = name)",
        literal(schema),
        names.join(", "),
    );
    let answer = client.simple_query(&ask).await?;
    let mut rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let has_schema = rows.next() == Some("t");
    Ok((has_schema, rows.map(str::to_owned).collect()))
}

/// The months that are known to have a part of their table, and whether we may add any.
#[derive(Default)]
pub struct Months {
    known: BTreeSet<(&'static str, i16, i8)>,
    may_not: bool,
}

impl Months {
    /// Adds the months that are missing for rows of these instants. Without the right to, the default part takes them.
    pub async fn ensure(
        &mut self,
        client: &Client,
        schema: &str,
        table: &'static str,
        times: &[Timestamp],
    ) -> Result<(), Error> {
        for (year, month) in months(times) {
            if self.may_not || self.known.contains(&(table, year, month)) {
                continue;
            }
            let add = format!("SELECT {}.add_month({}, '{year:04}-{month:02}-01')", identifier(schema), literal(table));
            match sql::transaction(client, async { client.simple_query(&add).await.map(drop) }).await {
                Ok(()) => {
                    self.known.insert((table, year, month));
                }
                Err(error) if is_denied(&error) => {
                    tracing::warn!(
                        schema,
                        "months cannot be added to its tables: their default part takes all rows, \
                        until EXECUTE on add_month is granted"
                    );
                    self.may_not = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_denied(error: &Error) -> bool {
    matches!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::UNDEFINED_FUNCTION))
}

/// The months of 2000 to 2099 in which these instants lie.
fn months(times: &[Timestamp]) -> BTreeSet<(i16, i8)> {
    let mut found = BTreeSet::new();
    let mut last = (Timestamp::MAX, Timestamp::MAX);
    for time in times {
        // They come in runs of one month.
        if last.0 <= *time && *time < last.1 {
            continue;
        }
        let Ok(at) = jiff::Timestamp::from_millisecond(time.as_millis()) else { continue };
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        if !(2000..=2099).contains(&date.year()) {
            continue;
        }
        found.insert((date.year(), date.month()));
        let edge = |date: jiff::civil::Date| {
            date.to_zoned(jiff::tz::TimeZone::UTC).map_or(i64::MAX, |zoned| zoned.timestamp().as_millisecond())
        };
        let first = edge(date.first_of_month());
        let next = edge(date.last_of_month()).saturating_add(86_400_000);
        last = (Timestamp::from_millis(first), Timestamp::from_millis(next));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_told_by_month() {
        let at = |text: &str| Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        let times = [
            at("2026-11-30T23:59:59.999Z"),
            at("2026-12-01T00:00:00Z"),
            at("2026-12-31T23:59:59.999Z"),
            at("1999-12-31T23:59:59.999Z"),
            at("2000-01-01T00:00:00Z"),
            at("2100-01-01T00:00:00Z"),
            Timestamp::MAX,
        ];
        assert_eq!(months(&times), BTreeSet::from([(2000, 1), (2026, 11), (2026, 12)]));
    }

    #[test]
    fn what_is_run_for_any_schema_names_none() {
        let made = made();
        assert!(made.contains("CREATE TABLE IF NOT EXISTS readings") && made.contains("INSERT INTO version"));
        assert!(!made.contains("meterseal.") && !made.contains("COMMIT") && !made.contains("BEGIN;"));
        for table in TABLES {
            assert!(made.contains(&format!("CREATE TABLE IF NOT EXISTS {table} (")), "{table}");
        }
    }
}
