// The view Alerts: one is raised, seen to, sent and over; what raises none any more; and the webhook.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { VIEWER, api, assert, done, everywhere, failing, signedIn, told } from "../page/browser.mjs";
import { status } from "./home.mjs";

const page = await signedIn({ hash: "#/alerts" });
const says = (locator, text) => locator.filter({ hasText: text }).first().waitFor();
const card = (name) => page.locator("section.card", { has: page.getByRole("heading", { name, level: 2, exact: true }) });
const [open, past, rules, webhook] = ["Open", "History", "Rules", "Webhook"].map(card);
await says(open, "Nothing is open.");
await says(past, "None so far.");

// The webhook is told by the config: there is none, then one that is away, and then one that answers.
const folder = join(told.folder, "conf.d");
mkdirSync(folder);
const reload = () => api("POST", "/api/config/reload");
const hook = (port) => {
  writeFileSync(join(folder, "alerts.toml"), `[alerts]\nwebhook = { url = "http://127.0.0.1:${port}/hook", body = '{"message":"{{text}}","kind":"{{kind}}"}' }\n`);
  return reload();
};
const taken = [];
const server = createServer((request, response) => {
  let body = "";
  request.on("data", (more) => (body += more)).on("end", () => {
    taken.push([request.url, JSON.parse(body)]);
    response.writeHead(202).end();
  });
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const test = page.getByRole("button", { name: "Send a test" });
await failing(async () => {
  await test.click();
  await says(webhook, "no webhook is set: put `webhook = { url = \"https://...\" }` under [alerts] of the config");
  assert.deepEqual((await hook(1)).changed, ["alerts"]);
  await test.click();
  await says(webhook, /the webhook did not take the test: it refuses the connection: is it running/);
});
await hook(server.address().port);
await test.click();
await says(webhook, "The webhook took it: it answered 202.");
assert.equal(taken.length, 1);
assert.deepEqual([taken[0][0], taken[0][1].kind], ["/hook", "test"]);
assert.match(taken[0][1].message, /^TEST: .* plant-7 /);

// A config that is refused raises an alert, which goes there as well.
const bad = join(folder, "bad.toml");
writeFileSync(bad, "[site]\nnmae = 3\n");
await reload();
const why = `The config on disk is refused and the last good one runs: ${bad}:2: site.nmae: no such key; did you mean \`name\`? See \`meterseal check\`.`;
await says(open, why);
assert.equal(await open.locator(".badge").textContent(), "Open");
await says(page.locator("#alert-count"), "1");
await says(open, /Since \d+ \w+ \d{4}, \d\d:\d\d, sent to the webhook/);
assert.deepEqual(taken.at(-1), ["/hook", { message: why, kind: "config_refused" }]);
await everywhere(page, "alerts-open");

// Somebody says that it is seen to. It stays until its cause is mended, and is history then.
await page.getByRole("button", { name: /^Acknowledge: The config on disk/ }).click();
await says(open, "Acknowledged by admin");
assert.equal(await open.locator(".badge").textContent(), "Open, acknowledged");
await page.locator("#alert-count").waitFor({ state: "hidden" });
assert(await page.getByRole("button", { name: /^Acknowledge/ }).isHidden());
rmSync(bad);
await reload();
await says(past, why);
await says(open, "Nothing is open.");
assert.equal(await past.locator(".badge").textContent(), "Over");
await says(past, "Acknowledged by admin");

// A kind that is switched off raises none; some cannot be.
const rule = (name) => rules.getByLabel(name, { exact: true });
await says(rules, "All are on");
await rule("Config refused").uncheck();
await says(rules, "Switched off: it raises no alert.");
await says(rules, "1 rule is off");
assert(await rule("Store in trouble").isDisabled());
await page.reload();
await says(rules, "1 rule is off");
assert(!(await rule("Config refused").isChecked()));
await everywhere(page, "alerts");
writeFileSync(bad, "[site]\nnmae = 3\n");
assert.equal((await reload()).faults.length, 1);
assert.deepEqual(await api("GET", "/api/alerts?open=true"), []);
rmSync(bad);
await reload();
await rule("Config refused").check();
await says(rules, "All are on");

// A viewer sees all of it, and is neither offered nor granted a change.
const guest = await signedIn({ pin: VIEWER, hash: "#/alerts" });
await guest.getByText(why).waitFor();
assert.equal(await guest.getByRole("heading", { name: "Webhook" }).count(), 0);
assert.equal(await guest.locator("main button:visible").count(), 0);
await guest.getByLabel("Config refused").waitFor();
assert(await guest.getByLabel("Config refused").isDisabled());
const { token: viewer } = await api("POST", "/api/session", { pin: VIEWER });
const [{ id }] = await api("GET", "/api/alerts");
for (const [method, path, body] of [["POST", `/api/alerts/${id}/ack`], ["PATCH", "/api/alerts/rules/config_refused", { on: false }], ["POST", "/api/alerts/test"]]) {
  assert.equal(await status(viewer, method, path, body), 403, path);
}
server.close();
await done();
