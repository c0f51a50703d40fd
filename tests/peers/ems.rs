//! A backend that takes readings over WebSockets as the one that exists does: it counts each for one minute, knows no key,
//! and answers as the script says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// What it does with its `n`th reading, counted from 0 over all connections.
pub type Script = fn(usize) -> Act;

pub enum Act {
    Store,
    StoreTwiceAcknowledged,
    /// Acknowledges after this long.
    StoreLate(Duration),
    StoreAndSayNothing,
    StoreAndCut,
    Cut,
    /// `simulator:acknowledged` with `status:"error"`.
    Fail,
    /// `error` with this message.
    Refuse(&'static str),
    /// Frames without end.
    Flood,
    /// One frame that is too long.
    Long,
}

pub struct Backend {
    pub port: u16,
    stored: Arc<Mutex<Vec<Value>>>,
    registered: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Backend {
    /// With a token, which clients must bear, or for anybody.
    pub async fn start(token: Option<&'static str>, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stored, registered) = <(Arc<Mutex<Vec<Value>>>, Arc<Mutex<Vec<String>>>)>::default();
        let (kept, known) = (stored.clone(), registered.clone());
        let count = Arc::new(Mutex::new(0));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (kept, known, count) = (kept.clone(), known.clone(), count.clone());
                connections.spawn(async move {
                    if let Some(socket) = upgrade(stream, token).await {
                        serve(socket, script, &kept, &known, &count).await;
                    }
                });
            }
        });
        Self { port, stored, registered, _task: task }
    }

    /// The readings that count.
    pub fn stored(&self) -> Vec<Value> {
        self.stored.lock().unwrap().clone()
    }

    pub fn registered(&self) -> Vec<String> {
        self.registered.lock().unwrap().clone()
    }

    /// By its formula.
    pub fn kwh(&self) -> f64 {
        self.stored().iter().map(|reading| reading["totalPowerKw"].as_f64().unwrap() / 60.0).sum()
    }
}

async fn upgrade(stream: TcpStream, token: Option<&'static str>) -> Option<WebSocketStream<TcpStream>> {
    #[allow(clippy::result_large_err, reason = "the library's signature")]
    let look = |request: &Request, response: Response| {
        let refuse = |status: u16| {
            let mut refused = ErrorResponse::new(None);
            *refused.status_mut() = status.try_into().unwrap();
            Err(refused)
        };
        if !["/", "/ws", "/socket", "/websocket"].contains(&request.uri().path()) {
            return refuse(404);
        }
        let given = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        if given != token.map(|token| format!("Bearer {token}")) { refuse(401) } else { Ok(response) }
    };
    accept_hdr_async(stream, look).await.ok()
}

async fn serve(
    mut socket: WebSocketStream<TcpStream>,
    script: Script,
    stored: &Mutex<Vec<Value>>,
    registered: &Mutex<Vec<String>>,
    count: &Mutex<usize>,
) {
    // Pinged at once, so that an answer is due.
    socket.send(Message::Ping(Vec::new().into())).await.ok();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let said: Value = serde_json::from_str(&text).unwrap();
        let name = said["deviceName"].as_str().unwrap().to_owned();
        if said["type"] == "simulator:register" {
            registered.lock().unwrap().push(name.clone());
            let known = json!({"type": "simulator:registered", "deviceId": name, "deviceName": name,
                "simulatorName": said["simulatorName"], "timestamp": 1});
            let shaken = json!({"type": "simulator:handshake-ack", "status": "warning", "reason": "register",
                "dashboardsOnline": 0, "dashboardsReady": 0, "message": "no dashboard", "deviceId": name,
                "deviceName": name, "simulatorName": "x", "timestamp": 1});
            for answer in [known, shaken] {
                socket.send(Message::text(answer.to_string())).await.ok();
            }
            continue;
        }
        assert_eq!(said["type"], "simulator:reading");
        assert!(said["totalPowerKw"].is_number() && said["timestamp"].is_i64() && said["readingInterval"] == 60);
        assert!(registered.lock().unwrap().contains(&name), "a reading of a device that is not registered");
        let at = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count - 1
        };
        let act = script(at);
        if !matches!(act, Act::Cut | Act::Fail | Act::Refuse(_) | Act::Flood | Act::Long) {
            stored.lock().unwrap().push(said.clone());
        }
        // Decimals and 64-bit integers come back as text, as out of its database.
        let accepted = json!({"type": "simulator:acknowledged", "deviceId": name, "timestamp": 1, "status": "accepted",
            "dashboardsOnline": 0, "sequence": at + 1, "reading": {
                "totalPowerKw": said["totalPowerKw"].to_string(), "timestamp": said["timestamp"].to_string()}});
        let answers = match act {
            Act::Store => vec![accepted],
            Act::StoreTwiceAcknowledged => vec![accepted.clone(), accepted],
            Act::StoreLate(wait) => {
                tokio::time::sleep(wait).await;
                vec![accepted]
            }
            Act::StoreAndSayNothing => Vec::new(),
            Act::StoreAndCut | Act::Cut => return,
            Act::Fail => vec![json!({"type": "simulator:acknowledged", "deviceId": name, "timestamp": 1,
                "status": "error", "message": "relation \"readings\" does not exist"})],
            Act::Refuse(message) => vec![json!({"type": "error", "message": message})],
            Act::Flood => loop {
                let other = json!({"type": "simulator:acknowledged", "deviceId": "other", "timestamp": 1, "status": "accepted"});
                if socket.send(Message::text(other.to_string())).await.is_err() {
                    return;
                }
            },
            Act::Long => vec![json!({"type": "error", "message": "x".repeat(1 << 20)})],
        };
        for answer in answers {
            socket.send(Message::text(answer.to_string())).await.ok();
        }
    }
}
