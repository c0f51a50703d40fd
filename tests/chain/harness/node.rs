//! anvil, and what it does on command.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use alloy_primitives::{Address, B256, address};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PATIENCE, post};

/// The first of the accounts that anvil has from its start, with 10 000 coins. Its key is known to the whole world.
pub const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
pub const ACCOUNT: Address = address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
/// More of them, for which the node signs.
pub const OTHERS: [Address; 3] = [
    address!("70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    address!("3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
    address!("90F79bf6EB2c4f870365E785982E1f101E93b906"),
];

/// When a block is made.
#[derive(Clone, Copy)]
pub enum Mining {
    /// By [`Node::mine`] alone.
    Manual,
    /// Soon after a transaction was taken: whoever sent it may be told of that before it is mined.
    Each,
    /// After so many seconds.
    Every(u32),
}

pub struct Node {
    pub chain_id: u64,
    mining: Mining,
    pub port: u16,
    process: Option<Child>,
    folder: TempDir,
}

impl Node {
    pub fn start(chain_id: u64, mining: Mining) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut node = Self { chain_id, mining, port: 0, process: None, folder };
        node.start_again();
        node
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// On the port that it had, with the chain that it had when it was stopped.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "the node runs");
        let mut command = Command::new(program());
        command.args(["--chain-id", &self.chain_id.to_string(), "--port", &self.port.to_string()]);
        // Final is what is two blocks below the newest. Polygon has no rules later than Prague's.
        command.args(["--slots-in-an-epoch", "1", "--hardfork", "prague", "--threads", "2"]);
        command.args(["--order", "fifo", "--preserve-historical-states"]).arg("--state").arg(self.state());
        match self.mining {
            Mining::Manual => command.arg("--no-mining"),
            Mining::Each => &mut command,
            Mining::Every(seconds) => command.args(["--block-time", &seconds.to_string()]),
        };
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut all = Vec::new();
        let port = loop {
            let Some(Ok(line)) = said.next() else { panic!("anvil did not start: {}", all.join("\n")) };
            match line.strip_prefix("Listening on 127.0.0.1:") {
                Some(port) => break port.parse().unwrap(),
                None => all.push(line),
            }
        };
        // It logs every request; a full pipe would stop it.
        thread::spawn(move || said.for_each(drop));
        (self.port, self.process) = (port, Some(process));
    }

    /// Ends it so that it keeps its chain.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the node does not run");
        kill_process(Pid::from_child(&process), Signal::INT).unwrap();
        let end = Instant::now() + PATIENCE;
        while process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "anvil does not stop");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(self.state().exists(), "anvil kept nothing");
    }

    /// Ends it so that it begins anew: the chain is lost.
    pub fn lose(&mut self) {
        self.stop();
        fs::remove_file(self.state()).unwrap();
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state.json")
    }

    /// The result, or the error.
    pub fn try_ask(&self, method: &str, params: Value) -> Result<Value, Value> {
        let question = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = post(self.port, question.to_string().as_bytes()).expect("the node does not answer");
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer["result"].take()),
        }
    }

    pub fn ask(&self, method: &str, params: Value) -> Value {
        self.try_ask(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub fn height(&self) -> u64 {
        number(&self.ask("eth_blockNumber", json!([])))
    }

    pub fn mine(&self, blocks: u64) {
        self.ask("anvil_mine", json!([format!("{blocks:#x}")]));
    }

    /// Replaces the newest `depth` blocks by as many others without transactions; theirs are lost.
    pub fn reorganise(&self, depth: u64) {
        self.ask("anvil_reorg", json!([depth, []]));
    }

    /// Takes the newest `depth` blocks away.
    pub fn roll_back(&self, depth: u64) {
        self.ask("anvil_rollback", json!([depth]));
    }

    /// Of the next block, in wei.
    pub fn set_base_fee(&self, wei: u128) {
        self.ask("anvil_setNextBlockBaseFeePerGas", json!([format!("{wei:#x}")]));
    }

    /// Out of the pool of those that wait.
    pub fn drop_transaction(&self, hash: B256) {
        self.ask("anvil_dropTransaction", json!([hash]));
    }

    pub fn set_balance(&self, account: Address, wei: u128) {
        self.ask("anvil_setBalance", json!([account, format!("{wei:#x}")]));
    }

    /// Of one of the accounts for which the node signs; its hash.
    pub fn send_as(&self, account: Address, mut transaction: Value) -> B256 {
        transaction["from"] = json!(account);
        serde_json::from_value(self.ask("eth_sendTransaction", json!([transaction]))).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

pub fn number(quantity: &Value) -> u64 {
    u64::from_str_radix(quantity.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// npm installs it for the machine it runs on, in a package of its own.
fn program() -> PathBuf {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/node_modules/@foundry-rs");
    let found = fs::read_dir(&packages).into_iter().flatten().flatten();
    let mut programs = found.map(|package| package.path().join("bin/anvil")).filter(|program| program.exists());
    programs.next().unwrap_or_else(|| panic!("no anvil in {}: run tests/setup", packages.display()))
}
