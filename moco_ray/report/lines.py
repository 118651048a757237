"""What a chart shows: lines, levels and marks, and the same in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moco_ray.report.scales import number_text
from moco_ray.report.thinning import Points, Thinned, thin

_MOST_POINTS, _MOST_SAID = 400, 12


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart."""

    name: str
    """In the legend."""
    steps: Sequence[float]
    """Ascending."""
    values: Sequence[float]
    """As many; those that are not finite are left out."""
    means: Points | None = None
    """A calmer line, drawn on top: the values themselves are faint then."""
    errors: Sequence[float] | None = None
    """Standard errors of the values, as a band."""
    is_stairs: bool = False
    """Whether a value holds until the next one."""
    colour: int | None = None
    """Which of the colours; None: its place among the series."""
    num_not_finite: int = 0
    """Values that are left out already."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line: what knowing nothing gives, or the least that is possible."""

    value: float
    """Where."""
    text: str
    """What it is; the value is written beside it."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line: something that has happened to a run."""

    step: float
    """When."""
    text: str
    """What has happened and what it has cost."""
    label: str = ""
    """A character or two above the line."""


def series_of(name: str, curve: Thinned) -> Series:
    """A line of a curve that was thinned as it came, with its running mean where it is long."""
    steps, values = curve.points()
    means = curve.means()
    return Series(
        name=name,
        steps=steps,
        values=values,
        means=means if means[0] else None,
        num_not_finite=curve.num_not_finite,
    )


def drawable(line: Series) -> Series:
    """The line without what cannot be drawn, and no longer than can be seen."""
    good = [i for i, value in enumerate(line.values) if math.isfinite(value)]
    missing = line.num_not_finite + len(line.values) - len(good)
    steps, values = [line.steps[i] for i in good], [line.values[i] for i in good]
    errors = None if line.errors is None else [line.errors[i] for i in good]
    if len(good) > 2 * _MOST_POINTS:
        steps, values = thin(steps, values, _MOST_POINTS)
        errors = None
    return Series(
        name=line.name,
        steps=steps,
        values=values,
        means=line.means,
        errors=errors if errors and all(map(math.isfinite, errors)) else None,
        is_stairs=line.is_stairs,
        colour=line.colour,
        num_not_finite=missing,
    )


def description(series: Sequence[Series], levels: Sequence[Level], marks: Sequence[Mark], unit: str) -> str:
    """The chart in words, for whoever does not see it."""
    texts = []
    for line in series[:_MOST_SAID]:
        if line.steps:
            ends = [f"{number_text(value)}{short_unit(unit)}" for value in (line.values[0], line.values[-1])]
            extent = [f"{number_text(value)}{short_unit(unit)}" for value in (min(line.values), max(line.values))]
            texts.append(
                f"{line.name} from {ends[0]} at {number_text(line.steps[0])} to {ends[1]} at {number_text(line.steps[-1])}, "
                f"lowest {extent[0]}, highest {extent[1]}"
            )
    if len(series) > _MOST_SAID:
        texts.append(f"and {len(series) - _MOST_SAID} more lines")
    texts += [f"{level.text} {number_text(level.value)}{short_unit(unit)}" for level in levels]
    if marks:
        texts.append(
            f"{len(marks)} marks: " + "; ".join(mark.text for mark in marks[:3]) + ("; …" if marks[3:] else "")
        )
    return ". ".join(texts)


def short_unit(unit: str) -> str:
    """A unit as it stands behind a number: only that of shares."""
    return " %" if unit.startswith("%") else ""
