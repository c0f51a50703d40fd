// The view Now, before a plant whose power moves: live figures, the running block and what must go, flows, today's blocks, what
// is stale, and a gateway that goes away.

import { ask, assert, done, everywhere, failing, fits, open, shot, shown, signIn, signedIn, text, texts, url } from "./browser.mjs";

const page = await signedIn();
await page.locator("section.running").first().waitFor();
const power = () => text(page, ".powers [data-meter=main] .value");

// Power changes as it is read, by the feed and not by asking again; a sum goes by its parts.
let snapshots = 0;
page.on("request", (request) => { if (request.url().includes("/snapshot")) snapshots += 1; });
const seen = new Set();
for (const until = Date.now() + 15000; seen.size < 4 && Date.now() < until; await page.waitForTimeout(100)) seen.add(await power());
assert(seen.size >= 4 && [...seen].every((power) => /^2\d\d\.\d kW$/.test(power)), `live power: ${[...seen]}`);
assert(snapshots <= 2, `${snapshots} snapshots while the feed ran`);
const both = await page.evaluate(() => ["main", "total"].map((id) => document.querySelector(`.powers [data-meter=${id}] .value`).textContent));
assert.equal(both[0], both[1]);

// What stands above every view: the site, its clock and the clock's state, and what is wrong.
assert.equal(await text(page, "#site"), "Shah Alam plant");
assert.match(await text(page, ".clock"), /^Sat,? 21 Nov 15:18:\d\d/);
assert.equal(await text(page, "#clock-state"), "clock synchronised");
assert.equal(await page.title(), "Now – Shah Alam plant – meterseal");
assert.match(await text(page, "#health-word"), /^\d to look at$/);
await page.locator("#health summary").click();
assert((await texts(page, "#health-list li")).includes("the webhook is away"));
assert((await texts(page, "#health-list li")).includes("1 open alert"));
await page.keyboard.press("Escape");
assert(await page.locator("#health-list").isHidden());

// The running block against its target, and what must go.
assert.equal(await text(page, ".running .figure"), "80.0");
assert.match(await text(page, ".running .energy"), /kWh of 120 kWh/);
assert.match(await text(page, ".running .title"), /15:00 – 15:30, peak hours/);
assert.match(await text(page, ".running .advice"), /^Shed 61\.1 kW for the next 1?\d min to stay within the target\.$/);
assert.equal(await page.locator(".running .advice").first().getAttribute("data-tone"), "bad");
assert.deepEqual((await texts(page, ".running dd"))[0], "132.0 kWh");
const widths = await page.evaluate(() => ["so-far", "to-come"].map((part) => document.querySelector(`.gauge .${part}`).getBoundingClientRect().width));
assert(widths[0] > 50 && widths[1] > widths[0], `the gauge: ${widths}`);

// Today's blocks: bars, the target, peak hours, and the same as a table.
await page.locator(".chart .bar-column").nth(29).waitFor();
assert.equal(await page.locator(".chart .bar-column:not(.running)").count(), 30);
assert.equal(await page.locator(".chart .bar-column.over").count(), await page.locator(".chart .over-mark").count() + 1);
assert.equal(await page.locator(".chart .silent").count(), 1);
assert.equal(await page.locator(".chart .peak").count(), 1);
assert.equal(await text(page, ".chart .target-name"), "target 120 kWh");
assert.match((await page.locator(".chart").getAttribute("aria-label")).replaceAll("\u00a0", " "), /29 sealed blocks, the greatest 130\.0 kWh at 12:00, 1 above the target/);
await page.getByText("As a table", { exact: true }).click();
assert.equal(await page.getByRole("row", { name: "12:00 – 12:30" }).getByRole("cell").nth(0).textContent(), "130.0");
await everywhere(page, "now-table");
const remark = (row) => page.locator(`.now tbody tr:nth-last-child(${row}) td:last-child`);
assert.equal(await remark(20).textContent(), "final on the chain");
assert.equal(await remark(21).textContent(), "on the chain, not final yet");
assert.match(await remark(20).locator("a").getAttribute("href"), /^https:\/\/polygonscan\.com\/tx\/0x0{61}401$/);
assert.equal(await remark(20).locator("a").getAttribute("rel"), "noopener noreferrer");
assert.equal(await remark(27).locator("a").count(), 0);
await page.getByText("As a table", { exact: true }).click();

