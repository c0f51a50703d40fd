//! A store that was just opened, before anybody adds to it: its log goes on, or begins anew where it may not.

use std::path::Path;

use tracing::warn;

use crate::clock::Clock;
use crate::config::Config;
use crate::evidence;
use crate::evidence::mark::Mark;
use crate::model::entry::Reason;
use crate::model::{Alert, AlertKind};
use crate::store::{Store, StoreError};

/// The store, for a command, as no daemon has it open.
pub async fn open_alone(config: &Config) -> anyhow::Result<Store> {
    let clock = Clock::system();
    let (limits, own_clock) = (config.store.clone(), clock.clone());
    let store = tokio::task::spawn_blocking(move || Store::open(limits, own_clock, None)).await??;
    settle(&store, config, &clock).await?;
    Ok(store)
}

/// Has the log of a store that was just opened go on, or begin anew where it may not. Whoever opens a store to add to
/// it does this first.
pub async fn settle(store: &Store, config: &Config, clock: &Clock) -> Result<(), StoreError> {
    let (reader, ledger, mark) = (store.reader(), store.ledger(), Mark::at(config.evidence.mark.clone()));
    let before = reader.identity();
    let settled = evidence::log::settle(&reader, &ledger, &config.site_id, &mark, Path::new("/")).await?;
    if let Some(unread) = settled.unread {
        warn!("{unread}");
    }
    let Some(succession) = settled.succession else { return Ok(()) };
    let is_other = reader.identity().gateway != before.gateway;
    let identity = reader.identity();
    let from = settled.restored.map(|restored| restored.taken);
    let what = match (succession.reason, from) {
        (Reason::Clone, None) => {
            "This store was made on another machine, so this gateway has a new id and key. Give auditors the new one"
                .to_owned()
        }
        (Reason::Clone, Some(taken)) => format!(
            "This store was restored on another machine from a backup of {taken}, so this gateway has a new id and key. Give \
             auditors the new one. Readings and blocks since the backup are not here, unless a newer one is restored"
        ),
        (Reason::Restore, taken) => {
            let taken = taken.map(|taken| format!(" of {taken}")).unwrap_or_default();
            let key = if is_other {
                ". The backup has no key, so this gateway has a new id and key. Give auditors the new one"
            } else {
                ""
            };
            format!(
                "This store was restored from a backup{taken}: readings and blocks since then are not here, unless a newer one is \
                 restored{key}"
            )
        }
        (Reason::Rollback, _) => {
            "The store went back in time: it does not know what this gateway has signed before. Readings and blocks since then \
             are lost unless a newer copy of the store is found"
                .to_owned()
        }
        _ => "The site has another id".to_owned(),
    };
    warn!(origin = %identity.origin(), reason = succession.reason.as_str(), "the log began anew: {what}");
    if matches!(succession.reason, Reason::Clone | Reason::Restore | Reason::Rollback) {
        let (now, kind) = (clock.now(), AlertKind::LogBeganAnew);
        let text = format!("{what}. The log goes on as {}; `meterseal key show` prints its key.", identity.origin());
        let alert = Alert::new(kind, None, now, now, text);
        ledger.raise(alert).await?;
    }
    Ok(())
}
