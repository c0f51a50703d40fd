"""The replay on small recorded examples, and the whole tool on an SQLite store that is and one that is not durable."""
import argparse
import contextlib
import io
import pathlib
import random
import shlex
import sys
import tempfile
import unittest

import powercut
import recording
from disk import Disk
from pages import PAGE, SECTOR
from recording import Unreadable

EXAMPLE = str(pathlib.Path(__file__).resolve().parent / "sqlite_example.py")


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def fd(number, name, deleted=False):
    return f"{number}<{text(name)[1:-1]}>" + ("(deleted)" if deleted else "")


def create(number, name, flags="O_RDWR|O_CREAT"):
    return f"openat({fd('AT_FDCWD', '/')}, {text(name)}, {flags}, 0644) = {fd(number, name)}"


def pwrite(number, name, data, offset):
    return f"pwrite64({fd(number, name)}, {text(data)}, {len(data)}, {offset}) = {len(data)}"


def write(number, name, data):
    return f"write({fd(number, name)}, {text(data)}, {len(data)}) = {len(data)}"


def fsync(number, name):
    return f"fsync({fd(number, name)}) = 0"


def rename(old, new):
    return f"rename({text(old)}, {text(new)}) = 0"


def disk(*lines):
    """The disk under the folder /s after these calls, all of one thread unless a line names its own."""
    made = Disk("/s")
    for call in recording.calls(line if line[0].isdigit() else f"7 {line}" for line in lines):
        made.apply(call)
    return made


def files(made, way, seed=1):
    return made.after_cut(way, random.Random(seed))[0]


class Recording(unittest.TestCase):
    def test_a_call_interrupted_by_another_thread_is_put_together(self):
        lines = [
            f"1 fsync({fd(3, '/s/a')} <unfinished ...>",
            f"2 {write(4, '/s/b', 'x')}",
            "1 <... fsync resumed>)              = 0",
            "2 +++ exited with 0 +++",
        ]
        told = [(call.name, call.start, call.end) for call in recording.calls(lines)]
        self.assertEqual(told, [("write", 1, 1), ("fsync", 0, 2)])

    def test_arguments_are_split_outside_of_their_brackets(self):
        line = f'5 pwritev(3<{text("/s/a")[1:-1]}>, [{{iov_base={text("a,")}, iov_len=2}}, {{iov_base={text("b")}, ' \
            "iov_len=1}], 2, 8) = 3"
        (call,) = recording.calls([line])
        self.assertEqual(len(call.args), 4)
        self.assertEqual(recording.content(call.args[1]), b"a,b")
        self.assertEqual(recording.descriptor(call.args[0]), (3, "/s/a"))

    def test_every_call_that_is_recorded_is_understood(self):
        for name in recording.TRACED.split(","):
            self.assertTrue(hasattr(Disk, "_" + name), name)

    def test_a_string_that_was_cut_off_is_refused(self):
        with self.assertRaises(Unreadable):
            recording.content('"\\x61"...')


