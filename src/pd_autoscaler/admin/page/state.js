// The newest cycle: roles, reasons, nodes.

import { byId, count, duration, el, latency, perSecond, put, share, signal, stateLook } from "./dom.js";

const MODES = {
  paused: "Paused: the policy does not move the target; links are repaired and lost nodes replaced. \u2018pd-autoscaler resume\u2019 ends it.",
  stopped: "Stopped: no action is taken at all, not even repairs. \u2018pd-autoscaler resume\u2019 ends it.",
  advisory: "Advisory: it decides and reports, and never acts (loop.advisory).",
};

const SIGNALS = {
  prompt: [["queue", "queue", count], ["ttft_p95_s", "TTFT p95", latency],
    ["arrival_rate", "arrivals", perSecond], ["token_rate", "tokens", perSecond]],
  decoder: [["running", "running", count], ["tpot_p95_s", "TPOT p95", latency],
    ["kv_used_mean", "KV used", share], ["token_rate", "tokens", perSecond]],
};

export function showState(state) {
  put("version", state.version);
  put("cycle", `cycle ${state.cycle}, ${duration(state.age_s)} ago`);
  byId("mode").className = `pill ${state.mode}`;
  put("mode", state.mode);
  byId("mode-banner").hidden = !(state.mode in MODES);
  put("mode-banner", MODES[state.mode] ?? "");
  byId("alarms").hidden = state.alarms.length === 0;
  put("alarms", ...state.alarms.map((alarm) => el("li", {}, alarm)));
  showRole("prompt", state);
  showRole("decoder", state);
  showWhy(state);
  showNodes(state.nodes);
  showFoot(state);
}

function showRole(role, state) {
  const actual = state.actual[role];
  const signals = state.signals[role];
  const notes = ["coming", "leaving", "standby", "failed"]
    .filter((name) => actual[name]).map((name) => `${actual[name]} ${name}`);
  const stale = signals.serving - signals.fresh;
  if (stale > 0) notes.push(`${stale} without fresh metrics`);
  const rows = SIGNALS[role].flatMap(([name, words, show]) => [
    el("dt", {}, words), el("dd", { class: "number" }, signal(signals[name], show)),
  ]);
  put(role,
    el("h2", {}, role === "prompt" ? "Prompt nodes" : "Decoder nodes"),
    el("div", { class: "counts" },
      el("span", { class: "serving" }, actual.serving),
      el("span", {}, `serving, target ${state.target[role]}`)),
    el("p", {}, notes.join(", ") || "none coming or leaving"),
    el("dl", {}, ...rows));
}

const ratio = (target) => `${target.prompt}P:${target.decoder}D`;

function decided(decision) {
  if (decision.kind === "hold") return [`hold, ${decision.reason.replaceAll("_", " ")}`, decision.detail];
  return [ratio(decision), decision.why];
}

// What a gate says with its numbers is said once.
function guarded({ decision, guarded: left, gates }) {
  if (JSON.stringify(left) === JSON.stringify(decision)) return ["", "as the policy"];
  const [head, detail] = decided(left);
  return [head, gates.some((gate) => gate.detail && detail.includes(gate.detail)) ? "" : detail];
}

// Where a shadow policy would be; what keeps it there is its guard's answer.
function shadowed({ target, guarded: left }) {
  const words = left.kind === "hold" ? decided(left).filter(Boolean).join(": ") : left.why;
  return [ratio(target), words];
}

const gateName = (gate) =>
  gate.reason.replaceAll("_", " ") + (gate.role === null ? "" : ` (${gate.role})`);

function showWhy(state) {
  const row = (name, [head, words]) => [
    el("dt", {}, name),
    el("dd", {}, el("b", {}, head), head && words ? ` \u2014 ${words}` : words),
  ];
  // Where the policy holds, its hold is the only gate.
  const gates = state.decision.kind === "hold" ? [] : state.gates;
  const actions = state.plan.waves.flat().map((action) => action.text);
  put("why",
    ...row("target", [ratio(state.target), state.target.why]),
    ...row("policy", decided(state.decision)),
    ...row("guard", guarded(state)),
    ...gates.flatMap((gate) => row("gate", [gateName(gate), gate.detail])),
    ...state.shadows.flatMap((shadow) => row(`shadow ${shadow.name}`, shadowed(shadow))),
    ...row("bottleneck", [state.attribution.bottleneck, state.attribution.evidence]),
    ...(actions.length ? row("doing", ["", some(actions)]) : []),
    ...(state.plan.notes.length ? row("not done", ["", some(state.plan.notes)]) : []),
    ...(state.is_synced ? [] : row("not synced", ["", "not every node has answered since the start"])),
  );
}

function some(sentences) {
  const more = sentences.length - 4;
  return sentences.slice(0, 4).join("; ") + (more > 0 ? `; and ${more} more` : "");
}

function showNodes(nodes) {
  put("node-counts", String(nodes.length));
  const head = ["node", "state", "for", "router", "queue", "running", "KV"];
  const numbers = new Set(["for", "queue", "running", "KV"]);
  const ordered = [...nodes].sort((a, b) =>
    a.role === b.role ? a.id.localeCompare(b.id, "en", { numeric: true }) : a.role === "prompt" ? -1 : 1);
  put("nodes",
    el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { class: numbers.has(name) ? "number" : name === "router" ? "middle" : "" }, name)))),
    el("tbody", {}, ...ordered.flatMap((node) => nodeRows(node, head.length))));
}

function nodeRows(node, columns) {
  const ready = node.ready_in_s === null ? ""
    : node.ready_in_s > 0 ? `ready in about ${duration(node.ready_in_s)}` : "later than usual";
  const why = [node.state === "serving" ? "" : node.why, ready].filter(Boolean).join("; ");
  const name = el("td", { title: `${node.role} ${node.incarnation}` }, node.id);
  const state = el("td", {}, el("span", { class: `state ${stateLook(node.state)}`, title: node.why }, node.state));
  if (node.is_suspect) state.append(" ", el("span", { class: "state bad" }, "suspect"));
  if (node.hung_calls) state.append(" ", el("span", { class: "state bad" }, `${node.hung_calls} hung`));
  const number = (words) => el("td", { class: "number" }, words);
  const found = node.signals ?? {};
  const row = el("tr", {}, name, state, number(duration(node.age_s)),
    routerCell(node.is_published),
    number(signal(found.queue, count)), number(signal(found.running, count)),
    number(signal(found.kv_used, share)));
  if (!why) return [row];
  return [row, el("tr", { class: "sub" }, el("td", { colspan: columns }, why))];
}

function routerCell(isPublished) {
  if (isPublished === null) return el("td", { class: "middle", title: "the router does not say" }, "?");
  const title = isPublished ? "the router may send it requests" : "the router sends it nothing new";
  return el("td", { class: "middle", title }, isPublished ? "\u2713" : "\u2013");
}

function showFoot(state) {
  const { limits } = state;
  put("limits", `Limits: prompt ${limits.prompt_min}\u2013${limits.prompt_max}, decoder ` +
    `${limits.decoder_min}\u2013${limits.decoder_max}, at most ${limits.nodes_max} nodes`);
  const times = Object.entries(state.lead_times)
    .map(([phase, lead]) => `${phase} ${duration(lead.p50_s)} (p95 ${duration(lead.p95_s)})`);
  put("lead-times", times.length ? `Lead times: ${times.join(", ")}` : "");
}
