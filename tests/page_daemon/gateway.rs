//! A gateway of its own for each look: the daemon from a config, with a meter that answers and hours that are past.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use meterseal::blocks;
use meterseal::clock::Clock;
use meterseal::evidence::log::Publisher;
use meterseal::evidence::mark::Mark;
use meterseal::model::note::VerifierKey;
use meterseal::model::{
    Anchor, AnchorState, Anchored, Category, Layout, Meter, Number, Origin, Ratio, Reading, Slot, Stamp, Timestamp,
};
use meterseal::simulate::{self, Simulation};
use meterseal::sources::template;
use meterseal::store::{self, Store};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chain::Chain;

/// The PINs that the looks sign in by.
const PINS: [(&str, &str); 2] = [("admin", "271828"), ("viewer", "314159")];
/// How long the meter `main` was read before the daemon starts.
const PAST_MS: i64 = 3 * 3_600_000;
const MINUTE_MS: i64 = 60_000;
/// Polygon; what was anchored there is shown with a link.
const CHAIN: u64 = 137;

/// What is made before the daemon runs.
pub struct Gateway {
    pub folder: tempfile::TempDir,
    /// Of the log, by which a receiver knows the gateway.
    pub key: VerifierKey,
    token: String,
    _meter: JoinSet<()>,
}

/// It is killed when this goes.
pub struct Daemon {
    process: Child,
    pub url: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Gateway {
    /// With these lines in the config beside those that every one has.
    pub async fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut meter = JoinSet::new();
        let bus = bus(&mut meter).await;
        let store = folder.path().join("store");
        let text = format!(
            "[site]\nid = \"plant-7\"\nname = \"Shah Alam plant\"\ntimezone = \"Asia/Kuala_Lumpur\"\n\
             [web]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {store:?}\nmark = \"{}\"\nreserve = \"1MB\"\n\
             [[modbus]]\nname = \"msb\"\ntcp = \"{bus}\"\n[[modbus.meter]]\nid = \"main\"\nname = \"Main incomer\"\n\
             template = \"eastron-sdm630\"\ncategory = \"CONS\"\n{config}",
            folder.path().join("mark").display(),
        );
        fs::write(folder.path().join("meterseal.toml"), text).unwrap();
        let mut gateway = Self { folder, key: VerifierKey::new("none", [0; 32]), token: String::new(), _meter: meter };
        gateway.meterseal(&["init"], "");
        for (role, pin) in PINS {
            gateway.meterseal(&["pin", "set", "--role", role], pin);
        }
        gateway.token = gateway.meterseal(&["token", "create", "tests", "--scope", "admin"], "").trim().to_owned();
        gateway.key = gateway.meterseal(&["key", "show"], "").trim().parse().unwrap();
        gateway
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("meterseal.toml")
    }

    /// What every look is told, to which more may be added.
    pub fn told(&self) -> Value {
        let program = env!("CARGO_BIN_EXE_meterseal");
        json!({ "token": self.token, "folder": self.folder.path(), "program": program, "key": self.key.to_string() })
    }

