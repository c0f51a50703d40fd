// Exports from InfluxDB: order one, see it go on, and take its bundle; and the connections and queries that there are.

import { ask, events, json, mayChange, post, remove } from "./api.js";
import { badge, card, facts, field, h, outward, put, select, set } from "./dom.js";
import { ANCHORED, asSet, bytes, count, cut, dayOf, figure, left, momentOf, timeOf, zoneName } from "./format.js";
import { today } from "./live.js";
import { connectionsCard, queriesCard } from "./connections.js";
import { confirms, does, keep, mark, outcome, pager, renew, repeat, rows } from "./pieces.js";

const EVERY_MS = 4000;
const PAGE = 20;
const AGAIN_MS = 3000; // until a feed that ended is opened again
const STATES = {
  queued: ["quiet", "Queued"], running: ["busy", "Running"], done: ["good", "Done"], failed: ["bad", "Failed"], cancelled: ["quiet", "Cancelled"],
};

const isOver = (job) => ["done", "failed", "cancelled"].includes(job.state);

export async function show(root, parts, signal) {
  const line = outcome();
  const jobs = jobsCard(signal);
  const what = { connections: [], queries: [] };
  const order = mayChange() ? orderCard(signal, what, jobs.look) : null;
  const changed = async () => {
    [what.connections, what.queries] = await Promise.all(["/api/connections", "/api/queries"].map((path) => json(path, { signal })));
    order?.offer();
    connections.fill(what.connections);
    queries.fill(what.queries);
  };
  const [connections, queries] = [connectionsCard(signal, changed), queriesCard(signal, changed)];
  root.append(...[h("div", { class: "head" }, h("h1", {}, "Exports")), line, order, jobs, h("div", { class: "grid two top" }, connections, queries)].filter(Boolean));
  await Promise.all([
    changed().catch((problem) => { if (!signal.aborted) line.fail(problem); }),
    repeat(jobs.look, EVERY_MS, signal)(),
  ]);
}

// --- an order ---

// Whole days of the site, so that the same period gives the same dataset again.
const PERIODS = {
  yesterday: ["Yesterday", (today) => [plus(today, -1), today]],
  last_week: ["Last week, Monday to Sunday", (today) => { const monday = plus(today, -weekday(today)); return [plus(monday, -7), monday]; }],
  this_month: ["This month until last midnight", (today) => [first(today), today]],
  last_month: ["Last month", (today) => [first(plus(first(today), -1)), first(today)]],
  this_year: ["This year until last midnight", (today) => [`${today.slice(0, 4)}-01-01`, today]],
  last_year: ["Last year", (today) => [`${today.slice(0, 4) - 1}-01-01`, `${today.slice(0, 4)}-01-01`]],
};
const plus = (day, days) => new Date(Date.parse(`${day}T00:00:00Z`) + days * 86400000).toISOString().slice(0, 10);
const first = (day) => `${day.slice(0, 8)}01`;
const weekday = (day) => (new Date(`${day}T00:00:00Z`).getUTCDay() + 6) % 7;

function orderCard(signal, what, look) {
  const line = outcome();
  const [connection, query] = [select([], ""), select([], "")];
  const period = select([...Object.entries(PERIODS).map(([key, [text]]) => [key, text]), ["other", "Another period"]], "last_month");
  const [from, to] = ["from", "to"].map(() => h("input", { type: "datetime-local", required: true }));
  const order = h("button", { "data-tone": "main" }, "Order the export");
  const form = h("form", { class: "fields", onsubmit: send },
    field("Connection", connection), field("Query", query), field("Period", period), field("From", from), field("Until, not included", to),
    h("div", { class: "buttons" }, order));
  const missing = h("p", { class: "soft" });
  function preset() {
    if (period.value === "other") return;
    [from.value, to.value] = PERIODS[period.value][1](today()).map((day) => `${day}T00:00`);
  }
  period.addEventListener("change", preset);
  for (const input of [from, to]) input.addEventListener("input", () => { period.value = "other"; });
  preset();

  async function send(event) {
    event.preventDefault();
    if (order.disabled) return;
    order.disabled = true;
    line.say("");
    try {
      const job = await post("/api/bulk", { connection: connection.value, query: query.value, from: from.value, to: to.value }, { signal });
      line.say(`Ordered: ${job.query.name} from ${job.connection}. It goes on by itself, also when this page is closed.`, "good");
      await look();
    } catch (problem) {
      if (!signal.aborted) line.fail(problem);
    } finally {
      order.disabled = false;
    }
  }
  const element = card("New export", {}, h("p", { class: "soft" }, `Times are those of the site (${zoneName()}).`), missing, form, line);
  return Object.assign(element, {
    offer() {
      const lacks = [what.connections.length === 0 && "connection", what.queries.length === 0 && "query"].filter(Boolean);
      put(missing, lacks.length ? `There is no ${lacks.join(" and no ")} yet: add one below.` : "");
      form.hidden = lacks.length > 0;
      for (const [list, all] of [[connection, what.connections], [query, what.queries]]) {
        const chosen = list.value;
        list.replaceChildren(...all.map((one) => h("option", { value: one.name, disabled: Boolean(one.off) }, one.off ? `${one.name} (off)` : one.name)));
        if (all.some((one) => one.name === chosen)) list.value = chosen;
        else list.value = all.find((one) => !one.off)?.name ?? "";
      }
    },
  });
}

