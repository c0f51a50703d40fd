//! Exports as a person has them made: over HTTP from the whole agent, and by the command.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use meterseal::agent::{Agent, LogLines, Setup};
use meterseal::clock::Clock;
use meterseal::config::{self, Checked};
use meterseal::model::Timestamp;
use meterseal::store::{self, Store};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::doubles;
use super::fake::Fake;
use super::house::{HOUR, House, T, checked};

struct Plant {
    folder: tempfile::TempDir,
    token: String,
}

impl Plant {
    fn new(server: &Fake) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let head = "[site]\nid = \"plant-7\"\ntimezone = \"Europe/Berlin\"\n[web]\nlisten = \"127.0.0.1:0\"\n";
        let store = folder.path().join("store");
        let store = format!("[store]\npath = \"{}\"\nreserve = \"1MB\"\n", store.display());
        let query = "[[query]]\nname = \"energy\"\nmeasurement = \"energy\"\n";
        let text = format!("{head}{store}{}{query}", server.config());
        std::fs::write(folder.path().join("meterseal.toml"), text).unwrap();
        let mut plant = Self { folder, token: String::new() };
        let config = plant.load().config.unwrap();
        plant.token = store::init(&config.store, &config.site_id, &Clock::trusted()).unwrap().token;
        plant
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("meterseal.toml")
    }

    fn load(&self) -> Checked {
        config::load(&self.config(), Timestamp::from_millis(T / 1_000_000)).1
    }

    async fn agent(&self) -> Agent {
        let Checked { config, kept, faults, .. } = self.load();
        let config = config.unwrap_or_else(|| panic!("{faults:?}"));
        let socket = config.store.path.join("run/meterseal.sock");
        let clock = Clock::trusted();
        let store = Store::open(config.store.clone(), clock.clone(), Some(socket)).unwrap();
        let setup =
            Setup { config, kept, path: Some(self.config()), clock, refused: Vec::new(), log: LogLines::default() };
        Agent::start(setup, store).await.unwrap()
    }

    fn request(&self, agent: &Agent, method: Method, path: &str) -> RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.request(method, format!("http://{}{path}", agent.address())).bearer_auth(&self.token)
    }

    async fn get(&self, agent: &Agent, path: &str) -> Response {
        self.request(agent, Method::GET, path).send().await.unwrap()
    }

    async fn order(&self, agent: &Agent, order: Value) -> Response {
        self.request(agent, Method::POST, "/api/bulk").body(order.to_string()).send().await.unwrap()
    }

    /// `meterseal export` of a period, in a process of its own.
    async fn export(&self, arguments: &[&str], into: &Path) -> Output {
        let period = ["historian", "--query", "energy", "--from", "2025-11-21T01:00"];
        self.command(&[&period, arguments].concat(), into).await
    }

    /// `meterseal export`, in a process of its own.
    async fn command(&self, arguments: &[&str], into: &Path) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.arg("export").args(arguments).arg("-c").arg(self.config()).arg("-o").arg(into);
        for name in ["RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "METERSEAL_LOG"] {
            command.env_remove(name);
        }
        let run = move || command.stdin(Stdio::null()).output().unwrap();
        tokio::task::spawn_blocking(run).await.unwrap()
    }
}

