//! A meter that speaks Modbus/TCP on a free port: register `n` of unit `u` and the one after it hold the float
//! `1000 u + n`, and register 900 its serial number.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub struct FakeMeter {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    nameplate: Arc<Nameplate>,
    _tasks: JoinSet<()>,
}

/// Where the meter bears its serial number.
pub const SERIAL_NUMBER: u16 = 900;

#[derive(Default)]
struct Nameplate {
    serial_number: AtomicU16,
    /// It is unplugged: nothing is answered.
    away: AtomicBool,
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
        let nameplate = Arc::new(Nameplate::default());
        let (counted, shown, mut tasks) = (connections.clone(), nameplate.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(stream, answers_after, shown.clone()));
            }
        });
        Self { address, connections, nameplate, _tasks: tasks }
    }

    /// Another meter in its place, or the same: it is away until [`Self::plug_in`].
    pub fn unplug(&self) {
        self.nameplate.away.store(true, Ordering::Relaxed);
    }

    pub fn plug_in(&self, serial_number: u16) {
        self.nameplate.serial_number.store(serial_number, Ordering::Relaxed);
        self.nameplate.away.store(false, Ordering::Relaxed);
    }

    /// How many connections were opened to it so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, answers_after: Option<Duration>, nameplate: Arc<Nameplate>) {
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
        if address == SERIAL_NUMBER {
            words = nameplate.serial_number.load(Ordering::Relaxed).to_be_bytes().to_vec();
        }
        words.truncate(usize::from(count) * 2);
        let mut answer = vec![request[0], request[1], 0, 0];
        answer.extend(u16::try_from(words.len() + 3).unwrap().to_be_bytes());
        answer.extend([unit, request[7], u8::try_from(words.len()).unwrap()]);
        answer.extend(words);
        let Some(pause) = answers_after.filter(|_| !nameplate.away.load(Ordering::Relaxed)) else { continue };
        tokio::time::sleep(pause).await;
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
