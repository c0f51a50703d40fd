//! What was made or changed through the API: meters' names and targets, connections, queries, alert rules that are off.
//! Each change is one transaction with its entry in the log.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::log::{self, Append};
use super::{Ledger, Reader, StoreError, ledger};
use crate::model::{Actor, Alert, AlertKind, Made, MadeKind, Timestamp};

/// Step from version 6 to 7 of `evidence.db`.
pub const SCHEMA: &str = "
    CREATE TABLE objects (
        kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, changed INTEGER NOT NULL, changed_by TEXT NOT NULL,
        PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE alerts ADD COLUMN acknowledged INTEGER;
    ALTER TABLE alerts ADD COLUMN acknowledged_by TEXT;
";

/// A change of one object, and what the log says of it. Secrets are in `value` alone.
#[derive(Clone, PartialEq)]
pub struct Change {
    pub kind: MadeKind,
    pub name: String,
    /// What it is from now on; none: it is gone.
    pub value: Option<Value>,
    pub action: &'static str,
    pub detail: Value,
}

impl Ledger {
    /// Keeps a change, and puts on record who made it.
    pub async fn change(&self, change: Change, by: Actor) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            let Change { kind, name, value, action, detail } = &change;
            put(&transaction, (*kind, name), value.as_ref(), (now, &by.name))?;
            log::tell(&transaction, (now, action, &by), detail.clone())?;
            transaction.commit()
        })
        .await
    }

    /// Puts on record what somebody did that changes nothing in the store.
    pub async fn audit(&self, action: &'static str, by: &Actor, detail: Value) -> Result<(), StoreError> {
        self.append(vec![Append::audit(action, by, detail)]).await.map(|_| ())
    }

    /// Notes that somebody has seen an alert; `None` when there is none such. Who did so first stands.
    pub async fn acknowledge(&self, id: i64, by: Actor) -> Result<Option<Alert>, StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            let sql =
                "UPDATE alerts SET acknowledged = ?2, acknowledged_by = ?3 WHERE id = ?1 AND acknowledged IS NULL";
            if transaction.execute(sql, params![id, now.as_millis(), by.name])? > 0 {
                log::tell(&transaction, (now, "alert-acknowledged", &by), json!({"alert": id}))?;
            }
            let alert = ledger::alert(&transaction, id)?;
            transaction.commit()?;
            Ok(alert)
        })
        .await
    }

    /// Switches a kind of alert off or on. One that is off ends what stands of it.
    pub async fn switch_alerts(&self, kind: AlertKind, on: bool, by: Actor) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.write(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            if is_off(&transaction, kind)? != on {
                return Ok(());
            }
            let off = (!on).then(|| json!({"on": false}));
            put(&transaction, (MadeKind::AlertRule, kind.as_str()), off.as_ref(), (now, &by.name))?;
            if !on {
                for id in standing(&transaction, kind)? {
                    ledger::clear_alert(&transaction, id, now, now)?;
                }
            }
            log::tell(&transaction, (now, "alert-rule", &by), json!({"kind": kind.as_str(), "on": on}))?;
            transaction.commit()
        })
        .await?;
        self.shared.tell_sendable();
        Ok(())
    }
}

impl Reader {
    /// All that was made or changed through the API, by kind and name.
    pub async fn made(&self) -> Result<Vec<Made>, StoreError> {
        self.evidence(all).await
    }

    /// The kinds of alerts that are off.
    pub async fn alerts_off(&self) -> Result<Vec<AlertKind>, StoreError> {
        let made = self.made().await?;
        let rules = made.iter().filter(|made| made.kind == MadeKind::AlertRule);
        Ok(rules.filter_map(|rule| AlertKind::named(&rule.name)).collect())
    }
}

/// Whether alerts of this kind are off.
pub fn is_off(connection: &Connection, kind: AlertKind) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM objects WHERE kind = ?1 AND name = ?2")?;
    let found = statement.query_row([MadeKind::AlertRule.as_str(), kind.as_str()], |_| Ok(()));
    Ok(found.optional()?.is_some())
}

fn all(connection: &Connection) -> rusqlite::Result<Vec<Made>> {
    let sql = "SELECT kind, name, value, changed, changed_by FROM objects ORDER BY kind, name";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        let (kind, value): (String, String) = (row.get(0)?, row.get(2)?);
        let value = serde_json::from_str(&value).map_err(|error| log::refused(&error))?;
        let (name, changed, by) = (row.get(1)?, Timestamp::from_millis(row.get(3)?), row.get(4)?);
        // One of a kind that this program does not know is left as it is.
        Ok(MadeKind::named(&kind).map(|kind| Made { kind, name, value, changed, by }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

fn put(
    connection: &Connection,
    (kind, name): (MadeKind, &str),
    value: Option<&Value>,
    (now, by): (Timestamp, &str),
) -> rusqlite::Result<()> {
    match value {
        Some(value) => connection.execute(
            "INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5)",
            params![kind.as_str(), name, value.to_string(), now.as_millis(), by],
        ),
        None => connection.execute("DELETE FROM objects WHERE kind = ?1 AND name = ?2", [kind.as_str(), name]),
    }
    .map(|_| ())
}

fn standing(connection: &Connection, kind: AlertKind) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT id FROM alerts INDEXED BY open_alerts WHERE cleared IS NULL AND kind = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([kind.as_str()], |row| row.get(0))?;
    rows.collect()
}
