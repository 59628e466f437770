// How the run came along: what the coordinator remembers, and what came since.

import { get } from "./api.js";

const FRESH_ROWS = 2000;

export async function load(run) {
  const history = await get(`api/runs/${run}/history`);
  return {
    rows: whole(history.rows),
    stages: { stage1: whole(history.stage1), stage2: whole(history.stage2) },
  };
}

const whole = ({ points, last }) => last && points.at(-1) !== last ? [...points, last] : points;

/** Takes in a status that came. */
export function remember(history, status) {
  const rows = status.rows_done + status.rows_in_flight;
  if (status.rows_total && history.rows.at(-1)?.rows !== rows) history.rows.push({ at_ms: Date.now(), rows });
  if (history.rows.length > FRESH_ROWS) history.rows = history.rows.filter((_, index) => index % 2 === 0);
  for (const { stage, last_losses: losses } of status.stages) {
    const series = history.stages[stage];
    if (losses && series && series.at(-1)?.step !== losses.step) series.push(losses);
    if (series?.length > FRESH_ROWS) history.stages[stage] = series.filter((_, index) => index % 2 === 0);
  }
}

/** Rows per second over the last tenth of the points, and at least ten of them. */
export function speed(rows) {
  const last = rows.at(-1), first = rows[Math.max(0, rows.length - Math.max(10, Math.floor(rows.length / 10)))];
  return last && last.at_ms > first.at_ms ? Math.max(0, (last.rows - first.rows) / (last.at_ms - first.at_ms) * 1000) : NaN;
}

/** [seconds since the first point, rows per second], in at most 48 windows. */
export function rates(rows) {
  if (rows.length < 3) return [];
  const start = rows[0].at_ms, length = Math.max(1000, (rows.at(-1).at_ms - start) / 48), found = [];
  let from = rows[0];
  for (const point of rows) {
    if (point.at_ms - from.at_ms < length) continue;
    found.push([(point.at_ms - start) / 1000, Math.max(0, (point.rows - from.rows) / (point.at_ms - from.at_ms) * 1000)]);
    from = point;
  }
  return found;
}
