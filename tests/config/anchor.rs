//! `[anchor]`: what it says, and every fault of it.

use std::time::Duration;

use alloy_primitives::address;
use meterseal::config::{self, Files};
use meterseal::evidence::anchor::Part;

use crate::{NOW, check, faults, folder};

/// The first key of every test node, in a file: FILE.
const GOOD: &str = r#"[site]
id = "plant-7"
timezone = "Asia/Kuala_Lumpur"
[anchor]
chain_id = 137
rpc = ["https://polygon.example/v2/k3y", "http://192.0.2.9:8545"]
contract = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
key = { file = "FILE" }
every = "6h"
max_fee_gwei = 300
daily_budget = "0.5"
"#;
const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// The good config with its key in a file, and something in the stead of something else.
fn with(text: &str, other: &str) -> (tempfile::TempDir, String) {
    assert!(GOOD.contains(text), "{text}");
    let folder = folder(&[("key", KEY)]);
    let file = folder.path().join("key").display().to_string();
    (folder, GOOD.replacen(text, other, 1).replace("FILE", &file))
}

fn part(text: &str) -> Part {
    let checked = check(text);
    assert_eq!(checked.faults, [], "{text}");
    checked.config.unwrap().anchor
}

#[test]
fn a_good_part_says_what_it_says() {
    let (_folder, text) = with("[anchor]", "[anchor]");
    let Part::On(config) = part(&text) else { panic!("it is off") };
    assert_eq!(config.chain_id, 137);
    assert_eq!(config.rpc, ["https://polygon.example/v2/k3y", "http://192.0.2.9:8545"]);
    assert_eq!(config.contract, Some(address!("5FbDB2315678afecb367f032d93F642f64180aa3")));
    assert_eq!(config.key.address(), address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"));
    assert_eq!(config.every, Duration::from_secs(6 * 3_600));
    assert_eq!((config.max_fee, config.daily_budget), (300_000_000_000, 500_000_000_000_000_000));
    let shown = format!("{config:?}");
    assert!(!shown.contains("k3y") && !shown.contains(&KEY[..16]), "{shown}");
    assert_eq!(check("[site]\nid = \"a\"\ntimezone = \"UTC\"\n").config.unwrap().anchor, Part::Absent);
}

#[test]
fn what_is_left_out_has_its_default() {
    let (_folder, text) = with("[anchor]", "[anchor]");
    let cut: Vec<_> = ["contract", "every", "max_fee", "daily"].into_iter().collect();
    let bare: String = text
        .lines()
        .filter(|line| !cut.iter().any(|key| line.starts_with(key)))
        .map(|line| format!("{line}\n"))
        .collect();
    let (Part::On(bare), Part::On(full)) = (part(&bare), part(&text)) else { panic!("it is off") };
    assert_eq!(bare.contract, None);
    assert_eq!(meterseal::evidence::anchor::Config { contract: full.contract, ..(*bare).clone() }, *full);
}

#[test]
fn every_fault_says_where_and_how_to_mend_it() {
    let cases = [
        (
            "chain_id = 137\n",
            "",
            "m.toml:4: anchor.chain_id: is missing; say which chain: chain_id = 137 (Polygon) or 80002 (its test net, Amoy)",
        ),
        (
            "chain_id = 137",
            "chain_id = 0",
            "m.toml:5: anchor.chain_id: 0 is no chain id; 137 is Polygon, 80002 its test net Amoy",
        ),
        (
            "rpc = [\"https://polygon.example/v2/k3y\", \"http://192.0.2.9:8545\"]\n",
            "",
            "m.toml:4: anchor.rpc: is missing; name nodes of the chain, better two: rpc = [\"https://…\", \"https://…\"]",
        ),
        (
            "rpc = [\"https://polygon.example/v2/k3y\", \"http://192.0.2.9:8545\"]",
            "rpc = []",
            "m.toml:6: anchor.rpc: names 0 nodes, and 1 to 8 are asked",
        ),
        (
            "http://192.0.2.9:8545",
            "ws://192.0.2.9:8545",
            "m.toml:6: anchor.rpc[1]: the address of an RPC begins with neither https:// nor http://; write it as \"https://host/path\"",
        ),
        (
            "http://192.0.2.9:8545",
            "https://polygon.example/v2/k3y",
            "m.toml:6: anchor.rpc[1]: names the same node again; take it out, or name another",
        ),
        (
            "93F642f",
            "93f642f",
            "m.toml:7: anchor.contract: 0x5FbDB2315678afecb367f032d93f642f64180aa3 is mistyped: its checksum (upper and lower case, EIP-55) does not fit, as 0x5FbDB2315678afecb367f032d93F642f64180aa3 would; copy it again from where it comes from; give it as `meterseal anchor deploy` prints it",
        ),
        (
            "0x5FbDB2315678afecb367f032d93F642f64180aa3",
            "0x0000000000000000000000000000000000000000",
            "m.toml:7: anchor.contract: nothing is ever at the address 0; leave it out for call data",
        ),
        (
            "key = { file = \"FILE\" }\n",
            "",
            "m.toml:4: anchor.key: is missing; name the secret key of the account that pays: key = { credential = \"anchor-key\" }",
        ),
        (
            "key = { file = \"FILE\" }",
            "key = \"c0ffee\"",
            "m.toml:8: anchor.key: not a key: it is 64 hex digits, with 0x before them or not, or a Web3 keystore (JSON)",
        ),
        ("every = \"6h\"", "every = \"9min\"", "m.toml:9: anchor.every: 9min is not within 10min to 7d"),
        ("max_fee_gwei = 300", "max_fee_gwei = 0", "m.toml:10: anchor.max_fee_gwei: 0 is not within 31 to 1000000"),
        (
            "max_fee_gwei = 300",
            "max_fee_gwei = 30",
            "m.toml:10: anchor.max_fee_gwei: 30 never lets an anchor through: Polygon takes no tip below 30 gwei; give at least 31, better 300: only what a block takes is paid",
        ),
        (
            "key = { file = \"FILE\" }",
            "key = 1",
            "m.toml:8: anchor.key: is a whole number, not a reference to a secret; write { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }",
        ),
        (
            "daily_budget = \"0.5\"",
            "daily_budget = \"0,5\"",
            "m.toml:11: anchor.daily_budget: \"0,5\" is no amount; write it in the chain's coin, as daily_budget = \"0.5\"",
        ),
        (
            "daily_budget = \"0.5\"",
            "daily_budget = \"0\"",
            "m.toml:11: anchor.daily_budget: it must be above 0; daily_budget = \"0.5\" is plenty; to stop anchoring take [anchor] out",
        ),
        ("every = \"6h\"", "evry = \"6h\"", "m.toml:9: anchor.evry: no such key; did you mean `every`?"),
    ];
    for (text, other, fault) in cases {
        let (_folder, text) = with(text, other);
        assert_eq!(faults(&text), [fault]);
    }
}

#[test]
fn simulated_data_go_to_a_node_of_ones_own() {
    let (_folder, text) = with("\"plant-7\"", "\"demo\"");
    let outside = faults(&text);
    assert_eq!(outside.len(), 2, "{outside:?}");
    assert!(outside[0].starts_with("m.toml:6: anchor.rpc[0]: is a node outside of this machine"), "{outside:?}");
    for host in ["127.0.0.1:8545", "localhost:8545", "[::1]:8545"] {
        let text = text.replace("https://polygon.example/v2/k3y", &format!("http://{host}"));
        assert_eq!(faults(&text.replace(", \"http://192.0.2.9:8545\"", "")), [] as [String; 0], "{host}");
    }
}

#[test]
fn a_key_that_is_not_there_turns_anchoring_off_and_the_rest_runs() {
    let (_folder, text) = with("key = { file = \"FILE\" }", "key = { env = \"METERSEAL_NOT_SET\" }");
    let checked = check(&text);
    let config = checked.config.unwrap();
    let why = "anchoring is off: the environment has no METERSEAL_NOT_SET: set it for the service, or refer to a file";
    assert_eq!((config.anchor, config.off), (Part::Off(why.into()), vec![why.to_owned()]));
}

#[test]
fn a_key_or_an_address_that_went_bad_in_its_file_turns_anchoring_off_and_the_rest_runs() {
    let folder =
        folder(&[("cut", "ac0974be"), ("keystore", "{\"version\": 3, \"cry"), ("address", "ws://polygon.example")]);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let key = "key = { file = \"FILE\" }";
    for (text, name, what, why) in [
        (key, "cut", "key", "not a key: it is 64 hex digits, with 0x before them or not, or a Web3 keystore (JSON)"),
        (key, "keystore", "key", "not a keystore: "),
        ("\"http://192.0.2.9:8545\"", "address", "rpc[1]", "the address of an RPC begins with neither https:// nor"),
    ] {
        let reference = format!("{{ file = \"{}\" }}", file(name));
        let other = if text == key { format!("key = {reference}") } else { reference };
        let (_folder, text) = with(text, &other);
        let checked = check(&text);
        assert_eq!(checked.faults, []);
        let warned = checked.warnings.iter().find(|warned| warned.key == format!("anchor.{what}"));
        let Some(warned) = warned else { panic!("{:?}", checked.warnings) };
        let told = format!("anchoring is off: {}: {why}", file(name));
        assert!(warned.why.starts_with(&told), "{warned}");
        let config = checked.config.unwrap();
        assert_eq!((config.anchor, config.off), (Part::Off(warned.why.clone()), vec![warned.why.clone()]));
    }
}

#[test]
fn a_secret_in_the_file_is_told_and_not_kept() {
    let (_folder, text) = with("key = { file = \"FILE\" }", &format!("key = \"{KEY}\""));
    let text = text.replace("http://192.0.2.9", "http://me:pw@192.0.2.9");
    let checked = check(&text);
    assert_eq!((checked.faults.len(), checked.warnings.len()), (0, 3), "{:?}", checked.warnings);
    let kept = checked.kept.to_kept();
    assert!(!kept.contains(KEY) && !kept.contains("pw@") && kept.contains("k3y"), "{kept}");
    let again = config::check(&Files::from_kept(&kept).unwrap(), NOW);
    assert!(matches!(again.config.unwrap().anchor, Part::Off(_)));
}

#[test]
fn what_is_of_no_use_or_can_be_read_on_the_line_is_told() {
    let (_folder, text) = with("every", "password = { env = \"PATH\" }\nevery");
    let near = text.replace("http://192.0.2.9", "http://192.168.0.9");
    let told = |text: &str| check(text).warnings.into_iter().map(|told| (told.key, told.why)).collect::<Vec<_>>();
    let password = ("anchor.password".to_owned(), "the key is no keystore, and needs no password".to_owned());
    assert_eq!(told(&near), std::slice::from_ref(&password));
    let why = "asks over plain http: whoever is on the line can read it and change the answers";
    assert_eq!(told(&text), [("anchor.rpc[1]".to_owned(), why.to_owned()), password]);
}
