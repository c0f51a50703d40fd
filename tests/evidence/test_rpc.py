"""What tools/verify.py makes of the answers of nodes: of one that is made up and may lie, and of a real one (anvil,
which tests/setup installs)."""
import contextlib
import copy
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.request

import chain
from anchored import ACCOUNT, CONTRACT, anchor, pinned
from bundles import World, block_case, proof_case
from maker import write
from signing import root, sha

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import verify  # noqa: E402


def hexed(data):
    return "0x" + data.hex()


class Fake:
    """A node that answers by a function of method and params: a result, an error as `Exception`, or raw `bytes`; as a
    pair with the status of HTTP, or with 200."""

    def __init__(self, answer):
        def do_post(request):
            asked = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
            told = answer(asked["method"], asked["params"])
            status, told = told if isinstance(told, tuple) else (200, told)
            if isinstance(told, Exception):
                told = {"error": {"code": -32000, "message": str(told)}}
            elif not isinstance(told, bytes):
                told = {"result": told}
            if not isinstance(told, bytes):
                told = json.dumps({"id": asked["id"], "jsonrpc": "2.0", **told}).encode()
            request.send_response(status)
            if 300 <= status < 400:
                request.send_header("Location", f"{self.url}/elsewhere")
            request.end_headers()
            with contextlib.suppress(OSError):
                request.wfile.write(told)
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), {
            "do_POST": do_post, "log_message": lambda *_: None})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/with/a/key"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Nodes(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        value, self.world = block_case()
        element, self.block = anchor(self.world.epoch)
        made = pinned(proof_case(self.world, {**value, "anchor": [element]}), trust=lambda: "")
        write(lambda: made, self.folder, 0, "", True)
        account, contract, hash_ = hexed(ACCOUNT.address), hexed(CONTRACT), hexed(self.block.hash)
        epoch = self.world.epoch
        words = sha(epoch.origin.encode()), len(epoch.entries), root(epoch.leaves())
        log = chain.event(CONTRACT, ACCOUNT.address, *words)
        same = {"blockHash": hash_, "blockNumber": hex(self.block.height), "transactionIndex": "0x3",
                "from": account, "to": contract}
        other = {"address": "0x" + "00" * 18 + "1010", "topics": [], "data": "0x"}
        self.truth = {
            "eth_chainId": "0x89", "block": {"number": hex(self.block.height), "hash": hash_},
            "finalized": {"number": hex(self.block.height), "hash": hash_},
            "latest": {"number": hex(self.block.height + 9), "hash": "0x" + "11" * 32},
            "eth_getTransactionByHash": {**same, "input": hexed(chain.contract_data(*words))},
            "eth_getTransactionReceipt": {**same, "status": "0x1", "logs": [other, {
                "address": contract, "topics": [hexed(topic) for topic in log[1]], "data": hexed(log[2]),
                "logIndex": "0x1"}, other]}}

    def node(self, **lies):
        told = {**copy.deepcopy(self.truth), **lies}

        def answer(method, params):
            if method == "eth_getBlockByNumber":
                self.assertIs(params[1], False)
                return told.get(params[0], told["block"] if params[0] == hex(self.block.height) else None)
            if method != "eth_chainId":
                self.assertEqual(len(params), 1)
            return told[method]
        node = Fake(answer)
        self.stack.callback(node.close)
        return node.url

    def verdict(self, *urls, trust=None):
        read = {name: pathlib.Path(self.folder, f"{name}.txt").read_text().split() for name in (
            "path", "key", "account", "contract", "chain")}
        file = None
        if trust is not None:
            file = os.path.join(self.folder, "vouched.txt")
            pathlib.Path(file).write_text(trust)
        code, lines = verify.verify(os.path.join(self.folder, read["path"][0]), read["key"][0], file, read["account"],
                                    read["contract"], read["chain"][0], urls)
        return code, "\n".join(lines)

    def expect(self, code, words, *urls, **more):
        found, text = self.verdict(*urls, **more)
        self.assertEqual(found, code, text)
        self.assertIn(words, text)
        self.assertNotIn("with/a/key", text)
        return text

    def other(self, member, **values):
        return {member: {**self.truth[member], **values}}

    def test_a_final_block_holds(self):
        text = self.expect(0, "which is final", self.node())
        self.assertRegex(text, r"http://127\.0\.0\.1:\d+: it has this block")
        self.expect(0, "HOLDS.", self.node(finalized={"number": hex(self.block.height + 10**6)}))

    def test_without_a_node_it_stays_open(self):
        self.expect(3, f"nobody vouched for block 70000000 {hexed(self.block.hash)} of the chain 137")

    def test_a_block_that_is_not_final_stays_open(self):
        early = {"number": hex(self.block.height - 1)}
        self.expect(3, "calls final only what is up to 69999999", self.node(finalized=early))
        self.expect(0, "HOLDS.", self.node(finalized=early), self.node())

    def test_a_node_that_knows_no_tag_is_asked_for_its_newest(self):
        for tag in (None, ValueError("finalized block not found")):
            for newest, code in ((255, 3), (256, 0)):
                self.expect(code, "it has this block",
                            self.node(finalized=tag, latest={"number": hex(self.block.height + newest)}))
        self.expect(3, "nobody vouched", self.node(finalized=None, latest=None))

    def test_a_refusal_is_one_by_whatever_status_of_http(self):
        deep = {"number": hex(self.block.height + 256)}
        refusal = ValueError("finalized block not found")
        for status in (400, 404, 422):
            self.expect(0, "HOLDS.", self.node(finalized=(status, refusal), latest=deep))
        for lie in ((503, refusal), (429, refusal), (400, b"<html>"), (500, None), (302, b""),
                    b'{"error":{"code":-32005,"message":"daily request count exceeded"}}', b'{"error":"busy"}',
                    b'{"error":{"code":-32603,"message":"internal error"}}'):
            text = self.expect(3, "it has this block, but it", self.node(finalized=lie, latest=deep))
            self.assertIn("nobody vouched", text)

    def test_it_goes_to_no_other_address(self):
        asked = []

        def answer(method, params):
            asked.append(method)
            return 302, b""
        node = Fake(answer)
        self.stack.callback(node.close)
        self.expect(3, "HTTP 302", node.url)
        self.assertEqual(asked, ["eth_chainId"])

    def test_a_node_that_stumbles_has_the_block_none_the_less(self):
        another = self.node(**self.other("block", hash="0x" + "22" * 32))
        for lie, words in (({"finalized": (503, b"")}, "it does not answer: HTTP 503"),
                           ({"finalized": b"<html>"}, "its answer is no JSON"),
                           ({"finalized": {}}, "does not write numbers"),
                           ({"finalized": None, "latest": (503, b"")}, "it does not answer: HTTP 503"),
                           ({"finalized": None, "latest": None}, "does not write numbers"),
                           ({"eth_getTransactionByHash": (503, b"")}, "it does not answer: HTTP 503"),
                           ({"eth_getTransactionReceipt": (503, b"")}, "it does not answer: HTTP 503"),
                           (self.other("eth_getTransactionReceipt", logs=None), "not written as a node does")):
            text = self.expect(3, f"it has this block, but {words}" if "503" in words else words, self.node(**lie))
            self.assertIn("nobody vouched", text)
            for urls in ((self.node(**lie), another), (another, self.node(**lie))):
                self.expect(3, "nodes contradict one another", *urls)
        # What is another block stays one, whatever is known of what is final.
        self.expect(1, "a node has another one there", self.node(
            **self.other("block", hash="0x" + "22" * 32), finalized=(503, b"")))

    def test_what_is_final_is_asked_before_the_block(self):
        asked = []
        told = self.truth

        def answer(method, params):
            asked.append(params[0] if params else method)
            return told.get(asked[-1], told["block"] if asked[-1] == hex(self.block.height) else told.get(method))
        node = Fake(answer)
        self.stack.callback(node.close)
        self.expect(0, "HOLDS.", node.url)
        self.assertEqual(asked[:3], ["eth_chainId", "finalized", hex(self.block.height)])

    def test_another_block_is_told(self):
        another = self.node(**self.other("block", hash="0x" + "22" * 32))
        self.expect(1, "DOES NOT HOLD: proof.proof.json: anchor[0]: expected block 70000000", another)
        self.expect(1, "a node has another one there", another, self.node(block=None))
        self.expect(1, "a node has another one there", another, another, self.node(eth_chainId="0x1"))
        self.expect(3, "nodes contradict one another", another, self.node())
        self.expect(3, "nodes contradict one another", self.node(), another)
        self.expect(3, "nodes contradict", self.node(finalized={"number": "0x1"}), another)

    def test_what_is_vouched_for_does_not_silence_nodes(self):
        line = f"block 137 70000000 {hexed(self.block.hash)}\n"
        another = self.node(**self.other("block", hash="0x" + "22" * 32))
        self.expect(0, "HOLDS.", trust=line)
        self.expect(0, "HOLDS.", self.node(block=None), trust=line)
        self.expect(0, "HOLDS.", self.node(finalized={"number": "0x1"}), trust=line)
        self.expect(1, "a node has another one there", another, trust=line)
        self.expect(3, "nodes contradict one another", another, self.node(), trust=line)
        self.expect(1, "--trust has 0x00", self.node(), trust=f"block 137 70000000 0x{'00' * 32}\n")

    def test_a_node_of_another_chain_knows_nothing(self):
        self.expect(3, "it is of the chain 1", self.node(eth_chainId="0x1"))
        self.expect(0, "HOLDS.", self.node(eth_chainId="0x1"), self.node())

    def test_a_node_that_knows_nothing_leaves_it_open(self):
        for lie, words in (({"block": None}, "it does not know that height"),
                           ({"block": ValueError("pruned")}, "it refuses eth_getBlockByNumber"),
                           (self.other("block", number="0x7"), "it gives another height"),
                           (self.other("block", hash=None), "it gives another height, or no hash"),
                           (self.other("block", hash="0x12"), "or no hash"),
                           ({"block": []}, "its answer to eth_getBlockByNumber is none"),
                           ({"eth_chainId": 137}, "its answer to eth_chainId is none"),
                           ({"eth_chainId": "137"}, "does not write numbers"),
                           ({"eth_chainId": None}, "does not write numbers"),
                           ({"eth_chainId": b"<html>"}, "its answer is no JSON"),
                           ({"eth_chainId": b"[" * 200_000}, "its answer is no JSON"),
                           ({"eth_chainId": b"[]"}, "is none"), ({"eth_chainId": b"{}"}, "is none"),
                           ({"eth_chainId": b""}, "its answer is no JSON"),
                           ({"eth_chainId": b'{"error":"' + b"\\u001b[31m" * 1000 + b'"}'}, "it refuses"),
                           ({"finalized": {}}, "does not write numbers"),
                           ({"finalized": {"number": 7}}, "does not write numbers"),
                           ({"eth_getTransactionReceipt": {**self.truth["eth_getTransactionReceipt"], "logs": [7]}},
                            "not written as a node does")):
            text = self.expect(3, words, self.node(**lie))
            self.assertNotIn("\x1b", text)
            self.assertIn("nobody vouched", text)

    def test_a_node_that_does_not_answer_leaves_it_open(self):
        gone = Fake(lambda *_: None)
        gone.close()
        self.expect(3, "it does not answer", gone.url)
        self.expect(0, "HOLDS.", gone.url, self.node())
        limit, verify.ANSWER_LIMIT = verify.ANSWER_LIMIT, 1 << 20
        try:
            self.expect(3, "its answer does not end", self.node(eth_chainId=b" " * (2 << 20)))
        finally:
            verify.ANSWER_LIMIT = limit

    def test_an_answer_that_never_comes_is_given_up(self):
        hanging = threading.Event()
        node = Fake(lambda *_: hanging.wait(60))
        patience, verify.PATIENCE = verify.PATIENCE, 0.2
        try:
            self.expect(3, "it does not answer", node.url)
        finally:
            verify.PATIENCE = patience
            hanging.set()
            node.close()

    def test_a_node_that_contradicts_itself_is_not_believed(self):
        for method, lie, words in (
                ("eth_getTransactionByHash", {"blockHash": "0x" + "22" * 32}, "its transaction has another blockHash"),
                ("eth_getTransactionByHash", {"transactionIndex": "0x4"}, "another transactionIndex"),
                ("eth_getTransactionByHash", {"from": hexed(CONTRACT)}, "another from"),
                ("eth_getTransactionByHash", {"to": None}, "another to"),
                ("eth_getTransactionByHash", {"input": "0x"}, "another input"),
                ("eth_getTransactionReceipt", {"blockHash": "0x" + "22" * 32}, "its receipt has another blockHash"),
                ("eth_getTransactionReceipt", {"transactionIndex": "0x4"}, "another transactionIndex"),
                ("eth_getTransactionReceipt", {"from": hexed(CONTRACT)}, "another from"),
                ("eth_getTransactionReceipt", {"to": hexed(ACCOUNT.address)}, "another to"),
                ("eth_getTransactionReceipt", {"status": "0x0"}, "another status"),
                ("eth_getTransactionReceipt", {"logs": []}, "its receipt has another log")):
            self.expect(3, words, self.node(**self.other(method, **lie)))
            self.expect(3, "or themselves", self.node(**self.other(method, **lie)), self.node())
        logs = self.truth["eth_getTransactionReceipt"]["logs"]
        for lie in ({"data": "0x"}, {"topics": logs[1]["topics"][:2]}, {"topics": logs[1]["topics"][::-1]}):
            told = self.other("eth_getTransactionReceipt", logs=[{**logs[1], **lie}])
            self.expect(3, "its receipt has another log", self.node(**told))
        told = self.other("eth_getTransactionReceipt", logs=[logs[1], logs[1]])
        self.expect(3, "its receipt has another log", self.node(**told))

    def test_a_node_that_forgot_the_transaction_still_knows_the_block(self):
        forgot = {"eth_getTransactionByHash": None, "eth_getTransactionReceipt": ValueError("pruned")}
        self.expect(0, "HOLDS.", self.node(**forgot))

    def test_upper_case_of_a_node_is_its_own_affair(self):
        told = {**self.other("eth_getTransactionReceipt", to=chain.mixed_case(CONTRACT)),
                **self.other("block", hash="0x" + self.block.hash.hex().upper())}
        self.expect(0, "HOLDS.", self.node(**told))
        logs = copy.deepcopy(self.truth["eth_getTransactionReceipt"]["logs"])
        logs[1].update(address=chain.mixed_case(CONTRACT), data="0x" + logs[1]["data"][2:].upper(),
                       topics=["0x" + topic[2:].upper() for topic in logs[1]["topics"]])
        self.expect(0, "HOLDS.", self.node(**self.other("eth_getTransactionReceipt", logs=logs)))

    def test_what_is_given_must_be_what_it_is_called(self):
        path = os.path.join(self.folder, "proof.proof.json")
        for given, words in (({"accounts": ["0x12"]}, "--account: expected an address"),
                             ({"accounts": [chain.mixed_case(ACCOUNT.address).swapcase().replace("X", "x")]}, "EIP-55"),
                             ({"contracts": [""]}, "--contract: expected an address"),
                             ({"chain": "0x89"}, "--chain: expected a decimal string"),
                             ({"chain": "-1"}, "--chain: -1 is beyond"), ({"chain": str(2**64)}, "--chain: "),
                             ({"rpc": ["ftp://x"]}, "--rpc: expected http"), ({"rpc": ["http://"]}, "--rpc: expected"),
                             ({"key": "mine"}, "--key: expected a verifier key")):
            code, lines = verify.verify(path, **given)
            self.assertEqual(code, 2, lines)
            self.assertIn(words, lines[-1])
        for given in (hexed(ACCOUNT.address), "0x" + ACCOUNT.address.hex().upper()):
            self.assertEqual(verify.verify(path, accounts=[given])[0], 3)

    def test_an_address_that_is_refused_is_not_repeated(self):
        path = os.path.join(self.folder, "proof.proof.json")
        for url in ("http://me:secret@node:8545/", "http://secret@node", "http://node/my secret",
                    "http://node/secret\n", "http://node/s\u00e9cret", "http://node:secret/",
                    "http://node:99999/secret", "node/secret", "ws://node/secret", "http://[secret]/",
                    "http://no de/secret", "http:///secret", "https://me:secret@node\\@other/"):
            code, lines = verify.verify(path, rpc=[url])
            self.assertEqual(code, 2, url)
            self.assertIn("--rpc: expected http", lines[-1])
            self.assertNotRegex("".join(lines), "secret|s\u00e9cret|99999")
        for url, name in (("https://polygon.example/v2/0123?key=k#x", "https://polygon.example"),
                          ("http://[::1]:8545", "http://[::1]:8545"), ("http://my_node-1:80/@x", "http://my_node-1:80"),
                          ("http://node?key=k", "http://node")):
            self.assertEqual(verify.Node(url).name, name)

    def test_the_command_takes_them(self):
        done = subprocess.run(
            [sys.executable, ROOT / "tools/verify.py", os.path.join(self.folder, "proof.proof.json"), "--key",
             self.world.key(), "--rpc", self.node(block=None), "--rpc", self.node(), "--account", hexed(CONTRACT),
             "--account", hexed(ACCOUNT.address), "--contract", hexed(CONTRACT), "--chain", "137"],
            capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr, done.stdout.split("\n")[-2]), (0, "", "HOLDS."))
        for words in (chain.mixed_case(ACCOUNT.address), chain.mixed_case(CONTRACT), hexed(self.block.hash)):
            self.assertIn(words, done.stdout)


