use ed25519_dalek::SigningKey;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::model::note::Checkpoint;
use crate::model::{Number, Position};
use crate::upstream::receiver::{Rejected, Rejection};
use crate::upstream::record::tests::{layout, reading};
use crate::upstream::record::{Body, Record};

const TO: &str = "https://backend.example/v1/sync";
const GATEWAY: &str = "00112233445566778899aabbccddeeff";

fn config() -> Config {
    Config {
        url: address(TO).unwrap(),
        token: Some(Zeroizing::new("s3cret".to_owned())),
        tls: tls::Tls::default(),
        timeout: Duration::from_secs(20),
    }
}

fn sender() -> HttpsReceiver {
    HttpsReceiver::new(&config()).unwrap()
}

fn reply(status: u16, headers: &[(&'static str, &str)], body: &str) -> Reply {
    let header =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    Reply {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers.iter().map(header).collect::<HeaderMap>(),
        body: body.into(),
    }
}

fn batch(seqs: &[u64]) -> Batch {
    let layout = layout("m", &[("power_kw", "1")]);
    let records = seqs.iter().map(|seq| {
        let reading = reading(*seq, 5, &layout, &[Number::U64(*seq)]);
        Record { seq: *seq, time: reading.time, body: Body::Reading(reading) }
    });
    Batch {
        identity: Identity { site: "plant-7".parse().unwrap(), gateway: GATEWAY.to_owned(), epoch: "e".to_owned() },
        epoch: "0123456789abcdef".to_owned(),
        stream: Stream::Readings,
        records: records.collect(),
        after: Position::default(),
    }
}

/// What is made of an answer to a batch of 3, 5 and 8.
fn settled(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
    sender().words().settled(&reply(status, headers, body), &batch(&[3, 5, 8]))
}

fn note(gateway: &str, epoch: &str, size: u64) -> SignedCheckpoint {
    let origin = format!("plant-7/{gateway}/{epoch}");
    let key = SigningKey::from_bytes(&[1; 32]);
    let checkpoint = Checkpoint { origin: origin.clone(), size, root: Digest::of(b"root") };
    SignedCheckpoint::sign(checkpoint, &[(&origin, &key)])
}

#[test]
fn an_address_bears_no_secret() {
    for good in ["https://backend.example/v1/sync", "http://127.0.0.1:8080", "https://[::1]:1/x/"] {
        address(good).unwrap();
    }
    for bad in ["", "backend", "ftp://x", "https://me:pw@x/", "https://me@x/", "https://x/?key=1", "https://x/#a"] {
        assert!(address(bad).is_err(), "{bad}");
    }
    let shown = format!("{:?}", Config { url: address("https://x/y/").unwrap(), ..config() });
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(config().to(), TO);
}

#[test]
fn a_token_that_no_header_bears_is_refused_without_telling_it() {
    for bad in ["", "a b", "s3cret\n", "schlüssel"] {
        let token = Some(Zeroizing::new(bad.to_owned()));
        let Err(error) = HttpsReceiver::new(&Config { token, ..config() }) else { panic!("{bad:?}") };
        assert!(error.starts_with("its token") && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn gateway_and_stream_are_put_behind_the_path() {
    for (base, whole) in [
        ("https://x", "https://x/g/e/blocks"),
        ("https://x/v1/sync", "https://x/v1/sync/g/e/blocks"),
        ("https://x/v1/sync/", "https://x/v1/sync/g/e/blocks"),
    ] {
        let sender = HttpsReceiver::new(&Config { url: address(base).unwrap(), ..config() }).unwrap();
        assert_eq!(sender.at(&["g", "e", "blocks"]).as_str(), whole);
    }
}

#[test]
fn an_answer_that_accounts_for_each_record_settles_them() {
    let all = settled(200, &[], r#"{"accepted":2,"repeated":1,"rejected":[],"more":true}"#);
    assert_eq!(all, Answer { taken: 3, repeated: 1, ..Answer::default() });
    let body = concat!(
        r#"{"accepted":0,"repeated":1,"rejected":[{"seq":8,"error":"conflict","detail":"by s3cret\n"},"#,
        r#"{"seq":3,"error":"invalid"}]}"#
    );
    let rejected = vec![
        Rejected { seq: 8, why: Rejection::Conflict, told: "by ***".to_owned() },
        Rejected { seq: 3, why: Rejection::Invalid, told: String::new() },
    ];
    assert_eq!(settled(200, &[], body), Answer { taken: 3, repeated: 1, rejected, ..Answer::default() });
}

#[test]
fn nothing_else_acknowledges_anything() {
    let all = r#"{"accepted":3,"repeated":0,"rejected":[]}"#;
    for (status, body) in [
        (200, ""),
        (200, "<!doctype html><title>Welcome, sign in</title>"),
        (200, "OK"),
        (200, "{}"),
        (200, "null"),
        (200, r#"{"accepted":3,"repeated":0}"#),
        (200, r#"{"accepted":2,"repeated":0,"rejected":[]}"#),
        (200, r#"{"accepted":4,"repeated":0,"rejected":[]}"#),
        (200, r#"{"accepted":-3,"repeated":6,"rejected":[]}"#),
        (200, r#"{"accepted":3.0,"repeated":0,"rejected":[]}"#),
        (200, r#"{"accepted":18446744073709551615,"repeated":4,"rejected":[]}"#),
        (200, r#"{"accepted":2,"repeated":0,"rejected":[{"seq":4,"error":"invalid"}]}"#),
        (200, r#"{"accepted":1,"repeated":0,"rejected":[{"seq":5,"error":"invalid"},{"seq":5,"error":"invalid"}]}"#),
        (200, r#"{"accepted":2,"repeated":0,"rejected":[{"seq":5,"error":"late"}]}"#),
        (200, r#"{"accepted":3,"repeated":0,"rejected":[]} and more"#),
        (201, all),
        (202, all),
        (204, ""),
    ] {
        let Answer { taken: 0, fault: Some(Fault::Away(told)), .. } = settled(status, &[], body) else {
            panic!("{status} {body}")
        };
        assert!(told.starts_with(&format!("{TO} answers {status}")), "{told}");
        assert!(told.contains("acknowledges nothing") && told.len() < 600, "{told}");
    }
}

#[test]
fn each_status_says_what_is_done_and_to_whom_it_is_told() {
    let detail = r#"{"detail":"because of s3cret\u000a, so"}"#;
    for (status, headers, kind, part) in [
        (400, &[][..], "refused", "answers 400 Bad Request: because of *** , so"),
        (422, &[], "refused", "because of ***"),
        (413, &[], "too large", "because of ***"),
        (429, &[("retry-after", "7")], "busy 7", "it asks for 7 s"),
        (503, &[("retry-after", " 0 ")], "busy 1", "because"),
        (503, &[("retry-after", "86400")], "busy 3600", "because"),
        (
            503,
            &[("retry-after", "Wed, 21 Oct 2015 07:29:00 GMT"), ("date", "Wed, 21 Oct 2015 07:28:00 GMT")],
            "busy 60",
            "because",
        ),
        (
            503,
            &[("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT"), ("date", "Wed, 21 Oct 2015 07:28:00 GMT")],
            "busy 1",
            "because",
        ),
        (503, &[("retry-after", "Wed, 21 Oct 2015 07:29:00 GMT")], "away", "because"),
        (503, &[("retry-after", "soon")], "away", "because"),
        (503, &[], "away", "because"),
        (429, &[], "away", "because"),
        (408, &[], "away", "because"),
        (500, &[], "away", "because"),
        (502, &[], "away", "because"),
        (599, &[], "away", "because"),
        (401, &[], "stopped", "is the `token` still right?"),
        (403, &[], "stopped", "does it know this gateway, and is the `token` still right?"),
        (301, &[("location", "https://x/s3cret")], "stopped", "sends on to https://x/***"),
        (308, &[], "stopped", "not one that takes records"),
        (404, &[], "stopped", "not one that takes records"),
        (405, &[], "stopped", "not one that takes records"),
        (415, &[], "stopped", "not one that takes records"),
        (407, &[], "stopped", "proxy"),
        (409, &[], "stopped", "not a receiver of meterseal's"),
        (412, &[], "stopped", "not a receiver of meterseal's"),
    ] {
        let answer = settled(status, headers, detail);
        assert_eq!(answer.taken, 0, "{status}");
        let fault = answer.fault.unwrap();
        let told = fault.to_string();
        let found = match fault {
            Fault::Away(_) => "away".to_owned(),
            Fault::Busy { wait, .. } => format!("busy {}", wait.as_secs()),
            Fault::Stopped(_) => "stopped".to_owned(),
            Fault::TooLarge(_) => "too large".to_owned(),
            Fault::Refused(_) => "refused".to_owned(),
        };
        assert_eq!(found, kind, "{status}: {told}");
        assert!(told.starts_with(TO) && told.contains(part), "{told}");
        assert!(!told.contains("s3cret") && !told.contains('\n'), "{told}");
    }
}

#[test]
fn words_of_others_stay_short() {
    for body in ["x".repeat(100_000), format!(r#"{{"detail":"{}"}}"#, "x".repeat(100_000))] {
        let told = settled(422, &[], &body).fault.unwrap().to_string();
        assert!(told.chars().count() < 400, "{}", told.len());
    }
    assert!(settled(502, &[], "<html>").fault.unwrap().to_string().ends_with("502 Bad Gateway: a page"));
}

#[test]
fn notes_that_are_held_are_read_strictly() {
    let (one, former) = (note(GATEWAY, "0123456789abcdef", 7), note(GATEWAY, "0000000000000000", 9));
    let held = |body: serde_json::Value| sender().words().held(&reply(200, &[], &body.to_string()), GATEWAY);
    let both = serde_json::json!({ "held": [one.note(), former.note()] });
    assert_eq!(held(both), Ok(vec![one.clone(), former]));
    assert_eq!(held(serde_json::json!({ "held": [] })), Ok(vec![]));
    let many = |count: usize| {
        let notes = (0..count).map(|epoch| note(GATEWAY, &epoch.to_string(), 1).note());
        serde_json::json!({ "held": notes.collect::<Vec<_>>() })
    };
    assert_eq!(held(many(NOTES)).unwrap().len(), NOTES);
    for bad in [
        many(NOTES + 1),
        serde_json::json!({ "held": [one.note(), one.note()] }),
        serde_json::json!({ "held": [note("ff", "0123456789abcdef", 7).note()] }),
        serde_json::json!({ "held": [one.note().trim_end()] }),
        serde_json::json!({ "held": [7] }),
        serde_json::json!({ "held": null }),
        serde_json::json!({}),
        serde_json::json!([]),
    ] {
        assert!(matches!(held(bad), Err(Fault::Away(_))));
    }
    // Nothing was handed over, so that nothing can be halved.
    for status in [400, 413, 422] {
        let refused = sender().words().held(&reply(status, &[], ""), GATEWAY);
        assert!(matches!(refused, Err(Fault::Stopped(_))), "{status}");
    }
}

#[test]
fn what_a_witness_holds_is_the_note_or_another_of_its_origin() {
    let (sent, lower) = (note(GATEWAY, "0123456789abcdef", 7), note(GATEWAY, "0123456789abcdef", 5));
    let other = note(GATEWAY, "0000000000000000", 7);
    let asked = |status: u16, held: Option<&SignedCheckpoint>| {
        let body = serde_json::json!({ "held": held.map(SignedCheckpoint::note) }).to_string();
        sender().words().witnessed(&reply(status, &[], &body), &sent)
    };
    assert_eq!(asked(200, Some(&sent)), Ok(Some(sent.clone())));
    assert_eq!(asked(409, Some(&lower)), Ok(Some(lower.clone())));
    assert_eq!(asked(409, None), Ok(None));
    for (status, held) in
        [(200, Some(&lower)), (200, None), (200, Some(&other)), (409, Some(&other)), (202, Some(&sent))]
    {
        assert!(matches!(asked(status, held), Err(Fault::Away(_))), "{status}");
    }
    // Without the member, it is somebody else's 409.
    assert!(matches!(sender().words().witnessed(&reply(409, &[], "{}"), &sent), Err(Fault::Away(_))));
    for status in [400, 413, 422] {
        let Err(Fault::Stopped(told)) = asked(status, None) else { panic!("{status}") };
        assert!(told.contains("`meterseal key show`"), "{told}");
    }
}

#[tokio::test]
async fn a_body_is_packed_once_and_named_by_what_is_in_it() {
    let seqs: Vec<u64> = (1..1_000).map(|n| n * 2).collect();
    let packed = body::pack(&batch(&seqs)).await.unwrap();
    let lines = zstd::decode_all(&*packed.bytes).unwrap();
    let text = std::str::from_utf8(&lines).unwrap();
    assert_eq!(text.lines().count(), seqs.len());
    assert!(text.ends_with("}}\n"));
    let key = format!("{GATEWAY}/0123456789abcdef/readings/2-1998/{}", Digest::of(&lines));
    assert_eq!(packed.key, key);
    assert_eq!(body::pack(&batch(&seqs)).await.unwrap().key, key);
}

#[test]
fn batches_become_smaller_and_grow_again() {
    let (quick, slow) = (Duration::from_secs(1), Duration::from_secs(19));
    let mut sender = sender();
    let mut most = |ended, took| {
        sender.pace(&ended, took);
        sender.most(Stream::Readings)
    };
    assert_eq!(most(Ended::Broken, quick), 2_500);
    assert_eq!(most(Ended::Broken, slow), 1_250);
    assert_eq!(most(Ended::Otherwise, quick), 1_250);
    assert_eq!(most(Ended::Taken, slow), 1_250);
    assert_eq!(most(Ended::Taken, quick), 2_500);
    // What was too large once stays so.
    assert_eq!(most(Ended::TooLarge, quick), 1_250);
    assert_eq!(most(Ended::Taken, quick), 1_250);
    for _ in 0..20 {
        most(Ended::Broken, quick);
    }
    assert_eq!(most(Ended::TooLarge, quick), 78);
    assert!(Stream::ALL.into_iter().all(|stream| sender.most(stream) >= 1));
}
