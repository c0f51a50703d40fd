//! Tries of all sizes against the Yellow Paper taken at its word, and paths in any form but theirs.

use proptest::prelude::*;

use super::super::path;
use super::*;

type Pair = (Vec<u8>, Vec<u8>);

fn nibbles(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect()
}

/// Appendix C.
fn hex_prefix(nibbles: &[u8], is_leaf: bool) -> Vec<u8> {
    let flag = 16 * (2 * u8::from(is_leaf) + u8::from(nibbles.len() % 2 == 1));
    let (first, rest) = if nibbles.len() % 2 == 1 { (flag + nibbles[0], &nibbles[1..]) } else { (flag, nibbles) };
    [first].into_iter().chain(rest.chunks(2).map(|pair| pair[0] * 16 + pair[1])).collect()
}

/// Appendix D: c(J, i). Slow and plain.
fn composed(pairs: &[Pair], from: usize) -> Vec<u8> {
    if let [(key, value)] = pairs {
        return list(&[text(&hex_prefix(&key[from..], true)), text(value)]);
    }
    let first = &pairs[0].0;
    let shared = (from..).take_while(|at| pairs.iter().all(|(key, _)| key.get(*at) == first.get(*at))).count();
    if shared > 0 {
        let prefix = text(&hex_prefix(&first[from..from + shared], false));
        return list(&[prefix, referred(pairs, from + shared)]);
    }
    let child = |nibble: u8| {
        let below: Vec<_> = pairs.iter().filter(|(key, _)| key[from] == nibble).cloned().collect();
        if below.is_empty() { text(&[]) } else { referred(&below, from + 1) }
    };
    list(&(0..16).map(child).chain([text(&[])]).collect::<Vec<_>>())
}

/// Appendix D: n(J, i).
fn referred(pairs: &[Pair], from: usize) -> Vec<u8> {
    let node = composed(pairs, from);
    if node.len() < 32 { node } else { text(keccak256(node).as_slice()) }
}

fn pairs(values: &[Vec<u8>]) -> Vec<Pair> {
    values.iter().enumerate().map(|(index, value)| (nibbles(&number(index as u128)), value.clone())).collect()
}

fn block_of(transactions: Vec<Vec<u8>>, receipts: Vec<Vec<u8>>) -> Block {
    Block { header: header(&transactions, &receipts), transactions, receipts }
}

fn roots(block: &Block) -> [[u8; 32]; 2] {
    let items: Vec<_> = rlp::list(&block.header).unwrap().items().map(|item| item.unwrap().bytes().unwrap()).collect();
    [items[4].try_into().unwrap(), items[5].try_into().unwrap()]
}

/// Values of `bytes` bytes and more; those of one byte make leaves, and branches of leaves, that are embedded.
fn values(count: usize, bytes: usize, more: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| [number(index as u128), vec![7; bytes + index % (more + 1)]].concat()).collect()
}

#[test]
fn every_index_of_tries_of_all_sizes_is_proven() {
    for count in [1, 2, 3, 15, 16, 17, 127, 128, 129, 130, 255, 256, 257, 300] {
        let block = block_of(values(count, 0, 40), (1..=100).cycle().take(count).map(|byte| vec![byte]).collect());
        let [transactions, receipts] = roots(&block);
        assert_eq!(transactions, *keccak256(composed(&pairs(&block.transactions), 0)), "{count}");
        assert_eq!(receipts, *keccak256(composed(&pairs(&block.receipts), 0)), "{count}");
        for index in 0..count as u64 {
            let evidence = evidence(&block, index).unwrap();
            let at = usize::try_from(index).unwrap();
            assert_eq!(path::value("t", &transactions, index, &evidence.transaction).unwrap(), block.transactions[at]);
            assert_eq!(path::value("r", &receipts, index, &evidence.receipt).unwrap(), block.receipts[at]);
            // Where nodes are embedded, the same list is the path of a neighbour too, and leads to its own value.
            for other in [index.wrapping_sub(1), index + 1, index ^ 128, index + 256] {
                if let Ok(read) = path::value("t", &transactions, other, &evidence.transaction) {
                    assert_eq!(read, block.transactions[usize::try_from(other).unwrap()]);
                }
            }
        }
    }
}

