"""Metrics as they stand on pages and pictures: what they are called, in which unit, and from where they are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric for people."""

    title: str
    """What it is called."""
    unit: str = ""
    """Of its values."""


_METRICS = {
    "train/loss": Metric("Loss"),
    "train/contrast_accuracy": Metric("Contrast accuracy", "% of queries that find their key"),
    "train/accuracy": Metric("Accuracy on training views", "%"),
    "train/lr": Metric("Learning rate"),
    "perf/images_per_s": Metric("Throughput", "images a second"),
    "perf/data_wait_fraction": Metric("Wait for data", "share of the time"),
    "eval/knn_top1": Metric("kNN accuracy", "%"),
    "eval/top1": Metric("Accuracy on images not trained on", "%"),
    "eval/auroc": Metric("AUROC on images not trained on", "%"),
    "eval/AP": Metric("Average precision", "%"),
    "eval/loss": Metric("Loss on images not trained on"),
    "eval/rankme": Metric("Effective rank of the features (RankMe)"),
}


def metric_of(name: str) -> Metric:
    """A metric by its name in the files."""
    return _METRICS.get(name) or Metric(name.partition("/")[2].replace("_", " "))


def begins_at_zero(name: str) -> bool:
    """Whether the axis of a metric does: not that of a loss, nor of evaluations, which are told apart by little."""
    return name != "train/loss" and not name.startswith("eval/")
