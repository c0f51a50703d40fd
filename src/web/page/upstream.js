// Where records are sent: how far each upstream is, what is wrong with it, and what it would not take.

import { json, mayChange, post } from "./api.js";
import { badge, card, facts, h, notice, put, set } from "./dom.js";
import { asSet, count, momentOf, recentOf, span } from "./format.js";
import { confirms, does, mark, outcome, pager, renew, repeat, rows, sheet, takeaway } from "./pieces.js";

const EVERY_MS = 5000;
const PAGE = 20; // dead letters
const STATES = {
  starting: ["busy", "Not reached yet"],
  connected: ["good", "Connected"],
  away: ["warn", "Away, tried again"],
  stopped: ["bad", "Stopped: it refuses us"],
  off: ["quiet", "Off"],
};
const STREAMS = {
  checkpoints: "Checkpoints", blocks: "Blocks", anchors: "Anchors", datasets: "Exports", alerts: "Alerts", readings: "Readings", notices: "Notices",
};

export async function show(root, parts, signal) {
  const line = outcome();
  const none = notice("quiet", "Nothing is sent anywhere: the config has no [[upstream]]. Readings and blocks are kept here all the same.");
  const all = h("div", { class: "stack" });
  root.append(h("div", { class: "head" }, h("h1", {}, "Upstream")), line, none, all);
  none.hidden = true;
  await repeat(async () => {
    try {
      const upstreams = await json("/api/upstream", { signal });
      line.say("");
      none.hidden = upstreams.length > 0;
      rows(all, upstreams, (one) => one.name, (one) => upstream(one.name, signal), (element, one) => element.fill(one));
    } catch (problem) {
      if (!signal.aborted) line.fail(problem);
    }
  }, EVERY_MS, signal)();
}

function upstream(name, signal) {
  const [state, line, wrong] = [badge("quiet", ""), outcome(), notice("bad")];
  const about = h("div");
  const streams = sheet(`Streams of ${name}`, [{ text: "Stream", head: true }, { text: "Waiting", number: true }, { text: "Oldest waits", number: true }, { text: "Per minute", number: true }, { text: "Last taken", kind: "time" }, { text: "Sent since start", number: true }]);
  const streamRow = () => {
    const row = streams.row();
    row.lastElementChild.append(h("span"), h("span", { class: "unseen" }), h("span", { class: "why" }));
    return row;
  };
  const dead = letters(name, signal);
  const flush = mayChange() && does("Try now", line, async () => {
    await post(`/api/upstream/${encodeURIComponent(name)}/flush`, undefined, { signal });
    line.say("What waits is tried now.", "good");
  });
  const element = card(name, { beside: state, class: "upstream" }, about, wrong, streams, h("div", { class: "buttons" }, flush, line), dead);
  return Object.assign(element, {
    fill(told) {
      mark(state, ...(STATES[told.state] ?? ["quiet", told.state]));
      renew(about, [told.to, told.since, told.retries], () => facts([["Goes to", `${told.to} (${told.kind})`], ["In this state since", momentOf(told.since)], ["Tried again", told.retries ? count(told.retries, "time") : ""]]));
      wrong.hidden = !told.problem;
      set(wrong, "data-tone", told.state === "stopped" ? "bad" : "warn");
      put(wrong, told.problem);
      if (flush) flush.hidden = told.state === "off";
      rows(streams.body, told.streams, (one) => one.stream, streamRow, fillStream);
      dead.fill(told);
    },
  });
}

function fillStream(row, one) {
  const trouble = [one.rejected && `${asSet(one.rejected)} refused`, one.in_doubt && `${asSet(one.in_doubt)} in doubt`].filter(Boolean);
  const texts = [
    STREAMS[one.stream] ?? one.stream, one.depth === 0 ? "nothing" : asSet(one.depth),
    one.oldest_unsent_age_s === null ? "–" : span(one.oldest_unsent_age_s * 1000), asSet(one.per_minute),
    one.acknowledged === null ? "not since start" : recentOf(one.acknowledged),
  ];
  texts.forEach((text, at) => put(row.children[at], text));
  const [sent, comma, why] = row.lastElementChild.children;
  put(sent, asSet(one.sent));
  put(comma, trouble.length > 0 ? ", " : "");
  put(why, trouble.join(", "));
}

// What the other side would not take. Read when it is opened; a page at a time.
function letters(name, signal) {
  const path = `/api/upstream/${encodeURIComponent(name)}/dead-letters`;
  const [title, line, items] = [h("summary"), outcome(), h("ul", { class: "rows" })];
  let shown = [];
  const older = pager(PAGE, () => look(true), line);
  const settle = (what, which) => async () => {
    if (what === "discard") {
      const some = which === "all" ? "all dead letters" : "this dead letter";
      const yes = await confirms(`Discard ${some}?`, "Discard", { detail: `${name} never gets what is in ${which === "all" ? "them" : "it"}. It stays in the gateway’s own store as long as its kind is kept.` });
      if (!yes) return;
    }
    await post(path, { [what]: which }, { signal });
    line.say(what === "replay" ? "Sent again: what is refused once more comes back here." : "Discarded.", "good");
    await look();
  };
  const all = mayChange() && h("div", { class: "buttons" }, does("Send all again", line, settle("replay", "all")), does("Discard all", line, settle("discard", "all"), { "data-tone": "bad" }));
  const element = h("details", { class: "letters fold", ontoggle: () => element.open && look().catch(line.fail) }, title, all, line, items, older);

  // The newest page, or the next one after those that are shown.
  async function look(more = false) {
    const before = more && shown.length ? `&before=${shown.at(-1).id}` : "";
    const got = await json(`${path}?limit=${PAGE}${before}`, { signal });
    shown = more ? [...shown, ...got] : got;
    if (!more) older.settle(got.length);
    // One that was refused once more is another row: its count and its time are.
    rows(items, shown, (one) => `${one.id} ${one.attempts}`, letter, () => {}, title);
    return got.length;
  }

  function letter(one) {
    const refused = one.attempts === 1 ? "once" : `${asSet(one.attempts)} times`;
    return h("li", {},
      h("div", { class: "beside" }, h("div", { class: "said" }, h("p", { class: "reason" }, one.reason), h("p", { class: "hint" }, `${STREAMS[one.stream] ?? one.stream} ${asSet(one.seq)}, refused ${refused}, last ${momentOf(one.at)}`)), mayChange() && h("div", { class: "buttons" }, does("Send again", line, settle("replay", [one.id]), { class: "quiet", "aria-label": `Send again: record ${one.seq}` }), does("Discard", line, settle("discard", [one.id]), { class: "quiet", "aria-label": `Discard record ${one.seq}` }))),
      h("details", { class: "fold" }, h("summary", {}, "The record as it was sent"), takeaway(one.line, `Record ${one.seq} as it was sent`)));
  }

  let known = null;
  return Object.assign(element, {
    fill(told) {
      element.hidden = told.dead_letters === 0 && !element.open;
      put(title, told.dead_letters === 0 ? "No dead letters" : `${count(told.dead_letters, "dead letter")}: what it would not take`);
      if (all) all.hidden = told.dead_letters === 0;
      // Those further down stay: only what is new, or gone, or was refused once more, is worth another look.
      const now = [told.dead_letters, ...told.streams.map((one) => one.rejected)].join(" ");
      if (element.open && known !== null && known !== now && shown.length <= PAGE) look().catch(line.fail);
      known = now;
    },
  });
}
