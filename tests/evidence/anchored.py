"""The cases of anchors: which hold (0), which rest on what was not shown (3), and every way to be wrong (1)."""
import base64
import copy
import random

from bundles import DAY0, HOUR, ID, World, block_case, bundle_case, period_case, proof_case, row_case
from cases import change
from chain import (
    BASE, FIELD, ORDER, Account, Block, Raw, Tree, call_data, contract_data, event, fee_log, headed, hex_prefix, keccak,
    mixed_case, multiplied, number, receipt, rlp)
from gateway import counted
from signing import Key, b64, consistency, root, sha

ACCOUNT, OTHER = Account(b"gateway"), Account(b"other")
CONTRACT, ELSEWHERE = keccak(b"contract")[12:], keccak(b"elsewhere")[12:]
PROOF = "proof.proof.json"
ANCHORED = {}


def mined(epoch, size=None, by=ACCOUNT, contract=CONTRACT, chain=137, words=None, data=None, logs=None, fields=None,
          resign=None, receipt_fields=None, status=1, value=None, outcome=None, to=None, **block):
    """The block of a transaction that anchors an epoch at a size. `words` are origin, size and root where they shall be
    others, in transaction and log alike; `data` and `logs` change what is made of them; `fields`, `resign` and
    `receipt_fields` get what is encoded, `value` and `outcome` what it was encoded to."""
    origin, size, tree = sha(epoch.origin.encode()), size or len(epoch.entries), root(epoch.leaves(size))
    known = {"origin": origin, "size": size, "root": tree, **(words or {})}
    sent = contract_data(**known) if contract else call_data(**known)
    written = [event(contract, by.address, **known)] if contract else []
    chance = random.Random(5)
    written = [fee_log(chance), *written, fee_log(chance)]
    sent = by.transaction(to or contract or by.address, data(sent) if data else sent, chain, fields, resign)
    came = receipt(logs(written) if logs else written, status, change=receipt_fields)
    return Block(value(sent) if value else sent, outcome(came) if outcome else came, **block)


def anchor(epoch, size=None, upto=None, **mining):
    """(an element of `anchor`, its block): of an epoch at `size`, under its checkpoint at `upto`."""
    block = mined(epoch, size, **mining)
    leaves = epoch.leaves(upto)
    steps = [step.hex() for step in consistency(leaves, size or len(leaves))]
    return {"checkpoint": epoch.checkpoint(size), "hashes": steps, **block.evidence()}, block


def earlier(epoch, size, anchored=None):
    """An element of `consistency`."""
    steps = consistency(epoch.leaves(anchored), size)
    return {"checkpoint": epoch.checkpoint(size), "hashes": [step.hex() for step in steps]}


def line(block, chain=137, height=None, hash_=None):
    return f"block {chain} {block.height if height is None else height} 0x{(hash_ or block.hash).hex()}\n"


def pinned(case, *blocks, accounts=(ACCOUNT,), contracts=(CONTRACT,), chain=137, trust=None):
    lines = "".join(line(block, chain) for block in blocks)
    return {**case, "account": "".join(mixed_case(account.address) + "\n" for account in accounts),
            "contract": "".join(mixed_case(contract) + "\n" for contract in contracts), "chain": f"{chain}\n",
            "trust": lines if trust is None else trust(*blocks)}


def register(name, expected, make, names=PROOF):
    assert name not in ANCHORED, name
    ANCHORED[name] = (make, expected, names if expected == 1 else "", True)


def case(expected, names=PROOF):
    def decorate(make):
        register(make.__name__.replace("_", "-"), expected, make, names)
        return make
    return decorate


def anchors(name, expected=1, spoil=None, at=None, size=None, before=None, accounts=(ACCOUNT,), contracts=None,
            given=137, trust=None, names=PROOF, world=World, **mining):
    """A block's proof, anchored; `spoil` changes the element of `anchor`, `at` the whole proof."""
    def make():
        value, made = block_case(world())
        value = copy.deepcopy(value)
        element, block = anchor(made.epoch, size, **mining)
        value["anchor"] = [element]
        if before:
            value["consistency"] = [earlier(made.epoch, before, size)]
        if spoil:
            spoil(element)
        if at:
            at(value)
        pins = contracts if contracts is not None else [CONTRACT] if mining.get("contract", CONTRACT) else []
        return pinned(proof_case(made, value), block, accounts=accounts, contracts=pins, chain=given,
                      trust=trust and (lambda block: trust(block, made.epoch)))
    register(f"anchor-{name}", expected, make, names)


