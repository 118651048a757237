"""kill -9 of a sweep's driver and all that it has started: the same command goes on, and runs nothing again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from moco_ray.config import to_json
from tests.runs import tiny_config

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def _start(config: Path, log: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "tune/sweep.py", "--preset", str(config), "--cpus-per-trial", "1", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env=environment, start_new_session=True
        )


def _kill_all(job: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    job.wait()


def _records(sweep: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(sweep.glob("trials/*.json"))}


def _wait(job: subprocess.Popen[bytes], log: Path, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert job.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


def _ended(sweep: Path) -> list[str]:
    return [name for name, record in _records(sweep).items() if record["state"] != "running"]


def test_no_finished_trial_runs_again(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path / "runs", max_steps=16, checkpoint_every_steps=4)
    config = replace(config, eval=replace(config.eval, every_steps=4))
    (tmp_path / "config.json").write_text(to_json(config))
    # Two run at once and none is stopped before step 12: when one has ended, another has measurements and runs.
    flags = ["--num-samples", "3", "--scheduler", "asha", "--asha-reduction", "2", "--asha-grace", "0.6"]
    log = tmp_path / "log.txt"

    job = _start(tmp_path / "config.json", log, *flags)
    found: list[Path] = []

    def is_in_the_middle() -> bool:
        found[:] = list((tmp_path / "runs").glob("sweep-*"))
        running = [r for r in (_records(found[0]).values() if found else []) if r["state"] == "running"]
        return bool(found) and len(_ended(found[0])) >= 1 and any(len(record["points"]) >= 2 for record in running)

    _wait(job, log, is_in_the_middle)
    _kill_all(job)
    (sweep,) = found
    before, logs = _records(sweep), {path: path.read_bytes() for path in sweep.glob("*/log.txt")}
    ended = _ended(sweep)
    interrupted = [name for name, record in before.items() if record["state"] == "running" and record["points"]]
    assert ended and interrupted

    job = _start(tmp_path / "config.json", log, *flags)  # the same command: no name was given
    assert job.wait(timeout=400) == 0, log.read_text()[-3000:]
    after = _records(sweep)
    assert len(after) == 3 and all(record["state"] in ("finished", "stopped") for record in after.values())
    for name in ended:
        assert after[name] == before[name]
        assert all(path.read_bytes() == content for path, content in logs.items() if path.parent.name == name)
    for name in interrupted:
        known = before[name]["points"]
        assert after[name]["points"][: len(known)] == known and after[name]["parameters"] == before[name]["parameters"]
    assert f"trials that have ended and stay: {len(ended)};" in log.read_text()
    assert (sweep / "best.json").is_file() and (sweep / "report.html").is_file()


def test_ctrl_c_leaves_nothing_behind_and_says_how_to_go_on(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path / "runs", checkpoint_every_steps=4)
    config = replace(config, optim=replace(config.optim, epochs=200))
    (tmp_path / "config.json").write_text(to_json(config))
    log = tmp_path / "log.txt"
    job = _start(tmp_path / "config.json", log, "--num-samples", "1", "--run.name", "s")
    _wait(job, log, lambda: bool(list((tmp_path / "runs" / "s").glob("trial_0000/checkpoint_*/COMMITTED"))))
    family = psutil.Process(job.pid).children(recursive=True)
    job.send_signal(signal.SIGINT)
    assert job.wait(timeout=90) == 130, log.read_text()[-3000:]
    assert "the same command goes on with this sweep" in log.read_text().replace("\n", " ")
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert _records(tmp_path / "runs" / "s")["trial_0000"]["state"] == "running"
