// The log and what of it stands on a public chain, in words; proofs to take away; and how anybody verifies them. Nothing is asked of
// anybody but the gateway; a link is followed by whoever clicks it.

import { json, mayChange, post } from "./api.js";
import { badge, card, facts, field, h, notice, outward, put, select, set } from "./dom.js";
import { asSet, count, cut, kwh, momentOf, recentOf, timeOf, zoneName } from "./format.js";
import { ago, today } from "./live.js";
import { does, keep, mark, outcome, pager, renew, repeat, rows, sheet, takeaway } from "./pieces.js";

const EVERY_MS = 15000;
const PAGE = 8;     // anchors
const DECIMALS = 4; // of a coin; the rest is at /api/anchor
const STATES = {
  queued: ["quiet", "Queued"],
  signed: ["busy", "Signed"],
  sent: ["busy", "Sent"],
  included: ["busy", "On the chain, not final"],
  final: ["good", "Final"],
  reorganised: ["warn", "Fell off, sent again"],
};
// Why an epoch of the log was begun, as the log says it.
const REASONS = {
  init: "the first one", "key-rotation": "the key was changed", site: "the site has another id", restore: "a backup was restored",
  rollback: "the disk went back in time", clone: "other hardware",
};
const COINS = { 137: "POL", 80002: "POL" };
const coin = (chain) => COINS[chain] ?? "coins";
const entries = (number) => count(number, "entry", "entries");

export async function show(root, parts, signal) {
  const line = outcome();
  const verdict = notice("quiet");
  const [log, account] = [card("The log", {}, h("div")), accountCard()];
  const [anchors, proofs, verify, epochs] = [anchorsCard(signal), proofCard(signal), verifyCard(), epochsCard()];
  const all = h("div", { class: "stack" }, verdict, h("div", { class: "grid two" }, log, account), anchors, proofs, verify, epochs);
  all.hidden = true;
  root.append(h("div", { class: "head" }, h("h1", {}, "Evidence")), line, all);
  let names = new Map();
  const named = json("/api/meters", { signal }).then((meters) => {
    names = new Map(meters.map((meter) => [meter.id, meter.name]));
    proofs.offer(meters);
  }).catch((problem) => { if (!signal.aborted) proofs.fail(problem); });

  async function look() {
    const [told, kept] = await Promise.all([json(`/api/anchor?limit=${PAGE}`, { signal }), json("/log/", { signal }), named]);
    line.say("");
    all.hidden = false;
    const [tone, text] = verdictOn(told);
    set(verdict, "data-tone", tone);
    put(verdict, text);
    renew(log.lastElementChild, [told.log, told.covered, told.next, kept.length], () => logFacts(told, kept, names));
    account.fill(told);
    anchors.fill(told);
    verify.fill(told, kept);
    epochs.fill(kept, told.log?.epoch);
  }
  anchors.again = repeat(() => look().catch((problem) => { if (!signal.aborted) line.fail(problem); }), EVERY_MS, signal);
  await anchors.again();
}

function verdictOn(told) {
  const held = told.waiting ?? told.anchors.find((anchor) => anchor.waiting)?.waiting;
  const stands = standing(told);
  // What stands on the chain stays there, whatever keeps more from getting there.
  const but = (text) => ["warn", stands ? `${text.replace(/[.]?$/, ".")} ${stands}` : text];
  if (told.off) return but(`Nothing${stands ? " new" : ""} is anchored: ${told.off}`);
  if (held) return but(`Anchoring waits since ${recentOf(held.since)}: ${held.text}`);
  if (stands) return ["good", stands];
  if (told.anchors.length > 0) return ["quiet", "The first anchor is on its way: nothing is final yet."];
  if (!told.configured) return ["quiet", "What is sealed is signed by this gateway. It is not anchored on a public chain: the config has no part [anchor]."];
  return ["quiet", told.next ? `The first anchor is due at ${recentOf(told.next)}.` : "Nothing is anchored yet."];
}

