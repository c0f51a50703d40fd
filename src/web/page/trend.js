// The trend of one meter, from minutes to months: power from readings, energy from sealed blocks.

import { json } from "./api.js";
import { card, h, notice, put, select, set } from "./dom.js";
import { clock, count, figure, kwh, percent, zoneName } from "./format.js";
import { hear, now } from "./live.js";
import { quantityOf } from "./meter.js";

const MINUTE = 60000;
const DAY = 1440 * MINUTE;
// How long, of what, and whether a sum has it: it has no readings.
const RANGES = {
  "10m": ["10 min", 10 * MINUTE, "raw", false],
  "1h": ["1 hour", 60 * MINUTE, "minute", false],
  "6h": ["6 hours", 360 * MINUTE, "minute", false],
  "24h": ["24 hours", DAY, "minute", false],
  blocks: ["Blocks", DAY, "block", true],
  "7d": ["7 days", 7 * DAY, "hour", true],
  "31d": ["31 days", 31 * DAY, "day", true],
  "26w": ["26 weeks", 182 * DAY, "week", true],
  "12m": ["12 months", 365 * DAY, "month", true],
};
const HEIGHT = 300;
const ASKED_MS = 30000;     // how old a trend of minutes may become

let chart = null;           // the library, once it was needed

async function library() {
  if (!chart) {
    document.head.append(h("link", { rel: "stylesheet", href: "/vendor/uPlot.css" }));
    chart = (await import("./vendor/uPlot.esm.js")).default;
  }
  return chart;
}

