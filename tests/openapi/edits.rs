//! Texts of all kinds for whatever can be changed: none breaks what runs, whatever it is taken for.

use meterseal::agent::Agent;
use reqwest::{Client, Method};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::gateway::{self, line};

/// A gateway with a config file that does what it is asked.
pub struct Gateway {
    pub plant: gateway::Plant,
    pub url: String,
    pub token: String,
    client: Client,
    stop: oneshot::Sender<()>,
    task: JoinSet<()>,
}

impl Gateway {
    pub async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let (plant, token) = gateway::Plant::new(&line("a", "127.0.0.1:9", &[("main", 2)]));
        std::fs::create_dir(plant.config().with_file_name("conf.d")).unwrap();
        let agent = plant.agent().await;
        let url = format!("http://{}", agent.address());
        let (stop, stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(serve(agent, stopped));
        Self { plant, url, token, client: Client::new(), stop, task }
    }

    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> u16 {
        let request = self.client.request(method.clone(), format!("{}{path}", self.url));
        let answer = request.bearer_auth(&self.token).body(body.to_string()).send().await.unwrap();
        let status = answer.status().as_u16();
        let told = answer.text().await.unwrap();
        assert!(status < 500 && status != 429, "{method} {path} {body}: {status} {told}");
        status
    }

    pub async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.join_all().await;
    }

    /// What there is to be changed, as it should be.
    pub async fn furnish(&self) {
        for (folder, body) in made() {
            assert_eq!(self.ask(Method::POST, folder, &body).await, 201, "{body}");
        }
    }

    /// Each value of each body, and each line of a text, as something else.
    pub async fn twist(&self) {
        for (folder, body) in made() {
            let path = format!("{folder}/{}", body["name"].as_str().unwrap());
            for twisted in twisted(&body) {
                self.ask(Method::POST, folder, &twisted).await;
                self.ask(Method::PUT, &path, &twisted).await;
            }
            assert_eq!(self.ask(Method::PUT, &path, &body).await, 200, "{path}");
        }
        for twisted in twisted(&json!({"name": "Main", "peak_target_kwh": 5})) {
            self.ask(Method::PATCH, "/api/meters/main", &twisted).await;
        }
        let (mut added, config) = (0, std::fs::read_to_string(self.plant.config()).unwrap());
        for odd in odd() {
            let name = odd.as_str().unwrap_or("b");
            for text in [
                line("b", name, &[("second", 3)]),
                format!("[[modbus]]\nname = {odd}\n[[mqtt]]\nname = {odd}\nurl = {odd}\npassword = {odd}\n"),
                format!("[[sum]]\nid = {odd}\nadd = {odd}\n"),
                format!("[[sum]]\nid = \"s\"\nadd = [{odd}]\ncategory = \"CONS\"\n{odd} = {odd}\n"),
            ] {
                added +=
                    usize::from(self.ask(Method::POST, "/api/config/meters", &json!({ "text": text })).await == 201);
                let text = format!("{config}{text}");
                assert_eq!(self.ask(Method::POST, "/api/config/check", &json!({ "text": text })).await, 200);
            }
        }
        let good = line("b", "127.0.0.1:9", &[("third", 3)]);
        assert_eq!(self.ask(Method::POST, "/api/config/meters", &json!({ "text": good })).await, 201);
        assert_eq!(self.ask(Method::POST, "/api/config/reload", &json!({})).await, 200);
        let files = std::fs::read_dir(self.plant.config().with_file_name("conf.d")).unwrap().count();
        assert_eq!(files, added + 1, "a file for each that was taken");
        for (folder, body) in made() {
            let path = format!("{folder}/{}", body["name"].as_str().unwrap());
            assert_eq!(self.ask(Method::DELETE, &path, &json!({})).await, 204, "{path}");
        }
    }
}

async fn serve(mut agent: Agent, stopped: oneshot::Receiver<()>) {
    agent.serve(stopped).await.expect("no part ends unasked").unwrap();
    agent.stop().await.unwrap();
}

pub fn made() -> [(&'static str, Value); 5] {
    let url = "http://127.0.0.1:9";
    [
        (
            "/api/connections",
            json!({"name": "one", "version": 1, "url": url, "database": "d", "username": "u", "password": "p", "timeout": "5s"}),
        ),
        ("/api/connections", json!({"name": "two", "version": 2, "url": url, "org": "o", "bucket": "b", "token": "t"})),
        ("/api/connections", json!({"name": "three", "version": 3, "url": url, "database": "d"})),
        ("/api/queries", json!({"name": "points", "measurement": "m", "fields": ["f"], "tags": {"t": "v"}})),
        ("/api/queries", json!({"name": "free", "text": "SELECT * FROM m WHERE time >= $from AND time < $to"})),
    ]
}

/// What nobody thought of; some of it is TOML as well.
fn odd() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        Value::Null,
        json!(-1),
        json!(1e308),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}\u{7f}\u{2028}\"'''\\\r\n"),
        json!("\"\n[web]\nlisten = \"0.0.0.0:1\""),
        json!("x".repeat(5_000)),
        json!([null, [1], {"a": null}]),
        json!({"file": "/etc/hostname"}),
        json!({"": {"\"]": null, "a\u{7f}.b": [""]}}),
        deep,
    ]
}

fn twisted(body: &Value) -> Vec<Value> {
    let members: &Map<String, Value> = body.as_object().unwrap();
    let mut all = Vec::new();
    for odd in odd() {
        for key in members.keys() {
            let mut members = members.clone();
            members.insert(key.clone(), odd.clone());
            all.push(Value::Object(members));
        }
        let mut more = members.clone();
        more.insert("a \"]\n[web] = \u{7f}".to_owned(), odd.clone());
        all.push(Value::Object(more));
        all.push(odd);
    }
    all
}