/// Without these the embedded case is not tested.
#[test]
fn short_values_are_embedded() {
    let block = block_of(values(300, 80, 0), vec![vec![1]; 300]);
    let evidence = evidence(&block, 0x81).unwrap();
    assert!(evidence.receipt.len() < evidence.transaction.len());
    let last = evidence.receipt.last().unwrap();
    assert!(last.len() > 32 && last.windows(3).any(|node| node == [0xc2, 0x20, 1] || node == [0xc2, 0x31, 1]));
}

#[test]
fn a_block_that_is_not_its_headers_is_refused() {
    let block = block(&signed(&items(true)), &receipt(&[own_log()]), 5, 20);
    let told = |bent: &dyn Fn(&mut Block)| {
        let mut other = block.clone();
        bent(&mut other);
        evidence(&other, 5).unwrap_err().to_string()
    };
    assert!(evidence(&block, 5).is_ok());
    assert_eq!(evidence(&block, 20).unwrap_err().to_string(), "transaction: no index 20 among 20");
    assert!(evidence(&block, u64::MAX).is_err());
    assert!(told(&|block| drop(block.transactions.pop())).starts_with("transaction: the root over all 19 is"));
    assert!(told(&|block| block.transactions.swap(1, 2)).starts_with("transaction: the root over all 20 is"));
    assert!(told(&|block| block.transactions.push(vec![2])).starts_with("transaction: the root over all 21 is"));
    assert!(told(&|block| block.receipts[7].push(0)).starts_with("receipt: the root over all 20 is"));
    assert!(told(&|block| block.receipts.truncate(3)).starts_with("receipt: no index 5 among 3"));
    assert!(told(&|block| block.receipts.clear()).starts_with("receipt: no index 5 among 0"));
    assert!(told(&|block| block.header.clear()).starts_with("header: "));
    let empty = block_of(vec![vec![]; 20], vec![vec![]; 20]);
    assert_eq!(evidence(&empty, 5).unwrap_err().to_string(), "transaction[1]: nothing stands at index 5");
}

/// A node of 17 items with these children, and a value.
fn branch(children: &[(usize, Vec<u8>)], value: &[u8]) -> Vec<u8> {
    let mut items = vec![text(&[]); 17];
    items[16] = text(value);
    children.iter().for_each(|(at, child)| items[*at] = child.clone());
    list(&items)
}

fn leaf(prefix: &[u8], value: &[u8]) -> Vec<u8> {
    list(&[text(prefix), text(value)])
}

fn hashed(node: &[u8]) -> Vec<u8> {
    text(keccak256(node).as_slice())
}

fn read(index: u64, nodes: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let root = keccak256(&nodes[0]);
    path::value("path", &root, index, nodes).map(<[u8]>::to_vec).map_err(|unproven| unproven.to_string())
}

