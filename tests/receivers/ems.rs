//! Minutes to a backend that counts each reading for one.

use std::time::Duration;

use meterseal::model::{Stream, Timestamp};
use meterseal::upstream::ems::{Config, Receiver, address};
use meterseal::upstream::receiver::{Answer, Batch, Fault, Receiver as _};
use meterseal::upstream::record::{Body, Minute, Record};
use meterseal::upstream::tls::Tls;
use zeroize::Zeroizing;

use crate::ems_backend::{Act, Backend, Script};
use crate::{batch, identity, rest};

const TOKEN: &str = "a-secret-of-theirs";
const T: i64 = 1_795_219_200_000;

fn config(port: u16, token: Option<&str>) -> Config {
    Config {
        url: address(&format!("ws://127.0.0.1:{port}/ws")).unwrap(),
        token: token.map(|token| Zeroizing::new(token.to_owned())),
        tls: Tls::default(),
        timeout: Duration::from_secs(2),
    }
}

/// So many minutes of two meters, each with a power that tells it.
fn minutes(count: u64) -> Batch {
    let record = |seq: u64| {
        let start = Timestamp::from_millis(T + i64::try_from(seq / 2).unwrap() * 60_000);
        let minute = Minute {
            meter: format!("m{}", seq % 2).parse().unwrap(),
            start,
            kw: f64::from(u32::try_from(seq).unwrap()) + 0.25,
            frequency_hz: seq.is_multiple_of(2).then_some(50.0),
        };
        Record { seq, time: start, body: Body::Minute(minute) }
    };
    Batch { records: (0..count).map(record).collect(), ..batch(Stream::Minutes, []) }
}

async fn opened(backend: &Backend) -> Receiver {
    let mut receiver = Receiver::new(&config(backend.port, None), "ems").unwrap();
    receiver.open(&identity()).await.unwrap();
    receiver
}

#[tokio::test]
async fn each_minute_is_one_reading_in_its_middle() {
    let backend = Backend::start(None, |_| Act::Store).await;
    let mut receiver = opened(&backend).await;
    assert_eq!(receiver.deliver(&minutes(6)).await, Answer { taken: 6, ..Answer::default() });
    let stored = backend.stored();
    assert_eq!(stored.len(), 6);
    for (at, reading) in stored.iter().enumerate() {
        assert_eq!(reading["deviceName"], format!("m{}", at % 2));
        assert_eq!(reading["timestamp"], T + i64::try_from(at / 2).unwrap() * 60_000 + 30_000);
        assert_eq!(reading.get("frequency").is_some(), at % 2 == 0);
    }
    assert!((backend.kwh() - (15.0 + 1.5) / 60.0).abs() < 1e-9);
    // Once each, and again on the next connection.
    assert_eq!(backend.registered(), ["m0", "m1"]);
    receiver.open(&identity()).await.unwrap();
    assert_eq!(receiver.deliver(&minutes(1)).await.taken, 1);
    assert_eq!(backend.registered(), ["m0", "m1", "m0"]);
    assert_eq!((receiver.most(Stream::Minutes), receiver.knows_keys()), (1, false));
}

#[tokio::test]
async fn a_dead_letter_is_sent_as_it_was() {
    let backend = Backend::start(None, |_| Act::Store).await;
    let line = r#"{"frequency_hz":50,"meter":"m1","power_kw":1.5,"seq":7,"start":60000}"#.to_owned();
    let sent = batch(Stream::Minutes, [(7, line), (8, "{}".to_owned())]);
    let answer = opened(&backend).await.deliver(&sent).await;
    assert_eq!(answer, Answer { taken: 2, skipped: 1, ..Answer::default() });
    assert_eq!(
        (&backend.stored()[0]["totalPowerKw"], &backend.stored()[0]["timestamp"]),
        (&1.5.into(), &90_000.into())
    );
}

