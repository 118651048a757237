"""Pictures for the run's report, as PNG bytes: views, nearest neighbours and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from moco_ray.report.metrics import metric_of
from moco_ray.report.panels import DPI, draw_noisy, last_value, level, panel, png, series
from moco_ray.report.style import FRAME, GREEN, INK, MUTED, RED

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8."""


def views_picture(images: Sequence[Pixels], query_views: Sequence[Pixels], key_views: Sequence[Pixels]) -> bytes:
    """Draw images above the two augmented views that the network is asked to match.

    Args:
        images: n images, of any size.
        query_views: Their n query views.
        key_views: Their n key views.

    Returns:
        A PNG: n columns of three squares.

    Raises:
        ValueError: No images, or not as many views as images.
    """
    if not images or not len(images) == len(query_views) == len(key_views):
        raise ValueError(
            f"got {len(images)} images, {len(query_views)} query views and {len(key_views)} key views; "
            "give one of each for at least one image"
        )
    cell, label, title = 1.15, 0.75, 0.5  # inches
    figure, sheet = _sheet(label + cell * len(images), title + 3 * cell + 0.22)
    for row, (name, pictures) in enumerate(
        (("image", images), ("query", query_views), ("key", key_views)),
    ):
        bottom = (2 - row) * cell + (0.16 if row == 0 else 0.06)
        colour = INK if row else MUTED
        sheet.text(label - 0.12, bottom + cell / 2, name, ha="right", va="center", fontsize=10, color=colour)
        for column, picture in enumerate(pictures):
            _draw_image(sheet, label + column * cell, bottom, cell - 0.08, picture)
    _title(sheet, "Two random views of each image", "the network learns to tell that they belong together")
    return png(figure)


def neighbours_picture(
    query_images: Sequence[Pixels],
    neighbour_images: Sequence[Sequence[Pixels]],
    query_labels: Sequence[int] | None = None,
    neighbour_labels: Sequence[Sequence[int]] | None = None,
    classes: Sequence[str] = (),
    similarities: Sequence[Sequence[float]] | None = None,
    *,
    heading: tuple[str, str] | None = None,
) -> bytes:
    """Draw images beside their nearest neighbours: framed by whether the classes agree, or with how similar they are.

    Args:
        query_images: n images.
        neighbour_images: For each, its neighbours, the nearest first.
        query_labels: n classes, as indices into classes. None without labels.
        neighbour_labels: The classes of the neighbours.
        classes: Class names.
        similarities: Of the neighbours, shown where there are no labels.
        heading: What the picture shows, and further words. None: how many classes agree.

    Returns:
        A PNG: one row a query.

    Raises:
        ValueError: No images, or lists of unequal lengths.
    """
    beside = neighbour_labels if query_labels is not None else similarities or neighbour_images
    lengths = {len(query_images), len(neighbour_images), len(query_images if query_labels is None else query_labels)}
    is_ragged = beside is None or [len(row) for row in neighbour_images] != [len(row) for row in beside]
    if is_ragged or not query_images or len(lengths) > 1:
        raise ValueError(
            f"got {len(query_images)} images with {len(query_labels or ())} labels and {len(neighbour_images)} rows of "
            "neighbours; give a label for each of at least one image and for each of its neighbours, or no labels"
        )
    cell, text, gap, margin, head = 1.1, 0.24, 0.3, 0.12, 0.55  # inches
    width = max(2 * margin + cell + gap + cell * max(len(row) for row in neighbour_images), 5.2)
    height = head + (cell + text) * len(query_images) + margin
    size = cell - 0.08
    figure, sheet = _sheet(width, height)
    for row, query in enumerate(query_images):
        bottom = margin + (len(query_images) - 1 - row) * (cell + text) + text
        _draw_image(sheet, margin, bottom, size, query)
        label = None if query_labels is None else query_labels[row]
        if label is not None:
            _caption(sheet, margin + size / 2, bottom, classes[label], INK, weight="bold")
        for column, image in enumerate(neighbour_images[row]):
            left = margin + cell + gap + column * cell
            if label is not None and neighbour_labels is not None:
                other = neighbour_labels[row][column]
                colour = GREEN if other == label else RED
                _draw_image(sheet, left, bottom, size, image, frame=colour)
                _caption(sheet, left + size / 2, bottom, f"{'✓' if other == label else '✗'} {classes[other]}", colour)
            else:
                _draw_image(sheet, left, bottom, size, image)
                shown = f"{similarities[row][column]:.2f}" if similarities else ""
                _caption(sheet, left + size / 2, bottom, shown, MUTED)
    _title(sheet, *(heading or ("Nearest neighbours", _agreement(query_labels, neighbour_labels))))
    return png(figure)


