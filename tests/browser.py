"""A real headless Chromium, for tests that look at pages as people do."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

PHONE, DESKTOP = (390, 844), (1280, 900)
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)


class Browser:
    """A page in a browser, as wide as wanted.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path | str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
        """Load a file, or what has a URL, as on a screen of this size."""
        width, height = size
        self._send(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get_log("browser"), self.driver.get_log("performance")  # of pages before
        self.driver.get(f"file://{quote(str(page.resolve()))}" if isinstance(page, Path) else page)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """URLs that were asked for since the page was opened, without those of data within it."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if not one["request"]["url"].startswith("data:")]

    def overflow(self) -> int:
        """Pixels by which the page is wider than the screen."""
        return int(self.run("return document.documentElement.scrollWidth - window.innerWidth"))

    def unnamed_pictures(self) -> list[str]:
        """Pictures that say nothing to whoever does not see them."""
        return list(
            self.run(
                "return [...document.querySelectorAll('img, svg')].filter(one => !one.closest('[aria-hidden=true]') && "
                "!(one.getAttribute('alt') || one.getAttribute('aria-label'))).map(one => one.outerHTML.slice(0, 120))"
            )
        )

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, or of what is on the screen."""
        width, height = self.run("return [window.innerWidth, document.documentElement.scrollHeight]")
        clip = {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}, "captureBeyondViewport": True}
        picture = self._send("Page.captureScreenshot", {"format": "png", **(clip if whole else {})})
        file.write_bytes(base64.b64decode(picture["data"]))

    def _send(self, command: str, values: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(command, values)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own, with an empty profile and without a script's leave to ask for anything elsewhere."""
    binary = next((found for name in _CHROMIUMS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    assert binary and driver, "no Chromium and chromedriver: `make browser` installs Debian's, where there is apt-get"
    options = Options()
    options.binary_location = binary
    for flag in _FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield Browser(browser)
        finally:
            browser.quit()
