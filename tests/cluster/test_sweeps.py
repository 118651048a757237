"""A sweep on a cluster that starts nodes: what the autoscaler may add counts, and what it cannot is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.autoscaling import AutoscalingHead

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMOKE = ["--preset", "smoke", "--run.name", "sweep", "--num-samples", "6"]


def _sweep(head: AutoscalingHead, images: Path, storage: Path, *flags: str) -> tuple[int, str]:
    command = [sys.executable, "tune/sweep.py", *SMOKE, "--data.uri", str(images), "--run.storage-path", str(storage)]
    environment = {**os.environ, "RAY_ADDRESS": head.address}
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_trials_wait_for_nodes_that_are_started_for_them(images: Path, tmp_path: Path) -> None:
    head = AutoscalingHead({"small": {"CPU": 2}}, max_nodes=2, idle_s=10)
    try:
        start = time.monotonic()
        code, text = _sweep(head, images, tmp_path, "--run.num-workers", "0", "--cpus-per-trial", "4")
        assert code == 2 and time.monotonic() - start < 90
        assert "a process with 4 CPUs, can never start" in text and "autoscaler cannot start nodes" in text
        code, text = _sweep(head, images, tmp_path, "--run.num-workers", "1", "--dry-run")
        assert code == 0, text
        assert "2 trials at once: each trains with 1 x 1 CPU" in text and "the autoscaler can start nodes" in text
        code, text = _sweep(head, images, tmp_path, "--run.num-workers", "0", "--num-samples", "2")
        assert code == 0, text
        assert "2 trials at once" in text and "2 finished" in text
        head.wait_for_nodes(0)
    finally:
        head.stop()
