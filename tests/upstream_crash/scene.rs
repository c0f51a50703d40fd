//! A gateway, three servers, and a network before each of them; what befalls them, and what is left at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use meterseal::clock::Clock;
use meterseal::model::{Digest, Stream};
use meterseal::upstream::Config;

use crate::gateway::{self, Gateway, Records, differences};
use crate::held;
use crate::listener::{self, Listener};
use crate::mosquitto::Mosquitto;
use crate::postgres::Postgres;
use crate::proxy::{Dice, Faults, Line, Proxy};
use crate::receiver::Receiver;
use crate::upstreams;

/// When all is well again, nothing that is still to be delivered stands still for so long.
const RECOVERY: Duration = Duration::from_secs(60);
/// A server stays dead, and a line down, for so many ms at the most.
const LONGEST: u64 = 4_000;

/// The upstreams, and the networks before them.
pub const NAMES: [&str; 3] = ["cloud", "database", "broker"];
const CLOUD: usize = 0;
const DATABASE: usize = 1;
const BROKER: usize = 2;

/// All of them, through the networks.
pub fn config([cloud, database, broker]: [u16; 3]) -> Config {
    let upstreams = vec![upstreams::cloud(cloud), upstreams::database(database), upstreams::broker(broker)];
    Config { upstreams }
}

pub struct Scene {
    dice: Dice,
    folder: tempfile::TempDir,
    cloud: Option<Cloud>,
    postgres: Postgres,
    broker: Mosquitto,
    listener: Listener,
    networks: [Proxy; 3],
    /// When a server that is dead starts again, and a line is up again.
    dead: BTreeMap<usize, Instant>,
    down: BTreeMap<usize, Instant>,
    gateway: Option<Running>,
    told: Arc<Mutex<Told>>,
    /// What befell whom how often.
    befell: BTreeMap<String, u64>,
}

/// A process that is told what to do, and says what it did.
struct Running {
    process: Child,
    words: ChildStdin,
    reader: JoinHandle<()>,
}

/// What the gateway said.
#[derive(Default)]
struct Told {
    readings: BTreeMap<u64, Digest>,
    /// Meter and start.
    blocks: BTreeSet<(String, i64)>,
    alerts: BTreeSet<i64>,
    epochs: BTreeSet<String>,
    is_through: bool,
    /// By upstream: acknowledged, and dropped as repeated; in this life, and in those before.
    sent: BTreeMap<String, (u64, u64)>,
    sent_before: BTreeMap<String, (u64, u64)>,
}

