// Asks the daemon every second and shows what it said, or that it says nothing.

import { Chart } from "./chart.js";
import { byId, duration, put } from "./dom.js";
import { listen, showExplanation } from "./explain.js";
import { pastOf, showHistory } from "./history.js";
import { showLinks } from "./links.js";
import { listenScaling, showScaling } from "./scaling.js";
import { showState } from "./state.js";

const PERIOD_MS = 1000;
const ANSWER_MS = 5000;
const HISTORY = 200;
const SHOWN = 25;

const chart = new Chart(byId("chart"));
let answeredAt = null;
let cycleShown = null;

class NotYet extends Error {}

class Refusal extends Error {
  isRefusal = true;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
  const said = await answer.json();
  if (answer.status === 503) throw new NotYet(said.error);
  if (answer.status === 400 || answer.status === 404) throw new Refusal(said.error);
  if (!answer.ok) throw new Error(said.error);
  return said;
}

async function poll() {
  try {
    const [state, links] = await Promise.all([ask("/v1/state"), ask("/v1/links")]);
    showState(state);
    showLinks(links);
    await showExplanation(ask);
    await showScaling(ask, state.cycle);
    await showPast(state);
    answered();
  } catch (error) {
    silent(error);
  }
  setTimeout(poll, PERIOD_MS);
}

async function showPast(state) {
  if (state.cycle === cycleShown) return;
  const past = await ask(`/v1/history?limit=${HISTORY}`);
  if (cycleShown === null) chart.seed(pastOf(past.entries, state));
  cycleShown = state.cycle;
  showHistory(past.entries.slice(0, SHOWN));
  const role = (name) => ({ target: state.target[name], serving: state.actual[name].serving });
  chart.add({ at: state.at_unix_s, prompt: role("prompt"), decoder: role("decoder") });
  chart.draw();
}

function answered() {
  answeredAt = performance.now();
  byId("unreachable").hidden = true;
  document.body.classList.remove("stale");
}

function silent(error) {
  const banner = byId("unreachable");
  banner.hidden = false;
  document.body.classList.add("stale");
  if (error instanceof NotYet) {
    put("unreachable", `Not ready yet: ${error.message}.`);
    return;
  }
  const why = error instanceof TypeError ? "no connection"
    : error.name === "TimeoutError" ? `no answer within ${ANSWER_MS / 1000} s` : error.message;
  const since = answeredAt === null ? "Nothing was seen of it yet."
    : `What you see is ${duration((performance.now() - answeredAt) / 1000)} old.`;
  put("unreachable", `The daemon does not answer (${why}). ${since} Asking again every second.`);
}

window.addEventListener("resize", () => chart.draw());
listen(ask);
listenScaling(ask);
poll();
