//! The stream below tokio-modbus: it hands on the whole answer to the request under way, and nothing else.
//!
//! tokio-modbus takes the next frame that comes for the answer to its last request. After a time-out that would be
//! the late answer to the request before, and every answer after it one behind. Here an answer with another
//! transaction id is dropped and counted, so that a connection stays good after a time-out. As an answer is handed on
//! in one piece, a call that is cancelled never leaves half a frame behind.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The longest frame is 260 bytes (Modbus messaging on TCP/IP 1.0b, 4.1); a late one may lie before the one awaited.
const ROOM: usize = 600;

/// Transaction, protocol, length, and the unit, which counts as part of the length.
const HEADER: usize = 7;

/// How many requests without an answer are remembered.
const REMEMBERED: usize = 16;

/// An answer that came after its time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    pub unit: u8,
    /// From its request until it was noticed.
    pub after: Duration,
}

/// What the stream has seen, for the owner of the connection, as tokio-modbus hides the stream itself.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests that went out whole.
    pub written: u64,
    pub late: Vec<Late>,
    /// The unit that the last answer named.
    pub answered_as: u8,
}

/// What comes from the other side is no Modbus/TCP, or no answer to a read.
#[derive(Debug, thiserror::Error)]
enum NotModbus {
    #[error("the answer begins with {0}, which is no Modbus/TCP frame: the port is that of something else")]
    Frame(String),
    #[error("the answer is that of a web server ({0}): the port is not that of Modbus/TCP")]
    Web(String),
    #[error("the answer says that it is {0} bytes long, and 3 to 254 are possible")]
    Length(u16),
    #[error("the answer says that {said} bytes of values follow, and {came} do")]
    Count { said: u8, came: usize },
    #[error("the answer is to function {0}, which nobody asked for")]
    Function(u8),
}

/// A stream of Modbus/TCP frames over `S`.
#[derive(Debug)]
pub struct Frames<S> {
    stream: S,
    seen: Arc<Mutex<Seen>>,
    outgoing: Outgoing,
    awaited: Option<Request>,
    unanswered: Vec<Request>,
    incoming: Box<[u8; ROOM]>,
    /// What of `incoming` has come and is not done with.
    start: usize,
    end: usize,
    /// Bytes from `start` on that belong to the answer being handed on.
    pass: usize,
}

#[derive(Debug, Default)]
struct Outgoing {
    header: [u8; HEADER],
    have: usize,
    left: usize,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    id: u16,
    unit: u8,
    sent: Instant,
}

/// The record of a stream, also when the thread that held it has panicked: it is plain counters.
pub fn look(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Frames<S> {
    pub fn new(stream: S) -> (Self, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let frames = Self {
            stream,
            seen: seen.clone(),
            outgoing: Outgoing::default(),
            awaited: None,
            unanswered: Vec::new(),
            incoming: Box::new([0; ROOM]),
            start: 0,
            end: 0,
            pass: 0,
        };
        (frames, seen)
    }

    /// Follows the requests that go out, however they are cut into writes.
    fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let out = &mut self.outgoing;
            if out.have < HEADER {
                let taken = bytes.len().min(HEADER - out.have);
                out.header[out.have..out.have + taken].copy_from_slice(&bytes[..taken]);
                out.have += taken;
                bytes = &bytes[taken..];
                if out.have < HEADER {
                    return;
                }
                let [id_high, id_low, _, _, length_high, length_low, unit] = out.header;
                out.left = usize::from(u16::from_be_bytes([length_high, length_low])).saturating_sub(1);
                let request = Request { id: u16::from_be_bytes([id_high, id_low]), unit, sent: Instant::now() };
                if let Some(given_up) = self.awaited.replace(request) {
                    if self.unanswered.len() == REMEMBERED {
                        self.unanswered.remove(0);
                    }
                    self.unanswered.push(given_up);
                }
            }
            let taken = bytes.len().min(self.outgoing.left);
            self.outgoing.left -= taken;
            bytes = &bytes[taken..];
            if self.outgoing.left == 0 {
                self.outgoing.have = 0;
                look(&self.seen).written += 1;
            }
        }
    }

    /// Looks at what has come: finds the awaited answer, drops others. False when more bytes are needed.
    fn take_frame(&mut self) -> Result<bool, NotModbus> {
        loop {
            let bytes = &self.incoming[self.start..self.end];
            if bytes.iter().skip(2).take(2).any(|byte| *byte != 0) {
                return Err(no_frame(bytes));
            }
            let [id_high, id_low, _, _, length_high, length_low, ..] = *bytes else { return Ok(false) };
            let length = u16::from_be_bytes([length_high, length_low]);
            if !(3..=254).contains(&length) {
                return Err(NotModbus::Length(length));
            }
            let whole = 6 + usize::from(length);
            let Some(frame) = bytes.get(..whole) else { return Ok(false) };
            let id = u16::from_be_bytes([id_high, id_low]);
            if self.awaited.is_some_and(|request| request.id == id) {
                check(&frame[HEADER..])?;
                look(&self.seen).answered_as = frame[6];
                self.awaited = None;
                self.pass = whole;
                return Ok(true);
            }
            if let Some(at) = self.unanswered.iter().position(|request| request.id == id) {
                let Request { unit, sent, .. } = self.unanswered.remove(at);
                look(&self.seen).late.push(Late { unit, after: sent.elapsed() });
            }
            self.start += whole;
        }
    }
}

