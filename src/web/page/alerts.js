// Alerts: those that are not over, those that were, what raises one, and where they are sent.

import { json, mayChange, patch, post } from "./api.js";
import { badge, card, check, h, put, set } from "./dom.js";
import { count, momentOf, span } from "./format.js";
import { does, mark, outcome, rows, repeat } from "./pieces.js";

const EVERY_MS = 10000;
const FIRST = 50;
const MOST = 1000; // that the gateway gives

export async function show(root, parts, signal) {
  const [line, calm, open, past, none] = [outcome(), h("p", { class: "soft" }, "Nothing is open."), h("ul", { class: "rows" }), h("ul", { class: "rows" }), h("p", { class: "soft" }, "None so far.")];
  let limit = FIRST;
  const more = does("Show more", line, () => { limit = MOST; return look(); }, { class: "quiet" });
  const openCard = card("Open", {}, calm, open);
  openCard.tabIndex = -1;
  root.append(...[h("div", { class: "head" }, h("h1", {}, "Alerts")), line, openCard, card("History", {}, none, past, more), rulesCard(signal), webhookCard(signal)].filter(Boolean));
  calm.hidden = none.hidden = more.hidden = true;

  async function look() {
    const [unfinished, newest] = await Promise.all([`open=true&limit=${MOST}`, `limit=${limit}`].map((query) => json(`/api/alerts?${query}`, { signal })));
    line.say("");
    const over = newest.filter((alert) => alert.cleared !== null);
    calm.hidden = unfinished.length > 0;
    none.hidden = over.length > 0;
    more.hidden = newest.length < limit || limit === MOST;
    rows(open, unfinished, (alert) => alert.id, (alert) => item(alert, look, signal), fillItem, openCard);
    rows(past, over, (alert) => alert.id, (alert) => item(alert, look, signal), fillItem);
  }
  await repeat(() => look().catch((problem) => { if (!signal.aborted) line.fail(problem); }), EVERY_MS, signal)();
}

function item(alert, look, signal) {
  const [state, when, seen, line] = [badge("quiet", ""), h("p", { class: "hint" }), h("p", { class: "hint" }), outcome()];
  const seenIt = mayChange() && does("Acknowledge", line, async () => {
    await post(`/api/alerts/${alert.id}/ack`, undefined, { signal });
    await look();
  }, { "aria-label": `Acknowledge: ${alert.text}` });
  const row = h("li", {}, h("div", { class: "beside" }, h("div", { class: "said" }, state, h("p", {}, alert.text), when, seen, line), seenIt));
  return Object.assign(row, { fill: { state, when, seen, seenIt } });
}

function fillItem(row, alert) {
  const { state, when, seen, seenIt } = row.fill;
  const [raised, over] = [Date.parse(alert.raised), alert.cleared];
  mark(state, over ? "quiet" : alert.acknowledged ? "warn" : "bad", over ? "Over" : alert.acknowledged ? "Open, acknowledged" : "Open");
  const sent = alert.delivered ? `, sent to the webhook ${momentOf(alert.delivered)}` : "";
  put(when, over ? `${momentOf(alert.raised)} – ${momentOf(over)}, ${span(Date.parse(over) - raised)}${sent}` : `Since ${momentOf(alert.raised)}${sent}`);
  put(seen, alert.acknowledged ? `Acknowledged by ${alert.acknowledged_by} ${momentOf(alert.acknowledged)}` : "");
  if (seenIt) set(seenIt, "hidden", Boolean(over || alert.acknowledged));
}

// What may raise an alert. One that is switched off raises none; those that are open go on to their end.
function rulesCard(signal) {
  const [line, items, sum] = [outcome(), h("ul", { class: "rows rules" }), h("p", { class: "soft" })];
  const boxes = () => [...items.querySelectorAll("input")];
  const tally = () => {
    const off = boxes().filter((box) => !box.checked).length;
    put(sum, off === 0 ? "All are on" : `${count(off, "rule is", "rules are")} off`);
  };
  const rule = (one) => {
    const own = outcome();
    const box = h("input", { role: "switch", onchange: change });
    box.checked = one.on;
    // One that tells of a loss stays on, whoever asks.
    box.disabled = !mayChange() || Boolean(one.always);
    async function change() {
      const wanted = box.checked;
      own.say("");
      try {
        box.checked = (await patch(`/api/alerts/rules/${one.kind}`, { on: wanted }, { signal })).on;
        own.say(box.checked ? "Switched on." : "Switched off: it raises no alert.", "good");
      } catch (problem) {
        box.checked = !wanted;
        own.fail(problem);
      }
      tally();
    }
    return h("li", {}, check(one.title, box, { hint: one.always ? `${one.what} Always on: ${one.always}.` : one.what }), own);
  };
  json("/api/alerts/rules", { signal }).then((rules) => {
    items.append(...rules.map(rule));
    tally();
  }).catch((problem) => { if (!signal.aborted) line.fail(problem); });
  return card("Rules", { beside: sum }, line, items);
}

function webhookCard(signal) {
  if (!mayChange()) return null;
  const line = outcome();
  const test = does("Send a test", line, async () => {
    const { status } = await post("/api/alerts/test", undefined, { signal, patience: 60000 });
    line.say(`The webhook took it: it answered ${status}.`, "good");
  });
  return card("Webhook", {}, h("p", { class: "soft" }, "Alerts are sent where [alerts] of the config says. A test sends one text there now, marked as a test."), h("div", { class: "buttons" }, test), line);
}
