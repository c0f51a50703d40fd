"""The parts of tools/verify.py on the vectors of the RFCs, and against the slow definitions of `signing`."""
import pathlib
import random
import struct
import sys
import unittest

import signing

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import verify  # noqa: E402

# RFC 8785, appendix B.
NUMBERS = """
0000000000000000 0
8000000000000000 0
0000000000000001 5e-324
8000000000000001 -5e-324
7fefffffffffffff 1.7976931348623157e+308
ffefffffffffffff -1.7976931348623157e+308
4340000000000000 9007199254740992
c340000000000000 -9007199254740992
4430000000000000 295147905179352830000
44b52d02c7e14af5 9.999999999999997e+22
44b52d02c7e14af6 1e+23
44b52d02c7e14af7 1.0000000000000001e+23
444b1ae4d6e2ef4e 999999999999999700000
444b1ae4d6e2ef4f 999999999999999900000
444b1ae4d6e2ef50 1e+21
3eb0c6f7a0b5ed8c 9.999999999999997e-7
3eb0c6f7a0b5ed8d 0.000001
41b3de4355555553 333333333.3333332
41b3de4355555554 333333333.33333325
41b3de4355555555 333333333.3333333
41b3de4355555556 333333333.3333334
41b3de4355555557 333333333.33333343
becbf647612f3696 -0.0000033333333333333333
43143ff3c1cb0959 1424953923781206.2
"""

# RFC 8032, 7.1: public key, message, signature.
SIGNATURES = [
    ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
     "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
     "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
     "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
    ("ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
     "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
     "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
     "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
     "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"),
]
FORM = r"^-?(0|[1-9][0-9]{0,20}|[0-9]+\.[0-9]*[1-9]|[1-9](\.[0-9]*[1-9])?e[+-][1-9][0-9]*)$"
SECRET = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"  # of the first

# The leaves and roots that Certificate Transparency's own tests use.
LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                           "606162636465666768696a6b6c6d6e6f")]
ROOTS = """
6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d
fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125
aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77
d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4
76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef
ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c
5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328
""".split()
PATHS = {  # (index, size): from leaf to root
    (0, 1): "",
    (0, 8): "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7 "
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e "
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    (5, 8): "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b "
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0 "
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    (2, 3): "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    (1, 5): "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d "
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e "
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
}


class CanonicalJson(unittest.TestCase):
    def test_numbers_of_the_rfc(self):
        for line in NUMBERS.split("\n")[1:-1]:
            bits, text = line.split()
            value = struct.unpack(">d", bytes.fromhex(bits))[0]
            self.assertEqual(verify.ecmascript(value), text)
            self.assertEqual(verify.jcs(verify.parse(text.encode())), text)

    def test_a_double_comes_back_and_no_shorter_text_gives_it(self):
        chance = random.Random(3)
        for _ in range(20_000):
            value = struct.unpack(">d", chance.randbytes(8))[0]
            if value - value == 0:
                text = verify.ecmascript(value)
                self.assertEqual(float(text), value)
                self.assertRegex(text, FORM)
                digits = len(text.lstrip("-").partition("e")[0].replace(".", "").strip("0"))
                self.assertTrue(digits < 2 or float(f"{value:.{digits - 2}e}") != value, text)

    def test_examples_of_the_rfc(self):
        value = {"numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
                 "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/", "literals": [None, True, False]}
        self.assertEqual(verify.jcs(value), '{"literals":[null,true,false],'
                                            '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
                                            '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}')
        order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
        text = verify.jcs({name: 0 for name in sorted(order)})
        self.assertEqual(text, "{" + ",".join(f"{verify.jcs(name)}:0" for name in order) + "}")

    def test_what_is_not_canonical_is_refused(self):
        for text in ('{"a":1,"a":1}', "NaN", "Infinity", "-Infinity", "-0", "-0.0", "1.0", "1e2", "01", "1e400",
                     "9007199254740993", '"\\u0041"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\/"', '"\x01"', " 1", "1 ",
                     "\ufeff1", "[1,]", "", '{"b":1,"a":1}', "[" * 100_000, "1" * 5000, '{"\ufb33":1,"\U0001f600":1}',
                     "[1 ]"):
            with self.subTest(text[:40]), self.assertRaises(verify.Fault):
                verify.parse(text.encode())

    def test_a_whole_number_stays_within_2_to_the_53(self):
        self.assertEqual(verify.whole(verify.parse(b"9007199254740992")), 2**53)
        for text in (b"9007199254740994", b"1.5", b"-1", b"true", b'"1"'):
            with self.assertRaises(verify.Fault):
                verify.whole(verify.parse(text))


