"use strict";
(() => {
  // Nothing leaves this file: plotly.js would offer to upload a plot.
  const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };
  const MARK = { type: "line", yref: "paper", y0: 0, y1: 1, line: { color: "#111111", width: 1 } };
  const drawn = new Set();
  const together = document.getElementById("together");
  let zoom = null; // What all time axes show; null is everything.
  let isFollowing = false;

  const isTimeline = (plot) => plot.dataset.figure.startsWith("time-");

  function zoomed(event) {
    if (event["xaxis.autorange"] || event["xaxis.showspikes"]) return null;
    if (event["xaxis.range"]) return event["xaxis.range"];
    const range = [event["xaxis.range[0]"], event["xaxis.range[1]"]];
    return range[0] === undefined ? undefined : range;
  }

  const update = () => (zoom ? { "xaxis.range": [...zoom] } : { "xaxis.autorange": true });

  async function follow(source, event) {
    const range = zoomed(event);
    if (isFollowing || !together.checked || range === undefined) return;
    zoom = range;
    isFollowing = true;
    const others = [...drawn].filter((plot) => plot !== source);
    await Promise.all(others.map((plot) => Plotly.relayout(plot, update())));
    isFollowing = false;
  }

  async function draw(plot) {
    const figure = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
    await Plotly.newPlot(plot, figure.data, figure.layout, CONFIG);
    if (!isTimeline(plot)) return;
    plot.limits = plot.layout.shapes.length;
    plot.on("plotly_relayout", (event) => follow(plot, event));
    if (zoom && together.checked) await Plotly.relayout(plot, update());
    drawn.add(plot);
  }

  // Twenty runs at once would keep the page from opening: each is drawn as it comes near.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "800px" });
  document.querySelectorAll(".plot").forEach((plot) => near.observe(plot));

  function mark(row) {
    const plot = row.closest(".run").querySelector(".plot");
    if (!drawn.has(plot)) return;
    const limits = plot.layout.shapes.slice(0, plot.limits);
    const line = { ...MARK, x0: Number(row.dataset.x), x1: Number(row.dataset.x) };
    Plotly.relayout(plot, { shapes: [...limits, line] });
  }

  document.querySelectorAll(".run").forEach((run) => {
    const rows = [...run.querySelectorAll(".decisions tbody tr")];
    run.querySelector("input").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    run.querySelector(".decisions tbody").addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) mark(row);
    });
  });

  function sort(title) {
    const table = title.closest("table");
    const column = title.cellIndex;
    const isDown = title.getAttribute("aria-sort") !== "descending";
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    title.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      if (cell.dataset.value === undefined) return cell.textContent;
      if (cell.dataset.value === "") return NaN;
      return cell.dataset.value === "inf" ? Infinity : Number(cell.dataset.value);
    };
    const compare = (a, b) => {
      if (typeof a === "string") return b.localeCompare(a);
      // What is unknown stays below.
      if (Number.isNaN(a) || Number.isNaN(b)) return (Number.isNaN(a) - Number.isNaN(b)) * (isDown ? 1 : -1);
      return a === b ? 0 : b > a ? 1 : -1;
    };
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (isDown ? 1 : -1) * compare(key(a), key(b)));
    table.tBodies[0].append(...rows);
  }

  document.querySelectorAll(".sortable .key").forEach((title) => {
    title.addEventListener("click", () => sort(title));
  });
})();
