//! What evidence shows, and everything that is refused.

use super::frozen::evidence_in;
use super::*;
use crate::model::Timestamp;

#[test]
fn an_anchor_is_shown_in_both_forms() {
    for by_contract in [true, false] {
        let evidence = anchored(by_contract);
        let shown = check(&evidence).unwrap();
        let wanted = Shown {
            chain_id: 137,
            account: key().address(),
            contract: by_contract.then_some(CONTRACT),
            origin: Digest::of(ORIGIN.as_bytes()),
            size: SIZE,
            root: root(),
            transaction: keccak256(signed(&items(by_contract))),
            height: 80_000_000,
            hash: keccak256(&evidence.header),
            time: Timestamp::from_millis(1_795_000_000_000),
        };
        assert_eq!(shown, wanted);
    }
}

#[test]
fn what_the_key_signs_is_what_is_checked() {
    for by_contract in [true, false] {
        let call = Call {
            chain_id: 80002,
            nonce: u64::MAX,
            max_fee: u128::MAX,
            tip: 0,
            gas_limit: 30_000,
            to: Some(if by_contract { CONTRACT } else { key().address() }),
            data: payload(ORIGIN, SIZE, &root(), by_contract),
        };
        let sent = key().sign(&call);
        let shown = check(&evidence_of(&sent.raw, &receipt(&[own_log()]))).unwrap();
        assert_eq!((shown.transaction, shown.chain_id, shown.account), (sent.hash, 80002, key().address()));
    }
}

/// The hash of the block is all that is to be believed: it changes with each bit of the header, and everything else is
/// refused against it.
#[test]
fn no_bit_can_change() {
    for evidence in [evidence_in("anvil-data.json"), evidence_in("made-of-300.json")] {
        let shown = check(&evidence).unwrap();
        let flips = |length: usize| (0..length * 8).map(|bit| (bit / 8, 1_u8 << (bit % 8)));
        for (at, bit) in flips(evidence.header.len()) {
            let mut other = evidence.clone();
            other.header[at] ^= bit;
            assert!(check(&other).map_or(true, |other| other.hash != shown.hash), "header, {at}");
        }
        for bit in 0..64 {
            let other = ChainEvidence { index: evidence.index ^ (1 << bit), ..evidence.clone() };
            assert!(check(&other).is_err(), "index, bit {bit}");
        }
        for node in 0..evidence.transaction.len() {
            for (at, bit) in flips(evidence.transaction[node].len()) {
                let mut other = evidence.clone();
                other.transaction[node][at] ^= bit;
                assert!(check(&other).is_err(), "transaction[{node}], {at}");
            }
        }
        for node in 0..evidence.receipt.len() {
            for (at, bit) in flips(evidence.receipt[node].len()) {
                let mut other = evidence.clone();
                other.receipt[node][at] ^= bit;
                assert!(check(&other).is_err(), "receipt[{node}], {at}");
            }
        }
    }
}

/// The root of the transactions and that of the receipts are two: neither path does for the other.
#[test]
fn paths_are_not_interchangeable() {
    let evidence = anchored(true);
    let other = ChainEvidence { receipt: evidence.transaction.clone(), ..evidence.clone() };
    assert!(refused(&other).starts_with("receipt[0]: its Keccak is"));
    let other = ChainEvidence { transaction: evidence.receipt.clone(), ..evidence.clone() };
    assert!(refused(&other).starts_with("transaction[0]: its Keccak is"));
}

