"""Datasets, bundles and proofs made up for tests."""
import copy
import functools
import io
import random
import re
import subprocess
import tarfile

import gateway
from gateway import DAY0, HOUR, Gateway, counted, powered, silence
from signing import canonical, leaf, path, root, sha

ID = "01KDTG0000EXAMPKE0F0RBVNDS"
NS = 1_000_000
FIELDS = {"count": "u64", "delta": "i64", "note": "str", "on": "bool", "power": "f64"}
DOUBLES = [12.5, 0.0, -1.0, 1e21, 1e-7, 1e16, 1e-6, 1.5e-5, 5e-324, 1.7976931348623157e308, 0.1, 123456789012345680e3]
TIMES = re.compile(b'"time":"([0-9]+)","type"')
NOTES = ["fault", 'a "quoted" \\ one', "Zähler läuft", "\u2028 \u007f \U0001f600 \ufb33", "tab\tline\nend\x01"]


# --- bundles ---

def points(count=60, seed=1):
    """Rows in order: every type, two lines of tags, some of them not ASCII."""
    chance, rows = random.Random(seed), []
    for number in range(count):
        time = DAY0 * NS + number // 10 * 60_000 * NS
        tags = [{"line": "a"}, {"line": "a", "phase": "L1"}][number // 5 % 2]
        field = sorted(FIELDS)[number % 5]
        value = {"count": str(chance.choice([number, 2**64 - 1, 0])), "note": chance.choice(NOTES),
                 "delta": str(chance.choice([-(2**63), number, -5])), "on": chance.random() < 0.5,
                 "power": DOUBLES[number // 5 % len(DOUBLES)]}
        rows.append({"field": field, "measurement": "energy", "tags": tags, "time": str(time), "type": FIELDS[field],
                     "value": value[field]})
    return rows


def results(count=5):
    columns = [{"mean": {"type": "f64", "value": 12.5 * number},
                "time": {"type": "time", "value": str(DAY0 * NS + number)}} for number in range(count - 1)] + [{}]
    return [{"columns": column, "row": str(number)} for number, column in enumerate(columns)]


@functools.cache
def packed(raw):
    return subprocess.run(["zstd", "-q", "-3", "-c"], input=raw, stdout=subprocess.PIPE, check=True).stdout


def dataset(world, lines, fields=None, files=None, **members):
    """(manifest, files) of rows as lines; `fields` and `files` are given where they shall not be what the rows say."""
    parts, made, cut = [], {}, 1_000_000
    for first in range(0, len(lines), cut):
        rows = lines[first:first + cut]
        raw = b"".join(line + b"\n" for line in rows)
        name = f"data-{len(parts):05}.jsonl.zst"
        made[name] = files[name] if files else packed(raw)
        parts.append({"bytes": len(made[name]), "name": name, "raw_bytes": len(raw), "raw_sha256": sha(raw).hex(),
                      "rows": len(rows), "sha256": sha(made[name]).hex()})
    low, middle, high = (str((DAY0 + minutes * 60_000) * NS) for minutes in (0, 3, 24 * 60))
    early = sum(int(low) <= int(time) < int(middle) for line in lines for time in TIMES.findall(line))
    manifest = {
        "absent": {"empty_strings": 2, "empty_tags": 0}, "bytes": sum(part["raw_bytes"] for part in parts),
        "connection": {"kind": "influxdb", "name": "plant", "server_version": "1.8.10", "version": 1},
        "fields": FIELDS if fields is None else fields, "format": "meterseal-dataset-1", "from": low,
        "gateway": world.id, "id": ID, "kind": "points", "parts": parts, "program": "meterseal 0.1.0",
        "query": {"fields": sorted(FIELDS), "measurement": "energy", "name": "energy", "tags": {"line": "a"}},
        "repeated": 1, "root": root([leaf(line) for line in lines]).hex(), "rows": len(lines), "site": world.site,
        "to": high,
        "windows": [{"from": low, "read": DAY0 + HOUR, "rows": early, "to": middle},
                    {"from": middle, "read": DAY0 + HOUR + 5, "rows": len(lines) - early, "to": high}], **members}
    return manifest, made


def committing(manifest):
    return {"dataset": ID, "manifest_sha256": sha(canonical(manifest).encode()).hex()}


def result_members(lines):
    low, high = str(DAY0 * NS), str(DAY0 * NS + 24 * HOUR * NS)
    return {"fields": {}, "kind": "result", "query": {"name": "daily", "text": "SELECT mean(power) FROM energy"},
            "windows": [{"from": low, "read": DAY0, "rows": len(lines), "to": high}]}


def archive(files, name=ID):
    """The archive as Python's own tarfile writes ustar, but for the device numbers, which it leaves out."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file, data in files.items():
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size, member.mode, member.mtime = len(data), 0o644, 0
            place = tar.offset
            tar.addfile(member, io.BytesIO(data))
            out.seek(place)
            header = bytearray(out.read(512))
            header[329:345] = b"0000000\0" * 2
            header[148:156] = b" " * 8
            header[148:155] = b"%06o\0" % sum(header)
            out.seek(place)
            out.write(header)
            out.seek(0, io.SEEK_END)
        place = tar.offset
    return out.getvalue()[:place] + bytes(1024)


def as_lines(rows):
    return [canonical(row).encode() for row in rows]


# --- a bundle, a proof or a log of one small gateway: {files, path, key, world} ---

class World(Gateway):
    """A small gateway with a history of two meters, and the dataset of a case in its log."""

    def __init__(self, seed=7, site=gateway.SITE, more=0, first=None):
        super().__init__(seed, site, first)
        log, self.readings = self.epoch, {}
        log.add("config", {"config_sha256": "11" * 32, "program": "meterseal 0.1.0", "subjects": {}})
        for meter in ("main", "pv"):
            log.add("commissioning", {"meter": meter, "since": DAY0, "serial_number": "4711"})
        self.count(0, 4)
        made, self.readings["battery"] = powered("battery", DAY0)
        log.add("block", made)
        for number in range(more):
            log.add("audit", {"action": "token", "by": "admin", "detail": {"number": number}})

    def count(self, first, blocks):
        """Half an hour after another of both meters; main's second block is revised, and its last one silent."""
        log = self.epoch
        for number in range(first, first + blocks):
            start = DAY0 + number * HOUR // 2
            for meter in ("pv", "main"):
                made, self.readings[meter, number] = counted(meter, start, self.random)
                log.add("block", made)
            if number == first + 1:
                log.add("block", {**made, "revision": 1, "flags": ["late"]})
        log.add("silence", silence("main", DAY0 + (first + blocks) * HOUR // 2))


def bundle_case(rows=None, lines=None, world=None, spoil=None, pack=None, proof=None, tar=False, log_manifest=None,
                made=None, after=None, **members):
    """The files of a bundle with its proof. `spoil` changes the manifest before it is committed to (the gateway lies);
    `made` changes the files, `proof` the proof, `log_manifest` what the log says."""
    world = world or World()
    lines = as_lines(points() if rows is None else rows) if lines is None else lines
    manifest, parts = dataset(world, lines, files=pack and pack(lines), **members)
    manifest = copy.deepcopy(manifest)
    if spoil:
        spoil(manifest)
    record = committing(manifest)
    if log_manifest:
        log_manifest(record)
    index = world.epoch.add("dataset", record)
    world.epoch.add("audit", {"action": "export", "by": "admin", "detail": {"id": ID}})
    files = {"manifest.json": canonical(manifest).encode(), **parts}
    if made:
        made(files)
    value = copy.deepcopy(world.proof({"id": ID, "kind": "dataset"}, [world.epoch.section([index])]))
    value = (proof and proof(value)) or value
    out = {f"{ID}/{name}": data for name, data in files.items()}
    if tar:
        out = {f"{ID}.tar": archive(files)}
        if after:
            out[f"{ID}.tar"] = after(out[f"{ID}.tar"])
    out[f"{ID}.proof.json"] = value if isinstance(value, bytes) else canonical(value).encode()
    return {"files": out, "path": f"{ID}.tar" if tar else ID, "key": world.key(), "world": world}


def proof_case(world, value, name="proof.proof.json"):
    data = value if isinstance(value, bytes) else canonical(value).encode()
    return {"files": {name: data}, "path": name, "key": world.key(), "world": world}


def log_case(world, size=None, spoil=None):
    files = world.epoch.folder(size)
    if spoil:
        spoil(files)
    return {**in_folder(files), "key": world.key(), "world": world}


def in_folder(files):
    return {"files": {f"log/{name}": data for name, data in files.items()}, "path": "log"}


def block_case(world=None, meter="main", number=0, readings=True):
    world = world or World()
    start = DAY0 + number * HOUR // 2
    log = world.epoch
    own = [i for i in log.of(meter) if log.opened[i]["record"].get("start") == start]
    beside = {"readings": world.readings[(meter, number) if meter != "battery" else meter]} if readings else {}
    return world.proof({"kind": "block", "meter": meter, "start": start}, [log.section(own)], **beside), world


def row_case(index=12, result=False):
    world = World()
    lines = as_lines(results() if result else points())
    manifest, _ = dataset(world, lines, **(result_members(lines) if result else {}))
    at = world.epoch.add("dataset", committing(manifest))
    steps = [step.hex() for step in path([leaf(line) for line in lines], index)]
    row = (results() if result else points())[index]
    return world.proof({"dataset": ID, "kind": "row", "row": str(index)}, [world.epoch.section([at])],
                       manifest=copy.deepcopy(manifest), path=steps, row=row), world


def period_case():
    """Two epochs and the rotation between them."""
    world, meter = World(), "main"
    old = world.rotate()
    world.epoch.add("commissioning", {"meter": "main", "since": DAY0, "serial_number": "4711"})
    world.count(5, 3)
    world.epoch.add("audit", {"action": "token", "by": "admin", "detail": {}})
    log = [old.whole(meter), world.epoch.whole(meter)]
    claim = {"from": DAY0, "kind": "period", "meter": meter, "to": DAY0 + 10 * HOUR // 2}
    return copy.deepcopy(world.proof(claim, log)), world


def flip(data, place, bit=0):
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1:]
