// The view Exports: a connection and a query are made by the page, an export is ordered, followed, taken home and verified there.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { VIEWER, api, ask, assert, done, everywhere, failing, shot, signedIn, texts, told, url } from "../page/browser.mjs";
import { command, download, run, status, unpack } from "./home.mjs";

const page = await signedIn({ hash: "#/exports" });
const row = (name) => page.locator("section.card .rows > li", { has: page.getByRole("heading", { name: new RegExp(`^${name}`), level: 3 }) });
const says = (locator, text) => locator.filter({ hasText: text }).waitFor();

// Without anything to ask, the page says what is missing.
await page.getByText("There is no connection and no query yet: add one below.").waitFor();
assert(await page.getByRole("button", { name: "Order the export" }).isHidden());
await everywhere(page, "exports-empty");

// A connection whose address answers nobody, and a password that is wrong: the test says which.
await page.getByRole("button", { name: "Add a connection" }).click();
let dialog = page.getByRole("dialog", { name: "Add a connection" });
await dialog.getByLabel("Name").fill("historian");
await dialog.getByLabel("Version of InfluxDB").selectOption("1");
assert(await dialog.getByLabel("Bucket").isHidden());
await dialog.getByLabel("Address").fill("http://127.0.0.1:1");
await dialog.getByLabel("Database").fill(told.database);
await dialog.getByLabel("User").fill(told.username);
await dialog.getByLabel("Password").fill("not-the-password");
await everywhere(page, "exports-connection");
await dialog.getByRole("button", { name: "Add" }).click();
await dialog.waitFor({ state: "detached" });
const historian = row("historian");
await says(historian, "Not tested");
await says(historian, `database ${told.database}, user ${told.username}`);
await failing(async () => {
  await page.getByRole("button", { name: "Test historian" }).click();
  await says(historian, "is it running, and the port right?");
});
await says(historian, "Test did not succeed");

// Its secret is never shown, stays where nothing is said of it, and goes to no other address.
const edit = async (change, isTaken = true) => {
  await page.getByRole("button", { name: "Edit historian" }).click();
  dialog = page.getByRole("dialog", { name: "Edit historian" });
  assert.equal(await dialog.getByLabel("Password").inputValue(), "");
  await change();
  await dialog.getByRole("button", { name: "Save" }).click();
  if (isTaken) await dialog.waitFor({ state: "detached" });
};
await failing(async () => {
  await edit(() => dialog.getByLabel("Address").fill(told.influx), false);
  await says(dialog, "the address is another one, so give the secret again");
});
await dialog.getByLabel("Password").fill("still-not-the-password");
await dialog.getByRole("button", { name: "Save" }).click();
await dialog.waitFor({ state: "detached" });
await says(historian, told.influx);
await failing(async () => {
  await page.getByRole("button", { name: "Test historian" }).click();
  await says(historian, "authorization failed; correct the credentials");
});
await edit(() => dialog.getByLabel("Password").fill(told.password));
await page.getByRole("button", { name: "Test historian" }).click();
await says(historian, /InfluxDB 1\.\S+ takes these credentials\./);
await edit(() => dialog.getByLabel("Retention policy").fill("autogen"));
await says(historian, "retention policy autogen");
await page.getByRole("button", { name: "Test historian" }).click();
await says(historian, /InfluxDB 1\.\S+ takes these credentials\./);
assert.doesNotMatch(await page.content(), new RegExp(told.password));
assert.doesNotMatch(JSON.stringify(await api("GET", "/api/connections")), /not-the-password|default/);

// Another one is added and removed.
await page.getByRole("button", { name: "Add a connection" }).click();
dialog = page.getByRole("dialog", { name: "Add a connection" });
await dialog.getByLabel("Name").fill("spare");
await dialog.getByLabel("Version of InfluxDB").selectOption("2");
await dialog.getByLabel("Address").fill("http://192.0.2.20:8086");
await dialog.getByLabel("Organisation").fill("plant");
await dialog.getByLabel("Bucket").fill("energy");
await dialog.getByLabel("Token").fill("a-token-of-nobody");
await dialog.getByRole("button", { name: "Add" }).click();
await says(row("spare"), "InfluxDB 2, http://192.0.2.20:8086");
await page.getByRole("button", { name: "Delete spare" }).click();
await page.getByRole("dialog", { name: "Delete the connection spare?" }).getByRole("button", { name: "Delete" }).click();
await row("spare").waitFor({ state: "detached" });
assert.deepEqual((await api("GET", "/api/connections")).map(({ name }) => name), ["historian"]);

// What is asked: made, told what is wrong with it, and changed.
await page.getByText("There is no query yet: add one below.").waitFor();
await page.getByRole("button", { name: "Add a query" }).click();
dialog = page.getByRole("dialog", { name: "Add a query" });
await dialog.getByLabel("Name").fill("energy");
await dialog.getByLabel("Measurement").fill("energy");
await dialog.getByLabel("Fields").fill("power");
await dialog.getByLabel("Tags").fill("line");
await dialog.getByRole("button", { name: "Add" }).click();
await says(dialog, "Tag “line” has no value: write it as name=value.");
await dialog.getByLabel("Tags").fill("line=a");
await dialog.getByRole("button", { name: "Add" }).click();
await says(row("energy"), "Points of energy: power");
await page.getByRole("button", { name: "Edit energy" }).click();
await page.getByRole("dialog", { name: "Edit energy" }).getByLabel("Fields").fill("power, count");
await page.getByRole("dialog", { name: "Edit energy" }).getByRole("button", { name: "Save" }).click();
await says(row("energy"), "Points of energy: power, count");
await says(row("energy"), "line = a");
await everywhere(page, "exports-ready");

