"""What people see of the page of a run, in a real browser: on a desk, on a phone, in the dark, without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moco_ray.report.map import make_map
from moco_ray.report.run_page import RunReport
from moco_ray.report.thumbs import write_json, write_neighbours, write_views
from tests.browser import DESKTOP, PHONE, Browser, chromium
from tests.report.folders import INTERRUPTION, stored, write_run

LONG = "a_name_without_any_place_to_break_it_" * 6
# Of all text that is shown, the least contrast with what is behind it (WCAG 2.2, 1.4.3), and where.
CONTRAST = """
const numbers = colour => colour.match(/[\\d.]+/g).map(Number)
const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)
const behind = element => { for (let one = element; one; one = one.parentElement) {
  const colour = numbers(getComputedStyle(one).backgroundColor)
  if (colour.length < 4 || colour[3] > 0) return colour }
  return [255, 255, 255] }
let worst = [99, ""]
for (const element of document.querySelectorAll("h1, h2, p, dt, dd, td.left, th, a, figcaption, li, pre, small, summary, .chart text")) {
  if (!element.getClientRects().length || !element.textContent.trim()) continue
  const style = getComputedStyle(element), isText = element.tagName === "text"
  const [a, b] = [light(numbers(isText ? style.fill : style.color)), light(behind(element))]
  const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05)
  if (contrast < worst[0]) worst = [contrast, element.tagName + " " + element.textContent.trim().slice(0, 40)]
}
return worst
"""
LEGIBLE = 4.5


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that has everything, with long names."""
    draw = np.random.default_rng(0)
    pixels = [draw.integers(0, 256, (80, 60 + i, 3), dtype=np.uint8) for i in range(12)]
    folder = write_run(
        tmp_path_factory.mktemp("runs") / "run",
        1000,
        interruptions=[INTERRUPTION, {**INTERRUPTION, "resumed_at_step": 700, "cause": LONG}],
        bad_images=[{"row": 3, "uri": f"/images/{LONG}.jpg", "reason": f"{LONG} is truncated"}],
        report__images={
            "train": 900,
            "test": 100,
            "bytes": 123_456_789,
            "num_classes": 2,
            "has_eval": True,
            "classes": [[LONG, 450, 50], ["dog", 450, 50]],
        },
        results={"top1": 91.0, "classes": ["cat", "dog", LONG], "confusion": [[9, 1, 0], [2, 8, 0], [0, 0, 10]]},
        sessions=[{"at_s": 1.7e9, "command": f"python jobs/pretrain.py --data.uri {LONG}", "versions": {"torch": "2"}}],
        evaluations__x={"kind": "linear probe", "name": LONG, "measures": {"top1": 70.5}, "at_s": 1.7e9},
        end={"state": "failed", "reason": LONG, "step": 900},
    )
    run = stored(folder)
    write_views(run, pixels[:8], pixels[:8], pixels[4:])
    near = [pixels[3:10], pixels[2:9]]
    write_neighbours(run, pixels[:2], near, [[0.9] * 7] * 2, [0, 1], [[0, 1] * 3 + [0]] * 2, ["cat", LONG])
    found = make_map(draw.normal(size=(12, 5)), [i % 2 for i in range(12)], ["cat", LONG], pixels)
    assert found is not None
    write_json(run, "map", found)
    RunReport(run).write(is_live=False)
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (PHONE, False), (PHONE, True), (DESKTOP, True)])
def test_fits_is_legible_and_asks_for_nothing(page: Path, browser: Browser, size: tuple[int, int], dark: bool) -> None:
    browser.open(page, size, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.overflow() <= 0
    assert browser.unnamed_pictures() == []
    contrast, where = browser.run(CONTRAST)
    assert contrast >= LEGIBLE, where
    broken = browser.run("return [...document.images].filter(one => !one.complete || !one.naturalWidth).length")
    assert broken == 0 and browser.run("return document.images.length") > 30


def test_small_print_can_be_read_on_a_phone(page: Path, browser: Browser) -> None:
    browser.open(page, PHONE)
    smallest = """
    return Math.min(...[...document.querySelectorAll(".chart svg[data-frame]")].map(svg =>
      svg.getBoundingClientRect().width / svg.viewBox.baseVal.width * parseFloat(getComputedStyle(svg.querySelector("text")).fontSize)))
    """
    assert browser.run(smallest) >= 9.5


def test_curves_lie_where_their_axes_say(page: Path, browser: Browser) -> None:
    """The first and the last value of the loss against the ticks of its axis, as a person would read them off."""
    browser.open(page, DESKTOP)
    script = """
    const svg = document.querySelector(".chart svg[data-frame]"), line = svg.querySelector(".line")
    const ticks = [...svg.querySelectorAll(".ticks text[text-anchor=end]:not(.name)")].map(one =>
      [parseFloat(one.textContent), parseFloat(one.getAttribute("y")) - 4, parseFloat(one.getAttribute("x"))]).filter(t => t[2] < 60)
    const ends = line.querySelector("path").getAttribute("d").slice(1).split(" ")
    return [ticks, ends[0].split(",").map(Number), ends.at(-1).split(",").map(Number), JSON.parse(line.dataset.points)]
    """
    ticks, first, last, points = browser.run(script)
    (low, low_y, _), (high, high_y, _) = ticks[0], ticks[-1]
    for (_, y), (_, value) in ((first, points[0]), (last, points[-1])):
        read = low + (low_y - y) / (low_y - high_y) * (high - low)
        assert read == pytest.approx(value, abs=0.02)


def test_a_pointer_reads_values_out(page: Path, browser: Browser) -> None:
    browser.open(page, DESKTOP)
    said = browser.run(
        """
        const svg = document.querySelector(".chart svg[data-frame]"), area = svg.getBoundingClientRect()
        svg.dispatchEvent(new PointerEvent("pointermove", {clientX: area.right - 12, clientY: area.top + 50}))
        return [svg.parentElement.querySelector(".readout").textContent, JSON.parse(svg.querySelector(".line").dataset.points)]
        """
    )
    text, points = said
    name, value, _, step = text.split()
    assert name == "Loss" and int(step) > 990
    assert float(value) == pytest.approx(dict(points)[int(step)], rel=1e-4)


def test_everything_is_there_without_scripts(page: Path, browser: Browser) -> None:
    browser.open(page, DESKTOP)
    with_scripts = browser.run("return document.querySelector('main').innerText")
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(page, DESKTOP)
        root = browser.driver.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        main = browser.driver.execute_cdp_cmd("DOM.querySelector", {"nodeId": root, "selector": "main"})["nodeId"]
        html = browser.driver.execute_cdp_cmd("DOM.getOuterHTML", {"nodeId": main})["outerHTML"]
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert len(with_scripts) > 1500 and html.count("<svg") >= 9 and html.count("<figure") > 20
    assert "readout" not in html
