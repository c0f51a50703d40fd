//! Finds what a person must know, keeps it in the store, and hands it to the webhook until the webhook takes it.

mod deliver;
mod rule;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::model::{Meter, MeterId, OpenBlock, SourcesStatus};
use crate::store::{Ledger, Reader, StoreError, StoreHealth};
use deliver::Delivery;
pub use deliver::{TestFailed, send_test};
use rule::{Seen, Step, Watching};

/// Part `[alerts]` of the config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub webhook: Option<Webhook>,
}

/// Where alerts go.
#[derive(Clone, PartialEq)]
pub struct Webhook {
    pub url: String,
    /// JSON in which `{{text}}`, `{{kind}}`, `{{meter}}`, `{{site}}`, `{{time}}`, `{{id}}` and `{{contact}}` are
    /// replaced, escaped.
    pub body: String,
    pub contact: String,
}

/// An address may bear a secret in its path or query, and so may the body: neither is printed.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("url", &"***").field("body", &"***").field("contact", &self.contact).finish()
    }
}

/// What the alerts are judged by, and where they tell of their own trouble.
#[derive(Clone)]
pub struct Views {
    pub config: watch::Receiver<Arc<Config>>,
    pub meters: watch::Receiver<Arc<Vec<Meter>>>,
    pub open: watch::Receiver<Arc<BTreeMap<MeterId, OpenBlock>>>,
    pub sources: watch::Receiver<Arc<SourcesStatus>>,
    /// What the sealing of blocks waits for, for a person.
    pub sealing: watch::Receiver<Option<&'static str>>,
    /// What is wrong with the webhook, for a person; `None` while it takes what it is given.
    pub problem: watch::Sender<Option<String>>,
}

/// The pause between looks when nothing changes.
const LOOK: Duration = Duration::from_secs(5);
/// Alerts that stand, at most.
const STANDING: usize = 10_000;

/// Raises, clears and delivers until stopped.
pub async fn run(
    views: Views,
    reader: Reader,
    ledger: Ledger,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let nudge = Arc::new(Notify::new());
    let delivery = Delivery {
        config: views.config.clone(),
        reader: reader.clone(),
        ledger: ledger.clone(),
        clock: clock.clone(),
        nudge: Arc::clone(&nudge),
        problem: views.problem.clone(),
        stop: stop.clone(),
    };
    let watching = Watching::resume(reader.alerts(true, STANDING).await?);
    let ((), ()) = tokio::join!(delivery.run(), watch(watching, views, (reader, ledger), clock, nudge, stop));
    Ok(())
}

/// Looks whenever something changes, and every few seconds.
async fn watch(
    mut watching: Watching,
    mut views: Views,
    (reader, ledger): (Reader, Ledger),
    clock: Clock,
    nudge: Arc<Notify>,
    stop: CancellationToken,
) {
    let (mut has_failed, mut off) = (false, Vec::new());
    loop {
        // What cannot be read now stays as it was known.
        if let Ok(known) = reader.alerts_off().await {
            off = known;
        }
        let steps = {
            let (meters, open) = (views.meters.borrow().clone(), views.open.borrow_and_update().clone());
            let sources = views.sources.borrow_and_update().clone();
            let (now, since_boot_ms) = (clock.now(), clock.since_boot_ms());
            let trouble = store_trouble(&reader.health());
            let store_trouble = trouble.as_deref();
            let clock_trouble = *views.sealing.borrow_and_update();
            let (meters, open, sources) = (&meters, &open, &sources);
            let off = &off;
            watching.judge(&Seen { now, since_boot_ms, meters, open, sources, store_trouble, clock_trouble, off })
        };
        match act(&mut watching, steps, &ledger, &clock, &nudge).await {
            Ok(()) => has_failed = false,
            // The store tells of its trouble itself; what could not be kept is found again at the next look.
            Err(cause) if !has_failed => {
                warn!(error = &cause as &dyn std::error::Error, "an alert could not be kept");
                has_failed = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = views.open.changed() => {}
            Ok(()) = views.sources.changed() => {}
            Ok(()) = views.sealing.changed() => {}
            () = clock.sleep(LOOK) => {}
        }
    }
}

fn store_trouble(health: &StoreHealth) -> Option<String> {
    if let Some(why) = &health.unwritable {
        return Some(why.clone());
    }
    health.reserve_used.then(|| {
        "the disk is full, and readings go on in the reserve: make room, or they wait and polling stops when their part \
         of it is used up; nothing that is stored is deleted for it"
            .to_owned()
    })
}

async fn act(
    watching: &mut Watching,
    steps: Vec<Step>,
    ledger: &Ledger,
    clock: &Clock,
    nudge: &Notify,
) -> Result<(), StoreError> {
    for step in steps {
        match step {
            Step::Raise(alert) => {
                let id = ledger.raise(alert.clone()).await?;
                if let Some(id) = id {
                    info!(alert = id, "{}", alert.text);
                    nudge.notify_one();
                }
                watching.kept(alert, id);
            }
            Step::Clear(id) => {
                ledger.clear_alert(id, clock.now()).await?;
                watching.cleared(id);
            }
        }
    }
    Ok(())
}
