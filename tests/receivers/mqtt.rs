//! MQTT: a real broker with TLS and a password, and one that answers as it is told.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meterseal::model::note::{Checkpoint, SignedCheckpoint};
use meterseal::model::{Digest, Stream};
use meterseal::upstream::mqtt::{Config, Receiver, Version};
use meterseal::upstream::receiver::{Fault, Receiver as _, Witness};
use meterseal::upstream::tls::Tls;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::collector::Collector;
use crate::mosquitto::{Mosquitto, PASSWORD, USERNAME};
use crate::mqtt_broker::{Act, FakeBroker, Script, Subscribed};
use crate::{batch, identity, readings, rest};

fn config(broker: &Mosquitto, version: Version) -> Config {
    Config {
        tls: broker.ca().map(|ca| Tls { ca: Some(ca), identity: None }),
        username: broker.is_secured().then(|| USERNAME.to_owned()),
        password: broker.is_secured().then(|| Zeroizing::new(PASSWORD.to_owned())),
        version,
        ..plain(broker.port)
    }
}

fn plain(port: u16) -> Config {
    Config {
        host: "localhost".to_owned(),
        port,
        tls: None,
        version: Version::V5,
        username: None,
        password: None,
        client_id: None,
        topic: "meterseal/{site}/{gateway}/{stream}/{meter}".parse().unwrap(),
        keep_alive: Duration::from_secs(5),
        timeout: Duration::from_secs(10),
        max_packet: 100_000,
    }
}

async fn start(settings: &'static str, tls: bool) -> Mosquitto {
    let start = move || if tls { Mosquitto::start_with_tls(settings) } else { Mosquitto::start(settings) };
    spawn_blocking(start).await.unwrap()
}

/// A checkpoint of this epoch and size, whose root is `of`.
fn checkpoint(epoch: &str, size: u64, of: &[u8]) -> SignedCheckpoint {
    let identity = identity();
    let origin = format!("{}/{}/{epoch}", identity.site, identity.gateway);
    let key = SigningKey::from_bytes(&[7; 32]);
    let checkpoint = Checkpoint { origin: origin.clone(), size, root: Digest::of(of) };
    SignedCheckpoint::sign(checkpoint, &[(&origin, &key)])
}

fn witness(checkpoint: &SignedCheckpoint, old: u64) -> Witness {
    Witness { checkpoint: checkpoint.clone(), old, consistency: Vec::new() }
}

