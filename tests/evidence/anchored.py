"""Anchored proofs: how the cases of anchors are made and registered. The cases: `cases_anchor`, `cases_trust`,
`cases_chain`."""
import copy
import random

from bundles import World, block_case, proof_case
from chain import Account, Block, call_data, contract_data, event, fee_log, keccak, mixed_case, receipt
from signing import consistency, root, sha

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


def forged(epoch, size):
    """A checkpoint of another tree by the same key."""
    other = copy.deepcopy(epoch)
    other.entries[3]["time"] += 1
    return other.checkpoint(size)


def by_key(key, epoch, note):
    """The same text under another signature."""
    end = note.index("\n\n") + 1
    return note[:end + 1] + key.line(epoch.origin, note[:end])


def line(block, chain=137, height=None, hash_=None):
    return f"block {chain} {block.height if height is None else height} 0x{(hash_ or block.hash).hex()}\n"


def pinned(case, *blocks, accounts=(ACCOUNT,), contracts=(CONTRACT,), chain=137, trust=None):
    lines = "".join(line(block, chain) for block in blocks)
    return {**case, "account": "".join(mixed_case(account.address) + "\n" for account in accounts),
            "contract": "".join(mixed_case(contract) + "\n" for contract in contracts), "chain": f"{chain}\n",
            "trust": lines if trust is None else trust(*blocks)}


def register(name, expected, make, names=PROOF):
    assert name not in ANCHORED, name
    ANCHORED[name] = (make, expected, names if expected in (1, 2) else "", True)


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
