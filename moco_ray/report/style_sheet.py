"""The style sheet of pages, and the one script: it reads values out of charts, and nothing is missing without it."""

from __future__ import annotations

from moco_ray.report.style import SERIES, css_variables

CHARTS = (
    """\
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.2rem 1.6rem }
figure { margin: 0; min-width: 0; position: relative; break-inside: avoid }
figcaption { font-weight: 600; font-size: .92rem; display: flex; flex-wrap: wrap; gap: 0 .45rem; align-items: baseline }
figcaption small { font-weight: 400; color: var(--muted) }
figcaption .last { margin-left: auto; font-variant-numeric: tabular-nums }
.chart > svg { width: 100%; height: auto; display: block; overflow: visible; touch-action: pan-y }
.chart text { font: 12.5px system-ui, sans-serif; fill: var(--muted); font-variant-numeric: tabular-nums }
.chart .none { color: var(--muted); margin: .2rem 0 }
.chart .grid { stroke: var(--grid); fill: none } .chart .axis { stroke: var(--line); fill: none }
.chart .level path { stroke: var(--muted); stroke-dasharray: 5 4; fill: none }
.chart .level text { text-anchor: end; paint-order: stroke; stroke: var(--back); stroke-width: 4px; stroke-linejoin: round }
.chart .mark path { stroke: var(--bad); stroke-width: 1; stroke-dasharray: 2 3; fill: none }
.chart .mark text { fill: var(--bad); text-anchor: middle; font-size: 11px }
.chart .plain { fill: none; stroke-width: 2; stroke-linejoin: round; stroke: currentColor }
.chart .raw { fill: none; stroke-width: .8; opacity: .4; stroke: currentColor }
.chart .band { fill: currentColor; opacity: .15 } .chart circle { fill: currentColor }
.chart .key { width: 1.7rem; height: .5rem; vertical-align: middle } .chart .key path { stroke: currentColor; stroke-width: 2 }
.chart .cursor path { stroke: var(--muted) }
.legend { list-style: none; margin: .3rem 0 0; padding: 0; font-size: .82rem; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem }
.legend li { min-width: 0; overflow-wrap: anywhere } .legend .last { font-weight: 600; margin-left: .4rem }
.readout { position: absolute; top: 1.7rem; pointer-events: none; background: var(--back); border: 1px solid var(--line);
  border-radius: .3rem; padding: .15rem .5rem; font-size: .8rem; white-space: pre; font-variant-numeric: tabular-nums }
@media (max-width: 600px) { .chart text { font-size: 15px } .chart .mark text { font-size: 13px } }
"""
    + "".join(f".s{place} {{ color: var(--s{place}) }}\n" for place in range(len(SERIES)))
    + "@media print { .charts { grid-template-columns: 1fr 1fr } .readout { display: none } }\n"
)

PAGE = """\
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 74rem; margin: 0 auto;
  padding: 1.6rem 1.2rem 3rem; overflow-wrap: anywhere }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem }
a { color: var(--accent) } :focus-visible { outline: 2px solid var(--accent) }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin-top: 1rem; padding: .45rem 0; font-size: .88rem;
  border-block: 1px solid var(--grid) } nav a { text-decoration: none }
p { margin: .35rem 0; max-width: 60rem } p.note { color: var(--muted) } .small { font-size: .82rem; color: var(--muted) }
p.warning { border-left: 3px solid var(--warn); padding-left: .7rem }
p.failure { border-left: 3px solid var(--bad); padding-left: .7rem; white-space: pre-wrap }
.state { font-size: .85rem; font-weight: 600; padding: .1rem .6rem; border-radius: 1rem; border: 1px solid currentColor;
  vertical-align: .2em; margin-left: .5rem; white-space: nowrap; color: var(--muted) }
.state.running { color: var(--accent) } .state.ended { color: var(--good) }
.state.failed, .state.damaged { color: var(--bad) } .state.stopped { color: var(--warn) }
progress { width: 100%; max-width: 30rem; height: .45rem; accent-color: var(--accent); display: block; margin: .5rem 0 }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem 1.2rem; margin: .8rem 0 }
dl.facts > div { border-top: 2px solid var(--grid); padding-top: .3rem; min-width: 0 }
dl.facts dt { font-size: .8rem; color: var(--muted) } dl.facts dd { margin: 0; font-size: 1.15rem; line-height: 1.3;
  font-variant-numeric: tabular-nums } dl.facts small { display: block; font-size: .78rem; color: var(--muted) }
pre { background: var(--paper); border-radius: .3rem; padding: .7rem .8rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .85rem; margin: .5rem 0 }
table { border-collapse: collapse; font-size: .85rem } td, th { padding: .22rem .7rem; text-align: right; vertical-align: top }
th { border-bottom: 1px solid var(--line); font-weight: 600 } td { border-bottom: 1px solid var(--grid);
  font-variant-numeric: tabular-nums; white-space: nowrap } th { overflow-wrap: normal; white-space: nowrap }
td.left, th.left { text-align: left; overflow-wrap: anywhere; white-space: normal; min-width: 6.5rem }
td.remark { min-width: 18rem }
tr.best { background: color-mix(in srgb, var(--good) 14%, var(--back)) }
.scroll { overflow-x: auto; margin: .5rem 0; max-height: 34rem } .scroll th { position: sticky; top: 0; background: var(--back) }
details { margin: .5rem 0 } summary { cursor: pointer; color: var(--accent) }
.picture, .photo { max-width: 100%; height: auto } .drawn { background: #fff; border-radius: .3rem }
.drawn .picture { width: 100% }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; margin: .6rem 0 }
.tiles figcaption { font-weight: 400; font-size: .78rem; display: block; color: var(--muted); line-height: 1.35 }
.tiles img { max-width: 100%; height: 6rem; object-fit: contain; object-position: left bottom; display: block }
.tiles .blank { height: 6rem; display: grid; place-items: center; background: var(--paper); color: var(--muted); font-size: .8rem }
@media print { body { padding: 0; max-width: none } nav { display: none } .scroll { max-height: none } h2 { break-after: avoid } }
"""

