//! Reports to a backend that sums them.

use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::entry::{EntryKind, Salt};
use meterseal::model::{Block, LoggedBlock, Number, Reading, Stream, Timestamp};
use meterseal::store::{self, Store};
use meterseal::upstream::https;
use meterseal::upstream::receiver::{Answer, Batch, Fault, Receiver as _};
use meterseal::upstream::record::{Body, Record};
use meterseal::upstream::telemetry::{Config, Receiver};
use meterseal::upstream::tls::Tls;
use serde_json::json;
use zeroize::Zeroizing;

use crate::layout::layout;
use crate::telemetry_backend::{Act, Backend, Script};
use crate::{batch, identity};

const TOKEN: &str = "a-secret-of-theirs";

fn config(port: u16) -> Config {
    Config {
        url: https::address(&format!("http://127.0.0.1:{port}/v1/telemetry")).unwrap(),
        token: Some(Zeroizing::new(TOKEN.to_owned())),
        tls: Tls::default(),
        timeout: Duration::from_secs(2),
    }
}

/// A block of half an hour; its energy in µWh.
fn block(seq: u64, revision: u32, import: Option<i64>, kind: EntryKind) -> Record {
    let digest = "0".repeat(64);
    let record = json!({
        "rule": 1, "meter": "m1", "start": 1_795_219_200_000_i64, "end": 1_795_221_000_000_i64, "nominal_ms": 1_800_000,
        "revision": revision, "category": "CONS", "import_uwh": import.map(|uwh| uwh.to_string()), "export_uwh": null,
        "max_mw": null, "min_mw": null, "covered_ms": 1_800_000, "coverage": 10_000, "method": "counter",
        "is_peak_hour": false, "flags": [], "readings_sha256": digest, "through_seq": 9, "before": [], "first": [],
        "last": [], "after": [], "breaks": [], "pending": [], "zone": "UTC", "interval_ms": 1_000, "template": null,
        "sealed": 1_795_221_060_000_i64,
    });
    let record = serde_json::to_vec(&record).unwrap();
    Block::from_record(&record).unwrap();
    let logged = LoggedBlock {
        seq,
        epoch: identity().epoch,
        index: seq,
        kind,
        time: Timestamp::default(),
        record,
        salt: Salt([1; 32]),
        meter: "m1".parse().unwrap(),
        meter_salt: Salt([2; 32]),
    };
    Record { seq, time: Timestamp::default(), body: Body::Block(Box::new(logged)) }
}

fn blocks(records: Vec<Record>) -> Batch {
    Batch { records, ..batch(Stream::Blocks, []) }
}

/// Three blocks, of 1, 2 and 3 kWh.
fn three() -> Batch {
    blocks(
        (1..=3).map(|seq| block(seq, 0, Some(i64::try_from(seq).unwrap() * 1_000_000_000), EntryKind::Block)).collect(),
    )
}

async fn answer_of(script: Script) -> (Answer, Backend) {
    let backend = Backend::start(script).await;
    let mut receiver = Receiver::new(&config(backend.port), "sums", None).unwrap();
    receiver.open(&identity()).await.unwrap();
    (receiver.deliver(&three()).await, backend)
}

