//! A broker of MQTT 5 that answers as it is told: what a real one does only in bad hours.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What it does with its `n`th message, counted from 0 over all connections.
pub type Script = fn(usize) -> Act;

pub enum Act {
    Acknowledge,
    /// Some time later.
    AcknowledgeAfter(Duration),
    /// With this reason code.
    Refuse(u8),
    /// With this reason code, in these words.
    RefuseSaying(u8, &'static str),
    /// Says nothing.
    Ignore,
    /// Ends the connection with this reason code.
    End(u8),
    /// Breaks off.
    Cut,
}

/// What it does with a subscription.
#[derive(Clone, Copy)]
pub enum Subscribed {
    Granted,
    /// Ends the connection with this reason code as soon as it is not wanted any more.
    GrantedAndEnded(u8),
    /// Never grants it, and sends the one note again and again.
    Flooded(fn(u64) -> String),
    /// Never grants it, and sends notes of more and more epochs at once.
    Many(fn(u64) -> String),
}

impl Subscribed {
    fn retained(self, filter: &str, n: u64) -> Option<Vec<u8>> {
        let note = match self {
            Self::Granted | Self::GrantedAndEnded(_) => return None,
            Self::Flooded(note) => note(0),
            Self::Many(note) => note(n),
        };
        let mut body = u16::try_from(filter.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(filter.as_bytes());
        body.push(0);
        body.extend_from_slice(note.as_bytes());
        let (low, high) = (body.len() & 0x7f | 0x80, body.len() >> 7);
        let length = [low, high].map(|byte| u8::try_from(byte).unwrap());
        // Retained, at QoS 0.
        Some([&[0x31], &length[..], &body].concat())
    }

    fn pause(self) -> Duration {
        if matches!(self, Self::Flooded(_)) { Duration::from_millis(200) } else { Duration::ZERO }
    }
}

pub struct FakeBroker {
    pub port: u16,
    pub messages: Arc<AtomicUsize>,
    pub pings: Arc<AtomicUsize>,
    /// Connections that the client has ended.
    pub hangups: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl FakeBroker {
    /// `properties` are those of its CONNACK.
    pub async fn start(properties: &'static [u8], script: Script) -> Self {
        Self::start_with(properties, script, Subscribed::Granted).await
    }

    pub async fn start_with(properties: &'static [u8], script: Script, subscribed: Subscribed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let [messages, pings, hangups] = [(); 3].map(|()| Arc::<AtomicUsize>::default());
        let (counted, pinged, hung_up) = (messages.clone(), pings.clone(), hangups.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let mut is_over = false;
                while let Some((kind, body)) = packet(&mut stream).await {
                    // After its last word it says nothing, and hangs up when the client does.
                    if is_over {
                        continue;
                    }
                    let answer = match kind >> 4 {
                        1 => connack(properties),
                        3 => {
                            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                            let id = &body[2 + topic..4 + topic];
                            match script(counted.fetch_add(1, Ordering::SeqCst)) {
                                Act::Acknowledge => vec![0x40, 2, id[0], id[1]],
                                Act::AcknowledgeAfter(pause) => {
                                    tokio::time::sleep(pause).await;
                                    vec![0x40, 2, id[0], id[1]]
                                }
                                Act::Refuse(code) => vec![0x40, 3, id[0], id[1], code],
                                Act::RefuseSaying(code, words) => {
                                    let length = u8::try_from(words.len()).unwrap();
                                    let said = [&[0x1f, 0, length], words.as_bytes()].concat();
                                    [&[0x40, length + 7, id[0], id[1], code, length + 3], &said[..]].concat()
                                }
                                Act::Ignore => Vec::new(),
                                Act::End(code) => {
                                    is_over = true;
                                    vec![0xe0, 1, code]
                                }
                                Act::Cut => break,
                            }
                        }
                        8 if matches!(subscribed, Subscribed::Granted | Subscribed::GrantedAndEnded(_)) => {
                            vec![0x90, 4, body[0], body[1], 0, 1]
                        }
                        // Two bytes of identifier, one for no properties, and the filter.
                        8 => {
                            let filter = std::str::from_utf8(&body[5..body.len() - 1]).unwrap().to_owned();
                            for n in 0.. {
                                let Some(retained) = subscribed.retained(&filter, n) else { break };
                                if stream.get_mut().write_all(&retained).await.is_err() {
                                    break;
                                }
                                tokio::time::sleep(subscribed.pause()).await;
                            }
                            Vec::new()
                        }
                        10 => {
                            let mut answer = vec![0xb0, 4, body[0], body[1], 0, 0];
                            if let Subscribed::GrantedAndEnded(code) = subscribed {
                                is_over = true;
                                answer.extend([0xe0, 1, code]);
                            }
                            answer
                        }
                        12 => {
                            pinged.fetch_add(1, Ordering::SeqCst);
                            vec![0xd0, 0]
                        }
                        _ => Vec::new(),
                    };
                    if stream.get_mut().write_all(&answer).await.is_err() {
                        break;
                    }
                }
                hung_up.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, messages, pings, hangups, _task: task }
    }
}

fn connack(properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).unwrap();
    [&[0x20, length + 3, 0, 0, length][..], properties].concat()
}

/// The first byte, and what follows the length.
async fn packet(stream: &mut BufReader<tokio::net::TcpStream>) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}
