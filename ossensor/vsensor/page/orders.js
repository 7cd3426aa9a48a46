// Antigena: the orders there are, what became of each, and the dialogs that make, lengthen and end them. Nothing is
// ordered before a second look at it in words.

import { announce, byId, keep, make, say } from "./dom.js";
import { ask } from "./server.js";
import * as text from "./text.js";

const PATH = "/v1/antigena/actions";
const COLUMNS = ["At", "Reason", "Ends in", "Effect"];

/** Asks in a dialog of its own: true for yes; with `lasts`, the seconds that were asked for. Escape is no. */
function confirm(title, words, verb, { lasts = false } = {}) {
  const dialog = byId("confirm");
  say(byId("confirm-title"), title);
  say(byId("confirm-text"), words);
  say(byId("confirm-yes"), verb);
  byId("confirm-duration").hidden = !lasts;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      if (dialog.returnValue !== "yes") resolve(false);
      else resolve(lasts ? text.seconds(byId("confirm-amount").value, byId("confirm-unit").value) : true);
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}

/** One order's row. */
class Row {
  constructor(id, { clear, extend }) {
    this.title = make("span");
    this.cells = Object.fromEntries(COLUMNS.map((label) => [label, make("div")]));
    const cells = COLUMNS.map((label) => make("td", { role: "cell", "data-label": label }, this.cells[label]));
    this.buttons = [make("button", { type: "button" }, "Extend…"), make("button", { type: "button" }, "Clear…")];
    this.buttons[0].addEventListener("click", () => extend(id));
    this.buttons[1].addEventListener("click", () => clear(id));
    const head = make("th", { role: "rowheader", scope: "row" }, this.title, make("small", {}, id));
    const last = make("td", { role: "cell", class: "actions" }, ...this.buttons);
    this.first = make("tr", { role: "row", "data-order": id }, head, ...cells, last);
  }

  place(body, before) {
    if (this.first.nextSibling !== before || this.first.parentNode !== body) body.insertBefore(this.first, before);
  }

  remove() {
    this.first.remove();
  }

  update(order, now_s, mayOrder) {
    const { action } = order;
    const words = text.action(action);
    say(this.title, words);
    say(this.cells.At, text.target(order.target));
    say(this.cells.Reason, action.reason || "–");
    const begins = action.start_s > now_s ? `begins in ${text.span(action.start_s - now_s)}, ` : "";
    say(this.cells["Ends in"], begins + text.span(action.expires_s - now_s));
    this.#effect(Object.entries(order.sensors));
    for (const [button, verb] of [[this.buttons[0], "Extend"], [this.buttons[1], "Clear"]]) {
      button.hidden = !mayOrder;
      button.setAttribute("aria-label", `${verb}: ${words}`);
    }
  }

  #effect(said) {
    const lines = said.map(([sensor, one]) => [sensor, ...text.effect(one)]);
    const now = JSON.stringify(lines);
    if (this.cells.Effect.madeOf === now) return;
    this.cells.Effect.madeOf = now;
    const items = lines.map(([sensor, kind, words]) => make("li", { class: kind }, `${sensor}: ${words}`));
    this.cells.Effect.replaceChildren(items.length ? make("ul", {}, ...items) : "no sensor has answered yet");
  }
}

/** All that is shown of orders. `sensors` knows the names that can be chosen; `expired` is told of a session's end. */
export class Orders {
  #rows = new Map();
  #orders = new Map();
  #sensors;
  #expired;
  #mayOrder = false;

