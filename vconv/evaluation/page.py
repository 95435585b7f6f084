"""Style and script of the report's page."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c2230; --dim: #667085; --paper: #fff; --line: #d9dee8; --soft: #f4f6fa;
  --mark: #2456c8; --warn: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --dim: #98a2b3; --paper: #14171f; --line: #333a49;
  --soft: #1d212c; --mark: #82aaff; --warn: #fdba74; } }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main { max-width: 1200px; margin: 0 auto; padding: 24px; }
h1 { margin: 0; } h2 { margin: 40px 0 8px; } h3 { margin: 0 0 4px; font-size: 16px; }
p { margin: 4px 0 12px; color: var(--dim); }
a { color: var(--mark); }
.scroll { overflow-x: auto; max-height: 70vh; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { position: sticky; top: 0; background: var(--soft); text-align: left; vertical-align: bottom; padding: 0; }
.sort { all: unset; cursor: pointer; display: block; padding: 8px 10px; font-weight: 600; }
.sort:hover, .sort:focus-visible { color: var(--mark); text-decoration: underline; }
th[aria-sort=ascending] .sort::after { content: " ▲"; } th[aria-sort=descending] .sort::after { content: " ▼"; }
td { padding: 6px 10px; border-top: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
small { display: block; color: var(--dim); }
.problems { margin-top: 16px; padding: 8px 16px; border-left: 3px solid var(--warn); background: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(460px, 1fr)); gap: 20px; }
figure { margin: 0; } figcaption { font-weight: 600; }
.plot svg { width: 100%; } .plot .name { text-anchor: end; font-size: 13px; } .plot text { fill: var(--ink); }
.plot .tick { font-size: 12px; fill: var(--dim); } .plot .lane { stroke: var(--line); }
.plot circle { fill: var(--dim); opacity: .45; }
.plot .interval { stroke: var(--mark); stroke-width: 4; opacity: .55; }
.plot .mean { stroke: var(--mark); stroke-width: 3; }
.pair { border-top: 1px solid var(--line); padding: 16px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 16px; }
.clip { padding: 10px; background: var(--soft); border-radius: 6px; } .clip:target { outline: 2px solid var(--mark); }
.picture { position: relative; height: 120px; margin: 6px 0; }
.picture img, .picture svg { position: absolute; width: 100%; height: 100%; border-radius: 4px; }
.picture path { fill: none; stroke: #6ff7ff; stroke-width: 2; vector-effect: non-scaling-stroke;
  filter: drop-shadow(0 0 1px #000); }
audio { width: 100%; height: 34px; }
.text { font-style: italic; font-size: 14px; }
dl { margin: 6px 0 0; font-size: 13px; }
dl div { display: flex; justify-content: space-between; gap: 8px; } dt { color: var(--dim); } dd { margin: 0; }
"""

SCRIPT = """
"use strict";
function valueOf(row, column) {
  const cell = row.cells[column];
  if (!("value" in cell.dataset)) return cell.textContent.toLowerCase();
  return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
}
function compare(a, b, sign) {  // what is unknown stays at the end
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return sign * (a > b ? 1 : a < b ? -1 : 0);
}
function sortBy(button) {
  const head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...body.rows].map(row => [valueOf(row, column), row]);
  rows.sort((a, b) => compare(a[0], b[0], up ? 1 : -1));
  body.append(...rows.map(pair => pair[1]));
}
for (const button of document.querySelectorAll("button.sort")) button.addEventListener("click", () => sortBy(button));
// One clip at a time.
document.addEventListener("play", event => {
  for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
}, true);
"""
