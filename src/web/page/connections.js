// Connections to InfluxDB and what is asked of them. Those of the config's files are shown and cannot be changed here; a secret goes
// to the gateway and never comes back.

import { change, json, mayChange, post, remove } from "./api.js";
import { badge, card, field, h, put, select, set } from "./dom.js";
import { asks, confirms, does, mark, outcome, rows } from "./pieces.js";

const PATIENCE_MS = 90000; // a server that is tested may take its time

export function connectionsCard(signal, changed) {
  return listCard({
    title: "Connections", noun: "connection", none: "There is no connection yet.", path: "/api/connections", signal, changed, form: connectionForm,
    lines: (one) => [`InfluxDB ${one.version}, ${one.url}`, [one.database && `database ${one.database}`, one.retention_policy && `retention policy ${one.retention_policy}`, one.org && `organisation ${one.org}`, one.bucket && `bucket ${one.bucket}`, one.username && `user ${one.username}`].filter(Boolean).join(", ")],
    gone: "Exports that were made stay. Those that wait for it fail.",
    extra: (name, line, state) => mayChange() && does("Test", line, async () => {
      try {
        const told = await json(`/api/connections/${encodeURIComponent(name)}/test`, { method: "POST", signal, patience: PATIENCE_MS });
        mark(state, "good", "Answers");
        const known = told.credentials === "proven" ? "takes these credentials" : "answers anybody, so that the credentials are not proven";
        line.say(`InfluxDB ${told.server_version} ${known}.`, "good");
      } catch (problem) {
        mark(state, "bad", "Test did not succeed");
        throw problem;
      }
    }, { class: "quiet", "aria-label": `Test ${name}` }),
    state: (state, one) => {
      if (one.off) mark(state, "warn", "Off: a secret or a file is missing");
      else if (!state.textContent || state.textContent.startsWith("Off")) mark(state, "quiet", mayChange() ? "Not tested" : "");
    },
  });
}

export function queriesCard(signal, changed) {
  return listCard({
    title: "Queries", noun: "query", none: "There is no query yet.", path: "/api/queries", signal, changed, form: queryForm,
    lines: (one) => (one.kind === "points" ? [`Points of ${one.measurement}: ${one.fields.length ? one.fields.join(", ") : "all fields"}`, Object.entries(one.tags).map(([name, value]) => `${name} = ${value}`).join(", ")] : ["A query of one’s own:", one.text]),
    gone: "Exports that were made with it stay.",
  });
}

function listCard({ title, noun, none, path, signal, changed, form, lines, gone, extra, state }) {
  const [line, empty, items] = [outcome(), h("p", { class: "soft" }, none), h("ul", { class: "rows" })];
  const save = (one) => form(one, async (given) => {
    await (one ? change(`${path}/${encodeURIComponent(one.name)}`, given, { signal }) : post(path, given, { signal }));
    await changed();
  });
  const add = mayChange() && does("Add", line, () => save(null), { "aria-label": `Add a ${noun}` });
  const element = card(title, { beside: add }, line, empty, items);

  function row(first) {
    const [tested, own] = [badge("quiet", ""), outcome()];
    let one = first;
    const edit = does("Edit", own, () => save(one), { class: "quiet", "aria-label": `Edit ${first.name}` });
    const drop = does("Delete", own, async () => {
      if (!(await confirms(`Delete the ${noun} ${first.name}?`, "Delete", { detail: gone }))) return;
      await remove(`${path}/${encodeURIComponent(first.name)}`, { signal });
      await changed();
    }, { class: "quiet", "aria-label": `Delete ${first.name}` });
    const [texts, from] = [h("div"), h("p", { class: "hint" })];
    const buttons = h("div", { class: "buttons" }, extra?.(first.name, own, tested), mayChange() && edit, mayChange() && drop);
    const made = h("li", {}, h("div", { class: "beside" }, h("div", { class: "said" }, h("h3", {}, first.name, " ", state && tested), texts, from), buttons), own);
    return Object.assign(made, {
      fill(now) {
        one = now;
        state?.(tested, now);
        const shown = lines(now).filter(Boolean);
        while (texts.children.length > shown.length) texts.lastElementChild.remove();
        shown.forEach((text, at) => put(texts.children[at] ?? texts.appendChild(h("p", { class: at ? "hint" : null })), text));
        put(from, now.read_only ? `From ${now.read_only}: change it there.` : "");
        set(from, "hidden", !now.read_only);
        edit.hidden = drop.hidden = Boolean(now.read_only);
        set(buttons, "hidden", [...buttons.children].every((one) => one.hidden));
      },
    });
  }
  return Object.assign(element, {
    fill(all) {
      empty.hidden = all.length > 0;
      rows(items, all, (one) => one.name, row, (made, one) => made.fill(one), add || undefined);
    },
  });
}

