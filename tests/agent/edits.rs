//! What is changed through the API while the daemon runs: it holds at once and after a restart, and a file wins.

use meterseal::agent::Agent;
use meterseal::model::MeterId;
use meterseal::store::Reader;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::meter::FakeMeter;
use crate::plant::{PATIENCE, Plant, line};
use crate::{client, id, live};

/// The API of an agent that does what it is asked meanwhile.
pub struct Api {
    address: std::net::SocketAddr,
    token: String,
    pub reader: Reader,
    open: tokio::sync::watch::Receiver<std::sync::Arc<meterseal::blocks::OpenBlocks>>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinSet<()>,
}

impl Api {
    pub async fn start(plant: &Plant, token: &str) -> Self {
        let agent = plant.agent().await;
        let (address, reader, open) = (agent.address(), agent.reader().clone(), agent.open_blocks());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(serve(agent, stopped));
        Self { address, token: token.to_owned(), reader, open, stop, task }
    }

    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = client().request(method, format!("http://{}{path}", self.address)).bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.body(body.to_string()),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let request = client().get(format!("http://{}{path}", self.address)).bearer_auth(&self.token);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        answer.bytes().await.unwrap().to_vec()
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask(Method::GET, path, None).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn target(&self, meter: &MeterId, kwh: Option<f64>) {
        let mut open = self.open.clone();
        let seen = open
            .wait_for(|open| open.get(meter).is_some_and(|open| open.peak_target.map(|target| target.to_kwh()) == kwh));
        timeout(PATIENCE, seen).await.expect("the target comes").unwrap();
    }

    pub async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.join_all().await;
    }
}

async fn serve(mut agent: Agent, stopped: tokio::sync::oneshot::Receiver<()>) {
    agent.serve(stopped).await.expect("no part ends unasked").unwrap();
    agent.stop().await.unwrap();
}

