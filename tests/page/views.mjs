// The views beside Now and Meters: what they say is so, they go by the gateway's clock, and everybody can use them.

import { api, ask, assert, done, everywhere, failing, fits, open, shown, signIn, signedIn, text, texts, url } from "./browser.mjs";

const page = await signedIn();
await page.locator("section.running").first().waitFor();
const go = (hash, heading) => page.goto(`${url}/${hash}`).then(() => page.getByRole("heading", { name: heading }).first().waitFor());
// What the gateway says, changed by `change`.
const changed = (path, change) => page.route(path, async (route) => {
  const response = await route.fetch();
  const json = await response.json();
  change(json);
  await route.fulfill({ response, json });
});
const scrolls = (selector) => page.evaluate((selector) => [...document.querySelectorAll(selector)].some((box) => box.scrollWidth > box.clientWidth + 1), selector);

// An open alert stays counted, and in sight, however many came and went after it.
await ask("alerts that are over");
await changed("**/api/dashboard/snapshot", (plant) => (plant.problems = []));
await page.reload();
await shown(page, "1", "#alert-count");
await shown(page, "1 open alert", "#health-word");
assert.equal(await page.locator("#health-dot").getAttribute("data-tone"), "warn");
await page.locator("#health summary").click();
await page.getByRole("link", { name: "1 open alert", exact: true }).click();
await page.getByRole("heading", { name: "Alerts" }).waitFor();
await everywhere(page, "alerts", () => page.getByRole("button", { name: /^Acknowledge/ }).waitFor());
await page.getByRole("button", { name: /^Acknowledge/ }).click();
await page.waitForFunction(() => document.getElementById("alert-count").hidden || !document.querySelector("[aria-label^=Acknowledge]:not([hidden])"));
await page.unroute("**/api/dashboard/snapshot");

// A name of 64 characters without a blank breaks neither Now nor the table of the meters.
const long = "Hauptverteilung-West-Einspeisung-Transformator-3-Niederspannung_";
await changed("**/api/dashboard/snapshot", (plant) => plant.all_meters.forEach((meter) => (meter.name = long)));
await go("#/now", "Now");
await shown(page, long, ".powers");
await everywhere(page, "now-long");
await go("#/meters", "Meters");
await shown(page, long, ".meters-table");
await everywhere(page, "meters-long");
for (const width of [360, 768, 1280]) {
  await page.setViewportSize({ width, height: 800 });
  assert(!(await scrolls(".meters-table")), `the meters' table does not fit into ${width} px`);
  assert(await page.locator(".meters-table [data-meter=main] td:nth-child(4)").isVisible(), `${width} px hide the running block`);
}
await page.unroute("**/api/dashboard/snapshot");
await page.setViewportSize({ width: 360, height: 740 });
await go("#/now", "Now");
await page.getByText("As a table", { exact: true }).click();
await page.getByRole("row", { name: /^12:00 130\.0/ }).waitFor();
assert(!(await scrolls(".sheet")), "the table of the blocks does not fit on a phone");
await page.setViewportSize({ width: 1280, height: 800 });

// Upstream: figures of seven digits and dead letters, at every width.
const stream = (stream, more) => ({ stream, head: 1234567, position: {}, depth: 1234567, oldest_unsent: "2026-11-21T01:00:00.000Z", oldest_unsent_age_s: 22000, per_minute: 12345, acknowledged: "2026-11-21T07:12:00.000Z", sent: 1234567, repeated: 0, rejected: 0, in_doubt: 0, skipped: 0, ...more });
await page.route("**/api/upstream", (route) => route.fulfill({ json: [{ name: "cloud", kind: "https", to: "backend.example", state: "connected", since: "2026-11-21T01:00:00.000Z", problem: null, retries: 2, dead_letters: 1, streams: [stream("blocks", { rejected: 12, in_doubt: 3456 }), stream("readings")] }] }));
await page.route("**/api/upstream/cloud/dead-letters?*", (route) => route.fulfill({ json: [{ id: 7, stream: "blocks", seq: 12003, reason: "unknown meter", attempts: 2, at: "2026-11-21T07:00:00.000Z", line: "{\"seq\":12003}" }] }));
await go("#/upstream", "Upstream");
await page.getByText("1 dead letter: what it would not take").click();
await page.getByRole("button", { name: "Send again: record 12003" }).waitFor();
assert.equal(await text(page, ".upstream tbody td:last-child"), "1,234,567, 12 refused, 3,456 in doubt");
await everywhere(page, "upstream");
for (const width of [360, 768, 1280]) {
  await page.setViewportSize({ width, height: 800 });
  assert(!(await scrolls(".upstream .sheet")), `the streams do not fit into ${width} px`);
}

