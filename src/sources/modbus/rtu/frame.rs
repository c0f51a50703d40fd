//! Frames of a serial line (Modbus over serial line 1.02): unit, function, content, check sum. Pure.

use std::ops::Range;

use crate::sources::modbus::plan::Request;
use crate::sources::template::Function;

/// The length of every request to read registers, which is even; answers to one have odd lengths.
pub const REQUEST: usize = 8;

pub const LONGEST: usize = 256;

/// An exception is the shortest answer.
const SHORTEST: usize = 5;

/// What a request asks of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub function: Function,
    pub address: u16,
    pub count: u16,
}

/// A whole frame whose check sum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    pub unit: u8,
    pub function: Function,
    pub content: Content<'b>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'b> {
    Values(&'b [u8]),
    Exception(u8),
    /// Our own, where the adapter hears itself; or that of another master.
    Request(Ask),
}

impl From<&Request> for Ask {
    fn from(request: &Request) -> Self {
        Self { function: request.function, address: request.address, count: request.count }
    }
}

impl Ask {
    /// The frame that asks `unit` for it.
    pub fn frame(&self, unit: u8) -> [u8; REQUEST] {
        let ([a1, a0], [c1, c0]) = (self.address.to_be_bytes(), self.count.to_be_bytes());
        let mut frame = [unit, code(self.function), a1, a0, c1, c0, 0, 0];
        let sum = check_sum(&frame[..REQUEST - 2]).to_le_bytes();
        frame[REQUEST - 2..].copy_from_slice(&sum);
        frame
    }

    /// `frame` can be the answer of `unit` to this.
    pub fn fits(&self, unit: u8, frame: &Frame) -> bool {
        frame.unit == unit
            && frame.function == self.function
            && match frame.content {
                Content::Values(values) => values.len() == 2 * usize::from(self.count),
                Content::Exception(_) => true,
                Content::Request(_) => false,
            }
    }

    /// The length of the answer that has values.
    pub fn answer_length(&self) -> usize {
        SHORTEST + 2 * usize::from(self.count)
    }
}

impl<'b> Frame<'b> {
    /// The frame at the beginning of `bytes`, and its length.
    pub fn at(bytes: &'b [u8]) -> Option<(Self, usize)> {
        let [unit, said, third, ..] = *bytes else { return None };
        let function = function(said & 0x7F)?;
        if said & 0x80 != 0 {
            let body = checked(bytes, SHORTEST)?;
            return Some((Self { unit, function, content: Content::Exception(body[2]) }, SHORTEST));
        }
        let length = SHORTEST + usize::from(third);
        if third > 0
            && third.is_multiple_of(2)
            && let Some(body) = checked(bytes, length)
        {
            return Some((Self { unit, function, content: Content::Values(&body[3..]) }, length));
        }
        let &[_, _, a1, a0, 0, count @ 1..=125] = checked(bytes, REQUEST)? else { return None };
        let ask = Ask { function, address: u16::from_be_bytes([a1, a0]), count: u16::from(count) };
        Some((Self { unit, function, content: Content::Request(ask) }, REQUEST))
    }

    /// The first frame in `bytes` of which `wanted` is true, and where it lies. A frame is looked for at every byte, as
    /// noise and halves of frames may lie before it.
    pub fn first(bytes: &'b [u8], wanted: impl Fn(&Self) -> bool) -> Option<(Self, Range<usize>)> {
        (0..bytes.len()).find_map(|from| {
            let (frame, length) = Self::at(&bytes[from..])?;
            wanted(&frame).then_some((frame, from..from + length))
        })
    }

    pub fn is_answer(&self) -> bool {
        !matches!(self.content, Content::Request(_))
    }
}

pub fn code(function: Function) -> u8 {
    match function {
        Function::Holding => 3,
        Function::Input => 4,
    }
}

fn function(code: u8) -> Option<Function> {
    match code {
        3 => Some(Function::Holding),
        4 => Some(Function::Input),
        _ => None,
    }
}

/// What of a frame of `length` bytes its check sum covers, if it is right.
fn checked(bytes: &[u8], length: usize) -> Option<&[u8]> {
    let (body, sum) = bytes.get(..length)?.split_at(length - 2);
    (check_sum(body).to_le_bytes() == *sum).then_some(body)
}

/// CRC-16/MODBUS (Modbus over serial line 1.02, 6.2.2).
fn check_sum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0xA001 })
    })
}

#[cfg(test)]
pub fn with_sum(body: &[u8]) -> Vec<u8> {
    [body, &check_sum(body).to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_sum_is_that_of_the_standard() {
        // The check value that the catalogue of CRC algorithms gives for CRC-16/MODBUS.
        assert_eq!(check_sum(b"123456789"), 0x4B37);
        // The example of the specification, appendix B: unit 2, function 7.
        assert_eq!(with_sum(&[2, 7]), [2, 7, 0x41, 0x12]);
    }

    #[test]
    fn frames_are_told_apart() {
        let ask = Ask { function: Function::Input, address: 0x34, count: 2 };
        let request = ask.frame(17);
        assert_eq!(request[..6], [17, 4, 0, 0x34, 0, 2]);
        let of = |content| Frame { unit: 17, function: Function::Input, content };
        assert_eq!(Frame::at(&request), Some((of(Content::Request(ask)), 8)));
        let values = with_sum(&[17, 4, 4, 1, 2, 3, 4]);
        assert_eq!(Frame::at(&values), Some((of(Content::Values(&[1, 2, 3, 4])), ask.answer_length())));
        assert_eq!(Frame::at(&with_sum(&[17, 0x84, 2])), Some((of(Content::Exception(2)), 5)));
        assert_eq!(Frame::at(&values[..8]), None, "half a frame");
        assert_eq!(Frame::at(&with_sum(&[17, 6, 0, 1, 0, 2])), None, "nobody asked for it");
        assert_eq!(Frame::at(&with_sum(&[17, 4, 5, 1, 2, 3, 4, 5])), None, "half a register");
    }

    proptest! {
        #[test]
        fn a_frame_is_found_behind_noise_and_no_damaged_one_is(
            noise in prop::collection::vec(any::<u8>(), 0..40),
            words in prop::collection::vec(any::<u16>(), 1..125),
            hit in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let values: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let answer = with_sum(&[&[9, 3, u8::try_from(values.len()).unwrap()], &values[..]].concat());
            let is_it = |frame: &Frame| frame.unit == 9 && frame.content == Content::Values(&values);
            let mut line = [&noise[..], &answer].concat();
            let (_, found) = Frame::first(&line, is_it).unwrap();
            prop_assert_eq!(found, noise.len()..line.len());
            let hit = noise.len() + hit.index(answer.len());
            line[hit] ^= 1 << bit;
            prop_assert_eq!(Frame::first(&line, is_it), None);
        }
    }
}
