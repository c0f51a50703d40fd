"""The parts of tools/verify.py on published vectors, and against the slow definitions of `signing` and `chain`."""
import contextlib
import hashlib
import pathlib
import random
import struct
import sys
import unittest

import chain
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


class Consistency(unittest.TestCase):
    def test_every_two_sizes_of_a_small_tree(self):
        epoch = [signing.leaf(bytes([number])) for number in range(20)]

        def at(size):
            made = verify.Checkpoint.__new__(verify.Checkpoint)
            made.origin, made.size, made.root, made.note = "x", size, signing.root(epoch[:size]), f"{size}"
            return made

        for newer in range(1, 21):
            for older in range(1, newer + 1):
                steps = signing.consistency(epoch[:newer], older)
                verify.check_consistency(at(older), at(newer), steps)
                for wrong in (steps[:-1], [*steps, epoch[0]], [epoch[0], *steps], steps[1:], [bytes(32)] * len(steps)):
                    if wrong != steps:
                        with self.assertRaises(verify.Fault):
                            verify.check_consistency(at(older), at(newer), wrong)


KECCAK = {  # of the Keccak team and of Ethereum
    b"": "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470",
    b"abc": "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45",
    b"The quick brown fox jumps over the lazy dog": "4d741b6f1eb29cb2a9b9911c82f56fa8d73b04959d3d9d222895df6c0b28aa15",
    b"Transfer(address,address,uint256)": "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef",
}
LOREM = b"Lorem ipsum dolor sit amet, consectetur adipisicing elit"
RLP = [  # of the Ethereum documentation
    (b"dog", "83646f67"), ([b"cat", b"dog"], "c88363617483646f67"), (b"", "80"), ([], "c0"), (b"\0", "00"),
    (b"\x0f", "0f"), (b"\4\0", "820400"), ([[], [[]], [[], [[]]]], "c7c0c1c0c3c0c1c0"), (LOREM, "b838" + LOREM.hex())]
