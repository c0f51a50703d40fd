//! The frames of a part: nothing else may stand in its file, and none may ask for much memory (RFC 8878 section 3.1).

use std::io::{self, Read};

/// RFC 8878 section 3.1.1: begins a frame of data. Skippable frames begin otherwise.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest window: so much a reader must hold.
const LARGEST_WINDOW: u64 = 8 << 20;

/// Passes on a file of frames, and refuses what is none before any decoder sees it.
pub struct Frames<R> {
    inner: R,
    next: Next,
    /// Collected for what comes next, when that is a header.
    head: [u8; 14],
    have: usize,
    checksum: bool,
    passed: u64,
}

/// What the next bytes are.
#[derive(Clone, Copy)]
enum Next {
    /// A frame's header, of which so many bytes are needed to know more.
    Frame(usize),
    /// A block's header.
    Block,
    /// So many bytes of a block, the last one or not.
    Content { left: u64, last: bool },
    /// So many bytes of the checksum.
    Checksum(u64),
}

impl<R: Read> Frames<R> {
    pub fn over(inner: R) -> Self {
        Self { inner, next: Next::Frame(5), head: [0; 14], have: 0, checksum: false, passed: 0 }
    }

    /// How many bytes have passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = match self.next {
                Next::Frame(needs) => {
                    let (rest, whole) = self.collect(bytes, needs);
                    if whole {
                        self.next = self.frame(needs)?;
                    }
                    rest
                }
                Next::Block => {
                    let (rest, whole) = self.collect(bytes, 3);
                    if whole {
                        self.next = self.block()?;
                    }
                    rest
                }
                Next::Content { left, last } => {
                    let (rest, left) = skip(bytes, left);
                    self.next = match (left, last) {
                        (1.., _) => Next::Content { left, last },
                        (0, false) => Next::Block,
                        (0, true) => self.end_of_frame(),
                    };
                    rest
                }
                Next::Checksum(left) => {
                    let (rest, left) = skip(bytes, left);
                    self.next = if left > 0 { Next::Checksum(left) } else { Next::Frame(5) };
                    rest
                }
            };
        }
        Ok(())
    }

    /// Takes bytes until so many of a header are there; the rest, and whether they are.
    fn collect<'b>(&mut self, bytes: &'b [u8], needs: usize) -> (&'b [u8], bool) {
        let (taken, rest) = bytes.split_at(bytes.len().min(needs - self.have));
        self.head[self.have..self.have + taken.len()].copy_from_slice(taken);
        self.have += taken.len();
        (rest, self.have == needs)
    }

    /// RFC 8878 section 3.1.1.1: `known` bytes of the header are there.
    fn frame(&mut self, known: usize) -> io::Result<Next> {
        if self.head[..4] != MAGIC {
            return Err(bad("found something that is no zstd frame"));
        }
        let descriptor = self.head[4];
        let single = descriptor & 0x20 != 0;
        if descriptor & 0x08 != 0 {
            return Err(bad("found a zstd frame of an unknown kind"));
        }
        if descriptor & 0x03 != 0 {
            return Err(bad("found a zstd frame that asks for a dictionary"));
        }
        let size_bytes = match descriptor >> 6 {
            0 => usize::from(single),
            1 => 2,
            2 => 4,
            _ => 8,
        };
        let needs = 5 + usize::from(!single) + size_bytes;
        if known < needs {
            return Ok(Next::Frame(needs));
        }
        let window = if single {
            let size = self.head[5..needs].iter().rev().fold(0_u64, |size, byte| size << 8 | u64::from(*byte));
            if size_bytes == 2 { size + 256 } else { size }
        } else {
            let (exponent, mantissa) = (u32::from(self.head[5] >> 3), u64::from(self.head[5] & 7));
            let base = 1_u64 << (10 + exponent);
            base + (base >> 3) * mantissa
        };
        if window > LARGEST_WINDOW {
            return Err(bad(format!(
                "found a zstd frame with a window of {window} bytes, expected at most {LARGEST_WINDOW}"
            )));
        }
        self.checksum = descriptor & 0x04 != 0;
        self.have = 0;
        Ok(Next::Block)
    }

    /// RFC 8878 section 3.1.1.2.
    fn block(&mut self) -> io::Result<Next> {
        let header = u32::from_le_bytes([self.head[0], self.head[1], self.head[2], 0]);
        self.have = 0;
        let (last, size) = (header & 1 != 0, u64::from(header >> 3));
        let left = match header >> 1 & 3 {
            0 | 2 => size,
            // One byte, repeated.
            1 => 1,
            _ => return Err(bad("found a zstd block of an unknown kind")),
        };
        Ok(match (left, last) {
            (1.., _) => Next::Content { left, last },
            (0, false) => Next::Block,
            (0, true) => self.end_of_frame(),
        })
    }

    fn end_of_frame(&self) -> Next {
        if self.checksum { Next::Checksum(4) } else { Next::Frame(5) }
    }
}

fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (&bytes[taken..], left - taken as u64)
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.pass(&buffer[..length])?;
        self.passed += length as u64;
        if length == 0 && !buffer.is_empty() && !(matches!(self.next, Next::Frame(_)) && self.have == 0) {
            return Err(bad("the last zstd frame is cut short"));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn frame(text: &[u8], level: i32, window_log: Option<u32>) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
        if let Some(log) = window_log {
            encoder.long_distance_matching(true).unwrap();
            encoder.window_log(log).unwrap();
        }
        encoder.include_checksum(level % 2 == 0).unwrap();
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn passed(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // Byte by byte and in pieces, the places are the same.
        let whole = Frames::over(bytes).read_to_end(&mut out);
        let mut one = Frames::over(bytes);
        let mut byte = [0; 1];
        let single = loop {
            match one.read(&mut byte) {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        assert_eq!(whole.as_ref().err().map(ToString::to_string), single.as_ref().err().map(ToString::to_string));
        whole.map(|_| out)
    }

    #[test]
    fn frames_pass_and_nothing_else_does() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(|at| (at / 7).to_string().into_bytes()).collect();
        let pieces = [&b""[..], b"a", &text[..255], &text[..300], &text[..70_000], &text];
        let mut all = Vec::new();
        for (piece, level) in pieces.into_iter().zip(1..) {
            let bytes = frame(piece, level, None);
            assert_eq!(passed(&bytes).unwrap(), bytes);
            assert!(passed(&zstd::bulk::compress(piece, level).unwrap()).is_ok());
            for cut in [1, 4, 5, bytes.len() / 2, bytes.len() - 1] {
                assert!(passed(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            all.extend_from_slice(&bytes);
            assert!(passed(&[&all[..], b"x"].concat()).is_err());
        }
        assert_eq!(passed(&all).unwrap(), all);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, b'x'][..], &all].concat();
        assert!(passed(&skippable).unwrap_err().to_string().contains("no zstd frame"));
        assert!(passed(&frame(&text, 3, Some(23))).is_ok());
        assert!(passed(&frame(&text, 3, Some(24))).unwrap_err().to_string().contains("window"));
        let mut dictionary = frame(b"a", 3, None);
        dictionary[4] |= 1;
        assert!(passed(&dictionary).unwrap_err().to_string().contains("dictionary"));
    }
}
