//! A meter that speaks Modbus/TCP on a free port: register `n` of unit `u` and the one after it hold the float
//! `1000 u + n`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub struct FakeMeter {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl FakeMeter {
    pub async fn start() -> Self {
        Self::listen(Some(Duration::ZERO)).await
    }

    /// Answers after a while.
    pub async fn slow(pause: Duration) -> Self {
        Self::listen(Some(pause)).await
    }

    /// Takes connections and never answers.
    pub async fn mute() -> Self {
        Self::listen(None).await
    }

    async fn listen(answers_after: Option<Duration>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, mut tasks) = (connections.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(stream, answers_after));
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    /// How many connections were opened to it so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, answers_after: Option<Duration>) {
    let mut request = [0; 12];
    // Ends when the other side closes.
    while stream.read_exact(&mut request).await.is_ok() {
        let unit = request[6];
        let (address, count) = (word(&request, 8), word(&request, 10));
        let mut words = Vec::new();
        for at in (0..count).step_by(2) {
            let value = f32::from(unit) * 1000.0 + f32::from(address + at);
            words.extend(value.to_be_bytes());
        }
        words.truncate(usize::from(count) * 2);
        let mut answer = vec![request[0], request[1], 0, 0];
        answer.extend(u16::try_from(words.len() + 3).unwrap().to_be_bytes());
        answer.extend([unit, request[7], u8::try_from(words.len()).unwrap()]);
        answer.extend(words);
        let Some(pause) = answers_after else { continue };
        tokio::time::sleep(pause).await;
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
