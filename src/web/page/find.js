// The panel "Find meters": asks the daemon to search a bus, and shows what it tells as it goes on.

const $ = (id) => document.getElementById(id);

const BY = { identity: "says so itself", sunspec: "SunSpec", plausibility: "by its values" };
const FIRST = 120;           // rows that are shown; more are in the config
const COPIED_MS = 3000;

let running = null;          // AbortController of the search under way

// `ask` sends a request with the token and throws what the server says against it; `put` and `list` write to the page.
export function findPanel({ ask, put, list }) {
  const form = $("find-form");
  const say = (text, state = "") => {
    put($("find-state"), text);
    $("find-state").dataset.state = state;
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return running.abort();
    const place = $("find-place").value.trim();
    const kind = place.startsWith("/") ? "serial" : $("find-rtu").checked ? "rtu_over_tcp" : "tcp";
    const order = { [kind]: place, units: $("find-units").value.trim() };
    running = new AbortController();
    const found = [];
    let ended = false;
    put($("find-start"), "Stop");
    form.setAttribute("aria-busy", "true");
    for (const id of ["find-config", "find-table"]) $(id).hidden = true;
    say("Connecting …");
    progress(0, 1);
    try {
      const response = await ask("/api/scan", { method: "POST", body: JSON.stringify(order), signal: running.signal });
      for await (const told of lines(response)) {
        if (told.event === "unit") found.push(told), show(found);
        else if (told.event === "end") ended = true, end(told);
        else if (told.event === "failed") ended = true, say(`${told.why}. ${told.hint}`, "failed");
        else if (told.event === "note") say(`${told.text} …`);
        else if (told.event === "begun") say(`Asking ${describe(told)} …`);
        else if (told.event === "progress") progress(told.asked, told.of, `Unit ${told.unit}: ${told.asked} of ${told.of} asked, ${told.found} found.`);
      }
      if (!ended) say("The search broke off.", "failed");
    } catch (problem) {
      if (running.signal.aborted) say(`Stopped; ${found.length} found so far.`);
      else say(problem.message, "failed");
    }
    running = null;
    put($("find-start"), "Search");
    form.removeAttribute("aria-busy");
    $("find-progress").hidden = true;
  });

  function progress(asked, of, text) {
    const bar = $("find-progress");
    bar.hidden = false;
    bar.max = of;
    bar.value = asked;
    if (text) say(text);
  }

  const describe = ({ tcp, rtu_over_tcp, serial, baud, line }) =>
    `${tcp ?? rtu_over_tcp ?? `${serial} (${baud} Bd)`}${line ? `, between the polls of line ${line}` : ""}`;

  function end(told) {
    const isNew = /^\[\[modbus/m.test(told.config);
    const known = told.found > 0 && !isNew ? ` Nothing to append: ${told.found === 1 ? "it is" : "all of them are"} in the config, or not recognised.` : "";
    say(told.found === 0 ? "No unit answers. Are the unit numbers right, and the meters on?" : `${told.found} found.${known}`, told.found === 0 ? "failed" : "");
    put($("find-text"), told.config);
    $("find-config").hidden = !isNew;
  }

  function show(found) {
    $("find-table").hidden = false;
    list($("find-table").tBodies[0], found.slice(0, FIRST), (row, unit) => {
      const [best, ...others] = unit.candidates;
      put(row.children[0], `${unit.under_any_unit ? "every" : unit.unit}${unit.device ? `, device ${unit.device}` : ""}`);
      const [what, why] = row.children[1].children;
      put(what, best ? [best, ...others].map((candidate) => candidate.title).join(" or ") : "not recognised");
      const known = unit.meter ? `, meter ${unit.meter}` : "";
      put(why, (best ? `${BY[best.by]}: ${best.reason}` : unit.heard.join("; ")) + known);
      put(row.children[2], unit.identity.serial_number ?? "–");
      row.toggleAttribute("data-unknown", !best);
    }, () => {
      const row = document.createElement("tr");
      row.innerHTML = '<th scope="row"></th><td><span></span><span class="why"></span></td><td></td>';
      return row;
    });
  }

  copies($("find-copy"), $("find-text"), put);
}

// Makes `button` copy what stands in `shown`.
export function copies(button, shown, put) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(shown.textContent);
      put(button, "Copied");
      setTimeout(() => put(button, "Copy"), COPIED_MS);
    } catch {
      // Where the browser lets no page copy, the text is marked for the keyboard.
      getSelection().selectAllChildren(shown);
    }
  });
}

// The JSON values of a response of one line each, as they come.
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (text + value).split("\n");
    text = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}
