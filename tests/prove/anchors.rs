//! Proofs with anchors, from a chain made by hand.

use std::process::Command;

use alloy_primitives::{Address, B256, hex, keccak256};
use meterseal::evidence::prove::Prover;
use meterseal::evidence::verify::{Cause, Lack, OnChain, Report, Trusted, Verdict, Vouched};
use meterseal::model::entry::Reason;
use meterseal::model::note::SignedCheckpoint;
use meterseal::model::proof::{AnchoredBy, Claim, ProofForm};
use meterseal::model::{AnchorState, AnchorStatus, ChainEvidence};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::chain::{Chain, Mined};
use crate::plant::{DAY, HALF, HOUR, MINUTE, Plant, at, by_python_with, changed, plant, verified_by};
use crate::{leaves, parsed};

const CONTRACT: Address = Address::repeat_byte(0xc0);

/// What an auditor knows of a gateway whose anchors are in these blocks.
async fn known(plant: &Plant, chain: &Chain, blocks: &[&Mined]) -> Trusted {
    Trusted {
        key: Some(plant.key().await.parse().unwrap()),
        blocks: blocks.iter().map(|mined| vouched(chain, mined)).collect(),
        kept_in: "blocks.txt".to_owned(),
        accounts: vec![chain.account()],
        contracts: chain.contract.into_iter().collect(),
        chain: Some(chain.id),
        ..Trusted::default()
    }
}

fn vouched(chain: &Chain, mined: &Mined) -> Vouched {
    Vouched { chain_id: chain.id, height: mined.inclusion.height, hash: mined.inclusion.hash }
}

impl Plant {
    fn looked_at(&self, proof: &[u8], trusted: &Trusted) -> Report {
        verified_by(&self.written("it.proof.json", proof), trusted)
    }

    /// As [`Self::looked_at`], and the other verifier comes to the same verdict.
    #[track_caller]
    fn looked_at_by_both(&self, proof: &[u8], trusted: &Trusted) -> Report {
        let report = self.looked_at(proof, trusted);
        let blocks = trusted.blocks.iter().map(|at| format!("block {} {} {}\n", at.chain_id, at.height, at.hash));
        let kept: String = trusted.kept.iter().map(|kept| kept.note() + "\n").chain(blocks).collect();
        let mut options = Vec::new();
        let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
        trusted.key.iter().for_each(|key| option("--key", key.to_string()));
        trusted.accounts.iter().for_each(|account| option("--account", account.to_string()));
        trusted.contracts.iter().for_each(|contract| option("--contract", contract.to_string()));
        trusted.chain.iter().for_each(|chain| option("--chain", chain.to_string()));
        if !kept.is_empty() {
            option("--trust", self.written("kept.txt", kept.as_bytes()).display().to_string());
        }
        let (code, words) = by_python_with(&self.written("it.proof.json", proof), &options);
        assert_eq!(code, i32::from(report.verdict().exit_code()), "{words}\n{:?} {:?}", report.refused, report.lacks);
        report
    }

    #[track_caller]
    fn is_valid(&self, proof: &[u8], trusted: &Trusted) {
        let report = self.looked_at_by_both(proof, trusted);
        assert_eq!(report.verdict(), Verdict::Valid, "{:?} {:?}", report.refused, report.lacks);
    }

    /// It holds, but for these.
    #[track_caller]
    fn lacks(&self, proof: &[u8], trusted: &Trusted, lacks: &[Lack]) {
        let report = self.looked_at_by_both(proof, trusted);
        assert!(report.refused.is_none(), "{:?}", report.refused);
        assert_eq!(report.lacks, lacks);
    }

    #[track_caller]
    fn refuses(&self, proof: &[u8], trusted: &Trusted, why: &str) {
        let refused = self.looked_at_by_both(proof, trusted).refused.expect(why).to_string();
        assert!(refused.contains(why), "expected {why}: {refused}");
    }
}

