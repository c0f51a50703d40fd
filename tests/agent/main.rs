//! The whole agent from a config: meters that speak real Modbus on free ports, a store in a temporary folder.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod anchors;
mod backup;
mod config;
mod doctor;
mod edits;
#[path = "../peers/layout.rs"]
mod layout;
mod log;
mod meter;
mod plant;
#[allow(dead_code, reason = "these tests have no two ports to join")]
#[path = "../modbus/pty.rs"]
mod pty;
#[path = "../peers/small_disk.rs"]
mod small_disk;
mod start;
mod upstreams;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use meterseal::agent::admin::{Reloaded, Request};
use meterseal::model::{AlertKind, Cause, MeterId, PollReport};
use meterseal::store::Reader;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use meter::{FakeMeter, SERIAL_NUMBER};
use plant::{Daemon, PATIENCE, Plant, ask, line, through_seq};

/// Waits until committed values are as wanted.
async fn live(reader: &Reader, wanted: impl Fn(&meterseal::store::LiveValues) -> bool) {
    let mut committed = reader.committed();
    let seen = async {
        while !wanted(&reader.live()) {
            committed.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, seen).await.expect("the values come");
}

/// Waits until `holds` does.
async fn until(holds: impl AsyncFn() -> bool) {
    let seen = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, seen).await.expect("it comes to what is wanted");
}

fn client() -> reqwest::Client {
    // Any of the tests may be the first of the process.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::new()
}

