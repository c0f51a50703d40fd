// Now: the running block of each meter with a target, the power of every meter and where it flows, and today's blocks.

import { todayCard } from "./blocks.js";
import { card, facts, h, list, put, set, svg } from "./dom.js";
import { CATEGORIES, CATEGORY_NAMES, asSet, clock, countdown, dayOf, figure, kw, kwh, left, percent, span } from "./format.js";
import { ageOf, ageTooOld, isStale, live, meterOf, now, watch } from "./live.js";

export async function show(root, parts, signal) {
  const date = h("p");
  const targets = h("div", { class: "grid many" });
  const flows = flowCard();
  const powers = powerCard();
  const middle = h("div", { class: "grid" }, flows, powers);
  const today = todayCard(signal);
  const none = h("div", { class: "card", hidden: true }, h("p", {}, "No meter is in the config yet."), h("p", {}, h("a", { href: "#/setup/meters" }, "Find meters")));
  root.append(h("div", { class: "head" }, h("h1", {}, "Now"), date), targets, middle, today, none);
  watch(draw, signal);

  function draw() {
    const { plant } = live;
    if (!plant) return;
    put(date, dayOf(now()));
    const isEmpty = plant.all_meters.length === 0;
    none.hidden = !isEmpty;
    middle.hidden = today.hidden = isEmpty;
    if (isEmpty) return void (targets.hidden = true);
    // A plant without any target sees its first running block all the same.
    const aimed = plant.all_meters.filter((meter) => meter.peak_target_kwh !== null);
    const shown = aimed.length > 0 ? aimed : plant.all_meters.filter((meter) => plant.current_blocks[meter.id]).slice(0, 1);
    targets.hidden = shown.length === 0;
    set(targets, "data-count", Math.min(shown.length, 4));
    list(targets, shown, (box, meter) => box.draw(meter, plant.current_blocks[meter.id]), runningCard);
    flows.draw(plant.all_meters.filter((meter) => meter.kind !== "simulator"));
    set(middle, "class", flows.hidden ? "grid" : "grid two");
    powers.draw(plant.all_meters);
    today.draw();
  }
}

// --- the running block against its target ---

function runningCard() {
  const [name, when] = [h("a"), h("p")];
  const [soFar, ofTarget, age] = [h("span", { class: "figure" }), h("span"), h("span", { class: "age" })];
  const [filled, coming, mark] = [h("div", { class: "so-far" }), h("div", { class: "to-come" }), h("div", { class: "target" })];
  const gauge = h("div", { class: "gauge", "aria-hidden": "true" }, coming, filled, mark);
  const advice = h("p", { class: "notice advice" });
  const [end, rest, power, covered] = [h("span"), h("span"), h("span", { class: "value" }), h("span")];
  const box = h("section", { class: "card running" },
    h("div", { class: "title" }, h("h2", {}, name), when),
    h("p", { class: "energy" }, soFar, " kWh ", ofTarget, " ", age), gauge, advice,
    facts([["At its end", end], ["Time left", rest], ["Power now", power], ["Covered by readings", covered]]));
  return Object.assign(box, { draw });

  function draw(meter, block) {
    put(name, meter.kind === "simulator" ? `${meter.name} (simulator)` : meter.name);
    set(name, "href", `#/meters/${encodeURIComponent(meter.id)}`);
    box.dataset.meter = meter.id;
    const target = meter.peak_target_kwh;
    const isLost = live.link === "lost" && Date.now() - live.lostAt > 10000;
    const old = block ? Math.max(ageTooOld(block, meter) ?? 0, isLost ? now() - Date.parse(block.at) : 0) || null : null;
    set(box, "data-stale", old !== null);
    put(when, block ? `${clock(block.start)} – ${clock(block.end)}${block.is_peak_hour ? ", peak hours" : ""}` : "");
    put(soFar, figure(block?.kwh));
    put(ofTarget, target === null ? "" : `of ${asSet(target)} kWh`);
    put(age, old === null ? "" : `${span(old)} old`);
    const value = (text, hasValue) => (old !== null && hasValue ? `${text}, ${span(old)} old` : text);
    put(end, value(kwh(block?.projected_kwh), block?.projected_kwh != null));
    const remaining = block ? Math.max(0, Date.parse(block.end) - now()) : 0;
    put(rest, !block || old !== null ? "–" : remaining < COUNTED_MS ? countdown(remaining / 1000) : left(remaining));
    const powerAge = ageOf(meter);
    const powerOld = isStale(meter) && meter.power_kw !== null;
    put(power, powerOld && powerAge !== null ? `${kw(meter.power_kw)}, ${span(powerAge)} old` : kw(meter.power_kw));
    set(power, "data-stale", powerOld);
    put(covered, percent(block?.coverage));
    const [tone, text] = say(block, target, old, remaining);
    set(advice, "data-tone", tone);
    put(advice, text);
    const passed = target !== null && block?.kwh > target;
    const scale = Math.max(target ?? 0, block?.projected_kwh ?? 0, block?.kwh ?? 0, 1e-9) * 1.08;
    const share = (amount) => `${Math.min(100, Math.max(0, ((amount ?? 0) / scale) * 100))}%`;
    set(gauge, "data-over", target !== null && (block?.projected_kwh > target || passed));
    set(gauge, "data-passed", passed);
    filled.style.width = share(block?.kwh);
    coming.style.width = share(block?.projected_kwh);
    mark.hidden = target === null;
    mark.style.left = share(target);
  }
}

