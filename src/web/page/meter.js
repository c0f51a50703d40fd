// One meter: what it says now, its trend, its statistics and quality, its name and target, and which meter it is.

import { Problem, json, mayChange, patch } from "./api.js";
import { entitle } from "./app.js";
import { button, card, facts, field, h, list, notice, put, select, set, table, tell } from "./dom.js";
import { ABSENT, CATEGORY_NAMES, FLAGS, asSet, clock, count, figure, kw, kwh, momentOf, percent, recentOf, span } from "./format.js";
import { hear, isStale, live, meterName, meterOf, now, oneByOne, refresh, watch } from "./live.js";
import { conditionOf, isMadeUp } from "./meters.js";
import { trendCard } from "./trend.js";

const PERIODS = [["today", "Today"], ["yesterday", "Yesterday"], ["week", "This week"], ["last_week", "Last week"], ["month", "This month"], ["last_month", "Last month"], ["year", "This year"]];
const QUALITY = [["1", "24 hours"], ["7", "7 days"], ["31", "31 days"]];
const GAPS = 10;
const UNITS = { kwh: "kWh", kw: "kW", kvarh: "kvarh", kvar: "kvar", kvah: "kVAh", kva: "kVA", v: "V", a: "A", hz: "Hz", c: "°C", percent: "%", deg: "°", s: "s", h: "h", m3: "m³", bar: "bar" };
const CAUSES = {
  first: "first heard", completed: "it said more of itself", configured: "the config changed",
  changed: "it changed, and nobody announced it", restored: "it is what it was before",
};

export async function showMeter(root, id, signal) {
  const path = `/api/meters/${encodeURIComponent(id)}`;
  const first = await json(path, { signal }).catch((problem) => {
    if (problem.status !== 404) throw problem;
  });
  if (!first) {
    root.append(h("h1", {}, "No such meter"), h("p", {}, `No meter has the id ${id}. `, h("a", { href: "#/meters" }, "All meters")));
    return;
  }
  entitle(first.name);
  const [title, state, kind] = [h("h1", {}, first.name), h("span", { class: "badge" }), h("p")];
  const values = valuesCard();
  root.append(
    h("p", { class: "back" }, h("a", { href: "#/meters" }, "All meters")),
    h("div", { class: "head" }, h("div", { class: "named" }, title, state), kind),
    values, await trendCard(first, signal),
    h("div", { class: "grid two" }, statisticsCard(path, signal), qualityCard(id, signal)),
    first.kind === "modbus" ? registersCard(path, signal) : "",
    h("div", { class: "grid two" }, mayChange() && settingsCard(path, first, signal), identityCard(first)));
  watch(() => {
    const meter = meterOf(id);
    if (!meter) return;
    put(title, meter.name);
    put(kind, `${CATEGORY_NAMES[meter.category]}${meter.peak_target_kwh === null ? "" : `, target ${asSet(meter.peak_target_kwh)}\u00a0kWh in ${live.plant.site.block_minutes}\u00a0min`}`);
    const [tone, text] = conditionOf(meter);
    set(state, "data-tone", tone);
    put(state, text);
    values.draw(meter);
  }, signal);
}

// --- what it says now ---

const WORDS = { l1: "L1", l2: "L2", l3: "L3", l12: "L1–L2", l23: "L2–L3", l31: "L3–L1", thd: "THD", n: "N" };
const ORDER = ["power_kw", "energy_import_kwh", "energy_export_kwh", "power_l", "reactive", "apparent", "power_factor", "voltage", "current", "frequency"];

// "energy_import_kwh" is "Energy import", in kWh.
export function quantityOf(name) {
  const words = name.split("_");
  const unit = UNITS[words.at(-1)];
  if (unit) words.pop();
  // "kwh" alone is what blocks have.
  const text = words.map((word) => WORDS[word] ?? word).join(" ") || "energy";
  return { text: name === "power_kw" ? "Active power" : text[0].toUpperCase() + text.slice(1), unit: unit ?? "" };
}

