"""Small plots of comparisons: lines and bars with their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = ("#2c6fbb", "#12805c", "#c9432e", "#8a6d1a", "#6b4fa0")
_INK, _MUTED = "#22272e", "#6b7684"
_DPI = 110


class Point(NamedTuple):
    """A point of a line, with its standard error."""

    x: float
    y: float
    error: float = 0.0


class Bar(NamedTuple):
    """A case, with its standard error."""

    name: str
    value: float
    error: float = 0.0


def save_lines(
    path: str,
    lines: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log: int | None = None,
) -> None:
    """Draw named lines over one axis; log is the base of a logarithmic x."""
    figure, axes = _figure(1)
    draw_lines(axes[0], lines, title=title, x_label=x_label, y_label=y_label, log=log)
    figure.savefig(path, dpi=_DPI)


def save_line_panels(
    path: str, panels: Mapping[str, Mapping[str, Sequence[Point]]], *, x_label: str, log: int | None = None
) -> None:
    """Draw panels side by side, each of named lines; log is the base of logarithmic axes."""
    figure, axes = _figure(len(panels))
    for panel, (title, lines) in zip(axes, panels.items(), strict=True):
        draw_lines(panel, lines, title=title, x_label=x_label, y_label="", log=log)
        if log is not None:
            panel.set_yscale("log", base=log)
            panel.yaxis.set_major_formatter(lambda y, _: f"{y:,.4g}")
    figure.savefig(path, dpi=_DPI)


def draw_lines(
    axes: Axes, lines: Mapping[str, Sequence[Point]], *, title: str, x_label: str, y_label: str, log: int | None
) -> None:
    for (name, points), colour in zip(lines.items(), _COLOURS, strict=False):
        xs, ys, errors = zip(*points, strict=True)
        axes.errorbar(
            xs, ys, yerr=errors if any(errors) else None, color=colour, marker="o", markersize=4, capsize=3, label=name
        )
    if log is not None:
        axes.set_xscale("log", base=log)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    if any(lines):
        axes.legend(frameon=False, fontsize=8)
    _style(axes, title)
    axes.set_xlabel(x_label, fontsize=9, color=_MUTED)
    axes.set_ylabel(y_label, fontsize=9, color=_MUTED)


def save_bars(path: str, panels: Mapping[str, Sequence[Bar]], *, title: str) -> None:
    """Draw panels of horizontal bars side by side, the same cases in each; an axis starts near its values."""
    figure, axes = _figure(len(panels))
    figure.suptitle(title, fontsize=11, color=_INK, x=0.01, ha="left")
    for i, (panel, (label, bars)) in enumerate(zip(axes, panels.items(), strict=True)):
        names, values, errors = zip(*bars, strict=True)
        places = range(len(bars))
        panel.errorbar(
            values, places, xerr=errors if any(errors) else None, fmt="o", color=_COLOURS[i], capsize=3, markersize=6
        )
        for place, value in zip(places, values, strict=True):
            panel.annotate(
                f"{value:.1f}", (value, place), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8
            )
        panel.set_yticks(list(places), names if i == 0 else [""] * len(bars))
        panel.set_ylim(len(bars) - 0.5, -0.6)
        panel.margins(x=0.15)
        _style(panel, label)
    figure.savefig(path, dpi=_DPI)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.5 + 4.0 * panels, 3.4), facecolor="white", layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.tick_params(labelsize=8.5, colors=_MUTED, length=0)
    axes.grid(color="#e6e9ed", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