export async function trendCard(meter, signal) {
  const names = Object.keys(RANGES).filter((name) => meter.kind !== "sum" || RANGES[name][3]);
  let range = meter.kind === "sum" ? "blocks" : "1h";
  const ranges = h("fieldset", { class: "choice ranges" }, h("legend", { class: "unseen" }, "Period"), names.map((name) =>
    h("label", {}, h("input", { type: "radio", name: "range", value: name, checked: name === range, onchange: () => { range = name; ask(); } }), h("span", {}, RANGES[name][0]))));
  const others = Object.keys(meter.values).filter((name) => name !== "power_kw").sort();
  const quantity = select([["power_kw", "Active power"], ...others.map((name) => [name, quantityOf(name).text])], "power_kw", { "aria-label": "Quantity", onchange: () => ask() });
  const place = h("div", { class: "trend", role: "img" });
  const [told, fault, file] = [h("figcaption", { class: "hint" }), h("div"), h("a", { class: "button quiet", download: true }, "CSV")];
  const box = card("Trend", { beside: h("div", { class: "tools" }, quantity, file) }, ranges, fault, h("figure", {}, place, told));
  const path = `/api/meters/${encodeURIComponent(meter.id)}/readings`;
  let [plot, points, asked, busy] = [null, null, 0, null];

  hear((name, what) => {
    const resolution = RANGES[range][2];
    if (name === "readings" && resolution === "raw" && points) for (const reading of what) if (reading.meter === meter.id) append(reading);
    if (name === "snapshot" && resolution === "minute" && Date.now() - asked > ASKED_MS) ask();
    if (name === "blocks" && !["raw", "minute"].includes(resolution) && what.some((block) => block.meter === meter.id)) ask();
  }, signal);
  const size = new ResizeObserver(() => plot && plot.setSize({ width: place.clientWidth, height: HEIGHT }));
  size.observe(place);
  const theme = matchMedia("(prefers-color-scheme: dark)");
  theme.addEventListener("change", draw, { signal });
  addEventListener("theme", draw, { signal });
  signal.addEventListener("abort", () => { size.disconnect(); plot?.destroy(); });
  ask();
  return box;

  async function ask() {
    busy?.abort();
    const own = busy = new AbortController();
    const left = () => own.abort();
    signal.addEventListener("abort", left);
    const [, length, resolution] = RANGES[range];
    asked = Date.now();
    quantity.hidden = resolution !== "raw" || others.length === 0;
    const from = new Date(now() - length).toISOString();
    const query = `?resolution=${resolution}&from=${encodeURIComponent(from)}`;
    set(file, "href", `${path}${query}&format=csv`);
    set(file, "download", `${meter.id}-${resolution}.csv`);
    set(box, "aria-busy", "true");
    try {
      const rows = await json(path + query, { signal: own.signal, patience: 60000 });
      await library();
      if (own !== busy) return;
      fault.replaceChildren();
      points = take(rows, resolution);
      draw();
    } catch (problem) {
      if (own.signal.aborted) return;
      // An old trend must not pass for the one that was asked for.
      points = null;
      plot?.destroy();
      plot = null;
      put(told, "");
      fault.replaceChildren(notice("warn", `The trend cannot be shown: ${problem.message}`));
    } finally {
      signal.removeEventListener("abort", left);
      if (own === busy) set(box, "aria-busy", null);
    }
  }

  // Rows as columns: seconds, then one or three series. Where readings are missing, the line breaks.
  function take(rows, resolution) {
    const of = resolution === "raw" ? [quantity.value] : resolution === "minute" ? ["power_min_kw", "power_max_kw", "power_mean_kw"] : ["kwh"];
    const step = longest(resolution);
    // Energy stands in one of two columns: covered by readings, or in part.
    const isEnergy = of[0] === "kwh";
    const columns = [[], ...of.map(() => []), ...(isEnergy ? [[]] : [])];
    let last = null;
    for (const row of rows) {
      const time = Date.parse(row.time ?? row.start);
      if (last !== null && time - last > step) push(columns, (last + 1000) / 1000, of.map(() => null));
      if (!isEnergy && row[of[0]] === undefined) continue;
      if (isEnergy) push(columns, time / 1000, isWhole(row) ? [row.kwh, null] : [null, row.kwh]);
      else push(columns, time / 1000, of.map((name) => row[name] ?? null));
      last = time;
    }
    return { columns, resolution, name: of[0], ends: rows.map((row) => row.end), coverage: rows.map((row) => row.coverage ?? null) };
  }

  // Where nothing was read for longer than this, ms, the line breaks.
  function longest(resolution) {
    return resolution === "raw" ? Math.max(3 * (meter.interval_ms ?? 5000), 60000) : resolution === "minute" ? 2.5 * MINUTE : Infinity;
  }

  function push(columns, time, values) {
    columns[0].push(time);
    values.forEach((value, at) => columns[at + 1].push(value));
  }

  function append(reading) {
    const value = reading[quantity.value];
    const { columns } = points;
    const time = Date.parse(reading.time) / 1000;
    if (value === undefined || !(time > (columns[0].at(-1) ?? 0))) return;
    const last = columns[0].at(-1);
    if (last !== undefined && (time - last) * 1000 > longest("raw")) push(columns, last + 1, [null]);
    push(columns, time, [value]);
    const oldest = (now() - RANGES[range][1]) / 1000;
    while (columns[0][0] < oldest) for (const column of columns) column.shift();
    if (plot) plot.setData(columns);
    else draw();
    describe();
  }

  function draw() {
    if (!points || !chart) return;
    plot?.destroy();
    plot = null;
    describe();
    const { columns, resolution, name } = points;
    const isEmpty = columns[0].length === 0;
    place.classList.toggle("bare", isEmpty);
    if (isEmpty) return void place.replaceChildren(h("p", { class: "empty" }, "Nothing was read in this time."));
    place.replaceChildren();
    plot = new chart(optionsOf(resolution, name), columns, place);
  }

  function describe() {
    const { columns, resolution, name } = points;
    const known = (column) => column.filter((value) => value !== null);
    const isEnergy = name === "kwh";
    const values = known(isEnergy ? columns[1].map((value, at) => value ?? columns[2][at]) : columns[1]);
    const { unit } = quantityOf(name);
    const write = (value) => `${figure(value)} ${unit}`.trim();
    const least = values.reduce((a, b) => Math.min(a, b), Infinity);
    const most = (isEnergy ? values : known(columns[2] ?? columns[1])).reduce((a, b) => Math.max(a, b), -Infinity);
    const sum = isEnergy ? `${kwh(values.reduce((a, b) => a + b, 0))} in all, ` : "";
    const each = { raw: "each reading", minute: "each minute’s mean, and its least and greatest power behind it", block: "each block", hour: "each hour", day: "each day", week: "each week", month: "each month" }[resolution];
    const part = isEnergy ? known(columns[2]).length : 0;
    const isRunning = isEnergy && Date.parse(points.ends.at(-1)) > now();
    const breaks = isEnergy ? 0 : columns[1].length - values.length;
    const remarks = [breaks > 0 && count(breaks, "gap"), part > 0 && `paler: ${part === 1 ? "one is" : `${part} are`} covered by readings only in part`, isRunning && "the last one is not over"].filter(Boolean);
    const text = values.length === 0 ? "" : `${sum}least ${write(least)}, greatest ${write(most)}; ${each}${remarks.map((remark) => `; ${remark}`).join("")}.`;
    put(told, text[0] ? text[0].toUpperCase() + text.slice(1) : "");
    set(place, "aria-label", `Trend of ${meter.name}, ${RANGES[range][0]}: ${text || "nothing was read"}`);
  }

  function optionsOf(resolution, name) {
    const style = getComputedStyle(document.documentElement);
    const colour = (token) => style.getPropertyValue(`--${token}`).trim();
    const { unit, text } = quantityOf(resolution === "minute" ? "power_kw" : name);
    const isEnergy = name === "kwh";
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: colour("soft"), font, labelFont: font, grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 } };
    const write = (own, value) => (value === null || value === undefined ? "–" : `${figure(value)} ${isEnergy ? "kWh" : unit}`);
    const line = { stroke: colour("accent"), width: 2, points: { show: false }, value: write };
    const edge = { stroke: "transparent", width: 0, points: { show: false }, value: write };
    const series = [{ label: "Time", value: (own, time) => (time === null || time === undefined ? "–" : timeText(time * 1000, resolution)) }];
    if (isEnergy) {
      const bars = chart.paths.bars({ size: [0.8, 60], align: 1 });
      const covered = (own, value, series, at) => (value === null || value === undefined ? "–" : `${write(own, value)}, covered ${percent(points.coverage[at])}`);
      series.push({ ...line, label: "Energy", fill: colour("accent"), width: 0, paths: bars });
      series.push({ ...line, label: "In part", fill: colour("accent-soft"), stroke: colour("accent-soft"), width: 0, paths: bars, value: covered });
    } else if (resolution === "minute") {
      // The mean is drawn last, over the band of the others.
      series.push({ ...edge, label: "Least" }, { ...edge, label: "Greatest" }, { ...line, width: points.columns[0].length > 720 ? 1 : 2, label: "Mean" });
    } else {
      series.push({ ...line, label: text });
    }
    const [, length] = RANGES[range];
    const until = () => Math.max(now() / 1000, points.columns[0].at(-1) ?? 0);
    return {
      width: place.clientWidth, height: HEIGHT, series, tzDate: (time) => chart.tzDate(new Date(time * 1000), zoneName()),
      bands: resolution === "minute" ? [{ series: [2, 1], fill: colour("accent-soft") }] : [],
      scales: {
        x: { range: (own, least) => (isEnergy ? [Math.min(least, (now() - length) / 1000), endOf()] : [until() - length / 1000, until()]) },
        y: { range: (own, least, most) => rangeOf(least, most, isEnergy) },
      },
      axes: [
        { ...axis, values: (own, splits, at, space, step) => splits.map((time) => axisText(time * 1000, step)) },
        { ...axis, size: 64, values: (own, splits) => splits.map((value) => figure(value, placesOf(splits))), label: isEnergy ? "kWh" : unit, labelSize: 18 },
      ],
      cursor: { y: false, drag: { x: false, y: false } },
      legend: { live: true },
    };
  }

  function endOf() {
    const last = Date.parse(points.ends.at(-1) ?? "");
    return (Number.isNaN(last) ? now() : last) / 1000;
  }
}