// --- exports that were ordered ---

function jobsCard(signal) {
  const [line, none, items] = [outcome(), h("p", { class: "soft" }, "None yet."), h("ul", { class: "rows" })];
  let [newest, further] = [[], []];
  let following = null;
  const older = pager(PAGE, async () => {
    const got = await json(`/api/bulk?limit=${PAGE}&before=${[...newest, ...further].at(-1).id}`, { signal });
    further.push(...got);
    draw();
    return got.length;
  }, line);
  const element = card("Exports", {}, line, none, items, older);

  function draw() {
    const last = newest.at(-1)?.id ?? "";
    const all = [...newest, ...further.filter((job) => job.id < last)];
    none.hidden = all.length > 0;
    rows(items, all, (job) => job.id, (job) => jobRow(job, look, signal), (row, job) => row.fill(job), older);
  }

  async function look() {
    try {
      newest = await json(`/api/bulk?limit=${PAGE}`, { signal });
      line.say("");
    } catch (problem) {
      if (!signal.aborted) line.fail(problem);
      return;
    }
    if (further.length === 0) older.settle(newest.length);
    draw();
    follow((newest.find((job) => job.state === "running") ?? newest.findLast((job) => job.state === "queued"))?.id);
  }

  // The one that runs, or is next, is told as it goes on; the others are looked at now and then.
  async function follow(id) {
    if (!id || following === id) return;
    following = id;
    try {
      const response = await ask(`/api/bulk/${id}/events`, { signal });
      for await (const { name, told } of events(response)) {
        if (!told.id) break;
        newest = newest.map((job) => (job.id === told.id ? { ...told, anchor: job.anchor } : job));
        draw();
        if (name === "end") break;
      }
    } catch {
      // The list tells the same, more slowly.
    }
    if (signal.aborted) return;
    setTimeout(() => { following = null; if (!signal.aborted) look(); }, newest.find((job) => job.id === id)?.state === "running" ? AGAIN_MS : 0);
  }
  return Object.assign(element, { look });
}

