// Sign in: the PIN by pad or keyboard, a code of the authenticator where one is asked for, and the count-down of a lock-out.

import { post } from "./api.js";
import { gateway, signedIn, whyEnded } from "./app.js";
import { announce, h, notice, put, set } from "./dom.js";
import { countdown, left } from "./format.js";

const TOTP = "urn:meterseal:totp-required";
const DIGITS = /^\d{6,12}$/;

export async function show(root, parts, signal) {
  if (gateway?.needed) return location.replace("#/setup");
  const box = h("section", { class: "card sign-in-card", "aria-labelledby": "sign-in-title" });
  root.append(box);
  askPin(box, signal, whyEnded());
}

// The first step. `why` is what led here.
function askPin(box, signal, why = "") {
  const input = h("input", {
    id: "pin", type: "password", inputmode: "none", autocomplete: "current-password", spellcheck: "false", maxlength: "12",
    "aria-describedby": "pin-told", oninput: written,
  });
  const told = h("p", { id: "pin-told", class: "fault", role: "alert" });
  const go = h("button", { "data-tone": "main" }, "Sign in");
  const form = h("form", { onsubmit: send, novalidate: true },
    h("div", { class: "field" }, h("label", { for: "pin" }, "PIN"), input),
    pad(press), told, go);
  box.replaceChildren(h("h1", { id: "sign-in-title" }, "Sign in"), why && notice("warn", h("p", {}, why)) || "", form, h("p", { class: "hint" }, "No PIN yet, or forgotten? On the gateway: ", h("code", {}, "sudo -u meterseal meterseal pin set")));
  input.focus();
  // Digits count wherever the focus is, but in a field; a button keeps its own Enter.
  document.addEventListener("keydown", (event) => {
    if (!box.contains(form) || event.target.closest("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^\d$/.test(event.key)) press(event.key);
    else if (event.key === "Backspace") press("back");
    else if (event.key === "Enter" && !event.target.closest("button, a, summary")) form.requestSubmit();
  }, { signal });

  function press(key) {
    if (input.disabled) return;
    input.value = key === "back" ? input.value.slice(0, -1) : (input.value + key).slice(0, 12);
    written();
  }

  function written() {
    put(told, "");
    set(input, "aria-invalid", null);
  }

  function refuse(text) {
    put(told, text);
    set(input, "aria-invalid", "true");
    input.value = "";
    input.focus();
  }

  async function send(event) {
    event.preventDefault();
    const pin = input.value;
    if (input.disabled || go.getAttribute("aria-busy")) return;
    if (!DIGITS.test(pin)) {
      put(told, "A PIN has 6 to 12 digits.");
      return input.focus();
    }
    set(go, "aria-busy", "true");
    try {
      await signedIn(await post("/api/session", { pin }, { about: "session", signal }));
    } catch (problem) {
      if (signal.aborted) return;
      if (problem.type === TOTP) return askCode(box, signal, pin);
      if (problem.status === 429) lock(problem.retryAfter ?? 30, [input, go, ...form.querySelectorAll(".pad button")], told, signal, () => input.focus());
      else refuse(problem.status === 401 ? "This PIN is wrong." : problem.message);
      if (problem.status === 429) input.value = "";
    } finally {
      set(go, "aria-busy", null);
    }
  }
}

// The second step: a code of the authenticator, or a recovery code.
function askCode(box, signal, pin) {
  let recovery = false;
  const input = h("input", { id: "code", autocomplete: "one-time-code", spellcheck: "false", autocapitalize: "off", "aria-describedby": "code-told", oninput: () => { put(told, ""); set(input, "aria-invalid", null); } });
  const label = h("label", { for: "code" });
  const told = h("p", { id: "code-told", class: "fault", role: "alert" });
  const go = h("button", { "data-tone": "main" }, "Sign in");
  const other = h("button", { type: "button", class: "quiet", onclick: () => ask(!recovery) });
  const back = h("button", { type: "button", class: "quiet", onclick: () => askPin(box, signal) }, "Back to the PIN");
  box.replaceChildren(h("h1", { id: "sign-in-title" }, "One more code"), h("form", { onsubmit: send, novalidate: true }, h("div", { class: "field" }, label, input), told, go), h("div", { class: "buttons" }, other, back));
  ask(false);
  announce("The PIN is right. A code is asked for as well.");

  function ask(wanted) {
    recovery = wanted;
    put(label, recovery ? "Recovery code" : "Code from your authenticator app");
    put(other, recovery ? "Use the authenticator app" : "Use a recovery code");
    set(input, "inputmode", recovery ? "text" : "numeric");
    set(input, "maxlength", recovery ? "40" : "7");
    input.value = "";
    input.focus();
  }

  async function send(event) {
    event.preventDefault();
    const given = input.value.replace(/\s/g, "");
    if (go.disabled || go.getAttribute("aria-busy")) return;
    if (recovery ? given === "" : !/^\d{6}$/.test(given)) {
      put(told, recovery ? "Enter one of the ten codes you were given." : "The code has 6 digits.");
      return input.focus();
    }
    set(go, "aria-busy", "true");
    try {
      await signedIn(await post("/api/session", { pin, [recovery ? "recovery" : "totp"]: given }, { about: "session", signal }));
    } catch (problem) {
      if (signal.aborted) return;
      input.value = "";
      if (problem.status === 429) return lock(problem.retryAfter ?? 30, [input, go], told, signal, () => input.focus());
      put(told, problem.status === 401 ? "This code is wrong, or used already. Wait for the next one." : problem.message);
      set(input, "aria-invalid", "true");
      input.focus();
    } finally {
      set(go, "aria-busy", null);
    }
  }
}

// Nothing can be entered until the time is over. It is read out once, and counted down for the eye.
export function lock(seconds, controls, told, signal, over = () => {}) {
  const until = Date.now() + seconds * 1000;
  for (const control of controls) control.disabled = true;
  put(told, "");
  const shown = h("span", { "aria-hidden": "true" });
  told.replaceChildren(h("span", { class: "unseen" }, `Too many wrong tries. Try again in ${left(seconds * 1000)}.`), shown);
  const timer = setInterval(tick, 250);
  signal.addEventListener("abort", () => clearInterval(timer));
  tick();
  function tick() {
    const rest = (until - Date.now()) / 1000;
    put(shown, `Too many wrong tries. Try again in ${countdown(rest)}.`);
    if (rest > 0) return;
    clearInterval(timer);
    for (const control of controls) control.disabled = false;
    put(told, "");
    announce("You can try again.");
    over();
  }
}

// The keys of the pad; `press` takes a digit or "back".
export function pad(press) {
  const key = (name, text, label) => h("button", { type: "button", "aria-label": label, onclick: () => press(name) }, text);
  const digits = [1, 2, 3, 4, 5, 6, 7, 8, 9].map((digit) => key(String(digit), String(digit)));
  return h("div", { class: "pad", role: "group", "aria-label": "Digits" }, digits, h("span"), key("0", "0"), key("back", "←", "Delete the last digit"));
}
