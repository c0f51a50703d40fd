#!/usr/bin/env python3
"""Tries a program that was built for another processor: `try.py PROGRAM [EMULATOR ARGUMENT...]`.

It must say its version, find the shipped config good, answer over HTTP as a demo, and store what a Modbus/TCP meter says, so
that a new start still has it. The meter is played here, with numbers that need all of their 32 or 64 bits. Serial ports are left out:
emulators of a user's programs (qemu 7.2) have no termios2, and none can be opened.
"""
import datetime
import json
import os
import re
import select
import signal
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# An emulated start on a busy machine takes seconds; a program that hangs must still end the run.
PATIENCE = 300
COMMAND = sys.argv[2:] + [os.path.abspath(argument) for argument in sys.argv[1:2]]

# What the played meter says, as registers from 100 on, and as the API must tell it.
REGISTERS = struct.pack(">iQdi", -1_234_567_890, 98_765_432_109, 231.25, 1)
VALUES = {"power_kw": -1_234_567.89, "energy_import_kwh": 98_765_432.109, "voltage_l1_v": 231.25}
CONFIG = """
[site]
id = "bench"
timezone = "Asia/Kuala_Lumpur"
[web]
listen = "127.0.0.1:0"
[store]
path = "{store}"
reserve = "1MB"
[[modbus]]
name = "played"
tcp = "127.0.0.1:{port}"
timeout = "10s"
[[modbus.meter]]
id = "incomer"
category = "CONS"
interval = "1s"
[modbus.meter.registers]
function = "holding"
power_kw = {{ address = 100, type = "i32", scale = 0.001 }}
energy_import_kwh = {{ address = 102, type = "u64", scale = 0.001 }}
voltage_l1_v = {{ address = 106, type = "f64" }}
"""


class Wrong(Exception):
    """What the program did, and should not have."""


