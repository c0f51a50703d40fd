//! The compiled contract is that of its source, to the bit, and the program sends it.

use std::fs;
use std::path::Path;
use std::process::Command;

use alloy_primitives::hex;
use meterseal::evidence::evm::CREATION_CODE;

#[test]
fn the_artifact_is_what_its_source_compiles_to() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(root.join(".peers/node_modules/solc").exists(), "solc is not installed: run tests/setup");
    let built = Command::new("node").arg(root.join("contracts/compile.mjs")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let checked_in = fs::read_to_string(root.join("contracts/EvidenceAnchor.json")).unwrap();
    assert_eq!(String::from_utf8_lossy(&built.stdout), checked_in, "node contracts/compile.mjs makes it anew");
    let artifact: serde_json::Value = serde_json::from_str(&checked_in).unwrap();
    assert_eq!(artifact["bytecode"], hex::encode_prefixed(CREATION_CODE));
}
