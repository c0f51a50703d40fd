// Today's blocks of one meter as bars, with peak hours and the target; and the same as a table.

import { json } from "./api.js";
import { card, h, list, outward, put, set, svg } from "./dom.js";
import { ANCHORED, FLAGS, asSet, clock, figure, kwh, percent, recentOf, span } from "./format.js";
import { ageTooOld, hear, live, meterOf, oneByOne } from "./live.js";
import { sheet } from "./pieces.js";

const UNIT_WIDTH = 36;      // "kWh" beside the axis, px

export function todayCard(signal) {
  const choose = h("select", { "aria-label": "Meter", onchange: () => choice(choose.value) });
  const sum = h("p");
  const chart = h("div", { class: "chart", role: "img", "aria-label": "No blocks yet" });
  const legend = h("figcaption", { class: "hint" });
  const rows = sheet("Today’s blocks as a table", [{ text: "Block", head: true, kind: "time" }, ...["kWh", "Greatest kW", "Covered"].map((text) => ({ text, number: true })), { text: "Remarks", all: true }]);
  rows.classList.add("lined");
  const box = card("Today’s blocks", { beside: h("div", { class: "tools" }, sum, choose) }, h("figure", {}, chart, legend), h("details", { class: "fold" }, h("summary", {}, "As a table"), rows));
  let [chosen, sealed, asked, drawn] = [null, [], null, ""];
  const ask = oneByOne(look);
  hear((name, told) => {
    if (name === "snapshot") ask();
    else if (name === "blocks" && told.some((block) => block.meter === chosen)) ask();
  }, signal);
  const size = new ResizeObserver(() => draw());
  size.observe(chart);
  signal.addEventListener("abort", () => size.disconnect());
  return Object.assign(box, { draw });

  function choice(id) {
    [chosen, sealed, drawn] = [id, [], ""];
    ask();
    draw();
  }

  async function look() {
    const id = chosen;
    if (!id) return;
    try {
      const blocks = await json(`/api/meters/${encodeURIComponent(id)}/blocks/today`, { signal });
      if (id !== chosen) return;
      sealed = blocks;
      draw();
    } catch {
      // What is drawn stays; that nothing arrives is told above.
    }
  }

  function draw() {
    const { plant } = live;
    if (!plant?.today || plant.all_meters.length === 0) return;
    if (!chosen || !meterOf(chosen)) return choice((meterOf(plant.meter?.id) ?? plant.all_meters[0]).id);
    // The day turned: what was sealed is yesterday's.
    if (asked !== plant.today.start) {
      asked = plant.today.start;
      sealed = [];
      ask();
    }
    list(choose, plant.all_meters, (option, meter) => {
      put(option, meter.name);
      option.value = meter.id;
    }, () => h("option"));
    if (choose.value !== chosen) choose.value = chosen;
    const block = plant.current_blocks[chosen];
    const target = meterOf(chosen).peak_target_kwh;
    const [width, height] = [chart.clientWidth, chart.clientHeight];
    if (width === 0) return;
    // How old the running block's figures are, where that is too old to act upon.
    const old = block ? ageTooOld(block, meterOf(chosen)) : null;
    const key = JSON.stringify([width, height, chosen, target, old !== null && span(old), plant.today, plant.peak_hours_today, sealed.map((b) => [b.start, b.revision, b.anchor?.state, b.anchor?.explorer]), block?.start, block && figure(block.kwh), block && figure(block.projected_kwh)]);
    if (key === drawn) return;
    drawn = key;
    const bars = sealed.map((one) => ({ ...one, start: Date.parse(one.start), end: Date.parse(one.end) }));
    const running = block && !bars.some((bar) => bar.start === Date.parse(block.start)) ? block : undefined;
    chart.replaceChildren(drawing(bars, target, running, old !== null, width, height));
    describe(bars, target, running, old);
  }

  function describe(bars, target, block, old) {
    const known = bars.filter((bar) => bar.kwh !== null);
    const total = known.reduce((all, bar) => all + bar.kwh, 0) + (block?.kwh ?? 0);
    const greatest = known.reduce((best, bar) => (best && best.kwh >= bar.kwh ? best : bar), undefined);
    const over = target === null ? 0 : known.filter((bar) => bar.kwh > target).length;
    // A long silence is one record over many blocks.
    const long = live.plant.site.block_minutes * 60000;
    const silent = bars.filter((bar) => bar.kwh === null).reduce((all, bar) => all + Math.max(1, Math.round(inToday(bar) / long)), 0);
    const parts = [`${known.length} sealed ${known.length === 1 ? "block" : "blocks"}`];
    if (greatest) parts.push(`the greatest ${kwh(greatest.kwh)} at ${clock(greatest.start)}`);
    if (target !== null) parts.push(over === 0 ? "none above the target" : `${over} above the target (▲)`);
    if (silent > 0) parts.push(`${silent} without readings (dotted)`);
    put(legend, `${parts.join(", ")}.${!block ? "" : old === null ? " Dashed: the running block at its end." : ` Hatched: the running block, ${span(old)} old.`}`);
    set(chart, "aria-label", `Today’s blocks of ${meterOf(chosen)?.name}: ${parts.join(", ")}.`);
    put(sum, known.length > 0 || block ? `${kwh(total)} so far${old === null ? "" : `, ${span(old)} old`}` : "");
    set(sum, "class", old === null ? null : "old");
    list(rows.body, [...bars].reverse(), (row, bar) => {
      const remarks = [bar.is_peak_hour ? "peak hours" : "", target !== null && bar.kwh > target ? "above target" : "", ...bar.flags.map((flag) => FLAGS[flag] ?? ""), bar.revision ? `revision ${bar.revision}` : ""].filter(Boolean);
      const isLong = bar.start < Date.parse(live.plant.today.start) || bar.end > Date.parse(live.plant.today.end);
      const [start, end] = row.firstElementChild.children;
      put(start, isLong ? recentOf(bar.start) : clock(bar.start));
      put(end, ` – ${isLong ? recentOf(bar.end) : clock(bar.end)}`);
      [figure(bar.kwh), figure(bar.max_kw), percent(bar.coverage)].forEach((text, at) => put(row.children[at + 1], text));
      const anchored = ["included", "final"].includes(bar.anchor?.state) ? ANCHORED[bar.anchor.state] : "";
      const remark = row.lastElementChild;
      const shown = [...remarks, anchored].filter(Boolean).join(", ");
      if (remark.textContent === shown && remark.dataset.link === (bar.anchor?.explorer ?? "")) return;
      remark.dataset.link = bar.anchor?.explorer ?? "";
      remark.replaceChildren(remarks.join(", "), remarks.length > 0 && anchored ? ", " : "", anchored ? outward(anchored, bar.anchor.explorer) : "");
    }, () => {
      const row = rows.row();
      row.firstElementChild.append(h("span"), h("span", { class: "end" }));
      return row;
    });
  }
}

