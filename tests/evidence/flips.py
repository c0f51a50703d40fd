"""Changes of single bits: each must be refused, and the changed file named."""
import os
import pathlib
import random


def unrefused(verify, folder, path, count=1000, seed=1, spare=lambda name, data: ()):
    """Flips `count` random bits of the files in `folder`, one at a time, and gives each that `verify` did not refuse
    with 1 or 2, naming the file in its last line. `verify` is (path) -> (exit code, lines); `spare` tells which bytes
    of a file may change.

    The places are drawn evenly over all bytes of all files together."""
    files = sorted(file for file in pathlib.Path(folder).rglob("*") if file.is_file())
    contents = {file: file.read_bytes() for file in files}
    spared = {file: set(spare(file.name, data)) for file, data in contents.items()}
    places = [(file, place) for file in files for place in range(len(contents[file])) if place not in spared[file]]
    chance = random.Random(seed)
    for _ in range(count):
        file, place = chance.choice(places)
        bit = chance.randrange(8)
        data = contents[file]
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1:])
        try:
            code, lines = verify(os.path.join(folder, path))
        finally:
            file.write_bytes(data)
        relative = str(file.relative_to(folder))
        name = relative.partition("/")[2] or relative  # a tile by its place in the log folder, a part by its name
        if code not in (1, 2) or name not in lines[-1]:
            yield f"bit {bit} of byte {place} of {relative}: exit {code}, {lines[-1]}"
