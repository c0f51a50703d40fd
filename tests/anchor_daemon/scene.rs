//! A store that is to be anchored, a real node, and the daemon between them, laid out anew as often as it takes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use meterseal::agent::admin::{self, Request};
use meterseal::agent::anchors::AnchorsTold;
use meterseal::clock::Clock;
use meterseal::evidence::anchor::{Anchorer, Config, Part, Parts, Wanted, fees};
use meterseal::evidence::evm::{self, Key};
use meterseal::model::note::SignedCheckpoint;
use meterseal::model::{Anchor, AnchorState, Anchored, JobId};
use meterseal::store::{self, Append, Store};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::events::Events;
use crate::harness::{ACCOUNT, KEY, Mining, Node as Anvil, Proxy, Told, number};
use crate::kill::copy_folder;
use crate::plant;

/// The chain's id.
const CHAIN: u64 = 137;
/// A daemon that does nothing for so long waits for its next look at the chain, or for longer.
pub const FOLLOWS: Duration = Duration::from_millis(400);
/// No look at the chain is that long after the last while all is well.
pub const PAUSE: Duration = Duration::from_secs(6);
/// Nothing here takes as long unless something is wrong.
const LONGEST: Duration = Duration::from_secs(180);
/// More lives than it takes to be final.
const LIVES: u32 = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing was ever anchored.
    Fresh,
    /// One is final, and the next is queued.
    Second,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Killed,
    /// It had nothing more to do.
    Idle,
}

/// A seeded row of numbers (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// What befalls the node after each of its answers.
pub struct Weather {
    /// None: it makes a block, and nothing else happens.
    dice: Option<Dice>,
    /// How often it may still be gone for a while.
    absences: u32,
}

impl Weather {
    pub fn fair() -> Self {
        Self { dice: None, absences: 0 }
    }

    pub fn stormy(seed: u64) -> Self {
        Self { dice: Some(Dice(seed)), absences: 2 }
    }
}

pub struct Node {
    anvil: Anvil,
    is_gone: bool,
    weather: Weather,
}

impl Node {
    fn befall(&mut self) {
        if self.is_gone {
            return;
        }
        let Some(dice) = &mut self.weather.dice else { return self.anvil.mine(1) };
        match dice.roll(10) {
            0 | 1 => {
                // What waited to be mined is lost with it.
                self.anvil.stop();
                self.anvil.start_again();
            }
            2 if self.weather.absences > 0 => {
                self.weather.absences -= 1;
                self.anvil.stop();
                self.is_gone = true;
            }
            3..=7 => self.anvil.mine(1),
            _ => {}
        }
    }

    fn come_back(&mut self) {
        if self.is_gone {
            self.anvil.start_again();
            self.is_gone = false;
        }
    }
}

pub struct Scene {
    folder: TempDir,
    library: PathBuf,
    node: Arc<Mutex<Node>>,
    proxy: Proxy,
    /// What the chain can be turned back to: the beginning, and then what was kept.
    chain: Mutex<Vec<Value>>,
    dataset: JobId,
    /// Verifier key of the log.
    key: String,
    anchors: usize,
}

