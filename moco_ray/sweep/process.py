"""Start, watch and stop the process of a trial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from moco_ray.storage.local import write_file

_STOP_PATIENCE_S = 90.0
_LOG = "log.txt"


class TrialProcess:
    """One process of `moco_ray.sweep.trial_main`, with its output in a file."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="moco_ray_trial_")  # readable by the owner alone
        self._error = Path(self._folder.name) / "error.txt"
        self._environment = environment

    def path(self, name: str) -> str:
        """Where `write` puts a file for the process."""
        return str(Path(self._folder.name) / name)

    def write(self, name: str, content: bytes) -> None:
        """Put a file where the process finds it, whole at any time."""
        write_file(self.path(name), content)

    def start(self, task_line: bytes) -> None:
        """Start it on a task; called once."""
        log = (Path(self._folder.name) / _LOG).open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moco_ray.sweep.trial_main", str(self._error)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **self._environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C on the driver's terminal reaches it through its parent
        )
        log.close()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once: its exit code says so
            self._process.stdin.write(task_line)
            self._process.stdin.flush()

    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def error(self) -> str:
        """What went wrong, in its own words or as far as its end tells."""
        if self._error.exists():
            return self._error.read_text()
        code = self._process.poll() or 0
        lines = [line for line in self.log().decode(errors="replace").splitlines() if line.strip()]
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"its process {how}; the last line of its log: {lines[-1] if lines else 'none'}"

    def log(self) -> bytes:
        """Everything that it printed."""
        return (Path(self._folder.name) / _LOG).read_bytes()

    def stop(self) -> None:
        """Let it end in good order, or else end it."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def forget(self) -> None:
        """Delete its files; it must have ended."""
        self._folder.cleanup()


def ray_environment() -> dict[str, str]:
    """What a process needs to connect to the cluster of this one, with the same code on its nodes."""
    import ray

    context = ray.get_runtime_context()
    environment = {"RAY_ADDRESS": context.gcs_address}
    if runtime_env := dict(context.runtime_env):
        environment["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": runtime_env})
    return environment
