// Searching a bus for meters: a form, what is told as the search goes on, and the config that adds what was found.

import { Problem, ask, lines, mayChange, post } from "./api.js";
import { button, code, field, h, list, notice, put, set, table, check, tell } from "./dom.js";
import { refresh } from "./live.js";

const BY = { identity: "says so itself", sunspec: "SunSpec", plausibility: "by its values" };
const FIRST = 120;           // rows that are shown; more are in the config

// The parts, for a card. `added` is called once meters were taken into the config.
export function search(signal, added = () => {}) {
  let running = null;        // AbortController of the search under way
  const place = field("Address or serial port", h("input", { required: true, autocomplete: "off", autocapitalize: "off", spellcheck: "false", placeholder: "192.0.2.10 or /dev/ttyUSB0" }));
  const units = field("Units", h("input", { required: true, value: "1-247", autocomplete: "off", spellcheck: "false", inputmode: "text" }));
  const rtu = check("The address hands RTU frames on", h("input"));
  const go = h("button", { "data-tone": "main" }, "Search");
  const bar = h("progress", { hidden: true, "aria-label": "Search" });
  const state = h("p", { role: "status" });
  const found = table("Meters that were found", ["Unit", "What it is", "Serial number"]);
  const result = h("div", { hidden: true });
  found.hidden = state.hidden = true;
  const form = h("form", { onsubmit: start, novalidate: true }, h("div", { class: "fields" }, place, units), rtu, h("div", { class: "buttons" }, go));
  signal.addEventListener("abort", () => running?.abort());
  return [form, bar, state, found, result];

  function say(text, tone = "") {
    state.hidden = text === "";
    put(state, text);
    set(state, "class", tone === "bad" ? "fault" : "soft");
  }

  async function start(event) {
    event.preventDefault();
    if (running) return running.abort();
    const target = place.input.value.trim();
    place.say(target ? "" : "Where are the meters?");
    if (!target) return place.input.focus();
    const kind = target.startsWith("/") ? "serial" : rtu.input.checked ? "rtu_over_tcp" : "tcp";
    running = new AbortController();
    const told = [];
    let isOver = false;
    put(go, "Stop");
    set(form, "aria-busy", "true");
    found.hidden = result.hidden = true;
    say("Connecting …");
    bar.hidden = false;
    bar.removeAttribute("value");
    try {
      const response = await ask("/api/scan", { method: "POST", body: { [kind]: target, units: units.input.value.trim() }, signal: running.signal });
      for await (const event of lines(response)) {
        if (event.event === "unit") told.push(event), rows(told);
        else if (event.event === "end") isOver = true, end(event);
        else if (event.event === "failed") isOver = true, say(`${event.why}. ${event.hint}`, "bad");
        else if (event.event === "note") say(`${event.text} …`);
        else if (event.event === "begun") say(`Asking ${describe(event)} …`);
        else if (event.event === "progress") progress(event);
      }
      if (!isOver) say("The search broke off.", "bad");
    } catch (problem) {
      if (signal.aborted) return;
      if (running.signal.aborted) say(`Stopped; ${told.length} found so far.`);
      else say(problem instanceof Problem ? problem.message : "The search broke off.", "bad");
    } finally {
      running = null;
      put(go, "Search");
      set(form, "aria-busy", null);
      bar.hidden = true;
    }
  }

  function progress({ unit, asked, of, found }) {
    bar.max = of;
    bar.value = asked;
    say(`Unit ${unit}: ${asked} of ${of} asked, ${found} found.`);
  }

  function rows(told) {
    found.hidden = false;
    list(found.body, told.slice(0, FIRST), (row, unit) => {
      const [best, ...others] = unit.candidates;
      put(row.children[0], `${unit.under_any_unit ? "every" : unit.unit}${unit.device ? `, device ${unit.device}` : ""}`);
      const [what, why] = row.children[1].children;
      put(what, best ? [best, ...others].map((candidate) => candidate.title).join(" or ") : "not recognised");
      put(why, (best ? `${BY[best.by]}: ${best.reason}` : unit.heard.join("; ")) + (unit.meter ? `, meter ${unit.meter}` : ""));
      put(row.children[2], unit.identity.serial_number ?? "–");
    }, () => h("tr", {}, h("th", { scope: "row" }), h("td", {}, h("span"), h("span", { class: "why" })), h("td")));
  }

  function end({ found, config }) {
    const isNew = /^\[\[modbus/m.test(config);
    const known = found > 0 && !isNew ? ` Nothing to add: ${found === 1 ? "it is" : "all of them are"} in the config, or not recognised.` : "";
    say(found === 0 ? "No unit answers. Are the unit numbers right, and the meters on?" : `${found} found.${known}`, found === 0 ? "bad" : "");
    result.hidden = !isNew;
    if (isNew) result.replaceChildren(propose(config));
  }

  // What was found as config: looked through, changed where names are wanted, and added.
  function propose(config) {
    const text = h("textarea", { class: "mono", spellcheck: "false", autocapitalize: "off", rows: "14" });
    text.value = config;
    const box = field("Config of the new meters", text, { hint: "Give each meter its id, name and category before you add it." });
    const faults = h("div");
    const add = button("Add these meters", async () => {
      box.say("");
      faults.replaceChildren();
      try {
        await post("/api/config/meters", { text: text.value }, { signal });
      } catch (problem) {
        return refuse(problem, text.value, box, faults);
      }
      tell("The meters are in the config and will be asked within seconds.");
      result.hidden = true;
      await refresh();
      added();
    }, { "data-tone": "main" });
    return h("div", { class: "stack" }, box, faults, h("div", { class: "buttons" }, mayChange() && add));
  }

  function refuse(problem, text, box, faults) {
    const list = problem.told.faults;
    if (Array.isArray(list) && list.length > 0) {
      faults.replaceChildren(notice("bad", h("ul", {}, list.map((fault) => h("li", {}, [fault.line ? `Line ${fault.line}: ` : "", fault.text, fault.hint ? `: ${fault.hint}` : ""].join(""))))));
    } else if (problem.status === 409) {
      faults.replaceChildren(notice("warn", h("p", {}, problem.message)), code(text, "Config to put there"));
    } else {
      box.say(problem.message);
    }
  }
}

const describe = ({ tcp, rtu_over_tcp, serial, baud, line }) =>
  `${tcp ?? rtu_over_tcp ?? `${serial} (${baud} Bd)`}${line ? `, between the polls of line ${line}` : ""}`;
