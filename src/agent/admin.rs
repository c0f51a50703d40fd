//! The admin socket: commands talk to the running daemon. One JSON line asks, one JSON line answers.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::access::{self, AccessOrder};
use super::anchors;
use super::doctor;
use super::exports;
use super::upstreams::{self, UpstreamsTold};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::evidence::anchor::{Order, Wanted};
use crate::evidence::log::Publisher;
use crate::model::entry::Reason;
use crate::model::proof::{Claim, ProofForm, ProofTold};
use crate::model::{
    Actor, Anchor, AnchorState, AnchorStatus, ExportEvent, ExportOrder, JobId, MeterId, PollReport, RunningJobs,
    ScanEvent, ScanOrder, SourcesStatus, Timestamp, UpstreamOrder, UpstreamRefused, UpstreamsStatus,
};
use crate::sources::{self, PollNow};
use crate::store::{self, Epoch, Inventory, Ledger, Reader, StoreError, Succession};
use crate::web::{self, BulkNow, ProveNow, ScanNow, UpstreamNow};

/// What a command asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Polls a meter now: a [`PollReport`].
    Read { meter: MeterId },
    /// How everything is doing.
    Status {},
    /// All that `doctor` wants to know: [`Told`](crate::doctor::facts::Told).
    Doctor {},
    /// Reads the config again, as SIGHUP does: a [`Reloaded`].
    Reload {},
    /// Checks the config on disk: faults and warnings.
    Check {},
    /// The verifier keys of the log: [`Epoch`](crate::store::Epoch)s as [`KeyView`]s, the oldest first.
    Keys {},
    /// Signs with a new key from now on: a [`KeyView`].
    RotateKey {},
    /// Searches a bus: each [`ScanEvent`] as a line of its own, before the reply.
    Scan { order: ScanOrder },
    /// Proves something: the proof's text in lines of their own, each a string, before the reply, a [`ProofTold`].
    Prove { claim: Claim, form: ProofForm },
    /// Exports a period: each [`ExportEvent`] as a line of its own. After `Done` the bundle is kept until the command has
    /// answered with [`COPIED`], or has gone. One that goes earlier cancels its export.
    Export { order: ExportOrder },
    /// The newest exports: [`ExportListed`](crate::model::ExportListed)s.
    Exports {},
    /// Hands over the bundle of an export that is done: `Done`, and then as after that of `Export`.
    Fetch { id: JobId },
    /// How anchoring does: an [`AnchorsTold`](anchors::AnchorsTold).
    Anchors {},
    /// Anchors something: each change of the [`Anchor`] as a line of its own, until it is as far as this.
    Anchor { wanted: Wanted, until: AnchorState },
    /// How the upstreams do: an [`UpstreamsTold`].
    Upstreams {},
    /// Dead letters, the newest first, those before this id: at most [`upstreams::PAGE`].
    DeadLetters { upstream: String, before: Option<u64> },
    /// Does something with an upstream.
    Upstream { order: UpstreamOrder },
    /// Has the store hold still, so that the command can copy its files: an [`Inventory`] as a line of its own, before the
    /// reply. It holds still until the command has answered with [`COPIED`], or has gone; the reply says whether it did all
    /// the time.
    Backup {},
    /// Does something with PINs, TOTP or tokens: an [`AccessDone`](access::AccessDone).
    Access { order: AccessOrder },
}

/// The command has its copy of the bundle, or of the store.
const COPIED: u8 = b'+';

/// What came of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    /// What is told before the end.
    Told(Value),
    Done(Value),
    Failed(String),
}

/// An epoch of the log and the key that signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    pub key: String,
    pub origin: String,
    pub opened: Timestamp,
    pub reason: String,
}

/// What came of reading the config again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Parts that changed and were told.
    pub changed: Vec<String>,
    /// What waits for the next start.
    pub at_next_start: Vec<String>,
    /// Why the file was refused; what ran before goes on. Empty when it was taken.
    pub faults: Vec<String>,
}

/// A reload that somebody waits for.
pub struct ReloadNow(pub oneshot::Sender<Reloaded>);

