"""What is answered at which address."""

from __future__ import annotations

import asyncio
import json
import math
import mimetypes
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web

from moco_ray.config.programs import spoken
from moco_ray.report.words import time_words
from moco_ray.storage.errors import Missing
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import shown
from moco_ray.web.compare import comparison
from moco_ray.web.curves import CurvesOfRuns
from moco_ray.web.guard import ICON, REPORT_HEADERS, Access, guard, refusal
from moco_ray.web.links import REPORT, SWEEP_REPORT
from moco_ray.web.pages import ASSETS, Pages, asset
from moco_ray.web.run_page import run_page
from moco_ray.web.table import Query, chosen, table_of
from moco_ray.web.watch import Seen, Snapshot, Watch

EVERY_S = 3.0
"""Between two looks at the storage."""
_LATE_S = 10.0
_PATIENCE_S, _OLD_S = (0.3, 5.0), 20.0  # for what is known and not old, and for what is
_MOST_NAMES, _LARGEST_FILE = 50, 64 << 20
_SHOWN_TYPES = ("text/html", "text/plain", "text/css", "image/", "application/json")


class App:
    """The pages of all runs, read from one storage path."""

    def __init__(self, watch: Watch, pages: Pages, every_s: float = EVERY_S) -> None:
        """Nothing is looked at before somebody asks.

        Args:
            watch: Of the storage path.
            pages: Show them.
            every_s: At least, between two looks at them.
        """
        self._watch, self._pages, self._every_s, self._curves = watch, pages, every_s, CurvesOfRuns()
        self._look: asyncio.Task[Snapshot] | None = None
        self._begun = -math.inf

    def application(self, access: Access) -> web.Application:
        """The web application."""
        application = web.Application(middlewares=[guard(access)])
        application.router.add_get("/", self.table)
        application.router.add_get("/compare", self.compare)
        application.router.add_get("/run/{path:.+}", self.run)
        application.router.add_get(f"/sweep/{{name}}/{SWEEP_REPORT}", self.sweep)
        application.router.add_get("/api/runs.json", self.json)
        application.router.add_get("/static/{name}", self.static)
        application.router.add_get(ICON, self.icon)
        return application

    async def snapshot(self) -> Snapshot:
        """The runs, looked at again if that was a while ago; nobody waits for long for a slow storage."""
        now = time.monotonic()
        if self._look is None or (self._look.done() and now - self._begun > self._every_s):
            self._begun = now
            self._look = asyncio.create_task(asyncio.to_thread(self._watch.refresh))
        is_old = not self._watch.latest.problem and time.time() - self._watch.latest.at > _OLD_S
        await asyncio.wait({self._look}, timeout=_PATIENCE_S[is_old])
        latest, waited = self._watch.latest, time.monotonic() - self._begun
        if not self._look.done() and waited > _LATE_S:
            return replace(latest, problem=f"the storage has not answered for {time_words(waited)}")
        return latest

    async def table(self, request: web.Request) -> web.Response:
        """The table of runs."""
        snapshot, query = await self.snapshot(), Query.read(request.query)
        table: dict[str, Any] = {"begin": spoken("pretrain"), "demo": spoken("demo")}
        table |= table_of(snapshot, query, time.time())
        return self._render(request, "table", snapshot, **table)

    async def compare(self, request: web.Request) -> web.Response:
        """Several runs side by side."""
        names = request.query.getall("run", [])[:_MOST_NAMES]
        snapshot, by = await self.snapshot(), request.query.get("by", "step")

        def work() -> dict[str, Any]:
            return comparison(snapshot, names, "epoch" if by == "epoch" else "step", self._curves, time.time())

        return await self._render_read(request, "compare", snapshot, work)

    async def run(self, request: web.Request) -> web.StreamResponse:
        """The page of a run, or a file of its report."""
        snapshot, path = await self.snapshot(), request.match_info["path"]
        if (seen := snapshot.runs.get(path)) is not None:
            one = seen
            return await self._render_read(request, "run", snapshot, lambda: run_page(one, self._curves, time.time()))
        name, slash, file = path.partition(f"/{REPORT}/")
        if slash and (seen := snapshot.runs.get(name)) is not None:
            return await self._file(seen, f"{REPORT}/{file}")
        text = f"There is no run {shown(path)} here (any more)."
        return self._render(request, "problem", snapshot, status=404, text=text)

    async def sweep(self, request: web.Request) -> web.Response:
        """The report of a sweep, which it writes at its end."""
        snapshot, name = await self.snapshot(), request.match_info["name"]
        sweeps = [one.run.sweep for key, one in snapshot.runs.items() if key.startswith(f"{name}/")]
        if not sweeps or (storage := sweeps[0]) is None or not _is_inside(storage, SWEEP_REPORT):
            raise web.HTTPNotFound
        try:
            content = await asyncio.to_thread(storage.read_bytes, storage.join(SWEEP_REPORT))
        except Missing:
            text = f"The sweep {name} has written no report yet; it does so when it ends."
            return self._render(request, "problem", snapshot, status=404, text=shown(text))
        except (ValueError, OSError) as error:
            return refusal(503, self._pages.plain(str(error)))
        return web.Response(body=content, content_type="text/html", charset="utf-8", headers=REPORT_HEADERS)

    async def json(self, request: web.Request) -> web.Response:
        """The same as the table shows, for programs."""
        snapshot = await self.snapshot()
        content = {
            "at": snapshot.at,
            "problem": snapshot.problem or None,
            "runs": [_values(one) for one in chosen(snapshot, Query.read(request.query))],
        }
        return web.json_response(text=json.dumps(self._plain(content), allow_nan=False, indent=1))

    async def static(self, request: web.Request) -> web.Response:
        """One of our own files."""
        name = request.match_info["name"]
        if name not in ASSETS:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "private, max-age=86400"}
        return web.Response(body=asset(name), content_type=ASSETS[name], headers=headers)

    async def icon(self, request: web.Request) -> web.Response:
        """What browsers ask for by themselves, for pages of reports, too, which are apart from ours."""
        headers = {"Cross-Origin-Resource-Policy": "cross-origin"}
        return web.Response(body=asset("icon.svg"), content_type=ASSETS["icon.svg"], headers=headers)

    async def _file(self, seen: Seen, path: str) -> web.Response:
        """A file that was listed in the run's report/: no other name leads anywhere."""
        run = seen.run
        if path not in run.files or not _is_inside(run.storage, path):
            raise web.HTTPNotFound
        if run.files[path][0] > _LARGEST_FILE:
            return refusal(413, f"larger than {_LARGEST_FILE >> 20} MiB; open it where it lies: {shown(path)}")
        try:
            content = await asyncio.to_thread(run.read, path)
        except (ValueError, OSError) as error:
            return refusal(503, self._pages.plain(str(error)))
        if content is None:
            raise web.HTTPNotFound
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        headers = dict(REPORT_HEADERS)
        if not kind.startswith(_SHOWN_TYPES):
            kind = "application/octet-stream"
            headers["Content-Disposition"] = "attachment"
        charset = "utf-8" if kind.startswith("text/") else None
        return web.Response(body=content, content_type=kind, charset=charset, headers=headers)

    async def _render_read(
        self,
        request: web.Request,
        template: str,
        snapshot: Snapshot,
        work: Callable[[], dict[str, Any]],
        **values: Any,
    ) -> web.Response:
        """A page for which files are read, in a thread: whoever looks at another one does not wait."""
        try:
            values |= await asyncio.to_thread(work)
        except (Missing, OSError) as error:
            return self._render(request, "problem", snapshot, status=503, text=shown(str(error)))
        return self._render(request, template, snapshot, **values)

    def _render(
        self, request: web.Request, template: str, snapshot: Snapshot, *, status: int = 200, **values: Any
    ) -> web.Response:
        where = shown(self._watch.root.uri(self._watch.root.root))
        problem = shown(snapshot.problem)
        return self._pages.render(request, template, status=status, where=where, problem=problem, **values)

    def _plain(self, value: Any) -> Any:
        """Values for JSON: without credentials, and without numbers that it cannot hold."""
        if isinstance(value, dict):
            return {str(name): self._plain(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(one) for one in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return self._pages.plain(value) if isinstance(value, str) else value


def _is_inside(folder: Storage, path: str) -> bool:
    """Whether a file lies in its folder itself, and no link leads elsewhere."""
    if folder.protocol != "file":
        return True
    file, root = os.path.realpath(folder.join(*path.split("/"))), os.path.realpath(folder.root)
    return os.path.commonpath([file, root]) == root


def _values(seen: Seen) -> dict[str, Any]:
    changes = {path: {"value": value, "preset": before} for path, (value, before) in seen.summary.changes.items()}
    pace = {"images_per_s": seen.images_per_s, "seconds_left": seen.seconds_left}
    return {**asdict(seen.summary), "changes": changes, **pace}
