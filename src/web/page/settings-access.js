// The PINs, the second factor, and who is signed in.

import { change, json, post, remove, session } from "./api.js";
import { badge, card, facts, field, h, put, set } from "./dom.js";
import { count, momentOf, recentOf, span } from "./format.js";
import { ago } from "./live.js";
import { asks, confirms, does, mark, outcome, renew, repeat, rows, shownOnce, takeaway } from "./pieces.js";

const EVERY_MS = 15000;
const ROLES = { admin: "Administrator", viewer: "Viewer" };

export async function accessPart(body, signal) {
  const line = outcome();
  const [pins, totp, sessions, locked] = [pinsCard(signal, look), totpCard(signal, look), sessionsCard(signal, look), lockedCard()];
  const all = h("div", { class: "stack" }, pins, totp, sessions, locked);
  all.hidden = true;
  body.append(line, all);
  async function look() {
    try {
      const told = await json("/api/access", { signal });
      line.say("");
      all.hidden = false;
      for (const part of [pins, totp, sessions, locked]) part.fill(told);
    } catch (problem) {
      if (!signal.aborted) line.fail(problem);
    }
  }
  await repeat(look, EVERY_MS, signal)();
}

const pinInput = (name, auto) => h("input", { name, type: "password", inputmode: "numeric", pattern: "[0-9]{6,12}", minlength: 6, maxlength: 12, required: true, autocomplete: auto, title: "6 to 12 digits" });

function pinsCard(signal, look) {
  const line = outcome();
  const roles = Object.keys(ROLES).map((role) => {
    const since = h("p", { class: "hint" });
    const setIt = does("Change", line, () => newPin(role));
    const drop = role === "viewer" && does("Remove", line, async () => {
      if (!(await confirms("Remove the viewer’s PIN?", "Remove", { detail: "Whoever is signed in as a viewer is signed out, and nobody can sign in as one." }))) return;
      await remove("/api/access/pin/viewer", { signal });
      line.say("The viewer’s PIN is removed.", "good");
      await look();
    }, { class: "quiet", "aria-label": "Remove the PIN of the viewer" });
    const what = role === "admin" ? "Sees and changes everything." : `Sees everything and changes nothing: for guests. Like everybody, he is signed out when nobody has touched the page for ${span(session.idle_s * 1000)}.`;
    return { role, since, setIt, drop, row: h("li", {}, h("div", { class: "beside" }, h("div", { class: "said" }, h("h3", {}, ROLES[role]), h("p", {}, what), since), h("div", { class: "buttons" }, setIt, drop))) };
  });
  function newPin(role) {
    const [pin, again] = [pinInput("pin", "new-password"), pinInput("again", "new-password")];
    asks(`New PIN of the ${role}`, [
      field("The administrator’s PIN now", pinInput("current", "current-password")),
      field("New PIN", pin, { hint: "6 to 12 digits. Nobody can tell it to you later." }),
      field("New PIN again", again),
    ], "Set the PIN", async (values) => {
      if (values.pin !== values.again) throw new Error("The two new PINs differ.");
      await change("/api/access/pin", { role, pin: values.pin, current: values.current }, { signal });
      line.say(role === "admin" ? "The PIN is changed. Other sessions of the administrator are ended." : "The viewer’s PIN is set.", "good");
      await look();
    });
  }
  return Object.assign(card("PIN", {}, h("ul", { class: "rows" }, roles.map((one) => one.row)), line), {
    fill(told) {
      for (const { role, since, setIt, drop } of roles) {
        const pin = told.pins[role];
        put(since, pin ? `Set ${momentOf(pin.set_at)}` : "None: nobody can sign in so.");
        put(setIt, pin ? "Change" : "Set a PIN");
        set(setIt, "aria-label", pin ? `Change the PIN of the ${role}` : `Set a PIN for the ${role}`);
        if (drop) drop.hidden = !pin;
      }
    },
  });
}

