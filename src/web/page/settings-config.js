// The config that runs, what is wrong with the one on disk, and a place to try a changed one before it is written there.

import { json, post } from "./api.js";
import { badge, card, code, field, h, notice } from "./dom.js";
import { count, momentOf } from "./format.js";
import { does, mark, outcome } from "./pieces.js";

const PATIENCE_MS = 60000; // of a reload, which opens lines anew

export async function configPart(body, signal) {
  const [state, line, found, files] = [badge("quiet", ""), outcome(), h("div"), h("div", { class: "stack" })];
  const when = h("p", { class: "soft" });
  const reload = does("Reload the files", line, async () => {
    const told = await post("/api/config/reload", undefined, { signal, patience: PATIENCE_MS });
    const { faults = [] } = told;
    await look();
    if (faults.length > 0) found.replaceChildren(...findings(faults));
    else line.say(came(told), "good");
  });
  async function look() {
    const config = await json("/api/config", { signal });
    const { faults = [], warnings = [] } = config;
    mark(state, faults.length ? "bad" : warnings.length ? "warn" : "good", faults.length ? count(faults.length, "fault") : warnings.length ? count(warnings.length, "warning") : "No fault");
    when.textContent = `Loaded ${momentOf(config.loaded_at)} from ${config.path}.${faults.length ? " It was refused: what ran before goes on." : ""}`;
    found.replaceChildren(...findings(faults, warnings));
    files.replaceChildren(...config.files.map((file) => h("details", { class: "fold" }, h("summary", {}, file.path), code(file.text, file.path))));
  }
  body.append(
    card("Config", { beside: state }, when, found, h("div", { class: "buttons" }, reload), line,
      h("h3", {}, "The files, without their secrets"), files),
    tryCard(signal));
  await look();
}

function came({ changed = [], at_next_start: later = [] }) {
  const now = changed.length > 0 ? `In force: ${changed.join(", ")}.` : "Nothing has changed.";
  return later.length > 0 ? `${now} At the next start: ${later.join(", ")}.` : now;
}

// Faults and warnings as the gateway tells them: texts, or objects with their place.
function findings(faults, warnings = []) {
  const one = (told) => {
    if (typeof told === "string") return h("li", {}, told);
    const place = [told.file, told.line && `line ${told.line}`].filter(Boolean).join(", ");
    return h("li", {}, h("p", {}, [told.key, told.text].filter(Boolean).join(": ")), told.hint && h("p", { class: "hint" }, told.hint), place && h("p", { class: "hint" }, place));
  };
  return [
    faults.length > 0 && notice("bad", h("h3", {}, count(faults.length, "fault")), h("ul", { class: "findings" }, faults.map(one))),
    warnings.length > 0 && notice("warn", h("h3", {}, count(warnings.length, "warning")), h("ul", { class: "findings" }, warnings.map(one))),
  ].filter(Boolean);
}

function tryCard(signal) {
  const [line, found] = [outcome(), h("div", { "aria-live": "polite" })];
  const text = h("textarea", { rows: 12, spellcheck: "false", autocomplete: "off", class: "config", wrap: "off" });
  const test = does("Check it", line, async () => {
    found.replaceChildren();
    if (text.value.trim() === "") throw new Error("Paste a config first.");
    const { faults, warnings } = await post("/api/config/check", { text: text.value }, { signal, patience: PATIENCE_MS });
    if (faults.length === 0) line.say(warnings.length ? "No fault; see the warnings." : "No fault: it can be written to the file and reloaded.", "good");
    found.replaceChildren(...findings(faults, warnings));
  }, { "data-tone": "main" });
  return card("Try a config", {}, h("p", { class: "soft" }, "Paste the whole file. It is checked here and changes nothing; secrets that it names have to be on this gateway."),
    field("Config as TOML", text), h("div", { class: "buttons" }, test), line, found);
}