fn id(text: &str) -> MeterId {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_meter_says_is_stored_and_shown() {
    let meter = FakeMeter::start().await;
    let (plant, token) = Plant::new(&line("a", meter.address, &[("main", 2)]));
    let agent = plant.agent().await;
    live(agent.reader(), |live| live.get(&id("main")).is_some_and(|values| values.len() == 2)).await;
    let url = format!("http://{}/api/meters", agent.address());
    let client = client();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    let answer = client.get(&url).bearer_auth(&token).send().await.unwrap();
    let meters: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(meters[0]["id"], "main");
    assert_eq!(meters[0]["power_kw"], 2.052);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_that_is_exchanged_while_the_daemon_runs_is_told_until_it_is_back() {
    let meter = FakeMeter::start().await;
    meter.plug_in(7);
    let lines = format!(
        "[[modbus]]\nname = \"a\"\ntcp = \"{}\"\ntimeout = \"200ms\"\n[[modbus.meter]]\nid = \"main\"\n\
         name = \"Main incomer\"\nunit = 2\ncategory = \"CONS\"\ninterval = \"100ms\"\ntemplate = \"acme\"\n",
        meter.address
    );
    let plant = Plant::bare("");
    let template = |scale: &str| {
        format!(
            "title = \"Acme\"\nevidence = \"made up\"\n[registers]\nfunction = \"input\"\ntype = \"f32\"\n\
             power_kw = {{ address = 52, scale = {scale} }}\n\
             [identity]\nfunction = \"input\"\nserial_number = {{ address = {SERIAL_NUMBER}, type = \"u16\" }}\n"
        )
    };
    plant.write_template("acme", &template("0.001"));
    plant.write(&lines);
    let token = plant.init();
    let mut agent = plant.agent().await;
    let client = client();
    let serial = async |address| {
        let url = format!("http://{address}/api/meters/main");
        let answer = client.get(&url).bearer_auth(&token).send().await.unwrap();
        let meter: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        meter["commissioning"]["serial_number"].clone()
    };
    until(async || serial(agent.address()).await == "7").await;
    let reader = agent.reader().clone();
    let open = async || reader.alerts(true, 10).await.unwrap();
    assert_eq!(open().await, []);

    // Somebody puts another meter in its place, which takes a while: several polls are not answered.
    let timeouts = async || -> u64 {
        let status = ask(&plant.socket(), &Request::Status {}).await.unwrap();
        status["sources"]["meters"]["main"]["timeouts"].as_u64().unwrap()
    };
    let exchange = async |number| {
        let before = timeouts().await;
        meter.unplug();
        until(async || timeouts().await > before + 1).await;
        meter.plug_in(number);
        until(async || serial(agent.address()).await == number.to_string().as_str()).await;
    };
    exchange(8).await;
    until(async || open().await.len() == 1).await;
    let alert = open().await.remove(0);
    assert_eq!((alert.kind, alert.meter), (AlertKind::MeterChanged, Some(id("main"))));
    let told = "Main incomer (line a, unit 2) is not what it was: serial number was 7 and is 8.";
    assert!(alert.text.starts_with(told), "{}", alert.text);
    exchange(7).await;
    until(async || open().await.is_empty()).await;

    // A person edits the config: a record, and no alert. Somebody edits the template: an alert.
    plant.write(&format!("{lines}ct_ratio = \"200/5\"\n"));
    agent.reload().await;
    let causes = async || {
        let records = reader.commissionings(&id("main"), 20).await.unwrap();
        records.iter().map(|record| record.cause).collect::<Vec<_>>()
    };
    until(async || causes().await.last() == Some(&Cause::Configured)).await;
    plant.write_template("acme", &template("0.002"));
    agent.reload().await;
    until(async || open().await.len() == 1).await;
    assert!(open().await[0].text.contains("another register map"), "{:?}", open().await);
    use Cause::{Changed, Configured, First, Restored};
    assert_eq!(causes().await, [First, Changed, Restored, Configured, Changed]);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_a_meter_and_leaves_the_others_alone() {
    let (first, second) = (FakeMeter::start().await, FakeMeter::start().await);
    let one = line("a", first.address, &[("one", 1)]);
    let (plant, _) = Plant::new(&one);
    let mut agent = plant.agent().await;
    live(agent.reader(), |live| live.contains_key(&id("one"))).await;

    let sum = "[[sum]]\nid = \"both\"\nadd = [\"one\", \"two\"]\ncategory = \"CONS\"\n";
    plant.write(&format!("{one}{}{sum}", line("b", second.address, &[("two", 1)])));
    let reloaded = agent.reload().await;
    assert_eq!(reloaded.changed, ["blocks", "meters", "sources"]);
    assert_eq!((reloaded.at_next_start, reloaded.faults), (Vec::new(), Vec::new()));
    live(agent.reader(), |live| live.contains_key(&id("two"))).await;
    assert_eq!((first.connections(), second.connections()), (1, 1));

    // The same file again changes nothing.
    assert_eq!(agent.reload().await, Reloaded::default());
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_refused_told_and_forgotten_once_it_is_mended() {
    let meter = FakeMeter::start().await;
    let good = line("a", meter.address, &[("one", 1)]);
    let (plant, _) = Plant::new(&good);
    let mut agent = plant.agent().await;
    live(agent.reader(), |live| live.contains_key(&id("one"))).await;

    plant.write(&good.replace("unit = 1", "unit = 1000"));
    let reloaded = agent.reload().await;
    assert_eq!(reloaded.faults.len(), 1, "{:?}", reloaded.faults);
    assert!(
        reloaded.faults[0].ends_with("modbus[0].meter[0].unit: 1000 is not within 0 to 255"),
        "{:?}",
        reloaded.faults
    );
    agent.reload().await;
    let open = agent.reader().alerts(true, 10).await.unwrap();
    assert_eq!(open.iter().map(|alert| alert.kind).collect::<Vec<_>>(), [AlertKind::ConfigRefused]);
    assert!(open[0].text.contains("unit: 1000 is not within 0 to 255"), "{}", open[0].text);
    // What ran goes on.
    let before = *agent.reader().committed().borrow();
    let mut committed = agent.reader().committed();
    timeout(PATIENCE, committed.wait_for(|seq| *seq > before + 2)).await.unwrap().unwrap();

    plant.write(&good.replace("unit = 1", "unit = 3"));
    let reloaded = agent.reload().await;
    assert!(reloaded.faults.is_empty() && reloaded.changed.contains(&"sources".to_owned()), "{reloaded:?}");
    assert_eq!(agent.reader().alerts(true, 10).await.unwrap(), []);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_moves_and_stays_where_it_cannot() {
    let (plant, _) = Plant::new("");
    let mut agent = plant.agent().await;
    let first = agent.address();
    let text = std::fs::read_to_string(plant.config()).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(plant.config(), text.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string())).unwrap();
    assert_eq!(agent.reload().await.at_next_start, ["web.listen"]);
    assert_eq!(agent.address(), first);
    assert!(client().get(format!("http://{first}/api/health")).send().await.unwrap().status().is_success());

    drop(taken);
    assert_eq!(agent.reload().await, Reloaded { changed: vec!["web".to_owned()], ..Reloaded::default() });
    let second = agent.address();
    assert_ne!(first, second);
    assert!(client().get(format!("http://{second}/api/health")).send().await.unwrap().status().is_success());
    assert!(TcpStream::connect(first).await.is_err());
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_comes_and_goes_at_the_same_address() {
    let (plant, _) = Plant::new("");
    let mut agent = plant.agent().await;
    let (address, text) = (agent.address(), std::fs::read_to_string(plant.config()).unwrap());
    let said = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /api/health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = ask(&plant.socket(), &Request::Status {}).await.unwrap();
        (answer[9..12].to_owned(), status["page"].as_str().unwrap()[..6].to_owned(), status["fingerprint"].clone())
    };
    assert_eq!(said().await, ("200".to_owned(), "http:/".to_owned(), Value::Null));

    std::fs::write(plant.config(), text.replace("[web]\n", "[web]\ntls = \"self-signed\"\n")).unwrap();
    assert_eq!(agent.reload().await.changed, ["web"]);
    let (status, scheme, fingerprint) = said().await;
    assert_eq!((status.as_str(), scheme.as_str(), agent.address()), ("308", "https:", address));
    assert_eq!(fingerprint.as_str().unwrap().len(), 32 * 3 - 1);
    let told = plant.output(&["check"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains(&format!("certificate of the page (SHA-256): {}\n", fingerprint.as_str().unwrap())),
        "{told}"
    );

    // What others can reach is never without.
    std::fs::write(plant.config(), text.replace("127.0.0.1:0\"", "0.0.0.0:0\"\ntls = \"off\"")).unwrap();
    assert!(agent.reload().await.faults[0].contains("web.tls: an address that others can reach needs TLS"));
    assert_eq!(said().await.0, "308");

    std::fs::write(plant.config(), text).unwrap();
    assert_eq!(agent.reload().await.changed, ["web"]);
    assert_eq!(said().await, ("200".to_owned(), "http:/".to_owned(), Value::Null));
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_change_while_it_runs_waits_for_the_next_start() {
    let (plant, _) = Plant::new("");
    let mut agent = plant.agent().await;
    let text = std::fs::read_to_string(plant.config()).unwrap();
    std::fs::write(plant.config(), text.replace("id = \"test\"", "id = \"other\"").replace("/store", "/elsewhere"))
        .unwrap();
    assert_eq!(agent.reload().await.at_next_start, ["site.id", "store.path"]);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_reads_reloads_checks_and_bears_nonsense() {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("one", 1)]));
    let mut daemon = plant.daemon();
    daemon.status(|_| true).await;
    let report: Value = ask(&plant.socket(), &Request::Read { meter: id("one") }).await.unwrap();
    let report: PollReport = serde_json::from_value(report).unwrap();
    let power = report.values.iter().find(|value| value.quantity.as_str() == "power_kw").unwrap();
    assert_eq!((power.value, power.register), (Some(1.052), 52));
    assert_eq!(power.words, [0x4483, 0x8000]);
    let error = ask(&plant.socket(), &Request::Read { meter: id("two") }).await.unwrap_err();
    assert_eq!(error.to_string(), "no meter `two` in the config");
    assert_eq!(ask(&plant.socket(), &Request::Check {}).await.unwrap()["faults"], serde_json::json!([]));
    let reloaded: Reloaded = serde_json::from_value(ask(&plant.socket(), &Request::Reload {}).await.unwrap()).unwrap();
    assert_eq!(reloaded, Reloaded::default());

    for nonsense in
        ["hello\n".to_owned(), "x".repeat(100_000), "{\"do\":\"format_disk\"}\n".to_owned(), "\n".to_owned()]
    {
        let mut stream = UnixStream::connect(plant.socket()).await.unwrap();
        // A request that is too long is cut off: then writing or reading the rest fails, and that is fine.
        stream.write_all(nonsense.as_bytes()).await.ok();
        stream.shutdown().await.ok();
        let mut answer = String::new();
        if stream.read_to_string(&mut answer).await.is_ok() && nonsense.len() < 100 {
            assert!(answer.starts_with("{\"failed\":\"not a request: "), "{answer}");
        }
    }
    daemon.status(|_| true).await;
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(plant.socket()).unwrap().permissions().mode() & 0o777, 0o600);

    let read = plant.output(&["read", "one"]);
    let table = String::from_utf8(read.stdout).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["quantity", "value", "unit", "register", "raw", "words"]);
    assert!(rows.contains(&vec!["power_kw", "1.052", "kW", "52", "0x34", "4483", "8000"]), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_comes_while_a_poll_is_under_way_tells_values_too() {
    let meter = FakeMeter::slow(Duration::from_millis(40)).await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("one", 1)]));
    let mut daemon = plant.daemon();
    daemon.status(|status| through_seq(status) > 0).await;
    for _ in 0..20 {
        let report: Value = ask(&plant.socket(), &Request::Read { meter: id("one") }).await.unwrap();
        let report: PollReport = serde_json::from_value(report).unwrap();
        assert!(report.values.len() == 2 && report.values.iter().all(|value| value.value.is_some()), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_is_read_straight_while_no_daemon_runs() {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("one", 1)]));
    let read = plant.output(&["read", "one", "--json"]);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let report: PollReport = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(report.values.len(), 2);
    let read = plant.output(&["read", "two"]);
    assert_eq!(read.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(read.stderr).unwrap(),
        "meterseal: no meter `two` in the config\nKnown meters: one.\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused_and_told_who_has_the_store() {
    let (plant, _) = Plant::new("");
    let mut daemon = plant.daemon();
    let pid = daemon.status(|_| true).await["pid"].as_u64().unwrap();
    let second = plant.output(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    let expected = format!("meterseal: the store at {} is open in process {pid}", plant.store().display());
    assert!(said.lines().any(|line| line == expected), "{said}");
    daemon.status(|_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_after_a_kill_where_it_was() {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("one", 1), ("two", 2)]));
    let mut seen = 0;
    for _ in 0..3 {
        let mut daemon = plant.daemon();
        let status = daemon.status(|status| through_seq(status) > seen + 5).await;
        seen = through_seq(&status);
        daemon.signal(Signal::KILL);
        daemon.ended();
    }
    let mut daemon = plant.daemon();
    assert!(through_seq(&daemon.status(|_| true).await) >= seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_in_less_than_ten_seconds_also_with_meters_away() {
    let (meter, mute) = (FakeMeter::start().await, FakeMeter::mute().await);
    let slow = line("b", mute.address, &[("mute", 1)]).replace("500ms", "30s");
    let nowhere = line("c", "no-such-host.invalid:502", &[("nowhere", 1)]);
    let (plant, token) = Plant::new(&format!("{}{slow}{nowhere}", line("a", meter.address, &[("one", 1)])));
    let mut daemon = plant.daemon();
    let status = daemon.status(|status| through_seq(status) > 3).await;
    // Somebody looks at the page; others have connected and say nothing.
    let page = status["page"].as_str().unwrap();
    let mut events = client().get(format!("{page}api/events")).bearer_auth(&token).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    let address = page.trim_start_matches("http://").trim_end_matches('/');
    let _idle = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    let _asks = UnixStream::connect(plant.socket()).await.unwrap();
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    let (status, said) = daemon.ended();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(status.success(), "{status}: {said}");
    assert!(said.contains("SIGTERM: stopping") && !said.contains("stopped before it finished"), "{said}");
    assert!(said.ends_with(" stopped\n") && !said.contains("stage="), "{said}");
    // The name of the holder is gone with it: the next one starts at once.
    plant.daemon().status(|_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_ends_with_78_unless_there_is_a_last_good_one() {
    let meter = FakeMeter::start().await;
    let good = line("a", meter.address, &[("one", 1)]);
    let (plant, _) = Plant::new(&good);
    plant.write(&good.replace("unit", "unt"));
    let refused = plant.output(&["run"]);
    assert_eq!(refused.status.code(), Some(78));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("modbus[0].meter[0].unt: no such key; did you mean `unit`?"), "{said}");
    assert!(said.contains("and there is no last good config\n"), "{said}");

    plant.write(&good);
    let mut daemon = plant.daemon();
    daemon.status(|status| through_seq(status) > 0).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());

    plant.write(&good.replace("unit", "unt"));
    let mut daemon = plant.daemon();
    let before = through_seq(&daemon.status(|_| true).await);
    let status = daemon.status(|status| through_seq(status) > before).await;
    let problem = status["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("The config on disk is refused and the last good one runs: "), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_store_is_no_empty_one() {
    let plant = Plant::bare("");
    let refused = plant.output(&["run"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("run `meterseal init`"), "{said}");
    let made = plant.output(&["init"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(String::from_utf8(made.stdout).unwrap().contains("\ntoken:   "));
    let again = plant.output(&["init"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("there is already a store at"));
    let mut daemon = plant.daemon();
    let well = plant.output(&["health", "--wait", "60"]);
    assert!(well.status.success(), "{}", String::from_utf8_lossy(&well.stderr));
    let page = daemon.status(|_| true).await["page"].as_str().unwrap().to_owned();
    let said = String::from_utf8(well.stdout).unwrap();
    assert!(said.contains(" runs and stores what it reads\n") && said.contains(&format!("page: {page}\n")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_deleted_under_the_daemon_is_told_and_the_daemon_is_found() {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("one", 1)]));
    let run = tempfile::tempdir().unwrap();
    let command = |arguments: &[&str]| {
        let mut command = plant.command(arguments);
        command.env("RUNTIME_DIRECTORY", run.path());
        command
    };
    let mut daemon = Daemon::start(command(&["run"]), run.path().join("meterseal.sock"));
    daemon.status(|status| through_seq(status) > 0).await;
    std::fs::remove_dir_all(plant.store()).unwrap();
    let told = command(&["health"]).output().unwrap();
    let said = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(1));
    assert!(said.contains("the daemon runs and cannot store") && said.contains("its folder is gone"), "{said}");
}

#[test]
fn health_looks_at_no_other_store_than_that_of_the_config() {
    let (plant, _) = Plant::new("");
    let asked = |wanted: &str| {
        let told = plant.output(&["health"]);
        assert_eq!(told.status.code(), Some(1));
        let said = String::from_utf8(told.stderr).unwrap();
        assert!(said.contains(wanted) && !said.contains("no daemon runs"), "{said}");
    };
    let good = std::fs::read_to_string(plant.config()).unwrap();
    std::fs::write(plant.config(), good.replace("[store]\npath = \"", "[store]\npath = \"here")).unwrap();
    asked("store.path");
    std::fs::remove_file(plant.config()).unwrap();
    asked("cannot be read");
}

/// Takes messages until one of them has this line.
fn told(systemd: &UnixDatagram, wanted: &str) -> String {
    let (mut buffer, began) = ([0; 4_096], Instant::now());
    loop {
        assert!(began.elapsed() < PATIENCE, "no {wanted}");
        let length = systemd.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
        let message = std::str::from_utf8(&buffer[..length]).unwrap().to_owned();
        if message.lines().any(|line| line.starts_with(wanted)) {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_start_life_reload_and_end() {
    let meter = FakeMeter::start().await;
    let (plant, _) = Plant::new(&line("a", meter.address, &[("one", 1)]));
    let notify = plant.store().join("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = plant.command(&["run"]);
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "1500000");
    let daemon = Daemon::start(command, plant.socket());
    told(&systemd, "READY=1");
    told(&systemd, "WATCHDOG=1");
    told(&systemd, "STATUS=1 of 1 meters answer");
    daemon.signal(Signal::HUP);
    assert!(told(&systemd, "RELOADING=1").contains("MONOTONIC_USEC="));
    told(&systemd, "READY=1");
    told(&systemd, "WATCHDOG=1");
    daemon.signal(Signal::TERM);
    told(&systemd, "STOPPING=1");
    assert!(daemon.ended().0.success());
}

const CHILD: &str = "METERSEAL_TEST_PANICS";

/// Does nothing by itself: the next test runs it in a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_panics_in_a_task() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    meterseal::agent::end_on_panic();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async { panic!("the slot is gone") });
    // Nobody looks at the task; without the hook this would wait for ever.
    std::future::pending::<()>().await;
}

#[test]
fn a_panic_in_any_task_ends_the_process_with_a_message() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_panics_in_a_task", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(1));
    let said = String::from_utf8(child.stderr).unwrap();
    assert!(said.contains("panic in thread") && said.contains("the slot is gone"), "{said}");
}
