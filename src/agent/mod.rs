//! The one place where parts are built, started, watched and stopped; signals and systemd notices live here.

pub mod access;
pub mod admin;
pub mod alert_orders;
pub mod anchors;
pub mod backup;
mod config_edits;
mod connections;
pub mod demo;
pub mod doctor;
mod edits;
mod events;
pub mod exports;
pub mod proofs;
mod registers;
mod reload;
pub mod search;
mod settle;
pub mod simulators;
mod stages;
mod systemd;
mod trials;
pub mod upstreams;
mod wires;

use std::fs;
use std::net::SocketAddr;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::{self, Checked, Config, Fault, Files};
use crate::evidence::anchor;
use crate::evidence::dataset::part;
use crate::evidence::jobs::{self, Jobs};
use crate::evidence::log::Publisher;
use crate::evidence::mark::Mark;
use crate::evidence::prove::Prover;
use crate::model::SourcesStatus;
use crate::store::{Ledger, Reader, Store};
pub use crate::web::LogLines;
use crate::{alerts, blocks, commissioning, evidence, sources, upstream, web};
use admin::ReloadNow;
pub use settle::{open_alone, settle};
use stages::Stages;
use wires::Wires;

/// Why the daemon ended, by what systemd must do about it.
#[derive(Debug)]
pub enum RunError {
    /// The config is bad and there is no last good one: trying again is of no use.
    Config {
        faults: Vec<Fault>,
    },
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for RunError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// A panic in any task or thread ends the process with a message, for systemd to start it anew: nobody knows in what
/// state it left things. What was acknowledged is on disk.
pub fn end_on_panic() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        let thread = std::thread::current().name().unwrap_or("without name").to_owned();
        error!("panic in thread {thread}{place}: {}; ending", stages::panic_text(panic.payload()));
        // The log may be what panicked; stderr is the last that can be told.
        eprintln!("meterseal: panic in thread {thread}{place}: {}", stages::panic_text(panic.payload()));
        std::process::exit(1);
    }));
}

/// The daemon: runs until SIGTERM or SIGINT, or until something fails.
pub async fn run(path: &Path, log: LogLines) -> Result<(), RunError> {
    let clock = Clock::system();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let (config, store, kept, refused) = opened(path, &clock).await?;
    let setup = Setup { config, kept, path: Some(path.to_owned()), clock, refused, log };
    let mut agent = Agent::start(setup, store).await?;
    systemd::tell(&[NotifyState::Ready]);
    let outcome = loop {
        let signal = async {
            tokio::select! {
                _ = hangup.recv() => None,
                _ = terminate.recv() => Some("SIGTERM"),
                _ = interrupt.recv() => Some("SIGINT"),
            }
        };
        match agent.serve(signal).await {
            Ok(Some(signal)) => break Ok(signal),
            Ok(None) => {
                systemd::tell_reloading();
                agent.reload().await;
                systemd::tell(&[NotifyState::Ready]);
            }
            Err(ended) => break Err(ended),
        }
    };
    systemd::tell(&[NotifyState::Stopping]);
    match &outcome {
        Ok(signal) => info!("{signal}: stopping"),
        Err(ended) => error!("{ended:#}: stopping"),
    }
    let drained = tokio::select! {
        drained = agent.stop() => drained,
        _ = terminate.recv() => Err(anyhow::anyhow!("a second SIGTERM came before all was drained")),
    };
    outcome?;
    Ok(drained?)
}

