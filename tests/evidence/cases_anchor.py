"""The cases of anchors in proofs: which hold (0), which rest on what was not shown (3), and who, where, which members,
which checkpoints and which claims are wrong (1)."""
import base64
import copy

from anchored import (
    ACCOUNT, ANCHORED, CONTRACT, ELSEWHERE, OTHER, anchor, anchors, by_key, case, earlier, forged, line, pinned,
    register)
from bundles import DAY0, HOUR, ID, World, block_case, bundle_case, period_case, proof_case, row_case
from cases import change
from gateway import counted
from signing import Key, sha

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
