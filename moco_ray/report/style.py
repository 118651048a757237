"""How everything looks that is drawn or written for people: pictures of runs and sweeps, and their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED = "#22272e", "#6b7684"  # text that matters, and text beside it
LINE, FRAME, GRID, PAPER = "#c3c9d1", "#d5dae0", "#e6e9ed", "#f4f6f8"  # from dark to light
BLUE, GREEN, RED, YELLOW, SKY = "#2c6fbb", "#12805c", "#c9432e", "#d19a1f", "#5b9bd5"
SCALE = ("#cfd8e3", SKY, "#123f7a")  # from low to high

# Colours and dashes of the lines of a chart, in the light and in the dark; the first six are told apart without dashes.
SERIES = (
    ("#2c6fbb", "#6ea8e8"),
    ("#12805c", "#3fbf93"),
    ("#c9432e", "#f0806d"),
    ("#a06a00", "#e0b040"),
    ("#7a4fb5", "#b796ea"),
    ("#0e7f93", "#4cc3d6"),
    ("#b03a7e", "#e883bd"),
    ("#5b6b1f", "#aec05a"),
    ("#8a4b2a", "#cf9674"),
    ("#d9720b", "#ff9f43"),
    ("#6b7684", "#a9b4c2"),
    ("#22272e", "#e4e8ee"),
)
SERIES_DASHES = ("", "", "", "", "", "", "7 3", "2 3", "9 3 2 3", "7 3", "2 3", "9 3 2 3")

_DARK = {
    "ink": "#e4e8ee",
    "muted": "#98a4b3",
    "line": "#47505c",
    "grid": "#2b323b",
    "paper": "#1e242b",
    "back": "#14181d",
}
_DARK |= {"good": "#3fbf93", "bad": "#f0806d", "warn": "#e0b040", "accent": "#6ea8e8"}
_LIGHT = {"ink": INK, "muted": "#5d6876", "line": LINE, "grid": GRID, "paper": PAPER, "back": "#ffffff"}
_LIGHT |= {"good": GREEN, "bad": RED, "warn": "#a06a00", "accent": BLUE}


def css_variables() -> str:
    """Colours of pages, in the light and in the dark, by the names that style sheets use."""
    both = [
        "".join(f"--{name}:{colour};" for name, colour in names.items())
        + "".join(f"--s{place}:{pair[which]};" for place, pair in enumerate(SERIES))
        for which, names in enumerate((_LIGHT, _DARK))
    ]
    return (
        f":root{{color-scheme:light dark;{both[0]}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{both[1]}}}}}\n"
    )


def open_axes(axes: Axes, *, without: tuple[str, ...] = ("top", "right")) -> None:
    """Give axes a faint grid, and leave out sides of their frame."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side not in without)
        spine.set_color(LINE)