/// What the socket's requests need.
#[derive(Clone)]
pub struct Desk {
    /// Where the config lies; absent for a config that is no file.
    pub path: Option<PathBuf>,
    pub clock: Clock,
    /// Where the page and the API are.
    pub page: watch::Receiver<web::Page>,
    pub certificate: watch::Receiver<web::CertificateStatus>,
    pub reader: Reader,
    pub status: watch::Receiver<Arc<SourcesStatus>>,
    pub problems: watch::Receiver<Arc<Vec<String>>>,
    pub polls: mpsc::Sender<PollNow>,
    pub reloads: mpsc::Sender<ReloadNow>,
    pub scans: mpsc::Sender<ScanNow>,
    pub ledger: Ledger,
    pub publisher: Publisher,
    pub proofs: mpsc::Sender<ProveNow>,
    pub bulk: mpsc::Sender<BulkNow>,
    pub running: watch::Receiver<Arc<RunningJobs>>,
    pub anchor: watch::Receiver<AnchorStatus>,
    pub anchors: mpsc::Sender<Order>,
    pub upstreams: watch::Receiver<Arc<UpstreamsStatus>>,
    pub upstream_orders: mpsc::Sender<UpstreamNow>,
    /// What runs.
    pub config: watch::Receiver<Arc<Config>>,
    /// When the daemon started, by both clocks.
    pub started: (Timestamp, u64),
}

/// Events of a search on their way to a command. When they are full, the search waits.
const EVENTS: usize = 64;

/// A command may take so long to copy a bundle.
const COPYING: Duration = Duration::from_secs(3_600);

/// How often it is looked whether a backup still has what it needs.
const LOOK: Duration = Duration::from_millis(500);

/// More than a person with a few scripts needs; the next one waits in the kernel's queue.
const CONNECTIONS: usize = 8;
/// A request names a meter, the units to look for, or some thousand dead letters.
const REQUEST_BYTES: u64 = 65_536;
/// An answer is a poll of 255 values, or the status of some thousand meters.
const REPLY_BYTES: u64 = 16 << 20;
/// A poll of a meter that is slow or away, and then some.
const PATIENCE: Duration = Duration::from_secs(90);
/// An answer for which nothing is asked of others.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Where the socket of the unit's daemon is: `RuntimeDirectory=` of systemd/meterseal.service.
const UNIT_SOCKET: &str = "/run/meterseal/meterseal.sock";

/// Where the socket of a daemon on this store is: in the runtime directory that systemd made, else beside the store.
pub fn socket_path(store: &Path) -> PathBuf {
    // systemd separates several directories with colons (systemd.exec(5)); ours has one.
    let runtime = std::env::var("RUNTIME_DIRECTORY").ok().and_then(|all| all.split(':').next().map(PathBuf::from));
    runtime.filter(|path| path.is_absolute()).unwrap_or_else(|| store.join("run")).join("meterseal.sock")
}

/// Opens the socket for this user and root. The store's lock is held, so a socket that is there already is a dead one.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until stopped.
pub async fn serve(listener: UnixListener, desk: Desk, stop: CancellationToken) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(ended) = connections.join_next() => ended.context("an admin request")?,
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(answer_one(stream, desk.clone()));
                }
                Err(error) => {
                    warn!(%error, "admin socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
        }
    }
}

async fn answer_one(stream: UnixStream, desk: Desk) {
    match answer(stream, desk).await {
        Ok(()) => {}
        Err(error) => debug!("admin request: {error:#}"),
    }
}

