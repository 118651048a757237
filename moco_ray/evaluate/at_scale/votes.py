"""Accuracies of kNN for several numbers of neighbours at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moco_ray.evaluate.knn import votes

_CHUNK_ELEMENTS = 1 << 25
_TOP = 5


def accuracies(
    similarities: Tensor,
    labels: Tensor,
    query_labels: Tensor,
    *,
    num_classes: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, tuple[float, float | None]]:
    """Percent of the queries that a vote of their nearest k names rightly, and has among the first five classes.

    Args:
        similarities: (N, k) of the neighbours, the nearest first, -inf where there are fewer.
        labels: (N, k) their classes; any where there are none.
        query_labels: (N,) classes.
        num_classes: Number of classes.
        ks: Numbers of neighbours, up to k each.
        temperature: Of the weights.

    Returns:
        For each k top-1 and top-5; the latter None where there are no more than five classes.
    """
    rights = {k: [0, 0] for k in ks}
    for rows in torch.arange(len(query_labels)).split(max(1, _CHUNK_ELEMENTS // max(num_classes, labels.shape[1]))):
        for k, right in rights.items():
            counted = votes(similarities[rows, :k], labels[rows, :k], num_classes, temperature)  # (n, classes)
            truth = query_labels[rows]
            is_first = (counted.argmax(dim=1) == truth) & (counted.amax(dim=1) > 0)  # among equals the lowest class
            weights, classes = counted.topk(min(_TOP, num_classes), dim=1)  # (n, 5); among equals any
            is_among = ((classes == truth[:, None]) & (weights > 0)).any(dim=1)
            right[0] += int(is_first.sum())
            right[1] += int((is_first | is_among).sum())
    n = max(1, len(query_labels))
    return {k: (100 * one / n, 100 * five / n if num_classes > _TOP else None) for k, (one, five) in rights.items()}
