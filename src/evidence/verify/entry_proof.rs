//! A `.tlog-proof` (C2SP tlog-proof): one entry, in the words of others.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::block;
use super::keys;
use super::proof::{LONGEST_RECORD, WIDEST};
use super::record::{Origin, Record, read_note};
use super::report::{Lack, Refused, Report};
use super::strict::{self, Members};
use super::{SHOWS_CHECKPOINT, SHOWS_ENTRY, Trusted};
use crate::model::entry::{self, Entry, EntryKind, Salt};
use crate::model::{BlockFlag, Digest, Timestamp, merkle};

/// A record in base64, and little more.
const LONGEST: u64 = 2 * LONGEST_RECORD as u64;
/// A tree of 2^64 leaves is no deeper.
const DEEPEST: usize = 64;

const SHOWS_RECORD: &str = "what the entry commits to, unchanged";

/// Verifies a proof of one entry.
pub fn verify(path: &Path, trusted: &Trusted, report: &mut Report) -> Result<(), Refused> {
    report.what = "entry";
    let file = path.display().to_string();
    let bytes = strict::read_file(path, &file, LONGEST)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Refused::new(&file, "", "it is not UTF-8"))?;
    let Parts { extra, index, hashes, note } =
        take_apart(text).map_err(|(line, why)| Refused::new(&file, format!("line {line}"), why))?;
    let opened = open(&extra).map_err(|why| Refused::new(&file, "line 2", why))?;
    let refuse = |why: String| Refused::new(&file, "the checkpoint", why);
    let signed = read_note(note).map_err(refuse)?;
    let checkpoint = &signed.checkpoint;
    let origin = Origin::of(&checkpoint.origin);
    let origin = origin.ok_or_else(|| refuse(format!("`{}` is no origin of a log", checkpoint.origin)))?;
    if (index == 0) != (opened.entry.kind == EntryKind::Succession) {
        return Err(Refused::new(&file, "line 3", "leaf 0 is a succession, and no other is"));
    }
    if opened.entry.kind == EntryKind::Key && index + 1 != checkpoint.size {
        return Err(Refused::new(&file, "line 3", "a key is the last entry of its epoch"));
    }
    let root = merkle::root_by_inclusion(opened.entry.leaf_hash(), index, checkpoint.size, &hashes);
    let root = root.map_err(|error| Refused::new(&file, "its hashes", error.to_string()))?;
    if root != checkpoint.root {
        let found = format!("the root {root} by entry and hashes");
        return Err(Refused::other(&file, "its hashes", found, format!("{}, as the checkpoint says", checkpoint.root)));
    }
    let mut told = vec![format!("entry {index}, of kind {}, written {}", opened.entry.kind, opened.entry.time)];
    if let Record::Block { block, prev } = &opened.record {
        block::check_prev(index, *prev)
            .and_then(|()| block::check_energy(block))
            .map_err(|why| Refused::new(&file, "line 2", why))?;
        told.push(format!(
            "meter {}, block from {} to {}, revision {}",
            block.meter,
            block.span.start(),
            block.span.end(),
            block.revision
        ));
        told.push(block::energy(block));
        if block.flags.has(BlockFlag::Simulated) {
            report.lacks(Lack::Simulated);
        }
    } else {
        if let Some((_, prev)) = opened.record.of_meter() {
            block::check_prev(index, prev).map_err(|why| Refused::new(&file, "line 2", why))?;
        }
        told.push(opened.text);
    }
    report.fact("index", index);
    report.fact("kind", opened.entry.kind.as_str());
    report.holds("record", told, SHOWS_RECORD);
    report.holds("log", vec!["entry and hashes lead to the root of the checkpoint".to_owned()], SHOWS_ENTRY);
    report.fact("origin", checkpoint.origin.as_str());
    report.fact("size", checkpoint.size);
    let key = keys::of_lone(&signed, trusted, refuse)?;
    match (&opened.record, signed.signatures.len()) {
        (Record::Key { new_key }, 2) => {
            // The entry itself says whose the second one is.
            signed.verify_by(new_key).map_err(|error| refuse(error.to_string()))?;
        }
        (Record::Key { .. }, _) => {
            return Err(refuse("found one signature, expected the new key's behind it".to_owned()));
        }
        (_, 2) if index + 1 == checkpoint.size => {
            return Err(refuse("found two signatures, and the last entry is no key".to_owned()));
        }
        _ => {}
    }
    let told = vec![format!("{} entries of {}, root {}", checkpoint.size, checkpoint.origin, checkpoint.root)];
    match &key {
        Some(key) => {
            report.holds("checkpoint", told, SHOWS_CHECKPOINT);
            report.holds("key", vec![format!("signed by {key}, which was given")], keys::SHOWS_KEY);
        }
        None => {
            report.open("checkpoint", told, SHOWS_CHECKPOINT);
            keys::unchecked(&signed, report);
        }
    }
    let shown = keys::Shown { signed: &signed, key: key.as_ref(), file: &file, place: "the checkpoint".to_owned() };
    keys::compare(&[shown], trusted, report)?;
    if origin.site.as_str() == super::SIMULATED_SITE {
        report.lacks(Lack::Simulated);
    }
    super::not_anchored(report);
    Ok(())
}

