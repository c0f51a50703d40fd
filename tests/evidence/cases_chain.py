"""The cases of what is of the chain: the header, the paths below it, the transaction and its receipt."""
from anchored import CONTRACT, ELSEWHERE, OTHER, anchor, anchors, mined, pinned, register
from bundles import World, block_case, proof_case
from cases import change
from chain import (
    BASE, FIELD, ORDER, Raw, Tree, call_data, contract_data, headed, hex_prefix, keccak, multiplied, number, rlp)
from signing import sha

# --- the header ---


def headers(name, spoil, expected=1):
    anchors(f"header-{name}", expected, header=spoil)


def header_written(name, to):
    """A header whose bytes are changed; the block that is vouched for is that of the changed bytes."""
    def make():
        value, world = block_case()
        element, block = anchor(world.epoch)
        block.header = to(block.items)
        block.hash = keccak(block.header)
        value = {**value, "anchor": [{**element, "header": block.header.hex()}]}
        return pinned(proof_case(world, value), block)
    register(f"anchor-header-{name}", 1, make)


headers("of-14-items", lambda items: items.__delitem__(slice(14, None)))
headers("of-14-items-and-a-list", lambda items: items.__setitem__(slice(14, None), [[]]))
headers("with-a-list", change(12, to=[]))
headers("with-a-list-at-its-end", lambda items: items.append([]))
headers("with-roots-swapped", lambda items: items.__setitem__(slice(4, 6), items[5:3:-1]))
headers("with-a-short-root", change(4, to=lambda data: data[1:]))
headers("with-a-long-root", change(5, to=lambda data: data + b"\0"))
headers("with-a-zero-before-the-height", change(8, to=Raw(b"\x85\0\1\2\3\4")))
headers("with-a-zero-for-the-height", change(8, to=Raw(b"\0")))
headers("with-a-height-of-9-bytes", change(8, to=2**64))
headers("with-a-time-of-9-bytes", change(11, to=2**64))
headers("with-the-latest-time", change(11, to=(2**63 - 1) // 1000), 0)
headers("with-a-time-beyond-the-latest", change(11, to=(2**63 - 1) // 1000 + 1))
headers("with-a-time-of-8-bytes", change(11, to=2**64 - 1))
headers("with-a-zero-before-the-time", change(11, to=lambda time: b"\0" + number(time)))
headers("with-a-height-in-long-form", change(8, to=Raw(b"\xb8\x04\1\2\3\4")))
headers("with-a-byte-that-has-a-length", change(14, to=Raw(b"\x81\x05")))
headers("with-a-length-that-has-a-zero", change(12, to=Raw(b"\xb9\x00\x40" + bytes(64))))
header_written("with-a-byte-behind", lambda items: rlp(items) + b"\0")
header_written("that-ends-early", lambda items: rlp(items)[:-1])
header_written("that-is-a-string", lambda items: rlp(rlp(items)))
header_written("in-a-longer-form", lambda items: b"\xfa\0" + rlp(items)[1:])
header_written("of-nothing", lambda items: b"")
header_written("of-an-empty-list", lambda items: b"\xc0")
header_written("with-a-length-of-all", lambda items: b"\xff" * 9 + rlp(items))

# --- the largest ---

LARGEST = 1 << 20
for name in ("header", "transaction", "receipt"):
    for words, size, code in (("above-1-mib", LARGEST + 1, 2), ("of-1-mib", LARGEST, 1)):
        anchors(f"{name}-{words}", code, spoil=change(
            *(("header",) if name == "header" else (name, 0)), to="00" * size))
        if name != "header":
            anchors(f"{name}-with-its-last-node-{words}", code, count=17, spoil=change(name, -1, to="00" * size))

# --- the paths ---

for name in ("transaction", "receipt"):
    def nodes(what, to, name=name, **more):
        anchors(f"{name}-path-{what}", spoil=change(name, to=to), count=17, **more)
    nodes("without-its-first-node", lambda path: path[1:])
    nodes("without-its-last-node", lambda path: path[:-1])
    nodes("without-one-between", lambda path: path[:1] + path[2:])
    nodes("without-any", lambda path: [])
    nodes("with-its-first-node-twice", lambda path: path[:1] + path)
    nodes("with-its-last-node-twice", lambda path: path + path[-1:])
    nodes("with-a-node-more", lambda path: path + [rlp([b"\x20", b"more"]).hex()])
    nodes("with-a-node-before", lambda path: [rlp([b"\x20", b"more"]).hex(), *path])
    nodes("in-another-order", lambda path: path[::-1])
    anchors(f"{name}-of-another-index", spoil=lambda element, name=name: element.update(
        {name: [node.hex() for node in mined(World().epoch, index=3, count=17).__dict__[
            "sent" if name == "transaction" else "came"].path(rlp(4))]}), count=17)
    anchors(f"{name}-in-the-tree-of-the-other", count=17, spoil=lambda element, name=name: element.update(
        {name: element["receipt" if name == "transaction" else "transaction"]}))


class Odd(Tree):
    """A tree whose nodes are written otherwise: `change` gets each with its depth and number of leaves, and leaves the
    hashes to follow."""

    def node(self, pairs, depth):
        made = super().node(pairs, depth)
        return self.change(made, depth, len(pairs), self.is_own(pairs))

    @staticmethod
    def is_own(pairs):
        return any(key == [0, 3] for key, _ in pairs)


def trees(name, function, expected=1, count=5, **more):
    """With 5 transactions: a branch, below its slot 0 another, and in that one a leaf for each but index 0."""
    kind = type("Spoilt", (Odd,), {"change": lambda self, node, depth, leaves, own: function(node, depth, leaves)
                                   if own else node})
    anchors(f"tree-{name}", expected, tree=kind, count=count, **more)


def to_leaf(function):
    return lambda node, depth, leaves: function(node) if leaves == 1 else node


def to_branch(function):
    return lambda node, depth, leaves: function(node) if leaves > 1 and depth == 1 else node


def nested(depth):
    """Lists, each in the one before."""
    made = b""
    for _ in range(depth):
        made = headed(0xC0, made)
    return Raw(made)


trees("as-it-is", lambda node, depth, leaves: node, 0)
trees("with-a-leaf-that-is-an-extension", to_leaf(lambda node: [b"\0", node[1]]))
trees("with-a-leaf-of-another-flag", to_leaf(lambda node: [b"\x40", node[1]]))
trees("with-a-leaf-of-the-flag-of-all", to_leaf(lambda node: [b"\xf0", node[1]]))
trees("with-a-leaf-of-filled-padding", to_leaf(lambda node: [b"\x21", node[1]]))
trees("with-a-leaf-of-no-prefix", to_leaf(lambda node: [b"", node[1]]))
trees("with-a-leaf-of-a-longer-rest", to_leaf(lambda node: [b"\x33", node[1]]))
trees("with-a-leaf-of-a-longer-even-rest", to_leaf(lambda node: [b"\x20\x33", node[1]]))
trees("with-a-leaf-of-3-items", to_leaf(lambda node: [*node, b""]))
trees("with-a-leaf-of-1-item", to_leaf(lambda node: [node[1]]))
trees("with-a-leaf-whose-value-is-a-list", to_leaf(lambda node: [node[0], [node[1]]]))
trees("with-a-leaf-without-value", to_leaf(lambda node: [node[0], b""]))
trees("with-a-leaf-in-long-form", to_leaf(lambda node: Raw(headed(0xC0, rlp(node[0]) + b"\xb9" + (
    b"\0" + bytes([len(node[1])]) if len(node[1]) < 256 else len(node[1]).to_bytes(2, "big")) + node[1])
    if len(node[1]) < 256 else b"\xfa\0" + rlp(node)[1:])))
trees("with-a-leaf-and-a-byte-more", to_leaf(lambda node: Raw(rlp(node) + b"\0")))
trees("with-a-prefix-that-has-a-length", to_leaf(lambda node: [Raw(b"\x81\x20"), node[1]]))
trees("with-a-branch-of-16", to_branch(lambda node: node[:16]))
trees("with-a-branch-of-18", to_branch(lambda node: [*node, b""]))
trees("with-a-slot-of-31-bytes", to_branch(lambda node: [*node[:3], node[3][:31], *node[4:]]))
trees("with-an-empty-slot", to_branch(lambda node: [*node[:3], b"", *node[4:]]))
trees("with-a-slot-for-another-index", to_branch(lambda node: [*node[:3], node[4], node[3], *node[5:]]))
trees("with-an-odd-slot-beside", to_branch(lambda node: [*node[:5], b"odd", *node[6:]]), 0)
for depth, code in ((15, 0), (16, 1), (1000, 1)):  # the branch itself is one of them
    trees(f"with-lists-of-{depth}-beside",
          to_branch(lambda node, depth=depth: [*node[:5], nested(depth), *node[6:]]), code)
trees("with-a-value-in-the-branch", to_branch(lambda node: [*node[:16], b"value"]), 0)


def behind(*prefixes):
    """The leaf's parent hangs behind extensions of these prefixes, each node with its hash."""
    class Behind(Tree):
        def node(self, pairs, depth):
            made = super().node(pairs, depth)
            if depth == 1 and Odd.is_own(pairs):
                for prefix in prefixes:
                    made = [prefix, keccak(rlp(made))]
            return made

        def path(self, key):
            nodes = [rlp(self.node(self.pairs, 0))]
            made = Tree.node(self, [pair for pair in self.pairs if pair[0][0] == 0], 1)
            below, leaf = [rlp(made)], Tree.node(self, [pair for pair in self.pairs if pair[0] == [0, 3]], 2)
            for prefix in prefixes:
                made = [prefix, keccak(rlp(made))]
                below.append(rlp(made))
            return [*nodes, *below[::-1], rlp(leaf)]
    return Behind


anchors("tree-behind-nothing", 0, tree=behind())
anchors("tree-with-an-empty-extension", tree=behind(b"\0"))
anchors("tree-with-an-extension-of-another-key", tree=behind(hex_prefix([3], False)))


class Extended(Tree):
    """The last branch is replaced by an extension of the last nibble that leads to a leaf or to another extension."""
    prefixes = ()

    def node(self, pairs, depth):
        if depth == 1 and Odd.is_own(pairs):
            return self.chain(pairs)[-1]
        return super().node(pairs, depth)

    def chain(self, pairs):
        value = next(value for key, value in pairs if key == [0, 3])
        nodes = [[self.prefixes[0], value]]
        for prefix in self.prefixes[1:]:
            nodes.append([prefix, keccak(rlp(nodes[-1]))])
        return nodes

    def path(self, key):
        return [rlp(self.node(self.pairs, 0)), *(rlp(node) for node in self.chain(self.pairs)[::-1])]


anchors("tree-with-a-leaf-alone", 0, tree=type("Alone", (Extended,), {"prefixes": [b"\x33"]}))
anchors("tree-with-an-extension-to-a-leaf", tree=type("ToLeaf", (Extended,), {"prefixes": [b"\x20", b"\x13"]}))
anchors("tree-with-an-extension-to-an-extension", tree=type("ToExtension", (Extended,), {
    "prefixes": [b"\x20", b"\0", b"\x13"]}))


def embedded_listed(element):
    """The short transaction's leaf, which its branch holds, is listed though it is on no path."""
    element["transaction"].insert(-1, rlp([b"\x20", b"\2\xc0"]).hex())


anchors("with-an-embedded-node-listed", spoil=embedded_listed, pairs=lambda pairs: [
    (key, b"\2\xc0" if key == b"\1" else value) for key, value in pairs])
anchors("with-its-own-leaf-short", pairs=lambda pairs: [
    (key, b"\2\xc0" if key == b"\3" else value) for key, value in pairs])

# --- the transaction ---


def fields(name, *place, to, expected=1, **more):
    anchors(f"transaction-{name}", expected, fields=change(*place, to=to), **more)


def resigned(name, spoil):
    anchors(f"transaction-{name}", resign=spoil)


def high_s(fields):
    """The other signature of the same key over the same digest, which the chain refuses since Homestead."""
    fields[9], fields[11] = 1 - fields[9], ORDER - fields[11]


def off_the_curve(fields):
    """An r that is the x of no point."""
    fields[10] = next(x for x in range(1, 99) if pow(x**3 + 7, (FIELD - 1) // 2, FIELD) != 1)


def by_no_key(fields):
    """A signature that leads to the neutral point for a public key: s times R is the digest times G."""
    digest = int.from_bytes(keccak(b"\2" + rlp(fields[:9])), "big")
    x, y = multiplied(3, BASE)
    s = digest * pow(3, ORDER - 2, ORDER) % ORDER
    fields[9:] = [y % 2, x, s] if s <= ORDER // 2 else [1 - y % 2, x, ORDER - s]


fields("with-value-1", 6, to=1)
fields("with-an-access-list", 8, to=[[CONTRACT, []]])
fields("with-an-access-list-that-is-a-string", 8, to=b"")
fields("to-nobody", 5, to=b"")
fields("to-19-bytes", 5, to=CONTRACT[1:])
fields("to-21-bytes", 5, to=CONTRACT + b"\0")
fields("to-another-contract", 5, to=ELSEWHERE)
fields("by-call-data-to-another", 5, to=ELSEWHERE, contract=None)
fields("by-call-data-to-the-contract", 5, to=CONTRACT, contract=None, contracts=[])
fields("to-a-list", 5, to=[CONTRACT])
fields("with-data-in-a-list", 7, to=lambda data: [data])
for place, name, width in ((0, "chain", 9), (1, "nonce", 9), (2, "tip", 17), (3, "fee", 17), (4, "gas", 9)):
    fields(f"with-a-zero-before-its-{name}", place, to=lambda value: b"\0" + number(value))
    fields(f"with-a-{name}-of-{width}-bytes", place, to=256**(width - 1))
    fields(f"with-a-list-for-its-{name}", place, to=[])
fields("with-nonce-0-as-a-byte", 1, to=Raw(b"\0"))
fields("with-value-0-as-a-byte", 6, to=Raw(b"\0"))
fields("with-data-in-long-form", 7, to=lambda data: Raw(b"\xb9\0" + bytes([len(data)]) + data))
anchors("transaction-with-a-field-less", fields=lambda fields: fields.pop())
anchors("transaction-with-a-field-more", resign=lambda fields: fields.append(b""))
resigned("with-y-parity-2", change(9, to=2))
resigned("with-y-parity-of-eip-155", change(9, to=lambda parity: 35 + 2 * 137 + parity))
resigned("with-the-other-y-parity", change(9, to=lambda parity: 1 - parity))
resigned("with-y-parity-0-as-a-byte", change(9, to=Raw(b"\0")))
resigned("with-a-high-s", high_s)
resigned("with-a-high-s-and-the-parity-left", change(11, to=lambda s: ORDER - s))
resigned("with-r-0", change(10, to=0))
resigned("with-s-0", change(11, to=0))
resigned("with-r-of-the-order", change(10, to=ORDER))
resigned("with-r-beyond-the-order", change(10, to=lambda r: r + ORDER))
resigned("with-s-of-the-order", change(11, to=ORDER))
resigned("with-r-off-the-curve", off_the_curve)
resigned("signed-by-no-key", by_no_key)
resigned("with-another-r", change(10, to=lambda r: r ^ 1 << 9))
resigned("with-a-zero-before-r", change(10, to=lambda r: b"\0" + number(r)))
resigned("with-a-zero-before-s", change(11, to=lambda s: b"\0" + number(s)))
resigned("with-32-bytes-for-a-short-parity", change(9, to=lambda parity: parity.to_bytes(32, "big")))
resigned("with-another-nonce-after-signing", change(1, to=8))
for name, to in {
    "of-the-first-kind": lambda value: value[1:], "of-type-1": lambda value: b"\1" + value[1:],
    "of-type-3": lambda value: b"\3" + value[1:], "of-no-list": lambda value: b"\2" + rlp(value[1:]),
    "with-a-byte-behind": lambda value: value + b"\0", "that-ends-early": lambda value: value[:-1],
    "of-its-type-alone": lambda value: b"\2", "with-its-type-twice": lambda value: b"\2" + value,
    "in-a-longer-form": lambda value: b"\2\xf9\0" + value[2:]
}.items():
    anchors(f"transaction-{name}", value=to)
ORIGIN = sha(World().epoch.origin.encode())
for kind, contract in (("contract", CONTRACT), ("call-data", None)):
    def words(name, expected=1, contract=contract, kind=kind, **given):
        anchors(f"{kind}-with-{name}", expected, words=given, contract=contract)
    words("the-own-words", 0, origin=ORIGIN)
    words("another-origin", origin=bytes(32))
    words("the-origin-and-its-line-feed", origin=sha((World().epoch.origin + "\n").encode()))
    words("the-keccak-of-the-origin", origin=keccak(World().epoch.origin.encode()))
    words("another-size", size=14)
    words("another-root", root=bytes(32))
    anchors(f"{kind}-with-a-byte-more", data=lambda data: data + b"\0", contract=contract)
    anchors(f"{kind}-with-a-byte-less", data=lambda data: data[:-1], contract=contract)
    anchors(f"{kind}-with-another-beginning", data=lambda data: b"X" + data[1:], contract=contract)
    anchors(f"{kind}-with-nothing", data=lambda data: b"", contract=contract)
    anchors(f"{kind}-with-a-failed-transaction", status=0, contract=contract)
anchors("contract-with-a-size-of-256-bits", data=lambda data: data[:36] + b"\1" + data[37:])
anchors("contract-with-call-data", data=lambda data: call_data(
    data[4:36], int.from_bytes(data[36:68], "big"), data[68:]))
anchors("call-data-in-the-form-of-a-contract", contract=None, contracts=[], data=lambda data: contract_data(
    data[6:38], int.from_bytes(data[38:46], "big"), data[46:]))
anchors("call-data-of-version-2", contract=None, data=lambda data: b"MSEAL2" + data[6:])

# --- the receipt ---


def receipts(name, *place, to, expected=1):
    anchors(f"receipt-{name}", expected, receipt_fields=change(*place, to=to))


def logged(name, function, expected=1):
    """`function` gets the contract's log."""
    anchors(f"log-{name}", expected, logs=lambda logs: [logs[0], *function(logs[1]), *logs[2:]])


receipts("of-status-2", 0, to=2)
receipts("with-a-state-root-for-a-status", 0, to=bytes(31) + b"\1")
receipts("with-a-zero-before-its-status", 0, to=b"\0\1")
receipts("with-status-1-that-has-a-length", 0, to=Raw(b"\x81\1"))
receipts("with-a-list-for-a-status", 0, to=[])
receipts("with-a-zero-before-its-gas", 1, to=b"\0\1")
receipts("with-gas-of-9-bytes", 1, to=2**64)
receipts("with-a-bloom-of-255-bytes", 2, to=bytes(255))
receipts("with-a-bloom-of-257-bytes", 2, to=bytes(257))
receipts("with-a-bloom-in-a-list", 2, to=[bytes(256)])
receipts("with-a-string-for-its-logs", 3, to=b"")
anchors("receipt-of-call-data-with-a-string-for-its-logs", contract=None, receipt_fields=change(3, to=b""))
receipts("without-logs", 3, to=[])
anchors("receipt-with-a-field-more", receipt_fields=lambda fields: fields.append(b""))
anchors("receipt-with-a-field-less", receipt_fields=lambda fields: fields.pop(2))
for name, to in {
    "of-the-first-kind": lambda value: value[1:], "of-type-1": lambda value: b"\1" + value[1:],
    "of-no-list": lambda value: b"\2" + rlp(value[1:]), "with-a-byte-behind": lambda value: value + b"\0",
    "of-its-type-alone": lambda value: b"\2"
}.items():
    anchors(f"receipt-{name}", outcome=to)
logged("left-out", lambda log: [])
logged("twice", lambda log: [log, log])
logged("and-another-of-the-contract", lambda log: [log, [CONTRACT, [], b""]])
logged("of-another-contract", lambda log: [[ELSEWHERE, *log[1:]]])
logged("of-another-contract-too", lambda log: [log, [ELSEWHERE, *log[1:]]], 0)
logged("with-another-event", lambda log: [[CONTRACT, [bytes(32), *log[1][1:]], log[2]]])
logged("with-another-sender", lambda log: [[CONTRACT, [log[1][0], bytes(12) + OTHER.address, log[1][2]], log[2]]])
logged("with-a-sender-that-is-not-padded-with-0",
       lambda log: [[CONTRACT, [log[1][0], b"\1" + log[1][1][1:], log[1][2]], log[2]]])
logged("with-another-origin", lambda log: [[CONTRACT, [*log[1][:2], bytes(32)], log[2]]])
logged("with-a-topic-less", lambda log: [[CONTRACT, log[1][:2], log[2]]])
logged("with-a-topic-more", lambda log: [[CONTRACT, [*log[1], bytes(32)], log[2]]])
logged("with-topics-swapped", lambda log: [[CONTRACT, [log[1][0], *log[1][:0:-1]], log[2]]])
logged("with-another-size", lambda log: [[CONTRACT, log[1], bytes(32) + log[2][32:]]])
logged("with-another-root", lambda log: [[CONTRACT, log[1], log[2][:32] + bytes(32)]])
logged("with-data-cut-short", lambda log: [[CONTRACT, log[1], log[2][:-1]]])
logged("with-more-data", lambda log: [[CONTRACT, log[1], log[2] + bytes(32)]])
logged("of-2-items", lambda log: [log[:2]])
logged("of-4-items", lambda log: [[*log, b""]])
logged("beside-one-of-5-topics", lambda log: [log, [ELSEWHERE, [bytes(32)] * 5, b""]])
logged("beside-one-of-a-short-topic", lambda log: [log, [ELSEWHERE, [bytes(31)], b""]])
logged("beside-one-of-a-short-address", lambda log: [log, [ELSEWHERE[1:], [], b""]])
logged("beside-one-whose-topics-are-a-string", lambda log: [log, [ELSEWHERE, bytes(32), b""]])
logged("beside-one-whose-topics-are-an-empty-string", lambda log: [log, [ELSEWHERE, b"", b""]])
logged("beside-one-whose-data-are-a-list", lambda log: [log, [ELSEWHERE, [], []]])
logged("beside-one-that-is-a-string", lambda log: [log, b""])
logged("beside-one-of-2-items", lambda log: [log, [ELSEWHERE, []]])