async fn answer(stream: UnixStream, desk: Desk) -> anyhow::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let (input, mut output) = stream.into_split();
    let reply = if allowed(peer) {
        let mut line = String::new();
        let mut input = BufReader::new(input.take(REQUEST_BYTES));
        timeout(PATIENCE, input.read_line(&mut line)).await.context("no request came")??;
        let done = match serde_json::from_str(&line) {
            // A search takes as long as it takes, and ends when the command goes away.
            Ok(Request::Scan { order }) => tokio::select! {
                done = desk.scan(order, &mut output) => done,
                _ = input.read_u8() => return Ok(()),
            },
            // So does a row of a large dataset.
            Ok(Request::Prove { claim, form }) => tokio::select! {
                done = desk.prove(claim, form, &mut output) => done,
                _ = input.read_u8() => return Ok(()),
            },
            // A chain takes its time, and what it waits for may take days.
            Ok(Request::Anchor { wanted, until }) => tokio::select! {
                done = desk.anchor((wanted, exports::user(peer).name), until, &mut output) => done,
                _ = input.read_u8() => return Ok(()),
            },
            Ok(Request::Export { order }) => desk.export(order, exports::user(peer), &mut input, &mut output).await,
            Ok(Request::Fetch { id }) => match exports::done(&desk.reader, id).await {
                Ok(event) => desk.hand_over(id, event, exports::user(peer), &mut input, &mut output).await,
                Err(none) => Err(none),
            },
            Ok(Request::Backup {}) => desk.hold_still(&mut input, &mut output).await,
            Ok(request) => timeout(PATIENCE, desk.done(request, peer)).await.context("it took too long")?,
            Err(error) => Err(anyhow!("not a request: {error}")),
        };
        done.map_or_else(|error| Reply::Failed(format!("{error:#}")), Reply::Done)
    } else {
        warn!(uid = peer, "admin request of another user refused");
        Reply::Failed(format!("user {peer} may not: ask as root or as the user that runs meterseal"))
    };
    say(&mut output, &reply).await?;
    output.shutdown().await?;
    Ok(())
}

async fn say(output: &mut OwnedWriteHalf, reply: &Reply) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(reply)?;
    text.push(b'\n');
    Ok(timeout(PATIENCE, output.write_all(&text)).await.context("the command does not listen")??)
}