fn note(proof: &Value, pointer: &str) -> SignedCheckpoint {
    proof.pointer(pointer).and_then(Value::as_str).unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_claim_is_shown_with_the_oldest_anchor_that_covers_it() {
    for contract in [Some(CONTRACT), None] {
        let plant = plant();
        let mut chain = Chain::new(137, 1, contract);
        plant.day(0, 2 * HOUR).await;
        let first = plant.anchor(&mut chain, AnchorState::Final).await;
        plant.day(2 * HOUR, 3 * HOUR).await;
        let id = plant.export(20).await;
        let second = plant.anchor(&mut chain, AnchorState::Final).await;
        plant.day(3 * HOUR, 4 * HOUR).await;
        let third = plant.anchor(&mut chain, AnchorState::Final).await;
        plant.day(4 * HOUR, 5 * HOUR).await;
        let all = known(&plant, &chain, &[&first, &second, &third]).await;

        let block = plant.prove_block("m", HALF).await;
        let late = plant.prove_block("m", 3 * HOUR).await;
        let row = plant.prove(Claim::Row { dataset: id, row: 7 }).await;
        let dataset = plant.prove(Claim::Dataset { id }).await;
        for (proof, mined) in [(&block, &first), (&late, &third), (&row, &second), (&dataset, &second)] {
            let told = parsed(proof);
            assert_eq!(told["anchor"][0]["header"], hex::encode(&mined.evidence.header));
            assert_eq!(told["anchor"][0]["hashes"], json!([]));
            assert_eq!(told["anchor"][0]["checkpoint"], told["log"][0]["checkpoint"], "nothing lies between the two");
        }
        assert_eq!(parsed(&block)["consistency"], Value::Null, "nothing was anchored before");
        for (proof, before) in [(&late, &row), (&row, &block)] {
            let before = note(&parsed(before), "/log/0/checkpoint").checkpoint.size;
            assert_eq!(note(&parsed(proof), "/consistency/0/checkpoint").checkpoint.size, before);
        }
        for proof in [&block, &late, &row] {
            plant.is_valid(proof, &all);
        }
        let folder = plant.reader().bundle_folder(id);
        std::fs::write(folder.with_file_name(format!("{id}.proof.json")), &dataset).unwrap();
        assert_eq!(verified_by(&folder, &all).verdict(), Verdict::Valid);
        // What is not anchored is still valid in itself.
        plant.lacks(&plant.prove_block("m", 4 * HOUR).await, &all, &[Lack::NotAnchored]);

        let nobody = Trusted::default();
        plant.lacks(&block, &nobody, &[Lack::NoKey, Lack::NoAccount, Lack::BlockOpen]);
        plant.lacks(&block, &Trusted { accounts: Vec::new(), ..all.clone() }, &[Lack::NoAccount]);
        plant.lacks(&block, &Trusted { blocks: Vec::new(), ..all.clone() }, &[Lack::BlockOpen]);
        plant.lacks(&block, &Trusted { blocks: vec![vouched(&chain, &second)], ..all.clone() }, &[Lack::BlockOpen]);
        plant.is_valid(&block, &Trusted { contracts: Vec::new(), chain: None, ..all.clone() });
    }
}

#[tokio::test]
async fn the_report_tells_each_anchor_down_to_its_block() {
    let plant = plant();
    let mut chain = Chain::new(80_002, 1, Some(CONTRACT));
    plant.day(0, 2 * HOUR).await;
    let mined = plant.anchor(&mut chain, AnchorState::Final).await;
    let all = known(&plant, &chain, &[]).await;
    let mut report = plant.looked_at(&plant.prove_block("m", HALF).await, &all);
    let inclusion = &mined.inclusion;
    let told: String =
        report.links.iter().filter(|link| link.name == "anchor").flat_map(|link| link.told.clone()).collect();
    for part in [
        inclusion.transaction.to_string(),
        chain.account().to_checksum(None),
        CONTRACT.to_checksum(None),
        "chain 80002".to_owned(),
        format!("block {} of {}", inclusion.height, inclusion.time),
        inclusion.hash.to_string(),
    ] {
        assert!(told.contains(&part), "{part}: {told}");
    }
    let json = report.to_json();
    assert_eq!(json["anchors"][0]["block_hash"], inclusion.hash.to_string());
    assert_eq!(json["anchors"][0]["vouched_by"], Value::Null);
    assert_eq!(json["lacks"], json!(["block_open"]));

    let block = |report: &Report| report.links.iter().find(|link| link.name == "block").unwrap().clone();
    assert_eq!((report.blocks.len(), block(&report).holds), (1, None));
    report.confirm(0, OnChain::Open, vec!["http://a does not know it".to_owned()]);
    assert_eq!((report.lacks.as_slice(), block(&report).holds), (&[Lack::BlockOpen][..], None));
    report.confirm(0, OnChain::Confirmed, vec!["http://b has it".to_owned()]);
    assert_eq!((report.verdict(), block(&report).holds), (Verdict::Valid, Some(true)));
    assert_eq!(report.to_json()["anchors"][0]["vouched_by"], "rpc");
    let told = block(&report).told;
    assert_eq!((told.len(), told[1].as_str()), (3, "http://b has it"));
    // Who vouched before has seen less.
    report.confirm(0, OnChain::Disputed, vec!["http://c has another".to_owned()]);
    assert_eq!((report.lacks.as_slice(), block(&report).holds), (&[Lack::BlockOpen][..], None));
    report.confirm(0, OnChain::Other, vec!["http://c has another".to_owned()]);
    let refused = report.refused.clone().unwrap();
    assert_eq!((report.verdict(), refused.cause, block(&report).holds), (Verdict::Invalid, Cause::Block, Some(false)));
    assert!(refused.to_string().contains("anchor 0, header") && refused.to_string().contains("http://c"), "{refused}");
}

#[tokio::test]
async fn a_period_is_anchored_as_far_as_its_blocks_are() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, Some(CONTRACT));
    plant.commission("m").await;
    plant.day(0, 2 * HOUR).await;
    let first = plant.anchor(&mut chain, AnchorState::Final).await;
    plant.day(2 * HOUR, 4 * HOUR).await;
    let second = plant.anchor(&mut chain, AnchorState::Final).await;
    plant.day(4 * HOUR, 5 * HOUR).await;
    let all = known(&plant, &chain, &[&first, &second]).await;
    // Blocks seal a while after their end, so the last of the first two hours came later.
    let early = plant.prove_period("m", 0, HOUR).await;
    let told = parsed(&early);
    assert_eq!(told["anchor"][0]["header"], hex::encode(&first.evidence.header));
    assert!(!told["anchor"][0]["hashes"].as_array().unwrap().is_empty(), "the log goes on up to the newest checkpoint");
    assert!(note(&told, "/log/0/checkpoint").checkpoint.size > note(&told, "/anchor/0/checkpoint").checkpoint.size);
    plant.is_valid(&early, &all);
    let whole = plant.prove_period("m", 0, 4 * HOUR).await;
    assert_eq!(parsed(&whole)["anchor"][0]["header"], hex::encode(&second.evidence.header));
    assert!(!parsed(&whole)["consistency"][0]["hashes"].as_array().unwrap().is_empty());
    plant.is_valid(&whole, &all);
    // The newest blocks are not covered: so much is, by the newest anchor.
    let open = plant.prove_period("m", 0, 5 * HOUR).await;
    assert_eq!(parsed(&open)["anchor"][0]["header"], hex::encode(&second.evidence.header));
    plant.lacks(&open, &all, &[Lack::PartlyAnchored { after: 2, of: 10 }]);
    let none = plant.prove_period("m", 4 * HOUR, 5 * HOUR).await;
    assert_eq!(parsed(&none)["anchor"], Value::Null);
    plant.lacks(&none, &all, &[Lack::NotAnchored]);
    // No block lies in it: there is nothing to be anchored.
    plant.lacks(&plant.prove_period("m", 40 * DAY, 41 * DAY).await, &all, &[Lack::NotAnchored]);
}

