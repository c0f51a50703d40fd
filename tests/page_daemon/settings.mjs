// Settings: PINs, the second factor, tokens, the audit log, the config, and what this gateway is. By TLS, as other devices come.

import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "node:tls";
import { gunzipSync } from "node:zlib";
import { ADMIN, VIEWER, api, assert, codeOf, done, everywhere, failing, open, signedIn, told, url } from "../page/browser.mjs";
import { download, status } from "./home.mjs";

// Nobody has signed the gateway's certificate. What is asked beside the browser goes the same way.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
process.removeAllListeners("warning");
assert.match(url, /^https:/);
const any = { ignoreHTTPSErrors: true };

const page = await signedIn({ hash: "#/settings", ...any });
const card = (name, of = page) => of.locator("section.card", { has: of.getByRole("heading", { name, level: 2, exact: true }) });
const says = (locator, text) => locator.filter({ hasText: text }).first().waitFor();
const part = async (name) => {
  await page.getByRole("navigation", { name: "Settings" }).getByRole("link", { name, exact: true }).click();
};
const signsIn = (pin) => status("", "POST", "/api/session", { pin });

// The administrator's PIN: not without the one of now, and other sessions end with it.
const NEXT = "593817";
const other = await signedIn({ hash: "#/settings", ...any });
await says(card("Signed in now"), "This one");
await page.reload();
await page.getByRole("button", { name: "End the session of the admin from loopback" }).waitFor();
await page.getByRole("button", { name: "Change the PIN of the admin" }).click();
let dialog = page.getByRole("dialog", { name: "New PIN of the admin" });
const change = async (current, pin, again = pin) => {
  await dialog.getByLabel("The administrator’s PIN now").fill(current);
  await dialog.getByLabel("New PIN", { exact: true }).fill(pin);
  await dialog.getByLabel("New PIN again").fill(again);
  await dialog.getByRole("button", { name: "Set the PIN" }).click();
};
await change(ADMIN, NEXT, "593818");
await says(dialog, "The two new PINs differ.");
await failing(async () => {
  await change("593818", NEXT);
  await says(dialog.getByRole("status"), "`current` is not the admin's PIN");
  await change(ADMIN, "123456");
  await says(dialog.getByRole("status"), "counts up or down");
  await everywhere(page, "settings-pin");
  await change(ADMIN, NEXT);
  await says(card("PIN"), "The PIN is changed. Other sessions of the administrator are ended.");
  await other.reload();
  await other.getByLabel("PIN", { exact: true }).waitFor();
  await other.context().close();
});
assert.deepEqual([await signsIn(ADMIN), await signsIn(NEXT)], [401, 200]);

// The viewer's: another one, and none.
await page.getByRole("button", { name: "Change the PIN of the viewer" }).click();
dialog = page.getByRole("dialog", { name: "New PIN of the viewer" });
const GUEST = "705284";
await failing(async () => {
  await change(NEXT, NEXT);
  await says(dialog.getByRole("status"), "the other role's PIN");
});
await change(NEXT, GUEST);
await says(card("PIN"), "The viewer’s PIN is set.");
assert.deepEqual([await signsIn(VIEWER), await signsIn(GUEST)], [401, 200]);
const guest = await signedIn({ pin: GUEST, hash: "#/settings", ...any });
await says(card("This gateway", guest), "Shah Alam plant (plant-7)");
assert.equal(await guest.getByRole("navigation", { name: "Settings" }).count(), 0);
assert.equal(await guest.getByRole("heading", { name: "Support bundle" }).count(), 0);
await everywhere(guest, "settings-viewer");
await guest.goto(`${url}/#/settings/tokens`);
await says(card("This gateway", guest), "Shah Alam plant (plant-7)");
const { token: viewer } = await api("POST", "/api/session", { pin: GUEST });
for (const [method, path, body] of [
  ["GET", "/api/access"], ["PUT", "/api/access/pin", { role: "viewer", pin: "482915", current: NEXT }], ["POST", "/api/access/totp"], ["GET", "/api/tokens"],
  ["POST", "/api/tokens", { name: "mine", scope: "read" }], ["GET", "/api/audit"], ["GET", "/api/config"], ["POST", "/api/config/reload"], ["POST", "/api/config/check", { text: "" }], ["GET", "/api/support"],
]) assert.equal(await status(viewer, method, path, body), 403, `${method} ${path}`);
await failing(async () => {
  await page.getByRole("button", { name: "Remove the PIN of the viewer" }).click();
  await page.getByRole("dialog", { name: "Remove the viewer’s PIN?" }).getByRole("button", { name: "Remove" }).click();
  await says(card("PIN"), "None: nobody can sign in so.");
  assert.deepEqual([await signsIn(GUEST), await status(viewer, "GET", "/api/about")], [401, 401]);
  await guest.reload();
  await guest.getByLabel("PIN", { exact: true }).waitFor();
  await guest.context().close();
});
await page.getByRole("button", { name: "Set a PIN for the viewer" }).waitFor();
await everywhere(page, "settings-access");

