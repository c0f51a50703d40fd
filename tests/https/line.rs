//! A line that is bad, or where somebody else answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meterseal::upstream::https::{Config, HttpsReceiver};
use meterseal::upstream::receiver::{Answer, Fault, Receiver as _};
use tracing_subscriber::fmt::MakeWriter;

use crate::receiver::{Faults, Options, Said};
use crate::sender::{GATEWAY, Scene, config, hashes, identity, readings, sender, with_token};

fn away(answer: Answer) -> String {
    match answer {
        Answer { taken: 0, fault: Some(Fault::Away(told)), .. } => told,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_sign_in_page_acknowledges_nothing() {
    let scene = Scene::new();
    let mut sender = scene.open().await;
    let body = "<html><title>Welcome to the guest network</title></html>".to_owned();
    scene.receiver.set(Faults { answer: Some(Said { status: 200, body, ..Said::default() }), ..Faults::default() });
    let batch = readings(1..4);
    let witnessed = sender.witness(&scene.log.witness(0, 5)).await.unwrap_err();
    for told in [away(sender.deliver(&batch).await), witnessed.to_string()] {
        assert!(told.contains("answers 200 OK with a page, which acknowledges nothing"), "{told}");
    }
    assert!(matches!(sender.open(&identity()).await, Err(Fault::Away(_))));
    scene.receiver.set(Faults::default());
    sender.open(&identity()).await.unwrap();
    assert_eq!(sender.deliver(&batch).await.taken, 3);
    assert_eq!(scene.receiver.records(), hashes(&batch));
}

/// Frameworks say of a body that ends early that it is wrong; no record is at fault.
#[tokio::test]
async fn a_body_that_was_cut_off_on_its_way_is_sent_once_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/sync", listener.local_addr().unwrap());
    let answers = [("400 Bad Request", ""), ("200 OK", r#"{"accepted":1,"rejected":[],"repeated":0}"#)];
    let server = std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = BufReader::new(&stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                request.read_line(&mut line).unwrap();
                match line.trim_end().to_lowercase().split_once(": ") {
                    Some(("content-length", told)) => length = told.parse().unwrap(),
                    None if line == "\r\n" => break,
                    _ => {}
                }
            }
            request.read_exact(&mut vec![0; length]).unwrap();
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
        }
    });
    assert_eq!(sender(&url).deliver(&readings([1])).await, Answer { taken: 1, ..Answer::default() });
    server.join().unwrap();
}

#[tokio::test]
async fn one_that_never_answers_is_away_in_time() {
    let scene = Scene::new();
    let timeout = Duration::from_millis(200);
    let mut sender = HttpsReceiver::new(&Config { timeout, ..config(&scene.receiver.url) }).unwrap();
    sender.open(&identity()).await.unwrap();
    let most = sender.most(meterseal::model::Stream::Readings);
    scene.receiver.set(Faults { hang: true, ..Faults::default() });
    let began = Instant::now();
    let told = away(sender.deliver(&readings([1])).await);
    assert!(told.ends_with("did not answer within 200ms"), "{told}");
    assert!((timeout..Duration::from_secs(10)).contains(&began.elapsed()));
    assert_eq!(sender.most(meterseal::model::Stream::Readings), most / 2, "less may get through");
}

