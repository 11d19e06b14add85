"""The style sheet: one column that fits a phone, a light and a dark scheme, and a printed page.

Series have the colours of Okabe and Ito (2008), which people with any kind of colour vision tell apart. Yellow is left
out, since it does not show on white; black is the colour of the text, so that it shows in both schemes.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fff; --text: #1c2024; --muted: #5b636b; --rule: #d9dee3; --soft: #f4f6f8; --accent: #0072b2;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #e69f00; --s5: #56b4e9; --s6: #1c2024;
  --good: #00734f; --bad: #b44a00; --open: #5b636b; --shadow: rgb(0 0 0 / 0.18);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --text: #e4e7ea; --muted: #9aa4ad; --rule: #343b42; --soft: #1d2226; --accent: #6cbcf0;
    --s0: #3597d3; --s1: #ee7733; --s2: #1fb98d; --s3: #dc93bb; --s4: #e9ab26; --s5: #8dcdf5; --s6: #e4e7ea;
    --good: #3ccb9f; --bad: #ff9a5c; --open: #9aa4ad; --shadow: rgb(0 0 0 / 0.7);
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 78rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: break-word;
}
@media (min-width: 48rem) { body { padding: 2.5rem 2rem 5rem; } }
h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.35rem; margin: 3.5rem 0 0.75rem; padding-top: 1.25rem; border-top: 2px solid var(--text); }
h2 small { font-size: 0.95rem; font-weight: 400; color: var(--muted); }
h3 { font-size: 1.05rem; margin: 2.25rem 0 0.5rem; }
h4 { font-size: 0.95rem; margin: 1.5rem 0 0.4rem; }
p, ul, dl { max-width: 46rem; margin: 0.5rem 0; }
ul { padding-left: 1.2rem; }
li { margin: 0.25rem 0; }
a { color: var(--accent); text-underline-offset: 0.15em; }
header p, .muted { color: var(--muted); font-size: 0.875rem; }
.lead { font-size: 1.1rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; list-style: none; padding: 0; margin: 1rem 0 0; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, "Liberation Mono", monospace; font-size: 0.85em; }
pre { margin: 0.5rem 0; padding: 0.75rem; background: var(--soft); border-radius: 6px; max-height: 30rem; }
.scroll { overflow: auto; max-width: 100%; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
div.scroll {
  margin: 0.75rem 0; border: solid var(--rule); border-width: 1px 0;
  /* A shadow at an edge beyond which the table goes on; the page's colour covers it where the table ends. */
  background:
    linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--shadow), transparent) right / 0.75rem 100% no-repeat scroll;
}
table { border-collapse: collapse; font-size: 0.8125rem; font-variant-numeric: tabular-nums; min-width: 100%; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: 0.35rem 0.55rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; background: var(--page); }
th.n, td.n { text-align: right; white-space: nowrap; }
thead th.n { white-space: normal; }
th:first-child {
  position: sticky; left: 0; background: var(--page); padding-left: 0; max-width: 10rem; min-width: 6rem;
}
@media (min-width: 48rem) { th:first-child { max-width: 26rem; min-width: 9rem; } }
table.text td { min-width: 8rem; max-width: 34rem; overflow-wrap: anywhere; }
details { margin: 0.5rem 0; }
summary { cursor: pointer; color: var(--muted); font-size: 0.875rem; padding: 0.2rem 0; }
dl { display: grid; grid-template-columns: minmax(0, 1fr); font-size: 0.9rem; }
dt { color: var(--muted); }
dd { margin: 0 0 0.6rem; }
@media (min-width: 40rem) {
  dl { grid-template-columns: 12rem minmax(0, 1fr); gap: 0.4rem 1rem; }
  dd { margin: 0; }
}
.remark, .verdict { margin: 1rem 0; padding: 0.6rem 1rem; background: var(--soft); border-left: 4px solid var(--open); }
.verdict { --page: var(--soft); }
.verdict.holds { border-color: var(--good); }
.verdict.fails { border-color: var(--bad); }
@media (max-width: 48rem) {
  .verdict thead { display: none; }
  .verdict table, .verdict tbody { display: block; }
  .verdict tr { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: 0.4rem 0; border-bottom: 1px solid var(--rule); }
  .verdict tr:last-child { border-bottom: 0; }
  .verdict th:first-child { flex: 0 0 100%; max-width: none; }
  .verdict tr > * { padding: 0.1rem 0; border-bottom: 0; min-width: 0; }
}
.claim { font-weight: 600; }
.outcome { font-weight: 600; white-space: nowrap; }
.outcome.holds { color: var(--good); }
.outcome.fails { color: var(--bad); }
.outcome.undecided { color: var(--open); }
.claim .outcome { margin-right: 0.25rem; text-transform: uppercase; font-size: 0.8rem; letter-spacing: 0.04em; }

figure { margin: 1.5rem 0; min-width: 0; }
figcaption, .legend li, nav li, summary { overflow-wrap: anywhere; min-width: 0; }
figcaption { font-size: 0.9rem; font-weight: 600; line-height: 1.35; margin-bottom: 0.25rem; }
.panels {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1.25rem 2rem;
  align-items: start; margin: 0.75rem 0;
}
.panels figure { margin: 0; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.15rem 1rem; list-style: none; padding: 0; margin: 0.25rem 0; max-width: none;
}
.legend li { display: flex; align-items: center; gap: 0.4rem; margin: 0; font-size: 0.8125rem; }
.sample { width: 26px; height: 12px; flex: none; overflow: visible; }
.wide { display: none; }
@media (min-width: 48rem) { .wide { display: block; } .narrow { display: none; } }
.plot { display: block; width: 100%; height: auto; max-width: 30rem; overflow: visible; }
.wide .plot { max-width: none; }
.plot text { font-size: 11px; fill: var(--muted); }
.plot text.name { fill: var(--text); }
.plot text.label { font-size: 12px; fill: var(--text); }
.plot text.note { fill: currentColor; fill: color-mix(in srgb, currentColor 60%, var(--text)); }
.plot text.note, .plot text.name { paint-order: stroke; stroke: var(--page); stroke-width: 3px; }
.grid, .zero { stroke: var(--rule); stroke-width: 1; fill: none; }
.zero { stroke: var(--muted); }
.mark-line { stroke: var(--text); stroke-dasharray: 4 3; fill: none; }
.line { fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linejoin: round; }
.faint { fill: none; stroke: currentColor; stroke-width: 0.8; opacity: 0.28; }
.mark { fill: currentColor; stroke: var(--page); stroke-width: 0.8; }
.near { fill: none; pointer-events: all; }
.interval { fill: none; stroke: currentColor; stroke-width: 1; opacity: 0.65; }
.whisker .interval { stroke: var(--text); opacity: 0.8; }
.origin { fill: var(--page); stroke: var(--text); stroke-width: 1.5; }
.bar { fill: currentColor; stroke: currentColor; }
.b1 { fill-opacity: 0.3; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); }
.s4 { color: var(--s4); } .s5 { color: var(--s5); } .s6 { color: var(--s6); }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  figure, .verdict, tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
  nav { display: none; }
  .scroll { overflow: visible; }
}
"""
