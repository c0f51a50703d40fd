//! A plant in a temporary folder: its config, its store, and the daemon on it, in this process or in one of its own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use meterseal::agent::admin::{self, Request};
use meterseal::agent::{Agent, LogLines, Setup};
use meterseal::clock::Clock;
use meterseal::config::{self, Checked};
use meterseal::model::Timestamp;
use meterseal::store::{self, Store};
use serde_json::Value;

/// No wait of these tests comes near it unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Plant {
    folder: tempfile::TempDir,
    store: PathBuf,
}

/// A line of the config with its meters: (id, unit).
pub fn line(name: &str, address: impl std::fmt::Display, meters: &[(&str, u8)]) -> String {
    let mut text = format!("[[modbus]]\nname = \"{name}\"\ntcp = \"{address}\"\ntimeout = \"500ms\"\n");
    for (id, unit) in meters {
        text += &format!(
            "[[modbus.meter]]\nid = \"{id}\"\nunit = {unit}\ncategory = \"CONS\"\ninterval = \"100ms\"\n\
             registers = {{ function = \"input\", type = \"f32\", power_kw = {{ address = 52, scale = 0.001 }}, \
             energy_import_kwh = {{ address = 72 }} }}\n"
        );
    }
    text
}

impl Plant {
    /// Writes the config; the store is not made.
    pub fn bare(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        Self::with(folder, store, lines)
    }

    /// The same, with the store elsewhere.
    pub fn at(store: PathBuf, lines: &str) -> Self {
        Self::with(tempfile::tempdir().unwrap(), store, lines)
    }

    fn with(folder: tempfile::TempDir, store: PathBuf, lines: &str) -> Self {
        let plant = Self { folder, store };
        plant.write(lines);
        plant
    }

    /// Writes the config and makes the store. Also gives the API token.
    pub fn new(lines: &str) -> (Self, String) {
        let plant = Self::bare(lines);
        let token = plant.init();
        (plant, token)
    }

    /// Makes the store; gives the API token.
    pub fn init(&self) -> String {
        let config = self.load().config.unwrap();
        store::init(&config.store, &config.site_id, &Clock::trusted()).unwrap().token
    }

    /// Writes the config anew.
    pub fn write(&self, lines: &str) {
        let store = self.store();
        let head = "[site]\nid = \"test\"\ntimezone = \"Europe/Berlin\"\n[web]\nlisten = \"127.0.0.1:0\"\n";
        let store = format!("[store]\npath = \"{}\"\ncommit_every = \"100ms\"\nreserve = \"1MB\"\n", store.display());
        std::fs::write(self.config(), format!("{head}{store}{lines}")).unwrap();
    }

    /// Writes a template beside the config.
    pub fn write_template(&self, name: &str, text: &str) {
        let folder = self.folder.path().join("meters");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.toml")), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("meterseal.toml")
    }

    pub fn store(&self) -> PathBuf {
        self.store.clone()
    }

    pub fn mark(&self) -> PathBuf {
        self.folder.path().join("store.mark")
    }

    pub fn load(&self) -> Checked {
        config::load(&self.config(), Timestamp::from_millis(1_795_219_200_000)).1
    }

    pub fn socket(&self) -> PathBuf {
        self.store().join("run/meterseal.sock")
    }

    /// The daemon in this process.
    pub async fn agent(&self) -> Agent {
        let Checked { config, kept, .. } = self.load();
        let (config, clock) = (config.unwrap(), Clock::trusted());
        let store = Store::open(config.store.clone(), clock.clone(), Some(self.socket())).unwrap();
        let setup =
            Setup { config, kept, path: Some(self.config()), clock, refused: Vec::new(), log: LogLines::default() };
        Agent::start(setup, store).await.unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.args(arguments).arg("-c").arg(self.config());
        for name in ["RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM", "METERSEAL_LOG"] {
            command.env_remove(name);
        }
        command
    }

    /// A command, to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The daemon in a process of its own.
    pub fn daemon(&self) -> Daemon {
        Daemon::start(self.command(&["run"]), self.socket())
    }
}

pub struct Daemon {
    pub child: Child,
    socket: PathBuf,
}

impl Daemon {
    pub fn start(mut command: Command, socket: PathBuf) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, socket }
    }

    /// How it is doing; waits until it answers, and until `wanted` holds.
    pub async fn status(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            if let Ok(status) = ask(&self.socket, &Request::Status {}).await
                && wanted(&status)
            {
                return status;
            }
            if let Some(code) = self.child.try_wait().unwrap() {
                panic!("the daemon ended with {code}: {}", self.said());
            }
            assert!(began.elapsed() < PATIENCE, "the daemon does not come to what is wanted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end: how it ended, and what it said.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let said = self.said();
        (self.child.wait().unwrap(), said)
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already, as it should.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

pub async fn ask(socket: &Path, request: &Request) -> anyhow::Result<Value> {
    admin::ask(socket, request).await
}

/// The last seq that is durable, by a daemon's status.
pub fn through_seq(status: &Value) -> u64 {
    status["store"]["through_seq"].as_u64().unwrap()
}
