// The plant as it is now: a snapshot to begin with, then the live feed (server-sent events); the snapshot again now and then,
// and every few seconds while there is no feed. One for the whole page, whatever view it shows.

import { Problem, ask, events, json } from "./api.js";
import { isoDayOf, setZone, span } from "./format.js";

const RECONNECT_MS = [1000, 2000, 5000, 10000, 15000];
const POLL_MS = 5000;       // without the feed
const REFRESH_MS = 30000;   // beside the feed: what it does not tell
const SILENCE_MS = 40000;   // the feed shows a sign of life every 15 s
const FRESH_MS = 60000;     // a figure may be acted upon for max(3 intervals, this), as the gateway has it
const GREY_MS = 10000;      // a value is shown as stale after max(3 intervals, this)

// `plant`: the last snapshot, with what the feed said since; null before the first. `health`: what `/api/health` last said, null
// where it did not answer. `link`: "off", "live", "asking" (without the feed) or "lost"; `lostAt`: since when the gateway gives no
// sign of life, by this device's clock.
export const live = { plant: null, health: null, link: "off", lostAt: 0 };

let running = null;         // AbortController of all that goes on
let feed = null;            // AbortController of the feed, also while it is only being tried
let isOpen = false;         // the feed has said hello: what stands between may hold it back for ever
let attempts = 0;
let ahead = 0;              // the gateway's clock minus ours, ms
let timer = 0;
let drawing = 0;
const watchers = new Set();
const listeners = new Set();

// The gateway's time, ms. This device's clock may be another.
export const now = () => Date.now() + ahead;

// The site's day, and how long ago something was, by the gateway's clock.
export const today = () => isoDayOf(now());
export const ago = (time) => `${span(now() - Date.parse(time))} ago`;

// `asked`: when that was asked for, by this device's clock. An answer that took its time makes ages greater, never smaller.
export function itIsNow(time, asked = Date.now()) {
  ahead = Date.parse(time) - asked;
}

// Calls `draw` now, soon after each change, and each second, since ages and the time left go on between readings. A tab that
// nobody looks at is not drawn.
export function watch(draw, signal) {
  watchers.add(draw);
  signal?.addEventListener("abort", () => watchers.delete(draw));
  redraw();
}

// Calls `take(name, told)` for each event of the feed.
export function hear(take, signal) {
  listeners.add(take);
  signal?.addEventListener("abort", () => listeners.delete(take));
}

export function start() {
  if (running) return;
  running = new AbortController();
  const beat = setInterval(redraw, 1000);
  running.signal.addEventListener("abort", () => clearInterval(beat));
  attempts = 0;
  refresh().then((came) => came && listen());
}

export function stop() {
  running?.abort();
  running = feed = null;
  isOpen = false;
  clearTimeout(timer);
  Object.assign(live, { plant: null, health: null, link: "off", lostAt: 0 });
}

function redraw() {
  if (drawing) return;
  drawing = requestAnimationFrame(() => {
    drawing = 0;
    for (const draw of [...watchers]) draw();
  });
}

function linked(state) {
  if (state === "lost" && live.link !== "lost") live.lostAt = Date.now();
  live.link = state;
  redraw();
}

// Asks for a snapshot; true when one came. Whoever asks while one is under way gets the next one, of which there is one for all.
export const refresh = oneByOne(snapshot);

async function snapshot() {
  const own = running;
  if (!own) return false;
  clearTimeout(timer);
  let came = false;
  try {
    const asked = Date.now();
    const [plant, health] = await Promise.all([
      json("/api/dashboard/snapshot", { signal: own.signal }),
      json("/api/health", { signal: own.signal }).catch((problem) => (typeof problem.told?.status === "string" ? problem.told : null)),
    ]);
    if (own !== running) return false;
    itIsNow(plant.timestamp, asked);
    setZone(plant.site.timezone);
    Object.assign(live, { plant, health });
    came = true;
    if (!isOpen) linked("asking");
    for (const take of [...listeners]) take("snapshot", plant);
  } catch (problem) {
    if (own !== running || problem.status === 401) return false;
    if (!(problem instanceof Problem)) throw problem;
    if (!isOpen) linked("lost");
  }
  clearTimeout(timer);
  timer = setTimeout(again, isOpen ? REFRESH_MS : POLL_MS);
  redraw();
  return came;
}

async function again() {
  // Nobody looks: what was missed is asked for when somebody does.
  if (document.hidden) return document.addEventListener("visibilitychange", again, { once: true, signal: running?.signal });
  if (await refresh() && !feed && attempts === 0) listen();
}

