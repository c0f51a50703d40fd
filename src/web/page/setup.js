// First run: the one-time code and a PIN, time zone and clock, a search for meters, and the first reading.

import { post, session } from "./api.js";
import { gateway, signedIn } from "./app.js";
import { badge, card, code, facts, field, h, list, put, set } from "./dom.js";
import { kw, secondOf, span, weekdayOf, zoneName } from "./format.js";
import { search } from "./find.js";
import { ageOf, isStale, live, now, refresh, watch } from "./live.js";
import { lock } from "./sign-in.js";

const STEPS = ["PIN", "Clock", "Meters", "First reading"];

export async function show(root, [step], signal) {
  if (!session) {
    if (gateway && !gateway.needed) return location.replace("#/sign-in");
    return pin(frame(root, 0), signal);
  }
  if (step === "meters") return meters(frame(root, 2), signal);
  if (step === "reading") return reading(frame(root, 3), signal);
  return clock(frame(root, 1), signal);
}

function frame(root, at) {
  const items = STEPS.map((name, number) => h("li", { "aria-current": number === at ? "step" : null, "data-done": number < at }, h("span", {}, name)));
  const box = h("div");
  root.append(h("div", { class: "head" }, h("h1", {}, "First run")), h("ol", { class: "steps", "aria-label": "Steps" }, items), box);
  return box;
}

const further = (text, hash, tone = "main") => h("a", { class: "button", href: hash, "data-tone": tone }, text);

// --- 1: the first PIN, by the code that only who is at the gateway can read ---

function pin(box, signal) {
  const digits = { type: "password", inputmode: "numeric", autocomplete: "new-password", maxlength: "12", spellcheck: "false" };
  const given = field("Set-up code", h("input", { autocomplete: "off", autocapitalize: "characters", spellcheck: "false", class: "mono" }), { hint: "Shown on the gateway’s console and in its journal." });
  const first = field("New PIN of the administrator", h("input", digits), { hint: "6 to 12 digits." });
  const second = field("The same PIN again", h("input", digits));
  const told = h("p", { class: "fault", role: "alert" });
  const go = h("button", { "data-tone": "main" }, "Set the PIN");
  box.append(card("Take over the gateway", { class: "narrow" },
    h("p", {}, `No PIN is set on ${gateway?.site ? `the gateway of ${gateway.site}` : "this gateway"} yet. Whoever can read its console sets the first one.`),
    h("details", { class: "fold" }, h("summary", {}, "Where is the code?"), h("p", {}, "On the gateway, or over SSH:"), code("sudo journalctl -u meterseal -g 'set-up code' -n 1", "Command that shows the code"), h("p", { class: "soft" }, "Or set a PIN there at once:"), code("sudo -u meterseal meterseal pin set", "Command that sets a PIN")),
    h("form", { onsubmit: send, novalidate: true }, given, first, second, told, h("div", { class: "buttons" }, go))));
  given.input.focus();

  async function send(event) {
    event.preventDefault();
    if (go.disabled || go.getAttribute("aria-busy")) return;
    put(told, "");
    const wanted = first.input.value;
    given.say(given.input.value.trim() ? "" : "Enter the code.");
    first.say(/^\d{6,12}$/.test(wanted) ? "" : "A PIN has 6 to 12 digits.");
    second.say(second.input.value === wanted ? "" : "The two PINs differ.");
    const wrong = [given, first, second].find((one) => one.input.getAttribute("aria-invalid"));
    if (wrong) return wrong.input.focus();
    set(go, "aria-busy", "true");
    try {
      await signedIn(await post("/api/setup", { code: given.input.value.trim(), pin: wanted }, { about: "session", signal }), "#/setup/clock");
    } catch (problem) {
      if (signal.aborted) return;
      if (problem.status === 429) lock(problem.retryAfter ?? 30, [go], told, signal);
      else if (problem.status === 401) given.say("This code is wrong. Read it again: each one serves once."), given.input.focus();
      else if (problem.status === 409) put(told, "A PIN has been set meanwhile: sign in with it.");
      else put(told, problem.message);
    } finally {
      set(go, "aria-busy", null);
    }
  }
}