/// The key of 5 is 0 5; that of 0x81 is 8 1 8 1.
#[test]
fn a_path_has_one_form() {
    let value = [9; 40];
    let good = leaf(&[0x35], &value);
    let with = |node: &[u8]| vec![branch(&[(0, hashed(node))], &[]), node.to_vec()];
    assert_eq!(read(5, &with(&good)), Ok(value.to_vec()));
    let cases = [
        (vec![leaf(&[0x20, 5], &value)], Ok(())),
        (vec![leaf(&[0x20, 4], &value)], Err("path[0]: leads to another index than 5")),
        (vec![leaf(&[0x30, 5], &value)], Err("path[0]: leads to another index than 5")),
        (with(&leaf(&[0x25, 5], &value)), Err("path[1]: a hex prefix in another form")),
        (with(&leaf(&[0x21], &value)), Err("path[1]: a hex prefix in another form")),
        (with(&leaf(&[0x75], &value)), Err("path[1]: a hex prefix in another form")),
        (with(&leaf(&[0xb5], &value)), Err("path[1]: a hex prefix in another form")),
        (with(&leaf(&[], &value)), Err("path[1]: a hex prefix in another form")),
        (with(&leaf(&[0x35, 0], &value)), Err("path[1]: leads to another index than 5")),
        (vec![branch(&[(0, leaf(&[0x35], &[]))], &[])], Err("path[0]: nothing stands at index 5")),
        (vec![branch(&[(0, hashed(&good))], &[]), leaf(&[0x35], &[8; 40])], Err("path[1]: its Keccak is")),
        (with(&list(&[text(&[0x35]), list(&[text(&value)])])), Err("path[1]: a list stands where the value should")),
        (with(&list(&[list(&[]), text(&value)])), Err("path[1]: hex prefix: unexpected list")),
        (with(&[good.clone(), vec![0x80]].concat()), Err("path[1]: bytes follow it")),
        (with(&list(&[text(&value)])), Err("path[1]: a node of 1 items")),
        (with(&list(&[text(&[0x35]), text(&value), text(&[])])), Err("path[1]: a node of 3 items")),
        (with(&list(&vec![text(&[1; 4]); 16])), Err("path[1]: a node of 16 items")),
        (with(&list(&vec![text(&[1; 4]); 18])), Err("path[1]: a node of 18 items")),
        (with(&text(&value)), Err("path[1]: unexpected string")),
        (vec![branch(&[(0, hashed(&good))], &[])], Err("path[0]: the path ends before a value")),
        (
            vec![branch(&[(0, hashed(&good))], &[]), good.clone(), good.clone()],
            Err("path[1]: it ends here, but 3 nodes"),
        ),
        (vec![good.clone(), good.clone()], Err("path[0]: leads to another index")),
        (vec![branch(&[(1, hashed(&good))], &[]), good.clone()], Err("path[0]: nothing stands at this index")),
        (vec![branch(&[(0, text(&[1; 31]))], &[])], Err("path[0]: a reference that is not 32 bytes")),
        (vec![branch(&[(0, text(&[1; 33]))], &[])], Err("path[0]: a reference that is not 32 bytes")),
        (vec![branch(&[(0, good.clone())], &[])], Err("path[0]: a node so long is hashed")),
        (vec![vec![0; (1 << 20) + 1]], Err("path[0]: 1048577 bytes, at most 1048576")),
    ];
    for (nodes, wanted) in cases {
        match (read(5, &nodes), wanted) {
            (Ok(read), Ok(())) => assert_eq!(read, value),
            (Err(told), Err(why)) if told.starts_with(why) => {}
            (told, why) => panic!("{told:?}, {why:?}"),
        }
    }
    assert!(path::value("path", &[0; 32], 5, &[]).is_err());
}

#[test]
fn an_embedded_node_stands_in_the_one_before_it_and_nowhere_else() {
    let short = leaf(&[0x35], &[9]);
    assert_eq!(read(5, &[branch(&[(0, short.clone())], &[])]), Ok(vec![9]));
    let listed = [branch(&[(0, short.clone())], &[]), short.clone()];
    assert!(read(5, &listed).unwrap_err().contains("it ends here, but 2 nodes are listed"));
    let as_hash = [branch(&[(0, hashed(&short))], &[]), short];
    assert!(read(5, &as_hash).unwrap_err().contains("a node so short is embedded"));
    // Of 31 bytes it is embedded, of 32 hashed.
    let [last, first] = [28, 29].map(|bytes| leaf(&[0x35], &vec![0x99; bytes]));
    assert_eq!((last.len(), first.len()), (31, 32));
    assert!(read(5, &[branch(&[(0, last.clone())], &[])]).is_ok());
    assert!(read(5, &[branch(&[(0, hashed(&last))], &[]), last]).is_err());
    assert!(read(5, &[branch(&[(0, first.clone())], &[])]).is_err());
    assert!(read(5, &[branch(&[(0, hashed(&first))], &[]), first]).is_ok());
    // A branch of embedded leaves is short enough itself.
    let within = branch(&[(5, leaf(&[0x20], &[9])), (6, leaf(&[0x20], &[8]))], &[]);
    assert_eq!(read(5, &[branch(&[(0, within)], &[])]), Ok(vec![9]));
}

