"""Pictures of a run that has learned from labels: its curves, and which classes it takes for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from moco_ray.report.panels import DPI, draw_noisy, last_value, panel, png, series, write_pictures
from moco_ray.report.style import GREEN, INK, LINE, MUTED
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage

_MOST_NUMBERS = 12
_LONGEST_NAME = 14


def draw_results(run: Storage, results: Mapping[str, Any]) -> list[str]:
    """Draw report/curves.png and, of classes few enough, report/confusion.png into a run's folder; returns their places."""
    pictures = {"curves.png": curves_of_classes(stored_lines(run, "metrics.jsonl"), stored_lines(run, "eval.jsonl"))}
    if "confusion" in results:
        pictures["confusion.png"] = confusion_picture(results["confusion"], results["classes"])
    return write_pictures(run, pictures)


def curves_of_classes(metrics: Sequence[Mapping[str, object]], evals: Sequence[Mapping[str, object]]) -> bytes:
    """Draw the loss, the accuracy on training views and that on images that were not trained on; returns a PNG."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.04)
    figure = Figure(figsize=(11.5, 3.5), dpi=DPI, facecolor="white", layout=layout)
    loss, training, measured = figure.subplots(1, 3, sharex=True)
    draw_noisy(loss, *series(metrics, "train/loss"))
    panel(loss, "Training loss")
    draw_noisy(training, *series(metrics, "train/accuracy"))
    panel(training, "Accuracy on training views, %")
    name = "eval/auroc" if any("eval/auroc" in line for line in evals) else "eval/top1"
    steps, values = series(evals, name)
    panel(measured, "AUROC, %" if name == "eval/auroc" else "Top-1 on images not trained on, %")
    measured.plot(steps, values, color=GREEN, linewidth=1.8, marker="o", markersize=4, clip_on=False, zorder=3)
    if len(steps):
        last_value(measured, steps[-1], values[-1], f"{values[-1]:.1f}")
    measured.margins(y=0.18)
    return png(figure)


def confusion_picture(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> bytes:
    """Draw which class images have (rows) and which was found (columns), as shares of each row; returns a PNG.

    Args:
        confusion: (classes, classes) counts.
        classes: Their names.
    """
    counts = np.array(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.42 * max(len(classes), 4)
    figure = Figure(figsize=(side, side - 0.4), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in classes]
    places = range(len(classes))
    axes.set_xticks(places, names, rotation=45, ha="right", fontsize=8, color=INK)
    axes.set_yticks(places, names, fontsize=8, color=INK)
    axes.set_xlabel("found", fontsize=9, color=MUTED)
    axes.set_ylabel("is", fontsize=9, color=MUTED)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color(LINE)
    if len(classes) <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.55 else INK
            axes.text(column, row, f"{counts[row, column]:,.0f}", ha="center", va="center", fontsize=8, color=colour)
    right = 100 * float(np.trace(counts)) / max(float(counts.sum()), 1.0)
    axes.set_title(f"{right:.1f} % right", loc="left", fontsize=11, color=INK)
    return png(figure)
