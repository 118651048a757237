"""A real HTTP server for tests: Python's own, in a thread, which counts what it is asked."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    seen: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.seen.append(str(getattr(self, "requestline", "")))


@contextmanager
def web_server(folder: Path, seen: list[str] | None = None) -> Iterator[str]:
    """Serve a folder; gives the server's address, and appends each request to `seen`."""
    handler = functools.partial(type("Handler", (_Handler,), {"seen": [] if seen is None else seen}), directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
