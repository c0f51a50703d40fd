"""A chain made up for tests, by the definitions and slowly: Keccak, RLP, Merkle-Patricia trees, ECDSA over secp256k1,
blocks of transactions and receipts. Shares nothing with tools/verify.py."""
import functools
import hashlib
import hmac
import random

# --- Keccak-256 (FIPS 202 but for the padding), on bits as the standard has them ---

@functools.cache
def keccak(data):
    state = [[0] * 5 for _ in range(5)]
    padded = bytearray(data + b"\x01" + bytes(-(len(data) + 1) % 136))
    padded[-1] |= 0x80
    for first in range(0, len(padded), 136):
        for lane in range(17):
            state[lane % 5][lane // 5] ^= int.from_bytes(padded[first + 8 * lane:first + 8 * lane + 8], "little")
        for number in range(24):
            state = keccak_round(state, number)
    return b"".join(state[lane][0].to_bytes(8, "little") for lane in range(4))


def turn(word, count):
    count %= 64
    return (word << count | word >> 64 - count) & 2**64 - 1 if count else word


def lfsr(time):
    """FIPS 202, algorithm 5."""
    bits = [1, 0, 0, 0, 0, 0, 0, 0]
    for _ in range(time % 255):
        bits = [0, *bits]
        for place in (0, 4, 5, 6):
            bits[place] ^= bits[8]
        bits = bits[:8]
    return bits[0]


TURNS, CONSTANTS = [[0] * 5 for _ in range(5)], [sum(lfsr(j + 7 * i) << 2**j - 1 for j in range(7)) for i in range(24)]
X, Y = 1, 0
for T in range(24):
    TURNS[X][Y] = (T + 1) * (T + 2) // 2
    X, Y = Y, (2 * X + 3 * Y) % 5


def keccak_round(a, number):
    c = [a[x][0] ^ a[x][1] ^ a[x][2] ^ a[x][3] ^ a[x][4] for x in range(5)]
    a = [[a[x][y] ^ c[(x - 1) % 5] ^ turn(c[(x + 1) % 5], 1) for y in range(5)] for x in range(5)]
    b = [[turn(a[(x + 3 * y) % 5][x], TURNS[(x + 3 * y) % 5][x]) for y in range(5)] for x in range(5)]
    a = [[b[x][y] ^ (~b[(x + 1) % 5][y] & b[(x + 2) % 5][y]) for y in range(5)] for x in range(5)]
    a[0][0] ^= CONSTANTS[number]
    return a


# --- RLP (Yellow Paper, appendix B): numbers, bytes, lists, and `Raw` for what is already written ---

class Raw(bytes):
    """Bytes that stand as they are, in whatever form."""


def number(value):
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def headed(short, payload, long=False):
    if len(payload) <= 55 and not long:
        return bytes([short + len(payload)]) + payload
    digits = number(len(payload)) or b"\x00"
    return bytes([short + 55 + len(digits)]) + digits + payload


def rlp(value):
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, int):
        return rlp(number(value))
    if isinstance(value, list):
        return headed(0xC0, b"".join(rlp(item) for item in value))
    return value if len(value) == 1 and value[0] <= 0x7F else headed(0x80, value)


# --- Merkle-Patricia trees (Yellow Paper, appendix D) ---

def nibbles(key):
    return [digit for byte in key for digit in (byte >> 4, byte & 15)]


def hex_prefix(digits, leaf):
    flag = 2 * leaf + len(digits) % 2
    digits = [flag, *digits] if len(digits) % 2 else [flag, 0, *digits]
    return bytes(16 * a + b for a, b in zip(digits[::2], digits[1::2]))


class Tree:
    """Of (key, value) pairs. `path` gives the nodes to a key; `node` may be overridden to make a wrong one."""

    def __init__(self, pairs):
        self.pairs = [(nibbles(key), value) for key, value in pairs]
        self.root = keccak(rlp(self.node(self.pairs, 0)))

    def node(self, pairs, depth):
        if len(pairs) == 1:
            (key, value), = pairs
            return [hex_prefix(key[depth:], True), value]
        same = self.common(pairs, depth)
        if same > depth:
            return [hex_prefix(pairs[0][0][depth:same], False), self.reference(self.node(pairs, same))]
        slots = [[pair for pair in pairs if pair[0][depth:depth + 1] == [digit]] for digit in range(16)]
        own = [value for key, value in pairs if len(key) == depth] or [b""]
        return [self.reference(self.node(slot, depth + 1)) if slot else b"" for slot in slots] + own

    @staticmethod
    def common(pairs, depth):
        while all(len(key) > depth for key, _ in pairs) and len({key[depth] for key, _ in pairs}) == 1:
            depth += 1
        return depth

    def reference(self, node):
        return node if len(rlp(node)) < 32 else keccak(rlp(node))

    def path(self, key):
        """The nodes from the root's on, those that are embedded left out."""
        key, depth, pairs, nodes = nibbles(key), 0, self.pairs, []
        while True:
            node = self.node(pairs, depth)
            if not nodes or len(rlp(node)) >= 32:
                nodes.append(rlp(node))
            if depth == len(key) or len(pairs) == 1:
                return nodes
            same = self.common(pairs, depth)
            depth = same if same > depth else depth + 1
            pairs = [pair for pair in pairs if pair[0][:depth] == key[:depth]]


# --- ECDSA over secp256k1, with the nonces of RFC 6979 ---

FIELD = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
BASE = (0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8, 1)


def doubled(at):
    """In Jacobian coordinates; y = 0 is on no point of this curve."""
    x, y, z = at
    four, eight = 4 * x * y * y, 8 * y**4
    slope = 3 * x * x
    new = (slope * slope - 2 * four) % FIELD
    return new, (slope * (four - new) - eight) % FIELD, 2 * y * z % FIELD