def _agreement(labels: Sequence[int] | None, neighbours: Sequence[Sequence[int]] | None) -> str:
    if labels is None or neighbours is None:
        return "images without labels, beside those whose features are most alike (cosine similarity)"
    pairs = [(label, other) for label, row in zip(labels, neighbours, strict=True) for other in row]
    agreeing = sum(label == other for label, other in pairs)
    return f"{agreeing} of {len(pairs)} share the class of the image on the left"


def curves_picture(
    metrics: Sequence[Mapping[str, object]],
    evals: Sequence[Mapping[str, object]],
    *,
    chance_loss: float | None = None,
) -> bytes:
    """Draw the loss, the contrast accuracy and the quality of the features over the steps of a run.

    Args:
        metrics: Lines of the metrics file: "step", "train/loss", "train/contrast_accuracy" (percent).
        evals: Lines of the evaluation file: "step" and "eval/knn_top1" (percent), with "eval/knn_error" drawn as a band
            and "eval/knn_chance" as a line; or, without labels, "eval/rankme".
        chance_loss: Loss of embeddings that know nothing; drawn as a line.

    Returns:
        A PNG of three panels.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.04)
    figure = Figure(figsize=(11.5, 3.5), dpi=DPI, facecolor="white", layout=layout)
    loss_axes, accuracy_axes, quality_axes = figure.subplots(1, 3, sharex=True)
    draw_noisy(loss_axes, *series(metrics, "train/loss"))
    panel(loss_axes, "Contrastive loss")
    if chance_loss is not None:
        level(loss_axes, chance_loss, f"chance: {chance_loss:.2f}")
    draw_noisy(accuracy_axes, *series(metrics, "train/contrast_accuracy"))
    panel(accuracy_axes, "Contrast accuracy, %")
    accuracy_axes.set_ylim(bottom=0)
    _draw_quality(quality_axes, evals)
    return png(figure)


def _draw_quality(axes: Axes, evals: Sequence[Mapping[str, object]]) -> None:
    """Draw kNN accuracy, or RankMe where there are no labels, with the last value written out."""
    name = "eval/knn_top1"
    steps, values = series(evals, name)
    if not len(steps):
        name = "eval/rankme"
        steps, values = series(evals, name)
    metric = metric_of(name)
    panel(axes, f"{metric.title}, {metric.unit}" if metric.unit else metric.title)
    if not len(steps):
        axes.text(0.5, 0.5, "no evaluation", transform=axes.transAxes, ha="center", fontsize=9, color=MUTED)
        return
    if name == "eval/knn_top1":
        measured, errors = series(evals, "eval/knn_error")
        if len(measured) == len(steps):
            axes.fill_between(steps, values - errors, values + errors, color=GREEN, alpha=0.15, linewidth=0)
        chances = series(evals, "eval/knn_chance")[1]
        if len(chances):
            level(axes, chances[-1], f"guessing: {chances[-1]:.1f}")
    axes.plot(steps, values, color=GREEN, linewidth=1.8, marker="o", markersize=4, clip_on=False, zorder=3)
    error = series(evals if name == "eval/knn_top1" else [], "eval/knn_error")[1]
    spread = f" ± {error[-1]:.1f}" if len(error) else ""
    last_value(axes, steps[-1], values[-1], f"{values[-1]:.1f}{spread}")
    axes.margins(y=0.18)


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure and the one axes that fill it, in inches: axes for every image would take most of the time."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def _draw_image(sheet: Axes, left: float, bottom: float, size: float, image: Pixels, *, frame: str = FRAME) -> None:
    """Draw an image in the middle of a square, as large as fits, so that every image has the same longer side."""
    longer = max(image.shape[:2])
    height, width = (size * side / longer for side in image.shape[:2])
    left, bottom = left + (size - width) / 2, bottom + (size - height) / 2
    # Small images keep their pixels: blurring a 28 px digit hides what the network saw.
    interpolation = "nearest" if longer <= 64 else "antialiased"
    sheet.imshow(
        image, interpolation=interpolation, extent=(left, left + width, bottom, bottom + height), aspect="auto"
    )
    line = 0.8 if frame == FRAME else 2.2
    sheet.add_patch(Rectangle((left, bottom), width, height, fill=False, edgecolor=frame, linewidth=line))


def _caption(sheet: Axes, centre: float, bottom: float, text: str, colour: str, *, weight: str = "normal") -> None:
    shown = text if len(text) <= 16 else text[:15] + "…"
    size = 8 if len(shown) <= 12 else 6.5
    sheet.text(centre, bottom - 0.05, shown, ha="center", va="top", color=colour, fontsize=size, fontweight=weight)


def _title(sheet: Axes, title: str, subtitle: str) -> None:
    top = sheet.get_ylim()[1]
    sheet.text(0.12, top - 0.22, title, fontsize=11.5, fontweight="bold", color=INK, va="center")
    sheet.text(0.12, top - 0.42, subtitle, fontsize=8.5, color=MUTED, va="center")