// Evidence: what keeps new anchors away takes nothing from what is final.
await changed("**/api/anchor?*", (told) => (told.off = "the key file is missing"));
await go("#/evidence", "Evidence");
await shown(page, "Nothing new is anchored: the key file is missing. All that ", ".view > .stack > .notice");
assert.match(await text(page, ".view > .stack > .notice"), / for good: nobody can change it unnoticed\.$/);
assert.equal(await page.locator(".view > .stack > .notice").first().getAttribute("data-tone"), "warn");
await everywhere(page, "evidence");

// Settings: a button's name says what stands on it, and a certificate when it ends.
await changed("**/api/access", (told) => (told.pins.viewer = null));
await go("#/settings/access", "Settings");
await page.getByRole("button", { name: "Set a PIN for the viewer" }).waitFor();
assert.equal(await page.getByRole("button", { name: "Change the PIN of the admin" }).count(), 1);
await everywhere(page, "settings-access");
await changed("**/api/about", (told) => Object.assign(told, { fingerprint: "AA:BB", certificate: { self_signed: false, names: ["gateway.plant.example"], until: "2026-11-30T07:00:00.000Z", problem: null } }));
await go("#/settings/about", "Settings");
await shown(page, "gateway.plant.example", ".view");
await page.getByText("It ends in 9 days: put a new one in its place.").waitFor();
await everywhere(page, "settings-about");
await page.unrouteAll();

// A device whose clock is 40 days behind: orders and proofs go by the gateway's.
const behind = await open({ hash: "#/exports" });
await behind.context().addInitScript(() => {
  const now = Date.now;
  Date.now = () => now() - 40 * 86400000;
});
await behind.reload();
await signIn(behind);
await behind.getByRole("heading", { name: "Exports" }).first().waitFor();
await behind.waitForFunction(() => document.querySelector("input[type=datetime-local]")?.value);
assert.deepEqual(await behind.locator("input[type=datetime-local]").evaluateAll((inputs) => inputs.map((input) => input.value)), ["2026-10-01T00:00", "2026-11-01T00:00"]);
await everywhere(behind, "exports");
await behind.goto(`${url}/#/evidence`);
await behind.locator("input[type=date]").first().waitFor();
assert.equal(await behind.locator("input[type=date]").first().getAttribute("max"), "2026-11-21");
// By a clock that is behind, all that was a while ago would be of now.
await ask("wait 120");
await behind.reload();
await shown(behind, "asked ", ".view");
assert.match(await text(behind, ".view"), /asked [1-9]\d* (s|min|h) ago/);
await behind.context().close();

// What a view has opened goes with the session, and what was typed is not said to be there.
await api("POST", "/api/tokens", { name: "meter-reader", scope: "read" });
await go("#/settings/tokens", "Settings");
await page.getByRole("button", { name: "Revoke meter-reader" }).click();
await page.getByRole("heading", { name: "Revoke the token meter-reader?" }).waitFor();
const endSessions = () => failing(async () => {
  for (const { id } of (await api("GET", "/api/access")).sessions) await api("DELETE", `/api/access/sessions/${id}`);
  await shown(page, "Your session has ended", ".sign-in-card");
});
await endSessions();
assert.equal(await page.locator("dialog").count(), 0);
await page.waitForFunction(() => document.activeElement.id === "pin");
assert.doesNotMatch(await text(page, ".sign-in-card"), /is gone/);
await signIn(page);
await page.getByRole("button", { name: "Revoke meter-reader" }).waitFor();
assert.equal((await texts(page, "h3")).filter((name) => name === "meter-reader").length, 1);
await go("#/settings/config", "Settings");
await page.locator("textarea.config").fill("[site]");
await endSessions();
await shown(page, "What was typed and not sent is gone.", ".sign-in-card");
assert(await fits(page));

await page.context().close();
await done();
