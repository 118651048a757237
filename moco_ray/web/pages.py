"""Templates to pages, which show no credentials whatever they are given."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moco_ray.report import style_sheet
from moco_ray.storage.storage import StorageOptions
from moco_ray.storage.uris import without_secrets
from moco_ray.web.guard import page_policy

_NONCE = "NONCE-OF-THIS-ANSWER"


class Pages:
    """The pages of one server."""

    def __init__(self, options: Iterable[StorageOptions]) -> None:
        """Load nothing yet.

        Args:
            options: Access to storage, whose values no page shows.
        """
        self._options = tuple(options)
        self._environment = Environment(
            loader=PackageLoader("moco_ray.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=self._finalize,
        )

    def render(self, request: web.Request, name: str, *, status: int = 200, **values: Any) -> web.Response:
        """A page; where the browser has it already, only that."""
        template = self._environment.get_template(f"{name}.html")
        html = self.plain(template.render(**values, nonce=_NONCE, assets=_versions()))
        tag = f'"{hashlib.sha256(html.encode(errors="backslashreplace")).hexdigest()[:32]}"'
        if status == 200 and request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        nonce = secrets.token_urlsafe(16)
        return web.Response(
            status=status,
            body=html.replace(_NONCE, nonce).encode(errors="backslashreplace"),
            content_type="text/html",
            charset="utf-8",
            headers={"ETag": tag, "Content-Security-Policy": page_policy(nonce)},
        )

    def plain(self, text: str) -> str:
        """A text without credentials."""
        return without_secrets(text, self._options)

    def _finalize(self, value: Any) -> Any:
        return self.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


ASSETS = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""Our own files and their types."""


@cache
def asset(name: str) -> bytes:
    """The content of one of our own files."""
    content = resources.files("moco_ray.web").joinpath("static", name).read_text()
    if name == "style.css":
        content = style_sheet.style_sheet() + content
    if name == "live.js":
        content = content.replace("/* CHARTS */", style_sheet.SCRIPT)
    return content.encode()


@cache
def _versions() -> dict[str, str]:
    """Addresses of our own files, which change with their content."""
    return {name: f"/static/{name}?{hashlib.sha256(asset(name)).hexdigest()[:12]}" for name in ASSETS}
