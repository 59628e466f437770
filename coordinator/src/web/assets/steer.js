// What an operator may ask for. Whoever may only look sees none of it, and a way to give a token.

import { get, login, post } from "./api.js";
import { at, make } from "./dom.js";
import { isOver } from "./text.js";

let may = false, run = null, drawn = "";

export async function begin() {
  may = (await get("api/me")).may_steer;
  at("token").hidden = may;
}

async function ask(command, body = {}) {
  const refusal = at("refusal");
  refusal.hidden = true;
  try {
    await post(`api/runs/${run}/${command}`, body);
  } catch (error) {
    refusal.textContent = error.message;
    refusal.hidden = false;
  }
}

/** What a click on a worker's button does; none for whoever may only look, or when the run is over. */
export const drain = (status) => may && !isOver(status.phase) ? (worker) => ask("drain", { worker }) : null;

export function show(status) {
  run = status.run_id;
  const buttons = [];
  if (may && !isOver(status.phase)) buttons.push(status.paused ? "resume" : "pause", "cancel");
  if (may && status.phase === "failed") buttons.push("resume");
  if (drawn === `${run} ${buttons}`) return;
  drawn = `${run} ${buttons}`;
  at("steer").hidden = !buttons.length;
  at("steer").replaceChildren(...buttons.map((command) => {
    const name = command[0].toUpperCase() + command.slice(1);
    const button = make("button", { type: "button", className: command === "cancel" ? "danger" : "" }, name);
    button.dataset.command = command;
    button.onclick = () => (command !== "cancel" || confirm("Cancel this run for good? What was accepted stays.")) && ask(command);
    return button;
  }));
}

at("token").onsubmit = async (event) => {
  event.preventDefault();
  const refusal = await login(at("token-value").value);
  if (refusal) at("token").querySelector("p").textContent = refusal;
};
