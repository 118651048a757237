"""A trial as Ray Tune sees it: it runs a process, and passes on what that measures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from moco_ray.storage.keys import Keys
from moco_ray.storage.local import write_file
from moco_ray.storage.storage import Storage, StorageOptions

_LOOK_EVERY_S, _LOOK_EVERY_REMOTE_S = 0.5, 3.0
_MAX_STARTS_WITHOUT_PROGRESS = 3
_USER_ERROR = 2
_LOG = "log.txt"
_STOP_PATIENCE_S = 90.0

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Access:
    """What all trials share and nothing may print; it travels through the object store."""

    task: dict[str, Any] = field(repr=False)
    """Fields of every trial's `trial_main.Task`."""
    options: StorageOptions
    """Access to the sweep's folder."""
    image_options: StorageOptions
    """Access to the images."""
    metric: str
    """What is maximised."""


class TrialRun(tune.Trainable):
    """Runs one trial. Each result is one measurement; the last one says how the trial ended."""

    def setup(self, config: dict[str, Any], access: Access | None = None) -> None:
        """Start the run, or go on with it.

        Args:
            config: trial (its name), task (fields of `trial_main.Task`), last_step, and seen: the step of the last
                measurement that is known already.
            access: What all trials share.
        """
        assert access is not None
        self._access, self._name = access, str(config["trial"])
        self._last_step, self._seen = int(config["last_step"]), int(config["seen"])
        self._run = Storage.open(f"{access.task['sweep_uri']}/{self._name}", access.options)
        self._task = {**access.task, **config["task"]}
        self._since_s = time.monotonic()
        self._starts, self._reached = 0, -1
        self._start()

    def step(self) -> Result:
        """Wait for the next measurement, or for the end."""
        while True:
            self._pass_on_keys()
            code = self._process.code()  # first: what a process wrote before it ended is then seen below
            lines = self._lines()
            news = [line for line in lines if self._seen < line["step"] and self._access.metric in line]
            news = [line for line in news if line["step"] < self._last_step]  # the last one waits for the run's end
            if news:
                self._seen = news[0]["step"]
                return self._result(news[0])
            if code is None:
                time.sleep(_LOOK_EVERY_S if self._run.protocol == "file" else _LOOK_EVERY_REMOTE_S)
            elif (result := self._ended(code, lines)) is not None:
                return result

    def cleanup(self) -> None:
        """Stop the run: its lease is free and its workers are gone when this returns."""
        self._process.stop()
        self._keep_log()
        self._process.forget()

    def _start(self) -> None:
        self._starts += 1
        options = {"data_options": self._access.image_options, "run_options": self._access.options}
        self._files = {name: access for name, access in options.items() if access.values}
        self._passed: dict[str, Keys | None] = {}
        self._process = TrialProcess(ray_environment())
        self._pass_on_keys()
        paths = {name: self._process.path(name) if name in self._files else None for name in options}
        self._process.start(json.dumps({**self._task, **paths}).encode() + b"\n")

    def _pass_on_keys(self) -> None:
        """Write the options of the run, again whenever its keys have changed, into files that it reads them from."""
        for name, options in self._files.items():
            ring = options.key_ring()
            if ring is not None:
                ring.renew_if_due()
            if name not in self._passed or (ring is not None and ring.current != self._passed[name]):
                keys = ring.current if ring is not None else None
                renewed = {"key": keys.access_key, "secret": keys.secret, "token": keys.token} if keys else {}
                self._process.write(name, json.dumps({**options.values, **renewed}).encode())
                self._passed[name] = keys

    def _ended(self, code: int, lines: list[Result]) -> Result | None:
        """The last result, or None where the run has been started again."""
        if code == 0:
            final = [line for line in lines if line["step"] == self._last_step and self._access.metric in line]
            if final:
                return {**self._result(final[0]), "ended": "finished", "done": True}
            return self._failed(f"the last evaluation gave no {self._access.metric}; {self._name}/{_LOG} says why")
        error = self._process.error()
        reached = max((line["step"] for line in lines), default=-1)
        if reached > self._reached:
            self._starts, self._reached = 1, reached
        if code == _USER_ERROR or self._starts >= _MAX_STARTS_WITHOUT_PROGRESS:
            return self._failed(error)
        self._keep_log()
        self._process.forget()
        self._start()
        return None

    def _failed(self, reason: str) -> Result:
        return {"trial": self._name, "seconds": self._seconds(), "ended": "failed", "reason": reason, "done": True}

    def _result(self, line: Result) -> Result:
        metrics = {name: value for name, value in line.items() if name.startswith("eval/")}
        return {
            "trial": self._name,
            "run_step": line["step"],
            "position": line["position"],
            "value": line[self._access.metric],
            "metrics": metrics,
            "seconds": self._seconds(),
            "ended": "",
        }

    def _seconds(self) -> float:
        return round(time.monotonic() - self._since_s, 1)

    def _lines(self) -> list[Result]:
        path = self._run.join("eval.jsonl")
        if not self._run.exists(path):
            return []
        return [json.loads(line) for line in self._run.read_bytes(path).splitlines()]

    def _keep_log(self) -> None:
        """Append what the run printed to log.txt in its folder; a log is no reason to lose a trial."""
        try:
            path = self._run.join(_LOG)
            before = self._run.read_bytes(path) if self._run.exists(path) else b""
            self._run.write_bytes(path, before + self._process.log())
        except (OSError, ValueError):
            pass


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
    context = ray.get_runtime_context()
    environment = {"RAY_ADDRESS": context.gcs_address}
    if runtime_env := dict(context.runtime_env):
        environment["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": runtime_env})
    return environment
