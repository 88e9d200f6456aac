// Why a pair is not linked: chosen in the matrix, told below it, asked again with every second.

import { byId, el, put } from "./dom.js";

let chosen = null;

const keyOf = (decoder, prompt) => `${decoder}\n${prompt}`;

export const isChosen = (decoder, prompt) =>
  chosen !== null && keyOf(decoder, prompt) === keyOf(chosen.decoder, chosen.prompt);

// Listens once for the whole matrix, whose cells are made anew each second.
export function listen(ask) {
  byId("matrix").addEventListener("click", (event) => {
    const { decoder, prompt } = event.target.closest("button")?.dataset ?? {};
    if (decoder === undefined) return;
    choose(isChosen(decoder, prompt) ? null : { decoder, prompt });
    showExplanation(ask).catch((error) => told([`The daemon does not answer: ${error.message}`]));
  });
  byId("links").addEventListener("keydown", (event) => {
    if (event.key === "Escape") choose(null);
  });
}

function choose(pair) {
  chosen = pair;
  byId("explanation").hidden = pair === null;
  put("explanation");
  for (const cell of byId("matrix").querySelectorAll("button")) {
    cell.setAttribute("aria-expanded", String(isChosen(cell.dataset.decoder, cell.dataset.prompt)));
  }
}

export async function showExplanation(ask) {
  if (chosen === null) return;
  const asked = chosen;
  try {
    const said = await ask(`/v1/explain?${new URLSearchParams(asked)}`);
    if (chosen === asked) told(said.pairs.flatMap((pair) => pair.lines));
  } catch (error) {
    // A refusal is an answer, too: the node may have gone meanwhile.
    if (!error.isRefusal) throw error;
    if (chosen === asked) told([error.message]);
  }
}

function told(lines) {
  if (chosen === null) return;
  put("explanation",
    el("h3", {}, `${chosen.decoder} \u2192 ${chosen.prompt}`),
    el("ul", {}, ...lines.map((line) => el("li", {}, line))));
}