// --- 2: zone and clock, as the gateway has them ---

function clock(box, signal) {
  const [zone, time, state] = [h("span"), h("span"), h("span")];
  const wrong = h("div", {});
  box.append(card("Time zone and clock", { class: "narrow" },
    h("p", {}, "Blocks, peak hours and days go by this zone; blocks are sealed by this clock."),
    facts([["Time zone", zone], ["Time there", time], ["Clock", state]]), wrong,
    h("details", { class: "fold" }, h("summary", {}, "The zone is another one"), h("p", {}, "It is set in the config, under [site]:"), code('timezone = "Asia/Kuala_Lumpur"', "Line of the config"), h("p", {}, "Then, on the gateway:"), code("sudo systemctl reload meterseal", "Command that loads the config")),
    h("div", { class: "buttons" }, further("Both are right", "#/setup/meters"))));
  watch(draw, signal);
  function draw() {
    if (!live.plant) return;
    put(zone, zoneName());
    put(time, `${weekdayOf(now())}, ${secondOf(now())}`);
    const known = live.health?.clock;
    state.replaceChildren(known === "synchronised" ? badge("good", "synchronised") : badge("warn", "not synchronised"));
    const off = Math.abs(now() - Date.now());
    const text = [
      known === "synchronised" ? "" : "No time server has set this clock yet. Until one does, blocks wait up to five minutes after a start and then bear a flag. `timedatectl` on the gateway says more.",
      off > 60000 ? `This device’s clock differs from the gateway’s by ${span(off)}: one of them is wrong.` : "",
    ].filter(Boolean).join(" ");
    wrong.hidden = text === "";
    set(wrong, "class", "notice");
    set(wrong, "data-tone", "warn");
    put(wrong, text.replaceAll("`", ""));
  }
}

// --- 3: meters ---

function meters(box, signal) {
  const there = h("p");
  box.append(card("Find meters", {},
    h("p", {}, "Asks every unit of a gateway or of a serial port what it is. It only reads, one request at a time."), there,
    search(signal, () => (location.hash = "#/setup/reading")),
    h("p", { class: "soft" }, "Meters that speak over MQTT are found by themselves once their broker is in the config."),
    h("div", { class: "buttons" }, further("Go on", "#/setup/reading", ""))));
  watch(() => {
    const count = live.plant?.all_meters.filter((meter) => meter.kind !== "sum").length ?? 0;
    there.hidden = count === 0;
    put(there, count === 1 ? "One meter is in the config already." : `${count} meters are in the config already.`);
  }, signal);
}

// --- 4: the first reading ---

function reading(box, signal) {
  const state = h("p", { role: "status", class: "first-reading" });
  const rows = h("ul", { class: "plain" });
  box.append(card("First reading", {}, state, rows,
    h("div", { class: "buttons" }, further("See the plant", "#/now"), further("Back to the search", "#/setup/meters", ""))));
  const timer = setInterval(refresh, 5000);
  signal.addEventListener("abort", () => clearInterval(timer));
  watch(draw, signal);
  function draw() {
    if (!live.plant) return;
    const asked = live.plant.all_meters.filter((meter) => meter.kind !== "sum");
    const seen = asked.filter((meter) => ageOf(meter) !== null);
    put(state, asked.length === 0 ? "No meter is in the config yet." : seen.length === 0 ? "Waiting for the first reading …" : `${seen.length} of ${asked.length} ${asked.length === 1 ? "meter" : "meters"} read.`);
    const text = asked.slice(0, 30).map((meter) => {
      const age = ageOf(meter);
      if (age === null) return `${meter.name}: ${meter.problem ?? "nothing yet"}`;
      return `${meter.name}: ${kw(meter.power_kw)}, ${isStale(meter) ? `${span(age)} old` : `read at ${secondOf(now() - age)}`}`;
    });
    list(rows, text, put);
  }
}