#[tokio::test]
async fn a_silence_of_many_blocks_is_to_be_anchored_too() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, None);
    plant.day(0, HOUR).await;
    let early = plant.anchor(&mut chain, AnchorState::Final).await;
    plant.until(29 * HOUR).await;
    let within = || plant.prove_period("m", 9 * HOUR, 10 * HOUR);
    let all = known(&plant, &chain, &[&early]).await;
    plant.lacks(&within().await, &all, &[Lack::NotAnchored]);
    let late = plant.anchor(&mut chain, AnchorState::Final).await;
    let all = known(&plant, &chain, &[&late]).await;
    plant.is_valid(&within().await, &all);
}

#[tokio::test]
async fn a_revision_after_the_anchor_is_not_covered_by_it() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, None);
    plant.day(0, HOUR).await;
    plant.until(2 * HOUR).await;
    let first = plant.anchor(&mut chain, AnchorState::Final).await;
    plant.run("m", 2 * HOUR, 3 * HOUR).await;
    plant.run("m", HOUR + MINUTE, 2 * HOUR - MINUTE).await;
    plant.until(3 * HOUR + 10 * MINUTE).await;
    let late = plant.prove_block("m", HOUR).await;
    let revisions = leaves(&parsed(&late), 0).len();
    assert!(revisions > 1);
    let all = known(&plant, &chain, &[&first]).await;
    plant.lacks(&late, &all, &[Lack::PartlyAnchored { after: revisions - 1, of: revisions }]);
    let period = plant.prove_period("m", HOUR, HOUR + HALF).await;
    plant.lacks(&period, &all, &[Lack::PartlyAnchored { after: revisions - 1, of: revisions }]);
    let second = plant.anchor(&mut chain, AnchorState::Final).await;
    let all = known(&plant, &chain, &[&second]).await;
    plant.is_valid(&plant.prove_block("m", HOUR).await, &all);
    plant.is_valid(&plant.prove_period("m", HOUR, HOUR + HALF).await, &all);
}

