//! What `meterseal doctor` looks at: gathered by the daemon where one runs, and by the command itself where none does.
//! The rules are in `doctor`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;

use super::admin::{self, Desk, Request};
use super::{anchors, upstreams};
use crate::clock::Clock;
use crate::config::{self, Checked, Config, Files};
use crate::doctor::facts::{
    AnchorFacts, Anchors, CertificateFacts, ConfigFacts, Daemon, Facts, FaultFacts, GatewayFacts, Kept, KeptFacts,
    LineFacts, LineSetup, Live, MeterFacts, QuickCheck, Setup, Told, Unit,
};
use crate::doctor::machine;
use crate::evidence::anchor::Part;
use crate::evidence::anchor::fees::Coin;
use crate::model::{Alert, BrokerStatus, LineStatus, MeterId, Origin, SourcesStatus, UpstreamsStatus};
use crate::sources::{self, Wire};
use crate::store::{self, LiveValues, Reader, Role, Store, StoreError};
use crate::web::Tls;

/// A file that is larger is not read through while somebody waits.
const READ_THROUGH: u64 = 256 << 20;
/// Alerts that are told with their text.
const ALERTS: usize = 3;
/// The nodes of a chain, and systemd, may take so long to answer.
const PATIENCE: Duration = Duration::from_secs(30);
const UNIT: &str = "meterseal.service";

/// Why nothing can be looked at.
#[derive(Debug, thiserror::Error)]
pub enum NotLooked {
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Forbidden(StoreError),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Gathers all that is to be known, by the daemon of the store that this config names, or without it.
pub async fn facts(path: &Path) -> Result<Facts, NotLooked> {
    let clock = Clock::system();
    let (file, now) = (path.to_owned(), clock.now());
    let loaded = tokio::task::spawn_blocking(move || config::load(&file, now)).await.context("reading the config")?;
    let (Some(_), Checked { config: good, faults, warnings, store: limits, .. }) = loaded else {
        let why = loaded.1.faults.first().map(ToString::to_string).unwrap_or_default();
        return Err(NotLooked::Config(why));
    };
    // Another store than the one that is meant would be looked at.
    if let Some(fault) = faults.iter().find(|fault| fault.key == "store.path") {
        return Err(NotLooked::Config(fault.to_string()));
    }
    let told_of = |fault: &config::Fault| FaultFacts {
        place: format!("{}:{}{}", fault.file.display(), fault.line, key(&fault.key)),
        why: fault.why.clone(),
        mend: fault.mend.clone(),
    };
    let faults: Vec<_> = faults.iter().map(told_of).collect();
    let mut config = ConfigFacts { path: path.to_owned(), faults, warnings: warnings.len(), last_good: false };
    let mut found = Found::default();
    let unasked = good.as_ref().map_or(Anchors::Absent, |good| unasked(&good.anchor));
    match store::free(&limits.path) {
        Ok(()) => found = alone(&limits, good, &mut config, &clock).await,
        Err(error @ StoreError::Forbidden { .. }) => return Err(NotLooked::Forbidden(error)),
        Err(StoreError::Locked { socket, pid, .. }) => match socket {
            Some(socket) => match admin::ask::<Told>(&socket, &Request::Doctor {}).await {
                Ok(Told { live, setup, kept, upstreams, anchors }) => {
                    let daemon = Daemon::Running(Box::new(live));
                    found = Found {
                        daemon,
                        setup: Some(setup),
                        kept,
                        upstreams,
                        anchors: Some(anchors),
                        lines: Vec::new(),
                    };
                }
                Err(error) => found.daemon = Daemon::Mute { pid, why: format!("{error:#}") },
            },
            None => found.daemon = Daemon::Mute { pid, why: "it takes no requests".to_owned() },
        },
        Err(error) => found.kept = closed(error),
    }
    let Found { daemon, setup, kept, upstreams, anchors, lines } = found;
    let setup = setup.or_else(|| good_setup(path, now));
    let (pid, looked_at) = (daemon.live().map(|live| live.pid), setup.clone());
    let looked = tokio::task::spawn_blocking(move || machine::look(looked_at.as_ref(), pid)).await;
    let mut machine = looked.context("looking at the machine")?;
    if matches!(daemon, Daemon::Down) {
        for (line, opened) in tried(lines).await {
            match machine.ports.iter_mut().find(|port| port.line == line.name.as_str()) {
                Some(port) => port.opened = Some(opened),
                None => {
                    let address = address(&line.wire).unwrap_or_default();
                    machine.gateways.push(GatewayFacts { line: line.name.to_string(), address, connected: opened });
                }
            }
        }
    }
    // Another daemon than the service's may run, and is not what systemd speaks of.
    let is_service = daemon.live().is_some() || path == Path::new(config::DEFAULT_PATH);
    let unit = if is_service { unit().await } else { None };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let anchors = anchors.unwrap_or(unasked);
    Ok(Facts { now: clock.now(), version, daemon, unit, config, setup, kept, upstreams, anchors, machine })
}

fn key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(": {key}") }
}

