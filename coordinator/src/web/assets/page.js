// The page: which run is shown, and what happens when its status changes.

import * as captions from "./captions.js";
import { at } from "./dom.js";
import { load, remember } from "./history.js";
import * as map from "./map.js";
import * as progress from "./progress.js";
import * as quarantine from "./quarantine.js";
import { choose } from "./runs.js";
import * as steer from "./steer.js";
import { isOver } from "./text.js";
import * as workers from "./workers.js";

const LOOK_AGAIN_MS = 2000, RUNS_MS = 5000;
let events = null, shown = null;

function link(text, kind) {
  at("link").textContent = text;
  at("link").className = `link ${kind}`;
}

/** Calls what is given at most every second, and once more when it was called meanwhile. */
function paced(work) {
  let busy = false, again = false;
  return async function call() {
    if (busy) { again = true; return; }
    busy = true;
    await work().catch(() => {});
    setTimeout(() => {
      busy = false;
      if (again) { again = false; call(); }
    }, 1000);
  };
}

async function follow(run) {
  events?.close();
  shown = run;
  map.clear();
  const history = await load(run);
  if (shown !== run) return;
  const drawMap = paced(() => shown === run ? map.refresh(run) : Promise.resolve());
  const drawCaptions = paced(() => shown === run ? captions.refresh() : Promise.resolve());
  const drawRuns = paced(choose);
  let standings = "", done = -1, stands = "", over = false;
  captions.begin(run);
  const source = new EventSource(`api/runs/${run}/events`);
  events = source;
  source.onopen = () => link("live", "live");
  source.onmessage = (message) => {
    const status = JSON.parse(message.data);
    over = isOver(status.phase);
    remember(history, status);
    progress.show(status, history);
    steer.show(status);
    map.showLegend(status);
    workers.show(status, steer.drain(status));
    quarantine.show(status);
    const { shards_pending, shards_leased, shards_done, shards_quarantined } = status;
    const now = [shards_pending, shards_leased, shards_done, shards_quarantined, status.attempts_live].join();
    if (now !== standings) { standings = now; drawMap(); }
    if (shards_done !== done) { if (done >= 0) drawCaptions(); done = shards_done; }
    const stand = `${status.phase} ${status.paused}`;
    if (stand !== stands) { if (stands) drawRuns(); stands = stand; }
    document.documentElement.dataset.version = status.version;
    if (over) { source.close(); link("finished", ""); }
  };
  source.onerror = () => { if (!over) link("coordinator away, trying again", "away"); };
}

async function begin() {
  const run = await choose();
  if (run && run !== shown) await follow(run);
  if (!run) at("explanation").textContent = "Nothing was handed in. Hand a recipe in with: quern submit RECIPE";
}

async function start() {
  try {
    await steer.begin();
    await begin();
    setInterval(() => begin().catch(() => {}), RUNS_MS);
  } catch {
    link("coordinator away, trying again", "away");
    setTimeout(start, LOOK_AGAIN_MS);
  }
}

addEventListener("hashchange", () => begin().catch(() => {}));
start();
