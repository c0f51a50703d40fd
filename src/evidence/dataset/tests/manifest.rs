use serde_json::{Value, json};

use super::super::manifest::{BadManifest, Manifest};
use super::bundle::{finish, write_some};
use crate::evidence::dataset::Progress;
use crate::model::jcs;

/// A manifest of one part and some windows, as JSON.
fn good() -> Value {
    let folder = tempfile::tempdir().unwrap();
    let writer = write_some(&folder.path().join("working"), &mut Progress::default(), 20, 95).unwrap();
    let mut manifest = serde_json::to_value(finish(writer, folder.path())).unwrap();
    // Its parts are too short for a verifier: as one part they are the last one, which may be short.
    let mut part = manifest["parts"][0].take();
    part["rows"] = json!(95);
    part["raw_bytes"] = manifest["bytes"].clone();
    manifest["parts"] = json!([part]);
    manifest
}

fn read(value: &Value) -> Result<Manifest, BadManifest> {
    Manifest::from_bytes(&jcs::to_vec(value).unwrap())
}

#[test]
fn a_manifest_reads_back() {
    let good = good();
    let bytes = jcs::to_vec(&good).unwrap();
    let manifest = Manifest::from_bytes(&bytes).unwrap();
    assert_eq!(manifest.to_bytes().unwrap(), bytes);
    let mut members: Vec<&String> = good.as_object().unwrap().keys().collect();
    members.sort();
    let described = "absent bytes connection fields format from gateway id kind parts program query repeated root rows site to windows";
    assert_eq!(members, described.split(' ').collect::<Vec<_>>());
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused_by_member() {
    let good = good();
    read(&good).unwrap();
    for (place, value, member) in [
        ("/format", json!("meterseal-dataset-2"), "format"),
        ("/connection/kind", json!("postgres"), "connection"),
        ("/connection/version", json!(4), "connection"),
        ("/gateway", json!("00112233445566778899AABBCCDDEEFF"), "gateway"),
        ("/gateway", json!("0011"), "gateway"),
        ("/from", json!("95"), "to"),
        ("/from", json!("-1"), "windows[0]"),
        ("/to", json!("96"), "windows[5]"),
        ("/to", json!("94"), "windows[5]"),
        ("/kind", json!("result"), "query"),
        ("/query/fields", json!(["b", "a"]), "query.fields"),
        ("/query/fields", json!(["a", "a"]), "query.fields"),
        ("/query", json!({"name": "a", "text": "SELECT 1"}), "query"),
        ("/fields", json!({}), "fields"),
        ("/windows/1/from", json!("21"), "windows[1]"),
        ("/windows/1/to", json!("20"), "windows[1]"),
        ("/windows/1/rows", json!(21), "rows"),
        ("/windows/1/rows", json!(u64::MAX >> 11), "rows"),
        ("/windows", json!([]), "windows[0]"),
        ("/parts/0/name", json!("data-00001.jsonl.zst"), "parts[0]"),
        ("/parts/0/rows", json!(0), "parts[0]"),
        ("/parts/0/rows", json!(1_000_001), "parts[0]"),
        ("/parts/0/rows", json!(94), "rows"),
        ("/parts/0/raw_bytes", json!(1), "bytes"),
        ("/parts", json!([]), "parts"),
        ("/rows", json!(96), "rows"),
        ("/bytes", json!(0), "bytes"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value.clone();
        match read(&bad) {
            Err(BadManifest::Member { member: told, .. }) => assert_eq!(told, member, "{place} {value}"),
            other => panic!("{place} {value}: {other:?}"),
        }
    }
    // The first of two parts is whole, or the cut is not where all others have it.
    let mut two = good.clone();
    let (mut first, mut second) = (good["parts"][0].clone(), good["parts"][0].clone());
    (first["rows"], second["rows"], second["name"]) = (json!(90), json!(5), json!("data-00001.jsonl.zst"));
    two["parts"] = json!([first, second]);
    assert!(matches!(read(&two), Err(BadManifest::Member { member, .. }) if member == "parts[0]"));
}

#[test]
fn what_is_not_written_as_described_is_refused() {
    let good = good();
    for (place, value) in [
        ("/id", json!("01arz3ndektsv4rrffq69g5fav")),
        ("/id", json!("81ARZ3NDEKTSV4RRFFQ69G5FAV")),
        ("/site", json!("Plant")),
        ("/root", json!("AB")),
        ("/from", json!(0)),
        ("/from", json!("9223372036854775808")),
        ("/windows/0/read", json!(-1)),
        ("/windows/0/read", json!("5")),
        ("/rows", json!("95")),
        ("/fields/a", json!("f32")),
        ("/kind", json!("rows")),
        ("/connection/name", json!(null)),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value.clone();
        assert!(matches!(read(&bad), Err(BadManifest::Json(_))), "{place} {value}");
    }
    for place in ["", "/absent", "/connection", "/query", "/parts/0", "/windows/0"] {
        let mut bad = good.clone();
        bad.pointer_mut(place).unwrap()["extra"] = json!(1);
        assert!(matches!(read(&bad), Err(BadManifest::Json(_))), "{place}");
        let members: Vec<String> = good.pointer(place).unwrap().as_object().unwrap().keys().cloned().collect();
        for member in members {
            let mut bad = good.clone();
            bad.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(&member);
            assert!(matches!(read(&bad), Err(BadManifest::Json(_))), "{place}/{member}");
        }
    }
    let text = String::from_utf8(jcs::to_vec(&good).unwrap()).unwrap();
    for (from, to) in [
        ("{\"absent\"", "{ \"absent\""),
        ("\"to\":\"95\"", "\"to\":\"095\""),
        ("\"to\":\"95\"", "\"to\":\"+95\""),
        ("\"version\":1", "\"version\":1.0"),
        ("\"a\":\"i64\"", "\"\\u0061\":\"i64\""),
        ("\"a\":\"i64\"", "\"a\":\"f64\",\"a\":\"i64\""),
        ("\"kind\":\"points\"", "\"kind\":\"points\",\"kind\":\"points\""),
    ] {
        let bad = text.replace(from, to);
        assert_ne!(bad, text, "{from}");
        assert!(Manifest::from_bytes(bad.as_bytes()).is_err(), "{to}");
    }
    assert!(Manifest::from_bytes(format!("{text}\n").as_bytes()).is_err());
}
