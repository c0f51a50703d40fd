"""The cases of the file of what others vouch for: checkpoints and blocks that somebody kept."""
from anchored import anchors, by_key, forged, line, register
from bundles import World, bundle_case
from signing import Key, b64

anchors("vouched-for-twice", 0, trust=lambda block, _: line(block) * 2)
anchors("vouched-for-among-others", 0, trust=lambda block, epoch: line(block, 80002, hash_=bytes(32)) + "\n\n"
        + line(block) + epoch.checkpoint(3) + "\n\n" + line(block, height=1) + epoch.checkpoint() + "\n")
anchors("vouched-for-in-lines-of-windows", 0,
        trust=lambda block, epoch: (epoch.checkpoint() + "\n" + line(block)).replace("\n", "\r\n"))
anchors("vouched-for-without-last-line-feed", 0, trust=lambda block, _: line(block)[:-1])
anchors("vouched-for-with-a-note-that-ends-the-file", 0, trust=lambda block, epoch: line(block) + epoch.checkpoint())
anchors("with-another-block-there", trust=lambda block, _: line(block, hash_=bytes(32)))
anchors("with-another-block-there-too", trust=lambda block, _: line(block) + line(block, hash_=bytes(32)))
anchors("of-another-tree-than-was-kept", size=13, trust=lambda block, epoch: line(block) + forged(epoch, 13) + "\n")
anchors("of-an-earlier-tree-than-was-kept", before=7, trust=lambda block, epoch: line(block) + forged(epoch, 7) + "\n")
for name, spoil in {
    "in-upper-case": lambda text: text[:-65] + text[-65:].upper(),
    "tabbed": lambda text: text.replace(" ", "\t"),
    "without-0x": lambda text: text.replace("0x", ""),
    "too-short": lambda text: text[:-2] + "\n",
    "too-long": lambda text: text[:-1] + "0\n",
    "with-two-blanks": lambda text: text.replace(" ", "  ", 1),
    "with-a-blank-behind": lambda text: text[:-1] + " \n",
    "with-a-leading-zero": lambda text: text.replace("137", "0137"),
    "with-a-height-in-hex": lambda text: text.replace("70000000", "0x42c1d80"),
    "with-a-negative-height": lambda text: text.replace("70000000", "-70000000"),
    "with-a-height-of-65-bits": lambda text: text.replace("70000000", str(2**64)),
    "with-one-word-less": lambda text: text.replace("137 ", ""),
    "of-another-word": lambda text: text.replace("block", "height"),
    "with-a-comment": lambda text: "# mine\n" + text,
    "in-the-middle-of-a-note": lambda text: "plant-7/" + text,
    "empty": lambda text: "\n",
}.items():
    anchors(f"vouched-for-{name}", 2, trust=lambda block, _, spoil=spoil: spoil(line(block)), names="trust.txt")


def trusted_file(name, expected, spoil):
    def make():
        made = bundle_case()
        return {**made, "trust": spoil(made["world"].epoch.checkpoint() + "\n")}
    register(f"trusted-file-{name}", expected, make, "trust.txt")


trusted_file("without-end", 3, lambda text: text[:-1])
trusted_file("without-last-line-feed", 3, lambda text: text[:-2])
trusted_file("with-empty-lines", 3, lambda text: f"\n{text}\n\n")
trusted_file("in-lines-of-windows", 3, lambda text: text.replace("\n", "\r\n"))
trusted_file("without-signature", 2, lambda text: text[:text.index("\u2014")])
trusted_file("with-an-empty-line-within", 2, lambda text: text.replace("\n", "\n\n", 1))
trusted_file("with-two-empty-lines-before-the-signature", 2, lambda text: text.replace("\n\n", "\n\n\n", 1))
trusted_file("with-a-block-behind-the-signature", 2, lambda text: text[:-1] + f"block 1 1 0x{'00' * 32}\n")
trusted_file("with-a-note-of-another-log", 3, lambda text: text + by_key(
    Key(b"other"), World(seed=8).epoch, f"log.example.com/energy\n15\n{b64(bytes(32))}\n\n") + "\n")
trusted_file("with-a-control-character", 2, lambda text: text.replace("\u2014 plant", "\u2014 pl\x7fant"))
trusted_file("with-a-signature-of-no-bytes", 2, lambda text: text[:-1] + "\u2014 witness AAAAAA==\n\n")
trusted_file("with-a-signature-of-one-byte", 3, lambda text: text[:-1] + "\u2014 witness AAAAAAA=\n\n")
trusted_file("with-a-line-of-words", 2, lambda text: text + "that is all\n")
trusted_file("that-is-no-utf-8", 2, lambda text: text + "\udcff")
