// Where power flows: as it does in the plant, whatever is metered, and by no guess of which meter stands at the grid.

import { assert, done, everywhere, shown, signedIn, text, told } from "./browser.mjs";

const page = await signedIn();
await page.locator("section.running").first().waitFor();

// A plant of these meters: id, name, category, power, and more of it.
let meters = [];
await page.route("**/api/dashboard/snapshot", async (route) => {
  const answer = await route.fetch();
  const plant = await answer.json();
  const main = plant.all_meters.find((meter) => meter.kind !== "sum");
  plant.all_meters = meters.map(({ kw, ...meter }) => ({ ...main, peak_target_kwh: null, power_kw: kw, values: { power_kw: { value: kw, time: "2999-01-01T00:00:00.000Z" } }, ...meter }));
  plant.current_blocks = {};
  await route.fulfill({ response: answer, json: plant });
});
await page.route("**/api/meters/*/blocks/today", (route) => route.fulfill({ json: [] }));
async function plantOf(given) {
  meters = given;
  await page.evaluate(() => localStorage.clear());
  await page.reload();
  await page.locator(".powers li").nth(given.length - 1).waitFor();
}
const flow = (kind) => text(page, `.node[data-kind=${kind}]`);
const isShown = (kind) => page.locator(`.node[data-kind=${kind}]`).isVisible();
const kw = (value) => `${Math.abs(value).toFixed(Math.abs(value) < 10 ? 2 : 1)} kW`;
const choice = page.getByLabel("The grid is measured by");

// The simulated plant at noon: what is left over is the load without a meter, and the roof that feeds in is no part of it.
const noon = (id) => told.noon.meters.find((meter) => meter.id === id).kw;
await plantOf(told.noon.meters);
assert(noon("feed-in") > 20 && noon("solar-roof") > 50, "the sun shines");
assert.equal(await flow("GRID"), `Grid${kw(noon("main-incomer"))}gives`);
assert.equal(await flow("PROD"), `Production${kw(noon("solar-roof"))}produces`);
assert.equal(await flow("CONS"), `Consumption${kw(["line-a", "line-b", "compressor", "chiller"].reduce((sum, id) => sum + noon(id), 0))}consumes`);
assert.equal(await flow("REST"), `Not metered${kw(told.noon.unmetered)}takes, reckoned`);
assert.equal(await flow("INJ"), `Feed-instraight to the grid${kw(noon("feed-in"))}`);
assert(await page.locator(".flow-card .notice").first().isHidden());
await everywhere(page, "now-noon");

// Two incomers: their sum is the grid, and they are not booked again as consumers.
const consumer = (id, kw, more = {}) => ({ id, name: id, category: "CONS", kw, ...more });
const sum = { id: "plant-total", name: "Plant total", category: "CONS", kind: "sum", add: ["main-incomer", "incomer-2"], subtract: [], kw: 200 };
const two = [consumer("main-incomer", 100), consumer("incomer-2", 100), consumer("line-1", 90), consumer("line-2", 110)];
await plantOf([...two, { ...sum, peak_target_kwh: 400 }]);
assert.equal(await choice.inputValue(), "plant-total");
assert.equal(await flow("GRID"), "Grid200.0 kWgives");
assert.equal(await flow("CONS"), "Consumption200.0 kWconsumes");
assert(!(await isShown("REST")));

// Where the config does not say which it is, it is asked, also where one line alone has a target; the answer is kept.
await plantOf([...two.slice(0, 2), consumer("line-1", 90, { peak_target_kwh: 50 }), { ...sum, peak_target_kwh: null }, { id: "roof", name: "Roof", category: "PROD", kw: 20 }]);
await shown(page, "Choose the meter at the grid’s connection", ".flow-card");
assert(await page.locator(".flows").isHidden());
await everywhere(page, "now-asked");
await choice.selectOption({ label: "Plant total (sum)" });
await shown(page, "200.0 kW", ".node[data-kind=GRID]");
assert.equal(await flow("CONS"), "Consumption90.0 kWconsumes");
assert.equal(await flow("REST"), "Not metered130.0 kWtakes, reckoned");
await page.reload();
await shown(page, "200.0 kW", ".node[data-kind=GRID]");
await choice.selectOption("-");
await shown(page, "reckoned", ".node[data-kind=GRID]");
assert.equal(await flow("GRID"), "Grid270.0 kWgives, reckoned");
assert.match((await page.locator(".flows").getAttribute("aria-label")).replaceAll("\u00a0", " "), /^Production, produces 20\.0 kW; Grid, gives 270\.0 kW; Consumption, consumes 290\.0 kW\.$/);

// What does not add up is said, after a while, and is no source.
await plantOf([consumer("grid", 100, { name: "<b id=bold>grid</b>" }), consumer("hall", 144), { id: "store", name: "Store", category: "STOR", kw: 0 }]);
assert.equal(await flow("GRID"), "Grid100.0 kWgives");
assert(!(await isShown("REST")));
await shown(page, "The meters do not add up: 44.0 kW more goes out of the plant than comes in.", ".flow-card");
assert.equal(await page.locator("#bold").count(), 0);

await page.context().close();
await done();
