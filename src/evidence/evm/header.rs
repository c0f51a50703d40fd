//! The header of a block on the chain, as far as anchors need it.

use alloy_primitives::{B256, keccak256};

use super::Unproven;
use super::path::LARGEST;
use super::rlp::{self, Item};
use crate::model::Timestamp;

pub struct Header {
    pub hash: B256,
    pub transactions_root: [u8; 32],
    pub receipts_root: [u8; 32],
    pub height: u64,
    pub time: Timestamp,
}

/// Those of the first header; later upgrades of a chain add to them.
const LEAST: usize = 15;

impl Header {
    pub fn read(bytes: &[u8]) -> Result<Self, Unproven> {
        let unproven = |why: String| Unproven::at("header", why);
        if bytes.len() > LARGEST {
            let unread = unproven(format!("{} bytes, at most {LARGEST} are read", bytes.len()));
            return Err(Unproven { is_unread: true, ..unread });
        }
        let list = rlp::list(bytes).map_err(|error| unproven(error.to_string()))?;
        let mut first = [Item::Bytes(&[]); LEAST];
        let mut count = 0;
        for item in list.items() {
            let item = item.and_then(|item| item.bytes().map(Item::Bytes));
            let item = item.map_err(|error| unproven(format!("item {count}: {error}")))?;
            if let Some(place) = first.get_mut(count) {
                *place = item;
            }
            count += 1;
        }
        if count < LEAST {
            return Err(unproven(format!("{count} items, but a header has {LEAST} or more")));
        }
        let at = |at: usize| move |error: alloy_rlp::Error| (at, error);
        let read = || {
            let seconds = first[11].u64().map_err(at(11))?;
            let millis = i64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1000));
            Ok(Self {
                hash: keccak256(bytes),
                transactions_root: first[4].array().map_err(at(4))?,
                receipts_root: first[5].array().map_err(at(5))?,
                height: first[8].u64().map_err(at(8))?,
                time: Timestamp::from_millis(millis.ok_or((11, alloy_rlp::Error::Overflow))?),
            })
        };
        read().map_err(|(at, error): (usize, alloy_rlp::Error)| unproven(format!("item {at}: {error}")))
    }
}
