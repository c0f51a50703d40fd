// Elements without markup: whatever comes from the gateway is put in as text. And the few parts that all views share.

const SVG = "http://www.w3.org/2000/svg";
const COPIED_MS = 3000;
let counted = 0;

export const $ = (id) => document.getElementById(id);

// An id that nothing else on the page has.
export const fresh = (name) => `${name}-${++counted}`;

// An element. A function as an attribute listens (`onclick`), `true` sets an empty attribute, and what is null, undefined or
// false sets none. Children are elements, texts, and lists of them; what is null, undefined or false is left out.
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) add(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

// Leaves the page alone where nothing changed, so that a selection and a screen reader's place stay.
export function put(element, text) {
  const wanted = text ?? "";
  if (element.textContent !== String(wanted)) element.textContent = wanted;
}

export function set(element, name, value) {
  const wanted = value === true ? "" : value;
  if (wanted === null || wanted === undefined || wanted === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(wanted)) element.setAttribute(name, wanted);
}

// Makes the children of `parent` as many as `items`, and fills each.
export function list(parent, items, fillOne, make = () => h("li")) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, at) => {
    if (!parent.children[at]) parent.append(make(item));
    fillOne(parent.children[at], item, at);
  });
}

// --- parts ---

// A card with its heading; `beside` stands at the heading's right.
export function card(title, { beside, level = 2, ...attributes } = {}, ...children) {
  const id = fresh("card");
  return h("section", { ...attributes, class: `card ${attributes.class ?? ""}`.trim(), "aria-labelledby": id },
    h("div", { class: "title" }, h(`h${level}`, { id }, title), beside), children);
}

// A field with its label, a hint, and a place for what is wrong with it (`say(text)`).
export function field(label, input, { hint } = {}) {
  const [hintId, faultId] = [fresh("hint"), fresh("fault")];
  input.id ||= fresh("field");
  const fault = h("p", { id: faultId, class: "fault", role: "alert" });
  input.setAttribute("aria-describedby", hint ? `${hintId} ${faultId}` : faultId);
  const box = h("div", { class: "field" }, h("label", { for: input.id }, label), input, hint && h("p", { id: hintId, class: "hint" }, hint), fault);
  return Object.assign(box, {
    input,
    say(text) {
      put(fault, text);
      set(input, "aria-invalid", text ? "true" : null);
    },
  });
}

export function check(label, input, { hint } = {}) {
  input.type = "checkbox";
  input.id ||= fresh("check");
  return Object.assign(h("div", { class: "check" }, input, h("label", { for: input.id }, label), hint && h("p", { class: "hint" }, hint)), { input });
}

export function select(options, chosen, attributes = {}) {
  const element = h("select", attributes, options.map(([value, text]) => h("option", { value }, text)));
  element.value = chosen;
  return element;
}

// A word about a state: `tone` is "good", "busy", "warn", "bad" or "quiet".
export const badge = (tone, text) => h("span", { class: "badge", "data-tone": tone }, text);

// A sentence in a frame: the same tones.
export const notice = (tone, ...children) => h("div", { class: "notice", "data-tone": tone }, children);

// Pairs of a name and a value; pairs without a value are left out.
export function facts(pairs) {
  const shown = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== "");
  return h("dl", { class: "facts" }, shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

// A table; a column is a text, or `{ text, number }`. It scrolls by itself where it is too wide.
export function table(caption, columns, rows = [], { hidden = true } = {}) {
  const head = columns.map((column) => {
    const { text, number } = typeof column === "string" ? { text: column } : column;
    return h("th", { scope: "col", class: number ? "number" : null }, text);
  });
  const body = h("tbody", {}, rows);
  const made = h("table", {}, h("caption", { class: hidden ? "unseen" : null }, caption), h("thead", {}, h("tr", {}, head)), body);
  return Object.assign(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made), { body });
}

// A link to a page of somebody else, followed by whoever clicks it. Anything but https stays a text.
export function outward(text, href) {
  if (!href?.startsWith("https://")) return text;
  return h("a", { href, target: "_blank", rel: "noopener noreferrer", title: `Opens ${new URL(href).hostname}` }, text);
}

// A button that does `act` once at a time, and says what went wrong beside it or through `fail`.
export function button(text, act, { fail, ...attributes } = {}) {
  const element = h("button", { type: "button", ...attributes, onclick: run }, text);
  async function run(event) {
    if (element.getAttribute("aria-busy")) return;
    element.setAttribute("aria-busy", "true");
    try {
      await act(event);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      if (fail) fail(problem);
      else tell(problem.message, "bad");
    } finally {
      element.removeAttribute("aria-busy");
    }
  }
  return element;
}

// A button that copies what stands in `shown`.
export function copies(shown, text = "Copy") {
  const element = h("button", { type: "button", class: "quiet", onclick: copy }, text);
  async function copy() {
    try {
      await navigator.clipboard.writeText(shown.value ?? shown.textContent);
      put(element, "Copied");
      setTimeout(() => put(element, text), COPIED_MS);
    } catch {
      // Where the browser lets no page copy, the text is marked for the keyboard.
      if (shown.select) shown.select();
      else getSelection().selectAllChildren(shown);
    }
  }
  return element;
}

// Text to copy, such as a command.
export function code(text, label) {
  const pre = h("pre", { tabindex: "0", role: "region", "aria-label": label }, text);
  return Object.assign(h("div", { class: "code" }, pre, copies(pre)), { pre });
}

// --- told to everybody, and to who does not see ---

let fading = 0;

// A short message at the foot of the page, read out by screen readers. A fault stays until it is closed.
export function tell(text, tone = "good") {
  const box = $("toast");
  clearTimeout(fading);
  box.replaceChildren(h("p", {}, text), h("button", { type: "button", class: "quiet", onclick: () => (box.hidden = true) }, "Close"));
  box.dataset.tone = tone;
  box.hidden = false;
  announce(text);
  if (tone !== "bad") fading = setTimeout(() => (box.hidden = true), 6000);
}

// Said by screen readers only.
export function announce(text) {
  put($("announce"), "");
  // A text that is put in again is not read again: the empty one has to be seen before.
  setTimeout(() => put($("announce"), text), 50);
}