// Below this, what is left is counted down.
const COUNTED_MS = 600000;

// A power as it is written, and never less than it is.
function atLeast(power) {
  const unit = power < 10 ? 0.01 : power < 1000 ? 0.1 : 1;
  return Math.ceil(power / unit - 1e-6) * unit;
}

// What to do about a running block: a tone, and a sentence.
function say(block, target, old, remaining) {
  if (!block) return ["quiet", "No block is running: nothing was read in it yet."];
  if (old !== null) return ["warn", `These figures are ${span(old)} old: do not act on them.`];
  if (target === null) return ["quiet", "No target is set for this meter."];
  if (block.kwh > target) return ["bad", `Above the target by ${kwh(block.kwh - target)}. Nothing can bring this block back.`];
  if (block.shed_kw > 0) return ["bad", `Shed ${kw(atLeast(block.shed_kw))} for the next ${left(remaining)} to stay within the target.`];
  if (block.projected_kwh === null) return ["quiet", "No projection yet."];
  return ["good", `Within the target: ${kwh(target - block.projected_kwh)} to spare at this power.`];
}

// --- where power flows ---

const [WIDTH, HEIGHT, BOX_WIDTH, BOX_HEIGHT] = [320, 240, 122, 64];
const [BUS, ROOM] = [WIDTH / 2, 88];
const [PAST_TOP, PAST_HEIGHT] = [HEIGHT + 16, 40];
const GRID_METER = "meterseal-grid-meter";
const NONE = "-";
const ASK = "";
// How long meters may differ before it is said: each is read at a moment of its own.
const DIFFER_MS = 10000;
// Names, what they do where their power is positive and where it is negative, at which side they stand, and whether a positive
// power goes into the plant (1) or out of it (−1). What the meters leave over is the grid's where no meter measures that. What is
// fed in goes straight to the grid: it is none of what the plant takes or uses.
const NODES = {
  PROD: [CATEGORY_NAMES.PROD, "produces", "takes", "left", 1],
  GRID: ["Grid", "gives", "takes", "left", 1],
  STOR: [CATEGORY_NAMES.STOR, "charges", "discharges", "left", -1],
  CONS: [CATEGORY_NAMES.CONS, "consumes", "gives", "right", -1],
  REST: ["Not metered", "takes", "gives", "right", -1],
};

