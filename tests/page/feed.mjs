// What the page does when the live feed does not get through, as behind a proxy that gathers answers, or when answers take their time.

import { ask, assert, done, failing, shown, signedIn, text } from "./browser.mjs";

const page = await signedIn();
await page.locator("section.running").first().waitFor();
const power = () => text(page, ".powers [data-meter=main] .value");

// However often a snapshot is wanted while one is under way, there is never more than one.
let [under, most, came] = [0, 0, 0];
await page.route("**/api/dashboard/snapshot", async (route) => {
  under += 1;
  most = Math.max(most, under);
  const answer = await route.fetch();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  under -= 1;
  came += 1;
  await route.fulfill({ response: answer }).catch(() => {});
});
for (let n = 0; n < 6; n += 1) {
  await ask("alert");
  await page.waitForTimeout(400);
}
for (const until = Date.now() + 10000; came < 2 && Date.now() < until; await page.waitForTimeout(100));
assert.equal(most, 1, "snapshots under way at once");
assert(came >= 2, "what was raised meanwhile is asked for afterwards");
await page.unroute("**/api/dashboard/snapshot");

// A health that nobody tells is not a good one.
await failing(async () => {
  await page.route("**/api/health", (route) => route.abort());
  await page.route("**/api/dashboard/snapshot", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), problems: [], open_alerts: 0, unseen_alerts: 0 } });
  });
  await page.reload();
  await shown(page, "Unknown", "#health-word");
  assert.equal(await page.locator("#health-dot").getAttribute("data-tone"), "quiet");
  await page.locator("#health summary").click();
  await shown(page, "The gateway does not say how it is.", "#health-list");
  await shown(page, "state unknown", "#clock-state");
  assert.doesNotMatch(await text(page, "#health-list"), /is well/);
  await page.unroute("**/api/health");
  await page.unroute("**/api/dashboard/snapshot");
});

// A feed that is held back, or refused: the snapshot comes every few seconds, and nothing is called lost.
for (const refuse of [() => {}, (route) => route.abort()]) {
  await failing(async () => {
    await page.route("**/api/events", refuse);
    await page.reload();
    await page.locator("section.running").first().waitFor();
    const seen = new Set();
    let flickers = 0;
    for (const until = Date.now() + 20000; Date.now() < until; await page.waitForTimeout(200)) {
      seen.add(await power());
      flickers += Number(await page.locator("#lost").isVisible());
    }
    assert(seen.size >= 3, `values come without the feed: ${[...seen]}`);
    assert.equal(flickers, 0, "the connection is not lost");
    await shown(page, "Shed", ".running .advice");
    await page.locator("#health summary").click();
    await shown(page, "the live feed does not get through", "#health-list");
    await page.unroute("**/api/events", refuse);
  });
}
// It is tried again by itself, after some time that grows.
await page.waitForFunction(() => !document.getElementById("health-list").textContent.includes("does not get through"), null, { timeout: 60000 });

await page.context().close();
await done();