/// The config to run and the store it names: the file's own, or the last good one when the file is bad.
async fn opened(path: &Path, clock: &Clock) -> Result<(Config, Store, Files, Vec<Fault>), RunError> {
    // Off the async threads, as on a reload: a keystore takes seconds to open.
    let (file, now) = (path.to_owned(), clock.now());
    let loaded = tokio::task::spawn_blocking(move || config::load(&file, now).1).await?;
    let Checked { config, faults, warnings, kept, store, .. } = loaded;
    for warning in warnings {
        warn!("{warning}");
    }
    let socket = admin::socket_path(&store.path);
    let (limits, own_clock) = (store.clone(), clock.clone());
    let open = tokio::task::spawn_blocking(move || Store::open(limits, own_clock, Some(socket))).await?;
    let Some(config) = config else {
        // A bad file may not even name the store, and then there is no last good config to be had.
        let Ok(opened) = open else { return Err(RunError::Config { faults }) };
        let last_good = opened.reader().last_good_config().await?;
        let last_good = last_good.as_deref().and_then(Files::from_kept);
        let now = clock.now();
        let checked = last_good.map(|files| tokio::task::spawn_blocking(move || config::check(&files, now)));
        let checked = match checked {
            Some(checked) => Some(checked.await?),
            None => None,
        };
        let Some((config, kept)) = checked.and_then(|checked| Some((checked.config?, checked.kept))) else {
            opened.close().await?;
            return Err(RunError::Config { faults });
        };
        // The path stays that of the store which is open.
        let web = web::Config { folder: store.path.join("tls"), ..config.web.clone() };
        let config = Config { store: crate::store::Config { path: store.path, ..config.store.clone() }, web, ..config };
        opened.reconfigure(&config.store);
        return Ok((config, opened, kept, faults));
    };
    Ok((config, open?, kept, Vec::new()))
}

/// What an agent is started with.
pub struct Setup {
    pub config: Config,
    /// The texts to keep as the last good config.
    pub kept: Files,
    /// Where to read them again on a reload; absent for a config that is no file.
    pub path: Option<PathBuf>,
    pub clock: Clock,
    /// Faults of the file on disk, if this is the last good config in its stead.
    pub refused: Vec<Fault>,
    /// Where the newest lines of the log are.
    pub log: LogLines,
}

/// The running parts.
pub struct Agent {
    stages: Stages,
    store: Store,
    wires: Wires,
    running: Config,
    path: Option<PathBuf>,
    clock: Clock,
    reader: Reader,
    ledger: Ledger,
    page: watch::Sender<web::Page>,
    /// Where the page is asked for, for when it goes on there under another certificate.
    door: web::Door,
    /// What the web looks at, for when it must move to another address.
    views: web::Views,
    socket: PathBuf,
    reloads: mpsc::Receiver<ReloadNow>,
    edits: mpsc::Receiver<web::EditNow>,
    trials: mpsc::Sender<trials::Trial>,
    shown: watch::Sender<Arc<web::ShownConfig>>,
    /// The running config without what was made through the API, and what of that is left out.
    of_files: Config,
    left_out: Vec<String>,
    /// What is wrong with the config and the store, and with the webhook and the clock: together the problems that are shown.
    own_problems: Vec<String>,
    webhook: watch::Receiver<Option<String>>,
    mark: watch::Receiver<Option<String>>,
    /// What the sealing of blocks waits for.
    sealing: watch::Receiver<blocks::WaitsFor>,
    certificate: watch::Receiver<web::CertificateStatus>,
}

/// `meterseal read` of several people at once; more of them wait.
const POLLS: usize = 16;
const RELOADS: usize = 4;
/// A stop takes less than this in all, whatever hangs: systemd and whoever pulls the plug after it count on that.
const STOPPING: Duration = Duration::from_secs(10);
/// What the store may take to commit and close, after the stages' own time.
const CLOSING: Duration = Duration::from_secs(2);