# --- what holds ---

anchors("by-contract", 0)
anchors("by-call-data", 0, contract=None)
anchors("of-an-older-checkpoint", 0, size=13)
anchors("with-consistency", 0, before=7)
anchors("of-an-older-checkpoint-with-consistency", 0, size=14, before=8)
anchors("on-the-test-net", 0, chain=80002, given=80002, trust=lambda block, _: line(block, 80002))
anchors("alone-in-its-block", 0, count=1, index=0)
anchors("at-height-0", 0, height=0)
anchors("among-short-transactions", 0, pairs=lambda pairs: [
    (key, b"\2\xc0" if key in (b"\1", b"\2") else value) for key, value in pairs])
for count, index in ((2, 0), (2, 1), (17, 15), (17, 16), (129, 0), (129, 127), (129, 128), (300, 299)):
    anchors(f"at-{index}-of-{count}", 0, count=count, index=index)
for items in (15, 16, 18, 20, 21):
    anchors(f"with-a-header-of-{items}", 0, items=items)
for nonce in range(4):  # both y parities, by more than luck
    anchors(f"with-nonce-{nonce}", 0, fields=change(1, to=nonce))
anchors("by-one-of-two-accounts", 0, accounts=(OTHER, ACCOUNT))
anchors("to-one-of-two-contracts", 0, contracts=(ELSEWHERE, CONTRACT))
anchors("to-any-contract", 0, contracts=())
anchors("with-no-other-logs", 0, logs=lambda logs: logs[1:2])
anchors("with-a-log-of-no-topics-beside", 0, logs=lambda logs: [[ELSEWHERE, [], b""], *logs])
anchors("by-call-data-with-a-log-of-the-account", 0, contract=None,
        logs=lambda logs: [[ACCOUNT.address, [], b""], *logs])
anchors("sent-with-all-that-fits", 0, fields=lambda fields: change(slice(1, 5), to=[
    2**64 - 1, 2**128 - 1, 2**128 - 1, 2**64 - 1])(fields), receipt_fields=change(1, to=2**64 - 1))

# --- what holds, and rests on what was not shown ---

anchors("by-an-account-that-nobody-gave", 3, accounts=())
anchors("that-nobody-vouched-for", 3, trust=lambda block, _: "")
anchors("vouched-for-at-another-height", 3, trust=lambda block, _: line(block, height=block.height + 1))
anchors("vouched-for-on-another-chain", 3, trust=lambda block, _: line(block, 80002))
anchors("from-before-the-entry", 3, size=4)
anchors("of-a-demo", 3, world=lambda: World(site="demo"))
ANCHORED["anchor-without-key"] = (ANCHORED["anchor-by-contract"][0], 3, "", False)

# --- the file of what others vouch for ---

anchors("vouched-for-twice", 0, trust=lambda block, _: line(block) * 2)
anchors("vouched-for-among-others", 0, trust=lambda block, epoch: line(block, 80002, hash_=bytes(32)) + "\n\n"
        + line(block) + epoch.checkpoint(3) + "\n\n" + line(block, height=1) + epoch.checkpoint() + "\n")
anchors("vouched-for-in-lines-of-windows", 0,
        trust=lambda block, epoch: (epoch.checkpoint() + "\n" + line(block)).replace("\n", "\r\n"))