/// Root, and the user that runs the daemon.
fn allowed(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

impl Desk {
    async fn done(&self, request: Request, peer: u32) -> anyhow::Result<Value> {
        match request {
            Request::Read { meter } => {
                let (reply, answer) = oneshot::channel();
                let gone = || anyhow!("the sources have stopped");
                self.polls.send(PollNow { meter, reply }).await.map_err(|_| gone())?;
                Ok(serde_json::to_value(answer.await.map_err(|_| gone())??)?)
            }
            Request::Status {} => {
                let (own, sources, store) =
                    (self.problems.borrow().clone(), self.status.borrow().clone(), self.reader.health());
                let problems = web::problems_of(&own, &sources, &self.upstreams.borrow(), &store);
                Ok(json!({
                    "version": env!("CARGO_PKG_VERSION"),
                    "pid": std::process::id(),
                    "page": self.page.borrow().to_string(),
                    "fingerprint": self.certificate.borrow().fingerprint,
                    "gateway": self.reader.identity().gateway,
                    "problems": problems,
                    "folder": self.config.borrow().store.path,
                    "store": store,
                    "sources": *sources,
                }))
            }
            Request::Doctor {} => Ok(serde_json::to_value(doctor::told(self).await?)?),
            Request::Reload {} => {
                let (reply, answer) = oneshot::channel();
                let gone = || anyhow!("the daemon is stopping");
                self.reloads.send(ReloadNow(reply)).await.map_err(|_| gone())?;
                Ok(serde_json::to_value(answer.await.map_err(|_| gone())?)?)
            }
            Request::Check {} => {
                let Some(path) = &self.path else { bail!("this daemon has no config file") };
                let (path, now) = (path.clone(), self.clock.now());
                let checked = tokio::task::spawn_blocking(move || config::load(&path, now).1).await?;
                Ok(json!({ "faults": checked.faults, "warnings": checked.warnings }))
            }
            Request::Keys {} => Ok(serde_json::to_value(keys(&self.reader).await?)?),
            Request::RotateKey {} => {
                let view = rotate_key(&self.reader, &self.ledger, &self.publisher).await?;
                info!(origin = view.origin, key = view.key, "the log goes on under a new key, as somebody asked");
                Ok(serde_json::to_value(view)?)
            }
            Request::Exports {} => {
                let running = self.running.borrow().clone();
                Ok(serde_json::to_value(exports::listed(&self.reader, &running).await?)?)
            }
            Request::Anchors {} => {
                let status = self.anchor.borrow().clone();
                Ok(serde_json::to_value(anchors::told(&self.reader, status).await?)?)
            }
            Request::Upstreams {} => {
                let upstreams = UpstreamsStatus::clone(&self.upstreams.borrow());
                Ok(serde_json::to_value(UpstreamsTold { running: true, upstreams })?)
            }
            Request::DeadLetters { upstream, before } => {
                if !self.upstreams.borrow().contains_key(&upstream) {
                    return Err(UpstreamRefused::Unknown(upstream).into());
                }
                Ok(serde_json::to_value(self.reader.dead_letters(&upstream, before, upstreams::PAGE).await?)?)
            }
            Request::Upstream { order } => {
                upstreams::ask(&self.upstream_orders, order, exports::user(peer)).await?;
                Ok(Value::Null)
            }
            Request::Access { order } => {
                let by = exports::user(peer);
                let done = access::carry_out(&self.reader, &self.ledger, &self.clock, order, by).await?;
                Ok(serde_json::to_value(done)?)
            }
            Request::Scan { .. }
            | Request::Prove { .. }
            | Request::Export { .. }
            | Request::Fetch { .. }
            | Request::Backup {}
            | Request::Anchor { .. } => {
                bail!("that is answered line by line")
            }
        }
    }

    /// Keeps the store still while the command copies it.
    async fn hold_still(
        &self,
        input: &mut (impl AsyncReadExt + Unpin),
        output: &mut OwnedWriteHalf,
    ) -> anyhow::Result<Value> {
        // What was sealed until here is proven in the epoch that it is in, also out of the backup.
        self.publisher.publish().await?;
        let still = self.ledger.hold_still().await?;
        info!("a backup begins");
        say(output, &Reply::Told(serde_json::to_value(&still.inventory)?)).await?;
        let lost = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Some(why) = still.lost() {
                    return why;
                }
            }
        };
        tokio::select! {
            copied = timeout(COPYING, input.read_u8()) => match copied {
                Ok(Ok(COPIED)) => match still.lost() {
                    None => Ok(Value::Null),
                    Some(why) => bail!("the store held still no longer: {why}"),
                },
                Ok(_) => bail!("the command has gone"),
                Err(_) => bail!("it took more than an hour: back up to a faster place"),
            },
            why = lost => bail!("the store held still no longer: {why}"),
        }
    }

    async fn prove(&self, claim: Claim, form: ProofForm, output: &mut OwnedWriteHalf) -> anyhow::Result<Value> {
        let (reply, answer) = oneshot::channel();
        let gone = || anyhow!("the daemon is stopping");
        self.proofs.send(ProveNow { claim, form, reply }).await.map_err(|_| gone())?;
        let mut proof = answer.await.map_err(|_| gone())??;
        while let Some(piece) = proof.pieces.next().await {
            say(output, &Reply::Told(String::from_utf8(piece?)?.into())).await?;
        }
        Ok(json!(proof.told))
    }

    async fn export(
        &self,
        order: ExportOrder,
        by: Actor,
        input: &mut (impl AsyncReadExt + Unpin),
        output: &mut OwnedWriteHalf,
    ) -> anyhow::Result<Value> {
        let (reply, answer) = oneshot::channel();
        let gone = || anyhow!("the daemon is stopping");
        let ask = async |now| self.bulk.send(now).await.map_err(|_| gone());
        ask(BulkNow::Order { order, by: by.clone(), reply }).await?;
        let id = answer.await.map_err(|_| gone())??.map_err(|refused| anyhow!(refused))?.id;
        let follow = async {
            say(output, &Reply::Told(serde_json::to_value(ExportEvent::Queued { id })?)).await?;
            let mut following = exports::Following::new(self.reader.clone(), self.running.clone(), id);
            loop {
                let event = following.next().await?;
                if matches!(event, ExportEvent::Done { .. } | ExportEvent::Failed { .. }) {
                    return Ok::<_, anyhow::Error>(event);
                }
                say(output, &Reply::Told(serde_json::to_value(event)?)).await?;
            }
        };
        let followed = tokio::select! {
            followed = follow => followed,
            _ = input.read_u8() => Err(anyhow!("the command has gone")),
        };
        let event = match followed {
            Ok(event) => event,
            Err(gone) => {
                let (reply, dropped) = oneshot::channel();
                ask(BulkNow::Drop { id, by, reply }).await?;
                dropped.await.ok();
                return Err(gone);
            }
        };
        self.hand_over(id, event, by, input, output).await
    }

    /// Tells how an export ended, and keeps its bundle while the command copies it.
    async fn hand_over(
        &self,
        id: JobId,
        event: ExportEvent,
        by: Actor,
        input: &mut (impl AsyncReadExt + Unpin),
        output: &mut OwnedWriteHalf,
    ) -> anyhow::Result<Value> {
        let gone = || anyhow!("the daemon is stopping");
        let ask = async |now| self.bulk.send(now).await.map_err(|_| gone());
        let bundle = self.reader.bundle(id).await?;
        if bundle.is_some() {
            let (reply, noted) = oneshot::channel();
            ask(BulkNow::Download { id, by, reply }).await?;
            noted.await.map_err(|_| gone())??;
        }
        say(output, &Reply::Told(serde_json::to_value(event)?)).await?;
        // What else comes is the end of a command that could not copy it, or did not want to.
        if bundle.is_some() && matches!(timeout(COPYING, input.read_u8()).await, Ok(Ok(COPIED))) {
            ask(BulkNow::Downloaded { id }).await?;
        }
        drop(bundle);
        Ok(Value::Null)
    }

    async fn anchor(
        &self,
        wish: (Wanted, String),
        until: AnchorState,
        output: &mut OwnedWriteHalf,
    ) -> anyhow::Result<Value> {
        let mut following = anchors::Following::begin(&self.anchors, self.reader.clone(), wish, until).await?;
        while let Some(anchor) = following.next().await? {
            say(output, &Reply::Told(serde_json::to_value(anchor)?)).await?;
        }
        Ok(Value::Null)
    }

    async fn scan(&self, order: ScanOrder, output: &mut OwnedWriteHalf) -> anyhow::Result<Value> {
        let (tell, mut events) = mpsc::channel(EVENTS);
        let (begun, answer) = oneshot::channel();
        let gone = || anyhow!("the daemon is stopping");
        self.scans.send(ScanNow { order, tell, begun }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        while let Some(event) = events.recv().await {
            say(output, &Reply::Told(serde_json::to_value(event)?)).await?;
        }
        Ok(Value::Null)
    }
}

