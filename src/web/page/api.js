// Talks to the gateway, and to nobody else. The session is the cookie's; what changes something carries its proof against
// requests that other pages make (CSRF). Every request ends: by an answer, by its time, or with the view that made it.

const PATIENCE_MS = 15000;

// The session: role, expires_at, idle_s, csrf, totp, name; null while nobody is signed in.
export let session = null;

export function setSession(given) {
  session = given;
}

// Somebody has touched the page since it last asked for something. What it asks for by itself keeps no session alive.
let isTouched = true;
for (const kind of ["pointerdown", "keydown", "wheel", "touchmove"]) addEventListener(kind, () => (isTouched = true), { passive: true });

// Whether the page may offer what changes something. The gateway decides; this only spares the asking.
export const mayChange = () => session?.role === "admin";

// What the gateway says against a request (RFC 9457); `status` 0 where it did not answer.
export class Problem extends Error {
  constructor(status, told = {}, retryAfter = null) {
    super(told.detail ?? told.title ?? (status === 0 ? "The gateway does not answer." : `The gateway answered ${status}.`));
    this.name = "Problem";
    this.status = status;
    this.told = told;
    this.type = told.type ?? "about:blank";
    // Seconds until it may be asked again.
    this.retryAfter = retryAfter;
  }
}

// The response to a request, when its head has come; `body` goes as JSON unless it is a text. Throws a `Problem` for all but
// success. A session that has ended is told to the page once (`session-ended`), unless the request is `about` the session itself.
export async function ask(path, { patience = PATIENCE_MS, signal, ...options } = {}) {
  const limit = within(patience, signal);
  try {
    return await request(path, limit, options);
  } finally {
    limit.end();
  }
}

// What is said in JSON, when all of it has come; null where there is nothing.
export async function json(path, { patience = PATIENCE_MS, signal, ...options } = {}) {
  const limit = within(patience, signal);
  try {
    const response = await request(path, limit, options);
    const text = await response.text().catch((fault) => limit.refuse(fault));
    return text.trim() === "" ? null : JSON.parse(text);
  } finally {
    limit.end();
    // What was given for the whole answer is not needed after it.
    limit.leave();
  }
}

// Ends a request when its time is over, or with what made it. `end` stops the time, `leave` all of it.
function within(patience, signal) {
  const own = new AbortController();
  const stop = () => own.abort();
  let late = false;
  const timer = setTimeout(() => { late = true; stop(); }, patience);
  signal?.addEventListener("abort", stop);
  if (signal?.aborted) stop();
  return {
    signal: own.signal,
    end: () => clearTimeout(timer),
    leave: () => signal?.removeEventListener("abort", stop),
    // What a fetch that came to nothing means.
    refuse(fault) {
      if (signal?.aborted) throw fault;
      throw new Problem(0, late ? { detail: `The gateway did not answer within ${patience / 1000} s.` } : {});
    },
  };
}

async function request(path, limit, { method = "GET", body, headers = {}, about = "" }) {
  const sent = { ...headers };
  const isText = body === undefined || typeof body === "string";
  if (!isText) sent["content-type"] ??= "application/json";
  if (method !== "GET" && session?.csrf) sent["x-csrf-token"] = session.csrf;
  if (!isTouched) sent["x-peek"] = "1";
  isTouched = false;
  const of = session;
  const options = { method, headers: sent, signal: limit.signal, cache: "no-store", credentials: "same-origin" };
  const response = await fetch(path, { ...options, body: isText ? body : JSON.stringify(body) }).catch((fault) => limit.refuse(fault));
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  const again = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  if (response.status === 401 && about !== "session" && session && of === session) {
    session = null;
    dispatchEvent(new CustomEvent("session-ended"));
  }
  throw new Problem(response.status, told, Number.isNaN(again) ? null : again);
}

export const post = (path, body, options) => json(path, { ...options, method: "POST", body });
export const change = (path, body, options) => json(path, { ...options, method: "PUT", body });
export const patch = (path, body, options) => json(path, { ...options, method: "PATCH", body });
export const remove = (path, options) => json(path, { ...options, method: "DELETE" });

// The JSON values of a response of one line each, as they come.
export async function* lines(response) {
  for await (const text of pieces(response, "\n")) if (text.trim()) yield JSON.parse(text);
}

// The events of a response (server-sent events) as they come: `name`, and `told` from JSON; for a sign of life neither.
// `alive` is called with whatever comes.
export async function* events(response, alive = () => {}) {
  for await (const text of pieces(response, "\n\n", alive)) {
    let [name, data] = ["message", ""];
    for (const line of text.split("\n")) {
      if (line.startsWith("event: ")) name = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
    }
    if (data) yield { name, told: JSON.parse(data) };
  }
}

async function* pieces(response, border, alive = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      alive();
      const whole = (text + value).split(border);
      text = whole.pop();
      yield* whole;
    }
    if (text) yield text;
  } finally {
    // A view that stops listening ends the request as well.
    reader.cancel().catch(() => {});
  }
}
