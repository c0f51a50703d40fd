//! `telemetry`: one request per block to a backend that sums the energy of reports. It knows no key, so that each record
//! waits for the acknowledgement of the one before.

use std::time::Duration;

use reqwest::{Client, Url};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::endpoint::Endpoint;
use super::https::answer::{Reply, Words};
use super::https::{Broken, broken, connections, exchange};
use super::receiver::{self, Answer, Batch, Fault, Opened, Witness};
use super::record::Body;
use super::tls;
use crate::model::note::SignedCheckpoint;
use crate::model::{Block, MeterId, Span, Stream, told};
use crate::store::{Identity, Reader};

/// One `[[upstream]]` of this kind.
pub type Config = Endpoint;

/// No answer of such a backend is longer.
const ANSWER: usize = 64 << 10;

/// Voltages between a phase and neutral, of which a block's mean is made.
const VOLTAGES: [&str; 4] = ["voltage_v", "voltage_l1_v", "voltage_l2_v", "voltage_l3_v"];

pub struct Receiver {
    url: Url,
    to: String,
    token: Option<Zeroizing<String>>,
    has_certificate: bool,
    tls: ClientConfig,
    timeout: Duration,
    client: Client,
    /// For the voltage in a block, which its record does not have.
    reader: Option<Reader>,
}

/// What is sent.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "meterId")]
    meter: &'a str,
    #[serde(rename = "kwhConsumedAc")]
    kwh: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    voltage: Option<f64>,
    timestamp: String,
}

impl Receiver {
    /// Without a store, reports bear no voltage.
    pub fn new(config: &Config, _name: &str, reader: Option<Reader>) -> Result<Self, String> {
        config.check_token()?;
        let tls = tls::client(&config.tls)?;
        Ok(Self {
            url: config.url.clone(),
            to: config.to(),
            token: config.token.clone(),
            has_certificate: config.tls.identity.is_some(),
            client: connections(&tls)?,
            tls,
            timeout: config.timeout,
            reader,
        })
    }

    /// One report; with what went wrong comes whether it may have arrived all the same.
    async fn report(&self, report: &Report<'_>) -> Result<(), (Fault, bool)> {
        let body = serde_json::to_vec(report).map_err(|error| (Fault::Refused(error.to_string()), false))?;
        let request = self.client.post(self.url.clone()).header("content-type", "application/json").body(body);
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.as_str()),
            None => request,
        };
        match timeout(self.timeout, exchange(request, ANSWER)).await {
            Ok(Ok(reply)) => self.judge(&reply),
            Ok(Err(error)) => Err(match broken(&self.to, self.token.as_slice(), error) {
                Broken::Before(fault) => (fault, false),
                Broken::On(fault) => (fault, true),
            }),
            Err(_) => Err((Fault::Away(format!("{} did not answer within {:?}", self.to, self.timeout)), true)),
        }
    }

    fn judge(&self, reply: &Reply) -> Result<(), (Fault, bool)> {
        let words = Words { to: &self.to, token: self.token.as_slice(), has_certificate: self.has_certificate };
        if !reply.status.is_success() {
            // It writes twice for one report: what it fails in may be half done.
            return Err((words.refusal(reply), reply.status.is_server_error()));
        }
        if reply.body.trim_ascii().is_empty() {
            return Ok(());
        }
        let Ok(Value::Object(said)) = serde_json::from_slice(&reply.body) else {
            return Err((words.undocumented(reply, "no JSON object"), true));
        };
        match said.get("success") {
            Some(Value::Bool(true)) => Ok(()),
            None if !said.contains_key("error") => Ok(()),
            _ => {
                let why = ["message", "error"].iter().find_map(|name| said.get(*name)?.as_str()).unwrap_or_default();
                let why = told(why, self.token.as_slice());
                let status = reply.status;
                Err((Fault::Away(format!("{} answers {status} and says that it failed: {why}", self.to)), true))
            }
        }
    }

    /// The mean over the span of what the meter told of phases against neutral.
    async fn voltage(&self, meter: &MeterId, span: Span) -> Option<f64> {
        let mut stream = self.reader.as_ref()?.readings(meter.clone(), span.start(), span.end());
        let (mut sum, mut count) = (0.0, 0_u32);
        while let Some(readings) = stream.next().await {
            // A report without voltage is better than none.
            for reading in readings.ok()? {
                for name in VOLTAGES {
                    let Some(place) = reading.layout.slot_named(name) else { continue };
                    let Some(slot) = reading.layout.slots.get(usize::from(place)) else { continue };
                    let Some(volts) = reading.at(place).map(|raw| slot.scale.display(raw)) else { continue };
                    if volts.is_finite() {
                        sum += volts;
                        count += 1;
                    }
                }
            }
        }
        // To the millivolt, as the noise of a mean is no measurement.
        (count > 0).then(|| (sum / f64::from(count) * 1000.0).round() / 1000.0)
    }
}

impl receiver::Receiver for Receiver {
    /// It has no way to be asked what it has.
    async fn open(&mut self, _: &Identity) -> Result<Opened, Fault> {
        self.client = connections(&self.tls).map_err(Fault::Away)?;
        Ok(Opened::default())
    }

    async fn witness(&mut self, _: &Witness) -> Result<Option<SignedCheckpoint>, Fault> {
        Ok(None)
    }

    async fn deliver(&mut self, batch: &Batch) -> Answer {
        let mut answer = Answer::default();
        for record in &batch.records {
            match self::block(&record.body).filter(is_sayable) {
                None => answer.skipped += 1,
                Some(block) => {
                    let report = Report {
                        kind: "meter",
                        meter: block.meter.as_str(),
                        kwh: block.import.map_or(0.0, |energy| energy.to_kwh()),
                        voltage: self.voltage(&block.meter, block.span).await,
                        timestamp: block.span.end().to_string(),
                    };
                    if let Err((fault, may_have_arrived)) = self.report(&report).await {
                        answer.in_doubt = u64::from(may_have_arrived);
                        answer.fault = Some(fault);
                        return answer;
                    }
                }
            }
            answer.taken += 1;
        }
        answer
    }

    /// The position is saved after each.
    fn asks_at_opening(&self) -> bool {
        false
    }

    fn most(&self, _: Stream) -> usize {
        1
    }

    fn knows_keys(&self) -> bool {
        false
    }
}

/// Its words have no way to correct a report, and no way to say that there is none.
fn is_sayable(block: &Block) -> bool {
    block.revision == 0 && block.import.is_some_and(|energy| energy.as_uwh() >= 0)
}

/// The block of a record; none for a silence.
fn block(body: &Body) -> Option<Block> {
    match body {
        Body::Block(logged) if logged.kind == crate::model::entry::EntryKind::Block => {
            Block::from_record(&logged.record).ok()
        }
        Body::Kept(line) => {
            #[derive(Deserialize)]
            struct Line<'a> {
                kind: &'a str,
                #[serde(borrow)]
                record: &'a RawValue,
            }
            let line: Line = serde_json::from_str(line).ok()?;
            if line.kind == "block" { Block::from_record(line.record.get().as_bytes()).ok() } else { None }
        }
        _ => None,
    }
}
