// Where the run stands: its phases, how much is done, how fast, how long it will take; and its curves.

import { draw } from "./chart.js";
import { at, legend, make, say } from "./dom.js";
import { rates, speed } from "./history.js";
import { brief, count, isOver, phaseName, span } from "./text.js";

export function show(status, history) {
  const over = isOver(status.phase);
  say("name", status.name);
  say("explanation", status.explanation);
  const badge = at("phase");
  badge.hidden = false;
  badge.className = `badge ${status.phase}`;
  badge.textContent = status.paused ? "paused" : phaseName(status.phase);
  document.title = `${badge.textContent} · ${status.name} · quern`;
  phases(status);
  const stage = !over && status.stages.find((stage) => stage.stage === status.phase);
  if (stage) training(stage);
  else rows(status, history, over);
  results(status);
  curves(status, history);
}

function phases(status) {
  const order = ["planning"];
  if (status.rows_total || !status.stages.length || status.phase === "capfilt") order.push("capfilt");
  order.push(...status.stages.map((stage) => stage.stage), ...status.tasks.map((task) => task.task), "done");
  const now = order.indexOf(status.phase);
  const broken = ["failed", "cancelled"].includes(status.phase);
  const kind = (place) => status.phase === "done" || place < now ? "past" : place === now ? "now" : "";
  const items = order.map((phase, place) => make("li", { className: kind(place) }, phaseName(phase)));
  if (broken) items.splice(-1, 1, make("li", { className: "now broken" }, status.phase));
  at("phases").replaceChildren(...items);
}

function figure(id, value, unit, note) {
  at(id).replaceChildren(value, ...(unit ? [make("small", {}, ` ${unit}`)] : []));
  say(`${id}-note`, note);
}

function fill(share, over) {
  const bar = at("bar"), percent = Math.max(0, Math.min(100, 100 * share)) || 0;
  bar.className = over ? "bar done" : "bar";
  bar.firstElementChild.style.width = `${percent}%`;
  bar.setAttribute("aria-valuenow", percent.toFixed(0));
}

function training({ stage, step, steps, last_losses: losses, checkpoint }) {
  const seconds = losses?.seconds || NaN;
  say("done-title", `Steps of ${phaseName(stage)}`);
  figure("done", count(step), `of ${count(steps)}`, checkpoint ? `last checkpoint ${checkpoint}` : "no checkpoint yet");
  figure("rate", brief(1 / seconds), "steps/s", losses ? `learning rate ${losses.lr.toExponential(2)}` : "");
  figure("eta", span((steps - step) * seconds), "", "");
  fill(step / steps, false);
}

function rows(status, history, over) {
  const through = status.rows_done + status.rows_in_flight;
  const settled = Math.min(status.rows_total, through);
  const left = Math.max(0, status.rows_total - through);
  const fast = status.phase === "capfilt" && !status.paused ? speed(history.rows) : NaN;
  const what = [[status.rows_kept, "captioned"], [status.rows_passed, "passed through"], [status.rows_quarantined, "in quarantine"]];
  const note = what.filter(([rows]) => rows).map(([rows, word]) => `${count(rows)} ${word}`).join(", ");
  say("done-title", "Rows");
  figure("done", count(settled), status.rows_total ? `of ${count(status.rows_total)}` : "", note);
  figure("rate", brief(fast), isFinite(fast) ? "rows/s" : "", status.paused ? "paused" : "");
  figure("eta", over ? "–" : fast > 0 ? span(left / fast) : "–", "", left && !over ? `${count(left)} rows are left` : "");
  fill(settled / status.rows_total, status.phase === "done");
}

/** What is done with what was trained, and what came of it. */
function results({ tasks }) {
  at("results").hidden = !tasks.length;
  at("tasks").replaceChildren(...tasks.flatMap(({ task, done, path, summary }) => [
    make("dt", {}, phaseName(task)),
    ...(done ? [...summary.split("\n"), path] : ["not done yet"]).map((line) => make("dd", {}, line)),
  ]));
}

function curves(status, history) {
  draw(at("rate-curve"), [rates(history.rows)], span, "Appears when rows have been made for a few seconds.");
  const stage = status.phase === "stage2" || history.stages.stage2.length ? "stage2" : "stage1";
  const objectives = stage === "stage2" ? ["lm"] : ["itc", "itg", "itm"];
  const losses = history.stages[stage];
  say("loss-title", losses.length ? `Loss, ${phaseName(stage)}` : "Loss");
  const none = status.stages.length ? "Appears when training has begun." : "This run doesn’t train.";
  draw(at("loss-curve"), objectives.map((name) => losses.map((at) => [at.step, at[name] ?? 0])), (step) => `step ${count(Math.round(step))}`, none);
  const last = losses.at(-1);
  legend("loss-legend", last ? objectives.map((name, index) => [`b${index}`, name.toUpperCase(), (last[name] ?? 0).toFixed(3)]) : []);
}