    /// Carries out a command with this on stdin; what it says.
    fn meterseal(&self, words: &[&str], typed: &str) -> String {
        let mut command = command(words);
        let command = command.arg("-c").arg(self.config()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        // One that asks nothing may have ended already.
        process.stdin.take().unwrap().write_all(typed.as_bytes()).ok();
        let done = process.wait_with_output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    async fn store(&self, clock: &Clock) -> Store {
        let limits = store::Config {
            path: self.folder.path().join("store"),
            commit_every: Duration::from_millis(10),
            keep_raw: Duration::from_secs(90 * 86_400),
            max_disk: 2_000_000_000,
            reserve: 1 << 20,
        };
        Store::open(limits, clock.clone(), None).unwrap()
    }

    /// The meter was read once a minute until now, and what is due is sealed.
    pub async fn read_before(&self) {
        let clock = Clock::manual(Clock::system().now());
        let store = self.store(&clock).await;
        let (now, layout) = (clock.now(), layout());
        let reading = |ago_ms: i64| Reading {
            layout: Arc::clone(&layout),
            taken: Stamp { time: now.plus_millis(-ago_ms), ..clock.stamp() },
            values: Box::new([(0, Number::I64(12_000)), (1, Number::I64(1_000_000 + (PAST_MS - ago_ms) / 300))]),
        };
        let readings = (0..PAST_MS / MINUTE_MS).rev().map(|ago| reading(ago * MINUTE_MS)).collect();
        store.ingest().store(readings).await.unwrap();
        blocks::seal_all_due(&measured(), &store.reader(), &store.ledger(), &clock).await.unwrap();
        store.close().await.unwrap();
    }

    /// The log as it is has been final for a while on a chain made by hand; with the key of its account in a file.
    pub async fn anchored_before(&self) -> String {
        let clock = Clock::system();
        let store = self.store(&clock).await;
        let publisher = Publisher::new(store.ledger(), Mark::at(self.folder.path().join("mark")));
        let signed = publisher.publish().await.unwrap();
        let (account, now) = (1, clock.now());
        let mut chain = Chain::new(CHAIN, account, None);
        let mined = chain.mine(&signed, now);
        let epoch = store.identity().epoch.clone();
        let what = Anchored::Checkpoint { epoch, size: signed.checkpoint.size, note: signed.note() };
        let anchor = Anchor::queued(what, CHAIN, chain.account(), None, now);
        let id = store.ledger().add_anchor(anchor.clone()).await.unwrap();
        let (attempts, inclusion) = (vec![mined.attempt], Some(mined.inclusion));
        let anchor = Anchor { id, state: AnchorState::Final, attempts, inclusion, ..anchor };
        store.ledger().save_anchor(anchor, Some(mined.evidence)).await.unwrap();
        store.close().await.unwrap();
        let key = self.folder.path().join("account");
        fs::write(&key, format!("{account:064x}")).unwrap();
        format!("[anchor]\nchain_id = {CHAIN}\nrpc = [\"http://127.0.0.1:1\"]\nkey = {{ file = {key:?} }}\n")
    }

    /// Adds to the config.
    pub fn configure(&self, more: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), text + more).unwrap();
    }

    /// Starts the daemon, and returns when its page is there.
    pub fn run(&self) -> Daemon {
        let mut command = command(&["run"]);
        let command = command.arg("-c").arg(self.config()).env("METERSEAL_LOG", "info").stdin(Stdio::null());
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let page = lines.find_map(|line| {
            let page = line.split_once("page=").map(|(_, page)| page.split_whitespace().next().unwrap().to_owned());
            said.push(line);
            page
        });
        let page = page.unwrap_or_else(|| panic!("the daemon ended: {said:#?}"));
        // What it says is read to the end, so that it never waits for that.
        std::thread::spawn(move || lines.for_each(drop));
        Daemon { process, url: page.trim_end_matches('/').to_owned() }
    }
}

/// The program, with nothing of the environment that a service would give it.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
    command.args(words);
    for name in ["RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM", "METERSEAL_LOG"] {
        command.env_remove(name);
    }
    command
}

/// The address of a simulated meter.
async fn bus(tasks: &mut JoinSet<()>) -> SocketAddr {
    let shipped = template::shipped().iter().find(|(name, _)| *name == "eastron-sdm630").unwrap();
    let templates = vec![Arc::new(template::parse(shipped.0, shipped.1).unwrap())];
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = simulate::Config { listen, meters: 1, templates, timezone: TimeZone::UTC };
    let simulation = Simulation::bind(&config).await.unwrap();
    let address = simulation.simulated().unwrap()[0].address;
    // A Wednesday noon, at which it is well.
    let noon = Clock::manual(Timestamp::from_millis(1_795_003_320_000));
    tasks.spawn(simulation.run(noon, CancellationToken::new()));
    address
}

fn layout() -> Arc<Layout> {
    let slot = |name: &str| Slot {
        quantity: name.parse().unwrap(),
        scale: Ratio::parse("0.001").unwrap(),
        rolls_over_at: None,
        interval: None,
    };
    Arc::new(Layout {
        meter: "main".parse().unwrap(),
        category: Category::Cons,
        interval_ms: Some(60_000),
        template: None,
        simulated: false,
        slots: vec![slot("power_kw"), slot("energy_import_kwh")],
    })
}

/// As the config has it.
fn measured() -> blocks::Config {
    let origin =
        Origin::Modbus { line: "msb".parse().unwrap(), unit: 1, template: "eastron-sdm630".into(), verified: false };
    let meter = Meter {
        id: "main".parse().unwrap(),
        name: "Main incomer".to_owned(),
        category: Category::Cons,
        origin,
        interval_ms: Some(1_000),
        peak_target: None,
        simulated: false,
    };
    blocks::Config {
        timezone: "Asia/Kuala_Lumpur".into(),
        block_minutes: 30,
        clock_offset_ms: 0,
        peaks: Vec::new(),
        meters: vec![meter],
    }
}
