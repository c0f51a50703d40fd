//! The two forms of an anchor, and RLP.

use alloy_primitives::hex;
use proptest::prelude::*;

use super::super::rlp::{self, Item};
use super::*;

#[test]
fn the_selector_is_that_of_the_contract() {
    assert_eq!(SELECTOR, keccak256("anchor(bytes32,uint64,bytes32)")[..4]);
}

#[test]
fn an_anchor_has_two_forms() {
    let origin = hex::encode(Digest::of(ORIGIN.as_bytes()).as_bytes());
    let (size, root) = ("0000000000000102", root());
    let by_contract = payload(ORIGIN, SIZE, &root, true);
    assert_eq!(hex::encode(&by_contract), format!("70c127c6{origin}{}{size}{root}", "0".repeat(48)));
    assert_eq!(by_contract.len(), 100);
    let alone = payload(ORIGIN, SIZE, &root, false);
    assert_eq!(hex::encode(&alone), format!("4d5345414c31{origin}{size}{root}"));
    assert_eq!(alone.len(), 78);
}

/// Lists of ethereum/tests, RLPTests/rlptest.json.
#[test]
fn published_lists_read() {
    for (whole, count) in [
        ("c0", 0),
        ("cc83646f6783676f6483636174", 3),
        ("c6827a77c10401", 3),
        ("c7c0c1c0c3c0c1c0", 3),
        ("c4c2c0c0c0", 2),
        (
            "f784617364668471776572847a78637684617364668471776572847a78637684617364668471776572847a78637684617364668471776572",
            11,
        ),
    ] {
        let bytes = hex::decode(whole).unwrap();
        let list = rlp::list(&bytes).unwrap();
        assert_eq!(list.len(), count, "{whole}");
    }
    let bytes = hex::decode("c88363617483646f67").unwrap();
    let [cat, dog] = rlp::list(&bytes).unwrap().exactly().unwrap();
    assert_eq!((cat.bytes(), dog.bytes()), (Ok(b"cat".as_slice()), Ok(b"dog".as_slice())));
}

/// Of ethereum/tests, RLPTests/invalidRLPTest.json, and their like, each within a list that is as long as it says.
#[test]
fn other_forms_are_refused() {
    let items = [
        "bf0f000000000000021111",
        "ff0f000000000000021111",
        "8100",
        "8101",
        "817f",
        "81",
        "b801",
        "b800",
        "b81000112233445566778899aabbccddeeff",
        "f80180",
        "f80100",
        "f803112233",
        "f90003112233",
        "a0000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e",
        "f7",
        "c2",
        "c3c201",
        "c281",
        "c1c2c0",
    ];
    for item in items {
        let bytes = hex::decode(item).unwrap();
        assert!(rlp::list(&list(std::slice::from_ref(&bytes))).is_err(), "{item}");
        assert!(rlp::list(&bytes).is_err(), "{item}");
    }
    for whole in ["", "00", "80", "83646f67", "c000", "c180c0", "b90040", "ba00"] {
        assert!(rlp::list(&hex::decode(whole).unwrap()).is_err(), "{whole}");
    }
    let long = [vec![0xb9, 0, 60], vec![7; 60]].concat();
    assert!(rlp::list(&list(&[long])).is_err());
}

#[test]
fn a_number_has_no_leading_zero_and_its_width() {
    let read = |bytes: &[u8], most| Item::Bytes(bytes).number(most).ok();
    assert_eq!(read(&[], 8), Some(U256::ZERO));
    assert_eq!(read(&[1, 0], 8), Some(U256::from(256)));
    assert_eq!(read(&[0xff; 32], 32), Some(U256::MAX));
    assert_eq!(read(&[0], 8), None);
    assert_eq!(read(&[0, 1], 8), None);
    assert_eq!(read(&[1; 9], 8), None);
    assert_eq!(read(&[1; 33], 64), None);
    assert_eq!(Item::Bytes(&[0xff; 8]).u64(), Ok(u64::MAX));
}

#[test]
fn lists_lie_at_most_16_deep() {
    let nested = |depth: usize| (1..depth).fold(list(&[]), |within, _| list(&[within]));
    assert!(rlp::list(&nested(16)).is_ok());
    assert!(rlp::list(&nested(17)).is_err());
    assert!(rlp::list(&nested(10_000)).is_err());
    // Beside one another they are as many as they like.
    assert!(rlp::list(&list(&vec![nested(15); 100])).is_ok());
    assert!(rlp::list(&list(&[nested(15), nested(16)])).is_err());
}

proptest! {
    #[test]
    fn what_reads_is_written_again_alike(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        fn again(item: Item<'_>) -> Vec<u8> {
            match item {
                Item::Bytes(bytes) => text(bytes),
                Item::List(within) => list(&within.items().map(|item| again(item.unwrap())).collect::<Vec<_>>()),
            }
        }
        // Most bytes are no list: as the payload of one, some are.
        let mut whole = Vec::new();
        alloy_rlp::Header { list: true, payload_length: bytes.len() }.encode(&mut whole);
        whole.extend(&bytes);
        if let Ok(read) = rlp::list(&whole) {
            prop_assert_eq!(again(Item::List(read)), whole);
        }
    }
}
