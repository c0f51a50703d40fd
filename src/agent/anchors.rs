//! Anchors: what the page and commands ask of the owner, and the owner of a command alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use tokio::signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{admin, exports, open_alone};
use crate::clock::Clock;
use crate::config::Config;
use crate::evidence::anchor::{Anchorer, Order, Part, Parts, Wanted};
use crate::evidence::log::Publisher;
use crate::evidence::mark::Mark;
use crate::model::proof::AnchoredBy;
use crate::model::{Anchor, AnchorRefused, AnchorState, AnchorStatus};
use crate::store::{Reader, Store, StoreError};
use crate::web::AnchorNow;

/// Wishes of the page and of commands; who has one more is told to come again, or waits.
pub const ASKED: usize = 8;
/// Anchors that a status shows.
const NEWEST: usize = 10;
/// A look at an anchor that somebody waits for.
const LOOK: Duration = Duration::from_millis(250);

/// How anchoring does, and the newest anchors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnchorsTold {
    pub status: AnchorStatus,
    pub anchors: Vec<Anchor>,
    /// Who else has anchors in blocks: a proof may be shown with them.
    pub former: Vec<AnchoredBy>,
}

/// Hands the page's wishes to the owner.
pub async fn run(
    mut asked: mpsc::Receiver<AnchorNow>,
    orders: mpsc::Sender<Order>,
    reader: Reader,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let now = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            now = asked.recv() => now,
        };
        let Some(AnchorNow { order, reply }) = now else {
            // Nobody can ask any more: the program is stopping.
            stop.cancelled().await;
            return Ok(());
        };
        let answer = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            answer = queue(&orders, Wanted::Checkpoint, order.by) => answer,
        };
        let queued = match answer {
            Ok(Ok(id)) => reader.anchor(id).await.and_then(|anchor| anchor.ok_or(StoreError::NoAnchor(id))).map(Ok),
            Ok(Err(refused)) => Ok(Err(refused)),
            Err(_) => return stopped(&stop).await,
        };
        // Who asked may have gone.
        reply.send(queued).ok();
    }
}

async fn stopped(stop: &CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}