#[test]
fn a_header_is_fifteen_strings_or_more() {
    let evidence = anchored(true);
    let read = rlp::list(&evidence.header).unwrap();
    let items: Vec<Vec<u8>> = read.items().map(|item| text(item.unwrap().bytes().unwrap())).collect();
    let with = |header: Vec<u8>| check(&ChainEvidence { header, ..evidence.clone() });
    let bent = |at: usize, item: Vec<u8>| {
        let mut items = items.clone();
        items[at] = item;
        with(list(&items))
    };
    assert!(with(list(&items[..15])).is_ok());
    assert!(with(list(&[items.clone(), vec![number(0); 20]].concat())).is_ok());
    assert_eq!(bent(8, number(u64::MAX.into())).unwrap().height, u64::MAX);
    assert_eq!(bent(11, vec![0x80]).unwrap().time, Timestamp::from_millis(0));
    let last = i64::MAX as u128 / 1000;
    assert_eq!(bent(11, number(last)).unwrap().time.as_millis(), i64::MAX / 1000 * 1000);
    for (header, why) in [
        (list(&items[..14]), "14 items"),
        (Vec::new(), "input too short"),
        (text(&[1; 40]), "unexpected string"),
        ([evidence.header.clone(), vec![0x80]].concat(), "bytes follow"),
        (list(&[items.clone(), vec![list(&[])]].concat()), "item 16: unexpected list"),
        (vec![0xf9; (1 << 20) + 1], "at most 1048576"),
    ] {
        let told = with(header).unwrap_err().to_string();
        assert!(told.starts_with("header: ") && told.contains(why), "{why}: {told}");
    }
    let cases = [
        (0, list(&[]), "item 0: unexpected list"),
        (4, text(&[1; 31]), "item 4: unexpected length"),
        (5, text(&[1; 33]), "item 5: unexpected length"),
        (8, text(&[0, 1]), "item 8: leading zero"),
        (8, vec![0], "item 8: leading zero"),
        (8, number(1 << 64), "item 8: overflow"),
        (11, text(&[0, 1]), "item 11: leading zero"),
        (11, number(last + 1), "item 11: overflow"),
        (11, number(1 << 64), "item 11: overflow"),
        (12, vec![0x81, 1], "non-canonical single byte"),
    ];
    for (at, item, why) in cases {
        let told = bent(at, item).unwrap_err().to_string();
        assert!(told.starts_with("header: ") && told.contains(why), "{why}: {told}");
    }
}