// What nobody can change any more; "" where that is nothing.
function standing({ covered, log }) {
  if (!covered) return "";
  // What is configured now may be another chain.
  const chain = covered.chain ?? `chain ${covered.anchor.chain_id}`;
  const whole = log && covered.epoch === log.epoch && covered.size === log.size;
  const until = whole ? "All that the log holds" : covered.until ? `All that was sealed until ${momentOf(covered.until)}` : "A part of the log";
  return `${until} is on ${chain} for good: nobody can change it unnoticed.`;
}

function logFacts({ log, covered, next }, kept, names) {
  const block = covered?.block;
  return facts([
    ["Size", log ? entries(log.size) : "not signed yet"],
    log && ["Newest checkpoint", log.until ? `signs all until ${momentOf(log.until)}` : "signed"],
    covered && ["Final on the chain", covered.epoch === log?.epoch ? `${entries(covered.size)}${covered.until ? `, until ${momentOf(covered.until)}` : ""}` : `${entries(covered.size)} of an earlier epoch`],
    covered && ["By the transaction", covered.anchor.transaction && outward(cut(covered.anchor.transaction), covered.anchor.explorer)],
    block && ["Newest block that is final", `${names.get(block.meter) ?? block.meter}, ${recentOf(block.start)} – ${timeOf(block.end)}`],
    next && ["Next anchor", momentOf(next)],
    ["Epochs", asSet(kept.length)],
  ]);
}

// Who pays for anchors, and the nodes of the chain that are asked.
function accountCard() {
  const [told, nodes] = [h("div"), h("ul", { class: "rows" })];
  const element = card("Account and chain", {}, told, nodes);
  const node = () => h("li", {}, badge("quiet", ""), " ", h("span"));
  return Object.assign(element, {
    fill(anchor) {
      element.hidden = !anchor.account;
      const age = anchor.balance_at && ago(anchor.balance_at);
      renew(told, [anchor.account, anchor.balance, anchor.days_left, anchor.contract, age], () => accountFacts(anchor));
      rows(nodes, anchor.rpcs, (rpc) => rpc.name, node, fillNode);
    },
  });
}

function accountFacts(told) {
  const days = told.days_left === null ? null : `enough for ${count(told.days_left, "day")}`;
  const age = told.balance_at && `asked ${ago(told.balance_at)}`;
  return facts([
    ["Chain", told.chain ?? `chain ${told.chain_id}`],
    ["Balance", told.balance === null ? "not known yet" : [`${short(told.balance)} ${coin(told.chain_id)}`, days, age].filter(Boolean).join(", ")],
    ["Account", h("span", { class: "hash" }, outward(told.account, told.explorer))],
    ["Contract", told.contract ? h("span", { class: "hash" }, told.contract) : "none: anchors are call data"],
  ]);
}

function fillNode(row, rpc) {
  mark(row.firstElementChild, rpc.trouble ? "warn" : rpc.answered ? "good" : "quiet", rpc.trouble ? "In trouble" : rpc.answered ? "Answers" : "Not asked yet");
  put(row.lastElementChild, rpc.trouble ? `${rpc.name}: ${rpc.trouble}` : rpc.height === null ? rpc.name : `${rpc.name}, height ${asSet(rpc.height)}, final ${asSet(rpc.finalized)}`);
}