#[tokio::test]
async fn every_answer_has_its_meaning() {
    fn second(at: usize, act: Act) -> Act {
        if at == 1 { act } else { Act::Store }
    }
    type Is = fn(&Fault) -> bool;
    let cases: [(Script, Option<Is>, u64); 10] = [
        (|at| second(at, Act::StoreTwiceAcknowledged), None, 0),
        (|at| second(at, Act::StoreLate(Duration::from_millis(300))), None, 0),
        (|at| second(at, Act::StoreLate(Duration::from_secs(4))), Some(|fault| away(fault, "2s")), 1),
        (|at| second(at, Act::StoreAndSayNothing), Some(|fault| away(fault, "2s")), 1),
        (|at| second(at, Act::StoreAndCut), Some(|fault| away(fault, "")), 1),
        (|at| second(at, Act::Fail), Some(|fault| away(fault, "does not exist")), 1),
        (
            |at| second(at, Act::Refuse("Invalid simulator payload: \"totalPowerKw\" must be a number")),
            Some(|fault| matches!(fault, Fault::Refused(why) if why.contains("must be a number"))),
            0,
        ),
        (|at| second(at, Act::Refuse("try later")), Some(|fault| away(fault, "try later")), 1),
        (|at| second(at, Act::Flood), Some(|fault| away(fault, "2s")), 1),
        (|at| second(at, Act::Long), Some(|fault| away(fault, "longer than")), 1),
    ];
    fn away(fault: &Fault, part: &str) -> bool {
        matches!(fault, Fault::Away(why) if why.contains(part))
    }
    for (at, (script, is, in_doubt)) in cases.into_iter().enumerate() {
        let backend = Backend::start(None, script).await;
        let mut receiver = opened(&backend).await;
        let answer = receiver.deliver(&minutes(3)).await;
        assert_eq!((answer.in_doubt, answer.rejected.len()), (in_doubt, 0), "{at}: {answer:?}");
        match is {
            None => assert_eq!((answer.taken, answer.fault, backend.stored().len()), (3, None, 3), "{at}"),
            Some(is) => {
                assert!(answer.taken == 1 && is(&answer.fault.clone().unwrap()), "{at}: {answer:?}");
                // No late answer can be taken for the next one's: the connection is given up.
                let closed = receiver.deliver(&rest(&minutes(3), 1)).await;
                assert_eq!((closed.taken, closed.in_doubt), (0, 0));
                assert!(away(&closed.fault.unwrap(), "not connected"));
            }
        }
    }
}

#[tokio::test]
async fn what_was_cut_off_before_or_after_it_was_stored_gets_there() {
    let backend = Backend::start(None, |at| match at {
        1 => Act::StoreAndCut,
        3 => Act::Cut,
        _ => Act::Store,
    })
    .await;
    let mut receiver = opened(&backend).await;
    let (mut sent, mut in_doubt) = (minutes(6), 0);
    while !sent.records.is_empty() {
        let answer = receiver.deliver(&sent).await;
        in_doubt += answer.in_doubt;
        sent = rest(&sent, answer.taken);
        if answer.fault.is_some() {
            receiver.open(&identity()).await.unwrap();
        }
    }
    // One arrived twice, one did not arrive at first, and nobody could tell which.
    assert_eq!((backend.stored().len(), in_doubt), (7, 2));
}

#[tokio::test]
async fn a_backend_that_does_not_let_us_in_says_why_and_never_our_token() {
    let backend = Backend::start(Some("another"), |_| Act::Store).await;
    let mut wrong_path = config(backend.port, Some("another"));
    wrong_path.url.set_path("/nowhere");
    let mut wrong_tls = config(backend.port, Some(TOKEN));
    wrong_tls.url = address(&format!("wss://127.0.0.1:{}/ws", backend.port)).unwrap();
    for (config, stops, part) in [
        (config(backend.port, Some(TOKEN)), true, "`token`"),
        (config(backend.port, None), true, "`token`"),
        (wrong_path, true, "path"),
        (config(1, Some(TOKEN)), false, "nobody listens"),
        (wrong_tls, false, "wss://127.0.0.1"),
    ] {
        let told = Receiver::new(&config, "ems").unwrap().open(&identity()).await.unwrap_err();
        let text = format!("{told:?} {config:?}");
        assert_eq!(matches!(told, Fault::Stopped(_)), stops, "{text}");
        assert!(told.to_string().contains(part) && !told.to_string().contains(TOKEN), "{text}");
    }
    let mut known = Receiver::new(&config(backend.port, Some("another")), "ems").unwrap();
    known.open(&identity()).await.unwrap();
    assert_eq!(known.deliver(&minutes(2)).await.taken, 2);
}
