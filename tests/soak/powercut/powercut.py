#!/usr/bin/env python3
"""Cuts the power at every flush boundary of one recorded run: is what was acknowledged there each time?

    powercut.py --work DIR --verify 'CMD {dir} {acked}' [--start DIR] [--every N] [--random N] [--seed S]
                -- WRITER ARGS

1. Runs WRITER under strace. `{dir}` in its arguments becomes DIR/run/store, which is not there yet (or is a copy of
   --start); all of DIR/run is recorded, so that a store may be made beside its place and renamed. The writer keeps its
   store there, and acknowledges by writing lines to its standard output, each as soon as the thing it names is
   durable. A line counts from the moment its write began; a line without its end does not count.
2. Just before each fsync, fdatasync, sync or syncfs in that folder takes effect (`--every N`: each Nth), and after the
   last call, rebuilds in DIR/cut what the disk may hold, in each way of `disk.WAYS`: only what was synced, all that was
   written, all names with only the synced bytes, and --random (1) seeded parts of what is pending. The state just
   before a flush is the worst one since the flush before it: it has the most acknowledged lines for what is durable.
3. Runs the verifier on each: `{dir}` becomes DIR/cut/store, `{acked}` a file with the lines acknowledged before. It
   ends with 0 when the store opens and holds all of them. Before the first line there may be no store at all, or a
   half-made one; whether that opens is the verifier's own affair.

It gives no verdict unless the recording accounts for every byte the writer left behind, so that no way of writing
goes unseen; memory maps, io_uring and links from outside are refused. One process at a time may write.

Ends with 0 when every cut kept everything; 1 when one did not, and keeps the first five in DIR/failed, each with its
acknowledged lines and the verifier's words; 2 when no verdict can be given. DIR on a tmpfs is fine, and faster.
"""
import argparse
import math
import os
import pathlib
import random
import shlex
import shutil
import subprocess
import sys

import recording
from disk import WAYS, Disk
from recording import Unreadable

KEPT_FAILURES = 5


def main(argv):
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--verify", required=True)
    parser.add_argument("--start", type=pathlib.Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--random", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("writer", nargs="+")
    options = parser.parse_args(argv)
    work = options.work.resolve()
    try:
        record(work, options.start, options.writer)
        return judge(work, options)
    except Unreadable as why:
        print(f"no verdict: {why}")
        return 2


def record(work, start, writer):
    for old in ("run", "cut", "failed"):
        shutil.rmtree(work / old, ignore_errors=True)
    (work / "run").mkdir(parents=True)
    if start:
        shutil.copytree(start, work / "run" / "store")
    argv = [part.replace("{dir}", str(work / "run" / "store")) for part in writer]
    with open(work / "acked", "wb") as acked:
        ended = subprocess.run(
            recording.command(work / "recording", argv), stdin=subprocess.DEVNULL, stdout=acked, check=False
        )
    if ended.returncode != 0:
        raise Unreadable(f"the writer ended with {ended.returncode}: {shlex.join(argv)}")


def judge(work, options):
    disk = Disk(work / "run", {"store": options.start} if options.start else {})
    acks = acknowledgements(work / "recording", str(work / "acked"))
    tally = {"cuts": 0, "rebuilt": 0, "failed": 0}

    def cut(number, label, line):
        acked = b"".join(data for entered, data in acks if entered < line)
        tally["cuts"] += 1
        for way in WAYS:
            for turn in range(options.random if way == "random" else 1):
                seed = f"{options.seed} {number} {turn}"
                tally["rebuilt"] += 1
                told = verify(work, options.verify, disk.after_cut(way, random.Random(seed)), acked)
                if told is None:
                    continue
                tally["failed"] += 1
                print(f"cut {number}, before {label}, {way} (seed {seed!r}): {told}", flush=True)
                if tally["failed"] <= KEPT_FAILURES:
                    keep(work, f"{number:05}-{way}-{turn}", told)

    flushes = 0
    with open(work / "recording", encoding="ascii") as lines:
        for call in recording.calls(lines):
            label = disk.flushes(call)
            if label:
                flushes += 1
                if flushes % options.every == 0:
                    cut(flushes, label, call.end)
            disk.apply(call)
    account(disk, work, b"".join(data for _, data in acks))
    cut(flushes + 1, "the end", math.inf)
    print(
        f"{flushes} flushes, {sum(data.count(10) for _, data in acks)} acknowledged lines; "
        f"{tally['rebuilt']} stores rebuilt at {tally['cuts']} cuts: {tally['failed']} lost something",
        flush=True,
    )
    return 1 if tally["failed"] else 0


def acknowledgements(path, acked_path):
    """(line of the recording on which the write began, what it wrote) for each write to the file `acked_path`."""
    with open(path, encoding="ascii") as lines:
        return [
            (call.start, recording.content(call.args[1])[: call.result])
            for call in recording.calls(lines)
            if call.name in ("write", "writev")
            and call.result > 0
            and recording.descriptor(call.args[0])[1] == acked_path
        ]


def account(disk, work, acked):
    """Refuses a recording that does not explain what the writer left behind."""
    if (work / "acked").read_bytes() != acked:
        raise Unreadable("the recording does not account for the acknowledged lines")
    if not acked.count(10):
        raise Unreadable("the writer acknowledged nothing")
    files, folders = disk.after_cut("written", None)
    found, found_folders = {}, set()
    for folder, below, names in os.walk(work / "run"):
        here = pathlib.Path(folder).relative_to(work / "run")
        found_folders.update(str(here / name) for name in below)
        found.update({str(here / name): pathlib.Path(folder, name) for name in names})
    found = {name: where for name, where in found.items() if where.is_file()}
    if folders != found_folders or files.keys() != found.keys():
        odd = sorted((folders ^ found_folders) | (files.keys() ^ found.keys()))
        raise Unreadable(f"the recording does not account for {', '.join(odd)}")
    for name, held in files.items():
        if not name.endswith("-shm") and found[name].read_bytes() != held:
            raise Unreadable(f"the recording does not account for the content of {name}")


def verify(work, command, rebuilt, acked):
    """What the verifier finds wrong with the rebuilt folder, or nothing."""
    rebuild(work / "cut", *rebuilt)
    (work / "acked-before-cut").write_bytes(acked[: acked.rfind(10) + 1])
    argv = [
        part.replace("{dir}", str(work / "cut" / "store")).replace("{acked}", str(work / "acked-before-cut"))
        for part in shlex.split(command)
    ]
    ended = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode == 0:
        return None
    return f"{ended.stdout.strip() or '(no words)'} [exit {ended.returncode}]"


def rebuild(folder, files, folders):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def keep(work, name, told):
    """Keeps a failed cut. The verifier has opened the folder, so it may have changed it: the seed makes it anew."""
    folder = work / "failed" / name
    folder.mkdir(parents=True)
    shutil.move(work / "cut", folder / "cut")
    shutil.copy(work / "acked-before-cut", folder / "acked")
    (folder / "told").write_text(told + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
