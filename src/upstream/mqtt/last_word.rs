//! A broker may end a connection with a reason and nothing after it (MQTT 5, 3.14.2.2.1: an empty list of properties need not
//! be there). rumqttc-v5-next 0.34 waits for that list, and never tells the reason. So the list is put there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::dial::Stream;

/// First byte of a DISCONNECT.
const DISCONNECT: u8 = 0xe0;

/// A stream on which the broker's last word is whole.
pub struct LastWord {
    stream: Box<dyn Stream>,
    at: At,
}

/// Where in its packets the broker is.
#[derive(Clone, Copy)]
enum At {
    Kind,
    Length {
        is_last: bool,
        /// Of the digits before this one, and their number.
        value: u32,
        digits: u32,
    },
    /// So many bytes of the packet are still to come.
    Body(u32),
    /// The reason is next, and nothing would follow it.
    Reason,
    /// The empty list is to be put there.
    Properties,
    /// A length that is none: the client will say so.
    Lost,
}

impl LastWord {
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, at: At::Kind }
    }
}

impl At {
    /// After one more byte, which may be mended.
    fn step(self, byte: &mut u8) -> Self {
        match self {
            Self::Kind => Self::Length { is_last: *byte == DISCONNECT, value: 0, digits: 0 },
            Self::Length { is_last: true, digits: 0, .. } if *byte == 1 => {
                *byte = 2;
                Self::Reason
            }
            Self::Length { is_last, value, digits } => {
                let value = value | u32::from(*byte & 0x7f) << (7 * digits);
                match *byte & 0x80 {
                    0 if value == 0 => Self::Kind,
                    0 => Self::Body(value),
                    _ if digits == 3 => Self::Lost,
                    _ => Self::Length { is_last, value, digits: digits + 1 },
                }
            }
            Self::Body(1) => Self::Kind,
            Self::Body(left) => Self::Body(left - 1),
            Self::Reason | Self::Properties => Self::Properties,
            Self::Lost => Self::Lost,
        }
    }
}

impl AsyncRead for LastWord {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.at, At::Properties) && buf.remaining() > 0 {
            buf.put_slice(&[0]);
            this.at = At::Lost;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        for byte in &mut buf.filled_mut()[before..] {
            this.at = this.at.step(byte);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LastWord {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn only_a_last_word_without_its_list_is_mended() {
        let long = [&[0x30, 0x81, 0x01][..], &[0xe0; 129]].concat();
        for (said, heard) in [
            (&[0x20, 2, 0, 0, 0xe0, 1, 0x8e][..], &[0x20, 2, 0, 0, 0xe0, 2, 0x8e, 0][..]),
            (&[0xd0, 0, 0xe0, 2, 0x8e, 0], &[0xd0, 0, 0xe0, 2, 0x8e, 0]),
            (&[0xd0, 0, 0xe0, 0], &[0xd0, 0, 0xe0, 0]),
            (&[0x40, 3, 0xe0, 1, 0x8e], &[0x40, 3, 0xe0, 1, 0x8e]),
            (&long, &long),
        ] {
            // In pieces of every size.
            for piece in 1..=said.len() {
                let (mut broker, stream) = duplex(1024);
                let mut stream = LastWord::new(Box::new(stream));
                let mut all = Vec::new();
                let say = async {
                    for part in said.chunks(piece) {
                        broker.write_all(part).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    drop(broker);
                };
                let ((), heard_all) = tokio::join!(say, stream.read_to_end(&mut all));
                heard_all.unwrap();
                assert_eq!(all, heard, "in pieces of {piece}");
            }
        }
    }
}
