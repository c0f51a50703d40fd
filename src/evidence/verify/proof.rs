//! The text of a proof: its claim and its sections, each byte of which is written again from what was read.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::report::Refused;
use super::strict::{self, Members};
use crate::model::entry::Salt;
use crate::model::{Digest, JobId, MeterId, Timestamp, jcs};

/// A longer proof is not read: some ten years of one meter's half hours fit.
pub const LONGEST_PROOF: u64 = 256 << 20;
const FORMAT: &str = "meterseal-proof-1";
/// The bytes of a claim.
const LONGEST_CLAIM: usize = 4 << 10;
/// The bytes of one record: in memory it takes some thirty times as much.
pub const LONGEST_RECORD: usize = 4 << 20;
/// C2SP: the numbers of JSON are exact up to here.
pub const WIDEST: u64 = 1 << 53;

/// What the id of a dataset is.
pub const JOB: &str = "a ULID of 26 characters";

/// What a proof says that it shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    Dataset { id: JobId },
    Row { dataset: JobId, row: u64 },
    Block { meter: MeterId, start: Timestamp },
    Period { meter: MeterId, from: Timestamp, to: Timestamp },
}

/// A proof, with its larger parts as they stand in the text.
pub struct Proof<'a> {
    pub claim: Claim,
    /// An element for each section of `log`, where anything is anchored; so it is with `consistency`.
    pub anchor: Option<Vec<Option<&'a RawValue>>>,
    pub consistency: Option<Vec<Option<&'a RawValue>>>,
    pub log: Vec<SectionText<'a>>,
    pub rotations: Vec<SectionText<'a>>,
    pub manifest: Option<&'a str>,
    pub row: Option<&'a str>,
    pub path: Option<Vec<Digest>>,
    pub readings: Option<Vec<ReadingText<'a>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofText<'a> {
    #[serde(borrow)]
    anchor: Option<Vec<Option<&'a RawValue>>>,
    #[serde(borrow)]
    claim: &'a RawValue,
    #[serde(borrow)]
    consistency: Option<Vec<Option<&'a RawValue>>>,
    #[serde(borrow)]
    format: Cow<'a, str>,
    #[serde(borrow)]
    log: Vec<SectionText<'a>>,
    #[serde(borrow)]
    manifest: Option<&'a RawValue>,
    path: Option<Vec<Digest>>,
    #[serde(borrow)]
    readings: Option<Vec<ReadingText<'a>>>,
    #[serde(borrow)]
    rotations: Vec<SectionText<'a>>,
    #[serde(borrow)]
    row: Option<&'a RawValue>,
}

/// What a proof says of one epoch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectionText<'a> {
    #[serde(borrow)]
    pub checkpoint: Cow<'a, str>,
    pub hashes: Vec<Digest>,
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    #[serde(borrow)]
    pub leaves: Vec<LeafText<'a>>,
    pub meters: BTreeMap<String, Digest>,
}

/// A leaf, opened or plain. What does not belong together is refused by [`LeafText::form`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafText<'a> {
    pub index: u64,
    #[serde(borrow)]
    entry: Option<EntryText<'a>>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    salt: Option<Digest>,
    time: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryText<'a> {
    pub commit: Digest,
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    pub subject: Option<Digest>,
    pub time: i64,
    pub v: u64,
}

/// One raw value of a block.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadingText<'a> {
    #[serde(borrow)]
    pub quantity: Cow<'a, str>,
    pub seq: u64,
    pub time: i64,
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    pub value: ReadingValue,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum ReadingValue {
    Double(f64),
    Whole(String),
}

/// The two forms of a leaf.
pub enum LeafForm<'l> {
    Opened { kind: &'l str, record: &'l str, salt: Salt, time: i64 },
    Plain(&'l EntryText<'l>),
}

impl<'a> Proof<'a> {
    pub fn read(bytes: &'a [u8], file: &str) -> Result<Self, Refused> {
        let refuse = |place: &str, why: String| Refused::new(file, place, why);
        strict::check_format(bytes, file, FORMAT)?;
        let text: ProofText =
            serde_json::from_slice(bytes).map_err(|error| refuse("", format!("not a proof: {error}")))?;
        for (name, raw, longest) in [
            ("claim", Some(text.claim), LONGEST_CLAIM),
            ("manifest", text.manifest, LONGEST_RECORD),
            ("row", text.row, LONGEST_RECORD),
        ] {
            let length = raw.map_or(0, |raw| raw.get().len());
            if length > longest {
                let why = format!("it has {length} bytes, and more than {longest} are not read");
                return Err(refuse(&format!("member `{name}`"), why));
            }
        }
        text.agrees_with(bytes, file)?;
        let claim = strict::value(text.claim.get().as_bytes()).and_then(|value| Claim::of(&value));
        let claim = claim.map_err(|why| refuse("member `claim`", why))?;
        let wanted = match claim {
            Claim::Row { .. } => [true, true, true],
            Claim::Dataset { .. } | Claim::Block { .. } | Claim::Period { .. } => [false; 3],
        };
        let found = [text.manifest.is_some(), text.path.is_some(), text.row.is_some()];
        for (name, (wanted, found)) in ["manifest", "path", "row"].into_iter().zip(wanted.into_iter().zip(found)) {
            if wanted != found {
                let has = if found { "has no business" } else { "is missing" };
                return Err(refuse(&format!("member `{name}`"), format!("it {has} beside this claim")));
            }
        }
        if text.readings.is_some() && !matches!(claim, Claim::Block { .. }) {
            return Err(refuse("member `readings`", "it has no business beside this claim".to_owned()));
        }
        Ok(Self {
            claim,
            anchor: text.anchor,
            consistency: text.consistency,
            log: text.log,
            rotations: text.rotations,
            manifest: text.manifest.map(RawValue::get),
            row: text.row.map(RawValue::get),
            path: text.path,
            readings: text.readings,
        })
    }
}