def summed(a, b):
    if not a[2] or not b[2]:
        return b if not a[2] else a
    u, v = a[0] * b[2]**2 % FIELD, b[0] * a[2]**2 % FIELD
    s, t = a[1] * b[2]**3 % FIELD, b[1] * a[2]**3 % FIELD
    if u == v:
        return doubled(a) if s == t else (1, 1, 0)
    h, r = v - u, t - s
    x = (r * r - h**3 - 2 * u * h * h) % FIELD
    return x, (r * (u * h * h - x) - s * h**3) % FIELD, h * a[2] * b[2] % FIELD


def multiplied(scalar, at):
    found = (1, 1, 0)
    for digit in bin(scalar)[2:]:
        found = doubled(found) if found[2] else found
        found = summed(found, at) if digit == "1" else found
    inverse = pow(found[2], FIELD - 2, FIELD)
    return found[0] * inverse**2 % FIELD, found[1] * inverse**3 % FIELD


class Account:
    def __init__(self, secret):
        self.secret = secret if isinstance(secret, int) else int.from_bytes(hashlib.sha256(secret).digest(), "big")
        x, y = multiplied(self.secret, BASE)
        self.address = keccak(x.to_bytes(32, "big") + y.to_bytes(32, "big"))[12:]

    def nonce(self, digest):
        """RFC 6979, 3.2, with HMAC-SHA-256; the first candidate is below the order but for one in 2^128."""
        seed = self.secret.to_bytes(32, "big") + (int.from_bytes(digest, "big") % ORDER).to_bytes(32, "big")
        v, k = b"\x01" * 32, b"\x00" * 32
        for mark in (b"\x00", b"\x01"):
            k = hmac.digest(k, v + mark + seed, "sha256")
            v = hmac.digest(k, v, "sha256")
        return int.from_bytes(hmac.digest(k, v, "sha256"), "big")

    def sign(self, digest):
        """(y parity, r, s), with s not above half the order."""
        nonce = self.nonce(digest)
        x, y = multiplied(nonce, BASE)
        s = pow(nonce, ORDER - 2, ORDER) * (int.from_bytes(digest, "big") + x * self.secret) % ORDER
        return (y % 2, x, s) if s <= ORDER // 2 else (1 - y % 2, x, ORDER - s)

    def transaction(self, to, data, chain=137, change=None, resign=None):
        """A signed transaction of EIP-1559. `change` is given the fields before, `resign` after they are signed."""
        fields = [chain, 7, 30 * 10**9, 90 * 10**9, 60_000, to, 0, data, []]
        if change:
            change(fields)
        fields += self.sign(keccak(b"\x02" + rlp(fields)))
        if resign:
            resign(fields)
        return b"\x02" + rlp(fields)


def mixed_case(address):
    """EIP-55."""
    digits, marks = address.hex(), keccak(address.hex().encode()).hex()
    return "0x" + "".join(a.upper() if mark in "89abcdef" else a for a, mark in zip(digits, marks))


# --- what is anchored ---

def contract_data(origin, size, root):
    return keccak(b"anchor(bytes32,uint64,bytes32)")[:4] + origin + size.to_bytes(32, "big") + root


def call_data(origin, size, root):
    return b"MSEAL1" + origin + size.to_bytes(8, "big") + root


def event(contract, account, origin, size, root):
    topics = [keccak(b"Anchored(address,bytes32,uint64,bytes32)"), bytes(12) + account, origin]
    return [contract, topics, size.to_bytes(32, "big") + root]


# --- blocks ---

POLYGON = bytes(18) + b"\x10\x10"  # what the chain itself writes logs by: fees and transfers


def receipt(logs, status=1, gas=52_000, change=None):
    fields = [status, gas, bytes(256), [list(log) for log in logs]]
    if change:
        change(fields)
    return b"\x02" + rlp(fields)


def fee_log(chance):
    """As Polygon writes one behind every transaction."""
    return [POLYGON, [chance.randbytes(32) for _ in range(4)], chance.randbytes(160)]


class Block:
    """A block with a transaction at an index, and others of every type around it."""

    def __init__(self, transaction, receipt, index=3, count=5, items=17, height=70_000_000, time=1_767_300_000, seed=1,
                 header=None, tree=Tree, pairs=lambda pairs: pairs):
        chance = random.Random(seed)
        kinds = [b"", b"\x01", b"\x02", b"\x03", b"\x04", b"\x7f"]
        sent = [kinds[place % 6] + rlp([chance.randbytes(chance.randrange(1, 400)) for _ in range(9)])
                for place in range(count)]
        came = [kinds[place % 6] + rlp([1, 21_000 * place, bytes(256), [fee_log(chance)] * (place % 3)])
                for place in range(count)]
        sent[index], came[index] = transaction, receipt
        self.index, self.keys = index, [rlp(place) for place in range(count)]
        self.sent, self.came = (tree(pairs(list(zip(self.keys, values)))) for values in (sent, came))
        self.items = [chance.randbytes(32), keccak(rlp([])), chance.randbytes(20), chance.randbytes(32), self.sent.root,
                      self.came.root, bytes(256), 0, height, 30_000_000, 9_000_000, time, chance.randbytes(97),
                      chance.randbytes(32), bytes(8), 25 * 10**9, chance.randbytes(32), 0, 0, chance.randbytes(32),
                      chance.randbytes(32)][:items]
        self.height, self.time = height, time
        if header:
            header(self.items)
        self.header = rlp(self.items)
        self.hash = keccak(self.header)

    def evidence(self):
        key = self.keys[self.index]
        return {"header": self.header.hex(), "index": self.index, "receipt": [n.hex() for n in self.came.path(key)],
                "transaction": [n.hex() for n in self.sent.path(key)]}