class Trees(unittest.TestCase):
    def test_roots_of_certificate_transparency(self):
        tree = verify.Tree()
        self.assertEqual(tree.root().hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        for data, expected in zip(LEAVES, ROOTS):
            tree.add(verify.leaf_hash(data))
            self.assertEqual(tree.root().hex(), expected)

    def test_paths_of_certificate_transparency(self):
        for (index, size), path in PATHS.items():
            steps = [bytes.fromhex(step) for step in path.split()]
            found = verify.path_root(verify.leaf_hash(LEAVES[index]), index, size, steps)
            self.assertEqual(found.hex(), ROOTS[size - 1])

    def test_paths_and_sections_of_every_small_tree(self):
        chance = random.Random(5)
        for size in range(1, 36):
            leaves = [signing.leaf(bytes([number])) for number in range(size)]
            for index in range(size):
                path = signing.path(leaves, index)
                self.assertEqual(verify.path_root(leaves[index], index, size, path), signing.root(leaves))
                for wrong in (path[:-1], [*path, path[0] if path else leaves[0]]):
                    if wrong != path:
                        with self.assertRaises(verify.Fault):
                            verify.path_root(leaves[index], index, size, wrong)
            known = sorted(chance.sample(range(size), chance.randrange(1, size + 1)))
            hashes = signing.others(leaves, known)
            own = [(index, leaves[index]) for index in known]
            self.assertEqual(verify.section_root(own, hashes, size), signing.root(leaves))
            for wrong in (hashes[:-1], [*hashes, leaves[0]]):
                if wrong != hashes:
                    with self.assertRaises(verify.Fault):
                        verify.section_root(own, wrong, size)
        with self.assertRaises(verify.Fault):
            verify.path_root(leaves[0], 35, 35, [])


class Ed25519(unittest.TestCase):
    def test_signatures_of_the_rfc(self):
        for public, message, signature in SIGNATURES:
            given = [bytes.fromhex(text) for text in (public, message, signature)]
            self.assertTrue(verify.signed_by(*given))
            self.assertFalse(verify.signed_by(given[0], given[1] + b"\0", given[2]))
        key = signing.Key(bytes.fromhex(SECRET))
        self.assertEqual((key.public.hex(), key.sign(b"").hex()), (SIGNATURES[0][0], SIGNATURES[0][2]))

    def test_no_bit_of_a_signature_may_change(self):
        public, message, signature = [bytes.fromhex(text) for text in SIGNATURES[2]]
        for place in range(len(signature) * 8):
            wrong = bytearray(signature)
            wrong[place // 8] ^= 1 << place % 8
            self.assertFalse(verify.signed_by(public, message, bytes(wrong)), place)

    def test_s_stays_below_the_order(self):
        public, message, signature = [bytes.fromhex(text) for text in SIGNATURES[2]]
        more = int.from_bytes(signature[32:], "little") + signing.ORDER
        self.assertFalse(verify.signed_by(public, message, signature[:32] + more.to_bytes(32, "little")))

    def test_points_of_small_order_and_other_ways_to_write_a_point_are_refused(self):
        side = pow(2, (signing.P - 1) // 4, signing.P)
        small = {signing.packed(signing.times(n, (side, 0, 1))) for n in range(4)}
        eighth = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
        self.assertEqual(len(small), 4)
        for data in (*small, bytes.fromhex(eighth), bytes.fromhex(eighth[:-2] + "85"),
                     (signing.P + 3).to_bytes(32, "little"), (1 | 1 << 255).to_bytes(32, "little"), b"\xff" * 32):
            self.assertIsNone(verify.point(data), data.hex())
        self.assertIsNotNone(verify.point((3).to_bytes(32, "little")))  # which P + 3 would be, too

    def test_a_signature_by_a_weak_key_is_refused(self):
        weak = signing.WeakKey()
        made = [weak.sign(bytes([number])) for number in range(20)]
        self.assertTrue(any(signature != bytes(64) for signature in made))
        for number, signature in enumerate(made):
            self.assertFalse(verify.signed_by(weak.public, bytes([number]), signature))


if __name__ == "__main__":
    unittest.main()