function valuesCard() {
  const rows = h("dl", { class: "facts values" });
  const why = h("div", { hidden: true });
  const box = card("Values", {}, why, rows);
  return Object.assign(box, { draw });

  function draw(meter) {
    const isBad = meter.condition === "silent" || meter.condition === "refusing";
    const told = isBad ? meter.problem : "";
    why.hidden = !told;
    if (told && why.textContent !== told) why.replaceChildren(notice("bad", told));
    const rank = (name) => (ORDER.findIndex((start) => name.startsWith(start)) + ORDER.length + 1) % (ORDER.length + 1);
    const shown = Object.entries(meter.values).sort(([a], [b]) => rank(a) - rank(b) || a.localeCompare(b));
    if (shown.length === 0) shown.push(["power_kw", { value: meter.power_kw, time: null }]);
    list(rows, shown, (item, [name, { value, time, interval }]) => {
      const { text, unit } = quantityOf(name);
      const age = time === null ? null : Math.max(0, now() - Date.parse(time));
      const stale = isStale(meter, age);
      const [dt, dd] = item.children;
      put(dt, interval ? `${text}, of ${span(interval.ms)}` : text);
      set(item, "data-stale", stale);
      set(item, "data-main", name === "power_kw");
      // A register is read against the meter's own display: all its places are shown.
      const isRegister = /^energy_/.test(name);
      put(dd.firstElementChild, value === null ? ABSENT : `${isRegister ? asSet(value) : figure(value)}${unit ? `\u00a0${unit}` : ""}`);
      put(dd.lastElementChild, stale && age !== null ? `${span(age)} old` : "");
    }, () => h("div", {}, h("dt"), h("dd", {}, h("span", { class: "value" }), " ", h("span", { class: "age" }))));
  }
}

// --- its registers, asked for now ---

function registersCard(path, signal) {
  const shown = h("div", { class: "stack", role: "status" });
  const act = button("Read the registers now", async () => {
    const report = await json(`${path}/registers`, { signal, patience: 30000 });
    const rows = report.values.map(({ quantity, value, register, words, scale_factor: factor, absent }) => {
      const { text, unit } = quantityOf(quantity);
      const hex = [...words.map((word) => word.toString(16).padStart(4, "0")), factor ? `× 10^${factor}` : ""].filter(Boolean).join(" ");
      return h("tr", {}, h("th", { scope: "row" }, text), h("td", { class: "number" }, value === null ? ABSENT : `${exact(value)}${unit && `\u00a0${unit}`}`, value === null && absent && h("span", { class: "why" }, absent)),
        h("td", { class: "number mono" }, `${register}`), h("td", { class: "number mono" }, `0x${register.toString(16).padStart(4, "0")}`), h("td", { class: "mono" }, hex));
    });
    const number = (text) => ({ text, number: true });
    shown.replaceChildren(
      h("p", { class: "hint" }, `Read at ${clock(report.time, { hour: "2-digit", minute: "2-digit", second: "2-digit" })}: one poll beside the usual ones, and not stored.`),
      report.advice ? notice("warn", report.advice) : "",
      table("Registers as they were read", ["Quantity", number("Value"), number("Register"), number("Hexadecimal"), "Raw words"], rows));
  }, { fail: (problem) => shown.replaceChildren(notice("bad", problem.message)) });
  return card("Registers", { beside: act }, shown, h("p", { class: "hint" }, "The register numbers count from 0, as they are asked for. Compare a value with the meter’s display."));
}

// All digits that it has, but not thirty zeros, which only a wrong register or order of words gives.
const exact = (value) => (value !== 0 && (Math.abs(value) >= 1e15 || Math.abs(value) < 1e-9) ? value.toExponential(6) : value.toLocaleString("en", { maximumFractionDigits: 9 }).replace("-", "−"));

// --- statistics ---

