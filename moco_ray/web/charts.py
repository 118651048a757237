"""Charts of one run, or of several on top of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from moco_ray.report.charts import Mark, Series, line_chart, series_of
from moco_ray.report.metrics import begins_at_zero, metric_of
from moco_ray.report.thinning import Thinned
from moco_ray.web.figures import FIRST

_LEFT_OUT: tuple[str, ...] = (
    *("data/", "eval/knn_k", "eval/knn_bank", "eval/knn_queries", "eval/num_images", "eval/knn_chance"),
    *("eval/knn_largest_class", "eval/knn_error", "perf/data_wait"),
)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A run in charts."""

    name: str
    """In the legends."""
    columns: Mapping[str, Thinned]
    """What it has measured."""
    interruptions: Sequence[Mark] = ()
    """Of a run that is drawn alone."""
    steps_per_x: float = 1.0
    """Steps of one unit of the axis."""


@dataclass
class Charts:
    """Figures, ready for a page."""

    first: list[str] = field(default_factory=list)
    """What is looked at first."""
    more: list[str] = field(default_factory=list)
    """The others."""


def charts_of(runs: Sequence[Drawn], x_label: str) -> Charts:
    """Charts of all that runs have measured.

    Args:
        runs: Each keeps its colour in all charts.
        x_label: What lies across.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.columns))
    charts = Charts()
    for name in FIRST:
        if name in names:
            charts.first.append(_chart(name, runs, x_label))
    for name in names:
        if name not in FIRST and not name.startswith(_LEFT_OUT) and _varies(name, runs):
            charts.more.append(_chart(name, runs, x_label))
    return charts


def _chart(name: str, runs: Sequence[Drawn], x_label: str) -> str:
    metric = metric_of(name)
    lines = [_line(name, run, place) for place, run in enumerate(runs) if name in run.columns]
    marks = [mark for run in runs for mark in run.interruptions]
    return line_chart(
        metric.title, lines, unit=metric.unit, marks=marks, x_label=x_label, from_zero=begins_at_zero(name)
    )


def _line(name: str, run: Drawn, place: int) -> Series:
    line = series_of(run.name, run.columns[name])
    if run.steps_per_x == 1.0:
        return replace(line, colour=place)
    means = None if line.means is None else ([step / run.steps_per_x for step in line.means[0]], line.means[1])
    return replace(line, steps=[step / run.steps_per_x for step in line.steps], means=means, colour=place)


def _varies(name: str, runs: Sequence[Drawn]) -> bool:
    values = {value for run in runs if name in run.columns for value in run.columns[name].points()[1]}
    return len(values) > 1