struct Found {
    daemon: Daemon,
    setup: Option<Setup>,
    kept: Kept,
    upstreams: UpstreamsStatus,
    /// None while nobody was asked.
    anchors: Option<Anchors>,
    /// Those that may be opened, as nobody else has them open.
    lines: Vec<sources::Line>,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            daemon: Daemon::Down,
            setup: None,
            kept: Kept::Unknown,
            upstreams: BTreeMap::new(),
            anchors: None,
            lines: Vec::new(),
        }
    }
}

/// The config by the file alone, where neither a daemon nor the store could be asked.
fn good_setup(path: &Path, now: crate::model::Timestamp) -> Option<Setup> {
    config::load(path, now).1.config.map(|config| setup(&config))
}

/// Looks into a store that nobody has open, and changes nothing: whoever looks why something is wrong may yet go back.
async fn alone(limits: &store::Config, good: Option<Config>, config: &mut ConfigFacts, clock: &Clock) -> Found {
    let without = |kept, good: Option<Config>| Found {
        setup: good.as_ref().map(setup),
        kept,
        lines: good.map(|config| config.sources.lines).unwrap_or_default(),
        ..Found::default()
    };
    let (store_config, own_clock) = (limits.clone(), clock.clone());
    let opened = tokio::task::spawn_blocking(move || Store::look(store_config, own_clock)).await;
    let store = match opened {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => return without(closed(error), good),
        Err(ended) => return without(Kept::Closed { why: ended.to_string(), mend: None }, good),
    };
    let reader = store.reader();
    let running = match good {
        Some(good) => Some(good),
        None => {
            let last = reader.last_good_config().await.ok().flatten().as_deref().and_then(Files::from_kept);
            let now = clock.now();
            let checked = last.map(|files| tokio::task::spawn_blocking(move || config::check(&files, now)));
            match checked {
                Some(checked) => checked.await.ok().and_then(|checked| checked.config),
                None => None,
            }
        }
    };
    config.last_good = !config.faults.is_empty() && running.is_some();
    let kept = kept(&reader).await;
    let mut sent = BTreeMap::new();
    for upstream in running.iter().flat_map(|config| &config.upstream.upstreams) {
        if let Ok(status) = upstreams::known(&reader, upstream, clock).await {
            sent.insert(upstream.name.clone(), status);
        }
    }
    let anchors = match &running {
        Some(running) if matches!(running.anchor, Part::On(_)) => {
            Some(match timeout(PATIENCE, anchors::seen(&store, running)).await {
                Ok(Ok(told)) => known(told),
                Ok(Err(error)) => Anchors::Unknown(format!("{error:#}")),
                Err(_) => Anchors::Unknown("the nodes of the chain do not answer in time".to_owned()),
            })
        }
        running => running.as_ref().map(|running| unasked(&running.anchor)),
    };
    drop(reader);
    if let Err(error) = store.close().await {
        tracing::debug!(%error, "the store did not close as it should");
    }
    let setup = running.as_ref().map(setup);
    let lines = running.map(|running| running.sources.lines).unwrap_or_default();
    Found { daemon: Daemon::Down, setup, kept, upstreams: sent, anchors, lines }
}

/// What the config alone says of anchors.
fn unasked(part: &Part) -> Anchors {
    match part {
        Part::Absent => Anchors::Absent,
        Part::Off(why) => Anchors::Off(why.clone()),
        Part::On(_) => Anchors::Unknown("neither the daemon nor the store tells".to_owned()),
    }
}

/// Opens each line and closes it again, all of them at once.
async fn tried(lines: Vec<sources::Line>) -> Vec<(sources::Line, Result<(), String>)> {
    let mut tasks = tokio::task::JoinSet::new();
    for (at, line) in lines.into_iter().enumerate() {
        tasks.spawn(async move {
            let opened = timeout(PATIENCE, sources::opens(&line)).await;
            (at, line, opened.unwrap_or_else(|_| Err("it hangs".to_owned())))
        });
    }
    let mut all = tasks.join_all().await;
    all.sort_by_key(|(at, ..)| *at);
    all.into_iter().map(|(_, line, opened)| (line, opened)).collect()
}

