"""What a disk may hold of one folder when the power goes, worked out from the system calls that wrote it.

Every change is pending until a flush makes it durable:

* fsync or fdatasync of a file makes durable what was written to it before the flush began, its size, and its name;
* fsync of a folder makes durable the names made, changed and removed in it;
* sync and syncfs make everything durable; sync_file_range makes nothing durable.

A journal may commit earlier and the kernel may write pages at any time, so a pending change may be on the disk as well,
and we are pessimistic both ways. See `WAYS` for what is tried.
"""
import os
import posixpath
from dataclasses import dataclass, field

from pages import File, Resize, Write, put, replay, resize, some_of
from recording import Unreadable, content, descriptor, path

# synced   only what was made durable
# written  everything that was written
# names    every name and size, but only the bytes that were made durable (a journal committed, the pages were not yet
#          written: files that are empty, or hold zeros, under their final name)
# random   a random part of the pending names, in their order, and of the pending pages, some torn at a sector
WAYS = ("synced", "written", "names", "random")

FLUSHES = ("fsync", "fdatasync", "sync", "syncfs")


@dataclass
class Opened:
    """An open file description: dup makes a second number for the same one."""
    file: File
    append: bool
    durable: bool
    offset: int = 0


@dataclass
class Naming:
    """A change of names: `create`, `unlink`, `rename`, `link`, `mkdir`, `rmdir`."""
    order: int
    kind: str
    paths: tuple[str, ...]
    file: File | None = None


@dataclass
class Names:
    files: dict = field(default_factory=dict)
    folders: set = field(default_factory=set)

    def copy(self):
        return Names(dict(self.files), set(self.folders))

    def apply(self, naming):
        first, last = naming.paths[0], naming.paths[-1]
        if naming.kind in ("create", "link"):
            self.files[last] = naming.file
        elif naming.kind == "unlink":
            self.files.pop(first, None)
        elif naming.kind == "mkdir":
            self.folders.add(first)
        elif naming.kind == "rmdir":
            self.folders.discard(first)
        elif first in self.files:
            self.files[last] = self.files.pop(first)
        else:
            for folder in [name for name in self.folders if related(name, first)]:
                self.folders.remove(folder)
                self.folders.add(last + folder.removeprefix(first))
            for name in [name for name in self.files if related(name, first)]:
                self.files[last + name.removeprefix(first)] = self.files.pop(name)


def related(below, above):
    """Whether `below` is `above` or lies in it."""
    return below == above or below.startswith(above + "/")


