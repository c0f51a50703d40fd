// What the views of running the plant share beyond the parts of dom.js: lists whose rows stay, looking again, dialogs with a form,
// secrets shown once, and files to keep.

import { ask } from "./api.js";
import { button, code, copies, fresh, h, put, set, table } from "./dom.js";

const KEPT_MS = 60000; // a browser takes the file in this time

// A line for what came of something, beside what was done. `say(text, tone)`; a fault is read out at once.
export function outcome() {
  const line = h("p", { class: "outcome", role: "status" });
  return Object.assign(line, {
    say(text, tone = "bad") {
      line.dataset.tone = tone;
      put(line, text);
    },
    fail: (problem) => line.say(problem.message),
  });
}

// A button whose faults stand in `line`, which is emptied before each try.
export function does(text, line, act, attributes = {}) {
  return button(text, (event) => { line.say(""); return act(event); }, { ...attributes, fail: line.fail });
}

// A badge that changes.
export function mark(element, tone, text) {
  set(element, "data-tone", tone);
  put(element, text);
}

// Rows that stay the same elements while their item is there, in the order of the items: a list that is read again loses neither
// the focus nor what is open in it. Where the row with the focus goes, the next one gets it, or `otherwise`.
export function rows(parent, items, keyOf, make, fill, otherwise) {
  const held = parent.contains(document.activeElement) ? document.activeElement : null;
  const before = [...parent.children];
  const kept = new Map(before.map((row) => [row.dataset.key, row]));
  const wanted = items.map((item) => {
    const key = String(keyOf(item));
    const row = kept.get(key) ?? make(item);
    row.dataset.key = key;
    kept.delete(key);
    fill(row, item);
    return row;
  });
  const lost = [...kept.values()].find((row) => row.contains(held));
  const next = lost && [...before.slice(before.indexOf(lost)), ...before.slice(0, before.indexOf(lost)).reverse()].find((row) => wanted.includes(row));
  for (const row of kept.values()) row.remove();
  wanted.forEach((row, at) => {
    if (parent.children[at] !== row) parent.insertBefore(row, parent.children[at] ?? null);
  });
  if (lost) (next?.querySelector("button, a[href], summary, input") ?? otherwise)?.focus();
  else if (held && document.activeElement !== held) held.focus();
}

// Looks now and every so often until the view is left, and not while nobody sees it. Gives a function that looks at once.
export function repeat(look, every, signal) {
  let timer = 0;
  async function again() {
    clearTimeout(timer);
    if (signal.aborted) return;
    try {
      if (!document.hidden) await look();
    } finally {
      clearTimeout(timer);
      if (!signal.aborted) timer = setTimeout(again, every);
    }
  }
  signal.addEventListener("abort", () => clearTimeout(timer));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) again(); }, { signal });
  return again;
}

// A form in a dialog. `submit` gets its values; the dialog closes when that has succeeded. `fill` may change the content by itself.
export function asks(title, content, verb, submit) {
  const [id, line] = [fresh("dialog"), outcome()];
  const form = h("form", { onsubmit: go }, h("div", { class: "fields" }, content), line,
    h("div", { class: "buttons" }, h("button", { "data-tone": "main" }, verb), h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel")));
  const dialog = h("dialog", { "aria-labelledby": id }, h("h2", { id }, title), form);
  let busy = false;
  async function go(event) {
    event.preventDefault();
    if (busy) return;
    busy = true;
    line.say("");
    try {
      await submit(Object.fromEntries(new FormData(form)));
      dialog.close();
    } catch (problem) {
      line.fail(problem);
    } finally {
      busy = false;
    }
  }
  open(dialog);
}

// A secret that the gateway tells this once: it stays until somebody says that he has it, and is then gone from the page.
export function shownOnce(title, text, secret, { print = false } = {}) {
  const id = fresh("dialog");
  const shown = h("pre", { class: "secret", tabindex: "0", role: "region", "aria-label": title }, secret);
  const dialog = h("dialog", { "aria-labelledby": id, class: "once", oncancel: (event) => event.preventDefault() },
    h("h2", { id }, title), h("p", {}, text), shown,
    h("div", { class: "buttons" }, h("button", { type: "button", "data-tone": "main", onclick: () => dialog.close() }, "I have it"),
      copies(shown), print && h("button", { type: "button", class: "quiet", onclick: () => globalThis.print() }, "Print")));
  open(dialog, () => put(shown, ""));
}

// Asks before something that cannot be taken back; true when it is wanted.
export function confirms(question, yes, { tone = "bad", detail } = {}) {
  const id = fresh("question");
  const close = (value) => () => dialog.close(value);
  const dialog = h("dialog", { "aria-labelledby": id }, h("h2", { id }, question), detail && h("p", {}, detail),
    h("div", { class: "buttons" }, h("button", { type: "button", "data-tone": tone, onclick: close("yes") }, yes), h("button", { type: "button", class: "quiet", onclick: close("") }, "Cancel")));
  return new Promise((answer) => open(dialog, () => answer(dialog.returnValue === "yes")));
}

// It goes with the view that has opened it: the shell closes it.
function open(dialog, closed = () => {}) {
  dialog.addEventListener("close", () => {
    dialog.remove();
    closed();
  });
  document.body.append(dialog);
  dialog.showModal();
}

// Fetches a file and hands it to the browser to keep, so that a refusal can be told where it was asked for.
export async function keep(path, name, signal) {
  const response = await ask(path, { signal, patience: KEPT_MS });
  const given = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "")?.[1];
  const address = URL.createObjectURL(await response.blob());
  h("a", { href: address, download: given ?? name }).click();
  setTimeout(() => URL.revokeObjectURL(address), KEPT_MS);
}

// The pages of a list that is asked for from the newest on: `more(before)` gives the next ones, fewer than `size` at its end.
export function pager(size, more, line) {
  const element = does("Older", line, async () => { settle(await more()); }, { class: "quiet" });
  const settle = (got) => set(element, "hidden", got < size);
  element.hidden = true;
  return Object.assign(element, { settle });
}

// Made anew only when what it shows has changed, so that a selection in it stays.
export function renew(box, told, make) {
  const key = JSON.stringify(told);
  if (box.shows === key) return;
  box.shows = key;
  box.replaceChildren(...[make(told)].flat().filter(Boolean));
}

// A table whose rows become blocks of named values on a phone. A column is a text, or `{ text, number, head, all, kind }`: `head` names the
// row, `all` takes the whole width there, `kind` is a class. `row()` makes a row of empty cells. The roles are said outright: a browser
// forgets those of a table that is not laid out as one.
export function sheet(caption, columns) {
  const made = table(caption, columns);
  made.classList.add("sheet");
  for (const [name, role] of [["table", "table"], ["thead, tbody", "rowgroup"], ["tr", "row"], ["th", "columnheader"]]) {
    for (const element of made.querySelectorAll(name)) set(element, "role", role);
  }
  const cell = (column) => {
    const { text = column, number, head, all, kind } = column;
    const className = [number && "number", all && "all", kind].filter(Boolean).join(" ") || null;
    return head ? h("th", { scope: "row", role: "rowheader", class: className }) : h("td", { role: "cell", "data-label": text, class: className });
  };
  return Object.assign(made, { row: () => h("tr", { role: "row" }, columns.map(cell)) });
}

// A command or a key to copy, shown whole however long it is.
export const takeaway = (text, label) => Object.assign(code(text, label), { className: "code wraps" });
