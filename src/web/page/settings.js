// Settings: who may come in, with what; what was done; the config; and what this gateway is.

import { json, mayChange } from "./api.js";
import { card, facts, h, notice } from "./dom.js";
import { bytes, momentOf, span } from "./format.js";
import { now } from "./live.js";
import { accessPart } from "./settings-access.js";
import { auditPart } from "./settings-audit.js";
import { configPart } from "./settings-config.js";
import { tokensPart } from "./settings-tokens.js";
import { does, keep, outcome, takeaway } from "./pieces.js";

// The key is in the address; a viewer sees those that are for him.
const PARTS = [
  { key: "access", name: "Sign-in", show: accessPart, admin: true },
  { key: "tokens", name: "Tokens", show: tokensPart, admin: true },
  { key: "audit", name: "Audit", show: auditPart, admin: true },
  { key: "config", name: "Config", show: configPart, admin: true },
  { key: "about", name: "About", show: aboutPart },
];

const SIZES = { raw_bytes: "Readings", evidence_bytes: "Blocks and log", free_bytes: "Free on the disk", written_bytes: "Written since start" };

export async function show(root, parts, signal) {
  const mine = PARTS.filter((part) => mayChange() || !part.admin);
  const chosen = mine.find((part) => part.key === parts[0]) ?? mine[0];
  const line = outcome();
  const body = h("div", { class: "stack" });
  const links = mine.map((part) => h("li", {}, h("a", { href: `#/settings/${part.key}`, "aria-current": part === chosen ? "page" : null }, part.name)));
  root.append(h("div", { class: "head" }, h("h1", {}, "Settings")));
  if (mine.length > 1) root.append(h("nav", { class: "tabs", "aria-label": "Settings" }, h("ul", {}, links)));
  root.append(line, body);
  try {
    await chosen.show(body, signal);
  } catch (problem) {
    if (!signal.aborted) line.fail(problem);
  }
}

const SOON_MS = 30 * 86400000;
function certificateFacts({ certificate }) {
  if (!certificate) return "";
  const { self_signed: isOwn, names, until, problem } = certificate;
  const left = until ? Date.parse(until) - now() : null;
  const ends = left === null ? "" : left < 0 ? `It ended ${momentOf(until)}: browsers refuse it.` : left < SOON_MS ? `It ends in ${span(left)}: put a new one in its place.` : "";
  return [
    facts([["Made by", isOwn ? "this gateway itself" : "somebody else"], ["For the names", names.length === 0 ? "" : h("span", { class: "names" }, names.join(", "))], ["Valid until", until && momentOf(until)]]),
    (problem || ends) && notice(left !== null && left < 0 ? "bad" : "warn", problem ?? ends),
  ];
}

async function aboutPart(body, signal) {
  const about = await json("/api/about", { signal });
  const line = outcome();
  const print = about.fingerprint && takeaway(about.fingerprint, "Fingerprint of the certificate");
  const support = mayChange() && card("Support bundle", {},
    h("p", { class: "soft" }, "For whoever helps you: the config without its secrets, how meters, upstreams and the store do, the last alerts and the newest lines of the log. No secret and no reading is in it."),
    h("div", { class: "buttons" }, does("Download the support bundle", line, async () => {
      await keep("/api/support", "meterseal-support.tar.gz", signal);
      line.say("Downloaded.", "good");
    })), line);
  body.append(...[
    card("This gateway", {}, facts([
      ["Version", about.version],
      ["Site", about.site.name && about.site.name !== about.site.id ? `${about.site.name} (${about.site.id})` : about.site.id],
      ["Runs since", `${momentOf(about.started)}, ${span(about.uptime_s * 1000)}`],
      ["Gateway", h("span", { class: "hash" }, about.gateway)],
      ["Epoch of the log", h("span", { class: "hash" }, about.epoch)],
    ])),
    card("Store", {}, facts(Object.entries(SIZES).map(([key, name]) => [name, bytes(about.store[key])]))),
    card("Certificate", {}, about.fingerprint
      ? [certificateFacts(about), h("p", {}, "Compare this with what your browser shows of the certificate before you type a PIN on another device."), print]
      : h("p", {}, "This address has no certificate: only this machine reaches it.")),
    support,
    card("Licences", {}, h("p", {}, "meterseal is made with the work of others: ", h("a", { href: about.licences, target: "_blank", rel: "noopener" }, "their licences"), ".")),
  ].filter(Boolean));
}
