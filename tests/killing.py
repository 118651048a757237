"""Jobs as processes of their own, and kill -9 of all that they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil


def start_job(program: str, config: Path, folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start the run "run" of a configuration, with what it prints in job.log."""
    command = [sys.executable, program, "--preset", str(config), "--run.name", "run"]
    command += ["--run.storage-path", str(folder), "--run.num-workers", str(workers)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (folder / "job.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def kill_all(job: subprocess.Popen[bytes]) -> None:
    """Kill the driver and whatever it has started, all at once."""
    with suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    job.wait()


def newest_step(folder: Path) -> int:
    """Steps of the newest committed checkpoint."""
    steps = [int(marker.parent.name.split("_")[1]) for marker in (folder / "run").glob("checkpoint_*/COMMITTED")]
    return max(steps, default=0)


def wait_for_step(job: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    """Wait until the checkpoint of a step is committed."""
    deadline = time.monotonic() + 180
    while newest_step(folder) < step:
        assert job.poll() is None, (folder / "job.log").read_text()[-3000:]
        assert time.monotonic() < deadline, (folder / "job.log").read_text()[-3000:]
        time.sleep(0.01)
