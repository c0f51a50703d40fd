//! Records to an MQTT broker: one message each, at QoS 1; acknowledged is what the broker has acknowledged. Whoever
//! consumes them drops what comes twice by key and hash.
//!
//! `topic` says where each goes, `connection` is one connection of either version of the protocol, `refusal` what a broker's
//! codes mean, and `last_word` lets its last one through. The newest checkpoint lies on its own topic, retained, and is read back on each connection.

mod connection;
mod last_word;
mod refusal;
mod topic;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

pub use topic::{BadTemplate, Template};

use self::connection::{Connection, Heard, Limits, Verdict};
use super::dial::Dial;
use super::https::SLOWEST;
use super::receiver::{self, Answer, Batch, Fault, NOTES, Opened, Rejected, Rejection, Witness};
use super::record::{Body, LineWriter, Record};
use super::tls::Tls;
use crate::model::note::SignedCheckpoint;
use crate::model::{Digest, MeterId, Stream, jcs};
use crate::store::Identity;

/// Records of one batch, which are all on their way at once.
const MOST: usize = 256;
const IN_FLIGHT: u16 = 256;

/// An anchor bears its evidence, and is long.
const MOST_ANCHORS: usize = 16;

/// A broker sends what is retained right after its answer to the subscription, and has no word for "nothing is there".
const RETAINED_WITHIN: Duration = Duration::from_secs(2);

/// Header, packet identifier, lengths and properties of a message, without topic and payload.
const OVERHEAD: usize = 12;

/// One upstream.
#[derive(Clone, PartialEq)]
pub struct Config {
    pub host: String,
    pub port: u16,
    /// `mqtts`.
    pub tls: Option<Tls>,
    pub version: Version,
    pub username: Option<String>,
    pub password: Option<Zeroizing<String>>,
    /// Made of the gateway and the upstream's name without one; no two clients of a broker may have the same.
    pub client_id: Option<String>,
    pub topic: Template,
    pub keep_alive: Duration,
    /// A broker that says nothing for so long, while it is waited for, is away.
    pub timeout: Duration,
    /// Longer messages are not sent but put aside; a broker of MQTT 5 may say less.
    pub max_packet: usize,
}

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

impl Config {
    /// Where it goes, without secrets.
    pub fn to(&self) -> String {
        let scheme = if self.tls.is_some() { "mqtts" } else { "mqtt" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}", self.port)
    }
}

/// Without secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("to", &self.to())
            .field("tls", &self.tls)
            .field("version", &self.version)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("client_id", &self.client_id)
            .field("topic", &self.topic.to_string())
            .finish_non_exhaustive()
    }
}

pub struct Receiver {
    config: Config,
    dial: Dial,
    /// Of the upstream.
    name: String,
    link: Option<Link>,
    writer: LineWriter,
}

/// A connection on which the checkpoint was read back.
struct Link {
    connection: Connection,
    limits: Limits,
    identity: Identity,
    /// By origin.
    held: BTreeMap<String, SignedCheckpoint>,
}

impl Receiver {
    pub fn new(config: &Config, name: &str) -> Result<Self, String> {
        let dial = Dial::new(&config.host, config.port, config.tls.as_ref(), config.timeout, config.to())?;
        Ok(Self { config: config.clone(), dial, name: name.to_owned(), link: None, writer: LineWriter::default() })
    }

    fn client_id(&self, identity: &Identity) -> String {
        let made = || format!("meterseal-{}-{}", identity.gateway, self.name);
        self.config.client_id.clone().unwrap_or_else(made)
    }

    async fn connected(&self, identity: &Identity) -> Result<(Connection, Limits), Fault> {
        let stream = self.dial.open().await?;
        let made = Connection::begin(&self.config, self.client_id(identity), stream);
        let mut connection = made.map_err(Fault::Stopped)?;
        let by = Instant::now() + self.config.timeout;
        loop {
            match self.heard(&mut connection, by).await? {
                Heard::Connected(limits) if !limits.at_least_once => {
                    break Err(Fault::Stopped(format!(
                        "{} acknowledges no messages (QoS 0 only), so that nothing is ever known to have arrived: use \
                         a broker with QoS 1",
                        self.config.to()
                    )));
                }
                Heard::Connected(limits) => break Ok((connection, limits)),
                Heard::Ended(fault) => break Err(fault),
                Heard::Subscribed(_) | Heard::Retained(..) => {}
            }
        }
    }