function flowCard() {
  const drawing = svg("svg", { class: "flows", role: "img" });
  const bus = svg("line", { class: "bus", x1: BUS, x2: BUS });
  drawing.append(bus);
  const nodes = Object.fromEntries(Object.keys(NODES).map((name) => [name, node(name, drawing)]));
  const past = feedIn(drawing);
  const figure = h("figure", {}, drawing);
  const wrong = h("p", { class: "notice", "data-tone": "warn" });
  const question = h("p", { class: "notice", "data-tone": "quiet" }, "Choose the meter at the grid’s connection, or the sum of several; what flows where is drawn from it. The choice is kept on this device.");
  const choose = h("select", { id: "grid-meter", onchange: () => keep(choose.value) });
  const hint = h("p", { class: "hint" }, "The rest are sums of the meters of each kind, without sum meters.");
  const box = card("Power flows", { class: "flow-card" }, figure, wrong, question,
    h("p", { class: "asked" }, h("label", { for: "grid-meter" }, "The grid is measured by"), " ", choose),
    hint);
  let [differs, since] = [false, 0];
  return Object.assign(box, { draw });

  function draw(meters) {
    const measured = meters.filter((meter) => meter.kind !== "sum");
    const grid = gridMeter(meters);
    const behind = partsOf(grid ?? null);
    const others = measured.filter((meter) => meter !== grid && !(meter.category === "CONS" && behind.has(meter.id)));
    const kinds = new Set(others.map((meter) => meter.category));
    box.hidden = new Set(measured.map((meter) => meter.category)).size < 2 && !(grid && kinds.size > 0);
    if (box.hidden) return;
    offer(meters, grid);
    const isAsking = grid === undefined;
    question.hidden = !isAsking;
    figure.hidden = hint.hidden = isAsking;
    if (isAsking) return void (wrong.hidden = true);
    const of = (kind) => total(others.filter((meter) => meter.category === kind));
    const flows = Object.fromEntries(["PROD", "STOR", "CONS"].filter((kind) => kinds.has(kind)).map((kind) => [kind, of(kind)]));
    const fed = kinds.has("INJ") ? of("INJ") : null;
    if (grid) flows.GRID = total([grid]);
    const known = Object.entries(flows);
    const isKnown = known.every(([, flow]) => flow.kw !== null);
    // What comes in and is measured nowhere else: the grid's, or with a meter there what has none.
    const over = isKnown ? known.reduce((sum, [name, flow]) => sum + NODES[name][4] * flow.kw, 0) : null;
    const most = Math.max(1e-9, Math.abs(over ?? 0), Math.abs(fed?.kw ?? 0), ...known.map(([, flow]) => Math.abs(flow.kw ?? 0)));
    const reckoned = { stale: known.some(([, flow]) => flow.stale), reckoned: true };
    if (!grid) flows.GRID = { ...reckoned, kw: over === null ? null : -over };
    else if (over !== null && over > most / 100) flows.REST = { ...reckoned, kw: over };
    tellDifference(grid && over !== null && -over > most / 50 && !reckoned.stale ? -over : 0);
    const said = [];
    const ends = [];
    for (const side of ["left", "right"]) {
      const here = Object.keys(NODES).filter((name) => NODES[name][3] === side && flows[name]);
      here.forEach((name, at) => {
        const y = (HEIGHT - (here.length - 1) * ROOM - BOX_HEIGHT) / 2 + at * ROOM;
        ends.push(y + BOX_HEIGHT / 2);
        said.push(nodes[name].draw(flows[name], most, y));
      });
    }
    for (const [name, { group }] of Object.entries(nodes)) group.style.display = flows[name] ? "" : "none";
    set(bus, "y1", Math.min(...ends) - 8);
    set(bus, "y2", Math.max(...ends) + 8);
    if (fed) said.push(past.draw(fed, most));
    past.group.style.display = fed ? "" : "none";
    set(drawing, "viewBox", `-1 -1 ${WIDTH + 2} ${(fed ? PAST_TOP + PAST_HEIGHT : HEIGHT) + 2}`);
    set(drawing, "aria-label", `${said.join("; ")}.`);
  }

  // More goes out than comes in: that is no source, and it is said as what it is.
  function tellDifference(more) {
    if (more === 0) since = 0;
    else since ||= Date.now();
    differs = since > 0 && Date.now() - since >= DIFFER_MS;
    wrong.hidden = !differs;
    if (differs) put(wrong, `The meters do not add up: ${kw(more)} more goes out of the plant than comes in. Is the grid measured by another meter, or one of them turned round?`);
  }

  function offer(meters, grid) {
    const offered = meters.filter((meter) => meter.category === "CONS" || meter === grid);
    list(choose, [...(grid === undefined ? [undefined] : []), null, ...offered], (option, meter) => {
      put(option, meter === undefined ? "choose …" : meter === null ? "no meter" : meter.kind === "sum" ? `${meter.name} (sum)` : meter.name);
      option.value = meter === undefined ? ASK : meter?.id ?? NONE;
    }, () => h("option"));
    const value = grid === undefined ? ASK : grid?.id ?? NONE;
    // Not while somebody has it open.
    if (choose.value !== value && document.activeElement !== choose) choose.value = value;
  }
}