#[tokio::test]
async fn a_period_over_epochs_has_an_anchor_of_each() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, Some(CONTRACT));
    plant.day(0, HOUR).await;
    let first_key = plant.key().await.parse().unwrap();
    let first = plant.anchor(&mut chain, AnchorState::Final).await;
    plant.succeed(Reason::KeyRotation).await;
    plant.day(2 * HOUR, 3 * HOUR).await;
    plant.publish().await;
    plant.succeed(Reason::Rollback).await;
    plant.day(4 * HOUR, 5 * HOUR).await;
    let second = plant.anchor(&mut chain, AnchorState::Final).await;
    let all = Trusted { key: Some(first_key), ..known(&plant, &chain, &[&first, &second]).await };
    let period = plant.prove_period("m", 0, DAY).await;
    let told = parsed(&period);
    assert_eq!(told["anchor"].as_array().unwrap().iter().map(Value::is_null).collect::<Vec<_>>(), [false, true, false]);
    let report = plant.looked_at(&period, &all);
    assert!(
        matches!(report.lacks.as_slice(), [Lack::PartlyAnchored { .. }]),
        "{:?} {:?}",
        report.lacks,
        report.refused
    );
    plant.is_valid(&plant.prove_period("m", 0, HOUR).await, &all);
    plant.is_valid(&plant.prove_period("m", 4 * HOUR, 5 * HOUR).await, &all);
    // The anchor of one epoch is none of another.
    let swapped = changed(&period, |proof| proof["anchor"].as_array_mut().unwrap().swap(0, 2));
    plant.refuses(&swapped, &all, "anchor 0, checkpoint");
    let moved = changed(&period, |proof| proof["anchor"].as_array_mut().unwrap().swap(0, 1));
    plant.refuses(&moved, &all, "anchor 1, checkpoint");
}

#[tokio::test]
async fn what_the_auditor_expects_otherwise_is_refused() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, Some(CONTRACT));
    plant.day(0, HOUR).await;
    let mined = plant.anchor(&mut chain, AnchorState::Final).await;
    let all = known(&plant, &chain, &[&mined]).await;
    let proof = plant.prove_block("m", HALF).await;
    let other = Address::repeat_byte(0xee);
    let wrong_hash = Vouched { hash: B256::repeat_byte(1), ..vouched(&chain, &mined) };
    for (trusted, found, expected, cause) in [
        (
            Trusted { accounts: vec![other], ..all.clone() },
            chain.account().to_string(),
            other.to_string(),
            Cause::Anchor,
        ),
        (Trusted { contracts: vec![other], ..all.clone() }, CONTRACT.to_string(), other.to_string(), Cause::Anchor),
        (Trusted { chain: Some(80_002), ..all.clone() }, "chain 137".to_owned(), "80002".to_owned(), Cause::Anchor),
        (
            Trusted { blocks: vec![vouched(&chain, &mined), wrong_hash], ..all.clone() },
            mined.inclusion.hash.to_string(),
            wrong_hash.hash.to_string(),
            Cause::Block,
        ),
    ] {
        let refused = plant.looked_at_by_both(&proof, &trusted).refused.unwrap();
        let why = refused.to_string();
        assert!(why.contains(&format!("found {found}")) || why.contains(&found), "{why}");
        assert!(why.contains("expected") && why.contains(&expected) && why.contains("anchor 0"), "{why}");
        assert_eq!(refused.cause, cause);
    }
    plant
        .is_valid(&proof, &Trusted { accounts: vec![other, chain.account()], contracts: vec![other, CONTRACT], ..all });

    let mut plain = Chain::new(137, 2, None);
    plant.day(HOUR, 2 * HOUR).await;
    let mined = plant.anchor(&mut plain, AnchorState::Final).await;
    let all = Trusted { contracts: vec![CONTRACT], ..known(&plant, &plain, &[&mined]).await };
    plant.refuses(&plant.prove_block("m", HOUR).await, &all, "found call data, expected");
}