    /// What comes next until then. Whatever else comes meanwhile wins no time.
    async fn heard(&self, connection: &mut Connection, by: Instant) -> Result<Heard, Fault> {
        timeout_at(by, connection.next()).await.map_err(|_| self.silent())
    }

    fn silent(&self) -> Fault {
        Fault::Away(format!("{} did not answer within {:?}", self.config.to(), self.config.timeout))
    }

    /// The checkpoints of this gateway that lie at the broker.
    async fn retained(
        &self,
        connection: &mut Connection,
        identity: &Identity,
    ) -> Result<BTreeMap<String, SignedCheckpoint>, Fault> {
        let filter = self.config.topic.filter(identity, Stream::Checkpoints.as_str());
        if connection.subscribe(&filter).await.is_err() {
            return Err(self.ending(connection).await);
        }
        let mut held: BTreeMap<String, SignedCheckpoint> = BTreeMap::new();
        let (by, mut until) = (Instant::now() + self.config.timeout, None);
        loop {
            // What is retained may come before the answer to the subscription.
            let next = match until {
                None => self.heard(connection, by).await?,
                Some(until) => match timeout_at(until, connection.next()).await {
                    Ok(heard) => heard,
                    Err(_) => break,
                },
            };
            match next {
                Heard::Subscribed(true) => until = until.or(Some(Instant::now() + RETAINED_WITHIN)),
                Heard::Subscribed(false) => {
                    return Err(Fault::Stopped(format!(
                        "{} does not let this client subscribe to {filter}, where its own checkpoint lies: give it the \
                         right to read that topic",
                        self.config.to()
                    )));
                }
                Heard::Retained(topic, payload) => {
                    let note = self.checkpoint(&topic, &payload, identity)?;
                    let of_origin = held.entry(note.checkpoint.origin.clone()).or_insert_with(|| note.clone());
                    if note.checkpoint.size > of_origin.checkpoint.size {
                        *of_origin = note;
                    }
                    if held.len() > NOTES {
                        return Err(Fault::Stopped(format!(
                            "more than {NOTES} checkpoints lie retained at {} on {filter}: clear those of former epochs, \
                             and see who publishes there",
                            self.config.to()
                        )));
                    }
                }
                Heard::Ended(fault) => return Err(fault),
                Heard::Connected(_) => {}
            }
            // Of one topic there is one; a topic with the epoch in it has one for each.
            if !held.is_empty() && until.is_some() && !self.config.topic.has_epoch() {
                break;
            }
        }
        match connection.unsubscribe(&filter).await {
            Ok(()) => Ok(held),
            Err(_) => Err(self.ending(connection).await),
        }
    }

