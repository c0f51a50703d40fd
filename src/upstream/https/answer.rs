//! What an answer means: docs/upstream-openapi.yaml from the other end. Pure. Nothing is taken for acknowledged but an
//! answer that says so in full, since a 200 may come from anybody on the way.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::model::note::SignedCheckpoint;
use crate::model::told;
use crate::upstream::receiver::{Answer, Batch, Fault, NOTES, Rejected, Rejection};

/// Nobody waits longer than this for a receiver that asks for time.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// An answer, whole.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Puts answers into words.
pub struct Words<'a> {
    pub to: &'a str,
    /// None or one; no text bears it.
    pub token: &'a [Zeroizing<String>],
    pub has_certificate: bool,
}

/// The middle part of an origin.
pub fn gateway_of(origin: &str) -> &str {
    origin.split('/').nth(1).unwrap_or_default()
}

impl Words<'_> {
    /// What `GET …/checkpoints` says.
    pub fn held(&self, reply: &Reply, gateway: &str) -> Result<Vec<SignedCheckpoint>, Fault> {
        #[derive(Deserialize)]
        struct Told {
            held: Vec<String>,
        }
        if !reply.status.is_success() {
            return Err(match self.refusal(reply) {
                // Nothing was handed over that could be at fault.
                Fault::Refused(why) | Fault::TooLarge(why) => Fault::Stopped(why),
                fault => fault,
            });
        }
        let notes = self.json::<Told>(reply)?.held;
        if notes.len() > NOTES {
            return Err(self.undocumented(reply, &format!("{} notes, more than {NOTES}", notes.len())));
        }
        let mut origins = BTreeSet::new();
        let read = notes.iter().map(|note| {
            let note = self.note(reply, note, gateway)?;
            if origins.insert(note.checkpoint.origin.clone()) {
                return Ok(note);
            }
            Err(self.undocumented(reply, &format!("two notes of {}", note.checkpoint.origin)))
        });
        read.collect()
    }

    /// What `PUT …/checkpoint` says.
    pub fn witnessed(&self, reply: &Reply, sent: &SignedCheckpoint) -> Result<Option<SignedCheckpoint>, Fault> {
        #[derive(Deserialize)]
        struct Told {
            #[serde(deserialize_with = "Option::deserialize")] // must be there, even if it is null
            held: Option<String>,
        }
        let is_conflict = reply.status == StatusCode::CONFLICT;
        if !reply.status.is_success() && !is_conflict {
            return Err(match self.refusal(reply) {
                Fault::Refused(why) | Fault::TooLarge(why) => {
                    Fault::Stopped(format!("{why}; does it know this gateway's key? `meterseal key show` prints it"))
                }
                fault => fault,
            });
        }
        let held = self.json::<Told>(reply)?.held;
        let origin = &sent.checkpoint.origin;
        let held = held.map(|note| self.note(reply, &note, gateway_of(origin))).transpose()?;
        match &held {
            Some(held) if held.checkpoint.origin != *origin => {
                Err(self.undocumented(reply, "a note of another origin"))
            }
            Some(held) if !is_conflict && held.checkpoint != sent.checkpoint => {
                Err(self.undocumented(reply, "another checkpoint than it was sent"))
            }
            None if !is_conflict => Err(self.undocumented(reply, "no checkpoint")),
            _ => Ok(held),
        }
    }

    /// What `POST …` says of a batch.
    pub fn settled(&self, reply: &Reply, batch: &Batch) -> Answer {
        let answer = if reply.status.is_success() { self.acknowledged(reply, batch) } else { Err(self.refusal(reply)) };
        answer.unwrap_or_else(|fault| Answer { fault: Some(fault), ..Answer::default() })
    }

    fn acknowledged(&self, reply: &Reply, batch: &Batch) -> Result<Answer, Fault> {
        #[derive(Deserialize)]
        struct Told {
            accepted: u64,
            repeated: u64,
            rejected: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            seq: u64,
            error: Why,
            #[serde(default)]
            detail: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Why {
            Conflict,
            Invalid,
        }
        let Told { accepted, repeated, rejected } = self.json(reply)?;
        let sent = batch.records.len();
        let settled = [accepted, repeated, u64::try_from(rejected.len()).unwrap_or(u64::MAX)];
        let settled = settled.into_iter().try_fold(0, u64::checked_add).and_then(|sum| usize::try_from(sum).ok());
        if settled != Some(sent) {
            let count = format!("{accepted} + {repeated} + {} records, of {sent} that it was sent", rejected.len());
            return Err(self.undocumented(reply, &count));
        }
        let mut seqs = BTreeSet::new();
        for One { seq, .. } in &rejected {
            let is_ours = batch.records.binary_search_by_key(seq, |record| record.seq).is_ok();
            if !is_ours || !seqs.insert(*seq) {
                return Err(self.undocumented(reply, &format!("that it rejects {seq}, which it was not sent once")));
            }
        }
        let rejected = rejected.into_iter().map(|One { seq, error, detail }| Rejected {
            seq,
            why: match error {
                Why::Conflict => Rejection::Conflict,
                Why::Invalid => Rejection::Invalid,
            },
            told: told(&detail, self.token),
        });
        Ok(Answer { taken: sent, rejected: rejected.collect(), repeated, ..Answer::default() })
    }

    fn note(&self, reply: &Reply, note: &str, gateway: &str) -> Result<SignedCheckpoint, Fault> {
        let read: SignedCheckpoint =
            note.parse().map_err(|error| self.undocumented(reply, &format!("a note that is none ({error})")))?;
        if gateway_of(&read.checkpoint.origin) == gateway {
            return Ok(read);
        }
        Err(self.undocumented(reply, &format!("a note of {}, which is another gateway", read.checkpoint.origin)))
    }

    fn json<'a, T: Deserialize<'a>>(&self, reply: &'a Reply) -> Result<T, Fault> {
        // Other successes than 200 are nobody's that keeps to the contract.
        if !matches!(reply.status, StatusCode::OK | StatusCode::CONFLICT) {
            return Err(self.undocumented(reply, "nothing that counts"));
        }
        serde_json::from_slice(&reply.body).map_err(|error| {
            let page = is_page(&reply.body);
            let what = if page { "a page".to_owned() } else { format!("no answer of a receiver ({error})") };
            self.undocumented(reply, &what)
        })
    }

    pub fn undocumented(&self, reply: &Reply, what: &str) -> Fault {
        let (to, status) = (self.to, reply.status);
        let what = told(what, self.token);
        Fault::Away(format!(
            "{to} answers {status} with {what}, which acknowledges nothing: is the address right, or does somebody \
             in between answer, such as a sign-in page of the network?"
        ))
    }

    /// What an answer means that says no.
    pub fn refusal(&self, reply: &Reply) -> Fault {
        let words = self.detail(&reply.body);
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        let said = format!("{} answers {}{words}", self.to, reply.status);
        match reply.status.as_u16() {
            400 | 422 => Fault::Refused(said),
            413 => Fault::TooLarge(said),
            429 | 503 => match pause(&reply.headers) {
                Some(wait) => {
                    let told = format!("{said}; it asks for {} s of time", wait.as_secs());
                    Fault::Busy { wait, told }
                }
                None => Fault::Away(said),
            },
            408 | 425 | 500.. => Fault::Away(said),
            401 => Fault::Stopped(format!("{said}; {}", self.credential())),
            403 => Fault::Stopped(format!("{said}; does it know this gateway, and {}", self.credential())),
            407 => Fault::Stopped(format!("{said}; the proxy of HTTPS_PROXY or HTTP_PROXY wants a sign-in of its own")),
            300..=399 => {
                let place =
                    reply.headers.get(header::LOCATION).and_then(|place| place.to_str().ok()).unwrap_or_default();
                let place = told(place, self.token);
                Fault::Stopped(format!("{said}; the address is not one that takes records: it sends on to {place}"))
            }
            404 | 405 | 410 | 415 => Fault::Stopped(format!("{said}; the address is not one that takes records")),
            _ => Fault::Stopped(format!("{said}; it is not a receiver of meterseal's, or not of this version")),
        }
    }

    fn credential(&self) -> &'static str {
        match (self.token.is_empty(), self.has_certificate) {
            (false, false) => "is the `token` still right?",
            (false, true) => "are the `token` and the client certificate still right?",
            (true, true) => "is the client certificate (`client_cert`) still right?",
            (true, false) => "does it ask for a `token`, or for a client certificate (`client_cert`)?",
        }
    }

    fn detail(&self, body: &[u8]) -> String {
        #[derive(Deserialize)]
        struct Told {
            detail: String,
        }
        if is_page(body) {
            return "a page".to_owned();
        }
        match serde_json::from_slice::<Told>(body) {
            Ok(words) => told(&words.detail, self.token),
            Err(_) => told(&String::from_utf8_lossy(body), self.token),
        }
    }
}

fn is_page(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"<")
}

/// `Retry-After`: seconds, or a date, which counts from that of the answer, so that nobody's clock needs to be right.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let after = text(header::RETRY_AFTER)?;
    let wait = match after.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let instant = |text: &str| Some(DateTimeParser::new().parse_zoned(text).ok()?.timestamp());
            let wait = instant(after)?.duration_since(instant(text(header::DATE)?)?);
            Duration::try_from(wait).unwrap_or_default()
        }
    };
    Some(wait.clamp(Duration::from_secs(1), LONGEST_WAIT))
}
