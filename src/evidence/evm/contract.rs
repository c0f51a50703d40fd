//! The code that a deployment of `contracts/EvidenceAnchor.sol` sends.

use alloy_primitives::hex;

/// Taken from the compiled artifact while this is compiled, so that there is no second copy to differ.
pub const CREATION_CODE: &[u8] = &match hex::const_decode_to_array::<{ BYTECODE.len() / 2 - 1 }>(BYTECODE) {
    Ok(code) => code,
    Err(_) => panic!("the bytecode of the artifact is not hex"),
};

/// What it leaves at its address.
pub const DEPLOYED_CODE: &[u8] = &match hex::const_decode_to_array::<{ DEPLOYED.len() / 2 - 1 }>(DEPLOYED) {
    Ok(code) => code,
    Err(_) => panic!("the deployed bytecode of the artifact is not hex"),
};

const ARTIFACT: &[u8] = include_bytes!("../../../contracts/EvidenceAnchor.json");
/// With its prefix `0x`.
const BYTECODE: &[u8] = text_after(ARTIFACT, b"\"bytecode\": \"");

const DEPLOYED: &[u8] = text_after(ARTIFACT, b"\"deployedBytecode\": \"");

/// What stands between the first `key` and the next quotation mark.
const fn text_after<'a>(text: &'a [u8], key: &[u8]) -> &'a [u8] {
    let mut start = 0;
    while !begins_with(text.split_at(start).1, key) {
        start += 1;
    }
    start += key.len();
    let mut end = start;
    while text[end] != b'"' {
        end += 1;
    }
    text.split_at(end).0.split_at(start).1
}

const fn begins_with(text: &[u8], beginning: &[u8]) -> bool {
    assert!(text.len() >= beginning.len(), "the artifact has no bytecode");
    let mut at = 0;
    while at < beginning.len() {
        if text[at] != beginning[at] {
            return false;
        }
        at += 1;
    }
    true
}
