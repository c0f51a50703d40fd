//! How a proof is written: JCS whose members stand in their order, so that it can be written as it is found.

use alloy_primitives::hex;
use serde_json::{Value, json};

use super::anchor::SectionAnchor;
use crate::model::entry::{Entry, Salt};
use crate::model::note::{SignedCheckpoint, VerifierKey};
use crate::model::proof::Claim;
use crate::model::{ChainEvidence, Digest, MeterId, jcs};
use crate::store::Opening;

/// All before the first section. `anchors` are those of the sections.
pub fn opening(claim: &Claim, anchors: &[Option<&SectionAnchor>]) -> Vec<u8> {
    let or_null = |list: Vec<Value>| if list.iter().all(Value::is_null) { Value::Null } else { list.into() };
    let of_each = |value: fn(&SectionAnchor) -> Value| {
        or_null(anchors.iter().map(|anchor| anchor.map_or(Value::Null, value)).collect())
    };
    let mut text = b"{\"anchor\":".to_vec();
    push_json(&of_each(anchor_value), &mut text);
    text.extend_from_slice(b",\"claim\":");
    push_json(&claim_value(claim), &mut text);
    text.extend_from_slice(b",\"consistency\":");
    push_json(&of_each(before_value), &mut text);
    text.extend_from_slice(b",\"format\":\"meterseal-proof-1\",\"log\":[");
    text
}

fn anchor_value(anchor: &SectionAnchor) -> Value {
    let ChainEvidence { header, index, receipt, transaction } = &anchor.evidence;
    let nodes = |list: &[Vec<u8>]| list.iter().map(hex::encode).collect::<Vec<_>>();
    json!({
        "checkpoint": anchor.signed.note(), "hashes": anchor.hashes, "header": hex::encode(header), "index": index,
        "receipt": nodes(receipt), "transaction": nodes(transaction),
    })
}

fn before_value(anchor: &SectionAnchor) -> Value {
    let before = anchor.before.as_ref();
    before.map_or(Value::Null, |(signed, hashes)| json!({"checkpoint": signed.note(), "hashes": hashes}))
}

fn claim_value(claim: &Claim) -> Value {
    match claim {
        Claim::Dataset { id } => json!({"id": id, "kind": "dataset"}),
        // A row's number may be beyond what a JSON number holds.
        Claim::Row { dataset, row } => json!({"dataset": dataset, "kind": "row", "row": row.to_string()}),
        Claim::Block { meter, start } => json!({"kind": "block", "meter": meter, "start": start.as_millis()}),
        Claim::Period { meter, from, to } => {
            json!({"from": from.as_millis(), "kind": "period", "meter": meter, "to": to.as_millis()})
        }
    }
}

/// A section up to its hashes.
pub fn section(checkpoint: &SignedCheckpoint) -> Vec<u8> {
    let mut text = b"{\"checkpoint\":".to_vec();
    jcs::write_str(&checkpoint.note(), &mut text);
    text.extend_from_slice(b",\"hashes\":[");
    text
}

/// What stands between a section's hashes and its leaves.
pub fn leaves(key: &VerifierKey) -> Vec<u8> {
    let mut text = b"],\"key\":".to_vec();
    jcs::write_str(&key.to_string(), &mut text);
    text.extend_from_slice(b",\"leaves\":[");
    text
}

/// The end of a section: of each meter whose entries are opened, the salt.
pub fn meters(meter: Option<&(MeterId, Salt)>) -> Vec<u8> {
    let meters = meter.map(|(meter, salt)| format!("\"{meter}\":\"{}\"", salt.to_hex())).unwrap_or_default();
    format!("],\"meters\":{{{meters}}}}}").into_bytes()
}

/// A leaf whose record is shown.
pub fn push_opened(leaf: &Opening, out: &mut Vec<u8>) {
    let (index, kind, salt, time) = (leaf.index, leaf.kind, leaf.salt.to_hex(), leaf.time.as_millis());
    out.extend_from_slice(format!("{{\"index\":{index},\"kind\":\"{kind}\",\"record\":").as_bytes());
    out.extend_from_slice(&leaf.record);
    out.extend_from_slice(format!(",\"salt\":\"{salt}\",\"time\":{time}}}").as_bytes());
}

/// A leaf whose record is not shown.
pub fn push_plain(index: u64, entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"entry\":");
    out.extend_from_slice(&entry.to_bytes());
    out.extend_from_slice(format!(",\"index\":{index}}}").as_bytes());
}

pub fn push_hash(hash: &Digest, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\"{hash}\"").as_bytes());
}

/// A list of hashes as a member's value.
pub fn push_hashes(hashes: &[Digest], out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, hash) in hashes.iter().enumerate() {
        push_comma(at == 0, out);
        push_hash(hash, out);
    }
    out.push(b']');
}

pub fn push_comma(is_first: bool, out: &mut Vec<u8>) {
    if !is_first {
        out.push(b',');
    }
}

/// `value` holds no whole number that JCS could not write.
fn push_json(value: &Value, out: &mut Vec<u8>) {
    if jcs::write(value, out).is_err() {
        debug_assert!(false, "a number of a claim is too wide");
    }
}