class Replay(unittest.TestCase):
    def test_only_what_was_flushed_is_durable(self):
        made = disk(
            create(3, "/s/a"), pwrite(3, "/s/a", "old", 0), fsync(3, "/s/a"), pwrite(3, "/s/a", "new", 0),
            pwrite(3, "/s/a", "tail", 3),
        )
        self.assertEqual(files(made, "synced"), {"a": b"old"})
        self.assertEqual(files(made, "written"), {"a": b"newtail"})
        self.assertEqual(files(made, "names"), {"a": b"old"})

    def test_a_write_that_returns_while_a_flush_is_under_way_is_not_covered(self):
        made = disk(
            create(3, "/s/a"),
            f"8 fsync({fd(3, '/s/a')} <unfinished ...>",
            pwrite(3, "/s/a", "late", 0),
            "8 <... fsync resumed>) = 0",
        )
        self.assertEqual(files(made, "synced"), {"a": b""})

    def test_a_file_that_was_never_flushed_may_be_gone_empty_or_whole(self):
        made = disk(create(3, "/s/a"), write(3, "/s/a", "x"), write(3, "/s/a", "y"))
        self.assertEqual(files(made, "synced"), {})
        self.assertEqual(files(made, "names"), {"a": b""})
        self.assertEqual(files(made, "written"), {"a": b"xy"})

    def test_a_rename_is_durable_after_the_flush_of_its_folder(self):
        before = [create(3, "/s/new"), write(3, "/s/new", "x"), fsync(3, "/s/new"), rename("/s/new", "/s/a")]
        self.assertEqual(files(disk(*before), "synced"), {"new": b"x"})
        self.assertEqual(files(disk(*before), "names"), {"a": b"x"})
        self.assertEqual(files(disk(*before, fsync(4, "/s")), "synced"), {"a": b"x"})

    def test_an_unlink_may_not_have_happened_yet(self):
        made = disk(create(3, "/s/a"), fsync(3, "/s/a"), f"unlink({text('/s/a')}) = 0")
        self.assertEqual(files(made, "synced"), {"a": b""})
        self.assertEqual(files(made, "written"), {})

    def test_a_name_used_again_does_not_fall_to_the_unlink_before_it(self):
        made = disk(
            create(3, "/s/a"), fsync(3, "/s/a"), f"unlink({text('/s/a')}) = 0",
            create(4, "/s/a"), write(4, "/s/a", "second"), fsync(4, "/s/a"),
        )
        for way in ("synced", "written", "names", "random"):
            self.assertEqual(files(made, way), {"a": b"second"}, way)

    def test_the_flush_of_a_file_makes_its_new_folder_durable(self):
        made = disk(f"mkdir({text('/s/d')}, 0755) = 0", create(3, "/s/d/a"), create(4, "/s/d/b"), fsync(3, "/s/d/a"))
        self.assertEqual(made.after_cut("synced", None), ({"d/a": b""}, {"d"}))

    def test_a_renamed_folder_takes_its_files_along(self):
        made = disk(
            f"mkdir({text('/s/d')}, 0755) = 0", create(3, "/s/d/a"), rename("/s/d", "/s/e"),
            write(3, "/s/e/a", "x"), fsync(3, "/s/e/a"),
        )
        self.assertEqual(made.after_cut("written", None), ({"e/a": b"x"}, {"e"}))

    def test_a_store_made_beside_its_place_is_there_whole_or_not_at_all(self):
        made = [
            f"mkdir({text('/s/new')}, 0755) = 0", create(3, "/s/new/a"), write(3, "/s/new/a", "x"),
            fsync(3, "/s/new/a"), rename("/s/new", "/s/store"),
        ]
        self.assertEqual(files(disk(*made), "synced"), {"new/a": b"x"})
        self.assertEqual(files(disk(*made, fsync(4, "/s")), "synced"), {"store/a": b"x"})
        later = [create(5, "/s/store/b"), fsync(5, "/s/store/b")]
        self.assertEqual(files(disk(*made, *later), "synced"), {"store/a": b"x", "store/b": b""})

    def test_a_file_without_a_name_is_left_out(self):
        made = disk(
            create(3, "/s/a"), f"unlink({text('/s/a')}) = 0", f"write({fd(3, '/s/a', True)}, {text('x')}, 1) = 1"
        )
        self.assertEqual(files(made, "written"), {})

    def test_sizes_are_changed_apart_from_bytes(self):
        made = disk(create(3, "/s/a"), write(3, "/s/a", "abcdef"), fsync(3, "/s/a"),
                    f"ftruncate({fd(3, '/s/a')}, 2) = 0", pwrite(3, "/s/a", "X", 0),
                    f"fallocate({fd(3, '/s/a')}, 0, 0, 4) = 0")
        self.assertEqual(files(made, "synced"), {"a": b"abcdef"})
        self.assertEqual(files(made, "names"), {"a": b"ab\0\0"})
        self.assertEqual(files(made, "written"), {"a": b"Xb\0\0"})

    def test_positions_follow_appends_reads_seeks_and_copies_of_descriptors(self):
        made = disk(
            create(3, "/s/a"), write(3, "/s/a", "abcdef"), f"lseek({fd(3, '/s/a')}, 0, SEEK_SET) = 0",
            f"read({fd(3, '/s/a')}, {text('a')}, 1) = 1", f"fcntl({fd(3, '/s/a')}, F_DUPFD_CLOEXEC, 0) = 4",
            write(4, "/s/a", "B"), write(3, "/s/a", "C"), create(5, "/s/a", "O_WRONLY|O_APPEND"), write(5, "/s/a", "!"),
        )
        self.assertEqual(files(made, "written"), {"a": b"aBCdef!"})

    def test_a_file_opened_for_synchronous_writes_needs_no_flush(self):
        made = disk(create(3, "/s/a", "O_WRONLY|O_CREAT|O_DSYNC"), write(3, "/s/a", "x"))
        self.assertEqual(files(made, "synced"), {"a": b"x"})

    def test_a_call_that_failed_changes_nothing(self):
        made = disk(create(3, "/s/a"), f"pwrite64({fd(3, '/s/a')}, {text('x')}, 1, 0) = -1 ENOSPC (No space left)")
        self.assertEqual(files(made, "written"), {"a": b""})

    def test_what_leaves_no_calls_is_refused(self):
        mapped = f"mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, {fd(3, '/s/a')}, 0) = 0x7f0000000000"
        for line in (mapped, "io_uring_setup(8, 0x7ffd) = 4", f"symlink({text('x')}, {text('/s/l')}) = 0"):
            with self.assertRaises(Unreadable, msg=line):
                disk(create(3, "/s/a"), line)
        disk(mapped.replace(fd(3, "/s/a"), fd(3, "/s/a-shm")))

    def test_pending_pages_come_whole_missing_or_torn_at_a_sector(self):
        old, new = b"o" * 2 * PAGE, b"n" * 2 * PAGE
        made = disk(create(3, "/s/a"), pwrite(3, "/s/a", old, 0), fsync(3, "/s/a"), pwrite(3, "/s/a", new, 0))
        seen = set()
        for seed in range(300):
            data = files(made, "random", seed)["a"]
            sectors = [data[at:at + SECTOR] for at in range(0, len(data), SECTOR)]
            self.assertTrue(all(sector in (b"o" * SECTOR, b"n" * SECTOR) for sector in sectors))
            page = {sector[:1] for sector in sectors[: PAGE // SECTOR]}
            seen.add((b"".join(sorted(page)), data[:PAGE] == data[PAGE:]))
        self.assertTrue({(b"o", True), (b"n", True), (b"o", False), (b"n", False), (b"no", False)} <= seen, seen)

    def test_the_same_seed_gives_the_same_folder(self):
        made = disk(*[create(3, "/s/a")], *[pwrite(3, "/s/a", bytes([n]) * 700, 300 * n) for n in range(40)])
        self.assertEqual(files(made, "random", 5), files(made, "random", 5))


class WholeTool(unittest.TestCase):
    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.work = pathlib.Path(kept.name)

    def cut(self, *writer):
        """(exit code, what was printed) of powercut.py with the verifier of the SQLite example."""
        verify = f"{shlex.quote(sys.executable)} {shlex.quote(EXAMPLE)} verify {{dir}} {{acked}}"
        with io.StringIO() as told, contextlib.redirect_stdout(told):
            code = powercut.main(["--work", str(self.work), "--verify", verify, "--", sys.executable, *writer])
            return code, told.getvalue()

    def test_a_durable_store_loses_nothing(self):
        code, told = self.cut(EXAMPLE, "write", "{dir}", "FULL", "6")
        self.assertEqual(code, 0, told)
        self.assertIn("6 acknowledged lines", told)

    def test_a_store_that_was_there_before_is_taken_as_durable(self):
        start = self.work / "start"
        script = "import os, sys; f = open(sys.argv[1] + '/a', 'r+'); f.seek(3); f.write('!'); f.flush(); print(1)"
        start.mkdir()
        (start / "a").write_text("old")
        powercut.record(self.work, start, [sys.executable, "-c", script, "{dir}"])
        options = argparse.Namespace(start=start, every=1, random=1, seed=1, verify="grep -q old {dir}/a")
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(powercut.judge(self.work, options), 0)

    def test_a_store_that_acknowledges_too_early_is_found_out(self):
        for synchronous in ("NORMAL", "OFF"):
            code, told = self.cut(EXAMPLE, "write", "{dir}", synchronous, "6")
            self.assertEqual(code, 1, told)
            self.assertTrue(list(self.work.glob("failed/*-synced-0/told")), told)

    def test_a_writer_that_fails_or_acknowledges_nothing_gets_no_verdict(self):
        quiet = "import sys; open(sys.argv[1], 'w').write('x')"
        self.assertEqual(self.cut("-c", quiet, "{dir}"), (2, "no verdict: the writer acknowledged nothing\n"))
        code, told = self.cut("-c", "raise SystemExit(3)")
        self.assertEqual(code, 2)
        self.assertIn("the writer ended with 3", told)

    def test_a_recording_that_does_not_explain_the_store_gets_no_verdict(self):
        script = "import sys; open(sys.argv[1], 'w').write('x'); print(1)"
        powercut.record(self.work, None, [sys.executable, "-c", script, "{dir}"])
        (self.work / "run" / "store").write_text("y")
        with self.assertRaisesRegex(Unreadable, "content of store"):
            powercut.judge(self.work, argparse.Namespace(start=None, every=1, random=1, seed=1, verify="true"))


if __name__ == "__main__":
    unittest.main()
