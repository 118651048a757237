"""kill -9 of the whole job, at any moment: the same command goes on, and the curve does not notice."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from moco_ray.config import to_json
from moco_ray.driver.run import pretrain
from tests.runs import digests, losses, metrics, tiny_config

STEPS = 60


def _quiet(line: str) -> None:
    pass


def _start(config: Path, folder: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "jobs/pretrain.py", "--preset", str(config), "--run.name", "run"]
    command += ["--run.storage-path", str(folder), "--run.num-workers", str(workers)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (folder / "job.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _kill_all(job: subprocess.Popen[bytes]) -> None:
    """Kill the driver and whatever it has started, all at once."""
    with suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    job.wait()


def _newest(folder: Path) -> int:
    """Steps of the newest committed checkpoint."""
    steps = [int(marker.parent.name.split("_")[1]) for marker in (folder / "run").glob("checkpoint_*/COMMITTED")]
    return max(steps, default=0)


def _wait_for_step(job: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    deadline = time.monotonic() + 180
    while _newest(folder) < step:
        assert job.poll() is None, (folder / "job.log").read_text()[-3000:]
        assert time.monotonic() < deadline, (folder / "job.log").read_text()[-3000:]
        time.sleep(0.01)


@pytest.mark.slow
def test_five_kills_at_random_moments_leave_the_curve_as_it_was(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=STEPS, checkpoint_every_steps=2, name="whole")
    config = replace(config, optim=replace(config.optim, epochs=8))
    whole = Path(pretrain(config, say=_quiet).folder)
    (tmp_path / "config.json").write_text(to_json(config))
    moments = random.Random(7)
    for workers in (0, 0, 2, 0, 0):
        job = _start(tmp_path / "config.json", tmp_path, workers)
        try:
            _wait_for_step(job, tmp_path, _newest(tmp_path) + moments.randint(1, 9))
            time.sleep(moments.uniform(0, 0.3))
            assert job.poll() is None, "the run was over before it could be killed"
        finally:
            _kill_all(job)
    job = _start(tmp_path / "config.json", tmp_path, 0)
    assert job.wait(timeout=180) == 0, (tmp_path / "job.log").read_text()[-3000:]
    folder = tmp_path / "run"
    starts = [int(step) for step in re.findall(r"training from step (\d+)", (tmp_path / "job.log").read_text())]
    assert len(starts) == 6 and starts == sorted(starts) and starts[-1] >= 5
    assert [line["step"] for line in metrics(folder)] == list(range(STEPS))
    assert digests(folder) == digests(whole)
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-9)
    parts = sorted(path.name for path in (folder / "metrics").iterdir())
    assert len(parts) == len({name.split("-")[0] for name in parts})