anchors("vouched-for-without-last-line-feed", 0, trust=lambda block, _: line(block)[:-1])
anchors("vouched-for-with-a-note-that-ends-the-file", 0, trust=lambda block, epoch: line(block) + epoch.checkpoint())
anchors("with-another-block-there", trust=lambda block, _: line(block, hash_=bytes(32)))
anchors("with-another-block-there-too", trust=lambda block, _: line(block) + line(block, hash_=bytes(32)))
anchors("of-another-tree-than-was-kept", size=13, trust=lambda block, epoch: line(block) + forged(epoch, 13) + "\n")
anchors("of-an-earlier-tree-than-was-kept", before=7, trust=lambda block, epoch: line(block) + forged(epoch, 7) + "\n")
for name, spoil in {
    "in-upper-case": lambda text: text[:-65] + text[-65:].upper(),
    "tabbed": lambda text: text.replace(" ", "\t"),
    "without-0x": lambda text: text.replace("0x", ""),
    "too-short": lambda text: text[:-2] + "\n",
    "too-long": lambda text: text[:-1] + "0\n",
    "with-two-blanks": lambda text: text.replace(" ", "  ", 1),
    "with-a-blank-behind": lambda text: text[:-1] + " \n",
    "with-a-leading-zero": lambda text: text.replace("137", "0137"),
    "with-a-height-in-hex": lambda text: text.replace("70000000", "0x42c1d80"),
    "with-a-negative-height": lambda text: text.replace("70000000", "-70000000"),
    "with-a-height-of-65-bits": lambda text: text.replace("70000000", str(2**64)),
    "with-one-word-less": lambda text: text.replace("137 ", ""),
    "of-another-word": lambda text: text.replace("block", "height"),
    "with-a-comment": lambda text: "# mine\n" + text,
    "in-the-middle-of-a-note": lambda text: "plant-7/" + text,
    "empty": lambda text: "\n",
}.items():
    anchors(f"vouched-for-{name}", 2, trust=lambda block, _, spoil=spoil: spoil(line(block)))


def trusted_file(name, expected, spoil):
    def make():
        made = bundle_case()
        return {**made, "trust": spoil(made["world"].epoch.checkpoint() + "\n")}
    register(f"trusted-file-{name}", expected, make)


trusted_file("without-end", 3, lambda text: text[:-1])
trusted_file("without-last-line-feed", 3, lambda text: text[:-2])
trusted_file("with-empty-lines", 3, lambda text: f"\n{text}\n\n")
trusted_file("in-lines-of-windows", 3, lambda text: text.replace("\n", "\r\n"))
trusted_file("without-signature", 2, lambda text: text[:text.index("\u2014")])
trusted_file("with-an-empty-line-within", 2, lambda text: text.replace("\n", "\n\n", 1))
trusted_file("with-two-empty-lines-before-the-signature", 2, lambda text: text.replace("\n\n", "\n\n\n", 1))
trusted_file("with-a-block-behind-the-signature", 2, lambda text: text[:-1] + f"block 1 1 0x{'00' * 32}\n")
trusted_file("with-a-note-of-another-log", 3, lambda text: text + by_key(
    Key(b"other"), World(seed=8).epoch, f"log.example.com/energy\n15\n{b64(bytes(32))}\n\n") + "\n")
trusted_file("with-a-control-character", 2, lambda text: text.replace("\u2014 plant", "\u2014 pl\x7fant"))
trusted_file("with-a-signature-of-no-bytes", 2, lambda text: text[:-1] + "\u2014 witness AAAAAA==\n\n")
trusted_file("with-a-signature-of-one-byte", 3, lambda text: text[:-1] + "\u2014 witness AAAAAAA=\n\n")
trusted_file("with-a-line-of-words", 2, lambda text: text + "that is all\n")
trusted_file("that-is-no-utf-8", 2, lambda text: text + "\udcff")


def forged(epoch, size):
    """A checkpoint of another tree by the same key."""
    other = copy.deepcopy(epoch)
    other.entries[3]["time"] += 1
    return other.checkpoint(size)


# --- who, where ---

anchors("by-another-account", accounts=(OTHER,))
anchors("to-another-contract", contracts=(ELSEWHERE,))
anchors("by-call-data-where-a-contract-is-given", contract=None, contracts=(CONTRACT,))
anchors("on-another-chain", given=80002)
anchors("on-a-chain-of-its-own", chain=1)

# --- the members ---

for name in ("checkpoint", "hashes", "header", "index", "receipt", "transaction"):
    anchors(f"without-{name}", spoil=lambda element, name=name: element.pop(name))
    anchors(f"with-{name}-null", spoil=change(name, to=None))