function statisticsCard(path, signal) {
  const choose = select(PERIODS, "month", { "aria-label": "Period", onchange: () => ask() });
  const [month, shown] = [h("p", { class: "month" }), h("div", { class: "stack" })];
  const box = card("Statistics", { beside: choose }, month, shown);
  const ask = oneByOne(look);
  hear((name, told) => name === "blocks" && told.some((block) => path.endsWith(`/${encodeURIComponent(block.meter)}`)) && ask(), signal);
  ask();
  return box;

  async function look() {
    const period = choose.value;
    const of = (name) => json(`${path}/statistics?period=${name}`, { signal });
    try {
      const [chosen, current] = await Promise.all([of(period), period === "month" ? null : of("month")]);
      if (period !== choose.value) return;
      draw(chosen, current ?? chosen);
    } catch (problem) {
      if (!signal.aborted) shown.replaceChildren(notice("warn", problem.message));
    }
  }

  function draw(told, current) {
    put(month, current.max_demand_kw === null ? "No demand is known of this month yet." : `This month’s maximum demand: ${kw(current.max_demand_kw)}, in the block of ${recentOf(current.max_demand_at)}`);
    const at = (value, time) => (value === null ? ABSENT : h("span", {}, kw(value), h("span", { class: "why" }, `in the block of ${recentOf(time)}`)));
    const covered = percent(told.coverage, told.coverage > 0.99 && told.coverage < 1 ? 2 : 0);
    // What lies before the first block may be of a time when there was no gateway.
    const isLater = told.first_block_at && Date.parse(told.first_block_at) > Date.parse(told.from);
    shown.replaceChildren(facts([
      ["Energy", kwh(told.kwh)], ["Import", kwh(told.kwh_import)], ["Export", kwh(told.kwh_export)],
      ["Maximum demand", at(told.max_demand_kw, told.max_demand_at)], ["Greatest power", at(told.max_kw, told.max_kw_at)], ["Mean power", kw(told.avg_kw)],
      ["In peak hours", kwh(told.peak_hours_kwh)], ["Outside of them", kwh(told.off_peak_kwh)],
      ["Covered by readings", isLater ? h("span", {}, covered, h("span", { class: "why" }, `the first block with energy: ${recentOf(told.first_block_at)}`)) : covered], ["Blocks with energy", asSet(told.blocks)],
    ]), h("p", { class: "hint" }, `${momentOf(told.from)} to ${momentOf(told.to)}, from sealed blocks${flagged(told.flags)}.`));
  }
}

function flagged(flags) {
  const names = flags.map((flag) => FLAGS[flag] ?? flag);
  return names.length > 0 ? `; some are marked: ${names.join(", ")}` : "";
}

// --- quality ---

function qualityCard(id, signal) {
  const choose = select(QUALITY, "1", { "aria-label": "Period", onchange: () => ask() });
  const shown = h("div", { class: "stack" });
  const box = card("Quality", { beside: choose }, shown);
  ask();
  return box;

  async function ask() {
    const days = choose.value;
    try {
      const from = new Date(now() - Number(days) * 86400000).toISOString();
      const [view] = await json(`/api/quality?meter=${encodeURIComponent(id)}&from=${encodeURIComponent(from)}`, { signal });
      if (days === choose.value && view) draw(view);
    } catch (problem) {
      if (!signal.aborted) shown.replaceChildren(notice("warn", problem.message));
    }
  }

  function draw(view) {
    const flags = Object.entries(view.flags).map(([flag, blocks]) => `${FLAGS[flag] ?? flag}: ${count(blocks, "block")}`);
    const stretch = ({ start, end }) => `${recentOf(start)} – ${Date.parse(end) - Date.parse(start) < 86400000 ? clock(end) : recentOf(end)}, ${span(Date.parse(end) - Date.parse(start))}`;
    const wrong = view.out_of_range.map(({ quantity, value, expected }) => {
      const { text, unit } = quantityOf(quantity);
      return `${text} is ${asSet(value)}${unit && ` ${unit}`}, and should be ${expected}`;
    });
    shown.replaceChildren(
      facts([["Covered by readings", percent(view.coverage, view.coverage > 0.99 && view.coverage < 1 ? 2 : 0)], ["Blocks", asSet(view.blocks)], ["Without energy", asSet(view.blocks_without_energy)], ["Revised", asSet(view.revised)]]),
      several("Gaps", view.gaps.slice(-GAPS).reverse().map(stretch), view.gaps.length > GAPS || view.more_gaps ? "The newest of them." : "", "No gap."),
      several("Frozen", view.frozen.slice(-GAPS).map(stretch), "The power did not move at all."),
      several("Out of range now", wrong), several("Marks", flags));
  }

  function several(name, texts, hint = "", none = "") {
    if (texts.length === 0) return none ? h("p", { class: "soft" }, none) : "";
    return h("div", {}, h("h3", {}, name), hint && h("p", { class: "hint" }, hint), h("ul", { class: "plain small" }, texts.map((text) => h("li", {}, text))));
  }
}

// --- name and target ---

