//! A consumer of what is published upstream, as a plant's historian would be: it holds a session at the broker, keeps every
//! message, and tells records by their key. It is mosquitto's own client, so that ours does not judge itself.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mosquitto::{Mosquitto, PASSWORD, USERNAME};

/// Longer than anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
}

/// `(gateway, epoch, stream, seq)`
pub type Key = (String, String, String, u64);

/// What came under one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    pub topic: String,
    /// As the message says.
    pub sha256: String,
    /// Byte for byte.
    pub line: String,
    /// How often it came.
    pub copies: usize,
}

/// It goes on collecting through restarts of the broker, which keeps what it misses. What a broker has acknowledged and not
/// saved when it is killed is lost by that broker: end it with `stop` where nothing may be missing.
pub struct Collector {
    client: Arc<Mutex<Client>>,
    messages: Arc<Mutex<Vec<Message>>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Client {
    process: Option<Child>,
    is_over: bool,
}

impl Collector {
    /// Listens to a topic filter, and returns when the broker knows it.
    pub fn start(broker: &Mosquitto, filter: &str) -> Self {
        // Subscribed once before, so that nothing that is published from now on is missed.
        let subscribed = client(broker, filter).args(["-E", "-W", "60"]).status().unwrap();
        assert!(subscribed.success(), "the broker takes no subscription to {filter}");
        let mut command = client(broker, filter);
        command.args(["-F", "%t %x"]).stdout(Stdio::piped());
        let (client, messages) = (Arc::<Mutex<Client>>::default(), Arc::<Mutex<Vec<Message>>>::default());
        let (running, kept) = (client.clone(), messages.clone());
        let thread = std::thread::spawn(move || {
            // It comes again to a broker that went away, but ends when none is there at its start.
            let mut next = || running.lock().unwrap().start(&mut command);
            while let Some(output) = next() {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                lines.for_each(|line| kept.lock().unwrap().push(message(&line)));
                sleep(Duration::from_millis(50));
            }
        });
        Self { client, messages, thread: Some(thread) }
    }

    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }

    /// Records by key; fails where a hash is not its line's, or one key has two lines. Checkpoints are none.
    pub fn records(&self) -> BTreeMap<Key, Collected> {
        let mut records: BTreeMap<Key, Collected> = BTreeMap::new();
        for Message { topic, payload } in self.messages().into_iter().filter(|message| !is_note(&message.payload)) {
            let text = String::from_utf8(payload).unwrap();
            let told: Told = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let line = told.record.get().to_owned();
            assert_eq!(told.sha256, meterseal::model::Digest::of(line.as_bytes()).to_string(), "{text}");
            let numbered: Numbered = serde_json::from_str(&line).unwrap();
            let new = Collected { topic, sha256: told.sha256, line, copies: 0 };
            let key = (told.gateway, told.epoch, told.stream, numbered.seq);
            let kept = records.entry(key).or_insert_with(|| new.clone());
            kept.copies += 1;
            assert_eq!((&kept.line, &kept.topic), (&new.line, &new.topic), "one key, two records");
        }
        records
    }

    /// Waits until there are so many records, each counted once.
    pub fn until(&self, count: usize) -> BTreeMap<Key, Collected> {
        let began = Instant::now();
        loop {
            let records = self.records();
            if records.len() >= count {
                return records;
            }
            assert!(began.elapsed() < PATIENCE, "{} of {count} records have come", records.len());
            sleep(Duration::from_millis(20));
        }
    }
}

impl Client {
    /// None when nobody listens any more.
    fn start(&mut self, command: &mut Command) -> Option<ChildStdout> {
        self.end();
        if self.is_over {
            return None;
        }
        self.process.insert(command.spawn().unwrap()).stdout.take()
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        {
            let mut client = self.client.lock().unwrap();
            client.is_over = true;
            client.end();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told<'a> {
    epoch: String,
    gateway: String,
    #[serde(borrow)]
    record: &'a RawValue,
    sha256: String,
    stream: String,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// Checkpoints are text, records are JSON.
fn is_note(payload: &[u8]) -> bool {
    !payload.starts_with(b"{")
}

fn client(broker: &Mosquitto, filter: &str) -> Command {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "localhost", "-p", &broker.port.to_string(), "-c", "-i", "collector", "-q", "1", "-t", filter]);
    if broker.is_secured() {
        command.arg("--cafile").arg(broker.ca_file()).args(["-u", USERNAME, "-P", PASSWORD]);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// `<topic> <payload in hex>`
fn message(line: &str) -> Message {
    let (topic, hex) = line.split_once(' ').unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    Message { topic: topic.to_owned(), payload: (0..hex.len()).step_by(2).map(byte).collect() }
}