TREES = {  # of ethereum/tests, trieanyorder.json
    "d23786fb4a010da3ce639d66d5e904a11dbc02746d1ce25029e53290cabf28ab": {b"A": b"a" * 50},
    "8aad789dff2f538bca5d8ea56e8abe10f4c7ba3a5dea95fea4cd6e7c3a1168d3":
        {b"doe": b"reindeer", b"dog": b"puppy", b"dogglesworth": b"cat"},
    "5991bb8c6514148a29db676a14ac506cd2cd5775ace63c30a4fe457715e9ac84":
        {b"do": b"verb", b"horse": b"stallion", b"doge": b"coin", b"dog": b"puppy"},
    "17beaa1648bafa633cda809c90c04af50fc8aed3cb40d16efbddee6fdf63c4c3": {b"foo": b"bar", b"food": b"bass"},
}
ADDRESSES = """
0x52908400098527886E0F7030069857D2E4169EE7
0x8617E340B3D01FA5F11F306F4090FD50E238070D
0xde709f2102306220921060314715629080e2fb77
0x27b1fdb04752bbc536007a920d24acb045561c26
0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed
0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359
0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB
0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb
""".split()  # of EIP-55
GENESIS = [  # the header of Ethereum's first block
    bytes(32), bytes.fromhex("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"), bytes(20),
    bytes.fromhex("d7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544"),
    *[bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")] * 2, bytes(256), 2**34, 0,
    5000, 0, 0, bytes.fromhex("11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa"), bytes(32),
    bytes(7) + b"\x42"]


class Chain(unittest.TestCase):
    def test_keccak(self):
        for data, digest in KECCAK.items():
            self.assertEqual((verify.keccak(data).hex(), chain.keccak(data).hex()), (digest, digest))
        for length in range(300):
            data = random.Random(length).randbytes(length)
            self.assertEqual(verify.keccak(data), chain.keccak(data))
            self.assertEqual(verify.keccak(data, 6), hashlib.sha3_256(data).digest())

    def test_rlp(self):
        for value, written in RLP:
            self.assertEqual((verify.rlp_write(value).hex(), chain.rlp(value).hex()), (written, written))
            if isinstance(value, list):
                self.assertEqual(verify.rlp(bytes.fromhex(written)), value)
        long = [b"x" * 60, [b"y" * 300] * 300]
        self.assertEqual(verify.rlp(chain.rlp(long)), long)

    def test_what_is_not_in_its_one_form_is_refused(self):
        for written in ("", "80", "83646f67", "c2", "c180c0", "c28105", "c3b80105", "c4b9000105", "f800", "f80180",
                        "f90038" + "05" * 56, "f83705" + "05" * 54, "c281", "bfffffffffffffffff",
                        "ffffffffffffffffffff", "c1" * 100_000, "f8", "c3c20505" + "00", "c2b800"):
            with self.subTest(written[:40]), self.assertRaises(verify.Fault):
                verify.rlp(bytes.fromhex(written))

    def test_what_is_too_large_cannot_be_read(self):
        with self.assertRaises(verify.Fault) as raised:
            verify.rlp(chain.rlp([bytes(1 << 20)]))
        self.assertEqual(raised.exception.code, 2)
        items = [b"\1"] * (verify.CHAIN_LIMIT - 4)
        self.assertEqual(len(verify.rlp(chain.headed(0xC0, b"".join(items)))), len(items))

    def test_trees(self):
        for root, pairs in TREES.items():
            self.assertEqual(chain.Tree(pairs.items()).root.hex(), root)

    def test_a_path_leads_to_its_own_value_alone(self):
        for count in (1, 2, 3, 16, 17, 18, 127, 128, 129, 130, 257):
            values = [b"value %d of a transaction that is not embedded" % place for place in range(count)]
            tree = chain.Tree([(chain.rlp(place), value) for place, value in enumerate(values)])
            for index in {0, 1, count // 2, min(127, count - 1), count - 1} & {*range(count)}:
                path = tree.path(chain.rlp(index))
                self.assertEqual(verify.path_value(tree.root, path, index), values[index])
                for wrong in (path[1:], path[:-1], path + path[-1:], [*path[:-1], path[0]] if path[1:] else []):
                    with self.assertRaises(verify.Fault):
                        verify.path_value(tree.root, wrong, index)
                for other in (index + 1, index + 128, 2**40 + index):
                    with self.assertRaises(verify.Fault):
                        verify.path_value(tree.root, path, other)

    def test_addresses(self):
        for text in ADDRESSES:
            address = bytes.fromhex(text[2:])
            self.assertEqual((verify.eip55(address), chain.mixed_case(address)), (text, text))
            for same in (text, text.lower(), "0x" + text[2:].upper()):
                self.assertEqual(verify.read_address(same), address)
        for wrong in (text[2:], "0X" + text[2:], text[:-1], text + "0", text.swapcase().replace("X", "x"), f" {text}",
                      text[:-1] + "B", text[:-1] + "g", text[:-1] + "\u0661"):
            with self.assertRaises(verify.Fault):
                verify.read_address(wrong)

    def test_a_header(self):
        hash_ = "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3"
        self.assertEqual(verify.keccak(verify.rlp_write(verify.rlp(chain.rlp(GENESIS)))).hex(), hash_)


class Secp256k1(unittest.TestCase):
    def test_the_example_of_eip_155(self):
        account = chain.Account(int("46" * 32, 16))
        self.assertEqual(account.address.hex(), "9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f")
        digest = bytes.fromhex("daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53")
        signed = (0, 0x28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276,
                  0x67cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83)
        self.assertEqual(account.sign(digest), signed)
        self.assertEqual(verify.signer(digest, *signed), account.address)

    def test_the_nonces_of_rfc_6979(self):
        digest = hashlib.sha256(b"Satoshi Nakamoto").digest()
        self.assertEqual(chain.Account(1).sign(digest)[1:], (
            0x934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8,
            0x2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5))

    def test_a_transaction_of_the_main_net(self):
        data = bytes.fromhex("a22cb465" + "5eee75727d804a2b13038928d36f8b188945a57a".zfill(64) + "00" * 32)
        fields = [1, 0x42, 0x3b9aca00, 0x4a817c800, 44386, bytes.fromhex("6069a6c32cf691f5982febae4faf8a6f3ab2f0f6"), 0,
                  data, []]
        signed = (0, 0x840cfc572845f5786e702984c2a582528cad4b49b2a10b9db1be7fca90058565,
                  0x25e7109ceb98168d95b09b18bbf6b685130e0562f233877d492b94eee0c5b6d1)
        found = verify.signer(verify.keccak(b"\2" + chain.rlp(fields)), *signed)
        self.assertEqual(found.hex(), "dd6b8b3dc6b7ad97db52f08a275ff4483e024cea")
        self.assertEqual(verify.keccak(b"\2" + chain.rlp([*fields, *signed])).hex(),
                         "0ec0b6a2df4d87424e5f6ad2a654e27aaeb7dac20ae9e8385cc09087ad532ee0")

    def test_no_other_signature_is_of_the_same_key(self):
        account, digest = chain.Account(b"x"), bytes(range(32))
        parity, r, s = account.sign(digest)
        wrong = [(1 - parity, r, s), (2, r, s), (parity, r, chain.ORDER - s), (1 - parity, r, chain.ORDER - s),
                 (parity, 0, s), (parity, r, 0), (parity, chain.ORDER, s), (parity, r, chain.ORDER)]
        wrong += [(parity, r ^ 1 << bit, s) for bit in range(0, 256, 16)]
        for signature in wrong + [(parity, r, s ^ 1 << bit) for bit in range(0, 256, 16)]:
            try:
                self.assertNotEqual(verify.signer(digest, *signature), account.address, signature)
            except verify.Fault:
                pass

    def test_an_r_of_no_point_is_refused(self):
        for r in range(1, 40):
            is_on = pow(r**3 + 7, (chain.FIELD - 1) // 2, chain.FIELD) == 1
            with self.subTest(r), contextlib.nullcontext() if is_on else self.assertRaises(verify.Fault):
                verify.signer(bytes(range(32)), 0, r, 1)

    def test_sums_of_points(self):
        three = chain.multiplied(3, chain.BASE)
        two = verify.plus(verify.GENERATOR, verify.GENERATOR)
        self.assertEqual(verify.plus(two, verify.GENERATOR), three)
        self.assertEqual(verify.plus(None, two), two)
        self.assertIsNone(verify.plus(two, (two[0], verify.FIELD - two[1])))


if __name__ == "__main__":
    unittest.main()
