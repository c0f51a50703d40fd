"""meterseal, variants `` and `checked`.

The plain variant is measured. `checked` also has a helper beside it that asks /metrics once a second and writes one
line for each reading that has been committed, so that the column of what was stored tells of durable readings.

The program is METERSEAL_BIN, or target/release/meterseal of the repository this file lies in.
"""
import os
import pathlib
import subprocess
import sys

PHASES = ("l1", "l2", "l3")
# The twenty values of one poll in the order in which the meters hold them.
VALUES = [
    *(f"voltage_{p}_v" for p in PHASES),
    *(f"current_{p}_a" for p in PHASES),
    *(f"power_{p}_kw" for p in PHASES),
    "power_kw",
    *(f"apparent_power_{p}_kva" for p in PHASES),
    *(f"reactive_power_{p}_kvar" for p in PHASES),
    "power_factor",
    "frequency_hz",
    "energy_import_kwh",
    "energy_export_kwh",
]


def template(reads):
    """Every read is a request of its own: a request holds no more registers than the first read."""
    lines = [
        'title = "Meters of the comparison"',
        'evidence = "made up"',
        "[registers]",
        'function = "holding"',
        'type = "f32"',
        f"max_registers = {reads[0][1]}",
    ]
    for bank, (address, count) in enumerate(reads):
        for at in range(count // 2):
            name = VALUES[at % len(VALUES)]
            scale = ", scale = 0.001" if name.endswith(("_kw", "_kva", "_kvar")) else ""
            lines.append(f"{name if bank == 0 else f'bank{bank}_{name}'} = {{ address = {address + 2 * at}{scale} }}")
    return "\n".join(lines) + "\n"


def config(case, work, interval):
    parts = [
        f'[site]\nid = "bench"\ntimezone = "UTC"\n[store]\npath = "{work}/store"\n'
        f'[web]\nlisten = "127.0.0.1:{case["spare_ports"][0]}"\n'
    ]
    for endpoint in case["endpoints"]:
        port = endpoint["port"]
        parts.append(f'[[modbus]]\nname = "line-{port}"\ntcp = "{endpoint["host"]}:{port}"\n')
        for unit in endpoint["units"]:
            parts.append(
                f'[[modbus.meter]]\nid = "m-{port}-{unit}"\nunit = {unit}\ntemplate = "bench"\n'
                f'category = "CONS"\ninterval = "{interval}ms"\n'
            )
    return "".join(parts)


def prepare(case, work, variant, programs):
    repository = pathlib.Path(__file__).resolve().parents[2]
    binary = os.environ.get("METERSEAL_BIN", repository / "target/release/meterseal")
    file = work / "meterseal.toml"
    (work / "meters").mkdir()
    (work / "meters/bench.toml").write_text(template(case["reads"]))
    file.write_text(config(case, work, case["interval_ms"]))
    made = subprocess.run([binary, "init", "-c", file], capture_output=True, text=True, check=True)
    version = subprocess.check_output([binary, "--version"], text=True).split()[-1]
    plan = {
        "argv": [binary, "run", "-c", file],
        "version": version,
        "settle_s": 8 if case["meters"] <= 100 else 20,
        "sink": [],
    }
    if variant == "checked":
        token = made.stdout.split("token:")[1].split()[0]
        url = f"http://127.0.0.1:{case['spare_ports'][0]}/metrics"
        plan["helpers"] = [[sys.executable, __file__, url, token, work / "stored.txt"]]
        plan["sink"] = ["stored.txt"]
    return plan


def count(url, token, file):
    """One line for each committed reading, within a second."""
    import time
    import urllib.request

    written = None
    with open(file, "a", buffering=1 << 20) as out:
        while True:
            try:
                request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
                text = urllib.request.urlopen(request, timeout=5).read().decode()
                row = next(row for row in text.splitlines() if row.startswith("meterseal_store_readings_total "))
                stored = int(float(row.split()[1]))
                out.write("\n" * (stored - (stored if written is None else written)))
                out.flush()
                written = stored
            except OSError:
                pass  # not up yet
            time.sleep(1)


if __name__ == "__main__":
    count(*sys.argv[1:])
