//! A store, its log, and the owner of its anchors, with the clock in the test's hand.

#![allow(dead_code, reason = "each file of these tests uses some of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use meterseal::clock::Clock;
use meterseal::evidence::anchor::{Anchorer, Config, Order, Part, Parts, Queue, Wanted, fees};
use meterseal::evidence::evm::Key;
use meterseal::evidence::log::{Publisher, settle};
use meterseal::evidence::mark::Mark;
use meterseal::model::entry::Reason;
use meterseal::model::{Alert, Anchor, AnchorRefused, AnchorState, AnchorStatus, Timestamp};
use meterseal::store::{self, Append, Ledger, Reader, Store};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::harness::{ACCOUNT, KEY, Node};

pub const EVERY: Duration = Duration::from_secs(6 * 3_600);
/// More rounds than anything here takes.
const MOST_ROUNDS: usize = 400;

/// The wall clock of the node is the machine's own; the one of the house begins with it.
pub fn now() -> Timestamp {
    Clock::system().now()
}

pub fn config(chain_id: u64, rpc: &[String]) -> Config {
    Config {
        chain_id,
        rpc: rpc.to_vec(),
        contract: None,
        key: Key::read(KEY, None).unwrap(),
        every: EVERY,
        max_fee: fees::gwei(300),
        daily_budget: fees::coins("0.5").unwrap(),
    }
}

pub struct House {
    folder: PathBuf,
    /// Goes with the house.
    _made: Option<TempDir>,
    store: Option<Store>,
    anchorer: Option<Anchorer>,
    pub config: Config,
    part: watch::Sender<Arc<Part>>,
    pub clock: Clock,
    status: watch::Sender<AnchorStatus>,
}

pub fn limits(folder: &Path) -> store::Config {
    store::Config {
        path: folder.join("store"),
        commit_every: Duration::from_secs(1),
        keep_raw: Duration::from_secs(86_400),
        max_disk: 1 << 30,
        reserve: 1 << 20,
    }
}

impl House {
    pub fn new(config: Config) -> Self {
        let (made, clock) = (tempfile::tempdir().unwrap(), Clock::manual(now()));
        store::init(&limits(made.path()), &"plant-7".parse().unwrap(), &clock).unwrap();
        let folder = made.path().to_owned();
        Self { _made: Some(made), ..Self::at(&folder, config, clock) }
    }

    /// On a store that is there.
    pub fn at(folder: &Path, config: Config, clock: Clock) -> Self {
        let folder = folder.to_owned();
        let part = watch::Sender::new(Arc::new(Part::On(Arc::new(config.clone()))));
        let status = watch::Sender::default();
        let mut house = Self { folder, _made: None, store: None, anchorer: None, config, part, clock, status };
        house.open();
        house
    }

    fn open(&mut self) {
        self.store = Some(Store::open(limits(&self.folder), self.clock.clone(), None).unwrap());
        self.anchorer = Some(Anchorer::new(self.parts(), self.part.subscribe()));
    }

    fn parts(&self) -> Parts {
        let (reader, ledger) = (self.reader(), self.ledger());
        let publisher = Publisher::new(ledger.clone(), Mark::at(self.folder.join("mark")));
        Parts { reader, ledger, publisher, clock: self.clock.clone(), status: self.status.clone() }
    }

    /// The task of the daemon, beside what the house does itself.
    pub async fn run(&self, orders: mpsc::Receiver<Order>, stop: CancellationToken) {
        meterseal::evidence::anchor::run(self.part.subscribe(), self.parts(), orders, stop).await.unwrap();
    }

    /// The process ends, and another one begins.
    pub fn restart(&mut self) {
        drop(self.anchorer.take());
        drop(self.store.take());
        self.open();
    }

    /// A backup as it is now.
    pub async fn backup(&self) -> Vec<u8> {
        let (mut backup, root) = (Vec::new(), limits(&self.folder).path);
        let still = self.ledger().hold_still().await.unwrap();
        store::write_backup(&root, &still.inventory, true, &mut backup, &mut |_, _| true).unwrap();
        backup
    }