function jobRow(first, look, signal) {
  const path = `/api/bulk/${first.id}`;
  const of = `${first.query.name} from ${first.connection}`;
  const [state, line, wrong, way] = [badge("quiet", ""), outcome(), h("p"), h("p", { class: "hint" })];
  const bar = h("progress", { max: 1, "aria-label": `Progress of ${of}` });
  const [sum, more] = [h("p"), h("div")];
  const beside = h("p", { class: "hint" }, "Keep the proof beside the bundle: ", h("a", { href: "#/evidence" }, "how to verify both"), ".");
  const download = h("a", { class: "button", href: `${path}/download`, download: "" });
  const manifest = h("a", { class: "button quiet", href: `${path}/manifest`, download: `${first.id}.manifest.json` }, "Manifest");
  const proof = does("Proof", line, () => keep(`${path}/proof`, `${first.id}.proof.json`, signal), { class: "quiet", "aria-label": `Proof of ${of}` });
  const gone = (question, verb, detail) => async () => {
    if (!(await confirms(question, verb, { detail }))) return;
    await remove(path, { signal });
    await look();
  };
  const cancel = does("Cancel", line, gone(`Cancel the export ${of}?`, "Cancel the export", "What was read so far is dropped. It can be ordered again."), { class: "quiet", "aria-label": `Cancel ${of}` });
  const drop = does("Delete", line, gone(`Delete the bundle of ${of}?`, "Delete the bundle", "Its record and its digest stay in the log; the rows can be had only by another export, while InfluxDB still has them."), { class: "quiet", "aria-label": `Delete the bundle of ${of}` });
  const buttons = h("div", { class: "buttons" }, download, manifest, proof, cancel, drop);
  const element = h("li", { class: "job" },
    h("div", { class: "beside" },
      h("div", { class: "said" }, h("h3", {}, of, " ", state), h("p", {}, periodOf(first)), sum, way, beside, wrong),
      buttons),
    bar, line, h("details", { class: "fold" }, h("summary", {}, "Details"), more));

  return Object.assign(element, {
    fill(job) {
      const kept = job.state === "done" && job.bundle && !job.bundle.deleted;
      mark(state, ...(STATES[job.state] ?? ["quiet", job.state]));
      put(sum, [job.rows > 0 || job.state === "done" ? count(job.rows, "row") : "", job.bytes > 0 ? bytes(job.bytes) : "", job.state === "done" && !kept ? "the bundle was deleted" : ""].filter(Boolean).join(", "));
      const share = shareOf(job);
      bar.hidden = job.state !== "running";
      if (share === null) bar.removeAttribute("value");
      else bar.value = share;
      put(way, isOver(job) ? anchored(job) : going(job));
      set(way, "hidden", !way.textContent);
      put(wrong, job.error ?? job.waiting);
      set(wrong, "class", job.error ? "fault" : "waits");
      set(wrong, "hidden", !wrong.textContent);
      download.hidden = !kept || !mayChange();
      if (kept) put(download, `Download, ${bytes(job.bundle.bytes)}`);
      manifest.hidden = proof.hidden = beside.hidden = !kept;
      cancel.hidden = isOver(job) || !mayChange();
      drop.hidden = !kept || !mayChange();
      set(buttons, "hidden", [...buttons.children].every((one) => one.hidden));
      renew(more, [job.created, job.started, job.ended, job.by, job.bundle, job.anchor, job.query], () => details(job));
    },
  });
}

// Whole days as days.
function periodOf({ from, to }) {
  const midnights = timeOf(from) === "00:00" && timeOf(to) === "00:00";
  if (!midnights) return `${momentOf(from)} – ${momentOf(to)}`;
  const [begin, end] = [dayOf(from), dayOf(Date.parse(to) - 1)];
  return begin === end ? begin : `${begin} – ${end}, whole days`;
}

function shareOf(job) {
  if (!job.position) return null;
  const [from, to, at] = [job.from, job.to, job.position].map((time) => Date.parse(time));
  return to > from ? Math.min(1, Math.max(0, (at - from) / (to - from))) : null;
}

function going(job) {
  const share = shareOf(job);
  return [
    share === null ? "" : `${figure(share * 100, 0)} % of the period`,
    job.rows_per_s ? `${asSet(job.rows_per_s)} rows/s` : "",
    job.seconds_left === null ? "" : `about ${left(job.seconds_left * 1000)} left`,
  ].filter(Boolean).join(", ");
}

function anchored(job) {
  return job.anchor ? `${chainOf(job.anchor)}: ${ANCHORED[job.anchor.state] ?? job.anchor.state}` : "";
}

const chainOf = (anchor) => anchor.chain ?? `chain ${anchor.chain_id}`;

function details(job) {
  const { bundle, anchor, query } = job;
  return facts([
    ["Ordered", `${momentOf(job.created)} by ${job.by}`],
    ["Begun", job.started && momentOf(job.started)],
    ["Ended", job.ended && momentOf(job.ended)],
    ["Query", query.text ?? (query.measurement && `points of ${query.measurement}`)],
    ["Anchor", anchor && (anchor.transaction ? outward(`${chainOf(anchor)}, transaction ${cut(anchor.transaction)}`, anchor.explorer) : anchored(job))],
    bundle && ["Downloaded", bundle.downloaded ? momentOf(bundle.downloaded) : "not yet"],
    bundle?.deleted && ["Deleted", momentOf(bundle.deleted)],
    bundle && ["Digest of the manifest", h("span", { class: "hash" }, bundle.manifest_sha256)],
    ["Export", h("span", { class: "hash" }, job.id)],
  ]);
}
