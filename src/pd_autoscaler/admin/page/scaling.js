// Why the target moved or did not, with everything it was decided from: asked while it is open.

import { byId, clock, el, put } from "./dom.js";

let cycleShown = null;

export function listenScaling(ask) {
  byId("scaling").addEventListener("toggle", () => {
    cycleShown = null;
    showScaling(ask).catch((error) => told([`The daemon does not answer: ${error.message}`]));
  });
}

// Once a cycle: nothing in it changes before the next one, but ages.
export async function showScaling(ask, cycle = undefined) {
  if (!byId("scaling").open || (cycle !== undefined && cycle === cycleShown)) return;
  const said = await ask("/v1/explain");
  cycleShown = said.cycle;
  const head = el("p", { class: "dim" }, `Cycle ${said.cycle}, at ${clock(said.at_unix_s)}`);
  const rows = said.scaling.parts.flatMap((part) => [
    el("dt", {}, part.about),
    el("dd", {}, ...part.lines.map((line) => el("div", {}, line))),
  ]);
  put("scaling-parts", head, el("dl", {}, ...rows));
}

function told(lines) {
  put("scaling-parts", ...lines.map((line) => el("p", {}, line)));
}
