"""Folders of runs as training writes them, without the training; and a server of them that listens."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moco_ray.config import to_json
from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.config.presets import smoke
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.metrics import StepLines
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.web.guard import Access
from moco_ray.web.server import listen, serving
from moco_ray.web.watch import Watch
from tests.s3 import open_storage

LAST = 40


def write_run(root: str | Path, name: str, *, steps: int = LAST, lr: float = 0.03, level: float = 50.0) -> Storage:
    """The folder of a run of 40 steps, of which some are done; its kNN accuracy ends at 10 above a level."""
    parent = open_storage(str(root))
    run = replace(parent, root=parent.join(*name.split("/")))
    config = smoke()
    config = replace(
        config,
        data=replace(config.data, uri="/images"),
        optim=replace(config.optim, lr=lr),
        run=replace(config.run, name=name.rsplit("/", 1)[-1], max_steps=LAST),
    )
    run.write_bytes(run.join("config.json"), to_json(config).encode())
    if steps:
        write_checkpoint(run, 0, steps, level=level)
    if steps == LAST:
        parts = [path for path in sorted(run.files(run.root)) if path.startswith("metrics/")]
        content = b"".join(run.read_bytes(run.join(*path.split("/"))) for path in parts)
        run.write_bytes(run.join("metrics.jsonl"), content)
    return run


def write_checkpoint(run: Storage, first: int, steps: int, *, level: float = 50.0) -> None:
    """What a checkpoint writes, with the metrics of the steps since the one before, and the evaluations so far."""
    lines = StepLines()
    for step in range(first, steps):
        lines.add(
            {
                "step": step,
                "train/loss": 5 - step / 20,
                "train/contrast_accuracy": 2.0 * step,
                "train/lr": 0.03,
                "perf/images_per_s": 320.0,
            }
        )
    evaluations = [
        {"step": step, "eval/knn_top1": level + step / 4, "eval/rankme": 5.0 + step} for step in range(0, steps + 1, 10)
    ]
    content = "".join(json.dumps(line) + "\n" for line in evaluations).encode()
    run.write_bytes(run.join("eval.jsonl"), content)
    info = {"last_step": LAST, "best_by": "eval/knn_top1", "device_s": {"cuda": 7200.0}}
    CheckpointStore(storage=run).write(steps, {"w": torch.zeros(3)}, lines.take_part(), info)


def write_sweep(root: str | Path, name: str, num_trials: int) -> None:
    """A sweep over learning rates."""
    folder = open_storage(str(root))
    for number in range(num_trials):
        write_run(root, f"{name}/trial_{number:03d}", lr=0.1 + number / 100, level=20.0 + number)
    folder.write_bytes(folder.join(name, "sweep.json"), b"{}")
    folder.write_bytes(folder.join(name, "report.html"), b"<!doctype html><title>of a sweep</title><p>best trial")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class Served:
    """A server that listens."""

    port: int
    watch: Watch

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, *, method: str = "GET", host: str | None = None, **headers: str) -> Answer:
        """Send a request with this very path, whatever is in it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            if host != "":
                connection.putheader("Host", host or f"127.0.0.1:{self.port}")
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def runs(self, query: str = "") -> dict[str, dict[str, Any]]:
        """What programs get."""
        runs: list[dict[str, Any]] = json.loads(self.get(f"/api/runs.json{query}").body)["runs"]
        assert all(value is None or math.isfinite(value) for run in runs for value in [run["seconds_left"]])
        return {run["name"]: run for run in runs}


@contextmanager
def served(
    uri: str | Path,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    patience: Patience = USUAL_PATIENCE,
    every_s: float = 0.0,
) -> Iterator[Served]:
    """Serve the runs under a storage path at a free port, looked at anew for every request."""
    options: StorageOptions = resolve_storage_options(str(uri), None)
    watch = Watch(Storage.open(str(uri), options, is_quick=True), patience=patience)
    with listen(host, 0) as sock:
        port = sock.getsockname()[1]
        watch.refresh()
        with serving(watch, sock, Access(host, token), options, every_s):
            yield Served(port, watch)