// EventSource tells no status and no beat, so the feed is read from fetch.
async function listen() {
  if (feed || !running) return;
  const [all, own] = [running, feed = new AbortController()];
  const stopped = () => own.abort();
  all.signal.addEventListener("abort", stopped);
  let silence = 0;
  const alive = () => {
    clearTimeout(silence);
    silence = setTimeout(stopped, SILENCE_MS);
  };
  try {
    alive();
    const response = await ask("/api/events", { signal: own.signal });
    for await (const event of events(response, alive)) take(event);
  } catch {
    // Whether the gateway is there, a snapshot says: it may be the feed alone that somebody holds back.
  }
  clearTimeout(silence);
  all.signal.removeEventListener("abort", stopped);
  if (feed !== own) return;
  const wasOpen = isOpen;
  feed = null;
  isOpen = false;
  if (!running) return;
  const wait = RECONNECT_MS[Math.min(attempts++, RECONNECT_MS.length - 1)] * (0.75 + Math.random() / 2);
  setTimeout(listen, wait);
  if (wasOpen) refresh();
}

function take({ name, told }) {
  const { plant } = live;
  if (!plant) return;
  if (name === "hello") {
    attempts = 0;
    isOpen = true;
    linked("live");
    // The page may have been away: take stock, and a new version brings a new page.
    if (plant.version !== told.version) location.reload();
    else refresh();
  } else if (name === "readings") {
    told.forEach(takeReading);
    plant.all_meters.filter((meter) => meter.kind === "sum").forEach(takeSum);
  } else if (name === "open_blocks") {
    for (const block of told) plant.current_blocks[block.meter] = block;
  } else if (name === "alerts" || name === "missed" || name === "end") {
    // At the end of a session, the answer says so.
    refresh();
  }
  for (const listener of [...listeners]) listener(name, told);
  redraw();
}

// One `act` at a time, however often it is wanted: who wants it meanwhile gets the one after, of which there is one.
export function oneByOne(act) {
  let [under, after] = [null, null];
  return function wanted() {
    if (under) return (after ??= under.catch(() => {}).then(() => { after = null; return wanted(); }));
    under = act().finally(() => (under = null));
    return under;
  };
}

const NOT_VALUES = new Set(["meter", "time", "seq", "intervals"]);

function takeReading(reading) {
  const meter = meterOf(reading.meter);
  if (!meter) return;
  const time = Date.parse(reading.time);
  for (const [quantity, value] of Object.entries(reading)) {
    if (NOT_VALUES.has(quantity) || typeof value !== "number") continue;
    if (time < Date.parse(meter.values[quantity]?.time ?? 0)) continue;
    meter.values[quantity] = { ...meter.values[quantity], value, time: reading.time };
    if (quantity === "power_kw") meter.power_kw = value;
  }
  if (meter.condition !== "answering") Object.assign(meter, { condition: "answering", problem: null });
}

// The power of a sum is that of its parts as long as all are known, and as old as the oldest. What a part produces is what a
// sum that consumes does not take.
function takeSum(sum) {
  const isImport = (meter) => meter.category === "CONS" || meter.category === "STOR";
  const parts = [...sum.add.map((id) => [1, id]), ...sum.subtract.map((id) => [-1, id])].map(([sign, id]) => {
    const part = meterOf(id);
    if (part?.kind === "sum") takeSum(part);
    const power = part?.values.power_kw;
    return power && { time: power.time, value: sign * (isImport(part) === isImport(sum) ? 1 : -1) * power.value };
  });
  if (parts.length === 0 || parts.some((part) => !part)) return;
  sum.power_kw = parts.reduce((total, part) => total + part.value, 0);
  sum.values.power_kw = { value: sum.power_kw, time: parts.map((part) => part.time).sort()[0] };
}

// --- what can be said of it ---

export const meterOf = (id) => live.plant?.all_meters.find((meter) => meter.id === id);
export const meterName = (id) => meterOf(id)?.name ?? id;

// The age of a meter's power, or of its newest value where it tells no power; null where there is none.
export function ageOf(meter) {
  const own = meter.values.power_kw?.time;
  if (own) return Math.max(0, now() - Date.parse(own));
  const newest = Object.values(meter.values).map((value) => Date.parse(value.time));
  if (newest.length > 0 && meter.power_kw == null) return Math.max(0, now() - Math.max(...newest));
  return meter.age_ms === null || !live.plant ? null : meter.age_ms + Math.max(0, now() - Date.parse(live.plant.timestamp));
}

// How long a value is of now. A sum is as slow as its slowest part.
function freshFor(meter, least) {
  const parts = [...(meter?.add ?? []), ...(meter?.subtract ?? [])].map(meterOf).filter(Boolean);
  return Math.max(3 * (meter?.interval_ms ?? 0), least, ...parts.map((part) => freshFor(part, least)));
}

// Whether a meter's power, or one of its values of this age, is to be shown as stale.
export function isStale(meter, age = ageOf(meter)) {
  return age === null || age > freshFor(meter, GREY_MS);
}

// How old a running block's figures are, when that is too old to act upon; otherwise null.
export function ageTooOld(block, meter) {
  // The block is told anew each second, from whatever readings there are.
  const age = Math.max(now() - Date.parse(block.at), (meter && ageOf(meter)) ?? 0, 0);
  return age > freshFor(meter, FRESH_MS) ? age : null;
}
