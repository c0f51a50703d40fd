//! A serial line with units on it that misbehave as they are told to.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::pty::Pty;

/// One request as it came.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub unit: u8,
    pub function: u8,
    pub address: u16,
    pub count: u16,
    /// Its number on this line.
    pub number: usize,
    pub at: Instant,
    pub frame: [u8; 8],
}

impl Asked {
    /// The right answer: each word is `unit × 1000 + address`.
    pub fn answer(&self) -> Vec<u8> {
        let start = u16::from(self.unit) * 1000 + self.address;
        let words = (start..start + self.count).flat_map(u16::to_be_bytes);
        let head = [self.unit, self.function, u8::try_from(self.count * 2).unwrap()];
        with_sum(head.into_iter().chain(words).collect())
    }

    pub fn exception(&self, code: u8) -> Vec<u8> {
        with_sum(vec![self.unit, self.function | 0x80, code])
    }
}

pub fn with_sum(mut body: Vec<u8>) -> Vec<u8> {
    let mut sum = 0xFFFF_u16;
    for byte in &body {
        sum ^= u16::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xA001 } else { sum >> 1 };
        }
    }
    body.extend(sum.to_le_bytes());
    body
}

/// Bytes on the line, each lump so long after the request. A unit answers in order: what it says waits until it has said
/// what it was asked before. The echo of an adapter waits for nobody.
pub type Said = Vec<(Duration, Vec<u8>)>;

/// The line with its port, until it is dropped.
pub struct Bus {
    pub port: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Bus {
    pub fn start(behaviour: impl FnMut(&Asked) -> Said + Send + 'static) -> Self {
        Self::on(Pty::new(), behaviour)
    }

    /// A line on an adapter whose port is known by `name`.
    pub fn named(name: &Path, behaviour: impl FnMut(&Asked) -> Said + Send + 'static) -> Self {
        Self { port: name.to_owned(), ..Self::on(Pty::new().named(name), behaviour) }
    }

    fn on(pty: Pty, behaviour: impl FnMut(&Asked) -> Said + Send + 'static) -> Self {
        let port = pty.port.clone();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(pty, asked.clone(), behaviour));
        Self { port, asked, _tasks: tasks }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(mut pty: Pty, log: Arc<Mutex<Vec<Asked>>>, mut behaviour: impl FnMut(&Asked) -> Said) {
    let mut came = Vec::new();
    let mut bytes = [0; 512];
    let mut due: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut done: BTreeMap<u8, Instant> = BTreeMap::new();
    loop {
        let next = due.front().map(|(at, _)| *at);
        let said = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = pty.out.read(&mut bytes) => came.extend_from_slice(&bytes[..read.unwrap()]),
            () = said => {
                let (_, lump) = due.pop_front().unwrap();
                pty.into.write_all(&lump).await.unwrap();
            }
        }
        while let Some(frame) = came.first_chunk::<8>().copied() {
            came.drain(..8);
            let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            let asked = {
                let mut log = log.lock().unwrap();
                let (unit, function, number, at) = (frame[0], frame[1], log.len(), Instant::now());
                let asked = Asked { unit, function, address: word(2), count: word(4), number, at, frame };
                log.push(asked);
                asked
            };
            assert_eq!(frame[..], with_sum(frame[..6].to_vec()), "requests come whole and right");
            let earlier = *done.get(&asked.unit).unwrap_or(&asked.at);
            for (after, lump) in behaviour(&asked) {
                let at = if lump == frame { asked.at } else { earlier.max(asked.at + after) };
                done.entry(asked.unit).and_modify(|done| *done = at.max(*done)).or_insert(at);
                due.push_back((at, lump));
            }
            due.make_contiguous().sort_by_key(|(at, _)| *at);
        }
    }
}
