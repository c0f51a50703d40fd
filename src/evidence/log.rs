//! When the log is signed and shown, and what a store must do before it goes on with it.

use std::future::pending;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::epoch::{self, Found};
use super::hardware::Hardware;
use super::mark::Mark;
use crate::clock::Clock;
use crate::model::note::SignedCheckpoint;
use crate::model::{Digest, MeterId, SiteId};
use crate::store::{Append, Epoch, Ledger, Reader, RestoredFrom, Sealing, StoreError, Succession};

/// At most so often the log is signed of itself; whoever needs a proof now has it signed at once.
const SIGN_EVERY: Duration = Duration::from_secs(10);
/// Where blocks are sent to others, they are signed so soon after their sealing: those of other meters come with them.
const SIGN_SEALED: Duration = Duration::from_secs(1);

/// Under these names the store keeps what this room must remember.
const HARDWARE: &str = "evidence.hardware";
const CONFIG: &str = "evidence.config";
const OUTSIDE: &str = "evidence.outside";

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
        let is_marked = self.0.trouble.borrow().is_none();
        if let Some(known) = self.0.newest.borrow().as_ref().filter(|known| ***known == signed && is_marked) {
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
    /// Blocks are sent to others, who get them only when they are signed.
    pub is_sent: bool,
}

/// Logs each config that runs, and signs what was appended, until stopped; then once more.
pub async fn run(
    mut running: watch::Receiver<Option<Running>>,
    publisher: Publisher,
    reader: Reader,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let (mut failing, mut sealed) = (false, reader.sealed());
    loop {
        // Asked first, so that there is a whole round after the stop: other stages may have appended until then.
        let is_last = stop.is_cancelled();
        let config = running.borrow_and_update().clone();
        let is_sent = config.as_ref().is_some_and(|config| config.is_sent);
        // What was sealed until here is signed now, and what comes from here on is heard of.
        sealed = sealed.resubscribe();
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
        let soon = async {
            if matches!(sealed.recv().await, Err(RecvError::Closed)) {
                return pending().await;
            }
            clock.sleep(SIGN_SEALED).await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            Ok(()) = running.changed() => {}
            () = soon, if is_sent => {}
            () = clock.sleep(SIGN_EVERY) => {}
        }
    }
}

/// What was found when a store was opened.
#[derive(Debug)]
pub struct Settled {
    /// The epoch that had to be opened.
    pub succession: Option<Succession>,
    /// The backup that the store was restored from since its last start.
    pub restored: Option<RestoredFrom>,
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
    let restored = reader.restored_from().await?;
    let epochs = reader.epochs().await?;
    let (outside, unread) = match mark.read().and_then(|outside| genuine(outside, &epochs)) {
        Ok(outside) => (outside, None),
        Err(fault) => {
            let aside = mark.put_aside().map_or_else(
                |error| format!("stays where it is ({error})"),
                |()| "is kept beside it as .unread".to_owned(),
            );
            let path = mark.path().display();
            (
                None,
                Some(format!(
                    "{path} is no mark of this log ({fault}) and {aside}: whether the store went back in time is not known"
                )),
            )
        }
    };
    // A mark that cannot be replaced is met again at each start; it has its epoch already.
    let met = reader.state(OUTSIDE).await?;
    let outside = outside.filter(|outside| met != Some(json!(outside.note())));
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
                restored: restored.is_some(),
                outside: outside.as_ref(),
                own_root,
            })
        }
    };
    if let Some(succession) = &succession {
        ledger.succeed(succession.clone()).await?;
        if let Some(outside) = &succession.last_outside {
            ledger.seal(Sealing { state: vec![(OUTSIDE, json!(outside))], ..Sealing::default() }).await?;
        }
    }
    // After the epoch: a crash between the two finds the other hardware again, and a second epoch does no harm.
    let hardware = kept.iter().filter(|_| !other_hardware).fold(hardware, |now, kept| kept.kept_with(&now));
    if kept.as_ref() != Some(&hardware) {
        ledger.seal(Sealing { state: vec![(HARDWARE, json!(hardware))], ..Sealing::default() }).await?;
    }
    Ok(Settled { succession, restored, unread })
}