anchors("with-another-member", spoil=lambda element: element.update(more=1))
anchors("that-is-a-number", at=change("anchor", to=[1]))
anchors("that-is-an-empty-object", at=change("anchor", to=[{}]))
anchors("that-is-false", at=change("anchor", to=[False]))
anchors("without-its-list", at=change("anchor", to=lambda all_: all_[0]))
anchors("with-all-null", at=change("anchor", to=[None]))
anchors("with-an-empty-list", at=change("anchor", to=[]))
anchors("twice", at=change("anchor", to=lambda all_: all_ * 2))
anchors("with-null-too-many", at=change("anchor", to=lambda all_: [*all_, None]))
for name in ("header", "transaction", "receipt"):
    place = (name,) if name == "header" else (name, 0)
    anchors(f"with-{name}-in-upper-case", spoil=change(*place, to=str.upper))
    anchors(f"with-{name}-of-half-a-byte", spoil=change(*place, to=lambda text: text[:-1]))
    anchors(f"with-{name}-prefixed", spoil=change(*place, to=lambda text: "0x" + text))
    anchors(f"with-{name}-empty", spoil=change(*place, to=""))
    anchors(f"with-{name}-flipped", spoil=change(*place, to=lambda text: text[:40] + "0123456789abcdef"[
        "fedcba9876543210".index(text[40])] + text[41:]))
    anchors(f"with-{name}-and-a-byte-more", spoil=change(*place, to=lambda text: text + "00"))
    anchors(f"with-{name}-as-a-number", spoil=change(*place, to=7))
for name, to in {"before": 2, "after": 4, "beyond": 5, "negative": -1, "a-string": "3", "a-double": 3.5, "true": True,
                 "beyond-2-53": 2**53 + 2, "huge": 2**53}.items():
    anchors(f"with-index-{name}", spoil=change("index", to=to))

# --- the checkpoints ---

anchors("larger-than-the-section", size=17, upto=17, world=lambda: grown())
anchors("with-a-hash-too-many", size=13, spoil=change("hashes", to=lambda steps: [*steps, steps[0]]))
anchors("with-a-hash-too-few", size=13, spoil=change("hashes", to=lambda steps: steps[:-1]))
anchors("with-no-hashes", size=13, spoil=change("hashes", to=[]))
anchors("with-the-first-hash-missing", size=13, spoil=change("hashes", to=lambda steps: steps[1:]))
anchors("with-hashes-swapped", size=13, spoil=change("hashes", to=lambda steps: steps[::-1]))
anchors("with-hashes-in-upper-case", size=13, spoil=change("hashes", 0, to=str.upper))
anchors("with-a-hash-too-short", size=13, spoil=change("hashes", 0, to=lambda text: text[:-2]))
anchors("with-hashes-of-nothing", spoil=change("hashes", to=["00" * 32]))
anchors("of-a-power-of-2-with-its-own-root", size=8, spoil=lambda element: element["hashes"].insert(
    0, base64.b64decode(element["checkpoint"].split("\n")[2]).hex()))
anchors("of-a-power-of-2", 0, size=8)
anchors("of-one-entry", 3, size=1)


def grown():
    """A gateway whose log goes on behind the sections that it makes."""
    world = World(more=2)
    section = world.epoch.section
    world.epoch.section = lambda opened: section(opened, size=15)
    return world


def by_key(key, epoch, note):
    """The same text under another signature."""
    end = note.index("\n\n") + 1
    return note[:end + 1] + key.line(epoch.origin, note[:end])


def renamed(epoch, note):
    """The same tree under another epoch's origin, by the same key."""
    text = note[:note.index("\n\n") + 1].replace(epoch.origin, epoch.origin[:-16] + "0123456789abcdef")
    return text + "\n" + epoch.key.line(text.split("\n")[0], text)


def signed_again(epoch, note):
    """By the same key: Ed25519 leaves the nonce to the signer."""
    key = copy.copy(epoch.key)
    key.prefix = bytes(32)
    return by_key(key, epoch, note)


def checkpoints(name, to, expected=1, **more):
    """An anchored checkpoint that is not as it must be: `to` gets epoch and note."""
    holder = []

    def world():
        holder[:] = [World()]
        return holder[0]
    anchors(name, expected, world=world,
            spoil=change("checkpoint", to=lambda note: to(holder[0].epoch, note)), **more)


