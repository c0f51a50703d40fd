// The first run: the one-time code, a PIN, zone and clock, a search, and the first reading.

import { ADMIN, assert, done, everywhere, failing, open, shown, text, texts, told } from "./browser.mjs";

const page = await open({ hash: "#/now" });
await page.getByLabel("Set-up code").waitFor();
assert.equal(await page.evaluate(() => location.hash), "#/setup");
assert.deepEqual((await texts(page, ".steps li")), ["PIN", "Clock", "Meters", "First reading"]);
assert.deepEqual((await texts(page, ".steps [aria-current=step]")), ["PIN"]);
await everywhere(page, "setup");

await page.getByRole("button", { name: "Set the PIN" }).click();
await page.getByText("Enter the code.").waitFor();
await page.getByLabel("Set-up code").fill("WRONG-CODE");
await page.getByLabel("New PIN of the administrator").fill("4711");
await page.getByLabel("The same PIN again").fill("4711");
await page.getByRole("button", { name: "Set the PIN" }).click();
await page.getByText("A PIN has 6 to 12 digits.").waitFor();
await page.getByLabel("New PIN of the administrator").fill(ADMIN);
await page.getByRole("button", { name: "Set the PIN" }).click();
await page.getByText("The two PINs differ.").waitFor();
await page.getByLabel("The same PIN again").fill(ADMIN);
await failing(async () => {
  await page.getByRole("button", { name: "Set the PIN" }).click();
  await page.getByText("This code is wrong.").waitFor();
});
await page.getByLabel("Set-up code").fill(told.code);
await page.getByRole("button", { name: "Set the PIN" }).click();

await page.getByRole("heading", { name: "Time zone and clock" }).waitFor();
await shown(page, "Asia/Kuala_Lumpur", ".facts");
assert.match(await text(page, ".facts"), /Sat,? 21 Nov, 15:18:\d\dClocksynchronised/);
await everywhere(page, "setup-clock");
await page.getByRole("link", { name: "Both are right" }).click();

await page.getByLabel("Address or serial port").fill(told.bus);
await page.getByLabel("Units").fill("1-2");
await page.getByRole("button", { name: "Search" }).click();
await page.getByLabel("Config of the new meters").waitFor();
await everywhere(page, "setup-meters");
await page.getByRole("link", { name: "Go on" }).click();

await shown(page, "1 of 1 meter read.", ".first-reading");
assert.match(await text(page, ".plain li"), /^Main incomer: 2\d\d\.\d kW, read at 15:1\d:\d\d$/);
await everywhere(page, "setup-reading");
await page.getByRole("link", { name: "See the plant" }).click();
await page.getByRole("heading", { name: "Now" }).waitFor();
await page.reload();
await page.getByRole("heading", { name: "Now" }).waitFor();
await done();
