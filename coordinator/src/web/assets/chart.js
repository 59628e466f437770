// Lines over two axes, as SVG in the size that it has on the screen.

import { shape } from "./dom.js";
import { brief } from "./text.js";

const drawn = new Map();
const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => paint(target)));

/** Lines of [[x, y], …] over shared axes; `label` says an x in words, `none` what stands there without points. */
export function draw(svg, lines, label, none) {
  if (!drawn.has(svg)) observer.observe(svg);
  drawn.set(svg, { lines, label, none });
  paint(svg);
}

function paint(svg) {
  const { lines, label, none } = drawn.get(svg);
  const width = svg.clientWidth, height = svg.clientHeight, left = 44, right = 8, top = 10, bottom = 24;
  if (!width) return;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const add = (...made) => svg.append(shape(...made));
  const all = lines.flatMap((line) => line);
  if (all.length < 2) return add("text", { x: 0, y: 18 }, none);
  let [x0, x1, y1] = [Infinity, -Infinity, 0];
  for (const [x, y] of all) { x0 = Math.min(x0, x); x1 = Math.max(x1, x); y1 = Math.max(y1, y); }
  const step = niceStep(y1 / 3), high = Math.max(step, Math.ceil(y1 / step - 1e-9) * step);
  const x = (value) => left + (width - left - right) * (x1 > x0 ? (value - x0) / (x1 - x0) : 0);
  const y = (value) => height - bottom - (height - bottom - top) * value / high;
  for (let value = 0; value <= high + step / 2; value += step) {
    add("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "axis" });
    add("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, brief(value));
  }
  add("text", { x: left, y: height - 5 }, label(x0));
  add("text", { x: width - right, y: height - 5, "text-anchor": "end" }, label(x1));
  lines.forEach((line, index) => {
    if (line.length < 2) return;
    const path = line.map((p, n) => `${n ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    const first = line[0], last = line.at(-1);
    if (lines.length === 1) add("path", { d: `${path}L${x(last[0])} ${y(0)}L${x(first[0])} ${y(0)}Z`, class: `area c${index}` });
    add("path", { d: path, class: `c${index}` });
    add("circle", { cx: x(last[0]), cy: y(last[1]), r: 3, class: `c${index}` });
  });
}

/** 1, 2 or 5 times a power of ten, not less than `rough`. */
function niceStep(rough) {
  if (!(rough > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((times) => times * power >= rough * 0.999) * power;
}
