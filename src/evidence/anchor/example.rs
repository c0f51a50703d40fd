//! Anchors as tests need them.

use alloy_primitives::{Address, B256, Bytes};

use crate::model::{Anchor, AnchorState, Anchored, Attempt, Inclusion, Timestamp};

pub const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
pub const GWEI: u128 = 1_000_000_000;

pub fn hash(of: u8) -> B256 {
    B256::repeat_byte(of)
}

pub fn queued(id: u64) -> Anchor {
    let what = Anchored::Checkpoint { epoch: "00000000000000ab".into(), size: 5, note: String::new() };
    Anchor { id, ..Anchor::queued(what, 137, Address::repeat_byte(0xaa), None, NOW) }
}

pub fn attempt(nonce: u64) -> Attempt {
    Attempt {
        hash: hash(u8::try_from(nonce).unwrap()),
        raw: Bytes::from_static(b"raw"),
        nonce,
        max_fee: 70 * GWEI,
        tip: 30 * GWEI,
        gas_limit: 30_000,
        signed: NOW,
        height: 80,
        sent: None,
    }
}

pub fn signed(nonce: u64) -> Anchor {
    Anchor { state: AnchorState::Signed, attempts: vec![attempt(nonce)], ..queued(nonce) }
}

pub fn sent(nonce: u64) -> Anchor {
    let attempts = vec![Attempt { sent: Some(NOW), ..attempt(nonce) }];
    Anchor { state: AnchorState::Sent, attempts, ..queued(nonce) }
}

pub fn inclusion(nonce: u64) -> Inclusion {
    let transaction = attempt(nonce).hash;
    Inclusion { height: 90, hash: hash(0xb0), time: NOW, index: 3, transaction, gas_used: 25_000, price: 50 * GWEI }
}

pub fn included(nonce: u64) -> Anchor {
    Anchor { state: AnchorState::Included, inclusion: Some(inclusion(nonce)), ..sent(nonce) }
}
