// The view Upstream before a receiver that refuses some records: what waits, what was refused and why, and that it goes again.

import { VIEWER, api, ask, assert, done, everywhere, signedIn, told } from "../page/browser.mjs";
import { status } from "./home.mjs";

const page = await signedIn({ hash: "#/upstream" });
const cloud = page.locator("section.upstream", { has: page.getByRole("heading", { name: "cloud" }) });
const says = (locator, text) => locator.filter({ hasText: text }).first().waitFor();
const path = "/api/upstream/cloud/dead-letters";
const row = (stream) => cloud.getByRole("row").filter({ has: page.getByRole("rowheader", { name: stream }) });
const count = told.refused.length;

// How far it is, by stream.
await says(cloud.locator(".badge"), "Connected");
await says(cloud, /Goes tohttps:\/\/localhost:\d+\/v1\/sync \(https\)/);
await says(row("Readings").getByRole("cell").last(), new RegExp(`^\\d+, ${count}\\srefused$`));
assert((await api("GET", "/api/upstream"))[0].streams.find(({ stream }) => stream === "readings").sent > 100, "what was read before is sent");

// What was refused, each with the reason and as it was sent.
const summary = cloud.locator("details.letters > summary");
await says(summary, `${count} dead letters: what it would not take`);
await summary.click();
const letters = cloud.locator(".letters .rows > li");
await letters.nth(count - 1).waitFor();
assert.equal(await letters.count(), count);
for (const seq of told.refused) {
  const letter = letters.filter({ hasText: new RegExp(`Readings\\s${seq}, refused once, last `) });
  assert.equal(await letter.locator(".reason").textContent(), "it is not as it must be");
}
await letters.last().getByText("The record as it was sent").click();
const line = JSON.parse(await letters.last().locator("pre").textContent());
assert.deepEqual([line.meter, line.seq], ["main", Math.min(...told.refused)]);
await everywhere(page, "upstream-letters");

// Sent once more while nothing is mended, it comes back.
const [first, second] = told.refused.toReversed();
await cloud.getByRole("button", { name: `Send again: record ${first}` }).click();
await says(cloud, "Sent again: what is refused once more comes back here.");
await says(letters, new RegExp(`Readings\\s${first}, refused 2\\stimes`));

// When it is, all go, and are gone from here.
await ask("mend");
await cloud.getByRole("button", { name: `Send again: record ${second}` }).click();
await says(summary, `${count - 1} dead letters`);
await letters.filter({ hasText: new RegExp(`Readings\\s${second},`) }).waitFor({ state: "detached" });
await cloud.getByRole("button", { name: "Send all again" }).click();
await says(summary, "No dead letters");
await letters.first().waitFor({ state: "detached" });
assert.deepEqual(await api("GET", path), []);
await cloud.getByRole("button", { name: "Try now" }).click();
await says(cloud, "What waits is tried now.");
await page.reload();
await says(cloud.locator(".badge"), "Connected");
assert(await summary.isHidden());

// It goes away: what waits is counted.
await ask("end");
await cloud.getByRole("button", { name: "Try now" }).click();
await says(cloud.locator(".badge"), "Away, tried again");
await says(cloud.locator(".notice"), "refuses the connection: is it running, and the port right?");
await page.waitForFunction(() => /^\d+$/.test(document.querySelector(".upstream tbody tr:last-child td").textContent));
assert.match(await row("Readings").getByRole("cell").nth(1).textContent(), /^\d+\ss$/);
await everywhere(page, "upstream-away");
await ask("begin");
await cloud.getByRole("button", { name: "Try now" }).click();
await says(cloud.locator(".badge"), "Connected");
assert(await cloud.locator(".notice").isHidden());

// A viewer sees all of it, and is neither offered nor granted to send again.
const guest = await signedIn({ pin: VIEWER, hash: "#/upstream" });
await guest.locator(".upstream .badge").filter({ hasText: "Connected" }).waitFor();
assert.equal(await guest.locator("main button:visible").count(), 0);
const { token: viewer } = await api("POST", "/api/session", { pin: VIEWER });
assert.equal(await status(viewer, "GET", path), 200);
assert.equal(await status(viewer, "POST", path, { replay: "all" }), 403);
assert.equal(await status(viewer, "POST", "/api/upstream/cloud/flush"), 403);
await done();
