// The plant on one page: a snapshot to begin with, then the live feed; the snapshot again now and then, and by itself
// while there is no feed.

import { evidenceCard } from "/evidence.js";
import { copies, findPanel } from "/find.js";

const RECONNECT_MS = [1000, 2000, 5000, 10000, 15000];
const POLL_MS = 5000;       // without the feed
const REFRESH_MS = 30000;   // beside the feed: what it does not tell
const SILENCE_MS = 40000;   // the feed shows a sign of life every 15 s
const LOST_MS = 10000;      // a connection that is lost for so long is no restart
const FRESH_MS = 60000;     // a value is stale after max(3 intervals, this)
const ROWS = 120;           // of what was heard; all of it is in the text to copy
const UNIT_WIDTH = 36;      // "kWh" beside the axis, px
const TOKEN = "meterseal-token";

const $ = (id) => document.getElementById(id);

let token = takeToken();
let plant = null;           // the last snapshot, with what the feed said since
let chosen = null;          // id of the meter shown large
let ahead = 0;              // the server's clock minus ours, ms
let feed = null;            // AbortController of the open feed
let attempts = 0;
let heardAt = 0;            // when the server last gave a sign of life, ms by our clock
let snapshotTimer = 0;
let drawing = false;

// --- token ---

// A token in the address (behind #, so it is never sent) is taken out of it at once.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    history.replaceState(null, "", location.pathname + location.search);
    keep(given);
    return given;
  }
  try { return sessionStorage.getItem(TOKEN); } catch { return null; }
}

function keep(value) {
  // Where storage is blocked, the token lasts as long as the page.
  try { value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN); } catch { /* see above */ }
}

function signOut(why) {
  token = null;
  keep(null);
  feed?.abort();
  clearTimeout(snapshotTimer);
  $("plant").hidden = true;
  $("sign-in").hidden = false;
  $("refused").textContent = why ?? "";
  $("token").focus();
  link("off", "not connected");
}

$("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  keep(token);
  $("token").value = "";
  $("refused").textContent = "";
  begin();
});

addEventListener("hashchange", () => {
  if (new URLSearchParams(location.hash.slice(1)).has("token")) {
    token = takeToken();
    feed?.abort();
    begin();
  }
});

// --- talking to the server ---

class Refused extends Error {}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { authorization: `Bearer ${token}` }, cache: "no-store" });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const told = problem.detail ?? `The server answered ${response.status}.`;
  throw response.status === 401 || response.status === 403 ? new Refused(told) : new Error(told);
}

async function begin() {
  clearTimeout(snapshotTimer);
  if (await refresh()) listen();
}

// True when a snapshot came.
async function refresh() {
  clearTimeout(snapshotTimer);
  const used = token;
  let came = false;
  try {
    const query = chosen ? `?meter_id=${encodeURIComponent(chosen)}` : "";
    const response = await ask(`/api/dashboard/snapshot${query}`);
    const fresh = await response.json();
    if (used !== token) return false;
    ahead = Date.parse(fresh.timestamp) - Date.now();
    plant = fresh;
    heardAt = Date.now();
    // A meter that is no longer there is not asked for again.
    chosen = fresh.meter?.id ?? null;
    $("sign-in").hidden = true;
    $("plant").hidden = false;
    if (!feed) link("off", "asking every 5 s");
    came = true;
    draw();
    evidence.refresh();
  } catch (problem) {
    if (problem instanceof Refused) {
      if (used === token) signOut(problem.message);
      return false;
    }
    if (chosen && plant && !plant.all_meters.some((meter) => meter.id === chosen)) chosen = null;
    link("lost", "no answer");
    if (!plant && $("plant").hidden) $("sign-in").hidden = false, $("refused").textContent = "The server does not answer. Trying again.";
  }
  if (token) snapshotTimer = setTimeout(refreshAndListen, feed ? REFRESH_MS : POLL_MS);
  return came;
}

async function refreshAndListen() {
  if (await refresh() && !feed && attempts === 0) listen();
}

