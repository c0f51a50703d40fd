//! Proofs as an auditor gets them: made from a store that lived through days, and looked at by both verifiers.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod anchors;
mod chain;
mod plant;

use std::cell::Cell;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use meterseal::evidence::prove::ProveError;
use meterseal::model::entry::{self, Reason, Salt};
use meterseal::model::note::{Checkpoint, SignedCheckpoint};
use meterseal::model::proof::{Claim, NotProven, ProofForm};
use meterseal::model::{Span, jcs, merkle};
use meterseal::store::Append;
use proptest::prelude::*;
use serde_json::{Value, json};

use plant::{DAY, HALF, HOUR, MINUTE, Plant, T, accepted_file, at, changed, plant};

fn parsed(bytes: &[u8]) -> Value {
    let proof: Value = serde_json::from_slice(bytes).unwrap();
    assert_eq!(meterseal::model::jcs::to_vec(&proof).unwrap(), bytes, "not written as JCS");
    proof
}

#[tokio::test]
async fn a_block_is_proven_with_its_revisions_and_readings() {
    let plant = plant();
    plant.commission("m").await;
    plant.day(0, 2 * HOUR).await;
    let key = plant.key().await;
    let first = plant.prove_block("m", HALF).await;
    plant.accepted(&first, Some(&key));
    plant.accepted(&first, None);
    let proof = parsed(&first);
    assert_eq!(proof["log"][0]["leaves"].as_array().unwrap().len(), 1);
    assert_eq!(proof["readings"].as_array().unwrap().len(), 2 * 32, "two values of 30 readings and of those around");

    // A reading that came late is none of the block's until the block is revised.
    plant.run("m", HALF + MINUTE / 2, HALF + MINUTE / 2).await;
    assert_eq!(plant.prove_block("m", HALF).await, first);

    // Nothing is read for an hour; what comes later changes the blocks in it.
    plant.until(3 * HOUR).await;
    plant.run("m", 3 * HOUR, 4 * HOUR).await;
    plant.until(4 * HOUR + 5 * MINUTE).await;
    let gap = parsed(&plant.prove_block("m", 2 * HOUR).await);
    assert_eq!(gap["log"][0]["leaves"].as_array().unwrap().len(), 2, "sealed empty, and again with the reading after");
    plant.run("m", 2 * HOUR + MINUTE, 3 * HOUR - MINUTE).await;
    plant.until(4 * HOUR + 10 * MINUTE).await;
    let late = plant.prove_block("m", 2 * HOUR).await;
    let revisions: Vec<u64> = parsed(&late)["log"][0]["leaves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|leaf| leaf["record"]["revision"].as_u64().unwrap())
        .collect();
    assert_eq!(revisions, [0, 1, 2]);
    plant.accepted(&late, Some(&key));
    // The block of a sum has no readings of its own.
    let sum = plant.prove_block("total", HALF).await;
    plant.accepted(&sum, Some(&key));
    assert!(parsed(&sum).get("readings").is_none());
}

/// The leaves of a section of `log`.
fn leaves(proof: &Value, section: usize) -> &Vec<Value> {
    proof["log"][section]["leaves"].as_array().unwrap()
}

/// The proof with its section changed and the hashes beside the leaves put right: what is left is in the log.
async fn forged(plant: &Plant, proof: &[u8], section: usize, change: impl FnOnce(&mut Vec<Value>)) -> Vec<u8> {
    let mut leaves = leaves(&parsed(proof), section).clone();
    change(&mut leaves);
    let indices: Vec<u64> = leaves.iter().map(|leaf| leaf["index"].as_u64().unwrap()).collect();
    let checkpoint = parsed(proof)["log"][section]["checkpoint"].as_str().unwrap().to_owned();
    let checkpoint: SignedCheckpoint = checkpoint.parse().unwrap();
    let SignedCheckpoint { checkpoint: Checkpoint { origin, size, .. }, .. } = checkpoint;
    let epoch = origin.rsplit('/').next().unwrap();
    let hashes = plant.reader().siblings(epoch, indices, size).await.unwrap().unwrap();
    changed(proof, |proof| {
        proof["log"][section]["leaves"] = json!(leaves);
        proof["log"][section]["hashes"] = json!(hashes.iter().map(ToString::to_string).collect::<Vec<_>>());
    })
}

/// The leaf without its record.
fn plain(leaf: &Value, meters: &Value) -> Value {
    let salt = |text: &Value| Salt::from_hex(text.as_str().unwrap()).unwrap();
    let record = jcs::to_vec(&leaf["record"]).unwrap();
    let subject = leaf["record"]["meter"]
        .as_str()
        .map(|meter| entry::subject(&salt(&meters[meter]), &meter.parse().unwrap()).to_string());
    let commit = entry::commit(&salt(&leaf["salt"]), &record).to_string();
    let entry = json!({"commit": commit, "kind": leaf["kind"], "subject": subject, "time": leaf["time"], "v": 1});
    json!({"entry": entry, "index": leaf["index"]})
}

#[tokio::test]
async fn a_period_opens_every_entry_and_none_can_be_left_out() {
    let plant = plant();
    plant.commission("m").await;
    plant.day(0, HOUR).await;
    // Silence for more than a day, and a reading late within it.
    plant.until(29 * HOUR).await;
    plant.day(30 * HOUR, 31 * HOUR).await;
    plant.run("m", 20 * HOUR, 20 * HOUR + 10 * MINUTE).await;
    plant.until(31 * HOUR + 10 * MINUTE).await;
    plant.commission("n").await;
    let key = plant.key().await;
    let proof = plant.prove_period("m", 0, 2 * DAY).await;
    plant.accepted(&proof, Some(&key));
    let told = parsed(&proof);
    let (opened, tail): (Vec<&Value>, Vec<&Value>) =
        leaves(&told, 0).iter().partition(|leaf| leaf.get("record").is_some());
    let kinds = |kind: &str| opened.iter().filter(|leaf| leaf["kind"] == kind).count();
    assert_eq!((kinds("succession"), kinds("commissioning")), (1, 1));
    assert!(kinds("silence") > 0 && opened.iter().any(|leaf| leaf["record"]["revision"] == 1));
    assert!(!tail.is_empty());
    // The meter's first record is the oldest, and its last the newest.
    assert_eq!(told["log"][0]["meters"].as_object().unwrap().keys().collect::<Vec<_>>(), ["m"]);

    for at in 0..leaves(&told, 0).len() {
        let cut = changed(&proof, |proof| {
            proof["log"][0]["leaves"].as_array_mut().unwrap().remove(at);
        });
        plant.refused_by_one(&cut, Some(&key));
        // Whoever has the log can put the hashes right.
        let hidden = forged(&plant, &proof, 0, |leaves| {
            leaves.remove(at);
        });
        let hidden = hidden.await;
        plant.refused_by_one(&hidden, Some(&key));
        if at % 16 == 1 {
            plant.refused(&cut, Some(&key));
            plant.refused(&hidden, Some(&key));
        }
        if leaves(&told, 0)[at].get("record").is_some() {
            let closed = forged(&plant, &proof, 0, |leaves| {
                leaves[at] = plain(&leaves[at], &told["log"][0]["meters"]);
            });
            plant.refused_by_one(&closed.await, Some(&key));
        }
    }
    // A sum has a chain of its own.
    plant.accepted(&plant.prove_period("total", 0, DAY).await, Some(&key));
    let nobody =
        plant.try_prove(Claim::Period { meter: "x".parse().unwrap(), from: at(0), to: at(1) }, ProofForm::Json);
    assert!(matches!(nobody.await, Err(ProveError::Not(NotProven::NoMeter(_)))));
}

#[tokio::test]
async fn a_meter_whose_first_block_still_runs_is_not_unknown() {
    let plant = plant();
    plant.run("m", 0, 3 * MINUTE).await;
    plant.commission("n").await;
    let why = async |meter: &str| {
        let claim = Claim::Block { meter: meter.parse().unwrap(), start: at(0) };
        match plant.try_prove(claim, ProofForm::Json).await {
            Err(ProveError::Not(why)) => why.to_string(),
            other => panic!("{other:?}"),
        }
    };
    for meter in ["m", "n"] {
        assert!(why(meter).await.starts_with(&format!("no block of meter {meter} is sealed yet")));
    }
    assert!(why("x").await.starts_with("meter x has no entry in the log"));
}

#[tokio::test]
async fn a_revision_that_is_shown_is_the_one_that_was_committed_to() {
    let plant = plant();
    plant.day(0, 2 * HOUR).await;
    let key = plant.key().await;
    let proof = plant.prove_block("m", HALF).await;
    for (place, value) in [
        ("/log/0/leaves/0/record/import_uwh", json!("6000000001")),
        ("/log/0/leaves/0/time", json!(T + 1)),
        ("/log/0/leaves/0/index", json!(1)),
        ("/log/0/leaves/0/salt", json!("00".repeat(32))),
        ("/log/0/hashes/0", json!("00".repeat(32))),
        ("/readings/3/value", json!("12001")),
        ("/claim/start", json!(T)),
        ("/claim/meter", json!("n")),
    ] {
        let other = changed(&proof, |proof| {
            let member = proof.pointer_mut(place).unwrap();
            assert_ne!(*member, value, "{place}");
            *member = value;
        });
        plant.refused(&other, Some(&key));
    }
}

#[tokio::test]
async fn proofs_hold_over_rotations_and_rollbacks() {
    let plant = plant();
    plant.commission("m").await;
    plant.day(0, HOUR).await;
    let first_key = plant.key().await;
    plant.succeed(Reason::KeyRotation).await;
    plant.day(2 * HOUR, 3 * HOUR).await;
    plant.publish().await;
    plant.succeed(Reason::Rollback).await;
    plant.day(4 * HOUR, 5 * HOUR).await;
    plant.succeed(Reason::KeyRotation).await;
    plant.succeed(Reason::Site).await;
    plant.day(6 * HOUR, 7 * HOUR).await;
    let (last_key, epochs) = (plant.key().await, plant.reader().epochs().await.unwrap());
    assert_eq!(epochs.len(), 5);

    let old = plant.prove_block("m", 0).await;
    assert_eq!(parsed(&old)["rotations"], json!([]), "nothing had been rotated up to then");
    plant.accepted(&old, Some(&first_key));
    let new = plant.prove_block("m", 6 * HOUR).await;
    assert_eq!(parsed(&new)["rotations"].as_array().unwrap().len(), 2);
    for key in [&first_key, &last_key] {
        plant.accepted(&new, Some(key));
    }
    let period = plant.prove_period("m", 0, DAY).await;
    let told = parsed(&period);
    assert_eq!(told["rotations"].as_array().unwrap().len(), 2);
    plant.accepted(&period, Some(&first_key));
    plant.accepted(&period, Some(&last_key));
    for at in 0..2 {
        for proof in [&new, &period] {
            let cut = changed(proof, |proof| {
                proof["rotations"].as_array_mut().unwrap().remove(at);
            });
            plant.refused(&cut, Some(&first_key));
        }
    }
    let sections = told["log"].as_array().unwrap().len();
    assert_eq!(sections, 4, "the epoch between a rotation and a new site has nothing of the meter");
    // Within one epoch the chain shows what is missing; whole epochs are told by what came before them.
    for section in 0..sections {
        let last = leaves(&told, section).iter().rposition(|leaf| leaf.get("record").is_some()).unwrap();
        let hidden = forged(&plant, &period, section, |leaves| {
            leaves.remove(last);
        });
        plant.refused(&hidden.await, Some(&first_key));
    }
}

#[tokio::test]
async fn a_gateway_that_was_replaced_has_proofs_of_its_own() {
    let plant = plant();
    plant.day(0, HOUR).await;
    // Whoever makes a copy of a store has what was signed, and no more.
    plant.publish().await;
    let old_key = plant.key().await;
    plant.succeed(Reason::Clone).await;
    plant.day(2 * HOUR, 3 * HOUR).await;
    let new_key = plant.key().await;
    plant.accepted(&plant.prove_block("m", 0).await, Some(&old_key));
    plant.accepted(&plant.prove_block("m", 2 * HOUR).await, Some(&new_key));
    plant.refused(&plant.prove_block("m", 2 * HOUR).await, Some(&old_key));
    let period = |from, to| Claim::Period { meter: "m".parse().unwrap(), from: at(from), to: at(to) };
    let over = plant.try_prove(period(0, 3 * HOUR), ProofForm::Json).await;
    let Err(ProveError::Not(NotProven::OtherGateway { at: replaced })) = over else { panic!("{over:?}") };
    let replaced = replaced.millis_since(at(0));
    plant.accepted(&plant.prove(period(0, replaced)).await, Some(&old_key));
    plant.accepted(&plant.prove(period(replaced, 3 * HOUR)).await, Some(&new_key));
}

#[tokio::test]
async fn a_restored_gateway_proves_what_it_knew_and_what_came_then() {
    for with_key in [true, false] {
        let plant = plant();
        plant.day(0, HOUR).await;
        let (bundle, old_key) = (plant.export(10).await, plant.key().await);
        plant.publish().await;
        let before = plant.prove_block("m", 0).await;
        plant.day(HOUR, 2 * HOUR).await;
        let backup = plant.backup(with_key).await;
        // What is signed from here on, the backup does not know; the mark does.
        plant.day(2 * HOUR, 3 * HOUR).await;
        plant.publish().await;
        let lost = plant.prove_block("m", 2 * HOUR).await;

        let plant = plant.restored(&backup).await;
        plant.day(4 * HOUR, 5 * HOUR).await;
        let epochs = plant.reader().epochs().await.unwrap();
        let reasons: Vec<Reason> = epochs.iter().map(|epoch| epoch.reason).collect();
        assert_eq!(reasons, [Reason::Init, Reason::Restore], "one epoch, though the mark knows more");
        let first = plant.reader().openings(&epochs[1].identity.epoch, vec![0]).await.unwrap();
        // It is shown when it is signed.
        assert!(first.is_empty());
        plant.publish().await;
        let first = plant.reader().openings(&epochs[1].identity.epoch, vec![0]).await.unwrap();
        let record: serde_json::Value = serde_json::from_slice(&first[0].record).unwrap();
        assert_eq!(record["old_origin"], epochs[0].identity.origin());
        let size =
            |note: &serde_json::Value| -> u64 { note.as_str().unwrap().lines().nth(1).unwrap().parse().unwrap() };
        assert!(size(&record["last_outside"]) > size(&record["last_local"]), "{record}");

        let new_key = plant.key().await;
        assert_eq!(epochs[0].identity.gateway == epochs[1].identity.gateway, with_key);
        // Proofs that were made before hold, also that of what the store does not know any more.
        for proof in [&before, &lost] {
            plant.accepted(proof, Some(&old_key));
        }
        plant.accepted(&plant.prove_block("m", 0).await, Some(&old_key));
        plant.accepted(&plant.prove_block("m", 4 * HOUR).await, Some(&new_key));
        // The bundle came along.
        plant.accepted(&plant.prove(Claim::Row { dataset: bundle, row: 3 }).await, Some(&old_key));
        let period = |from, to| Claim::Period { meter: "m".parse().unwrap(), from: at(from), to: at(to) };
        let over = plant.try_prove(period(0, 5 * HOUR), ProofForm::Json).await;
        if with_key {
            plant.accepted(&over.unwrap(), Some(&new_key));
        } else {
            assert!(matches!(over, Err(ProveError::Not(NotProven::OtherGateway { .. }))), "{over:?}");
            plant.refused(&plant.prove_block("m", 4 * HOUR).await, Some(&old_key));
        }

        // Once more from the same file: another epoch, and no second log of any origin.
        let signed = plant.reader().checkpoint(&epochs[1].identity.epoch).await.unwrap();
        assert!(signed.is_some());
        let plant = plant.restored(&backup).await;
        plant.publish().await;
        let again = plant.reader().epochs().await.unwrap();
        assert_eq!(again.len(), 2);
        assert_ne!(again[1].identity.epoch, epochs[1].identity.epoch);
    }
}

#[tokio::test]
async fn datasets_and_their_rows_are_proven() {
    let plant = plant();
    plant.day(0, HOUR).await;
    let id = plant.export(1_000).await;
    let key = plant.key().await;
    for row in [0, 1, 511, 999] {
        let proof = plant.prove(Claim::Row { dataset: id, row }).await;
        plant.accepted(&proof, Some(&key));
        let told = parsed(&proof);
        assert_eq!(told["row"]["value"].as_f64(), Some(row as f64 / 8.0));
        for (place, value) in [("/row/value", json!(0.5)), ("/claim/row", json!("2")), ("/manifest/rows", json!(1_001))]
        {
            plant.refused(&changed(&proof, |proof| *proof.pointer_mut(place).unwrap() = value), Some(&key));
        }
    }
    let refused = plant.try_prove(Claim::Row { dataset: id, row: 1_000 }, ProofForm::Json).await;
    assert!(matches!(refused, Err(ProveError::Not(NotProven::NoRow { rows: 1_000, .. }))), "{refused:?}");

    // The proof of a dataset lies beside its bundle.
    let proof = plant.prove(Claim::Dataset { id }).await;
    let folder = plant.reader().bundle_folder(id);
    let name = format!("{id}.proof.json");
    let beside = folder.with_file_name(&name);
    std::fs::write(&beside, &proof).unwrap();
    accepted_file(&folder, Some(&key));
    let tlog = plant.try_prove(Claim::Dataset { id }, ProofForm::TlogProof).await.unwrap();
    accepted_file(&plant.written("it.tlog-proof", &tlog), Some(&key));

    // A bundle that was changed proves nothing; one that is gone cannot be asked for a row.
    let manifest = folder.join("manifest.json");
    let bytes = std::fs::read(&manifest).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    std::fs::write(&manifest, text.replace("historian", "Historian")).unwrap();
    let refused = plant.try_prove(Claim::Row { dataset: id, row: 3 }, ProofForm::Json).await;
    assert!(matches!(refused, Err(ProveError::Bundle { .. })), "{refused:?}");
    std::fs::write(&manifest, bytes).unwrap();
    plant.ledger().drop_job(id, meterseal::model::Actor::here("tests")).await.unwrap();
    let refused = plant.try_prove(Claim::Row { dataset: id, row: 3 }, ProofForm::Json).await;
    assert!(matches!(refused, Err(ProveError::Not(NotProven::Gone(_)))), "{refused:?}");
    assert_eq!(plant.prove(Claim::Dataset { id }).await, proof, "the log still commits to it");
}

#[tokio::test]
async fn a_dataset_is_proven_under_the_origin_that_its_bundle_names() {
    let plant = plant();
    plant.day(0, HOUR).await;
    let (key, id) = (plant.key().await, plant.export(10).await);
    plant.publish().await;
    // Not signed when the gateway is replaced: nobody can prove it.
    let unsigned = plant.export(10).await;
    plant.succeed(Reason::Clone).await;
    let refused = plant.try_prove(Claim::Dataset { id: unsigned }, ProofForm::Json).await;
    assert!(matches!(refused, Err(ProveError::Not(NotProven::OtherOrigin(_)))), "{refused:?}");
    let proof = plant.prove(Claim::Row { dataset: id, row: 3 }).await;
    plant.accepted(&proof, Some(&key));
    // The log of the new gateway names the old one's bundle too.
    let manifest = std::fs::read(plant.reader().bundle_folder(id).join("manifest.json")).unwrap();
    let manifest_sha256 = meterseal::model::Digest::of(&manifest);
    let entry = Append::Dataset { dataset: id.to_string(), manifest_sha256 };
    plant.ledger().append(vec![entry]).await.unwrap();
    plant.publish().await;
    assert_eq!(plant.reader().entries_of_dataset(&id.to_string()).await.unwrap().len(), 2);
    assert_eq!(parsed(&plant.prove(Claim::Row { dataset: id, row: 3 }).await), parsed(&proof));
}

#[tokio::test]
async fn a_proof_made_while_the_log_grows_is_whole() {
    let plant = plant();
    plant.day(0, HOUR).await;
    let key = plant.key().await;
    let grown = Cell::new(false);
    let grow = async {
        for n in 1..=20 {
            plant.run("m", n * HOUR, n * HOUR + 30 * MINUTE).await;
            plant.until(n * HOUR + 40 * MINUTE).await;
            plant.publish().await;
        }
        grown.set(true);
    };
    let prove = async {
        let mut proofs = Vec::new();
        while !grown.get() {
            proofs.push(plant.prove_period("m", 0, DAY).await);
            proofs.push(plant.prove_block("m", HALF).await);
        }
        proofs
    };
    let ((), proofs) = tokio::join!(grow, prove);
    let mut newest: Option<Checkpoint> = None;
    for (at, proof) in proofs.iter().enumerate() {
        if at % (proofs.len() / 20 + 1) == 0 {
            plant.accepted(proof, Some(&key));
        }
        let note: SignedCheckpoint = parsed(proof)["log"][0]["checkpoint"].as_str().unwrap().parse().unwrap();
        let Checkpoint { origin, size, root } = note.checkpoint;
        if let Some(old) = newest.as_ref().filter(|old| old.size <= size) {
            let epoch = origin.rsplit('/').next().unwrap();
            let path = plant.reader().consistency(epoch, old.size, size).await.unwrap().unwrap();
            merkle::verify_consistency((old.size, &old.root), (size, &root), &path).unwrap();
        }
        newest = Some(Checkpoint { origin, size, root });
    }
    let sizes: std::collections::BTreeSet<_> =
        proofs.iter().map(|proof| parsed(proof)["log"][0]["checkpoint"].to_string()).collect();
    assert!(sizes.len() > 3, "the log grew while proofs were made: {}", sizes.len());
}

#[tokio::test]
async fn a_block_proven_while_it_is_revised_is_of_one_revision() {
    let plant = plant();
    plant.day(0, HOUR).await;
    let key = plant.key().await;
    let revised = Cell::new(false);
    let revise = async {
        // Each late reading is one more revision of the block; some of them are signed.
        for n in 0..40 {
            plant.run("m", HALF + n * 30_000 + 15_000, HALF + n * 30_000 + 15_000).await;
            plant.until(HOUR + 10 * MINUTE + n * 5 * MINUTE).await;
            if n % 3 == 0 {
                plant.publish().await;
            }
        }
        revised.set(true);
    };
    let prove = async {
        let mut proofs = Vec::new();
        while !revised.get() {
            let known = plant.reader().revisions(&"m".parse().unwrap(), at(HALF)).await.unwrap().len();
            proofs.push((known, plant.prove_block("m", HALF).await));
        }
        proofs
    };
    let ((), proofs) = tokio::join!(revise, prove);
    let mut shown = std::collections::BTreeSet::new();
    for (known, proof) in &proofs {
        plant.accepted_by_one(proof, Some(&key));
        let opened = leaves(&parsed(proof), 0).len();
        assert!(opened >= *known, "the newest of {known} revisions is shown: {opened}");
        shown.insert(opened);
    }
    assert!(shown.len() > 10, "it was revised while proofs were made: {shown:?}");
    plant.accepted(&proofs.last().unwrap().1, Some(&key));
}

#[tokio::test]
async fn a_command_writes_a_proof_and_says_what_to_do_with_it() {
    let plant = plant();
    plant.day(0, 2 * HOUR).await;
    let key = plant.key().await;
    let folder = plant.close().await;
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.arg("prove").args(arguments).args(["-c", "meterseal.toml"]).current_dir(folder.path());
        let said = command.output().unwrap();
        (said.status.code(), String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap())
    };
    // Times without a zone are the site's.
    let (code, out, err) = run(&["m", "--block", "2026-11-21T08:30"]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    let name = "m-20261121T003000Z.proof.json";
    assert!(err.contains(&format!("meterseal verify {name} --key {key}")), "{err}");
    accepted_file(&folder.path().join(name), Some(&key));
    let (code, out, err) = run(&["m", "--block", "2026-11-21T00:30:00Z", "-o", "-"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(parsed(out.as_bytes())["claim"]["start"], 1_795_221_000_000_u64);
    let (code, _, err) = run(&["m", "--from", "2026-11-21", "--to", "2026-11-22", "-o", "day.proof.json"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("sealed up to 2026-11-21T02:00:00.000Z"), "{err}");
    accepted_file(&folder.path().join("day.proof.json"), Some(&key));
    let (code, _, err) = run(&["m", "--block", "2026-11-21T08:30", "-o", "m.tlog-proof"]);
    assert_eq!(code, Some(0), "{err}");
    accepted_file(&folder.path().join("m.tlog-proof"), Some(&key));

    for (arguments, why) in [
        (&["m", "--block", "2026-11-21T08:40"][..], "the one that contains it starts at 2026-11-21T00:30:00.000Z"),
        (&["m", "--block", "2026-11-21T10:10"], "it is due at 2026-11-21T02:32:00.000Z"),
        (&["m", "--block", "2026-11-20"], "its first one starts at 2026-11-21T00:00:00.000Z"),
        (&["mm", "--block", "2026-11-21T08:30"], "Did you mean m? Known meters: m."),
        (&["m", "--block", "yesterday"], "is no time"),
        (&["--dataset", "01ARZ3NDEKTSV4RRFFQ69G5FAV"], "there is no dataset"),
        (&["m", "--block", "2026-11-21T08:30", "-o", "m.json"], "does not end in .proof.json"),
        (&["m", "--from", "2026-11-22", "--to", "2026-11-21"], "has no length"),
        (&["m", "--from", "2026-11-21", "--to", "2026-11-22", "-o", "m.tlog-proof"], "is of one entry"),
    ] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {err}");
        assert!(err.contains(why), "{arguments:?}: {err}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".part")), "{left:?}");
}

/// What happens to a plant.
#[derive(Clone, Debug)]
enum Event {
    /// Meter `m` or `n` runs for so many minutes.
    Runs {
        second: bool,
        minutes: i64,
    },
    /// Time goes on, and nothing is read.
    Passes {
        minutes: i64,
    },
    /// Readings come that are so old.
    Late {
        second: bool,
        minutes: i64,
        ago: i64,
    },
    Commissioned {
        second: bool,
    },
    Exported,
    Published,
    Succeeds(Reason),
}

fn event() -> impl Strategy<Value = Event> {
    let reasons = [Reason::KeyRotation, Reason::Rollback, Reason::Site, Reason::Restore];
    prop_oneof![
        4 => (any::<bool>(), 1..200_i64).prop_map(|(second, minutes)| Event::Runs { second, minutes }),
        3 => prop_oneof![1..120_i64, 1_400..1_600_i64].prop_map(|minutes| Event::Passes { minutes }),
        3 => (any::<bool>(), 1..60_i64, 60..2_000_i64)
            .prop_map(|(second, minutes, ago)| Event::Late { second, minutes, ago }),
        1 => any::<bool>().prop_map(|second| Event::Commissioned { second }),
        1 => Just(Event::Exported),
        2 => Just(Event::Published),
        2 => proptest::sample::select(reasons.to_vec()).prop_map(Event::Succeeds),
    ]
}

async fn live(plant: &Plant, events: &[Event]) {
    let meter = |second: &bool| if *second { "n" } else { "m" };
    let mut now = HOUR;
    for event in events {
        match event {
            Event::Runs { second, minutes } => {
                plant.run(meter(second), now, now + minutes * MINUTE).await;
                now += minutes * MINUTE;
            }
            Event::Passes { minutes } => now += minutes * MINUTE,
            Event::Late { second, minutes, ago } => {
                let from = (now - ago * MINUTE).max(0);
                plant.run(meter(second), from, (from + minutes * MINUTE).min(now - MINUTE)).await;
            }
            Event::Commissioned { second } => plant.commission(meter(second)).await,
            Event::Exported => drop(plant.export(3).await),
            Event::Published => plant.publish().await,
            Event::Succeeds(reason) => plant.succeed(*reason).await,
        }
        plant.until(now + 5 * MINUTE).await;
        now += 10 * MINUTE;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_is_proven(events in proptest::collection::vec(event(), 1..20), pick in any::<usize>()) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let plant = plant();
            plant.day(0, HOUR).await;
            let first_key = plant.key().await;
            live(&plant, &events).await;
            for meter in ["m", "n", "total"] {
                let proof = plant.prove_period(meter, 0, 40 * DAY).await;
                let told = parsed(&proof);
                let last = told["log"].as_array().and_then(|log| log.last()).unwrap();
                for key in [&first_key, last["key"].as_str().unwrap()] {
                    plant.accepted(&proof, Some(key));
                }
                // Every block of the store is in it, in its newest revision, or was before it.
                let sections = 0..told["log"].as_array().unwrap().len();
                let records: Vec<&Value> = sections.flat_map(|at| leaves(&told, at)).map(|leaf| &leaf["record"]).collect();
                let all = Span::new(at(-DAY), at(60 * DAY)).unwrap();
                let blocks = plant.reader().blocks(&meter.parse().unwrap(), all).await.unwrap();
                for block in &blocks {
                    let is_it = |record: &&&Value| {
                        record["start"] == block.span.start().as_millis() && record["revision"] == block.revision
                    };
                    assert!(records.iter().find(is_it).is_some(), "{meter} {:?}", block.span);
                }
                let block = &blocks[pick % blocks.len()];
                let start = block.span.start().millis_since(at(0));
                plant.accepted(&plant.prove_block(meter, start).await, Some(&first_key));
                // One entry of the meter hidden, by somebody who has the log.
                let section = pick % told["log"].as_array().unwrap().len();
                let opened: Vec<usize> = leaves(&told, section).iter().enumerate()
                    .filter(|(_, leaf)| leaf["record"].get("meter").is_some()).map(|(at, _)| at).collect();
                let hidden = forged(&plant, &proof, section, |leaves| {
                    leaves.remove(opened[pick % opened.len()]);
                });
                plant.refused(&hidden.await, Some(&first_key));
            }
        });
    }
}

#[tokio::test]
async fn a_daemon_proves_what_commands_ask_for() {
    let plant = plant();
    plant.day(0, 2 * HOUR).await;
    let key = plant.key().await;
    let folder = plant.close().await;
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.args(arguments).args(["-c", "meterseal.toml"]).current_dir(folder.path());
        command
    };
    let mut daemon = Daemon(command(&["run"]).stderr(Stdio::null()).spawn().unwrap());
    let socket = folder.path().join("store/run/meterseal.sock");
    let began = Instant::now();
    while !socket.exists() {
        assert!(daemon.0.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let prove = |arguments: &[&str]| {
        let said = command(&[&["prove"], arguments].concat()).output().unwrap();
        (said.status.code(), String::from_utf8(said.stderr).unwrap())
    };
    for arguments in [
        &["m", "--block", "2026-11-21T08:30", "-o", "a.proof.json"][..],
        &["m", "--from", "2026-11-21", "--to", "2026-11-22", "-o", "a.proof.json"],
    ] {
        let (code, words) = prove(arguments);
        assert_eq!(code, Some(0), "{words}");
        accepted_file(&folder.path().join("a.proof.json"), Some(&key));
    }
    let (code, words) = prove(&["m", "--block", "2026-11-21T08:40"]);
    assert_eq!(code, Some(1));
    assert!(words.contains("the one that contains it starts at"), "{words}");
}

/// Ends with the test, however that ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