    /// The gateway ends, and goes on with a backup in the place of its store.
    pub async fn restore(&mut self, backup: &[u8]) {
        drop(self.anchorer.take());
        drop(self.store.take());
        store::restore(&limits(&self.folder).path, backup, true, self.clock.now(), &mut |_, _| true).unwrap();
        self.open();
        let (site, mark) = ("plant-7".parse().unwrap(), Mark::at(self.folder.join("mark")));
        let machine = self.folder.join("machine");
        let settled = settle(&self.reader(), &self.ledger(), &site, &mark, &machine).await.unwrap();
        assert_eq!(settled.succession.map(|succession| succession.reason), Some(Reason::Restore));
    }

    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        self.announce(change);
        self.anchorer.as_mut().unwrap().reconfigure();
    }

    /// The owner learns of another config when it is through with what it does.
    pub fn announce(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.part.send_replace(Arc::new(Part::On(Arc::new(self.config.clone()))));
    }

    /// Nothing is anchored any more.
    pub async fn remove(&mut self) {
        self.part.send_replace(Arc::new(Part::Absent));
        let anchorer = self.anchorer.as_mut().unwrap();
        anchorer.reconfigure();
        assert_eq!(anchorer.round().await.unwrap(), None);
    }

    pub fn queue(&self) -> Queue {
        self.anchorer.as_ref().unwrap().queue()
    }

    pub fn reader(&self) -> Reader {
        self.store.as_ref().unwrap().reader()
    }

    pub fn ledger(&self) -> Ledger {
        self.store.as_ref().unwrap().ledger()
    }

    pub fn status(&self) -> AnchorStatus {
        self.status.borrow().clone()
    }

    /// Something new in the log.
    pub async fn grow(&self) {
        grow(&self.ledger()).await;
    }

    pub async fn order(&self, wanted: Wanted) -> Result<u64, AnchorRefused> {
        let (reply, answer) = oneshot::channel();
        self.anchorer.as_ref().unwrap().queue().answer(Order { wanted, by: "the test".into(), reply }).await;
        answer.await.unwrap()
    }

    /// One round, and the time until the next.
    pub async fn round(&mut self) {
        let pause = self.anchorer.as_mut().unwrap().round().await.unwrap().unwrap();
        self.clock.advance(pause);
    }

    /// One round; how many milliseconds it waits for the next.
    pub async fn pause(&mut self) -> u64 {
        let before = self.clock.since_boot_ms();
        self.round().await;
        self.clock.since_boot_ms() - before
    }

    pub async fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round().await;
        }
    }

    /// Rounds until the newest anchor is as wanted; before each the node makes a block, if there is one that shall.
    pub async fn until(&mut self, node: Option<&Node>, is_it: impl Fn(&Anchor) -> bool) -> Anchor {
        for _ in 0..MOST_ROUNDS {
            if let Some(node) = node {
                node.mine(1);
            }
            self.round().await;
            if let Some(anchor) = self.newest().await.filter(&is_it) {
                return anchor;
            }
        }
        panic!("it never comes to it: {:#?}", self.anchors().await);
    }

    /// So much time goes by, in which rounds have their turn and the node makes blocks.
    pub async fn pass(&mut self, node: &Node, time: Duration) {
        let end = self.clock.since_boot_ms() + u64::try_from(time.as_millis()).unwrap();
        while self.clock.since_boot_ms() < end {
            node.mine(1);
            self.round().await;
            self.clock.advance(Duration::from_secs(600));
        }
    }

    pub async fn until_final(&mut self, node: &Node) -> Anchor {
        self.until(Some(node), |anchor| anchor.state == AnchorState::Final).await
    }

    /// The newest first.
    pub async fn anchors(&self) -> Vec<Anchor> {
        self.reader().anchors(None, 100).await.unwrap()
    }

    pub async fn newest(&self) -> Option<Anchor> {
        self.anchors().await.into_iter().next()
    }

    pub async fn alerts(&self) -> Vec<Alert> {
        self.reader().alerts(false, 100).await.unwrap()
    }
}

/// Something new in the log.
pub async fn grow(ledger: &Ledger) {
    let entry = Append::Audit { action: "test".into(), by: "the test".into(), detail: json!({}) };
    ledger.append(vec![entry]).await.unwrap();
}

/// What the account wrote to the chain: each payload, and how often.
pub fn written(node: &Node) -> BTreeMap<String, usize> {
    written_by(node, ACCOUNT)
}

pub fn written_by(node: &Node, account: Address) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for height in 0..=node.height() {
        let block = node.ask("eth_getBlockByNumber", json!([format!("{height:#x}"), true]));
        let of_account =
            |transaction: &&Value| transaction["from"].as_str().unwrap().parse::<Address>().unwrap() == account;
        for transaction in block["transactions"].as_array().unwrap().iter().filter(of_account) {
            *found.entry(transaction["input"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    found
}