#[tokio::test]
async fn anchors_that_were_put_together_anew_are_refused() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, Some(CONTRACT));
    plant.day(0, HOUR).await;
    plant.anchor(&mut chain, AnchorState::Final).await;
    plant.day(HOUR, 2 * HOUR).await;
    plant.anchor(&mut chain, AnchorState::Final).await;
    plant.day(2 * HOUR, 3 * HOUR).await;
    plant.anchor(&mut chain, AnchorState::Final).await;
    plant.day(3 * HOUR, 4 * HOUR).await;
    let all = known(&plant, &chain, &[]).await;
    let proof = plant.prove_period("m", HOUR, 2 * HOUR).await;
    plant.lacks(&proof, &all, &[Lack::BlockOpen]);
    let block = parsed(&plant.prove_block("m", 2 * HOUR).await);
    let (old, new) = (parsed(&plant.prove_block("m", 0).await), note(&parsed(&proof), "/log/0/checkpoint").note());
    let first = |name: &'static str| move |proof: &mut Value| proof[name].as_array_mut().unwrap()[0].take();
    type Change = Box<dyn Fn(&mut Value)>;
    let set = |pointer: &'static str, value: Value| -> Change {
        Box::new(move |proof| *proof.pointer_mut(pointer).expect(pointer) = value.clone())
    };
    let cases: Vec<(Change, &str)> = vec![
        (set("/anchor", json!([])), "member `anchor`: found 0 elements, expected 1"),
        (set("/anchor", json!([null])), "member `anchor`: none of its elements"),
        (set("/anchor", json!({})), "not a proof"),
        (set("/anchor/0", json!(1)), "anchor 0: not an object"),
        (set("/anchor/0", json!({})), "anchor 0: has no member `checkpoint`"),
        (Box::new(move |proof| proof["anchor"][0]["time"] = json!(1)), "has a member `time`"),
        (Box::new(move |proof| proof["anchor"].as_array_mut().unwrap().push(Value::Null)), "found 2 elements"),
        (set("/anchor", Value::Null), "consistency 0: found what was anchored before"),
        (set("/consistency", json!([null])), "member `consistency`: none of its elements"),
        (set("/consistency", json!([null, null])), "found 2 elements"),
        (Box::new(move |proof| proof["consistency"][0]["size"] = json!(1)), "has a member `size`"),
        (set("/anchor/0/checkpoint", json!(new)), "anchor 0, hashes"),
        (set("/anchor/0/checkpoint", old["log"][0]["checkpoint"].clone()), "anchor 0, hashes"),
        (set("/anchor/0/hashes", json!([])), "anchor 0, hashes"),
        (set("/anchor/0/hashes/0", json!("00".repeat(32))), "anchor 0, hashes"),
        (set("/anchor/0/hashes/0", json!("0A".repeat(32))), "member `hashes`"),
        (set("/anchor/0/header", json!("0xf9")), "member `header`"),
        (set("/anchor/0/index", json!(2)), "anchor 0, transaction"),
        (set("/anchor/0/index", json!("1")), "member `index`"),
        (set("/anchor/0/receipt", json!([])), "anchor 0, receipt"),
        (set("/anchor/0/transaction", block["anchor"][0]["transaction"].clone()), "anchor 0, transaction"),
        (set("/consistency/0/checkpoint", json!(new)), "expected fewer"),
        (set("/consistency/0/hashes", json!([])), "consistency 0, hashes"),
        (set("/consistency/0/hashes/0", json!("00".repeat(32))), "consistency 0, hashes"),
    ];
    for (change, why) in cases {
        plant.refuses(&changed(&proof, |proof| change(proof)), &all, why);
    }
    // Another transaction of the same account, whole: its checkpoint is not the one that is said.
    let other = changed(&proof, |proof| {
        for name in ["header", "receipt", "transaction"] {
            proof["anchor"][0][name] = block["anchor"][0][name].clone();
        }
    });
    plant.refuses(&other, &all, "anchor 0, transaction: found size");
    // A checkpoint of the section's size that is not the section's, and one with a second signature.
    let signed_twice = changed(&proof, |proof| {
        let note = proof["anchor"][0]["checkpoint"].as_str().unwrap().to_owned();
        let line = note.lines().last().unwrap().to_owned();
        proof["anchor"][0]["checkpoint"] = json!(format!("{note}{line}\n"));
    });
    plant.refuses(&signed_twice, &all, "anchor 0, checkpoint");
    let without = changed(&proof, |proof| drop((first("anchor")(proof), first("consistency")(proof))));
    plant.refuses(&without, &all, "none of its elements");
    let none = changed(&proof, |proof| (proof["anchor"], proof["consistency"]) = (Value::Null, Value::Null));
    plant.lacks(&none, &all, &[Lack::NotAnchored]);
    // A kept checkpoint of the anchored size that is another is two histories, wherever it stands.
    let mut fork = note(&parsed(&proof), "/anchor/0/checkpoint");
    fork.checkpoint.size = note(&parsed(&proof), "/consistency/0/checkpoint").checkpoint.size;
    let forked = Trusted { kept: vec![fork], kept_in: "kept.txt".to_owned(), ..all.clone() };
    plant.refuses(&proof, &forked, "kept.txt");
}

/// It is refused; or its height is another one, for which nobody vouches.
#[track_caller]
fn not_relied_on(report: &Report, mined: &Mined, place: &str) {
    let other_height = !report.blocks.is_empty() && report.blocks.iter().all(|at| at.height != mined.inclusion.height);
    let is_so = match report.verdict() {
        Verdict::Valid => false,
        Verdict::Incomplete => other_height,
        // Of another format, where that is what was turned.
        Verdict::Invalid | Verdict::Unreadable => true,
    };
    assert!(is_so, "{place}: {:?} {:?}", report.verdict(), report.lacks);
}

