//! A consumer at the broker that loses nothing when the broker is killed, as long as whoever publishes waits until it listens
//! again. A broker hands a message on before it acknowledges it. What it has queued dies with it, so that nothing may be
//! queued. And it is sent at QoS 0: a broker that is killed over acknowledgements it has not read resets the connection, and
//! takes back what lies in it.

#![allow(dead_code, reason = "each test that takes it in uses a part of it")]

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use meterseal::model::{Digest, Stream};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::gateway::Records;

/// What the broker must be told for this to hold.
pub const SETTINGS: &str = "max_inflight_messages 0";
/// Of the broker's word on the subscription.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Listener {
    kept: Arc<Mutex<Kept>>,
    threads: Vec<JoinHandle<()>>,
    streams: Vec<TcpStream>,
}

#[derive(Default)]
struct Kept {
    records: BTreeMap<(String, String, Stream, u64), Digest>,
    /// Which came again.
    repeated: u64,
    /// What no consumer could make sense of.
    wrong: Vec<String>,
}

impl Listener {
    /// Listens to all; returns when the broker has said so.
    pub fn listen(&mut self, port: u16) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // CONNECT with a clean session and no keep-alive, then SUBSCRIBE to # at QoS 0.
        let name = format!("listener-{}", self.threads.len());
        let mut connect = b"\0\x04MQTT\x04\x02\0\0\0".to_vec();
        connect.extend([u8::try_from(name.len()).unwrap()].iter().chain(name.as_bytes()));
        write(&mut stream, 0x10, &connect).unwrap();
        let (kind, answer) = read(&mut stream).unwrap();
        assert!(kind >> 4 == 2 && answer == [0, 0], "the broker does not let the listener in");
        write(&mut stream, 0x82, b"\0\x01\0\x01#\0").unwrap();
        let (kind, answer) = read(&mut stream).unwrap();
        assert!(kind >> 4 == 9 && answer == [0, 1, 0], "the broker lets nobody listen");
        stream.set_read_timeout(None).unwrap();
        self.streams.push(stream.try_clone().unwrap());
        let kept = self.kept.clone();
        self.threads.push(std::thread::spawn(move || {
            while let Ok((kind, packet)) = read(&mut stream) {
                if kind >> 4 != 3 {
                    continue;
                }
                let topic = usize::from(u16::from_be_bytes([packet[0], packet[1]]));
                kept.lock().unwrap().take(&packet[2 + topic..]);
            }
        }));
    }

    /// All that came, each once.
    pub fn records(&self, gateway: &str) -> Records {
        let kept = self.kept.lock().unwrap();
        assert!(kept.wrong.is_empty(), "{:#?}", &kept.wrong[..kept.wrong.len().min(5)]);
        let own = |((whose, epoch, stream, seq), hash): (&(String, String, Stream, u64), &Digest)| {
            assert_eq!(whose, gateway);
            ((epoch.clone(), *stream, *seq), *hash)
        };
        kept.records.iter().map(own).collect()
    }

    pub fn repeated(&self) -> u64 {
        self.kept.lock().unwrap().repeated
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for stream in self.streams.drain(..) {
            // It may have ended long ago.
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

#[derive(Deserialize)]
struct Told<'a> {
    epoch: String,
    gateway: String,
    #[serde(borrow)]
    record: &'a RawValue,
    sha256: Digest,
    stream: Stream,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

impl Kept {
    fn take(&mut self, payload: &[u8]) {
        // Checkpoints are text, records are JSON.
        if !payload.starts_with(b"{") {
            return;
        }
        if let Err(wrong) = self.take_record(payload) {
            self.wrong.push(format!("{wrong}: {}", String::from_utf8_lossy(payload)));
        }
    }

    fn take_record(&mut self, payload: &[u8]) -> Result<(), String> {
        let told: Told = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let line = told.record.get();
        let Numbered { seq } = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if Digest::of(line.as_bytes()) != told.sha256 {
            return Err("its hash is another one".to_owned());
        }
        match self.records.insert((told.gateway, told.epoch, told.stream, seq), told.sha256) {
            None => Ok(()),
            Some(known) if known == told.sha256 => {
                self.repeated += 1;
                Ok(())
            }
            Some(_) => Err("another record of this key came before".to_owned()),
        }
    }
}

/// One packet: its first byte, and what follows its length.
fn read(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let kind = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] < 0x80 {
            break;
        }
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet)?;
    Ok((kind, packet))
}

/// Only short ones are ever sent.
fn write(stream: &mut TcpStream, kind: u8, packet: &[u8]) -> io::Result<()> {
    let mut bytes = vec![kind, u8::try_from(packet.len()).unwrap()];
    bytes.extend_from_slice(packet);
    stream.write_all(&bytes)
}
