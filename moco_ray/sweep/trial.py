"""A trial as Ray Tune sees it: it runs a process, and passes on what that measures."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from ray import tune

from moco_ray.storage.keys import Keys
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.sweep.process import TrialProcess, ray_environment

_LOOK_EVERY_S, _LOOK_EVERY_REMOTE_S = 0.5, 3.0
_MAX_STARTS_WITHOUT_PROGRESS = 3
_USER_ERROR = 2
_LOG = "log.txt"

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