/// How the daemon behind `socket` is doing. It knows that without looking far: one that does not say so at once hangs.
pub async fn status(socket: &Path) -> anyhow::Result<Value> {
    timeout(AT_ONCE, ask(socket, &Request::Status {})).await.context(SILENT)?
}

/// Asks the daemon behind `socket`.
pub async fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> anyhow::Result<T> {
    let stream = UnixStream::connect(socket).await;
    let mut stream = stream.with_context(|| format!("the daemon's socket {} does not answer", socket.display()))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    let mut line = Vec::new();
    timeout(PATIENCE, stream.take(REPLY_BYTES).read_to_end(&mut line)).await.context(SILENT)??;
    match serde_json::from_slice(&line).context(NOT_UNDERSTOOD)? {
        Reply::Done(value) => Ok(serde_json::from_value(value)?),
        Reply::Failed(why) => Err(anyhow!(why)),
        Reply::Told(_) => bail!(NOT_UNDERSTOOD),
    }
}

const SILENT: &str = "the daemon does not answer";
const NOT_UNDERSTOOD: &str = "the daemon's answer was not understood";

/// Lets the daemon behind `socket` search a bus.
pub async fn search(socket: &Path, order: ScanOrder, mut told: impl FnMut(ScanEvent)) -> anyhow::Result<()> {
    let told = |event| {
        told(serde_json::from_value(event)?);
        Ok(())
    };
    by_lines(socket, &Request::Scan { order }, REPLY_BYTES, told).await.map(|_| ())
}

/// Lets the daemon behind `socket` anchor something.
pub async fn anchor(
    socket: &Path,
    wanted: Wanted,
    until: AnchorState,
    mut told: impl FnMut(Anchor) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let told = |anchor| told(serde_json::from_value(anchor)?);
    let end = by_lines(socket, &Request::Anchor { wanted, until }, u64::MAX, told).await;
    end.map(|_| ()).map_err(|error| match error.downcast_ref() {
        Some(Ended) => anyhow!("{Ended}; what is queued or sent goes on when it is started again"),
        None => error,
    })
}

