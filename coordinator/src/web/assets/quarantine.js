// What could not be processed, by reason; and shards that were given up as a whole.

import { at, empty, make, say } from "./dom.js";
import { count, plural } from "./text.js";

export function show(status) {
  say("quarantine-count", status.rows_quarantined ? plural(status.rows_quarantined, "row") : "");
  if (!status.rows_quarantined && !status.quarantined_shards.length) {
    return at("quarantine").replaceChildren(empty("Nothing so far: every row could be processed."));
  }
  const most = Math.max(1, ...status.quarantine.map((reason) => reason.rows));
  const reasons = make("div", { className: "reasons" }, ...status.quarantine.map((reason) => {
    const track = make("div", { className: "track" }, make("span"));
    track.firstChild.style.width = `${100 * reason.rows / most}%`;
    const name = make("div", {}, words(reason), reason.stage ? make("small", {}, ` at ${reason.stage}`) : "");
    return make("div", {}, name, track, make("div", { className: "rows" }, count(reason.rows)));
  }));
  const shards = status.quarantined_shards;
  const wasOpen = at("quarantine").querySelector("details")?.open ?? false;
  const rows = shards.map((shard) => make("tr", {},
    make("td", {}, shard.shard), make("td", { className: "n" }, plural(shard.rows, "row")), make("td", { className: "doing" }, shard.reason)));
  const given = make("details", { open: wasOpen }, make("summary", {}, `${plural(status.shards_quarantined, "shard")} given up as a whole`),
    make("table", {}, make("tbody", {}, ...rows)));
  at("quarantine").replaceChildren(reasons, ...(shards.length ? [given] : []));
}

const words = ({ reason }) => reason ? reason.replaceAll("_", " ") : "reason not told";
