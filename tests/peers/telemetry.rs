//! A backend that takes `POST /v1/telemetry` and sums what it gets, as those that exist do: no keys, and an answer from the script.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What it does with its `n`th request, counted from 0.
pub type Script = fn(usize) -> Act;

pub enum Act {
    /// Stores it and says so.
    Store,
    /// Stores it and answers with this.
    StoreAndSay(u16, &'static str),
    /// Answers with this, and stores nothing.
    Say(u16, &'static str),
    /// Stores it and breaks off.
    StoreAndCut,
    /// Breaks off before it has stored anything.
    Cut,
    /// Never answers.
    Silence,
    /// An answer without end.
    Flood,
}

pub struct Backend {
    pub port: u16,
    stored: Arc<Mutex<Vec<Value>>>,
    heads: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Backend {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stored, heads) = <(Arc<Mutex<Vec<Value>>>, Arc<Mutex<Vec<String>>>)>::default();
        let (kept, asked) = (stored.clone(), heads.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (kept, asked) = (kept.clone(), asked.clone());
                connections.spawn(async move { serve(stream, script, &kept, &asked).await });
            }
        });
        Self { port, stored, heads, _task: task }
    }

    pub fn stored(&self) -> Vec<Value> {
        self.stored.lock().unwrap().clone()
    }

    /// The head of each request, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, script: Script, stored: &Mutex<Vec<Value>>, heads: &Mutex<Vec<String>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let at = {
            let mut heads = heads.lock().unwrap();
            heads.push(head);
            heads.len() - 1
        };
        let act = script(at);
        if matches!(act, Act::Store | Act::StoreAndSay(..) | Act::StoreAndCut) {
            stored.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        }
        let (status, text) = match act {
            Act::Store => (201, r#"{"success":true,"message":"Meter data ingested successfully"}"#),
            Act::StoreAndSay(status, text) | Act::Say(status, text) => (status, text),
            Act::StoreAndCut | Act::Cut => return,
            Act::Silence => std::future::pending().await,
            Act::Flood => {
                let mut more = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
                while stream.get_mut().write_all(&more).await.is_ok() {
                    more = vec![b' '; 65536];
                }
                return;
            }
        };
        let answer = format!(
            "HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
