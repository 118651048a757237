"""Figures of runs on a page: which come first, and how they are written."""

from __future__ import annotations

import math

from moco_ray.report.scales import number_text

FIRST = (
    *("train/loss", "eval/knn_top1", "eval/top1", "eval/AP", "eval/auroc", "train/contrast_accuracy", "train/accuracy"),
    *("eval/rankme", "train/lr", "perf/images_per_s"),
)
"""Metrics that are looked at first, in this order."""


def value_text(value: object) -> str:
    """A measured value to four digits; a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    if not math.isfinite(value):
        return "not finite"
    return number_text(float(value))
