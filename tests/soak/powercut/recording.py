"""Reads what `strace -f -y -xx` wrote: one `Call` for each system call that returned, in the order of return.

With -xx every string and every path is hexadecimal, so no quote, comma or bracket in a text can be one of its own.
"""
import os
import re
from dataclasses import dataclass

# What changes a folder, what makes a change durable, and what moves a file position.
TRACED = (
    "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,read,readv,lseek,mmap,ftruncate,truncate,fallocate,"
    "copy_file_range,sendfile,splice,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,"
    "mkdir,mkdirat,dup,dup2,dup3,fcntl,chdir,fchdir,fsync,fdatasync,sync,syncfs,io_uring_setup"
)
LONGEST_STRING = 16 * 1024 * 1024


class Unreadable(Exception):
    """The recording, or something in it, is not understood: no verdict can be given."""


@dataclass(frozen=True)
class Call:
    name: str
    args: tuple[str, ...]
    result: int  # negative when it failed or never returned
    returned: str  # what follows the number: the path of a new descriptor
    start: int  # lines of the recording on which it was entered and on which it returned
    end: int


def command(recording, argv):
    """The strace command that runs `argv` and leaves its recording in the file `recording`."""
    traced = ",".join("?" + name for name in TRACED.split(","))  # not every processor has all of them
    return [
        "strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", str(LONGEST_STRING), "-e", "signal=none",
        "-e", f"trace={traced}", "-o", str(recording), "--", *argv,
    ]


_LINE = re.compile(r"(\d+) +(?:(\w+)\(|<\.\.\. (\w+) resumed>)(.*)", re.DOTALL)
_PIECES = re.compile(r'"[^"]*"(?:\.\.\.)?|[][{}(),]|[^][{}(),"]+')
_UNFINISHED = " <unfinished ...>"


def calls(lines):
    """The calls of a recording. Calls that another thread's calls interrupt are put together again."""
    entered = {}
    for number, line in enumerate(lines):
        found = _LINE.match(line.rstrip("\n"))
        if not found:
            continue  # a signal, or the end of a process
        process, name, resumed, rest = found.groups()
        start = number
        if resumed:
            name = resumed
            if (process, name) not in entered:
                raise Unreadable(f"line {number + 1}: {name} is resumed but was never entered")
            start, head = entered.pop((process, name))
            rest = head + rest
        if rest.endswith(_UNFINISHED):
            entered[process, name] = start, rest.removesuffix(_UNFINISHED)
            continue
        head, equals, result = rest.rpartition(" = ")
        head = head.rstrip()
        if not equals or not head.endswith(")"):
            raise Unreadable(f"line {number + 1}: not a system call: {line[:120]!r}")
        value = re.match(r"-?\d+|0x[0-9a-f]+|\?", result)
        if not value:
            raise Unreadable(f"line {number + 1}: not a result: {result[:120]!r}")
        number_of = -1 if value[0] == "?" else int(value[0], 0)
        yield Call(name, _arguments(head[:-1]), number_of, result[value.end():], start, number)


def _arguments(text):
    depth, current, found = 0, [], []
    for piece in _PIECES.findall(text):
        if piece == "," and depth == 0:
            found.append("".join(current).strip())
            current = []
            continue
        if piece in ("[", "{", "("):
            depth += 1
        elif piece in ("]", "}", ")"):
            depth -= 1
        current.append(piece)
    if current:
        found.append("".join(current).strip())
    return tuple(found)


def content(arg):
    """The bytes of a string argument, or of all the strings of a vector of buffers."""
    if '"...' in arg:
        raise Unreadable(f"a string longer than {LONGEST_STRING} bytes was cut off")
    return b"".join(bytes.fromhex(text.replace("\\x", "")) for text in re.findall(r'"([^"]*)"', arg))


def path(arg):
    """The path of a string argument."""
    return os.fsdecode(content(arg))


def descriptor(arg):
    """(number, path) of an argument such as `3</srv/a>`; no path when the file has no name any more."""
    found = re.match(r"(-?\d+|AT_FDCWD)(?:<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?)?", arg)
    if not found:
        raise Unreadable(f"not a descriptor: {arg[:80]!r}")
    number = -100 if found[1] == "AT_FDCWD" else int(found[1])
    if found[2] is None or found[3]:
        return number, None
    return number, os.fsdecode(bytes.fromhex(found[2].replace("\\x", "")))
