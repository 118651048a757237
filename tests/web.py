"""A real HTTP server for tests: Python's own, in a thread, which counts what it is asked."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    seen: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.seen.append(str(getattr(self, "requestline", "")))


@contextmanager
def _serving(server: ThreadingHTTPServer) -> Iterator[str]:
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def web_server(folder: Path, seen: list[str] | None = None) -> Iterator[str]:
    """Serve a folder; gives the server's address, and appends each request to `seen`."""
    handler = functools.partial(type("Handler", (_Handler,), {"seen": [] if seen is None else seen}), directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with _serving(server) as address:
        yield address


@contextmanager
def page_server(
    answer: Callable[[str], tuple[int, dict[str, str], bytes]],
    head: Callable[[str], tuple[int, dict[str, str], bytes]] | None = None,
) -> Iterator[str]:
    """Answer each path with a status, further headers and a page, HEAD alike or as said; gives the server's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, headers, body = (head if head and self.command == "HEAD" else answer)(self.path)
            self.send_response(code)
            for name, value in {"Content-Type": "text/html", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            with contextlib.suppress(OSError):  # whoever asked may be gone
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    with _serving(server) as address:
        yield address