#[tokio::test]
async fn one_that_is_killed_is_told_in_plain_words() {
    let mut scene = Scene::new();
    let mut sender = scene.open().await;
    scene.receiver.set(Faults { hang: true, ..Faults::default() });
    let batch = readings([1]);
    {
        let delivered = sender.deliver(&batch);
        tokio::pin!(delivered);
        // Until the request is over there.
        let before = scene.receiver.bytes();
        while scene.receiver.bytes() == before {
            tokio::select! {
                answer = &mut delivered => panic!("{answer:?}"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        scene.receiver.kill();
        let told = away(delivered.await);
        assert!(told.contains("broke the connection off"), "{told}");
    }
    let Err(Fault::Away(told)) = sender.open(&identity()).await else { panic!() };
    let words = "refuses the connection: is it running, and the port right?";
    assert_eq!(told, format!("{} {words}", scene.receiver.url));
    scene.receiver.set(Faults::default());
    scene.receiver.restart();
    sender.open(&identity()).await.unwrap();
    assert_eq!(sender.deliver(&batch).await.taken, 1);
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let scene = Scene::new();
    let mut sender = scene.open().await;
    let body = format!(r#"{{"accepted":1,"repeated":0,"rejected":[],"more":"{}"}}"#, "x".repeat(4 << 20));
    scene.receiver.set(Faults { answer: Some(Said { status: 200, body, ..Said::default() }), ..Faults::default() });
    let told = away(sender.deliver(&readings([1])).await);
    assert!(told.contains("answers with more than it may"), "{told}");
    // One that says no says so with its status, however long its page is.
    let said = Said { status: 404, body: "<p>".repeat(1 << 20), ..Said::default() };
    scene.receiver.set(Faults { answer: Some(said), ..Faults::default() });
    let Answer { fault: Some(Fault::Stopped(told)), .. } = sender.deliver(&readings([1])).await else { panic!() };
    assert!(told.contains("answers 404 Not Found: a page"), "{told}");
}

#[tokio::test]
async fn an_answer_as_long_as_the_contract_allows_is_read() {
    let scene = Scene::new();
    let mut sender = scene.open().await;
    let answers = |body: serde_json::Value| {
        let said = Said { status: 200, body: body.to_string(), ..Said::default() };
        scene.receiver.set(Faults { answer: Some(said), ..Faults::default() });
    };
    // Notes of 4096 letters, one of each epoch.
    let note = |n: usize| {
        let origin = format!("plant-7/{GATEWAY}/{n:016x}");
        let note = scene.log.signed_as(&origin, 5).note();
        let name = "x".repeat(4096 - note.chars().count() - 12);
        format!("{note}— {name} AAAAAAA=\n")
    };
    assert_eq!(note(0).chars().count(), 4096);
    answers(serde_json::json!({"held": (0..1000).map(note).collect::<Vec<_>>()}));
    assert_eq!(sender.open(&identity()).await.unwrap().held.len(), 1000);
    // And a batch of which nothing is taken, with all that may be said of each.
    let batch = readings(1..=5000);
    let rejected = batch
        .records
        .iter()
        .map(|record| serde_json::json!({"seq": record.seq, "error": "invalid", "detail": "\u{1}".repeat(300)}));
    answers(serde_json::json!({"accepted": 0, "repeated": 0, "rejected": rejected.collect::<Vec<_>>()}));
    let answer = sender.deliver(&batch).await;
    assert_eq!((answer.taken, answer.rejected.len(), answer.fault), (5000, 5000, None));
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_told() {
    let Err(Fault::Away(told)) = sender("http://receiver.invalid/v1").open(&identity()).await else { panic!() };
    assert!(told.starts_with("http://receiver.invalid/v1 is not known by its name (DNS)"), "{told}");
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logged {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_token_is_in_no_text_and_goes_to_nobody_else() {
    let logged = Logged::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(logged.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let options = Options { token: Some("right-t0ken".to_owned()), ..Options::default() };
    let scene = Scene::with(options);
    let url = &scene.receiver.url;
    let mut right = with_token(url, "right-t0ken");
    right.open(&identity()).await.unwrap();
    assert_eq!(right.deliver(&readings([1])).await.taken, 1);

    let Err(Fault::Stopped(told)) = with_token(url, "wrong-t0ken").open(&identity()).await else { panic!() };
    let words = "answers 401 Unauthorized: this token is not known here; is the `token` still right?";
    assert_eq!(told, format!("{url} {words}"));
    let Err(Fault::Stopped(told)) = sender(url).open(&identity()).await else { panic!() };
    assert!(told.contains("does it ask for a `token`"), "{told}");

    // A redirect is not followed, so that its target sees nothing.
    let other = Scene::new();
    let headers = vec![("location", format!("{}/right-t0ken", other.receiver.url))];
    let said = Said { status: 307, headers, body: "go there with right-t0ken".to_owned() };
    scene.receiver.set(Faults { answer: Some(said), ..Faults::default() });
    let Answer { fault: Some(Fault::Stopped(told)), .. } = right.deliver(&readings([1])).await else { panic!() };
    assert!(told.contains("sends on to") && !told.contains("t0ken"), "{told}");
    assert_eq!(other.receiver.connections(), 0);

    assert!(!format!("{:?}", config(url)).contains("t0ken"));
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    assert!(!logged.contains("t0ken"), "{logged}");
}