// The meters that a sum is made of, by their ids, through sums of sums.
function partsOf(meter, found = new Set()) {
  for (const id of meter ? [...(meter.add ?? []), ...(meter.subtract ?? [])] : []) {
    if (found.has(id)) continue;
    found.add(id);
    partsOf(meterOf(id), found);
  }
  return found;
}

// What measures the grid's connection: what was chosen on this device (null: nothing does), or else what the config says in its own
// words, a sum with a target or a consumer that is named so. `undefined` where it does not: a wrong guess would book power twice.
const NAMED_SO = /\b(incomer|grid|mains|utility)\b/i;
function gridMeter(meters) {
  const kept = recall();
  if (kept === NONE) return null;
  const consumers = meters.filter((meter) => meter.category === "CONS");
  const only = (found) => (found.length === 1 ? found[0] : undefined);
  return meters.find((meter) => meter.id === kept)
    ?? only(consumers.filter((meter) => meter.kind === "sum" && meter.peak_target_kwh !== null))
    ?? only(consumers.filter((meter) => NAMED_SO.test(meter.name) || NAMED_SO.test(meter.id)));
}

let chosenGrid = null;
function recall() {
  try { return localStorage.getItem(GRID_METER) ?? chosenGrid; } catch { return chosenGrid; }
}

function keep(id) {
  chosenGrid = id;
  // Where storage is blocked, the choice lasts as long as the page.
  try { localStorage.setItem(GRID_METER, id); } catch { /* see above */ }
}

// The power of meters of one kind: absent as long as one of them has none.
function total(meters) {
  const isWhole = meters.every((meter) => meter.power_kw !== null);
  const stale = meters.filter((meter) => isStale(meter));
  const ages = stale.map(ageOf);
  return {
    kw: isWhole ? meters.reduce((sum, meter) => sum + meter.power_kw, 0) : null,
    stale: stale.length > 0,
    age: ages.includes(null) ? null : Math.max(...ages),
    isPart: stale.length < meters.length,
  };
}

// What is fed in: from its meters straight to the grid, past the bus.
function feedIn(drawing) {
  const middle = PAST_TOP + PAST_HEIGHT / 2;
  const [value, note] = [svg("text", { class: "power", x: WIDTH - 10, y: middle + 6, "text-anchor": "end" }), svg("text", { class: "note", x: 10, y: middle + 14 })];
  const group = svg("g", { class: "node", "data-kind": "INJ" }, svg("rect", { x: 0, y: PAST_TOP, width: WIDTH, height: PAST_HEIGHT, rx: 8 }), svg("text", { class: "name", x: 10, y: middle - 3 }, CATEGORY_NAMES.INJ), note, value);
  drawing.append(group);
  return { group, draw };

  function draw(flow, most) {
    const isIdle = flow.kw === null || Math.abs(flow.kw) < most / 1e4;
    const doing = isIdle ? "nothing now" : flow.kw > 0 ? "straight to the grid" : "draws from the grid";
    set(group, "data-stale", flow.stale);
    put(value, flow.kw === null ? "–" : kw(Math.abs(flow.kw)));
    put(note, flow.stale ? agedText(flow) : flow.kw === null ? "" : doing);
    return [CATEGORY_NAMES.INJ, flow.kw === null ? "unknown" : isIdle ? doing : `${kw(Math.abs(flow.kw))} ${doing}`, flow.stale && "stale"].filter(Boolean).join(", ");
  }
}