// By keyboard, and for who does not see: headings, and nothing that talks by itself but the one place for it.
assert.deepEqual((await texts(page, "h1, h2")).slice(0, 3), ["Now", "Main incomer", "Plant total"]);
assert.equal(await page.locator("main [aria-live], main [role=status]").count(), 0);
await page.locator(".skip").focus();
await page.keyboard.press("Enter");
assert.equal(await page.evaluate(() => document.activeElement.id), "main");
await page.waitForFunction(() => location.hash === "#/now");
await page.getByLabel("Meter", { exact: true }).selectOption("total");
await page.waitForFunction(() => document.querySelector(".chart").getAttribute("aria-label").includes("Plant total"));
await page.getByRole("link", { name: "Meters", exact: true }).focus();
await page.keyboard.press("Enter");
await page.getByRole("heading", { name: "Meters", exact: true }).waitFor();
assert.equal(await page.evaluate(() => document.activeElement.id), "main");
await page.waitForFunction(() => document.getElementById("announce").textContent === "Meters");
assert.equal(await page.locator("#nav [aria-current=page]").textContent(), "Meters");
await page.goBack();
await page.locator("section.running").first().waitFor();

// A new alert is read out, whatever view is shown.
await ask("alert");
await page.waitForFunction(() => document.getElementById("announce").textContent.startsWith("Alert: "));

// The theme is the device's until another one is chosen, and that is kept.
const ground = () => page.evaluate(() => Number(getComputedStyle(document.body).backgroundColor.match(/\d+/)[0]));
assert(await ground() > 128);
await page.locator("#user summary").click();
await page.getByLabel("Dark", { exact: true }).check();
assert(await ground() < 128);
await page.reload();
await page.locator("section.running").first().waitFor();
assert(await ground() < 128);
await page.locator("#user summary").click();
await page.getByLabel("As the device").check();
await page.keyboard.press("Escape");
assert(await ground() > 128);

// No width clips the chart.
for (const width of [360, 800, 1920]) {
  await page.setViewportSize({ width, height: 900 });
  await page.waitForFunction(() => Math.abs(document.querySelector(".chart svg").viewBox.baseVal.width - document.querySelector(".chart").clientWidth) < 1);
  const clipped = await page.evaluate(() => {
    const chart = document.querySelector(".chart").getBoundingClientRect();
    return [...document.querySelectorAll(".chart text")].filter((text) => text.getBoundingClientRect().left < chart.left || text.getBoundingClientRect().right > chart.right + 1).map((text) => text.textContent);
  });
  assert.deepEqual(clipped, [], `${width} px clip the chart`);
  assert(await fits(page), `${width} px are too narrow`);
}
await page.setViewportSize({ width: 1280, height: 800 });

// The gateway goes away and comes back: the page says so at once and goes on. Its sessions outlive no restart of the program,
// but that of its web.
await failing(async () => {
  await page.route("**/api/**", (route) => route.abort());
  await ask("restart");
  await shown(page, "Connection lost", "#lost");
  assert.match(await text(page, "#lost"), /^Connection lost \d+ s ago, trying again\./);
  await page.waitForFunction(() => document.getElementById("announce").textContent === "Connection lost, trying again");
  // It stays away: no verdict stands on figures that nobody renews.
  await shown(page, "do not act on them", ".running .advice");
  assert.match((await texts(page, ".running dd"))[0], /^132\.0 kWh, \d+ s old$/);
  assert.match(await text(page, ".running .energy .age"), /^\d+ s old$/);
  assert(await page.locator(".running[data-stale]").first().isVisible());
  await shot(page, "now-lost");
  await page.unroute("**/api/**");
  await page.waitForFunction(() => document.getElementById("lost").hidden);
});
await shown(page, "Shed", ".running .advice");
const before = await power();
await page.waitForFunction((before) => document.querySelector(".powers [data-meter=main] .value").textContent.replaceAll("\u00a0", " ") !== before, before);

// A meter that is stopped: its values stay, grey and with their age, and nothing is to be done by them.
await ask("silence");
await page.reload();
await page.locator(".powers [data-meter=main][data-stale]").waitFor();
assert.match(await text(page, ".powers [data-meter=main]"), /kWdoes not answer, \d min old$|kWdoes not answer, \d+ s old$/);
const grey = await page.evaluate(() => ["[data-meter=main] .value", "h1"].map((what) => getComputedStyle(document.querySelector(`.view ${what}`)).color));
assert.notEqual(grey[0], grey[1]);
await shown(page, "do not act on them", ".running .advice");
assert.equal((await texts(page, ".running dd"))[1], "–");
// Nor on what the chart draws of the running block: hatched, and without its end.
await page.locator(".chart .bar-column.old").waitFor();
assert.equal(await page.locator(".chart .bar-column.running").count(), 0);
assert.match(await text(page, ".chart + figcaption"), /Hatched: the running block, \d min old\.$|Hatched: the running block, \d+ s old\.$/);
await everywhere(page, "now-stale");
await page.getByRole("link", { name: "Meters", exact: true }).click();
const running = ".meters-table tr[data-meter=main] td:nth-child(4)";
await shown(page, "old", running);
assert.equal(await page.evaluate((cell) => getComputedStyle(document.querySelector(`${cell} .value`)).color, running), grey[0]);

await page.context().close();
await done();
