"""kill -9 of the whole job, at any moment: the same command goes on, and the curve does not notice."""

from __future__ import annotations

import random
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moco_ray.config import to_json
from moco_ray.driver.run import pretrain
from tests.killing import kill_all, newest_step, start_job, wait_for_step
from tests.runs import digests, losses, metrics, tiny_config

STEPS = 60


def _quiet(line: str) -> None:
    pass


@pytest.mark.slow
def test_five_kills_at_random_moments_leave_the_curve_as_it_was(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=STEPS, checkpoint_every_steps=2, name="whole")
    config = replace(config, optim=replace(config.optim, epochs=8))
    whole = Path(pretrain(config, say=_quiet).folder)
    (tmp_path / "config.json").write_text(to_json(config))
    moments = random.Random(7)
    for workers in (0, 0, 2, 0, 0):
        job = start_job("jobs/pretrain.py", tmp_path / "config.json", tmp_path, workers)
        try:
            wait_for_step(job, tmp_path, newest_step(tmp_path) + moments.randint(1, 9))
            time.sleep(moments.uniform(0, 0.3))
            assert job.poll() is None, "the run was over before it could be killed"
        finally:
            kill_all(job)
    job = start_job("jobs/pretrain.py", tmp_path / "config.json", tmp_path, 0)
    assert job.wait(timeout=180) == 0, (tmp_path / "job.log").read_text()[-3000:]
    folder = tmp_path / "run"
    starts = [int(step) for step in re.findall(r"training from step (\d+)", (tmp_path / "job.log").read_text())]
    assert len(starts) == 6 and starts == sorted(starts) and starts[-1] >= 5
    assert [line["step"] for line in metrics(folder)] == list(range(STEPS))
    assert digests(folder) == digests(whole)
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-9)
    parts = sorted(path.name for path in (folder / "metrics").iterdir())
    assert len(parts) == len({name.split("-")[0] for name in parts})
