//! When the log is signed and shown, and what a store must do before it goes on with it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::epoch::{self, Found};
use super::hardware::Hardware;
use super::mark::Mark;
use crate::clock::Clock;
use crate::model::note::SignedCheckpoint;
use crate::model::{Digest, MeterId, SiteId};
use crate::store::{Append, Epoch, Ledger, Reader, Sealing, StoreError, Succession};

/// At most so often the log is signed of itself; whoever needs a proof now has it signed at once.
const SIGN_EVERY: Duration = Duration::from_secs(10);

/// Under these names the store keeps what this room must remember.
const HARDWARE: &str = "evidence.hardware";
const CONFIG: &str = "evidence.config";

/// Signs the log, marks that outside of the store, and only then shows it.
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    mark: Mark,
    /// One at a time, so that the mark never goes back.
    turn: Mutex<()>,
    newest: watch::Sender<Option<Arc<SignedCheckpoint>>>,
    /// Why the mark cannot be kept, for a person.
    trouble: watch::Sender<Option<String>>,
}

impl Publisher {
    pub fn new(ledger: Ledger, mark: Mark) -> Self {
        let (newest, trouble) = (watch::Sender::new(None), watch::Sender::new(None));
        Self(Arc::new(Inner { ledger, mark, turn: Mutex::default(), newest, trouble }))
    }

    /// The newest checkpoint that may be shown.
    pub fn newest(&self) -> watch::Receiver<Option<Arc<SignedCheckpoint>>> {
        self.0.newest.subscribe()
    }

    /// What a person should know of the mark; `None` while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.0.trouble.subscribe()
    }

    /// Signs all that the log holds now.
    pub async fn publish(&self) -> Result<Arc<SignedCheckpoint>, StoreError> {
        let _turn = self.0.turn.lock().await;
        let signed = self.0.ledger.checkpoint().await?;
        if let Some(known) = self.0.newest.borrow().as_ref().filter(|known| ***known == signed) {
            return Ok(known.clone());
        }
        let (signed, mark) = (Arc::new(signed), self.0.mark.clone());
        let note = signed.clone();
        let written = tokio::task::spawn_blocking(move || mark.write(&note)).await;
        self.tell(written.unwrap_or_else(|panic| Err(io::Error::other(panic))).err());
        self.0.newest.send_replace(Some(signed.clone()));
        Ok(signed)
    }

    fn tell(&self, fault: Option<io::Error>) {
        let path = self.0.mark.path().display();
        let told = fault.map(|fault| {
            format!(
                "A store that goes back in time would not be noticed here: {path} cannot be written ({fault}). Let meterseal write \
                 there, or name another place outside of the store as store.mark"
            )
        });
        self.0.trouble.send_if_modified(|known| {
            let differs = *known != told;
            if let Some(told) = told.as_ref().filter(|_| differs) {
                warn!("{told}");
            }
            *known = told;
            differs
        });
    }
}

/// Which config runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Of its texts, without the secrets that stand in them.
    pub config_sha256: Digest,
    pub meters: Vec<MeterId>,
}

/// Logs each config that runs, and signs what was appended, until stopped; then once more.
pub async fn run(
    mut running: watch::Receiver<Option<Running>>,
    publisher: Publisher,
    reader: Reader,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let mut failing = false;
    loop {
        // Asked first, so that there is a whole round after the stop: other stages may have appended until then.
        let is_last = stop.is_cancelled();
        let config = running.borrow_and_update().clone();
        let done = async {
            if let Some(config) = &config {
                log_config(&reader, &publisher.0.ledger, config).await?;
            }
            publisher.publish().await
        };
        match done.await {
            Ok(_) => failing = false,
            Err(fault) if fault.may_pass() => {
                if !std::mem::replace(&mut failing, true) {
                    error!(error = %fault, "the log is signed when the store can be used again");
                }
            }
            Err(fault) => return Err(fault),
        }
        if is_last {
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled() => {}
            Ok(()) = running.changed() => {}
            () = clock.sleep(SIGN_EVERY) => {}
        }
    }
}

/// What was found when a store was opened.
#[derive(Debug)]
pub struct Settled {
    /// The epoch that had to be opened.
    pub succession: Option<Succession>,
    /// The mark could not be read.
    pub unread: Option<String>,
}

/// Decides whether the log goes on, before anything is added to it. `root` is where the machine's own files lie.
pub async fn settle(
    reader: &Reader,
    ledger: &Ledger,
    site: &SiteId,
    mark: &Mark,
    root: &Path,
) -> Result<Settled, StoreError> {
    let hardware = Hardware::read(root);
    let kept = reader.state(HARDWARE).await?.and_then(|kept| serde_json::from_value::<Hardware>(kept).ok());
    let other_hardware = kept.as_ref().is_some_and(|kept| kept.is_other(&hardware));
    let (outside, unread) = match mark.read() {
        Ok(outside) => (outside, None),
        Err(fault) => (None, Some(format!("the mark {} is passed over: {fault}", mark.path().display()))),
    };
    let epochs = reader.epochs().await?;
    let succession = match epochs.last() {
        None => None,
        Some(current) => {
            let own_root = own_root(reader, &epochs, outside.as_ref()).await?;
            let sizes: Vec<_> = epochs.iter().map(|epoch| (epoch.identity.origin(), epoch.size)).collect();
            epoch::successor(&Found {
                origin: &current.identity.origin(),
                epochs: &sizes,
                site: (&current.identity.site, site),
                other_hardware,
                outside: outside.as_ref(),
                own_root,
            })
        }
    };
    if let Some(succession) = &succession {
        ledger.succeed(succession.clone()).await?;
    }
    // After the epoch: a crash between the two finds the other hardware again, and a second epoch does no harm.
    let hardware = kept.iter().filter(|_| !other_hardware).fold(hardware, |now, kept| kept.kept_with(&now));
    if kept.as_ref() != Some(&hardware) {
        ledger.seal(Sealing { state: vec![(HARDWARE, json!(hardware))], ..Sealing::default() }).await?;
    }
    Ok(Settled { succession, unread })
}

/// The store's own root where `outside` stands.
async fn own_root(
    reader: &Reader,
    epochs: &[Epoch],
    outside: Option<&SignedCheckpoint>,
) -> Result<Option<Digest>, StoreError> {
    let Some(outside) = outside.map(|outside| &outside.checkpoint) else { return Ok(None) };
    match epochs.iter().find(|epoch| epoch.identity.origin() == outside.origin) {
        Some(epoch) => reader.root_at(&epoch.identity.epoch, outside.size).await,
        None => Ok(None),
    }
}

/// Logs which config runs, unless this epoch says so already.
async fn log_config(reader: &Reader, ledger: &Ledger, config: &Running) -> Result<(), StoreError> {
    let Running { config_sha256, meters } = config.clone();
    let program = concat!("meterseal ", env!("CARGO_PKG_VERSION")).to_owned();
    let epoch = reader.identity().epoch.clone();
    let running = json!({ "config_sha256": config_sha256, "epoch": epoch, "meters": meters, "program": program });
    if reader.state(CONFIG).await?.as_ref() == Some(&running) {
        return Ok(());
    }
    ledger.append(vec![Append::Config { config_sha256, program, meters }]).await?;
    // A crash before this logs the same config once more, which says nothing wrong.
    ledger.seal(Sealing { state: vec![(CONFIG, running)], ..Sealing::default() }).await
}
