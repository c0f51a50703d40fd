// Looks at the page as a person does: node page.mjs URL TOKEN CHROMIUM BUS [FOLDER FOR SCREENSHOTS]
// Says "restart" on stdout when the server is to go away and come back, and hears "restarted" on stdin.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const peers = new URL("../../.peers/node_modules/", import.meta.url);
const { chromium } = createRequire(peers)("playwright-core");
const [url, token, executablePath, bus, shots] = process.argv.slice(2);
const heard = createInterface({ input: process.stdin });

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const faults = [];
let mayFail = false; // while the server is away, and for a token that is wrong

async function open(options, address = url) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(20000);
  page.on("pageerror", (fault) => faults.push(fault.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !mayFail) faults.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) faults.push(`asks elsewhere: ${request.url()}`);
    if (request.url().includes(token)) faults.push(`sends the token in the address: ${request.url()}`);
  });
  await page.goto(address);
  return page;
}

async function shown(page, text, selector) {
  await page.waitForFunction(([text, selector]) => document.querySelector(selector)?.textContent.includes(text), [text, selector]);
}

const text = (page, selector) => page.locator(selector).first().textContent();
const fits = (page) => page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);
const shot = async (page, name) => shots && page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });

// Without a token, the page asks for one; a wrong one is refused, the right one kept for the tab.
const page = await open({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
await page.getByLabel("Token").waitFor();
await shot(page, "sign-in");
mayFail = true;
await page.getByLabel("Token").fill("wrong");
await page.keyboard.press("Enter");
await page.getByRole("alert").filter({ hasText: "not known" }).waitFor();
mayFail = false;
await page.getByLabel("Token").fill(token);
await page.getByRole("button", { name: "Show the plant" }).click();
await shown(page, "live", "#link");
await page.reload();
await shown(page, "live", "#link");

// Power changes as it is read, by the feed and not by asking again.
let snapshots = 0;
page.on("request", (request) => { if (request.url().includes("/snapshot")) snapshots += 1; });
const seen = new Set();
for (const until = Date.now() + 20000; seen.size < 4 && Date.now() < until; await page.waitForTimeout(100)) {
  seen.add(await text(page, "#meters tr[data-meter=main] .now"));
}
assert(seen.size >= 4 && [...seen].every((power) => /^2\d\d\.\d kW$/.test(power)), `live power: ${[...seen]}`);
assert(snapshots <= 2, `${snapshots} snapshots while the feed ran`);

// The running block against its target, and what must go.
assert.equal(await text(page, "#so-far"), "80.0");
assert.equal(await text(page, "#of-target"), "of 120 kWh");
assert.match(await text(page, "#advice"), /^Shed 61\.0 kW for the next 1?\d min to stay within the target\.$/);
assert.equal(await page.locator("#advice").getAttribute("data-state"), "over");
const widths = await page.evaluate(() => ["so-far", "to-come"].map((part) => document.querySelector(`#gauge .${part}`).getBoundingClientRect().width));
assert(widths[0] > 50 && widths[1] > widths[0], `the gauge: ${widths}`);

// Which meter it is, and what its register map rests on.
await page.getByText("About this meter").click();
assert.match(await text(page, "#about dl"), /Serial number4711Firmware1\.2Register mapacmeLine and unitmsb \(192\.0\.2\.10:502\), unit 1Current transformers40So since21 Nov 2026, 15:18/);
assert(await page.getByText("compare one value with the meter’s display").isVisible());
await shot(page, "about");
await page.getByText("About this meter").click();

// Today's blocks: bars, the target, peak hours, and the same as a table.
assert.equal(await page.locator("#chart .bar:not(.running)").count(), 30);
assert.equal(await page.locator("#chart .bar.over").count(), await page.locator("#chart .over-mark").count() + 1);
assert.equal(await page.locator("#chart .silent").count(), 1);
assert.equal(await page.locator("#chart .peak").count(), 1);
assert.equal(await text(page, "#chart .target-name"), "target 120 kWh");
assert.match(await page.locator("#chart").getAttribute("aria-label"), /29 sealed blocks, the greatest 130\.0 kWh at 12:00, 1 above the target/);
await page.getByText("As a table").click();
assert.equal(await page.getByRole("row", { name: "12:00 – 12:30" }).getByRole("cell").nth(0).textContent(), "130.0");
await shot(page, "table");
await page.getByText("As a table").click();

// A meter without a fresh value says so in words.
assert.match(await text(page, "#meters tr[data-meter=total] .condition"), /now|ago/);
assert.match(await text(page, "#problems li"), /the webhook is away/);
assert.match(await text(page, "#alerts li"), /heading for 132 kWh/);

// What stands on the chain, in words, with links that nobody follows by himself.
assert.match(await text(page, "#evidence-verdict"), /^Anchoring waits since 21 Nov, 15:03: the least fee is 712 gwei, above the ceiling of 300/);
assert.deepEqual(await page.locator("#evidence-figures div").allTextContents(), [
  "Log39 entries, signed until 21 Nov, 15:18",
  "Of these final25 entries",
  "Newest block that is finalMain incomer, 21 Nov, 09:30 – 10:00",
  "Next anchor21 Nov, 16:18",
  "Balance20.0485 POL, enough for 812 days",
  "Account0x8ba1f109551bD432803012645Ac136ddd64DBA72",
]);
assert.deepEqual(await page.locator("#evidence-list .now").allTextContents(), ["Waits to be signed", "On the chain, and not final yet", "Final on the chain"]);
assert.equal(await text(page, "#evidence-list li:nth-child(3) .what"), "The first 25 entries, for 0.0009 POL");
const link = page.locator("#evidence-list li:nth-child(3) a");
assert.match(await link.getAttribute("href"), /^https:\/\/polygonscan\.com\/tx\/0x0{61}401$/);
assert.equal(await link.getAttribute("rel"), "noopener noreferrer");
assert.equal(await page.locator("#evidence-list li:nth-child(1) a").count(), 0);
assert.equal(await text(page, "#evidence-nodes li"), "https://second.example:8443: does not answer: connection refused");
assert.equal(await page.locator("#blocks tbody tr:nth-child(20) td:last-child").textContent(), "final on the chain");
assert.equal(await page.locator("#blocks tbody tr:nth-child(21) td:last-child").textContent(), "on the chain");
assert.equal(await page.locator("#blocks tbody tr:nth-child(20) td:last-child a").getAttribute("href"), await link.getAttribute("href"));
assert.equal(await page.locator("#blocks tbody tr:nth-child(27) a").count(), 0);

// The newest exports that are done, each with what covers it.
const exports = (part) => page.locator(`#evidence-exports-list .${part}`).allTextContents();
assert.deepEqual(await exports("now"), ["<b id=bold>no</b>", "unanchored", "queued", "included", "final"].map((name) => `${name} from historian`));
assert.deepEqual(await exports("when"), ["In no anchor yet", "In no anchor yet", "Its anchor waits to be signed", "On the chain, and not final yet", "Final on the chain"]);
assert.deepEqual((await exports("what")).slice(0, 2).concat((await exports("what")).at(-1)), ["0 rows", "1 row", "12,345 rows"].map((rows) => `1 Nov 2025, 00:00 – 1 Dec 2025, 00:00, ${rows}`));
assert.deepEqual(await exports("link"), ["", "", "Polygon", "Polygon, transaction 0x000000…000501", "Polygon, transaction 0x000000…000401"]);
assert.equal(await page.locator("#evidence-exports-list a").count(), 2);
assert.equal(await page.locator("#evidence-exports-list li:last-child a").getAttribute("href"), await link.getAttribute("href"));
let asked = [];
const note = (request) => asked.push(new URL(request.url()).pathname);
page.on("request", note);
await page.reload();
await shown(page, "historian", "#evidence-exports-list");
page.off("request", note);
asked = asked.filter((path) => /^\/api\/(bulk|anchor)/.test(path)).sort();
assert.deepEqual(asked, ["/api/anchor", "/api/bulk"]);
await shot(page, "evidence-waits");
const anchored = once(heard, "line");
console.log("anchor");
await anchored;
await page.reload();
await shown(page, "for good", "#evidence-verdict");
assert.equal(await text(page, "#evidence-verdict"), "All that the log holds is on Polygon for good: nobody can change it unnoticed.");
assert.deepEqual(await page.locator("#evidence-list .now").allTextContents(), ["Final on the chain", "Final on the chain", "Fell off the chain, and is sent again", "Final on the chain"]);
assert.equal(await page.locator("#evidence-nodes li").count(), 0);
assert.deepEqual(await exports("when"), ["Final on the chain", "Final on the chain", "Final on the chain", "Final on the chain", "Final on the chain"]);

// Where nothing is to be anchored it says so; and what a node or a config says is text, never markup or a script.
const none = { configured: false, off: null, chain_id: null, chain: null, account: null, contract: null, balance: null, balance_at: null, days_left: null, next: null, rpcs: [], waiting: null, explorer: null, log: null, covered: null, anchors: [] };
const fake = async (answer, text, exports = []) => {
  await page.unroute("**/api/bulk?*");
  await page.route("**/api/bulk?*", (route) => route.fulfill({ json: exports }));
  await page.unroute("**/api/anchor?*");
  await page.route("**/api/anchor?*", (route) => route.fulfill({ json: { ...none, ...answer } }));
  await page.reload();
  await shown(page, text, "#evidence-verdict");
};
await fake({}, "It is not anchored on a public chain: the config has no part [anchor].");
assert.deepEqual(await page.locator("#evidence-figures div").allTextContents(), ["Lognot signed yet"]);
assert(await page.locator("#evidence-anchors").isHidden());
assert(await page.locator("#evidence-exports").isHidden());
await fake({ configured: true, off: "the file of its key is not there" }, "Nothing is anchored: the file of its key is not there");
const bold = "<b id=bold>no</b>";
const waiting = { reason: "funds", text: bold, since: "2026-11-21T07:00:00.000Z" };
await fake({
  configured: true, chain_id: 31337, account: "0x00", balance: "0.00001", days_left: 1, explorer: "javascript:alert(1)",
  rpcs: [{ name: bold, height: null, finalized: null, answered: null, trouble: bold }], waiting,
}, bold, [{
  state: "done", connection: bold, query: { name: bold }, from: "2025-11-01T00:00:00Z", to: "2025-12-01T00:00:00Z", rows: 1,
  anchor: { id: 1, chain_id: 31337, chain: null, state: "sent", transaction: "0x00", explorer: "javascript:alert(1)" },
}]);
assert.match((await exports("link"))[0], /^chain 31337, transaction /);
assert.equal(await page.locator("#bold").count() + await page.locator(".evidence a").count(), 0);
assert.equal(await text(page, "#evidence-chain"), "chain 31337");
assert(await page.getByText("less than 0.0001 coins, enough for 1 day").isVisible());
await page.unroute("**/api/anchor?*");
await page.unroute("**/api/bulk?*");
await page.reload();
await shown(page, "for good", "#evidence-verdict");

// By keyboard, and for who does not see: headings, a table with headers, nothing that talks by itself.
await page.getByRole("button", { name: "Plant total" }).focus();
await page.keyboard.press("Enter");
await page.waitForFunction(() => document.getElementById("meter").value === "total");
assert.match(await text(page, "#advice"), /No block is running/);
await page.waitForFunction(() => document.getElementById("about").hidden);
await page.getByLabel("Meter", { exact: true }).selectOption("main");
await shown(page, "Shed", "#advice");
assert.deepEqual(await page.getByRole("heading").allTextContents(), ["Shah Alam plant", "To look at", "Running block", "Today’s blocks", "Meters", "Alerts", "Evidence", "Newest anchors", "Newest exports", "Heard over MQTT", "Find meters"]);
assert.equal(await page.locator("#plant [aria-live]").count(), 0);
assert.equal(await page.getByRole("columnheader", { name: "Power" }).count(), 1);
await shot(page, "desk");

// Meters are found on a bus; the config to paste is one key away. By keyboard alone, and stopped midway.
await page.context().grantPermissions(["clipboard-read", "clipboard-write"], { origin: url });
await page.locator("#find summary").focus();
await page.keyboard.press("Enter");
mayFail = true;
await page.getByLabel("Address or serial port").fill("a b");
await page.keyboard.press("Enter");
await shown(page, "no HOST or HOST:PORT", "#find-state");
await page.getByLabel("Address or serial port").fill("127.0.0.1:1");
await page.keyboard.press("Enter");
await shown(page, "cannot connect to 127.0.0.1:1", "#find-state");
mayFail = false;
await page.getByLabel("Address or serial port").fill(bus);
await page.keyboard.press("Enter");
await page.locator("#find-table tbody tr").nth(1).waitFor();
await page.getByRole("button", { name: "Stop" }).click();
await shown(page, "Stopped; ", "#find-state");
await page.getByLabel("Units").fill("1-6");
await page.getByRole("button", { name: "Search" }).click();
await shown(page, "4 found.", "#find-state");
assert.equal(await page.locator("#find-table tbody tr").count(), 4);
assert.equal(await text(page, "#find-table tbody tr:nth-child(2) td span"), "ABB B23");
assert.match(await text(page, "#find-table tbody tr:nth-child(2) .why"), /^says so itself: model B23; \d\d\.\d\d Hz/);
assert.match(await text(page, "#find-table tbody tr:nth-child(3) td span"), / or /);
await page.locator("#find-progress").waitFor({ state: "hidden" });
await page.getByRole("button", { name: "Copy" }).click();
await shown(page, "Copied", "#find-copy");
const copied = await page.evaluate(() => navigator.clipboard.readText());
assert.match(copied, /\[\[modbus\]\]\nname = .*\ntcp = "127\.0\.0\.1:\d+"\n/);
assert.equal(copied.split("[[modbus.meter]]").length, 5);
await shot(page, "find");
await page.locator("#find summary").click();

// What was heard over MQTT and is not declared, with the lines that declare it.
assert.match(await text(page, "#heard-sum"), /^1 meter is not declared$/);
await page.locator("#heard summary").click();
assert.match(await text(page, "#heard-brokers li"), /^plant: connected, 40 messages, 1 could not be read \(the last on plant\/oven: not JSON\)$/);
assert.equal(await text(page, "#heard-table tbody th"), "plant/press 3");
await page.locator("#heard-copy").click();
await shown(page, "Copied", "#heard-copy");
assert.match(await page.evaluate(() => navigator.clipboard.readText()), /\[\[mqtt\.meter\]\]\nid = "plant-press-3"\nmatch = "plant\/press 3"\n/);
await shot(page, "heard");
await page.locator("#heard summary").click();

// The server goes away and comes back: the page says so and goes on.
mayFail = true;
const back = once(heard, "line");
console.log("restart");
await shown(page, "trying again", "#link");
await back;
await shown(page, "live", "#link");

// It stays away: no verdict stands on figures that nobody renews, and the page says since when.
await page.route("**/api/**", (route) => route.abort());
const again = once(heard, "line");
console.log("restart");
await again;
await shown(page, "Nothing arrives", "#problems");
assert.match(await text(page, "#problems li"), /since 21 Nov.* \(\d+ s ago\)/);
assert.equal(await page.locator("#advice").getAttribute("data-state"), "old");
assert.equal(await text(page, "#left"), "–");
for (const figure of ["#projected", "#coverage", "#power"]) assert.match(await text(page, figure), /, \d+ s old$/);
assert.match(await text(page, "#energy-age"), /^\(\d+ s old\)$/);
await shot(page, "lost");
await page.unroute("**/api/**");
await shown(page, "live", "#link");
await shown(page, "Shed", "#advice");
assert.doesNotMatch(await text(page, "#problems"), /Nothing arrives/);
mayFail = false;
const before = await text(page, "#meters tr[data-meter=main] .now");
await page.waitForFunction((before) => document.querySelector("#meters tr[data-meter=main] .now").textContent !== before, before);
await page.context().close();

// A token behind # signs in and leaves the address; every width fits; dark is dark.
for (const [name, width, height, colorScheme] of [["phone", 360, 740, "light"], ["tablet", 800, 1000, "light"], ["dark", 1280, 800, "dark"], ["wide", 1920, 1080, "light"]]) {
  const page = await open({ viewport: { width, height }, colorScheme }, `${url}/#token=${token}`);
  await shown(page, "live", "#link");
  assert.equal(await page.evaluate(() => location.hash), "");
  assert(await fits(page), `${name} is wider than its screen`);
  await page.locator("#chart svg").waitFor();
  const clipped = await page.evaluate(() => {
    const chart = document.getElementById("chart").getBoundingClientRect();
    return [...document.querySelectorAll("#chart text")].filter((text) => {
      const box = text.getBoundingClientRect();
      return box.left < chart.left || box.right > chart.right + 1;
    }).map((text) => text.textContent);
  });
  assert.deepEqual(clipped, [], `${name} clips its chart`);
  const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
  assert.equal(ground[0] < 128, colorScheme === "dark");
  await shot(page, name);
  await page.locator("#find summary").click();
  await page.getByLabel("Address or serial port").fill(bus);
  await page.getByLabel("Units").fill("1-4");
  await page.getByRole("button", { name: "Search" }).click();
  await shown(page, "4 found.", "#find-state");
  assert(await fits(page), `${name} is wider than its screen when meters are found`);
  await page.locator("#find").scrollIntoViewIfNeeded();
  await shot(page, `${name}-find`);
  await page.context().close();
}

await browser.close();
assert.deepEqual(faults, []);
console.log("done");
process.exit(0);
