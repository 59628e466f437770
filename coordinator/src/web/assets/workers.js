// The workers and their devices.

import { at, empty, make, say } from "./dom.js";
import { count, span } from "./text.js";

const SHOWN = 200;
const ORDER = { denied: 0, draining: 1, alive: 2, lost: 3 };

/** `drain` is called with a worker's id; without it there are no buttons. */
export function show(status, drain) {
  const workers = [...status.workers].sort((a, b) => ORDER[a.state] - ORDER[b.state]);
  const alive = workers.filter((worker) => worker.state !== "lost").length;
  say("workers-count", workers.length ? `${count(alive)} here${workers.length > alive ? `, ${count(workers.length - alive)} lost` : ""}` : "");
  if (!workers.length) return at("workers").replaceChildren(empty("No worker has joined. Start one with: quern-worker --coordinator URL"));
  const head = ["Worker", "Device", "State", "Doing", "Heard"];
  const table = make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)), ...(drain ? [make("th", {})] : []))),
    make("tbody", {}, ...workers.slice(0, SHOWN).map((worker) => row(worker, drain))));
  const more = workers.length > SHOWN ? [make("p", { className: "note" }, `and ${count(workers.length - SHOWN)} more`)] : [];
  at("workers").replaceChildren(table, ...more);
}

function row(worker, drain) {
  const memory = worker.memory_bytes ? `, ${(worker.memory_bytes / 2 ** 30).toFixed(0)} GiB` : "";
  const cells = [
    make("td", { className: "who" }, `${worker.id} `, make("span", {}, worker.name)),
    make("td", { className: "n" }, `${worker.device}${memory}`),
    make("td", {}, make("span", { className: `state ${worker.state}` }, worker.state), worker.reason ? `: ${worker.reason}` : ""),
    make("td", { className: "doing" }, worker.doing || "nothing"),
    make("td", { className: "n" }, `${span(worker.silent_ms / 1000)} ago`),
  ];
  if (drain) {
    const button = make("button", { type: "button", className: "small", onclick: () => drain(worker.id) }, "Drain");
    cells.push(make("td", { className: "act" }, ...(["alive", "denied"].includes(worker.state) ? [button] : [])));
  }
  return make("tr", {}, ...cells);
}