checkpoints("signed-again", signed_again)
checkpoints("of-an-older-checkpoint-signed-again", signed_again, 0, size=13)
checkpoints("signed-by-another-key", lambda epoch, note: by_key(Key(b"other"), epoch, note), size=13)
checkpoints("signed-twice", lambda epoch, note: note + note[note.index("\u2014"):], size=13)
checkpoints("not-signed", lambda epoch, note: note[:note.index("\u2014")], size=13)
checkpoints("with-a-bad-signature", lambda epoch, note: note[:-8] + ("A" if note[-8] != "A" else "B") + note[-7:],
            size=13)
checkpoints("of-another-epoch", lambda epoch, note: World(seed=8).epoch.checkpoint(13), size=13)
checkpoints("of-the-same-tree-in-another-epoch", renamed, size=13,
            words={"origin": sha(renamed(World().epoch, World().epoch.checkpoint()).split("\n")[0].encode())})
checkpoints("of-another-size", lambda epoch, note: epoch.checkpoint(12), size=13)
checkpoints("of-another-tree", lambda epoch, note: forged(epoch, 13), size=13)

# --- consistency with what was anchored before ---


def consistent(name, spoil=None, before=7, expected=1, **more):
    holder = []

    def world():
        holder[:] = [World()]
        return holder[0]
    anchors(f"consistency-{name}", expected, before=before, world=world,
            at=spoil and (lambda value: spoil(value, holder[0].epoch)), **more)


def in_consistency(*place, to):
    return lambda value, _: change("consistency", *place, to=to)(value)


consistent("from-a-power-of-2", before=8, expected=0)
consistent("from-one-entry", before=1, expected=0)
consistent("at-its-own-size", lambda value, epoch: change("consistency", to=[earlier(epoch, 13, 13)])(value), size=13)
consistent("that-is-larger", lambda value, epoch: change("consistency", to=[earlier(epoch, 14)])(value), size=13)
consistent("with-a-hash-too-many", in_consistency(0, "hashes", to=lambda steps: [*steps, steps[0]]))
consistent("with-a-hash-too-few", in_consistency(0, "hashes", to=lambda steps: steps[:-1]))
consistent("with-a-wrong-hash", in_consistency(0, "hashes", 0, to="00" * 32))
consistent("to-the-section-and-not-the-anchor", size=13,
           spoil=lambda value, epoch: change("consistency", to=[earlier(epoch, 7)])(value))
consistent("with-another-member", lambda value, _: value["consistency"][0].update(more=1))
consistent("without-hashes", lambda value, _: value["consistency"][0].pop("hashes"))
consistent("with-all-null", in_consistency(to=[None]))
consistent("with-an-empty-list", in_consistency(to=[]))
consistent("twice", in_consistency(to=lambda all_: all_ * 2))
consistent("without-its-list", in_consistency(to=lambda all_: all_[0]))
consistent("that-is-an-empty-object", in_consistency(to=[{}]))
consistent("without-an-anchor", lambda value, _: change("anchor", to=None)(value))
consistent("of-another-tree", lambda value, epoch: change("consistency", 0, "checkpoint", to=forged(epoch, 7))(value))
consistent("of-another-epoch", in_consistency(0, "checkpoint", to=lambda _: World(seed=8).epoch.checkpoint(7)))
consistent("of-the-same-tree-in-another-epoch", lambda value, epoch: change(
    "consistency", 0, "checkpoint", to=lambda note: renamed(epoch, note))(value))
consistent("signed-by-another-key", lambda value, epoch: change(
    "consistency", 0, "checkpoint", to=lambda note: by_key(Key(b"other"), epoch, note))(value))
consistent("signed-twice", in_consistency(0, "checkpoint", to=lambda note: note + note[note.index("\u2014"):]))

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

# --- the other claims ---


def bundles(name, expected, size=None, tar=False, **more):
    def make():
        found = []

        def proof(value):
            element, block = anchor(world.epoch, size)
            value["anchor"] = [element]
            found.append(block)
        world = World()
        return pinned(bundle_case(world=world, proof=proof, tar=tar, **more), *found)
    register(f"anchor-of-a-{name}", expected, make, f"{ID}.proof.json")