/// Lets the daemon behind `socket` prove something, and hands its text on piece by piece.
pub async fn prove(
    socket: &Path,
    claim: Claim,
    form: ProofForm,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> anyhow::Result<ProofTold> {
    let told = |piece: Value| Ok(take(piece.as_str().context(NOT_UNDERSTOOD)?.as_bytes())?);
    let end = by_lines(socket, &Request::Prove { claim, form }, u64::MAX, told).await?;
    Ok(serde_json::from_value(end)?)
}

/// The daemon closed the socket before it had told all.
#[derive(Debug, thiserror::Error)]
#[error("the daemon has ended")]
struct Ended;

/// Asks for something that is told in lines, of so many bytes altogether; what the last one says.
async fn by_lines(
    socket: &Path,
    request: &Request,
    limit: u64,
    mut told: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(socket).await;
    let mut stream = stream.with_context(|| format!("the daemon's socket {} does not answer", socket.display()))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    let mut lines = BufReader::new(stream.take(limit)).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line).context(NOT_UNDERSTOOD)? {
            Reply::Told(value) => told(value)?,
            Reply::Done(value) => return Ok(value),
            Reply::Failed(why) => return Err(anyhow!(why)),
        }
    }
    Err(Ended.into())
}

/// Has the daemon behind `socket` keep its store still while `copy` works; `stopped` is called when it does so no longer.
pub async fn backed_up<T: Send + 'static>(
    socket: &Path,
    copy: impl FnOnce(Inventory) -> anyhow::Result<T> + Send + 'static,
    stopped: impl FnOnce(),
) -> anyhow::Result<T> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.with_context(|| format!("the daemon's socket {} does not answer", socket.display()))?;
    let (input, mut output) = stream.into_split();
    let mut text = serde_json::to_vec(&Request::Backup {})?;
    text.push(b'\n');
    output.write_all(&text).await?;
    let mut lines = BufReader::new(input).lines();
    let mut next = async || -> anyhow::Result<Reply> {
        let line = lines.next_line().await?.ok_or(Ended)?;
        serde_json::from_str(&line).context(NOT_UNDERSTOOD)
    };
    let inventory = match timeout(PATIENCE, next()).await.context(SILENT)?? {
        Reply::Told(inventory) => serde_json::from_value(inventory)?,
        Reply::Failed(why) => bail!(why),
        Reply::Done(_) => bail!(NOT_UNDERSTOOD),
    };
    let mut copying = tokio::task::spawn_blocking(move || copy(inventory));
    let end = tokio::select! {
        copied = &mut copying => {
            let copied = copied??;
            output.write_all(&[COPIED]).await?;
            match next().await? {
                Reply::Done(_) => return Ok(copied),
                other => other,
            }
        }
        end = next() => {
            stopped();
            // Its own error is only that it was stopped.
            drop(copying.await?);
            end?
        }
    };
    match end {
        Reply::Failed(why) => Err(anyhow!(why)),
        _ => bail!(NOT_UNDERSTOOD),
    }
}

/// Lets the daemon behind `socket` make an export, or hand over one that is done. What `told` does with `Done` is done before the daemon is told that
/// the bundle is copied.
pub async fn exported(
    socket: &Path,
    request: &Request,
    mut told: impl FnMut(ExportEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.with_context(|| format!("the daemon's socket {} does not answer", socket.display()))?;
    let (input, mut output) = stream.into_split();
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    output.write_all(&text).await?;
    let mut lines = BufReader::new(input).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line).context(NOT_UNDERSTOOD)? {
            Reply::Told(event) => {
                let event: ExportEvent = serde_json::from_value(event)?;
                let is_done = matches!(event, ExportEvent::Done { .. });
                told(event)?;
                if is_done {
                    output.write_all(&[COPIED]).await?;
                }
            }
            Reply::Done(_) => return Ok(()),
            Reply::Failed(why) => return Err(anyhow!(why)),
        }
    }
    bail!("{Ended}; the export goes on when it is started again")
}