#[tokio::test]
async fn no_bit_of_an_anchor_can_change() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, Some(CONTRACT));
    plant.day(0, HOUR).await;
    plant.anchor(&mut chain, AnchorState::Final).await;
    plant.day(HOUR, 2 * HOUR).await;
    let mined = plant.anchor(&mut chain, AnchorState::Final).await;
    let (all, asked) = (known(&plant, &chain, &[&mined]).await, known(&plant, &chain, &[]).await);
    let proof = plant.prove_block("m", HOUR).await;
    plant.is_valid(&proof, &all);
    let text = String::from_utf8(proof.clone()).unwrap();
    // In debug every bit takes minutes: each byte of the text but those of hex has its turn, and beyond the anchor other
    // tests turn all of them.
    let claim = text.find(",\"claim\"").unwrap();
    let (consistency, log) = (text.find(",\"consistency\"").unwrap(), text.find(",\"log\"").unwrap());
    let is_hex = |byte: &usize| text.as_bytes()[byte - 1..byte + 2].iter().all(u8::is_ascii_hexdigit);
    let (hex, plain): (Vec<usize>, Vec<usize>) = (1..claim).chain(consistency..log).partition(is_hex);
    let bytes = plain.into_iter().chain(hex.into_iter().step_by(7)).chain([0]).chain((log..text.len()).step_by(13));
    for bit in bytes.map(|byte| byte * 8 + byte % 8).chain(claim * 8..consistency * 8) {
        let mut bytes = proof.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let report = plant.looked_at(&bytes, &all);
        not_relied_on(&report, &mined, &format!("bit {bit}"));
        let file = report.refused.map(|refused| refused.file);
        assert!(file.is_none_or(|file| file.ends_with("it.proof.json")));
    }
    // The bits of what is hex in it, written anew.
    let evidence = &mined.evidence;
    let of_header = (0..evidence.header.len() * 8).map(|bit| ("header", 0, bit));
    let of_nodes = [("receipt", &evidence.receipt), ("transaction", &evidence.transaction)].into_iter();
    let of_nodes = of_nodes.flat_map(|(name, nodes)| {
        nodes
            .iter()
            .enumerate()
            .flat_map(move |(node, bytes)| (0..bytes.len() * 8).step_by(5).map(move |bit| (name, node, bit)))
    });
    let mut open = 0;
    for (name, node, bit) in of_header.chain(of_nodes) {
        let ChainEvidence { mut header, mut receipt, mut transaction, .. } = evidence.clone();
        let bytes = match name {
            "header" => &mut header,
            "receipt" => &mut receipt[node],
            _ => &mut transaction[node],
        };
        bytes[bit / 8] ^= 1 << (bit % 8);
        let hash = keccak256(&header);
        let nodes = |list: &[Vec<u8>]| list.iter().map(hex::encode).collect::<Vec<_>>();
        let turned = changed(&proof, |proof| {
            proof["anchor"][0]["header"] = json!(hex::encode(&header));
            proof["anchor"][0]["receipt"] = json!(nodes(&receipt));
            proof["anchor"][0]["transaction"] = json!(nodes(&transaction));
        });
        let place = format!("{name} {node} bit {bit}");
        let report = plant.looked_at(&turned, &all);
        not_relied_on(&report, &mined, &place);
        let report = if name == "header" { plant.looked_at(&turned, &asked) } else { continue };
        if report.refused.is_none() {
            assert_eq!(report.lacks, [Lack::BlockOpen], "{place}");
            assert_eq!(report.blocks[0].hash, hash);
            assert_ne!(hash, mined.inclusion.hash);
            open += 1;
        }
    }
    assert!(open > 1_000, "most bits of a header say nothing here: {open}");
}

#[tokio::test]
async fn what_is_in_a_block_and_not_final_is_shown_until_something_is() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, Some(CONTRACT));
    plant.day(0, HOUR).await;
    let reorganised = plant.anchor(&mut chain, AnchorState::Reorganised).await;
    let block = |proof: &[u8]| parsed(proof)["anchor"][0]["header"].clone();
    let header = |mined: &Mined| json!(hex::encode(&mined.evidence.header));
    assert_eq!(parsed(&plant.prove_block("m", 0).await)["anchor"], Value::Null);
    plant.day(HOUR, 2 * HOUR).await;
    let first = plant.anchor(&mut chain, AnchorState::Included).await;
    assert_eq!(block(&plant.prove_block("m", 0).await), header(&first));
    plant.day(2 * HOUR, 3 * HOUR).await;
    let second = plant.anchor(&mut chain, AnchorState::Final).await;
    let proof = plant.prove_block("m", 0).await;
    assert_eq!(block(&proof), header(&second), "what is final shows more than what came before it");
    assert_ne!(header(&second), header(&reorganised));
    plant.is_valid(&proof, &known(&plant, &chain, &[&second]).await);
    // A test net that was tried before is not what it is shown with.
    let mut real = Chain::new(1, 9, None);
    plant.day(3 * HOUR, 4 * HOUR).await;
    let third = plant.anchor(&mut real, AnchorState::Final).await;
    let proof = plant.prove_block("m", 0).await;
    assert_eq!(block(&proof), header(&third));
    assert_eq!(parsed(&proof)["consistency"], Value::Null, "on this chain nothing was anchored before");
    plant.is_valid(&proof, &known(&plant, &real, &[&third]).await);
    // A chain that is configured is meant, and another one was tried after it.
    for (chain_id, shown) in [(chain.id, &second), (real.id, &third), (5, &third)] {
        let status = watch::Sender::new(AnchorStatus { chain_id, ..AnchorStatus::default() });
        let prover = Prover { anchoring: Some(status.subscribe()), ..plant.prover().clone() };
        let claim = Claim::Block { meter: "m".parse().unwrap(), start: at(0) };
        let proof = prover.prove(&claim, ProofForm::Json).await.unwrap().whole().await.unwrap();
        assert_eq!(block(&proof), header(shown), "{chain_id}");
    }
}