bundles("bundle", 0)
bundles("archive", 0, tar=True)
bundles("bundle-that-came-later", 3, size=15)


@case(0)
def anchor_of_a_row():
    value, world = row_case()
    element, block = anchor(world.epoch)
    return pinned(proof_case(world, {**value, "anchor": [element]}), block)


@case(3)
def anchor_between_the_revisions_of_a_block():
    """The first revision is anchored, the second not."""
    value, world = block_case(number=1)
    indices = [leaf["index"] for leaf in value["log"][0]["leaves"]]
    assert len(indices) == 2
    element, block = anchor(world.epoch, indices[1])
    return pinned(proof_case(world, {**value, "anchor": [element]}), block)


def period(name, expected, first=True, second=True, to=None, low=None, sizes=(None, None), accounts=(ACCOUNT,),
           spoil=None, by=(ACCOUNT, ACCOUNT), **pins):
    """Two epochs, anchored or not: the old one has the first 2.5 hours."""
    def make():
        value, world = period_case()
        value["claim"].update({"to": to or value["claim"]["to"], "from": low or value["claim"]["from"]})
        # The old epoch's section is under the checkpoint with one signature.
        made = [anchor(epoch, size, by=who, height=70_000_000 + place) if is_wanted else (None, None)
                for place, (epoch, size, who, is_wanted) in enumerate(zip(
                    (world.old, world.epoch), sizes, by, (first, second)))]
        value["anchor"] = [element for element, _ in made]
        if spoil:
            spoil(value, world)
        case = {**proof_case(world, value), "key": world.old.key.verifier(world.old.origin)}
        return pinned(case, *(block for _, block in made if block), accounts=accounts, **pins)
    register(f"anchor-of-a-period-{name}", expected, make)


HALF = HOUR // 2
period("of-two-epochs", 0)
period("by-two-accounts", 0, accounts=(OTHER, ACCOUNT), by=(ACCOUNT, OTHER))
period("by-an-account-that-was-not-given", 1, by=(ACCOUNT, OTHER))
period("whose-second-epoch-is-not-anchored", 3, second=False)
period("whose-first-epoch-is-not-anchored", 3, first=False)
period("within-the-first-epoch", 0, second=False, to=DAY0 + 4 * HALF)
period("that-touches-the-second-epoch", 3, second=False, to=DAY0 + 5 * HALF + 1)
period("within-the-second-epoch", 0, first=False, low=DAY0 + 5 * HALF)
period("that-reaches-into-the-first-epoch", 3, first=False, low=DAY0 + 5 * HALF - 1)
period("of-no-block", 3, low=DAY0 + 100 * HALF, to=DAY0 + 101 * HALF)
period("whose-blocks-came-later", 3, sizes=(4, None))
period("vouched-for-in-one-epoch", 3, trust=lambda one, two: line(one))
period("with-another-block-in-one-epoch", 1, trust=lambda one, two: line(one) + line(two, hash_=bytes(32)))
period("with-anchors-swapped", 1, spoil=lambda value, _: value["anchor"].reverse())
period("with-one-anchor-for-two", 1, spoil=lambda value, _: value["anchor"].pop())
period("with-consistency-in-one-epoch", 0, spoil=lambda value, world: value.update(
    consistency=[None, earlier(world.epoch, 2)]))
period("with-consistency-where-nothing-is-anchored", 1, first=False, spoil=lambda value, world: value.update(
    consistency=[earlier(world.old, 2), None]))
period("with-consistency-of-the-wrong-length", 1, spoil=lambda value, world: value.update(
    consistency=[earlier(world.old, 2)]))


@case(3)
def anchor_of_overlapping_blocks():
    """All is anchored, and energy is counted twice."""
    world = World()
    for minutes in (0, 15):
        world.epoch.add("block", counted("main", DAY0 + 10 * HOUR + minutes * 60_000, world.random)[0])
    claim = {"from": DAY0 + 10 * HOUR, "kind": "period", "meter": "main", "to": DAY0 + 20 * HOUR}
    value = world.proof(claim, [world.epoch.whole("main")])
    element, block = anchor(world.epoch)
    return pinned(proof_case(world, {**value, "anchor": [element]}), block)