const text = (name, value, attributes = {}) => h("input", { name, value, autocomplete: "off", autocapitalize: "off", spellcheck: "false", ...attributes });

// What is left empty is not sent, so that a secret that was given before stays.
const given = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== "").map(([name, value]) => [name, name === "version" ? Number(value) : value]));

function connectionForm(one, send) {
  const version = select([["1", "1"], ["2", "2"], ["3", "3"]], String(one?.version ?? 2), { name: "version" });
  const secret = (label, name) => field(label, h("input", { name, type: "password", autocomplete: "new-password" }), { hint: one ? "It is not shown. Leave it empty to keep it." : "It is kept on the gateway and never shown again." });
  const parts = [
    [[1, 3], field("Database", text("database", one?.database, { required: true }))],
    [[1], field("Retention policy", text("retention_policy", one?.retention_policy), { hint: "Empty: the database’s own." })],
    [[2], field("Organisation", text("org", one?.org, { required: true }))],
    [[2], field("Bucket", text("bucket", one?.bucket, { required: true }))],
    [[1], field("User", text("username", one?.username), { hint: "With a password, or neither." })],
    [[1], secret("Password", "password")],
    [[2, 3], secret("Token", "token")],
  ];
  // What does not belong to the version is neither seen nor sent.
  const fit = () => {
    for (const [versions, part] of parts) {
      part.hidden = !versions.includes(Number(version.value));
      part.input.disabled = part.hidden;
    }
  };
  version.addEventListener("change", fit);
  fit();
  asks(one ? `Edit ${one.name}` : "Add a connection", [
    field("Name", text("name", one?.name, { required: true, readonly: Boolean(one) })),
    field("Version of InfluxDB", version),
    field("Address", text("url", one?.url, { required: true, type: "url", placeholder: "http://192.0.2.20:8086" })),
    ...parts.map(([, part]) => part),
  ], one ? "Save" : "Add", (values) => send(given(values)));
}

function queryForm(one, send) {
  const kind = select([["points", "Raw points"], ["result", "A query of one’s own"]], one?.kind ?? "points", { name: "kind" });
  const parts = [
    ["points", field("Measurement", text("measurement", one?.measurement, { required: true }))],
    ["points", field("Fields", text("fields", one?.fields?.join(", ")), { hint: "With commas between; empty: all." })],
    ["points", field("Tags", text("tags", Object.entries(one?.tags ?? {}).map(([name, value]) => `${name}=${value}`).join(", ")), { hint: "Such as line=a, hall=2; empty: all points." })],
    ["result", field("Text", h("textarea", { name: "text", rows: 5, required: true, spellcheck: "false" }, one?.text), { hint: "In the language of the connection. $from and $to stand for the period." })],
  ];
  const note = h("p", { class: "soft" });
  const fit = () => {
    for (const [own, part] of parts) {
      part.hidden = own !== kind.value;
      part.input.disabled = part.hidden;
    }
    put(note, kind.value === "points" ? "The same points give the same dataset from every version of InfluxDB." : "Hashed and proven alike, but another version of InfluxDB may answer otherwise.");
  };
  kind.addEventListener("change", fit);
  fit();
  const split = (list) => list.split(",").map((part) => part.trim()).filter(Boolean);
  asks(one ? `Edit ${one.name}` : "Add a query", [
    field("Name", text("name", one?.name, { required: true, readonly: Boolean(one) })),
    field("What it asks", kind), note, ...parts.map(([, part]) => part),
  ], one ? "Save" : "Add", ({ kind: asked, name, measurement, fields, tags, text: own }) => {
    if (asked === "result") return send({ name, text: own });
    const pairs = split(tags).map((pair) => pair.split(/=(.*)/s).slice(0, 2).map((side) => side?.trim()));
    const wrong = pairs.find(([, value]) => !value);
    if (wrong) throw new Error(`Tag “${wrong[0]}” has no value: write it as name=value.`);
    return send({ name, measurement, ...(split(fields).length && { fields: split(fields) }), ...(pairs.length && { tags: Object.fromEntries(pairs) }) });
  });
}