// A second factor: the picture, the secret and the link say the same; a code of now switches it on.
const factor = card("Second factor");
await factor.getByRole("button", { name: "Switch on" }).click();
dialog = page.getByRole("dialog", { name: "Switch a second factor on?" });
await dialog.getByLabel("The administrator’s PIN").fill(NEXT);
await dialog.getByRole("button", { name: "Go on" }).click();
const picture = factor.getByRole("img", { name: /^QR code/ });
await picture.waitFor();
assert(await picture.evaluate((image) => image.complete && image.naturalWidth > 100));
const secret = (await factor.getByRole("region", { name: "Secret of the second factor" }).textContent()).replaceAll(" ", "");
assert.match(secret, /^[A-Z2-7]{32,}$/);
const uri = new URL(await factor.getByRole("link", { name: "open it on this device" }).getAttribute("href"));
assert.deepEqual([uri.protocol, uri.searchParams.get("secret")], ["otpauth:", secret]);
await everywhere(page, "settings-totp");
await failing(async () => {
  await factor.getByLabel("Code that the app shows").fill(codeOf(secret, Date.now() + 3600000));
  await factor.getByRole("button", { name: "Confirm" }).click();
  await says(factor.locator(".outcome"), /code/);
});
await factor.getByLabel("Code that the app shows").fill(codeOf(secret, Date.now()));
await factor.getByRole("button", { name: "Confirm" }).click();
dialog = page.getByRole("dialog", { name: "Recovery codes" });
const codes = (await dialog.locator("pre").textContent()).split("\n");
assert.equal(new Set(codes).size, 10);
await everywhere(page, "settings-recovery");
await dialog.getByRole("button", { name: "I have it" }).click();
await dialog.waitFor({ state: "detached" });
await says(factor.locator(".badge"), "On");
await says(factor, /10\srecovery codes are left/);
assert(!(await page.content()).includes(codes[0]), "the codes stay in the page");

// The PIN alone is not enough then; a recovery code is, once; and with another one it is switched off.
const again = await open({ hash: "#/settings", ...any });
await failing(async () => {
  await again.getByLabel("PIN", { exact: true }).fill(NEXT);
  await again.keyboard.press("Enter");
  await again.getByRole("button", { name: "Use a recovery code" }).click();
  await again.getByLabel("Recovery code").fill(codes[0]);
  await again.keyboard.press("Enter");
  await again.locator("#nav").waitFor({ state: "visible" });
});
assert.deepEqual([await status("", "POST", "/api/session", { pin: NEXT, recovery: codes[0] }), await signsIn(NEXT)], [401, 401]);
await page.reload();
await says(factor, /9\srecovery codes are left/);
await factor.getByRole("button", { name: "Switch off" }).click();
dialog = page.getByRole("dialog", { name: "Switch the second factor off?" });
await dialog.getByLabel("The administrator’s PIN").fill(NEXT);
await dialog.getByLabel("Code of the app, or a recovery code").fill(codes[1]);
await dialog.getByRole("button", { name: "Switch off" }).click();
await says(factor.locator(".badge"), "Off");
assert.equal(await signsIn(NEXT), 200);

// A token is shown once, does what its scope says, and nothing once it is revoked.
await part("Tokens");
await page.getByRole("button", { name: "New token" }).click();
dialog = page.getByRole("dialog", { name: "New token" });
await dialog.getByLabel("Name").fill("grafana");
await dialog.getByLabel("May").selectOption("read");
await dialog.getByRole("button", { name: "Make the token" }).click();
dialog = page.getByRole("dialog", { name: "Token grafana" });
const token = await dialog.locator("pre").textContent();
await everywhere(page, "settings-token");
await dialog.getByRole("button", { name: "I have it" }).click();
await dialog.waitFor({ state: "detached" });
// A dialog that is closed is gone to the reader at once, and a moment later from the page.
await page.waitForFunction((shown) => !document.documentElement.outerHTML.includes(shown), token);
assert.deepEqual([await status(token, "GET", "/api/meters"), await status(token, "GET", "/api/tokens"), await status(token, "POST", "/api/bulk", {})], [200, 403, 403]);
await page.reload();
await says(page.locator("li", { hasText: "grafana" }), /read: Reads meters, blocks and evidence.*last used/);
await everywhere(page, "settings-tokens");
await page.getByRole("button", { name: "Revoke grafana" }).click();
await page.getByRole("dialog", { name: "Revoke the token grafana?" }).getByRole("button", { name: "Revoke" }).click();
await says(card("Tokens of programs"), "The token grafana is revoked.");
assert.equal(await status(token, "GET", "/api/meters"), 401);