// EventSource cannot send a header, so the feed is read from fetch.
async function listen() {
  if (feed || !token) return;
  const own = feed = new AbortController();
  let silence = 0;
  const alive = () => {
    clearTimeout(silence);
    silence = setTimeout(() => own.abort(), SILENCE_MS);
  };
  try {
    alive();
    const response = await ask("/api/events", { signal: own.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      alive();
      heardAt = Date.now();
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      events.forEach(take);
    }
  } catch (problem) {
    if (problem instanceof Refused) {
      clearTimeout(silence);
      if (feed === own) feed = null;
      return signOut(problem.message);
    }
  }
  clearTimeout(silence);
  if (feed !== own) return;
  feed = null;
  if (!token) return;
  link("lost", "connection lost, trying again");
  const wait = RECONNECT_MS[Math.min(attempts++, RECONNECT_MS.length - 1)] * (0.75 + Math.random() / 2);
  clearTimeout(snapshotTimer);
  snapshotTimer = setTimeout(refresh, POLL_MS);
  setTimeout(listen, wait);
}

function take(event) {
  let name = "message";
  let data = "";
  for (const line of event.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (!data || !plant) return;
  const told = JSON.parse(data);
  if (name === "hello") {
    attempts = 0;
    ahead = Date.parse(told.timestamp) - Date.now();
    link("live", "live");
    // The page may have been away: take stock, and a new version brings a new page.
    if (plant.version !== told.version) location.reload();
    else refresh();
  } else if (name === "readings") {
    told.forEach(takeReading);
  } else if (name === "open_blocks") {
    for (const block of told) plant.current_blocks[block.meter] = block;
  } else if (name === "blocks") {
    if (told.some((block) => block.meter === chosen)) refresh();
  } else if (name === "alerts" || name === "missed") {
    refresh();
  }
  draw();
}

function takeReading(reading) {
  const meter = plant.all_meters.find((meter) => meter.id === reading.meter);
  if (!meter) return;
  const time = Date.parse(reading.time);
  if (reading.power_kw === undefined || time < Date.parse(meter.values.power_kw?.time ?? 0)) return;
  meter.power_kw = reading.power_kw;
  meter.values.power_kw = { value: reading.power_kw, time: reading.time };
  if (meter.condition !== "answering") meter.condition = "answering", meter.problem = null;
}

// --- how figures are written ---

function figure(value, digits) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const places = digits ?? (size < 10 ? 2 : size < 1000 ? 1 : 0);
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places }).replace("-", "−");
}

// A figure that somebody set: as it was set.
const asSet = (value) => value.toLocaleString("en", { maximumFractionDigits: 3 });

const clockFormats = new Map();
function clock(time, options = { hour: "2-digit", minute: "2-digit" }) {
  const key = JSON.stringify([plant.site.timezone, options]);
  if (!clockFormats.has(key)) {
    clockFormats.set(key, new Intl.DateTimeFormat("en-GB", { timeZone: plant.site.timezone, hourCycle: "h23", ...options }));
  }
  return clockFormats.get(key).format(new Date(time));
}

