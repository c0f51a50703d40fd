"""tools/verify.py on every case of the maker, and on changes of single bits."""
import os
import pathlib
import re
import sys
import tempfile
import unittest

import flips
import maker

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import verify  # noqa: E402


def argument(folder, name):
    file = pathlib.Path(folder, name)
    return file.read_text().strip() if file.exists() else None


def verified(folder, path=None, **more):
    """What verify.py says of a case as it lies in its folder."""
    trust = os.path.join(folder, "trust.txt")
    return verify.verify(
        path or os.path.join(folder, argument(folder, "path.txt")), argument(folder, "key.txt"),
        trust if os.path.exists(trust) else None, (argument(folder, "account.txt") or "").split(),
        (argument(folder, "contract.txt") or "").split(), argument(folder, "chain.txt"), **more)


class Cases(unittest.TestCase):
    def test_every_case_ends_as_expected_and_names_the_file(self):
        for name, made in maker.EVERY.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                maker.write(made[0], folder, *made[1:])
                code, lines = verified(folder)
                self.assertEqual((code, lines[-1]), (int(argument(folder, "expected.txt")), lines[-1]))
                self.assertIn(argument(folder, "names.txt") or "HOLDS", lines[-1])

    def test_energy_that_is_counted_twice_is_told(self):
        said = {"period-with-overlapping-blocks": "2 blocks overlap others: their energy is counted twice in the sum",
                "period-with-silences-covered-later": None, "period-of-two-epochs": None}
        for name, words in said.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                maker.write(maker.EVERY[name][0], folder, *maker.EVERY[name][1:])
                path = os.path.join(folder, argument(folder, "path.txt"))
                code, lines = verify.verify(path, argument(folder, "key.txt"))
                self.assertEqual(code, 3)
                self.assertEqual((words or "overlap") in lines[-1], words is not None, lines[-1])


class Frozen(unittest.TestCase):
    def test_datasets_that_may_never_change_hold(self):
        folder = pathlib.Path(__file__).resolve().parents[1] / "frozen" / "dataset-v1"
        for bundle in sorted(folder.iterdir()):
            if bundle.is_dir() or bundle.suffix == ".tar":
                code, lines = verify.verify(bundle)
                self.assertEqual(lines[-1], "HOLDS, but there is no proof beside the bundle; it is not anchored.")
                self.assertEqual(code, 3)


def period_of_a_claim(name, data):
    """The digits of a period's `from` and `to`: what holds of one period holds of another, too, and is told as such."""
    claim = re.match(rb'.*"claim":{"from":(\d+),"kind":"period","meter":"[^"]*","to":(\d+)}', data)
    return [place for group in (1, 2) for place in range(*claim.span(group))]


def headers(name, data):
    """The digits of the headers of anchors."""
    return [place for found in re.finditer(rb'"header":"([0-9a-f]*)"', data) for place in range(*found.span(1))]


class SingleBits(unittest.TestCase):
    """METERSEAL_FLIPS sets how many bits of each are tried."""

    def flipped(self, case, count, key=False, expected=3, **spare):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as aside:
            made = maker.EVERY[case][0]()
            for name, data in made["files"].items():
                file = pathlib.Path(folder, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            maker.write(lambda: {**made, "files": {}}, aside, expected, "", key)
            count = int(os.environ.get("METERSEAL_FLIPS", count))

            def verified_there(path):
                return verified(aside, path)

            path = os.path.join(folder, made["path"])
            self.assertEqual(verified_there(path)[0], expected)
            found = [*flips.unrefused(verified_there, folder, made["path"], count, **spare)]
            self.assertEqual(verified_there(path)[0], expected)
            return found

    def refuses(self, *case, **more):
        self.assertEqual(self.flipped(*case, **more), [])

    def test_a_bundle_with_its_proof(self):
        self.refuses("bundle-without-key", 10_000)

    def test_an_archive_with_its_proof(self):
        self.refuses("bundle-tar", 1000)

    def test_a_row(self):
        self.refuses("row-12", 500)

    def test_a_block_with_its_readings(self):
        self.refuses("block-by-register", 500)

    def test_a_period_of_two_epochs_and_their_rotation(self):
        self.refuses("period-of-two-epochs", 500, spare=period_of_a_claim)

    def test_an_entry(self):
        self.refuses("tlog-proof-of-entry-5", 500, key=True)

    def test_a_log(self):
        self.refuses("log-of-257", 100, key=True)
        self.refuses("log-of-2", 500, key=True)

    def test_anchors(self):
        """Of proofs with all that can be given, so that nothing but the flip keeps them from 0."""
        def spare(name, data):
            return {*(period_of_a_claim(name, data) if b'"period"' in data else ()), *headers(name, data)}
        for case in ("anchor-of-an-older-checkpoint-with-consistency", "anchor-by-call-data", "anchor-of-a-bundle",
                     "anchor-of-a-period-with-consistency-in-one-epoch"):
            self.refuses(case, 200, key=True, expected=0, spare=spare)

    def test_a_header_is_that_of_the_block_which_somebody_vouches_for(self):
        """Another height makes another block, of which nobody said anything: that is 3, and never 0."""
        def spare(name, data):
            return {*range(len(data))} - {*headers(name, data)}
        found = self.flipped("anchor-by-contract", 300, key=True, expected=0, spare=spare)
        self.assertLess(len(found), 20)
        for words in found:
            self.assertIn("exit 3, HOLDS, but nobody vouched for block 7", words)


if __name__ == "__main__":
    unittest.main()
