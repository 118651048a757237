"""A proxy in front of a real S3 server that breaks requests on purpose, by rule and at random from a seed."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, cast
from urllib.parse import urlsplit

Kind = Literal[
    "slow_down",  # 503 with S3's error body; the server never sees the request
    "internal_error",  # 500, likewise
    "reset",  # the connection is reset before the server sees the request
    "lost_answer",  # the server does it, and the connection is reset before its answer
    "cut_upload",  # half of the request's body arrives, then both connections break
    "stalled_upload",  # half of the request's body is taken, then nothing more
    "cut_body",  # half of the answer's body, then a reset
    "short_body",  # half of the answer's body, then an orderly end, short of Content-Length
    "hang",  # no answer for as long as the client waits
    "slow",  # a good answer, a little late
]
_LATE_S = 0.3


@dataclass(kw_only=True)
class Fault:
    """Which requests to break, and how."""

    kind: Kind
    """What happens to them."""
    method: str = ".*"
    """Pattern of the whole method."""
    path: str = ""
    """Pattern somewhere in the path and query, as the client writes them."""
    chance: float = 1.0
    """Share of the matching requests that is broken."""
    count: float = float("inf")
    """How many are broken before the rule ends."""


class FaultyProxy:
    """Passes every request on unchanged, Host header included, so that signatures hold; breaks those of its faults."""

    def __init__(self, endpoint: str, seed: int = 0) -> None:
        self.upstream = cast(str, urlsplit(endpoint).netloc)
        self.faults: list[Fault] = []
        self.broken: Counter[str] = Counter()
        """How often each kind of fault happened."""
        self.seen: list[str] = []
        """Method and path of every request."""
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._port = 0
        self._server: _Server | None = None
        self.up()

    @property
    def endpoint(self) -> str:
        """Where clients send their requests."""
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.proxy = self
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and break those that are open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.break_all()
            self._server = None

    def choose(self, method: str, path: str, has_body: bool) -> Kind | None:
        """The fault of a request, if it has one."""
        with self._lock:
            self.seen.append(f"{method} {path}")
            for fault in self.faults:
                if fault.count <= 0 or not re.fullmatch(fault.method, method) or not re.search(fault.path, path):
                    continue
                if fault.kind.endswith("_upload") and not has_body:
                    continue
                if self._random.random() < fault.chance:
                    fault.count -= 1
                    self.broken[fault.kind] += 1
                    return fault.kind
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    proxy: FaultyProxy

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def break_all(self) -> None:
        for connection in list(self.connections):
            _reset(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that give up are what this is for


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def handle_expect_100(self) -> bool:
        return True  # said only once the body is wanted: a fault may come first

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "")
        kind = self.server.proxy.choose(self.command, self.path, has_body=length > 1 or chunked)
        if kind == "reset":
            return self._break()
        if kind == "hang":
            return self._hang()
        if "100-continue" in (self.headers.get("Expect") or ""):
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()
        if kind in ("cut_upload", "stalled_upload"):
            body = self.rfile.read(length // 2) if not chunked else self.rfile.read(1)
            if kind == "stalled_upload":
                return self._hang()
            self._forward(body, cut=True)
            return self._break()
        body = self._chunks() if chunked else self.rfile.read(length)
        if kind == "slow_down":
            return self._answer(503, "SlowDown", "Please reduce your request rate.")
        if kind == "internal_error":
            return self._answer(500, "InternalError", "We encountered an internal error. Please try again.")
        if kind == "slow":
            time.sleep(_LATE_S)
        self._relay(kind, *self._forward(body))

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes, cut: bool = False) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send the request on; with `cut`, only a part of it, and end the connection."""
        upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=60)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "transfer-encoding", "connection"):
                    upstream.putheader(name, value)
            if "Content-Length" not in self.headers and body:
                upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            if cut:
                time.sleep(0.05)  # let the server see the part
                _reset(upstream.sock)
                return 0, [], b""
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _relay(self, kind: Kind | None, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        if kind == "lost_answer":
            return self._break()
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = dict((name.lower(), value) for name, value in headers).get("content-length", str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if kind in ("cut_body", "short_body"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if kind == "cut_body" or self.command == "HEAD" or not content:
                return self._break()
            self.close_connection = True
            return None
        self.wfile.write(content)
        return None

    def _answer(self, status: int, code: str, message: str) -> None:
        content = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else content)

    def _hang(self) -> None:
        """Keep the connection, and answer nothing, until the client leaves."""
        self.close_connection = True
        fileno = self.connection.fileno()
        while fileno >= 0 and _is_open(self.connection):
            time.sleep(0.05)

    def _break(self) -> None:
        self.close_connection = True
        _reset(self.connection)


def _is_open(connection: socket.socket) -> bool:
    """Whether the peer still holds its end; reads nothing."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return info[0] == 1  # TCP_ESTABLISHED


def _reset(connection: socket.socket) -> None:
    """Close with an RST instead of a FIN."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
        connection.close()