// The log says who did all of that.
await part("Audit");
const audit = card("Audit log");
await audit.locator("tbody tr").first().waitFor();
const kept = (await audit.locator("tbody tr").all()).map(async (row) => (await row.locator("> *").allTextContents()).slice(1, 5));
const entries = (await Promise.all(kept)).map(([what, by, from, detail]) => `${what}, ${by}, ${from}: ${detail.replaceAll("\u00a0", " ")}`);
const wanted = [
  /^Token revoke, admin, .*name: grafana/, /^Token create, admin, .*name: grafana, scope: read/, /^Second factor off, admin/, /^Sign in, admin, .*second: recovery/,
  /^Second factor on, admin/, /^PIN revoke, admin, .*role: viewer/, /^Sign in, viewer/, /^PIN set, admin, .*role: viewer/, /^PIN set, admin, .*role: admin/,
  /^Sign in refused, nobody, .*guesses: 1/, /^Token create, user \d+ of this machine, .*name: tests/,
];
let at = -1;
for (const action of wanted) {
  at = entries.findIndex((entry, place) => place > at && action.test(entry));
  assert(at >= 0, `${action} is not told, or not in this order: ${entries.join("\n")}`);
}
assert.doesNotMatch(entries.join(" "), new RegExp([NEXT, GUEST, secret, codes[0], token].join("|")));
await everywhere(page, "settings-audit");

// The config without its secrets. One that is bad is refused with the line, and what runs goes on.
await part("Config");
const config = card("Config");
await says(config.locator(".badge"), "No fault");
await config.locator("summary").first().click();
await says(config.locator("pre"), 'webhook = { url = "***", body = "***" }');
assert(!(await page.content()).includes(told.secret));
const bad = join(told.folder, "conf.d", "bad.toml");
writeFileSync(bad, "[site]\nnmae = 3\n");
await page.getByRole("button", { name: "Reload the files" }).click();
await says(config.locator(".notice"), `${bad}:2: site.nmae: no such key; did you mean \`name\`?`);
await says(config.locator(".badge"), /1\sfault/);
await says(config, "It was refused: what ran before goes on.");
await everywhere(page, "settings-config-bad");
writeFileSync(bad, "[site]\norganization = \"Acme Foods\"\n");
await page.getByRole("button", { name: "Reload the files" }).click();
await says(config, /In force: .*site/);
await says(config.locator(".badge"), "No fault");

// A text is tried, and changes nothing.
const draft = card("Try a config");
const main = readFileSync(join(told.folder, "meterseal.toml"), "utf8");
await draft.getByRole("button", { name: "Check it" }).click();
await says(draft, "Paste a config first.");
await draft.getByLabel("Config as TOML").fill(main.replace("category = \"CONS\"", "category = \"CONSUMES\""));
await draft.getByRole("button", { name: "Check it" }).click();
await says(draft.locator(".notice"), /1\sfault/);
const line = main.split("\n").findIndex((line) => line.startsWith("category")) + 1;
await says(draft.locator(".notice"), 'modbus[0].meter[0].category: "CONSUMES" is none of PROD, CONS, STOR, INJ');
await says(draft.locator(".notice"), `line ${line}`);
await draft.getByLabel("Config as TOML").fill(main);
await draft.getByRole("button", { name: "Check it" }).click();
await says(draft, "No fault: it can be written to the file and reloaded.");
await everywhere(page, "settings-config");

// What this gateway is: the version of the program, and the certificate that it shows to everybody.
await part("About");
const { stdout } = spawnSync(told.program, ["--version"], { encoding: "utf8" });
await says(card("This gateway"), `Version${stdout.trim().split(" ").at(-1)}`);
const certificate = await new Promise((told) => {
  const socket = connect({ host: "127.0.0.1", port: new URL(url).port, rejectUnauthorized: false }, () => {
    told(socket.getPeerCertificate().fingerprint256);
    socket.destroy();
  });
});
const print = await page.getByRole("region", { name: "Fingerprint of the certificate" }).textContent();
assert.equal(print, certificate);
await everywhere(page, "settings-about");

// The support bundle says what helps, and no secret.
const bundle = await download(page, () => page.getByRole("button", { name: "Download the support bundle" }).click());
await says(card("Support bundle"), "Downloaded.");
const names = spawnSync("tar", ["-tzf", bundle], { encoding: "utf8" }).stdout.trim().split("\n");
const bytes = gunzipSync(readFileSync(bundle)).toString("latin1");
for (const name of ["about.json", "health.json", "upstreams.json", "alerts.json", "log.txt", "config/00-meterseal.toml"]) assert(names.some((one) => one.endsWith(`/${name}`)), names.join(" "));
assert.match(bytes, /name = "historian"/);
const secrets = { secret: told.secret, token: told.token, revoked: token, PIN: NEXT, viewer: GUEST, factor: secret, recovery: codes[5], session: viewer };
for (const [name, secret] of Object.entries(secrets)) assert.doesNotMatch(bytes, new RegExp(`(?<![\\d.])${secret}(?!\\d)`), `the support bundle has the ${name}`);
await done();
