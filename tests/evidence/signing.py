"""What a maker of evidence needs: canonical JSON of simple values, trees, Ed25519 signing, notes. Shares nothing with
tools/verify.py, so that a mistake in one is not repeated in the other."""
import base64
import hashlib
import json

# How ECMAScript writes the doubles that Python writes in another way.
WRITTEN = {1e21: "1e+21", 1e-7: "1e-7", 1e16: "10000000000000000", 1e-6: "0.000001", 1.5e-5: "0.000015",
           5e-324: "5e-324", 1.7976931348623157e308: "1.7976931348623157e+308",
           123456789012345680e3: "123456789012345680000"}
WRITER = json.JSONEncoder(ensure_ascii=False)


def canonical(value):
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, float):
        sign = "-" if value < 0 else ""
        return sign + WRITTEN[abs(value)] if abs(value) in WRITTEN else repr(value).removesuffix(".0")
    return WRITER.encode(value)


def sha(*pieces):
    return hashlib.sha256(b"".join(pieces)).digest()


def b64(data):
    return base64.b64encode(data).decode()


# --- trees: slow and by the definition of RFC 6962 ---

def split(count):
    half = 1
    while half * 2 < count:
        half *= 2
    return half


def leaf(data):
    return sha(b"\x00", data)


def root(leaves):
    if not leaves:
        return sha()
    if len(leaves) == 1:
        return leaves[0]
    half = split(len(leaves))
    return sha(b"\x01", root(leaves[:half]), root(leaves[half:]))


def path(leaves, index):
    """The audit path, from leaf to root."""
    if len(leaves) == 1:
        return []
    half = split(len(leaves))
    if index < half:
        return path(leaves[:half], index) + [root(leaves[half:])]
    return path(leaves[half:], index - half) + [root(leaves[:half])]


def others(leaves, known, low=0):
    """The hashes of a section: of the subtrees without any known leaf, from left to right."""
    if not any(low <= index < low + len(leaves) for index in known):
        return [root(leaves)]
    if len(leaves) == 1:
        return []
    half = split(len(leaves))
    return others(leaves[:half], known, low) + others(leaves[half:], known, low + half)


def consistency(leaves, older, whole=True):
    """From the tree of the first `older` leaves to that of all (RFC 6962, 2.1.2)."""
    if older == len(leaves):
        return [] if whole else [root(leaves)]
    half = split(len(leaves))
    if older <= half:
        return consistency(leaves[:half], older, whole) + [root(leaves[half:])]
    return consistency(leaves[half:], older - half, False) + [root(leaves[:half])]


# --- Ed25519 (RFC 8032), affine and slow but for its inverses ---

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def plus(a, b):
    (x1, y1, z1), (x2, y2, z2) = a, b
    zz, xx, yy = z1 * z2, x1 * x2, y1 * y2
    square, bend = zz * zz % P, D * xx * yy % P
    less, more = (square - bend) % P, (square + bend) % P
    return (zz * less * ((x1 + y1) * (x2 + y2) - xx - yy) % P, zz * more * (yy + xx) % P, less * more % P)


def times(scalar, at):
    found = (0, 1, 1)
    while scalar:
        found = plus(found, at) if scalar & 1 else found
        at, scalar = plus(at, at), scalar >> 1
    return found


def packed(at):
    inverse = pow(at[2], P - 2, P)
    x, y = at[0] * inverse % P, at[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


Y = 4 * pow(5, P - 2, P) % P
X2 = (Y * Y - 1) * pow(D * Y * Y + 1, P - 2, P) % P
X = pow(X2, (P + 3) // 8, P)
X = X if X * X % P == X2 else X * pow(2, (P - 1) // 4, P) % P
BASE = (X if X % 2 == 0 else P - X, Y, 1)


class Key:
    def __init__(self, seed):
        digest = hashlib.sha512(seed).digest()
        self.scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
        self.prefix, self.public = digest[32:], packed(times(self.scalar, BASE))

    def sign(self, message):
        def wide(*pieces):
            return int.from_bytes(hashlib.sha512(b"".join(pieces)).digest(), "little")
        nonce = wide(self.prefix, message) % ORDER
        short = packed(times(nonce, BASE))
        answer = (nonce + wide(short, self.public, message) * self.scalar) % ORDER
        return short + answer.to_bytes(32, "little")

    def id(self, name):
        return sha(name.encode(), b"\x0a\x01", self.public)[:4]

    def verifier(self, name):
        return f"{name}+{self.id(name).hex()}+{b64(bytes([1]) + self.public)}"

    def line(self, name, text):
        return f"\u2014 {name} {b64(self.id(name) + self.sign(text.encode()))}\n"


class WeakKey(Key):
    """A public key of order 4: for each message one of the four points of its group is a signature with S = 0."""

    def __init__(self):
        self.public, side = bytes(32), (pow(2, (P - 1) // 4, P), 0, 1)
        self.group = [times(n, side) for n in range(1, 5)]
        self.side = next(at for at in self.group if packed(at) == self.public)

    def sign(self, message):
        for short in map(packed, self.group):
            k = int.from_bytes(hashlib.sha512(short + self.public + message).digest(), "little") % ORDER
            at = next(at for at in self.group if packed(at) == short)
            if packed(plus(times(k, self.side), at)) == packed((0, 1, 1)):
                return short + bytes(32)
        return bytes(64)  # no luck with this message
