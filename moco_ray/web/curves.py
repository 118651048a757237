"""Curves of runs of any length, in bounded memory; of a run that goes on, only what is new is read."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from moco_ray.report.thinning import Thinned
from moco_ray.run_folder.found import FoundRun
from moco_ray.run_folder.summary import EVALUATIONS
from moco_ray.storage.local import FileInfo
from moco_ray.storage.storage import Missing

_METRICS, _PARTS = "metrics.jsonl", "metrics/"
_GROUPS = ("train/", "eval/", "perf/", "data/")
_MOST_RUNS, _MOST_COLUMNS, _MOST_BYTES = 64, 100, 1 << 30
_LONGEST_LINE, _AT_ONCE = 8 << 20, 4 << 20

Files = list[tuple[str, FileInfo]]


@dataclass
class _Lines:
    """Columns of files of JSON lines, one after another."""

    columns: dict[str, Thinned] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: Files = field(default_factory=list)

    def with_all(self, run: FoundRun, wanted: Files) -> _Lines:
        """These with what is new, or others from the beginning."""
        num_read = len(self.files)
        if wanted[:num_read] != self.files:
            return _Lines().with_all(run, wanted)
        if sum(info[0] for _, info in wanted) > _MOST_BYTES:
            return _Lines(notes=[f"its metrics are too large to be drawn here: more than {_MOST_BYTES >> 30} GiB"])
        for path, info in wanted[num_read:]:
            self.files.append((path, info))
            try:
                with run.storage.open_file(run.storage.join(*path.split("/"))) as file:
                    self._take(path, file)
            except Missing:
                self.notes.append(f"{path} is not there any more")
            except ValueError as error:
                self.notes.append(str(error))
        return self

    def _take(self, path: str, file: BinaryIO) -> None:
        lines = io.BufferedReader(cast(Any, file), _AT_ONCE) if isinstance(file, io.RawIOBase) else file
        num_damaged = 0
        while text := lines.readline(_LONGEST_LINE):
            try:
                line = json.loads(text)
                step = float(line["step"])
            except (ValueError, KeyError, TypeError, RecursionError):
                num_damaged += bool(text.strip())
                continue
            for name, value in line.items():
                if type(value) in (float, int) and name.startswith(_GROUPS):
                    self._add(name, step, value)
        if num_damaged:
            self.notes.append(f"{path}: {num_damaged:,} line{'' if num_damaged == 1 else 's'} cannot be read")

    def _add(self, name: str, step: float, value: float) -> None:
        column = self.columns.get(name)
        if column is None:
            if len(self.columns) >= _MOST_COLUMNS:
                return
            column = self.columns[name] = Thinned()
        if column.last is None or step > column.last[0]:  # a step that was done again counts once
            column.add(step, value)


@dataclass(frozen=True)
class RunCurves:
    """What one run has measured."""

    metrics: _Lines = field(default_factory=_Lines)
    evaluations: _Lines = field(default_factory=_Lines)

    @property
    def columns(self) -> dict[str, Thinned]:
        """Values over steps, by the names of metrics."""
        return {**self.metrics.columns, **self.evaluations.columns}

    @property
    def notes(self) -> list[str]:
        """What could not be read."""
        return [*self.metrics.notes, *self.evaluations.notes]


class CurvesOfRuns:
    """Curves of the runs that were asked for last; read for one run after another, which bounds the memory."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, RunCurves] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, run: FoundRun) -> RunCurves:
        """The curves of a run as it was listed.

        Raises:
            OSError: The storage does not answer.
        """
        metrics, evaluations = _files(run)
        with self._lock:
            kept = self._kept.pop(run.name, RunCurves())  # what fails on the way is read from the beginning next time
            curves = RunCurves(kept.metrics.with_all(run, metrics), kept.evaluations.with_all(run, evaluations))
            self._kept[run.name] = curves
            while len(self._kept) > _MOST_RUNS:
                self._kept.popitem(last=False)
            return curves


def _files(run: FoundRun) -> tuple[Files, Files]:
    """The files that hold a run's metrics, by steps, and its evaluations."""
    parts = sorted((path, info) for path, info in run.files.items() if path.startswith(_PARTS))
    whole, newest = run.files.get(_METRICS), max((info[1] for _, info in parts), default=0.0)
    evaluations = run.files.get(EVALUATIONS)
    return (
        [(_METRICS, whole)] if whole is not None and whole[1] >= newest else parts,
        [] if evaluations is None else [(EVALUATIONS, evaluations)],
    )
