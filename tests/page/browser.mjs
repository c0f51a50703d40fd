// What the looks at the page share. Each is run as: node look.mjs URL CHROMIUM WHAT-IS-TOLD-AS-JSON [FOLDER FOR SCREENSHOTS], says
// on stdout what it wants of the plant, such as "restart", and hears on stdin when that is done.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const peers = createRequire(new URL("../../.peers/node_modules/", import.meta.url));
const { chromium } = peers("playwright-core");
const axeSource = readFileSync(peers.resolve("axe-core/axe.min.js"), "utf8");
const [address, executablePath, given, shots] = process.argv.slice(2);

export const url = address;
// What the plant told: `token` (an admin's), `code` (of the set-up), and what single looks need.
export const told = JSON.parse(given);
// The PINs of the two roles.
export const ADMIN = "271828";
export const VIEWER = "314159";

const heard = createInterface({ input: process.stdin });
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const faults = [];
let mayFail = false;

// While `act` goes on, requests may fail and say so in the console.
export async function failing(act) {
  mayFail = true;
  const value = await act();
  mayFail = false;
  return value;
}

// A page in a browser of its own. Whatever it asks elsewhere, and every fault in its console, fails the look.
export async function open({ width = 1280, height = 800, dark = false, hash = "", ...options } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", timezoneId: "Pacific/Auckland", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(30000);
  page.on("pageerror", (fault) => faults.push(`${fault.message} ${fault.stack}`));
  page.on("console", (message) => {
    // That nobody is signed in is asked before signing in, and a browser tells every 401.
    const isAsked = message.location().url === `${url}/api/session`;
    if (message.type() === "error" && !mayFail && !isAsked) faults.push(`${message.text()} ${message.location().url}`);
  });
  page.on("request", (request) => {
    const elsewhere = !request.url().startsWith(`${url}/`) && !request.url().startsWith("data:") && !request.url().startsWith("blob:");
    if (elsewhere) faults.push(`asks elsewhere: ${request.url()}`);
  });
  await page.goto(`${url}/${hash}`);
  return page;
}

// Asks the gateway beside the page, with a token or the session of somebody.
export async function api(method, path, body, bearer = told.token) {
  const headers = { authorization: `Bearer ${bearer}`, "content-type": "application/json" };
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.text();
  assert(response.ok, `${method} ${path}: ${response.status} ${answer}`);
  return answer ? JSON.parse(answer) : null;
}

export async function signIn(page, pin = ADMIN) {
  await page.getByLabel("PIN", { exact: true }).fill(pin);
  await page.keyboard.press("Enter");
  await page.locator("#nav").waitFor({ state: "visible" });
}

// A page that is signed in, at a view.
export async function signedIn({ pin, ...options } = {}) {
  const page = await open(options);
  await signIn(page, pin);
  return page;
}

// Waits until the element says so.
export const shown = (page, text, selector) =>
  page.waitForFunction(([text, selector]) => document.querySelector(selector)?.textContent.replaceAll("\u00a0", " ").includes(text), [text, selector]);

export const text = async (page, selector) => (await page.locator(selector).first().textContent()).replaceAll("\u00a0", " ").trim();
export const texts = async (page, selector) => (await page.locator(selector).allTextContents()).map((text) => text.replaceAll("\u00a0", " ").trim());

export const fits = (page) => page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);
export const shot = async (page, name) => shots && page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });

// Has the rules of axe-core looked at what is shown; a rule that is broken fails with where. The content security policy lets no
// page add a script; a debugger may.
export async function accessible(page, what) {
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const broken = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => `${node.target} ${node.failureSummary}`).join(" | ")}`);
  assert.deepEqual(broken, [], `${what} is not accessible`);
}

// Shows a view in both themes and at the width of a phone, and has each looked at.
export async function everywhere(page, name, ready) {
  const size = page.viewportSize();
  for (const [width, height, colorScheme] of [[1280, 800, "light"], [768, 1000, "dark"], [360, 740, "dark"], [360, 740, "light"]]) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme });
    await ready?.();
    assert(await fits(page), `${name} is wider than a screen of ${width} px`);
    if (width !== 768) await accessible(page, `${name}, ${width} px, ${colorScheme}`);
    await shot(page, `${name}-${width}-${colorScheme}`);
  }
  await page.setViewportSize(size);
  await page.emulateMedia({ colorScheme: "light" });
}

// The code of an authenticator app at that time in ms: RFC 6238 with SHA-1, 6 digits and 30 s.
export function codeOf(secret, time) {
  const bits = [...secret.replaceAll("=", "")].map((letter) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(letter).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(time / 30000)));
  const hash = createHmac("sha1", key).update(counter).digest();
  const at = hash.at(-1) & 15;
  return String((hash.readUInt32BE(at) & 0x7fffffff) % 1000000).padStart(6, "0");
}

// Has the plant do something, and waits until it is done.
export async function ask(word) {
  const done = once(heard, "line");
  console.log(word);
  return done;
}

export async function done() {
  await browser.close();
  assert.deepEqual(faults, []);
  console.log("done");
  process.exit(0);
}

export { assert };
