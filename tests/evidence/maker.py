#!/usr/bin/env python3
"""Makes evidence to try verifiers on, good and bad, from docs/evidence-format.md alone.

    maker.py OUT [CASE]...

writes one folder OUT/<case>/ for each case, or for those that are named: what is to be verified; `path.txt`, its name
in the folder; `expected.txt`, the exit code; `names.txt`, the file to be named where something does not hold; and where
there are such `key.txt` (for --key), `trust.txt` (for --trust), `account.txt` and `contract.txt` (a line each) and
`chain.txt`. The same bytes each time, but for what zstd's version does.
"""
import os
import pathlib
import sys

import cases_anchor  # noqa: F401  This and the two below register in ANCHORED.
import cases_chain  # noqa: F401
import cases_trust  # noqa: F401
from anchored import ANCHORED
from cases import CASES

EVERY = {**CASES, **ANCHORED}


def write(make, folder, expected, names, with_key):
    made = make()
    for name, data in made["files"].items():
        file = pathlib.Path(folder, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(data) if isinstance(data, str) else file.write_bytes(data)
    texts = {"path": made["path"], "expected": str(expected), "names": names, "key": made["key"] if with_key else ""}
    for name, words in texts.items():
        if words:
            pathlib.Path(folder, f"{name}.txt").write_text(words + "\n")
    for name in ("trust", "account", "contract", "chain"):
        if made.get(name):
            pathlib.Path(folder, f"{name}.txt").write_bytes(made[name].encode("utf-8", "surrogateescape"))


def main(out, *wanted):
    for name in wanted or EVERY:
        make, *rest = EVERY[name]
        os.makedirs(os.path.join(out, name))
        write(make, os.path.join(out, name), *rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