#[tokio::test]
async fn a_period_over_accounts_and_chains_is_told_with_all_of_them() {
    let plant = plant();
    let (mut first, mut second) = (Chain::new(80_002, 1, None), Chain::new(137, 2, None));
    plant.day(0, HOUR).await;
    let key = plant.key().await.parse().unwrap();
    let one = plant.anchor(&mut first, AnchorState::Final).await;
    plant.succeed(Reason::KeyRotation).await;
    plant.day(2 * HOUR, 3 * HOUR).await;
    let two = plant.anchor(&mut second, AnchorState::Final).await;
    let claim = Claim::Period { meter: "m".parse().unwrap(), from: at(0), to: at(DAY) };
    let proof = plant.prover().prove(&claim, ProofForm::Json).await.unwrap();
    let by = |chain: &Chain| AnchoredBy { chain_id: chain.id, account: chain.account() };
    assert_eq!(proof.told.anchored, [by(&first), by(&second)]);
    let proof = proof.whole().await.unwrap();
    let both = Trusted {
        key: Some(key),
        blocks: vec![vouched(&first, &one), vouched(&second, &two)],
        accounts: vec![first.account(), second.account()],
        chain: None,
        ..known(&plant, &second, &[]).await
    };
    plant.is_valid(&proof, &both);
    let newest = Trusted { accounts: vec![second.account()], ..both };
    plant.refuses(&proof, &newest, "anchor 0");
}

#[tokio::test]
async fn whoever_asks_is_told_how_far_it_is() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, None);
    plant.day(0, HOUR).await;
    let claim = || Claim::Block { meter: "m".parse().unwrap(), start: at(0) };
    let told = async || plant.prover().prove(&claim(), ProofForm::Json).await.unwrap().told;
    assert_eq!((told().await.anchored, told().await.notes), (Vec::new(), Vec::new()), "nobody anchors here");
    plant.anchor(&mut chain, AnchorState::Reorganised).await;
    assert!(told().await.notes[0].contains("was reorganised"));
    // One that never was in a block may be nearer to one than one that fell out of it.
    plant.day(HOUR, 2 * HOUR).await;
    plant.anchor(&mut chain, AnchorState::Sent).await;
    let waits = told().await;
    assert!(waits.anchored.is_empty() && waits.notes[0].contains("on its way by transaction 0x"), "{waits:?}");
    plant.day(2 * HOUR, 3 * HOUR).await;
    plant.anchor(&mut chain, AnchorState::Included).await;
    let early = told().await;
    assert!(!early.anchored.is_empty() && early.notes[0].contains("not final yet"), "{early:?}");
    plant.day(3 * HOUR, 4 * HOUR).await;
    plant.anchor(&mut chain, AnchorState::Final).await;
    let by = AnchoredBy { chain_id: 137, account: chain.account() };
    assert_eq!((told().await.anchored, told().await.notes), (vec![by], Vec::new()));
}

/// A node of chain 137 that has this block, and holds all up to `finalized` for final.
async fn node(nodes: &mut JoinSet<()>, height: u64, hash: B256, finalized: u64) -> String {
    let answer = move |body: String| async move {
        let asked: Value = serde_json::from_str(&body).unwrap();
        let block = |height: u64| {
            let (number, time) = (format!("{height:#x}"), "0x6a000000");
            json!({"number": number, "hash": hash, "timestamp": time, "baseFeePerGas": "0x1"})
        };
        let result = match (asked["method"].as_str().unwrap(), asked["params"][0].as_str()) {
            ("eth_chainId", _) => json!("0x89"),
            (_, Some("finalized")) => block(finalized),
            (_, Some("latest")) => block(finalized + 20),
            (_, Some(_)) => block(height),
            (other, None) => panic!("asked for {other}"),
        };
        json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}).to_string()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = axum::Router::new().fallback(answer);
    nodes.spawn(async move { axum::serve(listener, routes).await.unwrap() });
    url
}

