#!/usr/bin/env python3
"""A writer and a verifier for powercut.py to be tried on: numbered rows in SQLite, acknowledged after each commit.

    sqlite_example.py write DIR SYNCHRONOUS ROWS
    sqlite_example.py verify DIR ACKED
"""
import os
import pathlib
import sqlite3
import sys


def write(folder, synchronous, rows):
    os.makedirs(folder, exist_ok=True)
    database = sqlite3.connect(os.path.join(folder, "example.db"), isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {synchronous}")
    database.execute("PRAGMA wal_autocheckpoint = 8")
    database.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, body TEXT)")
    for number in range(int(rows)):
        database.execute("INSERT INTO row VALUES (?, ?)", (number, str(number) * 500))
        print(number, flush=True)
    database.close()


def verify(folder, acked):
    wanted = {int(line) for line in pathlib.Path(acked).read_text().split()}
    if not wanted:
        return None
    database = sqlite3.connect(os.path.join(folder, "example.db"))
    found = database.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        return found
    lost = wanted - {number for (number,) in database.execute("SELECT number FROM row")}
    return f"{len(lost)} of {len(wanted)} rows are lost" if lost else None


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        try:
            sys.exit(verify(*sys.argv[2:]))
        except sqlite3.Error as why:
            sys.exit(f"the store does not open: {why}")
