// Meters: all of them with their quality, a search for more, and what was heard over MQTT. One of them is meter.js.

import { json, mayChange } from "./api.js";
import { badge, card, code, h, list, put, set, table } from "./dom.js";
import { search } from "./find.js";
import { CATEGORIES, asSet, count, figure, kw, kwh, percent, span } from "./format.js";
import { ageOf, ageTooOld, hear, isStale, live, oneByOne, watch } from "./live.js";
import { showMeter } from "./meter.js";
import { sheet } from "./pieces.js";

const ROWS = 120;           // of what was heard; all of it is in the text to copy

export async function show(root, [id], signal) {
  if (id) return showMeter(root, id, signal);
  const meters = metersTable(signal);
  const brokers = brokersCard();
  const find = h("details", { class: "card fold find" }, h("summary", {}, h("h2", {}, "Find and add meters")),
    h("p", { class: "soft" }, "Asks every unit of a gateway or of a serial port what it is. It only reads, one request at a time."), mayChange() ? search(signal) : h("p", {}, "Searching needs the PIN of the administrator."));
  root.append(h("div", { class: "head" }, h("h1", {}, "Meters"), meters.sum), meters, brokers, find);
  watch(() => {
    if (!live.plant) return;
    meters.draw();
    brokers.draw(live.plant.brokers ?? []);
    if (live.plant.all_meters.length === 0 && !find.dataset.opened) find.open = find.dataset.opened = true;
  }, signal);
}

function metersTable(signal) {
  const number = (text) => ({ text, number: true });
  const grid = sheet("Meters", [{ text: "Meter", head: true }, number("Power"), number("Today"), number("Running block"), number("Covered, 24 h"), { text: "State", kind: "state", all: true }]);
  const empty = h("p", { class: "empty", hidden: true }, "No meter is in the config yet.");
  const sum = h("p");
  let [summary, quality] = [new Map(), new Map()];
  const ask = oneByOne(look);
  hear((name) => name === "snapshot" && ask(), signal);
  ask();
  return Object.assign(h("div", { class: "card meters-table" }, grid, empty), { draw, sum });

  async function look() {
    try {
      const [lines, views] = await Promise.all([json("/api/meters/summary", { signal }), json("/api/quality", { signal })]);
      summary = new Map(lines.map((line) => [line.id, line]));
      quality = new Map(views.map((view) => [view.meter, view]));
    } catch {
      // What is shown stays; that nothing arrives is told above.
    }
  }

  function draw() {
    const meters = live.plant.all_meters;
    empty.hidden = meters.length > 0;
    grid.hidden = meters.length === 0;
    const asked = meters.filter((meter) => meter.kind !== "sum" && meter.kind !== "simulator");
    const well = asked.filter((meter) => meter.condition === "answering" && !isStale(meter));
    put(sum, asked.length === 0 ? "" : `${well.length} of ${asked.length} answer`);
    list(grid.body, meters, (row, meter) => {
      const [name, power, today, running, covered, state] = row.children;
      const [link, kind] = name.children;
      put(link, meter.name);
      set(link, "href", `#/meters/${encodeURIComponent(meter.id)}`);
      put(kind, `${CATEGORIES[meter.category]}${meter.kind === "sum" || meter.kind === "simulator" ? `, ${meter.kind}` : ""}`);
      row.dataset.meter = meter.id;
      set(row, "data-stale", isStale(meter));
      put(power.firstElementChild, kw(meter.power_kw));
      put(today, kwh(summary.get(meter.id)?.today_kwh));
      const open = live.plant.current_blocks[meter.id];
      const isOld = Boolean(open) && ageTooOld(open, meter) !== null;
      set(running.firstElementChild, "data-stale", isOld);
      put(running.firstElementChild, open?.kwh == null ? "–" : open.peak_target_kwh == null ? kwh(open.kwh) : `${figure(open.kwh)} of ${asSet(open.peak_target_kwh)}\u00a0kWh`);
      put(running.lastElementChild, isOld && open.kwh != null ? `${span(ageTooOld(open, meter))} old` : "");
      const seen = quality.get(meter.id);
      put(covered, percent(seen?.coverage));
      drawState(state, meter, seen);
    }, () => {
      const row = grid.row();
      const [name, power, , running, , state] = row.children;
      name.append(h("a"), h("span", { class: "why" }));
      power.append(h("span", { class: "value" }));
      running.append(h("span", { class: "value plain-size" }), h("span", { class: "why" }));
      state.append(h("span"), h("span", { class: "why" }));
      return row;
    });
  }
}

