// The shell: which view is shown, who is signed in, and what stands above every view.

import { Problem, json, remove, session, setSession } from "./api.js";
import { $, announce, h, notice, put, set, tell } from "./dom.js";
import { count, secondOf, setZone, span, weekdayOf } from "./format.js";
import { itIsNow, live, now, start, stop, watch } from "./live.js";
import { renew } from "./pieces.js";

const VIEWS = {
  now: ["Now", () => import("./now.js")],
  meters: ["Meters", () => import("./meters.js")],
  alerts: ["Alerts", () => import("./alerts.js")],
  evidence: ["Evidence", () => import("./evidence.js")],
  exports: ["Exports", () => import("./exports.js")],
  upstream: ["Upstream", () => import("./upstream.js")],
  settings: ["Settings", () => import("./settings.js")],
  setup: ["First run", () => import("./setup.js")],
  "sign-in": ["Sign in", () => import("./sign-in.js")],
};
const PUBLIC = new Set(["setup", "sign-in"]);
const ASK_MS = 60000;       // how often it is asked whether the session still runs
const RETRY_MS = 3000;
const THEME = "meterseal-theme";
const WANTED = "meterseal-wanted";

// What the gateway says of itself to anybody: `needed`, `site`, `timezone`, `clock`, `time`.
export let gateway = null;

let showing = null;         // AbortController of the view
let shown = "";             // its hash
let wanted = recall();      // where to go after signing in
let ended = "";             // why there is no session any more

// --- routes ---

const partsOf = (hash) => hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decode);

