//! RLP (Yellow Paper, appendix B), read in its only form.
//!
//! `Header::decode` of alloy-rlp refuses what is longer than need be: lengths, and the single byte below 80. That nothing
//! follows, that the items of a list fill it to the byte however deep they lie, and that numbers have no leading zero, is
//! checked here, and that no list lies deeper than the format allows. Nothing is copied, so that a hostile text costs no
//! more than its own length.

use alloy_primitives::U256;
pub use alloy_rlp::Result;
use alloy_rlp::{Error, Header};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item<'a> {
    Bytes(&'a [u8]),
    List(List<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct List<'a> {
    /// With its own length before it.
    pub whole: &'a [u8],
    payload: &'a [u8],
}

/// Lists within lists, the outermost counted: far more than transactions, receipts and nodes have.
const DEEPEST: usize = 16;

/// Reads `bytes` as one list, checked to its depth.
pub fn list(bytes: &[u8]) -> Result<List<'_>> {
    let mut rest = bytes;
    let item = next(&mut rest)?;
    if !rest.is_empty() {
        return Err(Error::Custom("bytes follow it"));
    }
    let list = item.list()?;
    check_deep(list)?;
    Ok(list)
}

/// Every list within lies whole within its own, and none too deep.
fn check_deep(list: List<'_>) -> Result<()> {
    let mut open = vec![list.payload];
    while let Some(rest) = open.last_mut() {
        if rest.is_empty() {
            open.pop();
        } else if let Item::List(within) = next(rest)? {
            if open.len() == DEEPEST {
                return Err(Error::Custom("lists lie deeper in one another than 16"));
            }
            open.push(within.payload);
        }
    }
    Ok(())
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<Item<'a>> {
    let start = *rest;
    let header = Header::decode(rest)?;
    let (payload, after) = rest.split_at_checked(header.payload_length).ok_or(Error::InputTooShort)?;
    *rest = after;
    let whole = &start[..start.len() - after.len()];
    Ok(if header.list { Item::List(List { whole, payload }) } else { Item::Bytes(payload) })
}

impl<'a> Item<'a> {
    pub fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::List(_) => Err(Error::UnexpectedList),
        }
    }

    pub fn list(self) -> Result<List<'a>> {
        match self {
            Self::List(list) => Ok(list),
            Self::Bytes(_) => Err(Error::UnexpectedString),
        }
    }

    pub fn array<const N: usize>(self) -> Result<[u8; N]> {
        self.bytes()?.try_into().map_err(|_| Error::UnexpectedLength)
    }

    /// A number of at most `most` bytes.
    pub fn number(self, most: usize) -> Result<U256> {
        match self.bytes()? {
            [0, ..] => Err(Error::LeadingZero),
            bytes if bytes.len() > most => Err(Error::Overflow),
            bytes => U256::try_from_be_slice(bytes).ok_or(Error::Overflow),
        }
    }

    pub fn u64(self) -> Result<u64> {
        u64::try_from(self.number(8)?).map_err(|_| Error::Overflow)
    }
}

impl<'a> List<'a> {
    pub fn items(self) -> Items<'a> {
        Items { rest: self.payload }
    }

    /// Its items, which are exactly so many.
    pub fn exactly<const N: usize>(self) -> Result<[Item<'a>; N]> {
        let mut items = self.items();
        let mut found = [Item::Bytes(&[]); N];
        for place in &mut found {
            *place = items.next().ok_or(Error::ListLengthMismatch { expected: N, got: self.len() })??;
        }
        match items.next() {
            None => Ok(found),
            Some(_) => Err(Error::ListLengthMismatch { expected: N, got: self.len() }),
        }
    }

    pub fn nth(self, at: usize) -> Result<Item<'a>> {
        self.items().nth(at).unwrap_or(Err(Error::InputTooShort))
    }

    pub fn len(self) -> usize {
        self.items().count()
    }

    pub fn is_empty(self) -> bool {
        self.payload.is_empty()
    }

    /// The first `count` items as a list of their own.
    pub fn first(self, count: usize) -> Result<Vec<u8>> {
        let mut items = self.items();
        for _ in 0..count {
            items.next().ok_or(Error::InputTooShort)??;
        }
        let payload = &self.payload[..self.payload.len() - items.rest.len()];
        let mut whole = Vec::with_capacity(payload.len() + 9);
        Header { list: true, payload_length: payload.len() }.encode(&mut whole);
        whole.extend_from_slice(payload);
        Ok(whole)
    }
}

pub struct Items<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = next(&mut self.rest);
        // After a fault nothing more can be told apart.
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}
