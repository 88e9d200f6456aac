// What the journal tells: the list of changes, and the past of the chart.

import { clock, el, put } from "./dom.js";

const LOOKS = {
  target: "coming", hold: "warn", mode: "warn", unknown: "warn", alarm: "bad", failed: "bad",
  done: "good", alarm_over: "good",
};

export function showHistory(entries) {
  if (!entries.length) {
    put("history", el("tbody", {}, el("tr", {}, el("td", { class: "dim" }, "Nothing has changed yet."))));
    return;
  }
  put("history", el("tbody", {}, ...entries.map((entry) => el("tr", {},
    el("td", { class: "dim", title: new Date(1000 * entry.at_unix_s).toString() }, clock(entry.at_unix_s)),
    el("td", {}, el("span", { class: `state ${LOOKS[entry.kind] ?? "idle"}` }, entry.kind.replaceAll("_", " "))),
    el("td", { class: "words" }, entry.text),
  ))));
}

// Walk back from what is to what was: each entry's change is undone, newest first.
export function pastOf(entries, state) {
  const targets = entries.filter((entry) => targetIn(entry) !== null);
  const serving = { prompt: state.actual.prompt.serving, decoder: state.actual.decoder.serving };
  const samples = [];
  for (const entry of entries) {
    const told = targets.find((target) => target.at_unix_s <= entry.at_unix_s);
    const target = told ? targetIn(told) : null;
    const role = (name) => ({ target: target?.[name] ?? null, serving: serving[name] });
    samples.push({ at: entry.at_unix_s, prompt: role("prompt"), decoder: role("decoder") });
    undo(entry, serving);
  }
  return samples.reverse();
}

function targetIn(entry) {
  return entry.kind === "target" ? { prompt: entry.prompt, decoder: entry.decoder } : null;
}

function undo(entry, serving) {
  const { kind, role, before, after } = entry;
  if (kind !== "move" || !(role in serving)) return;
  if (after === "serving") serving[role] = Math.max(0, serving[role] - 1);
  if (before === "serving") serving[role] += 1;
}
