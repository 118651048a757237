"""Pictures of a run that has learned to detect: its curves, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from moco_ray.evaluate.average_precision import Found
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.evaluate.features import load_images
from moco_ray.report.panels import DPI, draw_noisy, panel, png, series, write_pictures
from moco_ray.report.style import BLUE, GREEN, INK, MUTED, RED, SKY, YELLOW
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage

_COLUMNS, _IMAGES, _SCORE = 4, 8, 0.3
_COLOURS = (GREEN, BLUE, RED, YELLOW, SKY, INK)

Boxes = NDArray[np.floating[Any]]


def draw_run(run: Storage, eval_set: EvalSet, targets: Sequence[Boxes], found: Sequence[Found]) -> list[str]:
    """Draw report/curves.png and report/detections.png into a run's folder; returns their places.

    Args:
        run: The folder.
        eval_set: The images to test on.
        targets: Their boxes (n, 7).
        found: What was found in them.
    """
    images = eval_set.queries
    places = np.linspace(0, len(images) - 1, min(_IMAGES, len(images))).round().astype(np.int64)
    some = images.spread(_IMAGES)
    pixels = {int(batch.places[0]): batch.pixels[0] for batch in load_images(some, lambda image, _: image, at_once=1)}
    shown = [(pixels[i], targets[int(place)], found[int(place)]) for i, place in enumerate(places) if i in pixels]
    pictures = {
        "curves.png": curves_of_detection(stored_lines(run, "metrics.jsonl"), stored_lines(run, "eval.jsonl")),
        "detections.png": detections_picture(shown, eval_set.classes),
    }
    return write_pictures(run, pictures)


def curves_of_detection(metrics: Sequence[Mapping[str, object]], evals: Sequence[Mapping[str, object]]) -> bytes:
    """Draw the loss and the average precision; returns a PNG."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.04)
    figure = Figure(figsize=(8.5, 3.5), dpi=DPI, facecolor="white", layout=layout)
    loss, measured = figure.subplots(1, 2, sharex=True)
    draw_noisy(loss, *series(metrics, "train/loss"))
    panel(loss, "Training loss")
    panel(measured, "Average precision, %")
    for name, colour in (("eval/AP", GREEN), ("eval/AP50", MUTED)):
        steps, values = series(evals, name)
        measured.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=4, label=name[5:])
    measured.legend(frameon=False, fontsize=8.5)
    measured.set_ylim(bottom=0)
    return png(figure)


def detections_picture(
    images: Sequence[tuple[NDArray[np.uint8], Boxes, Found]], classes: Sequence[str], score: float = _SCORE
) -> bytes:
    """Draw images with their boxes (dotted) and what was found (framed, with class and score); returns a PNG.

    Args:
        images: Pixels, boxes (n, 7) and detections of each.
        classes: Names.
        score: Detections with lower ones are not drawn.
    """
    rows = max(1, -(-len(images) // _COLUMNS))
    figure = Figure(figsize=(3.1 * _COLUMNS, 2.7 * rows + 0.5), dpi=DPI, facecolor="white", layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (pixels, boxes, found) in zip(grid.flat, images, strict=False):
        axes.imshow(pixels)
        for x1, y1, x2, y2, label, *_ in boxes.tolist():
            _frame(axes, (x1, y1, x2, y2), int(label), line=":")
        for corners, label, value in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        ):
            if value >= score:
                _frame(axes, corners, label, line="-")
                axes.text(
                    *corners[:2],
                    f"{classes[label]} {value:.2f}",
                    fontsize=5.5,
                    color="white",
                    va="bottom",
                    clip_on=True,
                    bbox={"facecolor": _COLOURS[label % len(_COLOURS)], "edgecolor": "none", "pad": 0.8},
                )
    title = f"Dotted: what is there. Framed: what was found with a score of {score:g} or more."
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, color=INK)
    return png(figure)


def _frame(axes: Axes, corners: Sequence[float], label: int, *, line: str) -> None:
    x1, y1, x2, y2 = corners
    colour = _COLOURS[label % len(_COLOURS)]
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=line, linewidth=1.3))