impl Claim {
    fn of(value: &Value) -> Result<Self, String> {
        let time = |members: &Members, name| members.time(name).map(Timestamp::from_millis);
        let meter = |members: &Members| members.parsed::<MeterId>("meter", "a meter's id");
        match Members::of(value)?.text("kind")? {
            "dataset" => {
                let members = Members::exactly(value, &["id", "kind"])?;
                Ok(Self::Dataset { id: members.parsed("id", JOB)? })
            }
            "row" => {
                let members = Members::exactly(value, &["dataset", "kind", "row"])?;
                let row = strict::decimal(members.text("row")?);
                let row = row.ok_or("member `row`: expected a decimal number as a string")?;
                Ok(Self::Row { dataset: members.parsed("dataset", JOB)?, row })
            }
            "block" => {
                let members = Members::exactly(value, &["kind", "meter", "start"])?;
                Ok(Self::Block { meter: meter(&members)?, start: time(&members, "start")? })
            }
            "period" => {
                let members = Members::exactly(value, &["from", "kind", "meter", "to"])?;
                let (from, to) = (time(&members, "from")?, time(&members, "to")?);
                if from >= to {
                    return Err("the period has no length".to_owned());
                }
                Ok(Self::Period { meter: meter(&members)?, from, to })
            }
            other => Err(format!("member `kind`: found `{}`, which is not known", other.escape_debug())),
        }
    }
}

impl ProofText<'_> {
    /// Writes the proof again, part by part, and compares.
    fn agrees_with(&self, bytes: &[u8], file: &str) -> Result<(), Refused> {
        let mut written = Written { bytes, at: 0, file };
        written.put("", b"{\"anchor\":")?;
        written.put_each("anchor", self.anchor.as_deref())?;
        written.put("", b",\"claim\":")?;
        written.put("member `claim`", self.claim.get().as_bytes())?;
        written.put("", b",\"consistency\":")?;
        written.put_each("consistency", self.consistency.as_deref())?;
        written.put("", b",\"format\":\"")?;
        written.put("member `format`", self.format.as_bytes())?;
        written.put("", b"\",\"log\":[")?;
        for (at, section) in self.log.iter().enumerate() {
            section.write(&mut written, "log", at)?;
        }
        written.put("", b"]")?;
        if let Some(manifest) = self.manifest {
            written.put("", b",\"manifest\":")?;
            written.put("member `manifest`", manifest.get().as_bytes())?;
        }
        if let Some(path) = &self.path {
            written.put("", b",\"path\":")?;
            written.put("member `path`", &digests(path))?;
        }
        if let Some(readings) = &self.readings {
            written.put("", b",\"readings\":[")?;
            for (at, reading) in readings.iter().enumerate() {
                let mut text = comma(at);
                reading.write(&mut text);
                written.put(&format!("reading {at}"), &text)?;
            }
            written.put("", b"]")?;
        }
        written.put("", b",\"rotations\":[")?;
        for (at, section) in self.rotations.iter().enumerate() {
            section.write(&mut written, "rotation", at)?;
        }
        written.put("", b"]")?;
        if let Some(row) = self.row {
            written.put("", b",\"row\":")?;
            written.put("member `row`", row.get().as_bytes())?;
        }
        written.put("", b"}")?;
        written.end()
    }
}

/// What is written again, compared as it comes.
struct Written<'t> {
    bytes: &'t [u8],
    at: usize,
    file: &'t str,
}

impl Written<'_> {
    fn put(&mut self, place: &str, part: &[u8]) -> Result<(), Refused> {
        let rest = &self.bytes[self.at..];
        let found = &rest[..rest.len().min(part.len())];
        strict::same(part, found, self.at).map_err(|why| Refused::new(self.file, place, why))?;
        self.at += part.len();
        Ok(())
    }

    /// A member that has an element for each section, or null. Their own bytes are checked where they are looked at.
    fn put_each(&mut self, name: &str, elements: Option<&[Option<&RawValue>]>) -> Result<(), Refused> {
        let place = format!("member `{name}`");
        let Some(elements) = elements else { return self.put(&place, b"null") };
        self.put(&place, b"[")?;
        for (at, element) in elements.iter().enumerate() {
            self.put(&place, &comma(at))?;
            self.put(&format!("{name} {at}"), element.map_or("null", RawValue::get).as_bytes())?;
        }
        self.put(&place, b"]")
    }

    fn end(&self) -> Result<(), Refused> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            more => Err(Refused::new(self.file, "", format!("{more} bytes stand after the proof"))),
        }
    }
}