def run(*arguments):
    """A command that ends by itself: what it wrote to stdout."""
    done = subprocess.run(COMMAND + list(arguments), capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Wrong(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Daemon:
    """One that runs until it is told to end; `said` is what it wrote so far, on stdout and stderr."""

    def __init__(self, *arguments):
        self.arguments = " ".join(arguments)
        self.said = ""
        self.process = subprocess.Popen(
            COMMAND + list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def find(self, pattern):
        """Waits until it has written what `pattern` matches: its first group."""
        end = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.said)):
            left = end - time.monotonic()
            if left <= 0 or not self.read(left):
                raise Wrong(f"{self.arguments}: {pattern!r} is not in what it said:\n{self.said}")
        return found.group(1)

    def read(self, seconds):
        """Takes what it writes within that time; False when there was nothing or it has ended."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        some = os.read(self.process.stdout.fileno(), 65536) if ready else b""
        self.said += some.decode(errors="replace")
        return bool(some)

    def end(self):
        """As systemd ends it: it must drain and go."""
        self.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        while self.read(max(0, end - time.monotonic())):
            pass
        try:
            code = self.process.wait(max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Wrong(f"{self.arguments}: does not end at SIGTERM:\n{self.said}") from None
        if code != 0:
            raise Wrong(f"{self.arguments}: exit code {code} at SIGTERM:\n{self.said}")


def get(page, path, token):
    request = urllib.request.Request(page.rstrip("/") + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        if path == "/api/health" and refused.code == 503:  # it tells a problem, such as a clock that is not synchronised
            return json.load(refused)
        raise Wrong(f"{path}: {refused.code} {refused.read()!r}") from None


def wait_for(page, path, token, wanted):
    """Asks again until the answer is as wanted."""
    end = time.monotonic() + PATIENCE
    while not wanted(answer := get(page, path, token)):
        if time.monotonic() > end:
            raise Wrong(f"{path} stays {answer}")
        time.sleep(0.2)
    return answer


class Meter(socketserver.StreamRequestHandler):
    """Modbus/TCP, function 3 alone."""

    def handle(self):
        while header := self.rfile.read(7):
            transaction, protocol, length, unit = struct.unpack(">HHHB", header)
            function, first, count = struct.unpack(">BHH", self.rfile.read(length - 1))
            words = REGISTERS[2 * (first - 100) : 2 * (first - 100 + count)]
            if function == 3 and first >= 100 and len(words) == 2 * count:
                answer = struct.pack(">BBB", unit, function, len(words)) + words
            else:
                answer = struct.pack(">BBB", unit, function | 0x80, 2)
            self.wfile.write(struct.pack(">HHH", transaction, protocol, len(answer)) + answer)


def version(folder):
    said = run("--version")
    wanted = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    if said != f"meterseal {wanted}\n":
        raise Wrong(f"--version says {said!r}, and Cargo.toml {wanted}")
    return said.strip()


def check(folder):
    said = run("check", "-c", str(ROOT / "config/meterseal.toml"))
    if ": good, " not in said:
        raise Wrong(f"check of the shipped config: {said}")
    return said.splitlines()[-1].rsplit(": ", 1)[1]


def demo(folder):
    with Daemon("demo", "--listen", "127.0.0.1:0", "--meters", "3") as daemon:
        page, token = daemon.find(r"page: (\S+)"), daemon.find(r"token: (\S+)")
        with urllib.request.urlopen(page, timeout=PATIENCE) as answer:
            if b"<html" not in answer.read():
                raise Wrong(f"{page} is not the page")
        health = get(page, "/api/health", token)
        meters = get(page, "/api/meters", token)
        if "status" not in health or len(meters) != 3:
            raise Wrong(f"health {health}, and {len(meters)} meters of 3")
        since = datetime.datetime.now(datetime.timezone.utc)
        path = f"/api/meters/{meters[0]['id']}/current-block"
        block = wait_for(page, path, token, lambda block: datetime.datetime.fromisoformat(block["at"]) > since)
        day = urllib.parse.urlencode({"from": (since - datetime.timedelta(hours=26)).isoformat(), "to": since.isoformat()})
        blocks = get(page, f"/api/meters/{meters[0]['id']}/blocks?{day}", token)
        if len(blocks) < 47:
            raise Wrong(f"{len(blocks)} blocks of half an hour in the day behind it")
        daemon.end()
    return f"health is {health['status']}, {meters[0]['id']} has {len(blocks)} blocks and is at {block['at']}"


def stored(folder):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Meter) as meter:
        meter.daemon_threads = True
        threading.Thread(target=meter.serve_forever, daemon=True).start()
        config = folder / "meterseal.toml"
        config.write_text(CONFIG.format(store=folder / "store", port=meter.server_address[1]))
        begin = datetime.datetime.now(datetime.timezone.utc)
        token = re.search(r"token: +(\S+)", run("init", "-c", str(config))).group(1)
        asked = run("read", "incomer", "-c", str(config), "--json")
        told = {value["quantity"]: value.get("value") for value in json.loads(asked)["values"]}
        if any(told.get(quantity) != value for quantity, value in VALUES.items()):
            raise Wrong(f"read says {asked}")
        path = "/api/meters/incomer/readings?" + urllib.parse.urlencode({
            "from": begin.isoformat(),
            "to": (begin + datetime.timedelta(hours=1)).isoformat(),
        })
        with Daemon("run", "-c", str(config)) as daemon:
            readings = wait_for(daemon.find(r"page=(\S+)"), path, token, bool)
            daemon.end()
        meter.shutdown()
    first = readings[0]
    if any(first.get(quantity) != value for quantity, value in VALUES.items()):
        raise Wrong(f"the stored reading is {first}")
    with Daemon("run", "-c", str(config)) as daemon:
        again = get(daemon.find(r"page=(\S+)"), path, token)
        daemon.end()
    if first not in again:
        raise Wrong(f"after a new start {first} is not in {again}")
    return f"{first['power_kw']} kW, {first['energy_import_kwh']} kWh, and the same after a new start"


def main():
    if not COMMAND or not os.access(COMMAND[-1], os.X_OK):
        sys.exit(__doc__.splitlines()[0])
    for part in (version, check, demo, stored):
        began = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["TMPDIR"] = folder
                said = part(Path(folder))
        except (Wrong, OSError, ValueError, KeyError, AttributeError, subprocess.TimeoutExpired) as wrong:
            sys.exit(f"{part.__name__}: {type(wrong).__name__}: {wrong}")
        print(f"{part.__name__}: {said} ({time.monotonic() - began:.1f} s)", flush=True)


main()
