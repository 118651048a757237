"""Several runs side by side: curves, figures, and what they were told differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moco_ray.report.metrics import metric_of
from moco_ray.report.style import SERIES
from moco_ray.report.texts import is_number
from moco_ray.run_folder.found import FoundRun, in_threads
from moco_ray.storage.uris import shown
from moco_ray.web.charts import Drawn, charts_of
from moco_ray.web.configurations import differences
from moco_ray.web.curves import CurvesOfRuns, Measured
from moco_ray.web.details import interruptions_of, steps_per_epoch
from moco_ray.web.figures import FIRST, value_text
from moco_ray.web.links import compare_url
from moco_ray.web.table import row_of
from moco_ray.web.watch import Snapshot, config_of

MOST_RUNS = len(SERIES)
_MOST_OTHERS = 300
_HIGHER = ("eval/knn_top1", "eval/top1", "eval/AP", "eval/auroc", "eval/rankme", "train/accuracy")


def comparison(snapshot: Snapshot, names: Sequence[str], by: str, curves: CurvesOfRuns, now: float) -> dict[str, Any]:
    """What the template of the comparison shows; reads the runs' files.

    Args:
        snapshot: All runs.
        names: Those to compare, as they are shown; what is not there any more is told of.
        by: What lies across, "epoch" or anything else for steps.
        curves: Those that were read before.
        now: In seconds since 1970.

    Raises:
        OSError: The storage does not answer.
    """
    wanted = list(dict.fromkeys(names))
    runs = [snapshot.runs[name] for name in wanted if name in snapshot.runs][:MOST_RUNS]
    notes = [f"{name} is not there (any more)" for name in wanted if name not in snapshot.runs]
    if len(wanted) - len(notes) > MOST_RUNS:
        notes.append(f"only the first {MOST_RUNS} runs are drawn")
    found = [one.run for one in runs]
    measured = [curves.of(run) for run in found]
    notes += [f"{shown(run.name)}: {note}" for run, one in zip(found, measured, strict=True) for note in one.notes]
    configurations = in_threads(config_of, found)
    scales, scale_notes = _scales(found, by)
    names = [shown(run.name) for run in found]
    drawn = [
        Drawn(name=name, columns={}) if scale is None else Drawn(name=name, columns=one.columns, steps_per_x=scale)
        for name, one, scale in zip(names, measured, scales, strict=True)
    ]
    return {
        "names": names,
        "others": [name for name in snapshot.runs if name not in names][:_MOST_OTHERS]
        if len(names) < MOST_RUNS
        else [],
        "rows": [row_of(one, now) for one in runs],
        "notes": [shown(note) for note in notes + scale_notes],
        "charts": charts_of(drawn, by),
        "figures": _figures(measured),
        "differences": differences(configurations),
        "interruptions": _interruptions(found),
        "by": by,
        "urls": {way: compare_url(names, **({} if way == "step" else {"by": way})) for way in ("step", "epoch")},
        "without": [compare_url([*names[:i], *names[i + 1 :]]) for i in range(len(names))],
        "is_live": any(one.summary.state in ("running", "unknown") for one in runs),
    }


def _scales(runs: Sequence[FoundRun], by: str) -> tuple[Sequence[float | None], list[str]]:
    """Steps of one unit across for each run, None where they are unknown, and what is to be said of them."""
    if by != "epoch":
        return [1.0] * len(runs), []
    lengths = in_threads(steps_per_epoch, runs)
    unknown = [shown(run.name) for run, length in zip(runs, lengths, strict=True) if length is None]
    note = f"not drawn by epoch, since the length of their epochs is not on record: {', '.join(unknown)}"
    return lengths, [note] if unknown else []


def _figures(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row for each metric: the last value of each run, and the highest one where more is better."""
    rows = []
    for name in FIRST:
        columns = [one.columns.get(name) for one in measured]
        last = [None if column is None or column.last is None else column.last[1] for column in columns]
        if all(value is None for value in last):
            continue
        metric = metric_of(name)
        rows.append(_figure_row(f"{metric.title}, last", metric.unit, last, is_best=False))
        if name in _HIGHER:
            highest = [None if column is None else max(column.points()[1], default=None) for column in columns]
            rows.append(_figure_row(f"{metric.title}, highest", metric.unit, highest, is_best=True))
    return rows


def _figure_row(title: str, unit: str, values: Sequence[float | None], *, is_best: bool) -> dict[str, Any]:
    known = [value for value in values if is_number(value)]
    best = max((value for value in known if value is not None), default=None) if is_best and len(known) > 1 else None
    cells = [{"text": value_text(value), "is_best": best is not None and value == best} for value in values]
    return {"title": title, "unit": unit, "cells": cells}


def _interruptions(runs: Sequence[FoundRun]) -> list[dict[str, Any]]:
    """Those of all runs, each with the place of its run."""
    return [
        {"place": place, "run": shown(run.name), "step": f"{mark.step:,.0f}", "text": mark.text}
        for place, (run, marks) in enumerate(zip(runs, in_threads(interruptions_of, runs), strict=True))
        for mark in marks[:50]
    ]