function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 100) return `${seconds} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  const hours = Math.round(seconds / 3600);
  return hours < 72 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}

const CATEGORIES = { CONS: "consumes", PROD: "produces", STOR: "storage", INJ: "feeds in" };
const CONDITIONS = { starting: "starting", answering: "answering", silent: "no answer", refusing: "no values" };
const FLAGS = {
  gap: "gap", late: "late readings", reset: "register reset", rollover: "register rolled over", estimated: "estimated",
  dst: "clock change", clock: "clock not synchronised", conflict: "conflicting values", late_rejected: "too late a reading",
};

const ANCHORED = { included: "on the chain", final: "final on the chain" };

const now = () => Date.now() + ahead;

// The age of a meter's power, as of now.
function ageOf(meter) {
  const own = meter.values.power_kw?.time;
  if (own) return Math.max(0, now() - Date.parse(own));
  return meter.age_ms === null ? null : meter.age_ms + Math.max(0, now() - Date.parse(plant.timestamp));
}

function isStale(meter) {
  const age = ageOf(meter);
  return age === null || age > freshFor(meter);
}

// A sum is as slow as its slowest part.
function freshFor(meter) {
  const parts = [...(meter?.add ?? []), ...(meter?.subtract ?? [])];
  const limits = parts.map((id) => freshFor(plant.all_meters.find((part) => part.id === id)));
  return Math.max(3 * (meter?.interval_ms ?? 0), FRESH_MS, ...limits);
}

// Neither the feed nor an answer: what the page shows is the past. A feed that breaks off is back within seconds when
// only the program started anew.
const isLost = () => Date.now() - heardAt > ($("link").dataset.state === "lost" ? LOST_MS : SILENCE_MS);

// How old a running block's figures are, when that is too old to act upon; otherwise null.
function ageTooOld(block, meter) {
  // The block is told anew each second, from whatever readings there are.
  const age = Math.max(now() - Date.parse(block.at), (meter && ageOf(meter)) ?? 0, 0);
  return isLost() || age > freshFor(meter) ? age : null;
}

// --- drawing ---

function draw() {
  if (drawing) return;
  drawing = true;
  // A hidden tab gets no frames: it is drawn when it is looked at again.
  requestAnimationFrame(() => {
    drawing = false;
    if (!plant || !token) return;
    drawHead();
    drawProblems();
    drawRunning();
    drawAbout();
    drawToday();
    drawMeters();
    drawAlerts();
    drawHeard();
  });
}

function link(state, text) {
  $("link").dataset.state = state;
  put($("link"), text);
}

// Leaves the page alone where nothing changed, so that a selection and a screen reader's place stay.
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function drawHead() {
  put($("site"), plant.site.name || plant.site.id);
  put($("organization"), plant.site.organization);
  put($("clock"), clock(now(), { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" }));
  put($("version"), plant.version);
  $("simulated").hidden = !plant.site.simulated;
}

function drawProblems() {
  const problems = plant.problems.slice(0, 8);
  if (isLost()) {
    const at = clock(heardAt + ahead, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });
    problems.unshift(`Nothing arrives from the gateway since ${at} (${span(Date.now() - heardAt)} ago): what this page shows is as old. Look at the gateway and the line to it.`);
  }
  $("problems").hidden = problems.length === 0;
  list($("problems").querySelector("ul"), problems, (item, text) => put(item, text));
}

// Makes the children of `parent` as many as `items`, and fills each.
function list(parent, items, fill, make = () => document.createElement("li")) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  while (parent.children.length < items.length) parent.append(make());
  items.forEach((item, at) => fill(parent.children[at], item));
}

function running() {
  const block = plant.current_blocks[chosen];
  return block && Date.parse(block.end) > now() - 60000 ? block : undefined;
}

function drawRunning() {
  const pick = $("meter");
  list(pick, plant.all_meters, (option, meter) => {
    if (option.value !== meter.id) option.value = meter.id;
    put(option, meter.name);
  }, () => document.createElement("option"));
  if (pick.value !== chosen && chosen) pick.value = chosen;

  const meter = plant.all_meters.find((meter) => meter.id === chosen);
  const block = running();
  const target = block?.peak_target_kwh ?? meter?.peak_target_kwh ?? null;
  const old = block ? ageTooOld(block, meter) : null;
  const aged = old === null ? "" : `, ${span(old)} old`;
  document.querySelector(".running").toggleAttribute("data-old", old !== null);
  put($("running-when"), block ? `${clock(block.start)} – ${clock(block.end)}${block.is_peak_hour ? ", peak hours" : ""}` : "");
  put($("so-far"), figure(block?.kwh));
  put($("of-target"), target === null ? "" : `of ${asSet(target)} kWh`);
  put($("energy-age"), old === null ? "" : `(${span(old)} old)`);
  put($("projected"), block?.projected_kwh == null ? "–" : `${figure(block.projected_kwh)} kWh${aged}`);
  const left = block ? Math.max(0, Date.parse(block.end) - now()) : null;
  // A countdown beside figures that stand still would say that all is well.
  put($("left"), left === null || old !== null ? "–" : `${Math.floor(left / 60000)} min ${String(Math.floor(left / 1000) % 60).padStart(2, "0")} s`);
  put($("power"), meter?.power_kw == null ? "–" : `${figure(meter.power_kw)} kW${isStale(meter) || (isLost() && ageOf(meter) !== null) ? `, ${span(ageOf(meter))} old` : ""}`);
  put($("coverage"), block ? `${figure(block.coverage * 100, 0)} %${aged}` : "–");

  const over = target !== null && (block?.projected_kwh ?? 0) > target;
  const passed = target !== null && (block?.kwh ?? 0) >= target;
  const advice = $("advice");
  if (!block) say(advice, "none", "No block is running for this meter yet.");
  else if (target === null) say(advice, "none", "This meter has no target.");
  else if (passed) say(advice, "over", `The target is passed by ${figure(block.kwh - target)} kWh.`);
  else if (old !== null) say(advice, "old", `These figures are ${span(old)} old: whether the block keeps to its target is not known now.`);
  else if (block.shed_kw > 0) say(advice, "over", `Shed ${figure(block.shed_kw)} kW for the next ${minutes(left)} to stay within the target.`);
  else if (block.projected_kwh == null) say(advice, "none", "No projection yet.");
  else say(advice, "within", `Within the target: ${figure(target - block.projected_kwh)} kWh to spare at this power.`);

  const gauge = $("gauge");
  const scale = Math.max(target ?? 0, block?.projected_kwh ?? 0, block?.kwh ?? 0, 1e-9) * 1.08;
  const share = (kwh) => `${Math.min(100, Math.max(0, (kwh ?? 0) / scale * 100))}%`;
  gauge.toggleAttribute("data-over", over);
  gauge.toggleAttribute("data-passed", passed);
  gauge.querySelector(".so-far").style.width = share(block?.kwh);
  gauge.querySelector(".to-come").style.width = share(block?.projected_kwh);
  gauge.querySelector(".target").hidden = target === null;
  gauge.querySelector(".target").style.left = share(target);
  document.title = `${advice.dataset.state === "over" ? "▲ " : ""}${plant.site.name || plant.site.id} – meterseal`;
}

function minutes(ms) {
  return ms < 60000 ? `${Math.ceil(ms / 1000)} s` : `${Math.ceil(ms / 60000)} min`;
}

function say(element, state, text) {
  element.dataset.state = state;
  put(element, text);
}

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Steps of 1, 2 or 5 that give about four lines.
function step(range) {
  const rough = range / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
}

let drawnToday = "";
function drawToday() {
  const box = $("chart");
  const block = running();
  const meter = plant.all_meters.find((meter) => meter.id === chosen);
  const sealed = plant.meter?.id === chosen ? plant.blocks_today : [];
  const [width, height] = [box.clientWidth, box.clientHeight];
  if (!plant.today || width === 0) return;
  const target = meter?.peak_target_kwh ?? null;
  const key = JSON.stringify([width, height, chosen, target, plant.today, sealed.length, sealed.at(-1)?.start, sealed.map((b) => [b.revision, b.anchor?.state, b.anchor?.explorer]), block?.start, block && figure(block.kwh), block && figure(block.projected_kwh)]);
  if (key === drawnToday) return;
  drawnToday = key;

  const bars = sealed.map((one) => ({ ...one, start: Date.parse(one.start), end: Date.parse(one.end) }));
  const live = block && !bars.some((bar) => bar.start === Date.parse(block.start));
  const values = bars.map((bar) => bar.kwh ?? 0).concat(live ? [block.projected_kwh ?? 0, block.kwh ?? 0] : [], target ?? [], 0);
  let [top, bottom] = [Math.max(...values), Math.min(...values)];
  if (top === bottom) top = bottom + 1;
  const grid = step(top - bottom);
  top = Math.ceil(top * 1.05 / grid) * grid;
  bottom = Math.floor(bottom / grid) * grid;

  const names = [];
  for (let value = bottom; value <= top + grid / 2; value += grid) names.push(value);
  const places = Math.max(0, -Math.floor(Math.log10(grid) + 1e-9));
  const label = (value) => figure(value, places);
  // The unit above the numbers needs more room than two of their digits.
  const area = { left: Math.max(UNIT_WIDTH, ...names.map((value) => label(value).length * 7 + 10)), right: width - 8, top: 22, bottom: height - 22 };
  const [from, to] = [Date.parse(plant.today.start), Date.parse(plant.today.end)];
  const x = (time) => area.left + (Math.min(to, Math.max(from, time)) - from) / (to - from) * (area.right - area.left);
  const y = (kwh) => area.bottom - (kwh - bottom) / (top - bottom) * (area.bottom - area.top);

  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  for (const peak of plant.peak_hours_today) {
    const [left, right] = [x(Date.parse(peak.start)), x(Date.parse(peak.end))];
    drawn.append(svg("rect", { class: "peak", x: left, width: right - left, y: area.top, height: area.bottom - area.top }));
    if (right - left > 70) drawn.append(svg("text", { class: "peak-name", x: (left + right) / 2, y: area.top - 7, "text-anchor": "middle" }, "peak hours"));
  }
  for (const value of names) {
    drawn.append(svg("line", { class: Math.abs(value) < grid / 1e6 ? "zero" : "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }));
    drawn.append(svg("text", { x: area.left - 6, y: y(value) + 4, "text-anchor": "end" }, label(value)));
  }
  drawn.append(svg("text", { x: area.left - 6, y: area.top - 10, "text-anchor": "end" }, "kWh"));
  const hours = Math.round((to - from) / 3600000);
  const every = width < 480 ? 6 : width < 800 ? 4 : 2;
  for (let hour = 0; hour <= hours; hour += every) {
    const time = from + hour * 3600000;
    const anchor = hour === 0 ? "start" : hour >= hours ? "end" : "middle";
    drawn.append(svg("text", { x: x(time), y: height - 5, "text-anchor": anchor }, hour >= hours ? "24:00" : clock(time)));
  }
  const column = (start, end, kwh, kind) => {
    const [left, right] = [x(start), x(end)];
    const gap = Math.min(2, (right - left) * 0.15);
    const [high, low] = [y(Math.max(kwh, 0)), y(Math.min(kwh, 0))];
    drawn.append(svg("rect", { class: `bar ${kind}`, x: left + gap / 2, width: Math.max(1, right - left - gap), y: high, height: Math.max(1, low - high) }));
  };
  const isOver = (kwh) => target !== null && kwh > target;
  for (const bar of bars) {
    if (bar.kwh === null) {
      drawn.append(svg("line", { class: "silent", x1: x(bar.start), x2: x(bar.end), y1: y(0) - 3, y2: y(0) - 3 }));
      continue;
    }
    column(bar.start, bar.end, bar.kwh, isOver(bar.kwh) ? "over" : "");
    if (isOver(bar.kwh)) {
      const [middle, tip] = [(x(bar.start) + x(bar.end)) / 2, y(bar.kwh) - 9];
      drawn.append(svg("path", { class: "over-mark", d: `M${middle} ${tip}l4 7h-8z` }));
    }
  }
  if (live) {
    const [start, end] = [Date.parse(block.start), Date.parse(block.end)];
    if (block.projected_kwh !== null) column(start, end, block.projected_kwh, `running ${isOver(block.projected_kwh) ? "over" : ""}`);
    if (block.kwh !== null) column(start, end, block.kwh, isOver(block.kwh) ? "over" : "");
  }
  if (target !== null) {
    drawn.append(svg("line", { class: "target-line", x1: area.left, x2: area.right, y1: y(target), y2: y(target) }));
    drawn.append(svg("text", { class: "target-name", x: area.left + 6, y: y(target) - 6 }, `target ${asSet(target)} kWh`));
  }
  box.replaceChildren(drawn);
  describeToday(bars, target, live ? block : undefined);
}

function describeToday(bars, target, block) {
  const known = bars.filter((bar) => bar.kwh !== null);
  const total = known.reduce((sum, bar) => sum + bar.kwh, 0) + (block?.kwh ?? 0);
  const greatest = known.reduce((best, bar) => (best && best.kwh >= bar.kwh ? best : bar), undefined);
  const over = target === null ? 0 : known.filter((bar) => bar.kwh > target).length;
  const silent = bars.length - known.length;
  const parts = [`${known.length} sealed ${known.length === 1 ? "block" : "blocks"}`];
  if (greatest) parts.push(`the greatest ${figure(greatest.kwh)} kWh at ${clock(greatest.start)}`);
  if (target !== null) parts.push(over === 0 ? "none above the target" : `${over} above the target (▲)`);
  if (silent > 0) parts.push(`${silent} without readings (dotted)`);
  put($("legend"), `${parts.join(", ")}.${block ? " Dashed: the running block at its end." : ""}`);
  $("chart").setAttribute("aria-label", `Today’s blocks: ${parts.join(", ")}.`);
  put($("today-sum"), known.length || block ? `${figure(total)} kWh so far` : "");
  const cells = (bar) => [
    `${clock(bar.start)} – ${clock(bar.end)}`,
    figure(bar.kwh),
    figure(bar.max_kw),
    `${figure(bar.coverage * 100, 0)} %`,
    [bar.is_peak_hour ? "peak" : "", target !== null && bar.kwh > target ? "above target" : "", ...bar.flags.map((flag) => FLAGS[flag] ?? ""), bar.revision ? `revision ${bar.revision}` : ""].filter(Boolean).join(", "),
  ];
  list($("blocks").tBodies[0], bars, (row, bar) => {
    const [texts, anchored] = [cells(bar), ANCHORED[bar.anchor?.state] ?? ""];
    const remarks = texts.pop();
    texts.forEach((text, at) => put(row.children[at], text));
    const [remarked, link] = row.lastElementChild.children;
    put(remarked, remarks && anchored ? `${remarks}, ` : remarks);
    evidence.place(link, anchored, anchored && bar.anchor.explorer);
  }, () => {
    const row = document.createElement("tr");
    row.innerHTML = '<th scope="row"></th><td class="number"></td><td class="number"></td><td class="number"></td><td><span></span><span></span></td>';
    return row;
  });
}

// Which meter it is and how it is read: only what is known of it.
function drawAbout() {
  const meter = plant.meter?.id === chosen ? plant.meter : null;
  const known = meter?.commissioning;
  const ratio = (text) => text === "1/1" ? "" : text.replace(/\/1$/, "");
  const rows = !known ? [] : [
    ["Maker and model", [known.manufacturer, known.model].filter(Boolean).join(" ")],
    ["Serial number", known.serial_number],
    ["Firmware", known.firmware],
    ["SunSpec models", known.sunspec_models.join(", ")],
    ["Register map", known.template ?? "in the config"],
    ["Line and unit", `${known.line} (${known.wire}), unit ${known.unit}`],
    ["Current transformers", ratio(known.ct_ratio)],
    ["Voltage transformers", ratio(known.vt_ratio)],
    ["Direction", known.invert ? "turned round" : ""],
    ["So since", clock(known.since, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" })],
  ].filter(([, value]) => value);
  $("about").hidden = !known;
  $("unverified").hidden = meter?.verified !== false || meter.simulated;
  list($("about").querySelector("dl"), rows, (row, [name, value]) => {
    put(row.children[0], name);
    put(row.children[1], value);
  }, () => {
    const row = document.createElement("div");
    row.append(document.createElement("dt"), document.createElement("dd"));
    return row;
  });
}

function drawMeters() {
  list($("meters").tBodies[0], plant.all_meters, (row, meter) => {
    const [name, power, block, end, state] = row.children;
    const open = plant.current_blocks[meter.id];
    const stale = isStale(meter);
    const age = ageOf(meter);
    const bad = meter.condition === "silent" || meter.condition === "refusing";
    row.dataset.meter = meter.id;
    row.toggleAttribute("data-chosen", meter.id === chosen);
    row.toggleAttribute("data-stale", stale);
    row.toggleAttribute("data-bad", bad);
    const button = name.querySelector("button");
    put(button, meter.name);
    button.setAttribute("aria-pressed", String(meter.id === chosen));
    put(name.querySelector(".kind"), `${CATEGORIES[meter.category]} (${meter.category})${meter.kind === "sum" ? ", sum" : ""}`);
    put(power.firstElementChild, meter.power_kw == null ? "–" : `${figure(meter.power_kw)} kW`);
    put(block, open?.kwh == null ? "–" : `${figure(open.kwh)} kWh${open.peak_target_kwh == null ? "" : ` of ${asSet(open.peak_target_kwh)}`}`);
    put(end, open?.projected_kwh == null ? "–" : `${figure(open.projected_kwh)} kWh${open.shed_kw > 0 ? " ▲" : ""}`);
    const [condition, why] = state.children;
    const aged = age === null ? "no value yet" : stale ? `stale, ${span(age)} old` : age < 1500 ? "now" : `${span(age)} ago`;
    put(condition, bad ? `${CONDITIONS[meter.condition]}, ${aged}` : aged);
    put(why, [bad ? meter.problem : "", meter.refused_registers?.length ? `${meter.refused_registers.length} registers refused` : "", meter.verified === false && !meter.simulated ? "register map unverified" : ""].filter(Boolean).join("; "));
  }, () => {
    const row = document.createElement("tr");
    row.innerHTML = '<th scope="row"><button type="button"></button><span class="kind"></span></th><td class="number power"><span class="now"></span></td><td class="number block"></td><td class="number end"></td><td class="state"><span class="condition"></span><span class="why"></span></td>';
    row.querySelector("button").addEventListener("click", () => choose(row.dataset.meter));
    return row;
  });
}

function choose(id) {
  chosen = id;
  draw();
  refresh();
}
$("meter").addEventListener("change", (event) => choose(event.target.value));

function drawAlerts() {
  $("no-alerts").hidden = plant.alerts.length > 0;
  const at = (time) => clock(time, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  list($("alerts"), plant.alerts, (item, alert) => {
    item.toggleAttribute("data-open", alert.cleared === null);
    put(item.children[0], alert.text);
    put(item.children[1], alert.cleared === null ? `since ${at(alert.raised)}` : `${at(alert.raised)} – ${at(alert.cleared)}, over`);
  }, () => {
    const item = document.createElement("li");
    item.innerHTML = '<span></span><span class="when"></span>';
    return item;
  });
}

// How listening to brokers goes, and what to write to declare the meters that were heard.
function drawHeard() {
  const brokers = plant.brokers ?? [];
  const proposed = brokers.filter((broker) => broker.proposals.length > 0);
  const count = proposed.reduce((sum, broker) => sum + broker.proposals.length, 0);
  $("heard").hidden = brokers.length === 0;
  put($("heard-sum"), count === 0 ? "" : count === 1 ? "1 meter is not declared" : `${count} meters are not declared`);
  list($("heard-brokers"), brokers, (item, broker) => {
    const state = broker.connected ? broker.silent ? "connected, and nothing comes" : "connected" : `not connected${broker.problem ? `: ${broker.problem}` : ""}`;
    const bad = broker.last_malformed;
    const unread = bad ? `, ${asSet(broker.malformed)} could not be read (the last on ${bad.topic}: ${bad.reason})` : "";
    put(item, `${broker.name}: ${state}, ${asSet(broker.messages)} messages${unread}`);
  });
  $("heard-config").hidden = count === 0;
  const rows = proposed.flatMap((broker) => broker.proposals).slice(0, ROWS);
  list($("heard-table").tBodies[0], rows, (row, meter) => {
    put(row.children[0], meter.name);
    put(row.children[1], meter.topic);
    put(row.children[2], asSet(meter.messages));
  }, () => {
    const row = document.createElement("tr");
    row.innerHTML = '<th scope="row"></th><td></td><td class="number"></td>';
    return row;
  });
  const text = (broker) => `# below [[mqtt]] ${broker.name}\n${broker.proposals.map((meter) => meter.config).join("")}`;
  put($("heard-text"), proposed.map(text).join("\n"));
}

// Ages, clocks and the time left go on between readings.
setInterval(draw, 1000);
new ResizeObserver(draw).observe($("chart"));

findPanel({ ask, put, list });
const meterName = (id) => plant.all_meters.find((meter) => meter.id === id)?.name ?? id;
const evidence = evidenceCard({ ask, put, list, clock, meterName });
copies($("heard-copy"), $("heard-text"), put);
if (token) begin();
else signOut();
