//! The stream below the MQTT client: it cuts messages that are too long down to their topic.
//!
//! A client that gives up at a message beyond its limit gets the same message again from a persistent session, each
//! time that it connects, and nothing behind it. Here such a message arrives with an empty payload instead, and what
//! was cut is told, so that it can be acknowledged and said loudly. Nothing of its payload is held in memory.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Version;

/// A message that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub topic: String,
    /// Packet identifier; 0 at QoS 0.
    pub id: u16,
    /// Bytes of the whole packet behind its fixed header.
    pub bytes: usize,
}

/// Messages that were cut and not yet asked for, oldest first; when there are too many the oldest are forgotten.
#[derive(Clone, Debug, Default)]
pub struct Cuts(Arc<Mutex<VecDeque<Cut>>>);

const REMEMBERED: usize = 64;

impl Cuts {
    /// What became of the message that now arrives with an empty payload, if it was cut.
    pub fn take(&self, topic: &str, id: u16) -> Option<Cut> {
        let mut cuts = self.lock();
        let at = cuts.iter().position(|cut| cut.topic == topic && cut.id == id)?;
        cuts.remove(at)
    }

    fn add(&self, cut: Cut) {
        let mut cuts = self.lock();
        if cuts.len() == REMEMBERED {
            cuts.pop_front();
        }
        cuts.push_back(cut);
    }

    /// The list is whole at any time, also when the thread that held it has panicked.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Cut>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `S` without messages of more than `limit` bytes.
#[derive(Debug)]
pub struct Shortened<S> {
    stream: S,
    limit: usize,
    version: Version,
    cuts: Cuts,
    at: At,
    /// Bytes that are ready to be read.
    out: VecDeque<u8>,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum At {
    /// The fixed header, as far as it has come.
    Header(Vec<u8>),
    /// A packet that is passed on: so many bytes of it are left.
    Pass(usize),
    /// A message that is too long, before its topic and identifier are known.
    Topic { first: u8, length: usize, had: Vec<u8> },
    /// The rest of it.
    Skip(usize),
}

const PUBLISH: u8 = 3;

/// Read from the stream below at a time.
const CHUNK: usize = 4096;

impl<S> Shortened<S> {
    pub fn new(stream: S, limit: usize, version: Version, cuts: Cuts) -> Self {
        Self { stream, limit, version, cuts, at: At::Header(Vec::new()), out: VecDeque::new() }
    }

    /// Takes what has come. Fails on a length that no packet can have.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Header(had) => {
                    had.push(bytes[0]);
                    bytes = &bytes[1..];
                    if let Some(length) = remaining_length(&had[1..])? {
                        let first = had[0];
                        if first >> 4 == PUBLISH && length > self.limit {
                            self.at = At::Topic { first, length, had: Vec::new() };
                        } else {
                            self.out.extend(had.iter());
                            self.at = At::Pass(length);
                        }
                    }
                }
                At::Pass(left) => {
                    let taken = bytes.len().min(*left);
                    self.out.extend(&bytes[..taken]);
                    *left -= taken;
                    bytes = &bytes[taken..];
                }
                At::Topic { first, length, had } => {
                    had.push(bytes[0]);
                    bytes = &bytes[1..];
                    let Some((topic, id)) = named(*first, had) else {
                        if had.len() == *length {
                            let text = "a message ends before its topic does";
                            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                        }
                        continue;
                    };
                    self.cuts.add(Cut { topic, id, bytes: *length });
                    let left = *length - had.len();
                    self.out.push_back(*first);
                    // MQTT 5 has the length of the properties next: none.
                    let ends = usize::from(self.version == Version::V5);
                    write_length(had.len() + ends, &mut self.out);
                    self.out.extend(had.iter());
                    self.out.extend(std::iter::repeat_n(0, ends));
                    self.at = At::Skip(left);
                }
                At::Skip(left) => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    bytes = &bytes[taken..];
                }
            }
            if matches!(self.at, At::Pass(0) | At::Skip(0)) {
                self.at = At::Header(Vec::new());
            }
        }
        Ok(())
    }
}