// A period, or the part of it that is sealed, that readings cover.
const isWhole = (row) => row.kwh === null || row.coverage >= 0.99;

// Energy stands on zero; power is shown as closely as it moves, but not closer than a tenth of it.
function rangeOf(least, most, isEnergy) {
  if (least === null || most === null) return [0, 1];
  if (isEnergy) return [Math.min(0, least * 1.05), Math.max(most * 1.05, least < 0 ? 0 : 1e-3)];
  const room = Math.max((most - least) * 0.1, Math.abs(most) * 0.05, 1e-3);
  const low = least - room;
  return [least >= 0 && (low < 0 || least < most * 0.3) ? 0 : low, most + room];
}

// Decimals that tell the steps of an axis apart.
function placesOf(splits) {
  const step = Math.abs((splits[1] ?? 1) - (splits[0] ?? 0)) || 1;
  const isWhole = (value) => Math.abs(value - Math.round(value)) < 1e-6 * value;
  return [0, 1, 2, 3, 4, 5].find((places) => isWhole(step * 10 ** places)) ?? 6;
}

function axisText(time, step) {
  if (step >= 27 * 86400) return clock(time, { month: "short", year: "2-digit" });
  if (step >= 86400) return clock(time, { day: "numeric", month: "short" });
  if (step < 60) return clock(time, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const text = clock(time);
  return text === "00:00" ? clock(time, { day: "numeric", month: "short" }) : text;
}

function timeText(time, resolution) {
  const day = { day: "numeric", month: "short" };
  if (resolution === "raw") return clock(time, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  if (resolution === "day" || resolution === "week") return clock(time, { weekday: "short", ...day, year: "numeric" });
  if (resolution === "month") return clock(time, { month: "long", year: "numeric" });
  return clock(time, { ...day, hour: "2-digit", minute: "2-digit" });
}