impl Scene {
    pub fn new(library: &Path, beginning: Beginning) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let anvil = Anvil::start(CHAIN, Mining::Manual);
        let proxy = Proxy::start(&anvil);
        anvil.set_balance(ACCOUNT, fees::coins("10").unwrap());
        let (dataset, key, made) = run(begin(&anvil, &proxy.url(), beginning));
        let kept = folder.path().join("beginning");
        copy_folder(made.path(), &kept);
        let dir = folder.path().join("dir");
        let config = format!(
            "[site]\nid = \"plant-7\"\ntimezone = \"Asia/Kuala_Lumpur\"\n[web]\nlisten = \"127.0.0.1:0\"\n\
             [store]\npath = \"{dir}/store\"\nmark = \"{dir}/mark\"\nreserve = \"1MB\"\n\
             [anchor]\nchain_id = {CHAIN}\nrpc = [\"{}\"]\nkey = {{ file = \"{dir}/key\" }}\n",
            proxy.url(),
            dir = dir.display()
        );
        fs::write(kept.join("meterseal.toml"), config).unwrap();
        fs::write(kept.join("key"), KEY).unwrap();
        let chain = Mutex::new(vec![anvil.ask("evm_snapshot", json!([]))]);
        let node = Arc::new(Mutex::new(Node { anvil, is_gone: false, weather: Weather::fair() }));
        // The proxy is never over, and must not keep the node.
        let befallen = Arc::downgrade(&node);
        proxy.lie_always(move |_, truth| {
            if let Some(node) = befallen.upgrade() {
                node.lock().unwrap().befall();
            }
            Told::Answer(truth)
        });
        copy_folder(&kept, &dir);
        let anchors = if beginning == Beginning::Fresh { 1 } else { 2 };
        Self { folder, library: library.to_owned(), node, proxy, chain, dataset, key, anchors }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("dir")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap()
    }

    pub fn set_weather(&self, weather: Weather) {
        let mut node = self.node();
        node.come_back();
        node.weather = weather;
    }

    pub fn end_absence(&self) {
        self.node().come_back();
    }

    /// All as it was at the beginning.
    pub fn lay(&self) {
        self.chain.lock().unwrap().truncate(1);
        self.turn_back();
        copy_folder(&self.folder.path().join("beginning"), &self.dir());
    }

    /// The chain as it was kept last.
    fn turn_back(&self) {
        let (node, mut chain) = (self.node(), self.chain.lock().unwrap());
        let snapshot = chain.last_mut().unwrap();
        assert_eq!(node.anvil.ask("evm_revert", json!([snapshot])), json!(true));
        *snapshot = node.anvil.ask("evm_snapshot", json!([]));
        node.anvil.ask("anvil_dropAllTransactions", json!([]));
    }

    /// Keeps store and chain as they are.
    pub fn keep(&self, name: &str) -> PathBuf {
        let kept = self.folder.path().join(name);
        copy_folder(&self.dir(), &kept);
        self.chain.lock().unwrap().push(self.node().anvil.ask("evm_snapshot", json!([])));
        kept
    }

    /// The chain as it was kept, and the store with so much of its write-ahead log.
    pub fn lay_cut(&self, kept: &Path, end: u64) {
        self.turn_back();
        copy_folder(kept, &self.dir());
        let store = self.dir().join("store");
        let log = File::options().write(true).open(store.join("evidence.db-wal")).unwrap();
        assert!(log.metadata().unwrap().len() >= end, "the write-ahead log is shorter than that");
        log.set_len(end).unwrap();
        fs::remove_file(store.join("evidence.db-shm")).unwrap();
    }

    pub fn events(&self) -> Events {
        Events::read(&self.log())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.args(words).stdin(Stdio::null());
        for name in ["RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM", "METERSEAL_LOG"] {
            command.env_remove(name);
        }
        command
    }

    fn daemon(&self, end: Option<usize>) -> Daemon {
        fs::remove_file(self.log()).ok();
        let said = File::create(self.folder.path().join("said")).unwrap();
        let config = self.dir().join("meterseal.toml");
        let mut command = self.command(&["run", "-c", config.to_str().unwrap()]);
        command.env("LD_PRELOAD", &self.library);
        command.env("EVENTS_OF", self.dir().join("store/evidence.db")).env("EVENTS_LOG", self.log());
        command.env("EVENTS_PORT", self.proxy.port.to_string()).env("EVENTS_END", end.unwrap_or(0).to_string());
        Daemon(command.stdout(Stdio::null()).stderr(said).spawn().unwrap())
    }

    /// One life of a daemon: it is killed before an event, or when it did nothing for so long.
    pub fn live(&self, end: Option<usize>, idle: Duration) -> Result<Ended, String> {
        let mut daemon = self.daemon(end);
        let began = Instant::now();
        let (mut seen, mut since) = (0, None);
        loop {
            if let Some(status) = daemon.0.try_wait().unwrap() {
                return if status.signal() == Some(9) { Ok(Ended::Killed) } else { Err(self.ended(status)) };
            }
            let length = self.log().metadata().map_or(0, |log| log.len());
            if length != seen {
                (seen, since) = (length, Some(Instant::now()));
            }
            if since.is_some_and(|since| since.elapsed() >= idle) {
                return Ok(Ended::Idle);
            }
            if began.elapsed() > LONGEST {
                return Err(format!("the daemon does not come to an end: {}", self.said()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// One life of a daemon until all is final. A node that is gone comes back meanwhile.
    pub fn live_on(&self) -> Result<(), String> {
        let mut daemon = self.daemon(None);
        let (began, socket) = (Instant::now(), self.dir().join("store/run/meterseal.sock"));
        loop {
            thread::sleep(FOLLOWS);
            if let Some(status) = daemon.0.try_wait().unwrap() {
                return Err(self.ended(status));
            }
            if let Ok(told) = run(admin::ask::<AnchorsTold>(&socket, &Request::Anchors {}))
                && !told.anchors.is_empty()
                && are_final(&told.anchors)
            {
                return Ok(());
            }
            self.node().come_back();
            if began.elapsed() > LONGEST {
                return Err(format!("it does not become final: {}", self.said()));
            }
        }
    }

    /// Daemons follow one another, each killed as soon as it would wait, until all is final.
    pub fn settle(&self) -> Result<(), String> {
        for life in 1..=LIVES {
            if self.is_final() {
                return Ok(());
            }
            // A machine that is slow is given more and more time.
            self.live(None, FOLLOWS * life)?;
        }
        Err(format!("it does not become final: {:#?}\n{}", self.anchors(), self.said()))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    fn ended(&self, status: std::process::ExitStatus) -> String {
        format!("the daemon ended with {status}: {}", self.said())
    }

    /// By the store, which no daemon holds.
    fn anchors(&self) -> Vec<Anchor> {
        run(async {
            let limits = store::Config {
                path: self.dir().join("store"),
                commit_every: Duration::from_secs(1),
                keep_raw: Duration::from_secs(90 * 86_400),
                max_disk: 2_000_000_000,
                reserve: 0,
            };
            let store = Store::open(limits, Clock::system(), None).unwrap();
            let anchors = store.reader().anchors(None, 100).await.unwrap();
            store.close().await.unwrap();
            anchors
        })
    }

    pub fn is_final(&self) -> bool {
        let anchors = self.anchors();
        !anchors.is_empty() && are_final(&anchors)
    }

    /// The chain has just one transaction for each checkpoint, the store agrees with it, and its proof holds.
    pub fn judge(&self) -> Result<(), String> {
        let mined = self.mined();
        let nonces: Vec<u64> = mined.iter().map(|transaction| number(&transaction["nonce"])).collect();
        if nonces != (0..self.anchors as u64).collect::<Vec<_>>() {
            return Err(format!("{} anchors, and the nonces on the chain are {nonces:?}", self.anchors));
        }
        let pending = number(&self.node().anvil.ask("eth_getTransactionCount", json!([ACCOUNT, "pending"])));
        if pending != self.anchors as u64 {
            return Err(format!("{pending} transactions, with what waits to be mined"));
        }
        let mut written: BTreeMap<&str, &Value> = BTreeMap::new();
        for transaction in &mined {
            if let Some(other) = written.insert(transaction["input"].as_str().unwrap(), transaction) {
                return Err(format!("the same twice: {transaction} and {other}"));
            }
            let receipt = self.node().anvil.ask("eth_getTransactionReceipt", json!([transaction["hash"]]));
            if receipt["status"] != "0x1" {
                return Err(format!("mined for nothing: {receipt}"));
            }
        }
        let anchors = self.anchors();
        if anchors.len() != self.anchors {
            return Err(format!("{} anchors in the store, and {} on the chain", anchors.len(), self.anchors));
        }
        for anchor in &anchors {
            let Anchored::Checkpoint { note, .. } = &anchor.what else {
                return Err(format!("not asked for: {anchor:?}"));
            };
            let checkpoint = note.parse::<SignedCheckpoint>().unwrap().checkpoint;
            let payload = evm::payload(&checkpoint.origin, checkpoint.size, &checkpoint.root, false).to_string();
            let inclusion = anchor.inclusion.as_ref().ok_or("it is in no block")?;
            let known = json!({
                "hash": inclusion.transaction,
                "blockHash": inclusion.hash,
                "blockNumber": format!("{:#x}", inclusion.height),
            });
            let there = written.get(payload.as_str()).ok_or_else(|| format!("not on the chain: {anchor:?}"))?;
            let there = ["hash", "blockHash", "blockNumber"].map(|name| (name.to_owned(), there[name].clone()));
            if Value::Object(there.clone().into_iter().collect()) != known {
                return Err(format!("the store has {known}, and the chain {there:?}"));
            }
        }
        self.proves()
    }

    /// All transactions of the account, in their order.
    fn mined(&self) -> Vec<Value> {
        let node = self.node();
        let mut mined = Vec::new();
        for height in 0..=node.anvil.height() {
            let block = node.anvil.ask("eth_getBlockByNumber", json!([format!("{height:#x}"), true]));
            let of_account = |transaction: &&Value| transaction["from"] == json!(ACCOUNT);
            mined.extend(block["transactions"].as_array().unwrap().iter().filter(of_account).cloned());
        }
        mined
    }

    /// As somebody sees it who has the proof, the key, the account, and a node of his own.
    fn proves(&self) -> Result<(), String> {
        let (config, id) = (self.dir().join("meterseal.toml"), self.dataset.to_string());
        let proof = self.dir().join(format!("store/artifacts/{id}.proof.json"));
        let (config, proof) = (config.to_str().unwrap(), proof.to_str().unwrap());
        let (account, url, chain) = (ACCOUNT.to_string(), self.node().anvil.url(), CHAIN.to_string());
        let prove = ["prove", "--dataset", &id, "-c", config, "-o", proof];
        let trusted = ["--key", &self.key, "--account", &account, "--chain", &chain, "--rpc", &url];
        let verify = [&["verify", proof][..], &trusted].concat();
        for words in [&prove[..], &verify] {
            let done = self.command(words).output().unwrap();
            if !done.status.success() {
                return Err(format!("{words:?}: {done:?}"));
            }
        }
        Ok(())
    }
}

/// It is killed when this goes.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already, as it should.
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

fn are_final(anchors: &[Anchor]) -> bool {
    anchors.iter().all(|anchor| anchor.state == AnchorState::Final)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A store at rest with a dataset in it; which one, the verifier key, and the folder.
async fn begin(anvil: &Anvil, rpc: &str, beginning: Beginning) -> (JobId, String, TempDir) {
    let plant = plant::plant();
    let dataset = match beginning {
        Beginning::Fresh => plant.export(8).await,
        Beginning::Second => {
            let audit = Append::Audit { action: "test".into(), by: "the test".into(), detail: json!({}) };
            plant.ledger().append(vec![audit]).await.unwrap();
            let config = Config {
                chain_id: CHAIN,
                rpc: vec![rpc.to_owned()],
                contract: None,
                key: Key::read(KEY, None).unwrap(),
                every: Duration::from_secs(6 * 3_600),
                max_fee: fees::gwei(300),
                daily_budget: fees::coins("0.5").unwrap(),
            };
            let parts = Parts {
                reader: plant.reader(),
                ledger: plant.ledger(),
                publisher: plant.prover().publisher.clone(),
                clock: plant.clock.clone(),
                status: watch::Sender::default(),
            };
            let part = watch::Sender::new(Arc::new(Part::On(Arc::new(config))));
            let mut anchorer = Anchorer::new(parts, part.subscribe());
            while !plant.reader().anchors(None, 1).await.unwrap().iter().any(|one| one.state == AnchorState::Final) {
                anvil.mine(1);
                let pause = anchorer.round().await.unwrap().unwrap();
                plant.clock.advance(pause);
            }
            // The first one does not cover it.
            let dataset = plant.export(8).await;
            anchorer.queue().order(Wanted::Checkpoint, "the test").await.unwrap().unwrap();
            dataset
        }
    };
    let key = plant.key().await;
    (dataset, key, plant.close().await)
}