    fn checkpoint(&self, topic: &str, payload: &[u8], identity: &Identity) -> Result<SignedCheckpoint, Fault> {
        let note = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<SignedCheckpoint>().ok());
        let is_ours =
            |note: &SignedCheckpoint| note.checkpoint.origin.split('/').nth(1) == Some(identity.gateway.as_str());
        note.filter(is_ours).ok_or_else(|| {
            Fault::Stopped(format!(
                "what lies retained at {} on {topic} is no checkpoint of this gateway: clear it and see who publishes \
                 there, or choose another `topic`",
                self.config.to()
            ))
        })
    }

    /// One record as a message; its topic and its payload.
    fn message(&mut self, batch: &Batch, record: &Record) -> (String, Vec<u8>) {
        let mut line = Vec::new();
        self.writer.push(&mut line, record);
        let meter = if self.config.topic.has_meter() { meter(&record.body, &line) } else { None };
        let topic = self.config.topic.topic(&batch.identity, &batch.epoch, batch.stream.as_str(), meter.as_deref());
        (topic, payload(batch, &line))
    }

    /// Hands all to the connection, and waits for what the broker says of each.
    async fn send(&mut self, link: &mut Link, batch: &Batch, verdicts: &mut [Option<Verdict>]) -> Result<(), Fault> {
        let password = self.config.password.clone();
        let (mut waiting, mut bytes, mut is_over) = (FuturesUnordered::new(), 0, false);
        for (at, record) in batch.records.iter().enumerate() {
            let (topic, payload) = self.message(batch, record);
            let size = topic.len() + payload.len() + OVERHEAD;
            if size > link.limits.max_packet {
                let told = format!(
                    "a message of {size} bytes is longer than the {} that {} takes",
                    link.limits.max_packet,
                    self.config.to()
                );
                verdicts[at] = Some(Verdict::Rejected(told));
                continue;
            }
            let Ok(notice) = link.connection.publish(&topic, payload, false).await else {
                is_over = true;
                break;
            };
            let password = password.as_slice();
            bytes += u64::try_from(size).unwrap_or(u64::MAX);
            waiting.push(async move { (at, notice.verdict(password).await) });
        }
        // A broker that says a little now and then holds nobody for long: the rest is sent again.
        let whole = self.config.timeout + Duration::from_secs(bytes / SLOWEST);
        let by = Instant::now() + whole;
        while !waiting.is_empty() {
            match timeout_at(by.min(Instant::now() + self.config.timeout), waiting.next()).await {
                // Others may have been answered before it ended.
                Ok(Some((_, Verdict::Unknown)) | None) => is_over = true,
                Ok(Some((at, verdict))) => verdicts[at] = Some(verdict),
                Err(_) if Instant::now() < by => return Err(self.silent()),
                Err(_) => {
                    let (left, to) = (waiting.len(), self.config.to());
                    return Err(Fault::Away(format!("{to} did not acknowledge {left} messages within {whole:?}")));
                }
            }
        }
        if is_over { Err(self.ending(&mut link.connection).await) } else { Ok(()) }
    }

    /// Why the connection has ended.
    async fn ending(&self, connection: &mut Connection) -> Fault {
        let by = Instant::now() + self.config.timeout;
        loop {
            match self.heard(connection, by).await {
                Ok(Heard::Ended(fault)) | Err(fault) => return fault,
                Ok(_) => {}
            }
        }
    }
}

impl receiver::Receiver for Receiver {
    async fn open(&mut self, identity: &Identity) -> Result<Opened, Fault> {
        self.link = None;
        let (mut connection, limits) = self.connected(identity).await?;
        let held = match limits.keeps_retained {
            true => self.retained(&mut connection, identity).await?,
            false => BTreeMap::new(),
        };
        let opened = Opened { held: held.values().cloned().collect(), positions: BTreeMap::new() };
        self.link = Some(Link { connection, limits, identity: identity.clone(), held });
        Ok(opened)
    }

    async fn witness(&mut self, checkpoint: &Witness) -> Result<Option<SignedCheckpoint>, Fault> {
        // Whatever goes wrong from here, even that nobody waits any more, the connection is given up.
        let mut link = self.link.take().ok_or_else(not_connected)?;
        if !link.limits.keeps_retained {
            self.link = Some(link);
            return Ok(None);
        }
        let origin = &checkpoint.checkpoint.checkpoint.origin;
        let held = link.held.get(origin).cloned();
        if held.as_ref().map_or(0, |held| held.checkpoint.size) != checkpoint.old {
            self.link = Some(link);
            return Ok(held);
        }
        let epoch = origin.rsplit('/').next().unwrap_or_default();
        let topic = self.config.topic.topic(&link.identity, epoch, Stream::Checkpoints.as_str(), None);
        let note = checkpoint.checkpoint.note().into_bytes();
        let Ok(notice) = link.connection.publish(&topic, note, true).await else {
            return Err(self.ending(&mut link.connection).await);
        };
        match timeout(self.config.timeout, notice.verdict(self.config.password.as_slice())).await {
            Ok(Verdict::Taken) => {}
            Ok(Verdict::Rejected(told)) => return Err(Fault::Stopped(told)),
            Ok(Verdict::Fault(fault)) => return Err(fault),
            Ok(Verdict::Unknown) => return Err(self.ending(&mut link.connection).await),
            Err(_) => return Err(self.silent()),
        }
        link.held.insert(origin.clone(), checkpoint.checkpoint.clone());
        self.link = Some(link);
        Ok(Some(checkpoint.checkpoint.clone()))
    }

