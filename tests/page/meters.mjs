// The view Meters: all of them, one with its trend and figures, name and target, and a search for more.

import { ask, assert, done, everywhere, failing, shot, shown, signedIn, text, texts, told } from "./browser.mjs";

const page = await signedIn({ hash: "#/meters" });
const row = (id) => `.meters-table tr[data-meter=${id}]`;

// All of them, each with its state in words.
await page.locator(row("main")).waitFor();
assert.match(await text(page, `${row("main")} td:nth-child(2)`), /^2\d\d\.\d kW$/);
assert.equal(await text(page, `${row("main")} td:nth-child(4)`), "80.0 of 120 kWh");
assert.equal(await text(page, `${row("main")} .badge`), "now");
assert.match(await text(page, `${row("main")} .state .why`), /1 register refused.*register map unverified/);
assert.equal(await text(page, `${row("total")} th .why`), "consumes, sum");
assert.equal(await page.getByRole("columnheader", { name: "Power" }).count(), 1);
await page.waitForFunction((row) => /%$/.test(document.querySelector(`${row} td:nth-child(5)`).textContent), row("main"));

// What was heard over MQTT and is not declared, with the lines that declare it.
assert.match(await text(page, "section:has(> .title h2) .plain li"), /connected plant: 40 messages, 1 could not be read \(the last on plant\/oven: not JSON\)$/);
await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
await page.locator(".code button").click();
await shown(page, "Copied", ".code button");
assert.match(await page.evaluate(() => navigator.clipboard.readText()), /# below \[\[mqtt\]\] plant\n\[\[mqtt\.meter\]\]\nid = "plant-press-3"\nmatch = "plant\/press 3"\n/);
await everywhere(page, "meters");

// Meters are found on a bus, by keyboard alone, and stopped midway.
await page.locator(".find summary").focus();
await page.keyboard.press("Enter");
const place = page.getByLabel("Address or serial port");
const state = ".find [role=status]";
await failing(async () => {
  await place.fill("a b");
  await page.keyboard.press("Enter");
  await shown(page, "no HOST or HOST:PORT", state);
  await place.fill("127.0.0.1:1");
  await page.keyboard.press("Enter");
  await shown(page, "cannot connect to 127.0.0.1:1", state);
});
await place.fill(told.bus);
await page.keyboard.press("Enter");
await page.locator(".find tbody tr").nth(1).waitFor();
await page.getByRole("button", { name: "Stop" }).click();
await shown(page, "Stopped; ", state);
await page.getByLabel("Units").fill("1-6");
await page.getByRole("button", { name: "Search" }).click();
await shown(page, "4 found.", state);
assert.equal(await page.locator(".find tbody tr").count(), 4);
assert.equal(await text(page, ".find tbody tr:nth-child(2) td span"), "ABB B23");
assert.match(await text(page, ".find tbody tr:nth-child(2) .why"), /^says so itself: model B23; \d\d\.\d\d Hz/);
assert.match(await text(page, ".find tbody tr:nth-child(3) td span"), / or /);
await everywhere(page, "meters-found");
const config = page.getByLabel("Config of the new meters");
assert.match(await config.inputValue(), /\[\[modbus\]\]\nname = .*\ntcp = "127\.0\.0\.1:\d+"\n/);

// They are taken into the config where it can be written, told what is wrong with it, or given to be put there.
const answers = [
  [422, { title: "The config has faults", status: 422, detail: "1 fault", faults: [{ file: "page.toml", line: 3, key: "id", text: "<b id=bold>no</b>", hint: "name it" }] }],
  [409, { title: "Not written", status: 409, detail: "the folder cannot be written: put the text into /etc/meterseal/conf.d/50-page.toml" }],
  [200, { file: "conf.d/50-page.toml" }],
];
let sent = null;
await page.route("**/api/config/meters", (route) => {
  sent = route.request();
  const [status, json] = answers.shift();
  return route.fulfill({ status, json });
});
await config.fill("[[modbus]]\n# mine");
await failing(async () => {
  await page.getByRole("button", { name: "Add these meters" }).click();
  await shown(page, "Line 3: <b id=bold>no</b>: name it", ".find .notice");
  await page.getByRole("button", { name: "Add these meters" }).click();
  await shown(page, "put the text into /etc/meterseal/conf.d", ".find .notice");
});
assert.equal(await page.locator("#bold").count(), 0);
assert.equal(await text(page, ".find .code pre"), "[[modbus]]\n# mine");
await page.getByRole("button", { name: "Add these meters" }).click();
await shown(page, "The meters are in the config", "#toast");
assert.deepEqual(sent.postDataJSON(), { text: "[[modbus]]\n# mine" });
assert.match(sent.headers()["x-csrf-token"], /^.{20,}$/);

// One meter: what it says, with the places of its registers, and whose it is.
await page.getByRole("link", { name: "Main incomer" }).click();
await page.getByRole("heading", { name: "Main incomer" }).waitFor();
assert.equal(await page.title(), "Main incomer – Shah Alam plant – meterseal");
assert.equal(await text(page, ".head > p"), "Consumption, target 120 kWh in 30 min");
await page.waitForFunction(() => /^2\d\d\.\d/.test(document.querySelector(".values [data-main] .value").textContent));
assert((await texts(page, ".values > div")).some((value) => /^Energy import\s*5 kWh/.test(value)), await text(page, ".values"));
const identity = (await texts(page, ".view .grid:last-child section:last-child .facts > div")).join(" ");
assert.match(identity, /Serial number4711 Firmware1\.2 Register mapacme Line and unitmsb \(192\.0\.2\.10:502\), unit 1 Current transformers40 So since21 Nov 2026, 15:18/);
assert(await page.getByText("Compare one value with the meter’s display").isVisible());
assert(await page.getByText("firmware: 1.1 became 1.2").isVisible());
assert(await page.getByText("It refuses 1 register: 52.").isVisible());

// Its trend from minutes to months, and the same as a file.
await page.locator(".trend canvas").waitFor();
assert.match(await page.locator(".trend").getAttribute("aria-label"), /^Trend of Main incomer, 1 hour: least 2\d\d/);
for (const [range, resolution] of [["10 min", "raw"], ["24 hours", "minute"], ["Blocks", "block"], ["7 days", "hour"], ["31 days", "day"], ["26 weeks", "week"], ["12 months", "month"]]) {
  const answer = page.waitForResponse((response) => response.url().includes(`/readings?resolution=${resolution}`));
  await page.getByLabel(range, { exact: true }).check();
  await answer;
  await page.waitForFunction((range) => document.querySelector(".trend").getAttribute("aria-label").includes(`, ${range}: `), range);
  await page.locator(".trend canvas").waitFor();
  await shot(page, `meter-${resolution}`);
}
assert.match(await page.locator(".trend").getAttribute("aria-label"), /kWh in all.*each month; paler: one is covered by readings only in part; the last one is not over\.$/);
await page.getByLabel("10 min", { exact: true }).check();
await page.locator(".trend:not([aria-busy]) canvas").waitFor();
await page.getByLabel("Quantity").selectOption({ label: "Energy import" });
await page.waitForFunction(() => document.querySelector(".trend").getAttribute("aria-label").includes("10 min: least 5.00 kWh"));
// A silence breaks the line of what comes live as well as of what is asked for.
const trend = () => page.locator(".trend").getAttribute("aria-label");
assert.doesNotMatch(await trend(), /gap/);
await ask("wait 180");
await page.waitForFunction(() => /\b1\sgap\b/.test(document.querySelector(".trend").getAttribute("aria-label")));
const file = page.waitForEvent("download");
await page.getByRole("link", { name: "CSV" }).click();
assert.equal((await file).suggestedFilename(), "main-raw.csv");

// Its registers with their raw words, asked for now; and why where they do not come.
const value = (quantity, value, register, words, absent = null) => ({ quantity, value, register, words, absent });
const polled = [
  { status: 502, json: { title: "Bad Gateway", status: 502, detail: "meter main did not answer: no answer within 1 s" } },
  { json: { meter: "main", time: "2026-11-21T07:18:12.000Z", advice: "swap the words", values: [value("power_kw", -271.7, 52, [0x4887, 0xd900]), value("voltage_l1_v", null, 0, [0xffff], "<b id=bold>a sentinel</b>")] } },
];
await page.route("**/api/meters/main/registers", (route) => route.fulfill(polled.shift()));
await failing(async () => {
  await page.getByRole("button", { name: "Read the registers now" }).click();
  await page.getByText("no answer within 1 s").waitFor();
});
await page.getByRole("button", { name: "Read the registers now" }).click();
await page.getByRole("row", { name: "Active power" }).waitFor();
const registers = (await page.getByRole("table", { name: "Registers as they were read" }).getByRole("row").allTextContents()).map((row) => row.replaceAll("\u00a0", " "));
assert.deepEqual(registers.slice(1), ["Active power−271.7 kW520x00344887 d900", "Voltage L1–<b id=bold>a sentinel</b>00x0000ffff"]);
assert(await page.getByText("swap the words").isVisible());
assert.equal(await page.locator("#bold").count(), 0);

// Figures of a period, the month's maximum demand, and quality.
await shown(page, "This month’s maximum demand: 260.0 kW, in the block of 21 Nov, 12:00", ".month");
await page.getByLabel("Period").first().selectOption("yesterday");
await page.waitForFunction(() => document.querySelector(".month + .stack .facts dd").textContent === "–");
assert.equal((await texts(page, ".month + .stack .facts dd .why")).length, 0);
await page.getByLabel("Period").first().selectOption("month");
await shown(page, "the first block with energy: 21 Nov, 00:00", ".month + .stack");
await shown(page, "100.0 kW" + "in the block of 21 Nov, ", ".month + .stack");
const asked = page.waitForRequest((request) => /\/api\/quality\?meter=main&from=2026-11-14T/.test(request.url()));
await page.getByLabel("Period").last().selectOption("7");
await asked;

// Its name and target.
await page.getByLabel("Target of a block, kWh").fill("-3");
await page.getByRole("button", { name: "Save" }).click();
await page.getByText("A target is a number above 0").waitFor();
await page.route("**/api/meters/main", (route) => {
  if (route.request().method() !== "PATCH") return route.continue();
  sent = route.request().postDataJSON();
  return route.fulfill({ status: 409, json: { title: "Set in a file", status: 409, detail: "peak_target_kwh stands in plant.toml, line 12" } });
});
await page.getByLabel("Target of a block, kWh").fill("99,5");
await failing(async () => {
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("peak_target_kwh stands in plant.toml, line 12").waitFor();
});
assert.deepEqual(sent, { peak_target_kwh: 99.5 });
await everywhere(page, "meter", () => page.locator(".trend canvas").waitFor());

// A sum is shown by its parts and blocks; an id that is no meter's is told.
await page.goto(page.url().replace(/#.*/, "#/meters/total"));
await page.getByRole("heading", { name: "What it is made of" }).waitFor();
await page.getByRole("link", { name: "Main incomer" }).waitFor();
await failing(async () => {
  await page.goto(page.url().replace(/#.*/, "#/meters/none%20such"));
  await page.getByText("No meter has the id none such.").waitFor();
});
await done();
