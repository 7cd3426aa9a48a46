// The summary and the table of sensors, from a snapshot of each second.

import { announce, byId, keep, make, say, sayAs } from "./dom.js";
import { History, Plot } from "./plot.js";
import * as text from "./text.js";

const PLOT_ALL_HEIGHT = 220;
const PLOT_ONE_HEIGHT = 160;
const COLUMNS = ["State", "Interfaces", "Packets/s", "Bit/s", "Dropped", "Delay", "Books", "Last seen"];
const NUMBERS = new Set(["Packets/s", "Bit/s", "Dropped", "Delay", "Last seen"]);
const TASK = { arn: "Task", cluster: "Cluster", family: "Task family", revision: "Revision",
  availability_zone: "Availability zone", launch_type: "Launch type" };

const total = (sensor) => Object.values(sensor.interfaces).flatMap(text.drops).reduce((sum, [, n]) => sum + n, 0);
const delays = (sensors) => sensors.flatMap((s) => Object.values(s.interfaces).map((i) => i.delay_s)).filter((d) => d !== null);
const slowest = (sensors) => {
  const all = delays(sensors);
  return all.length ? Math.max(...all) : null;
};
const books = (sensors) => {
  const said = sensors.filter((one) => Object.keys(one.interfaces).length).map((one) => one.verdict);
  return said.length ? text.verdict(text.worst(said)) : ["", "–"];
};
const dropped = (n) => (n ? ["warn", `! ${text.count(n)}`] : ["", "0"]);

/** One sensor's row, and the details below it while they are open. */
class Row {
  history = new History();
  #sensor = null;
  #details = null;
  #plot = null;
  #lists = {};

  constructor(name) {
    const id = `sensor-${name}`;
    this.button = make("button", { type: "button", class: "name", "aria-expanded": "false" }, name);
    this.button.addEventListener("click", () => this.#toggle());
    this.host = make("small");
    this.cells = {};
    const cells = COLUMNS.map((label) => {
      this.cells[label] = make("span");
      const attributes = { role: "cell", "data-label": label, ...(NUMBERS.has(label) ? { class: "number" } : {}) };
      return make("td", attributes, this.cells[label]);
    });
    const head = make("th", { role: "rowheader", scope: "row" }, this.button, this.host);
    this.first = make("tr", { role: "row", id }, head, ...cells);
  }

  place(body, before) {
    const last = this.#details ?? this.first;
    if (last.nextSibling === before && this.first.parentNode === body) return;
    body.insertBefore(this.first, before);
    if (this.#details) this.first.after(this.#details);
  }

  remove() {
    this.#close();
    this.first.remove();
  }

  set visible(is) {
    this.first.hidden = !is;
    if (this.#details) this.#details.hidden = !is;
  }

  update(sensor, now_s) {
    this.#sensor = sensor;
    const { cells } = this;
    this.history.add(now_s, sensor.packets_per_s, sensor.bytes_per_s * 8);
    say(this.host, [sensor.host, sensor.task.family && `task ${sensor.task.family}`].filter(Boolean).join(", "));
    sayAs(cells.State, sensor.is_silent ? ["bad", "○ silent"] : ["good", "● live"]);
    say(cells.Interfaces, this.#interfaces(sensor));
    say(cells["Packets/s"], text.scaled(sensor.packets_per_s));
    say(cells["Bit/s"], text.scaled(sensor.bytes_per_s * 8));
    sayAs(cells.Dropped, dropped(total(sensor)));
    sayAs(cells.Delay, text.delay(slowest([sensor])));
    sayAs(cells.Books, books([sensor]));
    say(cells["Last seen"], text.ago(now_s, sensor.heard_s));
    if (this.#details) this.#describe();
  }

  #interfaces(sensor) {
    const names = sensor.captures.length ? sensor.captures : Object.keys(sensor.interfaces);
    const more = Math.max(sensor.captures_in_all, names.length) - 4;
    return names.slice(0, 4).join(", ") + (more > 0 ? ` and ${more} more` : "") || "none";
  }

  #toggle() {
    if (this.#details) this.#close();
    else this.#open();
  }

  #open() {
    const id = `${this.first.id}-details`;
    const identity = make("dl");
    const interfaces = make("tbody");
    const heads = ["Interface", "Packets", "Packets/s", "Bit/s", "Received", "Dropped", "Repeats", "Delay", "Books"];
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))), interfaces);
    const drawn = make("div");
    this.#lists = { identity, interfaces };
    const cell = make("td", { role: "cell", colspan: String(COLUMNS.length + 1) }, identity, table, drawn);
    this.#details = make("tr", { role: "row", id, class: "details" }, cell);
    this.first.after(this.#details);
    this.button.setAttribute("aria-expanded", "true");
    this.button.setAttribute("aria-controls", id);
    this.#plot = new Plot(drawn, this.history, PLOT_ONE_HEIGHT);
    this.#describe();
  }