function totpCard(signal, look) {
  const [state, text, line, steps] = [badge("quiet", ""), h("p", { class: "soft" }), outcome(), h("div")];
  const begin = does("Switch on", line, () => asks("Switch a second factor on?", [
    h("p", {}, "From then on the administrator signs in with the PIN and a code of an app."),
    field("The administrator’s PIN", pinInput("current", "current-password")),
  ], "Go on", async ({ current }) => {
    const told = await post("/api/access/totp", { current }, { signal });
    begin.hidden = true;
    steps.replaceChildren(confirmForm(told));
    // The picture is what comes first, also where the keyboard of a phone takes half of the screen.
    steps.querySelector("input").focus({ preventScroll: true });
    steps.scrollIntoView({ block: "nearest" });
  }));
  const end = does("Switch off", line, () => asks("Switch the second factor off?", [
    h("p", {}, "Then the PIN alone is enough to sign in."),
    field("The administrator’s PIN", pinInput("pin", "current-password")),
    field("Code of the app, or a recovery code", h("input", { name: "typed", autocomplete: "one-time-code", autocapitalize: "off", spellcheck: "false", required: true })),
  ], "Switch off", async ({ pin, typed }) => {
    const digits = typed.replaceAll(" ", "");
    await remove("/api/access/totp", { body: { pin, ...(/^\d{6}$/.test(digits) ? { totp: digits } : { recovery: typed.trim() }) }, signal });
    line.say("The second factor is off.", "good");
    await look();
  }));

  function confirmForm({ secret, uri, qr_svg: picture }) {
    const codeInput = h("input", { inputmode: "numeric", autocomplete: "one-time-code", pattern: "[0-9 ]{6,7}", required: true, title: "6 digits" });
    const own = outcome();
    const form = h("form", { class: "totp", onsubmit: send },
      // As a picture it can hold no script and no link.
      h("img", { src: `data:image/svg+xml,${encodeURIComponent(picture)}`, alt: "QR code with the secret; the same as text stands beside it", width: 220, height: 220 }),
      h("div", { class: "fields" },
        h("p", {}, "Scan this with an authenticator app, or ", h("a", { href: uri }, "open it on this device"), ". Without a camera, type the secret:"),
        takeaway(secret.replace(/(.{4})(?=.)/g, "$1 "), "Secret of the second factor"),
        field("Code that the app shows", codeInput), own,
        h("div", { class: "buttons" }, h("button", { "data-tone": "main" }, "Confirm"), h("button", { type: "button", class: "quiet", onclick: close }, "Cancel"))));
    async function send(event) {
      event.preventDefault();
      own.say("");
      try {
        const { recovery_codes: codes } = await change("/api/access/totp", { code: codeInput.value.replaceAll(" ", "") }, { signal });
        close();
        shownOnce("Recovery codes", "Each signs you in once when the app is not at hand. They are shown this once: print them, or keep them where you keep keys.", codes.join("\n"), { print: true });
        await look();
      } catch (problem) {
        if (problem.told?.parameter === "code") own.say("This is not the code of now. Try the next one; where that is refused too, compare the phone’s clock with the one above.");
        else own.fail(problem);
        codeInput.select();
      }
    }
    return form;
  }
  function close() {
    steps.replaceChildren();
    begin.hidden = false;
  }
  return Object.assign(card("Second factor", { beside: state }, text, h("div", { class: "buttons" }, begin, end), steps, line), {
    fill({ totp }) {
      mark(state, totp.on ? "good" : "quiet", totp.on ? "On" : "Off");
      put(text, totp.on ? `The administrator signs in with the PIN and a code of an app. ${count(totp.recovery_left, "recovery code is", "recovery codes are")} left.` : "The administrator can be asked for a code of an authenticator app as well. The clock of this gateway has to be right for that.");
      if (totp.on) steps.replaceChildren();
      begin.hidden = totp.on || steps.childElementCount > 0;
      end.hidden = !totp.on;
    },
  });
}

function sessionsCard(signal, look) {
  const [line, items] = [outcome(), h("ul", { class: "rows" })];
  const make = (first) => {
    const [title, when] = [h("h3", {}, `${ROLES[first.role] ?? first.role} from ${first.source}`), h("p", { class: "hint" })];
    const end = !first.current && does("End", line, async () => {
      await remove(`/api/access/sessions/${encodeURIComponent(first.id)}`, { signal });
      await look();
    }, { class: "quiet", "aria-label": `End the session of the ${first.role} from ${first.source}` });
    return Object.assign(h("li", {}, h("div", { class: "beside" }, h("div", { class: "said" }, title, when), first.current ? badge("good", "This one") : end)), { when });
  };
  const element = card("Signed in now", {}, items, line);
  return Object.assign(element, {
    fill({ sessions }) {
      rows(items, sessions, (one) => one.id, make, (row, one) => put(row.when, `Since ${recentOf(one.began)}, last seen ${ago(one.last_seen)}`));
    },
  });
}

// Who guessed too often.
function lockedCard() {
  const box = h("div");
  const element = card("Locked out", {}, h("p", { class: "soft" }, "After wrong PINs a source has to wait, longer each time."), box);
  return Object.assign(element, {
    fill({ lockouts }) {
      set(element, "hidden", lockouts.length === 0);
      renew(box, lockouts, () => facts(lockouts.map((one) => [one.source, `${count(one.failures, "wrong try", "wrong tries")}${one.until ? `, until ${momentOf(one.until)}` : ""}`])));
    },
  });
}