/// What the daemon tells.
pub async fn told(desk: &Desk) -> anyhow::Result<Told> {
    let config = desk.config.borrow().clone();
    let sources = desk.status.borrow().clone();
    let (started, since_boot_ms) = desk.started;
    let health = desk.reader.health();
    let certificate = desk.certificate.borrow().clone();
    let brokers = sources.brokers.iter().map(|(name, broker)| broker_facts(name.as_str(), broker));
    let lines = sources.lines.iter().map(|(name, line)| line_facts(name.as_str(), line));
    let live = Live {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started,
        uptime_ms: desk.clock.since_boot_ms().saturating_sub(since_boot_ms),
        clock: desk.clock.state(),
        problems: desk.problems.borrow().as_ref().clone(),
        page: desk.page.borrow().to_string(),
        certificate: certificate
            .fingerprint
            .is_some()
            .then_some(CertificateFacts { self_signed: certificate.self_signed, until: certificate.until }),
        meters: meters(&config, &sources, &desk.reader.live()),
        lines: lines.collect(),
        brokers: brokers.collect(),
        written: health.written_bytes,
    };
    let anchors = match &config.anchor {
        Part::Absent => Anchors::Absent,
        Part::Off(why) => Anchors::Off(why.clone()),
        Part::On(_) => {
            let status = desk.anchor.borrow().clone();
            match anchors::told(&desk.reader, status).await {
                Ok(told) => known(told),
                Err(error) => Anchors::Unknown(error.to_string()),
            }
        }
    };
    let upstreams = UpstreamsStatus::clone(&desk.upstreams.borrow());
    Ok(Told { live, setup: setup(&config), kept: kept(&desk.reader).await, upstreams, anchors })
}

fn known(told: anchors::AnchorsTold) -> Anchors {
    let anchors::AnchorsTold { status, anchors, .. } = told;
    let balance = status.balance.map(|(wei, _)| Coin { wei, chain_id: status.chain_id }.to_string());
    Anchors::Known(Box::new(AnchorFacts { status, balance, anchors }))
}

fn line_facts(name: &str, line: &LineStatus) -> LineFacts {
    LineFacts { name: name.to_owned(), connected: line.connected, since: line.since, problem: line.problem.clone() }
}

fn broker_facts(name: &str, broker: &BrokerStatus) -> LineFacts {
    let silent = broker.silent.then(|| "nothing comes from it: are the topics right?".to_owned());
    let problem = broker.problem.clone().or(silent);
    LineFacts { name: name.to_owned(), connected: broker.connected, since: broker.since, problem }
}

/// The meters that are read, as the sources see them.
fn meters(config: &Config, sources: &SourcesStatus, live: &Arc<LiveValues>) -> Vec<MeterFacts> {
    let newest = |id: &MeterId| live.get(id).and_then(|values| values.values().map(|value| value.time).max());
    let read = config.meters().iter().filter_map(|meter| Some((meter, sources.meters.get(&meter.id)?)));
    let facts = read.map(|(meter, status)| {
        let (on, unit) = match &meter.origin {
            Origin::Modbus { line, unit, .. } => (line.to_string(), Some(*unit)),
            Origin::Mqtt { broker, .. } => (broker.to_string(), None),
            Origin::Simulator | Origin::Sum { .. } => (String::new(), None),
        };
        MeterFacts {
            id: meter.id.to_string(),
            on,
            unit,
            interval_ms: meter.interval_ms,
            condition: status.condition,
            since: status.since,
            last_answer: status.last_answer,
            newest: newest(&meter.id),
            problem: status.problem.clone(),
            refused: status.refused_registers.clone(),
            polls: status.polls,
            timeouts: status.timeouts,
        }
    });
    facts.collect()
}

fn address(wire: &Wire) -> Option<String> {
    match wire {
        Wire::Tcp(address) | Wire::RtuOverTcp(address) => Some(address.clone()),
        Wire::Serial(_) => None,
    }
}

/// What the config says, without its secrets.
fn setup(config: &Config) -> Setup {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let line = |line: &sources::Line| LineSetup {
        name: line.name.to_string(),
        device: match &line.wire {
            Wire::Serial(serial) => Some(serial.device.clone()),
            Wire::Tcp(_) | Wire::RtuOverTcp(_) => None,
        },
        address: address(&line.wire),
        meters: line.meters.len(),
    };
    Setup {
        site: config.site_id.to_string(),
        timezone: config.blocks.timezone.clone(),
        store: config.store.path.clone(),
        mark: config.evidence.mark.clone(),
        keep_raw_ms: millis(config.store.keep_raw),
        max_disk: config.store.max_disk,
        reserve: config.store.reserve,
        commit_every_ms: millis(config.store.commit_every),
        listen: config.web.listen.to_string(),
        tls: config.web.tls != Tls::Off,
        lines: config.sources.lines.iter().map(line).collect(),
        off: config.off.clone(),
    }
}

