// The page: logged out or live. Snapshots come each second as server-sent events; orders are fetched, since a sensor
// says what became of them every few seconds only.

import { announce, byId, say } from "./dom.js";
import { Orders } from "./orders.js";
import { Sensors } from "./sensors.js";
import { logIn, logOut, renew, session } from "./server.js";

const ORDERS_EVERY_MS = 2000;
const AGAIN_MS = 3000;
const SILENT_MS = 10_000; // ten snapshots; the vSensor cuts off who has taken nothing for as long (events.py)
const ACTIVE_EVERY_MS = 60_000;

const sensors = new Sensors();
const orders = new Orders(sensors, () => end("The session has ended; log in again."));
let opened = false; // whether somebody is logged in
let source = null;
let timer = 0;
let active_ms = 0;
let heard_ms = 0;
let retry = 0; // one at a time: each way to lose the connection asks for it

function link(state, words) {
  const before = byId("link").dataset.state;
  byId("link").dataset.state = state;
  say(byId("link"), words);
  if (before !== state && (state === "lost" || before === "lost")) announce(words);
}

const lost = () => link("lost", "○ not connected; trying again");

/** Of a tab that nobody sees nothing is left open: browsers have six connections for all tabs, and orders need one. */
function listen() {
  source?.close();
  if (document.hidden) return;
  source = new EventSource("/v1/events");
  heard_ms = performance.now();
  source.addEventListener("snapshot", (event) => {
    heard_ms = performance.now();
    const snapshot = JSON.parse(event.data);
    link("live", "● live");
    sensors.update(snapshot);
  });
  source.onerror = () => {
    lost();
    // The browser tries again by itself after a connection that broke, and not after a status that was no 200.
    if (source.readyState === EventSource.CLOSED) later();
  };
}

function later() {
  clearTimeout(retry);
  retry = setTimeout(again, AGAIN_MS);
}

/** A connection that is dead and was not closed says nothing: a browser would show its last word for many minutes. */
function listenAnew() {
  if (!opened || document.hidden || performance.now() - heard_ms < SILENT_MS) return;
  lost();
  listen();
}
setInterval(listenAnew, 1000);
document.addEventListener("visibilitychange", () => {
  if (!opened) return;
  link("live", ""); // what was shown last may be old
  listen();
});

async function again() {
  if (!opened) return;
  try {
    if (await session()) listen();
    else end("The session has ended; log in again.");
  } catch {
    later();
  }
}

function begin(found) {
  opened = true;
  orders.mayOrder = found.may_order;
  byId("login").hidden = true;
  byId("live").hidden = byId("logout").hidden = false;
  link("live", "");
  listen();
  orders.refresh();
  clearInterval(timer);
  timer = setInterval(() => document.hidden || orders.refresh(), ORDERS_EVERY_MS);
}

function end(why = "") {
  opened = false;
  source?.close();
  clearInterval(timer);
  byId("live").hidden = byId("logout").hidden = true;
  byId("login").hidden = false;
  link("off", "");
  sensors.clear();
  orders.clear();
  say(byId("login-fault"), why);
  byId("token").focus();
}

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  say(byId("login-fault"), "");
  try {
    const found = await logIn(token);
    byId("token").value = "";
    begin(found);
    byId("main").focus();
  } catch (e) {
    say(byId("login-fault"), e.status === 401 ? "This is not the operator's token." : e.message);
    byId("token").select();
  }
});

byId("logout").addEventListener("click", async () => {
  try {
    await logOut();
    end();
  } catch (e) {
    if (e.status === 401) end();
    else say(byId("orders-fault"), `Not logged out: ${e.message}`);
  }
});

// Looking on does not keep a session; what a person does at the page does.
for (const kind of ["keydown", "pointerdown"]) {
  addEventListener(kind, () => {
    if (!opened || performance.now() - active_ms < ACTIVE_EVERY_MS) return;
    active_ms = performance.now();
    renew().catch(() => {}); // if it has ended, the next fetch finds that
  });
}

try {
  const found = await session();
  if (found) begin(found);
  else end();
} catch (e) {
  end(e.message);
}