async fn json_of(answer: Response) -> Value {
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_ordered_watched_downloaded_and_deleted_over_http() {
    let server = Fake::start(2, doubles(3_000));
    let plant = Plant::new(&server);
    let agent = plant.agent().await;
    for (order, status, told) in [
        (
            json!({ "connection": "historiam", "query": "energy", "from": "2025-11-21", "to": "2025-11-22" }),
            400,
            "did you mean historian?",
        ),
        (
            json!({ "connection": "historian", "query": "energie", "from": "2025-11-21", "to": "2025-11-22" }),
            400,
            "did you mean energy?",
        ),
        (
            json!({ "connection": "historian", "query": "energy", "from": "2025-11-22", "to": "2025-11-21" }),
            400,
            "later than",
        ),
        (
            json!({ "connection": "historian", "query": "energy", "from": 1_763_683_200, "to": "2025-11-21" }),
            400,
            "RFC 3339",
        ),
        (
            json!({ "connection": "historian", "query": "energy", "from": "2025-11-21" }),
            400,
            "parameter `to`: is missing: give the end",
        ),
        (
            json!({ "connection": "historian", "query": "energy", "form": "2025-11-21", "to": "2025-11-22" }),
            400,
            "an order has no `form`: did you mean from? (its keys: connection, query, from, to)",
        ),
        (
            json!({ "connection": 7, "query": "energy", "from": "2025-11-21", "to": "2025-11-22" }),
            400,
            "parameter `connection`: is no name: give",
        ),
        (
            json!({ "connection": "historian", "query": "energy", "from": 1.5, "to": "2025-11-22" }),
            400,
            "parameter `from`: is no whole number of nanoseconds since 1970: give",
        ),
        (json!(["historian"]), 400, "the body is no JSON object: give an order such as {"),
        (
            json!({ "connection": "historian", "query": "energy", "from": "2025-01-01", "to": "2200-01-01" }),
            400,
            "still to come",
        ),
    ] {
        let answer = plant.order(&agent, order).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (status, "application/problem+json"));
        let detail = json_of(answer).await["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(told), "{detail}");
    }
    // A local time is the site's: Berlin is an hour before UTC.
    let order = json!({ "connection": "historian", "query": "energy", "from": "2025-11-21T01:00", "to": T + HOUR });
    let answer = plant.order(&agent, order).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let path = header(&answer, "location").to_owned();
    let job: Value = json_of(answer).await;
    assert_eq!((&job["from"], &job["to"]), (&json!("2025-11-21T00:00:00Z"), &json!("2025-11-21T01:00:00Z")));
    let id = job["id"].as_str().unwrap().to_owned();
    assert_eq!(path, format!("/api/bulk/{id}"));

    let feed = plant.get(&agent, &format!("{path}/events")).await;
    assert_eq!(header(&feed, "content-type"), "text/event-stream");
    let feed = feed.text().await.unwrap();
    let last = feed.rsplit_once("event: end\ndata: ").unwrap().1;
    let last: Value = serde_json::from_str(last.trim()).unwrap();
    assert_eq!(
        (&last["state"], &last["rows"], &last["by"]),
        (&json!("done"), &json!(3_000), &json!("first")),
        "{feed}"
    );
    let listed: Value = json_of(plant.get(&agent, "/api/bulk").await).await;
    assert_eq!(listed, json!([last]));

    let manifest = plant.get(&agent, &format!("{path}/manifest")).await;
    let etag = header(&manifest, "etag").to_owned();
    assert_eq!(etag, format!("\"{}\"", last["bundle"]["manifest_sha256"].as_str().unwrap()));
    let manifest = manifest.bytes().await.unwrap();

    let download = format!("{path}/download");
    let head = plant.request(&agent, Method::HEAD, &download).send().await.unwrap();
    let length: u64 = header(&head, "content-length").parse().unwrap();
    assert_eq!(
        (head.status(), header(&head, "accept-ranges"), header(&head, "etag")),
        (StatusCode::OK, "bytes", &*etag)
    );
    assert_eq!(header(&head, "content-disposition"), format!("attachment; filename=\"{id}.tar\""));
    let job: Value = json_of(plant.get(&agent, &path).await).await;
    assert_eq!(job["bundle"]["downloaded"], Value::Null, "nobody has it yet");
    let tail = plant.request(&agent, Method::GET, &download).header("range", "bytes=-1").send().await.unwrap();
    assert_eq!((tail.status(), tail.bytes().await.unwrap().len()), (StatusCode::PARTIAL_CONTENT, 1));
    let job: Value = json_of(plant.get(&agent, &path).await).await;
    assert_eq!(job["bundle"]["downloaded"], Value::Null, "nobody has all of it yet");
    // In two pieces, as after a break.
    let half = length / 2 + 1;
    let first = plant.request(&agent, Method::GET, &download).header("range", format!("bytes=0-{}", half - 1));
    let first = first.send().await.unwrap();
    assert_eq!(
        (first.status(), header(&first, "content-range")),
        (StatusCode::PARTIAL_CONTENT, &*format!("bytes 0-{}/{length}", half - 1))
    );
    let mut archive = first.bytes().await.unwrap().to_vec();
    let second = plant
        .request(&agent, Method::GET, &download)
        .header("range", format!("bytes={half}-"))
        .header("if-range", &etag);
    archive.extend(second.send().await.unwrap().bytes().await.unwrap());
    let whole = plant.get(&agent, &download).await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert!(whole.bytes().await.unwrap() == archive, "two pieces are the whole");
    let other =
        plant.request(&agent, Method::GET, &download).header("range", "bytes=9-").header("if-range", "\"other\"");
    assert_eq!(other.send().await.unwrap().status(), StatusCode::OK, "what changed is sent whole");
    let beyond =
        plant.request(&agent, Method::GET, &download).header("range", format!("bytes={length}-")).send().await.unwrap();
    assert_eq!(
        (beyond.status(), header(&beyond, "content-range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, &*format!("bytes */{length}"))
    );
    let again = plant.request(&agent, Method::GET, &download).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);

    let into = tempfile::tempdir().unwrap();
    std::fs::write(into.path().join("bundle.tar"), &archive).unwrap();
    let tar = Command::new("tar").args(["-xf", "bundle.tar"]).current_dir(into.path()).output().unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    assert_eq!(checked(&into.path().join(&id)).rows, 3_000);
    assert_eq!(std::fs::read(into.path().join(&id).join("manifest.json")).unwrap(), manifest);

    let job: Value = json_of(plant.get(&agent, &path).await).await;
    assert!(job["bundle"]["downloaded"].is_string(), "{job}");
    let deleted = plant.request(&agent, Method::DELETE, &path).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let gone = plant.get(&agent, &download).await;
    assert_eq!(gone.status(), StatusCode::GONE);
    assert!(gone.text().await.unwrap().contains("export it again"));
    for unknown in ["/api/bulk/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/api/bulk/main/download"] {
        assert_eq!(plant.get(&agent, unknown).await.status(), StatusCode::NOT_FOUND);
    }
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_exports_with_and_without_the_daemon() {
    let server = Fake::start(3, doubles(500));
    let plant = Plant::new(&server);
    let mut roots = Vec::new();
    for with_daemon in [false, true] {
        let into = tempfile::tempdir().unwrap();
        let agent = if with_daemon { Some(plant.agent().await) } else { None };
        let done = plant.export(&["--to", "2025-11-21T02:00"], into.path()).await;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{said}");
        assert!(said.contains("500 rows"), "{said}");
        let printed = String::from_utf8(done.stdout).unwrap();
        let bundle = Path::new(printed.trim());
        roots.push(checked(bundle).root);
        assert!(bundle.with_file_name(format!("{}.proof.json", bundle.file_name().unwrap().display())).is_file());
        let mut verify = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        let verdict = verify.arg("verify").arg(bundle).output().unwrap();
        assert_eq!(verdict.status.code(), Some(3), "no key was given: {verdict:?}");
        let empty = plant.export(&["--to", "2025-11-21T01:00:00.000000001"], into.path()).await;
        assert!(empty.status.success(), "one point is enough: {}", String::from_utf8_lossy(&empty.stderr));
        let wrong = plant.export(&["--to", "2025-11-21T00:00"], into.path()).await;
        let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(!wrong.status.success() && said.contains("later than"), "{said}");
        if let Some(agent) = agent {
            agent.stop().await.unwrap();
        }
    }
    assert_eq!(roots[0], roots[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_listed_and_fetched_again_with_and_without_the_daemon() {
    let server = Fake::start(1, doubles(500));
    let plant = Plant::new(&server);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let into = tempfile::tempdir().unwrap();
    assert!(plant.export(&["--to", "2025-11-21T02:00"], into.path()).await.status.success());
    let limits = plant.load().config.unwrap().store;
    let house = House::open(limits, server.connection());
    let cancelled = house.order(T, T + HOUR).await;
    house.jobs.ledger.drop_job(cancelled, meterseal::model::Actor::here("first")).await.unwrap();
    house.end().await;
    let mut fetched = Vec::new();
    for with_daemon in [false, true] {
        let agent = if with_daemon { Some(plant.agent().await) } else { None };
        let listed = plant.command(&["--list", "--json"], into.path()).await;
        let listed: Vec<Value> = text(&listed.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let states: Vec<_> = listed.iter().map(|export| export["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["cancelled", "done"], "the newest first");
        let done = listed[1]["id"].as_str().unwrap();
        assert_eq!((&listed[1]["rows"], &listed[1]["query"]), (&json!(500), &json!("energy")));
        let shown = text(&plant.command(&["--list"], into.path()).await.stdout);
        let line = shown.lines().find(|line| line.starts_with(done)).unwrap();
        assert!(line.contains("done") && line.contains("historian energy") && line.contains("500 rows"), "{shown}");

        let again = tempfile::tempdir().unwrap();
        let answer = plant.command(&["--fetch", done], again.path()).await;
        assert!(answer.status.success(), "{}", text(&answer.stderr));
        let bundle = again.path().join(done);
        assert_eq!(text(&answer.stdout).trim(), bundle.to_str().unwrap());
        fetched.push(checked(&bundle).root);
        assert!(again.path().join(format!("{done}.proof.json")).is_file());

        let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        for (id, told) in [
            (unknown, "there is no export"),
            (&cancelled.to_string(), "was cancelled"),
            ("main", "not the id of a job"),
        ] {
            let answer = plant.command(&["--fetch", id], again.path()).await;
            assert!(!answer.status.success() && text(&answer.stderr).contains(told), "{}", text(&answer.stderr));
        }
        if let Some(agent) = agent {
            // Somebody has all of it.
            let job: Value = json_of(plant.get(&agent, &format!("/api/bulk/{done}")).await).await;
            assert!(job["bundle"]["downloaded"].is_string(), "{job}");
            let path = format!("/api/bulk/{done}");
            assert!(plant.request(&agent, Method::DELETE, &path).send().await.unwrap().status().is_success());
            let answer = plant.command(&["--fetch", done], again.path()).await;
            assert!(text(&answer.stderr).contains("was deleted: export it again"), "{}", text(&answer.stderr));
            agent.stop().await.unwrap();
        }
    }
    assert_eq!(fetched[0], fetched[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_any_moment_leaves_one_bundle_and_one_entry() {
    let server = Fake::start(2, doubles(20_000));
    let reference = Plant::new(&server);
    let plant = Plant::new(&server);
    let whole = tempfile::tempdir().unwrap();
    let done = reference.export(&["--to", "2025-11-21T12:00"], whole.path()).await;
    let printed = String::from_utf8(done.stdout).unwrap();
    let root = checked(Path::new(printed.trim())).root;

    let limits = plant.load().config.unwrap().store;
    let house = House::open(limits.clone(), server.connection());
    let id = house.order(T, T + 11 * HOUR).await;
    house.end().await;
    // So that an export takes longer than a process lives.
    server.spoil(|_, answer| {
        std::thread::sleep(Duration::from_millis(60));
        answer
    });
    let mut kills = 0;
    for lives in (0..).map(|turn: u64| Duration::from_millis(150 + turn * 97 % 500 + turn * 40)) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.arg("run").arg("-c").arg(plant.config()).stdout(Stdio::null()).stderr(Stdio::null());
        for name in ["RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "METERSEAL_LOG"] {
            command.env_remove(name);
        }
        let mut daemon = command.spawn().unwrap();
        tokio::time::sleep(lives).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        kills += 1;
        let house = House::open(limits.clone(), server.connection());
        let is_over = house.job(id).await.state.is_over();
        if is_over {
            let manifest = house.exported(id).await;
            assert_eq!((manifest.root, manifest.rows), (root, 20_000));
            break;
        }
        assert!(kills < 60, "the export never ends");
        house.end().await;
    }
    assert!(kills > 1, "it was never cut off");
}