/// Why a store cannot be looked into, and what to do about it.
fn closed(error: StoreError) -> Kept {
    let mend = match &error {
        StoreError::Missing { .. } => return Kept::Missing(error.to_string()),
        StoreError::Due { .. } => return Kept::Due(error.to_string()),
        StoreError::Newer { .. } => {
            Some("install the newer package again: `sudo apt install ./meterseal_*.deb`".to_owned())
        }
        StoreError::Damaged { .. } => Some(
            "stop the daemon, and put the newest backup in its place, which keeps what is there beside it: `sudo meterseal \
             restore --replace FILE` (docs/backup.md); look at the disk (`dmesg | tail`)"
                .to_owned(),
        ),
        StoreError::Forbidden { path } => {
            Some(format!("give it to the user that the service runs as: `sudo chown -R meterseal: {}`", path.display()))
        }
        _ => None,
    };
    Kept::Closed { why: format!("{:#}", anyhow::Error::from(error)), mend }
}

/// What the store tells of itself.
async fn kept(reader: &Reader) -> Kept {
    match known_of(reader).await {
        Ok(facts) => Kept::Known(Box::new(facts)),
        Err(error) => closed(error),
    }
}

async fn known_of(reader: &Reader) -> Result<KeptFacts, StoreError> {
    let (health, identity) = (reader.health(), reader.identity());
    let quick_check = if health.evidence_bytes > READ_THROUGH {
        QuickCheck::TooLarge
    } else {
        match reader.quick_check().await {
            Ok(()) => QuickCheck::Good,
            Err(StoreError::Damaged { what, .. }) => QuickCheck::Damaged(what),
            Err(error) => return Err(error),
        }
    };
    let newest = reader.checkpoint(&identity.epoch).await?;
    let [open_alerts, unacknowledged] = reader.count_open_alerts().await?;
    let alerts = reader.alerts(true, ALERTS).await?.into_iter().map(|Alert { text, .. }| text).collect();
    Ok(KeptFacts {
        origin: identity.origin(),
        signed: newest.map_or(0, |signed| signed.checkpoint.size),
        quick_check,
        quarantined: health.quarantined,
        replaced: reader.replaced(),
        lost: health.lost,
        raw_bytes: health.raw_bytes,
        evidence_bytes: health.evidence_bytes,
        oldest_raw: health.oldest_raw,
        unwritable: health.unwritable,
        reserve_used: health.reserve_used,
        open_alerts,
        unacknowledged,
        alerts,
        has_pin: reader.access().pin(Role::Admin).is_some(),
    })
}

/// What systemd says of the service; `None` where there is no systemd, or no such service.
async fn unit() -> Option<Unit> {
    if !Path::new("/run/systemd/system").exists() {
        return None;
    }
    let asked = tokio::task::spawn_blocking(|| {
        let keys = "--property=LoadState,MainPID,ActiveState,Result,ExecMainStatus,NRestarts";
        Command::new("systemctl").args(["show", UNIT, keys]).output()
    });
    let output = timeout(PATIENCE, asked).await.ok()?.ok()?.ok()?;
    read_unit(&String::from_utf8_lossy(&output.stdout))
}

fn read_unit(text: &str) -> Option<Unit> {
    let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    (of("LoadState")? == "loaded").then(|| Unit {
        main_pid: of("MainPID").and_then(|pid| pid.parse().ok()).unwrap_or(0),
        active: of("ActiveState").unwrap_or_default().to_owned(),
        result: of("Result").unwrap_or_default().to_owned(),
        exit_code: of("ExecMainStatus").and_then(|code| code.parse().ok()).unwrap_or(0),
        restarts: of("NRestarts").and_then(|count| count.parse().ok()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_shows_is_read() {
        let text =
            "MainPID=0\nActiveState=failed\nResult=exit-code\nExecMainStatus=78\nNRestarts=4\nLoadState=loaded\n";
        let (active, result) = ("failed".to_owned(), "exit-code".to_owned());
        assert_eq!(read_unit(text), Some(Unit { main_pid: 0, active, result, exit_code: 78, restarts: 4 }));
        assert_eq!(read_unit("LoadState=not-found\nActiveState=inactive\n"), None);
        assert_eq!(read_unit(""), None);
    }
}