function settingsCard(path, meter, signal) {
  const name = field("Name", h("input", { value: meter.name, maxlength: "100", autocomplete: "off" }));
  const minutes = live.plant?.site.block_minutes ?? 30;
  const target = field(`Target of a block, kWh`, h("input", { inputmode: "decimal", autocomplete: "off", value: meter.peak_target_kwh ?? "" }), { hint: `What a block of ${minutes} minutes may have at most; empty for none.` });
  const told = h("div");
  const save = h("button", { "data-tone": "main" }, "Save");
  const form = h("form", { onsubmit: send, novalidate: true }, h("div", { class: "fields" }, name, target), told, h("div", { class: "buttons" }, save));
  return card("Name and target", {}, form);

  async function send(event) {
    event.preventDefault();
    if (save.getAttribute("aria-busy")) return;
    const text = target.input.value.trim().replace(",", ".");
    const wanted = text === "" ? null : Number(text);
    told.replaceChildren();
    name.say(name.input.value.trim() ? "" : "A meter needs a name.");
    target.say(wanted === null || (Number.isFinite(wanted) && wanted > 0) ? "" : "A target is a number above 0, such as 160, or empty.");
    if (form.querySelector("[aria-invalid]")) return form.querySelector("[aria-invalid]").focus();
    const changes = {};
    if (name.input.value.trim() !== meter.name) changes.name = name.input.value.trim();
    if (wanted !== meter.peak_target_kwh) changes.peak_target_kwh = wanted;
    if (Object.keys(changes).length === 0) return tell("Nothing was changed.");
    set(save, "aria-busy", "true");
    try {
      Object.assign(meter, await patch(path, changes, { signal }));
      tell("Saved.");
      entitle(meter.name);
      refresh();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      told.replaceChildren(notice(problem.status === 409 ? "warn" : "bad", problem.message));
    } finally {
      set(save, "aria-busy", null);
    }
  }
}

// --- which meter it is ---

function identityCard(meter) {
  const known = meter.commissioning;
  const ratio = (text) => (text === "1/1" ? "" : text.replace(/\/1$/, ""));
  const link = (id) => h("li", {}, h("a", { href: `#/meters/${encodeURIComponent(id)}` }, meterName(id)));
  const parts = meter.kind === "sum" && [
    h("h3", {}, "Adds"), h("ul", { class: "plain" }, meter.add.map(link)),
    meter.subtract.length > 0 && [h("h3", {}, "Subtracts"), h("ul", { class: "plain" }, meter.subtract.map(link))],
  ];
  const how = meter.kind === "simulator" ? [["Simulator", "a program makes up these readings; they are in no log, and sent nowhere"]] : meter.kind === "mqtt" ? [["Broker", meter.broker], ["Calls itself", meter.match]] : meter.kind === "modbus" && !known ? [["Line and unit", `${meter.line}, unit ${meter.unit}`], ["Register map", meter.template]] : [];
  const changes = (known?.changes ?? []).map(({ what, from, to }) => h("li", {}, `${what.replaceAll("_", " ")}: ${from ?? ABSENT} became ${to ?? ABSENT}`));
  return card(meter.kind === "sum" ? "What it is made of" : "Which meter it is", {}, parts,
    known && facts([
      ["Maker and model", [known.manufacturer, known.model].filter(Boolean).join(" ")],
      ["Serial number", known.serial_number], ["Firmware", known.firmware], ["SunSpec models", known.sunspec_models.join(", ")],
      ["Register map", known.template ?? "in the config"], ["Line and unit", `${known.line} (${known.wire}), unit ${known.unit}`],
      ["Current transformers", ratio(known.ct_ratio)], ["Voltage transformers", ratio(known.vt_ratio)], ["Direction", known.invert ? "turned round" : ""],
      ["So since", momentOf(known.since)], ["Because", CAUSES[known.cause] ?? known.cause],
    ]),
    facts([["Id", h("code", {}, meter.id)], ["Interval", meter.interval_ms === null ? "" : span(meter.interval_ms)], ...how]),
    changes.length > 0 && h("div", {}, h("h3", {}, "What changed last"), h("ul", { class: "plain small" }, changes)),
    meter.kind === "modbus" && !known && h("p", { class: "soft" }, "It has not told yet what it is."),
    isMadeUp(meter) && notice("warn", "Simulated: its readings are made up, and sent nowhere."),
    meter.verified === false && !meter.simulated && notice("warn", "Unverified: no recording of a real meter has confirmed this register map. Compare one value with the meter’s display."),
    meter.refused_registers?.length > 0 && notice("warn", `It refuses ${count(meter.refused_registers.length, "register")}: ${meter.refused_registers.join(", ")}.`));
}