    async fn deliver(&mut self, batch: &Batch) -> Answer {
        // As above: what is still under way when nobody waits any more must not be taken for the next batch's.
        let Some(mut link) = self.link.take() else {
            return Answer { fault: Some(not_connected()), ..Answer::default() };
        };
        let mut verdicts = vec![None; batch.records.len()];
        let ended = self.send(&mut link, batch, &mut verdicts).await;
        if ended.is_ok() {
            self.link = Some(link);
        }
        answer(batch, verdicts, ended.err())
    }

    fn most(&self, stream: Stream) -> usize {
        if matches!(stream, Stream::Anchors | Stream::Datasets) { MOST_ANCHORS } else { MOST }
    }

    /// Whoever consumes the messages does: the broker passes them on.
    fn knows_keys(&self) -> bool {
        true
    }
}

fn not_connected() -> Fault {
    Fault::Away("not connected to the broker".to_owned())
}

/// What became of a batch, by what the broker said of each record.
fn answer(batch: &Batch, verdicts: Vec<Option<Verdict>>, ended: Option<Fault>) -> Answer {
    let is_settled = |verdict: &&Option<Verdict>| matches!(verdict, Some(Verdict::Taken | Verdict::Rejected(_)));
    let mut answer = Answer { taken: verdicts.iter().take_while(is_settled).count(), ..Answer::default() };
    let mut faults = Vec::new();
    for (record, verdict) in batch.records.iter().zip(verdicts) {
        match verdict {
            Some(Verdict::Rejected(told)) => {
                answer.rejected.push(Rejected { seq: record.seq, why: Rejection::Invalid, told });
            }
            Some(Verdict::Fault(fault)) => faults.push(fault),
            Some(Verdict::Taken | Verdict::Unknown) | None => {}
        }
    }
    answer.fault = faults.into_iter().next().or(ended);
    answer
}

/// `{"epoch":…,"gateway":…,"record":<line>,"sha256":…,"stream":…}`
fn payload(batch: &Batch, line: &[u8]) -> Vec<u8> {
    let mut out = b"{\"epoch\":".to_vec();
    jcs::write_str(&batch.epoch, &mut out);
    out.extend_from_slice(b",\"gateway\":");
    jcs::write_str(&batch.identity.gateway, &mut out);
    out.extend_from_slice(b",\"record\":");
    out.extend_from_slice(line);
    out.extend_from_slice(b",\"sha256\":\"");
    out.extend_from_slice(Digest::of(line).to_string().as_bytes());
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(batch.stream.as_str().as_bytes());
    out.extend_from_slice(b"\"}");
    out
}

/// Whose a record is, if it is a meter's.
fn meter(body: &Body, line: &[u8]) -> Option<String> {
    match body {
        Body::Reading(reading) => Some(reading.layout.meter.to_string()),
        Body::Block(block) => Some(block.meter.to_string()),
        Body::Minute(minute) => Some(minute.meter.to_string()),
        Body::Event(_) | Body::Kept(_) => {
            let line: Value = serde_json::from_slice(line).ok()?;
            let of = line.get("meter").or_else(|| line.get("record")?.get("meter"))?.as_str()?;
            // Only what can be a meter's name can stand in a topic.
            of.parse::<MeterId>().ok().map(|meter| meter.to_string())
        }
    }
}

#[cfg(test)]
mod tests;
