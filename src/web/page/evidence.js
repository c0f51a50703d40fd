// The card "Evidence": what of the log, and which exports, stand on a public chain, in words. Nothing is asked of anybody but the gateway;
// a link is followed by whoever clicks it.

const $ = (id) => document.getElementById(id);

const SHOWN = 5;            // anchors, and exports
const ASKED = 50;           // exports, of which some may not be done
const DECIMALS = 4;         // of a coin; the rest is at /api/anchor
const STATES = {
  queued: "Waits to be signed",
  signed: "Signed, and on its way",
  sent: "Sent, and not on the chain yet",
  included: "On the chain, and not final yet",
  final: "Final on the chain",
  reorganised: "Fell off the chain, and is sent again",
};
// The same of an export, which is not the anchor itself.
const COVERED = {
  queued: "Its anchor waits to be signed",
  signed: "Its anchor is signed, and on its way",
  sent: "Its anchor is sent, and not on the chain yet",
  included: "On the chain, and not final yet",
  final: "Final on the chain",
  reorganised: "Its anchor fell off the chain, and is sent again",
};
const COINS = { 137: "POL", 80002: "POL" };

let told = null;            // the last answer, and the newest exports that are done
let drawn = "";

// `ask` sends a request with the token; `put` and `list` write to the page; `clock` and `meterName` write for this plant.
export function evidenceCard({ ask, put, list, clock, meterName }) {
  const day = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };
  const at = (time) => clock(time, day);
  const count = (entries) => `${entries.toLocaleString("en")} ${entries === 1 ? "entry" : "entries"}`;

  async function refresh() {
    try {
      const paths = [`/api/anchor?limit=${SHOWN}`, `/api/bulk?limit=${ASKED}`];
      const [anchors, exports] = await Promise.all(paths.map(async (path) => (await ask(path)).json()));
      told = { ...anchors, exports: exports.filter((one) => one.state === "done").slice(0, SHOWN) };
    } catch {
      return; // what is shown stays; that nothing arrives is told elsewhere
    }
    draw();
  }

  function draw() {
    if (!told) return;
    const key = JSON.stringify(told);
    if (key === drawn) return;
    drawn = key;
    const [state, text] = verdict();
    $("evidence-verdict").dataset.state = state;
    put($("evidence-verdict"), text);
    put($("evidence-chain"), told.chain ?? (told.chain_id === null ? "" : `chain ${told.chain_id}`));
    const facts = figures();
    list($("evidence-figures"), facts, (item, [name, text, link]) => {
      item.toggleAttribute("data-wide", name === "Account");
      put(item.children[0], name);
      place(item.children[1], text, link);
    }, () => {
      const item = document.createElement("div");
      item.append(document.createElement("dt"), document.createElement("dd"));
      return item;
    });
    $("evidence-anchors").hidden = told.anchors.length === 0;
    list($("evidence-list"), told.anchors, anchor, () => {
      const item = document.createElement("li");
      item.innerHTML = '<span class="now"></span><span class="when"></span><span class="what"></span><span class="link"></span><span class="why"></span>';
      return item;
    });
    $("evidence-exports").hidden = told.exports.length === 0;
    list($("evidence-exports-list"), told.exports, dataset, () => {
      const item = document.createElement("li");
      item.innerHTML = '<span class="now"></span><span class="when"></span><span class="what"></span><span class="link"></span>';
      return item;
    });
    const troubled = told.rpcs.filter((rpc) => rpc.trouble);
    list($("evidence-nodes"), troubled, (item, rpc) => put(item, `${rpc.name}: ${rpc.trouble}`));
  }

  const waiting = () => told.waiting ?? told.anchors.find((anchor) => anchor.waiting)?.waiting;

  function verdict() {
    if (told.off) return ["old", `Nothing is anchored: ${told.off}`];
    if (waiting()) return ["old", `Anchoring waits since ${at(waiting().since)}: ${waiting().text}`];
    const covered = told.covered;
    if (covered) {
      // What is configured now may be another chain.
      const chain = covered.chain ?? `chain ${covered.anchor.chain_id}`;
      const all = told.log && covered.epoch === told.log.epoch && covered.size === told.log.size;
      const until = all ? "All that the log holds" : covered.until ? `All that was sealed until ${at(covered.until)}` : "A part of the log";
      return ["within", `${until} is on ${chain} for good: nobody can change it unnoticed.`];
    }
    if (told.anchors.length > 0) return ["none", "The first anchor is on its way: nothing is final yet."];
    if (!told.configured) return ["none", "What is sealed is signed by this gateway. It is not anchored on a public chain: the config has no part [anchor]."];
    return ["none", told.next ? `The first anchor is due at ${at(told.next)}.` : "Nothing is anchored yet."];
  }

  // Each a name, a text and perhaps a link.
  function figures() {
    const { log, covered, balance } = told;
    const block = covered?.block;
    const coin = COINS[told.chain_id] ?? "coins";
    const days = told.days_left === null ? "" : `, enough for ${told.days_left.toLocaleString("en")} ${told.days_left === 1 ? "day" : "days"}`;
    return [
      ["Log", log ? `${count(log.size)}${log.until ? `, signed until ${at(log.until)}` : ""}` : "not signed yet"],
      covered && ["Of these final", covered.epoch === log?.epoch ? count(covered.size) : `none; ${count(covered.size)} of an earlier epoch`],
      block && ["Newest block that is final", `${meterName(block.meter)}, ${at(block.start)} – ${clock(block.end)}`],
      told.next && ["Next anchor", at(told.next)],
      balance !== null && ["Balance", `${short(balance)} ${coin}${days}`],
      told.account && ["Account", told.account, told.explorer],
    ].filter(Boolean);
  }

  function anchor(item, one) {
    const [now, when, what, link, why] = item.children;
    item.dataset.state = one.state;
    item.toggleAttribute("data-waiting", one.waiting !== null);
    put(now, STATES[one.state] ?? one.state);
    put(when, `since ${at(one.since)}`);
    const fee = one.fee === null ? "" : `, for ${short(one.fee)} ${COINS[one.chain_id] ?? "coins"}`;
    put(what, `${one.kind === "contract" ? "The contract" : `The first ${count(one.size)}`}${fee}`);
    place(link, one.transaction ? `Transaction ${cut(one.transaction)}` : "", one.explorer);
    // What is said above is not said again.
    put(why, one.waiting && one.waiting.text !== waiting()?.text ? one.waiting.text : "");
  }

  function dataset(item, one) {
    const [now, when, what, link] = item.children;
    const { anchor } = one;
    item.dataset.state = anchor?.state ?? "none";
    put(now, `${one.query.name} from ${one.connection}`);
    put(when, anchor ? COVERED[anchor.state] ?? anchor.state : told.configured ? "In no anchor yet" : "In no anchor");
    // An export may be of years ago.
    const of = (time) => clock(time, { ...day, year: "numeric" });
    put(what, `${of(one.from)} – ${of(one.to)}, ${one.rows.toLocaleString("en")} ${one.rows === 1 ? "row" : "rows"}`);
    const chain = anchor ? anchor.chain ?? `chain ${anchor.chain_id}` : "";
    place(link, anchor?.transaction ? `${chain}, transaction ${cut(anchor.transaction)}` : chain, anchor?.explorer);
  }

  // A text, and where there is one, a link to a page of somebody else.
  function place(element, text, link) {
    const href = link?.startsWith("https://") ? link : null;
    let inner = element.querySelector("a");
    if (!href) {
      inner?.remove();
      put(element, text);
      return;
    }
    if (!inner) {
      inner = document.createElement("a");
      inner.target = "_blank";
      inner.rel = "noopener noreferrer";
      element.replaceChildren(inner);
    }
    if (inner.href !== href) inner.href = href;
    put(inner, text);
    inner.title = `Opens ${new URL(href).hostname}`;
  }

  return { refresh, place };
}

const cut = (hash) => `${hash.slice(0, 8)}…${hash.slice(-6)}`;

// An amount that is a text, cut and not rounded: what is shown is there.
function short(amount) {
  const [whole, part = ""] = amount.split(".");
  const shown = part.slice(0, DECIMALS).replace(/0+$/, "");
  if (whole === "0" && shown === "" && part !== "") return "less than 0.0001";
  return shown ? `${whole}.${shown}` : whole;
}