async fn queue(orders: &mpsc::Sender<Order>, wanted: Wanted, by: String) -> anyhow::Result<Result<u64, AnchorRefused>> {
    let (reply, answer) = oneshot::channel();
    let gone = || anyhow!("the daemon is stopping");
    orders.send(Order { wanted, by, reply }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

/// Follows an anchor until it is as far as somebody waits for.
pub struct Following {
    reader: Reader,
    id: u64,
    until: AnchorState,
    last: Option<Anchor>,
}

impl Following {
    /// Queues what is wanted.
    pub async fn begin(
        orders: &mpsc::Sender<Order>,
        reader: Reader,
        (wanted, by): (Wanted, String),
        until: AnchorState,
    ) -> anyhow::Result<Self> {
        let id = match queue(orders, wanted, by).await? {
            // There is nothing to be added to that one, which may still be on its way.
            Ok(id) | Err(AnchorRefused::NothingNew(id)) => id,
            Err(refused) => return Err(refused.into()),
        };
        Ok(Self { reader, id, until, last: None })
    }

    /// The anchor, when it has changed; nothing when it was last told as far as it is waited for.
    pub async fn next(&mut self) -> anyhow::Result<Option<Anchor>> {
        loop {
            if self.last.as_ref().is_some_and(|last| reaches(last.state, self.until)) {
                return Ok(None);
            }
            let anchor = self.reader.anchor(self.id).await?.context("the anchor is gone")?;
            if self.last.as_ref() != Some(&anchor) {
                self.last = Some(anchor.clone());
                return Ok(Some(anchor));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether somebody who waits for `until` has waited long enough.
fn reaches(state: AnchorState, until: AnchorState) -> bool {
    state == AnchorState::Final || state == until
}

/// What `status` tells.
pub async fn told(reader: &Reader, status: AnchorStatus) -> Result<AnchorsTold, StoreError> {
    let (anchors, mut former) = (reader.anchors(None, NEWEST).await?, reader.anchored_by().await?);
    former.retain(|by| (Some(by.chain_id), Some(by.account)) != (status.chain(), status.account));
    Ok(AnchorsTold { status, anchors, former })
}

/// Anchors for a command, until it is as far as `until` or Ctrl-C is pressed: by the daemon that runs on the store of
/// this config, else by this process, which holds the store meanwhile. What is queued stays queued.
pub async fn for_command(
    config: &Config,
    wanted: Wanted,
    until: AnchorState,
    mut told: impl FnMut(Anchor) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let work = async {
        if let Some(socket) = admin::daemon_of(&config.store)? {
            return admin::anchor(&socket, wanted, until, told).await;
        }
        let (store, parts) = alone(config).await?;
        let reader = parts.reader.clone();
        let (orders, asked) = mpsc::channel(ASKED);
        let (part, stop) = (watch::Sender::new(Arc::new(config.anchor.clone())), CancellationToken::new());
        let by = exports::myself();
        let follow = async {
            let mut following = Following::begin(&orders, reader, (wanted, by.name), until).await?;
            while let Some(anchor) = following.next().await? {
                told(anchor)?;
            }
            Ok(())
        };
        let done = tokio::select! {
            done = follow => done,
            ended = crate::evidence::anchor::run(part.subscribe(), parts, asked, stop) => {
                ended.map_err(anyhow::Error::from).and(Err(anyhow!("anchoring has ended")))
            }
        };
        store.close().await?;
        done
    };
    tokio::select! {
        done = work => done,
        stopped = signal::ctrl_c() => stopped.context("stopped").and_then(|()| Err(anyhow!(STOPPED))),
    }
}

const STOPPED: &str =
    "stopped: what is queued or sent stays so, and goes on while the daemon runs, or with `meterseal anchor now`";

/// How anchoring does, for a command. Nothing is signed or sent for it.
pub async fn status(config: &Config) -> anyhow::Result<AnchorsTold> {
    if let Some(socket) = admin::daemon_of(&config.store)? {
        return admin::ask(&socket, &admin::Request::Anchors {}).await;
    }
    is_on(&config.anchor)?;
    let limits = config.store.clone();
    let store = tokio::task::spawn_blocking(move || Store::look(limits, Clock::system())).await??;
    let told = seen(&store, config).await;
    store.close().await?;
    told
}

/// The same of a store that is open, by what it holds and what the nodes say.
pub(super) async fn seen(store: &Store, config: &Config) -> anyhow::Result<AnchorsTold> {
    let parts = parts(store, &config.evidence.mark);
    let status = parts.status.subscribe();
    let part = watch::Sender::new(Arc::new(config.anchor.clone()));
    Anchorer::new(parts, part.subscribe()).look().await?;
    let status = status.borrow().clone();
    Ok(told(&store.reader(), status).await?)
}

/// The store of a command that anchors itself, which takes the key.
async fn alone(config: &Config) -> anyhow::Result<(Store, Parts)> {
    is_on(&config.anchor)?;
    let store = open_alone(config).await?;
    let parts = parts(&store, &config.evidence.mark);
    Ok((store, parts))
}

fn is_on(part: &Part) -> Result<(), AnchorRefused> {
    match part {
        Part::On(_) => Ok(()),
        Part::Off(why) => Err(AnchorRefused::Off(why.clone())),
        Part::Absent => Err(AnchorRefused::NotConfigured),
    }
}

fn parts(store: &Store, mark: &Path) -> Parts {
    Parts {
        reader: store.reader(),
        ledger: store.ledger(),
        publisher: Publisher::new(store.ledger(), Mark::at(mark.to_owned())),
        clock: Clock::system(),
        status: watch::Sender::default(),
    }
}