const agedText = (flow) => (flow.age === null ? "no value" : `${flow.isPart ? "in part " : ""}${span(flow.age ?? 0)} old`);

function node(name, drawing) {
  const [title, does, undoes, side, way] = NODES[name];
  const isLeft = side === "left";
  const x = isLeft ? 0 : WIDTH - BOX_WIDTH;
  const border = isLeft ? BOX_WIDTH : x;
  const middle = BOX_HEIGHT / 2;
  const [line, arrow] = [svg("line", { class: "flow", y1: middle, y2: middle, x1: border, x2: BUS }), svg("path", { class: "arrow" })];
  const [value, note] = [svg("text", { class: "power", x: x + 10, y: 40 }), svg("text", { class: "note", x: x + 10, y: 56 })];
  const group = svg("g", { class: "node", "data-kind": name }, line, arrow, svg("rect", { x, width: BOX_WIDTH, height: BOX_HEIGHT, rx: 8 }), svg("text", { class: "name", x: x + 10, y: 18 }, title), value, note);
  drawing.append(group);
  return { group, draw };

  function draw(flow, most, y) {
    const power = flow.kw;
    const isIdle = power === null || Math.abs(power) < most / 1e4;
    const doing = isIdle ? "" : power > 0 ? does : undoes;
    set(group, "transform", `translate(0 ${y})`);
    set(group, "data-stale", flow.stale);
    set(group, "data-idle", isIdle);
    put(value, power === null ? "–" : kw(Math.abs(power)));
    put(note, flow.reckoned ? [doing, "reckoned"].filter(Boolean).join(", ") : flow.stale ? agedText(flow) : doing);
    const size = isIdle ? 1 : 2 + 6 * Math.sqrt(Math.abs(power) / most);
    line.style.strokeWidth = String(size);
    arrow.style.display = isIdle ? "none" : "";
    // Towards the bus, or away from it.
    const turn = (isLeft ? 1 : -1) * Math.sign(power) * way;
    const [tip, half] = [(border + BUS) / 2 + turn * 7, 4 + size / 2];
    set(arrow, "d", `M${tip} ${middle}l${-turn * 12} ${-half}v${2 * half}z`);
    return [title, power === null ? "unknown" : `${doing} ${kw(Math.abs(power))}`, flow.stale && "stale"].filter(Boolean).join(", ");
  }
}

// --- the power of every meter ---

function powerCard() {
  const rows = h("ul", { class: "powers" });
  const box = card("Power per meter", {}, rows);
  return Object.assign(box, { draw });

  function draw(meters) {
    const most = Math.max(1e-9, ...meters.map((meter) => Math.abs(meter.power_kw ?? 0)));
    list(rows, meters, (row, meter) => {
      const [name, value, bar, state] = row.children;
      const age = ageOf(meter);
      const stale = isStale(meter);
      set(row, "data-stale", stale);
      set(row, "data-kind", meter.category);
      row.dataset.meter = meter.id;
      put(name.firstElementChild, meter.name);
      set(name.firstElementChild, "href", `#/meters/${encodeURIComponent(meter.id)}`);
      put(name.lastElementChild, `${CATEGORIES[meter.category]}${meter.kind === "sum" || meter.kind === "simulator" ? `, ${meter.kind}` : ""}`);
      put(value, kw(meter.power_kw));
      bar.firstElementChild.style.width = `${Math.min(100, (Math.abs(meter.power_kw ?? 0) / most) * 100)}%`;
      const isBad = meter.condition === "silent" || meter.condition === "refusing";
      put(state, [isBad ? (meter.condition === "silent" ? "does not answer" : "gives no values") : "", age === null ? (meter.kind === "sum" ? "a part is unknown" : "no value yet") : stale ? `${span(age)} old` : ""].filter(Boolean).join(", "));
    }, () => h("li", {}, h("p", {}, h("a"), h("span", { class: "small soft" })), h("strong", { class: "value" }), h("div", { class: "share", "aria-hidden": "true" }, h("i")), h("span", { class: "age" })));
  }
}