function anchorsCard(signal) {
  const line = outcome();
  const list = sheet("List of anchors", [{ text: "State", head: true }, { text: "Since", kind: "time" }, "Covers", { text: "Transaction", kind: "time" }, { text: "Fee", number: true }]);
  const none = h("p", { class: "soft" }, "None yet.");
  let [newest, further] = [[], []];
  const draw = () => rows(list.body, [...newest, ...further.filter((one) => one.id < (newest.at(-1)?.id ?? Infinity))], (one) => one.id, make, fillAnchor, older);
  const make = () => {
    const row = list.row();
    row.firstElementChild.append(badge("quiet", ""), h("p", { class: "hint" }));
    row.children[1].append(h("span"), h("p", { class: "hint" }));
    return row;
  };
  const older = pager(PAGE, async () => {
    const got = await json(`/api/anchor?limit=${PAGE}&before=${[...newest, ...further].at(-1).id}`, { signal });
    further.push(...got.anchors);
    draw();
    return got.anchors.length;
  }, line);
  const now = mayChange() && does("Anchor now", line, async () => {
    const made = await post("/api/anchor", undefined, { signal });
    line.say(`Queued: the first ${entries(made.size)} of the log.`, "good");
    await element.again();
  });
  const element = card("Anchors", { beside: now }, line, none, list, older);
  return Object.assign(element, {
    fill(told) {
      if (now) now.hidden = !told.configured || told.off !== null;
      newest = told.anchors;
      element.hidden = !told.configured && newest.length === 0;
      none.hidden = newest.length > 0;
      list.hidden = newest.length === 0;
      if (further.length === 0) older.settle(newest.length);
      draw();
    },
  });
}

function fillAnchor(row, one) {
  const [state, since, covers, transaction, fee] = row.children;
  const [tone, text] = STATES[one.state] ?? ["quiet", one.state];
  mark(state.firstElementChild, one.waiting ? "warn" : tone, text);
  put(state.lastElementChild, one.waiting?.text ?? "");
  put(since.firstElementChild, momentOf(one.since));
  put(since.lastElementChild, ago(one.since));
  put(covers, one.kind === "contract" ? "the contract" : `first ${entries(one.size)}`);
  renew(transaction, [one.transaction, one.explorer], () => [one.transaction ? outward(cut(one.transaction, 6), one.explorer) : "–"]);
  put(fee, one.fee === null ? "–" : `${short(one.fee)} ${coin(one.chain_id)}`);
}

// A proof of one block, or of a period, of one meter, as a file.
function proofCard(signal) {
  const line = outcome();
  const [meter, block] = [select([], ""), select([], "", { required: true })];
  const kind = select([["block", "One block"], ["period", "A period"]], "block");
  const [day, from, to] = [0, 1, 2].map(() => h("input", { type: "date", required: true }));
  for (const input of [day, from, to]) input.value = input.max = today();
  const ofBlock = [field("Day", day), field("Block", block)];
  const ofPeriod = [field("First day", from), field("Last day", to, { hint: "That day is in it. A long period makes a large file." })];
  const get = h("button", { "data-tone": "main" }, "Download the proof");
  const form = h("form", { class: "fields", onsubmit: send }, field("Meter", meter), field("What", kind), ofBlock, ofPeriod, h("div", { class: "buttons" }, get));
  const element = card("A proof to take away", {}, h("p", { class: "soft" }, `It shows to anybody what this gateway recorded, without asking it again. Days are those of the site (${zoneName()}). Whoever has the file can read the records in it.`), form, line);
  let asked = 0;

  async function look() {
    const own = ++asked;
    const one = kind.value === "block";
    for (const part of ofBlock) part.hidden = part.input.disabled = !one;
    for (const part of ofPeriod) part.hidden = part.input.disabled = one;
    for (const input of [day, from, to]) input.max = today();
    line.say("");
    if (!one || !meter.value || !day.value) return;
    try {
      const sealed = await json(`/api/meters/${encodeURIComponent(meter.value)}/blocks?from=${day.value}&to=${after(day.value)}`, { signal });
      if (own !== asked) return;
      block.replaceChildren(...sealed.reverse().map((of) => h("option", { value: of.start }, `${timeOf(of.start)} – ${timeOf(of.end)}, ${of.kwh === null ? "no readings" : kwh(of.kwh)}`)));
      if (sealed.length === 0) line.say("No block of this meter is sealed of that day.", "quiet");
    } catch (problem) {
      if (!signal.aborted) line.fail(problem);
    }
  }
  for (const input of [meter, kind, day]) input.addEventListener("change", look);

  async function send(event) {
    event.preventDefault();
    if (get.disabled) return;
    const what = kind.value === "block" ? `block=${encodeURIComponent(block.value)}` : `from=${from.value}&to=${after(to.value)}`;
    line.say("The proof is made…", "quiet");
    get.disabled = true;
    try {
      await keep(`/api/proof?meter=${encodeURIComponent(meter.value)}&${what}`, `${meter.value}.proof.json`, signal);
      line.say("Downloaded.", "good");
    } catch (problem) {
      if (!signal.aborted) line.fail(problem);
    } finally {
      get.disabled = false;
    }
  }
  return Object.assign(element, {
    offer(meters) {
      element.hidden = meters.length === 0;
      meter.replaceChildren(...meters.map((one) => h("option", { value: one.id }, one.name)));
      look();
    },
    fail: line.fail,
  });
}

