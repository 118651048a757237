"""The site of docs/: built strictly, whole, without anything from elsewhere, and fit for a phone."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from moco_ray.config.detection_presets import DETECTION_PRESETS
from moco_ray.config.presets import PRESETS
from moco_ray.config.transfer_presets import EMBED_PRESETS, EVALUATE_PRESETS, FINETUNE_PRESETS, LINEAR_PRESETS
from tests.bare import ROOT, bare_environment
from tests.browser import PHONE, Browser, chromium
from tests.docs.pages import DOCS, all_flags

sys.path.insert(0, str(DOCS))

import drawings


class _Page(HTMLParser):
    """What a page asks a browser for, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.needs: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif tag == "link" and given.get("rel") in ("next", "prev", "canonical"):
            return
        else:
            self.needs += [given[name] or "" for name in ("src", "href", "data", "poster", "srcset") if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a warning fails it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=bare_environment(folder / "home", NO_MKDOCS_2_WARNING="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout, done.stdout
    return folder


def test_a_page_that_is_missing_in_the_navigation_fails_the_build() -> None:
    """Which the build itself checks: as long as it is told to."""
    text = (ROOT / "mkdocs.yml").read_text()
    assert re.search(r"^strict: true", text, re.MULTILINE)
    assert "omitted_files: warn" in text and "links: {not_found: warn, anchors: warn" in text
    assert [page for page in DOCS.rglob("*.md") if str(page.relative_to(DOCS)) not in text] == []


def test_every_page_of_the_navigation_is_reached_from_the_first_one(site: Path) -> None:
    first = _Page((site / "index.html").read_text())
    reached = {(site / link.partition("#")[0] / "index.html").resolve() for link in first.links if "://" not in link}
    pages = {path.resolve() for path in site.rglob("index.html") if "source" not in path.relative_to(site).parts}
    assert len(pages) > 20
    assert pages <= reached, pages - reached


def test_nothing_of_the_site_comes_from_elsewhere(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if "source" not in path.parts or path.parent.name == "step.py"]
    assert len(pages) > 20
    elsewhere = [
        (page.name, needed)
        for page in pages
        for needed in _Page(page.read_text()).needs
        if re.match(r"(https?:)?//", needed.strip())
    ]
    assert not elsewhere, elsewhere
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_links_to_code_lead_to_its_listing(site: Path) -> None:
    listing = (site / "source/moco_ray/core/step.py/index.html").read_text()
    assert "Algorithm 1" in listing and "update_key_encoder" in listing
    folder = _Page((site / "source/moco_ray/core/index.html").read_text())
    assert any(link.endswith("core/step.py/") or link.endswith("step.py/") for link in folder.links)
    code = _Page((site / "code/index.html").read_text())
    assert "../source/moco_ray/core/step.py/" in code.links


def test_every_flag_of_a_configuration_is_in_the_reference(site: Path) -> None:
    text = (site / "reference/config/index.html").read_text()
    flags = {flag for flag in all_flags() if "." in flag and ".no-" not in flag and not flag.startswith("--method.")}
    assert len(flags) > 80
    assert [flag for flag in sorted(flags) if f"<code>{flag}</code>" not in text] == []
    assert "<code>--method.queue-size</code>" in text


def test_every_preset_has_a_heading_with_what_to_expect(site: Path) -> None:
    text = (site / "reference/presets/index.html").read_text()
    sets = (PRESETS, LINEAR_PRESETS, FINETUNE_PRESETS, EVALUATE_PRESETS, EMBED_PRESETS, DETECTION_PRESETS)
    names = [name for presets in sets for name in presets]
    assert len(names) > 20
    assert [name for name in names if f'<h3 id="{name}">' not in text] == []
    assert text.count("<strong>Expected:</strong>") > 15


def test_the_reference_tells_of_every_public_name(site: Path) -> None:
    import moco_ray

    text = "".join(path.read_text() for path in (site / "reference").rglob("index.html"))
    for name in moco_ray.__all__:
        assert re.search(rf'id="moco_ray\.[\w.]*{name}"', text), name
    assert "Raises:" in text and "Parameters:" in text


def test_the_notebook_is_a_page_with_what_it_shows(site: Path) -> None:
    text = (site / "notebook/index.html").read_text()
    assert text.count("data:image/png;base64,") >= 3
    assert (site / "notebook.ipynb").is_file() and "notebook.ipynb" in _Page(text).links[-1] + text


def test_pictures_are_those_that_the_code_draws() -> None:
    assert {name for name, text in drawings.pictures().items() if (DOCS / "assets" / name).read_text() != text} == set()


def test_configuration_is_read_by_mkdocs_alone() -> None:
    """No plugin that is not among the docs extra: a loader that knows no tags of Python must find none but one."""
    tags = re.findall(r"!!python/\S+", (ROOT / "mkdocs.yml").read_text())
    assert tags == ["!!python/object/apply:pymdownx.slugs.slugify"]
    plain = yaml.safe_load(re.sub(r"!!python/\S+ ", "", (ROOT / "mkdocs.yml").read_text()))
    assert plain["theme"]["font"] is False


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def _all(site: Path) -> list[str]:
    pages = sorted(path.parent.relative_to(site) for path in site.rglob("index.html") if "source" not in path.parts)
    return ["" if str(page) == "." else f"{page}/" for page in pages]


def _check_on_a_phone(pages: list[str], address: str, browser: Browser) -> None:
    for page in pages:
        browser.open(f"{address}{page}", PHONE)
        assert browser.overflow() <= 0, f"{page} is too wide"
        assert not browser.complaints(), page
        assert all(url.startswith((address, "blob:")) for url in browser.requests()), page


def test_wide_tables_and_pictures_scroll_on_a_phone(address: str, browser: Browser) -> None:
    _check_on_a_phone(["invariance/", "jobs/"], address, browser)
    table = "return (box => box.scrollWidth > box.clientWidth)(document.querySelector('.md-typeset__scrollwrap'))"
    assert browser.run(table)


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(site: Path, address: str, browser: Browser) -> None:
    assert len(_all(site)) > 20
    _check_on_a_phone(_all(site), address, browser)


def test_the_search_finds_a_flag(address: str, browser: Browser) -> None:
    import time

    browser.open(f"{address}?q=queue-size")
    for _ in range(100):
        found = browser.run("return document.querySelectorAll('.md-search-result__item a').length")
        if found:
            break
        time.sleep(0.1)
    assert found
    assert all(url.startswith((address, "blob:")) for url in browser.requests())
