#!/usr/bin/env python3
"""Verifies bundles, proofs and logs of meterseal, written from docs/evidence-format.md alone.

    verify.py PATH [--key VERIFIER_KEY] [--trust FILE] [--account ADDRESS]... [--contract ADDRESS]... [--chain ID]
        [--rpc URL]...

PATH is a bundle (folder or .tar), a .proof.json, a .tlog-proof or a log folder. Needs Python 3.11 and the program zstd,
and no network but for --rpc. Ends with 1 when something does not hold, 2 when it cannot be read, 3 when all of it holds
but rests on something that was not shown. Ends with 0 when it does not: the key is the one given, and it is anchored by
an account that was given, in blocks that a node (--rpc) or FILE vouches for.

Every byte is recomputed from others, or the whole is refused. Nothing is kept from one call of `verify` to the next.
"""
import argparse
import base64
import bisect
import contextlib
import datetime
import hashlib
import http.client
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from fractions import Fraction
from json.encoder import encode_basestring

JSON_LIMIT, ROW_LIMIT, PART_ROWS, WINDOW, CHUNK = 256 << 20, 16 << 20, 1_000_000, 8 << 20, 1 << 20
CHAIN_LIMIT, ANSWER_LIMIT, PATIENCE = 1 << 20, 8 << 20, 20  # bytes of a node of a chain, of an answer by RPC; seconds
DEEPEST = 16  # lists of RLP, each in the one before
TOO_MANY = (-32005, -32029, 429)  # codes of JSON-RPC by which a provider says that it is asked too much
NO_TAG = (-39001, -32602, -32001, -32000)  # codes by which a node says that it does not know the tag `finalized`
WHOLE, I64, U64 = 1 << 53, (-(1 << 63), (1 << 63) - 1), (0, (1 << 64) - 1)
SITE, METER = r"[a-z0-9-]{1,63}", r"[A-Za-z0-9._-]{1,64}"
ORIGIN = re.compile(rf"({SITE})/([0-9a-f]{{32}})/([0-9a-f]{{16}})")
NAME = r"[^\s+\x00-\x1f\x7f-\x9f]+"
ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
METER_KINDS = ("block", "silence", "commissioning")
KINDS = (*METER_KINDS, "dataset", "config", "audit", "key", "succession")
REASONS = ("init", "key-rotation", "site", "restore", "rollback", "clone")
REGISTERS = {"energy_import_kwh": "import_uwh", "energy_export_kwh": "export_uwh"}


class Fault(Exception):
    """What does not hold, and where; `code` is the verdict."""

    def __init__(self, words, code=1):
        super().__init__(words)
        self.code, self.places = code, []

    def __str__(self):
        return ": ".join([*self.places, *self.args])


class at:
    """Names the place in the file of a fault that comes from within; what cannot be read is one, too."""

    def __init__(self, *places):
        self.places = places

    def __enter__(self):
        return self

    def __exit__(self, _, error, __):
        if isinstance(error, OSError):
            fault = Fault(f"cannot be read: {error.strerror or error}", 2)
            fault.places = [*map(str, self.places)]
            raise fault from error
        if isinstance(error, Fault):
            error.places[:0] = map(str, self.places)


def want(holds, expected, code=1):
    if not holds:
        raise Fault(expected, code)


# --- texts: canonical JSON (RFC 8785), hex, base64, numbers ---------------------------------------------------------

def ecmascript(value):
    """A finite double as ECMAScript's Number::toString writes it; repr finds the same shortest digits."""
    if value == 0:
        return "0"
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, part = mantissa.partition(".")
    digits = whole + part
    point = len(whole) + int(exponent or 0) - (len(digits) - len(digits.lstrip("0")))
    digits = digits.strip("0")
    sign, count = "-" if value < 0 else "", len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[0]}{'.' if count > 1 else ''}{digits[1:]}e{point - 1:+d}"


def jcs(value):
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        names = sorted(value) if "".join(value).isascii() else sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join([f"{encode_basestring(name)}:{jcs(value[name])}" for name in names]) + "}"
    if kind is list:
        return "[" + ",".join(map(jcs, value)) + "]"
    if kind is float:
        return ecmascript(value)
    return str(value) if kind is int else "null" if value is None else "true" if value else "false"


def read_members(pairs):
    value = dict(pairs)
    want(len(value) == len(pairs), "a member stands twice")
    return value


def read_double(text):
    value = float(text)
    want(abs(value) != float("inf"), f"{text} is beyond a double")
    return value


def read_int(text):
    """A whole number; beyond 2^53 only a double, which the place where it stands must allow."""
    return int(text) if len(text) < 18 and abs(int(text)) <= WHOLE else read_double(text)


def read_constant(text):
    raise Fault(f"{text} is no number of JSON")


DECODER = json.JSONDecoder(object_pairs_hook=read_members, parse_int=read_int, parse_float=read_double,
                           parse_constant=read_constant)


def parse(data):
    """The value of a canonical JSON text; another way to write the same value is refused."""
    try:
        value = DECODER.decode(data.decode())
        again = jcs(value).encode()
    except (ValueError, RecursionError) as error:
        raise Fault(f"expected JSON: {error}") from error
    if again != data:
        same = next((i for i, (a, b) in enumerate(zip(again, data)) if a != b), min(len(again), len(data)))
        raise Fault(f"expected canonical JSON (RFC 8785); byte {same} differs")
    return value


def members(value, names, optional=()):
    want(type(value) is dict, f"expected an object with the members {', '.join(sorted(names))}")
    odd = (value.keys() ^ set(names)) - (set(optional) & value.keys())
    want(not odd, f"member {min(odd, default='')!r} is {'not known' if odd and min(odd) in value else 'missing'}")
    return value


def utf8(data):
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Fault("expected UTF-8") from error


def text(value, what="a string"):
    want(type(value) is str, f"expected {what}")
    return value


def matching(pattern, value, what):
    want(type(value) is str and re.fullmatch(pattern, value), f"expected {what}, found {str(value)[:80]!r}")
    return value


def listed(value):
    want(type(value) is list, "expected a list")
    return value


def whole(value, low=0):
    want(type(value) is int and low <= value <= WHOLE, f"expected a whole number from {low} to 2^53")
    return value


def decimal(value, bounds=I64):
    matching(r"0|-?[1-9][0-9]{0,19}", value, "a decimal string")
    want(bounds[0] <= int(value) <= bounds[1], f"{value} is beyond its 64 bits")
    return int(value)


def unhex(value, pattern="[0-9a-f]{64}", what="64 digits of lower-case hex"):
    return bytes.fromhex(matching(pattern, value, what))


def unbase64(value, length=None):
    try:
        data = base64.b64decode(text(value, "base64"), validate=True)
    except ValueError:
        data = None
    want(data is not None and base64.b64encode(data).decode() == value, "expected base64 in its one form (RFC 4648)")
    want(length is None or len(data) == length, f"expected base64 of {length} bytes")
    return data


def sha256(*pieces):
    return hashlib.sha256(b"".join(pieces)).digest()


# --- the tree (RFC 6962) --------------------------------------------------------------------------------------------

def leaf_hash(data):
    return sha256(b"\0", data)


def node(left, right):
    return sha256(b"\1", left, right)


class Tree:
    """The root of leaves that come one by one: the roots of the full subtrees, at most 64."""

    def __init__(self):
        self.size, self.full = 0, []

    def add(self, leaf):
        self.size += 1
        for _ in range((self.size & -self.size).bit_length() - 1):
            leaf = node(self.full.pop(), leaf)
        self.full.append(leaf)

    def root(self):
        if not self.full:
            return sha256()
        root = self.full[-1]
        for left in reversed(self.full[:-1]):
            root = node(left, root)
        return root


def path_root(leaf, index, size, path):
    """The root that an audit path leads to (RFC 9162, 2.1.3.2); a path of another length is refused."""
    want(index < size, f"index {index} is not below the size {size}")
    last = size - 1
    for step in path:
        want(last, "the path is too long")
        if index & 1 or index == last:
            leaf = node(step, leaf)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            leaf = node(leaf, step)
        index, last = index >> 1, last >> 1
    want(not last, "the path is too short")
    return leaf


def section_root(leaves, hashes, size):
    """The root over some leaves, [(index, hash)] by index, and the hashes of the subtrees without any."""
    indices, rest = [index for index, _ in leaves], iter(hashes)
    want(indices[-1] < size, f"leaf {indices[-1]} is not below the size {size}")

    def walk(low, high):
        first = bisect.bisect_left(indices, low)
        if first == len(indices) or indices[first] >= high:
            found = next(rest, None)
            want(found, "there are too few hashes")
            return found
        if high - low == 1:
            return leaves[first][1]
        half = low + (1 << (high - low - 1).bit_length() - 1)
        return node(walk(low, half), walk(half, high))

    root = walk(0, size)
    want(next(rest, None) is None, "there are too many hashes")
    return root


def check_consistency(older, newer, path):
    """That the first leaves of one checkpoint are all those of another (RFC 9162, 2.1.4.2)."""
    if older.size == newer.size:
        want(not path and older.note == newer.note, "expected the same checkpoint and no hashes at an equal size")
        return
    index, last = older.size - 1, newer.size - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    steps = iter(path if index else [older.root, *path])
    left = right = next(steps, None)
    for step in steps:
        want(last, "there are too many hashes")
        if index & 1 or index == last:
            left, right = node(step, left), node(step, right)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            right = node(right, step)
        index, last = index >> 1, last >> 1
    want(not last, "there are too few hashes")
    want((left, right) == (older.root, newer.root), f"the hashes do not lead from {older} to {newer}")


# --- Ed25519 (RFC 8032) ---------------------------------------------------------------------------------------------

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
NEUTRAL = (0, 1, 1, 0)


