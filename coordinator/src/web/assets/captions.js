// Rows that were accepted, the newest parts first: every candidate, its score, and whether it is kept.

import { get } from "./api.js";
import { at, empty, make } from "./dom.js";
import { count } from "./text.js";

let run = null, next = "", newest = "", shown = 0;

const path = (what, cursor) => `api/runs/${run}/${what}?at=${encodeURIComponent(cursor)}`;

/** Begins with a run. */
export async function begin(named) {
  [run, next, newest, shown] = [named, "", "", 0];
  at("newest").hidden = at("older").hidden = true;
  at("captions").replaceChildren(empty("Appears when the first part is accepted."));
  await fresh();
}

/** More was accepted: shows it, or offers it to whoever has begun to read. */
export async function refresh() {
  if (shown > 12 || scrollY > at("captions").offsetTop - innerHeight / 2 && shown) {
    at("newest").hidden = false;
    return;
  }
  await fresh();
}

async function fresh() {
  const asked = run;
  const page = await get(path("captions", "")).catch((error) => ({ failed: error.message }));
  if (asked !== run) return;
  if (page.failed) return at("captions").replaceChildren(empty(page.failed));
  if (!page.rows.length || page.at === newest) return;
  [newest, shown] = [page.at, 0];
  at("newest").hidden = true;
  at("captions").replaceChildren();
  await append(page);
}

async function append(page) {
  next = page.next;
  shown += page.rows.length;
  at("older").hidden = !next;
  const cards = make("div", { className: "cards" }, ...page.rows.map(card));
  at("captions").append(cards);
  const images = await get(path("images", page.at)).catch(() => ({}));
  page.rows.forEach((row, index) => {
    const box = cards.children[index].firstElementChild, source = images[row.row];
    if (source?.startsWith("data:image/")) box.replaceWith(make("img", { className: "picture", alt: "", src: source }));
    else box.textContent = "no image";
  });
}

function card({ dataset, file, row, key, captions }) {
  const where = `${dataset} · ${file} · row ${count(row)}${key ? ` · ${key}` : ""}`;
  return make("article", { className: "card" }, make("div", { className: "picture" }),
    make("div", {}, make("p", { className: "where" }, where), make("ol", {}, ...captions.map(line))));
}

function line({ text, source, score, rank }) {
  const measure = make("i");
  measure.style.width = `${100 * Math.max(0, Math.min(1, score ?? 0))}%`;
  const number = make("span", { className: "score", title: "similarity of image and caption" }, score === null ? "–" : score.toFixed(3), measure);
  const tags = [make("span", { className: "tag" }, source === "web" ? "web" : "written")];
  if (rank !== null) tags.push(make("span", { className: "tag keeps" }, score === null ? "passed" : "kept"));
  return make("li", { className: rank === null ? "" : "kept" }, number, make("span", { className: "text" }, make("bdi", {}, text), ...tags));
}

at("newest").onclick = () => { shown = 0; newest = ""; fresh(); };
at("older").onclick = async () => {
  at("older").disabled = true;
  try {
    const page = await get(path("captions", next));
    if (page.rows.length) await append(page);
    else at("older").hidden = true;
  } catch (error) {
    at("captions").append(empty(error.message));
    at("older").hidden = true;
  } finally {
    at("older").disabled = false;
  }
};
