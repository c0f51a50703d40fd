// How figures, times and ages are written. Times are the site's; what is absent is a dash and never 0.

export const ABSENT = "–";

export const CATEGORIES = { CONS: "consumes", PROD: "produces", STOR: "storage", INJ: "feeds in" };
export const CATEGORY_NAMES = { PROD: "Production", CONS: "Consumption", STOR: "Storage", INJ: "Feed-in" };
// How far the anchor of a dataset or of a block is, as the rest of a sentence.
export const ANCHORED = {
  queued: "its anchor waits to be signed", signed: "its anchor is on its way", sent: "its anchor is on its way",
  included: "on the chain, not final yet", final: "final on the chain", reorganised: "its anchor is sent again",
};
export const FLAGS = {
  gap: "gap", late: "late readings", reset: "register reset", rollover: "register rolled over", estimated: "estimated",
  dst: "clock change", clock: "clock not synchronised", conflict: "conflicting values", late_rejected: "too late a reading",
  simulated: "simulated",
};

let zone = "UTC";
const formats = new Map();

// The site's zone, for all times after it.
export function setZone(name) {
  zone = name;
}

export const zoneName = () => zone;

const TIME = { hour: "2-digit", minute: "2-digit" };
const SECOND = { ...TIME, second: "2-digit" };
const DAY = { day: "numeric", month: "short" };
const YEAR = { ...DAY, year: "numeric" };

// A time by these options of Intl.DateTimeFormat.
export function clock(time, options = TIME) {
  const at = typeof time === "string" ? Date.parse(time) : Number(time);
  if (time === null || time === undefined || Number.isNaN(at)) return ABSENT;
  const key = JSON.stringify([zone, options]);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options }));
  return formats.get(key).format(new Date(at));
}

export const timeOf = (time) => clock(time);
export const secondOf = (time) => clock(time, SECOND);
export const dayOf = (time) => clock(time, YEAR);
// With the year: for what may be long ago.
export const momentOf = (time) => clock(time, { ...YEAR, ...TIME });
// Without it: for what is of these days.
export const recentOf = (time) => clock(time, { ...DAY, ...TIME });
export const weekdayOf = (time) => clock(time, { weekday: "short", ...DAY });

// The day of the site, as a form has it: "2026-11-21".
export const isoDayOf = (time) => clock(time, { year: "numeric", month: "2-digit", day: "2-digit" }).split("/").reverse().join("-");

// A measured figure: as many places as its size needs, unless told.
export function figure(value, places) {
  if (value === null || value === undefined || !Number.isFinite(value)) return ABSENT;
  const size = Math.abs(value);
  const shown = places ?? (size < 10 ? 2 : size < 1000 ? 1 : 0);
  const text = value.toLocaleString("en", { minimumFractionDigits: shown, maximumFractionDigits: shown });
  return (/^-[0.,]*$/.test(text) ? text.slice(1) : text).replace("-", "−");
}

// With its unit, which a dash does not have.
export function quantity(value, unit, places) {
  const text = figure(value, places);
  return text === ABSENT ? text : `${text}\u00a0${unit}`;
}

export const kw = (value, places) => quantity(value, "kW", places);
export const kwh = (value, places) => quantity(value, "kWh", places);
export const percent = (share, places = 0) => quantity(share === null || share === undefined ? null : share * 100, "%", places);

// A figure that somebody set or that was counted: as it is.
export const asSet = (value) => (value === null || value === undefined ? ABSENT : value.toLocaleString("en", { maximumFractionDigits: 3 }).replace("-", "−"));

// "1 block", "12,345 blocks".
export const count = (number, one, many = `${one}s`) => `${asSet(number)}\u00a0${number === 1 ? one : many}`;

export function bytes(size) {
  if (size === null || size === undefined) return ABSENT;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const at = size < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(size) / 10));
  return `${figure(size / 1024 ** at, at === 0 ? 0 : 1)}\u00a0${units[at]}`;
}

// How long, in the one unit that suits.
export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 100) return `${seconds}\u00a0s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)}\u00a0min`;
  const hours = Math.round(seconds / 3600);
  return hours < 72 ? `${hours}\u00a0h` : `${Math.round(hours / 24)}\u00a0days`;
}

// What is left of a time: never told shorter than it is.
export const left = (ms) => (ms < 60000 ? `${Math.max(0, Math.ceil(ms / 1000))}\u00a0s` : `${Math.ceil(ms / 60000)}\u00a0min`);

// A count-down: "4:59".
export function countdown(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

// A hash, with its middle left out.
export const cut = (hash, ends = 8) => (hash.length > 2 * ends + 1 ? `${hash.slice(0, ends)}…${hash.slice(2 - ends)}` : hash);
