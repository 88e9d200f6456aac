// The link matrix as a heat map: decoders by prompts, a cell per pair.

import { byId, duration, el, put } from "./dom.js";
import { isChosen } from "./explain.js";

// A mark repeats what the colour says, for eyes that do not tell colours apart.
const LOOKS = {
  linked: ["good", "\u2713"], linking: ["coming", "\u2026"], unlinking: ["warn", "\u2212"],
  failed: ["bad", "\u00d7"], suspect: ["bad", "!"], absent: ["idle", ""],
};

export function showLinks(links) {
  showCounts(links);
  showMatrix(links);
  showTrouble(links);
}

const OFF = "Engines connect by themselves, links are off (links.linker: none).";

function showCounts(links) {
  const counts = Object.entries(links.counts).filter(([, number]) => number > 0);
  const left = links.is_complete ? "" : "; linked pairs are left out, there are too many";
  put("link-counts", counts.map(([state, number]) => `${number} ${state}`).join(", ") + left);
  byId("link-legend").hidden = !links.is_meshed;
  if (byId("link-legend").childElementCount) return;
  put("link-legend", ...Object.entries(LOOKS).map(([state, [look, mark]]) =>
    el("span", {}, el("span", { class: `mark ${look}` }, mark), state)));
}

function showMatrix(links) {
  const { decoders, prompts } = links;
  if (!links.is_meshed) {
    put("matrix", el("p", { class: "dim" }, OFF));
    return;
  }
  if (!decoders.length || !prompts.length) {
    put("matrix", el("p", { class: "dim" }, "No pair of a decoder and a prompt node yet."));
    return;
  }
  const pairs = new Map(links.pairs.map((pair) => [`${pair.decoder}\n${pair.prompt}`, pair]));
  const grid = el("div", { class: prompts.length > 16 ? "matrix dense" : "matrix" });
  const cell = prompts.length > 16 ? 16 : 34;
  grid.style.gridTemplateColumns = `max-content repeat(${prompts.length}, minmax(${cell}px, 1fr))`;
  const upright = prompts.length > 6 ? "head upright" : "head";
  const shared = sharedStart(prompts);
  const short = (id) => (shared ? `\u2026${id.slice(shared)}` : id);
  byId("links").classList.toggle("full", prompts.length > 16);
  grid.append(el("span"),
    ...prompts.map((prompt) => el("span", { class: upright, title: prompt }, short(prompt))));
  for (const decoder of decoders) {
    grid.append(side(decoder, links.hung_calls[decoder]));
    for (const prompt of prompts) {
      grid.append(cellOf(decoder, prompt, pairs.get(`${decoder}\n${prompt}`), links.is_complete));
    }
  }
  const box = byId("matrix");
  const [left, top] = [box.scrollLeft, box.scrollTop];
  const { decoder, prompt } = box.contains(document.activeElement) ? document.activeElement.dataset : {};
  box.replaceChildren(grid);
  box.scrollTo(left, top);
  // The keyboard stays where it was, though the cell is another.
  [...grid.querySelectorAll("button")]
    .find((cell) => cell.dataset.decoder === decoder && cell.dataset.prompt === prompt)
    ?.focus({ preventScroll: true });
}

// How many characters all of these long names begin with: heads show where they differ.
function sharedStart(names) {
  if (names.length < 2 || Math.max(...names.map((name) => name.length)) < 12) return 0;
  const [first] = names;
  let length = 0;
  while (length < first.length && names.every((name) => name[length] === first[length])) length += 1;
  return Math.max(first.lastIndexOf("-", length - 1), first.lastIndexOf(".", length - 1), 0);
}

function side(decoder, hung) {
  const words = hung ? `${decoder} \u26a0 ${hung} hung` : decoder;
  const title = hung ? `${decoder}: ${hung} native call(s) past their deadline` : decoder;
  return el("span", { class: hung ? "side hung" : "side", title }, words);
}

function cellOf(decoder, prompt, pair, isComplete) {
  const state = pair?.state ?? (isComplete ? "absent" : "linked");
  const [look, mark] = LOOKS[state];
  const title = `${decoder} \u2192 ${prompt}: ${pair ? told(pair) : state}`;
  const classes = `cell ${look} ${state}`;
  if (state === "linked") return el("div", { class: classes, title }, mark);
  return el("button", {
    class: classes, title, type: "button", "aria-label": title, "data-decoder": decoder,
    "data-prompt": prompt, "aria-controls": "explanation",
    "aria-expanded": String(isChosen(decoder, prompt)),
  }, mark);
}

function told(pair) {
  const parts = [`${pair.state} for ${duration(pair.age_s)}`];
  return parts.concat(causes(pair)).join(", ");
}

// Code and tries are said once, whoever else repeats them.
const causes = (pair) => [
  pair.code, pair.why === pair.code ? "" : pair.why, pair.wait, tries(pair),
  pair.next_try_s === null ? "" : nextTry(pair),
].filter(Boolean);

const tries = (pair) =>
  pair.attempts === 0 ? "" : `${pair.attempts} failed ${pair.attempts === 1 ? "try" : "tries"}`;

const nextTry = (pair) => (pair.next_try_s > 0 ? `next try in ${duration(pair.next_try_s)}` : "next try now");

function showTrouble(links) {
  const troubled = links.pairs.filter((pair) => pair.state === "failed" || pair.state === "suspect");
  if (!troubled.length) {
    put("trouble");
    return;
  }
  const rows = troubled.slice(0, 20).map((pair) => el("tr", {},
    el("td", { class: "words" }, `${pair.decoder} \u2192 ${pair.prompt}`),
    el("td", {}, el("span", { class: "state bad" }, pair.state)),
    el("td", { class: "number" }, duration(pair.age_s)),
    el("td", { class: "words" }, causes(pair).join(", ")),
  ));
  put("trouble", el("table", {}, ...rows));
}
