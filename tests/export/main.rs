//! Exports from the plant's InfluxDB to a bundle, over real servers and over ones that answer in their format and go
//! wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod api;
#[path = "../influx/fake.rs"]
#[allow(dead_code, reason = "the tests of the connection use more of it")]
mod fake;
mod house;
#[path = "../influx/influxd.rs"]
#[allow(dead_code, reason = "the tests of the connection use more of it")]
mod influxd;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fake::{Answer, Ends, Fake, points};
use house::{HOUR, House, SECOND, T};
use influxd::{Influxd, installed, line_protocol};
use meterseal::evidence::influx::{Asked, Connection, Query, Secret, Server};
use meterseal::model::{FieldValue, JobState, Row};

/// `measurement energy,line=a power=value`.
fn row(time_ns: i64, field: &str, value: FieldValue) -> Row {
    Row {
        time_ns,
        measurement: "energy".into(),
        tags: [("line".into(), "a".into())].into(),
        field: field.into(),
        value,
    }
}

fn doubles(count: i64) -> Vec<Row> {
    (0..count)
        .map(|at| row(T + at * SECOND, "power", FieldValue::F64(f64::from(u32::try_from(at).unwrap()) / 8.0)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_200_000_points_give_one_root_from_every_server() {
    const COUNT: usize = 200_000;
    let rows = points("energy", T, HOUR / 50, COUNT);
    let end = rows.last().unwrap().time_ns + 1;
    let mut roots = Vec::new();
    for version in 1..=3 {
        // Version 1.6 has no unsigned numbers on the wire that it would not take for signed ones.
        let server = Fake::start(version, rows.clone());
        let failed = Arc::new(AtomicUsize::new(0));
        let counted = failed.clone();
        server.spoil(move |asked, answer| {
            counted.fetch_add(1, Ordering::SeqCst);
            match asked.number % 7 {
                1 => Answer { ends: Ends::Lost(answer.body.len() / 2), ..answer },
                3 => Answer::new(503, "busy"),
                _ => answer,
            }
        });
        let mut house = House::new(server.connection());
        house.start();
        let id = house.order(T - HOUR, end).await;
        let manifest = house.exported(id).await;
        assert!(failed.load(Ordering::SeqCst) > 4);
        assert_eq!(manifest.rows, rows.len() as u64);
        roots.push((version.to_string(), manifest.root));
        house.end().await;
    }
    let real = Influxd::start();
    let unsigned = rows.iter().any(|row| matches!(row.value, FieldValue::U64(_)));
    if installed() == 2 || !unsigned {
        rows.chunks(20_000).for_each(|some| real.write(&line_protocol(some)));
        let mut house = House::new(real.connection());
        house.start();
        let id = house.order(T - HOUR, end).await;
        roots.push(("real".to_owned(), house.exported(id).await.root));
        house.end().await;
    }
    assert!(roots.iter().all(|(_, root)| *root == roots[0].1), "{roots:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_ends_an_export_with_its_name_and_its_remedy() {
    let server = Fake::start(2, doubles(100));
    let mut house = House::new(server.connection());
    house.start();
    let told = house.failed(house.order(T - 9 * HOUR, T - HOUR).await).await;
    assert!(told.contains("historian") && told.contains("no points of energy"), "{told}");
    assert!(told.contains("between 2025-11-20T15:00:00Z and 2025-11-20T23:00:00Z"), "{told}");

    house.configure(|config| {
        let Server::Two { token, .. } = &mut config.connections[0].server else { panic!() };
        *token = Secret("another".to_owned());
    });
    let told = house.failed(house.order(T, T + HOUR).await).await;
    assert!(told.contains("historian") && told.contains("credentials"), "{told}");

    house.configure(|config| config.connections[0] = server.connection());
    house.configure(|config| {
        let Server::Two { bucket, .. } = &mut config.connections[0].server else { panic!() };
        *bucket = "elsewhere".to_owned();
    });
    let told = house.failed(house.order(T, T + HOUR).await).await;
    assert!(told.contains("elsewhere"), "{told}");

    house.configure(|config| config.connections[0] = server.connection());
    server.spoil(|_, _| {
        let page = "<!DOCTYPE html><html><body>Sign in</body></html>";
        Answer { headers: vec![("Content-Type", "text/html".to_owned())], ..Answer::new(200, page) }
    });
    let told = house.failed(house.order(T, T + HOUR).await).await;
    assert!(told.contains("historian"), "{told}");
    server.heal();
    house.exported(house.order(T, T + HOUR).await).await;

    let waits = house.order(T, T + HOUR).await;
    house.exported(waits).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_can_be_no_dataset_are_named() {
    let pair = vec![row(T, "power", FieldValue::F64(1.0)), row(T + 5, "power", FieldValue::F64(1.5))];
    let not_finite = vec![row(T, "power", FieldValue::F64(1.0)), row(T + 7, "power", FieldValue::F64(f64::INFINITY))];
    for (version, rows, words) in [(2, not_finite, ["power", "inf"])] {
        let server = Fake::start(version, rows);
        let mut house = House::new(server.connection());
        house.start();
        let told = house.failed(house.order(T - HOUR, T + HOUR).await).await;
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
        house.end().await;
    }
    // Only a server that repeats itself can give one key twice.
    let server = Fake::start(2, pair);
    server.spoil(|_, answer| {
        let text = String::from_utf8(answer.body.clone()).unwrap();
        let again = text.replace(",1.5,", ",2.5,");
        Answer { body: (text + &again).into_bytes(), ..answer }
    });
    let mut house = House::new(server.connection());
    house.start();
    let told = house.failed(house.order(T - HOUR, T + HOUR).await).await;
    assert!(["two values", "1.5", "2.5", "power"].iter().all(|word| told.contains(word)), "{told}");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for_and_told() {
    let server = Fake::start(1, doubles(1_000));
    let mut house = House::new(server.connection());
    server.spoil(|_, _| Answer::new(503, "no"));
    house.start();
    let id = house.order(T, T + HOUR).await;
    house.waits(id, "historian").await;
    assert_eq!(house.job(id).await.state, JobState::Running);
    server.heal();
    assert_eq!(house.exported(id).await.rows, 1_000);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gives_nothing_for_a_day_is_waited_for_no_longer() {
    let server = Fake::start(1, doubles(1_000));
    let mut house = House::new(server.connection());
    server.spoil(|_, _| Answer::new(503, "the disk of the historian is full"));
    house.start();
    // Almost a day is no day.
    let late = house.order(T, T + HOUR).await;
    house.waits(late, "503").await;
    house.jobs.clock.advance(Duration::from_secs(23 * 3_600));
    server.heal();
    assert_eq!(house.exported(late).await.rows, 1_000);

    server.spoil(|_, _| Answer::new(503, "the disk of the historian is full"));
    let never = house.order(T, T + HOUR).await;
    house.waits(never, "503").await;
    let next = house.order(T, T + HOUR).await;
    house.jobs.clock.advance(Duration::from_secs(24 * 3_600));
    let why = house.failed(never).await;
    assert!(!why.contains("  "), "{why}");
    for part in ["connection historian", "24 h", "the disk of the historian is full", "export it anew"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    server.heal();
    assert_eq!(house.exported(next).await.rows, 1_000, "it has its own day");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_holds_up_only_the_exports_from_it() {
    let (away, there) = (Fake::start(1, doubles(1_000)), Fake::start(2, doubles(500)));
    away.spoil(|_, _| Answer::new(503, "no"));
    let mut house = House::new(away.connection());
    house.configure(|config| config.connections.push(Connection { name: "mirror".to_owned(), ..there.connection() }));
    house.start();
    let first = house.order(T, T + HOUR).await;
    house.waits(first, "503").await;
    let behind = house.order(T, T + HOUR).await;
    let other = house.order_from("mirror", T, T + HOUR).await;
    assert_eq!(house.exported(other).await.rows, 500);
    house.waits(behind, &format!("export {first} of the same connection comes first")).await;
    let state = async |id| house.job(id).await.state;
    assert_eq!((state(first).await, state(behind).await), (JobState::Running, JobState::Queued));

    // Who works goes on, also when an older one could go on again.
    there.spoil(|_, answer| Answer { ends: Ends::Stalled(10), ..answer });
    let long = house.order_from("mirror", T, T + HOUR).await;
    house.told(long, |told| told.waiting.is_none()).await;
    house.waits(first, &format!("export {long} is at work")).await;
    away.heal();
    assert_eq!(state(first).await, JobState::Running);
    there.heal();
    house.jobs.ledger.drop_job(long, meterseal::model::Actor::here("first")).await.unwrap();
    for id in [first, behind] {
        assert_eq!(house.exported(id).await.rows, 1_000);
    }
    let ended = async |id| house.job(id).await.ended;
    assert!(ended(first).await <= ended(behind).await, "their order is kept");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stood_aside_goes_on_after_a_restart() {
    let (away, there) = (Fake::start(3, doubles(1_000)), Fake::start(2, doubles(500)));
    let second = || Connection { name: "mirror".to_owned(), ..there.connection() };
    away.spoil(|_, _| Answer::new(503, "no"));
    let mut house = House::new(away.connection());
    house.configure(|config| config.connections.push(second()));
    house.start();
    let first = house.order(T, T + HOUR).await;
    let other = house.order_from("mirror", T, T + HOUR).await;
    house.exported(other).await;
    house.waits(first, "503").await;
    let (limits, _folder) = house.end().await;
    let mut house = House::open(limits, away.connection());
    house.configure(|config| config.connections.push(second()));
    house.start();
    let other = house.order_from("mirror", T, T + HOUR).await;
    assert_eq!(house.exported(other).await.rows, 500);
    away.heal();
    assert_eq!(house.exported(first).await.rows, 1_000);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_another_site_is_made_anew() {
    let server = Fake::start(1, doubles(1_000));
    let mut house = House::new(server.connection());
    house.start();
    let first = house.order(T, T + HOUR).await;
    assert_eq!(house.exported(first).await.rows, 1_000);
    let (limits, _folder) = house.end().await;
    // As after a crash before the job's end, and a site that has another id since.
    let mut house = House::open(limits, server.connection());
    let id = house.order(T, T + HOUR).await;
    let manifest = std::fs::read_to_string(house.folder(first).join("manifest.json")).unwrap();
    let manifest = manifest.replace(&first.to_string(), &id.to_string()).replace("plant-7", "plant-8");
    std::fs::create_dir(house.folder(id)).unwrap();
    std::fs::write(house.folder(id).join("manifest.json"), manifest).unwrap();
    house.start();
    let manifest = house.exported(id).await;
    assert_eq!((manifest.site.as_str(), manifest.rows), ("plant-7", 1_000));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_nothing_and_the_next_one_begins() {
    let server = Fake::start(3, doubles(1_000));
    let mut house = House::new(server.connection());
    server.spoil(|_, answer| Answer { ends: Ends::Stalled(10), ..answer });
    house.start();
    let (first, second) = (house.order(T, T + HOUR).await, house.order(T, T + HOUR).await);
    house.told(first, |_| true).await;
    house.jobs.ledger.drop_job(first, meterseal::model::Actor::here("first")).await.unwrap();
    assert_eq!(house.over(first).await.state, JobState::Cancelled);
    server.heal();
    assert_eq!(house.exported(second).await.rows, 1_000);
    assert!(!house.jobs.reader.making_folder(first).exists() && !house.folder(first).exists());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_are_halved_until_the_server_bears_them() {
    let server = Fake::start(2, doubles(5_000));
    server.spoil(|asked, answer| {
        // What is asked for before the first rows, to learn the types, is short anyway.
        if asked.to - asked.from > 10 * 60 * SECOND && !asked.text.contains("first()") {
            return Answer::new(413, r#"{"code":"request too large","message":"too much"}"#);
        }
        answer
    });
    let mut house = House::new(server.connection());
    house.start();
    let manifest = house.exported(house.order(T, T + 2 * HOUR).await).await;
    assert_eq!(manifest.rows, 5_000);
    assert!(manifest.windows.iter().all(|window| window.to_ns - window.from_ns <= 10 * 60 * SECOND));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_query_is_exported_as_it_is_answered() {
    if installed() != 1 {
        println!("skipped: the influxd on the PATH is not version 1");
        return;
    }
    let server = Influxd::start();
    server.write(&line_protocol(&doubles(100)));
    let mut house = House::new(server.connection());
    let text = "SELECT mean(power) AS mean FROM energy WHERE time >= $from AND time < $to GROUP BY time(10s)";
    house.configure(|config| {
        config.queries.push(Query { name: "means".to_owned(), asked: Asked::Result(text.to_owned()) });
    });
    house.start();
    let manifest = house.exported(house.order_query("means", T, T + 100 * SECOND).await).await;
    assert_eq!((manifest.rows, manifest.windows.len()), (10, 1));
    let told = house.failed(house.order_query("means", T - HOUR, T - HOUR / 2).await).await;
    assert!(told.contains("no rows; correct the query or the period (query means between"), "{told}");
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_waits_for_a_full_disk_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=64m", "meterseal-test", path]).stderr(std::process::Stdio::null());
    if !mount.status().is_ok_and(|done| done.success()) {
        println!("not run: mounting a small file system needs root");
        return;
    }
    let server = Fake::start(2, doubles(2_000));
    let limits = house::limits(folder.path());
    let mut house = House::made(limits, server.connection());
    let filler = folder.path().join("filler");
    std::fs::write(&filler, vec![1; 40 << 20]).unwrap();
    house.start();
    let id = house.order(T, T + HOUR).await;
    house.waits(id, "disk full: make room").await;
    assert!(!house.jobs.reader.health().reserve_used);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(house.exported(id).await.rows, 2_000);
    house.end().await;
    let done = std::process::Command::new("umount").arg("--lazy").arg(path).status();
    assert!(done.unwrap().success());
}