/// tokio-modbus trusts the counts inside an answer: only an answer to a read whose parts agree gets there.
fn check(pdu: &[u8]) -> Result<(), NotModbus> {
    match *pdu {
        [function, _, ..] if function & 0x80 != 0 => Ok(()),
        [3 | 4, said, ref values @ ..] if usize::from(said) == values.len() && said % 2 == 0 => Ok(()),
        [3 | 4, said, ref values @ ..] => Err(NotModbus::Count { said, came: values.len() }),
        [function, ..] => Err(NotModbus::Function(function)),
        [] => Err(NotModbus::Length(1)),
    }
}

fn no_frame(bytes: &[u8]) -> NotModbus {
    let first = &bytes[..bytes.len().min(16)];
    let text: String =
        first.iter().map(|byte| char::from(*byte)).filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    if first.starts_with(b"HTTP") || first.starts_with(b"<") {
        return NotModbus::Web(text);
    }
    if text.len() == first.len() {
        return NotModbus::Frame(format!("\"{text}\""));
    }
    NotModbus::Frame(first.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.pass > 0 {
                // A buffer too small for the rest is filled again at once, before anything can be awaited.
                let some = this.pass.min(out.remaining());
                out.put_slice(&this.incoming[this.start..this.start + some]);
                this.start += some;
                this.pass -= some;
                return Poll::Ready(Ok(()));
            }
            if this.take_frame().map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))? {
                continue;
            }
            this.incoming.copy_within(this.start..this.end, 0);
            this.end -= this.start;
            this.start = 0;
            let mut room = ReadBuf::new(&mut this.incoming[this.end..]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut room))?;
            let came = room.filled().len();
            if came == 0 {
                let what = if this.end > 0 { "in the middle of an answer" } else { "without an answer" };
                let text = format!("the other side closed the connection {what}");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            }
            this.end += came;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.wrote(&bytes[..written]);
        Poll::Ready(Ok(written))
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    fn request(id: u16, unit: u8) -> Vec<u8> {
        [&id.to_be_bytes()[..], &[0, 0, 0, 6, unit, 4, 0, 0, 0, 1]].concat()
    }

    fn answer(id: u16, unit: u8, value: u8) -> Vec<u8> {
        [&id.to_be_bytes()[..], &[0, 0, 0, 5, unit, 4, 2, 0, value]].concat()
    }

    fn pair() -> (Frames<DuplexStream>, Arc<Mutex<Seen>>, DuplexStream) {
        let (near, far) = duplex(4096);
        let (frames, seen) = Frames::new(near);
        (frames, seen, far)
    }

    fn now<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// What the stream says of `bytes` that come as the answer to request 7.
    fn told(bytes: &[u8]) -> String {
        now(async {
            let (mut frames, _, mut far) = pair();
            frames.write_all(&request(7, 1)).await.unwrap();
            far.write_all(bytes).await.unwrap();
            drop(far);
            let mut out = [0; 300];
            frames.read(&mut out).await.unwrap_err().to_string()
        })
    }

    #[test]
    fn only_the_awaited_answer_is_handed_on() {
        now(async {
            let (mut frames, seen, mut far) = pair();
            frames.write_all(&request(1, 9)).await.unwrap();
            frames.write_all(&request(2, 5)).await.unwrap();
            for bytes in [answer(1, 9, 11), answer(77, 1, 1), answer(2, 5, 22), answer(2, 5, 33)] {
                far.write_all(&bytes).await.unwrap();
            }
            let mut out = [0; 300];
            assert_eq!(frames.read(&mut out).await.unwrap(), 11);
            assert_eq!(out[..11], answer(2, 5, 22));
            frames.write_all(&request(3, 5)).await.unwrap();
            far.write_all(&answer(3, 5, 44)).await.unwrap();
            assert_eq!(frames.read(&mut out).await.unwrap(), 11);
            assert_eq!(out[..11], answer(3, 5, 44));
            let seen = look(&seen);
            assert_eq!((seen.written, seen.answered_as), (3, 5));
            assert_eq!(seen.late.iter().map(|late| late.unit).collect::<Vec<_>>(), [9]);
        });
    }

    proptest! {
        #[test]
        fn frames_come_through_however_the_bytes_are_cut(cuts in prop::collection::vec(1..30_usize, 1..40)) {
            now(async {
                let (mut frames, seen, mut far) = pair();
                let sent = request(7, 1);
                let (head, tail) = sent.split_at(cuts[0].min(sent.len()));
                frames.write_all(head).await.unwrap();
                frames.write_all(tail).await.unwrap();
                let bytes: Vec<u8> = [answer(3, 1, 1), answer(9, 2, 2), answer(7, 1, 3), answer(8, 1, 4)].concat();
                let writing = async {
                    let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
                    while !rest.is_empty() {
                        let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                        far.write_all(now).await.unwrap();
                        tokio::task::yield_now().await;
                        rest = later;
                    }
                };
                let reading = async {
                    let mut out = [0; 11];
                    frames.read_exact(&mut out).await.unwrap();
                    out
                };
                let ((), out) = tokio::join!(writing, reading);
                assert_eq!(out, *answer(7, 1, 3));
                assert_eq!(look(&seen).written, 1);
            });
        }

        #[test]
        fn no_bytes_make_it_panic_or_hand_on_what_is_no_answer(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            now(async {
                let (mut frames, _, mut far) = pair();
                frames.write_all(&request(0, 1)).await.unwrap();
                far.write_all(&bytes).await.unwrap();
                drop(far);
                let mut out = [0; 300];
                if let Ok(count) = frames.read(&mut out).await {
                    assert_eq!(out[2..4], [0, 0]);
                    assert!(check(&out[HEADER..count]).is_ok());
                }
            });
        }
    }

    #[test]
    fn what_is_no_modbus_is_told() {
        assert_eq!(
            told(b"HTTP/1.1 400 Bad Request\r\n"),
            "the answer is that of a web server (HTTP/1.1 400 Bad): the port is not that of Modbus/TCP"
        );
        assert_eq!(
            told(b"SSH-2.0-OpenSSH_9.2"),
            "the answer begins with \"SSH-2.0-OpenSSH_\", which is no Modbus/TCP frame: the port is that of something else"
        );
        assert_eq!(
            told(&[0, 7, 1, 0, 0, 3]),
            "the answer begins with 00 07 01 00 00 03, which is no Modbus/TCP frame: the port is that of something else"
        );
        assert_eq!(told(&[0, 7, 0, 0, 0, 255]), "the answer says that it is 255 bytes long, and 3 to 254 are possible");
        assert_eq!(told(&[0, 7, 0, 0, 0, 5, 1, 4, 4, 0, 0]), "the answer says that 4 bytes of values follow, and 2 do");
        assert_eq!(told(&[0, 7, 0, 0, 0, 4, 1, 1, 9, 0]), "the answer is to function 1, which nobody asked for");
        assert_eq!(told(&[0, 7, 0, 0, 0]), "the other side closed the connection in the middle of an answer");
        assert_eq!(told(&[]), "the other side closed the connection without an answer");
    }
}
