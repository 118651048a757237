"""Curves of the runs that were looked at last; of a run that goes on, only what is new is read."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from moco_ray.report.run_curves import RunCurves
from moco_ray.report.texts import plain
from moco_ray.report.thinning import Thinned
from moco_ray.run_folder.found import FoundRun
from moco_ray.run_folder.summary import EVALUATIONS
from moco_ray.storage.local import FileInfo

_ALL, _PARTS = "metrics.jsonl", "metrics/"
_MOST_RUNS, _MOST_BYTES, _MOST_COLUMNS = 64, 1 << 30, 100

Files = list[tuple[str, FileInfo]]


@dataclass
class Measured:
    """What one run has measured."""

    training: RunCurves = field(default_factory=RunCurves)
    evaluations: dict[str, Thinned] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    metrics: Files = field(default_factory=list)
    """What was read for it."""

    @property
    def columns(self) -> dict[str, Thinned]:
        """Values over steps, by the names of metrics."""
        return {**self.training.curves, **self.evaluations}

    @property
    def notes(self) -> list[str]:
        """What could not be read."""
        return [*self.training.damage, *self.problems]


class CurvesOfRuns:
    """Reads curves of one run after another, which bounds the memory, and keeps those that were asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Measured] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, run: FoundRun) -> Measured:
        """The curves of a run as it was listed.

        Raises:
            OSError: The storage does not answer.
        """
        files = _files(run)
        with self._lock:
            kept = self._kept.pop(run.name, Measured())  # what fails on the way is read from the beginning next time
            if not _goes_on(kept.metrics, files):
                kept = Measured()
            measured = Measured(training=kept.training, metrics=files)
            if sum(info[0] for _, info in files) > _MOST_BYTES:
                measured.problems.append(
                    f"its metrics are too large to be drawn here: more than {_MOST_BYTES >> 30} GiB"
                )
            elif files != kept.metrics:
                measured.training.read(run)
            _read_evaluations(run, measured)
            self._kept[run.name] = measured
            while len(self._kept) > _MOST_RUNS:
                self._kept.popitem(last=False)
            return measured


def _files(run: FoundRun) -> Files:
    """What `RunCurves` reads: parts, and all in one file only where there are none."""
    parts = sorted((path, info) for path, info in run.files.items() if path.startswith(_PARTS))
    return parts or ([(_ALL, run.files[_ALL])] if _ALL in run.files else [])


def _goes_on(before: Files, now: Files) -> bool:
    """Whether files were only added since: parts of steps that are done again are written anew."""
    known = dict(now)
    return all(known.get(path) == info for path, info in before)


def _read_evaluations(run: FoundRun, measured: Measured) -> None:
    num_damaged = 0
    for text in (run.read(EVALUATIONS) or b"").splitlines():
        try:
            line = json.loads(text)
            step, values = float(line["step"]), line.items()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            num_damaged += bool(text.strip())
            continue
        for name, value in values:
            if type(value) in (int, float) and name.startswith("eval/"):
                _add(measured.evaluations, plain(name), step, value)
    if num_damaged:
        measured.problems.append(f"{EVALUATIONS}: {num_damaged:,} of its lines cannot be read")


def _add(columns: dict[str, Thinned], name: str, step: float, value: float) -> None:
    if name not in columns and len(columns) >= _MOST_COLUMNS:
        return
    column = columns.setdefault(name, Thinned())
    if column.last is None or step > column.last[0]:
        column.add(step, value)
