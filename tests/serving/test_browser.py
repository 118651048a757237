"""The pages in a real browser, as people use them: on a desktop and on a phone, while runs go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from selenium.webdriver.support.ui import WebDriverWait

from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.lease import hold_run
from tests.browser import DESKTOP, PHONE, Browser, chromium
from tests.serving.folders import Served, served, write_checkpoint, write_run, write_sweep

REPORT = b"""<!doctype html><title>of this run</title><p id="told">nothing</p><script>
document.getElementById("told").textContent = "drawn"
</script>"""
_SOURCE = "return document.querySelector('iframe').getAttribute('src')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_sweep(root, "search", 3)
    write_run(root, "first one", lr=0.05)
    write_run(root, "second", level=20.0)
    run = write_run(root, "failed/é <b>", steps=10)
    run.write_bytes(run.join("end.json"), json.dumps({"state": "failed", "reason": "the loss is nan " * 30}).encode())
    (root / "failed" / "sweep.json").write_text("{}")
    probe = write_run(root, "a probe", steps=30)
    probe.write_bytes(probe.join("eval.jsonl"), b'{"step": 10, "eval/top1": 51}\n{"step": 30, "eval/top1": 55}\n')
    info = {"last_step": 40, "best_by": "eval/top1", "device_s": {"cuda": 7200.0, "cpu": 600.0}}
    CheckpointStore(storage=probe).write(30, {"w": torch.zeros(3)}, {}, info)
    return root


@pytest.fixture(scope="module")
def pages(root: Path) -> Iterator[Served]:
    with served(root) as server:
        yield server


def _until(browser: Browser, script: str, seconds: float = 20.0) -> Any:
    """What a script returns as soon as that is something."""
    deadline = time.monotonic() + seconds
    while not (found := browser.run(script)):
        assert time.monotonic() < deadline, script
        time.sleep(0.1)
    return found


def _own(browser: Browser, pages: Served) -> None:
    """Nothing is wrong with the page, and nothing was asked for elsewhere."""
    assert browser.complaints() == []
    assert all(url.startswith((pages.address, "about:")) for url in browser.requests())
    assert browser.overflow() <= 0 and browser.unnamed_pictures() == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize(
    "path", ["/", "/compare?run=first+one&run=second", "/run/second", "/run/failed/%C3%A9%20%3Cb%3E", "/run/gone"]
)
def test_pages_fit_the_screen_and_ask_nobody_else(
    browser: Browser, pages: Served, size: tuple[int, int], path: str
) -> None:
    browser.open(pages.address + path, size)
    if path == "/run/gone":
        assert "no run gone" in browser.run("return document.body.innerText") and browser.overflow() <= 0
        return
    _own(browser, pages)
    assert browser.run("return getComputedStyle(document.querySelector('.top')).position") in ("sticky", "static")
    assert browser.run("return document.styleSheets.length") == 1


@pytest.mark.parametrize(("size", "least"), [(DESKTOP, 250), (PHONE, 280)])
def test_names_of_runs_have_room_beside_what_they_have_reached(
    browser: Browser, pages: Served, size: tuple[int, int], least: int
) -> None:
    browser.open(f"{pages.address}/", size)
    assert "Accuracy on images not trained on" in browser.run("return document.body.innerText")
    overlaps = """
        const rows = [...document.querySelectorAll("tr.run")], boxes = row => [...row.cells].map(c => c.getBoundingClientRect())
        const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1
        return rows.filter(row => boxes(row).some((a, i) => boxes(row).some((b, j) => i < j && meet(a, b)))).length"""
    assert browser.run(overlaps) == 0 and browser.overflow() <= 0
    widths = browser.run(
        "return [...document.querySelectorAll('td.c-name')].map(cell => cell.getBoundingClientRect().width)"
    )
    assert len(widths) > 5 and min(widths) > least, widths
    heights = browser.run(
        "return [...document.querySelectorAll('.course > span')].map(one => one.getBoundingClientRect().height)"
    )
    assert len(heights) > 5 and max(heights) < 85, heights


def test_two_runs_are_ticked_and_their_curves_seen(browser: Browser, pages: Served) -> None:
    browser.open(f"{pages.address}/")
    browser.run("sessionStorage.clear()")
    browser.open(f"{pages.address}/")
    assert browser.run("return document.querySelector('#bar .main').disabled")
    for name in ("first one", "search/trial_001"):
        browser.run(
            "[...document.querySelectorAll('[type=checkbox]')].find(box => box.value === arguments[0]).click()", name
        )
    assert "2 chosen: first one, search/trial_001" in browser.run(
        "return document.querySelector('#chosen').textContent"
    )
    browser.run("document.querySelector('#bar .main').click()")
    _until(browser, "return location.pathname === '/compare' && document.readyState === 'complete'")
    assert set(browser.run("return location.search")[1:].split("&")) == {"run=first+one", "run=search%2Ftrial_001"}
    lines = browser.run(
        "return [...document.querySelectorAll('.chart:first-child .line')].map(line => [line.dataset.name, getComputedStyle(line).color, line.getBoundingClientRect().width])"
    )
    assert {name for name, _, _ in lines} == {"search/trial_001", "first one"}
    assert lines[0][1] != lines[1][1] and all(width > 200 for _, _, width in lines)
    _own(browser, pages)
    browser.run(
        "const svg = document.querySelector('.chart svg'), box = svg.getBoundingClientRect(); svg.dispatchEvent(new PointerEvent('pointermove', {clientX: box.right - 20, clientY: box.top + 20}))"
    )
    assert "first one" in browser.run("return document.querySelector('.readout:not([hidden])').textContent")


def test_ticks_outlive_filters_and_pages(browser: Browser, pages: Served) -> None:
    browser.open(f"{pages.address}/")
    browser.run("sessionStorage.setItem('chosen', '[\"second\"]')")
    browser.open(f"{pages.address}/")
    assert browser.run("return [...document.querySelectorAll(':checked[name=run]')].map(box => box.value)") == [
        "second"
    ]
    browser.run(
        "const input = document.querySelector('[name=q]'); input.value = 'first'; input.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    names = "return [...document.querySelectorAll('[type=checkbox]')].map(box => box.value).join()"
    _until(browser, names.replace("return ", "return 'first one' === "))
    assert browser.run("return location.search") == "?q=first"
    assert browser.run("return new FormData(document.querySelector('#compare')).getAll('run')") == ["second"]
    browser.run("document.querySelector('#none').click()")
    assert browser.run("return document.querySelector('#bar .main').disabled")


@pytest.mark.slow
def test_a_run_that_goes_on_moves_while_one_looks(browser: Browser, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run = write_run(root, "going", steps=10)
    steps = "return document.querySelector('.steps').textContent"
    with served(root) as pages:
        browser.open(f"{pages.address}/")
        browser.run("sessionStorage.clear()")
        browser.run(
            "document.querySelector('[type=checkbox]').click(); document.querySelector('td.c-name a').focus(); window.same = true"
        )
        assert "10" in browser.run(steps)
        write_checkpoint(run, 10, 20)
        write_run(root, "new")
        _until(
            browser,
            "return document.querySelectorAll('tr.run').length === 2 && document.body.innerText.includes('20 / 40')",
        )
        rows = browser.run("return [...document.querySelectorAll('tr.run')].map(row => row.innerText)")
        assert len(rows) == 2 and "20 / 40" in rows[1] and "kNN accuracy" in rows[1]
        assert browser.run("return window.same && document.querySelectorAll(':checked').length === 1")
        assert browser.run("return document.activeElement.textContent") == "going"
        _own(browser, pages)
        root.rename(tmp_path / "away")
        _until(browser, "return document.querySelector('.banner[role=status]')?.textContent.includes('no such folder')")
        assert browser.run("return document.querySelectorAll('tr.run').length") == 2
    _until(browser, "return !document.querySelector('#offline').hidden")  # the server has ended


def test_a_report_stands_on_the_page_and_apart_from_it(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path, "told", steps=10)
    run.write_bytes(run.join("report", "index.html"), REPORT)
    with served(tmp_path) as pages:
        browser.open(f"{pages.address}/run/told")
        box = _until(
            browser,
            "const box = document.querySelector('iframe')?.getBoundingClientRect(); return box && [box.width, box.height]",
        )
        assert box[0] > 800 and box[1] > 400
        _own(browser, pages)
        browser.open(pages.address + browser.run(_SOURCE))
        assert browser.run("return document.getElementById('told').textContent") == "drawn"  # its own script ran
        assert browser.run("return origin") == "null"  # and sees nothing of our pages
        assert browser.complaints() == []


@pytest.mark.slow
def test_the_report_of_a_run_that_goes_on_is_the_newest(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path, "told", steps=10)
    run.write_bytes(run.join("report", "index.html"), REPORT)
    with served(tmp_path) as pages, hold_run(run, lambda: (12, 1.0)):
        browser.open(f"{pages.address}/run/told")
        browser.run("document.querySelector('iframe').read = true")
        write_checkpoint(run, 10, 20)
        _until(browser, "return document.querySelector('.steps').textContent.includes('20')")
        assert browser.run("return document.querySelector('iframe').read")  # whoever reads it is not disturbed
        source = browser.run(_SOURCE)
        run.write_bytes(run.join("report", "index.html"), REPORT + b"<p>and what has come since")
        _until(browser, f"{_SOURCE} !== {source!r}")
        assert browser.run("return document.querySelectorAll('iframe').length") == 1
        _own(browser, pages)


def test_the_token_lets_a_browser_in_for_good(browser: Browser, root: Path) -> None:
    token = "a-token-that-nobody-guesses"
    with served(root, token=token) as pages:
        browser.open(f"{pages.address}/")
        assert "a token is needed" in browser.run("return document.body.innerText")
        browser.open(f"{pages.address}/?token={token}")
        assert browser.run("return [location.href, document.cookie]") == [f"{pages.address}/", ""]
        assert browser.run("return document.querySelectorAll('tr.run').length") == 7
        browser.open(f"{pages.address}/compare?run=second")
        assert browser.run("return document.querySelectorAll('.chart .line').length") > 3


def test_everything_but_renewal_works_without_scripts(browser: Browser, pages: Served) -> None:
    send: Callable[[str, dict[str, Any]], Any] = browser.driver.execute_cdp_cmd
    send("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(f"{pages.address}/?sort=name")
        for box in browser.driver.find_elements("css selector", "[type=checkbox]")[:2]:
            box.click()
        browser.driver.find_element("css selector", "#bar .main").click()
        WebDriverWait(browser.driver, 20).until(lambda driver: "/compare?run=" in driver.current_url)
        assert browser.driver.current_url.count("run=") == 2
        assert len(browser.driver.find_elements("css selector", ".chart .line")) >= 10
    finally:
        send("Emulation.setScriptExecutionDisabled", {"value": False})
