"use strict";
const at = (id) => document.getElementById(id);
const say = (id, text) => { at(id).textContent = text; };
const count = (n) => Number(n).toLocaleString("en");
const COLOURS = ["var(--grain)", "var(--second)", "var(--third)", "var(--good)"];
let history = { rows: { points: [], last: null }, stage1: { points: [], last: null }, stage2: { points: [], last: null } };

const span = (seconds) => {
  if (!isFinite(seconds)) return "–";
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
};

/** The series with its last point. */
const points = (series) => series.last ? [...series.points, series.last] : series.points;

/** Lines of [[x, y], …], each with a colour, over shared axes. */
function draw(svg, lines, label) {
  const width = 480, height = 176, left = 44, bottom = 22, top = 8;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const make = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  const all = lines.flatMap((line) => line.points);
  if (all.length < 2) return make("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing yet");
  const range = (index) => [Math.min(...all.map((p) => p[index])), Math.max(...all.map((p) => p[index]))];
  const [x0, x1] = range(0), [, y1] = range(1), y0 = 0;
  const x = (value) => left + (width - left - 8) * (x1 > x0 ? (value - x0) / (x1 - x0) : 0);
  const y = (value) => height - bottom - (height - bottom - top) * (y1 > y0 ? (value - y0) / (y1 - y0) : 0);
  for (const share of [0, 0.5, 1]) {
    const value = y0 + (y1 - y0) * share;
    make("line", { x1: left, x2: width - 8, y1: y(value), y2: y(value), class: "axis" });
    make("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value >= 1000 ? `${(value / 1000).toPrecision(3)}k` : String(+value.toPrecision(3)));
  }
  make("text", { x: left, y: height - 5 }, label(x0));
  make("text", { x: width - 8, y: height - 5, "text-anchor": "end" }, label(x1));
  for (const line of lines) {
    const path = line.points.map((p, index) => `${index ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    make("path", { d: path, fill: "none", stroke: line.colour, "stroke-width": 1.8, "stroke-linejoin": "round" });
  }
}

function legend(id, entries) {
  at(id).replaceChildren(...entries.map(([colour, name, value]) => {
    const item = document.createElement("span"), dot = document.createElement("span"), bold = document.createElement("b");
    dot.className = "dot"; dot.style.background = colour; bold.textContent = value;
    item.append(dot, `${name} `, bold);
    return item;
  }));
}

function bar(id, parts, total) {
  at(id).replaceChildren(...parts.map(([colour, value]) => {
    const part = document.createElement("span");
    part.style.background = colour; part.style.width = `${total ? 100 * value / total : 0}%`;
    return part;
  }));
}

function table(id, rows) {
  at(id).replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => {
      const td = document.createElement("td");
      td.textContent = cell; if (/^[\d,. ]+( s)?$/.test(cell)) td.className = "n";
      return td;
    }));
    return row;
  }));
}

/** Rows or steps per second over the last minute or so of the series. */
function rate(series, time, value) {
  const recent = points(series).slice(-20);
  if (recent.length < 2) return NaN;
  const [first, last] = [recent[0], recent[recent.length - 1]];
  return (value(last) - value(first)) / Math.max(1e-3, (time(last) - time(first)));
}

function remember(status) {
  const add = (series, point, key) => {
    if (!point) return;
    if (series.last && series.last[key] !== point[key]) series.points.push(series.last);
    series.last = point;
    if (series.points.length > 2000) series.points = series.points.filter((_, index) => index % 2 === 0);
  };
  if (status.rows_total > 0) add(history.rows, { at_ms: Date.now(), rows: status.rows_done + status.rows_in_flight }, "rows");
  for (const stage of status.stages) add(history[stage.stage], stage.last_losses, "step");
}

function show(status) {
  document.title = `${status.name} · ${status.phase} · quern`;
  say("name", status.name); say("run", `run ${status.run_id}`); say("explanation", status.explanation);
  const badge = at("phase");
  badge.hidden = false; badge.textContent = status.paused ? `${status.phase}, paused` : status.phase; badge.className = `badge ${status.phase}`;

  say("rows", `${count(status.rows_done + status.rows_in_flight)} of ${count(status.rows_total)}`);
  say("rows-note", `${count(status.rows_kept)} captioned, ${count(status.rows_passed)} passed through, ${count(status.rows_quarantined)} in quarantine`);
  const stage = status.stages.find((stage) => stage.stage === status.phase);
  if (stage) {
    const seconds = stage.last_losses ? stage.last_losses.seconds : NaN;
    say("rate", seconds ? `${(1 / seconds).toPrecision(3)} steps/s` : "–");
    say("rate-note", stage.last_losses ? `learning rate ${stage.last_losses.lr.toExponential(2)}` : "");
    say("eta", span((stage.steps - stage.step) * seconds)); say("eta-note", `step ${count(stage.step)} of ${count(stage.steps)}`);
  } else if (status.phase === "capfilt") {
    const speed = rate(history.rows, (p) => p.at_ms / 1000, (p) => p.rows);
    const left = status.rows_total - status.rows_done - status.rows_in_flight - status.rows_quarantined;
    say("rate", isFinite(speed) ? `${speed.toPrecision(3)} rows/s` : "–"); say("rate-note", "");
    say("eta", speed > 0 ? span(Math.max(0, left) / speed) : "–"); say("eta-note", `${count(Math.max(0, left))} rows are left`);
  } else { say("rate", "–"); say("rate-note", ""); say("eta", "–"); say("eta-note", ""); }

  const shards = [["var(--good)", "done", status.shards_done], ["var(--grain)", "in work", status.shards_leased], ["var(--line)", "waiting", status.shards_pending], ["var(--bad)", "in quarantine", status.shards_quarantined]];
  bar("shards", shards.map(([colour, , value]) => [colour, value]), status.shards_total);
  legend("shards-legend", shards.map(([colour, name, value]) => [colour, name, count(value)]));

  const started = points(history.rows)[0];
  draw(at("rows-curve"), [{ colour: COLOURS[0], points: points(history.rows).map((p) => [(p.at_ms - started.at_ms) / 1000, p.rows]) }], span);
  const training = status.phase === "stage2" || history.stage2.last ? "stage2" : "stage1";
  const objectives = training === "stage2" ? ["lm"] : ["itc", "itg", "itm"];
  say("loss-title", `Loss, stage ${training.slice(-1)}`);
  draw(at("loss-curve"), objectives.map((name, index) => ({ colour: COLOURS[index], points: points(history[training]).map((p) => [p.step, p[name]]) })), (step) => `step ${count(Math.round(step))}`);
  const last = history[training].last;
  legend("loss-legend", last ? objectives.map((name, index) => [COLOURS[index], name, last[name].toFixed(3)]) : []);

  at("stages").replaceChildren(...status.stages.map((stage) => {
    const whole = document.createElement("div"), line = document.createElement("div"), track = document.createElement("div"), fill = document.createElement("span");
    line.className = "small"; track.className = "bar";
    line.textContent = `Stage ${stage.stage.slice(-1)}: step ${count(stage.step)} of ${count(stage.steps)}${stage.checkpoint ? `, checkpoint ${stage.checkpoint}` : ""}`;
    fill.style.width = `${stage.steps ? 100 * stage.step / stage.steps : 0}%`; fill.style.background = "var(--grain)";
    track.append(fill); whole.append(line, track);
    return whole;
  }));
  if (!status.stages.length) say("stages", "This run doesn't train.");
  table("workers", status.workers.map((worker) => [`${worker.id} ${worker.name}`, worker.device, worker.state, worker.doing || "nothing", `${(worker.silent_ms / 1000).toFixed(0)} s`]));
  at("quarantine").hidden = !status.quarantined_shards.length;
  table("failures", status.quarantined_shards.map((failure) => [failure.shard, count(failure.rows), failure.reason]));
}

function follow(run) {
  const events = new EventSource(`api/runs/${run}/events`);
  let over = false;
  events.onmessage = (message) => {
    const status = JSON.parse(message.data);
    over = ["done", "failed", "cancelled"].includes(status.phase);
    remember(status); show(status);
    if (over) events.close();
  };
  events.onerror = () => {
    if (over) return;
    const badge = at("phase");
    badge.hidden = false; badge.textContent = "coordinator away"; badge.className = "badge away";
  };
}

// The run that the address names (`/#RUN`), or the first that is not over, or the last.
async function begin() {
  const json = (path) => fetch(path).then((reply) => reply.json());
  const runs = await json("api/runs");
  const isOver = (run) => ["done", "failed", "cancelled"].includes(run.phase);
  const named = runs.find((run) => location.hash === `#${run.run_id}`);
  const shown = named ?? runs.find((run) => !isOver(run)) ?? runs.at(-1);
  if (!shown) return setTimeout(begin, 2000);
  history = await json(`api/runs/${shown.run_id}/history`);
  follow(shown.run_id);
}

begin().catch(() => setTimeout(begin, 2000));
