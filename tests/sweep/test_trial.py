"""The process of a trial: stopping it frees its run, and it never outlives its parent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from moco_ray.config import Config, to_json
from moco_ray.driver.images.listing import list_images
from moco_ray.run_folder.begin import MANIFEST
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.sweep.trial import TrialProcess, ray_environment
from moco_ray.sweep.trial_main import Task, task_line
from tests.runs import tiny_config

pytestmark = pytest.mark.slow


def _task(images: Path, folder: Path, **run: object) -> Task:
    """A run of many epochs in a sweep's folder that holds the list of images."""
    config = tiny_config(images, folder, name="trial", checkpoint_every_steps=4, **run)
    config = replace(config, optim=replace(config.optim, epochs=5000))
    _list(config, folder)
    return Task(
        config=to_json(config),
        sweep_uri=str(folder),
        data_options=None,
        run_options=None,
        folder=str(folder),
        typed="tune/sweep.py",
    )


def _list(config: Config, folder: Path) -> None:
    storage = Storage.open(str(folder), StorageOptions({}))
    list_images(config).train.write(storage, storage.join(MANIFEST))


def _wait(is_so: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 400
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def _has_saved(folder: Path) -> bool:
    return bool(list(folder.glob("trial/checkpoint_*/COMMITTED")))


def _is_free(folder: Path) -> bool:
    """Whether nobody holds the trial's run; a lease stays, without an owner, where the driver had heard of a step."""
    lease = folder / "trial" / "lease.json"
    return not lease.exists() or json.loads(lease.read_text())["owner"] == ""


def test_a_stopped_trial_frees_its_lease_and_ends_its_workers(images: Path, tmp_path: Path, shared_ray: None) -> None:
    import ray

    free = ray.available_resources()["CPU"]
    process = TrialProcess(ray_environment())
    process.start(task_line(_task(images, tmp_path, num_workers=1)))
    try:
        _wait(lambda: _has_saved(tmp_path) or process.code() is not None, lambda: process.log().decode()[-3000:])
        assert process.code() is None, process.log().decode()[-3000:]
        assert ray.available_resources().get("CPU", 0.0) < free
    finally:
        process.stop()
    assert process.code() == 143
    assert _is_free(tmp_path)
    _wait(lambda: ray.available_resources().get("CPU", 0.0) == free, lambda: str(ray.available_resources()))


def test_a_trial_ends_with_its_parent(images: Path, tmp_path: Path) -> None:
    task = tmp_path / "task.json"
    task.write_bytes(task_line(_task(images, tmp_path)))
    program = (
        "import sys, time; from pathlib import Path; from moco_ray.sweep.trial import TrialProcess\n"
        f"process = TrialProcess({{}}); process.start(Path({str(task)!r}).read_bytes())\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    _wait(lambda: _has_saved(tmp_path) or parent.poll() is not None, lambda: "no checkpoint")
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert _is_free(tmp_path)