// The day after: a range ends before its end.
function after(day) {
  const next = new Date(`${day}T00:00:00Z`);
  if (Number.isNaN(next.getTime())) return day;
  next.setUTCDate(next.getUTCDate() + 1);
  return next.toISOString().slice(0, 10);
}

// The commands that verify what comes from here, with this gateway's key and account in them.
function verifyCard() {
  const box = h("div", { class: "stack" });
  return Object.assign(card("How to verify", {}, box), {
    fill(told, kept) {
      const newest = kept.at(-1);
      const { account, contract, chain_id: chain } = told;
      renew(box, [newest?.key, kept.length > 1, account, contract, chain], () => {
        if (!newest) return h("p", {}, "The log has no key yet.");
        const pinned = account ? ` --chain ${chain} --account ${account}${contract ? ` --contract ${contract}` : ""}` : "";
        const verify = `FILE --key '${newest.key}'${pinned}`;
        const way = (text, command, label) => h("div", {}, h("p", {}, text), takeaway(command, label));
        return [
          h("p", { class: "soft" }, "Anybody can do this, without this gateway. The answer names each link of the chain."),
          way("A proof, or the bundle of an export with its proof beside it:", `meterseal verify ${verify}`, "Command that verifies a proof"),
          account && way("The same, asking nodes of the chain whether the block of the anchor is theirs. Ask two that do not belong together:", `meterseal verify ${verify} --rpc https://NODE-A --rpc https://NODE-B`, "Command that verifies a proof with nodes of the chain"),
          way("The same without meterseal, by the Python script verify.py. It lies in /usr/share/meterseal of a gateway; who trusts none takes it from meterseal’s source, where it lies in tools:", `python3 verify.py ${verify}`, "Command that verifies a proof in Python"),
          way("Whether the key is this gateway’s, asked on the gateway itself. Keep it with the commissioning papers:", "meterseal key show", "Command that shows the key"),
          kept.length > 1 && h("p", { class: "soft" }, "What was sealed in an earlier epoch is checked with the key of that epoch, below."),
        ];
      });
    },
  });
}

function epochsCard() {
  const list = sheet("Epochs of the log", [{ text: "Epoch", head: true, kind: "hash" }, { text: "Begun", kind: "time" }, { text: "Entries", number: true }, "Why", { text: "Verifier key", all: true, kind: "hash" }]);
  const why = "The log begins anew when its key is changed, or when the store went back in time or lies on other hardware. Older epochs prove what they proved.";
  return Object.assign(card("Epochs", {}, h("p", { class: "soft" }, why), list), {
    fill(kept, current) {
      rows(list.body, [...kept].reverse(), (one) => one.epoch, list.row, (row, one) => {
        const texts = [one.epoch, momentOf(one.opened), one.size === null ? "not signed yet" : asSet(one.size), REASONS[one.reason] ?? one.reason, one.key];
        texts.forEach((text, at) => put(row.children[at], text));
        set(row, "data-current", one.epoch === current);
      });
    },
  });
}

// An amount that is a text, cut and not rounded: what is shown is there.
function short(amount) {
  const [whole, part = ""] = amount.split(".");
  const shown = part.slice(0, DECIMALS).replace(/0+$/, "");
  if (whole === "0" && shown === "" && part !== "") return "less than 0.0001";
  return shown ? `${whole}.${shown}` : whole;
}