fn receiver(config: &Config) -> Receiver {
    Receiver::new(config, "historian").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_checkpoints_get_there_byte_for_byte() {
    for version in [Version::V311, Version::V5] {
        let broker = start("", true).await;
        let collector = Collector::start(&broker, "meterseal/#");
        let mut receiver = receiver(&config(&broker, version));
        let opened = receiver.open(&identity()).await.unwrap();
        assert_eq!(opened.held, []);
        let first = checkpoint(&identity().epoch, 5, b"five");
        assert_eq!(receiver.witness(&witness(&first, 0)).await.unwrap(), Some(first.clone()));
        let sent = readings(1..=250);
        let answer = receiver.deliver(&sent).await;
        assert_eq!((answer.taken, answer.fault, answer.rejected), (250, None, vec![]));
        let records = collector.until(250);
        for seq in 1..=250 {
            let identity = identity();
            let key = (identity.gateway.clone(), identity.epoch.clone(), "readings".to_owned(), seq);
            let record = &records[&key];
            assert_eq!(record.line, format!(r#"{{"meter":"m1","seq":{seq},"values":{{}}}}"#));
            assert_eq!(record.topic, format!("meterseal/plant/{}/readings/m1", identity.gateway));
            assert_eq!(record.copies, 1);
        }
        // What lies retained is read back, and a newer one takes its place.
        let opened = receiver.open(&identity()).await.unwrap();
        assert_eq!(opened.held, std::slice::from_ref(&first));
        let second = checkpoint(&identity().epoch, 9, b"nine");
        assert_eq!(receiver.witness(&witness(&second, 3)).await.unwrap(), Some(first), "it holds another than we said");
        assert_eq!(receiver.witness(&witness(&second, 5)).await.unwrap(), Some(second.clone()));
        let opened = self::receiver(&config(&broker, version)).open(&identity()).await.unwrap();
        assert_eq!(opened.held, std::slice::from_ref(&second));
        let notes: Vec<_> =
            collector.messages().into_iter().filter(|message| message.topic.contains("checkpoints")).collect();
        assert_eq!(notes.len(), 2);
        assert_eq!(notes[1].payload, second.note().into_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_of_former_epochs_are_found_where_each_has_its_topic() {
    let broker = start("", false).await;
    let config = Config { topic: "{gateway}/{epoch}/{stream}".parse().unwrap(), ..config(&broker, Version::V311) };
    let mut receiver = receiver(&config);
    let (old, new) = (checkpoint("aaaa", 5, b"old"), checkpoint(&identity().epoch, 3, b"new"));
    receiver.open(&identity()).await.unwrap();
    receiver.witness(&witness(&old, 0)).await.unwrap();
    receiver.witness(&witness(&new, 0)).await.unwrap();
    let held = receiver.open(&identity()).await.unwrap().held;
    assert_eq!(held.len(), 2);
    assert!(held.contains(&old) && held.contains(&new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_away_has_all_of_it_in_the_end() {
    let mut broker = start("", true).await;
    let collector = Collector::start(&broker, "meterseal/#");
    let known = config(&broker, Version::V311);
    let mut receiver = receiver(&known);
    receiver.open(&identity()).await.unwrap();
    let (mut sent, mut taken, mut faults) = (readings(1..=200), 0, 0);
    for round in 0..4 {
        let harm = spawn_blocking(move || {
            broker.stop();
            broker
        });
        // Some of it gets through before the broker is gone, or none.
        let answer = receiver.deliver(&sent).await;
        assert_eq!(answer.fault.is_none(), answer.taken == sent.records.len());
        faults += usize::from(matches!(answer.fault, Some(Fault::Away(_))));
        taken += answer.taken;
        sent = rest(&sent, answer.taken);
        broker = harm.await.unwrap();
        let away = receiver.open(&identity()).await.unwrap_err();
        assert!(matches!(&away, Fault::Away(why) if why.contains("nobody listens")), "{away:?}");
        let closed = receiver.deliver(&sent).await;
        assert!(matches!(closed.fault, Some(Fault::Away(_))) && closed.taken == 0);
        broker = spawn_blocking(move || {
            broker.start_again();
            broker
        })
        .await
        .unwrap();
        receiver.open(&identity()).await.unwrap();
        sent.records.extend(readings(201 + round * 200..=400 + round * 200).records);
        sent.records.truncate(250);
    }
    while !sent.records.is_empty() {
        let answer = receiver.deliver(&sent).await;
        assert_eq!(answer.fault, None);
        taken += answer.taken;
        sent = rest(&sent, answer.taken);
    }
    assert!(faults > 0, "nothing was ever cut off");
    let records = collector.until(taken);
    let seqs: BTreeSet<u64> = records.keys().map(|key| key.3).collect();
    assert_eq!((records.len(), seqs.len()), (taken, taken));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_let_us_in_says_why_and_never_our_password() {
    let (broker, other) = (start("", true).await, start("", true).await);
    for version in [Version::V311, Version::V5] {
        let right = config(&broker, version);
        let wrong = |mend: fn(&mut Config)| {
            let mut config = right.clone();
            mend(&mut config);
            config
        };
        let mut wrong_ca = right.clone();
        wrong_ca.tls = Some(Tls { ca: other.ca(), identity: None });
        for (config, stops, why) in [
            (wrong(|config| config.password = Some(Zeroizing::new("not-the-one".to_owned()))), true, "`password`"),
            (wrong(|config| (config.username, config.password) = (None, None)), true, "`username`"),
            (wrong_ca, true, "shows a certificate"),
            (wrong(|config| config.port = 1), false, "nobody listens at mqtts://localhost:1"),
            (wrong(|config| config.tls = None), false, "mqtt://localhost"),
        ] {
            let told = receiver(&config).open(&identity()).await.unwrap_err();
            assert_eq!(matches!(told, Fault::Stopped(_)), stops, "{told:?}");
            let text = format!("{told:?} {told}");
            assert!(text.contains(why) && !text.contains(PASSWORD) && !text.contains("not-the-one"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_would_not_take_is_put_aside_and_the_rest_goes() {
    let broker = start("max_packet_size 2000", false).await;
    let collector = Collector::start(&broker, "meterseal/#");
    let long = |seq: u64| format!(r#"{{"meter":"m1","seq":{seq},"text":"{}"}}"#, "x".repeat(5_000));
    let short = |seq: u64| format!(r#"{{"meter":"m1","seq":{seq}}}"#);
    let sent = batch(Stream::Alerts, [(1, short(1)), (2, long(2)), (3, short(3)), (4, short(4))]);
    // The one of MQTT 5 says what it takes; of the other the config does.
    let older = Config { max_packet: 2_000, ..config(&broker, Version::V311) };
    for config in [config(&broker, Version::V5), older] {
        let mut receiver = receiver(&config);
        receiver.open(&identity()).await.unwrap();
        let answer = receiver.deliver(&sent).await;
        assert_eq!((answer.taken, answer.fault), (4, None));
        assert_eq!(answer.rejected.iter().map(|rejected| rejected.seq).collect::<Vec<_>>(), [2]);
        assert!(answer.rejected[0].told.contains("2000"), "{:?}", answer.rejected);
    }
    assert_eq!(collector.until(3).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_not_ours_are_told() {
    // Without a limit, mosquitto 2.0 ends the connection after a refusal, and what it said before may be lost with it.
    let access = "max_queued_messages 1000\nacl_file {folder}/access";
    let broker = spawn_blocking(move || {
        Mosquitto::start_with_file(access, "access", "topic write elsewhere/#\ntopic read meterseal/#\n")
    })
    .await
    .unwrap();
    let mut receiver = receiver(&config(&broker, Version::V5));
    receiver.open(&identity()).await.unwrap();
    let answer = receiver.deliver(&readings(1..=3)).await;
    assert_eq!(answer.taken, 0);
    assert!(matches!(&answer.fault, Some(Fault::Stopped(why)) if why.contains("the right to write")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_where_our_checkpoint_belongs_is_judged() {
    let broker = start("", false).await;
    let config = config(&broker, Version::V5);
    let topic = format!("meterseal/plant/{}/checkpoints/_", identity().gateway);
    let stranger = checkpoint("aaaa", 5, b"x").note().replace(&identity().gateway, "another");
    for (text, is_ours) in [("nonsense", false), (&stranger, false), (&checkpoint("aaaa", 5, b"x").note(), true)] {
        let publish = ["-h", "localhost", "-p", &broker.port.to_string(), "-t", &topic, "-r", "-q", "1", "-m", text];
        assert!(std::process::Command::new("mosquitto_pub").args(publish).status().unwrap().success());
        let opened = receiver(&config).open(&identity()).await;
        match opened {
            Ok(opened) => assert!(is_ours && opened.held.len() == 1),
            Err(Fault::Stopped(why)) => assert!(!is_ours && why.contains(&topic), "{why}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_sends_notes_without_end_is_not_listened_to_without_end() {
    fn note(n: u64) -> String {
        checkpoint(&format!("{n:016x}"), 5, b"x").note()
    }
    for (subscribed, is_stopped) in [(Subscribed::Flooded(note), false), (Subscribed::Many(note), true)] {
        let broker = FakeBroker::start_with(&[], |_| Act::Acknowledge, subscribed).await;
        let seconds = if is_stopped { 60 } else { 2 };
        let mut receiver = receiver(&Config { timeout: Duration::from_secs(seconds), ..plain(broker.port) });
        let opened = timeout(Duration::from_secs(50), receiver.open(&identity())).await.expect("it listens on");
        let told = opened.unwrap_err();
        match &told {
            Fault::Stopped(why) => assert!(is_stopped && why.contains("more than 1000 checkpoints"), "{why}"),
            Fault::Away(why) => assert!(!is_stopped && why.contains("did not answer within 2s"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_acknowledges_slowly_does_not_hold_a_batch_for_long() {
    let slow = |_| Act::AcknowledgeAfter(Duration::from_millis(300));
    let broker = FakeBroker::start(&[], slow).await;
    let mut receiver = receiver(&Config { timeout: Duration::from_secs(2), ..plain(broker.port) });
    receiver.open(&identity()).await.unwrap();
    // Some 7 kB, for which the line is given 3 s more.
    let answer = receiver.deliver(&readings(1..=25)).await;
    let Some(Fault::Away(told)) = &answer.fault else { panic!("{answer:?}") };
    assert!(told.contains("did not acknowledge") && (1..25).contains(&answer.taken), "{answer:?}");
}

/// Nothing can be sent any more when the batch comes: what the broker said at the end is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn why_a_broker_ended_the_connection_is_told_by_whatever_comes_next() {
    let broker = FakeBroker::start_with(&[], |_| Act::Acknowledge, Subscribed::GrantedAndEnded(0x8e)).await;
    for is_checkpoint in [false, true] {
        let mut receiver = receiver(&plain(broker.port));
        let ended = broker.hangups.load(Ordering::SeqCst);
        receiver.open(&identity()).await.unwrap();
        while broker.hangups.load(Ordering::SeqCst) == ended {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let fault = match is_checkpoint {
            false => receiver.deliver(&readings(1..=3)).await.fault,
            true => receiver.witness(&witness(&checkpoint(&identity().epoch, 5, b"five"), 0)).await.err(),
        };
        assert!(matches!(&fault, Some(Fault::Stopped(why)) if why.contains("client_id")), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_says_is_told_without_our_password_and_on_one_line() {
    let broker = FakeBroker::start(&[], |_| Act::RefuseSaying(0x99, "s3cret-1 is\n\u{1b}[31mno")).await;
    let (username, password) = (Some("edge".to_owned()), Some(Zeroizing::new("s3cret-1".to_owned())));
    let mut receiver = receiver(&Config { username, password, ..plain(broker.port) });
    receiver.open(&identity()).await.unwrap();
    let answer = receiver.deliver(&readings(1..=3)).await;
    assert_eq!((answer.taken, answer.rejected.len()), (3, 3));
    let told = &answer.rejected[0].told;
    assert!(told.ends_with(": *** is  [31mno"), "{told:?}");
}

/// What becomes of three records at a broker that does this.
async fn answer_of(script: Script) -> meterseal::upstream::receiver::Answer {
    let broker = FakeBroker::start(&[], script).await;
    let mut receiver = receiver(&Config { timeout: Duration::from_secs(3), ..plain(broker.port) });
    receiver.open(&identity()).await.unwrap();
    receiver.deliver(&readings(1..=3)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_of_a_broker_has_its_meaning() {
    // The second one is answered otherwise than the others.
    fn second(at: usize, act: Act) -> Act {
        if at == 1 { act } else { Act::Acknowledge }
    }
    let answer = answer_of(|_| Act::Acknowledge).await;
    assert_eq!((answer.taken, answer.fault), (3, None));
    let answer = answer_of(|at| second(at, Act::Refuse(0x10))).await;
    assert_eq!((answer.taken, answer.fault), (3, None), "nobody listens, which is no fault");
    for script in [(|at| second(at, Act::Refuse(0x99))) as Script, |at| second(at, Act::Refuse(0x83))] {
        let answer = answer_of(script).await;
        assert_eq!((answer.taken, answer.rejected.len(), answer.rejected[0].seq), (3, 1, 2));
        assert_eq!(answer.fault, None);
    }
    type Is = fn(&Fault) -> bool;
    let cases = [
        ((|at| second(at, Act::Refuse(0x87))) as Script, (|fault| matches!(fault, Fault::Stopped(_))) as Is),
        (|at| second(at, Act::Refuse(0x90)), |fault| matches!(fault, Fault::Stopped(_))),
        (|at| second(at, Act::Refuse(0x97)), |fault| matches!(fault, Fault::Busy { .. })),
        (|at| second(at, Act::Refuse(0x80)), |fault| matches!(fault, Fault::Away(_))),
        (|at| second(at, Act::Ignore), |fault| matches!(fault, Fault::Away(why) if why.contains("3s"))),
        (|at| second(at, Act::Cut), |fault| matches!(fault, Fault::Away(_))),
        (|at| second(at, Act::End(0x95)), |fault| matches!(fault, Fault::TooLarge(_))),
        (|at| second(at, Act::End(0x99)), |fault| matches!(fault, Fault::Refused(_))),
        (|at| second(at, Act::End(0x96)), |fault| matches!(fault, Fault::Busy { .. })),
        (|at| second(at, Act::End(0x8e)), |fault| matches!(fault, Fault::Stopped(why) if why.contains("client_id"))),
        (|at| second(at, Act::End(0x8b)), |fault| matches!(fault, Fault::Away(_))),
    ];
    // All at once: each waits a while for a checkpoint that is not there.
    let asked = futures_util::future::join_all(cases.iter().map(|(script, _)| answer_of(*script)));
    for (at, (answer, (_, is))) in asked.await.into_iter().zip(cases).enumerate() {
        let fault = answer.fault.clone().unwrap();
        assert!(answer.taken <= 1 && answer.rejected.is_empty() && is(&fault), "{at}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_promises_less_is_heeded() {
    // Maximum QoS 0.
    let broker = FakeBroker::start(&[0x24, 0], |_| Act::Acknowledge).await;
    let told = receiver(&plain(broker.port)).open(&identity()).await.unwrap_err();
    assert!(matches!(&told, Fault::Stopped(why) if why.contains("QoS 1")), "{told:?}");
    // Retain not available: it is no witness, and records go.
    let broker = FakeBroker::start(&[0x25, 0], |_| Act::Acknowledge).await;
    let mut receiver = receiver(&plain(broker.port));
    assert_eq!(receiver.open(&identity()).await.unwrap().held, []);
    assert_eq!(receiver.witness(&witness(&checkpoint("aaaa", 5, b"x"), 0)).await.unwrap(), None);
    assert_eq!(receiver.deliver(&readings(1..=3)).await.taken, 3);
    // Two messages unacknowledged at most.
    let broker = FakeBroker::start(&[0x21, 0, 2], |_| Act::Acknowledge).await;
    let mut receiver = self::receiver(&plain(broker.port));
    receiver.open(&identity()).await.unwrap();
    assert_eq!(receiver.deliver(&readings(1..=100)).await.taken, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_while_there_is_nothing_to_send() {
    let broker = FakeBroker::start(&[], |_| Act::Acknowledge).await;
    let mut receiver = receiver(&Config { keep_alive: Duration::from_secs(1), ..plain(broker.port) });
    receiver.open(&identity()).await.unwrap();
    let began = broker.pings.load(Ordering::SeqCst);
    while broker.pings.load(Ordering::SeqCst) < began + 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(receiver.deliver(&readings(1..=3)).await.taken, 3);
    assert_eq!(broker.messages.load(Ordering::SeqCst), 3);
}
