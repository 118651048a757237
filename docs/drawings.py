"""Draws the pictures of docs/invariance.md as SVG: `python docs/drawings.py`; a test fails where one is out of date.

Groups, shuffle and order come from the code itself, for a small batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moco_ray.core.batch import groups_per_rank, key_permutation
from moco_ray.data.order import Order
from moco_ray.report.style import BLUE, FRAME, GREEN, INK, MUTED, RED, SKY, YELLOW

_FOLDER = Path(__file__).parent / "assets"
_COLOURS = (BLUE, GREEN, YELLOW, RED, SKY, "#7a5195", "#4b9c9c", "#8a6d3b")
_PAPER = "#ffffff"


def groups() -> str:
    """Eight BatchNorm groups of a batch, dealt to 1, 2, 3 and 8 workers."""
    parts = [*_text(20, 30, "One step: 8 BatchNorm groups of 32 images. Each row is the same step on another cluster.")]
    y = 50
    for workers in (1, 2, 3, 8):
        dealt = groups_per_rank(0, 8, workers)
        most = max(len(held) for held in dealt)
        words = f"{workers} worker{'s' if workers > 1 else ''}"
        parts += [*_text(20, y + 27, words, bold=True), *_text(20, y + 46, f"time of {most}", colour=MUTED, size=12)]
        x = 120.0
        for held in dealt:
            width = 12 + 60 * len(held)
            parts.append(_box(x, y, width, 56, "none", FRAME, radius=8))
            for place, group in enumerate(held):
                left = x + 8 + 60 * place
                parts.append(_box(left, y + 8, 56, 40, _COLOURS[group], "none"))
                parts += _text(left + 28, y + 33, f"g{group}", colour=_PAPER, anchor="middle")
            x += width + (4 if workers > 3 else 12)
        y += 72
    text = "The groups, their images and their statistics never change; only who computes them does."
    return _svg(760, y + 24, [*parts, *_text(20, y + 10, text, colour=MUTED)])


def shuffle() -> str:
    """Where the keys of a batch of sixteen images in four groups are computed."""
    order = key_permutation(0, 0, 16)
    parts = [
        *_text(20, 30, "queries: image i in group ⌊i / 4⌋"),
        *_text(20, 212, "keys: each slot holds another image's view"),
    ]
    for slot, row in enumerate(order):
        x, of_row = 30 + 44 * slot, 30 + 44 * int(row)
        parts.append(
            f'<path d="M{of_row + 18} 84 C{of_row + 18} 124 {x + 18} 104 {x + 18} 142" fill="none" '
            f'stroke="{_COLOURS[int(row) // 4]}" stroke-width="1.6" opacity=".75"/>'
        )
    for slot in range(16):
        x, row = 30 + 44 * slot, int(order[slot])
        parts += [_box(x, 46, 36, 36, _COLOURS[slot // 4], "none"), _box(x, 144, 36, 36, _COLOURS[row // 4], "none")]
        parts += _text(x + 18, 70, str(slot), colour=_PAPER, anchor="middle")
        parts += _text(x + 18, 168, str(row), colour=_PAPER, anchor="middle")
    parts += [_box(25 + 176 * group, y, 174, 46, "none", INK, radius=6) for group in range(4) for y in (41, 139)]
    text = "Frames are BatchNorm groups. Keys return to the order of the queries before they are compared."
    return _svg(760, 256, [*parts, *_text(20, 236, text, colour=MUTED)])


def stream() -> str:
    """Positions of a run of ten images in batches of four, through two epochs."""
    order = Order(seed=0, num_rows=10, chunk_starts=None, window=4, batch_size=4)
    rows = order.rows(np.arange(20))
    parts = [*_text(20, 30, "A run is one line of positions. 10 images, batches of 4: five steps are two epochs.")]
    for position, row in enumerate(rows):
        x = 31 + 35 * position
        parts.append(_box(x, 72, 29, 34, BLUE if position < 10 else GREEN, "none"))
        parts += _text(x + 14.5, 94, str(int(row)), colour=_PAPER, anchor="middle")
        parts += _text(x + 14.5, 124, str(position), colour=MUTED, anchor="middle", size=11)
    for step in range(5):
        x = 27 + 140 * step
        parts += [_box(x, 66, 138, 46, "none", INK, radius=6)]
        parts += _text(x + 68, 58, f"step {step + 1}", anchor="middle", size=12)
    parts.append(f'<path d="M446 48 V146" stroke="{RED}" stroke-width="2" stroke-dasharray="5 3"/>')
    parts += _text(452, 146, "checkpoint of step 3: position 12", colour=RED, size=12)
    parts += _text(20, 172, "Epoch 1 is blue, epoch 2 green; the number in a box is the image.", colour=MUTED)
    parts += _text(
        20, 192, "Whatever stops the run, it goes on at position 12: no image twice, none left out.", colour=MUTED
    )
    return _svg(760, 208, parts)


def _text(
    x: float, y: float, words: str, *, colour: str = INK, anchor: str = "start", size: int = 14, bold: bool = False
) -> Iterator[str]:
    weight = ' font-weight="bold"' if bold else ""
    yield f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="{anchor}"{weight}>{words}</text>'


def _box(x: float, y: float, width: float, height: float, fill: str, stroke: str, radius: int = 4) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" fill="{fill}" stroke="{stroke}"/>'


def _svg(width: int, height: float, parts: list[str]) -> str:
    style = 'font-family="system-ui, sans-serif"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" {style}>'
    ground = f'<rect width="{width}" height="{height:g}" fill="{_PAPER}"/>'
    return "\n".join([head, ground, *parts, "</svg>\n"])


def pictures() -> dict[str, str]:
    """All pictures by the names of their files."""
    return {"groups.svg": groups(), "shuffle.svg": shuffle(), "stream.svg": stream()}


if __name__ == "__main__":
    for name, text in pictures().items():
        (_FOLDER / name).write_text(text)