impl SectionText<'_> {
    fn write(&self, written: &mut Written, list: &str, at: usize) -> Result<(), Refused> {
        let place = format!("{list} section {at}");
        let mut text = comma(at);
        text.extend_from_slice(b"{\"checkpoint\":");
        jcs::write_str(&self.checkpoint, &mut text);
        text.extend_from_slice(b",\"hashes\":");
        text.extend_from_slice(&digests(&self.hashes));
        text.extend_from_slice(b",\"key\":");
        jcs::write_str(&self.key, &mut text);
        text.extend_from_slice(b",\"leaves\":[");
        written.put(&place, &text)?;
        for (leaf, at) in self.leaves.iter().zip(0..) {
            let mut text = comma(at);
            leaf.write(&mut text);
            written.put(&format!("{place}, leaf {}", leaf.index), &text)?;
        }
        let mut text = b"],\"meters\":{".to_vec();
        for (at, (meter, salt)) in self.meters.iter().enumerate() {
            text.extend_from_slice(&comma(at));
            jcs::write_str(meter, &mut text);
            text.extend_from_slice(format!(":\"{salt}\"").as_bytes());
        }
        text.extend_from_slice(b"}}");
        written.put(&place, &text)
    }
}

impl LeafText<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        let mut separator: &[u8] = b"{";
        let mut member = |text: &mut Vec<u8>, name: &str| {
            text.extend_from_slice(separator);
            separator = b",";
            text.extend_from_slice(format!("\"{name}\":").as_bytes());
        };
        if let Some(entry) = &self.entry {
            member(text, "entry");
            entry.write(text);
        }
        member(text, "index");
        write_whole(i128::from(self.index), text);
        if let Some(kind) = &self.kind {
            member(text, "kind");
            jcs::write_str(kind, text);
        }
        if let Some(record) = self.record {
            member(text, "record");
            text.extend_from_slice(record.get().as_bytes());
        }
        if let Some(salt) = &self.salt {
            member(text, "salt");
            text.extend_from_slice(format!("\"{salt}\"").as_bytes());
        }
        if let Some(time) = self.time {
            member(text, "time");
            write_whole(i128::from(time), text);
        }
        text.push(b'}');
    }

    /// Opened or plain; otherwise why it is neither.
    pub fn form(&self) -> Result<LeafForm<'_>, String> {
        match (&self.entry, &self.kind, self.record, self.salt, self.time) {
            (Some(entry), None, None, None, None) => Ok(LeafForm::Plain(entry)),
            (None, Some(kind), Some(record), Some(salt), Some(time)) => {
                let (record, length) = (record.get(), record.get().len());
                if length > LONGEST_RECORD {
                    return Err(format!("its record has {length} bytes, and more than {LONGEST_RECORD} are not read"));
                }
                Ok(LeafForm::Opened { kind, record, salt: Salt(*salt.as_bytes()), time })
            }
            _ => Err("a leaf has index and entry, or index, kind, record, salt and time".to_owned()),
        }
    }
}

impl EntryText<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(format!("{{\"commit\":\"{}\",\"kind\":", self.commit).as_bytes());
        jcs::write_str(&self.kind, text);
        let subject = self.subject.map_or_else(|| "null".to_owned(), |subject| format!("\"{subject}\""));
        text.extend_from_slice(format!(",\"subject\":{subject},\"time\":").as_bytes());
        write_whole(i128::from(self.time), text);
        text.extend_from_slice(b",\"v\":");
        write_whole(i128::from(self.v), text);
        text.push(b'}');
    }
}

impl ReadingText<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(b"{\"quantity\":");
        jcs::write_str(&self.quantity, text);
        text.extend_from_slice(b",\"seq\":");
        write_whole(i128::from(self.seq), text);
        text.extend_from_slice(b",\"time\":");
        write_whole(i128::from(self.time), text);
        text.extend_from_slice(b",\"type\":");
        jcs::write_str(&self.kind, text);
        text.extend_from_slice(b",\"value\":");
        match &self.value {
            ReadingValue::Double(double) => jcs::write_f64(*double, text),
            ReadingValue::Whole(whole) => jcs::write_str(whole, text),
        }
        text.push(b'}');
    }
}

/// A whole number as JSON may hold it; one beyond 2^53 is written as nothing, so that it never agrees with what was read.
fn write_whole(number: i128, text: &mut Vec<u8>) {
    if number.unsigned_abs() <= u128::from(WIDEST) {
        text.extend_from_slice(number.to_string().as_bytes());
    }
}

fn comma(at: usize) -> Vec<u8> {
    if at == 0 { Vec::new() } else { b",".to_vec() }
}

fn digests(list: &[Digest]) -> Vec<u8> {
    let mut text = b"[".to_vec();
    for (at, digest) in list.iter().enumerate() {
        text.extend_from_slice(&comma(at));
        text.extend_from_slice(format!("\"{digest}\"").as_bytes());
    }
    text.push(b']');
    text
}