class Anvil:
    """A real node with a chain of its own, whose tag `finalized` is two blocks below its newest."""

    def __init__(self, folder, chain_id):
        package = ROOT / ".peers/node_modules/@foundry-rs"
        program = next(package.glob("anvil-*/bin/anvil"), None)
        assert program, f"no anvil in {package}: run tests/setup"
        command = [program, "--chain-id", str(chain_id), "--port", "0", "--no-mining", "--slots-in-an-epoch", "1",
                   "--hardfork", "prague", "--threads", "2"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, "HOME": folder})
        said = iter(self.process.stdout.readline, "")
        port = next((found[1] for line in said if (found := re.search(r"Listening on \S+:(\d+)", line))), None)
        assert port, "anvil did not start"
        threading.Thread(target=lambda: [*said], daemon=True).start()  # what it says would fill the pipe
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method, *params):
        body = json.dumps({"id": 1, "jsonrpc": "2.0", "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
        assert "error" not in told, told
        return told["result"]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


# The first of anvil's accounts, whose key is known to the whole world.
RICH = chain.Account(0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80)
HEADER = """parentHash sha3Uncles miner stateRoot transactionsRoot receiptsRoot logsBloom difficulty number gasLimit
gasUsed timestamp extraData mixHash nonce baseFeePerGas withdrawalsRoot blobGasUsed excessBlobGas
parentBeaconBlockRoot requestsHash""".split()
NUMBERS = "difficulty number gasLimit gasUsed timestamp baseFeePerGas blobGasUsed excessBlobGas".split()


def unhexed(text):
    return bytes.fromhex(text[2:])


class RealNode(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, chain_id):
        node = Anvil(self.folder, chain_id)
        self.addCleanup(node.close)
        return node

    def send(self, node, to, data, chain_id):
        def fields(fields):
            fields[1] = int(node.ask("eth_getTransactionCount", hexed(RICH.address), "pending"), 16)
            fields[4] = 300_000
            if not to:
                fields[5] = b""
        return node.ask("eth_sendRawTransaction", hexed(RICH.transaction(to, data, chain_id, fields)))

    def evidence(self, node, sent):
        """What a proof has of a transaction, from what the node tells of its block."""
        own = node.ask("eth_getTransactionReceipt", sent)
        block = node.ask("eth_getBlockByHash", own["blockHash"], False)
        values = [[], []]
        for hash_ in block["transactions"]:
            values[0].append(unhexed(node.ask("eth_getRawTransactionByHash", hash_)))
            came = node.ask("eth_getTransactionReceipt", hash_)
            logs = [[unhexed(log["address"]), [*map(unhexed, log["topics"])], unhexed(log["data"])]
                    for log in came["logs"]]
            fields = int(came["status"], 16), int(came["cumulativeGasUsed"], 16), unhexed(came["logsBloom"]), logs
            values[1].append(b"\2" + chain.rlp([*fields]))
        header = chain.rlp([int(block[name], 16) if name in NUMBERS else unhexed(block[name])
                            for name in HEADER if name in block])
        self.assertEqual(hexed(chain.keccak(header)), block["hash"])
        index, made = int(own["transactionIndex"], 16), {}
        for name, found, top in zip(("transaction", "receipt"), values, ("transactionsRoot", "receiptsRoot")):
            tree = chain.Tree([(chain.rlp(place), value) for place, value in enumerate(found)])
            self.assertEqual(hexed(tree.root), block[top])
            made[name] = [data.hex() for data in tree.path(chain.rlp(index))]
        return {"header": header.hex(), "index": index, **made}, int(block["number"], 16)

    def check(self, chain_id, by_contract):
        node = self.start(chain_id)
        node.ask("anvil_mine", "0x4")
        value, world = block_case()
        epoch, contract = world.epoch, None
        words = sha(epoch.origin.encode()), len(epoch.entries), root(epoch.leaves())
        if by_contract:
            code = json.loads((ROOT / "contracts/EvidenceAnchor.json").read_text())["bytecode"]
            made = self.send(node, b"", unhexed(code), chain_id)
            node.ask("anvil_mine", "0x1")
            contract = unhexed(node.ask("eth_getTransactionReceipt", made)["contractAddress"])
        data = chain.contract_data(*words) if by_contract else chain.call_data(*words)
        other = self.send(node, RICH.address, b"before", chain_id)
        sent = self.send(node, contract or RICH.address, data, chain_id)
        self.send(node, RICH.address, b"behind", chain_id)
        node.ask("anvil_mine", "0x1")
        self.assertNotEqual(other, sent)
        evidence, height = self.evidence(node, sent)
        self.assertEqual(evidence["index"], 1)
        made = proof_case(world, {**value, "anchor": [{"checkpoint": epoch.checkpoint(), "hashes": [], **evidence}]})
        path = pathlib.Path(self.folder, "proof.proof.json")
        path.write_bytes(made["files"]["proof.proof.json"])

        def verdict():
            return verify.verify(path, world.key(), None, [chain.mixed_case(RICH.address)],
                                 [hexed(contract)] if contract else [], str(chain_id), [node.url])
        self.assertIn(f"it has this block, and calls final only what is up to {height - 2}", "\n".join(verdict()[1]))
        self.assertEqual(verdict()[0], 3)
        node.ask("anvil_mine", "0x1")
        self.assertEqual(verdict()[0], 3)
        node.ask("anvil_mine", "0x1")
        code, lines = verdict()
        self.assertEqual((code, lines[-1]), (0, "HOLDS."), "\n".join(lines))
        self.assertIn(hexed(verify.keccak(bytes.fromhex(evidence["header"]))), "\n".join(lines))
        node.ask("anvil_reorg", 3, [])
        code, lines = verdict()
        self.assertEqual(code, 1, "\n".join(lines))
        self.assertIn("a node has another one there", lines[-1])

    def test_an_anchor_by_contract_holds_until_the_chain_goes_another_way(self):
        self.check(137, by_contract=True)

    def test_an_anchor_by_call_data_holds_until_the_chain_goes_another_way(self):
        self.check(80002, by_contract=False)


if __name__ == "__main__":
    unittest.main()
