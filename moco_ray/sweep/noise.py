"""How much of the differences between trials is noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moco_ray.sweep.records import Record
from moco_ray.sweep.space import KNN


def standard_error(record: Record, metric: str) -> float | None:
    """Standard error of a trial's value, in points; None where it is not known."""
    if metric != KNN or not record.points:
        return None
    return record.points[-1].metrics.get("eval/knn_error")


def untrained_value(records: Sequence[Record]) -> float | None:
    """What the encoder had before any step."""
    return next((point.value for record in records for point in record.points if point.step == 0), None)


def describe_noise(records: Sequence[Record], best: Record, metric: str) -> str | None:
    """A sentence on how sure it is that the best trial is the best; None where nothing is known of it."""
    error = standard_error(best, metric)
    if error is None or best.value is None:
        return None
    images = best.points[-1].metrics.get("eval/knn_queries", 0.0)
    others = [record for record in records if record.state == "finished" and record is not best]
    near = 0
    for record in others:
        noise = math.hypot(error, standard_error(record, metric) or error)
        near += record.value is not None and best.value - record.value < noise
    measured = f"{images:,.0f} images give a kNN accuracy of ± {error:.1f} points"
    if not others:
        return measured
    if near:
        return (
            f"{measured}: {near} of the {len(others)} other finished trials lie within this noise and may be as good; more "
            "images (--eval.uri, eval.max-queries) or other seeds would tell"
        )
    return (
        f"{measured}: the best of {len(others) + 1} finished trials is better than all others by more than this noise"
    )
