//! The whole daemon with no set-up: simulated meters on a real socket, and a store and a key that are thrown away.
//! Also the simulated meters alone.

mod history;

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::{self, AccessOrder};
use super::{Agent, Setup};
use crate::clock::Clock;
use crate::config::{self, Checked, Config, Files};
use crate::model::{Actor, Timestamp};
use crate::simulate::{self, Simulation};
use crate::sources::mqtt::Broker;
use crate::sources::template::{self, Template};
use crate::store::{self, Role, Store};
use crate::web::{LogLines, Pin};

/// One request reads it all, and energy is whole watt-hours, so that small loads show in short times.
const REGISTERS: &str = include_str!("demo/simulated.toml");

/// The meters answer at once, but the machine may be busy.
const FIRST_BLOCKS: Duration = Duration::from_secs(20);

/// Runs the demo until Ctrl-C or SIGTERM.
pub async fn run(
    listen: SocketAddr,
    data: Option<PathBuf>,
    meters: usize,
    broker: Option<String>,
) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let folder = Folder::open(data)?;
    let demo = tokio::select! {
        demo = Demo::start(listen, folder, meters, broker.as_deref()) => demo?,
        // Nothing runs yet; what is half written goes with the folder.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    say(&demo.welcome())?;
    let mut demo = demo;
    let signal = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let ended = demo.agent.serve(signal).await;
    demo.stop().await?;
    ended
}

/// The simulated meters alone, until Ctrl-C or SIGTERM. Prints a config ready to paste.
pub async fn simulate(listen: SocketAddr, meters: usize, templates: &[String]) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let templates = templates.iter().map(|name| shipped(name)).collect::<Result<Vec<_>, _>>()?;
    if let Some(template) = templates.iter().find(|template| template.sunspec) {
        bail!("{} devices cannot be simulated: they have no register map of their own", template.name);
    }
    let simulation = simulation(listen, meters, templates).await?;
    say(&simulation.config_text()?)?;
    let stop = CancellationToken::new();
    let asked = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    };
    tokio::join!(simulation.run(Clock::system(), stop.clone()), asked);
    Ok(())
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn shipped(name: &str) -> anyhow::Result<Arc<Template>> {
    let known = template::shipped();
    let Some((name, text)) = known.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        bail!("there is no template `{name}`; known: {}", names.join(", "))
    };
    let template = parsed(name, text)?;
    if template.sunspec {
        bail!("{name} cannot be simulated: only a device knows which registers a SunSpec device has")
    }
    Ok(template)
}

fn parsed(name: &str, text: &str) -> anyhow::Result<Arc<Template>> {
    let parsed = template::parse(name, text);
    parsed.map(Arc::new).map_err(|faults| anyhow::anyhow!("template {name} is faulty: {faults:?}"))
}

async fn simulation(listen: SocketAddr, meters: usize, templates: Vec<Arc<Template>>) -> anyhow::Result<Simulation> {
    let config = simulate::Config { listen, meters, templates, timezone: TimeZone::system() };
    let opened = Simulation::bind(&config).await;
    opened.with_context(|| format!("cannot listen on {listen} for the simulated meters"))
}

/// The demo as it runs.
struct Demo {
    agent: Agent,
    folder: Folder,
    token: String,
    pin: Pin,
    first_meter: String,
    /// The day before it was started, and the day after.
    shown: (Timestamp, Timestamp),
    meters: JoinSet<()>,
    stop_meters: CancellationToken,
}

impl Demo {
    async fn start(listen: SocketAddr, folder: Folder, meters: usize, broker: Option<&str>) -> anyhow::Result<Self> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let simulation = simulation(loopback, meters, vec![parsed("simulated", REGISTERS)?]).await?;
        let meters = simulation.meters();
        let first_meter = simulation.simulated()?.swap_remove(0).id;
        let (config, kept) = folder.config(listen, &simulation, broker)?;
        let clock = Clock::trusted();
        let now = clock.now();
        let begin = history::start(&config, meters.count(), now);
        let token = write_history(&config, &folder, &meters, begin, &clock).await?;