#[tokio::test]
async fn a_block_is_one_report_of_its_energy() {
    let (answer, backend) = answer_of(|_| Act::Store).await;
    assert_eq!(answer, Answer { taken: 3, ..Answer::default() });
    let report = |kwh: f64| json!({"type": "meter", "meterId": "m1", "kwhConsumedAc": kwh, "timestamp": "2026-11-21T00:30:00.000Z"});
    assert_eq!(backend.stored(), [report(1.0), report(2.0), report(3.0)]);
    let head = &backend.heads()[0];
    assert!(head.starts_with("post /v1/telemetry ") && head.contains(&format!("bearer {TOKEN}")), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_bears_the_mean_voltage_of_its_block() {
    let folder = tempfile::tempdir().unwrap();
    let kept = store::Config {
        path: folder.path().join("store"),
        commit_every: Duration::from_millis(20),
        keep_raw: Duration::from_secs(10 * 86_400),
        max_disk: 1 << 30,
        reserve: 1 << 20,
    };
    // A second before the block, in it, and at its end, which is the next one's.
    let clock = Clock::manual(Timestamp::from_millis(1_795_219_199_000));
    store::init(&kept, &"test".parse().unwrap(), &clock).unwrap();
    let store = Store::open(kept, clock.clone(), None).unwrap();
    let slots = ["voltage_l1_v", "power_kw", "voltage_l2_v", "voltage_l1_l2_v"].map(|quantity| (quantity, "0.1"));
    let layout = layout("m1", 1_000, &slots);
    for (wait, volts) in [(0, [9_000; 4]), (2, [2310, 5, 2330, 4000]), (60, [2320, 5, 2328, 4000]), (1_739, [9_000; 4])]
    {
        clock.advance(Duration::from_secs(wait));
        let values = volts.iter().enumerate().map(|(at, raw)| (u8::try_from(at).unwrap(), Number::I64(*raw))).collect();
        store.ingest().store(vec![Reading { layout: layout.clone(), taken: clock.stamp(), values }]).await.unwrap();
    }
    let backend = Backend::start(|_| Act::Store).await;
    let mut receiver = Receiver::new(&config(backend.port), "sums", Some(store.reader())).unwrap();
    assert_eq!(receiver.deliver(&blocks(vec![block(1, 0, Some(5), EntryKind::Block)])).await.taken, 1);
    assert_eq!(backend.stored()[0]["voltage"], 232.2);
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_said_is_passed_over_and_counted() {
    let backend = Backend::start(|_| Act::Store).await;
    let mut receiver = Receiver::new(&config(backend.port), "sums", None).unwrap();
    let sent = blocks(vec![
        block(1, 1, Some(5), EntryKind::Block),
        block(2, 0, None, EntryKind::Block),
        block(3, 0, Some(-5), EntryKind::Block),
        block(4, 0, Some(5), EntryKind::Silence),
        block(5, 0, Some(2_500_000_000), EntryKind::Block),
    ]);
    let answer = receiver.deliver(&sent).await;
    assert_eq!(answer, Answer { taken: 5, skipped: 4, ..Answer::default() });
    assert_eq!(backend.stored().len(), 1);
    assert_eq!((receiver.most(Stream::Blocks), receiver.knows_keys()), (1, false));
}

#[tokio::test]
async fn a_token_that_is_none_is_told_before_anything_is_sent() {
    for token in ["", "two words", "line\n"] {
        let config = Config { token: Some(Zeroizing::new(token.to_owned())), ..config(1) };
        let Err(told) = Receiver::new(&config, "sums", None) else { panic!("{token:?}") };
        assert!(told.contains("token is empty, or has a blank"), "{told}");
    }
}

#[tokio::test]
async fn a_dead_letter_is_sent_as_it_was() {
    let backend = Backend::start(|_| Act::Store).await;
    let mut receiver = Receiver::new(&config(backend.port), "sums", None).unwrap();
    let mut line = Vec::new();
    let record = block(1, 0, Some(5_000_000_000), EntryKind::Block);
    meterseal::upstream::record::LineWriter::default().push(&mut line, &record);
    let kept = batch(Stream::Blocks, [(1, String::from_utf8(line).unwrap())]);
    assert_eq!(receiver.deliver(&kept).await, Answer { taken: 1, ..Answer::default() });
    assert_eq!(backend.stored()[0]["kwhConsumedAc"], 5.0);
}

#[tokio::test]
async fn every_answer_has_its_meaning() {
    // The second report is answered otherwise; with it comes what is asked of the fault, and whether it may have arrived.
    fn second(at: usize, act: Act) -> Act {
        if at == 1 { act } else { Act::Store }
    }
    type Is = fn(&Fault) -> bool;
    let cases: [(Script, Option<Is>, u64); 15] = [
        (|at| second(at, Act::StoreAndSay(200, "")), None, 0),
        (|at| second(at, Act::StoreAndSay(202, r#"{"id":7}"#)), None, 0),
        (
            |at| second(at, Act::Say(200, r#"{"success":false,"message":"no room"}"#)),
            Some(|fault| away(fault, "no room")),
            1,
        ),
        (|at| second(at, Act::Say(200, r#"{"success":"true"}"#)), Some(|fault| away(fault, "failed")), 1),
        (|at| second(at, Act::Say(200, r#"{"error":"down"}"#)), Some(|fault| away(fault, "down")), 1),
        (|at| second(at, Act::Say(200, "<html>sign in</html>")), Some(|fault| away(fault, "acknowledges nothing")), 1),
        (
            |at| second(at, Act::Say(400, r#"{"message":"voltage"}"#)),
            Some(|fault| matches!(fault, Fault::Refused(_))),
            0,
        ),
        (|at| second(at, Act::Say(422, "")), Some(|fault| matches!(fault, Fault::Refused(_))), 0),
        (|at| second(at, Act::Say(401, "")), Some(|fault| matches!(fault, Fault::Stopped(_))), 0),
        (|at| second(at, Act::Say(404, "")), Some(|fault| matches!(fault, Fault::Stopped(_))), 0),
        (|at| second(at, Act::StoreAndSay(500, "a-secret-of-theirs")), Some(|fault| away(fault, "500")), 1),
        (|at| second(at, Act::StoreAndCut), Some(|fault| away(fault, "")), 1),
        (|at| second(at, Act::Cut), Some(|fault| away(fault, "")), 1),
        (|at| second(at, Act::Silence), Some(|fault| away(fault, "2s")), 1),
        (|at| second(at, Act::Flood), Some(|fault| away(fault, "more than it may")), 1),
    ];
    fn away(fault: &Fault, part: &str) -> bool {
        matches!(fault, Fault::Away(why) if why.contains(part))
    }
    for (at, (script, is, in_doubt)) in cases.into_iter().enumerate() {
        let (answer, backend) = answer_of(script).await;
        assert_eq!((answer.in_doubt, answer.rejected.len()), (in_doubt, 0), "{at}: {answer:?}");
        match is {
            None => assert_eq!((answer.taken, answer.fault, backend.stored().len()), (3, None, 3), "{at}"),
            Some(is) => {
                let fault = answer.fault.unwrap();
                assert!(answer.taken == 1 && is(&fault) && !fault.to_string().contains(TOKEN), "{at}: {fault:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_may_have_arrived_is_sent_again_and_counts_twice_there() {
    let backend = Backend::start(|at| if at == 1 { Act::StoreAndCut } else { Act::Store }).await;
    let mut receiver = Receiver::new(&config(backend.port), "sums", None).unwrap();
    let first = receiver.deliver(&three()).await;
    assert_eq!((first.taken, first.in_doubt), (1, 1));
    receiver.open(&identity()).await.unwrap();
    let again = receiver.deliver(&crate::rest(&three(), first.taken)).await;
    assert_eq!(again, Answer { taken: 2, ..Answer::default() });
    let kwh: Vec<f64> = backend.stored().iter().map(|report| report["kwhConsumedAc"].as_f64().unwrap()).collect();
    assert_eq!(kwh.len(), 4, "one twice: {kwh:?}");
    // Nobody there: nothing is in doubt.
    let mut nobody = Receiver::new(&config(1), "sums", None).unwrap();
    let answer = nobody.deliver(&three()).await;
    assert_eq!((answer.taken, answer.in_doubt), (0, 0));
    assert!(matches!(answer.fault, Some(Fault::Away(_))));
}
