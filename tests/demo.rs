//! `meterseal demo` as a person meets it: what it prints is pasted, and what it shows is looked at.

#![allow(clippy::unwrap_used)] // a test that cannot go on ends

#[path = "peers/mosquitto.rs"]
mod mosquitto;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The demo in a process of its own, with `folder` for its temporary files.
struct Demo {
    process: Child,
    page: String,
    token: String,
    pin: String,
    curls: Vec<String>,
}

impl Demo {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.args(["demo", "--listen", "127.0.0.1:0"]).args(more).env("TMPDIR", folder).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut next = || lines.next().expect("the demo ended before it was ready");
        let page = next().strip_prefix("page: ").unwrap().to_owned();
        let pin = next().strip_prefix("pin: ").unwrap().to_owned();
        let token = next().strip_prefix("token: ").unwrap().to_owned();
        let curls = (0..3).map(|_| next()).collect();
        Self { process, page, pin, token, curls }
    }

    fn get(&self, path: &str) -> Value {
        let site = self.page.trim_end_matches('/');
        let text = shell(&format!("curl -sSf -H 'Authorization: Bearer {}' '{site}{path}'", self.token));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Asks again until the answer is as wanted.
    fn wait(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let answer = self.get(path);
            if wanted(&answer) {
                return answer;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{path} stays {answer:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// As Ctrl-C does.
    fn interrupt(mut self) {
        shell(&format!("kill -INT {}", self.process.id()));
        assert!(self.process.wait().unwrap().success());
    }
}

/// A test that fails leaves no daemon behind.
impl Drop for Demo {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn shell(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

fn flags(block: &Value) -> Vec<&str> {
    block["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()).collect()
}

#[test]
fn the_demo_has_a_day_behind_it_and_goes_on_without_a_seam() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    let ready = jiff::Timestamp::now();

    assert!(shell(&format!("curl -sSf '{}'", demo.page)).contains("<html"), "the page answers");
    let sign_in = format!("curl -sSf -d '{{\"pin\":\"{}\"}}' '{}api/session'", demo.pin, demo.page);
    assert_eq!(serde_json::from_str::<Value>(&shell(&sign_in)).unwrap()["role"], "admin");
    let pasted: Vec<String> = demo.curls.iter().map(|line| shell(line)).collect();
    for json in &pasted[..2] {
        assert!(serde_json::from_str::<Value>(json).is_ok_and(|json| json.get("status").is_none()), "{json}");
    }
    assert!(pasted[2].lines().count() > 48, "{}", pasted[2]);

    let meters = demo.get("/api/meters");
    let meters = meters.as_array().unwrap();
    let mut categories: Vec<_> = meters.iter().map(|meter| meter["category"].as_str().unwrap()).collect();
    categories.sort_unstable();
    categories.dedup();
    assert_eq!((meters.len(), categories), (8, vec!["CONS", "INJ", "PROD", "STOR"]));
    assert!(meters.iter().all(|meter| meter["simulated"] == true));

    // Readings of the running daemon have come, and nothing is missing between them and the history.
    let open = demo.wait("/api/meters/line-a/current-block", |open| time(&open["at"]) > ready);
    assert_eq!(flags(&open), ["simulated"]);
    let from = ready - jiff::SignedDuration::from_hours(26);
    for meter in meters {
        let id = meter["id"].as_str().unwrap();
        let blocks = demo.get(&format!("/api/meters/{id}/blocks?from={from}&to={ready}"));
        let blocks = blocks.as_array().unwrap();
        assert!(blocks.len() >= 47, "{id}: {} blocks", blocks.len());
        assert!(blocks.windows(2).all(|pair| pair[0]["end"] == pair[1]["start"]), "{id}: a block is missing");
        for block in blocks {
            assert!(flags(block).contains(&"simulated") && block["method"] == "counter", "{id}: {block:#}");
            assert!(id == "compressor" || flags(block) == ["simulated"], "{id}: {block:#}");
        }
        let peaks = blocks.iter().filter(|block| block["is_peak_hour"] == true).count();
        assert!((15..=17).contains(&peaks), "{id}: {peaks} blocks of peak hours");

        // The first reading lies on the first border, so that blocks add up to what the counter says.
        let (first, last) = (blocks.first().unwrap(), blocks.last().unwrap());
        let counter = |at: jiff::Timestamp| {
            let near = jiff::SignedDuration::from_secs(120);
            let readings = demo.get(&format!("/api/meters/{id}/readings?from={}&to={}", at - near, at + near));
            border(readings.as_array().unwrap(), at)
        };
        let (begin, end) = (counter(time(&first["start"])), counter(time(&last["end"])));
        let sum: f64 = blocks.iter().map(|block| block["kwh_import"].as_f64().unwrap()).sum();
        assert!((end - begin - sum).abs() < 1e-6, "{id}: {begin} to {end} kWh, and blocks of {sum} kWh");
    }

    demo.interrupt();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the demo leaves nothing behind");
}

/// The import counter at `at`, in a straight line between the readings around it.
fn border(readings: &[Value], at: jiff::Timestamp) -> f64 {
    let point = |reading: &Value| {
        let millis = time(&reading["time"]).as_millisecond() - at.as_millisecond();
        (millis as f64, reading["energy_import_kwh"].as_f64().unwrap())
    };
    let points: Vec<_> = readings.iter().map(point).collect();
    let after = points.iter().position(|(millis, _)| *millis >= 0.0).expect("a reading at the border or after it");
    let (t1, v1) = points[after];
    if t1 <= 0.0 {
        return v1;
    }
    let (t0, v0) = points[after.checked_sub(1).expect("a reading before the border")];
    v0 + (v1 - v0) * -t0 / (t1 - t0)
}

#[test]
fn the_demos_own_meters_are_found_between_its_polls() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("kept");
    let demo = Demo::start(folder.path(), &["--meters", "3", "--data", data.to_str().unwrap()]);
    let config = data.join("meterseal.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let address = text.lines().find_map(|line| line.strip_prefix("tcp = ")).unwrap().trim_matches('"');

    let mut scan = Command::new(env!("CARGO_BIN_EXE_meterseal"));
    let output = scan.args(["scan", address, "--units", "1-6", "-c"]).arg(&config).output().unwrap();
    let (pasted, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&format!("looking for units 1-6 on {address}, between the polls of line simulated-")),
        "{said}"
    );
    assert!(
        said.contains("unit 1: simulated (by its values: ") && said.contains(", which is meter main-incomer"),
        "{said}"
    );
    assert!(said.contains("3 units found, ") && pasted.contains("# Unit 3 is meter line-b of the running config."));

    let site = demo.page.trim_end_matches('/');
    let post = format!("curl -sS -X POST -H 'Authorization: Bearer {}' '{site}/api/scan'", demo.token);
    let order = |address: &str, units: &str| {
        format!("{post} -d '{{\"tcp\": \"{address}\", \"units\": \"{units}\", \"timeout_ms\": 50}}'")
    };
    // Takes connections and says nothing: a search there takes minutes.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = (mute.local_addr().unwrap().to_string(), mute);
    // A search under way keeps another out, and who goes away ends his own.
    let mut slow =
        Command::new("sh").args(["-c", &format!("exec {}", order(&mute.0, "1-247"))]).stdout(Stdio::piped()).spawn();
    let slow = slow.as_mut().unwrap();
    // Kept open until the search is to end: a client whose output is closed goes away by itself.
    let (mut told, mut begun) = (BufReader::new(slow.stdout.take().unwrap()), String::new());
    told.read_line(&mut begun).unwrap();
    assert!(begun.starts_with(r#"{"event":"begun","tcp":"#), "{begun}");
    let refused: Value = serde_json::from_str(&shell(&order(address, "1-3"))).unwrap();
    assert_eq!((&refused["status"], &refused["title"]), (&409.into(), &"Conflict".into()));
    slow.kill().unwrap();
    slow.wait().unwrap();
    drop(told);
    let began = Instant::now();
    let events = loop {
        let events = shell(&order(address, "1-3"));
        if events.starts_with(r#"{"event":"#) {
            break events;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the search goes on without its client: {events}");
    };
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events.last().unwrap()["event"], &events.last().unwrap()["found"]), (&"end".into(), &3.into()));
    demo.interrupt();
}

#[test]
fn two_more_meters_publish_through_a_broker_that_is_given() {
    let (folder, broker) = (tempfile::tempdir().unwrap(), mosquitto::Mosquitto::start(""));
    let demo = Demo::start(folder.path(), &["--mqtt", &format!("mqtt://127.0.0.1:{}", broker.port)]);
    for (id, name) in [("press", "Press (Acrel, MQTT)"), ("plug", "Plug (Tasmota, MQTT)")] {
        let shows = |meter: &Value| meter["power_kw"].is_number() && meter["condition"] == "answering";
        let meter = demo.wait(&format!("/api/meters/{id}"), shows);
        assert_eq!((meter["name"].as_str(), &meter["simulated"]), (Some(name), &Value::Bool(true)));
        assert_eq!((meter["kind"].as_str(), meter["broker"].as_str()), (Some("mqtt"), Some("demo-broker")));
        let counts = |plant: &Value| plant["current_blocks"][id]["kwh"].as_f64().is_some_and(|kwh| kwh > 0.0);
        demo.wait("/api/dashboard/snapshot", counts);
    }
    demo.interrupt();
}

#[test]
fn a_demo_whose_folder_is_kept_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("kept");
    let started = || Demo::start(folder.path(), &["--meters", "2", "--data", data.to_str().unwrap()]);
    let blocks = |demo: &Demo| {
        let now = jiff::Timestamp::now();
        let from = now - jiff::SignedDuration::from_hours(26);
        demo.get(&format!("/api/meters/line-a/blocks?from={from}&to={now}")).as_array().unwrap().clone()
    };
    let first = started();
    let (token, pin, before) = (first.token.clone(), first.pin.clone(), blocks(&first));
    first.interrupt();
    let second = started();
    assert_eq!((&second.token, &second.pin), (&token, &pin));
    let after = blocks(&second);
    assert_eq!(after[..before.len()], before, "what was sealed stays as it was");
    let now = jiff::Timestamp::now();
    let open = second.wait("/api/meters/line-a/current-block", |open| time(&open["at"]) > now);
    assert_eq!(flags(&open), ["simulated"]);
    second.interrupt();

    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("letter.txt"), "dear").unwrap();
    let demo = env!("CARGO_BIN_EXE_meterseal");
    let refused = Command::new(demo).args(["demo", "--data"]).arg(&taken).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds something else than a demo"));
    assert_eq!(std::fs::read_dir(&taken).unwrap().count(), 1, "nothing of it is touched");
}
