// The view Evidence in every state of its anchors: what it says of them, and where it leads. What is taken home from it and verified
// is looked at before a whole daemon.

import { api, assert, done, everywhere, shown, signedIn, text, texts } from "./browser.mjs";

const page = await signedIn({ hash: "#/evidence" });
const card = (name) => page.locator("section.card", { has: page.getByRole("heading", { name, level: 2, exact: true }) });
const anchors = card("Anchors").locator("tbody tr");
const cells = async (nth) => (await anchors.nth(nth).locator("> *").allTextContents()).map((text) => text.replaceAll("\u00a0", " "));
const facts = async (name) => (await card(name).locator("dl > div").allTextContents()).map((text) => text.replaceAll("\u00a0", " "));

// What is on the chain, in words, with links that nobody follows by himself.
await anchors.nth(2).waitFor();
const { log, covered, anchors: all } = await api("GET", "/api/anchor");
assert.deepEqual(all.map(({ state }) => state), ["queued", "included", "final"]);
assert.match(await text(page, ".view .notice"), /^All that was sealed until 21 Nov 2026, \d\d:\d\d is on Polygon for good: nobody can change it unnoticed\.$/);
const told = await facts("The log");
assert.equal(told[0], `Size${log.size} entries`);
assert.match(told[1], /^Newest checkpointsigns all until 21 Nov 2026, \d\d:\d\d$/);
assert.match(told[2], new RegExp(`^Final on the chain${covered.size} entries, until 21 Nov 2026, \\d\\d:\\d\\d$`));
assert.equal(told[4], "Newest block that is finalMain incomer, 21 Nov, 09:30 – 10:00");
assert.equal(told[5], "Next anchor21 Nov 2026, 16:18");
assert.deepEqual(await texts(page, "section.card:has(> .title h2) tbody th .badge"), ["Queued", "On the chain, not final", "Final"]);
assert.deepEqual((await cells(2)).slice(2), [`first ${covered.size} entries`, "0x0000…0401", "0.0009 POL"]);
assert.deepEqual((await cells(0)).slice(3), ["–", "–"]);
const links = card("Anchors").getByRole("link");
assert.deepEqual(await links.evaluateAll((all) => all.map((link) => [link.getAttribute("href"), link.rel, link.target])), ["501", "401"].map((nonce) => [`https://polygonscan.com/tx/0x${nonce.padStart(64, "0")}`, "noopener noreferrer", "_blank"]));
assert.equal(await card("The log").getByRole("link").getAttribute("href"), await links.last().getAttribute("href"));
const account = await facts("Account and chain");
assert.match(account[1], /^Balance20\.0485 POL, enough for 812 days, asked \d+ \S+ ago$/);
assert.deepEqual([account[0], account[2], account[3]], ["ChainPolygon", "Account0x8ba1f109551bD432803012645Ac136ddd64DBA72", "Contractnone: anchors are call data"]);
assert.equal(await text(page, ".view .rows li"), "Answers https://polygon.example, height 79,000,500, final 79,000,498");
await everywhere(page, "evidence");

// What a node or a config says is text, never markup or a script; and what is wrong stands above all.
const before = await api("GET", "/api/anchor");
const bold = "<b id=bold>no</b>";
const fake = async (answer, verdict) => {
  await page.unroute("**/api/anchor?*");
  await page.route("**/api/anchor?*", (route) => route.fulfill({ json: { ...before, ...answer } }));
  await page.reload();
  await shown(page, verdict, ".view .notice");
};
const waiting = { reason: "fee_ceiling", text: "the least fee is 712 gwei, above the ceiling of 300: raise anchor.max_fee_gwei, or wait", since: "2026-11-21T07:03:12.000Z" };
const reorganised = { ...all[1], state: "reorganised" };
const trouble = { ...before.rpcs[0], name: "https://second.example:8443", trouble: "does not answer: connection refused" };
await fake({ anchors: [{ ...all[0], waiting }, reorganised, all[2]], rpcs: [...before.rpcs, trouble] }, "Anchoring waits since 21 Nov, 15:03: the least fee is 712 gwei, above the ceiling of 300");
assert.deepEqual(await card("Anchors").locator("tbody .badge").evaluateAll((all) => all.map((badge) => [badge.textContent, badge.dataset.tone])), [["Queued", "warn"], ["Fell off, sent again", "warn"], ["Final", "good"]]);
assert.match((await cells(0))[0], /raise anchor\.max_fee_gwei, or wait$/);
assert.equal((await texts(page, ".view .rows li")).at(-1), "In trouble https://second.example:8443: does not answer: connection refused");
await everywhere(page, "evidence-waits");
await fake({ covered: { ...covered, size: log.size } }, "All that the log holds is on Polygon for good");
await fake({
  chain_id: 31337, chain: null, balance: "0.00001", days_left: 1, explorer: "javascript:alert(1)", waiting: { ...waiting, text: bold },
  covered: null, rpcs: [{ ...trouble, name: bold, trouble: bold }], anchors: [{ ...all[2], chain_id: 31337, chain: null, explorer: "javascript:alert(1)", waiting: { ...waiting, text: bold } }],
}, bold);
assert.equal(await page.locator("#bold").count() + await page.locator(".view section a").count(), 0);
assert.match((await facts("Account and chain"))[1], /^Balanceless than 0\.0001 coins, enough for 1 day, /);
assert.equal((await facts("Account and chain"))[0], "Chainchain 31337");
assert.match((await cells(0))[3], /^0x0000…0401$/);

// Where nothing is anchored, or not yet, it says so, and what is there is verified without.
await fake({ off: "the file of its key is not there" }, "Nothing new is anchored: the file of its key is not there. All that was sealed until 21 Nov 2026");
assert(await page.getByRole("button", { name: "Anchor now" }).isHidden());
await fake({ covered: null, anchors: [all[1]] }, "The first anchor is on its way: nothing is final yet.");
await fake({ covered: null, anchors: [] }, "The first anchor is due at 21 Nov, 16:18.");
const none = { configured: false, off: null, chain_id: null, chain: null, account: null, contract: null, balance: null, balance_at: null, days_left: null, next: null, rpcs: [], waiting: null, explorer: null, log: null, covered: null, anchors: [] };
await fake(none, "What is sealed is signed by this gateway. It is not anchored on a public chain: the config has no part [anchor].");
assert.deepEqual(await facts("The log"), ["Sizenot signed yet", "Epochs1"]);
for (const name of ["Anchors", "Account and chain"]) assert(await card(name).isHidden());
assert.match(await page.getByRole("region", { name: "Command that verifies a proof", exact: true }).textContent(), /^meterseal verify FILE --key '\S+'$/);
await everywhere(page, "evidence-none");
await done();
