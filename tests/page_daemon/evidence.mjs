// The view Evidence before a log of which a part stands on a chain: what it says of that, and what can be taken home and verified.

import { readFileSync, writeFileSync } from "node:fs";
import { VIEWER, api, assert, done, everywhere, signedIn, text, texts, told, url } from "../page/browser.mjs";
import { command, download, run, status } from "./home.mjs";

const page = await signedIn({ hash: "#/evidence" });
const says = (locator, text) => locator.filter({ hasText: text }).first().waitFor();
const card = (name) => page.locator("section.card", { has: page.getByRole("heading", { name, level: 2, exact: true }) });
const fact = async (of, name) => {
  const pair = of.locator("dl > div", { has: page.locator("dt", { hasText: new RegExp(`^${name}$`) }) });
  return (await pair.locator("dd").textContent()).replaceAll("\u00a0", " ");
};

// How large the log is, and by which checkpoint: as the gateway's own log says to anybody. Signing in has made it longer than what is
// on the chain, once that is signed.
const { anchors: [anchor], account, covered } = await api("GET", "/api/anchor");
const shown = async () => {
  await card("The log").waitFor();
  return Number(/^\d+/.exec(await fact(card("The log"), "Size"))[0]);
};
let size = await shown();
for (let tries = 0; size <= anchor.size && tries < 80; tries += 1) {
  await page.waitForTimeout(250);
  await page.reload();
  size = await shown();
}
assert(size > anchor.size, `${size} entries, ${anchor.size} of them anchored`);
const [{ epoch, key }] = await (await fetch(`${url}/log/`)).json();
assert.equal(key, told.key);
const checkpoint = (await (await fetch(`${url}/log/${epoch}/checkpoint`)).text()).split("\n");
assert(Number(checkpoint[1]) >= size && checkpoint[0].endsWith(`/${epoch}`), checkpoint[0]);
assert.match(await fact(card("The log"), "Newest checkpoint"), /^signs all until \d+ \w+ \d{4}, \d\d:\d\d$/);
assert.equal(await fact(card("The log"), "Epochs"), "1");
const row = await texts(page, "section.card:last-child tbody tr > *");
assert.deepEqual([row[0], Number(row[2]) >= size, row[3], row[4]], [epoch, true, "the first one", key]);

// What of it is on the chain, since when, and where anybody sees that.
assert.match(await text(page, ".view .notice"), /^All that was sealed until \d+ \w+ \d{4}, \d\d:\d\d is on Polygon for good: nobody can change it unnoticed\.$/);
assert((await fact(card("The log"), "Final on the chain")).startsWith(`${anchor.size} entries, until `));
assert.match(await fact(card("The log"), "Newest block that is final"), /^Main incomer, \d+ \w+, \d\d:[03]0 – \d\d:[03]0$/);
for (const link of [card("The log").getByRole("link"), card("Anchors").getByRole("link")]) {
  assert.equal(await link.getAttribute("href"), `https://polygonscan.com/tx/${anchor.transaction}`);
  assert.deepEqual([await link.getAttribute("rel"), await link.getAttribute("target")], ["noopener noreferrer", "_blank"]);
}
assert.equal(await card("Anchors").locator(".badge").textContent(), "Final");
await says(card("Anchors"), `first ${anchor.size} entries`);
assert.equal(await fact(card("Account and chain"), "Account"), account);
await says(card("Account and chain").locator("li"), /In trouble http:\/\/127\.0\.0\.1:1: refuses the connection/);
await everywhere(page, "evidence");

// One more anchor is asked for, and waits for a node that answers.
await page.getByRole("button", { name: "Anchor now" }).click();
await says(card("Anchors"), /Queued: the first \d+\sentries of the log\./);
await says(card("Anchors").locator(".badge"), "Queued");
assert.equal(await card("Anchors").locator("tbody tr").count(), 2);

// The proof of a block that is final on the chain is taken home, and holds by the commands of the page.
const commands = await Promise.all(["Command that verifies a proof", "Command that verifies a proof in Python"].map((name) => command(page, name)));
for (const words of commands) assert(words.endsWith(` FILE --key '${key}' --chain 137 --account ${account}`), words);
assert.match(await command(page, "Command that verifies a proof with nodes of the chain"), /^meterseal verify FILE .* --rpc https:\/\/NODE-A --rpc https:\/\/NODE-B$/);
assert.equal(await command(page, "Command that shows the key"), "meterseal key show");
const proofs = card("A proof to take away");
// The site is eight hours ahead of UTC.
const day = new Date(Date.parse(covered.block.start) + 8 * 3600000).toISOString().slice(0, 10);
await proofs.getByLabel("Day", { exact: true }).fill(day);
const take = (say) => download(page, async () => {
  await proofs.getByRole("button", { name: "Download the proof" }).click();
  await says(proofs, say);
});
const option = proofs.getByLabel("Block", { exact: true }).locator(`option[value="${covered.block.start}"]`);
await option.waitFor({ state: "attached" });
assert.match(await option.textContent(), /^\d\d:[03]0 – \d\d:[03]0, 6\.00\skWh$/);
await proofs.getByLabel("Block", { exact: true }).selectOption(covered.block.start);
const proof = await take("Downloaded.");
const [{ code, said }, inPython] = commands.map((words) => run(words, proof));
// Nothing is left open but what only a node of the chain can say.
assert.equal(code, 3, said);
assert.deepEqual(said.match(/^(holds|open|fails) +.+/gm).map((line) => line.replace(/ +/, " ")), ["holds record", "holds energy by register", "holds raw readings", "holds log", "holds checkpoint", "holds key", "holds anchor", "open block"]);
assert.match(said, new RegExp(`${anchor.transaction} on chain 137`));
assert.match(said, /import 6\.000000000 kWh/);
assert.equal(inPython.code, 3, inPython.said);
assert.match(inPython.said, /HOLDS, but nobody vouched for block/);

// So does the proof of a period; and one of which a digit was changed does not.
await proofs.getByLabel("What").selectOption("period");
await proofs.getByLabel("First day").fill(day);
await proofs.getByLabel("Last day").fill(day);
const period = run(commands[0], await take("Downloaded."));
assert.equal(period.code, 3, period.said);
assert.match(period.said, /holds +blocks\n.* blocks? touch/);
const bytes = readFileSync(proof, "utf8");
const forged = bytes.replace(/6000000000/g, "6000000001");
assert.notEqual(forged, bytes);
writeFileSync(proof, forged);
for (const words of commands) assert.equal(run(words, proof).code, 1, words);

// A viewer sees all of it and takes proofs home, and is neither offered nor granted an anchor.
const guest = await signedIn({ pin: VIEWER, hash: "#/evidence" });
await guest.getByRole("heading", { name: "How to verify" }).waitFor();
assert.equal(await guest.getByRole("button", { name: "Anchor now" }).count(), 0);
assert(await guest.getByRole("button", { name: "Download the proof" }).isVisible());
const { token: viewer } = await api("POST", "/api/session", { pin: VIEWER });
assert.deepEqual([await status(viewer, "GET", "/api/anchor"), await status(viewer, "POST", "/api/anchor")], [200, 403]);
await done();
