// Values in words. Pure; `kind` is the class that colours a word: "good", "warn", "bad" or "".

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const UNITS = ["", " k", " M", " G", " T"];

export const count = (n) => whole.format(n);

/** 1234567 as "1.23 M". */
export function scaled(n) {
  let unit = 0;
  while (n >= 999.5 && unit < UNITS.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return short.format(n) + UNITS[unit];
}

/** How long, in the largest two units, less a second one of zero. */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(" ");
}

const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
export const timeOfDay = (unix_s) => clock.format(unix_s * 1000);

export function ago(now_s, then_s) {
  return then_s === null ? "never" : now_s - then_s < 1.5 ? "now" : `${span(now_s - then_s)} ago`;
}

/** From a packet's time to its being stored, by two clocks: below zero is their difference, and no time at all. */
export function delay(seconds) {
  if (seconds === null) return ["", "–"];
  const text = Math.abs(seconds) < 10 ? `${seconds.toFixed(2)} s` : seconds < 0 ? `-${span(-seconds)}` : span(seconds);
  return [seconds > 60 ? "warn" : "", text];
}

const VERDICTS = {
  balanced: ["good", "✓ balanced"],
  open: ["good", "✓ no gap"],
  lost: ["warn", "! packets lost"],
  "not balanced": ["bad", "✗ not balanced"],
};
export const verdict = (said) => VERDICTS[said] ?? ["bad", `✗ ${said}`];
const WORST_FIRST = ["not balanced", "lost", "open", "balanced"];
export const worst = (verdicts) => WORST_FIRST.find((one) => verdicts.includes(one)) ?? "open";

const REASONS = {
  kernel_drops: "kernel drops",
  rejected: "rejected by the vSensor",
  too_large: "too large",
  corrupt: "corrupt",
  lost_packets: "given up by the sensor",
};

/** Packets that did not arrive, by reason, those there are. */
export function drops(one) {
  const all = { kernel_drops: one.kernel_drops, ...one.dropped, lost_packets: one.lost_packets };
  return Object.entries(all).filter(([, n]) => n > 0).map(([why, n]) => [REASONS[why] ?? why.replaceAll("_", " "), n]);
}

const side = (one) => {
  const address = one.network === null ? "any address" : one.network.replace(/^(.*:.*)\/128$|^([^:]*)\/32$/, "$1$2");
  if (one.port === null) return address;
  return one.network?.includes(":") ? `[${address}]:${one.port}` : `${address}:${one.port}`;
};
const DIRECTIONS = { all: "", outgoing: ", what it opens", incoming: ", what others open to it" };

/** An order's action. */
export function action(one) {
  const protocol = one.protocol === "any" ? "" : ` (${one.protocol.toUpperCase()})`;
  if (one.kind === "quarantine") return `Quarantine ${side(one.source)}${DIRECTIONS[one.direction]}${protocol}`;
  return `Block ${side(one.source)} ↔ ${side(one.destination)}${protocol}`;
}

export function target(one) {
  if (one.sensor) return one.sensor;
  return one.family ? `task family ${one.family}` : "all sensors";
}

/** What a sensor said of an order: [kind, text]. */
export function effect(said) {
  if (said.refused) return ["bad", `refused: ${said.refused}`];
  const counts = Object.entries(said.counts).filter(([, n]) => n > 0);
  if (!counts.length) return ["", "in force, nothing matched yet"];
  return ["", counts.map(([name, n]) => `${name.replaceAll("_", " ")} ${count(n)}`).join(", ")];
}

/** Seconds from a number and its unit; NaN for what is no whole number above zero. */
export function seconds(amount, unit) {
  return /^[1-9][0-9]{0,6}$/.test(amount.trim()) ? Number(amount.trim()) * Number(unit) : NaN;
}
