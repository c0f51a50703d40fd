// Tokens of programs: made with a scope, shown once, revoked.

import { json, post, remove } from "./api.js";
import { card, field, h, put, select } from "./dom.js";
import { momentOf } from "./format.js";
import { asks, confirms, does, outcome, repeat, rows, shownOnce } from "./pieces.js";

const EVERY_MS = 30000;
const SCOPES = { read: "Reads meters, blocks and evidence", ingest: "Sends readings", export: "Orders and downloads exports", admin: "Everything" };

export async function tokensPart(body, signal) {
  const [line, items] = [outcome(), h("ul", { class: "rows" })];
  const none = h("p", { class: "soft" }, "There is none.");
  const add = does("New token", line, () => asks("New token", [
    field("Name", h("input", { name: "name", required: true, maxlength: 64, autocomplete: "off" }), { hint: "Of the program or person that gets it: it stands in the audit log." }),
    field("May", select(Object.entries(SCOPES).map(([scope, what]) => [scope, `${scope}: ${what}`]), "read", { name: "scope" })),
  ], "Make the token", async (values) => {
    const made = await post("/api/tokens", values, { signal });
    await look();
    shownOnce(`Token ${made.name}`, "It is shown this once. Whoever has it may do what its scope says, until it is revoked.", made.token);
  }));
  const make = (first) => {
    const used = h("p", { class: "hint" });
    const revoke = does("Revoke", line, async () => {
      if (!(await confirms(`Revoke the token ${first.name}?`, "Revoke", { detail: "Programs that use it are refused from now on. It cannot be had back." }))) return;
      await remove(`/api/tokens/${encodeURIComponent(first.id)}`, { signal });
      line.say(`The token ${first.name} is revoked.`, "good");
      await look();
    }, { class: "quiet", "aria-label": `Revoke ${first.name}` });
    return Object.assign(h("li", {}, h("div", { class: "beside" }, h("div", { class: "said" }, h("h3", {}, first.name), h("p", {}, `${first.scope}: ${SCOPES[first.scope] ?? ""}`), used), revoke)), { used });
  };
  async function look() {
    try {
      const tokens = await json("/api/tokens", { signal });
      none.hidden = tokens.length > 0;
      rows(items, tokens, (one) => one.id, make, (row, one) => {
        const by = one.by ? ` by ${one.by}` : "";
        put(row.used, `Made ${momentOf(one.created)}${by}, ${one.last_used ? `last used ${momentOf(one.last_used)}` : "never used"}`);
      }, add);
    } catch (problem) {
      if (!signal.aborted) line.fail(problem);
    }
  }
  body.append(card("Tokens of programs", { beside: add }, h("p", { class: "soft" }, "A program sends its token as ", h("code", {}, "Authorization: Bearer …"), "; a person signs in with a PIN."), line, none, items));
  await repeat(look, EVERY_MS, signal)();
}