/// The variable byte integer of MQTT 3.1.1, 2.2.3; `None` when it is not whole yet.
fn remaining_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(last) = bytes.last() else { return Ok(None) };
    if last & 0x80 == 0 {
        return Ok(Some(bytes.iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F))));
    }
    if bytes.len() == 4 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the other side does not speak MQTT"));
    }
    Ok(None)
}

fn write_length(mut length: usize, out: &mut VecDeque<u8>) {
    loop {
        let [low, ..] = (length & 0x7F).to_le_bytes();
        length >>= 7;
        if length == 0 {
            return out.push_back(low);
        }
        out.push_back(low | 0x80);
    }
}

/// Topic and packet identifier of a PUBLISH, once both have come.
fn named(first: u8, had: &[u8]) -> Option<(String, u16)> {
    let [high, low, rest @ ..] = had else { return None };
    let topic_length = usize::from(u16::from_be_bytes([*high, *low]));
    let topic = rest.get(..topic_length)?;
    let id = match first >> 1 & 3 {
        0 => 0,
        _ => u16::from_be_bytes([*rest.get(topic_length)?, *rest.get(topic_length + 1)?]),
    };
    Some((String::from_utf8_lossy(topic).into_owned(), id))
}

impl<S: AsyncRead + Unpin> AsyncRead for Shortened<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.out.is_empty() {
            let mut room = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.take(chunk.filled())?;
        }
        let (front, _) = this.out.as_slices();
        let count = front.len().min(out.remaining());
        out.put_slice(&front[..count]);
        this.out.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Shortened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut out = VecDeque::from([first]);
        write_length(body.len(), &mut out);
        out.extend(body);
        out.into()
    }

    fn message(qos: u8, topic: &str, id: u16, payload: usize) -> Vec<u8> {
        let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
        let id = if qos == 0 { Vec::new() } else { id.to_be_bytes().to_vec() };
        packet(0x30 | qos << 1, &[&length, topic.as_bytes(), &id, &vec![7; payload]].concat())
    }

    /// What comes through when the bytes arrive in pieces of `piece`.
    fn through(bytes: &[u8], piece: usize, version: Version, limit: usize) -> (Vec<u8>, Cuts) {
        let cuts = Cuts::default();
        let mut stream = Shortened::new((), limit, version, cuts.clone());
        bytes.chunks(piece).for_each(|piece| stream.take(piece).unwrap());
        (stream.out.into(), cuts)
    }

    proptest! {
        #[test]
        fn only_messages_beyond_the_limit_change_however_the_bytes_are_cut(
            sizes in prop::collection::vec((0..3_u8, 0..400_usize), 1..20),
            piece in 1..50_usize,
        ) {
            let (mut sent, mut wanted, mut long) = (Vec::new(), Vec::new(), 0);
            for (at, (qos, size)) in sizes.iter().enumerate() {
                let id = u16::try_from(at + 1).unwrap();
                let whole = message(*qos, "a/b", id, *size);
                let body = whole.len() - if whole[1] & 0x80 == 0 { 2 } else { 3 };
                sent.extend(&whole);
                long += usize::from(body > 100);
                wanted.extend(if body > 100 { message(*qos, "a/b", id, 0) } else { whole });
            }
            let (came, cuts) = through(&sent, piece, Version::V311, 100);
            prop_assert_eq!(came, wanted);
            prop_assert_eq!(cuts.lock().len(), long);
        }
    }

    #[test]
    fn a_cut_message_of_mqtt_5_has_no_properties() {
        let (came, cuts) = through(&message(1, "t", 9, 5000), 64, Version::V5, 1000);
        assert_eq!(came, [0x32, 6, 0, 1, b't', 0, 9, 0]);
        assert_eq!(cuts.take("t", 9), Some(Cut { topic: "t".to_owned(), id: 9, bytes: 5005 }));
        assert_eq!(cuts.take("t", 9), None);
    }

    #[test]
    fn a_length_that_no_packet_has_ends_the_connection() {
        let mut stream = Shortened::new((), 10, Version::V311, Cuts::default());
        assert!(stream.take(b"HTTP/1.1 400 Bad Request").is_ok(), "H is no message, and what follows is short");
        let mut stream = Shortened::new((), 10, Version::V311, Cuts::default());
        assert!(stream.take(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
    }
}