#[tokio::test]
async fn the_command_asks_the_nodes_that_it_is_given() {
    let plant = plant();
    let mut chain = Chain::new(137, 1, Some(CONTRACT));
    plant.day(0, HOUR).await;
    let mined = plant.anchor(&mut chain, AnchorState::Final).await;
    let (height, hash) = (mined.inclusion.height, mined.inclusion.hash);
    let proof = plant.prove_block("m", HALF).await;
    let path = plant.written("it.proof.json", &proof);
    let key = format!("  {}\n", plant.key().await);
    let account = chain.account().to_string();
    let nodes = &mut JoinSet::new();
    let has = node(nodes, height, hash, height).await;
    let early = node(nodes, height, hash, height - 1).await;
    let another = node(nodes, height, B256::repeat_byte(7), height).await;
    let nowhere = "http://127.0.0.1:1".to_owned();
    for (rpcs, expected, words) in [
        (vec![], 3, "nobody says that the block of its anchor"),
        (vec![&has], 0, "so the chain has it, and it is final"),
        (vec![&early], 3, "not final yet"),
        (vec![&nowhere, &has], 0, "block: valid"),
        (vec![&nowhere], 3, "http://127.0.0.1:1"),
        (vec![&another], 1, "FAILS  block"),
        (vec![&another, &has], 3, "so nobody vouches for it"),
    ] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.arg("verify").arg(&path).args(["--key", &key, "--account", &account, "--chain", "137"]);
        command.args(rpcs.iter().flat_map(|url| ["--rpc", url]));
        let said = command.output().await.unwrap();
        let out = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said.status.code(), Some(expected), "{rpcs:?} {out}");
        assert!(out.contains(words), "{words}: {out}");
    }
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        let said = command.arg("verify").arg(&path).args(arguments).output().unwrap();
        (said.status.code(), String::from_utf8(said.stderr).unwrap())
    };
    let other = Chain::new(137, 3, None).account().to_string();
    let other_key = "plant-7/00/11+00000000+AQ==";
    let trust = plant.written("trust.txt", b"block 137 79000000 0x12\n");
    for (arguments, expected, words) in [
        (&["--account", &other][..], 1, "(`meterseal anchor status` there)"),
        (&["--account", "0x12"], 2, "is no address"),
        (&["--chain", "polygon"], 2, "invalid value"),
        (&["--rpc", "polygon-rpc.com/secret"], 2, "is no URL"),
        (&["--rpc", "http://127.0.0.1:1", "--offline"], 2, "cannot be used with"),
        (&["--key", other_key], 2, "not a verifier key"),
        (&["--trust", trust.to_str().unwrap()], 2, "trust.txt, line 1"),
    ] {
        let (code, err) = run(arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {err}");
        assert!(err.contains(words) && !err.contains("secret"), "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_to_do_about_it() {
    let plant = plant();
    plant.day(0, HOUR).await;
    let id = plant.export(20).await;
    let proof = plant.prove(Claim::Dataset { id }).await;
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    let run = |name: &str, key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        let said = command.arg("verify").arg(here(name)).args(["--key", key]).output().unwrap();
        (said.status.code(), String::from_utf8(said.stderr).unwrap())
    };
    let copied = |name: &str| {
        let done = Command::new("cp").arg("-r").arg(plant.reader().bundle_folder(id)).arg(here(name)).status().unwrap();
        assert!(done.success());
    };
    let key = plant.key().await;
    copied(&id.to_string());
    std::fs::write(here(&format!("{id}.proof.json")), &proof).unwrap();
    assert_eq!(run(&id.to_string(), &key).0, Some(3));
    plant.succeed(Reason::Clone).await;
    let (code, err) = run(&id.to_string(), &plant.key().await);
    assert!(code == Some(1) && err.contains("The key is of another gateway"), "{err}");
    copied("november");
    let (code, err) = run("november", &key);
    assert!(code == Some(1) && err.contains("A bundle keeps its name"), "{err}");
    let mut packed = Command::new("tar");
    packed.arg("-cf").arg(here(&format!("{id}.tar"))).arg("-C").arg(folder.path());
    let packed = packed.args([format!("{id}/manifest.json"), format!("{id}/data-00000.jsonl.zst")]).status().unwrap();
    assert!(packed.success());
    let (code, err) = run(&format!("{id}.tar"), &key);
    assert!(code == Some(1) && err.contains("Another program packed this archive"), "{err}");
    let manifest = here(&format!("{id}/manifest.json"));
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("historian", "Historian")).unwrap();
    let (code, err) = run(&id.to_string(), &key);
    assert!(code == Some(1) && err.contains("one changed bit is enough"), "{err}");
}
