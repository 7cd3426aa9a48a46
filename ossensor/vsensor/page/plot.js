// Rates over the last five minutes: what was heard since the page is open. uPlot draws; what it draws is said in words
// beside it, for who cannot see it.

import { scaled, timeOfDay } from "./text.js";

const KEPT = 300;
const GAP_S = 5; // without a word: nothing is drawn over it

/** Packets and bits a second, by the second, the newest last. */
export class History {
  #times = [];
  #packets = [];
  #bits = [];

  add(time_s, packets, bits) {
    const last_s = this.#times.at(-1) ?? time_s;
    if (time_s - last_s > GAP_S) this.#push(last_s + 1, null, null);
    this.#push(time_s, packets, bits);
  }

  #push(time_s, packets, bits) {
    for (const [row, value] of [[this.#times, time_s], [this.#packets, packets], [this.#bits, bits]]) {
      row.push(value);
      if (row.length > KEPT) row.shift();
    }
  }

  get rows() {
    return [this.#times, this.#packets, this.#bits];
  }

  get words() {
    const said = (name, row) => `${name}: now ${scaled(row.at(-1) ?? 0)}, at most ${scaled(Math.max(0, ...row))}`;
    return `${said("Packets a second", this.#packets)}. ${said("Bits a second", this.#bits)}.`;
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");

/** A plot of a History, in `place`, as wide as that. */
export class Plot {
  #place;
  #history;
  #height;
  #drawn = null;
  #watch = new ResizeObserver(() => this.#resize());
  #redo = () => this.#make();

  constructor(place, history, height) {
    this.#place = place;
    this.#history = history;
    this.#height = height;
    place.setAttribute("role", "img");
    this.#make();
    this.#watch.observe(place);
    dark.addEventListener("change", this.#redo);
  }

  draw() {
    this.#drawn.setData(this.#history.rows);
    this.#place.setAttribute("aria-label", this.#history.words);
  }

  remove() {
    this.#watch.disconnect();
    dark.removeEventListener("change", this.#redo);
    this.#drawn.destroy();
  }

  #resize() {
    const width = this.#place.clientWidth;
    if (width > 0 && width !== this.#drawn.width) this.#drawn.setSize({ width, height: this.#height });
  }

  #make() {
    this.#drawn?.destroy();
    const styles = getComputedStyle(document.documentElement);
    const colour = (name) => styles.getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    const values = (_, ticks) => ticks.map(scaled);
    const shown = (_, value) => (value === null ? "–" : scaled(value));
    const points = { show: false };
    const scale = { range: (_, _low, high) => [0, Math.max(1, high * 1.1)] };
    this.#drawn = new uPlot(
      {
        width: Math.max(200, this.#place.clientWidth),
        height: this.#height,
        cursor: { drag: { x: false, y: false } },
        scales: { packets: scale, bits: scale },
        axes: [
          { ...axis, values: (_, ticks) => ticks.map(timeOfDay), space: 80 },
          { ...axis, scale: "packets", values, size: 60 },
          { ...axis, scale: "bits", side: 1, values, size: 60, grid: { show: false } },
        ],
        // Dashes, because a colour alone tells the lines apart for some only.
        series: [
          { label: "at", value: (_, value) => (value === null ? "–" : timeOfDay(value)) },
          { label: "packets/s (left)", scale: "packets", stroke: colour("--accent"), width: 2, value: shown, points },
          { label: "bit/s (right, dashed)", scale: "bits", stroke: colour("--warn"), width: 2, dash: [6, 4], value: shown, points },
        ],
      },
      this.#history.rows,
      this.#place,
    );
  }
}