#[test]
fn a_transaction_that_is_no_anchor_is_refused() {
    let (alone, called) = (items(false), items(true));
    let bent = |items: &[Vec<u8>], at: usize, item: Vec<u8>| {
        let mut items = items.to_vec();
        items[at] = item;
        signed(&items)
    };
    let data = |data: &[u8]| bent(&called, 7, text(data));
    let by_contract = payload(ORIGIN, SIZE, &root(), true);
    let by_data = payload(ORIGIN, SIZE, &root(), false);
    let mut wide = by_contract.to_vec();
    wide[4 + 32 + 23] = 1;
    let access = list(&[list(&[text(CONTRACT.as_slice()), list(&[])])]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (bent(&called, 0, number(1 << 64)), "chain id: overflow"),
        (bent(&called, 0, vec![0]), "chain id: leading zero"),
        (bent(&called, 1, text(&[0, 1])), "nonce: leading zero"),
        (bent(&called, 1, number(1 << 64)), "nonce: overflow"),
        (bent(&called, 2, text(&[1; 17])), "max priority fee: overflow"),
        (bent(&called, 3, text(&[1; 17])), "max fee: overflow"),
        (bent(&called, 3, list(&[])), "max fee: unexpected list"),
        (bent(&called, 4, number(1 << 64)), "gas limit: overflow"),
        (bent(&called, 5, text(&[])), "to: unexpected length"),
        (bent(&called, 5, text(&[1; 21])), "to: unexpected length"),
        (bent(&called, 6, number(1)), "its value is not 0"),
        (bent(&called, 6, vec![0]), "its value is not 0"),
        (bent(&called, 6, list(&[])), "value: unexpected list"),
        (bent(&called, 7, list(&[])), "data: unexpected list"),
        (bent(&called, 8, access), "its access list is not empty"),
        (bent(&called, 8, text(&[])), "access list: unexpected string"),
        (bent(&called, 5, text(key().address().as_slice())), "it has no log by 0x9d8A62f6"),
        (bent(&alone, 5, text(CONTRACT.as_slice())), "not to its sender"),
        (data(b""), "its 0 bytes of data are no anchor"),
        (data(&by_contract[..99]), "no anchor"),
        (data(&[&by_contract[..], &[0]].concat()), "no anchor"),
        (data(&[&[0x70, 0xc1, 0x27, 0xc7], &by_contract[4..]].concat()), "no anchor"),
        (data(&[b"MSEAL2", &by_data[6..]].concat()), "no anchor"),
        (data(&by_data[..77]), "no anchor"),
        (data(&[&by_data[..], &[0]].concat()), "no anchor"),
        (data(&wide), "the size in its data is above 8 bytes"),
        (signed(&called[..8]), "unexpected list length"),
        (signed(&[called.clone(), vec![number(1)]].concat()), "unexpected list length"),
        ([signed(&called), vec![0]].concat(), "bytes follow it"),
        (signed(&called)[1..].to_vec(), "it is of no type (legacy)"),
        ([vec![1], signed(&called)[1..].to_vec()].concat(), "it is of type 1"),
        ([vec![4], signed(&called)[1..].to_vec()].concat(), "it is of type 4"),
        ([vec![0xb8], signed(&called)].concat(), "it is of no type"),
        (vec![2], "input too short"),
        ([vec![2], text(&[1; 60])].concat(), "unexpected string"),
    ];
    for (transaction, why) in cases {
        let told = refused(&evidence_of(&transaction, &receipt(&[own_log()])));
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[test]
fn a_signature_has_one_form() {
    let items = items(true);
    let order = U256::from_str_radix("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16).unwrap();
    let of = |signature: [Vec<u8>; 3]| evidence_of(&with_signature(&items, signature), &receipt(&[own_log()]));
    let own = signature(&items);
    let word = |value: U256| alloy_rlp::encode(value);
    let parity = number(own.v().into());
    let (r, s) = (word(own.r()), word(own.s()));
    assert_eq!(check(&of([parity.clone(), r.clone(), s.clone()])).unwrap().account, key().address());
    // The other half of s, by which anybody could make a second transaction that says the same.
    let malleable = [number((!own.v()).into()), r.clone(), word(order - own.s())];
    assert!(refused(&of(malleable)).contains("s of its signature"));
    let above = U256::from_str_radix("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a1", 16).unwrap();
    let cases = [
        ([number(2), r.clone(), s.clone()], "y parity is 2"),
        ([number(27), r.clone(), s.clone()], "y parity is 27"),
        ([vec![0], r.clone(), s.clone()], "y parity: leading zero"),
        ([parity.clone(), number(0), s.clone()], "r of its signature"),
        ([parity.clone(), word(order), s.clone()], "r of its signature"),
        ([parity.clone(), word(U256::MAX), s.clone()], "r of its signature"),
        (
            [parity.clone(), text(&[&[0], own.r().to_be_bytes::<32>().as_slice()].concat()), s.clone()],
            "r: leading zero",
        ),
        ([parity.clone(), text(&[1; 33]), s.clone()], "r: overflow"),
        ([parity.clone(), r.clone(), number(0)], "s of its signature"),
        ([parity.clone(), r.clone(), word(above)], "s of its signature"),
        ([parity.clone(), r.clone(), word(order)], "s of its signature"),
        (
            [parity.clone(), r.clone(), text(&[&[0], own.s().to_be_bytes::<32>().as_slice()].concat())],
            "s: leading zero",
        ),
        // No point of the curve has this x.
        ([parity.clone(), number(5), s.clone()], "nobody's"),
    ];
    for (signature, why) in cases {
        let told = refused(&of(signature));
        assert!(told.contains(why), "{why}: {told}");
    }
    // With the other parity, or half of the order, it is somebody else's.
    for signature in [[number((!own.v()).into()), r.clone(), s], [parity, r, word(above - U256::ONE)]] {
        let told = refused(&of(signature));
        assert!(told.contains("the topics of the log"), "{told}");
    }
}

#[test]
fn a_receipt_that_does_not_say_the_same_is_refused() {
    let own = own_log();
    let event = keccak256("Anchored(address,bytes32,uint64,bytes32)");
    let by = key().address().into_word();
    let origin = B256::new(*Digest::of(ORIGIN.as_bytes()).as_bytes());
    let logged = logged();
    let of = |logs: &[Vec<u8>]| receipt(logs);
    let topics = |topics: &[B256]| of(&[log(CONTRACT, topics, &logged)]);
    let data = |data: &[u8]| of(&[log(CONTRACT, &[event, by, origin], data)]);
    let mut other_size = logged.clone();
    other_size[31] ^= 1;
    let mut other_root = logged.clone();
    other_root[63] ^= 1;
    let bent = |at: usize, item: Vec<u8>| {
        let mut items = vec![number(1), number(52_000), text(&[0; 256]), list(std::slice::from_ref(&own))];
        items[at] = item;
        typed_receipt(&items)
    };
    let five = log(Address::ZERO, &[by; 5], &[]);
    let short = list(&[text(&[1; 19]), list(&[]), text(&[])]);
    let short_topic = list(&[text(CONTRACT.as_slice()), list(&[text(&[1; 31])]), text(&[])]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (of(&[]), "it has no log by 0x"),
        (of(&[fee_log()]), "it has no log by 0x"),
        (of(&[own.clone(), own.clone()]), "it has several logs by 0x"),
        (of(&[own.clone(), log(CONTRACT, &[], &[])]), "it has several logs by 0x"),
        (of(&[own.clone(), five]), "a log has 5 topics"),
        (of(&[own.clone(), short]), "address of a log: unexpected length"),
        (of(&[own.clone(), short_topic]), "topic of a log: unexpected length"),
        (of(&[own.clone(), text(&[1; 60])]), "log: unexpected string"),
        (of(&[own.clone(), list(&[])]), "log: unexpected list length"),
        (topics(&[event, by]), "the topics of the log"),
        (topics(&[event, by, origin, origin]), "the topics of the log"),
        (topics(&[by, by, origin]), "the topics of the log"),
        (topics(&[event, origin, by]), "the topics of the log"),
        (topics(&[event, by, by]), "the topics of the log"),
        (topics(&[event, CONTRACT.into_word(), origin]), "the topics of the log"),
        (topics(&[]), "the topics of the log"),
        (data(&other_size), "size and root in the log"),
        (data(&other_root), "size and root in the log"),
        (data(&logged[..63]), "size and root in the log"),
        (data(&[&logged[..], &[0]].concat()), "size and root in the log"),
        (bent(0, number(0)), "its status is 0"),
        (bent(0, number(2)), "its status is 2"),
        (bent(0, text(&[1; 32])), "status: overflow"),
        (bent(0, vec![0]), "status: leading zero"),
        (bent(1, number(1 << 64)), "cumulative gas: overflow"),
        (bent(2, text(&[0; 255])), "bloom: unexpected length"),
        (bent(3, text(&[])), "logs: unexpected string"),
        (of(std::slice::from_ref(&own))[1..].to_vec(), "it is of no type"),
        ([vec![3], of(std::slice::from_ref(&own))[1..].to_vec()].concat(), "it is of type 3"),
        ([of(std::slice::from_ref(&own)), vec![0x80]].concat(), "bytes follow it"),
        (typed_receipt(&[number(1), number(2), text(&[0; 256])]), "unexpected list length"),
    ];
    for (receipt, why) in cases {
        let told = refused(&evidence_of(&signed(&items(true)), &receipt));
        assert!(told.starts_with("receipt: ") && told.contains(why), "{why}: {told}");
    }
    // Where call data bear it, nothing is asked of logs but their form; that it was mined for nothing is refused too.
    assert!(check(&evidence_of(&signed(&items(false)), &receipt(&[]))).is_ok());
    for (receipt, why) in [(bent(0, number(0)), "its status is 0"), (of(&[text(&[])]), "log: unexpected string")] {
        let told = refused(&evidence_of(&signed(&items(false)), &receipt));
        assert!(told.contains(why), "{told}");
    }
}
