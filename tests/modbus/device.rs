//! A Modbus/TCP device that misbehaves as it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// One request as it came.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub unit: u8,
    pub function: u8,
    pub address: u16,
    pub count: u16,
    /// Its number on this device, and that of the connection it came on.
    pub number: usize,
    pub connection: usize,
    pub at: Instant,
}

/// What the device does about a request.
pub enum Act {
    /// Gives the right words: `unit × 1000 + address`.
    Answer,
    /// Gives these words.
    Words(Vec<u16>),
    Exception(u8),
    Silence,
    /// Answers late, and meanwhile takes other requests.
    Late(Duration),
    /// Answers as another unit.
    As(u8),
    /// Sends these bytes for the protocol data unit.
    Pdu(Vec<u8>),
    /// Sends these bytes without any frame.
    Raw(Vec<u8>),
    /// Sends the answer in single bytes.
    Bytewise,
    /// Sends half of the answer and closes the connection.
    Half,
    Close,
}

type Behaviour = dyn Fn(&Asked) -> Act + Send + Sync;

pub struct Device {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

/// How the device serves its connections.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Connections beyond this many at a time are closed at once.
    pub most: usize,
    /// Connections beyond the first are taken and never served.
    pub serves_first_only: bool,
    /// A bus behind it: one request at a time, each taking this long.
    pub bus: Option<Duration>,
}

impl Default for Manner {
    fn default() -> Self {
        Self { most: usize::MAX, serves_first_only: false, bus: None }
    }
}

impl Device {
    pub async fn start(behaviour: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", Manner::default(), behaviour).await
    }

    pub async fn start_at(
        address: &str,
        manner: Manner,
        behaviour: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let (log, count, behaviour) = (asked.clone(), connections.clone(), Arc::new(behaviour));
        tasks.spawn(accept(listener, manner, log, count, behaviour));
        Self { address, asked, connections, tasks }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Connections taken since the start.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Closes the port and all connections, as when its power goes.
    pub async fn end(mut self) -> String {
        self.tasks.shutdown().await;
        self.address
    }
}

async fn accept(
    listener: TcpListener,
    manner: Manner,
    log: Arc<Mutex<Vec<Asked>>>,
    count: Arc<AtomicUsize>,
    behaviour: Arc<Behaviour>,
) {
    let bus = Arc::new(tokio::sync::Mutex::new(()));
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            taken = listener.accept() => {
                let Ok((stream, _)) = taken else { continue };
                let connection = count.fetch_add(1, Ordering::Relaxed);
                if open.len() >= manner.most {
                    continue;
                }
                let (log, behaviour, bus) = (log.clone(), behaviour.clone(), bus.clone());
                open.spawn(async move {
                    if manner.serves_first_only && connection > 0 {
                        std::future::pending::<()>().await;
                    }
                    let bus = manner.bus.map(|latency| (bus, latency));
                    // The connection ends when the other side goes.
                    serve(stream, connection, log, behaviour, bus).await.ok();
                });
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    log: Arc<Mutex<Vec<Asked>>>,
    behaviour: Arc<Behaviour>,
    bus: Option<(Arc<tokio::sync::Mutex<()>>, Duration)>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, to) = stream.into_split();
    let to = Arc::new(tokio::sync::Mutex::new(to));
    let mut late = JoinSet::new();
    loop {
        let mut frame = [0; 12];
        from.read_exact(&mut frame).await?;
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let asked = {
            let mut log = log.lock().unwrap();
            let (function, number) = (frame[7], log.len());
            let asked = Asked {
                unit: frame[6],
                function,
                address: word(8),
                count: word(10),
                number,
                connection,
                at: Instant::now(),
            };
            log.push(asked);
            asked
        };
        let act = behaviour(&asked);
        if let Some((bus, latency)) = &bus
            && !matches!(act, Act::Silence)
        {
            let _turn = bus.lock().await;
            sleep(*latency).await;
        }
        let answer = |unit: u8, pdu: &[u8]| {
            let length = u16::try_from(pdu.len() + 1).unwrap().to_be_bytes();
            [&frame[..4], &length, &[unit], pdu].concat()
        };
        let right = answer(asked.unit, &words(&asked, &right_words(&asked)));
        match act {
            Act::Answer => write(&to, &right).await?,
            Act::Words(values) => write(&to, &answer(asked.unit, &words(&asked, &values))).await?,
            Act::Exception(code) => write(&to, &answer(asked.unit, &[asked.function | 0x80, code])).await?,
            Act::Silence => {}
            Act::Late(after) => {
                let to = to.clone();
                late.spawn(async move {
                    sleep(after).await;
                    write(&to, &right).await.ok();
                });
            }
            Act::As(unit) => write(&to, &answer(unit, &words(&asked, &right_words(&asked)))).await?,
            Act::Pdu(pdu) => write(&to, &answer(asked.unit, &pdu)).await?,
            Act::Raw(bytes) => write(&to, &bytes).await?,
            Act::Bytewise => {
                for byte in right {
                    write(&to, &[byte]).await?;
                    tokio::task::yield_now().await;
                }
            }
            Act::Half => {
                write(&to, &right[..right.len() / 2]).await?;
                return Ok(());
            }
            Act::Close => return Ok(()),
        }
    }
}

async fn write(to: &tokio::sync::Mutex<OwnedWriteHalf>, bytes: &[u8]) -> std::io::Result<()> {
    to.lock().await.write_all(bytes).await
}

fn right_words(asked: &Asked) -> Vec<u16> {
    let start = u16::from(asked.unit).wrapping_mul(1000).wrapping_add(asked.address);
    (0..asked.count).map(|at| start.wrapping_add(at)).collect()
}

fn words(asked: &Asked, values: &[u16]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|word| word.to_be_bytes());
    [asked.function, u8::try_from(values.len() * 2).unwrap()].into_iter().chain(bytes).collect()
}
