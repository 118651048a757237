"""Pictures of a sweep, as SVG text that a page can hold."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from moco_ray.report.style import GREEN, INK, MUTED, RED, SCALE, SKY, YELLOW, open_axes
from moco_ray.sweep.progress import number
from moco_ray.sweep.records import Record
from moco_ray.sweep.space import Dimension, Space

_SCALE = LinearSegmentedColormap.from_list("value", SCALE)
_STATE = {"finished": GREEN, "stopped": YELLOW, "failed": RED, "running": SKY}
_MAX_COLUMNS = 4
_TICK_CHARACTERS = 24  # side by side below one panel


def parallel_picture(records: Sequence[Record], best: Record, space: Space, metric: str) -> str:
    """Each trial as a line through its parameters to its value; the best one in red."""
    shown = [record for record in records if record.value is not None]
    figure = Figure(figsize=(max(6.0, 1.9 * (len(space) + 1)), 3.8), layout="constrained")
    axes = figure.subplots()
    values = np.array([record.value for record in shown], dtype=float)
    low, span = values.min(), max(np.ptp(values), 1e-12)
    for record in sorted(shown, key=lambda record: (record is best, record.value)):
        heights = [dimension.share(record.parameters[dimension.path]) for dimension in space]
        share = (float(record.value or 0.0) - low) / span
        colour, width = (RED, 2.4) if record is best else (_SCALE(share), 1.2)
        style = "solid" if record.state == "finished" else (0, (3, 2))
        axes.plot([*heights, share], color=colour, linewidth=width, linestyle=style, zorder=3 if record is best else 2)
    for place, dimension in enumerate(space):
        _vertical(axes, place, dimension.path, *_ends(dimension))
    _vertical(axes, len(space), metric, f"{low:.4g}", f"{values.max():.4g}")
    axes.set_xlim(-0.35, len(space) + 0.35)
    axes.set_ylim(-0.12, 1.14)
    axes.axis("off")
    return _svg(
        figure,
        f"{len(shown)} trials as lines through their parameters to {metric}, {low:.4g} to {values.max():.4g}; the best is {best.name}",
    )


def parameters_picture(records: Sequence[Record], best: Record, space: Space, metric: str) -> str:
    """The metric against each parameter: finished trials filled, those that were stopped early hollow."""
    columns = min(len(space), _MAX_COLUMNS)
    rows = -(-len(space) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, dimension in zip(panels, space, strict=False):
        for record in (record for record in records if record.value is not None):
            x = _across(dimension, record.parameters[dimension.path])
            colour = RED if record is best else _STATE[record.state]
            face = colour if record.state == "finished" else "white"
            axes.plot(
                [x], [record.value], "o", color=colour, markerfacecolor=face, markersize=7 if record is best else 5
            )
        _scale(axes, dimension)
        _panel(axes, f"1 - {dimension.path}" if dimension.kind == "1-log" else dimension.path, metric)
    for axes in panels[len(space) :]:
        axes.axis("off")
    return _svg(figure, f"{metric} of the trials against each of {len(space)} parameters; the best is {best.name}")


def curves_picture(records: Sequence[Record], best: Record, metric: str) -> str:
    """The metric over the images seen; crosses mark where trials were stopped."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for record in sorted((r for r in records if r.points), key=lambda record: record is best):
        x = [point.position for point in record.points]
        y = [point.value for point in record.points]
        colour = RED if record is best else _STATE[record.state]
        axes.plot(x, y, color=colour, linewidth=2.2 if record is best else 1.0, alpha=1.0 if record is best else 0.6)
        if record.state in ("stopped", "failed"):
            axes.plot(x[-1:], y[-1:], "x", color=colour, markersize=6)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda images, _: f"{images:,.0f}")
    _panel(axes, "images seen", metric)
    return _svg(figure, f"{metric} of the trials over the images seen; the best is {best.name}")


def _scale(axes: Axes, dimension: Dimension) -> None:
    """Choose the scale of a parameter, with no more ticks than its labels leave room for."""
    if not dimension.is_range and not _is_log(dimension):
        names = [number(option) for option in dimension.options]
        axes.set_xticks(range(len(names)), names)
        if sum(map(len, names)) > _TICK_CHARACTERS:
            axes.tick_params(axis="x", labelrotation=30)
        return
    if dimension.kind == "uniform":
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return
    axes.set_xscale("log")
    if dimension.is_range:
        ends = [_across(dimension, value) for value in (dimension.low, dimension.high)]
        ticks = [ends[0], (ends[0] * ends[1]) ** 0.5, ends[1]]
    else:
        every = -(-len(dimension.options) // 4)
        ticks = [float(option) for option in dimension.options[::every]]
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    if dimension.kind == "1-log":
        axes.invert_xaxis()


def cost_picture(records: Sequence[Record], best: Record) -> str:
    """Seconds that each trial took."""
    figure = Figure(figsize=(8.5, max(1.6, 0.24 * len(records) + 0.8)), layout="constrained")
    axes = figure.subplots()
    names = [record.name for record in records]
    colours = [RED if record is best else _STATE[record.state] for record in records]
    axes.barh(range(len(records)), [record.seconds for record in records], color=colours, height=0.7)
    axes.set_yticks(range(len(records)), names, fontsize=7.5)
    axes.invert_yaxis()
    for place, record in enumerate(records):
        axes.annotate(f" {record.images:,} images", (record.seconds, place), va="center", fontsize=7, color=MUTED)
    axes.margins(x=0.16, y=0.02)
    _panel(axes, "seconds", "")
    return _svg(figure, f"seconds that each of {len(records)} trials took")


def _ends(dimension: Dimension) -> tuple[str, str]:
    if dimension.is_range:
        return number(dimension.low), number(dimension.high)
    return number(dimension.options[0]), number(dimension.options[-1])


def _across(dimension: Dimension, value: Any) -> float:
    """Where a value lies on the axis of a panel."""
    if dimension.kind == "1-log":
        return 1 - float(value)
    if dimension.is_range or _is_log(dimension):
        return float(value)
    return float(dimension.options.index(value))


def _is_log(dimension: Dimension) -> bool:
    """Whether options are positive numbers that span more than a decade."""
    numbers = [
        option for option in dimension.options if isinstance(option, int | float) and not isinstance(option, bool)
    ]
    return len(numbers) == len(dimension.options) > 0 and min(numbers) > 0 and max(numbers) / min(numbers) > 10


def _vertical(axes: Axes, place: int, name: str, low: str, high: str) -> None:
    axes.plot([place, place], [0, 1], color=MUTED, linewidth=1, zorder=1)
    axes.text(place, -0.05, low, ha="center", va="top", fontsize=8, color=MUTED)
    axes.text(place, 1.02, high, ha="center", va="bottom", fontsize=8, color=MUTED)
    axes.text(place, 1.1, name, ha="center", va="bottom", fontsize=9, color=INK, fontweight="bold")


def _panel(axes: Axes, x_name: str, y_name: str) -> None:
    axes.set_xlabel(x_name, fontsize=9, color=INK)
    axes.set_ylabel(y_name, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=MUTED, length=0, which="both")
    open_axes(axes)


def _svg(figure: Figure, words: str) -> str:
    """The figure as an svg element that scales with its page, with text that can be searched, and what it shows in words."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sweep"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    size = re.search(r' width="([^"]*)pt" height="[^"]*pt"|height="[^"]*pt" width="([^"]*)pt"', text)
    assert size is not None
    return text.replace(
        size[0],
        f' class="picture" role="img" aria-label="{escape(words)}" style="max-width: {float(size[1] or size[2]) / 11:.0f}rem"',
        1,
    )