struct Parts<'t> {
    extra: Vec<u8>,
    index: u64,
    hashes: Vec<Digest>,
    note: &'t str,
}

/// The lines of the proof; otherwise which of them is not as it must be, and why.
fn take_apart(text: &str) -> Result<Parts<'_>, (usize, String)> {
    let expect = |line: usize, what: &str| (line, format!("expected {what}"));
    let (head, note) =
        text.split_once("\n\n").ok_or_else(|| expect(5, "an empty line, and the checkpoint behind it"))?;
    let mut lines = head.split('\n');
    if lines.next() != Some("c2sp.org/tlog-proof@v1") {
        return Err(expect(1, "`c2sp.org/tlog-proof@v1`"));
    }
    let extra = lines.next().and_then(|line| STANDARD.decode(line.strip_prefix("extra ")?).ok());
    let extra = extra.ok_or_else(|| expect(2, "`extra` and base64"))?;
    let index =
        lines.next().and_then(|line| strict::decimal(line.strip_prefix("index ")?).filter(|index| *index <= WIDEST));
    let index = index.ok_or_else(|| expect(3, "`index` and a decimal number"))?;
    let mut hashes = Vec::new();
    for (line, at) in lines.zip(4..) {
        let hash = STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok());
        hashes.push(Digest::from_bytes(hash.ok_or_else(|| expect(at, "a hash in base64"))?));
        if hashes.len() > DEEPEST {
            return Err((at, "found more hashes than any tree asks for".to_owned()));
        }
    }
    Ok(Parts { extra, index, hashes, note })
}

struct Opened {
    entry: Entry,
    record: Record,
    text: String,
}

/// The entry that the extra data give.
fn open(extra: &[u8]) -> Result<Opened, String> {
    let value = strict::value(extra)?;
    let members = Members::exactly(&value, &["kind", "meter_salt", "record", "salt", "time"])?;
    let kind = members.text("kind")?;
    let kind = EntryKind::named(kind).ok_or_else(|| format!("the kind `{}` is not known", kind.escape_debug()))?;
    let salt = Salt(*members.digest("salt")?.as_bytes());
    let time = Timestamp::from_millis(members.time("time")?);
    let meter_salt =
        members.or_null("meter_salt", "64 hex digits or null", |value| value.as_str()?.parse::<Digest>().ok())?;
    let record = written_again(members.get("record")?)?;
    let text = String::from_utf8(record).map_err(|_| "the record is not UTF-8".to_owned())?;
    let record = Record::read(kind, &text)?;
    let subject = match (record.of_meter(), meter_salt) {
        (Some((meter, _)), Some(salt)) => Some(entry::subject(&Salt(*salt.as_bytes()), meter)),
        (None, None) => None,
        (Some(_), None) => return Err("member `meter_salt`: found null, expected the salt of its meter".to_owned()),
        (None, Some(_)) => return Err("member `meter_salt`: expected null, since it is of no meter".to_owned()),
    };
    let commit = entry::commit(&salt, text.as_bytes());
    Ok(Opened { entry: Entry { kind, time, subject, commit }, record, text })
}

fn written_again(record: &Value) -> Result<Vec<u8>, String> {
    crate::model::jcs::to_vec(record).map_err(|error| error.to_string())
}