impl Scene {
    pub fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = gateway::make(folder.path());
        Receiver::start(&folder.path().join("cloud")).know(&key);
        let (cloud, postgres) = (Cloud::start(folder.path()), Postgres::start());
        let broker = Mosquitto::start(listener::SETTINGS);
        let mut listener = Listener::default();
        listener.listen(broker.port);
        let network = |port, which: u64, replay_one_in| {
            let faults = Faults {
                end_one_in: 2,
                within_bytes: 1 << 18,
                within: Duration::from_secs(2),
                delay_one_in: 100,
                delay: Duration::from_millis(300),
                replay_one_in,
            };
            Proxy::start(local(port), faults, seed ^ which)
        };
        // PostgreSQL gives each connection words of its own, so that nothing can be said again to it.
        let networks = [network(cloud.port, 1, 3), network(postgres.port, 2, 0), network(broker.port, 3, 3)];
        Self {
            dice: Dice(seed),
            folder,
            cloud: Some(cloud),
            postgres,
            broker,
            listener,
            networks,
            dead: BTreeMap::new(),
            down: BTreeMap::new(),
            gateway: None,
            told: Arc::default(),
            befell: BTreeMap::new(),
        }
    }

    /// Lets it happen for so long, then lets all recover, and compares.
    pub fn play(mut self, duration: Duration) -> Result<String, String> {
        let began = Instant::now();
        self.start_gateway();
        while began.elapsed() < duration {
            sleep(Duration::from_millis(20 + self.dice.roll(2_400)));
            self.restore(|due| due <= Instant::now());
            self.befall();
        }
        self.restore(|_| true);
        for network in &self.networks {
            network.set(Faults::default());
        }
        let recovering = Instant::now();
        self.drain()?;
        let recovered = recovering.elapsed().as_secs_f32();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let records = runtime.block_on(self.compare())?;
        Ok(self.figures(records, duration, recovered))
    }

    fn befall(&mut self) {
        let until = Instant::now() + Duration::from_millis(200 + self.dice.roll(LONGEST));
        match self.dice.roll(20) {
            0..=5 => {
                self.end_gateway(true);
                sleep(Duration::from_millis(self.dice.roll(300)));
                self.start_gateway();
            }
            6 => {
                self.end_gateway(false);
                self.start_gateway();
            }
            roll @ 7..=15 => {
                let which = [CLOUD, DATABASE, BROKER][usize::try_from(roll % 3).unwrap()];
                if self.dead.insert(which, until).is_none() {
                    self.kill(which);
                }
            }
            _ => {
                let which = usize::try_from(self.dice.roll(3)).unwrap();
                if self.down.insert(which, until).is_none() {
                    let line = if self.dice.once_in(2) { Line::Down } else { Line::Dark };
                    self.count(format!("line of {} {line:?}", NAMES[which]));
                    self.networks[which].line(line);
                }
            }
        }
    }

    fn kill(&mut self, which: usize) {
        self.count(format!("{} killed", NAMES[which]));
        match which {
            CLOUD => self.cloud.take().unwrap().kill(),
            DATABASE => self.postgres.kill(),
            _ => self.broker.kill(),
        }
    }

    /// Starts again what is due.
    fn restore(&mut self, is_due: impl Fn(Instant) -> bool) {
        let due = |what: &mut BTreeMap<usize, Instant>| {
            let due: Vec<usize> = what.iter().filter(|(_, until)| is_due(**until)).map(|(which, _)| *which).collect();
            what.retain(|which, _| !due.contains(which));
            due
        };
        for which in due(&mut self.dead) {
            match which {
                CLOUD => {
                    let cloud = Cloud::start(self.folder.path());
                    self.networks[CLOUD].lead_to(local(cloud.port));
                    self.cloud = Some(cloud);
                }
                DATABASE => self.postgres.restart(),
                _ => {
                    // Nobody may publish to it before somebody listens again.
                    self.networks[BROKER].line(Line::Down);
                    self.broker.start_again();
                    self.listener.listen(self.broker.port);
                    self.down.entry(BROKER).or_insert_with(Instant::now);
                }
            }
        }
        for which in due(&mut self.down) {
            self.networks[which].line(Line::Up);
        }
    }

    fn start_gateway(&mut self) {
        let ports = serde_json::to_string(&self.networks.each_ref().map(Proxy::port)).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("gateway")
            .arg(self.folder.path())
            .args([ports, self.dice.roll(u64::MAX).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (words, mut lines) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let told = self.told.clone();
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            // A line that the kill cut off does not count.
            while lines.read_line(&mut line).is_ok() && line.ends_with('\n') {
                told.lock().unwrap().take(line.trim_end());
                line.clear();
            }
        });
        self.gateway = Some(Running { process, words, reader });
    }

    /// Kills it, or asks it to end.
    fn end_gateway(&mut self, is_killed: bool) {
        let Running { mut process, words, reader } = self.gateway.take().unwrap();
        self.count(format!("gateway {}", if is_killed { "killed" } else { "ended" }));
        let by_itself = process.try_wait().unwrap();
        assert!(by_itself.is_none(), "the gateway ended by itself, {by_itself:?}: {}", self.log());
        if is_killed {
            process.kill().unwrap();
        }
        drop(words);
        let ended = process.wait().unwrap();
        assert!(is_killed || ended.success(), "the gateway ended with {ended}: {}", self.log());
        reader.join().unwrap();
        let mut told = self.told.lock().unwrap();
        for (upstream, (sent, repeated)) in std::mem::take(&mut told.sent) {
            let before = told.sent_before.entry(upstream).or_default();
            *before = (before.0 + sent, before.1 + repeated);
        }
    }

    /// Lets it deliver all, and end.
    fn drain(&mut self) -> Result<(), String> {
        let (mut moved, mut sent) = (Instant::now(), BTreeMap::new());
        writeln!(self.gateway.as_mut().unwrap().words, "drain").unwrap();
        while !self.told.lock().unwrap().is_through {
            let now = self.told.lock().unwrap().sent.clone();
            if now != sent {
                (moved, sent) = (Instant::now(), now);
            }
            let ended = self.gateway.as_mut().unwrap().process.try_wait().unwrap();
            if ended.is_some() || moved.elapsed() > RECOVERY {
                let log = self.log();
                return Err(format!("not all is delivered, and it goes no further than {sent:?} ({ended:?}): {log}"));
            }
            sleep(Duration::from_millis(50));
        }
        self.end_gateway(false);
        Ok(())
    }

    /// What is held upstream, by what the store holds, by what was acknowledged.
    async fn compare(&mut self) -> Result<usize, String> {
        let none = Config::default();
        let gateway = Gateway::open(self.folder.path(), Clock::trusted(), none).await;
        let (wanted, epochs) = (gateway.records().await, gateway.epochs().await);
        let whose = gateway.store.identity().gateway.clone();
        let mut wrong = Vec::new();
        if epochs.len() != 1 {
            wrong.push(format!("the epochs {epochs:?} were opened"));
        }
        for name in NAMES {
            let letters = gateway.store.reader().dead_letters(name, None, 3).await.unwrap();
            if !letters.is_empty() {
                wrong.push(format!("dead letters of {name}: {letters:#?}"));
            }
        }
        let (blocks, alerts) = gateway::sealed(&gateway.store).await;
        gateway.close().await;
        let told = self.told.lock().unwrap();
        let lost = told.readings.iter().find(|(seq, hash)| {
            wanted.get(&(epochs[0].clone(), Stream::Readings, **seq)).is_none_or(|stored| stored != *hash)
        });
        if let Some((seq, _)) = lost {
            wrong.push(format!("the store lost reading {seq}, or it is another one"));
        }
        let lost: Vec<_> = told.blocks.difference(&blocks).collect();
        if !lost.is_empty() || !told.alerts.is_subset(&alerts) {
            wrong.push(format!("the store lost {lost:?}, or one of the alerts"));
        }
        if let Some(cloud) = self.cloud.take() {
            cloud.kill();
        }
        let cloud = Receiver::start(&self.folder.path().join("cloud"));
        // What the broker has handed on may still lie before the listener.
        let began = Instant::now();
        while self.listener.records(&whose).len() < wanted.len() && began.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(20));
        }
        let held: [Records; 3] =
            [held::by_receiver(&cloud), held::by_postgres(&self.postgres), self.listener.records(&whose)];
        for (name, held) in NAMES.iter().zip(&held) {
            wrong.extend(differences(held, &wanted).into_iter().map(|difference| format!("{name}: {difference}")));
        }
        if wrong.is_empty() && told.readings.is_empty() {
            wrong.push("nothing was ever acknowledged".to_owned());
        }
        if wrong.is_empty() { Ok(wanted.len()) } else { Err(format!("{wrong:#?}\n{}", self.log())) }
    }

    fn figures(&self, records: usize, duration: Duration, recovered: f32) -> String {
        let told = self.told.lock().unwrap();
        let mut figures = format!(
            "upstream_crash: {records} records, {} readings of them acknowledged, are at each of three upstreams once and unchanged\n  \
             {} s of harm, {recovered:.1} s of recovery; {} repeated ones dropped by the consumer of the broker",
            told.readings.len(),
            duration.as_secs(),
            self.listener.repeated()
        );
        for (what, times) in &self.befell {
            write!(figures, "\n  {what}: {times}").unwrap();
        }
        for (name, network) in NAMES.iter().zip(&self.networks) {
            let (sent, repeated) = told.sent_before.get(*name).copied().unwrap_or_default();
            write!(
                figures,
                "\n  {name}: {sent} acknowledged amid the harm, {repeated} of them repeated; {:?}",
                network.tally()
            )
            .unwrap();
        }
        figures
    }

    fn count(&mut self, what: String) {
        *self.befell.entry(what).or_default() += 1;
    }

    /// The end of what the gateway wrote of itself.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut gateway) = self.gateway.take() {
            gateway.process.kill().ok();
            gateway.process.wait().ok();
        }
    }
}

impl Told {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["opened", epoch] => drop(self.epochs.insert(epoch.to_owned())),
            ["reading", seq, hash] => {
                let known = self.readings.insert(seq.parse().unwrap(), hash.parse().unwrap());
                assert!(known.is_none(), "seq {seq} was given out twice");
            }
            ["block", meter, start] => drop(self.blocks.insert((meter.to_owned(), start.parse().unwrap()))),
            ["alert", id] => drop(self.alerts.insert(id.parse().unwrap())),
            ["sent", upstream, sent, repeated] => {
                self.sent.insert(upstream.to_owned(), (sent.parse().unwrap(), repeated.parse().unwrap()));
            }
            ["through"] => self.is_through = true,
            _ => panic!("the gateway said {line}"),
        }
    }
}

/// The receiver as a process, on a port of its own each time.
struct Cloud {
    process: Child,
    port: u16,
}

impl Cloud {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("receiver")
            .arg(folder.join("cloud"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { process, port: port.trim_end().parse().unwrap() }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
