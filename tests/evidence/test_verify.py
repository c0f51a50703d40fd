"""tools/verify.py on every case of the maker, and on changes of single bits."""
import os
import pathlib
import re
import sys
import tempfile
import unittest

import flips
import maker
from anchored import ANCHORED
from cases import CASES

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
        for name, made in {**CASES, **ANCHORED}.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                maker.write(made[0], folder, *made[1:])
                code, lines = verified(folder)
                self.assertEqual((code, lines[-1]), (int(argument(folder, "expected.txt")), lines[-1]))
                self.assertIn(argument(folder, "names.txt") or ("trust.txt" if code == 2 else "HOLDS"), lines[-1])

    def test_energy_that_is_counted_twice_is_told(self):
        said = {"period-with-overlapping-blocks": "2 blocks overlap others: their energy is counted twice in the sum",
                "period-with-silences-covered-later": None, "period-of-two-epochs": None}
        for name, words in said.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                maker.write(CASES[name][0], folder, *CASES[name][1:])
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
    claim = re.match(rb'{"anchor":null,"claim":{"from":(\d+),"kind":"period","meter":"[^"]*","to":(\d+)}', data)
    return [place for group in (1, 2) for place in range(*claim.span(group))]


class SingleBits(unittest.TestCase):
    """METERSEAL_FLIPS sets how many bits of each are tried."""

    def refused(self, case, count, key=False, **spare):
        with tempfile.TemporaryDirectory() as folder:
            made = CASES[case][0]()
            for name, data in made["files"].items():
                file = pathlib.Path(folder, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            path, key = os.path.join(folder, made["path"]), made["key"] if key else None
            self.assertEqual(verify.verify(path, key)[0], 3)
            count = int(os.environ.get("METERSEAL_FLIPS", count))
            self.assertEqual([*flips.unrefused(verify.verify, folder, made["path"], key, count, **spare)], [])
            self.assertEqual(verify.verify(path, key)[0], 3)

    def test_a_bundle_with_its_proof(self):
        self.refused("bundle-without-key", 10_000)

    def test_an_archive_with_its_proof(self):
        self.refused("bundle-tar", 1000)

    def test_a_row(self):
        self.refused("row-12", 500)

    def test_a_block_with_its_readings(self):
        self.refused("block-by-register", 500)

    def test_a_period_of_two_epochs_and_their_rotation(self):
        self.refused("period-of-two-epochs", 500, spare=period_of_a_claim)

    def test_an_entry(self):
        self.refused("tlog-proof-of-entry-5", 500, key=True)

    def test_a_log(self):
        self.refused("log-of-257", 100, key=True)
        self.refused("log-of-2", 500, key=True)


if __name__ == "__main__":
    unittest.main()
