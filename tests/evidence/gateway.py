"""A gateway made up for tests: its log of entries, epochs, blocks, sections and proofs."""
import random

from signing import Key, b64, canonical, leaf, others, path, root, sha

SITE = "plant-7"
HOUR = 3_600_000
DAY0 = 1_767_225_600_000  # 2026-01-01T00:00:00Z
METER_KINDS = ("block", "silence", "commissioning")


class Epoch:
    def __init__(self, gateway, key, origin, reason="init", old=None, **last):
        self.key, self.origin, self.random = key, origin, gateway.random
        self.entries, self.opened, self.salts, self.newest = [], [], {}, {}
        self.add("succession", {"last_local": last.get("last_local"), "last_outside": last.get("last_outside"),
                                "old_origin": old and old.origin, "reason": reason})

    def add(self, kind, record):
        """Appends an entry; the records of meters are given their `prev`. Returns its index."""
        index, meter, subject = len(self.entries), record.get("meter"), None
        if kind in METER_KINDS:
            salt = self.salts.setdefault(meter, self.random.randbytes(32))
            subject = sha(salt, meter.encode()).hex()
            record = {"prev": self.newest.get(meter), **record}
            self.newest[meter] = index
        salt, time = self.random.randbytes(32), DAY0 + 1000 * index
        commit = sha(salt, canonical(record).encode()).hex()
        self.entries.append({"commit": commit, "kind": kind, "subject": subject, "time": time, "v": 1})
        self.opened.append({"index": index, "kind": kind, "record": record, "salt": salt.hex(), "time": time})
        return index

    def data(self, size=None):
        return [canonical(entry).encode() for entry in self.entries[:size]]

    def leaves(self, size=None):
        return [leaf(data) for data in self.data(size)]

    def text(self, size=None):
        return f"{self.origin}\n{size or len(self.entries)}\n{b64(root(self.leaves(size)))}\n"

    def checkpoint(self, size=None, *also):
        text = self.text(size)
        return text + "\n" + self.key.line(self.origin, text) + "".join(key.line(name, text) for key, name in also)

    def section(self, opened, plain=(), size=None, also=()):
        known = sorted({*opened, *plain})
        leaves = [self.opened[i] if i in opened else {"entry": self.entries[i], "index": i} for i in known]
        meters = {self.opened[i]["record"]["meter"] for i in opened if self.entries[i]["kind"] in METER_KINDS}
        hashes = [each.hex() for each in others(self.leaves(size), known)]
        return {"checkpoint": self.checkpoint(size, *also), "hashes": hashes, "key": self.key.verifier(self.origin),
                "leaves": leaves, "meters": {meter: self.salts[meter].hex() for meter in meters}}

    def of(self, meter):
        return [i for i, leaf in enumerate(self.opened) if leaf["record"].get("meter") == meter]

    def of_kind(self, kind):
        return [i for i, entry in enumerate(self.entries) if entry["kind"] == kind]

    def whole(self, meter, size=None):
        """The section of a period: leaf 0, all entries of the meter, and all that follows them."""
        own = [i for i in self.of(meter) if i < (size or len(self.entries))]
        return self.section([0, *own], range(own[-1] + 1, size or len(self.entries)), size)

    def tlog_proof(self, index, size=None):
        opened = self.opened[index]
        salt = self.salts.get(opened["record"].get("meter")) if opened["kind"] in METER_KINDS else None
        extra = {name: opened[name] for name in ("kind", "record", "salt", "time")}
        extra["meter_salt"] = salt and salt.hex()
        lines = ["c2sp.org/tlog-proof@v1", "extra " + b64(canonical(extra).encode()), f"index {index}"]
        lines += [b64(step) for step in path(self.leaves(size), index)]
        return "\n".join(lines) + "\n\n" + self.checkpoint(size)

    def folder(self, size=None, *also):
        """The files of a log folder."""
        data, files = self.data(size), {"checkpoint": self.checkpoint(size, *also).encode()}
        level, hashes = 0, self.leaves(size)
        for first in range(0, len(data), 256):
            bundle = data[first:first + 256]
            files[name("entries", first // 256, len(bundle))] = b"".join(len(d).to_bytes(2, "big") + d for d in bundle)
        while hashes:
            for first in range(0, len(hashes), 256):
                files[name(level, first // 256, len(hashes[first:first + 256]))] = b"".join(hashes[first:first + 256])
            hashes = [root(hashes[i:i + 256]) for i in range(0, len(hashes) // 256 * 256, 256)]
            level += 1
        return files


def name(level, number, width):
    groups, rest = [f"{number % 1000:03}"], number // 1000
    while rest:
        groups, rest = [f"x{rest % 1000:03}", *groups], rest // 1000
    return f"tile/{level}/{'/'.join(groups)}" + ("" if width == 256 else f".p/{width}")


class Gateway:
    def __init__(self, seed, site=SITE, first=None):
        self.random, self.site = random.Random(seed), site
        self.first = first or Key(self.random.randbytes(32))
        self.id = sha(self.first.public)[:16].hex()
        self.epoch = Epoch(self, self.first, self.origin())
        self.rotations = []

    def key(self):
        """The verifier key of the newest epoch."""
        return self.epoch.key.verifier(self.epoch.origin)

    def origin(self):
        return f"{self.site}/{self.id}/{self.random.randbytes(8).hex()}"

    def rotate(self):
        """Ends the epoch by a new key and opens another; returns the old one."""
        old, key, origin = self.epoch, Key(self.random.randbytes(32)), self.origin()
        index = old.add("key", {"new_key": key.verifier(origin), "new_origin": origin})
        old.last = old.checkpoint(None, (key, origin))
        self.rotations.append(old.section([index], also=[(key, origin)]))
        self.old, self.epoch = old, Epoch(self, key, origin, "key-rotation", old, last_local=old.last)
        return old

    def proof(self, claim, log, **beside):
        return {"anchor": None, "claim": claim, "consistency": None, "format": "meterseal-proof-1", "log": log,
                "rotations": self.rotations, **beside}


# --- blocks ---

def border(reading, scale, **more):
    return {**reading, "scale": scale, **more}


def reading(quantity, seq, time, value, kind="u64"):
    value = value if kind == "f64" else str(value)
    return {"quantity": quantity, "seq": seq, "time": time, "type": kind, "value": value}


def block(meter, start, **members):
    return {"after": [], "before": [], "breaks": [], "category": "CONS", "coverage": 10_000, "covered_ms": HOUR // 2,
            "end": start + HOUR // 2, "export_uwh": None, "first": [], "flags": [], "import_uwh": None,
            "interval_ms": 60_000, "is_peak_hour": False, "last": [], "max_mw": None, "meter": meter,
            "method": "counter", "min_mw": None, "nominal_ms": HOUR // 2, "pending": [],
            "readings_sha256": sha().hex(), "revision": 0, "rule": 1,
            "sealed": start + HOUR // 2 + 120_000, "start": start, "template": None, "through_seq": 0,
            "zone": "Europe/Berlin", **members}


def silence(meter, start, **members):
    return block(meter, start, coverage=0, covered_ms=0, flags=["gap"], **members)


def committed(readings):
    return sha("".join(canonical(at) + "\n" for at in readings).encode()).hex()


def counted(meter, start, random, **members):
    """A block by its register, read every 50 s or so, in Wh; and its readings."""
    quantity, time, value, readings = "energy_import_kwh", start - 20_000, random.randrange(10**6, 10**7), []
    while True:
        readings.append(reading(quantity, len(readings) + 1, time, value))
        if time >= start + HOUR // 2:
            break
        time, value = time + random.randrange(45_000, 55_000), value + random.randrange(0, 400)
    wh = [int(at["value"]) for at in readings]

    def split(one, two, instant):  # µWh of the step before `instant`
        t0, t1 = readings[one]["time"], readings[two]["time"]
        return (wh[two] - wh[one]) * 10**6 * (instant - t0) // (t1 - t0)

    energy = (wh[1] - wh[0]) * 10**6 - split(0, 1, start) + (wh[-2] - wh[1]) * 10**6 + split(-2, -1, start + HOUR // 2)
    before, first, last, after = ([border(readings[i], [1, 1000])] for i in (0, 1, -2, -1))
    made = block(meter, start, before=before, first=first, last=last, after=after, import_uwh=str(energy),
                 readings_sha256=committed(readings), through_seq=len(readings))
    return {**made, **members}, readings


def powered(meter, start, **members):
    """A block by power: 60 kW at +10 min and -30.0005 kW at +20 min, each held for three minutes."""
    readings = [reading("power_kw", 5, start + 600_000, 60.0, "f64"),
                reading("power_kw", 6, start + 1_200_000, -30.0005, "f64")]
    made = block(meter, start, category="STOR", coverage=2000, covered_ms=HOUR // 10, flags=["gap"], method="power",
                 last=[border(readings[1], [1, 1])], import_uwh=str(60_000_000 * 180_000 // 3600),
                 export_uwh=str(30_000_500 * 180_000 // 3600), max_mw="60000000", min_mw="-30000500",
                 readings_sha256=committed(readings), through_seq=6)
    return {**made, **members}, readings
