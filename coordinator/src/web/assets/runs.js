// The runs to choose from. `#RUN` in the address says which one is shown.

import { get } from "./api.js";
import { at, make } from "./dom.js";
import { isOver, phaseName } from "./text.js";

/** Lists them and gives the one to show: as the address says, or the first that is not over, or the last. */
export async function choose() {
  const runs = await get("api/runs");
  const named = runs.find((run) => location.hash === `#${run.run_id}`);
  const shown = named ?? runs.find((run) => !isOver(run.phase)) ?? runs.at(-1);
  list(runs, shown);
  return shown?.run_id;
}

function list(runs, shown) {
  at("runs").hidden = runs.length < 2;
  at("runs").replaceChildren(...runs.map((run) => {
    const bar = make("span", { className: run.phase === "done" ? "bar done" : "bar" }, make("span"));
    const share = ["stage1", "stage2"].includes(run.phase) ? run.step / run.steps : run.rows_done / run.rows_total;
    bar.firstChild.style.width = `${100 * (run.phase === "done" ? 1 : share || 0)}%`;
    const badge = make("span", { className: `badge ${run.phase}` }, run.paused ? "paused" : phaseName(run.phase));
    const link = make("a", { href: `#${run.run_id}` }, make("span", {}, run.name, badge), bar);
    if (run.run_id === shown?.run_id) link.setAttribute("aria-current", "true");
    return link;
  }));
}
