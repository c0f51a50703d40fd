"""The bytes of one file: what was written, what is durable, and what a disk may hold of the difference."""
from dataclasses import dataclass, field

PAGE = 4096
SECTOR = 512


@dataclass
class Write:
    order: int
    end: int  # the line on which the call returned
    offset: int
    data: bytes


@dataclass
class Resize:
    order: int
    end: int
    size: int


@dataclass(eq=False)
class File:
    live: bytearray = field(default_factory=bytearray)
    synced: bytearray = field(default_factory=bytearray)
    pending: list = field(default_factory=list)


def put(data, offset, piece):
    if not piece:
        return
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset:offset + len(piece)] = piece


def resize(data, size):
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def replay(data, op):
    if isinstance(op, Resize):
        resize(data, op.size)
    else:
        put(data, op.offset, op.data)


def some_of(file, last, share, random):
    """The content of `file` with the resizes up to `last` and, of each pending page, the writes up to a random one.

    A page that was under way when the power went holds some sectors of one age and some of another.
    """
    data = bytearray(file.synced)
    until = {}  # page -> how many of the pending changes each of its sectors has seen
    for count, op in enumerate(file.pending):
        if isinstance(op, Resize):
            if op.order <= last:
                resize(data, op.size)
            continue
        offset, end = op.offset, op.offset + len(op.data)
        while offset < end:
            page, within = divmod(offset, PAGE)
            stop = min(end, offset - within + PAGE)
            if page not in until:
                until[page] = _ages(len(file.pending), share, random)
            while offset < stop:
                step = min(stop, offset - offset % SECTOR + SECTOR)
                if count < until[page][offset % PAGE // SECTOR]:
                    put(data, offset, op.data[offset - op.offset:step - op.offset])
                offset = step
    return bytes(data)


def _ages(count, share, random):
    def age():
        return count if random.random() < share / 2 else random.randint(0, count)

    if random.random() >= share:
        return [0] * (PAGE // SECTOR)
    first, second = age(), age()
    if random.random() < 0.7:
        return [first] * (PAGE // SECTOR)
    return [random.choice((first, second)) for _ in range(PAGE // SECTOR)]
