"""The curves of a run, read from its folder part by part: a run of any length takes little memory."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from moco_ray.report.thinning import Thinned
from moco_ray.run_folder.found import FoundRun, in_threads

_PART = re.compile(r"metrics/(\d+)-(\d+)\.jsonl")
_ALL = "metrics.jsonl"
WORLD_SIZE = "world_size"
_GROUPS = ("train/", "perf/")
_LINES_AT_ONCE, _REST_S = 100, 0.003
_MOST_CURVES, _MOST_DAMAGE, _AT_ONCE = 40, 20, 16


class NotWanted(Exception):
    """Somebody has said that what is being made is not wanted any more."""


@dataclass
class RunCurves:
    """What the lines of metrics say so far; `read` adds what has come since."""

    is_gentle: bool = False
    """Whether to leave most of the time to other threads, which train."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when nobody wants the rest: NotWanted ends the reading."""
    curves: dict[str, Thinned] = field(default_factory=dict)
    """By the names of metrics; of world_size only where it changes."""
    last: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    num_steps: int = 0
    """Steps that are on record."""
    last_step: int = -1
    """The last one of them."""
    damage: list[str] = field(default_factory=list)
    """What cannot be read, or is missing."""

    def read(self, run: FoundRun) -> None:
        """Read the parts of a run's folder that were not read before, or metrics.jsonl where there are none."""
        found = [(match, path) for path in run.files if (match := _PART.fullmatch(path))]
        parts = sorted((int(match[1]), int(match[2]), path) for match, path in found)
        if not parts:
            if _ALL in run.files:
                self._add(_ALL, run.read(_ALL) or b"")
            return
        new = [part for part in parts if part[1] > self.last_step]
        for start in range(0, len(new), _AT_ONCE):
            self.check_wanted()
            some = new[start : start + _AT_ONCE]
            for (first, last, path), content in zip(some, in_threads(run.read, [p for *_, p in some]), strict=True):
                if content is None:  # replaced since it was listed
                    self._say(f"{path} is not there any more")
                    continue
                if first > self.last_step + 1:
                    self._say(f"the metrics of steps {self.last_step + 1:,} to {first - 1:,} are missing")
                self._add(path, content)
                self.last_step = max(self.last_step, last)

    def check_wanted(self) -> None:
        """Raise NotWanted where nobody wants the rest."""
        if self.stop.is_set():
            raise NotWanted

    def _add(self, path: str, content: bytes) -> None:
        for number, text in enumerate(_lines(content), start=1):
            if number % _LINES_AT_ONCE == 0:
                if self.is_gentle:
                    self.stop.wait(_REST_S)
                self.check_wanted()
            try:
                line = json.loads(text)
                step = int(line["step"])
                values = {
                    name: value
                    for name, value in line.items()
                    if (name == WORLD_SIZE or name.startswith(_GROUPS)) and isinstance(value, int | float)
                }
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                self._say(f"{path}: line {number} is damaged, and left out")
                continue
            if step <= self.last_step:
                continue
            self.last_step = step
            self.num_steps += 1
            for name, value in values.items():
                self._add_value(name, step, value)

    def _add_value(self, name: str, step: int, value: float) -> None:
        if name not in self.curves:
            if len(self.curves) >= _MOST_CURVES:
                return
            self.curves[name] = Thinned()
        if math.isfinite(value):
            before = self.last.get(name)
            self.last[name] = value
            if name == WORLD_SIZE and value == before:
                return
        self.curves[name].add(step, value)

    def _say(self, text: str) -> None:
        if len(self.damage) < _MOST_DAMAGE:
            self.damage.append(text)
        elif len(self.damage) == _MOST_DAMAGE:
            self.damage.append("and more of this kind")


def _lines(content: bytes) -> Iterator[bytes]:
    """The lines of a file, one at a time: a list of them would take as much again."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield content[start:end]
        start = end + 1
