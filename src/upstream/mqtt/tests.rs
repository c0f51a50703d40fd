use super::*;
use crate::model::{Event, Number, Timestamp};
use crate::upstream::record::tests::{layout, reading};

fn identity() -> Identity {
    Identity { site: "plant".parse().unwrap(), gateway: "ab12".to_owned(), epoch: "00ff".to_owned() }
}

fn batch(records: Vec<Record>) -> Batch {
    let after = crate::model::Position::default();
    Batch { identity: identity(), epoch: "00ff".to_owned(), stream: Stream::Readings, records, after }
}

fn taken(seq: u64) -> Record {
    let taken = reading(seq, 1_000, &layout("m1", &[("power_kw", "1")]), &[Number::F64(0.5)]);
    Record { seq, time: taken.time, body: Body::Reading(taken) }
}

fn kept(line: &str) -> Body {
    Body::Kept(line.to_owned())
}

#[test]
fn a_message_bears_the_line_byte_for_byte() {
    let line = r#"{"seq":7,"x":"ä\n"}"#;
    let hash = Digest::of(line.as_bytes());
    let wanted =
        format!(r#"{{"epoch":"00ff","gateway":"ab12","record":{line},"sha256":"{hash}","stream":"readings"}}"#);
    assert_eq!(String::from_utf8(payload(&batch(vec![taken(7)]), line.as_bytes())).unwrap(), wanted);
}

#[test]
fn the_meter_of_a_record_is_found_whatever_it_is() {
    let event = Event {
        seq: 1,
        epoch: "00ff".to_owned(),
        time: Timestamp::default(),
        line: r#"{"kind":"meter_silent","meter":"m2"}"#.to_owned(),
    };
    for (body, wanted) in [
        (taken(7).body, Some("m1")),
        (Body::Event(event), Some("m2")),
        (kept(r#"{"record":{"meter":"m3"},"seq":1}"#), Some("m3")),
        (kept(r#"{"meter":null}"#), None),
        (kept(r#"{"meter":"a/#"}"#), None),
        (kept("{}"), None),
    ] {
        let mut line = Vec::new();
        LineWriter::default().push(&mut line, &Record { seq: 1, time: Timestamp::default(), body: body.clone() });
        assert_eq!(meter(&body, &line).as_deref(), wanted, "{body:?}");
    }
}

#[test]
fn the_first_records_that_are_settled_count() {
    let away = || Fault::Away("gone".to_owned());
    let rejected = || Some(Verdict::Rejected("no".to_owned()));
    let put_aside = |seq| Rejected { seq, why: Rejection::Invalid, told: "no".to_owned() };
    for (verdicts, ended, taken_count, put, fault) in [
        (vec![Some(Verdict::Taken), Some(Verdict::Taken), Some(Verdict::Taken)], None, 3, vec![], None),
        (vec![Some(Verdict::Taken), rejected(), Some(Verdict::Taken)], None, 3, vec![put_aside(2)], None),
        (vec![Some(Verdict::Taken), None, Some(Verdict::Taken)], Some(away()), 1, vec![], Some(away())),
        (vec![None, rejected(), None], Some(away()), 0, vec![put_aside(2)], Some(away())),
        (
            vec![Some(Verdict::Taken), Some(Verdict::Fault(away())), rejected()],
            None,
            1,
            vec![put_aside(3)],
            Some(away()),
        ),
    ] {
        let answer = answer(&batch((1..4).map(taken).collect()), verdicts, ended);
        assert_eq!((answer.taken, answer.rejected, answer.fault), (taken_count, put, fault));
    }
}

#[test]
fn a_config_is_printed_without_its_password() {
    let config = Config {
        host: "::1".to_owned(),
        port: 8883,
        tls: Some(Tls::default()),
        version: Version::V5,
        username: Some("edge".to_owned()),
        password: Some(Zeroizing::new("not-a-default".to_owned())),
        client_id: None,
        topic: "{gateway}/{stream}".parse().unwrap(),
        keep_alive: Duration::from_secs(30),
        timeout: Duration::from_secs(30),
        max_packet: 1000,
    };
    assert!(!format!("{config:?}").contains("not-a"));
    assert_eq!(config.to(), "mqtts://[::1]:8883");
}
