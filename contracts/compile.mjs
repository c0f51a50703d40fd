// Compiles the contract and writes the artifact to standard output. The compiler comes from npm:
//   node contracts/compile.mjs [folder that holds node_modules]
// tests/setup installs it into .peers/, which is the default.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const packages = resolve(process.argv[2] ?? join(here, "../.peers"));
const solc = createRequire(join(packages, "node_modules/"))("solc");

const CONTRACT = "EvidenceAnchor";
const SOURCE = `${CONTRACT}.sol`;
const SETTINGS = {
  // No instruction that came later: it runs on every chain of this kind since 2022.
  evmVersion: "paris",
  // Without the hash of the metadata, the same code comes of the same source wherever it is compiled.
  metadata: { appendCBOR: false, bytecodeHash: "none" },
  optimizer: { enabled: true, runs: 200 },
  viaIR: false,
};

const source = readFileSync(join(here, SOURCE));
const output = JSON.parse(
  solc.compile(
    JSON.stringify({
      language: "Solidity",
      sources: { [SOURCE]: { content: source.toString("utf8") } },
      settings: {
        ...SETTINGS,
        outputSelection: { [SOURCE]: { [CONTRACT]: ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
      },
    }),
  ),
);
if (output.errors?.length) {
  process.stderr.write(output.errors.map((error) => error.formattedMessage).join("\n"));
  process.exit(1);
}
const { abi, evm } = output.contracts[SOURCE][CONTRACT];
const artifact = {
  contract: CONTRACT,
  source: SOURCE,
  sourceSha256: createHash("sha256").update(source).digest("hex"),
  // What follows names the machine that the compiler was built for.
  compiler: solc.version().match(/^[0-9.]+\+commit\.[0-9a-f]+/)[0],
  settings: SETTINGS,
  abi,
  bytecode: `0x${evm.bytecode.object}`,
  deployedBytecode: `0x${evm.deployedBytecode.object}`,
};
process.stdout.write(`${JSON.stringify(artifact, null, 2)}\n`);