#[test]
fn an_extension_leads_on_to_a_branch() {
    let value = [9; 40];
    let end = leaf(&[0x31], &value);
    let fork = branch(&[(8, hashed(&end))], &[]);
    let extension = |prefix: &[u8], child: &[u8]| list(&[text(prefix), hashed(child)]);
    assert_eq!(read(0x81, &[extension(&[0x00, 0x81], &fork), fork.clone(), end.clone()]), Ok(value.to_vec()));
    let told = |nodes: &[Vec<u8>]| read(0x81, nodes).unwrap_err();
    assert!(told(&[extension(&[0x00, 0x82], &fork), fork.clone(), end.clone()]).contains("another index"));
    assert!(told(&[extension(&[0x01, 0x81], &fork), fork.clone(), end.clone()]).contains("hex prefix"));
    let whole = leaf(&[0x20, 0x81, 0x81], &value);
    assert!(told(&[extension(&[0x00], &whole), whole]).contains("an extension by nothing"));
    let rest = leaf(&[0x20, 0x81], &value);
    assert!(told(&[extension(&[0x00, 0x81], &rest), rest]).contains("expected a branch"));
    let second = extension(&[0x11], &fork);
    assert!(told(&[extension(&[0x18], &second), second, fork, end]).contains("expected a branch"));
    let embedded = branch(&[(8, leaf(&[0x31], &[9]))], &[]);
    assert_eq!(read(0x81, &[list(&[text(&[0x00, 0x81]), embedded])]), Ok(vec![9]));
}

/// Where the key ends at a branch, its value counts. Keys of indexes never do, as none is the beginning of another.
#[test]
fn a_value_may_stand_in_a_branch() {
    let value = [9; 40];
    let end = branch(&[], &value);
    assert_eq!(
        read(
            5,
            &[branch(&[(0, hashed(&branch(&[(5, hashed(&end))], &[])))], &[]), branch(&[(5, hashed(&end))], &[]), end]
        ),
        Ok(value.to_vec())
    );
    let none = branch(&[(1, hashed(b""))], &[]);
    let before = branch(&[(5, hashed(&none))], &[]);
    let told = read(5, &[branch(&[(0, hashed(&before))], &[]), before, none]).unwrap_err();
    assert_eq!(told, "path[2]: nothing stands at index 5");
}

/// What no path takes is in its only form too.
#[test]
fn the_whole_of_a_node_is_read() {
    let value = [9; 40];
    let good = leaf(&[0x35], &value);
    for (other, is_read) in [(vec![0xc1, 0xc0], true), (vec![0xc2, 0x81, 1], false), (vec![0xc2, 0xc2, 0x80], false)] {
        let nodes = [branch(&[(0, hashed(&good)), (3, other)], &[]), good.clone()];
        assert_eq!(read(5, &nodes).is_ok(), is_read);
    }
}

proptest! {
    #[test]
    fn any_block_proves_each_of_its_transactions(
        lengths in proptest::collection::vec((1_usize..120, 1_usize..40, any::<u8>()), 1..300),
        at in any::<prop::sample::Index>(),
    ) {
        let transactions = lengths.iter().map(|(length, _, byte)| vec![*byte; *length]).collect::<Vec<_>>();
        let receipts = lengths.iter().map(|(_, length, byte)| vec![byte ^ 1; *length]).collect::<Vec<_>>();
        let index = at.index(lengths.len());
        let block = block_of(transactions, receipts);
        let [transactions, receipts] = roots(&block);
        prop_assert_eq!(transactions, *keccak256(composed(&pairs(&block.transactions), 0)));
        let evidence = evidence(&block, index as u64).unwrap();
        prop_assert_eq!(path::value("t", &transactions, index as u64, &evidence.transaction).unwrap(), &block.transactions[index]);
        prop_assert_eq!(path::value("r", &receipts, index as u64, &evidence.receipt).unwrap(), &block.receipts[index]);
    }

    /// No bytes take the reader down, and none that are made up show anything.
    #[test]
    fn made_up_evidence_shows_nothing(
        header in proptest::collection::vec(any::<u8>(), 0..600),
        nodes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..4),
        index in any::<u64>(),
    ) {
        let evidence = ChainEvidence { header, index, receipt: nodes.clone(), transaction: nodes.clone() };
        prop_assert!(check(&evidence).is_err());
        if let Some(first) = nodes.first() {
            // The root fits: the nodes themselves are read.
            prop_assert!(path::value("path", &keccak256(first), index, &nodes).is_err());
        }
    }

    /// A node that is bent before it is hashed, so that it fits its root, is read to the end and refused or shown whole.
    #[test]
    fn a_bent_node_shows_what_it_says_or_nothing(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut node = leaf(&[0x20, 5], &signed(&items(false)));
        let at = at.index(node.len());
        node[at] = byte;
        if let Ok(value) = read(5, &[node.clone()]) {
            prop_assert_eq!(leaf(&[0x20, 5], &value), node);
        }
    }
}