const inToday = (bar) => Math.min(bar.end, Date.parse(live.plant.today.end)) - Math.max(bar.start, Date.parse(live.plant.today.start));

// Steps of 1, 2 or 5 that give about four lines.
function step(range) {
  const rough = range / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
}

// `isOld`: the running block's figures are too old to act upon, and tell nothing of its end.
function drawing(bars, target, block, isOld, width, height) {
  const { today, peak_hours_today: peaks } = live.plant;
  const values = bars.map((bar) => bar.kwh ?? 0).concat(block ? [isOld ? 0 : block.projected_kwh ?? 0, block.kwh ?? 0] : [], target ?? [], 0);
  let [top, bottom] = [Math.max(...values), Math.min(...values)];
  if (top === bottom) top = bottom + 1;
  const grid = step(top - bottom);
  top = Math.ceil((top * 1.05) / grid) * grid;
  bottom = Math.floor(bottom / grid) * grid;
  const marks = [];
  for (let value = bottom; value <= top + grid / 2; value += grid) marks.push(value);
  const places = Math.max(0, -Math.floor(Math.log10(grid) + 1e-9));
  // The unit above the numbers needs more room than two of their digits.
  const area = { left: Math.max(UNIT_WIDTH, ...marks.map((value) => figure(value, places).length * 7 + 10)), right: width - 8, top: 22, bottom: height - 22 };
  const [from, to] = [Date.parse(today.start), Date.parse(today.end)];
  const x = (time) => area.left + ((Math.min(to, Math.max(from, time)) - from) / (to - from)) * (area.right - area.left);
  const y = (amount) => area.bottom - ((amount - bottom) / (top - bottom)) * (area.bottom - area.top);
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  drawn.append(svg("defs", {}, svg("pattern", { id: "hatching", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("line", { class: "hatch", y2: 6 }))));
  const draw = (name, attributes, text, title) => drawn.append(svg(name, attributes, text, title && svg("title", {}, title)));

  for (const peak of peaks) {
    const [start, end] = [x(Date.parse(peak.start)), x(Date.parse(peak.end))];
    draw("rect", { class: "peak", x: start, width: end - start, y: area.top, height: area.bottom - area.top });
    if (end - start > 70) draw("text", { class: "peak-name", x: (start + end) / 2, y: area.top - 7, "text-anchor": "middle" }, "peak hours");
  }
  for (const value of marks) {
    draw("line", { class: Math.abs(value) < grid / 1e6 ? "zero" : "grid-line", x1: area.left, x2: area.right, y1: y(value), y2: y(value) });
    draw("text", { x: area.left - 6, y: y(value) + 4, "text-anchor": "end" }, figure(value, places));
  }
  draw("text", { x: area.left - 6, y: area.top - 10, "text-anchor": "end" }, "kWh");
  const hours = Math.round((to - from) / 3600000);
  const every = width < 480 ? 6 : width < 800 ? 4 : 2;
  for (let hour = 0; hour <= hours; hour += every) {
    const time = from + hour * 3600000;
    draw("text", { x: x(time), y: height - 5, "text-anchor": hour === 0 ? "start" : hour >= hours ? "end" : "middle" }, hour >= hours ? "24:00" : clock(time));
  }
  const isOver = (amount) => target !== null && amount > target;
  const column = (start, end, amount, kind) => {
    const [begin, stop] = [x(start), x(end)];
    const gap = Math.min(2, (stop - begin) * 0.15);
    const [high, low] = [y(Math.max(amount, 0)), y(Math.min(amount, 0))];
    draw("rect", { class: `bar-column ${kind} ${isOver(amount) ? "over" : ""}`, x: begin + gap / 2, width: Math.max(1, stop - begin - gap), y: high, height: Math.max(1, low - high) }, null, `${clock(start)} – ${clock(end)}: ${kwh(amount)}`);
  };
  for (const bar of bars) {
    if (bar.kwh === null) {
      draw("line", { class: "silent", x1: x(bar.start), x2: x(bar.end), y1: y(0) - 3, y2: y(0) - 3 });
      continue;
    }
    column(bar.start, bar.end, bar.kwh, "");
    if (isOver(bar.kwh)) draw("path", { class: "over-mark", d: `M${(x(bar.start) + x(bar.end)) / 2} ${y(bar.kwh) - 9}l4 7h-8z` });
  }
  if (block) {
    const [start, end] = [Date.parse(block.start), Date.parse(block.end)];
    if (block.projected_kwh !== null && !isOld) column(start, end, block.projected_kwh, "running");
    if (block.kwh !== null) column(start, end, block.kwh, isOld ? "old" : "");
  }
  if (target !== null) {
    draw("line", { class: "target-line", x1: area.left, x2: area.right, y1: y(target), y2: y(target) });
    draw("text", { class: "target-name", x: area.left + 6, y: y(target) - 6 }, `target ${asSet(target)} kWh`);
  }
  return drawn;
}
