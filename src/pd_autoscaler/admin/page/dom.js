// Elements and words. Every text goes in as text: a node's name is never read as HTML.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export function svg(tag, attributes = {}, text = undefined) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export const byId = (id) => document.getElementById(id);

export function put(id, ...children) {
  byId(id).replaceChildren(...children.filter((child) => child !== null));
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "?";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} m`;
  return `${Math.floor(whole / 86400)} d ${two(Math.floor((whole % 86400) / 3600))} h`;
}

export function clock(unixS) {
  return new Date(unixS * 1000).toLocaleTimeString("en-GB");
}

const STATE_LOOKS = {
  serving: "good", starting: "coming", initialising: "coming", linking: "coming",
  switching: "coming", draining: "warn", unlinking: "warn", stopping: "warn", failed: "bad",
};

export const stateLook = (state) => STATE_LOOKS[state] ?? "idle";

export function signal(found, show) {
  if (!found || found.value === null) return "?";
  return (found.is_lower_bound ? "> " : "") + show(found.value);
}

export const count = (value) => (Number.isInteger(value) ? String(value) : value.toFixed(1));
export const share = (value) => `${Math.round(100 * value)}%`;
export const latency = (value) =>
  value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(1)} s`;
export const perSecond = (value) =>
  value >= 1000 ? `${(value / 1000).toFixed(1)}k/s` : `${value.toFixed(value < 10 ? 1 : 0)}/s`;
