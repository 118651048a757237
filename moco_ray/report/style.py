"""How everything looks that is drawn or written for people: pictures of runs and sweeps, and their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED = "#22272e", "#6b7684"  # text that matters, and text beside it
LINE, FRAME, GRID, PAPER = "#c3c9d1", "#d5dae0", "#e6e9ed", "#f4f6f8"  # from dark to light
BLUE, GREEN, RED, YELLOW, SKY = "#2c6fbb", "#12805c", "#c9432e", "#d19a1f", "#5b9bd5"
ROSE = "#fdecea"  # behind what is RED elsewhere
SCALE = ("#cfd8e3", SKY, "#123f7a")  # from low to high


def open_axes(axes: Axes, *, without: tuple[str, ...] = ("top", "right")) -> None:
    """Give axes a faint grid, and leave out sides of their frame."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side not in without)
        spine.set_color(LINE)