/// A mark of an epoch that the store knows is signed by its key. Of others nothing can be told: the key may be one that
/// the store never knew.
fn genuine(outside: Option<SignedCheckpoint>, epochs: &[Epoch]) -> io::Result<Option<SignedCheckpoint>> {
    let of = |outside: &SignedCheckpoint| epochs.iter().find(|epoch| epoch.key.name() == outside.checkpoint.origin);
    match outside.as_ref().and_then(|outside| Some(outside.verify_known(&[&of(outside)?.key]))) {
        Some(Err(fault)) => Err(io::Error::other(fault)),
        _ => Ok(outside),
    }
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
    let Running { config_sha256, meters, .. } = config.clone();
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

#[cfg(test)]
mod tests {
    use super::super::hardware::tests::root_of;
    use super::*;
    use crate::model::entry::Reason;
    use crate::model::{Block, BlockFlags, Borders, Category, Method, Span, Timestamp};
    use crate::store::{self, Store};

    struct House {
        _folder: tempfile::TempDir,
        store: Store,
        clock: Clock,
        mark: Mark,
    }

    impl House {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config = store::Config {
                path: folder.path().join("store"),
                commit_every: Duration::from_secs(1),
                keep_raw: Duration::from_secs(86_400),
                max_disk: 1 << 30,
                reserve: 1 << 20,
            };
            let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
            store::init(&config, &"site".parse().unwrap(), &clock).unwrap();
            let store = Store::open(config, clock.clone(), None).unwrap();
            Self { clock, mark: Mark::at(folder.path().join("mark")), store, _folder: folder }
        }

        async fn settle(&self, site: &str, machine: &tempfile::TempDir) -> Option<Reason> {
            let (reader, ledger) = (self.store.reader(), self.store.ledger());
            let settled = settle(&reader, &ledger, &site.parse().unwrap(), &self.mark, machine.path()).await.unwrap();
            settled.succession.map(|succession| succession.reason)
        }
    }

    #[tokio::test]
    async fn a_copy_on_another_machine_is_another_gateway() {
        let (here, there) = (root_of("a", "1", "10:00:00:00:00:01"), root_of("b", "2", "10:00:00:00:00:02"));
        let house = House::new();
        assert_eq!(house.settle("site", &here).await, None);
        assert_eq!(house.settle("site", &here).await, None);
        let before = house.store.reader().identity();
        assert_eq!(house.settle("site", &there).await, Some(Reason::Clone));
        let after = house.store.reader().identity();
        assert_ne!((&after.gateway, &after.epoch), (&before.gateway, &before.epoch));
        assert_eq!(house.settle("site", &there).await, None, "it is at home there now");
        // The mark of the one it was copied from says nothing of it.
        assert_eq!(house.settle("other", &there).await, Some(Reason::Site));
        assert_eq!(house.store.reader().identity().gateway, after.gateway);
    }

    #[tokio::test]
    async fn a_mark_that_cannot_be_read_is_told_and_stops_nothing() {
        let (here, house) = (root_of("a", "1", "10:00:00:00:00:01"), House::new());
        std::fs::write(house.mark.path(), "no checkpoint").unwrap();
        let (reader, ledger) = (house.store.reader(), house.store.ledger());
        let settled = settle(&reader, &ledger, &"site".parse().unwrap(), &house.mark, here.path()).await.unwrap();
        assert!(settled.succession.is_none() && settled.unread.unwrap().contains(".unread"));
        let aside = house.mark.path().with_file_name("mark.unread");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "no checkpoint", "what it may show is not overwritten");
        Publisher::new(ledger, house.mark.clone()).publish().await.unwrap();
        assert_eq!(house.settle("site", &here).await, None);
    }

    #[tokio::test]
    async fn a_mark_with_a_changed_bit_opens_no_epoch() {
        let (here, house) = (root_of("a", "1", "10:00:00:00:00:01"), House::new());
        let mut signed =
            Publisher::new(house.store.ledger(), house.mark.clone()).publish().await.unwrap().as_ref().clone();
        signed.checkpoint.size += 1;
        house.mark.write(&signed).unwrap();
        assert_eq!(house.settle("site", &here).await, None);
        assert_eq!(house.mark.read().unwrap(), None, "it was put aside");
    }

    #[tokio::test]
    async fn a_mark_that_stays_opens_one_epoch() {
        let (here, ahead, behind) = (root_of("a", "1", "10:00:00:00:00:01"), House::new(), House::new());
        // Of an epoch that the store does not know, by a key that it does not know, and of its gateway.
        let mut signed =
            Publisher::new(ahead.store.ledger(), ahead.mark.clone()).publish().await.unwrap().as_ref().clone();
        let gateway = behind.store.reader().identity().gateway.clone();
        signed.checkpoint.origin = format!("site/{gateway}/0123456789abcdef");
        behind.mark.write(&signed).unwrap();
        assert_eq!(behind.settle("site", &here).await, Some(Reason::Rollback));
        assert_eq!(behind.settle("site", &here).await, None, "the same mark again says nothing new");
    }

    #[tokio::test]
    async fn a_mark_that_could_not_be_written_is_written_when_it_can() {
        let house = House::new();
        let publisher = Publisher::new(house.store.ledger(), house.mark.clone());
        std::fs::create_dir(house.mark.path()).unwrap();
        publisher.publish().await.unwrap();
        assert!(publisher.trouble().borrow().is_some());
        std::fs::remove_dir(house.mark.path()).unwrap();
        let signed = publisher.publish().await.unwrap();
        assert!(publisher.trouble().borrow().is_none());
        assert_eq!(house.mark.read().unwrap().as_ref(), Some(&*signed));
    }

    #[tokio::test]
    async fn what_is_published_is_signed_once_and_marked() {
        let house = House::new();
        let publisher = Publisher::new(house.store.ledger(), house.mark.clone());
        let first = publisher.publish().await.unwrap();
        assert_eq!(house.mark.read().unwrap().as_ref(), Some(&*first));
        std::fs::remove_file(house.mark.path()).unwrap();
        assert_eq!(publisher.publish().await.unwrap(), first);
        assert_eq!(house.mark.read().unwrap(), None, "nothing new, nothing written");
        let running = Running { config_sha256: Digest::of(b"config"), meters: Vec::new(), is_sent: false };
        for wanted in [2, 2] {
            log_config(&house.store.reader(), &house.store.ledger(), &running).await.unwrap();
            assert_eq!(publisher.publish().await.unwrap().checkpoint.size, wanted, "logged once");
        }
        assert_eq!(house.mark.read().unwrap().as_ref(), publisher.newest().borrow().as_deref());
    }

    fn block() -> Block {
        let (start, half) = (Timestamp::from_millis(1_699_999_200_000), 1_800_000);
        Block {
            meter: "main".parse().unwrap(),
            span: Span::new(start, start.plus_millis(half)).unwrap(),
            nominal_ms: 1_800_000,
            revision: 0,
            category: Category::Cons,
            import: None,
            export: None,
            max_power: None,
            min_power: None,
            covered_ms: 0,
            coverage: 0,
            method: Method::Counter,
            is_peak_hour: false,
            flags: BlockFlags::NONE,
            readings_sha256: Digest::of(b""),
            through_seq: 0,
            borders: Borders::default(),
            zone: "UTC".to_owned(),
            interval_ms: 1_000,
            template: None,
            sealed: start.plus_millis(half),
        }
    }

    #[tokio::test]
    async fn a_sealed_block_that_is_sent_is_signed_soon() {
        for is_sent in [true, false] {
            let house = House::new();
            let (clock, stop) = (house.clock.clone(), CancellationToken::new());
            let publisher = Publisher::new(house.store.ledger(), house.mark.clone());
            let config = Running { config_sha256: Digest::of(b"config"), meters: Vec::new(), is_sent };
            let (running, mut newest) = (watch::Sender::new(Some(config)), publisher.newest());
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(run(running.subscribe(), publisher, house.store.reader(), clock.clone(), stop.clone()));
            let size = |note: &Option<Arc<SignedCheckpoint>>| note.as_ref().map_or(0, |note| note.checkpoint.size);
            newest.wait_for(|note| size(note) == 2).await.unwrap();
            house.store.ledger().seal(Sealing { blocks: vec![block()], ..Sealing::default() }).await.unwrap();

            // In steps, as nobody knows when the task begins to wait: until just before it would be signed in any case.
            let step = Duration::from_millis(250);
            for _ in 1..SIGN_EVERY.as_millis() / step.as_millis() {
                clock.advance(step);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if !is_sent {
                assert_eq!(size(&newest.borrow()), 2, "there is no hurry");
                clock.advance(step);
            }
            let signed = newest.wait_for(|note| size(note) == 3);
            tokio::time::timeout(Duration::from_secs(20), signed).await.expect("it is signed").unwrap();
            stop.cancel();
            tasks.join_next().await.unwrap().unwrap().unwrap();
        }
    }
}