/// The audit entries of the log, the oldest first.
fn audit(plant: &Plant) -> Vec<Value> {
    let evidence = rusqlite::Connection::open(plant.store().join("evidence.db")).unwrap();
    let mut statement = evidence.prepare("SELECT record FROM entries WHERE kind = 5 ORDER BY idx").unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(|record| serde_json::from_str(&record.unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meters_name_and_target_hold_at_once_and_after_a_restart() {
    let meter = FakeMeter::start().await;
    let (plant, token) = Plant::new(&line("a", meter.address, &[("main", 2)]));
    let api = Api::start(&plant, &token).await;
    live(&api.reader, |live| live.contains_key(&id("main"))).await;
    api.target(&id("main"), None).await;
    let path = "/api/meters/main";
    let wanted = json!({"name": "  Main incomer ", "peak_target_kwh": 0.0001});
    let (status, shown) = api.ask(Method::PATCH, path, Some(wanted)).await;
    assert_eq!((status, &shown["name"], &shown["peak_target_kwh"]), (200, &json!("Main incomer"), &json!(0.0001)));
    // The running block has it, by which the alerts judge.
    api.target(&id("main"), Some(0.0001)).await;
    let none = json!({"peak_target_kwh": null});
    let (_, shown) = api.ask(Method::PATCH, path, Some(none)).await;
    assert_eq!((&shown["name"], &shown["peak_target_kwh"]), (&json!("Main incomer"), &Value::Null));
    let (_, shown) = api.ask(Method::PATCH, path, Some(json!({"peak_target_kwh": 120.5}))).await;
    assert_eq!(shown["peak_target_kwh"], 120.5);
    for (wrong, parameter) in [
        (json!({"name": " "}), "name"),
        (json!({"name": "a\nb"}), "name"),
        (json!({"peak_target_kwh": 0}), "peak_target_kwh"),
        (json!({"peak_target_kwh": 1e9}), "peak_target_kwh"),
    ] {
        let (status, problem) = api.ask(Method::PATCH, path, Some(wrong)).await;
        assert_eq!((status, &problem["parameter"]), (400, &json!(parameter)), "{problem}");
    }
    for wrong in [json!({}), json!({"unit": 3}), json!({"peak_target_kwh": "1"})] {
        assert_eq!(api.ask(Method::PATCH, path, Some(wrong.clone())).await.0, 400, "{wrong}");
    }
    assert_eq!(api.ask(Method::PATCH, "/api/meters/other", Some(json!({"name": "x"}))).await.0, 404);
    api.end().await;
    let log = audit(&plant);
    let of_meter: Vec<_> = log.iter().filter(|entry| entry["action"] == "meter-changed").collect();
    assert_eq!(of_meter.len(), 3);
    let detail = json!({"meter": "main", "name": "Main incomer", "peak_target_uwh": 100_000,
                        "source": "loopback"});
    assert_eq!((&of_meter[0]["by"], &of_meter[0]["detail"]), (&json!("first"), &detail));

    let api = Api::start(&plant, &token).await;
    let shown = api.get(path).await;
    assert_eq!((&shown["name"], &shown["peak_target_kwh"]), (&json!("Main incomer"), &json!(120.5)));
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_sets_of_a_meter_cannot_be_set_here_and_wins_when_it_comes_later() {
    let meter = FakeMeter::start().await;
    let lines = line("a", meter.address, &[("main", 2)]);
    let (plant, token) = Plant::new(&lines);
    let api = Api::start(&plant, &token).await;
    let path = "/api/meters/main";
    let (status, _) = api.ask(Method::PATCH, path, Some(json!({"name": "of the page", "peak_target_kwh": 7}))).await;
    assert_eq!(status, 200);
    plant.write(&lines.replace("id = \"main\"\n", "id = \"main\"\npeak_target_kwh = 9\n"));
    let socket = plant.socket();
    crate::ask(&socket, &meterseal::agent::admin::Request::Reload {}).await.unwrap();
    let shown = api.get(path).await;
    assert_eq!((&shown["name"], &shown["peak_target_kwh"]), (&json!("of the page"), &json!(9)));
    let (status, problem) = api.ask(Method::PATCH, path, Some(json!({"peak_target_kwh": 8}))).await;
    let detail = problem["detail"].as_str().unwrap();
    assert_eq!(status, 409);
    assert!(detail.contains("meterseal.toml:") && detail.contains("peak_target_kwh"), "{detail}");
    let (status, _) = api.ask(Method::PATCH, path, Some(json!({"name": "another"}))).await;
    assert_eq!(status, 200, "the file sets the target only");
    api.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_queries_are_made_changed_and_deleted_without_their_secrets_being_told() {
    const SECRET: &str = "hunter2-and-more";
    let file = "[[influx]]\nname = \"historian\"\nversion = 1\nurl = \"http://127.0.0.1:1\"\ndatabase = \"plant\"\n\
                [[query]]\nname = \"energy\"\nmeasurement = \"energy\"\n";
    let (plant, token) = Plant::new(file);
    let api = Api::start(&plant, &token).await;
    let cloud = json!({"name": "cloud", "version": 1, "url": "http://127.0.0.1:9", "database": "plant",
                       "username": "reader", "password": SECRET, "timeout": "5s"});
    let (status, made) = api.ask(Method::POST, "/api/connections", Some(cloud.clone())).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!((&made["name"], &made["read_only"], &made["off"]), (&json!("cloud"), &Value::Null, &json!(false)));
    let (status, tested) = api.ask(Method::POST, "/api/connections/cloud/test", None).await;
    assert_eq!(status, 502, "{tested}");
    let query =
        json!({"name": "presses", "measurement": "energy", "fields": ["kwh"], "tags": {"line \"a\"\u{7f}": "b\n"}});
    let (status, made_query) = api.ask(Method::POST, "/api/queries", Some(query)).await;
    assert_eq!(status, 201, "{made_query}");
    assert_eq!(made_query["tags"]["line \"a\"\u{7f}"], "b\n");

    // The same checks as in a file, told without the file.
    for (wrong, told) in [
        (json!({"name": "x", "version": 4, "url": "http://a"}), "version: 4 is none of 1, 2, 3"),
        (json!({"name": "x", "version": 1, "url": "http://u:p@a", "database": "d"}), "url: a user in the address"),
        (json!({"name": "x", "version": 2, "url": "http://a", "org": "o", "bucket": "b"}), "token: is missing"),
        (
            json!({"name": "x", "version": 1, "url": "http://a", "database": "d", "pasword": SECRET}),
            "did you mean `password`?",
        ),
        (
            json!({"name": "x", "version": 2, "url": "http://a", "org": "o", "bucket": "b", "token": {"file": "/etc/passwd"}}),
            "token: is a reference, and references are for files",
        ),
        (
            json!({"name": "x", "version": 1, "url": "https://a", "database": "d", "ca": "/etc/passwd"}),
            "ca: is a path, and paths are for files",
        ),
        (json!({"name": "x\"\n[web]", "version": 1, "url": "http://a", "database": "d"}), "name: "),
    ] {
        let (status, problem) = api.ask(Method::POST, "/api/connections", Some(wrong)).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(status == 400 && detail.contains(told) && !detail.contains(SECRET), "{status} {problem}");
    }
    // Of files they cannot be changed, and their names are taken.
    for (method, path, body) in [
        (
            Method::POST,
            "/api/connections",
            json!({"name": "historian", "version": 1, "url": "http://a", "database": "d"}),
        ),
        (Method::PUT, "/api/connections/historian", json!({"version": 1, "url": "http://a", "database": "d"})),
        (Method::DELETE, "/api/connections/historian", Value::Null),
        (Method::POST, "/api/queries", json!({"name": "energy", "measurement": "m"})),
        (Method::DELETE, "/api/queries/energy", Value::Null),
    ] {
        let (status, problem) = api.ask(method, path, Some(body)).await;
        assert!(status == 409 && problem["detail"].as_str().unwrap().contains("meterseal.toml"), "{path}: {problem}");
    }
    assert_eq!(api.ask(Method::POST, "/api/connections", Some(cloud)).await.0, 409, "there is one");
    assert_eq!(api.ask(Method::DELETE, "/api/connections/other", None).await.0, 404);

    // A secret that is not given stays, but goes nowhere else.
    let changed = json!({"version": 1, "url": "http://127.0.0.1:9", "database": "other", "username": "reader"});
    let (status, shown) = api.ask(Method::PUT, "/api/connections/cloud", Some(changed.clone())).await;
    assert_eq!((status, &shown["database"]), (200, &json!("other")), "{shown}");
    let mut elsewhere = changed;
    elsewhere["url"] = json!("http://127.0.0.1:10");
    let (status, problem) = api.ask(Method::PUT, "/api/connections/cloud", Some(elsewhere)).await;
    assert!(status == 400 && problem["detail"].as_str().unwrap().contains("again"), "{problem}");

    let listed = api.get("/api/connections").await;
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains(SECRET));
    api.end().await;
    assert!(!json!(audit(&plant)).to_string().contains(SECRET));

    // They are there after a restart; a file that takes the name wins, and it is said.
    plant.write(&format!(
        "{file}[[influx]]\nname = \"cloud\"\nversion = 1\nurl = \"http://127.0.0.1:2\"\ndatabase = \"of-file\"\n"
    ));
    let api = Api::start(&plant, &token).await;
    let listed = api.get("/api/connections").await;
    assert_eq!((listed.as_array().unwrap().len(), &listed[1]["database"]), (2, &json!("of-file")));
    assert_eq!(api.get("/api/queries").await[1]["name"], "presses");
    let problems = api.get("/api/health").await["problems"].to_string();
    assert!(problems.contains("cloud") && problems.contains("meterseal.toml"), "{problems}");
    assert_eq!(api.ask(Method::DELETE, "/api/connections/cloud", None).await.0, 204, "of the two, the one made here");
    assert!(!api.get("/api/health").await["problems"].to_string().contains("cloud"));
    assert_eq!(api.ask(Method::DELETE, "/api/queries/presses", None).await.0, 204);
    assert_eq!(api.get("/api/queries").await.as_array().unwrap().len(), 1);
    api.end().await;
}

/// Who reads the config again while somebody makes changes must not cut them in half.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_done_and_told_while_the_config_is_read_again_and_again() {
    let (plant, token) = Plant::new("");
    let mut daemon = plant.daemon();
    let status = daemon.status(|status| status["page"].is_string()).await;
    let url = format!("{}api/connections", status["page"].as_str().unwrap());
    let changes = async {
        let mut told = Vec::new();
        for at in 0..40 {
            let made = json!({"name": format!("c{at}"), "version": 1, "url": "http://127.0.0.1:9", "database": "d"});
            let request = client().post(&url).bearer_auth(&token).body(made.to_string());
            told.push(request.send().await.unwrap().status().as_u16());
        }
        told
    };
    let reloads = async {
        loop {
            daemon.signal(rustix::process::Signal::HUP);
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    };
    let told = tokio::select! {
        told = changes => told,
        () = reloads => unreachable!("it goes on"),
    };
    assert_eq!(told, [201; 40]);
    let log = audit(&plant);
    assert_eq!(log.iter().filter(|entry| entry["action"] == "connection-added").count(), 40);
}
