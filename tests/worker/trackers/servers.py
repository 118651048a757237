"""Servers of trackers that work, or do not: what an outage is made of."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = dict[str, Any]


class MlflowServer:
    """As much of MLflow's REST interface as a run needs, in memory.

    Attributes:
        mode: "ok"; "error" answers 500; "silent" never answers.
        runs: What is known of each run.
    """

    def __init__(self) -> None:
        self.mode = "ok"
        self.runs: list[Answer] = []
        self.requests: list[str] = []
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}"))

            def _answer(self, asked: Answer) -> None:
                while owner.mode == "silent":
                    time.sleep(0.1)
                name = urlsplit(self.path).path.split("/mlflow/")[-1]
                owner.requests.append(name)
                if owner.mode == "error":
                    self.send_error(500)
                    return
                with owner._lock:
                    content = json.dumps(owner.answer(name, asked)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, name: str, asked: Answer) -> Answer:
        experiment = {"experiment_id": "1", "name": "moco_ray", "lifecycle_stage": "active"}
        if name.startswith("experiments/"):
            return {"experiment": experiment, "experiment_id": "1"}
        if name == "runs/create":
            info = {"run_id": f"r{len(self.runs)}", "run_uuid": f"r{len(self.runs)}", "experiment_id": "1"}
            info |= {
                "run_name": asked["run_name"],
                "status": "RUNNING",
                "lifecycle_stage": "active",
                "artifact_uri": "x",
            }
            self.runs.append({"info": info, "tags": asked["tags"], "params": [], "points": []})
            return {"run": self._shown(self.runs[-1])}
        if name == "runs/search":
            key = asked["filter"].split("'")[1]
            return {"runs": [self._shown(run) for run in self.runs if key in [tag["value"] for tag in run["tags"]]]}
        run = next(run for run in self.runs if run["info"]["run_id"] == asked["run_id"])
        if name == "metrics/get-history":
            return {"metrics": [point for point in run["points"] if point["key"] == asked["metric_key"]]}
        if name == "runs/log-batch":
            run["points"] += asked.get("metrics", [])
            run["params"] += asked.get("params", [])
        if name == "runs/update":
            run["info"]["status"] = asked["status"]
        return {"run": self._shown(run), "run_info": run["info"]}

    @staticmethod
    def _shown(run: Answer) -> Answer:
        newest = {point["key"]: point for point in sorted(run["points"], key=lambda point: int(point["step"]))}
        return {"info": run["info"], "data": {**run, "metrics": list(newest.values())}}

    def points(self, name: str) -> list[tuple[int, float]]:
        """Those of a metric of the only run, as they came."""
        (run,) = self.runs
        return [(int(point["step"]), point["value"]) for point in run["points"] if point["key"] == name]

    @contextmanager
    def running(self) -> Iterator[MlflowServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield self
        self.mode = "ok"
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def closed_port() -> Iterator[str]:
    """An address at which nobody listens, for as long as this lasts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def silent_port() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(64)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