function decode(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

async function route() {
  // The skip link leads to the content, which is no view.
  if (location.hash === "#main") {
    history.replaceState(null, "", shown || "#/now");
    return $("main").focus();
  }
  let [name, ...parts] = partsOf(location.hash);
  if (!VIEWS[name]) return location.replace("#/now");
  if (!session && !PUBLIC.has(name)) {
    want(location.hash);
    return location.replace(gateway?.needed ? "#/setup" : "#/sign-in");
  }
  if (session && name === "sign-in") return location.replace(wanted);
  await show(name, parts);
}

async function show(name, parts) {
  const isFirst = shown === "";
  showing?.abort();
  // What the last view has opened goes with it, before the next one takes the focus.
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  const own = showing = new AbortController();
  shown = location.hash;
  const [title, load] = VIEWS[name];
  document.body.dataset.view = name;
  menus();
  for (const link of document.querySelectorAll("#nav a")) set(link, "aria-current", link.dataset.view === name ? "page" : null);
  entitle(title);
  const root = h("div", { class: `view ${name}` });
  $("main").replaceChildren(root);
  if (!isFirst) {
    scrollTo(0, 0);
    $("main").focus({ preventScroll: true });
    announce(title);
  }
  try {
    await (await load()).show(root, parts, own.signal);
  } catch (problem) {
    if (own.signal.aborted || problem.name === "AbortError") return;
    if (!(problem instanceof Problem)) console.error(problem);
    const again = h("button", { type: "button", onclick: () => location.reload() }, "Try again");
    root.append(notice("bad", h("p", {}, `${title} cannot be shown: ${problem.message}`), again));
  }
}

// The title of the window: what a tab and a screen reader say.
let heading = "";
export function entitle(text = heading) {
  heading = text;
  const site = live.plant?.site.name ?? gateway?.site;
  document.title = [heading, site, "meterseal"].filter(Boolean).join(" – ");
}

// Outlives a reload of the page; where storage is blocked, it lasts as long as the page.
function want(hash) {
  wanted = hash;
  try { sessionStorage.setItem(WANTED, hash); } catch { /* see above */ }
}

function recall() {
  try { return sessionStorage.getItem(WANTED) ?? "#/now"; } catch { return "#/now"; }
}

// --- the session ---

// Takes what signing in answered, and shows what was wanted.
export async function signedIn(given, next = wanted) {
  setSession({ ...(await json("/api/session", { about: "session" }).catch(() => ({}))), ...given });
  ended = "";
  begin();
  if (next === location.hash) route();
  else location.hash = next;
}

// Why the last session is over; "" where there was none, or who used it signed out.
export const whyEnded = () => ended;

function begin() {
  set($("nav"), "hidden", false);
  $("sign-out").hidden = $("who").hidden = false;
  put($("who"), session.role === "admin" ? "Signed in as admin" : "Signed in as viewer: you see everything and change nothing");
  start();
}

function over(why) {
  ended = why;
  setSession(null);
  stop();
  showing?.abort();
  $("sign-out").hidden = $("who").hidden = $("health").hidden = true;
  set($("nav"), "hidden", true);
  const [name] = partsOf(location.hash);
  if (!PUBLIC.has(name)) want(location.hash);
  if (location.hash === "#/sign-in") route();
  else location.hash = "#/sign-in";
}

addEventListener("session-ended", () => {
  const isTyped = [...document.querySelectorAll("main :is(input, textarea), dialog :is(input, textarea)")].some((input) => !["checkbox", "radio", "date", "datetime-local"].includes(input.type) && input.value !== input.defaultValue);
  over(`Your session has ended. Sign in to go on where you were.${isTyped ? " What was typed and not sent is gone." : ""}`);
});

$("sign-out").addEventListener("click", async () => {
  // The feed must not tell that the session is over while it is ended on purpose.
  stop();
  try {
    await remove("/api/session", { about: "session" });
  } catch (problem) {
    // One that is over already is what was wanted; one that goes on is not.
    if (problem.status !== 401) return start(), tell(problem.message, "bad");
  }
  over("");
  want("#/now");
});

// Somebody who only looks and scrolls is there as well; a session that has ended is told soon.
setInterval(async () => {
  const told = session && (await json("/api/session").catch(() => null));
  if (told && session) setSession({ ...session, ...told });
}, ASK_MS);

// --- above every view ---

function drawTop() {
  const { plant, health } = live;
  const time = plant || gateway ? now() : null;
  put($("site"), plant ? plant.site.name || plant.site.id : gateway?.site || "meterseal");
  put($("date"), time === null ? "" : weekdayOf(time));
  put($("clock"), time === null ? "" : secondOf(time));
  // What was known at the beginning is not known of now.
  const clockState = plant ? health?.clock ?? "unknown" : gateway?.clock;
  $("clock-state").hidden = !clockState;
  put($("clock-state"), { synchronised: "clock synchronised", unknown: "clock’s state unknown" }[clockState] ?? "clock not synchronised");
  set($("clock-state"), "data-tone", { synchronised: "good", unknown: "quiet" }[clockState] ?? "warn");
  $("simulated").hidden = !plant?.site.simulated;
  drawHealth();
  drawLost();
  const unseen = plant?.unseen_alerts ?? 0;
  $("alert-count").hidden = unseen === 0;
  put($("alert-count"), String(unseen));
  set($("alert-count"), "aria-label", `${unseen} open`);
}

function drawHealth() {
  const { plant, health } = live;
  $("health").hidden = !plant;
  if (!plant) return;
  const { problems, open_alerts: open } = plant;
  const [isFailing, isLost] = [health?.status === "failing", live.link === "lost"];
  const isToSee = problems.length > 0 || open > 0;
  const tone = isLost || isFailing ? "bad" : isToSee ? "warn" : health ? "good" : "quiet";
  set($("health-dot"), "data-tone", tone);
  const toSee = problems.length > 0 ? `${problems.length} to look at` : count(open, "open alert");
  put($("health-word"), isLost ? "No connection" : isFailing ? "Cannot store" : isToSee ? toSee : health ? "All well" : "Unknown");
  const all = problems.map((text) => h("span", {}, text));
  if (open > 0) all.push(h("a", { href: "#/alerts" }, count(open, "open alert")));
  if (isLost) all.push("Nothing arrives from the gateway.");
  else if (!health) all.push("The gateway does not say how it is.");
  else if (!isToSee && !isFailing) all.push("Every meter and every part is well.");
  if (live.link === "asking") all.push("Values come every few seconds: the live feed does not get through.");
  renew($("health-list"), [problems, open, isLost, live.link, health?.status ?? null], () => all.map((one) => h("li", {}, one)));
}

let wasLost = false;
function drawLost() {
  const isLost = live.link === "lost";
  $("lost").hidden = !isLost;
  if (isLost) put($("lost"), `Connection lost ${span(Date.now() - live.lostAt)} ago, trying again. What you see is as old.`);
  if (isLost !== wasLost && session) announce(isLost ? "Connection lost, trying again" : "Connected again");
  wasLost = isLost;
}

// New alerts are read out, whatever view is shown.
let known = null;
function hearAlerts() {
  const alerts = live.plant?.alerts;
  if (!alerts) return void (known = null);
  for (const alert of known ? alerts.filter((alert) => !known.has(alert.id)) : []) announce(`Alert: ${alert.text}`);
  known = new Set(alerts.map((alert) => alert.id));
}

// --- theme, menus ---

function theme() {
  const chosen = document.documentElement.dataset.chosen ?? "";
  for (const input of $("theme").querySelectorAll("input")) input.checked = input.value === chosen;
  $("theme").addEventListener("change", ({ target }) => {
    if (target.value) document.documentElement.dataset.chosen = target.value;
    else delete document.documentElement.dataset.chosen;
    // Where storage is blocked, the choice lasts as long as the page.
    try { target.value ? localStorage.setItem(THEME, target.value) : localStorage.removeItem(THEME); } catch { /* see above */ }
    dispatchEvent(new CustomEvent("theme"));
  });
}

// Closes what hangs open, but for what `inside` stands in.
function menus(inside = null) {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(inside)) menu.open = false;
  if (!$("nav").contains(inside)) more(false);
}

function more(open) {
  set($("more"), "aria-expanded", String(open));
  set($("nav"), "data-open", open);
}

$("more").addEventListener("click", () => more($("more").getAttribute("aria-expanded") !== "true"));
addEventListener("click", ({ target }) => menus(target));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const open = document.querySelector("details.menu[open] summary");
  menus();
  open?.focus();
});

// --- the beginning ---

async function first() {
  const asked = Date.now();
  const [told, own] = await Promise.all([
    json("/api/setup").catch(() => null),
    json("/api/session", { about: "session" }).catch((problem) => problem),
  ]);
  if (told) {
    gateway = told;
    itIsNow(told.time, asked);
    setZone(told.timezone);
    drawTop();
  }
  if (own instanceof Problem && own.status !== 401) {
    $("main").replaceChildren(notice("bad", h("p", {}, `${own.message} Trying again.`)));
    return setTimeout(first, RETRY_MS);
  }
  if (!(own instanceof Problem)) {
    setSession(own);
    begin();
  }
  addEventListener("hashchange", route);
  await route();
}

theme();
watch(() => { drawTop(); entitle(); hearAlerts(); });
// Without a session nothing else draws the clock.
setInterval(() => session || drawTop(), 1000);
first();
