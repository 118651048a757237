"""Metrics as they stand on a page: what they are called, in which order, and in which unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moco_ray.report.scales import number_text


@dataclass(frozen=True)
class Metric:
    """A metric for people."""

    title: str
    """What it is called."""
    unit: str = ""
    """Of its values."""


FIRST = {
    "train/loss": Metric("Loss"),
    "eval/knn_top1": Metric("kNN accuracy", "%"),
    "eval/top1": Metric("Accuracy on images not trained on", "%"),
    "eval/AP": Metric("Average precision", "%"),
    "eval/auroc": Metric("AUROC on images not trained on", "%"),
    "train/contrast_accuracy": Metric("Contrast accuracy", "% of queries that find their key"),
    "train/accuracy": Metric("Accuracy on training views", "%"),
    "eval/rankme": Metric("Effective rank (RankMe)"),
    "train/lr": Metric("Learning rate"),
    "perf/images_per_s": Metric("Throughput", "images a second"),
}
"""What is looked at first, in this order."""


def metric_of(name: str) -> Metric:
    """A metric by its name in the files."""
    return FIRST.get(name) or Metric(name.partition("/")[2].replace("_", " "))


def value_text(value: object) -> str:
    """A measured value to four digits; a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    if not math.isfinite(value):
        return "not finite"
    return number_text(float(value))
