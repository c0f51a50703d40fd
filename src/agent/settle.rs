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
    let settled = evidence::log::settle(&reader, &ledger, &config.site_id, &mark, Path::new("/")).await?;
    if let Some(unread) = settled.unread {
        warn!("{unread}");
    }
    let Some(succession) = settled.succession else { return Ok(()) };
    let identity = reader.identity();
    let what = match succession.reason {
        Reason::Clone => {
            "This store was made on another machine, so this gateway has a new id and key. Give auditors the new one"
        }
        Reason::Rollback => {
            "The store went back in time: it does not know what this gateway has signed before. Readings and blocks since then \
             are lost unless a newer copy of the store is found"
        }
        _ => "The site has another id",
    };
    warn!(origin = %identity.origin(), reason = succession.reason.as_str(), "the log began anew: {what}");
    if matches!(succession.reason, Reason::Clone | Reason::Rollback) {
        let (now, kind) = (clock.now(), AlertKind::LogBeganAnew);
        let text = format!("{what}. The log goes on as {}; `meterseal key show` prints its key.", identity.origin());
        let alert = Alert::new(kind, None, now, now, text);
        ledger.raise(alert).await?;
    }
    Ok(())
}