PICTURES = """\
.views { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.4rem, 1fr)); gap: .9rem .7rem; margin: .7rem 0;
  max-width: 66rem } .views > div { display: grid; gap: .25rem }
.views img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--paper); border-radius: .2rem }
.near { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: .6rem; margin: .5rem 0 .9rem; max-width: 66rem }
.near img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--paper); border-radius: .2rem; display: block;
  border: 2.5px solid transparent } .near .right img { border-color: var(--good) } .near .wrong img { border-color: var(--bad) }
.near figcaption { font-weight: 400; font-size: .74rem; color: var(--muted); line-height: 1.25; display: block }
.near .query figcaption { font-weight: 600; color: var(--ink) } .near .query img { border-color: var(--ink) }
.map svg { width: 100%; max-width: 66rem; height: auto; display: block; background: var(--paper); border-radius: .3rem }
.map circle { fill: currentColor; opacity: .75 } .map rect { fill: none; stroke: currentColor; stroke-width: 2 }
.map i { display: inline-block; width: .75rem; height: .75rem; border-radius: .2rem; background: currentColor; margin-right: .35rem;
  vertical-align: -.05rem } .map li { color: var(--ink) }
.confusion caption { text-align: left; color: var(--muted); padding-bottom: .3rem }
.confusion td { text-align: center; padding: .3rem .45rem; border: 1px solid var(--back);
  background: color-mix(in srgb, var(--accent) var(--share, 0%), var(--paper)) } .confusion td.much { color: var(--back) }
.confusion th { border: 0; text-align: right; white-space: nowrap } .confusion th[scope=col] { vertical-align: bottom; padding: .2rem }
.confusion th[scope=col] span { writing-mode: vertical-rl; transform: rotate(180deg) } .confusion tr:first-child td { background: none }
@media (max-width: 600px) { .near { grid-template-columns: repeat(4, minmax(0, 1fr)) } }
@media print { .views, .near, .map svg { max-width: 40rem } .near { break-inside: avoid } }
"""

SCRIPT = """\
for (const svg of document.querySelectorAll(".chart > svg[data-frame]")) {
  const [left, right, first, last, top, bottom] = JSON.parse(svg.dataset.frame)
  const lines = [...svg.querySelectorAll(".line")].map(g => [g.dataset.name, JSON.parse(g.dataset.points)])
  const box = document.createElement("div"), cursor = svg.querySelector(".cursor")
  box.className = "readout"; box.hidden = true; svg.parentElement.append(box)
  const text = value => String(+value.toPrecision(5))
  svg.addEventListener("pointermove", event => {
    const area = svg.getBoundingClientRect(), x = (event.clientX - area.left) / area.width * svg.viewBox.baseVal.width
    const wanted = first + (Math.min(Math.max(x, left), right) - left) / (right - left) * (last - first)
    const near = lines.filter(([, points]) => points.length).map(([name, points]) =>
      [name, ...points.reduce((a, b) => Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a)])
    if (!near.length) return
    const at = left + (near[0][1] - first) / (last - first) * (right - left)
    cursor.innerHTML = `<path d="M${at} ${top}V${bottom}"/>`
    box.textContent = near.map(([name, step, value]) => `${name} ${text(value)} at ${step}`).join("\\n")
    box.hidden = false
    if (at > (left + right) / 2) { box.style.left = "3.2rem"; box.style.right = "" }
    else { box.style.right = ".5rem"; box.style.left = "" }
  })
  svg.addEventListener("pointerleave", () => { box.hidden = true; cursor.innerHTML = "" })
}
"""


def style_sheet() -> str:
    """All of it."""
    return css_variables() + PAGE + CHARTS + PICTURES