def add(a, b):
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * D * a[3] * b[3] % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def double(a):
    x, y, z = a[0] * a[0] % P, a[1] * a[1] % P, 2 * a[2] * a[2] % P
    h, g = x + y, x - y
    e, f = h - (a[0] + a[1]) ** 2 % P, z + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def point(data):
    """The point of 32 bytes; None when it is not written canonically, not on the curve, or of small order."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * v**3 * pow(u * v**7, (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * SQRT_M1 % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    eight = double(double(double((x, y, 1, x * y % P))))
    return None if eight[0] == 0 else (x, y, 1, x * y % P)  # eight times a point of small order is the neutral one


BASE = point(bytes([0x58] + [0x66] * 31))


def signed_by(public, message, signature):
    a, r, s = point(public), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    minus_a = (P - a[0], a[1], 1, P - a[3])
    steps = (None, BASE, minus_a, add(BASE, minus_a))
    sum_ = NEUTRAL
    for bit in range(252, -1, -1):  # s·B − k·A must be R itself: without the cofactor
        sum_ = double(sum_)
        step = (s >> bit & 1) | (k >> bit & 1) << 1
        if step:
            sum_ = add(sum_, steps[step])
    return (sum_[0] - r[0] * sum_[2]) % P == 0 and (sum_[1] - r[1] * sum_[2]) % P == 0


# --- Keccak-256, RLP, Merkle-Patricia paths and secp256k1 (Yellow Paper) --------------------------------------------

def keccak_tables():
    """Rounds' constants, and for each lane where it goes and how far it turns."""
    constants, register, turns, (x, y) = [], 1, [0] * 25, (1, 0)
    for _ in range(24):
        constants.append(0)
        for step in range(7):
            constants[-1] |= (register & 1) << (1 << step) - 1
            register = register << 1 ^ (register >> 7) * 0x171
    for step in range(24):
        turns[x + 5 * y] = (step + 1) * (step + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return constants, [lane // 5 + 5 * ((2 * lane + 3 * (lane // 5)) % 5) for lane in range(25)], turns


CONSTANTS, PLACES, TURNS = keccak_tables()
LANE = (1 << 64) - 1


def keccak(data, padding=1):
    """Keccak-256 with the padding of 2011; with 6 it is SHA3-256."""
    data = bytearray(data) + bytes([padding]) + bytes(135 - len(data) % 136)
    data[-1] |= 0x80
    lanes, turned = [0] * 25, [0] * 25
    for place in range(0, len(data), 136):
        for lane in range(17):
            lanes[lane] ^= int.from_bytes(data[place + 8 * lane:place + 8 * lane + 8], "little")
        for constant in CONSTANTS:
            sums = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
            sums = [sums[x - 1] ^ (sums[x - 4] << 1 & LANE | sums[x - 4] >> 63) for x in range(5)]
            for lane in range(25):
                word, turn = lanes[lane] ^ sums[lane % 5], TURNS[lane]
                turned[PLACES[lane]] = word << turn & LANE | word >> 64 - turn
            for row in range(0, 25, 5):
                a, b, c, d, e = turned[row:row + 5]
                lanes[row:row + 5] = a ^ ~b & c, b ^ ~c & d, c ^ ~d & e, d ^ ~e & a, e ^ ~a & b
            lanes[0] ^= constant
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def rlp_write(value):
    data = value if type(value) is bytes else b"".join(map(rlp_write, value))
    if type(value) is bytes and len(value) == 1 and value[0] < 0x80:
        return value
    first, length = (0x80 if type(value) is bytes else 0xC0), len(data)
    if length < 56:
        return bytes([first + length]) + data
    digits = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([first + 55 + len(digits)]) + digits + data


def rlp_item(data, place, limit, depth=1):
    """(the item at a place, where it ends): bytes, or a list of items; in whatever form."""
    want(place < limit, "expected RLP that goes on")
    first, place = data[place], place + 1
    if first < 0x80:
        return data[place - 1:place], place
    length = first & 0x3F
    if length > 55:
        digits = data[place:place + length - 55]
        length, place = int.from_bytes(digits), place + length - 55
    end = place + length
    want(end <= limit, "expected RLP that goes on")
    if first < 0xC0:
        return data[place:end], end
    want(depth <= DEEPEST, f"expected lists of RLP at most {DEEPEST} deep")
    items = []
    while place < end:
        item, place = rlp_item(data, place, end, depth + 1)
        items.append(item)
    return items, end


def rlp(data):
    """The list that the bytes are; they are written again from it, and compared."""
    want(len(data) <= CHAIN_LIMIT, "it is larger than 1 MiB", 2)
    items, _ = rlp_item(data, 0, len(data))
    want(type(items) is list and rlp_write(items) == data, "expected an RLP list in its one form")
    return items


def string(item, *lengths):
    want(type(item) is bytes and (not lengths or len(item) in lengths),
         f"expected a string of RLP{' of ' + str(lengths[0]) + ' bytes' if lengths else ''}")
    return item


def number(item, width=8):
    want(len(string(item)) <= width and item[:1] != b"\0", f"expected a number of at most {width} bytes")
    return int.from_bytes(item)


def path_value(root, nodes, index):
    """What a path of a Merkle-Patricia tree leads to by the key RLP(index)."""
    left = rlp_write(index.to_bytes((index.bit_length() + 7) // 8)).hex()
    value, extended = None, False
    for place, data in enumerate(nodes):
        with at(f"[{place}]"):
            want(value is None, "the path ends before it")
            want(place == 0 or len(data) >= 32, "a node of less than 32 bytes is embedded, and not listed")
            items = rlp(data)
            want(keccak(data) == root, f"expected the node with the hash {root.hex()}")
            want(len(items) == 17 or len(items) == 2 and not extended, "expected a branch" if extended else
                 "expected a node: a branch of 17, or 2 items")
            extended, ended = False, not left
            if len(items) == 17:
                slot, left = (16, "") if ended else (int(left[0], 16), left[1:])
            else:
                prefix, slot = string(items[0]).hex(), 1
                ended, extended = prefix[:1] in ("2", "3"), prefix[:1] in ("0", "1")
                want(ended or extended, "expected a hex prefix")
                want(prefix[0] in "13" or prefix[1] == "0", "expected a hex prefix in its one form")
                own = prefix[1:] if prefix[0] in "13" else prefix[2:]
                want(left == own if ended else own and left.startswith(own), f"expected the path {left}, found {own}")
                left = left[len(own):]
            # What is embedded is too short to hold a transaction or receipt, and so a path never goes on in it.
            value, root = (string(items[slot]), None) if ended else (None, string(items[slot], 32))
    want(value, "there are too few nodes")
    return value


FIELD, GROUP = 2**256 - 2**32 - 977, 2**256 - 432420386565659656852420866394968145599
GENERATOR = (0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
             0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8)


def plus(a, b):
    """The sum of two points of secp256k1; None is the neutral one."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % FIELD == 0:
            return None
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, FIELD)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, FIELD)
    x = (slope * slope - a[0] - b[0]) % FIELD
    return x, (slope * (a[0] - x) - a[1]) % FIELD


def signer(digest, parity, r, s):
    """The address whose key made an ECDSA signature over secp256k1."""
    want(parity < 2, "expected the y parity 0 or 1")
    want(0 < r < GROUP and 0 < s <= GROUP // 2, "expected r below n and s not above n/2, neither 0")
    y = pow(r**3 + 7, (FIELD + 1) // 4, FIELD)
    want((y * y - r**3 - 7) % FIELD == 0, "r is of no point of the curve")
    point, inverse = (r, y if y & 1 == parity else FIELD - y), pow(r, -1, GROUP)
    along, against, found = s * inverse % GROUP, -int.from_bytes(digest) * inverse % GROUP, None
    steps = None, point, GENERATOR, plus(point, GENERATOR)
    for bit in range(255, -1, -1):
        found = plus(plus(found, found), steps[(along >> bit & 1) | (against >> bit & 1) << 1])
    want(found, "the signature is by no key")
    return keccak(found[0].to_bytes(32) + found[1].to_bytes(32))[12:]


def eip55(address):
    digits = address.hex()
    return "0x" + "".join(digit.upper() if int(mark, 16) > 7 else digit
                          for digit, mark in zip(digits, keccak(digits.encode()).hex()))


def read_address(value):
    digits = matching(r"0x[0-9a-fA-F]{40}", value, "an address: 0x and 40 hex digits")[2:]
    address = bytes.fromhex(digits)
    want(digits in (digits.lower(), digits.upper(), eip55(address)[2:]),
         f"expected the mixed case of EIP-55: {eip55(address)}")
    return address


# --- keys and checkpoints (C2SP) ------------------------------------------------------------------------------------

def key_id(name, public):
    return sha256(name.encode(), b"\n\1", public)[:4]


def verifier_key(value):
    """(name, public key) of `name+<key id>+<key>`."""
    found = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+(\S+)", text(value, "a verifier key"))
    want(found, "expected a verifier key: name+8 hex digits+base64")
    data = unbase64(found[3], 33)
    want(data[0] == 1, "expected a verifier key of the type Ed25519 (01)")
    want(key_id(found[1], data[1:]).hex() == found[2], f"expected the key id {key_id(found[1], data[1:]).hex()}")
    return found[1], data[1:]


class Checkpoint:
    def __init__(self, note, origin=ORIGIN):
        body, gap, rest = text(note, "a checkpoint").partition("\n\n")
        lines = body.split("\n")
        want(gap and rest.endswith("\n") and len(lines) == 3,
             "expected a checkpoint: origin, size, root, an empty line, signatures")
        self.note, self.body = note, (body + "\n").encode("utf-8", "replace")
        self.origin = matching(origin, lines[0], "an origin <site>/<gateway>/<epoch>")
        self.site, self.gateway = self.origin.split("/")[:2] if origin is ORIGIN else (None, None)
        self.size = int(matching(r"[1-9][0-9]{0,15}", lines[1], "a size"))
        want(self.size <= WHOLE, "the size is beyond 2^53")
        self.root, self.lines = unbase64(lines[2], 32), []
        for line in rest[:-1].split("\n"):
            found = re.fullmatch(rf"— ({NAME}) ([A-Za-z0-9+/=]+)", line)
            want(found, "expected a signature line: an em dash, a name, base64")
            data = unbase64(found[2])
            want(len(data) > 4, "expected a key id and a signature behind it")
            self.lines.append((found[1], data[:4], data[4:]))
        want(len(self.lines) <= 16, "there are more than 16 signatures")

    def verify(self, line, name, public):
        by, short, signature = self.lines[line]
        want(by == name, f"signature {line + 1} is by {by}, expected {name}")
        want(short == key_id(name, public), f"signature {line + 1} is by the key {short.hex()}, expected "
             f"{key_id(name, public).hex()}")
        want(len(signature) == 64 and signed_by(public, self.body, signature), f"the signature of {name} is wrong")

    def __str__(self):
        return f"{self.origin} at size {self.size}"


# --- entries and records --------------------------------------------------------------------------------------------

def entry(value):
    """A log entry as it stands in the tree."""
    members(value, ("commit", "kind", "subject", "time", "v"))
    unhex(value["commit"])
    want(value["kind"] in KINDS, f"the kind {value['kind']!r} is not known")
    if value["kind"] in METER_KINDS:
        unhex(value["subject"])
    else:
        want(value["subject"] is None, "expected no subject")
    whole(value["time"])
    want(type(value["v"]) is int and value["v"] == 1, "expected v 1")
    return value


def open_entry(kind, record, salt, time, meter_salt, index):
    """The entry that a record and its salts give, once the record is one of this kind."""
    want(kind in KINDS, f"the kind {kind!r} is not known")
    with at("record"):
        check_record(kind, record, index)
    subject = None
    if kind in METER_KINDS:
        want(meter_salt is not None, f"expected a meter salt for {record['meter']}")
        subject = sha256(unhex(meter_salt), record["meter"].encode()).hex()
    commit = sha256(unhex(salt), jcs(record).encode()).hex()
    return entry({"commit": commit, "kind": kind, "subject": subject, "time": time, "v": 1})


def check_record(kind, record, index):
    if kind in METER_KINDS:
        want(type(record) is dict and "prev" in record, "expected a record with prev")
        want(record["prev"] is None or whole(record["prev"]) < index, "expected prev below the own index")
        matching(METER, record.get("meter"), "a meter id")
    if kind in ("block", "silence"):
        check_block(record)
        nothing = record["import_uwh"] is None and record["export_uwh"] is None and record["covered_ms"] == 0
        want(nothing == (kind == "silence"), "a block without energy and coverage is a silence, and no other is")
    elif kind == "commissioning":
        whole(record.get("since"), -WHOLE)
    elif kind == "dataset":
        members(record, ("dataset", "manifest_sha256"))
        matching(ULID, record["dataset"], "a ULID")
        unhex(record["manifest_sha256"])
    elif kind == "config":
        members(record, ("config_sha256", "program", "subjects"))
        unhex(record["config_sha256"])
        text(record["program"])
        want(type(record["subjects"]) is dict, "expected the subjects of meters")
        for meter, subject in record["subjects"].items():
            matching(METER, meter, "a meter id")
            unhex(subject)
    elif kind == "audit":
        members(record, ("action", "by", "detail"))
    elif kind == "key":
        members(record, ("new_key", "new_origin"))
        matching(ORIGIN, record["new_origin"], "an origin")
        want(verifier_key(record["new_key"])[0] == record["new_origin"], "new_key does not bear the name new_origin")
    elif kind == "succession":
        members(record, ("last_local", "last_outside", "old_origin", "reason"))
        want(record["reason"] in REASONS, f"the reason {record['reason']!r} is not known")
        want((record["reason"] == "init") == (record["old_origin"] is None), "old_origin is null with `init` alone")
        if record["old_origin"] is not None:
            matching(ORIGIN, record["old_origin"], "an origin")
        for name in ("last_local", "last_outside"):
            want(record[name] is None or record["reason"] != "init", f"expected no {name} with `init`")
            if record[name] is not None:
                with at(name):
                    Checkpoint(record[name])


def check_block(record):
    """A block's record (blocks.md): its members, and its energy from its border readings."""
    members(record, (
        "after", "before", "breaks", "category", "coverage", "covered_ms", "end", "export_uwh", "first", "flags",
        "import_uwh", "interval_ms", "is_peak_hour", "last", "max_mw", "meter", "method", "min_mw", "nominal_ms",
        "pending", "prev", "readings_sha256", "revision", "rule", "sealed", "start", "template", "through_seq", "zone"))
    want(type(record["rule"]) is int and record["rule"] == 1, "expected the block rule 1")
    for name in ("start", "end", "sealed"):
        whole(record[name], -WHOLE)
    for name in ("covered_ms", "interval_ms", "nominal_ms", "revision", "through_seq"):
        whole(record[name])
    for name in ("interval_ms", "nominal_ms", "revision"):
        want(record[name] < 1 << 32, f"expected {name} within 32 bits")
    want(record["start"] < record["end"], "expected start before end")
    want(record["category"] in ("CONS", "PROD", "STOR", "INJ"), "the category is not known")
    want(record["method"] in ("counter", "interval", "power", "mixed", "sum"), "the method is not known")
    for name in ("import_uwh", "export_uwh", "max_mw", "min_mw"):
        if record[name] is not None:
            decimal(record[name])
    want(type(record["is_peak_hour"]) is bool, "expected is_peak_hour to be true or false")
    text(record["zone"])
    unhex(record["readings_sha256"])
    if record["template"] is not None:
        unhex(record["template"])
    flags = "clock conflict dst estimated gap late late_rejected reset rollover simulated".split()
    want(type(record["flags"]) is list and record["flags"] == [flag for flag in flags if flag in record["flags"]],
         "expected flags that are known, in order of the alphabet")
    length = record["end"] - record["start"]
    want(record["covered_ms"] <= length, "expected covered_ms within the block")
    coverage = whole(record["coverage"]), record["covered_ms"] * 10_000 // length
    want(coverage[0] == coverage[1] or record["method"] == "sum" and coverage[0] <= 10_000,
         f"coverage is {coverage[0]}, and by covered_ms it is {coverage[1]}")
    for name in ("before", "first", "last", "after", "pending"):
        for border in listed(record[name]):
            with at(name):
                check_border(border)
    for broken in listed(record["breaks"]):
        with at("breaks"):
            members(broken, ("from", "kind", "to"))
            want(broken["kind"] in ("rollover", "reset"), "expected a rollover or a reset")
            rollover = broken["kind"] == "rollover"
            for border in (check_border(broken["from"]), check_border(broken["to"])):
                want(not rollover or "rolls_over_at" in border, "a register that rolled over has an end")
    for quantity, name in REGISTERS.items():
        energy = by_register(record, quantity)
        mixed = record["method"] == "mixed" and energy is not None
        if record["method"] == "counter" or mixed and not any("interval" in at for at in borders_of(record, quantity)):
            stated = None if record[name] is None else int(record[name])
            want(stated == energy, f"{name} is {stated}, and its border readings give {energy}")


def check_border(border):
    optional = [name for name in ("interval", "rolls_over_at") if type(border) is dict and name in border]
    members(border, ("quantity", "scale", "seq", "time", "type", "value", *optional))
    check_reading({name: border[name] for name in ("quantity", "seq", "time", "type", "value")})
    scale = border["scale"]
    want(type(scale) is list and len(scale) == 2 and whole(scale[0], -WHOLE) and whole(scale[1], 1)
         and max(abs(scale[0]), scale[1]) < 1 << 31, "expected a scale of two whole numbers of 31 bits")
    want(Fraction(*scale).as_integer_ratio() == tuple(scale), "expected a scale in lowest terms")
    if "rolls_over_at" in border:
        decimal(border["rolls_over_at"], (1, U64[1]))
    if "interval" in border:
        members(border["interval"], ("label", "ms"))
        whole(border["interval"]["ms"], 1)
        want(border["interval"]["label"] in ("start", "end"), "expected the label start or end")
    return border


def check_reading(reading):
    members(reading, ("quantity", "seq", "time", "type", "value"))
    want(reading["quantity"] in (*REGISTERS, "power_kw"), "the quantity is none of a block's")
    whole(reading["seq"])
    whole(reading["time"], -WHOLE)
    want(reading["type"] in ("f64", "i64", "u64"), f"the type {reading['type']!r} is not known")
    check_value(reading["type"], reading["value"])


def check_value(kind, value):
    if kind == "f64":
        want(type(value) in (int, float), "expected a number")
    elif kind == "bool":
        want(type(value) is bool, "expected true or false")
    elif kind == "str":
        want(type(value) is str and value, "expected a string that is not empty")
    elif kind in ("i64", "u64", "time"):
        decimal(value, U64 if kind == "u64" else I64)
    else:
        raise Fault(f"the type {kind!r} is not known")


# --- a block's energy (blocks.md) -----------------------------------------------------------------------------------

def exactly(reading, scale, value=None):
    """µWh of a register's value or mW of power: raw × scale, rounded once, ties to even."""
    raw = Fraction(value or reading["value"])
    return round(raw * Fraction(*scale) * (10**6 if reading["quantity"] == "power_kw" else 10**9))


def order(reading):
    return reading["time"], reading["seq"]


def part(step, low, high):
    """What lies in [low, high) of the step (t0, t1, d): each border is rounded down once, for both its neighbours."""
    t0, t1, energy = step
    if t1 <= t0:
        return 0
    before = [energy * (min(max(instant, t0), t1) - t0) // (t1 - t0) for instant in (low, high)]
    return before[1] - before[0]


def borders_of(record, quantity):
    borders = [at for name in ("before", "first", "last", "after") for at in record[name]]
    borders += [broken[side] for broken in record["breaks"] for side in ("from", "to")]
    return [at for at in borders if at["quantity"] == quantity]


def by_register(record, quantity):
    """The energy of a direction from the border readings, or None where it is not by register."""
    low, high = record["start"], record["end"]
    borders = {order(at): at for at in borders_of(record, quantity)}
    kinds = {(order(broken["from"]), order(broken["to"])): broken["kind"] for broken in record["breaks"]
             if broken["from"]["quantity"] == quantity}
    taken = sorted(borders)
    energy, counts = 0, any(low <= key[0] < high and "interval" not in borders[key] for key in taken)
    for one, two in zip(taken, taken[1:]):
        kind = kinds.get((one, two))
        if kind == "reset" or "interval" in borders[one] or "interval" in borders[two]:
            continue
        counts = counts or one[0] < high and two[0] > low
        difference = exactly(borders[two], borders[two]["scale"]) - exactly(borders[one], borders[one]["scale"])
        if kind == "rollover":
            difference += exactly(borders[two], borders[two]["scale"], borders[two]["rolls_over_at"])
        energy += part((one[0], two[0], difference), low, high)
    return energy if counts else None


def check_readings(readings, record):
    """The readings of a block against its record; returns what could not be recomputed from them."""
    digest = hashlib.sha256()
    for reading in listed(readings):
        check_reading(reading)
        digest.update(jcs(reading).encode() + b"\n")
    want(digest.hexdigest() == record["readings_sha256"], "their SHA-256 is not readings_sha256 of the record")
    want(all(reading["seq"] <= record["through_seq"] for reading in readings), "expected no seq above through_seq")
    borders = record["pending"] + [at for quantity in (*REGISTERS, "power_kw") for at in borders_of(record, quantity)]
    lines = {jcs(reading) for reading in readings}
    plain = ("quantity", "seq", "time", "type", "value")
    for border in borders:
        if border in record["pending"] and border["time"] < record["start"]:
            continue  # Kept aside before the block began, and so none of what it commits to.
        want(jcs({name: border[name] for name in plain}) in lines, "a border reading of the record is not among them")
    untold = []
    for quantity in (*REGISTERS, "power_kw"):
        mine = [at for at in borders if at["quantity"] == quantity]
        scales, taken = {tuple(at["scale"]) for at in mine}, {}
        for reading in readings:
            if reading["quantity"] == quantity:
                want(not taken or order(reading) >= order(last), "expected readings in their order")
                taken.setdefault(reading["time"], reading)
                last = reading
        if taken and (len(scales) != 1 or any("interval" in at for at in mine)):
            untold.append(f"{quantity} (no one scale, or intervals)")
        elif taken:
            check = check_power if quantity == "power_kw" else check_register
            values = [(reading, exactly(reading, *scales)) for reading in taken.values()]
            if not check(record, quantity, values, exactly(dict(reading), *scales, 1)):
                untold.append(f"{quantity} (values that do not count on)")
    return untold


def check_register(record, quantity, taken, unit):
    low, high, most = record["start"], record["end"], max(10**9, abs(unit))
    steps = [(one["time"], two["time"], b - a) for (one, a), (two, b) in zip(taken, taken[1:])]
    if any(not 0 <= d <= max(t1 - t0, 60_000) * 10**9 // 36 + most for t0, t1, d in steps):
        return False
    want(not any(broken["from"]["quantity"] == quantity for broken in record["breaks"]), f"{quantity} has no break")
    want(not any(at["quantity"] == quantity for at in record["pending"]), f"nothing of {quantity} is pending")
    keys = [order(reading) for reading, _ in taken]
    inside = [key for key in keys if low <= key[0] < high]
    for name, found in (("before", [key for key in keys if key[0] < low][-1:]), ("first", inside[:1]),
                        ("last", inside[-1:]), ("after", [key for key in keys if key[0] >= high][:1])):
        stated = {order(at) for at in record[name] if at["quantity"] == quantity}
        want(stated == set(found), f"{name!r} of {quantity} is another of the readings")
    if inside or any(t0 < high and t1 > low for t0, t1, _ in steps):
        energy = sum(part(step, low, high) for step in steps)
        want(record[REGISTERS[quantity]] == str(energy), f"{REGISTERS[quantity]} is {energy} by the readings")
    return True


def check_power(record, quantity, taken, _):
    low, high, reach = record["start"], record["end"], max(3 * record["interval_ms"], 60_000)
    inside = [power for at, power in taken if low <= at["time"] < high]
    extremes = [str(max(inside)), str(min(inside))] if inside else [None, None]
    want([record["max_mw"], record["min_mw"]] == extremes, f"max_mw and min_mw are {extremes} by the readings")
    if record["method"] == "power" and inside:
        sums = [0, 0]
        for (one, power), two in zip(taken, [at["time"] for at, _ in taken[1:]] + [high]):
            held = min(two, one["time"] + reach, high) - max(one["time"], low)
            sums[power < 0] += abs(power) * max(held, 0)
        along, against = (str(total // 3600) for total in sums)
        told = [along, against] if record["category"] in ("CONS", "STOR") else [against, along]
        stated = [record[name] or "0" for name in REGISTERS.values()]  # absent where none went that way
        want(stated == told, f"import and export are {told} µWh by the readings")
    return True


# --- sections and the keys of a proof -------------------------------------------------------------------------------

class Section:
    """Some entries of one epoch under a checkpoint. Its signatures are checked last: they cost most."""

    def __init__(self, value):
        members(value, ("checkpoint", "hashes", "key", "leaves", "meters"))
        with at("checkpoint"):
            self.checkpoint = Checkpoint(value["checkpoint"])
        with at("key"):
            name, self.public = verifier_key(value["key"])
            want(name == self.checkpoint.origin, f"expected the name {self.checkpoint.origin}")
        want(type(value["meters"]) is dict, "expected meters to be an object")
        self.leaves, named = [], set()
        for number, leaf in enumerate(listed(value["leaves"])):
            with at(f"leaves[{number}]"):
                if type(leaf) is dict and "entry" in leaf:
                    members(leaf, ("entry", "index"))
                    made, record = entry(leaf["entry"]), None
                    index = whole(leaf["index"])
                else:
                    members(leaf, ("index", "kind", "record", "salt", "time"))
                    record, index = leaf["record"], whole(leaf["index"])
                    meter = record.get("meter") if type(record) is dict and leaf["kind"] in METER_KINDS else None
                    salt = value["meters"].get(meter) if type(meter) is str else None
                    named |= {meter} - {None} if type(meter) is str else set()
                    made = open_entry(leaf["kind"], record, leaf["salt"], leaf["time"], salt, index)
                want(not self.leaves or self.leaves[-1][0] < index, "expected leaves in increasing order of index")
                want((made["kind"] == "succession") == (index == 0), "leaf 0 is a succession, and no other is")
                self.leaves.append((index, made, record))
        want(self.leaves, "expected at least one leaf")
        want(named == value["meters"].keys(), "expected meters to have exactly those of the opened leaves")
        hashes = [unhex(value) for value in listed(value["hashes"])]
        leaves = [(index, leaf_hash(jcs(made).encode())) for index, made, _ in self.leaves]
        root = section_root(leaves, hashes, self.checkpoint.size)
        want(root == self.checkpoint.root, "leaves and hashes do not lead to the root of the checkpoint")

    def one(self, kind):
        want(len(self.leaves) == 1 and self.leaves[0][1]["kind"] == kind and self.leaves[0][2] is not None,
             f"expected one leaf, a {kind} entry that is opened")
        return self.leaves[0][2]


def chain_keys(rotations, log, key):
    """Follows the keys of a gateway from its first one; returns from which of them on they are pinned, or None."""
    first = (rotations + log)[0]
    keys = [first.public]
    want(sha256(keys[0])[:16].hex() == first.checkpoint.gateway, "the first key is not the first one of this gateway")
    for number, rotation in enumerate(rotations):
        with at(f"rotations[{number}]"):
            record, (index, _, _) = rotation.one("key"), rotation.leaves[0]
            want(index == rotation.checkpoint.size - 1, "expected the last leaf of its tree")
            want(rotation.public == keys[-1], "its key is not the one of the rotation before")
            want(len(rotation.checkpoint.lines) == 2, "expected two signatures")
            keys.append(verifier_key(record["new_key"])[1])
            rotation.checkpoint.verify(0, rotation.checkpoint.origin, rotation.public)
            rotation.checkpoint.verify(1, record["new_origin"], keys[-1])
    epochs = [rotation.checkpoint.origin for rotation in rotations]
    want(len(set(epochs)) == len(epochs), "two rotations are of one epoch")
    newest = 0
    for number, section in enumerate(log):
        with at(f"log[{number}]"):
            want(section.public in keys[newest:], "its key is none of this gateway's keys, or an older one")
            newest = keys.index(section.public, newest)
            want(len(section.checkpoint.lines) == 1, "expected one signature")
            section.checkpoint.verify(0, section.checkpoint.origin, section.public)
            want(section.checkpoint.gateway == first.checkpoint.gateway, "it is of another gateway")
    want(newest == len(keys) - 1, "the newest key is not that of the last section of the log")
    for rotation in rotations:
        want(rotation.checkpoint.gateway == first.checkpoint.gateway, "a rotation is of another gateway")
    if key is None:
        return None
    want(key in keys, "--key is none of its keys: expected " + ", ".join(value.hex() for value in keys))
    return keys[keys.index(key):]


# --- anchors --------------------------------------------------------------------------------------------------------

SELECTOR, EVENT = keccak(b"anchor(bytes32,uint64,bytes32)")[:4], keccak(b"Anchored(address,bytes32,uint64,bytes32)")


def check_earlier(value, newer, public):
    """A checkpoint that another one continues, by the same key."""
    with at("checkpoint"):
        older = Checkpoint(value["checkpoint"])
        want(older.origin == newer.origin, f"expected the origin {newer.origin}")
        want(older.size <= newer.size, f"its size is {older.size}, and that of what continues it {newer.size}")
        want(len(older.lines) == 1, "expected one signature")
    with at("hashes"):
        check_consistency(older, newer, [unhex(step) for step in listed(value["hashes"])])
    with at("checkpoint"):
        older.verify(0, older.origin, public)
    return older


class Anchor:
    """A checkpoint in a transaction, and paths from that and its receipt up to the hash of a block."""

    def __init__(self, value, section):
        members(value, ("checkpoint", "hashes", "header", "index", "receipt", "transaction"))
        self.checkpoint = check_earlier(value, section.checkpoint, section.public)
        self.origin = sha256(self.checkpoint.origin.encode())
        self.index = whole(value["index"])
        with at("header"):
            header = unhex(value["header"], "(?:[0-9a-f]{2})*", "lower-case hex")
            items = [string(item) for item in rlp(header)]
            want(len(items) >= 15, "expected 15 items or more")
            roots = [string(item, 32) for item in items[4:6]]
            self.height, self.time, self.hash = number(items[8]), number(items[11]), keccak(header)
            want(self.time <= I64[1] // 1000, "expected a time whose ms fit into 64 bits")
        data, receipt = (self.value(value, name, root) for name, root in zip(("transaction", "receipt"), roots))
        with at("transaction"):
            self.read_transaction(data)
        with at("receipt"):
            self.read_receipt(receipt)

    def value(self, value, name, root):
        with at(name):
            nodes = [unhex(data, "(?:[0-9a-f]{2})*", "lower-case hex") for data in listed(value[name])]
            return path_value(root, nodes, self.index)

    def read_transaction(self, data):
        want(data[:1] == b"\2", "expected a transaction of EIP-1559 (02)")
        fields = rlp(data[1:])
        want(len(fields) == 12, "expected 12 fields")
        self.chain, *_ = [number(item, width) for item, width in zip(fields[:5], (8, 8, 16, 16, 8))]
        self.to, self.input = string(fields[5], 20), string(fields[7])
        want(fields[6] == b"" and fields[8] == [], "expected the value 0 and no access list")
        digest = keccak(b"\2" + rlp_write(fields[:9]))
        self.account = signer(digest, number(fields[9]), number(fields[10], 32), number(fields[11], 32))
        self.transaction = keccak(data)
        size, root = self.checkpoint.size, self.checkpoint.root
        called = self.input == SELECTOR + self.origin + size.to_bytes(32) + root
        want(called or self.input == b"MSEAL1" + self.origin + size.to_bytes(8) + root,
             f"its data are not those of {self.checkpoint}, neither for a contract nor as call data")
        want(called or self.to == self.account, "call data are sent to the sender itself")
        self.contract = self.to if called else None

    def read_receipt(self, data):
        want(data[:1] == b"\2", "expected a receipt of EIP-1559 (02)")
        fields = rlp(data[1:])
        want(len(fields) == 4 and type(fields[3]) is list, "expected 4 fields, the last a list")
        number(fields[1])
        string(fields[2], 256)
        want(fields[0] == b"\1", "expected the status 1")
        own = []
        for place, log in enumerate(fields[3]):
            with at(f"log {place}"):
                want(type(log) is list and len(log) == 3 and type(log[1]) is list and len(log[1]) <= 4,
                     "expected address, at most 4 topics, data")
                address, topics, data = string(log[0], 20), [string(topic, 32) for topic in log[1]], string(log[2])
                own += [(topics, data)] if address == self.contract else []
        self.log = [EVENT, bytes(12) + self.account, self.origin], self.input[36:]
        want(not self.contract or own == [self.log], f"expected one log of {eip55(self.to)}, with sender and call data")

    def place(self):
        return f"block {self.height} {hexed(self.hash)} of the chain {self.chain}"


def hexed(data):
    return "0x" + data.hex()


class Unanswered(Exception):
    """A node gives no answer that can be understood."""


class Refused(Unanswered):
    """A node answers that it will not tell, by this code."""

    code = None


class Straight(urllib.request.HTTPRedirectHandler):
    """Follows to no other address: nobody has named it."""

    def redirect_request(self, *_):
        return None


class Node:
    """A node that is asked by JSON-RPC."""

    def __init__(self, url):
        # Of an address that is refused nothing is told again: any of it may be a key.
        found = re.fullmatch(r"(https?://(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::(\d{1,5}))?)(?:[/?#][!-~]*)?", url, re.ASCII)
        want(found and int(found[2] or 0) < 1 << 16,
             "expected http://… or https://… with a host, without name, password and blanks")
        self.url, self.name = url, found[1]  # What else there is may bear a key.

    def ask(self, method, *params, kind=dict):
        """The result, of this kind or None."""
        body = json.dumps({"id": 1, "jsonrpc": "2.0", "method": method, "params": params}).encode()
        head = {"Content-Type": "application/json", "User-Agent": "meterseal-verify"}
        data, end = b"", time.monotonic() + PATIENCE
        try:
            try:
                answer = urllib.request.build_opener(Straight).open(
                    urllib.request.Request(self.url, body, head), timeout=PATIENCE)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                while piece := answer.read1(CHUNK):
                    data += piece
                    if len(data) > ANSWER_LIMIT or time.monotonic() > end:
                        raise Unanswered("its answer does not end")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unanswered(f"it does not answer: {ascii(str(error))[1:-1][:200]}") from error
        if answer.status in (408, 429) or answer.status >= 500:
            raise Unanswered(f"it does not answer: HTTP {answer.status}")
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Unanswered(f"its answer is no JSON (HTTP {answer.status})") from error
        if type(value) is dict and value.get("error") is not None:
            error = value["error"]
            code = error.get("code") if type(error) is dict else None
            is_word = type(code) is int and code not in TOO_MANY
            refused = (Refused if is_word else Unanswered)(f"it refuses {method}: {ascii(error)[:200]}")
            refused.code = code
            raise refused
        result = value.get("result") if type(value) is dict and "result" in value else self
        if result is not None and type(result) is not kind:
            raise Unanswered(f"its answer to {method} is none")
        return result

    def number(self, value):
        if type(value) is not str or not re.fullmatch("0x[0-9a-fA-F]{1,16}", value):
            raise Unanswered("it does not write numbers as a node does")
        return int(value, 16)

    def of(self, anchor):
        """What it says of an anchor's block, `final`, `early`, `other`, `odd` or `unknown`, and in words."""
        has = False
        try:
            chain = self.number(self.ask("eth_chainId", kind=str))
            if chain != anchor.chain:
                return "unknown", f"it is of the chain {chain}"
            # What is final is asked first: the block found after that was there when it was said.
            try:
                final = self.final()
            except Unanswered as error:
                final = error
            block = self.ask("eth_getBlockByNumber", hex(anchor.height), False)
            if block is None:
                return "unknown", "it does not know that height"
            found = str(block.get("hash")).lower()
            if self.number(block.get("number")) != anchor.height or not re.fullmatch("0x[0-9a-f]{64}", found):
                return "unknown", "it gives another height, or no hash"
            if found != hexed(anchor.hash):
                return "other", f"it has {found} at that height"
            has = True
            if isinstance(final, Unanswered):
                raise final
            if anchor.height > final:
                return "early", f"it has this block, and calls final only what is up to {max(final, 0)}"
            odd = self.contradiction(anchor)
            return ("odd", f"it has this block, and {odd}") if odd else ("final", "it has this block, which is final")
        except Unanswered as error:
            words = str(error)
        except (AttributeError, TypeError):
            words = "its answer is not written as a node does"
        # That it has the block was said, and stands: a node that has another one does not win by what failed after it.
        return ("early", f"it has this block, but {words}") if has else ("unknown", words)

    def final(self):
        try:
            block = self.ask("eth_getBlockByNumber", "finalized", False)
        except Refused as error:
            if error.code not in NO_TAG:
                raise
            block = None
        if block is not None:
            return self.number(block.get("number"))
        newest = self.ask("eth_getBlockByNumber", "latest", False)
        return self.number(newest and newest.get("number")) - 256

    def contradiction(self, anchor):
        """How its own word of transaction and receipt differs from what the paths show."""
        same = {"blockHash": hexed(anchor.hash), "transactionIndex": hex(anchor.index), "from": hexed(anchor.account),
                "to": hexed(anchor.to)}
        log = [*map(hexed, anchor.log[0])], hexed(anchor.log[1])
        for what, method, more in (("transaction", "eth_getTransactionByHash", {"input": hexed(anchor.input)}),
                                   ("receipt", "eth_getTransactionReceipt", {"status": "0x1"})):
            try:
                found = self.ask(method, hexed(anchor.transaction))
            except Refused:
                continue
            if found is None:
                continue
            for name, value in {**same, **more}.items():
                if str(found.get(name)).lower() != value:
                    return f"its {what} has another {name}"
            if what == "receipt" and anchor.contract:
                own = [told for told in found.get("logs") if told.get("address").lower() == same["to"]]
                if [([*map(str.lower, told.get("topics"))], told.get("data").lower()) for told in own] != [log]:
                    return "its receipt has another log"
        return None


def check_block_hash(anchor, options, said):
    """Whether the block is the chain's, by those who vouch for it."""
    kinds, trusted = set(), options.blocks.get((anchor.chain, anchor.height), set())
    for found in trusted:
        want(found == anchor.hash, f"--trust has {hexed(found)} there, expected {anchor.place()}")
    if trusted:
        said.lines.append("    vouched for: --trust has this block.")
    for asked in options.nodes:
        kind, words = asked.of(anchor)
        kinds.add(kind)
        said.lines.append(f"    {asked.name}: {words}.")
    want("other" not in kinds or kinds & {"final", "early", "odd"},
         f"expected {anchor.place()}: a node has another one there")
    if "odd" in kinds or "other" in kinds:
        said.lacks(f"nodes contradict one another, or themselves, about {anchor.place()}")
    elif "final" not in kinds and not trusted:
        said.lacks(f"nobody vouched for {anchor.place()}")


# --- bundles --------------------------------------------------------------------------------------------------------

def regular(path, *name):
    """Opens a regular file, whatever else bears its name."""
    with at(*name):
        want(not os.path.islink(path), "expected a regular file, found a link")
        file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise Fault("expected a regular file")
    return file


def read_whole(path, name):
    with regular(path, name) as file, at(name):
        data = file.read(JSON_LIMIT + 1)
        want(len(data) <= JSON_LIMIT, "it is larger than 256 MiB", 2)
    return data


def part_name(number):
    return f"data-{number:05d}.jsonl.zst"


class Bundle:
    """Where the files of a bundle lie: name -> (path, offset, size)."""

    def __init__(self, path):
        path = os.path.abspath(path)
        self.name, self.files = os.path.basename(path), {}
        self.id = self.name.removesuffix(".tar")
        if os.path.isdir(path):
            with at(self.name):
                for name in sorted(os.listdir(path)):
                    with at(name):
                        want(name == "manifest.json" or re.fullmatch(r"data-[0-9]{5,9}\.jsonl\.zst", name),
                             "this file is none of a bundle's")
                        found = os.lstat(os.path.join(path, name))
                        want(stat.S_ISREG(found.st_mode), "expected a regular file")
                        self.files[name] = os.path.join(path, name), 0, found.st_size
        else:
            with regular(path, self.name) as file, at(self.name):
                self.walk(file, path)
        with at(self.name):
            want(re.fullmatch(ULID, self.id), "expected a bundle to bear its id as its name")
            want("manifest.json" in self.files, "manifest.json is not there")

    def walk(self, file, path):
        """The files of an archive: each header is written again from its name and size, and compared."""
        length, place = os.fstat(file.fileno()).st_size, 0
        while True:
            file.seek(place)
            header = file.read(512)
            if header == bytes(512):
                break
            number = len(self.files)
            name = part_name(number - 1) if number else "manifest.json"
            with at(name):
                digits = header[124:135]
                want(re.fullmatch(rb"[0-7]{11}", digits), f"expected a header of ustar at byte {place}")
                size = int(digits, 8)
                want(header == ustar(f"{self.id}/{name}", size),
                     f"the header at byte {place} is not that of its name and size")
                filled = place + 512 + (size + 511) // 512 * 512
                want(filled <= length, "the archive ends within it")
                file.seek(place + 512 + size)
                padding = file.read(filled - place - 512 - size)
                want(not any(padding), "expected NUL after the content")
                self.files[name], place = (path, place + 512, size), filled
        want(file.read(512) == bytes(512) and length == place + 1024, "expected two blocks of NUL, and then the end")

    def read(self, name, limit):
        path, offset, size = self.files[name]
        want(size <= limit, f"it is larger than {limit} bytes", 2)
        return b"".join(self.chunks(name))

    def chunks(self, name):
        path, offset, size = self.files[name]
        with regular(path) as file:
            file.seek(offset)
            while size > 0:
                data = file.read(min(size, CHUNK))
                want(data, "it became shorter while it was read", 2)
                size -= len(data)
                yield data


def ustar(name, size):
    fields = (name.encode().ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", b"%011o\0" % size,
              b"00000000000\0", b" " * 8, b"0", bytes(100), b"ustar\x0000", bytes(64), b"0000000\0", b"0000000\0")
    header = b"".join(fields).ljust(512, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def check_frames(bundle, name):
    """Frame after frame to the very end: no other format, no dictionary, no skippable frame, no large window."""
    path, place, size = bundle.files[name]
    end = place + size
    with regular(path) as file:
        def take(count):
            nonlocal place
            place += count
            want(place <= end, "a frame is cut off")
            return file.read(count)

        file.seek(place)
        want(size, "expected a zstd frame")
        while place < end:
            want(take(4) == b"\x28\xb5\x2f\xfd", "expected a zstd frame and nothing after it")
            what = take(1)[0]
            single, checksum, length = what >> 5 & 1, what >> 2 & 1, (what >> 5 & 1, 2, 4, 8)[what >> 6]
            want(not what & 3, "the frame wants a dictionary")
            window = 0 if single else take(1)[0]
            base = 1 << 10 + (window >> 3)
            content = int.from_bytes(take(length), "little") + (256 if length == 2 else 0)
            want((content if single else base + base // 8 * (window & 7)) <= WINDOW, "a window is larger than 8 MiB")
            last = False
            while not last:
                block = int.from_bytes(take(3), "little")
                last, kind, length = block & 1, block >> 1 & 3, block >> 3
                want(kind != 3, "a block is of no kind of zstd")
                place += 1 if kind == 1 else length
                want(place <= end, "a frame is cut off")
                file.seek(place)
            take(4 * checksum)


def lines_of(bundle, name):
    """The lines of a part as zstd unpacks them, each with its line feed; never more than one in memory."""
    try:
        program = subprocess.Popen(["zstd", "-dcq", "--memory=8MB"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
    except OSError as error:
        raise Fault("the program zstd is needed and cannot be run", 2) from error

    def feed():
        try:
            with program.stdin:
                for data in bundle.chunks(name):
                    program.stdin.write(data)
        except (OSError, Fault):
            pass  # zstd ends early or is given too little, and what it gives is short of what the manifest says

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        while line := program.stdout.readline(ROW_LIMIT + 2):
            want(line.endswith(b"\n"), "expected a line feed after each row" if len(line) <= ROW_LIMIT else
                 "a row is larger than 16 MiB", 1 if len(line) <= ROW_LIMIT else 2)
            yield line
        want(program.wait() == 0, "zstd does not unpack it")
    finally:
        program.kill()
        program.wait()
        feeder.join()
        program.stdout.close()


# --- manifests and rows ---------------------------------------------------------------------------------------------

def check_format(value, name):
    found = str(value.get("format")) if type(value) is dict else ""
    want(found == name + "1", f"expected the format {name}1", 2 if found.startswith(name) else 1)


def check_manifest(manifest):
    """What a manifest says of itself, before any row is looked at."""
    check_format(manifest, "meterseal-dataset-")
    members(manifest, ("absent", "bytes", "connection", "fields", "format", "from", "gateway", "id", "kind", "parts",
                       "program", "query", "repeated", "root", "rows", "site", "to", "windows"))
    matching(ULID, manifest["id"], "a ULID")
    members(manifest["absent"], ("empty_strings", "empty_tags"))
    for count in (*manifest["absent"].values(), manifest["bytes"], manifest["repeated"]):
        whole(count)
    connection = members(manifest["connection"], ("kind", "name", "server_version", "version"))
    want(connection["kind"] == "influxdb" and connection["version"] in (1, 2, 3), "expected influxdb 1, 2 or 3")
    for value in (connection["name"], connection["server_version"], manifest["program"]):
        text(value)
    matching(r"[0-9a-f]{32}", manifest["gateway"], "a gateway id")
    matching(SITE, manifest["site"], "a site id")
    unhex(manifest["root"])
    with at("fields"):
        want(type(manifest["fields"]) is dict, "expected an object")
        for kind in manifest["fields"].values():
            want(kind in ("f64", "i64", "u64", "bool", "str"), f"the type {kind!r} is not known")
    with at("query"):
        query, points = manifest["query"], manifest["kind"] == "points"
        want(points or manifest["kind"] == "result", "expected the kind points or result")
        members(query, ("fields", "measurement", "name", "tags") if points else ("name", "text"))
        for name in query.keys() - {"fields", "tags"}:
            text(query[name])
        if points:
            fields = [text(field).encode() for field in listed(query["fields"])]
            want(all(a < b for a, b in zip(fields, fields[1:])), "expected fields in order, each once")
            asked = manifest["fields"].keys() <= set(query["fields"])
            want(asked or not fields, "a field of the rows was not asked for")
            want(type(query["tags"]) is dict, "expected tags to be an object")
            for value in query["tags"].values():
                text(value)
        else:
            want(not manifest["fields"], "expected no fields of a result")
    sums = [0, 0]
    for number, part in enumerate(listed(manifest["parts"])):
        with at(f"parts[{number}]"):
            members(part, ("bytes", "name", "raw_bytes", "raw_sha256", "rows", "sha256"))
            want(part["name"] == part_name(number), f"expected the name {part_name(number)}")
            rows, last = whole(part["rows"], 1), number == len(manifest["parts"]) - 1
            want(rows == PART_ROWS or last and rows < PART_ROWS, "expected 1000000 rows, in the last part at least one")
            sums = [sums[0] + rows, sums[1] + whole(part["raw_bytes"])]
            for value in (part["raw_sha256"], part["sha256"]):
                unhex(value)
            whole(part["bytes"])
    want([whole(manifest["rows"], 1), manifest["bytes"]] == sums, "rows and bytes are not those of the parts")
    low, sums = decimal(manifest["from"]), 0
    want(low < decimal(manifest["to"]), "expected from < to")
    for number, window in enumerate(listed(manifest["windows"])):
        with at(f"windows[{number}]"):
            members(window, ("from", "read", "rows", "to"))
            want(decimal(window["from"]) == low < decimal(window["to"]), "expected slices without a gap")
            whole(window["read"])
            low, sums = int(window["to"]), sums + whole(window["rows"])
    want(low == int(manifest["to"]) and sums == manifest["rows"], "windows do not make the period and its rows")
    want(points or len(manifest["windows"]) == 1, "expected one window of a result")


POINT = {"field", "measurement", "tags", "time", "type", "value"}


def check_row(row, manifest):
    """A row against the manifest; returns its place in the order, for points."""
    if manifest["kind"] == "result":
        members(row, ("columns", "row"))
        want(type(row["columns"]) is dict, "expected columns to be an object")
        for column in row["columns"].values():
            members(column, ("type", "value"))
            check_value(column["type"], column["value"])
        return decimal(row["row"])
    if type(row) is not dict or row.keys() != POINT:
        members(row, POINT)
    field, measurement, tags, query = row["field"], row["measurement"], row["tags"], manifest["query"]
    check_value(row["type"], row["value"])
    want(type(field) is str and row["type"] == manifest["fields"].get(field), "no field of this type in the manifest")
    want(measurement == query["measurement"], "the measurement was not asked for")
    want(type(tags) is dict, "expected tags to be an object")
    want(all(type(value) is str and value for value in tags.values()), "expected tags with values")
    want(query["tags"].items() <= tags.items(), "its tags were not asked for")
    time = decimal(row["time"])
    want(int(manifest["from"]) <= time < int(manifest["to"]), "the time is outside the period")
    pairs = sorted((name.encode(), value.encode()) for name, value in tags.items())
    return time, measurement.encode(), pairs, field.encode()


def check_rows(bundle, manifest):
    tree, before, fields = Tree(), None, set()
    windows = [(int(window["to"]), window["rows"]) for window in manifest["windows"]]
    current = inside = 0
    points = manifest["kind"] == "points"
    for part in manifest["parts"]:
        with at(bundle.name, part["name"]), contextlib.closing(lines_of(bundle, part["name"])) as lines:
            digest, raw, number = hashlib.sha256(), 0, 0
            for number, line in enumerate(lines, 1):
                raw += len(line)
                want(raw <= part["raw_bytes"] and number <= part["rows"], "there is more than the manifest says")
                digest.update(line)
                with at(f"row {tree.size}"):
                    row = parse(line[:-1])
                    want(b"\xef\xbf\xbd" not in line, "expected no U+FFFD")
                    key = check_row(row, manifest)
                    if points:
                        want(before is None or before < key, "rows are not in order, or one is there twice")
                        fields.add(row["field"])
                        while key[0] >= windows[current][0]:
                            want(inside == windows[current][1], f"windows[{current}] has {inside} rows")
                            current, inside = current + 1, 0
                    else:
                        want(key == tree.size, f"expected row {tree.size}")
                    before, inside = key, inside + 1
                tree.add(leaf_hash(line[:-1]))
            want(number == part["rows"] and raw == part["raw_bytes"],
                 f"there are {number} rows of {raw} bytes, expected {part['rows']} of {part['raw_bytes']}")
            want(digest.hexdigest() == part["raw_sha256"],
                 f"the rows have another SHA-256 than raw_sha256 of {bundle.name}: manifest.json")
    with at(bundle.name, "manifest.json"):
        for window in windows[current:] if points else ():
            want(inside == window[1], f"windows: expected {window[1]} rows up to {window[0]}, found {inside}")
            inside = 0
        want(fields == manifest["fields"].keys(), "fields: expected those that occur in the rows")
        want(tree.root().hex() == manifest["root"], f"root: the rows have the root {tree.root().hex()}")


# --- what is verified, and what is said of it -----------------------------------------------------------------------

WHOLE_LOG = "nothing: two sizes are compared only with the whole log (a log folder)."


class Said:
    """The chain for a person: each link, what it shows, and what it does not."""

    def __init__(self):
        self.lines, self.missing, self.anchored = [], [], False

    def link(self, what, shows, *not_shown):
        self.lines.append(what)
        self.lines += [f"    shows: {shows}", *(f"    does not show: {text}" for text in not_shown)]

    def lacks(self, what):
        if what not in self.missing:
            self.missing.append(what)


def number_of(things, what):
    return f"{len(things)} {what}" + ("" if len(things) == 1 else "s")


def when(ms):
    try:
        at = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=ms)
        return at.isoformat(timespec="milliseconds") + "Z"
    except OverflowError:
        return f"{ms} ms"


def check_pins(anchor, options):
    for name, given in (("account", options.accounts), ("contract", options.contracts)):
        found, words = getattr(anchor, name), " or ".join(map(eip55, given))
        want(not given or found in given, f"its {name} is {eip55(found) if found else 'none'}, expected {words}")
    want(options.chain in (None, anchor.chain), f"its chain is {anchor.chain}, expected {options.chain}")


def compare_trusted(checkpoint, public, trusted, said, but=None):
    """The checkpoints that somebody else kept, against this one; returns those that are smaller or larger. Those of the
    size `but` were compared."""
    others = []
    for other in trusted:
        own = [line for line, (name, short, _) in enumerate(other.lines)
               if name == other.origin and (public is None or short == key_id(name, public))]
        if other.origin != checkpoint.origin or not own or other.size == but:
            continue
        if public is not None:
            with at(other.file):
                other.verify(own[0], other.origin, public)
        if other.size == checkpoint.size:
            want(other.root == checkpoint.root, f"{checkpoint} has another root than the one in {other.file}")
            said.link(f"Checkpoint {checkpoint} is the one in {other.file}.", "whoever kept that saw the same log.")
        else:
            others.append(other)
    return others


def check_signers(rotations, log, options, said):
    key = options.key and options.key[1]
    pinned = chain_keys(rotations, log, key)
    for section in rotations + log:
        others = compare_trusted(section.checkpoint, section.public, options.trust, said)
        if others:
            said.link(f"{others[0].file} has {section.checkpoint.origin} at another size.", WHOLE_LOG)
        if section in log:
            known = pinned is not None and section.public in pinned
            said.link(f"Checkpoint {section.checkpoint}, signed by {section.public.hex()}: "
                      + ("the key you gave." if known and section.public == key else "pinned by the key you gave."
                         if known else "a key that came with the proof."),
                      "the holder of this key committed to these entries, in this order.",
                      "that there is no second log under this key; what was done before it was signed.")
            if not known:
                said.lacks("no key was given" if key is None else "a section is older than the key that was given")
        if section.checkpoint.site == "demo":
            said.lacks("the data are simulated")
    if rotations:
        said.link(f"{number_of(rotations, 'key rotation')}, signed by the old and the new key.",
                  "the newer keys are those of the same gateway.")


class Proof:
    def __init__(self, path):
        self.path, self.name = path, os.path.basename(path)
        data = read_whole(path, self.name)
        with at(self.name):
            self.value = value = parse(data)
            check_format(value, "meterseal-proof-")
            self.claim = claim = value.get("claim")
            want(type(claim) is dict and claim.get("kind") in CLAIMS, "the claim is of no known kind")
            own, beside, optional = CLAIMS[claim["kind"]]
            members(claim, own)
            members(value, ("anchor", "claim", "consistency", "format", "log", "rotations", *beside,
                            *(name for name in optional if name in value)))
            if "meter" in claim:
                matching(METER, claim["meter"], "a meter id")
            for name in {"start", "from", "to"} & claim.keys():
                whole(claim[name], -WHOLE)
            if "id" in claim or "dataset" in claim:
                matching(ULID, claim.get("id", claim.get("dataset")), "a ULID")
            self.rotations, self.log = self.sections("rotations"), self.sections("log")
            want(len(self.log) == 1 or claim["kind"] == "period" and self.log, "expected one section in log")
            for name in ("anchor", "consistency"):
                want(value[name] is None or type(value[name]) is list and len(value[name]) == len(self.log)
                     and any(value[name]), f"expected {name} to be null, or to have each section's, and one at least")

    def sections(self, name):
        made = []
        for number, section in enumerate(listed(self.value[name])):
            with at(f"{name}[{number}]"):
                made.append(Section(section))
        return made

    def signers(self, options, said):
        with at(self.name):
            check_signers(self.rotations, self.log, options, said)
            anchors = [self.anchor(number, options, said) for number in range(len(self.log))]
        if any(anchors) and not options.accounts:
            said.lacks("no account was given")
        known = [anchor is not None and index < anchor.checkpoint.size for section, anchor in zip(self.log, anchors)
                 for index, made, record in section.leaves if record is not None and self.is_claimed(made, record)]
        said.anchored = bool(known) and all(known)

    def anchor(self, number, options, said):
        """What stands on the chain for a section, and what stood there before."""
        value, before = ((self.value[name] or {number: None})[number] for name in ("anchor", "consistency"))
        section, anchor = self.log[number], None
        with at(f"anchor[{number}]"):
            if value is not None:
                anchor = Anchor(value, section)
                compare_trusted(anchor.checkpoint, section.public, options.trust, said, section.checkpoint.size)
                check_pins(anchor, options)
                way = f"to the contract {eip55(anchor.contract)}" if anchor.contract else "as call data"
                said.link(f"{anchor.checkpoint} is in the transaction {hexed(anchor.transaction)} by "
                          f"{eip55(anchor.account)} {way}, in {anchor.place()}.",
                          f"these entries existed at {when(anchor.time * 1000)}, if this block "
                          "is the chain's.")
                check_block_hash(anchor, options, said)
        with at(f"consistency[{number}]"):
            if before is not None:
                want(anchor, "expected null where nothing is anchored")
                older = check_earlier(members(before, ("checkpoint", "hashes")), anchor.checkpoint, section.public)
                want(older.size < anchor.checkpoint.size, "expected a smaller size than that of the anchored one")
                compare_trusted(older, section.public, options.trust, said)
                said.link(f"It continues {older}, anchored before.", "nothing of that was changed or left out.")
        return anchor

    def is_claimed(self, made, record):
        claim = self.claim
        return claim["kind"] != "period" or (made["kind"] in ("block", "silence") and record["start"] < claim["to"]
                                             and record["end"] > claim["from"])

    def manifest(self, manifest, name, digest):
        """The manifest that the log has committed to."""
        record, checkpoint = self.log[0].one("dataset"), self.log[0].checkpoint
        want(record["manifest_sha256"] == digest,
             f"{name} has the SHA-256 {digest}, and the log has {record['manifest_sha256']}")
        want(record["dataset"] == manifest["id"] == self.claim.get("id", self.claim.get("dataset")),
             "claim, record and manifest differ in the id")
        want((manifest["site"], manifest["gateway"]) == (checkpoint.site, checkpoint.gateway),
             f"{name}: its site and gateway are not those of the log's origin")


CLAIMS = {"dataset": (("id", "kind"), (), ()), "row": (("dataset", "kind", "row"), ("manifest", "path", "row"), ()),
          "block": (("kind", "meter", "start"), (), ("readings",)), "period": (("from", "kind", "meter", "to"), (), ())}


def verify_dataset(paths, proof, options, said):
    for path in paths:
        bundle = Bundle(path)
        with at(bundle.name, "manifest.json"):
            data = bundle.read("manifest.json", JSON_LIMIT)
            digest = hashlib.sha256(data).hexdigest()
        if proof:
            with at(proof.name):
                want(proof.claim["kind"] == "dataset", "expected a proof of the dataset beside it")
                want(proof.log[0].one("dataset")["manifest_sha256"] == digest,
                     f"{bundle.name}: manifest.json: expected the SHA-256 that the log has, found {digest}")
        with at(bundle.name, "manifest.json"):
            manifest = parse(data)
            check_manifest(manifest)
            want(manifest["id"] == bundle.id, f"its id is {manifest['id']}, and the bundle bears another name")
            names = ["manifest.json", *(part["name"] for part in manifest["parts"])]
            want(sorted(names) == sorted(bundle.files), "expected the parts "
                 + ", ".join(sorted(set(names) ^ set(bundle.files))[:3]) + " to be in both manifest and bundle")
        if proof:
            with at(proof.name):
                proof.manifest(manifest, f"{bundle.name}: manifest.json", digest)
        for part in manifest["parts"]:
            with at(bundle.name, part["name"]):
                sha = hashlib.sha256()
                for data in bundle.chunks(part["name"]):
                    sha.update(data)
                want(bundle.files[part["name"]][2] == part["bytes"] and sha.hexdigest() == part["sha256"],
                     f"expected {part['bytes']} bytes with the SHA-256 {part['sha256']} that manifest.json has")
                check_frames(bundle, part["name"])
        if proof and path == paths[0]:
            proof.signers(options, said)
        check_rows(bundle, manifest)
        order = ", in order, none twice" if manifest["kind"] == "points" else ", in the order in which they were given"
        said.link(f"Bundle {bundle.name}: {manifest['rows']} rows, root {manifest['root']}.",
                  f"every row was read again: they are those of the manifest ({digest}), for the query "
                  f"{manifest['query']['name']!r} in [{manifest['from']}, {manifest['to']}) ns{order}.",
                  "that the database held what the meters measured; read times, server and counts of what was left out "
                  "are the gateway's word.")
    if proof:
        index, made, _ = proof.log[0].leaves[0]
        said.link(f"{proof.name}: the log has this manifest at index {index}, written {when(made['time'])} by the "
                  "gateway's clock.",
                  "this dataset is the one that was committed to.", "when, but for the gateway's own word.")
    else:
        said.lacks("there is no proof beside the bundle")


def verify_row(proof, options, said):
    manifest, row, claim = proof.value["manifest"], proof.value["row"], proof.claim
    with at(proof.name):
        with at("manifest"):
            check_manifest(manifest)
        proof.manifest(manifest, "manifest", hashlib.sha256(jcs(manifest).encode()).hexdigest())
        with at("row"):
            index, data = decimal(claim["row"], (0, WHOLE)), jcs(row).encode()
            want("\ufffd" not in data.decode(), "expected no U+FFFD")
            key = check_row(row, manifest)
            want(manifest["kind"] == "points" or key == index, f"expected row {index}")
        with at("path"):
            path = [unhex(value) for value in listed(proof.value["path"])]
            want(path_root(leaf_hash(data), index, manifest["rows"], path).hex() == manifest["root"],
                 "row and path do not lead to the root of the manifest")
    proof.signers(options, said)
    said.link(f"Row {index} of {manifest['rows']} of the dataset {claim['dataset']}: {data.decode()}",
              "this row is in that dataset, at this place.",
              "the other rows; that the database held what was measured.")


def verify_block(proof, options, said):
    claim, section, newest = proof.claim, proof.log[0], None
    with at(proof.name, "log[0]"):
        for number, (_, made, record) in enumerate(section.leaves):
            with at(f"leaves[{number}]"):
                want(record is not None and made["kind"] in ("block", "silence"), "expected a block that is opened")
                same = record["meter"] == claim["meter"] and record["start"] == claim["start"]
                want(same, "it is another block than the claim's")
                want(newest is None or newest["revision"] < record["revision"], "expected increasing revisions")
                newest = record
    untold = None
    if "readings" in proof.value:
        with at(proof.name, "readings"):
            want(newest["method"] != "sum", "a block made of others has no readings")
            untold = check_readings(proof.value["readings"], newest)
    proof.signers(options, said)
    said_blocks([record for _, _, record in section.leaves], said)
    said.link(f"Meter {claim['meter']}, block {when(claim['start'])}: {number_of(section.leaves, 'revision')} opened.",
              "they are in the log; energy by register follows from the border readings.",
              "that there is no other revision (a proof of a period does); the meter, its wiring and ratios.")
    if untold is not None:
        said.link(f"{len(proof.value['readings'])} readings.", "they are the ones that the newest revision stands on"
                  + (", and give its energy and power." if not untold else "."),
                  *(f"energy from {quantity}" for quantity in untold))


def said_blocks(records, said):
    for record in records:
        words = [f"{name[:6]} {record[name]} µWh" for name in REGISTERS.values() if record[name] is not None]
        words = ", ".join(words) or "no energy"
        said.lines.append(f"  {when(record['start'])} to {when(record['end'])} revision {record['revision']}: {words} "
                          f"({record['method']}; {' '.join(record['flags']) or 'no flags'})")
        if "simulated" in record["flags"]:
            said.lacks("the data are simulated")


def verify_period(proof, options, said):
    claim, blocks = proof.claim, {}
    with at(proof.name):
        want(claim["from"] < claim["to"], "expected from < to")
        before = None
        for number, section in enumerate(proof.log):
            with at(f"log[{number}]"):
                check_chain(section, claim["meter"], blocks)
                succession, origin = section.leaves[0][2], section.checkpoint.origin
                old = succession["old_origin"]
                if before is not None and old == before.checkpoint.origin:
                    if succession["last_local"] is not None:
                        check_end(before.checkpoint, Checkpoint(succession["last_local"]))
                elif old is not None:
                    said.link(f"Epoch {origin} follows {old} ({succession['reason']}), which is not in this proof.",
                              "nothing of that epoch.", f"that {claim['meter']} has no entries there.")
                if succession["reason"] in ("restore", "rollback", "clone"):
                    said.link(f"Epoch {origin} was opened by a {succession['reason']}.", "the gateway said so.",
                              "what was lost of the epoch before it.")
            before = section
    with at(proof.name, "log"):
        epochs = {section.checkpoint.origin for section in proof.log}
        want(len(epochs) == len(proof.log), "two sections are of one epoch")
    proof.signers(options, said)
    inside = [blocks[start] for start in sorted(blocks) if claim["from"] <= start < claim["to"]]
    said_blocks(inside, said)
    reached = claim["from"]
    for start, end in sorted([(record["start"], record["end"]) for record in blocks.values()] + [(claim["to"],) * 2]):
        if min(start, claim["to"]) > reached:
            said.lines.append(f"  {when(reached)} to {when(min(start, claim['to']))}: no block")
        reached = max(reached, end)
    twice = counted_twice(blocks.values(), claim)
    if twice:
        said.lacks("1 block overlaps others: its energy is counted twice in the sum" if len(twice) == 1 else
                   f"{len(twice)} blocks overlap others: their energy is counted twice in the sum")
    said.link(f"Meter {claim['meter']}, {when(claim['from'])} to {when(claim['to'])}: "
              f"{number_of(inside, 'block')} in {number_of(proof.log, 'epoch')}.",
              "whoever made this proof left out no entry that the log links to this meter, nor any after them.",
              "that the gateway linked each one as it wrote; the meter, its wiring and ratios; what was never written.")


def counted_twice(records, claim):
    """The blocks in the period that bear energy and begin before one with energy that began earlier has ended."""
    bearing = [(record["start"], record["end"]) for record in records
               if record["start"] >= claim["from"] and record["end"] <= claim["to"]
               and (record["import_uwh"] is not None or record["export_uwh"] is not None)]
    twice, reached = [], claim["from"]
    for start, end in sorted(bearing):
        if start < reached:
            twice.append(start)
        reached = max(reached, end)
    return twice


def check_end(shown, last):
    """An epoch is shown up to the last checkpoint that its successor knew."""
    want(last.origin == shown.origin, f"last_local is {last}, expected {shown.origin}")
    want(shown.size >= last.size, f"last_local is {last}, and the proof shows it at {shown.size}: its end is left out")
    want(shown.size > last.size or shown.root == last.root, f"last_local has another root than {shown}")


def check_chain(section, meter, blocks):
    """All entries of the meter are opened, from the first to the last of the tree, and linked by prev."""
    index, _, record = section.leaves[0]
    want(index == 0 and record is not None, "expected leaf 0, opened")
    opened = [leaf for leaf in section.leaves[1:] if leaf[2] is not None]
    plain = [leaf for leaf in section.leaves[1:] if leaf[2] is None]
    want(opened, "expected an entry of the meter")
    previous, revisions = None, {}
    for index, made, record in opened:
        with at(f"leaf {index}"):
            want(made["kind"] in METER_KINDS and record["meter"] == meter, f"expected an entry of {meter}")
            want(record["prev"] == previous, f"prev is {record['prev']}, and the entry before it is {previous}")
            if made["kind"] != "commissioning":
                want(revisions.get(record["start"], -1) < record["revision"], "expected increasing revisions")
                revisions[record["start"]], blocks[record["start"]] = record["revision"], record
        previous, subject = index, made["subject"]
    rest = range(previous + 1, section.checkpoint.size)
    want(len(plain) == len(rest) and all(leaf[0] == index for leaf, index in zip(plain, rest)),
         f"expected each leaf from {previous + 1} to the last given plain, and no other")
    for index, made, _ in plain:
        want(made["subject"] != subject, f"leaf {index} is of the same meter, and not opened")


def check_lone(checkpoint, options, said, name):
    """A checkpoint that came without a key; returns the public key if one was given."""
    key = options.key and options.key[1]
    with at(name, "checkpoint"):
        if key is not None:
            lines = [line for line, (by, short, _) in enumerate(checkpoint.lines) if short == key_id(by, key)]
            want(lines and checkpoint.lines[0][0] == checkpoint.origin, "it is not signed by the key that was given")
            checkpoint.verify(lines[0], checkpoint.lines[lines[0]][0], key)
        others = compare_trusted(checkpoint, key, options.trust, said)
    said.link(f"Checkpoint {checkpoint}, "
              + ("signed by the key you gave." if key else "its signature unchecked: no key was given."),
              "the holder of this key committed to these entries." if key else "nothing by itself.",
              "that there is no second log under this key.")
    if len(checkpoint.lines) > 1:
        said.link("It has a second signature.", "nothing: its key is not in what was given.")
    if not key:
        said.lacks("no key was given")
    if checkpoint.site == "demo":
        said.lacks("the data are simulated")
    return others


def verify_tlog_proof(path, options, said):
    name = os.path.basename(path)
    data = read_whole(path, name)
    with at(name):
        head, gap, note = utf8(data).partition("\n\n")
        lines = head.split("\n")
        want(gap and len(lines) >= 3 and lines[0] == "c2sp.org/tlog-proof@v1",
             "expected c2sp.org/tlog-proof@v1, extra and index")
        with at("extra"):
            want(lines[1].startswith("extra "), "expected an extra line")
            extra = members(parse(unbase64(lines[1][6:])), ("kind", "meter_salt", "record", "salt", "time"))
            index = int(matching(r"index (0|[1-9][0-9]{0,15})", lines[2], "index <n>")[6:])
            want((extra["meter_salt"] is None) == (extra["kind"] not in METER_KINDS),
                 "expected a meter salt for entries of a meter alone")
            made = open_entry(extra["kind"], extra["record"], extra["salt"], extra["time"], extra["meter_salt"], index)
            want((made["kind"] == "succession") == (index == 0), "leaf 0 is a succession, and no other is")
        with at("checkpoint"):
            checkpoint = Checkpoint(note)
            check_last(checkpoint, made["kind"], index)
        path = [unbase64(line, 32) for line in lines[3:]]
        root = path_root(leaf_hash(jcs(made).encode()), index, checkpoint.size, path)
        want(root == checkpoint.root, "entry and path do not lead to the root of the checkpoint")
    if check_lone(checkpoint, options, said, name):
        said.link("The checkpoints you gave are of another size.", WHOLE_LOG)
    said.link(f"Entry {index} of {checkpoint}: {extra['kind']}, {jcs(extra['record'])}",
              "it is in this log, at this place.",
              "what stands behind the record: the meter, its wiring, the host before it signed.")
    if made["kind"] in ("block", "silence"):
        said_blocks([extra["record"]], said)


def check_last(checkpoint, kind, index):
    ended = kind == "key"
    want(not ended or index == checkpoint.size - 1, "a key entry is the last of its epoch")
    want(len(checkpoint.lines) == 2 if ended else len(checkpoint.lines) == 1 or index < checkpoint.size - 1,
         "expected two signatures where a key entry is the last, else one")


def tile_name(level, number, width=256):
    digits = str(number).zfill((len(str(number)) + 2) // 3 * 3)
    groups = [digits[i:i + 3] for i in range(0, len(digits), 3)]
    groups[:-1] = ["x" + group for group in groups[:-1]]
    return f"tile/{level}/{'/'.join(groups)}" + (f".p/{width}" if width < 256 else "")


class Tiles:
    """A log folder, read once: entries make leaves, these make tiles, and tiles the ones above; each is compared."""

    def __init__(self, path, checkpoint):
        self.path, self.size = path, checkpoint.size
        self.rows, self.numbers = [bytearray()], [0]  # of each level: the hashes of the tile being filled, and its N

    def read(self, name, limit):
        path = os.path.join(self.path, name)
        want(os.path.lexists(path), f"{name} is not there")
        with regular(path, name) as file, at(name):
            data = file.read(limit + 1)
            want(len(data) <= limit, "it is longer than expected")
        return data

    def entries(self):
        for first in range(0, self.size, 256):
            width = min(256, self.size - first)
            name, place = tile_name("entries", first // 256, width), 0
            data = self.read(name, width * 65537)
            with at(name):
                for index in range(first, first + width):
                    length = int.from_bytes(data[place:place + 2], "big")
                    want(place + 2 + length <= len(data), f"it ends before entry {index}")
                    yield name, index, data[place + 2:place + 2 + length]
                    place += 2 + length
                want(place == len(data), f"there is more after its {width} entries")

    def add(self, hash_, level=0):
        if level == len(self.rows):
            self.rows.append(bytearray())
            self.numbers.append(0)
        self.rows[level] += hash_
        if len(self.rows[level]) == 8192:
            self.compare(level)
            tree = Tree()
            for place in range(0, 8192, 32):
                tree.add(bytes(self.rows[level][place:place + 32]))
            self.rows[level].clear()
            self.numbers[level] += 1
            self.add(tree.root(), level + 1)

    def compare(self, level):
        number, width = self.numbers[level], len(self.rows[level]) // 32
        name, below = tile_name(level, number, width), tile_name("entries", number, width)
        found = self.read(name, 8192)
        with at(name):
            want(found == self.rows[level], "these are not the hashes of " + ("the tiles below it" if level else below))

    def end(self):
        for level, row in enumerate(self.rows):
            if row:
                self.compare(level)

    def known(self, name):
        """Whether a file of this name is one that was compared."""
        found = re.fullmatch(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/[0-9]{1,3})?", name)
        if not found:
            return name == "checkpoint"
        number, level = int(re.sub("[x/]", "", found[2])), 0 if found[1] == "entries" else int(found[1])
        width = min(256, (self.size >> 8 * level) - 256 * number)
        return width > 0 and name == tile_name(found[1], number, width)

    def nothing_else(self):
        def refuse(error):
            raise error

        for folder, folders, files in os.walk(self.path, onerror=refuse):
            want(folders or files, f"{os.path.relpath(folder, self.path)}: an empty folder is none of a log's")
            for file in folders + files:
                path = os.path.join(folder, file)
                with at(os.path.relpath(path, self.path)):
                    mode = os.lstat(path).st_mode
                    want(stat.S_ISDIR(mode) if file in folders else stat.S_ISREG(mode), "expected a regular file")
                    want(file in folders or self.known(os.path.relpath(path, self.path)),
                         "this file is none of a log's of the size that its checkpoint has")


def verify_log(path, options, said):
    name = os.path.basename(os.path.abspath(path))
    with at(name):
        data = read_whole(os.path.join(path, "checkpoint"), "checkpoint")
        with at("checkpoint"):
            checkpoint = Checkpoint(utf8(data))
    others = check_lone(checkpoint, options, said, name)
    with at(name):
        tiles = Tiles(path, checkpoint)
        tiles.nothing_else()
        for other in others:
            want(other.size < checkpoint.size,
                 f"checkpoint: this log has size {checkpoint.size}, and {other.file} has it at {other.size}")
        older, tree, kind = {}, Tree(), None
        for other in others:
            older.setdefault(other.size, []).append(other)
        for file, index, data in tiles.entries():
            with at(file, f"entry {index}"):
                kind = entry(parse(data))["kind"]
                want((kind == "succession") == (index == 0), "entry 0 is a succession, and no other is")
                want(kind != "key" or index == checkpoint.size - 1, "a key entry is the last of its epoch")
            leaf = leaf_hash(data)
            tree.add(leaf)
            tiles.add(leaf)
            for other in older.get(tree.size, ()):
                want(other.root == tree.root(), f"the first {tree.size} entries do not give the root in {other.file}")
                said.link(f"The log continues {other} of {other.file}.", "nothing in it was changed or left out.")
        tiles.end()
        with at("checkpoint"):
            check_last(checkpoint, kind, checkpoint.size - 1)
            want(tree.root() == checkpoint.root, "the entries give another root")
    said.link(f"Log {checkpoint}: {checkpoint.size} entries, and all tiles from them.",
              "the log is whole, and its root is the checkpoint's.",
              "what the entries say: they are salted commitments.")


# --- the verdict ----------------------------------------------------------------------------------------------------

class Options:
    def __init__(self, key, trust, accounts, contracts, chain, rpc):
        with at("--key"):
            self.key = None if key is None else verifier_key(key)
        with at("--account"):
            self.accounts = [read_address(account) for account in accounts]
        with at("--contract"):
            self.contracts = [read_address(contract) for contract in contracts]
        with at("--chain"):
            self.chain = None if chain is None else decimal(chain, U64)
        with at("--rpc"):
            self.nodes = [Node(url) for url in rpc]
        self.trust, self.blocks = [], {}
        if trust is not None:
            self.read_trust(trust, os.path.basename(trust))

    def read_trust(self, path, name):
        """Checkpoints and blocks that others vouch for, in any order."""
        data = read_whole(path, name)
        with at(name):
            words, place = utf8(data).replace("\r\n", "\n"), 0
            while place < len(words):
                with at(f"line {words.count(chr(10), 0, place) + 1}"):
                    if words.startswith("block ", place):
                        end = (words + "\n").index("\n", place)
                        line = matching(r"block [0-9]+ [0-9]+ 0x[0-9a-f]{64}", words[place:end],
                                        "block <chain id> <height> <0x and 64 hex digits>")
                        _, chain, height, found = line.split(" ")
                        block = decimal(chain, U64), decimal(height, U64)
                        self.blocks.setdefault(block, set()).add(unhex(found[2:]))
                    elif words[place] == "\n":
                        end = place
                    else:
                        gap = words.find("\n\n", place)
                        end = words.find("\n\n", gap + 2) + 1 or len(words)
                        note = Checkpoint(words[place:end].rstrip("\n") + "\n", NAME)
                        note.file = name
                        self.trust.append(note)
                place = end + 1
            want(self.trust or self.blocks, "expected signed notes, each ended by an empty line, or lines of blocks")


def verify_path(path, options, said):
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.isdir(path) and os.path.lexists(os.path.join(path, "manifest.json")) or name.endswith(".tar"):
        beside = os.path.join(folder, name.removesuffix(".tar") + ".proof.json")
        return verify_dataset([path], Proof(beside) if os.path.lexists(beside) else None, options, said)
    if os.path.isdir(path) and os.path.lexists(os.path.join(path, "checkpoint")):
        return verify_log(path, options, said)
    if name.endswith(".tlog-proof"):
        return verify_tlog_proof(path, options, said)
    if name.endswith(".proof.json"):
        proof = Proof(path)
        lone = {"row": verify_row, "block": verify_block, "period": verify_period}.get(proof.claim["kind"])
        if lone:
            return lone(proof, options, said)
        beside = [os.path.join(folder, proof.claim["id"] + end) for end in ("", ".tar")]
        with at(name):
            bundles = [path for path in beside if os.path.lexists(path)]
            want(bundles, f"there is no bundle {proof.claim['id']} beside it", 2)
        return verify_dataset(bundles, proof, options, said)
    with at(name):
        os.stat(path)
        raise Fault("neither a bundle (folder, .tar), a .proof.json, a .tlog-proof nor a log folder", 2)


def verify(path, key=None, trust=None, accounts=(), contracts=(), chain=None, rpc=()):
    """(exit code, lines for a person)."""
    said = Said()
    try:
        try:
            options = Options(key, trust, accounts, contracts, chain, rpc)
        except Fault as fault:
            fault.code = 2
            raise
        verify_path(os.fspath(path), options, said)
    except Fault as fault:
        words = "CANNOT BE READ" if fault.code == 2 else "DOES NOT HOLD"
        return fault.code, [*said.lines, f"{words}: {fault}"]
    if not said.anchored:
        said.lacks("it is not anchored")
    if said.missing:
        return 3, [*said.lines, "HOLDS, but " + "; ".join(said.missing) + "."]
    return 0, [*said.lines, "HOLDS."]


def main():
    parser = argparse.ArgumentParser(description="Verifies bundles, proofs and logs of meterseal.")
    parser.add_argument("path", metavar="PATH", help="a bundle, a .proof.json, a .tlog-proof or a log folder")
    parser.add_argument("--key", metavar="VERIFIER_KEY", help="the gateway's, as its commissioning papers have it")
    parser.add_argument("--trust", metavar="FILE", help="checkpoints and blocks that somebody else vouches for")
    parser.add_argument("--chain", metavar="ID", help="the chain that every anchor must be on (Polygon: 137)")
    for name, metavar, words in (("accounts", "ADDRESS", "an account that may have anchored"),
                                 ("contracts", "ADDRESS", "a contract that may have been called to anchor"),
                                 ("rpc", "URL", "a node of the chain that is asked for the blocks of anchors")):
        parser.add_argument(f"--{name.rstrip('s')}", metavar=metavar, action="append", default=[], dest=name,
                            help=f"{words}; any number of times")
    parser.add_argument("--offline", action="store_true", help="ask nobody, which is so without --rpc")
    arguments = vars(parser.parse_args())
    if arguments.pop("offline") and arguments["rpc"]:
        parser.error("--offline and --rpc say opposite things: leave one of them out")
    code, lines = verify(**arguments)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