// An export is ordered. It is seen to go on, to wait while the server is away, and to come to its end.
await page.evaluate(() => {
  globalThis.progress = [];
  new MutationObserver(() => {
    const bar = document.querySelector(".job progress");
    const way = document.querySelector(".job .hint")?.textContent ?? "";
    if (bar && !bar.hidden && bar.hasAttribute("value")) globalThis.progress.push([bar.value, way]);
  }).observe(document.querySelector("main"), { subtree: true, childList: true, attributes: true, characterData: true });
});
await page.getByLabel("From").fill("2025-05-01T00:00");
await page.getByLabel("Until, not included").fill("2025-06-01T00:00");
assert.equal(await page.getByLabel("Period").inputValue(), "other");
await page.getByRole("button", { name: "Order the export" }).click();
await page.getByText("Ordered: energy from historian.").waitFor();
const job = page.locator(".job");
await says(job, "1 May 2025 – 31 May 2025, whole days");
await says(job.locator(".badge"), "Running");
await page.waitForFunction(() => globalThis.progress.some(([share, way]) => share > 0 && share < 1 && /^\d+\s% of the period, [\d,]+ rows\/s, about .+ left$/.test(way)));
await ask("cut");
await says(job.locator(".waits"), "historian");
await shot(page, "exports-waits");
await ask("mend");
await says(job.locator(".badge"), "Done");
const shares = await page.evaluate(() => globalThis.progress.map(([share]) => share));
assert.deepEqual(shares, shares.toSorted((a, b) => a - b), "it went back");
await says(job, "12,000 rows");
await job.getByText("Details").click();
const details = async () => (await job.locator("dl").textContent()).replaceAll("\u00a0", " ");
assert.match(await details(), /Ordered.* by admin.*Querypoints of energy.*Downloadednot yet/);
await everywhere(page, "exports-done");

// The bundle, its manifest and its proof are taken home.
const bundle = unpack(await download(page, () => job.getByRole("link", { name: "Download" }).click()));
const [{ id, bundle: { manifest_sha256: digest } }] = await api("GET", "/api/bulk");
assert.deepEqual(bundle.names, [`${id}/manifest.json`, `${id}/data-00000.jsonl.zst`]);
await page.waitForFunction(() => !document.querySelector(".job dl").textContent.includes("Downloadednot yet"));
assert(await job.getByText(digest).isVisible());
const manifest = readFileSync(await download(page, () => job.getByRole("link", { name: "Manifest" }).click()));
assert.equal(createHash("sha256").update(manifest).digest("hex"), digest);
assert.deepEqual(readFileSync(join(bundle.folder, "manifest.json")), manifest);
assert.equal(JSON.parse(manifest).rows, 2 * told.points);
const proof = await download(page, () => job.getByRole("button", { name: "Proof" }).click());
assert.equal(basename(proof), `${id}.proof.json`);

// Both programs that the page names verify what was taken home by the gateway's key, and see a byte that is another one.
await page.goto(`${url}/#/evidence`);
const verify = await command(page, "Command that verifies a proof");
const inPython = await command(page, "Command that verifies a proof in Python");
assert.equal(verify, `meterseal verify FILE --key '${told.key}'`);
for (const words of [verify, inPython]) {
  const { code, said } = run(words, bundle.folder);
  assert.equal(code, 3, said);
  assert.match(said, /it is not anchored/);
  assert.match(said, /12000 rows/);
}
const part = join(bundle.folder, "data-00000.jsonl.zst");
const bytes = readFileSync(part);
bytes[bytes.length >> 1] ^= 1;
writeFileSync(part, bytes);
for (const words of [verify, inPython]) {
  const { code, said } = run(words, bundle.folder);
  assert.equal(code, 1, said);
}

// Its bundle is deleted, and its record stays.
await page.goto(`${url}/#/exports`);
await page.getByRole("button", { name: "Delete the bundle of energy from historian" }).click();
await page.getByRole("dialog").getByRole("button", { name: "Delete the bundle" }).click();
await says(job, "the bundle was deleted");
assert(await job.getByRole("link", { name: "Download" }).isHidden());

// A viewer sees all of it, and is neither offered nor granted a change.
const guest = await signedIn({ pin: VIEWER, hash: "#/exports" });
await guest.locator(".job").filter({ hasText: "Done" }).waitFor();
await guest.getByText("Points of energy: power, count").waitFor();
assert.deepEqual(await texts(guest, "main button:visible, main a.button:visible"), []);
assert.equal(await guest.getByRole("heading", { name: "New export" }).count(), 0);
await everywhere(guest, "exports-viewer");
const { token: viewer } = await api("POST", "/api/session", { pin: VIEWER });
assert.equal(await status(viewer, "GET", "/api/bulk"), 200);
for (const [method, path, body] of [
  ["POST", "/api/bulk", { connection: "historian", query: "energy", from: "2025-05-01T00:00", to: "2025-05-02T00:00" }],
  ["POST", "/api/connections", { name: "other", version: 2, url: "http://127.0.0.1:1", org: "a", bucket: "b", token: "c" }],
  ["PUT", "/api/connections/historian", {}], ["DELETE", "/api/connections/historian"], ["POST", "/api/connections/historian/test"],
  ["POST", "/api/queries", { name: "other", measurement: "energy" }], ["DELETE", "/api/queries/energy"], ["DELETE", `/api/bulk/${id}`],
]) assert.equal(await status(viewer, method, path, body), 403, `${method} ${path}`);
await done();