  #close() {
    this.#plot?.remove();
    this.#details?.remove();
    this.#plot = this.#details = null;
    this.button.setAttribute("aria-expanded", "false");
    this.button.removeAttribute("aria-controls");
  }

  #describe() {
    const sensor = this.#sensor;
    const said = {
      Version: sensor.application,
      Host: sensor.host,
      ...Object.fromEntries(Object.entries(TASK).map(([member, label]) => [label, sensor.task[member]])),
      Antigena: sensor.antigena_mode + (sensor.antigena?.trouble ? `: ${sensor.antigena.trouble}` : ""),
      "Packet filter refused": sensor.packet_filter_refused,
    };
    const pairs = Object.entries(said).filter(([, value]) => value);
    redo(this.#lists.identity, pairs, ([label, value]) => [make("dt", {}, label), make("dd", {}, value)]);
    redo(this.#lists.interfaces, Object.entries(sensor.interfaces), ([name, one]) => [interfaceRow(name, one)]);
    this.#plot.draw();
  }
}

/** Makes the children anew, when what they are made of is another. */
function redo(parent, values, create) {
  const now = JSON.stringify(values);
  if (parent.madeOf === now) return;
  parent.madeOf = now;
  parent.replaceChildren(...values.flatMap(create));
}

function interfaceRow(name, one) {
  const why = text.drops(one).map(([reason, n]) => make("li", {}, `${reason}: ${text.count(n)}`));
  const drops = why.length ? make("ul", { class: "warn" }, ...why) : "0";
  const [kind, books] = text.verdict(one.verdict);
  const [, delay] = text.delay(one.delay_s);
  const cell = (...inner) => make("td", {}, ...inner);
  return make(
    "tr", {}, make("th", { scope: "row" }, name), cell(text.count(one.packets)), cell(text.scaled(one.packets_per_s)),
    cell(text.scaled(one.bytes_per_s * 8)), cell(text.count(one.received)), cell(drops), cell(text.count(one.repeats)),
    cell(delay), make("td", { class: kind }, books + (one.last_fault ? `: ${one.last_fault}` : "")),
  );
}

/** All that is shown of sensors. */
export class Sensors {
  #rows = new Map();
  #silent = new Map();
  #history = new History();
  #plot = null;
  #shown = null;

  constructor() {
    byId("filter").addEventListener("input", () => this.#filter());
  }

  get names() {
    return [...this.#rows.keys()];
  }

  get families() {
    const found = Object.values(this.#shown?.sensors ?? {}).map((sensor) => sensor.task.family);
    return [...new Set(found.filter(Boolean))].sort();
  }

  /** Forgets everything: another person may look next. */
  clear() {
    keep(byId("sensor-rows"), this.#rows, new Map(), null);
    this.#silent.clear();
    this.#plot?.remove();
    this.#plot = null;
    this.#history = new History();
  }

  update(snapshot) {
    this.#shown = snapshot;
    const wanted = new Map(Object.entries(snapshot.sensors));
    keep(byId("sensor-rows"), this.#rows, wanted, (name) => new Row(name));
    for (const [name, sensor] of wanted) this.#rows.get(name).update(sensor, snapshot.time_s);
    byId("sensors").hidden = wanted.size === 0;
    byId("no-sensors").hidden = wanted.size > 0;
    this.#sum([...wanted.values()], snapshot.time_s);
    this.#news(wanted);
    this.#filter();
  }

  #sum(sensors, now_s) {
    const sum = (member) => sensors.reduce((all, one) => all + one[member], 0);
    const silent = sensors.filter((one) => one.is_silent).length;
    const [packets, bits] = [sum("packets_per_s"), sum("bytes_per_s") * 8];
    sayAs(byId("sum-sensors"), silent ? ["bad", `${sensors.length}, ${silent} silent`] : ["", text.count(sensors.length)]);
    say(byId("sum-packets"), text.scaled(packets));
    say(byId("sum-bits"), text.scaled(bits));
    sayAs(byId("sum-dropped"), dropped(sensors.reduce((all, one) => all + total(one), 0)));
    sayAs(byId("sum-delay"), text.delay(slowest(sensors.filter((one) => !one.is_silent))));
    sayAs(byId("sum-books"), books(sensors));
    this.#history.add(now_s, packets, bits);
    this.#plot ??= new Plot(byId("plot-all"), this.#history, PLOT_ALL_HEIGHT);
    this.#plot.draw();
  }

  #news(wanted) {
    const first = this.#silent.size === 0;
    const news = [];
    for (const [name, sensor] of wanted) {
      const before = this.#silent.get(name);
      if (before === undefined && !first) news.push(`${name} has appeared`);
      if (before === false && sensor.is_silent) news.push(`${name} has gone silent`);
      if (before === true && !sensor.is_silent) news.push(`${name} is back`);
    }
    this.#silent = new Map([...wanted].map(([name, sensor]) => [name, sensor.is_silent]));
    if (news.length) announce(news.length > 3 ? `${news.length} sensors have changed` : news.join(". "));
  }

  #filter() {
    const sought = byId("filter").value.trim().toLowerCase();
    for (const [name, row] of this.#rows) {
      const sensor = this.#shown.sensors[name];
      const texts = [name, sensor.host, ...Object.values(sensor.task)];
      row.visible = !sought || texts.some((one) => one.toLowerCase().includes(sought));
    }
  }
}
