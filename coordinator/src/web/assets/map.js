// The shards, one square each (or one for several, in a large plan), in the plan's order.

import { get } from "./api.js";
import { at, empty, legend, make, shape } from "./dom.js";
import { count } from "./text.js";

const WORDS = { p: "waiting", l: "in work", d: "done", q: "in quarantine" };
let known = null;

export async function refresh(run) {
  known = await get(`api/runs/${run}/shards`);
  paint();
}

export function showLegend(status) {
  legend("map-legend", [
    ["d", "done", count(status.shards_done)],
    ["l", "in work", count(status.shards_leased)],
    ["p", "waiting", count(status.shards_pending)],
    ["q", "in quarantine", count(status.shards_quarantined)],
  ]);
}

export function clear() {
  known = null;
  at("map").replaceChildren();
}

function paint() {
  const whole = at("map");
  if (!known) return;
  if (!known.datasets.length) return whole.replaceChildren(empty("The plan isn’t made yet."));
  const names = known.datasets.length > 1;
  const kept = [...whole.children];
  whole.replaceChildren(...known.datasets.map((dataset, index) => {
    const box = kept[index]?.matches(".map") ? kept[index] : make("div", { className: "map" });
    let grid = box.querySelector("svg");
    if (!grid) {
      grid = shape("svg", { role: "img" });
      box.append(grid);
    }
    box.querySelector("h3")?.remove();
    if (names) box.prepend(make("h3", {}, dataset.name));
    fill(grid, dataset, whole.clientWidth);
    return box;
  }));
}

function fill(grid, { name, cells, shards, settled }, width) {
  const side = cells.length <= 120 ? 18 : cells.length <= 600 ? 13 : 9, pitch = side + (side > 9 ? 4 : 3);
  const columns = Math.max(1, Math.floor((width + pitch - side) / pitch)), lines = Math.ceil(cells.length / columns);
  const height = lines * pitch;
  grid.setAttribute("viewBox", `0 0 ${width} ${height}`);
  grid.style.height = `${height}px`;
  grid.setAttribute("aria-label", `${count(shards)} shards of ${name}`);
  while (grid.childElementCount > cells.length) grid.lastChild.remove();
  for (let place = 0; place < cells.length; place++) {
    const kind = cells[place];
    const cell = grid.children[place] ?? grid.appendChild(shape("rect", {}));
    const wanted = `${columns} ${side} ${kind}`;
    if (cell.wanted !== wanted) {
      cell.wanted = wanted;
      const values = { x: place % columns * pitch, y: Math.floor(place / columns) * pitch, width: side, height: side, rx: kind === "q" ? side / 2 : side / 5, class: kind };
      for (const [attribute, value] of Object.entries(values)) cell.setAttribute(attribute, value);
    }
  }
  grid.onpointerover = ({ target }) => {
    const place = [...grid.children].indexOf(target);
    if (place >= 0) at("map-note").textContent = describe(name, cells[place], place, shards, settled?.[place]);
  };
  grid.onpointerleave = () => { at("map-note").textContent = hint(); };
  at("map-note").textContent ||= hint();
}

const hint = () => known.per_cell > 1 ? `Each square is ${count(known.per_cell)} shards; it shows what asks for attention among them.` : "";

function describe(name, kind, place, shards, settled) {
  if (known.per_cell === 1) return `${name}: shard ${count(place + 1)} of ${count(shards)}, ${WORDS[kind]}`;
  const first = place * known.per_cell, last = Math.min(shards, first + known.per_cell);
  return `${name}: shards ${count(first + 1)} to ${count(last)}, ${count(settled)} of them settled, ${WORDS[kind]}`;
}

addEventListener("resize", paint);
