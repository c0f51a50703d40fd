// Signing in: by pad and keyboard, what is wrong, the lock-out, the second code, and how a session ends.

import { ADMIN, VIEWER, api, ask, assert, codeOf, done, everywhere, failing, open, shot, shown, signIn, text, url } from "./browser.mjs";

// Whoever is not signed in is asked to, wherever the address leads, and gets there afterwards.
const page = await open({ hash: "#/meters/main" });
await page.getByLabel("PIN", { exact: true }).waitFor();
assert.equal(await page.evaluate(() => location.hash), "#/sign-in");
assert.equal(await text(page, "#site"), "Shah Alam plant");
assert.equal(await page.evaluate(() => document.activeElement.id), "pin");
assert(await page.locator("#nav").isHidden());
await everywhere(page, "sign-in");

// By the pad, with the keyboard in between and a digit taken back.
for (const digit of "12") await page.getByRole("button", { name: digit, exact: true }).click();
await page.keyboard.press("3");
await page.getByRole("button", { name: "Delete the last digit" }).click();
assert.equal(await page.getByLabel("PIN", { exact: true }).inputValue(), "12");
await page.getByLabel("PIN", { exact: true }).press("Enter");
await shown(page, "6 to 12 digits", "#pin-told");

// A wrong PIN is told and taken away.
await failing(async () => {
  await page.getByLabel("PIN", { exact: true }).fill("111222");
  await page.getByRole("button", { name: "Sign in" }).click();
  await shown(page, "This PIN is wrong", "#pin-told");
});
assert.equal(await page.getByLabel("PIN", { exact: true }).inputValue(), "");

// After some of them nothing can be entered for a while, which is counted down.
await failing(async () => {
  for (let tries = 0; tries < 8 && !(await page.getByLabel("PIN", { exact: true }).isDisabled()); tries += 1) {
    await page.getByLabel("PIN", { exact: true }).fill("111222");
    const answer = page.waitForResponse((response) => response.url().endsWith("/api/session"));
    await page.keyboard.press("Enter");
    await answer;
    await page.waitForFunction(() => document.getElementById("pin-told").textContent !== "");
  }
});
await shown(page, "Too many wrong tries. Try again in", "#pin-told");
const waits = /in (\d+):(\d\d)\.$/.exec(await text(page, "#pin-told [aria-hidden]"));
assert(Number(waits[1]) * 60 + Number(waits[2]) <= 3600, `it waits for ${waits[0]}`);
assert(await page.getByRole("button", { name: "Sign in" }).isDisabled());
await shot(page, "locked-out");
await page.waitForFunction((before) => document.querySelector("#pin-told [aria-hidden]").textContent !== before, waits.input);
await ask("wait 3600");

// The right one leads to where the address led.
await page.reload();
await signIn(page);
await page.getByRole("heading", { name: "Main incomer", level: 1 }).waitFor();
assert.equal(await page.evaluate(() => location.hash), "#/meters/main");
const cookies = await page.context().cookies();
assert.deepEqual(cookies.map(({ name, httpOnly, secure, sameSite }) => [name, httpOnly, secure, sameSite]), [["meterseal_session", true, true, "Strict"]]);
await page.reload();
await page.getByRole("heading", { name: "Main incomer", level: 1 }).waitFor();

// A session that ends brings the sign-in with the reason, and then what was shown.
await failing(async () => {
  for (const { id } of (await api("GET", "/api/access")).sessions) await api("DELETE", `/api/access/sessions/${id}`);
  await shown(page, "Your session has ended", ".sign-in-card");
});
await shot(page, "session-ended");
await signIn(page);
await page.getByRole("heading", { name: "Main incomer", level: 1 }).waitFor();

// What somebody asks for keeps a session alive, and what the page asks by itself does not.
const peeks = (request) => request.headers()["x-peek"] ?? null;
let next = page.waitForRequest((request) => request.url().includes("/api/meters/summary"));
await page.getByRole("link", { name: "Meters", exact: true }).click();
const asked = await next;
assert.equal(peeks(asked), null);
let own = null;
page.waitForRequest((request) => request.url().endsWith("/api/dashboard/snapshot")).then((request) => (own = request));
// One that came before the feed was up again told nothing.
for (let tries = 0; !own && tries < 60; tries++) {
  await ask("alert");
  await page.waitForTimeout(250);
}
assert.equal(peeks(own), "1");

// Signing out ends it for the gateway as well.
await page.locator("#user summary").click();
await shot(page, "session-menu");
await page.getByRole("button", { name: "Sign out" }).click();
await page.getByLabel("PIN", { exact: true }).waitFor();
assert.doesNotMatch(await text(page, ".sign-in-card"), /has ended/);
assert.deepEqual(await page.context().cookies(), []);

// A viewer sees everything and is offered no change.
await page.goto(`${url}/#/meters/main`);
await signIn(page, VIEWER);
await page.getByRole("heading", { name: "Main incomer", level: 1 }).waitFor();
assert.equal(await page.getByRole("heading", { name: "Name and target" }).count(), 0);
await page.locator("#user summary").click();
await page.getByRole("button", { name: "Sign out" }).click();

// With TOTP, a code is asked for after the PIN, or a recovery code.
const admin = await api("POST", "/api/session", { pin: ADMIN });
const { secret } = await api("POST", "/api/access/totp", { current: ADMIN }, admin.token);
const { recovery_codes: [recovery] } = await api("PUT", "/api/access/totp", { code: await codeNow(secret) }, admin.token);
// A code is taken once.
await ask("wait 60");
await page.getByLabel("PIN", { exact: true }).waitFor();
await failing(async () => {
  await page.getByLabel("PIN", { exact: true }).fill(ADMIN);
  await page.keyboard.press("Enter");
  await page.getByLabel("Code from your authenticator app").waitFor();
  await everywhere(page, "sign-in-code");
  await page.getByLabel("Code from your authenticator app").fill("12345");
  await page.keyboard.press("Enter");
  await shown(page, "The code has 6 digits", "#code-told");
  await page.getByLabel("Code from your authenticator app").fill(wrong(await codeNow(secret)));
  await page.keyboard.press("Enter");
  await shown(page, "This code is wrong", "#code-told");
});
await page.getByLabel("Code from your authenticator app").fill(await codeNow(secret));
await page.keyboard.press("Enter");
await page.locator("#nav").waitFor({ state: "visible" });
await page.locator("#user summary").click();
await page.getByRole("button", { name: "Sign out" }).click();
await failing(async () => {
  await page.getByLabel("PIN", { exact: true }).fill(ADMIN);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Use a recovery code" }).click();
});
await page.getByLabel("Recovery code").fill(recovery);
await page.keyboard.press("Enter");
await page.locator("#nav").waitFor({ state: "visible" });

await done();

// At the plant's time.
async function codeNow(secret) {
  const { time } = await api("GET", "/api/setup");
  return codeOf(secret, Date.parse(time));
}

function wrong(code) {
  return String((Number(code) + 500000) % 1000000).padStart(6, "0");
}
