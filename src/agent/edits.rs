//! What the page changes beside the config: checked as the config's own, kept in the store, and taken up by the parts at
//! once. A file that says the same thing wins.

use serde_json::{Map, Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tracing::{info, warn};

use super::Agent;
use super::trials::Trial;
use crate::config::made::{self, NAME, Part, TARGET};
use crate::config::{Config, Fault};
use crate::model::{Actor, Energy, MadeKind, MeterId, Timestamp};
use crate::store::{Change, Reader, StoreError};
use crate::web::{Edit, EditNow, EditRefused, Edited};

/// Who asks for one more waits.
pub const ASKED: usize = 4;
/// Connections, and queries, that may be made here.
const MOST: usize = 100;
/// Keys of a connection that are secrets.
const SECRETS: [&str; 2] = ["password", "token"];

/// The config with all that was made through the API, and what of that is left out.
pub async fn merged(base: Config, reader: &Reader, now: Timestamp) -> anyhow::Result<(Config, Vec<String>)> {
    let made = reader.made().await?;
    // Certificates that it names are read.
    Ok(tokio::task::spawn_blocking(move || made::with_made(base, &made, now)).await?)
}

impl Agent {
    pub(super) async fn edit(&mut self, now: EditNow) {
        let EditNow { edit, by, reply } = now;
        let outcome = match edit {
            Edit::Meter { id, name, peak_target } => self.edit_meter(id, name, peak_target, by).await,
            Edit::Put { kind, name, value, is_new } => self.put(Part { kind, name, value }, is_new, by).await,
            Edit::Delete { kind, name } => self.delete(kind, name, by).await,
            Edit::Check { text } => return self.hand_on(Trial { text, reply }),
            Edit::Reload => self.reload_for(by).await,
            Edit::AddMeters { text } => self.add_meters(text, by).await,
        };
        if reply.send(outcome).is_err() {
            warn!("who asked for a change has gone");
        }
    }

    /// Trying a text changes nothing, and so nothing waits for it.
    fn hand_on(&self, trial: Trial) {
        let busy = "other texts are being tried: try this one again in a moment";
        if let Err(TrySendError::Full(trial) | TrySendError::Closed(trial)) = self.trials.try_send(trial) {
            // Who asked may have gone.
            trial.reply.send(Err(EditRefused::Conflict(busy.to_owned()))).ok();
        }
    }

    async fn edit_meter(
        &mut self,
        id: MeterId,
        name: Option<Option<String>>,
        peak_target: Option<Option<Energy>>,
        by: Actor,
    ) -> Result<Edited, EditRefused> {
        if !self.running.meters().iter().any(|meter| meter.id == id) {
            if self.views.roster.borrow().simulators.contains_key(&id) {
                let why = format!("{id} is a simulator: it gives its name and its target when it registers");
                return Err(EditRefused::Conflict(why));
            }
            return Err(EditRefused::Unknown(format!("there is no meter `{id}`: `/api/meters` lists them")));
        }
        for (key, wanted) in [(NAME, name.is_some()), (TARGET, peak_target.is_some())] {
            if let Some(spot) = made::set_at(&self.running, &id, key).filter(|_| wanted) {
                let why =
                    format!("`{key}` of meter {id} is set at {spot}: change it there, or take it out and set it here");
                return Err(EditRefused::Conflict(why));
            }
        }
        let made = self.reader.made().await?;
        let known = made.iter().find(|made| made.kind == MadeKind::Meter && made.name == id.as_str());
        let mut value = known.and_then(|made| made.value.as_object().cloned()).unwrap_or_default();
        let mut detail = json!({"meter": id});
        if let Some(name) = name {
            detail["name"] = json!(name);
            set(&mut value, "name", json!(name));
        }
        if let Some(target) = peak_target {
            let uwh = json!(target.map(Energy::as_uwh));
            detail["peak_target_uwh"] = uwh.clone();
            set(&mut value, "peak_target_uwh", uwh);
        }
        let value = (!value.is_empty()).then_some(Value::Object(value));
        let change = Change { kind: MadeKind::Meter, name: id.to_string(), value, action: "meter-changed", detail };
        self.keep(change, by).await
    }

    async fn put(&mut self, mut part: Part, is_new: bool, by: Actor) -> Result<Edited, EditRefused> {
        let made = self.reader.made().await?;
        let what = part.kind.as_str();
        self.not_of_a_file(part.kind, &part.name)?;
        let known = made.iter().find(|made| made.kind == part.kind && made.name == part.name);
        match known {
            Some(_) if is_new => {
                return Err(EditRefused::Conflict(format!(
                    "there is a {what} `{}` already: change that one",
                    part.name
                )));
            }
            None if !is_new => return Err(unknown(part.kind, &part.name)),
            None if made.iter().filter(|made| made.kind == part.kind).count() >= MOST => {
                return Err(EditRefused::Conflict(format!("there are {MOST} made here already: delete one of them")));
            }
            _ => {}
        }
        part.value.remove("name");
        if part.kind == MadeKind::Connection
            && let Some(known) = known
        {
            keep_secrets(&known.value, &mut part.value)?;
        }
        let change = Change {
            kind: part.kind,
            name: part.name.clone(),
            value: Some(Value::Object(part.value.clone())),
            action: action(part.kind, if is_new { Done::Added } else { Done::Changed }),
            detail: detail(&part),
        };
        let mut parts: Vec<Part> = made.iter().filter_map(Part::of).collect();
        parts.retain(|other| {
            (other.kind, &other.name) != (part.kind, &part.name)
                && made::file_of(&self.running, other.kind, &other.name).is_none()
        });
        self.try_out(part, parts).await?;
        self.keep(change, by).await
    }

    /// Whether the running config would do with this part; `others` may have faults of their own.
    async fn try_out(&self, part: Part, others: Vec<Part>) -> Result<(), EditRefused> {
        let (base, now, path) = (self.running.clone(), self.clock.now(), part.path());
        let parts: Vec<Part> = others.into_iter().chain([part]).collect();
        let tried = tokio::task::spawn_blocking(move || made::with_parts(&base, &parts, now).err());
        let faults = tried.await.map_err(|error| EditRefused::Faulty(error.to_string()))?.unwrap_or_default();
        let own: Vec<String> = faults.iter().filter(|fault| fault.file == path).map(Fault::within).collect();
        if own.is_empty() { Ok(()) } else { Err(EditRefused::Faulty(own.join("; "))) }
    }

    async fn delete(&mut self, kind: MadeKind, name: String, by: Actor) -> Result<Edited, EditRefused> {
        let made = self.reader.made().await?;
        if !made.iter().any(|made| made.kind == kind && made.name == name) {
            self.not_of_a_file(kind, &name)?;
            return Err(unknown(kind, &name));
        }
        let detail = json!({"name": name});
        self.keep(Change { kind, name, value: None, action: action(kind, Done::Deleted), detail }, by).await
    }

    fn not_of_a_file(&self, kind: MadeKind, name: &str) -> Result<(), EditRefused> {
        match made::file_of(&self.running, kind, name) {
            None => Ok(()),
            Some(file) => {
                Err(EditRefused::Conflict(format!("{} `{name}` stands in {file}: change it there", kind.as_str())))
            }
        }
    }

    /// Keeps a change, and has the parts follow it.
    async fn keep(&mut self, change: Change, by: Actor) -> Result<Edited, EditRefused> {
        let what = format!("{} {}", change.kind.as_str(), change.name);
        self.ledger.change(change, by.clone()).await?;
        info!(by = by.name, action = what, "changed through the API");
        self.follow_made().await?;
        Ok(Edited::Done)
    }

    /// Tells the parts what was made through the API, as it is now.
    pub(super) async fn follow_made(&mut self) -> Result<(), StoreError> {
        match merged(self.of_files.clone(), &self.reader, self.clock.now()).await {
            Ok((config, left_out)) => {
                // All that waits for the next start goes on to wait.
                let Config { blocks, evidence, exports, off, .. } = config;
                self.running = Config { blocks, evidence, exports, off, ..self.running.clone() };
                self.wires.config.send_replace(std::sync::Arc::new(self.running.clone()));
                self.wires.tell(&self.running);
                self.meters_shown().await;
                self.left_out = left_out;
                self.show_problems();
                Ok(())
            }
            Err(error) => match error.downcast::<StoreError>() {
                Ok(fault) => Err(fault),
                Err(_) => Err(StoreError::Closed),
            },
        }
    }
}

fn set(value: &mut Map<String, Value>, key: &str, new: Value) {
    if new.is_null() {
        value.remove(key);
    } else {
        value.insert(key.to_owned(), new);
    }
}

fn unknown(kind: MadeKind, name: &str) -> EditRefused {
    let (what, folder) = match kind {
        MadeKind::Connection => ("connection", "connections"),
        _ => ("query", "queries"),
    };
    let name: String = name.chars().take(64).collect();
    EditRefused::Unknown(format!("there is no {what} `{name}`: `/api/{folder}` lists them"))
}

/// A secret that is not given stays, as long as it goes where it went before.
fn keep_secrets(known: &Value, value: &mut Map<String, Value>) -> Result<(), EditRefused> {
    for key in SECRETS {
        let Some(secret) = known.get(key).filter(|_| !value.contains_key(key)) else { continue };
        if known.get("version") != value.get("version") {
            continue;
        }
        if known.get("url") != value.get("url") {
            return Err(EditRefused::Faulty(format!("{key}: the address is another one, so give the secret again")));
        }
        value.insert(key.to_owned(), secret.clone());
    }
    Ok(())
}

enum Done {
    Added,
    Changed,
    Deleted,
}

fn action(kind: MadeKind, done: Done) -> &'static str {
    match (kind, done) {
        (MadeKind::Connection, Done::Added) => "connection-added",
        (MadeKind::Connection, Done::Changed) => "connection-changed",
        (MadeKind::Connection, Done::Deleted) => "connection-deleted",
        (_, Done::Added) => "query-added",
        (_, Done::Changed) => "query-changed",
        (_, Done::Deleted) => "query-deleted",
    }
}

/// What the log says of a part: never a secret, and so only what is known to be none.
fn detail(part: &Part) -> Value {
    let mut detail = json!({"name": part.name});
    for key in ["url", "database", "org", "bucket", "username", "measurement", "text"] {
        if let Some(Value::String(text)) = part.value.get(key) {
            detail[key] = json!(text);
        }
    }
    detail
}