  constructor(sensors, expired) {
    this.#sensors = sensors;
    this.#expired = expired;
    const form = byId("order-form");
    byId("new-order").addEventListener("click", () => this.#begin());
    form.querySelector("[value=cancel]").addEventListener("click", () => byId("order-dialog").close());
    form.addEventListener("change", () => this.#fit());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  set mayOrder(may) {
    this.#mayOrder = may;
    byId("new-order").hidden = !may;
  }

  /** Forgets everything, what was being written too: another person may look next. */
  clear() {
    keep(byId("order-rows"), this.#rows, new Map(), null);
    byId("order-dialog").close();
    byId("order-form").reset();
    byId("confirm").close("ended");
  }

  /** Fetches what is in force and shows it. */
  async refresh() {
    let listing;
    try {
      listing = await ask("GET", PATH);
    } catch (e) {
      return this.#failed(e);
    }
    this.#orders = new Map(listing.orders.map((order) => [order.action.id, order]));
    const acts = { clear: (id) => this.#clear(id), extend: (id) => this.#extend(id) };
    keep(byId("order-rows"), this.#rows, this.#orders, (id) => new Row(id, acts));
    for (const [id, order] of this.#orders) this.#rows.get(id).update(order, listing.time_s, this.#mayOrder);
    byId("orders").hidden = this.#orders.size === 0;
    byId("no-orders").hidden = this.#orders.size > 0;
    say(byId("orders-fault"), "");
  }

  #failed(error) {
    if (error.status === 401) this.#expired();
    else say(byId("orders-fault"), error.message);
  }

  async #act(words, ...request) {
    try {
      await ask(...request);
    } catch (e) {
      return this.#failed(e);
    }
    announce(words);
    await this.refresh();
  }

  async #clear(id) {
    const words = text.action(this.#orders.get(id).action);
    const sure = await confirm("Clear this order?", `${words}. Such connections are let live again.`, "Clear it");
    if (sure) await this.#act(`Cleared: ${words}`, "DELETE", `${PATH}/${id}`);
  }

  async #extend(id) {
    const words = text.action(this.#orders.get(id).action);
    const duration_s = await confirm("Extend this order", `${words}.`, "Extend it", { lasts: true });
    if (duration_s === false) return;
    if (Number.isNaN(duration_s)) return this.#failed(new Error("How much longer: a whole number above zero"));
    await this.#act(`Extended: ${words}`, "POST", `${PATH}/${id}/extend`, { duration_s });
  }

  #begin() {
    const form = byId("order-form");
    const option = (value, label) => make("option", { value: JSON.stringify(value) }, label);
    form.elements.target.replaceChildren(
      ...this.#sensors.names.map((name) => option({ sensor: name }, name)),
      ...this.#sensors.families.map((name) => option({ family: name }, `task family ${name}`)),
      option({ all: true }, "all sensors"),
    );
    byId("order-faults").replaceChildren();
    this.#fit();
    byId("order-dialog").showModal();
    form.elements.source.focus();
  }

  #fit() {
    const form = byId("order-form");
    const quarantine = form.elements.kind.value === "quarantine";
    for (const one of form.querySelectorAll(".of-block")) one.hidden = quarantine;
    for (const one of form.querySelectorAll(".of-quarantine")) one.hidden = !quarantine;
    say(byId("source-label"), quarantine ? "Device" : "One side");
  }

  async #submit() {
    const { order, faults } = read(byId("order-form").elements);
    if (faults.length) return this.#fault(faults);
    const words = `${text.action(order.action)}, at ${text.target(order.target)}, for ${text.span(order.duration_s)}`;
    byId("order-dialog").close();
    if (!(await confirm("Order this?", `${words}. Connections that match are ended at once.`, "Order it"))) {
      if (byId("confirm").returnValue === "no") byId("order-dialog").showModal(); // and not when the session has ended
      return;
    }
    try {
      await ask("POST", PATH, order);
    } catch (e) {
      if (e.status === 401) return this.#expired();
      byId("order-dialog").showModal();
      return this.#fault(e.faults);
    }
    byId("order-form").reset();
    byId("new-order").focus();
    announce(`Ordered: ${words}`);
    await this.refresh();
  }

  #fault(faults) {
    byId("order-faults").replaceChildren(...faults.map((one) => make("li", {}, one)));
  }
}

/** The order that a form's fields ask for, and what is wrong with them that the vSensor could not know. */
function read(fields) {
  const faults = [];
  const port = (name) => {
    const given = fields[name].value.trim();
    if (!given) return null;
    if (/^[0-9]{1,5}$/.test(given)) return Number(given);
    faults.push(`Port: ${given} is no number`);
    return null;
  };
  const side = (name) => ({ network: fields[name].value.trim() || null, port: port(`${name}_port`) });
  const kind = fields.kind.value;
  const action = { kind, protocol: fields.protocol.value, reason: fields.reason.value.trim() };
  if (kind === "block") {
    action.source = side("source");
    action.destination = side("destination");
  } else {
    action.source = { network: fields.source.value.trim() || null, port: null };
    action.direction = fields.direction.value;
  }
  const duration_s = text.seconds(fields.amount.value, fields.unit.value);
  if (Number.isNaN(duration_s)) faults.push("For: a whole number above zero");
  // What the confirmation shows has every member, as the vSensor will answer it.
  const whole = { direction: "all", destination: { network: null, port: null }, ...action };
  return { order: { target: JSON.parse(fields.target.value), duration_s, action: whole }, faults };
}