        let (stop_meters, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(simulation.run(clock.clone(), stop_meters.clone()));
        if let Some(broker) = config.sources.brokers.first() {
            let client_id = format!("{}-meters", broker.client_id);
            let meters =
                Broker { client_id, status_topic: format!("{}/meters", broker.status_topic), ..broker.clone() };
            let zone = TimeZone::get(&config.site.timezone)?;
            tasks.spawn(simulate::publish(meters, zone, clock.clone(), stop_meters.clone()));
        }
        let socket = super::admin::socket_path(&config.store.path);
        let store = Store::open(config.store.clone(), clock.clone(), Some(socket))?;
        let pin = folder.pin()?;
        let order = AccessOrder::Pin { role: Role::Admin, pin: pin.clone() };
        access::carry_out(&store.reader(), &store.ledger(), &clock, order, Actor::here("meterseal demo")).await?;
        let setup = Setup {
            config,
            kept,
            path: Some(folder.config_file()),
            clock,
            refused: Vec::new(),
            log: LogLines::default(),
        };
        let agent = Agent::start(setup, store).await?;
        // What is printed next works when it is pasted at once.
        let mut open = agent.open_blocks();
        let running = open.wait_for(|open| !open.is_empty());
        tokio::time::timeout(FIRST_BLOCKS, running).await.context("no meter was read")??;
        let shown = (begin, now.plus_millis(86_400_000));
        Ok(Self { agent, folder, token, pin, first_meter, shown, meters: tasks, stop_meters })
    }

    /// What a person needs to begin: each line can be pasted.
    fn welcome(&self) -> String {
        let (address, token, meter, (from, to)) = (self.agent.address(), &self.token, &self.first_meter, self.shown);
        let ask = |path: &str| format!("curl -s -H 'Authorization: Bearer {token}' 'http://{address}{path}'\n");
        [
            format!("page: http://{address}/\n"),
            format!("pin: {}\n", self.pin.reveal()),
            format!("token: {token}\n"),
            ask("/api/meters/summary"),
            ask(&format!("/api/meters/{meter}/current-block")),
            ask(&format!("/api/meters/{meter}/readings?resolution=block&format=csv&from={from}&to={to}")),
        ]
        .concat()
    }

    /// Stops the daemon first: a meter that goes away before it would be told as silent.
    async fn stop(mut self) -> anyhow::Result<()> {
        let stopped = self.agent.stop().await;
        self.stop_meters.cancel();
        while self.meters.join_next().await.is_some() {}
        drop(self.folder);
        stopped
    }
}

/// Makes the store if there is none, and writes what the meters showed from `begin`, or since its last reading. Gives
/// the API token.
async fn write_history(
    config: &Config,
    folder: &Folder,
    meters: &simulate::Meters,
    begin: Timestamp,
    wall: &Clock,
) -> anyhow::Result<String> {
    let clock = Clock::manual(begin);
    let token = match folder.token()? {
        Some(token) => token,
        None => folder.keep_token(store::init(&config.store, &config.site_id, &clock)?.token)?,
    };
    let store = Store::open(config.store.clone(), clock.clone(), None)?;
    let newest = store.reader().live().values().flat_map(|values| values.values().map(|live| live.time)).max();
    let from = newest.map_or(begin, |newest| begin.max(newest.plus_millis(1)));
    clock.advance_to(from);

    let terminal = io::stderr().is_terminal();
    let told = |percent| {
        if terminal {
            eprint!("\rwriting the history of a day: {percent} %");
        }
    };
    history::write(config, meters, &store, &clock, from, wall, told).await?;
    if terminal {
        eprint!("\r\x1b[K");
    }
    store.close().await?;
    Ok(token)
}

/// Where a demo keeps its store, and the config with which other commands find it.
struct Folder {
    path: PathBuf,
    thrown_away: bool,
}

