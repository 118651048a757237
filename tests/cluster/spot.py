"""EC2's metadata service, served from here, and deploy/spot_notice.py, which watches it."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.deployed import REPOSITORY

SCRIPT = REPOSITORY / "deploy" / "spot_notice.py"


@contextmanager
def metadata(values: dict[str, str]) -> Iterator[str]:
    """Serve values as EC2's metadata service (IMDSv2) does: 401 without a token, 404 for what is not there.

    Yields:
        Its address. Values may change while it serves.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            has_ttl = "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
            self.answer(200 if has_ttl and self.path == "/latest/api/token" else 400, "the-token")

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") != "the-token":
                return self.answer(401, "")
            value = values.get(self.path.removeprefix("/latest/meta-data/"))
            return self.answer(404 if value is None else 200, value or "")

        def answer(self, code: int, body: str) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def watch(endpoint: str, *arguments: str) -> subprocess.Popen[str]:
    """Start the script, as a node of a cluster does."""
    environment = {**os.environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
