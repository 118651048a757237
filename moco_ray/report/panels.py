"""Panels of curves: what pictures of all runs draw alike, and where they go."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from moco_ray.report.style import BLUE, GREEN, INK, MUTED, open_axes
from moco_ray.storage.storage import Storage

DPI = 150


def level(axes: Axes, value: float, text: str) -> None:
    """Draw what knowing nothing gives."""
    axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        text,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=MUTED,
    )
    axes.margins(y=0.12)


def series(lines: Sequence[Mapping[str, object]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values (n,) of the lines that hold the metric, by step."""
    pairs = sorted((float(str(line["step"])), float(str(line[name]))) for line in lines if name in line)
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def draw_noisy(axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    """Draw values faintly and their running mean over about a fiftieth of the run on top."""
    window = max(1, len(values) // 50)
    if window == 1:
        axes.plot(steps, values, color=BLUE, linewidth=1.6)
        return
    axes.plot(steps, values, color=BLUE, linewidth=0.7, alpha=0.28)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    first = np.maximum(np.arange(len(values)) - window // 2, 0)
    last = np.minimum(np.arange(len(values)) + window // 2 + 1, len(values))
    axes.plot(steps, (sums[last] - sums[first]) / (last - first), color=BLUE, linewidth=1.8)


def panel(axes: Axes, title: str) -> None:
    """Give a panel of curves its title, its grid and steps."""
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    axes.set_xlabel("step", fontsize=9, color=MUTED)
    axes.tick_params(labelsize=8.5, colors=MUTED, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    open_axes(axes, without=("top", "right", "left"))


def last_value(axes: Axes, step: float, value: float, text: str, colour: str = GREEN) -> None:
    """Write the last value of a curve beside it."""
    axes.annotate(
        text,
        (step, value),
        xytext=(6, 7),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        fontweight="bold",
        color=colour,
    )


def write_pictures(run: Storage, pictures: Mapping[str, bytes]) -> list[str]:
    """Write pictures into report/ of a run's folder; returns their places."""
    for name, content in pictures.items():
        run.write_bytes(run.join("report", name), content)
    return [run.uri(run.join("report", name)) for name in pictures]


def png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
