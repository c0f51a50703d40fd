// What was done, by whom and from where: the audit entries of the evidence log, so that nobody can take one out unnoticed.

import { json } from "./api.js";
import { card, h, put } from "./dom.js";
import { asSet, clock, cut, momentOf } from "./format.js";
import { outcome, pager, rows, sheet } from "./pieces.js";

const PAGE = 25;
const SECOND = { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" };

export async function auditPart(body, signal) {
  const line = outcome();
  const list = sheet("What was done, the newest first", [{ text: "Time", kind: "time" }, { text: "What", head: true }, "By", "From", { text: "Detail", all: true, kind: "wrap" }, { text: "In the log", kind: "hash time" }]);
  const none = h("p", { class: "soft" }, "Nothing yet.");
  let shown = [];
  const older = pager(PAGE, look, line);
  async function look() {
    const before = shown.length ? `&before=${encodeURIComponent(shown.at(-1).id)}` : "";
    const got = await json(`/api/audit?limit=${PAGE}${before}`, { signal });
    shown = [...shown, ...got];
    none.hidden = shown.length > 0;
    list.hidden = shown.length === 0;
    rows(list.body, shown, (one) => one.id, list.row, (row, one) => {
      const texts = [clock(one.time, SECOND), words(one.action), one.by ?? "–", plain(one.source) || "–", plain(one.detail), `${cut(one.epoch, 4)} ${asSet(one.index)}`];
      texts.forEach((text, at) => put(row.children[at], text));
    });
    return got.length;
  }
  body.append(card("Audit log", {}, h("p", { class: "soft" }, "Every sign-in, change and export. Each is an entry of the evidence log: its epoch and number stand at the end."), none, list, line, older));
  older.settle(await look());
}

// What the entry says besides, as a person reads it: instants in ns as times of the site, and nothing of what is empty.
function plain(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(plain).join(", ");
  if (typeof value === "object") {
    const told = Object.entries(value).map(([name, inner]) => [name, plain(inner)]).filter(([, text]) => text !== "");
    return told.map(([name, text]) => `${name.replaceAll("_", " ")}: ${text}`).join(", ");
  }
  return /^\d{19}$/.test(String(value)) ? momentOf(Number(String(value).slice(0, 13))) : String(value);
}

function words(action) {
  const text = action.replaceAll(/[_-]/g, " ").replace(/\bpin\b/, "PIN").replace(/\btotp\b/, "second factor");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