class Disk:
    def __init__(self, root, starts=()):
        """`root` is the recorded folder; `starts` tells of folders in it that were durable at first: name -> copy."""
        self.root = os.path.realpath(root)
        self.cwd = os.getcwd()
        self.opened = {}
        self.live = Names()
        self.durable = Names()
        self.pending = []  # the pending changes of names, oldest first
        self.order = 0
        for name in starts:
            self._load(posixpath.join(self.root, name), starts[name])
        self.durable = self.live.copy()

    def _load(self, place, start):
        for folder, _, files in os.walk(start):
            here = posixpath.normpath(posixpath.join(place, os.path.relpath(folder, start)))
            self.live.folders.add(here)
            for name in files:
                with open(os.path.join(folder, name), "rb") as opened:
                    data = opened.read()
                self.live.files[posixpath.join(here, name)] = File(bytearray(data), bytearray(data))

    # -- what a call does ------------------------------------------------------------------------------------------

    def flushes(self, call):
        """Whether `call` is a flush that concerns the folder; if so, what it flushes."""
        if call.name not in FLUSHES or call.result < 0:
            return None
        if call.name in ("sync", "syncfs"):
            return call.name
        _, flushed = descriptor(call.args[0])
        if flushed is None or not related(flushed, self.root):
            return None
        return f"{call.name} {os.path.relpath(flushed, self.root)}"

    def apply(self, call):
        if call.result < 0:
            return
        getattr(self, "_" + call.name)(call)

    def _inside(self, name):
        return name is not None and related(name, self.root)

    def _at(self, folder, name):
        """The path `name`, taken from the descriptor `folder` (or from the working folder)."""
        base = self.cwd if folder is None else descriptor(folder)[1] or self.cwd
        return posixpath.normpath(posixpath.join(base, path(name)))

    def _file(self, number_and_name):
        """The file behind a descriptor, when it is in the folder and still has a name."""
        _, name = number_and_name
        return self.live.files.get(name) if self._inside(name) else None

    def _name(self, kind, *paths, file=None):
        self.order += 1
        naming = Naming(self.order, kind, paths, file)
        self.live.apply(naming)
        self.pending.append(naming)

    def _opening(self, call, flags):
        number, name = call.result, descriptor(f"{call.result}{call.returned}")[1]
        self.opened.pop(number, None)
        if "O_TMPFILE" in flags:
            return
        if not self._inside(name) or name == self.root or name in self.live.folders:
            return
        if name not in self.live.files:
            self._name("create", name, file=File())
        file = self.live.files[name]
        if "O_TRUNC" in flags and file.live:
            self._resize(file, 0, call)
        self.opened[number] = Opened(file, "O_APPEND" in flags, "O_SYNC" in flags or "O_DSYNC" in flags)

    def _openat(self, call):
        self._opening(call, call.args[2].split("|"))

    def _open(self, call):
        self._opening(call, call.args[1].split("|"))

    def _creat(self, call):
        self._opening(call, ["O_CREAT", "O_WRONLY", "O_TRUNC"])

    def _dup(self, call):
        old = descriptor(call.args[0])[0]
        if old in self.opened:
            self.opened[call.result] = self.opened[old]
        else:
            self.opened.pop(call.result, None)

    _dup2 = _dup3 = _dup

    def _fcntl(self, call):
        if call.args[1].startswith("F_DUPFD"):
            self._dup(call)
        elif call.args[1] == "F_SETFL":
            opened = self.opened.get(descriptor(call.args[0])[0])
            if opened:
                opened.append = "O_APPEND" in call.args[2]

    def _chdir(self, call):
        self.cwd = self._at(None, call.args[0])

    def _fchdir(self, call):
        self.cwd = descriptor(call.args[0])[1] or self.cwd

    def _read(self, call):
        target = descriptor(call.args[0])
        if self._file(target) and target[0] in self.opened:
            self.opened[target[0]].offset += call.result

    _readv = _read

    def _lseek(self, call):
        target = descriptor(call.args[0])
        if self._file(target) and target[0] in self.opened:
            self.opened[target[0]].offset = call.result

    def _mmap(self, call):
        if "MAP_SHARED" not in call.args[3] or "PROT_WRITE" not in call.args[2]:
            return
        _, name = descriptor(call.args[4])
        # The index of an SQLite log is mapped, and made anew by whoever opens the store first.
        if self._inside(name) and not name.endswith("-shm"):
            raise Unreadable(f"{name} is written through a memory map, which leaves no system calls to record")

    def _io_uring_setup(self, call):
        raise Unreadable("the program writes through io_uring, which leaves no system calls to record")

    def _put(self, call, offset=None, durable=False):
        """A write at `offset`, or at the position of the descriptor."""
        target = descriptor(call.args[0])
        file = self._file(target)
        if file is None:
            return
        opened = self.opened.get(target[0])
        if opened is None or opened.file is not file:
            raise Unreadable(f"{target[1]} is written by a descriptor that was not seen to be opened")
        data = content(call.args[1])[:call.result]
        at = len(file.live) if opened.append else opened.offset if offset is None else offset
        if offset is None:
            opened.offset = at + len(data)
        self._store(file, at, data, call)
        if opened.durable or durable:
            self._flush_file(file, call.end + 1)

    def _write(self, call):
        self._put(call)

    _writev = _write

    def _pwrite64(self, call):
        self._put(call, int(call.args[3]))

    def _pwritev(self, call):
        self._put(call, int(call.args[3]))

    def _pwritev2(self, call):
        offset = int(call.args[3])
        self._put(call, None if offset == -1 else offset, "SYNC" in call.args[4])

    def _copy_file_range(self, call):
        source, target = descriptor(call.args[0]), descriptor(call.args[2])
        file = self._file(target)
        if file is None:
            self._read(call)
            return
        origin = self._file(source)
        if origin is None or call.args[1] != "NULL" or call.args[3] != "NULL":
            raise Unreadable(f"{call.name} into {target[1]} is not supported")
        source_opened, target_opened = self.opened[source[0]], self.opened[target[0]]
        data = bytes(origin.live[source_opened.offset:source_opened.offset + call.result])
        self._store(file, target_opened.offset, data, call)
        source_opened.offset += call.result
        target_opened.offset += call.result

    def _sendfile(self, call):
        target = call.args[2] if call.name == "splice" else call.args[0]
        if self._file(descriptor(target)):
            raise Unreadable(f"{call.name} into the folder is not supported")

    _splice = _sendfile

    def _store(self, file, offset, data, call):
        self.order += 1
        file.pending.append(Write(self.order, call.end, offset, data))
        put(file.live, offset, data)

    def _resize(self, file, size, call):
        self.order += 1
        file.pending.append(Resize(self.order, call.end, size))
        resize(file.live, size)

    def _ftruncate(self, call):
        file = self._file(descriptor(call.args[0]))
        if file:
            self._resize(file, int(call.args[1]), call)

    def _truncate(self, call):
        file = self.live.files.get(self._at(None, call.args[0]))
        if file:
            self._resize(file, int(call.args[1]), call)

    def _fallocate(self, call):
        file = self._file(descriptor(call.args[0]))
        if not file:
            return
        mode, offset, length = call.args[1].split("|"), int(call.args[2]), int(call.args[3])
        if "FALLOC_FL_PUNCH_HOLE" in mode or "FALLOC_FL_ZERO_RANGE" in mode:
            end = offset + length
            if "FALLOC_FL_KEEP_SIZE" in mode:
                end = min(end, len(file.live))
            if end > offset:
                self._store(file, offset, bytes(end - offset), call)
        elif mode == ["0"]:
            if offset + length > len(file.live):
                self._resize(file, offset + length, call)
        elif mode != ["FALLOC_FL_KEEP_SIZE"]:
            raise Unreadable(f"fallocate {call.args[1]} is not supported")

    def _moved(self, old, new):
        if old == new or not (self._inside(old) or self._inside(new)):
            return
        if not (self._inside(old) and self._inside(new)):
            raise Unreadable(f"a rename into or out of the folder is not supported: {old} to {new}")
        self._name("rename", old, new, file=self.live.files.get(old))

    def _rename(self, call):
        self._moved(self._at(None, call.args[0]), self._at(None, call.args[1]))

    def _renameat(self, call):
        if len(call.args) > 4 and "RENAME_EXCHANGE" in call.args[4]:
            raise Unreadable("an exchange of two names is not supported")
        self._moved(self._at(call.args[0], call.args[1]), self._at(call.args[2], call.args[3]))

    _renameat2 = _renameat

    def _linked(self, old, new):
        if not self._inside(new):
            return
        if old not in self.live.files:
            raise Unreadable(f"a link from outside the folder is not supported: {new}")
        self._name("link", old, new, file=self.live.files[old])

    def _link(self, call):
        self._linked(self._at(None, call.args[0]), self._at(None, call.args[1]))

    def _linkat(self, call):
        self._linked(self._at(call.args[0], call.args[1]), self._at(call.args[2], call.args[3]))

    def _symlink(self, call):
        if self._inside(self._at(None, call.args[1])):
            raise Unreadable("a symbolic link in the folder is not supported")

    def _symlinkat(self, call):
        if self._inside(self._at(call.args[1], call.args[2])):
            raise Unreadable("a symbolic link in the folder is not supported")

    def _unlinked(self, name, kind="unlink"):
        if self._inside(name):
            self._name(kind, name, file=self.live.files.get(name))

    def _unlink(self, call):
        self._unlinked(self._at(None, call.args[0]))

    def _unlinkat(self, call):
        kind = "rmdir" if "AT_REMOVEDIR" in call.args[2] else "unlink"
        self._unlinked(self._at(call.args[0], call.args[1]), kind)

    def _rmdir(self, call):
        self._unlinked(self._at(None, call.args[0]), "rmdir")

    def _mkdir(self, call):
        self._unlinked(self._at(None, call.args[0]), "mkdir")

    def _mkdirat(self, call):
        self._unlinked(self._at(call.args[0], call.args[1]), "mkdir")

    # -- flushes ---------------------------------------------------------------------------------------------------

    def _fsync(self, call):
        name = descriptor(call.args[0])[1]
        file = self._file((0, name))
        if file:
            self._flush_file(file, call.start)
        elif self._inside(name):
            self._commit([n for n in self.pending if name in map(posixpath.dirname, n.paths) or name in n.paths])

    _fdatasync = _fsync

    def _sync(self, call):
        for file in {id(file): file for file in [*self.live.files.values(), *self.durable.files.values()]}.values():
            self._flush_file(file, call.start)
        self._commit(self.pending)

    _syncfs = _sync

    def _flush_file(self, file, start):
        """Makes durable what had been written before line `start`, and the name of the file."""
        left = []
        for op in file.pending:
            if op.end < start:
                replay(file.synced, op)
            else:
                left.append(op)
        file.pending = left
        self._commit([naming for naming in self.pending if naming.file is file and naming.kind != "unlink"])

    def _commit(self, wanted):
        """Makes these changes of names durable, and the earlier ones they stand on."""
        chosen = {naming.order for naming in wanted}
        touched = set()
        for naming in reversed(self.pending):
            leans = any(related(a, b) or related(b, a) for a in naming.paths for b in touched)
            if naming.order in chosen or leans:
                chosen.add(naming.order)
                touched.update(naming.paths)
        for naming in self.pending:
            if naming.order in chosen:
                self.durable.apply(naming)
        self.pending = [naming for naming in self.pending if naming.order not in chosen]

    # -- the folder after a cut ------------------------------------------------------------------------------------

    def after_cut(self, way, random):
        """(files, folders) as the disk holds them if the power goes now; paths are below the root."""
        if way == "written":
            names = self.live
            held = {name: bytes(file.live) for name, file in names.files.items()}
        elif way == "synced":
            names = self.durable
            held = {name: bytes(file.synced) for name, file in names.files.items()}
        else:
            names, last = self.durable.copy(), self.order
            if way == "random":
                orders = [naming.order for naming in self.pending]
                orders += [op.order for file in self.live.files.values() for op in file.pending]
                last = random.choice([0, self.order, *sorted(orders)])
            for naming in self.pending:
                if naming.order <= last:
                    names.apply(naming)
            share = random.choice((0.1, 0.5, 0.9)) if way == "random" else 0
            seen = {}
            for name, file in sorted(names.files.items()):
                if id(file) not in seen:
                    seen[id(file)] = some_of(file, last, share, random)
            held = {name: seen[id(file)] for name, file in names.files.items()}
        below = len(self.root) + 1
        return {name[below:]: data for name, data in held.items()}, {name[below:] for name in names.folders}