function drawState(cell, meter, quality) {
  const [tone, text] = conditionOf(meter);
  const [mark, why] = cell.children;
  if (mark.textContent !== text || mark.dataset.tone !== tone) {
    mark.className = "badge";
    mark.dataset.tone = tone;
    put(mark, text);
  }
  const remarks = [
    meter.condition === "silent" || meter.condition === "refusing" ? meter.problem : "",
    meter.refused_registers?.length ? `${count(meter.refused_registers.length, "register")} refused` : "",
    quality?.gaps.length ? `${count(quality.gaps.length, "gap")} in 24 h` : "",
    quality?.frozen.length ? "values frozen in the last 24 h" : "",
    quality?.out_of_range.length ? "values out of range" : "",
    meter.verified === false && !meter.simulated ? "register map unverified" : "",
    isMadeUp(meter) ? "simulated" : "",
  ];
  put(why, remarks.filter(Boolean).join("; "));
}

// A simulated meter among measured ones. Where all are made up, the page says so above.
export const isMadeUp = (meter) => meter.simulated && meter.kind !== "simulator" && !live.plant?.site.simulated;

// How a meter does: a tone and a few words with the age of what it said last.
export function conditionOf(meter) {
  const age = ageOf(meter);
  const stale = isStale(meter);
  if (meter.condition === "silent") return ["bad", age === null ? "no answer yet" : `no answer for ${span(age)}`];
  if (meter.condition === "refusing") return ["bad", age === null ? "gives no values" : `no values for ${span(age)}`];
  if (age === null) return ["quiet", meter.kind === "sum" ? "a part is unknown" : "no value yet"];
  return stale ? ["warn", `${span(age)} old`] : ["good", "now"];
}

// How listening to brokers goes, and what to write to declare the meters that were heard.
function brokersCard() {
  const rows = h("ul", { class: "plain" });
  const proposals = h("div", { hidden: true });
  const heard = table("Heard and not declared", ["Calls itself", "Topic", { text: "Messages", number: true }], [], { hidden: false });
  const text = code("", "Config of the meters that were heard");
  proposals.append(heard, h("p", { class: "soft" }, "Nothing of them is stored until they are declared. Put this below their broker in the config, give each its id and name, and load the config again."), text);
  const box = card("Heard over MQTT", {}, rows, proposals);
  return Object.assign(box, { draw });

  function draw(brokers) {
    box.hidden = brokers.length === 0;
    const proposed = brokers.filter((broker) => broker.proposals.length > 0);
    list(rows, brokers, (row, broker) => {
      const [mark, words] = row.children;
      const [tone, state] = !broker.connected ? ["bad", "not connected"] : broker.silent ? ["warn", "nothing comes"] : ["good", "connected"];
      if (mark.textContent !== state) mark.replaceWith(badge(tone, state));
      const last = broker.last_malformed;
      put(words, ` ${broker.name}: ${[broker.connected ? "" : broker.problem, count(broker.messages, "message"), last ? `${asSet(broker.malformed)} could not be read (the last on ${last.topic}: ${last.reason})` : ""].filter(Boolean).join(", ")}`);
    }, () => h("li", {}, h("span"), h("span")));
    proposals.hidden = proposed.length === 0;
    list(heard.body, proposed.flatMap((broker) => broker.proposals).slice(0, ROWS), (row, meter) => {
      put(row.children[0], meter.name);
      put(row.children[1], meter.topic);
      put(row.children[2], asSet(meter.messages));
    }, () => h("tr", {}, h("th", { scope: "row" }), h("td"), h("td", { class: "number" })));
    put(text.pre, proposed.map((broker) => `# below [[mqtt]] ${broker.name}\n${broker.proposals.map((meter) => meter.config).join("")}`).join("\n"));
  }
}