/// One poll of a meter: by the daemon that runs on this store, or straight from the meter when none does.
pub async fn read_meter(config: &Config, id: &MeterId) -> anyhow::Result<PollReport> {
    if let Some(socket) = daemon_of(&config.store)? {
        return ask(&socket, &Request::Read { meter: id.clone() }).await;
    }
    let mut all = config.sources.lines.iter().flat_map(|line| line.meters.iter().map(move |meter| (line, meter)));
    let Some((line, meter)) = all.find(|(_, meter)| meter.id == *id) else {
        return Err(sources::PollFailed::Unknown(id.clone()).into());
    };
    Ok(sources::poll_once(line, meter, &Clock::system()).await?)
}

/// The epochs of the log, the oldest first, and their keys.
pub async fn keys(reader: &Reader) -> Result<Vec<KeyView>, StoreError> {
    let view = |epoch: Epoch| KeyView {
        key: epoch.key.to_string(),
        origin: epoch.identity.origin(),
        opened: epoch.opened,
        reason: epoch.reason.as_str().to_owned(),
    };
    Ok(reader.epochs().await?.into_iter().map(view).collect())
}

/// Ends the epoch with an entry that names a new key, signed by both, and opens the next one.
pub async fn rotate_key(reader: &Reader, ledger: &Ledger, publisher: &Publisher) -> anyhow::Result<KeyView> {
    ledger
        .succeed(Succession { reason: Reason::KeyRotation, site: None, last_outside: None, since_open: false })
        .await?;
    publisher.publish().await?;
    keys(reader).await?.pop().context("the log has no epoch")
}

/// The socket of the daemon that has this store open; `None` when nobody has.
pub fn daemon_of(store: &store::Config) -> anyhow::Result<Option<PathBuf>> {
    match store::free(&store.path) {
        Ok(()) => Ok(None),
        // A folder can be deleted, or its disk go away, under a daemon that runs.
        Err(StoreError::Missing { .. }) => Ok(usual_socket(&store.path)),
        Err(StoreError::Locked { socket: Some(socket), .. }) => Ok(Some(socket)),
        // A daemon that was started on a full disk could not write where it is to be reached.
        Err(StoreError::Locked { socket: None, pid, .. }) => match usual_socket(&store.path) {
            Some(socket) => Ok(Some(socket)),
            None => bail!("process {pid} has the store open and takes no requests: try again when it is done"),
        },
        // Whether a daemon runs cannot be seen, and many gateways take one connection only.
        Err(error @ StoreError::Forbidden { .. }) => {
            Err(error).context("run this as root or as the user that runs meterseal")
        }
        Err(error) => Err(error.into()),
    }
}

/// Where a daemon on this store has its socket as a rule, if one answers there: for a store that does not say it.
fn usual_socket(store: &Path) -> Option<PathBuf> {
    let has_store = |socket: &PathBuf| match folder_of_daemon(socket) {
        Ok(folder) => folder == store,
        Err(error) => {
            debug!("{}: {error:#}", socket.display());
            false
        }
    };
    [socket_path(store), UNIT_SOCKET.into()].into_iter().find(has_store)
}

fn folder_of_daemon(socket: &Path) -> anyhow::Result<PathBuf> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(AT_ONCE))?;
    stream.set_write_timeout(Some(AT_ONCE))?;
    let mut text = serde_json::to_vec(&Request::Status {})?;
    text.push(b'\n');
    io::Write::write_all(&mut stream, &text)?;
    let mut line = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(stream, REPLY_BYTES), &mut line)?;
    match serde_json::from_slice(&line).context(NOT_UNDERSTOOD)? {
        Reply::Done(status) => Ok(status["folder"].as_str().context(NOT_UNDERSTOOD)?.into()),
        Reply::Failed(why) => bail!(why),
        Reply::Told(_) => bail!(NOT_UNDERSTOOD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("meterseal.sock");
        // The kernel takes connections for it, and nobody reads them.
        let _hangs = bind(&socket).unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(status(&socket).await.unwrap_err().to_string(), SILENT);
        assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
        let waited = timeout(Duration::from_secs(3_600), backed_up(&socket, |_| Ok(()), || {})).await;
        assert_eq!(waited.unwrap().unwrap_err().to_string(), SILENT);
    }
}
