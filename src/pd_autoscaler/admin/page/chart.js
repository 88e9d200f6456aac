// Targets and serving nodes over time: kept here, from what was polled.

import { clock, svg } from "./dom.js";

const KEEP_S = 1800;
const SERIES = ["prompt", "decoder"].flatMap((role) => [[role, "target"], [role, "serving"]]);
const EDGE = { left: 30, right: 12, top: 8, bottom: 22 };

export class Chart {
  constructor(box) {
    this.box = box;
    this.samples = [];
  }

  // Put samples before what is there: each is { at, prompt: {target, serving}, decoder: {…} }.
  seed(samples) {
    const first = this.samples.length ? this.samples[0].at : Infinity;
    this.samples = [...samples.filter((sample) => sample.at < first), ...this.samples];
  }

  add(sample) {
    const last = this.samples.at(-1);
    if (last && last.at >= sample.at) return;
    // A line needs the points where it turns and its end, not one a second.
    if (this.samples.length > 1 && same(last, sample) && same(this.samples.at(-2), sample)) {
      this.samples.pop();
    }
    this.samples.push(sample);
    while (this.samples.length > 2 && this.samples[1].at < sample.at - KEEP_S) this.samples.shift();
  }

  draw() {
    const width = Math.max(280, this.box.clientWidth);
    const height = 190;
    const end = this.samples.at(-1)?.at ?? 0;
    const begin = Math.min(end - 60, Math.max(this.samples[0]?.at ?? 0, end - KEEP_S));
    const most = Math.max(2, ...this.samples.flatMap((s) => SERIES.map(([r, k]) => s[r][k] ?? 0)));
    const x = (at) =>
      EDGE.left + ((Math.max(at, begin) - begin) / (end - begin)) * (width - EDGE.left - EDGE.right);
    const y = (nodes) =>
      height - EDGE.bottom - (nodes / (most * 1.1)) * (height - EDGE.top - EDGE.bottom);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    picture.append(svg("title", {}, "Targets and serving nodes over time"));
    grid(picture, { width, height, begin, end, most, x, y });
    SERIES.forEach(([role, kind], number) => {
      // Lines that lie on one another are set apart by a pixel and a half.
      const shift = 1.5 * (number - 1.5);
      const path = line(this.samples, role, kind, x, (nodes) => y(nodes) + shift);
      picture.append(svg("path", { d: path, class: `${role} ${kind}` }));
    });
    this.box.replaceChildren(picture);
  }
}

const same = (one, other) => SERIES.every(([role, kind]) => one[role][kind] === other[role][kind]);

function line(samples, role, kind, x, y) {
  let path = "";
  for (const sample of samples) {
    const value = sample[role][kind];
    if (value === null) continue;
    const [left, top] = [x(sample.at).toFixed(1), y(value).toFixed(1)];
    path += path === "" ? `M${left} ${top}` : `H${left}V${top}`;
  }
  return path;
}

function grid(picture, { width, height, begin, end, most, x, y }) {
  const step = Math.max(1, Math.ceil(most / 5));
  for (let nodes = 0; nodes <= most; nodes += step) {
    const at = y(nodes);
    picture.append(
      svg("line", { x1: EDGE.left, x2: width - EDGE.right, y1: at, y2: at, class: "grid" }),
      svg("text", { x: EDGE.left - 8, y: at + 4, "text-anchor": "end" }, String(nodes)),
    );
  }
  const marks = width < 600 ? 3 : 6;
  for (let mark = 0; mark <= marks; mark += 1) {
    const at = begin + ((end - begin) * mark) / marks;
    const anchor = mark === 0 ? "start" : mark === marks ? "end" : "middle";
    picture.append(svg("text", { x: x(at), y: height - 5, "text-anchor": anchor }, clock(at)));
  }
}