impl Folder {
    /// A folder that is given is kept, and a demo that is there already goes on.
    fn open(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let private = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        let Some(path) = given else {
            let mut random = [0; 8];
            getrandom::fill(&mut random)?;
            let path = std::env::temp_dir().join(format!("meterseal-demo-{:016x}", u64::from_be_bytes(random)));
            private(&path).with_context(|| format!("cannot create {}", path.display()))?;
            return Ok(Self { path, thrown_away: true });
        };
        private(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let folder = Self { path: fs::canonicalize(&path)?, thrown_away: false };
        if folder.token()?.is_none() && fs::read_dir(&folder.path)?.next().is_some() {
            bail!("{} holds something else than a demo: give an empty or a new folder", path.display());
        }
        Ok(folder)
    }

    fn config_file(&self) -> PathBuf {
        self.path.join("meterseal.toml")
    }

    /// The token of the demo that is here already.
    fn token(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path.join("token")) {
            Ok(token) => Ok(Some(token.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A store keeps only the token's digest, so a demo that goes on must keep the token beside it.
    fn keep_token(&self, token: String) -> io::Result<String> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path.join("token"));
        writeln!(file?, "{token}")?;
        Ok(token)
    }

    /// The PIN of the demo that is here already, or a new one; kept as the token is.
    fn pin(&self) -> anyhow::Result<Pin> {
        let path = self.path.join("pin");
        match fs::read_to_string(&path) {
            Ok(pin) => return Ok(pin.trim().parse()?),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Err(_) => {}
        }
        let pin = Pin::random()?;
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        writeln!(file?, "{}", pin.reveal())?;
        Ok(pin)
    }

    /// Writes the demo's config and reads it as any other.
    fn config(
        &self,
        listen: SocketAddr,
        simulation: &Simulation,
        broker: Option<&str>,
    ) -> anyhow::Result<(Config, Files)> {
        let maps = self.path.join("meters");
        fs::create_dir_all(&maps)?;
        fs::write(maps.join("simulated.toml"), REGISTERS)?;
        let zone = TimeZone::system();
        let text = format!(
            "# Written by `meterseal demo` each time it starts.\n[site]\nid = \"demo\"\nname = \"Simulated plant\"\n\
             organization = \"meterseal demo\"\ntimezone = \"{}\"\n[store]\npath = {:?}\nreserve = \"1MB\"\n\
             [web]\nlisten = \"{listen}\"\n{}{}",
            zone.iana_name().unwrap_or("UTC"),
            self.path.join("store"),
            simulation.config_text()?,
            broker.map(|url| self.broker_text(url)).transpose()?.unwrap_or_default(),
        );
        fs::write(self.config_file(), text)?;
        let (_, Checked { config, faults, kept, .. }) = config::load(&self.config_file(), Clock::trusted().now());
        match config {
            Some(config) => Ok((config, kept)),
            None => bail!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }
}

impl Folder {
    /// The broker and the two meters that publish through it. The login may stand in the address, as on a command line.
    fn broker_text(&self, url: &str) -> anyhow::Result<String> {
        let mut url = reqwest::Url::parse(url).with_context(|| format!("{url} is no URL such as mqtt://127.0.0.1"))?;
        let (username, password) = (url.username().to_owned(), url.password().map(str::to_owned));
        // Both fail on addresses without a host only, which the config tells better.
        url.set_username("").ok();
        url.set_password(None).ok();
        let mut login = String::new();
        if !username.is_empty() {
            login += &format!("username = {username:?}\n");
        }
        if let Some(password) = password {
            login += &format!("password = {password:?}\n");
        }
        // Each demo has a session of its own.
        let own = self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(format!(
            "[[mqtt]]\nname = \"demo-broker\"\nurl = {:?}\n{login}client_id = {:?}\nsimulated = true\n\
             [[mqtt.subscribe]]\ntopic = {:?}\nformat = \"acrel-adw\"\n\
             [[mqtt.subscribe]]\ntopic = {:?}\nformat = \"tasmota\"\n\
             [[mqtt.meter]]\nid = \"press\"\nname = \"Press (Acrel, MQTT)\"\nmatch = {:?}\ncategory = \"CONS\"\ninterval = \"2s\"\n\
             [[mqtt.meter]]\nid = \"plug\"\nname = \"Plug (Tasmota, MQTT)\"\nmatch = {:?}\ncategory = \"CONS\"\ninterval = \"2s\"\n",
            url.as_str().trim_end_matches('/'),
            format!("demo-{}", own.replace(|c: char| !c.is_ascii_alphanumeric(), "-")),
            simulate::ACREL_TOPIC,
            simulate::PLUG_TOPIC,
            simulate::ACREL,
            simulate::PLUG,
        ))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.thrown_away
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("meterseal: {} is left behind: {error}", self.path.display());
        }
    }
}