impl Agent {
    /// Starts all parts on a store that is open. Nothing here waits for the network.
    pub async fn start(setup: Setup, store: Store) -> anyhow::Result<Self> {
        let Setup { config, kept, path, clock, refused, log } = setup;
        // Another part of the process may have chosen it before: all choose the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let (reader, ledger) = (store.reader(), store.ledger());
        let of_files = config;
        let (config, left_out) = edits::merged(of_files.clone(), &reader, clock.now()).await?;
        let door = web::bind(&config.web).await;
        let door = door.with_context(|| format!("cannot listen on {}", config.web.listen))?;
        let (page, certificate) = (watch::Sender::new(door.page()), web::Certificate::default());
        let socket = admin::socket_path(&config.store.path);
        let requests = admin::bind(&socket).with_context(|| format!("cannot open the socket {}", socket.display()))?;

        settle(&store, &config, &clock).await?;
        let publisher = Publisher::new(ledger.clone(), Mark::at(config.evidence.mark.clone()));
        let own_problems = reload::problems(&config, &refused);
        let wires = Wires::of(&config, [own_problems.clone(), left_out.clone()].concat());
        let status = watch::Sender::new(Arc::new(SourcesStatus::default()));
        let lines = watch::Sender::default();
        let open = watch::Sender::new(Arc::new(blocks::OpenBlocks::new()));
        let sealing = watch::Sender::new(None);
        let webhook = watch::Sender::new(None);
        let (polls, polls_asked) = mpsc::channel(POLLS);
        let (reloads, reloads_asked) = mpsc::channel(RELOADS);
        let (scans, scans_asked) = mpsc::channel(search::ASKED);
        let (tests, tests_asked) = mpsc::channel(connections::ASKED);
        let (proofs, proofs_asked) = mpsc::channel(proofs::ASKED);
        let (bulk, bulk_asked) = mpsc::channel(exports::ASKED);
        let (anchor_wishes, anchor_wished) = mpsc::channel(anchors::ASKED);
        let (anchor_orders, anchor_ordered) = mpsc::channel(anchors::ASKED);
        let anchored = watch::Sender::default();
        let (upstream_wishes, upstream_wished) = mpsc::channel(upstreams::ASKED);
        let (upstream_orders, upstream_ordered) = mpsc::channel(upstreams::ASKED);
        let delivery = watch::Sender::default();
        let (registers, registers_asked) = mpsc::channel(registers::ASKED);
        let source = &of_files.source;
        let told = (source.warnings.as_slice(), refused.as_slice());
        let shown = config_edits::shown(path.as_deref(), &source.shown, told, clock.now());
        let shown = watch::Sender::new(Arc::new(shown));
        let (edits, edits_asked) = mpsc::channel(edits::ASKED);
        let (trials, trials_asked) = mpsc::channel(trials::ASKED);
        let (alert_wishes, alert_wished) = mpsc::channel(alert_orders::ASKED);
        let (access_wishes, access_wished) = mpsc::channel(access::ASKED);
        let gate = web::Gate::open(reader.clone(), clock.clone(), access_wishes, config.web.session_idle).await?;
        let running = watch::Sender::default();
        let (simulations, simulated) = mpsc::channel(simulators::ASKED);
        let known = simulators::Told::new(&config.blocks);
        let desk = simulators::Parts {
            config: wires.blocks.subscribe(),
            reader: reader.clone(),
            ledger: ledger.clone(),
            ingest: store.ingest(),
            clock: clock.clone(),
        };
        let desk = simulators::Desk::open(desk, known.clone()).await?;
        let mut stages = Stages::default();
        let (secs, millis) = (Duration::from_secs, Duration::from_millis);

        stages.start_alone("sources", millis(2_500), |stop| {
            let work = sources::run(
                wires.sources.subscribe(),
                store.ingest(),
                clock.clone(),
                sources::Told { status: status.clone(), lines: lines.clone() },
                polls_asked,
                stop,
            );
            async move {
                work.await;
                Ok(())
            }
        });
        stages.start("simulators", simulators::STOPPING, |stop| desk.run(simulated, stop));
        stages.start("blocks", millis(1_500), |stop| {
            let config = known.blocks.subscribe();
            let told = blocks::Told { open: open.clone(), waits_for: sealing.clone() };
            let work = blocks::run(config, reader.clone(), ledger.clone(), clock.clone(), told, stop);
            async move { Ok(work.await?) }
        });
        stages.start("alerts", millis(250), |stop| {
            let (config, meters) = (wires.alerts.subscribe(), wires.meters.subscribe());
            let (open, sources, sealing) = (open.subscribe(), status.subscribe(), sealing.subscribe());
            let views = alerts::Views { config, meters, open, sources, sealing, problem: webhook.clone() };
            let work = alerts::run(views, reader.clone(), ledger.clone(), clock.clone(), stop);
            async move { Ok(work.await?) }
        });
        stages.start("alert requests", millis(20), |stop| {
            let (reader, ledger, clock) = (reader.clone(), ledger.clone(), clock.clone());
            let desk = alert_orders::Desk { config: wires.alerts.subscribe(), reader, ledger, clock };
            alert_orders::run(alert_wished, desk, stop)
        });
        stages.start("register requests", millis(20), |stop| registers::run(registers_asked, polls.clone(), stop));
        stages.start("trials of configs", millis(20), |stop| {
            trials::run(trials_asked, path.clone(), clock.clone(), stop)
        });
        stages.start("commissioning", millis(250), |stop| {
            let views = commissioning::Views { meters: wires.meters.subscribe(), sources: status.subscribe() };
            let work = commissioning::run(views, reader.clone(), ledger.clone(), clock.clone(), stop);
            async move { Ok(work.await?) }
        });
        stages.start("evidence", secs(1), |stop| {
            let running = wires.running.subscribe();
            let work = evidence::log::run(running, publisher.clone(), reader.clone(), clock.clone(), stop);
            async move { Ok(work.await?) }
        });
        stages.start("search", millis(250), |stop| {
            search::run(scans_asked, wires.sources.subscribe(), lines.subscribe(), stop)
        });
        stages
            .start("connections", millis(100), |stop| connections::run(tests_asked, wires.evidence.subscribe(), stop));
        stages.start("proofs", millis(100), |stop| {
            let (reader, publisher, anchoring) = (reader.clone(), publisher.clone(), Some(anchored.subscribe()));
            proofs::run(proofs_asked, Prover { reader, publisher, anchoring }, stop)
        });
        let jobs = Jobs {
            config: wires.evidence.subscribe(),
            reader: reader.clone(),
            ledger: ledger.clone(),
            clock: clock.clone(),
            rows_per_part: part::ROWS,
            told: running.clone(),
        };
        stages.start_alone("exports", millis(150), |stop| {
            let work = jobs::run(jobs.clone(), stop);
            async move { Ok(work.await?) }
        });
        stages.start("export requests", millis(50), |stop| exports::run(bulk_asked, jobs, stop));
        let owner = anchor::Parts {
            reader: reader.clone(),
            ledger: ledger.clone(),
            publisher: publisher.clone(),
            clock: clock.clone(),
            status: anchored.clone(),
        };
        stages.start("anchors", millis(250), |stop| {
            let work = anchor::run(wires.anchor.subscribe(), owner, anchor_ordered, stop);
            async move { Ok(work.await?) }
        });
        stages.start("anchor requests", millis(50), |stop| {
            anchors::run(anchor_wished, anchor_orders.clone(), reader.clone(), stop)
        });
        let parts = upstream::Parts {
            reader: reader.clone(),
            ledger: ledger.clone(),
            clock: clock.clone(),
            checkpoint: publisher.newest(),
            status: delivery.clone(),
        };
        stages.start("upstream", millis(300), |stop| {
            let work = upstream::run(wires.upstream.subscribe(), parts, upstream_ordered, stop);
            async move { Ok(work.await?) }
        });
        stages.start("upstream requests", millis(50), |stop| {
            upstreams::run(upstream_wished, upstream_orders, ledger.clone(), stop)
        });
        let views = web::Views {
            reader: reader.clone(),
            clock: clock.clone(),
            site: wires.site.subscribe(),
            meters: known.meters.subscribe(),
            roster: known.roster.subscribe(),
            simulators: simulations,
            open: open.subscribe(),
            sources: status.subscribe(),
            problems: wires.problems.subscribe(),
            checkpoint: publisher.newest(),
            scans: scans.clone(),
            exports: wires.exports.subscribe(),
            tests,
            proofs: proofs.clone(),
            running: running.subscribe(),
            bulk: bulk.clone(),
            anchor: anchored.subscribe(),
            anchors: anchor_wishes,
            upstreams: delivery.subscribe(),
            upstream_orders: upstream_wishes.clone(),
            alert_orders: alert_wishes,
            edits,
            certificate: certificate.clone(),
            config: shown.subscribe(),
            registers,
            log,
            started: (clock.now(), clock.since_boot_ms()),
            gate: gate.clone(),
        };
        stages.start("web", millis(750), |stop| {
            let work = web::run(door.clone(), views.clone(), stop);
            async move { Ok(work.await?) }
        });
        stages.start("admin", millis(250), |stop| {
            let desk = admin::Desk {
                path: path.clone(),
                clock: clock.clone(),
                page: page.subscribe(),
                reader: reader.clone(),
                status: status.subscribe(),
                problems: wires.problems.subscribe(),
                polls,
                reloads,
                scans,
                ledger: ledger.clone(),
                publisher: publisher.clone(),
                proofs,
                bulk,
                running: running.subscribe(),
                anchor: anchored.subscribe(),
                anchors: anchor_orders,
                upstreams: delivery.subscribe(),
                upstream_orders: upstream_wishes,
                certificate: certificate.status(),
                config: wires.config.subscribe(),
                started: views.started,
            };
            admin::serve(requests, desk, stop)
        });
        stages.start("access", millis(50), |stop| {
            access::run(access_wished, gate, (reader.clone(), ledger.clone()), stop)
        });
        stages.start("watchdog", millis(50), |stop| {
            let (sources, meters) = (status.subscribe(), wires.meters.subscribe());
            let problems = wires.problems.subscribe();
            systemd::watch(systemd::Signs { reader: reader.clone(), sources, meters, problems }, stop)
        });

        debug_assert!(stages.longest() + CLOSING < STOPPING, "a stop takes {:?}", stages.longest() + CLOSING);
        let agent = Self {
            stages,
            store,
            wires,
            running: config,
            path,
            clock,
            reader,
            ledger,
            page,
            door,
            views,
            socket,
            reloads: reloads_asked,
            edits: edits_asked,
            trials,
            shown,
            of_files,
            left_out,
            own_problems,
            webhook: webhook.subscribe(),
            mark: publisher.trouble(),
            sealing: sealing.subscribe(),
            certificate: certificate.status(),
        };
        if refused.is_empty() {
            agent.taken(&kept).await;
        } else {
            agent.refused(&refused).await;
        }
        info!(site = %agent.running.site_id, page = %*agent.page.borrow(), "running");
        Ok(agent)
    }

    /// Where the page and the API are.
    pub fn address(&self) -> SocketAddr {
        self.page.borrow().address
    }

    /// The blocks that run.
    pub fn open_blocks(&self) -> watch::Receiver<Arc<blocks::OpenBlocks>> {
        self.views.open.clone()
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Drains in the direction of the data, then commits and closes the store: below 10 s in all.
    pub async fn stop(self) -> anyhow::Result<()> {
        // Whoever connects from now on is refused, and does not wait for nothing.
        drop(self.door);
        self.stages.drain().await;
        // While the lock is held: later it may be another process's.
        if let Err(error) = fs::remove_file(&self.socket) {
            warn!(%error, "the admin socket stays behind");
        }
        timeout(CLOSING, self.store.close()).await.context("the store did not close in time")??;
        info!("stopped");
        Ok(())
    }
}
