"""deploy/spot_notice.py against a real cluster; only EC2's metadata service is served from here."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

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


def start(endpoint: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_nothing_to_watch_on_demand() -> None:
    with metadata({"instance-life-cycle": "on-demand"}) as endpoint:
        output, _ = start(endpoint, "127.0.0.1:1").communicate(timeout=30)
    assert output == "not a spot instance: nothing to watch\n"


# Keeps the node busy, as a training worker does: an idle node that is drained leaves at once.
WORK = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="error")
@ray.remote(num_cpus=1)
class Worker:
    def work(self):
        return True
worker = Worker.remote()
ray.get(worker.work.remote())
print("working", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_notice_drains_this_node_with_its_deadline() -> None:
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    work = subprocess.Popen([sys.executable, "-c", WORK, cluster.address], stdout=subprocess.PIPE, text=True)
    try:
        assert work.stdout is not None
        assert work.stdout.readline() == "working\n"
        gcs = GcsClient(address=cluster.address)
        values = {"instance-life-cycle": "spot"}
        with metadata(values) as endpoint:
            watcher = start(endpoint, cluster.address)
            time.sleep(12)
            assert watcher.poll() is None  # no notice yet: it goes on watching
            assert gcs.get_draining_nodes() == {}
            end = datetime.now(UTC) + timedelta(seconds=120)
            values["spot/instance-action"] = json.dumps({"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"})
            output, _ = watcher.communicate(timeout=60)
        assert watcher.returncode == 0, output
        (deadline_ms,) = gcs.get_draining_nodes().values()
        # The notice has whole seconds, and handing it on takes some time.
        assert -2 < deadline_ms / 1000 - end.timestamp() < 10
    finally:
        work.kill()
        cluster.shutdown()
